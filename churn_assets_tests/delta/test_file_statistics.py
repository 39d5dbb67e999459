"""Readers skip files by the statistics of the log: they are those of the rows, or are left out."""

import json
import math
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.delta.commits import publish
from churn_assets.delta.file_statistics import file_statistics
from churn_assets.delta.reading import read_delta
from churn_assets.delta.tables import open_delta


def committed_statistics(root: Path, rows: DataFrame) -> dict[str, Any]:
    """What the log says of the one file of a new table `root`/things."""
    publish(str(root), {"things": rows}, None, {})
    log = root / "things" / "_delta_log" / f"{0:020}.json"
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    (stats,) = [entry["add"]["stats"] for entry in entries if "add" in entry]
    return dict(json.loads(stats))


ROWS = [
    (1, 2.5, "a", datetime(2025, 1, 1, 12, 30, 15, 123456), date(2025, 1, 1), True),
    (None, -3.0, "x" * 500, datetime(1969, 12, 31, 23, 59, 59, 999999), None, False),
    (-7, None, "é", None, date(1960, 2, 29), None),
]


SCHEMA = "n long, x double, s string, at timestamp, day date, flag boolean"


def test_statistics_equal_the_data(tmp_path: Path, spark: SparkSession) -> None:
    stats = committed_statistics(tmp_path, spark.createDataFrame(ROWS, SCHEMA).coalesce(1))
    assert stats["numRecords"] == 3
    assert stats["nullCount"] == {"n": 1, "x": 1, "s": 0, "at": 1, "day": 1, "flag": 1}
    low, high = stats["minValues"], stats["maxValues"]
    assert (low["n"], high["n"]) == (-7, 1)
    assert (low["x"], high["x"]) == (-3.0, 2.5)
    assert (low["day"], high["day"]) == ("1960-02-29", "2025-01-01")
    assert (low["at"], high["at"]) == ("1969-12-31T23:59:59.999999Z", "2025-01-01T12:30:15.123456Z")
    assert (low["flag"], high["flag"]) == (False, True)


def test_statistics_never_exclude_a_row_that_is_there(tmp_path: Path, spark: SparkSession) -> None:
    rows = [(math.nan, "a"), (1.0, "z" * 5_000), (math.inf, ""), (None, "\U0010ffff" * 100)]
    stats = committed_statistics(tmp_path, spark.createDataFrame(rows, "x double, s string").coalesce(1))
    json.loads(json.dumps(stats, allow_nan=False))
    assert stats["nullCount"] == {"x": 1, "s": 0}
    # A reader that skips files by maxValues would not find NaN (the largest double) or infinity under x = 1.0.
    assert "x" not in stats["maxValues"]
    assert "s" not in stats["maxValues"] or stats["maxValues"]["s"] >= "\U0010ffff" * 100
    assert stats["minValues"].get("s", "") == ""


def test_a_nan_beside_ordinary_numbers_is_found_by_readers_that_skip_files(tmp_path: Path, spark: SparkSession) -> None:
    stats = committed_statistics(tmp_path, spark.createDataFrame([(math.nan,), (1.0,), (2.0,)], "x double").coalesce(1))
    assert stats["maxValues"].get("x", math.inf) > 2.0
    assert read_delta(spark, open_delta(str(tmp_path / "things"), next_step="")).where("x > 2").count() == 1


def test_a_nan_in_one_row_group_is_not_hidden_by_the_bounds_of_the_others(tmp_path: Path, spark: SparkSession) -> None:
    numbered = spark.range(60_000, numPartitions=1)
    value = F.when(F.col("id") == 59_999, math.nan).otherwise(F.col("id").cast("double"))
    spark.conf.set("parquet.block.size", 100_000)
    try:
        stats = committed_statistics(tmp_path, numbered.withColumn("x", value))
    finally:
        spark.conf.unset("parquet.block.size")
    (file,) = tmp_path.rglob("*.parquet")
    assert pq.read_metadata(file).num_row_groups > 1
    assert stats["nullCount"] == {"id": 0, "x": 0}
    assert (stats["minValues"], stats["maxValues"]) == ({"id": 0}, {"id": 59_999})


def test_bounds_of_a_footer_whose_writer_leaves_nan_out_are_no_statistics(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, math.nan, 3.0], "n": [1, 2, 3]}), tmp_path / "one.parquet")
    stats = file_statistics(pq.read_metadata(tmp_path / "one.parquet"))
    assert (stats["minValues"], stats["maxValues"]) == ({"n": 1}, {"n": 3})


def test_columns_without_any_value_have_counts_and_no_bounds(tmp_path: Path, spark: SparkSession) -> None:
    stats = committed_statistics(tmp_path, spark.createDataFrame([(None, 1), (None, 2)], "x double, n int").coalesce(1))
    assert stats == {"numRecords": 2, "nullCount": {"x": 2, "n": 0}, "minValues": {"n": 1}, "maxValues": {"n": 2}}

"""Readers skip files by the statistics of the log: they are those of the rows, or are left out."""

import json
import math
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.delta.commits import publish
from churn_assets.delta.file_statistics import file_statistics
from churn_assets.delta.reading import read_delta
from churn_assets.delta.tables import open_delta


def is_by_spark(root: Path) -> bool:
    return all((pq.read_metadata(file).created_by or "").startswith("parquet-mr") for file in root.rglob("*.parquet"))


def committed_statistics(root: Path, rows: DataFrame) -> dict[str, Any]:
    """What the log says of the one file of a new table `root`/things."""
    (stats,) = statistics_of_files(root, rows)
    return stats


def statistics_of_files(root: Path, rows: DataFrame) -> list[dict[str, Any]]:
    """What the log says of each file of a new table `root`/things."""
    publish(str(root), {"things": rows}, None, {})
    log = root / "things" / "_delta_log" / f"{0:020}.json"
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [json.loads(entry["add"]["stats"]) for entry in entries if "add" in entry]


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
    # Whoever leaves NaN out of the bounds has no bounds of doubles: Sail does, Spark does not.
    assert (low.get("x"), high.get("x")) == ((-3.0, 2.5) if is_by_spark(tmp_path) else (None, None))
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
    rows = read_delta(spark, open_delta(str(tmp_path / "things"), next_step=""))
    assert rows.where("x > 2").count() == 1
    (greatest,) = rows.agg(F.max("x")).collect()
    assert math.isnan(greatest[0])


def test_a_nan_in_one_row_group_is_not_hidden_by_the_bounds_of_the_others(tmp_path: Path, spark: SparkSession) -> None:
    numbered = spark.range(60_000, numPartitions=1)
    value = F.when(F.col("id") == 59_999, math.nan).otherwise(F.col("id").cast("double"))
    spark.conf.set("parquet.block.size", 100_000)
    try:
        files = statistics_of_files(tmp_path, numbered.withColumn("x", value))
    finally:
        spark.conf.unset("parquet.block.size")
    # Sail knows no such property and writes several files instead.
    groups = [pq.read_metadata(file).num_row_groups for file in tmp_path.rglob("*.parquet")]
    assert max(groups) > 1 or len(files) > 1
    assert [stats["nullCount"] for stats in files] == [{"id": 0, "x": 0}] * len(files)
    assert min(stats["minValues"]["id"] for stats in files) == 0
    (last,) = [stats for stats in files if stats["maxValues"]["id"] == 59_999]
    assert "x" not in last["maxValues"]


@dataclass(frozen=True)
class OneColumn:
    """A footer of Spark's own writer with one column `x`: its bounds in each row group."""

    bounds: tuple[tuple[float, float], ...]
    created_by: str = "parquet-mr version 1.17.0"
    num_columns: int = 1
    num_rows: int = 10

    @property
    def num_row_groups(self) -> int:
        return len(self.bounds)

    @property
    def schema(self) -> Any:
        return SimpleNamespace(column=lambda _: SimpleNamespace(path="x"))

    def row_group(self, group: int) -> Any:
        low, high = self.bounds[group]
        found = SimpleNamespace(has_null_count=True, null_count=0, has_min_max=True, num_values=5, min=low, max=high)
        return SimpleNamespace(column=lambda _: SimpleNamespace(statistics=found))


@pytest.mark.parametrize("bounds", [((0.0, 1.0), (2.0, math.nan)), ((math.nan, math.nan), (0.0, 1.0))])
def test_no_row_group_hides_the_nan_of_another(bounds: tuple[tuple[float, float], ...]) -> None:
    assert file_statistics(OneColumn(bounds))["maxValues"] == {}
    assert file_statistics(OneColumn(((0.0, 1.0), (-2.0, 0.5))))["maxValues"] == {"x": 1.0}


def test_bounds_of_a_footer_whose_writer_leaves_nan_out_are_no_statistics(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, math.nan, 3.0], "n": [1, 2, 3]}), tmp_path / "one.parquet")
    stats = file_statistics(pq.read_metadata(tmp_path / "one.parquet"))
    assert (stats["minValues"], stats["maxValues"]) == ({"n": 1}, {"n": 3})


def test_columns_without_any_value_have_counts_and_no_bounds(tmp_path: Path, spark: SparkSession) -> None:
    stats = committed_statistics(tmp_path, spark.createDataFrame([(None, 1), (None, 2)], "x double, n int").coalesce(1))
    assert stats == {"numRecords": 2, "nullCount": {"x": 2, "n": 0}, "minValues": {"n": 1}, "maxValues": {"n": 2}}

"""Readers skip files by the statistics of the log: they are those of the rows, or are left out."""

import json
import math
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
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
    rows = spark.createDataFrame(ROWS, SCHEMA).coalesce(1)
    stats = committed_statistics(tmp_path, rows.drop("x"))
    assert stats["numRecords"] == 3
    assert stats["nullCount"] == {"n": 1, "s": 0, "at": 1, "day": 1, "flag": 1}
    low, high = stats["minValues"], stats["maxValues"]
    assert (low["n"], high["n"]) == (-7, 1)
    assert (low["day"], high["day"]) == ("1960-02-29", "2025-01-01")
    assert (low["at"], high["at"]) == ("1969-12-31T23:59:59.999999Z", "2025-01-01T12:30:15.123456Z")
    assert (low["flag"], high["flag"]) == (False, True)
    assert (low["s"], high["s"]) == ("a", "é")
    # Whoever leaves NaN out of the bounds has none of doubles, and then a file has none at all: Sail, not Spark.
    with_doubles = committed_statistics(tmp_path / "doubles", rows)
    if is_by_spark(tmp_path):
        assert (with_doubles["minValues"]["x"], with_doubles["maxValues"]["x"]) == (-3.0, 2.5)
    else:
        assert with_doubles == {"numRecords": 3, "nullCount": with_doubles["nullCount"]}


def of_file(folder: Path, **columns: pa.Array) -> dict[str, Any]:
    """The statistics of a file with these columns, which Arrow writes."""
    pq.write_table(pa.table(columns), folder / "one.parquet")
    return file_statistics(pq.read_metadata(folder / "one.parquet"))


def decimals(kind: pa.DataType, *values: str) -> pa.Array:
    return pa.array([Decimal(value) for value in values], kind)


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        (decimals(pa.decimal128(10, 2), "1.50", "-3.25"), -3.25, 1.5),
        # Rounded outwards, without an exponent, which deltalake does not read.
        (decimals(pa.decimal128(28, 10), "0.0000000100", "-0.0000000100"), -0.0001, 0.0001),
        (
            decimals(pa.decimal128(28, 10), "12345678901234567.5", "-9000000000000000.1"),
            -9000000000000001,
            12345678901234568,
        ),
        (decimals(pa.decimal128(20, 5), "99999999999.99996"), 99999999999.9999, 100000000000.0),
        (pa.array(["x" * 500, "a"]), "a", "x" * 63 + "y"),
        (pa.array(["\ud7ff" * 65]), "\ud7ff" * 64, "\ud7ff" * 63 + "\ue000"),
        (pa.array(["b" + "\U0010ffff" * 80]), "b" + "\U0010ffff" * 63, "c"),
    ],
)
def test_decimals_and_long_text_have_bounds_that_no_value_passes(
    tmp_path: Path, column: pa.Array, low: Any, high: Any
) -> None:
    stats = of_file(tmp_path, v=column, n=pa.array([1] * len(column)))
    assert stats["minValues"] == {"v": low, "n": 1}
    assert stats["maxValues"] == {"v": high, "n": 1}
    assert "e" not in json.dumps([low, high]) or isinstance(low, str)
    for value in column.to_pylist():
        assert (low <= value <= high) if isinstance(value, str) else Decimal(repr(low)) <= value <= Decimal(repr(high))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([math.inf, 1.0]),
        pa.array([1.0, math.nan]),
        pa.array([1.0, 2.0]),  # Arrow leaves NaN out of the bounds, so that they say nothing
        pa.array(["\U0010ffff" * 65, "a"]),
        decimals(pa.decimal128(5, 5), "0.99999", "0.1"),  # 1.0 is none of its type
    ],
    ids=["inf", "nan", "doubles", "greatest_text", "full_decimal"],
)
def test_a_file_in_which_one_bound_cannot_be_given_has_none(tmp_path: Path, column: pa.Array) -> None:
    assert of_file(tmp_path, v=column, n=pa.array([1, 2])) == {"numRecords": 2, "nullCount": {"v": 0, "n": 0}}


def test_bytes_and_nested_columns_have_no_bounds_and_take_none_away(tmp_path: Path) -> None:
    stats = of_file(tmp_path, raw=pa.array([b"a"]), many=pa.array([[1]]), n=pa.array([1]))
    assert stats == {"numRecords": 1, "nullCount": {"n": 0}, "minValues": {"n": 1}, "maxValues": {"n": 1}}


def test_statistics_never_exclude_a_row_that_is_there(tmp_path: Path, spark: SparkSession) -> None:
    rows = [(math.nan, "a"), (1.0, "z" * 5_000), (math.inf, ""), (None, "\U0010ffff" * 100)]
    stats = committed_statistics(tmp_path, spark.createDataFrame(rows, "x double, s string").coalesce(1))
    json.loads(json.dumps(stats, allow_nan=False))
    # A reader that skips files by maxValues would not find NaN (the largest double) or infinity under x = 1.0.
    assert stats == {"numRecords": 4, "nullCount": {"x": 1, "s": 0}}


def test_a_nan_beside_ordinary_numbers_is_found_by_readers_that_skip_files(tmp_path: Path, spark: SparkSession) -> None:
    stats = committed_statistics(tmp_path, spark.createDataFrame([(math.nan,), (1.0,), (2.0,)], "x double").coalesce(1))
    assert "maxValues" not in stats
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
    assert all(stats.get("maxValues", {}).get("id") != 59_999 for stats in files), "the file with the NaN has no bounds"


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
        return SimpleNamespace(column=lambda _: SimpleNamespace(path="x", name="x", physical_type="DOUBLE"))

    def row_group(self, group: int) -> Any:
        low, high = self.bounds[group]
        found = SimpleNamespace(has_null_count=True, null_count=0, has_min_max=True, num_values=5, min=low, max=high)
        return SimpleNamespace(column=lambda _: SimpleNamespace(statistics=found))


@pytest.mark.parametrize("bounds", [((0.0, 1.0), (2.0, math.nan)), ((math.nan, math.nan), (0.0, 1.0))])
def test_no_row_group_hides_the_nan_of_another(bounds: tuple[tuple[float, float], ...]) -> None:
    assert "maxValues" not in file_statistics(OneColumn(bounds))
    assert file_statistics(OneColumn(((0.0, 1.0), (-2.0, 0.5))))["maxValues"] == {"x": 1.0}


def test_columns_without_any_value_have_counts_and_no_bounds(tmp_path: Path, spark: SparkSession) -> None:
    stats = committed_statistics(tmp_path, spark.createDataFrame([(None, 1), (None, 2)], "x double, n int").coalesce(1))
    assert stats == {"numRecords": 2, "nullCount": {"x": 2, "n": 0}, "minValues": {"n": 1}, "maxValues": {"n": 2}}

"""What others write is read right, with Spark and without."""

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.delta.reading import arrow, bounds, counts, dataset_of, read_delta, united, value_count
from churn_assets.delta.tables import MissingFileError, files_of, open_delta
from churn_assets_tests.processes import PATIENCE_SECONDS


def test_counts_are_those_of_all_files_and_know_nulls(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    deltalake.write_deltalake(path, pa.table({"x": [1.0, 2.0, 1.0], "y": [0, 0, 0]}))
    more = pa.table({"x": pa.array([None, 3.0], pa.float64()), "y": [1, 0]})
    deltalake.write_deltalake(path, more, mode="append")
    now, before = open_delta(path, next_step=""), open_delta(path, 0, next_step="")
    assert counts(now, ["y", "x"]) == {(0, 1.0): 2, (0, 2.0): 1, (1, None): 1, (0, 3.0): 1}
    assert counts(now, ["y"]) == {(0,): 4, (1,): 1}
    assert counts(before, ["x"]) == {(1.0,): 2, (2.0,): 1}
    assert (value_count(now, "x"), value_count(now, "y")) == (4, 5)


PARTITIONED = pa.table(
    {
        "id": pa.array([1, 2, 3, 4], pa.int64()),
        "day": pa.array([date(2025, 1, 1), date(2025, 1, 2), None, None], pa.date32()),
        "city": pa.array(["a b/c", None, "ü=%", "a b/c"], pa.string()),
        "code": pa.array([7, 7, None, -1], pa.int32()),
        "at": pa.array([datetime(2025, 1, 1, 1, 2, 3, 456789, tzinfo=UTC)] * 3 + [None], pa.timestamp("us", "UTC")),
        "flag": pa.array([True, False, None, True], pa.bool_()),
    }
)


@pytest.mark.parametrize("by", [["day"], ["city"], ["code"], ["at"], ["flag"], ["day", "city"]], ids="-".join)
def test_partitions_written_elsewhere_keep_types_and_nulls(tmp_path: Path, by: list[str], spark: SparkSession) -> None:
    path = str(tmp_path / "lake house" / "things")
    deltalake.write_deltalake(path, PARTITIONED, partition_by=by)
    read = read_delta(spark, open_delta(path, next_step=""))
    types = ["bigint", "date", "string", "int", "timestamp", "boolean"]
    assert [field.dataType.simpleString() for field in read.schema] == types
    assert read.columns == PARTITIONED.column_names
    found = {row.id: row for row in read.withColumn("at", F.unix_micros("at")).collect()}
    for row in PARTITIONED.to_pylist():
        micros = None if row["at"] is None else int(row["at"].timestamp()) * 1_000_000 + row["at"].microsecond
        assert found[row["id"]].asDict() == row | {"at": micros}


def test_a_table_of_a_thousand_partitions_is_one_frame(spark: SparkSession) -> None:
    assert united([spark.range(1)] * 1_000).count() == 1_000


def test_a_version_whose_files_are_gone_is_refused_by_name(tmp_path: Path, spark: SparkSession) -> None:
    path = str(tmp_path / "lake house")
    deltalake.write_deltalake(path, PARTITIONED, partition_by=["city"])
    (gone,) = (tmp_path / "lake house").glob("city=*b%2Fc/*.parquet")
    gone.unlink()
    with pytest.raises(MissingFileError, match="1 of 3 files") as refused:
        read_delta(spark, open_delta(path, next_step=""))
    assert gone.name in str(refused.value)


def test_a_process_that_ends_while_files_are_read_ends_well(tmp_path: Path) -> None:
    """Through deltalake's own file system, which is Python, it was aborted or hung each of six times."""
    for _ in range(20):
        deltalake.write_deltalake(tmp_path / "table", pa.table({"text": ["x" * 50] * 20_000}), mode="append")
    script = (
        "import sys; from churn_assets.delta import reading, tables; "
        "batches = reading.dataset_of(tables.open_delta(sys.argv[1], next_step='')).to_batches(); next(iter(batches))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "table")], capture_output=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr.decode()


def test_bounds_are_exact_though_those_of_the_log_are_not(tmp_path: Path) -> None:
    """deltalake cuts times to milliseconds and text to 32 characters."""
    path = str(tmp_path / "things")
    moments = [datetime(2025, 1, day, 23, 59, 59, 999_900, tzinfo=UTC) for day in (1, 2, 3)]
    for moment in moments:
        rows = {"at": pa.array([moment, None], pa.timestamp("us", "UTC")), "name": [f"{moment.day}" * 100, None]}
        deltalake.write_deltalake(path, pa.table(rows | {"none": pa.nulls(2, pa.int64())}), mode="append")
    table = open_delta(path, next_step="")
    assert bounds(table, "at") == (moments[0], moments[-1])
    assert bounds(table, "name") == ("1" * 100, "3" * 100)
    assert bounds(table, "none") == (None, None)


def test_of_files_that_cannot_hold_an_end_none_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "things")
    for number in range(5):
        deltalake.write_deltalake(path, pa.table({"n": [number, 10 + number]}), mode="append")
    table = open_delta(path, next_step="")
    (middle,) = (unread["path"] for unread in files_of(table) if unread["min.n"] == 2)
    (tmp_path / "things" / middle).write_bytes(b"no Parquet")
    assert bounds(table, "n") == (0, 14)


@pytest.mark.parametrize("by", [["day"], ["city"], ["code"], ["at"], ["flag"], ["day", "city"]], ids="-".join)
def test_partitions_are_read_and_filtered_by_arrow_as_by_their_writer(tmp_path: Path, by: list[str]) -> None:
    path = str(tmp_path / "lake house" / "things")
    deltalake.write_deltalake(path, PARTITIONED, partition_by=by)
    table = open_delta(path, next_step="")
    assert dataset_of(table).to_table().sort_by("id").to_pylist() == PARTITIONED.to_pylist()
    assert arrow(table, ["id"], "day", [date(2025, 1, 2)]).to_pylist() == [{"id": 2}]


def test_rows_that_another_writers_bounds_hide_are_found(tmp_path: Path) -> None:
    """deltalake writes no bound of infinity, and takes none for one that no value reaches (1.6.6)."""
    path = str(tmp_path / "things")
    deltalake.write_deltalake(path, pa.table({"x": [-float("inf"), float("inf")], "n": [1, 2]}))
    table = open_delta(path, next_step="")
    assert len(table.to_pyarrow_dataset().to_table(filter=pc.field("x") >= 1)) == 0, "mended: drop our own dataset"
    assert len(dataset_of(table).to_table(filter=pc.field("x") >= 1)) == 1

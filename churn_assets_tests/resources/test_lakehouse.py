"""Tables are real Delta tables with a true log: what others write is read right, or refused by name."""

import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Timer
from typing import Any, NoReturn, Self, cast

import dagster as dg
import deltalake
import psutil
import pyarrow as pa
import pytest
from dagster_pyspark import LazyPySparkResource
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.defs.failures import failure_in_words
from churn_assets.delta.commits import OvertakenError, UndatedRowsError
from churn_assets.delta.storage import HELD_FOLDER
from churn_assets.delta.tables import OF_DATE, MissingFileError, MissingTableError, UnsupportedTableError
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.conftest import ENGINE

TABLE = "food_delivery/things"


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> LakehouseResource:
    settings = settings_from_env(ENGINE)
    return LakehouseResource(root=str(tmp_path / "lake house"), pyspark=spark_resource(settings))


def values(rows: DataFrame, column: str = "id") -> list[Any]:
    return sorted(row[column] for row in rows.collect())


def numbers(spark: SparkSession, *ids: int) -> DataFrame:
    return spark.createDataFrame([(number,) for number in ids], "id long")


def table_files(lakehouse: LakehouseResource) -> set[Path]:
    return {path for path in Path(lakehouse.path(TABLE)).rglob("*") if not path.name.startswith("_delta")}


def table_files_named(lakehouse: LakehouseResource, pattern: str) -> list[Path]:
    return list(Path(lakehouse.path(TABLE)).rglob(pattern))


def log_entries(lakehouse: LakehouseResource, kind: str, version: int = 0) -> list[dict[str, Any]]:
    log = Path(lakehouse.path(TABLE)) / "_delta_log" / f"{version:020}.json"
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [entry[kind] for entry in entries if kind in entry]


# --- writing and reading versions ---


def test_each_write_is_a_version_that_can_be_read_again(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    assert lakehouse.version(TABLE) is None
    assert not lakehouse.has(TABLE)
    first = lakehouse.write(TABLE, numbers(spark, 1, 2))
    second = lakehouse.write(TABLE, numbers(spark, 3))
    third = lakehouse.write(TABLE, numbers(spark, 4, 5), mode="append")
    assert [(commit.version, commit.rows) for commit in (first, second, third)] == [(0, 2), (1, 1), (2, 3)]
    assert lakehouse.version(TABLE) == 2
    assert values(lakehouse.read(TABLE)) == [3, 4, 5]
    assert values(lakehouse.read(TABLE, 0)) == [1, 2]
    assert values(lakehouse.read(TABLE, 1)) == [3]
    assert [lakehouse.row_count(TABLE, version) for version in (0, 1, 2, None)] == [2, 1, 3, 3]
    assert lakehouse.pin(TABLE) == {TABLE: 2}


def test_an_append_with_further_columns_widens_the_table_and_keeps_its_rows(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    wider = spark.createDataFrame([(2, "two", ["a"])], "id long, name string, reasons array<string>")
    commit = lakehouse.write(TABLE, wider, mode="append")
    rows = [tuple(row) for row in lakehouse.read(TABLE).orderBy("id").collect()]
    assert rows == [(1, None, None), (2, "two", ["a"])]
    assert lakehouse.version(TABLE) == commit.version
    assert lakehouse.read(TABLE, 0).columns == ["id"]
    # A narrower append needs no change: what it lacks is null.
    lakehouse.write(TABLE, numbers(spark, 3), mode="append")
    (added,) = lakehouse.read(TABLE).where("id = 3").collect()
    assert added.name is None


def test_a_frame_read_before_a_commit_keeps_its_rows(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2))
    frame = lakehouse.read(TABLE)
    lakehouse.write(TABLE, numbers(spark, 9))
    assert values(frame) == [1, 2]


def test_a_table_can_be_overwritten_by_rows_computed_from_itself(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2))
    lakehouse.write(TABLE, lakehouse.read(TABLE).unionByName(numbers(spark, 3)))
    assert values(lakehouse.read(TABLE)) == [1, 2, 3]


def test_overwriting_may_add_a_column_and_old_versions_keep_their_schema(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2))
    commit = lakehouse.write(TABLE, numbers(spark, 3).withColumn("name", F.lit("three")))
    assert commit.schema.fieldNames() == ["id", "name"]
    assert lakehouse.table_schema(TABLE).fieldNames() == ["id", "name"]
    assert lakehouse.table_schema(TABLE, 0).fieldNames() == ["id"]
    assert [row.asDict() for row in lakehouse.read(TABLE).collect()] == [{"id": 3, "name": "three"}]
    assert [row.asDict() for row in lakehouse.read(TABLE, 0).orderBy("id").collect()] == [{"id": 1}, {"id": 2}]


def test_whether_spark_can_prove_a_column_non_null_changes_no_schema(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, spark.range(2))
    before = lakehouse.table_schema(TABLE)
    lakehouse.write(TABLE, numbers(spark, 3), mode="append")
    assert lakehouse.table_schema(TABLE) == before
    assert values(lakehouse.read(TABLE)) == [0, 1, 3]


def test_an_empty_table_has_its_schema_and_no_rows(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    seen: list[Any] = []
    empty = spark.createDataFrame([], "id long, at timestamp")
    commit = lakehouse.write(TABLE, empty, audit=lambda staged: seen.extend([staged.columns, staged.count()]))
    assert seen == [["id", "at"], 0]
    assert (commit.version, commit.rows, lakehouse.row_count(TABLE)) == (0, 0, 0)
    read = lakehouse.read(TABLE)
    assert read.collect() == []
    assert [field.dataType.simpleString() for field in read.schema] == ["bigint", "timestamp"]
    lakehouse.write(TABLE, read.unionByName(spark.createDataFrame([(1, None)], "id long, at timestamp")))
    assert lakehouse.row_count(TABLE) == 1


def test_nested_and_exact_types_survive(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    schema = "scores array<double>, versions map<string,long>, spend decimal(28,10), day date, whole struct<a:int>"
    row = ([1.5, 2.0], {"a": 3}, Decimal("1234567890123456.0123456789"), date(2025, 2, 3), (7,))
    lakehouse.write(TABLE, spark.createDataFrame([row], schema))
    read = lakehouse.read(TABLE)
    (found,) = read.collect()
    assert tuple(found[:4]) == row[:4]
    assert found.whole.a == 7
    assert read.schema == lakehouse.table_schema(TABLE)


def test_a_missing_table_or_version_is_refused_with_the_next_step(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    for ask in (lakehouse.read, lakehouse.pin, lakehouse.row_count, lakehouse.inputs, lakehouse.table_schema):
        with pytest.raises(MissingTableError, match=f"There is no Delta table at .*{TABLE}(.|\n)*Next step: .*{TABLE}"):
            ask(TABLE)
    lakehouse.write(TABLE, numbers(spark, 1))
    with pytest.raises(MissingTableError, match="has no version 7"):
        lakehouse.read(TABLE, 7)


# --- a write that does not succeed leaves nothing ---


def refuse(_: DataFrame) -> None:
    raise ValueError("the audit says no")


def test_the_audit_sees_the_written_rows_and_can_stop_the_commit(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    seen: list[Any] = []
    lakehouse.write(TABLE, numbers(spark, 1, 2), audit=lambda staged: seen.extend(values(staged)))
    assert seen == [1, 2]
    before = table_files(lakehouse)
    with pytest.raises(ValueError, match="the audit says no"):
        lakehouse.write(TABLE, numbers(spark, 3), audit=refuse)
    assert lakehouse.version(TABLE) == 0
    assert values(lakehouse.read(TABLE)) == [1, 2]
    assert table_files(lakehouse) == before


def test_a_refused_first_write_leaves_no_table(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    with pytest.raises(ValueError, match="the audit says no"):
        lakehouse.write(TABLE, numbers(spark, 3), audit=refuse)
    assert not lakehouse.has(TABLE)
    assert not any(path.is_file() for path in Path(lakehouse.path(TABLE)).rglob("*"))


def test_a_commit_that_fails_changes_no_version_and_the_next_write_succeeds(
    lakehouse: LakehouseResource, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2))

    def disk_full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as injected:
        injected.setattr(deltalake.DeltaTable, "create_write_transaction", disk_full)
        with pytest.raises(OSError, match="disk full"):
            lakehouse.write(TABLE, numbers(spark, 3))
    assert (lakehouse.version(TABLE), lakehouse.row_count(TABLE)) == (0, 2)
    assert values(lakehouse.read(TABLE)) == [1, 2]
    assert lakehouse.write(TABLE, numbers(spark, 4), mode="append").version == 1
    assert values(lakehouse.read(TABLE)) == [1, 2, 4]


def test_the_version_reported_is_that_of_the_write_though_others_committed_before_and_after(
    lakehouse: LakehouseResource, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    commit = deltalake.DeltaTable.create_write_transaction

    def commit_between_others(*arguments: Any, **named: Any) -> None:
        deltalake.write_deltalake(lakehouse.path(TABLE), pa.table({"id": [7]}), mode="append")
        commit(*arguments, **named)
        deltalake.write_deltalake(lakehouse.path(TABLE), pa.table({"id": [9]}), mode="append")

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", commit_between_others)
    written = lakehouse.write(TABLE, numbers(spark, 2), mode="append")
    assert lakehouse.version(TABLE) == 3
    assert written.version == 2
    assert values(lakehouse.read(TABLE, written.version)) == [1, 2, 7]


def test_of_two_runs_that_write_a_table_at_once_the_second_is_overtaken_by_name_and_leaves_no_files(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    for version in range(2):  # as the first version, and later
        with pytest.raises(OvertakenError, match=r"by another process .*\nNext step: let one run at a time"):
            lakehouse.write(
                TABLE,
                numbers(spark, 3),
                audit=lambda _: lakehouse.overwrite(TABLE, pa.table({"id": [7, 8]}), since=lakehouse.version(TABLE)),
            )
        assert (lakehouse.version(TABLE), values(lakehouse.read(TABLE))) == (version, [7, 8])
        assert len(table_files_named(lakehouse, "*.parquet")) == version + 1, "one of each write that was committed"
    # Rows that are only arranged in other files are those of before.
    written = lakehouse.write(
        TABLE, numbers(spark, 4), audit=lambda _: deltalake.DeltaTable(lakehouse.path(TABLE)).optimize.compact()
    )
    assert values(lakehouse.read(TABLE, written.version)) == [4]


def test_of_two_runs_at_once_over_other_weeks_both_commit_and_over_the_same_week_one_does(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, third = WEEKS

    def replace(number: int, week: date, meanwhile: Any = accept) -> None:
        lakehouse.replace_dates({TABLE: dated(spark, (number, week))}, "as_of", [week], audit=meanwhile)

    replace(1, first)
    replace(2, second, lambda _: replace(3, third))
    with pytest.raises(OvertakenError):
        replace(4, second, lambda _: replace(5, second))
    rows = {row.id: row.as_of for row in lakehouse.read(TABLE).collect()}
    assert rows == {1: first, 3: third, 5: second}
    assert len(table_files_named(lakehouse, "*.parquet")) == 4, "those of rows 1, 2, 3 and 5"


def test_a_small_table_is_overwritten_whole_without_a_session(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2))
    rows = pa.table({"id": pa.array([3, 4, 4], pa.int64()), "why": ["x", None, "y"]})
    without = LakehouseResource(root=lakehouse.root, pyspark=LazyPySparkResource(spark_config={}))
    commit = without.overwrite(TABLE, rows, since=0, metadata={"inputs": {"orders": 5}})
    assert (commit.table, commit.version, commit.rows) == (TABLE, 1, 3)
    assert commit.schema.simpleString() == "struct<id:bigint,why:string>"
    assert lakehouse.inputs(TABLE, 1) == {"orders": 5}
    assert sorted(map(repr, lakehouse.records(TABLE, 1))) == sorted(map(repr, rows.to_pylist()))
    assert values(lakehouse.read(TABLE, 0)) == [1, 2]
    # As the first version, and of no rows.
    empty = without.overwrite("food_delivery/others", rows.slice(0, 0), since=None)
    assert (empty.version, empty.rows, empty.schema) == (0, 0, commit.schema)
    assert values(lakehouse.read("food_delivery/others")) == []


def test_of_two_runs_that_overwrite_a_small_table_at_once_the_second_is_overtaken_and_leaves_no_files(
    lakehouse: LakehouseResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pa.table({"id": [1]}), pa.table({"id": [2]})

    def at_last(owner: Any, name: str) -> None:
        """Lets the other run commit in the moment before this one does."""
        honest = getattr(owner, name)

        def overtaken(*arguments: Any, **named: Any) -> Any:
            monkeypatch.setattr(owner, name, honest)
            lakehouse.overwrite(TABLE, other, since=lakehouse.version(TABLE))
            return honest(*arguments, **named)

        monkeypatch.setattr(owner, name, overtaken)

    refused = r"by another process .*\nNext step: let one run at a time"
    at_last(deltalake.transaction, "create_table_with_add_actions")
    with pytest.raises(OvertakenError, match=refused):
        lakehouse.overwrite(TABLE, one, since=None)
    # Since version 0 the other has written version 1, long before and just before.
    lakehouse.overwrite(TABLE, other, since=0)
    with pytest.raises(OvertakenError, match=refused):
        lakehouse.overwrite(TABLE, one, since=0)
    at_last(deltalake.DeltaTable, "create_write_transaction")
    with pytest.raises(OvertakenError, match=refused):
        lakehouse.overwrite(TABLE, one, since=1)
    assert (lakehouse.version(TABLE), lakehouse.records(TABLE)) == (2, [{"id": 2}])
    assert len(table_files_named(lakehouse, "*.parquet")) == 3, "one of each write that was committed"
    assert len(list(Path(lakehouse.path(TABLE)).iterdir())) == 4, "no folder either, but those and the log"


def test_a_frame_of_no_rows_keeps_its_columns(lakehouse: LakehouseResource) -> None:
    rows = pa.table({"id": pa.array([1], pa.int64()), "day": pa.array([date(2025, 1, 6)]), "share": [0.5]})
    assert [tuple(row) for row in lakehouse.frame(rows).collect()] == [(1, date(2025, 1, 6), 0.5)]
    nobody = lakehouse.frame(rows.slice(0, 0))
    assert (nobody.collect(), nobody.schema.simpleString()) == ([], "struct<id:bigint,day:date,share:double>")


def test_columns_of_some_dates_are_read_by_arrow_in_the_order_of_the_log(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    days = [date(2025, 1, 6), date(2025, 1, 13), date(2025, 1, 20)]
    schema = "id long, day date, share double"
    # Bounds of some columns alone, as of doubles an engine need not write any.
    dated = [(number, days[number % 3], number / 7) for number in range(9)]
    lakehouse.write(TABLE, spark.createDataFrame(dated, schema).coalesce(1))
    lakehouse.write(TABLE, spark.createDataFrame([(9, days[0], None)], schema).coalesce(1), mode="append")
    rows = lakehouse.arrow(TABLE, ["share", "id"], dates=("day", days[:2]))
    assert rows.column_names == ["share", "id"]
    assert sorted(rows.column("id").to_pylist()) == [0, 1, 3, 4, 6, 7, 9]
    assert all(row["share"] in (None, row["id"] / 7) for row in rows.to_pylist())
    assert len(lakehouse.arrow(TABLE, ["id"], 0, dates=("day", [days[0], date(2000, 1, 1)]))) == 3
    assert len(lakehouse.arrow(TABLE, ["id"], dates=("day", []))) == 0
    column = lakehouse.columns(TABLE, 1)
    whole = [column(name).to_pylist() for name in ("id", "share")]
    assert list(zip(*whole, strict=True)) == [(row["id"], row["share"]) for row in lakehouse.records(TABLE)]


def test_a_commit_that_succeeds_but_reports_an_error_keeps_its_files(
    lakehouse: LakehouseResource, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2))
    commit = deltalake.DeltaTable.create_write_transaction

    def commit_and_lose_the_answer(*arguments: Any, **named: Any) -> None:
        commit(*arguments, **named)
        raise OSError("connection lost")

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", commit_and_lose_the_answer)
    with pytest.raises(OSError, match="connection lost"):
        lakehouse.write(TABLE, numbers(spark, 3))
    assert lakehouse.version(TABLE) == 1
    assert values(lakehouse.read(TABLE)) == [3]


def test_rows_that_cannot_be_computed_leave_no_stray_files(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    before = table_files(lakehouse)
    broken = numbers(spark, 1, 2).select(F.when(F.col("id") == 2, F.raise_error(F.lit("broken"))).alias("id"))
    with pytest.raises(PySparkException, match="broken"):
        lakehouse.write(TABLE, broken.withColumn("id", F.col("id").cast("long")))
    assert lakehouse.version(TABLE) == 0
    assert table_files(lakehouse) == before


def test_a_disk_that_takes_no_more_of_an_engines_rows_leaves_the_table_as_it_was_and_no_files(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    before = table_files(lakehouse)
    large = spark.range(100_000).select(F.xxhash64("id").alias("id"))
    # Sail writes in this process, local Spark in a JVM below it.
    writers = [psutil.Process(), *psutil.Process().children(recursive=True)]
    limits = {writer.pid: resource.prlimit(writer.pid, resource.RLIMIT_FSIZE) for writer in writers}
    for pid, (_, most) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, most))
    told = []
    try:
        for attempt in (lambda: lakehouse.write(TABLE, large), lambda: lakehouse.write(TABLE, large, mode="append")):
            try:
                attempt()
            except Exception:  # noqa: BLE001 - each engine has its own
                told.append(failure_in_words())
        with pytest.raises(Exception, match="File too large"), lakehouse.held(large):
            pass
    finally:
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    assert [line for words in told for line in words.splitlines() if line.startswith("Next step")] == [
        "Next step: free space on that disk, then the same again; nothing unfinished was kept"
    ] * 2
    assert lakehouse.version(TABLE) == 0
    assert table_files(lakehouse) == before
    assert not list(Path(lakehouse.root, HELD_FOLDER).iterdir())
    assert lakehouse.write(TABLE, large).rows == 100_000, "once there is room"


class _RowsOfALateTask:
    """Rows whose write fails while another of its tasks is still to make its folder, and its file."""

    def __init__(self, rows: DataFrame) -> None:
        self.rows, self.schema, self.write = rows, rows.schema, self
        self.late: list[Timer] = []

    def option(self, *_: str) -> Self:
        return self

    def parquet(self, folder: str) -> NoReturn:
        self.late.append(Timer(0.3, lambda: self.rows.write.parquet(folder)))
        self.late[-1].start()
        raise OSError("File too large")


def test_files_that_a_failed_write_makes_after_it_has_failed_are_gone_as_well(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    before = table_files(lakehouse)
    rows = _RowsOfALateTask(numbers(spark, 2))
    with pytest.raises(OSError, match="too large"):
        lakehouse.write(TABLE, cast("DataFrame", rows))
    with pytest.raises(OSError, match="too large"), lakehouse.held(cast("DataFrame", rows)):
        pass
    for task in rows.late:
        task.join()
    assert table_files(lakehouse) == before
    assert not list(Path(lakehouse.root, HELD_FOLDER).iterdir())


# --- the log tells the truth ---

ROWS = [
    (1, 2.5, "a", datetime(2025, 1, 1, 12, 30, 15, 123456), date(2025, 1, 1), True),
    (None, -3.0, "x" * 500, datetime(1969, 12, 31, 23, 59, 59, 999999), None, False),
    (-7, None, "é", None, date(1960, 2, 29), None),
]
SCHEMA = "n long, x double, s string, at timestamp, day date, flag boolean"


def test_the_commit_names_the_dagster_run_and_the_inputs(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    inputs = {"food_delivery/orders": 3}
    ids = []

    @dg.asset
    def things(lake: LakehouseResource) -> None:
        lake.write(TABLE, numbers(spark, 1), metadata={"inputs": inputs})

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([things], resources={"lake": lakehouse}, instance=instance)
        ids.append(result.run_id)
    (commit,) = log_entries(lakehouse, "commitInfo")
    assert commit["dagster_run_id"] == ids[0]
    assert lakehouse.inputs(TABLE) == inputs
    lakehouse.write(TABLE, numbers(spark, 2))
    assert lakehouse.inputs(TABLE) == {}
    assert lakehouse.inputs(TABLE, 0) == inputs


# --- others read ours, and we read others' ---


def test_deltalakes_own_reader_sees_the_same_rows(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, spark.createDataFrame(ROWS, SCHEMA))
    lakehouse.write(TABLE, spark.createDataFrame(ROWS[:1], SCHEMA), mode="append")
    table = deltalake.DeltaTable(lakehouse.path(TABLE)).to_pyarrow_table()
    assert table.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert table.num_rows == 4
    found = [row for row in table.to_pylist() if row["n"] == -7]
    assert found == [{"n": -7, "x": None, "s": "é", "at": None, "day": date(1960, 2, 29), "flag": None}]
    assert table.column("at").to_pylist().count(datetime(2025, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)) == 2
    assert deltalake.DeltaTable(lakehouse.path(TABLE), version=0).to_pyarrow_table().num_rows == 3


WEEKS = [date(2025, 9, 1), date(2025, 9, 8), date(2025, 9, 15)]


def dated(spark: SparkSession, *found: tuple[int, date]) -> DataFrame:
    return spark.createDataFrame(list(found), "id long, as_of date")


def accept(_: Any) -> None:
    """An audit that has nothing against the rows."""


def files_by_week(lakehouse: LakehouseResource) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for uri in deltalake.DeltaTable(lakehouse.path(TABLE)).file_uris():
        found.setdefault(uri.split("of_date=")[1].split("/")[0], []).append(uri)
    return found


def test_dates_are_replaced_in_one_commit_and_the_files_of_others_stay(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, third = WEEKS
    lakehouse.replace_dates({TABLE: dated(spark, (1, first), (2, second))}, "as_of", [first, second], audit=accept)
    before = files_by_week(lakehouse)
    (commit,) = lakehouse.replace_dates(
        {TABLE: dated(spark, (3, second), (4, third))}, "as_of", [second, third], audit=accept, metadata={"inputs": {}}
    )
    assert (commit.version, commit.rows, lakehouse.inputs(TABLE)) == (1, 3, {})
    assert {row.id: row.as_of for row in lakehouse.read(TABLE).collect()} == {1: first, 3: second, 4: third}
    assert lakehouse.read(TABLE).columns == ["id", "as_of"]
    assert files_by_week(lakehouse)[str(first)] == before[str(first)]
    assert lakehouse.dates(TABLE, "as_of") == WEEKS
    assert lakehouse.dates(TABLE, "as_of", 0) == [first, second]


def test_a_date_replaced_by_no_rows_is_empty(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    first, second, _ = WEEKS
    nothing = dated(spark, (0, first)).where("false")
    seen: list[Any] = []
    lakehouse.replace_dates(
        {TABLE: nothing}, "as_of", [first], audit=lambda staged: seen.extend(staged[TABLE].collect())
    )
    assert seen == []
    assert (lakehouse.version(TABLE), lakehouse.read(TABLE).collect(), lakehouse.dates(TABLE, "as_of")) == (0, [], [])
    lakehouse.replace_dates({TABLE: dated(spark, (1, first), (2, second))}, "as_of", [first, second], audit=accept)
    lakehouse.replace_dates({TABLE: nothing}, "as_of", [first], audit=accept)
    assert values(lakehouse.read(TABLE)) == [2]


def test_rows_of_other_dates_and_rows_the_audit_refuses_change_no_table(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, _ = WEEKS
    lakehouse.replace_dates({TABLE: dated(spark, (1, first))}, "as_of", [first], audit=accept)
    before = table_files(lakehouse)

    def refuse(staged: Any) -> None:
        assert values(staged[TABLE]) == [2]
        raise RuntimeError("not these")

    other = f"{TABLE}_too"
    with pytest.raises(ValueError, match="as_of=2025-09-08"):
        lakehouse.replace_dates({TABLE: dated(spark, (1, first), (2, second))}, "as_of", [first], audit=accept)
    with pytest.raises(RuntimeError, match="not these"):
        lakehouse.replace_dates(
            {other: dated(spark, (9, first)), TABLE: dated(spark, (2, first))}, "as_of", [first], audit=refuse
        )
    assert (lakehouse.version(TABLE), lakehouse.version(other)) == (0, None)
    assert table_files(lakehouse) == before


def test_a_table_written_by_its_dates_is_laid_out_anew_in_one_commit(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, third = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first), (2, second)), metadata={"inputs": {}})
    assert not lakehouse.is_laid_out_by(TABLE, "as_of")
    commit = lakehouse.write(TABLE, dated(spark, (3, second), (4, third)), by="as_of", audit=lambda _: "seen")
    assert (commit.version, lakehouse.is_laid_out_by(TABLE, "as_of")) == (1, True)
    assert {row.id: row.as_of for row in lakehouse.read(TABLE).collect()} == {3: second, 4: third}
    assert {row.id: row.as_of for row in lakehouse.read(TABLE, 0).collect()} == {1: first, 2: second}
    assert lakehouse.audit({TABLE: 1}) == "seen"
    assert [row.id for row in lakehouse.read(TABLE, dates=("as_of", [third])).collect()] == [4]
    lakehouse.write(TABLE, dated(spark, (5, first)), by="as_of")
    assert values(lakehouse.read(TABLE)) == [5]


def test_where_no_date_is_replaced_no_row_goes(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    first, *_ = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first)), by="as_of")
    nothing = lakehouse.read(TABLE).where("false")
    (commit,) = lakehouse.replace_dates({TABLE: nothing}, "as_of", [], audit=accept, metadata={"inputs": {}}, upon=0)
    assert (commit.version, commit.rows, values(lakehouse.read(TABLE))) == (1, 1, [1])
    assert lakehouse.commit_metadata(TABLE)["dates"] == []


def test_dates_that_rest_on_a_version_are_not_replaced_after_another_commit(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, _ = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first)), by="as_of")
    lakehouse.replace_dates({TABLE: dated(spark, (2, second))}, "as_of", [second], audit=accept)
    before = table_files(lakehouse)
    with pytest.raises(OvertakenError):
        lakehouse.replace_dates({TABLE: dated(spark, (3, first))}, "as_of", [first], audit=accept, upon=0)
    assert table_files(lakehouse) == before


def test_two_versions_are_read_apart_without_what_both_have(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    first, second, _ = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first), (2, second)), by="as_of")
    lakehouse.replace_dates({TABLE: dated(spark, (3, second))}, "as_of", [second], audit=accept)
    assert [values(rows) for rows in lakehouse.read_apart(TABLE, 0, 1)] == [[2], [3]]
    assert [values(rows) for rows in lakehouse.read_apart(TABLE, 1, 1)] == [[], []]


def test_rows_without_a_date_are_refused_by_name_and_never_get_one(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first = date(1970, 1, 1)
    rows = spark.createDataFrame([(1, first), (2, None), (3, None)], "id long, as_of date")
    with pytest.raises(UndatedRowsError, match=f"2 rows of .*{TABLE} have no date in as_of"):
        lakehouse.replace_dates({TABLE: rows}, "as_of", [first], audit=accept)
    assert not lakehouse.has(TABLE)
    assert not any(path.is_file() for path in table_files(lakehouse))


def test_rows_that_stay_by_their_dates_get_none_beside_them_that_lie_without(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first = date(2025, 1, 6)
    lakehouse.replace_dates({TABLE: dated(spark, (1, first))}, "as_of", [first], audit=accept)
    with pytest.raises(UnsupportedTableError, match="is partitioned by"):
        lakehouse.write(TABLE, dated(spark, (2, first)), mode="append")
    assert lakehouse.version(TABLE) == 0
    assert [row.as_of for row in lakehouse.read(TABLE).collect()] == [first]


def test_all_rows_written_without_dates_take_the_place_of_dated_ones(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, _ = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first)), by="as_of")
    lakehouse.write(TABLE, dated(spark, (2, second)))
    assert not lakehouse.is_laid_out_by(TABLE, "as_of")
    for version, row in ((0, (1, first)), (1, (2, second))):
        assert [(each.id, each.as_of) for each in lakehouse.read(TABLE, version).collect()] == [row]


def write_meanwhile(lakehouse: LakehouseResource, rows: DataFrame, days: list[date], other: DataFrame) -> None:
    """Replaces `days` by `rows`; while these are audited, another process replaces the dates of `other`."""

    def another_writes(_: Any) -> None:
        of_other = sorted({row.as_of for row in other.collect()})
        lakehouse.replace_dates({TABLE: other}, "as_of", of_other, audit=accept)

    lakehouse.replace_dates({TABLE: rows}, "as_of", days, audit=another_writes)


@pytest.mark.parametrize("is_new", [True, False], ids=["new_table", "known_table"])
def test_of_two_backfills_at_once_both_commit_unless_a_date_is_the_same(
    lakehouse: LakehouseResource, spark: SparkSession, is_new: bool
) -> None:
    first, second, third = WEEKS
    before = [] if is_new else [0]
    if not is_new:
        lakehouse.replace_dates({TABLE: dated(spark, (0, third))}, "as_of", [third], audit=accept)
    write_meanwhile(lakehouse, dated(spark, (1, first)), [first], dated(spark, (2, second)))
    assert values(lakehouse.read(TABLE)) == [*before, 1, 2]
    version, files = lakehouse.version(TABLE), table_files(lakehouse)
    both = dated(spark, (3, first), (4, second))
    with pytest.raises(OvertakenError, match="by another process"):
        write_meanwhile(lakehouse, both, [first, second], dated(spark, (5, second)))
    # The one that was first has its date, and the loser leaves no file.
    assert lakehouse.version(TABLE) == (version or 0) + 1
    assert values(lakehouse.read(TABLE)) == [*before, 1, 5]
    assert not any(f"{OF_DATE}={first}" in str(path) for path in table_files(lakehouse) - files)


def test_of_two_backfills_that_find_nothing_one_loses_too(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    first, _, _ = WEEKS
    nothing = dated(spark, (1, first)).where("id = 0")

    def another_writes(_: Any) -> None:
        lakehouse.replace_dates({TABLE: nothing}, "as_of", [first], audit=accept)

    with pytest.raises(OvertakenError, match="by another process"):
        lakehouse.replace_dates({TABLE: dated(spark, (1, first))}, "as_of", [first], audit=another_writes)
    assert values(lakehouse.read(TABLE)) == []


def test_dates_of_a_column_that_holds_none_are_refused(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    for column in ("id", "as_of"):
        with pytest.raises(UnsupportedTableError, match=f"no column {column} of type date"):
            lakehouse.dates(TABLE, column)


def test_rows_deleted_elsewhere_are_gone_here_too(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2, 3))
    deltalake.DeltaTable(lakehouse.path(TABLE)).delete("id = 2")
    assert values(lakehouse.read(TABLE)) == [1, 3]
    assert lakehouse.row_count(TABLE) == 2
    deltalake.DeltaTable(lakehouse.path(TABLE)).delete()
    assert lakehouse.read(TABLE).collect() == []
    assert lakehouse.row_count(TABLE) == 0


# --- a refresh takes the room of what it brings ---


@pytest.mark.parametrize("more", [(), (4,), (3, 4)], ids=["nothing", "one", "a_double"])
def test_rows_that_are_there_are_not_written_again(
    lakehouse: LakehouseResource, spark: SparkSession, more: tuple[int, ...]
) -> None:
    found = {"found": "well"}
    lakehouse.write(TABLE, numbers(spark, 1, 2, 3), audit=lambda _: {"found": "before"})
    before = set(deltalake.DeltaTable(lakehouse.path(TABLE)).file_uris())
    commit = lakehouse.write(
        TABLE, numbers(spark, 3, *more, 1, 2), audit=lambda _: found, metadata={"inputs": {"a": 1}}
    )
    after = set(deltalake.DeltaTable(lakehouse.path(TABLE)).file_uris())
    assert (commit.version, commit.rows, lakehouse.inputs(TABLE)) == (1, 3 + len(more), {"a": 1})
    assert before <= after
    assert len(after - before) == bool(more)
    assert values(lakehouse.read(TABLE)) == sorted([1, 2, 3, *more])
    assert values(lakehouse.read(TABLE, 0)) == [1, 2, 3]
    assert lakehouse.audit({TABLE: 1}) == found
    on_disk = {path for path in table_files(lakehouse) if path.suffix == ".parquet"}
    assert len(on_disk) == len(after), "what was written and is there already is gone"


def test_of_equal_rows_each_is_there_for_itself(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 1, 2))
    lakehouse.write(TABLE, numbers(spark, 1, 2, 1, 1))
    assert values(lakehouse.read(TABLE)) == [1, 1, 1, 2]


@pytest.mark.parametrize("rows", [(1, 2), (1, 2, 4), (1, 2, 2), (1, 1, 2, 4)])
def test_where_a_row_is_gone_all_are_written(
    lakehouse: LakehouseResource, spark: SparkSession, rows: tuple[int, ...]
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2, 3))
    before = set(deltalake.DeltaTable(lakehouse.path(TABLE)).file_uris())
    lakehouse.write(TABLE, numbers(spark, *rows))
    assert not before & set(deltalake.DeltaTable(lakehouse.path(TABLE)).file_uris())
    assert values(lakehouse.read(TABLE)) == sorted(rows)


@pytest.mark.parametrize("whole", [False, True], ids=["of_some_dates", "of_all"])
def test_a_date_that_comes_out_as_before_keeps_its_file(
    lakehouse: LakehouseResource, spark: SparkSession, whole: bool
) -> None:
    first, second, third = WEEKS
    found = {"found": "well"}
    rows = [(1, first), (2, first), (3, second), (4, third)]
    lakehouse.write(TABLE, dated(spark, *rows), by="as_of", audit=lambda _: {"found": "before"})
    before = files_by_week(lakehouse)
    of_first, of_second = [(2, first), (1, first)], [(5, second)]
    if whole:
        again = dated(spark, *of_first, *of_second, (4, third))
        lakehouse.write(TABLE, again, by="as_of", audit=lambda _: found)
    else:
        again = dated(spark, *of_first, *of_second)
        lakehouse.replace_dates({TABLE: again}, "as_of", [first, second], audit=lambda _: found)
        assert lakehouse.commit_metadata(TABLE)["dates"] == [str(first), str(second)]
    after = files_by_week(lakehouse)
    assert [after[str(day)] == before[str(day)] for day in WEEKS] == [True, False, True]
    assert values(lakehouse.read(TABLE)) == [1, 2, 4, 5]
    assert values(lakehouse.read(TABLE, 0)) == [1, 2, 3, 4]
    assert lakehouse.audit({TABLE: 1}) == found
    on_disk = {path for path in table_files(lakehouse) if path.suffix == ".parquet"}
    assert len(on_disk) == 4, "what was written and is there already is gone"


@pytest.mark.parametrize("kind", ["double", "float"])
@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [
        ([0.5, math.nan, None], [None, math.nan, 0.5], True),
        ([0.0, 1.0, 2.0], [-0.0, 1.0, 2.0], False),
        ([0.0, 1.0, 2.0], [None, 1.0, 2.0], False),
        ([1.0, 1.0, 2.0], [1.0, 2.0, 2.0], False),
    ],
    ids=["same", "another_zero", "null", "other_multiples"],
)
def test_of_a_date_every_bit_must_come_out_as_before(
    lakehouse: LakehouseResource,
    spark: SparkSession,
    before: list[float | None],
    after: list[float | None],
    is_kept: bool,
    kind: str,
) -> None:
    def write(numbers: list[float | None]) -> dict[str, list[str]]:
        found = [(number, WEEKS[0], [number]) for number in numbers]
        rows = spark.createDataFrame(found, f"number {kind}, as_of date, numbers array<{kind}>")
        lakehouse.write(TABLE, rows, by="as_of")
        return files_by_week(lakehouse)

    assert (write(before) == write(after)) is is_kept


def test_where_all_dates_come_out_as_before_no_row_is_written_and_gone_ones_go(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, third = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first), (2, second)), by="as_of")
    before = files_by_week(lakehouse)
    lakehouse.write(TABLE, dated(spark, (1, first), (2, second)), by="as_of")
    assert files_by_week(lakehouse) == before
    lakehouse.write(TABLE, dated(spark, (1, first), (3, third)), by="as_of")
    assert files_by_week(lakehouse)[str(first)] == before[str(first)]
    assert {row.id: row.as_of for row in lakehouse.read(TABLE).collect()} == {1: first, 3: third}


def test_all_rows_written_anew_take_the_place_of_one_without_a_date(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, _ = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first), (2, second)), by="as_of")
    stranger = pa.table({"id": pa.array([9], pa.int64()), "as_of": pa.array([None], pa.date32())})
    deltalake.write_deltalake(lakehouse.path(TABLE), stranger, mode="append")
    lakehouse.write(TABLE, dated(spark, (1, first), (3, second)), by="as_of")
    assert values(lakehouse.read(TABLE)) == [1, 3]


def test_a_date_that_another_wrote_alike_meanwhile_is_overtaken_all_the_same(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    first, second, _ = WEEKS
    lakehouse.write(TABLE, dated(spark, (1, first), (2, second)), by="as_of")

    def another_writes(_: Any) -> None:
        lakehouse.replace_dates({TABLE: dated(spark, (3, first))}, "as_of", [first], audit=accept)

    with pytest.raises(OvertakenError):
        lakehouse.replace_dates({TABLE: dated(spark, (3, first))}, "as_of", [first], audit=another_writes)
    assert values(lakehouse.read(TABLE)) == [2, 3]


def test_an_audit_of_what_is_new_and_what_was_rearranged_is_of_all_rows(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, in_files(spark, 1, 2, 3), audit=lambda _: "before")
    optimize(lakehouse.path(TABLE))
    lakehouse.write(TABLE, numbers(spark, 1, 2, 3, 4), audit=lambda _: "all")
    assert lakehouse.audit({TABLE: 2}) == "all"
    assert len(lakehouse.commit_metadata(TABLE)["rows_of"]) == 2


# --- tables outlive their keepers ---


def optimize(path: str) -> None:
    deltalake.DeltaTable(path).optimize.compact()


def order_by_id(path: str) -> None:
    deltalake.DeltaTable(path).optimize.z_order(["id"])


def vacuum(path: str) -> None:
    deltalake.DeltaTable(path).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


def set_property(path: str) -> None:
    deltalake.DeltaTable(path).alter.set_table_properties({"delta.checkpointInterval": "50"})


KEEPERS = [optimize, order_by_id, vacuum, set_property]
NOTED = {"inputs": {"food_delivery/orders": 3}, "panel_digest": "abc"}


def in_files(spark: SparkSession, *ids: int) -> DataFrame:
    """`ids` in as many files."""
    return numbers(spark, *ids).repartition(len(ids), "id")


@pytest.mark.parametrize("keep", KEEPERS)
def test_a_commit_that_only_rearranges_rows_has_the_record_of_the_version_before(
    lakehouse: LakehouseResource, spark: SparkSession, keep: Callable[[str], None]
) -> None:
    for ids in ((9,), (1, 2, 3)):
        lakehouse.write(TABLE, in_files(spark, *ids), audit=lambda _: {"found": "well"}, metadata=NOTED)
    written = lakehouse.committed_at(TABLE, 1)
    keep(lakehouse.path(TABLE))
    keep(lakehouse.path(TABLE))
    version = lakehouse.version(TABLE)
    assert version is not None
    assert version > 1
    assert lakehouse.inputs(TABLE) == NOTED["inputs"]
    assert lakehouse.commit_metadata(TABLE)["panel_digest"] == "abc"
    assert lakehouse.audit({TABLE: version}) == {"found": "well"}
    assert lakehouse.committed_at(TABLE, version) == written
    assert lakehouse.holds_same_rows(TABLE, 1, version)
    assert values(lakehouse.read(TABLE)) == [1, 2, 3]
    # The next commit of rows has its own record again.
    lakehouse.write(TABLE, numbers(spark, 4))
    assert lakehouse.inputs(TABLE) == {}


def append_a_row(path: str) -> None:
    deltalake.write_deltalake(path, pa.table({"id": [7]}), mode="append")


def delete_a_row(path: str) -> None:
    deltalake.DeltaTable(path).delete("id = 2")


def add_a_column(path: str) -> None:
    deltalake.DeltaTable(path).alter.add_columns(deltalake.Field("more", deltalake.schema.PrimitiveType("long")))


@pytest.mark.parametrize("change", [append_a_row, delete_a_row, add_a_column])
def test_a_commit_that_changes_rows_or_columns_has_no_record_though_it_is_optimized(
    lakehouse: LakehouseResource, spark: SparkSession, change: Callable[[str], None]
) -> None:
    lakehouse.write(TABLE, in_files(spark, 1, 2, 3), audit=lambda _: {"found": "well"}, metadata=NOTED)
    change(lakehouse.path(TABLE))
    optimize(lakehouse.path(TABLE))
    version = lakehouse.version(TABLE)
    assert version is not None
    assert (lakehouse.inputs(TABLE), lakehouse.audit({TABLE: version})) == ({}, None)


def test_an_empty_write_has_a_record_of_its_own(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    nothing = numbers(spark, 1).where("id = 0")
    for number in (1, 2):
        lakehouse.write(TABLE, nothing, metadata={"inputs": {"food_delivery/orders": number}})
    assert lakehouse.inputs(TABLE) == {"food_delivery/orders": 2}


def test_a_table_keeps_its_log_and_its_files_as_long(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, numbers(spark, 1))
    lakehouse.append_after("food_delivery/ledger", None, pa.table({"id": [1]}))
    lakehouse.overwrite("food_delivery/small", pa.table({"id": [1]}), since=None)
    for table in (TABLE, "food_delivery/ledger", "food_delivery/small"):
        kept = deltalake.DeltaTable(lakehouse.path(table)).metadata().configuration
        assert kept["delta.deletedFileRetentionDuration"] == kept["delta.logRetentionDuration"]
    lakehouse.write(TABLE, numbers(spark, 2))
    deltalake.DeltaTable(lakehouse.path(TABLE)).vacuum(dry_run=False)
    assert values(lakehouse.read(TABLE, 0)) == [1]


def test_a_version_whose_files_are_gone_is_refused_by_name_however_it_is_read(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    days = [date(2025, 1, 6)]
    for number in (1, 2):
        lakehouse.write(TABLE, dated(spark, (number, days[0])))
    vacuum(lakehouse.path(TABLE))
    readers: dict[str, Callable[[], Any]] = {
        "read": lambda: lakehouse.read(TABLE, 0),
        "records": lambda: lakehouse.records(TABLE, 0),
        "arrow": lambda: lakehouse.arrow(TABLE, ["id"], 0),
        "columns": lambda: lakehouse.columns(TABLE, 0),
        "counts": lambda: lakehouse.counts(TABLE, ["id"], 0),
        "dates": lambda: lakehouse.dates(TABLE, "as_of", 0),
        "bounds": lambda: lakehouse.bounds(TABLE, "as_of", 0),
        "value_count": lambda: lakehouse.value_count(TABLE, "id", 0),
        "holds_same_rows": lambda: lakehouse.holds_same_rows(TABLE, 0, 1),
    }
    for name, reader in readers.items():
        with pytest.raises(MissingFileError, match="Version 0 of ") as refused:
            reader()
        assert "gone" in str(refused.value), name
    assert values(lakehouse.read(TABLE)) == [2]


# --- no JVM where none is needed ---

ASK_WITHOUT_JVM = """
import sys
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
lakehouse = LakehouseResource(root=sys.argv[1], pyspark=spark_resource(settings_from_env({})))
table = "food_delivery/things"
print(lakehouse.version(table), lakehouse.row_count(table), lakehouse.has(table), lakehouse.has("no/such"))
print(lakehouse.table_schema(table).simpleString(), lakehouse.pin(table), lakehouse.inputs(table))
from pyspark import SparkContext
assert SparkContext._gateway is None
"""


def test_versions_counts_and_schemas_are_answered_without_a_jvm(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, numbers(spark, 1, 2, 3), metadata={"inputs": {"a": 4}})
    # A PATH without java and no JAVA_HOME: whoever starts a JVM fails.
    answered = subprocess.run(
        [sys.executable, "-c", ASK_WITHOUT_JVM, lakehouse.root],
        env={"PATH": "/nonexistent"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.returncode == 0, answered.stderr
    lines = answered.stdout.splitlines()
    assert lines[-2:] == ["0 3 True False", f"struct<id:bigint> {{'{TABLE}': 0}} {{'a': 4}}"]


def test_small_questions_are_answered_by_the_name_of_a_table(tmp_path: Path) -> None:
    lakehouse = LakehouseResource(root=f"{tmp_path}/", pyspark=LazyPySparkResource(spark_config={}))
    before = datetime.now(UTC) - timedelta(seconds=1)
    for version in (None, 0):
        lakehouse.append_after(TABLE, version, pa.table({"name": ["a", None], "n": [1, 1]}))
    assert lakehouse.records(TABLE, 0) == [{"name": "a", "n": 1}, {"name": None, "n": 1}]
    assert (lakehouse.value_count(TABLE, "name"), lakehouse.value_count(TABLE, "name", 0)) == (2, 1)
    assert lakehouse.counts(TABLE, ["n"]) == {(1,): 4}
    assert lakehouse.committed_at(TABLE, 0) >= before
    assert lakehouse.holds_same_rows(TABLE, 0, 0)
    assert not lakehouse.holds_same_rows(TABLE, 0, 1)
    assert lakehouse.path(TABLE) == f"{tmp_path}/{TABLE}"


def test_the_bounds_of_a_column_are_known_with_and_without_statistics(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    rows = spark.createDataFrame([(1, 2.5, None), (3, None, None), (2, -1.0, None)], "n int, x double, none int")
    lakehouse.write("shop/numbers", rows)
    assert lakehouse.bounds("shop/numbers", "n") == (1, 3)
    # Of doubles not every engine writes bounds, and a column of nulls has none.
    assert lakehouse.bounds("shop/numbers", "x") == (-1.0, 2.5)
    assert lakehouse.bounds("shop/numbers", "none") == (None, None)
    lakehouse.write("shop/numbers", rows.where("n > 9"))
    assert lakehouse.bounds("shop/numbers", "n") == (None, None)


def test_a_table_that_must_have_rows_is_not_written_without(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    rows = spark.createDataFrame([(1,)], "n int")
    assert lakehouse.write("shop/numbers", rows, if_empty=ValueError("no rows")).rows == 1
    with pytest.raises(ValueError, match="no rows"):
        lakehouse.write("shop/numbers", rows.where("n > 9"), if_empty=ValueError("no rows"))
    assert lakehouse.version("shop/numbers") == 0


def test_held_rows_are_computed_once_and_gone_after_the_block(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    with lakehouse.held(spark.range(3).select("id", F.rand().alias("name"))) as rows:
        once, again = (sorted(row["name"] for row in rows.collect()) for _ in range(2))
    assert len(once) == 3
    assert once == again
    assert not list(Path(lakehouse.path("held")).glob("*"))

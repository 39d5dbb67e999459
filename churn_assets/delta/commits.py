"""Committing what Spark wrote as Parquet, and small tables without Spark. Reading back belongs to `reading`."""

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from churn_assets.churn.errors import ChurnError
from churn_assets.delta.comparing import held_days, rows_beyond
from churn_assets.delta.file_statistics import file_statistics
from churn_assets.delta.storage import (
    HELD_FOLDER,
    delete_folder,
    filesystem_of,
    is_object_store,
    keeps_first_write,
    make_folder,
    place_of,
    python_uri,
    spark_uri,
)
from churn_assets.delta.tables import (
    OF_DATE,
    MissingFileError,
    UnsupportedTableError,
    commit_info,
    files_of,
    is_rearranged,
    latest_version,
    open_delta,
    row_count,
    written_as,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable, Schema
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

# The folder of rows without a date: no date of any table, and no engine's way of naming a null (Spark has its own, Sail
# names 1970-01-01).
UNDATED = date(1, 1, 1)
# How long the other tasks of a query may take to end after one has failed.
TASKS_END_SECONDS = 1.0

# Versions are kept for years, so that a model can be traced to its inputs and trained again: their log, and their files
# from whoever calls VACUUM.
TABLE_PROPERTIES = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}

# Of more rows it is not asked whether the table holds them already: to read them would take long.
COMPARED_ROWS = 5_000_000


class OvertakenError(ChurnError):
    """Another process committed to the table first."""


class UnsafeStoreError(ChurnError):
    """An object store would let two writers commit the same version, and keep the second's."""


class UndatedRowsError(ChurnError):
    """Rows of a table that is written by its dates have none."""


@dataclass(frozen=True)
class Replaced:
    """What an overwrite of a table that is laid out by the dates in its column `by` removes: the rows of `dates`.

    dates: None for all. upon: the version whose rows of the other dates the write rests on; by itself none: others may
    write other dates meanwhile. kept: days of them whose rows are there already, in files that stay.
    """

    by: str
    dates: Sequence[date] | None = None
    upon: int | None = None
    kept: frozenset[str] = frozenset()

    @property
    def days(self) -> list[str] | None:
        return None if self.dates is None else [day.isoformat() for day in self.dates]

    def require(self, name: str, undated: int, days: Collection[str]) -> None:
        """Raises UndatedRowsError for rows of `name` without a date, ValueError for days that are not replaced."""
        if undated:
            raise UndatedRowsError(
                f"{undated} rows of {name} have no date in {self.by}, by which the table is written.",
                next_step=f"find out where {self.by} is null, and set those rows aside before the table is written",
            )
        if self.days is not None and (foreign := sorted({*days} - {*self.days})):
            named = ", ".join(f"{self.by}={day}" for day in foreign)
            raise ValueError(f"rows of other dates than those to replace: {named}")

    def removed(self, table: "DeltaTable", actions: Sequence[Any]) -> list[str] | None:
        """The days whose files a commit of `actions` removes from the opened table; None for all there are."""
        if not self.kept:
            return self.days
        there = {str(file[f"partition.{self.by}"]) for file in files_of(table)}
        days = there | {action.partition_values[self.by] for action in actions} if self.days is None else {*self.days}
        return sorted(days - self.kept)


@dataclass(frozen=True)
class TableCommit:
    """One committed version of a table, and the rows the table has in it."""

    table: str
    version: int
    rows: int
    schema: "StructType"


def publish(
    root: str,
    tables: Mapping[str, "DataFrame"],
    audit: Callable[[Mapping[str, "DataFrame"]], Any] | None,
    metadata: Mapping[str, Any],
    *,
    mode: Literal["overwrite", "append"] = "overwrite",
    replaced: Replaced | None = None,
    if_empty: Exception | None = None,
) -> list[TableCommit]:
    """One commit a table, in the order of `tables`. A failure before the first leaves every table as it was.

    tables: rows by the name of their table under `root`. audit: called with the written rows, by the same names, before
    any is published; what it raises stops the commits, what it returns is kept in them. metadata: kept in the commits.
    replaced: the partition column and the dates whose rows alone an overwrite removes; the commits keep these `dates`.
    if_empty: raised if a table would have no row. Raises UndatedRowsError for rows without a date, ValueError for rows
    of other dates, OvertakenError if another run wrote a table, or the same dates of it, since this one began to.
    """
    from deltalake import Schema

    noted = {**metadata, "write_id": uuid.uuid4().hex}
    if replaced is not None and replaced.days is not None:
        noted["dates"] = replaced.days
    paths = {table: f"{root}/{table}" for table in tables}
    begun = {table: latest_version(path) for table, path in paths.items()}
    if replaced is not None and replaced.upon is not None:
        begun = dict.fromkeys(tables, replaced.upon)
    staged = {table: f"{path}/{noted['write_id']}" for table, path in paths.items()}
    try:
        for table, rows in tables.items():
            stage(rows, staged[table], None if replaced is None else replaced.by)
        actions = {
            table: _dated_actions(folder, replaced) if replaced else _add_actions(folder, noted["write_id"])
            for table, folder in staged.items()
        }
        if if_empty is not None and not all(map(_rows_of, actions.values())):
            raise if_empty
        if audit is not None:
            audited = audit({table: _written(rows, paths[table], actions[table]) for table, rows in tables.items()})
            # What was found of the rows appended says nothing of the table.
            noted |= {} if audited is None or mode == "append" else {"audit": audited}
    except BaseException:
        # Not a handler: whatever stopped the write goes on; only the files nobody will ever read are removed.
        for folder in staged.values():
            delete_folder(folder)
        raise
    # From here on the files stay: an error after the commit must not take them from a table that has them, and
    # those of a failed commit are no version of any table.
    commits: list[TableCommit] = []
    for table, rows in tables.items():
        schema, path = _nullable(rows.schema), paths[table]
        delta_schema = Schema.from_json(schema.json())
        try:
            version = None
            if mode == "overwrite" and replaced is None:
                version = _commit_what_is_new(path, staged[table], actions[table], delta_schema, noted, begun[table])
            if version is None:
                version = _commit_what_differs(
                    path, staged[table], actions[table], delta_schema, noted, replaced, mode=mode, begun=begun[table]
                )
        except OvertakenError:
            # It is known that no version has these files, nor those of the tables behind.
            for waiting in list(tables)[len(commits) :]:
                delete_folder(staged[waiting])
            raise
        committed = open_delta(path, version, next_step=f"write {table} again")
        commits.append(TableCommit(table, version, row_count(committed), schema))
    return commits


def _commit_what_is_new(
    path: str, staged: str, actions: list[Any], schema: "Schema", metadata: Mapping[str, Any], begun: int | None
) -> int | None:
    """A version with the files of the one before and those rows of folder `staged` alone that this lacks.

    So a refresh takes the room of what it brings. None where a row is gone or changed, or there are too many to read.
    """
    import pyarrow.parquet as pq
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import DeltaError

    if begun is None:
        return None
    delta, rows = DeltaTable(python_uri(path)), _rows_of(actions)
    is_like = delta.schema() == schema and not delta.metadata().partition_columns
    if not is_like or not 0 < row_count(delta) <= rows <= COMPARED_ROWS:
        return None
    _require_unwritten(path, begun, delta.version(), None)
    try:
        new = rows_beyond(delta, staged)
    except MissingFileError:
        return None
    if new is None:
        return None
    write_id, place = metadata["write_id"], f"{staged}/new"
    filesystem, folder = filesystem_of(place)
    make_folder(place)
    if len(new):
        pq.write_table(new, f"{folder}/rows.parquet", filesystem=filesystem, compression="zstd")
    noted = {**metadata, "rows_of": _places(files_of(delta), write_id)}
    opened_at = delta.version()
    try:
        delta.create_write_transaction(
            _add_actions(place, f"{write_id}/new"),
            "append",
            schema,
            commit_properties=CommitProperties(custom_metadata=noted, max_commit_retries=0),
        )
    except DeltaError:
        if latest_version(path) == opened_at:
            raise
        # Another was first; what it wrote is replaced, as ever.
        delete_folder(place)
        return None
    for action in actions:
        filesystem.delete_file(f"{folder.rsplit('/', 1)[0]}/{unquote(action.path).split('/')[-1]}")
    return _version_of(path, write_id, opened_at)


def _commit_what_differs(
    path: str,
    staged: str,
    actions: list[Any],
    schema: "Schema",
    metadata: Mapping[str, Any],
    replaced: Replaced | None,
    *,
    mode: Literal["overwrite", "append"],
    begun: int | None,
) -> int:
    """As `commit_files`, but for days in folder `staged` whose rows the table holds already.

    Where a date was computed again and came out as before, its files stay, and each version that is kept shares them.
    """
    held = {} if replaced is None else _held_days(path, staged, actions, schema, replaced)
    if replaced is not None and held:
        for day in held:
            delete_folder(f"{staged}/{OF_DATE}={day}")
        actions = [action for action in actions if action.partition_values[replaced.by] not in held]
        files = [file for of_day in held.values() for file in of_day]
        metadata = {**metadata, "rows_of": _places(files, metadata["write_id"])}
        replaced = replace(replaced, kept=frozenset(held))
    return commit_files(path, actions, schema, mode=mode, metadata=metadata, replaced=replaced, begun=begun)


def _held_days(
    path: str, staged: str, actions: list[Any], schema: "Schema", replaced: Replaced
) -> dict[str, list[dict[str, Any]]]:
    """As `held_days`; none where the table is laid out otherwise, or where there are too many rows to compare."""
    from deltalake import DeltaTable

    uri = python_uri(path)
    if not DeltaTable.is_deltatable(uri) or _rows_of(actions) > COMPARED_ROWS:
        return {}
    delta, by = DeltaTable(uri), replaced.by
    if delta.schema() != schema or delta.metadata().partition_columns != [by]:
        return {}
    if replaced.dates is None and any(file[f"partition.{by}"] is None for file in files_of(delta)):
        # A row of another writer without a date: no condition on dates would remove it.
        return {}
    rows: Counter[str] = Counter()
    for action in actions:
        rows[action.partition_values[by]] += _rows_of([action])
    try:
        return held_days(delta, staged, rows)
    except MissingFileError:
        return {}


def _places(files: Sequence[Mapping[str, Any]], write_id: str) -> list[str]:
    """Where files of a table lie in its folder, by the writes that made them, and where those of this write do."""
    return sorted({file["path"].split("/")[0] for file in files} | {write_id})


def commit_files(
    path: str,
    actions: list[Any],
    schema: "Schema",
    *,
    mode: str,
    metadata: Mapping[str, Any],
    replaced: Replaced | None = None,
    begun: int | None = None,
) -> int:
    """Adds the files of `actions`, which lie in the table's folder, to the table at `path`; the version that has them.

    metadata: with a `write_id` of this write alone. replaced: the partition column and the dates whose files alone an
    overwrite removes. begun: the version that was the latest when the rows began to be computed, None for no table.
    An overwrite of all rows lays the table out as these are. Raises UnsupportedTableError for a table partitioned
    otherwise of which rows stay, and OvertakenError, with nothing committed, if what an overwrite removes has been
    written by another since.
    """
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    uri = python_uri(path)
    partition_by = None if replaced is None else [replaced.by]
    days = None if replaced is None else replaced.days
    # Others may write other dates meanwhile, unless what these are rests on them.
    own_days = None if replaced is None or replaced.upon is not None else days

    def create(mode: Literal["error", "overwrite"]) -> None:
        try:
            create_table_with_add_actions(
                uri,
                schema,
                actions,
                mode=mode,
                partition_by=partition_by,
                configuration=TABLE_PROPERTIES,
                commit_properties=CommitProperties(custom_metadata=dict(metadata), max_commit_retries=0),
            )
        except DeltaError as failed:
            raise _overtaken(path, begun, metadata["write_id"], failed) from failed

    if not DeltaTable.is_deltatable(uri):
        create("error")
        return 0
    delta = DeltaTable(uri)
    opened_at = delta.version()
    is_partitioned_so = delta.metadata().partition_columns == (partition_by or [])
    if not is_partitioned_so and mode == "overwrite" and days is None:
        _require_unwritten(path, begun, opened_at, None)
        create("overwrite")
        return _version_of(path, metadata["write_id"], opened_at)
    if not is_partitioned_so:
        # The partition values of the rows that stay would be lost, and with them their dates.
        raise UnsupportedTableError(
            f"{path} is partitioned by {delta.metadata().partition_columns or 'nothing'}, "
            f"and the rows are written by {partition_by or 'nothing'}.",
            next_step="write dated tables by their dates, and others whole",
        )
    if mode == "append":
        _add_missing_columns(delta, schema)
    if mode == "overwrite":
        _require_unwritten(path, begun, opened_at, own_days)
    # What is removed is what this opened version holds: the very next version is taken, or none.
    retries = 0 if mode == "overwrite" else None
    properties = CommitProperties(custom_metadata=dict(metadata), max_commit_retries=retries)
    removed = None if replaced is None else replaced.removed(delta, actions)
    filters = None if replaced is None or removed is None else [(replaced.by, "in", removed)]
    try:
        if removed == []:
            # With no date to name, all would be removed.
            delta.create_write_transaction(actions, "append", schema, partition_by, commit_properties=properties)
        else:
            delta.create_write_transaction(actions, mode, schema, partition_by, filters, commit_properties=properties)
    except DeltaError:
        if latest_version(path) == opened_at or _is_committed(path, metadata["write_id"], opened_at):
            raise
        # Raises, unless the other wrote other dates; then the next version is free.
        return commit_files(path, actions, schema, mode=mode, metadata=metadata, replaced=replaced, begun=begun)
    return _version_of(path, metadata["write_id"], opened_at)


def _require_unwritten(path: str, begun: int | None, latest: int, days: Sequence[str] | None) -> None:
    """Raises OvertakenError if a commit after version `begun` wrote the table, or any of these days of it."""
    for version in range(0 if begun is None else begun + 1, latest + 1):
        commit = commit_info(path, version)
        if not is_of_others(commit, days) and not is_rearranged(path, version):
            raise overtaken_by(path, begun, commit.get("dagster_run_id"))


def _overtaken(path: str, begun: int | None, write_id: str, failed: Exception) -> Exception:
    """What a commit that failed comes to: OvertakenError if another was first, else the failure itself."""
    latest, since = latest_version(path), -1 if begun is None else begun
    is_other = latest is not None and latest != begun and not _is_committed(path, write_id, since)
    return overtaken_by(path, begun, None) if is_other else failed


def is_of_others(noted: Mapping[str, Any], days: Sequence[str] | None) -> bool:
    """Whether what a commit noted says that it wrote none of these days; days: None for all rows."""
    return days is not None and "dates" in noted and set(days).isdisjoint(noted["dates"])


def overtaken_by(path: str, begun: int | None, run_id: str | None) -> OvertakenError:
    """That another wrote the table, of that path or name, after version `begun`; run_id: its Dagster run, if known."""
    who = f"Dagster run {run_id}" if run_id else "another process"
    return OvertakenError(
        f"{path} was written by {who} after version {begun}, while this run was computing it; that one's rows stay.",
        next_step="let one run at a time write a table; launch this job again if its result is still wanted",
    )


def _is_committed(path: str, write_id: str, since: int) -> bool:
    versions = range(latest_version(path) or 0, since, -1)
    return any(commit_info(path, version).get("write_id") == write_id for version in versions)


def append_after(path: str, version: int | None, rows: "pa.Table", metadata: Mapping[str, Any]) -> int:
    """Appends `rows` as version `version` + 1 (None: as the first rows of a new table), or not at all.

    Needs no JVM. Raises OvertakenError if the table has moved on since `version`.
    """
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    noted = {**metadata, "write_id": uuid.uuid4().hex}
    properties = CommitProperties(custom_metadata=noted, max_commit_retries=0)
    uri, staged, schema = python_uri(path), f"{path}/{noted['write_id']}", Schema.from_arrow(rows.schema)
    actions = _staged_actions(rows, staged)
    try:
        if version is None:
            create_table_with_add_actions(
                uri, schema, actions, mode="error", configuration=TABLE_PROPERTIES, commit_properties=properties
            )
        else:
            # At an opened version a commit takes the next number or fails; by path it would take any number.
            opened = DeltaTable(uri, version=version)
            opened.create_write_transaction(actions, "append", schema, commit_properties=properties)
    except DeltaError as failed:
        overtaken = _overtaken(path, version, noted["write_id"], failed)
        if isinstance(overtaken, OvertakenError):
            delete_folder(staged)
        raise overtaken from failed
    return 0 if version is None else version + 1


def require_one_winner(root: str) -> None:
    """Tries under `root` whether an object store keeps the first of two writes that both ask to be the first.

    deltalake commits by such writes, and a store that does not know them replaces one commit by another in silence.
    Of a folder nothing is asked. Raises UnsafeStoreError.
    """
    if not is_object_store(root):
        return
    # Among what upkeep removes, where this is killed.
    held = f"{root.rstrip('/')}/{HELD_FOLDER}/{uuid.uuid4().hex}"
    try:
        is_kept = keeps_first_write(held)
    except ImportError as missing:
        raise UnsafeStoreError(
            f"Whether the store of {root} is safe for two writers cannot be asked without boto3.",
            next_step="pip install 'churn_assets[s3]'",
        ) from missing
    if not is_kept:
        raise UnsafeStoreError(
            f"The store of {root} lets a second writer replace what the first one committed.",
            next_step="use a store with conditional writes (PUT with If-None-Match), as S3 is since 2024",
        )


def overwrite(path: str, rows: "pa.Table", metadata: Mapping[str, Any], *, since: int | None) -> int:
    """Makes `rows`, a small table, all the rows of the table at `path`; the version that has them. Needs no JVM.

    since: the version that was the latest when the rows began to be computed, None for no table. Raises OvertakenError,
    with nothing left behind, if another wrote the table after it.
    """
    from deltalake import Schema

    noted = {**metadata, "write_id": uuid.uuid4().hex}
    staged, schema = f"{path}/{noted['write_id']}", Schema.from_arrow(rows.schema)
    actions = _staged_actions(rows, staged)
    try:
        return commit_files(path, actions, schema, mode="overwrite", metadata=noted, begun=since)
    except OvertakenError:
        delete_folder(staged)
        raise


def _staged_actions(rows: "pa.Table", staged: str) -> list[Any]:
    """The actions of `rows` in one file of folder `staged`, of none for no rows. A failure leaves no folder."""
    import pyarrow.parquet as pq

    if not len(rows):
        return []
    filesystem, folder = filesystem_of(staged)
    try:
        make_folder(staged)
        pq.write_table(rows, f"{folder}/rows.parquet", filesystem=filesystem, compression="zstd")
        return _add_actions(staged, staged.rsplit("/", 1)[1])
    except BaseException:
        # Not a handler: whatever stopped the write goes on.
        delete_folder(staged)
        raise


def _version_of(path: str, write_id: str, since: int) -> int:
    """Others may have committed before or after; the version that lineage names is the one with this write's id."""
    versions = range(latest_version(path) or 0, since, -1)
    return next(version for version in versions if commit_info(path, version).get("write_id") == write_id)


def audit_of(tables: Sequence["DeltaTable"]) -> Any:
    """What the audit returned that let the rows of these opened versions through, one of them all; None if none did.

    What is committed later, by whomever, is a version that this audit did not see, unless it only rearranges the rows;
    nor did it see what another writer committed at the same time, whose files then lie beside its own. Needs no JVM.
    """
    from deltalake import DeltaTable

    paths = [place_of(table.table_uri) for table in tables]
    written = [written_as(path, table.version()) for path, table in zip(paths, tables, strict=True)]
    commits = [commit_info(path, version) for path, version in zip(paths, written, strict=True)]
    as_written = [DeltaTable(python_uri(path), version=version) for path, version in zip(paths, written, strict=True)]
    is_one_write = len({commit.get("write_id") for commit in commits}) == 1
    return commits[0].get("audit") if is_one_write and all(map(_is_all_of_its_write, as_written, commits)) else None


def _is_all_of_its_write(table: "DeltaTable", commit: Mapping[str, Any]) -> bool:
    """Whether what the commit of this version replaced, all or some dates, lies in its write's own files alone."""
    replaced = files_of(table)
    if "dates" in commit:
        (by,) = table.metadata().partition_columns
        replaced = [file for file in replaced if str(file[f"partition.{by}"]) in commit["dates"]]
    writes = commit.get("rows_of", [commit.get("write_id")])
    return all(file["path"].split("/")[0] in writes for file in replaced)


def _add_missing_columns(table: "DeltaTable", schema: "Schema") -> None:
    """Gives the table the columns of `schema` it lacks, null in its old rows: an append alone would hide them."""
    known = {field.name for field in table.schema().fields}
    missing = [field for field in schema.fields if field.name not in known]
    if missing:
        table.alter.add_columns(missing)
        table.update_incremental()


def _rows_of(actions: list[Any]) -> int:
    return sum(json.loads(action.stats)["numRecords"] for action in actions)


def _nullable(schema: "StructType") -> "StructType":
    """Whether Spark can prove a column non-null changes with the query; that must not change the table's schema."""
    from pyspark.sql.types import StructField, StructType

    return StructType([StructField(field.name, field.dataType, True, field.metadata) for field in schema])


def stage(rows: "DataFrame", folder: str, by: str | None = None) -> None:
    """Writes `rows` as Parquet files to `folder`. by: a column of dates, for a folder of each.

    After a failure nothing is written there any more: whoever called can remove the folder.
    """
    from pyspark.sql import functions as F

    dated = rows if by is None else rows.withColumn(OF_DATE, F.coalesce(by, F.lit(UNDATED.isoformat()).cast("date")))
    try:
        writer = dated.write.option("compression", "zstd")
        (writer if by is None else writer.partitionBy(OF_DATE)).parquet(spark_uri(folder))
    except BaseException:
        # Not a handler: whatever stopped the write goes on. One task has failed; another may still be ending, and
        # makes the folder again where it is gone (Sail). Nobody tells when it has ended.
        time.sleep(TASKS_END_SECONDS)
        raise


def _written(rows: "DataFrame", path: str, actions: list[Any]) -> "DataFrame":
    """What was written of `rows` to the table at `path`."""
    spark = rows.sparkSession
    files = [f"{spark_uri(path)}/{action.path}" for action in actions]
    # Of no rows some engines leave no file.
    return spark.read.schema(rows.schema).parquet(*files) if files else spark.createDataFrame([], rows.schema)


def _add_actions(staged: str, name: str, partition: Mapping[str, str | None] | None = None) -> list[Any]:
    """The Parquet files Spark wrote to folder `staged`, as actions with file statistics from their footers.

    name: of the folder, seen from the table's.
    """
    import pyarrow.parquet as pq
    from deltalake.transaction import AddAction
    from pyarrow.fs import FileSelector

    filesystem, folder = filesystem_of(staged)
    actions = []
    files = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    for file in sorted(files, key=lambda info: info.base_name):
        if not file.base_name.endswith(".parquet"):
            continue
        footer = pq.read_metadata(file.path, filesystem=filesystem)
        values = dict(partition or {})
        stats = file_statistics(footer, without=values)
        modified = int(file.mtime.timestamp() * 1000) if file.mtime else 0
        actions.append(AddAction(f"{name}/{file.base_name}", file.size, values, modified, True, json.dumps(stats)))
    return actions


def _dated_actions(staged: str, replaced: Replaced) -> list[Any]:
    """The files in the folders of the dates of folder `staged`.

    Raises UndatedRowsError for rows without a date, ValueError for a folder of another date than those to replace.
    """
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(staged)
    entries = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    # A worker that was cut off may go on writing to Spark's folder of what is not finished, when all others are done.
    folders = (info.base_name for info in entries if info.type == FileType.Directory)
    names = sorted(name for name in folders if not name.startswith("_"))
    days = {name: name.removeprefix(f"{OF_DATE}=") for name in names}
    undated = f"{OF_DATE}={UNDATED.isoformat()}"
    name, parent = staged.rsplit("/", 1)
    replaced.require(
        name, _rows_of(_add_actions(f"{staged}/{undated}", undated)) if undated in names else 0, days.values()
    )
    return [
        action
        for name, day in days.items()
        for action in _add_actions(f"{staged}/{name}", f"{parent}/{name}", {replaced.by: day})
    ]

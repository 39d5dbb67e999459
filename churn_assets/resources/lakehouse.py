"""The lakehouse: Delta tables that Spark writes and reads as Parquet and `deltalake` commits. Knows no churn.

No JVM package is needed, and versions and row counts are answered without a JVM.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import reduce
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pydantic import PrivateAttr

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.statistics import ColumnStatistics
from churn_assets.delta.storage import delete_folder, filesystem_of, python_uri, spark_uri

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable, Schema
    from pyarrow.dataset import Dataset
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

# Reading file lists is only right for tables without these: with them, a file's rows are not the table's rows.
UNSUPPORTED_FEATURES = {"deletionVectors", "columnMapping", "typeWidening", "v2Checkpoint", "variantType"}
# Versions are kept for years, so that a model can be traced to its inputs and trained again.
TABLE_PROPERTIES = {"delta.logRetentionDuration": "interval 3650 days"}


class MissingTableError(ChurnError):
    """A lakehouse table, or the version asked for, does not exist."""


class OvertakenError(ChurnError):
    """Another process committed to the table first."""


class UnsupportedTableError(ChurnError):
    """A Delta table uses a feature that would make a plain read return wrong rows."""


@dataclass(frozen=True)
class TableCommit:
    """One committed version of a table, and the rows the table has in it."""

    table: str
    version: int
    rows: int
    schema: "StructType"


class LakehouseResource(dg.ConfigurableResource):
    """Tables under `root` (a folder, or a URI that both Spark and deltalake can write), named `schema/table`."""

    root: str
    pyspark: dg.ResourceDependency[LazyPySparkResource]
    _run_id: str = PrivateAttr(default="")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._run_id = context.run.run_id if context.run else ""

    @property
    def spark(self) -> "SparkSession":
        return self.pyspark.spark_session

    def path(self, table: str) -> str:
        return f"{self.root.rstrip('/')}/{table}"

    def version(self, table: str) -> int | None:
        """The table's latest version; None if there is no such table. Needs no JVM."""
        from deltalake import DeltaTable

        uri = python_uri(self.path(table))
        return DeltaTable(uri).version() if DeltaTable.is_deltatable(uri) else None

    def has(self, table: str) -> bool:
        return self.version(table) is not None

    def pin(self, *tables: str) -> dict[str, int]:
        """The latest version of each table, to read one consistent state and to record it. Raises MissingTableError."""
        return {table: self._open(table).version() for table in tables}

    def inputs(self, table: str, version: int | None = None) -> dict[str, int]:
        """The versions of the tables that a version of `table` was computed from, as its commit recorded them."""
        recorded: dict[str, int] = self.commit_metadata(table, version).get("inputs", {})
        return recorded

    def commit_metadata(self, table: str, version: int | None = None) -> dict[str, Any]:
        """What `write` was given as metadata for a version of `table`, beside what Delta itself records of it."""
        return _commit_info(self.path(table), self._open(table, version).version())

    def table_schema(self, table: str, version: int | None = None) -> "StructType":
        """Needs no JVM. Raises MissingTableError."""
        return _schema(self._open(table, version))

    def row_count(self, table: str, version: int | None = None) -> int:
        """Rows by the file statistics of the log. Needs no JVM. Raises MissingTableError."""
        actions = _as_arrow(self._open(table, version).get_add_actions(flatten=True))
        return sum(actions.column("num_records").to_pylist())

    def read(self, table: str, version: int | None = None) -> "DataFrame":
        """The rows of one version (default: the latest), pinned: later commits do not change the frame.

        Raises MissingTableError and UnsupportedTableError.
        """
        return read_delta(self.spark, self._open(table, version))

    def write(
        self,
        table: str,
        rows: "DataFrame",
        *,
        mode: Literal["overwrite", "append"] = "overwrite",
        audit: Callable[["DataFrame"], Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TableCommit:
        """Writes `rows` and commits them as the table's next version, or leaves the table as it was.

        audit: called with the written rows before they are published; what it raises stops the commit, what it returns
        is kept in it. metadata: kept in the commit beside the Dagster run id.
        """
        of_table = None if audit is None else lambda staged: audit(staged[table])
        return self._publish({table: rows}, of_table, metadata, mode=mode)[0]

    def write_together(
        self,
        tables: Mapping[str, "DataFrame"],
        *,
        audit: Callable[[Mapping[str, "DataFrame"]], Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> list[TableCommit]:
        """As `write` for tables that only hold together: `audit` is called with all of them before any is published."""
        return self._publish(tables, audit, metadata)

    def replace_dates(
        self,
        tables: Mapping[str, "DataFrame"],
        by: str,
        dates: Sequence[date],
        *,
        audit: Callable[[Mapping[str, "DataFrame"]], Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> list[TableCommit]:
        """As `write_together` for the rows of `dates` in each table; all other rows stay in their files.

        tables: rows with a date column `by`, which the tables are partitioned by. The commits keep the `dates`. Raises
        ValueError for rows of other dates.
        """
        return self._publish(tables, audit, metadata, replaced=(by, dates))

    def audit(self, versions: Mapping[str, int]) -> Any:
        """What the audit returned that let these versions through, one of them all; None if there was no such audit.

        Whatever is committed later, by whomever, is a version that this audit did not see; nor did it see what another
        writer committed at the same time, whose files then lie beside its own. Needs no JVM.
        """
        opened = [self._open(table, version) for table, version in versions.items()]
        commits = [_commit_info(self.path(table), version) for table, version in versions.items()]
        is_one_write = len({commit.get("write_id") for commit in commits}) == 1
        return commits[0].get("audit") if is_one_write and all(map(_is_all_of_its_write, opened, commits)) else None

    def _publish(
        self,
        tables: Mapping[str, "DataFrame"],
        audit: Callable[[Mapping[str, "DataFrame"]], Any] | None,
        metadata: Mapping[str, Any] | None,
        *,
        mode: Literal["overwrite", "append"] = "overwrite",
        replaced: tuple[str, Sequence[date]] | None = None,
    ) -> list[TableCommit]:
        """One commit a table, in the order of `tables`. A failure before the first leaves every table as it was."""
        noted = {**(metadata or {}), "write_id": uuid.uuid4().hex}
        if replaced:
            noted["dates"] = [day.isoformat() for day in replaced[1]]
        staged = {table: f"{self.path(table)}/{noted['write_id']}" for table in tables}
        try:
            for table, rows in tables.items():
                writer = rows.write.option("compression", "zstd")
                (writer.partitionBy(replaced[0]) if replaced else writer).parquet(staged[table])
            if audit is not None:
                written = {table: self.spark.read.schema(rows.schema) for table, rows in tables.items()}
                found = audit({table: reader.parquet(staged[table]) for table, reader in written.items()})
                # What was found of the rows appended says nothing of the table.
                noted |= {} if found is None or mode == "append" else {"audit": found}
            actions = {
                table: _dated_actions(folder, *replaced) if replaced else _add_actions(folder, noted["write_id"])
                for table, folder in staged.items()
            }
        except BaseException:
            # Not a handler: whatever stopped the write goes on; only the files nobody will ever read are removed.
            for folder in staged.values():
                delete_folder(folder)
            raise
        # From here on the files stay: an error after the commit must not take them from a table that has them, and
        # those of a failed commit are no version of any table.
        commits = []
        for table, rows in tables.items():
            schema = _nullable(rows.schema)
            version = self._commit(table, actions[table], schema, mode, noted, replaced=replaced)
            commits.append(TableCommit(table, version, self.row_count(table, version), schema))
        return commits

    def dates(self, table: str, column: str, version: int | None = None) -> list[date]:
        """The distinct dates in `column`, ascending. Needs no JVM.

        Raises MissingTableError, and UnsupportedTableError if there is no such column of dates.
        """
        import pyarrow as pa

        schema = _dataset(self._open(table, version)).schema
        if column not in schema.names or not pa.types.is_date(schema.field(column).type):
            raise UnsupportedTableError(
                f"{table} has no column {column} of type date.", next_step=f"write {column} as a date"
            )
        return sorted(day for (day,) in self.counts(table, [column], version) if day is not None)

    def counts(self, table: str, columns: Sequence[str], version: int | None = None) -> Counter[tuple[Any, ...]]:
        """How many rows have each combination of values in `columns`; there should be few. Needs no JVM.

        Raises MissingTableError and UnsupportedTableError.
        """
        import pyarrow as pa

        found: Counter[tuple[Any, ...]] = Counter()
        for batch in _dataset(self._open(table, version)).to_batches(columns=list(columns)):
            groups = pa.Table.from_batches([batch]).group_by(list(columns), use_threads=False)
            counted = groups.aggregate([([], "count_all")])
            keys = zip(*[counted.column(name).to_pylist() for name in columns], strict=True)
            found.update(dict(zip(keys, counted.column("count_all").to_pylist(), strict=True)))
        return found

    def value_count(self, table: str, column: str, version: int | None = None) -> int:
        """The rows with a value in `column`. Needs no JVM. Raises MissingTableError and UnsupportedTableError."""
        import pyarrow.compute as pc

        return int(_dataset(self._open(table, version)).count_rows(filter=pc.field(column).is_valid()))

    def statistics(self, table: str, version: int | None = None) -> dict[str, ColumnStatistics]:
        """What the log's file statistics say of the values of each column, None where they are not there for all rows.

        Nothing is said of a version with files of another writer: deltalake and pyarrow leave NaN out of the bounds
        they write, so that one hides between them (deltalake 1.6.6, pyarrow 25.0.1, 2026-11-25). Needs no JVM.

        Raises MissingTableError and UnsupportedTableError.
        """
        opened = self._open(table, version)
        files, write_id = _files(opened), _commit_info(self.path(table), opened.version()).get("write_id")
        if not all(_is_of_write(file, write_id) for file in files):
            return {}
        return {field.name: _column_statistics(field.name, files) for field in opened.schema().fields}

    def records(self, table: str, version: int | None = None) -> list[dict[str, Any]]:
        """The rows of a small table. Needs no JVM. Raises MissingTableError and UnsupportedTableError."""
        rows: list[dict[str, Any]] = _dataset(self._open(table, version)).to_table().to_pylist()
        return rows

    def committed_at(self, table: str, version: int) -> datetime:
        """When a version was committed, by the clock of whoever did. Needs no JVM."""
        written = _commit_info(self.path(table), version)["timestamp"]
        return datetime.fromtimestamp(written / 1000, UTC)

    def holds_same_rows(self, table: str, one: int, other: int) -> bool:
        """Whether two versions hold the same rows and columns in any order and any files. Needs no JVM.

        The log's statistics tell most changes at once; only where they agree are the rows read, a batch at a time.
        """
        versions = [self._open(table, version) for version in (one, other)]
        if len({_columns(version) for version in versions}) > 1:
            return False
        summaries = {_summary(version) for version in versions}
        if None not in summaries and len(summaries) > 1:
            return False
        return len({_rows_digest(version) for version in versions}) == 1

    def write_file(self, name: str, content: bytes) -> str:
        """Writes a file for people at `root`/`name`, in place of an earlier one, and returns where it lies."""
        path = f"{self.root.rstrip('/')}/{name}"
        filesystem, place = filesystem_of(path)
        folder, _, base = place.rpartition("/")
        filesystem.create_dir(folder, recursive=True)
        # Whoever reads it meanwhile has the earlier one whole.
        unfinished = f"{folder}/.{base}.{uuid.uuid4().hex}"
        with filesystem.open_output_stream(unfinished) as stream:
            stream.write(content)
        filesystem.move(unfinished, place)
        return path

    def append_after(self, table: str, version: int | None, rows: "pa.Table") -> int:
        """Appends `rows` as version `version` + 1 (None: as the first rows of a new table), or not at all.

        Needs no JVM. Raises OvertakenError if the table has moved on since `version`.
        """
        from deltalake import CommitProperties, DeltaTable, write_deltalake
        from deltalake.exceptions import DeltaError

        properties = CommitProperties(custom_metadata={"dagster_run_id": self._run_id}, max_commit_retries=0)
        uri = python_uri(self.path(table))
        try:
            # At an opened version a commit takes the next number or fails; by path it would take any number.
            opened = uri if version is None else DeltaTable(uri, version=version)
            mode: Literal["error", "append"] = "error" if version is None else "append"
            write_deltalake(opened, rows, mode=mode, configuration=TABLE_PROPERTIES, commit_properties=properties)
        except DeltaError as overtaken:
            if self.version(table) == version:
                raise
            raise OvertakenError(f"{table} was written by another process after version {version}.") from overtaken
        return 0 if version is None else version + 1

    def _open(self, table: str, version: int | None = None) -> "DeltaTable":
        return open_delta(
            self.path(table), version, next_step=f"materialize the asset {table}, or check CHURN_LAKEHOUSE"
        )

    def _commit(
        self,
        table: str,
        actions: list[Any],
        schema: "StructType",
        mode: str,
        metadata: Mapping[str, Any],
        *,
        replaced: tuple[str, Sequence[date]] | None = None,
    ) -> int:
        """replaced: the partition column and the dates whose files alone an overwrite removes."""
        from deltalake import CommitProperties, DeltaTable, Schema
        from deltalake.transaction import create_table_with_add_actions

        uri = python_uri(self.path(table))
        delta_schema = Schema.from_json(schema.json())
        partition_by = None if replaced is None else [replaced[0]]
        filters = None if replaced is None else [(replaced[0], "in", [day.isoformat() for day in replaced[1]])]
        properties = CommitProperties(custom_metadata={"dagster_run_id": self._run_id, **metadata})
        if not DeltaTable.is_deltatable(uri):
            create_table_with_add_actions(
                uri,
                delta_schema,
                actions,
                partition_by=partition_by,
                configuration=TABLE_PROPERTIES,
                commit_properties=properties,
            )
            return 0
        delta = DeltaTable(uri)
        opened_at = delta.version()
        if delta.metadata().partition_columns != (partition_by or []):
            # Its partition values would be lost, and with them the dates of all rows.
            raise UnsupportedTableError(
                f"{self.path(table)} is partitioned by {delta.metadata().partition_columns or 'nothing'}, "
                f"and the rows are written by {partition_by or 'nothing'}.",
                next_step="write dated tables by replace_dates, and others by write",
            )
        if mode == "append":
            _add_missing_columns(delta, delta_schema)
        delta.create_write_transaction(actions, mode, delta_schema, partition_by, filters, commit_properties=properties)
        # Others may have committed before or after; the version that lineage names is the one with this write's id.
        delta.update_incremental()
        commits = range(delta.version(), opened_at, -1)
        path, write_id = self.path(table), metadata["write_id"]
        return next(version for version in commits if _commit_info(path, version).get("write_id") == write_id)


def _files(table: "DeltaTable") -> list[dict[str, Any]]:
    """The files of an opened version, with their partition values and statistics by flat names."""
    files: list[dict[str, Any]] = _as_arrow(table.get_add_actions(flatten=True)).to_pylist()
    return files


def _is_of_write(file: Mapping[str, Any], write_id: str | None) -> bool:
    return bool(file["path"].split("/")[0] == write_id)


def _is_all_of_its_write(table: "DeltaTable", commit: Mapping[str, Any]) -> bool:
    """Whether what the commit of this version replaced, all or some dates, lies in its write's own files alone."""
    replaced = _files(table)
    if "dates" in commit:
        (by,) = table.metadata().partition_columns
        replaced = [file for file in replaced if str(file[f"partition.{by}"]) in commit["dates"]]
    return all(_is_of_write(file, commit.get("write_id")) for file in replaced)


def _add_missing_columns(table: "DeltaTable", schema: "Schema") -> None:
    """Gives the table the columns of `schema` it lacks, null in its old rows: an append alone would hide them."""
    known = {field.name for field in table.schema().fields}
    missing = [field for field in schema.fields if field.name not in known]
    if missing:
        table.alter.add_columns(missing)
        table.update_incremental()


def _columns(table: "DeltaTable") -> str:
    schema = json.loads(table.schema().to_json())
    return json.dumps(sorted(schema["fields"], key=lambda field: field["name"]))


def _summary(table: "DeltaTable") -> str | None:
    """Rows, and each column's least and greatest value and nulls, over all files; None where a file lacks any."""
    files = _files(table)
    columns = sorted({name for file in files for name in file if name.split(".")[0] in ("null_count", "min", "max")})
    if any(file.get(name) is None for file in files for name in columns if name.startswith("null_count")):
        return None
    summary: dict[str, Any] = {"rows": sum(file["num_records"] or 0 for file in files)}
    for name in columns:
        values = [file[name] for file in files if file.get(name) is not None]
        combined = {"null_count": sum, "min": min, "max": max}[name.split(".")[0]](values) if values else None  # type: ignore[operator]
        summary[name] = None if combined is None else str(combined)
    return json.dumps(summary, sort_keys=True)


def _column_statistics(name: str, files: Sequence[Mapping[str, Any]]) -> ColumnStatistics:
    files = [file for file in files if file["num_records"] != 0]
    nulls: list[Any] = [file.get(f"null_count.{name}") for file in files]
    if not files or None in nulls:
        return ColumnStatistics()
    valued = [file for file, count in zip(files, nulls, strict=True) if count != file["num_records"]]
    lows: list[Any] = [file.get(f"min.{name}") for file in valued]
    highs: list[Any] = [file.get(f"max.{name}") for file in valued]
    if not valued or None in lows or None in highs:
        return ColumnStatistics(sum(nulls))
    return ColumnStatistics(sum(nulls), min(lows), max(highs))


def _rows_digest(table: "DeltaTable") -> tuple[int, int]:
    """The number of rows and the sum of their hashes, which no order of rows and no division into files changes."""
    import pandas as pd

    names = sorted(field.name for field in table.schema().fields)
    rows, total = 0, 0
    for batch in _dataset(table).to_batches(columns=names):
        hashes = pd.util.hash_pandas_object(batch.to_pandas(date_as_object=False), index=False)
        rows, total = rows + len(hashes), total + sum(hashes.to_list())
    return rows, total % 2**64


def open_delta(path: str, version: int | None = None, *, next_step: str) -> "DeltaTable":
    """The Delta table at `path`. Raises MissingTableError and UnsupportedTableError."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    uri = python_uri(path)
    if not DeltaTable.is_deltatable(uri):
        raise MissingTableError(f"There is no Delta table at {path}.", next_step=next_step)
    try:
        table = DeltaTable(uri, version=version)
    except DeltaError as missing:
        raise MissingTableError(f"{path} has no version {version}: {missing}", next_step=next_step) from missing
    unsupported = UNSUPPORTED_FEATURES & _reader_features(table)
    if unsupported:
        raise UnsupportedTableError(
            f"The Delta table {path} uses features that a plain read would get wrong.",
            sorted(unsupported),
            next_step='rewrite the table without them, or map it as a catalog table (format = "table")',
        )
    return table


def _reader_features(table: "DeltaTable") -> set[str]:
    """What a reader must know. Before features had names, version 2 with a mapping mode meant column mapping."""
    named = set(table.protocol().reader_features or ())
    is_mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
    return named | ({"columnMapping"} if is_mapped else set())


def _commit_info(path: str, version: int) -> dict[str, Any]:
    """What the commit of a version says of itself. Raises MissingTableError if the log no longer holds it.

    Not DeltaTable.history(): it begins at the newest commit, whatever version is open (deltalake 1.6.6).
    """
    filesystem, folder = filesystem_of(path)
    try:
        with filesystem.open_input_stream(f"{folder}/_delta_log/{version:020}.json") as stream:
            entries = [json.loads(line) for line in stream.read().decode().splitlines()]
    except FileNotFoundError as cleaned_up:
        raise MissingTableError(
            f"The log of {path} no longer holds the commit of version {version}.",
            next_step="use a later version, and keep the log for longer (delta.logRetentionDuration)",
        ) from cleaned_up
    return next((entry["commitInfo"] for entry in entries if "commitInfo" in entry), {})


def read_delta(spark: "SparkSession", table: "DeltaTable") -> "DataFrame":
    """The rows of an opened Delta table version."""
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    schema = _schema(table)
    partitions = table.metadata().partition_columns
    actions = _files(table)
    if not actions:
        return spark.createDataFrame([], schema)
    # Not file_uris(): it gives the table's folder percent-encoded and the file below it not, which no reader undoes.
    folder = spark_uri(unquote(table.table_uri)).rstrip("/")
    # Partition values live in the log, not in the files: a frame for each combination of them.
    files: dict[tuple[Any, ...], list[str]] = {}
    for action in actions:
        values = tuple(action[f"partition.{name}"] for name in partitions)
        files.setdefault(values, []).append(f"{folder}/{unquote(action['path'])}")
    in_files = StructType([field for field in schema if field.name not in partitions])
    frames = []
    for values, of_values in files.items():
        kept = {
            name: F.lit(value).cast(schema[name].dataType).alias(name)
            for name, value in zip(partitions, values, strict=True)
        }
        rows = spark.read.schema(in_files).parquet(*of_values)
        frames.append(rows.select([kept.get(name, F.col(name)) for name in schema.fieldNames()]))
    return reduce(DataFrame.unionByName, frames)


def _dataset(table: "DeltaTable") -> "Dataset":
    """The files of an opened table version, through Arrow's own file system.

    deltalake's is Python: a thread of it still busy when the interpreter ends aborts the process (2026-11-25, one of
    six runs that had ended well).
    """
    from pyarrow.fs import SubTreeFileSystem

    filesystem, folder = filesystem_of(table.table_uri)
    return table.to_pyarrow_dataset(filesystem=SubTreeFileSystem(folder, filesystem))


def _schema(table: "DeltaTable") -> "StructType":
    from pyspark.sql.types import StructType

    return StructType.fromJson(json.loads(table.schema().to_json()))


def _nullable(schema: "StructType") -> "StructType":
    """Whether Spark can prove a column non-null changes with the query; that must not change the table's schema."""
    from pyspark.sql.types import StructField, StructType

    return StructType([StructField(field.name, field.dataType, True, field.metadata) for field in schema])


def _as_arrow(exported: Any) -> Any:
    import pyarrow as pa

    return pa.table(exported)


def _add_actions(staged: str, name: str, partition: Mapping[str, str | None] | None = None) -> list[Any]:
    """The Parquet files Spark wrote to folder `staged`, as actions with file statistics from their footers.

    name: of the folder, seen from the table's.
    """
    import pyarrow.parquet as pq
    from deltalake.transaction import AddAction
    from pyarrow.fs import FileSelector

    filesystem, folder = filesystem_of(staged)
    actions = []
    for file in sorted(filesystem.get_file_info(FileSelector(folder)), key=lambda info: info.base_name):
        if not file.base_name.endswith(".parquet"):
            continue
        footer = pq.read_metadata(file.path, filesystem=filesystem)
        stats = _file_statistics(footer)
        modified = int(file.mtime.timestamp() * 1000) if file.mtime else 0
        values = dict(partition or {})
        actions.append(AddAction(f"{name}/{file.base_name}", file.size, values, modified, True, json.dumps(stats)))
    return actions


def _dated_actions(staged: str, by: str, dates: Sequence[date]) -> list[Any]:
    """The files in the folders `by`=DATE of folder `staged`. Raises ValueError for a folder of another date."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(staged)
    found = filesystem.get_file_info(FileSelector(folder))
    names = sorted(info.base_name for info in found if info.type == FileType.Directory)
    days = {f"{by}={day.isoformat()}": day.isoformat() for day in dates}
    if foreign := [name for name in names if name not in days]:
        raise ValueError(f"rows of other dates than those to replace: {', '.join(foreign)}")
    parent = staged.rsplit("/", 1)[1]
    return [
        action for name in names for action in _add_actions(f"{staged}/{name}", f"{parent}/{name}", {by: days[name]})
    ]


def _file_statistics(footer: Any) -> dict[str, Any]:
    """Delta's statistics of one Parquet file: numRecords, and nullCount, minValues, maxValues of its flat columns.

    A column whose footer has no statistics is left out; absent statistics are always allowed, wrong ones never are.
    """
    nulls: dict[str, int] = {}
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    # Spark's own writer puts NaN into the bounds (parquet-mr 1.17.0), others leave it out.
    is_nan_shown = (footer.created_by or "").startswith("parquet-mr")
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        chunks = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if "." in name or not chunks or any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        nulls[name] = sum(chunk.null_count for chunk in chunks)
        if any(not chunk.has_min_max and chunk.num_values for chunk in chunks):
            continue
        bounds = [bound for chunk in chunks if chunk.has_min_max for bound in (chunk.min, chunk.max)]
        is_nan_excluded = is_nan_shown or not any(isinstance(bound, float) for bound in bounds)
        # A NaN compares with nothing: the bounds of the other row groups would hide it.
        if bounds and is_nan_excluded and not any(bound != bound for bound in bounds):
            low, high = min(bounds), max(bounds)
            if _has_delta_form(low) and _has_delta_form(high):
                lows[name], highs[name] = _delta_value(low), _delta_value(high)
    return {"numRecords": footer.num_rows, "nullCount": nulls, "minValues": lows, "maxValues": highs}


def _has_delta_form(value: Any) -> bool:
    is_finite = not isinstance(value, float) or isfinite(value)
    is_short = not isinstance(value, str) or len(value) <= 64
    return isinstance(value, bool | int | float | str | datetime | date) and is_finite and is_short


def _delta_value(value: Any) -> Any:
    if isinstance(value, datetime):
        utc = value.astimezone(UTC) if value.tzinfo else value
        return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value.isoformat() if isinstance(value, date) else value

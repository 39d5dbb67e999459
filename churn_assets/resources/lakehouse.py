"""The lakehouse as Dagster resource: names of tables, the run that commits, the Spark session. Knows no churn.

What a Delta table is and how it is read and written belongs to `delta/`. Versions and row counts need no JVM.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pydantic import PrivateAttr

from churn_assets.delta import commits, comparing, reading
from churn_assets.delta.commits import TableCommit
from churn_assets.delta.erasing import Erasure, erase, orders_of
from churn_assets.delta.maintenance import Upkeep, maintain, remove_temporary_files, tables_under
from churn_assets.delta.storage import HELD_FOLDER, delete_folder, holds_files, is_file, spark_uri, write_file
from churn_assets.delta.tables import (
    commit_info,
    committed_at,
    files_of,
    latest_version,
    open_delta,
    row_count,
    schema_of,
    written_as,
)
from churn_assets.engines.sessions import in_utc
from churn_assets.resources.abandoned_runs import note_process

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


class LakehouseResource(dg.ConfigurableResource):
    """Tables under `root` (a folder, or a URI that both Spark and deltalake can write), named `schema/table`."""

    root: str
    pyspark: dg.ResourceDependency[LazyPySparkResource]
    _run_id: str = PrivateAttr(default="")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        if context.run is None:
            return
        self._run_id = context.run.run_id
        if context.instance is not None:
            # Every job has a lakehouse, and its setup runs in the process that executes the run.
            note_process(context.run, context.instance)

    @property
    def spark(self) -> "SparkSession":
        """The session of the chosen engine. Raises NonUtcSessionError."""
        return in_utc(self.pyspark.spark_session)

    def path(self, table: str) -> str:
        return f"{self._root}/{table}"

    @property
    def place(self) -> str:
        """Where the tables are, for people."""
        return self.root

    @property
    def at_paths(self) -> "LakehouseResource":
        """The tables under `root`, whatever keeps this project's own: a source's belong to no project."""
        return self

    @property
    def _root(self) -> str:
        return self.root.rstrip("/")

    def tables(self) -> list[str]:
        """Every table under the root. Needs no JVM."""
        return tables_under(self._root)

    def maintain(self, table: str, named: Collection[int], older_than: timedelta) -> Upkeep:
        """Upkeep of a table; see `delta.maintenance`. Needs no JVM. Raises NamedFilesError."""
        return maintain(self.path(table), named, older_than)

    def remove_temporary_files(self, older_than: timedelta) -> list[str]:
        """Removes what killed processes left beside the tables: held rows, and half-written files for people."""
        return remove_temporary_files(self._root, older_than)

    def orders_of(self, customers: Collection[str]) -> set[str]:
        """The orders of customers in any version of any table. Needs no JVM."""
        return orders_of(self._root, customers)

    def erase(self, erasure: Erasure) -> dict[str, int]:
        """Takes rows out of every file under the root; how many, by file. See `delta.erasing`. Needs no JVM."""
        return erase(self._root, erasure)

    def version(self, table: str) -> int | None:
        """The table's latest version; None if there is no such table. Needs no JVM."""
        return latest_version(self.path(table))

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
        """What `write` was given as metadata for the rows of a version of `table`, beside what Delta records of it.

        A version that others only rearranged (OPTIMIZE) has that of the version whose rows it holds.
        """
        path = self.path(table)
        return commit_info(path, written_as(path, self._open(table, version).version()))

    def table_schema(self, table: str, version: int | None = None) -> "StructType":
        """Needs no JVM. Raises MissingTableError."""
        return schema_of(self._open(table, version))

    def row_count(self, table: str, version: int | None = None) -> int:
        """Rows by the file statistics of the log. Needs no JVM. Raises MissingTableError."""
        return row_count(self._open(table, version))

    def read(
        self, table: str, version: int | None = None, *, dates: tuple[str, Collection[date]] | None = None
    ) -> "DataFrame":
        """The rows of one version (default: the latest), pinned: later commits do not change the frame.

        dates: the column that the table is laid out by and its values, where not all are asked for. Raises
        MissingTableError, UnsupportedTableError and MissingFileError.
        """
        return reading.read_delta(self.spark, self._open(table, version), dates=dates)

    def read_apart(self, table: str, one: int, other: int) -> tuple["DataFrame", "DataFrame"]:
        """The rows of two versions without files that both have, whose rows are the same. Raises as `read`."""
        versions = [self._open(table, version) for version in (one, other)]
        shared = set.intersection(*[{file["path"] for file in files_of(version)} for version in versions])
        first, second = (reading.read_delta(self.spark, version, without=shared) for version in versions)
        return first, second

    def is_laid_out_by(self, table: str, column: str, version: int | None = None) -> bool:
        """Whether the rows lie in files by their values of `column`. Needs no JVM. Raises MissingTableError."""
        return self._open(table, version).metadata().partition_columns == [column]

    @contextmanager
    def held(self, rows: "DataFrame") -> "Iterator[DataFrame]":
        """`rows` from files that are there for the time of the block: computed once, however often they are read.

        Not every engine persists (Sail), and where one does it takes its memory.
        """
        folder = f"{self._root}/{HELD_FOLDER}/{uuid.uuid4().hex}"
        try:
            commits.stage(rows, folder)
            # Of no rows some engines leave no folder.
            is_empty = not holds_files(folder)
            yield (
                self.spark.createDataFrame([], rows.schema)
                if is_empty
                else self.spark.read.schema(rows.schema).parquet(spark_uri(folder))
            )
        finally:
            delete_folder(folder)

    def frame(self, rows: "pa.Table") -> "DataFrame":
        """`rows` of this process as a frame of the session."""
        from pyspark.sql.pandas.types import from_arrow_schema

        # With its schema: of no rows Spark Connect finds none.
        return self.spark.createDataFrame(rows, from_arrow_schema(rows.schema))

    def write(
        self,
        table: str,
        rows: "DataFrame",
        *,
        mode: Literal["overwrite", "append"] = "overwrite",
        audit: Callable[["DataFrame"], Any] | None = None,
        if_empty: Exception | None = None,
        metadata: Mapping[str, Any] | None = None,
        by: str | None = None,
    ) -> TableCommit:
        """Writes `rows` and commits them as the table's next version, or leaves the table as it was.

        by: the column of dates that the table is laid out by from then on, for `replace_dates`.

        audit: called with the written rows before they are published; what it raises stops the commit, what it returns
        is kept in it. if_empty: raised if there are no rows, which takes no query. metadata: kept in the commit beside
        the Dagster run id.
        """
        of_table = None if audit is None else lambda staged: audit(staged[table])
        noted, replaced = self._noted(metadata), None if by is None else commits.Replaced(by)
        tables = {table: rows}
        return commits.publish(self._root, tables, of_table, noted, mode=mode, replaced=replaced, if_empty=if_empty)[0]

    def write_together(
        self,
        tables: Mapping[str, "DataFrame"],
        *,
        audit: Callable[[Mapping[str, "DataFrame"]], Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> list[TableCommit]:
        """As `write` for tables that only hold together: `audit` is called with all of them before any is published."""
        return commits.publish(self._root, tables, audit, self._noted(metadata))

    def replace_dates(
        self,
        tables: Mapping[str, "DataFrame"],
        by: str,
        dates: Sequence[date],
        *,
        audit: Callable[[Mapping[str, "DataFrame"]], Any],
        metadata: Mapping[str, Any] | None = None,
        upon: int | None = None,
    ) -> list[TableCommit]:
        """As `write_together` for the rows of `dates` in each table; all other rows stay in their files.

        tables: rows with a date column `by`, which the tables are partitioned by. The commits keep the `dates`. Raises
        ValueError for rows of other dates, OvertakenError if another process wrote one of the dates meanwhile. upon:
        the version that the other dates are right in: then OvertakenError for whatever was written since.
        """
        replaced = commits.Replaced(by, dates, upon)
        return commits.publish(self._root, tables, audit, self._noted(metadata), replaced=replaced)

    def audit(self, versions: Mapping[str, int]) -> Any:
        """What the audit returned that let these versions through, one of them all; None if there was no such audit."""
        return commits.audit_of([self._open(table, version) for table, version in versions.items()])

    def dates(self, table: str, column: str, version: int | None = None) -> list[date]:
        """The distinct dates in `column`, ascending. Needs no JVM.

        Raises MissingTableError, and UnsupportedTableError if there is no such column of dates.
        """
        return reading.dates(self._open(table, version), column)

    def counts(self, table: str, columns: Sequence[str], version: int | None = None) -> Counter[tuple[Any, ...]]:
        """How many rows have each combination of values in `columns`; there should be few. Needs no JVM.

        Raises MissingTableError and UnsupportedTableError.
        """
        return reading.counts(self._open(table, version), columns)

    def bounds(self, table: str, column: str, version: int | None = None) -> tuple[Any, Any]:
        """The least and the greatest value in `column`, None without any. Needs no JVM.

        Raises MissingTableError and UnsupportedTableError.
        """
        return reading.bounds(self._open(table, version), column)

    def ends(
        self, table: str, columns: Sequence[str], version: int, *, dates: tuple[str, Collection[date]]
    ) -> dict[str, tuple[Any, Any]]:
        """The least and the greatest value of each of `columns` in the rows of some dates. Needs no JVM.

        Raises MissingTableError and UnsupportedTableError.
        """
        return reading.ends(self._open(table, version), columns, *dates)

    def value_count(self, table: str, column: str, version: int | None = None) -> int:
        """The rows with a value in `column`. Needs no JVM. Raises MissingTableError and UnsupportedTableError."""
        return reading.value_count(self._open(table, version), column)

    def records(self, table: str, version: int | None = None) -> list[dict[str, Any]]:
        """The rows of a small table. Needs no JVM. Raises MissingTableError and UnsupportedTableError."""
        return reading.records(self._open(table, version))

    def arrow(
        self,
        table: str,
        columns: Sequence[str],
        version: int | None = None,
        *,
        dates: tuple[str, Sequence[date]] | None = None,
    ) -> "pa.Table":
        """`columns` of all rows, or of those of some dates: a column and its values. In the order of the log.

        Needs no JVM. Raises MissingTableError and UnsupportedTableError.
        """
        return reading.arrow(self._open(table, version), columns, *(dates or ()))

    def columns(self, table: str, version: int) -> "Callable[[str], pa.ChunkedArray]":
        """Reads a column at a time of a version that is opened once; all in the same order of rows.

        Needs no JVM. Raises MissingTableError, MissingFileError and UnsupportedTableError.
        """
        return reading.columns(self._open(table, version))

    def committed_at(self, table: str, version: int) -> datetime:
        """When the rows of a version were committed, by the clock of whoever did. Needs no JVM."""
        return committed_at(self.path(table), version)

    def written_at(self, table: str) -> datetime | None:
        """When the table's rows were last written, by whomever; None if there is no such table. Needs no JVM."""
        version = self.version(table)
        return None if version is None else committed_at(self.path(table), version)

    def holds_same_rows(self, table: str, one: int, other: int) -> bool:
        """Whether two versions hold the same rows and columns in any order and any files. Needs no JVM."""
        return comparing.holds_same_rows(self._open(table, one), self._open(table, other))

    def write_file(self, name: str, content: bytes) -> str:
        """Writes a file for people at `root`/`name`, in place of an earlier one, and returns where it lies."""
        path = f"{self._root}/{name}"
        write_file(path, content)
        return path

    def holds_file(self, name: str) -> bool:
        """Whether `write_file` has written that file."""
        return is_file(f"{self._root}/{name}")

    def overwrite(
        self, table: str, rows: "pa.Table", *, since: int | None, metadata: Mapping[str, Any] | None = None
    ) -> TableCommit:
        """As `write` for the rows of a small table. Needs no JVM.

        since: its version when the rows began to be computed, None for no table. Raises OvertakenError, with nothing
        left behind, if another wrote it after that.
        """
        return self.commit(table, commits.overwrite(self.path(table), rows, self._noted(metadata), since=since))

    def commit(self, table: str, version: int) -> TableCommit:
        """A committed version. Needs no JVM. Raises MissingTableError."""
        return TableCommit(table, version, self.row_count(table, version), self.table_schema(table, version))

    def append_after(self, table: str, version: int | None, rows: "pa.Table") -> int:
        """Appends `rows` as version `version` + 1 (None: as the first rows of a new table), or not at all.

        Needs no JVM. Raises OvertakenError if the table has moved on since `version`.
        """
        return commits.append_after(self.path(table), version, rows, self._noted(None))

    def append_lacking(self, table: str, lacking: Callable[[Sequence[dict[str, Any]]], "pa.Table"]) -> None:
        """Appends what `lacking` makes of the table's rows; asked again where another appended first. Needs no JVM."""
        while True:
            version = self.version(table)
            rows = lacking([] if version is None else self.records(table, version))
            if not len(rows):
                return
            try:
                self.append_after(table, version, rows)
            except commits.OvertakenError:
                continue
            return

    def _noted(self, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"dagster_run_id": self._run_id, **(metadata or {})}

    def _open(self, table: str, version: int | None = None) -> "DeltaTable":
        return open_delta(
            self.path(table), version, next_step=f"materialize the asset {table}, or check CHURN_LAKEHOUSE"
        )

"""The lakehouse as managed tables of a catalog, written and read by Spark's own Delta connector: CHURN_TABLES=catalog.

What `LakehouseResource` is asked, asked of the session alone: no file of a table is opened from here. Files for people
and rows that are held for the time of a write lie under the root as ever.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import PrivateAttr

from churn_assets.churn.errors import ChurnError
from churn_assets.delta.commits import TABLE_PROPERTIES, Replaced, TableCommit, is_of_others, overtaken_by
from churn_assets.delta.comparing import rows_digest
from churn_assets.delta.erasing import Erasure
from churn_assets.delta.maintenance import Upkeep
from churn_assets.delta.tables import MissingTableError
from churn_assets.engines.sessions import engine_errors
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import Settings, engine_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, DataFrameWriterV2, SparkSession
    from pyspark.sql.types import StructType

TABLES = ("paths", "catalog")
# All writes here are transactions of this application: of two at once Delta lets one commit.
APPLICATION = "churn_assets"
# Commits that change no row of the table.
REARRANGING = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "CREATE TABLE")
ATTEMPTS = 20
# What Delta says of a commit that another's came before, rows, columns or the table itself.
LOST_RACES = ("DELTA_CONCURRENT", "DELTA_METADATA_CHANGED", "DELTA_PROTOCOL_CHANGED")
# Of rows that rest on no other: whatever was written meanwhile overtakes them not.
ANY_VERSION = 2**62


class UnknownTablesError(ChurnError):
    """CHURN_TABLES names no way of keeping tables, or one that the engine does not have."""


class CatalogUnavailableError(ChurnError):
    """The session has no catalog that keeps Delta tables, or no connector that writes them."""


class NotWithCatalogError(ChurnError):
    """What is asked works on a table's files, and those of a managed table belong to the catalog."""


def require_tables(settings: Settings) -> None:
    """Raises UnknownTablesError, and UnknownEngineError, where CHURN_TABLES cannot be had."""
    if settings.tables not in TABLES:
        raise UnknownTablesError(
            f"CHURN_TABLES is {settings.tables!r}.", next_step=f"set it to one of {', '.join(TABLES)}, or leave it out"
        )
    if settings.tables == "catalog" and engine_of(settings).name == "sail":
        raise UnknownTablesError(
            "CHURN_TABLES is catalog, and Sail has neither a catalog that keeps tables nor Spark's connector.",
            next_step="set CHURN_ENGINE=local, SPARK_MASTER or SPARK_REMOTE, or leave out CHURN_TABLES",
        )


class CatalogLakehouse(LakehouseResource):
    """Managed tables `catalog`.`schema`.`table`; a table whose name has no schema lies in `default_schema`."""

    catalog: str
    default_schema: str
    _commits: dict[tuple[str, int], dict[str, Any]] = PrivateAttr(default_factory=dict)

    @property
    def spark(self) -> "SparkSession":
        """The session. Raises NonUtcSessionError, and CatalogUnavailableError where tables would not outlive it."""
        session = super().spark
        if self.catalog == "spark_catalog" and _setting(session, "spark.sql.catalogImplementation") == "in-memory":
            raise CatalogUnavailableError(
                "CHURN_TABLES is catalog, and the session's spark_catalog forgets its tables when the session ends.",
                next_step="set spark.sql.catalogImplementation hive in spark-defaults.conf, or name a catalog of the "
                "session by CHURN_TABLE_PREFIX (docs/scaling.md)",
            )
        return session

    def path(self, table: str) -> str:
        """The table's three-part name."""
        return f"{self._schema(table)}.`{table.rpartition('/')[2]}`"

    def _schema(self, table: str) -> str:
        return f"`{self.catalog}`.`{table.rpartition('/')[0].replace('/', '_') or self.default_schema}`"

    @property
    def place(self) -> str:
        return f"catalog {self.catalog}"

    @property
    def at_paths(self) -> LakehouseResource:
        beside = LakehouseResource(root=self.root, pyspark=self.pyspark)
        beside._run_id = self._run_id
        return beside

    # --- what works on files ---

    def tables(self) -> list[str]:
        raise _not_with_catalog("listing what is under CHURN_LAKEHOUSE")

    def maintain(self, table: str, named: Collection[int], older_than: timedelta) -> Upkeep:
        raise _not_with_catalog("upkeep")

    def orders_of(self, customers: Collection[str]) -> set[str]:
        raise _not_with_catalog("forgetting customers")

    def erase(self, erasure: Erasure) -> dict[str, int]:
        raise _not_with_catalog("forgetting customers")

    def _open(self, table: str, version: int | None = None) -> NoReturn:
        raise _not_with_catalog(f"opening the files of {table}")

    # --- versions ---

    def version(self, table: str) -> int | None:
        latest = self._latest(table)
        # A table that was made and, by a killed process, never written.
        return None if latest is None or latest["operation"] == "CREATE TABLE" else int(latest["version"])

    def pin(self, *tables: str) -> dict[str, int]:
        return {table: self._pinned(table, None) for table in tables}

    def commit_metadata(self, table: str, version: int | None = None) -> dict[str, Any]:
        return _noted_in(self._commit_of(table, self._pinned(table, version)))

    def committed_at(self, table: str, version: int) -> datetime:
        committed: datetime = self._commit_of(table, version)["timestamp"]
        return committed

    def written_at(self, table: str) -> datetime | None:
        version = self.version(table)
        return None if version is None else self.committed_at(table, version)

    def audit(self, versions: Mapping[str, int]) -> Any:
        commits = [self.commit_metadata(table, version) for table, version in versions.items()]
        return commits[0].get("audit") if len({commit.get("write_id") for commit in commits}) == 1 else None

    def is_laid_out_by(self, table: str, column: str, version: int | None = None) -> bool:
        """Of the latest version, which the catalog tells alone; of others it is not known, and said not to be."""
        latest = self._pinned(table, None)
        return version in (None, latest) and self._laid_out_by(table) == [column]

    def _laid_out_by(self, table: str) -> list[str]:
        (detail,) = self._asked(f"DESCRIBE DETAIL {self.path(table)}")
        columns: list[str] = detail["partitionColumns"]
        return columns

    def _latest(self, table: str) -> dict[str, Any] | None:
        """The latest entry of the table's history, whatever it did; None if there is no such table."""
        return next(iter(self._history(table, limit=1)), None)

    def _history(self, table: str, *, limit: int | None = None) -> list[dict[str, Any]]:
        """The newest first; empty if there is no such table."""
        from pyspark.errors import AnalysisException

        try:
            return self._asked(f"DESCRIBE HISTORY {self.path(table)}{'' if limit is None else f' LIMIT {limit}'}")
        except AnalysisException as unfound:
            if unfound.getCondition() in ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND"):
                return []
            raise

    def _commit_of(self, table: str, version: int) -> dict[str, Any]:
        """The entry of the version whose commit wrote the rows that `version` holds; where none did, of the first.

        Asked once: what is committed stays as it is, and this resource is of one run, or of one look into the tables.
        """
        if (table, version) not in self._commits:
            held = [entry for entry in self._history(table) if entry["version"] <= version]
            written = (entry for entry in held if entry["operation"] not in REARRANGING)
            found = next(written, held[-1] if held else {})
            if not found:
                return found
            self._commits[table, version] = found
        return self._commits[table, version]

    def _pinned(self, table: str, version: int | None) -> int:
        pinned = self.version(table) if version is None else version
        if pinned is None:
            raise MissingTableError(
                f"There is no Delta table {self.path(table)}.",
                next_step=f"materialize the asset {table}, or check CHURN_TABLE_PREFIX and the session's catalogs",
            )
        return pinned

    def _asked(self, statement: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.spark.sql(statement).toArrow().to_pylist(maps_as_pydicts="lossy")
        return rows

    # --- rows ---

    def read(
        self, table: str, version: int | None = None, *, dates: tuple[str, Collection[date]] | None = None
    ) -> "DataFrame":
        from pyspark.errors import AnalysisException
        from pyspark.sql import functions as F

        pinned = self._pinned(table, version)
        try:
            rows = self.spark.read.option("versionAsOf", pinned).table(self.path(table))
            _ = rows.schema  # asked of a server only now
        except AnalysisException as unread:
            if unread.getCondition() not in ("TABLE_OR_VIEW_NOT_FOUND", "DELTA_VERSION_NOT_FOUND"):
                raise
            raise MissingTableError(
                f"{self.path(table)} has no version {pinned}.", next_step="use a later version"
            ) from unread
        return rows if dates is None else rows.where(F.col(dates[0]).isin(list(dates[1])))

    def read_apart(self, table: str, one: int, other: int) -> tuple["DataFrame", "DataFrame"]:
        """Both whole: which files they share belongs to the catalog."""
        return self.read(table, one), self.read(table, other)

    def table_schema(self, table: str, version: int | None = None) -> "StructType":
        return self.read(table, version).schema

    def row_count(self, table: str, version: int | None = None) -> int:
        return self.read(table, version).count()

    def dates(self, table: str, column: str, version: int | None = None) -> list[date]:
        return sorted(day for (day,) in self.counts(table, [column], version) if day is not None)

    def counts(self, table: str, columns: Sequence[str], version: int | None = None) -> Counter[tuple[Any, ...]]:
        counted = self.read(table, version).groupBy(*columns).count().toArrow()
        rows = zip(*[column.to_pylist() for column in counted.columns], strict=True)
        return Counter({row[:-1]: row[-1] for row in rows})

    def bounds(self, table: str, column: str, version: int | None = None) -> tuple[Any, Any]:
        return _ends(self.read(table, version), [column])[column]

    def ends(
        self, table: str, columns: Sequence[str], version: int, *, dates: tuple[str, Collection[date]]
    ) -> dict[str, tuple[Any, Any]]:
        found = _ends(self.read(table, version, dates=dates), columns)
        return {name: ends for name, ends in found.items() if ends[0] is not None}

    def value_count(self, table: str, column: str, version: int | None = None) -> int:
        return self.read(table, version).where(f"`{column}` IS NOT NULL").count()

    def records(self, table: str, version: int | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.read(table, version).toArrow().to_pylist()
        return rows

    def arrow(
        self,
        table: str,
        columns: Sequence[str],
        version: int | None = None,
        *,
        dates: tuple[str, Sequence[date]] | None = None,
    ) -> "pa.Table":
        return self.read(table, version, dates=dates).select(*columns).toArrow()

    def columns(self, table: str, version: int) -> "Callable[[str], pa.ChunkedArray]":
        return lambda name: self.arrow(table, [name], version).column(name)

    def holds_same_rows(self, table: str, one: int, other: int) -> bool:
        from pyarrow.dataset import InMemoryDataset

        if self._commit_of(table, one) == self._commit_of(table, other):
            return True
        frames = [self.read(table, version) for version in (one, other)]
        if len({frozenset((field.name, field.dataType) for field in frame.schema) for frame in frames}) > 1:
            return False
        return len({rows_digest(InMemoryDataset(frame.toArrow())) for frame in frames}) == 1

    # --- writing ---

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
        of_table = None if audit is None else lambda staged: audit(staged[table])
        replaced = None if by is None else Replaced(by)
        return self._publish({table: rows}, of_table, metadata, mode=mode, replaced=replaced, if_empty=if_empty)[0]

    def write_together(
        self,
        tables: Mapping[str, "DataFrame"],
        *,
        audit: Callable[[Mapping[str, "DataFrame"]], Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> list[TableCommit]:
        return self._publish(tables, audit, metadata)

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
        return self._publish(tables, audit, metadata, replaced=Replaced(by, dates, upon))

    def overwrite(
        self, table: str, rows: "pa.Table", *, since: int | None, metadata: Mapping[str, Any] | None = None
    ) -> TableCommit:
        version = self._commit(table, self.frame(rows), self._marked(metadata), since)
        return self.commit(table, version)

    def append_after(self, table: str, version: int | None, rows: "pa.Table") -> int:
        return self._commit(table, self.frame(rows), self._marked(None), version, mode="append")

    def _marked(self, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**self._noted(metadata), "write_id": uuid.uuid4().hex}

    def _publish(
        self,
        tables: Mapping[str, "DataFrame"],
        audit: Callable[[Mapping[str, "DataFrame"]], Any] | None,
        metadata: Mapping[str, Any] | None,
        *,
        mode: Literal["overwrite", "append"] = "overwrite",
        replaced: Replaced | None = None,
        if_empty: Exception | None = None,
    ) -> list[TableCommit]:
        """As `delta.commits.publish`: computed once, under the root, audited there, and committed by the session."""
        noted = self._marked(metadata)
        if replaced is not None and replaced.days is not None:
            noted["dates"] = replaced.days
        begun = {table: self.version(table) for table in tables}
        if replaced is not None and replaced.upon is not None:
            begun = dict.fromkeys(tables, replaced.upon)
        if mode == "append":
            begun = dict.fromkeys(tables, ANY_VERSION)
        with ExitStack() as stack:
            held = {table: stack.enter_context(self.held(rows)) for table, rows in tables.items()}
            if replaced is not None:
                for table, rows in held.items():
                    counted = {row[0]: row[1] for row in rows.groupBy(replaced.by).count().collect()}
                    days = [day.isoformat() for day in counted if day is not None]
                    replaced.require(self.path(table), counted.get(None, 0), days)
            if if_empty is not None and any(rows.isEmpty() for rows in held.values()):
                raise if_empty
            if audit is not None:
                audited = audit(held)
                noted |= {} if audited is None or mode == "append" else {"audit": audited}
            return [
                self.commit(table, self._commit(table, rows, noted, begun[table], mode=mode, replaced=replaced))
                for table, rows in held.items()
            ]

    def _commit(
        self,
        table: str,
        rows: "DataFrame",
        noted: Mapping[str, Any],
        begun: int | None,
        *,
        mode: Literal["overwrite", "append"] = "overwrite",
        replaced: Replaced | None = None,
    ) -> int:
        """The version that has the rows. Raises OvertakenError, with nothing committed, as with paths.

        A transaction of an application has a number, and Delta skips one whose number is not above the last: each is
        tried with the number of the next version, and where another came first it is asked again whether that matters.
        The number and the answer are of one history: who commits after that takes this very number.
        """
        days = None if replaced is None or replaced.upon is not None else replaced.days
        for _ in range(ATTEMPTS):
            history = self._history(table)
            for entry in history:
                if begun is not None and entry["version"] <= begun:
                    break
                if entry["operation"] not in REARRANGING and not is_of_others(_noted_in(entry), days):
                    raise overtaken_by(self.path(table), begun, _noted_in(entry).get("dagster_run_id"))
            if not history:
                self._make(table, rows.schema, replaced)
            number = history[0]["version"] + 1 if history else 1
            options = {"txnAppId": APPLICATION, "txnVersion": str(number), "userMetadata": json.dumps(noted)}
            try:
                writer = rows.writeTo(self.path(table)).options(**options)
                self._put(table, writer, rows.schema, mode, replaced, is_new=not history)
            except engine_errors() as failed:
                if "Concurrent" not in type(failed).__name__ and not any(lost in str(failed) for lost in LOST_RACES):
                    raise
            for entry in self._history(table):
                if entry["version"] >= number and _noted_in(entry).get("write_id") == noted["write_id"]:
                    return int(entry["version"])
        raise overtaken_by(self.path(table), begun, None)

    def _put(
        self,
        table: str,
        writer: "DataFrameWriterV2",
        schema: "StructType",
        mode: Literal["overwrite", "append"],
        replaced: Replaced | None,
        *,
        is_new: bool,
    ) -> None:
        from pyspark.sql import functions as F

        by = [] if replaced is None else [replaced.by]
        if mode == "append":
            writer.option("mergeSchema", "true").append()
        elif replaced is not None and replaced.dates is not None:
            writer = writer.option("mergeSchema", "true")
            writer.overwrite(F.col(replaced.by).isin(list(replaced.dates)) if replaced.dates else F.lit(False))
        elif is_new or (_columns(schema) == _columns(self._raw_schema(table)) and by == self._laid_out_by(table)):
            writer.overwrite(F.lit(True))
        else:
            writer = writer.using("delta").partitionedBy(*by) if by else writer.using("delta")
            for name, value in TABLE_PROPERTIES.items():
                writer = writer.tableProperty(name, value)
            writer.createOrReplace()

    def _raw_schema(self, table: str) -> "StructType":
        return self.spark.read.table(self.path(table)).schema

    def _make(self, table: str, schema: "StructType", replaced: Replaced | None) -> None:
        """Makes the table without a row: what makes one with rows keeps no metadata (delta-spark 4.4.0)."""
        columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in schema)
        by = "" if replaced is None else f"PARTITIONED BY (`{replaced.by}`)"
        properties = ", ".join(f"'{name}' = '{value}'" for name, value in TABLE_PROPERTIES.items())
        try:
            self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self._schema(table)}")
            made = f"CREATE TABLE IF NOT EXISTS {self.path(table)} ({columns}) USING DELTA {by}"
            self.spark.sql(f"{made} TBLPROPERTIES ({properties})")
        except engine_errors() as refused:
            if "DATA_SOURCE_NOT_FOUND" not in str(refused) and "DELTA_CONFIGURE_SPARK_SESSION" not in str(refused):
                raise
            raise CatalogUnavailableError(
                f"The session cannot make the Delta table {self.path(table)}: it lacks the connector.",
                [str(refused).splitlines()[0]],
                next_step="put delta-spark's packages and Delta's extension and catalog into spark-defaults.conf "
                "(docs/scaling.md)",
            ) from refused


def _setting(session: "SparkSession", name: str) -> str | None:
    """A property of the session; None where it has none, or does not tell."""
    try:
        return session.conf.get(name, None)
    except engine_errors():
        return None


def _not_with_catalog(what: str) -> NotWithCatalogError:
    return NotWithCatalogError(
        f"CHURN_TABLES is catalog, and {what} is not available there: the files belong to the catalog.",
        next_step="use the catalog's own OPTIMIZE, VACUUM and DELETE (docs/scaling.md), or keep tables by their paths",
    )


def _noted_in(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a commit of this project's says; of another's, whose metadata may be any text, nothing."""
    try:
        noted = json.loads(entry.get("userMetadata") or "{}")
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _columns(schema: "StructType") -> list[tuple[str, Any]]:
    return [(field.name, field.dataType.simpleString()) for field in schema]


def _ends(rows: "DataFrame", columns: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    from pyspark.sql import functions as F

    asked = [
        end(f"`{name}`").alias(f"{number} {end.__name__}")
        for number, name in enumerate(columns)
        for end in (F.min, F.max)
    ]
    (found,) = rows.agg(*asked).toArrow().to_pylist()
    return {name: (found[f"{number} min"], found[f"{number} max"]) for number, name in enumerate(columns)}

"""Where the source tables lie and how their columns map, read from `sources.toml`; opening them with Spark."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.errors import (
    EmptySourceError,
    InvalidSourcesError,
    MissingSourceError,
    SourceEngineError,
    SourceSchemaError,
    UnreadableSourceError,
)
from churn_assets.churn.tables import (
    CAMPAIGN_CONTACTS,
    RETENTION_TABLES,
    SOURCE_TABLES,
    SourceTable,
    check_source_schema,
)
from churn_assets.delta.storage import python_uri, spark_uri
from churn_assets.delta.tables import DeltaTableError, MissingTableError, open_delta
from churn_assets.demo.simulator import DemoSettings
from churn_assets.engines.sessions import engine_errors, reason_of
from churn_assets.resources.configuration import read_toml, validated
from churn_assets.resources.converters import (
    Converter,
    Unreadable,
    converted,
    unreadable_as_canonical,
    unreadable_by_converters,
)
from churn_assets.resources.failed_casts import failed_casts
from churn_assets.resources.feature_tables import BASELINE_TABLE, FeatureDeclaration, feature_table
from churn_assets.resources.source_files import data_files, files_state
from churn_assets.resources.source_reading import Scratch, SourceReading, reading_by, tables_named
from churn_assets.resources.used_columns import ALL_COLUMNS, UsedColumns, used_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class RawSource(BaseModel):
    """Where one table lies and how its values are written.

    format: delta, parquet, csv, or table (a catalog table). path: its folder, file, pattern of files, URI or catalog
    name; `${NAME}` is taken from the environment, and a relative path starts at the folder of sources.toml. options:
    how a CSV file is divided. convert: by raw column, how its values are written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["delta", "parquet", "csv", "table", "select"]
    path: str = Field(min_length=1)
    options: Mapping[str, str | int | float | bool] = {}
    convert: Mapping[str, Converter] = {}


class Source(RawSource):
    """One source table. select: Spark SQL over the raw tables that gives the canonical columns.

    Each configured table is the view `raw_<table>` there. Without a select the raw table has the columns already; with
    nothing but a select the table is made of the others' raw rows.
    """

    select: str | None = None

    @model_validator(mode="before")
    @classmethod
    def made_of_others(cls, given: Any) -> Any:
        is_made = isinstance(given, dict) and "select" in given and "format" not in given and "path" not in given
        return {**given, "format": "select", "path": "select"} if is_made else given


class FeatureTable(Source, FeatureDeclaration):
    """A ready feature table: where it lies, what its columns are, who vouches for it."""


class Sources(BaseModel):
    """The content of sources.toml: `[demo]`, or `[orders]` and perhaps the optional tables, or `[features]` and
    perhaps `[baseline]`.

    raw: further tables, for the selects of the others alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    demo: DemoSettings | None = None
    orders: Source | None = None
    reviews: Source | None = None
    customers: Source | None = None
    features: FeatureTable | None = None
    baseline: Source | None = None
    campaign_contacts: Source | None = None
    opt_outs: Source | None = None
    raw: Mapping[str, RawSource] = {}

    @model_validator(mode="after")
    def one_beginning(self) -> "Sources":
        tables = [table.name for table in (*SOURCE_TABLES, *RETENTION_TABLES)] + ["features", "baseline"]
        own = [name for name in tables if getattr(self, name) is not None]
        if self.demo is None and self.orders is None and self.features is None:
            raise ValueError(
                "needs [orders], the one table that cannot be absent, or [demo]; or [features], a ready feature table"
            )
        of_orders = [table.name for table in SOURCE_TABLES if getattr(self, table.name) is not None]
        if self.features is not None and of_orders:
            raise ValueError(f"has [features] and [{of_orders[0]}]: the panel comes from one of them, remove the other")
        if self.baseline is not None and self.features is None:
            raise ValueError("has [baseline] without [features]: of orders the rule is that of policy.toml")
        if self.demo is not None and own:
            raise ValueError(f"has [demo] and [{own[0]}]: remove [demo] to use your own tables")
        return self

    @property
    def catalogue(self) -> Catalogue:
        """The features of the panel: those that are declared, else those that are computed from orders."""
        return CATALOGUE if self.features is None else self.features.catalogue(has_rule=self.baseline is not None)

    @property
    def panel_tables(self) -> tuple[SourceTable, ...]:
        """The source tables that the panel comes from."""
        if self.features is None:
            return SOURCE_TABLES
        rule = () if self.baseline is None else (BASELINE_TABLE,)
        return (feature_table(self.catalogue), *rule)


def load_sources(path: Path) -> Sources:
    """The sources in the TOML file `path`. Raises InvalidSourcesError naming every wrong key."""
    return validated(Sources, read_toml(path, InvalidSourcesError), path, InvalidSourcesError)


@dataclass(frozen=True)
class Place:
    """Where a source lies. shown: as sources.toml writes it, without the values of variables, which may be secrets."""

    path: str
    shown: str
    values: Mapping[str, str]

    def without_values(self, text: str) -> str:
        """`text`, such as what an engine says of an error, with the variables' names instead of their values."""
        for name, value in sorted(self.values.items(), key=lambda item: -len(item[1])):
            for written in (value, quote(value), quote(value, safe=""), python_uri(value), spark_uri(value)):
                text = text.replace(written, f"${{{name}}}")
        return text


def located(source: RawSource, folder: Path, environ: Mapping[str, str] | None = None) -> Place:
    """The source's path with variables filled in and relative paths made absolute. Raises MissingSourceError."""
    env = os.environ if environ is None else environ
    names = list(dict.fromkeys(re.findall(r"\$\{(\w+)\}", source.path)))
    if unset := [name for name in names if not env.get(name)]:
        raise MissingSourceError(
            f"The path {source.path!r} in sources.toml names variables that are not set.",
            unset,
            next_step=f"set {unset[0]} in the environment of Dagster, or write the path out",
        )
    values = {name: env[name] for name in names}
    path = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], source.path)
    if source.format == "table" or "://" in path:
        return Place(path, source.path, values)
    is_absolute = Path(path).is_absolute()
    return Place(str(folder / path), source.path if is_absolute else str(folder / source.path), values)


@dataclass(frozen=True)
class OpenedSource:
    """The rows of a source table as `select` and converters give them, and the text that no converter could read."""

    rows: "DataFrame"
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class SourceCatalog:
    """The configured sources, and what relative paths are relative to; `demo_root` is where the demo's tables lie.

    scratch: the folder where an engine reaches what Arrow wrote of files that it does not read; "" is this machine.
    """

    sources: Sources
    folder: Path
    demo_root: str
    scratch: str = ""

    def state(self, own: Collection[str] = ()) -> str | None:
        """A short text that changes when a source table does; None where only Spark could tell. Needs no JVM.

        own: the paths of tables that are written here; where one of them is a source, each landing would be news.
        Raises MissingSourceError and UnreadableSourceError.
        """
        states: dict[str, Any] = {}
        for name, source in self._raw_sources().items():
            if source.format == "table":
                return None
            if name in RAW_OF_LISTS or source.format == "select":
                continue
            place = self._place(name, source)
            if place.path.rstrip("/") in own:
                continue
            with _told(name, source, place):
                is_delta = source.format == "delta"
                states[name] = (
                    open_delta(place.path, next_step=CHECK_PATH).version() if is_delta else files_state(place.path)
                )
        return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]

    def is_configured(self, table: SourceTable) -> bool:
        return table.name in self._raw_sources()

    def open(self, spark: "SparkSession", table: SourceTable) -> "DataFrame | None":
        """The rows of `examined` alone."""
        opened = self.examined(spark, table)
        return None if opened is None else opened.rows

    def examined(self, spark: "SparkSession", table: SourceTable) -> OpenedSource | None:
        """The canonical columns of `table`, mapped by its `select`; None if it is not configured.

        They are read before they are given: raises MissingSourceError, EmptySourceError, SourceSchemaError or
        UnreadableSourceError, also where most values of a column cannot be read. No rule about rows is applied.
        """
        source = self._raw_sources().get(table.name)
        if source is None:
            return None
        place = self._place(table.name, source)
        select = source.select if isinstance(source, Source) else None
        with self._explained(spark, table, source, place):
            used = used_columns(table.column_names, select)
            if select is None:
                raw = self.raw(spark, table.name, used)
                rows, unreadable = raw.rows, [*raw.unreadable]
            else:
                own = [] if source.format == "select" else [table.name]
                named = dict.fromkeys([*own, *(name for name in tables_named(select) if name in self._raw_sources())])
                raws = {f"raw_{name}": self.raw(spark, name, used) for name in named}
                reading = reading_by(spark, _scratch(self.scratch))
                rows = reading.selected({name: raw.rows for name, raw in raws.items()}, select)
                unreadable = [each for raw in raws.values() for each in raw.unreadable]
            check_source_schema(table, rows.schema)
            rows = rows.select(*[name for name in rows.columns if name in table.column_names])
            is_empty = not table.may_be_empty and not rows.head(1)
            unreadable += unreadable_as_canonical(rows, table)
        if is_empty:
            raise EmptySourceError(
                f"Source table {table.name} ({source.format} at {place.shown}) has no rows.",
                next_step=f"load it first, or check path and select under [{table.name}] in sources.toml",
            )
        if any(each.is_most for each in unreadable):
            raise UnreadableSourceError(
                f"Source table {table.name} ({source.format} at {place.shown}): most values of a column cannot be read "
                "as what it holds.",
                [str(each) for each in unreadable if each.is_most],
                next_step=f"say under [{table.name}.convert] in sources.toml how these values are written, such as "
                '{ number = "1.234,56" } or { time = "dd.MM.yyyy HH:mm", zone = "Europe/Berlin" }',
            )
        return OpenedSource(rows, tuple(unreadable))

    def explained(self, spark: "SparkSession", table: SourceTable) -> AbstractContextManager[None]:
        """Within it what an engine says of the rows of `table` is told as the source's fault, by table and column."""
        source = self._raw_sources().get(table.name)
        return (
            nullcontext() if source is None else self._explained(spark, table, source, self._place(table.name, source))
        )

    def raw(self, spark: "SparkSession", name: str, used: UsedColumns = ALL_COLUMNS) -> OpenedSource:
        """The used columns of the raw rows that selects know as `raw_<name>`, as its converters give them.

        Raises MissingSourceError or UnreadableSourceError.
        """
        source = self._raw_sources()[name]
        place = self._place(name, source)
        with _told(name, source, place):
            if source.format == "select":
                raise UnreadableSourceError(
                    f"raw_{name} has no rows of its own: it is made of others.",
                    next_step=f"name the tables that the select under [{name}] reads",
                )
            converters = {column: each for column, each in source.convert.items() if used.has(column)}
            rows = _read(reading_by(spark, _scratch(self.scratch)), source, place.path, used)
            unreadable = unreadable_by_converters(rows, converters)
            return OpenedSource(converted(rows, converters), tuple(unreadable))

    def _raw_sources(self) -> dict[str, RawSource]:
        """All tables by the names that selects know them by, without `raw_`."""
        if self.sources.demo is not None:
            return {table.name: Source(format="delta", path=table.name) for table in SIMULATED}
        tables = (*self.sources.panel_tables, *RETENTION_TABLES)
        named = {table.name: getattr(self.sources, table.name) for table in tables}
        return {**self.sources.raw, **{name: source for name, source in named.items() if source is not None}}

    def _place(self, name: str, source: RawSource) -> Place:
        if self.sources.demo is not None:
            path = f"{self.demo_root}/{name}"
            return Place(path, path, {})
        if source.format == "select":
            return Place("", "sources.toml", {})
        return located(source, self.folder)

    @contextmanager
    def _explained(self, spark: "SparkSession", table: SourceTable, source: RawSource, place: Place) -> Iterator[None]:
        try:
            with _told(table.name, source, place):
                yield
        except SourceEngineError:
            select = source.select if isinstance(source, Source) else None
            failed = [] if select is None else failed_casts(spark, select)
            if not failed:
                raise
            raise UnreadableSourceError(
                f"Source table {table.name}: values cannot be cast as its select says.",
                [place.without_values(each) for each in failed],
                next_step=f"say under [{table.name}.convert] in sources.toml how these values are written, or write "
                "TRY_CAST, which makes them null",
            ) from None


SIMULATED = (*SOURCE_TABLES, CAMPAIGN_CONTACTS)
# A change of these gives no new features.
RAW_OF_LISTS = tuple(table.name for table in RETENTION_TABLES)
CHECK_PATH = "check the path"


@cache
def _scratch(root: str) -> Scratch:
    return Scratch(root)


def _read(reading: SourceReading, source: RawSource, path: str, used: UsedColumns) -> "DataFrame":
    if source.format == "delta":
        return reading.delta(open_delta(path, next_step=CHECK_PATH), used)
    if source.format == "table":
        return reading.catalog_table(path)
    files = data_files(path)
    if not files:
        raise MissingTableError(f"There is nothing at {path}.", next_step=CHECK_PATH)
    if source.format == "csv":
        return reading.csv(files, source.options, used)
    return reading.parquet(path, files, source.options, used)


@contextmanager
def _told(name: str, source: RawSource, place: Place) -> Iterator[None]:
    """Whatever keeps a table from being read is told by its name, and by its path as sources.toml has it.

    Without what it comes from, whose text would show the values of variables.
    """
    told = f"Source table {name} ({source.format} at {place.shown})"
    try:
        yield
    except MissingTableError:
        raise _missing(name, source, place) from None
    except (SourceSchemaError, MissingSourceError):
        raise
    except UnreadableSourceError as unreadable:
        if unreadable.summary.startswith("Source table "):
            raise
        raise type(unreadable)(
            place.without_values(f"{told} is not read: {unreadable.summary}"),
            [place.without_values(problem) for problem in unreadable.problems],
            next_step=place.without_values(f"under [{name}] in sources.toml, {unreadable.next_step}"),
        ) from None
    except DeltaTableError as unopened:
        raise UnreadableSourceError(
            place.without_values(f"{told} cannot be opened: {unopened.summary}"),
            [place.without_values(problem) for problem in unopened.problems],
            next_step=place.without_values(unopened.next_step),
        ) from None
    except engine_errors() as failed:
        raise SourceEngineError(
            f"{told} cannot be read.",
            [place.without_values(reason_of(failed))],
            next_step=f"check format, path, options and select under [{name}] in sources.toml",
        ) from None


def _missing(name: str, source: RawSource, place: Place) -> MissingSourceError:
    return MissingSourceError(
        f"Source table {name}: there is nothing at {place.shown} ({source.format}).",
        next_step=f"correct `path` under [{name}] in sources.toml, or create the table "
        "(the demo's tables are made by `make demo`, or by materializing the group `demo`)",
    )

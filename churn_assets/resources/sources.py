"""Where the source tables lie and how their columns map, read from `sources.toml`; opening them with Spark."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from churn_assets.churn.errors import (
    EmptySourceError,
    InvalidSourcesError,
    MissingSourceError,
    UnreadableSourceError,
)
from churn_assets.churn.tables import CAMPAIGN_CONTACTS, RETENTION_TABLES, SOURCE_TABLES, SourceTable
from churn_assets.delta.reading import read_delta
from churn_assets.delta.tables import MissingTableError, open_delta, row_count
from churn_assets.demo.simulator import DemoSettings
from churn_assets.engines.sessions import engine_errors, reason_of
from churn_assets.resources.configuration import read_toml, validated
from churn_assets.resources.source_reading import FencedSourceError, holds_files, reading_by

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Source(BaseModel):
    """One source table.

    format: delta, parquet, csv, or table (a catalog table). path: its folder, file, URI or catalog name; `${NAME}` is
    taken from the environment, and a relative path starts at the folder of sources.toml. options: for Spark's reader.
    select: Spark SQL over the view `raw_<table>` that gives the canonical columns; without it the raw table has them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["delta", "parquet", "csv", "table"]
    path: str = Field(min_length=1)
    options: Mapping[str, str | int | float | bool] = {}
    select: str | None = None


class Sources(BaseModel):
    """The content of sources.toml: either `[demo]`, or `[orders]` and perhaps the optional tables."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    demo: DemoSettings | None = None
    orders: Source | None = None
    reviews: Source | None = None
    customers: Source | None = None
    campaign_contacts: Source | None = None
    opt_outs: Source | None = None

    @model_validator(mode="after")
    def demo_or_orders(self) -> "Sources":
        tables = [table.name for table in (*SOURCE_TABLES, *RETENTION_TABLES)]
        own = [name for name in tables if getattr(self, name) is not None]
        if self.demo is None and self.orders is None:
            raise ValueError("needs [orders], the one table that cannot be absent, or [demo]")
        if self.demo is not None and own:
            raise ValueError(f"has [demo] and [{own[0]}]: remove [demo] to use your own tables")
        return self


def load_sources(path: Path) -> Sources:
    """The sources in the TOML file `path`. Raises InvalidSourcesError naming every wrong key."""
    return validated(Sources, read_toml(path, InvalidSourcesError), path, InvalidSourcesError)


def located(source: Source, folder: Path, environ: Mapping[str, str] | None = None) -> str:
    """The source's path with variables filled in and relative paths made absolute. Raises MissingSourceError."""
    env = os.environ if environ is None else environ
    unset = [name for name in re.findall(r"\$\{(\w+)\}", source.path) if not env.get(name)]
    if unset:
        raise MissingSourceError(
            f"The path {source.path!r} in sources.toml names variables that are not set.",
            unset,
            next_step=f"set {unset[0]} in the environment of Dagster, or write the path out",
        )
    path = re.sub(r"\$\{(\w+)\}", lambda match: env[match[1]], source.path)
    if source.format == "table" or "://" in path:
        return path
    return str(folder / path)


@dataclass(frozen=True)
class SourceCatalog:
    """The configured sources, and what relative paths are relative to; `demo_root` is where the demo's tables lie."""

    sources: Sources
    folder: Path
    demo_root: str

    def state(self) -> str | None:
        """A short text that changes when a source table does; None where only Spark could tell. Needs no JVM.

        Raises MissingSourceError and MissingTableError.
        """
        states: dict[str, Any] = {}
        for table in SOURCE_TABLES:
            place = self._place(table)
            if place is None:
                continue
            source, path = place
            if source.format == "table":
                return None
            is_delta = source.format == "delta"
            states[table.name] = (
                open_delta(path, next_step="check the path").version() if is_delta else _file_state(path)
            )
        return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]

    def open(self, spark: "SparkSession", table: SourceTable) -> "DataFrame | None":
        """The raw rows of `table`, mapped by its `select`; None if it is not configured.

        Raises MissingSourceError, UnreadableSourceError or EmptySourceError. Columns and rows are not judged here.
        """
        place = self._place(table)
        return None if place is None else _open(spark, table, *place)

    def _place(self, table: SourceTable) -> tuple[Source, str] | None:
        if self.sources.demo is not None:
            is_simulated = table in (*SOURCE_TABLES, CAMPAIGN_CONTACTS)
            path = f"{self.demo_root}/{table.name}"
            return (Source(format="delta", path=table.name), path) if is_simulated else None
        source: Source | None = getattr(self.sources, table.name)
        return None if source is None else (source, located(source, self.folder))


def _file_state(path: str) -> list[tuple[str, int, str]]:
    """Name, size and time of each file at `path`, a file or a folder."""
    from pyarrow.fs import FileSelector, FileSystem, FileType

    filesystem, place = FileSystem.from_uri(path) if "://" in path else FileSystem.from_uri(Path(path).as_uri())
    info = filesystem.get_file_info(place)
    files = filesystem.get_file_info(FileSelector(place, recursive=True)) if info.type == FileType.Directory else [info]
    return sorted((file.path, file.size or 0, str(file.mtime)) for file in files if file.type == FileType.File)


def _open(spark: "SparkSession", table: SourceTable, source: Source, path: str) -> "DataFrame":
    if source.format in ("parquet", "csv") and _is_nothing(path):
        raise _missing(table, source, path)
    try:
        rows = _mapped(spark, table, source, path)
        is_empty = not table.may_be_empty and _is_empty(rows, source, path)
    except MissingTableError as missing:
        raise _missing(table, source, path) from missing
    except FencedSourceError as fenced:
        raise FencedSourceError(
            f"Source table {table.name} ({source.format} at {path}) is not read: {fenced.args[0].splitlines()[0]}",
            fenced.problems,
            next_step=f"change what is named (path, options, select under [{table.name}] in sources.toml), or set "
            "CHURN_ENGINE=local: Spark reads it",
        ) from fenced
    except engine_errors() as unreadable:
        raise UnreadableSourceError(
            f"Source table {table.name} ({source.format} at {path}) cannot be read.",
            [reason_of(unreadable)],
            next_step=f"check format, path, options and select under [{table.name}] in sources.toml",
        ) from unreadable
    if is_empty:
        raise EmptySourceError(
            f"Source table {table.name} ({source.format} at {path}) has no rows.",
            next_step=f"load it first, or check path and select under [{table.name}] in sources.toml",
        )
    return rows


def _mapped(spark: "SparkSession", table: SourceTable, source: Source, path: str) -> "DataFrame":
    reading = reading_by(spark)
    if source.format == "delta":
        raw = read_delta(spark, open_delta(path, next_step="check the path"))
    elif source.format == "table":
        raw = reading.catalog_table(path)
    else:
        raw = reading.files(source.format, path, source.options)
    return raw if source.select is None else reading.selected(raw, f"raw_{table.name}", source.select)


def _is_empty(rows: "DataFrame", source: Source, path: str) -> bool:
    """A Delta table's log tells without a query."""
    if source.format == "delta" and source.select is None:
        return row_count(open_delta(path, next_step="check the path")) == 0
    return rows.isEmpty()


def _is_nothing(path: str) -> bool:
    """Whether there is no file at `path`; of a URI with a pattern only Spark can tell."""
    if "://" not in path:
        return not Path(path).exists() or not holds_files(path)
    return not any(sign in path for sign in "*?[{") and not holds_files(path)


def _missing(table: SourceTable, source: Source, path: str) -> MissingSourceError:
    return MissingSourceError(
        f"Source table {table.name}: there is nothing at {path} ({source.format}).",
        next_step=f"correct `path` under [{table.name}] in sources.toml, or create the table "
        "(the demo's tables are made by `make demo`, or by materializing the group `demo`)",
    )

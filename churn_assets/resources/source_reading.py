"""How files, Delta and catalog tables and a `select` of sources.toml are read: the one place that goes by the engine.

CSV, and what no engine reads of Parquet, is written by Arrow as Parquet that all read alike. What of a `select` Sail
would answer otherwise is refused by name. Which engine reads what otherwise was found by trying both (pysail 0.7.2,
Spark 4.2.0).
"""

import atexit
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.delta.reading import dataset_of, read_delta, require_files
from churn_assets.delta.storage import delete_folder, filesystem_of, make_folder, python_uri, spark_uri
from churn_assets.delta.tables import files_of, schema_of
from churn_assets.engines.select_fence import select_problems
from churn_assets.engines.sessions import is_sail
from churn_assets.resources.csv_files import Options, dialect_of, write_parquet_of_csv
from churn_assets.resources.parquet_files import (
    ABSENT,
    FileColumns,
    as_readable,
    columns_of,
    common_schema,
    folder_columns,
    written_anew,
)
from churn_assets.resources.source_files import base_folder, partition_values
from churn_assets.resources.used_columns import UsedColumns

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession


class FencedSourceError(UnreadableSourceError):
    """The chosen engine would read a source otherwise than Spark, or it is not known that it would not."""


class Scratch:
    """Folders for what Arrow wrote, where the engine reaches them; gone when the process ends.

    They are kept until then: frames over them are read when their rows are asked for. root: "" for one of this machine.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._kept: list[TemporaryDirectory[str]] = []

    def folder(self) -> str:
        if not self._root:
            self._kept.append(TemporaryDirectory(prefix="churn-sources-"))
            return self._kept[-1].name
        path = f"{self._root.rstrip('/')}/{uuid.uuid4().hex}"
        make_folder(path)
        atexit.register(delete_folder, path)
        return path


class SourceReading:
    """Raw rows by each of the ways that sources.toml knows, and a `select` over them.

    Of files and Delta tables only `used` columns are read, so the others may be of any name and type.
    """

    def __init__(self, session: "SparkSession", scratch: Scratch) -> None:
        self._session = session
        self._scratch = scratch

    def csv(self, files: Sequence[str], options: Options, used: UsedColumns) -> "DataFrame":
        """The rows of CSV files, all text. Raises UnreadableSourceError as `write_parquet_of_csv`."""
        from pyspark.sql import types as T

        target = f"{self._scratch.folder()}/rows.parquet"
        names = write_parquet_of_csv(files, dialect_of(options), used, target)
        return self._parquet([target], T.StructType([T.StructField(name, T.StringType()) for name in names]))

    def parquet(self, path: str, files: Sequence[str], options: Options, used: UsedColumns) -> "DataFrame":
        """The rows of Parquet files. Raises UnreadableSourceError as `common_schema` and `folder_columns`."""
        import pyarrow as pa

        if options:
            raise UnreadableSourceError(
                "Parquet files are read without options.", sorted(options), next_step="remove `options`"
            )
        base = base_folder(path)
        found = columns_of(files)
        schema = common_schema(found, used)
        values = {each.file: _absent_from(each, partition_values(base, each.file)) for each in found}
        of_folders, constants = folder_columns(values, used)
        whole = _spark_schema(pa.schema([*schema, *of_folders]), found[0].of_96_bits)
        unlike = [each.file for each in found if not all(each.reads_as(field.name, field.type) for field in schema)]
        is_plain = not unlike and all(_is_decoded_alike(file) for file in files)
        if of_folders.names and is_plain and self._reads_folders:
            return self._by_folders(base, files, whole)
        anew = files if of_folders.names else unlike
        return self._parquet(self._readable(files, anew, pa.schema([*schema, *of_folders]), constants), whole)

    def delta(self, table: "DeltaTable", used: UsedColumns) -> "DataFrame":
        """The rows of an opened Delta table version. Raises MissingFileError."""
        from pyspark.sql import types as T

        whole, partitions, actions = schema_of(table), table.metadata().partition_columns, files_of(table)
        fields = [field for field in whole if used.has(field.name)]
        schema = T.StructType(fields)
        if not actions or not fields:
            return read_delta(self._session, table).select(*[_quoted(field.name) for field in fields])
        paths = [unquote(action["path"]) for action in actions]
        require_files(table, paths)
        is_parted = any(field.name in partitions for field in fields)
        if is_parted and not (self._reads_folders and _folders_say(paths, partitions, actions)):
            return self._through_arrow(table, schema)
        folder = spark_uri(unquote(table.table_uri)).rstrip("/")
        files = [f"{folder}/{path}" for path in paths]
        unlike = self._with_nanoseconds(files, schema)
        if not is_parted:
            return self._parquet(self._readable(files, unlike, _arrow_schema(schema), {}), schema)
        return self._through_arrow(table, schema) if unlike else self._by_folders(folder, files, schema)

    def catalog_table(self, name: str) -> "DataFrame":
        """The rows of a catalog's table."""
        return self._session.table(name)

    def selected(self, views: "Mapping[str, DataFrame]", select: str) -> "DataFrame":
        """What `select` makes of the raw rows, which it calls by the names of `views`."""
        for name, rows in views.items():
            rows.createOrReplaceTempView(name)
        return self._session.sql(select)

    def _parquet(self, files: Sequence[str], schema: Any) -> "DataFrame":
        return self._session.read.schema(schema).parquet(*map(self._address, files))

    _reads_folders = True

    def _address(self, path: str) -> str:
        """The files are known: no character of their names is a pattern."""
        return re.sub(r"([*?\[\]{}\\])", r"\\\1", spark_uri(path))

    def _readable(
        self, files: Sequence[str], unlike: Sequence[str], schema: "pa.Schema", constants: Mapping[str, Any]
    ) -> list[str]:
        """The files, those among them that engines do not read written anew."""
        if not unlike:
            return list(files)
        folder, apart = self._scratch.folder(), set(unlike)
        readable = []
        for number, file in enumerate(files):
            readable.append(f"{folder}/{number:06}.parquet" if file in apart else file)
            if file in apart:
                written_anew(file, schema, readable[-1], constants.get(file, {}))
        return readable

    def _with_nanoseconds(self, files: Sequence[str], schema: Any) -> list[str]:
        """Delta knows no nanoseconds; a table made of Parquet files that have them has them all the same."""
        from pyarrow import types

        times = [field.name for field in schema if field.dataType.typeName().startswith("timestamp")]
        if not times:
            return []
        found = columns_of(files)
        kinds = [
            (file, [each.kinds[name] for name in times if name in each.kinds and name not in each.of_96_bits])
            for file, each in zip(files, found, strict=True)
        ]
        return [file for file, of_file in kinds if any(types.is_timestamp(k) and k.unit == "ns" for k in of_file)]

    def _by_folders(self, base: str, files: Sequence[str], schema: Any) -> "DataFrame":
        """One read for all files: a frame for each combination of values took 0.3 s on Spark (2026-11)."""
        rows = self._session.read.schema(schema).option("basePath", spark_uri(base)).parquet(*map(self._address, files))
        # It puts what folders say behind the other columns.
        return rows.select(*[_quoted(name) for name in schema.fieldNames()])

    def _through_arrow(self, table: "DeltaTable", schema: Any) -> "DataFrame":
        import pyarrow.parquet as pq

        target, wanted = f"{self._scratch.folder()}/rows.parquet", _arrow_schema(schema)
        filesystem, place = filesystem_of(target)
        # Read once and thrown away: looking for values that come again took half of the writing.
        alike = [name for name in table.metadata().partition_columns if name in wanted.names]
        with pq.ParquetWriter(
            place, wanted, filesystem=filesystem, compression="lz4", use_dictionary=alike or False
        ) as writer:
            for batch in dataset_of(table).to_batches(columns=wanted.names):
                writer.write_batch(_batch(batch, wanted))
        return self._parquet([target], schema)


class SailReading(SourceReading):
    """As Spark reads. Raises FencedSourceError for whatever is not known to come out equal."""

    # It gives no value of a folder to files that are named one by one (pysail 0.7.2).
    _reads_folders = False

    def catalog_table(self, name: str) -> "DataFrame":
        raise _fenced(f"Sail, in this process, knows no catalog, and so no table {name}.")

    def selected(self, views: "Mapping[str, DataFrame]", select: str) -> "DataFrame":
        if problems := select_problems(select, {name: dict(rows.dtypes) for name, rows in views.items()}):
            raise _fenced("On Sail this select may not give what it gives on Spark.", problems)
        return super().selected(views, select)

    def _address(self, path: str) -> str:
        """Sail decodes a URI and takes some characters of a bare path as a pattern."""
        return python_uri(path) if "://" in path else Path(path).absolute().as_uri()


def reading_by(session: "SparkSession", scratch: Scratch) -> SourceReading:
    """The way of reading for the engine that answers this session."""
    return SailReading(session, scratch) if is_sail(session) else SourceReading(session, scratch)


def tables_named(select: str) -> list[str]:
    """The raw tables that a `select` names."""
    return sorted(set(map(str.lower, re.findall(r"\braw_(\w+)", select, flags=re.IGNORECASE))))


def _absent_from(file: FileColumns, values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if name not in file.kinds}


def _is_decoded_alike(path: str) -> bool:
    """Of letters beyond ASCII that are written as %C3%BC Spark makes one for each of their bytes."""
    return "%" not in path or unquote(path).isascii()


def _folders_say(paths: Sequence[str], partitions: Sequence[str], actions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the folders' names say what the log says, as nearly all writers have it."""
    for path, action in zip(paths, actions, strict=True):
        told = [folder.partition("=") for folder in path.split("/")[:-1]]
        if [unquote(name) for name, _, _ in told] != list(partitions) or not _is_decoded_alike(path):
            return False
        for (_, _, text), name in zip(told, partitions, strict=True):
            value = action[f"partition.{name}"]
            # Dates and whole numbers are spelled in one way only; an empty text is a folder's null.
            is_same = unquote(text) == (ABSENT if value is None else str(value))
            if not is_same or value == "" or not isinstance(value, str | date | int | None) or isinstance(value, bool):
                return False
    return True


def _spark_schema(schema: "pa.Schema", of_96_bits: frozenset[str]) -> Any:
    from pyspark.sql import types as T
    from pyspark.sql.pandas.types import from_arrow_type

    return T.StructType(
        [
            T.StructField(field.name, T.TimestampType() if field.name in of_96_bits else from_arrow_type(field.type))
            for field in schema
        ]
    )


def _arrow_schema(schema: Any) -> "pa.Schema":
    from pyspark.sql.pandas.types import to_arrow_schema

    return to_arrow_schema(schema, timezone="UTC")


def _batch(batch: "pa.RecordBatch", schema: "pa.Schema") -> "pa.RecordBatch":
    import pyarrow as pa

    return pa.record_batch([as_readable(batch.column(each.name), each.type) for each in schema], schema=schema)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _fenced(summary: str, problems: Sequence[str] = ()) -> FencedSourceError:
    return FencedSourceError(
        summary,
        problems,
        next_step="change what is named (path, options, select), or set CHURN_ENGINE=local: Spark reads it",
    )

"""How files, catalog tables and a `select` of sources.toml are read: the one place that goes by which engine answers.

Spark reads them as it does. Where Sail would read them otherwise, they are read by Arrow to the same rows, or refused
by name. Which engine reads what otherwise was found by trying both (pysail 0.7.2, Spark 4.2.0).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.delta.storage import filesystem_of, python_uri
from churn_assets.engines.select_fence import select_problems
from churn_assets.engines.sessions import is_sail

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

Options = Mapping[str, str | int | float | bool]
# What Arrow made of CSV files lies here until the process ends: frames over it are read when their rows are asked for.
_KEPT: list[TemporaryDirectory[str]] = []


class FencedSourceError(UnreadableSourceError):
    """The chosen engine would read a source otherwise than Spark, or it is not known that it would not."""


class SourceReading(Protocol):
    """Raw rows by each of the ways that sources.toml knows, and a `select` over them."""

    def files(self, kind: Literal["parquet", "csv"], path: str, options: Options) -> "DataFrame":
        """The rows of a file, or of a folder's files."""

    def catalog_table(self, name: str) -> "DataFrame":
        """The rows of a catalog's table."""

    def selected(self, raw: "DataFrame", view: str, select: str) -> "DataFrame":
        """What `select` makes of the rows `raw`, which it calls `view`."""


def reading_by(session: "SparkSession") -> SourceReading:
    """The way of reading for the engine that answers this session."""
    return SailReading(session) if is_sail(session) else SparkReading(session)


class SparkReading:
    """As Spark reads."""

    def __init__(self, session: "SparkSession") -> None:
        self._session = session

    def files(self, kind: Literal["parquet", "csv"], path: str, options: Options) -> "DataFrame":
        given: dict[str, Any] = {"header": True, **options} if kind == "csv" else dict(options)
        return self._session.read.format(kind).options(**given).load(path)

    def catalog_table(self, name: str) -> "DataFrame":
        return self._session.table(name)

    def selected(self, raw: "DataFrame", view: str, select: str) -> "DataFrame":
        raw.createOrReplaceTempView(view)
        return self._session.sql(select)


class SailReading(SparkReading):
    """As Spark reads, by Sail or by Arrow. Raises FencedSourceError for whatever is not known to come out equal."""

    def files(self, kind: Literal["parquet", "csv"], path: str, options: Options) -> "DataFrame":
        files = data_files(path)
        if kind == "parquet":
            if options:
                raise _fenced("Sail does not know these options of Spark's reader.", sorted(options))
            _require_one_schema(files)
            return self._session.read.parquet(*map(_address, files))
        folder = TemporaryDirectory(prefix="churn-csv-")
        _KEPT.append(folder)
        _write_parquet_of_csv(files, options, Path(folder.name) / "rows.parquet")
        return self._session.read.parquet(folder.name)

    def catalog_table(self, name: str) -> "DataFrame":
        raise _fenced(f"Sail, in this process, knows no catalog, and so no table {name}.")

    def selected(self, raw: "DataFrame", view: str, select: str) -> "DataFrame":
        if problems := select_problems(select, dict(raw.dtypes), view):
            raise _fenced("On Sail this select may not give what it gives on Spark.", problems)
        return super().selected(raw, view, select)


def holds_files(path: str) -> bool:
    """Whether `path` is a file or a folder with anything to read in it, at whatever depth."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, place = filesystem_of(path)
    if filesystem.get_file_info(place).type == FileType.File:
        return True
    found = filesystem.get_file_info(FileSelector(place, allow_not_found=True, recursive=True))
    return any(file.type == FileType.File and not file.base_name.startswith(("_", ".")) for file in found)


def data_files(path: str) -> list[str]:
    """The files that Spark would read of `path`, a file or folder. Raises FencedSourceError for folders in a folder."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, place = filesystem_of(path)
    info = filesystem.get_file_info(place)
    if info.type == FileType.File:
        return [path]
    found = filesystem.get_file_info(FileSelector(place, allow_not_found=True))
    shown = sorted((file for file in found if not file.base_name.startswith(("_", "."))), key=lambda file: file.path)
    if folders := [file.base_name for file in shown if file.type == FileType.Directory]:
        raise _fenced(f"Sail reads folders in a folder otherwise than Spark, and {path} has some.", folders[:5])
    return [f"{path.rstrip('/')}/{file.base_name}" for file in shown]


def _address(path: str) -> str:
    """Sail decodes a URI and takes some characters of a bare path as a pattern."""
    return python_uri(path) if "://" in path else Path(path).absolute().as_uri()


def _require_one_schema(files: Sequence[str]) -> None:
    """Spark takes one file's schema for all, Sail merges them; some types only one of the two reads."""
    import pyarrow.parquet as pq
    from pyarrow import types

    schemas, rows = {}, 0
    for file in files:
        filesystem, place = filesystem_of(file)
        with pq.ParquetFile(place, filesystem=filesystem) as opened:
            schemas[file] = opened.schema_arrow
            rows += opened.metadata.num_rows
    first = schemas[files[0]]
    columns = {field.name: field.type for field in first}
    others = [file for file in files if {field.name: field.type for field in schemas[file]} != columns]
    if others:
        raise _fenced(f"Sail reads files with different columns otherwise than Spark: {files[0]} and", others[:5])
    if alike := [name for name, count in Counter(map(str.lower, first.names)).items() if count > 1]:
        raise _fenced("Columns differ by the case of their names alone.", alike)
    # pandas writes text of which there is none as a column without a type.
    judged = [field for field in first if rows or not types.is_null(field.type)]
    if unread := [f"{field.name}: {field.type}" for field in judged if not _is_read_alike(field.type)]:
        raise _fenced("Columns have types that Sail does not read as Spark does.", unread)


def _is_read_alike(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_struct(kind) or types.is_map(kind):
        return all(_is_read_alike(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_timestamp(kind):
        return bool(kind.unit != "ns")
    alike = (
        types.is_boolean,
        types.is_signed_integer,
        types.is_float32,
        types.is_float64,
        types.is_decimal128,
        types.is_date32,
        types.is_string,
        types.is_large_string,
        types.is_binary,
    )
    return any(is_of(kind) for is_of in alike)


# ---- CSV

# Options of Spark's reader that Arrow can be told, and those that say nothing while all columns are text.
TOLD = {"header", "sep", "delimiter", "quote", "escape", "nullvalue", "encoding", "charset"}
WITHOUT_EFFECT = {"dateformat", "timestampformat", "timestampntzformat"}


def _write_parquet_of_csv(files: Sequence[str], options: Options, target: Path) -> None:
    """The rows of CSV files with one header, all text, as Spark's reader gives them: in one Parquet file."""
    import pyarrow.parquet as pq

    told = _told(options)
    writer = None
    names: list[str] = []
    for file in files:
        filesystem, place = filesystem_of(file)
        with filesystem.open_input_stream(place) as stream:
            content = stream.read()
        if not content:
            continue
        table = _csv_rows(file, content, told)
        if writer is None:
            names = table.column_names
            writer = pq.ParquetWriter(target, table.schema)
        if table.column_names != names:
            raise _fenced(
                f"Spark would read {file} by the place of its columns, which are not those of the first file.",
                [f"{', '.join(names)} in the first, {', '.join(table.column_names)} in this"],
            )
        writer.write_table(table)
    if writer is None:
        raise UnreadableSourceError("The CSV files are empty: they have no header.", files[:5], next_step="load them")
    writer.close()


def _told(options: Options) -> dict[str, str]:
    """The options by their names in small letters. Raises FencedSourceError for those whose effect is not known."""
    given = {name.lower(): str(value) for name, value in options.items()}
    problems = [name for name in options if name.lower() not in TOLD | WITHOUT_EFFECT]
    told = {"header": "true", "sep": given.pop("delimiter", ","), "escape": "\\", "quote": '"', "nullvalue": ""} | given
    told["sep"] = "\t" if told["sep"] == "\\t" else told["sep"]
    told["header"] = told["header"].lower()
    if len(told["sep"]) != 1 or told["sep"] in '"\\\r\n' or not told["sep"].isascii():
        problems.append(f"sep = {told['sep']!r}: only one ASCII character")
    if told["header"] not in ("true", "false"):
        problems.append(f"header = {told['header']!r}: only true or false")
    if told["quote"] != '"':
        problems.append(f"quote = {told['quote']!r}: only a double quote")
    if told["escape"] not in ('"', "\\"):
        problems.append(f"escape = {told['escape']!r}: only a double quote, or Spark's own default, a backslash")
    for name in ("encoding", "charset"):
        if told.get(name, "utf-8").lower() not in ("utf-8", "utf8"):
            problems.append(f"{name} = {told[name]!r}: only UTF-8")
    if problems:
        raise _fenced("Not known of these options of Spark's CSV reader is how Arrow would do the same.", problems)
    return told


def _csv_rows(file: str, content: bytes, told: Mapping[str, str]) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    content = content.removeprefix(b"\xef\xbb\xbf")
    _require_plain_csv(file, content, told)
    has_header = told["header"] == "true"
    read = csv.ReadOptions(autogenerate_column_names=not has_header, use_threads=False, block_size=len(content) + 1)
    parse = csv.ParseOptions(delimiter=told["sep"])
    header = _csv_names(file, content, read, parse)
    convert = csv.ConvertOptions(
        column_types={name: pa.string() for name in header},
        null_values=["", told["nullvalue"]],
        strings_can_be_null=True,
    )
    try:
        table = csv.read_csv(pa.BufferReader(content), read, parse, convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as unread:
        raise _fenced(f"Arrow cannot read {file}, of which Spark makes something.", [str(unread)]) from unread
    broken = [name for name in table.column_names if _has_line_break(table.column(name))]
    if broken:
        raise _fenced(f"Spark would end rows of {file} within quotes, in", broken)
    return table if has_header else table.rename_columns([f"_c{place}" for place in range(table.num_columns)])


def _csv_names(file: str, content: bytes, read: Any, parse: Any) -> list[str]:
    """The header's names. Raises FencedSourceError for those that Spark would give another name."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        names: list[str] = csv.open_csv(pa.BufferReader(content), read, parse).schema.names
    except (pa.ArrowInvalid, UnicodeDecodeError) as unread:
        raise _fenced(f"Arrow cannot read {file}, of which Spark makes something.", [str(unread)]) from unread
    counts = Counter(map(str.lower, names))
    if renamed := sorted({name for name in names if not name.strip() or counts[name.lower()] > 1}):
        raise _fenced(f"Spark would rename columns of {file}, whose names are empty or there twice.", renamed)
    return names


def _require_plain_csv(file: str, content: bytes, told: Mapping[str, str]) -> None:
    """Raises FencedSourceError for text that Spark's parser and Arrow's divide otherwise."""
    sep = re.escape(told["sep"].encode())
    problems = []
    if re.search(rb"(?m)^[\x00-\x09\x0b\x0c\x0e-\x20]+\r?$", content):
        problems.append("lines of blanks alone")
    if b"\r" in content.replace(b"\r\n", b""):
        problems.append("lines that end without a line feed")
    if told["escape"] == "\\" and b'"' in content and b"\\" in content:
        problems.append('backslashes beside quotes (without backslashes, escape = "\\"" reads doubled quotes)')
    if content.count(b'"') % 2:
        problems.append("a quote that is not closed")
    quotes = content.replace(b'""', b"") if told["escape"] == '"' else content
    if re.search(rb"(?<!^)(?<![\r\n]|" + sep + rb')"(?![\r\n]|\Z|' + sep + rb")", quotes):
        problems.append('quotes within a value (doubled quotes are read with the option escape = "\\"")')
    if told["nullvalue"] and re.search(rb"(?:^|[\r\n]|" + sep + rb')""(?:[\r\n]|\Z|' + sep + rb")", content):
        problems.append("quoted empty values beside a nullValue")
    if problems:
        raise _fenced(f"{file} has what Arrow reads otherwise than Spark.", problems)


def _has_line_break(column: "pa.ChunkedArray") -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(column, "[\r\n]")).as_py())


def _fenced(summary: str, problems: Sequence[str] = ()) -> FencedSourceError:
    return FencedSourceError(summary, problems, next_step="set CHURN_ENGINE=local, with which Spark reads it")

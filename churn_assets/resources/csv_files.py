"""CSV files as tools write them: rows by the names of their header, every column text. The same on every engine.

A reader of our own, not the engine's: Spark's takes the columns of a folder's files by their places in the first file,
drops what a row has too much of, and does not know that a quote is written twice (Spark 4.2.0, pysail 0.7.2).
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.delta.storage import filesystem_of
from churn_assets.resources.used_columns import UsedColumns

if TYPE_CHECKING:
    import pyarrow as pa

Options = Mapping[str, str | int | float | bool]

# Options of Spark's reader that are understood, and those that say nothing while all columns are text.
KNOWN = (
    "header",
    "sep",
    "delimiter",
    "quote",
    "escape",
    "nullValue",
    "encoding",
    "charset",
    "comment",
    "ignoreLeadingWhiteSpace",
)
WITHOUT_EFFECT = ("dateFormat", "timestampFormat", "timestampNTZFormat", "multiLine", "enforceSchema")
BLANKS = r"\s+"
ROWS_AT_ONCE = 50_000
# What a spreadsheet writes in a comment; the standard library stops at 131,072 characters.
csv.field_size_limit(16 * 1024 * 1024)


@dataclass(frozen=True)
class Dialect:
    """How the text of a CSV file is divided. By default as RFC 4180 says: a quote within quotes is written twice."""

    has_header: bool = True
    sep: str = ","
    quote: str = '"'
    escape: str | None = None
    null_text: str = ""
    encoding: str = "utf-8"
    comment: str = ""
    is_blank_ignored: bool = False


def dialect_of(options: Options) -> Dialect:
    """What `options`, by the names of Spark's reader, say. Raises UnreadableSourceError naming all that is wrong."""
    known = {name.lower(): name for name in (*KNOWN, *WITHOUT_EFFECT)}
    given = {known[name.lower()]: str(value) for name, value in options.items() if name.lower() in known}
    problems = [f"{name}: not known" for name in options if name.lower() not in known]
    flags = {name: given.get(name, default).lower() for name, default in (("header", "true"), (KNOWN[-1], "false"))}
    problems += [f"{name} = {flag!r}: only true or false" for name, flag in flags.items() if flag not in BOOLEANS]
    sep = given.get("sep", given.get("delimiter", ",")).replace("\\t", "\t")
    quote, escape, comment = given.get("quote", '"'), given.get("escape", '"'), given.get("comment", "")
    if sep != BLANKS and (len(sep) != 1 or sep in '"\r\n'):
        problems.append(rf"sep = {sep!r}: one character, or \s+ for any blanks")
    for name, sign in (("quote", quote), ("escape", escape), ("comment", comment)):
        if len(sign) > 1:
            problems.append(f"{name} = {sign!r}: one character at most")
    encoding = given.get("encoding", given.get("charset", "utf-8"))
    try:
        codecs.lookup(encoding)
    except LookupError:
        problems.append(f"encoding = {encoding!r}: no encoding that Python knows")
    if problems:
        raise UnreadableSourceError(
            "The options do not say how to read CSV files.",
            problems,
            next_step=f"use the options {', '.join(KNOWN)}; all columns are text, which `convert` or `select` turns "
            "into numbers and times",
        )
    return Dialect(
        flags["header"] == "true",
        sep,
        quote,
        escape if escape and escape != quote else None,
        given.get("nullValue", ""),
        encoding,
        comment,
        flags[KNOWN[-1]] == "true",
    )


BOOLEANS = ("true", "false")


def write_parquet_of_csv(files: Sequence[str], dialect: Dialect, used: UsedColumns, target: str) -> list[str]:
    """Writes the rows of CSV files as one Parquet file of text columns at `target`; returns the columns' names.

    Columns go by the names in each file's header. One that is not in all files, or twice in one, is left out, or, if it
    is `used`, told. Raises UnreadableSourceError naming files, columns and lines.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    headers = {file: names for file in files if (names := _header(file, dialect)) is not None}
    if not headers:
        raise UnreadableSourceError("The CSV files are empty: they have no header.", files[:5], next_step="load them")
    kept = _columns_of_all(headers, used)
    schema = pa.schema([(name, pa.string()) for name in kept])
    filesystem, place = filesystem_of(target)
    broken = _BrokenRows()
    with pq.ParquetWriter(place, schema, filesystem=filesystem, compression="zstd") as writer:
        for file, names in headers.items():
            places = [names.index(name) for name in kept]
            rows = broken.left_out(file, len(names), _rows(file, dialect))
            if dialect.has_header:
                next(rows)
            for batch in _batches(rows, places, dialect.null_text, schema):
                writer.write_batch(batch)
    broken.require_none()
    return kept


class _BrokenRows:
    """Counts the rows whose fields are not as many as the header's: what is behind a stray separator moved."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def left_out(self, file: str, width: int, rows: Iterable[tuple[int, list[str]]]) -> Iterator[list[str]]:
        for line, row in rows:
            if len(row) == width:
                yield row
                continue
            self._counts[file] += 1
            if self._counts[file] == 1:
                start = ",".join(row)[:80]
                self._found[file] = [f"line {line} has {len(row)} fields, not {width}: {start}"]

    def require_none(self) -> None:
        if self._counts:
            raise UnreadableSourceError(
                f"{sum(self._counts.values())} rows of CSV files do not have the fields of their header.",
                [
                    f"{file}: {self._counts[file]} rows, such as {told}"
                    for file, (told,) in list(self._found.items())[:5]
                ],
                next_step="a separator within a value needs quotes around it; check the options sep, quote and escape, "
                "or mend these lines",
            )


def _columns_of_all(headers: Mapping[str, Sequence[str]], used: UsedColumns) -> list[str]:
    """The named columns of the first file that every file has once."""
    first = next(iter(headers))
    problems = []
    kept = []
    for name in dict.fromkeys(name for names in headers.values() for name in names):
        without = [file for file, names in headers.items() if name not in names]
        twice = [file for file, names in headers.items() if [each.lower() for each in names].count(name.lower()) > 1]
        if not name or without or twice:
            if name and used.has(name):
                why = f"lacks {name}" if without else f"has {name} twice"
                others = f", as {len(without or twice) - 1} more files" if len(without or twice) > 1 else ""
                has = ", ".join(headers[(without or twice)[0]])
                problems.append(f"{(without or twice)[0]} {why}{others}; it has {has}")
        else:
            kept.append(name)
    if problems:
        raise UnreadableSourceError(
            f"{len(headers)} CSV files do not have the same columns; the first is {first}.",
            problems,
            next_step="rename or add the column in these files, or let `path` name only files of one kind",
        )
    return kept


def _header(file: str, dialect: Dialect) -> list[str] | None:
    """The names of a file's columns; None of a file without a line."""
    _, row = next(_rows(file, dialect), (0, None))
    if row is None:
        return None
    return [name.strip() for name in row] if dialect.has_header else [f"_c{place}" for place in range(len(row))]


def _batches(
    rows: Iterator[list[str]], places: Sequence[int], null_text: str, schema: "pa.Schema"
) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    nulls = ("", null_text)
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        columns = [pa.array([None if row[at] in nulls else row[at] for row in chunk], pa.string()) for at in places]
        yield pa.record_batch(columns, schema=schema)


def _rows(file: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file that are not blank, each with the number of its last line."""
    with _opened(file, dialect) as text:
        lines = (line for line in text if not dialect.comment or not line.startswith(dialect.comment))
        try:
            if dialect.sep == BLANKS:
                yield from _divided_by_blanks(lines)
                return
            reader = csv.reader(
                lines,
                delimiter=dialect.sep,
                quotechar=dialect.quote or None,
                quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
                escapechar=dialect.escape,
                skipinitialspace=dialect.is_blank_ignored,
                strict=True,
            )
            for row in reader:
                if row and (len(row) > 1 or row[0].strip()):
                    yield reader.line_num, row
        except csv.Error as broken:
            raise UnreadableSourceError(
                f"{file} cannot be divided into fields.",
                [f"line {reader.line_num}: {broken}"],
                next_step='a quote within quotes is written twice (""); where the file writes it behind a backslash, '
                'add options = { escape = "\\\\" }',
            ) from None
        except UnicodeDecodeError as broken:
            raise UnreadableSourceError(
                f"{file} is not written in {dialect.encoding}.",
                [f"its byte {broken.object[broken.start]:#04x} has no meaning there"],
                next_step='say how it is written: options = { encoding = "cp1252" } for what Excel saves as CSV on '
                'Windows, "utf-16" for its Unicode text',
            ) from None


def _divided_by_blanks(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if row := [_without_quotes(part) for part in re.findall(r'"(?:[^"]|"")*"(?=\s|$)|\S+', line)]:
            yield number, row


def _without_quotes(part: str) -> str:
    is_quoted = len(part) > 1 and part.startswith('"') and part.endswith('"')
    return part[1:-1].replace('""', '"') if is_quoted else part


@contextmanager
def _opened(file: str, dialect: Dialect) -> Iterator[io.TextIOWrapper]:
    """Decompressed by its name (.gz, .bz2, .zst); the mark that Windows writes in front is no text."""
    filesystem, place = filesystem_of(file)
    encoding = "utf-8-sig" if dialect.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else dialect.encoding
    with filesystem.open_input_stream(place, compression="detect", buffer_size=1 << 20) as stream:
        yield io.TextIOWrapper(io.BufferedReader(stream, 1 << 20), encoding=encoding, newline="")

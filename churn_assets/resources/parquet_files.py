"""Parquet files, whoever wrote them: their columns, and what engines do not read of them written anew by Arrow."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from churn_assets.churn.errors import UnreadableSourceError
from churn_assets.delta.storage import filesystem_of
from churn_assets.resources.used_columns import UsedColumns

if TYPE_CHECKING:
    import pyarrow as pa

FOOTERS_AT_ONCE = 16
# What Hive, and all after it, call a folder of rows without a value.
ABSENT = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class FileColumns:
    """The columns of one file by name: the type that Arrow gives them, and whether it is a time of 96 bits."""

    file: str
    kinds: "Mapping[str, pa.DataType]"
    of_96_bits: frozenset[str]
    rows: int

    def reads_as(self, name: str, wanted: "pa.DataType") -> bool:
        """Whether every engine reads the column as `wanted` from the file as it is; times of milliseconds they do."""
        from pyarrow import types

        kind = self.kinds[name]
        is_coarser = types.is_timestamp(kind) and kind.unit == "ms" and readable(kind) == wanted
        return name in self.of_96_bits or kind == wanted or is_coarser


def columns_of(files: Sequence[str]) -> list[FileColumns]:
    """The columns of each file, by their footers."""
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return list(pool.map(_columns_of, files))


def _columns_of(file: str) -> FileColumns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, place = filesystem_of(file)
    try:
        with pq.ParquetFile(place, filesystem=filesystem) as opened:
            schema, leaves = opened.schema_arrow, opened.schema
            of_96_bits = {leaves.column(at).path for at in range(len(leaves)) if _is_96_bits(leaves.column(at))}
            kinds = {field.name: field.type for field in schema}
            return FileColumns(file, kinds, frozenset(of_96_bits), opened.metadata.num_rows)
    except (pa.ArrowInvalid, OSError) as broken:
        raise UnreadableSourceError(
            f"{file} is no Parquet file that can be read.",
            [str(broken).splitlines()[0]],
            next_step="replace the file by a whole one, or let `path` name only Parquet files",
        ) from None


def _is_96_bits(leaf: Any) -> bool:
    return bool(leaf.physical_type == "INT96")


def common_schema(files: Sequence[FileColumns], used: UsedColumns) -> "pa.Schema":
    """The used columns that all files have, in the types in which engines read them.

    Raises UnreadableSourceError for a used column that a file lacks, has in another type than the first file, has twice
    but for the case of its letters, or has in a type that becomes none of Spark's.
    """
    import pyarrow as pa

    problems = []
    fields = []
    names = dict.fromkeys(name for each in files for name in each.kinds)
    for name in used.of(list(names)):
        without = [each.file for each in files if name not in each.kinds]
        alike = sorted(other for other in names if other.lower() == name.lower())
        kinds = {each.file: readable(each.kinds[name]) for each in files if name in each.kinds}
        # pandas writes text of which there is none as a column without a type.
        typed = {file: kind for file, kind in kinds.items() if kind is None or not pa.types.is_null(kind)}
        if without:
            problems.append(f"{without[0]}{_and_more(without)} lacks {name}")
        elif len(alike) > 1:
            problems.append(f"{' and '.join(alike)} differ by the case of their letters alone")
        elif None in typed.values():
            file = next(file for file, kind in typed.items() if kind is None)
            problems.append(f"{name} is {next(e for e in files if e.file == file).kinds[name]} in {file}")
        elif len(set(typed.values())) > 1:
            problems.append(f"{name} is {' and '.join(_one_of_each(typed))}")
        else:
            fields.append(pa.field(name, next(iter(typed.values()), pa.string())))
    if problems:
        raise UnreadableSourceError(
            f"{len(files)} Parquet files do not have the same columns, or have types that no engine reads.",
            list(dict.fromkeys(problems)),
            next_step="write these files with the columns and types of the others, or let `path` name only files of "
            "one kind; columns that are not used may differ",
        )
    return pa.schema(fields)


def _one_of_each(kinds: "Mapping[str, pa.DataType]") -> list[str]:
    first = {str(kind): file for file, kind in reversed(list(kinds.items()))}
    return [f"{kind} in {file}" for kind, file in reversed(list(first.items()))]


def _and_more(files: Sequence[str]) -> str:
    return "" if len(files) == 1 else f" (and {len(files) - 1} more)"


def readable(kind: "pa.DataType") -> "pa.DataType | None":
    """The type in which engines read what Arrow calls `kind`; None if there is none."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_list(kind) or types.is_struct(kind) or types.is_map(kind):
        inner = [kind.field(at).type for at in range(kind.num_fields)]
        return kind if all(readable(each) == each for each in inner) else None
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_dictionary(kind):
        return readable(kind.value_type)
    instead: Sequence[tuple[Callable[[pa.DataType], bool], pa.DataType]] = (
        (types.is_uint64, pa.decimal128(20, 0)),
        (types.is_unsigned_integer, pa.int64()),
        (types.is_float16, pa.float32()),
        (types.is_date64, pa.date32()),
        (types.is_large_string, pa.string()),
        (types.is_string_view, pa.string()),
        (types.is_large_binary, pa.binary()),
        (types.is_fixed_size_binary, pa.binary()),
    )
    same = (
        types.is_null,
        types.is_boolean,
        types.is_signed_integer,
        types.is_float32,
        types.is_float64,
        types.is_decimal128,
        types.is_date32,
        types.is_string,
        types.is_binary,
    )
    if any(is_of(kind) for is_of in same):
        return kind
    return next((other for is_of, other in instead if is_of(kind)), None)


def written_anew(file: str, schema: "pa.Schema", target: str, constants: Mapping[str, Any]) -> None:
    """Writes the columns of `schema` that `file` has, in its types, to the Parquet file `target`.

    constants: the values of columns that are not in the file; another one that is not is null.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, place = filesystem_of(file)
    sink, goal = filesystem_of(target)
    with (
        pq.ParquetFile(place, filesystem=source) as opened,
        pq.ParquetWriter(goal, schema, filesystem=sink, compression="lz4") as writer,
    ):
        present = [name for name in schema.names if name in opened.schema_arrow.names]
        for batch in opened.iter_batches(columns=present):
            arrays = [
                as_readable(batch.column(each.name), each.type)
                if each.name in present
                else pa.array([constants.get(each.name)] * batch.num_rows, each.type)
                for each in schema
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def folder_columns(values: Mapping[str, Mapping[str, str]], used: UsedColumns) -> "tuple[pa.Schema, dict[str, Any]]":
    """The used columns that only the names of folders hold, and each file's values of them.

    values: what folders give each file. Whole numbers and dates are such, whatever else is text. Raises
    UnreadableSourceError where a file lies in no folder of that name.
    """
    import pyarrow as pa

    names = used.of(list(dict.fromkeys(name for of_file in values.values() for name in of_file)))
    problems = [f"{file} lies in no folder {name}=…" for name in names for file in values if name not in values[file]]
    if problems:
        raise UnreadableSourceError(
            "Folders give some files a value, and others none.",
            problems[:5],
            next_step="move these files, or do not use this column",
        )
    texts = {name: [of_file[name] for of_file in values.values()] for name in names}
    kinds = {name: _kind_of([text for text in found if text != ABSENT]) for name, found in texts.items()}
    read: Mapping[Any, Callable[[str], Any]] = {
        pa.date32(): date.fromisoformat,
        pa.int32(): int,
        pa.int64(): int,
        pa.string(): str,
    }
    constants = {
        file: {name: None if of_file[name] == ABSENT else read[kinds[name]](of_file[name]) for name in names}
        for file, of_file in values.items()
    }
    return pa.schema([(name, kinds[name]) for name in names]), constants


def _kind_of(texts: Sequence[str]) -> "pa.DataType":
    import pyarrow as pa

    if texts and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", text) for text in texts):
        return pa.int32() if all(abs(int(text)) < 2**31 for text in texts) else pa.int64()
    if texts and all(re.fullmatch(r"\d{4}-\d\d-\d\d", text) for text in texts):
        return pa.date32()
    return pa.string()


def as_readable(values: "pa.Array", kind: "pa.DataType") -> "pa.Array":
    """`values` as `kind`; nanoseconds are rounded down to microseconds, before 1970 too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":
        # Not floor_temporal, which works on the zone's clock: a cast from whole microseconds is exact.
        counted = values.cast(pa.int64())
        rest = pc.subtract(counted, pc.multiply(pc.divide(counted, 1000), 1000))
        below = pc.if_else(pc.less(rest, 0), 1, 0)
        values = pc.subtract(pc.divide(counted, 1000), below).cast(pa.timestamp("us", values.type.tz))
    return values.cast(kind)

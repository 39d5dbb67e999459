"""Whether two versions of a Delta table hold the same rows. Needs no JVM."""

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from churn_assets.delta.reading import dataset_of
from churn_assets.delta.storage import filesystem_of
from churn_assets.delta.tables import OF_DATE, files_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyarrow.dataset import Dataset


def holds_same_rows(one: "DeltaTable", other: "DeltaTable") -> bool:
    """Whether two opened versions hold the same rows and columns in any order and any files.

    The log's counts tell most changes at once; only where they agree are the rows read, a batch at a time. Raises
    MissingFileError.
    """
    versions = [one, other]
    if len({_columns(version) for version in versions}) > 1:
        return False
    first, second = map(_counts, versions)
    if any(first[name] != second[name] for name in first.keys() & second.keys()):
        return False
    if {file["path"] for file in files_of(one)} == {file["path"] for file in files_of(other)}:
        return True
    return len({rows_digest(dataset_of(version)) for version in versions}) == 1


def rows_beyond(table: "DeltaTable", folder: str) -> "pa.Table | None":
    """The rows of the Parquet files in `folder` that an opened version lacks; None if it has any that they lack.

    Raises MissingFileError.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow.dataset import dataset

    filesystem, place = filesystem_of(folder)
    known = dataset_of(table)
    rows = dataset(place, schema=known.schema, filesystem=filesystem, format="parquet")
    there, counts = np.unique(
        np.concatenate([np.empty(0, np.uint64), *map(_hashes, known.to_batches())]), return_counts=True
    )
    beyond = []
    for batch in rows.to_batches():
        hashes = _hashes(batch)
        # Where the same row is there more than once, each takes one of them away.
        places = np.searchsorted(there, hashes)
        is_known = np.zeros(len(hashes), dtype=bool)
        for row, at in enumerate(places):
            if at < len(there) and there[at] == hashes[row] and counts[at]:
                counts[at] -= 1
                is_known[row] = True
        beyond.append(batch.filter(pa.array(~is_known)))
    return None if counts.any() else pa.Table.from_batches(beyond, known.schema)


def held_days(table: "DeltaTable", folder: str, rows: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Of the days whose rows lie in folders of `folder`, so many each, those whose rows an opened version holds, and
    its files of them.

    table: laid out by its dates; their rows may lie in any order and any files. Raises MissingFileError.
    """
    from pyarrow.dataset import dataset

    (by,) = table.metadata().partition_columns
    there: dict[str, list[dict[str, Any]]] = {}
    for file in files_of(table):
        there.setdefault(str(file[f"partition.{by}"]), []).append(file)
    filesystem, place = filesystem_of(folder)
    held = {}
    for day, count in rows.items():
        files = there.get(day, [])
        if sum(file["num_records"] or 0 for file in files) != count:
            continue
        known = dataset_of(table, files)
        new = dataset(f"{place}/{OF_DATE}={day}", schema=known.schema, filesystem=filesystem, format="parquet")
        if _are_same_rows(known.to_table(), new.to_table()):
            held[day] = files
    return held


def _are_same_rows(one: "pa.Table", other: "pa.Table") -> bool:
    """Whether both hold the same rows to the last bit, in any order."""
    first, second = map(_in_bits, (one, other))
    return bool(first.equals(second) or _sorted(first).equals(_sorted(second)))


def _in_bits(table: "pa.Table") -> "pa.Table":
    """The table with floats as the whole numbers of their bits, and what is nested as text that tells any two apart.

    0.0 equals -0.0 and NaN nothing, so that equal numbers are not the same and the same are not equal.
    """
    import pyarrow as pa

    for place, (name, kind) in enumerate(zip(table.column_names, table.schema.types, strict=True)):
        if pa.types.is_floating(kind):
            whole = pa.int32() if kind.bit_width == 32 else pa.int64()
            bits = pa.chunked_array([chunk.view(whole) for chunk in table[name].chunks], whole)
            table = table.set_column(place, name, bits)
        elif pa.types.is_nested(kind):
            table = table.set_column(place, name, pa.array(_exact(table[name]), pa.string()))
    return table


def _columns(table: "DeltaTable") -> str:
    schema = json.loads(table.schema().to_json())
    return json.dumps(sorted(schema["fields"], key=lambda field: field["name"]))


def _counts(table: "DeltaTable") -> dict[str, int]:
    """Rows, and the nulls of each column of which every file says them. Bounds may be rounded: two may differ."""
    files = files_of(table)
    names = {name for file in files for name in file if name == "num_records" or name.startswith("null_count.")}
    known = [name for name in names if all(file.get(name) is not None for file in files)]
    return {name: sum(file[name] for file in files) for name in known}


def rows_digest(dataset: "Dataset") -> tuple[int, int]:
    """The number of rows and the sum of their hashes, which no order of rows and no division into files changes."""
    rows, total = 0, 0
    for batch in dataset.to_batches():
        hashes = _hashes(batch)
        rows, total = rows + len(hashes), total + sum(hashes.tolist())
    return rows, total % 2**64


def _hashes(batch: "pa.RecordBatch") -> "np.ndarray[Any, Any]":
    """A hash of each row, whatever the order of its columns."""
    import pandas as pd

    columns = _hashable(batch)
    hashed = pd.util.hash_pandas_object(pd.DataFrame({name: columns[name] for name in sorted(columns)}), index=False)
    return hashed.to_numpy()


def _hashable(batch: "pa.RecordBatch") -> "dict[str, pd.Series[Any]]":
    """Each column as where it is null and its values, so that its type does not depend on whether a batch has nulls."""
    import pandas as pd
    import pyarrow as pa

    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        if pa.types.is_temporal(kind):
            column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        elif pa.types.is_nested(kind) or pa.types.is_decimal(kind):
            texts = zip(_exact(column), column.is_valid().to_pylist(), strict=True)
            column = pa.array([text if is_valid else None for text, is_valid in texts], pa.string())
        is_text = pa.types.is_string(column.type) or pa.types.is_binary(column.type)
        columns[f"{name} is null"] = pd.Series(column.is_null().to_numpy(zero_copy_only=False))
        filled = column.fill_null("" if is_text else False if pa.types.is_boolean(column.type) else 0)
        columns[name] = pd.Series(filled.to_numpy(zero_copy_only=False))
    return columns


def differing_columns(one: "DeltaTable", other: "DeltaTable", *, without: Collection[str] = ()) -> list[str]:
    """The columns in which two opened tables differ, in any order of rows, to the last bit; empty if they are equal.

    Both are held in memory. A column that only one has, and one of another type, differ; so do all columns where the
    numbers of rows do. without: columns that are not compared.
    """
    tables = [dataset_of(table).to_table() for table in (one, other)]
    kinds = [{field.name: str(field.type) for field in table.schema if field.name not in without} for table in tables]
    different = [name for name in {**kinds[0], **kinds[1]} if kinds[0].get(name) != kinds[1].get(name)]
    shared = [name for name in kinds[0] if name not in different]
    if tables[0].num_rows != tables[1].num_rows:
        return [*different, *shared]
    first, second = (_sorted(table.select(shared)) for table in tables)
    return different + [name for name in shared if _exact(first[name]) != _exact(second[name])]


def _sorted(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa

    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    return table.sort_by([(name, "ascending") for name in flat]) if flat else table


def _exact(column: "pa.Array | pa.ChunkedArray") -> list[str]:
    """Each value as text that tells any two apart: the shortest that reads back as the same double, also in lists.

    The order of a map's entries says nothing, and engines write them in orders of their own.
    """
    import pyarrow as pa

    values = column.to_pylist()
    if pa.types.is_map(column.type):
        return [repr(None if entries is None else sorted(entries)) for entries in values]
    return [repr(value) for value in values]

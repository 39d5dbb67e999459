"""Whether two versions of a Delta table hold the same rows. Needs no JVM."""

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from churn_assets.delta.reading import dataset_of
from churn_assets.delta.tables import files_of

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


def holds_same_rows(one: "DeltaTable", other: "DeltaTable") -> bool:
    """Whether two opened versions hold the same rows and columns in any order and any files.

    The log's statistics tell most changes at once; only where they agree are the rows read, a batch at a time.
    """
    versions = [one, other]
    if len({_columns(version) for version in versions}) > 1:
        return False
    summaries = {_summary(version) for version in versions}
    if None not in summaries and len(summaries) > 1:
        return False
    return len({_rows_digest(version) for version in versions}) == 1


def _columns(table: "DeltaTable") -> str:
    schema = json.loads(table.schema().to_json())
    return json.dumps(sorted(schema["fields"], key=lambda field: field["name"]))


def _summary(table: "DeltaTable") -> str | None:
    """Rows, and each column's least and greatest value and nulls, over all files; None where a file lacks any."""
    files = files_of(table)
    columns = sorted({name for file in files for name in file if name.split(".")[0] in ("null_count", "min", "max")})
    if any(file.get(name) is None for file in files for name in columns if name.startswith("null_count")):
        return None
    summary: dict[str, Any] = {"rows": sum(file["num_records"] or 0 for file in files)}
    for name in columns:
        values = [file[name] for file in files if file.get(name) is not None]
        combined = {"null_count": sum, "min": min, "max": max}[name.split(".")[0]](values) if values else None  # type: ignore[operator]
        summary[name] = None if combined is None else str(combined)
    return json.dumps(summary, sort_keys=True)


def _rows_digest(table: "DeltaTable") -> tuple[int, int]:
    """The number of rows and the sum of their hashes, which no order of rows and no division into files changes."""
    import pandas as pd

    names = sorted(field.name for field in table.schema().fields)
    rows, total = 0, 0
    for batch in dataset_of(table).to_batches(columns=names):
        hashes = pd.util.hash_pandas_object(batch.to_pandas(date_as_object=False), index=False)
        rows, total = rows + len(hashes), total + sum(hashes.to_list())
    return rows, total % 2**64


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


def _exact(column: "pa.ChunkedArray") -> list[str]:
    """Each value as text that tells any two apart: the shortest that reads back as the same double, also in lists."""
    return [repr(value) for value in column.to_pylist()]

"""The rows of an opened Delta table: as a Spark frame, or by Arrow where no JVM is needed. Writes nothing."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from churn_assets.delta.storage import filesystem_of, place_of, spark_uri
from churn_assets.delta.tables import OF_DATE, MissingFileError, UnsupportedTableError, files_of, schema_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    from deltalake import DeltaTable
    from pyarrow.dataset import Dataset
    from pyspark.sql import DataFrame, SparkSession


def read_delta(
    spark: "SparkSession",
    table: "DeltaTable",
    *,
    dates: tuple[str, Collection[date]] | None = None,
    without: Collection[str] = (),
) -> "DataFrame":
    """The rows of an opened Delta table version. Raises MissingFileError.

    dates: a partition column and its values, where not all are asked for. without: files that are left out.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    schema = schema_of(table)
    partitions = table.metadata().partition_columns
    actions = [file for file in present_files(table) if file["path"] not in without]
    if dates is not None:
        by, days = dates
        actions = [file for file in actions if file[f"partition.{by}"] in days]
    if not actions:
        return spark.createDataFrame([], schema)
    # Not file_uris(): it gives the table's folder percent-encoded and the file below it not, which no reader undoes.
    folder = spark_uri(unquote(table.table_uri)).rstrip("/")
    # Partition values live in the log: a frame for each combination of them, but of all files that hold them as well.
    files: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for action in actions:
        absent = () if f"/{OF_DATE}=" in action["path"] else partitions
        values = tuple((name, action[f"partition.{name}"]) for name in absent)
        files.setdefault(values, []).append(f"{folder}/{unquote(action['path'])}")
    frames = []
    for values, of_values in files.items():
        kept = {name: F.lit(value).cast(schema[name].dataType).alias(name) for name, value in values}
        in_files = StructType([field for field in schema if field.name not in kept])
        rows = spark.read.schema(in_files).parquet(*of_values)
        frames.append(rows.select([kept.get(name, F.col(name)) for name in schema.fieldNames()]))
    return united(frames)


def present_files(table: "DeltaTable", some: Sequence[dict[str, Any]] | None = None) -> Sequence[dict[str, Any]]:
    """As `files_of`, or `some` of them. Raises MissingFileError as `require_files` does.

    Asked before any row is read, so that a version is read whole or not at all.
    """
    files = files_of(table) if some is None else some
    require_files(table, [unquote(file["path"]) for file in files])
    return files


def require_files(table: "DeltaTable", paths: Sequence[str]) -> None:
    """Raises MissingFileError: Sail reads no rows from a file that is not there, without a word (pysail 0.7.2)."""
    from pyarrow.fs import FileType

    filesystem, folder = filesystem_of(place_of(table.table_uri.rstrip("/")))
    found = filesystem.get_file_info([f"{folder}/{path}" for path in paths])
    if gone := [path for path, info in zip(paths, found, strict=True) if info.type != FileType.File]:
        raise MissingFileError(
            f"Version {table.version()} of {unquote(table.table_uri)} names {len(gone)} of {len(paths)} files that are "
            "gone.",
            gone[:5],
            next_step="read a later version, or restore the files; VACUUM removes those that later versions replaced",
        )


def united(frames: "list[DataFrame]") -> "DataFrame":
    """All rows of `frames`. By halves: a chain of a thousand is deeper than a Connect client recurses."""
    if len(frames) == 1:
        return frames[0]
    middle = len(frames) // 2
    return united(frames[:middle]).unionByName(united(frames[middle:]))


def dataset_of(table: "DeltaTable", some: Sequence[dict[str, Any]] | None = None) -> "Dataset":
    """The files of an opened table version, or some of them, in the log's order. Raises MissingFileError.

    Not deltalake's dataset, whose file system is Python: a thread of it still busy when the interpreter ends aborts the
    process (2026-11-25, one of six runs that had ended well). Nor with the log's bounds, of which it takes a missing
    one for one that no value reaches (1.6.6): what another writer left out would hide rows.
    """
    import pyarrow as pa
    from pyarrow.dataset import FileSystemDataset, ParquetFileFormat
    from pyarrow.fs import SubTreeFileSystem

    filesystem, folder = filesystem_of(place_of(table.table_uri))
    exported: Any = table.schema().to_arrow()
    schema, files, parquet = pa.schema(exported), SubTreeFileSystem(folder, filesystem), ParquetFileFormat()
    fragments = [
        parquet.make_fragment(unquote(file["path"]), files, partition_expression=_partition_of(table, schema, file))
        for file in present_files(table, some)
    ]
    return FileSystemDataset(fragments, schema, parquet, files)


def _partition_of(table: "DeltaTable", schema: "pa.Schema", file: Mapping[str, Any]) -> "pc.Expression":
    """What holds of all rows of a file, whose own columns lack the partition's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    holds = pc.scalar(True)
    for name in table.metadata().partition_columns:
        value = pa.scalar(file[f"partition.{name}"], schema.field(name).type)
        holds = holds & (pc.field(name) == value if value.is_valid else pc.field(name).is_null())
    return holds


def arrow(table: "DeltaTable", columns: Sequence[str], by: str | None = None, days: Sequence[date] = ()) -> "pa.Table":
    """`columns` of the rows of an opened version in the log's order; with `by`, of the rows of these `days` alone."""
    import pyarrow.compute as pc

    wanted = None if by is None else pc.field(by).isin(list(days))
    rows: pa.Table = dataset_of(table).to_table(columns=list(columns), filter=wanted)
    return rows


def columns(table: "DeltaTable") -> "Callable[[str], pa.ChunkedArray]":
    """Reads a column of an opened version at a time, in the log's order; the version's files are looked up once."""
    dataset = dataset_of(table)

    def column(name: str) -> "pa.ChunkedArray":
        return dataset.to_table(columns=[name]).column(name)

    return column


def records(table: "DeltaTable") -> list[dict[str, Any]]:
    """The rows of a small table."""
    rows: list[dict[str, Any]] = dataset_of(table).to_table().to_pylist()
    return rows


def counts(table: "DeltaTable", columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """How many rows have each combination of values in `columns`; there should be few."""
    import pyarrow as pa

    totals: Counter[tuple[Any, ...]] = Counter()
    for batch in dataset_of(table).to_batches(columns=list(columns)):
        groups = pa.Table.from_batches([batch]).group_by(list(columns), use_threads=False)
        counted = groups.aggregate([([], "count_all")])
        keys = zip(*[counted.column(name).to_pylist() for name in columns], strict=True)
        totals.update(dict(zip(keys, counted.column("count_all").to_pylist(), strict=True)))
    return totals


def value_count(table: "DeltaTable", column: str) -> int:
    """The rows with a value in `column`."""
    import pyarrow.compute as pc

    return int(dataset_of(table).count_rows(filter=pc.field(column).is_valid()))


def bounds(table: "DeltaTable", column: str) -> tuple[Any, Any]:
    """The least and the greatest value in `column`, None without any.

    The log's bounds may be cut or rounded: they only say which files need not be read.
    """
    return _end(table, column, "min", min), _end(table, column, "max", max)


def ends(table: "DeltaTable", columns: Sequence[str], by: str, days: Collection[date]) -> dict[str, tuple[Any, Any]]:
    """The least and the greatest value of each of `columns` in the rows of these `days`; of columns with a value."""
    import pyarrow.compute as pc

    found: dict[str, tuple[Any, Any]] = {}
    for batch in dataset_of(table).to_batches(columns=list(columns), filter=pc.field(by).isin(list(days))):
        for name in columns:
            of_batch: Any = pc.min_max(batch.column(name)).as_py()
            if of_batch["min"] is not None:
                low, high = found.get(name, (of_batch["min"], of_batch["max"]))
                found[name] = min(low, of_batch["min"]), max(high, of_batch["max"])
    return found


def _end(table: "DeltaTable", column: str, end: str, chosen: Callable[[list[Any]], Any]) -> Any:
    import pyarrow.compute as pc

    dataset = dataset_of(table)
    files = [
        (file.get(f"{end}.{column}"), fragment)
        for file, fragment in zip(files_of(table), dataset.get_fragments(), strict=True)
    ]
    values: list[Any] = []
    bounded = sorted((each for each in files if each[0] is not None), key=itemgetter(0), reverse=chosen is max)
    for bound, fragment in [*(each for each in files if each[0] is None), *bounded]:
        if bound is not None and values and chosen([bound, *values]) in values:
            break
        read: Any = pc.min_max(fragment.to_table(schema=dataset.schema, columns=[column]).column(0))
        values += [value for value in [read[end].as_py()] if value is not None]
    return chosen(values) if values else None


def dates(table: "DeltaTable", column: str) -> list[date]:
    """The distinct dates in `column`, ascending. Raises UnsupportedTableError if there is no such column of dates."""
    import pyarrow as pa

    schema = dataset_of(table).schema
    if column not in schema.names or not pa.types.is_date(schema.field(column).type):
        raise UnsupportedTableError(
            f"{table.table_uri} has no column {column} of type date.", next_step=f"write {column} as a date"
        )
    return sorted(day for (day,) in counts(table, [column]) if day is not None)

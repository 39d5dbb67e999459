"""Upkeep of one Delta table: small files put together, and what no version that is named needs removed. Needs no JVM.

What names a version it does not know.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from churn_assets.churn.errors import ChurnError
from churn_assets.delta.commits import TABLE_PROPERTIES
from churn_assets.delta.reading import dataset_of
from churn_assets.delta.storage import HELD_FOLDER, UNFINISHED, delete_folder, filesystem_of
from churn_assets.delta.tables import MissingTableError, files_of, open_delta

if TYPE_CHECKING:
    from deltalake import DeltaTable

# A partition with more files than this below the size is put together; the files before stay while a version is named.
SMALL_FILES, SMALL_BYTES = 8, 4 * 2**20
# Readers replay the commits since the last checkpoint.
CHECKPOINT_AFTER = 10


class NamedFilesError(ChurnError):
    """Upkeep would remove files that a version still named needs."""


@dataclass(frozen=True)
class Upkeep:
    """What was done to a table, and what of it is left.

    merged: small files put together. removed, removed_bytes: files that no kept version has, and their size. kept: the
    versions that can still be read whole. lost: versions that are named and can no longer be read whole. bytes: of the
    table now, with its log.
    """

    merged: int
    removed: int
    removed_bytes: int
    kept: Sequence[int]
    lost: Sequence[int]
    bytes: int


def maintain(path: str, named: Collection[int], older_than: timedelta) -> Upkeep:
    """Puts small files together, writes a checkpoint, and removes what only versions that nobody names have.

    named: the versions to keep beside the latest. older_than: how long ago a file must have been replaced, or left
    behind by a write that failed, to be removed. Raises NamedFilesError, and then removes nothing.
    """
    table = open_delta(path, next_step="check CHURN_LAKEHOUSE")
    _keep_as_long(table)
    merged = _merge_small_files(table)
    latest = table.version()
    there, needed = _sizes(path).keys(), set[str]()
    kept: list[int] = []
    lost: list[int] = []
    for version in sorted({*named, latest}):
        try:
            files = {unquote(file["path"]) for file in files_of(open_delta(path, version, next_step="keep its log"))}
        except MissingTableError:
            lost.append(version)
            continue
        if files <= there:
            kept.append(version)
            needed |= files
        else:
            lost.append(version)
    folders = _old_folders(path, datetime.now(UTC) - older_than)
    removed = _vacuum(path, table, kept, needed, older_than)
    # Of each write that left nothing, or whose files are gone, a folder stays, on storage that has folders.
    for emptied in folders - {file.split("/", 1)[0] for file in _sizes(path)}:
        delete_folder(f"{path}/{emptied}")
    table.update_incremental()
    if table.version() - _checkpointed_at(path) >= CHECKPOINT_AFTER:
        table.create_checkpoint()
    return Upkeep(merged, len(removed), sum(removed.values()), kept, lost, sum(_sizes(path).values()))


def _keep_as_long(table: "DeltaTable") -> None:
    """Gives a table that was made before them the properties of today."""
    configured = table.metadata().configuration
    lacking = {name: value for name, value in TABLE_PROPERTIES.items() if name not in configured}
    if lacking:
        table.alter.set_table_properties(lacking)
        table.update_incremental()


def _merge_small_files(table: "DeltaTable") -> int:
    """The number of files put together into fewer, within their partitions and in their order."""
    by = table.metadata().partition_columns
    in_partition: dict[tuple[str, ...], list[int]] = {}
    for file in files_of(table):
        if file["size_bytes"] < SMALL_BYTES:
            values = (file[f"partition.{name}"] for name in by)
            in_partition.setdefault(tuple("" if each is None else str(each) for each in values), []).append(
                file["size_bytes"]
            )
    crowded = {values: _merged_size(sizes) for values, sizes in in_partition.items() if len(sizes) > SMALL_FILES}
    if not crowded or not _is_finite(table):
        return 0
    done = [
        table.optimize.compact([(name, "=", value) for name, value in zip(by, values, strict=True)] or None, size)
        for values, size in crowded.items()
    ]
    return sum(int(each["numFilesRemoved"]) for each in done)


def _merged_size(sizes: Sequence[int]) -> int:
    """The size of the smallest files together, as few as leave SMALL_FILES at most, and the next larger than all.

    Of what upkeep merges the named versions keep a copy. With each few small files all others were copied once more;
    so a byte is with what is about as large as all that came since (size-tiered, as in the log-structured merge-tree:
    O'Neil et al., Acta Informatica 33, 1996).
    """
    together = 0
    for smaller, size in enumerate(sorted(sizes)):
        if size > together and len(sizes) - smaller < SMALL_FILES:
            break
        together += size
    return together


def _is_finite(table: "DeltaTable") -> bool:
    """Of infinity deltalake writes no bound beside others, which hides rows, and of NaN a wrong one (1.6.6)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dataset = dataset_of(table)
    floats = [field.name for field in dataset.schema if pa.types.is_floating(field.type)]
    return all(
        pc.all(pc.is_finite(column), min_count=0).as_py()
        for batch in dataset.to_batches(columns=floats)
        for column in batch.columns
    )


def _vacuum(
    path: str, table: "DeltaTable", versions: Sequence[int], needed: Collection[str], older_than: timedelta
) -> dict[str, int]:
    """The size of each file that is removed."""
    rules: dict[str, Any] = {
        "retention_hours": int(older_than.total_seconds() // 3600),
        # The table's own retention is for whoever does not know which versions are named.
        "enforce_retention_duration": False,
        "full": True,
        "keep_versions": list(versions),
    }
    # Those that an earlier vacuum removed are among them, and each call that removes makes two commits.
    there = _sizes(path)
    chosen = {file: there[file] for file in map(unquote, table.vacuum(dry_run=True, **rules)) if file in there}
    if both := sorted(needed & chosen.keys()):
        raise NamedFilesError(
            f"Upkeep of {path} would remove {len(both)} files that named versions need; it removes nothing.",
            both[:5],
            next_step="report this as a bug, with the table's log",
        )
    if chosen:
        table.vacuum(dry_run=False, **rules)
    return chosen


def _sizes(path: str) -> dict[str, int]:
    """The size of each file of the table, by its path in the table's folder."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(path)
    found = filesystem.get_file_info(FileSelector(folder, recursive=True))
    prefix = f"{folder.rstrip('/')}/"
    return {info.path.removeprefix(prefix): info.size or 0 for info in found if info.type == FileType.File}


def _checkpointed_at(path: str) -> int:
    """The version of the last checkpoint; −1 without one."""
    filesystem, folder = filesystem_of(path)
    try:
        with filesystem.open_input_stream(f"{folder}/_delta_log/_last_checkpoint") as stream:
            return int(json.loads(stream.read())["version"])
    except FileNotFoundError:
        return -1


def _old_folders(path: str, before: datetime) -> set[str]:
    """The table's folders in which nothing was made or removed since."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(path)
    found = filesystem.get_file_info(FileSelector(folder))
    return {info.base_name for info in found if info.type == FileType.Directory and info.mtime and info.mtime <= before}


def tables_under(root: str) -> list[str]:
    """The names of the tables in folder `root` and in its folders."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(root)

    def folders(within: str) -> list[str]:
        found = filesystem.get_file_info(FileSelector(within, allow_not_found=True))
        return [info.path for info in found if info.type == FileType.Directory]

    places = folders(folder)
    inner = {place: folders(place) for place in places}
    inner |= {place: folders(place) for of_schema in list(inner.values()) for place in of_schema}
    logs = {place for place, within in inner.items() if any(each.endswith("/_delta_log") for each in within)}
    return sorted(place.removeprefix(f"{folder.rstrip('/')}/") for place in logs)


def remove_temporary_files(root: str, older_than: timedelta) -> list[str]:
    """Removes rows that were held and files for people that were not finished, longer ago; their names."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(root)
    before = datetime.now(UTC) - older_than
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    removed = []
    for info in found:
        name = info.path.removeprefix(f"{folder.rstrip('/')}/")
        is_left = name.startswith(f"{HELD_FOLDER}/") or UNFINISHED.fullmatch(info.base_name)
        if info.type == FileType.File and is_left and info.mtime is not None and info.mtime <= before:
            filesystem.delete_file(info.path)
            removed.append(name)
    return sorted(removed)

"""One Delta table at a path: opened at a version, refused by name, and what its log says of it. Not its rows."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from churn_assets.churn.errors import ChurnError
from churn_assets.delta.storage import filesystem_of, python_uri

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql.types import StructType

# Partition values live in the log; engines leave them out of the files. Files in a folder of this name hold their date
# as well, as Delta's materializePartitionColumns has it: so all dates of a table are read as one.
OF_DATE = "of_date"

# Reading file lists is only right for tables without these: with them, a file's rows are not the table's rows.
UNSUPPORTED_FEATURES = {"deletionVectors", "columnMapping", "typeWidening", "v2Checkpoint", "variantType"}


class DeltaTableError(ChurnError):
    """A Delta table cannot be opened or read as it stands."""


class MissingTableError(DeltaTableError):
    """A Delta table, or the version asked for, does not exist."""


class UnsupportedTableError(DeltaTableError):
    """A Delta table uses a feature that would make a plain read return wrong rows."""


class UnreadableTableError(DeltaTableError):
    """There is a Delta table, but its log cannot be read: damaged, or written for newer readers."""


class MissingFileError(DeltaTableError):
    """A version's log names files that are gone, such as by VACUUM: its rows can no longer be read."""


def latest_version(path: str) -> int | None:
    """The latest version of the table at `path`; None if there is none."""
    from deltalake import DeltaTable

    uri = python_uri(path)
    return DeltaTable(uri).version() if DeltaTable.is_deltatable(uri) else None


def open_delta(path: str, version: int | None = None, *, next_step: str) -> "DeltaTable":
    """The Delta table at `path`. Raises MissingTableError, UnsupportedTableError and UnreadableTableError."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    uri = python_uri(path)
    if not DeltaTable.is_deltatable(uri):
        raise MissingTableError(f"There is no Delta table at {path}.", next_step=next_step)
    try:
        table = DeltaTable(uri, version=version)
    except DeltaError as unopened:
        if version is None or not _is_opened(uri):
            raise UnreadableTableError(
                f"There is a Delta table at {path}, but its log cannot be read.",
                [_reason(unopened)],
                next_step="restore its _delta_log, rewrite the table for older readers, or map it as a catalog table "
                '(format = "table")',
            ) from None
        raise MissingTableError(f"{path} has no version {version}: {unopened}", next_step=next_step) from unopened
    unsupported = UNSUPPORTED_FEATURES & _reader_features(table)
    if unsupported:
        raise UnsupportedTableError(
            f"The Delta table {path} uses features that a plain read would get wrong.",
            sorted(unsupported),
            next_step='rewrite the table without them, or map it as a catalog table (format = "table")',
        )
    return table


def _is_opened(uri: str) -> bool:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        DeltaTable(uri)
    except DeltaError:
        return False
    return True


def _reason(error: Exception) -> str:
    """What deltalake says, without the frames of its own code and the structures behind a colon."""
    first = str(error).splitlines()[0].removeprefix("Kernel error: ").removeprefix("Generic delta kernel error: ")
    return first.partition(": ParsedLogPath")[0]


def _reader_features(table: "DeltaTable") -> set[str]:
    """What a reader must know. Before features had names, version 2 with a mapping mode meant column mapping."""
    named = set(table.protocol().reader_features or ())
    is_mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
    return named | ({"columnMapping"} if is_mapped else set())


def schema_of(table: "DeltaTable") -> "StructType":
    from pyspark.sql.types import StructType

    return StructType.fromJson(json.loads(table.schema().to_json()))


def files_of(table: "DeltaTable") -> list[dict[str, Any]]:
    """The files of an opened version, with their partition values and statistics by flat names."""
    files: list[dict[str, Any]] = _add_actions(table).to_pylist()
    return files


def row_count(table: "DeltaTable") -> int:
    """Rows by the file statistics of the log."""
    return sum(_add_actions(table).column("num_records").to_pylist())


def _add_actions(table: "DeltaTable") -> Any:
    import pyarrow as pa

    exported: Any = table.get_add_actions(flatten=True)
    return pa.table(exported)


def commit_info(path: str, version: int) -> dict[str, Any]:
    """What the commit of a version says of itself. Raises MissingTableError if the log no longer holds it.

    Not DeltaTable.history(): it begins at the newest commit, whatever version is open (deltalake 1.6.6).
    """
    return next((entry["commitInfo"] for entry in entries_of(path, version) if "commitInfo" in entry), {})


def entries_of(path: str, version: int) -> list[dict[str, Any]]:
    """The log's entries of a version. Raises MissingTableError if the log no longer holds them."""
    filesystem, folder = filesystem_of(path.rstrip("/"))
    try:
        with filesystem.open_input_stream(f"{folder}/_delta_log/{version:020}.json") as stream:
            return [json.loads(line) for line in stream.read().decode().splitlines()]
    except FileNotFoundError as cleaned_up:
        raise MissingTableError(
            f"The log of {path} no longer holds the commit of version {version}.",
            next_step="use a later version, and keep the log for longer (delta.logRetentionDuration)",
        ) from cleaned_up


def written_as(path: str, version: int) -> int:
    """The version whose commit wrote the rows and columns that `version` holds: commits since only rearranged them.

    OPTIMIZE, VACUUM and changed properties, whoever made them, say nothing of rows: what is known of these stays.
    Raises MissingTableError if the log no longer holds a commit in between.
    """
    while is_rearranged(path, version):
        version -= 1
    return version


def is_rearranged(path: str, version: int) -> bool:
    """Whether a commit changed neither a row nor a column of the version before."""
    entries = entries_of(path, version)
    if version == 0:
        return False
    if any("write_id" in entry.get("commitInfo", {}) for entry in entries):
        return False  # this project's own, which may hold no row
    files = [entry[kind] for entry in entries for kind in ("add", "remove", "cdc") if kind in entry]
    if any(file.get("dataChange", True) for file in files):
        return False
    schemas = [entry["metaData"]["schemaString"] for entry in entries if "metaData" in entry]
    return not schemas or _fields(schemas[-1]) == _fields(_schema_text(path, version - 1))


def _schema_text(path: str, version: int) -> str:
    from deltalake import DeltaTable

    return DeltaTable(python_uri(path), version=version).schema().to_json()


def _fields(schema: str) -> Any:
    return json.loads(schema)["fields"]


def committed_at(path: str, version: int) -> datetime:
    """When the rows of a version were committed, by the clock of whoever did."""
    written = commit_info(path, written_as(path, version))["timestamp"]
    return datetime.fromtimestamp(written / 1000, UTC)

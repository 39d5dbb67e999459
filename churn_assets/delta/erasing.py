"""Rows of some customers taken out of every file under a folder, in every version of its tables. Needs no JVM.

A file keeps its place and a version its files: only the rows, and what the log says of them, are gone. So whatever
names a version finds it again.
"""

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from churn_assets.churn.plain_text import JSON_LINES, protected
from churn_assets.delta.file_statistics import file_statistics
from churn_assets.delta.storage import filesystem_of, python_uri, write_file

if TYPE_CHECKING:
    import pyarrow as pa

FORGOTTEN = "(forgotten)"
LOG = "_delta_log"
KEYS = ("customer_id", "order_id")
# A rejected row whole, as JSON.
WHOLE_ROWS = ("source_row",)


@dataclass(frozen=True)
class Erasure:
    """Whose rows go: the ids of customers, and of their orders, by which alone reviews name them."""

    customers: frozenset[str]
    orders: frozenset[str] = frozenset()

    def keys(self, column: str) -> frozenset[str]:
        if column == "order_id":
            return self.orders
        return self.customers | {protected(each) for each in self.customers}

    def names(self, text: str) -> bool:
        """Whether `text` holds a customer's id for itself, not as a part of a longer word."""
        return self.pattern.search(text) is not None

    @property
    def pattern(self) -> "re.Pattern[str]":
        ids = "|".join(re.escape(each) for each in sorted(self.customers, key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:{ids})(?!\w)")


def orders_of(root: str, customers: Collection[str]) -> set[str]:
    """The orders of customers in any version of any table under `root`."""
    filesystem, _ = filesystem_of(root)
    found: set[str] = set()
    for path in _files(root):
        if _tells_whose(filesystem, path):
            rows = _rows(filesystem, path, KEYS)
            is_theirs = _has_key(rows, "customer_id", Erasure(frozenset(customers)).keys("customer_id"))
            found |= {str(each).strip(" ") for each in rows.filter(is_theirs)["order_id"].to_pylist() if each}
    return found


def _tells_whose(filesystem: Any, path: str) -> bool:
    """Whether a file has orders with their customers."""
    import pyarrow.parquet as pq

    is_of_rows = path.endswith(".parquet") and f"/{LOG}/" not in path
    return is_of_rows and set(KEYS) <= set(pq.read_schema(path, filesystem=filesystem).names)


def erase(root: str, erasure: Erasure) -> dict[str, int]:
    """Takes the rows out of every file under `root`; how many rows or places, by file. Again: what an end left over."""
    filesystem, folder = filesystem_of(root)
    erased: dict[str, int] = {}
    # What says whose an order is goes last: whoever is killed and asks again has to find the orders again.
    for path in sorted(_files(root), key=lambda path: _tells_whose(filesystem, path)):
        # A checksum holds no text, and may have gone with its file's old content.
        if f"/{LOG}/" in path or path.endswith(".crc"):
            continue
        if path.endswith(".parquet"):
            gone = _erase_rows(filesystem, path, erasure)
        elif path.endswith(".csv"):
            gone = _erase_lines(filesystem, path, erasure)
        elif _has_json_lines(filesystem, path):
            gone = _erase_json_lines(filesystem, path, erasure)
        else:
            gone = _erase_words(filesystem, path, erasure)
        if gone:
            erased[path.removeprefix(f"{folder.rstrip('/')}/")] = gone
    for log in sorted({path.split(f"/{LOG}/")[0] for path in _files(root) if f"/{LOG}/" in path}):
        _mend_log(filesystem, log, f"{root.rstrip('/')}{log.removeprefix(folder.rstrip('/'))}", erasure)
    return erased


def _files(root: str) -> Iterator[str]:
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(root)
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return (info.path for info in found if info.type == FileType.File)


def _erase_rows(filesystem: Any, path: str, erasure: Erasure) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = _rows(filesystem, path)
    is_theirs = pa.chunked_array([pa.array([False] * len(rows), pa.bool_())])
    for column in KEYS:
        if column in rows.schema.names:
            is_theirs = pc.or_(is_theirs, _has_key(rows, column, erasure.keys(column)))
    for column in set(WHOLE_ROWS) & set(rows.schema.names):
        found = [text is not None and _is_of(json.loads(text), erasure) for text in rows[column].to_pylist()]
        is_theirs = pc.or_(is_theirs, pa.chunked_array([pa.array(found, pa.bool_())]))
    gone = int(pc.sum(is_theirs).as_py() or 0)
    if gone:
        whole = io.BytesIO()
        pq.write_table(rows.filter(pc.invert(is_theirs)), whole, compression="zstd", coerce_timestamps="us")
        _replace(filesystem, path, whole.getvalue())
    return gone


def _rows(filesystem: Any, path: str, columns: Collection[str] | None = None) -> "pa.Table":
    """The rows of a Parquet file.

    Text that deltalake's update has written is read as views, which Arrow does not filter (1.6.6 and 25.0.1).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(path, filesystem=filesystem).read(columns=None if columns is None else list(columns))
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return rows.cast(pa.schema([field.with_type(plain.get(field.type, field.type)) for field in rows.schema]))


def _has_key(rows: "pa.Table", column: str, keys: Collection[str]) -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim(rows[column].cast(pa.string()), " ")
    return pc.is_in(text, pa.array(sorted(keys), pa.string()))


def _is_of(row: Mapping[str, Any], erasure: Erasure) -> bool:
    return any(str(row.get(column, "")).strip(" ") in erasure.keys(column) for column in KEYS)


def _erase_lines(filesystem: Any, path: str, erasure: Erasure) -> int:
    text = _text(filesystem, path)
    if text is None:
        return 0
    kept, gone = io.StringIO(), 0
    lines = list(csv.reader(io.StringIO(text)))
    writer = csv.writer(kept, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for line in lines:
        is_theirs = any(cell.strip(" ") in erasure.keys("customer_id") for cell in line)
        gone += is_theirs
        if not is_theirs:
            writer.writerow(line)
    if gone:
        _replace(filesystem, path, kept.getvalue().encode())
    return gone


def _has_json_lines(filesystem: Any, path: str) -> bool:
    """Whether a file is lines of JSON, or a page that holds such lines: whose each is, it says itself."""
    if path.endswith(".jsonl"):
        return True
    return path.endswith(".html") and f'type="{JSON_LINES}"' in (_text(filesystem, path) or "")


def _erase_json_lines(filesystem: Any, path: str, erasure: Erasure) -> int:
    """Whole lines, and nothing but them: in JSON an id may be written otherwise, and 7 as an id is not every 7."""
    lines = (_text(filesystem, path) or "").split("\n")
    kept = [line for line in lines if not _is_line_of(line, erasure)]
    if len(kept) < len(lines):
        _replace(filesystem, path, "\n".join(kept).encode())
    return len(lines) - len(kept)


def _is_line_of(line: str, erasure: Erasure) -> bool:
    if not line.startswith("{"):
        return False
    try:
        row = json.loads(line)
    except ValueError:
        # A line of the page's own.
        return False
    return isinstance(row, dict) and _is_of(row, erasure)


def _erase_words(filesystem: Any, path: str, erasure: Erasure) -> int:
    """Of a page; in a picture or a model there is no text to look at."""
    text = _text(filesystem, path)
    if text is None:
        return 0
    erased, gone = erasure.pattern.subn(FORGOTTEN, text)
    if gone:
        _replace(filesystem, path, erased.encode())
    return gone


def _text(filesystem: Any, path: str) -> str | None:
    with filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        return str(content.decode())
    except UnicodeDecodeError:
        return None


def _replace(filesystem: Any, path: str, content: bytes) -> None:
    from pyarrow.fs import FileType, LocalFileSystem

    folder, _, name = path.rpartition("/")
    if isinstance(filesystem, LocalFileSystem):
        write_file(path, content)
        # Hadoop's checksum beside a file of Spark's: it would say that the file is broken.
        checksum = f"{folder}/.{name}.crc"
        if filesystem.get_file_info(checksum).type == FileType.File:
            filesystem.delete_file(checksum)
    else:
        # An object is replaced whole or not at all.
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)


def _mend_log(filesystem: Any, table: str, path: str, erasure: Erasure) -> None:
    """Sizes, counts and bounds of the files as they are now; and no id in what audits noted.

    table: as `filesystem` names it. path: as all others do.
    """
    from deltalake import DeltaTable
    from pyarrow.fs import FileSelector

    changed: dict[str, str] = {}
    for info in filesystem.get_file_info(FileSelector(f"{table}/{LOG}")):
        if info.path.endswith(".json"):
            entries = [json.loads(line) for line in (_text(filesystem, info.path) or "").splitlines()]
            mended = [_mended(filesystem, table, entry, erasure) for entry in entries]
            if mended != entries:
                changed[info.path] = "\n".join(
                    json.dumps(entry, separators=(",", ":"), ensure_ascii=False) for entry in mended
                )
    if changed:
        # First: once the log is as it should be, nothing would tell the next attempt that they are not.
        _remove_checkpoints(filesystem, table)
        for commit, lines in changed.items():
            _replace(filesystem, commit, lines.encode())
        DeltaTable(python_uri(path)).create_checkpoint()


def _remove_checkpoints(filesystem: Any, table: str) -> None:
    """They repeat the log; what they held can be made of it again."""
    from pyarrow.fs import FileSelector

    for info in filesystem.get_file_info(FileSelector(f"{table}/{LOG}")):
        if ".checkpoint." in info.base_name or info.base_name == "_last_checkpoint":
            filesystem.delete_file(info.path)


def _mended(filesystem: Any, table: str, entry: Mapping[str, Any], erasure: Erasure) -> dict[str, Any]:
    from pyarrow.fs import FileType

    mended: dict[str, Any] = json.loads(json.dumps(entry))
    for kind in ("add", "remove"):
        file = mended.get(kind)
        if file is None:
            continue
        place = f"{table}/{unquote(file['path'])}"
        info = filesystem.get_file_info(place)
        if info.type == FileType.File and file.get("size") not in (None, info.size):
            file["size"] = info.size
            if kind == "add":
                file["stats"] = _statistics(filesystem, place, file.get("partitionValues") or ())
        elif kind == "add" and file.get("stats") and erasure.names(file["stats"]):
            # Of a file that is gone, or whose bounds were cut: without bounds nothing is skipped.
            stats = json.loads(file["stats"])
            file["stats"] = json.dumps({name: stats[name] for name in stats if name not in ("minValues", "maxValues")})
    audit = mended.get("commitInfo", {}).get("audit")
    for outcome in audit.get("outcomes", ()) if isinstance(audit, dict) else ():
        outcome["keys"] = [FORGOTTEN if erasure.names(str(key)) else key for key in outcome["keys"]]
        for told in ("observed", "allowed"):
            outcome[told] = erasure.pattern.sub(FORGOTTEN, str(outcome[told]))
    return mended


def _statistics(filesystem: Any, place: str, partitioned_by: Collection[str]) -> str:
    import pyarrow.parquet as pq

    return json.dumps(file_statistics(pq.read_metadata(place, filesystem=filesystem), without=partitioned_by))

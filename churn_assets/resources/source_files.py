"""Which files a path of sources.toml names: a file, a folder at whatever depth, or a pattern. Not what is in them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from churn_assets.delta.storage import filesystem_of

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

SIGNS = "*?[{"


def data_files(path: str) -> list[str]:
    """The files at `path`, sorted: itself, all below it, or those that its pattern fits; empty if there are none.

    As in Spark's reader a name that begins with _ or . hides a file or a folder. In a pattern `*` and `?` stand for
    characters of one name, `**` for folders at any depth, `[ab]` and `{a,b}` for one of those. A path that is there is
    no pattern, whatever its name.
    """
    return [file for file, _ in _listed(path)]


def files_state(path: str) -> list[tuple[str, int, str]]:
    """Name, size and time of each file of `data_files`."""
    return [(file, info.size or 0, str(info.mtime)) for file, info in _listed(path)]


def base_folder(path: str) -> str:
    """The folder below which the files of `path` lie: of a pattern that in front of its first sign."""
    is_pattern = any(sign in path for sign in SIGNS) and not _is_there(path)
    return _folder_of(path) if is_pattern else path.rstrip("/")


def partition_values(base: str, file: str) -> dict[str, str]:
    """The values that folders named `name=value` below `base` give the file, as they are written."""
    folders = file.removeprefix(base).split("/")[:-1]
    return {unquote(name): unquote(value) for name, sign, value in map(_parted, folders) if name and sign}


def _parted(folder: str) -> tuple[str, str, str]:
    return folder.partition("=")


def _is_there(path: str) -> bool:
    from pyarrow.fs import FileType

    filesystem, place = filesystem_of(path)
    return bool(filesystem.get_file_info(place).type != FileType.NotFound)


def _listed(path: str) -> list[tuple[str, "FileInfo"]]:
    from pyarrow.fs import FileSelector, FileType

    filesystem, place = filesystem_of(path)
    info = filesystem.get_file_info(place)
    if info.type == FileType.File:
        return [(path, info)]
    if info.type == FileType.Directory:
        folder, wanted = path.rstrip("/"), None
    elif any(sign in path for sign in SIGNS):
        folder = _folder_of(path)
        wanted = re.compile(_expression(path[len(folder) + 1 :]))
        _, place = filesystem_of(folder)
    else:
        return []
    found = filesystem.get_file_info(FileSelector(place, allow_not_found=True, recursive=True))
    files = []
    for each in found:
        below = each.path[len(place.rstrip("/")) + 1 :]
        is_fit = wanted is None or any(wanted.fullmatch(part) for part in _with_parents(below))
        if each.type == FileType.File and is_fit and not any(name.startswith(("_", ".")) for name in below.split("/")):
            files.append((f"{folder}/{below}", each))
    return sorted(files, key=lambda file: file[0])


def _with_parents(below: str) -> Sequence[str]:
    """A pattern may name files, or folders whose files are meant."""
    return [below, *map(str, list(Path(below).parents)[:-1])]


def _folder_of(pattern: str) -> str:
    """The folder in front of the first name that holds a sign."""
    first = min(pattern.index(sign) for sign in SIGNS if sign in pattern)
    return pattern[:first].rpartition("/")[0]


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\]|\{[^}]*\})", pattern)
    return "".join(map(_part, parts))


def _part(part: str) -> str:
    if part in ("**/", "**", "*", "?"):
        return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[part]
    if part.startswith("{") and part.endswith("}"):
        return f"(?:{'|'.join(map(_expression, part[1:-1].split(',')))})"
    if part.startswith("[") and part.endswith("]"):
        inside = part[1:-1]
        return f"[{'^' if inside.startswith('!') else ''}{re.escape(inside.lstrip('!')).replace(chr(92) + '-', '-')}]"
    return re.escape(part)

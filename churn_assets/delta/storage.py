"""Places that Spark and Python both reach: a folder, or a URI such as s3://bucket/folder. Not the tables there."""

import re
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def filesystem_of(path: str) -> tuple["FileSystem", str]:
    """Arrow's file system for `path`, and the path within it."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(python_uri(path) if "://" in path else path)


def python_uri(path: str) -> str:
    """Hadoop's scheme for S3 is s3a; everyone else's is s3."""
    return path.replace("s3a://", "s3://", 1)


def spark_uri(path: str) -> str:
    """Of a local folder its path alone: what follows `file://` is decoded by Sail, and taken as it is by Spark."""
    return path.removeprefix("file://").replace("s3://", "s3a://", 1)


def holds_files(path: str) -> bool:
    """Whether there is anything to read in the folder `path`, at whatever depth; not if there is no such folder."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = filesystem_of(path)
    found = filesystem.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True))
    return any(file.type == FileType.File and not file.base_name.startswith(("_", ".")) for file in found)


def is_file(path: str) -> bool:
    from pyarrow.fs import FileType

    filesystem, place = filesystem_of(path)
    return bool(filesystem.get_file_info(place).type == FileType.File)


def delete_folder(path: str) -> None:
    """Deletes the folder with all that is in it; one that is not there is none to delete."""
    from pyarrow.fs import FileType

    filesystem, folder = filesystem_of(path)
    if filesystem.get_file_info(folder).type == FileType.Directory:
        filesystem.delete_dir(folder)


# Rows that one process holds for itself; and what a file for people is called until it is whole.
HELD_FOLDER, UNFINISHED = "held", re.compile(r"\..+\.[0-9a-f]{32}")


def write_file(path: str, content: bytes) -> None:
    """Writes a file in place of an earlier one, which whoever reads it meanwhile has whole."""
    filesystem, place = filesystem_of(path)
    folder, _, base = place.rpartition("/")
    filesystem.create_dir(folder, recursive=True)
    unfinished = f"{folder}/.{base}.{uuid.uuid4().hex}"  # as UNFINISHED has it
    with filesystem.open_output_stream(unfinished) as stream:
        stream.write(content)
    filesystem.move(unfinished, place)

"""Places that Spark and Python both reach: a folder, or a URI such as s3://bucket/folder. Not the tables there.

What follows s3:// is a bucket and a key as the store has it, with no character written otherwise.
"""

import os
import re
import uuid
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

# What the clients of S3 (deltalake, Arrow, Sail, boto3) have to be told alike, where the environment does not say. None
# asks the metadata service of a cloud's machine unless AWS_EC2_METADATA_DISABLED=false; with AWS_ENDPOINT_URL set
# deltalake heeds that only with the second (1.6.6).
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("AWS_FORCE_CREDENTIAL_LOAD", "true")
# boto3 reads the one name, Sail the other.
for _name, _other in (("AWS_REGION", "AWS_DEFAULT_REGION"), ("AWS_DEFAULT_REGION", "AWS_REGION")):
    if _region := os.environ.get(_other):
        os.environ.setdefault(_name, _region)

_S3 = ("s3://", "s3a://")


def filesystem_of(path: str) -> tuple["FileSystem", str]:
    """Arrow's file system for `path`, and the path within it."""
    from pyarrow.fs import FileSystem

    if path.startswith(_S3):
        place = path.partition("://")[2].rstrip("/")
        return _store(place.partition("/")[0]), place
    return FileSystem.from_uri(path)


@cache
def _store(bucket: str) -> "FileSystem":
    """One for all: each asks for the bucket's region, and opens connections of its own."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"s3://{bucket}")[0]


def is_object_store(path: str) -> bool:
    """Whether a file there is whole or not there, and a folder no more than the names of its files."""
    return path.startswith(_S3)


def make_folder(path: str) -> None:
    """Makes the folder, with those above it; where there are none but by their files, nothing."""
    if not is_object_store(path):
        filesystem, folder = filesystem_of(path)
        filesystem.create_dir(folder, recursive=True)


def python_uri(path: str) -> str:
    """For deltalake and Sail: Hadoop's scheme for S3 is s3a, everyone else's is s3, and a URI is percent-encoded."""
    if not path.startswith(_S3):
        return path
    return f"s3://{quote(path.partition('://')[2])}"


def place_of(uri: str) -> str:
    """The place that deltalake names by a URI."""
    return unquote(uri) if uri.startswith(_S3) else uri


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


def keeps_first_write(path: str) -> bool:
    """Whether an object store refuses a second write to `path` that asks to be the first; nothing is left there.

    Raises ImportError without boto3, OSError if the store takes no write at all.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("://")[2].partition("/")
    try:
        client: Any = boto3.client("s3")
        client.put_object(Bucket=bucket, Key=key, Body=b"", IfNoneMatch="*")
        try:
            client.put_object(Bucket=bucket, Key=key, Body=b"", IfNoneMatch="*")
        except ClientError as refused:
            if refused.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return True
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError) as failed:
        raise OSError(str(failed)) from failed
    return False


# Rows that one process holds for itself; and what a file for people is called until it is whole.
HELD_FOLDER, UNFINISHED = "held", re.compile(r"\..+\.[0-9a-f]{32}")


def write_file(path: str, content: bytes) -> None:
    """Writes a file in place of an earlier one, which whoever reads it meanwhile has whole."""
    filesystem, place = filesystem_of(path)
    folder, _, base = place.rpartition("/")
    make_folder(path.rpartition("/")[0])
    unfinished = place if is_object_store(path) else f"{folder}/.{base}.{uuid.uuid4().hex}"  # as UNFINISHED has it
    with filesystem.open_output_stream(unfinished) as stream:
        stream.write(content)
    if unfinished != place:
        filesystem.move(unfinished, place)

"""A real S3 server on loopback, by moto, in a process of its own; with conditional writes, but for careless buckets.

`python -m churn_assets_tests.object_store` serves on a free port, which it prints, until its input ends.
"""

import importlib.util
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

import pytest

ADVICE = "moto is missing, an S3 server. Next step: make install"
# A bucket of a store that takes every write: whose name begins with this.
CARELESS = "careless"


@dataclass(frozen=True)
class ObjectStore:
    """Where a server answers, and a bucket of it; `environment`: what its clients have to be told, and no more."""

    environment: dict[str, str]
    bucket: str

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}"

    def client(self) -> Any:
        import boto3

        return boto3.client("s3")

    def made(self, prefix: str) -> str:
        """The root of another bucket."""
        bucket = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self.client().create_bucket(Bucket=bucket)
        return f"s3://{bucket}"

    def keys(self, root: str) -> list[str]:
        """Every object's key under `root`, seen from there."""
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [each["Key"].removeprefix(prefix).lstrip("/") for page in pages for each in page.get("Contents", [])]


@contextmanager
def running() -> Iterator[ObjectStore]:
    """A server and an empty bucket, which the environment of this process names meanwhile."""
    if importlib.util.find_spec("moto") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(ADVICE)
    server = subprocess.Popen(
        [sys.executable, "-m", "churn_assets_tests.object_store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "of-a-test",
            "AWS_SECRET_ACCESS_KEY": "of-a-test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            store = ObjectStore(environment, f"lake-{uuid.uuid4().hex[:8]}")
            store.client().create_bucket(Bucket=store.bucket)
            yield store
    finally:
        server.stdin.close()
        server.wait(timeout=30)


def _serve() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store, one = DomainDispatcherApplication(create_backend_app), Lock()

    def in_turn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # S3 decides which of two conditional writes is first; moto asks and then writes, in a thread for each.
        with one:
            if environ["PATH_INFO"].startswith(f"/{CARELESS}"):
                environ.pop("HTTP_IF_NONE_MATCH", None)
            return store(environ, start_response)

    server = make_server("127.0.0.1", 0, in_turn, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()

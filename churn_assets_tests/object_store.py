"""A real S3 server on loopback, by moto, in a process of its own; with conditional writes, but for careless buckets.

`python -m churn_assets_tests.object_store ADDRESS` serves on a free port, which it prints, until its input ends.
"""

import importlib.util
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any

import pytest

from churn_assets_tests.processes import CHECKOUT, PATIENCE_SECONDS

ADVICE = "moto is missing, an S3 server. Next step: make install"
# A bucket of a store that takes every write: whose name begins with this.
CARELESS = "careless"
LOOPBACK = "127.0.0.1"
GO_ON = "go on"


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


@dataclass(frozen=True)
class Server:
    """A process that serves S3; `environment`: what its clients have to be told, and no more."""

    process: "subprocess.Popen[str]"
    environment: dict[str, str]

    def hold(self, part: str, *addresses: str) -> None:
        """The next PUT by one of `addresses` of a key with `part` in it will wait for `go_on`; others do not."""
        self._tell(" ".join([part, *addresses]))

    def wait_until_held(self, asking: "subprocess.Popen[bytes]") -> str:
        """The address whose PUT waits. asking: the process without which nothing will be put."""
        told = self.process.stdout
        assert told is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        # At once, not at the next look: what is to happen in the middle of something may have no second for it.
        while not select.select([told], [], [], 1)[0]:
            assert asking.poll() is None, "it ended before: see its log"
            assert time.monotonic() < deadline, f"nothing came to be held in {PATIENCE_SECONDS} s"
        return told.readline().strip()

    def go_on(self) -> None:
        """All that wait are answered."""
        self._tell(GO_ON)

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)


@contextmanager
def serving(within: Sequence[str] = (), address: str = LOOPBACK) -> Iterator[Server]:
    """A server without a bucket, on a free port of `address`. within: what a command begins with that is to run there.

    Without moto the test is skipped, and fails in CI.
    """
    if importlib.util.find_spec("moto") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(ADVICE)
    server = subprocess.Popen(
        [*within, sys.executable, "-m", "churn_assets_tests.object_store", address],
        # What enters a host begins in another folder.
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        environment = {
            "AWS_ENDPOINT_URL": f"http://{address}:{int(server.stdout.readline())}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "of-a-test",
            "AWS_SECRET_ACCESS_KEY": "of-a-test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield Server(server, environment)
    finally:
        server.stdin.close()
        server.wait(PATIENCE_SECONDS)


@contextmanager
def running() -> Iterator[ObjectStore]:
    """A server on loopback and an empty bucket, which the environment of this process names meanwhile."""
    with serving() as server, pytest.MonkeyPatch.context() as patched:
        for name, value in server.environment.items():
            patched.setenv(name, value)
        store = ObjectStore(server.environment, f"lake-{uuid.uuid4().hex[:8]}")
        store.client().create_bucket(Bucket=store.bucket)
        yield store


class _Hold:
    """PUTs that wait, as the lines of the process's input say."""

    def __init__(self) -> None:
        self.wanted: list[str] | None = None
        self.held = Event()

    def told(self, line: str) -> None:
        if line == GO_ON:
            # The next one may be wanted before these go on.
            self.held.set()
            self.held = Event()
        else:
            self.wanted = line.split()

    def passes(self, environ: Mapping[str, Any]) -> None:
        """Returns once the request may be answered."""
        if self.wanted is None or environ["REQUEST_METHOD"] != "PUT":
            return
        part, *addresses = self.wanted
        if environ["REMOTE_ADDR"] in addresses and part in environ["PATH_INFO"]:
            self.wanted, held = None, self.held
            print(environ["REMOTE_ADDR"], flush=True)
            held.wait()


def _serve(address: str) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store, one, hold = DomainDispatcherApplication(create_backend_app), Lock(), _Hold()

    def in_turn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        hold.passes(environ)
        # S3 decides which of two conditional writes is first; moto asks and then writes, in a thread for each.
        with one:
            if environ["PATH_INFO"].startswith(f"/{CARELESS}"):
                environ.pop("HTTP_IF_NONE_MATCH", None)
            return store(environ, start_response)

    server = make_server(address, 0, in_turn, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    for line in sys.stdin:
        hold.told(line.rstrip("\n"))


if __name__ == "__main__":
    _serve(*sys.argv[1:])

"""Storage and Delta tables on an S3 server: names, two writers, kills, orphans, forgetting, whom clients ask."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread
from typing import Any

import pyarrow as pa
import pytest

from churn_assets.definitions import default_resources
from churn_assets.delta import commits, reading
from churn_assets.delta.commits import OvertakenError, UnsafeStoreError, append_after, require_one_winner
from churn_assets.delta.erasing import Erasure, erase, orders_of
from churn_assets.delta.maintenance import maintain, remove_temporary_files, tables_under
from churn_assets.delta.storage import delete_folder, holds_files, is_file, write_file
from churn_assets.delta.tables import files_of, latest_version, open_delta
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.source_files import data_files
from churn_assets.resources.source_reading import Scratch, SourceReading
from churn_assets.resources.spark import spark_resource
from churn_assets.serving.pipelines import shared_folder
from churn_assets_tests import object_store
from churn_assets_tests.object_store import CARELESS, ObjectStore

ODD = "März/no 1#2 50%25 a+b=c?.csv"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store.running() as running:
        yield running


def records(path: str, version: int | None = None) -> list[dict[str, Any]]:
    return sorted(reading.records(open_delta(path, version, next_step="")), key=str)


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": list(values)})


def test_a_place_keeps_its_name_whatever_letters_it_has(store: ObjectStore) -> None:
    root = f"{store.root}/names"
    write_file(f"{root}/{ODD}", b"one")
    write_file(f"{root}/{ODD}", b"two")
    # One object under its very name: no half-written one, and none that stands for a folder.
    assert store.keys(root) == [ODD]
    assert is_file(f"{root}/{ODD}")
    assert is_file(f"{root.replace('s3://', 's3a://')}/{ODD}")
    assert data_files(root) == data_files(f"{root}/*/no*.csv") == [f"{root}/{ODD}"]
    assert holds_files(root)
    delete_folder(root)
    assert not holds_files(root)
    assert not any(ODD in key for key in store.keys(store.root))


def test_a_table_in_a_place_with_other_letters(store: ObjectStore) -> None:
    root = f"{store.root}/Küche 1#2"
    path = f"{root}/food/rows"
    append_after(path, None, numbers(1), {})
    commits.overwrite(path, numbers(2, 3), {}, since=0)
    assert records(path) == [{"n": 2}, {"n": 3}]
    assert records(path, 0) == [{"n": 1}]
    assert commits.audit_of([open_delta(path, next_step="")]) is None
    assert tables_under(root) == ["food/rows"]


@pytest.mark.parametrize("kind", ["append", "overwrite", "create"])
def test_of_two_writers_at_once_one_loses_and_leaves_nothing(store: ObjectStore, kind: str) -> None:
    path = f"{store.root}/race/{kind}"
    if kind != "create":
        append_after(path, None, numbers(0), {})
    for _ in range(4):
        version = latest_version(path)
        barrier = Barrier(2)

        def written(number: int, version: int | None = version, barrier: Barrier = barrier) -> int | None:
            barrier.wait()
            try:
                if kind == "overwrite":
                    return commits.overwrite(path, numbers(number), {}, since=version)
                return append_after(path, version, numbers(number), {})
            except OvertakenError:
                return None

        with ThreadPoolExecutor(2) as writers:
            ended = list(writers.map(written, (1, 2)))
        assert sorted(ended, key=str) == [(-1 if version is None else version) + 1, None]
        (winner,) = (number for number, won in zip((1, 2), ended, strict=True) if won is not None)
        assert {"n": winner} in records(path)
        assert {"n": 3 - winner} not in records(path) or kind == "append"
        # Of the loser no file is left.
        files = {file["path"] for number in range((latest_version(path) or 0) + 1) for file in _files(path, number)}
        assert {key for key in store.keys(path) if key.endswith(".parquet")} == files
        if kind == "create":
            break


def _files(path: str, version: int) -> list[dict[str, Any]]:
    return files_of(open_delta(path, version, next_step=""))


def test_a_store_that_keeps_the_second_of_two_commits_is_refused(store: ObjectStore) -> None:
    careless = store.made(CARELESS)
    with pytest.raises(UnsafeStoreError, match="lets a second writer replace"):
        require_one_winner(f"{careless}/lake")
    require_one_winner(f"{store.root}/careful")
    for root in (careless, f"{store.root}/careful"):
        assert not holds_files(root)


_KILLED = """
import os, signal, sys
import pyarrow as pa
from churn_assets.delta import commits
commits.commit_files = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
commits.overwrite(sys.argv[1], pa.table({"n": [7]}), {}, since=0)
"""


def test_a_kill_between_write_and_commit_leaves_the_table_and_an_orphan_for_upkeep(store: ObjectStore) -> None:
    path = f"{store.root}/kill/rows"
    append_after(path, None, numbers(1), {})
    before = set(store.keys(path))
    killed = subprocess.run([sys.executable, "-c", _KILLED, path], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (orphan,) = set(store.keys(path)) - before
    assert (latest_version(path), records(path)) == (0, [{"n": 1}])
    # Another write is not in its way, and what is younger than asked is left alone: a run may be about to commit it.
    commits.overwrite(path, numbers(2), {}, since=0)
    maintain(path, [0], timedelta(hours=1))
    assert orphan in store.keys(path)
    upkeep = maintain(path, [0], timedelta(0))
    assert (upkeep.removed, upkeep.lost) == (1, [])
    assert orphan not in store.keys(path)
    assert (records(path), records(path, 0)) == ([{"n": 2}], [{"n": 1}])


def test_upkeep_removes_what_no_named_version_needs_and_what_was_held(store: ObjectStore) -> None:
    root = f"{store.root}/upkeep"
    path = f"{root}/food/rows"
    append_after(path, None, numbers(1), {})
    for version in range(12):
        commits.overwrite(path, numbers(version), {}, since=version)
    write_file(f"{root}/held/abc/part-0.parquet", b"rows")
    assert remove_temporary_files(root, timedelta(hours=1)) == []
    assert remove_temporary_files(root, timedelta(0)) == ["held/abc/part-0.parquet"]
    upkeep = maintain(path, [3], timedelta(0))
    assert (upkeep.kept, upkeep.removed) == ([3, 12], 11)
    assert any("checkpoint" in key for key in store.keys(path))
    assert (records(path), records(path, 3)) == ([{"n": 11}], [{"n": 2}])


def test_forgetting_a_customer_takes_the_rows_out_of_every_version(store: ObjectStore) -> None:
    root = f"{store.root}/forget"
    path = f"{root}/food/orders"

    def orders(*rows: tuple[str, str]) -> pa.Table:
        return pa.table({"customer_id": [row[0] for row in rows], "order_id": [row[1] for row in rows]})

    append_after(path, None, orders(("C1", "O1"), ("C2", "O2")), {})
    append_after(path, 0, orders(("C1", "O3")), {})
    write_file(f"{root}/exports/list.csv", b'"customer_id"\n"C1"\n"C2"\n')
    assert orders_of(root, ["C1"]) == {"O1", "O3"}
    erased = erase(root, Erasure(frozenset({"C1"}), frozenset({"O1", "O3"})))
    assert sum(erased.values()) == 3
    left = [{"customer_id": "C2", "order_id": "O2"}]
    assert (records(path), records(path, 0)) == (left, left)
    told = [file["num_records"] for file in _files(path, 1)]
    assert sorted(told) == [0, 1]
    for key in store.keys(root):
        content = store.client().get_object(Bucket=store.bucket, Key=f"forget/{key}")["Body"].read()
        assert b"C1" not in content, key
    assert erase(root, Erasure(frozenset({"C1"}), frozenset({"O1", "O3"}))) == {}


def test_the_folder_for_trees_on_their_way_is_gone_afterwards(store: ObjectStore) -> None:
    with shared_folder(f"{store.root}/tmp") as folder:
        assert folder.startswith(f"s3a://{store.bucket}/tmp/")
        write_file(f"{folder}/data/part-0.parquet", b"trees")
    assert not holds_files(f"{store.root}/tmp")


_ASK = """
import sys
from churn_assets.delta.storage import filesystem_of, python_uri
place = "s3://bucket/folder"
try:
    if sys.argv[1] == "deltalake":
        from deltalake import DeltaTable
        DeltaTable.is_deltatable(python_uri(place))
    elif sys.argv[1] == "arrow":
        filesystem, folder = filesystem_of(place)
        filesystem.get_file_info(folder)
    elif sys.argv[1] == "boto3":
        import boto3
        boto3.client("s3").list_buckets()
    else:
        from pyspark.sql import SparkSession
        from churn_assets.engines.sail import sail_address
        SparkSession.builder.remote(sail_address(10**9)).getOrCreate().read.parquet(place).count()
except Exception as refused:
    print(refused)
"""


@pytest.mark.parametrize(
    ("client", "told", "is_asked"),
    [
        ("deltalake", {}, False),
        ("arrow", {}, False),
        ("boto3", {}, False),
        ("sail", {}, False),
        ("deltalake", {"AWS_EC2_METADATA_DISABLED": "false"}, True),
    ],
)
def test_no_client_asks_the_metadata_service_unless_told_to(
    store: ObjectStore, client: str, told: dict[str, str], is_asked: bool
) -> None:
    asked: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as service:
        Thread(target=service.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{service.server_port}"
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        named = {name: store.environment[name] for name in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_REGION")}
        places = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": address,
            "AWS_METADATA_ENDPOINT": address,
        }
        no_files = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
        ended = subprocess.run(
            [sys.executable, "-c", _ASK, client],
            env=others | named | places | no_files | told,
            check=False,
            capture_output=True,
            text=True,
        )
        service.shutdown()
    assert ended.returncode == 0, ended.stderr
    assert bool(asked) is is_asked, (asked, ended.stdout)


class Written:
    """Rows that tell where an engine is asked to write them."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.write = self

    def option(self, *_: Any) -> "Written":
        return self

    def parquet(self, place: str) -> None:
        self.places.append(place)
        raise InterruptedError


def test_spark_is_given_the_scheme_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Any = Written()
    with pytest.raises(InterruptedError):
        commits.stage(rows, "s3://lake/rows/1")
    lakehouse = default_resources(settings_from_env({"CHURN_LAKEHOUSE": "s3://nowhere"}))["lakehouse"]
    monkeypatch.setattr("churn_assets.resources.lakehouse.delete_folder", lambda _: None)
    with pytest.raises(InterruptedError):
        lakehouse.held(rows).__enter__()
    assert [place.partition("/held/")[0] for place in rows.places] == ["s3a://lake/rows/1", "s3a://nowhere"]
    settings = settings_from_env({"CHURN_LAKEHOUSE": "s3://lake", "SPARK_REMOTE": "sc://host:15002"})
    assert spark_resource(settings).shared_folder == "s3a://lake"
    assert SourceReading(rows, Scratch(""))._address("s3://lake/a") == "s3a://lake/a"

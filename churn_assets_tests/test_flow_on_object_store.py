"""The whole flow with tables, sources, lists and MLflow's artifacts on an S3 server: the same rows as on a disk."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from churn_assets.commands import doctor
from churn_assets.commands.run import UnusableLakehouseError, _require_place
from churn_assets.definitions import DEMO, LIFECYCLE
from churn_assets.defs.erasures import FORGET
from churn_assets.defs.maintenance import MAINTENANCE
from churn_assets.defs.retention import TARGETS
from churn_assets.delta.commits import UnsafeStoreError, append_after
from churn_assets.delta.storage import write_file
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.source_reading import Scratch, reading_by
from churn_assets.resources.sources import RawSource, _read
from churn_assets.resources.used_columns import ALL_COLUMNS
from churn_assets_tests import object_store
from churn_assets_tests.conftest import TABLES, TINY_DEMO, TINY_POLICY, Project, causes_of, checks_of
from churn_assets_tests.object_store import CARELESS, ObjectStore


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store.running() as running:
        yield running


def on(store: str, project: Project) -> Project:
    """The project with all that it keeps but databases in a store."""
    settings = replace(project.settings, lakehouse=f"{store}/lake", artifact_root=f"{store}/artifacts")
    return replace(project, settings=settings)


def rows_of(project: Project, table: str) -> list[str]:
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in project.lakehouse.records(table))


def test_the_whole_flow_upkeep_and_forgetting(
    built: Project, spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    project = on(store.root, Project.create(tmp_path, policy=TINY_POLICY, sources=TINY_DEMO))
    for job in (DEMO, LIFECYCLE):
        result = project.run(job)
        assert result.success, causes_of(result)
    for table in TABLES[:-1]:
        assert rows_of(project, table) == rows_of(built, table), table
    assert project.alias("production") == built.alias("production") == "1"
    last = project.weeks()[-1]
    scored = project.score(last, last)
    others = {name: passed for name, passed in checks_of(scored).items() if "monitoring" not in name}
    assert set(others.values()) == {True}, others
    assert project.lakehouse.holds_file(f"exports/retention_targets/{last}.csv")
    keys = store.keys(store.root)
    assert any(key.startswith("artifacts/") and key.endswith("trees.json") for key in keys)
    assert not list(tmp_path.rglob("*.parquet"))
    # Nothing that was held or half written is left.
    assert [key for key in keys if "/held/" in key and not key.endswith("/")] == []
    kept = project.run(MAINTENANCE, config={"maintain_tables": {"older_than_hours": 0}})
    assert kept.success, causes_of(kept)
    (listed, *_) = [row["customer_id"] for row in project.lakehouse.records(TARGETS) if not row["is_holdout"]]
    assert listed in contents(store)
    forgotten = project.run(FORGET, config={"forget": {"customer_ids": [listed], "reason": "asked by letter"}})
    assert forgotten.success, causes_of(forgotten)
    assert listed not in contents(store)
    assert project.lakehouse.row_count(TARGETS) == len(project.lakehouse.records(TARGETS)) > 0


def contents(store: ObjectStore) -> str:
    """All that can be read in the bucket: the cells of Parquet, and all else as it is."""
    found = []
    for key in store.keys(store.root):
        content = store.client().get_object(Bucket=store.bucket, Key=key)["Body"].read()
        is_table = key.endswith(".parquet")
        found.append(str(pq.read_table(io.BytesIO(content)).to_pylist()) if is_table else content.decode("latin-1"))
    return "\n".join(found)


def test_sources_of_each_format(spark: SparkSession, store: ObjectStore) -> None:
    root, whole = f"{store.root}/Küche 50%25 #1", io.BytesIO()
    pq.write_table(pa.table({"n": ["2"]}), whole)
    write_file(f"{root}/files/week=1/a+b=c?.csv", b"n\n1\n")
    write_file(f"{root}/rows/March 1#2.parquet", whole.getvalue())
    append_after(f"{store.root}/Küche #1/delta", None, pa.table({"n": ["3"]}), {})
    reading = reading_by(spark, Scratch(""))
    for kind, path, expected in (
        ("csv", f"{root}/files/*/*.csv", "1"),
        ("parquet", f"{root}/rows", "2"),
        ("delta", f"{store.root}/Küche #1/delta", "3"),
    ):
        source = RawSource.model_validate({"path": path, "format": kind})
        assert [row["n"] for row in _read(reading, source, path, ALL_COLUMNS).collect()] == [expected], kind


def test_a_place_that_cannot_be_used_is_told_before_anything_runs(store: ObjectStore) -> None:
    careless = settings_from_env({"CHURN_LAKEHOUSE": f"{store.made(CARELESS)}/lake"})
    with pytest.raises(UnsafeStoreError, match="lets a second writer replace"):
        _require_place(careless.lakehouse)
    with pytest.raises(doctor.Wrong, match="lets a second writer replace"):
        doctor.lakehouse(careless)
    missing = replace(careless, lakehouse="s3://no-such-bucket-1/lake")
    with pytest.raises(UnusableLakehouseError, match="No tables can be kept at"):
        _require_place(missing.lakehouse)
    with pytest.raises(doctor.Wrong, match="no-such-bucket-1"):
        doctor.lakehouse(missing)
    assert "keeps the first of two writes" in doctor.lakehouse(replace(careless, lakehouse=f"{store.root}/lake"))

"""What the tracking resource keeps is kept for one run and shared by its steps."""

import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from churn_assets.delta.erasing import Erasure
from churn_assets.engines.addresses import shown
from churn_assets.resources.tracking import TrackingResource, UnusableStoreError
from churn_assets.serving.probe import Probe


def test_the_steps_of_a_run_share_one_probe_and_another_run_has_its_own() -> None:
    seen: list[Probe] = []

    @dg.asset
    def trained(tracking: TrackingResource) -> None:
        seen.append(tracking.probe)

    @dg.asset_check(asset=trained, blocking=True)
    def tried(tracking: TrackingResource) -> dg.AssetCheckResult:
        seen.append(tracking.probe)
        return dg.AssetCheckResult(passed=True)

    @dg.asset(deps=[trained])
    def judged(tracking: TrackingResource) -> None:
        seen.append(tracking.probe)

    store = TrackingResource(tracking_uri="sqlite:///unused.db", artifact_root="unused", mlflow_ui="", dagster_ui="")
    for _ in range(2):
        assert dg.materialize([trained, tried, judged], resources={"tracking": store}).success
    first, second = seen[:3], seen[3:]
    assert [probe is first[0] for probe in seen] == [True] * 3 + [False] * 3
    assert all(probe is second[0] for probe in second)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        # A port that nobody listens at; and what SQLAlchemy 2.1 takes for psycopg 3.
        ("postgresql+psycopg2://churn:s3cret@127.0.0.1:9/mlflow", "Connection refused.*\n.*churn-assets doctor"),
        (
            "postgresql+asyncpg://churn:s3cret@127.0.0.1:9/mlflow",
            r"'asyncpg'\nNext step: name the driver \(postgresql\+psycopg2://",
        ),
    ],
    ids=["silent", "without_driver"],
)
def test_a_database_that_cannot_be_asked_is_told_at_once_without_its_password(
    monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    store = TrackingResource(tracking_uri=shown(address), artifact_root="unused", mlflow_ui="", dagster_ui="")
    with pytest.raises(UnusableStoreError, match=words) as told:
        store.version_under("production")
    assert "s3cret" not in str(told.value)


def test_a_new_store_is_asked_whether_it_can_be_made_and_one_that_is_there_for_its_versions(tmp_path: Path) -> None:
    def store(file: Path) -> TrackingResource:
        return TrackingResource(
            tracking_uri=f"sqlite:///{file}", artifact_root=str(tmp_path), mlflow_ui="", dagster_ui=""
        )

    new = tmp_path / "not there yet" / "mlflow.db"
    store(new).require_store()
    assert new.stat().st_size == 0
    in_a_file, no_database = tmp_path / "file" / "mlflow.db", tmp_path / "file"
    no_database.write_text("no database", encoding="utf-8")
    for unusable in (in_a_file, no_database):
        with pytest.raises(UnusableStoreError, match="churn-assets doctor"):
            store(unusable).require_store()
    older = tmp_path / "older.db"
    with closing(sqlite3.connect(older)) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        database.commit()
    with pytest.raises(UnusableStoreError, match="churn-assets doctor"):
        store(older).require_store()


def test_customers_are_erased_from_artifacts_in_a_folder_that_mlflow_knows_as_an_encoded_uri(tmp_path: Path) -> None:
    store = TrackingResource(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=str(tmp_path), mlflow_ui="", dagster_ui=""
    )
    folder = tmp_path / "a place"
    run = store.client.create_run(store.client.create_experiment("elsewhere", artifact_location=folder.as_uri()))
    store.client.log_text(run.info.run_id, "asked by C0000001", "note.txt")
    erased, unreached = store.erase(Erasure(frozenset({"C0000001"})))
    (note,) = folder.rglob("note.txt")
    assert note.read_text(encoding="utf-8") == "asked by (forgotten)"
    assert ([*erased.values()], unreached) == ([1], [])

"""Dagster and `mlflow server` on a real Postgres, which fails in the middle: what is decided stays, and runs go on."""

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import SensorInstigatorData
from deltalake import DeltaTable

from churn_assets.cli import main
from churn_assets.defs.automation import retrain_on_feature_refresh
from churn_assets.defs.scoring import SCORES
from churn_assets.resources.abandoned_runs import end_vanished_runs
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.tracking import TrackingResource
from churn_assets_tests.conftest import ENGINE, OTHERWISE, TINY_DEMO, TINY_POLICY, Project
from churn_assets_tests.postgres import ADVICE, PASSWORD, Postgres, programs, running
from churn_assets_tests.processes import PATIENCE_SECONDS, mlflow_server, wait_for
from churn_assets_tests.test_daemon import RETRAINING, daemon

pytestmark = pytest.mark.system

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "churn_assets.definitions", "mlflow"])
DAGSTER_YAML = """
telemetry: {enabled: false}
storage:
  postgres:
    postgres_url: {env: DAGSTER_POSTGRES_URL}
"""
Place = tuple[type, str]


def type_and_end(
    environment: dict[str, str], output: Path, at: Place | None, server: Postgres, typed: list[str]
) -> None:
    """In a process of its own: a command; the server fails when the function at that place is called first."""
    os.environ.update(environment)
    with output.open("wb") as written:
        for stream in (1, 2):
            os.dup2(written.fileno(), stream)
    if at is not None:
        owner, name = at
        honest, stops = getattr(owner, name), [server.stop]

        def failing(*given: Any, **named: Any) -> Any:
            while stops:
                stops.pop()()
            return honest(*given, **named)

        setattr(owner, name, failing)
    sys.exit(main(typed))


def change_an_order(project: Project) -> None:
    """Another value in the source, which several snapshots look at."""
    table = DeltaTable(project.lakehouse.path("demo/orders"))
    rows = table.to_pyarrow_table(columns=["ordered_at", "order_id"]).to_pylist()
    known = sorted((row["ordered_at"], row["order_id"]) for row in rows if None not in row.values())
    table.update(updates={"subtotal": "subtotal + 100"}, predicate=f"order_id = '{known[len(known) // 2][1]}'")


def asked_by_sensor(project: Project) -> list[str]:
    """How each run that the sensor asked for ended, or stands."""
    with project.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "retrain_on_feature_refresh"}))
    return [run.status.name for run in runs]


def last_tick(project: Project) -> float:
    with project.instance() as instance:
        states = [state for state in instance.all_instigator_state() if state.name == "retrain_on_feature_refresh"]
    noted = [state.instigator_data for state in states]
    ticks = [data.last_tick_timestamp for data in noted if isinstance(data, SensorInstigatorData)]
    return max((tick for tick in ticks if tick is not None), default=0.0)


def test_a_server_that_fails_in_scoring_training_and_promotion_loses_nothing_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = programs()
    assert place is not None, ADVICE
    with (
        running(place, "dagster", "mlflow") as server,
        mlflow_server(server.url("mlflow"), tmp_path, tmp_path) as (tracking_uri, _),
    ):
        environment = {
            "CHURN_PROJECT": str(tmp_path / "project"),
            "MLFLOW_TRACKING_URI": tracking_uri,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "DAGSTER_HOME": str(tmp_path / "project" / "data" / "dagster_home"),
            "DAGSTER_POSTGRES_URL": server.url("dagster"),
            **ENGINE,
        }
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.url("dagster"))
        Project.create(tmp_path / "project", policy=TINY_POLICY, sources=TINY_DEMO)
        settings = settings_from_env(environment)
        project = Project(settings, load_policy(settings.policy_file))
        settings.dagster_home.mkdir(parents=True)
        (settings.dagster_home / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")

        def command(*typed: str, at: Place | None = None) -> tuple[int | None, str]:
            """Exit code and terminal; the server is there again afterwards."""
            output = tmp_path / "output"
            process = PROCESSES.Process(target=type_and_end, args=(environment, output, at, server, list(typed)))
            process.start()
            process.join(PATIENCE_SECONDS)
            assert not process.is_alive()
            shown = output.read_text(encoding="utf-8")
            if at is not None:
                assert not server.answers(), f"the place was not reached: {shown}"
                server.start()
            return process.exitcode, shown

        def state() -> tuple[str | None, bool, str | None]:
            found = project.resources["promotions"].state()
            return found.champion, found.is_unfinished, found.disagreement

        def assert_told(shown: str) -> None:
            assert "look at the databases of MLflow" in shown or "look at MLflow's store" in shown, shown
            assert PASSWORD not in shown

        code, shown = command("run", at=(LakehouseResource, "replace_dates"))
        assert code == 1
        assert_told(shown)
        assert state() == ("1", False, None)
        code, shown = command("run", "--job", "churn_training", at=(TrackingResource, "log_training"))
        assert code == 1
        assert_told(shown)
        assert state() == ("1", False, None)
        # Another model: the same one again would be nothing to promote.
        (tmp_path / "project" / "policy.toml").write_text(
            f"{TINY_POLICY}[model]\niterations = {OTHERWISE['iterations']}\n[automation]\nretrain_cooldown_hours = 0\n",
            encoding="utf-8",
        )
        code, shown = command("run", "--job", "churn_training", at=(TrackingResource, "set_alias"))
        assert code == 1
        assert_told(shown)
        champion, is_unfinished, _ = state()
        assert (champion, is_unfinished) == ("1", True), "the ledger has it, and the alias has yet to move"
        code, shown = command("run")
        assert code == 0, shown
        champion, is_unfinished, disagreement = state()
        assert (is_unfinished, disagreement) == (False, None)
        actions = [decision.action.value for decision in project.resources["promotions"].ledger()]
        assert actions[:3] == ["promoted", "promoted", "repaired"]
        assert dict(project.lakehouse.counts(SCORES, ["model_version"])).keys() == {(champion,)}
        with project.instance() as instance:
            end_vanished_runs(instance)
            assert [run.job_name for run in instance.get_runs() if not run.is_finished] == []
            needed = {name: project.resources[name] for name in ("lakehouse", "policy")}
            with dg.build_sensor_context(instance, resources=needed) as context:
                assert "has been trained on" in str(retrain_on_feature_refresh(context))
        change_an_order(project)
        code, shown = command("run", "--job", "feature_refresh")
        assert code == 0, shown
        known = {"DAGSTER_POSTGRES_URL": server.url("dagster"), "MLFLOW_TRACKING_URI": tracking_uri}
        with daemon(project, tmp_path / "daemon.log", RETRAINING, **known):
            wait_for("the retraining that the sensor asks for", lambda: asked_by_sensor(project) == ["SUCCESS"])
            server.stop()
            code, shown = command("history")
            assert code == 1
            assert_told(shown)
            server.start()
            restarted = time.time()
            wait_for("a tick after the failure", lambda: last_tick(project) > restarted)
        assert asked_by_sensor(project) == ["SUCCESS"], (tmp_path / "daemon.log").read_text(encoding="utf-8")

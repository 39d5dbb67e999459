"""The sensors in a real daemon: one retraining for one change, one notice for one failure, also when it is killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import deltalake
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from dagster._core.scheduler.instigation import SensorInstigatorData

from churn_assets.definitions import LIFECYCLE
from churn_assets.defs.automation import TRAINING, Seen
from churn_assets.defs.features import PANEL
from churn_assets.resources.settings import prepare_dagster_home
from churn_assets_tests.conftest import ENGINE, TINY_POLICY, Project
from churn_assets_tests.defs.test_alerts import Inbox
from churn_assets_tests.feature_tables import FEATURES
from churn_assets_tests.processes import CHECKOUT, interrupt, wait_for
from churn_assets_tests.quick_sensors import QUICK

pytestmark = pytest.mark.system

RETRAINING, ALERTING = "retrain_on_feature_refresh", "alert_on_failure"
# A queued run is looked for every second, not every five.
QUICK_QUEUE = {
    "run_coordinator": {
        "module": "dagster",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},
    }
}


@contextmanager
def daemon(project: Project, log: Path, sensor: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon of the project's instance, quick with `sensor`; whatever it started is ended with it at the latest."""
    configuration = prepare_dagster_home(project.settings) / "dagster.yaml"
    configured = yaml.safe_load(configuration.read_text(encoding="utf-8"))
    configuration.write_text(yaml.safe_dump(configured | QUICK_QUEUE), encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(log.parent),
        "CHURN_PROJECT": str(project.settings.project),
        "DAGSTER_HOME": str(project.settings.dagster_home),
        **ENGINE,
        QUICK: sensor,
        "PYTHONFAULTHANDLER": "1",
        **more,
    }
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-m", "churn_assets_tests.quick_sensors"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=CHECKOUT, env=environ, stdout=output, stderr=output)
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            interrupt(process, log)
        for left in psutil.wait_procs(family, timeout=10)[1]:
            left.kill()


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def trainings(project: Project) -> list[dg.DagsterRun]:
    with project.instance() as instance:
        return list(instance.get_runs(dg.RunsFilter(job_name=TRAINING)))


def has_ended(project: Project, number: int) -> bool:
    found = trainings(project)
    return len(found) == number and all(run.is_finished for run in found)


def cursor_of(project: Project, sensor: str) -> str | None:
    with project.instance() as instance:
        states = [state for state in instance.all_instigator_state() if state.name == sensor]
    noted = [state.instigator_data for state in states]
    return next((data.cursor for data in noted if isinstance(data, SensorInstigatorData)), None)


def dealt_with(project: Project) -> int | None:
    """The version the retraining sensor's cursor stands at."""
    return Seen.of(cursor_of(project, RETRAINING)).version


def commit(project: Project, without: int) -> int:
    """Another tool writes the panel without its first snapshots, and says nothing of where it has it from; its version.

    What this project's own commits record is nobody else's to write.
    """
    path, lakehouse = project.lakehouse.path(PANEL), project.lakehouse
    first = deltalake.DeltaTable(path, version=0).to_pyarrow_table()
    dates = sorted(set(first.column("as_of").to_pylist()))[:without]
    rows = first.filter(pc.invert(pc.is_in(first.column("as_of"), pa.array(dates, pa.date32()))))
    deltalake.write_deltalake(path, rows, mode="overwrite")
    version = lakehouse.version(PANEL)
    assert version is not None
    return version


def test_one_change_is_one_retraining_whatever_happens_to_the_daemon(delivered: Project, tmp_path: Path) -> None:
    folder = delivered.copied_to(tmp_path / "project").settings.project
    no_cooldown = TINY_POLICY + "[automation]\nretrain_cooldown_hours = 0\n"
    project = Project.create(folder, policy=no_cooldown, sources=FEATURES)
    log = tmp_path / "daemon.log"
    with daemon(project, log, RETRAINING) as process:
        changed = commit(project, without=1)
        wait_for("the first retraining", lambda: has_ended(project, 1))
        assert [run.status for run in trainings(project)] == [dg.DagsterRunStatus.SUCCESS], log.read_text()
        assert (project.alias("staging"), dealt_with(project)) == ("2", changed)
        same = commit(project, without=1)
        wait_for("a tick on the same rows", lambda: dealt_with(project) == same)
        assert len(trainings(project)) == 1
        killed(process)
    again = commit(project, without=2)
    assert dealt_with(project) == same
    with daemon(project, log, RETRAINING) as process:
        wait_for("the second retraining to begin", lambda: len(trainings(project)) == 2)
        killed(process)
        with daemon(project, log, RETRAINING):
            wait_for("the second retraining", lambda: has_ended(project, 2))
            after = commit(project, without=2)
            wait_for("a tick of the new daemon", lambda: dealt_with(project) == after)
    assert [run.status for run in trainings(project)] == [dg.DagsterRunStatus.SUCCESS] * 2, log.read_text()
    assert [run.tags["churn/panel_version"] for run in trainings(project)] == [str(again), str(changed)]
    assert project.alias("staging") == "3"


def test_a_failure_is_told_once_though_the_first_answer_is_an_error_and_the_daemon_dies(
    project: Project, tmp_path: Path
) -> None:
    log = tmp_path / "daemon.log"
    with Inbox(errors=[500]).serving() as inbox:
        with daemon(project, log, ALERTING, CHURN_ALERT_WEBHOOK=inbox.address) as process:
            wait_for("the first tick", lambda: cursor_of(project, ALERTING) is not None)
            deltalake.DeltaTable(project.lakehouse.path("recall_churn")).delete()
            refused = project.run(LIFECYCLE, "registered_churn_model")
            assert not refused.success
            wait_for("the first attempt", lambda: not inbox.errors)
            wait_for("the end of its tick", lambda: "attempts" in str(cursor_of(project, ALERTING)))
            killed(process)
        with daemon(project, log, ALERTING, CHURN_ALERT_WEBHOOK=inbox.address):
            wait_for("both notices", lambda: len(inbox.received) >= 2)
            seen = cursor_of(project, ALERTING)
            wait_for("a later tick", lambda: cursor_of(project, ALERTING) != seen)
            wait_for("one more", lambda: '"pending": []' in str(cursor_of(project, ALERTING)))
        (decision,) = project.resources["promotions"].state().ledger[1:]
        assert sorted(inbox.keys) == sorted([f"run {refused.run_id}", f"decision {decision.decision_id}"])

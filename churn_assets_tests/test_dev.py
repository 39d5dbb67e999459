"""`make dev` as people use it: both servers answer, a job launched from the interface runs, Ctrl-C ends everything."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import dagster as dg
import psutil
import pytest
from dagster_graphql import DagsterGraphQLClient

from churn_assets.definitions import TRAINING
from churn_assets_tests.conftest import Project

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
LOCATION = "churn_assets.definitions"
PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Served:
    project: Project
    process: subprocess.Popen[bytes]
    dagster_port: int
    mlflow_port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_there():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(0.5)


@pytest.fixture
def served(project: Project, tmp_path: Path) -> Iterator[Served]:
    ports = free_port(), free_port()
    log = tmp_path / "dev.log"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CHURN_PROJECT": str(project.settings.project),
        "SPARK_MASTER": "local[2]",
        "SPARK_DRIVER_MEMORY": "2g",
        "DAGSTER_PORT": str(ports[0]),
        "MLFLOW_PORT": str(ports[1]),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "scripts/dev"], cwd=CHECKOUT, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for("the servers", lambda: b"Ctrl-C ends both.\n\n" in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield Served(project, process, *ports)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_a_job_launched_from_the_interface_runs_and_ctrl_c_ends_everything(served: Served) -> None:
    client = DagsterGraphQLClient("127.0.0.1", port_number=served.dagster_port)
    with urlopen(f"http://127.0.0.1:{served.mlflow_port}/health") as answer:
        assert answer.status == 200
    run_id = client.submit_job_execution(TRAINING, repository_location_name=LOCATION, repository_name="__repository__")
    ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    wait_for("the run", lambda: client.get_run_status(run_id) in ended)
    with served.project.instance() as instance:
        failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert client.get_run_status(run_id) is dg.DagsterRunStatus.SUCCESS, failures
    assert served.project.alias("production") == "2"

    family = psutil.Process(served.process.pid).children(recursive=True)
    assert len(family) >= 3
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []

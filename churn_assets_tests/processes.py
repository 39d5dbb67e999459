"""Processes as people start them: servers on free ports and waiting for what they do, and checks without a JVM."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

from churn_assets_tests.conftest import ENGINE, Project

CHECKOUT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Served:
    """What `make dev` serves of a project."""

    project: Project
    process: subprocess.Popen[bytes]
    dagster_port: int
    mlflow_port: int


_CHECK = """
import sys
import dagster as dg
from churn_assets.commands.check import run_checks
from churn_assets.definitions import build_defs, default_resources
from churn_assets.resources.settings import settings_from_env
defs = build_defs(default_resources(settings_from_env()))
with dg.DagsterInstance.ephemeral() as instance:
    for found in run_checks(defs, instance, sys.argv[1:]):
        print(found.asset, found.check, found.status.name)
    print("the run", instance.get_runs()[0].status.name)
"""


def checked_without_jvm(*names: str, **environment: str) -> list[str]:
    """What the checks that `names` ask for say, "asset check STATUS", in a process that can start no JVM."""
    checked = subprocess.run(
        [sys.executable, "-c", _CHECK, *names],
        # A PATH without java and no JAVA_HOME: whoever starts a JVM fails.
        env={"PATH": "/nonexistent", **environment},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    *found, run = checked.stdout.splitlines()
    assert run == "the run SUCCESS"
    return found


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def interrupt(process: subprocess.Popen[bytes], log: Path) -> None:
    """Ctrl-C, and the end of the process; one that goes on says where each of its threads is, and that is an error.

    Dagster alone gives its threads 30 s each, one after the other.
    """
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        # What PYTHONFAULTHANDLER makes of it: every thread's stack, in the log.
        process.send_signal(signal.SIGABRT)
        process.wait()
        raise AssertionError(log.read_text(encoding="utf-8", errors="replace")) from None


@contextmanager
def mlflow_server(store: str, artifacts: Path, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """`mlflow server` over a store: its address, and what kills it. folder: where it works, and its log lies."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", store, "--default-artifact-root", str(artifacts)]
    with log.open("wb") as output:
        # A group of its own with its workers.
        process = subprocess.Popen(
            [*command, *places], stdout=output, stderr=output, cwd=folder, start_new_session=True
        )

    def answers() -> bool:
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
        except OSError:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return False
        return True

    def stop() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    try:
        wait_for("the MLflow server", answers)
        yield f"http://127.0.0.1:{port}", stop
    finally:
        stop()


@contextmanager
def dev_servers(project: Project, folder: Path) -> Iterator[Served]:
    """Dagster and MLflow as `make dev` starts them; `folder` is their home and holds their log."""
    ports = free_port(), free_port()
    log = folder / "dev.log"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CHURN_PROJECT": str(project.settings.project),
        **ENGINE,
        "DAGSTER_PORT": str(ports[0]),
        "MLFLOW_PORT": str(ports[1]),
        "PYTHONFAULTHANDLER": "1",
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
            interrupt(process, log)
        tell(project, log)


def tell(project: Project, log: Path) -> None:
    """What went on, for the report of a test that fails: every run, and the servers' own words."""
    with project.instance() as instance:
        records = instance.get_run_records(ascending=True)
    for record in records:
        run = record.dagster_run
        started, ended = (datetime.fromtimestamp(at) if at else "never" for at in (record.start_time, record.end_time))
        asked_by = run.tags.get("dagster/sensor_name", "a person")
        print(f"{run.run_id} {run.job_name}, asked for by {asked_by}: {run.status.name}, {started} to {ended}")
    print(log.read_text(encoding="utf-8"))

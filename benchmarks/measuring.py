"""Processes timed and their memory watched, and what a page says of the machine. Measures nothing by itself."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from churn_assets.resources.settings import CHECKOUT, prepare_dagster_home, settings_from_env

# A gate that nearly any model passes, for where it does not matter how good a model is.
LENIENT_POLICY = """
[alerts]
budget = 0.90
[gate]
min_recall = 0.05
precision_floor = 0.02
max_recall_interval = 0.99
max_shortfall = 0.99
min_gain_over_rule = -0.99
"""


@dataclass(frozen=True)
class Measured:
    """One run of one side: wall time, CPU time, and the largest resident memory of the process with all its children.

    cpu_seconds tells more than the wall time where the machine is shared.
    """

    side: str
    seconds: float
    cpu_seconds: float
    peak_mb: float

    @property
    def told(self) -> str:
        cpu = f"{self.cpu_seconds:7.1f} s of CPU"
        return f"{self.side:<22} {self.seconds:7.1f} s, {cpu}, peak memory {self.peak_mb:,.0f} MB"


def measured(side: str, module: Sequence[str], environment: Mapping[str, str], folder: Path) -> Measured:
    """Runs `python -m module…` in `folder`, from its start to its end. Exits with its output if it fails."""
    log = folder / f"{side}.log".replace(" ", "_")
    begun = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        peak, cpu = 0.0, 0.0
        while process.poll() is None:
            memory, spent = _family(process.pid)
            peak, cpu = max(peak, memory), max(cpu, spent)
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{side} failed; the end of its output:\n{log.read_text()[-3000:]}")
    return Measured(side, time.perf_counter() - begun, cpu, peak)


def plain_environment(**settings: str) -> dict[str, str]:
    """This process's environment with `settings` and without any other of this project's, of MLflow's or Spark's."""
    ours = ("CHURN_", "MLFLOW_", "SPARK_", "DAGSTER_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return plain | {"PYTHONPATH": str(CHECKOUT), "MLFLOW_DISABLE_TELEMETRY": "true"} | settings


def demo_project(folder: Path, customers: int, **demo: str) -> dict[str, str]:
    """A project in `folder` with the demo of so many customers and a lenient gate; the environment to run it in."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = "".join(f"{name} = {value}\n" for name, value in {"customers": str(customers), **demo}.items())
    (folder / "sources.toml").write_text(f"[demo]\n{settings}", encoding="utf-8")
    (folder / "policy.toml").write_text(LENIENT_POLICY, encoding="utf-8")
    environment = plain_environment(CHURN_PROJECT=str(folder))
    settings_ = settings_from_env(environment)
    home = prepare_dagster_home(settings_)
    return environment | {"DAGSTER_HOME": str(home), "MLFLOW_TRACKING_URI": settings_.tracking_uri}


def machine(*packages: str) -> str:
    """A line on the machine and the versions of `packages`."""
    cores = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, {platform.system()}"
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"Machine: {cores}, Python {platform.python_version()}. Versions: {versions}."


def _family(pid: int) -> tuple[float, float]:
    """Resident megabytes and CPU seconds of a process and those below it."""
    resident, spent = 0.0, 0.0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return resident, spent
    for process in family:
        try:
            resident += process.memory_info().rss / 2**20
            times = process.cpu_times()
            # A child that ended is in its parent's times.
            spent += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return resident, spent

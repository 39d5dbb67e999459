"""Processes timed, their memory watched, and what a page says of them. Measures nothing by itself."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

from churn_assets.engines.choice import LOCAL, Engine
from churn_assets.resources.settings import CHECKOUT, prepare_dagster_home, settings_from_env

# Each look costs some milliseconds of a core that the side could use.
SAMPLED_SECONDS = 0.2
ADDRESSES = {"sail": Engine("sail"), "local": Engine("local", LOCAL)}

# A gate that nearly any model passes, for where it does not matter how good a model is.
LENIENT_POLICY = """
[alerts]
budget = 0.90
[gate]
evaluation = "holdout"
min_recall = 0.05
precision_floor = 0.02
max_recall_interval = 0.99
max_shortfall = 0.99
min_gain_over_rule = -0.99
max_miscalibration = 100.0
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


class SideFailed(SystemExit):
    """A side ended with another exit code than 0; carries the end of its output. Not caught, it ends the benchmark."""


def measured(
    side: str, module: Sequence[str], environment: Mapping[str, str], folder: Path, *, python: str = sys.executable
) -> Measured:
    """Runs `python -m module…` in `folder`, from its start to its end. Raises SideFailed."""
    log = folder / f"{side}.log".replace(" ", "_").replace("/", "_")
    ended_before = _spent_by_ended_children()
    begun = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "-m", *module], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        peak, cpu = 0.0, 0.0
        while process.poll() is None:
            memory, spent = _family(process.pid)
            peak, cpu = max(peak, memory), max(cpu, spent)
            time.sleep(SAMPLED_SECONDS)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise SideFailed(f"{side} failed; the end of its output:\n{log.read_text(errors='replace')[-3000:]}")
    # Exact to the end, but without what nobody waited for, such as a JVM that outlives its Python by a moment.
    return Measured(side, seconds, max(cpu, _spent_by_ended_children() - ended_before), peak)


def rounds(usual: int) -> int:
    """How often each side of a comparison runs: BENCH_ROUNDS, or the usual number."""
    return int(os.environ.get("BENCH_ROUNDS") or usual)


def engines() -> list[str]:
    """The engines on this machine that this project is measured on: CHURN_ENGINE, which may name two with a comma."""
    asked = (os.environ.get("CHURN_ENGINE") or "sail").split(",")
    if not asked or set(asked) - set(ADDRESSES):
        sys.exit(f"CHURN_ENGINE is {','.join(asked)!r}: a benchmark runs on {' or '.join(ADDRESSES)}, or on sail,local")
    return asked


def ours_on(engine: str) -> str:
    """The name of this project's side."""
    return f"churn_assets on {str(ADDRESSES[engine]).split(',')[0]}"


def comparison_head(what: str) -> list[str]:
    """The head of a table of `comparison`; what: the name of its first column."""
    return [f"| {what} | rounds | | wall time | CPU time | peak memory |", "|-|-|-|-|-|-|"]


def comparison(what: str, runs: Mapping[str, Sequence[Measured]], reference: str) -> list[str]:
    """Rows of a table: of each side its medians, of each but the reference the ratios to it, median and span.

    runs: of each side one for each round, so that a ratio is of two that ran one after the other.
    """
    figures: tuple[Callable[[Measured], float], ...] = (
        lambda run: run.seconds,
        lambda run: run.cpu_seconds,
        lambda run: run.peak_mb,
    )
    rows = []
    for side, of_side in runs.items():
        seconds, cpu, peak = (median(map(figure, of_side)) for figure in figures)
        rows.append(f"| {what} | {len(of_side)} | {side} | {seconds:.1f} s | {cpu:.1f} s | {peak:,.0f} MB |")
    for side, of_side in runs.items():
        if side == reference or len(of_side) < len(runs[reference]):
            continue
        ratios = [
            _spread([figure(ours) / figure(theirs) for ours, theirs in zip(of_side, runs[reference], strict=True)])
            for figure in figures
        ]
        rows.append(f"| {what} | | {side} / {reference} | {' | '.join(ratios)} |")
    return rows


def _spread(ratios: Sequence[float]) -> str:
    between = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{between}"


def plain_environment(**settings: str) -> dict[str, str]:
    """This process's environment with `settings` and without any other of this project's, of MLflow's or Spark's."""
    ours = ("CHURN_", "MLFLOW_", "SPARK_", "DAGSTER_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return (
        plain | {"PYTHONPATH": str(CHECKOUT), "MLFLOW_DISABLE_TELEMETRY": "true", "CHURN_AUTOMATION": "on"} | settings
    )


def demo_project(folder: Path, customers: int, **demo: str) -> dict[str, str]:
    """A project in `folder` with the demo of so many customers and a lenient gate; the environment to run it in."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = "".join(f"{name} = {value}\n" for name, value in {"customers": str(customers), **demo}.items())
    (folder / "sources.toml").write_text(f"[demo]\n{settings}", encoding="utf-8")
    (folder / "policy.toml").write_text(LENIENT_POLICY, encoding="utf-8")
    return project_environment(folder)


def project_environment(folder: Path) -> dict[str, str]:
    """The environment to run the project in `folder` in, on the first of `engines`."""
    environment = plain_environment(CHURN_PROJECT=str(folder), CHURN_ENGINE=engines()[0])
    settings = settings_from_env(environment)
    home = prepare_dagster_home(settings)
    return environment | {"DAGSTER_HOME": str(home), "MLFLOW_TRACKING_URI": settings.tracking_uri}


def machine(*packages: str) -> str:
    """A line on the machine and the versions of `packages`."""
    cores = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, {platform.system()}"
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"Machine: {cores}, Python {platform.python_version()}. Versions: {versions}."


def _spent_by_ended_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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

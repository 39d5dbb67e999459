"""The notebook's steps against the job `churn_training`, alternating, in fresh processes.

Prints a table and writes it, with machine and versions, to benchmarks/results/. Wall times include the start of Python
and Spark on both sides, because both have to start. Read the ratio: the machine may be shared.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median

import dagster as dg
import psutil

from churn_assets.churn.features import FEATURES
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs import features, lakehouse, splits
from churn_assets.resources.settings import CHECKOUT, prepare_dagster_home, settings_from_env

RESULTS = Path(__file__).parent / "results"
PAIRS = 3
SIDES = {
    "notebook steps": ["benchmarks.notebook_steps", features.PANEL],
    "job churn_training": ["benchmarks.training_job"],
}
PACKAGES = ("dagster", "dagster-mlflow", "dagster-pyspark", "deltalake", "mlflow", "pyspark")


@dataclass(frozen=True)
class Measured:
    """One run of one side: wall time, and the largest resident memory of the process with its JVM and workers."""

    side: str
    seconds: float
    peak_mb: float


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="churn-bench-") as folder:
        environment = _environment(Path(folder))
        print("Building the demo's feature panel …", flush=True)
        rows = _build_panel(environment)
        measured = []
        for pair in range(PAIRS):
            for side, module in SIDES.items():
                measured.append(_measure(side, module, environment, Path(folder) / f"{side}-{pair}.log"))
                last = measured[-1]
                print(f"  pair {pair + 1}: {side:<20} {last.seconds:6.1f} s {last.peak_mb:7.0f} MB", flush=True)
        tables = default_resources(settings_from_env(environment))["lakehouse"]
        learned = tables.row_count(splits.TRAIN)
    _report(measured, rows, learned)


def _environment(folder: Path) -> dict[str, str]:
    """A project of its own in `folder`, with the shipped policy and sources."""
    for name in ("policy.toml", "sources.toml"):
        shutil.copy(CHECKOUT / name, folder / name)
    ours = ("CHURN_", "MLFLOW_", "SPARK_", "DAGSTER_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    plain |= {"CHURN_PROJECT": str(folder), "PYTHONPATH": str(CHECKOUT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    home = prepare_dagster_home(settings_from_env(plain))
    return plain | {"DAGSTER_HOME": str(home), "MLFLOW_TRACKING_URI": settings_from_env(plain).tracking_uri}


def _build_panel(environment: dict[str, str]) -> int:
    """Builds the lakehouse up to the panel in a process of its own; returns the labelled rows."""
    script = (
        "from benchmarks.training import build_panel_here; import sys; sys.stderr = open('/dev/null', 'w'); "
        "print(build_panel_here())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=environment["CHURN_PROJECT"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def build_panel_here() -> int:
    """Runs the demo and the stages up to the panel; in the process of `_build_panel`."""
    resources = default_resources(settings_from_env())
    defs = build_defs(resources)
    defs.resolve_job_def(DEMO).execute_in_process()
    up_to_panel = dg.AssetSelection.groups(lakehouse.GROUP, features.GROUP).resolve(list(defs.assets or []))
    defs.resolve_job_def(LIFECYCLE).execute_in_process(asset_selection=list(up_to_panel))
    return int(resources["lakehouse"].read(features.PANEL).where("label is not null").count())


def _measure(side: str, module: list[str], environment: dict[str, str], log: Path) -> Measured:
    begun = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            # Without a server MLflow puts artifacts under the current folder.
            cwd=environment["CHURN_PROJECT"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _resident_mb(process.pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{side} failed; the end of its output:\n{log.read_text()[-3000:]}")
    return Measured(side, time.perf_counter() - begun, peak)


def _resident_mb(pid: int) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def _report(measured: list[Measured], rows: int, learned: int) -> None:
    """rows: labelled rows of the panel; learned: those of them in `train_features`."""
    of_side = {side: [run for run in measured if run.side == side] for side in SIDES}
    seconds = {side: median(run.seconds for run in runs) for side, runs in of_side.items()}
    memory = {side: median(run.peak_mb for run in runs) for side, runs in of_side.items()}
    theirs, ours = SIDES
    machine = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, {platform.system()}"
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines = [
        f"# Feature panel to registered version, {datetime.now(timezone.utc):%Y-%m-%d}",
        "",
        f"{rows:,} labelled rows of the default demo; {len(of_side[ours])} alternating pairs of processes, medians.",
        "The job also checks the panel, splits out of time, chooses the threshold, judges the model and promotes it.",
        f"It learns from {learned:,} of the rows, for it holds back test customers and later dates, with",
        f"{len(FEATURES)} features; the notebook's steps fit on four fifths of all rows, with seven.",
        "",
        "| | wall time | peak memory |",
        "|-|-|-|",
        *[f"| {side} | {seconds[side]:.1f} s | {memory[side]:.0f} MB |" for side in SIDES],
        f"| ratio | {seconds[ours] / seconds[theirs]:.2f} | {memory[ours] / memory[theirs]:.2f} |",
        "",
        f"Machine: {machine}, Python {platform.python_version()}. Versions: {versions}.",
    ]
    text = "\n".join(lines)
    print(f"\n{text}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "training.md").write_text(text + "\n", encoding="utf-8")
    (RESULTS / "training.json").write_text(json.dumps([asdict(run) for run in measured], indent=1), encoding="utf-8")
    print(f"\nWritten to {RESULTS / 'training.md'}")

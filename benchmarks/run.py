"""`churn-assets run` of this checkout against that of another checkout, such as an earlier commit.

BENCH_AGAINST names its folder, which has a .venv of its own. Each run is of its checkout's own demo, in a fresh project
folder and fresh processes, which alternate. Before the rounds that count, each side runs once for what a first run
leaves behind (files in the disk's cache, and what a checkout keeps for later runs), unless BENCH_ROUNDS is 1.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import (
    Measured,
    comparison,
    comparison_head,
    engines,
    machine,
    measured,
    ours_on,
    plain_environment,
    rounds,
)
from benchmarks.panels import write_result
from churn_assets.resources.settings import CHECKOUT

ROUNDS = 3
CONFIGURATION = ("policy.toml", "sources.toml")
PACKAGES = ("dagster", "deltalake", "mlflow", "pysail", "pyspark")


@dataclass(frozen=True)
class Side:
    """A checkout, the Python that has its packages, and settings of its own."""

    name: str
    checkout: Path
    python: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def ran(self, folder: Path) -> Measured:
        """A run of the demo in a new project in `folder`. Raises SideFailed."""
        with TemporaryDirectory(prefix="project-", dir=folder) as project:
            for name in CONFIGURATION:
                shutil.copy(self.checkout / name, project)
            places = {"CHURN_PROJECT": project, "PYTHONPATH": str(self.checkout), "PYTHONDONTWRITEBYTECODE": "1"}
            environment = plain_environment(**places, **self.settings)
            run = measured(self.name, ["churn_assets.cli", "run"], environment, folder, python=self.python)
        print(f"  {run.told}", flush=True)
        return run


def main() -> None:
    theirs = _theirs()
    ours = [Side(ours_on(engine), CHECKOUT, sys.executable, {"CHURN_ENGINE": engine}) for engine in engines()]
    runs: dict[str, list[Measured]] = {side.name: [] for side in (theirs, *ours)}
    times = rounds(ROUNDS)
    with TemporaryDirectory(prefix="churn-bench-") as name:
        for turn in range(times if times == 1 else times + 1):
            print("To begin with" if turn == 0 and times > 1 else f"Round {turn or 1}", flush=True)
            for side in (theirs, *ours):
                run = side.ran(Path(name))
                if turn or times == 1:
                    runs[side.name].append(run)
    _report(comparison("the shipped demo", runs, theirs.name))


def _theirs() -> Side:
    """The other checkout. Exits where BENCH_AGAINST names none."""
    folder = Path(os.environ.get("BENCH_AGAINST") or "nowhere").resolve()
    python = folder / ".venv" / "bin" / "python"
    if not python.exists() or not (folder / "churn_assets").is_dir():
        sys.exit(f"BENCH_AGAINST has to name a checkout of this project with its own .venv; it is {folder}")
    asked = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return Side(f"commit {commit}" if commit else "the other checkout", folder, str(python))


def _report(rows: list[str]) -> None:
    lines = [
        f"# `churn-assets run`, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The shipped demo from nothing to the list of its latest week, each run in a new project; medians of",
        "alternating rounds of fresh processes, from Python's start to its end. Peak memory is of the process with all",
        "below it. The versions are of this checkout; the other has its own.",
        "",
        *comparison_head("project"),
        *rows,
        "",
        machine(*PACKAGES),
    ]
    write_result("run", lines)

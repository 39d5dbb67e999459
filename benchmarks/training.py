"""The notebook's steps on local Spark against the job `churn_training` on an engine, alternating, in fresh processes.

Wall times include the start of Python and of the engine. Read the ratio: the machine may be shared. The gate is
lenient, so that the job goes all the way at every size.
"""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.flow import UP_TO_PANEL
from benchmarks.measuring import (
    Measured,
    comparison,
    comparison_head,
    demo_project,
    engines,
    machine,
    measured,
    ours_on,
    rounds,
)
from benchmarks.panels import write_result
from churn_assets.churn.catalogue import FEATURES
from churn_assets.definitions import DEMO, TRAINING, default_resources
from churn_assets.defs import features, splits
from churn_assets.resources.settings import settings_from_env

# Customers of the demo and pairs of runs: about 20,000 and 500,000 labelled rows.
SIZES = {2_000: 3, 49_000: 2}
THEIRS = "notebook steps"
PACKAGES = ("dagster", "dagster-mlflow", "dagster-pyspark", "deltalake", "mlflow", "pysail", "pyspark")


def main() -> None:
    lines = []
    for customers, pairs in SIZES.items():
        with TemporaryDirectory(prefix="churn-bench-") as name:
            lines += _compared(Path(name), customers, rounds(pairs))
    _report(lines)


def _compared(folder: Path, customers: int, pairs: int) -> list[str]:
    """Rows of the table for one size."""
    environment = demo_project(folder, customers)
    print(f"Building the feature panel of {customers:,} customers …", flush=True)
    for part in (DEMO, UP_TO_PANEL):
        measured(part, ["benchmarks.flow", part], environment, folder)
    tables = default_resources(settings_from_env(environment))["lakehouse"]
    rows = tables.value_count(features.PANEL, "label")
    runs: dict[str, list[Measured]] = {side: [] for side in [THEIRS, *map(ours_on, engines())]}
    for pair in range(pairs):
        notebook = ["benchmarks.notebook_steps", features.PANEL]
        runs[THEIRS].append(measured(THEIRS, notebook, environment, folder))
        print(f"  pair {pair + 1}: {runs[THEIRS][-1].told}", flush=True)
        for engine in engines():
            side, on_it = ours_on(engine), environment | {"CHURN_ENGINE": engine}
            runs[side].append(measured(side, ["benchmarks.flow", TRAINING], on_it, folder))
            print(f"  pair {pair + 1}: {runs[side][-1].told}", flush=True)
    learned = tables.row_count(splits.TRAIN)
    return comparison(f"{rows:,}, of which they learn {round(0.8 * rows):,}, we {learned:,}", runs, THEIRS)


def _report(rows: list[str]) -> None:
    lines = [
        f"# Feature panel to registered version, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The demo's labelled rows; medians of alternating pairs of processes. The job also checks the panel, splits",
        "out of time, chooses the threshold, judges the model and promotes it. What the audit of the panel and of the",
        "splits found is read from their commits (docs/decisions/0016). It learns from fewer rows, for it holds",
        f"back test customers and later dates, with {len(FEATURES)} features; the notebook's steps use seven. They run",
        "in a local session of Spark's own settings with the same memory.",
        "",
        *comparison_head("labelled rows"),
        *rows,
        "",
        machine(*PACKAGES),
    ]
    write_result("training", lines)

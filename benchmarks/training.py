"""The notebook's steps against the job `churn_training`, alternating, in fresh processes.

Wall times include the start of Python and Spark on both sides, because both have to start. Read the ratio: the machine
may be shared. The gate is lenient, so that the job goes all the way at every size.
"""

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import dagster as dg

from benchmarks.measuring import Measured, demo_project, machine, measured
from benchmarks.panels import write_result
from churn_assets.churn.catalogue import FEATURES
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs import features, lakehouse, splits
from churn_assets.resources.class_archive import begun_recording
from churn_assets.resources.settings import settings_from_env

# Customers of the demo and pairs of runs: about 20,000 and 500,000 labelled rows.
SIZES = {2_000: 3, 49_000: 2}
THEIRS, OURS = "notebook steps", "job churn_training"
SIDES = {THEIRS: ["benchmarks.notebook_steps", features.PANEL], OURS: ["benchmarks.training_job"]}
PACKAGES = ("dagster", "dagster-mlflow", "dagster-pyspark", "deltalake", "mlflow", "pyspark")


def main() -> None:
    _keep_classes()
    lines = []
    for customers, pairs in SIZES.items():
        with TemporaryDirectory(prefix="churn-bench-") as name:
            lines += _compared(Path(name), customers, pairs)
    _report(lines)


def _keep_classes() -> None:
    """A first run of everything, as a newcomer's, where there was none: it leaves the archive of Spark's classes."""
    with TemporaryDirectory(prefix="churn-bench-") as name:
        environment = demo_project(Path(name), min(SIZES))
        if begun_recording(settings_from_env(environment)) is not None:
            print("Running everything once, which keeps the classes Spark loads …", flush=True)
            measured("run", ["churn_assets.cli", "run"], environment, Path(name))


def _compared(folder: Path, customers: int, pairs: int) -> list[str]:
    """Rows of the table for one size."""
    environment = demo_project(folder, customers)
    print(f"Building the feature panel of {customers:,} customers …", flush=True)
    measured("panel", ["benchmarks.training"], environment, folder)
    tables = default_resources(settings_from_env(environment))["lakehouse"]
    rows = tables.value_count(features.PANEL, "label")
    runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for pair in range(pairs):
        for side, module in SIDES.items():
            run = measured(side, module, environment, folder)
            runs[side].append(run)
            print(f"  pair {pair + 1}: {run.told}", flush=True)
    learned = tables.row_count(splits.TRAIN)
    seconds = {side: median(run.seconds for run in of_side) for side, of_side in runs.items()}
    memory = {side: median(run.peak_mb for run in of_side) for side, of_side in runs.items()}
    ratios = [ours.seconds / theirs.seconds for theirs, ours in zip(runs[THEIRS], runs[OURS], strict=True)]
    learns = {THEIRS: round(0.8 * rows), OURS: learned}
    return [
        *[
            f"| {rows:,} | {side} | {learns[side]:,} | {seconds[side]:.1f} s | {memory[side]:,.0f} MB |"
            for side in SIDES
        ],
        f"| {rows:,} | ratio within a pair | | {median(ratios):.2f} | {memory[OURS] / memory[THEIRS]:.2f} |",
    ]


def build_panel() -> None:
    """Runs the demo and the stages up to the panel, in the project of the environment."""
    defs = build_defs(default_resources(settings_from_env()))
    defs.resolve_job_def(DEMO).execute_in_process()
    up_to_panel = dg.AssetSelection.groups(lakehouse.GROUP, features.GROUP).resolve(defs.resolve_asset_graph())
    defs.resolve_job_def(LIFECYCLE).execute_in_process(asset_selection=list(up_to_panel))


def _report(rows: list[str]) -> None:
    lines = [
        f"# Feature panel to registered version, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The demo's labelled rows; medians of alternating pairs of processes. The job also checks the panel, splits",
        "out of time, chooses the threshold, judges the model and promotes it. What the audit of the panel and of the",
        "splits found is read from their commits (docs/decisions/0016). It learns from fewer rows, for it holds",
        f"back test customers and later dates, with {len(FEATURES)} features; the notebook's steps use seven. They run",
        "in a session of Spark's own settings with the same memory, and the job in one that uses the classes an",
        "earlier run has kept (docs/decisions/0018).",
        "",
        "| labelled rows | | rows learned from | wall time | peak memory |",
        "|-|-|-|-|-|",
        *rows,
        "",
        machine(*PACKAGES),
    ]
    write_result("training", lines)


if __name__ == "__main__":
    build_panel()

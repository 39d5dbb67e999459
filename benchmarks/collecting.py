"""The memory that the rows of a fit take on their way from the engine into XGBoost's matrix, and the fit itself.

Each step runs in a fresh process of its own. What it takes is the greatest resident memory of that process above what
it had when the step began, the engine's own included where the engine is in the process (Sail).
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import psutil
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.measuring import engines, machine, measured, ours_on, plain_environment
from benchmarks.panels import spark_session, write_result
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.splits import VALIDATION_FOLDS
from churn_assets.churn.xgboost_trees import KEYS, collected

ROWS = 3_000_000
FEATURES = FEATURE_SETS[ChurnPolicy().model.feature_set]
# Step -> what it does with the rows of a training.
STEPS: dict[str, Callable[[DataFrame], object]] = {
    "toArrow alone": lambda rows: rows.select(
        *KEYS, *[F.col(name).cast("float") for name in (*FEATURES, "label")]
    ).toArrow(),
    "into the matrix": lambda rows: collected(rows, FEATURES),
    "the whole fit": lambda rows: fit_churn_model(rows, FEATURES, GradientBoosting(), rows=ROWS),
}


def main() -> None:
    found = []
    with TemporaryDirectory(prefix="churn-bench-") as name:
        folder = Path(name)
        print(f"Writing {ROWS:,} rows …", flush=True)
        _made_up(folder / "train.parquet")
        for engine in engines():
            for step in STEPS:
                run = measured(
                    step,
                    ["benchmarks.collecting", step, str(folder / "train.parquet"), str(folder / "taken.json")],
                    plain_environment(CHURN_ENGINE=engine),
                    folder,
                )
                taken = json.loads((folder / "taken.json").read_text())
                megabytes, seconds = f"{taken['megabytes']:,.0f} MB", f"{taken['seconds']:.1f} s"
                found.append(f"| {ours_on(engine)} | {step} | {megabytes} | {seconds} | {run.peak_mb:,.0f} MB |")
                print(found[-1], flush=True)
    _report(found)


def _made_up(file: Path) -> None:
    """Training rows as the flow's, in a Parquet file: every value of a feature is another."""
    values = ", ".join(f"hash(id, {number}) / 2.0**64 as {name}" for number, name in enumerate(FEATURES))
    duckdb.connect().execute(
        "copy (select printf('C%07d', hash(id) % 400000) as customer_id, "
        f"date '2025-01-06' + (7 * (id % 52))::int as as_of, {values}, "
        f"(hash(id, 'label') % 7 = 0)::double as label, {VALIDATION_FOLDS.stop} as fold "
        f"from (select range as id from range({ROWS}))) to '{file}' (format parquet)"
    )


def run_here(step: str, file: str, out: str) -> None:
    """Takes the step on the rows of `file`; leaves seconds and megabytes as JSON in `out`."""
    rows = spark_session().read.parquet(file)
    # Of a few first, for what an engine and the libraries load once.
    STEPS[step](rows.limit(1_000))
    had, begun = psutil.Process().memory_info().rss, time.perf_counter()
    STEPS[step](rows)
    # In kilobytes, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    taken = {"megabytes": (peak - had) / 2**20, "seconds": time.perf_counter() - begun}
    Path(out).write_text(json.dumps(taken), encoding="utf-8")


def _report(rows: list[str]) -> None:
    matrix = ROWS * (len(FEATURES) + 1) * 4 / 2**20
    lines = [
        f"# Rows into the matrix, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{ROWS:,} made-up training rows with {len(FEATURES)} features. In single precision they and their labels are",
        f"{matrix:,.0f} MB. Taken: the greatest resident memory of the Python process above what it had when the step",
        "began, Sail's own included; each step in a fresh process.",
        "",
        "| | step | taken | time | peak of all processes |",
        "|-|-|-|-|-|",
        *rows,
        "",
        machine("numpy", "pyarrow", "pysail", "pyspark", "xgboost-cpu"),
    ]
    write_result("collecting", lines)


if __name__ == "__main__":
    run_here(*sys.argv[1:])

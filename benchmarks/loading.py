"""Loading the code location against importing what it is built on, in alternating processes; a sensor's tick."""

import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import dagster as dg
import deltalake
import pyarrow as pa

from benchmarks.measuring import machine, plain_environment
from benchmarks.panels import write_result
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs import automation
from churn_assets.defs.features import PANEL
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

PAIRS = 9
TICKS = 50
LIBRARIES, OURS = "import dagster, dagster_pyspark, dagster_mlflow", "the code location"
SIDES = {LIBRARIES: LIBRARIES, OURS: "from churn_assets.definitions import defs; defs()"}


def main() -> None:
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    environment = plain_environment()
    for _ in range(PAIRS + 1):
        for side, code in SIDES.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
            seconds[side].append(time.perf_counter() - begun)
    # The first of each reads the files from the disk.
    kept = {side: of_side[1:] for side, of_side in seconds.items()}
    _report(kept, _ticks())


def _ticks() -> dict[str, list[float]]:
    """Milliseconds of ticks of the retraining sensor: on a panel it has dealt with, and on one just written."""
    with TemporaryDirectory(prefix="churn-bench-") as folder, dg.DagsterInstance.local_temp(folder) as instance:
        lakehouse = LakehouseResource(root=folder, pyspark=spark_resource(settings_from_env()))
        path = Path(lakehouse.path(PANEL))
        path.parent.mkdir(parents=True)
        cursor: str | None = None
        taken: dict[str, list[float]] = {"nothing new": [], "a new version": []}
        for number in range(TICKS + 1):
            rows = pa.table({"customer_id": ["a"], "as_of": [date(2025, 9, 1)], "total_orders": [float(number)]})
            deltalake.write_deltalake(path, rows, mode="overwrite")
            for kind in ("a new version", "nothing new"):
                resources = {"lakehouse": lakehouse, "policy": ChurnPolicy()}
                with dg.build_sensor_context(instance, cursor=cursor, resources=resources) as context:
                    begun = time.perf_counter()
                    automation.retrain_on_feature_refresh(context)
                    taken[kind].append(1000 * (time.perf_counter() - begun))
                    cursor = context.cursor
    return {kind: of_kind[1:] for kind, of_kind in taken.items()}


def _report(seconds: dict[str, list[float]], ticks: dict[str, list[float]]) -> None:
    ratios = [ours / theirs for theirs, ours in zip(seconds[LIBRARIES], seconds[OURS], strict=True)]
    lines = [
        f"# Loading the code location, and a sensor's tick, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Medians of {PAIRS} alternating pairs of processes, from the start of Python to its end, and of {TICKS} ticks",
        "of `retrain_on_feature_refresh`.",
        "",
        "| | median | least to greatest |",
        "|-|-|-|",
        *[f"| {side} | {median(of):.2f} s | {min(of):.2f} to {max(of):.2f} s |" for side, of in seconds.items()],
        f"| ratio within a pair | {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |",
        *[
            f"| a tick, {kind} | {median(of):.0f} ms | {min(of):.0f} to {max(of):.0f} ms |"
            for kind, of in ticks.items()
        ],
        "",
        machine("dagster", "dagster-mlflow", "dagster-pyspark", "deltalake"),
    ]
    write_result("loading", lines)

"""What a lakehouse grows to: refreshes and trainings, with `lakehouse_maintenance` after each training, against one.

Once with sources that do not move, once with one more order of the newest day before each refresh, as orders come,
and once with one more of mid-history, which changes a customer's features at all dates since. Maintenance removes at
once here what it leaves for a day elsewhere.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import dagster as dg
import deltalake
import pyarrow as pa

from benchmarks.measuring import demo_project, machine
from benchmarks.panels import write_result
from churn_assets.definitions import DEMO, LIFECYCLE, REFRESH, TRAINING, build_defs, default_resources
from churn_assets.defs.maintenance import MAINTENANCE
from churn_assets.resources.settings import settings_from_env

CUSTOMERS = 1_000
REFRESHES = int(os.environ.get("BENCH_REFRESHES", "50"))
TRAININGS = int(os.environ.get("BENCH_TRAININGS", "10"))
# Name -> how far through all orders by time the one is that comes again before each refresh; None: none does.
SOURCES: dict[str, float | None] = {
    "do not move": None,
    "bring an order of the newest day each": 1.0,
    "bring an order of mid-history each": 0.5,
}


def main() -> None:
    found = {name: _grown(share) for name, share in SOURCES.items()}
    table = [
        f"| {name} | {first:.1f} MiB | {last:.1f} MiB | {last / first:.1f} | {seconds:.1f} s |"
        for name, (first, last, seconds) in found.items()
    ]
    lines = [
        f"# Upkeep, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"The lakehouse of the demo with {CUSTOMERS:,} customers after one lifecycle, and after {REFRESHES} refreshes",
        f"and {TRAININGS} trainings with `lakehouse_maintenance` after each training; the longest is the last column.",
        "",
        "| sources | after one | after all | times | maintenance |",
        "|-|-|-|-|-|",
        *table,
        "",
        machine("dagster", "deltalake", "mlflow", "pysail", "pyspark"),
    ]
    write_result("upkeep", lines)


def _grown(share: float | None) -> tuple[float, float, float]:
    """MiB of the lakehouse after one lifecycle and after all, and the seconds of the longest maintenance."""
    with TemporaryDirectory(prefix="churn-bench-") as name:
        resources = default_resources(settings_from_env(demo_project(Path(name), CUSTOMERS)))
        lakehouse = resources["lakehouse"]
        defs, longest = build_defs(resources), 0.0
        with dg.DagsterInstance.local_temp() as instance:
            for job in (DEMO, LIFECYCLE):
                _run(defs, job, instance)
            first = _mebibytes(lakehouse.root)
            for number in range(1, REFRESHES + 1):
                if share is not None:
                    _one_more_order(lakehouse.path("demo/orders"), share, number)
                _run(defs, REFRESH, instance)
                if number % (REFRESHES // TRAININGS) == 0:
                    _run(defs, TRAINING, instance)
                    begun = perf_counter()
                    _run(defs, MAINTENANCE, instance, {"ops": {"maintain_tables": {"config": {"older_than_hours": 0}}}})
                    longest = max(longest, perf_counter() - begun)
                    print(f"  {number} refreshes: {_mebibytes(lakehouse.root):.1f} MiB", flush=True)
        return first, _mebibytes(lakehouse.root), longest


def _run(defs: dg.Definitions, job: str, instance: dg.DagsterInstance, config: Mapping[str, Any] | None = None) -> None:
    # A gate may refuse a model of so few customers; it is named all the same, by its evaluation.
    defs.resolve_job_def(job).execute_in_process(instance=instance, run_config=config, raise_on_error=job != TRAINING)


def _one_more_order(path: str, share: float, number: int) -> None:
    orders = deltalake.DeltaTable(path).to_pyarrow_table().sort_by("ordered_at")
    (row,) = orders.slice(round(share * (orders.num_rows - 1)), 1).to_pylist()
    more = pa.Table.from_pylist([{**row, "order_id": f"O-more-{number}"}], orders.schema)
    deltalake.write_deltalake(path, more, mode="append")


def _mebibytes(root: str) -> float:
    return sum(file.stat().st_size for file in Path(root).rglob("*") if file.is_file()) / 2**20


if __name__ == "__main__":
    main()

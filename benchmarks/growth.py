"""What ten times the customers cost: the whole lifecycle and one week's scoring, in fresh processes."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from benchmarks.measuring import Measured, demo_project, machine, measured
from benchmarks.panels import write_result
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs.features import PANEL
from churn_assets.defs.scoring import SCORING
from churn_assets.resources.settings import settings_from_env

CUSTOMERS = (1_000, 10_000, 100_000)
MEASURED = (LIFECYCLE, SCORING)


def main() -> None:
    found: dict[int, dict[str, Measured]] = {}
    rows: dict[int, int] = {}
    for customers in CUSTOMERS:
        with TemporaryDirectory(prefix="churn-bench-") as name:
            folder = Path(name)
            environment = demo_project(folder, customers)
            print(f"Simulating {customers:,} customers …", flush=True)
            measured(DEMO, ["benchmarks.growth", DEMO], environment, folder)
            found[customers] = {}
            for job in MEASURED:
                run = found[customers][job] = measured(job, ["benchmarks.growth", job], environment, folder)
                print(f"  {run.told}", flush=True)
            rows[customers] = default_resources(settings_from_env(environment))["lakehouse"].row_count(PANEL)
    _report(found, rows)


def run_here(job: str) -> None:
    """Runs a job of the project in the environment, the scoring for the latest week. Raises what its assets raise."""
    resources = default_resources(settings_from_env())
    lakehouse = resources["lakehouse"]
    week = str(lakehouse.dates(PANEL, "as_of")[-1]) if job == SCORING else None
    with dg.DagsterInstance.get() as instance:
        build_defs(resources).resolve_job_def(job).execute_in_process(instance=instance, partition_key=week)


def _report(found: dict[int, dict[str, Measured]], rows: dict[int, int]) -> None:
    table = []
    for job in MEASURED:
        before: Measured | None = None
        for customers, runs in found.items():
            run = runs[job]
            growth = "" if before is None else f"{run.seconds / before.seconds:.1f}"
            table.append(
                f"| {job} | {customers:,} | {rows[customers]:,} | {run.seconds:.0f} s | {growth} | "
                f"{run.cpu_seconds:.0f} s | {run.peak_mb:,.0f} MB |"
            )
            before = run
    lines = [
        f"# Growth, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The demo at one, ten and a hundred times its smallest size, one run each. The lifecycle goes from the source",
        "tables to the version in production, all checks included; the scoring is one week with its list, reasons,",
        "report and monitoring. Times include the start of Python and Spark.",
        "",
        "| job | customers | rows of the panel | wall time | times the size before | CPU time | peak memory |",
        "|-|-|-|-|-|-|-|",
        *table,
        "",
        machine("dagster", "deltalake", "mlflow", "pyspark"),
    ]
    write_result("growth", lines)


if __name__ == "__main__":
    run_here(sys.argv[1])

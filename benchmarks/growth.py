"""What ten times the customers cost: the whole lifecycle and one week's scoring, in fresh processes."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import Measured, demo_project, engines, machine, measured, ours_on
from benchmarks.panels import write_result
from churn_assets.definitions import DEMO, LIFECYCLE, default_resources
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
            measured(DEMO, ["benchmarks.flow", DEMO], environment, folder)
            found[customers] = {}
            for job in MEASURED:
                run = found[customers][job] = measured(job, ["benchmarks.flow", job], environment, folder)
                print(f"  {run.told}", flush=True)
            rows[customers] = default_resources(settings_from_env(environment))["lakehouse"].row_count(PANEL)
    _report(found, rows)


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
        f"The demo at one, ten and a hundred times its smallest size, {ours_on(engines()[0])}, one run each. The",
        "lifecycle goes from the source",
        "tables to the version in production, all checks included; the scoring is one week with its list, reasons,",
        "report and monitoring. Times include the start of Python and the engine.",
        "",
        "| job | customers | rows of the panel | wall time | times the size before | CPU time | peak memory |",
        "|-|-|-|-|-|-|-|",
        *table,
        "",
        machine("dagster", "deltalake", "mlflow", "pysail", "pyspark"),
    ]
    write_result("growth", lines)

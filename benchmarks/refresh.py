"""One more week of orders against a full rebuild of the tables it touches, after two years of weeks and after three.

Both sides refresh the same lakehouse to the same rows in one process, one after the other, a round for each week.
"""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import dagster as dg
import psutil
from deltalake import DeltaTable

from benchmarks.measuring import demo_project, machine, rounds
from benchmarks.panels import write_result
from churn_assets.definitions import DEMO, REFRESH, build_defs, default_resources
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.delta.comparing import differing_columns
from churn_assets.resources.settings import settings_from_env

CUSTOMERS = int(os.environ.get("BENCH_CUSTOMERS", "12000"))
START, ENDS = date(2024, 1, 1), (date(2025, 12, 28), date(2026, 12, 27))
STEPS = {"food_delivery__gold_customer_churn_risk": BASELINE, "food_delivery__ml_churn_features": PANEL}


def main() -> None:
    rows = [row for end in ENDS for row in _measured(end)]
    lines = [
        f"# Refresh, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"The demo with {CUSTOMERS:,} customers from {START}. A week more of orders is refreshed, then every date of",
        "the same orders is computed again (`rebuild`); both give the same rows. Seconds are of the two assets with",
        "these dates, their audits and commits; medians. The whole job also lands and cleans all orders.",
        "",
        "| weeks | orders to | one week more | rebuild | ratio | the job: one week more | rebuild | peak memory |",
        "|-|-|-|-|-|-|-|-|",
        *rows,
        "",
        machine("dagster", "deltalake", "pysail", "pyspark"),
    ]
    write_result("refresh", lines)


def _measured(end: date) -> list[str]:
    with TemporaryDirectory(prefix="churn-bench-") as name:
        folder = Path(name)
        sides: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        with dg.DagsterInstance.local_temp() as instance:
            times = rounds(2)
            for turn in range(times + 1):
                environment = demo_project(
                    folder,
                    CUSTOMERS,
                    start=str(START),
                    end=str(end - timedelta(days=7 * (times - turn))),
                )
                resources = default_resources(settings_from_env(environment))
                defs = build_defs(resources)
                _run(defs, DEMO, instance)
                for rebuild in (False, True):
                    taken = _run(defs, REFRESH, instance, rebuild=rebuild)
                    if turn:
                        sides[rebuild].append(taken)
                        print(f"  to {end}, {'rebuild' if rebuild else 'a week more'}: {taken[0]:.1f} s", flush=True)
                _require_same(resources["lakehouse"].path(PANEL))
            weeks = len(resources["lakehouse"].dates(PANEL, "as_of"))
        peak = psutil.Process().memory_info().rss / 2**20
        part, job = ([median(each[place] for each in sides[side]) for side in (False, True)] for place in (0, 1))
        figures = [*(f"{seconds:.1f} s" for seconds in part), f"{part[0] / part[1]:.2f}"]
        figures += [*(f"{seconds:.1f} s" for seconds in job), f"{peak:,.0f} MB"]
        return [f"| {weeks} | {end} | {' | '.join(figures)} |"]


def _require_same(path: str) -> None:
    last = DeltaTable(path).version()
    if differing := differing_columns(DeltaTable(path, version=last - 1), DeltaTable(path, version=last)):
        raise SystemExit(f"the refresh and the rebuild differ in {', '.join(differing)}")


def _run(defs: dg.Definitions, job: str, instance: dg.DagsterInstance, *, rebuild: bool = False) -> tuple[float, float]:
    """Seconds of the two assets and of the job."""
    config = {"ops": {step: {"config": {"rebuild": True}} for step in STEPS}} if rebuild else None
    ran = defs.resolve_job_def(job).execute_in_process(instance=instance, run_config=config)
    steps = [step for step in instance.get_run_step_stats(ran.run_id) if step.start_time and step.end_time]
    seconds = {step.step_key: step.end_time - step.start_time for step in steps if step.end_time and step.start_time}
    return sum(seconds.get(step, 0.0) for step in STEPS), sum(seconds.values())


if __name__ == "__main__":
    main()

"""Scoring millions of customers as the asset does, against reading, transforming and writing them with Spark alone.

Both sides read the same Delta table's files and alternate in one session of
local Spark. The asset also says who cannot be scored and
why, gives tiers and stamps, and audits every row before it publishes them; reasons are not part of it.
"""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import mlflow
import mlflow.spark
from dagster import AssetKey, DagsterEventType
from pyspark.sql import functions as F

from benchmarks.measuring import demo_project, machine
from benchmarks.panels import write_result
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs.features import PANEL
from churn_assets.defs.scoring import SCORES, SCORING, UNSCORED
from churn_assets.resources.settings import Settings, prepare_dagster_home, settings_from_env
from churn_assets.resources.tracking import PRODUCTION

CUSTOMERS = (1_000_000, 10_000_000)
ROUNDS = 5


def main() -> None:
    with TemporaryDirectory(prefix="churn-bench-") as name:
        folder = Path(name)
        # Few customers to train on: how good the model is does not matter here.
        environment = demo_project(folder, 1_000, start="2025-08-01") | {"CHURN_ENGINE": "local"}
        settings = settings_from_env(environment)
        resources = default_resources(settings)
        for job in (DEMO, LIFECYCLE):
            print(f"Running {job} …", flush=True)
            _run(settings, resources, job)
        lines = []
        for customers in CUSTOMERS:
            week = _widen(resources, customers)
            seconds: dict[str, list[float]] = {"asset": [], "check": [], "spark alone": []}
            for number in range(ROUNDS + 1):
                steps = _run(settings, resources, SCORING, str(week))
                taken = {
                    "asset": steps["churn_scores"],
                    "check": steps["churn_scores__contract"],
                    "spark alone": _plain(resources, folder / f"plain-{number}"),
                }
                shutil.rmtree(folder / f"plain-{number}")
                print("  " + ", ".join(f"{side} {value:.1f} s" for side, value in taken.items()), flush=True)
                # The first round warms up the JVM.
                if number:
                    for side, value in taken.items():
                        seconds[side].append(value)
            lines += _lines(customers, seconds)
    _report(lines)


def _run(settings: Settings, resources: dict[str, Any], job: str, week: str | None = None) -> dict[str, float]:
    """Seconds of each step."""
    selection = None if week is None else [AssetKey(table.split("/")) for table in (SCORES, UNSCORED)]
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(settings))) as instance:
        result = (
            build_defs(resources)
            .resolve_job_def(job)
            .execute_in_process(instance=instance, partition_key=week, asset_selection=selection)
        )
    ended = [event for event in result.all_events if event.event_type is DagsterEventType.STEP_SUCCESS]
    return {str(event.step_key): event.step_success_data.duration_ms / 1000 for event in ended}


def _widen(resources: dict[str, Any], customers: int) -> Any:
    """Puts so many customers into the panel's latest week: those that are there, again and again under other ids."""
    lakehouse = resources["lakehouse"]
    panel = lakehouse.read(PANEL)
    (week,) = panel.agg(F.max("as_of")).head()
    latest = panel.where(F.col("as_of") == F.lit(week))
    times = -(-customers // latest.count())
    copies = lakehouse.spark.range(times).select(F.col("id").alias("copy"))
    rows = latest.crossJoin(copies).withColumn("customer_id", F.concat_ws("-", "customer_id", "copy")).drop("copy")
    commit = lakehouse.write(PANEL, rows.limit(customers).repartition(8))
    print(f"{commit.rows:,} customers in the week of {week}", flush=True)
    return week


def _plain(resources: dict[str, Any], target: Path) -> float:
    lakehouse, tracking = resources["lakehouse"], resources["tracking"]
    champion = tracking.version_under(PRODUCTION)
    mlflow.set_tracking_uri(tracking.tracking_uri)
    pipeline = mlflow.spark.load_model(f"models:/{champion.name}/{champion.version}")
    files = [str(path) for path in _files(lakehouse.path(PANEL))]
    begun = time.perf_counter()
    scored = pipeline.transform(lakehouse.spark.read.parquet(*files))
    scored.select("customer_id", "as_of", "probability").write.parquet(str(target))
    return time.perf_counter() - begun


def _files(table: str) -> list[str]:
    from deltalake import DeltaTable

    return DeltaTable(table).file_uris()


def _lines(customers: int, seconds: dict[str, list[float]]) -> list[str]:
    alone = median(seconds["spark alone"])
    names = {
        "spark alone": "`spark.read.parquet`, `transform`, write",
        "asset": "`churn_scores`, audit included",
        "check": "its blocking check, on what was published",
    }
    values = {side: median(seconds[side]) for side in names}
    return [
        f"| {customers:,} | {names[side]} | {value:.1f} s | {value / alone:.2f} | {customers / value:,.0f} |"
        for side, value in values.items()
    ]


def _report(rows: list[str]) -> None:
    lines = [
        f"# Scoring, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Medians of {ROUNDS} rounds after one to warm up; both sides alternate in one session.",
        "",
        "| customers | | time | times Spark alone | customers a second |",
        "|-|-|-|-|-|",
        *rows,
        "",
        machine("deltalake", "pyspark"),
    ]
    write_result("scoring", lines)

"""The time of a fit by each estimator of the flow as the training rows grow, in alternating rounds on a warm JVM.

On local Spark, the only engine of this machine that has them both.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from statistics import median

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.measuring import machine
from benchmarks.panels import demo_panel, spark_session, write_result
from churn_assets.churn import splits
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT
from churn_assets.serving.pipelines import shared_folder

COPIES = (1, 10)
ROUNDS = 3
PACKAGES = ("pyspark", "xgboost-cpu")
ESTIMATORS = {
    "gbt": replace(GradientBoosting(), estimator="gbt"),
    "xgboost": replace(GradientBoosting(), estimator="xgboost"),
}


def main() -> None:
    spark, policy = spark_session("local"), load_policy(CHECKOUT / "policy.toml")
    lines = [
        f"# Time of a fit by estimator, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The default demo's training rows, once and ten times over (each copy with customers of its own), shipped",
        f"settings, on local Spark. {ROUNDS} alternating rounds after a warm-up, medians. Each fit includes bringing",
        "the rows into an order of their own and the count of both classes.",
        "",
        "| rows | `gbt` | `xgboost` | ratio within a round |",
        "|-|-|-|-|",
    ]
    features = FEATURE_SETS[policy.model.feature_set]
    with demo_panel(spark, DemoSettings(campaign=None), policy) as built:
        once = splits.train_rows(built.panel, splits.split_dates(built.panel, policy), policy)
        for copies in COPIES:
            train = _copied(once, copies).persist()
            rows = train.count()
            seconds: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
            for turn in range(ROUNDS + 1):
                for name, hyperparameters in ESTIMATORS.items():
                    begun = time.perf_counter()
                    fit_churn_model(
                        train, features, hyperparameters, rows=rows, shared_folder=partial(shared_folder, None)
                    )
                    seconds[name].append(time.perf_counter() - begun)
                print(f"  {rows:,} rows, round {turn}: {[round(of[-1], 1) for of in seconds.values()]}", flush=True)
            train.unpersist()
            gbt, xgboost = (of[1:] for of in seconds.values())
            ratios = [ours / theirs for ours, theirs in zip(xgboost, gbt, strict=True)]
            cells = f"{median(gbt):.1f} s | {median(xgboost):.1f} s | {median(ratios):.2f}"
            lines.append(f"| {rows:,} | {cells} ({min(ratios):.2f} to {max(ratios):.2f}) |")
    lines += ["", machine(*PACKAGES)]
    write_result("estimators", lines)


def _copied(rows: DataFrame, copies: int) -> DataFrame:
    numbered = rows.withColumn("copy", F.explode(F.sequence(F.lit(1), F.lit(copies))))
    return numbered.withColumn("customer_id", F.concat_ws("-", "customer_id", "copy")).drop("copy")

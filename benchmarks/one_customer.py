"""What a customer of very many orders costs: the snapshots of one customer's orders and of as many of ordinary ones.

Both sides are the same rows but for the customer, on one engine in one process, in rounds that alternate; the first
round of each is for what a first query costs and does not count.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.measuring import engines, machine, ours_on, plain_environment, rounds
from benchmarks.panels import write_result
from churn_assets.churn.features import as_of_calendar, customer_snapshots
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

ORDERS, CUSTOMERS, DAYS = 200_000, 20_000, 154
ROUNDS = 5


def main() -> None:
    spark = spark_resource(settings_from_env(plain_environment(CHURN_ENGINE=engines()[0]))).spark_session
    sides = {f"{CUSTOMERS:,} customers": F.col("id") % CUSTOMERS, "one customer": F.lit(0)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with TemporaryDirectory(prefix="churn-bench-") as name:
        for side, customer in sides.items():
            _silver(spark).withColumn("customer_id", customer.cast("string")).write.parquet(f"{name}/{side}")
        for turn in range(rounds(ROUNDS) + 1):
            for side in sides:
                taken = _seconds(spark.read.parquet(f"{name}/{side}"), Path(name, "snapshots"))
                print(f"  round {turn}: {side}, {taken:.2f} s", flush=True)
                seconds[side] += [taken] if turn else []
    _report(seconds)


def _silver(spark: SparkSession) -> DataFrame:
    """Silver orders over DAYS days without customers, in rising time."""
    ordered = (F.lit(1_735_689_600) + F.col("id") * (DAYS * 86_400 / ORDERS)).cast("long")

    def later(minutes: int) -> Column:
        return F.timestamp_seconds(ordered + minutes * 60)

    return spark.range(ORDERS).select(
        "id",
        F.col("id").cast("string").alias("order_id"),
        later(0).alias("ordered_at"),
        later(45).alias("promised_at"),
        later(50).alias("delivered_at"),
        (F.col("id") % 50 + 8).cast("double").alias("subtotal"),
        F.when(F.col("id") % 5 < 2, later(300)).alias("reviewed_at"),
        F.when(F.col("id") % 5 < 2, (F.col("id") % 4 + 1).cast("double")).alias("review_score"),
        F.lit(0.0).alias("segment_index"),
    )


def _seconds(silver: DataFrame, out: Path) -> float:
    policy = ChurnPolicy()
    calendar = as_of_calendar(silver, policy)
    begun = time.perf_counter()
    customer_snapshots(silver, calendar, policy).write.parquet(str(out), mode="overwrite")
    return time.perf_counter() - begun


def _report(seconds: dict[str, list[float]]) -> None:
    many, one = seconds.values()
    ratios = [mine / theirs for theirs, mine in zip(many, one, strict=True)]
    lines = [
        f"# One customer with every order, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"The snapshots of {ORDERS:,} orders over {DAYS} days, {ours_on(engines()[0])}, with the pace limit of",
        f"cleaning left out: medians of {len(one)} alternating rounds in one process, and the ratio of each round.",
        "",
        "| side | time |",
        "|-|-|",
        *[f"| {side} | {median(taken):.2f} s |" for side, taken in seconds.items()],
        f"| one / many | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
        "",
        machine("pysail", "pyspark"),
    ]
    write_result("one_customer", lines)

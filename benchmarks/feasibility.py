"""Where churn can be judged at all: the candidate definitions on the notebook's recipe and on the demo."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime

from pyspark.sql import SparkSession

from benchmarks.notebook_recipe import random_orders
from benchmarks.panels import StudyPanel, demo_panel, panel_of, spark_session, write_result
from churn_assets.churn.feasibility import label_feasibility
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, REVIEWS
from churn_assets.demo.simulator import DemoSettings
from churn_assets.pages.tables import feasibility_table
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

CUSTOMERS_OF_THE_RECIPE = 12_000


def main() -> None:
    spark, policy = spark_session(), load_policy(CHECKOUT / "policy.toml")
    with demo_panel(spark, DemoSettings(campaign=None), policy) as built:
        demo = _table(built, policy)
    with _recipe(spark, policy) as built:
        recipe = _table(built, policy)
    write_result(
        "feasibility",
        [
            f"# Candidate churn definitions, {datetime.now(UTC):%Y-%m-%d}",
            "",
            f"The notebook's recipe: orders given to {CUSTOMERS_OF_THE_RECIPE:,} customers at random, of whom 0.12 %",
            "are silent for 30 days; the shipped policy.",
            "",
            recipe,
            "",
            "The default demo.",
            "",
            demo,
        ],
    )


def _table(built: StudyPanel, policy: ChurnPolicy) -> str:
    return feasibility_table(label_feasibility(built.snapshots, built.silver, built.calendar, policy))


def _recipe(spark: SparkSession, policy: ChurnPolicy) -> AbstractContextManager[StudyPanel]:
    orders = spark.createDataFrame(random_orders(CUSTOMERS_OF_THE_RECIPE))
    reviews, customers = (spark.createDataFrame([], table.spark_schema) for table in (REVIEWS, CUSTOMERS))
    return panel_of(orders, reviews, customers, policy)

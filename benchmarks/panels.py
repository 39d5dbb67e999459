"""Panels in memory for the studies: the flow's own functions without its tables and its orchestration."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import DataFrame, SparkSession

from benchmarks.measuring import engines
from churn_assets.churn import cleaning
from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.features import (
    as_of_calendar,
    customer_snapshots,
    feature_panel,
    with_baseline_rule,
)
from churn_assets.churn.labels import with_labels
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS
from churn_assets.demo.simulator import DemoSettings, simulate
from churn_assets.resources.settings import CHECKOUT, settings_from_env
from churn_assets.resources.sources import SourceCatalog, load_sources
from churn_assets.resources.spark import spark_resource

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class StudyPanel:
    """The tables of one data set: silver orders, the rule's snapshots, and the labelled features.

    truth: customer_id, as_of, churn_probability, the best possible score, where the data are simulated.
    """

    silver: DataFrame
    snapshots: DataFrame
    panel: DataFrame
    calendar: AsOfCalendar
    segments: dict[float, str]
    truth: DataFrame | None = None


def spark_session(engine: str | None = None) -> SparkSession:
    """The session of this process on an engine of this machine (default: the first of `engines`)."""
    return spark_resource(replace(settings_from_env(), engine=engine or engines()[0])).spark_session


@contextmanager
def demo_panel(spark: SparkSession, settings: DemoSettings, policy: ChurnPolicy) -> Iterator[StudyPanel]:
    """The panel of a simulated QuickBite."""
    demo = simulate(spark, settings)
    with panel_of(demo.orders, demo.reviews, demo.customers, policy) as built:
        yield replace(built, truth=demo.true_churn_probability)


@contextmanager
def example_panel(spark: SparkSession, example: str, policy: ChurnPolicy) -> Iterator[StudyPanel]:
    """The panel of an example's own sources.toml, such as `uci_online_retail`."""
    folder = CHECKOUT / "examples" / example
    catalog = SourceCatalog(load_sources(folder / "sources.toml"), folder, "")
    raw = [catalog.open(spark, table) for table in (ORDERS, REVIEWS, CUSTOMERS)]
    orders, reviews, customers = (
        spark.createDataFrame([], table.spark_schema) if rows is None else rows
        for table, rows in zip((ORDERS, REVIEWS, CUSTOMERS), raw, strict=True)
    )
    with panel_of(orders, reviews, customers, policy) as built:
        yield built


@contextmanager
def panel_of(orders: DataFrame, reviews: DataFrame, customers: DataFrame, policy: ChurnPolicy) -> Iterator[StudyPanel]:
    """The panel of three source tables.

    Each stage is written and read again, as the flow does: on frames that are merely persisted Spark spent ten minutes
    in describing ever longer plans, for fits that take seconds (2026-11-25).
    """
    spark = orders.sparkSession
    with TemporaryDirectory(prefix="churn-study-") as folder:

        def stored(name: str, rows: DataFrame) -> DataFrame:
            rows.write.parquet(f"{folder}/{name}")
            # Of no rows some engines leave no file, and so no column.
            is_empty = not any(Path(folder, name).glob("*.parquet"))
            return spark.createDataFrame([], rows.schema) if is_empty else spark.read.parquet(f"{folder}/{name}")

        cleaned = cleaning.clean(orders, reviews, customers, policy=policy, now=datetime.now(UTC))
        kept_customers = stored("customers", cleaned.customers)
        counts = {row["segment"]: row["count"] for row in kept_customers.groupBy("segment").count().collect()}
        numbered = cleaning.numbered_segments(counts, {})
        silver = stored("silver", cleaning.with_segments(cleaned.orders, kept_customers, numbered))
        calendar = as_of_calendar(silver, policy)
        snapshots = stored("snapshots", with_baseline_rule(customer_snapshots(silver, calendar, policy), policy))
        panel = stored("panel", feature_panel(with_labels(snapshots, silver, calendar, policy), policy))
        segments = {number: segment for segment, number in numbered.items()}
        yield StudyPanel(silver, snapshots, panel, calendar, segments)


def write_result(name: str, lines: list[str]) -> None:
    """Prints the Markdown `lines` and keeps them in benchmarks/results/."""
    text = "\n".join(lines)
    print(f"\n{text}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")

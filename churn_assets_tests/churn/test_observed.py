"""The lineage people read is what the computation does: a changed column moves just the values said to read it."""

from datetime import date

import pandas as pd
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel, with_baseline_rule
from churn_assets.churn.labels import churn_labels, label_reads
from churn_assets.churn.observed import KEYS, RULE_COLUMNS, SNAPSHOT_COLUMNS, Described
from churn_assets.churn.policy import Churn, ChurnPolicy
from churn_assets.defs.lakehouse import SILVER
from churn_assets_tests.conftest import Project

# A part of the orders, so that some customers keep what others lose.
SOME = "pmod(xxhash64(order_id), 10) < 3"
CHANGES = {
    "ordered_at": f"if({SOME}, ordered_at - interval 10 days, ordered_at)",
    "promised_at": f"if({SOME}, null, promised_at - interval 1 hour)",
    "delivered_at": f"if({SOME}, null, delivered_at + interval 1 hour)",
    "subtotal": f"if({SOME}, subtotal * 9, subtotal)",
    "reviewed_at": f"if({SOME}, null, reviewed_at - interval 40 days)",
    "review_score": "6 - review_score",
    "segment_index": "segment_index + 10",
    "segment": "'another'",
    "sentiment_category": "'another'",
}
POLICY = ChurnPolicy(churn=Churn(definition="long_gap"))
DESCRIBED: dict[str, Described] = {**SNAPSHOT_COLUMNS, **RULE_COLUMNS}


def computed(silver: DataFrame, calendar: AsOfCalendar) -> pd.DataFrame:
    """By key, the values of both tables; of customers with reviews, for the others have those of all customers."""
    snapshots = with_baseline_rule(customer_snapshots(silver, calendar, POLICY), POLICY).persist()
    panel = feature_panel(snapshots, POLICY).join(
        churn_labels(snapshots, silver, calendar, POLICY), ["customer_id", "as_of"]
    )
    observed = snapshots.where("reviews > 0")
    frames = [
        rows.toPandas().set_index(["customer_id", "as_of"]).add_prefix(prefix)
        for rows, prefix in ((observed, "snapshot "), (panel, "panel "))
    ]
    snapshots.unpersist()
    return frames[0].join(frames[1])


@pytest.fixture(scope="module")
def silver(built: Project) -> DataFrame:
    return built.lakehouse.read(SILVER)


@pytest.fixture(scope="module")
def calendar(silver: DataFrame) -> AsOfCalendar:
    whole = as_of_calendar(silver, POLICY)
    labelled = whole.last_labelled(POLICY.windows.outcome_days)
    assert labelled is not None
    return AsOfCalendar(max(whole.first, date.fromordinal(labelled.toordinal() - 14)), labelled, whole.watermark)


@pytest.fixture(scope="module")
def usual(silver: DataFrame, calendar: AsOfCalendar) -> pd.DataFrame:
    return computed(silver, calendar)


def test_every_column_of_both_tables_is_described(usual: pd.DataFrame) -> None:
    assert {f"snapshot {name}" for name in DESCRIBED} | {
        f"panel {name}" for name in (*[feature.name for feature in FEATURES], "label")
    } == {*usual.columns}
    assert all(column.meaning for column in (KEYS | DESCRIBED).values())


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_column_changes_the_values_that_read_it_and_no_others(
    silver: DataFrame, calendar: AsOfCalendar, usual: pd.DataFrame, column: str
) -> None:
    other = computed(silver.withColumn(column, F.expr(CHANGES[column])), calendar)
    before, after = usual.align(other, join="inner", axis=0)
    assert len(before) > 500
    differs = ~((before == after) | (before.isna() & after.isna()))
    changed = {name for name in before.columns if differs[name].any()}

    snapshot = {name for name, described in DESCRIBED.items() if column in described.reads}
    reads = label_reads(POLICY)
    panel = {feature.name for feature in FEATURES if snapshot & {*feature.reads}}
    if column in reads["silver"] or snapshot & {*reads["snapshots"]}:
        panel.add("label")
    assert changed == {f"snapshot {name}" for name in snapshot} | {f"panel {name}" for name in panel}

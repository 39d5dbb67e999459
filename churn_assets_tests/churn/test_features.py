"""Features see what was known before their as-of date, labels what came after; both equal an independent result."""

import random
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from itertools import permutations
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.errors import NoEligibleCustomersError, WatermarkBeyondOrdersError
from churn_assets.churn.features import as_of_calendar, with_baseline_rule
from churn_assets.churn.policy import ChurnPolicy, Cleaning, Windows
from churn_assets.churn.tables import ORDERS
from churn_assets.demo.simulator import DemoSettings, simulate
from churn_assets_tests import reference
from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows
from churn_assets_tests.panels import (
    POLICY,
    Key,
    Row,
    SourceRows,
    by_key,
    cleaned,
    differences,
    dirty_result,
    frame,
    panel_frame,
    panel_rows,
    rows_of,
    source_frames,
)

DIRTY = [(0, 150), (1, 152), (2, 150)]
NAMES = tuple(feature.name for feature in FEATURES)
EXACT = reference.PANEL_COLUMNS
EXTRA = ("missed_orders", "recent_delay_minutes", "orders_ever", "delay_minutes_at_last_order")
# The first order at 2024-01-04 makes this Monday the first as-of date.
T = datetime(2024, 3, 4)
DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)


def order(order_id: str, customer_id: str, ordered_at: datetime, **others: Any) -> Row:
    return {"order_id": order_id, "customer_id": customer_id, "ordered_at": ordered_at, "subtotal": 10.0, **others}


def review(order_id: str, reviewed_at: datetime, review_score: float) -> Row:
    return {"order_id": order_id, "reviewed_at": reviewed_at, "review_score": review_score}


# The reference knows ten features; these are the other four, from the reference's kept orders.
def crisis_aware_values(kept: list[Row], panel_keys: set[Key]) -> dict[Key, Row]:
    values = {}
    orders_of: dict[str, list[Row]] = {}
    for row in kept:
        orders_of.setdefault(row["customer_id"], []).append(row)
    for customer, day in panel_keys:
        t = datetime.combine(day, time())
        times = [row["ordered_at"] for row in orders_of[customer] if row["ordered_at"] < t]
        over = datetime.combine(max(times), time()) + DAY
        late, late_by_then = (
            sum(
                (
                    max(row["delivered_at"] - row["promised_at"], timedelta())
                    for row in orders_of[customer]
                    if row["delivered_at"] and row["promised_at"] and end - 30 * DAY <= row["delivered_at"] < end
                ),
                start=timedelta(),
            )
            for end in (t, over)
        )
        values[customer, day] = {
            "missed_orders": (t - max(times)) / DAY * len(times) / ((t - min(times)) / DAY),
            "recent_delay_minutes": late / timedelta(minutes=1),
            "orders_ever": float(len(times)),
            "delay_minutes_at_last_order": late_by_then / timedelta(minutes=1),
        }
    return values


@pytest.mark.parametrize(("seed", "days"), DIRTY)
def test_the_panel_of_dirty_rows_is_the_references(spark: SparkSession, seed: int, days: int) -> None:
    kept = reference.clean(*dirty_source_rows(seed, days=days), now=dirty_now(days))
    expected = reference.panel(kept)
    computed = dirty_result(spark, seed, days).panel
    assert len(computed) > 100
    assert differences(computed, expected, reference.PANEL_COLUMNS, exact=EXACT) == []
    extra = crisis_aware_values(kept.orders, set(expected))
    assert differences(computed, extra, EXTRA, exact=EXTRA) == []
    for name in (*NAMES, "label"):
        assert len({row[name] for row in computed.values()}) > 1, f"{name} never varies, so it was not compared"


def test_every_feature_of_the_dirty_rows_is_in_its_range(spark: SparkSession) -> None:
    for row in dirty_result(spark, 0, 150).panel.values():
        assert list(row) == [*NAMES, "label"]
        for feature in FEATURES:
            assert feature.low <= row[feature.name] <= feature.high, feature.name


def test_the_demos_panel_is_the_references(spark: SparkSession) -> None:
    demo = simulate(spark, DemoSettings(customers=600, duplicate_orders=0.01, null_keys=0.005), partitions=2)
    frames = (demo.orders, demo.reviews, demo.customers)
    rows = [rows_of(table) for table in frames]
    now = datetime(2026, 1, 2)
    kept = reference.clean(*rows, now=now)
    names = sorted({row["customer_id"] for row in kept.orders})
    sample = set(random.Random(0).sample(names, 60))
    # Quintiles and means are over everybody, so everybody is computed and the sample compared.
    expected = reference.panel(kept, customers=sample)
    everybody = panel_rows(source_frames(spark, (rows[0], rows[1], rows[2])), now=now)
    computed = {key: row for key, row in everybody.items() if key[0] in sample}
    assert len({customer for customer, _ in computed}) > 50
    assert differences(computed, expected, reference.PANEL_COLUMNS, exact=EXACT) == []
    extra = crisis_aware_values(kept.orders, set(expected))
    assert differences(computed, extra, EXTRA, exact=EXTRA) == []


# ---- the future


def known_before(t: datetime, rows: SourceRows) -> SourceRows:
    """`rows` as the source tables stood at `t`: later rows were not there, later deliveries not yet made."""
    orders, reviews, customers = rows
    seen = [
        {**row, "delivered_at": row["delivered_at"] if row["delivered_at"] and row["delivered_at"] < t else None}
        for row in orders
        if row["ordered_at"] < t
    ]
    return seen, [row for row in reviews if row["reviewed_at"] < t], customers


def without_copies(rows: SourceRows) -> SourceRows:
    """One copy of each order and review, with a time: which copy wins may hang on a delivery nobody knows of yet."""
    orders = {row["order_id"]: row for row in rows[0] if row["ordered_at"]}
    reviews = {row["order_id"]: row for row in rows[1] if row["reviewed_at"]}
    return list(orders.values()), list(reviews.values()), rows[2]


def test_events_after_the_as_of_date_change_nothing(spark: SparkSession) -> None:
    t = datetime(2024, 4, 22)
    whole = without_copies(dirty_source_rows(0))
    at_t = panel_rows(source_frames(spark, known_before(t, whole)), now=dirty_now())
    later = panel_rows(source_frames(spark, whole), now=dirty_now())
    assert max(day for _, day in at_t) == t.date()
    assert max(day for _, day in later) > t.date() + 30 * DAY
    until_t = {key: row for key, row in later.items() if key[1] <= t.date()}
    assert differences(until_t, at_t, NAMES, exact=NAMES) == []
    labels_at_t = {key: row for key, row in at_t.items() if row["label"] is not None}
    assert {day for _, day in labels_at_t} == {day for _, day in at_t if day + 30 * DAY <= t.date()}
    labels_later = {key: until_t[key] for key in labels_at_t}
    assert differences(labels_later, labels_at_t, ["label"], exact=["label"]) == []
    assert all(row["label"] is not None for row in until_t.values())


def test_a_review_or_delivery_made_only_after_the_as_of_date_is_not_known_then(spark: SparkSession) -> None:
    ordered = T - timedelta(hours=3)
    late = {"promised_at": ordered + timedelta(hours=1)}
    orders = [
        order("opening", "calendar", T - 60 * DAY),
        order("closing", "calendar", T + 7 * DAY),
        order("plain", "plain", ordered, **late),
        order("delivered", "delivered", ordered, delivered_at=T, **late),
        order("reviewed", "reviewed", ordered, **late),
        order("delivered before", "delivered before", ordered, delivered_at=T - INSTANT, **late),
        order("reviewed before", "reviewed before", ordered, **late),
        order("somebody", "somebody", T - 2 * DAY),
    ]
    reviews = [
        review("reviewed", T, 1.0),
        review("reviewed before", T - INSTANT, 1.0),
        review("somebody", T - DAY, 4.0),
    ]
    rows = panel_rows(source_frames(spark, (orders, reviews, [])))
    plain = rows["plain", T.date()]
    assert rows["delivered", T.date()] == plain
    assert rows["reviewed", T.date()] == plain
    assert plain["avg_star_rating"] == 2.5
    before = rows["delivered before", T.date()]
    assert (before["late_order_ratio"], before["crisis_exposure_index"]) == (1.0, 1.0)
    assert before["recent_delay_minutes"] == pytest.approx(120)
    assert rows["reviewed before", T.date()]["avg_star_rating"] == 1.0
    # A week later both are known.
    week_later = (T + 7 * DAY).date()
    assert rows["delivered", week_later]["crisis_exposure_index"] == 1.0
    assert rows["reviewed", week_later]["avg_star_rating"] == 1.0
    assert rows["plain", week_later]["crisis_exposure_index"] == 0.0


def test_recent_delay_minutes_sums_the_late_deliveries_of_the_eligibility_window(spark: SparkSession) -> None:
    def delivered(order_id: str, at: datetime, minutes_late: float) -> Row:
        promised = at - timedelta(minutes=minutes_late)
        return order(order_id, "c", promised - timedelta(minutes=40), promised_at=promised, delivered_at=at)

    orders = [
        order("opening", "calendar", T - 60 * DAY),
        order("closing", "calendar", T),
        delivered("too old", T - 30 * DAY - INSTANT, 100),
        delivered("oldest", T - 30 * DAY, 20),
        delivered("recent", T - DAY, 1.5),
        delivered("early", T - 2 * DAY, -30),
        order("no promise", "c", T - 2 * DAY, delivered_at=T - DAY),
    ]
    row = panel_rows(source_frames(spark, (orders, [], [])))["c", T.date()]
    assert row["recent_delay_minutes"] == pytest.approx(21.5, abs=1e-12)
    assert row["late_order_ratio"] == 0.75


def test_delay_minutes_at_last_order_end_with_the_day_of_that_order(spark: SparkSession) -> None:
    last = T - 10 * DAY

    def delivered(order_id: str, ordered: datetime, at: datetime, minutes_late: float) -> Row:
        return order(order_id, "c", ordered, promised_at=at - timedelta(minutes=minutes_late), delivered_at=at)

    orders = [
        order("opening", "calendar", T - 60 * DAY),
        order("closing", "calendar", T + 7 * DAY),
        delivered("too old", last - 30 * DAY, last - 29 * DAY - INSTANT, 400),
        delivered("oldest", last - 30 * DAY, last - 29 * DAY, 100),
        delivered("early", last - 2 * DAY, last - 2 * DAY, -30),
        delivered("last", last, last + DAY - INSTANT, 20),
        # Of the same day, and delivered when it is over.
        delivered("after midnight", last, last + DAY, 3),
    ]
    rows = panel_rows(source_frames(spark, (orders, [], [])))
    # Nor does a later date know more of it: it is the last order still.
    for as_of in (T, T + 7 * DAY):
        assert rows["c", as_of.date()]["delay_minutes_at_last_order"] == pytest.approx(120, abs=1e-12)


# ---- what must not matter


def test_the_order_and_partitioning_of_the_rows_changes_no_value(spark: SparkSession) -> None:
    orders, reviews, customers = (list(rows) for rows in dirty_source_rows(0))
    random.Random(7).shuffle(orders)
    frames = source_frames(spark, (orders, reviews[::-1], customers[::-1]))
    again = panel_rows((frames[0].repartition(7), frames[1].repartition(5), frames[2].coalesce(1)), now=dirty_now())
    assert again == dirty_result(spark, 0, 150).panel


def test_the_order_and_partitioning_of_silver_changes_no_value(spark: SparkSession) -> None:
    # Cleaning sorts its rows by key, so shuffled sources alone would not show a feature that hangs on their order.
    clean_rows = cleaned(source_frames(spark, dirty_source_rows(0)), now=dirty_now())
    shuffled = replace(clean_rows, orders=clean_rows.orders.orderBy(F.xxhash64("order_id")).repartition(7))
    assert by_key(panel_frame(shuffled)) == dirty_result(spark, 0, 150).panel


@pytest.mark.parametrize("partitions", [1, 3])
def test_spend_is_the_same_in_whatever_order_it_is_summed(spark: SparkSession, partitions: int) -> None:
    # As floats 0.1 + 0.2 + 0.3 is more than 0.3 + 0.2 + 0.1, which would put equal customers into different fifths.
    spends = list(permutations((0.1, 0.2, 0.3)))
    orders = [order("opening", "calendar", T - 60 * DAY), order("closing", "calendar", T)]
    orders += [
        order(f"{customer}-{place}", f"c{customer}", T - (place + 1) * DAY, subtotal=subtotal)
        for customer, spend in enumerate(spends)
        for place, subtotal in enumerate(spend)
    ]
    orders_frame, reviews, customers = source_frames(spark, (orders, [], []))
    rows = panel_rows((orders_frame.repartition(partitions), reviews, customers))
    at_t = {row["rfm_score"] for (_, day), row in rows.items() if day == T.date()}
    assert len(at_t) == 1, at_t


def test_cancelled_orders_do_not_count(spark: SparkSession) -> None:
    orders = [
        order("opening", "calendar", T - 60 * DAY),
        order("closing", "calendar", T + 30 * DAY),
        *(order(f"{name}", name, T - 10 * DAY, subtotal=5.0) for name in ("plain", "cancels")),
        order("before", "cancels", T - 2 * DAY, subtotal=90.0, is_cancelled=True),
        order("after", "cancels", T + 2 * DAY, is_cancelled=True),
        order("only", "only cancels", T - 2 * DAY, is_cancelled=True),
        order("long ago", "cancels", T - 90 * DAY, is_cancelled=True),
        order("end", "cancels", T + 90 * DAY, is_cancelled=True),
    ]
    rows = panel_rows(source_frames(spark, (orders, [review("before", T - DAY, 1.0)], [])))
    # A calendar moved by the first or the last order would have snapshots with the calendar's own customer.
    assert {customer for customer, _ in rows} == {"plain", "cancels"}
    assert rows["cancels", T.date()] == rows["plain", T.date()]
    assert rows["cancels", T.date()]["label"] == 1.0


def test_an_order_with_a_repaired_delivery_still_counts(spark: SparkSession) -> None:
    orders = [
        order("opening", "calendar", T - 60 * DAY),
        order("closing", "calendar", T + 30 * DAY),
        order("1", "c", T - 10 * DAY, promised_at=T - 10 * DAY, delivered_at=T - 11 * DAY),
        order("2", "c", T + 10 * DAY, promised_at=T + 10 * DAY, delivered_at=T + 20 * DAY),
    ]
    row = panel_rows(source_frames(spark, (orders, [], [])))["c", T.date()]
    assert (row["total_orders"], row["late_order_ratio"], row["label"]) == (1.0, 0.0, 0.0)


# ---- the team's rule


def test_the_teams_rule_ranks_by_segment_and_then_by_silence(spark: SparkSession) -> None:
    days = POLICY.baseline.long_silence_days
    bad = POLICY.baseline.bad_review_score
    crisis, natural, loyal = "High Risk – Crisis Victim", "High Risk – Natural Churn", "Loyal / Active"
    # The riskiest first; a customer is silent after these days, not with them.
    expected = [
        ("late", days + 2, 1, None, crisis),
        ("badly reviewed", days + 1, 0, bad, crisis),
        ("quiet", days + 2, 0, None, natural),
        ("quiet and content", days + 1, 0, bad + 0.5, natural),
        ("just not silent", days, 3, 1.0, loyal),
        ("active and angry", 1, 3, 1.0, loyal),
    ]
    rows = [
        {
            "customer_id": name,
            "as_of": T.date(),
            "last_ordered_at": T - silent * DAY,
            "late_deliveries": late,
            "worst_score": worst,
        }
        for name, silent, late, worst, _ in expected
    ]
    schema = spark.createDataFrame(
        [],
        "customer_id string, as_of date, last_ordered_at timestamp, late_deliveries long, worst_score double",
    ).schema
    ranked = rows_of(with_baseline_rule(frame(spark, rows[::-1], schema), POLICY).orderBy(F.desc("risk_score")))
    assert [(row["customer_id"], row["risk_segment"]) for row in ranked] == [(row[0], row[-1]) for row in expected]
    assert all(0 <= row["risk_score"] < 1 for row in ranked)


# ---- calendar and windows


def test_the_watermark_of_the_policy_decides_how_far_labels_are_known(spark: SparkSession) -> None:
    orders = [order("opening", "calendar", T - 60 * DAY), order("closing", "calendar", T + 29 * DAY)]
    silver = frame(spark, orders, ORDERS.spark_schema)

    def last_labelled(watermark: date | None) -> date | None:
        policy = ChurnPolicy(cleaning=Cleaning(watermark=watermark))
        return as_of_calendar(silver, policy).last_labelled(policy.windows.outcome_days)

    assert last_labelled(None) == T.date()
    assert last_labelled((T + 28 * DAY).date()) is None
    assert last_labelled((T + 29 * DAY).date()) == T.date()
    with pytest.raises(WatermarkBeyondOrdersError):
        last_labelled((T + 30 * DAY).date())


def test_the_windows_are_the_policys(spark: SparkSession) -> None:
    policy = ChurnPolicy(windows=Windows(observation_days=14, outcome_days=7, eligibility_days=7))
    orders = [
        order("opening", "calendar", T - 14 * DAY),
        order("closing", "calendar", T + 7 * DAY),
        order("1", "eligible", T - 7 * DAY),
        order("2", "eligible", T - 14 * DAY),
        order("3", "eligible", T + 7 * DAY),
        order("4", "gone", T - 7 * DAY - INSTANT),
        order("5", "returns", T - 1 * DAY),
        order("6", "returns", T + 7 * DAY - INSTANT),
    ]
    rows = panel_rows(source_frames(spark, (orders, [], [])), policy=policy)
    at_t = {customer: (row["total_orders"], row["label"]) for (customer, day), row in rows.items() if day == T.date()}
    assert at_t == {"eligible": (2.0, 1.0), "returns": (1.0, 0.0)}
    assert min(day for _, day in rows) == T.date()


@pytest.mark.parametrize(("orders", "told"), [([], "No order is left"), ([order("1", "c", T)], "60 days of data")])
def test_without_a_full_window_of_data_there_is_no_panel_and_the_error_says_why(
    spark: SparkSession, orders: list[Row], told: str
) -> None:
    with pytest.raises(NoEligibleCustomersError, match=told):
        as_of_calendar(frame(spark, orders, ORDERS.spark_schema), POLICY)

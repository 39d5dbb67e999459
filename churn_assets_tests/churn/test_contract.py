"""Each rule of a table finds the fault planted for it, names the rows, and finds nothing in sound rows."""

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn import contract
from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.cleaning import RULES
from churn_assets.churn.contract import (
    NO_FUTURE_LEAKAGE,
    PANEL_RULES,
    PANEL_SCHEMA,
    REMEDIES,
    SPLIT_RULES,
    future_outcome,
    known_before,
    panel_outcomes,
    repaired_outcome,
    row_accounting,
    rule_remedies,
    source_schema_outcome,
    split_outcomes,
)
from churn_assets.churn.errors import BrokenContractError
from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel
from churn_assets.churn.labels import churn_labels
from churn_assets.churn.outcomes import MAX_KEYS, Outcome, require
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS
from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows
from churn_assets_tests.panels import FIRST, Row, cleaned, frame, rows_of, sound_row, sound_rows, source_frames

NAMES = [feature.name for feature in FEATURES]


def outcomes_of(panel: DataFrame) -> dict[str, Outcome]:
    outcomes = panel_outcomes(panel)
    assert tuple(outcome.rule for outcome in outcomes) == PANEL_RULES
    return {outcome.rule: outcome for outcome in outcomes}


def broken(outcomes: dict[str, Outcome]) -> set[str]:
    return {rule for rule, outcome in outcomes.items() if not outcome.is_passed}


def test_sound_rows_break_no_rule(spark: SparkSession) -> None:
    rows = [*sound_rows(), sound_row("c", label=None)]
    assert broken(outcomes_of(frame(spark, rows, PANEL_SCHEMA))) == set()


def test_each_planted_fault_is_found_under_its_rule_with_the_customer_and_date(spark: SparkSession) -> None:
    planted = {
        "no_nulls": [
            *(sound_row(f"null {name}", 1, **{name: None}) for name in NAMES),
            sound_row("nan rating", avg_star_rating=math.nan),
            sound_row("blank behind\u00a0"),
            {**sound_row("x"), "customer_id": None},
            {**sound_row("no date"), "as_of": None},
        ],
        "ranges": [
            sound_row("low orders", total_orders=0.0),
            sound_row("infinite orders", total_orders=math.inf),
            sound_row("negative infinite ratio", gap_ratio=-math.inf),
            sound_row("low rating", avg_star_rating=0.999),
            sound_row("high rating", avg_star_rating=5.001),
            sound_row("low index", segment_index=-2.0),
            sound_row("half crisis", crisis_exposure_index=0.5),
            sound_row("low score", rfm_score=110.0),
            sound_row("negative recency", recency_days=-1e-9),
        ],
        "one_row_per_customer_and_date": [sound_row("twice", 2), sound_row("twice", 2, total_orders=9.0)],
        "label_is_binary": [
            sound_row("half label", label=0.5),
            sound_row("other label", label=2.0),
            sound_row("nan label", label=math.nan),
        ],
    }
    rows = [*sound_rows(), *(row for of_rule in planted.values() for row in of_rule)]
    outcomes = outcomes_of(frame(spark, rows, PANEL_SCHEMA))
    assert broken(outcomes) == set(planted)
    for rule, of_rule in planted.items():
        keys = sorted(f"{row['customer_id'] or '(null)'} at {row['as_of'] or '(null)'}" for row in of_rule)
        assert outcomes[rule].keys == tuple(keys[:MAX_KEYS])
        assert outcomes[rule].observed == f"{len(of_rule)} offending rows"


def test_every_feature_has_both_ends_of_its_range_checked(spark: SparkSession) -> None:
    below = [sound_row(f"{f.name} below", **{f.name: math.nextafter(f.low, -math.inf)}) for f in FEATURES]
    above = [
        sound_row(f"{f.name} above", **{f.name: math.nextafter(f.high, math.inf) if math.isfinite(f.high) else f.high})
        for f in FEATURES
    ]
    at_bounds = [sound_row(f"{f.name} low", **{f.name: float(f.low)}) for f in FEATURES]
    at_bounds += [sound_row(f"{f.name} high", **{f.name: float(f.high)}) for f in FEATURES if math.isfinite(f.high)]
    outcomes = outcomes_of(frame(spark, [*below, *above, *at_bounds], PANEL_SCHEMA))
    assert outcomes["ranges"].observed == f"{2 * len(FEATURES)} offending rows"
    assert broken(outcomes) == {"ranges"}


def test_at_most_ten_keys_are_named_and_all_rows_counted(spark: SparkSession) -> None:
    rows = [sound_row(f"{number:02}", week, total_orders=0.0) for week in range(2) for number in range(30)]
    outcome = outcomes_of(frame(spark, rows, PANEL_SCHEMA))["ranges"]
    assert outcome.observed == "60 offending rows"
    assert outcome.keys == tuple(f"{number:02} at {FIRST + timedelta(weeks=w)}" for number in range(5) for w in (0, 1))


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ([sound_row("a"), sound_row("b", 3)], ("2024-03-11", "2024-03-18")),
        ([*sound_rows(2), sound_row("a", as_of=FIRST + timedelta(days=3))], ("2024-03-07",)),
        ([], ()),
    ],
    ids=["two weeks without rows", "not on a Monday of the calendar", "no rows at all"],
)
def test_a_date_without_rows_or_off_the_calendar_is_named(
    spark: SparkSession, rows: list[Row], missing: tuple[str, ...]
) -> None:
    outcome = outcomes_of(frame(spark, rows, PANEL_SCHEMA))["no_empty_snapshot"]
    assert not outcome.is_passed
    assert outcome.keys == missing


@pytest.mark.parametrize("value", [3.0, None, math.nan])
def test_a_feature_of_one_value_everywhere_is_a_warning_only(spark: SparkSession, value: float | None) -> None:
    rows = [{**row, "avg_star_rating": value} for row in sound_rows()]
    outcomes = outcomes_of(frame(spark, rows, PANEL_SCHEMA))
    outcome = outcomes["informative_features"]
    assert (outcome.is_passed, outcome.is_warning) == (False, True)
    assert outcome.observed.startswith("constant: avg_star_rating = ")
    if value == 3.0:
        require(list(outcomes.values()), "the panel")


def test_both_zeros_are_one_value(spark: SparkSession) -> None:
    rows = [{**row, "sentiment_velocity": 0.0 if row["customer_id"] == "a" else -0.0} for row in sound_rows()]
    by_date = [{**row, "sentiment_velocity": -0.0 if row["as_of"] == FIRST else 0.0} for row in sound_rows()]
    for panel in (frame(spark, rows, PANEL_SCHEMA).coalesce(1), frame(spark, by_date, PANEL_SCHEMA)):
        outcome = outcomes_of(panel)["informative_features"]
        assert outcome.observed == "constant: sentiment_velocity = 0.0"


def test_a_feature_that_varies_only_between_dates_is_not_constant(spark: SparkSession) -> None:
    rows = [{**sound_row(customer, week), "tenure_days": float(week)} for customer in "ab" for week in range(2)]
    assert outcomes_of(frame(spark, rows, PANEL_SCHEMA))["informative_features"].is_passed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda panel: panel.drop("gap_ratio"), "gap_ratio: missing instead of double"),
        (lambda panel: panel.drop("customer_id"), "customer_id: missing instead of string"),
        (lambda panel: panel.drop("as_of"), "as_of: missing instead of date"),
        (lambda panel: panel.drop("label"), "label: missing instead of double"),
        (lambda panel: panel.withColumn("spy", F.lit(1)), "spy: not in the catalogue"),
        (lambda panel: panel.withColumn("rfm_score", F.lit(111)), "rfm_score: int instead of double"),
        (lambda panel: panel.withColumn("rfm_score", F.lit("high")), "rfm_score: string instead of double"),
        (lambda panel: panel.withColumn("label", F.lit("yes")), "label: string instead of double"),
        (lambda panel: panel.withColumn("as_of", F.col("as_of").cast("string")), "as_of: string instead of date"),
        (lambda panel: panel.withColumn("as_of", F.col("as_of").cast("timestamp")), "as_of: timestamp instead of date"),
        (
            lambda panel: panel.withColumn("customer_id", F.crc32("customer_id")),
            "customer_id: bigint instead of string",
        ),
    ],
)
def test_a_missing_extra_or_mistyped_column_is_named_and_stops_nothing_else(
    spark: SparkSession, change: Callable[[DataFrame], DataFrame], told: str
) -> None:
    outcomes = outcomes_of(change(frame(spark, sound_rows(), PANEL_SCHEMA)))
    assert outcomes["columns_and_types"].observed == told
    assert not outcomes["columns_and_types"].is_passed


def test_without_its_keys_nothing_of_the_panel_passes(spark: SparkSession) -> None:
    outcomes = outcomes_of(frame(spark, sound_rows(), PANEL_SCHEMA).drop("customer_id"))
    assert broken(outcomes) == set(PANEL_RULES)


def test_text_in_a_feature_breaks_the_rule_about_values_too(spark: SparkSession) -> None:
    panel = frame(spark, sound_rows(), PANEL_SCHEMA).withColumn("rfm_score", F.lit("high"))
    assert {"columns_and_types", "no_nulls"} <= broken(outcomes_of(panel))


def test_all_rules_of_the_panel_come_from_one_query(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = frame(spark, sound_rows(), PANEL_SCHEMA)
    asked = []
    collect = type(panel).collect

    def counted(rows: DataFrame) -> list[Any]:
        asked.append(rows)
        return collect(rows)

    monkeypatch.setattr(type(panel), "collect", counted)
    panel_outcomes(panel)
    assert len(asked) == 1


def test_a_broken_rule_stops_publishing_with_every_rule_and_its_rows(spark: SparkSession) -> None:
    rows = [*sound_rows(), sound_row("bad", total_orders=0.0, label=7.0)]
    with pytest.raises(BrokenContractError) as error:
        require(panel_outcomes(frame(spark, rows, PANEL_SCHEMA)), "food_delivery/ml_churn_features")
    assert [problem.split(":")[0] for problem in error.value.problems] == ["ranges", "label_is_binary"]
    assert all("bad at 2024-03-04" in problem for problem in error.value.problems)
    assert "food_delivery/ml_churn_features break 2 rule(s)" in str(error.value)


# ---- no feature has seen the future


POLICY = ChurnPolicy()
AS_OF = datetime(2024, 3, 4)
INSTANT = timedelta(microseconds=1)


def panel_of(silver: DataFrame) -> DataFrame:
    calendar = as_of_calendar(silver, POLICY)
    snapshots = customer_snapshots(silver, calendar, POLICY)
    labels = churn_labels(snapshots, silver, calendar, POLICY)
    return feature_panel(snapshots, POLICY).join(labels, ["customer_id", "as_of"])


@cache
def inline_silver(spark: SparkSession) -> DataFrame:
    """Kept orders of a and b, each known to have a good meal by AS_OF; a bad one of a is reviewed after it."""

    def order(customer: str, days_before: float, reviewed_days_before: float | None, score: float | None) -> Row:
        ordered_at = AS_OF - timedelta(days=days_before)
        reviewed = None if reviewed_days_before is None else AS_OF - timedelta(days=reviewed_days_before)
        return {
            "order_id": f"{customer}{days_before}",
            "customer_id": customer,
            "ordered_at": ordered_at,
            "promised_at": ordered_at + timedelta(minutes=30),
            "delivered_at": ordered_at + timedelta(minutes=20),
            "reviewed_at": reviewed,
            "review_score": score,
            "subtotal": 10.0,
            "segment_index": 0.0,
        }

    rows = [
        order("opening", 60, None, None),
        *(order(customer, days, days - 0.5, 5.0) for customer in "ab" for days in (20, 10)),
        order("a", 1, -2, 1.0),
        order("b", -3, None, None),
        # 2024-04-05: the outcome of AS_OF is known, of the Monday after it not yet.
        order("c", -32, None, None),
    ]
    schema = spark.createDataFrame(
        [],
        "order_id string, customer_id string, ordered_at timestamp, promised_at timestamp, delivered_at timestamp, "
        "reviewed_at timestamp, review_score double, subtotal double, segment_index double",
    ).schema
    return frame(spark, rows, schema).persist()


def test_an_honest_panel_has_not_seen_the_future(spark: SparkSession) -> None:
    silver = inline_silver(spark)
    outcome = future_outcome(panel_of(silver), silver, POLICY)
    assert outcome.rule == NO_FUTURE_LEAKAGE
    assert (outcome.is_passed, outcome.is_warning, outcome.keys) == (True, False, ())
    assert outcome.observed == "0 customers at 2024-03-04 differ"


def test_the_honest_panel_of_dirty_rows_has_not_seen_the_future(spark: SparkSession) -> None:
    clean_rows = cleaned(source_frames(spark, dirty_source_rows(0)), now=dirty_now())
    silver = clean_rows.orders.withColumn("segment_index", F.lit(-1.0))
    outcome = future_outcome(panel_of(silver).persist(), silver, POLICY)
    assert outcome.is_passed, outcome.observed


def test_a_feature_that_knows_a_review_before_it_was_written_is_named_with_the_customer(spark: SparkSession) -> None:
    silver = inline_silver(spark)
    # As if reviews were dated by their orders, which is a common mistake.
    by_order = silver.withColumn("reviewed_at", F.when(F.col("reviewed_at").isNotNull(), F.col("ordered_at")))
    outcome = future_outcome(panel_of(by_order), silver, POLICY)
    assert (outcome.is_passed, outcome.is_warning) == (False, False)
    assert outcome.observed == "1 customers at 2024-03-04 differ in avg_star_rating, sentiment_velocity"
    assert outcome.keys == ("a at 2024-03-04",)
    with pytest.raises(BrokenContractError, match=r"no_future_leakage: observed 1 customers .*a at 2024-03-04"):
        require([outcome], "food_delivery/ml_churn_features")


def test_feature_code_that_looks_ahead_is_found_though_it_computes_the_same_twice(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    silver = inline_silver(spark)

    def looking_ahead(orders: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
        early = F.when(F.col("reviewed_at").isNotNull(), F.col("ordered_at"))
        return customer_snapshots(orders.withColumn("reviewed_at", early), calendar, policy)

    # The panel and the check share the faulty code, as they would if it were in `features.py`.
    monkeypatch.setattr(contract, "customer_snapshots", looking_ahead)
    calendar = as_of_calendar(silver, POLICY)
    snapshots = looking_ahead(silver, calendar, POLICY)
    labels = churn_labels(snapshots, silver, calendar, POLICY)
    panel = feature_panel(snapshots, POLICY).join(labels, ["customer_id", "as_of"])
    outcome = future_outcome(panel, silver, POLICY)
    assert not outcome.is_passed
    assert outcome.observed == "1 customers at 2024-03-04 differ in avg_star_rating, sentiment_velocity"
    assert outcome.keys == ("a at 2024-03-04",)


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_is_compared(spark: SparkSession, name: str) -> None:
    silver = inline_silver(spark)
    spoiled = panel_of(silver).withColumn(name, F.when(F.col("customer_id") == "b", 77.0).otherwise(F.col(name)))
    outcome = future_outcome(spoiled, silver, POLICY)
    assert outcome.observed == f"1 customers at 2024-03-04 differ in {name}"
    assert outcome.keys == ("b at 2024-03-04",)


def test_a_customer_eligible_only_by_later_orders_and_one_left_out_are_named(spark: SparkSession) -> None:
    silver = inline_silver(spark)
    panel = panel_of(silver)
    later = panel.where("customer_id = 'b'").withColumn("customer_id", F.lit("c"))
    both = panel.where("customer_id <> 'a'").unionByName(later.where(F.col("as_of") == F.lit(AS_OF.date())))
    outcome = future_outcome(both, silver, POLICY)
    assert outcome.observed.startswith("2 customers at 2024-03-04 differ in ")
    assert outcome.keys == ("a at 2024-03-04", "c at 2024-03-04")


def test_only_the_latest_labelled_date_is_compared_and_without_labels_the_latest(spark: SparkSession) -> None:
    silver = inline_silver(spark)
    panel = panel_of(silver)
    assert panel.where(F.col("as_of") > F.lit(AS_OF.date())).count() > 0
    at_another = F.when(F.col("as_of") > F.lit(AS_OF.date()), 77.0).otherwise(F.col("gap_ratio"))
    assert future_outcome(panel.withColumn("gap_ratio", at_another), silver, POLICY).is_passed
    unlabelled = panel.withColumn("gap_ratio", at_another).withColumn("label", F.lit(None).cast("double"))
    latest = panel.agg(F.max("as_of")).collect()[0][0]
    outcome = future_outcome(unlabelled, silver, POLICY)
    assert not outcome.is_passed
    assert f"at {latest} differ in gap_ratio" in outcome.observed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda panel: panel.drop("gap_ratio"), "not evaluable: columns are missing"),
        (lambda panel: panel.drop("label"), "not evaluable: columns are missing"),
        (lambda panel: panel.where("false"), "no rows at all"),
    ],
)
def test_what_cannot_be_compared_with_the_past_is_no_pass(
    spark: SparkSession, change: Callable[[DataFrame], DataFrame], told: str
) -> None:
    silver = inline_silver(spark)
    outcome = future_outcome(change(panel_of(silver)), silver, POLICY)
    assert (outcome.is_passed, outcome.is_warning, outcome.observed) == (False, False, told)


def test_what_is_known_before_a_day_ends_at_its_midnight_by_each_events_own_clock(spark: SparkSession) -> None:
    before = AS_OF - INSTANT

    def order(name: str, ordered_at: datetime, delivered_at: datetime | None, reviewed_at: datetime | None) -> Row:
        return {
            "order_id": name,
            "customer_id": "a",
            "ordered_at": ordered_at,
            "promised_at": AS_OF + timedelta(days=1),
            "delivered_at": delivered_at,
            "reviewed_at": reviewed_at,
            "review_score": None if reviewed_at is None else 4.0,
        }

    rows = [
        order("known", before, before, before),
        order("under way", before, AS_OF, AS_OF),
        order("not reviewed yet", before, before, AS_OF),
        order("never delivered", before, None, None),
        order("later", AS_OF, AS_OF, AS_OF),
    ]
    schema = inline_silver(spark).drop("subtotal", "segment_index").schema
    silver = frame(spark, rows, schema)
    known = known_before(silver, AS_OF.date())
    assert known.schema == silver.schema
    found = {row.pop("order_id"): row for row in rows_of(known)}
    assert found.keys() == {"known", "under way", "not reviewed yet", "never delivered"}
    # A promise is made with the order, whenever it is for.
    assert {row["promised_at"] for row in found.values()} == {AS_OF + timedelta(days=1)}
    later_columns = ("delivered_at", "reviewed_at", "review_score")
    assert {name: tuple(row[column] for column in later_columns) for name, row in found.items()} == {
        "known": (before, before, 4.0),
        "under way": (None, None, None),
        "not reviewed yet": (before, None, None),
        "never delivered": (None, None, None),
    }


# ---- splits


SPLIT_SCHEMA = "customer_id string, as_of date"
TEST_DATE = FIRST + timedelta(days=30)


def split_frames(
    spark: SparkSession,
    *,
    train: list[tuple[str, date]] | None = None,
    test: list[tuple[str, date]] | None = None,
    customers: int = 100,
) -> dict[str, Outcome]:
    everybody = [f"c-{number:03}" for number in range(customers)]
    panel = [(name, day) for name in everybody for day in (FIRST, TEST_DATE)]
    train = [(name, FIRST) for name in everybody[20:]] if train is None else train
    test = [(name, TEST_DATE) for name in everybody[:20]] if test is None else test
    train_rows, test_rows, panel_rows = (spark.createDataFrame(rows, SPLIT_SCHEMA) for rows in (train, test, panel))
    outcomes = split_outcomes(train_rows, test_rows, panel_rows, outcome_days=30)
    assert tuple(outcome.rule for outcome in outcomes) == SPLIT_RULES
    return {outcome.rule: outcome for outcome in outcomes}


def test_a_fair_split_breaks_no_rule(spark: SparkSession) -> None:
    assert broken(split_frames(spark)) == set()


def test_a_customer_on_both_sides_breaks_the_split_and_is_named(spark: SparkSession) -> None:
    outcomes = split_frames(spark, train=[(f"c-{number:03}", FIRST) for number in range(18, 100)])
    assert broken(outcomes) == {"disjoint_customers"}
    assert outcomes["disjoint_customers"].keys == ("c-018", "c-019")
    outcomes = split_frames(spark, train=[(f"c-{number:03}", FIRST) for number in range(100)])
    assert len(outcomes["disjoint_customers"].keys) == MAX_KEYS


@pytest.mark.parametrize("days_before", [29, 1, 0])
def test_a_training_outcome_unknown_at_the_test_date_breaks_the_split(spark: SparkSession, days_before: int) -> None:
    late = TEST_DATE - timedelta(days=days_before)
    train = [("c-050", FIRST), ("c-051", late)]
    outcome = split_frames(spark, train=train)["test_after_train_outcomes"]
    assert (outcome.is_passed, outcome.is_warning) == (False, False)


def test_a_split_of_a_single_date_is_a_warning_that_says_so(spark: SparkSession) -> None:
    outcome = split_frames(spark, train=[("c-050", TEST_DATE)])["test_after_train_outcomes"]
    assert (outcome.is_passed, outcome.is_warning) == (False, True)
    assert "only one date" in outcome.observed


@pytest.mark.parametrize(("test_customers", "is_near"), [(4, True), (36, True), (3, False), (37, False), (100, False)])
def test_a_test_share_that_chance_does_not_explain_breaks_the_split(
    spark: SparkSession, test_customers: int, is_near: bool
) -> None:
    # Of 100 customers a fair hash takes 20, give or take four standard deviations of 4.
    test = [(f"c-{number:03}", TEST_DATE) for number in range(test_customers)]
    outcome = split_frames(spark, train=[("another", FIRST)], test=test)["test_share"]
    assert outcome.is_passed is is_near


@pytest.mark.parametrize(("train", "test"), [([], None), (None, [])], ids=["train", "test"])
def test_an_empty_side_breaks_every_rule_of_the_split(
    spark: SparkSession, train: list[tuple[str, date]] | None, test: list[tuple[str, date]] | None
) -> None:
    assert broken(split_frames(spark, train=train, test=test)) == set(SPLIT_RULES)


# ---- accounting and source schemas


SET_ASIDE = {
    ("orders", "quarantined"): 2,
    ("orders", "cancelled"): 1,
    ("orders", "repaired"): 2,
    ("reviews", "quarantined"): 1,
}


def test_rows_in_that_are_kept_cancelled_or_quarantined_are_accounted_for() -> None:
    rows_in = {"orders": 100, "reviews": 50, "customers": 0}
    outcomes = row_accounting(rows_in, {"orders": 97, "reviews": 49, "customers": 0}, SET_ASIDE, 0.02)
    assert [outcome.rule for outcome in outcomes] == [
        "orders_accounted_for",
        "reviews_accounted_for",
        "customers_accounted_for",
        "quarantined_share",
    ]
    assert all(outcome.is_passed for outcome in outcomes)
    assert outcomes[0].observed == "100 in; 97 kept + 1 cancelled + 0 superseded + 2 quarantined = 100"


def test_a_superseded_row_is_accounted_for_and_is_no_quarantine() -> None:
    outcomes = row_accounting({"orders": 100}, {"orders": 40}, {("orders", "superseded"): 60}, 0.01)
    assert all(outcome.is_passed for outcome in outcomes)
    assert "40 kept + 0 cancelled + 60 superseded" in outcomes[0].observed


@pytest.mark.parametrize("kept", [96, 98])
def test_a_row_lost_or_counted_twice_is_found(kept: int) -> None:
    rows_in = {"orders": 100, "reviews": 50}
    orders, reviews, _ = row_accounting(rows_in, {"orders": kept, "reviews": 49}, SET_ASIDE, 0.05)
    assert not orders.is_passed
    assert not orders.is_warning
    assert reviews.is_passed


def test_too_many_quarantined_rows_of_any_one_table_are_a_warning() -> None:
    rows_in, kept = {"orders": 10_003, "reviews": 10}, {"orders": 10_000, "reviews": 9}
    share = row_accounting(rows_in, kept, SET_ASIDE, 0.09)[-1]
    assert (share.is_passed, share.is_warning) == (False, True)
    assert share.observed == "orders 0.02%, reviews 10.00%"
    assert row_accounting(rows_in, kept, SET_ASIDE, 0.10)[-1].is_passed


def test_a_landed_table_that_cleaning_cannot_use_is_told_with_every_column() -> None:
    outcome = source_schema_outcome(ORDERS, T.StructType([T.StructField("subtotal", T.DateType())]))
    assert not outcome.is_passed
    for told in ("order_id", "customer_id", "ordered_at", "subtotal: found date, needs double"):
        assert told in outcome.observed
    assert source_schema_outcome(CUSTOMERS, CUSTOMERS.spark_schema).is_passed


# ---- rules that do not fit


def test_a_rule_that_takes_most_delivery_times_says_what_to_change() -> None:
    rows_in = {"orders": 35_670, "reviews": 10}
    by_rule = {("orders", "repaired", "delivery_too_late"): 32_913, ("orders", "repaired", "delivery_before_order"): 3}
    outcome = repaired_outcome(rows_in, by_rule, POLICY)
    assert (outcome.is_passed, outcome.is_warning) == (False, True)
    assert outcome.observed == (
        "delivery_too_late: 32,913 of 35,670 orders (92.27%): raise cleaning.max_delivery_hours (24) if the shop takes "
        "longer"
    )
    few = repaired_outcome(rows_in, {("orders", "repaired", "delivery_too_late"): 1_783}, POLICY)
    assert (few.is_passed, few.observed) == (True, "1,783 delivery times set aside")
    assert not repaired_outcome(rows_in, {("orders", "repaired", "delivery_too_late"): 1_784}, POLICY).is_passed


def test_each_rule_has_a_remedy_where_it_touches_too_many() -> None:
    # What is cancelled, or superseded by a later state, is meant to be.
    assert REMEDIES.keys() == RULES.keys() - {"cancelled", "superseded"}
    by_rule = {("reviews", "quarantined", "unknown_order"): 6, ("reviews", "cancelled", "cancelled"): 94}
    (line,) = rule_remedies({"reviews": 100}, by_rule, "quarantined", POLICY).values()
    assert line.startswith("unknown_order: 6 of 100 reviews (6.00%): look at the mapping of order_id in both tables")

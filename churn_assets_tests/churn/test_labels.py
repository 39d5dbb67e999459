"""Who left, by each definition: exact at both ends of the outcome window, unknown until it is over."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.features import as_of_calendar, customer_snapshots
from churn_assets.churn.labels import candidates, churn_labels, definition, label, setting, with_outcomes
from churn_assets.churn.policy import Churn, ChurnPolicy, Windows
from churn_assets_tests import reference
from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows
from churn_assets_tests.panels import Key, by_key, cleaned, frame, source_frames

# A Monday.
T = datetime(2024, 3, 4)
INSTANT = timedelta(microseconds=1)
SEEN = "customer_id string, as_of date, total_orders double, median_gap_days double"
DEFINITIONS = ("inactivity", "rate_drop", "long_gap")


def policy(definition: str = "inactivity", days: int = 30, **churn: float) -> ChurnPolicy:
    rules = Churn.model_validate({"definition": definition, **churn})
    return ChurnPolicy(churn=rules, windows=Windows(outcome_days=days))


def after(**later: float) -> datetime:
    return T + timedelta(**later)


def labels_at_t(
    spark: SparkSession,
    customers: Mapping[str, Sequence[datetime]],
    rules: ChurnPolicy,
    *,
    orders: float = 4.0,
    gap_days: float | Mapping[str, float | None] | None = 4.0,
    watermark: date | None = None,
) -> dict[str, float | None]:
    """The label at T of customers who ordered at these times.

    orders: how many each had in the observation window. gap_days: the median gap of all, or of each.
    """
    gaps = gap_days if isinstance(gap_days, Mapping) else dict.fromkeys(customers, gap_days)
    snapshots = spark.createDataFrame([(name, T.date(), orders, gaps[name]) for name in customers], SEEN)
    silver_rows: list[dict[str, Any]] = [
        {"customer_id": name, "ordered_at": moment} for name, moments in customers.items() for moment in moments
    ]
    schema = spark.createDataFrame([], "customer_id string, ordered_at timestamp").schema
    last_day = T.date() + timedelta(days=rules.windows.outcome_days - 1)
    calendar = AsOfCalendar(T.date(), T.date(), watermark or last_day)
    found = churn_labels(snapshots, frame(spark, silver_rows, schema), calendar, rules)
    assert found.columns == ["customer_id", "as_of", "label"]
    return {customer: row["label"] for (customer, _), row in by_key(found).items()}


@pytest.mark.parametrize("days", [7, 30])
def test_an_order_keeps_from_inactivity_from_t_to_just_before_the_window_ends(spark: SparkSession, days: int) -> None:
    times = {
        "before t": [T - INSTANT],
        "at t": [T],
        "last instant": [after(days=days) - INSTANT],
        "too late": [after(days=days)],
        "never": [],
    }
    assert labels_at_t(spark, times, policy(days=days)) == {
        "before t": 1.0,
        "at t": 0.0,
        "last instant": 0.0,
        "too late": 1.0,
        "never": 1.0,
    }


@pytest.mark.parametrize(
    ("orders", "share", "enough"),
    [
        # A usual 4 in 30 days: half of them is no drop, one less is.
        (8.0, 0.5, 2),
        # Half of a usual 4.5 is 2.25: two are a drop.
        (9.0, 0.5, 3),
        (8.0, 0.75, 3),
        (1.0, 0.5, 1),
    ],
)
def test_the_rate_has_dropped_below_the_share_of_the_customers_own(
    spark: SparkSession, orders: float, share: float, enough: int
) -> None:
    within = [T, after(days=30) - INSTANT, after(days=9), after(days=8)]
    outside = [T - INSTANT, after(days=30), after(days=31)]
    times = {"enough": [*within[:enough], *outside], "one too few": [*within[: enough - 1], *outside]}
    found = labels_at_t(spark, times, policy("rate_drop", rate_drop_share=share), orders=orders)
    assert found == {"enough": 0.0, "one too few": 1.0}


@pytest.mark.parametrize(
    ("gap_days", "multiple", "silent_days"),
    [
        (4.0, 3.0, 12.0),
        (2.5, 3.0, 7.5),
        (4.0, 1.5, 6.0),
        # No gap counts as less than a day, and no silence as more than the outcome window.
        (0.25, 3.0, 3.0),
        (20.0, 3.0, 30.0),
        # Nobody has a gap: silence is judged by the outcome window.
        (None, 3.0, 30.0),
        (None, 0.5, 15.0),
    ],
)
def test_a_gap_is_long_by_the_customers_own_measure(
    spark: SparkSession, gap_days: float | None, multiple: float, silent_days: float
) -> None:
    times = {
        "before t": [T - INSTANT],
        "at t": [T],
        "just in time": [after(days=silent_days) - INSTANT],
        "just too late": [after(days=silent_days)],
        "never": [],
    }
    assert labels_at_t(spark, times, policy("long_gap", gap_multiple=multiple), gap_days=gap_days) == {
        "before t": 1.0,
        "at t": 0.0,
        "just in time": 0.0,
        "just too late": 1.0,
        "never": 1.0,
    }


def test_a_customer_without_a_gap_is_measured_by_the_snapshots_median_gap(spark: SparkSession) -> None:
    gaps = {"short": 1.0, "middle": 4.0, "long": 9.0, "new": None, "new too": None}
    times = {name: [after(days=12) - INSTANT] for name in gaps} | {"new too": [after(days=12)]}
    found = labels_at_t(spark, times, policy("long_gap"), gap_days=gaps)
    assert found == {"short": 1.0, "middle": 0.0, "long": 0.0, "new": 0.0, "new too": 1.0}


@pytest.mark.parametrize("by", DEFINITIONS)
def test_no_label_is_known_before_the_last_day_of_the_window_is_complete(spark: SparkSession, by: str) -> None:
    times = {"stays": [T, after(days=1), after(days=2)], "leaves": []}
    last_day = T.date() + timedelta(days=29)
    assert labels_at_t(spark, times, policy(by), watermark=last_day) == {"stays": 0.0, "leaves": 1.0}
    early = labels_at_t(spark, times, policy(by), watermark=last_day - timedelta(days=1))
    assert early == {"stays": None, "leaves": None}


# ---- candidates


@pytest.mark.parametrize(
    "rules",
    [ChurnPolicy(), policy(days=21), policy(days=7), policy("rate_drop"), policy("long_gap", 45, gap_multiple=2.0)],
    ids=lambda rules: f"{rules.churn.definition} {rules.windows.outcome_days}",
)
def test_the_candidates_hold_the_policy_itself_exactly_once_and_differ_in_the_definition_alone(
    rules: ChurnPolicy,
) -> None:
    found = candidates(rules)
    assert Counter(candidate.digest for candidate in found)[rules.digest] == 1
    assert len({candidate.digest for candidate in found}) == len(found)
    assert sum(candidate == rules for candidate in found) == 1
    days = {candidate.windows.outcome_days for candidate in found if candidate.churn.definition == "inactivity"}
    assert days == {7, 14, 30, 45, 60, rules.windows.outcome_days}
    assert {candidate.churn.definition for candidate in found} == set(DEFINITIONS)
    for candidate in found:
        as_the_policy = {"definition": rules.churn.definition}
        windows = candidate.windows.model_copy(update={"outcome_days": rules.windows.outcome_days})
        churn = candidate.churn.model_copy(update=as_the_policy)
        assert candidate.model_copy(update={"windows": windows, "churn": churn}) == rules


def test_a_definition_is_told_in_words_and_as_what_to_write() -> None:
    words = {by: definition(policy(by, 14, rate_drop_share=0.4, gap_multiple=2.5)) for by in DEFINITIONS}
    assert words == {
        "inactivity": "no order for 14 days",
        "rate_drop": "orders of 14 days below 40% of the customer's own rate",
        "long_gap": "silent for 2.5 times the customer's own median gap, 14 days at most",
    }
    assert setting(policy("rate_drop", 14)) == 'churn.definition = "rate_drop", windows.outcome_days = 14'


# ---- dirty rows, by every definition


DIRTY_DAYS = 150


@pytest.fixture(scope="module")
def kept() -> reference.Cleaned:
    return reference.clean(*dirty_source_rows(0, days=DIRTY_DAYS), now=dirty_now(DIRTY_DAYS))


@pytest.fixture(scope="module")
def dirty(spark: SparkSession) -> tuple[DataFrame, DataFrame, AsOfCalendar]:
    """Snapshots, silver orders and calendar of the dirty rows, as Spark cleans them."""
    clean_rows = cleaned(source_frames(spark, dirty_source_rows(0, days=DIRTY_DAYS)), now=dirty_now(DIRTY_DAYS))
    # Where a customer lives matters to no label.
    silver = clean_rows.orders.selectExpr("*", "cast(-1 as double) as segment_index").persist()
    calendar = as_of_calendar(silver, ChurnPolicy())
    return customer_snapshots(silver, calendar, ChurnPolicy()).persist(), silver, calendar


def spark_labels(dirty: tuple[DataFrame, DataFrame, AsOfCalendar], rules: ChurnPolicy) -> dict[Key, float | None]:
    snapshots, silver, calendar = dirty
    found = by_key(churn_labels(snapshots, silver, calendar, rules))
    return {key: row["label"] for key, row in found.items()}


def plain_labels(kept: reference.Cleaned, rules: ChurnPolicy) -> dict[Key, float | None]:
    return reference.labels(
        kept,
        definition=rules.churn.definition,
        outcome_days=rules.windows.outcome_days,
        rate_drop_share=rules.churn.rate_drop_share,
        gap_multiple=rules.churn.gap_multiple,
    )


@pytest.mark.parametrize(
    "rules",
    [
        policy(),
        policy("rate_drop"),
        policy("rate_drop", 14, rate_drop_share=0.75),
        policy("long_gap"),
        policy("long_gap", 14, gap_multiple=1.5),
    ],
    ids=definition,
)
def test_the_labels_of_dirty_rows_are_the_references_by_every_definition(
    dirty: tuple[DataFrame, DataFrame, AsOfCalendar], kept: reference.Cleaned, rules: ChurnPolicy
) -> None:
    computed = spark_labels(dirty, rules)
    assert set(computed.values()) == {0.0, 1.0, None}
    assert computed == plain_labels(kept, rules)


def test_the_definition_really_changes_who_is_a_churner(dirty: tuple[DataFrame, DataFrame, AsOfCalendar]) -> None:
    by = {name: spark_labels(dirty, policy(name)) for name in DEFINITIONS}
    for one, other in (("inactivity", "rate_drop"), ("inactivity", "long_gap"), ("rate_drop", "long_gap")):
        assert sum(by[one][key] != by[other][key] for key in by[one]) > 10, (one, other)
    # Whoever orders nothing at all has also dropped below any rate and is silent for long.
    left = [key for key, value in by["inactivity"].items() if value == 1.0]
    assert left
    assert {by[name][key] for name in DEFINITIONS for key in left} == {1.0}


def test_in_one_pass_every_candidate_gets_the_label_it_would_get_alone(
    dirty: tuple[DataFrame, DataFrame, AsOfCalendar],
) -> None:
    snapshots, silver, calendar = dirty
    rules = policy(days=21)
    compared = candidates(rules)
    outcomes = with_outcomes(snapshots, silver, calendar, 60, rules)
    columns = [label(calendar, candidate).alias(str(number)) for number, candidate in enumerate(compared)]
    together = by_key(outcomes.select("customer_id", "as_of", *columns))
    for number, candidate in enumerate(compared):
        alone = spark_labels(dirty, candidate)
        assert {key: row[str(number)] for key, row in together.items()} == alone, definition(candidate)
        assert {0.0, None} <= set(alone.values())


def test_an_order_at_the_very_end_of_a_window_shorter_than_what_was_looked_at_is_outside_it(
    spark: SparkSession,
) -> None:
    snapshots = spark.createDataFrame([("late", T.date(), 4.0, 2.0), ("just", T.date(), 4.0, 2.0)], SEEN)
    schema = spark.createDataFrame([], "customer_id string, ordered_at timestamp").schema
    rows = [
        {"customer_id": "late", "ordered_at": after(days=7)},
        {"customer_id": "just", "ordered_at": after(days=7) - INSTANT},
    ]
    calendar = AsOfCalendar(T.date(), T.date(), after(days=90).date())
    week = policy(days=7)
    outcomes = with_outcomes(snapshots, frame(spark, rows, schema), calendar, 60, week)
    found = by_key(outcomes.select("customer_id", "as_of", label(calendar, week).alias("label")))
    assert {customer: row["label"] for (customer, _), row in found.items()} == {"late": 1.0, "just": 0.0}

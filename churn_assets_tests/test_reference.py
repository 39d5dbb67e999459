"""The reference itself, on cases small enough to compute by hand, and on one panel of real data computed elsewhere."""

import math
from collections import Counter
from collections.abc import Hashable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows
from churn_assets_tests.reference import (
    CUSTOMER_COLUMNS,
    ORDER_COLUMNS,
    PANEL_COLUMNS,
    REVIEW_COLUMNS,
    CalendarRules,
    Cleaned,
    Row,
    as_of_dates,
    clean,
    labels,
    panel,
    segment_numbers,
    watermark,
)

NOW = datetime(2024, 6, 1)
INSTANT = timedelta(microseconds=1)
# The first order at 2024-01-04 makes this Monday the first as-of date.
T = datetime(2024, 3, 4)


def order(order_id: str | None, customer_id: str | None, ordered_at: datetime | None, **others: Any) -> Row:
    return {"order_id": order_id, "customer_id": customer_id, "ordered_at": ordered_at, "subtotal": 10.0, **others}


def review(order_id: str | None, reviewed_at: datetime | None, review_score: float | None) -> Row:
    return {"order_id": order_id, "reviewed_at": reviewed_at, "review_score": review_score}


def before_t(**ago: float) -> datetime:
    return T - timedelta(**ago)


def rules(cleaned: Cleaned) -> list[tuple[str, str, str]]:
    return [aside[:3] for aside in cleaned.set_aside]


def features_at_t(
    orders: list[Row], reviews: list[Row] | None = None, customers: list[Row] | None = None, **options: Any
) -> dict[str, dict[str, float | None]]:
    """customer_id -> features at T, where one more customer, not eligible at T, makes T an as-of date."""
    calendar = [order("opening", "calendar", before_t(days=60)), order("closing", "calendar", T)]
    rows = panel(clean([*calendar, *orders], reviews, customers, now=NOW), **options)
    return {customer: features for (customer, day), features in rows.items() if day == T.date()}


# ---- cleaning


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (order(None, "a", T), "null_key"),
        (order("1", " \u00a0\t", T), "null_key"),
        (order("1", "a", None), "impossible_time"),
        (order("1", "a", datetime(1970, 1, 1) - INSTANT), "impossible_time"),
        (order("1", "a", NOW + INSTANT), "impossible_time"),
        (order("1", "a", T, subtotal=None), "negative_subtotal"),
        (order("1", "a", T, subtotal=-0.01), "negative_subtotal"),
        (order("1", "a", T, subtotal=math.nan), "negative_subtotal"),
        (order("1", "a", T, subtotal=math.inf), "negative_subtotal"),
        (order("", "a", NOW + INSTANT, subtotal=-1.0), "null_key"),
        (order("1", "a", NOW + INSTANT, is_cancelled=True), "impossible_time"),
    ],
)
def test_a_faulty_order_is_quarantined_whole_under_the_first_rule_it_breaks(row: Row, rule: str) -> None:
    cleaned = clean([row], now=NOW)
    assert cleaned.orders == []
    assert cleaned.set_aside == [("orders", "quarantined", rule, row)]


@pytest.mark.parametrize(
    "row",
    [
        order("1", "a", NOW),
        order("1", "a", datetime(1970, 1, 1)),
        order("1", "a", T, subtotal=0.0),
        order(" 1 ", "a", T, is_cancelled=None),
    ],
)
def test_an_order_on_the_border_of_a_rule_is_kept_with_absent_columns_null(row: Row) -> None:
    cleaned = clean([row], now=NOW)
    assert cleaned.orders == [{**dict.fromkeys(ORDER_COLUMNS), **row, "order_id": "1", "is_cancelled": False}]
    assert cleaned.set_aside == []


@pytest.mark.parametrize(
    ("stays", "goes", "rule"),
    [
        (order("1", "b", T), order("1", "a", T + INSTANT), "duplicate_key"),
        (order("1", "a", T, subtotal=9.0), order("1", "b", T, subtotal=1.0), "duplicate_key"),
        (order("1", "a", T, subtotal=9.0), order("1 ", "a", T, subtotal=10.0), "superseded"),
        (order("1", "a", T, subtotal=9.0), order("1", "a", T, subtotal=math.nan), "superseded"),
        (order("1", "a", T, subtotal=9.0), order("1", "a", T, subtotal=None), "superseded"),
        (order("1", "a", T, promised_at=T), order("1", "a", T, promised_at=None), "superseded"),
        (order("1", "a", T, delivered_at=T, subtotal=9.0), order("1", "a", T, promised_at=T), "superseded"),
        (
            order("1", "a", T, updated_at=T + INSTANT, subtotal=9.0),
            order("1", "a", T, updated_at=T, delivered_at=T),
            "superseded",
        ),
        (order("1", "a", T, updated_at=T, subtotal=9.0), order("1", "a", T, delivered_at=T), "superseded"),
    ],
)
def test_of_the_rows_of_an_order_the_earliest_stays_and_of_its_states_the_latest_or_the_most_complete(
    stays: Row, goes: Row, rule: str
) -> None:
    for rows in ([stays, goes], [goes, stays]):
        cleaned = clean(rows, now=NOW)
        assert [kept["subtotal"] for kept in cleaned.orders] == [stays["subtotal"]]
        disposition = "superseded" if rule == "superseded" else "quarantined"
        assert cleaned.set_aside == [("orders", disposition, rule, goes)]


def test_a_cancellation_is_a_later_state_than_none_and_a_delivery_is_more_complete_than_that() -> None:
    placed = order("1", "a", T)
    cancelled, delivered = {**placed, "is_cancelled": True}, {**placed, "delivered_at": T}
    assert clean([placed, cancelled], now=NOW).orders == []
    assert len(clean([placed, cancelled, delivered], now=NOW).orders) == 1


def test_a_customer_beyond_the_pace_is_set_aside_whole_and_states_are_no_orders() -> None:
    def placed(customer: str, number: int) -> list[Row]:
        return [order(f"{customer}{place}", customer, T + place * INSTANT) for place in range(number)]

    again = [{**row, "subtotal": 11.0} for row in placed("busy", 24)]
    house = [*placed("house", 25), order("old", "house", T - timedelta(days=9), is_cancelled=True)]
    reviews = [review("old", T, 9.0), review("busy1", T + INSTANT, 3.0)]
    people = [{"customer_id": "house", "segment": "x"}]
    cleaned = clean([*placed("busy", 24), *again, *house], reviews, people, now=NOW)
    assert {row["customer_id"] for row in cleaned.orders} == {"busy"}
    assert [row["order_id"] for row in cleaned.reviews] == ["busy1"]
    assert Counter(rules(cleaned)) == {
        ("orders", "superseded", "superseded"): 24,
        ("orders", "quarantined", "impossible_pace"): 26,
        ("reviews", "quarantined", "impossible_pace"): 1,
        ("customers", "quarantined", "impossible_pace"): 1,
    }
    assert len(clean(house, now=NOW, max_orders_per_day=25).orders) == 25


def test_a_copy_with_a_broken_key_or_time_does_not_compete_but_one_with_a_bad_value_does() -> None:
    cleaned = clean(
        [
            order("1", "a", T),
            order("1", None, T - INSTANT),
            order("1", "a", None),
            order("2", "a", T),
            order("2", "a", T - INSTANT, subtotal=-1.0),
        ],
        now=NOW,
    )
    assert [kept["order_id"] for kept in cleaned.orders] == ["1"]
    assert Counter(rule for _, _, rule in rules(cleaned)) == {
        "null_key": 1,
        "impossible_time": 1,
        "duplicate_key": 1,
        "negative_subtotal": 1,
    }


def test_cancelled_is_decided_before_the_values_and_takes_the_review_with_it() -> None:
    cleaned = clean(
        [order("1", "a", T, subtotal=-1.0, is_cancelled=True)],
        [review("1", T, 9.0), review("1", T + INSTANT, 4.0)],
        now=NOW,
    )
    assert (cleaned.orders, cleaned.reviews) == ([], [])
    assert rules(cleaned) == [
        ("orders", "cancelled", "cancelled"),
        ("reviews", "superseded", "superseded"),
        ("reviews", "cancelled", "cancelled"),
    ]


@pytest.mark.parametrize(
    ("delivered_at", "rule"),
    [
        (T - INSTANT, "delivery_before_order"),
        (T, None),
        (T + timedelta(hours=24), None),
        (T + timedelta(hours=24) + INSTANT, "delivery_too_late"),
    ],
)
def test_an_impossible_delivery_becomes_null_and_the_order_stays(delivered_at: datetime, rule: str | None) -> None:
    row = order("1", "a", T, delivered_at=delivered_at)
    cleaned = clean([row], now=NOW)
    assert [kept["delivered_at"] for kept in cleaned.orders] == [None if rule else delivered_at]
    assert cleaned.set_aside == ([("orders", "repaired", rule, row)] if rule else [])


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (review("  ", T, 3.0), "null_key"),
        (review("1", None, 3.0), "impossible_time"),
        (review("1", NOW + INSTANT, 3.0), "impossible_time"),
        (review("1", T, None), "score_out_of_range"),
        (review("1", T, math.nan), "score_out_of_range"),
        (review("1", T, 0.99), "score_out_of_range"),
        (review("unheard of", T, 5.01), "score_out_of_range"),
        (review("unheard of", T, 5.0), "unknown_order"),
        (review("negative", T, 5.0), "unknown_order"),
        (review("1", T - INSTANT, 5.0), "reviewed_before_order"),
        (review("1", datetime(1970, 1, 1), 5.0), "reviewed_before_order"),
        (review("1", T, 1.0), None),
    ],
)
def test_a_faulty_review_is_quarantined_under_the_first_rule_it_breaks(row: Row, rule: str) -> None:
    cleaned = clean([order("1", "a", T), order("negative", "a", T, subtotal=-1.0)], [row], now=NOW)
    assert len(cleaned.reviews) == (rule is None)
    assert [aside for aside in cleaned.set_aside if aside[0] == "reviews"] == (
        [("reviews", "quarantined", rule, row)] if rule else []
    )


def test_a_customer_has_one_segment_and_a_known_one_beats_none() -> None:
    cleaned = clean(
        [],
        None,
        [
            {"customer_id": "a", "segment": " "},
            {"customer_id": " a", "segment": "Office"},
            {"customer_id": "b"},
            {"customer_id": "", "segment": "Office"},
            {"customer_id": "c", "segment": "Office", "updated_at": T},
            {"customer_id": "c", "segment": "Student", "updated_at": T + INSTANT},
            {"customer_id": "c", "segment": "Family"},
        ],
        now=NOW,
    )
    assert {row["customer_id"]: row["segment"] for row in cleaned.customers} == {
        "a": "Office",
        "b": None,
        "c": "Student",
    }
    assert Counter(rules(cleaned)) == {
        ("customers", "superseded", "superseded"): 3,
        ("customers", "quarantined", "null_key"): 1,
    }
    with pytest.raises(ValueError, match="nothing says which is later"):
        clean([], None, [{"customer_id": "a", "segment": name} for name in "xy"], now=NOW)


# ---- calendar and segments


def test_the_first_as_of_date_counts_the_day_of_the_first_order_and_the_last_the_day_after_the_watermark() -> None:
    # 2024-01-04 is 60 days before Monday 2024-03-04; 2024-03-17 is a Sunday.
    kept = [order("1", "a", datetime(2024, 1, 4, 23, 59)), order("2", "a", datetime(2024, 3, 17, 0, 1))]
    assert watermark(kept) == date(2024, 3, 17)
    assert as_of_dates(kept) == [date(2024, 3, 4), date(2024, 3, 11), date(2024, 3, 18)]
    assert as_of_dates([kept[0], order("2", "a", datetime(2024, 3, 16, 23, 59))])[-1] == date(2024, 3, 11)


def test_there_is_no_as_of_date_without_a_full_window_or_without_orders() -> None:
    assert as_of_dates([order("1", "a", T), order("2", "a", T + timedelta(days=58))]) == []
    assert as_of_dates([]) == []


def test_segments_are_numbered_by_frequency_then_name_and_never_renumbered() -> None:
    kept = [{"customer_id": str(n), "segment": s} for n, s in enumerate(["b", "a", "c", "c", None, None, None])]
    assert segment_numbers(kept) == {"c": 0, "a": 1, "b": 2}
    assert segment_numbers(kept, {"gone": 7, "b": 0}) == {"gone": 7, "b": 0, "c": 8, "a": 9}


# ---- panel


def test_the_observation_window_holds_its_start_and_not_its_end() -> None:
    features = features_at_t(
        [
            order("a1", "a", before_t(days=60)),
            order("a2", "a", before_t(days=10)),
            order("b1", "b", before_t(days=60) - INSTANT),
            order("b2", "b", before_t(days=10)),
            order("c1", "c", T),
            order("c2", "c", before_t(days=10)),
        ]
    )
    assert {customer: row["total_orders"] for customer, row in features.items()} == {"a": 2.0, "b": 1.0, "c": 1.0}


def test_eligible_is_who_ordered_in_the_last_thirty_days() -> None:
    features = features_at_t(
        [
            order("in", "in", before_t(days=30)),
            order("out", "out", before_t(days=30) - INSTANT),
            order("not yet", "not yet", T),
        ]
    )
    assert features.keys() == {"in"}


def test_the_label_looks_at_thirty_days_and_is_null_until_they_are_over() -> None:
    orders = [
        order("stays1", "stays", before_t(days=5)),
        order("stays2", "stays", T + timedelta(days=30) - INSTANT),
        order("midnight1", "midnight", before_t(days=5)),
        order("midnight2", "midnight", T),
        order("leaves1", "leaves", before_t(days=5)),
        order("leaves2", "leaves", T + timedelta(days=30)),
    ]
    features = features_at_t(orders)
    assert {customer: row["label"] for customer, row in features.items()} == {
        "stays": 0.0,
        "midnight": 0.0,
        "leaves": 1.0,
    }
    # Without the last order the watermark is 2024-04-02, whose end is the end of the outcome window.
    assert features_at_t(orders[:-1])["leaves"]["label"] == 1.0
    day_earlier = [*orders[:1], order("stays2", "stays", T + timedelta(days=29) - INSTANT), orders[-2]]
    assert {row["label"] for row in features_at_t(day_earlier).values()} == {None}


def test_the_churn_definitions_differ_as_they_are_meant_to() -> None:
    calendar = [order("opening", "calendar", before_t(days=60)), order("closing", "calendar", T + timedelta(days=31))]
    orders = [
        # Every four days before T, so four in 30 days are half the rate; the next one after a pause of 13 days.
        *(order(f"often{days}", "often", before_t(days=days)) for days in range(4, 61, 4)),
        *(order(f"often{days}+", "often", T + timedelta(days=days)) for days in (13, 14, 15)),
        # Every 20 days before T: silent for all 30 days is silent for long.
        *(order(f"seldom{days}", "seldom", before_t(days=days)) for days in (5, 25, 45)),
        order("seldom+", "seldom", T + timedelta(days=29)),
        order("gone", "gone", before_t(days=5)),
    ]
    kept = clean([*calendar, *orders], now=NOW)

    def at_t(definition: str, **rules: Any) -> dict[str, float | None]:
        found = labels(kept, definition=definition, **rules)
        return {customer: label for (customer, day), label in found.items() if day == T.date()}

    assert at_t("inactivity") == {"often": 0.0, "seldom": 0.0, "gone": 1.0}
    # often: 3 of 30 days against 15 of 60.
    assert at_t("rate_drop") == {"often": 1.0, "seldom": 0.0, "gone": 1.0}
    assert at_t("rate_drop", rate_drop_share=0.3) == {"often": 0.0, "seldom": 0.0, "gone": 1.0}
    assert at_t("long_gap") == {"often": 1.0, "seldom": 0.0, "gone": 1.0}
    assert at_t("long_gap", gap_multiple=3.5) == {"often": 0.0, "seldom": 0.0, "gone": 1.0}
    assert at_t("long_gap", outcome_days=14) == {"often": 1.0, "seldom": 1.0, "gone": 1.0}


@pytest.mark.parametrize("seed", range(3))
def test_the_label_of_the_panel_is_the_one_of_inactivity(seed: int) -> None:
    cleaned = clean(*dirty_source_rows(seed), now=dirty_now())
    assert labels(cleaned, definition="inactivity") == {key: row["label"] for key, row in panel(cleaned).items()}


def test_late_and_crisis_are_strict_and_count_by_the_time_of_delivery() -> None:
    def delivered(customer: str, minutes_after_promise: float, ordered_at: datetime = T - timedelta(days=3)) -> Row:
        promised = ordered_at + timedelta(minutes=30)
        return order(
            f"{customer}{minutes_after_promise}",
            customer,
            ordered_at,
            promised_at=promised,
            delivered_at=promised + timedelta(minutes=minutes_after_promise),
        )

    just_before_t = before_t(minutes=31)
    long_before = before_t(days=60, minutes=80)
    features = features_at_t(
        [
            delivered("punctual", 0),
            delivered("late", 45),
            delivered("late", -1),
            delivered("late", 0),
            order("late no promise", "late", before_t(days=4), delivered_at=before_t(days=3.5)),
            delivered("crisis", 45.01),
            delivered("on its way", 1, just_before_t),
            delivered("old order", 50, long_before),
            order("old order recent", "old order", before_t(days=2)),
            delivered("too old", 49.99, long_before),
            order("too old recent", "too old", before_t(days=2)),
        ]
    )
    assert {
        customer: (row["late_order_ratio"], row["crisis_exposure_index"]) for customer, row in features.items()
    } == {
        "punctual": (0.0, 0.0),
        "late": (1 / 3, 0.0),
        "crisis": (1.0, 1.0),
        "on its way": (0.0, 0.0),
        "old order": (1.0, 1.0),
        "too old": (0.0, 0.0),
    }


def test_ratings_are_the_reviews_known_by_t_and_otherwise_the_mean_of_the_customers_means() -> None:
    orders = [order(f"{customer}{n}", customer, before_t(days=9)) for customer in "abc" for n in range(2)]
    reviews = [
        review("a0", before_t(days=8), 5.0),
        review("a1", before_t(days=7), 2.0),
        review("b0", T - INSTANT, 1.0),
        review("b1", T, 5.0),
        review("a old", before_t(days=60) - INSTANT, 1.0),
        review("c old", before_t(days=60), 4.0),
    ]
    orders += [order(f"{customer} old", customer, before_t(days=61)) for customer in "ac"]
    orders.append(order("d", "d", before_t(days=9)))
    features = features_at_t(orders, reviews)
    assert {customer: row["avg_star_rating"] for customer, row in features.items()} == {
        "a": 3.5,
        "b": 1.0,
        "c": 4.0,
        "d": pytest.approx(8.5 / 3),
    }
    assert features_at_t(orders)["c"]["avg_star_rating"] == 3.0


def test_sentiment_velocity_is_the_smallest_change_in_review_order_with_ties_by_order_id() -> None:
    orders = [order(f"{customer}{n}", customer, before_t(days=9)) for customer in "abc" for n in range(3)]
    reviews = [
        review("a2", before_t(days=8), 2.0),
        review("a1", before_t(days=8), 5.0),
        review("a0", before_t(days=7), 3.0),
        review("b0", before_t(days=8), 1.0),
        review("b1", before_t(days=7), 4.0),
        review("b2", before_t(days=6), 4.5),
        review("c0", before_t(days=8), 1.0),
    ]
    # a: 5, 2, 3. b only rises: 1, 4, 4.5. c wrote once.
    features = features_at_t(orders, reviews)
    assert {customer: row["sentiment_velocity"] for customer, row in features.items()} == {
        "a": -3.0,
        "b": 0.5,
        "c": 0.0,
    }


def test_the_score_of_a_review_is_the_one_known_by_the_date_where_its_states_have_a_time() -> None:
    orders = [order(f"{customer}{n}", customer, before_t(days=9)) for customer in "abc" for n in range(2)]
    reviews = [
        review("a0", before_t(days=8), 5.0),
        # Edited, and edited again on the date itself.
        {**review("a1", before_t(days=7), 4.0), "updated_at": before_t(days=7)},
        {**review("a1", before_t(days=7), 2.0), "updated_at": before_t(days=3)},
        {**review("a1", before_t(days=7), 1.0), "updated_at": T},
        # Written long ago, but nobody says how it was before the edit.
        {**review("b0", before_t(days=8), 1.0), "updated_at": T},
        review("c0", before_t(days=8), 3.0),
    ]
    features = features_at_t(orders, reviews)
    assert {customer: (row["avg_star_rating"], row["sentiment_velocity"]) for customer, row in features.items()} == {
        "a": (3.5, -3.0),
        "b": (3.25, 0.0),
        "c": (3.0, 0.0),
    }
    # Without a time only the latest counts, whenever it was written.
    undated = [review("a1", before_t(days=7), 4.0), review("a1", before_t(days=3), 2.0), review("b1", T, 1.0)]
    assert features_at_t(orders, [*undated, review("b1", before_t(days=3), 5.0)])["b"]["avg_star_rating"] == 2.0


def test_quintile_cuts_belong_to_the_lower_fifth_and_ties_share_one() -> None:
    # Six customers: the cuts are the 2nd, 3rd, 4th and 5th smallest.
    orders = [order(str(n), f"c{n}", before_t(days=n), subtotal=float(n)) for n in range(1, 7)]
    orders.append(order("second", "c6", before_t(days=20), subtotal=0.0))
    features = features_at_t(orders)
    # R 1 1 2 3 4 5 by days; F is 5 for one order, 1 for two; M 5 5 4 3 2 1 by spend.
    assert {customer: row["rfm_score"] for customer, row in features.items()} == {
        "c1": 155.0,
        "c2": 155.0,
        "c3": 254.0,
        "c4": 353.0,
        "c5": 452.0,
        "c6": 511.0,
    }


def test_spend_is_compared_in_decimals() -> None:
    # As floats 0.1 + 0.2 + 0.3 would exceed 0.6 and fall into a fifth of its own.
    orders = [order("one", "one", before_t(days=3), subtotal=0.6)]
    for n, subtotal in enumerate((0.1, 0.2, 0.3)):
        orders.append(order(f"three{n}", "three", before_t(days=3), subtotal=subtotal))
    scores = [row["rfm_score"] for row in features_at_t(orders).values()]
    assert None not in scores
    assert {score % 10 for score in scores if score is not None} == {5.0}


def test_gap_ratio_is_recency_over_the_median_gap_of_all_history_at_least_one_day() -> None:
    features = features_at_t(
        [
            # Gaps of 40 and 10 days: 25. The first order is older than the window.
            *(order(f"a{days}", "a", before_t(days=days)) for days in (65, 25, 15)),
            # Gaps of 2, 30 and 7 days.
            *(order(f"m{days}", "m", before_t(days=days)) for days in (43, 41, 11, 4)),
            # Gaps of nothing and 6 hours, floored to a day.
            *(order(f"b{n}", "b", before_t(days=days)) for n, days in enumerate((5.25, 5.25, 5))),
            # No gap of its own: the median of 25, 7 and 0.125.
            order("c", "c", before_t(days=3)),
        ]
    )
    assert {customer: (row["recency_days"], row["tenure_days"]) for customer, row in features.items()} == {
        "a": (15.0, 65.0),
        "m": (4.0, 43.0),
        "b": (5.0, 5.25),
        "c": (3.0, 3.0),
    }
    assert {customer: row["gap_ratio"] for customer, row in features.items()} == {
        "a": 15 / 25,
        "m": 4 / 7,
        "b": 5.0,
        "c": 3 / 7,
    }


def test_the_median_gap_of_the_snapshot_is_floored_once_at_the_end() -> None:
    def median_gap_days(*gaps_days: float) -> float:
        orders = [order("x", "x", before_t(days=3))]
        for n, gap_days in enumerate(gaps_days):
            orders += [order(f"{n} {ago}", str(n), before_t(days=ago)) for ago in (2, 2 + gap_days)]
        ratio = features_at_t(orders)["x"]["gap_ratio"]
        assert ratio is not None
        return 3 / ratio

    # Flooring each customer's gap first would make it 2.
    assert median_gap_days(0.5, 3.0) == pytest.approx(1.75)
    assert median_gap_days(0.25, 0.5, 3.0) == pytest.approx(1.0)


def test_where_nobody_has_two_orders_the_outcome_window_is_the_gap() -> None:
    assert features_at_t([order("a", "a", before_t(days=3))])["a"]["gap_ratio"] == 3 / 30


def test_segment_index_is_the_number_of_the_segment_and_minus_one_without_any() -> None:
    features = features_at_t(
        [order(customer, customer, before_t(days=3)) for customer in "abc"],
        customers=[{"customer_id": "a", "segment": "new"}, {"customer_id": "b", "segment": None}],
        segments={"known": 0},
    )
    assert {customer: row["segment_index"] for customer, row in features.items()} == {"a": 1.0, "b": -1.0, "c": -1.0}


def test_restricting_the_customers_changes_no_value() -> None:
    orders, reviews, customers = dirty_source_rows(1)
    cleaned = clean(orders, reviews, customers, now=dirty_now())
    everybody = panel(cleaned)
    some = {"c-0", "c-3", "edge-start"}
    assert panel(cleaned, customers=some) == {key: row for key, row in everybody.items() if key[0] in some}


# ---- dirty rows


@pytest.mark.parametrize("days", [150, 152])
@pytest.mark.parametrize("seed", range(3))
def test_the_dirty_rows_break_every_rule_and_every_row_is_accounted_for(seed: int, days: int) -> None:
    sources = dirty_source_rows(seed, days=days)
    cleaned = clean(*sources, now=dirty_now(days))
    for table, columns, rows, kept in zip(
        ("orders", "reviews", "customers"),
        (ORDER_COLUMNS, REVIEW_COLUMNS, CUSTOMER_COLUMNS),
        sources,
        (cleaned.orders, cleaned.reviews, cleaned.customers),
        strict=True,
    ):
        gone = [aside for aside in cleaned.set_aside if aside[0] == table and aside[1] != "repaired"]
        assert len(rows) == len(kept) + len(gone)
        assert all(set(row) <= set(columns) for row in rows)
    keys_and_times = {"null_key", "impossible_time", "impossible_pace"}
    assert {aside[:3] for aside in cleaned.set_aside} == {
        *(("orders", "quarantined", rule) for rule in (*keys_and_times, "duplicate_key", "negative_subtotal")),
        *(("orders", "repaired", rule) for rule in ("delivery_before_order", "delivery_too_late")),
        *(("reviews", "quarantined", rule) for rule in (*keys_and_times, "score_out_of_range", "unknown_order")),
        ("reviews", "quarantined", "reviewed_before_order"),
        *((table, "cancelled", "cancelled") for table in ("orders", "reviews")),
        *((table, "superseded", "superseded") for table in ("orders", "reviews", "customers")),
        *(("customers", "quarantined", rule) for rule in ("null_key", "impossible_pace")),
    }


def test_the_panel_of_the_dirty_rows_is_complete_in_range_and_varied() -> None:
    sources = dirty_source_rows(0)
    rows = panel(clean(*sources, now=dirty_now()))
    assert all(tuple(row) == PANEL_COLUMNS for row in rows.values())
    ranges = {
        "total_orders": (1, math.inf),
        "avg_star_rating": (1, 5),
        "late_order_ratio": (0, 1),
        "segment_index": (-1, math.inf),
        "crisis_exposure_index": (0, 1),
        "sentiment_velocity": (-4, 4),
        "rfm_score": (111, 555),
        "recency_days": (0, 30),
        "tenure_days": (0, math.inf),
        "gap_ratio": (0, math.inf),
    }
    for column, (low, high) in ranges.items():
        values = {row[column] for row in rows.values()}
        assert len(values) > 1, f"{column} never varies"
        assert all(value is not None and low <= value <= high for value in values), column
    assert {row["label"] for row in rows.values()} == {0.0, 1.0, None}


# ---- a panel of real data, computed by others


@pytest.fixture(scope="module")
def uci_cleaned(uci_folder: Path) -> Cleaned:
    lines = pd.read_parquet(uci_folder / "online_retail.parquet").to_dict("records")
    moments = {text: datetime.strptime(text, "%m/%d/%y %H:%M") for text in {line["InvoiceDate"] for line in lines}}
    invoices: dict[str, list[dict[Hashable, Any]]] = {}
    for line in lines:
        invoices.setdefault(line["InvoiceNo"], []).append(line)
    orders: list[Row] = []
    countries: dict[str, tuple[datetime, str, str]] = {}
    for number, of_invoice in invoices.items():
        customer = of_invoice[0]["CustomerID"]
        ordered_at = min(moments[line["InvoiceDate"]] for line in of_invoice)
        customer_id = None if math.isnan(customer) else str(int(customer))
        orders.append(
            order(
                number,
                customer_id,
                ordered_at,
                subtotal=round(math.fsum(line["Quantity"] * line["UnitPrice"] for line in of_invoice), 6),
                is_cancelled=number.startswith("C"),
            )
        )
        if customer_id is not None:
            first = (ordered_at, number, of_invoice[0]["Country"])
            countries[customer_id] = min(countries.get(customer_id, first), first)
    customers = [{"customer_id": customer, "segment": first[2]} for customer, first in countries.items()]
    return clean(orders, None, customers, now=datetime(2011, 12, 31))


def test_the_uci_invoices_are_kept_cancelled_and_quarantined_as_published(uci_cleaned: Cleaned) -> None:
    assert len(uci_cleaned.orders) == 8_590
    assert len(uci_cleaned.customers) == 2_974
    assert Counter(rules(uci_cleaned)) == {
        ("orders", "cancelled", "cancelled"): 1_846,
        ("orders", "quarantined", "null_key"): 2_032,
    }


def test_the_uci_panel_is_the_published_one(uci_folder: Path, uci_cleaned: Cleaned) -> None:
    published = {
        (str(row["customer_id"]), date.fromisoformat(str(row["as_of"])[:10])): row
        for row in pd.read_parquet(uci_folder / "reference_panel.parquet").to_dict("records")
    }
    # The data end in a day of one order, where 49 are usual; the published panel takes it as complete.
    assert watermark(uci_cleaned.orders) == date(2011, 6, 25)
    computed = panel(uci_cleaned, rules=CalendarRules(watermark=date(2011, 6, 26)))
    assert len(published) == 19_200
    assert computed.keys() == published.keys()
    different = [
        (key, column, row[column], published[key][column])
        for key, row in computed.items()
        for column in PANEL_COLUMNS
        if not _is_same(row[column], published[key][column])
    ]
    assert different == []


def _is_same(computed: float | None, published: float) -> bool:
    if computed is None:
        return math.isnan(published)
    return abs(computed - published) <= 1e-9

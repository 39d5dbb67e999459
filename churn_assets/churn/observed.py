"""What is observed of a customer at an as-of date: each column of the snapshots, declared once.

Which rows are counted is in `features.py`; what is made of the columns, in `catalogue.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from churn_assets.churn.measures import as_double

MINUTE_MICROS = 60_000_000


@dataclass(frozen=True)
class FeatureRules:
    """The policy's numbers that observations, features and their sentences are made with."""

    observation_days: int
    eligibility_days: int
    outcome_days: int
    crisis_delay_minutes: float


@dataclass(frozen=True)
class Described:
    """A column that people read about. reads: the columns of silver it is computed from.

    Left out of `reads` are customer_id and as_of, by which rows are matched, grouped and placed in a window.
    """

    meaning: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Observed(Described):
    """A column of the customer snapshots. value: an aggregate of the customer's events, see `customer_snapshots`."""

    value: Callable[[FeatureRules], Column]


KEYS = {
    "customer_id": Described("identifies the customer", ("customer_id",)),
    "as_of": Described("the date of the snapshot, 00:00 UTC; what is known is from before it", ()),
}
# Every state is a number or a time, which keeps the grouping compiled; arrays and structs would have it sort.
SNAPSHOT_COLUMNS = {
    "total_orders": Observed(
        "orders in the observation window", ("ordered_at",), lambda rules: F.count("ordered_at").cast("double")
    ),
    "last_ordered_at": Observed("the latest order", ("ordered_at",), lambda rules: F.max("ordered_at")),
    "spend": Observed(
        "subtotals of the observation window, summed", ("ordered_at", "subtotal"), lambda rules: F.sum("spend")
    ),
    "segment_index": Observed(
        "number of the customer's segment; none: -1", ("segment_index",), lambda rules: F.max("segment_index")
    ),
    "promised_deliveries": Observed(
        "deliveries with a promise, in the window",
        ("promised_at", "delivered_at"),
        lambda rules: F.count("delay_micros"),
    ),
    "late_deliveries": Observed(
        "those after their promise",
        ("promised_at", "delivered_at"),
        lambda rules: F.count_if(F.col("delay_micros") > 0),
    ),
    "has_crisis_delivery": Observed(
        "whether one was later than the crisis delay",
        ("promised_at", "delivered_at"),
        lambda rules: F.coalesce(
            F.bool_or(F.col("delay_micros") > F.lit(int(rules.crisis_delay_minutes * MINUTE_MICROS))), F.lit(False)
        ),
    ),
    "recent_delay_minutes": Observed(
        "minutes after the promise, summed over the eligibility window",
        ("promised_at", "delivered_at"),
        lambda rules: F.coalesce(F.sum("recent_delay_micros"), F.lit(0)) / F.lit(MINUTE_MICROS),
    ),
    "reviews": Observed("reviews in the window", ("reviewed_at",), lambda rules: F.count("reviewed_at")),
    "mean_score": Observed(
        "mean of their scores; null without any",
        ("reviewed_at", "review_score"),
        lambda rules: as_double(F.sum("exact_score")) / F.nullif(F.count("reviewed_at"), F.lit(0)),
    ),
    "worst_score": Observed(
        "the lowest of their scores",
        ("reviewed_at", "review_score"),
        lambda rules: as_double(F.min("exact_score")),
    ),
    "steepest_fall": Observed(
        "most negative change between consecutive scores of the window",
        ("reviewed_at", "review_score"),
        lambda rules: F.min("change_of_score"),
    ),
    "first_ordered_at": Observed("the first order ever", ("ordered_at",), lambda rules: F.min("first_ordered_at")),
    "orders_ever": Observed("orders before the as-of date", ("ordered_at",), lambda rules: F.max("orders_ever")),
    "median_gap_days": Observed(
        "days between two orders, median over all history",
        ("ordered_at",),
        lambda rules: F.max("median_gap_days"),
    ),
    "delay_minutes_at_last_order": Observed(
        "minutes after the promise, summed over as many days as the eligibility window has, to the end of the day of "
        "the latest order",
        ("ordered_at", "promised_at", "delivered_at"),
        lambda rules: F.max("waited_micros") / F.lit(MINUTE_MICROS),
    ),
}
_SILENCE = ("ordered_at",)
_BAD_EXPERIENCE = ("promised_at", "delivered_at", "reviewed_at", "review_score")
# What the baseline rule adds to them; no feature may read these.
RULE_COLUMNS = {
    "risk_segment": Described("the retention team's rule, in words", (*_SILENCE, *_BAD_EXPERIENCE)),
    "risk_score": Described("the same as a number, 0 to 1", (*_SILENCE, *_BAD_EXPERIENCE)),
}

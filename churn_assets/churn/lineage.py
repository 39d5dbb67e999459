"""Which columns each value is computed from, from silver to the panel.

Left out are customer_id and as_of, by which rows are matched, grouped and placed in a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from churn_assets.churn.policy import ChurnPolicy


@dataclass(frozen=True)
class Observed:
    """A column of the customer snapshots. reads: columns of silver."""

    meaning: str
    reads: tuple[str, ...]


KEYS = {
    "customer_id": Observed("identifies the customer", ("customer_id",)),
    "as_of": Observed("the date of the snapshot, 00:00 UTC; what is known is from before it", ()),
}
_SILENCE = ("ordered_at",)
_BAD_EXPERIENCE = ("promised_at", "delivered_at", "reviewed_at", "review_score")
SNAPSHOT_COLUMNS = {
    "total_orders": Observed("orders in the observation window", ("ordered_at",)),
    "last_ordered_at": Observed("the latest order", ("ordered_at",)),
    "spend": Observed("subtotals of the observation window, summed", ("ordered_at", "subtotal")),
    "segment_index": Observed("number of the customer's segment; none: -1", ("segment_index",)),
    "promised_deliveries": Observed("deliveries with a promise, in the window", ("promised_at", "delivered_at")),
    "late_deliveries": Observed("those after their promise", ("promised_at", "delivered_at")),
    "has_crisis_delivery": Observed("whether one was later than the crisis delay", ("promised_at", "delivered_at")),
    "recent_delay_minutes": Observed(
        "minutes after the promise, summed over the eligibility window", ("promised_at", "delivered_at")
    ),
    "reviews": Observed("reviews in the window", ("reviewed_at",)),
    "mean_score": Observed("mean of their scores; null without any", ("reviewed_at", "review_score")),
    "worst_score": Observed("the lowest of their scores", ("reviewed_at", "review_score")),
    "steepest_fall": Observed(
        "most negative change between consecutive scores of the window", ("reviewed_at", "review_score")
    ),
    "first_ordered_at": Observed("the first order ever", ("ordered_at",)),
    "orders_ever": Observed("orders before the as-of date", ("ordered_at",)),
    "median_gap_days": Observed("days between two orders, median over all history", ("ordered_at",)),
    "risk_segment": Observed("the retention team's rule, in words", (*_SILENCE, *_BAD_EXPERIENCE)),
    "risk_score": Observed("the same as a number, 0 to 1", (*_SILENCE, *_BAD_EXPERIENCE)),
}

# What each feature of the catalogue reads of the snapshots.
FEATURE_READS = {
    "total_orders": ("total_orders",),
    "avg_star_rating": ("mean_score",),
    "late_order_ratio": ("late_deliveries", "promised_deliveries"),
    "segment_index": ("segment_index",),
    "crisis_exposure_index": ("has_crisis_delivery",),
    "sentiment_velocity": ("steepest_fall",),
    "rfm_score": ("last_ordered_at", "total_orders", "spend"),
    "recency_days": ("last_ordered_at",),
    "tenure_days": ("first_ordered_at",),
    "gap_ratio": ("last_ordered_at", "median_gap_days"),
    "missed_orders": ("last_ordered_at", "orders_ever", "first_ordered_at"),
    "recent_delay_minutes": ("recent_delay_minutes",),
}


def label_reads(policy: ChurnPolicy) -> Mapping[str, tuple[str, ...]]:
    """What the label reads under the policy's churn definition, by "silver" and "snapshots"."""
    own_habit = {"inactivity": (), "rate_drop": ("total_orders",), "long_gap": ("median_gap_days",)}
    return {"silver": ("ordered_at",), "snapshots": own_habit[policy.churn.definition]}

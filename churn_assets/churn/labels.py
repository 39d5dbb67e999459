"""Who left: the only module that looks at and after an as-of date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.features import each_as_of
from churn_assets.churn.measures import DAY_MICROS, own_gap_days
from churn_assets.churn.policy import ChurnPolicy


def churn_labels(snapshots: DataFrame, silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """(customer_id, as_of) of `snapshots` with `label`.

    1.0: a churner by the policy's definition; 0.0: otherwise; null until the watermark has passed the last day of the
    outcome window, and where a gap or a closure lies in it. In: `customer_snapshots`.
    """
    return with_labels(snapshots, silver, calendar, policy).select("customer_id", "as_of", "label")


def with_labels(snapshots: DataFrame, silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """`snapshots` with the `label` of `churn_labels`."""
    outcomes = with_outcomes(snapshots, silver, calendar, policy.windows.outcome_days, policy)
    return outcomes.select(*snapshots.columns, label(calendar, policy).alias("label"))


def with_outcomes(
    snapshots: DataFrame, silver: DataFrame, calendar: AsOfCalendar, days: int, policy: ChurnPolicy
) -> DataFrame:
    """`snapshots` with what `label` needs of up to `days` days of outcome.

    next_ordered_at: the first order in [as_of, as_of + days), null without one. orders_after: the number of orders in
    the policy's outcome window. gap_days: the customer's own median gap.
    """
    # t <= ordered_at < t + days, for dates t: from the day that is `days - 1` before the order's day to that day.
    day = F.col("ordered_at").cast("date")
    # One shuffle of the orders, as in `customer_snapshots`.
    orders = silver.select("customer_id", "ordered_at").repartition("customer_id")
    is_within = day < F.date_add("as_of", policy.windows.outcome_days)
    after = (
        each_as_of(orders, F.date_sub(day, days - 1), day, calendar)
        .groupBy("customer_id", "as_of")
        .agg(F.min("ordered_at").alias("next_ordered_at"), F.count_if(is_within).alias("orders_after"))
    )
    observed = snapshots.withColumn("gap_days", own_gap_days(policy.windows.outcome_days))
    return observed.join(after, ["customer_id", "as_of"], "left")


def label(calendar: AsOfCalendar, policy: ChurnPolicy) -> Column:
    """The label by the policy's definition, of rows of `with_outcomes` with at least its outcome days."""
    days = policy.windows.outcome_days
    usual = F.col("total_orders") * days / policy.windows.observation_days
    # Its own silence, but no longer than the outcome window, for the label is to be known when that is over.
    silence = F.least(policy.churn.gap_multiple * F.col("gap_days"), F.lit(float(days)))
    is_churner = {
        "inactivity": _is_silent_for(F.lit(float(days))),
        "rate_drop": F.coalesce("orders_after", F.lit(0)) < policy.churn.rate_drop_share * usual,
        "long_gap": _is_silent_for(silence),
    }[policy.churn.definition]
    end = F.date_add("as_of", days)
    is_known = end <= F.lit(calendar.watermark + timedelta(days=1))
    for gap in calendar.interruptions:
        # Nobody can tell of whoever did not order in it.
        is_known &= ~((F.col("as_of") <= F.lit(gap.last)) & (end > F.lit(gap.first)))
    return F.when(is_known, is_churner.cast("double"))


def _is_silent_for(days: Column) -> Column:
    end = F.unix_micros(F.col("as_of").cast("timestamp")) + days * F.lit(DAY_MICROS)
    return F.coalesce(F.unix_micros("next_ordered_at") >= end, F.lit(True))


@dataclass(frozen=True)
class SnapshotShares:
    """Of the eligible customers of one as-of date: the share that left (None until known), and that met the crisis
    (None where nothing tells)."""

    as_of: date
    customers: int
    churn: float | None
    crisis: float | None


SHARED_BY = ("as_of", "crisis_exposure_index", "label")


def known_churn_rate(counts: Mapping[tuple[Any, ...], int]) -> float:
    """The share of all rows with a known label that left; without any an even chance.

    counts: the rows of the panel by label, or by columns of which the last is the label.
    """
    known = sum(rows for (*_, left), rows in counts.items() if left is not None)
    return sum(rows for (*_, left), rows in counts.items() if left) / known if known else 0.5


def shares_of(counts: Mapping[tuple[Any, ...], int]) -> list[SnapshotShares]:
    """By rising as-of date. counts: the rows of the panel by their values of SHARED_BY."""
    by_date: dict[date, list[tuple[float | None, float | None, int]]] = {}
    for (as_of, crisis, left), rows in counts.items():
        by_date.setdefault(as_of, []).append((crisis, left, rows))
    return [_shares_at(as_of, by_date[as_of]) for as_of in sorted(by_date)]


def _shares_at(as_of: date, counts: Sequence[tuple[float | None, float | None, int]]) -> SnapshotShares:
    customers = sum(rows for _, _, rows in counts)
    known = sum(rows for _, left, rows in counts if left is not None)
    churners = sum(left * rows for _, left, rows in counts if left is not None)
    met = [(crisis, rows) for crisis, _, rows in counts if crisis is not None]
    in_crisis = sum(crisis * rows for crisis, rows in met) / customers if met else None
    return SnapshotShares(as_of, customers, churners / known if known else None, in_crisis)


def definition(policy: ChurnPolicy) -> str:
    """The policy's churn definition in words; of a ready feature table the one it is delivered with."""
    if (delivered := policy.catalogue.delivered) is not None:
        return delivered.label or "no label"
    days, churn = policy.windows.outcome_days, policy.churn
    return {
        "inactivity": f"no order for {days} days",
        "rate_drop": f"orders of {days} days below {churn.rate_drop_share:.0%} of the customer's own rate",
        "long_gap": f"silent for {churn.gap_multiple:g} times the customer's own median gap, {days} days at most",
    }[churn.definition]


def label_reads(policy: ChurnPolicy) -> Mapping[str, tuple[str, ...]]:
    """What the label reads under the policy's churn definition, by "silver" and "snapshots"."""
    own_habit = {"inactivity": (), "rate_drop": ("total_orders",), "long_gap": ("median_gap_days",)}
    return {"silver": ("ordered_at",), "snapshots": own_habit[policy.churn.definition]}


def setting(policy: ChurnPolicy) -> str:
    """What to write into policy.toml for the policy's churn definition."""
    if policy.catalogue.delivered is not None:
        return "as delivered"
    return f'churn.definition = "{policy.churn.definition}", windows.outcome_days = {policy.windows.outcome_days}'


CANDIDATE_DAYS = (7, 14, 30, 45, 60)


def candidates(policy: ChurnPolicy) -> Sequence[ChurnPolicy]:
    """The policy under each candidate definition: silence of 7 to 60 days, a drop of the rate, a long gap, its own."""

    def under(definition: str, days: int) -> ChurnPolicy:
        churn = policy.churn.model_copy(update={"definition": definition})
        windows = policy.windows.model_copy(update={"outcome_days": days})
        return policy.model_copy(update={"churn": churn, "windows": windows})

    own_days = policy.windows.outcome_days
    inactive = [under("inactivity", days) for days in sorted({*CANDIDATE_DAYS, own_days})]
    return [*inactive, under("rate_drop", own_days), under("long_gap", own_days)]

"""What was known of each customer at an as-of date: calendar, observed behaviour, baseline rule, features.

The catalogue `FEATURES` is the one declaration that schema, checks, descriptions, signature and reasons derive from.
Nothing here looks at or after an as-of date; that is `labels.py`.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.errors import NoEligibleCustomersError
from churn_assets.churn.policy import ChurnPolicy

MONDAY = 0
DAY_MICROS = 86_400_000_000
MINUTE_MICROS = 60_000_000
NEUTRAL_RATING = 3.0


@dataclass(frozen=True)
class Feature:
    """One feature: its range is part of the contract. meaning: in a customer's words. formula: how it is computed."""

    name: str
    low: float
    high: float
    meaning: str
    formula: str


INFINITY = float("inf")
FEATURES = (
    Feature("total_orders", 1, INFINITY, "how often they ordered lately", "orders in the observation window"),
    Feature(
        "avg_star_rating",
        1,
        5,
        "how they rated us lately",
        "mean review score known; without a review the snapshot's mean, without any review at all 3.0",
    ),
    Feature(
        "late_order_ratio",
        0,
        1,
        "how many of their deliveries came late",
        "known deliveries after their promise / known deliveries with a promise; none: 0",
    ),
    Feature(
        "segment_index",
        -1,
        INFINITY,
        "the kind of customer they are",
        "number of the segment in an append-only dimension, most frequent first; none: -1",
    ),
    Feature(
        "crisis_exposure_index",
        0,
        1,
        "whether a delivery left them waiting far too long",
        "1 if a known delivery came later after its promise than the policy's crisis delay, else 0",
    ),
    Feature(
        "sentiment_velocity",
        -4,
        4,
        "how sharply their reviews turned",
        "most negative change between consecutive review scores in order of review time; fewer than two: 0",
    ),
    Feature(
        "rfm_score",
        111,
        555,
        "how recent, frequent and valuable their orders are among all customers",
        "100 R + 10 F + M, quintiles within the snapshot, 1 = most recent, most orders, most spend",
    ),
    Feature("recency_days", 0, INFINITY, "how long ago they last ordered", "days since the last order"),
    Feature("tenure_days", 0, INFINITY, "how long they have been with us", "days since the first order ever"),
    Feature(
        "gap_ratio",
        0,
        INFINITY,
        "how unusual their silence is for them",
        "recency_days / the median of their own gaps between orders (at least one day); "
        "fewer than two orders: the snapshot's median of those medians",
    ),
    Feature(
        "missed_orders",
        0,
        INFINITY,
        "how many orders they would usually have placed since the last one",
        "recency_days x orders ever / tenure_days",
    ),
    Feature(
        "recent_delay_minutes",
        0,
        INFINITY,
        "how long their late deliveries kept them waiting lately",
        "minutes after the promise, summed over the late deliveries known in the eligibility window",
    ),
)
_NAMES = tuple(feature.name for feature in FEATURES)
FEATURE_SETS = {"seed": _NAMES[:7], "extended": _NAMES[:10], "crisis_aware": _NAMES}


@dataclass(frozen=True)
class AsOfCalendar:
    """The Mondays at which snapshots are taken, `first` to `last`; watermark: the last complete day of orders."""

    first: date
    last: date
    watermark: date

    @property
    def dates(self) -> list[date]:
        return [self.first + timedelta(weeks=week) for week in range((self.last - self.first).days // 7 + 1)]

    def last_labelled(self, outcome_days: int) -> date | None:
        """The latest as-of date whose outcome window is over at the watermark; None if there is none yet."""
        known = [day for day in self.dates if day + timedelta(days=outcome_days) <= self.watermark + timedelta(days=1)]
        return known[-1] if known else None


def as_of_calendar(silver: DataFrame, policy: ChurnPolicy) -> AsOfCalendar:
    """The calendar that silver orders (`ordered_at`) allow.

    From the first Monday with a full observation window of data behind it, to the last at most a day after the
    watermark.

    Raises NoEligibleCustomersError if there is no such Monday.
    """
    span = silver.agg(F.min("ordered_at").cast("date").alias("first"), F.max("ordered_at").cast("date").alias("last"))
    begin, end = span.collect()[0]
    if begin is None:
        raise NoEligibleCustomersError("No order is left after cleaning.", next_step="look at quarantined_rows for why")
    watermark = policy.cleaning.watermark or end
    first = _on_or_after_monday(begin + timedelta(days=policy.windows.observation_days))
    last = _on_or_after_monday(watermark + timedelta(days=1) - timedelta(days=6))
    if first > last:
        raise NoEligibleCustomersError(
            f"Orders run from {begin} to {watermark}: "
            f"no Monday has {policy.windows.observation_days} days of data behind it.",
            next_step="provide a longer order history, or shorten windows.observation_days in policy.toml",
        )
    return AsOfCalendar(first, last, watermark)


def _on_or_after_monday(day: date) -> date:
    return day + timedelta(days=(MONDAY - day.weekday()) % 7)


def each_as_of(rows: DataFrame, first: Column, last: Column, calendar: AsOfCalendar) -> DataFrame:
    """Every row once for each of the calendar's as-of dates (column `as_of`) from date `first` to date `last`."""
    # next_day is the first Monday strictly after its argument, so a Monday `first` has to be moved back a day.
    first_monday = F.next_day(F.greatest(first, F.lit(calendar.first)) - F.expr("interval 1 day"), "MON")
    last_day = F.least(last, F.lit(calendar.last))
    mondays = F.when(first_monday <= last_day, F.sequence(first_monday, last_day, F.expr("interval 7 days")))
    return rows.withColumn("as_of", F.explode(mondays))


def _observed(silver: DataFrame, clock: str, days: int, calendar: AsOfCalendar, *columns: Column) -> DataFrame:
    """(customer_id, as_of, *columns) for each as-of date t whose window [t - days, t) holds the `clock` time."""
    events = silver.where(F.col(clock).isNotNull()).select("customer_id", F.col(clock).alias("event_at"), *columns)
    # event < t: the first date after the event's day. t - days <= event: t at or before the day of event + days.
    day = F.col("event_at").cast("date")
    return each_as_of(events, F.date_add(day, 1), F.date_add(day, days), calendar)


def customer_snapshots(silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """What is known of each eligible customer at each as-of date.

    In: silver orders. Out: customer_id, as_of (date), total_orders, last_ordered_at, first_ordered_at, spend (decimal),
    segment_index, promised_deliveries, late_deliveries, has_crisis_delivery, recent_delay_minutes, scores (array in
    order of review time), orders_ever, median_gap_days (null below two orders). Windows go by each event's own clock.
    """
    days = policy.windows.observation_days
    delay_micros = F.unix_micros("delivered_at") - F.unix_micros("promised_at")
    orders = _observed(
        silver,
        "ordered_at",
        days,
        calendar,
        F.col("ordered_at"),
        # A decimal sum does not depend on the order of its terms; a float sum would move customers between quintiles.
        F.col("subtotal").cast("decimal(28,10)").alias("spend"),
        F.col("segment_index"),
    )
    deliveries = _observed(
        silver, "delivered_at", days, calendar, delay_micros.alias("delay_micros"), F.col("delivered_at")
    ).where("delay_micros is not null")
    recently = F.date_sub("as_of", policy.windows.eligibility_days).cast("timestamp")
    is_recently_late = (F.col("delay_micros") > 0) & (F.col("delivered_at") >= recently)
    reviews = _observed(
        silver, "reviewed_at", days, calendar, F.struct("reviewed_at", "order_id", "review_score").alias("review")
    )
    events = orders.unionByName(deliveries, allowMissingColumns=True).unionByName(reviews, allowMissingColumns=True)
    snapshots = events.groupBy("customer_id", "as_of").agg(
        F.count("ordered_at").cast("double").alias("total_orders"),
        F.max("ordered_at").alias("last_ordered_at"),
        F.sum("spend").alias("spend"),
        F.max("segment_index").alias("segment_index"),
        F.count("delay_micros").alias("promised_deliveries"),
        F.count_if(F.col("delay_micros") > 0).alias("late_deliveries"),
        F.coalesce(
            F.bool_or(F.col("delay_micros") > F.lit(int(policy.crisis_delay_minutes * MINUTE_MICROS))), F.lit(False)
        ).alias("has_crisis_delivery"),
        (F.coalesce(F.sum(F.when(is_recently_late, F.col("delay_micros"))), F.lit(0)) / F.lit(MINUTE_MICROS)).alias(
            "recent_delay_minutes"
        ),
        F.transform(F.array_sort(F.collect_list("review")), lambda review: review["review_score"]).alias("scores"),
    )
    return _with_history(snapshots.where(F.col("last_ordered_at") >= recently), silver)


def require_eligible_customers(snapshots: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> None:
    """Raises NoEligibleCustomersError if no as-of date has an eligible customer."""
    if snapshots.isEmpty():
        raise NoEligibleCustomersError(
            f"No customer ordered within {policy.windows.eligibility_days} days before any as-of date "
            f"from {calendar.first} to {calendar.last}.",
            next_step="check ordered_at in the silver table, or widen windows.eligibility_days in policy.toml",
        )


def _with_history(snapshots: DataFrame, silver: DataFrame) -> DataFrame:
    """Adds first_ordered_at, orders_ever and median_gap_days, which look at all orders before the as-of date."""
    history = silver.groupBy("customer_id").agg(F.array_sort(F.collect_list("ordered_at")).alias("ordered"))
    as_of_at = F.col("as_of").cast("timestamp")
    past = F.filter("ordered", lambda ordered_at: ordered_at < as_of_at)
    gaps = F.zip_with(
        F.slice("past", 2, F.greatest(F.size("past") - 1, F.lit(0))),
        F.slice("past", 1, F.greatest(F.size("past") - 1, F.lit(0))),
        lambda later, earlier: F.unix_micros(later) - F.unix_micros(earlier),
    )
    count = F.size("gaps")
    middle = F.get("gaps", F.floor((count - 1) / 2).cast("int")) + F.get("gaps", F.floor(count / 2).cast("int"))
    return (
        snapshots.join(history, "customer_id")
        .withColumn("past", past)
        .withColumn("first_ordered_at", F.get("past", F.lit(0)))
        .withColumn("orders_ever", F.size("past"))
        .withColumn("gaps", F.array_sort(gaps))
        .withColumn("median_gap_days", F.when(count > 0, middle / F.lit(2 * DAY_MICROS)))
        .drop("ordered", "past", "gaps")
    )


def with_baseline_rule(snapshots: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """Adds the retention team's rule: `risk_segment`, and `risk_score` in [0, 1), ranking by segment, then silence."""
    silent_days = _days_between("last_ordered_at")
    is_silent = silent_days > policy.baseline.long_silence_days
    had_bad_experience = (F.col("late_deliveries") > 0) | F.coalesce(
        F.array_min("scores") <= policy.baseline.bad_review_score, F.lit(False)
    )
    tier = F.when(is_silent & had_bad_experience, 2).when(is_silent, 1).otherwise(0)
    segment = (
        F.when(tier == 2, "High Risk – Crisis Victim")
        .when(tier == 1, "High Risk – Natural Churn")
        .otherwise("Loyal / Active")
    )
    # Silence is at most eligibility_days, so it orders customers within a tier and never across tiers.
    score = (tier + silent_days / (policy.windows.eligibility_days + 1)) / 3
    return snapshots.withColumn("risk_segment", segment).withColumn("risk_score", score)


def feature_panel(snapshots: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """The features of the catalogue: (customer_id, as_of) and one double column each, none null.

    In: `customer_snapshots`. The snapshot's mean rating sums the customers' own means as decimals of twelve places, and
    every median is the middle two over two, so that no order of the rows changes a digit.
    """
    snapshot = Window.partitionBy("as_of")
    own_rating = _mean_score(F.col("scores"))
    usual_rating = F.sum(own_rating.cast("decimal(20,12)")).over(snapshot).cast("double") / F.count(own_rating).over(
        snapshot
    )
    recency_days, tenure_days = _days_between("last_ordered_at"), _days_between("first_ordered_at")
    values = {
        "total_orders": F.col("total_orders"),
        "avg_star_rating": F.coalesce(own_rating, usual_rating, F.lit(NEUTRAL_RATING)),
        "late_order_ratio": F.coalesce(
            F.col("late_deliveries") / F.nullif("promised_deliveries", F.lit(0)), F.lit(0.0)
        ),
        "segment_index": F.col("segment_index"),
        "crisis_exposure_index": F.col("has_crisis_delivery").cast("double"),
        "sentiment_velocity": _steepest_fall(F.col("scores")),
        "rfm_score": 100 * _quintile(-F.unix_micros("last_ordered_at"))
        + 10 * (6 - _quintile(F.col("total_orders")))
        + (6 - _quintile(F.col("spend"))),
        "recency_days": recency_days,
        "tenure_days": tenure_days,
        "gap_ratio": recency_days / own_gap_days(policy),
        "missed_orders": recency_days * F.col("orders_ever") / tenure_days,
        "recent_delay_minutes": F.col("recent_delay_minutes"),
    }
    return snapshots.select(
        "customer_id", "as_of", *[values[feature.name].cast("double").alias(feature.name) for feature in FEATURES]
    )


def own_gap_days(policy: ChurnPolicy) -> Column:
    """The customer's own median gap between orders in days, at least one; for rows of `customer_snapshots`.

    Fewer than two orders ever: the snapshot's median of those medians.
    """
    usual_gap = F.percentile("median_gap_days", 0.5).over(Window.partitionBy("as_of"))
    # Only when nobody in the snapshot ever ordered twice: then silence is judged by the outcome window.
    gap_days = F.coalesce("median_gap_days", usual_gap, F.lit(float(policy.windows.outcome_days)))
    return F.greatest(gap_days, F.lit(1.0))


def _days_between(earlier: str) -> Column:
    """Exact days (double) from timestamp column `earlier` to the as-of date."""
    return (F.unix_micros(F.col("as_of").cast("timestamp")) - F.unix_micros(earlier)) / F.lit(DAY_MICROS)


def _mean_score(scores: Column) -> Column:
    exact = F.transform(scores, lambda score: score.cast("decimal(20,10)"))
    total = F.aggregate(
        exact, F.lit(0).cast("decimal(20,10)"), lambda sum_, score: (sum_ + score).cast("decimal(20,10)")
    )
    return F.when(F.size(scores) > 0, total.cast("double") / F.size(scores))


def _steepest_fall(scores: Column) -> Column:
    pairs = F.greatest(F.size(scores) - 1, F.lit(0))
    changes = F.zip_with(F.slice(scores, 2, pairs), F.slice(scores, 1, pairs), lambda later, earlier: later - earlier)
    return F.coalesce(F.array_min(changes), F.lit(0.0))


def _quintile(value: Column) -> Column:
    """1 (lowest fifth) to 5 of `value` within the snapshot; equal values share a fifth.

    The k-th cut is the ceil(k n / 5)-th smallest value and a value equal to a cut belongs to the lower fifth. So the
    fifth of a value of (minimum) rank r is the smallest k with r <= ceil(k n / 5), which is floor(5 (r - 1) / n) + 1:
    integers only, where percentile_disc multiplies floats (0.2 * 35 > 7) and keeps each distinct value in memory.
    """
    snapshot = Window.partitionBy("as_of")
    rank = F.rank().over(snapshot.orderBy(value))
    return F.floor(5 * (rank - 1) / F.count(F.lit(1)).over(snapshot)) + 1

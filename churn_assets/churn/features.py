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
    # As day numbers: a sequence of dates by an interval is slower. Mondays are those with the calendar's remainder.
    begin, end = (F.unix_date(F.lit(day)) for day in (calendar.first, calendar.last))
    from_day, to_day = F.greatest(F.unix_date(first), begin), F.least(F.unix_date(last), end)
    first_monday = from_day + F.pmod(begin - from_day, F.lit(7))
    mondays = F.when(first_monday <= to_day, F.sequence(first_monday, to_day, F.lit(7)))
    return rows.withColumn("as_of", F.explode(mondays)).withColumn("as_of", F.date_from_unix_date("as_of"))


def customer_snapshots(silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """What is known of each eligible customer at each as-of date.

    In: silver orders. Out: customer_id, as_of (date), total_orders, last_ordered_at, spend (decimal), segment_index,
    promised_deliveries, late_deliveries, has_crisis_delivery, recent_delay_minutes, reviews, mean_score, worst_score,
    steepest_fall (the last three null without a review, or a pair of them), first_ordered_at, orders_ever,
    median_gap_days (null below two orders). Windows go by each event's own clock.
    """
    events = _each_observed(_with_history(silver), calendar, policy)
    reviews = F.count("reviewed_at")
    # Every state is a number or a time, which keeps the grouping compiled; arrays and structs would have it sort.
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
        (F.coalesce(F.sum("recent_delay_micros"), F.lit(0)) / F.lit(MINUTE_MICROS)).alias("recent_delay_minutes"),
        reviews.alias("reviews"),
        (F.sum("exact_score").cast("double") / F.nullif(reviews, F.lit(0))).alias("mean_score"),
        F.min("exact_score").cast("double").alias("worst_score"),
        F.min("change_of_score").alias("steepest_fall"),
        F.min("first_ordered_at").alias("first_ordered_at"),
        F.max("orders_so_far").alias("orders_ever"),
        F.max_by("median_gap_days", "orders_so_far").alias("median_gap_days"),
    )
    return snapshots.where(F.col("last_ordered_at") >= _midnight_before(policy.windows.eligibility_days))


def _each_observed(orders: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """Orders `_with_history` once for each as-of date that observes their order, delivery or review; the others null.

    An order's three windows lie nearly upon each other: so these are far fewer rows than one for each in each.
    """
    days = policy.windows.observation_days
    delay_micros = F.unix_micros("delivered_at") - F.unix_micros("promised_at")
    clocks = {
        "ordered": F.col("ordered_at"),
        "delivered": F.when(delay_micros.isNotNull(), F.col("delivered_at")),
        "reviewed": F.col("reviewed_at"),
    }
    # event < t: the first date after the event's day. t - days <= event: t at or before the day of event + days.
    first = {name: F.date_add(clock.cast("date"), 1) for name, clock in clocks.items()}
    last = {name: F.date_add(clock.cast("date"), days) for name, clock in clocks.items()}
    rows = each_as_of(orders, F.least(*first.values()), F.greatest(*last.values()), calendar)

    def observed(name: str, value: Column) -> Column:
        return F.when(F.col("as_of").between(first[name], last[name]), value)

    is_recently_late = (delay_micros > 0) & (F.col("delivered_at") >= _midnight_before(policy.windows.eligibility_days))
    is_change_observed = F.col("earlier_reviewed_at") >= _midnight_before(days)
    # Decimal sums do not depend on the order of their terms; a float sum would move customers between quintiles.
    spend, exact_score = F.col("subtotal").cast("decimal(28,10)"), F.col("review_score").cast("decimal(20,10)")
    return rows.select(
        "customer_id",
        "as_of",
        "first_ordered_at",
        *[
            observed("ordered", value).alias(name)
            for name, value in {
                "ordered_at": F.col("ordered_at"),
                "spend": spend,
                "segment_index": F.col("segment_index"),
                "orders_so_far": F.col("orders_so_far"),
                "median_gap_days": F.col("median_gap_days"),
            }.items()
        ],
        observed("delivered", delay_micros).alias("delay_micros"),
        observed("delivered", F.when(is_recently_late, delay_micros)).alias("recent_delay_micros"),
        observed("reviewed", F.col("reviewed_at")).alias("reviewed_at"),
        observed("reviewed", exact_score).alias("exact_score"),
        observed("reviewed", F.when(is_change_observed, F.col("change_of_score"))).alias("change_of_score"),
    )


def _midnight_before(days: int) -> Column:
    return F.date_sub("as_of", days).cast("timestamp")


def _with_history(silver: DataFrame) -> DataFrame:
    """Silver orders with what was known of the customer with each of them.

    Added: orders_so_far, first_ordered_at and median_gap_days of all orders up to this one, and change_of_score since
    the customer's review before this one, of earlier_reviewed_at. All rows of a customer are in one partition.
    """
    customer = Window.partitionBy("customer_id")
    by_order, by_review = customer.orderBy("ordered_at"), customer.orderBy("reviewed_at", "order_id")
    so_far = by_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    ordered_at = F.unix_micros("ordered_at")
    # One shuffle of the orders, and none of the many more rows that come of them: their groups lie within a customer's
    # partition.
    orders = silver.repartition("customer_id").select(
        "*",
        F.lag("reviewed_at").over(by_review).alias("earlier_reviewed_at"),
        (F.col("review_score") - F.lag("review_score").over(by_review)).alias("change_of_score"),
        (ordered_at - F.lag(ordered_at).over(by_order)).alias("gap_micros"),
    )
    return orders.select(
        *[name for name in orders.columns if name != "gap_micros"],
        F.row_number().over(by_order).alias("orders_so_far"),
        F.min("ordered_at").over(so_far).alias("first_ordered_at"),
        (_middle(F.sort_array(F.collect_list("gap_micros").over(so_far))) / F.lit(DAY_MICROS)).alias("median_gap_days"),
    )


def _middle(ordered: Column) -> Column:
    """The median of an ascending array; null of an empty one. F.percentile over a growing window took twice as long."""
    count = F.size(ordered)
    lower, upper = (F.get(ordered, F.floor(place / 2).cast("int")) for place in (count - 1, count))
    return F.when(count > 0, (lower + upper) / F.lit(2))


def require_eligible_customers(snapshots: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> None:
    """Raises NoEligibleCustomersError if no as-of date has an eligible customer."""
    if snapshots.isEmpty():
        raise NoEligibleCustomersError(
            f"No customer ordered within {policy.windows.eligibility_days} days before any as-of date "
            f"from {calendar.first} to {calendar.last}.",
            next_step="check ordered_at in the silver table, or widen windows.eligibility_days in policy.toml",
        )


def with_baseline_rule(snapshots: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """Adds the retention team's rule: `risk_segment`, and `risk_score` in [0, 1), ranking by segment, then silence."""
    silent_days = _days_between("last_ordered_at")
    is_silent = silent_days > policy.baseline.long_silence_days
    had_bad_experience = (F.col("late_deliveries") > 0) | F.coalesce(
        F.col("worst_score") <= policy.baseline.bad_review_score, F.lit(False)
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
    own_rating = F.col("mean_score")
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
        "sentiment_velocity": F.coalesce("steepest_fall", F.lit(0.0)),
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


def _quintile(value: Column) -> Column:
    """1 (lowest fifth) to 5 of `value` within the snapshot; equal values share a fifth.

    The k-th cut is the ceil(k n / 5)-th smallest value and a value equal to a cut belongs to the lower fifth. So the
    fifth of a value of (minimum) rank r is the smallest k with r <= ceil(k n / 5), which is floor(5 (r - 1) / n) + 1:
    integers only, where percentile_disc multiplies floats (0.2 * 35 > 7) and keeps each distinct value in memory.
    """
    snapshot = Window.partitionBy("as_of")
    rank = F.rank().over(snapshot.orderBy(value))
    return F.floor(5 * (rank - 1) / F.count(F.lit(1)).over(snapshot)) + 1

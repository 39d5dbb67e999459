"""What was known of each customer at an as-of date: snapshots, baseline rule, the panel of features.

Which columns the snapshots have is declared in `observed.py`, which features the panel has in `catalogue.py`.
Nothing here looks at or after an as-of date; that is `labels.py`.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.calendar import AsOfCalendar, calendar_of, day_counts
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.errors import NoEligibleCustomersError
from churn_assets.churn.measures import DAY_MICROS, as_decimal, days_since
from churn_assets.churn.observed import SNAPSHOT_COLUMNS
from churn_assets.churn.policy import ChurnPolicy


def as_of_calendar(silver: DataFrame, policy: ChurnPolicy) -> AsOfCalendar:
    """The calendar that silver orders (customer_id, ordered_at) allow. Raises as `calendar_of` does."""
    return calendar_of(day_counts(silver), policy)


def each_as_of(rows: DataFrame, first: Column, last: Column, calendar: AsOfCalendar) -> DataFrame:
    """Every row once for each of the calendar's as-of dates (column `as_of`) from date `first` to date `last`."""
    # As day numbers: a sequence of dates by an interval is slower. As-of dates are those with the calendar's remainder.
    begin, end = (F.unix_date(F.lit(day)) for day in (calendar.first, calendar.last))
    from_day, to_day = F.greatest(F.unix_date(first), begin), F.least(F.unix_date(last), end)
    start = F.unix_date(first_on_calendar(F.date_from_unix_date(from_day), calendar))
    days = F.when(start <= to_day, F.sequence(start, to_day, F.lit(calendar.step_days)))
    dated = rows.withColumn("as_of", F.explode(days)).withColumn("as_of", F.date_from_unix_date("as_of"))
    return dated.where(~F.col("as_of").isin(sorted(calendar.skipped))) if calendar.skipped else dated


def first_on_calendar(day: Column, calendar: AsOfCalendar) -> Column:
    """The first day from `day` on that is of the calendar, were it without begin and end and nothing skipped."""
    number, step = F.unix_date(day), F.lit(calendar.step_days)
    return F.date_from_unix_date(number + F.pmod(F.unix_date(F.lit(calendar.first)) - number, step))


def customer_snapshots(silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """What is known of each eligible customer at each as-of date.

    In: silver orders. Out: customer_id, as_of (date) and SNAPSHOT_COLUMNS; of these mean_score, worst_score and
    steepest_fall are null without a review, or a pair of them, and median_gap_days below two orders. They are
    aggregates of `_each_observed`, which see. Windows go by each event's own clock.
    """
    events, rules = _each_observed(_with_history(silver, calendar), calendar, policy), policy.feature_rules
    snapshots = events.groupBy("customer_id", "as_of").agg(
        *[column.value(rules).alias(name) for name, column in SNAPSHOT_COLUMNS.items()]
    )
    return snapshots.where(F.col("last_ordered_at") >= _midnight_before(policy.windows.eligibility_days))


def _each_observed(orders: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """Orders `_with_history` once for each as-of date that observes their order, delivery or review; the others null.

    Out: customer_id, as_of, first_ordered_at; of an observed order ordered_at, spend, segment_index, orders_so_far and
    median_gap_days; of a delivery with a promise delay_micros, and recent_delay_micros if it was late in the
    eligibility window; of a review reviewed_at, exact_score, and change_of_score if the one before is observed too.
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
    return rows.select(
        "customer_id",
        "as_of",
        "first_ordered_at",
        *[
            observed("ordered", value).alias(name)
            for name, value in {
                "ordered_at": F.col("ordered_at"),
                "spend": F.col("spend"),
                "segment_index": F.col("segment_index"),
                "orders_so_far": F.col("orders_so_far"),
                "median_gap_days": F.col("median_gap_days"),
            }.items()
        ],
        observed("delivered", delay_micros).alias("delay_micros"),
        observed("delivered", F.when(is_recently_late, delay_micros)).alias("recent_delay_micros"),
        observed("reviewed", F.col("reviewed_at")).alias("reviewed_at"),
        observed("reviewed", F.col("exact_score")).alias("exact_score"),
        observed("reviewed", F.when(is_change_observed, F.col("change_of_score"))).alias("change_of_score"),
    )


def _midnight_before(days: int) -> Column:
    return F.date_sub("as_of", days).cast("timestamp")


def _with_history(silver: DataFrame, calendar: AsOfCalendar) -> DataFrame:
    """Silver orders with what was known of the customer with each of them.

    Added: spend and exact_score, the subtotal and the score as decimals; orders_so_far and first_ordered_at of all
    orders up to this one; median_gap_days of them, where this is the last before an as-of date; change_of_score since
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
        # The first order has no gap. Of nulls some engines' lists hold as many, others none; -1 is always there, first.
        F.coalesce(ordered_at - F.lag(ordered_at).over(by_order), F.lit(-1)).alias("gap_micros"),
        F.lead("ordered_at").over(by_order).cast("date").alias("next_ordered_on"),
        # Decimal sums do not depend on the order of their terms; a float sum would move customers between quintiles.
        as_decimal(F.col("subtotal"), "decimal(28,10)").alias("spend"),
        as_decimal(F.col("review_score"), "decimal(20,10)").alias("exact_score"),
    )
    orders = orders.withColumns(
        {
            "orders_so_far": F.row_number().over(by_order),
            "first_ordered_at": F.min("ordered_at").over(so_far),
            "gaps_micros": F.collect_list("gap_micros").over(so_far),
        }
    )
    # Only these medians are looked at. To sort the gaps at every order of a customer took most of the time where one
    # has thousands.
    first_as_of = first_on_calendar(F.date_add(F.col("ordered_at").cast("date"), 1), calendar)
    is_last_before = F.coalesce(F.col("next_ordered_on") >= first_as_of, F.lit(True))
    median_gap = _middle(F.sort_array("gaps_micros")) / F.lit(DAY_MICROS)
    return orders.withColumn("median_gap_days", F.when(is_last_before, median_gap)).drop(
        "gap_micros", "gaps_micros", "next_ordered_on"
    )


def _middle(ordered: Column) -> Column:
    """The median of an ascending array without its first value; null where there is no other.

    F.percentile over a growing window took twice as long.
    """
    count = F.size(ordered) - 1
    lower, upper = (F.get(ordered, F.floor(place / 2).cast("int") + 1) for place in (count - 1, count))
    return F.when(count > 0, (lower + upper) / F.lit(2))


def no_eligible_customers(calendar: AsOfCalendar, policy: ChurnPolicy) -> NoEligibleCustomersError:
    """What to raise if no as-of date has an eligible customer."""
    return NoEligibleCustomersError(
        f"No customer ordered within {policy.windows.eligibility_days} days before any as-of date "
        f"from {calendar.first} to {calendar.last}.",
        next_step="check ordered_at in the silver table, or widen windows.eligibility_days in policy.toml",
    )


def with_baseline_rule(snapshots: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """Adds the retention team's rule: `risk_segment`, and `risk_score` in [0, 1), ranking by segment, then silence."""
    silent_days = days_since("last_ordered_at")
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

    In: `customer_snapshots`, perhaps `with_labels`; then `label` too.
    """
    rules = policy.feature_rules
    features = [feature.value(rules).cast("double").alias(feature.name) for feature in FEATURES]
    return snapshots.select("customer_id", "as_of", *features, *[name for name in snapshots.columns if name == "label"])

"""What was known of each customer at an as-of date: snapshots, baseline rule, the panel of features.

Which columns the snapshots have is declared in `observed.py`, which features the panel has in `catalogue.py`.
Nothing here looks at or after an as-of date; that is `labels.py`.
"""

from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from churn_assets.churn.calendar import AsOfCalendar, calendar_of, day_counts
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.cleaning import REVIEW_STATES
from churn_assets.churn.errors import NoEligibleCustomersError
from churn_assets.churn.measures import DAY_MICROS, as_decimal, days_since
from churn_assets.churn.observed import SNAPSHOT_COLUMNS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import united
from churn_assets.churn.waiting import with_waited


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
    aggregates of `_each_observed` and `_each_history`, which see. Windows go by each event's own clock.
    """
    orders = silver.repartition("customer_id")
    observed = _in_windows(silver, calendar, policy).repartition("customer_id")
    events, rules = _each_observed(_with_changes(observed), calendar, policy), policy.feature_rules
    if REVIEW_STATES in silver.columns:
        events = united(events, _each_review_state(orders, calendar, policy))
    events = united(events, _each_history(silver, calendar, policy))
    snapshots = events.groupBy("customer_id", "as_of").agg(
        *[column.value(rules).alias(name) for name, column in SNAPSHOT_COLUMNS.items()]
    )
    return snapshots.where(F.col("last_ordered_at") >= _midnight_before(policy.windows.eligibility_days))


def of_active_customers(silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """The silver orders of customers who can be eligible at one of the calendar's dates: all that snapshots rest on.

    A pass more where the calendar has all dates; of few dates most customers ever are left out.
    """
    begin = calendar.first - timedelta(days=policy.windows.eligibility_days)
    is_active = (F.col("ordered_at") >= _midnight(begin)) & (F.col("ordered_at") < _midnight(calendar.last))
    return silver.join(silver.where(is_active).select("customer_id").distinct(), "customer_id", "left_semi")


def _in_windows(orders: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """Without orders that no observation window of the calendar sees anything of, which would be sorted for nothing."""
    clocks = ("ordered_at", "delivered_at", "reviewed_at")
    begin = calendar.first - timedelta(days=policy.windows.observation_days)
    return orders.where((F.greatest(*clocks) >= _midnight(begin)) & (F.least(*clocks) < _midnight(calendar.last)))


def _midnight(day: date) -> Column:
    return F.lit(day).cast("timestamp")


def _each_observed(orders: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """Orders `_with_changes` once for each as-of date that observes their order, delivery or review; the others null.

    Out: customer_id, as_of; of an observed order ordered_at, spend and segment_index; of a delivery with a promise
    delay_micros, and recent_delay_micros if it was late in the eligibility window; of a review reviewed_at,
    exact_score, and change_of_score if the one before is observed too. An order's three windows lie nearly upon each
    other: so these are far fewer rows than one for each in each.
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
        *[observed("ordered", F.col(name)).alias(name) for name in ("ordered_at", "spend", "segment_index")],
        observed("delivered", delay_micros).alias("delay_micros"),
        observed("delivered", F.when(is_recently_late, delay_micros)).alias("recent_delay_micros"),
        observed("reviewed", F.col("reviewed_at")).alias("reviewed_at"),
        observed("reviewed", F.col("exact_score")).alias("exact_score"),
        observed("reviewed", F.when(is_change_observed, F.col("change_of_score"))).alias("change_of_score"),
    )


def _midnight_before(days: int) -> Column:
    return F.date_sub("as_of", days).cast("timestamp")


def _with_changes(orders: DataFrame) -> DataFrame:
    """Silver orders with spend and exact_score, the subtotal and the score as decimals; change_of_score since the
    customer's review before this one, of earlier_reviewed_at.

    In: all rows of a customer in one partition, so that none of the many more rows that come of them is shuffled:
    their groups lie within it. Reviews with states are left to `_each_review_state`.
    """
    if REVIEW_STATES in orders.columns:
        no_review = {"reviewed_at": "timestamp", "review_score": "double"}
        orders = orders.withColumns({name: F.lit(None).cast(kind) for name, kind in no_review.items()})
        before = {"earlier_reviewed_at": F.col("reviewed_at"), "change_of_score": F.col("review_score")}
    else:
        before = _since_review_before(Window.partitionBy("customer_id"))
    # Decimal sums do not depend on the order of their terms; a float sum would move customers between quintiles.
    decimals = {
        "spend": as_decimal(F.col("subtotal"), "decimal(28,10)"),
        "exact_score": as_decimal(F.col("review_score"), "decimal(20,10)"),
    }
    return orders.withColumns(before | decimals)


def _since_review_before(of_customer: WindowSpec) -> dict[str, Column]:
    by_review = of_customer.orderBy("reviewed_at", "order_id")
    return {
        "earlier_reviewed_at": F.lag("reviewed_at").over(by_review),
        "change_of_score": F.col("review_score") - F.lag("review_score").over(by_review),
    }


def _each_review_state(orders: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """The state of each review that was the last known at an as-of date, where that observes it.

    In: silver orders with review_states. Out: customer_id, as_of, reviewed_at, exact_score and change_of_score, as of
    `_each_observed`. Which review came before another may change with a state, so it is found for each date.
    """
    state = F.col("state")
    states = (
        orders.select("customer_id", "order_id", "ordered_at", F.explode(REVIEW_STATES).alias("state"))
        .select(
            "customer_id",
            "order_id",
            "ordered_at",
            *[state[name].alias(name) for name in ("known_at", "reviewed_at", "review_score")],
        )
        .where(F.col("reviewed_at") >= F.col("ordered_at"))
    )
    # Of several known from one instant on the lowest score stays, as in cleaning.
    of_review = Window.partitionBy("order_id").orderBy("known_at", "reviewed_at", F.desc("review_score"))
    until = F.lead("known_at").over(of_review)
    first = F.date_add(F.col("known_at").cast("date"), 1)
    # Known by t until another is: that one's time is not before t.
    last = F.least(
        F.date_add(F.col("reviewed_at").cast("date"), policy.windows.observation_days), F.col("until").cast("date")
    )
    observed = each_as_of(states.withColumn("until", until), first, last, calendar)
    changes = _since_review_before(Window.partitionBy("customer_id", "as_of"))
    return observed.select(
        "customer_id",
        "as_of",
        "reviewed_at",
        as_decimal(F.col("review_score"), "decimal(20,10)").alias("exact_score"),
        changes["change_of_score"].alias("change_of_score"),
    )


def _each_history(silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """What each as-of date knows of all orders of a customer before it, while the last is recent enough.

    Out: customer_id, as_of, first_ordered_at, orders_ever, median_gap_days, and waited_micros of the last. The gaps
    between orders are listed once for all orders between two dates: a list that grew with every order made a customer
    of thousands of orders cost time by the square of their number (2026-11-28).
    """
    of_customer = Window.partitionBy("customer_id")
    by_order, by_date = of_customer.orderBy("ordered_at"), of_customer.orderBy("known_from")
    so_far = by_date.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    ordered_at, day = F.unix_micros("ordered_at"), F.col("ordered_at").cast("date")
    orders = with_waited(silver, policy.windows.eligibility_days)
    between = (
        orders.select(
            "customer_id",
            "ordered_at",
            "waited_micros",
            # The first order has no gap. Of nulls some engines' lists hold as many, others none; -1 is always there,
            # first.
            F.coalesce(ordered_at - F.lag(ordered_at).over(by_order), F.lit(-1)).alias("gap_micros"),
            F.greatest(first_on_calendar(F.date_add(day, 1), calendar), F.lit(calendar.first)).alias("known_from"),
        )
        .groupBy("customer_id", "known_from")
        .agg(
            F.count(F.lit(1)).alias("orders"),
            F.min("ordered_at").alias("first_at"),
            F.max("ordered_at").alias("last_at"),
            F.max_by("waited_micros", "ordered_at").alias("waited_micros"),
            F.collect_list("gap_micros").alias("gaps"),
        )
    )
    known = between.select(
        "customer_id",
        "known_from",
        "last_at",
        "waited_micros",
        F.lead("known_from").over(by_date).alias("next_from"),
        F.min("first_at").over(so_far).alias("first_ordered_at"),
        F.sum("orders").over(so_far).alias("orders_ever"),
        F.flatten(F.collect_list("gaps").over(so_far)).alias("gaps"),
    )
    known = known.withColumn("median_gap_days", _middle(F.sort_array("gaps")) / F.lit(DAY_MICROS)).drop("gaps")
    until = F.date_add(F.col("last_at").cast("date"), policy.windows.eligibility_days)
    last = F.coalesce(F.least(F.date_sub("next_from", 1), until), until)
    dated = each_as_of(known, F.col("known_from"), last, calendar)
    return dated.select("customer_id", "as_of", "first_ordered_at", "orders_ever", "median_gap_days", "waited_micros")


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

"""Which as-of dates changed orders can touch: all that a refresh has to compute again, told by each event's own clock.

How a date's rows are computed is in `features.py` and `labels.py`. A date that is not named here comes out as before,
to the last digit; one that is named may differ.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.cleaning import REVIEW_STATES
from churn_assets.churn.policy import ChurnPolicy

# All that features, rule and label read of silver, beside the states of reviews.
READ_COLUMNS = (
    "order_id",
    "customer_id",
    "ordered_at",
    "promised_at",
    "delivered_at",
    "subtotal",
    "segment_index",
    "reviewed_at",
    "review_score",
)
CHANGE = "change"


@dataclass(frozen=True)
class TouchedDays:
    """The as-of dates from `first` to `last` (None: all later ones) whose snapshots, or labels alone, can differ."""

    first: date
    last: date | None
    is_of_label: bool

    @staticmethod
    def of_record(record: Sequence[Any]) -> "TouchedDays":
        first, last, is_of_label = record
        return TouchedDays(date.fromisoformat(first), last and date.fromisoformat(last), is_of_label)

    @property
    def record(self) -> list[Any]:
        """As a commit keeps it."""
        return [str(self.first), self.last and str(self.last), self.is_of_label]

    def holds(self, as_of: date) -> bool:
        return self.first <= as_of and (self.last is None or as_of <= self.last)


@dataclass(frozen=True)
class TouchedDates:
    """Dates of a calendar: `observed`, whose snapshots can differ, and `labelled`, whose labels can, or snapshots.

    gone: dates that an earlier calendar had and this one has not.
    """

    observed: frozenset[date]
    labelled: frozenset[date]
    gone: frozenset[date]


def changed_orders(before: DataFrame, after: DataFrame) -> DataFrame:
    """What only one of two silvers holds of what is read of it; `change`: how many such rows `after` has more.

    In: both with the same columns. Rows that both hold may be left out of both. Asks one query at once: on which days
    the orders are others, by a sum of hashes, so that the rows of these days alone are compared.
    """
    sides = [_read_of(rows, sign) for rows, sign in ((before, -1), (after, 1))]
    rows, names = reduce(DataFrame.unionByName, sides), sides[0].columns[:-1]
    nulls = [F.col(name).isNull() for name in names]
    # A hash leaves nulls out: which columns they are in is hashed beside.
    hashed = (F.xxhash64(*names, *nulls).cast("decimal(20,0)") * F.col(CHANGE)).alias("hashed")
    of_day = rows.select(F.col("ordered_at").cast("date").alias("day"), CHANGE, hashed).groupBy("day")
    sums = of_day.agg(F.sum(CHANGE).alias(CHANGE), F.sum("hashed").alias("hashed"))
    days = [row["day"] for row in sums.where((F.col(CHANGE) != 0) | (F.col("hashed") != 0)).collect()]
    of_days = F.col("ordered_at").cast("date").isin(days) if days else F.lit(False)
    return _differing(rows.where(of_days), names)


def _read_of(silver: DataFrame, sign: int) -> DataFrame:
    """READ_COLUMNS, the states of reviews where there are any, in an order of their own, and the `change` `sign`."""
    has_states = REVIEW_STATES in silver.columns
    states = [F.array_sort(REVIEW_STATES).alias(REVIEW_STATES)] if has_states else []
    return silver.select(*READ_COLUMNS, *states, F.lit(sign).alias(CHANGE))


def _differing(rows: DataFrame, names: Sequence[str]) -> DataFrame:
    return rows.groupBy(*names).agg(F.sum(CHANGE).alias(CHANGE)).where(F.col(CHANGE) != 0)


def touched_days(changed: DataFrame, policy: ChurnPolicy) -> list[TouchedDays]:
    """Which as-of dates `changed_orders` can touch. They are read several times: from where they need not be computed.

    An order is told apart into what has a clock of its own: of one that has been delivered since, those dates alone are
    touched that observe the delivery.
    """
    found = reduce(DataFrame.unionByName, _touched(changed, policy)).distinct().collect()
    return [TouchedDays(row["first"], row["last"], row["is_of_label"]) for row in found]


def _touched(changed: DataFrame, policy: ChurnPolicy) -> Iterator[DataFrame]:
    """first, last, is_of_label of what is read together, by the windows of `features.py` and `labels.py`."""
    days = policy.windows.observation_days
    ordered, delivered, reviewed = (F.col(name).cast("date") for name in ("ordered_at", "delivered_at", "reviewed_at"))

    def of(names: Sequence[str], first: Column, last: Column, *, is_of_label: bool = False) -> DataFrame:
        differing = _differing(changed.where(first.isNotNull()), names)
        return differing.select(first.alias("first"), last.alias("last"), F.lit(is_of_label).alias("is_of_label"))

    order = ("customer_id", "ordered_at")
    outcome = F.date_sub(ordered, policy.windows.outcome_days - 1)
    yield of(order, outcome, ordered, is_of_label=True)
    # Every later date counts it: the first order ever, how many there were, the gaps between them.
    yield of(order, F.date_add(ordered, 1), F.lit(None).cast("date"))
    of_order = (*order, "subtotal", "segment_index")
    yield of(of_order, F.date_add(ordered, 1), F.date_add(ordered, days))
    # An order knows it for an eligibility window, and is itself the last for another.
    of_delivery = ("customer_id", "promised_at", "delivered_at")
    known_days = max(days, 2 * policy.windows.eligibility_days - 1)
    yield of(of_delivery, F.date_add(delivered, 1), F.date_add(delivered, known_days))
    # A change since the review before counts where that is observed too.
    of_review = ("customer_id", "order_id", "reviewed_at", "review_score")
    yield of(of_review, F.date_add(reviewed, 1), F.date_add(reviewed, days))
    if REVIEW_STATES in changed.columns:
        yield _touched_by_states(changed, days)


def _touched_by_states(changed: DataFrame, days: int) -> DataFrame:
    """A state touches the dates from when it was known, to the last that observes any state of its review."""
    of_state = ("customer_id", "order_id", "ordered_at", "known_at", "reviewed_at", "review_score")
    rows = changed.select(
        *of_state[:3],
        CHANGE,
        F.array_max(F.transform(REVIEW_STATES, lambda state: state["reviewed_at"])).alias("latest"),
        F.explode(REVIEW_STATES).alias("state"),
    )
    states = rows.select(*of_state[:3], CHANGE, "latest", *[F.col("state")[name].alias(name) for name in of_state[3:]])
    differing = states.groupBy(*of_state).agg(F.sum(CHANGE).alias(CHANGE), F.max("latest").alias("latest"))
    return differing.where(F.col(CHANGE) != 0).select(
        F.date_add(F.col("known_at").cast("date"), 1).alias("first"),
        F.date_add(F.col("latest").cast("date"), days).alias("last"),
        F.lit(False).alias("is_of_label"),
    )


def touched_dates(
    days: Collection[TouchedDays], before: AsOfCalendar, after: AsOfCalendar, policy: ChurnPolicy
) -> TouchedDates:
    """The dates of the calendar `after` that come out otherwise than under the calendar `before`, or may.

    days: `touched_days`. A label matures, or is lost to a gap, without any order of its own.
    """
    had, has = set(before.dates), set(after.dates)
    outcome_days = policy.windows.outcome_days
    observed = {day for day in has if day not in had or any(each.holds(day) for each in days if not each.is_of_label)}
    of_label = {day for day in has if any(each.holds(day) for each in days if each.is_of_label)}
    matured = {day for day in has if before.is_known(day, outcome_days) != after.is_known(day, outcome_days)}
    return TouchedDates(frozenset(observed), frozenset(observed | of_label | matured), frozenset(had - has))

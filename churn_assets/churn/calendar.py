"""The calendar: which days of orders are complete, which are missing, and at which dates snapshots are taken.

Told from how many orders there were on each day; only `day_counts` looks at orders. What is made of it: `arrivals.py`.
"""

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from statistics import median
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import NoEligibleCustomersError, WatermarkBeyondOrdersError
from churn_assets.churn.policy import ChurnPolicy

ONE_DAY = timedelta(days=1)
# What is usual of a weekday is told from its latest ordinary eight, and from four at least: then every day is judged
# that an eligibility window of 30 days can hold at the first as-of date, which lies 60 days after the first order.
USUAL_WEEKS, LEAST_WEEKS = 8, 4
# exp(-18.4) is 1 in 100 million, exp(-6.9) 1 in 1,000: so seldom are orders that come by chance (Poisson) as few, or as
# many. The first for what is called a fault, the second for what had better not be believed.
BEYOND_CHANCE, UNLIKELY = 18.4, 6.9


@dataclass(frozen=True)
class DayCount:
    """What came of one day: kept orders, and how many customers ordered."""

    orders: int
    customers: int


def day_counts(orders: DataFrame) -> dict[date, DayCount]:
    """Of each day with an order. In: customer_id, ordered_at."""
    of_customers = orders.groupBy(F.col("ordered_at").cast("date").alias("day"), "customer_id")
    counted = of_customers.agg(F.count(F.lit(1)).alias("orders"))
    days = counted.groupBy("day").agg(F.sum("orders").alias("orders"), F.count(F.lit(1)).alias("customers"))
    return {row["day"]: DayCount(row["orders"], row["customers"]) for row in days.collect()}


def as_record(counts: Mapping[date, DayCount]) -> dict[str, list[int]]:
    """Day counts as a commit keeps them."""
    return {str(day): [counts[day].orders, counts[day].customers] for day in sorted(counts)}


def of_record(record: Mapping[str, Any]) -> dict[date, DayCount]:
    return {date.fromisoformat(day): DayCount(*numbers) for day, numbers in record.items()}


class DayState(StrEnum):
    """COMPLETE: its orders reach the share of what is usual. LOW: they do not. QUIET: none are usual on such a day.

    UNJUDGED: nothing is usual yet, or somebody vouches for the day. CLOSED, HOLIDAY: the policy says so.
    """

    COMPLETE = "complete"
    LOW = "low"
    QUIET = "quiet"
    UNJUDGED = "unjudged"
    CLOSED = "closed"
    HOLIDAY = "holiday"


@dataclass(frozen=True)
class Day:
    """A day from the first order's to the last one's. usual: the orders of such a day; None where nobody can tell."""

    day: date
    orders: int
    usual: float | None
    state: DayState


@dataclass(frozen=True)
class Span:
    """The days from `first` to `last`, both included. usual: how many orders are usual in them; None: not told."""

    first: date
    last: date
    orders: int = 0
    usual: float | None = None

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    def touches(self, begin: date, end: date) -> bool:
        """Whether one of its days is in [begin, end)."""
        return self.first < end and self.last >= begin

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def surprise(orders: float, usual: float) -> float:
    """How seldom orders that come by chance are so few, or so many: once in exp(surprise) times at most.

    Chernoff's bound of the Poisson tail: P <= exp(-(usual - orders + orders ln(orders / usual))).
    """
    if usual <= 0:
        return 0.0
    return usual - orders + (orders * math.log(orders / usual) if orders else 0.0)


def judged_days(counts: Mapping[date, DayCount], policy: ChurnPolicy) -> list[Day]:
    """Every day from the first order's to the last one's, in order; each against the weeks before it alone.

    What is usual is the median of the same weekday in the latest eight weeks that had an ordinary one: days of a gap, a
    closure or a holiday are no measure for those after them.
    """
    rules, days = policy.calendar, []
    usual_of: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=USUAL_WEEKS))
    day, last = min(counts), max(counts)
    while day <= last:
        orders, before = counts[day].orders if day in counts else 0, usual_of[day.weekday()]
        usual = float(median(before)) if len(before) >= LEAST_WEEKS else None
        if rules.closure_of(day) is not None:
            state = DayState.CLOSED
        elif day in rules.holidays:
            state = DayState.HOLIDAY
        elif usual is None or day == policy.cleaning.watermark:
            state = DayState.UNJUDGED
        elif usual == 0:
            state = DayState.QUIET
        else:
            state = DayState.COMPLETE if orders >= rules.min_day_share * usual else DayState.LOW
        if state not in (DayState.LOW, DayState.CLOSED, DayState.HOLIDAY):
            before.append(orders)
        days.append(Day(day, orders, usual, state))
        day += ONE_DAY
    return days


def watermark_of(days: Sequence[Day], policy: ChurnPolicy) -> date:
    """The policy's watermark, else the last complete day. In: `judged_days`. Raises WatermarkBeyondOrdersError."""
    configured, last = policy.cleaning.watermark, days[-1].day
    if configured is not None and configured > last:
        raise WatermarkBeyondOrdersError(
            f"cleaning.watermark in policy.toml is {configured}, and the last kept order is of {last}: nobody can know "
            "that the orders of the days between are complete.",
            next_step=f"set it to {last} at most, or leave it out: then it is the last complete day",
        )
    if configured is not None:
        return configured
    complete = (days[place].day for place in reversed(range(len(days))) if _is_complete(days, place, policy))
    return next(complete, last)


def _is_complete(days: Sequence[Day], place: int, policy: ChurnPolicy) -> bool:
    # Where nothing is usual on a Saturday, the Saturday is as complete as the Friday.
    while days[place].state is DayState.QUIET and place > 0:
        place -= 1
    state = days[place].state
    if state is not DayState.COMPLETE:
        return state in (DayState.UNJUDGED, DayState.QUIET)
    # A few test orders long after the end are as many as are usual where few are: the week has to be there too.
    week = [day for day in days[max(0, place - 6) : place + 1] if day.state in (DayState.COMPLETE, DayState.LOW)]
    orders, usual = sum(day.orders for day in week), sum(day.usual or 0.0 for day in week)
    return orders >= policy.calendar.min_day_share * usual or surprise(orders, usual) <= UNLIKELY


def low_runs(days: Sequence[Day], watermark: date) -> list[Span]:
    """Runs of LOW days before the watermark that are more than chance; quiet days and holidays do not end a run."""
    runs: list[list[Day]] = [[]]
    for day in days:
        if day.day >= watermark:
            break
        if day.state is DayState.LOW:
            runs[-1].append(day)
        elif day.orders or day.state not in (DayState.QUIET, DayState.HOLIDAY):
            runs.append([])
    spans = [
        Span(run[0].day, run[-1].day, sum(day.orders for day in run), sum(day.usual or 0.0 for day in run))
        for run in runs
        if run
    ]
    return [span for span in spans if surprise(span.orders, span.usual or 0.0) > BEYOND_CHANCE]


def gaps_of(days: Sequence[Day], watermark: date, policy: ChurnPolicy) -> list[Span]:
    """The `low_runs` that are as long as the policy calls a gap. Shorter ones are named, and change nothing."""
    return [run for run in low_runs(days, watermark) if run.days >= policy.calendar.min_gap_days]


@dataclass(frozen=True)
class AsOfCalendar:
    """The as-of dates, from `first` to `last` every `step_days`. watermark: the last complete day of orders.

    interruptions: gaps and closures. skipped: the dates in whose eligibility window one lies, which have no snapshot.
    judged_weekday: of dates a day apart those that train and judge; None: all.
    """

    first: date
    last: date
    watermark: date
    step_days: int = 7
    judged_weekday: int | None = None
    interruptions: tuple[Span, ...] = ()
    skipped: frozenset[date] = frozenset()

    @property
    def dates(self) -> list[date]:
        return [day for day in each_date(self.first, self.last, self.step_days) if day not in self.skipped]

    def only(self, dates: Collection[date]) -> "AsOfCalendar":
        """This calendar with none but these of its dates, of which there is one at least."""
        first, last = min(dates), max(dates)
        others = frozenset(day for day in each_date(first, last, self.step_days) if day not in dates)
        return replace(self, first=first, last=last, skipped=others)

    def is_known(self, as_of: date, outcome_days: int) -> bool:
        """Whether the outcome window is over at the watermark and nothing interrupts it."""
        end = as_of + timedelta(days=outcome_days)
        return end <= self.watermark + ONE_DAY and not any(gap.touches(as_of, end) for gap in self.interruptions)

    def labelled(self, outcome_days: int) -> list[date]:
        """The dates that judge and whose outcome is known, rising."""
        judging = [day for day in self.dates if self.judged_weekday in (None, day.weekday())]
        return [day for day in judging if self.is_known(day, outcome_days)]

    def last_labelled(self, outcome_days: int) -> date | None:
        """The latest of them; None if there is none yet."""
        return max(self.labelled(outcome_days), default=None)


def each_date(first: date, last: date, step_days: int) -> Iterator[date]:
    """`first` and every `step_days` after it, to `last` at most."""
    for number in range((last - first).days // step_days + 1):
        yield first + timedelta(days=number * step_days)


def calendar_of(counts: Mapping[date, DayCount], policy: ChurnPolicy) -> AsOfCalendar:
    """The calendar that orders of these days allow.

    From the first date with a full observation window of data behind it, to the last at most a day after the watermark.
    Raises NoEligibleCustomersError if there is no such date, WatermarkBeyondOrdersError.
    """
    if not counts:
        raise NoEligibleCustomersError("No order is left after cleaning.", next_step="look at quarantined_rows for why")
    rules, windows = policy.calendar, policy.windows
    days = judged_days(counts, policy)
    watermark = watermark_of(days, policy)
    begin = days[0].day + timedelta(days=windows.observation_days)
    first = begin + timedelta(days=rules.days_until_snapshot(begin))
    last = watermark + ONE_DAY - timedelta(days=(watermark + ONE_DAY - first).days % rules.step_days)
    every = rules.date_name
    if first > last:
        raise NoEligibleCustomersError(
            f"Orders run from {days[0].day} to {watermark}: "
            f"no {every} has {windows.observation_days} days of data behind it.",
            next_step="provide a longer order history, or shorten windows.observation_days in policy.toml",
        )
    interruptions = (
        *gaps_of(days, watermark, policy),
        *[Span(closure.begin, closure.to) for closure in rules.closures],
    )
    skipped = frozenset(
        day
        for day in each_date(first, last, rules.step_days)
        if any(each.touches(day - timedelta(days=windows.eligibility_days), day) for each in interruptions)
    )
    calendar = AsOfCalendar(
        first, last, watermark, rules.step_days, rules.judged_weekday, tuple(sorted(interruptions, key=str)), skipped
    )
    if not calendar.dates:
        raise NoEligibleCustomersError(
            f"Orders run from {days[0].day} to {watermark}, and within {windows.eligibility_days} days before every "
            f"{every} that has {windows.observation_days} days of data behind it lies a gap or a closure.",
            [str(each) for each in calendar.interruptions],
            next_step="land the missing orders, or provide a longer order history",
        )
    return calendar

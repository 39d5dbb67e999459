"""What is told of the orders that came: each fault by its name, and nothing in ordinary years."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pytest

from churn_assets.churn.arrivals import AFTER, FRESH, GAPS, VOLUME, Load, arrival_outcomes, stale_orders
from churn_assets.churn.calendar import DayCount
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy

BEGIN = date(2024, 1, 1)  # a Monday
DAY = timedelta(days=1)
WEEKLY = (0.8, 0.8, 0.9, 1.0, 1.3, 1.3, 0.9)
Counts = dict[date, DayCount]


def ordinary(days: int, orders: float, seed: int, growth: float = 0.0) -> Counts:
    """Orders by chance (Poisson) about a usual week, which grows by a share a week."""
    random = np.random.default_rng(seed)
    means = [orders * WEEKLY[number % 7] * (1 + growth) ** (number / 7) for number in range(days)]
    came = [int(count) for count in random.poisson(means)]
    return {BEGIN + number * DAY: DayCount(count, round(count * 0.95)) for number, count in enumerate(came) if count}


def part(counts: Counts, first: date, last: date, share: float) -> Counts:
    """Of the days from `first` to `last` only a share."""
    changed = {
        day: DayCount(round(count.orders * share), round(count.customers * share)) if first <= day <= last else count
        for day, count in counts.items()
    }
    return {day: count for day, count in changed.items() if count.orders}


def policy_of(**sections: Mapping[str, Any]) -> ChurnPolicy:
    return ChurnPolicy.model_validate(sections)


POLICY = ChurnPolicy()


def loaded(counts: Counts, monday: date, rows: int | None = None) -> Load:
    """The load of 03:00 of a day: the days before it, and three hours of its own."""
    kept = {day: count for day, count in counts.items() if day < monday}
    if monday in counts:
        kept[monday] = DayCount(max(1, counts[monday].orders // 20), max(1, counts[monday].customers // 20))
    total = sum(count.orders for count in kept.values())
    return Load(kept, total if rows is None else rows, datetime.combine(monday, time(3), UTC))


def told(load: Load, *earlier: Load, now: datetime | None = None, policy: ChurnPolicy = POLICY) -> dict[str, Outcome]:
    outcomes = arrival_outcomes(load, earlier, [], now or load.loaded_at, policy)
    return {outcome.rule: outcome for outcome in outcomes}


def alarms(load: Load, *earlier: Load, policy: ChurnPolicy = POLICY) -> dict[str, str]:
    found = told(load, *earlier, policy=policy)
    return {rule: outcome.observed for rule, outcome in found.items() if not outcome.is_passed}


def mondays(weeks: int, first: int = 9) -> list[date]:
    return [BEGIN + 7 * number * DAY for number in range(first, first + weeks)]


@pytest.mark.parametrize("growth", [0.0, 0.05, -0.02])
@pytest.mark.parametrize("orders", [2, 8, 60, 1_000])
def test_nothing_is_told_in_52_ordinary_weeks_nor_in_growth(orders: int, growth: float) -> None:
    counts = ordinary(62 * 7, orders, seed=orders, growth=growth)
    loads = [loaded(counts, monday) for monday in mondays(52)]
    found = [alarms(load, *loads[max(0, place - 8) : place]) for place, load in enumerate(loads)]
    assert [each for each in found if each] == []


def test_nothing_is_told_where_late_rows_fill_the_days_before() -> None:
    counts = ordinary(30 * 7, 500, seed=1)
    *_, monday = mondays(15)
    before = part(counts, monday - 9 * DAY, monday - 8 * DAY, 0.97)
    assert alarms(loaded(counts, monday), loaded(before, monday - 7 * DAY)) == {}


def test_a_holiday_that_the_policy_names_is_no_news_and_one_that_it_does_not_is_named() -> None:
    counts = ordinary(30 * 7, 500, seed=2)
    *_, monday = mondays(15)
    holiday = monday - 4 * DAY
    quiet = part(counts, holiday, holiday, 0.02)
    assert alarms(loaded(quiet, monday), policy=policy_of(calendar={"holidays": [holiday]})) == {}
    found = alarms(loaded(quiet, monday))
    assert str(holiday) in found[GAPS]
    assert f"holidays = [{holiday}]" in found[GAPS]
    assert str(holiday) in found[VOLUME]
    # At the very end it is no late feed.
    last = monday - DAY
    ends = part(counts, last, last, 0.0)
    assert FRESH not in alarms(loaded(ends, monday), policy=policy_of(calendar={"holidays": [last]}))


@pytest.mark.parametrize(("days", "is_failure"), [(3, False), (8, True)])
def test_a_stopped_feed_is_late_at_the_next_load(days: int, is_failure: bool) -> None:
    counts = ordinary(30 * 7, 500, seed=3)
    *_, monday = mondays(15)
    until = {day: count for day, count in counts.items() if day < monday - days * DAY}
    outcome = told(Load(until, 1, datetime.combine(monday, time(3), UTC)))[FRESH]
    assert (outcome.is_passed, outcome.is_warning) == (False, not is_failure)
    assert outcome.observed.startswith(f"complete up to {monday - (days + 1) * DAY}: {days}.1 days before the load")


def test_orders_age_without_a_load_and_stale_ones_are_not_scored() -> None:
    counts = ordinary(30 * 7, 500, seed=3)
    *_, monday = mondays(15)
    load = loaded(counts, monday)
    assert told(load, now=load.loaded_at + 13 * DAY)[FRESH].is_passed
    outcome = told(load, now=load.loaded_at + 14 * DAY)[FRESH]
    assert (outcome.is_passed, outcome.is_warning) == (False, False)
    mark = load.watermark(POLICY)
    assert stale_orders(mark, load.loaded_at + 13 * DAY, POLICY) is None
    reason = stale_orders(mark, load.loaded_at + 14 * DAY, POLICY)
    assert reason is not None
    assert f"complete up to {mark}, 14.1 days before" in reason
    # Two weeks of closure do not age them.
    closed = policy_of(calendar={"closures": [{"from": monday, "to": monday + 13 * DAY}]})
    assert stale_orders(mark, load.loaded_at + 20 * DAY, closed) is None


def test_half_a_day_is_named() -> None:
    counts = ordinary(30 * 7, 500, seed=4)
    *_, monday = mondays(15)
    day = monday - DAY
    outcome = told(loaded(part(counts, day, day, 0.5), monday))[VOLUME]
    assert (outcome.is_passed, outcome.is_warning) == (False, True)
    assert f"orders of {day}: " in outcome.observed
    # What came of a day is no longer a whole day.
    quarter = told(loaded(part(counts, day, day, 0.25), monday))
    assert not quarter[AFTER].is_passed
    assert (quarter[VOLUME].is_passed, quarter[VOLUME].is_warning) == (False, False)


@pytest.mark.parametrize(("share", "is_failure"), [(0.1, True), (0.5, False), (2.0, False), (4.0, True)])
def test_a_week_of_a_tenth_or_twice_the_rows_is_named(share: float, is_failure: bool) -> None:
    counts = ordinary(30 * 7, 500, seed=5)
    *_, monday = mondays(15)
    outcome = told(loaded(part(counts, monday - 7 * DAY, monday - DAY, share), monday))[VOLUME]
    assert (outcome.is_passed, outcome.is_warning) == (False, not is_failure)
    assert f"orders of {monday - 7 * DAY} to {monday - DAY}: " in outcome.observed
    assert f"customers a day of {monday - 7 * DAY} to {monday - DAY}: " in outcome.observed


@pytest.mark.parametrize(
    ("change", "rows", "named", "is_failure"),
    [
        (lambda counts: part(counts, BEGIN, date.max, 0.1), None, "orders of the days that earlier loads had", True),
        (lambda counts: part(counts, BEGIN, date.max, 2.0), None, "customers of the days that earlier loads had", True),
        (lambda counts: part(counts, BEGIN, date.max, 0.8), None, "orders of the days that earlier loads had", False),
        (lambda counts: counts, 2, "source rows for 1,000 kept orders", True),
    ],
    ids=["a tenth", "doubled", "a fifth less", "each row twice"],
)
def test_a_load_that_tells_of_days_otherwise_than_those_before_it_is_named(
    change: Callable[[Counts], Counts], rows: int | None, named: str, is_failure: bool
) -> None:
    counts = ordinary(30 * 7, 500, seed=6)
    last = mondays(15)[-1]
    # The first load of all was as broken as the latest: the others outvote it.
    earlier = [loaded(change(counts), mondays(1)[0]), *(loaded(counts, monday) for monday in mondays(14))]
    load = loaded(change(counts), last)
    if rows is not None:
        load = Load(load.counts, rows * load.source_rows, load.loaded_at)
    outcome = told(load, *earlier[-8:])[VOLUME]
    assert (outcome.is_passed, outcome.is_warning) == (False, not is_failure)
    assert named in outcome.observed
    assert alarms(loaded(counts, last), *earlier[-8:]) == {}


def test_a_gap_is_named_with_what_it_does_and_how_to_declare_it() -> None:
    counts = ordinary(30 * 7, 500, seed=7)
    first, last = date(2024, 4, 1), date(2024, 4, 20)
    closed = part(counts, first, last, 0.0)
    outcome = told(loaded(closed, mondays(15)[-1]))[GAPS]
    assert outcome.is_warning
    assert outcome.observed.startswith("gap 2024-04-01 to 2024-04-20: 0 orders, ")
    assert "No label where a gap lies within 30 days after the date" in outcome.observed
    assert "closures = [{ from = 2024-04-01, to = 2024-04-20 }]" in outcome.observed
    declared = policy_of(calendar={"closures": [{"from": first, "to": last}]})
    assert alarms(loaded(closed, mondays(15)[-1]), policy=declared) == {}


def test_strays_are_named_and_the_loads_own_day_is_none() -> None:
    counts = ordinary(14 * 7, 500, seed=8)
    end = max(counts)
    stray = {**counts, end + 20 * DAY: DayCount(1, 1)}
    load = Load(stray, 1, datetime.combine(end + 25 * DAY, time(3), UTC))
    outcome = arrival_outcomes(load, [], ["T1"], load.loaded_at, POLICY)[2]
    assert (outcome.is_passed, outcome.is_warning, outcome.keys) == (False, True, ("T1",))
    assert outcome.observed.startswith(f"1 orders of 1 days after {end}, the last complete day: {end + 20 * DAY} (1)")
    assert told(loaded(counts, end))[AFTER].is_passed

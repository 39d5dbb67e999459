"""Which days are complete, which are missing, and when snapshots are taken; the plain reference says the same."""

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

import pytest

from churn_assets.churn.calendar import AsOfCalendar, DayCount, calendar_of, gaps_of, judged_days, watermark_of
from churn_assets.churn.errors import NoEligibleCustomersError, WatermarkBeyondOrdersError
from churn_assets.churn.policy import Calendar, ChurnPolicy, Cleaning
from churn_assets_tests import reference, shops

Orders = list[dict[str, Any]]
BEGIN = date(2025, 6, 2)  # a Monday
DAY = timedelta(days=1)


def counted(orders: Mapping[int, int]) -> dict[date, DayCount]:
    """Orders by the number of the day since BEGIN."""
    return {BEGIN + number * DAY: DayCount(count, count) for number, count in orders.items() if count}


def steady(days: int, orders: int = 40, **changed: int) -> dict[date, DayCount]:
    """So many orders on each of so many days, but day_7=0: none on the eighth."""
    return counted({number: changed.get(f"day_{number}", orders) for number in range(days)})


def policy_of(**calendar: Any) -> ChurnPolicy:
    watermark = calendar.pop("watermark", None)
    return ChurnPolicy(calendar=Calendar.model_validate(calendar), cleaning=Cleaning(watermark=watermark))


def watermark(counts: Mapping[date, DayCount], policy: ChurnPolicy = ChurnPolicy()) -> date:  # noqa: B008
    return watermark_of(judged_days(counts, policy), policy)


# ---- the last complete day


@pytest.mark.parametrize(("came", "is_complete"), [(11, False), (12, True)])
def test_a_day_is_complete_with_the_policys_share_of_what_is_usual_on_such_a_day(came: int, is_complete: bool) -> None:
    assert watermark(steady(100, day_99=came)) == BEGIN + (99 if is_complete else 98) * DAY
    assert watermark(steady(100, day_99=11), policy_of(min_day_share=0.275)) == BEGIN + 99 * DAY


def test_what_is_usual_is_the_same_weekdays_of_the_latest_eight_weeks() -> None:
    def of_weekday(number: int) -> int:
        return 100 if number % 7 == 5 else 10

    counts = {number: of_weekday(number) for number in range(100)}
    assert watermark(counted(counts | {99: 10})) == BEGIN + 99 * DAY, "a Tuesday has ten"
    saturday = 96
    until_saturday = {number: of_weekday(number) for number in range(saturday)}
    assert watermark(counted(until_saturday | {saturday: 10})) == BEGIN + 95 * DAY, "a Saturday has a hundred"
    # Eight weeks of ten, after more weeks of a hundred.
    shrunk = {number: 100 if number < 70 else 31 for number in range(70 + 8 * 7)}
    assert watermark(counted(shrunk | {126: 10})) == BEGIN + 126 * DAY


def test_stray_orders_long_after_the_end_move_nothing() -> None:
    counts = steady(100)
    assert watermark(counts | counted({120: 1})) == BEGIN + 99 * DAY
    # As many as are usual where few are, on a single day.
    few = steady(100, orders=2)
    assert watermark(few | counted({120: 2, 130: 1})) == BEGIN + 99 * DAY


def test_a_shop_that_never_sells_on_a_sunday_has_complete_sundays() -> None:
    counts = counted({number: 0 if number % 7 == 6 else 40 for number in range(100)})
    assert watermark(counts) == BEGIN + 99 * DAY
    # A stray order on a Sunday, four weeks after the end.
    assert watermark(counts | counted({132: 1})) == BEGIN + 99 * DAY
    # The Sunday after a complete Saturday.
    until_saturday = {day: count for day, count in counts.items() if day < BEGIN + 97 * DAY}
    assert watermark(until_saturday | counted({97: 1})) == BEGIN + 97 * DAY


def test_where_nothing_is_usual_yet_every_day_is_complete() -> None:
    assert watermark(steady(20, day_19=1)) == BEGIN + 19 * DAY
    assert watermark(counted({0: 1, 60: 1, 89: 1})) == BEGIN + 89 * DAY


def test_the_policys_watermark_is_taken_and_refused_beyond_the_last_order() -> None:
    counts = steady(100, day_99=1)
    assert watermark(counts, policy_of(watermark=BEGIN + 99 * DAY)) == BEGIN + 99 * DAY
    assert watermark(counts, policy_of(watermark=BEGIN + 50 * DAY)) == BEGIN + 50 * DAY
    with pytest.raises(WatermarkBeyondOrdersError, match=r"2025-09-10.*last kept order is of 2025-09-09"):
        watermark(counts, policy_of(watermark=BEGIN + 100 * DAY))


# ---- gaps and closures


def gaps(counts: Mapping[date, DayCount], policy: ChurnPolicy = ChurnPolicy()) -> list[str]:  # noqa: B008
    days = judged_days(counts, policy)
    return [str(gap) for gap in gaps_of(days, watermark_of(days, policy), policy)]


def without(first: int, last: int, count: int = 0) -> dict[str, int]:
    return {f"day_{number}": count for number in range(first, last + 1)}


def test_a_gap_is_a_week_of_days_with_far_fewer_orders_than_usual() -> None:
    assert gaps(steady(150)) == []
    assert gaps(steady(150, **without(70, 76))) == ["2025-08-11 to 2025-08-17"]
    assert gaps(steady(150, **without(70, 76, 4))) == ["2025-08-11 to 2025-08-17"], "a tenth of the orders"
    assert gaps(steady(150, **without(70, 75))) == [], "shorter than a week"
    assert gaps(steady(150, **without(70, 75)), policy_of(min_gap_days=6)) == ["2025-08-11 to 2025-08-16"]
    assert gaps(steady(150, **without(70, 76, 12))) == [], "as many as the share"


def test_a_gap_of_a_quarter_is_a_gap_to_its_end() -> None:
    # Its own days are no measure of what is usual.
    assert gaps(steady(200, **without(70, 160))) == ["2025-08-11 to 2025-11-09"]


def test_a_gap_goes_on_over_days_without_sales_and_over_holidays() -> None:
    counts = counted({number: 0 if number % 7 == 6 or 70 <= number <= 79 else 40 for number in range(150)})
    assert gaps(counts) == ["2025-08-11 to 2025-08-20"]
    assert gaps(counts, policy_of(holidays=[BEGIN + 75 * DAY])) == ["2025-08-11 to 2025-08-20"]


def test_a_week_of_silence_is_chance_where_orders_are_few() -> None:
    assert gaps(steady(150, orders=2, **without(70, 76))) == []
    assert gaps(steady(150, orders=2, **without(70, 80))) == ["2025-08-11 to 2025-08-21"]


def test_days_of_a_closure_or_holiday_are_no_gap_and_no_measure_of_others() -> None:
    counts = steady(150, **without(70, 100))
    assert gaps(counts) != []
    closed = policy_of(closures=[{"from": BEGIN + 70 * DAY, "to": BEGIN + 100 * DAY}])
    assert gaps(counts, closed) == []
    assert gaps(counts, policy_of(holidays=[BEGIN + number * DAY for number in range(70, 101)])) == []


def dates(counts: Mapping[date, DayCount], policy: ChurnPolicy = ChurnPolicy()) -> AsOfCalendar:  # noqa: B008
    return calendar_of(counts, policy)


def test_no_snapshot_has_a_gap_in_its_eligibility_window_and_no_label_one_in_its_outcome_window() -> None:
    calendar = dates(steady(200, **without(91, 97)))  # Monday 2025-09-01 to Sunday 09-07
    whole = dates(steady(200))
    missing = sorted(set(whole.dates) - set(calendar.dates))
    # Up to the date whose 30 days begin on the last day of the gap.
    assert (missing[0], missing[-1]) == (date(2025, 9, 8), date(2025, 10, 6))
    assert date(2025, 9, 1) in calendar.dates
    unknown = [day for day in calendar.dates if whole.is_known(day, 30) and not calendar.is_known(day, 30)]
    # From the date whose outcome window ends on the first day of the gap.
    assert unknown == [date(2025, 8, 4), date(2025, 8, 11), date(2025, 8, 18), date(2025, 8, 25), date(2025, 9, 1)]
    assert calendar.is_known(date(2025, 8, 4), 28), "[08-04, 09-01)"


def test_a_declared_closure_does_as_a_gap_does_however_short() -> None:
    closed = {"from": BEGIN + 91 * DAY, "to": BEGIN + 92 * DAY}
    calendar = dates(steady(200), policy_of(closures=[closed]))
    assert date(2025, 9, 8) not in calendar.dates
    assert not calendar.is_known(date(2025, 9, 1), 30)
    assert dates(steady(200), policy_of(holidays=[BEGIN + 91 * DAY])) == dates(steady(200))


def test_where_a_gap_lies_before_every_date_the_error_names_it() -> None:
    with pytest.raises(NoEligibleCustomersError, match="2025-07-22 to 2025-07-28"):
        dates(steady(85, **without(50, 56)))


# ---- snapshots


def test_snapshots_are_weekly_on_the_policys_weekday_or_daily() -> None:
    counts = steady(120)
    assert {day.weekday() for day in dates(counts).dates} == {0}
    thursdays = dates(counts, policy_of(weekday="Thursday"))
    assert {day.weekday() for day in thursdays.dates} == {3}
    assert thursdays.first >= BEGIN + 60 * DAY
    daily = dates(counts, policy_of(snapshots="daily", weekday="thursday"))
    assert daily.dates == [BEGIN + number * DAY for number in range(60, 121)]
    # Of the days one a week judges.
    last = daily.last_labelled(30)
    assert last is not None
    assert last.weekday() == 3
    assert daily.is_known(last, 30)
    assert not daily.is_known(last + 7 * DAY, 30)


def test_no_date_lies_more_than_a_day_after_the_watermark() -> None:
    for days in range(90, 104):
        calendar = dates(steady(days))
        assert 0 <= (calendar.watermark + DAY - calendar.last).days < 7
        assert dates(steady(days), policy_of(snapshots="daily")).last == calendar.watermark + DAY


# ---- the plain reference


def made(seed: int) -> Orders:
    return [order for order in shops.shop(seed=seed).orders if not order["is_cancelled"]]


def between(orders: Orders, first: str, last: str) -> Orders:
    """All but those of the days from `first` to `last`."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    return [order for order in orders if not begin <= order["ordered_at"].date() <= end]


def tenth(orders: Orders, first: str, last: str) -> Orders:
    kept, random = between(orders, first, last), Random(3)
    return kept + [order for order in orders if order not in kept and random.random() < 0.1]


def stray(orders: Orders) -> Orders:
    end = max(order["ordered_at"] for order in orders)
    return [*orders, {"customer_id": "TEST", "ordered_at": end + timedelta(days=20)}]


def cut(orders: Orders, hour: int) -> Orders:
    last = max(order["ordered_at"] for order in orders).date()
    return [order for order in orders if order["ordered_at"] < datetime(last.year, last.month, last.day, hour)]


def weekdays_only(orders: Orders) -> Orders:
    return [order for order in orders if order["ordered_at"].weekday() < 5]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "changed",
    [
        lambda orders: orders,
        lambda orders: between(orders, "2025-08-25", "2025-09-21"),
        lambda orders: between(orders, "2025-07-10", "2025-07-19"),
        lambda orders: between(between(orders, "2025-08-01", "2025-08-09"), "2025-09-20", "2025-10-10"),
        lambda orders: tenth(orders, "2025-08-25", "2025-09-21"),
        stray,
        lambda orders: cut(orders, 9),
        lambda orders: cut(orders, 3),
        weekdays_only,
        lambda orders: stray(weekdays_only(between(orders, "2025-08-25", "2025-09-21"))),
        lambda orders: orders[:40],
    ],
    ids=["plain", "gap", "early gap", "two gaps", "tenth", "stray", "nine", "three", "weekdays", "all of it", "few"],
)
@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"weekday": "wednesday", "min_day_share": 0.6, "min_gap_days": 2},
        {
            "snapshots": "daily",
            "closures": [{"from": date(2025, 9, 1), "to": date(2025, 9, 12)}],
            "holidays": [date(2025, 8, 29)],
        },
    ],
    ids=["default", "other", "daily"],
)
def test_watermark_gaps_and_dates_are_those_of_the_reference(
    seed: int, changed: Callable[[Orders], Orders], rules: dict[str, Any]
) -> None:
    orders, policy = changed(made(seed)), policy_of(**rules)
    plain = reference.CalendarRules(
        weekday=policy.calendar.weekday_number,
        is_daily=policy.calendar.snapshots == "daily",
        min_day_share=policy.calendar.min_day_share,
        min_gap_days=policy.calendar.min_gap_days,
        closures=tuple((closure.begin, closure.to) for closure in policy.calendar.closures),
        holidays=policy.calendar.holidays,
    )
    counts: dict[date, int] = {}
    for order in orders:
        day = order["ordered_at"].date()
        counts[day] = counts.get(day, 0) + 1
    days = judged_days({day: DayCount(count, count) for day, count in counts.items()}, policy)
    mark = watermark_of(days, policy)
    assert mark == reference.watermark(orders, plain)
    assert [(gap.first, gap.last) for gap in gaps_of(days, mark, policy)] == reference.gaps(orders, plain)
    expected = reference.as_of_dates(orders, rules=plain)
    if expected:
        assert calendar_of({day: DayCount(count, count) for day, count in counts.items()}, policy).dates == expected

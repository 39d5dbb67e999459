"""Only what changed is computed again, and it is as if all were: to the last digit, whatever came late or went."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.calendar import AsOfCalendar, Span
from churn_assets.churn.cleaning import REVIEW_STATES
from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel, with_baseline_rule
from churn_assets.churn.labels import with_labels
from churn_assets.churn.policy import Calendar, Churn, ChurnPolicy
from churn_assets.churn.touched import TouchedDays, changed_orders, touched_dates, touched_days

Row = dict[str, Any]
SILVER = (
    "order_id string, customer_id string, ordered_at timestamp, promised_at timestamp, delivered_at timestamp, "
    "subtotal double, segment_index double, reviewed_at timestamp, review_score double"
)
STATES = f"{SILVER}, {REVIEW_STATES} array<struct<known_at: timestamp, reviewed_at: timestamp, review_score: double>>"
BEGIN, DAYS = datetime(2025, 1, 1), 125
RARE = range(12, 18)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEKLY = ChurnPolicy()
POLICIES = {
    "weekly": WEEKLY,
    "daily_long_gap": WEEKLY.model_copy(
        update={"churn": Churn(definition="long_gap"), "calendar": Calendar(snapshots="daily")}
    ),
}


@dataclass
class Shop:
    """Silver orders of a few customers, and ways in which they are others at the next refresh."""

    seed: int
    has_states: bool
    days: int = DAYS
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.rows = [row for day in range(self.days) for row in self.orders_of(day)]

    def orders_of(self, day: int) -> Iterator[Row]:
        for customer in range(18):
            # Some come and go, so that not everybody is eligible always; of others each order decides a label.
            often = 0.02 if customer in RARE else 0.35
            if self.rng.random() < often * (customer % 4 != day // 40):
                yield self.order(f"C{customer}", BEGIN + day * DAY + self.rng.random() * DAY)

    def order(self, customer: str, at: datetime) -> Row:
        row: Row = {
            "order_id": f"O{self.rng.getrandbits(60)}",
            "customer_id": customer,
            "ordered_at": at,
            "promised_at": at + HOUR if self.rng.random() < 0.9 else None,
            "delivered_at": at + 3 * HOUR * self.rng.random() if self.rng.random() < 0.9 else None,
            "subtotal": round(self.rng.uniform(5, 50), 2),
            "segment_index": float(int(customer[1:]) % 3),
            "reviewed_at": None,
            "review_score": None,
            REVIEW_STATES: None,
        }
        if self.rng.random() < 0.5:
            self.review(row)
        return row

    def review(self, row: Row) -> None:
        row["reviewed_at"] = row["ordered_at"] + self.rng.choice([0.1, 1, 10]) * DAY
        row["review_score"] = float(self.rng.randint(1, 5))
        row[REVIEW_STATES] = [(row["reviewed_at"], row["reviewed_at"], row["review_score"])]

    def any(self, is_wanted: Callable[[Row], Any] = bool) -> Row:
        return self.rng.choice([row for row in self.rows if is_wanted(row)])

    def frame(self, spark: SparkSession) -> DataFrame:
        schema = STATES if self.has_states else SILVER
        names = [part.split(" ")[0] for part in SILVER.split(", ")] + [REVIEW_STATES] * self.has_states
        self.rng.shuffle(self.rows)
        return spark.createDataFrame([tuple(row[name] for name in names) for row in self.rows], schema)


def a_week_more(shop: Shop) -> None:
    shop.rows += [row for day in range(shop.days, shop.days + 7) for row in shop.orders_of(day)]
    shop.days += 7


def a_late_order(shop: Shop) -> None:
    shop.rows.append(shop.order(f"C{shop.rng.choice(RARE)}", BEGIN + shop.rng.randint(70, 110) * DAY + HOUR))


def a_first_order(shop: Shop) -> None:
    """Before all others: the customer has been there for longer at every date, beyond all windows."""
    shop.rows.append(shop.order("C3", BEGIN + timedelta(microseconds=shop.rng.randint(1, 9))))


def a_lost_label(shop: Shop) -> None:
    """The orders of some weeks of one customer are gone."""
    gone = (BEGIN + 75 * DAY, BEGIN + 110 * DAY)
    shop.rows = [row for row in shop.rows if row["customer_id"] != "C8" or not gone[0] <= row["ordered_at"] < gone[1]]


def a_deleted_order(shop: Shop) -> None:
    shop.rows.remove(shop.any())


def another_delivery(shop: Shop) -> None:
    row = shop.any()
    row["delivered_at"] = row["ordered_at"] + shop.rng.choice([0.5, 2, 20, 23]) * HOUR


def another_promise(shop: Shop) -> None:
    row = shop.any(lambda row: row["delivered_at"])
    row["promised_at"] = None if row["promised_at"] else row["ordered_at"]


def another_subtotal(shop: Shop) -> None:
    shop.any()["subtotal"] += 30


def another_segment(shop: Shop) -> None:
    for row in shop.rows:
        row["segment_index"] += row["customer_id"] == "C5"


def another_score(shop: Shop) -> None:
    row = shop.any(lambda row: row["reviewed_at"])
    row["review_score"] = 6 - row["review_score"] + (row["review_score"] == 3)
    known_at = row["reviewed_at"] + shop.rng.choice([0, 5, 40]) * DAY
    row[REVIEW_STATES] = [*row[REVIEW_STATES], (known_at, row["reviewed_at"], row["review_score"])]


def a_late_review(shop: Shop) -> None:
    shop.review(shop.any(lambda row: row["reviewed_at"] is None))


def a_forgotten_state(shop: Shop) -> None:
    row = shop.any(lambda row: row["reviewed_at"])
    row[REVIEW_STATES] = row[REVIEW_STATES][:-1] or None
    row["reviewed_at"] = row["review_score"] = None


def a_gap(shop: Shop) -> None:
    begin = BEGIN + shop.rng.randint(20, shop.days - 12) * DAY
    begin = datetime.combine(begin.date(), time())
    shop.rows = [row for row in shop.rows if not begin <= row["ordered_at"] < begin + 6 * DAY]


def nothing(shop: Shop) -> None:
    pass


CHANGES = (
    a_late_order,
    a_first_order,
    a_lost_label,
    another_delivery,
    another_promise,
    another_subtotal,
    another_score,
    a_late_review,
    a_deleted_order,
    another_segment,
    a_week_more,
    a_forgotten_state,
    nothing,
    a_gap,
)


@dataclass(frozen=True)
class Tables:
    """Both tables, by date: rows as text that tells any two values apart."""

    calendar: AsOfCalendar
    silver: DataFrame
    baseline: dict[date, list[str]]
    panel: dict[date, list[str]]


def by_date(rows: DataFrame) -> dict[date, list[str]]:
    found: dict[date, list[str]] = {}
    for row in sorted(rows.collect(), key=lambda row: row["customer_id"]):
        found.setdefault(row["as_of"], []).append(repr(row))
    return found


def computed(silver: DataFrame, policy: ChurnPolicy, observed: AsOfCalendar, labelled: AsOfCalendar) -> Tables:
    baseline = with_baseline_rule(customer_snapshots(silver, observed, policy), policy)
    snapshots = customer_snapshots(silver, labelled, policy)
    panel = feature_panel(with_labels(snapshots, silver, labelled, policy), policy)
    return Tables(observed, silver, by_date(baseline), by_date(panel))


def all_of(shop: Shop, spark: SparkSession, policy: ChurnPolicy) -> Tables:
    silver = shop.frame(spark)
    calendar = as_of_calendar(silver, policy)
    return computed(silver, policy, calendar, calendar)


def test_a_label_matures_and_is_lost_without_an_order_of_its_own() -> None:
    first, last = date(2025, 3, 3), date(2025, 4, 28)
    before = AsOfCalendar(first, last, date(2025, 4, 27))
    later = replace(before, last=date(2025, 5, 5), watermark=date(2025, 5, 4))
    found = touched_dates([], before, later, WEEKLY)
    assert found.observed == {date(2025, 5, 5)}
    assert not found.gone
    assert found.labelled - found.observed == {date(2025, 3, 31)}
    gap = Span(date(2025, 3, 12), date(2025, 3, 14))
    with_gap = replace(before, interruptions=(gap,), skipped=frozenset({date(2025, 3, 17)}))
    lost = touched_dates([], before, with_gap, WEEKLY)
    assert not lost.observed
    assert lost.gone == {date(2025, 3, 17)}
    assert lost.labelled == {date(2025, 3, 3), date(2025, 3, 10)}
    assert touched_dates([], with_gap, before, WEEKLY).observed == {date(2025, 3, 17)}


def test_a_delivery_touches_every_date_whose_last_order_knows_of_it(spark: SparkSession) -> None:
    one_window = {"observation_days": 30, "eligibility_days": 30}
    rules = ChurnPolicy.model_validate({"windows": one_window, "calendar": {"snapshots": "daily"}})
    late = BEGIN + 40 * DAY + HOUR

    def shop(minutes: float) -> Shop:
        # The last order is just within the days of the delivery, and then the last for as long as one can be.
        orders = [BEGIN, late, late + 29 * DAY, BEGIN + 110 * DAY]
        found = Shop(1, has_states=False)
        found.rows = [
            {
                **found.order("C1", at),
                "delivered_at": None,
                "promised_at": None,
                "reviewed_at": None,
                "review_score": None,
            }
            for at in orders
        ]
        found.rows[1] |= {"promised_at": late, "delivered_at": late + timedelta(minutes=minutes)}
        return found

    before, after = all_of(shop(10), spark, rules), all_of(shop(20), spark, rules)
    days = touched_days(changed_orders(before.silver, after.silver), rules)
    touched = touched_dates(days, before.calendar, after.calendar, rules)
    differing = {day for day in after.calendar.dates if before.baseline.get(day) != after.baseline.get(day)}
    assert max(differing) == (late + 59 * DAY).date()
    assert differing <= touched.observed


def test_a_change_holds_its_days_and_all_later_ones_without_a_last() -> None:
    day = date(2025, 3, 3)
    for days in (TouchedDays(day, day, False), TouchedDays(day, None, True)):
        assert TouchedDays.of_record(days.record) == days
        assert [days.holds(each) for each in (day - DAY, day, day + DAY)] == [False, True, days.last is None]


# How many histories of each kind: a suite has time for one.
SEEDS = range(int(os.environ.get("REFRESH_SEEDS", "1")))


@pytest.mark.parametrize(
    ("policy", "has_states"),
    [("weekly", False), ("weekly", True), ("daily_long_gap", False)],
    ids=["weekly", "states", "daily_long_gap"],
)
def test_what_is_touched_is_all_that_differs(spark: SparkSession, policy: str, has_states: bool) -> None:
    for seed in SEEDS:
        _compare(Shop(seed, has_states), spark, POLICIES[policy])


def _compare(shop: Shop, spark: SparkSession, rules: ChurnPolicy) -> None:
    before, spared = all_of(shop, spark, rules), 0
    for change in shop.rng.sample(CHANGES, len(CHANGES)):
        change(shop)
        after = all_of(shop, spark, rules)
        days = touched_days(changed_orders(before.silver, after.silver), rules)
        touched = touched_dates(days, before.calendar, after.calendar, rules)
        dates = frozenset(after.calendar.dates)
        assert touched.observed <= touched.labelled <= dates
        for name, again in (("baseline", touched.observed), ("panel", touched.labelled)):
            was, is_now = getattr(before, name), getattr(after, name)
            differing = {day for day in dates if was.get(day) != is_now.get(day)}
            assert differing <= again, f"{change.__name__}: {name} differs untold at {sorted(differing - again)}"
            assert set(was) - set(is_now) <= touched.gone | again
            spared += len(dates - again)
        if touched.labelled:
            part = computed(
                after.silver,
                rules,
                after.calendar.only(touched.observed or touched.labelled),
                after.calendar.only(touched.labelled),
            )
            for name, again in (
                ("baseline", touched.observed or touched.labelled),
                ("panel", touched.labelled),
            ):
                expected = {day: rows for day, rows in getattr(after, name).items() if day in again}
                assert getattr(part, name) == expected, f"{change.__name__}: {name}"
        before = after
    # Most dates of most refreshes stay, or nothing was shown.
    assert spared > 50

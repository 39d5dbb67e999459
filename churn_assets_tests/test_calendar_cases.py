"""What stopped feeds, closures and stray rows do to features, labels and dates, on the real flow."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import ExecuteInProcessResult
from pyspark.sql import SparkSession

from churn_assets.definitions import DEMO, REFRESH
from churn_assets.defs.features import PANEL
from churn_assets_tests import reference, shops
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project, causes_of, checks_of
from churn_assets_tests.panels import by_key, differences, rows_of
from churn_assets_tests.shops import Shop

SILVER = "food_delivery/silver_orders_enriched"


def landed(folder: Path, shop: Shop, policy: str = TINY_POLICY) -> tuple[Project, ExecuteInProcessResult]:
    """A project of the shop's rows, and the refresh of its features."""
    project = Project.create(folder, policy=policy, sources=shops.SOURCES)
    shops.written(folder, orders=shop.orders, reviews=shop.reviews, customers=shop.customers)
    return project, project.run(REFRESH)


def without(shop: Shop, first: str, last: str) -> Shop:
    """No order of the days from `first` to `last`, and no review of one."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    kept = [order for order in shop.orders if not begin <= order["ordered_at"].date() <= end]
    return of_orders(shop, kept)


def of_orders(shop: Shop, orders: list[shops.Row]) -> Shop:
    names = {order["order_id"] for order in orders}
    return replace(shop, orders=orders, reviews=[row for row in shop.reviews if row["order_id"] in names])


def feed_gap(shop: Shop) -> Shop:
    return without(shop, "2025-08-25", "2025-09-21")


def short_early_gap(shop: Shop) -> Shop:
    return without(shop, "2025-07-14", "2025-07-23")


def closure(shop: Shop) -> Shop:
    return without(shop, "2025-08-18", "2025-09-28")


def two_closures(shop: Shop) -> Shop:
    return without(without(shop, "2025-08-11", "2025-08-13"), "2025-09-08", "2025-09-21")


def stray_order(shop: Shop) -> Shop:
    last = max(order["ordered_at"] for order in shop.orders)
    test = shop.orders[0] | {"order_id": "T1", "customer_id": "TEST", "ordered_at": last + timedelta(days=20)}
    return replace(shop, orders=[*shop.orders, test | {"promised_at": None, "delivered_at": None}])


def stray_orders(shop: Shop) -> Shop:
    """Test orders in the week after the end, three of them, and one in the far future of a typing error."""
    last = max(order["ordered_at"] for order in shop.orders)
    tests = [
        shop.orders[0]
        | {
            "order_id": f"T{number}",
            "ordered_at": last + timedelta(days=days),
            "promised_at": None,
            "delivered_at": None,
        }
        for number, days in enumerate((5, 9, 9, 200))
    ]
    return replace(shop, orders=[*shop.orders, *tests])


def cut_at(hour: int) -> Callable[[Shop], Shop]:
    def cut(shop: Shop) -> Shop:
        last = max(order["ordered_at"] for order in shop.orders).date()
        end = datetime(last.year, last.month, last.day, hour)
        return of_orders(shop, [order for order in shop.orders if order["ordered_at"] < end])

    return cut


def declared(*closures: tuple[str, str]) -> str:
    spans = ", ".join(f"{{ from = {first}, to = {last} }}" for first, last in closures)
    return f"{TINY_POLICY}[calendar]\nclosures = [{spans}]\n"


CLOSED = (("2025-08-18", "2025-09-28"),)
TWICE_CLOSED = (("2025-08-11", "2025-08-13"), ("2025-09-08", "2025-09-21"))


@pytest.mark.parametrize(
    ("changed", "closures", "watermark", "missing", "labelled"),
    [
        (lambda shop: shop, (), date(2025, 11, 1), [], "2025-09-29"),
        (feed_gap, (), date(2025, 11, 1), ["2025-09-01", "2025-10-20"], "none yet"),
        (short_early_gap, (), date(2025, 11, 1), ["2025-08-04", "2025-08-18"], "2025-09-29"),
        (closure, (), date(2025, 11, 1), ["2025-08-25", "2025-10-27"], "none yet"),
        (closure, CLOSED, date(2025, 11, 1), ["2025-08-25", "2025-10-27"], "none yet"),
        (two_closures, TWICE_CLOSED, date(2025, 11, 1), ["2025-08-18", "2025-10-20"], "none yet"),
        (stray_order, (), date(2025, 11, 1), [], "2025-09-29"),
        (stray_orders, (), date(2025, 11, 1), [], "2025-09-29"),
        (cut_at(9), (), date(2025, 10, 31), [], "2025-09-29"),
        (cut_at(2), (), date(2025, 10, 31), [], "2025-09-29"),
    ],
    ids=[
        "plain", "feed gap", "short early gap", "undeclared closure", "declared closure", "two closures",
        "stray order", "stray orders", "nine o'clock", "two o'clock",
    ],
)  # fmt: skip
def test_the_panel_is_that_of_the_reference(
    spark: SparkSession,
    tmp_path: Path,
    changed: Callable[[Shop], Shop],
    closures: tuple[tuple[str, str], ...],
    watermark: date,
    missing: list[str],
    labelled: str,
) -> None:
    shop = changed(shops.shop(weeks=22))
    project, result = landed(tmp_path / "project", shop, declared(*closures))
    assert result.success, causes_of(result)
    rules = reference.CalendarRules(
        closures=tuple((date.fromisoformat(first), date.fromisoformat(last)) for first, last in closures)
    )
    kept = reference.clean(shop.orders, shop.reviews, shop.customers, now=datetime(2026, 11, 1))
    expected = reference.panel(kept, rules=rules)
    assert differences(by_key(project.lakehouse.read(PANEL)), expected, reference.PANEL_COLUMNS) == []
    assert reference.watermark(kept.orders, rules) == watermark
    weeks = set(project.weeks())
    skipped = [day for day in reference.as_of_dates(shops_orders()) if day not in weeks and day <= watermark]
    assert [str(day) for day in (skipped[:1] + skipped[-1:])] == missing
    known = max((day for (_, day), row in expected.items() if row["label"] is not None), default="none yet")
    assert str(known) == labelled


def shops_orders() -> list[dict[str, Any]]:
    return [order for order in shops.shop(weeks=22).orders if not order["is_cancelled"]]


def test_no_row_is_lost_to_the_calendar(spark: SparkSession, tmp_path: Path) -> None:
    project, result = landed(tmp_path / "project", stray_order(shops.shop()))
    assert project.lakehouse.read(SILVER).where("order_id = 'T1'").count() == 1
    assert checks_of(result)[f"{SILVER}: orders_accounted_for"]


def test_a_watermark_beyond_the_orders_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    policy = f"{TINY_POLICY}[cleaning]\nwatermark = 2025-11-30\n"
    _, result = landed(tmp_path / "project", shops.shop(), policy)
    assert not result.success
    (cause,) = causes_of(result)
    assert "cleaning.watermark in policy.toml is 2025-11-30, and the last kept order is of 2025-11-01" in cause


DAILY = f'{TINY_POLICY}[calendar]\nsnapshots = "daily"\nweekday = "tuesday"\n'


def test_two_days_are_scored_on_different_features_and_a_day_a_week_trains(spark: SparkSession, tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", policy=DAILY, sources=TINY_DEMO)
    assert project.run(DEMO).success
    lifecycle = project.run()
    assert lifecycle.success, causes_of(lifecycle)
    days = project.weeks()
    assert days == [days[0] + timedelta(days=number) for number in range(len(days))]
    trained = {day for (day,) in project.lakehouse.counts("food_delivery/train_features", ["as_of"])}
    tested = {day for (day,) in project.lakehouse.counts("food_delivery/test_features", ["as_of"])}
    assert len(trained) > 2
    assert {day.weekday() for day in trained | tested} == {1}
    labelled = {day for day, label in project.lakehouse.counts(PANEL, ["as_of", "label"]) if label is not None}
    assert max(labelled) == days[-1] - timedelta(days=30), "labels are known day by day"

    before, last = days[-2:]
    scoring = project.score(before, last)
    others = {name: found for name, found in checks_of(scoring).items() if "monitoring" not in name}
    assert set(others.values()) == {True}, others
    panel, scores = project.lakehouse.read(PANEL), project.lakehouse.read("food_delivery/churn_scores")
    rows = {
        day: {row["customer_id"]: row for row in rows_of(panel.where(panel.as_of == day))} for day in (before, last)
    }
    both = rows[before].keys() & rows[last].keys()
    assert both
    assert all(rows[before][each]["recency_days"] != rows[last][each]["recency_days"] for each in both)
    assert {day: scores.where(scores.as_of == day).count() for day in (before, last)} == {
        day: len(rows[day]) for day in (before, last)
    }

"""What stopped feeds, closures and stray rows do to features, labels and dates, on the real flow."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import ExecuteInProcessResult
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.arrivals import AFTER, FRESH, GAPS, VOLUME
from churn_assets.churn.policy import Freshness
from churn_assets.definitions import DEMO, REFRESH
from churn_assets.defs.features import PANEL
from churn_assets_tests import reference, shops
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project, causes_of, checks_of, materializations_of
from churn_assets_tests.panels import by_key, differences, rows_of
from churn_assets_tests.shops import Shop

pytestmark = pytest.mark.usefixtures("figures_not_rendered")

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


def thinned(shop: Shop, first: str, last: str) -> Shop:
    """Of the orders of these days one in ten came."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    kept = [row for at, row in enumerate(shop.orders) if at % 10 == 0 or not begin <= row["ordered_at"].date() <= end]
    return of_orders(shop, kept)


def one_branch_of_ten(shop: Shop) -> Shop:
    """The other branches' feeds stood still for the four weeks of `feed_gap`: no day is without an order for long."""
    return thinned(shop, "2025-08-25", "2025-09-21")


def days_that_come_late(shop: Shop) -> Shop:
    """Orders of the last five days are only beginning to arrive."""
    return thinned(shop, "2025-10-28", "2025-11-01")


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
        (one_branch_of_ten, (), date(2025, 11, 1), ["2025-09-01", "2025-10-20"], "none yet"),
        (short_early_gap, (), date(2025, 11, 1), ["2025-08-04", "2025-08-18"], "2025-09-29"),
        (closure, (), date(2025, 11, 1), ["2025-08-25", "2025-10-27"], "none yet"),
        (closure, CLOSED, date(2025, 11, 1), ["2025-08-25", "2025-10-27"], "none yet"),
        (two_closures, TWICE_CLOSED, date(2025, 11, 1), ["2025-08-18", "2025-10-20"], "none yet"),
        (stray_order, (), date(2025, 11, 1), [], "2025-09-29"),
        (stray_orders, (), date(2025, 11, 1), [], "2025-09-29"),
        (cut_at(9), (), date(2025, 10, 31), [], "2025-09-29"),
        (cut_at(2), (), date(2025, 10, 31), [], "2025-09-29"),
        (days_that_come_late, (), date(2025, 10, 27), [], "2025-09-22"),
    ],
    ids=[
        "plain", "feed gap", "one branch of ten", "short early gap", "undeclared closure", "declared closure",
        "two closures", "stray order", "stray orders", "nine o'clock", "two o'clock", "days that come late",
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


SCORED_AND_WATCHED = (
    "food_delivery/churn_scores",
    "food_delivery/unscored_customers",
    "food_delivery/training_profiles",
    "food_delivery/monitoring",
)
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

    # Monitoring goes by the day: of the last day with labels what came is known, of the next it is not.
    ended, open_day = max(labelled), max(labelled) + timedelta(days=1)
    watched = project.score(ended, open_day, *SCORED_AND_WATCHED)
    assert watched.success, causes_of(watched)
    measured = project.lakehouse.records("food_delivery/monitoring")
    recall = {row["as_of"]: row["value"] for row in measured if row["metric"] == "realised_recall"}
    alerts = {row["customer_id"]: row["is_alert"] for row in rows_of(scores_of(project, ended))}
    left = [row["customer_id"] for row in rows_of(panel.where((panel.as_of == ended) & (panel.label == 1)))]
    assert recall[ended] == pytest.approx(sum(alerts[customer] for customer in left) / len(left))
    assert recall.get(open_day) is None
    assert {row["as_of"] for row in measured} == {ended, open_day, before, last}


def scores_of(project: Project, day: date) -> DataFrame:
    scores = project.lakehouse.read("food_delivery/churn_scores")
    return scores.where(scores.as_of == day)


def found(result: ExecuteInProcessResult, check: str) -> tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]:
    (evaluation,) = [each for each in result.get_asset_check_evaluations() if each.check_name == check]
    return evaluation.passed, evaluation.severity, {name: each.value for name, each in evaluation.metadata.items()}


def test_gap_stray_and_lateness_are_named_by_checks_with_a_picture(spark: SparkSession, tmp_path: Path) -> None:
    _, result = landed(tmp_path / "project", stray_order(closure(shops.shop())))
    assert result.success, "none of them blocks"
    passed, severity, metadata = found(result, GAPS)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert metadata["observed"].startswith("gap 2025-08-18 to 2025-09-28: 0 orders, ")
    assert "closures = [{ from = 2025-08-18, to = 2025-09-28 }]" in metadata["observed"]
    assert metadata["orders_by_day"].startswith("![Orders by day](data:image/png;base64,")
    shown = materializations_of(result)[SILVER].metadata["orders_by_day"].value
    assert shown == metadata["orders_by_day"]
    passed, severity, metadata = found(result, AFTER)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert metadata["offending_keys"] == ["T1"]
    assert "after 2025-11-01, the last complete day: 2025-11-21 (1)" in metadata["observed"]
    passed, severity, metadata = found(result, FRESH)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert metadata["observed"].startswith("complete up to 2025-11-01: ")

    today = f"{declared(('2025-08-18', '2025-09-28'))}[freshness]\ntoday = 2025-11-02\n"
    _, result = landed(tmp_path / "declared", closure(shops.shop()), today)
    assert [found(result, check)[0] for check in (GAPS, AFTER, FRESH, VOLUME)] == [True] * 4


def test_a_load_of_a_tenth_and_of_rows_twice_is_named_against_those_before(spark: SparkSession, tmp_path: Path) -> None:
    shop = shops.shop(customers=200)
    policy = f"{TINY_POLICY}[freshness]\ntoday = 2025-11-02\n"
    project, first = landed(tmp_path / "project", shop, policy)
    assert found(first, VOLUME)[0]
    tenth = of_orders(shop, [order for number, order in enumerate(shop.orders) if number % 10 == 0])
    _, result = landed(tmp_path / "project", tenth, policy)
    passed, severity, metadata = found(result, VOLUME)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "orders of the days that earlier loads had: " in metadata["observed"]
    twice = replace(shop, orders=[*shop.orders, *shop.orders])
    shops.written(project.settings.project, orders=twice.orders)
    passed, severity, metadata = found(project.run(REFRESH), VOLUME)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "source rows for 1,000 kept orders: 2," in metadata["observed"]
    _, result = landed(tmp_path / "project", shop, policy)
    assert found(result, VOLUME)[0], found(result, VOLUME)


def test_the_latest_week_is_not_scored_on_stale_orders_and_earlier_ones_are(project: Project) -> None:
    *_, before, last = project.weeks()
    year = Freshness(today=date(2026, 12, 31))
    late = project.under(project.policy.model_copy(update={"freshness": year}))
    result = late.score(before, last, "food_delivery/churn_scores", "food_delivery/unscored_customers")
    assert not result.success
    (cause,) = causes_of(result)
    assert f"The week of {last} is not scored, because its orders are stale" in cause
    assert "freshness.today" in cause
    assert not project.lakehouse.has("food_delivery/churn_scores")
    assert late.score(before, before, "food_delivery/churn_scores", "food_delivery/unscored_customers").success


class SetBack(datetime):
    """A clock that is wrong by months."""

    @classmethod
    def now(cls, tz: Any = None) -> "SetBack":
        return cls(2025, 8, 15, tzinfo=tz)


def test_a_clock_that_was_set_back_blocks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = project.versions()
    monkeypatch.setattr("churn_assets.defs.lakehouse.datetime", SetBack)
    result = project.run(REFRESH)
    assert not result.success
    (cause,) = causes_of(result)
    assert "The clock says 2025-08-15 00:00 UTC" in cause
    assert "it was set back" in cause
    after = project.versions()
    assert {table for table in before if before[table] != after[table]} <= {
        "food_delivery/orders",
        "food_delivery/reviews",
        "food_delivery/customers",
    }


def test_a_load_whose_orders_lie_in_the_future_blocks(spark: SparkSession, tmp_path: Path) -> None:
    shop = shops.shop()
    late = [order | {"ordered_at": order["ordered_at"] + timedelta(days=3650)} for order in shop.orders]
    mixed = [*shop.orders[: len(late) // 3], *late[len(late) // 3 :]]
    project, result = landed(tmp_path / "project", replace(shop, orders=mixed))
    assert not result.success
    (cause,) = causes_of(result)
    assert f"{len(late) - len(late) // 3:,} of {len(late):,} orders lie after the present" in cause
    assert not project.lakehouse.has(SILVER)


def test_a_challenger_of_older_data_is_refused(project: Project) -> None:
    lakehouse = project.lakehouse
    orders = lakehouse.read("demo/orders")
    lakehouse.write("demo/orders", orders.where("ordered_at < '2025-12-10'"))
    result = project.run()
    assert not result.success
    (recorded,) = [row for row in lakehouse.records("recall_churn") if row["verdict"] != "PASS"]
    assert recorded["verdict"] == "NOT_EVALUABLE"
    assert any("before the champion, version 1, which was tested at" in reason for reason in recorded["reasons"])
    assert project.alias("production") == "1"
    assert project.alias("staging") == "1"

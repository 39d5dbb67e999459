"""What real exports do to the rows of a shop, through the flow: states, guests, keys. Each beside the shop as it is."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from dagster import ExecuteInProcessResult
from pyspark.sql import SparkSession

from churn_assets.definitions import REFRESH
from churn_assets_tests import reference
from churn_assets_tests.conftest import TINY_POLICY, Project, causes_of, checks_of
from churn_assets_tests.panels import Key, Row, by_key, differences
from churn_assets_tests.shops import DAY, HOUR, MINUTE, OPENED, SOURCES, Shop, shop, written

pytestmark = pytest.mark.usefixtures("figures_not_rendered")

PANEL = "food_delivery/ml_churn_features"
SILVER = "food_delivery/silver_orders_enriched"
ASIDE = "food_delivery/quarantined_rows"
OPT_OUTS = SOURCES + '[opt_outs]\nformat = "parquet"\npath = "opt_outs.parquet"\n'
LATER = OPENED + 400 * DAY


@dataclass(frozen=True)
class Refreshed:
    """A shop from its files to the panel."""

    project: Project
    result: ExecuteInProcessResult

    @property
    def panel(self) -> dict[Key, Row]:
        return by_key(self.project.lakehouse.read(PANEL))

    @property
    def aside(self) -> Counter[tuple[Any, ...]]:
        return self.project.lakehouse.counts(ASIDE, ["source_table", "disposition", "rule"])

    def found(self, check: str) -> tuple[bool, str, list[str]]:
        """Whether a check passed, what it observed and the offenders it names."""
        (evaluation,) = [each for each in self.result.get_asset_check_evaluations() if each.check_name == check]
        keys = evaluation.metadata.get("offending_keys")
        return (
            evaluation.passed,
            str(evaluation.metadata["observed"].value),
            cast("list[str]", keys.value) if keys else [],
        )


Refresh = Callable[..., Refreshed]


@pytest.fixture
def refresh(spark: SparkSession, tmp_path: Path) -> Refresh:
    def run(*, sources: str = SOURCES, **tables: Sequence[Row]) -> Refreshed:
        written(tmp_path, **tables)
        project = Project.create(tmp_path, policy=TINY_POLICY, sources=sources)
        return Refreshed(project, project.run(REFRESH))

    return run


@pytest.fixture(scope="module")
def plain(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[Key, Row]:
    """The panel of the shop as it is, which is the reference's."""
    folder = tmp_path_factory.mktemp("plain")
    rows = shop()
    written(folder, orders=rows.orders, reviews=rows.reviews, customers=rows.customers)
    project = Project.create(folder, policy=TINY_POLICY, sources=SOURCES)
    result = project.run(REFRESH)
    assert result.success, causes_of(result)
    assert broken(result) == set()
    return by_key(project.lakehouse.read(PANEL))


def broken(result: ExecuteInProcessResult) -> set[str]:
    """The checks that failed, but for two: the shop's deliveries are no crisis, and its orders are of last year."""
    failed = {name for name, is_passed in checks_of(result).items() if not is_passed}
    return failed - {f"{PANEL}: informative_features", f"{SILVER}: orders_are_fresh"}


def expected(rows: Shop) -> dict[Key, Row]:
    cleaned = reference.clean(rows.orders, rows.reviews, rows.customers, now=LATER)
    return reference.panel(cleaned)


def assert_same(refreshed: Refreshed, panel: dict[Key, Row]) -> None:
    assert refreshed.result.success, causes_of(refreshed.result)
    assert len(panel) > 100
    assert differences(refreshed.panel, panel, reference.PANEL_COLUMNS, exact=reference.PANEL_COLUMNS) == []


def test_the_shop_as_it_is_gives_the_references_panel(plain: dict[Key, Row]) -> None:
    assert differences(plain, expected(shop()), reference.PANEL_COLUMNS, exact=reference.PANEL_COLUMNS) == []


def test_orders_alone_whatever_the_order_of_their_rows_give_the_references_panel(refresh: Refresh) -> None:
    orders = sorted(shop().orders, key=lambda row: row["order_id"][::-1])
    refreshed = refresh(sources=SOURCES.split("[reviews]")[0], orders=orders)
    panel = expected(Shop(orders, [], []))
    assert_same(refreshed, panel)
    # Nobody has a review or a segment, which is no fault of the rows; what is told by orders is as before.
    assert {(row["avg_star_rating"], row["sentiment_velocity"], row["segment_index"]) for row in panel.values()} == {
        (3.0, 0.0, -1.0)
    }
    of_orders = ("total_orders", "late_order_ratio", "recency_days", "gap_ratio", "label")
    assert differences(refreshed.panel, expected(shop()), of_orders, exact=of_orders) == []
    assert broken(refreshed.result) == set()


# ---- states of an order


def placed(order: Row) -> Row:
    """The order as it was when it was placed."""
    return {**order, "delivered_at": None, "is_cancelled": False}


@pytest.mark.parametrize("is_dated", [True, False])
def test_of_the_states_of_an_order_the_latest_counts_and_the_others_are_no_error(
    refresh: Refresh, plain: dict[Key, Row], is_dated: bool
) -> None:
    rows = shop()
    feed = [placed(row) | {"updated_at": row["ordered_at"]} for row in rows.orders]
    feed += [row | {"updated_at": row["delivered_at"]} for row in rows.orders]
    if not is_dated:
        feed = [{name: value for name, value in row.items() if name != "updated_at"} for row in feed]
    refreshed = refresh(orders=feed, reviews=rows.reviews, customers=rows.customers)
    assert_same(refreshed, plain)
    assert refreshed.aside["orders", "superseded", "superseded"] == len(rows.orders)
    assert {disposition for _, disposition, _ in refreshed.aside} == {"superseded", "cancelled"}
    assert broken(refreshed.result) == set()


def test_a_cancellation_taken_back_and_a_feed_sent_twice_count_once(refresh: Refresh, plain: dict[Key, Row]) -> None:
    rows = shop()
    feed = [row | {"updated_at": row["delivered_at"]} for row in rows.orders]
    # Called off in between, by mistake; one of the states has no time, and every row arrives twice.
    feed += [row | {"is_cancelled": True, "updated_at": row["ordered_at"] + MINUTE} for row in rows.orders[::7]]
    feed += [placed(row) | {"updated_at": None} for row in rows.orders[::5]]
    refreshed = refresh(orders=feed + feed, reviews=rows.reviews + rows.reviews, customers=rows.customers * 2)
    assert_same(refreshed, plain)
    assert refreshed.aside["orders", "superseded", "superseded"] == 2 * len(feed) - len(rows.orders)
    assert refreshed.aside["customers", "superseded", "superseded"] == len(rows.customers)


def test_the_latest_state_counts_where_it_says_less_and_where_its_keys_are_padded(refresh: Refresh) -> None:
    """Deliveries booked by mistake and taken back, refunds, and a cancellation; states in files of any order."""
    rows = shop()
    taken_back = {row["order_id"] for row in rows.orders[::6]}
    refunded = {row["order_id"] for row in rows.orders[1::6]}
    called_off = {row["order_id"] for row in rows.orders[2::6]}
    last = []
    for row in rows.orders:
        changes: Row = {"updated_at": row["delivered_at"] + DAY}
        if row["order_id"] in taken_back:
            changes |= {"delivered_at": None}
        if row["order_id"] in refunded:
            changes |= {"subtotal": 0.0}
        if row["order_id"] in called_off:
            changes |= {"is_cancelled": True}
        last.append(row | changes)
    padded = [row | {"order_id": f"{row['order_id']} ", "customer_id": f" {row['customer_id']}"} for row in last]
    before = [row | {"updated_at": row["delivered_at"]} for row in rows.orders]
    feed = [*padded, *before, *[placed(row) | {"updated_at": row["ordered_at"]} for row in rows.orders]]
    refreshed = refresh(orders=feed, reviews=rows.reviews, customers=rows.customers)
    assert_same(refreshed, expected(Shop(last, rows.reviews, rows.customers)))
    assert refreshed.aside["orders", "superseded", "superseded"] == 2 * len(rows.orders)
    assert refreshed.aside["orders", "cancelled", "cancelled"] == sum(row["is_cancelled"] for row in last)
    assert "duplicate_key" not in {rule for _, _, rule in refreshed.aside}


def test_rows_of_one_order_that_contradict_each_other_stay_duplicates(refresh: Refresh, plain: dict[Key, Row]) -> None:
    rows = shop()
    copies = [row | {"ordered_at": row["ordered_at"] + HOUR} for row in rows.orders[::9]]
    copies += [row | {"customer_id": "C9999"} for row in rows.orders[::11]]
    refreshed = refresh(orders=rows.orders + copies, reviews=rows.reviews, customers=rows.customers)
    assert_same(refreshed, plain)
    assert refreshed.aside["orders", "quarantined", "duplicate_key"] == len(copies)


# ---- histories of customers and reviews


def test_a_customer_with_a_history_has_the_latest_segment(refresh: Refresh, plain: dict[Key, Row]) -> None:
    rows = shop()
    history = [row | {"updated_at": OPENED + 9 * DAY} for row in rows.customers]
    history += [row | {"segment": "new", "updated_at": OPENED} for row in rows.customers[::2]]
    history += [row | {"segment": "imported", "updated_at": None} for row in rows.customers[::3]]
    refreshed = refresh(orders=rows.orders, reviews=rows.reviews, customers=history)
    assert_same(refreshed, plain)
    assert refreshed.aside["customers", "superseded", "superseded"] == len(history) - len(rows.customers)


def test_segments_that_differ_with_nothing_to_choose_by_are_refused_by_name(refresh: Refresh) -> None:
    rows = shop()
    people = [row | {"valid_from": OPENED, "note": "x"} for row in rows.customers]
    people.append({"customer_id": "C0003 ", "segment": "platinum", "valid_from": OPENED + DAY, "note": "y"})
    refreshed = refresh(orders=rows.orders, reviews=rows.reviews, customers=people)
    assert not refreshed.result.success
    (cause,) = causes_of(refreshed.result)
    assert "UndecidedSegmentsError" in cause
    assert "1 customers have several rows whose segments differ" in cause
    assert "C0003: " in cause
    assert "as updated_at in `select` under [customers] in sources.toml: perhaps valid_from;" in cause
    assert refreshed.project.lakehouse.version(SILVER) is None


def test_an_edited_review_counts_at_each_date_as_it_was_known_then(refresh: Refresh, plain: dict[Key, Row]) -> None:
    rows = shop()
    reviews = [row | {"updated_at": row["reviewed_at"]} for row in rows.reviews]
    edits = [
        row | {"review_score": 6.0 - row["review_score"], "updated_at": row["reviewed_at"] + 20 * DAY}
        for row in rows.reviews[::3]
    ]
    dated = Shop(rows.orders, reviews + edits, rows.customers)
    refreshed = refresh(orders=dated.orders, reviews=dated.reviews, customers=dated.customers)
    assert_same(refreshed, expected(dated))
    passed, observed, _ = refreshed.found("no_future_leakage")
    assert passed, observed
    assert refreshed.aside["reviews", "superseded", "superseded"] >= len(edits) - 20
    # Some dates lie between a review and its edit, so neither state alone gives this panel.
    panels = [expected(Shop(rows.orders, states, rows.customers)) for states in (reviews, edits)]
    assert all(panel != refreshed.panel for panel in panels)


# ---- one id, many orders


def guests(customer: str, count: int) -> list[Row]:
    step = timedelta(minutes=22 * 7 * 1440 / count)
    return [
        {
            "order_id": f"{customer} {number:06d}",
            "customer_id": customer,
            "ordered_at": OPENED + number * step,
            "promised_at": None,
            "delivered_at": None,
            "subtotal": 20.0,
            "is_cancelled": False,
        }
        for number in range(count)
    ]


def test_guests_under_one_id_are_named_and_kept_out(refresh: Refresh, plain: dict[Key, Row]) -> None:
    rows = shop()
    orders = guests("0", 5_000)
    reviews = [{"order_id": orders[9]["order_id"], "reviewed_at": orders[9]["ordered_at"] + DAY, "review_score": 1.0}]
    people = [*rows.customers, {"customer_id": "0", "segment": "guest"}]
    refreshed = refresh(orders=rows.orders + orders, reviews=rows.reviews + reviews, customers=people)
    assert_same(refreshed, plain)
    of_rule = {table: number for (table, _, rule), number in refreshed.aside.items() if rule == "impossible_pace"}
    assert of_rule == {"orders": 5_000, "reviews": 1, "customers": 1}
    passed, observed, keys = refreshed.found("impossible_pace")
    assert not passed
    assert observed == "1 customers with more, 5,002 rows set aside with them"
    assert keys == ["0 (33 on one day)"]


def test_a_house_account_on_one_day_is_set_aside_for_all_days_and_a_busy_customer_is_not(
    refresh: Refresh, plain: dict[Key, Row]
) -> None:
    rows = shop()
    busy = [row | {"customer_id": "busy", "order_id": f"busy {row['order_id']}"} for row in guests("b", 154 * 20)]
    canteen = guests("canteen", 154)
    feast = [row | {"order_id": f"feast {place}"} for place, row in enumerate(canteen[:1] * 30)]
    orders = rows.orders + busy + canteen + feast
    refreshed = refresh(orders=orders, reviews=rows.reviews, customers=rows.customers)
    assert refreshed.result.success, causes_of(refreshed.result)
    customers = {customer for customer, _ in refreshed.panel}
    assert "busy" in customers
    assert "canteen" not in customers
    assert refreshed.aside["orders", "quarantined", "impossible_pace"] == len(canteen) + len(feast)


def test_guests_are_one_customer_however_their_id_is_padded_and_states_are_no_orders(refresh: Refresh) -> None:
    """32 a day as "0", " 0" and "0\\t", none of which has more than 24; 20 a day that the feed tells twice."""
    rows = shop()
    spelled = ("0", " 0", "0\t")
    walk_ins = [row | {"customer_id": spelled[at % 3]} for at, row in enumerate(guests("0", 154 * 32))]
    busy = guests("busy", 154 * 20)
    told_again = [row | {"subtotal": 21.0, "updated_at": row["ordered_at"] + DAY} for row in busy]
    orders = [row | {"updated_at": row["ordered_at"]} for row in (*rows.orders, *walk_ins, *busy)] + told_again
    refreshed = refresh(orders=orders, reviews=rows.reviews, customers=rows.customers)
    assert_same(refreshed, expected(Shop(rows.orders + told_again, rows.reviews, rows.customers)))
    assert refreshed.aside["orders", "quarantined", "impossible_pace"] == len(walk_ins)
    assert refreshed.aside["orders", "superseded", "superseded"] == len(busy)
    assert refreshed.found("impossible_pace")[2] == ["0 (32 on one day)"]


# ---- keys as people write them


def test_blanks_around_keys_are_no_part_of_them(refresh: Refresh, plain: dict[Key, Row]) -> None:
    rows = shop()
    refreshed = refresh(
        orders=[
            row | {"order_id": f" {row['order_id']}", "customer_id": f"{row['customer_id']}\t"} for row in rows.orders
        ],
        reviews=[row | {"order_id": f"{row['order_id']}\u00a0 "} for row in rows.reviews],
        customers=[row | {"customer_id": f"{row['customer_id']}    "} for row in rows.customers],
    )
    assert_same(refreshed, plain)
    for rule in ("reviews__match_orders", "customers__match_customers"):
        assert refreshed.found(rule)[0]


def test_reviews_and_customers_of_nobody_are_counted_and_named(refresh: Refresh) -> None:
    rows = shop()
    reviews = [row | {"order_id": row["order_id"].lower()} for row in rows.reviews]
    people = [row | {"customer_id": f"{int(row['customer_id'][1:])}.0"} for row in rows.customers]
    orders = [row | {"customer_id": row["customer_id"][1:]} for row in rows.orders]
    refreshed = refresh(orders=orders, reviews=reviews, customers=people)
    assert refreshed.result.success, causes_of(refreshed.result)
    passed, observed, keys = refreshed.found("reviews__match_orders")
    number = f"{len(reviews):,}"
    assert not passed
    assert observed.startswith(f"{number} of {number} reviews (100.0%) are of no known order; {number} differ only in")
    assert keys[0] == f"{reviews[0]['order_id']} (perhaps {rows.reviews[0]['order_id']})"
    passed, observed, keys = refreshed.found("customers__match_customers")
    assert not passed
    assert observed.startswith("60 of 60 customers (100.0%) are of no known customer; ")
    assert "1.0 (perhaps 0001)" in keys

"""Every row is kept, cancelled, superseded or quarantined under the first rule it breaks; a repaired one stays."""

import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.cleaning import RULES, numbered_segments, with_segments
from churn_assets.churn.policy import ChurnPolicy, Cleaning
from churn_assets.churn.tables import CUSTOMERS, ORDERS
from churn_assets_tests import reference
from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows
from churn_assets_tests.panels import Row, cleaned, dirty_result, frame, rows_of, source_frames

DIRTY = [(0, 150), (1, 152), (2, 150)]
ORDER_COLUMNS, REVIEW_COLUMNS, CUSTOMER_COLUMNS = (
    tuple(column for column in columns if column not in ("is_cancelled", "updated_at"))
    for columns in (reference.ORDER_COLUMNS, reference.REVIEW_COLUMNS, reference.CUSTOMER_COLUMNS)
)
MOMENT = datetime(2024, 3, 5, 12)
HOUR = timedelta(hours=1)


def order(order_id: str | None, customer_id: str | None = "c", **others: Any) -> Row:
    return {"order_id": order_id, "customer_id": customer_id, "ordered_at": MOMENT, "subtotal": 10.0, **others}


def multiset(rows: list[Row], columns: tuple[str, ...]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row[column] for column in columns) for row in rows)


@pytest.fixture(params=DIRTY, ids=lambda dirty: f"seed {dirty[0]}, {dirty[1]} days", scope="module")
def dirty(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(scope="module")
def expected(dirty: tuple[int, int]) -> reference.Cleaned:
    seed, days = dirty
    return reference.clean(*dirty_source_rows(seed, days=days), now=dirty_now(days))


def test_the_rows_set_aside_are_those_of_the_reference(
    spark: SparkSession, dirty: tuple[int, int], expected: reference.Cleaned
) -> None:
    def key(table: str, row: Row) -> str | None:
        value = row["customer_id" if table == "customers" else "order_id"]
        return None if value is None else reference.AROUND.sub("", value) or None

    computed = dirty_result(spark, *dirty)
    wanted = Counter((table, kind, rule, key(table, row)) for table, kind, rule, row in expected.set_aside)
    assert Counter(computed.set_aside) == wanted
    assert {rule for _, _, rule, _ in computed.set_aside} == set(RULES)


def test_a_row_set_aside_is_kept_whole_as_it_was_read(
    spark: SparkSession, dirty: tuple[int, int], expected: reference.Cleaned
) -> None:
    def as_text(moment: datetime | None) -> str | None:
        return None if moment is None else moment.isoformat(timespec="microseconds")

    def read(source_row: str) -> tuple[Any, ...]:
        row = json.loads(source_row)
        moment = row.get("ordered_at", row.get("reviewed_at"))
        at = None if moment is None else as_text(datetime.fromisoformat(moment.replace("Z", "")))
        return (*(row.get(name) for name in ("order_id", "customer_id", "segment")), at, len(row))

    def original(row: Row) -> tuple[Any, ...]:
        at = as_text(row.get("ordered_at", row.get("reviewed_at")))
        return (*(row.get(name) for name in ("order_id", "customer_id", "segment")), at, len(row))

    computed = Counter(map(read, dirty_result(spark, *dirty).source_rows))
    assert computed == Counter(original(row) for *_, row in expected.set_aside)


def test_the_kept_rows_are_those_of_the_reference(
    spark: SparkSession, dirty: tuple[int, int], expected: reference.Cleaned
) -> None:
    computed = dirty_result(spark, *dirty)
    assert multiset(computed.orders, ORDER_COLUMNS) == multiset(expected.orders, ORDER_COLUMNS)
    reviewed = [row for row in computed.orders if row["reviewed_at"] is not None]
    assert multiset(reviewed, REVIEW_COLUMNS) == multiset(expected.reviews, REVIEW_COLUMNS)
    assert multiset(computed.customers, CUSTOMER_COLUMNS) == multiset(expected.customers, CUSTOMER_COLUMNS)


def test_rows_in_are_kept_cancelled_or_quarantined(spark: SparkSession, dirty: tuple[int, int]) -> None:
    seed, days = dirty
    computed = dirty_result(spark, *dirty)
    gone = Counter(table for table, disposition, _, _ in computed.set_aside if disposition != "repaired")
    kept = {
        "orders": len(computed.orders),
        "reviews": sum(row["reviewed_at"] is not None for row in computed.orders),
        "customers": len(computed.customers),
    }
    for table, rows in zip(("orders", "reviews", "customers"), dirty_source_rows(seed, days=days), strict=True):
        assert len(rows) == kept[table] + gone[table], table


def test_the_segment_numbers_are_those_of_the_reference(
    spark: SparkSession, dirty: tuple[int, int], expected: reference.Cleaned
) -> None:
    assert dirty_result(spark, *dirty).segments == reference.segment_numbers(expected.customers)


def test_a_known_segment_keeps_its_number_and_new_ones_follow_by_frequency_then_name(spark: SparkSession) -> None:
    counts = {"b": 1, "a": 1, "c": 2, "known": 3, None: 1}
    numbered = numbered_segments(counts, {"known": 4.0, "nobody left": 0.0})
    assert numbered == {"known": 4.0, "nobody left": 0.0, "c": 5.0, "a": 6.0, "b": 7.0}

    people = [{"customer_id": str(n), "segment": name} for n, name in enumerate(["a", "known", "unheard of", None])]
    customers = frame(spark, people, CUSTOMERS.spark_schema)
    orders = frame(spark, [order(str(n), str(n)) for n in range(5)], ORDERS.spark_schema)
    for segments, first in ((numbered, [6.0, 4.0]), ({}, [-1.0, -1.0])):
        found = {row["order_id"]: row["segment_index"] for row in rows_of(with_segments(orders, customers, segments))}
        assert [found[str(n)] for n in range(5)] == [*first, -1.0, -1.0, -1.0]


def test_the_longest_delivery_is_the_policys(spark: SparkSession) -> None:
    rows = [order("in time", delivered_at=MOMENT + 2 * HOUR), order("late", delivered_at=MOMENT + 3 * HOUR)]
    policy = ChurnPolicy(cleaning=Cleaning(max_delivery_hours=2.0))
    result = cleaned(source_frames(spark, (rows, [], [])), policy=policy)
    delivered = {row["order_id"]: row["delivered_at"] for row in rows_of(result.orders)}
    assert delivered == {"in time": MOMENT + 2 * HOUR, "late": None}


def test_a_repaired_delivery_keeps_the_order_and_its_original_aside(spark: SparkSession) -> None:
    impossible = MOMENT - HOUR
    result = cleaned(source_frames(spark, ([order("1", delivered_at=impossible, promised_at=MOMENT)], [], [])))
    (kept,) = rows_of(result.orders)
    assert (kept["order_id"], kept["delivered_at"], kept["promised_at"]) == ("1", None, MOMENT)
    (aside,) = rows_of(result.set_aside)
    assert (aside["disposition"], aside["rule"]) == ("repaired", "delivery_before_order")
    assert json.loads(aside["source_row"])["delivered_at"].startswith(impossible.isoformat())


def test_which_duplicate_stays_does_not_depend_on_the_order_of_the_rows(spark: SparkSession) -> None:
    copies = [
        order("tie", customer_id="b"),
        order("tie", customer_id="a", subtotal=3.0, promised_at=MOMENT),
        order("tie", customer_id="a", subtotal=2.0),
        order("tie", customer_id="a", ordered_at=MOMENT + timedelta(microseconds=1), subtotal=1.0),
    ]
    kept = []
    for rows in (copies, copies[::-1]):
        result = cleaned(source_frames(spark, (rows, [], [])))
        kept += rows_of(result.orders)
    assert [(row["customer_id"], row["promised_at"], row["subtotal"]) for row in kept] == [("a", MOMENT, 3.0)] * 2


def test_copies_of_an_order_and_of_its_review_leave_one_of_each(spark: SparkSession) -> None:
    review = {"order_id": "o", "reviewed_at": MOMENT, "review_score": 3.0, "sentiment_category": "fine"}
    rows = ([order("o")] * 2, [review] * 3, list[Row]())
    aside = rows_of(cleaned(source_frames(spark, rows)).set_aside)
    assert multiset(aside, ("source_table", "rule")) == {("orders", "superseded"): 1, ("reviews", "superseded"): 2}

"""From raw source rows to silver: every row is kept, cancelled or quarantined under the first rule it breaks.

Nothing here looks at as-of dates; what a row means for a snapshot is decided in `features.py`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import chain

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS, SourceTable, as_canonical, as_json

QUARANTINED, CANCELLED, REPAIRED = "quarantined", "cancelled", "repaired"

# Each rule in words; the order of the classifications below is the order in which they are tried.
RULES = {
    "null_key": "an identifier is missing",
    "impossible_time": "the time is missing, before 1970 or in the future",
    "duplicate_key": "the same key again; the earliest row stays",
    "cancelled": "the order was called off",
    "negative_subtotal": "the subtotal is missing or below zero",
    "score_out_of_range": "the review score is missing or not within 1 to 5",
    "unknown_order": "the review is of an order that does not exist",
    "reviewed_before_order": "the review is older than its order",
    "delivery_before_order": "the delivery is older than its order; the delivery time is set aside, the order stays",
    "delivery_too_late": "the delivery came impossibly late; the delivery time is set aside, the order stays",
}


REVIEW_FACTS = [name for name in REVIEWS.column_names if name != "order_id"]


@dataclass(frozen=True)
class Cleaned:
    """The result of cleaning; each frame is computed from the source tables by itself.

    orders: silver without segments: order_id, customer_id, ordered_at, promised_at, delivered_at, subtotal,
        reviewed_at, review_score, sentiment_category.
    customers: customer_id, segment; one row each.
    set_aside: source_table, disposition (quarantined, cancelled, repaired), rule, row_key, source_row (JSON).
    """

    orders: DataFrame
    customers: DataFrame
    set_aside: DataFrame


def clean(
    orders: DataFrame, reviews: DataFrame, customers: DataFrame, *, policy: ChurnPolicy, now: datetime
) -> Cleaned:
    """Raw source tables (any convertible types) to silver; times after `now` (aware, UTC) are impossible.

    Raises SourceSchemaError if a table does not fit.
    """
    keyed_orders = _keyed(orders, ORDERS, keys=("order_id", "customer_id"), now=now, at="ordered_at")
    keyed_orders = keyed_orders.withColumn("is_cancelled", F.coalesce("is_cancelled", F.lit(False)))
    keyed_reviews = _keyed(reviews, REVIEWS, keys=("order_id",), now=now, at="reviewed_at")
    keyed_customers = _keyed(customers, CUSTOMERS, keys=("customer_id",))
    # Orders are judged twice rather than kept between silver and the rows set aside: only these need the raw rows, and
    # of rows alike in all canonical columns whichever stays makes the same silver.
    judged = _judged_orders(_kept(keyed_orders), policy)
    set_aside = [
        _set_aside(_judged_orders(_told_apart(keyed_orders, orders, ORDERS), policy), "order_id", orders, ORDERS),
        _set_aside(_judged_reviews(_told_apart(keyed_reviews, reviews, REVIEWS), judged), "order_id", reviews, REVIEWS),
        _set_aside(
            _judged_customers(_told_apart(keyed_customers, customers, CUSTOMERS)), "customer_id", customers, CUSTOMERS
        ),
    ]
    return Cleaned(
        _with_review(_kept(judged), _without_duplicates(_kept(keyed_reviews), REVIEWS, "reviewed_at")),
        _kept(_judged_customers(_kept(keyed_customers))).select(*CUSTOMERS.column_names),
        reduce(DataFrame.unionByName, set_aside),
    )


def _keyed(
    raw: DataFrame,
    table: SourceTable,
    *,
    keys: Sequence[str],
    now: datetime | None = None,
    at: str | None = None,
) -> DataFrame:
    """The canonical columns, with key and `rule`: null_key, impossible_time (null: none broken).

    The raw columns are carried along under other names until it is known which rows are set aside.
    """
    rows = as_canonical(raw, table, *[F.col(f"`{name}`").alias(_carried(table, name)) for name in raw.columns])
    has_key = F.lit(True)
    for key in keys:
        has_key &= F.col(key).isNotNull()
    has_time = F.lit(True)
    if at is not None:
        has_time = F.coalesce(F.col(at).between(F.lit("1970-01-01").cast("timestamp"), F.lit(now)), F.lit(False))
    # Only rows with a key and a time compete for it. The others get a key of their own by content, because a window
    # over a column that is null in a quarter of the rows would pull that quarter into one task.
    content = F.md5(F.concat_ws("\0", *[F.col(name).cast("string") for name in table.column_names]))
    return rows.select(
        "*",
        F.when(has_key & has_time, F.col(keys[0])).otherwise(F.concat(F.lit("\0"), content)).alias("key"),
        _first_broken((~has_key, "null_key"), (~has_time, "impossible_time")).alias("rule"),
    )


def _carried(table: SourceTable, name: str) -> str:
    return f"{table.name} {name}"


def _source_row(raw: DataFrame, table: SourceTable) -> Column:
    """A raw row whole, as JSON, of the columns that `_keyed` carries along."""
    return as_json(raw.schema, {name: _carried(table, name) for name in raw.columns})


def _told_apart(rows: DataFrame, raw: DataFrame, table: SourceTable) -> DataFrame:
    """`rows` with `last_tie`, which tells apart those alike in all canonical columns.

    It is the row as JSON: made for the few that have a copy.
    """
    copies = F.count(F.lit(1)).over(Window.partitionBy("key"))
    last_tie = F.when(F.col("copies") > 1, _source_row(raw, table))
    return rows.withColumn("copies", copies).withColumn("last_tie", last_tie)


def _without_duplicates(rows: DataFrame, table: SourceTable, at: str | None = None) -> DataFrame:
    """`rows`, `_keyed`, with the rule duplicate_key where an earlier row has the key."""
    remaining = [name for name in table.column_names[1:] if name != at]
    # A known segment beats none; elsewhere null comes first.
    ties = [F.asc_nulls_last(name) if table is CUSTOMERS else F.asc_nulls_first(name) for name in remaining]
    last_tie = ["last_tie"] if "last_tie" in rows.columns else []
    earliest_first = Window.partitionBy("key").orderBy(*([at] if at else []), *ties, *last_tie)
    place = F.row_number().over(earliest_first)
    return rows.withColumn("rule", F.coalesce("rule", F.when(place > 1, F.lit("duplicate_key"))))


def _judged_orders(orders: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """Adds `rule` (null: kept) and `repair`; `delivered_at` is null where it was repaired."""
    subtotal_is_valid = F.col("subtotal").between(0, sys.float_info.max)
    delay_hours = (F.unix_micros("delivered_at") - F.unix_micros("ordered_at")) / F.lit(3_600_000_000)
    rule = _first_broken(
        (F.col("rule").isNotNull(), F.col("rule")),
        (F.col("is_cancelled"), "cancelled"),
        (~F.coalesce(subtotal_is_valid, F.lit(False)), "negative_subtotal"),
    )
    repair = _first_broken(
        (F.col("rule").isNotNull(), F.lit(None)),
        (F.col("delivered_at") < F.col("ordered_at"), "delivery_before_order"),
        (delay_hours > policy.cleaning.max_delivery_hours, "delivery_too_late"),
    )
    return (
        _without_duplicates(orders, ORDERS, "ordered_at")
        .withColumn("rule", rule)
        .withColumn("repair", repair)
        .withColumn("delivered_at", F.when(F.col("repair").isNull(), F.col("delivered_at")))
    )


def _judged_reviews(reviews: DataFrame, judged_orders: DataFrame) -> DataFrame:
    """Adds `rule` (null: kept)."""
    known_orders = judged_orders.where("rule is null or rule = 'cancelled'").select(
        "key", F.col("ordered_at").alias("of_ordered_at"), F.col("rule").isNotNull().alias("of_cancelled")
    )
    rule = _first_broken(
        (F.col("rule").isNotNull(), F.col("rule")),
        (F.col("of_cancelled"), "cancelled"),
        (~_is_score(), "score_out_of_range"),
        (F.col("of_ordered_at").isNull(), "unknown_order"),
        (F.col("reviewed_at") < F.col("of_ordered_at"), "reviewed_before_order"),
    )
    # Both lie by their key already, and a review without one has no order's.
    return (
        _without_duplicates(reviews, REVIEWS, "reviewed_at").join(known_orders, "key", "left").withColumn("rule", rule)
    )


def _is_score() -> Column:
    return F.coalesce(F.col("review_score").between(1, 5), F.lit(False))


def _with_review(orders: DataFrame, reviews: DataFrame) -> DataFrame:
    """Kept orders with their kept review. reviews: `_without_duplicates`; kept are those that break no other rule."""
    facts = _kept(reviews).where(_is_score()).select(F.col("key").alias("of_key"), *REVIEW_FACTS)
    is_of_order = (F.col("key") == F.col("of_key")) & (F.col("reviewed_at") >= F.col("ordered_at"))
    names = [name for name in ORDERS.column_names if name != "is_cancelled"]
    return orders.select("key", *names).join(facts, is_of_order, "left").select(*names, *REVIEW_FACTS)


def _judged_customers(customers: DataFrame) -> DataFrame:
    return _without_duplicates(customers, CUSTOMERS)


def _first_broken(*cases: tuple[Column, str | Column]) -> Column:
    """The value of the first case whose condition holds, else null."""
    chosen = F.lit(None).cast("string")
    for condition, rule in reversed(cases):
        chosen = F.when(condition, F.lit(rule) if isinstance(rule, str) else rule).otherwise(chosen)
    return chosen


def _kept(judged: DataFrame) -> DataFrame:
    return judged.where("rule is null")


def _set_aside(judged: DataFrame, key: str, raw: DataFrame, table: SourceTable) -> DataFrame:
    """The rows with a rule or a repair, which exclude each other."""
    disposition = (
        F.when(F.col("rule") == "cancelled", CANCELLED).when(F.col("rule").isNotNull(), QUARANTINED).otherwise(REPAIRED)
    )
    repair = F.col("repair") if "repair" in judged.columns else F.lit(None).cast("string")
    broken = F.coalesce("rule", repair)
    return judged.where(broken.isNotNull()).select(
        F.lit(table.name).alias("source_table"),
        disposition.alias("disposition"),
        broken.alias("rule"),
        F.col(key).alias("row_key"),
        _source_row(raw, table).alias("source_row"),
    )


def numbered_segments(customers: Mapping[str | None, int], known: Mapping[str, float]) -> dict[str, float]:
    """The segment dimension, segment -> segment_index: `known` with the unseen segments of `customers` appended.

    customers: how many have each segment, None for none. New segments are numbered by frequency, ties by name, after
    the last known number; a known number never changes, because models have learned it.
    """
    first_free = max(known.values(), default=-1.0) + 1
    unseen = [(name, count) for name, count in customers.items() if name is not None and name not in known]
    # Python orders text by code points, as Spark does by bytes.
    by_frequency = sorted(unseen, key=lambda counted: (-counted[1], counted[0]))
    return {**known, **{name: first_free + place for place, (name, _) in enumerate(by_frequency)}}


def with_segments(orders: DataFrame, customers: DataFrame, segments: Mapping[str, float]) -> DataFrame:
    """`orders` with `segment` and `segment_index` (-1 without a segment) of their customer."""
    number = F.lit(None).cast("double")
    if segments:
        number = F.try_element_at(F.create_map(*map(F.lit, chain.from_iterable(segments.items()))), F.col("segment"))
    numbered = customers.select("customer_id", "segment", number.alias("segment_index"))
    return orders.join(numbered, "customer_id", "left").withColumn(
        "segment_index", F.coalesce("segment_index", F.lit(-1.0))
    )

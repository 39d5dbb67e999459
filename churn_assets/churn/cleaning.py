"""From raw source rows to silver: every row is kept, cancelled or quarantined under the first rule it breaks.

Nothing here looks at as-of dates; what a row means for a snapshot is decided in `features.py`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS, SourceTable, as_canonical, as_json, united

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
    rows = united(keyed_orders, keyed_reviews)
    # Computed twice rather than kept between silver and the rows set aside: only these need the raw rows, and of rows
    # alike in all canonical columns whichever stays makes the same silver.
    silver = _kept(_with_review(_judged(rows.where("rule is null"), policy)).where(_is_of(ORDERS)))
    whole_row = F.when(_is_of(ORDERS), _source_row(orders, ORDERS)).otherwise(_source_row(reviews, REVIEWS))
    whole_customer = _source_row(customers, CUSTOMERS)
    set_aside = [
        _set_aside(_judged(rows, policy, whole_row), "order_id", whole_row),
        _set_aside(_without_duplicates(keyed_customers, (CUSTOMERS,), whole_customer), "customer_id", whole_customer),
    ]
    return Cleaned(
        silver.select(*[name for name in ORDERS.column_names if name != "is_cancelled"], *REVIEW_FACTS),
        _kept(_without_duplicates(keyed_customers.where("rule is null"), (CUSTOMERS,))).select(*CUSTOMERS.column_names),
        set_aside[0].unionByName(set_aside[1]),
    )


def _is_of(table: SourceTable) -> Column:
    return F.col("source_table") == table.name


def _keyed(
    raw: DataFrame,
    table: SourceTable,
    *,
    keys: Sequence[str],
    now: datetime | None = None,
    at: str | None = None,
) -> DataFrame:
    """The canonical columns, with source_table, at, key and `rule`: null_key, impossible_time (null: none broken).

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
        F.lit(table.name).alias("source_table"),
        (F.lit(None) if at is None else F.col(at)).cast("timestamp").alias("at"),
        F.when(has_key & has_time, F.col(keys[0])).otherwise(F.concat(F.lit("\0"), content)).alias("key"),
        _first_broken((~has_key, "null_key"), (~has_time, "impossible_time")).alias("rule"),
    )


def _carried(table: SourceTable, name: str) -> str:
    return f"{table.name} {name}"


def _source_row(raw: DataFrame, table: SourceTable) -> Column:
    """A raw row whole, as JSON, of the columns that `_keyed` carries along."""
    return as_json(raw.schema, {name: _carried(table, name) for name in raw.columns})


def _without_duplicates(rows: DataFrame, tables: Iterable[SourceTable], last_tie: Column | None = None) -> DataFrame:
    """`rows` of the `tables`, `_keyed`, with the rule duplicate_key where an earlier row of its table has the key.

    last_tie: what tells rows apart that are alike in all canonical columns.
    """
    of_key = Window.partitionBy("key", "source_table")
    names = {name: table for table in tables for name in table.column_names}
    # A known segment beats none; elsewhere null comes first.
    ties = [F.asc_nulls_last(name) if of is CUSTOMERS else F.asc_nulls_first(name) for name, of in names.items()]
    if last_tie is not None:
        # A row as JSON: made for the few that have a copy.
        rows = rows.withColumn("copies", F.count(F.lit(1)).over(of_key))
        rows = rows.withColumn("last_tie", F.when(F.col("copies") > 1, last_tie))
        ties.append(F.col("last_tie"))
    place = F.row_number().over(of_key.orderBy("at", *ties))
    return rows.withColumn("rule", F.coalesce("rule", F.when(place > 1, F.lit("duplicate_key"))))


def _judged(rows: DataFrame, policy: ChurnPolicy, last_tie: Column | None = None) -> DataFrame:
    """Orders and reviews, `_keyed`, with their `rule` (null: kept) and `repair`.

    `delivered_at` is null where it was repaired. The rows of one order_id lie together: one shuffle finds duplicates,
    and judges reviews by their orders.
    """
    subtotal_is_valid = F.col("subtotal").between(0, sys.float_info.max)
    delay_hours = (F.unix_micros("delivered_at") - F.unix_micros("ordered_at")) / F.lit(3_600_000_000)
    by_itself = _first_broken(
        (F.col("rule").isNotNull(), F.col("rule")),
        (_is_of(ORDERS) & F.col("is_cancelled"), "cancelled"),
        (_is_of(ORDERS) & ~F.coalesce(subtotal_is_valid, F.lit(False)), "negative_subtotal"),
    )
    is_known = _is_of(ORDERS) & F.coalesce(F.col("rule") == "cancelled", F.lit(True))
    of_order = Window.partitionBy("key")
    score_is_valid = F.col("review_score").between(1, 5)
    by_order = _first_broken(
        (_is_of(ORDERS) | F.col("rule").isNotNull(), F.col("rule")),
        (F.col("of_cancelled_at").isNotNull(), "cancelled"),
        (~F.coalesce(score_is_valid, F.lit(False)), "score_out_of_range"),
        (F.col("of_ordered_at").isNull(), "unknown_order"),
        (F.col("reviewed_at") < F.col("of_ordered_at"), "reviewed_before_order"),
    )
    repair = _first_broken(
        (F.col("rule").isNotNull(), F.lit(None)),
        (F.col("delivered_at") < F.col("ordered_at"), "delivery_before_order"),
        (delay_hours > policy.cleaning.max_delivery_hours, "delivery_too_late"),
    )
    return (
        _without_duplicates(rows, (ORDERS, REVIEWS), last_tie)
        .withColumn("rule", by_itself)
        # At most one order of a key is known, so the maximum is its value.
        .withColumns(
            {
                "of_ordered_at": F.max(F.when(is_known, F.col("at"))).over(of_order),
                "of_cancelled_at": F.max(F.when(is_known & F.col("rule").isNotNull(), F.col("at"))).over(of_order),
            }
        )
        .withColumn("rule", by_order)
        .withColumn("repair", repair)
        .withColumn("delivered_at", F.when(F.col("repair").isNull(), F.col("delivered_at")))
    )


def _with_review(judged: DataFrame) -> DataFrame:
    """`judged` orders with their kept review, at most one, in the columns REVIEW_FACTS."""
    is_kept_review = _is_of(REVIEWS) & F.col("rule").isNull()
    of_order = Window.partitionBy("key")
    return judged.withColumns(
        {name: F.max(F.when(is_kept_review, F.col(name))).over(of_order) for name in REVIEW_FACTS}
    )


def _first_broken(*cases: tuple[Column, str | Column]) -> Column:
    """The value of the first case whose condition holds, else null."""
    chosen = F.lit(None).cast("string")
    for condition, rule in reversed(cases):
        chosen = F.when(condition, F.lit(rule) if isinstance(rule, str) else rule).otherwise(chosen)
    return chosen


def _kept(judged: DataFrame) -> DataFrame:
    return judged.where("rule is null")


def _set_aside(judged: DataFrame, key: str, source_row: Column) -> DataFrame:
    """The rows with a rule or a repair, which exclude each other."""
    disposition = (
        F.when(F.col("rule") == "cancelled", CANCELLED).when(F.col("rule").isNotNull(), QUARANTINED).otherwise(REPAIRED)
    )
    repair = F.col("repair") if "repair" in judged.columns else F.lit(None).cast("string")
    broken = F.coalesce("rule", repair)
    return judged.where(broken.isNotNull()).select(
        "source_table",
        disposition.alias("disposition"),
        broken.alias("rule"),
        F.col(key).alias("row_key"),
        source_row.alias("source_row"),
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

"""From raw source rows to silver: every row is kept, cancelled or quarantined under the first rule it breaks.

Nothing here looks at as-of dates; what a row means for a snapshot is decided in `features.py`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS, SourceTable, conformed

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


@dataclass(frozen=True)
class Cleaned:
    """The result of cleaning.

    orders: silver without segments: order_id, customer_id, ordered_at, promised_at, delivered_at, subtotal,
        reviewed_at, review_score, sentiment_category.
    customers: customer_id, segment; one row each.
    set_aside: source_table, disposition (quarantined, cancelled, repaired), rule, row_key, source_row (JSON).
    """

    orders: DataFrame
    customers: DataFrame
    set_aside: DataFrame
    persisted: tuple[DataFrame, ...]

    def release(self) -> None:
        """Gives back the memory held for rows that two outputs share."""
        for frame in self.persisted:
            frame.unpersist()


def clean(
    orders: DataFrame, reviews: DataFrame, customers: DataFrame, *, policy: ChurnPolicy, now: datetime
) -> Cleaned:
    """Raw source tables (any convertible types) to silver; times after `now` (aware, UTC) are impossible.

    Raises SourceSchemaError if a table does not fit.
    """
    judged_orders = _judge_orders(conformed(orders, ORDERS), policy, now).persist()
    judged_reviews = _judge_reviews(conformed(reviews, REVIEWS), judged_orders, now).persist()
    judged_customers = _judge_customers(conformed(customers, CUSTOMERS))
    kept_reviews = _kept(judged_reviews, REVIEWS)
    silver = _kept(judged_orders, ORDERS).drop("is_cancelled").join(kept_reviews, "order_id", "left")
    set_aside = (
        _set_aside(judged_orders, ORDERS, "order_id")
        .unionByName(_repaired(judged_orders))
        .unionByName(_set_aside(judged_reviews, REVIEWS, "order_id"))
        .unionByName(_set_aside(judged_customers, CUSTOMERS, "customer_id"))
    )
    return Cleaned(silver, _kept(judged_customers, CUSTOMERS), set_aside, (judged_orders, judged_reviews))


def _judge_orders(orders: DataFrame, policy: ChurnPolicy, now: datetime) -> DataFrame:
    """Adds `rule` (null: kept) and `repair`; `delivered_at` is null where it was repaired."""
    orders = orders.withColumn("is_cancelled", F.coalesce("is_cancelled", F.lit(False)))
    orders = _with_key_rules(
        orders, ORDERS, keys=("order_id", "customer_id"), unique="order_id", now=now, at="ordered_at"
    )
    subtotal_is_valid = F.col("subtotal").between(0, sys.float_info.max)
    delay_hours = (F.unix_micros("delivered_at") - F.unix_micros("ordered_at")) / F.lit(3_600_000_000)
    return (
        orders.withColumn(
            "rule",
            _first_broken(
                (F.col("rule").isNotNull(), F.col("rule")),
                (F.col("is_cancelled"), "cancelled"),
                (~F.coalesce(subtotal_is_valid, F.lit(False)), "negative_subtotal"),
            ),
        )
        .withColumn(
            "repair",
            _first_broken(
                (F.col("rule").isNotNull(), F.lit(None)),
                (F.col("delivered_at") < F.col("ordered_at"), "delivery_before_order"),
                (delay_hours > policy.cleaning.max_delivery_hours, "delivery_too_late"),
            ),
        )
        .withColumn("delivered_at", F.when(F.col("repair").isNull(), F.col("delivered_at")))
    )


def _judge_reviews(reviews: DataFrame, judged_orders: DataFrame, now: datetime) -> DataFrame:
    reviews = _with_key_rules(reviews, REVIEWS, keys=("order_id",), unique="order_id", now=now, at="reviewed_at")
    known_orders = judged_orders.where("rule is null or rule = 'cancelled'").select(
        "order_id", F.col("ordered_at").alias("of_ordered_at"), (F.col("rule") == "cancelled").alias("of_cancelled")
    )
    score_is_valid = F.col("review_score").between(1, 5)
    return (
        reviews.join(known_orders, "order_id", "left")
        .withColumn(
            "rule",
            _first_broken(
                (F.col("rule").isNotNull(), F.col("rule")),
                (F.col("of_cancelled"), "cancelled"),
                (~F.coalesce(score_is_valid, F.lit(False)), "score_out_of_range"),
                (F.col("of_ordered_at").isNull(), "unknown_order"),
                (F.col("reviewed_at") < F.col("of_ordered_at"), "reviewed_before_order"),
            ),
        )
        .drop("of_ordered_at", "of_cancelled")
    )


def _judge_customers(customers: DataFrame) -> DataFrame:
    return _with_key_rules(customers, CUSTOMERS, keys=("customer_id",), unique="customer_id")


def _with_key_rules(
    rows: DataFrame,
    table: SourceTable,
    *,
    keys: Sequence[str],
    unique: str,
    now: datetime | None = None,
    at: str | None = None,
) -> DataFrame:
    """Adds `rule` for the rules about identity: null_key, impossible_time, duplicate_key (null: none broken)."""
    has_key = F.lit(True)
    for key in keys:
        has_key &= F.col(key).isNotNull()
    has_time = F.lit(True)
    if at is not None:
        has_time = F.coalesce(F.col(at).between(F.lit("1970-01-01").cast("timestamp"), F.lit(now)), F.lit(False))
    # Only rows with a key and a time compete for it. The others get a partition of their own by content, because a
    # window over a column that is null in a quarter of the rows would pull that quarter into one task.
    competitor = F.when(has_key & has_time, F.col(unique)).otherwise(F.concat(F.lit("\0"), F.md5("source_row")))
    remaining = [name for name in table.column_names if name not in (unique, at)]
    # A known segment beats none; elsewhere null comes first. `source_row` makes the choice total.
    ties = [F.asc_nulls_last(name) if table is CUSTOMERS else F.asc_nulls_first(name) for name in remaining]
    earliest_first = Window.partitionBy(competitor).orderBy(*([at] if at else []), *ties, "source_row")
    return rows.withColumn(
        "rule",
        _first_broken(
            (~has_key, "null_key"),
            (~has_time, "impossible_time"),
            (F.row_number().over(earliest_first) > 1, "duplicate_key"),
        ),
    )


def _first_broken(*cases: tuple[Column, str | Column]) -> Column:
    """The value of the first case whose condition holds, else null."""
    chosen = F.lit(None).cast("string")
    for condition, rule in reversed(cases):
        chosen = F.when(condition, F.lit(rule) if isinstance(rule, str) else rule).otherwise(chosen)
    return chosen


def _kept(judged: DataFrame, table: SourceTable) -> DataFrame:
    return judged.where("rule is null").select(*table.column_names)


def _set_aside(judged: DataFrame, table: SourceTable, key: str) -> DataFrame:
    disposition = F.when(F.col("rule") == "cancelled", CANCELLED).otherwise(QUARANTINED)
    return judged.where("rule is not null").select(
        F.lit(table.name).alias("source_table"),
        disposition.alias("disposition"),
        "rule",
        F.col(key).alias("row_key"),
        "source_row",
    )


def _repaired(judged_orders: DataFrame) -> DataFrame:
    return judged_orders.where("repair is not null").select(
        F.lit(ORDERS.name).alias("source_table"),
        F.lit(REPAIRED).alias("disposition"),
        F.col("repair").alias("rule"),
        F.col("order_id").alias("row_key"),
        "source_row",
    )


def numbered_segments(customers: DataFrame, known: DataFrame | None) -> DataFrame:
    """The segment dimension (segment, segment_index double): `known` with unseen segments of `customers` appended.

    New segments are numbered by frequency over `customers` (customer_id, segment), ties by name, after the last known
    number; a known number never changes, because models have learned it.
    """
    counted = customers.where("segment is not null").groupBy("segment").agg(F.count("*").alias("customers"))
    first_free = 0.0
    if known is not None:
        counted = counted.join(known, "segment", "left_anti")
        (first_free,) = known.agg(F.coalesce(F.max("segment_index") + 1, F.lit(0.0))).collect()[0]
    # An unpartitioned window is right here: a dimension has a handful of rows.
    by_frequency = Window.orderBy(F.desc("customers"), "segment")
    new = counted.select("segment", (F.row_number().over(by_frequency) - 1 + F.lit(first_free)).alias("segment_index"))
    return new if known is None else known.select("segment", "segment_index").unionByName(new)


def with_segments(orders: DataFrame, customers: DataFrame, segments: DataFrame) -> DataFrame:
    """`orders` with `segment` and `segment_index` (-1 without a segment) of their customer."""
    numbered = customers.join(F.broadcast(segments), "segment", "left").select(
        "customer_id", "segment", "segment_index"
    )
    return orders.join(numbered, "customer_id", "left").withColumn(
        "segment_index", F.coalesce("segment_index", F.lit(-1.0))
    )

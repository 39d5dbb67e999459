"""From raw source rows to silver: each is kept, cancelled, superseded or quarantined under the first rule it breaks.

Nothing here looks at as-of dates; what a row means for a snapshot is decided in `features.py`.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import chain
from operator import and_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.errors import UndecidedSegmentsError
from churn_assets.churn.outcomes import MAX_KEYS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS, SourceTable, as_canonical, as_json, united

QUARANTINED, CANCELLED, SUPERSEDED, REPAIRED = "quarantined", "cancelled", "superseded", "repaired"

# Each rule in words; the order of the classifications below is the order in which they are tried.
RULES = {
    "null_key": "an identifier is missing",
    "impossible_time": "the time is missing, before 1970 or in the future",
    "impossible_pace": "the customer has more orders on one day than a person places: a guest or house account",
    "superseded": "another state of the same order, review or customer is later or more complete",
    "duplicate_key": "the same order again with another customer or time; the earliest stays",
    "cancelled": "the order was called off",
    "negative_subtotal": "the subtotal is missing or below zero",
    "score_out_of_range": "the review score is missing or not within 1 to 5",
    "unknown_order": "the review is of an order that does not exist",
    "reviewed_before_order": "the review is older than its order",
    "delivery_before_order": "the delivery is older than its order; the delivery time is set aside, the order stays",
    "delivery_too_late": "the delivery came impossibly late; the delivery time is set aside, the order stays",
}
# Those that are no quarantine.
DISPOSITIONS = {"cancelled": CANCELLED, "superseded": SUPERSEDED}

ORDER_FACTS = [name for name in ORDERS.column_names if name not in ("is_cancelled", "updated_at")]
REVIEW_FACTS = [name for name in REVIEWS.column_names if name not in ("order_id", "updated_at")]
CUSTOMER_FACTS = [name for name in CUSTOMERS.column_names if name != "updated_at"]
# Which columns make rows of one key states of one thing; rows that differ in them contradict each other.
IDENTITY = {ORDERS: ("customer_id", "ordered_at"), REVIEWS: (), CUSTOMERS: ()}
# Of an order: each state of its review, by the time from which it was known.
REVIEW_STATES = "review_states"


@dataclass(frozen=True)
class Cleaned:
    """The result of cleaning; each frame is computed from the source tables, and from what was held of the orders.

    orders: silver without segments: order_id, customer_id, ordered_at, promised_at, delivered_at, subtotal,
        reviewed_at, review_score, sentiment_category; where the reviews have updated_at, review_states too: an array
        of (known_at, reviewed_at, review_score).
    customers: customer_id, segment; one row each.
    set_aside: source_table, disposition (quarantined, cancelled, superseded, repaired), rule, row_key, source_row
        (JSON).
    paced: the customers set aside for their pace, each with the most orders on one day.
    """

    orders: DataFrame
    customers: DataFrame
    set_aside: DataFrame
    paced: Mapping[str, int]


def clean(
    orders: DataFrame,
    reviews: DataFrame,
    customers: DataFrame,
    *,
    policy: ChurnPolicy,
    now: datetime,
    hold: Callable[[DataFrame], DataFrame] = lambda rows: rows,
) -> Cleaned:
    """Raw source tables (any convertible types) to silver; times after `now` (aware, UTC) are impossible.

    hold: keeps a frame that is read several times, so that it is computed once. Asks one query at once, see
    `_asked_first`. Raises SourceSchemaError if a table does not fit, and UndecidedSegmentsError.
    """
    order_rows = _keyed(orders, ORDERS, keys=("order_id", "customer_id"), now=now, at="ordered_at")
    order_rows = order_rows.withColumn("is_cancelled", F.coalesce("is_cancelled", F.lit(False)))
    review_rows = _keyed(reviews, REVIEWS, keys=("order_id",), now=now, at="reviewed_at")
    customer_rows = _keyed(customers, CUSTOMERS, keys=("customer_id",))
    # Read five times: to make them canonical each time took a young JVM a fifth of what silver takes (2026-11-29).
    keyed_orders = hold(order_rows.select("key", "rule", *ORDERS.column_names))
    asked = _asked_first(keyed_orders, review_rows, customer_rows, customers, policy.cleaning.max_orders_per_day)
    order_rows, customer_rows = _with_pace(order_rows, asked.paced), _with_pace(customer_rows, asked.paced)

    one_of_orders = _one_of_each(_with_pace(keyed_orders, asked.paced), ORDERS)
    judged_orders = hold(_judged_orders(one_of_orders, policy))
    one_of_reviews, judged_customers = (
        hold(_one_of_each(rows, table)) if table in asked.contested else _each(rows, table)
        for rows, table in ((review_rows, REVIEWS), (customer_rows, CUSTOMERS))
    )
    judged_reviews = _judged_reviews(one_of_reviews, judged_orders)
    told = [
        _told(order_rows, judged_orders, orders, ORDERS),
        _told(review_rows, judged_reviews, reviews, REVIEWS),
        _told(customer_rows, judged_customers, customers, CUSTOMERS),
    ]
    set_aside = _set_aside(hold(reduce(DataFrame.unionByName, told)))
    silver = _with_review(_kept(judged_orders), one_of_reviews)
    if "updated_at" in reviews.columns:
        silver = _with_review_states(silver, review_rows)
    return Cleaned(silver, _kept(judged_customers).select(*CUSTOMER_FACTS), set_aside, asked.paced)


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
    # Only rows with a key and a time compete for it. The others get a key of their own by content, because a join or a
    # window by a column that is null in a quarter of the rows would pull that quarter into one task.
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


@dataclass(frozen=True)
class _Asked:
    """paced: as of `Cleaned`. contested: of reviews and customers the tables in which keys have several rows."""

    paced: Mapping[str, int]
    contested: Collection[SourceTable]


def _asked_first(
    orders: DataFrame, reviews: DataFrame, customers: DataFrame, raw_customers: DataFrame, most: int
) -> _Asked:
    """Who has more than `most` orders on one day; whose segment nothing decides; where keys are contested.

    In: orders, reviews and customers `_keyed`. Raises UndecidedSegmentsError.
    """
    # Rows of one order are counted as one, but only of the days that have as many rows: these are few.
    dated = _kept(orders).select("customer_id", F.col("ordered_at").cast("date").alias("day"), "key")
    by_day = ["customer_id", "day"]
    busy = dated.groupBy(*by_day).agg(F.count(F.lit(1)).alias("rows")).where(F.col("rows") > most)
    of_busy = dated.join(busy, by_day, "left_semi").distinct().groupBy(*by_day).agg(F.count(F.lit(1)).alias("orders"))
    paced = of_busy.where(F.col("orders") > most).groupBy("customer_id").agg(F.max("orders").alias("orders"))
    of_customers = (
        _kept(customers)
        .groupBy("key")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.count("updated_at").alias("times"),
            F.min("segment").alias("one"),
            F.max("segment").alias("other"),
        )
        .where("rows > 1")
    )
    is_undecided = (F.col("times") == 0) & (F.col("one") != F.col("other"))
    rivals = {"undecided": F.col("key"), "one": F.col("one"), "other": F.col("other")}
    # Of keys that are decided one row is left.
    told = of_customers.select(
        F.lit(CUSTOMERS.name).alias("contested"),
        *[F.when(is_undecided, value).alias(name) for name, value in rivals.items()],
    ).distinct()
    of_reviews = _kept(reviews).groupBy("key").agg(F.count(F.lit(1)).alias("rows")).where("rows > 1")
    told = united(told, of_reviews.select(F.lit(REVIEWS.name).alias("contested")).distinct())
    # Sail's union gives text of a kind that cannot be collected (pysail 0.7.2); a cast makes it text again.
    texts = [F.col(name).cast("string").alias(name) for name in ("customer_id", "contested", *rivals)]
    found = united(paced, told).select("orders", *texts).collect()
    undecided_rows = sorted(
        (row["undecided"], row["one"], row["other"]) for row in found if row["undecided"] is not None
    )
    if undecided_rows:
        raise undecided(undecided_rows, raw_customers.schema)
    contested = {row["contested"] for row in found}
    return _Asked(
        {row["customer_id"]: row["orders"] for row in found if row["customer_id"] is not None},
        [table for table in (REVIEWS, CUSTOMERS) if table.name in contested],
    )


def undecided(rivals: Sequence[tuple[str, str, str]], schema: T.StructType) -> UndecidedSegmentsError:
    """The refusal of customers whose segments differ. rivals: customer, one segment and another. schema: of the source,
    whose columns of times, or all others, may say which row is the latest."""
    others = [field for field in schema if field.name not in CUSTOMERS.column_names]
    kinds = T.TimestampType | T.TimestampNTZType | T.DateType
    candidates = [field.name for field in others if isinstance(field.dataType, kinds)] or [each.name for each in others]
    hint = f": perhaps {' or '.join(candidates)}" if candidates else ""
    return UndecidedSegmentsError(
        f"Source table customers: {len(rivals):,} customers have several rows whose segments differ, and nothing says "
        "which is the latest.",
        [f"{key}: {one!r} and {other!r}" for key, one, other in rivals[:MAX_KEYS]],
        next_step="name the column that says when a row was written as updated_at in `select` under [customers] in "
        f"sources.toml{hint}; or select the one row of each customer that counts",
        rivals=rivals,
    )


def _with_pace(rows: DataFrame, paced: Mapping[str, int]) -> DataFrame:
    """`rows` with the rule impossible_pace for these customers."""
    if not paced:
        return rows
    names = rows.sparkSession.createDataFrame([(name, True) for name in paced], "paced string, is_paced boolean")
    marked = rows.join(F.broadcast(names), F.col("customer_id") == F.col("paced"), "left")
    rule = F.coalesce("rule", F.when(F.col("is_paced"), F.lit("impossible_pace")))
    return marked.withColumn("rule", rule).drop("paced", "is_paced")


def _each(rows: DataFrame, table: SourceTable) -> DataFrame:
    """As `_one_of_each`, of rows none of which shares its key with another."""
    alone = rows.where("rule is null or rule = 'impossible_pace'")
    return alone.select("key", "rule", *table.column_names, F.lit(False).alias("is_contested"), F.lit(1).alias("alike"))


def _one_of_each(rows: DataFrame, table: SourceTable) -> DataFrame:
    """Of the rows of each key the one that stays; in canonical columns, with key, rule, is_contested and alike.

    is_contested: whether the key has other rows. alike: how many rows are the same in all canonical columns. A row of
    an impossible pace gives way to any other.
    """
    each = _each(rows, table)
    # Only keys of several rows are ordered: a window over all took three times as long and carried the whole table
    # through a sort (1.8 million orders on Sail, 2026-11-28).
    contested = each.groupBy("key").agg(F.count(F.lit(1)).alias("rows")).where("rows > 1")
    marked = each.join(contested, "key", "left")
    of_key = Window.partitionBy("key")
    best_first = of_key.orderBy("rule", *_best_first(table))
    # Those of rank 1 are the same in every column.
    ranked = marked.where("rows is not null").withColumns(
        {"rank": F.rank().over(best_first), "place": F.row_number().over(best_first)}
    )
    first = ranked.withColumns(
        {"is_contested": F.lit(True), "alike": F.count_if(F.col("rank") == 1).over(of_key).cast("int")}
    ).where("place = 1")
    return marked.where("rows is null").select(each.columns).unionByName(first.select(each.columns))


def _best_first(table: SourceTable) -> list[Column]:
    """In which order the rows of one key are preferred; every column of the table but the key is in it."""
    latest, known_first = F.desc_nulls_last("updated_at"), F.asc_nulls_last
    if table is CUSTOMERS:
        return [latest, known_first("segment")]
    if table is REVIEWS:
        facts = ("review_score", "sentiment_category", "updated_at")
        return [_known_at().desc(), F.desc("reviewed_at"), *map(known_first, facts)]
    return [
        F.asc("ordered_at"),
        F.asc("customer_id"),
        latest,
        F.col("delivered_at").isNull(),
        ~F.col("is_cancelled"),
        *map(known_first, ("promised_at", "delivered_at", "subtotal")),
    ]


def _known_at() -> Column:
    """From when a state of a review was known."""
    return F.greatest("reviewed_at", F.coalesce("updated_at", "reviewed_at"))


def _judged_orders(orders: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """Adds to `rule` (null: kept) what the values break, and `repair`: why delivered_at is set aside."""
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
    return orders.withColumn("rule", rule).withColumn("repair", repair)


def _judged_reviews(reviews: DataFrame, judged_orders: DataFrame) -> DataFrame:
    """Adds to `rule` (null: kept) what the values break, and what became of the order."""
    lost = F.when(F.col("rule").isin("cancelled", "impossible_pace"), F.col("rule"))
    known_orders = judged_orders.where(F.col("rule").isNull() | lost.isNotNull()).select(
        "key", F.col("ordered_at").alias("of_ordered_at"), lost.alias("of_rule")
    )
    rule = _first_broken(
        (F.col("of_rule").isNotNull(), F.col("of_rule")),
        (~_is_score(), "score_out_of_range"),
        (F.col("of_ordered_at").isNull(), "unknown_order"),
        (F.col("reviewed_at") < F.col("of_ordered_at"), "reviewed_before_order"),
    )
    return reviews.join(known_orders, "key", "left").withColumn("rule", rule).drop("of_ordered_at", "of_rule")


def _is_score() -> Column:
    return F.coalesce(F.col("review_score").between(1, 5), F.lit(False))


def _with_review(orders: DataFrame, reviews: DataFrame) -> DataFrame:
    """Kept orders with their kept review. reviews: `_one_of_each`; kept are those that break no other rule."""
    facts = reviews.where(_is_score()).select(F.col("key").alias("of_key"), *REVIEW_FACTS)
    is_of_order = (F.col("key") == F.col("of_key")) & (F.col("reviewed_at") >= F.col("ordered_at"))
    delivered_at = F.when(F.col("repair").isNull(), F.col("delivered_at"))
    named = orders.withColumn("delivered_at", delivered_at).select("key", *ORDER_FACTS)
    return named.join(facts, is_of_order, "left").select(*ORDER_FACTS, *REVIEW_FACTS)


def _with_review_states(orders: DataFrame, review_rows: DataFrame) -> DataFrame:
    """Silver `orders` with the states of each review that was kept, for the score as it was known at a date."""
    sound = _kept(review_rows).where(_is_score())
    state = F.struct(_known_at().alias("known_at"), "reviewed_at", "review_score")
    states = sound.groupBy(F.col("key").alias("of_key")).agg(F.collect_list(state).alias(REVIEW_STATES))
    is_of_order = (F.col("order_id") == F.col("of_key")) & F.col("reviewed_at").isNotNull()
    return orders.join(states, is_of_order, "left").drop("of_key")


def _first_broken(*cases: tuple[Column, str | Column]) -> Column:
    """The value of the first case whose condition holds, else null."""
    chosen = F.lit(None).cast("string")
    for condition, rule in reversed(cases):
        chosen = F.when(condition, F.lit(rule) if isinstance(rule, str) else rule).otherwise(chosen)
    return chosen


def _kept(judged: DataFrame) -> DataFrame:
    return judged.where("rule is null")


def _told(rows: DataFrame, judged: DataFrame, raw: DataFrame, table: SourceTable) -> DataFrame:
    """The rows with a rule or a repair, which exclude each other, and those of which one stays by the whole row alone.

    rows: `_keyed`, with all raw columns, which no sort carries. judged: of each key the row that stays, and its rule.
    Out: source_table, rule, repair, row_key, source_row; is_tied: alike in all canonical columns, one of them stays.
    """
    if "repair" not in judged.columns:
        judged = judged.withColumn("repair", F.lit(None).cast("string"))
    eventful = judged.where(F.col("is_contested") | F.col("rule").isNotNull() | F.col("repair").isNotNull())
    stays = eventful.select(*[F.col(name).alias(_of_staying(name)) for name in judged.columns])
    with_staying = rows.join(stays, F.col("key") == F.col(_of_staying("key")), "left")
    is_same = reduce(and_, [F.col(name).eqNullSafe(F.col(_of_staying(name))) for name in table.column_names])
    is_state = reduce(and_, [F.col(name) == F.col(_of_staying(name)) for name in IDENTITY[table]], F.lit(True))
    is_unbroken = F.col("rule").isNull()
    rule = _first_broken(
        (~is_unbroken, F.col("rule")),
        (F.col(_of_staying("key")).isNull(), F.lit(None)),
        (is_same, F.col(_of_staying("rule"))),
        (is_state, "superseded"),
        (F.lit(True), "duplicate_key"),
    )
    told = {
        "told_rule": rule,
        "told_repair": F.when(is_unbroken & is_same, F.col(_of_staying("repair"))),
        "is_tied": F.coalesce(is_unbroken & is_same & (F.col(_of_staying("alike")) > 1), F.lit(False)),
    }
    is_told = F.col("told_rule").isNotNull() | F.col("told_repair").isNotNull() | F.col("is_tied")
    return (
        with_staying.withColumns(told)
        .where(is_told)
        .select(
            F.lit(table.name).alias("source_table"),
            F.col("told_rule").alias("rule"),
            F.col("told_repair").alias("repair"),
            F.col(table.column_names[0]).alias("row_key"),
            _source_row(raw, table).alias("source_row"),
            "is_tied",
        )
    )


def _of_staying(name: str) -> str:
    return f"staying {name}"


def _set_aside(told: DataFrame) -> DataFrame:
    """What `_told` tells of all tables, as of `Cleaned`. Of the tied rows of a key the first by the whole row stays."""
    columns = ["source_table", "rule", "repair", "row_key", "source_row"]
    place = F.row_number().over(Window.partitionBy("source_table", "row_key").orderBy("source_row"))
    tied = told.where("is_tied").withColumn("is_copy", place > 1)
    copies = {
        "rule": F.when(F.col("is_copy"), "superseded").otherwise(F.col("rule")),
        "repair": F.when(~F.col("is_copy"), F.col("repair")),
    }
    rows = told.where("not is_tied").select(*columns).unionByName(tied.withColumns(copies).select(*columns))
    disposition = F.when(F.col("rule").isNull(), REPAIRED)
    for rule, name in DISPOSITIONS.items():
        disposition = disposition.when(F.col("rule") == rule, name)
    broken = F.coalesce("rule", "repair")
    return rows.where(broken.isNotNull()).select(
        "source_table",
        disposition.otherwise(QUARANTINED).alias("disposition"),
        broken.alias("rule"),
        "row_key",
        "source_row",
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

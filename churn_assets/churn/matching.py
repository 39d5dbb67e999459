"""Whether the rows of one source table name anybody of another: which do not, and whom they may have meant.

Keys are compared as cleaning compares them, without the blanks around them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from churn_assets.churn.outcomes import MAX_KEYS, Outcome, share_up_to
from churn_assets.churn.plain_text import unprotected
from churn_assets.churn.tables import CUSTOMERS, ORDERS, RETENTION_TABLES, REVIEWS, SourceTable, as_canonical, united


@dataclass(frozen=True)
class Matches:
    """What was found of the rows of a table that name somebody.

    rows: how many there are. strangers: how many of them are of nobody known. near: how many of these are spelled
    nearly as somebody known. first: the first strangers, each with that one or None.
    """

    rows: int = 0
    strangers: int = 0
    near: int = 0
    first: Sequence[tuple[str, str | None]] = ()


def match_rule(table: SourceTable) -> str:
    """The name of the check of `table`."""
    return f"{table.name}__match_{'orders' if table is REVIEWS else 'customers'}"


def named_keys(raw: DataFrame, table: SourceTable) -> DataFrame:
    """Whom the rows of `table` name, as `key`: an order (reviews) or a customer. A row without is left out."""
    name = "order_id" if table is REVIEWS else "customer_id"
    key = unprotected(F.col(name)) if table in RETENTION_TABLES else F.col(name)
    return as_canonical(raw, table).select(key.alias("key")).where("key is not null")


def known_keys(orders: DataFrame, customers: DataFrame, table: SourceTable) -> DataFrame:
    """Whom a row of `table` can name, as `key`, by the raw orders and customers.

    A review an order; a customer somebody who ordered; a contact or an opt-out whoever ordered or is a customer.
    """
    placed = as_canonical(orders, ORDERS).select(F.col("order_id" if table is REVIEWS else "customer_id").alias("key"))
    known = placed.unionByName(named_keys(customers, CUSTOMERS)) if table in RETENTION_TABLES else placed
    return known.where("key is not null")


def counted_keys(relations: Mapping[str, tuple[DataFrame, DataFrame]]) -> DataFrame:
    """Of each relation the keys of nobody known, and in a row without a key all rows: relation, key, skeleton, rows.

    relations: by their names the rows (key) and the known ones (key), which may hold a key several times. skeleton: how
    the key is spelled, roughly.
    """
    nobody, parts = F.lit(None).cast("string").alias("key"), []
    for name, (rows, known) in relations.items():
        relation = F.lit(name).alias("relation")
        parts += [rows.select(relation, nobody), rows.join(known, "key", "left_anti").select(relation, "key")]
    counted = reduce(DataFrame.unionByName, parts).groupBy("relation", "key").agg(F.count(F.lit(1)).alias("rows"))
    return counted.withColumn("skeleton", _skeleton(F.col("key")))


def matches(counted: DataFrame, known: Mapping[str, DataFrame]) -> dict[str, Matches]:
    """What was found of each relation, from one query. counted: `counted_keys`, which is read several times.

    known: by the relation the known ones (key).
    """
    spelled = [
        rows.select(F.lit(name).alias("relation"), "key", _skeleton(F.col("key")).alias("skeleton"))
        for name, rows in known.items()
    ]
    # Only keys spelled like a stranger's are grouped: of all known ones these are few.
    by_spelling = ["relation", "skeleton"]
    alike = reduce(DataFrame.unionByName, spelled).join(counted.select(*by_spelling), by_spelling, "left_semi")
    similar = alike.groupBy(*by_spelling).agg(F.min("key").alias("meant"))
    hinted = counted.join(similar, by_spelling, "left").select("relation", "key", "meant", "rows")
    is_stranger = F.col("key").isNotNull()
    sums = hinted.groupBy("relation").agg(
        F.sum(F.when(~is_stranger, F.col("rows"))).alias("rows"),
        F.sum(F.when(is_stranger, F.col("rows"))).alias("strangers"),
        F.sum(F.when(F.col("meant").isNotNull(), F.col("rows"))).alias("near"),
    )
    strangers = hinted.where(is_stranger).select("relation", "key", "meant")
    first = [
        strangers.where(F.col("relation") == name).orderBy(F.asc_nulls_last("meant"), "key").limit(MAX_KEYS)
        for name in known
    ]
    # Sail's union gives text of a kind that cannot be collected (pysail 0.7.2); a cast makes it text again.
    texts = [F.col(name).cast("string").alias(name) for name in ("relation", "key", "meant")]
    found = united(reduce(DataFrame.unionByName, first), sums).select(*texts, "rows", "strangers", "near").collect()
    return {name: _of_relation([row for row in found if row["relation"] == name]) for name in known}


def _of_relation(found: Sequence[Row]) -> Matches:
    rows, strangers, near = (sum(row[number] or 0 for row in found) for number in ("rows", "strangers", "near"))
    return Matches(rows, strangers, near, [(row["key"], row["meant"]) for row in found if row["key"] is not None])


def match_outcome(table: SourceTable, found: Matches, *, max_share: float, is_warning: bool = True) -> Outcome:
    """Which share of the rows of `table` are of nobody; a hint where a key is spelled nearly as a known one."""
    what = "order" if table is REVIEWS else "customer"
    share = found.strangers / found.rows if found.rows else 0.0
    observed = (
        f"{found.strangers:,} of {found.rows:,} {table.name.replace('_', ' ')} ({share:.1%}) are of no known {what}"
    )
    if found.near:
        observed += (
            f"; {found.near:,} differ only in case, padding zeros or a trailing .0: map the key by `select` "
            f"under [{table.name}] in sources.toml"
        )
    pairs = sorted((meant is None, key, meant) for key, meant in found.first)
    keys = tuple(key if is_unknown else f"{key} (perhaps {meant})" for is_unknown, key, meant in pairs)
    figure = share_up_to(
        "unmatched_share", f"{table.name.replace('_', ' ')} of no known {what}", share, max_share, ".1%"
    )
    allowed = f"at most {max_share:.0%}"
    return Outcome(match_rule(table), share <= max_share, observed, allowed, keys, is_warning, (figure,))


def _skeleton(key: Column) -> Column:
    """What is left of a key without case, a trailing .0 and the zeros before its digits."""
    return F.regexp_replace(F.regexp_replace(F.lower(key), r"\.0+$", ""), r"^([^0-9]*)0+", "$1")

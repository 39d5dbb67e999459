"""Whether the rows of one source table name anybody of another: which do not, and whom they may have meant.

Keys are compared as cleaning compares them, without the blanks around them.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.outcomes import MAX_KEYS, Outcome, share_up_to
from churn_assets.churn.plain_text import unprotected
from churn_assets.churn.tables import CUSTOMERS, ORDERS, RETENTION_TABLES, REVIEWS, SourceTable, as_canonical


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


def strangers_of(rows: DataFrame, known: DataFrame) -> DataFrame:
    """Those of `rows` (key) that have no counterpart in `known` (key), which may hold a key several times."""
    return rows.join(known, "key", "left_anti")


def match_outcome(
    table: SourceTable,
    rows: DataFrame,
    strangers: DataFrame,
    known: DataFrame,
    *,
    max_share: float,
    is_warning: bool = True,
) -> Outcome:
    """Which share of `rows` (key) are `strangers` to the `known` (key); a hint where one is spelled nearly the same.

    strangers: `strangers_of` both, which is read several times.
    """
    what = "order" if table is REVIEWS else "customer"
    own = strangers.select("key", _skeleton(F.col("key")).alias("own"))
    # Only keys spelled like a stranger's are grouped: of all known ones these are few.
    alike = known.select("key", _skeleton(F.col("key")).alias("skeleton")).join(
        F.broadcast(own.select(F.col("own").alias("skeleton")).distinct()), "skeleton", "left_semi"
    )
    similar = alike.groupBy("skeleton").agg(F.min("key").alias("meant"))
    hinted = own.join(similar, F.col("own") == F.col("skeleton"), "left").select("key", "meant")
    (found,) = hinted.agg(F.count(F.lit(1)).alias("strangers"), F.count("meant").alias("near")).collect()
    total, number, near = rows.count(), found["strangers"], found["near"]
    share = number / total if total else 0.0
    observed = f"{number:,} of {total:,} {table.name.replace('_', ' ')} ({share:.1%}) are of no known {what}"
    keys: tuple[str, ...] = ()
    if number:
        first = hinted.distinct().orderBy(F.asc_nulls_last("meant"), "key").limit(MAX_KEYS).collect()
        pairs = sorted((row["meant"] is None, row["key"], row["meant"]) for row in first)
        keys = tuple(key if is_unknown else f"{key} (perhaps {meant})" for is_unknown, key, meant in pairs)
        if near:
            observed += (
                f"; {near:,} differ only in case, padding zeros or a trailing .0: map the key by `select` "
                f"under [{table.name}] in sources.toml"
            )
    figure = share_up_to(
        "unmatched_share", f"{table.name.replace('_', ' ')} of no known {what}", share, max_share, ".1%"
    )
    allowed = f"at most {max_share:.0%}"
    return Outcome(match_rule(table), share <= max_share, observed, allowed, keys, is_warning, (figure,))


def _skeleton(key: Column) -> Column:
    """What is left of a key without case, a trailing .0 and the zeros before its digits."""
    return F.regexp_replace(F.regexp_replace(F.lower(key), r"\.0+$", ""), r"^([^0-9]*)0+", "$1")

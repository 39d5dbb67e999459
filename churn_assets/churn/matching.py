"""Whether the rows of one source table name anybody of another: which do not, and whom they may have meant.

Keys are compared as cleaning compares them, without the blanks around them.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.outcomes import MAX_KEYS, Outcome
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


def match_outcome(
    table: SourceTable, rows: DataFrame, known: DataFrame, *, max_share: float, is_warning: bool = True
) -> Outcome:
    """Which share of `rows` (key) has no counterpart in `known` (key); a hint where one is spelled nearly the same."""
    what = "order" if table is REVIEWS else "customer"
    whom = known.distinct()
    there = whom.select(F.col("key").alias("known_key"))
    strangers = rows.join(there, F.col("key") == F.col("known_key"), "left")
    (counted,) = strangers.agg(
        F.count(F.lit(1)).alias("rows"), F.count_if(F.col("known_key").isNull()).alias("strangers")
    ).collect()
    total, number = counted["rows"], counted["strangers"]
    share = number / total if total else 0.0
    observed = f"{number:,} of {total:,} {table.name.replace('_', ' ')} ({share:.1%}) are of no known {what}"
    keys: tuple[str, ...] = ()
    if number:
        similar = whom.groupBy(_skeleton(F.col("key")).alias("skeleton")).agg(F.min("key").alias("meant"))
        of_nobody = strangers.where("known_key is null").select("key", _skeleton(F.col("key")).alias("own"))
        hinted = of_nobody.join(similar, F.col("own") == F.col("skeleton"), "left").select("key", "meant")
        (near,) = hinted.agg(F.count("meant").alias("rows")).collect()
        first = hinted.distinct().orderBy(F.asc_nulls_last("meant"), "key").limit(MAX_KEYS).collect()
        pairs = sorted((row["meant"] is None, row["key"], row["meant"]) for row in first)
        keys = tuple(key if is_unknown else f"{key} (perhaps {meant})" for is_unknown, key, meant in pairs)
        if near["rows"]:
            observed += (
                f"; {near['rows']:,} differ only in case, padding zeros or a trailing .0: map the key by `select` "
                f"under [{table.name}] in sources.toml"
            )
    return Outcome(match_rule(table), share <= max_share, observed, f"at most {max_share:.0%}", keys, is_warning)


def _skeleton(key: Column) -> Column:
    """What is left of a key without case, a trailing .0 and the zeros before its digits."""
    return F.regexp_replace(F.regexp_replace(F.lower(key), r"\.0+$", ""), r"^([^0-9]*)0+", "$1")

"""Customers' purchases before an as-of date, as the purchase model needs them: of everybody, or of a snapshot's."""

from collections.abc import Sequence
from datetime import date

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.measures import DAY_MICROS, days_since
from churn_assets.churn.observed import MINUTE_MICROS
from churn_assets.churn.purchase_model import PurchaseHistories, histories
from churn_assets.churn.waiting import with_waited

# In the order in which `purchase_model.histories` takes them.
HISTORY_COLUMNS = ("repeats", "first_to_last_days", "age_days", "waited_hours")
# What only a fit asks beside.
ALL_WAITED = "all_waited_hours"
EPOCH = date(1970, 1, 1)
HOUR_MICROS = 3_600_000_000


def purchase_histories(silver: DataFrame, as_of: date, days: int) -> PurchaseHistories:
    """Those at one date of `history_rows`. Raises UnfittablePurchaseModelError."""
    return histories_of(history_rows(silver, [as_of], days)[as_of])


def history_rows(silver: DataFrame, dates: Sequence[date], days: int) -> dict[date, pd.DataFrame]:
    """HISTORY_COLUMNS and ALL_WAITED, at each date a row of every customer who ordered before its 00:00 UTC.

    From silver orders, in one pass for all dates: what an order knows of waiting, within `days` days, is of no date.
    Not of the eligible alone: who has gone for good teaches the model what going looks like, and fitted on those who
    just ordered it ranked hardly better than chance (docs/decisions/0022).
    """
    waited = F.col("waited_micros")
    dated = with_waited(silver, days).withColumn("as_of", F.explode(F.array(*map(F.lit, dates))))
    known = (
        dated.where(F.col("ordered_at") < F.col("as_of").cast("timestamp"))
        .groupBy("customer_id", "as_of")
        .agg(
            F.count(F.lit(1)).alias("orders_ever"),
            F.min("ordered_at").alias("first_ordered_at"),
            F.max("ordered_at").alias("last_ordered_at"),
            (F.max_by(waited, "ordered_at") / F.lit(MINUTE_MICROS)).alias("delay_minutes_at_last_order"),
            # Whole microseconds, so that no order of the terms changes a digit.
            ((F.sum(waited) - F.min_by(waited, "ordered_at")) / F.lit(HOUR_MICROS)).alias(ALL_WAITED),
        )
    )
    # Nobody's name: the fit brings them into an order of its own.
    rows = known.select(F.unix_date("as_of").alias("as_of"), *history_columns(), ALL_WAITED).toPandas()
    return {day: rows[rows["as_of"] == (day - EPOCH).days] for day in dates}


def history_columns() -> list[Column]:
    """HISTORY_COLUMNS of rows of the snapshots, of which they are all that the purchase model asks."""
    first, last = F.unix_micros("first_ordered_at"), F.unix_micros("last_ordered_at")
    values = (
        F.col("orders_ever") - 1,
        (last - first) / F.lit(DAY_MICROS),
        days_since("first_ordered_at"),
        F.col("delay_minutes_at_last_order") / F.lit(60),
    )
    return [value.alias(name) for name, value in zip(HISTORY_COLUMNS, values, strict=True)]


def histories_of(rows: pd.DataFrame) -> PurchaseHistories:
    """The histories of rows with HISTORY_COLUMNS and perhaps ALL_WAITED, in their order.

    Raises UnfittablePurchaseModelError.
    """
    asked = [name for name in (*HISTORY_COLUMNS, ALL_WAITED) if name in rows]
    return histories(*(rows[name].to_numpy(dtype=float) for name in asked))

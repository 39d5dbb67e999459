"""Customers' purchases before an as-of date, as the purchase model needs them: of everybody, or of a snapshot's."""

from datetime import date

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.measures import DAY_MICROS, days_since
from churn_assets.churn.purchase_model import PurchaseHistories, histories

# In the order in which `purchase_model.histories` takes them.
HISTORY_COLUMNS = ("repeats", "first_to_last_days", "age_days")


def purchase_histories(silver: DataFrame, as_of: date) -> PurchaseHistories:
    """Those of every customer who ordered before 00:00 UTC of `as_of`, from silver orders.

    Not of the eligible alone: who has gone for good teaches the model what going looks like, and fitted on those who
    just ordered it ranked hardly better than chance (docs/decisions/0022). Raises UnfittablePurchaseModelError.
    """
    known = (
        silver.where(F.col("ordered_at") < F.lit(as_of).cast("timestamp"))
        .groupBy("customer_id")
        .agg(
            F.count(F.lit(1)).alias("orders_ever"),
            F.min("ordered_at").alias("first_ordered_at"),
            F.max("ordered_at").alias("last_ordered_at"),
        )
        .withColumn("as_of", F.lit(as_of))
    )
    # Nobody's name: the fit brings them into an order of its own.
    return histories_of(known.select(*history_columns()).toPandas())


def history_columns() -> list[Column]:
    """HISTORY_COLUMNS of rows with as_of, orders_ever, first_ordered_at and last_ordered_at, as the snapshots'."""
    first, last = F.unix_micros("first_ordered_at"), F.unix_micros("last_ordered_at")
    values = (F.col("orders_ever") - 1, (last - first) / F.lit(DAY_MICROS), days_since("first_ordered_at"))
    return [value.alias(name) for name, value in zip(HISTORY_COLUMNS, values, strict=True)]


def histories_of(rows: pd.DataFrame) -> PurchaseHistories:
    """The histories of rows with HISTORY_COLUMNS, in their order. Raises UnfittablePurchaseModelError."""
    return histories(*(rows[name].to_numpy(dtype=float) for name in HISTORY_COLUMNS))

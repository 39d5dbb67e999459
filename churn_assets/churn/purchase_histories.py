"""Customers' purchases before an as-of date, as the purchase model needs them: of everybody, or of a snapshot's."""

from datetime import date

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.intervals import Floats
from churn_assets.churn.measures import DAY_MICROS, days_since
from churn_assets.churn.observed import MINUTE_MICROS
from churn_assets.churn.purchase_model import PurchaseHistories, histories
from churn_assets.churn.waiting import with_waited

# In the order in which `purchase_model.histories` takes them.
HISTORY_COLUMNS = ("repeats", "first_to_last_days", "age_days", "waited_hours")
HOUR_MICROS = 3_600_000_000


def purchase_histories(silver: DataFrame, as_of: date, days: int) -> PurchaseHistories:
    """Those of every customer who ordered before 00:00 UTC of `as_of`, from silver orders; waited within `days` days.

    Not of the eligible alone: who has gone for good teaches the model what going looks like, and fitted on those who
    just ordered it ranked hardly better than chance (docs/decisions/0022). Raises UnfittablePurchaseModelError.
    """
    waited = F.col("waited_micros")
    known = (
        with_waited(silver.where(F.col("ordered_at") < F.lit(as_of).cast("timestamp")), days)
        .groupBy("customer_id")
        .agg(
            F.count(F.lit(1)).alias("orders_ever"),
            F.min("ordered_at").alias("first_ordered_at"),
            F.max("ordered_at").alias("last_ordered_at"),
            (F.max_by(waited, "ordered_at") / F.lit(MINUTE_MICROS)).alias("delay_minutes_at_last_order"),
            # Whole microseconds, so that no order of the terms changes a digit.
            ((F.sum(waited) - F.min_by(waited, "ordered_at")) / F.lit(HOUR_MICROS)).alias("all_waited_hours"),
        )
        .withColumn("as_of", F.lit(as_of))
    )
    # Nobody's name: the fit brings them into an order of its own.
    rows = known.select(*history_columns(), "all_waited_hours").toPandas()
    return histories_of(rows, rows["all_waited_hours"].to_numpy(dtype=float))


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


def histories_of(rows: pd.DataFrame, all_waited_hours: Floats | None = None) -> PurchaseHistories:
    """The histories of rows with HISTORY_COLUMNS, in their order. Raises UnfittablePurchaseModelError."""
    repeats, first_to_last, age, waited = (rows[name].to_numpy(dtype=float) for name in HISTORY_COLUMNS)
    return histories(repeats, first_to_last, age, waited, all_waited_hours)

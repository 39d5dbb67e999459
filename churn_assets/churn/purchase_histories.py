"""Everybody's purchases before an as-of date, as the purchase model needs them, and its scores."""

from datetime import date

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.measures import DAY_MICROS
from churn_assets.churn.purchase_model import PurchaseHistories, PurchaseModel, fit_purchase_model, histories

HISTORY_COLUMNS = ("repeats", "recency_days", "age_days")


def purchase_histories(silver: DataFrame, as_of: date) -> DataFrame:
    """customer_id, repeats, recency_days and age_days of every customer who ordered before 00:00 UTC of `as_of`.

    In: silver orders. Not of the eligible alone: who has gone for good teaches the model what going looks like, and
    fitted on those who just ordered it ranked hardly better than chance (docs/decisions/0022).
    """
    moment = F.lit(as_of).cast("timestamp")
    at = F.unix_micros("ordered_at")
    known = (
        silver.where(F.col("ordered_at") < moment)
        .groupBy("customer_id")
        .agg(F.count(F.lit(1)).alias("orders"), F.min(at).alias("first"), F.max(at).alias("last"))
    )
    return known.select(
        "customer_id",
        (F.col("orders") - 1).cast("double").alias("repeats"),
        ((F.col("last") - F.col("first")) / F.lit(DAY_MICROS)).alias("recency_days"),
        ((F.unix_micros(moment) - F.col("first")) / F.lit(DAY_MICROS)).alias("age_days"),
    )


def fitted_purchases(known: pd.DataFrame) -> PurchaseModel:
    """The purchase model fitted on these `purchase_histories`. Raises UnfittablePurchaseModelError."""
    return fit_purchase_model(_histories(known))


def _histories(known: pd.DataFrame) -> PurchaseHistories:
    repeats, recency_days, age_days = (known[name].to_numpy(dtype=np.float64) for name in HISTORY_COLUMNS)
    return histories(repeats, recency_days, age_days)


def no_purchase_scores(known: pd.DataFrame, days: int) -> pd.Series:
    """P(no purchase within `days` days) by customer_id, of a model fitted on just these `purchase_histories`.

    It knows no label, and nothing from the as-of date on. Raises UnfittablePurchaseModelError.
    """
    chances = fitted_purchases(known).no_purchase(_histories(known), days)
    return pd.Series(chances, index=pd.Index(known["customer_id"], name="customer_id"), name="no_purchase")

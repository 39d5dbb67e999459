"""The purchase model's histories are of everybody, and of nothing that came at or after the as-of date."""

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.errors import UnfittablePurchaseModelError
from churn_assets.churn.purchase_histories import no_purchase_scores, purchase_histories

AS_OF = date(2026, 3, 2)
ORDERS = [
    ("twice", datetime(2026, 1, 1, tzinfo=UTC)),
    ("twice", datetime(2026, 2, 20, 12, tzinfo=UTC)),
    # The very moment is not before it.
    ("twice", datetime(2026, 3, 2, tzinfo=UTC)),
    ("gone for good", datetime(2025, 6, 2, tzinfo=UTC)),
    ("at one time", datetime(2026, 3, 1, tzinfo=UTC)),
    ("at one time", datetime(2026, 3, 1, tzinfo=UTC)),
    ("not yet a customer", datetime(2026, 3, 3, tzinfo=UTC)),
]


def test_histories_are_of_all_customers_and_of_orders_before_the_date(spark: SparkSession) -> None:
    silver = spark.createDataFrame(ORDERS, "customer_id string, ordered_at timestamp")
    found = {row.customer_id: tuple(row)[1:] for row in purchase_histories(silver, AS_OF).collect()}
    assert found == {"twice": (1.0, 50.5, 60.0), "gone for good": (0.0, 0.0, 273.0), "at one time": (1.0, 0.0, 1.0)}


def known(customers: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    age = rng.uniform(50, 300, customers)
    repeats = rng.poisson(age / 40).astype(float)
    recency = np.where(repeats > 0, age * rng.random(customers), 0.0)
    names = [f"C{place}" for place in range(customers)]
    return pd.DataFrame({"customer_id": names, "repeats": repeats, "recency_days": recency, "age_days": age})


def test_scores_go_by_customer_whatever_order_they_came_in() -> None:
    rows = known(200)
    found = no_purchase_scores(rows, 30)
    assert found.index.tolist() == rows["customer_id"].tolist()
    assert found.between(0, 1).all()
    turned = no_purchase_scores(rows.iloc[::-1], 30)
    assert turned.sort_index().equals(found.sort_index())
    longer = no_purchase_scores(rows, 90)
    assert (longer < found).all()


def test_orders_that_nobody_repeated_are_refused_by_name() -> None:
    rows = known(20).assign(repeats=0.0, recency_days=0.0)
    with pytest.raises(UnfittablePurchaseModelError, match="repeat purchase: 0"):
        no_purchase_scores(rows, 30)

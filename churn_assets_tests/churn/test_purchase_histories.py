"""The purchase model's histories are of everybody, and of nothing that came at or after the as-of date."""

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.errors import UnfittablePurchaseModelError
from churn_assets.churn.purchase_histories import (
    HISTORY_COLUMNS,
    histories_of,
    history_columns,
    purchase_histories,
)

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
    found = purchase_histories(silver, AS_OF)
    assert set(zip(found.repeats, found.recency_days, found.age_days, strict=True)) == {
        (1.0, 50.5, 60.0),
        (0.0, 0.0, 273.0),
        (1.0, 0.0, 1.0),
    }


def test_a_snapshots_rows_have_the_histories_that_their_orders_have(spark: SparkSession) -> None:
    row = (AS_OF, 2, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 20, 12, tzinfo=UTC))
    columns = "as_of date, orders_ever bigint, first_ordered_at timestamp, last_ordered_at timestamp"
    found = spark.createDataFrame([row], columns).select(*history_columns()).toPandas()
    assert found.to_dict("records") == [dict(zip(HISTORY_COLUMNS, (1, 50.5, 60.0), strict=True))]


def test_histories_that_contradict_themselves_are_refused() -> None:
    rows = pd.DataFrame({"repeats": [1.0, np.nan], "first_to_last_days": [3.0, 0.0], "age_days": [2.0, 5.0]})
    with pytest.raises(UnfittablePurchaseModelError, match="1 customers have a value that is missing"):
        histories_of(rows)

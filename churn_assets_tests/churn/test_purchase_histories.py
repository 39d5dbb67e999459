"""The purchase model's histories are of everybody, and of nothing that came at or after the as-of date."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnfittablePurchaseModelError
from churn_assets.churn.purchase_histories import (
    HISTORY_COLUMNS,
    histories_of,
    history_columns,
    history_rows,
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
    silver = spark.createDataFrame(ORDERS, "customer_id string, ordered_at timestamp").withColumns(
        {name: F.lit(None).cast("timestamp") for name in ("promised_at", "delivered_at")}
    )
    found = purchase_histories(silver, AS_OF, 30)
    assert set(zip(found.repeats, found.recency_days, found.age_days, strict=True)) == {
        (1.0, 50.5, 60.0),
        (0.0, 0.0, 273.0),
        (1.0, 0.0, 1.0),
    }
    assert not found.waited_hours.any()
    assert not found.all_waited_hours.any()


def test_who_waited_lately_is_known_of_each_repeat_purchase_and_of_the_last(spark: SparkSession) -> None:
    def order(day: int, hours_late: float, hour_delivered: float = 20) -> tuple[str, datetime, datetime, datetime]:
        midnight = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
        delivered = midnight + timedelta(hours=hour_delivered)
        return "c", midnight + timedelta(hours=12), delivered - timedelta(hours=hours_late), delivered

    # The third came early, the fourth after its day: of it the next order knows, if that is before the date.
    orders = [order(0, 1), order(10, 2), order(20, -1), order(35, 4, hour_delivered=25), order(70, 8)]
    silver = spark.createDataFrame(
        orders, "customer_id string, ordered_at timestamp, promised_at timestamp, delivered_at timestamp"
    )
    found = purchase_histories(silver, date(2026, 2, 6), 30)
    assert (found.repeats.tolist(), found.waited_hours.tolist()) == ([3.0], [2.0])
    assert found.all_waited_hours.tolist() == [(1 + 2) + (1 + 2) + 2]
    assert purchase_histories(silver, date(2026, 4, 1), 30).waited_hours.tolist() == [8.0]
    assert purchase_histories(silver, date(2026, 4, 1), 35).waited_hours.tolist() == [12.0]


def test_several_dates_at_once_have_what_each_has_alone_and_one_before_all_orders_nobody(spark: SparkSession) -> None:
    late = [(who, at, at, at + timedelta(minutes=7 * place)) for place, (who, at) in enumerate(ORDERS)]
    silver = spark.createDataFrame(
        late, "customer_id string, ordered_at timestamp, promised_at timestamp, delivered_at timestamp"
    )
    dates = [AS_OF, date(2026, 2, 1), date(2020, 1, 1)]
    found = history_rows(silver, dates, 30)
    assert [*found] == dates
    for day in dates:
        alone = purchase_histories(silver, day, 30)
        for part, same in zip(vars(histories_of(found[day])).values(), vars(alone).values(), strict=True):
            assert sorted(part) == sorted(same)
    assert [len(found[day]) for day in dates] == [3, 2, 0]


def test_a_snapshots_rows_have_the_histories_that_their_orders_have(spark: SparkSession) -> None:
    row = (AS_OF, 2, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 20, 12, tzinfo=UTC), 90.0)
    columns = (
        "as_of date, orders_ever bigint, first_ordered_at timestamp, last_ordered_at timestamp, "
        "delay_minutes_at_last_order double"
    )
    found = spark.createDataFrame([row], columns).select(*history_columns()).toPandas()
    assert found.to_dict("records") == [dict(zip(HISTORY_COLUMNS, (1, 50.5, 60.0, 1.5), strict=True))]


def test_histories_that_contradict_themselves_are_refused() -> None:
    values = {"repeats": [1.0, np.nan], "first_to_last_days": [3.0, 0.0], "age_days": [2.0, 5.0]}
    rows = pd.DataFrame({**values, "waited_hours": 0.0})
    with pytest.raises(UnfittablePurchaseModelError, match="1 customers have a value that is missing"):
        histories_of(rows)

"""How long late deliveries had lately kept a customer waiting when an order was over: what each order knows of it.

What is made of it is in `features.py` and `purchase_histories.py`.
"""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.measures import DAY_MICROS
from churn_assets.churn.tables import united


def with_waited(silver: DataFrame, days: int) -> DataFrame:
    """customer_id and ordered_at of silver orders, with `waited_micros`, the same for all orders of a customer's day.

    It sums the time after the promise over the late deliveries of the `days` days that end with the order's day (UTC):
    nothing of an as-of date, which begins a day, or later, so that an order knows it whenever it is looked at.
    """
    late_micros = F.unix_micros("delivered_at") - F.unix_micros("promised_at")
    orders = silver.select(
        "customer_id",
        "ordered_at",
        F.unix_micros(F.date_add(F.col("ordered_at").cast("date"), 1).cast("timestamp")).alias("at"),
    )
    deliveries = silver.where(late_micros > 0).select(
        "customer_id", F.unix_micros("delivered_at").alias("at"), late_micros.alias("late_micros")
    )
    before = Window.partitionBy("customer_id").orderBy("at").rangeBetween(-days * DAY_MICROS, -1)
    waited = F.coalesce(F.sum("late_micros").over(before), F.lit(0))
    rows = united(orders, deliveries).repartition("customer_id").withColumn("waited_micros", waited)
    return rows.where("ordered_at is not null").select("customer_id", "ordered_at", "waited_micros")

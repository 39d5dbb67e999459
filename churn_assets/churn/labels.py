"""Who left: the only module that looks at and after an as-of date."""

from datetime import timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.features import AsOfCalendar, each_as_of
from churn_assets.churn.policy import ChurnPolicy


def with_churn_labels(snapshot: DataFrame, silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy) -> DataFrame:
    """`snapshot` (customer_id, as_of, ...) with `label`.

    1.0: no order in the outcome window [as_of, as_of + outcome_days); 0.0: otherwise; null until the watermark has
    passed the window's last day.
    """
    days = policy.windows.outcome_days
    # t <= ordered_at < t + days, for dates t: from the day that is `days - 1` before the order's day to that day.
    day = F.col("ordered_at").cast("date")
    returned = (
        each_as_of(silver.select("customer_id", "ordered_at"), F.date_sub(day, days - 1), day, calendar)
        .select("customer_id", "as_of")
        .distinct()
        .withColumn("has_returned", F.lit(True))
    )
    is_known = F.date_add("as_of", days) <= F.lit(calendar.watermark + timedelta(days=1))
    return (
        snapshot.join(returned, ["customer_id", "as_of"], "left")
        .withColumn("label", F.when(is_known, F.when(F.col("has_returned"), 0.0).otherwise(1.0)))
        .drop("has_returned")
    )

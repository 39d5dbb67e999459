"""What several features, the label or the baseline rule compute of rows of `customer_snapshots`, as Spark columns."""

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

DAY_MICROS = 86_400_000_000
NEUTRAL_RATING = 3.0


def as_decimal(value: Column, kind: str) -> Column:
    """A double as the decimal nearest to its shortest digits."""
    # Through text, as Spark does it by itself: other engines multiply by a power of ten.
    return value.cast("string").cast(kind)


def as_double(value: Column) -> Column:
    """A decimal as the double nearest to it. Cast at once, Sail rounds twice (pysail 0.7.2)."""
    return value.cast("string").cast("double")


def days_since(earlier: str) -> Column:
    """Exact days (double) from timestamp column `earlier` to the as-of date."""
    return (F.unix_micros(F.col("as_of").cast("timestamp")) - F.unix_micros(earlier)) / F.lit(DAY_MICROS)


def rating_or_mean() -> Column:
    """The customer's mean score; without a review the mean of all customers' means, without any review at all 3.0.

    That mean sums decimals of twelve places, so that no order of the rows changes a digit.
    """
    snapshot = Window.partitionBy("as_of")
    own_rating = F.col("mean_score")
    total = F.sum(as_decimal(own_rating, "decimal(20,12)")).over(snapshot)
    usual_rating = as_double(total) / F.nullif(F.count(own_rating).over(snapshot), F.lit(0))
    return F.coalesce(own_rating, usual_rating, F.lit(NEUTRAL_RATING))


def own_gap_days(outcome_days: int) -> Column:
    """The customer's own median gap between orders in days, at least one.

    Fewer than two orders ever: the snapshot's median of those medians; every median is the middle two over two.
    """
    usual_gap = F.median("median_gap_days").over(Window.partitionBy("as_of"))
    # Only when nobody in the snapshot ever ordered twice: then silence is judged by the outcome window.
    gap_days = F.coalesce("median_gap_days", usual_gap, F.lit(float(outcome_days)))
    return F.greatest(gap_days, F.lit(1.0))


def quintile(value: Column) -> Column:
    """1 (lowest fifth) to 5 of `value` within the snapshot; equal values share a fifth.

    The k-th cut is the ceil(k n / 5)-th smallest value and a value equal to a cut belongs to the lower fifth. So the
    fifth of a value of (minimum) rank r is the smallest k with r <= ceil(k n / 5), which is floor(5 (r - 1) / n) + 1:
    integers only, where percentile_disc multiplies floats (0.2 * 35 > 7) and keeps each distinct value in memory.
    """
    snapshot = Window.partitionBy("as_of")
    rank = F.rank().over(snapshot.orderBy(value))
    return F.floor(5 * (rank - 1) / F.count(F.lit(1)).over(snapshot)) + 1

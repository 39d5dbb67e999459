"""Customers whose outcome window is not over at the test date: right-censored rows, as far as they are known by then.

How a model learns from them belongs in `models.py`.
"""

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_model import PurchaseModel
from churn_assets.churn.purchase_prior import PurchasePrior, asked_of_batch, is_averaged
from churn_assets.churn.splits import TEST_FOLDS, SplitDates, fold
from churn_assets.churn.tables import united
from churn_assets.churn.xgboost_trees import IS_BEGUN, KEYS, WEIGHT

# Of a weight: further ones are where another processor's logarithms end.
DIGITS = 6
WEEK = timedelta(weeks=1)
EPOCH = date(1970, 1, 1)


def begun_dates(dates: SplitDates, policy: ChurnPolicy, prior: PurchasePrior | PurchaseModel | None) -> list[date]:
    """The weeks before the test date whose outcome window it lies in, if what is known of them by then can be told.

    Empty where there is no prior or the model does not ask it, churn is not to order nothing, or the test is not out of
    time.
    """
    is_silence = policy.churn.definition == "inactivity" and is_averaged(policy.features, prior)
    if not (is_silence and dates.is_out_of_time):
        return []
    # A snapshot of the test date need not know of an order longer ago than its eligibility window.
    longest = min(policy.windows.outcome_days - 1, policy.windows.eligibility_days)
    return [dates.test - WEEK * weeks for weeks in range(1, longest // WEEK.days + 1)]


def censored_rows(
    panel: DataFrame, dates: SplitDates, policy: ChurnPolicy, prior: PurchasePrior | None, crossfit_fold: int = 0
) -> DataFrame | None:
    """KEYS, the policy's features, `fold`, `label` and `weight` at `begun_dates`; None where there are none.

    Of the customers outside the test folds. Who has ordered since has label 0. Of who has not, the purchase model tells
    the chance to stay silent in the rest of the window, after such a silence: a row of each label, which share the
    weight by it. Nothing is known of an order at the test date or later; of the panel's labels only that there is one,
    so that no gap lies in the window.
    """
    begun = begun_dates(dates, policy, prior)
    if prior is None or not begun:
        return None
    now = panel.where(F.col("as_of") == F.lit(dates.test))
    rows = panel.where(F.col("as_of").isin(begun) & F.col("label").isNotNull()).join(
        now.select("customer_id", F.col("recency_days").alias("silence_now")), "customer_id", "left"
    )
    folded = rows.select(
        *KEYS,
        *policy.features,
        fold(F.col("customer_id"), policy.split.salt, crossfit_fold).alias("fold"),
        "silence_now",
    )
    return _weighed(folded.where(F.col("fold") >= TEST_FOLDS.stop), dates.test, prior)


def with_censored(train: DataFrame, censored: DataFrame) -> DataFrame:
    """The rows of `train`, of weight 1, and `censored_rows`, with the columns of the latter and IS_BEGUN."""
    begun = censored.withColumn(IS_BEGUN, F.lit(True))
    over = train.withColumns({WEIGHT: F.lit(1.0), IS_BEGUN: F.lit(False)})
    return united(over.select(*begun.columns), begun)


def _weighed(rows: DataFrame, test: date, prior: PurchasePrior) -> DataFrame:
    """The rows with `label` and `weight`, in place of `silence_now` at `test`, null of who is not seen then."""
    today = (test - EPOCH).days

    def of_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = {name: batch[name] for name in batch.schema.names}
            silence = columns.pop("silence_now").to_numpy(zero_copy_only=False)
            known_days = (today - columns["as_of"].cast(pa.int32()).to_numpy()).astype(float)
            asked = asked_of_batch(batch)
            # An order at the as-of date itself is of the outcome window; nothing compares with a null.
            leaves = np.where(silence <= known_days, 0.0, prior.stays_silent(asked, known_days)).round(DIGITS)
            for label, weight in ((1.0, leaves), (0.0, 1 - leaves)):
                of_label = {"label": pa.array(np.full(len(weight), label)), WEIGHT: pa.array(weight)}
                yield pa.RecordBatch.from_pydict(columns | of_label).filter(pa.array(weight > 0))

    kept = [field for field in rows.schema if field.name != "silence_now"]
    added = [T.StructField(name, T.DoubleType()) for name in ("label", WEIGHT)]
    return rows.mapInArrow(of_batches, T.StructType([*kept, *added]))

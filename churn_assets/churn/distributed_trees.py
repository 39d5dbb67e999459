"""The default learner where the rows are too many for this process: XGBoost's workers are tasks of Spark.

docs/decisions/0047.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.errors import UnavailableEstimatorError
from churn_assets.churn.purchase_prior import ScaledPrior, asked_of_batch
from churn_assets.churn.xgboost_trees import (
    KEYS,
    ORDER,
    WEIGHT,
    in_single_range,
    loaded_xgboost,
    log_odds_of,
    require_known,
)

if TYPE_CHECKING:
    from xgboost import Booster

# The log-odds that a row begins with beside those of all rows.
OFFSET = "offset"


def cluster_workers(session: SparkSession) -> int:
    """How many tasks the cluster of `session` runs at once. Raises UnavailableEstimatorError, as `driver_of`."""
    driver = driver_of(session)
    loaded_xgboost()
    # Not `defaultParallelism`: that is spark.default.parallelism where somebody set it, often several times the cores,
    # and two on a cluster of one; Spark refuses a barrier stage of more tasks than run at once.
    from xgboost.spark.utils import _get_max_num_concurrent_tasks

    return max(1, int(_get_max_num_concurrent_tasks(driver)))


def driver_of(session: SparkSession) -> Any:
    """The context of Spark's own driver. Raises UnavailableEstimatorError: without one XGBoost reaches no executor."""
    try:
        return session.sparkContext
    except (PySparkException, AttributeError):
        # Over Spark Connect, which Sail speaks as well, there is none.
        raise UnavailableEstimatorError(
            "XGBoost learns on Spark's executors only from Spark's own driver, which this session is not.",
            [f"the session is a {type(session).__module__.rpartition('.')[0]} session"],
            next_step="set SPARK_MASTER instead of SPARK_REMOTE or CHURN_ENGINE=sail, raise model.max_local_rows in "
            'policy.toml to learn in this process, or train with estimator = "gbt"',
        ) from None


def class_weights(rows: DataFrame, features: Sequence[str]) -> dict[float, float]:
    """What the `rows` of each `label` weigh, 1 each or their `weight`.

    Raises UntrainableError for an unknown value, as `collected`.
    """
    unknown = [F.count_if(F.col(name).isNull() | F.isnan(name)).alias(name) for name in features]
    # As decimals: a sum of doubles depends on the order of its terms.
    weight = F.col(WEIGHT).cast("decimal(18,9)") if WEIGHT in rows.columns else F.lit(1)
    grouped = rows.groupBy("label").agg(F.sum(weight).alias("weighed"), *unknown).collect()
    require_known({name: sum(row[name] for row in grouped) for name in features})
    return {row["label"]: float(row["weighed"]) for row in grouped}


def with_offsets(rows: DataFrame, known: ScaledPrior) -> DataFrame:
    """`rows` (ASKED_FEATURES among others) with OFFSET, what each begins with; as they are where none begins so."""
    if not known.unseen:
        return rows

    def of_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch.append_column(OFFSET, pa.array(known.offsets(asked_of_batch(batch))))

    return rows.mapInArrow(of_batches, T.StructType([*rows.schema, T.StructField(OFFSET, T.DoubleType())]))


def boosted_by_tasks(
    rows: DataFrame, features: Sequence[str], weight: Column | None, *, workers: int, rounds: int, **params: Any
) -> "Booster":
    """XGBoost's trees of `rows`, learned by `workers` tasks together, one thread each.

    In: `features`, `label`, customer_id, as_of, and perhaps OFFSET. Each task has the customers that their hash gives
    it, in order, so that the same rows and as many workers give the same trees; another number of workers gives others,
    by the bins and by float sums. Raises UnavailableEstimatorError.
    """
    loaded_xgboost()
    driver_of(rows.sparkSession)
    from xgboost.spark import SparkXGBClassifier

    columns = {name: in_single_range(name) for name in features} | {"label": F.col("label")}
    columns |= {} if weight is None else {WEIGHT: weight}
    if OFFSET in rows.columns:
        columns[OFFSET] = F.col(OFFSET) + F.lit(log_odds_of(params["base_score"]))
    parts = rows.repartition(workers, KEYS[0]).sortWithinPartitions(*ORDER)
    learner = SparkXGBClassifier(
        features_col=list(features),
        label_col="label",
        weight_col=WEIGHT if WEIGHT in columns else None,
        base_margin_col=OFFSET if OFFSET in columns else None,
        num_workers=workers,
        n_estimators=rounds,
        tree_method="hist",
        verbose=False,
        **params,
    )
    learned = learner.fit(parts.select(*[value.cast("float").alias(name) for name, value in columns.items()]))
    return learned.get_booster()

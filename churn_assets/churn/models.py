"""The churn model: fitting it and scoring with it. Where it is logged and how good it is is decided elsewhere."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import UntrainableError
from churn_assets.churn.evaluation import ScoreCounts, Threshold, choose_threshold
from churn_assets.churn.features import FEATURE_SETS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.splits import SplitDates, current_rows, held_out_rows, is_validation, train_rows
from churn_assets.churn.trees import assembler_and_trees, exported_trees
from churn_assets.churn.xgboost_trees import as_spark_trees, in_single_range, spark_classifier

if TYPE_CHECKING:
    # At run time it is imported where it is needed: at load it cost 45 ms of the 280 this package adds (2026-11-25).
    from pyspark.ml import PipelineModel
    from pyspark.ml.feature import VectorAssembler

ROWS_PER_PARTITION = 25_000
# Spark adds up what the partitions found in the order in which it arrives, and only of two is the sum always the same:
# of 10 partitions on two executors three fits gave three models (2026-11-25).
MOST_PARTITIONS = 2
SEED = 42
Estimator = Literal["gbt", "xgboost"]


@dataclass(frozen=True)
class GradientBoosting:
    """Settings of the gradient-boosted trees; why these: docs/decisions/0003.

    min_leaf_share: smallest share of the training rows in a leaf, so that the same setting suits any amount of data.
    estimator: who learns them, "gbt" Spark itself, "xgboost" XGBoost (docs/decisions/0013).
    """

    max_depth: int = 5
    iterations: int = 20
    step_size: float = 0.1
    min_leaf_share: float = 0.0125
    estimator: Estimator = "gbt"


@dataclass(frozen=True)
class ChurnModel:
    """A fitted pipeline and its threshold; None where no cut-off satisfies the policy on the validation fold.

    validation: the scores of the validation fold, which the threshold was chosen on.
    """

    pipeline: "PipelineModel"
    threshold: Threshold | None
    validation: ScoreCounts

    @property
    def cut_off(self) -> float | None:
        return self.threshold.value if self.threshold else None


def train_churn_model(
    train: DataFrame, current: DataFrame, settings: GradientBoosting, policy: ChurnPolicy, *, rows: int
) -> ChurnModel:
    """The model of one split: fitted on the training folds, its threshold chosen on the validation fold.

    In: `train` as `fit_churn_model`, the policy's features; `current`, the same features of the customers to serve.
    Raises UntrainableError.
    """
    features = FEATURE_SETS[policy.model.feature_set]
    pipeline = fit_churn_model(train, features, settings, rows=rows, class_weights=policy.model.class_weights)
    validation = score_counts(with_churn_probability(pipeline, train.where(is_validation())))
    alerted = score_counts(with_churn_probability(pipeline, current))
    return ChurnModel(pipeline, choose_threshold(validation, alerted, policy), validation)


def crossfitted(
    panel: DataFrame, dates: SplitDates, settings: GradientBoosting, policy: ChurnPolicy, rotation: int
) -> DataFrame:
    """The test rows of a rotation of the split, with `churn_probability` and `is_alert` of a model made for it.

    That model was made as the registered one is, from rows without these customers.
    """
    train = train_rows(panel, dates, policy, rotation).persist()
    try:
        current = current_rows(panel, dates, policy, rotation)
        model = train_churn_model(train, current, settings, policy, rows=train.count())
    finally:
        train.unpersist()
    return with_alerts(model.pipeline, held_out_rows(panel, dates, policy, rotation), model.cut_off)


def fit_churn_model(
    train: DataFrame, features: Sequence[str], settings: GradientBoosting, *, rows: int, class_weights: str = "none"
) -> "PipelineModel":
    """The pipeline (assembler, gradient-boosted trees) fitted on the training folds of `train`.

    In: `features` as doubles, `label`, `fold`, customer_id, as_of; `rows` is the number of rows of `train`.
    class_weights: "balanced" gives churners and others the same total weight. The same rows give the same model on any
    machine. Raises UntrainableError if the rows hold fewer than two classes, and UnavailableEstimatorError.
    """
    from pyspark.ml.feature import VectorAssembler

    # XGBoost learns in one task, and would gather several partitions in whatever order they come.
    most_partitions = 1 if settings.estimator == "xgboost" else MOST_PARTITIONS
    ordered = in_canonical_order(train.where(~is_validation()), rows, most_partitions)
    learned = ordered.select(*features, "label").persist()
    try:
        churners, others = _two_classes(learned)
        weighted = learned
        if class_weights == "balanced":
            half = (churners + others) / 2
            weight = F.when(F.col("label") == 1.0, half / churners).otherwise(half / others)
            weighted = learned.withColumn("weight", weight)
        assembler = VectorAssembler(inputCols=list(features), outputCol="features", handleInvalid="error")
        if settings.estimator == "xgboost":
            return _fitted_by_xgboost(assembler, weighted, settings, churners, others)
        return _fitted_by_spark(assembler, weighted, settings)
    finally:
        learned.unpersist()


def _fitted_by_spark(assembler: "VectorAssembler", learned: DataFrame, settings: GradientBoosting) -> "PipelineModel":
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import GBTClassifier

    trees = GBTClassifier(
        labelCol="label",
        featuresCol="features",
        maxDepth=settings.max_depth,
        maxIter=settings.iterations,
        stepSize=settings.step_size,
        minWeightFractionPerNode=settings.min_leaf_share,
        seed=SEED,
    )
    if "weight" in learned.columns:
        trees.setWeightCol("weight")
    return Pipeline(stages=[assembler, trees]).fit(learned)


def _fitted_by_xgboost(
    assembler: "VectorAssembler", learned: DataFrame, settings: GradientBoosting, churners: int, others: int
) -> "PipelineModel":
    from pyspark.ml import Pipeline, PipelineModel

    is_weighted = "weight" in learned.columns
    share = 0.5 if is_weighted else churners / (churners + others)
    trees = spark_classifier(
        label_col="label",
        features_col="features",
        max_depth=settings.max_depth,
        n_estimators=settings.iterations,
        learning_rate=settings.step_size,
        # Its bound is on the sum of p (1 - p) over the rows of a leaf: this many average ones.
        min_child_weight=settings.min_leaf_share * (churners + others) * share * (1 - share),
        base_score=share,
        random_state=SEED,
    )
    if is_weighted:
        trees.setParams(weight_col="weight")
    features = assembler.getInputCols()
    in_range = learned.withColumns({name: in_single_range(name) for name in features})
    boosted: Any = Pipeline(stages=[assembler, trees]).fit(in_range).stages[1]
    return PipelineModel([assembler, as_spark_trees(boosted.get_booster(), boosted.uid, len(features))])


def in_canonical_order(rows_: DataFrame, rows: int, most_partitions: int = MOST_PARTITIONS) -> DataFrame:
    """The rows in partitions that depend on the data alone: their number by `rows`, their content by customer.

    A fit depends on partitioning and row order through float sums and sampled bins; so neither may come from the cores
    or from how a table happens to be filed.
    """
    partitions = min(max(1, math.ceil(rows / ROWS_PER_PARTITION)), most_partitions)
    return rows_.repartition(partitions, "customer_id").sortWithinPartitions("customer_id", "as_of")


def _two_classes(learned: DataFrame) -> tuple[int, int]:
    counts = {row["label"]: row["count"] for row in learned.groupBy("label").count().collect()}
    if not counts.get(1.0) or not counts.get(0.0):
        raise UntrainableError(
            "The training folds cannot teach a classifier.",
            [f"churners: {counts.get(1.0, 0):,}", f"others: {counts.get(0.0, 0):,}"],
            next_step="provide a longer order history, or choose another windows.outcome_days in policy.toml",
        )
    return counts[1.0], counts[0.0]


def with_churn_probability(model: "PipelineModel", rows: DataFrame) -> DataFrame:
    """`rows` with `churn_probability`, the model's probability of label 1."""
    from pyspark.ml.functions import vector_to_array

    added = ("features", "rawPrediction", "probability", "prediction")
    probability = vector_to_array(F.col("probability")).getItem(1)
    return model.transform(rows).withColumn("churn_probability", probability).drop(*added)


def with_alerts(model: "PipelineModel", rows: DataFrame, cut_off: float | None) -> DataFrame:
    """`rows` with `churn_probability` and `is_alert`, at or above the cut-off; without one nobody is alerted."""
    is_alert = F.lit(False) if cut_off is None else F.col("churn_probability") >= cut_off
    return with_churn_probability(model, rows).withColumn("is_alert", is_alert)


def model_digest(model: "PipelineModel", threshold: float | None) -> str:
    """SHA-256 of everything that decides an alert, which is what `exported_trees` writes down."""
    return hashlib.sha256(exported_trees(model, threshold).encode()).hexdigest()


def feature_importances(model: "PipelineModel") -> dict[str, float]:
    """Each feature's share (0 to 1, summing to 1) of the trees' gain."""
    assembler, trees = assembler_and_trees(model)
    return dict(
        zip(assembler.getInputCols(), (float(share) for share in trees.featureImportances.toArray()), strict=True)
    )


def score_counts(scored: DataFrame, score: str = "churn_probability") -> ScoreCounts:
    """How often each pair of `score` and `label` occurs."""
    grouped = scored.groupBy(F.col(score).alias("score"), "label").agg(F.count(F.lit(1)).alias("rows"))
    return [(row["score"], row["label"], row["rows"]) for row in grouped.collect()]

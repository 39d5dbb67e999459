"""The churn model: fitting it and scoring with it. Where it is logged and how good it is is decided elsewhere."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.errors import UntrainableError
from churn_assets.churn.evaluation import ScoreCounts, Threshold, choose_threshold
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.splits import SplitDates, current_rows, held_out_rows, is_validation, train_rows
from churn_assets.churn.trees import assembler_and_trees, exported_trees
from churn_assets.churn.xgboost_trees import SharedFolder, as_spark_trees, boosted, collected

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
    """Hyperparameters of the gradient-boosted trees; why these: docs/decisions/0003.

    min_leaf_share: smallest share of the training rows in a leaf, so that the same setting suits any amount of data.
    estimator: who learns them, "xgboost" XGBoost, "gbt" Spark itself (docs/decisions/0013).
    """

    max_depth: int = 5
    iterations: int = 20
    step_size: float = 0.1
    min_leaf_share: float = 0.0125
    estimator: Estimator = "xgboost"


@dataclass(frozen=True)
class ChurnModel:
    """A fitted pipeline and its threshold; None where no threshold satisfies the policy on the validation fold.

    validation: the scores of the validation fold, which the threshold was chosen on.
    """

    pipeline: "PipelineModel"
    threshold: Threshold | None
    validation: ScoreCounts

    @property
    def threshold_value(self) -> float | None:
        return self.threshold.value if self.threshold else None


def train_churn_model(
    train: DataFrame,
    current: DataFrame,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    *,
    rows: int,
    shared_folder: SharedFolder | None = None,
) -> ChurnModel:
    """The model of one split: fitted on the training folds, its threshold chosen on the validation fold.

    In: `train` and `shared_folder` as `fit_churn_model`, the policy's features; `current`, the same features of the
    customers to serve.
    Raises UntrainableError.
    """
    features = FEATURE_SETS[policy.model.feature_set]
    weights = policy.model.class_weights
    pipeline = fit_churn_model(
        train, features, hyperparameters, rows=rows, class_weights=weights, shared_folder=shared_folder
    )
    validation = score_counts(with_churn_probability(pipeline, train.where(is_validation())))
    alerted = score_counts(with_churn_probability(pipeline, current))
    return ChurnModel(pipeline, choose_threshold(validation, alerted, policy), validation)


def crossfitted(
    panel: DataFrame,
    dates: SplitDates,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    crossfit_fold: int,
    *,
    shared_folder: SharedFolder | None = None,
) -> DataFrame:
    """The test rows of a crossfit_fold of the split, with `churn_probability` and `is_alert` of a model made for it.

    That model was made as the registered one is, from rows without these customers.
    """
    train = train_rows(panel, dates, policy, crossfit_fold).persist()
    try:
        current = current_rows(panel, dates, policy, crossfit_fold)
        rows = train.count()
        model = train_churn_model(train, current, hyperparameters, policy, rows=rows, shared_folder=shared_folder)
    finally:
        train.unpersist()
    return with_alerts(model.pipeline, held_out_rows(panel, dates, policy, crossfit_fold), model.threshold_value)


def fit_churn_model(
    train: DataFrame,
    features: Sequence[str],
    hyperparameters: GradientBoosting,
    *,
    rows: int,
    class_weights: str = "none",
    shared_folder: SharedFolder | None = None,
) -> "PipelineModel":
    """The pipeline (assembler, gradient-boosted trees) fitted on the training folds of `train`.

    In: `features` as doubles, `label`, `fold`, customer_id, as_of; `rows` is the number of rows of `train`.
    class_weights: "balanced" gives churners and others the same total weight. shared_folder: where XGBoost's trees can
    pass to a Spark Connect server; nothing else needs it. The same rows give the same model on any machine. Raises
    UntrainableError if the rows hold fewer than two classes or, for XGBoost, an unknown feature, and
    UnavailableEstimatorError.
    """
    from pyspark.ml.feature import VectorAssembler

    assembler = VectorAssembler(inputCols=list(features), outputCol="features", handleInvalid="error")
    learnable, is_balanced = train.where(~is_validation()), class_weights == "balanced"
    if hyperparameters.estimator == "xgboost":
        # One partition is one order of all rows, and XGBoost's bins and sums depend on it.
        ordered = in_canonical_order(learnable, rows, 1)
        return _fitted_by_xgboost(assembler, ordered, hyperparameters, is_balanced, shared_folder)
    return _fitted_by_spark(assembler, in_canonical_order(learnable, rows), hyperparameters, is_balanced)


def _fitted_by_spark(
    assembler: "VectorAssembler", ordered: DataFrame, hyperparameters: GradientBoosting, is_balanced: bool
) -> "PipelineModel":
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import GBTClassifier

    trees = GBTClassifier(
        labelCol="label",
        featuresCol="features",
        maxDepth=hyperparameters.max_depth,
        maxIter=hyperparameters.iterations,
        stepSize=hyperparameters.step_size,
        minWeightFractionPerNode=hyperparameters.min_leaf_share,
        seed=SEED,
    )
    learned = ordered.select(*assembler.getInputCols(), "label").persist()
    try:
        counts = {row["label"]: row["count"] for row in learned.groupBy("label").count().collect()}
        churners, others = _two_classes(counts)
        weighted = learned
        if is_balanced:
            half = (churners + others) / 2
            weight = F.when(F.col("label") == 1.0, half / churners).otherwise(half / others)
            weighted = learned.withColumn("weight", weight)
            trees.setWeightCol("weight")
        return Pipeline(stages=[assembler, trees]).fit(weighted)
    finally:
        learned.unpersist()


def _fitted_by_xgboost(
    assembler: "VectorAssembler",
    ordered: DataFrame,
    hyperparameters: GradientBoosting,
    is_balanced: bool,
    shared_folder: SharedFolder | None,
) -> "PipelineModel":
    from pyspark.ml import PipelineModel

    features = assembler.getInputCols()
    values, labels = collected(ordered, features)
    classes, counts = np.unique(labels, return_counts=True)
    churners, others = _two_classes(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
    rows, share, weights = churners + others, churners / (churners + others), None
    if is_balanced:
        weights, share = np.where(labels == 1.0, rows / 2 / churners, rows / 2 / others), 0.5
    booster = boosted(
        values,
        labels,
        weights,
        rounds=hyperparameters.iterations,
        max_depth=hyperparameters.max_depth,
        learning_rate=hyperparameters.step_size,
        # Its bound is on the sum of p (1 - p) over the rows of a leaf: this many average ones.
        min_child_weight=hyperparameters.min_leaf_share * rows * share * (1 - share),
        base_score=share,
        seed=SEED,
    )
    return PipelineModel([assembler, as_spark_trees(booster, len(features), shared_folder)])


def in_canonical_order(rows_: DataFrame, rows: int, most_partitions: int = MOST_PARTITIONS) -> DataFrame:
    """The rows in partitions that depend on the data alone: their number by `rows`, their content by customer.

    A fit depends on partitioning and row order through float sums and sampled bins; so neither may come from the cores
    or from how a table happens to be filed.
    """
    partitions = min(max(1, math.ceil(rows / ROWS_PER_PARTITION)), most_partitions)
    return rows_.repartition(partitions, "customer_id").sortWithinPartitions("customer_id", "as_of")


def _two_classes(counts: Mapping[float, int]) -> tuple[int, int]:
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


def with_alerts(model: "PipelineModel", rows: DataFrame, threshold: float | None) -> DataFrame:
    """`rows` with `churn_probability` and `is_alert`, at or above the cut-off; without one nobody is alerted."""
    is_alert = F.lit(False) if threshold is None else F.col("churn_probability") >= threshold
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

"""The churn model: fitting it and scoring with it. Where it is logged and how good it is is decided elsewhere."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import GBTClassificationModel, GBTClassifier
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import UntrainableError
from churn_assets.churn.evaluation import ScoreCounts
from churn_assets.churn.splits import is_validation

ROWS_PER_PARTITION = 25_000
SEED = 42


@dataclass(frozen=True)
class GradientBoosting:
    """Settings of the gradient-boosted trees; why these: docs/decisions/0003.

    min_leaf_share: smallest share of the training rows in a leaf, so that the same setting suits any amount of data.
    """

    max_depth: int = 5
    iterations: int = 20
    step_size: float = 0.1
    min_leaf_share: float = 0.0125


def fit_churn_model(
    train: DataFrame, features: Sequence[str], settings: GradientBoosting, *, rows: int
) -> PipelineModel:
    """The pipeline (assembler, gradient-boosted trees) fitted on the training folds of `train`.

    In: `features` as doubles, `label`, `fold`, customer_id, as_of; `rows` is the number of rows of `train`. The same
    rows give the same model on any machine. Raises UntrainableError if the rows hold fewer than two classes.
    """
    learned = in_canonical_order(train.where(~is_validation()), rows).select(*features, "label").persist()
    try:
        _require_two_classes(learned)
        assembler = VectorAssembler(inputCols=list(features), outputCol="features", handleInvalid="error")
        trees = GBTClassifier(
            labelCol="label",
            featuresCol="features",
            maxDepth=settings.max_depth,
            maxIter=settings.iterations,
            stepSize=settings.step_size,
            minWeightFractionPerNode=settings.min_leaf_share,
            seed=SEED,
        )
        return Pipeline(stages=[assembler, trees]).fit(learned)
    finally:
        learned.unpersist()


def in_canonical_order(rows_: DataFrame, rows: int) -> DataFrame:
    """The rows in partitions that depend on the data alone: their number by `rows`, their content by customer.

    A fit depends on partitioning and row order through float sums and sampled bins; so neither may come from the cores
    or from how a table happens to be filed.
    """
    partitions = max(1, math.ceil(rows / ROWS_PER_PARTITION))
    return rows_.repartition(partitions, "customer_id").sortWithinPartitions("customer_id", "as_of")


def _require_two_classes(learned: DataFrame) -> None:
    counts = {row["label"]: row["count"] for row in learned.groupBy("label").count().collect()}
    if not counts.get(1.0) or not counts.get(0.0):
        raise UntrainableError(
            "The training folds cannot teach a classifier.",
            [f"churners: {counts.get(1.0, 0):,}", f"others: {counts.get(0.0, 0):,}"],
            next_step="provide a longer order history, or choose another windows.outcome_days in policy.toml",
        )


def with_churn_probability(model: PipelineModel, rows: DataFrame) -> DataFrame:
    """`rows` with `churn_probability`, the model's probability of label 1."""
    added = ("features", "rawPrediction", "probability", "prediction")
    probability = vector_to_array(F.col("probability")).getItem(1)
    return model.transform(rows).withColumn("churn_probability", probability).drop(*added)


def model_digest(model: PipelineModel, threshold: float | None) -> str:
    """A hash of everything that decides an alert: the inputs in order, every split and leaf, and the threshold."""
    assembler, trees = _stages(model)
    described = [
        repr(assembler.getInputCols()),
        repr(trees.treeWeights),
        trees.toDebugString.split("\n", 1)[1],
        repr(threshold),
    ]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def _stages(model: PipelineModel) -> tuple[VectorAssembler, GBTClassificationModel]:
    assembler, trees = model.stages
    assert isinstance(assembler, VectorAssembler)
    assert isinstance(trees, GBTClassificationModel)
    return assembler, trees


def feature_importances(model: PipelineModel) -> dict[str, float]:
    """Each feature's share (0 to 1, summing to 1) of the trees' gain."""
    assembler, trees = _stages(model)
    return dict(
        zip(assembler.getInputCols(), (float(share) for share in trees.featureImportances.toArray()), strict=True)
    )


def score_counts(scored: DataFrame, score: str = "churn_probability") -> ScoreCounts:
    """How often each pair of `score` and `label` occurs."""
    grouped = scored.groupBy(F.col(score).alias("score"), "label").agg(F.count(F.lit(1)).alias("rows"))
    return [(row["score"], row["label"], row["rows"]) for row in grouped.collect()]

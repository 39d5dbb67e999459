"""The churn model: fitting it and scoring with it. Where it is logged and how good it is is decided elsewhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pyspark.errors import UnsupportedOperationException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.censored import censored_rows, with_censored
from churn_assets.churn.distributed_trees import OFFSET, boosted_by_tasks, class_weights, with_offsets
from churn_assets.churn.earnings import earnings
from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError
from churn_assets.churn.evaluation import ScoreCounts, ScoreProfits, Threshold, choose_threshold
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_prior import (
    ASKED_FEATURES,
    PurchasePrior,
    ScaledPrior,
    asked_of,
    averaged,
    is_averaged,
    learned_features,
    scaled_prior,
)
from churn_assets.churn.splits import (
    VALIDATION_SHARE,
    SplitDates,
    current_rows,
    held_out_rows,
    is_validation,
    train_rows,
)
from churn_assets.churn.trees import BoostedTrees, trees_of_saved_nodes
from churn_assets.churn.xgboost_trees import (
    IS_CURRENT,
    KEYS,
    ORDER,
    PART,
    TEACHES,
    VALIDATES,
    WEIGHT,
    Rows,
    boosted,
    collected,
    collected_apart,
    trees_of,
)

# Gives a name for a folder that client, driver and workers reach; it is gone afterwards.
SharedFolder = Callable[[], AbstractContextManager[str]]
ROWS_PER_PARTITION = 25_000
# Spark adds up what the partitions found in the order in which it arrives, and only of two is the sum always the same:
# of 10 partitions on two executors three fits gave three models (2026-11-25).
MOST_PARTITIONS = 2
# Of the rows that the tasks of a cluster learned from, how many tell this process what the mean with the prior needs.
SAMPLED_ROWS = 1_000_000
SEED = 42
Estimator = Literal["gbt", "xgboost"]


@dataclass(frozen=True)
class GradientBoosting:
    """Hyperparameters of the gradient-boosted trees; why these: docs/decisions/0003 and 0022.

    min_leaf_share: smallest share of the training rows in a leaf, so that the same setting suits any amount of data.
    feature_share: of the features, drawn anew at each split, which may be split by.
    estimator: who learns them, "xgboost" XGBoost, "gbt" Spark itself (docs/decisions/0013). workers: how many tasks of
    Spark learn together; with 1 the same rows give the same trees wherever they are learned, XGBoost's in this process;
    with more they do on as many workers, Spark's own only nearly (docs/decisions/0047).
    """

    max_depth: int = 5
    iterations: int = 20
    step_size: float = 0.1
    min_leaf_share: float = 0.0125
    feature_share: float = 0.5
    estimator: Estimator = "xgboost"
    workers: int = 1

    @property
    def is_of_this_process(self) -> bool:
        """Whether XGBoost learns here, in one thread."""
        return self.estimator == "xgboost" and self.workers == 1


@dataclass(frozen=True)
class ChurnModel:
    """Fitted trees and their threshold; None where no threshold satisfies the policy on the validation fold.

    validation: the scores of the validation fold, which the threshold was chosen on. learns_begun: whether the trees
    have also learned from outcomes that are not over.
    """

    trees: BoostedTrees
    threshold: Threshold | None
    validation: ScoreCounts
    learns_begun: bool = False

    @property
    def threshold_value(self) -> float | None:
        return self.threshold.value if self.threshold else None


class _Fitted(NamedTuple):
    """The trees, the scores of the validation fold and of the current customers, and as of `ChurnModel`."""

    trees: BoostedTrees
    validation: ScoreCounts
    current: ScoreCounts
    learns_begun: bool


def train_churn_model(
    train: DataFrame,
    current: DataFrame,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    *,
    rows: int | None = None,
    prior: PurchasePrior | None = None,
    censored: DataFrame | None = None,
    shared_folder: SharedFolder | None = None,
    spend: DataFrame | None = None,
) -> ChurnModel:
    """The model of one split: fitted on the training folds, its threshold chosen on the validation fold.

    In: `train`, `prior` and `shared_folder` as `fit_churn_model`, the policy's features; `current`, the same features
    of the customers to serve; `rows`, how many `train` has, where that is known; `censored`, what `censored_rows` of
    the same split are, which are learned from too where the prior tells more of the outcomes that are over than silence
    alone does (docs/decisions/0052); `spend`, customer_id, as_of and recent_spend, where alerts.threshold_by is
    "profit".
    Raises UntrainableError, and UnknownSpendError.
    """
    if hyperparameters.is_of_this_process:
        fitted = _trained_here(train, current, hyperparameters, policy, prior, censored)
    else:
        fitted = _trained_by_spark(train, current, hyperparameters, policy, prior, censored, shared_folder, rows)
    earned = None
    if policy.alerts.threshold_by == "profit":
        earned = _earned(with_churn_probability(fitted.trees, train.where(is_validation())), spend, policy)
    threshold = choose_threshold(fitted.validation, fitted.current, policy, earned)
    return ChurnModel(fitted.trees, threshold, fitted.validation, fitted.learns_begun)


def _trained_here(
    train: DataFrame,
    current: DataFrame,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    prior: PurchasePrior | None,
    censored: DataFrame | None,
) -> _Fitted:
    """All of one query."""
    features, columns = policy.features, (*KEYS, *policy.features, "label")
    part = F.when(is_validation(), VALIDATES).otherwise(TEACHES)
    now = current.select(*columns, F.lit(IS_CURRENT).alias(PART))
    rows = train.select(*columns, part.alias(PART)).unionByName(now)
    if censored is not None:
        begun = censored.where(~is_validation()).drop("fold").withColumn(PART, F.lit(TEACHES))
        rows = with_censored(rows, begun)
    learned, validation, served = collected_apart(rows, features)
    learns_begun = False
    if learned.is_begun is not None and prior is not None:
        is_over = ~learned.is_begun
        known = asked_of(learned.values, features)[is_over]
        learns_begun = prior.tells_more_than_silence(known, learned.labels[is_over])
        if not learns_begun:
            learned = Rows(learned.values[is_over], learned.labels[is_over])
    trees = fit_rows(learned, features, hyperparameters, class_weights=policy.model.class_weights, prior=prior)
    scores = np.column_stack([trees.probabilities(validation.values), validation.labels])
    pairs, counts = np.unique(scores, axis=0, return_counts=True)
    validated = [*zip(*pairs.T.tolist(), counts.tolist(), strict=True)]
    found, counts = np.unique(trees.probabilities(served.values), return_counts=True)
    alerted = [(score, None, many) for score, many in zip(found.tolist(), counts.tolist(), strict=True)]
    return _Fitted(trees, validated, alerted, learns_begun)


def _trained_by_spark(
    train: DataFrame,
    current: DataFrame,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    prior: PurchasePrior | None,
    censored: DataFrame | None,
    shared_folder: SharedFolder | None,
    rows: int | None = None,
) -> _Fitted:
    """As `_trained_here`, of rows that stay with Spark; those that no table counts are counted, and held meanwhile."""
    learned, learns_begun = train, False
    try:
        rows = train.persist().count() if rows is None else rows
        if censored is not None and prior is not None:
            over = collected(_some_of(train.where(~is_validation()), rows, hyperparameters.workers), ASKED_FEATURES)
            learns_begun = prior.tells_more_than_silence(over.values.astype(float), over.labels)
            learned = with_censored(train, censored) if learns_begun else train
        trees = fit_churn_model(
            learned,
            policy.features,
            hyperparameters,
            rows=rows,
            class_weights=policy.model.class_weights,
            prior=prior,
            shared_folder=shared_folder,
        )
        validation = score_counts(with_churn_probability(trees, train.where(is_validation())))
    finally:
        train.unpersist()
    return _Fitted(trees, validation, score_counts(with_churn_probability(trees, current)), learns_begun)


def _earned(validation: DataFrame, spend: DataFrame | None, policy: ChurnPolicy) -> ScoreProfits:
    """What contacting each customer of the scored validation rows earned."""
    assert spend is not None, "the policy asks for profit, and the caller says what customers spend"
    keys = ["customer_id", "as_of"]
    scored = validation.select(*keys, "label", "churn_probability")
    rows = scored.join(spend.select(*keys, "recent_spend"), keys, "left").toPandas()
    # Sums of doubles depend on the order of their terms.
    ordered = rows.sort_values(keys, ignore_index=True)
    earned = earnings(ordered, policy, population_share=VALIDATION_SHARE)
    return ordered["churn_probability"].to_numpy(dtype=float), earned.profits


def crossfitted(
    panel: DataFrame,
    dates: SplitDates,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    crossfit_fold: int,
    *,
    prior: PurchasePrior | None = None,
    shared_folder: SharedFolder | None = None,
    spend: DataFrame | None = None,
) -> DataFrame:
    """The test rows of a crossfit_fold of the split, with `churn_probability` and `is_alert` of a model made for it.

    That model was made as the registered one is, from rows without these customers. The `prior` may know their orders
    before the test date: it learns from no label. spend: as `train_churn_model`.
    """
    model = train_churn_model(
        train_rows(panel, dates, policy, crossfit_fold),
        current_rows(panel, dates, policy, crossfit_fold),
        hyperparameters,
        policy,
        prior=prior,
        censored=censored_rows(panel, dates, policy, prior, crossfit_fold),
        shared_folder=shared_folder,
        spend=spend,
    )
    return with_alerts(model.trees, held_out_rows(panel, dates, policy, crossfit_fold), model.threshold_value)


def fit_churn_model(
    train: DataFrame,
    features: Sequence[str],
    hyperparameters: GradientBoosting,
    *,
    rows: int,
    class_weights: str = "none",
    prior: PurchasePrior | None = None,
    shared_folder: SharedFolder | None = None,
) -> BoostedTrees:
    """The gradient-boosted trees fitted on the training folds of `train`.

    In: `features` as doubles, `label`, `fold`, customer_id, as_of, and perhaps `weight` and `is_begun`, as of
    `with_censored`; `rows`, how many `train` has without those of `censored_rows`.
    class_weights: "balanced" gives churners and others the same total weight. prior: what is known without a label;
    where `features` hold what it asks for, the model is the mean of both (docs/decisions/0022). shared_folder: where
    Spark's own trees pass from its workers to this process; nothing else needs it. The same rows give the same model on
    any machine and engine, as far as the hyperparameters' `workers` say. Raises UntrainableError if the rows hold fewer
    than two classes or, for XGBoost, an unknown feature, and UnavailableEstimatorError.
    """
    learnable, is_balanced = train.where(~is_validation()), class_weights == "balanced"
    if hyperparameters.is_of_this_process:
        rows_here = collected(learnable, features)
        return fit_rows(rows_here, features, hyperparameters, class_weights=class_weights, prior=prior)
    by_spark = hyperparameters.estimator == "gbt"

    def learned(known: ScaledPrior | None) -> BoostedTrees:
        taught = learned_features(features, prior)
        if not by_spark:
            return _fitted_by_tasks(learnable, taught, hyperparameters, is_balanced, known)
        ordered = in_canonical_order(learnable, rows, hyperparameters.workers)
        return _fitted_by_spark(ordered, taught, hyperparameters, is_balanced, shared_folder)

    if prior is None or not is_averaged(features, prior):
        return learned(None)
    some = collected(_some_of(learnable, rows, hyperparameters.workers), features)
    weights = _weights(some.labels, some.weights, is_balanced)
    _two_classes(_weighed(some.labels, weights))
    # Spark's own learner begins with one number for all rows.
    known = scaled_prior(prior, some, weights, features, takes_offsets=not by_spark)
    return averaged(learned(known), known, some.values, features)


def fit_rows(
    rows: Rows,
    features: Sequence[str],
    hyperparameters: GradientBoosting,
    *,
    class_weights: str = "none",
    prior: PurchasePrior | None = None,
) -> BoostedTrees:
    """As `fit_churn_model`, of `rows` of `features` that are here, by XGBoost in this process."""
    taught = learned_features(features, prior)
    weights = _weights(rows.labels, rows.weights, class_weights == "balanced")
    # Those of one's own choice are a copy; all of them need none.
    places = slice(None) if taught == tuple(features) else [features.index(name) for name in taught]
    churners, others = _two_classes(_weighed(rows.labels, weights))
    params = xgboost_params(hyperparameters, churners + others, churners / (churners + others))
    known = offsets = None
    if prior is not None and is_averaged(features, prior):
        known = scaled_prior(prior, rows, weights, features)
        offsets = known.offsets(asked_of(rows.values, features))
    learned = trees_of(boosted(rows.values[:, places], rows.labels, weights, offsets=offsets, **params), taught)
    return learned if known is None else averaged(learned, known, rows.values, features)


def _some_of(learnable: DataFrame, rows: int, workers: int) -> DataFrame:
    """All rows where this process could have learned from them; else those of every so many customers."""
    if workers == 1 or rows <= SAMPLED_ROWS:
        return learnable
    return learnable.where(F.pmod(F.xxhash64("customer_id"), F.lit(math.ceil(rows / SAMPLED_ROWS))) == 0)


def _fitted_by_spark(
    ordered: DataFrame,
    features: Sequence[str],
    hyperparameters: GradientBoosting,
    is_balanced: bool,
    shared_folder: SharedFolder | None,
) -> BoostedTrees:
    if shared_folder is None:
        raise UnavailableEstimatorError(
            'estimator = "gbt" needs Spark, and a folder that its workers and this process share.',
            ["shared_folder: None"],
            next_step='set CHURN_ENGINE=local (or SPARK_MASTER, SPARK_REMOTE), or train with estimator = "xgboost"',
        )
    # Where it is needed: at load it cost 45 ms of the 280 this package adds (2026-11-25).
    from pyspark.ml.classification import GBTClassifier
    from pyspark.ml.feature import VectorAssembler

    learner = GBTClassifier(
        labelCol="label",
        featuresCol="features",
        maxDepth=hyperparameters.max_depth,
        maxIter=hyperparameters.iterations,
        stepSize=hyperparameters.step_size,
        minWeightFractionPerNode=hyperparameters.min_leaf_share,
        featureSubsetStrategy=str(hyperparameters.feature_share),
        seed=SEED,
    )
    assembler = VectorAssembler(inputCols=list(features), outputCol="features", handleInvalid="error")
    learned = ordered.select(*features, "label", *({WEIGHT} & {*ordered.columns})).persist()
    try:
        weight = _weight_column(learned, *_two_classes(class_weights(learned, ())), is_balanced)
        weighted = learned
        if weight is not None:
            weighted = learned.withColumn(WEIGHT, weight)
            learner.setWeightCol(WEIGHT)
        model = learner.fit(assembler.transform(weighted))
    except UnsupportedOperationException as unsupported:
        raise _without_spark_ml(str(unsupported)) from None
    finally:
        learned.unpersist()
    with shared_folder() as folder:
        # All that a node is, which no other public way tells (its description leaves the gains out).
        model.save(folder)
        nodes = ordered.sparkSession.read.parquet(f"{folder}/data").select("treeID", "nodeData").collect()
    saved = [row.asDict(recursive=True) for row in nodes]
    return trees_of_saved_nodes(features, saved, list(model.treeWeights))


def _without_spark_ml(reason: str) -> UnavailableEstimatorError:
    return UnavailableEstimatorError(
        'estimator = "gbt" is Spark\'s own and needs Spark.',
        [reason],
        next_step='train with estimator = "xgboost", or on Spark: CHURN_ENGINE=local, SPARK_MASTER or SPARK_REMOTE',
    )


def _fitted_by_tasks(
    learnable: DataFrame,
    features: Sequence[str],
    hyperparameters: GradientBoosting,
    is_balanced: bool,
    known: ScaledPrior | None,
) -> BoostedTrees:
    rows = learnable if known is None else with_offsets(learnable, known)
    also = [name for name in (WEIGHT, OFFSET) if name in rows.columns]
    # Asked for counts, and by XGBoost for its number of classes, bins and trees.
    kept = rows.select(*ORDER, *features, *also).persist()
    try:
        churners, others = _two_classes(class_weights(kept, features))
        share = 0.5 if is_balanced else churners / (churners + others)
        params = xgboost_params(hyperparameters, churners + others, share)
        weight = _weight_column(kept, churners, others, is_balanced)
        booster = boosted_by_tasks(kept, features, weight, workers=hyperparameters.workers, **params)
    finally:
        kept.unpersist()
    return trees_of(booster, features)


def xgboost_params(hyperparameters: GradientBoosting, rows: float, share: float) -> dict[str, Any]:
    """What `boosted` is given for `rows` rows, or rows that weigh so much, a `share` of it of label 1."""
    return {
        "rounds": hyperparameters.iterations,
        "max_depth": hyperparameters.max_depth,
        "learning_rate": hyperparameters.step_size,
        "colsample_bynode": hyperparameters.feature_share,
        # Its bound is on the sum of p (1 - p) over the rows of a leaf: this many average ones.
        "min_child_weight": hyperparameters.min_leaf_share * rows * share * (1 - share),
        "base_score": share,
        "seed": SEED,
    }


def _weight_column(rows: DataFrame, churners: float, others: float, is_balanced: bool) -> Column | None:
    """What `_weights` are, where Spark has the rows."""
    own = F.col(WEIGHT) if WEIGHT in rows.columns else None
    if not is_balanced:
        return own
    half = (churners + others) / 2
    balance = F.when(F.col("label") == 1.0, half / churners).otherwise(half / others)
    return balance if own is None else own * balance


def _weights(labels: np.ndarray, weights: np.ndarray | None, is_balanced: bool) -> np.ndarray | None:
    """Those of the rows, or where churners and others weigh the same in all such as make them; None: all weigh 1."""
    if not is_balanced:
        return weights
    churners, others = _two_classes(_weighed(labels, weights))
    half = (churners + others) / 2
    balance = np.where(labels == 1.0, half / churners, half / others)
    return balance if weights is None else weights * balance


def _weighed(labels: np.ndarray, weights: np.ndarray | None) -> dict[float, float]:
    """What the rows of each label weigh."""
    own = np.ones(len(labels)) if weights is None else weights
    return {label: float(own[labels == label].sum()) for label in np.unique(labels).tolist()}


def in_canonical_order(rows_: DataFrame, rows: int, workers: int = 1) -> DataFrame:
    """The rows in partitions that depend on the data alone: their number by `rows`, their content by customer.

    Spark's fit depends on partitioning and row order through float sums and sampled bins; so neither may come from the
    cores or from how a table happens to be filed. With several `workers` there are as many partitions as the rows want.
    """
    wanted = max(1, math.ceil(rows / ROWS_PER_PARTITION))
    partitions = max(wanted, workers) if workers > 1 else min(wanted, MOST_PARTITIONS)
    return rows_.repartition(partitions, "customer_id").sortWithinPartitions(*ORDER)


def _two_classes(counts: Mapping[float, float]) -> tuple[float, float]:
    if not counts.get(1.0) or not counts.get(0.0):
        raise UntrainableError(
            "The training folds cannot teach a classifier.",
            [f"churners: {counts.get(1.0, 0):,.0f}", f"others: {counts.get(0.0, 0):,.0f}"],
            next_step="provide a longer order history, or choose another windows.outcome_days in policy.toml",
        )
    return counts[1.0], counts[0.0]


def with_churn_probability(model: BoostedTrees, rows: DataFrame) -> DataFrame:
    """`rows` with `churn_probability`, the model's probability of label 1."""
    return rows.withColumn("churn_probability", model.probability())


def with_alerts(model: BoostedTrees, rows: DataFrame, threshold: float | None) -> DataFrame:
    """`rows` with `churn_probability` and `is_alert`, at or above the threshold; without one nobody is alerted."""
    is_alert = F.lit(False) if threshold is None else F.col("churn_probability") >= threshold
    return with_churn_probability(model, rows).withColumn("is_alert", is_alert)


def score_counts(scored: DataFrame, score: str = "churn_probability") -> ScoreCounts:
    """How often each pair of `score` and `label` occurs."""
    grouped = scored.groupBy(F.col(score).alias("score"), "label").agg(F.count(F.lit(1)).alias("rows"))
    # Rows are tuples, and a look-up by name in each of many is slow.
    return [tuple(row) for row in grouped.collect()]

"""The second learner: XGBoost finds the trees, and Spark's own model holds and scores them.

So whatever reads, logs, explains or serves a model of `models.fit_churn_model` need not know who learned it, and only
the fit needs the package. docs/decisions/0013.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from churn_assets.churn.errors import UnavailableEstimatorError

if TYPE_CHECKING:
    from pyspark.ml.classification import GBTClassificationModel
    from xgboost.spark import SparkXGBClassifier

LARGEST = float(np.finfo(np.float32).max)
# What XGBoost writes for the children of a leaf.
NO_CHILD = -1


def spark_classifier(**params: Any) -> "SparkXGBClassifier":
    """XGBoost's estimator for Spark pipelines: one task with one thread, so that no machine's cores change a sum.

    Raises UnavailableEstimatorError where the package is not installed, and under Spark Connect.
    """
    try:
        from xgboost.spark import SparkXGBClassifier
    except ModuleNotFoundError as missing:
        if missing.name not in ("xgboost", "xgboost.spark"):
            raise
        raise UnavailableEstimatorError(
            'estimator = "xgboost" needs a package that is not installed.',
            ["xgboost-cpu: missing"],
            next_step='install it with pip install "churn_assets[xgboost]", or train with estimator = "gbt"',
        ) from None
    if is_remote():
        raise UnavailableEstimatorError(
            'estimator = "xgboost" cannot be fitted through Spark Connect.',
            ["xgboost.spark asks for the driver's sparkContext, which a Connect client does not have"],
            next_step='train with estimator = "gbt", or with SPARK_MASTER instead of SPARK_REMOTE',
        )
    return SparkXGBClassifier(num_workers=1, verbose=False, **params)


def in_single_range(name: str) -> Column:
    """The column within what a single-precision number holds, null and NaN as they are; XGBoost refuses rows beyond.

    It rounds values to single precision, and no split of it can tell the ones beyond from the last within.
    """
    value = F.col(name)
    within = F.when((value > LARGEST) & ~F.isnan(value), LARGEST).when(value < -LARGEST, -LARGEST)
    return within.otherwise(value)


def as_spark_trees(booster: Any, uid: str, features: int) -> "GBTClassificationModel":
    """A binary:logistic `xgboost.Booster` over so many features as the model of Spark's gradient-boosted trees.

    Spark's margin is half the log-odds, so every tree weighs one half; the first is a leaf of XGBoost's base score.
    Splits and leaves are XGBoost's exactly. Spark adds the leaves up in double precision and XGBoost in single, which
    is all that their margins differ by. The importance of a feature is XGBoost's gain of its splits.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    described = learner["gradient_booster"]["model"]["trees"]
    nodes = _SparkNodes(features)
    trees = [nodes.tree(nodes.leaf(_base_margin(booster)))]
    trees += [nodes.tree(nodes.of(tree)) for tree in described]
    return nodes.model(uid, trees, [0.5] * len(trees))


def largest_on_the_left(split: float) -> float:
    """The largest double that XGBoost sends left of `split`, a single-precision number.

    It rounds a value to single precision and asks whether it is less than the split; Spark asks whether the double is
    at most its own. Where the two change over is half-way between the split and the single before it.
    """
    exact = np.float32(split)
    half_way = (float(np.nextafter(exact, np.float32(-np.inf))) + float(exact)) / 2
    return half_way if np.float32(half_way) < exact else math.nextafter(half_way, -math.inf)


def _base_margin(booster: Any) -> float:
    """The log-odds that every row begins with."""
    told = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
    probability = float(np.float32(told.strip("[]")))
    return math.log(probability / (1 - probability))


class _SparkNodes:
    """Makes Spark's trees in the driver's JVM.

    The one place that reaches into it: Spark has no other way to make a model from trees than to write them to a folder
    that all workers share, in a format that is no more public than these constructors.
    """

    def __init__(self, features: int) -> None:
        self._features = features
        self._gateway = cast(Any, SparkSession.active().sparkContext._gateway)
        spark = self._gateway.jvm.org.apache.spark
        # Looked up once: each name costs a call to the JVM.
        self._leaf, self._inner, self._split = (
            spark.ml.tree.LeafNode,
            spark.ml.tree.InternalNode,
            spark.ml.tree.ContinuousSplit,
        )
        self._tree = spark.ml.regression.DecisionTreeRegressionModel
        self._model = spark.ml.classification.GBTClassificationModel
        # Spark multiplies a gain by the rows counted here; XGBoost's is of all rows of the node already.
        counted = self._array(self._gateway.jvm.double, [1.0, 0.0, 0.0])
        self._statistics = spark.mllib.tree.impurity.VarianceCalculator(counted, 1)

    def leaf(self, prediction: float) -> Any:
        return self._leaf(prediction, 0.0, self._statistics)

    def of(self, tree: Mapping[str, Any], node: int = 0) -> Any:
        """The node of an XGBoost tree, with all below it."""
        left, right, at = (tree[name][node] for name in ("left_children", "right_children", "split_conditions"))
        if left == NO_CHILD:
            return self.leaf(float(np.float32(at)))
        split = self._split(tree["split_indices"][node], largest_on_the_left(at))
        gain = float(tree["loss_changes"][node])
        return self._inner(0.0, 0.0, gain, self.of(tree, left), self.of(tree, right), split, self._statistics)

    def tree(self, root: Any) -> Any:
        return self._tree(root, self._features)

    def model(self, uid: str, trees: Sequence[Any], weights: Sequence[float]) -> "GBTClassificationModel":
        from pyspark.ml.classification import GBTClassificationModel

        made = self._model(
            uid, self._array(self._tree, trees), self._array(self._gateway.jvm.double, weights), self._features
        )
        return GBTClassificationModel(made)

    def _array(self, kind: Any, values: Sequence[Any]) -> Any:
        array = self._gateway.new_array(kind, len(values))
        for number, value in enumerate(values):
            array[number] = value
        return array

"""The default learner: XGBoost finds the trees, and Spark's own model holds and scores them.

So whatever reads, logs, explains or serves a model of `models.fit_churn_model` need not know who learned it, and only
the fit needs the package. docs/decisions/0013.
"""

import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError

if TYPE_CHECKING:
    from pyspark.ml.classification import GBTClassificationModel
    from xgboost import Booster

LARGEST = float(np.finfo(np.float32).max)
# What XGBoost writes for the children of a leaf, and Spark too.
NO_CHILD = -1
TREE_WEIGHT = 0.5
# Spark multiplies a gain by the rows counted here; XGBoost's is of all rows of the node already.
STATISTICS, ROW_COUNT = [1.0, 0.0, 0.0], 1
SAVED_NODE = (
    "id: int, prediction: double, impurity: double, impurityStats: array<double>, rawCount: bigint, gain: double,"
    " leftChild: int, rightChild: int,"
    " split: struct<featureIndex: int, leftCategoriesOrThreshold: array<double>, numCategories: int>"
)
# Gives a name for a folder that client, driver and workers reach; it is gone afterwards.
SharedFolder = Callable[[], AbstractContextManager[str]]


def collected(rows: DataFrame, features: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The features of `rows`, a row each, and their `label`, both in single precision and in the rows' order.

    Half of what doubles would take, and XGBoost rounds to it anyway. Raises UntrainableError for an unknown value.
    """
    columns = {name: in_single_range(name) for name in features} | {"label": F.col("label")}
    table = rows.select(*[value.cast("float").alias(name) for name, value in columns.items()]).toArrow()
    values = np.empty((table.num_rows, len(features)), dtype=np.float32)
    for number, name in enumerate(features):
        values[:, number] = table[name].to_numpy()
    unknown = np.isnan(values).sum(axis=0)
    if unknown.any():
        raise UntrainableError(
            "The training rows hold unknown features.",
            [f"{name}: {count} null or NaN" for name, count in zip(features, unknown, strict=True) if count],
            next_step="give every feature a value in every row",
        )
    return values, table["label"].to_numpy()


def boosted(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, *, rounds: int, **params: Any
) -> "Booster":
    """XGBoost's trees of the rows, learned in this process by one thread, so that no machine's cores change a sum.

    Raises UnavailableEstimatorError where the package is not installed or cannot load its library.
    """
    try:
        import xgboost
    except Exception as broken:
        # Where its library cannot be loaded it raises a class of its own, which nobody can name before the import.
        raise UnavailableEstimatorError(
            'estimator = "xgboost" needs the package of that name, which cannot be loaded.',
            [str(broken)],
            next_step='see what `churn-assets doctor` says of it, or train with estimator = "gbt"',
        ) from broken
    rows = xgboost.DMatrix(values, labels, weight=weights, nthread=1)
    return xgboost.train({"objective": "binary:logistic", "nthread": 1, **params}, rows, rounds)


def in_single_range(name: str) -> Column:
    """The column within what a single-precision number holds, null and NaN as they are; XGBoost refuses rows beyond.

    It rounds values to single precision, and no split of it can tell the ones beyond from the last within.
    """
    value = F.col(name)
    within = F.when((value > LARGEST) & ~F.isnan(value), LARGEST).when(value < -LARGEST, -LARGEST)
    return within.otherwise(value)


def as_spark_trees(
    booster: "Booster", features: int, shared_folder: SharedFolder | None = None
) -> "GBTClassificationModel":
    """A binary:logistic booster over so many features as the model of Spark's gradient-boosted trees.

    Spark's margin is half the log-odds, so every tree weighs one half; the first is a leaf of XGBoost's base score.
    Splits and leaves are XGBoost's exactly. Spark adds the leaves up in double precision and XGBoost in single, which
    is all that their margins differ by. The importance of a feature is XGBoost's gain of its splits. shared_folder: for
    Spark Connect, which needs one. Raises UnavailableEstimatorError there without it.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    described = learner["gradient_booster"]["model"]["trees"]
    trees = [[_Node(prediction=_base_margin(booster))], *[_nodes(tree) for tree in described]]
    uid = f"XGBoost_{uuid.uuid4().hex[-12:]}"
    if not is_remote():
        return _made_in_the_jvm(uid, trees, features)
    if shared_folder is None:
        raise UnavailableEstimatorError(
            'estimator = "xgboost" needs a shared folder under Spark Connect.',
            ["shared_folder: None"],
            next_step="pass `shared_folder`, as the resource `tracking` has it",
        )
    with shared_folder() as folder:
        return _made_of_files(uid, trees, features, folder)


def largest_on_the_left(split: float) -> float:
    """The largest double that XGBoost sends left of `split`, a single-precision number.

    It rounds a value to single precision and asks whether it is less than the split; Spark asks whether the double is
    at most its own. Where the two change over is half-way between the split and the single before it.
    """
    exact = np.float32(split)
    half_way = (float(np.nextafter(exact, np.float32(-np.inf))) + float(exact)) / 2
    return half_way if np.float32(half_way) < exact else math.nextafter(half_way, -math.inf)


def _base_margin(booster: "Booster") -> float:
    """The log-odds that every row begins with."""
    base_score = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
    probability = float(np.float32(base_score.strip("[]")))
    return math.log(probability / (1 - probability))


@dataclass
class _Node:
    """A node of a tree; `left` and `right` are numbers in the tree's list, where children come after their parent."""

    prediction: float = 0.0
    gain: float = -1.0
    left: int = NO_CHILD
    right: int = NO_CHILD
    feature: int = -1
    split: float = math.nan


def _nodes(tree: Mapping[str, Any]) -> list[_Node]:
    """The nodes of an XGBoost tree, numbered anew: its own numbers may have gaps where it has pruned."""
    nodes: list[_Node] = []

    def add(at: int) -> int:
        number, left, split = len(nodes), tree["left_children"][at], tree["split_conditions"][at]
        if left == NO_CHILD:
            nodes.append(_Node(prediction=float(np.float32(split))))
            return number
        node = _Node(
            gain=float(tree["loss_changes"][at]),
            feature=tree["split_indices"][at],
            split=largest_on_the_left(split),
        )
        nodes.append(node)
        node.left, node.right = add(left), add(tree["right_children"][at])
        return number

    add(0)
    return nodes


def _made_in_the_jvm(uid: str, trees: Sequence[Sequence[_Node]], features: int) -> "GBTClassificationModel":
    """Made by constructors that are not public, in milliseconds: the one place that reaches into the driver's JVM."""
    from pyspark.ml.classification import GBTClassificationModel

    gateway = cast(Any, SparkSession.active().sparkContext._gateway)
    spark = gateway.jvm.org.apache.spark

    def array(kind: Any, values: Sequence[Any]) -> Any:
        made = gateway.new_array(kind, len(values))
        for number, value in enumerate(values):
            made[number] = value
        return made

    # Looked up once: each name costs a call to the JVM.
    leaf, inner, split = spark.ml.tree.LeafNode, spark.ml.tree.InternalNode, spark.ml.tree.ContinuousSplit
    tree, double = spark.ml.regression.DecisionTreeRegressionModel, gateway.jvm.double
    statistics = spark.mllib.tree.impurity.VarianceCalculator(array(double, STATISTICS), ROW_COUNT)

    def made(nodes: Sequence[_Node], number: int = 0) -> Any:
        node = nodes[number]
        if node.left == NO_CHILD:
            return leaf(node.prediction, 0.0, statistics)
        children = made(nodes, node.left), made(nodes, node.right)
        return inner(0.0, 0.0, node.gain, *children, split(node.feature, node.split), statistics)

    roots = array(tree, [tree(made(nodes), features) for nodes in trees])
    weights = array(double, [TREE_WEIGHT] * len(trees))
    return GBTClassificationModel(spark.ml.classification.GBTClassificationModel(uid, roots, weights, features))


def _made_of_files(uid: str, trees: Sequence[Sequence[_Node]], features: int, folder: str) -> "GBTClassificationModel":
    """Written to `folder` as Spark's `save` does, by Spark, and loaded: a Connect client has no JVM of its own."""
    from pyspark.ml.classification import GBTClassificationModel

    spark = SparkSession.active()

    def described(kind: str, uid: str, **more: Any) -> str:
        content = {"class": f"org.apache.spark.ml.{kind}", "timestamp": 0, "sparkVersion": spark.version, "uid": uid}
        # The impurity says how the statistics of a node are to be read; what is not named keeps its default.
        return json.dumps(content | {"paramMap": {}, "defaultParamMap": {"impurity": "variance"}} | more)

    model = described("classification.GBTClassificationModel", uid, numFeatures=features, numTrees=len(trees))
    heads = [
        (number, described("regression.DecisionTreeRegressionModel", f"{uid}_{number}"), TREE_WEIGHT)
        for number in range(len(trees))
    ]
    nodes = [(tree, _as_saved(number, node)) for tree, of in enumerate(trees) for number, node in enumerate(of)]
    written = (
        ("metadata", "text", [(model,)], "value string"),
        ("treesMetadata", "parquet", heads, "treeID int, metadata string, weights double"),
        ("data", "parquet", nodes, f"treeID int, nodeData struct<{SAVED_NODE}>"),
    )
    for name, kind, rows, schema in written:
        spark.createDataFrame(rows, schema).coalesce(1).write.format(kind).save(f"{folder}/{name}")
    return GBTClassificationModel.load(folder)


def _as_saved(number: int, node: _Node) -> tuple[Any, ...]:
    split = (node.feature, [] if node.left == NO_CHILD else [node.split], -1)
    return number, node.prediction, 0.0, STATISTICS, ROW_COUNT, node.gain, node.left, node.right, split

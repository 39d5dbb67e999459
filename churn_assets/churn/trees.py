"""A fitted model as plain trees: everything that decides a score and an alert, exactly, and scored without Spark ML.

Who learns the trees, where their text is kept and how they become a Spark pipeline does not belong here.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from churn_assets.churn.errors import UnexportableModelError
from churn_assets.churn.intervals import Floats

LEAF = -1


@dataclass(frozen=True)
class Node:
    """A node on its way into a tree. Without children it is a leaf; `gain` is what a split gains, times its rows."""

    value: float | None = None
    feature: int = LEAF
    split: float | None = None
    left: int = LEAF
    right: int = LEAF
    gain: float = 0.0


@dataclass(frozen=True)
class Tree:
    """One tree as arrays with an entry per node, the root first and each left child right after its parent.

    A row goes left where its value of feature number `feature` is at most `split`. At a leaf `feature`, `left` and
    `right` are LEAF and `split` is NaN; elsewhere `value`, the leaf's prediction, is NaN. gain: what each split gains,
    times its rows; 0 where it is not known, and at leaves.
    """

    weight: float
    feature: NDArray[np.intp]
    split: Floats
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    value: Floats
    gain: Floats

    @staticmethod
    def of(weight: float, nodes: Iterable[Node]) -> "Tree":
        entries = list(nodes)

        def floats(name: str) -> Floats:
            return np.array([getattr(node, name) for node in entries], dtype=np.float64)

        def numbers(name: str) -> NDArray[np.intp]:
            return np.array([getattr(node, name) for node in entries], dtype=np.intp)

        return Tree(
            weight,
            numbers("feature"),
            floats("split"),
            numbers("left"),
            numbers("right"),
            floats("value"),
            floats("gain"),
        )

    def leaves(self, values: Floats) -> NDArray[np.intp]:
        """The leaf that each row of `values`, (rows, features) without NaN, comes to."""
        node = np.zeros(len(values), dtype=np.intp)
        row = np.arange(len(values))
        while len(row := row[self.feature[node[row]] >= 0]):
            node[row] = self._children(node[row], values, row)
        return node

    def visits(self, values: Floats) -> NDArray[np.int64]:
        """How many rows of `values` (rows, features) come through each node."""
        counts = np.zeros(len(self.feature), dtype=np.int64)
        row, node = np.arange(len(values)), np.zeros(len(values), dtype=np.intp)
        while len(row):
            counts += np.bincount(node, minlength=len(counts))
            is_inner = self.feature[node] >= 0
            row, node = row[is_inner], node[is_inner]
            node = self._children(node, values, row)
        return counts

    def _children(self, node: NDArray[np.intp], values: Floats, row: NDArray[np.intp]) -> NDArray[np.intp]:
        is_left = values[row, self.feature[node]] <= self.split[node]
        return np.where(is_left, self.left[node], self.right[node])


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient-boosted trees over named features: the model that is trained, judged, logged and served."""

    features: tuple[str, ...]
    trees: tuple[Tree, ...]

    def margins(self, values: Floats) -> Floats:
        """Half the log-odds of churn of each row of `values`, (rows, features) without NaN.

        The trees are added up one after the other, so that no machine and no number of rows changes a sum.
        """
        margins = np.zeros(len(values))
        for tree in self.trees:
            margins += tree.weight * tree.value[tree.leaves(values)]
        return margins

    def probabilities(self, values: Floats) -> Floats:
        """The probability of churn of each row of `values`, (rows, features) without NaN."""
        with np.errstate(over="ignore"):
            return 1 - 1 / (1 + np.exp(2 * self.margins(values)))

    def probability(self) -> Column:
        """The probability of churn of a row with the features as numbers.

        They may be numbers of any kind. The query that reads it fails where one is null or NaN, with a message that
        names it.
        """

        def scored(*columns: pa.Array) -> pa.Array:
            values = np.column_stack([_doubles(column) for column in columns])
            unknown = np.isnan(values).any(axis=0)
            if unknown.any():
                name = self.features[int(unknown.argmax())]
                raise ValueError(f"feature {name} is null or NaN: it has to be known to score the row")
            return pa.array(self.probabilities(values))

        # Its stubs know no function of any number of columns.
        score = cast(Any, arrow_udf)(scored, "double")
        probability: Column = score(*[F.col(name) for name in self.features])
        return probability

    def importances(self) -> dict[str, float]:
        """Each feature's share (0 to 1, summing to 1) of what all splits gain; all 0 where there is no split."""
        gains = np.zeros(len(self.features))
        for tree in self.trees:
            of_tree = np.zeros(len(self.features))
            is_split = tree.feature >= 0
            np.add.at(of_tree, tree.feature[is_split], tree.gain[is_split])
            gains += of_tree
        total = float(gains.sum())
        return dict(zip(self.features, (gains / total if total else gains).tolist(), strict=True))


def exported_trees(model: BoostedTrees, threshold: float | None) -> str:
    """The model and its threshold as one line of JSON, the same text for the same model on any machine.

    Keys: `features`, their names in the trees' order; `threshold`; `trees`, each as `Tree`, with null for NaN and
    without gains. The margin of a row is the sum over the trees of weight times prediction, its probability of churn
    1 - 1 / (1 + exp(2 margin)). Numbers are the shortest text that reads back as the same double.
    """
    content = {
        "features": list(model.features),
        "threshold": None if threshold is None else float(threshold),
        "trees": [
            {
                "weight": tree.weight,
                "feature": tree.feature.tolist(),
                "split": _or_null(tree.split),
                "left": tree.left.tolist(),
                "right": tree.right.tolist(),
                "value": _or_null(tree.value),
            }
            for tree in model.trees
        ],
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def imported_trees(exported: str) -> BoostedTrees:
    """The model of the text of `exported_trees`; its gains are not known."""
    content = json.loads(exported)
    return BoostedTrees(tuple(content["features"]), tuple(_imported(tree) for tree in content["trees"]))


def model_digest(model: BoostedTrees, threshold: float | None) -> str:
    """SHA-256 of everything that decides an alert, which is what `exported_trees` writes down."""
    return hashlib.sha256(exported_trees(model, threshold).encode()).hexdigest()


def trees_of_saved_nodes(
    features: Sequence[str], rows: Iterable[Mapping[str, Any]], weights: Sequence[float]
) -> BoostedTrees:
    """The model in the node data of a saved Spark model: treeID and nodeData as Spark names them, in any order.

    Raises UnexportableModelError for a categorical split, for a feature or a number that is none, and where the nodes
    do not add up to one tree for each of `weights`.
    """
    nodes: dict[int, list[tuple[int, Node]]] = {number: [] for number in range(len(weights))}
    for row in rows:
        number, saved = row["treeID"], row["nodeData"]
        nodes.setdefault(number, []).append((saved["id"], _of_saved(saved, len(features))))
    if len(nodes) != len(weights):
        raise unreadable("its trees and their weights differ in number", [f"{len(nodes)} and {len(weights)}"])
    if not np.isfinite(weights).all():
        raise unreadable("it holds a number that is none", [f"weights {list(weights)}"])
    trees = []
    for number, weight in enumerate(weights):
        of_tree = sorted(nodes[number], key=itemgetter(0))
        if [each for each, _ in of_tree] != list(range(len(of_tree))) or not _is_tree([node for _, node in of_tree]):
            raise unreadable(f"the nodes of tree {number} are no tree", [f"nodes {[each for each, _ in of_tree]}"])
        trees.append(Tree.of(weight, [node for _, node in of_tree]))
    return BoostedTrees(tuple(features), tuple(trees))


def unreadable(reason: str, problems: Sequence[str]) -> UnexportableModelError:
    return UnexportableModelError(
        f"The model cannot be exported: {reason}.",
        problems,
        next_step="train with models.fit_churn_model under the pyspark version of constraints.txt",
    )


def _of_saved(saved: Mapping[str, Any], features: int) -> Node:
    if saved["leftChild"] == LEAF:
        return Node(value=_finite(saved["prediction"], saved))
    split = saved["split"]
    if split["numCategories"] != -1 or len(split["leftCategoriesOrThreshold"]) != 1:
        raise unreadable("it splits by categories", [f"feature {split['featureIndex']}"])
    if not 0 <= split["featureIndex"] < features:
        raise unreadable("it splits by a feature that it has not", [f"feature {split['featureIndex']} of {features}"])
    return Node(
        feature=split["featureIndex"],
        split=_finite(split["leftCategoriesOrThreshold"][0], saved),
        left=saved["leftChild"],
        right=saved["rightChild"],
        gain=float(saved["gain"]) * float(saved["impurityStats"][0]),
    )


def _finite(value: float, saved: Mapping[str, Any]) -> float:
    if not math.isfinite(value):
        raise unreadable("it holds a number that is none", [f"node {saved['id']}: {value}"])
    return float(value)


def _is_tree(nodes: Sequence[Node]) -> bool:
    """Whether there is a root and every other node is the child of one before it, a left one of the one before it."""
    splits = [(number, node) for number, node in enumerate(nodes) if node.feature != LEAF]
    is_in_order = all(number + 1 == node.left < node.right for number, node in splits)
    children = sorted(child for _, node in splits for child in (node.left, node.right))
    return is_in_order and [0, *children] == list(range(len(nodes)))


def _doubles(column: pa.Array) -> Floats:
    # The nearest double to a decimal: neither Arrow's nor Sail's own cast always finds it, reading its digits does
    # (of decimals of 20 digits and more a quarter were beside it, 2026-11-28).
    digits = column.cast(pa.string()) if pa.types.is_decimal(column.type) else column
    return np.asarray(digits.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _imported(tree: Mapping[str, Any]) -> Tree:
    split, value = (np.array(tree[name], dtype=np.float64) for name in ("split", "value"))
    feature, left, right = (np.array(tree[name], dtype=np.intp) for name in ("feature", "left", "right"))
    return Tree(tree["weight"], feature, split, left, right, value, np.zeros(len(feature)))


def _or_null(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]

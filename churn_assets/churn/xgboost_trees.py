"""The default learner: XGBoost finds the trees, in this process. docs/decisions/0013."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError
from churn_assets.churn.trees import LEAF, BoostedTrees, Node, Tree

if TYPE_CHECKING:
    from xgboost import Booster

LARGEST = float(np.finfo(np.float32).max)
TREE_WEIGHT = 0.5
KEYS = ("customer_id", "as_of")
# A column of rows that do not all count for one.
WEIGHT = "weight"
# Of rows of which some choose the threshold, and of some of which the outcome is not over.
PART, IS_BEGUN = "part", "is_begun"
# Who teaches, who chooses the threshold by outcome, and whose outcome nobody knows: an alert is counted of them.
TEACHES, VALIDATES, IS_CURRENT = range(3)
# A customer of a date with a weight may be there with either label.
ORDER = (*KEYS, "label")


class Rows(NamedTuple):
    """Rows to learn from, by customer_id, as_of and label.

    values: (rows, features), in single precision as `labels` are; weights: in double precision, None where each row
    weighs 1; is_begun: whose outcome is not over, None where that of all is.
    """

    values: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None
    is_begun: np.ndarray | None = None


def collected(rows: DataFrame, features: Sequence[str]) -> Rows:
    """All of `rows` (KEYS, `features`, label and perhaps weight). Raises UntrainableError for an unknown value."""
    (all_of_them,) = _collected(rows, features, ())
    return all_of_them


def collected_apart(rows: DataFrame, features: Sequence[str]) -> tuple[Rows, Rows, Rows]:
    """Those of `rows` that teach, that validate and that are current. In: as `collected`, `part`, perhaps is_begun.

    Raises UntrainableError for an unknown value.
    """
    learned, validation, current = _collected(rows, features, (TEACHES, VALIDATES, IS_CURRENT))
    return learned, validation, current


def _collected(rows: DataFrame, features: Sequence[str], parts: Sequence[int]) -> list[Rows]:
    """The rows of each of `parts`, or all of them.

    Half of what doubles would take, and XGBoost rounds to it anyway; its bins and sums depend on the order of the rows,
    which is made here and inherited from nobody. For a moment rows, keys and matrix are there together: all columns
    of a batch share their memory, so none can be freed before the last.
    """
    columns = {name: in_single_range(name) for name in features} | {"label": F.col("label")}
    others = [name for name in (WEIGHT, IS_BEGUN, PART) if name in rows.columns]
    singles = [value.cast("float").alias(name) for name, value in columns.items()]
    table = rows.select(*KEYS, *singles, *others).toArrow()
    order = pc.sort_indices(table.select(ORDER), sort_keys=[(key, "ascending") for key in ORDER])
    orders = [order.filter(pc.equal(table[PART].take(order), part)) for part in parts] or [order]
    return [_taken(table, each, features) for each in orders]


def _taken(table: pa.Table, order: pa.Array, features: Sequence[str]) -> Rows:
    values = np.empty((len(order), len(features)), dtype=np.float32)
    for number, name in enumerate(features):
        values[:, number] = table[name].take(order).to_numpy()
    require_known(dict(zip(features, np.isnan(values).sum(axis=0).tolist(), strict=True)))
    of = {
        name: table[name].take(order).to_numpy() for name in ("label", WEIGHT, IS_BEGUN) if name in table.column_names
    }
    return Rows(values, of["label"], of.get(WEIGHT), of.get(IS_BEGUN))


def require_known(unknown: Mapping[str, int]) -> None:
    """Raises UntrainableError where a feature is unknown, null or NaN, in so many rows."""
    if any(unknown.values()):
        raise UntrainableError(
            "The training rows hold unknown features.",
            [f"{name}: {count} null or NaN" for name, count in unknown.items() if count],
            next_step="give every feature a value in every row",
        )


def boosted(
    values: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    *,
    rounds: int,
    offsets: np.ndarray | None = None,
    **params: Any,
) -> "Booster":
    """XGBoost's trees of the rows, learned in this process by one thread, so that no machine's cores change a sum.

    offsets: log-odds that each row begins with beside those of `base_score`, and that are no part of what is learned.
    Raises UnavailableEstimatorError as `loaded_xgboost`.
    """
    xgboost = loaded_xgboost()
    margins = None if offsets is None else log_odds_of(params["base_score"]) + offsets
    # Its bins take a byte for each value; a DMatrix would keep eight for it as well. The trees are the same to the last
    # digit (3 million rows of 10 features: 197 MB beside the matrix instead of 449, 2026-11-28).
    rows = xgboost.QuantileDMatrix(values, labels, weight=weights, base_margin=margins, nthread=1)
    booster: Booster = xgboost.train({"objective": "binary:logistic", "nthread": 1, **params}, rows, rounds)
    return booster


def loaded_xgboost() -> Any:
    """The package. Raises UnavailableEstimatorError where it is not installed or cannot load its library."""
    try:
        import xgboost
    except Exception as broken:
        # Where its library cannot be loaded it raises a class of its own, which nobody can name before the import.
        raise UnavailableEstimatorError(
            'estimator = "xgboost" needs the package of that name, which cannot be loaded.',
            [str(broken)],
            next_step='see what `churn-assets doctor` says of it, or train with estimator = "gbt"',
        ) from broken
    return xgboost


def in_single_range(name: str) -> Column:
    """The column within what a single-precision number holds, null and NaN as they are; XGBoost refuses rows beyond.

    It rounds values to single precision, and no split of it can tell the ones beyond from the last within.
    """
    value = F.col(name)
    within = F.when((value > LARGEST) & ~F.isnan(value), LARGEST).when(value < -LARGEST, -LARGEST)
    return within.otherwise(value)


def trees_of(booster: "Booster", features: Sequence[str]) -> BoostedTrees:
    """A binary:logistic booster over `features` as plain trees.

    Their margin is half the log-odds, so every tree weighs one half; the first is a leaf of XGBoost's base score.
    Splits and leaves are XGBoost's exactly; it adds the leaves up in single precision, which is all that the margins
    differ by.
    """
    base = Tree.of(TREE_WEIGHT, [Node(value=_base_margin(booster))])
    return BoostedTrees(tuple(features), (base, *split_trees(booster)))


def split_trees(booster: "Booster") -> tuple[Tree, ...]:
    """The trees of a booster by themselves, without what every row begins with."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    described = learner["gradient_booster"]["model"]["trees"]
    return tuple(Tree.of(TREE_WEIGHT, _nodes(tree)) for tree in described)


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
    return log_odds_of(base_score.strip("[]"))


def log_odds_of(base_score: str | float) -> float:
    """As XGBoost has it, in single precision."""
    probability = float(np.float32(base_score))
    return math.log(probability / (1 - probability))


def _nodes(tree: Mapping[str, Any]) -> list[Node]:
    """The nodes of an XGBoost tree, numbered anew: its own numbers may have gaps where it has pruned."""
    nodes: list[Node] = []

    def add(at: int) -> int:
        number, left, split = len(nodes), tree["left_children"][at], tree["split_conditions"][at]
        if left == LEAF:
            nodes.append(Node(value=float(np.float32(split))))
            return number
        node = Node(
            gain=float(tree["loss_changes"][at]),
            feature=tree["split_indices"][at],
            split=largest_on_the_left(split),
        )
        nodes.append(node)
        nodes[number] = replace(node, left=add(left), right=add(tree["right_children"][at]))
        return number

    add(0)
    return nodes

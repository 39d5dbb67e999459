"""What a churn model begins with: the purchase model's log-odds of churn, as plain trees over features of the panel.

Fitting the purchase model itself, and learning what it does not know, belong elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from churn_assets.churn.intervals import Floats
from churn_assets.churn.purchase_model import PurchaseHistories, PurchaseModel
from churn_assets.churn.trees import BoostedTrees, Node, Tree
from churn_assets.churn.xgboost_trees import TREE_WEIGHT, boosted, split_trees

# All that the purchase model asks of a customer.
ASKED_FEATURES = ("orders_ever", "recency_days", "tenure_days")
# And what its trees split by: the silence at the customer's own pace is a product, which trees find hard to rebuild.
PRIOR_FEATURES = (*ASKED_FEATURES, "missed_orders")
# Beyond one in a thousand, and the opposite, log-odds would be driven by customers about whom nobody doubts.
LEAST_CHANCE = 1e-3
# Of the trees that stand for the purchase model: why these, docs/decisions/0022.
ROUNDS, DEPTH, STEP_SIZE, LEAF_SHARE = 10, 6, 0.5, 0.0005
MOST_NEWTON_STEPS = 50


@dataclass(frozen=True)
class PurchasePrior:
    """A fitted purchase model, and the days of the outcome window that it is asked about."""

    purchases: PurchaseModel
    days: int

    def log_odds(self, values: Floats) -> Floats:
        """The log-odds of no purchase within `days`, of each row of `values`, (rows, ASKED_FEATURES)."""
        orders, silence, age = values.T
        repeats = np.maximum(orders - 1, 0)
        # In single precision a silence can exceed the age by a rounding.
        recency = np.where(repeats > 0, np.maximum(age - silence, 0), 0.0)
        chance = self.purchases.no_purchase(PurchaseHistories(repeats, recency, age), self.days)
        bounded = np.clip(chance, LEAST_CHANCE, 1 - LEAST_CHANCE)
        return np.log(bounded) - np.log1p(-bounded)


def can_begin_with(features: Sequence[str]) -> bool:
    """Whether these features hold all that the purchase model's trees split by."""
    return set(PRIOR_FEATURES) <= set(features)


def prior_trees(
    prior: PurchasePrior, values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, features: Sequence[str]
) -> tuple[Tree, ...]:
    """The prior as trees over `features`: its log-odds, moved and stretched to the log-odds of the rows' labels.

    In: `values`, (rows, features); `labels` and `weights` of them. No tree learns from a label; the first is a leaf.
    The purchase model knows no crisis and no season; how far off it is on the whole, two numbers tell (Platt, 1999).
    """
    places = np.array([features.index(name) for name in PRIOR_FEATURES])
    told = prior.log_odds(values[:, places[: len(ASKED_FEATURES)]].astype(np.float64))
    middle = float(told.mean())
    booster = boosted(
        values[:, places],
        told - middle,
        None,
        objective="reg:squarederror",
        rounds=ROUNDS,
        max_depth=DEPTH,
        learning_rate=STEP_SIZE,
        min_child_weight=LEAF_SHARE * len(values),
        reg_lambda=0.0,
        base_score=0.0,
    )
    trees = [
        replace(tree, feature=np.where(tree.feature >= 0, places[tree.feature], -1)) for tree in split_trees(booster)
    ]
    approximated = 2 * BoostedTrees(tuple(features), tuple(trees)).margins(values.astype(np.float64)) + middle
    intercept, slope = calibrated(approximated, labels, weights)
    churn_rate = float(np.average(labels, weights=weights))
    # A gain in squared log-odds counts p (1 - p) times as much in the likelihood of the labels.
    scale = slope * slope * churn_rate * (1 - churn_rate)
    moved = Tree.of(TREE_WEIGHT, [Node(value=intercept + slope * middle)])
    return moved, *(replace(tree, weight=tree.weight * slope, gain=tree.gain * scale) for tree in trees)


def calibrated(log_odds: Floats, labels: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of `labels` on `log_odds`, by Newton's method.

    A slope of 0 where the log-odds are all the same, or the labels tell them apart perfectly.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    centre = float(log_odds.mean())
    columns = np.column_stack([np.ones(len(log_odds)), log_odds - centre])
    rate = float(np.average(labels, weights=weights))
    flat = float(np.log(rate / (1 - rate)))
    found = np.array([flat, 0.0])
    for _ in range(MOST_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-columns @ found))
        slope = (columns * (weights * (labels - chance))[:, np.newaxis]).sum(axis=0)
        curvature = (columns.T * (weights * chance * (1 - chance))) @ columns
        if np.linalg.cond(curvature) > 1e12:
            return flat, 0.0
        step = np.linalg.solve(curvature, slope)
        found = found + step
        if np.abs(step).max() < 1e-10:
            return float(found[0] - found[1] * centre), float(found[1])
    return flat, 0.0

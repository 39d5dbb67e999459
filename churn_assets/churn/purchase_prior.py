"""What is known of churn without a label: the purchase model's log-odds as plain trees, averaged with learned ones.

Fitting the purchase model itself, and learning from labels, belong elsewhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from churn_assets.churn.intervals import Floats
from churn_assets.churn.purchase_model import PurchaseHistories, PurchaseModel
from churn_assets.churn.ranking import roc_auc
from churn_assets.churn.recalibration import calibrated
from churn_assets.churn.trees import LEAF, BoostedTrees, Node, Tree
from churn_assets.churn.xgboost_trees import LARGEST, TREE_WEIGHT, boosted, split_trees

# All that the purchase model asks of a customer.
ASKED_FEATURES = ("orders_ever", "recency_days", "tenure_days", "delay_minutes_at_last_order")
# And what its trees split by: the silence at the customer's own pace is a product of the first three, which splits
# rebuild badly. Without it trees of the same size ranked 0.010 worse on the demo (PR-AUC, 2026-11-28).
PRIOR_FEATURES = (*ASKED_FEATURES, "missed_orders")
# The labels of the few weeks that had a crisis in them teach what leaving looks like then: learned trees that split by
# it too ranked 0.0025 worse on the demo a month after one (PR-AUC, mean of ten seeds, 2026-11-29).
PRIORS_ALONE = ("delay_minutes_at_last_order",)
# Of the trees that stand for the purchase model, and how many customers they learn its answers from.
ROUNDS, DEPTH, STEP_SIZE, LEAF_SHARE, POINTS = 10, 6, 0.5, 0.0003, 100_000
# Beyond one in a thousand, and the opposite, log-odds would be driven by customers about whom nobody doubts.
LEAST_CHANCE = 1e-3
# Some of these customers waited so long that leaving for it is likelier than leaving for nothing by up to this factor.
MOST_TIMES_USUAL = 20
MINUTES = 60
SEED = 42


@dataclass(frozen=True)
class PurchasePrior:
    """A fitted purchase model, and the days of the outcome window that it is asked about."""

    purchases: PurchaseModel
    days: int

    def log_odds(self, asked: Floats) -> Floats:
        """The log-odds of no purchase within `days`, of each row of `asked`, (rows, ASKED_FEATURES)."""
        chance = self.purchases.no_purchase(histories_of_asked(asked), self.days)
        bounded = np.clip(chance, LEAST_CHANCE, 1 - LEAST_CHANCE)
        return np.log(bounded) - np.log1p(-bounded)

    def stays_silent(self, asked: Floats, known_days: Floats) -> Floats:
        """The chance of no purchase in the rest of `days`, of each row of `asked`, silent in the first `known_days`."""
        return self.purchases.no_purchase(histories_of_asked(asked, known_days), self.days - known_days)

    def tells_more_than_silence(self, asked: Floats, labels: np.ndarray) -> bool:
        """Whether it ranks the `labels` of `asked`, (rows, ASKED_FEATURES), better than recency_days does: by ROC-AUC.

        That is the silence so far, of which it is made. It takes purchases to come at random; where they come at
        regular times the silence alone tells more. False where the labels are all the same.
        """
        silence = asked[:, ASKED_FEATURES.index("recency_days")]
        by_model, by_silence = roc_auc(self.log_odds(asked), labels), roc_auc(silence, labels)
        return by_model is not None and by_silence is not None and by_model > by_silence


def histories_of_asked(asked: Floats, silent_days: float | Floats = 0.0) -> PurchaseHistories:
    """Of rows of ASKED_FEATURES, after so many more days without a purchase."""
    # Who meets the contract has none below 0.
    orders, silence, age, delay = np.maximum(asked, 0).T
    repeats = np.maximum(orders - 1, 0)
    # In single precision a silence can exceed the age by a rounding.
    recency = np.where(repeats > 0, np.maximum(age - silence, 0), 0.0)
    waited = delay / MINUTES
    return PurchaseHistories(repeats, recency, age + silent_days, waited, waited)


def prior_of(purchases: PurchaseModel | None, days: int) -> PurchasePrior | None:
    """The prior of a fitted purchase model, for an outcome window of `days`; None where none could be fitted."""
    return None if purchases is None else PurchasePrior(purchases, days)


def is_averaged(features: Sequence[str], prior: PurchasePrior | PurchaseModel | None) -> bool:
    """Whether a model of these features is averaged with a prior: there is one, and they hold what its trees ask."""
    return prior is not None and set(PRIOR_FEATURES) <= set(features)


def learned_features(features: Sequence[str], prior: PurchasePrior | None) -> tuple[str, ...]:
    """Those of `features` that labels teach: all of them, or where the model is averaged all but PRIORS_ALONE."""
    alone = PRIORS_ALONE if is_averaged(features, prior) else ()
    return tuple(name for name in features if name not in alone)


def averaged(
    learned: BoostedTrees,
    prior: PurchasePrior,
    values: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    features: Sequence[str],
) -> BoostedTrees:
    """The mean of the log-odds of both, as the trees of both at half their weight, over `features`.

    In: of the rows that were learned from the `values` of `features`, the `labels` and the `weights`. What splits
    gain is of two kinds that cannot be added; each half of the log-odds counts for half of all importance.
    """
    known = prior_trees(prior, values, labels, weights, features)
    taught = _over(learned.trees, [list(features).index(name) for name in learned.features])
    gained, gained_by_known = (sum(float(tree.gain.sum()) for tree in trees) for trees in (taught, known))
    scale = gained / gained_by_known if gained and gained_by_known else 1.0
    trees = (*(replace(tree, gain=tree.gain * scale) for tree in known), *taught)
    return BoostedTrees(tuple(features), tuple(replace(tree, weight=tree.weight / 2) for tree in trees))


def _over(trees: Iterable[Tree], places: ArrayLike) -> tuple[Tree, ...]:
    """The trees over other features, of which the one that they call by its number is at its place in `places`."""
    at = np.asarray(places)
    return tuple(replace(tree, feature=np.where(tree.feature >= 0, at[tree.feature], LEAF)) for tree in trees)


def prior_trees(
    prior: PurchasePrior, values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, features: Sequence[str]
) -> tuple[Tree, ...]:
    """The prior as trees over `features`: its log-odds, moved and stretched to the log-odds of the rows' labels.

    In: `values`, (rows, features), `labels` and `weights` of rows. No tree learns from a label; the first is a leaf.
    The purchase model knows no crisis and no season; how far off it is on the whole, two numbers tell (Platt, 1999).
    """
    places = np.array([list(features).index(name) for name in PRIOR_FEATURES])
    points = _points(values, places[: len(ASKED_FEATURES)], prior.purchases)
    told = prior.log_odds(points)
    middle = float(told.mean())
    orders, silence, age, _ = points.T
    with np.errstate(over="ignore"):
        missed = silence * orders / np.maximum(age, np.finfo(float).tiny)
    booster = boosted(
        np.minimum(np.column_stack([points, missed]), LARGEST).astype(np.float32),
        told - middle,
        None,
        objective="reg:squarederror",
        rounds=ROUNDS,
        max_depth=DEPTH,
        learning_rate=STEP_SIZE,
        min_child_weight=LEAF_SHARE * len(points),
        reg_lambda=0.0,
        base_score=0.0,
    )
    trees = _over(split_trees(booster), places)
    said = 2 * BoostedTrees(tuple(features), trees).margins(values) + middle
    intercept, slope = calibrated(said, labels, weights)
    moved = Tree.of(TREE_WEIGHT, [Node(value=intercept + slope * middle)])
    return moved, *(replace(tree, weight=tree.weight * slope) for tree in trees)


def _points(values: np.ndarray, asked_places: NDArray[np.intp], purchases: PurchaseModel) -> Floats:
    """POINTS customers to ask the purchase model about: some of the rows, or all of them and others like them.

    Its answer is known for whoever could be: so trees of it need not be as coarse as few rows would make them, nor fit
    to their accidents. The others have somebody else's silence, up to a quarter more or less of their own age, and one
    in two of them waited as long as few did yet: a crisis is no reason for the purchase model's answer to be unknown.
    """
    usual = purchases.a / (purchases.a + purchases.b)
    longest = MINUTES * MOST_TIMES_USUAL * usual / purchases.waiting if purchases.waiting else 0.0
    some = values[:: max(1, len(values) // POINTS)]
    asked = np.maximum(some[:, asked_places].astype(np.float64), 0)
    random, found = np.random.default_rng(SEED), [asked]
    for _ in range(-(-POINTS // len(asked)) - 1):
        orders, age = asked[:, 0], asked[:, 2] * random.uniform(0.8, 1.25, len(asked))
        silence = np.minimum(asked[random.permutation(len(asked)), 1], age)
        # Who ordered once has been silent ever since.
        delay = asked[:, 3]
        if longest:
            delay = np.where(random.random(len(asked)) < 0.5, delay, longest * random.random(len(asked)) ** 2)
        found.append(np.column_stack([orders, np.where(orders > 1, silence, age), age, delay]))
    return np.concatenate(found)

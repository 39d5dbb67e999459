"""What is known of churn without a label: the purchase model's log-odds as plain trees, averaged with learned ones.

Fitting the purchase model itself, and learning from labels, belong elsewhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from churn_assets.churn.intervals import Floats
from churn_assets.churn.purchase_model import PurchaseHistories, PurchaseModel
from churn_assets.churn.ranking import roc_auc
from churn_assets.churn.recalibration import calibrated
from churn_assets.churn.trees import LEAF, BoostedTrees, Node, Tree
from churn_assets.churn.xgboost_trees import LARGEST, TREE_WEIGHT, Rows, boosted, split_trees

if TYPE_CHECKING:
    import pyarrow as pa

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
# Of what rows begin with: further ones are where another processor's logarithms end.
DIGITS = 6
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

    def waiting_log_odds(self, asked: Floats) -> Floats:
        """What having waited adds to `log_odds`; 0 of who did not."""
        without = replace(self, purchases=replace(self.purchases, waiting=0.0))
        return self.log_odds(asked) - without.log_odds(asked)

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


@dataclass(frozen=True)
class ScaledPrior:
    """The prior on the scale of labels: the log-odds of label 1 are intercept + slope times its own (Platt, 1999).

    The purchase model knows no crisis and no season; how far off it is on the whole, these two numbers tell. unseen: of
    what waiting adds the share that labels have not shown yet, and that the learned half begins with: 0 to 1.
    """

    prior: PurchasePrior
    intercept: float
    slope: float
    unseen: float = 0.0

    def offsets(self, asked: Floats) -> Floats | None:
        """The log-odds that the learned half begins with, of each row of `asked`, (rows, ASKED_FEATURES)."""
        if not self.unseen:
            return None
        return (self.slope * self.unseen * self.prior.waiting_log_odds(asked)).round(DIGITS)

    def doubled(self, asked: Floats) -> Floats:
        """The log-odds whose half, on the scale of the labels, is in the mean: with what the other half begins with."""
        told = self.prior.log_odds(asked)
        return told + self.unseen * self.prior.waiting_log_odds(asked) if self.unseen else told


def scaled_prior(
    prior: PurchasePrior,
    rows: Rows,
    weights: np.ndarray | None,
    features: Sequence[str],
    *,
    takes_offsets: bool = True,
) -> ScaledPrior:
    """The prior on the scale of the labels of `rows` of `features`, which weigh `weights` to who learns from them.

    takes_offsets: whether the learner can begin with log-odds. In the first weeks of a crisis those of whom the outcome
    is over hardly waited. What the learned half says of waiting is then no knowledge, and the mean with it halves what
    the purchase model knows. So the share is by how much less the log-odds that waiting adds differ among them than
    among those whose outcome has begun (docs/decisions/0053).
    """
    known = asked_of(rows.values, features)
    intercept, slope = calibrated(prior.log_odds(known), rows.labels, weights)
    if not takes_offsets or rows.is_begun is None or not rows.is_begun.any() or not prior.purchases.waiting:
        return ScaledPrior(prior, intercept, slope)
    waiting = prior.waiting_log_odds(known)
    over, begun = (
        _spread(waiting[are], None if rows.weights is None else rows.weights[are])
        for are in (~rows.is_begun, rows.is_begun)
    )
    unseen = round(max(0.0, 1 - over / begun), DIGITS) if begun else 0.0
    return ScaledPrior(prior, intercept, slope, unseen)


def _spread(values: Floats, weights: np.ndarray | None) -> float:
    """The standard deviation."""
    around = values - np.average(values, weights=weights)
    return float(np.average(around * around, weights=weights) ** 0.5)


def asked_of(values: np.ndarray, features: Sequence[str]) -> Floats:
    """ASKED_FEATURES of rows of `features`."""
    return values[:, [list(features).index(name) for name in ASKED_FEATURES]].astype(np.float64)


def asked_of_batch(batch: "pa.RecordBatch") -> Floats:
    """ASKED_FEATURES of the rows of a batch."""
    return np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in ASKED_FEATURES])


def averaged(learned: BoostedTrees, prior: ScaledPrior, values: np.ndarray, features: Sequence[str]) -> BoostedTrees:
    """The mean of the log-odds of both, as the trees of both at half their weight, over `features`.

    In: the `values` of `features` of the rows that were learned from. The learned trees are without the `offsets` they
    began with, which the other half makes up for. What splits gain is of two kinds that cannot be added; each half of
    the log-odds counts for half of all importance.
    """
    known = prior_trees(prior, values, features)
    taught = _over(learned.trees, [list(features).index(name) for name in learned.features])
    gained, gained_by_known = (sum(float(tree.gain.sum()) for tree in trees) for trees in (taught, known))
    scale = gained / gained_by_known if gained and gained_by_known else 1.0
    trees = (*(replace(tree, gain=tree.gain * scale) for tree in known), *taught)
    return BoostedTrees(tuple(features), tuple(replace(tree, weight=tree.weight / 2) for tree in trees))


def _over(trees: Iterable[Tree], places: ArrayLike) -> tuple[Tree, ...]:
    """The trees over other features, of which the one that they call by its number is at its place in `places`."""
    at = np.asarray(places)
    return tuple(replace(tree, feature=np.where(tree.feature >= 0, at[tree.feature], LEAF)) for tree in trees)


def prior_trees(prior: ScaledPrior, values: np.ndarray, features: Sequence[str]) -> tuple[Tree, ...]:
    """The prior as trees over `features`, on the scale of the labels, with what the learned half begins with.

    In: `values`, (rows, features). No tree learns from a label; the first is a leaf.
    """
    places = np.array([list(features).index(name) for name in PRIOR_FEATURES])
    points = _points(values, features, prior.prior.purchases)
    told = prior.doubled(points)
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
    moved = Tree.of(TREE_WEIGHT, [Node(value=prior.intercept + prior.slope * middle)])
    trees = _over(split_trees(booster), places)
    return moved, *(replace(tree, weight=tree.weight * prior.slope) for tree in trees)


def _points(values: np.ndarray, features: Sequence[str], purchases: PurchaseModel) -> Floats:
    """POINTS customers to ask the purchase model about: some of the rows, or all of them and others like them.

    Its answer is known for whoever could be: so trees of it need not be as coarse as few rows would make them, nor fit
    to their accidents. The others have somebody else's silence, up to a quarter more or less of their own age, and one
    in two of them waited as long as few did yet: a crisis is no reason for the purchase model's answer to be unknown.
    """
    usual = purchases.a / (purchases.a + purchases.b)
    longest = MINUTES * MOST_TIMES_USUAL * usual / purchases.waiting if purchases.waiting else 0.0
    some = values[:: max(1, len(values) // POINTS)]
    asked = np.maximum(asked_of(some, features), 0)
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

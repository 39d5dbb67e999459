"""Each feature's additive contribution to a score: SHAP values of exported trees. Pure numpy; no JVM is asked.

Lundberg et al., "From local explanations to global understanding with explainable AI for trees", Nature Machine
Intelligence 2, 2020, with path-dependent expectations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import factorial, inf

import numpy as np
from numpy.typing import NDArray

from churn_assets.churn.intervals import Floats
from churn_assets.churn.trees import Tree


@dataclass(frozen=True)
class _Leaf:
    """A leaf as a box: a row is in it if low < value <= high for each feature its path asks for.

    gains: (2 ** features, features), what each feature adds for each pattern of conditions met, most significant first.
    """

    features: NDArray[np.intp]
    low: Floats
    high: Floats
    gains: Floats


class Explainer:
    """SHAP values of a tree ensemble's margin, against the rows that `visits` were counted on (the background).

    Where a feature is not known, a tree is followed down both sides in proportion to those rows. The values of a row
    and `base`, the mean of those rows' leaves, sum to its margin: the sum over trees of weight times prediction,
    half the log-odds of churn.
    """

    def __init__(self, trees: Sequence[Tree], visits: Sequence[NDArray[np.int64]], features: int) -> None:
        self._features = features
        self._leaves: list[_Leaf] = []
        self.base = 0.0
        for tree, rows in zip(trees, visits, strict=True):
            if rows[0] == 0:
                raise ValueError("nobody was counted: there is nothing to compare with")
            self._add(tree, rows, 0, {})

    def _add(
        self, tree: Tree, rows: NDArray[np.int64], node: int, box: Mapping[int, tuple[float, float, float]]
    ) -> None:
        """box: by feature its bounds, and the share of rows that go this way where they have to decide by it."""
        feature = int(tree.feature[node])
        if feature < 0:
            value = tree.weight * float(tree.value[node])
            self.base += value * float(rows[node]) / float(rows[0])
            if box:
                self._leaves.append(_leaf(value, box))
            return
        low, high, share = box.get(feature, (-inf, inf, 1.0))
        split, here = float(tree.split[node]), int(rows[node])
        for child, bounds in ((tree.left[node], (low, min(high, split))), (tree.right[node], (max(low, split), high))):
            # Below a node nobody reached, any share will do: the share that leads there is 0.
            went = float(rows[child]) / here if here else 0.0
            self._add(tree, rows, int(child), {**box, feature: (*bounds, share * went)})

    def contributions(self, values: Floats) -> Floats:
        """(rows, features) of `values`, (rows, features) without NaN."""
        contributions = np.zeros((len(values), self._features))
        for leaf in self._leaves:
            tested = values[:, leaf.features]
            is_met = (tested > leaf.low) & (tested <= leaf.high)
            pattern = is_met @ (1 << np.arange(len(leaf.features))[::-1])
            contributions[:, leaf.features] += leaf.gains[pattern]
        return contributions


def _leaf(value: float, box: Mapping[int, tuple[float, float, float]]) -> _Leaf:
    features = sorted(box)
    low, high, shares = (np.array(column) for column in zip(*[box[feature] for feature in features], strict=True))
    return _Leaf(np.array(features, dtype=np.intp), low, high, _gains(value, shares))


def _gains(value: float, shares: Floats) -> Floats:
    """For each pattern of conditions met the Shapley value (Shapley, 1953) of each feature, in the game whose worth for
    a set of known features is `value` times the product of what is met of the known and `shares` of the others."""
    sets, counted = _game(len(shares))
    worth = np.full((len(sets), len(sets)), value)
    for is_in, share in zip(sets.T, shares, strict=True):
        worth *= np.where(is_in, is_in[:, np.newaxis], share)
    return worth @ counted


@cache
def _game(count: int) -> tuple[Floats, Floats]:
    """Of so many features every set, 1.0 for its members, and how the worth of each set counts for each feature."""
    sets = np.array(list(product((0.0, 1.0), repeat=count)))
    # How the worth with a feature more counts, of a set that has so many without it.
    of_size = [factorial(size) * factorial(count - size - 1) / factorial(count) for size in range(count)]
    sizes = sets.sum(axis=1).astype(int)[:, np.newaxis]
    with_it, without_it = np.array([0.0, *of_size])[sizes], np.array([*of_size, 0.0])[sizes]
    return sets, np.where(sets == 1, with_it, -without_it)

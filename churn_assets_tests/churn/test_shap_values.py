"""The contributions of features to a score are the Shapley values of the definition, and add up to it."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from churn_assets.churn.shap_values import Explainer
from churn_assets.churn.trees import Node, Tree, imported_trees


def some_trees(seed: int, features: int = 4, trees: int = 3, depth: int = 4) -> list[Tree]:
    """Trees whose splits may come again on the same feature further down."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(trees):
        nodes: list[Node] = []

        def grow(level: int, nodes: list[Node] = nodes) -> int:
            number = len(nodes)
            is_leaf = level == depth or (level > 1 and random.random() < 0.3)
            nodes.append(Node(value=float(random.normal())))
            if not is_leaf:
                feature, split = int(random.integers(features)), round(float(random.normal()), 1)
                nodes[number] = Node(feature=feature, split=split, left=grow(level + 1), right=grow(level + 1))
            return number

        grow(0)
        made.append(Tree.of(float(random.uniform(0.1, 1)), nodes))
    return made


def expected(tree: Tree, rows: Any, row: Any, known: frozenset[int], node: int = 0) -> float:
    """What a tree predicts of a row of which only some features are known, by walking down it."""
    feature = tree.feature[node]
    if feature < 0:
        return float(tree.value[node])
    left, right = int(tree.left[node]), int(tree.right[node])
    if feature in known:
        return expected(tree, rows, row, known, left if row[feature] <= tree.split[node] else right)
    if not rows[node]:
        return 0.0
    return sum(rows[child] / rows[node] * expected(tree, rows, row, known, child) for child in (left, right))


def shapley(trees: list[Tree], visits: list[Any], row: Any, features: int) -> list[float]:
    """By the definition: over all sets of the other features."""

    def worth(known: frozenset[int]) -> float:
        return sum(t.weight * expected(t, rows, row, known) for t, rows in zip(trees, visits, strict=True))

    values = []
    for feature in range(features):
        others = [other for other in range(features) if other != feature]
        value = 0.0
        for size in range(features):
            chance = math.factorial(size) * math.factorial(features - size - 1) / math.factorial(features)
            for chosen in combinations(others, size):
                known = frozenset(chosen)
                value += chance * (worth(known | {feature}) - worth(known))
        values.append(value)
    return values


@pytest.mark.parametrize("seed", range(5))
def test_contributions_are_the_shapley_values_of_the_definition(seed: int) -> None:
    random, trees = np.random.default_rng(seed), some_trees(seed)
    # With two decimals rows meet the splits themselves, where they go left.
    background, rows = random.normal(size=(60, 4)).round(1), random.normal(size=(25, 4)).round(1)
    visits = [tree.visits(background) for tree in trees]
    explainer = Explainer(trees, visits, 4)
    found = explainer.contributions(rows)
    for row, contributions in zip(rows, found, strict=True):
        assert contributions == pytest.approx(shapley(trees, visits, row, 4), abs=1e-12)
        raw = sum(tree.weight * expected(tree, None, row, frozenset(range(4))) for tree in trees)
        assert explainer.base + contributions.sum() == pytest.approx(raw, abs=1e-12)


def test_a_feature_that_no_tree_asks_for_contributes_nothing() -> None:
    trees = some_trees(1, features=3)
    values = np.random.default_rng(1).normal(size=(50, 4))
    found = Explainer(trees, [tree.visits(values) for tree in trees], 4).contributions(values)
    assert not found[:, 3].any()
    assert found[:, :3].any()


def test_without_anyone_to_compare_with_nothing_is_explained() -> None:
    trees = some_trees(1)
    with pytest.raises(ValueError, match="nobody was counted"):
        Explainer(trees, [np.zeros(len(tree.feature), dtype=np.int64) for tree in trees], 4)


def test_a_model_without_trees_has_its_features_and_no_trees() -> None:
    model = imported_trees('{"features":["recency_days"],"trees":[]}')
    assert (model.features, model.trees) == (("recency_days",), ())

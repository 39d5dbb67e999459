"""What moves a model's scores on the whole: sizes by hand, directions by what a larger value does."""

import numpy as np
import pytest

from churn_assets.churn import influences as influences_
from churn_assets.churn.influences import influences
from churn_assets.churn.trees import BoostedTrees, Node, Tree

FEATURES = ("recency_days", "total_orders", "segment_index", "gap_ratio")


def stump(feature: int, left: float, right: float) -> Tree:
    """`left` up to 0.5, `right` beyond."""
    split = Node(feature=feature, split=0.5, left=1, right=2, value=0.0)
    return Tree.of(1.0, [split, Node(value=left), Node(value=right)])


MODEL = BoostedTrees(FEATURES, (stump(0, -0.5, 0.5), stump(1, 0.2, -0.2), stump(2, -0.1, 0.1)))
ROWS = np.array([[a, b, c, 7.0] for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)])


def test_sizes_are_means_in_log_odds_by_falling_size_each_with_what_a_larger_value_does() -> None:
    # Half of the rows are on each side of a split, so that a leaf's own value is its SHAP value; a margin is half of
    # the log-odds. A number that is a name has no larger one.
    found = influences(MODEL, ROWS)
    assert [(each.feature, each.direction) for each in found] == [
        ("recency_days", "raises"),
        ("total_orders", "lowers"),
        ("segment_index", "neither"),
        ("gap_ratio", "neither"),
    ]
    assert [each.mean for each in found] == pytest.approx([1.0, 0.4, 0.2, 0.0])
    assert influences(MODEL, ROWS[:0]) == []


def test_what_rises_and_falls_again_has_no_direction() -> None:
    hill = Tree.of(
        1.0,
        [
            Node(feature=0, split=0.5, left=1, right=2, value=0.0),
            Node(value=-1.0),
            Node(feature=0, split=1.5, left=3, right=4, value=0.0),
            Node(value=1.0),
            Node(value=-1.0),
        ],
    )
    rows = np.array([[value, 0.0, 0.0, 0.0] for value in (0.0, 1.0, 1.0, 2.0)])
    (first, *_) = influences(BoostedTrees(FEATURES, (hill,)), rows)
    assert (first.feature, first.direction) == ("recency_days", "neither")
    assert first.mean > 1


def test_of_many_customers_some_of_every_part_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influences_, "MOST_ROWS", 4)
    # The first four have no recency, and those of even places no segment.
    found = {each.feature: each.mean for each in influences(MODEL, ROWS)}
    assert found["recency_days"] == pytest.approx(1.0)
    assert found["total_orders"] == pytest.approx(0.4)
    assert found["segment_index"] == 0

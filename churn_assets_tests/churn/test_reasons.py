"""Reasons: shares that add up to the score and are the Shapley values, and sentences with the customer's own values."""

import math
from collections.abc import Mapping
from datetime import date
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.features import FEATURES
from churn_assets.churn.models import Estimator, GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import (
    SENTENCES,
    Explainer,
    Nodes,
    Wording,
    explained,
    nodes_of,
    one_in,
    usual_by_date,
)
from churn_assets.churn.trees import exported_trees

WORDING = Wording.of(ChurnPolicy(), {0: "Regular", 1: "Student"})


def some_trees(seed: int, features: int = 4, trees: int = 3, depth: int = 4) -> list[Nodes]:
    """Trees whose splits may come again on the same feature further down."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(trees):
        columns: dict[str, list[Any]] = {name: [] for name in ("feature", "split", "left", "right", "value")}

        def grow(level: int, columns: dict[str, list[Any]] = columns) -> int:
            node = len(columns["feature"])
            is_leaf = level == depth or (level > 1 and random.random() < 0.3)
            columns["feature"].append(-1 if is_leaf else int(random.integers(features)))
            columns["split"].append(math.nan if is_leaf else round(float(random.normal()), 1))
            columns["value"].append(float(random.normal()) if is_leaf else math.nan)
            columns["left"].append(-1)
            columns["right"].append(-1)
            if not is_leaf:
                columns["left"][node] = grow(level + 1)
                columns["right"][node] = grow(level + 1)
            return node

        grow(0)
        made.append(
            Nodes(
                float(random.uniform(0.1, 1)),
                np.array(columns["feature"], dtype=np.intp),
                np.array(columns["split"]),
                np.array(columns["left"], dtype=np.intp),
                np.array(columns["right"], dtype=np.intp),
                np.array(columns["value"]),
            )
        )
    return made


def expected(tree: Nodes, rows: Any, row: Any, known: frozenset[int], node: int = 0) -> float:
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


def shapley(trees: list[Nodes], visits: list[Any], row: Any, features: int) -> list[float]:
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


NAMES = ("total_orders", "late_order_ratio", "recency_days")
DAYS = (date(2025, 12, 1), date(2025, 12, 8))


def panel(spark: SparkSession) -> Any:
    random = np.random.default_rng(3)
    rows = []
    for number in range(600):
        orders, promised = int(random.integers(1, 12)), int(random.integers(1, 5))
        late, silent = int(random.integers(0, promised + 1)), float(random.uniform(0, 30))
        label = float(random.random() < 0.1 + 0.02 * silent - 0.02 * orders + 0.3 * late / promised)
        day = DAYS[number % 2]
        key = (f"C{number:04}", day, float(orders), late / promised, silent)
        rows.append((*key, label, 30 + number % 70, promised, late, number % 3))
    columns = "customer_id string, as_of date, total_orders double, late_order_ratio double, recency_days double"
    rest = "label double, fold int, promised_deliveries int, late_deliveries int, reviews int"
    return spark.createDataFrame(rows, f"{columns}, {rest}")


@pytest.mark.parametrize("estimator", ["gbt", "xgboost"])
def test_reasons_add_up_to_sparks_own_score_whatever_the_partitions(spark: SparkSession, estimator: Estimator) -> None:
    rows = panel(spark)
    model = fit_churn_model(rows, NAMES, GradientBoosting(iterations=5, estimator=estimator), rows=600)
    exported = exported_trees(model, 0.5)
    usual = usual_by_date(rows, exported)
    assert sorted(usual) == sorted(DAYS)
    found = explained(rows.where("total_orders <= 3"), exported, usual, WORDING)
    again = explained(
        rows.where("total_orders <= 3").repartition(7), exported, usual_by_date(rows.coalesce(1), exported), WORDING
    )
    keyed = {row.customer_id: row for row in found.collect()}
    assert keyed == {row.customer_id: row for row in again.collect()}
    scores = with_churn_probability(model, rows)
    probabilities = {row.customer_id: row.churn_probability for row in scores.collect()}
    assert len(keyed) == rows.where("total_orders <= 3").count() > 50
    for customer, row in keyed.items():
        contributions = [reason.contribution for reason in row.reasons]
        assert row.base_score + sum(contributions) + row.other_contributions == pytest.approx(row.raw_score, abs=1e-12)
        assert 1 / (1 + math.exp(-2 * row.raw_score)) == pytest.approx(probabilities[customer], abs=1e-12)
        assert contributions == sorted(contributions, reverse=True)
        assert all(share > 0 for share in contributions)
        assert len(contributions) <= 3
    assert max(len(row.reasons) for row in keyed.values()) == 3


def test_usual_is_the_median_of_the_date_and_of_a_share_the_mean(spark: SparkSession) -> None:
    rows = panel(spark)
    exported = exported_trees(fit_churn_model(rows, NAMES, GradientBoosting(iterations=2), rows=600), 0.5)
    usual = usual_by_date(rows, exported)
    of_date = [row for row in rows.collect() if row.as_of == DAYS[0]]
    found = usual[DAYS[0]].values
    assert found["total_orders"] == np.median([row.total_orders for row in of_date])
    assert found["recency_days"] == pytest.approx(np.median([row.recency_days for row in of_date]), abs=0.01)
    assert found["late_order_ratio"] == pytest.approx(np.mean([row.late_order_ratio for row in of_date]))
    _, trees = nodes_of(exported)
    assert [int(visits[0]) for visits in usual[DAYS[0]].visits] == [len(of_date)] * len(trees)


def test_every_feature_of_the_catalogue_has_a_sentence() -> None:
    assert set(SENTENCES) == {feature.name for feature in FEATURES}
    assert nodes_of('{"features":["recency_days"],"trees":[]}') == (["recency_days"], [])


@pytest.mark.parametrize(
    ("feature", "own", "sentence"),
    [
        ("total_orders", {"own": 1, "usual": 6}, "1 order in 60 days; usual is 6"),
        ("total_orders", {"own": 2, "usual": 6}, "2 orders in 60 days; usual is 6"),
        ("avg_star_rating", {"own": 2.25, "usual": 4.31, "reviews": 2}, "rated us 2.2 stars on average; usual is 4.3"),
        (
            "avg_star_rating",
            {"own": 4.31, "usual": 4.31, "reviews": 0},
            "left no review in 60 days; the usual rating is 4.3 stars",
        ),
        (
            "late_order_ratio",
            {"own": 0.75, "usual": 0.1, "late_deliveries": 3, "promised_deliveries": 4},
            "3 of the last 4 deliveries came late; usual is 1 in 10",
        ),
        (
            "late_order_ratio",
            {"own": 0, "usual": 0.7, "late_deliveries": 0, "promised_deliveries": 1},
            "the last delivery was on time; usual is 7 in 10",
        ),
        (
            "late_order_ratio",
            {"own": 0, "usual": 0.1, "late_deliveries": 0, "promised_deliveries": 0},
            "no delivery with a promised time in 60 days",
        ),
        ("segment_index", {"own": 1, "usual": 0}, "is of segment Student"),
        ("segment_index", {"own": -1, "usual": 0}, "is of no known segment"),
        (
            "crisis_exposure_index",
            {"own": 1, "usual": 0.05},
            "waited more than 45 minutes past the promise; 1 in 20 of all customers did wait that long",
        ),
        ("sentiment_velocity", {"own": -2.5, "usual": 0}, "a review fell by 2.5 stars from the one before"),
        ("sentiment_velocity", {"own": 0, "usual": 0}, "no review was worse than the one before"),
        (
            "rfm_score",
            {"own": 543, "usual": 322},
            "ranks 5, 4, 3 of 5 for recency, frequency and spend, 1 is best; usual is 3, 2, 2",
        ),
        ("recency_days", {"own": 21.4, "usual": 5.6}, "last ordered 21 days ago; usual is 6"),
        ("recency_days", {"own": 1.2, "usual": 5.6}, "last ordered 1 day ago; usual is 6"),
        ("tenure_days", {"own": 40.0, "usual": 150.0}, "first ordered 40 days ago; usual is 150"),
        (
            "gap_ratio",
            {"own": 3.21, "usual": 0.8},
            "silent for 3.2 times their own usual gap between orders; usual is 0.8 times",
        ),
        (
            "missed_orders",
            {"own": 4.0, "usual": 1.2},
            "at their own pace would have ordered 4.0 times since the last order; usual is 1.2",
        ),
        (
            "recent_delay_minutes",
            {"own": 95.2, "usual": 4.0},
            "waited 95 minutes past the promise in 30 days; usual is 4",
        ),
    ],
)
def test_a_sentence_sets_the_customers_value_against_the_usual(
    feature: str, own: Mapping[str, float], sentence: str
) -> None:
    assert SENTENCES[feature](own, WORDING) == sentence


@pytest.mark.parametrize(
    ("share", "said"), [(0.001, "none"), (0.1, "1 in 10"), (0.33, "1 in 3"), (0.5, "5 in 10"), (1.0, "10 in 10")]
)
def test_a_share_is_said_as_people_say_it(share: float, said: str) -> None:
    assert one_in(share) == said


def test_every_number_of_a_customer_in_a_sentence_is_the_customers_own(spark: SparkSession) -> None:
    rows = panel(spark)
    exported = exported_trees(fit_churn_model(rows, NAMES, GradientBoosting(iterations=3), rows=600), 0.5)
    found = explained(rows, exported, usual_by_date(rows, exported), WORDING)
    reasons = found.select("customer_id", F.inline("reasons")).join(rows, "customer_id").collect()
    assert len(reasons) > 500
    for row in reasons:
        assert row.value == row[row.feature]
        if row.feature == "late_order_ratio" and row.late_deliveries and row.promised_deliveries > 1:
            assert row.sentence.startswith(f"{row.late_deliveries} of the last ")
        if row.feature == "total_orders":
            assert row.sentence.startswith(f"{row.total_orders:.0f} order")

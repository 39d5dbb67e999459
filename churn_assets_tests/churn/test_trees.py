"""The trees score as their description says, their text is the whole model, exactly, and what is no tree is refused."""

import copy
import json
import math
import random
from collections.abc import Callable
from decimal import Decimal
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnexportableModelError
from churn_assets.churn.models import GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.trees import (
    LEAF,
    BoostedTrees,
    Node,
    Tree,
    exported_trees,
    imported_trees,
    model_digest,
    trees_of_saved_nodes,
)
from churn_assets_tests.panels import rows_of

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating")
SCHEMA = f"customer_id string, {', '.join(f'{name} double' for name in FEATURES)}, label double"


@pytest.fixture(scope="module")
def train(spark: SparkSession) -> DataFrame:
    rng = random.Random(11)
    rows = []
    for number in range(400):
        # Over so many magnitudes that the splits need all their digits.
        values = rng.uniform(-30, 30), rng.expovariate(0.5) * 10.0 ** rng.randint(-150, 150), float(rng.randint(1, 5))
        rows.append((f"c-{number}", *values, float(rng.random() < 0.3 + (values[0] > 0) * 0.3)))
    return spark.createDataFrame(rows, SCHEMA).withColumns({"as_of": F.lit(1), "fold": F.lit(50)})


@pytest.fixture(scope="module")
def model(train: DataFrame) -> BoostedTrees:
    return fit_churn_model(train, FEATURES, GradientBoosting(max_depth=4, iterations=6), rows=400)


def probability(exported: dict[str, Any], values: list[float]) -> float:
    """One row at a time, as the docstring of `exported_trees` tells it."""
    margin = 0.0
    for tree in exported["trees"]:
        node = 0
        while tree["feature"][node] != LEAF:
            is_left = values[tree["feature"][node]] <= tree["split"][node]
            node = tree["left" if is_left else "right"][node]
        margin += tree["weight"] * tree["value"][node]
    return 1 - 1 / (1 + math.exp(2 * margin))


def test_rows_are_scored_as_the_exported_trees_tell_also_exactly_at_the_splits_and_at_the_extremes(
    spark: SparkSession, model: BoostedTrees
) -> None:
    exported = json.loads(exported_trees(model, None))
    rng = random.Random(2)
    at: list[list[float]] = [[0.0, -0.0, 5e-324, 1e300, -1e300, math.inf, -math.inf] for _ in FEATURES]
    for tree in exported["trees"]:
        for feature, split in zip(tree["feature"], tree["split"], strict=True):
            if feature != LEAF:
                at[feature] += [split, math.nextafter(split, math.inf), math.nextafter(split, -math.inf)]
    assert all(len(values) > 10 for values in at)
    rows = [tuple(rng.choice(values) for values in at) for _ in range(2_000)]
    scored = rows_of(with_churn_probability(model, spark.createDataFrame(rows, list(FEATURES))))
    assert len({row["churn_probability"] for row in scored}) > 50
    for row in scored:
        ours = probability(exported, [row[name] for name in FEATURES])
        assert ours == pytest.approx(row["churn_probability"], abs=1e-15)
    values = np.array([[row[name] for name in FEATURES] for row in scored])
    assert model.probabilities(values).tolist() == [row["churn_probability"] for row in scored]


def test_a_score_does_not_depend_on_the_rows_it_is_scored_with(model: BoostedTrees) -> None:
    values = np.random.default_rng(4).uniform(-30, 30, (1_000, 3))
    together = model.probabilities(values)
    assert len(set(together)) > 20
    assert [model.probabilities(row[None, :])[0] for row in values] == together.tolist()
    assert model.probabilities(values[::-1])[::-1].tolist() == together.tolist()


def test_no_rows_have_no_scores(spark: SparkSession, train: DataFrame, model: BoostedTrees) -> None:
    assert model.probabilities(np.empty((0, 3))).tolist() == []
    assert rows_of(with_churn_probability(model, train.where("recency_days > 1000"))) == []
    assert rows_of(with_churn_probability(model, spark.createDataFrame([], SCHEMA))) == []


def one_split(at: float) -> BoostedTrees:
    """By the feature x: the probability is below a half up to `at`, and above it beyond."""
    return BoostedTrees(("x",), (Tree.of(1.0, [Node(feature=0, split=at, left=1, right=2), Node(-1.0), Node(1.0)]),))


@pytest.mark.parametrize("kind", ["tinyint", "smallint", "int", "bigint", "float", "decimal(4,1)", "decimal(38,18)"])
def test_a_number_of_any_kind_is_scored_as_its_double(spark: SparkSession, kind: str) -> None:
    rows = spark.createDataFrame([(2.0,), (3.0,), (4.0,)], "x double").select(F.col("x").cast(kind).alias("x"))
    scored = rows_of(with_churn_probability(one_split(3.0), rows))
    assert sorted((float(row["x"]), row["churn_probability"] > 0.5) for row in scored) == [
        (2.0, False),
        (3.0, False),
        (4.0, True),
    ]


# What Arrow's own cast misses, and what Sail's does.
@pytest.mark.parametrize(("kind", "digits", "places"), [("decimal(20,6)", 12, 6), ("decimal(38,18)", 30, 18)])
def test_a_decimal_is_scored_as_the_double_next_to_it_however_long_it_is(
    spark: SparkSession, kind: str, digits: int, places: int
) -> None:
    rng = random.Random(1)
    decimals = [Decimal(rng.randrange(10**digits)).scaleb(-places) for _ in range(200)] + [Decimal(1).scaleb(-places)]
    doubles = [float(value) for value in decimals]
    # A row beside its double, on either side, would come to another leaf of one of them.
    splits = [at for value in doubles for at in (value, math.nextafter(value, -math.inf))]
    model = BoostedTrees(
        ("x",),
        tuple(
            Tree.of(0.01, [Node(feature=0, split=at, left=1, right=2), Node(rng.random()), Node(-rng.random())])
            for at in splits
        ),
    )
    scored = rows_of(with_churn_probability(model, spark.createDataFrame([(v,) for v in decimals], f"x {kind}")))
    expected = dict(zip(decimals, model.probabilities(np.array(doubles)[:, None]).tolist(), strict=True))
    assert {row["x"]: row["churn_probability"] for row in scored} == expected
    assert len(set(expected.values())) > 150


def test_an_integer_beyond_a_doubles_digits_is_rounded_and_not_refused(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(2**53 + 1,)], "x bigint")
    (row,) = rows_of(with_churn_probability(one_split(2.0**53), rows))
    assert row["churn_probability"] < 0.5


@pytest.mark.parametrize("kind", ["double", "float", "int", "decimal(4,1)"])
def test_a_column_without_any_value_is_refused_by_its_name(spark: SparkSession, kind: str) -> None:
    rows = spark.range(3).select(F.lit(None).cast(kind).alias("x"))
    with pytest.raises(Exception, match="feature x is null or NaN"):
        with_churn_probability(one_split(1.0), rows).collect()


def test_importances_are_the_shares_of_the_gains_and_none_where_nothing_is_split() -> None:
    split = Node(feature=1, split=0.0, left=1, right=2, gain=3.0)
    trees = (Tree.of(0.5, [split, Node(1.0), Node(2.0)]), Tree.of(0.5, [Node(1.0)]))
    assert BoostedTrees(("a", "b"), trees).importances() == {"a": 0.0, "b": 1.0}
    other = Tree.of(0.5, [Node(feature=0, split=0.0, left=1, right=2, gain=1.0), Node(1.0), Node(2.0)])
    assert BoostedTrees(("a", "b"), (*trees, other)).importances() == {"a": 0.25, "b": 0.75}
    assert BoostedTrees(("a", "b"), trees[1:]).importances() == {"a": 0.0, "b": 0.0}


# ---- as text


def test_the_text_is_canonical_and_reads_back_as_the_same_model(model: BoostedTrees) -> None:
    text = exported_trees(model, 0.1 + 0.2)
    exported = json.loads(text)
    assert json.dumps(exported, sort_keys=True, separators=(",", ":")) == text
    assert list(exported) == ["features", "threshold", "trees"]
    assert exported["features"] == list(FEATURES)
    assert exported["threshold"] == 0.1 + 0.2
    assert json.loads(exported_trees(model, None))["threshold"] is None
    read = imported_trees(text)
    assert exported_trees(read, 0.1 + 0.2) == text
    assert model_digest(read, 0.3) == model_digest(model, 0.3) != model_digest(model, 0.1 + 0.2)
    values = np.random.default_rng(4).uniform(-30, 30, (100, 3))
    assert read.probabilities(values).tolist() == model.probabilities(values).tolist()


def test_the_text_is_as_it_always_was() -> None:
    nodes = [Node(feature=1, split=0.1, left=1, right=2, gain=7.0), Node(-0.25), Node(1e-5)]
    model = BoostedTrees(("a", "b"), (Tree.of(0.5, nodes), Tree.of(1, [Node(2.0)])))
    assert exported_trees(model, 0.5) == (
        '{"features":["a","b"],"threshold":0.5,"trees":['
        '{"feature":[1,-1,-1],"left":[1,-1,-1],"right":[2,-1,-1],"split":[0.1,null,null],'
        '"value":[null,-0.25,1e-05],"weight":0.5},'
        '{"feature":[-1],"left":[-1],"right":[-1],"split":[null],"value":[2.0],"weight":1}]}'
    )


def test_trees_of_a_single_leaf_are_exported(spark: SparkSession, train: DataFrame) -> None:
    constant = train.withColumns(dict.fromkeys(FEATURES, F.lit(1.0)))
    model = fit_churn_model(constant, FEATURES, GradientBoosting(max_depth=2, iterations=2), rows=400)
    exported = json.loads(exported_trees(model, 0.5))
    assert [tree["feature"] for tree in exported["trees"]] == [[LEAF]] * 3
    row = rows_of(with_churn_probability(model, constant.limit(1)))[0]
    assert probability(exported, [1.0, 1.0, 1.0]) == pytest.approx(row["churn_probability"], abs=1e-15)


# ---- as Spark saves it


def saved(tree: int, number: int, *children: int, feature: int = 0, at: float = 0.5, value: float = 0.0) -> Any:
    """A node as a saved model of Spark's has it."""
    left, right = children or (LEAF, LEAF)
    split = {
        "featureIndex": feature if children else LEAF,
        "leftCategoriesOrThreshold": [at] if children else [],
        "numCategories": -1,
    }
    node = {"id": number, "prediction": value, "impurityStats": [4.0, 0.0, 0.0], "gain": 0.5 if children else -1.0}
    return {"treeID": tree, "nodeData": {**node, "leftChild": left, "rightChild": right, "split": split}}


NODES = [
    saved(0, 0, 1, 4, feature=1, at=-3.4580216419098566e-4),
    saved(0, 1, 2, 3, at=2.5),
    saved(0, 2, value=-0.6153846153846154),
    saved(0, 3, value=1e-5),
    saved(0, 4, value=0.5),
    saved(1, 0, value=-0.25),
]
WEIGHTS = [1.0, 0.1]


def test_saved_nodes_become_one_entry_per_node_the_root_first_whatever_order_they_are_in() -> None:
    model = trees_of_saved_nodes(("a", "b"), NODES, WEIGHTS)
    first, second = model.trees
    assert model.features == ("a", "b")
    assert (first.weight, second.weight) == (1.0, 0.1)
    assert first.feature.tolist() == [1, 0, LEAF, LEAF, LEAF]
    assert first.split.tolist()[:2] == [-3.4580216419098566e-4, 2.5]
    assert np.isnan(first.split[2:]).all()
    assert first.left.tolist() == [1, 2, LEAF, LEAF, LEAF]
    assert first.right.tolist() == [4, 3, LEAF, LEAF, LEAF]
    assert first.value.tolist()[2:] == [-0.6153846153846154, 1e-5, 0.5]
    assert np.isnan(first.value[:2]).all()
    # Spark's gain is of one row.
    assert first.gain.tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]
    assert (second.feature.tolist(), second.value.tolist()) == ([LEAF], [-0.25])
    text = exported_trees(model, None)
    for order in list(permutations(NODES))[::97]:
        assert exported_trees(trees_of_saved_nodes(("a", "b"), order, WEIGHTS), None) == text


def by_categories(nodes: list[Any]) -> None:
    nodes[1]["nodeData"]["split"] |= {"leftCategoriesOrThreshold": [0.0, 2.0], "numCategories": 3}


def with_(at: int, **changed: Any) -> Callable[[list[Any]], object]:
    return lambda nodes: nodes[at]["nodeData"].update(changed)


def split_of(at: int, **changed: Any) -> Callable[[list[Any]], object]:
    return lambda nodes: nodes[at]["nodeData"]["split"].update(changed)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (by_categories, "splits by categories.*\n.*feature 0"),
        (split_of(1, numCategories=2), "splits by categories"),
        (split_of(1, leftCategoriesOrThreshold=[]), "splits by categories"),
        (split_of(1, featureIndex=2), "a feature that it has not.*\n.*feature 2 of 2"),
        (split_of(1, featureIndex=-1), "a feature that it has not.*\n.*feature -1 of 2"),
        (split_of(1, leftCategoriesOrThreshold=[math.nan]), "a number that is none.*\n.*node 1: nan"),
        (with_(4, prediction=math.inf), "a number that is none.*\n.*node 4: inf"),
        (with_(4, prediction=math.nan), "a number that is none.*\n.*node 4: nan"),
        (with_(0, leftChild=4, rightChild=1), "nodes of tree 0 are no tree"),
        (with_(0, rightChild=3), "nodes of tree 0 are no tree"),
        (with_(0, rightChild=5), "nodes of tree 0 are no tree"),
        (with_(1, leftChild=0), "nodes of tree 0 are no tree"),
        (with_(4, id=5), r"nodes of tree 0 are no tree.*\n.*nodes \[0, 1, 2, 3, 5\]"),
        (with_(4, id=3), r"nodes of tree 0 are no tree.*\n.*nodes \[0, 1, 2, 3, 3\]"),
        (lambda nodes: nodes.pop(4), "nodes of tree 0 are no tree"),
        (lambda nodes: nodes.append(saved(0, 5)), "nodes of tree 0 are no tree"),
        (lambda nodes: nodes.pop(5), "nodes of tree 1 are no tree"),
        (lambda nodes: nodes.append(saved(2, 0)), "trees and their weights differ in number.*\n.*3 and 2"),
        (lambda nodes: nodes.append(saved(-1, 0)), "trees and their weights differ in number.*\n.*3 and 2"),
    ],
)
def test_nodes_that_are_no_trees_are_refused_and_told(spoil: Callable[[list[Any]], object], told: str) -> None:
    nodes = copy.deepcopy(NODES)
    spoil(nodes)
    with pytest.raises(UnexportableModelError, match=told):
        trees_of_saved_nodes(("a", "b"), nodes, WEIGHTS)


@pytest.mark.parametrize("weights", [[1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 0.1, 0.1], []])
def test_weights_that_are_not_those_of_the_trees_are_refused(weights: list[float]) -> None:
    with pytest.raises(UnexportableModelError, match=r"differ in number|a number that is none|are no tree"):
        trees_of_saved_nodes(("a", "b"), NODES, weights)

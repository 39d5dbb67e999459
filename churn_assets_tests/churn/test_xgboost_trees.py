"""XGBoost's trees as plain trees: the same leaf for every row, and a reason where they cannot be learned."""

import math
import random
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost import DMatrix

from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError
from churn_assets.churn.models import GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.trees import LEAF, BoostedTrees, exported_trees, model_digest
from churn_assets.churn.xgboost_trees import boosted, collected, largest_on_the_left, trees_of

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating")
SETTINGS = GradientBoosting(max_depth=4, iterations=20, estimator="xgboost")


@pytest.fixture(scope="module")
def train(spark: SparkSession) -> DataFrame:
    rng = random.Random(11)
    rows = []
    for number in range(600):
        # Over so many magnitudes that the splits need all their digits.
        values = rng.uniform(-30, 30), rng.expovariate(0.5) * 10.0 ** rng.randint(-30, 30), float(rng.randint(1, 5))
        rows.append((f"c-{number:03}", *values, float(rng.random() < 0.15 + (values[0] > 0) * 0.2)))
    schema = f"customer_id string, {', '.join(f'{name} double' for name in FEATURES)}, label double"
    return spark.createDataFrame(rows, schema).withColumns({"as_of": F.lit(1), "fold": F.lit(50)})


@dataclass(frozen=True)
class Learned:
    """A booster of XGBoost, and the plain trees that are made of it."""

    booster: Any
    trees: BoostedTrees

    @property
    def tables(self) -> Any:
        return self.booster.trees_to_dataframe()


@pytest.fixture(scope="module")
def learned(train: DataFrame) -> Learned:
    rows = collected(train, FEATURES)
    booster = boosted(rows.values, rows.labels, None, rounds=20, max_depth=4, base_score=0.25, seed=42)
    return Learned(booster, trees_of(booster, FEATURES))


SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(split=SINGLES.filter(lambda value: value > -3.4e38), value=st.floats(allow_nan=False))
def test_a_value_is_on_the_left_of_the_double_where_its_single_is_less_than_the_split(
    split: float, value: float
) -> None:
    largest = largest_on_the_left(split)
    near = [math.nextafter(to, way) for to in (largest, split) for way in (-math.inf, math.inf)]
    with np.errstate(over="ignore"):
        for each in (value, largest, split, *near):
            assert (each <= largest) == bool(np.float32(each) < np.float32(split))


def test_each_row_has_the_margin_of_xgboost_also_exactly_at_the_splits(learned: Learned) -> None:
    rng = random.Random(2)
    at: list[list[float]] = [[0.0, -0.0, 1e-45, 3e38, -3e38] for _ in FEATURES]
    nodes = learned.tables[learned.tables["Feature"] != "Leaf"]
    for feature, split in zip(nodes["Feature"], nodes["Split"], strict=True):
        single = np.float32(split)
        neighbours = [float(np.nextafter(single, np.float32(way))) for way in (-np.inf, np.inf)]
        half_way = (neighbours[0] + float(single)) / 2
        doubles = [math.nextafter(half_way, way) for way in (-math.inf, math.inf)]
        at[int(feature.removeprefix("f"))] += [
            float(single),
            *neighbours,
            half_way,
            *doubles,
        ]
    assert all(len(values) > 10 for values in at)
    rows = [tuple(rng.choice(values) for values in at) for _ in range(3_000)]
    ours = 2 * learned.trees.margins(np.array(rows))
    theirs = learned.booster.predict(DMatrix(np.array(rows, dtype=np.float32)), output_margin=True)
    # XGBoost adds 20 leaves up in single precision, each sum below 4 and so rounded by 1.2e-7 at most.
    assert np.abs(ours).max() < 4
    assert np.abs(ours - theirs).max() <= 21 * 1.2e-7
    leaves = learned.tables.loc[learned.tables["Feature"] == "Leaf", "Gain"].abs()
    # So a single row in another leaf would show.
    assert len(set(ours.round(5))) > 100
    assert leaves.median() > 100 * 21 * 1.2e-7


def test_importances_are_the_shares_of_xgboosts_gain(learned: Learned) -> None:
    nodes = learned.tables[learned.tables["Feature"] != "Leaf"]
    gain = nodes.groupby("Feature")["Gain"].sum()
    shares = {FEATURES[int(name.removeprefix("f"))]: share for name, share in (gain / gain.sum()).items()}
    assert len(set(shares.values())) == len(FEATURES)
    assert learned.trees.importances() == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_trees_are_those_of_a_plain_matrix_of_the_rows_to_the_last_digit(is_weighted: bool) -> None:
    rng = np.random.default_rng(3)
    # More distinct values than there are bins.
    values = np.column_stack([rng.normal(size=5_000), rng.exponential(size=5_000), rng.integers(1, 6, 5_000)])
    labels = (rng.random(5_000) < 0.1 + 0.2 * (values[:, 2] > 3)).astype(np.float32)
    weights = np.where(labels == 1.0, 2.9, 0.6) if is_weighted else None
    params: dict[str, Any] = {"max_depth": 5, "base_score": 0.25, "min_child_weight": 3.0, "seed": 42}
    ours = boosted(values.astype(np.float32), labels, weights, rounds=10, **params)
    plain = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1, **params},
        DMatrix(values.astype(np.float32), labels, weight=weights, nthread=1),
        10,
    )
    one, other = (trees_of(booster, FEATURES) for booster in (ours, plain))
    assert exported_trees(one, None) == exported_trees(other, None)
    assert one.importances() == other.importances()
    assert sum(len(tree.feature) for tree in one.trees) > 100


def test_what_rows_begin_with_is_no_part_of_the_trees() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4_000, 2)).astype(np.float32)
    offsets = np.where(values[:, 1] > 0, 2.0, 0.0)
    labels = (rng.random(4_000) < 1 / (1 + np.exp(2 - offsets - (values[:, 0] > 0)))).astype(np.float32)
    params: dict[str, Any] = {"max_depth": 3, "base_score": 0.25, "seed": 42, "rounds": 20, "learning_rate": 0.3}
    booster = boosted(values, labels, None, offsets=offsets, **params)
    by_xgboost = booster.predict(
        DMatrix(values, base_margin=math.log(0.25 / 0.75) + offsets, nthread=1), output_margin=True
    )
    said = 2 * trees_of(booster, ("unknown", "begun with")).margins(values.astype(float))
    assert said + offsets == pytest.approx(by_xgboost, abs=1e-5)
    # What they begin with is not learned once more, and the rest is.
    by_feature = [said[of > 0].mean() - said[of <= 0].mean() for of in values.T]
    assert by_feature == pytest.approx([1, 0], abs=0.25)


def test_so_many_rows_that_their_order_would_change_the_bins_give_the_same_model_in_any_order(
    spark: SparkSession,
) -> None:
    # A share of 0 to 1 for each row and purpose, whatever the partitions.
    def share(purpose: str) -> Column:
        return F.pmod(F.xxhash64("customer_id", F.lit(purpose)), F.lit(2**40)) / F.lit(2.0**40)

    keys = {"customer_id": F.col("id").cast("string"), "as_of": F.lit(1), "fold": F.lit(50)}
    rows = spark.range(20_000).withColumns(keys).withColumns({name: share(name) for name in FEATURES})
    rows = rows.withColumn("label", (share("label") < F.col("gap_ratio") / 4).cast("double"))
    # Sorted by another column, they come in another order also after a shuffle by customer.
    others = rows.orderBy(F.desc("recency_days")).repartition(3, "avg_star_rating")
    one, other = (fit_churn_model(each, FEATURES, SETTINGS, rows=20_000) for each in (rows, others))
    assert model_digest(one, 0.5) == model_digest(other, 0.5)


def test_the_settings_reach_xgboost_and_the_first_tree_is_the_churn_rate(train: DataFrame) -> None:
    def digest(**changed: Any) -> str:
        return model_digest(
            fit_churn_model(train, FEATURES, GradientBoosting(**(vars(small) | changed)), rows=600), 0.5
        )

    small = GradientBoosting(max_depth=3, iterations=3, step_size=0.2, estimator="xgboost")
    changes: list[dict[str, Any]] = [
        {},
        {"max_depth": 2},
        {"iterations": 4},
        {"step_size": 0.1},
        {"min_leaf_share": 0.2},
        {"feature_share": 1.0},
    ]
    assert len({digest(**changed) for changed in changes}) == len(changes)
    model = fit_churn_model(train, FEATURES, small, rows=600)
    rate = train.agg(F.avg("label")).collect()[0][0]
    assert model.trees[0].feature.tolist() == [LEAF]
    assert model.trees[0].value[0] == pytest.approx(math.log(rate / (1 - rate)), abs=1e-6)
    assert [tree.weight for tree in model.trees] == [0.5] * 4


def test_no_leaf_holds_much_less_than_the_smallest_share_of_the_rows(train: DataFrame) -> None:
    model = fit_churn_model(train, FEATURES, GradientBoosting(min_leaf_share=0.1, estimator="xgboost"), rows=600)
    rows = with_churn_probability(model, train).groupBy("churn_probability").count().collect()
    assert len(rows) > 3
    one = GradientBoosting(min_leaf_share=0.1, iterations=1, estimator="xgboost")
    of_one_tree = with_churn_probability(fit_churn_model(train, FEATURES, one, rows=600), train)
    # In the first tree all rows weigh the same, so there the bound is exactly of rows.
    assert min(row["count"] for row in of_one_tree.groupBy("churn_probability").count().collect()) >= 60


def test_balanced_class_weights_raise_the_scores_to_a_half(train: DataFrame) -> None:
    model = fit_churn_model(train, FEATURES, SETTINGS, rows=600, class_weights="balanced")
    assert with_churn_probability(model, train).agg(F.avg("churn_probability")).collect()[0][0] == pytest.approx(
        0.5, abs=0.05
    )


@pytest.mark.parametrize("extreme", [1e300, -1e300, 5e-324, math.inf])
def test_values_beyond_single_precision_are_learned_from_and_scored(train: DataFrame, extreme: float) -> None:
    is_hit = F.col("label") == 1.0
    spoiled = train.withColumn("gap_ratio", F.when(is_hit, extreme).otherwise(1.0)).withColumn(
        "avg_star_rating", F.lit(extreme)
    )
    model = fit_churn_model(spoiled, FEATURES, SETTINGS, rows=600)
    means = with_churn_probability(model, spoiled).groupBy("label").agg(F.avg("churn_probability")).collect()
    by_label: dict[float, float] = dict(means)
    assert by_label[1.0] > by_label[0.0] + 0.1


@pytest.mark.parametrize("unknown", [None, math.nan])
def test_an_unknown_feature_is_refused_and_not_learned_as_a_value(train: DataFrame, unknown: float | None) -> None:
    is_spoiled = F.col("customer_id") < "c-002"
    spoiled = train.withColumn("gap_ratio", F.when(is_spoiled, unknown).otherwise(F.col("gap_ratio")))
    with pytest.raises(UntrainableError, match="gap_ratio: 2 null or NaN"):
        fit_churn_model(spoiled, FEATURES, SETTINGS, rows=600)


def test_without_the_package_the_error_says_what_else_learns(train: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(UnavailableEstimatorError, match='train with estimator = "gbt"'):
        fit_churn_model(train, FEATURES, SETTINGS, rows=600)


def test_rows_and_labels_come_by_customer_and_date_whatever_order_they_were_in(spark: SparkSession) -> None:
    columns = "customer_id string, as_of int, recency_days double, label double"
    # As text "c-10" is before "c-9".
    rows = [("c-9", 2, 1.5, 0.0), ("c-10", 9, 2.5, 1.0), ("c-9", 1, 3.5, 1.0), ("c-10", 10, 4.5, 0.0)]
    for order in (rows, rows[::-1]):
        values, labels, weights, _ = collected(spark.createDataFrame(order, columns), ["recency_days"])
        assert weights is None
        assert values.tolist() == [[2.5], [4.5], [3.5], [1.5]]
        assert labels.tolist() == [1.0, 0.0, 1.0, 0.0]
        assert values.dtype == labels.dtype == np.float32


def test_of_two_rows_of_a_customer_and_a_date_the_one_with_label_0_comes_first(spark: SparkSession) -> None:
    columns = "customer_id string, as_of int, recency_days double, label double, weight double"
    rows = [("c-1", 1, 2.5, 1.0, 0.3), ("c-1", 1, 2.5, 0.0, 0.7), ("c-0", 1, 1.5, 1.0, 1.0)]
    for order in (rows, rows[::-1]):
        values, labels, weights, _ = collected(spark.createDataFrame(order, columns), ["recency_days"])
        assert weights is not None
        assert (values[:, 0].tolist(), labels.tolist()) == ([1.5, 2.5, 2.5], [1.0, 0.0, 1.0])
        assert weights.tolist() == [1.0, 0.7, 0.3]

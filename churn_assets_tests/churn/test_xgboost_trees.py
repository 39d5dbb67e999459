"""XGBoost's trees in Spark's model: the same leaf for every row, and a reason where they cannot be learned."""

import math
import random
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.ml import PipelineModel
from pyspark.ml.classification import GBTClassificationModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost import DMatrix

from churn_assets.churn import xgboost_trees
from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError
from churn_assets.churn.models import (
    GradientBoosting,
    feature_importances,
    fit_churn_model,
    model_digest,
    with_churn_probability,
)
from churn_assets.churn.trees import exported_trees
from churn_assets.churn.xgboost_trees import as_spark_trees, boosted, collected, largest_on_the_left
from churn_assets.serving.pipelines import shared_folder

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
    """A booster of XGBoost, and the pipeline of Spark's that is made of it."""

    booster: Any
    pipeline: PipelineModel

    @property
    def tables(self) -> Any:
        return self.booster.trees_to_dataframe()


@pytest.fixture(scope="module")
def learned(train: DataFrame) -> Learned:
    values, labels = collected(train, FEATURES)
    booster = boosted(values, labels, None, rounds=20, max_depth=4, base_score=0.25, seed=42)
    return Learned(booster, PipelineModel([assembler(), as_spark_trees(booster, len(FEATURES))]))


def assembler() -> VectorAssembler:
    return VectorAssembler(inputCols=list(FEATURES), outputCol="features", handleInvalid="error")


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


def test_spark_gives_each_row_the_margin_of_xgboost_also_exactly_at_the_splits(
    spark: SparkSession, learned: Learned
) -> None:
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
    scored = learned.pipeline.transform(spark.createDataFrame(rows, list(FEATURES))).select("rawPrediction").collect()
    ours = np.array([2 * row.rawPrediction[1] for row in scored])
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
    found = feature_importances(learned.pipeline)
    assert sorted(found.values()) == pytest.approx(sorted(gain / gain.sum()), abs=1e-6)


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
        {"estimator": "gbt"},
    ]
    assert len({digest(**changed) for changed in changes}) == len(changes)
    model = fit_churn_model(train, FEATURES, small, rows=600)
    trees = model.stages[1]
    assert isinstance(trees, GBTClassificationModel)
    described = trees.toDebugString
    rate = train.agg(F.avg("label")).collect()[0][0]
    assert float(described.split("Predict: ")[1].split()[0]) == pytest.approx(math.log(rate / (1 - rate)), abs=1e-6)
    assert trees.getNumTrees == 4


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


def test_a_model_made_of_files_is_the_one_that_the_drivers_jvm_makes(
    train: DataFrame, learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As under Spark Connect; through a server it is tried in test_cluster.
    monkeypatch.setattr(xgboost_trees, "is_remote", lambda: True)
    folder = partial(shared_folder, str(tmp_path))
    by_files = PipelineModel([assembler(), as_spark_trees(learned.booster, len(FEATURES), folder)])
    assert list(tmp_path.iterdir()) == []
    assert exported_trees(by_files, 0.5) == exported_trees(learned.pipeline, 0.5)
    assert feature_importances(by_files) == feature_importances(learned.pipeline)
    settings = [
        {name.name: value for name, value in model.stages[1].extractParamMap().items()}
        for model in (by_files, learned.pipeline)
    ]
    assert settings[0] == settings[1]
    one, other = (
        [tuple(row) for row in with_churn_probability(model, train).orderBy("customer_id").collect()]
        for model in (by_files, learned.pipeline)
    )
    assert one == other


def test_under_spark_connect_a_model_without_a_shared_folder_says_what_is_missing(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xgboost_trees, "is_remote", lambda: True)
    with pytest.raises(UnavailableEstimatorError, match="pass `shared_folder`"):
        as_spark_trees(learned.booster, len(FEATURES))

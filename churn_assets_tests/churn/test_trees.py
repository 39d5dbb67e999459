"""The exported text is the whole model, exactly, or there is an error that says which line is not understood."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.classification import GBTClassificationModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnexportableModelError
from churn_assets.churn.models import Estimator, GradientBoosting, fit_churn_model, model_digest, with_churn_probability
from churn_assets.churn.trees import LEAF, exported_trees, parsed_trees
from churn_assets_tests.panels import rows_of

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating")
SCHEMA = f"customer_id string, {', '.join(f'{name} double' for name in FEATURES)}, label double"
DESCRIBED = """\
GBTClassificationModel: uid = x, numTrees=2, numClasses=2, numFeatures=2
  Tree 0 (weight 1.0):
    If (feature 1 <= -3.4580216419098566E-4)
     If (feature 0 <= 2.5)
      Predict: -0.6153846153846154
     Else (feature 0 > 2.5)
      Predict: 1.0E-5
    Else (feature 1 > -3.4580216419098566E-4)
     Predict: 0.5
  Tree 1 (weight 0.1):
    Predict: -0.25
"""


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
def model(train: DataFrame) -> PipelineModel:
    return fit_churn_model(train, FEATURES, GradientBoosting(max_depth=4, iterations=6, estimator="gbt"), rows=400)


@pytest.fixture(scope="module")
def xgboost_model(train: DataFrame) -> PipelineModel:
    hyperparameters = GradientBoosting(max_depth=4, iterations=6, estimator="xgboost")
    return fit_churn_model(train, FEATURES, hyperparameters, rows=400)


@pytest.fixture(params=["model", "xgboost_model"])
def either_model(spark: SparkSession, request: pytest.FixtureRequest) -> PipelineModel:
    """A model of each estimator."""
    found: PipelineModel = request.getfixturevalue(request.param)
    return found


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


def test_the_exported_trees_score_as_spark_does_also_exactly_at_the_splits_and_at_the_extremes(
    spark: SparkSession, either_model: PipelineModel
) -> None:
    exported = json.loads(exported_trees(either_model, None))
    rng = random.Random(2)
    at: list[list[float]] = [[0.0, -0.0, 5e-324, 1e300, -1e300, math.inf, -math.inf] for _ in FEATURES]
    for tree in exported["trees"]:
        for feature, split in zip(tree["feature"], tree["split"], strict=True):
            if feature != LEAF:
                at[feature] += [split, math.nextafter(split, math.inf), math.nextafter(split, -math.inf)]
    assert all(len(values) > 10 for values in at)
    rows = [tuple(rng.choice(values) for values in at) for _ in range(2_000)]
    scored = rows_of(with_churn_probability(either_model, spark.createDataFrame(rows, list(FEATURES))))
    assert len({row["churn_probability"] for row in scored}) > 50
    for row in scored:
        ours = probability(exported, [row[name] for name in FEATURES])
        assert ours == pytest.approx(row["churn_probability"], abs=1e-12)


def test_the_text_is_canonical_and_survives_saving_and_loading(either_model: PipelineModel, tmp_path: Path) -> None:
    text = exported_trees(either_model, 0.1 + 0.2)
    exported = json.loads(text)
    assert json.dumps(exported, sort_keys=True, separators=(",", ":")) == text
    assert list(exported) == ["features", "threshold", "trees"]
    assert exported["features"] == list(FEATURES)
    assert exported["threshold"] == 0.1 + 0.2
    assert json.loads(exported_trees(either_model, None))["threshold"] is None
    either_model.save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    assert exported_trees(loaded, 0.1 + 0.2) == text
    assert model_digest(loaded, 0.3) == model_digest(either_model, 0.3) != model_digest(either_model, 0.1 + 0.2)


@pytest.mark.parametrize(("estimator", "leaves"), [("gbt", 2), ("xgboost", 3)])
def test_trees_of_a_single_leaf_are_exported(
    spark: SparkSession, train: DataFrame, estimator: Estimator, leaves: int
) -> None:
    constant = train.withColumns(dict.fromkeys(FEATURES, F.lit(1.0)))
    hyperparameters = GradientBoosting(max_depth=2, iterations=2, estimator=estimator)
    model = fit_churn_model(constant, FEATURES, hyperparameters, rows=400)
    exported = json.loads(exported_trees(model, 0.5))
    assert [tree["feature"] for tree in exported["trees"]] == [[LEAF]] * leaves
    row = rows_of(with_churn_probability(model, constant.limit(1)))[0]
    assert probability(exported, [1.0, 1.0, 1.0]) == pytest.approx(row["churn_probability"], abs=1e-15)


def test_a_description_becomes_one_entry_per_node_the_root_first() -> None:
    first, second = parsed_trees(DESCRIBED, 2)
    assert (first.weight, second.weight) == (1.0, 0.1)
    assert first.feature == [1, 0, LEAF, LEAF, LEAF]
    assert first.split == [-3.4580216419098566e-4, 2.5, None, None, None]
    assert first.left == [1, 2, LEAF, LEAF, LEAF]
    assert first.right == [4, 3, LEAF, LEAF, LEAF]
    assert first.value == [None, None, -0.6153846153846154, 1e-5, 0.5]
    assert (second.feature, second.value) == ([LEAF], [-0.25])


@pytest.mark.parametrize(
    ("text", "instead", "told"),
    [
        ("If (feature 0 <= 2.5)", "If (feature 0 in {0.0,2.0})", "line 4: If (feature 0 in {0.0,2.0})"),
        ("Else (feature 0 > 2.5)", "Else (feature 0 not in {0.0,2.0})", "line 6: Else (feature 0 not in"),
        ("Else (feature 0 > 2.5)", "Else (feature 0 > 2.6)", "line 6"),
        ("Else (feature 0 > 2.5)", "Else (feature 1 > 2.5)", "line 6"),
        ("Else (feature 0 > 2.5)", "If (feature 0 <= 2.5)", "line 6"),
        ("If (feature 0 <= 2.5)", "Else (feature 0 > 2.5)", "line 4"),
        ("If (feature 0 <= 2.5)", "If (feature 2 <= 2.5)", "line 4"),
        ("If (feature 0 <= 2.5)", "If (feature 0 < 2.5)", "line 4"),
        ("Predict: 0.5", "Predict: NaN", "line 9: Predict: NaN"),
        ("Predict: 0.5", "Predict: 0,5", "line 9"),
        ("Predict: 0.5", "Predict: 0.5 (gain 1.0)", "line 9"),
        ("     Predict: 0.5", "      Predict: 0.5", "line 9"),
        ("     Predict: 0.5\n", "", "line 9: Tree 1"),
        ("Tree 1", "Tree 2", "line 10: Tree 2"),
        ("weight 0.1", "weight a tenth", "line 10"),
        ("    Predict: -0.25\n", "", "line 11: (the end)"),
        ("    Predict: -0.25\n", "    Predict: -0.25\n    Predict: -0.25\n", "line 12"),
        ("GBTClassificationModel:", "RandomForest:", "begins unexpectedly"),
    ],
)
def test_a_line_that_is_not_understood_is_refused_and_told(text: str, instead: str, told: str) -> None:
    assert DESCRIBED.count(text) == 1
    with pytest.raises(UnexportableModelError, match=re.escape(told)):
        parsed_trees(DESCRIBED.replace(text, instead), 2)


def test_a_description_of_only_some_trees_is_refused(model: PipelineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = model.stages[1]
    assert isinstance(trees, GBTClassificationModel)
    described = trees.toDebugString
    without_last = described[: described.index("  Tree 5")]
    monkeypatch.setattr(GBTClassificationModel, "toDebugString", property(lambda _: without_last))
    with pytest.raises(UnexportableModelError, match=r"weights: read \[1.0, 0.1, 0.1, 0.1, 0.1\], has"):
        exported_trees(model, None)


def test_another_pipeline_is_refused(model: PipelineModel) -> None:
    assembler, trees = model.stages
    with pytest.raises(UnexportableModelError, match="GBTClassificationModel"):
        exported_trees(PipelineModel([assembler]), None)
    with pytest.raises(UnexportableModelError, match="stages are not"):
        exported_trees(PipelineModel([trees, assembler]), None)
    lenient = VectorAssembler(inputCols=list(FEATURES), outputCol="features", handleInvalid="keep")
    with pytest.raises(UnexportableModelError, match="handleInvalid: keep"):
        exported_trees(PipelineModel([lenient, trees]), None)
    with pytest.raises(UnexportableModelError, match="features: read 4, has 3"):
        exported_trees(
            PipelineModel([VectorAssembler(inputCols=["a", "b", "c", "d"], handleInvalid="error"), trees]), None
        )

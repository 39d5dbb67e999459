"""The same rows give the same model, scores and recall to the last digit, however they are filed."""

import random
from datetime import date, timedelta

import numpy as np
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn import models, splits
from churn_assets.churn.errors import UntrainableError
from churn_assets.churn.evaluation import choose_threshold, figures
from churn_assets.churn.models import (
    GradientBoosting,
    feature_importances,
    fit_churn_model,
    model_digest,
    score_counts,
    with_alerts,
    with_churn_probability,
)
from churn_assets.churn.policy import Alerts, ChurnPolicy, Gate
from churn_assets_tests.panels import rows_of

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating")
POLICY = ChurnPolicy(alerts=Alerts(budget=0.3), gate=Gate(precision_floor=0.1))
SMALL = GradientBoosting(max_depth=3, iterations=5)
FIRST = date(2024, 3, 4)
SCHEMA = "customer_id string, as_of date, recency_days double, gap_ratio double, avg_star_rating double, label double"


@pytest.fixture(scope="module")
def panel_rows() -> list[tuple]:
    rng = random.Random(5)
    rows = []
    for number in range(300):
        for week in (0, 1, 6):
            recency, gap, rating = rng.uniform(0, 30), rng.expovariate(0.5), rng.uniform(1, 5)
            label = float(rng.random() < 0.1 + recency / 60 + (rating < 2) * 0.3)
            rows.append((f"c-{number}", FIRST + timedelta(weeks=week), recency, gap, rating, label))
    return rows


@pytest.fixture(scope="module", autouse=True)
def several_partitions():
    """So few rows would fit one partition, whose float sums could not depend on partitioning."""
    patch = pytest.MonkeyPatch()
    patch.setattr(models, "ROWS_PER_PARTITION", 100)
    yield
    patch.undo()


def fitted(panel: DataFrame, settings: GradientBoosting = SMALL) -> PipelineModel:
    train = splits.train_rows(panel, splits.split_dates(panel, POLICY), POLICY)
    return fit_churn_model(train, FEATURES, settings, rows=480)


def outcome(panel: DataFrame) -> tuple:
    """Everything a training decides: the digest, the threshold, every score and the figures on the test rows."""
    dates = splits.split_dates(panel, POLICY)
    model = fitted(panel)
    train = splits.train_rows(panel, dates, POLICY)
    validation = score_counts(with_churn_probability(model, train.where(splits.is_validation())))
    current = score_counts(with_churn_probability(model, splits.current_rows(panel, dates, POLICY)))
    threshold = choose_threshold(validation, current, POLICY)
    assert threshold is not None
    tested = rows_of(with_alerts(model, splits.held_out_rows(panel, dates, POLICY), threshold.value))
    tested.sort(key=lambda row: row["customer_id"])
    scores = {row["customer_id"]: row["churn_probability"] for row in tested}
    labels, score, is_alert = (
        np.array([row[name] for row in tested]) for name in ("label", "churn_probability", "is_alert")
    )
    return model_digest(model, threshold.value), threshold, scores, figures(labels, score, is_alert, 0.95)


@pytest.fixture(scope="module")
def first(spark: SparkSession, panel_rows: list[tuple]) -> tuple:
    return outcome(spark.createDataFrame(panel_rows, SCHEMA))


def test_the_same_rows_give_the_same_model_scores_and_recall_to_the_last_digit(spark, panel_rows, first):
    assert first[3].recall.value is not None
    assert 0 < first[3].recall.value < 1
    assert len(set(first[2].values())) > 10
    assert outcome(spark.createDataFrame(panel_rows, SCHEMA)) == first


def test_shuffled_and_repartitioned_rows_give_the_same_model_scores_and_recall(spark, panel_rows, first):
    shuffled = random.Random(1).sample(panel_rows, len(panel_rows))
    assert outcome(spark.createDataFrame(shuffled, SCHEMA).repartition(5, "gap_ratio")) == first


def test_the_validation_rows_are_not_learned_from(spark, panel_rows, first):
    panel = spark.createDataFrame(panel_rows, SCHEMA)
    is_seen = splits.fold(F.col("customer_id"), POLICY.split.salt) >= splits.VALIDATION_FOLDS.stop
    other_labels = panel.withColumn("label", F.when(is_seen, F.col("label")).otherwise(1 - F.col("label")))
    digests = [
        model_digest(fitted(rows), first[1].value)
        for rows in (other_labels, panel.withColumn("label", 1 - F.col("label")))
    ]
    assert digests[0] == first[0]
    assert digests[1] != first[0]


def test_the_digest_covers_threshold_inputs_and_trees(spark, panel_rows):
    train = spark.createDataFrame(panel_rows, SCHEMA).withColumn("fold", F.lit(50))
    settings = GradientBoosting(max_depth=2, iterations=2)

    def model(features: tuple[str, ...], settings: GradientBoosting) -> PipelineModel:
        return fit_churn_model(train, features, settings, rows=900)

    one = model(FEATURES, settings)
    digests = [
        model_digest(one, 0.5),
        model_digest(one, 0.5000000000000001),
        model_digest(one, None),
        model_digest(model(FEATURES[::-1], settings), 0.5),
        model_digest(model(FEATURES, GradientBoosting(max_depth=2, iterations=2, step_size=0.2)), 0.5),
        model_digest(model(FEATURES, GradientBoosting(max_depth=1, iterations=2)), 0.5),
    ]
    assert len(set(digests)) == len(digests)


def test_scores_are_probabilities_beside_the_rows_and_importances_sum_to_one(spark, panel_rows):
    rows = spark.createDataFrame(panel_rows, SCHEMA)
    model = fitted(rows)
    scored = with_churn_probability(model, rows)
    assert scored.columns == [*rows.columns, "churn_probability"]
    collected = rows_of(scored)
    assert all(0 <= row["churn_probability"] <= 1 for row in collected)
    # The long silent leave more often, and the model has seen it.
    silent = [row["churn_probability"] for row in collected if row["recency_days"] > 25]
    recent = [row["churn_probability"] for row in collected if row["recency_days"] < 5]
    assert sum(silent) / len(silent) > sum(recent) / len(recent) + 0.1
    importances = feature_importances(model)
    assert list(importances) == list(FEATURES)
    assert sum(importances.values()) == pytest.approx(1)
    unknown = rows.withColumn("gap_ratio", F.lit(None).cast("double"))
    with pytest.raises((PySparkException, Py4JJavaError), match="null while assembling"):
        with_churn_probability(model, unknown).collect()


@pytest.mark.parametrize(("label", "told"), [(1.0, "others: 0"), (0.0, "churners: 0")])
def test_one_class_in_the_training_folds_cannot_teach_and_the_error_counts_both(spark, label, told):
    rows = [(f"c-{number}", FIRST, 1.0, 1.0, 1.0, label, 50) for number in range(5)]
    # The other class is only where the threshold is chosen.
    rows.append(("validation", FIRST, 1.0, 1.0, 1.0, 1 - label, 20))
    train = spark.createDataFrame(rows, f"{SCHEMA}, fold int")
    with pytest.raises(UntrainableError, match=told):
        fit_churn_model(train, FEATURES, SMALL, rows=6)


def test_score_counts_add_up_equal_scores_and_labels(spark):
    scored = spark.createDataFrame(
        [(0.5, 1.0), (0.5, 1.0), (0.5, 0.0), (0.25, None)], "churn_probability double, label double"
    )
    assert sorted(score_counts(scored), key=str) == [(0.25, None, 1), (0.5, 0.0, 1), (0.5, 1.0, 2)]

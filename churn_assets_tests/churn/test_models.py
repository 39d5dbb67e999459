"""The same rows give the same model, scores and recall to the last digit, however they are filed."""

import random
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn import models, splits
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.catalogue import FEATURES as CATALOGUE
from churn_assets.churn.contract import PANEL_SCHEMA
from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError
from churn_assets.churn.evaluation import Evaluation, Verdict, choose_threshold, figures, judge
from churn_assets.churn.judged import backtest_scores, crossfit_scores, held_out_scores, scored
from churn_assets.churn.models import (
    ChurnModel,
    GradientBoosting,
    crossfitted,
    fit_churn_model,
    score_counts,
    with_alerts,
    with_churn_probability,
)
from churn_assets.churn.policy import Alerts, ChurnPolicy, Gate, Model, Split
from churn_assets.churn.purchase_model import PurchaseModel
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.trees import BoostedTrees, model_digest
from churn_assets_tests.conftest import ENGINE
from churn_assets_tests.panels import frame, rows_of

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating")
POLICY = ChurnPolicy(alerts=Alerts(budget=0.3), gate=Gate(evaluation="holdout", precision_floor=0.1))
SMALL = GradientBoosting(max_depth=3, iterations=5, feature_share=1.0)
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


def fitted(panel: DataFrame) -> BoostedTrees:
    train = splits.train_rows(panel, splits.split_dates(panel, POLICY), POLICY)
    return fit_churn_model(train, FEATURES, SMALL, rows=480)


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


def test_the_same_rows_give_the_same_model_scores_and_recall_to_the_last_digit(
    spark: SparkSession, panel_rows: list[tuple], first: tuple
) -> None:
    assert first[3].recall.value is not None
    assert 0 < first[3].recall.value < 1
    assert len(set(first[2].values())) > 10
    assert outcome(spark.createDataFrame(panel_rows, SCHEMA)) == first


def test_shuffled_and_repartitioned_rows_give_the_same_model_scores_and_recall(
    spark: SparkSession, panel_rows: list[tuple], first: tuple
) -> None:
    shuffled = random.Random(1).sample(panel_rows, len(panel_rows))
    assert outcome(spark.createDataFrame(shuffled, SCHEMA).repartition(5, "gap_ratio")) == first


def test_the_validation_rows_are_not_learned_from(spark: SparkSession, panel_rows: list[tuple], first: tuple) -> None:
    panel = spark.createDataFrame(panel_rows, SCHEMA)
    is_seen = splits.fold(F.col("customer_id"), POLICY.split.salt) >= splits.VALIDATION_FOLDS.stop
    other_labels = panel.withColumn("label", F.when(is_seen, F.col("label")).otherwise(1 - F.col("label")))
    digests = [
        model_digest(fitted(rows), first[1].value)
        for rows in (other_labels, panel.withColumn("label", 1 - F.col("label")))
    ]
    assert digests[0] == first[0]
    assert digests[1] != first[0]


def test_the_digest_covers_threshold_inputs_and_trees(spark: SparkSession, panel_rows: list[tuple]) -> None:
    train = spark.createDataFrame(panel_rows, SCHEMA).withColumn("fold", F.lit(50))
    hyperparameters = GradientBoosting(max_depth=2, iterations=2)

    def model(features: tuple[str, ...], hyperparameters: GradientBoosting) -> BoostedTrees:
        return fit_churn_model(train, features, hyperparameters, rows=900)

    one = model(FEATURES, hyperparameters)
    digests = [
        model_digest(one, 0.5),
        model_digest(one, 0.5000000000000001),
        model_digest(one, None),
        model_digest(model(FEATURES[::-1], hyperparameters), 0.5),
        model_digest(model(FEATURES, GradientBoosting(max_depth=2, iterations=2, step_size=0.2)), 0.5),
        model_digest(model(FEATURES, GradientBoosting(max_depth=1, iterations=2)), 0.5),
    ]
    assert len(set(digests)) == len(digests)


def test_scores_are_probabilities_beside_the_rows_and_importances_sum_to_one(
    spark: SparkSession, panel_rows: list[tuple]
) -> None:
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
    importances = model.importances()
    assert list(importances) == list(FEATURES)
    assert sum(importances.values()) == pytest.approx(1)
    unknown = rows.withColumn("gap_ratio", F.lit(None).cast("double"))
    with pytest.raises((PySparkException, Py4JJavaError), match="feature gap_ratio is null or NaN"):
        with_churn_probability(model, unknown).collect()


@pytest.mark.parametrize(("label", "told"), [(1.0, "others: 0"), (0.0, "churners: 0")])
def test_one_class_in_the_training_folds_cannot_teach_and_the_error_counts_both(
    spark: SparkSession, label: float, told: str
) -> None:
    rows = [(f"c-{number}", FIRST, 1.0, 1.0, 1.0, label, 50) for number in range(5)]
    # The other class is only where the threshold is chosen.
    rows.append(("validation", FIRST, 1.0, 1.0, 1.0, 1 - label, 20))
    train = spark.createDataFrame(rows, f"{SCHEMA}, fold int")
    with pytest.raises(UntrainableError, match=told):
        fit_churn_model(train, FEATURES, SMALL, rows=6)


def test_sparks_own_estimator_without_a_folder_to_share_says_what_it_needs(
    spark: SparkSession, panel_rows: list[tuple]
) -> None:
    train = spark.createDataFrame(panel_rows, SCHEMA).withColumn("fold", F.lit(50))
    with pytest.raises(UnavailableEstimatorError, match="needs Spark, and a folder") as refused:
        fit_churn_model(train, FEATURES, replace(SMALL, estimator="gbt"), rows=900)
    assert 'CHURN_ENGINE=local (or SPARK_MASTER, SPARK_REMOTE), or train with estimator = "xgboost"' in str(
        refused.value
    )


@pytest.mark.skipif(ENGINE["CHURN_ENGINE"] != "sail", reason="Spark has it")
def test_sparks_own_estimator_on_another_engine_says_that_it_needs_spark(
    spark: SparkSession, panel_rows: list[tuple]
) -> None:
    train = spark.createDataFrame(panel_rows, SCHEMA).withColumn("fold", F.lit(50))
    by_spark = replace(SMALL, estimator="gbt")
    with pytest.raises(UnavailableEstimatorError, match=r'(?s)needs Spark.*estimator = "xgboost", or on Spark'):
        fit_churn_model(train, FEATURES, by_spark, rows=900, shared_folder=lambda: nullcontext("/nowhere"))


def test_score_counts_add_up_equal_scores_and_labels(spark: SparkSession) -> None:
    scored = spark.createDataFrame(
        [(0.5, 1.0), (0.5, 1.0), (0.5, 0.0), (0.25, None)], "churn_probability double, label double"
    )
    assert sorted(score_counts(scored), key=str) == [(0.25, None, 1), (0.5, 0.0, 1), (0.5, 1.0, 2)]


# ---- weights and alerts


def mean_score(model: BoostedTrees, rows: DataFrame) -> float:
    return with_churn_probability(model, rows).agg(F.avg("churn_probability")).collect()[0][0]


def test_balanced_class_weights_raise_the_scores_to_a_half_and_none_keeps_them_at_the_churn_rate(
    spark: SparkSession, panel_rows: list[tuple]
) -> None:
    train = spark.createDataFrame(panel_rows, SCHEMA).withColumn("fold", F.lit(50))
    rate = train.agg(F.avg("label")).collect()[0][0]
    assert rate < 0.45
    plain = fit_churn_model(train, FEATURES, SMALL, rows=900)
    unweighted = fit_churn_model(train, FEATURES, SMALL, rows=900, class_weights="none")
    balanced = fit_churn_model(train, FEATURES, SMALL, rows=900, class_weights="balanced")
    assert model_digest(unweighted, 0.5) == model_digest(plain, 0.5) != model_digest(balanced, 0.5)
    assert mean_score(plain, train) == pytest.approx(rate, abs=0.05)
    assert mean_score(balanced, train) == pytest.approx(0.5, abs=0.05)
    assert mean_score(balanced, train) > mean_score(plain, train) + 0.05


def test_balanced_weights_of_as_many_churners_as_others_change_nothing(
    spark: SparkSession, panel_rows: list[tuple]
) -> None:
    train = spark.createDataFrame(panel_rows, SCHEMA).withColumn("fold", F.lit(50))
    churners = train.where("label = 1").orderBy("customer_id", "as_of").limit(200)
    even = churners.unionByName(train.where("label = 0").orderBy("customer_id", "as_of").limit(200)).persist()
    one, other = (fit_churn_model(even, FEATURES, SMALL, rows=400, class_weights=by) for by in ("none", "balanced"))
    assert model_digest(one, 0.5) == model_digest(other, 0.5)


def test_an_alert_is_a_score_at_or_above_the_cut_off_and_without_one_nobody_is_alerted(
    spark: SparkSession, panel_rows: list[tuple]
) -> None:
    rows = spark.createDataFrame(panel_rows, SCHEMA)
    model = fitted(rows)
    scores = sorted({row["churn_probability"] for row in rows_of(with_churn_probability(model, rows))})
    threshold = scores[len(scores) // 2]
    alerted = rows_of(with_alerts(model, rows, threshold))
    assert all(row["is_alert"] is (row["churn_probability"] >= threshold) for row in alerted)
    assert any(row["is_alert"] and row["churn_probability"] == threshold for row in alerted)
    assert {row["is_alert"] for row in alerted} == {True, False}
    assert {row["is_alert"] for row in rows_of(with_alerts(model, rows, None))} == {False}
    assert with_alerts(model, rows, None).columns == [*rows.columns, "churn_probability", "is_alert"]


# ---- cross-fitting


WIDE_SCHEMA = (
    f"customer_id string, as_of date, {', '.join(f'{name} double' for name in FEATURE_SETS['seed'])}, label double"
)
SEED_POLICY = POLICY.model_copy(update={"model": Model(feature_set="seed")})


@pytest.fixture(scope="module")
def wide_rows(panel_rows: list[tuple]) -> list[tuple]:
    """The same customers with the features of the smallest set, three of which tell something."""
    return [
        (customer, as_of, recency, rating, 0.0, gap, 0.0, 0.0, 111.0, label)
        for customer, as_of, recency, gap, rating, label in panel_rows
    ]


def all_crossfitted(
    panel: DataFrame, rotations: Iterable[int] = splits.CROSSFIT_FOLDS
) -> dict[str, tuple[int, float, bool]]:
    """customer_id -> crossfit_fold it was judged in, score and alert."""
    dates = splits.split_dates(panel, SEED_POLICY)
    found: dict[str, tuple[int, float, bool]] = {}
    for crossfit_fold in rotations:
        for row in rows_of(crossfitted(panel, dates, SMALL, SEED_POLICY, crossfit_fold)):
            assert row["customer_id"] not in found
            assert row["as_of"] == dates.test
            found[row["customer_id"]] = (crossfit_fold, row["churn_probability"], row["is_alert"])
    return found


def test_each_customer_is_scored_by_a_model_that_never_saw_it(spark: SparkSession, wide_rows: list[tuple]) -> None:
    first = all_crossfitted(spark.createDataFrame(wide_rows, WIDE_SCHEMA))
    assert len(first) == 300
    assert len({score for _, score, _ in first.values()}) > 20
    of_fold = {
        crossfit_fold: {customer for customer, (of, *_) in first.items() if of == crossfit_fold}
        for crossfit_fold in splits.CROSSFIT_FOLDS
    }
    # The customers of one fold get other labels: their own scores stay to the last digit, those of others move.
    changed = [(*row[:-1], 1 - row[-1]) if row[0] in of_fold[2] else row for row in wide_rows]
    second = all_crossfitted(spark.createDataFrame(changed, WIDE_SCHEMA), (0, 2))
    assert {customer: second[customer] for customer in of_fold[2]} == {
        customer: first[customer] for customer in of_fold[2]
    }
    assert any(second[customer] != first[customer] for customer in of_fold[0])


def test_rotation_0_is_the_registered_model_and_its_threshold(spark: SparkSession, wide_rows: list[tuple]) -> None:
    panel = spark.createDataFrame(wide_rows, WIDE_SCHEMA)
    dates = splits.split_dates(panel, SEED_POLICY)
    train = splits.train_rows(panel, dates, SEED_POLICY)
    current = splits.current_rows(panel, dates, SEED_POLICY)
    model = models.train_churn_model(train, current, SMALL, SEED_POLICY)
    assert model.threshold_value is not None
    held_out = splits.held_out_rows(panel, dates, SEED_POLICY)
    registered = with_alerts(model.trees, held_out, model.threshold_value)
    again = crossfitted(panel, dates, SMALL, SEED_POLICY, 0).select(registered.columns)
    assert rows_of(again.orderBy("customer_id")) == rows_of(registered.orderBy("customer_id"))


def test_the_validation_fold_chooses_the_threshold_and_teaches_nothing(
    spark: SparkSession, wide_rows: list[tuple]
) -> None:
    def trained(rows: list[tuple]) -> ChurnModel:
        panel = spark.createDataFrame(rows, WIDE_SCHEMA)
        dates = splits.split_dates(panel, SEED_POLICY)
        train = splits.train_rows(panel, dates, SEED_POLICY)
        return models.train_churn_model(train, splits.current_rows(panel, dates, SEED_POLICY), SMALL, SEED_POLICY)

    folded = spark.createDataFrame(wide_rows, WIDE_SCHEMA).withColumn(
        "fold", splits.fold(F.col("customer_id"), SEED_POLICY.split.salt)
    )
    held_back = {row["customer_id"] for row in rows_of(folded.where(splits.is_validation()))}
    first = trained(wide_rows)
    other = trained([(*row[:-1], 1 - row[-1]) if row[0] in held_back else row for row in wide_rows])
    assert model_digest(first.trees, None) == model_digest(other.trees, None)
    turned = [(score, float(label == 0), rows) for score, label, rows in first.validation]
    assert sorted(turned) == sorted(other.validation)
    assert sum(rows for *_, rows in turned) == 2 * len(held_back) > 0


def test_pooled_scores_are_of_everybody_once_and_only_the_test_customers_are_unseen(
    spark: SparkSession, wide_rows: list[tuple]
) -> None:
    panel = spark.createDataFrame(wide_rows, WIDE_SCHEMA)
    dates = splits.split_dates(panel, SEED_POLICY)
    train = splits.train_rows(panel, dates, SEED_POLICY)
    model = models.train_churn_model(train, splits.current_rows(panel, dates, SEED_POLICY), SMALL, SEED_POLICY)
    held_out = splits.held_out_rows(panel, dates, SEED_POLICY)
    pooled = crossfit_scores(held_out_scores(model.trees, held_out, model.threshold_value), panel, SMALL, SEED_POLICY)
    collected = rows_of(pooled)
    rows = {row["customer_id"]: row for row in collected}
    assert len(collected) == len(rows) == 300
    unseen = {customer for customer, row in rows.items() if row["is_unseen"]}
    assert unseen == {row["customer_id"] for row in rows_of(held_out)}


# ---- whatever the rows are like: a model with a verdict, or a reason


NAMES = tuple(feature.name for feature in CATALOGUE)
PRIOR = PurchasePrior(PurchaseModel(r=2.0, alpha=25.0, a=0.5, b=6.0), days=30)


def judged(panel: DataFrame, policy: ChurnPolicy, features: tuple[str, ...] = NAMES) -> Evaluation:
    """The verdict on a panel, as the flow reaches it, with rivals that know nothing."""
    dates = splits.split_dates(panel, policy)
    train = splits.train_rows(panel, dates, policy).persist()
    rows = train.count()
    model = fit_churn_model(train, features, SMALL, rows=rows, prior=PRIOR)
    validation = score_counts(with_churn_probability(model, train.where(splits.is_validation())))
    current = score_counts(with_churn_probability(model, splits.current_rows(panel, dates, policy)))
    threshold = choose_threshold(validation, current, policy)
    value = threshold.value if threshold else None
    test = held_out_scores(model, splits.held_out_rows(panel, dates, policy), value)
    found = scored(test.toPandas().assign(risk_score=0.0, no_purchase=0.0), features, {})
    return judge(found, policy, has_threshold=threshold is not None)


def catalogue_panel(
    spark: SparkSession, customers: int, weeks: tuple[int, ...] = (0, 6), /, **constant: float
) -> DataFrame:
    """Random features in their ranges; most of the long silent leave. `constant` are features of one value."""
    rng = random.Random(customers)
    rows = []
    for number in range(customers):
        for week in weeks:
            values = {f.name: rng.uniform(max(f.low, 0), min(f.high, max(f.low, 0) + 30)) for f in CATALOGUE}
            values["crisis_exposure_index"] = float(rng.random() < 0.5)
            label = float(rng.random() < (0.7 if values["recency_days"] > 18 else 0.05))
            key = {"customer_id": f"c-{number}", "as_of": FIRST + timedelta(weeks=week)}
            rows.append({**key, **values, **constant, "label": label})
    return frame(spark, rows, PANEL_SCHEMA)


def has_verdict_and_reasons(evaluation: Evaluation) -> bool:
    return evaluation.verdict in (Verdict.PASS, Verdict.FAIL) and len(evaluation.reasons) >= 5


def test_features_that_are_all_constant_give_a_model_that_fails_for_knowing_nothing(spark: SparkSession) -> None:
    evaluation = judged(catalogue_panel(spark, 300, **dict.fromkeys(NAMES, 1.0)), POLICY)
    assert evaluation.verdict is Verdict.FAIL
    assert evaluation.figures.roc_auc.value == 0.5
    assert any(reason.startswith("missed: threshold on the validation fold none") for reason in evaluation.reasons)


def test_a_single_feature_is_enough_to_fit_and_to_judge(spark: SparkSession) -> None:
    panel = catalogue_panel(spark, 300)
    one = judged(panel, POLICY, ("recency_days",))
    assert has_verdict_and_reasons(one)
    assert one.figures.roc_auc.value is not None
    assert one.figures.roc_auc.value > 0.6
    assert [canary.feature for canary in one.leakage] == ["recency_days"]
    # A model of one feature is no better than the feature.
    assert any(warning.startswith("recency_days alone") for warning in one.warnings)


def test_a_single_constant_feature_is_fitted_and_fails(spark: SparkSession) -> None:
    evaluation = judged(catalogue_panel(spark, 300, gap_ratio=3.0), POLICY, ("gap_ratio",))
    assert evaluation.verdict is Verdict.FAIL


@pytest.mark.parametrize("extreme", [1e300, -1e300, 5e-324])
def test_an_extreme_value_in_a_few_rows_spoils_nothing(spark: SparkSession, extreme: float) -> None:
    panel = catalogue_panel(spark, 300)
    is_hit = F.col("customer_id").isin("c-1", "c-2", "c-3", "c-4", "c-5")
    spoiled = panel.withColumn("gap_ratio", F.when(is_hit, extreme).otherwise(F.col("gap_ratio")))
    evaluation = judged(spoiled.withColumn("rfm_score", F.lit(extreme)), POLICY)
    assert has_verdict_and_reasons(evaluation)
    assert evaluation.figures.roc_auc.value is not None
    assert evaluation.figures.roc_auc.value > 0.6


def test_extreme_values_of_both_signs_in_every_feature_can_be_fitted_and_judged(spark: SparkSession) -> None:
    panel = catalogue_panel(spark, 300)
    extremes = F.when(F.hash("customer_id") % 2 == 0, 1e300).otherwise(-1e300)
    evaluation = judged(panel.withColumns(dict.fromkeys(NAMES, extremes)), POLICY)
    assert has_verdict_and_reasons(evaluation)


def told_of(panel: DataFrame, policy: ChurnPolicy) -> list[str]:
    """Why there is no model, or what its verdict rests on; with a handful of customers none can pass."""
    try:
        evaluation = judged(panel, policy)
    except UntrainableError as untrainable:
        return list(untrainable.problems)
    assert evaluation.verdict is not Verdict.PASS
    return list(evaluation.reasons)


@pytest.mark.parametrize("salt", ["0", "1", "2"])
def test_ten_customers_come_to_a_verdict_or_to_a_reason_why_not(spark: SparkSession, salt: str) -> None:
    assert told_of(catalogue_panel(spark, 10), POLICY.model_copy(update={"split": Split(salt=salt)}))


def test_a_single_customer_cannot_teach(spark: SparkSession) -> None:
    told = told_of(catalogue_panel(spark, 300).where("customer_id = 'c-0'"), POLICY)
    assert len(told) == 2
    assert "churners: 0" in told or "others: 0" in told


def test_where_no_customer_is_left_to_judge_on_there_is_no_verdict(spark: SparkSession) -> None:
    is_tested = splits.fold(F.col("customer_id"), POLICY.split.salt) < splits.TEST_FOLDS.stop
    evaluation = judged(catalogue_panel(spark, 60).where(~is_tested), POLICY)
    assert evaluation.verdict is Verdict.NOT_EVALUABLE
    assert evaluation.reasons == ("there are no test rows",)


def test_a_single_snapshot_comes_to_a_verdict(spark: SparkSession) -> None:
    evaluation = judged(catalogue_panel(spark, 300, (0,)), POLICY)
    assert has_verdict_and_reasons(evaluation)
    assert evaluation.figures.rows > 30


def test_where_only_the_test_customers_all_stay_there_is_no_verdict(spark: SparkSession) -> None:
    panel = catalogue_panel(spark, 300)
    is_tested = splits.fold(F.col("customer_id"), POLICY.split.salt) < splits.TEST_FOLDS.stop
    evaluation = judged(panel.withColumn("label", F.when(is_tested, 0.0).otherwise(F.col("label"))), POLICY)
    assert evaluation.verdict is Verdict.NOT_EVALUABLE
    assert evaluation.reasons == ("there is no churner among the test rows",)


# ---- a backtest: other models, of what was known by earlier dates


@pytest.fixture(scope="module")
def dated_rows() -> list[tuple]:
    """300 customers at five dates: what came of the first alone was known by the third, of two by the others."""
    random_, rows = random.Random(6), []
    for number in range(300):
        for week in (0, 1, 5, 6, 7):
            recency, gap, rating = random_.uniform(0, 30), random_.expovariate(0.5), random_.uniform(1, 5)
            label = float(random_.random() < 0.1 + recency / 60 + (rating < 2) * 0.3)
            values = (recency, rating, 0.0, gap, 0.0, 0.0, 111.0)
            rows.append((f"c-{number}", FIRST + timedelta(weeks=week), *values, label))
    return rows


def over_dates(panel: DataFrame, policy: ChurnPolicy = SEED_POLICY) -> dict[tuple[date, str], dict[str, Any]]:
    """(as_of, customer_id) -> the judged row, the latest date's by a model of no use."""
    labelled = sorted(row["as_of"] for row in rows_of(panel.select("as_of").distinct()))
    backtest = splits.backtest_dates(labelled, policy)
    assert len(backtest) == 3
    nobody = splits.held_out_rows(panel, backtest[0], policy).withColumn("churn_probability", F.lit(0.5))
    held_out = nobody.withColumn("is_alert", F.lit(False)).withColumn("is_unseen", F.lit(True))
    heard: list[str] = []
    pooled = backtest_scores(held_out, panel, backtest, SMALL, policy, prior_at=lambda day: None, told=heard.append)
    others = enumerate(backtest[1:], start=2)
    assert heard == [
        f"backtest 1 of 3: the model itself, at {backtest[0].test}",
        *(f"backtest {place} of 3: a model of what was known by {dates.test}" for place, dates in others),
    ]
    rows = rows_of(pooled)
    found = {(row["as_of"], row["customer_id"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_date_of_a_backtest_judges_a_fold_of_its_own_and_only_the_latest_the_model_itself(
    spark: SparkSession, dated_rows: list[tuple]
) -> None:
    panel = spark.createDataFrame(dated_rows, WIDE_SCHEMA)
    found = over_dates(panel)
    days = sorted({day for day, _ in found})
    assert {day for (day, _), row in found.items() if row["is_unseen"]} == {days[-1]}
    folds = {
        row["customer_id"]: row["fold"]
        for row in rows_of(
            panel.select("customer_id", splits.fold(F.col("customer_id"), "42").alias("fold")).distinct()
        )
    }
    judged_folds = [{folds[customer] // 20 for day, customer in found if day == each} for each in days]
    assert judged_folds == [{2}, {1}, {0}]


def test_a_date_of_a_backtest_is_judged_by_a_model_of_other_customers_and_of_what_was_known_by_it(
    spark: SparkSession, dated_rows: list[tuple]
) -> None:
    first = over_dates(spark.createDataFrame(dated_rows, WIDE_SCHEMA))
    days = sorted({day for day, _ in first})
    judged_at = {day: {customer for each, customer in first if each == day} for day in days}

    def scores(changed: list[tuple], day: date) -> dict[str, float]:
        found = over_dates(spark.createDataFrame(changed, WIDE_SCHEMA))
        return {customer: row["churn_probability"] for (each, customer), row in found.items() if each == day}

    before = {customer: first[days[0], customer]["churn_probability"] for customer in judged_at[days[0]]}
    assert len(set(before.values())) > 5
    # Neither what its own customers did, nor what became known after it, moves a digit.
    own = [(*row[:-1], 1 - row[-1]) if row[0] in judged_at[days[0]] else row for row in dated_rows]
    later = [(*row[:-1], 1 - row[-1]) if row[1] + timedelta(days=30) > days[0] else row for row in dated_rows]
    assert scores(own, days[0]) == scores(later, days[0]) == before
    known = [(*row[:-1], 1 - row[-1]) if row[1] + timedelta(days=30) <= days[0] else row for row in dated_rows]
    assert scores(known, days[0]) != before

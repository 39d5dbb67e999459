"""Reasons add up to the model's own score, and their sentences have the customer's own values."""

import math
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURE_OF, TOLD_COLUMNS
from churn_assets.churn.models import GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import REASON_RULES, Reference, explained, reason_outcomes, reference
from churn_assets.churn.shap_values import Explainer
from churn_assets.churn.trees import BoostedTrees
from churn_assets.churn.wording import Wording
from churn_assets_tests.true_reasons import contradictions

WORDING = Wording(ChurnPolicy().feature_rules, {0: "Regular", 1: "Student"})


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


def references(rows: DataFrame, model: BoostedTrees) -> dict[date, Reference]:
    scored = rows.toArrow()
    return {day: reference(scored.filter(pc.equal(scored.column("as_of"), day)), model) for day in DAYS}


def weighed_as_by_spark(model: BoostedTrees) -> BoostedTrees:
    """The trees as another learner has them: none is a single leaf, and the first weighs more than the others."""
    weights = [1.0, *[0.1] * (len(model.trees) - 2)]
    return replace(
        model, trees=tuple(replace(tree, weight=by) for tree, by in zip(model.trees[1:], weights, strict=True))
    )


@pytest.mark.parametrize("is_weighed_alike", [True, False])
def test_reasons_add_up_to_the_models_own_score_whatever_the_partitions(
    spark: SparkSession, is_weighed_alike: bool
) -> None:
    rows = panel(spark)
    model = fit_churn_model(rows, NAMES, GradientBoosting(iterations=5), rows=600)
    model = model if is_weighed_alike else weighed_as_by_spark(model)
    few = rows.where("total_orders <= 3")
    found = explained(few, model, references(rows, model), WORDING)
    again = explained(few.repartition(7), model, references(rows.orderBy(F.desc("customer_id")), model), WORDING)
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
    assert max(len(row.reasons) for row in keyed.values()) > 1


def test_the_reference_is_the_mean_of_the_date(spark: SparkSession) -> None:
    rows = panel(spark)
    model = fit_churn_model(rows, NAMES, GradientBoosting(iterations=2), rows=600)
    of_date = rows.where(F.col("as_of") == F.lit(DAYS[0]))
    found = references(rows, model)[DAYS[0]]
    # As Spark has it, to the last digit.
    means = [F.avg(F.col(name).cast("string").cast("decimal(20,12)")).cast("string").alias(name) for name in NAMES]
    (expected,) = of_date.agg(*means).collect()
    assert found.values == {name: float(mean) for name, mean in expected.asDict().items()}
    assert [int(visits[0]) for visits in found.visits] == [of_date.count()] * len(model.trees)


def sparse_shop(random: np.random.Generator) -> pd.DataFrame:
    """Customers most of whom ordered once or twice, with every feature, and labels that follow some of them."""
    rows = 1_500
    tenure, rate = random.uniform(20, 700, rows), random.lognormal(-4.5, 1.0, rows)
    ever = 1.0 + random.poisson(rate * tenure)
    silence = np.where(ever == 1, tenure, random.uniform(0, 1, rows) * tenure / ever)
    promised, reviews = random.binomial(2, 0.6, rows), random.binomial(1, 0.3, rows)
    late = random.binomial(promised, 0.3)
    delay = np.where(late > 0, random.exponential(40, rows), 0.0)
    rating = np.where(reviews, random.integers(1, 6, rows), 3.9)
    return pd.DataFrame(
        {
            "customer_id": [f"C{number:05}" for number in range(rows)],
            "as_of": DAYS[0],
            "total_orders": np.ceil(ever / 3),
            "avg_star_rating": rating,
            "late_order_ratio": late / np.maximum(promised, 1),
            "segment_index": random.integers(-1, 2, rows).astype(float),
            "crisis_exposure_index": (delay > 45).astype(float),
            "sentiment_velocity": np.where(reviews, -random.integers(0, 4, rows), 0).astype(float),
            "rfm_score": random.integers(1, 6, (rows, 3)) @ np.array([100.0, 10.0, 1.0]),
            "recency_days": silence,
            "tenure_days": tenure,
            "gap_ratio": silence / np.maximum(tenure / ever, 1),
            "missed_orders": silence * ever / tenure,
            "recent_delay_minutes": delay,
            "orders_ever": ever,
            "delay_minutes_at_last_order": delay,
            "reviews": reviews,
            "promised_deliveries": promised,
            "late_deliveries": late,
            # Little silence and many orders leave too: what trees learn from it contradicts what people say.
            "label": (random.random(rows) < 0.2 + 0.3 * (silence < 10) + 0.2 * (ever > 4) + 0.1 * late).astype(float),
            "fold": 30 + np.arange(rows) % 70,
        }
    )


def test_no_reason_contradicts_what_it_is_given_for(spark: SparkSession) -> None:
    rows = spark.createDataFrame(sparse_shop(np.random.default_rng(5)))
    model = fit_churn_model(rows, [*FEATURE_OF], GradientBoosting(), rows=1_500)
    found = explained(rows, model, {DAYS[0]: reference(rows.toArrow(), model)}, WORDING)
    told = [row.asDict(recursive=True) for row in found.collect()]
    assert list(contradictions(told)) == []
    assert sum(len(row["reasons"]) for row in told) > 1_000
    assert set(TOLD_COLUMNS) <= {*rows.columns}


def test_what_hardly_raised_the_score_is_no_reason(spark: SparkSession) -> None:
    rows = spark.createDataFrame(sparse_shop(np.random.default_rng(5)))
    model = fit_churn_model(rows, [*FEATURE_OF], GradientBoosting(), rows=1_500)
    of_date = reference(rows.toArrow(), model)
    found = explained(rows, model, {DAYS[0]: of_date}, WORDING).toPandas()
    features = [FEATURE_OF[name] for name in model.features]
    explainer = Explainer(model.trees, of_date.visits, len(features))
    shares = explainer.contributions(found[[*model.features]].to_numpy(float))
    topics = [feature.about for feature in features]
    of_topic = pd.DataFrame(shares).T.groupby(topics).sum().T
    rises = of_topic.clip(lower=0).sum(axis=1)
    told = [[reason["contribution"] for reason in row] for row in found["reasons"]]
    least = [min(row) / rise for row, rise in zip(told, rises, strict=True) if row]
    assert 0.1 <= min(least) < 0.11
    # Without the bound half of the shop would hear of less.
    third = np.sort(of_topic.to_numpy())[:, -3]
    assert ((third > 0) & (third < 0.1 * rises)).mean() > 0.2


def test_every_number_of_a_customer_in_a_sentence_is_the_customers_own(spark: SparkSession) -> None:
    rows = panel(spark)
    model = fit_churn_model(rows, NAMES, GradientBoosting(iterations=3), rows=600)
    found = explained(rows, model, references(rows, model), WORDING)
    reasons = found.select(*rows.columns, F.inline("reasons")).collect()
    assert len(reasons) > 500
    for row in reasons:
        assert row.value == row[row.feature]
        if row.feature == "late_order_ratio" and row.late_deliveries and row.promised_deliveries > 1:
            assert row.sentence.startswith(f"{row.late_deliveries} of the last ")
        if row.feature == "total_orders":
            assert row.sentence.startswith(f"{row.total_orders:.0f} order")


# --- the rules of the table ---


def explained_week(size: int = 20) -> list[dict[str, Any]]:
    rows = []
    for number in range(size):
        raw = (number - size / 2) / 10
        shares = [raw / 4] * (number % 3)
        reasons = [
            {"feature": "x", "value": 1.0, "usual": 2.0, "contribution": share, "sentence": ""} for share in shares
        ]
        rest = {"raw_score": raw, "base_score": 0.125, "other_contributions": raw - 0.125 - sum(shares)}
        stamps = {"model_version": "1", "features_version": 4}
        rows.append({"customer_id": f"C{number:03}", "as_of": DAYS[0], **stamps, "reasons": reasons, **rest})
    return rows


def broken(told: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The broken rules, each with its offenders."""
    good = pa.Table.from_pylist(explained_week())
    probabilities = pa.array(1 / (1 + np.exp(-2 * good.column("raw_score").to_numpy())))
    scored = good.select(["customer_id", "as_of", "model_version", "features_version"])
    outcomes = reason_outcomes(
        pa.Table.from_pylist(told, good.schema), scored.append_column("churn_probability", probabilities)
    )
    assert tuple(outcome.rule for outcome in outcomes) == REASON_RULES
    return {outcome.rule: outcome.keys for outcome in outcomes if not outcome.is_passed}


def changed(name: str, value: Any) -> list[dict[str, Any]]:
    return [{**row, name: value} if row["customer_id"] == "C007" else row for row in explained_week()]


def test_reasons_that_add_up_for_everybody_scored_break_no_rule() -> None:
    assert broken(explained_week()) == {}
    assert broken(explained_week()[::-1]) == {}


@pytest.mark.parametrize(
    ("told", "rules"),
    [
        (changed("raw_score", 9.0), {"additivity"}),
        (changed("raw_score", -1e6), {"additivity"}),
        (changed("raw_score", None), {"additivity"}),
        (changed("other_contributions", 9.0), {"additivity"}),
        (changed("base_score", math.nan), {"additivity"}),
        (changed("reasons", None), {"additivity"}),
        (changed("reasons", []), {"additivity"}),
        (changed("model_version", "2"), {"coverage", "additivity"}),
        (changed("features_version", 3), {"coverage", "additivity"}),
        (changed("customer_id", "stranger"), {"coverage", "additivity"}),
        ([*explained_week(), explained_week()[7]], {"coverage"}),
        (explained_week()[:-1], {"coverage"}),
        ([], {"coverage"}),
    ],
)
def test_broken_reasons_break_their_rule(told: list[dict[str, Any]], rules: set[str]) -> None:
    assert set(broken(told)) == rules


def test_whose_reasons_break_a_rule_is_named() -> None:
    assert broken(changed("reasons", None)) == {"additivity": (f"C007 at {DAYS[0]}",)}
    assert broken(explained_week()[:-1]) == {"coverage": (f"C019 at {DAYS[0]}",)}

"""Reasons add up to the model's own score, and their sentences have the customer's own values."""

import math
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.models import GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import Reference, _median, explained, reference
from churn_assets.churn.trees import BoostedTrees
from churn_assets.churn.wording import Wording

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
    assert max(len(row.reasons) for row in keyed.values()) == 3


def test_the_reference_is_the_median_of_the_date_and_of_a_share_the_mean(spark: SparkSession) -> None:
    rows = panel(spark)
    model = fit_churn_model(rows, NAMES, GradientBoosting(iterations=2), rows=600)
    of_date = rows.where(F.col("as_of") == F.lit(DAYS[0]))
    found = references(rows, model)[DAYS[0]]
    # As Spark has it, to the last digit.
    mean = F.avg(F.col("late_order_ratio").cast("decimal(20,12)")).cast("string").alias("late_order_ratio")
    medians = [F.percentile(F.round(name, 2), 0.5).alias(name) for name in ("total_orders", "recency_days")]
    (expected,) = of_date.agg(*medians, mean).collect()
    assert found.values == {**expected.asDict(), "late_order_ratio": float(expected.late_order_ratio)}
    assert [int(visits[0]) for visits in found.visits] == [of_date.count()] * len(model.trees)


def test_a_median_rounds_half_up_and_lies_between_the_two_in_the_middle() -> None:
    assert _median(np.array([0.125, 7.0, -3.0])) == 0.13
    assert _median(np.array([2.675, 9.0, 0.0, 2.685])) == (2.68 + 2.69) / 2
    assert math.copysign(1, _median(np.array([-0.0, -0.0]))) == 1


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

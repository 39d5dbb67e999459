"""The rules of the scores find each planted fault, name the customers, and find nothing in sound scores."""

import math
from datetime import date

import pytest
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.outcomes import MAX_KEYS, Outcome
from churn_assets.churn.policy import Scoring
from churn_assets.churn.scoring import SCORE_RULES, scorable, score_outcomes, unscorable, with_risk_tier

WEEK = date(2025, 9, 1)
Score = tuple[str, float | None, str | None]
SOUND: list[Score] = [("a", 0.0, "low"), ("b", 1.0, "high"), ("c", 0.5, "medium")]


def keys_of(spark: SparkSession, *customers: str) -> DataFrame:
    return spark.createDataFrame([(customer, WEEK) for customer in customers], "customer_id string, as_of date")


def outcomes_of(
    spark: SparkSession, scores: list[Score], *, unscored: str = "d", eligible: str = "abcd"
) -> dict[str, Outcome]:
    schema = "customer_id string, as_of date, churn_probability double, risk_tier string"
    scored = spark.createDataFrame([(customer, WEEK, *values) for customer, *values in scores], schema)
    outcomes = score_outcomes(scored, keys_of(spark, *unscored), keys_of(spark, *eligible))
    assert tuple(outcome.rule for outcome in outcomes) == SCORE_RULES
    return {outcome.rule: outcome for outcome in outcomes}


def test_sound_scores_of_all_eligible_customers_break_no_rule(spark: SparkSession) -> None:
    for outcome in outcomes_of(spark, SOUND).values():
        assert (outcome.is_passed, outcome.observed, outcome.keys) == (True, "0 offending customers", ())


@pytest.mark.parametrize(
    ("probability", "tier"),
    [(None, "low"), (math.nan, "high"), (-0.001, "low"), (1.001, "high"), (0.5, None), (0.5, "unheard of")],
)
def test_a_wrong_value_is_found_with_its_customer(
    spark: SparkSession, probability: float | None, tier: str | None
) -> None:
    outcomes = outcomes_of(spark, [*SOUND[:2], ("c", probability, tier)])
    assert outcomes["coverage"].is_passed
    assert not outcomes["values"].is_passed
    assert (outcomes["values"].observed, outcomes["values"].keys) == ("1 offending customers", ("c at 2025-09-01",))


def test_who_is_missing_scored_twice_scored_and_unscored_or_not_eligible_is_named(spark: SparkSession) -> None:
    outcomes = outcomes_of(spark, [*SOUND, SOUND[0], ("d", 0.5, "low"), ("x", 0.5, "low")], eligible="abcde")
    assert outcomes["values"].is_passed
    assert not outcomes["coverage"].is_passed
    assert outcomes["coverage"].observed == "4 offending customers"
    assert outcomes["coverage"].keys == tuple(f"{customer} at 2025-09-01" for customer in "adex")


def test_a_tier_begins_at_its_probability_and_an_alert_is_of_medium_risk_at_least(spark: SparkSession) -> None:
    policy = Scoring(tier_probabilities=(0.5, 0.25))
    below = math.nextafter(0.25, 0)
    expected = {
        (0.5, True): "high",
        (math.nextafter(0.5, 0), True): "medium",
        (0.25, False): "medium",
        (below, False): "low",
        (below, True): "medium",
    }
    rows = [(str(number), WEEK, *scored) for number, scored in enumerate(expected)]
    scored = spark.createDataFrame(rows, "customer_id string, as_of date, churn_probability double, is_alert boolean")
    tiered = with_risk_tier(scored, policy, churn_rate=0.1).collect()
    assert {(row.churn_probability, row.is_alert): row.risk_tier for row in tiered} == expected


def test_each_customer_is_scored_or_listed_with_what_is_at_fault(spark: SparkSession) -> None:
    values = {
        "sound": (1.0, 5.0),
        "unknown": (None, 5.0),
        "no number": (3.0, math.nan),
        "endless": (math.inf, 5.0),
        "too much": (3.0, 5.5),
        "both": (0.0, -math.inf),
    }
    rows = [(name, WEEK, *both) for name, both in values.items()]
    panel = spark.createDataFrame(rows, "customer_id string, as_of date, total_orders double, avg_star_rating double")
    features = ("total_orders", "avg_star_rating")
    assert [row.customer_id for row in scorable(panel, features).collect()] == ["sound"]
    assert {row.customer_id: row.reason for row in unscorable(panel, features).collect()} == {
        "unknown": "total_orders is null",
        "no number": "avg_star_rating is NaN",
        "endless": "total_orders is infinite",
        "too much": "avg_star_rating is 5.5, allowed is 1 to 5",
        "both": "total_orders is 0.0, allowed is 1 or more; avg_star_rating is infinite",
    }
    # What the model does not use may be as it likes.
    assert scorable(panel, features[1:]).count() == 3


def test_at_most_ten_customers_are_named_and_all_are_counted(spark: SparkSession) -> None:
    outcomes = outcomes_of(spark, [(f"{number:02}", 7.0, "low") for number in range(30)])
    assert [outcome.observed for outcome in outcomes.values()] == ["30 offending customers", "33 offending customers"]
    assert all(len(outcome.keys) == MAX_KEYS for outcome in outcomes.values())

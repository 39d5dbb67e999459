"""What a week's alerts will turn out to be is foretold without its labels, and the interval holds what comes."""

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.expectation import STEPS, Expectation, expected, is_alert_step, step_of
from churn_assets.churn.intervals import Estimate, Floats
from churn_assets.churn.recalibration import Calibration, calibration_of, chances, log_odds

PERFECT = Calibration(0.0, 1.0, 0.0, 0.0, 0.0, rows=1_000, churners=150)


def steps(scores: Floats, is_alert: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(np.minimum((scores * STEPS).astype(int), STEPS - 1) * 2 + is_alert, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def test_the_churners_expected_are_the_sum_of_the_probabilities() -> None:
    # 100 alerts at 0.4005 and 900 others at 0.1005: 40 and 90 churners.
    foretold = expected({400 * 2 + 1: 100, 100 * 2: 900}, PERFECT, 0.95)
    assert foretold.precision.value == pytest.approx(0.4005)
    assert foretold.recall.value == pytest.approx(40.05 / (40.05 + 90.45))
    # Of a binomial count of 100 customers of one probability, on the log-odds.
    half = 1.959964 / np.sqrt(100 * 0.4005 * 0.5995)
    assert foretold.precision.low == pytest.approx(chances(log_odds(np.array([0.4005])) - half)[0])


def test_the_calibration_moves_the_estimate_and_its_doubt_widens_the_interval() -> None:
    week = {400 * 2 + 1: 100, 100 * 2: 900}
    halved = expected(week, Calibration(-0.5, 1.2, 0.0, 0.0, 0.0, 1_000, 150), 0.95)
    assert halved.precision.value == pytest.approx(chances(-0.5 + 1.2 * log_odds(np.array([0.4005])))[0])
    doubted = expected(week, Calibration(0.0, 1.0, 0.09, 0.02, 0.01, 1_000, 150), 0.95)
    sure = expected(week, PERFECT, 0.95)
    for doubt, certain in ((doubted.recall, sure.recall), (doubted.precision, sure.precision)):
        assert doubt.value == certain.value
        assert width(doubt) > width(certain) + 0.01


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_no_order_of_the_steps_changes_a_digit() -> None:
    random = np.random.default_rng(5)
    week = {int(step): int(random.integers(1, 900)) for step in random.permutation(2 * STEPS)[:500]}
    other = {step: week[step] for step in random.permutation(list(week)).tolist()}
    assert expected(other, PERFECT, 0.95) == expected(week, PERFECT, 0.95)


@pytest.mark.parametrize(
    ("week", "foretold"),
    [
        ({}, Expectation(Estimate(), Estimate())),
        ({100 * 2: 50}, Expectation(Estimate(0.0, 0.0, 0.0), Estimate(), 0.1005)),
    ],
    ids=["nobody scored", "nobody alerted"],
)
def test_where_there_is_nothing_to_foretell_it_says_so(week: dict[int, int], foretold: Expectation) -> None:
    found = expected(week, PERFECT, 0.95)
    assert (found.recall, found.precision) == (foretold.recall, foretold.precision)
    assert found.churn_rate == pytest.approx(foretold.churn_rate)


def test_where_all_are_alerted_all_are_found() -> None:
    foretold = expected({100 * 2 + 1: 50}, PERFECT, 0.95)
    assert foretold.recall == Estimate(1.0, 1.0, 1.0)
    assert foretold.precision.value == pytest.approx(0.1005)


@pytest.mark.parametrize(("judged", "served"), [(400, 300), (400, 5_000), (4_000, 300)])
def test_the_interval_holds_what_comes_in_weeks_without_concept_drift(judged: int, served: int) -> None:
    """Scores too sure of themselves and too low; customers who move, but mean the same by the same score."""
    random, held, weeks = np.random.default_rng(11), np.zeros(2), 200
    for _ in range(weeks):
        scores = chances(random.normal(-2, 1.1, judged))
        known = calibration_of(scores, (random.random(judged) < chances(0.4 + 0.8 * log_odds(scores))).astype(float))
        assert known is not None
        scores = chances(random.normal(-2 + random.normal(0, 0.3), 1.1, served))
        is_alert, left = scores >= 0.25, random.random(served) < chances(0.4 + 0.8 * log_odds(scores))
        foretold, caught = expected(steps(scores, is_alert), known, 0.95), (left & is_alert).sum()
        came = (foretold.recall, caught / left.sum()), (foretold.precision, caught / is_alert.sum())
        held += [bool(each.low and each.high and each.low <= share <= each.high) for each, share in came]
    assert all(held >= 0.9 * weeks)


def test_a_customer_is_counted_at_the_step_of_the_score(spark: SparkSession) -> None:
    scores = [0.0, 0.0004, 0.2505, 0.9999, 1.0]
    rows = [(score, is_alert) for score in scores for is_alert in (False, True)]
    table = spark.createDataFrame(rows, "score double, is_alert boolean")
    found = [row[0] for row in table.select(step_of(F.col("score"), F.col("is_alert"))).toLocalIterator()]
    assert sorted(found) == [0, 0, 1, 1, 500, 501, 1998, 1998, 1999, 1999]
    assert [step for step in sorted(set(found)) if is_alert_step(step)] == [1, 501, 1999]

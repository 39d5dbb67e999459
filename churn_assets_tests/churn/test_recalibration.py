"""What scores meant: slope, intercept and their doubt are those of the logistic regression; E/O that of the counts."""

import numpy as np
import pytest
from scipy.optimize import minimize

from churn_assets.churn.intervals import Floats
from churn_assets.churn.recalibration import (
    Calibration,
    calibration_of,
    chances,
    expected_over_observed,
    log_odds,
)

RANDOM = np.random.default_rng(7)
SCORES = chances(RANDOM.normal(-1.5, 1.2, 3_000))
LABELS = (RANDOM.random(3_000) < chances(0.5 + 0.7 * log_odds(SCORES))).astype(float)


def found(scores: Floats = SCORES, labels: Floats = LABELS) -> Calibration:
    calibration = calibration_of(scores, labels)
    assert calibration is not None
    return calibration


def test_intercept_slope_and_covariance_are_those_of_maximum_likelihood() -> None:
    said = log_odds(SCORES)

    def loss(numbers: Floats) -> float:
        margin = numbers[0] + numbers[1] * said
        return float((np.logaddexp(0, margin) - LABELS * margin).sum())

    best = minimize(loss, [0.0, 1.0], method="BFGS", options={"gtol": 1e-6})
    step = 1e-3
    moves = np.eye(2) * step
    curvature = np.array(
        [[(loss(best.x + i + j) - loss(best.x + i - j) - loss(best.x - i + j) + loss(best.x - i - j)) / 4 / step**2
          for j in moves] for i in moves]
    )  # fmt: skip
    variance = np.linalg.inv(curvature)
    calibration = found()
    assert (calibration.intercept, calibration.slope) == pytest.approx(tuple(best.x), rel=1e-4)
    assert (calibration.intercept_variance, calibration.covariance, calibration.slope_variance) == pytest.approx(
        (variance[0, 0], variance[0, 1], variance[1, 1]), rel=1e-3
    )
    assert (calibration.rows, calibration.churners) == (3_000, int(LABELS.sum()))
    assert calibration.probabilities(SCORES).sum() == pytest.approx(LABELS.sum())


def test_the_intervals_of_slope_and_of_expected_over_observed_hold_the_truth_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(3), np.zeros(2)
    for _ in range(400):
        scores = chances(random.normal(-1.5, 1.0, 400))
        labels = (random.random(400) < chances(0.8 * log_odds(scores))).astype(float)
        slope = found(scores, labels).slope_estimate(0.95)
        ratio = expected_over_observed(scores, labels, 0.95)
        truth = scores.sum() / chances(0.8 * log_odds(scores)).sum()
        held += [
            bool(each.low and each.high and each.low <= true <= each.high)
            for each, true in ((slope, 0.8), (ratio, truth))
        ]
    # 95 % of 400 is 380, give or take 13; given the scores the count varies less than its interval allows for.
    assert all(held >= 367)


def test_expected_over_observed_is_the_ratio_of_the_counts() -> None:
    ratio = expected_over_observed(np.full(100, 0.3), np.repeat([1.0, 0.0], [20, 80]), 0.95)
    half = 1.959964 * (0.8 / 20) ** 0.5
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5 * np.exp(-half), 1.5 * np.exp(half)))
    assert expected_over_observed(np.full(3, 0.3), np.zeros(3), 0.95).value is None


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (SCORES, np.zeros(3_000)),
        (SCORES, np.ones(3_000)),
        (np.full(3_000, 0.2), LABELS),
        (np.where(LABELS == 1, 0.7, 0.2), LABELS),
        (np.append(SCORES[1:], np.nan), LABELS),
        (SCORES, np.append(LABELS[1:], np.nan)),
        (np.array([]), np.array([])),
    ],
    ids=["nobody left", "everybody left", "one score", "told apart perfectly", "no score", "no label", "nobody"],
)
def test_where_nothing_can_be_learned_there_is_no_calibration(scores: Floats, labels: Floats) -> None:
    assert calibration_of(scores, labels) is None


def test_a_calibration_survives_being_written() -> None:
    assert Calibration.of(found().record()) == found()

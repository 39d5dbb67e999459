"""What recall and precision a scored week will have, before anybody knows its labels. Sees no concept drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from statistics import NormalDist

import numpy as np
from pyspark.sql import Column
from pyspark.sql import functions as F

from churn_assets.churn.intervals import UNDEFINED, Estimate, Floats
from churn_assets.churn.recalibration import Calibration, log_odds

# A week is counted, not collected: so many steps of the score, with an alert and without.
STEPS = 1000


def step_of(score: Column, is_alert: Column) -> Column:
    """The step (int) that a scored customer is counted at, from the probability (double) and the alert (boolean)."""
    place = F.least(F.floor(score * STEPS), F.lit(STEPS - 1)).cast("int")
    return place * 2 + is_alert.cast("int")


@dataclass(frozen=True)
class Expectation:
    """What is expected of a week's alerts; undefined where nobody is scored, the precision where nobody is alerted.

    churn_rate: the share (0 to 1) of all customers expected to leave; None where nobody is scored.
    """

    recall: Estimate
    precision: Estimate
    churn_rate: float | None = None


NOTHING_FORETOLD = Expectation(UNDEFINED, UNDEFINED)


def is_alert_step(step: int) -> bool:
    return step % 2 == 1


def expected(steps: Mapping[int, int], calibration: Calibration, confidence: float) -> Expectation:
    """The recall and precision that the alerts of a week will turn out to have, with prediction intervals.

    In: customers by `step_of`; what the version's scores meant on rows that it never learned from.

    Confidence-based performance estimation, as NannyML calls it (Kivimaeki, Bialek, Kuberski & Nurminen, Performance
    Estimation in Binary Classification Using Calibrated Confidence, arXiv 2505.05295, 2025): with calibrated
    probabilities q the alerts will hold A = sum of q over the alerted churners, the others B = sum of q over the rest;
    recall is A / (A + B) and precision A / alerts. The intervals are of what will be *observed*, by the delta method on
    the log-odds of each figure, so that none leaves 0 to 1. They hold two doubts, independent of each other: the draw
    of the labels (of independent customers, the sum of q (1 - q)), and the calibration, two numbers that were fitted on
    as many rows as there were (its covariance). A change of what the same features mean, concept drift, is in neither.
    """
    # In their order, because the last digit of a sum depends on it.
    ordered = sorted(steps)
    is_alert = np.array([is_alert_step(step) for step in ordered], dtype=bool)
    customers = np.array([steps[step] for step in ordered], dtype=np.float64)
    scores = (np.array([step // 2 for step in ordered], dtype=np.float64) + 0.5) / STEPS
    said, chance = log_odds(scores), calibration.probabilities(scores)
    alerted, others = (_group(customers[which], said[which], chance[which]) for which in (is_alert, ~is_alert))
    all_customers = alerted.customers + others.customers
    return Expectation(
        _recall(alerted, others, calibration, confidence),
        _precision(alerted, calibration, confidence),
        (alerted.churners + others.churners) / all_customers if all_customers else None,
    )


@dataclass(frozen=True)
class _Group:
    """Customers, the churners expected among them, the variance of their number, and what it changes by with the
    intercept and with the slope."""

    customers: float
    churners: float
    variance: float
    slopes: tuple[float, float]


def _group(customers: Floats, said: Floats, chance: Floats) -> _Group:
    curve = customers * chance * (1 - chance)
    churners, variance = float((customers * chance).sum()), float(curve.sum())
    return _Group(float(customers.sum()), churners, variance, (variance, float((curve * said).sum())))


def _recall(alerted: _Group, others: _Group, calibration: Calibration, confidence: float) -> Estimate:
    if not alerted.customers or not others.customers:
        # All of the churners are found, or none, whoever they are.
        return Estimate(*[float(alerted.customers > 0)] * 3) if alerted.customers or others.customers else UNDEFINED
    found, missed = alerted.churners, others.churners
    drawn = alerted.variance / found**2 + others.variance / missed**2
    moved = [one / found - other / missed for one, other in zip(alerted.slopes, others.slopes, strict=True)]
    return _share(found / missed, drawn + _variance(moved, calibration), confidence)


def _precision(alerted: _Group, calibration: Calibration, confidence: float) -> Estimate:
    if not alerted.customers:
        return UNDEFINED
    right, wrong = alerted.churners, alerted.customers - alerted.churners
    # Of one more that is right there is one less that is wrong.
    change = 1 / right + 1 / wrong
    moved = [change * each for each in alerted.slopes]
    return _share(right / wrong, change**2 * alerted.variance + _variance(moved, calibration), confidence)


def _variance(moved: Sequence[float], calibration: Calibration) -> float:
    by_intercept, by_slope = moved
    return (
        by_intercept**2 * calibration.intercept_variance
        + 2 * by_intercept * by_slope * calibration.covariance
        + by_slope**2 * calibration.slope_variance
    )


def _share(odds: float, variance: float, confidence: float) -> Estimate:
    """The share of these odds, with the interval that its log-odds have with this variance."""
    half = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(variance)
    return Estimate(*(1 / (1 + exp(-moved) / odds) for moved in (0.0, -half, half)))

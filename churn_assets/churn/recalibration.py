"""How scores and outcomes go together: the logistic regression of labels on the log-odds of scores. Pure numpy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from churn_assets.churn.intervals import UNDEFINED, Estimate, Floats

MOST_NEWTON_STEPS = 50
# Further digits are rounding, which differs between processors.
DIGITS = 9
# Nearer to 0 or 1 no score is told from its neighbours: a week is counted in thousandths (`expectation.py`), and what
# lies further out would drive a slope that it says nothing about.
LEAST_CHANCE = 0.0005


def log_odds(scores: Floats) -> Floats:
    """ln(p / (1 - p)) of each score, within LEAST_CHANCE of neither end."""
    bounded = np.clip(scores, LEAST_CHANCE, 1 - LEAST_CHANCE)
    return np.log(bounded) - np.log1p(-bounded)


def chances(log_odds: Floats) -> Floats:
    """1 / (1 + exp(-log-odds)); overflows nowhere."""
    return np.exp(-np.logaddexp(0, -log_odds))


@dataclass(frozen=True)
class Calibration:
    """What a version's scores meant on rows it never learned from: logit P(churn) = intercept + slope logit(score).

    Cox's recalibration (Biometrika 45, 1958), as Platt (Advances in Large Margin Classifiers, 1999) uses it to turn
    scores into probabilities. 0 and 1 are perfect; a slope below 1 says that the scores differ more than the customers
    do. intercept_variance, covariance, slope_variance: of the two numbers, from the information of the `rows`.
    """

    intercept: float
    slope: float
    intercept_variance: float
    covariance: float
    slope_variance: float
    rows: int
    churners: int

    def probabilities(self, scores: Floats) -> Floats:
        """The chance that each customer leaves."""
        return chances(self.intercept + self.slope * log_odds(scores))

    def slope_estimate(self, confidence: float) -> Estimate:
        """The slope with its Wald interval."""
        half = NormalDist().inv_cdf((1 + confidence) / 2) * self.slope_variance**0.5
        return Estimate(self.slope, self.slope - half, self.slope + half)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def of(record: Mapping[str, Any]) -> "Calibration":
        return Calibration(**record)


def calibration_of(scores: Floats, labels: Floats) -> Calibration | None:
    """The recalibration of these customers' `scores`, one row each, by their `labels` (0 or 1).

    None where there is none to find: a score or label is missing, all are of one class or of one score, or the scores
    tell the classes apart perfectly.
    """
    if not (np.isfinite(scores).all() and np.isin(labels, (0.0, 1.0)).all() and 0 < labels.sum() < len(labels)):
        return None
    said = log_odds(scores)
    if np.ptp(said) == 0:
        return None
    intercept, slope = calibrated(said, labels, None)
    if slope == 0:
        return None
    chance = chances(intercept + slope * said)
    curve = chance * (1 - chance)
    mixed = (curve * said).sum()
    information = np.array([[curve.sum(), mixed], [mixed, (curve * said * said).sum()]])
    variance = np.linalg.inv(information)
    of_intercept, of_both, of_slope = (
        float(f"{value:.{DIGITS}g}") for value in (variance[0, 0], variance[0, 1], variance[1, 1])
    )
    return Calibration(intercept, slope, of_intercept, of_both, of_slope, len(labels), int(labels.sum()))


def expected_over_observed(scores: Floats, labels: Floats, confidence: float) -> Estimate:
    """Churners that the scores add up to over those that there were; 1 is perfect, above it the scores are too high.

    The interval of Debray et al. (BMJ 356, 2017, i6460): the logarithm has the standard error sqrt((1 - O/n) / O).
    Undefined where nobody left.
    """
    observed = float(labels.sum())
    if not observed:
        return UNDEFINED
    ratio = float(scores.sum()) / observed
    half = NormalDist().inv_cdf((1 + confidence) / 2) * ((1 - observed / len(labels)) / observed) ** 0.5
    return Estimate(ratio, ratio * float(np.exp(-half)), ratio * float(np.exp(half)))


def calibrated(log_odds: Floats, labels: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of `labels` on `log_odds`, by Newton's method.

    A slope of 0 where there is none to find: all log-odds are the same, or they tell the labels apart perfectly.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    rate, centre = float(np.average(labels, weights=weights)), float(log_odds.mean())
    flat = float(np.log(rate / (1 - rate)))
    around, found = log_odds - centre, np.array([flat, 0.0])
    for _ in range(MOST_NEWTON_STEPS):
        chance = chances(found[0] + found[1] * around)
        missing, curve = weights * (labels - chance), weights * chance * (1 - chance)
        # Sums, not @: in which order BLAS adds depends on where the rows lie in memory, and the last digit with it.
        rise = np.array([missing.sum(), (missing * around).sum()])
        mixed = (curve * around).sum()
        curvature = np.array([[curve.sum(), mixed], [mixed, (curve * around * around).sum()]])
        if np.linalg.cond(curvature) > 1e12:
            break
        step = np.linalg.solve(curvature, rise)
        found = found + step
        if np.abs(step).max() < 1e-10:
            intercept, slope = found[0] - found[1] * centre, found[1]
            return float(f"{intercept:.{DIGITS}g}"), float(f"{slope:.{DIGITS}g}")
    return flat, 0.0

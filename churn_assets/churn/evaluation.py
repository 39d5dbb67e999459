"""Judging scores: the threshold for the team's capacity, the figures with intervals, the verdict with its reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from churn_assets.churn.policy import ChurnPolicy

# The alert share of the test snapshot may exceed the budget by this factor: the threshold was chosen on other weeks.
BUDGET_TOLERANCE = 1.1
Floats = NDArray[np.float64]
# (score, label, rows) for each pair that occurs: all that a threshold or a ranking needs, however many rows there are.
# The label is None where nobody knows it yet.
ScoreCounts = Sequence[tuple[float, float | None, int]]


class Verdict(Enum):
    """Only PASS opens a gate."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_EVALUABLE = "NOT_EVALUABLE"


@dataclass(frozen=True)
class Threshold:
    """A cut-off, the shares of validation churners it finds and of its alerts that are right, and the share of current
    customers it alerts."""

    value: float
    recall: float
    precision: float
    alert_share: float


@dataclass(frozen=True)
class Figures:
    """What a threshold does on a set of rows; shares are 0 to 1, None where they are undefined.

    recall_low, recall_high: Wilson interval of the recall. lift: precision over prevalence.
    pr_auc: average precision of the ranking, threshold or not.
    """

    rows: int
    churners: int
    alerts: int
    caught: int
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    precision: float | None
    alert_share: float | None
    prevalence: float | None
    lift: float | None
    pr_auc: float | None


@dataclass(frozen=True)
class Evaluation:
    """The verdict, each reason for it, and the figures it rests on."""

    verdict: Verdict
    reasons: tuple[str, ...]
    figures: Figures


def choose_threshold(validation: ScoreCounts, current: ScoreCounts, policy: ChurnPolicy) -> Threshold | None:
    """The cut-off of highest recall that keeps alerts within the budget and precision at or above the floor.

    validation: the validation rows, for recall and precision. current: the scores of the snapshot the model will serve,
    whose labels nobody knows yet, for the share of customers alerted: a cut-off that keeps the budget on past weeks
    alerted 35 % or 8 % of the test week against a budget of 20 % (docs/decisions/0002). An alert is a score at or above
    the cut-off. None if no cut-off satisfies both, or if there is no churner to find.
    """
    scores, positives, totals = _by_falling_score(validation)
    if not len(scores) or not len(current) or positives.sum() == 0:
        return None
    caught, alerts = positives.cumsum(), totals.cumsum()
    alert_share = _share_at_or_above(scores, current)
    allowed = np.flatnonzero((alert_share <= policy.alerts.budget) & (caught / alerts >= policy.gate.precision_floor))
    if not len(allowed):
        return None
    # Recall only grows along the falling scores; of equal recall the fewest alerts.
    best = allowed[np.argmax(caught[allowed])]
    return Threshold(
        value=float(scores[best]),
        recall=float(caught[best] / positives.sum()),
        precision=float(caught[best] / alerts[best]),
        alert_share=float(alert_share[best]),
    )


def _share_at_or_above(cut_offs: Floats, counts: ScoreCounts) -> Floats:
    rising, rows = np.array(
        [(score, rows) for score, _, rows in sorted(counts, key=lambda counted: counted[0])], dtype=float
    ).T
    below = np.concatenate([[0.0], rows.cumsum()])[np.searchsorted(rising, cut_offs, side="left")]
    # Not 1 - below / all: 1 - 0.7 is more than 0.3, and a budget used up exactly would be refused.
    return (rows.sum() - below) / rows.sum()


def _by_falling_score(counts: ScoreCounts) -> tuple[Floats, Floats, Floats]:
    """Distinct scores, falling, with the churners and the rows at each."""
    if not counts:
        return np.array([]), np.array([]), np.array([])
    table = np.array(counts, dtype=float)
    scores, place = np.unique(-table[:, 0], return_inverse=True)
    positives = np.bincount(place, weights=table[:, 1] * table[:, 2]).astype(np.float64)
    return -scores, positives, np.bincount(place, weights=table[:, 2]).astype(np.float64)


def average_precision(counts: ScoreCounts) -> float | None:
    """The area under the precision-recall curve as sum of (R_n - R_(n-1)) P_n over falling scores, ties together.

    The definition of scikit-learn's average_precision_score. None without a churner.
    """
    _, positives, totals = _by_falling_score(counts)
    if not len(totals) or positives.sum() == 0:
        return None
    precision = positives.cumsum() / totals.cumsum()
    return float((positives / positives.sum() * precision).sum())


def wilson_interval(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """The score interval of a share (Wilson, JASA 22, 1927): never outside 0 to 1, sound at small numbers."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / trials
    centre = share + z * z / (2 * trials)
    half = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def figures(counts: ScoreCounts, threshold: float | None, confidence: float) -> Figures:
    """The figures of alerting at or above `threshold`; without one nobody is alerted."""
    rows = int(sum(count for _, _, count in counts))
    churners = int(sum(count for _, label, count in counts if label == 1.0))
    alerted = [(label, count) for score, label, count in counts if threshold is not None and score >= threshold]
    alerts = int(sum(count for _, count in alerted))
    caught = int(sum(count for label, count in alerted if label == 1.0))
    low, high = wilson_interval(caught, churners, confidence)
    precision = caught / alerts if alerts else None
    prevalence = churners / rows if rows else None
    return Figures(
        rows=rows,
        churners=churners,
        alerts=alerts,
        caught=caught,
        recall=caught / churners if churners else None,
        recall_low=low if churners else None,
        recall_high=high if churners else None,
        precision=precision,
        alert_share=alerts / rows if rows else None,
        prevalence=prevalence,
        lift=precision / prevalence if precision is not None and prevalence else None,
        pr_auc=average_precision(counts),
    )


def judge(counts: ScoreCounts, threshold: float | None, policy: ChurnPolicy) -> Evaluation:
    """The recall gate on test rows: lower bound of recall, precision and alert share against the policy.

    counts: (score, label, rows) of the test rows. What cannot be decided is NOT_EVALUABLE and opens nothing.
    """
    if any(score is None or score != score for score, _, _ in counts):
        return Evaluation(Verdict.NOT_EVALUABLE, ("some scores are missing or NaN",), figures([], None, 0.95))
    observed = figures(counts, threshold, policy.gate.confidence)
    missing = [
        reason
        for is_missing, reason in [
            (observed.rows == 0, "there are no test rows"),
            (observed.rows > 0 and observed.churners == 0, "there is no churner among the test rows"),
            (observed.rows > 0 and observed.churners == observed.rows, "every test row is a churner"),
        ]
        if is_missing
    ]
    if missing:
        return Evaluation(Verdict.NOT_EVALUABLE, tuple(missing), observed)
    if threshold is None:
        reason = (
            f"no threshold on the validation fold keeps alerts within {policy.alerts.budget:.0%} of customers and "
            f"precision at {policy.gate.precision_floor:.0%} or more"
        )
        return Evaluation(Verdict.FAIL, (reason,), observed)
    return _gated(observed, policy)


def _gated(observed: Figures, policy: ChurnPolicy) -> Evaluation:
    gate, confidence = policy.gate, f"{policy.gate.confidence:.0%}"
    allowed_alerts = policy.alerts.budget * BUDGET_TOLERANCE
    precision, recall = observed.precision or 0.0, observed.recall or 0.0
    low, high, share = observed.recall_low or 0.0, observed.recall_high or 0.0, observed.alert_share or 0.0
    criteria = [
        (
            low >= gate.min_recall,
            f"recall {recall:.3f}, {confidence} interval {low:.3f} to {high:.3f}; lower needs {gate.min_recall:.3f}",
        ),
        (precision >= gate.precision_floor, f"precision {precision:.3f}; needs {gate.precision_floor:.3f}"),
        (share <= allowed_alerts, f"alerts {share:.1%} of customers; allowed {allowed_alerts:.1%}"),
    ]
    verdict = Verdict.PASS if all(is_met for is_met, _ in criteria) else Verdict.FAIL
    return Evaluation(verdict, tuple(f"{'met' if is_met else 'missed'}: {text}" for is_met, text in criteria), observed)

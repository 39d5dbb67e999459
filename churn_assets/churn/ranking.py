"""How well scores rank churners before the others: areas under curves, over many weightings at once. Pure numpy.

Ties count together: the definitions of scikit-learn's average_precision_score and roc_auc_score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from churn_assets.churn.intervals import Floats


@dataclass(frozen=True)
class Ranking:
    """Rows sorted by falling score; `ends` are the last positions of each run of equal scores."""

    order: np.typing.NDArray[np.int64]
    ends: np.typing.NDArray[np.int64]
    labels: Floats

    @staticmethod
    def of(scores: Floats, labels: Floats) -> "Ranking":
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        ends = np.append(np.flatnonzero(np.diff(falling)), len(scores) - 1) if len(scores) else np.array([], dtype=int)
        return Ranking(order, ends, labels[order])

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """Churners and rows at or above each distinct score; (weightings, distinct scores) each."""
        # Not weights[:, order]: the same numbers, in a fifth of the time.
        sorted_weights = np.take(weights, self.order, axis=1)
        churners = (sorted_weights * self.labels).cumsum(axis=1)[:, self.ends]
        return churners, sorted_weights.cumsum(axis=1)[:, self.ends]

    def resampled(self, weights: Floats, places: NDArray[np.intp] | None = None) -> "Resampled":
        """Where a churner is, how often rows were drawn. weights: whole numbers, (resamples, rows); places: of which
        rows are these, where there are more."""
        # Whole numbers and few of them: to take and add up integers is exact, in a third of the time (2026-11-29).
        drawn = np.take(weights.astype(np.int32), self.order if places is None else places[self.order], axis=1)
        above, steps = drawn.cumsum(axis=1, dtype=np.int32), self._steps
        ends, starts = self.ends[steps], np.append(0, self.ends[:-1] + 1)[steps]
        is_churner = self.labels == 1
        churners = np.append(0, np.cumsum(is_churner))[ends + 1] - 1
        return Resampled(
            drawn[:, is_churner].cumsum(axis=1, dtype=np.int32)[:, churners].astype(np.float64),
            above[:, ends].astype(np.float64),
            (above[:, starts] - drawn[:, starts]).astype(np.float64),
            drawn.sum(axis=1).astype(np.float64),
            steps,
            len(self.ends),
        )

    @cached_property
    def _steps(self) -> NDArray[np.intp]:
        """Which of the distinct scores churners have."""
        return np.unique(np.searchsorted(self.ends, np.flatnonzero(self.labels == 1)))

    def average_precision(self, weights: Floats) -> Floats:
        """Area under the precision-recall curve: sum of (R_n - R_(n-1)) P_n; NaN without a churner."""
        return self.resampled(weights).average_precision()

    def roc_auc(self, weights: Floats) -> Floats:
        """The chance that a churner scores above another customer, ties half; NaN where one of them is absent."""
        return self.resampled(weights).roc_auc()

    def recall_of_highest(self, alerts: int) -> float:
        """The share of churners among as many of the highest scores, equal scores counted in proportion."""
        churners, rows = self.counts(np.ones((1, len(self.labels))))
        caught = np.interp(alerts, np.append(0.0, rows[0]), np.append(0.0, churners[0]))
        return float(caught / self.labels.sum())


@dataclass(frozen=True)
class Resampled:
    """Of each resample, a row each, at every distinct score that a churner has: the churners and the rows at or above
    it, and the rows above.

    all_rows: of each resample. steps: which of the `scores` distinct scores these are.
    """

    churners: Floats
    rows: Floats
    rows_above: Floats
    all_rows: Floats
    steps: NDArray[np.intp]
    scores: int

    @property
    def all_churners(self) -> Floats:
        return self.churners[:, -1] if len(self.steps) else np.zeros(len(self.all_rows))

    @property
    def pairs(self) -> Floats:
        """Of a churner and another customer, how many there are."""
        return self.all_churners * (self.all_rows - self.all_churners)

    def average_precision(self) -> Floats:
        """As `Ranking.average_precision`."""
        # Rows of weight 0 at the top gain nothing, whatever their precision.
        precision = np.divide(self.churners, self.rows, out=np.zeros_like(self.rows), where=self.rows > 0)
        # At the other scores nothing is gained. They are there, and by columns, because the last digit of a sum depends
        # on how long it is and how it lies in memory.
        terms = np.zeros((len(self.all_rows), self.scores), order="F")
        terms[:, self.steps] = self._gained * precision
        return _ratio(terms.sum(axis=1), self.all_churners)

    def roc_auc(self) -> Floats:
        """As `Ranking.roc_auc`."""
        gained = self._gained
        passed = self.rows - self.rows_above - gained
        others = (self.all_rows - self.all_churners)[:, np.newaxis]
        below = others - (self.rows - self.churners) + passed / 2
        return _ratio((gained * below).sum(axis=1), self.pairs)

    @property
    def _gained(self) -> Floats:
        return np.diff(self.churners, axis=1, prepend=0)


@dataclass(frozen=True)
class DatedRanking:
    """Rows ranked among those of their own date: nobody has to choose between customers of two weeks.

    of_dates: the places of a date's rows, and their ranking.
    """

    of_dates: tuple[tuple[NDArray[np.intp], Ranking], ...]

    @staticmethod
    def of(scores: Floats, labels: Floats, dates: NDArray[np.datetime64] | None = None) -> "DatedRanking":
        """dates: of each row; None where all are of one."""
        days = [None] if dates is None else np.unique(dates)
        places = [np.arange(len(scores)) if day is None else np.flatnonzero(dates == day) for day in days]
        return DatedRanking(tuple((rows, Ranking.of(scores[rows], labels[rows])) for rows in places))

    def average_precision(self, weights: Floats) -> Floats:
        """That of each date, each date counted by its churners; NaN without a churner."""
        return self._average_precision(self._resampled(weights))

    def roc_auc(self, weights: Floats) -> Floats:
        """The chance that a churner scores above another customer of the same date; NaN where no date has both."""
        return self._roc_auc(self._resampled(weights))

    def both_areas(self, weights: Floats) -> Floats:
        """`average_precision` and `roc_auc`, a row each."""
        of_dates = self._resampled(weights)
        return np.stack([self._average_precision(of_dates), self._roc_auc(of_dates)])

    def _resampled(self, weights: Floats) -> list[Resampled]:
        return [ranking.resampled(weights, rows) for rows, ranking in self.of_dates]

    def _average_precision(self, of_dates: Sequence[Resampled]) -> Floats:
        return _mean([(each.average_precision(), each.all_churners) for each in of_dates])

    def _roc_auc(self, of_dates: Sequence[Resampled]) -> Floats:
        return _mean([(each.roc_auc(), each.pairs) for each in of_dates])

    def recall_of_highest(self, is_alert: NDArray[np.bool_]) -> float:
        """The share of churners among the highest scores, of each date as many as it has alerts."""
        if len(self.of_dates) == 1:
            return self.of_dates[0][1].recall_of_highest(int(is_alert.sum()))
        caught, churners = 0.0, 0.0
        for rows, ranking in self.of_dates:
            of_date = float(ranking.labels.sum())
            caught += ranking.recall_of_highest(int(is_alert[rows].sum())) * of_date if of_date else 0.0
            churners += of_date
        return caught / churners


def _mean(areas: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Of the areas of the dates, each counted so many times."""
    if len(areas) == 1:
        return areas[0][0]
    sums, totals = np.zeros(len(areas[0][0])), np.zeros(len(areas[0][0]))
    for area, times in areas:
        sums += times * np.where(times > 0, area, 0.0)
        totals += times
    return _ratio(sums, totals)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def roc_auc(scores: Floats, labels: Floats) -> float | None:
    """The ROC-AUC of unweighted rows; None where churners or others are absent."""
    if not len(scores):
        return None
    area = float(Ranking.of(scores, labels).roc_auc(np.ones((1, len(scores))))[0])
    return None if np.isnan(area) else area


def precision_recall_curve(scores: Floats, labels: Floats, rows: Floats | None = None) -> tuple[Floats, Floats]:
    """Recall and precision of alerting at or above each score, falling; empty without a churner.

    rows: how often each pair of score and label occurs; default once.
    """
    weights = np.ones(len(scores)) if rows is None else rows
    if not (labels * weights).sum() > 0:
        return np.array([]), np.array([])
    churners, alerts = Ranking.of(scores, labels).counts(weights[np.newaxis, :])
    return churners[0] / churners[0, -1], churners[0] / alerts[0]

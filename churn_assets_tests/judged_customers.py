"""Customers to judge, made of counts: what was alerted, who left, and rivals that know nothing.

What the verdict on them should be does not belong here: the tests know that.
"""

from typing import Any

import numpy as np

from churn_assets.churn.evaluation import ORDER_COUNT, PURCHASES, RULE, Scored
from churn_assets.churn.intervals import Floats


def customers(caught: int, false_alerts: int, churners: int = 100, rows: int = 1000, **others: Any) -> Scored:
    """`rows` customers, the `churners` first; 0.9 and an alert for `caught` of them and for `false_alerts` others.

    All others score 0.1. The rivals and the one feature are constant. `others` replaces fields of `Scored`.
    """
    assert caught <= churners
    assert false_alerts <= rows - churners
    place = np.arange(rows)
    is_churner = place < churners
    is_alert = (place < caught) | ((place >= churners) & (place < churners + false_alerts))
    fields: dict[str, Any] = {
        "labels": is_churner.astype(float),
        "scores": np.where(is_alert, 0.9, 0.1),
        "is_alert": is_alert,
        "rivals": dict.fromkeys((RULE, ORDER_COUNT, PURCHASES), np.zeros(rows)),
        "features": {"recency_days": np.zeros(rows)},
        "slices": {},
        "is_unseen": np.ones(rows, dtype=bool),
    }
    return Scored(**{**fields, **others})


def over_dates(*judged: Scored, is_same_people: bool = False) -> Scored:
    """Customers of several weeks, the last of them the model's own: other people each week, or all weeks the same."""
    weeks, rows = len(judged), len(judged[0].labels)
    place = np.arange(weeks * rows)
    # The weeks of a customer follow each other.
    place = place.reshape(weeks, rows).T.ravel() if is_same_people else place

    def joined(parts: list[Any]) -> Any:
        return np.concatenate(parts)[place]

    days = np.datetime64("2025-11-03") + 7 * np.arange(weeks)
    return Scored(
        labels=joined([each.labels for each in judged]),
        scores=joined([each.scores for each in judged]),
        is_alert=joined([each.is_alert for each in judged]),
        rivals={name: joined([each.rivals[name] for each in judged]) for name in judged[0].rivals},
        features={name: joined([each.features[name] for each in judged]) for name in judged[0].features},
        slices={},
        is_unseen=np.repeat(np.arange(weeks) == weeks - 1, rows)[place],
        champion=None
        if judged[-1].champion is None
        else joined([np.full(rows, np.nan)] * (weeks - 1) + [judged[-1].champion]),
        dates=np.repeat(days, rows)[place],
        customers=np.repeat(np.arange(rows), weeks) if is_same_people else None,
    )


def ranked(caught: int, false_alerts: int, churners: int = 100, rows: int = 1000) -> Floats:
    """The scores of `customers` with these counts, to stand for somebody else's."""
    return customers(caught, false_alerts, churners, rows).scores

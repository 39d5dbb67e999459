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


def ranked(caught: int, false_alerts: int, churners: int = 100, rows: int = 1000) -> Floats:
    """The scores of `customers` with these counts, to stand for somebody else's."""
    return customers(caught, false_alerts, churners, rows).scores

"""What the contact of each customer earned, once it is known who left, with the action that they would be offered."""

from collections.abc import Sequence
from math import floor

import numpy as np
import pandas as pd
import pyarrow as pa

from churn_assets.churn.actions import NO_ACTION, ROUNDING, Places, expected_profits, worths
from churn_assets.churn.errors import ChurnError
from churn_assets.churn.intervals import Floats
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.profit import Earnings
from churn_assets.churn.retention import action_capacities


class UnknownSpendError(ChurnError):
    """What some customers spent is unknown, so nobody can say what keeping them is worth."""


def earnings(rows: pd.DataFrame, policy: ChurnPolicy, *, population_share: float) -> Earnings:
    """What contacting each customer of `rows` earns, an entry each in their order.

    In: as_of, label, churn_probability and recent_spend of customers of one or more dates; population_share: of the
    customers of their dates (0 to 1), which is the share of each action's capacity that they can have. Of each date
    the customers are offered, by falling probability, the best action that fits them, is expected to earn anything
    and is left; without one nothing is earned and nothing spent. An action that asks for a reason fits nobody, for
    only scored weeks have reasons. The profit is `expected_profits` with what was known later, the label, in
    place of the probability. Raises UnknownSpendError.
    """
    economics = policy.economics
    assert economics is not None, "the policy says what a customer is worth"
    scores, labels, spend = (
        rows[name].to_numpy(dtype=float) for name in ("churn_probability", "label", "recent_spend")
    )
    unknown = int((~np.isfinite(spend)).sum())
    if unknown:
        raise UnknownSpendError(
            f"What {unknown:,} of {len(rows):,} customers spent is unknown, so nobody can say what keeping them is "
            "worth.",
            next_step="materialize gold_customer_churn_risk and ml_churn_features again, or leave [economics] out",
        )
    high, _ = policy.scoring.least_probabilities(float(labels.mean()) if len(labels) else 0.0)
    customers = pa.table(
        {
            "churn_probability": scores,
            "recent_spend": spend,
            "value_at_risk": scores * spend,
            # Whoever is contacted has an alert, and nobody with an alert is of low risk.
            "risk_tier": pa.array(np.where(scores >= high, "high", "medium").tolist(), pa.string()),
            "reasons": pa.array([[]] * len(rows), pa.list_(pa.struct({"feature": pa.string()}))),
        }
    )
    capacities = [
        None if most is None else floor(most * population_share + ROUNDING) for most in action_capacities(policy)
    ]
    expected, places = expected_profits(customers, policy), np.full(len(rows), NO_ACTION)
    dates = rows["as_of"].to_numpy()
    for day in pd.unique(dates):
        of_day = np.flatnonzero(dates == day)
        in_turn = of_day[np.argsort(-scores[of_day], kind="stable")]
        places[in_turn] = best_in_turn(expected[in_turn], capacities)
    as_it_came = expected_profits(customers.set_column(0, "churn_probability", pa.array(labels)), policy)
    profits = np.where(places == NO_ACTION, 0.0, as_it_came[np.arange(len(rows)), places])
    return Earnings(profits, worths(spend, policy), economics.actions)


def best_in_turn(profits: Floats, capacities: Sequence[int | None]) -> Places:
    """The action of each customer where one after another takes the best that is left; NO_ACTION where none earns.

    In: `expected_profits` in the order of their turns; None is no limit.
    """
    gain = np.where(profits > ROUNDING, profits, -np.inf)
    while True:
        best = np.where(np.isfinite(gain).any(axis=1), np.argmax(gain, axis=1), NO_ACTION)
        # For each action the turn at which it is used up; what was chosen before the first of them stays.
        ends = {}
        for place, most in enumerate(capacities):
            took = np.flatnonzero(best == place)
            if most is not None and len(took) > most:
                ends[place] = int(took[most])
        if not ends:
            return best
        first = min(ends, key=lambda place: ends[place])
        gain[ends[first] :, first] = -np.inf

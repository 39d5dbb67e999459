"""What contacts earned: the action that each customer would be offered, the outcome in place of the probability."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_assets.churn.actions import NO_ACTION
from churn_assets.churn.earnings import UnknownSpendError, best_in_turn, earnings
from churn_assets.churn.policy import Action, ChurnPolicy, Economics, Offer, Retention

ACTIONS = (
    Action(action="call", risk_tier="high", min_value_at_risk=50.0),
    Action(action="apology", reason="late_order_ratio"),
    Action(action="voucher", risk_tier="medium"),
    Action(action="reminder"),
)
WEEK, NEXT = date(2025, 12, 1), date(2025, 12, 8)


def policy(calls: int | None = None, **budgets: Any) -> ChurnPolicy:
    offers = {
        "call": Offer(contact_cost=5.0, acceptance=0.4, weekly_capacity=calls),
        # The best of all, but nobody's reason is known.
        "apology": Offer(acceptance=1.0),
        "voucher": Offer(contact_cost=0.5, offer_cost=4.0, acceptance=0.3),
        "reminder": Offer(contact_cost=1.0, acceptance=0.05),
    }
    return ChurnPolicy(
        retention=Retention(actions=ACTIONS),
        economics=Economics(margin=0.25, lifetime_days=120, actions=offers),
        **budgets,
    )


def customers(*rows: tuple[date, float, float, float]) -> pd.DataFrame:
    """Of date, label, churn probability, recent spend."""
    return pd.DataFrame(rows, columns=["as_of", "label", "churn_probability", "recent_spend"])


# Half of them leave, so the high tier begins at 4 to 1, a probability of 0.8. Worth is half of the spend.
FOUR = customers((WEEK, 1.0, 0.9, 200.0), (WEEK, 0.0, 0.85, 200.0), (WEEK, 1.0, 0.6, 200.0), (WEEK, 0.0, 0.1, 20.0))


def test_the_profit_of_each_contact_is_the_formula_by_hand() -> None:
    found = earnings(FOUR, policy(), population_share=1.0)
    assert found.worth.tolist() == [100.0, 100.0, 100.0, 10.0]
    # Called and left: 0.4 * 100 - 5. Called and stayed: the call. A voucher for one who left: 0.3 * (100 - 4) - 0.5.
    # Nothing is expected to earn anything with the last one, so nothing is spent either.
    assert found.profits == pytest.approx([35.0, -5.0, 28.3, 0.0])


def test_what_is_used_up_goes_to_the_likeliest_to_leave_and_the_others_get_the_best_that_is_left() -> None:
    found = earnings(FOUR, policy(calls=1), population_share=1.0)
    # No voucher for high risk: a reminder that earns nothing with one who stays.
    assert found.profits == pytest.approx([35.0, -1.0, 28.3, 0.0])
    # In another order of the rows.
    again = earnings(FOUR.iloc[::-1], policy(calls=1), population_share=1.0)
    assert again.profits[::-1] == pytest.approx(found.profits)


def test_each_date_has_its_own_capacity_and_a_part_of_the_customers_its_part_of_it() -> None:
    two = pd.concat([FOUR, FOUR.assign(as_of=NEXT)], ignore_index=True)
    assert earnings(two, policy(calls=1), population_share=1.0).profits == pytest.approx([35.0, -1.0, 28.3, 0.0] * 2)
    assert earnings(FOUR, policy(calls=10), population_share=0.2).profits == pytest.approx([35.0, -5.0, 28.3, 0.0])
    # Of nine calls a tenth is none: a reminder, 0.05 * 100 - 1.
    assert earnings(FOUR, policy(calls=9), population_share=0.1).profits == pytest.approx([4.0, -1.0, 28.3, 0.0])
    # As doubles 0.29 * 100 is less than 29.
    many = customers(*[(WEEK, 1.0, 0.9, 200.0), (WEEK, 0.0, 0.1, 20.0)] * 40)
    assert (earnings(many, policy(calls=100), population_share=0.29).profits > 30).sum() == 29


def test_spend_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownSpendError, match="What 1 of 4 customers spent is unknown"):
        earnings(FOUR.assign(recent_spend=[1.0, np.nan, 3.0, 4.0]), policy(), population_share=1.0)


def test_nobody_earns_nothing() -> None:
    assert len(earnings(FOUR.iloc[:0], policy(), population_share=1.0).profits) == 0


def one_after_another(profits: np.ndarray, capacities: Sequence[int | None]) -> list[int]:
    left = [np.inf if most is None else most for most in capacities]
    chosen = []
    for of_customer in profits:
        open_ = [place for place, earns in enumerate(of_customer) if earns > 0 and left[place] > 0]
        best = max(open_, key=lambda place: of_customer[place], default=NO_ACTION)
        if best != NO_ACTION:
            left[best] -= 1
        chosen.append(best)
    return chosen


PROFITS = st.lists(st.lists(st.sampled_from([-np.inf, -1.0, 0.5, 1.0, 2.0, 3.0]), min_size=3, max_size=3), max_size=12)


@given(PROFITS, st.lists(st.none() | st.integers(0, 6), min_size=3, max_size=3))
def test_in_turn_is_one_after_another_and_never_more_than_there_is(
    profits: list[list[float]], capacities: list[int | None]
) -> None:
    rows = np.array(profits).reshape(-1, 3)
    found = best_in_turn(rows, capacities).tolist()
    assert found == one_after_another(rows, capacities)
    assert all(most is None or found.count(place) <= most for place, most in enumerate(capacities))

"""Actions by what they earn: the formula by hand, the allocation against every other one, capacities kept."""

from datetime import date
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from churn_assets.churn.actions import (
    NO_ACTION,
    allocated,
    as_if_one_more,
    expected_profits,
    first_fitting,
    fitting_actions,
)
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import Action, Alerts, ChurnPolicy, Economics, Offer, Retention
from churn_assets.churn.retention import NO_ACTION_PAYS, retention_list, target_outcomes, without_action

WEEK = date(2025, 12, 29)
ACTIONS = (
    Action(action="call", risk_tier="high", min_value_at_risk=100.0),
    Action(action="apology", reason="late_order_ratio"),
    Action(action="reminder"),
)
OFFERS = {
    "call": Offer(contact_cost=5.0, acceptance=0.4),
    "apology": Offer(contact_cost=0.5, offer_cost=4.0, acceptance=0.3),
    "reminder": Offer(contact_cost=0.1, acceptance=0.05),
}


def policy(offers: dict[str, Offer] | None = None, **retention: Any) -> ChurnPolicy:
    return ChurnPolicy(
        retention=Retention(actions=ACTIONS, **retention),
        economics=Economics(margin=0.25, lifetime_days=120, actions=offers or OFFERS),
    )


def customers(*rows: tuple[str, float, float, tuple[str, ...]]) -> pa.Table:
    """Of risk tier, churn probability, recent spend, features of the reasons."""
    return pa.Table.from_pylist(
        [
            {
                "customer_id": f"C{number}",
                "as_of": WEEK,
                "risk_tier": tier,
                "churn_probability": probability,
                "recent_spend": spend,
                "value_at_risk": probability * spend,
                "reasons": [{"feature": feature} for feature in reasons],
                "is_holdout": False,
            }
            for number, (tier, probability, spend, reasons) in enumerate(rows)
        ],
        pa.schema(
            {
                "customer_id": pa.string(),
                "as_of": pa.date32(),
                "risk_tier": pa.string(),
                "churn_probability": pa.float64(),
                "recent_spend": pa.float64(),
                "value_at_risk": pa.float64(),
                "reasons": pa.list_(pa.struct({"feature": pa.string()})),
                "is_holdout": pa.bool_(),
            }
        ),
    )


def test_the_first_action_that_fits_is_suggested() -> None:
    late, other = "late_order_ratio", "recency_days"
    expected = {
        ("high", 0.5, 200.0, (late,)): "call",
        ("high", 0.5, 198.0, (other, late)): "apology",
        ("medium", 0.5, 1000.0, (late,)): "apology",
        # It is about the same as the feature that the action names.
        ("medium", 0.5, 1000.0, ("recent_delay_minutes",)): "apology",
        ("medium", 0.5, 1000.0, (other,)): "reminder",
        ("high", 0.5, 2.0, ()): "reminder",
    }
    suggested = first_fitting(fitting_actions(customers(*expected), policy()))
    assert [ACTIONS[place].action for place in suggested] == list(expected.values())


def test_the_expected_profit_is_the_formula_by_hand() -> None:
    table = customers(("high", 0.5, 240.0, ("late_order_ratio",)), ("medium", 0.2, 60.0, ()))
    # Worth: 0.25 of the spend of 120 days at the pace of 60: 120 and 30.
    assert expected_profits(table, policy()).tolist() == [
        [
            pytest.approx(0.5 * 0.4 * 120 - 5),
            pytest.approx(0.5 * 0.3 * (120 - 4) - 0.5 * 4 - 0.5),
            pytest.approx(0.5 * 0.05 * 120 - 0.1),
        ],
        [-np.inf, -np.inf, pytest.approx(0.2 * 0.05 * 30 - 0.1)],
    ]


def best_of_all(profits: Any, capacities: list[int | None], most: int | None) -> float:
    """The most that any assignment earns, by trying each."""
    earned = [0.0]
    for places in product(range(-1, profits.shape[1]), repeat=len(profits)):
        used = [places.count(action) for action in range(profits.shape[1])]
        within = all(limit is None or n <= limit for n, limit in zip(used, capacities, strict=True))
        if within and (most is None or sum(used) <= most):
            earned.append(sum(profits[row, place] for row, place in enumerate(places) if place != NO_ACTION))
    return max(earned)


@pytest.mark.parametrize("seed", range(40))
def test_an_allocation_earns_as_much_as_any_within_the_capacities(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Of few values, so that many are equal.
    profits = random.integers(-3, 6, (6, 3)) + random.choice([0.0, 0.25], (6, 3))
    profits[random.random((6, 3)) < 0.25] = -np.inf
    capacities = [None if random.random() < 0.3 else int(random.integers(0, 4)) for _ in range(3)]
    most = None if random.random() < 0.3 else int(random.integers(0, 7))
    found = allocated(profits, capacities, most)
    used = [int(np.sum(found.actions == action)) for action in range(3)]
    assert all(limit is None or n <= limit for n, limit in zip(used, capacities, strict=True))
    assert most is None or sum(used) <= most
    chosen = [profits[row, place] for row, place in enumerate(found.actions) if place != NO_ACTION]
    assert all(profit > 0 for profit in chosen)
    assert sum(chosen) == pytest.approx(best_of_all(profits, capacities, most))


def test_many_customers_are_allocated_within_the_capacities() -> None:
    random = np.random.default_rng(7)
    profits = random.normal(1.0, 1.0, (3_000, 4))
    found = allocated(profits, [100, 50, None, 0], 900)
    assert np.bincount(found.actions[found.actions != NO_ACTION], minlength=4).tolist() == [100, 50, 750, 0]


def test_whoever_is_held_out_is_chosen_as_the_others_are() -> None:
    random = np.random.default_rng(11)
    profits = random.normal(1.0, 1.0, (400, 3))
    found = allocated(profits, [40, 60, None], 150)
    # Almost surely nobody is at the margin, so the contacted themselves would be chosen again.
    again = as_if_one_more(profits, found)
    assert np.sum(again != found.actions) <= 3
    nobody = allocated(np.full((3, 2), -1.0), [None, None])
    assert nobody.actions.tolist() == [NO_ACTION] * 3
    assert as_if_one_more(np.array([[-1.0, -2.0], [3.0, 1.0]]), nobody).tolist() == [NO_ACTION, 0]


# --- the list ---


def many(count: int = 60) -> pa.Table:
    random = np.random.default_rng(5)
    rows = [
        (
            "high" if random.random() < 0.5 else "medium",
            float(random.uniform(0.2, 0.8)),
            float(random.uniform(5, 600)),
            ("late_order_ratio",) if random.random() < 0.5 else ("recency_days",),
        )
        for _ in range(count)
    ]
    table = customers(*rows).drop_columns("value_at_risk")
    return table.set_column(table.column_names.index("is_holdout"), "is_holdout", pa.array(np.arange(count) % 5 == 0))


def kept_off(table: pa.Table, listed: pa.Table, capacity: int) -> pa.Table:
    return without_action(table, listed, {WEEK: capacity})


def outcomes_of(table: pa.Table, listed: pa.Table, capacity: int, rules: ChurnPolicy) -> list[Outcome]:
    return target_outcomes(listed, kept_off(table, listed, capacity), table, {WEEK: capacity}, rules)


def broken(table: pa.Table, listed: pa.Table, capacity: int, rules: ChurnPolicy) -> set[str]:
    return {outcome.rule for outcome in outcomes_of(table, listed, capacity, rules) if not outcome.is_passed}


@pytest.mark.parametrize("rank_by", ["value_at_risk", "expected_profit"])
@pytest.mark.parametrize("capacity", [0, 9, 60])
@pytest.mark.parametrize("calls", [0, 3, None])
def test_a_list_with_economics_keeps_every_rule(rank_by: str, capacity: int, calls: int | None) -> None:
    offers = {**OFFERS, "call": Offer(contact_cost=5.0, acceptance=0.4, weekly_capacity=calls)}
    rules = policy(offers, rank_by=rank_by)
    listed = retention_list(many(), {WEEK: capacity}, rules)
    assert broken(many(), listed, capacity, rules) == set()
    to_contact = [row for row in listed.to_pylist() if not row["is_holdout"]]
    assert len(to_contact) <= capacity
    assert calls is None or sum(row["suggested_action"] == "call" for row in to_contact) <= calls
    assert {row["ranked_by"] for row in to_contact} <= {rank_by}
    earned = [row["expected_profit"] for row in to_contact if row["suggested_action"]]
    assert all(profit > 0 for profit in earned)
    if rank_by == "expected_profit":
        assert earned == sorted(earned, reverse=True)
        assert len(earned) == len(to_contact)


def test_by_profit_nobody_is_listed_whom_no_action_pays_for_and_the_exclusions_say_so() -> None:
    dear = {name: Offer(contact_cost=30.0, acceptance=0.4) for name in OFFERS}
    rules = policy(dear, rank_by="expected_profit")
    listed = retention_list(many(), {WEEK: 60}, rules)
    excluded = kept_off(many(), listed, 60)
    assert 0 < len(listed) < 60
    assert len(listed) + len(excluded) == 60
    assert set(excluded.column("reason").to_pylist()) == {NO_ACTION_PAYS}
    # With a full list the others are not kept off: there was no place for them.
    assert len(kept_off(many(), retention_list(many(), {WEEK: 2}, rules), 2)) == 0


def test_a_list_that_exceeds_an_actions_capacity_breaks_the_rule() -> None:
    listed = retention_list(many(), {WEEK: 60}, policy())
    assert broken(many(), listed, 60, policy()) == set()
    few = policy({**OFFERS, "call": Offer(contact_cost=5.0, acceptance=0.4, weekly_capacity=1)})
    assert broken(many(), listed, 60, few) == {"capacity"}
    # The table of the check says of which: the week has room, the action has none.
    (found,) = [outcome for outcome in outcomes_of(many(), listed, 60, few) if outcome.rule == "capacity"]
    week, calls = found.figures
    assert (week.key, week.is_met, week.limit) == ("to_contact", True, 60)
    times = sum(row["suggested_action"] == "call" and not row["is_holdout"] for row in listed.to_pylist())
    assert times > 1
    expected = ("times_call", f"times call, {WEEK}", f"{times}", "at most 1", False, times, 1)
    assert (calls.key, calls.what, calls.observed, calls.allowed, calls.is_met, calls.value, calls.limit) == expected


# --- the policy ---


def test_a_threshold_by_profit_is_refused_where_nobody_knows_what_is_earned() -> None:
    by_profit = Alerts(threshold_by="profit")
    with pytest.raises(ValidationError, match=r'alerts\.threshold_by \("profit"\) needs \[economics\]'):
        ChurnPolicy(alerts=by_profit)
    assert policy().model_copy(update={"alerts": by_profit}).alerts.threshold_by == "profit"


@pytest.mark.parametrize(
    ("economics", "retention", "refusal"),
    [
        (None, {"rank_by": "expected_profit"}, r"needs \[economics\]"),
        ({"call": Offer(acceptance=0.1)}, {}, '"apology" of retention.actions is missing'),
        ({**OFFERS, "gift": Offer(acceptance=0.1)}, {}, '"gift" is no action of retention.actions'),
    ],
)
def test_economics_that_do_not_fit_the_actions_are_refused_by_name(
    economics: dict[str, Offer] | None, retention: dict[str, Any], refusal: str
) -> None:
    priced = None if economics is None else Economics(margin=0.2, lifetime_days=365, actions=economics)
    with pytest.raises(ValidationError, match=refusal):
        ChurnPolicy(retention=Retention(actions=ACTIONS, **retention), economics=priced)

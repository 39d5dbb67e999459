"""Which action for whom: what fits a customer, what it is expected to earn, and who gets what few can have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from churn_assets.churn.catalogue import FEATURE_OF
from churn_assets.churn.errors import ChurnError
from churn_assets.churn.intervals import Floats
from churn_assets.churn.policy import ChurnPolicy

Places = NDArray[np.intp]
NO_ACTION = -1
# Of profits, in the currency of the orders: a solver's rounding is no reason to call or not to call.
ROUNDING = 1e-9
# Of a share of a customer: more is no corner of the linear program.
WHOLE = 1e-6


class UnsolvableAllocationError(ChurnError):
    """The solver gave no allocation of actions under their capacities."""


@dataclass(frozen=True)
class Allocation:
    """An action for each customer, by its place in [economics] (NO_ACTION: none).

    shadow_prices: what one more of each action would earn; list_price: what one more customer would; 0: enough.
    """

    actions: Places
    shadow_prices: Floats
    list_price: float


def fitting_actions(listed: pa.Table, policy: ChurnPolicy) -> NDArray[np.bool_]:
    """Whose conditions are met, (customers, actions). In: risk_tier, value_at_risk, reasons.

    A condition on a reason is met by every reason about the same as that feature.
    """
    actions = policy.retention.actions
    # A reason that only orders give fits nobody of a ready feature table.
    known = {**FEATURE_OF, **policy.catalogue.of}
    reasons = listed.column("reasons").combine_chunks()
    told, whose = pc.struct_field(pc.list_flatten(reasons), "feature"), pc.list_parent_indices(reasons).to_numpy()
    about = np.array([known[feature].about for feature in told.to_pylist()], dtype=object)
    fits = np.ones((len(listed), len(actions)), dtype=bool)
    for place, action in enumerate(actions):
        if action.risk_tier is not None:
            fits[:, place] &= pc.equal(listed.column("risk_tier"), action.risk_tier).to_numpy()
        if action.min_value_at_risk is not None:
            fits[:, place] &= listed.column("value_at_risk").to_numpy() >= action.min_value_at_risk
        if action.reason is not None:
            fits[:, place] &= np.isin(np.arange(len(listed)), whose[about == known[action.reason].about])
    return fits


def first_fitting(fits: NDArray[np.bool_]) -> Places:
    """The first action whose conditions each customer meets. In: `fitting_actions`; the last is for everyone."""
    return np.argmax(fits, axis=1)


def expected_profits(listed: pa.Table, policy: ChurnPolicy) -> Floats:
    """What each action of [economics] is expected to earn with each customer, (customers, actions), in the currency of
    the orders; -inf where it does not fit. In: churn_probability p, recent_spend, and as `fitting_actions`.

    p a (V - d) - (1 - p) d - f: of those who would leave a share a accepts and stays, which is worth V and costs the
    offer d; whoever would stay takes the offer too; each contact costs f. Neslin et al. (2006), "Defection detection",
    Journal of Marketing Research 43(2), with the offer's cost as in Verbraken, Verbeke and Baesens (2013), "A novel
    profit maximizing metric for measuring classification performance of customer churn prediction models", IEEE TKDE
    25(5). V is the margin of what the customer spends in `lifetime_days` at the pace of the observation window.
    """
    economics, actions = policy.economics, policy.retention.actions
    assert economics is not None, "the policy says what a customer is worth"
    value = worths(listed.column("recent_spend").to_numpy(), policy)
    probability = listed.column("churn_probability").to_numpy()
    fits, profits = fitting_actions(listed, policy), []
    for name, offer in economics.actions.items():
        does_fit = fits[:, [action.action == name for action in actions]].any(axis=1)
        earned = probability * offer.acceptance * (value - offer.offer_cost)
        given_away = (1 - probability) * offer.offer_cost
        profits.append(np.where(does_fit, earned - given_away - offer.contact_cost, -np.inf))
    return np.column_stack(profits)


def worths(recent_spend: Floats, policy: ChurnPolicy) -> Floats:
    """What keeping customers who spent so much in the observation window is worth: V of `expected_profits`."""
    economics = policy.economics
    assert economics is not None, "the policy says what a customer is worth"
    days = economics.lifetime_days / policy.windows.observation_days
    return recent_spend * economics.margin * days


def allocated(profits: Floats, capacities: Sequence[int | None], most: int | None = None) -> Allocation:
    """The actions that earn most in all, each customer one at most, none that earns nothing, each action to its
    capacity and `most` customers in all. In: `expected_profits`; None is no limit.

    A transportation problem: its linear program has whole solutions, and its dual says what a place would be worth.
    Raises UnsolvableAllocationError.
    """
    customers, places = np.nonzero(profits > ROUNDING)
    best = np.where((profits > ROUNDING).any(axis=1), np.argmax(profits, axis=1), NO_ACTION)
    limits = np.array([np.inf if limit is None else limit for limit in (*capacities, most)])
    wanted = np.array([*(np.sum(best == place) for place in range(len(capacities))), np.sum(best != NO_ACTION)])
    if (wanted <= limits).all():
        return Allocation(best, np.zeros(len(capacities)), 0.0)
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    pairs = np.arange(len(customers))
    rows = np.concatenate([customers, len(profits) + places, np.full(len(pairs), len(profits) + len(capacities))])
    matrix = coo_array((np.ones(len(rows)), (rows, np.tile(pairs, 3)))).tocsr()
    bounds = np.concatenate([np.ones(len(profits)), np.minimum(limits, len(profits))])
    # Its crossover ends in a corner, and the corners are whole: 2 s for 20,000 customers, a third of dual simplex.
    solved = linprog(-profits[customers, places], A_ub=matrix, b_ub=bounds, bounds=(0, 1), method="highs-ipm")
    if not solved.success or np.abs(solved.x - np.round(solved.x)).max() > WHOLE:
        raise UnsolvableAllocationError(
            f"No allocation of {len(capacities)} actions to {len(profits):,} customers was found: {solved.message}",
            next_step="leave out weekly_capacity of the actions in policy.toml, and report the problem",
        )
    is_chosen = solved.x > 0.5
    chosen = np.full(len(profits), NO_ACTION)
    chosen[customers[is_chosen]] = places[is_chosen]
    prices = np.maximum(-solved.ineqlin.marginals[len(profits) :], 0.0)
    return Allocation(chosen, prices[:-1], float(prices[-1]))


def as_if_one_more(profits: Floats, allocation: Allocation) -> Places:
    """The action that each of these customers would have got in `allocation`; NO_ACTION: none, or no place on the
    list. So whoever is held out is chosen as the others are and takes no one's place."""
    gain = profits - allocation.shadow_prices
    best = np.argmax(gain, axis=1)
    is_worth_it = gain[np.arange(len(profits)), best] > allocation.list_price + ROUNDING
    return np.where(is_worth_it, best, NO_ACTION)

"""A probabilistic model of repeat purchases that learns from no label: BG/NBD, and who leaves for having waited.

From which table the histories come, and what is done with the predictions, does not belong here. Pure numpy and scipy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from churn_assets.churn.errors import UnfittablePurchaseModelError
from churn_assets.churn.intervals import Floats

# exp(-12) to exp(12) of each parameter, on a scale where the mean age is 1: beyond that nothing predicted changes.
LOG_BOUND = 12.0
MOST_STEPS = 1_000
# Further digits are where a search ended, which another processor's logarithms may move, and not what the data say.
DIGITS = 6
# a and b: many leave after a purchase, few do, hardly anyone does. The next is tried where the search fails from one.
CHANCES_TO_LEAVE_TO_BEGIN_WITH = ((1.0, 2.0), (0.5, 10.0), (0.1, 100.0))
# On a scale where who repeated waited 1 in all.
WAITING_TO_BEGIN_WITH = 0.1
# 64 found what an adaptive integration finds within 1e-9, up to 10,000 repeat purchases (test_purchase_model.py).
QUADRATURE_NODES = 64


@dataclass(frozen=True)
class PurchaseHistories:
    """What was known of customers at one moment, an entry each; `histories` checks them.

    repeats: purchases after the first (x). recency_days: from the first purchase to the last (t_x), 0 without a repeat.
    age_days: from the first purchase to the moment (T). waited_hours: how long late deliveries had kept them waiting
    lately when they last purchased; all_waited_hours: the same summed over all repeat purchases, which only a fit asks.
    """

    repeats: Floats
    recency_days: Floats
    age_days: Floats
    waited_hours: Floats
    all_waited_hours: Floats

    def __len__(self) -> int:
        return len(self.repeats)


def histories(
    repeats: ArrayLike,
    recency_days: ArrayLike,
    age_days: ArrayLike,
    waited_hours: ArrayLike = 0.0,
    all_waited_hours: ArrayLike | None = None,
) -> PurchaseHistories:
    """As arrays of doubles; of waiting by default none, and all of it at the last purchase.

    Raises UnfittablePurchaseModelError, which says what is wrong with how many customers.
    """
    x, t_x, age = (np.asarray(values, dtype=np.float64) for values in (repeats, recency_days, age_days))
    waited = np.broadcast_to(np.asarray(waited_hours, dtype=np.float64), x.shape)
    in_all = waited if all_waited_hours is None else np.asarray(all_waited_hours, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        wrong = {
            "have a value that is missing or no number": ~np.isfinite(x + t_x + age + waited + in_all),
            "waited for less than no time": (waited < 0) | (in_all < 0),
            "have a count of repeat purchases that is negative or no whole number": (x < 0) | (x != np.floor(x)),
            "have a first purchase that is not before the as-of date": age <= 0,
            "have a last purchase before the first or after the as-of date": (t_x < 0) | (t_x > age),
            "have no repeat purchase and yet time between the first and the last": (x == 0) & (t_x > 0),
        }
    problems = [f"{is_wrong.sum():,} customers {what}" for what, is_wrong in wrong.items() if is_wrong.any()]
    if problems:
        raise UnfittablePurchaseModelError(
            "The histories of purchases contradict themselves.",
            problems,
            next_step="look at orders_ever, first_ordered_at and last_ordered_at of these customers",
        )
    return PurchaseHistories(x, t_x, age, waited, in_all)


@dataclass(frozen=True)
class PurchaseModel:
    """BG/NBD (Fader, Hardie & Lee, Marketing Science 24, 2005): purchases at a rate of one's own, until one leaves.

    While active a customer buys at random at a rate that is Gamma(r, alpha) among customers; after each purchase the
    customer leaves with a chance that is Beta(a, b) among customers. alpha is in days. Beside that a customer leaves
    for having waited: who had waited d hours lately stays after a purchase with the chance exp(-waiting d), a hazard
    that is added (competing risks; docs/decisions/0051). With waiting = 0 it is BG/NBD.
    """

    r: float
    alpha: float
    a: float
    b: float
    waiting: float = 0.0

    def active(self, known: PurchaseHistories) -> Floats:
        """P(not yet gone) of each customer; 1 without a repeat purchase, for only a purchase lets one leave.

        Equation 7 of Fader & Hardie, "Computing P(alive) using the BG/NBD model", 2008, where a / (b + x - 1) are the
        odds of having left after the last purchase. What a customer waited before that is survived, and cancels out.
        """
        is_repeating = known.repeats > 0
        x = np.where(is_repeating, known.repeats, 1.0)
        silence = np.log1p((known.age_days - known.recency_days) / (self.alpha + known.recency_days))
        left = _log_odds_of_leaving(self.a / (self.b + x - 1), self.waiting * known.waited_hours)
        log_odds_of_gone = left + (self.r + x) * silence
        return np.where(is_repeating, np.exp(-np.logaddexp(0, log_odds_of_gone)), 1.0)

    def no_purchase(self, known: PurchaseHistories, days: float | Floats) -> Floats:
        """P(no purchase in the next `days` days, or so many of each) of each customer.

        Who is still active has a rate that is Gamma(r + x, alpha + T): a Poisson process with such a rate stays silent
        with the chance ((alpha + T) / (alpha + T + days)) ** (r + x); who is gone stays silent for certain.
        """
        buys_if_active = -np.expm1(-(self.r + known.repeats) * np.log1p(days / (self.alpha + known.age_days)))
        return 1 - self.active(known) * buys_if_active

    def expected_purchases(self, known: PurchaseHistories, days: float) -> Floats:
        """E(purchases in the next `days` days) of each customer; equation 10 of the paper.

        Not by its 2F1, which is 0 / 0 at a = 1 and overflows: the same mean over the chance p to leave,
        (1 - (1 + p days / (alpha + T)) ** -(r + x)) / p over Beta(a, b + x), by Gauss-Jacobi quadrature.
        """
        if_active = np.empty(len(known))
        for x in np.unique(known.repeats):
            is_x = known.repeats == x
            p, weights = _beta_quadrature(self.a, self.b + x)
            share = days / (self.alpha + known.age_days[is_x])
            bought = -np.expm1(-(self.r + x) * np.log1p(np.outer(share, p))) / p
            if_active[is_x] = (bought * weights).sum(axis=1)
        return self.active(known) * if_active


def _log_odds_of_leaving(odds: Floats, waited: Floats) -> Floats:
    """ln of the odds of leaving of who stays with the chance exp(-waited) / (1 + odds)."""
    risk = np.log1p(odds) + waited
    # Where nobody waited the odds themselves, to the last digit.
    return np.where(waited > 0, risk + np.log(-np.expm1(-risk)), np.log(odds))


def _beta_quadrature(a: float, b: float) -> tuple[Floats, Floats]:
    """Points and weights, which sum to 1, that give the mean of a smooth function over Beta(a, b).

    Golub & Welsch, Mathematics of Computation 23, 1969, on the recurrence of Jacobi's polynomials shifted to 0 to 1.
    scipy's roots_jacobi weighs by an integral that overflows from b = 1,000 on.
    """
    # Where it is needed: scipy would take a tenth of the time that this package takes to load.
    from scipy.linalg import eigh_tridiagonal

    n = np.arange(1.0, QUADRATURE_NODES)
    total = 2 * n + a + b - 2
    middle = np.append(a / (a + b), (1 + (a - b) * (a + b - 2) / (total * (total + 2))) / 2)
    beside = n * (n + a + b - 2) * (n + a - 1) * (n + b - 1)
    # Of the first the factors n + a + b - 2 and total - 1 are the same, and 0 at a + b = 1.
    scale = total * total * (total + 1) * (total - 1)
    beside[0], scale[0] = a * b, (a + b) ** 2 * (a + b + 1)
    points, vectors = eigh_tridiagonal(middle, np.sqrt(beside / scale))
    # Above 0, where a ratio to the point would be 0 / 0; what is averaged is flat there.
    return np.maximum(points, np.finfo(float).tiny), vectors[0] ** 2


def fit_purchase_model(known: PurchaseHistories) -> PurchaseModel:
    """The maximum-likelihood parameters of `known`, whatever the order of its entries; waiting only where some waited.

    Raises UnfittablePurchaseModelError if nobody bought twice, or no maximum is found.
    """
    if not known.repeats.any():
        raise UnfittablePurchaseModelError(
            "A model of repeat purchases needs customers who bought more than once.",
            [f"customers: {len(known):,}, of them with a repeat purchase: 0"],
            next_step="provide a longer order history",
        )
    # Where it is needed, as above.
    from scipy.optimize import minimize

    # Sums of doubles depend on the order of their terms.
    parts = (known.all_waited_hours, known.waited_hours, known.age_days, known.recency_days, known.repeats)
    in_all, waited, age, recency, repeats = (part[np.lexsort(parts)] for part in parts)
    unit, is_repeating = float(np.sort(age).mean()), repeats > 0
    waits = float(np.sort(in_all[is_repeating]).mean())
    likelihood = _Likelihood(
        repeats.astype(np.intp),
        recency / unit,
        age / unit,
        *(part / waits if waits else part for part in (waited, in_all)),
    )
    of_waiting = [WAITING_TO_BEGIN_WITH] if waits else []
    tried = []
    for a, b in CHANCES_TO_LEAVE_TO_BEGIN_WITH:
        found = minimize(
            likelihood.negative_mean,
            np.clip(np.log([1.0, 1.0 / known.repeats.mean(), a, b, *of_waiting]), -LOG_BOUND, LOG_BOUND),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-LOG_BOUND, LOG_BOUND)] * (4 + len(of_waiting)),
            # Much finer is rounding, in which the search for a better point can fail.
            options={"maxiter": MOST_STEPS, "ftol": 1e-12, "gtol": 1e-6},
        )
        if found.success and np.isfinite(found.x).all():
            units = (1.0, unit, 1.0, 1.0, *(1 / waits for _ in of_waiting))
            return PurchaseModel(*(float(f"{parameter:.{DIGITS}g}") for parameter in np.exp(found.x) * units))
        tried.append(f"from a = {a:g}, b = {b:g}, after {found.nit} steps: {found.message}")
    raise UnfittablePurchaseModelError(
        "No maximum of the likelihood of the purchases was found.",
        tried,
        next_step="look at the customers' counts and times of orders for what cannot be",
    )


@dataclass(frozen=True)
class _Likelihood:
    """The log-likelihood of the paper's equation 6 over customers, and its slope.

    Of who waited: the factor exp(-waiting all_waited) of both its terms, and other odds of having left.

    repeats: of each customer, which is also the place of the sums that belong to it. The gamma functions of an x that
    counts are ratios, gamma(r + x) / gamma(r) = r (r + 1) ... (r + x - 1): as sums of logarithms no large number is
    taken from another, and where customers hardly differ (r and alpha without bound) a maximum is still found.
    """

    repeats: NDArray[np.intp]
    recency: Floats
    age: Floats
    waited: Floats
    all_waited: Floats

    def negative_mean(self, log_parameters: Floats) -> tuple[float, Floats]:
        """Minus the mean log-likelihood of a customer, and its derivatives by the logarithms of the parameters.

        These are r, alpha, a, b and perhaps waiting.
        """
        r, alpha, a, b, *rest = np.exp(log_parameters)
        waiting = rest[0] if rest else 0.0
        x, is_repeating = self.repeats, self.repeats > 0
        before = np.arange(x.max())
        # At each x, sums over 0 to x - 1.
        of_count = _running(np.log(r + before) + np.log(b + before) - np.log(a + b + before))
        slope_r, slope_b, slope_both = (_running(1 / (value + before)) for value in (r, b, a + b))
        lasting, leaving = np.log1p(self.age / alpha), np.log1p(self.recency / alpha)
        active = -r * lasting - x * np.log(alpha + self.age)
        last, waited = np.where(is_repeating, b + x - 1, 1.0), waiting * self.waited
        left = _log_odds_of_leaving(a / last, waited)
        gone = np.where(is_repeating, left - r * leaving - x * np.log(alpha + self.recency), -np.inf)
        # The share that the chance to leave has in the slope of those odds; 1 where nobody waited.
        of_chance = np.exp(np.log(a / last) + waited - left)
        either = np.logaddexp(active, gone)
        is_active, is_gone = np.exp(active - either), np.exp(gone - either)
        slopes = (
            r * (slope_r[x] - is_active * lasting - is_gone * leaving),
            is_active * (r * self.age - x * alpha) / (alpha + self.age)
            + is_gone * (r * self.recency - x * alpha) / (alpha + self.recency),
            is_gone * of_chance - a * slope_both[x],
            b * (slope_b[x] - slope_both[x] - is_gone * of_chance / last),
            # The slope of the logarithm of odds o by the risk ln(1 + o) is (1 + o) / o.
            is_gone * waited * (1 + np.exp(-left)) - waiting * self.all_waited,
        )
        found = of_count[x] - waiting * self.all_waited + either
        return -float(found.mean()), -np.array([slope.mean() for slope in slopes[: len(log_parameters)]])


def _running(terms: Floats) -> Floats:
    """The sums of the first 0, 1, 2, ... terms."""
    return np.concatenate([[0.0], terms.cumsum()])

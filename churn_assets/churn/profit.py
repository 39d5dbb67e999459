"""What a ranking earns: the profit over the share of customers contacted, and EMPC. Pure numpy and scipy.

What contacting one customer earns is in `earnings`; nothing is judged here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churn_assets.churn.intervals import UNDEFINED, Estimate, Floats, bootstrap, percentile_interval
from churn_assets.churn.policy import Offer
from churn_assets.churn.ranking import Ranking

# Of the customers contacted; every hundredth.
SHARES: Floats = np.arange(101) / 100
# How sure the acceptance is, alpha + beta of its Beta distribution, as published: 6 + 14.
CONCENTRATION = 20.0


@dataclass(frozen=True)
class Earnings:
    """What the contact of each customer earns, an entry each, in the currency of the orders.

    profits: with the action that they would be offered, as the outcome was. worth: what keeping them is worth.
    offers: the actions there are, by name.
    """

    profits: Floats
    worth: Floats
    offers: Mapping[str, Offer]

    def only(self, chosen: NDArray[np.bool_]) -> "Earnings":
        """Those of the chosen customers."""
        return Earnings(self.profits[chosen], self.worth[chosen], self.offers)


@dataclass(frozen=True)
class Profit:
    """What contacts earn, per customer of all who were judged, contacted or not, in the currency of the orders.

    curve: contacting those of the highest scores, at each of SHARES. alerted: contacting the alerted. empc: see
    `expected_maximum_profit`, of the action `empc_action`, with which it is largest.
    """

    curve: tuple[Estimate, ...]
    alerted: Estimate
    empc: Estimate
    empc_action: str

    @property
    def best_share(self) -> float:
        """The share of the customers at which the curve is highest; the smallest of several."""
        return float(SHARES[self._highest])

    @property
    def best(self) -> Estimate:
        """The curve where it is highest. Chosen on the customers it is of, which flatters it."""
        return self.curve[self._highest]

    @property
    def _highest(self) -> int:
        return int(np.argmax(np.array([point.value for point in self.curve], dtype=float)))

    def flat(self) -> dict[str, float | None]:
        """Each figure by its name, its interval as name_low and name_high."""
        named = {"profit_per_customer": self.alerted, "best_profit_per_customer": self.best, "empc": self.empc}
        shown: dict[str, float | None] = {"most_profitable_share": self.best_share}
        for name, figure in named.items():
            shown |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        return shown


def profit_of(
    scores: Floats, labels: Floats, is_alert: NDArray[np.bool_], earnings: Earnings, confidence: float
) -> Profit:
    """The figures of these rows, neither of which is empty, with percentiles of resampled customers as intervals."""
    ranking, rows = Ranking.of(scores, labels), len(labels)
    worth, as_observed = float(earnings.worth.mean()), np.ones((1, rows))
    by_action = {
        name: expected_maximum_profit(ranking, worth=worth, offer=offer) for name, offer in earnings.offers.items()
    }
    observed = {name: float(measure(as_observed)[0]) for name, measure in by_action.items()}
    action = max(observed, key=lambda name: observed[name])
    # Not by @: in which order BLAS adds depends on where the rows lie in memory, and the last digit with it.
    of_alerted = np.where(is_alert, earnings.profits, 0.0)
    curve = profit_curve(ranking, earnings.profits)
    statistics = {
        "curve": lambda weights: curve(weights).T,
        "alerted": lambda weights: (weights * of_alerted).sum(axis=1) / weights.sum(axis=1),
        "empc": by_action[action],
    }
    values = {name: statistic(as_observed)[..., 0] for name, statistic in statistics.items()}
    drawn = bootstrap(statistics, rows)
    of_curve = zip(values["curve"], drawn["curve"], strict=True)
    return Profit(
        tuple(_estimate(float(value), replicates, confidence) for value, replicates in of_curve),
        _estimate(float(values["alerted"]), drawn["alerted"], confidence),
        _estimate(float(values["empc"]), drawn["empc"], confidence),
        action,
    )


def _estimate(value: float, replicates: Floats, confidence: float) -> Estimate:
    return UNDEFINED if np.isnan(value) else Estimate(value, *percentile_interval(replicates, confidence))


def profit_curve(ranking: Ranking, profits: Floats) -> Callable[[Floats], Floats]:
    """(weightings of the rows) -> (weightings, SHARES): what contacting that share of them, by falling score, earns,
    per row of all. Rows of one score are contacted in proportion.
    """
    falling = profits[ranking.order]

    def earned(weights: Floats) -> Floats:
        ordered = np.take(weights, ranking.order, axis=1)
        contacted = ordered.cumsum(axis=1)[:, ranking.ends]
        earned_by = (ordered * falling).cumsum(axis=1)[:, ranking.ends]
        curves = [
            np.interp(SHARES * total[-1], np.append(0.0, total), np.append(0.0, profit)) / total[-1]
            for total, profit in zip(contacted, earned_by, strict=True)
        ]
        return np.array(curves)

    return earned


def expected_maximum_profit(ranking: Ranking, *, worth: float, offer: Offer) -> Callable[[Floats], Floats]:
    """(weightings of the rows) -> the EMPC of each: what the best number of contacts earns, per row of all.

    The expected maximum profit measure for customer churn of Verbraken, Verbeke and Baesens (2013), "A novel profit
    maximizing metric for measuring classification performance of customer churn prediction models", IEEE Transactions
    on Knowledge and Data Engineering 25(5), 961-973, equations 7 and 10: the integral over g of h(g) times the largest
    [g (V - d) - f] p0 F0(t) - (d + f) p1 F1(t) of all cut-offs t. Of all rows a share p0 are churners, of whom F0 are
    contacted, and p1 others, of whom F1 are; g, the share of the contacted churners that accepts, is Beta(alpha, beta)
    with the mean `offer.acceptance` and alpha + beta = 20 as published (0.3: 6 and 14). V: `worth` of a customer who is
    kept; d: offer_cost; f: contact_cost.

    By pieces: a group of rows between two corners of the convex hull of the ROC curve, of which a share p are
    churners, is contacted from that g on at which it pays, c = (f + (1 - p) d) / (p (V - d)), and earns
    p (V - d) E[g; g > c] - (f + (1 - p) d) P(g > c). The hull is the isotonic regression of the labels.
    """
    # Where it is needed: scipy would take a tenth of the time that this package takes to load.
    from scipy.optimize import isotonic_regression
    from scipy.special import betaincc

    alpha, beta = CONCENTRATION * offer.acceptance, CONCENTRATION * (1 - offer.acceptance)
    kept = max(worth - offer.offer_cost, 0.0)

    def measured(weights: Floats) -> Floats:
        return np.array([one(*counts) for counts in zip(*ranking.counts(weights), strict=True)])

    def one(churners_above: Floats, rows_above: Floats) -> float:
        churners, rows = np.diff(churners_above, prepend=0), np.diff(rows_above, prepend=0)
        is_drawn = rows > 0
        churners, rows = churners[is_drawn], rows[is_drawn]
        starts = isotonic_regression(churners / rows, weights=rows, increasing=False).blocks[:-1]
        churners, rows = np.add.reduceat(churners, starts), np.add.reduceat(rows, starts)
        cost = rows * offer.contact_cost + (rows - churners) * offer.offer_cost
        gain = churners * kept
        least = np.divide(cost, gain, out=np.full(len(cost), np.inf), where=gain > 0)
        pays = least < 1
        gain, cost, least = gain[pays], cost[pays], least[pays]
        accepted = offer.acceptance * betaincc(alpha + 1, beta, least)
        return float((gain * accepted - cost * betaincc(alpha, beta, least)).sum() / rows.sum())

    return measured

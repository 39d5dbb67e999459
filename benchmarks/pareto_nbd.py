"""Pareto/NBD, the purchase model that lets a customer leave at any time: a rival of the studies, and of no gate."""

from dataclasses import dataclass

import numpy as np

from churn_assets.churn.intervals import Floats
from churn_assets.churn.purchase_model import PurchaseHistories

# 256 found the same likelihood of CDNOW's customers to 14 digits.
NODES = 64


@dataclass(frozen=True)
class ParetoNBD:
    """Schmittlein, Morrison & Colombo (Management Science 33, 1987), as Fader & Hardie derive it in their note of 2005.

    While active a customer buys at random at a rate that is Gamma(r, alpha) among customers, for a lifetime that is
    exponential at a rate that is Gamma(s, beta) among them. alpha and beta are in days. What is an array is of each.
    """

    r: float | Floats
    alpha: float | Floats
    s: float
    beta: float | Floats

    def log_likelihood(self, known: PurchaseHistories) -> Floats:
        """Of each customer's purchases."""
        # Where it is needed, as in the package.
        from scipy.special import gammaln

        active, gone = self._log_terms(known.repeats, known.recency_days, known.age_days)
        return gammaln(self.r + known.repeats) - gammaln(self.r) + np.logaddexp(active, gone)

    def no_purchase(self, known: PurchaseHistories, days: float) -> Floats:
        """P(no purchase in the next `days` days): gone already, or active and silent, perhaps for leaving meanwhile.

        Rates of who is active are Gamma(r + x, alpha + T) and Gamma(s, beta + T); silence is no purchase of a newcomer
        with such rates.
        """
        active, gone = self._log_terms(known.repeats, known.recency_days, known.age_days)
        is_active = np.exp(-np.logaddexp(0, gone - active))
        age = known.age_days
        later = ParetoNBD(self.r + known.repeats, self.alpha + age, self.s, self.beta + age)
        nothing = np.zeros(len(known))
        silent = np.exp(np.logaddexp(*later._log_terms(nothing, nothing, nothing + days)))
        return 1 - is_active * (1 - silent)

    def _log_terms(self, x: Floats, t_x: Floats, age: Floats) -> tuple[Floats, Floats]:
        """Logarithms of the likelihood of having bought so and being active, and so and having left before `age`.

        Without gamma(r + x) / gamma(r). The second is an integral over the time of leaving, from t_x to `age`, of
        alpha^r beta^s s (alpha + y)^-(r + x) (beta + y)^-(s + 1), which the note gives as two 2F1; here it is
        Gauss-Legendre in the logarithm of alpha + y, in which it is nearly exponential.
        """
        r, alpha, s, beta = self.r, self.alpha, self.s, self.beta
        before = r * np.log(alpha) + s * np.log(beta)
        active = before - (r + x) * np.log(alpha + age) - s * np.log(beta + age)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        first, last = np.log(alpha + t_x), np.log(alpha + age)
        half = ((last - first) / 2)[:, np.newaxis]
        at = ((last + first) / 2)[:, np.newaxis] + half * nodes
        power, shift = (np.broadcast_to(value, x.shape)[:, np.newaxis] for value in (r + x - 1, beta - alpha))
        terms = -power * at - (s + 1) * np.log(np.exp(at) + shift)
        most = terms.max(axis=1)
        with np.errstate(divide="ignore"):
            area = np.log((np.exp(terms - most[:, np.newaxis]) * weights * half).sum(axis=1))
        return active, before + np.log(s) + most + area


def fit_pareto_nbd(known: PurchaseHistories) -> ParetoNBD:
    """The maximum-likelihood parameters."""
    from scipy.optimize import minimize

    unit = float(known.age_days.mean())
    scaled = PurchaseHistories(
        known.repeats, known.recency_days / unit, known.age_days / unit, known.waited_hours, known.all_waited_hours
    )
    found = minimize(
        lambda logs: -ParetoNBD(*np.exp(logs)).log_likelihood(scaled).mean(),
        np.log([1.0, 1.0 / known.repeats.mean(), 1.0, 1.0]),
        method="L-BFGS-B",
        bounds=[(-8, 8)] * 4,
        options={"ftol": 1e-12, "gtol": 1e-6},
    )
    r, alpha, s, beta = np.exp(found.x).tolist()
    return ParetoNBD(r, alpha * unit, s, beta * unit)

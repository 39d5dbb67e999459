"""Orders as the notebook had them: each is given to a customer at random, so that nobody leaves and nearly nobody is
silent for a month. Its own last words: 0.12 % churners."""

from datetime import date

import numpy as np
import pandas as pd

NOTEBOOKS_PREVALENCE = 0.0012
OUTCOME_DAYS = 30
FIRST, LAST = date(2025, 7, 1), date(2025, 12, 31)


def random_orders(customers: int, *, seed: int = 42) -> pd.DataFrame:
    """order_id, customer_id, ordered_at (UTC), subtotal: so many that a share of 0.12 % is silent for 30 days.

    Orders at random over time and customers are a Poisson process of rate r for each, silent with exp(-30 r).
    """
    random = np.random.default_rng(seed)
    days = (LAST - FIRST).days + 1
    rate = -np.log(NOTEBOOKS_PREVALENCE) / OUTCOME_DAYS
    orders = round(rate * days * customers)
    seconds = np.sort(random.integers(0, days * 86_400, orders))
    return pd.DataFrame(
        {
            "order_id": [f"O{number:07d}" for number in range(orders)],
            "customer_id": [f"C{number:05d}" for number in random.integers(0, customers, orders)],
            "ordered_at": pd.Timestamp(FIRST, tz="UTC") + pd.to_timedelta(seconds, unit="s"),
            "subtotal": np.round(20 * np.exp(0.5 * random.standard_normal(orders)), 2),
        }
    )

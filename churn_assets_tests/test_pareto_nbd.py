"""The rival of the studies against what is published of it, and against lives drawn by chance."""

import numpy as np
import pytest

from benchmarks.pareto_nbd import ParetoNBD, fit_pareto_nbd
from churn_assets.churn.purchase_model import PurchaseHistories, histories

# Fader & Hardie, "Implementing the Pareto/NBD model", of a tenth of CDNOW's customers, in weeks.
CDNOW = ParetoNBD(r=0.553, alpha=10.578, s=0.606, beta=11.669)


def test_a_fit_of_the_published_histories_finds_the_published_parameters(cdnow: PurchaseHistories) -> None:
    found = fit_pareto_nbd(cdnow)
    assert (found.r, found.s) == pytest.approx((CDNOW.r, CDNOW.s), abs=1e-3)
    assert (found.alpha, found.beta) == pytest.approx((CDNOW.alpha, CDNOW.beta), abs=5e-3)
    assert found.log_likelihood(cdnow).sum() == pytest.approx(-9595.0, abs=0.05)


@pytest.mark.parametrize(("repeats", "recency", "age"), [(2, 30.43, 38.86), (0, 0.0, 38.86), (1, 5.0, 38.86)])
def test_silence_is_as_likely_as_among_lives_drawn_by_chance(repeats: int, recency: float, age: float) -> None:
    rng, days = np.random.default_rng(1), 39.0
    buys, leaves = rng.gamma(0.553, 1 / 10.578, 1_000_000), rng.gamma(0.606, 1 / 11.669, 1_000_000)
    both = buys + leaves
    bought = buys**repeats
    active = bought * np.exp(-both * age)
    gone = bought * leaves / both * (np.exp(-both * recency) - np.exp(-both * age))
    silent = np.exp(-both * days) + leaves / both * -np.expm1(-both * days)
    expected = (gone + active * silent).sum() / (gone + active).sum()
    told = CDNOW.no_purchase(histories([repeats], [recency], [age]), days)
    assert told == pytest.approx([expected], abs=2e-3)

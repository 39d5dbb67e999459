"""What a ranking earns: EMPC as a library and paper and pencil have it, the curve against adding up, its interval."""

from itertools import accumulate

import numpy as np
import pytest
from empulse.metrics import empc_score

from churn_assets.churn.intervals import Floats
from churn_assets.churn.policy import Offer
from churn_assets.churn.profit import CONCENTRATION, SHARES, Earnings, expected_maximum_profit, profit_curve, profit_of
from churn_assets.churn.ranking import Ranking

# Verbraken et al.'s own figures.
PUBLISHED = Offer(contact_cost=1.0, offer_cost=10.0, acceptance=0.3)


def empc(scores: Floats, labels: Floats, *, worth: float = 200.0, offer: Offer = PUBLISHED) -> float:
    measure = expected_maximum_profit(Ranking.of(scores, labels), worth=worth, offer=offer)
    return float(measure(np.ones((1, len(labels))))[0])


def made_up(seed: int) -> tuple[Floats, Floats]:
    """Scores and labels of a few to a thousand customers: good, bad and useless rankings, with many ties or none."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(10, 1_000))
    labels = (random.random(rows) < random.choice([0.02, 0.1, 0.3, 0.7])).astype(float)
    labels[:2] = 0.0, 1.0
    scores = random.normal(random.choice([-0.5, 0.0, 0.5, 2.0]) * labels)
    return (np.round(scores, 1) if random.random() < 0.5 else scores), labels


@pytest.mark.parametrize("seed", range(60))
def test_empc_is_that_of_empulse(seed: int) -> None:
    random = np.random.default_rng(1_000 + seed)
    scores, labels = made_up(seed)
    offer = Offer(
        contact_cost=float(random.uniform(0, 20)),
        offer_cost=float(random.uniform(0, 60)),
        acceptance=float(random.uniform(0.02, 0.98)),
    )
    worth = float(random.uniform(61, 1_000))
    theirs = empc_score(
        labels.astype(int),
        scores,
        alpha=CONCENTRATION * offer.acceptance,
        beta=CONCENTRATION * (1 - offer.acceptance),
        clv=worth,
        incentive_cost=offer.offer_cost,
        contact_cost=offer.contact_cost,
    )
    assert empc(scores, labels, worth=worth, offer=offer) == pytest.approx(theirs, rel=0, abs=1e-9)
    assert empc(scores, labels) == pytest.approx(empc_score(labels.astype(int), scores), rel=0, abs=1e-9)


def test_empc_by_hand() -> None:
    # Whoever accepts for certain, 100 is kept for 10, and a contact costs 5: a churner earns 85, another costs 15.
    certain = Offer(contact_cost=5.0, offer_cost=10.0, acceptance=1.0)
    labels = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    # The first three: 85 - 15 + 85 = 155, of five customers.
    assert empc(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), labels, worth=100.0, offer=certain) == pytest.approx(31.0)
    # Of equal scores all or nobody: 2 * 85 - 3 * 15 = 125.
    assert empc(np.zeros(5), labels, worth=100.0, offer=certain) == pytest.approx(25.0)
    # Nobody: an offer that costs more than it keeps, and one that costs as much as it keeps.
    assert empc(labels, labels, worth=9.0, offer=certain) == 0.0
    assert empc(labels, labels, worth=10.0, offer=certain) == 0.0
    # Everybody, where nothing costs anything: 2 of 5 churners at 0.3 * 100.
    free = Offer(acceptance=0.3)
    assert empc(labels, labels, worth=100.0, offer=free) == pytest.approx(0.4 * 30.0)


def test_the_curve_by_hand() -> None:
    scores, labels = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
    profits = np.array([10.0, -2.0, 6.0, -3.0])
    curve = profit_curve(Ranking.of(scores, labels), profits)
    found = dict(zip(SHARES.round(2).tolist(), curve(np.ones((1, 4)))[0], strict=True))
    # Of equal scores in proportion: the second and the third customer are one half each of the next two.
    by_hand = {0.0: 0.0, 0.1: 1.0, 0.25: 2.5, 0.5: 3.0, 0.75: 3.5, 1.0: 2.75}
    assert {share: found[share] for share in by_hand} == pytest.approx(by_hand)
    # The second customer drawn twice, the last one never.
    again = curve(np.array([[1.0, 2.0, 1.0, 0.0]]))[0]
    assert again[25] == pytest.approx(10 / 4)
    assert again[-1] == pytest.approx((10 - 4 + 6) / 4)


@pytest.mark.parametrize("seed", range(10))
def test_the_curve_is_what_adding_up_gives(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, profits, labels = random.random(100), random.normal(0, 5, 100), np.round(random.random(100))
    curve = profit_curve(Ranking.of(scores, labels), profits)(np.ones((1, 100)))[0]
    added = [0.0, *accumulate(profits[np.argsort(-scores)])]
    assert curve == pytest.approx(np.array(added) / 100)


def earned(profits: Floats) -> Earnings:
    offers = {"call": Offer(contact_cost=5.0, acceptance=0.2), "letter": Offer(contact_cost=0.5, acceptance=0.1)}
    return Earnings(profits, np.full(len(profits), 100.0), offers)


def test_the_figures_have_intervals_and_the_best_share_is_the_curves_highest() -> None:
    random = np.random.default_rng(3)
    labels = (random.random(2_000) < 0.2).astype(float)
    scores = random.random(2_000) + labels
    is_alert = scores >= 1.0
    found = profit_of(scores, labels, is_alert, earned(np.where(labels == 1, 4.0, -2.0)), 0.95)
    # Those above 1 are churners, all of whom are.
    assert found.alerted.value == pytest.approx(4.0 * labels.mean())
    assert found.best_share == pytest.approx(labels.mean(), abs=0.006)
    assert found.best.value == pytest.approx(found.alerted.value, abs=0.02)
    # Beyond the corner of a ranking without a fault.
    figures = (found.alerted, found.empc, *found.curve[30:])
    bounds = np.array([[each.low, each.value, each.high] for each in figures])
    assert (np.diff(bounds.astype(float), axis=1) > 0).all()
    # The standard error of a mean, which the bootstrap does not know.
    error = 4.0 * labels.std() / np.sqrt(2_000)
    assert bounds[0, 2] - bounds[0, 0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.empc_action == "call"
    assert found.empc.value == pytest.approx(
        empc(scores, labels, worth=100.0, offer=Offer(contact_cost=5.0, acceptance=0.2))
    )


def test_the_same_rows_give_the_same_figures() -> None:
    random = np.random.default_rng(5)
    labels = np.round(random.random(300))
    arguments = random.random(300), labels, random.random(300) < 0.2, earned(random.normal(0, 1, 300)), 0.95
    assert profit_of(*arguments) == profit_of(*arguments)

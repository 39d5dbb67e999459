"""BG/NBD is as its authors published it; its likelihood is the one printed there; it finds known parameters."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import hyp2f1
from scipy.stats import beta

from churn_assets.churn.errors import UnfittablePurchaseModelError
from churn_assets.churn.intervals import Floats
from churn_assets.churn.purchase_model import (
    PurchaseHistories,
    PurchaseModel,
    fit_purchase_model,
    histories,
)

# Fader, Hardie & Lee, Marketing Science 24 (2005), table 2: a tenth of CDNOW's customers, in weeks.
CDNOW = PurchaseModel(r=0.243, alpha=4.414, a=0.793, b=2.426)
# The customer of the worked example, "Implementing the BG/NBD model in Excel" by the same authors.
ONE_CUSTOMER = histories([2], [30.43], [38.86])


def simulated(
    truth: PurchaseModel, customers: int, seed: int, days_after: float = 0.0
) -> tuple[PurchaseHistories, Floats]:
    """Histories of customers of `truth`, purchase by purchase, and how often each bought in `days_after` more days."""
    rng = np.random.default_rng(seed)
    known, later = [], []
    for age in rng.uniform(100, 400, customers):
        rate, leaves = rng.gamma(truth.r, 1 / truth.alpha), rng.beta(truth.a, truth.b)
        now, bought = 0.0, []
        # The first purchase lets nobody leave, each after it may.
        while (now := now + rng.exponential(1 / rate)) < age + days_after:
            bought.append(now)
            if rng.random() < leaves:
                break
        before = [moment for moment in bought if moment < age]
        known.append((len(before), before[-1] if before else 0.0, age))
        later.append(len(bought) - len(before))
    x, t_x, ages = np.array(known).T
    return histories(x, t_x, ages), np.array(later, dtype=float)


def after_waiting(truth: PurchaseModel, customers: int, seed: int) -> tuple[PurchaseHistories, Floats]:
    """As `simulated`, with 30 more days: one purchase in three came after hours of waiting, which more leave for."""
    rng = np.random.default_rng(seed)
    known, later = [], []
    for age in rng.uniform(100, 400, customers):
        rate, leaves = rng.gamma(truth.r, 1 / truth.alpha), rng.beta(truth.a, truth.b)
        now, bought, waits = 0.0, [], []
        while (now := now + rng.exponential(1 / rate)) < age + 30:
            bought.append(now)
            waits.append(rng.choice([0.0, 0.0, rng.uniform(1, 9)]))
            if rng.random() > (1 - leaves) * math.exp(-truth.waiting * waits[-1]):
                break
        x = sum(moment < age for moment in bought)
        last = (bought[x - 1], age, waits[x - 1]) if x else (0.0, age, 0.0)
        known.append((x, *last, sum(waits[:x])))
        later.append(len(bought) - x)
    return histories(*np.array(known).T), np.array(later, dtype=float)


def log_likelihood(model: PurchaseModel, known: PurchaseHistories) -> float:
    """Equation 6 of the paper as it is printed: no logarithms before the end, customer by customer."""
    r, alpha, a, b = model.r, model.alpha, model.a, model.b
    total = 0.0
    parts = (known.repeats, known.recency_days, known.age_days, known.waited_hours, known.all_waited_hours)
    for x, t_x, age, waited, in_all in zip(*parts, strict=True):
        buys = math.gamma(r + x) * alpha**r / math.gamma(r)
        stays = math.gamma(b + x) * math.gamma(a + b) / (math.gamma(b) * math.gamma(a + b + x))
        likelihood = stays * buys / (alpha + age) ** (r + x)
        likelihood *= math.exp(-model.waiting * in_all)
        if x > 0:
            # Still there before the last purchase, and not after it.
            before = math.gamma(b + x - 1) * math.gamma(a + b) / (math.gamma(b) * math.gamma(a + b + x - 1))
            leaves = before * math.exp(-model.waiting * (in_all - waited)) - stays * math.exp(-model.waiting * in_all)
            likelihood += leaves * buys / (alpha + t_x) ** (r + x)
        total += math.log(likelihood)
    return total


# ---- against what is published


def test_a_fit_of_the_published_histories_finds_the_published_parameters(cdnow: PurchaseHistories) -> None:
    found = fit_purchase_model(cdnow)
    assert len(cdnow) == 2357
    assert (found.r, found.alpha, found.a, found.b) == pytest.approx((0.243, 4.414, 0.793, 2.426), abs=5e-4)
    # The paper's table 2.
    assert log_likelihood(found, cdnow) == pytest.approx(-9582.4, abs=0.05)


def test_the_published_customer_is_expected_to_buy_as_published() -> None:
    assert CDNOW.expected_purchases(ONE_CUSTOMER, 39) == pytest.approx([1.226], abs=5e-4)
    # 1.226 = P(active) times equation 10 without its denominator.
    r, alpha, a, b = CDNOW.r, CDNOW.alpha, CDNOW.a, CDNOW.b
    by_2f1 = (a + b + 1) / (a - 1)
    by_2f1 *= 1 - ((alpha + 38.86) / (alpha + 38.86 + 39)) ** (r + 2) * hyp2f1(
        r + 2, b + 2, a + b + 1, 39 / (alpha + 38.86 + 39)
    )
    gone = a / (b + 1) * ((alpha + 38.86) / (alpha + 30.43)) ** (r + 2)
    assert CDNOW.active(ONE_CUSTOMER) == pytest.approx([1 / (1 + gone)], rel=1e-12)
    assert CDNOW.expected_purchases(ONE_CUSTOMER, 39) == pytest.approx([by_2f1 / (1 + gone)], rel=1e-10)


# ---- against known truth


TRUTHS = [
    PurchaseModel(r=0.8, alpha=20.0, a=0.8, b=4.0),
    PurchaseModel(r=2.5, alpha=30.0, a=1.5, b=9.0),
    PurchaseModel(r=0.4, alpha=6.0, a=0.5, b=2.0),
]


@pytest.mark.parametrize("truth", TRUTHS)
def test_a_fit_finds_the_parameters_that_the_purchases_were_made_with(truth: PurchaseModel) -> None:
    known, _ = simulated(truth, 6_000, seed=1)
    found = fit_purchase_model(known)
    assert (found.r, found.alpha) == pytest.approx((truth.r, truth.alpha), rel=0.12)
    assert found.a / (found.a + found.b) == pytest.approx(truth.a / (truth.a + truth.b), rel=0.1)


@pytest.mark.parametrize("truth", TRUTHS)
def test_a_fit_is_a_maximum_of_the_likelihood_as_it_is_printed(truth: PurchaseModel) -> None:
    known, _ = simulated(truth, 400, seed=2)
    known = histories(*(values[known.repeats < 100] for values in (known.repeats, known.recency_days, known.age_days)))
    found = fit_purchase_model(known)
    best = log_likelihood(found, known)
    assert best >= log_likelihood(truth, known)
    for name in ("r", "alpha", "a", "b"):
        for factor in (0.99, 1.01):
            moved = {**vars(found), name: getattr(found, name) * factor}
            assert log_likelihood(PurchaseModel(**moved), known) < best, (name, factor)


WAITING = PurchaseModel(r=1.5, alpha=20.0, a=0.8, b=8.0, waiting=0.04)


def test_who_waits_leaves_as_often_as_those_who_waited_did() -> None:
    known, bought = after_waiting(WAITING, 8_000, seed=1)
    found = fit_purchase_model(known)
    assert found.waiting == pytest.approx(WAITING.waiting, rel=0.1)
    assert (found.r, found.alpha) == pytest.approx((WAITING.r, WAITING.alpha), rel=0.12)
    silent = found.no_purchase(known, 30)
    for tenth in np.array_split(np.argsort(silent, kind="stable"), 10):
        assert silent[tenth].mean() == pytest.approx((bought[tenth] == 0).mean(), abs=0.05)
    # BG/NBD does not know who waited, and tells the same customers apart less well.
    unknowing = histories(known.repeats, known.recency_days, known.age_days)
    without = fit_purchase_model(unknowing).no_purchase(unknowing, 30)
    assert ((silent - (bought == 0)) ** 2).mean() < ((without - (bought == 0)) ** 2).mean() - 0.001


def test_a_fit_of_who_waited_is_a_maximum_of_the_likelihood_as_it_is_printed() -> None:
    known, _ = after_waiting(WAITING, 1_000, seed=2)
    known = histories(*(part[known.repeats < 90] for part in vars(known).values()))
    found = fit_purchase_model(known)
    best = log_likelihood(found, known)
    assert best >= log_likelihood(WAITING, known)
    for name in ("r", "alpha", "a", "b", "waiting"):
        for factor in (0.98, 1.02):
            moved = {**vars(found), name: getattr(found, name) * factor}
            assert log_likelihood(PurchaseModel(**moved), known) < best, (name, factor)


def test_where_nobody_waited_it_is_bg_nbd_to_the_last_digit() -> None:
    known, _ = simulated(TRUTHS[0], 1_000, seed=1)
    assert fit_purchase_model(known).waiting == 0
    x, silence = (
        np.maximum(known.repeats, 1),
        np.log1p((known.age_days - known.recency_days) / (20 + known.recency_days)),
    )
    gone = np.exp(np.log(0.8 / (3 + x)) + (0.8 + x) * silence)
    active = np.where(known.repeats > 0, 1 / (1 + gone), 1.0)
    assert TRUTHS[0].active(known) == pytest.approx(active, rel=1e-12)
    unmoved = PurchaseModel(**{**vars(TRUTHS[0]), "waiting": 0.5})
    assert unmoved.active(known).tolist() == TRUTHS[0].active(known).tolist()


def test_who_waited_longer_before_the_last_purchase_is_likelier_gone() -> None:
    waited = histories([5] * 4, [100] * 4, [120] * 4, [0, 1e-9, 5, 1e6])
    gone = 1 - WAITING.active(waited)
    assert gone[1] == pytest.approx(gone[0], rel=1e-6)
    assert gone[0] < gone[1] < gone[2] < gone[3]
    assert gone[3] == pytest.approx(1)


@pytest.mark.parametrize("truth", TRUTHS)
def test_predictions_come_true(truth: PurchaseModel) -> None:
    known, bought = simulated(truth, 20_000, seed=3, days_after=30)
    silent, expected = truth.no_purchase(known, 30), truth.expected_purchases(known, 30)
    assert silent.mean() == pytest.approx((bought == 0).mean(), abs=0.01)
    assert expected.mean() == pytest.approx(bought.mean(), rel=0.05)
    # Not only on average: in each tenth of the customers by what was predicted.
    for tenth in np.array_split(np.argsort(silent, kind="stable"), 10):
        assert silent[tenth].mean() == pytest.approx((bought[tenth] == 0).mean(), abs=0.04)


# ---- the predictions in numbers


def wide_range() -> PurchaseHistories:
    repeats = [0.0, 1.0, 2.0, 9.0, 60.0, 400.0, 10_000.0]
    rows = [(x, share * 500 if x else 0.0, 500.0) for x in repeats for share in (0.0, 0.3, 0.999, 1.0)]
    return histories(*np.array(rows).T)


@pytest.mark.parametrize("a", [0.05, 0.999999, 1.0, 1.000001, 40.0])
@pytest.mark.parametrize("days", [1.0, 30.0, 3650.0])
def test_expected_purchases_are_the_mean_over_all_chances_to_leave(a: float, days: float) -> None:
    repeats = [0.0, 1.0, 9.0, 400.0, 10_000.0]
    known = histories(repeats, [min(x, 1) * 490.0 for x in repeats], [500.0] * len(repeats))
    model = PurchaseModel(r=0.7, alpha=15.0, a=a, b=2.0)
    found = model.expected_purchases(known, days)
    for place in range(len(known)):
        x, age = known.repeats[place], known.age_days[place]

        def bought(u: float, x: float = x, age: float = age) -> float:
            # By the quantile u of the chance to leave, which every a and b make smooth enough.
            p = max(beta.ppf(u, a, model.b + x), 1e-300)
            return -math.expm1(-(model.r + x) * math.log1p(p * days / (model.alpha + age))) / p

        mean = quad(bought, 0, 1, limit=400, epsabs=0, epsrel=1e-9)[0]
        assert found[place] == pytest.approx(mean * model.active(known)[place], rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        *TRUTHS,
        PurchaseModel(math.exp(12), 100 * math.exp(12), math.exp(-12), math.exp(12)),
        PurchaseModel(math.exp(-12), math.exp(-12), math.exp(12), math.exp(-12)),
        PurchaseModel(math.exp(12), math.exp(-12), math.exp(12), math.exp(12)),
    ],
)
def test_every_prediction_is_a_number_and_a_chance_is_one(model: PurchaseModel) -> None:
    known = wide_range()
    active, silent = model.active(known), model.no_purchase(known, 30)
    for chance in (active, silent):
        assert np.isfinite(chance).all()
        assert ((chance >= 0) & (chance <= 1)).all()
    expected = model.expected_purchases(known, 30)
    assert np.isfinite(expected).all()
    assert (expected >= 1 - silent - 1e-9).all(), "who buys at all buys at least once"


def test_who_never_bought_again_is_still_active_and_silence_makes_leaving_likelier() -> None:
    model = TRUTHS[0]
    once = histories([0, 0], [0, 0], [10, 900])
    assert model.active(once).tolist() == [1.0, 1.0]
    silent = model.no_purchase(histories([5] * 4, [100] * 4, [100, 130, 200, 400]), 30)
    assert (np.diff(silent) > 0).all()


def test_a_fit_does_not_depend_on_the_order_of_the_customers_nor_much_on_the_unit_of_time() -> None:
    known, _ = simulated(TRUTHS[1], 500, seed=4)
    found = fit_purchase_model(known)
    mixed = np.random.default_rng(5).permutation(len(known))
    parts = (known.repeats, known.recency_days, known.age_days)
    assert fit_purchase_model(histories(*(values[mixed] for values in parts))) == found
    weeks = fit_purchase_model(histories(known.repeats, known.recency_days / 7, known.age_days / 7))
    same = (weeks.r, weeks.alpha * 7, weeks.a, weeks.b, weeks.waiting)
    assert same == pytest.approx(tuple(vars(found).values()), rel=1e-4)


@pytest.mark.parametrize("kind", ["nobody leaves", "everybody buys alike"])
def test_purchases_without_what_the_model_tells_apart_are_fitted_all_the_same(kind: str) -> None:
    rng = np.random.default_rng(6)
    age = np.full(2_000, 300.0)
    rate = np.full(2_000, 0.1) if kind == "everybody buys alike" else rng.gamma(1.0, 0.1, 2_000)
    x = rng.poisson(rate * age).astype(float)
    # The last of x times that are spread evenly over the age.
    last = np.where(x > 0, age * rng.random(2_000) ** (1 / np.maximum(x, 1)), 0.0)
    known = histories(x, last, age)
    model = fit_purchase_model(known)
    expected = np.where(x > 0, 1 - np.exp(-30 * np.maximum(rate, 1e-9)), 0).mean()
    assert 1 - model.no_purchase(known, 30).mean() == pytest.approx(expected, abs=0.03)


# ---- what cannot be fitted


def test_customers_who_all_bought_once_are_refused_by_name() -> None:
    with pytest.raises(UnfittablePurchaseModelError, match="customers: 3, of them with a repeat purchase: 0"):
        fit_purchase_model(histories([0, 0, 0], [0, 0, 0], [3, 40, 50]))
    with pytest.raises(UnfittablePurchaseModelError, match="customers: 0"):
        fit_purchase_model(histories([], [], []))


def test_histories_that_contradict_themselves_are_refused_with_each_contradiction() -> None:
    with pytest.raises(UnfittablePurchaseModelError) as refused:
        histories(
            [float("nan"), -1, 1.5, 1, 1, 0, 2],
            [1, 1, 1, 0, 9, 3, 1],
            [2, 2, 2, 0, 5, 5, 5],
        )
    assert refused.value.problems == (
        "1 customers have a value that is missing or no number",
        "3 customers have a count of repeat purchases that is negative or no whole number",
        "1 customers have a first purchase that is not before the as-of date",
        "1 customers have a last purchase before the first or after the as-of date",
        "1 customers have no repeat purchase and yet time between the first and the last",
    )

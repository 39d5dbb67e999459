"""Intervals are the published ones, and resamples are the same for everybody who asks."""

import math
import statistics

import numpy as np
import pytest
from scipy.stats import binomtest

from churn_assets.churn import intervals
from churn_assets.churn.intervals import (
    REPLICATES,
    Estimate,
    Floats,
    Statistic,
    bootstrap,
    percentile_interval,
    share,
    share_difference,
    share_of_groups,
    widest_wilson_interval,
    wilson_interval,
)

# ---- Wilson


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_is_the_published_one(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(hits, trials, 0.95) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(trials - hits, trials, 0.95)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99, 0.999])
def test_the_wilson_interval_is_that_of_scipy_at_every_number_of_hits(confidence: float) -> None:
    for trials in (1, 2, 7, 30, 93, 400):
        for hits in range(trials + 1):
            published = binomtest(hits, trials).proportion_ci(confidence, method="wilson")
            assert wilson_interval(hits, trials, confidence) == pytest.approx(tuple(published), rel=0, abs=1e-12)


def test_the_wilson_interval_widens_with_confidence_and_knows_nothing_without_trials() -> None:
    narrow, wide = wilson_interval(30, 100, 0.8), wilson_interval(30, 100, 0.99)
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
    assert wilson_interval(0, 0, 0.95) == (0.0, 1.0)
    assert wilson_interval(20, 20, 0.95)[1] == 1.0


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("trials", [1, 2, 3, 10, 31, 92, 93, 250])
def test_the_widest_wilson_interval_is_the_widest_of_all_hits(trials: int, confidence: float) -> None:
    widths = [high - low for low, high in (wilson_interval(hits, trials, confidence) for hits in range(trials + 1))]
    widest = widest_wilson_interval(trials, confidence)
    if trials % 2 == 0:
        assert widest == pytest.approx(max(widths), abs=1e-12)
    else:
        # Half of an odd number is no count of hits; the nearest ones are a little narrower.
        assert max(widths) <= widest <= max(widths) * (1 + 1 / trials**2)


def test_without_trials_any_share_is_possible_and_more_trials_leave_less_open() -> None:
    assert widest_wilson_interval(0, 0.95) == pytest.approx(1.0)
    widths = [widest_wilson_interval(trials, 0.95) for trials in (0, 0.5, 1, 7.4, 92, 93)]
    assert widths == sorted(set(widths), reverse=True)
    # The shipped policy allows 0.20: 93 churners are the fewest.
    assert widths[-1] <= 0.20 < widths[-2]


def test_a_share_is_its_value_and_its_wilson_interval_and_undefined_without_trials() -> None:
    assert share(30, 100, 0.95) == Estimate(0.3, *wilson_interval(30, 100, 0.95))
    assert share(0, 0, 0.95) == Estimate(None, None, None)


@pytest.mark.parametrize(
    ("hits", "trials", "other_hits", "other_trials", "low", "high"),
    [
        # Newcombe (Statistics in Medicine 17, 1998, page 873), table II, method 10.
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    hits: int, trials: int, other_hits: int, other_trials: int, low: float, high: float
) -> None:
    found = share_difference(hits, trials, other_hits, other_trials, 0.95)
    assert found[0] == hits / trials - other_hits / other_trials
    assert found[1:] == pytest.approx((low, high), abs=5e-5)


# ---- resampling


def means(values: Floats) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=1)


def bounds(replicates: Floats) -> tuple[float, float]:
    low, high = percentile_interval(replicates, 0.95)
    assert low is not None
    assert high is not None
    return low, high


def test_the_same_number_of_rows_gives_the_same_resamples_in_any_company() -> None:
    values = np.random.default_rng(0).normal(size=60)
    alone = bootstrap({"mean": means(values)}, 60)["mean"]
    beside = bootstrap({"other": means(values**2), "mean": means(values)}, 60)["mean"]
    assert len(alone) == REPLICATES
    assert len(set(alone)) > REPLICATES / 2
    assert (alone == beside).all()


def test_resamples_are_paired_so_that_a_constant_difference_has_no_spread() -> None:
    values = np.random.default_rng(1).normal(size=80)
    found = bootstrap({"mine": means(values + 0.25), "theirs": means(values)}, 80)
    assert percentile_interval(found["mine"] - found["theirs"], 0.95) == pytest.approx((0.25, 0.25))
    # Unpaired, the spread of the mean itself would be in it.
    low, high = bounds(found["mine"])
    assert high - low > 0.2


def test_a_resample_draws_as_many_rows_as_there_are_each_as_likely_as_another() -> None:
    drawn: list[Floats] = []

    def seen(weights: Floats) -> Floats:
        drawn.append(weights)
        return weights[:, 0]

    bootstrap({"seen": seen}, 40)
    weights = np.concatenate(drawn)
    assert (weights.sum(axis=1) == 40).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(40), abs=0.15)
    assert (weights == np.round(weights)).all()


def test_the_resamples_do_not_depend_on_how_many_fit_into_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=50)
    at_once = bootstrap({"mean": means(values)}, 50)["mean"]
    monkeypatch.setattr(intervals, "CELLS", 50 * 7)
    in_parts = bootstrap({"mean": means(values)}, 50)["mean"]
    assert in_parts == pytest.approx(at_once, abs=1e-12)


def test_the_bootstrap_of_a_mean_spreads_as_theory_says() -> None:
    values = np.random.default_rng(3).normal(size=400)
    low, high = bounds(bootstrap({"mean": means(values)}, 400)["mean"])
    expected = 2 * statistics.NormalDist().inv_cdf(0.975) * values.std() / math.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.08)
    assert low < values.mean() < high


def test_the_percentile_interval_is_the_middle_of_the_replicates() -> None:
    replicates = np.random.default_rng(4).permutation(np.arange(1001.0))
    assert percentile_interval(replicates, 0.95) == pytest.approx((25, 975))
    assert percentile_interval(replicates, 0.5) == pytest.approx((250, 750))


@pytest.mark.parametrize("replicates", [[], [math.nan], [0.1, math.nan, 0.3], [0.1] * 999 + [math.nan]])
def test_a_single_undefined_replicate_leaves_no_interval(replicates: list[float]) -> None:
    assert percentile_interval(np.array(replicates), 0.95) == (None, None)


# ---- several rows of a customer


def test_customers_are_resampled_with_all_their_rows() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    drawn: list[Floats] = []

    def seen(weights: Floats) -> Floats:
        drawn.append(weights)
        return weights[:, 0]

    bootstrap({"seen": seen}, 6, groups)
    weights = np.concatenate(drawn)
    assert len(weights) == REPLICATES
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    # As many customers as there are, however many rows they have.
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)


def test_where_each_row_is_a_customer_of_its_own_nothing_is_otherwise() -> None:
    values = np.random.default_rng(5).normal(size=70)
    plain, grouped = (bootstrap({"mean": means(values)}, 70, groups)["mean"] for groups in (None, np.arange(70)))
    assert (plain == grouped).all()


def test_customers_who_are_alike_on_every_date_widen_the_interval_as_fewer_customers_would() -> None:
    of_customers = np.random.default_rng(6).normal(size=200)
    values, groups = np.repeat(of_customers, 4), np.repeat(np.arange(200), 4)
    alone, by_row, by_customer = (
        np.subtract(*bounds(bootstrap({"mean": means(of)}, len(of), of_group)["mean"])[::-1])
        for of, of_group in ((of_customers, None), (values, None), (values, groups))
    )
    assert by_customer == pytest.approx(alone, rel=1e-9)
    assert by_customer == pytest.approx(2 * by_row, rel=0.1)


def shares_of(customers: int, rows_each: int, is_hit: np.ndarray) -> tuple[Estimate, Estimate]:
    """The share of hits, its rows taken for independent, and by customer."""
    groups, all_rows = np.repeat(np.arange(customers), rows_each), np.ones(customers * rows_each, dtype=bool)
    return share(int(is_hit.sum()), len(is_hit), 0.95), share_of_groups(is_hit, all_rows, groups, 0.95)


def test_a_share_of_customers_who_are_alike_on_every_date_is_as_unsure_as_of_one_date() -> None:
    of_customers = np.random.default_rng(7).random(150) < 0.3
    by_row, by_customer = shares_of(150, 5, np.repeat(of_customers, 5))
    alone = share(int(of_customers.sum()), 150, 0.95)
    assert by_customer.value == by_row.value == alone.value
    assert (by_customer.low, by_customer.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert by_row.low is not None
    assert by_customer.low is not None
    assert by_customer.low < by_row.low


def test_a_share_of_rows_that_are_each_a_customers_only_one_is_wilsons() -> None:
    is_hit = np.random.default_rng(8).random(90) < 0.4
    by_row, by_customer = shares_of(90, 1, is_hit)
    assert (by_customer.low, by_customer.high) == pytest.approx((by_row.low, by_row.high), abs=1e-12)
    # Customers who are less alike than chance would have it make nobody surer than that.
    unlike = np.tile([True, False], 90)
    by_row, by_customer = shares_of(90, 2, unlike)
    assert by_customer == by_row


def test_a_share_of_all_or_of_nobody_counts_each_customer_once() -> None:
    by_row, by_customer = shares_of(30, 4, np.ones(120, dtype=bool))
    assert (by_row.value, by_customer.value) == (1.0, 1.0)
    assert by_customer.low == pytest.approx(wilson_interval(30, 30, 0.95)[0])
    nobody = np.zeros(4, dtype=bool)
    assert share_of_groups(nobody, nobody, np.arange(4), 0.95) == Estimate(None, None, None)


def test_the_share_by_customer_spreads_as_resampled_customers_do() -> None:
    random = np.random.default_rng(9)
    lean, groups = random.beta(2, 4, size=300), np.repeat(np.arange(300), 3)
    is_trial, is_hit = random.random(900) < 0.5, random.random(900) < np.repeat(lean, 3)

    def recall(weights: Floats) -> Floats:
        return weights @ (is_hit & is_trial) / (weights @ is_trial)

    low, high = bounds(bootstrap({"recall": recall}, 900, groups)["recall"])
    found = share_of_groups(is_hit, is_trial, groups, 0.95)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(high - low, rel=0.08)

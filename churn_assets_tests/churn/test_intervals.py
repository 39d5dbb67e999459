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

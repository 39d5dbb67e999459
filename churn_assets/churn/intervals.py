"""How sure a figure is: the interval of a share, and resampling customers for every other figure. Pure numpy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REPLICATES = 1_000
SEED = 42
# What a processor's cache holds: with forty times as many the same figures took four times as long (2026-11-29).
CELLS = 100_000


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval; None where it is undefined, or the data are too few to bound it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


UNDEFINED = Estimate()


def wilson_interval(hits: float, trials: float, confidence: float) -> tuple[float, float]:
    """The score interval of a share (Wilson, JASA 22, 1927): never outside 0 to 1, sound at small numbers."""
    if trials == 0:
        return 0.0, 1.0
    z = _z(confidence)
    share = hits / trials
    centre = share + z * z / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def widest_wilson_interval(trials: float, confidence: float) -> float:
    """The width of the score interval where it is widest, at a share of one half: z / sqrt(trials + z²)."""
    z = _z(confidence)
    return z / sqrt(trials + z * z)


def share(hits: int, trials: int, confidence: float) -> Estimate:
    """hits / trials with its Wilson interval; undefined without trials."""
    return Estimate(hits / trials, *wilson_interval(hits, trials, confidence)) if trials else UNDEFINED


def share_of_groups(
    is_hit: NDArray[np.bool_], is_trial: NDArray[np.bool_], groups: NDArray[np.intp], confidence: float
) -> Estimate:
    """`share` of rows of which several are of one group, 0 to n - 1: of the trials, those that are a hit.

    Wilson's interval of as many trials as there would have to be for the same variance if each were a group of its own
    (the effective sample size: Kish, Survey Sampling, 1965; for Wilson's interval: Dean & Pagano, Journal of Survey
    Statistics and Methodology 3, 2015). The variance is that of a ratio over groups, by linearization. It is never less
    than that of independent rows; where all trials end alike, which tells none, those of a group count once.
    """
    trials = int(is_trial.sum())
    if not trials:
        return UNDEFINED
    value = int((is_hit & is_trial).sum()) / trials
    if 0 < value < 1:
        beyond = np.bincount(groups, weights=is_trial * (is_hit - value))
        inflation = max(1.0, float((beyond**2).sum()) / (trials * value * (1 - value)))
    else:
        inflation = float((np.bincount(groups, weights=is_trial) ** 2).sum()) / trials
    effective = trials / inflation
    return Estimate(value, *wilson_interval(value * effective, effective, confidence))


def share_difference(
    hits: int, trials: int, other_hits: int, other_trials: int, confidence: float
) -> tuple[float, float, float]:
    """hits / trials - other_hits / other_trials of two independent groups, neither empty, and the bounds of it.

    The hybrid score interval (Newcombe, Statistics in Medicine 17, 1998, method 10): from the Wilson intervals of both.
    """
    one, other = hits / trials, other_hits / other_trials
    low, high = wilson_interval(hits, trials, confidence)
    other_low, other_high = wilson_interval(other_hits, other_trials, confidence)
    difference = one - other
    return (
        difference,
        difference - hypot(one - low, other_high - other),
        difference + hypot(high - one, other - other_low),
    )


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


# (weights of the rows, one resample a row) -> the figure of each resample, NaN where it is undefined; of several
# figures a row each.
Statistic = Callable[[Floats], Floats]


def bootstrap(
    statistics: Mapping[str, Statistic], rows: int, groups: NDArray[np.intp] | None = None
) -> dict[str, Floats]:
    """Each statistic over resamples of `rows` rows with replacement (Efron, Annals of Statistics 7, 1979).

    A resample is the same for all statistics, so that their differences are paired; the same number of rows gives the
    same resamples. groups: of each row the group, 0 to n - 1, that is drawn whole, such as a customer; each row alone
    by default (the cluster bootstrap: Davison & Hinkley, Bootstrap Methods, 1997, section 3.8).
    """
    units = rows if groups is None else int(groups.max()) + 1
    random = np.random.default_rng(SEED)
    chunk = max(1, min(REPLICATES, CELLS // max(rows, 1)))
    replicates: dict[str, list[Floats]] = {name: [] for name in statistics}
    for begin in range(0, REPLICATES, chunk):
        # Row by row: a multinomial draw has the same distribution and took five times as long (8,200 rows, 2026-11-27).
        drawn = random.integers(units, size=(min(chunk, REPLICATES - begin), units))
        counts = np.array([np.bincount(resample, minlength=units) for resample in drawn], dtype=np.float64)
        weights = counts if groups is None else np.take(counts, groups, axis=1)
        for name, statistic in statistics.items():
            replicates[name].append(statistic(weights))
    return {name: np.concatenate(parts, axis=-1) for name, parts in replicates.items()}


def percentile_interval(replicates: Floats, confidence: float) -> tuple[float, float] | tuple[None, None]:
    """The middle of the replicates; none if any of them is undefined, for then the rows are too few to tell."""
    if not len(replicates) or np.isnan(replicates).any():
        return None, None
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

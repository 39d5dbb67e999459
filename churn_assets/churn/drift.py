"""How far what is scored has moved from what was trained on: bins, counts, the population stability index.

Which limits a value has to keep, and what follows, is in `monitoring.py`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import fsum, inf, log, nextafter, sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import sql
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.columns import Column, arrow_schema, list_of, map_of
from churn_assets.churn.intervals import Floats

# The subject that is no feature: the churn probability.
SCORE = "score"
# That a training date which differs from the others does not do so by chance.
SPREAD_CONFIDENCE = 0.999
# Bins of their own: no value at all, and (of subjects binned by value) a value the training data do not have.
MISSING, UNSEEN = -1, 0
# What is added to each bin: with it an empty one has a finite logarithm, and the more rows, the less it moves the rest
# (the prior of Jeffreys; Krichevsky and Trofimov, IEEE Transactions on Information Theory 27, 1981).
PSEUDO_COUNT = 0.5

# A window shows less of whoever was not there for all of it, so that features grow as a company does. Customers are
# compared with those who were there for as many of its BANDS parts; a place is a bin, and STRIDE more for each part.
BANDS, STRIDE = 4, 1_000_000
TENURE = "tenure_days"

BinCounts = Mapping[int, int]
# A column of the training data by its name, read when it is asked for: all of them at once may be more than fits.
ColumnOf = Callable[[str], pa.ChunkedArray]


@dataclass(frozen=True)
class Bins:
    """How values are binned. By value: bin i holds edges[i - 1], bin 0 any other; else (edges[i - 1], edges[i]]."""

    is_by_value: bool
    edges: tuple[float, ...]

    def bin_of(self, value: sql.Column) -> sql.Column:
        """The bin (int) of each value (double)."""
        # Sums of comparisons: with a lambda over an array of edges the same took several times as long (2026-11).
        places = [
            F.when(value == edge, place).otherwise(UNSEEN) if self.is_by_value else (value > edge).cast("int")
            for place, edge in enumerate(self.edges, start=1)
        ]
        return F.when(value.isNull() | F.isnan(value), MISSING).otherwise(sum(places, F.lit(0)))

    def bins_of(self, values: Floats) -> NDArray[np.intp]:
        """As `bin_of`, of an array; NaN stands for no value."""
        edges = np.array(self.edges)
        place = np.searchsorted(edges, values)
        if self.is_by_value:
            is_seen = np.append(edges, np.nan)[place] == values
            place = np.where(is_seen, place + 1, UNSEEN)
        return np.where(np.isnan(values), MISSING, place)


@dataclass(frozen=True)
class Profile:
    """Where the training data of one version lie in the bins of one subject (a feature, or the score).

    counts: training rows by bin, or by place. customers: how many different ones, for a customer's rows of several
    dates tell little more than one. spread: the largest index of a single training date against all of them, 0 if
    chance explains them all. trained_until: the last as-of date whose outcomes the version learned from.
    """

    model_version: str
    subject: str
    bins: Bins
    counts: BinCounts
    customers: int
    spread: float
    trained_until: date

    def row(self) -> dict[str, Any]:
        """As a row of PROFILE_SCHEMA."""
        own = {name: getattr(self, name) for name in PROFILE_SCHEMA.names if name not in ("is_by_value", "edges")}
        bins = {"is_by_value": self.bins.is_by_value, "edges": list(self.bins.edges)}
        return {**own, **bins, "counts": sorted(self.counts.items())}

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Profile":
        own = {name: row[name] for name in PROFILE_SCHEMA.names if name not in ("is_by_value", "edges")}
        bins = Bins(row["is_by_value"], tuple(row["edges"]))
        return Profile(**{**own, "counts": dict(row["counts"])}, bins=bins)


PROFILE_COLUMNS = (
    Column("model_version", "string", "the version whose training data these are"),
    Column("subject", "string", "the feature, or score"),
    Column("is_by_value", "boolean", "whether each value is a bin; else the edges are cut points"),
    Column("edges", list_of("double"), "the values, or the cut points at the training data's deciles"),
    Column(
        "counts",
        map_of("int", "long"),
        "training rows by bin, with 1,000,000 more for each quarter of the observation window that the customer was "
        "there; of the score those of the validation fold, which nothing was fitted on",
    ),
    Column("customers", "long", "how many different customers these rows are of"),
    Column(
        "spread",
        "double",
        "the largest stability index of a single training date against all of them; 0: chance explains them",
    ),
    Column("trained_until", "date", "the last date whose outcomes the version learned from"),
)
PROFILE_SCHEMA = arrow_schema(PROFILE_COLUMNS)


def profiles(
    column: ColumnOf,
    subjects: Sequence[str],
    model_version: str,
    trained_until: date,
    catalogue: Catalogue = CATALOGUE,
    *,
    window_days: float | None = None,
) -> list[Profile]:
    """What the training data look like, a profile for each subject.

    In: customer_id, as_of and `subjects` (doubles), a row for each customer and as-of date; with `window_days`, those
    of the observation window, tenure_days. One column at a time is in memory. The cut points are exact, so they depend
    on no order of the rows.
    """
    customers = pc.count_distinct(column("customer_id"), mode="all").as_py()
    dates = column("as_of").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    bands = np.zeros(len(dates), dtype=np.intp) if window_days is None else _bands(column(TENURE), window_days)
    by_value = {feature.name for feature in catalogue.features if feature.is_by_value}
    training_profiles = []
    for subject in subjects:
        values = column(subject).to_numpy()
        bins = _bins(values[~np.isnan(values)], is_by_value=subject in by_value)
        of_dates = _counts_by_date(dates, bands, bins.bins_of(values))
        pooled: Counter[int] = sum(of_dates, Counter())
        spread = _spread(pooled, customers, of_dates)
        training_profiles.append(Profile(model_version, subject, bins, pooled, customers, spread, trained_until))
    return training_profiles


def _bands(tenure_days: pa.ChunkedArray, window_days: float) -> NDArray[np.intp]:
    # NaN, for no value, is beyond all of them.
    return np.searchsorted(_band_edges(window_days), np.nan_to_num(tenure_days.to_numpy()), side="right")


def _band_edges(window_days: float) -> list[float]:
    return [window_days * part / BANDS for part in range(1, BANDS + 1)]


def _counts_by_date(dates: NDArray[np.intp], bands: NDArray[np.intp], places: NDArray[np.intp]) -> list[Counter[int]]:
    """Rows by place, for each of `dates`, numbers from 0."""
    width = int(places.max(initial=MISSING)) - MISSING + 1
    counts = np.bincount((dates * (BANDS + 1) + bands) * width + places - MISSING)
    of_dates: list[Counter[int]] = [Counter() for _ in range(int(dates.max(initial=-1)) + 1)]
    for number in np.flatnonzero(counts).tolist():
        of, place = divmod(number, width)
        day, band = divmod(of, BANDS + 1)
        of_dates[day][band * STRIDE + place + MISSING] = int(counts[number])
    return of_dates


def _spread(pooled: BinCounts, customers: int, of_dates: Sequence[BinCounts]) -> float:
    """The largest index of a single date, of those that chance does not explain; none: 0."""
    beyond = []
    for counts in of_dates:
        expected, actual = compared(pooled, customers, counts)
        index = population_stability(expected, actual)
        if index > chance_stability(expected, actual, SPREAD_CONFIDENCE):
            beyond.append(index)
    return max(beyond, default=0.0)


def compared(trained: BinCounts, customers: int, actual: BinCounts) -> tuple[dict[int, float], dict[int, float]]:
    """`trained`, rows of so many customers, and `actual`, both by place, as people by bin that can be compared.

    The trained ones are weighed so that as many were there for each part of the window as of the actual ones (direct
    standardisation); a band that none of them is of counts as the next shorter that there is. So weighed they tell as
    much as n people with 1 / n = the sum over bands of share^2 / people (the variance of a stratified mean).
    """
    known = _by_band(trained)
    now: dict[int, Counter[int]] = {}
    for band, counts in _by_band(actual).items():
        now.setdefault(max((each for each in known if each <= band), default=min(known, default=0)), Counter()).update(
            counts
        )
    total, rows = sum(actual.values()), sum(trained.values())
    observed: dict[int, float] = dict(sum(now.values(), Counter()))
    if not total or not rows:
        return scaled(sum(known.values(), Counter()), customers) if rows else {}, observed
    shares = {band: sum(now[band].values()) / total for band in sorted(now)}
    of_band = {band: sum(known[band].values()) for band in shares}
    people = 1 / fsum(share**2 * rows / (customers * of_band[band]) for band, share in shares.items())
    places = {place for band in shares for place in known[band]}
    expected = {
        place: people * fsum(share * known[band][place] / of_band[band] for band, share in shares.items())
        for place in places
    }
    return expected, observed


def _by_band(counts: BinCounts) -> dict[int, Counter[int]]:
    """By band the rows by bin."""
    found: dict[int, Counter[int]] = {}
    for place, rows in sorted(counts.items()):
        band = (place - MISSING) // STRIDE
        found.setdefault(band, Counter())[place - band * STRIDE] += rows
    return found


def _bins(values: Floats, *, is_by_value: bool) -> Bins:
    # Of two zeros that are equal neither the sign nor the place tells them apart.
    values = values + 0.0
    return Bins(True, tuple(np.unique(values).tolist())) if is_by_value else Bins(False, _cuts(_deciles(values)))


def _deciles(values: Floats) -> list[float]:
    """The least of `values` and their deciles, the k-th the ceil(k n / 10)-th smallest; none of none."""
    if not len(values):
        return []
    ranks = [1, *(-(-number * len(values) // 10) for number in range(1, 10))]
    places = [rank - 1 for rank in ranks]
    ranked: list[float] = np.partition(values, places)[places].tolist()
    return ranked


def _cuts(least_and_deciles: Sequence[float]) -> tuple[float, ...]:
    """The cut points: tied deciles are one, and there is one just below the least value if a tenth of the rows have it.

    Otherwise "at the least value" and "below it" would be one bin, and a feature stuck at zero could fall unseen.
    """
    if not least_and_deciles:
        return ()
    least, *deciles = least_and_deciles
    below = [nextafter(least, -inf)] if least == deciles[0] else []
    return tuple(below + sorted(set(deciles)))


def binned(rows: DataFrame, bins: Mapping[str, Bins], window_days: float | None = None) -> DataFrame:
    """(as_of, subject, bin), a row for each row of `rows` and subject of `bins`; with `window_days` the bin is a place,
    by the tenure_days of `rows`."""
    edges = [] if window_days is None else _band_edges(window_days)
    band = sum((F.coalesce(F.col(TENURE) >= edge, F.lit(False)).cast("int") for edge in edges), F.lit(0))
    # Sail unpivots only columns of which all or none may be null (pysail 0.7.2): none is.
    places = [
        (F.coalesce(of.bin_of(F.col(name)), F.lit(MISSING)) + band * STRIDE).alias(name) for name, of in bins.items()
    ]
    return rows.select("as_of", *places).unpivot("as_of", list(bins), "subject", "bin")


def counted(binned_rows: DataFrame) -> Mapping[tuple[date, str], BinCounts]:
    """Rows by bin for each as-of date and subject, in one Spark pass. In: as `binned`."""
    counts: dict[tuple[date, str], dict[int, int]] = {}
    for row in binned_rows.groupBy("as_of", "subject", "bin").count().collect():
        counts.setdefault((row["as_of"], row["subject"]), {})[row["bin"]] = row["count"]
    return counts


def scaled(counts: BinCounts, total: float) -> dict[int, float]:
    """`counts` in the same proportions, summing to `total`."""
    rows = sum(counts.values())
    return {place: count * total / rows for place, count in counts.items()}


def population_stability(expected: Mapping[int, float], actual: Mapping[int, float]) -> float:
    """The population stability index of `actual` against `expected`, both in people by bin.

    The sum over bins of (a - e) ln(a / e), a and e the shares (Siddiqi, Credit Risk Scorecards, 2006; Jeffreys'
    divergence). Each bin gets half a person more on either side; one that is empty on both is none.
    """
    shares = _shares(expected, actual)
    return sum((a - e) * log(a / e) for e, a in shares)


def _shares(expected: Mapping[int, float], actual: Mapping[int, float]) -> list[tuple[float, float]]:
    places = sorted(place for place in expected.keys() | actual.keys() if expected.get(place) or actual.get(place))
    sides = []
    for counts in (expected, actual):
        total = fsum(counts.values()) + PSEUDO_COUNT * len(places)
        sides.append([(counts.get(place, 0) + PSEUDO_COUNT) / total for place in places])
    return list(zip(*sides, strict=True))


def allowed_stability(spread: float, chance: float, limit: float) -> float:
    """The index up to which there is no alarm: `limit` beyond the `spread` of the training dates, or what chance gives.

    The index is a squared distance, so that of a population that lies where the furthest training date does is, by
    chance, up to (distance of that date + distance by chance) squared.
    """
    return max(spread + limit, (sqrt(spread) + sqrt(chance)) ** 2)


def chance_stability(expected: Mapping[int, float], actual: Mapping[int, float], confidence: float) -> float:
    """The index that chance alone stays below with this confidence, where nothing has moved.

    Then index / (1/n + 1/m), for n and m people in B bins, is about chi-squared with B - 1 degrees of freedom
    (Yurdakul, Statistical Properties of Population Stability Index, 2018). That takes n and m for different people; in
    fact many are the same, so chance gives less. Infinite where a side has nobody.
    """
    degrees = len(_shares(expected, actual)) - 1
    people = [fsum(counts.values()) for counts in (expected, actual)]
    if not all(people):
        return inf
    if degrees < 1:
        return 0.0
    return chi_squared_quantile(confidence, degrees) * sum(1 / each for each in people)


def chi_squared_quantile(probability: float, degrees: int) -> float:
    """The value that a chi-squared variable of so many degrees of freedom stays below with this probability."""
    # What scipy.stats.chi2.ppf computes, to the last digit; scipy.stats takes 0.7 s to import, this 0.2 (2026-11-28).
    # Imported here, because nothing but the monitoring needs it.
    from scipy.special import gammaincinv

    return float(2 * gammaincinv(degrees / 2, probability))

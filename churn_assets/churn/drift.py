"""How far what is scored has moved from what was trained on: bins, counts, the population stability index.

Which limits a value has to keep, and what follows, is in `monitoring.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from math import fsum, inf, log, nextafter, sqrt
from typing import Any

from pyspark import sql
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.columns import Column, arrow_schema, list_of, map_of

# The subject that is no feature: the churn probability.
SCORE = "score"
BY_VALUE = frozenset(feature.name for feature in FEATURES if feature.is_by_value)
DECILES = [number / 10 for number in range(1, 10)]
# Ranks to within a thousandth of the rows.
RANK_ERROR = 0.001
# That a training date which differs from the others does not do so by chance.
SPREAD_CONFIDENCE = 0.999
# Bins of their own: no value at all, and (of subjects binned by value) a value the training data do not have.
MISSING, UNSEEN = -1, 0
# What is added to each bin: with it an empty one has a finite logarithm, and the more rows, the less it moves the rest
# (the prior of Jeffreys; Krichevsky and Trofimov, IEEE Transactions on Information Theory 27, 1981).
PSEUDO_COUNT = 0.5

BinCounts = Mapping[int, int]


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


@dataclass(frozen=True)
class Profile:
    """Where the training data of one version lie in the bins of one subject (a feature, or the score).

    counts: training rows by bin. customers: how many different ones, for a customer's rows of several dates tell little
    more than one. spread: the largest index of a single training date against all of them, 0 if chance explains them
    all. trained_until: the last as-of date whose outcomes the version learned from.
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
        "training rows by bin; of the score those of the validation fold, which nothing was fitted on",
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


def profiles(rows: DataFrame, subjects: Sequence[str], model_version: str, trained_until: date) -> list[Profile]:
    """What the training data look like, a profile for each subject.

    In: customer_id, as_of and `subjects` (doubles); several as-of dates of a customer are several rows.
    """
    rows = rows.select("customer_id", "as_of", *subjects).persist()
    try:
        customers = rows.select("customer_id").distinct().count()
        bins = _bins(rows, subjects)
        by_date = counted(binned(rows, bins))
    finally:
        rows.unpersist()
    training_profiles = []
    for subject in subjects:
        of_dates = [Counter(counts) for (_, name), counts in by_date.items() if name == subject]
        pooled: Counter[int] = sum(of_dates, Counter())
        spread = _spread(scaled(pooled, customers), of_dates)
        training_profiles.append(
            Profile(model_version, subject, bins[subject], pooled, customers, spread, trained_until)
        )
    return training_profiles


def _spread(expected: Mapping[int, float], of_dates: Sequence[BinCounts]) -> float:
    """The largest index of a single date, of those that chance does not explain; none: 0."""
    beyond = [
        index
        for counts in of_dates
        if (index := population_stability(expected, counts)) > chance_stability(expected, counts, SPREAD_CONFIDENCE)
    ]
    return max(beyond, default=0.0)


def _bins(rows: DataFrame, subjects: Sequence[str]) -> dict[str, Bins]:
    by_value = [subject for subject in subjects if subject in BY_VALUE]
    by_cut = [subject for subject in subjects if subject not in BY_VALUE]
    # Nulls and NaN have no part in the quantiles, and a bin of their own.
    quantiles = rows.approxQuantile(by_cut, [0.0, *DECILES], RANK_ERROR)
    bins = {name: Bins(False, _cuts(of)) for name, of in zip(by_cut, quantiles, strict=True)}
    if by_value:
        values = rows.agg(*[F.collect_set(subject).alias(subject) for subject in by_value]).collect()[0]
        bins |= {name: Bins(True, tuple(sorted(v for v in values[name] if v == v))) for name in by_value}
    return bins


def _cuts(least_and_deciles: Sequence[float]) -> tuple[float, ...]:
    """The cut points: tied deciles are one, and there is one just below the least value if a tenth of the rows have it.

    Otherwise "at the least value" and "below it" would be one bin, and a feature stuck at zero could fall unseen.
    """
    if not least_and_deciles:
        return ()
    least, *deciles = least_and_deciles
    below = [nextafter(least, -inf)] if least == deciles[0] else []
    return tuple(below + sorted(set(deciles)))


def binned(rows: DataFrame, bins: Mapping[str, Bins]) -> DataFrame:
    """(as_of, subject, bin), a row for each row of `rows` and subject of `bins`."""
    each = [F.struct(F.lit(name).alias("subject"), of.bin_of(F.col(name)).alias("bin")) for name, of in bins.items()]
    return rows.select("as_of", F.explode(F.array(*each)).alias("binned")).select("as_of", "binned.*")


def counted(binned_rows: DataFrame) -> Mapping[tuple[date, str], BinCounts]:
    """Rows by bin for each as-of date and subject, in one Spark pass. In: as `binned`."""
    counts: dict[tuple[date, str], dict[int, int]] = {}
    for row in binned_rows.groupBy("as_of", "subject", "bin").count().collect():
        counts.setdefault((row["as_of"], row["subject"]), {})[row["bin"]] = row["count"]
    return counts


def counted_by_version(
    features: DataFrame, scores: DataFrame, known: Sequence[Profile]
) -> Mapping[tuple[date, str], BinCounts]:
    """Rows by bin of each scored date and subject, in the bins of the version that scored it, in one Spark pass.

    In: `features`, the panel; `scores`, customer_id, as_of, churn_probability and model_version. Every date has one
    version, for a week is scored as a whole.
    """
    dates = scores.select("as_of", "model_version").distinct()
    parts = []
    for version in sorted({profile.model_version for profile in known}):
        bins = {profile.subject: profile.bins for profile in known if profile.model_version == version}
        is_version = F.col("model_version") == F.lit(version)
        of_version = features.join(F.broadcast(dates.where(is_version)), "as_of", "left_semi")
        parts.append(binned(of_version, {name: of for name, of in bins.items() if name in features.columns}))
        scored = scores.where(is_version).select("as_of", F.col("churn_probability").alias(SCORE))
        parts.append(binned(scored, {SCORE: bins[SCORE]}))
    return counted(reduce(DataFrame.unionByName, parts)) if parts else {}


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


def allowed_stability(profile: Profile, actual: BinCounts, limit: float, confidence: float) -> float:
    """The index up to which there is no alarm: `limit` beyond the spread of the training dates, or what chance gives.

    The index is a squared distance, so that of a population that lies where the furthest training date does is, by
    chance, up to (distance of that date + distance by chance) squared.
    """
    chance = chance_stability(scaled(profile.counts, profile.customers), actual, confidence)
    return max(profile.spread + limit, (sqrt(profile.spread) + sqrt(chance)) ** 2)


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

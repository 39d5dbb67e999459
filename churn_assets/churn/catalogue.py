"""The features, each declared once: schema, checks, lineage, drift, reasons, card and descriptions derive from it.

How the snapshots that they read come about is in `observed.py` and `features.py`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf, isfinite
from typing import Any, Literal, get_args

from pyspark.sql import Column
from pyspark.sql import functions as F

from churn_assets.churn import wording
from churn_assets.churn.delivered import Delivered
from churn_assets.churn.errors import InvalidCatalogueError
from churn_assets.churn.measures import days_since, own_gap_days, quintile, rating_or_mean
from churn_assets.churn.observed import KEYS, SNAPSHOT_COLUMNS, FeatureRules
from churn_assets.churn.wording import Compared, Sentence, Wording

# share: a part of a whole, 0 to 1. binary: 0 or 1, no or yes. category: a number that is a name. number: any other.
Kind = Literal["number", "share", "binary", "category"]
Riskier = Literal["more", "less"]
FeatureSet = Literal["seed", "extended", "crisis_aware"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SETS: tuple[FeatureSet, ...] = get_args(FeatureSet)
# Columns that stand beside the features in one table or another, and what is watched beside them.
RESERVED = frozenset(
    {
        *KEYS,
        *("label", "fold", "churn_probability", "is_alert", "is_unseen", "risk_tier", "risk_score", "rank"),
        *("is_holdout", "is_observed", "recent_spend", "value_at_risk", "suggested_action", "reason", "reasons"),
        *("raw_score", "base_score", "other_contributions", "model_version", "features_version"),
        *("listed_at", "explained_at"),
        *("score", "outcome", "rows", "labels", "copies", "ranked_by", "expected_profit"),
        *("uplift", "is_exploration", "exploration_draw", "ranked_because"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature: a double column of the panel, never null.

    low, high: its range, part of the contract. sets: the feature sets it is a member of; of none, the panel has it and
    no model. reads: the columns of SNAPSHOT_COLUMNS that `value` is computed from. meaning: in a customer's words.
    formula: how it is computed. sentence: how it is said as a reason. tells: the columns of SNAPSHOT_COLUMNS that the
    sentence needs beside the value. riskier: which side of the usual the sentence gives as a reason; without it any
    value is one that differs. decimals: with how many the sentence shows the usual, so that what differs is seen to.
    topic: what it is about; features of one topic are told once, by one of them. parts: where its digits are figures of
    their own, their names. value_names: what its values stand for, where that is known by itself; the customers of each
    are then judged apart, under the name `parted_as`. grows: whether it counts all history, so that time alone moves
    everybody's: no drift. is_rank: whether it says where customers stand among those of the same date; that moves with
    nothing but ties, and what they are ranked by is watched itself.
    """

    name: str
    low: float
    high: float
    kind: Kind
    sets: tuple[FeatureSet, ...]
    reads: tuple[str, ...]
    meaning: str
    formula: str
    value: Callable[[FeatureRules], Column]
    sentence: Sentence
    tells: tuple[str, ...] = ()
    value_names: Mapping[float, str] = field(default_factory=dict)
    parted_as: str = ""
    riskier: Riskier | None = None
    decimals: int = 1
    topic: str = ""
    parts: tuple[str, ...] = ()
    grows: bool = False
    is_rank: bool = False

    def reason(self, value: Compared, said: Wording) -> str | None:
        """The value as a reason for risk; None where it is none: as shown it is usual, or lies to the other side."""
        own, usual = round(value.own, self.decimals), round(value.reference, self.decimals)
        is_reason = {"more": own > usual, "less": own < usual, None: own != usual or self.kind == "category"}
        return self.sentence(value, said) if is_reason[self.riskier] else None

    @property
    def about(self) -> str:
        """Its topic; by itself it is one of its own."""
        return self.topic or self.name

    @property
    def is_watched(self) -> bool:
        """Whether it tells drift: that it is distributed otherwise than it was."""
        return not (self.grows or self.is_rank)

    @property
    def is_by_value(self) -> bool:
        """Whether its numbers are names: between two of them lies nothing."""
        return self.kind in ("binary", "category")

    @property
    def range_text(self) -> str:
        """Its range in words."""
        return f"{self.low:g} to {self.high:g}" if isfinite(self.high) else f"{self.low:g} or more"


def declared(*features: Feature) -> tuple[Feature, ...]:
    """The features in this order. Raises InvalidCatalogueError, which names each that is not sound, and why."""
    problems = [problem for feature in features for problem in (*_problems(feature), *_uncomputable(feature))]
    counts = Counter(feature.name for feature in features)
    problems += [f"{name}: declared {count} times" for name, count in counts.items() if count > 1]
    problems += [
        f"{feature.name}: tells {column}, which is a feature's name too"
        for feature in features
        for column in feature.tells
        if column in counts
    ]
    problems += [f"feature set {name}: no feature names it" for name in SETS if not members(features, name)]
    if problems:
        raise InvalidCatalogueError(
            "The catalogue of features is not sound.", problems, next_step="mend the entries in churn/catalogue.py"
        )
    return features


def members(features: Sequence[Feature], name: FeatureSet) -> tuple[str, ...]:
    """The names of the feature set's members, in the order of `features`."""
    return tuple(feature.name for feature in features if name in feature.sets)


def _problems(feature: Feature) -> Iterator[str]:
    name = feature.name
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in RESERVED:
        yield f"{name!r}: cannot be the name of a feature's column"
    if not (isfinite(feature.low) and feature.low <= feature.high):
        yield f"{name}: low ({feature.low:g}) must be a number and not exceed high ({feature.high:g})"
    if feature.kind not in KINDS:
        yield f"{name}: kind ({feature.kind}) must be one of {', '.join(KINDS)}"
    if feature.kind in ("share", "binary") and (feature.low, feature.high) != (0, 1):
        yield f"{name}: a {feature.kind} feature has the range 0 to 1, not {feature.low:g} to {feature.high:g}"
    for unknown_set in [each for each in feature.sets if each not in SETS]:
        yield f"{name}: feature set ({unknown_set}) must be one of {', '.join(SETS)}"
    for part, text in {"meaning": feature.meaning, "formula": feature.formula}.items():
        if not text.strip():
            yield f"{name}: {part} is empty"
    for part, function in {"value": feature.value, "sentence": feature.sentence}.items():
        if not callable(function):
            yield f"{name}: {part} must be a function"


def _uncomputable(feature: Feature) -> Iterator[str]:
    name = feature.name
    if not feature.reads:
        yield f"{name}: reads is empty, and a feature of nothing tells nothing"
    for part, columns in {"reads": feature.reads, "tells": feature.tells}.items():
        for unknown in [each for each in columns if each not in SNAPSHOT_COLUMNS]:
            yield f"{name}: {part} {unknown}, which is no column of the customer snapshots (SNAPSHOT_COLUMNS)"


FEATURES = declared(
    Feature(
        name="total_orders",
        low=1,
        high=inf,
        kind="number",
        sets=("seed", "extended", "crisis_aware"),
        reads=("total_orders",),
        meaning="how often they ordered lately",
        formula="orders in the observation window",
        value=lambda rules: F.col("total_orders"),
        sentence=wording.orders,
        riskier="less",
        topic="orders",
    ),
    Feature(
        name="avg_star_rating",
        low=1,
        high=5,
        kind="number",
        sets=("seed", "extended", "crisis_aware"),
        reads=("mean_score",),
        meaning="how they rated us lately",
        formula="mean review score known; without a review the snapshot's mean, without any review at all 3.0",
        value=lambda rules: rating_or_mean(),
        sentence=wording.rating,
        tells=("reviews",),
        riskier="less",
        topic="reviews",
    ),
    Feature(
        name="late_order_ratio",
        low=0,
        high=1,
        kind="share",
        sets=("seed", "extended", "crisis_aware"),
        reads=("late_deliveries", "promised_deliveries"),
        meaning="how many of their deliveries came late",
        formula="known deliveries after their promise / known deliveries with a promise; none: 0",
        value=lambda rules: F.coalesce(
            F.col("late_deliveries") / F.nullif("promised_deliveries", F.lit(0)), F.lit(0.0)
        ),
        sentence=wording.lateness,
        tells=("promised_deliveries", "late_deliveries"),
        riskier="more",
        topic="waiting",
    ),
    Feature(
        name="segment_index",
        low=-1,
        high=inf,
        kind="category",
        sets=("seed", "extended", "crisis_aware"),
        reads=("segment_index",),
        meaning="the kind of customer they are",
        formula="number of the segment in an append-only dimension, most frequent first; none: -1",
        value=lambda rules: F.col("segment_index"),
        sentence=wording.segment,
        parted_as="segment",
    ),
    Feature(
        name="crisis_exposure_index",
        low=0,
        high=1,
        kind="binary",
        sets=("seed", "extended", "crisis_aware"),
        reads=("has_crisis_delivery",),
        meaning="whether a delivery left them waiting far too long",
        formula="1 if a known delivery came later after its promise than the policy's crisis delay, else 0",
        value=lambda rules: F.col("has_crisis_delivery").cast("double"),
        sentence=wording.crisis,
        value_names={0.0: "not exposed", 1.0: "exposed"},
        parted_as="crisis_exposure",
        riskier="more",
        topic="waiting",
    ),
    Feature(
        name="sentiment_velocity",
        low=-4,
        high=4,
        kind="number",
        sets=("seed", "extended", "crisis_aware"),
        reads=("steepest_fall",),
        meaning="how sharply their reviews turned",
        formula="most negative change between consecutive review scores in order of review time; fewer than two: 0",
        value=lambda rules: F.coalesce("steepest_fall", F.lit(0.0)),
        sentence=wording.fall,
        riskier="less",
        topic="reviews",
    ),
    Feature(
        name="rfm_score",
        low=111,
        high=555,
        kind="number",
        sets=("seed", "extended", "crisis_aware"),
        reads=("last_ordered_at", "total_orders", "spend"),
        meaning="how recent, frequent and valuable their orders are among all customers",
        formula="100 R + 10 F + M, quintiles within the snapshot, 1 = most recent, most orders, most spend",
        value=lambda rules: (
            100 * quintile(-F.unix_micros("last_ordered_at"))
            + 10 * (6 - quintile(F.col("total_orders")))
            + (6 - quintile(F.col("spend")))
        ),
        sentence=wording.rank,
        riskier="more",
        decimals=0,
        topic="silence",
        parts=("recency", "frequency", "spend"),
        is_rank=True,
    ),
    Feature(
        name="recency_days",
        low=0,
        high=inf,
        kind="number",
        sets=("extended", "crisis_aware"),
        reads=("last_ordered_at",),
        meaning="how long ago they last ordered",
        formula="days since the last order",
        value=lambda rules: days_since("last_ordered_at"),
        sentence=wording.silence,
        riskier="more",
        decimals=0,
        topic="silence",
    ),
    Feature(
        name="tenure_days",
        low=0,
        high=inf,
        kind="number",
        sets=("extended", "crisis_aware"),
        reads=("first_ordered_at",),
        meaning="how long they have been with us",
        formula="days since the first order ever",
        value=lambda rules: days_since("first_ordered_at"),
        sentence=wording.tenure,
        riskier="less",
        decimals=0,
        topic="orders",
        grows=True,
    ),
    Feature(
        name="gap_ratio",
        low=0,
        high=inf,
        kind="number",
        sets=("extended", "crisis_aware"),
        reads=("last_ordered_at", "median_gap_days"),
        meaning="how unusual their silence is for them",
        formula="recency_days / the median of their own gaps between orders (at least one day); "
        "fewer than two orders: the snapshot's median of those medians",
        value=lambda rules: days_since("last_ordered_at") / own_gap_days(rules.outcome_days),
        sentence=wording.gap,
        riskier="more",
        topic="silence",
    ),
    Feature(
        name="missed_orders",
        low=0,
        high=inf,
        kind="number",
        sets=("crisis_aware",),
        reads=("last_ordered_at", "orders_ever", "first_ordered_at"),
        meaning="how many orders they would usually have placed since the last one",
        formula="recency_days x orders ever / tenure_days",
        value=lambda rules: days_since("last_ordered_at") * F.col("orders_ever") / days_since("first_ordered_at"),
        sentence=wording.missed,
        riskier="more",
        topic="silence",
    ),
    Feature(
        name="recent_delay_minutes",
        low=0,
        high=inf,
        kind="number",
        sets=("crisis_aware",),
        reads=("recent_delay_minutes",),
        meaning="how long their late deliveries kept them waiting lately",
        formula="minutes after the promise, summed over the late deliveries known in the eligibility window",
        value=lambda rules: F.col("recent_delay_minutes"),
        sentence=wording.delay,
        riskier="more",
        decimals=0,
        topic="waiting",
    ),
    Feature(
        name="orders_ever",
        low=1,
        high=inf,
        kind="number",
        sets=("crisis_aware",),
        reads=("orders_ever",),
        meaning="how often they have ever ordered",
        formula="orders before the as-of date",
        value=lambda rules: F.col("orders_ever"),
        sentence=wording.orders_in_all,
        riskier="less",
        topic="orders",
        grows=True,
    ),
    Feature(
        name="delay_minutes_at_last_order",
        low=0,
        high=inf,
        kind="number",
        sets=("crisis_aware",),
        reads=("delay_minutes_at_last_order",),
        meaning="how long late deliveries had kept them waiting when they last ordered",
        formula="minutes after the promise, summed over the late deliveries of as many days as the eligibility window "
        "has, to the end of the day (UTC) of the last order",
        value=lambda rules: F.col("delay_minutes_at_last_order"),
        sentence=wording.delay_at_last_order,
        riskier="more",
        decimals=0,
        topic="waiting",
    ),
)
FEATURE_OF: Mapping[str, Feature] = {feature.name: feature for feature in FEATURES}
FEATURE_SETS: Mapping[FeatureSet, tuple[str, ...]] = {name: members(FEATURES, name) for name in SETS}
# What sentences need of the snapshots beside the features.
TOLD_COLUMNS = tuple(dict.fromkeys(column for feature in FEATURES for column in feature.tells))


@dataclass(frozen=True)
class Catalogue:
    """The features of a panel, in their order. delivered: what is declared of one that others computed; else None."""

    features: tuple[Feature, ...]
    delivered: Delivered | None = None

    @cached_property
    def of(self) -> Mapping[str, Feature]:
        """The features by name."""
        return {feature.name: feature for feature in self.features}

    @property
    def has_orders(self) -> bool:
        """Whether orders lie behind the panel."""
        return self.delivered is None

    @property
    def has_rule(self) -> bool:
        """Whether the scores of a baseline rule belong to the panel."""
        return self.delivered is None or self.delivered.has_rule

    @property
    def attestations(self) -> tuple[str, ...]:
        """What is believed because somebody vouches for it, as sentences; nothing of what this code computes."""
        sentence = None if self.delivered is None else self.delivered.attestation
        return () if sentence is None else (sentence,)

    def named_set(self) -> dict[str, str]:
        """What stands for the policy's feature set where columns are declared; empty where the sets are this code's."""
        return {} if self.delivered is None else {"feature_set": "declared"}

    @property
    def told_columns(self) -> tuple[str, ...]:
        """What sentences need of the snapshots beside the features."""
        return tuple(dict.fromkeys(column for feature in self.features for column in feature.tells))

    def declaration(self) -> dict[str, Any]:
        """What was declared outside of this code, for digests; empty for the features that this code computes."""
        if self.delivered is None:
            return {}
        columns = [
            {
                **{name: getattr(feature, name) for name in ("name", "low", "high", "kind", "meaning")},
                "is_used": bool(feature.sets),
                "names": sorted(feature.value_names.items()),
            }
            for feature in self.features
        ]
        return {"columns": columns, **self.delivered.declaration()}

    def __reduce__(self) -> Any:
        # By its name: where it is sent to, the same code has the same features.
        return "CATALOGUE" if self is CATALOGUE else (Catalogue, (self.features, self.delivered))


# The features that are computed from orders.
CATALOGUE = Catalogue(FEATURES)


def as_delivered(
    name: str,
    *,
    low: float,
    high: float,
    kind: Kind,
    meaning: str,
    is_used: bool = True,
    names: Mapping[float, str] | None = None,
) -> Feature:
    """A column of a ready feature table as a feature: of every set, or of none where no model shall use it.

    Its sentence is made of its meaning. A yes-or-no, and a category whose values have names, are judged by parts.
    """
    value_names = dict(names or ({0.0: "no", 1.0: "yes"} if kind == "binary" else {}))
    return Feature(
        name=name,
        low=low,
        high=high,
        kind=kind,
        sets=SETS if is_used else (),
        reads=(name,),
        meaning=meaning,
        formula="as delivered",
        value=partial(_delivered_value, name),
        sentence=wording.Told(meaning, kind, value_names),
        # Its sentence sees to it that what it shows differs.
        decimals=9,
        value_names=value_names,
        parted_as=name,
    )


def _delivered_value(name: str, rules: FeatureRules) -> Column:
    return F.col(name)


def delivered_catalogue(features: Sequence[Feature], delivered: Delivered) -> Catalogue:
    """The catalogue of a ready feature table. Raises InvalidCatalogueError, which names each column and why."""
    problems = [problem for feature in features for problem in _problems(feature)]
    if not any(feature.sets for feature in features):
        problems.append("no column is left for a model to use")
    if delivered.value is not None and delivered.value not in {feature.name for feature in features}:
        problems.append(f"value ({delivered.value}) must be one of the columns")
    if problems:
        raise InvalidCatalogueError(
            "The declared columns of the feature table are not sound.",
            problems,
            next_step="mend them under [features.columns] in sources.toml",
        )
    return Catalogue(tuple(features), delivered)

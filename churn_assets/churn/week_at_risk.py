"""What an executive wants to know of a scored week, as figures. How they are shown does not belong here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURE_OF
from churn_assets.churn.scoring import KEYS, TIERS


@dataclass(frozen=True)
class Part:
    """Of a week's scored customers, or a part of them.

    expected_leavers: the churn probabilities summed. value_at_risk: churn probability times the spend of the
    observation window, summed; in the shop's currency.
    """

    name: str
    customers: int
    alerts: int
    expected_leavers: float
    recent_spend: float
    value_at_risk: float

    @property
    def alert_share(self) -> float:
        return self.alerts / self.customers if self.customers else 0.0


@dataclass(frozen=True)
class Driver:
    """A feature among the reasons of listed customers. share: of all who are listed, 0 to 1."""

    feature: str
    meaning: str
    customers: int
    share: float


@dataclass(frozen=True)
class Offer:
    """Customers to contact with one action."""

    action: str
    customers: int
    value_at_risk: float


@dataclass(frozen=True)
class WeekAtRisk:
    """A scored week: everyone, by tier (high first) and segment (largest value at risk first), and the list's part."""

    as_of: date
    everyone: Part
    tiers: Sequence[Part]
    segments: Sequence[Part]
    drivers: Sequence[Driver]
    offers: Sequence[Offer]
    held_out: int
    excluded: int

    @property
    def to_contact(self) -> int:
        return sum(offer.customers for offer in self.offers)

    @property
    def listed_value_at_risk(self) -> float:
        return sum(offer.value_at_risk for offer in self.offers)


def week_at_risk(
    as_of: date,
    scores: DataFrame,
    snapshots: DataFrame,
    targets: DataFrame,
    excluded: DataFrame,
    segments: Mapping[int, str],
) -> WeekAtRisk:
    """The figures of one week. In: rows of any weeks; `snapshots` with spend and segment_index; segment names."""
    scores, snapshots, targets, excluded = (
        rows.where(F.col("as_of") == F.lit(as_of)) for rows in (scores, snapshots, targets, excluded)
    )
    spend = snapshots.select(*KEYS, F.col("spend").cast("double").alias("recent_spend"), "segment_index")
    valued = scores.join(spend, [*KEYS]).persist()
    by_segment = _parts(valued, F.col("segment_index").cast("int"))
    tiers = {part.name: part for part in _parts(valued, F.col("risk_tier"))}
    everyone = _parts(valued, F.lit("all"))
    valued.unpersist()
    named = [replace(part, name=segments.get(int(part.name), "(none)")) for part in by_segment]
    return WeekAtRisk(
        as_of,
        everyone[0] if everyone else Part("all", 0, 0, 0.0, 0.0, 0.0),
        [tiers[tier] for tier in TIERS if tier in tiers],
        sorted(named, key=lambda part: (-part.value_at_risk, part.name)),
        _drivers(targets),
        _offers(targets),
        targets.where("is_holdout").count(),
        excluded.count(),
    )


def _parts(valued: DataFrame, by: Column) -> list[Part]:
    value = F.col("churn_probability") * F.col("recent_spend")
    parts = valued.groupBy(by.cast("string").alias("name")).agg(
        F.count("*").alias("customers"),
        F.count_if("is_alert").alias("alerts"),
        F.sum("churn_probability").alias("expected_leavers"),
        F.sum("recent_spend").alias("recent_spend"),
        F.sum(value).alias("value_at_risk"),
    )
    return [Part(**row.asDict()) for row in parts.collect()]


def _drivers(targets: DataFrame) -> list[Driver]:
    listed = targets.count()
    counted = targets.select(F.explode("reasons.feature").alias("feature")).groupBy("feature").count().collect()
    drivers = [
        Driver(row.feature, FEATURE_OF[row.feature].meaning, row["count"], row["count"] / listed) for row in counted
    ]
    return sorted(drivers, key=lambda driver: (-driver.customers, driver.feature))


def _offers(targets: DataFrame) -> list[Offer]:
    offered = targets.where(~F.col("is_holdout")).groupBy(F.col("suggested_action").alias("action"))
    rows = offered.agg(F.count("*").alias("customers"), F.sum("value_at_risk").alias("value_at_risk")).collect()
    return sorted((Offer(**row.asDict()) for row in rows), key=lambda offer: (-offer.value_at_risk, offer.action))


@dataclass(frozen=True)
class ServingModel:
    """The version that scored a week and how it was judged, on customers it never saw; None where it was not."""

    version: str
    trained_on: date
    tested_at: date
    verdict: str
    customers: int
    churners: int | None
    caught: int | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    precision: float | None
    lift: float | None

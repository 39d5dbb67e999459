"""What an executive wants to know of a scored week, as figures. How they are shown does not belong here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import fsum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.churn.campaigns import LEAST_IN_GROUP
from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import UNDEFINED, Estimate
from churn_assets.churn.policy import Scoring
from churn_assets.churn.retention import NO_ACTION_PAYS, as_doubles
from churn_assets.churn.scoring import TIERS

# Reasons of a smaller share of the list are told together, as are segments of fewer customers.
LEAST_SHARE_OF_LIST = 0.05
LEAST_IN_SEGMENT = LEAST_IN_GROUP


@dataclass(frozen=True)
class Part:
    """Of a week's scored customers, or a part of them.

    expected_leavers: the churn probabilities summed, of all of them. alerted_spend: what those with an alert spent in
    the observation window; value_at_risk: that times their churn probability, summed; in the shop's currency. Both are
    None where nobody's spend is known.
    """

    name: str
    customers: int
    alerts: int
    expected_leavers: float
    alerted_spend: float | None
    value_at_risk: float | None

    @property
    def alert_share(self) -> float:
        return self.alerts / self.customers if self.customers else 0.0


@dataclass(frozen=True)
class Driver:
    """A reason among those of listed customers, or several together. share: of all who are listed, 0 to 1."""

    meaning: str
    customers: int
    share: float


@dataclass(frozen=True)
class Offer:
    """Customers to contact with one action."""

    action: str
    customers: int
    value_at_risk: float | None


@dataclass(frozen=True)
class WeekAtRisk:
    """A scored week: everyone, by tier (high first) and segment (largest value at risk first), and the list's part.

    Reasons and segments too few to say anything of are one of their own, the last, where there are two of them.

    exclusions: of how many excluded customers each reason is, the most frequent first; a customer may have two.
    """

    as_of: date
    everyone: Part
    tiers: Sequence[Part]
    segments: Sequence[Part]
    drivers: Sequence[Driver]
    offers: Sequence[Offer]
    held_out: int
    excluded: int
    exclusions: Mapping[str, int]

    @property
    def to_contact(self) -> int:
        return sum(offer.customers for offer in self.offers)

    @property
    def listed_value_at_risk(self) -> float | None:
        return _sum([offer.value_at_risk for offer in self.offers])


@dataclass(frozen=True)
class TierLimits:
    """From which probability of leaving on a customer is of high and of medium risk.

    least_alerted: the lowest probability of a customer at risk, whom that makes medium at least; None without any.
    """

    high: float
    medium: float
    least_alerted: float | None


def tier_limits(scores: pa.Table, churn_rate: float, scoring: Scoring) -> TierLimits:
    """Where the tiers of a week begin. In: churn_probability and is_alert of everybody scored; churn_rate: known so
    far, 0 to 1."""
    alerted = scores.filter(scores.column("is_alert")).column("churn_probability")
    return TierLimits(*scoring.least_probabilities(churn_rate), pc.min(alerted).as_py())


def week_at_risk(
    as_of: date,
    scores: pa.Table,
    snapshots: pa.Table,
    targets: pa.Table,
    *,
    exclusions: pa.ChunkedArray,
    segments: Mapping[int, str],
    catalogue: Catalogue = CATALOGUE,
) -> WeekAtRisk:
    """The figures of one week, each sum exact before it is rounded, so that no order of the rows changes a digit.

    In, of that week: `scores`, customer_id, churn_probability, is_alert, risk_tier; `snapshots`, customer_id, spend
    (decimal or double; null where it is not known) and perhaps segment_index; `targets`, is_holdout, value_at_risk,
    suggested_action, reasons; the reasons of those excluded from the list. The names of the segments.
    """
    valued = scores.join(snapshots, "customer_id", join_type="inner")
    has_segments = "segment_index" in snapshots.column_names
    by_segment = _parts(valued, valued.column("segment_index").cast(pa.int64())) if has_segments else []
    tiers = {part.name: part for part in _parts(valued, valued.column("risk_tier"))}
    everyone = _parts(valued, pa.array(["all"] * len(valued)))
    named = [replace(part, name=segments.get(int(part.name), "(none)")) for part in by_segment]
    return WeekAtRisk(
        as_of,
        everyone[0] if everyone else Part("all", 0, 0, 0.0, 0.0, 0.0),
        [tiers[tier] for tier in TIERS if tier in tiers],
        _with_small_ones_together(sorted(named, key=lambda part: (-(part.value_at_risk or 0.0), part.name))),
        _drivers(targets, catalogue),
        _offers(targets),
        sum(targets.column("is_holdout").to_pylist()),
        len(exclusions),
        _exclusions(exclusions.to_pylist()),
    )


def _exclusions(reasons: Sequence[str]) -> dict[str, int]:
    # A reason may say when: "contacted on 2025-12-01"; of two kinds both are told: "opted out; held out on 2025-12-01".
    kinds = ({told.partition(" on ")[0] for told in reason.split("; ")} for reason in reasons)
    counts = Counter(kind for each in kinds for kind in each)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _parts(valued: pa.Table, by: pa.ChunkedArray | pa.Array) -> list[Part]:
    probability, is_alert = (valued.column(name).to_numpy() for name in ("churn_probability", "is_alert"))
    spend = as_doubles(valued.column("spend")).to_numpy()
    parts = []
    for name in pc.unique(by):
        is_part = pc.equal(by, name).to_numpy(zero_copy_only=False)
        is_alerted = is_part & is_alert
        is_known = not np.isnan(spend[is_part]).any()
        parts.append(
            Part(
                str(name.as_py()),
                customers=int(is_part.sum()),
                alerts=int(is_alerted.sum()),
                expected_leavers=fsum(probability[is_part]),
                alerted_spend=fsum(spend[is_alerted]) if is_known else None,
                value_at_risk=fsum((probability * spend)[is_alerted]) if is_known else None,
            )
        )
    return parts


def _with_small_ones_together(segments: Sequence[Part]) -> list[Part]:
    small = [part for part in segments if part.customers < LEAST_IN_SEGMENT]
    if len(small) < 2:
        return list(segments)
    together = Part(
        f"{len(small)} small segments",
        customers=sum(part.customers for part in small),
        alerts=sum(part.alerts for part in small),
        expected_leavers=fsum(part.expected_leavers for part in small),
        alerted_spend=_sum([part.alerted_spend for part in small]),
        value_at_risk=_sum([part.value_at_risk for part in small]),
    )
    return [*[part for part in segments if part not in small], together]


def _drivers(targets: pa.Table, catalogue: Catalogue) -> list[Driver]:
    reasons = [{reason["feature"] for reason in of_customer} for of_customer in targets.column("reasons").to_pylist()]
    counted = Counter(feature for of_customer in reasons for feature in of_customer)
    ordered = sorted(counted, key=lambda feature: (-counted[feature], feature))
    rare = {feature for feature in ordered if counted[feature] < LEAST_SHARE_OF_LIST * len(reasons)}
    if len(rare) < 2:
        rare = set()
    told = [(catalogue.of[feature].meaning, counted[feature]) for feature in ordered if feature not in rare]
    if rare:
        of_others = sum(not rare.isdisjoint(of_customer) for of_customer in reasons)
        told.append((f"{len(rare)} other reasons", of_others))
    return [Driver(meaning, customers, customers / len(reasons)) for meaning, customers in told]


def _offers(targets: pa.Table) -> list[Offer]:
    values: dict[str, list[float | None]] = {}
    for row in targets.select(["is_holdout", "suggested_action", "value_at_risk"]).to_pylist():
        if not row["is_holdout"]:
            values.setdefault(row["suggested_action"] or NO_ACTION_PAYS, []).append(row["value_at_risk"])
    offers = [Offer(action, len(of_action), _sum(of_action)) for action, of_action in values.items()]
    return sorted(offers, key=lambda offer: (-(offer.value_at_risk or 0.0), offer.action))


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return fsum(known) if len(known) == len(values) else None


@dataclass(frozen=True)
class JudgedWeek:
    """One date that a model was judged at by itself. recall: as observed; least_recall: what was asked of it."""

    as_of: date
    is_met: bool
    recall: float | None
    least_recall: float | None


@dataclass(frozen=True)
class ServingModel:
    """The version that scored a week and how it was judged; None where it was not.

    evaluation: the policy's way of judging by the time, "holdout", "crossfit" or "backtest". attainable: the recall of
    a perfect ranking with as many alerts; rule_recall: that of the retention team's rule with as many. weeks: of a
    backtest, with how many of them the policy asks for. expected_per_left: how many the probabilities expected to
    leave for each of the judged customers who left.
    """

    version: str
    trained_on: date
    tested_at: date
    verdict: Verdict | None = None
    evaluation: str | None = None
    customers: int = 0
    churners: int | None = None
    caught: int | None = None
    recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    precision: float | None = None
    lift: float | None = None
    attainable: float | None = None
    rule_recall: float | None = None
    weeks: Sequence[JudgedWeek] = ()
    weeks_asked: int = 0
    expected_per_left: Estimate = UNDEFINED

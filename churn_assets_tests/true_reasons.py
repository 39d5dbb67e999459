"""What no reason may say, whatever the data: written down once more, and not read from the catalogue."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

from churn_assets.churn.catalogue import TOLD_COLUMNS
from churn_assets.churn.reasons import explained, reference
from churn_assets.churn.wording import Wording
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets_tests.conftest import Project

MORE_IS_RISKIER = {
    "late_order_ratio",
    "crisis_exposure_index",
    "rfm_score",
    "recency_days",
    "gap_ratio",
    "missed_orders",
    "recent_delay_minutes",
    "delay_minutes_at_last_order",
}
LESS_IS_RISKIER = {"total_orders", "avg_star_rating", "sentiment_velocity", "tenure_days", "orders_ever"}
TELL_THE_SAME = (
    {"recency_days", "gap_ratio", "missed_orders", "rfm_score"},
    {"total_orders", "orders_ever", "tenure_days"},
    {"late_order_ratio", "crisis_exposure_index", "recent_delay_minutes", "delay_minutes_at_last_order"},
    {"avg_star_rating", "sentiment_velocity"},
)
# Where own and usual are said as numbers of one kind.
NUMBERS = re.compile(r"^\D*?(?P<own>[\d,]+(?:\.\d+)?)\b.*; usual is (?P<usual>[\d,]+(?:\.\d+)?)(?: times)?$")
PARTS = re.compile(r"(\d) of 5 for \w+ \(usual is ([\d.]+)\)")


def contradictions(customers: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with the `reasons` (as `reasons.REASON`) of customers, who have their features beside."""
    for customer in customers:
        reasons = customer["reasons"]
        told = {reason["feature"] for reason in reasons}
        for same in TELL_THE_SAME:
            if len(told & same) > 1:
                yield f"told more than once: {sorted(told & same)}"
        for reason in reasons:
            yield from (f"{reason['feature']}: {wrong}: {reason['sentence']}" for wrong in _wrong(customer, reason))


def _wrong(customer: Mapping[str, Any], reason: Mapping[str, Any]) -> Iterator[str]:
    name, value, usual, sentence = (reason[part] for part in ("feature", "value", "usual", "sentence"))
    if value != customer[name]:
        yield f"of another customer, who has {value} and not {customer[name]}"
    if reason["contribution"] <= 0:
        yield "it lowered the score"
    if name in MORE_IS_RISKIER and not value > usual:
        yield f"{value} is not more than {usual}"
    if name in LESS_IS_RISKIER and not value < usual:
        yield f"{value} is not less than {usual}"
    if name == "rfm_score":
        pairs = [(float(own), float(usual_)) for own, usual_ in PARTS.findall(sentence)]
        if not pairs or any(own <= usual_ for own, usual_ in pairs):
            yield "no part, or one that is not worse than usual"
    elif name not in ("segment_index", "crisis_exposure_index", "late_order_ratio", "sentiment_velocity"):
        said = NUMBERS.match(sentence)
        if said is None:
            yield "it does not set own and usual against each other"
        else:
            own, beside = (float(said[part].replace(",", "")) for part in ("own", "usual"))
            if own == beside or (own > beside) != (name in MORE_IS_RISKIER):
                yield "as said, it is the usual, or to its other side"
    if name == "late_order_ratio" and not customer["late_deliveries"]:
        yield "nothing came late"
    if name == "avg_star_rating" and not customer["reviews"]:
        yield "there is no review"


def everybody_told(project: Project, run_id: str, day: date) -> list[dict[str, Any]]:
    """Every customer of a date with the reasons that the model of a training run has for them, passed or not."""
    lakehouse, tracking = project.lakehouse, project.tracking
    model = tracking.load_model(tracking.trained_model(run_id).uri)
    keys = ["customer_id", "as_of"]
    told = lakehouse.read(BASELINE).select(*keys, *TOLD_COLUMNS)
    rows = lakehouse.read(PANEL).select(*keys, *model.features).join(told, keys).where(f"as_of = date'{day}'")
    against = {day: reference(rows.toArrow(), model)}
    found = explained(rows, model, against, Wording(project.policy.feature_rules, {})).collect()
    return [row.asDict(recursive=True) for row in found]

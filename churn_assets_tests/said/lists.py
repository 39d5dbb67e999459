"""The list for the team: its columns, and each reason by the row of its customer."""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import fsum

from churn_assets_tests.said.sentences import Rule, count, counted, one_in, span
from churn_assets_tests.said.tables import Row, Tables, tier_names
from churn_assets_tests.true_reasons import LESS_IS_RISKIER, MORE_IS_RISKIER

COLUMNS = [
    *(
        "week",
        "rank",
        "ranked_by",
        "ranked_because",
        "customer_id",
        "risk_tier",
        "churn_probability",
        "recent_spend",
        "value_at_risk",
    ),
    *("currency", "suggested_action", "reason_1", "reason_2", "reason_3"),
]

ASKED_FOR = "the company's policy asks for it"


def untrue_list(tables: Tables, text: str) -> Iterator[str]:
    """The file for the team: who is on it and in which order, every amount, every action, every reason."""
    listed = list(csv.DictReader(text.splitlines()))
    if (header := text.splitlines()[0].replace('"', "").split(",")) != COLUMNS:
        yield f"no rule checks the columns {header}"
        return
    contacts = [row for row in tables.targets if not row["is_holdout"]]
    policy, tiers = tables.project.policy, tier_names(tables)
    assert policy.ranked_by == "value_at_risk", "nobody wrote down how another list is ranked"
    if [row["customer_id"] for row in listed] != [row["customer_id"] for row in contacts]:
        yield "these are not the customers to contact, by rank"
    before = float("inf")
    for place, (row, of_table) in enumerate(zip(listed, contacts, strict=False), start=1):
        customer = row["customer_id"]
        probability, own = tables.scores[customer]["churn_probability"], tables.panel[customer]
        value = probability * float(own["spend"])
        told = [row[f"reason_{number}"] for number in (1, 2, 3) if row[f"reason_{number}"]]
        wanted: dict[str, str] = {
            "week": str(tables.week),
            "rank": str(place),
            "ranked_by": "value_at_risk",
            "ranked_because": ASKED_FOR,
            "customer_id": customer,
            "risk_tier": tiers[customer],
            "currency": policy.units.currency,
            "suggested_action": _action(tables, of_table, value),
        }
        yield from (
            f"rank {place}: {name} is {row[name]!r} and not {text!r}"
            for name, text in wanted.items()
            if row[name] != text
        )
        numbers = {"churn_probability": round(probability, 4), "recent_spend": round(float(own["spend"]), 2)}
        for name, number in {**numbers, "value_at_risk": round(value, 2)}.items():
            if abs(float(row[name]) - number) > 1e-9:
                yield f"rank {place}: {name} is {row[name]} and not {number}"
        if value > before:
            yield f"rank {place}: has more value at risk than the one before"
        before = value
        for sentence in told:
            yield from untrue_reason(tables, own, sentence)


def _action(tables: Tables, row: Row, value: float) -> str:
    """The first action whose conditions are met."""
    policy = tables.project.policy
    about = {feature.name: feature.about for feature in policy.catalogue.features}
    told = {about[reason["feature"]] for reason in row["reasons"]}
    for action in policy.retention.actions:
        if action.risk_tier not in (None, row["risk_tier"]):
            continue
        if action.reason is not None and about[action.reason] not in told:
            continue
        if value >= (action.min_value_at_risk or 0):
            return action.action
    return ""


@dataclass(frozen=True)
class Reason:
    """A sentence of a feature: what it says of a customer's row and of what is usual."""

    feature: str
    text: str
    figures: Callable[[Tables, Row, float, float], Mapping[str, str]]
    is_so: Callable[[Row], bool] = field(default=lambda row: True)


def _scaled(unit: str, of: float, decimals: int) -> Callable[[Tables, Row, float, float], Mapping[str, str]]:
    def figures(tables: Tables, row: Row, own: float, usual: float) -> dict[str, str]:
        days = str(tables.project.policy.windows.eligibility_days)
        waited = counted(own, unit) if of == 1 else f"{own / of:.1f} {unit}s"
        return {"waited": waited, "days": days, "usual": f"{usual / of:,.{decimals}f}"}

    return figures


def _rated(tables: Tables, own: float, usual: float, at: float = 0.0) -> dict[str, str]:
    """On the company's own scale, on which the four steps of a review are as many as lie between its ends."""
    units = tables.project.policy.units
    worst, best = units.rating_scale
    said = [f"{at + steps / 4 * (best - worst):.1f}" for steps in (own, usual)]
    return {"own": said[0], "unit": units.rating, "usual": said[1]}


def _ranks(tables: Tables, row: Row, own: float, usual: float) -> dict[str, str]:
    parts = []
    for place, name in ((100, "recency"), (10, "frequency"), (1, "spend")):
        mine = own // place % 10
        others = [each["rfm_score"] // place % 10 for each in tables.panel.values()]
        mean = fsum(others) / len(others)
        if mine > round(mean, 1):
            parts.append(f"{mine:.0f} of 5 for {name} (usual is {mean:.1f})")
    return {"parts": ", ".join(parts)}


REASONS = (
    Reason(
        "total_orders",
        "{orders} in {days} days; usual is {usual}",
        lambda tables, row, own, usual: {
            "orders": counted(own, "order"),
            "days": str(tables.project.policy.windows.observation_days),
            "usual": f"{usual:,.1f}",
        },
    ),
    Reason(
        "orders_ever",
        "{orders} in all; usual is {usual}",
        lambda tables, row, own, usual: {"orders": counted(own, "order"), "usual": f"{usual:,.1f}"},
    ),
    Reason(
        "avg_star_rating",
        "rated us {own} {unit} on average; usual is {usual}",
        lambda tables, row, own, usual: _rated(tables, own - 1, usual - 1, tables.project.policy.units.rating_scale[0]),
        lambda row: row["reviews"] > 0,
    ),
    Reason(
        "sentiment_velocity",
        "a review fell by {own} {unit} from the one before; usual is {usual}",
        lambda tables, row, own, usual: _rated(tables, -own, max(-usual, 0)),
    ),
    Reason(
        "late_order_ratio",
        "the last delivery came late; usual is {usual}",
        lambda tables, row, own, usual: {"usual": one_in(usual)},
        lambda row: row["late_deliveries"] == row["promised_deliveries"] == 1,
    ),
    Reason(
        "late_order_ratio",
        "{late} of the last {promised} deliveries came late; usual is {usual}",
        lambda tables, row, own, usual: {
            "late": count(row["late_deliveries"]),
            "promised": count(row["promised_deliveries"]),
            "usual": one_in(usual),
        },
        lambda row: row["promised_deliveries"] > 1,
    ),
    Reason(
        "segment_index",
        "belongs to the {segment} segment",
        lambda tables, row, own, usual: {"segment": tables.segments[own]},
    ),
    Reason(
        "segment_index",
        "belongs to no known segment",
        lambda tables, row, own, usual: {},
        lambda row: row["segment_index"] < 0,
    ),
    Reason(
        "crisis_exposure_index",
        "waited more than {late} past the promise; {usual} of all customers did",
        lambda tables, row, own, usual: {
            "late": span(tables.project.policy.crisis_delay_minutes),
            "usual": one_in(usual),
        },
        lambda row: bool(row["has_crisis_delivery"]),
    ),
    Reason("rfm_score", "ranks {parts}; 1 is best", _ranks),
    Reason(
        "recency_days",
        "last ordered {ago} ago; usual is {usual}",
        lambda tables, row, own, usual: {"ago": counted(own, "day"), "usual": count(usual)},
    ),
    Reason(
        "tenure_days",
        "first ordered {ago} ago; usual is {usual}",
        lambda tables, row, own, usual: {"ago": counted(own, "day"), "usual": count(usual)},
    ),
    Reason(
        "gap_ratio",
        "silent for {own} times their own usual gap between orders; usual is {usual} times",
        lambda tables, row, own, usual: {"own": f"{own:.1f}", "usual": f"{usual:.1f}"},
    ),
    Reason(
        "missed_orders",
        "at their own pace would have ordered {own} times since the last order; usual is {usual}",
        lambda tables, row, own, usual: {"own": f"{own:.1f}", "usual": f"{usual:.1f}"},
    ),
    *(
        Reason(
            name,
            f"waited {{waited}} past the promise in {when}; usual is {{usual}}",
            _scaled(unit, minutes, decimals),
            lambda row, name=name, least=least, most=most: least <= row[name] < most,  # type: ignore[misc]
        )
        for name, when in (
            ("recent_delay_minutes", "{days} days"),
            ("delay_minutes_at_last_order", "the {days} days to the last order"),
        )
        for unit, minutes, decimals, least, most in (
            ("minute", 1, 0, 0, 300),
            ("hour", 60, 1, 300, 7200),
            ("day", 1440, 1, 7200, float("inf")),
        )
    ),
)


def untrue_reason(tables: Tables, row: Row, sentence: str) -> Iterator[str]:
    """What is wrong with a reason that is given for the customer of `row`: figures, or that it is none."""
    problems = []
    for reason in REASONS:
        if (match := Rule(reason.text).pattern.fullmatch(sentence)) is None:
            continue
        own, usual = row[reason.feature], tables.means[reason.feature]
        wrong = [f"{reason.feature} is no such reason"] if not reason.is_so(row) else []
        if not wrong:
            figures = reason.figures(tables, row, own, usual)
            wrong += [
                f"{name} is {figures.get(name)!r}" for name, text in match.groupdict().items() if text != figures[name]
            ]
        if reason.feature in MORE_IS_RISKIER and not own > usual:
            wrong.append("it is not more than usual")
        if reason.feature in LESS_IS_RISKIER and not own < usual:
            wrong.append("it is not less than usual")
        if not wrong:
            return
        problems += wrong
    yield f"{row['customer_id']}: {'; '.join(problems) or 'no rule checks'}: {sentence}"

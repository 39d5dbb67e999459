"""The newest list as the team works on it: who is to be contacted, who is not and why, and what was before.

How it is shown belongs to `pages/`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from churn_assets.churn.outbox import WITHDRAWAL, WeekOfMessages, content_of, sentences_of

TO_CONTACT, CONTACTED, LEFT_ALONE = "to contact", "contacted", "not to contact"
STANDINGS = (TO_CONTACT, CONTACTED, LEFT_ALONE)
HELD_OUT_NOTE = "held out at random, to see what contacting the others changes"
OPTED_OUT_NOTE = "opted out"
# What is told of a customer as the tables have it; of who is left alone no action, so that none can be taken for one.
FIGURES = ("churn_probability", "value_at_risk", "recent_spend", "expected_profit")


@dataclass(frozen=True)
class Event:
    """What happened with a customer on a day."""

    on: date
    what: str


@dataclass(frozen=True)
class ScoredDate:
    """An as-of date that was scored, and the version of the model that did."""

    as_of: date
    model_version: str


@dataclass(frozen=True)
class WorklistCustomer:
    """One customer at risk. rank: as in the list's file, None for who is not in it. why: of who is left alone.

    scores: the churn probability at each of the worklist's earlier dates, None where there is none. events: the latest
    first.
    """

    customer_id: str
    standing: str
    why: str | None
    rank: int | None
    risk_tier: str
    suggested_action: str | None
    churn_probability: float
    value_at_risk: float | None
    recent_spend: float | None
    expected_profit: float | None
    reasons: Sequence[str]
    scores: Sequence[float | None]
    events: Sequence[Event]

    def row(self) -> dict[str, Any]:
        """As JSON has it, an event as its date and its words."""
        return {**vars(self), "events": [[str(event.on), event.what] for event in self.events]}


@dataclass(frozen=True)
class Worklist:
    """The customers at risk of one week: by rank, then those who are not in the list's file by probability.

    earlier: the dates scored before, the latest first. ranked_by, ranked_because: the list's own; None where nobody is
    on it, the second also in lists of before they said why.
    """

    as_of: date
    ranked_by: str | None
    ranked_because: str | None
    earlier: Sequence[ScoredDate]
    customers: Sequence[WorklistCustomer]


def worklist(
    week: WeekOfMessages,
    targets: Iterable[Mapping[str, Any]],
    excluded: Iterable[Mapping[str, Any]],
    *,
    earlier: Mapping[ScoredDate, Mapping[str, float]],
    events: Mapping[str, Sequence[Event]],
) -> Worklist:
    """Who is to be contacted is who the messages of the week say it of: nobody held out, opted out or contacted since.

    In, of the week: `targets`, customer_id, rank, is_holdout, risk_tier, suggested_action, reasons, ranked_by,
    ranked_because and FIGURES; `excluded`, customer_id, reason, reasons, risk_tier and churn_probability. earlier: by
    date scored before, the probability by customer. events: by customer.
    """
    ranked_by, ranked_because = None, None
    rows = []
    for row in targets:
        ranked_by, ranked_because = row["ranked_by"], row.get("ranked_because")
        told = {**row, **content_of(row), "rank": None}
        if not row["is_holdout"]:
            told["rank"] = week.listed[row["customer_id"]]["rank"]
        rows.append((told, HELD_OUT_NOTE if row["is_holdout"] else OPTED_OUT_NOTE))
    unlisted = dict.fromkeys(FIGURES) | {"rank": None, "suggested_action": None}
    rows += [({**unlisted, **row, "reasons": sentences_of(row)}, row["reason"]) for row in excluded]
    dates = sorted(earlier, key=lambda scored: scored.as_of, reverse=True)
    customers = [_customer(told, why, week, [earlier[scored] for scored in dates], events) for told, why in rows]
    return Worklist(week.as_of, ranked_by, ranked_because, dates, sorted(customers, key=_place))


def _customer(
    row: Mapping[str, Any],
    why: str,
    week: WeekOfMessages,
    earlier: Sequence[Mapping[str, float]],
    events: Mapping[str, Sequence[Event]],
) -> WorklistCustomer:
    customer = row["customer_id"]
    standing = CONTACTED if customer in week.contacted else TO_CONTACT if customer in week.wanted else LEFT_ALONE
    return WorklistCustomer(
        customer,
        standing,
        why if standing == LEFT_ALONE else None,
        row["rank"],
        row["risk_tier"],
        suggested_action=None if standing == LEFT_ALONE else row["suggested_action"],
        **{name: row[name] for name in FIGURES},
        reasons=row["reasons"],
        scores=[probabilities.get(customer) for probabilities in earlier],
        events=sorted(events.get(customer, ()), key=lambda event: (event.on, event.what), reverse=True),
    )


def _place(customer: WorklistCustomer) -> tuple[bool, int, float, str]:
    return customer.rank is None, customer.rank or 0, -customer.churn_probability, customer.customer_id


def events_of(
    members: Iterable[Mapping[str, Any]],
    messages: Sequence[Mapping[str, Any]],
    receipts: Iterable[Mapping[str, Any]],
    *,
    week: date,
) -> dict[str, list[Event]]:
    """What happened with each customer, by lists and tool. Of this week's list only what came after it.

    In: `retention.campaign_members` with `contacted_on`, a date; `messages`, message_id, customer_id, as_of, kind and
    queued_at; `receipts`, message_id, customer_id, as_of, delivered_at and contacted_at (times are aware). Of a contact
    that the lists and the tool both tell of the lists' word is told.
    """
    events: dict[str, list[Event]] = defaultdict(list)
    known = set()
    for member in members:
        customer, as_of, contacted_on = member["customer_id"], member["as_of"], member["contacted_on"]
        if contacted_on is not None:
            known.add((customer, as_of))
            events[customer].append(Event(contacted_on, f"contacted{_of_list(as_of)}"))
        elif as_of is not None and as_of != week:
            what = "held out" if member["is_holdout"] else "to be contacted; no contact is known"
            events[customer].append(Event(as_of, f"on the week's list: {what}"))
    kinds = {message["message_id"]: message["kind"] for message in messages}
    for message in messages:
        if message["kind"] == WITHDRAWAL:
            what = f"taken back from the messages to the team's tool{_of_list(message['as_of'])}"
            events[message["customer_id"]].append(Event(message["queued_at"].date(), what))
    for receipt in receipts:
        customer, as_of, contacted_at = receipt["customer_id"], receipt["as_of"], receipt["contacted_at"]
        what = f"{kinds.get(receipt['message_id'], 'message')} accepted by the team's tool{_of_list(as_of)}"
        events[customer].append(Event(receipt["delivered_at"].date(), what))
        if contacted_at is not None and (customer, as_of) not in known:
            events[customer].append(Event(contacted_at.date(), f"contacted, says the team's tool{_of_list(as_of)}"))
    return events


def _of_list(as_of: date | None) -> str:
    return "" if as_of is None else f", list of {as_of:%-d %B %Y}"

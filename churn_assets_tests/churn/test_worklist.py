"""Who is to be contacted is told of nobody else, and what happened is told as the tables have it."""

from collections.abc import Set
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_assets.churn.outbox import WeekOfMessages, content_of
from churn_assets.churn.retention import to_contact
from churn_assets.churn.worklist import (
    CONTACTED,
    HELD_OUT_NOTE,
    LEFT_ALONE,
    OPTED_OUT_NOTE,
    TO_CONTACT,
    Event,
    ScoredDate,
    Worklist,
    events_of,
    worklist,
)

pytestmark = pytest.mark.unit

WEEK = date(2026, 1, 5)
IDS = "abcdefgh"


def target(customer: str, rank: int, *, is_holdout: bool = False) -> dict[str, Any]:
    return {
        "customer_id": customer,
        "rank": rank,
        "is_holdout": is_holdout,
        "risk_tier": "high",
        "suggested_action": "call",
        "reasons": [{"sentence": "ordered less"}],
        "ranked_by": "value_at_risk",
        "churn_probability": 0.5,
        "value_at_risk": 50.0 / rank,
        "recent_spend": 100.0 / rank,
        "expected_profit": None,
    }


def kept_off(customer: str, reason: str, probability: float) -> dict[str, Any]:
    told = {"customer_id": customer, "reason": reason, "reasons": [{"sentence": "silent"}]}
    return {**told, "risk_tier": "high", "churn_probability": probability}


def made(
    targets: list[dict[str, Any]],
    excluded: list[dict[str, Any]] | None = None,
    *,
    opted_out: Set[str] = frozenset(),
    contacted: Set[str] = frozenset(),
    **more: Any,
) -> Worklist:
    held_out = {row["customer_id"] for row in targets if row["is_holdout"]}
    listed = {row["customer_id"]: content_of(row) for row in to_contact(pa.Table.from_pylist(targets))}
    week = WeekOfMessages(WEEK, listed, frozenset(held_out | opted_out), frozenset(contacted))
    return worklist(week, targets, excluded or [], **{"earlier": {}, "events": {}} | more)


@given(*[st.sets(st.sampled_from(IDS)) for _ in range(3)])
def test_nobody_held_out_opted_out_or_contacted_is_to_be_contacted_and_everybody_else_is(
    held_out: set[str], opted_out: set[str], contacted: set[str]
) -> None:
    targets = [target(each, rank, is_holdout=each in held_out) for rank, each in enumerate(IDS, start=1)]
    excluded = [kept_off("z", "opted out", 0.9)]
    customers = made(targets, excluded, opted_out=opted_out, contacted=contacted).customers
    assert {each.customer_id for each in customers} == {*IDS, "z"}
    standing = {each.customer_id: each.standing for each in customers}
    assert {each for each in standing if standing[each] == TO_CONTACT} == set(IDS) - held_out - opted_out - contacted
    assert {each for each in standing if standing[each] == CONTACTED} == contacted
    for each in customers:
        is_left = each.standing == LEFT_ALONE
        assert (each.suggested_action is None) is is_left
        assert (each.why is not None) is is_left
        assert (each.rank is None) is (each.customer_id in held_out | {"z"})
    # The ranks are those of the file: without a hole where somebody is held out, and the same whoever opts out since.
    assert [each.rank for each in customers if each.rank] == list(range(1, len(IDS) - len(held_out) + 1))


def test_why_somebody_is_left_alone_is_said_and_why_everybody_is_at_risk() -> None:
    excluded = [kept_off("x", "contacted on 2025-12-29", 0.2)]
    found = made([target("a", 1), target("b", 2, is_holdout=True)], excluded, opted_out={"a"}).customers
    assert [(each.customer_id, each.why) for each in found] == [
        ("a", OPTED_OUT_NOTE),
        ("b", HELD_OUT_NOTE),
        ("x", "contacted on 2025-12-29"),
    ]
    assert [each.reasons for each in found] == [["ordered less"], ["ordered less"], ["silent"]]
    assert found[2].value_at_risk is None


def test_scores_stand_by_the_date_the_latest_first_and_a_week_without_one_is_a_gap() -> None:
    old, new = ScoredDate(date(2025, 12, 22), "1"), ScoredDate(date(2025, 12, 29), "2")
    found = made([target("a", 1), target("b", 2)], earlier={old: {"a": 0.1}, new: {"a": 0.2, "b": 0.3}})
    assert found.earlier == [new, old]
    assert [each.scores for each in found.customers] == [[0.2, 0.1], [0.3, None]]


def test_contacts_hold_outs_and_what_the_tool_said_are_events_each_once() -> None:
    past, noon = date(2025, 11, 3), datetime(2025, 11, 4, 12, tzinfo=UTC)
    members: list[dict[str, Any]] = [
        {"customer_id": "a", "as_of": past, "contacted_on": date(2025, 11, 5), "is_holdout": False},
        {"customer_id": "a", "as_of": None, "contacted_on": date(2025, 10, 1), "is_holdout": False},
        {"customer_id": "b", "as_of": past, "contacted_on": None, "is_holdout": True},
        {"customer_id": "c", "as_of": past, "contacted_on": None, "is_holdout": False},
        # What this week's list is to do is no history.
        {"customer_id": "c", "as_of": WEEK, "contacted_on": None, "is_holdout": True},
    ]
    messages = [
        {"message_id": "m1", "customer_id": "a", "as_of": past, "kind": "contact", "queued_at": noon},
        {"message_id": "m2", "customer_id": "c", "as_of": past, "kind": "contact", "queued_at": noon},
        {"message_id": "m3", "customer_id": "c", "as_of": past, "kind": "withdrawal", "queued_at": noon},
    ]
    receipts = [
        {"message_id": each["message_id"], "customer_id": each["customer_id"], "as_of": past, "delivered_at": noon}
        | {"contacted_at": noon if each["kind"] == "contact" else None}
        for each in messages
    ]
    found = events_of(members, messages, receipts, week=WEEK)
    of_list = ", list of 3 November 2025"
    assert [(event.on, event.what) for event in sorted(found["a"], key=lambda event: event.on)] == [
        (date(2025, 10, 1), "contacted"),
        (date(2025, 11, 4), f"contact accepted by the team's tool{of_list}"),
        (date(2025, 11, 5), f"contacted{of_list}"),
    ]
    assert found["b"] == [Event(past, "on the week's list: held out")]
    assert {event.what for event in found["c"]} == {
        "on the week's list: to be contacted; no contact is known",
        f"taken back from the messages to the team's tool{of_list}",
        f"contact accepted by the team's tool{of_list}",
        f"withdrawal accepted by the team's tool{of_list}",
        f"contacted, says the team's tool{of_list}",
    }
    (customer,) = made([target("a", 1)], events=found).customers
    assert [event.on for event in customer.events] == sorted((event.on for event in found["a"]), reverse=True)

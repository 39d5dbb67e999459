"""What is queued, sent and taken back, whatever happens to list, opt-outs, tool and process in between."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_assets.churn.outbox import (
    CONTACT,
    WITHDRAWAL,
    WeekOfMessages,
    as_lines,
    as_told,
    delivery_outcome,
    due_messages,
    latest,
    outbox_outcomes,
    receipts_of,
    undelivered,
)

pytestmark = pytest.mark.unit

WEEK, NOW = date(2026, 1, 5), datetime(2026, 1, 5, 9, tzinfo=UTC)
CUSTOMERS = "abcd"


def row(rank: int, action: str = "voucher") -> dict[str, Any]:
    return {"rank": rank, "risk_tier": "high", "suggested_action": action, "reasons": ["ordered less"]}


def told(*customers: str, **more: Any) -> WeekOfMessages:
    return WeekOfMessages(WEEK, {customer: row(rank) for rank, customer in enumerate(customers, 1)}, **more)


def kinds(messages: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(each["customer_id"], each["kind"], each["number"]) for each in messages]


def test_the_same_list_twice_queues_nothing_more() -> None:
    first = due_messages(told("b", "a"), NOW)
    assert kinds(first) == [("b", CONTACT, 1), ("a", CONTACT, 1)]
    assert due_messages(told("b", "a", messages=first), NOW) == []
    # Another rank alone is no news.
    assert due_messages(told("a", "b", messages=first), NOW) == []


def test_what_the_list_says_otherwise_is_another_message_and_who_is_off_it_is_withdrawn() -> None:
    first = due_messages(told("a", "b"), NOW)
    changed = WeekOfMessages(WEEK, {"a": row(1, "call")}, messages=first)
    second = due_messages(changed, NOW)
    assert kinds(second) == [("a", CONTACT, 2), ("b", WITHDRAWAL, 2)]
    assert second[1]["rank"] is None
    # And listed again.
    again = due_messages(told("b", messages=[*first, *second]), NOW)
    assert kinds(again) == [("b", CONTACT, 3), ("a", WITHDRAWAL, 3)]
    assert len({each["message_id"] for each in [*first, *second, *again]}) == 6


def test_who_was_contacted_is_told_of_once_and_not_withdrawn() -> None:
    first = due_messages(told("a", "b"), NOW)
    assert due_messages(WeekOfMessages(WEEK, {"a": row(1, "call")}, frozenset(), frozenset("ab"), first), NOW) == []


def test_a_contact_that_was_withdrawn_before_it_was_sent_is_never_sent() -> None:
    first = due_messages(told("a", "b"), NOW)
    second = due_messages(told("a", "b", kept_off=frozenset("b"), messages=first), NOW)
    week = told("a", "b", messages=[*first, *second])
    pending = undelivered(week, set())
    assert [(each["customer_id"], each["kind"]) for each in pending] == [("a", CONTACT), ("b", WITHDRAWAL)]
    assert undelivered(week, {each["message_id"] for each in pending}) == []


@pytest.mark.parametrize("name", ["kept_off", "contacted"])
def test_a_contact_is_not_sent_of_who_has_to_be_left_alone_or_was_contacted_meanwhile(name: str) -> None:
    first = due_messages(told("a", "b"), NOW)
    pending = undelivered(told("a", "b", messages=first, **{name: frozenset("b")}), set())
    assert [each["customer_id"] for each in pending] == ["a"]


def test_a_message_is_told_in_plain_json_and_a_withdrawal_tells_the_id_alone() -> None:
    first = due_messages(told("=a"), NOW)
    gone = due_messages(WeekOfMessages(WEEK, {}, messages=first), NOW)
    assert as_told(first[0]) == {
        "message_id": first[0]["message_id"],
        "kind": "contact",
        "customer_id": "=a",
        "week": "2026-01-05",
        "number": 1,
        "rank": 1,
        "risk_tier": "high",
        "suggested_action": "voucher",
        "reasons": ["ordered less"],
    }
    assert set(as_told(gone[0])) == {"message_id", "kind", "customer_id", "week", "number"}
    assert [json.loads(line) for line in as_lines([*first, *gone]).splitlines()] == [*map(as_told, [*first, *gone])]


UNUSABLE = [
    {"message_id": "of nobody", "contacted_at": "2026-01-05T08:00:00+00:00"},
    {"message_id": "M", "contacted_at": "2026-01-05T08:00:00"},
    {"message_id": "M", "contacted_at": "2026-01-05T09:00:01+00:00"},
    {"message_id": "M", "contacted_at": "soon"},
    {"message_id": "M"},
    "M",
    None,
]


@pytest.mark.parametrize("receipt", UNUSABLE, ids=str)
def test_a_receipt_that_says_nothing_sure_is_named_and_not_believed(receipt: Any) -> None:
    messages = [{**due_messages(told("a"), NOW)[0], "message_id": "M"}]
    receipts, unusable = receipts_of(messages, {"receipts": [receipt]}, NOW)
    assert [(each["message_id"], each["contacted_at"]) for each in receipts] == [("M", None)]
    assert len(unusable) == 1


@pytest.mark.parametrize("answer", [None, [], "ok", {}, {"receipts": []}])
def test_a_tool_that_answers_otherwise_has_accepted_all_the_same(answer: Any) -> None:
    receipts, unusable = receipts_of(due_messages(told("a", "b"), NOW), answer, NOW)
    assert [each["customer_id"] for each in receipts] == ["a", "b"]
    assert unusable == []


def test_a_receipt_with_its_offset_is_kept_in_utc_and_one_of_a_withdrawal_is_none() -> None:
    first = due_messages(told("a", "b"), NOW)
    gone = due_messages(told("a", messages=first), NOW)
    said = [{"message_id": each["message_id"], "contacted_at": "2026-01-05T08:30:00+01:00"} for each in [*first, *gone]]
    receipts, unusable = receipts_of([first[0], *gone], {"receipts": [said[0], said[2]]}, NOW)
    assert [each["contacted_at"] for each in receipts] == [datetime(2026, 1, 5, 7, 30, tzinfo=UTC), None]
    assert len(unusable) == 1


def test_the_rules_name_who_is_to_be_contacted_and_may_not_be_and_what_is_queued_twice() -> None:
    messages = due_messages(told("a", "b"), NOW)
    good = outbox_outcomes(told("a", "b", messages=messages))
    assert [outcome.is_passed for outcome in good] == [True, True]
    twice, off = outbox_outcomes(told("a", kept_off=frozenset("b"), messages=[*messages, messages[0]]))
    assert (twice.is_passed, twice.keys) == (False, ("a, message 1",))
    assert (off.is_passed, off.keys) == (False, ("b",))


def test_what_a_tool_has_not_accepted_is_a_warning_with_its_number() -> None:
    late = delivery_outcome(3, 10, has_target=True)
    assert (late.is_passed, late.is_warning, late.figures[0].value) == (False, True, 3)
    assert delivery_outcome(0, 10, has_target=True).is_passed
    assert delivery_outcome(10, 10, has_target=False).is_passed


@dataclass
class Tool:
    """Keeps the last message of each customer, as the page asks tools to."""

    last: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def take(self, messages: list[Mapping[str, Any]]) -> None:
        for message in messages:
            if message["number"] >= self.last.get(message["customer_id"], message)["number"]:
                self.last[message["customer_id"]] = message

    def contacts(self) -> dict[str, str]:
        return {customer: each["suggested_action"] for customer, each in self.last.items() if each["kind"] == CONTACT}


@dataclass(frozen=True)
class Step:
    """A materialization: the actions of who is listed, who may not be contacted, and what becomes of the sending."""

    actions: dict[str, str]
    kept_off: frozenset[str]
    contacted: str | None
    fate: str


customers = st.sampled_from(CUSTOMERS)
steps = st.builds(
    Step,
    st.dictionaries(customers, st.sampled_from(["voucher", "call"])),
    st.frozensets(customers),
    st.none() | customers,
    st.sampled_from(["sent", "down", "sent, but killed before the receipts"]),
)


@given(st.lists(steps, min_size=1, max_size=8))
def test_whatever_happens_the_tool_ends_with_the_list_and_never_hears_of_who_may_not_be_contacted(
    history: list[Step],
) -> None:
    tool, messages, delivered = Tool(), list[dict[str, Any]](), set[str]()
    contacted, allowed = set[str](), dict[str, str]()
    for number, step in enumerate([*history, Step(history[-1].actions, history[-1].kept_off, None, "sent")]):
        # A contact that the tool made is known by the next time.
        contacted |= {step.contacted or ""} & set(tool.contacts())
        listed = {name: row(rank, step.actions[name]) for rank, name in enumerate(sorted(step.actions), 1)}
        week = WeekOfMessages(WEEK, listed, step.kept_off, frozenset(contacted), list(messages))
        messages += due_messages(week, NOW + timedelta(minutes=number))
        week = WeekOfMessages(WEEK, listed, step.kept_off, frozenset(contacted), list(messages))
        assert [outcome.is_passed for outcome in outbox_outcomes(week)] == [True, True]
        assert due_messages(week, NOW) == []
        pending = undelivered(week, delivered)
        named = {each["customer_id"] for each in pending if each["kind"] == CONTACT}
        assert not named & (step.kept_off | contacted)
        if step.fate != "down":
            tool.take(pending)
        if step.fate == "sent":
            delivered |= {each["message_id"] for each in pending}
        allowed = {name: action for name, action in step.actions.items() if name not in step.kept_off}
    still = {name: action for name, action in tool.contacts().items() if name not in contacted}
    assert still == {name: action for name, action in allowed.items() if name not in contacted}
    assert {latest(messages)[name]["message_id"] for name in still} <= delivered

"""What the team's own tool is told of a week's list: each contact once, and whoever is off the list again, withdrawn.

A message is queued before it is sent, and sent under the same id until the tool has accepted it, so that neither a
crash nor a tool that was down loses one or makes one of two.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from churn_assets.churn.columns import Column, arrow_schema, list_of
from churn_assets.churn.outcomes import Figure, Outcome, none_of

CONTACT, WITHDRAWAL = "contact", "withdrawal"
# What a contact is told with: another value makes it another message. The rank moves with every other customer's.
CONTENT = ("risk_tier", "suggested_action", "reasons")
MESSAGE_COLUMNS = (
    Column("message_id", "string", "the same however often the message is sent"),
    Column("customer_id", "string", "whom the message is about"),
    Column("as_of", "date", "the as-of date of the list"),
    Column("number", "int", "which message about the customer and the list it is, from 1; the last one counts"),
    Column("kind", "string", f"{CONTACT}: contact this customer; {WITHDRAWAL}: do not, whatever was said before"),
    Column("rank", "int", "the place among those to contact when it was queued, from 1; null for a withdrawal"),
    Column("risk_tier", "string", "as in the list; null for a withdrawal"),
    Column("suggested_action", "string", "as in the list; null for a withdrawal"),
    Column("reasons", list_of("string"), "the sentences of the list; empty for a withdrawal"),
    Column("queued_at", "timestamp", "when the message was written (UTC)"),
)
RECEIPT_COLUMNS = (
    Column("message_id", "string", "the message that was accepted"),
    Column("customer_id", "string", "whom it is about"),
    Column("as_of", "date", "the as-of date of the list"),
    Column("delivered_at", "timestamp", "when the tool accepted it (UTC)"),
    Column(
        "contacted_at", "timestamp", "when the tool says that the customer was contacted (UTC); null where it does not"
    ),
)
MESSAGE_SCHEMA, RECEIPT_SCHEMA = arrow_schema(MESSAGE_COLUMNS), arrow_schema(RECEIPT_COLUMNS)
SENT_ONCE, NOBODY_KEPT_OFF, ALL_DELIVERED = "sent_once", "nobody_kept_off_the_list", "delivered"


@dataclass(frozen=True)
class WeekOfMessages:
    """What is to be told of one week.

    listed: by customer, rank and CONTENT of whom the list has to be contacted. kept_off: who must not be, whatever the
    list says: held out, or opted out since it was made. contacted: who was contacted already. messages: those of the
    week that are queued, in columns of MESSAGE_COLUMNS.
    """

    as_of: date
    listed: Mapping[str, Mapping[str, Any]]
    kept_off: frozenset[str] = frozenset()
    contacted: frozenset[str] = frozenset()
    messages: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def wanted(self) -> dict[str, Mapping[str, Any]]:
        return {customer: row for customer, row in self.listed.items() if customer not in self.kept_off}


def content_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a customer of the list is told with: rank and CONTENT, of the reasons the sentences."""
    told = {name: row[name] for name in ("rank", "risk_tier", "suggested_action")}
    return {**told, "reasons": sentences_of(row)}


def sentences_of(row: Mapping[str, Any]) -> list[str]:
    """Those of its reasons, the largest first."""
    return [reason["sentence"] for reason in row["reasons"]]


def latest(messages: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The message that counts of each customer."""
    found: dict[str, Mapping[str, Any]] = {}
    for message in sorted(messages, key=lambda each: each["number"]):
        found[message["customer_id"]] = message
    return found


def due_messages(week: WeekOfMessages, now: datetime) -> list[dict[str, Any]]:
    """What has to be queued so that the last message of each customer says what the list says, in columns of
    MESSAGE_COLUMNS: contacts by rank, then withdrawals by customer.

    A customer who was contacted is not told of again; one who was never told of is not withdrawn.
    """
    last, wanted = latest(week.messages), week.wanted
    contacts = [
        _message(week.as_of, customer, last.get(customer), now, CONTACT, row)
        for customer, row in sorted(wanted.items(), key=lambda item: item[1]["rank"])
        if customer not in week.contacted and not _says(last.get(customer), row)
    ]
    gone = [customer for customer, message in sorted(last.items()) if message["kind"] == CONTACT]
    withdrawals = [
        _message(week.as_of, customer, last[customer], now, WITHDRAWAL, {})
        for customer in gone
        if customer not in wanted and customer not in week.contacted
    ]
    return [*contacts, *withdrawals]


def _says(message: Mapping[str, Any] | None, row: Mapping[str, Any]) -> bool:
    return message is not None and message["kind"] == CONTACT and all(message[name] == row[name] for name in CONTENT)


def _message(
    as_of: date, customer: str, last: Mapping[str, Any] | None, now: datetime, kind: str, row: Mapping[str, Any]
) -> dict[str, Any]:
    number = 1 if last is None else last["number"] + 1
    key = json.dumps([str(as_of), customer, number])
    return {
        "message_id": hashlib.sha256(key.encode()).hexdigest()[:32],
        "customer_id": customer,
        "as_of": as_of,
        "number": number,
        "kind": kind,
        "rank": row.get("rank"),
        **{name: row.get(name) for name in CONTENT},
        "reasons": list(row.get("reasons") or []),
        "queued_at": now,
    }


def undelivered(week: WeekOfMessages, delivered: Collection[str]) -> list[Mapping[str, Any]]:
    """The messages to send, as they were queued: the last of each customer, unless its id is among `delivered`.

    What a later message takes back is never sent, so a contact that was withdrawn in between reaches nobody; nor is a
    contact of a customer who was contacted meanwhile.
    """
    counting = {message["message_id"] for message in latest(week.messages).values()}
    pending = [each for each in week.messages if each["message_id"] in counting - set(delivered)]
    past = week.kept_off | week.contacted
    return [each for each in pending if each["kind"] == WITHDRAWAL or each["customer_id"] not in past]


def as_told(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the tool gets it, and as the file of the week has it: plain JSON values."""
    told = {name: message[name] for name in ("message_id", "kind", "customer_id")}
    told["week"], told["number"] = str(message["as_of"]), message["number"]
    if message["kind"] == CONTACT:
        told |= {name: message[name] for name in ("rank", *CONTENT)}
    return told


def request_key(messages: Iterable[Mapping[str, Any]]) -> str:
    """The same for the same messages, and for no others."""
    return hashlib.sha256(" ".join(each["message_id"] for each in messages).encode()).hexdigest()


def as_lines(messages: Iterable[Mapping[str, Any]]) -> bytes:
    """The file of a week: a line of JSON for each message, in the order of the queue."""
    return "".join(f"{json.dumps(as_told(each), ensure_ascii=False)}\n" for each in messages).encode()


def receipts_of(
    messages: Sequence[Mapping[str, Any]], answer: Any, now: datetime
) -> tuple[list[dict[str, Any]], list[str]]:
    """The receipts of messages that a tool has accepted, in columns of RECEIPT_COLUMNS; and what its answer says that
    cannot be used.

    answer: the JSON that came back, if any. `{"receipts": [{"message_id": …, "contacted_at": …}]}` says who was
    contacted, when (ISO 8601 with its offset). Of a message that was not sent now, or of a time to come, it is not
    used.
    """
    said = answer.get("receipts", []) if isinstance(answer, Mapping) else []
    times: dict[str, datetime] = {}
    unusable: list[str] = []
    contacts = {message["message_id"] for message in messages if message["kind"] == CONTACT}
    for receipt in said if isinstance(said, Sequence) and not isinstance(said, str) else [said]:
        message_id, contacted_at = _contact_of(receipt)
        if message_id not in contacts or contacted_at is None or contacted_at > now:
            unusable.append(json.dumps(receipt, default=str)[:100])
        else:
            times[message_id] = contacted_at
    told = [
        {name: message[name] for name in ("message_id", "customer_id", "as_of")}
        | {"delivered_at": now, "contacted_at": times.get(message["message_id"])}
        for message in messages
    ]
    return told, unusable


def _contact_of(receipt: Any) -> tuple[str, datetime | None]:
    if not isinstance(receipt, Mapping):
        return "", None
    try:
        time = datetime.fromisoformat(str(receipt.get("contacted_at")))
    except ValueError:
        return "", None
    return str(receipt.get("message_id")), time.astimezone(UTC) if time.tzinfo else None


def outbox_outcomes(week: WeekOfMessages) -> list[Outcome]:
    """The rules of the messages of a week as they stand, those about to be queued among them."""
    keys = [(message["customer_id"], message["number"]) for message in week.messages]
    twice = sorted({f"{customer}, message {number}" for customer, number in keys if keys.count((customer, number)) > 1})
    counting = latest(week.messages)
    told = {customer for customer, message in counting.items() if message["kind"] == CONTACT}
    off = sorted(told & week.kept_off - week.contacted)
    return [
        _none(SENT_ONCE, "messages queued twice", twice),
        _none(NOBODY_KEPT_OFF, "customers to contact who are held out or opted out", off),
    ]


def _none(rule: str, what: str, offenders: Sequence[str]) -> Outcome:
    figure = none_of(what, len(offenders))
    return Outcome(
        rule, not offenders, f"{len(offenders)} {what}", f"0 {what}", tuple(offenders[:10]), figures=(figure,)
    )


def delivery_outcome(pending: int, messages: int, *, has_target: bool) -> Outcome:
    """Whether the tool has accepted what counts of a week. A warning: the next materialization sends the rest."""
    if not has_target:
        return Outcome(
            ALL_DELIVERED, True, "no tool is named; the week's file has the messages", "delivered, if one is"
        )
    figure = Figure(
        "undelivered_messages", "undelivered messages", f"{pending:,}", "0", pending == 0, value=pending, limit=0
    )
    return Outcome(
        ALL_DELIVERED,
        pending == 0,
        f"{pending:,} of {messages:,} messages are not delivered",
        "0",
        is_warning=True,
        figures=(figure,),
    )

"""Stage 8, for the team's own tool: the messages of the newest list, queued once and sent until they are accepted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.outbox import (
    ALL_DELIVERED,
    MESSAGE_COLUMNS,
    MESSAGE_SCHEMA,
    NOBODY_KEPT_OFF,
    RECEIPT_COLUMNS,
    RECEIPT_SCHEMA,
    SENT_ONCE,
    WeekOfMessages,
    as_lines,
    as_told,
    content_of,
    delivery_outcome,
    due_messages,
    latest,
    outbox_outcomes,
    receipts_of,
    request_key,
    undelivered,
)
from churn_assets.churn.outcomes import require
from churn_assets.churn.plain_text import protected
from churn_assets.churn.retention import to_contact
from churn_assets.churn.scoring import KEYS
from churn_assets.churn.tables import CAMPAIGN_CONTACTS, OPT_OUTS, conformed
from churn_assets.defs.results import check_result, described, table_result, table_spec
from churn_assets.defs.retention import CONTACTS, OPTED_OUT, TARGETS, from_lists
from churn_assets.defs.scoring import GROUP
from churn_assets.resources.contacts import ContactsResource
from churn_assets.resources.lakehouse import LakehouseResource

OUTBOX = "food_delivery/contact_outbox"
RECEIPTS = "food_delivery/contact_receipts"
MESSAGES = "exports/contact_outbox"
MESSAGES_OF_A_REQUEST = 100
LISTED = ("customer_id", "rank", "is_holdout", "risk_tier", "suggested_action", "reasons")
# A tool that is restarted is back within half an hour; later ones are for the next materialization.
RETRIES = dg.RetryPolicy(max_retries=5, delay=60, backoff=dg.Backoff.EXPONENTIAL)
RULE_MEANINGS = {
    SENT_ONCE: "No message is queued twice: a customer has one of each number in a week.",
    NOBODY_KEPT_OFF: "Nobody is to be contacted who is held out or opted out.",
    ALL_DELIVERED: "The team's tool has accepted what counts of the newest list, if one is named.",
}


@dg.multi_asset(
    name="contact_outbox",
    specs=[
        table_spec(
            OUTBOX,
            "What the team's own tool is told of the newest list: each contact once, another message where the list "
            "says otherwise since, a withdrawal for who is off it again.",
            group=GROUP,
            deps=[TARGETS, OPTED_OUT, CONTACTS],
        ),
        table_spec(
            RECEIPTS,
            "The messages that the tool has accepted, and whom it says it has contacted; campaign_contacts holds those "
            "beside its source.",
            group=GROUP,
            deps=[OUTBOX],
        ),
    ],
    retry_policy=RETRIES,
)
def contact_outbox(lakehouse: LakehouseResource, contacts: ContactsResource) -> Iterator[dg.MaterializeResult]:
    """Queues what is new of the newest list, writes the week's file, and sends what is not accepted yet."""
    since, now = lakehouse.version(OUTBOX), datetime.now(UTC)
    inputs = lakehouse.pin(TARGETS, OPTED_OUT, CONTACTS)
    week = week_of_messages(lakehouse, inputs)
    due = [] if week is None else due_messages(week, now)
    if week is not None:
        week = replace(week, messages=[*week.messages, *due])
        require(outbox_outcomes(week), OUTBOX)
    if due or since is None:
        since = lakehouse.append_after(OUTBOX, since, pa.Table.from_pylist(due, MESSAGE_SCHEMA))
    told: dict[str, Any] = {"inputs": inputs, "queued": len(due)}
    if week is not None:
        told["file"] = lakehouse.write_file(f"{MESSAGES}/{week.as_of}.jsonl", as_lines(week.messages))
    # First what is queued, then what is sent: whoever fails at sending finds it in the queue.
    yield table_result(lakehouse.commit(OUTBOX, since), told, described(MESSAGE_COLUMNS))
    unusable = [] if week is None else _send(lakehouse, contacts, week)
    accepted = lakehouse.version(RECEIPTS)
    if accepted is None:
        accepted = lakehouse.append_after(RECEIPTS, None, RECEIPT_SCHEMA.empty_table())
    yield table_result(
        lakehouse.commit(RECEIPTS, accepted), {"unusable_receipts": unusable}, described(RECEIPT_COLUMNS)
    )


def week_of_messages(lakehouse: LakehouseResource, versions: Mapping[str, int]) -> WeekOfMessages | None:
    """The newest list, and what was said of it so far; None where there is no list. Older lists are past."""
    weeks = lakehouse.dates(TARGETS, "as_of", versions[TARGETS])
    if not weeks:
        return None
    as_of = max(weeks)
    listed = lakehouse.arrow(TARGETS, list(LISTED), versions[TARGETS], dates=("as_of", [as_of]))
    contacts = from_lists(conformed(lakehouse.read(CONTACTS, versions[CONTACTS]), CAMPAIGN_CONTACTS))
    is_contacted = (F.col("as_of") == F.lit(as_of)) & F.col("contacted_at").isNotNull()
    opt_outs = from_lists(conformed(lakehouse.read(OPTED_OUT, versions[OPTED_OUT]), OPT_OUTS))
    both = opt_outs.select("customer_id", F.lit(False).alias("is_contacted")).unionByName(
        contacts.where(is_contacted).select("customer_id", F.lit(True).alias("is_contacted"))
    )
    found = [(row["customer_id"], row["is_contacted"]) for row in both.collect()]
    receipts = _receipts(lakehouse, as_of)
    held_out = set(listed.filter(listed.column("is_holdout")).column("customer_id").to_pylist())
    return WeekOfMessages(
        as_of,
        {row["customer_id"]: content_of(row) for row in to_contact(listed)},
        frozenset(held_out | {customer for customer, contacted in found if not contacted}),
        frozenset(
            {customer for customer, contacted in found if contacted}
            | {receipt["customer_id"] for receipt in receipts if receipt["contacted_at"] is not None}
        ),
        _messages(lakehouse, as_of),
    )


def _messages(lakehouse: LakehouseResource, as_of: date) -> list[dict[str, Any]]:
    """In the order in which they were queued."""
    rows = _of_week(lakehouse, OUTBOX, MESSAGE_SCHEMA.names, as_of)
    return sorted(rows, key=lambda row: (row["queued_at"], row["kind"], row["rank"], row["customer_id"]))


def _receipts(lakehouse: LakehouseResource, as_of: date) -> list[dict[str, Any]]:
    return _of_week(lakehouse, RECEIPTS, RECEIPT_SCHEMA.names, as_of)


def _of_week(lakehouse: LakehouseResource, table: str, columns: Sequence[str], as_of: date) -> list[dict[str, Any]]:
    if not lakehouse.has(table):
        return []
    return lakehouse.arrow(table, list(columns), dates=("as_of", [as_of])).to_pylist()


def _send(lakehouse: LakehouseResource, contacts: ContactsResource, week: WeekOfMessages) -> list[str]:
    """Sends what is not accepted yet, and keeps a receipt of each request before the next; what could not be used."""
    if not contacts.webhook:
        return []
    pending, unusable = _pending(lakehouse, week), []
    for begin in range(0, len(pending), MESSAGES_OF_A_REQUEST):
        some = pending[begin : begin + MESSAGES_OF_A_REQUEST]
        answer = contacts.send([as_told(each) for each in some], request_key(some))
        receipts, not_used = receipts_of(some, answer, datetime.now(UTC))
        unusable += not_used
        rows = pa.Table.from_pylist(receipts, RECEIPT_SCHEMA)
        lakehouse.append_after(RECEIPTS, lakehouse.version(RECEIPTS), rows)
    return unusable


def _pending(lakehouse: LakehouseResource, week: WeekOfMessages) -> list[Mapping[str, Any]]:
    return undelivered(week, {receipt["message_id"] for receipt in _receipts(lakehouse, week.as_of)})


def with_receipts(lakehouse: LakehouseResource, rows: DataFrame) -> DataFrame:
    """Contacts as their source has them, and those that the team's tool has told of and the source has not.

    In and out: the columns of campaign_contacts. What the source says of a customer and a list goes before.
    """
    if not lakehouse.has(RECEIPTS):
        return rows
    told = lakehouse.arrow(RECEIPTS, [*KEYS, "contacted_at"]).to_pylist()
    contacted = {(row["customer_id"], row["as_of"]): row["contacted_at"] for row in told if row["contacted_at"]}
    if not contacted:
        return rows
    known = conformed(rows, CAMPAIGN_CONTACTS)
    # As the lists write ids for a spreadsheet, which is undone where contacts are read.
    columns = {
        "customer_id": [protected(customer) for customer, _ in contacted],
        "as_of": [as_of for _, as_of in contacted],
        "contacted_at": list(contacted.values()),
    }
    schema = pa.schema(
        [
            ("customer_id", pa.string()),
            ("as_of", pa.date32()),
            ("contacted_at", RECEIPT_SCHEMA.field("contacted_at").type),
        ]
    )
    received = lakehouse.frame(pa.table(columns, schema))
    new = received.join(known.select(*KEYS), [*KEYS], "left_anti")
    return known.unionByName(new, allowMissingColumns=True)


@dg.multi_asset_check(
    name="contact_outbox__contract",
    specs=[
        dg.AssetCheckSpec(rule, asset=OUTBOX.split("/"), description=meaning) for rule, meaning in RULE_MEANINGS.items()
    ],
)
def contact_outbox_contract(lakehouse: LakehouseResource, contacts: ContactsResource) -> Iterator[dg.AssetCheckResult]:
    """The rules of the newest list's messages as they stand, against the list and the opt-outs of now."""
    known = all(lakehouse.has(table) for table in (TARGETS, OPTED_OUT, CONTACTS))
    week = week_of_messages(lakehouse, lakehouse.pin(TARGETS, OPTED_OUT, CONTACTS)) if known else None
    week = WeekOfMessages(date.min, {}) if week is None else week
    for outcome in outbox_outcomes(week):
        yield check_result(outcome, OUTBOX)
    pending = len(_pending(lakehouse, week))
    outcome = delivery_outcome(pending, len(latest(week.messages)), has_target=bool(contacts.webhook))
    yield check_result(outcome, OUTBOX)

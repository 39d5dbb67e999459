"""The list as the team's own tool hears of it: a web server on loopback that goes down, answers and is told again."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import dagster as dg
import pytest
from dagster import ExecuteInProcessResult

from churn_assets.churn.outbox import ALL_DELIVERED, CONTACT, NOBODY_KEPT_OFF, SENT_ONCE, WITHDRAWAL
from churn_assets.churn.worklist import CONTACTED, LEFT_ALONE, OPTED_OUT_NOTE, TO_CONTACT
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.list_page import PAGE
from churn_assets.defs.outbox import MESSAGES, OUTBOX, RECEIPTS, RETRIES, contact_outbox, contact_outbox_contract
from churn_assets.defs.retention import CONTACTS, EXCLUSIONS, OPTED_OUT, OUTCOMES, TARGETS
from churn_assets.defs.risk_report import FOLDER
from churn_assets.resources.contacts import CONTACTS_VARIABLE, InvalidContactsAddressError
from churn_assets_tests.check_results import results_of
from churn_assets_tests.conftest import Project, causes_of

SECRET = "secret-of-the-crm"


@dataclass
class Tool:
    """A team's tool that keeps what it accepts.

    errors: what it answers first, None for an acceptance. contacts: when it contacted whom.
    """

    errors: list[int | None] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    contacts: dict[str, str] = field(default_factory=dict)
    secret: str = SECRET
    address: str = ""

    @contextmanager
    def serving(self) -> Iterator["Tool"]:
        tool = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
                error = tool.errors.pop(0) if tool.errors else None
                if error is None:
                    tool.received += messages
                    tool.keys.append(self.headers["Idempotency-Key"])
                self.send_response(error or 200)
                self.end_headers()
                told = {each["customer_id"]: each["message_id"] for each in messages}
                receipts = [
                    {"message_id": told[customer], "contacted_at": at}
                    for customer, at in tool.contacts.items()
                    if customer in told
                ]
                self.wfile.write(json.dumps({"receipts": receipts}).encode())

            def log_message(self, *_: Any) -> None: ...

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.address = f"http://127.0.0.1:{server.server_port}/{self.secret}"
            yield self
            server.shutdown()

    def of(self, kind: str) -> list[str]:
        return [each["customer_id"] for each in self.received if each["kind"] == kind]


@pytest.fixture
def project(listed: Project, tmp_path: Path) -> Project:
    return listed.copied_to(tmp_path / "project")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tool]:
    """A tool that is named in the environment; what it does not accept is sent again as often, but at once."""
    monkeypatch.setattr(contact_outbox.op, "_retry_policy", dg.RetryPolicy(max_retries=RETRIES.max_retries))
    with Tool().serving() as tool:
        monkeypatch.setenv(CONTACTS_VARIABLE, tool.address)
        yield tool


def told(project: Project, tool: Tool) -> ExecuteInProcessResult:
    """One materialization of the outbox, the tool being named."""
    week = project.weeks()[-1]
    result = with_tool(project, tool.address).score(week, week, OUTBOX, RECEIPTS)
    assert result.success, causes_of(result)
    return result


def with_tool(project: Project, address: str) -> Project:
    """The project as a process sees it in whose environment a tool is named."""
    return replace(project, settings=replace(project.settings, contacts_webhook=address))


def on_page(project: Project) -> dict[str, dict[str, Any]]:
    """The customers of the list page that lies there, by id."""
    html = Path(project.lakehouse.root, FOLDER, f"{PAGE}.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in html.split("\n") if line.startswith('{"customer_id"')]
    return {row["customer_id"]: row for row in rows}


def to_contact(project: Project) -> list[str]:
    week = project.weeks()[-1]
    rows = project.lakehouse.arrow(TARGETS, ["customer_id", "rank", "is_holdout"], dates=("as_of", [week]))
    return [row["customer_id"] for row in rows.sort_by("rank").to_pylist() if not row["is_holdout"]]


def held_out(project: Project) -> set[str]:
    of_week = ("as_of", [project.weeks()[-1]])
    rows = project.lakehouse.arrow(TARGETS, ["customer_id", "is_holdout"], dates=of_week).to_pylist()
    return {row["customer_id"] for row in rows if row["is_holdout"]}


def test_the_newest_list_is_queued_without_whoever_is_held_out_and_lies_as_a_file(listed: Project) -> None:
    week, listed_ids = listed.weeks()[-1], to_contact(listed)
    rows = sorted(listed.lakehouse.records(OUTBOX), key=lambda row: row["rank"])
    assert [row["customer_id"] for row in rows] == listed_ids
    assert {row["as_of"] for row in rows} == {week}
    assert held_out(listed)
    assert listed.lakehouse.row_count(RECEIPTS) == 0
    (file,) = Path(listed.lakehouse.root, MESSAGES).iterdir()
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert file.name == f"{week}.jsonl"
    assert [(line["customer_id"], line["rank"]) for line in lines] == [
        (each, at) for at, each in enumerate(listed_ids, 1)
    ]


def test_a_tool_that_was_down_hears_of_everybody_once_and_of_who_is_off_the_list_again(
    project: Project, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed_ids = to_contact(project)
    assert (RETRIES.max_retries, RETRIES.delay) == (5, 60)
    # Accepted, then down: Dagster tries again.
    monkeypatch.setattr("churn_assets.defs.outbox.MESSAGES_OF_A_REQUEST", len(listed_ids) // 2 + 1)
    tool.errors = [None, 503]
    told(project, tool)
    assert not tool.errors
    assert tool.of(CONTACT) == listed_ids
    assert project.lakehouse.row_count(RECEIPTS) == len(listed_ids)
    # The same week twice: nothing is queued or sent.
    version, sent = project.lakehouse.version(OUTBOX), len(tool.received)
    told(project, tool)
    assert (project.lakehouse.version(OUTBOX), len(tool.received)) == (version, sent)
    # One opts out: withdrawn. And comes back: told again.
    first = listed_ids[0]
    spark = project.lakehouse.spark
    project.lakehouse.write(OPTED_OUT, spark.createDataFrame([(f" {first}",)], "customer_id string"))
    told(project, tool)
    assert tool.of(WITHDRAWAL) == [first]
    assert len(tool.received) == sent + 1
    assert len({each["message_id"] for each in tool.received}) == len(tool.received)
    assert not held_out(project) & set(tool.of(CONTACT))
    told(project, tool)
    assert len(tool.received) == sent + 1
    # The list page knows of it, and of what the tool has accepted.
    week = project.weeks()[-1]
    assert project.score(week, week, PAGE).success
    rows = on_page(project)
    assert {each for each, row in rows.items() if row["standing"] == TO_CONTACT} == set(listed_ids[1:])
    assert (rows[first]["standing"], rows[first]["why"], rows[first]["rank"]) == (LEFT_ALONE, OPTED_OUT_NOTE, 1)
    of_list = f", list of {week:%-d %B %Y}"
    assert {what for _, what in rows[first]["events"]} == {
        f"contact accepted by the team's tool{of_list}",
        f"taken back from the messages to the team's tool{of_list}",
        f"withdrawal accepted by the team's tool{of_list}",
    }


def test_who_the_tool_has_contacted_is_among_the_contacts_and_is_not_told_of_again(
    project: Project, tool: Tool
) -> None:
    first, second = to_contact(project)[:2]
    week, before = project.weeks()[-1], project.lakehouse.row_count(CONTACTS)
    at = datetime.fromisoformat(f"{week}T10:00:00+02:00")
    tool.contacts = {first: at.isoformat(), second: (at + timedelta(days=40_000)).isoformat()}
    result = told(project, tool)
    queued, accepted = result.asset_materializations_for_node("contact_outbox")
    assert (queued.metadata["queued"].value, accepted.metadata["unusable_receipts"].value) == (0, ANY)
    landed = project.score(week, week, CONTACTS)
    assert landed.success, causes_of(landed)
    rows = [row for row in project.lakehouse.records(CONTACTS) if row["as_of"] == week]
    assert [(row["customer_id"], row["contacted_at"]) for row in rows if row["customer_id"] == first] == [(first, at)]
    assert project.lakehouse.row_count(CONTACTS) == before + 1
    # Landed again it is there once; and the list counts as used.
    assert project.score(week, week, CONTACTS, OUTCOMES, EFFECT).success
    assert project.lakehouse.row_count(CONTACTS) == before + 1
    outcomes = [row for row in project.lakehouse.records(OUTCOMES) if row["as_of"] == week]
    assert {row["customer_id"] for row in outcomes if row["is_contacted"]} == {first}
    # Opted out since: whoever was contacted is told of no more.
    sent = len(tool.received)
    project.lakehouse.write(OPTED_OUT, project.lakehouse.spark.createDataFrame([(first,)], "customer_id string"))
    told(project, tool)
    assert len(tool.received) == sent
    assert project.score(week, week, PAGE).success
    row = on_page(project)[first]
    assert row["standing"] == CONTACTED
    assert [what for on, what in row["events"] if on == str(week) and "contacted" in what] == [
        f"contacted, list of {week:%-d %B %Y}"
    ]


def test_a_tool_that_stays_down_fails_by_name_leaves_the_queue_and_is_told_the_next_time(
    project: Project, tool: Tool
) -> None:
    tool.errors, week = [500] * 6, project.weeks()[-1]
    result = with_tool(project, tool.address).score(week, week, OUTBOX, RECEIPTS, PAGE)
    assert not result.success
    # The list page does not wait for it.
    assert [each.asset_key.path for each in result.asset_materializations_for_node(PAGE)] == [[PAGE]]
    said = causes_of(result)
    assert "CHURN_CONTACTS_WEBHOOK did not accept the messages: HTTP 500" in str(said)
    assert SECRET not in str(said)
    named = {"contacts": with_tool(project, tool.address).resources["contacts"]}
    outcomes = results_of(contact_outbox_contract(project.lakehouse, **named))
    assert {each.check_name: each.passed for each in outcomes} == {
        SENT_ONCE: True,
        NOBODY_KEPT_OFF: True,
        ALL_DELIVERED: False,
    }
    told(project, tool)
    assert tool.of(CONTACT) == to_contact(project)


def test_an_older_list_that_is_made_again_tells_nobody(project: Project, tool: Tool) -> None:
    told(project, tool)
    sent, (*_, earlier, last) = len(tool.received), project.weeks()
    assert {each["week"] for each in tool.received} == {str(last)}
    result = with_tool(project, tool.address).score(earlier, earlier, TARGETS, EXCLUSIONS, OUTBOX, RECEIPTS)
    assert result.success, causes_of(result)
    assert len(tool.received) == sent


def test_an_address_that_cannot_be_one_is_refused_without_showing_it(project: Project) -> None:
    with pytest.raises(
        InvalidContactsAddressError, match="CHURN_CONTACTS_WEBHOOK does not begin with https://"
    ) as said:
        _ = with_tool(project, f"ftp://{SECRET}").resources
    assert SECRET not in str(said.value)

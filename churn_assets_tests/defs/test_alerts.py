"""Who is told what, once: against a real web server and a real mail server on loopback."""

import json
import os
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email import message_from_string
from email.header import decode_header, make_header
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.ledger import Action
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy, Notices, Promotion
from churn_assets.commands import doctor
from churn_assets.definitions import default_resources
from churn_assets.defs import alerts as module
from churn_assets.defs.alerts import Told, alert_on_failure
from churn_assets.resources.abandoned_runs import DAGSTER_PROCESS_TAG
from churn_assets.resources.alerts import (
    AlertsResource,
    InvalidAlertAddressError,
    MailServer,
    Notice,
    UndeliveredError,
    mail_server,
)
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets_tests.conftest import Project
from churn_assets_tests.resources.test_promotions import decision, promotions_in


@dataclass
class Inbox:
    """A web server that keeps what it is sent, and first answers with the given errors."""

    errors: list[int] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    address: str = ""

    @contextmanager
    def serving(self) -> Iterator["Inbox"]:
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                error = inbox.errors.pop(0) if inbox.errors else None
                if error is None:
                    inbox.received.append(body)
                    inbox.keys.append(self.headers["Idempotency-Key"])
                self.send_response(error or 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.address = f"http://127.0.0.1:{server.server_port}/secret"
            yield self
            server.shutdown()


@dataclass
class Watched:
    """The alert sensor over an empty Dagster history and registry, tick by tick."""

    instance: dg.DagsterInstance
    promotions: PromotionsResource
    alerts: AlertsResource
    cursor: str | None = None
    policy: ChurnPolicy = field(default_factory=ChurnPolicy)

    def tick(self) -> str:
        resources = {
            "alerts": self.alerts,
            "promotions": self.promotions,
            "tracking": self.promotions.tracking,
            "policy": self.policy,
        }
        with dg.build_sensor_context(self.instance, cursor=self.cursor, resources=resources) as context:
            found = alert_on_failure(context)
            self.cursor = context.cursor
        assert isinstance(found, dg.SkipReason)
        return str(found.skip_message)

    def make_retries_due(self) -> None:
        told = json.loads(str(self.cursor))
        for each in told["pending"]:
            each["due"] = 0.0
        self.cursor = json.dumps(told)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox().serving() as served:
        yield served


@pytest.fixture
def watched(tmp_path: Path, inbox: Inbox) -> Iterator[Watched]:
    """Watching already: the first tick is past."""
    with dg.instance_for_test() as instance:
        made = Watched(instance, promotions_in(tmp_path), AlertsResource(webhook=inbox.address))
        assert made.tick() == "Watching from now on."
        yield made


@dg.asset
def orders() -> int:
    return 1


@dg.asset_check(asset=orders, blocking=True)
def no_nulls() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="observed: 3 nulls; allowed: 0 nulls")


@dg.asset_check(asset=orders)
def share() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="observed: 9 %")


@dg.asset
def broken() -> None:
    raise OSError("the lake is dry\nand more")


def run(watched: Watched, *assets: Any) -> str:
    defs = dg.Definitions(
        assets=[asset for asset in assets if not isinstance(asset, dg.AssetChecksDefinition)],
        asset_checks=[check for check in assets if isinstance(check, dg.AssetChecksDefinition)],
        jobs=[dg.define_asset_job("churn_lifecycle")],
        executor=dg.in_process_executor,
    )
    job = defs.resolve_job_def("churn_lifecycle")
    return job.execute_in_process(instance=watched.instance, raise_on_error=False).run_id


def test_a_failed_check_is_told_with_asset_check_observed_allowed_and_where_to_look(
    watched: Watched, inbox: Inbox
) -> None:
    run_id = run(watched, orders, no_nulls, share)
    assert watched.tick() == "told by webhook: churn_lifecycle failed"
    (told,) = inbox.received
    assert told == {
        "text": "*churn_lifecycle failed*\n"
        "• check no_nulls of orders: observed: 3 nulls; allowed: 0 nulls\n"
        f"http://127.0.0.1:3000/runs/{run_id}"
    }


def test_a_failed_step_is_told_with_its_cause(watched: Watched, inbox: Inbox) -> None:
    run(watched, broken)
    watched.tick()
    assert "• step broken: OSError: the lake is dry Next step: look at that place" in inbox.received[0]["text"]


@dg.asset
def refused() -> None:
    try:
        raise ValueError("[UNRESOLVED_COLUMN]")
    except ValueError as below:
        raise ChurnError("Orders cannot be read.", ["no column"], next_step="check select") from below


def test_a_named_error_is_told_with_its_next_step_and_not_what_lay_below_it(watched: Watched, inbox: Inbox) -> None:
    run(watched, refused)
    watched.tick()
    assert "• step refused: Orders cannot be read. - no column Next step: check select\n" in inbox.received[0]["text"]


def test_a_run_whose_process_vanished_is_told_as_failed(watched: Watched, inbox: Inbox) -> None:
    run = create_run_for_test(watched.instance, job_name="churn_scoring", status=dg.DagsterRunStatus.STARTED)
    process = {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0, "run": run.run_id}
    watched.instance.add_run_tags(run.run_id, {DAGSTER_PROCESS_TAG: json.dumps(process)})
    assert [watched.tick(), watched.tick()] == [
        "told by webhook: churn_scoring failed",
        "Nothing to tell; 0 on their way.",
    ]
    assert len(inbox.received) == 1


def test_a_run_of_another_machine_that_does_not_end_is_told_once(
    watched: Watched, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run_for_test(watched.instance, job_name="churn_scoring", status=dg.DagsterRunStatus.STARTED)
    assert watched.tick() == "Nothing to tell; 0 on their way."
    monkeypatch.setattr(module, "LOST_AFTER", timedelta(seconds=-60))
    assert [watched.tick(), watched.tick()] == [
        "told by webhook: churn_scoring does not end",
        "Nothing to tell; 0 on their way.",
    ]
    assert len(inbox.received) == 1


def test_a_table_that_is_overdue_is_told_once_for_each_deadline(
    watched: Watched, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Outcome("is_fresh", False, "last written 2026-01-05 03:10 UTC", "written since 2026-01-12 00:00 UTC")
    overdue = {"food_delivery/churn_scores": late}
    monkeypatch.setattr(module, "stale", lambda *_: overdue)
    told = "told by webhook: food_delivery/churn_scores is stale"
    assert [watched.tick(), watched.tick()] == [told, "Nothing to tell; 0 on their way."]
    overdue["food_delivery/churn_scores"] = replace(late, allowed="written since 2026-01-19 00:00 UTC")
    assert watched.tick() == told
    assert (
        "• observed: last written 2026-01-05 03:10 UTC; allowed: written since 2026-01-12" in inbox.received[0]["text"]
    )
    overdue.clear()
    assert watched.tick() == "Nothing to tell; 0 on their way."


def test_text_from_data_is_one_line_and_calls_nobody_in_slack(inbox: Inbox) -> None:
    hostile = Notice("run 1", "by <!channel>\nand more", ["check of a & b:\n• <https://other.example|look>"], "")
    AlertsResource(webhook=inbox.address).deliver("webhook", hostile)
    assert inbox.received == [
        {"text": "*by &lt;!channel&gt; and more*\n• check of a &amp; b: • &lt;https://other.example|look&gt;"}
    ]


def test_a_line_break_in_a_title_does_not_keep_an_e_mail_from_leaving() -> None:
    received: list[Message] = []
    with mail_receiver(received) as port:
        smtp = f"smtp://127.0.0.1:{port}/?from=churn@quickbite.example&to=ada@quickbite.example"
        AlertsResource(smtp=smtp).deliver("e-mail", Notice("run 1", "two\nlines\x07", [], ""))
    (mail,) = received
    assert str(make_header(decode_header(str(mail["Subject"])))) == "two lines\ufffd"


def test_a_warning_or_a_success_is_nothing_to_tell(watched: Watched, inbox: Inbox) -> None:
    run(watched, orders, share)
    assert watched.tick() == "Nothing to tell; 0 on their way."
    assert inbox.received == []


def test_nothing_is_told_twice(watched: Watched, inbox: Inbox) -> None:
    run(watched, broken)
    for _ in range(3):
        watched.tick()
    assert len(inbox.received) == 1


def test_what_happened_before_the_first_tick_is_not_told(watched: Watched, inbox: Inbox) -> None:
    run(watched, broken)
    watched.cursor = None
    assert watched.tick() == "Watching from now on."
    assert watched.tick() == "Nothing to tell; 0 on their way."
    assert inbox.received == []


def test_a_target_that_does_not_answer_is_tried_again_with_growing_pauses(watched: Watched, inbox: Inbox) -> None:
    inbox.errors = [500, 503]
    run(watched, broken)
    assert watched.tick() == "webhook: HTTP 500; again in 30 s: churn_lifecycle failed"
    assert watched.tick() == "Nothing to tell; 1 on their way."
    watched.make_retries_due()
    assert watched.tick() == "webhook: HTTP 503; again in 60 s: churn_lifecycle failed"
    watched.make_retries_due()
    assert watched.tick() == "told by webhook: churn_lifecycle failed"
    watched.make_retries_due()
    assert watched.tick() == "Nothing to tell; 0 on their way."
    assert len(inbox.received) == len(set(inbox.keys)) == 1


def test_notices_wait_for_one_another_and_none_is_lost(watched: Watched, inbox: Inbox) -> None:
    inbox.errors = [500]
    runs = [run(watched, broken) for _ in range(3)]
    for _ in range(5):
        watched.tick()
        watched.make_retries_due()
    assert sorted(inbox.keys) == sorted(f"run {run_id}" for run_id in runs)


def test_after_days_without_an_answer_it_is_given_up(watched: Watched, inbox: Inbox) -> None:
    inbox.errors = [500] * 9
    run(watched, broken)
    watched.tick()
    told = Told.of(str(watched.cursor))
    (pending,) = told.pending
    old = pending.noticed - module.GIVEN_UP_AFTER.total_seconds() - 1
    content = json.loads(told.cursor())
    content["pending"][0]["noticed"] = old
    watched.cursor = json.dumps(content)
    assert watched.tick() == "Nothing to tell; 0 on their way."


def test_every_decision_is_told(watched: Watched, inbox: Inbox) -> None:
    client = watched.promotions.tracking.client
    client.create_registered_model("quickbite_churn_predictor")
    for number in range(2):
        client.create_model_version("quickbite_churn_predictor", source=f"/nowhere/{number}")
    watched.promotions.move(decision("1", None))
    watched.promotions.move(decision("2", "1", Action.OVERRIDDEN, by="ada"))
    watched.promotions.refuse(decision("2", "1"), ["it is not good enough"])
    watched.promotions.move(decision("1", "2", Action.ROLLED_BACK, by="ada"))
    for _ in range(5):
        watched.tick()
    titles = [told["text"].splitlines()[0] for told in inbox.received]
    assert titles == [
        "*promoted: version 1, by policy*",
        "*overridden: version 2, by ada*",
        "*refused: version 2, by policy*",
        "*rolled back: version 1, by ada*",
    ]
    assert "• it is not good enough" in inbox.received[2]["text"]


def test_a_warning_is_told_where_the_policy_says_so(watched: Watched, inbox: Inbox) -> None:
    for told in (("share",), ("all",)):
        watched.policy = ChurnPolicy(notices=Notices(warnings=told))
        run(watched, orders, share)
        assert watched.tick() == "told by webhook: churn_lifecycle ended with warnings"
    watched.policy = ChurnPolicy(notices=Notices(warnings=("another",)))
    run(watched, orders, share)
    assert watched.tick() == "Nothing to tell; 0 on their way."
    assert "• warning of share of orders: observed: 9 %" in inbox.received[0]["text"]


def test_a_failed_run_is_told_of_without_mlflow(tmp_path: Path, inbox: Inbox) -> None:
    with dg.instance_for_test() as instance:
        promotions = promotions_in(tmp_path)
        nowhere = promotions.tracking.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
        broken_store = promotions.model_copy(update={"tracking": nowhere})
        watched = Watched(instance, broken_store, AlertsResource(webhook=inbox.address))
        watched.tick()
        run(watched, broken)
        assert watched.tick() == "told by webhook: churn_lifecycle failed"


def test_a_ledger_that_cannot_be_read_keeps_no_failed_run_back_and_is_told_of_later(
    watched: Watched, inbox: Inbox
) -> None:
    refused = watched.promotions.refuse(decision("1", None), ["no"])
    log = Path(watched.promotions.lakehouse.path(LEDGER), "_delta_log", f"{0:020}.json")
    whole = log.read_text()
    log.write_text("{")
    run(watched, broken)
    assert watched.tick() == "told by webhook: churn_lifecycle failed"
    log.write_text(whole)
    watched.tick()
    watched.tick()
    assert inbox.keys[1:] == [f"decision {refused.decision_id}"]


def test_a_version_that_waits_for_a_person_is_told_once(watched: Watched, inbox: Inbox) -> None:
    def registered(version: int) -> None:
        made = dg.AssetMaterialization("registered_churn_model", metadata={"version": version})
        watched.instance.report_runless_asset_event(made)

    registered(1)
    watched.tick()
    watched.policy = ChurnPolicy(promotion=Promotion(mode="manual"))
    assert watched.tick() == "told by webhook: version 1 waits for a person to promote it"
    assert watched.tick() == "Nothing to tell; 0 on their way."
    watched.promotions.refuse(decision("1", None), ["no"])
    registered(2)
    for _ in range(3):
        watched.tick()
    assert [key for key in inbox.keys if key.startswith("waiting")] == ["waiting 1", "waiting 2"]


def test_one_dead_target_neither_repeats_nor_holds_up_another(watched: Watched, inbox: Inbox) -> None:
    # Both are refused at load; a target that raises whatever it likes is no other target's trouble even so.
    for dead in ("smtp://127.0.0.1:9/", "http://127.0.0.1:9/ x"):
        watched.alerts = AlertsResource(webhook=inbox.address, smtp=dead)
        watched.cursor = None
        watched.tick()
        inbox.keys.clear()
        runs = [run(watched, broken) for _ in range(2)]
        for _ in range(4):
            watched.tick()
            watched.make_retries_due()
        assert sorted(inbox.keys) == sorted(f"run {run_id}" for run_id in runs)
        told = Told.of(str(watched.cursor))
        assert {(each.target, each.key) for each in told.pending} == {("e-mail", f"run {run_id}") for run_id in runs}


def test_a_target_that_never_ends_its_answer_is_left_alone(
    watched: Watched, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELIVERY_SECONDS", 0.3)
    released = threading.Event()
    with silent_server(released) as port:
        smtp = f"smtp://127.0.0.1:{port}/?from=a@b.example&to=c@d.example"
        watched.alerts = AlertsResource(webhook=inbox.address, smtp=smtp)
        run(watched, broken)
        said = watched.tick()
        released.set()
    assert "told by webhook: churn_lifecycle failed" in said
    assert "e-mail: no end within 0 s; again in 30 s" in said


def test_while_nobody_is_to_be_told_nothing_is_asked(tmp_path: Path, inbox: Inbox) -> None:
    with dg.instance_for_test() as instance:
        promotions = promotions_in(tmp_path)
        watched = Watched(instance, promotions, AlertsResource())
        run(watched, broken)
        assert "Nobody to tell" in watched.tick()
        assert not (tmp_path / "mlflow.db").exists()
        watched.alerts = AlertsResource(webhook=inbox.address)
        assert watched.tick() == "Watching from now on."
        watched.alerts = AlertsResource()
        watched.tick()
        run(watched, broken)
        watched.alerts = AlertsResource(webhook=inbox.address)
        assert watched.tick() == "Watching from now on."
        assert watched.tick() == "Nothing to tell; 0 on their way."


WRONG_ADDRESSES = [
    ("CHURN_ALERT_WEBHOOK", "https://hooks.example/s3cret part", "holds a blank"),
    ("CHURN_ALERT_WEBHOOK", "https://hooks.example/s3cret\n", "holds a blank"),
    ("CHURN_ALERT_WEBHOOK", "file:///etc/s3cret", "does not begin with https:// or http://"),
    ("CHURN_ALERT_WEBHOOK", "hooks.example/s3cret", "does not begin with https:// or http://"),
    ("CHURN_ALERT_WEBHOOK", "https:///s3cret", "names no host"),
    ("CHURN_ALERT_WEBHOOK", "https://hooks.example:s3cret/x", "names no host, or a port that is no number"),
    ("CHURN_ALERT_WEBHOOK", "https://hooks.example/s3cret-ü", "holds characters that an address writes as %XX"),
    ("CHURN_ALERT_SMTP", "mail.example", "does not begin with smtp:// or smtps://"),
    ("CHURN_ALERT_SMTP", "smtp://u:s3cret@mail.example/", "needs one ?from=ADDRESS"),
    ("CHURN_ALERT_SMTP", "smtp://u:s3cret@mail.example/?from=a@b.example", "needs &to=ADDRESS"),
    (
        "CHURN_ALERT_SMTP",
        "smtp://u:s3cret@mail.example/?from=a&to=c@d.example",
        "has a from= that is no e-mail address",
    ),
    (
        "CHURN_ALERT_SMTP",
        "smtp://u:s3cret@mail.example/?from=a@b.example&to=c@d,",
        "has a to= that is no e-mail address",
    ),
    ("CHURN_ALERT_SMTP", "smtp://mail.example/?from=a@b.example&to=c@d.example&x=s3cret", "has parameters other than"),
    ("CHURN_ALERT_SMTP", "smtp://u:s3cret@:25/?from=a@b.example&to=c@d.example", "names no host"),
    ("CHURN_ALERT_SMTP", "smtp://u:s3?cret@mail.example/?from=a@b.example&to=c@d.example", "names no host, or a port"),
    ("CHURN_ALERT_SMTP", "smtp://u:s3cret@mail.example/x?from=a@b.example&to=c@d.example", "names no host"),
]


@pytest.mark.parametrize(("variable", "address", "problem"), WRONG_ADDRESSES)
def test_a_malformed_address_is_refused_at_load_by_name_and_without_it(
    tmp_path: Path, variable: str, address: str, problem: str
) -> None:
    settings = Project.create(tmp_path, policy="", sources="[demo]\n").settings
    is_webhook = variable == "CHURN_ALERT_WEBHOOK"
    wrong = replace(settings, alert_webhook=address) if is_webhook else replace(settings, alert_smtp=address)
    with pytest.raises(InvalidAlertAddressError, match=f"- {re.escape(f'{variable} {problem}')}") as refused:
        default_resources(wrong)
    assert "s3" not in str(refused.value)
    (finding,) = doctor.examine(wrong, [doctor.alerts])
    assert f"{variable} {problem}" in finding.observed
    assert finding.fix.startswith("CHURN_ALERT_WEBHOOK=https://HOST/PATH, CHURN_ALERT_SMTP=smtp://")


def test_a_mail_server_may_have_any_password_and_several_recipients() -> None:
    found = mail_server("smtps://u%40x:s3/c@r%3Fet@mail.example/?from=ada+churn@b.example&to=c@d.example,e@f.example")
    assert found == MailServer(
        True, "mail.example", 465, "u@x", "s3/c@r?et", "ada+churn@b.example", ("c@d.example", "e@f.example")
    )


def test_without_a_target_it_says_how_to_be_told(tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        watched = Watched(instance, promotions_in(tmp_path), AlertsResource())
        assert "set CHURN_ALERT_WEBHOOK or CHURN_ALERT_SMTP" in watched.tick()


def test_the_cursor_survives_the_daemon(watched: Watched, inbox: Inbox) -> None:
    inbox.errors = [500]
    run(watched, broken)
    watched.tick()
    assert Told.of(str(watched.cursor)).cursor() == watched.cursor


# --- e-mail ---


@contextmanager
def mail_receiver(received: list[Message]) -> Iterator[int]:
    """Speaks as much SMTP as a client needs to hand over a message."""

    class Handler(socketserver.StreamRequestHandler):
        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def handle(self) -> None:
            self.say("220 here")
            while line := self.rfile.readline().decode().strip().upper():
                if line == "DATA":
                    self.say("354 go on")
                    lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                    received.append(message_from_string("\n".join(lines)))
                self.say("221 bye" if line == "QUIT" else "250 fine")
                if line == "QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@contextmanager
def silent_server(released: threading.Event) -> Iterator[int]:
    """Takes a connection and says nothing until it is released."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            released.wait(30)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


NOTICE = Notice("run 1", "churn_lifecycle failed", ["check no_nulls of orders"], "http://127.0.0.1:3000/runs/1")


def test_an_e_mail_says_the_same() -> None:
    received: list[Message] = []
    with mail_receiver(received) as port:
        smtp = f"smtp://127.0.0.1:{port}/?from=churn@quickbite.example&to=ada@quickbite.example"
        AlertsResource(smtp=smtp).deliver("e-mail", NOTICE)
    (mail,) = received
    assert (mail["Subject"], mail["To"]) == ("churn_lifecycle failed", "ada@quickbite.example")
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert "check no_nulls of orders" in text.decode()


@pytest.mark.parametrize(
    ("alerts", "target"),
    [
        (AlertsResource(webhook="http://127.0.0.1:9/secret"), "webhook"),
        (AlertsResource(smtp="smtp://user:secret@127.0.0.1:9/?from=a@b.example&to=c@d.example"), "e-mail"),
    ],
)
def test_what_cannot_be_delivered_is_told_without_the_secret_address(alerts: AlertsResource, target: str) -> None:
    with pytest.raises(UndeliveredError) as failed:
        alerts.deliver(target, NOTICE)
    assert target in str(failed.value)
    assert "secret" not in str(failed.value)

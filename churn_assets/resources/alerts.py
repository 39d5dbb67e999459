"""Where people are told of what went wrong: a webhook, e-mail, or both. What is worth telling is decided elsewhere."""

import json
import re
import smtplib
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import parse_qsl, unquote, urlsplit

import dagster as dg

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.plain_text import in_one_line, is_control
from churn_assets.resources.settings import Settings

TIMEOUT_SECONDS = 5.0
WEBHOOK, EMAIL = "webhook", "e-mail"
WEBHOOK_VARIABLE, SMTP_VARIABLE = "CHURN_ALERT_WEBHOOK", "CHURN_ALERT_SMTP"
PORTS = {"smtp": smtplib.SMTP_PORT, "smtps": smtplib.SMTP_SSL_PORT}
_MAILBOX = re.compile(r"[^@\s,<>]+@[^@\s,<>]+")


class UndeliveredError(Exception):
    """A notice did not reach its target this time."""


class InvalidAlertAddressError(ChurnError):
    """An address to be told at cannot be one. What is wrong is said without the address, which is a secret."""


@dataclass(frozen=True)
class Notice:
    """One thing to tell, once. key: the same for the same thing. url: where to look; may be empty.

    Each text is told in one line, whatever was in it: a line break in a subject would be refused by the mail itself.
    """

    key: str
    title: str
    lines: Sequence[str]
    url: str

    @property
    def text(self) -> str:
        lines = [f"• {in_one_line(line)}" for line in self.lines]
        return "\n".join([*lines, *([self.url] if self.url else [])])


@dataclass(frozen=True)
class MailServer:
    """Where e-mail is handed over, from whom and for whom. is_tls: from the start."""

    is_tls: bool
    host: str
    port: int
    user: str
    password: str
    sender: str
    recipients: Sequence[str]


class AlertsResource(dg.ConfigurableResource):
    """The configured targets.

    webhook: an address that takes Slack's JSON. smtp: smtp://user:password@host:port/?from=ADDRESS&to=ADDRESS,ADDRESS
    (smtps:// for TLS from the start; smtp:// uses STARTTLS where the server offers it). Both are secrets, so Dagster,
    which stores what a resource is configured with, is given the names of variables: see `alerts_resource`.
    """

    webhook: str | None = None
    smtp: str | None = None

    @property
    def targets(self) -> list[str]:
        return [name for name, place in ((WEBHOOK, self.webhook), (EMAIL, self.smtp)) if place]

    def deliver(self, target: str, notice: Notice) -> None:
        """Raises UndeliveredError, which never names the address: it may hold a secret."""
        try:
            if target == WEBHOOK:
                self._post(notice)
            else:
                self._mail(notice)
        except Exception as failed:  # noqa: BLE001 - whatever one target does must not keep a notice from the others
            reason = f"HTTP {failed.code}" if isinstance(failed, urllib.error.HTTPError) else type(failed).__name__
            # Without its cause, whose words may hold the address.
            raise UndeliveredError(f"{target}: {reason}") from None

    def _post(self, notice: Notice) -> None:
        body = json.dumps({"text": _for_slack(f"*{in_one_line(notice.title)}*\n{notice.text}")}).encode()
        # A receiver that keeps these can tell a notice sent again after a crash.
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.key}
        request = urllib.request.Request(str(self.webhook), data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass

    def _mail(self, notice: Notice) -> None:
        place = mail_server(str(self.smtp))
        message = EmailMessage()
        message["From"], message["To"] = place.sender, ", ".join(place.recipients)
        message["Subject"], message["X-Churn-Notice"] = in_one_line(notice.title), notice.key
        message.set_content(notice.text)
        connect = smtplib.SMTP_SSL if place.is_tls else smtplib.SMTP
        with connect(place.host, place.port, timeout=TIMEOUT_SECONDS) as server:
            if not place.is_tls and server.has_extn("starttls"):
                server.starttls()
            if place.user:
                server.login(place.user, place.password)
            server.send_message(message)


def alerts_resource(settings: Settings) -> AlertsResource:
    """The targets that the environment names, read from it again where one is told: nothing stores the addresses.

    Raises InvalidAlertAddressError.
    """
    check_addresses(settings)
    configured = {"webhook": (settings.alert_webhook, WEBHOOK_VARIABLE), "smtp": (settings.alert_smtp, SMTP_VARIABLE)}
    return AlertsResource(**{name: dg.EnvVar(variable) for name, (address, variable) in configured.items() if address})


def check_addresses(settings: Settings) -> None:
    """Raises InvalidAlertAddressError, naming each variable and all that is wrong with its address."""
    problems = []
    if settings.alert_webhook:
        problems += [f"{WEBHOOK_VARIABLE} {problem}" for problem in webhook_problems(settings.alert_webhook)]
    if settings.alert_smtp:
        try:
            mail_server(settings.alert_smtp)
        except InvalidAlertAddressError as invalid:
            problems += invalid.problems
    if problems:
        raise _invalid(problems)


def mail_server(address: str) -> MailServer:
    """What an address such as `AlertsResource` describes says. Raises InvalidAlertAddressError."""
    problems = _of_any(address)
    scheme, _, rest = address.partition("://")
    if scheme not in PORTS:
        problems.append("does not begin with smtp:// or smtps://")
    place, _, query = rest.partition("?")
    login, _, server = place.rpartition("@")
    user, _, password = login.partition(":")
    host, port = _host_and_port(server)
    if not host:
        problems.append("names no host, or a port that is no number")
    # A plus is a plus in a mailbox; only forms write blanks so.
    named = [(name, value) for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)]
    if any(name not in ("from", "to") for name, _ in named):
        problems.append("has parameters other than from and to (a ? in a password is written %3F)")
    mailboxes = {
        wanted: [each for name, value in named if name == wanted for each in value.split(",")]
        for wanted in ("from", "to")
    }
    if len(mailboxes["from"]) != 1:
        problems.append("needs one ?from=ADDRESS")
    if not mailboxes["to"]:
        problems.append("needs &to=ADDRESS, or several with commas between them")
    problems += [
        f"has a {name}= that is no e-mail address"
        for name, found in mailboxes.items()
        if not all(map(_MAILBOX.fullmatch, found))
    ]
    if problems:
        raise _invalid([f"{SMTP_VARIABLE} {problem}" for problem in problems])
    return MailServer(
        scheme == "smtps",
        host,
        port or PORTS[scheme],
        unquote(user),
        unquote(password),
        mailboxes["from"][0],
        tuple(mailboxes["to"]),
    )


def webhook_problems(address: str) -> list[str]:
    """What is wrong with an address to post to, without it; empty where nothing is."""
    problems = _of_any(address)
    scheme, _, rest = address.partition("://")
    if scheme not in ("http", "https"):
        problems.append("does not begin with https:// or http://")
    elif not _host_and_port(re.split("[/?#]", rest, maxsplit=1)[0])[0]:
        problems.append("names no host, or a port that is no number")
    return problems


def _of_any(address: str) -> list[str]:
    problems = []
    if any(each.isspace() or is_control(each) for each in address):
        problems.append("holds a blank, a line break or a control character")
    if not address.isascii():
        problems.append("holds characters that an address writes as %XX")
    return problems


def _host_and_port(server: str) -> tuple[str, int | None]:
    """Of host, host:port or host:port/; an empty host for what is none of these."""
    try:
        place = urlsplit(f"//{server}")
        return ("", None) if place.path not in ("", "/") else (place.hostname or "", place.port)
    except ValueError:
        return "", None


def _invalid(problems: Sequence[str]) -> InvalidAlertAddressError:
    return InvalidAlertAddressError(
        "Nobody could be told at an address of the environment.",
        problems,
        next_step=f"{WEBHOOK_VARIABLE}=https://HOST/PATH, "
        f"{SMTP_VARIABLE}=smtp://USER:PASSWORD@HOST:587/?from=ADDRESS&to=ADDRESS,ADDRESS; or unset it",
    )


def _for_slack(text: str) -> str:
    """`text` in which nothing calls a channel or leads elsewhere; these three are all that Slack asks to be escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

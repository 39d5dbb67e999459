"""Where people are told of what went wrong: a webhook, e-mail, or both. What is worth telling is decided elsewhere."""

import json
import smtplib
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import parse_qs, unquote, urlparse

import dagster as dg

from churn_assets.churn.plain_text import in_one_line
from churn_assets.resources.settings import Settings

TIMEOUT_SECONDS = 5.0
WEBHOOK, EMAIL = "webhook", "e-mail"
WEBHOOK_VARIABLE, SMTP_VARIABLE = "CHURN_ALERT_WEBHOOK", "CHURN_ALERT_SMTP"


class UndeliveredError(Exception):
    """A notice did not reach its target this time."""


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
        except (OSError, smtplib.SMTPException, ValueError) as failed:
            reason = f"HTTP {failed.code}" if isinstance(failed, urllib.error.HTTPError) else type(failed).__name__
            raise UndeliveredError(f"{target}: {reason}") from failed

    def _post(self, notice: Notice) -> None:
        body = json.dumps({"text": _for_slack(f"*{in_one_line(notice.title)}*\n{notice.text}")}).encode()
        # A receiver that keeps these can tell a notice sent again after a crash.
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.key}
        request = urllib.request.Request(str(self.webhook), data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass

    def _mail(self, notice: Notice) -> None:
        place = urlparse(str(self.smtp))
        addresses = parse_qs(place.query)
        message = EmailMessage()
        message["From"], message["To"] = addresses["from"][0], ", ".join(addresses["to"])
        message["Subject"], message["X-Churn-Notice"] = in_one_line(notice.title), notice.key
        message.set_content(notice.text)
        connect = smtplib.SMTP_SSL if place.scheme == "smtps" else smtplib.SMTP
        with connect(place.hostname or "", place.port or 0, timeout=TIMEOUT_SECONDS) as server:
            if place.scheme != "smtps" and server.has_extn("starttls"):
                server.starttls()
            if place.username:
                server.login(unquote(place.username), unquote(place.password or ""))
            server.send_message(message)


def _for_slack(text: str) -> str:
    """`text` in which nothing calls a channel or leads elsewhere; these three are all that Slack asks to be escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def alerts_resource(settings: Settings) -> AlertsResource:
    """The targets that the environment names, read from it again where one is told: nothing stores the addresses."""
    configured = {"webhook": (settings.alert_webhook, WEBHOOK_VARIABLE), "smtp": (settings.alert_smtp, SMTP_VARIABLE)}
    return AlertsResource(**{name: dg.EnvVar(variable) for name, (address, variable) in configured.items() if address})

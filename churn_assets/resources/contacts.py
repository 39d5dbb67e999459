"""The team's own tool (a CRM, say), which is told whom to contact. What it is told is decided elsewhere."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from churn_assets.churn.errors import ChurnError
from churn_assets.resources.alerts import webhook_problems
from churn_assets.resources.settings import Settings

CONTACTS_VARIABLE = "CHURN_CONTACTS_WEBHOOK"
TIMEOUT_SECONDS = 30.0
MOST_BYTES = 10_000_000


class InvalidContactsAddressError(ChurnError):
    """The address of the team's tool cannot be one. What is wrong is said without the address, which is a secret."""


class UndeliveredContactsError(ChurnError):
    """The team's tool did not accept messages this time."""


class ContactsResource(dg.ConfigurableResource):
    """The tool that takes messages as JSON by POST at the address `webhook`; None where there is no such tool.

    The address is a secret, so Dagster is given the name of its variable: see `contacts_resource`.
    """

    webhook: str | None = None

    def send(self, messages: Sequence[Mapping[str, Any]], key: str) -> Any:
        """What the tool answers, as JSON; None where it answers anything else. Any 2xx status accepts all messages.

        key: the same for the same messages. Raises UndeliveredContactsError, which never names the address.
        """
        body = json.dumps({"messages": list(messages)}, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "Idempotency-Key": key}
        request = urllib.request.Request(str(self.webhook), data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                answer = response.read(MOST_BYTES)
        except Exception as failed:  # noqa: BLE001 - whatever the tool or the network does, the messages stay queued
            reason = f"HTTP {failed.code}" if isinstance(failed, urllib.error.HTTPError) else type(failed).__name__
            # Without its cause, whose words may hold the address.
            raise UndeliveredContactsError(
                f"The tool at {CONTACTS_VARIABLE} did not accept the messages: {reason}.",
                next_step="once it answers, materialize food_delivery/contact_outbox: what is queued is sent then",
            ) from None
        try:
            return json.loads(answer)
        except ValueError:
            return None


def contacts_resource(settings: Settings) -> ContactsResource:
    """The tool that the environment names, read from it again where it is told. Raises InvalidContactsAddressError."""
    if not settings.contacts_webhook:
        return ContactsResource()
    if problems := webhook_problems(settings.contacts_webhook):
        raise InvalidContactsAddressError(
            "The team's tool cannot be told at its address of the environment.",
            [f"{CONTACTS_VARIABLE} {problem}" for problem in problems],
            next_step=f"{CONTACTS_VARIABLE}=https://HOST/PATH; or unset it",
        )
    return ContactsResource(webhook=dg.EnvVar(CONTACTS_VARIABLE))

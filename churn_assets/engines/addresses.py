"""Addresses that may hold a secret: how they may be shown and stored, and where the secret comes from at use."""

import os
import re
from collections.abc import Mapping

from churn_assets.churn.errors import ChurnError

HIDDEN = "…"
# As SQLAlchemy reads it, whose passwords may hold a slash or a question mark; up to the last @ before the parameters,
# because a person may have left one unescaped. Rather too much is hidden than too little.
_USER = re.compile(r"(?<=://)[^:/@]*(?::[^@]*)?@(?:[^?]*@)?")
_PARAMETER, _CONNECT_PARAMETER = re.compile(r"([?&][^=&?]*=)[^&]*"), re.compile(r"(;[^=;]*=)[^;]*")


class MissingSecretError(ChurnError):
    """An address was stored without its secret, and the environment does not hold the whole of it."""


def shown(address: str) -> str:
    """`address` for people, logs and stores: without user, password, token or the value of any other parameter."""
    if "://" not in address:
        return address
    parameter = _CONNECT_PARAMETER if address.startswith("sc://") else _PARAMETER
    return parameter.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", address, count=1))


def public(address: str) -> str:
    """`address` as a link for people: without user and password."""
    return _USER.sub("", address, count=1)


def whole(stored: str, variable: str, environ: Mapping[str, str] | None = None) -> str:
    """The address that `shown` gave `stored` for, from the environment's `variable`.

    Raises MissingSecretError if that is unset or another address; one without a secret was stored whole.
    """
    if HIDDEN not in stored:
        return stored
    found = (os.environ if environ is None else environ).get(variable, "")
    if shown(found) != stored:
        raise MissingSecretError(
            f"{variable} is {shown(found) or 'not set'} in this process, and {stored} was configured.",
            next_step=f"set {variable} to the same address where definitions are loaded and where runs are executed",
        )
    return found

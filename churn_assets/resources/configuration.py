"""`policy.toml` and `sources.toml` read into validated objects. What the values mean is not known here."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.errors import ChurnError, InvalidPolicyError
from churn_assets.churn.policy import ChurnPolicy, Names


def load_policy(path: Path, catalogue: Catalogue = CATALOGUE) -> ChurnPolicy:
    """The policy in the TOML file `path`, about the features of `catalogue`.

    Raises InvalidPolicyError, naming every wrong key with what was found and what is allowed.
    """
    content = read_toml(path, InvalidPolicyError)
    return validated(ChurnPolicy, content, path, InvalidPolicyError, context={"catalogue": catalogue})


def names_of(policy: ChurnPolicy, environment: Mapping[str, str]) -> Names:
    """The policy's names, but for those that the environment has. Raises InvalidPolicyError."""
    where = Path("the environment, or [names] of policy.toml")
    return validated(Names, policy.names.model_dump() | dict(environment), where, InvalidPolicyError)


def read_toml(path: Path, error: type[ChurnError]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(
            f"{path}: there is no such file.",
            next_step="create it (start from the project's own), or point CHURN_PROJECT at its folder",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as unreadable:
        raise error(f"{path}: cannot be read as TOML: {unreadable}", next_step="mend the file at that place") from None


Parsed = TypeVar("Parsed", bound=BaseModel)


def validated(
    model: type[Parsed],
    content: Mapping[str, Any],
    path: Path,
    error: type[ChurnError],
    *,
    context: Mapping[str, Any] | None = None,
) -> Parsed:
    """`content` as a `model`; raises `error` with a line for each wrong key: where, what was found, what is allowed.

    context: what the model's validation needs beside.
    """
    try:
        return model.model_validate(content, context=dict(context or {}))
    except ValidationError as invalid:
        problems = [_problem(dict(detail)) for detail in invalid.errors()]
        raise error(
            f"{path}: {len(problems)} value(s) are not allowed.",
            problems,
            next_step="correct these keys; nothing is replaced by a default",
        ) from None


def _problem(detail: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "(whole file)"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    if detail["type"] == "missing":
        return f"{key}: is required"
    allowed = detail["msg"].removeprefix("Input ")
    return f"{key}: found {detail['input']!r}, {allowed}"

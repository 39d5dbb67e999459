"""The business rules, read from `policy.toml` into one frozen, validated object. Where things run is not a policy."""

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from churn_assets.churn.errors import ChurnError, InvalidPolicyError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Share = Annotated[float, Field(gt=0, lt=1)]
Days = Annotated[int, Field(ge=1, le=3650)]


class Section(BaseModel):
    # strict: a quoted number or a 1 for `true` is a mistake to report, not to guess at.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Windows(Section):
    """Days around an as-of date t: features look at [t - observation, t), the label at [t, t + outcome)."""

    observation_days: Days = 60
    outcome_days: Days = 30
    eligibility_days: Days = 30

    @model_validator(mode="after")
    def eligible_customers_are_observed(self) -> "Windows":
        if self.eligibility_days > self.observation_days:
            raise ValueError(
                f"eligibility_days ({self.eligibility_days}) must not exceed observation_days "
                f"({self.observation_days}): an eligible customer without an observed order has no features"
            )
        return self


class Cleaning(Section):
    max_delivery_hours: Annotated[float, Field(gt=0, le=720)] = 24.0
    max_quarantined_share: Share = 0.05
    watermark: date | None = None


class Baseline(Section):
    """The retention team's rule, which a model must beat."""

    long_silence_days: Days = 14
    bad_review_score: Annotated[float, Field(ge=1, le=5)] = 2.0


class Split(Section):
    salt: Annotated[str, Field(min_length=1)] = "42"


class Alerts(Section):
    budget: Share = 0.20


class Gate(Section):
    """What a model has to show on the test rows before it may be registered."""

    min_recall: Share = 0.30
    precision_floor: Share = 0.25
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class Model(Section):
    feature_set: Literal["seed", "extended", "crisis_aware"] = "crisis_aware"


class ChurnPolicy(Section):
    """All business rules of one installation."""

    windows: Windows = Windows()
    crisis_delay_minutes: Annotated[float, Field(gt=0, le=1440)] = 45.0
    cleaning: Cleaning = Cleaning()
    baseline: Baseline = Baseline()
    split: Split = Split()
    alerts: Alerts = Alerts()
    gate: Gate = Gate()
    model: Model = Model()

    @property
    def digest(self) -> str:
        """A short hash of every rule: two runs with one digest were judged by the same rules."""
        rules = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(rules.encode()).hexdigest()[:16]


def load_policy(path: Path) -> ChurnPolicy:
    """The policy in the TOML file `path`.

    Raises InvalidPolicyError, naming every wrong key with what was found and what is allowed.
    """
    return validated(ChurnPolicy, read_toml(path, InvalidPolicyError), path, InvalidPolicyError)


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


def validated(model: type[Parsed], content: Mapping[str, Any], path: Path, error: type[ChurnError]) -> Parsed:
    """`content` as a `model`; raises `error` with a line for each wrong key: where, what was found, what is allowed."""
    try:
        return model.model_validate(content)
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

"""What a check finds: the outcome of one rule, with what was observed, what is allowed and who offends."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from churn_assets.churn.errors import BrokenContractError

MAX_KEYS = 10


@dataclass(frozen=True)
class Outcome:
    """One rule's result. keys: up to ten offenders ("customer at date"). is_warning: no reason to stop."""

    rule: str
    is_passed: bool
    observed: str
    allowed: str
    keys: tuple[str, ...] = ()
    is_warning: bool = False


def told_apart(value: float, limit: float, form: str) -> tuple[str, str]:
    """Both as text of `form` (".2f", "+.3f", ".1%"), with so many more decimals that two that differ do not look equal.

    "Can be 0.20 wide; allowed 0.20" tells nobody why.
    """
    decimals = int(re.sub(r"\D", "", form))
    for more in range(decimals, 17):
        finer = form.replace(f".{decimals}", f".{more}")
        texts = f"{value:{finer}}", f"{limit:{finer}}"
        if value == limit or texts[0] != texts[1]:
            break
    return texts


def of_customers(rule: str, number: int, keys: Iterable[str], allowed: str) -> Outcome:
    """The outcome of a rule that so many customers break, the first of them by `keys`."""
    return Outcome(rule, number == 0, f"{number:,} offending customers", allowed, tuple(keys))


def require(outcomes: Sequence[Outcome], table: str) -> None:
    """Raises BrokenContractError with every broken rule that is not a mere warning."""
    broken = broken_rules(outcomes)
    if broken:
        raise BrokenContractError(
            f"The new rows of {table} break {len(broken)} rule(s) and were not published; "
            "the table stays at its last good version.",
            broken,
            next_step="look at the named rows where they come from (the silver table, or the one under [features] in "
            "sources.toml), or at what computes these columns",
        )


def broken_rules(outcomes: Iterable[Outcome]) -> list[str]:
    """A line for every broken rule that is not a mere warning: observed, allowed, offenders."""
    return [
        f"{outcome.rule}: observed {outcome.observed}; allowed {outcome.allowed}"
        + (f"; for example {', '.join(outcome.keys)}" if outcome.keys else "")
        for outcome in outcomes
        if not outcome.is_passed and not outcome.is_warning
    ]

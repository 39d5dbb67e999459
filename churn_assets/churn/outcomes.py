"""What a check finds: the outcome of one rule, with what was observed, what is allowed and who offends."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from churn_assets.churn.errors import BrokenContractError

MAX_KEYS = 10


@dataclass(frozen=True)
class Figure:
    """One figure beside what it may be.

    key: the same whenever it is measured again, so that its values over time are one series. what: in words. observed,
    interval, allowed: as they are told; value, limit: as numbers, None where there is none.
    """

    key: str
    what: str
    observed: str
    allowed: str
    is_met: bool
    value: float | None = None
    limit: float | None = None
    interval: str = ""

    def sentence(self, confidence: float) -> str:
        """The figure in one line; `confidence` is that of the interval."""
        interval = f", {confidence:.0%} interval {self.interval}" if self.interval else ""
        return f"{self.what} {self.observed}{interval}; allowed: {self.allowed}"


@dataclass(frozen=True)
class Outcome:
    """One rule's result. keys: up to ten offenders ("customer at date"). is_warning: no reason to stop.

    figures: what it was judged by, where these are numbers.
    """

    rule: str
    is_passed: bool
    observed: str
    allowed: str
    keys: tuple[str, ...] = ()
    is_warning: bool = False
    figures: tuple[Figure, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def of(record: Mapping[str, Any]) -> "Outcome":
        figures = tuple(Figure(**figure) for figure in record.get("figures", ()))
        return Outcome(**{**record, "keys": tuple(record["keys"]), "figures": figures})


def none_of(what: str, number: int) -> Figure:
    """The figure of a rule that nothing may break; `what` in the plural, its key with underscores."""
    return Figure(what.replace(" ", "_"), what, f"{number:,}", "0", number == 0, number, 0)


def share_up_to(key: str, what: str, share: float, limit: float, form: str) -> Figure:
    """The figure of a share (0 to 1) that has a maximum; `form` as `told_apart` takes it."""
    observed, allowed = told_apart(share, limit, form)
    return Figure(key, what, observed, f"at most {allowed}", share <= limit, share, limit)


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
    figure = none_of("offending customers", number)
    return Outcome(rule, number == 0, f"{number:,} offending customers", allowed, tuple(keys), figures=(figure,))


def of_keys(rule: str, keys: Sequence[tuple[str | None, date | None]], allowed: str) -> Outcome:
    """The outcome of a rule that these customers at these dates break."""
    named = [" at ".join("(null)" if part is None else str(part) for part in key) for key in keys]
    return of_customers(rule, len(named), sorted(named)[:MAX_KEYS], allowed)


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

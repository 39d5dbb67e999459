"""What is declared of a panel that others computed, and who vouches for what cannot be seen without orders."""

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Literal

# How far apart the as-of dates are.
Step = Literal["day", "week", "month"]
# The newest as-of date may be this many days old: one step, and some more for the next to arrive.
MOST_DAYS_OLD: dict[Step, int] = {"day": 4, "week": 14, "month": 45}


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The declaration of a ready feature table, beside its columns.

    label: what label 1 means, in words; None where the table has no label. outcome_days: how far the label looks ahead.
    every: how far apart the as-of dates are. value: the column that says what a customer is worth; None where none
    does. has_rule: whether the scores of a baseline rule are delivered too. attested_by, attested_reason: who vouches
    that no column knows the as-of date or later and that the label is what it is said to be, and why that is so.
    """

    label: str | None = None
    outcome_days: int | None = None
    every: Step = "week"
    value: str | None = None
    has_rule: bool = False
    attested_by: str | None = None
    attested_reason: str | None = None

    @property
    def attestation(self) -> str | None:
        """Who vouches for what, as a sentence for commit, verdict, ledger and card; None where nobody does."""
        if self.attested_by is None:
            return None
        label = "" if self.label is None else f" and label 1 means: {self.label}"
        return (
            f"attested by {self.attested_by}, and not evaluable without orders: no column knows the as-of date or "
            f"later{label}; because {self.attested_reason}"
        )

    def declaration(self) -> dict[str, Any]:
        return asdict(self)

    def last_known(self, today: date) -> date | None:
        """The latest as-of date whose outcome window is over `today`; None where there is no label."""
        return None if self.outcome_days is None else today - timedelta(days=self.outcome_days)

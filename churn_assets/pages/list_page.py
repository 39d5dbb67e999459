"""The newest list as a page to work with: one file that needs no server, on a screen, a phone or paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from churn_assets.churn.plain_text import JSON_LINES
from churn_assets.churn.policy import TierNames
from churn_assets.churn.week_at_risk import TierLimits
from churn_assets.churn.worklist import Worklist
from churn_assets.pages.glossary import tiers_told
from churn_assets.pages.html import digest, embedded, page

TEMPLATE, SCRIPT = (Path(__file__).with_suffix(suffix) for suffix in (".html", ".js"))


@dataclass(frozen=True)
class ListPage:
    """What the page shows. worth: what the customers' value is, behind "what the customers"; None where none is known.

    tiers: what risk tiers are called. population: who the active customers are. churn_definition: what leaving is.
    made_at: up to when contacts and opt-outs are known (UTC). list_file: where the same list lies for spreadsheets.
    """

    worklist: Worklist
    worth: str | None
    currency: str
    tiers: TierNames
    limits: TierLimits
    population: str
    churn_definition: str
    made_at: datetime
    list_file: str
    made_from: Sequence[str]

    @property
    def ranking(self) -> str:
        """How the list ranks, in words."""
        ranked_by = self.worklist.ranked_by
        if ranked_by is None:
            return "nobody is on it"
        return {
            "value_at_risk": f"by value at risk: the probability of leaving times what the customers {self.worth}",
            "expected_profit": "by the profit that is expected of the suggested action",
            "uplift": "by what a contact is estimated to take off the probability of leaving",
            "churn_probability": "by the probability of leaving, because no value is declared",
        }[ranked_by]

    @property
    def words(self) -> dict[str, str]:
        """What the words on the page mean."""
        told = {
            "Probability of leaving": "As the model gives it; leaving is by the company's policy: "
            f"{self.churn_definition}, counted from the first day of the week.",
            "Risk": tiers_told(self.limits, self.tiers),
            "Usual": f"The mean of all customers scored this week ({self.population}).",
            "Held out": "Drawn at random from the list and not to be contacted, or nobody can tell what contacting the "
            "others changes.",
        }
        if self.worth is not None:
            told["Value at risk"] = f"The probability of leaving times what the customers {self.worth}."
        return told

    @property
    def columns(self) -> list[dict[str, str]]:
        """The columns of the table: field, title, what its values are, and whether a phone has room for them."""
        money = f" ({self.currency})" if self.currency else ""
        of_worth = [
            ("value_at_risk", f"value at risk{money}", "amount", ""),
            ("expected_profit", f"expected profit{money}", "amount", "wide"),
        ]
        known = {name for name, *_ in of_worth if any(getattr(each, name) is not None for each in self._customers)}
        columns = [
            ("rank", "rank", "count", ""),
            ("customer_id", "customer", "id", ""),
            ("risk_tier", "risk", "tier", "wide"),
            ("churn_probability", "probability of leaving", "share", ""),
            *[column for column in of_worth if column[0] in known],
            ("suggested_action", "action", "action", "wide"),
            ("reasons", "why at risk", "reasons", "wide"),
        ]
        return [dict(zip(("field", "title", "kind", "width"), column, strict=True)) for column in columns]

    @property
    def _customers(self) -> Sequence[object]:
        return self.worklist.customers


def list_page(shown: ListPage) -> str:
    """The page as HTML. Text from the tables is data in it, and its one script is the only one that runs."""
    from markupsafe import Markup

    script = SCRIPT.read_text(encoding="utf-8")
    worklist = shown.worklist
    week = {
        "columns": shown.columns,
        "currency": shown.currency,
        "worth": shown.worth,
        "tiers": shown.tiers.model_dump(),
        "earlier": [[str(scored.as_of), scored.model_version] for scored in worklist.earlier],
        "as_of": str(worklist.as_of),
    }
    return page(
        TEMPLATE,
        shown=shown,
        as_of=worklist.as_of,
        script=Markup(script),
        script_digest=digest(script),
        lines_type=JSON_LINES,
        week=embedded(week),
        customers=[embedded(customer.row()) for customer in worklist.customers],
    )

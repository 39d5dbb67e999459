"""What report, list and card say that the tables do not.

A sentence has to be one of the rules, word for word but for its figures, and each of these has to be what the tables
give. A sentence that nobody wrote a rule for is a problem like a wrong figure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from churn_assets.defs.retention import EXPORTS
from churn_assets.defs.risk_report import FOLDER
from churn_assets_tests.conftest import Project
from churn_assets_tests.said.card import untrue_card
from churn_assets_tests.said.lists import untrue_list
from churn_assets_tests.said.report import untrue_report
from churn_assets_tests.said.tables import Tables


@dataclass(frozen=True)
class Pages:
    """What people are shown of the latest scored week: the report's HTML, the team's CSV and the card's Markdown."""

    report: str
    listed: str
    card: str


def pages_of(tables: Tables) -> Pages:
    project, folder = tables.project, Path(tables.project.lakehouse.root)
    card = project.tracking.client.download_artifacts(tables.trained.run_id, "model_card.md")
    return Pages(
        *(
            file.read_text(encoding="utf-8")
            for file in (
                folder / FOLDER / f"churn_risk_report-{tables.week}.html",
                folder / EXPORTS / f"{tables.week}.csv",
                Path(card),
            )
        )
    )


def untrue(tables: Tables, pages: Pages) -> Iterator[str]:
    """Each untrue or unknown sentence, figure or cell, and what it should be."""
    yield from (f"report: {problem}" for problem in untrue_report(tables, pages.report))
    yield from (f"list: {problem}" for problem in untrue_list(tables, pages.listed))
    yield from (f"card: {problem}" for problem in untrue_card(tables, pages.card))


def untrue_in(project: Project) -> list[str]:
    tables = Tables(project)
    return list(untrue(tables, pages_of(tables)))

"""Report, list and card of the demo say what its tables say, and no figure of theirs could change unnoticed."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from churn_assets.definitions import DEMO, LIFECYCLE
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project, causes_of
from churn_assets_tests.said.card import untrue_card
from churn_assets_tests.said.lists import untrue_list
from churn_assets_tests.said.pages import Pages, pages_of, untrue
from churn_assets_tests.said.report import untrue_report
from churn_assets_tests.said.tables import Tables

# A number as people read it; of a figure in words (1 in 6, 45 minutes) each is one.
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
# What no reader sees.
UNSEEN = re.compile(r"<style>.*?</style>|<[^>]*>|```.*?```", re.DOTALL)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Of a project of its own: whoever judges a copy of another writes the card of the run that both have."""
    project = Project.create(tmp_path_factory.mktemp("said") / "project", policy=TINY_POLICY, sources=TINY_DEMO)
    for job in (DEMO, LIFECYCLE):
        result = project.run(job)
        assert result.success, causes_of(result)
    week = project.weeks()[-1]
    assert project.score(week, week).success
    return Tables(project)


@pytest.fixture(scope="module")
def pages(tables: Tables) -> Pages:
    return pages_of(tables)


def test_report_list_and_card_say_what_the_tables_say(tables: Tables, pages: Pages) -> None:
    assert list(untrue(tables, pages)) == []


def changed(text: str, step: int) -> Iterator[str]:
    """The text with one of its numbers one larger, for every `step`-th number that a reader sees."""
    hidden = [match.span() for match in UNSEEN.finditer(text)]
    seen = [match for match in NUMBER.finditer(text) if not any(begin <= match.start() < end for begin, end in hidden)]
    for match in seen[::step]:
        last = match.end() - 1
        yield f"{text[:last]}{(int(text[last]) + 1) % 10}{text[last + 1 :]}"


CHECKS = {"report": untrue_report, "listed": untrue_list, "card": untrue_card}


@pytest.mark.parametrize(("part", "step"), [("report", 8), ("listed", 150), ("card", 25)])
def test_no_figure_can_be_another_unnoticed(tables: Tables, pages: Pages, part: str, step: int) -> None:
    # All of them were tried once (2026-11-29); they are several hundred.
    texts = list(changed(getattr(pages, part), step))
    assert len(texts) > 10
    for text in texts:
        lines = zip(text.splitlines(), getattr(pages, part).splitlines(), strict=True)
        assert any(CHECKS[part](tables, text)), next(one for one, other in lines if one != other)


def test_a_sentence_that_no_rule_knows_is_named(tables: Tables, pages: Pages) -> None:
    report = replace(pages, report=pages.report.replace("</body>", "<p>All is well.</p></body>"))
    assert list(untrue(tables, report)) == ["report: no rule checks: All is well."]
    card = replace(pages, card=f"{pages.card}\nIt is a good model.\n")
    assert list(untrue(tables, card)) == ["card: no rule checks: It is a good model."]

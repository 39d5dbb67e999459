"""The report in a browser: its figures are the tables', nothing is loaded, and it fits a phone, a desktop and paper."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from churn_assets.churn.labels import SnapshotShares
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.defs.scoring import SCORES
from churn_assets.pages.risk_report import trend_text
from churn_assets_tests.conftest import Project

WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A container's root has no sandbox; nothing but the report is opened.
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, listed: Project) -> Iterator[Page]:
    """The report opened at one width, with all that the browser asked for in `requested`."""
    width, height = WIDTHS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    requested: list[str] = []
    opened.on("request", lambda asked: requested.append(asked.url))
    opened.goto(Path(listed.lakehouse.root, FOLDER, f"{REPORT}.html").as_uri())
    assert [url for url in requested if not url.startswith("data:")] == [opened.url]
    yield opened
    opened.close()


def rows(project: Project, table: str) -> list[dict[str, Any]]:
    return project.lakehouse.records(table)


def of_week(project: Project, table: str) -> list[dict[str, Any]]:
    last = project.weeks()[-1]
    return [row for row in rows(project, table) if row["as_of"] == last]


def figure(page: Page, name: str) -> str:
    return page.locator(f"[data-figure={name}]").inner_text()


def table(page: Page, name: str) -> list[list[str]]:
    cells = "rows => rows.map(row => [...row.children].map(cell => cell.innerText))"
    found: list[list[str]] = page.locator(f"[data-table={name}] tbody tr").evaluate_all(cells)
    return found


def test_the_figures_are_those_of_the_tables(page: Page, listed: Project) -> None:
    scores, targets = of_week(listed, SCORES), of_week(listed, TARGETS)
    spend = {row["customer_id"]: float(row["spend"]) for row in of_week(listed, BASELINE)}
    at_risk = {row["customer_id"]: row["churn_probability"] * spend[row["customer_id"]] for row in scores}
    contacts = [row for row in targets if not row["is_holdout"]]
    assert figure(page, "customers") == f"{len(scores):,}"
    assert figure(page, "alerts") == f"{sum(row['is_alert'] for row in scores):,}"
    assert figure(page, "expected_leavers") == f"{sum(row['churn_probability'] for row in scores):,.0f}"
    assert figure(page, "value_at_risk") == f"{sum(at_risk.values()):,.0f}"
    assert figure(page, "to_contact") == figure(page, "to_contact_again") == f"{len(contacts):,}"
    assert figure(page, "held_out") == f"{len(targets) - len(contacts):,}"
    assert figure(page, "excluded") == f"{len(of_week(listed, EXCLUSIONS)):,}"
    assert figure(page, "model_version") == scores[0]["model_version"]

    reasons = Counter(reason["feature"] for row in targets for reason in row["reasons"])
    assert [int(row[1].replace(",", "")) for row in table(page, "drivers")] == sorted(reasons.values(), reverse=True)
    tiers = Counter(row["risk_tier"] for row in scores)
    assert {row[0]: int(row[1].replace(",", "")) for row in table(page, "tiers")} == tiers
    segments = table(page, "segments")
    assert sum(int(row[1].replace(",", "")) for row in segments) == len(scores)
    assert {"Regular", "Student", "Family"} <= {row[0] for row in segments}
    offers = Counter(row["suggested_action"] for row in contacts)
    assert {row[0]: int(row[1].replace(",", "")) for row in table(page, "offers")} == offers


def test_the_story_and_how_sure_it_is_are_those_of_the_tables(page: Page, listed: Project) -> None:
    (judged,) = rows(listed, EVALUATIONS)
    assert figure(page, "recall") == f"{judged['recall']:.1%}"
    assert figure(page, "precision") == f"{judged['precision']:.1%}"
    (effect,) = [row for row in rows(listed, EFFECT) if row["risk_tier"] == "all"]
    assert effect["statement"] in page.locator("[data-table=effects]").inner_text()
    panel = rows(listed, PANEL)
    trend = table(page, "trend")
    assert [row[0] for row in trend] == [str(week) for week in listed.weeks()]
    for row, week in zip(trend, listed.weeks(), strict=True):
        labels = [each["label"] for each in panel if each["as_of"] == week]
        known = [label for label in labels if label is not None]
        assert row[1] == f"{len(labels):,}"
        assert row[2] == (f"{sum(known) / len(known):.1%}" if known else "not yet known")
    picture = page.locator("figure img")
    assert "left" in (picture.get_attribute("alt") or "")
    assert picture.evaluate("image => image.naturalWidth") > 0


def test_nothing_is_cut_off_or_wider_than_the_page(page: Page, tmp_path: Path) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    lines = page.locator("[data-table=trend] tbody th, [data-table=segments] tbody th").evaluate_all(
        "cells => cells.map(c => { const r = document.createRange(); r.selectNodeContents(c);"
        " return new Set([...r.getClientRects()].map(box => box.top)).size; })"
    )
    assert set(lines) == {1}
    page.emulate_media(media="print")
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF")


def test_each_week_keeps_a_report_of_its_own(listed: Project) -> None:
    folder = Path(listed.lakehouse.root, FOLDER)
    assert {file.name for file in folder.iterdir()} == {f"{REPORT}.html", f"{REPORT}-{listed.weeks()[-1]}.html"}


def test_the_picture_is_told_in_words(listed: Project) -> None:
    weeks = listed.weeks()
    shares = [0.10, 0.21, 0.15, None]
    trend = [SnapshotShares(week, 100, share, 0.0) for week, share in zip(weeks[:4], shares, strict=True)]
    assert trend_text(trend) == (
        f"Of the customers of {weeks[0]:%-d %B %Y}, 10.0% left; at the worst, of those of {weeks[1]:%-d %B %Y}, 21.0%; "
        f"of those of {weeks[2]:%-d %B %Y}, the latest week whose outcome is known, 15.0%."
    )
    assert trend_text([SnapshotShares(weeks[0], 100, None, 0.0)]) == "No week's outcome is known yet."

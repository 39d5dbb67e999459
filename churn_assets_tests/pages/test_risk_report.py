"""The report in a browser: its figures are the tables', nothing is loaded, and it fits a phone, a desktop and paper."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from churn_assets.churn.catalogue import FEATURE_OF
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import Estimate
from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.churn.policy import Windows
from churn_assets.churn.week_at_risk import JudgedWeek, Part, ServingModel, TierLimits, WeekAtRisk, week_at_risk
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.monitoring import MONITORING
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.defs.scoring import SCORES
from churn_assets.pages.pictures import MeasuredEffect
from churn_assets.pages.risk_report import (
    MOST_LISTS,
    RiskReport,
    alarm_text,
    calibration_text,
    calm_text,
    effect_text,
    excluded_text,
    model_text,
    risk_report_page,
    trend_text,
    watched_text,
)
from churn_assets_tests.conftest import Project

WEEK = date(2025, 9, 1)
NO_TARGETS = {
    "is_holdout": pa.bool_(),
    "value_at_risk": pa.float64(),
    "suggested_action": pa.string(),
    "reasons": pa.list_(pa.struct([("feature", pa.string())])),
}
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


def judged_on(project: Project) -> date:
    """The date of the test rows, which the panel alone tells: the latest with a label."""
    labelled: list[date] = [row["as_of"] for row in rows(project, PANEL) if row["label"] is not None]
    return max(labelled)


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
    alerted = [row["customer_id"] for row in scores if row["is_alert"]]
    assert figure(page, "value_at_risk") == f"{sum(at_risk[each] for each in alerted):,.0f}"
    spent = f"of the {sum(spend[each] for each in alerted):,.0f} that the {len(alerted):,} at risk spent in"
    assert spent in page.locator(".figures").inner_text()
    assert figure(page, "to_contact") == figure(page, "to_contact_again") == f"{len(contacts):,}"
    assert figure(page, "held_out") == f"{len(targets) - len(contacts):,}"
    excluded = [row["reason"] for row in of_week(listed, EXCLUSIONS)]
    assert excluded
    of_each = {
        words: sum(kind in reason for reason in excluded)
        for kind, words in (("contacted on", "contacted of late"), ("held out on", "held out of late"))
    } | {"asked not to be contacted": sum("opted out" in reason for reason in excluded)}
    told = ", ".join(f"{words} ({each:,})" for words, each in sorted(of_each.items(), key=lambda of: -of[1]) if each)
    assert figure(page, "excluded_text") == f"{len(excluded):,} at risk are left in peace: {told}."
    assert figure(page, "model_version") == scores[0]["model_version"]

    # Those that hardly anybody has are the last, together.
    reasons = Counter(reason["feature"] for row in targets for reason in row["reasons"])
    frequent = sorted((each for each in reasons.values() if each / len(targets) >= 0.05), reverse=True)
    assert [int(row[1].replace(",", "")) for row in table(page, "drivers")][: len(frequent)] == frequent
    tiers = Counter(row["risk_tier"] for row in scores)
    assert {row[0]: int(row[1].replace(",", "")) for row in table(page, "tiers")} == tiers
    for name, customers, leavers, *alerts, value in table(page, "tiers"):
        of_tier = [row for row in scores if row["risk_tier"] == name]
        of_alerts = [row["customer_id"] for row in of_tier if row["is_alert"]]
        assert customers == f"{len(of_tier):,}"
        assert leavers == f"{sum(row['churn_probability'] for row in of_tier):,.0f}"
        assert alerts == [f"{len(of_alerts):,}\n{len(of_alerts) / len(of_tier):.1%}"] * len(alerts)
        assert value == f"{sum(at_risk[each] for each in of_alerts):,.0f}"
    segments = table(page, "segments")
    assert sum(int(row[1].replace(",", "")) for row in segments) == len(scores)
    assert {"Regular", "Student", "Family"} <= {row[0] for row in segments}
    offers = Counter(row["suggested_action"] for row in contacts)
    assert {row[0]: int(row[1].replace(",", "")) for row in table(page, "offers")} == offers


def test_the_story_and_how_sure_it_is_are_those_of_the_tables(page: Page, listed: Project) -> None:
    (judged,) = rows(listed, EVALUATIONS)
    assert figure(page, "model_text") == (
        f"On {judged['rows']:,} customers of {judged_on(listed):%-d %B %Y} whom it had never seen, it found "
        f"{judged['recall']:.1%} of those who left ({judged['caught']:,} of {judged['churners']:,}; for all customers "
        f"between {judged['recall_low']:.1%} and {judged['recall_high']:.1%}; as many calls can find "
        f"{judged['attainable_recall']:.1%} at most). As many calls by the retention team's rule would have found "
        f"{judged['comparisons'][0]['recall']:.1%}. Of those called at risk "
        f"{judged['precision']:.1%} left, {judged['lift']:.1f} times as many as among as many chosen by chance. "
        "It met every requirement of the company's policy."
    )
    (foretold,) = [row for row in of_week(listed, MONITORING) if row["metric"] == "estimated_precision"]
    ends = [f"{foretold[end] * foretold['rows']:,.0f}" for end in ("value", "low", "high")]
    assert (
        "about {} of them would if nothing were done ({} to {})".format(*ends) in page.locator(".figures").inner_text()
    )
    assert judged["verdict"] == "PASS"
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
    # Text of 8 points is drawn 8 points high or more: of what is made for a desktop a phone would show half.
    assert picture.evaluate("image => image.width / image.naturalWidth") >= 0.95


def test_no_word_of_the_trade_is_left_to_an_executive(page: Page) -> None:
    # The last lines name the tables that the page was made from.
    shown = page.locator("body").inner_text().removesuffix(page.locator("footer").inner_text())
    words = ("PASS", "FAIL", "psi", "PSI", "recall", "precision", "figure fails")
    assert [word for word in words if word in shown] == []
    defined, used = (set(page.locator(f"{of} dt").all_inner_texts()) for of in (".words", ".figures"))
    assert {"At risk", "Expected to leave", "Value at risk"} <= defined & used


@pytest.mark.parametrize(
    ("metric", "subject", "status", "expected"),
    [
        (Metric.PSI, "score", Status.WARN, "The probabilities of leaving are spread otherwise than when the model was"),
        (Metric.PSI, "total_orders", Status.FAIL, "Customers differ far more than usual from those the model learned"),
        (Metric.ALERT_SHARE, "", Status.WARN, "More customers are at risk than the team can contact: 31.0%; the"),
        (Metric.UNSEEN_SEGMENT_SHARE, "", Status.WARN, "Customers of segments that the model never saw: 31.0%; the"),
        (Metric.ESTIMATED_RECALL, "", Status.WARN, "By the probabilities, of this week's customers who will leave"),
        (Metric.ESTIMATED_PRECISION, "", Status.WARN, "By the probabilities, of those called at risk this week"),
        (Metric.REALISED_RECALL, "", Status.FAIL, "Of this week's customers who left, the share that was called at"),
        (Metric.REALISED_PRECISION, "", Status.FAIL, "Of those called at risk this week, the share that left: 31.0%"),
    ],
)
def test_every_alarm_is_said_in_words(metric: Metric, subject: str, status: Status, expected: str) -> None:
    alarm = Measurement(WEEK, "1", metric, subject, 0.31, None, None, 100, 0.22, 0.3, False, status)
    assert alarm_text(alarm).startswith(expected)
    assert alarm_text(alarm).endswith(("22.0%.", "was trained.", f"{FEATURE_OF['total_orders'].meaning}."))
    assert watched_text([alarm], True) == [alarm_text(alarm), "The model should be trained again."]


def test_no_figure_that_can_warn_is_without_words() -> None:
    for metric in Metric:
        alarm = Measurement(WEEK, "1", metric, "total_orders", 0.31, None, None, 100, 0.22, 0.3, False, Status.WARN)
        assert alarm_text(alarm).endswith("."), metric


def test_of_a_calm_week_the_figure_nearest_to_its_limit_is_said() -> None:
    def compared(subject: str, value: float | None, limit: float) -> Measurement:
        return Measurement(WEEK, "1", Metric.PSI, subject, value, None, None, 9, limit, 3, False, Status.OK)

    watched = [compared("total_orders", 0.05, 0.1), compared("score", 2.67, 2.72), compared("tenure_days", None, 1)]
    assert calm_text(watched).endswith(
        "among themselves. Nearest to its limit, at 98% of it: the probabilities of leaving."
    )
    assert calm_text(watched[:1]).endswith(f"at 50% of it: {FEATURE_OF['total_orders'].meaning}.")
    assert calm_text(watched[2:]) == "This week's customers were not compared with those the model learned from."
    assert watched_text(watched, False) == [calm_text(watched), "The model need not be trained again."]


MODEL = ServingModel("3", WEEK, WEEK, Verdict.FAIL, "crossfit", 900, 100, 40, 0.4, 0.31, 0.5, 0.25, 2.25)


def test_it_is_said_of_whom_the_model_was_judged_where_it_learned_from_some_of_them() -> None:
    text = model_text(MODEL)
    assert text.startswith("Five models made in the same way, this one among them, were tried on all 900 customers of")
    assert "Together they found 40.0% of those who left (40 of 100;" in text
    assert text.endswith("It fell short of a requirement of the company's policy.")
    earlier = model_text(replace(MODEL, evaluation="backtest"))
    assert (
        "whom it had never seen, and models made in the same way on others of earlier weeks, 900 in all, they found"
        in earlier
    )
    unjudged = replace(MODEL, verdict=None, recall=None)
    assert model_text(unjudged) == "It was not judged on customers it had never seen, so nobody knows how sure it is."


def test_the_weeks_in_which_it_fell_short_are_named_beside_the_verdict() -> None:
    weeks = [
        JudgedWeek(date(2025, 10, 6), True, 0.37, 0.3),
        JudgedWeek(date(2025, 10, 20), False, 0.207, 0.3),
        JudgedWeek(date(2025, 11, 3), False, 0.4, 0.3),
        JudgedWeek(date(2025, 11, 17), False, None, None),
    ]
    text = model_text(replace(MODEL, evaluation="backtest", weeks=weeks, weeks_asked=3, rule_recall=0.325))
    assert "at most" not in text
    assert "and 50.0%). As many calls by the retention team's rule would have found 32.5%. Of those" in text
    assert text.endswith(
        "policy. Of the 4 weeks each by itself 1 were as asked, and the policy asks for 3; not so 20 October 2025 "
        "(20.7% found, 30.0% asked), 3 November 2025 (ranked worse than asked), 17 November 2025 (nobody left)."
    )
    assert model_text(replace(MODEL, weeks=weeks[:1], weeks_asked=1)).endswith("and the policy asks for 1.")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Estimate(0.68, 0.65, 0.71), "0.68 to leave (0.65 to 0.71): they come out too low."),
        (Estimate(1.3, 1.1, 1.5), "1.30 to leave (1.10 to 1.50): they come out too high."),
        (Estimate(1.02, 0.95, 1.1), "1.02 to leave (0.95 to 1.10): they are right on the whole."),
    ],
)
def test_what_the_probabilities_meant_is_said_of_each_who_left(found: Estimate, said: str) -> None:
    text = calibration_text(replace(MODEL, expected_per_left=found))
    assert text == f"For each of these customers who left, the probabilities had expected {said}"
    assert calibration_text(MODEL) == ""


def test_each_reason_to_leave_somebody_in_peace_is_told_with_how_many_it_is_of() -> None:
    reasons = [
        "contacted on 2025-08-25",
        "contacted on 2025-08-04; opted out",
        "no action pays, or those that do are used up",
        "held out on 2025-08-25",
        "contacted on 2025-08-18",
    ]
    scores = {"customer_id": ["a"], "churn_probability": [0.5], "is_alert": [True], "risk_tier": ["high"]}
    nobody = pa.table({name: pa.array([], kind) for name, kind in NO_TARGETS.items()})

    def said(*given: str) -> str:
        spend = pa.table({"customer_id": ["a"], "spend": [1.0]})
        why = pa.chunked_array([pa.array(given, pa.string())])
        return excluded_text(week_at_risk(WEEK, pa.table(scores), spend, nobody, exclusions=why, segments={}))

    assert said(*reasons) == (
        "5 at risk are left in peace: contacted of late (3), held out of late (1), no action that there still is would "
        "pay (1), asked not to be contacted (1)."
    )
    assert said() == "Nobody else at risk was kept off the list."


def measured(lists: int) -> list[MeasuredEffect]:
    return [MeasuredEffect(WEEK + timedelta(weeks=7 * place), 0.05, 0.01, 0.09) for place in range(lists)]


REPORT_OF_NOTHING = RiskReport(
    week=WeekAtRisk(WEEK, Part("all", 1, 1, 0.5, 1.0, 0.5), [], [], [], [], 0, 0, {}),
    trend=[SnapshotShares(WEEK + timedelta(weeks=place), 100, None, 0.0) for place in range(2)],
    made_on=WEEK,
    windows=Windows(),
    population="ordered of late",
    worth="spent in 60 days",
    crisis_delay_minutes=45,
    churn_definition="no order",
    limits=TierLimits(0.5, 0.2, None),
    alert_budget=0.2,
    currency="EUR",
    effects=["List of 1 September 2025: it helped."],
    watched=[],
    is_retrain=None,
    model=MODEL,
    made_from=["a table"],
)


def test_lists_whose_effect_is_known_are_a_picture_from_the_second_on() -> None:
    report = REPORT_OF_NOTHING
    pictures = {
        lists: risk_report_page(replace(report, measured=measured(lists))).count("<picture>") for lists in range(4)
    }
    assert pictures == {0: 1, 1: 1, 2: 2, 3: 2}
    assert f'alt="{effect_text(measured(2))}"' in risk_report_page(replace(report, measured=measured(2)))
    text = effect_text(measured(20))
    assert text.startswith(
        "So many more of 100 customers stayed than of those held out: +5.0 (+1.0 to +9.0) by the list"
    )
    # The latest, as many as a phone has room for.
    assert text.count("by the list of") == MOST_LISTS
    assert text.endswith(f"{measured(20)[-1].as_of:%-d %B %Y}.")


def test_on_paper_the_figures_stand_in_one_row_within_margins(page: Page) -> None:
    page.emulate_media(media="print")
    columns = page.locator(".figures").evaluate("row => getComputedStyle(row).gridTemplateColumns")
    assert len(columns.split()) == page.locator(".figures > div").count() == 5
    margins = (
        "[...document.styleSheets[0].cssRules].filter(rule => rule.conditionText == 'print').map(rule => rule.cssText)"
    )
    assert "@page { margin: 14mm; }" in page.evaluate(margins)[0]


def test_a_column_that_says_nothing_is_not_shown() -> None:
    def tiers(least_alerted: float) -> str:
        chances = [0.9, 0.3, 0.1]
        scores = {
            "customer_id": ["a", "b", "c"],
            "churn_probability": chances,
            "is_alert": [chance >= least_alerted for chance in chances],
            "risk_tier": ["high", "low", "low"],
        }
        spend = pa.table({"customer_id": ["a", "b", "c"], "spend": [1.0, 1.0, 1.0]})
        nobody = pa.table({name: pa.array([], kind) for name, kind in NO_TARGETS.items()})
        why = pa.chunked_array([pa.array([], pa.string())])
        week = week_at_risk(WEEK, pa.table(scores), spend, nobody, exclusions=why, segments={})
        html = risk_report_page(replace(REPORT_OF_NOTHING, week=week))
        return html[html.index('<table data-table="tiers">') :].split("</table>")[0]

    assert "at risk</th>" not in tiers(0.9).replace("value at risk", "")
    assert "50.0%" in tiers(0.3)


def test_each_week_keeps_a_report_of_its_own(listed: Project) -> None:
    folder = Path(listed.lakehouse.root, FOLDER)
    assert {file.name for file in folder.glob(f"{REPORT}*")} == {
        f"{REPORT}.html",
        f"{REPORT}-{listed.weeks()[-1]}.html",
    }


def test_the_picture_is_told_in_words(listed: Project) -> None:
    weeks = listed.weeks()
    shares = [0.10, 0.21, 0.15, None]
    trend = [SnapshotShares(week, 100, share, 0.0) for week, share in zip(weeks[:4], shares, strict=True)]
    assert trend_text(trend) == (
        f"Of the customers of {weeks[0]:%-d %B %Y}, 10.0% left; at the worst, of those of {weeks[1]:%-d %B %Y}, 21.0%; "
        f"of those of {weeks[2]:%-d %B %Y}, the latest week whose outcome is known, 15.0%."
    )
    assert trend_text([SnapshotShares(weeks[0], 100, None, 0.0)]) == "No week's outcome is known yet."

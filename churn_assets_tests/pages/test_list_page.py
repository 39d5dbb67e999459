"""The list page in a browser, opened from disk: what it shows is the tables', on a phone, a desktop and paper."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from churn_assets.churn.plain_text import JSON_LINES
from churn_assets.churn.policy import TierNames
from churn_assets.churn.week_at_risk import TierLimits
from churn_assets.churn.worklist import (
    CONTACTED,
    HELD_OUT_NOTE,
    LEFT_ALONE,
    TO_CONTACT,
    Event,
    ScoredDate,
    Worklist,
    WorklistCustomer,
)
from churn_assets.defs.list_page import PAGE
from churn_assets.defs.reasons import REASONS
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.risk_report import FOLDER
from churn_assets.defs.scoring import SCORES
from churn_assets.pages.glossary import tiers_told
from churn_assets.pages.html import embedded
from churn_assets.pages.list_page import ListPage, list_page
from churn_assets_tests.conftest import Project

WEEK = date(2025, 12, 29)
WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
MANY = 10_000
ROWS = 100
# Each breaks out of something: of a tag, an attribute, a script, a line, JSON, the reading direction, a spreadsheet.
HOSTILE = (
    "<b>bold</b>",
    '"quoted"',
    "</script><script>document.title = 'run'</script>",
    "<!--<script>",
    "line\N{LINE SEPARATOR}separator",
    "new\nline",
    "\\u003cb\\u003e",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt",
    "=1+1",
    "&lt;i&gt;",
    "x" * 200,
)
ACTIONS = ("reminder", "personal call", "voucher")


def customer(place: int, customer_id: str | None = None) -> WorklistCustomer:
    """Of every ten one is held out, so without rank and action, and one is contacted."""
    standing = {3: LEFT_ALONE, 7: CONTACTED}.get(place % 10, TO_CONTACT)
    is_left = standing == LEFT_ALONE
    return WorklistCustomer(
        customer_id or f"C{place:06}",
        standing,
        HELD_OUT_NOTE if is_left else None,
        rank=None if is_left else place + 1,
        risk_tier=("high", "medium")[place % 2],
        suggested_action=None if is_left else ACTIONS[place % 3],
        churn_probability=0.05 + (place * 37 % 900) / 1000,
        value_at_risk=50_000.0 / (place + 1),
        recent_spend=100_000.0 / (place + 1),
        expected_profit=None,
        reasons=[f"last ordered {place % 40} days ago; usual is 8", f"{place % 9} orders in 60 days; usual is 7.2"],
        scores=[None, *[0.1 + place % 7 / 10] * 11],
        events=[Event(WEEK - timedelta(days=35), "contacted, list of 24 November 2025")] if place % 4 == 0 else [],
    )


TEN_THOUSAND = [
    *map(customer, range(MANY - len(HOSTILE))),
    *[customer(MANY - len(HOSTILE) + place, text) for place, text in enumerate(HOSTILE)],
]
MIXED: tuple[str, ...] = ("personal", "39", "days")


def shown(customers: list[WorklistCustomer], **more: Any) -> ListPage:
    earlier = [ScoredDate(WEEK - timedelta(weeks=back), "1") for back in range(1, 13)]
    ranked = sorted(customers, key=lambda each: each.rank is None)
    told: dict[str, Any] = {"worth": "spent in 60 days", "currency": "EUR", "tiers": TierNames(high="urgent")}
    told |= {"limits": TierLimits(0.4, 0.2, 0.15), "population": "ordered of late", "churn_definition": "no order"}
    told |= {"list_file": "exports/list.csv", "made_from": ["a table"]}
    made_at = datetime(2025, 12, 30, 9, 5, tzinfo=UTC)
    return ListPage(
        Worklist(WEEK, "value_at_risk", "the company's policy asks for it", earlier, ranked),
        made_at=made_at,
        **told | more,
    )


def rows_of(html: str) -> list[dict[str, Any]]:
    """The customers that a page holds, as its script reads them."""
    (block,) = re.findall(rf'<script id="customers" type="{JSON_LINES}">\n(.*?)</script>', html, re.DOTALL)
    return [json.loads(line) for line in block.split("\n") if line]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A container's root has no sandbox; nothing but the page is opened.
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "many.html"
    file.write_text(list_page(shown(TEN_THOUSAND)), encoding="utf-8")
    return file


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, many: Path) -> Iterator[Page]:
    """The page of ten thousand opened at one width; it asks for nothing, and nothing goes wrong in it."""
    width, height = WIDTHS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("request", lambda asked: troubles.append(asked.url) if asked.url != many.as_uri() else None)
    opened.goto(many.as_uri())
    yield opened
    assert troubles == []
    opened.close()


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def ids(page: Page) -> list[str]:
    found: list[str] = page.locator("#list > tbody > tr td.id bdi").evaluate_all(
        "all => all.map(each => each.textContent)"
    )
    return found


def told(page: Page) -> str:
    return page.locator("#told").inner_text()


def column(page: Page, kind: str) -> list[str]:
    return [cell.strip() for cell in page.locator(f"#list > tbody > tr > td.{kind}").all_inner_texts()]


def assert_nothing_is_wider_than_the_page(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@settings(max_examples=50)
@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts)
    )
)
def test_whatever_is_embedded_is_read_again_and_cannot_be_markup_or_a_line_more(value: Any) -> None:
    text = str(embedded(value))
    assert json.loads(text) == value
    assert text.isascii()
    assert not re.search(r"[<>&\n]", text)


def test_the_page_holds_exactly_the_customers_it_is_given() -> None:
    given_to_it = [customer(place, text) for place, text in enumerate(HOSTILE)]
    found = {row["customer_id"]: row for row in rows_of(list_page(shown(given_to_it)))}
    assert set(found) == set(HOSTILE)
    for each in given_to_it:
        row = found[each.customer_id]
        assert row == {**vars(each), "events": [[str(event.on), event.what] for event in each.events]}


def test_what_is_said_at_the_top_follows_the_list() -> None:
    made = shown([customer(0)])
    assert made.ranking == "by value at risk: the probability of leaving times what the customers spent in 60 days"
    assert "Week of 29 December 2025, amounts in EUR" in list_page(made)
    assert "amounts in the shop&#39;s currency" in list_page(replace(made, currency=""))
    for ranked_by, words in {
        "expected_profit": "by the profit that is expected of the suggested action",
        "churn_probability": "by the probability of leaving, because no value is declared",
        "uplift": "by what a contact is estimated to take off the probability of leaving",
        None: "nobody is on it",
    }.items():
        assert replace(made, worklist=replace(made.worklist, ranked_by=ranked_by)).ranking == words
    assert "Why so: the company&#39;s policy asks for it." in list_page(made)
    of_before = replace(made, worklist=replace(made.worklist, ranked_because=None))
    assert "Why so" not in list_page(of_before)
    fields = [column["field"] for column in made.columns]
    assert "value_at_risk" in fields
    assert "expected_profit" not in fields
    unvalued = [replace(customer(0), value_at_risk=None, expected_profit=7.0)]
    fields = [column["field"] for column in shown(unvalued).columns]
    assert "value_at_risk" not in fields
    assert "expected_profit" in fields


def test_typing_finds_a_customer_among_ten_thousand_and_few_rows_are_in_the_page(page: Page) -> None:
    assert len(ids(page)) == ROWS
    assert told(page) == "8,000 of 10,000 customers at risk, 1 to 100 shown"
    assert_nothing_is_wider_than_the_page(page)
    field(page, "Search id, reason or action").press_sequentially("c009872")
    assert ids(page) == ["C009872"]
    assert told(page) == "1 of 10,000 customers at risk"
    # By words anywhere: of the reasons, of the action.
    field(page, "Search id, reason or action").fill(" ".join(MIXED).upper())
    expected = [
        each.customer_id
        for each in TEN_THOUSAND
        if each.standing == TO_CONTACT
        and all(word in " ".join([each.customer_id, each.suggested_action or "", *each.reasons]) for word in MIXED)
    ]
    assert len(expected) > 10
    assert ids(page) == expected[:ROWS]
    field(page, "Search id, reason or action").fill("nobody at all")
    assert ids(page) == []
    assert told(page) == "No customer at risk matches"
    field(page, "Search id, reason or action").fill("C000003")
    assert told(page) == "None of these; 1 at risk match outside of the filters"


def test_filters_by_tier_action_and_standing_and_who_is_held_out_has_no_action(page: Page) -> None:
    field(page, "Risk").select_option("medium")
    field(page, "Action").select_option("voucher")
    expected = [
        each for each in range(MANY - len(HOSTILE)) if each % 2 == 1 and each % 3 == 2 and each % 10 not in (3, 7)
    ]
    assert [int(each[1:]) for each in ids(page)] == expected[:ROWS]
    field(page, "Action").select_option("")
    field(page, "Risk").select_option("")
    field(page, "Show").select_option(LEFT_ALONE)
    found = ids(page)
    assert {int(each[1:]) % 10 for each in found if re.fullmatch(r"C\d+", each)} == {3}
    for text in page.locator("#list > tbody > tr").all_inner_texts():
        assert f"not to contact: {HELD_OUT_NOTE}" in text
        assert not any(action in text for action in ACTIONS)
    field(page, "Show").select_option(CONTACTED)
    assert {int(each[1:]) % 10 for each in ids(page) if re.fullmatch(r"C\d+", each)} == {7}
    field(page, "Show").select_option("")
    assert told(page) == "10,000 of 10,000 customers at risk, 1 to 100 shown"


def test_a_columns_name_sorts_by_it_and_says_so(page: Page) -> None:
    heading = page.get_by_role("columnheader", name="probability of leaving")
    expect(page.get_by_role("columnheader", name="rank")).to_have_attribute("aria-sort", "ascending")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    falling = [float(each.rstrip("%")) for each in column(page, "share")]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == round(
        100 * max(each.churn_probability for each in TEN_THOUSAND if each.standing == TO_CONTACT), 1
    )
    # By the keyboard, too.
    heading.get_by_role("button").press("Enter")
    expect(heading).to_have_attribute("aria-sort", "ascending")
    rising = [float(each.rstrip("%")) for each in column(page, "share")]
    assert rising == sorted(rising)
    page.get_by_role("button", name="Next").click()
    assert float(column(page, "share")[0].rstrip("%")) >= rising[-1]
    assert "101 to 200 shown" in told(page)
    page.get_by_role("button", name="Previous").click()
    assert "1 to 100 shown" in told(page)
    # Who has no rank comes last in either order.
    field(page, "Show").select_option("")
    for _ in range(2):
        page.get_by_role("columnheader", name="rank").get_by_role("button").click()
        assert "–" not in column(page, "count")


def test_a_customer_opens_to_reasons_scores_and_contacts_and_closes_again(page: Page) -> None:
    opener = page.get_by_role("button", name="C000004")
    expect(opener).to_have_attribute("aria-expanded", "false")
    opener.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    opened = page.locator("tr.more").inner_text()
    for text in (
        "last ordered 4 days ago; usual is 8",
        "4 orders in 60 days; usual is 7.2",
        "24 Nov 2025: contacted, list of 24 November 2025",
        "22 Dec 2025\tnot scored",
        "15 Dec 2025\t50.0%\t1",
        "20,000.00 EUR, by what customers spent in 60 days",
    ):
        assert text in opened
    assert opened.count(" 2025\t") == 12
    assert_nothing_is_wider_than_the_page(page)
    opener.press("Enter")
    assert page.locator("tr.more").count() == 0


def test_nothing_is_said_of_scores_and_contacts_where_none_are_known(browser: Browser, tmp_path: Path) -> None:
    made = shown([replace(customer(1), scores=[], events=[])])
    file = tmp_path / "first.html"
    file.write_text(list_page(replace(made, worklist=replace(made.worklist, earlier=[]))), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.get_by_role("button", name="C000001").press("Enter")
    assert page.locator("tr.more h2").all_inner_texts() == ["Why at risk", "Worth"]
    page.close()


def test_the_words_on_it_are_explained() -> None:
    made = shown([customer(0)])
    assert made.words == {
        "Probability of leaving": "As the model gives it; leaving is by the company's policy: no order, counted from "
        "the first day of the week.",
        "Risk": "By the probability of leaving: urgent from 40.0%, medium from 20.0% or if at risk, which this week is "
        "from 15.0%; low below.",
        "Usual": "The mean of all customers scored this week (ordered of late).",
        "Held out": "Drawn at random from the list and not to be contacted, or nobody can tell what contacting the "
        "others changes.",
        "Value at risk": "The probability of leaving times what the customers spent in 60 days.",
    }
    assert "Value at risk" not in replace(made, worth=None).words
    for nobody_lower in (None, 0.2, 0.3):
        assert "this week" not in tiers_told(TierLimits(0.4, 0.2, nobody_lower), made.tiers)


def test_on_paper_the_page_number_is_in_the_margin(browser: Browser, many: Path) -> None:
    page = browser.new_page()
    page.goto(many.as_uri())
    margin = "[...document.styleSheets[0].cssRules].find(rule => rule.conditionText == 'print').cssRules[0].cssText"
    assert 'counter(page) " of " counter(pages)' in page.evaluate(margin)
    page.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_data_stays_text(browser: Browser, many: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "page.html"
    hostile = replace(customer(0, text), suggested_action=f"call {text}", reasons=[text], events=[Event(WEEK, text)])
    file.write_text(list_page(shown([hostile], currency="<i>")), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(file.as_uri())
    assert ids(page) == [text]
    page.locator("td.id button").click()
    assert page.locator("tr.more li").all_text_contents() == [text, f"29 Dec 2025: {text}"]
    assert page.locator("#list b, #list i, #list script").count() == 0
    assert page.title() == "Whom to contact, week of 29 December 2025"
    assert_nothing_is_wider_than_the_page(page)
    page.close()


def test_on_paper_are_all_that_were_chosen_with_their_reasons_and_no_controls(page: Page) -> None:
    field(page, "Risk").select_option("high")
    field(page, "Search id, reason or action").fill("39 days")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert len(ids(page)) == int(told(page).split(" of ")[0])
    assert told(page) == f"{len(ids(page))} of 10,000 customers at risk"
    for hidden in ("#controls", "nav", "caption", "thead button >> nth=0"):
        expect(page.locator(hidden)).to_be_hidden()
    assert page.locator("#chosen").inner_text() == "Shown: to contact; urgent risk; with “39 days”; by rank."
    # Printed again on each page, and all columns have room.
    assert page.locator("#list > thead").evaluate("head => getComputedStyle(head).display") == "table-header-group"
    titles = "heads => heads.map(head => getComputedStyle(head, '::before').content)"
    assert '"why at risk"' in page.locator(".titles > th").evaluate_all(titles)
    assert page.locator("#list > thead").inner_text().startswith("Whom to contact, week of 29 December 2025")
    expect(page.locator("td.reasons").first).to_be_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert len(ids(page)) <= ROWS


def test_the_browser_prints_all_rows_of_the_list(browser: Browser, many: Path) -> None:
    page = browser.new_page()
    page.goto(many.as_uri())
    field(page, "Search id, reason or action").fill("c0001")
    assert told(page) == "80 of 10,000 customers at risk"
    few = page.pdf(format="A4").count(b"/Type /Page\n")
    field(page, "Search id, reason or action").fill("c000")
    assert told(page) == "800 of 10,000 customers at risk, 1 to 100 shown"
    assert page.pdf(format="A4").count(b"/Type /Page\n") > 5 * few
    assert len(ids(page)) == ROWS
    page.close()


def test_the_figures_are_those_of_the_tables(browser: Browser, listed: Project) -> None:
    last, lakehouse = listed.weeks()[-1], listed.lakehouse
    file = Path(lakehouse.root, FOLDER, f"{PAGE}.html")
    found = {row["customer_id"]: row for row in rows_of(file.read_text(encoding="utf-8"))}
    targets, excluded, scores, explained = (
        {row["customer_id"]: row for row in lakehouse.records(table) if row["as_of"] == last}
        for table in (TARGETS, EXCLUSIONS, SCORES, REASONS)
    )
    before = {row["customer_id"]: row for row in lakehouse.records(SCORES) if row["as_of"] != last}
    assert set(found) == {*targets, *excluded} == {each for each, row in scores.items() if row["is_alert"]}
    for each, row in found.items():
        assert (row["churn_probability"], row["risk_tier"]) == (
            scores[each]["churn_probability"],
            scores[each]["risk_tier"],
        )
        assert row["scores"] == [before[each]["churn_probability"] if each in before else None]
        assert (row["standing"] == TO_CONTACT) is (each in targets and not targets[each]["is_holdout"])
        if each in targets:
            assert row["reasons"] == [reason["sentence"] for reason in targets[each]["reasons"]]
            for name in ("value_at_risk", "recent_spend", "expected_profit"):
                assert row[name] == targets[each][name]
        else:
            assert row["why"] == excluded[each]["reason"]
            assert row["reasons"] == [reason["sentence"] for reason in explained[each]["reasons"]]
            assert "contacted" not in row["why"] or any("contacted" in what for _, what in row["events"])
    contacts = sorted((row for row in targets.values() if not row["is_holdout"]), key=lambda row: row["rank"])
    page = browser.new_page()
    page.goto(file.as_uri())
    assert told(page).startswith(f"{len(contacts):,} of {len(found):,} customers at risk")
    assert ids(page) == [row["customer_id"] for row in contacts[:ROWS]]
    assert column(page, "count") == [f"{place:,}" for place in range(1, len(contacts[:ROWS]) + 1)]
    assert column(page, "share") == [f"{row['churn_probability']:.1%}" for row in contacts[:ROWS]]
    assert column(page, "amount") == [f"{row['value_at_risk']:,.2f}" for row in contacts[:ROWS]]
    assert column(page, "action") == [row["suggested_action"] for row in contacts[:ROWS]]
    page.close()

"""A card is one page that is whole by itself, and nothing in its text becomes markup."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from churn_assets.pages.card_page import as_html
from churn_assets.pages.model_card import model_card
from churn_assets.pages.pictures import Picture, drawn, feature_importances
from churn_assets_tests.judged_customers import customers
from churn_assets_tests.pages.test_model_card import CARDS, HOSTILE, facts, judged, parts

# The width of a sheet of A4 within the margins, in CSS pixels.
PAPER = 703
VOID = {"meta", "img", "br", "hr"}
# Every tag that a card may have.
ALLOWED = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "strong", "ul", "li", "code", "pre"} | {
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption")
}


class Page(HTMLParser):
    """What a browser would see; refuses a tag that is not closed, or not where it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts.setdefault(tag, []).append(data)
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def picture() -> Picture:
    return drawn(feature_importances({"recency_days": 0.7, "total_orders": 0.3}, "Importance"))


@pytest.mark.parametrize("case", CARDS)
def test_a_card_is_a_well_formed_page_of_plain_tags_that_names_no_other_place(case: str, picture: Picture) -> None:
    html = as_html(model_card(CARDS[case]()), {"What it uses": picture})
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= ALLOWED
    assert page.texts["title"] == page.texts["h1"] == ["Model card: quickbite_churn_predictor"]
    without_pictures = html.replace(picture.data_uri, "")
    assert len(without_pictures) < len(html)
    assert re.search(r"https?:|//|<script|@import|url\(", without_pictures) is None
    assert {name for tag, attributes in page.tags if tag != "meta" for name in attributes} <= {
        "lang",
        "class",
        "src",
        "alt",
    }


def test_pictures_are_in_the_page_with_their_captions(picture: Picture) -> None:
    other = drawn(feature_importances({"tenure_days": 1.0}, "Other"))
    page = Page(as_html("# Card", {"What it uses": picture, 'A "quoted" <caption>': other}))
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [attributes["src"] for attributes in shown] == [picture.data_uri, other.data_uri]
    assert [attributes["alt"] for attributes in shown] == ["What it uses", 'A "quoted" <caption>']
    assert page.texts["figcaption"] == ["What it uses", 'A "quoted" <caption>']


def test_without_pictures_there_is_no_section_for_them() -> None:
    assert "Pictures" not in Page(as_html("# Card\n\nText.", {})).texts["body"]


def test_a_hostile_name_of_a_segment_is_shown_as_it_is() -> None:
    told = facts(judged(customers(60, 100, slices=parts(HOSTILE, "fair", "small"))))
    page = Page(as_html(model_card(told), {}))
    assert {tag for tag, _ in page.tags} <= ALLOWED
    shown = [row for row in page.rows if row[0].startswith("segment: ")]
    in_one_line = " ".join(HOSTILE.split())
    assert f"segment: {in_one_line} (too small to judge)" in [row[0] for row in shown]
    assert {len(row) for row in shown} == {11}


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <b onclick='x()'>b</b>",
        "![seen](https://other.example/pixel.png)",
        "[here](https://other.example)",
        "<https://other.example>",
        "[here](javascript:alert)",
        "[here][place]\n\n[place]: https://other.example",
        "![here][place]\n\n[place]: https://other.example",
    ],
)
def test_tags_links_and_images_in_the_text_stay_text(text: str) -> None:
    page = Page(as_html(f"# Card\n\n{text}", {}))
    assert {tag for tag, _ in page.tags} <= ALLOWED - {"img"}
    assert page.texts["p"]


def test_the_title_is_the_heading_as_it_is_read() -> None:
    title = "a & b <c> d_e `f`"
    page = Page(as_html(r"# a & b \<c\> d_e \`f\`" + "\n\n## Not this", {}))
    assert page.texts["title"] == [title]
    assert "".join(page.texts["h1"]) == title


def test_an_interval_or_a_range_is_never_broken_into_two_lines() -> None:
    page = Page(
        as_html("| a | b |\n|-|-|\n| 0.417 (0.358 to 0.479), +0.01 (-0.02 to +0.04) | 111 to 555, up to 2 |", {})
    )
    assert page.rows[1] == [
        "0.417 (0.358\xa0to\xa00.479), +0.01 (-0.02\xa0to\xa0+0.04)",
        "111\xa0to\xa0555, up to 2",
    ]


def test_the_same_card_gives_the_same_page(picture: Picture) -> None:
    card = model_card(facts())
    assert as_html(card, {"What it uses": picture}) == as_html(card, {"What it uses": picture})


def test_every_column_is_on_paper_and_on_a_screen_no_table_leaves_the_page(chromium: str, tmp_path: Path) -> None:
    file = tmp_path / "card.html"
    file.write_text(
        as_html(model_card(facts(judged(customers(60, 100, slices=parts("Regular", "fair", "small"))))), {}),
        encoding="utf-8",
    )
    with sync_playwright() as playwright:
        # A container's root has no sandbox; nothing but the card is opened.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        width = "table => [table.scrollWidth, table.clientWidth, table.getBoundingClientRect().right]"
        for viewport, is_paper in ((390, False), (1280, False), (PAPER, True)):
            page = browser.new_page(viewport={"width": viewport, "height": 900})
            page.goto(file.as_uri())
            page.emulate_media(media="print" if is_paper else "screen")
            tables = [table.evaluate(width) for table in page.locator("table").all()]
            assert len(tables) > 3
            assert max(right for *_, right in tables) <= viewport
            if is_paper:
                assert all(whole <= shown for whole, shown, _ in tables)
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport
        browser.close()

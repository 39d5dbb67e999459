"""Model cards as pages that need no server and no other file. What a card says is in `model_card.py`."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from churn_assets.pages.html import page
from churn_assets.pages.pictures import Picture

if TYPE_CHECKING:
    from markdown_it.token import Token

TEMPLATE = Path(__file__).with_suffix(".html")
# A range or an interval of numbers stays in one line, however narrow its column.
_RANGE = re.compile(r"\(?[+-]?[\d.]+ to [+-]?[\d.]+\)?")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def as_html(markdown: str, pictures: "Mapping[str, Picture]") -> str:
    """`markdown` as one HTML page, its title the first heading, with the pictures by their captions at the end.

    Tags, links and images in the text stay text, so that the page names no other place and runs nothing.
    """
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(markdown)
    for part in (part for token in tokens for part in token.children or ()):
        part.content = _RANGE.sub(lambda match: match.group().replace(" ", _NO_BREAK), part.content)
    body = parser.renderer.render(tokens, parser.options, {})
    return page(TEMPLATE, title=_title(tokens), body=Markup(body), pictures=pictures)


def _title(tokens: "list[Token]") -> str:
    for opening, heading in pairwise(tokens):
        if opening.type == "heading_open":
            return "".join(part.content for part in heading.children or ())
    return ""

"""Model cards as pages that need no server and no other file. What a card says is in `model_card.py`."""

import re
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from churn_assets.pages.pictures import Picture

if TYPE_CHECKING:
    from markdown_it.token import Token

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5b6570; --line: #d5dae0; --paper: #ffffff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7eb; --soft: #9aa5b1; --line: #3a434d; --paper: #14181c; --tint: #1f252b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
p, li { max-width: 46rem; overflow-wrap: break-word; }
h1, h2 { line-height: 1.25; overflow-wrap: break-word; }
h1 { font-size: 1.8rem; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
table { display: block; max-width: 100%; overflow-x: auto; border-collapse: collapse; margin: 1rem 0;
  font-size: .8rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--tint); font-weight: 600; }
code, pre { font-family: ui-monospace, "Liberation Mono", Menlo, Consolas, monospace; font-size: .85em; }
code { background: var(--tint); padding: .1em .3em; border-radius: 3px; white-space: nowrap; }
pre { background: var(--tint); padding: .8rem 1rem; border-radius: 4px; overflow-x: auto; font-size: .85rem; }
pre code { background: none; padding: 0; font-size: inherit; white-space: pre; }
figure { margin: 1.5rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .9rem; }
"""
# A range or an interval of numbers stays in one line, however narrow its column.
_RANGE = re.compile(r"\(?[+-]?[\d.]+ to [+-]?[\d.]+\)?")
_NO_BREAK = "\N{NO-BREAK SPACE}"
# Were anything to slip through, the browser would still neither load nor run it.
_ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def as_html(markdown: str, pictures: "Mapping[str, Picture]") -> str:
    """`markdown` as one HTML page, its title the first heading, with the pictures by their captions at the end.

    Tags, links and images in the text stay text, so that the page names no other place and runs nothing.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(markdown)
    for part in (part for token in tokens for part in token.children or ()):
        part.content = _RANGE.sub(lambda match: match.group().replace(" ", _NO_BREAK), part.content)
    body = parser.renderer.render(tokens, parser.options, {})
    shown = [_shown(caption, picture) for caption, picture in pictures.items()]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(_title(tokens))}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            body,
            *(["<h2>Pictures</h2>", *shown] if shown else []),
            "</body>",
            "</html>",
            "",
        ]
    )


def _title(tokens: "list[Token]") -> str:
    for opening, heading in pairwise(tokens):
        if opening.type == "heading_open":
            return "".join(part.content for part in heading.children or ())
    return ""


def _shown(caption: str, picture: Picture) -> str:
    named = escape(caption)
    return f'<figure><img src="{picture.data_uri}" alt="{named}"><figcaption>{named}</figcaption></figure>'

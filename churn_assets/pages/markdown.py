"""Markdown from rows and lines: the one place where text is escaped, so that nothing in data is ever markup."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

# An underscore between letters is one in Markdown too.
_MARKUP = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_])")
# What makes a point or a rule of the line that begins with it.
_AT_BEGIN = re.compile(r"^(\d*)([+.)-])(?=-*(?: |$))")
_TABLE = """\
{% for row in [header] + rows %}
|{% for cell in row %}{% if cell %} {{ cell }}{% endif %} |{% endfor %}

{% if loop.first %}
|{% for cell in header %}-|{% endfor %}

{% endif %}
{% endfor %}
"""
_BULLETS = """\
{% for line in lines %}
- {{ line }}
{% endfor %}
"""


class Markdown(str):
    """Text that is Markdown on purpose; every other text is escaped where it is put."""


def escaped(text: str) -> Markdown:
    """`text` in one line that shows as it is: nothing in it is Markdown, ends a table cell or begins a tag."""
    in_one_line = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return Markdown(_AT_BEGIN.sub(r"\1\\\2", in_one_line))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """A table with a line for each row; cells that are no Markdown are escaped."""
    return Markdown(_template(_TABLE).render(header=list(header), rows=list(rows)).rstrip("\n"))


def bullets(lines: Iterable[str]) -> Markdown:
    """A list with a point for each line; lines that are no Markdown are escaped."""
    return Markdown(_template(_BULLETS).render(lines=lines).rstrip("\n"))


@cache
def _template(source: str) -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, finalize=_as_markdown)
    return environment.from_string(source)


def _as_markdown(text: str) -> Markdown:
    return text if isinstance(text, Markdown) else escaped(text)

"""HTML from templates: the one place where text is escaped, so that nothing in data is a tag or ends an attribute."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

# In JSON they stand within texts alone, where they may be written so; HTML reads them otherwise.
_MARKUP = {ord(each): f"\\u{ord(each):04x}" for each in "<>&"}


def page(template: Path, **values: Any) -> str:
    """The page that the file `template` makes of `values`. Text is escaped but for `Markup`, which is HTML on purpose.

    The template has the filters count (1,234) and percent (12.3%); a value that it lacks is an error.
    """
    return _template(template).render(**values)


@cache
def _template(file: Path) -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = lambda number: f"{number:,.0f}"
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    return environment.from_string(file.read_text(encoding="utf-8"))


def embedded(value: Any) -> "Markup":
    """`value` as JSON in one line that may stand in a script element: no text in it ends the element or begins a tag.

    Raises ValueError for what JSON cannot tell, such as NaN.
    """
    from markupsafe import Markup

    # ASCII: a line separator within a text would end the line for who reads line by line.
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MARKUP))


def digest(script: str) -> str:
    """By what a page's policy (Content-Security-Policy) lets this one script run, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"

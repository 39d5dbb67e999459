"""HTML from templates: the one place where text is escaped, so that nothing in data is a tag or ends an attribute."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


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

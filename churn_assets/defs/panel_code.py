"""The code that computes the panel, as a hash: a panel that other code computed is stale."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec

# What `ml_churn_features` calls; `catalogue.py` and all else that computes a value is imported from there.
ENTRANCES = ("churn_assets.churn.features", "churn_assets.churn.labels")


@cache
def panel_code() -> str:
    """A hash of the source of the modules that compute features and labels, and of all of this package they import.

    A comment changes it too: to build a panel once more costs minutes, to believe a stale one costs a model.
    """
    sources: dict[str, str] = {}
    waiting = [*ENTRANCES]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = _source(name)
            waiting += _imported(sources[name])
    content = "\0".join(f"{name}\0{sources[name]}" for name in sorted(sources))
    return hashlib.sha256(content.encode()).hexdigest()


def _source(name: str) -> str:
    spec = find_spec(name)
    # By the module's own loader, so that it is found wherever the package is installed.
    source = spec.loader.get_source(name) if spec and isinstance(spec.loader, InspectLoader) else None
    if source is None:
        raise ModuleNotFoundError(f"the source of {name} is not there, so no panel can be told from a stale one")
    return source


def _imported(source: str) -> Iterator[str]:
    """The modules of this package that are imported anywhere in `source`."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be a module of its own.
            names = [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
        yield from (name for name in names if name.startswith("churn_assets.") and _is_module(name))


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False

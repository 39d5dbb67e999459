"""Which code runs: the commit that a training records, and a digest of the modules that a result depends on."""

import ast
import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path

from churn_assets.resources.settings import CHECKOUT


def checkout_commit() -> str:
    """The commit of the code that runs, "+changes" where the package differs; without git the package's version."""
    if not (CHECKOUT / ".git").exists() or not shutil.which("git"):
        return f"churn_assets {version_of('churn_assets')}"
    # Only the package: sources.toml and policy.toml are there to be edited, and the policy is recorded itself.
    is_changed = _git("status", "--porcelain", "--", "churn_assets") != ""
    return _git("rev-parse", "HEAD") + ("+changes" if is_changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def code_digest(modules: Iterable[str], root: Path = CHECKOUT) -> str:
    """A hash of the source of `modules` and of all that they import of their own package, directly or through others.

    modules: by their full names; their package lies in the folder `root`. Imports count wherever they stand, also
    within a function; one by a computed name is not seen. Raises ModuleNotFoundError.
    """
    digest = hashlib.sha256()
    for name, file in sorted(sources(modules, root).items()):
        digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def sources(modules: Iterable[str], root: Path = CHECKOUT) -> dict[str, Path]:
    """The file of each of `modules` and of every module and package behind their imports, by name."""
    names = list(modules)
    if missing := [name for name in names if _file_of(name, root) is None]:
        raise ModuleNotFoundError(f"no source in {root} of {', '.join(missing)}")
    packages = {name.partition(".")[0] for name in names}
    files: dict[str, Path] = {}
    while names:
        name = names.pop()
        file = _file_of(name, root)
        if name in files or file is None or name.partition(".")[0] not in packages:
            continue
        files[name] = file
        names += [name.rpartition(".")[0], *_imported(ast.parse(file.read_bytes()))]
    return files


def _file_of(name: str, root: Path) -> Path | None:
    if not name:
        return None
    base = root.joinpath(*name.split("."))
    return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()), None)


def _imported(source: ast.Module) -> Iterator[str]:
    """Every name that may be a module's; an import names a module or something in it, and only the files tell."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Never relative: ruff forbids it (TID252).
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

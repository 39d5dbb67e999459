"""Which code runs, as a training records it."""

import shutil
import subprocess
from importlib.metadata import version as version_of

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

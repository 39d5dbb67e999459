"""What is promised about installing: the same Pythons, tools, version and licence wherever they are written."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from churn_assets_tests.test_docs import CHECKOUT, make, script

LOCKED = {
    "3.11": {"both": "1.0", "differs": "1.0", "only-here": "3.0"},
    "3.12": {"both": "1.0", "differs": "1.0"},
    "3.13": {"both": "1.0", "differs": "2.0"},
}


def text_of(path: str) -> str:
    return (CHECKOUT / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads(text_of("pyproject.toml"))


# --- Pythons ---


def test_the_same_pythons_are_promised_everywhere(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    prefix = "Programming Language :: Python :: "
    promised = [each.removeprefix(prefix) for each in project["classifiers"] if each.startswith(prefix)]
    minors = [int(version.removeprefix("3.")) for version in promised]
    first, last = promised[0], promised[-1]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert project["requires-python"] == f">={first},<3.{minors[-1] + 1}"

    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", text_of(".github/workflows/ci.yml"), re.MULTILINE)
    assert re.findall(r"[\d.]+", matrix) == promised
    (tried,) = re.findall(r"\$\{PYTHON:-(.*) python3\}", text_of("scripts/install"))
    assert tried.split() == [f"python{version}" for version in reversed(promised)], "the newest first"
    (locked,) = re.findall(r"scripts/lock (.*)` on Linux", text_of("constraints.txt"))
    assert locked.split() == [f"python{version}" for version in promised]
    assert pyproject["tool"]["mypy"]["python_version"] == first
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{first.replace('.', '')}"
    for page in ("README.md", "CONTRIBUTING.md", "docs/configuration.md"):
        assert f"Python {first} to {last}" in text_of(page), page


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ((3, 10), "is not a Python 3.11 to 3.14 that runs."),
        ((3, 11), "Python 3.11 could not make .venv"),
        ((3, 14), "Python 3.14 could not make .venv"),
        ((3, 15), "is not a Python 3.11 to 3.14 that runs."),
    ],
    ids=str,
)
def test_an_unfit_python_is_refused_by_name(tmp_path: Path, version: tuple[int, int], told: str) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(CHECKOUT / "scripts" / "install", tmp_path / "scripts" / "install")
    # Says it is of another version, and makes no environment.
    python = tmp_path / "python"
    code = f"import sys; sys.version_info = {(*version, 0)}; exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{code}" "$2"\nexit 1\n', encoding="utf-8")
    python.chmod(0o755)
    ran = subprocess.run(
        [tmp_path / "scripts" / "install"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert told in ran.stderr


def test_versions_that_differ_between_pythons_get_a_marker() -> None:
    assert script("lock").lines(LOCKED) == [
        "both==1.0",
        "differs==1.0; python_version<='3.12'",
        "differs==2.0; python_version>='3.13'",
        "only-here==3.0",
    ]


def test_every_version_is_exact_and_without_an_address() -> None:
    lines = [line for line in text_of("constraints.txt").splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+(; python_version.*)?", line)] == []


# --- what is published ---


def test_the_changelog_begins_with_the_version_and_its_date(pyproject: dict[str, Any]) -> None:
    (newest, *_) = re.findall(r"^## (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(pyproject['project']['version'])} \(\d{{4}}-\d\d-\d\d\)", newest)


def test_the_licence_is_named_and_there(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    licence = " ".join(text_of("LICENSE").split())
    assert licence.startswith("Apache License Version 2.0, January 2004")
    assert "Copyright 2026 churn_assets contributors" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_hooks_before_a_commit_are_what_make_check_runs() -> None:
    hooks = re.findall(r"^ +entry: (.+)$", text_of(".pre-commit-config.yaml"), re.MULTILINE)
    run = [line for line in make(CHECKOUT, "--dry-run", "check").splitlines() if "install" not in line]
    assert hooks == run

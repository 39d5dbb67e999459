"""The page that takes three messy files to a verdict is followed to the letter: its files, its commands, its output."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from churn_assets_tests.conftest import ENGINE, Project
from churn_assets_tests.processes import CHECKOUT
from churn_assets_tests.said.pages import untrue_in

PAGE = CHECKOUT / "docs" / "your_data.md"
pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Step:
    """A command of the page, what it ended with and said, and what the page shows of that."""

    command: str
    code: int
    said: str
    shown: list[str]


def squeezed(text: str) -> str:
    return " ".join(text.split())


def ran(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as it stands, in `folder`; the programs are this checkout's."""
    words = shlex.split(command)
    given = dict(word.split("=", 1) for word in words if word.isupper() or word.startswith("CHURN_PROJECT="))
    program, *arguments = [word for word in words if word.partition("=")[0] not in given]
    programs = {
        ".venv/bin/churn-assets": [sys.executable, "-m", "churn_assets.cli"],
        "scripts/pharmacy": [sys.executable, str(CHECKOUT / "scripts" / "pharmacy")],
    }
    environment = {**os.environ, **ENGINE, **given, "PYTHONPATH": str(CHECKOUT), "PYTHONUTF8": "1"}
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "CHURN_LAKEHOUSE", "CHURN_ARTIFACTS"):
        environment.pop(name, None)
    return subprocess.run(
        [*programs[program], *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def steps(folder: Path) -> list[Step]:
    """The page from its beginning to its end: files are written, commands are run, output is remembered."""
    done: list[Step] = []
    for token in MarkdownIt("commonmark").parse(PAGE.read_text(encoding="utf-8")):
        if token.type != "fence":
            continue
        if token.info == "toml":
            name = token.content.splitlines()[0].removeprefix("# ")
            (folder / name).write_text(token.content, encoding="utf-8")
        elif token.info == "sh":
            result = ran(token.content.strip(), folder)
            done.append(Step(token.content.strip(), result.returncode, result.stdout + result.stderr, []))
        else:
            done[-1].shown.extend(token.content.splitlines())
    return done


def test_the_commands_end_as_the_page_says(steps: list[Step]) -> None:
    assert [step.code for step in steps] == [0, 1, 0, 0], steps[-1].said


def test_what_the_page_shows_is_what_the_commands_say(steps: list[Step]) -> None:
    assert sum(len(step.shown) for step in steps) > 10
    for step in steps:
        assert [line for line in step.shown if squeezed(line) not in squeezed(step.said)] == [], step.said


def test_the_doctor_takes_less_than_a_minute(steps: list[Step]) -> None:
    (seconds,) = [line.split()[1] for line in steps[2].said.splitlines() if line.startswith("Took ")]
    assert float(seconds) < 60


def test_report_list_and_card_of_this_young_and_cross_fitted_company_say_what_the_tables_say(
    steps: list[Step], folder: Path
) -> None:
    assert steps[-1].code == 0
    project = Project.at(folder / "my_pharmacy")
    assert project.policy.gate.evaluation == "crossfit"
    assert untrue_in(project) == []

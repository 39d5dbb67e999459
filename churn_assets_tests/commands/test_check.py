"""What `churn-assets check` finds on the tables as they stand, its exit codes, and what it writes for machines."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from churn_assets.cli import main
from churn_assets.commands.check import UnknownSelectionError, run_checks, selected
from churn_assets.commands.check_reports import Checked, Status, as_junit, as_markdown
from churn_assets.definitions import CHECKS, build_defs
from churn_assets_tests.conftest import Project

PASSED = Checked("food_delivery/orders", "orders__schema", Status.PASSED, "7 columns", "7 columns")
WARNING = Checked("food_delivery/panel", "informative", Status.WARNING, "constant: x", "none")
FAILED = Checked("food_delivery/panel", "ranges", Status.FAILED, "a|b\n<b>*c* `d` \\", "x < 3 & y > 1")
UNKNOWN = Checked("food_delivery/panel", "no_nulls", Status.UNKNOWN, "no table \x00 there", "")
ALL = [UNKNOWN, FAILED, WARNING, PASSED]
SCHEMA, SPLITS = "orders__schema", "food_delivery/test_features"


def checked_by_command(project: Project, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "CHURN_LAKEHOUSE", "CHURN_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHURN_PROJECT", str(project.settings.project))
    return main(["check", *arguments])


def test_checks_that_pass_exit_with_0_are_recorded_and_make_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, junit = project.versions(), tmp_path / "reports" / "junit.xml"
    assert checked_by_command(project, monkeypatch, "--select", SCHEMA, SPLITS, "--junit", str(junit)) == 0
    assert "4 checks: 4 passed" in capfd.readouterr().out
    assert len(list(ElementTree.parse(junit).iter("testcase"))) == 4
    assert project.versions() == before
    with project.instance() as instance:
        assert instance.get_runs(limit=1)[0].job_name == CHECKS


def test_a_failed_check_exits_with_1(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    orders = project.lakehouse.read("food_delivery/orders").drop("subtotal")
    project.lakehouse.write("food_delivery/orders", orders)
    assert checked_by_command(project, monkeypatch, "--select", SCHEMA, "--select", "reviews__schema") == 1
    assert "subtotal (double) is missing" in capfd.readouterr().out


def test_a_missing_table_exits_with_2_and_the_other_checks_are_evaluated(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(project.lakehouse.path("food_delivery/orders"))
    assert checked_by_command(project, monkeypatch, "--select", SCHEMA, "reviews__schema") == 2
    out = capfd.readouterr().out
    assert "2 checks: 1 not evaluated, 1 passed" in out
    assert "There is no Delta table at" in out


@pytest.mark.parametrize("wrong", ["selection", "policy"])
def test_what_cannot_be_asked_exits_with_2(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    if wrong == "policy":
        project.settings.policy_file.write_text("[nonsense]\n", encoding="utf-8")
    assert checked_by_command(project, monkeypatch, "--select", "nonsense") == 2
    assert "nonsense" in capfd.readouterr().out


def test_one_rule_of_a_function_of_several_is_reported_alone(project: Project) -> None:
    with project.instance() as instance:
        (found,) = run_checks(build_defs(project.resources), instance, ["test_share"])
    assert (found.asset, found.status) == (SPLITS, Status.PASSED)


def test_every_check_is_selected_by_no_name_and_all_unknown_names_are_told(built: Project) -> None:
    defs = build_defs(built.resources)
    assert {key.name for key in selected(defs, [])} >= {SCHEMA, "no_future_leakage", "recall_gate"}
    with pytest.raises(UnknownSelectionError) as told:
        selected(defs, ["one", SCHEMA, "other"])
    assert told.value.problems == ("one", "other")


def test_junit_has_a_case_for_each_check_that_ci_systems_tell_apart() -> None:
    root = ElementTree.fromstring(as_junit(ALL, 1.5).partition("\n")[2])
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "0", "time": "1.500"}
    error, failure, warning, passed = suite
    assert [child.tag for case in suite for child in case] == ["error", "failure", "system-out"]
    assert failure.attrib | {"time": ""} == {"classname": FAILED.asset, "name": FAILED.check, "time": ""}
    assert failure[0].get("message") == FAILED.observed
    assert "\ufffd" in str(error[0].get("message"))
    assert "constant: x" in str(warning[0].text)
    assert len(passed) == 0


def test_markdown_is_a_table_whose_cells_show_the_text_they_were_given() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(as_markdown(ALL))
    cells = ["".join(c.content for c in token.children or []) for token in tokens if token.type == "inline"]
    assert cells[0] == "4 checks: 1 not evaluated, 1 failed, 1 warning, 1 passed"
    rows = [cells[index : index + 5] for index in range(1, len(cells), 5)]
    assert len(rows) == 5
    assert rows[2] == ["failed", FAILED.asset, FAILED.check, "a|b <b>*c* `d` \\", FAILED.allowed]

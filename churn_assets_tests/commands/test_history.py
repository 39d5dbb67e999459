"""From ledger and registry alone: who serves, since when, what it replaced, on which tables, by whose decision."""

import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from churn_assets.commands.history import history
from churn_assets.resources.promotions import PromotionsResource
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project, causes_of, materializations_of
from churn_assets_tests.processes import PATIENCE_SECONDS
from churn_assets_tests.resources.test_promotions import decision, promotions_in


def test_before_any_decision_it_says_that_nothing_serves(tmp_path: Path) -> None:
    told = history(promotions_in(tmp_path))
    assert "nothing: no decision to let a version serve is in the ledger" in told
    assert re.search(r"alias production +no version\n +alias staging +no version\n +the registry agrees", told)


def test_it_answers_what_a_reviewer_asks(built: Project) -> None:
    promotions = built.resources["promotions"]
    (first,) = promotions.state().ledger
    told = history(promotions)
    assert "quickbite_churn_predictor version 1" in told
    assert re.search(rf"since +{first.decided_at:%Y-%m-%d %H:%M:%S} UTC", told)
    assert re.search(r"replaced +no version", told)
    assert re.search(r"decided by +policy \(promoted\)", told)
    assert re.search(r"learned from \d+ as-of dates, 2025-\d\d-\d\d to 2025-\d\d-\d\d; tested at 2025-\d\d-\d\d", told)
    for table, version in first.subject.data_versions.items():
        assert f"{table} version {version}" in told
    for known in (first.subject.run_id, first.dagster_run_id, first.subject.model_digest, first.subject.policy_digest):
        assert str(known) in told
    assert "Decisions (1), the latest first" in told
    assert "the registry agrees with the ledger" in told


def test_a_move_by_hand_is_told(project: Project) -> None:
    project.tracking.client.delete_registered_model_alias("quickbite_churn_predictor", "production")
    told = " ".join(history(project.resources["promotions"]).split())
    assert "alias production names no version, but by the ledger version 1 serves" in told


def test_the_command_needs_no_jvm_and_shows_nothing_else(built: Project) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "churn_assets.cli", "history"],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        # MLflow leaves its store in the environment of a process that used it.
        env={
            **{name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
            "CHURN_PROJECT": str(built.settings.project),
            "JAVA_HOME": "/nowhere",
            "PATH": "/nowhere",
        },
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[4:-2] == history(built.resources["promotions"]).splitlines()
    assert lines[-1].startswith("Took ")


def ran(*command: str, folder: Path, pipe: str = "") -> "subprocess.CompletedProcess[str]":
    """A command as people type it in a shell, on the project in `folder`; its exit code is that of the command."""
    typed = f"{sys.executable} -m churn_assets.cli {' '.join(command)} {pipe}; exit ${{PIPESTATUS[0]}}"
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "DAGSTER_HOME")}
    return subprocess.run(
        ["bash", "-c", typed], check=False, capture_output=True, text=True, env=kept | {"CHURN_PROJECT": str(folder)}
    )


def decided(folder: Path) -> PromotionsResource:
    """A project in which version 1 was promoted, without a flow."""
    resources = Project.create(folder, policy=TINY_POLICY, sources=TINY_DEMO).resources
    promotions: PromotionsResource = resources["promotions"]
    client = promotions.tracking.client
    client.create_registered_model("quickbite_churn_predictor")
    for number in range(2):
        client.create_model_version("quickbite_churn_predictor", source=f"/nowhere/{number}")
    promotions.refuse(decision("1", None), ["no"])
    return promotions


def test_whoever_reads_no_further_than_the_first_lines_sees_no_traceback(tmp_path: Path) -> None:
    decided(tmp_path)
    for command in ("history", "doctor"):
        shown = ran(command, folder=tmp_path, pipe="| head -1")
        assert (shown.stderr, len(shown.stdout.splitlines())) == ("", 1)
    assert ran("history", folder=tmp_path, pipe="| head -1").returncode == 0


def test_ledger_and_registry_that_disagree_are_an_exit_code_and_the_headline_says_what_is_loaded(
    tmp_path: Path,
) -> None:
    promotions = decided(tmp_path)
    assert ran("history", folder=tmp_path).returncode == 0
    promotions.tracking.set_alias("production", "2")
    shown = ran("history", folder=tmp_path)
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[4] == "Serving: version 2; by the ledger:"
    assert "the ledger holds no decision that put it there" in " ".join(shown.stdout.split())


def test_without_a_lakehouse_it_says_so_and_makes_none(tmp_path: Path) -> None:
    Project.create(tmp_path, policy=TINY_POLICY, sources=TINY_DEMO)
    shown = ran("history", folder=tmp_path)
    assert shown.returncode == 1
    assert "There is no lakehouse at" in shown.stdout
    assert "Next step: set CHURN_LAKEHOUSE" in shown.stdout
    assert not (tmp_path / "data" / "lakehouse").exists()


@pytest.mark.parametrize("command", [["history"], ["reproduce", "1"], ["check"], ["run"]])
def test_a_store_that_fails_is_told_in_words_with_what_to_look_at(tmp_path: Path, command: list[str]) -> None:
    decided(tmp_path)
    (tmp_path / "data" / "mlflow" / "mlflow.db").write_bytes(b"no database" * 100)
    (tmp_path / "sources.toml").write_text('[orders]\nformat = "parquet"\npath = "nowhere"\n', encoding="utf-8")
    shown = ran(*command, folder=tmp_path)
    assert shown.returncode in (1, 2)
    assert "Traceback" not in shown.stdout + shown.stderr
    assert "Next step: " in shown.stdout


@pytest.mark.parametrize("spoil", ["no folder", "a file for data", "a file for Dagster's home"])
def test_a_project_that_cannot_be_used_is_named_and_left_as_it_is(tmp_path: Path, spoil: str) -> None:
    folder = tmp_path / "project"
    if spoil != "no folder":
        Project.create(folder, policy=TINY_POLICY, sources=TINY_DEMO)
        place = folder / "data" if spoil == "a file for data" else folder / "data" / "dagster_home"
        place.parent.mkdir(exist_ok=True)
        place.touch()
    shown = ran("history", folder=folder)
    assert shown.returncode == 1
    assert shown.stderr == ""
    assert re.search(r"is no folder|Not a directory|File exists", shown.stdout)
    assert "Next step: " in shown.stdout
    assert folder.exists() == (spoil != "no folder")


def test_a_run_deleted_in_mlflow_is_told_and_the_version_goes_on_from_its_own_record(project: Project) -> None:
    promotions = project.resources["promotions"]
    before = history(promotions).splitlines()
    version = project.tracking.version("1")
    assert version is not None
    trained = project.tracking.trained_model_of(version)
    project.tracking.client.delete_run(str(version.run_id))
    told = f"MLflow run {version.run_id} of version 1 was deleted"
    assert told in " ".join(history(promotions).split())
    # As `mlflow gc` leaves the database, which keeps versions and logged models.
    with sqlite3.connect(project.settings.tracking_uri.removeprefix("sqlite:///")) as database:
        for table in ("tags", "params", "latest_metrics", "metrics", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (version.run_id,))
    after = history(project.resources["promotions"])
    assert told in " ".join(after.split())
    assert [line for line in after.splitlines() if line in before] == before, "and nothing else is lost"
    assert project.tracking.trained_model_of(version) == replace(trained, served_digest=None)
    week = project.weeks()[-1]
    result = project.score(week, week, "food_delivery/churn_scores", "food_delivery/unscored_customers")
    assert result.success, causes_of(result)
    metadata = materializations_of(result)["food_delivery/churn_scores"].metadata
    assert told in str(metadata["warning"].value)

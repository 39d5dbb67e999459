"""From ledger and registry alone: who serves, since when, what it replaced, on which tables, by whose decision."""

import os
import re
import subprocess
import sys
from pathlib import Path

from churn_assets.commands.history import history
from churn_assets_tests.conftest import Project
from churn_assets_tests.resources.test_promotions import promotions_in


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
        timeout=120,
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

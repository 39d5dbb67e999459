"""One MLflow run for each training, with its true end, however the training ended, and with all that led to it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest
from mlflow.entities import Run

from churn_assets.churn import models
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.definitions import LIFECYCLE
from churn_assets.resources import trained_models
from churn_assets.resources.abandoned_runs import this_process
from churn_assets.resources.tracking import TrackingResource
from churn_assets.resources.trained_models import UnknownRunError
from churn_assets_tests.conftest import OTHERWISE, Project, causes_of
from churn_assets_tests.processes import PATIENCE_SECONDS, wait_for

MODEL, EVALUATION, REGISTERED = "churn_pipeline_model", "recall_churn", "registered_churn_model"


def runs_of(project: Project) -> list[Run]:
    """Every MLflow run of the store, in the order in which they began."""
    client = project.tracking.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def statuses(project: Project) -> list[str]:
    return [run.info.status for run in runs_of(project)]


def fail(*_: Any, **__: Any) -> None:
    raise OSError("injected failure")


def test_a_training_that_raises_ends_its_one_run_as_failed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "fit_rows", fail)
    result = project.run(LIFECYCLE, MODEL)
    assert causes_of(result) == ["OSError: injected failure\n"]
    assert statuses(project) == ["FINISHED", "FAILED"]
    assert runs_of(project)[-1].data.tags["dagster_run_id"] == result.run_id


def test_a_gate_failure_leaves_one_finished_run_that_says_fail(project: Project) -> None:
    gate = project.policy.gate.model_copy(update={"min_recall": 0.99})
    strict = project.under(project.policy.model_copy(update={"gate": gate}))
    assert project.run(LIFECYCLE, MODEL).success
    assert not strict.run(LIFECYCLE, EVALUATION, REGISTERED).success
    assert statuses(project) == ["FINISHED", "FINISHED"]
    assert [run.data.tags["verdict"] for run in runs_of(project)] == ["PASS", "FAIL"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_retry_goes_on_with_the_run_of_the_first_attempt(
    project: Project, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    logged = TrackingResource.log_training
    seen: list[str] = []

    def fails_once(self: TrackingResource, training: Any) -> None:
        if when == "after" or seen:
            logged(self, training)
        seen.append(runs_of(project)[-1].info.status)
        if len(seen) == 1:
            raise dg.RetryRequested(max_retries=1) from OSError("the store was away for a moment")

    with monkeypatch.context() as injected:
        injected.setattr(TrackingResource, "log_training", fails_once)
        result = project.run(LIFECYCLE, MODEL, config={MODEL: OTHERWISE})
    assert result.success, causes_of(result)
    assert seen == ["RUNNING", "RUNNING"]
    assert statuses(project) == ["FINISHED", "FINISHED"]
    result = project.run(LIFECYCLE, EVALUATION, REGISTERED)
    assert result.success, causes_of(result)
    assert project.alias("staging") == "2"


# --- processes that are stopped ---

TRAIN = """
import sys, time
from pathlib import Path
from churn_assets.churn import models
from churn_assets_tests.conftest import LIFECYCLE, Project

def endless(*_, **__):
    Path(sys.argv[2]).touch()
    time.sleep(600)

models.fit_rows = endless
Project.at(Path(sys.argv[1])).run(LIFECYCLE, "churn_pipeline_model")
"""


@contextmanager
def training_in_a_process(project: Project, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of the fit, in a group of its own with its JVM."""
    begun = folder / "begun"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(project.settings.project), str(begun)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for("the fit", lambda: begun.exists() or process.poll() is not None)
        assert process.poll() is None, "it ended before the fit"
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_process_told_to_stop_ends_its_run_as_killed(project: Project, tmp_path: Path, asked: signal.Signals) -> None:
    with training_in_a_process(project, tmp_path) as process:
        assert statuses(project) == ["FINISHED", "RUNNING"]
        process.send_signal(asked)
        process.wait(PATIENCE_SECONDS)
    assert statuses(project) == ["FINISHED", "KILLED"]


def test_the_run_of_a_process_that_was_killed_is_closed_by_the_next_training(project: Project, tmp_path: Path) -> None:
    with training_in_a_process(project, tmp_path) as process:
        with project.instance() as instance:
            assert project.tracking.close_abandoned_runs(instance) == [], "its process lives"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert statuses(project) == ["FINISHED", "RUNNING"]
    result = project.run(LIFECYCLE, MODEL)
    assert result.success, causes_of(result)
    assert statuses(project) == ["FINISHED", "KILLED", "FINISHED"]


def test_a_run_is_known_by_its_process_from_the_moment_it_is_there(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between MLflow's record of the run and its tags left it open for good."""
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", json.dumps({"of the team": "retention"}))
    with monkeypatch.context() as injected:
        injected.setattr("mlflow.set_tags", stopped)
        assert not project.run(LIFECYCLE, MODEL, config={MODEL: OTHERWISE}).success
    run = runs_of(project)[-1]
    # What a process that goes on has, and one that was killed has not.
    mlflow.end_run()
    assert run.info.status == "RUNNING"
    assert "dagster_run_id" not in run.data.tags
    assert json.loads(run.data.tags["process"]) == this_process()
    assert run.data.tags["of the team"] == "retention"


def stopped(*_: object) -> None:
    raise OSError("as a kill would")


def test_a_run_of_another_machine_is_closed_only_when_its_dagster_run_has_ended(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the open runs are of several pages.
    monkeypatch.setattr("churn_assets.resources.tracking.PAGE", 1)
    client, first = project.tracking.client, runs_of(project)[0]
    elsewhere = json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0})
    opened = {
        name: client.create_run(
            first.info.experiment_id, tags={"process": elsewhere, "dagster_run_id": dagster_run}
        ).info.run_id
        for name, dagster_run in {
            "unknown": "a-run-of-another-instance",
            "ended": first.data.tags["dagster_run_id"],
        }.items()
    }
    with project.instance() as instance:
        assert project.tracking.close_abandoned_runs(instance) == [opened["ended"]]
        assert project.tracking.close_abandoned_runs(instance) == []
    assert client.get_run(opened["ended"]).info.status == "KILLED"
    assert client.get_run(opened["unknown"]).info.status == "RUNNING"


def test_a_process_id_used_again_by_another_process_closes_the_run(project: Project) -> None:
    client, first = project.tracking.client, runs_of(project)[0]
    process = json.loads(first.data.tags["process"]) | {"pid": os.getpid()}
    open_run = client.create_run(first.info.experiment_id, tags={"process": json.dumps(process | {"started": 1.0})})
    with project.instance() as instance:
        assert project.tracking.close_abandoned_runs(instance) == [open_run.info.run_id]


# --- what a run tells ---


def test_a_run_tells_what_it_was_trained_from_by_what_and_leads_to_dagster(built: Project) -> None:
    (run,) = runs_of(built)
    tags, params = run.data.tags, run.data.params
    features = FEATURE_SETS[built.policy.model.feature_set]
    # Runs are told apart in a list: who learned, from which features, judged at which week.
    assert tags["mlflow.runName"] == f"XGBoost_Crisis_Aware_Pipeline crisis_aware {params['test_as_of']}"
    assert tags["dagster_root_run_id"] == tags["dagster_run_id"]
    address = f"{built.settings.dagster_ui}/runs/{tags['dagster_run_id']}"
    assert tags["dagster_run_url"] == address
    assert f"]({address})" in tags["mlflow.note.content"]
    assert tags["code_commit"]
    assert params["feature_set"] == built.policy.model.feature_set
    assert json.loads(params["features"]) == list(features)
    assert params["policy.alerts.budget"] == "0.9"
    assert params["policy_digest"] == built.policy.digest
    assert params["max_depth"] == "5"
    trained = built.tracking.trained_model(run.info.run_id)
    assert str(trained.dates.test) == params["test_as_of"]
    assert trained.dates.train
    assert max(trained.dates.train) < trained.dates.test
    assert built.tracking.policy_of(run.info.run_id) == built.policy


def test_a_run_names_each_input_table_with_its_delta_version(built: Project) -> None:
    (run,) = runs_of(built)
    versions = json.loads(run.data.tags["data_versions"])
    assert run.inputs is not None
    found = {each.dataset.name: (each.dataset.digest, each.dataset.source_type) for each in run.inputs.dataset_inputs}
    assert found == {table: (f"v{version}", "delta_table") for table, version in versions.items()}
    assert {"food_delivery/train_features", "food_delivery/test_features"} < set(found)


def test_the_logged_models_own_page_has_its_description_and_what_each_metric_is_of(built: Project) -> None:
    (run,) = runs_of(built)
    assert run.outputs is not None
    model = built.tracking.client.get_logged_model(run.outputs.model_outputs[0].model_id)
    versions = json.loads(run.data.tags["data_versions"])
    assert model.metrics is not None
    of_test = {each.key: (each.dataset_name, each.dataset_digest) for each in model.metrics}
    for name, table in {
        "recall_churn": "food_delivery/test_features",
        "validation_recall": "food_delivery/train_features",
    }.items():
        assert of_test[name] == (table, f"v{versions[table]}")
    described = model.tags["mlflow.note.content"]
    assert described.startswith("**PASS**, judged on customers of ")
    assert re.search(r"^\| recall \| 0\.\d+ \|.* met \|$", described, re.MULTILINE)


def test_a_run_holds_threshold_importances_pictures_and_model_card(built: Project) -> None:
    (run,) = runs_of(built)
    files = {file.path for file in built.tracking.client.list_artifacts(run.info.run_id)}
    assert files >= {
        "policy.json",
        "threshold.json",
        "feature_importances.json",
        "feature_importances.png",
        "validation_precision_recall.png",
        "precision_recall.png",
        "score_distribution.png",
        "calibration.png",
        "model_card.md",
        "model_card.html",
    }
    threshold = built.tracking.document(run.info.run_id, "threshold.json")
    assert threshold["threshold"] == json.loads(run.data.tags["threshold"])
    importances = built.tracking.document(run.info.run_id, "feature_importances.json")
    assert sum(importances.values()) == pytest.approx(1.0)
    assert set(importances) == set(FEATURE_SETS[built.policy.model.feature_set])


def test_a_run_that_records_too_little_is_named_with_what_it_lacks(project: Project) -> None:
    (run,) = runs_of(project)
    project.tracking.client.delete_tag(run.info.run_id, "code_commit")
    with pytest.raises(UnknownRunError, match="does not record 'code_commit'"):
        project.tracking.trained_model(run.info.run_id)


def test_a_training_logs_what_is_long_in_parts_and_is_read_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_models, "LONGEST", 50)
    result = project.run(LIFECYCLE, MODEL, config={MODEL: OTHERWISE})
    assert result.success, causes_of(result)
    run = runs_of(project)[-1]
    assert "features part 2" in run.data.params
    assert "features part 2" in run.data.tags
    assert list(project.tracking.trained_model(run.info.run_id).features) == list(project.policy.features)

"""Who serves and who decided it: promotion by the policy and by a person, refusal, override, rollback, repair."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import dagster as dg
import pytest
from dagster import AssetKey, ExecuteInProcessResult
from dagster._core.errors import DagsterConfigMappingFunctionError

from churn_assets.churn.ledger import Decision
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.definitions import LIFECYCLE, build_defs
from churn_assets.defs.launchpad import UnfilledFieldError
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets.resources.tracking import TrackingResource
from churn_assets.resources.trained_models import REGISTERED_MODEL
from churn_assets_tests.conftest import Project, causes_of, checks_of, materializations_of

FEASIBILITY = "food_delivery/label_feasibility"
MODEL, EVALUATION, REGISTERED = "churn_pipeline_model", "recall_churn", "registered_churn_model"
PRODUCTION = "production_churn_model"
PROMOTE, ROLL_BACK = "promote_staging_model", "rollback_production_model"
ADA = {"approver": "ada@quickbite.example", "reason": "the team has looked at the list"}


def changed(policy: ChurnPolicy, section: str, **values: Any) -> ChurnPolicy:
    return policy.model_copy(update={section: getattr(policy, section).model_copy(update=values)})


@pytest.fixture(scope="module")
def waiting_project(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Version 1 serves, and version 2, another model, passed and waits: promotion.mode is "manual"."""
    policy = changed(changed(built.policy, "model", class_weights="balanced"), "promotion", mode="manual")
    project = built.copied_to(tmp_path_factory.mktemp("waiting") / "project").under(policy)
    assert project.run(LIFECYCLE, FEASIBILITY).success
    result = project.run(LIFECYCLE, MODEL, EVALUATION, REGISTERED, PRODUCTION)
    assert result.success, causes_of(result)
    return project


@pytest.fixture
def waiting(waiting_project: Project, tmp_path: Path) -> Project:
    return waiting_project.copied_to(tmp_path / "project")


def automatic(project: Project) -> Project:
    return project.under(changed(project.policy, "promotion", mode="auto"))


def promotions_of(project: Project) -> PromotionsResource:
    made = project.resources["promotions"]
    assert isinstance(made, PromotionsResource)
    return made


def decisions(project: Project) -> tuple[Decision, ...]:
    return promotions_of(project).state().ledger


def told(project: Project) -> list[tuple[str, str | None, str | None]]:
    """The ledger as (action, version, previous version)."""
    return [(made.action.value, made.subject.version, made.previous_version) for made in decisions(project)]


def launch(project: Project, job: str, **config: Any) -> ExecuteInProcessResult:
    """A person launches a job."""
    op = {PROMOTE: "promote", ROLL_BACK: "roll_back"}[job]
    with project.instance() as instance:
        return (
            build_defs(project.resources)
            .resolve_job_def(job)
            .execute_in_process(
                instance=instance, raise_on_error=False, run_config={"ops": {op: {"config": ADA | config}}}
            )
        )


def ledger_check(project: Project) -> dg.AssetCheckEvaluation:
    selection = dg.AssetSelection.checks_for_assets(AssetKey(LEDGER.split("/")))
    defs = dg.Definitions.merge(
        build_defs(project.resources), dg.Definitions(jobs=[dg.define_asset_job("checked", selection)])
    )
    with project.instance() as instance:
        result = defs.resolve_job_def("checked").execute_in_process(instance=instance, raise_on_error=False)
    (found,) = result.get_asset_check_evaluations()
    assert result.success is found.passed, "the check blocks"
    return found


def cause(result: ExecuteInProcessResult) -> str:
    assert not result.success
    (found,) = causes_of(result)
    return found


def reported(result: ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """What a run said of assets, the last of each."""
    found = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return {"/".join(materialization.asset_key.path): materialization for materialization in found}


# --- the policy decides ---


def test_the_first_promotion_is_in_the_ledger_with_all_a_reviewer_asks(built: Project) -> None:
    (first,) = decisions(built)
    run = built.tracking.client.get_run(str(first.subject.run_id))
    trained = built.tracking.trained_model(run.info.run_id)
    assert (first.action.value, first.subject.version, first.previous_version) == ("promoted", "1", None)
    assert first.subject.verdict == "PASS"
    assert first.decided_by == "policy"
    assert first.subject.model_digest == trained.evidence.model_digest
    assert dict(first.subject.data_versions) == dict(trained.evidence.data_versions)
    assert first.subject.policy_digest == built.policy.digest
    assert any(reason.startswith("met: recall") for reason in first.reasons)
    assert first.dagster_run_id == run.data.tags["dagster_run_id"]
    assert ledger_check(built).passed


def test_in_manual_mode_a_version_that_passed_waits(waiting: Project) -> None:
    assert (waiting.alias("production"), waiting.alias("staging")) == ("1", "2")
    assert told(waiting) == [("promoted", "1", None)]
    result = waiting.run(LIFECYCLE, PRODUCTION)
    assert result.success
    assert materializations_of(result)[PRODUCTION].metadata["version"].value == 1
    assert (waiting.alias("production"), waiting.alias("staging")) == ("1", "2")


def test_in_automatic_mode_it_is_promoted_and_dagster_links_to_it(waiting: Project) -> None:
    result = automatic(waiting).run(LIFECYCLE, PRODUCTION)
    assert result.success, causes_of(result)
    assert told(waiting) == [("promoted", "1", None), ("promoted", "2", "1")]
    assert waiting.alias("production") == "2"
    shown = reported(result)[PRODUCTION].metadata
    assert (shown["version"].value, shown["previous_version"].value) == (2, 1)
    # In MLflow's view for model training.
    view, run_id = "?workflowType=machine_learning", shown["mlflow_run_id"].value
    assert str(shown["mlflow_version"].value).endswith(f"/#/models/{REGISTERED_MODEL}/versions/2{view}")
    assert str(shown["mlflow_run"].value).endswith(f"/#/experiments/1/runs/{run_id}{view}")
    latest = str(reported(result)[LEDGER].metadata["decisions"].value).splitlines()[:3]
    assert latest[0].endswith(" UTC promoted: version 2, by policy")
    assert latest[1:] == ["  - version 1 served before; verdict PASS", "  - all 10 criteria are met"]
    assert automatic(waiting).run(LIFECYCLE, PRODUCTION).success
    assert len(told(waiting)) == 2, "what serves already is not promoted again"


def test_after_the_serving_version_was_deleted_the_next_that_passes_is_promoted(waiting: Project) -> None:
    waiting.tracking.client.delete_model_version(REGISTERED_MODEL, "1")
    assert "was deleted from the registry" in str(ledger_check(waiting).description)
    # It was compared with the champion that is gone.
    result = automatic(waiting).run(LIFECYCLE, EVALUATION, REGISTERED, PRODUCTION)
    assert result.success, causes_of(result)
    assert told(waiting) == [("promoted", "1", None), ("promoted", "2", None)]
    assert "version 1, which serves by the ledger" in decisions(waiting)[-1].reasons[-1]
    assert ledger_check(waiting).passed
    refused = launch(waiting, ROLL_BACK)
    assert "no version 1" in cause(refused)


def test_nobody_rolls_back_to_another_model_under_the_number_of_before(waiting: Project) -> None:
    assert automatic(waiting).run(LIFECYCLE, PRODUCTION).success
    client = waiting.tracking.client
    client.set_model_version_tag(REGISTERED_MODEL, "1", "model_digest", "another")
    run_id = client.get_model_version(REGISTERED_MODEL, "1").run_id
    client.set_tag(str(run_id), "model_digest", "another")
    assert "version 1 is another model in the registry" in cause(launch(waiting, ROLL_BACK))
    assert waiting.alias("production") == "2"


def test_a_verdict_that_is_no_pass_is_a_refusal_in_the_ledger(project: Project) -> None:
    strict = project.under(changed(project.policy, "gate", min_recall=0.99))
    result = strict.run(LIFECYCLE, EVALUATION, REGISTERED, PRODUCTION)
    assert not result.success
    assert checks_of(result)["recall_churn: recall_gate"] is False
    first, refused = decisions(project)
    assert (refused.action.value, refused.subject.version, refused.previous_version) == ("refused", None, "1")
    assert refused.subject.verdict == "FAIL"
    assert refused.subject.run_id == first.subject.run_id
    assert any(reason.startswith("missed: recall") for reason in refused.reasons)
    assert ledger_check(project).passed


def test_a_model_that_serves_can_be_judged_anew_and_is_registered_and_promoted_by_nobody(project: Project) -> None:
    other = project.under(changed(project.policy, "gate", min_recall=0.06))
    assert other.run(LIFECYCLE, FEASIBILITY).success
    result = other.run(LIFECYCLE, MODEL, EVALUATION, REGISTERED, PRODUCTION)
    assert result.success, causes_of(result)
    latest = max(other.lakehouse.records(EVALUATION), key=lambda row: row["evaluated_at"])
    assert latest["policy_digest"] == other.policy.digest
    assert told(project) == [("promoted", "1", None), ("unchanged", "1", "1")]
    assert (project.alias("production"), project.alias("staging")) == ("1", "1")
    assert ledger_check(project).passed
    # Where another hand moved the alias, nobody is sure of what serves: the model is another version, and waits.
    project.tracking.client.delete_registered_model_alias(REGISTERED_MODEL, "production")
    assert not other.run(LIFECYCLE, EVALUATION, REGISTERED, PRODUCTION).success
    assert project.alias("staging") == "2"
    assert project.alias("production") is None


def test_a_version_no_longer_judged_as_things_are_is_refused_and_recorded(waiting: Project) -> None:
    other = automatic(waiting)
    other = other.under(changed(other.policy, "gate", min_recall=0.06))
    assert "it was judged by policy" in cause(other.run(LIFECYCLE, PRODUCTION))
    assert told(waiting) == [("promoted", "1", None), ("refused", "2", "1")]
    assert waiting.alias("production") == "1"


def test_a_model_that_never_served_in_a_process_of_its_own_is_not_registered(project: Project) -> None:
    run_id = str(decisions(project)[0].subject.run_id)
    project.tracking.client.delete_tag(run_id, "served_digest")
    assert "the check serving_contract did not see it load" in cause(project.run(LIFECYCLE, REGISTERED))
    assert told(project)[1:] == [("refused", None, "1")]
    with project.instance() as instance:
        event = instance.get_latest_materialization_event(AssetKey(LEDGER.split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    told_of = str(event.asset_materialization.metadata["decisions"].value)
    assert "UTC refused: the model of MLflow run " in told_of
    assert "did not see it load" in told_of


# --- a person decides ---


def test_a_person_promotes_with_name_and_reason(waiting: Project) -> None:
    result = launch(waiting, PROMOTE)
    assert result.success, causes_of(result)
    made = decisions(waiting)[-1]
    assert told(waiting) == [("promoted", "1", None), ("promoted", "2", "1")]
    assert (made.decided_by, made.statement) == (ADA["approver"], ADA["reason"])
    assert made.dagster_run_id == result.run_id
    assert waiting.alias("production") == "2"
    assert set(reported(result)) == {PRODUCTION, LEDGER}
    again = launch(waiting, PROMOTE)
    assert "version 2 serves already" in cause(again)
    assert told(waiting)[2:] == [("refused", "2", "2")]


@pytest.mark.parametrize("job", [PROMOTE, ROLL_BACK])
@pytest.mark.parametrize("blank", ["approver", "reason"])
def test_nobody_decides_without_name_and_reason(waiting: Project, job: str, blank: str) -> None:
    # At the launch, before there is a run.
    with pytest.raises(DagsterConfigMappingFunctionError) as refused:
        launch(waiting, job, **{blank: " "})
    assert isinstance(refused.value.__cause__, UnfilledFieldError)
    assert f"Nothing is launched: {blank} must be filled in." in str(refused.value.__cause__)
    assert told(waiting) == [("promoted", "1", None)]


def test_promoting_against_the_record_is_an_override_that_says_against_what(waiting: Project) -> None:
    other = waiting.under(changed(waiting.policy, "gate", min_recall=0.06))
    assert launch(other, PROMOTE).success
    made = decisions(waiting)[-1]
    assert told(waiting)[1:] == [("overridden", "2", "1")]
    assert [reason for reason in made.reasons if reason.startswith("it was judged by policy")]
    assert made.statement == ADA["reason"]
    assert waiting.alias("production") == "2"


def artifact_of(project: Project, version: str) -> Path:
    found = project.tracking.version(version)
    assert found is not None
    return Path(
        unquote(urlparse(project.tracking.client.get_model_version_download_uri(REGISTERED_MODEL, version)).path)
    )


def deleted(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def with_other_trees(folder: Path) -> None:
    (file,) = folder.rglob("trees.json")
    file.write_text(file.read_text(encoding="utf-8").replace("0.1", "0.2"), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "told_of_it"), [(deleted, "its files have digest"), (with_other_trees, "its files have digest")]
)
def test_no_person_can_let_a_version_serve_that_does_not_load_and_score(
    waiting: Project, tmp_path: Path, spoil: Callable[[Path], None], told_of_it: str
) -> None:
    folder = artifact_of(waiting, "2")
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    try:
        spoil(folder)
        assert told_of_it in cause(launch(waiting, PROMOTE))
        assert told_of_it in cause(launch(waiting, ROLL_BACK, version=2))
    finally:
        # Copies of the project share their artifacts.
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
    assert told(waiting)[1:] == [("refused", "2", "1"), ("refused", "2", "1")]
    assert waiting.alias("production") == "1"


# --- going back ---


def test_a_rollback_returns_to_the_version_before_and_the_policy_leaves_it_there(waiting: Project) -> None:
    assert automatic(waiting).run(LIFECYCLE, PRODUCTION).success
    result = launch(waiting, ROLL_BACK, reason="the list was full of regulars")
    assert result.success, causes_of(result)
    assert told(waiting)[2:] == [("rolled back", "1", "2")]
    assert (waiting.alias("production"), waiting.alias("staging")) == ("1", "2")
    shown = reported(result)
    assert shown[PRODUCTION].metadata["version"].value == 1
    assert "the list was full of regulars" in str(shown[LEDGER].metadata["decisions"].value)
    # Without a new model nothing may undo a person's decision.
    refused = cause(automatic(waiting).run(LIFECYCLE, PRODUCTION))
    assert "rolled back from this model (version 2)" in refused
    assert "the list was full of regulars" in refused
    assert waiting.alias("production") == "1"
    assert launch(waiting, PROMOTE).success
    assert told(waiting)[3:] == [("refused", "2", "1"), ("overridden", "2", "1")]
    assert waiting.alias("production") == "2"


def test_a_rollback_to_a_named_version(waiting: Project) -> None:
    assert launch(waiting, ROLL_BACK, version=2).success
    assert told(waiting)[1:] == [("rolled back", "2", "1")]
    assert waiting.alias("production") == "2"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "no version served before the present one; name the version to go back to"),
        ({"version": 1}, "version 1 serves already"),
        ({"version": 9}, f"there is no version 9 of {REGISTERED_MODEL}"),
    ],
)
def test_a_rollback_to_nowhere_is_refused_and_recorded(project: Project, config: dict[str, int], reason: str) -> None:
    assert reason in cause(launch(project, ROLL_BACK, **config))
    assert decisions(project)[-1].reasons == (reason,)
    assert project.alias("production") == "1"


# --- behind the ledger's back, and half done ---


def test_a_move_by_hand_is_named_stops_the_policy_and_is_settled_by_a_person(waiting: Project) -> None:
    waiting.tracking.set_alias("production", "2")
    found = ledger_check(waiting)
    assert not found.passed
    named = "alias production names version 2, but by the ledger version 1 serves (promoted at "
    assert named in str(found.metadata["observed"].value)
    assert named in cause(automatic(waiting).run(LIFECYCLE, PRODUCTION))
    assert waiting.alias("production") == "2"
    assert launch(waiting, ROLL_BACK, version=1).success
    assert told(waiting)[1:] == [("refused", "2", "2"), ("rolled back", "1", "2")]
    assert named in decisions(waiting)[-1].reasons[0]
    assert ledger_check(waiting).passed


def fail(*_: Any) -> None:
    raise OSError("injected failure")


def test_a_promotion_that_stops_between_ledger_and_alias_is_finished_by_the_next_run(
    waiting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = automatic(waiting)
    with monkeypatch.context() as injected:
        injected.setattr(TrackingResource, "set_alias", fail)
        assert "injected failure" in cause(project.run(LIFECYCLE, PRODUCTION))
    assert project.alias("production") == "1"
    found = ledger_check(project)
    assert not found.passed
    assert "interrupted before the alias moved: materialize production_churn_model" in str(
        found.metadata["observed"].value
    )
    result = project.run(LIFECYCLE, PRODUCTION)
    assert result.success, causes_of(result)
    assert told(project)[1:] == [("promoted", "2", "1"), ("repaired", "2", "1")]
    assert "was interrupted before the alias moved" in str(reported(result)[LEDGER].metadata["decisions"].value)
    assert project.alias("production") == "2"
    assert ledger_check(project).passed


def test_an_evaluation_finishes_an_interrupted_promotion_before_it_compares(
    waiting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = automatic(waiting)
    with monkeypatch.context() as injected:
        injected.setattr(TrackingResource, "set_alias", fail)
        assert not project.run(LIFECYCLE, PRODUCTION).success
    result = project.run(LIFECYCLE, MODEL, EVALUATION, REGISTERED, PRODUCTION)
    assert result.success, causes_of(result)
    assert told(project)[1:] == [("promoted", "2", "1"), ("repaired", "2", "1"), ("unchanged", "2", "2")]

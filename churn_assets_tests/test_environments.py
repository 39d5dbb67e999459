"""Two environments on one MLflow server and in one bucket: what one decides and deletes, the other does not notice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from churn_assets.churn.errors import InvalidPolicyError
from churn_assets.churn.ledger import Action, Decision
from churn_assets.churn.policy import ChurnPolicy, Names
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.cli import main
from churn_assets.commands.history import history
from churn_assets.commands.promote import UnknownEnvironmentError, promote_to
from churn_assets.commands.promote import environment as environment_named
from churn_assets.definitions import default_resources
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.resources.configuration import names_of
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.tracking import PRODUCTION, TrackingResource
from churn_assets.resources.trained_models import REGISTERED_MODEL
from churn_assets_tests.conftest import ENGINE, TINY_DEMO, TINY_POLICY, Project, causes_of
from churn_assets_tests.resources.test_promotions import decision

STAGING_NAMES = {
    "CHURN_REGISTERED_MODEL": "staging.food_delivery.quickbite",
    "CHURN_EXPERIMENT": "/Shared/Staging",
    "CHURN_TABLE_PREFIX": "staging",
    "CHURN_RUN_NAME": "nightly {learner}",
}


def environment(folder: Path, **names: str) -> dict[str, Any]:
    """The resources of one environment; the stores of all lie in `folder`."""
    (folder / "policy.toml").write_text(TINY_POLICY, encoding="utf-8")
    (folder / "sources.toml").write_text(TINY_DEMO, encoding="utf-8")
    return default_resources(settings_from_env({"CHURN_PROJECT": str(folder), **ENGINE, **names}))


def test_what_is_decided_in_one_environment_leaves_the_other(tmp_path: Path) -> None:
    both: dict[str, PromotionsResource] = {
        "prod": environment(tmp_path)["promotions"],
        "staging": environment(tmp_path, **STAGING_NAMES)["promotions"],
    }
    for name, promotions in both.items():
        client, model = promotions.tracking.client, promotions.tracking.registered_model
        client.create_registered_model(model)
        for number in ("1", "2", "3"):
            tags = {"model_digest": f"digest {number}"}
            client.create_model_version(model, source=f"/{name}/{number}", tags=tags)
    prod, staging = both["prod"], both["staging"]
    prod.move(decision("1", None))
    before = prod.state()
    staging.move(decision("2", None))
    staging.move(decision("3", "2"))
    staging.move(decision("2", "3", Action.ROLLED_BACK, by="ada"))
    staging.tracking.set_alias(PRODUCTION, "1")
    assert "behind the ledger's back" in (staging.state().disagreement or "")
    assert (prod.state(), prod.state().disagreement) == (before, None)
    assert [made.subject.version for made in prod.state().ledger] == ["1"]
    staging.tracking.client.delete_registered_model(staging.tracking.registered_model)
    assert prod.state() == before
    assert prod.lakehouse.path(LEDGER) == f"{tmp_path}/data/lakehouse/{LEDGER}"
    assert staging.lakehouse.path(LEDGER) == f"{tmp_path}/data/lakehouse/staging/{LEDGER}"


def test_a_whole_lifecycle_under_other_names_leaves_the_other_environment_as_it_was(project: Project) -> None:
    told = history(project.resources["promotions"])
    versions = project.versions()
    elsewhere = environment(project.settings.project, **STAGING_NAMES)
    settings = replace(project.settings, names=settings_from_env({**STAGING_NAMES}).names)
    staging = Project(settings, project.policy)
    for job in ("demo_lakehouse", "churn_lifecycle"):
        result = staging.run(job)
        assert result.success, causes_of(result)
    assert staging.lakehouse.root == elsewhere["lakehouse"].root == f"{project.settings.lakehouse}/staging"
    assert staging.alias(PRODUCTION) == "1"
    version = staging.tracking.version("1")
    assert version is not None
    assert (version.name, staging.tracking.trained_model_of(version).verdict) == (
        "staging.food_delivery.quickbite",
        "PASS",
    )
    run = staging.tracking.client.get_run(str(version.run_id))
    assert run.data.tags["mlflow.runName"] == f"nightly XGBoost crisis_aware {run.data.params['test_as_of']}"
    experiment = staging.tracking.client.get_experiment(run.info.experiment_id)
    assert experiment.name == "/Shared/Staging"
    assert "staging.food_delivery.quickbite version 1" in history(staging.resources["promotions"])
    assert history(project.resources["promotions"]) == told
    assert (project.versions(), project.alias(PRODUCTION)) == (versions, "1")


def test_the_notebooks_names_are_the_defaults_and_judge_nothing() -> None:
    names = Names()
    assert (names.experiment, names.registered_model, names.table_prefix) == (
        "/Shared/QuickBite_Churn_Prediction",
        "quickbite_churn_predictor",
        "",
    )
    assert names.run.replace("{learner}", "GBT") == "GBT_Crisis_Aware_Pipeline"
    assert ChurnPolicy.model_validate({"names": {"table_prefix": "dev"}}).digest == ChurnPolicy().digest


def test_the_environments_names_go_before_the_policys() -> None:
    policy = ChurnPolicy.model_validate({"names": {"table_prefix": "dev", "registered_model": "dev.model"}})
    found = names_of(policy, {"table_prefix": "staging"})
    assert (found.table_prefix, found.registered_model) == ("staging", "dev.model")


@pytest.mark.parametrize(
    ("name", "value"),
    [("registered_model", "a/b"), ("registered_model", "a:b"), ("registered_model", " a"), ("table_prefix", "../up")],
)
def test_a_name_that_mlflow_or_the_lakehouse_cannot_have_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidPolicyError, match=name):
        names_of(ChurnPolicy(), {name: value})


PROD = {"registered_model": "prod.quickbite", "table_prefix": "prod"}


def promoted_to_prod(project: Project, reason: str = "calm weeks") -> tuple[PromotionsResource, Decision]:
    policy = project.policy.model_copy(update={"environments": {"prod": Names(**PROD)}})
    resources = project.resources | {"policy": policy}
    prod = environment_named(resources, project.settings, "prod")
    made = promote_to("prod", resources["promotions"], prod, policy, approver="ada", reason=reason)
    return prod, made


def test_what_serves_is_copied_with_its_record_promoted_there_and_written_in_both_ledgers(project: Project) -> None:
    before = project.tracking.client.search_model_versions(f"name='{REGISTERED_MODEL}'")
    prod, made = promoted_to_prod(project)
    assert (made.action, made.decided_by, made.statement) == (Action.PROMOTED, "ada", "calm weeks")
    assert made.reasons[0] == "a copy of quickbite_churn_predictor/1"
    state = prod.state()
    assert (state.champion, state.disagreement, len(state.ledger)) == ("1", None, 1)
    here, copy = project.tracking.version("1"), prod.tracking.version("1")
    assert here is not None
    assert copy is not None
    assert {name: copy.tags[name] for name in ("model_digest", "files_digest", "verdict")} == {
        name: here.tags[name] for name in ("model_digest", "files_digest", "verdict")
    }
    (row,) = prod.lakehouse.records(EVALUATIONS)
    assert row == project.lakehouse.records(EVALUATIONS)[0]
    # Here nothing moved.
    own = project.resources["promotions"].state()
    assert (own.champion, own.disagreement) == ("1", None)
    assert [each.action for each in own.ledger] == [Action.PROMOTED, Action.COPIED]
    assert own.ledger[-1].reasons == ("to prod, as version 1 of prod.quickbite",)
    assert len(project.tracking.client.search_model_versions(f"name='{REGISTERED_MODEL}'")) == len(before)
    with pytest.raises(PromotionRefusedError, match="serves there already"):
        promoted_to_prod(project)
    assert [each.action for each in prod.state().ledger] == [Action.PROMOTED, Action.REFUSED]
    assert len(prod.tracking.client.search_model_versions("name='prod.quickbite'")) == 1


def test_what_the_record_there_does_not_carry_is_an_override(project: Project) -> None:
    policy = project.policy.model_copy(update={"gate": project.policy.gate.model_copy(update={"min_recall": 0.9})})
    _, made = promoted_to_prod(project.under(policy))
    assert made.action is Action.OVERRIDDEN
    assert any("policy" in reason for reason in made.reasons)


def test_a_copy_that_does_not_load_is_refused_there_and_nothing_is_said_here(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrackingResource, "problems", lambda *_: ["it does not load"])
    with pytest.raises(PromotionRefusedError, match="it does not load"):
        promoted_to_prod(project)
    assert [each.action for each in project.resources["promotions"].state().ledger] == [Action.PROMOTED]


@pytest.mark.parametrize("names", [{"table_prefix": "prod"}, {"registered_model": "prod.quickbite"}])
def test_an_environment_that_shares_names_with_this_one_is_refused(project: Project, names: dict[str, str]) -> None:
    policy = project.policy.model_copy(update={"environments": {"prod": Names(**names)}})
    with pytest.raises(UnknownEnvironmentError, match="The environment prod shares"):
        environment_named(project.resources | {"policy": policy}, project.settings, "prod")
    with pytest.raises(UnknownEnvironmentError, match="has no environment qa"):
        environment_named(project.resources | {"policy": policy}, project.settings, "qa")


def test_the_command_promotes_what_serves_here_in_the_named_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = "".join(f'{name} = "{value}"\n' for name, value in PROD.items())
    with project.settings.policy_file.open("a", encoding="utf-8") as file:
        file.write(f"[environments.prod]\n{names}")
    for variable in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "CHURN_LAKEHOUSE", "CHURN_ARTIFACTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CHURN_PROJECT", str(project.settings.project))
    said = ("--approver", "ada@quickbite.example", "--reason", "four calm weeks in staging")
    assert main(["promote", "--to", "qa", *said]) == 1
    assert "policy.toml has no environment qa." in capfd.readouterr().out
    assert main(["promote", "--to", "prod", *said]) == 0
    assert "version 1 of prod.quickbite serves in prod." in capfd.readouterr().out

"""Two environments on one MLflow server and in one bucket: what one decides and deletes, the other does not notice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from churn_assets.churn.errors import InvalidPolicyError
from churn_assets.churn.ledger import Action
from churn_assets.churn.policy import ChurnPolicy, Names
from churn_assets.commands.history import history
from churn_assets.definitions import default_resources
from churn_assets.resources.configuration import names_of
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.tracking import PRODUCTION
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
        for number in range(3):
            client.create_model_version(model, source=f"/{name}/{number}")
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
    assert run.data.tags["mlflow.runName"] == "nightly XGBoost"
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

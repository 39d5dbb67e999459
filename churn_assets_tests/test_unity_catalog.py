"""A registry as Unity Catalog's: MLflow's own client of it, before a catalog that this file keeps.

What the catalog itself refuses beyond this (who may do what, how long a tag is) is not known here.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities.model_registry.model_version_search import ModelVersionSearch
from mlflow.exceptions import RestException
from mlflow.protos.databricks_uc_registry_messages_pb2 import ModelVersion
from mlflow.store._unity_catalog.registry.rest_store import UcModelRegistryStore
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking._model_registry.utils import _get_store_registry

from churn_assets.churn.ledger import Action
from churn_assets.churn.policy import Names
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.commands.history import history
from churn_assets.commands.promote import environment, promote_to
from churn_assets.defs.decisions import subject_of
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.resources.promotions import LEDGER
from churn_assets.resources.tracking import PRODUCTION, STAGING, TrackingResource
from churn_assets.serving.files import recorded_digest
from churn_assets_tests.conftest import Project
from churn_assets_tests.resources.test_promotions import decision

HERE, THERE = "main.food_delivery.quickbite", "prod.food_delivery.quickbite"


class Catalog(UcModelRegistryStore):
    """Models of three-part names, with files of their own under a folder. A search has pages of two and one condition.

    It stands for what Databricks answers; what is asked, in which words, is MLflow's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("databricks-uc", "")
        self._folder = folder
        self._models: dict[str, list[ModelVersion]] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def get_host_creds(self) -> None:
        raise AssertionError("nothing is asked of a server")

    def _get_artifact_repo(self, model_version: ModelVersion, *_: Any) -> LocalArtifactRepository:
        return LocalArtifactRepository(model_version.storage_location)

    def _call_endpoint(self, api: Any, json_body: str, *_: Any, **__: Any) -> Any:
        asked, response = json.loads(json_body), self._get_response_from_method(api)
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", api.__name__.removesuffix("Request")).lower()
        found = getattr(self, f"answer_{kind}")(asked)
        if isinstance(found, ModelVersion):
            response.model_version.CopyFrom(found)
        elif isinstance(found, str):
            response.artifact_uri = found
        elif found is not None:
            response.model_versions.extend(found[0])
            response.next_page_token = found[1]
        return response

    def _model(self, name: str) -> list[ModelVersion]:
        if name not in self._models:
            raise refused("RESOURCE_DOES_NOT_EXIST", f"Routine or Model '{name}' does not exist.")
        return self._models[name]

    def answer_create_registered_model(self, asked: Mapping[str, Any]) -> None:
        if asked["name"].count(".") != 2:
            raise refused("INVALID_PARAMETER_VALUE", f"'{asked['name']}' has not three parts")
        if asked["name"] in self._models:
            raise refused("RESOURCE_ALREADY_EXISTS", asked["name"])
        self._models[asked["name"]] = []

    def answer_get_registered_model(self, asked: Mapping[str, Any]) -> None:
        self._model(asked["name"])

    def answer_create_model_version(self, asked: Mapping[str, Any]) -> ModelVersion:
        model, known = self._model(asked["name"]), {"name", "source", "run_id", "description", "tags", "model_id"}
        number = str(len(model) + 1)
        place = self._folder / asked["name"] / number
        made = ModelVersion(
            version=number, storage_location=str(place), **{key: asked[key] for key in known & asked.keys()}
        )
        model.append(made)
        return made

    def answer_get_model_version(self, asked: Mapping[str, Any]) -> ModelVersion:
        for version in self._model(asked["name"]):
            if version.version == str(asked["version"]):
                return version
        raise refused("RESOURCE_DOES_NOT_EXIST", f"version {asked['version']}")

    answer_finalize_model_version = answer_get_model_version

    def answer_get_model_version_download_uri(self, asked: Mapping[str, Any]) -> str:
        return str(self.answer_get_model_version(asked).storage_location)

    def answer_update_model_version(self, asked: Mapping[str, Any]) -> ModelVersion:
        version = self.answer_get_model_version(asked)
        version.description = asked["description"]
        return version

    def answer_set_model_version_tag(self, asked: Mapping[str, Any]) -> None:
        self.answer_get_model_version(asked).tags.add(key=asked["key"], value=asked["value"])

    def answer_search_model_versions(self, asked: Mapping[str, Any]) -> tuple[list[ModelVersion], str]:
        name = re.fullmatch(r"name\s*=\s*'([^']*)'", asked["filter"])
        if name is None:
            raise refused("INVALID_PARAMETER_VALUE", f"Unsupported filter: {asked['filter']}")
        begin = int(asked.get("page_token", 0))
        model = self._models.get(name[1], [])
        return model[begin : begin + 2], str(begin + 2) if begin + 2 < len(model) else ""

    def answer_set_registered_model_alias(self, asked: Mapping[str, Any]) -> None:
        self.answer_get_model_version(asked)
        self._aliases[asked["name"], asked["alias"]] = str(asked["version"])

    def answer_get_model_version_by_alias(self, asked: Mapping[str, Any]) -> ModelVersion:
        self._model(asked["name"])
        if (asked["name"], asked["alias"]) not in self._aliases:
            raise refused("RESOURCE_DOES_NOT_EXIST", f"alias {asked['alias']}")
        return self.answer_get_model_version({**asked, "version": self._aliases[asked["name"], asked["alias"]]})


def refused(code: str, message: str) -> RestException:
    return RestException({"error_code": code, "message": message})


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """The registry of this process; the runs stay in the tracking store."""
    catalog = Catalog(tmp_path / "catalog")
    registry = _get_store_registry()
    monkeypatch.setitem(registry._registry, "catalog", lambda *_, **__: catalog)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "catalog://main")
    return catalog


def test_a_search_of_the_catalog_tells_no_tags_and_takes_one_condition(catalog: Catalog) -> None:
    catalog.create_registered_model(HERE)
    catalog.answer_create_model_version({"name": HERE})
    (found,) = catalog.search_model_versions(f"name='{HERE}'")
    assert isinstance(found, ModelVersionSearch)
    with pytest.raises(RestException, match="Unsupported filter"):
        catalog.search_model_versions(f"name='{HERE}' and run_id='1'")
    with pytest.raises(RestException, match="three parts"):
        catalog.create_registered_model("quickbite")


def test_a_model_is_registered_promoted_copied_and_told_of_under_three_part_names(
    project: Project, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What decided under another registry.
    shutil.rmtree(project.lakehouse.path(LEDGER))
    project = replace(project, settings=replace(project.settings, names={"registered_model": HERE}))
    policy = project.policy.model_copy(
        update={"environments": {"prod": Names(registered_model=THERE, table_prefix="prod")}}
    )
    resources = project.resources | {"policy": policy}
    promotions, tracking = resources["promotions"], resources["tracking"]
    trained = tracking.trained_model(project.lakehouse.records(EVALUATIONS)[0]["run_id"])
    assert (tracking.version_under(PRODUCTION), list(tracking.versions())) == (None, [])
    tags = {**trained.tags(), "verdict": "PASS"}
    made = tracking.register(trained, tags, "dagster run", "PASS")
    assert tracking.register(trained, tags, "another", "PASS").version == made.version, "one version of one training"
    # Of others' trainings: more than a page.
    for number in range(3):
        catalog.answer_create_model_version({"name": HERE, "run_id": f"run {number}"})
    assert tracking.versions_by_run() == {trained.run_id: "1", "run 0": "2", "run 1": "3", "run 2": "4"}
    assert list(tracking.data_versions()) == [dict(trained.evidence.data_versions), {}, {}, {}]
    assert str(tracking.version_under(STAGING).version) == "1"
    uri = tracking.version_uri("1")
    assert tracking.files_digest(uri) == trained.files_digest == recorded_digest(uri)
    assert tracking.load_scorer(tracking.version("1")).threshold == trained.threshold
    promotions.move(replace(decision("1", None), subject=subject_of(trained, tracking.version("1"), None)))
    assert (promotions.state().champion, promotions.state().disagreement) == ("1", None)
    # The probe is a process of its own, which does not know this catalog.
    monkeypatch.setattr(TrackingResource, "problems", lambda *_: [])
    prod = environment(resources, project.settings, "prod")
    copied = promote_to("prod", promotions, prod, policy, approver="ada", reason="calm weeks")
    assert (copied.action, copied.reasons[0]) == (Action.PROMOTED, f"a copy of {HERE}/1")
    assert (prod.state().champion, prod.state().disagreement) == ("1", None)
    with pytest.raises(PromotionRefusedError, match="serves there already"):
        promote_to("prod", promotions, prod, policy, approver="ada", reason="again")
    assert len(list(prod.tracking.versions())) == 1
    assert f"{THERE} version 1" in history(prod)

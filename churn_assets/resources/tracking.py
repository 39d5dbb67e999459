"""MLflow: where runs, models and versions are recorded. Opens nothing until asked; decides nothing about models."""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import dagster as dg

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.errors import ChangedModelError, ChurnError
from churn_assets.churn.policy import ChurnPolicy, Names
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.churn.trees import BoostedTrees
from churn_assets.delta.erasing import Erasure, erase
from churn_assets.engines.addresses import public, whole
from churn_assets.pages.pictures import Picture
from churn_assets.resources.abandoned_runs import PROCESS_TAG, is_abandoned, this_process
from churn_assets.resources.running_code import checkout_commit
from churn_assets.resources.settings import (
    DRIVER_ADVICE,
    is_database_server,
    is_new_store,
    make_store_folder,
    mlflow_page,
    require_database,
)
from churn_assets.resources.trained_models import (
    DIGEST_TAG,
    MODEL_ARTIFACT,
    POLICY_FILE,
    REGISTERED_MODEL,
    TREES_FILE,
    LoggedTraining,
    TrainedModel,
    in_parts,
    provenance_tags,
)
from churn_assets.serving.files import FILES_TAG, files_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from churn_assets.serving.probe import Probe
    from churn_assets.serving.spark import Scorer

LEARNERS = {"xgboost": "XGBoost", "gbt": "GBT"}
STAGING, PRODUCTION = "staging", "production"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
# What MLflow shows as a description.
NOTE_TAG = "mlflow.note.content"
# What MLflow adds to the tags of every run that this process opens.
RUN_CONTEXT = "MLFLOW_RUN_CONTEXT"
PAGE = 1000
# Given explicitly: left to itself MLflow starts another JVM to find them out (33 s against 2 s, 2026-11).
PINNED = ("pyspark", "mlflow", "numpy", "pandas")


class UnknownVersionError(ChurnError):
    """The registry no longer holds a version that scores were made with."""


class UnusableStoreError(ChurnError):
    """MLflow has no way to use the configured address as a store."""


class TrackingResource(dg.ConfigurableResource):
    """The MLflow store at `tracking_uri`; `artifact_root` is for an experiment made in a store without a server.

    tracking_uri: as `addresses.shown` gives it, because Dagster stores it; a secret that it hides is read from
    MLFLOW_TRACKING_URI where the store is opened.

    mlflow_ui, dagster_ui: where people look at them, for the links from one to the other. dfs_tmpdir: where Spark may
    leave the trees that it learned itself; Unity Catalog wants a volume here. code_commit: of the code that runs, for
    an installation that is no git checkout. experiment, run_name, registered_model: see the policy's `Names`.
    """

    tracking_uri: str
    artifact_root: str
    mlflow_ui: str
    dagster_ui: str
    dfs_tmpdir: str | None = None
    code_commit: str | None = None
    experiment: str = Names().experiment
    run_name: str = Names().run
    registered_model: str = REGISTERED_MODEL

    @cached_property
    def _store(self) -> str:
        """The store's whole address, read once: MLflow writes into that variable too. Raises MissingSecretError."""
        return whole(self.tracking_uri, TRACKING_VARIABLE)

    @cached_property
    def client(self) -> "MlflowClient":
        """Raises UnusableStoreError."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._use_store()
            require_database(self._store)
            return MlflowClient(tracking_uri=self._store)
        except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError, ImportError) as refused:
            unusable = self._unusable(refused)
        # Outside of the handler, so that no trace of it is kept: MLflow's own words hold the address.
        raise unusable

    def require_store(self) -> None:
        """Asks the store what each run asks it; a new one, whose tables take seconds, only whether it can be made.

        Raises UnusableStoreError.
        """
        if not is_new_store(self._store):
            self.version_under(PRODUCTION)
            return
        try:
            make_store_folder(self._store)
            require_database(self._store)
        except (OSError, sqlite3.Error) as refused:
            raise self._unusable(refused) from refused

    def _unusable(self, refused: Exception) -> UnusableStoreError:
        advice = f"correct {TRACKING_VARIABLE}; `churn-assets doctor` looks at it"
        return UnusableStoreError(
            f"MLflow cannot use the store at {self.tracking_uri}.",
            [str(refused).replace(self._store, self.tracking_uri).splitlines()[0]],
            next_step=DRIVER_ADVICE if isinstance(refused, ImportError) else advice,
        )

    @cached_property
    def probe(self) -> "Probe":
        """What tries versions of this store; the steps of a run share it, and with it a process started ahead."""
        from churn_assets.serving.probe import Probe

        return Probe(self._store)

    @contextmanager
    def training_run(self, context: dg.AssetExecutionContext, estimator: str, about: str) -> Iterator[str]:
        """Opens the MLflow run of this Dagster run, yields its id, and ends it with the true status.

        Its name ends with what it is `about`, by which people tell it from the others in a list.

        A retry within the Dagster run goes on with its MLflow run. Runs that a killed process left open are closed.
        """
        # Where it is needed: at load it cost each process 0.9 of 3.1 s of CPU, also one that trains nothing.
        import mlflow
        from dagster_mlflow import mlflow_tracking

        self._use_store()
        self._ensure_experiment()
        for run_id in self.close_abandoned_runs(context.instance):
            context.log.warning(f"MLflow run {run_id} was left open by a process that is gone; it is closed as KILLED")
        # The tags below come after the run is there: by this one a run whose process is killed in between is known.
        at_once = json.loads(os.environ.get(RUN_CONTEXT, "{}")) | {PROCESS_TAG: json.dumps(this_process())}
        config = {
            "experiment_name": self.experiment,
            "mlflow_tracking_uri": self._store,
            "env": {RUN_CONTEXT: json.dumps(at_once)},
            "extra_tags": {
                "mlflow.runName": f"{self.run_name.replace('{learner}', LEARNERS[estimator])} {about}",
                **self._origin(context),
            },
        }
        with dg.build_resources(
            {"mlflow": mlflow_tracking.configured(config)},
            instance=context.instance,
            dagster_run=context.run,
            log_manager=context.log,
        ):
            status = "FAILED"
            try:
                active = mlflow.active_run()
                assert active is not None, "mlflow_tracking opens a run"
                yield active.info.run_id
                status = "FINISHED"
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                status = "KILLED"
                raise
            finally:
                mlflow.end_run(status=status)

    def _origin(self, context: dg.AssetExecutionContext) -> dict[str, str]:
        """Tags that lead from an MLflow run to what made it."""
        run = context.run
        address = self.dagster_address(run.run_id)
        return {
            "dagster_job": run.job_name,
            "dagster_root_run_id": run.root_run_id or run.run_id,
            "dagster_run_url": address,
            # MLflow shows this as the run's description, in which alone a link can be clicked.
            NOTE_TAG: f"Trained by [Dagster run {run.run_id}]({address}).",
            "code_commit": self.code_commit or checkout_commit(),
            PROCESS_TAG: json.dumps(this_process()),
        }

    def dagster_address(self, dagster_run_id: str) -> str:
        """Where a Dagster run is looked at."""
        return f"{self.dagster_ui.rstrip('/')}/runs/{dagster_run_id}"

    def close_abandoned_runs(self, instance: dg.DagsterInstance) -> list[str]:
        """Ends, as KILLED, each open run of a Dagster run that has ended or of a process that is gone; their ids."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return []
        abandoned = [run for run in self._open_runs(experiment.experiment_id) if is_abandoned(run, instance)]
        for run in abandoned:
            self.client.set_terminated(run.info.run_id, status="KILLED")
        return [run.info.run_id for run in abandoned]

    def _open_runs(self, experiment_id: str) -> "Iterator[Run]":
        token: str | None = ""
        while token is not None:
            page = self.client.search_runs(
                [experiment_id], "attributes.status = 'RUNNING'", page_token=token or None, max_results=PAGE
            )
            yield from page
            token = page.token or None

    def log_training(self, logged: LoggedTraining) -> None:
        """Logs parameters, provenance, inputs, pictures and the model (see `serving.flavor`) to the open run."""
        import mlflow
        from mlflow.data.delta_dataset_source import DeltaDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.models import Model

        from churn_assets.serving import flavor

        mlflow.log_params(in_parts(logged.params))
        mlflow.set_tags(in_parts(provenance_tags(logged.evidence, logged.features, logged.threshold)))
        datasets = {}
        for table, path in logged.inputs.items():
            version = logged.evidence.data_versions[table]
            source = DeltaDatasetSource(path=path, delta_table_version=version)
            # The source leaves out version 0; the digest never does.
            datasets[table] = MetaDataset(source, name=table, digest=dataset_digest(version))  # type: ignore[abstract]
            mlflow.log_input(datasets[table], context=table.rsplit("/", 1)[1])
        for name, content in logged.documents.items():
            mlflow.log_dict(dict(content), name)
        with _written(logged.pictures) as folder:
            mlflow.log_artifacts(folder)
        logged_model = Model.log(
            artifact_path=None,
            name=MODEL_ARTIFACT,
            flavor=flavor,
            trees=logged.trees,
            threshold=logged.threshold,
            reference=logged.reference,
            pip_requirements=[f"{package}=={version_of(package)}" for package in PINNED],
        )
        # Of the model and of the run alike: each has a page of its own in MLflow.
        mlflow.log_metrics(dict(logged.metrics), model_id=logged_model.model_id, dataset=datasets[logged.validated_on])
        mlflow.set_tag(FILES_TAG, self.files_digest(logged_model.model_uri))

    def files_digest(self, uri: str) -> str:
        """Of all files of a logged model as they are in the store now. Runs none of them."""
        import mlflow

        self._use_store()
        with TemporaryDirectory(prefix="churn-model-") as folder:
            return files_digest(Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)))

    def problems(self, trained: TrainedModel, version: str | None = None) -> list[str]:
        """What is wrong with a version, or with a model that is none yet, tried in a process of its own.

        None of its files is run unless all are those that were logged. Of a model of which that is not known, the
        problem says how a person vouches for it.
        """
        uri = trained.uri if version is None else self.version_uri(version)
        if trained.files_digest is None:
            vouch = f"set the tag {FILES_TAG} of MLflow run {trained.run_id} to {self.files_digest(uri)}"
            unknown = "nothing records which files it was logged with, so its code is not run"
            return [f"{unknown}: train and register again; or, if you have looked at its files and trust them, {vouch}"]
        return self.probe.problems(
            uri, expected_digest=trained.evidence.model_digest, expected_files=trained.files_digest
        )

    def shared_folder(self) -> AbstractContextManager[str]:
        """A name for a folder that Spark and this process share, which is gone afterwards."""
        from churn_assets.serving.pipelines import shared_folder

        return shared_folder(self.dfs_tmpdir)

    def version_uri(self, number: str) -> str:
        """Where the model of a version is loaded from."""
        return f"models:/{self.registered_model}/{number}"

    def load_model(self, uri: str) -> BoostedTrees:
        """The trees in the Spark pipeline of a logged model. Needs no JVM."""
        import mlflow

        from churn_assets.serving.pipelines import PIPELINE, load_pipeline

        self._use_store()
        with TemporaryDirectory(prefix="churn-model-") as folder:
            local = mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{PIPELINE}", dst_path=folder)
            return load_pipeline(Path(local))

    def load_scorer(self, version: "ModelVersion") -> "Scorer":
        """The scorer of exactly this version, wherever an alias points meanwhile. Raises ChangedModelError."""
        from churn_assets.serving.spark import load_scorer

        self._use_store()
        return load_scorer(f"models:/{self.registered_model}/{version.version}")

    def exported_trees(self, number: str) -> str:
        """The trees of a version, as `trees.exported_trees` wrote them. Needs no JVM.

        Raises ChangedModelError if they are not those that were trained, and UnknownVersionError.
        """
        import mlflow

        version = self.version(number)
        if version is None:
            raise UnknownVersionError(
                f"There is no version {number} of {self.registered_model}.",
                next_step="score these weeks again, with the version that is in production now",
            )
        self._use_store()
        text: str = mlflow.artifacts.load_text(f"models:/{self.registered_model}/{number}/{TREES_FILE}")
        if hashlib.sha256(text.encode()).hexdigest() != self.trained_model_of(version).evidence.model_digest:
            raise ChangedModelError(
                f"The exported trees of version {number} are not those of the model that was trained.",
                next_step="roll back to a version that is whole, and score these weeks again",
            )
        return text

    def document(self, run_id: str, name: str) -> dict[str, Any]:
        """A document that `log_training` left in the run."""
        import mlflow

        self._use_store()
        content: dict[str, Any] = mlflow.artifacts.load_dict(f"runs:/{run_id}/{name}")
        return content

    def policy_of(self, run_id: str, catalogue: Catalogue = CATALOGUE) -> ChurnPolicy:
        """The policy a model was trained under, about the features of `catalogue`."""
        document = json.dumps(self.document(run_id, POLICY_FILE))
        return ChurnPolicy.model_validate_json(document, context={"catalogue": catalogue})

    def trained_model(self, run_id: str) -> TrainedModel:
        return TrainedModel.of(self.client.get_run(run_id))

    def trained_model_of(self, version: "ModelVersion") -> TrainedModel:
        """The model of a version. Raises PromotionRefusedError for a version that no training run made."""
        if not version.run_id:
            raise PromotionRefusedError(
                f"Version {version.version} of {self.registered_model} names no training run.",
                next_step="register versions by materializing registered_churn_model",
            )
        run = self._run_of(version)
        return TrainedModel.of_version(version) if run is None else TrainedModel.of(run)

    def lost_run(self, version: "ModelVersion") -> str | None:
        """What is to be said of a version whose training run was deleted in MLflow; None while the run is there."""
        run = self._run_of(version)
        if run is not None and run.info.lifecycle_stage == "active":
            return None
        return (
            f"MLflow run {version.run_id} of version {version.version} was deleted; the version goes on from its own "
            "record and files"
        )

    def _run_of(self, version: "ModelVersion") -> "Run | None":
        """The run that trained the version; None once MLflow holds it no more."""
        return self._run(str(version.run_id))

    def _run(self, run_id: str) -> "Run | None":
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as missing:
            if missing.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def log_evaluation(
        self,
        run_id: str,
        metrics: Mapping[str, float | None],
        tags: Mapping[str, str],
        *,
        judged_on: tuple[str, int],
        description: str,
        pictures: Mapping[str, Picture],
        texts: Mapping[str, str],
    ) -> None:
        """Adds figures, pictures and texts to a run that has ended; an undefined figure is not logged.

        The figures are those of the logged model too, which has a page of its own in MLflow, with the table and version
        that it was judged on and the `description` (Markdown).
        """
        from mlflow.entities import Metric, RunTag

        now, model_id = int(time.time() * 1000), self._model_id(run_id)
        table, version = judged_on
        logged = [
            Metric(name, value, now, 0, model_id, table, dataset_digest(version), run_id)
            for name, value in metrics.items()
            if value is not None
        ]
        self.client.log_batch(run_id, metrics=logged, tags=[RunTag(*tag) for tag in in_parts(tags).items()])
        if model_id is not None:
            self.client.set_logged_model_tags(model_id, {NOTE_TAG: description})
        with _written(pictures) as folder:
            self.client.log_artifacts(run_id, folder)
        for name, text in texts.items():
            self.client.log_text(run_id, text, name)

    def _model_id(self, run_id: str) -> str | None:
        """MLflow's id of the model that a run logged; None where it logged none, as before MLflow 3."""
        outputs = self.client.get_run(run_id).outputs
        return next((str(model.model_id) for model in outputs.model_outputs), None) if outputs else None

    def versions_by_run(self) -> dict[str, str]:
        """The number of each registered version by its run."""
        return {run_id: number for number, run_id in self._numbers()}

    def versions(self) -> "Iterator[ModelVersion]":
        """Every registered version, with its tags."""
        # Each by itself: of what Unity Catalog finds in a search it tells no tags.
        yield from (version for number, _ in self._numbers() if (version := self.version(number)) is not None)

    def _numbers(self) -> Iterator[tuple[str, str]]:
        """The number and the run of each registered version, page by page."""
        token: str | None = None
        while token != "":
            # By the name alone: Unity Catalog takes one condition.
            page = self.client.search_model_versions(f"name='{self.registered_model}'", page_token=token)
            yield from ((str(version.version), str(version.run_id)) for version in page)
            token = page.token or ""

    def data_versions(self) -> Iterator[dict[str, int]]:
        """The version of each table that a registered version was trained on, by its tags; all versions in turn."""
        yield from (json.loads(version.tags.get("data_versions", "{}")) for version in self.versions())

    def register(
        self, trained: TrainedModel, tags: Mapping[str, str], dagster_run_id: str, judged: str
    ) -> "ModelVersion":
        """The version of this training run, made if there is none yet, under alias `staging`; judged: how, in words."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.registered_model)
        except MlflowException as exists:
            if exists.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.version(self.versions_by_run().get(trained.run_id))
        version = version or self._new_version(trained, {**tags, "dagster_run_id": dagster_run_id})
        origin = f"Registered by [Dagster run {dagster_run_id}]({self.dagster_address(dagster_run_id)})"
        card = f"Its model card is the artifact model_card.html of MLflow run {trained.run_id}"
        description = f"{judged}. {origin}. {card}."
        self.client.update_model_version(self.registered_model, str(version.version), description)
        self.client.set_registered_model_alias(self.registered_model, STAGING, version.version)
        return version

    def _new_version(self, trained: TrainedModel, tags: Mapping[str, str]) -> "ModelVersion":
        import mlflow

        self._use_store()
        model_id = self._model_id(trained.run_id)
        uri = trained.uri if model_id is None else f"models:/{model_id}"
        return mlflow.register_model(uri, self.registered_model, tags=dict(tags))

    def version(self, number: str | None) -> "ModelVersion | None":
        """The version of that number; None if there is none."""
        from mlflow.exceptions import MlflowException

        if number is None:
            return None
        try:
            return self.client.get_model_version(self.registered_model, number)
        except MlflowException as missing:
            if missing.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def digest_of(self, version: "ModelVersion") -> str | None:
        """The digest of the model of a version, by its own tags or its run's; None if neither says."""
        from mlflow.exceptions import MlflowException

        if DIGEST_TAG in version.tags or not version.run_id:
            return version.tags.get(DIGEST_TAG)
        try:
            digest: str | None = self.client.get_run(version.run_id).data.tags.get(DIGEST_TAG)
        except MlflowException as missing:
            if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return digest

    def version_under(self, alias: str) -> "ModelVersion | None":
        """The version `alias` points at; None if it points nowhere."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(self.registered_model, alias)
        except MlflowException as missing:
            # An alias never set is INVALID_PARAMETER_VALUE on some stores; an absent model RESOURCE_DOES_NOT_EXIST.
            if missing.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_alias(self, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(self.registered_model, alias, version)

    def erase(self, erasure: Erasure) -> tuple[dict[str, int], list[str]]:
        """Takes customers out of the text of all artifacts: how many places, by file; and the stores not reached."""
        from mlflow.entities import ViewType
        from mlflow.utils.file_utils import local_file_uri_to_path

        places = {each.artifact_location for each in self.client.search_experiments(view_type=ViewType.ALL)}
        erased: dict[str, int] = {}
        unreached = []
        for place in sorted(places):
            if place.startswith(("mlflow-artifacts:", "dbfs:", "http:", "https:")):
                unreached.append(place)
            else:
                # As MLflow itself finds it: what follows file:// may be encoded.
                folder = local_file_uri_to_path(place) if place.startswith("file:") else place
                erased |= {f"{place}/{file}": gone for file, gone in erase(folder, erasure).items()}
        return erased, unreached

    def link(self, run_id: str, version: "ModelVersion | None" = None) -> dict[str, Any]:
        """Metadata that leads from a Dagster event to the MLflow run, and to the version if there is one."""
        run = self._run(run_id)
        # Of a run by its id alone MLflow finds the experiment, and forgets which view was asked for.
        page = f"runs/{run_id}" if run is None else f"experiments/{run.info.experiment_id}/runs/{run_id}"
        metadata: dict[str, Any] = {
            "mlflow_run_id": run_id,
            "mlflow_run": dg.MetadataValue.url(mlflow_page(self.mlflow_ui, page)),
        }
        if version is not None:
            page = f"models/{self.registered_model}/versions/{version.version}"
            metadata["mlflow_version"] = dg.MetadataValue.url(mlflow_page(self.mlflow_ui, page))
        return metadata

    def _use_store(self) -> None:
        """Points this process's MLflow at the store; a local sqlite store's folder is made first."""
        import mlflow

        make_store_folder(self._store)
        mlflow.set_tracking_uri(self._store)

    def _ensure_experiment(self) -> None:
        is_local = self.tracking_uri.startswith("sqlite:") or is_database_server(self.tracking_uri)
        if is_local and self.client.get_experiment_by_name(self.experiment) is None:
            # Without a location MLflow would put artifacts under the current folder.
            location = self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).as_uri()
            self.client.create_experiment(self.experiment, artifact_location=location)


def dataset_digest(version: int) -> str:
    """What stands for a version of a table in MLflow."""
    return f"v{version}"


def without_credentials(uri: str) -> str:
    """The address of a tracking server without user and password, which are left where MLflow looks for them itself.

    In an address they would be in what MLflow prints of each run, and in each of its errors. Other stores' stay.
    """
    if not uri.startswith(("http://", "https://")):
        return uri
    user, password = urlsplit(uri).username, urlsplit(uri).password
    for variable, value in (("MLFLOW_TRACKING_USERNAME", user), ("MLFLOW_TRACKING_PASSWORD", password)):
        if value:
            os.environ.setdefault(variable, unquote(value))
    return public(uri)


@contextmanager
def _written(pictures: Mapping[str, Picture]) -> Iterator[str]:
    """A folder with the pictures as files, for MLflow to copy."""
    with TemporaryDirectory() as folder:
        for name, picture in pictures.items():
            Path(folder, name).write_bytes(picture.content)
        yield folder

"""MLflow: where runs, models and versions are recorded. Opens nothing until asked; decides nothing about models."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_mlflow import mlflow_tracking

from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.promotion import Evidence, PromotionRefusedError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from pyspark.ml import PipelineModel

EXPERIMENT = "/Shared/QuickBite_Churn_Prediction"
RUN_NAME = "GBT_Crisis_Aware_Pipeline"
MODEL_ARTIFACT = "churn_pipeline_model"
REGISTERED_MODEL = "quickbite_churn_predictor"
STAGING, PRODUCTION = "staging", "production"
# Given explicitly: left to itself MLflow starts another JVM to find them out (33 s against 2 s, 2026-11).
PINNED = ("pyspark", "mlflow", "numpy", "pandas")


@dataclass(frozen=True)
class TrainedModel:
    """A logged model as its MLflow run records it; threshold is None where no cut-off satisfied the policy."""

    run_id: str
    features: Sequence[str]
    threshold: float | None
    settings: GradientBoosting
    evidence: Evidence

    @property
    def uri(self) -> str:
        return f"runs:/{self.run_id}/{MODEL_ARTIFACT}"

    def evidence_under(self, policy_digest: str, champion: str | None) -> Evidence:
        """What a decision made now rests on: this model and its data, the policy and the champion of now."""
        return replace(self.evidence, policy_digest=policy_digest, champion=champion)

    def tags(self) -> dict[str, str]:
        return {
            "model_digest": self.evidence.model_digest,
            "policy_digest": self.evidence.policy_digest,
            "data_versions": json.dumps(dict(self.evidence.data_versions), sort_keys=True),
            "features": json.dumps(list(self.features)),
            "threshold": json.dumps(self.threshold),
        }

    @staticmethod
    def of(run: "Run") -> "TrainedModel":
        tags, params = run.data.tags, run.data.params
        evidence = Evidence(tags["model_digest"], tags["policy_digest"], json.loads(tags["data_versions"]))
        # Params are text; the defaults know the types.
        knobs = {name: type(default)(params[name]) for name, default in asdict(GradientBoosting()).items()}
        return TrainedModel(
            run.info.run_id,
            json.loads(tags["features"]),
            json.loads(tags["threshold"]),
            GradientBoosting(**knobs),
            evidence,
        )


class TrackingResource(dg.ConfigurableResource):
    """The MLflow store at `tracking_uri`; `artifact_root` is for an experiment made in a store without a server."""

    tracking_uri: str
    artifact_root: str

    @cached_property
    def client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        self._use_store()
        return MlflowClient(tracking_uri=self.tracking_uri)

    @contextmanager
    def training_run(self, context: dg.AssetExecutionContext) -> Iterator[str]:
        """Opens the MLflow run of this Dagster run, yields its id, and ends it with the true status."""
        import mlflow

        self._use_store()
        self._ensure_experiment()
        config = {
            "experiment_name": EXPERIMENT,
            "mlflow_tracking_uri": self.tracking_uri,
            "env": {},
            "extra_tags": {"mlflow.runName": RUN_NAME, "dagster_job": context.run.job_name},
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

    def log_training(
        self, trained: TrainedModel, model: "PipelineModel", example: "pd.DataFrame", params: Mapping[str, Any]
    ) -> None:
        """Logs parameters, provenance and the pipeline (signature, example, pinned requirements) to the open run."""
        from importlib.metadata import version

        import mlflow.spark
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        mlflow.log_params(dict(params))
        mlflow.set_tags(trained.tags())
        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.double, name) for name in trained.features]),
            outputs=Schema([ColSpec(DataType.double, "prediction")]),
        )
        mlflow.spark.log_model(
            model,
            artifact_path=MODEL_ARTIFACT,
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={version(package)}" for package in PINNED],
        )

    def load_model(self, uri: str) -> "PipelineModel":
        import mlflow.spark

        self._use_store()
        return mlflow.spark.load_model(uri)

    def trained_model(self, run_id: str) -> TrainedModel:
        return TrainedModel.of(self.client.get_run(run_id))

    def trained_model_of(self, version: "ModelVersion") -> TrainedModel:
        """The model of a version. Raises PromotionRefusedError for a version that no training run made."""
        if not version.run_id:
            raise PromotionRefusedError(
                f"Version {version.version} of {REGISTERED_MODEL} names no training run.",
                next_step="register versions by materializing registered_churn_model",
            )
        return self.trained_model(version.run_id)

    def log_evaluation(
        self, run_id: str, metrics: Mapping[str, float | None], tags: Mapping[str, str], figure: "Figure | None" = None
    ) -> None:
        """Adds figures and a picture to a run that has ended; an undefined figure is not logged."""
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        logged = [Metric(name, value, now, 0) for name, value in metrics.items() if value is not None]
        self.client.log_batch(run_id, metrics=logged, tags=[RunTag(name, text) for name, text in tags.items()])
        if figure is not None:
            self.client.log_figure(run_id, figure, "precision_recall.png")

    def register(self, trained: TrainedModel, tags: Mapping[str, str]) -> "ModelVersion":
        """The version of this training run, made if there is none yet, under alias `staging`."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(REGISTERED_MODEL)
        except MlflowException as exists:
            if exists.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self.client.search_model_versions(f"name='{REGISTERED_MODEL}' and run_id='{trained.run_id}'")
        version = versions[0] if versions else self._new_version(trained, tags)
        self.client.set_registered_model_alias(REGISTERED_MODEL, STAGING, version.version)
        return version

    def _new_version(self, trained: TrainedModel, tags: Mapping[str, str]) -> "ModelVersion":
        import mlflow

        self._use_store()
        return mlflow.register_model(trained.uri, REGISTERED_MODEL, tags=dict(tags))

    def version_under(self, alias: str) -> "ModelVersion | None":
        """The version `alias` points at; None if it points nowhere."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(REGISTERED_MODEL, alias)
        except MlflowException as missing:
            # An alias never set is INVALID_PARAMETER_VALUE on some stores; an absent model RESOURCE_DOES_NOT_EXIST.
            if missing.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def promote(self, version: "ModelVersion") -> None:
        self.client.set_registered_model_alias(REGISTERED_MODEL, PRODUCTION, version.version)

    def _use_store(self) -> None:
        """Points this process's MLflow at the store; a local sqlite store's folder is made first."""
        import mlflow

        prefix = "sqlite:///"
        if self.tracking_uri.startswith(prefix):
            Path(self.tracking_uri.removeprefix(prefix)).parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(self.tracking_uri)

    def _ensure_experiment(self) -> None:
        is_local = self.tracking_uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))
        if is_local and self.client.get_experiment_by_name(EXPERIMENT) is None:
            # Without a location MLflow would put artifacts under the current folder.
            location = self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).as_uri()
            self.client.create_experiment(EXPERIMENT, artifact_location=location)


def link(tracking_uri: str, run_id: str) -> dict[str, Any]:
    """Metadata that leads from a Dagster event to its MLflow run."""
    metadata: dict[str, Any] = {"mlflow_run_id": run_id}
    if tracking_uri.startswith("http"):
        metadata["mlflow_run"] = dg.MetadataValue.url(f"{tracking_uri.rstrip('/')}/#/runs/{run_id}")
    return metadata

"""Scoring Spark rows with a served version: `load_scorer(uri).score(rows)`. Training and evaluation do without this."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.artifacts
from mlflow.models import Model
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from churn_assets.churn.errors import ChangedModelError, ChurnError
from churn_assets.churn.models import with_alerts
from churn_assets.churn.trees import BoostedTrees, model_digest
from churn_assets.serving.files import files_digest, recorded_digest
from churn_assets.serving.pipelines import PIPELINE, load_pipeline

# What scoring adds.
RESERVED = ("churn_probability", "is_alert")


class UnscorableRowsError(ChurnError):
    """Rows lack a feature of the model, hold it in a type that is not a number, or use a name that scoring needs."""


@dataclass(frozen=True)
class Scorer:
    """A version's trees with the version's own threshold; None alerts nobody."""

    trees: BoostedTrees
    threshold: float | None

    @property
    def features(self) -> list[str]:
        return list(self.trees.features)

    def score(self, rows: DataFrame) -> DataFrame:
        """`rows`, with all their columns, and `churn_probability` (double) and `is_alert` (boolean).

        Features may be of any numeric type. Raises UnscorableRowsError listing every column at fault; a null or NaN
        fails the query that reads the scores, with a message that names the feature.
        """
        problems = [*self._missing(rows), *self._not_numbers(rows), *_reserved(rows)]
        if problems:
            raise UnscorableRowsError(
                "These rows cannot be scored.", problems, next_step="select, cast or rename these columns"
            )
        return with_alerts(self.trees, rows, self.threshold)

    def _missing(self, rows: DataFrame) -> Iterator[str]:
        times = Counter(rows.columns)
        for name in self.features:
            if times[name] == 0:
                yield f"{name}: missing"
            elif times[name] > 1:
                yield f"{name}: {times[name]} columns have this name"

    def _not_numbers(self, rows: DataFrame) -> Iterator[str]:
        for column in rows.schema:
            if column.name in self.features and not isinstance(column.dataType, T.NumericType):
                yield f"{column.name}: {column.dataType.simpleString()}, not a number"


def load_scorer(uri: str) -> Scorer:
    """The scorer of a logged model, such as models:/NAME@ALIAS. No code of the model is run.

    Raises ChangedModelError if any file is not the one that was logged, as far as MLflow's database records them (of a
    folder, or a model logged by version 0.2.0 or before, it does not), or pipeline or threshold are not.
    """
    with TemporaryDirectory(prefix="churn-model-") as folder:
        local = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        recorded = recorded_digest(uri)
        if recorded not in (None, files_digest(Path(local))):
            raise ChangedModelError(
                f"The files of {uri} are not those that were logged.",
                next_step="roll back to a version that loads, or train and register again",
            )
        logged = Model.load(str(Path(local, "MLmodel"))).metadata or {}
        if "model_digest" not in logged:
            raise ChangedModelError(
                f"{uri} records no model_digest, so nothing shows that it is the model that was trained.",
                next_step="train and register it again",
            )
        trees = load_pipeline(Path(local, PIPELINE))
    threshold = logged.get("threshold")
    if model_digest(trees, threshold) != logged["model_digest"]:
        raise ChangedModelError(
            f"The pipeline or the threshold of {uri} is not the one that was logged.",
            next_step="roll back to a version that loads, or train and register again",
        )
    return Scorer(trees, threshold)


def _reserved(rows: DataFrame) -> Iterator[str]:
    for name in rows.columns:
        if name in RESERVED:
            yield f"{name}: a name that scoring needs for itself"

"""A small churn model, logged and registered under an alias as the flow does it, in a store of its own."""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model
from mlflow.models.model import ModelInfo
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.models import GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.trees import BoostedTrees
from churn_assets.serving import flavor

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating", "crisis_exposure_index")
NAME = "churn"
URI = f"models:/{NAME}@production"


@dataclass(frozen=True)
class Served:
    """A registered version in a store under `folder`, with rows at every split and their scores in Spark rows."""

    folder: Path
    trees: BoostedTrees
    threshold: float
    scored: pd.DataFrame
    info: ModelInfo

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def rows(self) -> pd.DataFrame:
        return self.scored[list(FEATURES)]

    @property
    def artifacts(self) -> Path:
        return Path(self.folder, "models", self.info.model_id, "artifacts")

    def copied_to(self, folder: Path) -> "Served":
        """The same store and artifacts in another folder, to be tampered with."""
        shutil.copytree(self.folder, folder)
        with sqlite3.connect(folder / "mlflow.db") as store:
            for table, column in (
                ("logged_models", "artifact_location"),
                ("model_versions", "source"),
                ("model_versions", "storage_location"),
            ):
                store.execute(
                    f"UPDATE {table} SET {column} = REPLACE({column}, ?, ?)",
                    (str(self.folder), str(folder)),
                )
        store.close()
        return replace(self, folder=folder)


def logged(trees: BoostedTrees, threshold: float | None, reference: pd.DataFrame) -> ModelInfo:
    """The model as a training run logs it."""
    with mlflow.start_run():
        return Model.log(
            artifact_path=None,
            name="churn_pipeline_model",
            flavor=flavor,
            trees=trees,
            threshold=threshold,
            reference=reference,
            pip_requirements=["mlflow", "pyspark"],
        )


def rows_at_every_split(model: BoostedTrees) -> pd.DataFrame:
    """Rows whose values are the splits, their neighbours, ordinary ones and the most extreme ones."""
    rng = np.random.default_rng(3)
    columns = {}
    for number, name in enumerate(FEATURES):
        splits = [split for tree in model.trees for split in tree.split[tree.feature == number].tolist()]
        near = [np.nextafter(split, to) for split in splits for to in (-np.inf, np.inf)]
        extreme = [0.0, -0.0, 5e-324, 1e300, -1e300, np.inf, -np.inf]
        columns[name] = rng.permutation(np.resize(rng.permutation([*splits, *near, *extreme]), 600))
    ordinary: dict[str, NDArray[np.floating]] = {
        "recency_days": rng.uniform(0, 30, 400),
        "gap_ratio": rng.exponential(2, 400),
    }
    ordinary |= {
        "avg_star_rating": rng.integers(1, 6, 400) * 1.0,
        "crisis_exposure_index": rng.integers(0, 2, 400) * 1.0,
    }
    return pd.concat([pd.DataFrame(ordinary), pd.DataFrame(columns)], ignore_index=True)


@pytest.fixture(scope="session")
def churn_trees(spark: SparkSession) -> BoostedTrees:
    rng = random.Random(5)
    rows = []
    for number in range(400):
        recency, gap, rating, crisis = (
            rng.uniform(0, 30),
            rng.expovariate(0.5),
            float(rng.randint(1, 5)),
            rng.random() < 0.2,
        )
        label = float(rng.random() < 0.1 + recency / 60 + (rating < 2) * 0.3)
        rows.append((f"c-{number}", recency, gap, rating, float(crisis), label))
    schema = f"customer_id string, {', '.join(f'{name} double' for name in FEATURES)}, label double"
    train = spark.createDataFrame(rows, schema).withColumns({"fold": F.lit(50), "as_of": F.lit(1)})
    return fit_churn_model(train, FEATURES, GradientBoosting(max_depth=4, iterations=12), rows=400)


@pytest.fixture(scope="session")
def served(spark: SparkSession, churn_trees: BoostedTrees, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A version under the alias production. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("served")
    rows = rows_at_every_split(churn_trees)
    scored = with_churn_probability(churn_trees, spark.createDataFrame(rows)).toPandas()
    # A threshold is a score, so rows lie exactly on it; some in the reference too.
    threshold = float(scored["churn_probability"].sort_values().iloc[700])
    on_it = scored[scored["churn_probability"] == threshold]
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("training", artifact_location=str(folder)))
    info = logged(churn_trees, threshold, pd.concat([scored.head(40), on_it.head(2)]))
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    version = client.create_model_version(NAME, info.model_uri, run_id=info.run_id)
    client.set_registered_model_alias(NAME, "production", version.version)
    return Served(folder, churn_trees, threshold, scored, info)


@pytest.fixture(autouse=True)
def _store(served: Served) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(served.tracking_uri)
    yield
    mlflow.set_tracking_uri(before)

"""A program of `serving/test_spark_ml`, the one with a JVM: what Spark ML makes of a served version, and learns itself.

Reads `rows.parquet` in the folder it is given, and leaves there `found.json`, `scored.parquet` and Spark's own save of
the served version, `saved`.
"""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow.spark
import numpy as np
import pandas as pd
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.ml import PipelineModel
from pyspark.ml.classification import GBTClassificationModel
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn import models
from churn_assets.churn.errors import UntrainableError
from churn_assets.churn.models import GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.purchase_model import PurchaseModel
from churn_assets.churn.purchase_prior import ASKED_FEATURES, PurchasePrior, ScaledPrior
from churn_assets.churn.trees import BoostedTrees, exported_trees, model_digest
from churn_assets.churn.xgboost_trees import boosted, trees_of
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets.serving.pipelines import load_pipeline, save_pipeline, shared_folder

FEATURES = ("recency_days", "gap_ratio", "avg_star_rating")
SCHEMA = f"customer_id string, as_of date, {', '.join(f'{name} double' for name in FEATURES)}, label double"
SMALL = GradientBoosting(max_depth=3, iterations=5, estimator="gbt")
WAITING = PurchasePrior(PurchaseModel(r=2.0, alpha=25.0, a=0.5, b=6.0, waiting=0.5), days=30)
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"max_depth": 2},
    {"iterations": 4},
    {"step_size": 0.2},
    {"min_leaf_share": 0.2},
    {"feature_share": 1.0},
    {"estimator": "xgboost"},
)


def panel_rows() -> list[tuple[Any, ...]]:
    rng = random.Random(5)
    rows: list[tuple[Any, ...]] = []
    for number in range(300):
        for week in (0, 1, 6):
            recency, gap, rating = rng.uniform(0, 30), rng.expovariate(0.5), rng.uniform(1, 5)
            label = float(rng.random() < 0.1 + recency / 60 + (rating < 2) * 0.3)
            rows.append((f"c-{number}", date(2024, 3, 4) + timedelta(weeks=week), recency, gap, rating, label))
    return rows


def served(spark: SparkSession, folder: Path, uri: str) -> dict[str, Any]:
    """What Spark loads of the version at `uri`: a pipeline of Spark's own."""
    pipeline = mlflow.spark.load_model(uri)
    assembler, trees = pipeline.stages
    rows = spark.read.parquet(str(folder / "rows.parquet"))
    probability = vector_to_array(F.col("probability")).getItem(1)
    scored = pipeline.transform(rows).select("row", probability.alias("churn_probability"))
    scored.toPandas().to_parquet(folder / "scored.parquet")
    pipeline.save(str(folder / "saved"))
    unknown = rows.withColumn(assembler.getInputCols()[0], F.lit(None).cast("double"))
    try:
        pipeline.transform(unknown).collect()
        refused = ""
    except (PySparkException, Py4JJavaError) as refusal:
        refused = str(refusal)
    return {
        "stages": [type(stage).__name__ for stage in pipeline.stages],
        "features": assembler.getInputCols(),
        "trees": trees.getNumTrees,
        "importances": trees.featureImportances.toArray().tolist(),
        "refused": refused,
    }


@dataclass(frozen=True)
class Learner:
    """Fits on one panel by Spark, with folders of its own for what Spark leaves."""

    folder: Path

    def fit(self, train: DataFrame, features: tuple[str, ...] = FEATURES, **changed: Any) -> BoostedTrees:
        weights = changed.pop("class_weights", "none")
        return fit_churn_model(
            train,
            features,
            replace(SMALL, **changed),
            rows=train.count(),
            class_weights=weights,
            shared_folder=lambda: shared_folder(str(self.folder)),
        )


def learned(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """What Spark's own estimator learns, and what Spark says of it."""
    learner = Learner(folder / "passing")
    rows = panel_rows()
    train = spark.createDataFrame(rows, SCHEMA).withColumn("fold", F.lit(50)).persist()
    with recorded_partitions() as partitions:
        model = learner.fit(train)
    mixed = spark.createDataFrame(random.Random(1).sample(rows, len(rows)), SCHEMA).withColumn("fold", F.lit(50))
    balanced = learner.fit(train, class_weights="balanced")
    of_label = [train.where(F.col("label") == label).orderBy("customer_id", "as_of").limit(200) for label in (0.0, 1.0)]
    even = of_label[0].unionByName(of_label[1])
    constant = train.withColumns(dict.fromkeys(FEATURES, F.lit(1.0)))
    left = list(learner.folder.iterdir())
    return {
        "digests": [digest(learner.fit(train, **change)) for change in CHANGES],
        "again": digest(learner.fit(train)),
        "mixed": digest(learner.fit(mixed.repartition(5, "gap_ratio"))),
        "other_features": digest(learner.fit(train, FEATURES[::-1])),
        "partitions": partitions,
        "rate": mean(train, "label"),
        "means": [mean(with_churn_probability(each, train), "churn_probability") for each in (model, balanced)],
        "even": [digest(learner.fit(even, class_weights=by)) for by in ("none", "balanced")],
        "leaves": [tree.feature.tolist() for tree in learner.fit(constant, iterations=2).trees],
        "one_class": [refusal_of_one_class(learner, train, label) for label in (0.0, 1.0)],
        "left": [each.name for each in left],
        "kept": kept(train, folder),
    }


def by_a_task(spark: SparkSession) -> list[str]:
    """Trees of rows that begin with what waiting adds: by a task of Spark, in this process, and of rows that do not."""
    rng, known = np.random.default_rng(1), ScaledPrior(WAITING, intercept=-0.5, slope=0.8, unseen=0.9)
    rows = pd.DataFrame({name: rng.integers(1, 40, 600).astype(float) for name in (*ASKED_FEATURES, "gap_ratio")})
    rows = rows.assign(customer_id=[f"c-{number:03}" for number in range(600)], as_of=date(2025, 10, 13))
    rows = rows.assign(
        tenure_days=90.0, label=(rng.random(600) < rows["delay_minutes_at_last_order"] / 80).astype(float)
    )
    taught = ("recency_days", "gap_ratio")
    frame, hyperparameters = spark.createDataFrame(rows), GradientBoosting(max_depth=3, iterations=5)
    there = [models._fitted_by_tasks(frame, taught, hyperparameters, False, each) for each in (known, None)]
    params = models.xgboost_params(hyperparameters, len(rows), rows["label"].mean())
    values, labels = rows[[*taught]].to_numpy(np.float32), rows["label"].to_numpy(np.float32)
    offsets = known.offsets(rows[[*ASKED_FEATURES]].to_numpy(float))
    here = trees_of(boosted(values, labels, None, offsets=offsets, **params), taught)
    return [exported_trees(each, None) for each in (there[0], here, there[1])]


@contextmanager
def recorded_partitions() -> Iterator[list[int]]:
    """How many partitions each fit is given, where more than a hundred rows want more than one."""
    given: list[int] = []
    in_canonical_order = models.in_canonical_order

    def recorded(panel: DataFrame, rows: int, workers: int) -> DataFrame:
        ordered = in_canonical_order(panel, rows, workers)
        given.append(ordered.rdd.getNumPartitions())
        return ordered

    with (
        mock.patch.object(models, "ROWS_PER_PARTITION", 100),
        mock.patch.object(models, "in_canonical_order", recorded),
    ):
        yield given


def kept(train: DataFrame, folder: Path) -> dict[str, Any]:
    """Spark's own model beside the plain trees that were read of it."""
    place = str(folder / "kept")
    model = fit_churn_model(train, FEATURES, SMALL, rows=900, shared_folder=lambda: nullcontext(place))
    by_spark = GBTClassificationModel.load(place)
    assembler = VectorAssembler(inputCols=list(FEATURES), outputCol="features", handleInvalid="error")
    rows = assembler.transform(train.select(*FEATURES))
    scored = by_spark.transform(rows).select(*FEATURES, vector_to_array(F.col("probability")).getItem(1)).collect()
    ours = model.probabilities(np.array([row[:3] for row in scored]))
    save_pipeline(model, folder / "of_gbt")
    PipelineModel([assembler, by_spark]).save(str(folder / "of_spark"))
    return {
        "farthest": float(np.abs(ours - [row[3] for row in scored]).max()),
        "scores": len(set(ours.tolist())),
        "importances": [list(model.importances().values()), by_spark.featureImportances.toArray().tolist()],
        "texts": [
            exported_trees(each, 0.5)
            for each in (model, load_pipeline(folder / "of_gbt"), load_pipeline(folder / "of_spark"))
        ],
    }


def refusal_of_one_class(learner: Learner, train: DataFrame, label: float) -> str:
    # The other class is only where the threshold is chosen.
    is_validation = F.when(F.col("label") == label, 50).otherwise(20)
    try:
        learner.fit(train.withColumn("fold", is_validation))
    except UntrainableError as refused:
        return str(refused)
    return ""


def digest(model: BoostedTrees) -> str:
    return model_digest(model, 0.5)


def mean(rows: DataFrame, column: str) -> float:
    return float(rows.agg(F.avg(column)).collect()[0][0])


def canonical_partitions(spark: SparkSession) -> list[int]:
    panel = spark.range(1000).selectExpr("cast(id as string) as customer_id", "current_date() as as_of", "0.0 as label")
    with mock.patch.object(models, "ROWS_PER_PARTITION", 100):
        ordered = [models.in_canonical_order(panel.repartition(7), rows) for rows in (1, 100, 101, 10_000_000)]
    return [each.select(F.spark_partition_id()).distinct().count() for each in ordered]


def main(folder: Path, uri: str) -> None:
    settings = settings_from_env({"CHURN_ENGINE": "local", "SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "1g"})
    spark = spark_resource(settings).spark_session
    found = {
        "spark": spark.version,
        "served": served(spark, folder, uri),
        "learned": learned(spark, folder),
        "canonical_partitions": canonical_partitions(spark),
        "by_a_task": by_a_task(spark),
    }
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

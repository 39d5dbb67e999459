"""The notebook's training steps as a plain script: the other side of the comparison with the job `churn_training`.

Its seven features from the same feature table, random split, GBT of depth 5, recall, two log_model calls (the second
with signature and input example) and a registration. Nothing is judged, so it does less than the job. Its session is
Spark's own, with the job's memory: what this project sets for short local work is part of what is compared.
"""

import argparse

import mlflow
import mlflow.spark
from dagster_pyspark import LazyPySparkResource
from mlflow.models.signature import infer_signature
from pyspark.ml import Pipeline
from pyspark.ml.classification import GBTClassifier
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler

from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.engines.choice import LOCAL
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env

FEATURES = list(FEATURE_SETS["seed"])


def main(table: str) -> None:
    settings = settings_from_env()
    session = LazyPySparkResource(
        spark_config={"spark.master": settings.spark_master or LOCAL, "spark.driver.memory": settings.driver_memory}
    )
    lakehouse = LakehouseResource(root=settings.lakehouse, pyspark=session)
    labelled = lakehouse.read(table).where("label is not null")
    train, test = labelled.randomSplit([0.8, 0.2], seed=42)
    trees = GBTClassifier(labelCol="label", featuresCol="features", maxDepth=5)
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=FEATURES, outputCol="features"), trees])
    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_experiment("/Shared/QuickBite_Churn_Prediction")
    with mlflow.start_run(run_name="GBT_Crisis_Aware_Pipeline"):
        model = pipeline.fit(train)
        evaluator = MulticlassClassificationEvaluator(labelCol="label", metricName="recallByLabel")
        recall = evaluator.evaluate(model.transform(test), {evaluator.metricLabel: 1.0})
        mlflow.log_metric("recall_churn", recall)
        mlflow.log_param("feature_set", "baseline + crisis + rfm")
        mlflow.spark.log_model(model, artifact_path="churn_pipeline_model")
        sample = train.select(FEATURES).limit(5)
        example = sample.toPandas()
        signature = infer_signature(example, model.transform(sample).select("prediction").toPandas())
        logged = mlflow.spark.log_model(
            model, artifact_path="churn_pipeline_model", signature=signature, input_example=example
        )
    version = mlflow.register_model(logged.model_uri, "notebook_churn_predictor")
    print(f"recall_churn {recall:.4f}, version {version.version}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    main(parser.parse_args().table)

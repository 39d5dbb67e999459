"""One logged model with two flavors: what Spark and what plain Python load of it is the same model."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyspark
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.errors import ChangedModelError
from churn_assets.churn.trees import model_digest
from churn_assets.serving.pipelines import save_pipeline
from churn_assets.serving.spark import RESERVED, UnscorableRowsError, load_scorer
from churn_assets_tests.conftest import ENGINE
from churn_assets_tests.panels import rows_of
from churn_assets_tests.serving.conftest import FEATURES, URI, Served, logged


def in_a_fresh_process(script: str, *arguments: str, tracking_uri: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_run_and_one_logged_model_with_both_flavors_and_nothing_astray(served: Served) -> None:
    assert {experiment.name for experiment in mlflow.search_experiments()} == {"Default", "training"}
    (run,) = mlflow.MlflowClient().search_runs([served_experiment()])
    assert run.info.run_id == served.info.run_id
    (found,) = mlflow.search_logged_models([served_experiment()], output_format="list")
    assert (found.name, found.source_run_id) == ("churn_pipeline_model", run.info.run_id)
    assert set(served.info.flavors) == {"python_function", "spark"}


def served_experiment() -> str:
    experiment = mlflow.get_experiment_by_name("training")
    assert experiment is not None
    return experiment.experiment_id


def test_the_record_says_digest_threshold_inputs_and_outputs(served: Served) -> None:
    info = mlflow.models.get_model_info(URI)
    assert info.metadata == {
        "model_digest": model_digest(served.trees, served.threshold),
        "threshold": served.threshold,
    }
    signature = info.signature.to_dict()
    assert json.loads(signature["inputs"]) == [{"type": "double", "name": name, "required": True} for name in FEATURES]
    assert json.loads(signature["outputs"]) == [
        {"type": "double", "name": "churn_probability", "required": True},
        {"type": "boolean", "name": "is_alert", "required": True},
    ]


@pytest.mark.parametrize("by", ["runs", "alias"])
def test_the_trees_that_were_logged_are_loaded_by_run_and_by_alias(served: Served, by: str) -> None:
    uri = URI if by == "alias" else f"runs:/{served.info.run_id}/churn_pipeline_model"
    loaded = load_scorer(uri)
    assert loaded.threshold == served.threshold
    assert loaded.features == list(FEATURES)
    assert model_digest(loaded.trees, served.threshold) == model_digest(served.trees, served.threshold)
    assert loaded.trees.importances() == served.trees.importances()


def test_mlflow_is_told_where_spark_finds_the_pipeline_and_of_what_class_it_is(served: Served) -> None:
    described = served.info.flavors["spark"]
    assert described == {
        "pyspark_version": pyspark.__version__,
        "model_data": "sparkml",
        "code": None,
        "model_class": "pyspark.ml.pipeline.PipelineModel",
    }
    assert (served.artifacts / described["model_data"] / "metadata").is_dir()


def test_a_fresh_process_without_pyspark_and_without_this_package_scores_by_alias(
    served: Served, tmp_path: Path
) -> None:
    served.rows.to_parquet(tmp_path / "rows.parquet")
    script = """
import sys
for name in ("pyspark", "py4j", "churn_assets"):
    sys.modules[name] = None
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(pandas.read_parquet("rows.parquet")).to_parquet("scored.parquet")
"""
    in_a_fresh_process(script, URI, tracking_uri=served.tracking_uri, cwd=tmp_path)
    scored = pd.read_parquet(tmp_path / "scored.parquet")
    np.testing.assert_allclose(scored["churn_probability"], served.scored["churn_probability"], rtol=0, atol=1e-9)
    assert (scored["is_alert"] == (served.scored["churn_probability"] >= served.threshold)).all()


def test_a_fresh_process_that_scores_spark_rows_gives_the_same_by_alias(served: Served, tmp_path: Path) -> None:
    served.rows.assign(customer_id=range(len(served.rows))).to_parquet(tmp_path / "rows.parquet")
    script = """
import sys
from pathlib import Path
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets.serving.spark import load_scorer
spark = spark_resource(settings_from_env({"CHURN_ENGINE": sys.argv[2], "SPARK_DRIVER_MEMORY": "1g"})).spark_session
scored = load_scorer(sys.argv[1]).score(spark.read.parquet(str(Path("rows.parquet").absolute())))
scored.orderBy("customer_id").toPandas().to_parquet("scored.parquet")
"""
    in_a_fresh_process(script, URI, ENGINE["CHURN_ENGINE"], tracking_uri=served.tracking_uri, cwd=tmp_path)
    scored = pd.read_parquet(tmp_path / "scored.parquet")
    assert (scored["churn_probability"] == served.scored["churn_probability"]).all()
    without_a_jvm = mlflow.pyfunc.load_model(URI).predict(served.rows)
    assert (scored["is_alert"] == without_a_jvm["is_alert"]).all()


def test_a_model_without_a_threshold_alerts_nobody_in_either_flavor(spark: SparkSession, served: Served) -> None:
    info = logged(served.trees, None, served.scored.head(5))
    try:
        assert not mlflow.pyfunc.load_model(info.model_uri).predict(served.rows)["is_alert"].any()
        scored = load_scorer(info.model_uri).score(spark.createDataFrame(served.rows))
        assert scored.where("is_alert").count() == 0
    finally:
        mlflow.MlflowClient().delete_logged_model(info.model_id)
        mlflow.delete_run(info.run_id)


def test_two_versions_whose_code_differs_do_not_disturb_one_another(served: Served, tmp_path: Path) -> None:
    other = served.copied_to(tmp_path / "other")
    code = other.artifacts / "pyfunc.py"
    assert "1 - 1 / (1" in code.read_text()
    code.write_text(code.read_text().replace("1 - 1 / (1", "100 - 1 / (1"))
    rows = served.rows.head(3)
    ours = mlflow.pyfunc.load_model(str(served.artifacts))
    before = ours.predict(rows)
    theirs = mlflow.pyfunc.load_model(str(other.artifacts))
    assert (theirs.predict(rows)["churn_probability"] > 98).all()
    pd.testing.assert_frame_equal(ours.predict(rows), before)
    pd.testing.assert_frame_equal(mlflow.pyfunc.load_model(str(served.artifacts)).predict(rows), before)


# ---- scoring Spark rows


def test_scores_come_beside_the_rows_whose_columns_are_kept_as_they_are(spark: SparkSession, served: Served) -> None:
    rows = spark.createDataFrame(served.rows.head(50).assign(customer_id="c-1", note="kept"))
    rows = rows.withColumns(
        {"avg_star_rating": F.lit(4), "crisis_exposure_index": F.lit("1.0").cast(T.DecimalType(3, 1))}
    )
    scored = load_scorer(URI).score(rows)
    assert [(field.name, field.dataType) for field in scored.schema] == [
        *((field.name, field.dataType) for field in rows.schema),
        ("churn_probability", T.DoubleType()),
        ("is_alert", T.BooleanType()),
    ]
    as_doubles = rows.withColumns({name: F.col(name).cast("double") for name in FEATURES})
    expected = load_scorer(URI).score(as_doubles).select("churn_probability", "is_alert")
    assert rows_of(scored.select("churn_probability", "is_alert")) == rows_of(expected)


def test_everything_wrong_with_the_columns_is_told_at_once(spark: SparkSession, served: Served) -> None:
    rows = spark.createDataFrame(served.rows.head(1)).drop("recency_days")
    twice = rows.withColumn("avg_star_rating", F.lit("five")).join(rows.select("crisis_exposure_index"))
    spoilt = twice.withColumns(dict.fromkeys(RESERVED, F.lit(1.0)))
    with pytest.raises(UnscorableRowsError) as refused:
        load_scorer(URI).score(spoilt)
    assert sorted(refused.value.problems) == sorted(
        [
            "recency_days: missing",
            "avg_star_rating: string, not a number",
            "crisis_exposure_index: 2 columns have this name",
            *(f"{name}: a name that scoring needs for itself" for name in RESERVED),
        ]
    )


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_an_unknown_feature_fails_the_query_by_name(spark: SparkSession, served: Served, unknown: float | None) -> None:
    rows = spark.createDataFrame(served.rows.head(10))
    is_hit = F.col("gap_ratio") == F.lit(float(served.rows["gap_ratio"][3]))
    spoilt = rows.withColumn("gap_ratio", F.when(is_hit, F.lit(unknown).cast("double")).otherwise(F.col("gap_ratio")))
    scored = load_scorer(URI).score(spoilt)
    with pytest.raises(PySparkException, match="feature gap_ratio is null or NaN"):
        scored.collect()


@pytest.mark.parametrize("what", ["threshold", "pipeline", "digest"])
def test_a_version_that_is_not_what_was_logged_is_not_loaded(served: Served, tmp_path: Path, what: str) -> None:
    other = served.copied_to(tmp_path / "other")
    record = other.artifacts / "MLmodel"
    text = record.read_text()
    if what == "threshold":
        record.write_text(text.replace(f"threshold: {served.threshold}", "threshold: 0.001"))
    elif what == "digest":
        record.write_text("\n".join(line for line in text.splitlines() if "model_digest" not in line))
    else:
        shutil.rmtree(other.artifacts / "sparkml")
        save_pipeline(replace(served.trees, features=FEATURES[::-1]), other.artifacts / "sparkml")
    assert what == "pipeline" or record.read_text() != text
    with pytest.raises(ChangedModelError, match="records no" if what == "digest" else "not the one that was logged"):
        load_scorer(str(other.artifacts))

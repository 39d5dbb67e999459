"""How a churn model is logged: one MLflow model that Spark loads as a pipeline and Python as trees, without a JVM.

Pass this module to `mlflow.models.Model.log(flavor=…)`. Reading a logged model back belongs to `spark` and `probe`.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from churn_assets.churn.trees import BoostedTrees, exported_trees
from churn_assets.serving.pipelines import PIPELINE, save_pipeline

# As `mlflow.spark` names it, whose import would load Spark ML.
SPARK_FLAVOR, PIPELINE_CLASS = "spark", "pyspark.ml.pipeline.PipelineModel"
PYFUNC = Path(__file__).with_name("pyfunc.py")
EXAMPLE_ROWS = 5


def signature(features: Sequence[str]) -> ModelSignature:
    """All features are required doubles; out come a probability and whether the version's own threshold alerts.

    What MLflow 3.17 makes of a column before the model is asked: float32 and integers up to 32 bits become doubles. An
    int64 is refused by name, for a double cannot hold all of them, unless all its values are 0 or 1; so are booleans
    and text, but text that reads as a number becomes one. A null becomes NaN, which the model refuses. Further columns
    are dropped with a warning. JSON knows one kind of number, which a scoring server takes as a double.
    """
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.double, name) for name in features]),
        outputs=Schema([ColSpec(DataType.double, "churn_probability"), ColSpec(DataType.boolean, "is_alert")]),
    )


def save_model(
    path: str,
    mlflow_model: Model | None = None,
    *,
    trees: BoostedTrees,
    threshold: float | None,
    reference: pd.DataFrame,
    pip_requirements: Sequence[str],
) -> None:
    """Saves `trees` under the new folder `path` with the flavors python_function and spark.

    reference: rows with every feature and `churn_probability` as the flow computed it; the probe of serving scores them
    again, and the first are MLflow's input example. pip_requirements are not inferred, for that starts another JVM.
    Metadata: `model_digest` (of `trees.model_digest`) and `threshold`.
    """
    model = Model() if mlflow_model is None else mlflow_model
    exported, features = exported_trees(trees, threshold), list(trees.features)
    with TemporaryDirectory(prefix="churn-model-") as folder:
        files = {"trees": Path(folder, "trees.json"), "reference": Path(folder, "reference.json")}
        files["trees"].write_text(exported, encoding="utf-8")
        files["reference"].write_text(_reference(reference, features, threshold), encoding="utf-8")
        mlflow.pyfunc.save_model(
            path,
            python_model=str(PYFUNC),
            artifacts={name: str(file) for name, file in files.items()},
            mlflow_model=model,
            signature=signature(features),
            input_example=reference[features].head(EXAMPLE_ROWS),
            pip_requirements=list(pip_requirements),
            metadata={
                **(model.metadata or {}),
                "model_digest": hashlib.sha256(exported.encode()).hexdigest(),
                "threshold": threshold,
            },
        )
    # MLflow's Spark flavor would bring a pyfunc of its own, which needs a JVM and returns hard labels.
    save_pipeline(trees, Path(path, PIPELINE))
    model.add_flavor(
        SPARK_FLAVOR, pyspark_version=version("pyspark"), model_data=PIPELINE, code=None, model_class=PIPELINE_CLASS
    )
    model.model_size_bytes = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    model.save(str(Path(path, "MLmodel")))


def _reference(rows: pd.DataFrame, features: Sequence[str], threshold: float | None) -> str:
    kept = rows[[*features, "churn_probability"]].astype("float64").reset_index(drop=True)
    alerted = kept["churn_probability"] >= (float("inf") if threshold is None else threshold)
    content = kept.assign(is_alert=alerted).to_dict("list")
    return json.dumps(content)

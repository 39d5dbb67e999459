"""A fitted pipeline on its way between Spark and this machine's disk. What is logged beside it belongs to `flavor`.

MLflow's own way (mlflow.spark 3.17.2) asks the driver's JVM for Hadoop's file system: a Spark Connect client has none
(AttributeError: 'NoneType' object has no attribute 'jvm', 2026-11-25). And it lets Spark load a model from the driver's
own disk, which the executors of a cluster do not see.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.environment_variables import MLFLOW_DFS_TMP
from pyarrow.fs import LocalFileSystem, copy_files
from pyspark.ml import PipelineModel

from churn_assets.delta.storage import delete_folder, filesystem_of, spark_uri

# Within a logged model: where MLflow's Spark flavor keeps it, so that `mlflow.spark.load_model` finds it too.
PIPELINE = "sparkml"


def save_pipeline(pipeline: PipelineModel, folder: Path, dfs_tmpdir: str | None) -> None:
    """Saves `pipeline` as the new folder `folder` of this machine, by way of `dfs_tmpdir` (None: MLflow's own)."""
    with shared_folder(dfs_tmpdir) as shared:
        pipeline.save(shared)
        there, place = filesystem_of(shared)
        copy_files(place, str(folder), there, LocalFileSystem())


def load_pipeline(folder: Path, dfs_tmpdir: str | None) -> PipelineModel:
    """The pipeline that `save_pipeline` left in `folder`, loaded into the active session."""
    with shared_folder(dfs_tmpdir) as shared:
        there, place = filesystem_of(shared)
        copy_files(str(folder), place, LocalFileSystem(), there)
        # All of it is read at once, so nothing is asked of the copy later.
        return PipelineModel.load(shared)


@contextmanager
def shared_folder(dfs_tmpdir: str | None) -> Iterator[str]:
    """Spark's name for a folder under `dfs_tmpdir` (None: MLflow's own), which is gone afterwards."""
    shared = f"{(dfs_tmpdir or MLFLOW_DFS_TMP.get()).rstrip('/')}/{uuid.uuid4().hex}"
    try:
        yield spark_uri(shared)
    finally:
        delete_folder(shared)

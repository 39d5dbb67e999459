"""A pipeline on its way between Spark and this machine's disk."""

from pathlib import Path

from pyspark.ml import PipelineModel

from churn_assets.churn.models import model_digest
from churn_assets.serving.pipelines import load_pipeline, save_pipeline


def test_a_pipeline_comes_back_as_it_was_and_nothing_stays_on_the_way(
    churn_pipeline: PipelineModel, tmp_path: Path
) -> None:
    shared, saved = tmp_path / "shared", tmp_path / "saved"
    save_pipeline(churn_pipeline, saved, str(shared))
    assert list(shared.iterdir()) == []
    loaded = load_pipeline(saved, str(shared))
    assert model_digest(loaded, 0.5) == model_digest(churn_pipeline, 0.5)
    assert list(shared.iterdir()) == []

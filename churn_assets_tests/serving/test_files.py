"""Every file of a version is in its digest, and none is run before the digest is compared."""

from pathlib import Path

import mlflow
import pytest

from churn_assets.churn.errors import ChangedModelError
from churn_assets.serving.files import FILES_TAG, files_digest, recorded_digest
from churn_assets.serving.probe import Probe
from churn_assets.serving.spark import load_scorer
from churn_assets_tests.serving.conftest import NAME, URI, Served

RAN = "open('{place}', 'w').close()\n"


@pytest.fixture
def other(served: Served, tmp_path: Path) -> Served:
    """A copy of the version for one test to spoil, with its files on record, and this process's store."""
    other = served.copied_to(tmp_path / "other")
    mlflow.set_tracking_uri(other.tracking_uri)
    mlflow.MlflowClient().set_tag(str(other.info.run_id), FILES_TAG, files_digest(other.artifacts))
    return other


def test_every_file_counts_by_name_and_content(other: Served) -> None:
    whole = files_digest(other.artifacts)
    files = [file for file in other.artifacts.rglob("*") if file.is_file() and file.name != "registered_model_meta"]
    names = {file.relative_to(other.artifacts).as_posix().split("/")[0] for file in files}
    assert {"MLmodel", "pyfunc.py", "artifacts", "sparkml", "requirements.txt", "conda.yaml"} <= names
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert files_digest(other.artifacts) != whole, file
        file.write_bytes(content)
        moved = file.rename(file.with_name(f"{file.name}.moved"))
        assert files_digest(other.artifacts) != whole, file
        moved.rename(file)
    for added in ("further.py", "__pycache__/pyfunc.cpython-311.pyc"):
        file = other.artifacts / added
        file.parent.mkdir(exist_ok=True)
        file.touch()
        assert files_digest(other.artifacts) != whole, added
        file.unlink()
    assert files_digest(other.artifacts) == whole


def test_what_mlflow_writes_at_a_download_changes_nothing(other: Served, tmp_path: Path) -> None:
    for number, uri in enumerate((URI, f"models:/{NAME}/1", f"runs:/{other.info.run_id}/churn_pipeline_model")):
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path / str(number))))
        assert files_digest(local) == recorded_digest(uri)


def test_the_record_is_found_by_every_name_of_a_model(other: Served) -> None:
    whole = files_digest(other.artifacts)
    run, model = f"runs:/{other.info.run_id}/churn_pipeline_model", other.info.model_uri
    assert {recorded_digest(uri) for uri in (URI, f"models:/{NAME}/1", run, model)} == {whole}
    assert recorded_digest(str(other.artifacts)) is None
    client = mlflow.MlflowClient()
    client.set_model_version_tag(NAME, "1", FILES_TAG, "the version's own")
    assert recorded_digest(URI) == "the version's own"


@pytest.mark.parametrize("file", ["pyfunc.py", "further.py"])
def test_a_harmless_line_of_code_is_refused_and_not_run(other: Served, tmp_path: Path, file: str) -> None:
    whole, code = files_digest(other.artifacts), other.artifacts / file
    code.write_text(RAN.format(place=tmp_path / "ran") + (code.read_text() if code.exists() else ""))
    (told,) = Probe(other.tracking_uri).problems(URI, expected_files=whole)
    assert (
        told
        == f"its files have digest {files_digest(other.artifacts)[:12]}, not the expected {whole[:12]}; none was run"
    )
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ChangedModelError, match="The files of models:/churn@production are not those that were logged"):
        load_scorer(URI)


def test_a_version_as_it_was_logged_is_tried_and_scores(other: Served) -> None:
    assert Probe(other.tracking_uri).problems(URI, expected_files=files_digest(other.artifacts)) == []
    assert load_scorer(URI).threshold == other.threshold


def test_a_version_of_which_no_files_are_on_record_loads_as_before(served: Served) -> None:
    assert recorded_digest(URI) is None
    assert load_scorer(URI).threshold == served.threshold

"""Which files a logged model is made of, and what was recorded of them when it was logged. Runs none of them."""

import hashlib
from pathlib import Path

# A tag of the run and of the version: in MLflow's database, where whoever can write only artifacts cannot reach it.
FILES_TAG = "files_digest"
# MLflow writes name and number of a version there as it is downloaded, into a local store too, and runs nothing of it.
_OF_THE_DOWNLOAD = "registered_model_meta"


def files_digest(folder: Path) -> str:
    """SHA-256 over the name and content of every file under `folder`: code, MLmodel, trees, pipeline, requirements."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    lines = (
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()} {name}\n"
        for name in names
        if name != _OF_THE_DOWNLOAD
    )
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def recorded_digest(uri: str) -> str | None:
    """The digest that MLflow's database holds of the files of the model at `uri`; None if it holds none.

    Of a version its own tag, which outlives its run; else that of the run. A folder is no model of a database.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    kind, _, rest = uri.partition(":/")
    name, _, of = rest.lstrip("/").partition("/")
    run_id: str | None
    if kind == "runs":
        run_id = name
    elif kind != "models":
        return None
    elif not of and "@" not in name:
        run_id = client.get_logged_model(name).source_run_id
    else:
        alias = name.partition("@")[::2] if "@" in name else None
        version = client.get_model_version_by_alias(*alias) if alias else client.get_model_version(name, of)
        if FILES_TAG in version.tags:
            return version.tags[FILES_TAG]
        run_id = version.run_id
    try:
        return client.get_run(run_id).data.tags.get(FILES_TAG) if run_id else None
    except MlflowException as missing:
        if missing.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise

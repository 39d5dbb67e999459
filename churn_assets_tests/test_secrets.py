"""Secrets are in the environment and nowhere else: whatever runs, no byte that is kept or shown holds one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from churn_assets.definitions import default_resources
from churn_assets.defs.alerts import alert_on_failure
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.tracking import TrackingResource, UnusableStoreError, without_credentials
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project
from churn_assets_tests.defs.test_outbox import Tool
from churn_assets_tests.processes import CHECKOUT

HOOK, MAIL, CRM, STORE, TOKEN = (f"mark3d-{name}-s3cret" for name in ("hook", "mail", "crm", "store", "token"))
SECRETS = (HOOK, MAIL, CRM, STORE, TOKEN)
COMMANDS = {"churn-assets": "churn_assets.cli", "dagster": "dagster._cli", "dagster-graphql": "dagster_graphql.cli"}
# What the pages of the UI ask about resources and jobs.
RESOURCES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { allTopLevelResourceDetails {
    name description configFields { name defaultValueAsJson }
    configuredValues { key value type }
    nestedResources { name resource { configuredValues { key value type } } } } } } } }
"""


def environment(folder: Path) -> dict[str, str]:
    """A project in `folder` whose every place needs a secret; nobody listens at the places that are told of failures.

    SQLite takes no password, and does not mind one among the parameters of its address.
    """
    return {
        "CHURN_PROJECT": str(folder),
        "CHURN_AUTOMATION": "on",
        "DAGSTER_HOME": str(folder / "data" / "dagster_home"),
        "CHURN_ALERT_WEBHOOK": f"http://127.0.0.1:9/{HOOK}",
        "CHURN_ALERT_SMTP": f"smtp://churn:{MAIL}@127.0.0.1:9/?from=a@b.example&to=c@d.example",
        "CHURN_CONTACTS_WEBHOOK": f"http://127.0.0.1:9/{CRM}",
        "MLFLOW_TRACKING_URI": f"sqlite:///file:{folder}/mlflow.db?uri=true&password={STORE}",
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder; its environment is this process's."""
    folder = tmp_path / "project"
    Project.create(folder, policy=TINY_POLICY, sources=TINY_DEMO)
    for variable, value in environment(folder).items():
        monkeypatch.setenv(variable, value)
    # MLflow makes folders of this address of a store, as if it were a relative path.
    monkeypatch.chdir(tmp_path)
    return folder


def found_in(place: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in place]


def leaks(folder: Path) -> list[tuple[str, str]]:
    """Each secret in a file under `folder`, in its name or in its bytes, Parquet's unpacked as well."""
    found = []
    for file in (file for file in folder.rglob("*") if file.is_file()):
        unpacked = repr(pq.read_table(file).to_pydict()).encode() if file.suffix == ".parquet" else b""
        content = b"\n".join([str(file.relative_to(folder)).encode(), file.read_bytes(), unpacked])
        found += [(str(file), secret) for secret in found_in(content)]
    return found


@dg.asset
def trained(context: dg.AssetExecutionContext, tracking: TrackingResource) -> None:
    import mlflow

    with tracking.training_run(context, "xgboost", "a test"):
        mlflow.log_param("max_depth", 5)


@dg.asset
def broken(tracking: TrackingResource) -> None:
    tracking.client.get_run("no such run")


def said_by(command: str, *arguments: str, **more: str) -> bytes:
    """What a command as people type it prints, of this checkout."""
    program = f"import sys; from {COMMANDS[command]} import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | more,
        check=False,
        capture_output=True,
    )
    return ended.stdout + ended.stderr


@pytest.mark.system
def test_no_secret_is_stored_logged_or_answered(folder: Path) -> None:
    settings = settings_from_env()
    assert not found_in(repr(settings).encode())
    resources = default_resources(settings)
    with Project.at(folder).instance() as instance:
        # The snapshots of these jobs hold how their resources are configured.
        for asset in (trained, broken):
            made = dg.materialize([asset], instance=instance, resources=resources, raise_on_error=False)
            assert made.success == (asset is trained)
        for _ in range(2):
            with dg.build_sensor_context(instance, cursor=None, resources=resources) as context:
                alert_on_failure(context)
        config = {"ops": {"promote": {"config": {"approver": "ada", "reason": "why not"}}}}
        (folder / "promote.yaml").write_text(json.dumps(config), encoding="utf-8")
        job = ("-m", "churn_assets.definitions", "-j", "promote_staging_model", "-c", str(folder / "promote.yaml"))
        told = said_by("dagster", "job", "execute", *job)
        assert b"no version is under alias staging" in told
        answers = said_by("dagster-graphql", "-m", "churn_assets.definitions", "-t", RESOURCES)
        assert b'"CHURN_ALERT_WEBHOOK"' in answers, answers
        assert b'"CHURN_CONTACTS_WEBHOOK"' in answers, answers
        assert b"&password=" in answers, answers
        assert len(instance.get_runs()) == 3
    commands = [said_by("churn-assets", name) for name in ("doctor", "history")]
    commands += [said_by("churn-assets", "history", SPARK_REMOTE=f"sc://127.0.0.1:9/;token={TOKEN}")]
    assert "token=…".encode() in commands[-1]
    assert found_in(b"\n".join([told, answers, *commands])) == []
    assert (folder / "mlflow.db").exists()
    assert leaks(folder) == []


@pytest.mark.system
def test_a_whole_lifecycle_leaves_no_secret(folder: Path) -> None:
    with Tool(secret=CRM).serving() as tool:
        told = said_by("churn-assets", "run", CHURN_CONTACTS_WEBHOOK=tool.address)
    assert tool.received
    assert b"The lifecycle ran to its end." in told, told[-3_000:]
    assert found_in(told) == []
    assert leaks(folder) == []


def test_an_address_that_mlflow_refuses_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nonsense://churn:{STORE}@db/mlflow")
    Project.create(tmp_path, policy=TINY_POLICY, sources=TINY_DEMO)
    settings = settings_from_env(dict(os.environ) | {"CHURN_PROJECT": str(tmp_path)})
    tracking: TrackingResource = default_resources(settings)["tracking"]
    with pytest.raises(UnusableStoreError, match=r"nonsense://…@db/mlflow") as refused:
        _ = tracking.client
    assert STORE not in str(refused.value)
    assert refused.value.__context__ is None, "Dagster stores what led to an error"


def test_the_password_of_a_tracking_server_is_left_where_mlflow_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert without_credentials(f"https://churn:{STORE}%40@mlflow.example/x") == "https://mlflow.example/x"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "churn"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == f"{STORE}@"
    assert settings_from_env({"MLFLOW_TRACKING_URI": f"https://churn:{STORE}@mlflow.example"}).mlflow_ui == (
        "https://mlflow.example"
    )

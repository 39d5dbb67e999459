"""Where things run: from the environment and nothing else."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import pytest
import yaml

from churn_assets.engines.choice import Engine
from churn_assets.resources import settings as places
from churn_assets.resources.settings import engine_of, prepare_dagster_home, settings_from_env
from churn_assets.resources.spark import (
    LOCAL_JVM,
    EngineResource,
    memory_bytes,
    spark_config,
    spark_resource,
    start_ahead,
)
from churn_assets_tests.processes import PATIENCE_SECONDS

CHECKOUT = Path(__file__).resolve().parents[2]


def test_an_empty_environment_means_everything_under_the_checkout() -> None:
    settings = settings_from_env({})
    assert settings.project == CHECKOUT
    assert settings.policy_file == CHECKOUT / "policy.toml"
    assert settings.sources_file == CHECKOUT / "sources.toml"
    assert settings.lakehouse == str(CHECKOUT / "data" / "lakehouse")
    assert settings.tracking_uri == f"sqlite:///{CHECKOUT}/data/mlflow/mlflow.db"
    assert Path(settings.artifact_root).is_relative_to(CHECKOUT / "data")
    assert settings.dagster_home.is_relative_to(CHECKOUT / "data")
    assert (settings.engine, settings.spark_master, settings.spark_remote) == (None, None, None)


def test_an_installed_package_takes_the_current_folder_as_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CHECKOUT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert settings_from_env({}).project == tmp_path


def test_a_relative_project_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_from_env({"CHURN_PROJECT": "mine"})
    assert settings.project == tmp_path / "mine"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mine/data/mlflow/mlflow.db"


def test_each_variable_moves_its_place_and_no_other(tmp_path: Path) -> None:
    plain = settings_from_env({"CHURN_PROJECT": str(tmp_path)})
    moved = {
        "CHURN_LAKEHOUSE": ("lakehouse", "s3a://bucket/lake"),
        "MLFLOW_TRACKING_URI": ("tracking_uri", "postgresql://mlflow/store"),
        "CHURN_ARTIFACTS": ("artifact_root", "s3://bucket/artifacts"),
        "CHURN_TABLES": ("tables", "catalog"),
        "CHURN_ENGINE": ("engine", "local"),
        "SPARK_MASTER": ("spark_master", "spark://host:7077"),
        "SPARK_REMOTE": ("spark_remote", "sc://host:15002"),
        "SPARK_DRIVER_MEMORY": ("driver_memory", "9g"),
        "MLFLOW_UI_URL": ("mlflow_ui", "https://mlflow.example"),
        "DAGSTER_UI_URL": ("dagster_ui", "https://dagster.example"),
        "MLFLOW_DFS_TMP": ("dfs_tmpdir", "/Volumes/main/churn/tmp"),
        "CHURN_CODE_COMMIT": ("code_commit", "0123abc"),
        "CHURN_ALERT_WEBHOOK": ("alert_webhook", "https://hooks.example/secret"),
        "CHURN_CONTACTS_WEBHOOK": ("contacts_webhook", "https://crm.example/secret"),
        "CHURN_ALERT_SMTP": ("alert_smtp", "smtp://mail.example:25/?from=a@b.example&to=c@d.example"),
    }
    for variable, (field, value) in moved.items():
        settings = settings_from_env({"CHURN_PROJECT": str(tmp_path), variable: value})
        assert getattr(settings, field) == value
        assert replace(settings, **{field: getattr(plain, field)}) == plain, variable
    home = settings_from_env({"CHURN_PROJECT": str(tmp_path), "DAGSTER_HOME": "/elsewhere"}).dagster_home
    assert home == Path("/elsewhere")


def test_links_lead_to_the_tracking_server_where_there_is_one() -> None:
    assert settings_from_env({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}).mlflow_ui == "http://mlflow:5000"
    assert settings_from_env({}).mlflow_ui == "http://127.0.0.1:5000"


def test_a_blank_variable_counts_as_unset(tmp_path: Path) -> None:
    blank = dict.fromkeys(
        ("CHURN_LAKEHOUSE", "MLFLOW_TRACKING_URI", "CHURN_ARTIFACTS", "DAGSTER_HOME", "SPARK_MASTER", "SPARK_REMOTE"),
        "",
    )
    project = {"CHURN_PROJECT": str(tmp_path)}
    assert settings_from_env(project | blank) == settings_from_env(project)


def test_reading_settings_makes_no_folder(tmp_path: Path) -> None:
    settings_from_env({"CHURN_PROJECT": str(tmp_path / "new")})
    assert list(tmp_path.iterdir()) == []


def test_dagsters_home_sends_no_usage_data_and_keeps_its_owners_file(tmp_path: Path) -> None:
    settings = settings_from_env({"CHURN_PROJECT": str(tmp_path)})
    home = prepare_dagster_home(settings)
    off = {"enabled": False}
    assert yaml.safe_load((home / "dagster.yaml").read_text()) == {"telemetry": off, "nux": off}
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\nretention: {}\n", encoding="utf-8")
    prepare_dagster_home(settings)
    assert "retention" in (home / "dagster.yaml").read_text()


@pytest.mark.parametrize(("sources", "name"), [("[demo]\n", "sail"), ("[orders]\n", "local"), ("[demo", "local")])
def test_simulated_sources_go_to_sail_and_a_companys_own_to_spark(tmp_path: Path, sources: str, name: str) -> None:
    (tmp_path / "sources.toml").write_text(sources, encoding="utf-8")
    project = {"CHURN_PROJECT": str(tmp_path)}
    assert engine_of(settings_from_env(project)).name == name
    assert engine_of(settings_from_env(project | {"CHURN_ENGINE": "sail"})).name == "sail"
    assert engine_of(settings_from_env({"CHURN_PROJECT": str(tmp_path / "none")})).name == "local"


@pytest.mark.parametrize("engine", [Engine("sail"), Engine("connect", "sc://host:15002")])
def test_a_server_is_sent_only_what_a_client_may_set(engine: Engine) -> None:
    config = spark_config(engine, "5g")
    assert config.pop("spark.remote", "") == engine.address
    assert all(name.startswith(("spark.sql.", "spark.python.sql.")) for name in config)
    assert config["spark.sql.session.timeZone"] == "UTC"


@pytest.mark.parametrize("engine", [Engine("local", "local[2]"), Engine("cluster", "spark://host:7077")])
def test_every_session_is_in_utc_and_writes_microseconds(engine: Engine) -> None:
    config = spark_config(engine, "5g")
    assert config["spark.master"] == engine.address
    assert config["spark.driver.memory"] == "5g"
    assert config["spark.sql.session.timeZone"] == "UTC"
    assert config["spark.sql.parquet.outputTimestampType"] == "TIMESTAMP_MICROS"
    assert ("spark.driver.host" in config) == (engine.name == "local")


@pytest.mark.parametrize(("text", "expected"), [("4g", 4 << 30), ("512m", 512 << 20), ("1GB", 1 << 30), ("100", 100)])
def test_the_memory_of_an_engine_is_written_as_spark_writes_it(text: str, expected: int) -> None:
    assert memory_bytes(text) == expected


def test_sails_memory_is_limited_by_the_same_setting(tmp_path: Path) -> None:
    asked = {"CHURN_ENGINE": "sail", "SPARK_DRIVER_MEMORY": "300m", "CHURN_PROJECT": str(tmp_path)}
    assert spark_resource(settings_from_env(asked)).sail_memory == 300 << 20
    assert spark_resource(settings_from_env({"SPARK_MASTER": "local[2]"})).sail_memory is None


def test_local_workers_run_this_python_and_those_of_a_cluster_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    spark_resource(settings_from_env({"SPARK_MASTER": "spark://host:7077"}))
    assert "PYSPARK_PYTHON" not in os.environ
    spark_resource(settings_from_env({"SPARK_MASTER": "local[2]"}))
    assert os.environ["PYSPARK_PYTHON"] == sys.executable


def test_a_client_of_spark_connect_ends_its_session_with_the_process_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "SPARK_CONNECT_RELEASE_SESSION_ON_EXIT"
    monkeypatch.setenv(name, "false")
    spark_resource(settings_from_env({"SPARK_REMOTE": "sc://host:15002"}))
    assert os.environ[name] == "false"
    monkeypatch.delenv(name)
    spark_resource(settings_from_env({"SPARK_MASTER": "spark://host:7077"}))
    assert name not in os.environ
    spark_resource(settings_from_env({"SPARK_REMOTE": "sc://host:15002"}))
    assert os.environ[name] == "true"


class SlowToStart:
    """Stands in for the lazy resource: notes which thread asked for the session, and lets it wait."""

    def __init__(self, **spark_config: str) -> None:
        self.spark_config = spark_config
        self.may_start, self.asked_by = threading.Event(), SimpleQueue[str]()

    @property
    def spark_session(self) -> None:
        self.asked_by.put(threading.current_thread().name)
        self.may_start.wait(PATIENCE_SECONDS)


def test_a_jvm_is_started_ahead_without_waiting_for_it_and_a_client_makes_its_own_session() -> None:
    local, remote = SlowToStart(**{"spark.master": "local[2]"}), SlowToStart(**{"spark.remote": "sc://host:15002"})
    started_before = set(threading.enumerate())
    start_ahead(cast(EngineResource, remote))
    assert set(threading.enumerate()) == started_before
    start_ahead(cast(EngineResource, local))
    assert local.asked_by.get(timeout=PATIENCE_SECONDS) != threading.current_thread().name
    local.may_start.set()


@pytest.mark.parametrize("collector", ["UseG1GC", "UseSerialGC", "UseParallelGC"])
def test_a_local_jvm_starts_whichever_collector_a_users_own_defaults_name(java: None, collector: str) -> None:
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else "java"
    started = subprocess.run(
        [program, *LOCAL_JVM.split(), f"-XX:+{collector}", "-version"], capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stdout + started.stderr

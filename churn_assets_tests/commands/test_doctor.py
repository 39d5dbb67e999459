"""What the doctor finds wrong, each with a fix; no test starts a JVM."""

import re
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from churn_assets.commands import doctor
from churn_assets.commands.doctor import Finding, Probe, examine, report
from churn_assets.engines import conformance
from churn_assets.engines.conformance import Deviation
from churn_assets.resources.settings import Settings, settings_from_env
from churn_assets_tests import feature_tables
from churn_assets_tests.conftest import ENGINE, TINY_DEMO, TINY_POLICY


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "policy.toml").write_text(TINY_POLICY, encoding="utf-8")
    (tmp_path / "sources.toml").write_text(TINY_DEMO, encoding="utf-8")
    for variable in ("DAGSTER_PORT", "MLFLOW_PORT"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv(variable, str(free.getsockname()[1]))
    return settings_from_env({**ENGINE, "CHURN_PROJECT": str(tmp_path), "SPARK_DRIVER_MEMORY": "256m"})


def found_by(probe: Probe, settings: Settings) -> Finding:
    (finding,) = examine(settings, [probe])
    assert finding.fix, finding
    return finding


@pytest.mark.usefixtures("spark")
def test_a_healthy_project_has_nothing_to_mend_and_keeps_no_probe_file(settings: Settings) -> None:
    assert [each for each in examine(settings) if each.fix] == []
    assert not Path(settings.lakehouse).exists()


def test_a_java_too_old_is_wrong(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_1\"' >&2\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "is 8" in found_by(doctor.java, replace(settings, engine="local")).observed


def test_no_java_is_asked_for_where_none_is_started(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    assert doctor.java(replace(settings, engine="sail")) == "not needed by Sail"
    assert doctor.java(replace(settings, engine=None, spark_remote="sc://h:1")).startswith("not needed")


@pytest.mark.usefixtures("spark")
def test_sail_is_asked_and_named_with_its_version(settings: Settings) -> None:
    if ENGINE["CHURN_ENGINE"] != "sail":
        pytest.skip("one process cannot hold two engines")
    (finding,) = examine(settings, [doctor.engine])
    assert not finding.fix, finding
    assert re.fullmatch(r"Sail in this process.*pysail \S+: conforms \(\d+ constructs\)", finding.observed)


def test_an_engine_that_deviates_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    deviation = Deviation("hash of a string", "1", "2", "the split", "none")
    monkeypatch.setattr(conformance, "deviations", lambda *_: [deviation])
    resource = SimpleNamespace(spark_session=SimpleNamespace(version="4.2.0"))
    monkeypatch.setattr("churn_assets.resources.spark.spark_resource", lambda _: resource)
    found = found_by(doctor.engine, replace(settings, engine="sail"))
    assert "hash of a string (the split): expected 1, answered 2" in found.observed
    assert "CHURN_ENGINE=local" in found.fix


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"engine": "local"}, "conforms ("),
        ({"engine": None, "spark_remote": "sc://nowhere:1"}, "asked before the first run"),
    ],
)
def test_of_another_engine_is_told_what_is_known_and_none_is_started(
    settings: Settings, changed: dict[str, Any], told: str
) -> None:
    assert told in doctor.engine(replace(settings, **changed))


def test_settings_that_contradict_each_other_are_wrong(settings: Settings) -> None:
    assert "leave out" in found_by(doctor.engine, replace(settings, engine="sail", spark_remote="sc://h:1")).fix


def test_a_package_outside_its_range_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.1")
    assert "mlflow 0.1, not" in found_by(doctor.python_and_packages, settings).observed


def test_a_package_that_cannot_load_its_library_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    assert "or train with `estimator: gbt`" in found_by(doctor.xgboost, settings).fix


def test_more_memory_than_there_is_is_wrong(settings: Settings) -> None:
    assert not found_by(doctor.memory, replace(settings, driver_memory="900t")).is_warning


def test_a_full_disk_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert "0.0 GiB free" in found_by(doctor.disk, settings).observed


def test_a_lakehouse_that_is_a_file_is_wrong(settings: Settings, tmp_path: Path) -> None:
    assert (
        "CHURN_LAKEHOUSE" in found_by(doctor.lakehouse, replace(settings, lakehouse=str(tmp_path / "policy.toml"))).fix
    )


def test_a_database_without_a_driver_is_told_which_to_name(settings: Settings) -> None:
    found = found_by(doctor.mlflow, replace(settings, tracking_uri="postgresql+asyncpg://churn:s3cret@127.0.0.1:9/x"))
    assert "No module named 'asyncpg'" in found.observed
    assert "postgresql+psycopg2://" in str(found.fix)
    assert "s3cret" not in f"{found.observed} {found.fix}"


def test_an_mlflow_that_does_not_answer_is_wrong(settings: Settings) -> None:
    assert "refused" in found_by(doctor.mlflow, replace(settings, tracking_uri="http://127.0.0.1:9")).observed


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg2://churn:s3cret@127.0.0.1:9/mlflow",
        "postgresql+psycopg2://churn:s3/cret@127.0.0.1:9/mlflow",
        "postgresql+psycopg2://churn:s3@cret@127.0.0.1:9/mlflow",
        "postgresql+psycopg2://churn@127.0.0.1:9/mlflow?password=s3cret",
    ],
)
def test_a_password_in_an_address_is_not_shown(settings: Settings, uri: str) -> None:
    found = found_by(doctor.mlflow, replace(settings, tracking_uri=uri))
    assert found.observed.startswith("postgresql+psycopg2://…@127.0.0.1:9/mlflow")
    assert ("write it as %40" if "s3@cret" in uri else "refused") in found.observed
    assert "cret" not in f"{found.observed} {found.fix}"


def test_a_server_that_does_not_answer_is_told_without_its_password(settings: Settings) -> None:
    found = found_by(doctor.mlflow, replace(settings, tracking_uri="http://churn:s3cret@127.0.0.1:9"))
    assert found.observed.startswith("http://…@127.0.0.1:9: ")
    assert "s3cret" not in found.observed


def test_a_feature_table_that_nobody_vouches_for_is_wrong(settings: Settings) -> None:
    feature_tables.write(feature_tables.visits(customers=3, weeks=2), settings.project)
    file = settings.project / "sources.toml"
    file.write_text(feature_tables.FEATURES, encoding="utf-8")
    assert "the source tables are there" in doctor.configuration(settings)
    file.write_text(re.sub(r"attested_\w+ = .*\n", "", feature_tables.FEATURES), encoding="utf-8")
    found = found_by(doctor.configuration, settings)
    assert "nobody vouches for the feature table" in found.observed
    assert "attested_by and attested_reason" in found.fix


@pytest.mark.parametrize("name", ["policy.toml", "sources.toml"])
def test_a_wrong_file_is_wrong(settings: Settings, name: str) -> None:
    (settings.project / name).write_text("[nonsense]\n", encoding="utf-8")
    assert "nonsense" in found_by(doctor.configuration, settings).observed


def test_a_source_table_that_is_not_there_is_wrong(settings: Settings) -> None:
    settings.sources_file.write_text('[orders]\nformat = "delta"\npath = "nowhere"\n', encoding="utf-8")
    assert "nowhere" in found_by(doctor.configuration, settings).observed


def test_a_dagster_home_that_does_not_open_is_wrong(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("nonsense: {}\n", encoding="utf-8")
    assert "nonsense" in found_by(doctor.dagster_home, replace(settings, dagster_home=tmp_path / "home")).observed


def test_a_taken_port_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MLFLOW_PORT", str(taken.getsockname()[1]))
        assert found_by(doctor.ports, settings).is_warning


def test_neither_a_probe_that_raises_nor_one_that_hangs_stops_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(_: Settings) -> str:
        raise ZeroDivisionError("of all")

    def hanging(_: Settings) -> str:
        time.sleep(0.5)
        return "too late"

    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 0.1)
    shown = report(examine(settings, [raising, hanging, doctor.disk]))
    assert "fix: look whether the place answers" in shown
    # Not of a library, which is no place.
    monkeypatch.setattr(doctor, "LOCAL", {"hanging"})
    assert "fix: try again: the machine was busy" in report(examine(settings, [hanging]))
    assert "WRONG    raising: ZeroDivisionError: of all" in shown
    assert "WRONG    hanging: no answer" in shown
    assert "ok       disk" in shown

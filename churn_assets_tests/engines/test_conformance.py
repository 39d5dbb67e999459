"""An engine that answers a construct otherwise is refused by name, and asked once per version."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession

from churn_assets.engines import conformance
from churn_assets.engines.choice import Engine
from churn_assets.engines.conformance import NonconformingEngineError, answers, compared, deviations
from churn_assets.engines.constructs import AVOIDED, RELIED_ON, Construct, OfQueries, OfRows, exact
from churn_assets.resources.settings import engine_of, settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.conftest import ENGINE
from churn_assets_tests.processes import CHECKOUT, PATIENCE_SECONDS

SAIL, CONNECT = Engine("sail"), Engine("connect", "sc://spark:15002/;token=secret")
NAMES = [each.name for each in RELIED_ON]
SESSION = cast(SparkSession, SimpleNamespace(version="4.2.0"))


@pytest.fixture(scope="session")
def answered(spark: SparkSession) -> list[str]:
    """What the tests' engine answers, asked once."""
    return answers(spark, RELIED_ON)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(conformance, "RECORDS", tmp_path / "records")
    return tmp_path / "records"


def asked_times(monkeypatch: pytest.MonkeyPatch, found: Sequence[conformance.Deviation] = ()) -> list[object]:
    """Grows with each time that an engine is asked, which answers `found` otherwise."""
    asked: list[object] = []

    def answering(*given: object) -> list[conformance.Deviation]:
        asked.append(given)
        return list(found)

    monkeypatch.setattr(conformance, "deviations", answering)
    return asked


# --- the constructs ---


def test_the_tests_engine_answers_every_construct_as_expected(answered: list[str]) -> None:
    assert compared(RELIED_ON, answered) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_construct_answered_otherwise_is_a_deviation(name: str, answered: list[str]) -> None:
    number = NAMES.index(name)
    for wrong in (*_otherwise(RELIED_ON[number]), "SparkRuntimeException: not implemented"):
        assert wrong != RELIED_ON[number].answer
        found = compared(RELIED_ON, [*answered[:number], wrong, *answered[number + 1 :]])
        assert [(each.construct, each.answered) for each in found] == [(name, wrong)]


def _otherwise(construct: Construct) -> list[str]:
    """Answers of which one value alone, or the type alone, is another."""
    prefix = f"{construct.kind} " if isinstance(construct, OfRows) else ""
    values = list(construct.expected)
    missing = [prefix + exact([*values[:place], "another", *values[place + 1 :]]) for place in range(len(values))]
    return [*missing, *([f"void {exact(values)}"] if prefix else [])]


def test_every_construct_has_a_name_of_its_own_and_says_where_it_matters() -> None:
    assert len(RELIED_ON) >= 60
    assert len({*NAMES, *[each.name for each in AVOIDED]}) == len(RELIED_ON) + len(AVOIDED)
    assert all(each.where and each.remedy and len(each.expected) for each in RELIED_ON)


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.0, -0.0), (1, 1.0), (0.1 + 0.2, 0.3), (True, 1), (None, "None"), ([1], [1, None]), (float("nan"), None)],
)
def test_values_that_differ_in_anything_are_other_text(one: Any, other: Any) -> None:
    assert exact(one) != exact(other)
    assert exact(one) == exact(one)


def test_what_an_engine_refuses_is_found_among_the_others(spark: SparkSession) -> None:
    def refused() -> Any:
        from pyspark.sql import functions as F

        return F.col("no_such_column")

    rows = [each for each in RELIED_ON if type(each) is OfRows][:5]
    broken = [*rows[:2], replace(rows[2], value=refused), *rows[3:]]
    (found,) = deviations(spark, constructs=broken)
    assert found.construct == rows[2].name
    assert "no_such_column" in found.answered


def test_an_engine_that_is_gone_is_no_deviation(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise ConnectionError("the server is gone")

    broken = OfQueries(name="any", found=gone, expected=(), where="-", remedy="-")
    monkeypatch.setattr(type(spark), "range", gone)
    with pytest.raises(ConnectionError):
        deviations(spark, constructs=[broken])


def test_the_files_asked_about_are_gone_from_a_shared_folder(spark: SparkSession, tmp_path: Path) -> None:
    files = [each for each in RELIED_ON if each.name == "files by partitions, as Arrow reads them"]
    assert deviations(spark, str(tmp_path), constructs=files) == []
    assert [*tmp_path.iterdir()] == []


def test_what_the_flow_avoids_is_answered_as_it_is_known(spark: SparkSession) -> None:
    name = engine_of(settings_from_env(ENGINE)).name
    known = {each.name: each.answers[name] for each in AVOIDED}
    assert conformance.avoided_answers(spark) == known, "another version? Then the flow may ask again what it avoided."
    assert all(each.answers["sail"] != each.answers["local"] for each in AVOIDED)


@pytest.mark.system
def test_local_spark_answers_as_is_written_out() -> None:
    asked = (
        "from churn_assets.engines import conformance, constructs\n"
        "from churn_assets.resources.settings import settings_from_env\n"
        "from churn_assets.resources.spark import spark_resource\n"
        "spark = spark_resource(settings_from_env()).spark_session\n"
        "assert spark.version == conformance.REFERENCE, spark.version\n"
        "for each in conformance.deviations(spark): print('deviates:', each)\n"
        "known = {each.name: each.answers['local'] for each in constructs.AVOIDED}\n"
        "found = conformance.avoided_answers(spark)\n"
        "for name in known:\n"
        "    if known[name] != found[name]: print('deviates:', name, known[name], found[name])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=CHECKOUT,
        # A process of this engine's client would be one too.
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("SPARK_")},
            "CHURN_ENGINE": "local",
            "SPARK_DRIVER_MEMORY": "1g",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert [line for line in process.stdout.splitlines() if line.startswith("deviates")] == []


# --- refused, or recorded ---


def test_an_engine_that_deviates_is_refused_by_name_with_the_next_step(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deviating = compared(RELIED_ON[:1], ["bigint (1, 2, 3)"])
    asked_times(monkeypatch, deviating)
    with pytest.raises(NonconformingEngineError) as refused:
        conformance.require_conformant(SESSION, SAIL)
    said = str(refused.value)
    assert f"{SAIL} (Spark 4.2.0" in said
    assert f"hash of a string ({RELIED_ON[0].where}): expected {RELIED_ON[0].answer}, answered bigint (1, 2, 3)" in said
    assert "Next step: install the pysail and pyspark of constraints.txt" in said
    assert "CHURN_ENGINE=local" in said
    assert not records.exists()


def test_a_refused_engine_gives_nobody_a_session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise NonconformingEngineError("It deviates.")

    monkeypatch.setattr("churn_assets.resources.spark.require_conformant", refused)
    resource = spark_resource(settings_from_env(ENGINE))
    for _ in range(2):
        with pytest.raises(NonconformingEngineError):
            _ = resource.spark_session


def test_a_version_that_conforms_is_asked_once(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_times(monkeypatch)
    for _ in range(3):
        conformance.require_conformant(SESSION, SAIL)
    assert len(asked) == 1
    (record,) = records.iterdir()
    assert json.loads(record.read_text(encoding="utf-8"))["engine"] == "sail"


@pytest.mark.parametrize("changed", ["version", "constructs", "engine", "record"])
def test_a_record_is_believed_only_for_the_same_version_engine_and_constructs(
    changed: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_times(monkeypatch)
    conformance.require_conformant(SESSION, CONNECT)
    session, engine = SESSION, CONNECT
    if changed == "version":
        session = cast(SparkSession, SimpleNamespace(version="4.2.1"))
    elif changed == "constructs":
        monkeypatch.setattr(conformance, "table_digest", lambda: "another")
    elif changed == "engine":
        engine = Engine("connect", "sc://another:15002")
    else:
        (record,) = records.iterdir()
        record.write_text("{}", encoding="utf-8")
    conformance.require_conformant(session, engine)
    assert len(asked) == 2


def test_where_no_record_can_be_written_the_engine_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(conformance, "RECORDS", tmp_path / "file" / "records")
    asked = asked_times(monkeypatch)
    for _ in range(2):
        conformance.require_conformant(SESSION, SAIL)
    assert len(asked) == 2


def test_a_record_holds_no_address(records: Path) -> None:
    conformance.record(CONNECT, "Spark 4.2.0")
    assert conformance.known_version(CONNECT) == "Spark 4.2.0"
    assert [file for file in records.iterdir() if "secret" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(("engine", "times"), [(Engine("local", "local[*]"), 0), (CONNECT, 1)])
def test_a_jvm_of_the_version_that_gave_the_answers_is_not_asked_but_any_server_is(
    engine: Engine, times: int, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_times(monkeypatch)
    conformance.require_conformant(SESSION, engine)
    assert len(asked) == times
    conformance.require_conformant(cast(SparkSession, SimpleNamespace(version="4.3.0")), engine)
    assert len(asked) == times + 1

"""Two engines are called equal only where everything they made is, to the last digit, and enough was made to say so."""

import os
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from churn_assets.commands import engines
from churn_assets.commands.engines import NEEDED, Compared, Ran, compared, outcome, report
from churn_assets.commands.terminal import DONE, FAILED, UNEVALUATED
from churn_assets.defs.scoring import SCORES
from churn_assets.engines.choice import UnknownEngineError
from churn_assets.resources.settings import settings_from_env
from churn_assets_tests.commands.test_run import tiny_project
from churn_assets_tests.conftest import Project

EQUAL = [Compared(name, "5 rows", ()) for name in NEEDED]


@pytest.mark.parametrize(
    ("found", "code", "told"),
    [
        (EQUAL, DONE, "are equal in all 2"),
        ([*EQUAL, Compared("exit code", "1", ())], DONE, "are equal in all 3"),
        ([*EQUAL, Compared("recall_churn", "1 rows", ("recall",))], FAILED, "differ in 1 of 3"),
        (EQUAL[:1], UNEVALUATED, "shows too little"),
    ],
)
def test_only_everything_equal_is_exit_code_0(found: list[Compared], code: int, told: str) -> None:
    assert outcome(found) == code
    assert told in report(["sail", "local"], found)
    assert ("Next step" in report(["sail", "local"], found)) == (code != DONE)


@pytest.fixture(scope="module")
def two(listed: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran]:
    """The same project twice, as if two engines had made it."""
    folders = [tmp_path_factory.mktemp("engine") / "project" for _ in range(2)]
    one, other = (Ran(listed.copied_to(folder).settings, 0, 1.0) for folder in folders)
    return one, other


def differing(one: Ran, other: Ran) -> dict[str, tuple[str, ...]]:
    return {each.name: each.differing for each in compared(one, other) if each.differing}


def test_a_project_equals_its_copy_in_every_table_figure_and_file(two: tuple[Ran, Ran]) -> None:
    found = list(compared(*two))
    assert outcome(found) == DONE
    names = {each.name for each in found}
    assert {"exit code", "version 1: trees", "version 1: verdict", "version 1: metric recall_churn", *NEEDED} <= names
    assert sum(name.endswith(".csv") for name in names) == 2


def test_a_last_digit_a_row_a_table_a_file_and_an_exit_code_are_each_named(two: tuple[Ran, Ran]) -> None:
    one, other = two
    root = Path(other.settings.lakehouse)
    path = str(root / SCORES)
    rows = pa.table(DeltaTable(path).to_pyarrow_table())
    scores = rows["churn_probability"].to_pylist()
    changed = pa.array([scores[0] + 2**-53, *scores[1:]])
    place = rows.schema.get_field_index("churn_probability")
    write_deltalake(path, rows.set_column(place, "churn_probability", changed), mode="overwrite")
    (file,) = sorted((root / "exports").rglob("*.csv"))[:1]
    file.write_bytes(file.read_bytes() + b"\n")
    write_deltalake(str(root / "recall_churn"), pa.table({"a": [1]}), mode="overwrite", schema_mode="overwrite")
    write_deltalake(str(root / "food_delivery" / "more"), pa.table({"a": [1]}))
    found = differing(one, replace(other, exit_code=1))
    assert found["exit code"] == ("0 and 1",)
    assert found[SCORES] == ("churn_probability",)
    assert found[str(file.relative_to(root))] == ("content",)
    assert {"a", "recall"} <= {*found["recall_churn"]}
    assert found["food_delivery/more"] == ("one engine made none",)
    assert len(found) == 5


def test_each_engine_gets_stores_of_its_own_and_alerts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_ALERT_WEBHOOK", "https://hooks.example/secret")
    monkeypatch.setenv("SPARK_MASTER", "spark://host:7077")
    monkeypatch.setenv("SPARK_REMOTE", "sc://host:15002")
    monkeypatch.setenv("CHURN_TABLES", "catalog")
    settings = settings_from_env({**os.environ, "CHURN_PROJECT": str(tmp_path)})
    of = {name: engines._environment(settings, name, tmp_path / name) for name in ("sail", "local", "connect")}
    assert {name: found.get("SPARK_MASTER") for name, found in of.items()} == dict.fromkeys(of)
    assert of["connect"]["SPARK_REMOTE"] == "sc://host:15002"
    assert "SPARK_REMOTE" not in {**of["sail"], **of["local"]}
    for found in of.values():
        apart = settings_from_env(found)
        assert apart.alert_webhook is None
        assert apart.project == tmp_path
        assert apart.tables == "paths", "the tables of a catalog are the real ones"
    places = [settings_from_env(found) for found in of.values()]
    for name in ("lakehouse", "tracking_uri", "artifact_root", "dagster_home"):
        assert len({str(getattr(each, name)) for each in places}) == len(of)


@pytest.mark.system
@pytest.mark.usefixtures("java")
def test_the_command_runs_a_project_on_two_engines_apart_and_finds_it_equal(tmp_path: Path) -> None:
    # Judged as the shipped policy says, but at fewer dates.
    several = '"backtest"\nbacktest_dates = 2\nmin_backtest_dates = 2'
    project = tiny_project(tmp_path, evaluation=('"holdout"', several))
    done = subprocess.run(
        [sys.executable, "-m", "churn_assets.cli", "engines", "sail", "local"],
        env={"SPARK_LOCAL_IP": "127.0.0.1", "HOME": str(tmp_path), "CHURN_PROJECT": str(project)}
        | {name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == DONE, done.stdout
    assert "sail and local are equal in all" in done.stdout
    assert len(re.findall(r"the lifecycle took \d+ s, exit code 0", done.stdout)) == 2
    assert not {"lakehouse", "mlflow"} & {entry.name for entry in (project / "data").iterdir()}


def test_an_engine_that_cannot_be_chosen_is_refused_before_anything_runs(tmp_path: Path) -> None:
    settings = settings_from_env({"CHURN_PROJECT": str(tmp_path)})
    terminal = StringIO()
    with pytest.raises(UnknownEngineError, match="no server is named"):
        engines.main(Namespace(one="sail", other="connect"), settings, terminal, tmp_path / "log")
    assert "took" not in terminal.getvalue()

"""Every row of operating.md's tables of what is refused: typed as it stands there, told as it says, nothing changed."""

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient
from pyspark.sql import SparkSession

from churn_assets.cli import main
from churn_assets.delta.tables import row_count
from churn_assets_tests.conftest import ENGINE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
HEADING = "\n## What is refused\n"
HEADER = "order_id,customer_id,ordered_at,promised_at,delivered_at,subtotal\n"
# What the rows may name, beside what is not there.
FILES = {
    "policy.toml": "",
    "sources.toml": "[demo]\ncustomers = 1_000\nstart = 2025-08-01\n",
    "orders.csv": f"{HEADER}o1,c1,2025-09-01 12:00:00,2025-09-01 13:00:00,2025-09-01 12:40:00,20.5\n",
    "header.csv": HEADER,
    "empty.csv": "",
    "customers.csv": "customer_id,segment\nc1,student\n",
}
# What this machine's environment may say of the same things.
CLEARED = (
    "CHURN_LAKEHOUSE",
    "CHURN_ARTIFACTS",
    "CHURN_ALERT_WEBHOOK",
    "CHURN_ALERT_SMTP",
    "CHURN_CONTACTS_WEBHOOK",
    "MLFLOW_TRACKING_URI",
    "SPARK_MASTER",
    "SPARK_REMOTE",
    "SHOP",
)


@dataclass(frozen=True)
class Refusal:
    """One row: what is given, in which of the ways that the page knows, and what comes of it."""

    way: str
    given: str
    exit_code: int
    says: str


def refusals() -> list[Refusal]:
    _, _, section = PAGE.read_text(encoding="utf-8").partition(HEADING)
    found = []
    for part in section.partition("\n## ")[0].split("\n### ")[1:]:
        way = part.partition("\n")[0]
        rows = [re.split(r" \| ", line.strip("| ")) for line in part.splitlines() if line.startswith("| `")]
        found += [Refusal(way, given.strip("`"), int(code), says.strip("`")) for given, code, says in rows]
    return found


def of_policy(given: str, folder: Path) -> list[str]:
    (folder / "policy.toml").write_text(f"{given}\n", encoding="utf-8")
    return ["run"]


def of_sources(given: str, folder: Path) -> list[str]:
    # A cell of a table has one line.
    (folder / "sources.toml").write_text(given.replace(" ; ", "\n") + "\n", encoding="utf-8")
    return ["run"]


def of_run_config(given: str, folder: Path) -> list[str]:
    job, _, config = given.partition(": ")
    (folder / "run.yaml").write_text(config, encoding="utf-8")
    return ["run", "--job", job, "--config", "run.yaml"]


WAYS: Mapping[str, Callable[[str, Path], list[str]]] = {
    "In policy.toml": of_policy,
    "In sources.toml": of_sources,
    "In a run config": of_run_config,
    "In the environment": lambda given, _: shlex.split(given),
    "On the command line": lambda given, _: shlex.split(given),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an empty MLflow store, which takes seconds to make, and no lakehouse."""
    folder = tmp_path_factory.mktemp("refused") / "project"
    (folder / "data" / "mlflow").mkdir(parents=True)
    MlflowClient(f"sqlite:///{folder}/data/mlflow/mlflow.db").create_registered_model("quickbite_churn_predictor")
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file of the project by its digest, but for logs and Dagster's history, which record the attempt.

    And but for tables without a row, which stand for sources that are left out, and for what is held while a process
    lives, which is this one.
    """
    lakehouse = folder / "data" / "lakehouse"
    empty = [log.parent for log in lakehouse.rglob("_delta_log") if row_count(DeltaTable(log.parent)) == 0]
    kept = (
        "data/logs",
        "data/dagster_home",
        "data/lakehouse/held",
        *[table.relative_to(folder).as_posix() for table in empty],
    )
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = {file: file.relative_to(folder).as_posix() for file in files}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for file, name in names.items() if not name.startswith(kept)
    }


def test_the_page_has_rows_of_every_kind_and_enough_of_them() -> None:
    rows = refusals()
    assert {row.way for row in rows} == set(WAYS)
    assert len(rows) >= 60
    assert len({(row.way, row.given) for row in rows}) == len(rows)


@pytest.mark.parametrize("row", refusals(), ids=lambda row: f"{row.way.rpartition(' ')[2]}: {row.given}"[:90])
def test_what_the_page_says_is_refused_is_told_by_name_with_a_next_step_and_changes_nothing(
    spark: SparkSession,
    row: Refusal,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, out, is_unchanged = refused(row, template, tmp_path, monkeypatch, capfd)
    told = " ".join(out.split())
    assert code == row.exit_code in (1, 2)
    assert row.says in told
    assert re.search(r"(Next step|fix): \S+", told)
    assert "Traceback" not in out
    assert is_unchanged


def refused(
    row: Refusal,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> tuple[int, str, bool]:
    """Exit code, output, and whether every file is as it was."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    for name in CLEARED:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**ENGINE, "CHURN_PROJECT": str(folder), "DAGSTER_HOME": str(template.parent / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    words = WAYS[row.way](row.given, folder)
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    before = contents(folder)
    capfd.readouterr()
    try:
        code = main(words)
    except SystemExit as ended:  # of argparse, before there is anything to run
        code = int(str(ended.code))
    return code, capfd.readouterr().out, contents(folder) == before

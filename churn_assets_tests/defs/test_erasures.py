"""A customer who was forgotten is nowhere, and does not come back."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import deltalake
import pyarrow.parquet as pq
from dagster import DagsterRunStatus, ExecuteInProcessResult
from dagster._core.test_utils import create_run_for_test

from churn_assets.commands.reproduce import comparison, reproduce
from churn_assets.definitions import REFRESH
from churn_assets.defs.erasures import ERASURES, FORGET
from churn_assets.defs.lakehouse import QUARANTINE, SILVER
from churn_assets.defs.list_page import PAGE
from churn_assets.defs.retention import TARGETS
from churn_assets.defs.risk_report import FOLDER
from churn_assets.resources.abandoned_runs import DAGSTER_PROCESS_TAG
from churn_assets_tests.conftest import Project, causes_of

LIST_PAGE = f"{FOLDER}/{PAGE}.html"


def contents(folder: str) -> Iterator[tuple[str, str]]:
    """Every file under a folder with all that can be read of it: its bytes, and the cells of Parquet."""
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file():
            cells = (
                json.dumps(pq.ParquetFile(file).read().to_pylist(), default=str) if file.suffix == ".parquet" else ""
            )
            yield str(file.relative_to(folder)), file.read_bytes().decode("latin-1") + cells


def holding(folder: str, *ids: str) -> list[str]:
    """The files under a folder that hold one of the ids."""
    return [name for name, content in contents(folder) if any(each in content for each in ids)]


def forget(project: Project, *ids: str, reason: str = "asked by letter of 1 December") -> ExecuteInProcessResult:
    return project.run(FORGET, config={"forget": {"customer_ids": list(ids), "reason": reason}})


def those_to_forget(project: Project) -> tuple[str, str]:
    """A customer on the exported list, and one of whom a row was rejected."""
    listed = [row["customer_id"] for row in project.lakehouse.records(TARGETS) if not row["is_holdout"]]
    rejected = [json.loads(row["source_row"]) for row in project.lakehouse.records(QUARANTINE)]
    known = {row["customer_id"] for row in rejected if row.get("customer_id") and row["customer_id"].strip()}
    return listed[0], sorted(known - {listed[0]})[0]


def test_a_forgotten_customer_is_nowhere_and_does_not_come_back(listed: Project, tmp_path: Path) -> None:
    project = listed.copied_to(tmp_path / "project")
    ids = those_to_forget(project)
    lakehouse, root = project.lakehouse, project.settings.lakehouse
    before = holding(root, *ids)
    for place in (
        "exports/",
        LIST_PAGE,
        "demo/orders",
        "food_delivery/quarantined_rows",
        "churn_reasons",
        "_delta_log",
    ):
        assert any(place in name for name in before), f"nothing to forget in {place}"
    on_page = Path(lakehouse.path(LIST_PAGE)).read_text(encoding="utf-8").split("\n")
    source = deltalake.DeltaTable(lakehouse.path("demo/orders")).to_pyarrow_table()
    rows = {table: lakehouse.row_count(table) for table in lakehouse.tables()}
    with project.instance() as instance:
        # A run whose process was killed is nobody to wait for.
        killed = {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0, "run": str(uuid4())}
        create_run_for_test(
            instance,
            run_id=killed["run"],
            status=DagsterRunStatus.STARTED,
            tags={DAGSTER_PROCESS_TAG: json.dumps(killed)},
        )
    result = forget(project, *ids)
    assert result.success, causes_of(result)
    assert holding(root, *ids) == []
    # The page is without their lines, and otherwise what it was.
    left = [line for line in on_page if not any(each in line for each in ids)]
    assert len(left) < len(on_page)
    assert Path(lakehouse.path(LIST_PAGE)).read_text(encoding="utf-8").split("\n") == left
    for place in (project.settings.artifact_root, listed.settings.artifact_root):
        assert holding(place, *ids) == []
    # The others are there, in every version and to every reader.
    for table in lakehouse.tables():
        there = deltalake.DeltaTable(lakehouse.path(table))
        assert there.to_pyarrow_table().num_rows == lakehouse.row_count(table)
        assert 0 <= rows.get(table, 0) - lakehouse.row_count(table) < 1_500 or table == ERASURES
    assert lakehouse.row_count(SILVER) < rows[SILVER]
    assert lakehouse.read(SILVER).count() == lakehouse.row_count(SILVER)
    assert {row["kind"] for row in lakehouse.records(ERASURES)} == {"customer", "order"}
    # The source delivers them again.
    deltalake.write_deltalake(lakehouse.path("demo/orders"), source, mode="overwrite")
    refreshed = project.run(REFRESH)
    assert refreshed.success, causes_of(refreshed)
    assert [name for name in holding(root, *ids) if not name.startswith("demo/")] == []
    again = forget(project, *ids)
    assert again.success, causes_of(again)
    assert holding(root, *ids) == []
    made_again = reproduce(project.resources, project.settings, "1", lambda *_: lambda _: None)
    assert made_again.forgotten == 2
    assert "2 customers were forgotten since it was trained" in comparison(made_again)


def test_what_cannot_be_forgotten_is_refused_and_nothing_changes(project: Project) -> None:
    result = forget(project, "C0000001", reason="C0000001 asked")
    assert "The reason names a customer" in causes_of(result)[0]
    assert not project.lakehouse.has(ERASURES)

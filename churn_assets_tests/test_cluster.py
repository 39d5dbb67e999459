"""The same flow on Sail and on a standalone cluster: the same tables, trees and figures.

The whole flow reaches the cluster through a Spark Connect server, which is the cluster's driver; then a process of this
project is the driver, scores a week and learns. The whole flow with a driver of this project's own is compared with
Sail by the command for that, on local Spark: `commands/test_engines.py`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from churn_assets.churn.splits import is_validation
from churn_assets.defs.splits import TRAIN
from churn_assets_tests.clusters import connect_server, rows_learned, running, spark_environ, standalone_cluster
from churn_assets_tests.conftest import TABLES, TINY_POLICY, Project, causes_of, demo_sources
from churn_assets_tests.processes import PATIENCE_SECONDS

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("java")]

# What every run has of its own: its ids and its clock.
OF_THE_RUN = {"run_id", "dagster_run_id", "decision_id"}
OF_THE_RUN |= {"evaluated_at", "decided_at", "scored_at", "explained_at", "listed_at", "queued_at"}
EXPORT = "exports/retention_targets"


# A client of Spark Connect has no JVM of its own, so none is to be found.
JAVA = ("PATH", "JAVA_HOME", "SPARK_HOME", "PYSPARK_PYTHON")


@dataclass(frozen=True)
class Elsewhere:
    """What two drivers made, one after the other, with the executors of one cluster.

    flow: the whole flow, by a client of Spark Connect. scored: the scores of one week, by Spark's own driver.
    """

    flow: Project
    scored: Project


@pytest.fixture(scope="module")
def here(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The flow on the engine of the tests: all that `churn-assets run` does, the last week scored."""
    project = built.copied_to(tmp_path_factory.mktemp("here") / "project")
    result = project.score(project.weeks()[-1], project.weeks()[-1])
    assert result.success, causes_of(result)
    return project


@pytest.fixture(scope="module")
def elsewhere(built: Project, here: Project, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """The same source tables, and the same model, in processes whose environment alone tells them where Spark is.

    In each process Spark itself and workers of XGBoost learn afterwards.
    """
    folder = tmp_path_factory.mktemp("cluster")
    # The simulated orders end in the past, and here nothing says that they are simulated.
    policy = f"{TINY_POLICY}[freshness]\ntoday = {here.weeks()[-1]}\n"
    flow = Project.create(folder / "flow" / "project", policy=policy, sources=demo_sources(here.lakehouse.root))
    (folder / "scored").mkdir()
    scored = built.copied_to(folder / "scored" / "project")
    with standalone_cluster(folder, applications=2) as master:
        with connect_server(folder, master) as server:
            drive("flow", flow, without=JAVA, SPARK_REMOTE=server)
        drive("scored", scored, SPARK_MASTER=master)
    return Elsewhere(flow, scored)


def drive(what: str, project: Project, without: tuple[str, ...] = (), **where: str) -> None:
    """Runs the program `driving` on `project`, with its own folder for all that Spark and MLflow put somewhere."""
    folder = project.settings.project.parent
    environ = {name: value for name, value in spark_environ(folder).items() if name not in without} | where
    environ |= {
        "CHURN_PROJECT": str(project.settings.project),
        "MLFLOW_DFS_TMP": str(folder / "models"),
        "SPARK_DRIVER_MEMORY": "1g",
        "CHURN_AUTOMATION": "on",
    }
    log, program = folder / "run.log", ("-m", "churn_assets_tests.driving", what, str(fit_of(project)))
    with running(log, sys.executable, *program, environ=environ) as process:
        exit_code = process.wait(PATIENCE_SECONDS)
    assert exit_code == 0, log.read_text(encoding="utf-8")
    assert list((folder / "models").iterdir()) == [], "a model on its way to or from MLflow stays behind"


def fit_of(project: Project) -> Path:
    return project.settings.project / "fits.json"


def fits_of(project: Project) -> dict[str, str]:
    found: dict[str, str] = json.loads(fit_of(project).read_text(encoding="utf-8"))
    return found


def tables(project: Project) -> dict[str, pa.Table]:
    """Every Delta table that the flow wrote, without what is of the run."""
    root = Path(project.settings.lakehouse)
    names = [str(log.parent.relative_to(root)) for log in root.rglob("_delta_log")]
    found = {name: DeltaTable(str(root / name)) for name in names if not name.startswith("demo/")}
    rows = {name: table.to_pyarrow_dataset().to_table() for name, table in found.items()}
    return {name: of.drop_columns(sorted(OF_THE_RUN & {*of.column_names})) for name, of in rows.items()}


def sorted_rows(table: pa.Table) -> list[str]:
    """As text, in which a double has all its digits and the order of a map's entries, which says nothing, is one."""
    rows = table.to_pylist(maps_as_pydicts="strict")
    return sorted(json.dumps(row, sort_keys=True, default=str) for row in rows)


@pytest.mark.parametrize("what", ["flow", "scored"])
def test_every_table_has_the_same_rows(built: Project, here: Project, elsewhere: Elsewhere, what: str) -> None:
    ours, theirs = tables(here), tables(getattr(elsewhere, what))
    assert {*TABLES, "food_delivery/churn_scores", "food_delivery/retention_targets"} <= {*ours} == {*theirs}
    assert {name: of.schema for name, of in theirs.items()} == {name: of.schema for name, of in ours.items()}
    rows = {name: (sorted_rows(table), sorted_rows(theirs[name])) for name, table in ours.items()}
    differing = {name: [pair for pair in zip(*of, strict=False) if pair[0] != pair[1]][:3] for name, of in rows.items()}
    assert {name: pairs for name, pairs in differing.items() if pairs} == {}
    assert {name: len(of) for name, (_, of) in rows.items()} == {name: len(of) for name, (of, _) in rows.items()}
    # What was copied equals itself; these the driver wrote.
    assert not {"food_delivery/churn_scores", "food_delivery/retention_targets"} & {*tables(built)}


def test_the_trained_model_and_every_recorded_figure_are_the_same(here: Project, elsewhere: Elsewhere) -> None:
    flow = elsewhere.flow
    assert flow.tracking.exported_trees("1") == here.tracking.exported_trees("1")
    assert record(flow) == record(here)
    assert record(flow)["metrics"]["recall_churn"] > 0
    assert (flow.alias("staging"), flow.alias("production")) == ("1", "1")


def record(project: Project) -> Mapping[str, Any]:
    """What MLflow holds of the one training, but for what is of the run and of the code's checkout."""
    version = project.tracking.version("1")
    assert version is not None
    assert version.run_id is not None
    run = project.tracking.client.get_run(version.run_id)
    assert run.inputs is not None
    tags = ("model_digest", "policy_digest", "data_versions", "features", "threshold", "served_digest", "verdict")
    return {
        "status": run.info.status,
        "params": {name: value for name, value in run.data.params.items() if name != "policy.freshness.today"},
        "metrics": run.data.metrics,
        "tags": {name: run.data.tags[name] for name in tags},
        "inputs": sorted((found.dataset.name, found.dataset.digest) for found in run.inputs.dataset_inputs),
    }


def test_spark_itself_learns_the_same_trees_and_importances_wherever_it_runs(elsewhere: Elsewhere) -> None:
    """On rows that it wrote itself and on rows that Sail wrote; by executors and by this machine's cores."""
    through_connect, by_driver = fits_of(elsewhere.flow), fits_of(elsewhere.scored)
    found = by_driver["by Spark"]
    assert found.count('"weight":0.1') == 19
    assert through_connect["by Spark"] == found
    assert by_driver["by Spark on local cores"] == found


def test_it_is_said_why_two_executors_cannot_learn_one_model_through_connect(elsewhere: Elsewhere) -> None:
    found = fits_of(elsewhere.flow)
    assert found["workers"] == found["by two workers"]
    assert "only from Spark's own driver" in found["workers"]
    assert "Next step: set SPARK_MASTER instead of SPARK_REMOTE" in found["workers"]


def test_two_executors_learn_one_model_of_all_rows(here: Project, elsewhere: Elsewhere) -> None:
    """The trees are others than this process's; how well they rank `make bench ARGS=workers` measures."""
    found = fits_of(elsewhere.scored)
    # As many tasks as run at once, and not spark.default.parallelism, of which Spark would refuse the stage.
    assert found["workers"] == "2"
    assert found["by two workers again"] == found["by two workers"]
    assert found["by two workers"].count('"weight":0.5') == 21
    stages = rows_learned(elsewhere.scored.settings.project.parent)
    learned = here.lakehouse.read(TRAIN).where(~is_validation()).count()
    assert [{*of} for of in stages] == [{"0", "1"}] * 2
    assert [sum(of.values()) for of in stages] == [learned] * 2
    assert all(0.3 < rows / learned < 0.7 for of in stages for rows in of.values())


@pytest.mark.parametrize("what", ["flow", "scored"])
def test_the_retention_teams_file_is_the_same(here: Project, elsewhere: Elsewhere, what: str) -> None:
    ours, theirs = (
        {file.name: file.read_bytes() for file in Path(project.settings.lakehouse, EXPORT).iterdir()}
        for project in (here, getattr(elsewhere, what))
    )
    assert theirs == ours
    assert len(theirs) == 1

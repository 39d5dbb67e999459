"""The same flow on Sail, a standalone cluster and Spark Connect: the same tables, trees and figures.

Local Spark is compared with Sail by the command for that: `commands/test_engines.py`.
"""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from churn_assets.churn.splits import is_validation
from churn_assets.defs.splits import TRAIN
from churn_assets_tests.clusters import connect_server, rows_learned, running, spark_environ, standalone_cluster
from churn_assets_tests.conftest import TABLES, TINY_POLICY, Project, causes_of
from churn_assets_tests.processes import PATIENCE_SECONDS

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("java")]

# What every run has of its own: its ids and its clock.
OF_THE_RUN = {"run_id", "dagster_run_id", "decision_id"}
OF_THE_RUN |= {"evaluated_at", "decided_at", "scored_at", "explained_at", "listed_at", "queued_at"}
SOURCES = ("orders", "reviews", "customers", "campaign_contacts")
SOURCE = """[{name}]
format = "delta"
path = "{path}"
select = "SELECT * FROM raw_{name}"
"""
EXPORT = "exports/retention_targets"


@dataclass(frozen=True)
class Kind:
    """A way to run Spark: what provides it, and the one variable that names its address.

    drops: what the driver's environment has and this kind can do without.
    """

    provided: Callable[[Path], AbstractContextManager[str]]
    variable: str
    drops: tuple[str, ...] = ()


KINDS = {
    "standalone": Kind(standalone_cluster, "SPARK_MASTER"),
    # A client of Spark Connect has no JVM of its own, so none is to be found.
    "connect": Kind(connect_server, "SPARK_REMOTE", drops=("PATH", "JAVA_HOME", "SPARK_HOME", "PYSPARK_PYTHON")),
}


@pytest.fixture(scope="module")
def here(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The flow on the engine of the tests: all that `churn-assets run` does, the last week scored."""
    project = built.copied_to(tmp_path_factory.mktemp("here") / "project")
    result = project.score(project.weeks()[-1], project.weeks()[-1])
    assert result.success, causes_of(result)
    return project


@pytest.fixture(scope="module", params=KINDS)
def elsewhere(request: pytest.FixtureRequest, here: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The flow on the same source tables by `churn-assets run`, which its environment alone tells where Spark is.

    Then, in the same process, fits by Spark itself and by workers of XGBoost.
    """
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    landed = {name: here.lakehouse.path(f"demo/{name}") for name in SOURCES}
    sources = [SOURCE.format(name=name, path=path) for name, path in landed.items()]
    # The simulated orders end in the past, and here nothing says that they are simulated.
    policy = f"{TINY_POLICY}[freshness]\ntoday = {here.weeks()[-1]}\n"
    project = Project.create(folder / "project", policy=policy, sources="\n".join(sources))
    with kind.provided(folder) as address:
        environ = {name: value for name, value in spark_environ(folder).items() if name not in kind.drops}
        environ |= {
            kind.variable: address,
            "CHURN_PROJECT": str(project.settings.project),
            "MLFLOW_DFS_TMP": str(folder / "models"),
            "SPARK_DRIVER_MEMORY": "1g",
            "CHURN_AUTOMATION": "on",
        }
        run = (sys.executable, "-m", "churn_assets_tests.run_and_fit", str(fit_of(project)))
        with running(folder / "run.log", *run, environ=environ) as process:
            exit_code = process.wait(PATIENCE_SECONDS)
        assert exit_code == 0, (folder / "run.log").read_text(encoding="utf-8")
    assert list((folder / "models").iterdir()) == [], "a model on its way to or from MLflow stays behind"
    return project


@pytest.fixture(scope="module")
def fits() -> set[str]:
    """What Spark itself learned, as text, of each kind so far."""
    return set()


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


def test_every_table_has_the_same_rows(here: Project, elsewhere: Project) -> None:
    ours, theirs = tables(here), tables(elsewhere)
    assert {*TABLES, "food_delivery/churn_scores", "food_delivery/retention_targets"} <= {*ours} == {*theirs}
    assert {name: of.schema for name, of in theirs.items()} == {name: of.schema for name, of in ours.items()}
    rows = {name: (sorted_rows(table), sorted_rows(theirs[name])) for name, table in ours.items()}
    differing = {name: [pair for pair in zip(*of, strict=False) if pair[0] != pair[1]][:3] for name, of in rows.items()}
    assert {name: pairs for name, pairs in differing.items() if pairs} == {}
    assert {name: len(of) for name, (_, of) in rows.items()} == {name: len(of) for name, (of, _) in rows.items()}


def test_the_trained_model_and_every_recorded_figure_are_the_same(here: Project, elsewhere: Project) -> None:
    assert elsewhere.tracking.exported_trees("1") == here.tracking.exported_trees("1")
    assert record(elsewhere) == record(here)
    assert record(elsewhere)["metrics"]["recall_churn"] > 0
    assert (elsewhere.alias("staging"), elsewhere.alias("production")) == ("1", "1")


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


def test_spark_itself_learns_the_same_trees_and_importances_wherever_it_runs(
    elsewhere: Project, fits: set[str]
) -> None:
    found = fits_of(elsewhere)["by Spark"]
    assert found.count('"weight":0.1') == 19
    fits.add(found)
    assert len(fits) == 1


def test_two_executors_learn_one_model_of_all_rows_or_it_is_said_why_they_cannot(
    here: Project, elsewhere: Project, request: pytest.FixtureRequest
) -> None:
    """The trees are others than this process's; how well they rank `make bench ARGS=workers` measures."""
    workers, first, again = (fits_of(elsewhere)[name] for name in ("workers", "by two workers", "by two workers again"))
    if "connect" in request.node.name:
        assert workers == first
        assert "only from Spark's own driver" in first
        assert "Next step: set SPARK_MASTER instead of SPARK_REMOTE" in first
        return
    # As many tasks as run at once, and not spark.default.parallelism, of which Spark would refuse the stage.
    assert workers == "2"
    assert again == first
    assert first.count('"weight":0.5') == 21
    stages = rows_learned(elsewhere.settings.project.parent)
    learned = here.lakehouse.read(TRAIN).where(~is_validation()).count()
    assert [{*of} for of in stages] == [{"0", "1"}] * 2
    assert [sum(of.values()) for of in stages] == [learned] * 2
    assert all(0.3 < rows / learned < 0.7 for of in stages for rows in of.values())


def test_the_retention_teams_file_is_the_same(here: Project, elsewhere: Project) -> None:
    ours, theirs = (
        {file.name: file.read_bytes() for file in Path(project.settings.lakehouse, EXPORT).iterdir()}
        for project in (here, elsewhere)
    )
    assert theirs == ours
    assert len(theirs) == 1

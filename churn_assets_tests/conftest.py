"""Fixtures every test may use: one Spark session for the whole suite, and projects with a life of their own."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import AssetKey, DagsterEventType, ExecuteInProcessResult
from pyspark.sql import SparkSession

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs.scoring import SCORING
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import Settings, prepare_dagster_home, settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets.resources.tracking import TrackingResource

# For tests of what happens around a model, not of the model: few rows, and a gate nearly any model passes.
TINY_POLICY = """
[alerts]
budget = 0.90
[gate]
min_recall = 0.05
precision_floor = 0.02
max_recall_interval = 0.99
max_shortfall = 0.99
min_gain_over_rule = -0.99
"""
TINY_DEMO = """
[demo]
customers = 1_000
start = 2025-08-01
"""
# The tables of the flow in the order in which they are written.
TABLES = (
    "food_delivery/orders",
    "food_delivery/reviews",
    "food_delivery/customers",
    "food_delivery/segment_dimension",
    "food_delivery/silver_orders_enriched",
    "food_delivery/silver_customers",
    "food_delivery/quarantined_rows",
    "food_delivery/gold_customer_churn_risk",
    "food_delivery/ml_churn_features",
    "food_delivery/label_feasibility",
    "food_delivery/train_features",
    "food_delivery/test_features",
    "recall_churn",
)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = spark_resource(settings_from_env({"SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "3g"})).spark_session
    yield session
    session.stop()


@dataclass(frozen=True)
class Project:
    """An installation under one folder: policy, sources, tables, MLflow store and Dagster history."""

    settings: Settings
    policy: ChurnPolicy

    @staticmethod
    def at(folder: Path) -> "Project":
        """The project whose policy.toml and sources.toml lie in `folder`."""
        settings = settings_from_env(
            {"CHURN_PROJECT": str(folder), "SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "3g"}
        )
        return Project(settings, load_policy(settings.policy_file))

    @staticmethod
    def create(folder: Path, *, policy: str, sources: str) -> "Project":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policy.toml").write_text(policy, encoding="utf-8")
        (folder / "sources.toml").write_text(sources, encoding="utf-8")
        return Project.at(folder)

    def copied_to(self, folder: Path) -> "Project":
        """The same state in another folder; MLflow's artifacts stay in the first, which their records name."""
        shutil.copytree(self.settings.project, folder)
        return replace(Project.at(folder), policy=self.policy)

    def under(self, policy: ChurnPolicy) -> "Project":
        return replace(self, policy=policy)

    @property
    def resources(self) -> dict[str, Any]:
        return default_resources(self.settings) | {"policy": self.policy}

    @property
    def lakehouse(self) -> LakehouseResource:
        return self.resources["lakehouse"]

    @property
    def tracking(self) -> TrackingResource:
        return self.resources["tracking"]

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(prepare_dagster_home(self.settings))) as instance:
            yield instance

    def run(
        self,
        job: str = LIFECYCLE,
        *keys: str,
        resources: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> ExecuteInProcessResult:
        """Runs `job`, or of it only the assets `keys` with their checks, on the project's Dagster instance.

        config: knobs by the asset they are of.
        """
        defs = build_defs(self.resources | dict(resources or {}))
        with self.instance() as instance:
            return defs.resolve_job_def(job).execute_in_process(
                instance=instance,
                raise_on_error=False,
                asset_selection=[AssetKey(key.split("/")) for key in keys] or None,
                run_config={"ops": {asset: {"config": knobs} for asset, knobs in (config or {}).items()}},
            )

    def run_from(self, key: str, *, resources: Mapping[str, Any] | None = None) -> ExecuteInProcessResult:
        """Runs the asset `key` and everything downstream of it."""
        graph = build_defs(self.resources).resolve_asset_graph()
        # Scoring is partitioned and has a job of its own, with all that follows from the scores.
        flow = dg.AssetSelection.keys(key).downstream() - dg.AssetSelection.groups("scoring", "monitoring")
        chosen = flow.required_multi_asset_neighbors().resolve(graph)
        steps = [asset for asset in chosen if asset in graph.materializable_asset_keys]
        return self.run(LIFECYCLE, *["/".join(asset.path) for asset in steps], resources=resources)

    def weeks(self) -> list[date]:
        """The panel's as-of dates."""
        return self.lakehouse.dates("food_delivery/ml_churn_features", "as_of")

    def score(self, first: date, last: date, *keys: str) -> ExecuteInProcessResult:
        """One run of the scoring job over the weeks `first` to `last`, or of it only `keys` with their checks."""
        tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
        with self.instance() as instance:
            return (
                build_defs(self.resources)
                .resolve_job_def(SCORING)
                .execute_in_process(
                    instance=instance,
                    raise_on_error=False,
                    tags=tags,
                    asset_selection=[AssetKey(key.split("/")) for key in keys] or None,
                )
            )

    def versions(self) -> dict[str, int | None]:
        """The latest version of every table of the flow."""
        lakehouse = self.lakehouse
        return {table: lakehouse.version(table) for table in TABLES}

    def alias(self, name: str) -> str | None:
        """The model version under an alias."""
        version = self.tracking.version_under(name)
        return None if version is None else str(version.version)


def checks_of(result: ExecuteInProcessResult) -> dict[str, bool]:
    """Whether each check of a run passed, by `table: check`."""
    evaluations = result.get_asset_check_evaluations()
    return {f"{'/'.join(found.asset_key.path)}: {found.check_name}": found.passed for found in evaluations}


def causes_of(result: ExecuteInProcessResult) -> list[str]:
    """What each failed step's own code said, as `ErrorName: message`."""
    causes = []
    for event in result.all_events:
        if event.event_type is DagsterEventType.STEP_FAILURE:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            causes.append("" if error is None else error.message)
    return causes


def materializations_of(result: ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """What a run materialized, by asset key, in order. An asset materialized twice is an error."""
    found = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    by_key = {"/".join(materialization.asset_key.path): materialization for materialization in found}
    assert len(by_key) == len(found)
    return by_key


@pytest.fixture(scope="session")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny demo carried through the whole flow, with version 1 in production. Copy it before changing it."""
    project = Project.create(tmp_path_factory.mktemp("built") / "project", policy=TINY_POLICY, sources=TINY_DEMO)
    for job in (DEMO, LIFECYCLE):
        result = project.run(job)
        assert result.success, causes_of(result)
    return project


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project for one test to change."""
    return built.copied_to(tmp_path / "project")


@pytest.fixture(scope="session")
def listed(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The built project with its last two weeks scored, listed and reported. Copy it before changing it."""
    project = built.copied_to(tmp_path_factory.mktemp("listed") / "project")
    result = project.score(*project.weeks()[-2:])
    assert result.success, causes_of(result)
    # The monitoring's may fail: this little demo is trained on its crisis alone.
    others = {name: found for name, found in checks_of(result).items() if "monitoring" not in name}
    assert set(others.values()) == {True}, others
    return project


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ADVICE = "Chromium is missing. Next step: sudo apt-get install chromium, or put another Chromium on the PATH"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path; without one a test is skipped, and fails in CI, with what to type."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail(ADVICE)
    if found is None:
        pytest.skip(ADVICE)
    return found


@pytest.fixture(scope="session")
def uci_folder() -> Path:
    """Real order data and the panel that others computed from them."""
    root = os.environ.get("CHURN_TEST_DATA")
    if not root:
        pytest.skip("set CHURN_TEST_DATA to the folder that holds uci_online_retail/ to compare with real data")
    folder = Path(root) / "uci_online_retail"
    for name in ("online_retail.parquet", "reference_panel.parquet"):
        assert (folder / name).is_file(), f"CHURN_TEST_DATA is set, but {folder} lacks {name}"
    return folder

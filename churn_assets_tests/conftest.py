"""Fixtures every test may use: one Spark session for each process, and projects with a life of their own.

Tiers: `unit` asks no engine, `flow` uses the session, `system` starts the processes that people start. The first two
are told apart by the fixtures a test asks for.
"""

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster import AssetKey, DagsterEventType, ExecuteInProcessResult
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from filelock import FileLock
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from pyspark.sql import SparkSession
from sqlalchemy import Engine, create_engine
from sqlalchemy.event import listens_for

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_model import PurchaseHistories, histories
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs.scoring import SCORING
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import Settings, prepare_dagster_home, settings_from_env
from churn_assets.resources.sources import load_sources
from churn_assets.resources.spark import spark_resource
from churn_assets.resources.tracking import TrackingResource
from churn_assets.serving import probe
from churn_assets_tests import feature_tables

# As the command line has it: a test process holds as much, for longer.
gc.set_threshold(50_000)

# For tests of what happens around a model, not of the model: few rows, one date, and a gate nearly any model passes.
TINY_POLICY = """
[alerts]
budget = 0.90
[gate]
evaluation = "holdout"
min_recall = 0.05
precision_floor = 0.02
max_attainable_share = 0.999
max_recall_interval = 0.99
max_shortfall = 0.99
min_gain_over_rule = -0.99
max_miscalibration = 100.0
"""
# Knobs of a training that make another model of the same rows: the same one again is registered by nobody.
OTHERWISE = {"iterations": 10}
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


DEMO_TABLES = ("orders", "reviews", "customers", "campaign_contacts")


def demo_sources(lakehouse: str) -> str:
    """A sources.toml of the tables that the demo left in a lakehouse."""
    of_table = '[{0}]\nformat = "delta"\npath = "{1}/demo/{0}"\nselect = "SELECT * FROM raw_{0}"\n'
    return "\n".join(of_table.format(name, lakehouse) for name in DEMO_TABLES)


# CHURN_TEST_ENGINE=local runs the flow tests on Spark.
ENGINE = {
    "CHURN_ENGINE": os.environ.get("CHURN_TEST_ENGINE", "sail"),
    "SPARK_DRIVER_MEMORY": "3g",
    # The tests' projects are deployments that are switched on.
    "CHURN_AUTOMATION": "on",
}
# What steps print stays where it is printed: to file it Dagster starts four processes for each run.
NO_OUTPUT_KEPT = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
# The files that take longest, as `--durations=0` says; they begin first, so that no process ends long after the other.
LONGEST_FIRST = (
    "test_cluster.py",
    "test_cut_off.py",
    "defs/test_ready_features.py",
    "defs/test_sabotage.py",
    "commands/test_engines.py",
    "defs/test_estimators.py",
    "test_pipeline.py",
    "test_your_data.py",
    "defs/test_registry.py",
    "defs/test_training_runs.py",
    "defs/test_maintenance.py",
    "test_flow_on_object_store.py",
    "defs/test_refreshing.py",
    "demo/test_simulator.py",
    "test_catalog_lakehouse.py",
    "test_source_shapes.py",
    "test_daemon.py",
    "commands/test_reproduce.py",
    "test_environments.py",
    "test_postgres.py",
    "defs/test_gates.py",
    "test_calendar_cases.py",
    "test_reference.py",
    "test_shops.py",
    "defs/test_scoring.py",
    "defs/test_erasures.py",
    "test_browser.py",
    "defs/test_monitoring.py",
    "commands/test_run.py",
    "commands/test_history.py",
    "churn/test_touched.py",
    "defs/test_retention.py",
    "test_add_a_feature.py",
    "test_real_data.py",
    "churn/test_contract.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("system") is None:
            item.add_marker("flow" if "spark" in getattr(item, "fixturenames", ()) else "unit")
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    folder = Path(__file__).parent
    items.sort(key=lambda item: place.get(item.path.relative_to(folder).as_posix(), len(place)))


@listens_for(Engine, "connect")
def _sqlite_without_waiting_for_the_disk(connection: Any, _: Any) -> None:
    # Dagster and MLflow commit thousands of times in a suite, 4 ms each on a disk; no test pulls the plug (2026-11-28).
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")


@lru_cache(maxsize=64)
def _kept_engine(url: str, timeout: float) -> Engine:
    engine = create_engine(url, connect_args={"timeout": timeout})
    # Said after each connection.
    engine.dispose = lambda **_: None  # type: ignore[method-assign]
    return engine


@pytest.fixture(autouse=True, scope="session")
def _event_logs_stay_open() -> Iterator[None]:
    """Dagster's event log makes an engine for each connection: statements compiled, files opened and closed anew."""

    def kept(url: str, *, connect_args: Mapping[str, float], **_: Any) -> Engine:
        return _kept_engine(url, **connect_args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite_event_log, "create_engine", kept)
        yield


@pytest.fixture(autouse=True, scope="session")
def _migrations_are_read_once() -> Iterator[None]:
    """Dagster and MLflow load all their migrations for each file of theirs, to see that it needs none."""
    read, known = ScriptDirectory.from_config, dict[str | None, ScriptDirectory]()

    def kept(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(config)
        return known[place]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ScriptDirectory, "from_config", kept)
        yield


@pytest.fixture(autouse=True, scope="session")
def _mlflow_is_loaded_once_for_trials() -> Iterator[None]:
    """Each trial of a version is a fork, as always; but of a process that loads MLflow for all tests of this one."""
    start, loaded = probe._Loaded, list[probe._Loaded]()

    def kept() -> probe._Loaded:
        if not (loaded and loaded[0].is_waiting()):
            loaded[:] = [start()]
        return loaded[0]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(probe, "_Loaded", kept)
        yield


@pytest.fixture(scope="module")
def figures_not_rendered() -> Iterator[None]:
    """For flows of which no picture is looked at: to render them is a fifth of a flow's time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FigureCanvasAgg, "print_png", lambda _, file: file.write(b"a picture"))
        patched.setattr(FigureCanvasSVG, "print_svg", lambda _, file, **__: file.write(b"a picture"))
        yield


@pytest.fixture(autouse=True)
def _unit_tests_have_no_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test asks no engine, though another test of its process may have started one."""
    if request.node.get_closest_marker("unit") is not None:

        def refused(*_: Any, **__: Any) -> None:
            raise AssertionError("A unit test starts no engine. Next step: let it use the fixture spark.")

        for started in ("pyspark.core.context.launch_gateway", "pyspark.sql.connect.session.SparkSession.client"):
            monkeypatch.setattr(started, refused)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = spark_resource(settings_from_env(ENGINE)).spark_session
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
        settings = settings_from_env({"CHURN_PROJECT": str(folder), **ENGINE})
        return Project(settings, load_policy(settings.policy_file, load_sources(settings.sources_file).catalogue))

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

    @cached_property
    def lakehouse(self) -> LakehouseResource:
        """To look into it from outside, as `tracking`: what runs here makes its own."""
        return self.resources["lakehouse"]

    @cached_property
    def tracking(self) -> TrackingResource:
        return self.resources["tracking"]

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        ref = InstanceRef.from_dir(str(prepare_dagster_home(self.settings)), overrides=NO_OUTPUT_KEPT)
        with dg.DagsterInstance.from_ref(ref) as instance:
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


def built_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], ExecuteInProcessResult]
) -> Project:
    """The project in the folder that `build` is given: made by the first test process that asks, for all of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            result = build(folder)
            assert result.success, causes_of(result)
            done.touch()
    return Project.at(folder)


@pytest.fixture(scope="session")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny demo carried through the whole flow, with version 1 in production. Copy it before changing it."""

    def build(folder: Path) -> ExecuteInProcessResult:
        project = Project.create(folder, policy=TINY_POLICY, sources=TINY_DEMO)
        assert project.run(DEMO).success
        return project.run(LIFECYCLE)

    return built_once(tmp_path_factory, "built", build)


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project for one test to change."""
    return built.copied_to(tmp_path / "project")


@pytest.fixture(scope="session")
def listed(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The built project with its last two weeks scored, listed and reported. Copy it before changing it."""

    def build(folder: Path) -> ExecuteInProcessResult:
        project = built.copied_to(folder)
        last_but_one, last = project.weeks()[-2:]
        result = project.score(last_but_one, last)
        # The monitoring's may fail: this little demo is trained on its crisis alone.
        others = {name: found for name, found in checks_of(result).items() if "monitoring" not in name}
        assert set(others.values()) == {True}, others
        return result

    return built_once(tmp_path_factory, "listed", build)


@pytest.fixture(scope="session")
def delivered(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A ready feature table without orders carried through the whole flow, with version 1 in production."""

    def build(folder: Path) -> ExecuteInProcessResult:
        project = Project.create(folder, policy=TINY_POLICY, sources=feature_tables.FEATURES)
        feature_tables.write(feature_tables.visits(), folder)
        return project.run(LIFECYCLE)

    return built_once(tmp_path_factory, "delivered", build)


@pytest.fixture(scope="session")
def cdnow() -> PurchaseHistories:
    """The histories that the authors of BG/NBD published, as a package carries them; nothing of that package runs."""
    files = metadata.files("lifetimes") or []
    (table,) = [Path(str(file.locate())) for file in files if file.name == "cdnow_customers_summary.csv"]
    rows = pd.read_csv(table)
    return histories(rows["frequency"], rows["recency"], rows["T"])


JAVA_ADVICE = "Java is missing, which Spark needs. Next step: make java, or set JAVA_HOME"


@pytest.fixture(scope="session")
def java() -> None:
    """For tests that start a JVM: without Java they are skipped, and fail in CI, with what to type."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None and os.environ.get("CI"):
        pytest.fail(JAVA_ADVICE)
    if found is None:
        pytest.skip(JAVA_ADVICE)


@pytest.fixture(autouse=True)
def dagster_home_restored() -> Iterator[None]:
    """A command names Dagster's folder to the process that it is; here other tests have the same process."""
    before = os.environ.get("DAGSTER_HOME")
    yield
    os.environ.pop("DAGSTER_HOME", None)
    if before is not None:
        os.environ["DAGSTER_HOME"] = before


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

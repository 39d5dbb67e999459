"""What Dagster loads: complete, described, cheap, and refused when the project's files are wrong."""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from churn_assets import defs as stages
from churn_assets.churn.arrivals import ARRIVAL_RULES
from churn_assets.churn.errors import InvalidPolicyError, InvalidSourcesError
from churn_assets.churn.outbox import ALL_DELIVERED, NOBODY_KEPT_OFF, SENT_ONCE
from churn_assets.churn.tables import RETENTION_TABLES, SOURCE_TABLES
from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.defs import freshness, monitoring
from churn_assets.resources.settings import settings_from_env

CHECKOUT = Path(__file__).resolve().parents[1]
LOAD = "from churn_assets.definitions import defs; defs()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of the shipped files, with nothing built."""
    for name in ("policy.toml", "sources.toml"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def defs(folder: Path) -> dg.Definitions:
    return build_defs(default_resources(settings_from_env({"CHURN_PROJECT": str(folder)})))


def run_python(code: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter with no environment but `environ`."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environ},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


# --- loading does nothing ---


def test_loading_starts_no_jvm_and_touches_no_store_and_no_table(folder: Path) -> None:
    # `java` on this PATH would leave a file behind: nobody may call it.
    witness, fake_java = folder / "java_was_called", folder / "bin" / "java"
    fake_java.parent.mkdir()
    fake_java.write_text(f"#!/bin/sh\necho called >{witness}\nexit 1\n", encoding="utf-8")
    fake_java.chmod(0o755)
    before = set(folder.rglob("*"))
    code = f"""
{LOAD}
import sys
from pyspark import SparkContext
assert SparkContext._gateway is None, "a JVM was started"
assert SparkContext._active_spark_context is None
assert "deltalake" not in sys.modules, "without a JVM nothing else can read a table"
assert "mlflow" not in sys.modules, "without it nothing asks a store"
"""
    environ = {"CHURN_PROJECT": str(folder), "CHURN_LAKEHOUSE": str(folder / "no" / "such" / "lakehouse")}
    loaded = run_python(code, **environ, PATH=f"{fake_java.parent}:/usr/bin:/bin", JAVA_HOME=str(folder))
    assert loaded.returncode == 0, loaded.stderr
    assert not witness.exists()
    assert set(folder.rglob("*")) == before, "loading made files"


def test_loading_reaches_no_network(folder: Path) -> None:
    code = f"""
import socket
def refused(*_, **__):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = refused
{LOAD}
"""
    places = {"MLFLOW_TRACKING_URI": "http://mlflow.invalid:5000", "SPARK_REMOTE": "sc://spark.invalid:15002"}
    loaded = run_python(code, CHURN_PROJECT=str(folder), CHURN_LAKEHOUSE="s3a://bucket.invalid/lake", **places)
    assert loaded.returncode == 0, loaded.stderr


def test_loading_imports_nothing_heavier_than_dagster_and_its_integrations(folder: Path) -> None:
    """A code location is loaded by each process: what only some steps need waits, as MLflow does."""
    code = f"""
import sys
import dagster, dagster_pyspark, pandas, psutil
there = {{name.partition(".")[0] for name in sys.modules}}
{LOAD}
print(*{{name.partition(".")[0] for name in sys.modules}} - there - sys.stdlib_module_names)
"""
    ran = run_python(code, CHURN_PROJECT=str(folder))
    assert ran.returncode == 0, ran.stderr
    assert {name for name in ran.stdout.split() if "editable" not in name} == {"churn_assets"}


# --- wrong files are refused at load ---


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("[alerts]\nbudget = 1.5\n", "alerts.budget: found 1.5"),
        ('[gate]\nmin_recall = "0.4"\n', "gate.min_recall: found '0.4'"),
        ("[gate]\nminimum_recall = 0.4\n", "gate.minimum_recall: unknown key"),
        ("[windows]\neligibility_days = 90\n", "windows: eligibility_days (90) must not exceed observation_days (60)"),
        ("[alerts\n", "cannot be read as TOML"),
    ],
)
def test_a_wrong_policy_is_refused_with_file_and_key(folder: Path, content: str, key: str) -> None:
    (folder / "policy.toml").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidPolicyError) as refused:
        default_resources(settings_from_env({"CHURN_PROJECT": str(folder)}))
    assert str(folder / "policy.toml") in str(refused.value)
    assert key in str(refused.value)
    assert "Next step: " in str(refused.value)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("", "needs [orders], the one table that cannot be absent, or [demo]"),
        ('[orders]\nformat = "xlsx"\npath = "a"\n', "orders.format: found 'xlsx'"),
        ('[orders]\nformat = "csv"\n', "orders.path: is required"),
        ('[demo]\n[orders]\nformat = "csv"\npath = "a"\n', "remove [demo] to use your own tables"),
        ("[demo]\ncustomer = 5\n", "demo.customer: unknown key"),
        ("[demo]\nprevalence = 0.9\n", "demo.prevalence: found 0.9"),
    ],
)
def test_wrong_sources_are_refused_with_file_and_key(folder: Path, content: str, key: str) -> None:
    (folder / "sources.toml").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidSourcesError) as refused:
        default_resources(settings_from_env({"CHURN_PROJECT": str(folder)}))
    assert str(folder / "sources.toml") in str(refused.value)
    assert key in str(refused.value)
    assert "Next step: " in str(refused.value)


def test_all_wrong_keys_are_listed_at_once(folder: Path) -> None:
    (folder / "policy.toml").write_text("[alerts]\nbudget = 2.0\n[gate]\nconfidence = 1.0\n[x]\n", encoding="utf-8")
    with pytest.raises(InvalidPolicyError) as refused:
        default_resources(settings_from_env({"CHURN_PROJECT": str(folder)}))
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["alerts.budget", "gate.confidence", "x"]


# --- what a person sees in the interface ---


def test_every_asset_has_group_description_owner_and_kinds(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    keys = graph.materializable_asset_keys
    assert len(keys) >= 15
    for key in keys:
        node = graph.get(key)
        assert node.group_name not in (None, "default"), key
        assert node.description, key
        assert node.owners == ["team:retention-ml"], key
        assert node.kinds, key


def test_every_check_has_a_description_and_every_gate_blocks(defs: dg.Definitions) -> None:
    specs = [spec for check in defs.asset_checks or [] for spec in check.check_specs]
    assert [spec.key for spec in specs if not spec.description] == []
    warnings_only = {spec.name for spec in specs if not spec.blocking}
    others = {"quarantined_share", "impossible_pace", "informative_features", "model_beats_single_features"}
    # The company may know why customers never ordered; of opt-outs the policy may ask more.
    others |= {"reviews__match_orders", "customers__match_customers", "campaign_contacts__match_customers"}
    others |= {"repaired_share"}
    # Training on what came is right where it is labelled; the scoring looks at its age itself.
    others |= set(ARRIVAL_RULES)
    # What cannot be read of a source costs its row, by the rules of cleaning.
    others |= {f"{table.name}__readable_values" for table in (*SOURCE_TABLES, *RETENTION_TABLES)}
    # Who may not be contacted is kept out before anything is sent; the checks tell of it.
    others |= {SENT_ONCE, NOBODY_KEPT_OFF, ALL_DELIVERED}
    # Where the estimate may not rank the value at risk does, and lists go on.
    others |= {"uplift_gate"}
    # What has been served cannot be taken back by holding up what comes after it.
    # A table that is late must not keep the run from writing it.
    assert warnings_only == others | set(monitoring.CHECKS) | {freshness.CHECK}


def test_checks_are_of_assets_that_exist(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    assert {key.asset_key for key in graph.asset_check_keys} <= graph.get_all_asset_keys()


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(stages.__path__)])
def test_no_module_of_assets_or_checks_is_forgotten(defs: dg.Definitions, name: str) -> None:
    module, graph = importlib.import_module(f"{stages.__name__}.{name}"), defs.resolve_asset_graph()
    made = dg.load_assets_from_modules([module])
    keys = {key for found in made if isinstance(found, dg.AssetsDefinition) for key in found.keys}
    assert keys <= graph.get_all_asset_keys()
    checks = [key for found in dg.load_asset_checks_from_modules([module]) for key in found.check_keys]
    assert set(checks) <= graph.asset_check_keys


def test_groups_are_the_stages_in_the_order_of_the_flow(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    order = [
        "demo",
        "lakehouse",
        "features",
        "feasibility",
        "splits",
        "training",
        "evaluation",
        "registry",
        "scoring",
        "monitoring",
    ]
    found: list[str] = []
    for level in graph.toposorted_asset_keys_by_level:
        for key in level:
            group = graph.get(key).group_name
            if group not in found:
                found.append(group)
            # Whatever an asset depends on belongs to its stage or an earlier one.
            for parent in graph.get(key).parent_keys:
                assert order.index(graph.get(parent).group_name) <= order.index(group)
    assert set(found) == set(order)


@pytest.mark.parametrize(
    ("switch", "status", "mode"), [({}, "STOPPED", "manual"), ({"CHURN_AUTOMATION": "on"}, "RUNNING", "auto")]
)
def test_nothing_runs_or_is_promoted_by_itself_until_a_deployment_is_switched_on(
    folder: Path, switch: dict[str, str], status: str, mode: str
) -> None:
    resources = default_resources(settings_from_env({"CHURN_PROJECT": str(folder), **switch}))
    assert resources["policy"].promotion.mode == mode
    found = {sensor.name: sensor.default_status.value for sensor in build_defs(resources).sensors or []}
    assert found == {
        "retrain_on_feature_refresh": status,
        "alert_on_failure": status,
        "refresh_on_new_orders": "STOPPED",
    }


def test_runs_stay_in_one_process_so_that_they_share_one_jvm(defs: dg.Definitions) -> None:
    assert defs.resolve_job_def(LIFECYCLE).executor_def is dg.in_process_executor
    assert defs.executor is dg.in_process_executor


def test_without_a_demo_there_is_no_demo_asset_and_no_demo_job(folder: Path) -> None:
    (folder / "sources.toml").write_text('[orders]\nformat = "csv"\npath = "orders.csv"\n', encoding="utf-8")
    defs = build_defs(default_resources(settings_from_env({"CHURN_PROJECT": str(folder)})))
    keys = defs.resolve_asset_graph().get_all_asset_keys()
    assert {key.path[0] for key in keys} == {
        "food_delivery",
        "churn_pipeline_model",
        "recall_churn",
        "registered_churn_model",
        "production_churn_model",
        "retrain_decision",
        "retention_list_page",
        "churn_risk_report",
    }
    names = {job.name for job in defs.jobs or []}
    assert LIFECYCLE in names
    assert DEMO not in names


def test_dagster_validates_what_the_workspace_file_names(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    validated = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        env={"PATH": os.environ["PATH"], "DAGSTER_HOME": str(home), "CHURN_PROJECT": str(folder), "HOME": str(folder)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert validated.returncode == 0, validated.stderr
    assert "Validation successful for code location churn_assets.definitions" in validated.stdout + validated.stderr

"""What the sensors decide, tick by tick: on Delta logs and Dagster's history alone, without a JVM."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import deltalake
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from dagster._core.test_utils import create_run_for_test
from dagster_pyspark import LazyPySparkResource

from churn_assets.churn.ledger import LEDGER_SCHEMA, Action, Decision, Subject
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.retraining import DECISION_SCHEMA, RetrainDecision
from churn_assets.definitions import build_defs
from churn_assets.defs import automation, scoring
from churn_assets.defs.automation import REFRESH, TRAINING, Seen
from churn_assets.defs.features import PANEL
from churn_assets.defs.monitoring import DECISIONS
from churn_assets.resources.abandoned_runs import DAGSTER_PROCESS_TAG, end_vanished_runs, this_process
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import LEDGER
from churn_assets.resources.sources import Source, SourceCatalog, Sources
from churn_assets.resources.trained_models import MODEL_ARTIFACT
from churn_assets_tests.conftest import Project

RULE = "no_nulls"


@dataclass
class Watched:
    """A lakehouse with a panel written by another tool, and the sensor that watches it, tick by tick."""

    lakehouse: LakehouseResource
    instance: dg.DagsterInstance
    policy: ChurnPolicy
    cursor: str | None = None

    def write(self, rows: pd.DataFrame, mode: Literal["overwrite", "append"] = "overwrite") -> None:
        path = Path(self.lakehouse.path(PANEL))
        path.parent.mkdir(parents=True, exist_ok=True)
        deltalake.write_deltalake(str(path), rows, mode=mode)

    def trained_on(self, version: int) -> None:
        metadata = {"inputs": {PANEL: version}}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(MODEL_ARTIFACT, metadata=metadata))

    def tick(self) -> dg.RunRequest | str:
        """The run the sensor asks for, or why it asks for none."""
        resources = {"lakehouse": self.lakehouse, "policy": self.policy}
        with dg.build_sensor_context(self.instance, cursor=self.cursor, resources=resources) as context:
            found = automation.retrain_on_feature_refresh(context)
            self.cursor = context.cursor
        if isinstance(found, dg.RunRequest):
            return found
        assert isinstance(found, dg.SkipReason)
        return str(found.skip_message)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=LazyPySparkResource(spark_config={}))
    with dg.instance_for_test() as instance:
        yield Watched(lakehouse, instance, ChurnPolicy())


ROWS = pd.DataFrame(
    {"customer_id": ["a", "b", "c"], "as_of": pd.to_datetime(["2025-09-01"] * 3).date, "total_orders": [1.0, 2.0, 4.0]}
)
OTHER = ROWS.assign(total_orders=[1.0, 3.0, 4.0])


def asked(found: dg.RunRequest | str) -> str:
    assert isinstance(found, dg.RunRequest), found
    assert found.run_key is not None
    # What follows is when that version was committed.
    return found.run_key.partition(" of ")[0]


def test_without_a_panel_there_is_nothing_to_do(watched: Watched) -> None:
    assert watched.tick() == f"There is no {PANEL} yet."


def test_a_panel_nobody_trained_on_asks_for_one_run(watched: Watched) -> None:
    watched.write(ROWS)
    assert asked(watched.tick()) == f"{PANEL}@0"
    assert watched.tick() == f"Version 0 of {PANEL} has been dealt with."


def test_a_tick_repeated_after_a_crash_asks_for_the_same_run(watched: Watched) -> None:
    watched.write(ROWS)
    keys = []
    for _ in range(2):
        watched.cursor = None
        found = watched.tick()
        assert isinstance(found, dg.RunRequest)
        keys.append(found.run_key)
    assert keys == [keys[0]] * 2, "Dagster starts one run for one key"


def test_the_versions_of_a_table_made_anew_bring_no_key_back(watched: Watched) -> None:
    keys = []
    for _ in range(2):
        watched.write(ROWS)
        found = watched.tick()
        assert isinstance(found, dg.RunRequest)
        keys.append(found.run_key)
        shutil.rmtree(watched.lakehouse.path(PANEL))
        watched.cursor = None
    assert len(set(keys)) == 2


def test_a_run_whose_process_is_gone_is_ended_and_holds_nothing_up(watched: Watched) -> None:
    watched.write(ROWS)
    runs = {
        name: create_run_for_test(watched.instance, job_name=REFRESH, status=status)
        for name, status in {
            "gone": dg.DagsterRunStatus.STARTED,
            "unwanted": dg.DagsterRunStatus.CANCELING,
            "launched again": dg.DagsterRunStatus.STARTED,
            "elsewhere": dg.DagsterRunStatus.STARTED,
            "alive": dg.DagsterRunStatus.STARTED,
        }.items()
    }
    process = subprocess.Popen(["sleep", "60"])
    gone = {"host": socket.gethostname(), "pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    process.kill()
    process.wait()
    of_run = {name: gone | {"run": runs["gone" if name == "launched again" else name].run_id} for name in runs}
    of_run["elsewhere"]["host"] = "elsewhere"
    of_run["alive"] |= this_process()
    for name, run in runs.items():
        watched.instance.add_run_tags(run.run_id, {DAGSTER_PROCESS_TAG: json.dumps(of_run[name])})
    assert "waits for the run" in str(watched.tick())
    now = {name: watched.instance.get_run_by_id(run.run_id) for name, run in runs.items()}
    assert {name: run.status.name for name, run in now.items() if run is not None} == {
        "gone": "FAILURE",
        "unwanted": "CANCELED",
        "launched again": "STARTED",
        "elsewhere": "STARTED",
        "alive": "STARTED",
    }
    for name in ("launched again", "elsewhere", "alive"):
        watched.instance.report_run_canceled(runs[name])
    assert asked(watched.tick()) == f"{PANEL}@0"
    assert end_vanished_runs(watched.instance) == []


def test_a_run_says_which_process_executes_it(watched: Watched) -> None:
    @dg.op
    def look(context: dg.OpExecutionContext, lakehouse: LakehouseResource) -> None: ...

    @dg.job(resource_defs={"lakehouse": watched.lakehouse})
    def looking() -> None:
        look()

    run = watched.instance.get_run_by_id(looking.execute_in_process(instance=watched.instance).run_id)
    assert run is not None
    assert json.loads(run.tags[DAGSTER_PROCESS_TAG]) == this_process() | {"run": run.run_id}


def test_what_has_been_trained_on_asks_for_none(watched: Watched) -> None:
    watched.write(ROWS)
    watched.trained_on(0)
    assert watched.tick() == f"Version 0 of {PANEL} has been trained on."


def test_the_same_rows_again_ask_for_none_and_other_rows_for_one(watched: Watched) -> None:
    watched.write(ROWS)
    watched.trained_on(0)
    watched.write(ROWS.iloc[::-1])
    assert watched.tick() == f"Version 1 of {PANEL} holds the same rows as version 0."
    watched.write(OTHER)
    assert asked(watched.tick()) == f"{PANEL}@2"
    watched.write(OTHER)
    assert watched.tick() == f"Version 3 of {PANEL} holds the same rows as version 2."


def test_a_run_asked_for_by_a_tick_that_died_counts_though_the_cursor_does_not_know_it(watched: Watched) -> None:
    watched.write(ROWS)
    watched.trained_on(0)
    assert watched.tick() == f"Version 0 of {PANEL} has been trained on."
    watched.write(OTHER)
    watched.trained_on(1)
    watched.write(OTHER)
    assert watched.tick() == f"Version 2 of {PANEL} holds the same rows as version 1."


def test_rows_of_before_are_a_change_when_the_model_was_trained_on_others_since(watched: Watched) -> None:
    watched.write(ROWS)
    watched.trained_on(0)
    watched.tick()
    watched.write(OTHER)
    watched.trained_on(1)
    watched.write(ROWS)
    assert asked(watched.tick()) == f"{PANEL}@2"


def test_within_the_cooldown_a_change_waits_and_is_not_lost(watched: Watched) -> None:
    watched.write(ROWS)
    asked(watched.tick())
    watched.write(OTHER)
    assert "waits for the cooldown to end at 20" in str(watched.tick())
    assert "waits for the cooldown" in str(watched.tick())
    past = datetime.now(UTC) - timedelta(hours=watched.policy.automation.retrain_cooldown_hours)
    watched.cursor = Seen(0, past.isoformat()).cursor()
    assert asked(watched.tick()) == f"{PANEL}@1"


@pytest.mark.parametrize("job", ["churn_lifecycle", TRAINING, REFRESH])
def test_while_a_run_goes_on_a_change_waits_and_is_not_lost(watched: Watched, job: str) -> None:
    watched.write(ROWS)
    run = create_run_for_test(watched.instance, job_name=job, status=dg.DagsterRunStatus.STARTED)
    assert watched.tick() == f"Version 0 of {PANEL} waits for the run {run.run_id} of {job} to end."
    watched.instance.report_run_canceled(run)
    assert asked(watched.tick()) == f"{PANEL}@0"


def evaluate(watched: Watched, *, is_passed: bool, severity: dg.AssetCheckSeverity) -> None:
    watched.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(PANEL.split("/")),
            check_name=RULE,
            passed=is_passed,
            severity=severity,
            description="observed: 3 null or NaN; allowed: 0 null or NaN",
            metadata={},
        )
    )


def test_features_that_fail_their_checks_are_not_trained_on_until_they_are_written_again(watched: Watched) -> None:
    watched.write(ROWS)
    evaluate(watched, is_passed=False, severity=dg.AssetCheckSeverity.ERROR)
    told = f"Version 0 of {PANEL} fails its checks: {RULE}: observed: 3 null or NaN; allowed: 0 null or NaN"
    assert [watched.tick(), watched.tick()] == [told, told]
    watched.write(OTHER)
    assert asked(watched.tick()) == f"{PANEL}@1"


def test_a_check_that_passed_or_warned_holds_nothing_up(watched: Watched) -> None:
    watched.write(ROWS)
    evaluate(watched, is_passed=False, severity=dg.AssetCheckSeverity.WARN)
    assert asked(watched.tick()) == f"{PANEL}@0"


def test_an_older_version_that_was_vacuumed_away_counts_as_another(watched: Watched) -> None:
    watched.write(ROWS)
    watched.trained_on(0)
    watched.write(ROWS)
    table = deltalake.DeltaTable(watched.lakehouse.path(PANEL))
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    table.update_incremental()
    # Vacuuming commits too.
    assert asked(watched.tick()) == f"{PANEL}@{table.version()}"


# --- or only when the monitoring asks for it ---


def follows_decisions(watched: Watched) -> None:
    watched.policy = ChurnPolicy.model_validate({"automation": {"retrain_on": "decision"}})


def serves(watched: Watched, version: str, number: int = 0) -> None:
    """Writes into the ledger that this version serves from now on."""
    moved = Decision(
        f"d{number}", NOW, Action.PROMOTED, Subject(version), None, ["earned"], "policy", "run", number=number
    )
    rows = pa.Table.from_pylist([moved.row()], LEDGER_SCHEMA)
    watched.lakehouse.append_after(LEDGER, watched.lakehouse.version(LEDGER), rows)


def decided(watched: Watched, *, is_retrain: bool, version: str = "1", weeks: int = 0) -> None:
    decision = RetrainDecision(date(2025, 12, 1) + timedelta(weeks=weeks), version, is_retrain, ("score drifted",))
    rows = pa.Table.from_pylist([decision.row(NOW)], DECISION_SCHEMA)
    watched.lakehouse.append_after(DECISIONS, watched.lakehouse.version(DECISIONS), rows)


NOW = datetime(2025, 12, 1, 7, tzinfo=UTC)
WAITS = f"Version 0 of {PANEL} waits for a decision to retrain: "


def test_a_change_waits_for_a_decision_to_retrain_and_is_not_lost(watched: Watched) -> None:
    follows_decisions(watched)
    serves(watched, "1")
    watched.write(ROWS)
    assert watched.tick() == f"{WAITS}{DECISIONS} has none yet."
    decided(watched, is_retrain=False)
    assert watched.tick() == f"{WAITS}that of 2025-12-01 is not to: score drifted."
    decided(watched, is_retrain=True, weeks=1)
    assert asked(watched.tick()) == f"{PANEL}@0"


def test_a_decision_about_a_version_that_no_longer_serves_has_been_followed(watched: Watched) -> None:
    follows_decisions(watched)
    serves(watched, "1")
    decided(watched, is_retrain=True)
    serves(watched, "2", number=1)
    watched.write(ROWS)
    assert watched.tick() == f"{WAITS}that of 2025-12-01 was about version 1, and now version 2 serves."


def test_the_first_training_needs_no_decision_for_nothing_serves_that_could_drift(watched: Watched) -> None:
    follows_decisions(watched)
    watched.write(ROWS)
    assert asked(watched.tick()) == f"{PANEL}@0"


def test_by_default_no_decision_is_asked_for(watched: Watched) -> None:
    serves(watched, "1")
    decided(watched, is_retrain=False)
    watched.write(ROWS)
    assert asked(watched.tick()) == f"{PANEL}@0"


# --- new orders ---


def new_orders(sources: SourceCatalog, instance: dg.DagsterInstance, cursor: str | None) -> tuple[Any, str | None]:
    lakehouse = LakehouseResource(root=str(sources.folder), pyspark=LazyPySparkResource(spark_config={}))
    resources = {"lakehouse": lakehouse, "sources": sources}
    with dg.build_sensor_context(instance, cursor=cursor, resources=resources) as context:
        return automation.refresh_on_new_orders(context), context.cursor


@pytest.mark.parametrize("form", ["delta", "parquet", "csv"])
def test_the_features_are_refreshed_once_when_a_source_moves(
    tmp_path: Path, form: Literal["delta", "parquet", "csv"]
) -> None:
    place = tmp_path / "orders"
    write = {
        "delta": lambda rows: deltalake.write_deltalake(str(place), rows, mode="append", schema_mode="merge"),
        "parquet": lambda rows: rows.to_parquet(place),
        "csv": lambda rows: rows.to_csv(place),
    }[form]
    write(ROWS)
    sources = SourceCatalog(Sources(orders=Source(format=form, path="orders")), tmp_path, "")
    with dg.instance_for_test() as instance:
        first, cursor = new_orders(sources, instance, None)
        again, cursor = new_orders(sources, instance, cursor)
        write(pd.concat([ROWS, OTHER]))
        moved, _ = new_orders(sources, instance, cursor)
    assert again.skip_message == "The source tables are as they were."
    assert isinstance(first, dg.RunRequest)
    assert isinstance(moved, dg.RunRequest)


def test_files_restored_with_their_times_are_read_again_for_no_key_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "orders.csv"
    sources = SourceCatalog(Sources(orders=Source(format="csv", path="orders.csv")), tmp_path, "")
    cursor, asked_for = None, []
    with dg.instance_for_test() as instance:
        for content, at in (("id\n1\n", 1_000), ("id\n2\n3\n", 2_000), ("id\n1\n", 1_000)):
            place.write_text(content, encoding="utf-8")
            os.utime(place, (at, at))
            found, cursor = new_orders(sources, instance, cursor)
            asked_for.append(found)
    assert all(isinstance(found, dg.RunRequest) for found in asked_for)
    assert {found.run_key for found in asked_for} == {None}, "Dagster starts one run for a key, ever"


def test_a_source_that_the_refresh_itself_writes_is_no_news(tmp_path: Path) -> None:
    content = {"format": "delta", "path": PANEL, "columns": {"visits": {"meaning": "visits", "low": 0}}}
    sources = SourceCatalog(Sources.model_validate({"features": content}), tmp_path, "")
    with dg.instance_for_test() as instance:
        deltalake.write_deltalake(str(tmp_path / PANEL), ROWS)
        _, cursor = new_orders(sources, instance, None)
        deltalake.write_deltalake(str(tmp_path / PANEL), ROWS, mode="overwrite")
        landed, _ = new_orders(sources, instance, cursor)
    assert landed.skip_message == "The source tables are as they were."


def test_a_catalog_table_is_said_to_need_the_schedule(tmp_path: Path) -> None:
    sources = SourceCatalog(Sources(orders=Source(format="table", path="shop.orders")), tmp_path, "")
    with dg.instance_for_test() as instance:
        found, _ = new_orders(sources, instance, None)
    assert "use the schedule" in found.skip_message


# --- what Dagster is told ---


def test_only_the_retraining_runs_by_itself(built: Project) -> None:
    repository = build_defs(built.resources).get_repository_def()
    running = {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs}
    assert running == {
        "retrain_on_feature_refresh": "RUNNING",
        "refresh_on_new_orders": "STOPPED",
        "alert_on_failure": "RUNNING",
    }
    schedules = {found.name: (found.default_status.value, found.cron_schedule) for found in repository.schedule_defs}
    assert schedules == {
        "scheduled_feature_refresh": ("STOPPED", "0 3 * * 1"),
        "scheduled_scoring": ("STOPPED", "0 6 * * 1"),
        "scheduled_maintenance": ("STOPPED", "0 2 * * 0"),
    }


@pytest.mark.parametrize(("refresh", "cron"), [("weekly", "0 3 * * 1"), ("daily", "0 3 * * *")])
def test_the_policy_says_how_often_the_features_are_refreshed(refresh: Any, cron: str) -> None:
    policy = ChurnPolicy.model_validate({"automation": {"refresh": refresh}})
    assert automation.refresh_schedule(policy).cron_schedule == cron
    assert policy.digest == ChurnPolicy().digest
    assert scoring.scoring_schedule(policy).cron_schedule == "0 6 * * 1", "the same Monday is not scored again"


@pytest.mark.parametrize(
    ("calendar", "days"), [({"weekday": "sunday"}, "0"), ({"weekday": "thursday"}, "4"), ({"snapshots": "daily"}, "*")]
)
def test_features_are_built_and_scored_when_there_is_a_new_snapshot(calendar: dict[str, Any], days: str) -> None:
    policy = ChurnPolicy.model_validate({"calendar": calendar})
    assert automation.refresh_schedule(policy).cron_schedule == f"0 3 * * {days}"
    assert scoring.scoring_schedule(policy).cron_schedule == f"0 6 * * {days}"


def test_the_refresh_ends_at_the_panel_with_its_checks(built: Project) -> None:
    steps = {node.name for node in build_defs(built.resources).resolve_job_def(REFRESH).graph.nodes}
    assert {"food_delivery__orders", "food_delivery__ml_churn_features", "ml_churn_features__contract"} <= steps
    assert not any(re.search("train|model|feasibility", step) for step in steps)


def test_a_cursor_is_read_back_as_it_was() -> None:
    seen = Seen(3, "2026-01-05T03:00:00+00:00")
    assert Seen.of(seen.cursor()) == seen
    assert Seen.of(None) == Seen()
    assert json.loads(seen.cursor()) == {"version": 3, "requested_at": "2026-01-05T03:00:00+00:00"}

"""A table that people wait for is due by the policy's calendar, and Dagster and the check agree about it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
from dagster._core.definitions.freshness_evaluator import CronFreshnessPolicyEvaluator
from dagster._core.storage.event_log.base import AssetRecord
from dagster_pyspark import LazyPySparkResource

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.definitions import build_defs, default_resources
from churn_assets.defs import freshness as module
from churn_assets.defs.freshness import CHECK, WAITED_FOR, deadline_cron, freshness_of, stale
from churn_assets.defs.scoring import SCORES
from churn_assets.delta import tables
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env

WEEKLY, DAILY = ChurnPolicy(), ChurnPolicy.model_validate({"calendar": {"snapshots": "daily"}})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# Policy, last written, now, whether that is fresh. 2026-01-05 and 2026-01-12 are Mondays.
CASES = [
    (WEEKLY, "2026-01-05 06:10", "2026-01-12 11:59", True),
    (WEEKLY, "2026-01-05 06:10", "2026-01-12 12:01", False),
    (WEEKLY, "2026-01-12 00:00", "2026-01-18 23:59", True),
    (WEEKLY, "2026-01-11 23:59", "2026-01-12 12:01", False),
    (WEEKLY, "2026-01-14 09:00", "2026-01-15 09:00", True),
    (DAILY, "2026-01-13 06:10", "2026-01-14 11:59", True),
    (DAILY, "2026-01-13 06:10", "2026-01-14 12:01", False),
]


@pytest.mark.parametrize(("policy", "written", "now", "is_fresh"), CASES)
def test_what_was_not_written_for_its_last_deadline_is_stale_for_the_check_and_for_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: ChurnPolicy, written: str, now: str, is_fresh: bool
) -> None:
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=LazyPySparkResource(spark_config={}))
    monkeypatch.setattr(LakehouseResource, "written_at", lambda *_: at(written))
    found = freshness_of(lakehouse, policy, SCORES, at(now))
    assert found.is_passed == is_fresh
    assert found.observed == f"last written {written} UTC"
    (late,) = found.figures
    assert late.is_met == is_fresh
    assert (late.value == 0) == is_fresh
    assert f"written {late.allowed}, due" in found.allowed
    assert set(stale(lakehouse, policy, at(now))) == (set() if is_fresh else set(WAITED_FOR))
    # Dagster's own evaluation of the policy that the asset has.
    entry = SimpleNamespace(last_materialization=SimpleNamespace(timestamp=at(written).timestamp()))

    async def record(*_: Any) -> Any:
        return SimpleNamespace(asset_entry=entry)

    monkeypatch.setattr(AssetRecord, "gen", record)
    monkeypatch.setattr("dagster._core.definitions.freshness_evaluator.get_current_datetime", lambda _: at(now))
    due = dg.FreshnessPolicy.cron(deadline_cron(policy), module.IN_TIME)
    node = cast("Any", SimpleNamespace(key=dg.AssetKey(SCORES), freshness_policy_or_from_metadata=due))
    state = asyncio.run(CronFreshnessPolicyEvaluator().evaluate_freshness(cast("Any", None), node))
    assert state.value == ("PASS" if is_fresh else "FAIL")


def test_nobody_waits_for_a_table_that_was_never_made(tmp_path: Path) -> None:
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=LazyPySparkResource(spark_config={}))
    assert freshness_of(lakehouse, WEEKLY, SCORES, datetime.now(UTC)).observed == "there is none yet"
    assert stale(lakehouse, WEEKLY, datetime.now(UTC)) == {}


def test_a_commit_that_only_rearranges_rows_makes_nothing_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=LazyPySparkResource(spark_config={}))
    path = Path(lakehouse.path(SCORES))
    path.mkdir(parents=True)
    for number in range(2):
        deltalake.write_deltalake(str(path), pa.table({"id": [number]}), mode="append")
    deltalake.DeltaTable(str(path)).optimize.compact()
    assert lakehouse.version(SCORES) == 2
    assert lakehouse.written_at(SCORES) == tables.committed_at(str(path), 1)
    assert lakehouse.written_at("food_delivery/others") is None


def test_every_table_that_is_waited_for_has_a_policy_and_a_check(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[calendar]\nsnapshots = "daily"\n', encoding="utf-8")
    (tmp_path / "sources.toml").write_text("[demo]\ncustomers = 1000\n", encoding="utf-8")
    defs = build_defs(default_resources(settings_from_env({"CHURN_PROJECT": str(tmp_path)})))
    graph = defs.resolve_asset_graph()
    keys = {dg.AssetKey(table.split("/")) for table in WAITED_FOR}
    due = dg.FreshnessPolicy.cron("0 12 * * *", module.IN_TIME)
    assert {key: graph.get(key).freshness_policy_or_from_metadata for key in keys} == dict.fromkeys(keys, due)
    assert {dg.AssetCheckKey(key, CHECK) for key in keys} <= graph.asset_check_keys


def test_scores_are_due_when_there_is_a_new_snapshot_however_often_the_panel_is_built() -> None:
    often = ChurnPolicy.model_validate({"calendar": {"weekday": "friday"}, "automation": {"refresh": "daily"}})
    assert [deadline_cron(often, table) for table in WAITED_FOR] == ["0 12 * * *", *["0 12 * * 5"] * 3]

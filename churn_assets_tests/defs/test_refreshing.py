"""A refresh replaces the dates that changes can touch, keeps the others' files, and is what a full rebuild is."""

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from operator import itemgetter
from pathlib import Path

import dagster as dg
import deltalake
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.contract import AS_REBUILT
from churn_assets.churn.erasures import ERASURE_SCHEMA
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.touched import TouchedDates
from churn_assets.defs import refreshing
from churn_assets.defs.audits import remembered_outcomes
from churn_assets.defs.erasures import ERASURES
from churn_assets.defs.features import BASELINE, PANEL, gold_customer_churn_risk, ml_churn_features
from churn_assets.defs.lakehouse import SILVER
from churn_assets.defs.origins import origin_of
from churn_assets.delta.comparing import differing_columns
from churn_assets.delta.tables import files_of
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.churn.test_touched import BEGIN, DAY, Shop, a_deleted_order, a_week_more
from churn_assets_tests.conftest import ENGINE

POLICY = ChurnPolicy()
ASSETS = {"food_delivery__gold_customer_churn_risk": BASELINE, "food_delivery__ml_churn_features": PANEL}


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> LakehouseResource:
    return LakehouseResource(root=str(tmp_path / "lake house"), pyspark=spark_resource(settings_from_env(ENGINE)))


def refreshed(
    lakehouse: LakehouseResource, policy: ChurnPolicy = POLICY, *, rebuild: bool = False
) -> dict[str, dg.AssetMaterialization]:
    """What a refresh of both tables says of them, by their names."""
    ran = dg.materialize(
        [gold_customer_churn_risk, ml_churn_features],
        resources={"lakehouse": lakehouse, "policy": policy},
        run_config={"ops": {name: {"config": {"rebuild": rebuild}} for name in ASSETS}},
    )
    made = [event.step_materialization_data.materialization for event in ran.get_asset_materialization_events()]
    return {"/".join(each.asset_key.path): each for each in made}


def why(told: dict[str, dg.AssetMaterialization]) -> set[str]:
    """Why all dates of the tables were computed; empty where they were not."""
    reasons = [each.metadata["rebuilt_because"] for each in told.values() if "rebuilt_because" in each.metadata]
    return {str(reason.value) for reason in reasons}


def files(lakehouse: LakehouseResource, table: str) -> dict[date, set[str]]:
    """The files of each date."""
    found: dict[date, set[str]] = {}
    for file in files_of(deltalake.DeltaTable(lakehouse.path(table))):
        found.setdefault(file["partition.as_of"], set()).add(file["path"])
    return found


def test_a_refresh_keeps_what_is_untouched_and_equals_a_rebuild(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    shop = Shop(7, has_states=False)
    lakehouse.write(SILVER, shop.frame(spark))
    assert why(refreshed(lakehouse)) == {"there is no table yet"}
    before = {table: files(lakehouse, table) for table in (BASELINE, PANEL)}
    a_week_more(shop)
    lakehouse.write(SILVER, shop.frame(spark))
    assert why(refreshed(lakehouse)) == set()
    for table, of_table in before.items():
        replaced, now = lakehouse.commit_metadata(table)["dates"], files(lakehouse, table)
        # The new date; and of the panel those in whose outcome windows the new orders lie, or whose labels are known.
        assert len(replaced) == {BASELINE: 1, PANEL: 6}[table]
        written = {str(day) for day in now if now[day] != of_table.get(day)}
        # Of the labels only the first came to be known: the others' dates came out as before, and keep their files.
        assert (len(written), written - set(replaced)) == ({BASELINE: 1, PANEL: 2}[table], set())
        assert lakehouse.inputs(table)[SILVER] == 1
    told = remembered_outcomes(lakehouse, {PANEL: 1}, POLICY)
    assert why(refreshed(lakehouse, rebuild=True)) == {"it was asked for"}
    for table in before:
        versions = [deltalake.DeltaTable(lakehouse.path(table), version=version) for version in (1, 2)]
        assert differing_columns(*versions) == []
    assert [each for each in remembered_outcomes(lakehouse, {PANEL: 2}, POLICY) if each not in told] == []
    kept = {table: files(lakehouse, table) for table in before}
    lakehouse.write(SILVER, shop.frame(spark))
    assert why(refreshed(lakehouse)) == set()
    assert {table: files(lakehouse, table) for table in before} == kept
    assert lakehouse.inputs(PANEL)[SILVER] == lakehouse.version(SILVER)


def another_policy(_: LakehouseResource) -> ChurnPolicy:
    return POLICY.model_copy(update={"crisis_delay_minutes": 50})


def somebody_is_forgotten(lakehouse: LakehouseResource) -> ChurnPolicy:
    row = dict.fromkeys(ERASURE_SCHEMA.names, "x") | {"kind": "customer", "erased_at": datetime.now(UTC)}
    lakehouse.append_after(ERASURES, None, pa.Table.from_pylist([row], ERASURE_SCHEMA))
    return POLICY


def orders_are_gone(lakehouse: LakehouseResource) -> ChurnPolicy:
    for file in files_of(deltalake.DeltaTable(lakehouse.path(SILVER), version=0)):
        (Path(lakehouse.path(SILVER)) / file["path"]).unlink()
    return POLICY


def others_wrote(lakehouse: LakehouseResource) -> ChurnPolicy:
    for table in (BASELINE, PANEL):
        rows = deltalake.DeltaTable(lakehouse.path(table)).to_pyarrow_table()
        deltalake.write_deltalake(lakehouse.path(table), rows.slice(0, 1), mode="append")
    return POLICY


def not_by_dates(lakehouse: LakehouseResource) -> ChurnPolicy:
    """As an earlier release wrote the tables."""
    for table in (BASELINE, PANEL):
        rows, kept = deltalake.DeltaTable(lakehouse.path(table)).to_pyarrow_table(), lakehouse.commit_metadata(table)
        shutil.rmtree(lakehouse.path(table))
        metadata = {name: kept[name] for name in ("inputs", refreshing.DIGEST)}
        lakehouse.write(table, lakehouse.frame(rows), metadata=metadata)
    return POLICY


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        (another_policy, "computed under other rules or by other code"),
        (somebody_is_forgotten, "customers were forgotten since"),
        (orders_are_gone, "can no longer be read"),
        (others_wrote, "does not say what it was computed from"),
        (not_by_dates, "was not laid out by its dates"),
    ],
    ids=["another_policy", "somebody_is_forgotten", "orders_are_gone", "others_wrote", "not_by_dates"],
)
def test_what_cannot_be_told_is_rebuilt(
    lakehouse: LakehouseResource,
    spark: SparkSession,
    happened: Callable[[LakehouseResource], ChurnPolicy],
    reason: str,
) -> None:
    shop = Shop(8, has_states=False)
    lakehouse.write(SILVER, shop.frame(spark))
    refreshed(lakehouse)
    a_deleted_order(shop)
    lakehouse.write(SILVER, shop.frame(spark))
    policy = happened(lakehouse)
    reasons = why(refreshed(lakehouse, policy))
    assert reasons
    assert all(reason in each for each in reasons), reasons
    assert {lakehouse.is_laid_out_by(table, "as_of") for table in (BASELINE, PANEL)} == {True}
    refreshed(lakehouse, policy, rebuild=True)
    last = lakehouse.pin(PANEL)[PANEL]
    versions = [deltalake.DeltaTable(lakehouse.path(PANEL), version=version) for version in (last - 1, last)]
    assert differing_columns(*versions) == []


def test_a_date_that_was_wrongly_left_alone_is_told(
    lakehouse: LakehouseResource, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(9, has_states=False)
    lakehouse.write(SILVER, shop.frame(spark))
    refreshed(lakehouse)
    nothing_to_compare = origin_of(lakehouse, 0, POLICY).rebuilt_outcome()
    assert (nothing_to_compare.is_passed, nothing_to_compare.observed) == (
        True,
        "no date was left alone: this refresh computed all",
    )
    # Another segment at the first two dates alone; what the latest labelled date sees is told otherwise.
    early = min(
        (row for row in shop.rows if row["customer_id"] == "C2" and row["ordered_at"] >= BEGIN + 12 * DAY),
        key=itemgetter("ordered_at"),
    )
    early["segment_index"] = 9.0
    lakehouse.write(SILVER, shop.frame(spark))
    nothing = TouchedDates(frozenset(), frozenset(), frozenset())
    monkeypatch.setattr(refreshing, "touched_dates", lambda *_: nothing)
    refreshed(lakehouse)
    found = origin_of(lakehouse, 1, POLICY).rebuilt_outcome()
    assert (found.rule, found.is_passed, found.is_warning) == (AS_REBUILT, False, False)
    assert "segment_index" in found.observed
    assert found.keys[0].startswith("C2 at ")
    refreshed(lakehouse, rebuild=True)
    assert origin_of(lakehouse, 2, POLICY).rebuilt_outcome().observed == nothing_to_compare.observed
    # What the orders and rules of today cannot give is not compared, and another check refuses it.
    other = origin_of(lakehouse, 1, another_policy(lakehouse)).rebuilt_outcome()
    assert (other.is_passed, other.is_warning) == (False, True)
    assert "now it is" in other.observed
    others_wrote(lakehouse)
    other = origin_of(lakehouse, 3, POLICY).rebuilt_outcome()
    assert (other.is_passed, other.observed) == (False, "not evaluable: the orders behind this version are unknown")

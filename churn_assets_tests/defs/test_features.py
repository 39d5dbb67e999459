"""The feature table as it stands is judged by its rows wherever no audit saw them, whoever wrote it."""

import math
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.contract import ONE_ROW_EACH, PANEL_RULES, PANEL_SCHEMA, panel_outcomes
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.audits import audited
from churn_assets.defs.features import PANEL
from churn_assets.defs.panel_contract import stored_outcomes
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.conftest import ENGINE
from churn_assets_tests.panels import frame, sound_row, sound_rows

POLICY = ChurnPolicy()


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> LakehouseResource:
    settings = settings_from_env(ENGINE)
    return LakehouseResource(root=str(tmp_path / "lake house"), pyspark=spark_resource(settings))


def test_rows_that_another_writer_adds_to_an_audited_panel_are_judged(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    """deltalake and pyarrow leave NaN out of the bounds that they log: only the rows show it."""
    panel = frame(spark, sound_rows(), PANEL_SCHEMA)
    lakehouse.write(PANEL, panel, audit=lambda staged: audited(panel_outcomes(staged), PANEL, POLICY))
    there = deltalake.DeltaTable(lakehouse.path(PANEL)).to_pyarrow_table()
    rows = [sound_row("a", 3), sound_row("b", 3), sound_row("hidden", 3, tenure_days=math.nan)]
    deltalake.write_deltalake(lakehouse.path(PANEL), pa.Table.from_pylist(rows, schema=there.schema), mode="append")
    found = {outcome.rule: outcome for outcome in stored_outcomes(lakehouse, 1, set(PANEL_RULES), POLICY)}
    assert {rule for rule, outcome in found.items() if not outcome.is_passed} == {"no_nulls"}
    assert found["no_nulls"].keys == ("hidden at 2024-03-25",)
    assert all(outcome.is_passed for outcome in stored_outcomes(lakehouse, 0, set(PANEL_RULES), POLICY))


def test_columns_of_another_type_are_named_and_everything_else_is_judged(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    panel = frame(spark, sound_rows(), PANEL_SCHEMA)
    lakehouse.write(PANEL, panel.withColumn("rfm_score", F.col("rfm_score").cast("int")).drop("tenure_days"))
    found = list(stored_outcomes(lakehouse, 0, set(PANEL_RULES), POLICY))
    assert tuple(outcome.rule for outcome in found) == PANEL_RULES
    assert [outcome.rule for outcome in found if not outcome.is_passed] == ["columns_and_types"]


@pytest.mark.parametrize("is_audited", [True, False])
def test_only_the_rules_asked_for_are_told(lakehouse: LakehouseResource, spark: SparkSession, is_audited: bool) -> None:
    audit = (lambda staged: audited(panel_outcomes(staged), PANEL, POLICY)) if is_audited else None
    lakehouse.write(PANEL, frame(spark, sound_rows(), PANEL_SCHEMA), audit=audit)
    asked = {"ranges", ONE_ROW_EACH}
    assert {outcome.rule for outcome in stored_outcomes(lakehouse, 0, asked, POLICY)} == asked

"""The feature table's rules come out the same from its statistics and from its rows, and neither lets a fault pass."""

import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.contract import ONE_ROW_EACH, PANEL_RULES, PANEL_SCHEMA, panel_outcomes
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.features import PANEL, outcomes_without_spark, stored_outcomes
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.panels import FIRST, Row, frame, sound_row, sound_rows
from churn_assets_tests.processes import checked_without_jvm

BY_STATISTICS = set(PANEL_RULES) - {ONE_ROW_EACH}


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> LakehouseResource:
    settings = settings_from_env({"SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "3g"})
    return LakehouseResource(root=str(tmp_path / "lake house"), pyspark=spark_resource(settings))


def with_rows(*rows: Row) -> Callable[[SparkSession], DataFrame]:
    return lambda spark: frame(spark, [*sound_rows(), *rows], PANEL_SCHEMA)


def changed(**values: Any) -> Callable[[SparkSession], DataFrame]:
    return lambda spark: frame(spark, [{**row, **values} for row in sound_rows()], PANEL_SCHEMA)


def with_both_zeros(spark: SparkSession) -> DataFrame:
    rows = [{**row, "sentiment_velocity": 0.0 if row["customer_id"] == "a" else -0.0} for row in sound_rows()]
    return frame(spark, rows, PANEL_SCHEMA).coalesce(1)


def by_rule(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    listed = list(outcomes)
    found = {outcome.rule: outcome for outcome in listed}
    assert len(found) == len(listed)
    return found


def assert_both_ways_agree(lakehouse: LakehouseResource, broken: set[str]) -> dict[str, Outcome]:
    """Returns what the statistics decide; what they do not comes from the rows."""
    version = lakehouse.pin(PANEL)[PANEL]
    decided, seen = by_rule(outcomes_without_spark(lakehouse, version)), by_rule(panel_outcomes(lakehouse.read(PANEL)))
    assert {rule for rule, outcome in seen.items() if not outcome.is_passed} == broken
    assert decided == {rule: seen[rule] for rule in decided}
    assert by_rule(stored_outcomes(lakehouse, version, set(PANEL_RULES), ChurnPolicy())) == seen
    return decided


@pytest.mark.parametrize(
    ("panel", "broken"),
    [
        (with_rows(sound_row("c", label=None)), set()),
        (changed(avg_star_rating=3.0), {"informative_features"}),
        (with_both_zeros, {"informative_features"}),
        (with_rows(sound_row("a", 4)), {"no_empty_snapshot"}),
        (with_rows(sound_row("a", as_of=FIRST + timedelta(days=3))), {"no_empty_snapshot"}),
        (with_rows(sound_row("a")), {ONE_ROW_EACH}),
    ],
    ids=["sound", "constant", "zero", "weeks_missing", "off_the_calendar", "twice"],
)
def test_statistics_decide_every_rule_but_that_of_one_row_each(
    lakehouse: LakehouseResource, spark: SparkSession, panel: Callable[[SparkSession], DataFrame], broken: set[str]
) -> None:
    lakehouse.write(PANEL, panel(spark))
    assert set(assert_both_ways_agree(lakehouse, broken)) == BY_STATISTICS


@pytest.mark.parametrize(
    ("panel", "broken"),
    [
        (with_rows(sound_row("bad", tenure_days=None)), {"no_nulls"}),
        (with_rows(sound_row("bad", tenure_days=math.nan)), {"no_nulls"}),
        (with_rows({**sound_row("bad"), "customer_id": None}), {"no_nulls"}),
        (with_rows({**sound_row("bad"), "as_of": None}), {"no_nulls"}),
        (changed(tenure_days=None), {"no_nulls", "informative_features"}),
        (changed(tenure_days=math.nan), {"no_nulls", "informative_features"}),
        (with_rows(sound_row("bad", tenure_days=math.inf)), {"ranges"}),
        (with_rows(sound_row("bad", tenure_days=-math.inf)), {"ranges"}),
        (with_rows(sound_row("bad", tenure_days=-1e-300)), {"ranges"}),
        (with_rows(sound_row("bad", late_order_ratio=math.nextafter(1, 2))), {"ranges"}),
        (with_rows(sound_row("bad", crisis_exposure_index=0.5)), {"ranges"}),
        (with_rows(sound_row("bad", label=0.5)), {"label_is_binary"}),
        (with_rows(sound_row("bad", label=math.nan)), {"label_is_binary"}),
        (lambda spark: frame(spark, [], PANEL_SCHEMA), {"no_empty_snapshot"}),
    ],
    ids=[
        "null",
        "nan",
        "null_customer",
        "null_date",
        "nulls_only",
        "nans_only",
        "infinite",
        "minus_infinite",
        "below",
        "above",
        "between_0_and_1",
        "label_between_0_and_1",
        "nan_label",
        "no_rows",
    ],
)
def test_what_breaks_a_rule_is_left_to_the_rows_which_name_it(
    lakehouse: LakehouseResource, spark: SparkSession, panel: Callable[[SparkSession], DataFrame], broken: set[str]
) -> None:
    # One file, so that sound and bad values share their bounds.
    lakehouse.write(PANEL, panel(spark).coalesce(1))
    decided = assert_both_ways_agree(lakehouse, broken)
    assert all(outcome.is_passed or rule == "no_empty_snapshot" for rule, outcome in decided.items())


def test_columns_of_another_type_leave_everything_else_to_the_rows(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    panel = frame(spark, sound_rows(), PANEL_SCHEMA)
    lakehouse.write(PANEL, panel.withColumn("rfm_score", F.col("rfm_score").cast("int")).drop("tenure_days"))
    assert set(assert_both_ways_agree(lakehouse, {"columns_and_types"})) == {"columns_and_types"}


def test_a_nan_that_another_writer_hides_between_its_bounds_is_found_in_the_rows(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(PANEL, frame(spark, sound_rows(), PANEL_SCHEMA))
    there = deltalake.DeltaTable(lakehouse.path(PANEL)).to_pyarrow_table()
    rows = [sound_row("a", 3), sound_row("b", 3), sound_row("hidden", 3, tenure_days=math.nan)]
    deltalake.write_deltalake(lakehouse.path(PANEL), pa.Table.from_pylist(rows, schema=there.schema), mode="append")
    decided = assert_both_ways_agree(lakehouse, {"no_nulls"})
    # These are decided by the distinct values of a column, whoever wrote it.
    assert set(decided) == {"columns_and_types", "label_is_binary", "no_empty_snapshot"}
    found = by_rule(stored_outcomes(lakehouse, 1, {"no_nulls"}, ChurnPolicy()))["no_nulls"]
    assert found.keys == ("hidden at 2024-03-25",)


def test_the_rules_that_statistics_decide_are_checked_without_a_jvm(
    lakehouse: LakehouseResource, spark: SparkSession, tmp_path: Path
) -> None:
    lakehouse.write(PANEL, frame(spark, sound_rows(), PANEL_SCHEMA))
    found = checked_without_jvm(*BY_STATISTICS, CHURN_LAKEHOUSE=lakehouse.root, HOME=str(tmp_path))
    assert sorted(found) == sorted(f"{PANEL} {rule} PASSED" for rule in BY_STATISTICS)

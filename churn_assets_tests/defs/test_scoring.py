"""Scoring: exactly the weeks asked for, each eligible customer once, and earlier scores stay where it is refused."""

from collections.abc import Callable
from datetime import date
from typing import Any

import dagster as dg
import deltalake
import pytest
from dagster import ExecuteInProcessResult
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.definitions import build_defs
from churn_assets.defs.features import PANEL
from churn_assets.defs.scoring import SCORES, UNSCORED, churn_scores_contract
from churn_assets.delta.tables import files_of
from churn_assets.resources.tracking import PRODUCTION
from churn_assets.resources.trained_models import REGISTERED_MODEL
from churn_assets_tests.check_results import results_of
from churn_assets_tests.conftest import Project, causes_of, checks_of

STAMPS = ("scored_at",)


def score(project: Project, first: date, last: date) -> ExecuteInProcessResult:
    """Only the scores, not what is made of them."""
    return project.score(first, last, SCORES, UNSCORED)


def rows(project: Project, table: str = SCORES) -> list[dict[str, Any]]:
    found = project.lakehouse.read(table).drop(*STAMPS).orderBy("as_of", "customer_id").collect()
    return [row.asDict() for row in found]


def files(project: Project, table: str = SCORES) -> dict[str, set[str]]:
    """The files of each week."""
    found: dict[str, set[str]] = {}
    for file in files_of(deltalake.DeltaTable(project.lakehouse.path(table))):
        found.setdefault(str(file["partition.as_of"]), set()).add(file["path"])
    return found


def change_panel(project: Project, change: Callable[[DataFrame], DataFrame]) -> None:
    project.lakehouse.write(PANEL, change(project.lakehouse.read(PANEL)))


@pytest.fixture
def scored(project: Project) -> Project:
    """The last two weeks scored."""
    result = score(project, *project.weeks()[-2:])
    assert result.success, causes_of(result)
    assert set(checks_of(result).values()) == {True}
    return project


def test_scoring_again_gives_the_same_rows_and_replaces_that_week_only(scored: Project) -> None:
    earlier, last = scored.weeks()[-2:]
    before, files_before, version = rows(scored), files(scored), scored.lakehouse.version(SCORES)
    panel = scored.lakehouse.read(PANEL).where(F.col("as_of").isin(earlier, last))
    keys = sorted((row.as_of, row.customer_id) for row in panel.collect())
    assert [(row["as_of"], row["customer_id"]) for row in before] == keys
    assert {row["risk_tier"] for row in before} <= {"high", "medium", "low"}
    assert {(row["model_version"], row["features_version"]) for row in before} == {("1", 0)}
    assert score(scored, last, last).success
    assert rows(scored) == before
    assert scored.lakehouse.version(SCORES) == (version or 0) + 1
    assert files(scored)[str(earlier)] == files_before[str(earlier)]
    assert not files(scored)[str(last)] & files_before[str(last)]


def test_ten_weeks_are_one_run_and_one_commit(project: Project) -> None:
    weeks = project.weeks()[-10:]
    assert len(weeks) == 10
    result = score(project, weeks[0], weeks[-1])
    assert result.success, causes_of(result)
    assert [project.lakehouse.version(table) for table in (SCORES, UNSCORED)] == [0, 0]
    assert sorted(files(project)) == [str(week) for week in weeks]


def no_production_model(project: Project) -> None:
    project.tracking.client.delete_registered_model_alias(REGISTERED_MODEL, PRODUCTION)


def no_features(project: Project) -> None:
    change_panel(project, lambda panel: panel.where(F.col("as_of") < F.lit(project.weeks()[-1])))


def other_features(project: Project) -> None:
    change_panel(project, lambda panel: panel.withColumn("rfm_score", F.col("rfm_score").cast("string")))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (no_production_model, f"no version of {REGISTERED_MODEL} is under alias production"),
        (no_features, "the panel has no features of this date"),
        (other_features, "rfm_score: string instead of double"),
    ],
)
def test_a_refusal_says_why_and_keeps_the_weeks_earlier_scores(
    scored: Project, spoil: Callable[[Project], None], told: str
) -> None:
    last = scored.weeks()[-1]
    before, versions = rows(scored), [scored.lakehouse.version(table) for table in (SCORES, UNSCORED)]
    spoil(scored)
    result = score(scored, last, last)
    assert not result.success
    (cause,) = causes_of(result)
    assert "UnscorableWeekError" in cause
    assert told in cause
    assert "Next step: " in cause
    assert [scored.lakehouse.version(table) for table in (SCORES, UNSCORED)] == versions
    assert rows(scored) == before


def test_who_cannot_be_scored_is_listed_with_the_reason_until_scored_again(scored: Project) -> None:
    last = scored.weeks()[-1]
    before = rows(scored)
    chosen = [row["customer_id"] for row in before if row["as_of"] == last][:4]
    spoiled = dict(zip(chosen, [None, float("nan"), float("inf"), 7.0], strict=True))

    def spoil(panel: DataFrame) -> DataFrame:
        value = F.col("late_order_ratio")
        for customer, wrong in spoiled.items():
            is_chosen = (F.col("customer_id") == customer) & (F.col("as_of") == F.lit(last))
            value = F.when(is_chosen, F.lit(wrong).cast("double")).otherwise(value)
        return panel.withColumn("late_order_ratio", value)

    change_panel(scored, spoil)
    result = score(scored, last, last)
    assert result.success, causes_of(result)
    assert {row["customer_id"]: row["reason"] for row in rows(scored, UNSCORED)} == dict(
        zip(
            chosen,
            [
                "late_order_ratio is null",
                "late_order_ratio is NaN",
                "late_order_ratio is infinite",
                "late_order_ratio is 7.0, allowed is 0 to 1",
            ],
            strict=True,
        )
    )
    assert len(rows(scored)) == len(before) - 4
    scored.lakehouse.write(PANEL, scored.lakehouse.read(PANEL, 0))
    assert score(scored, last, last).success
    assert (rows(scored, UNSCORED), len(rows(scored))) == ([], len(before))


def test_a_customer_twice_in_the_panel_stops_the_commit_and_keeps_the_earlier_scores(scored: Project) -> None:
    last, before, found = scored.weeks()[-1], rows(scored), files(scored)
    change_panel(scored, lambda panel: panel.unionByName(panel.where(F.col("as_of") == F.lit(last)).limit(1)))
    (cause,) = causes_of(score(scored, last, last))
    assert "coverage: observed 1 offending customers" in cause
    assert (rows(scored), files(scored)) == (before, found)


def test_a_customer_lost_from_the_table_fails_its_check(scored: Project) -> None:
    table = deltalake.DeltaTable(scored.lakehouse.path(SCORES))
    lost = rows(scored)[0]
    table.delete(f"customer_id = '{lost['customer_id']}'")
    found = results_of(churn_scores_contract(lakehouse=scored.lakehouse, policy=scored.policy))
    outcomes = {each.check_name: each.passed for each in found}
    assert outcomes == {"values": True, "coverage": False}


def test_a_customer_lost_from_an_earlier_week_is_found_though_the_last_was_scored_again(scored: Project) -> None:
    earlier, last = scored.weeks()[-2:]
    lost = next(row for row in rows(scored) if row["as_of"] == earlier)
    table = deltalake.DeltaTable(scored.lakehouse.path(SCORES))
    table.delete(f"customer_id = '{lost['customer_id']}' and as_of = '{earlier}'")
    score(scored, last, last)
    found = results_of(churn_scores_contract(lakehouse=scored.lakehouse, policy=scored.policy))
    assert {each.check_name: each.passed for each in found} == {"values": True, "coverage": False}


def test_before_any_week_is_scored_the_checks_say_so(built: Project) -> None:
    found = results_of(churn_scores_contract(lakehouse=built.lakehouse, policy=built.policy))
    assert [(each.check_name, each.passed) for each in found] == [("values", True), ("coverage", True)]
    assert {each.metadata["observed"].value for each in found} == {"no week has been scored yet"}


def test_tiers_follow_the_churn_rate_of_the_panel_and_every_alert_is_of_medium_risk_at_least(project: Project) -> None:
    last = project.weeks()[-1]
    assert score(project, last, last).success
    labels = [row["label"] for row in project.lakehouse.records(PANEL) if row["label"] is not None]
    high, medium = project.policy.scoring.least_probabilities(sum(labels) / len(labels))
    scored = rows(project)
    assert {row["risk_tier"] for row in scored} == {"high", "medium", "low"}
    for row in scored:
        is_medium = row["is_alert"] or row["churn_probability"] >= medium
        assert row["risk_tier"] == ("high" if row["churn_probability"] >= high else "medium" if is_medium else "low")


# --- the schedule ---


def tick(project: Project, instance: dg.DagsterInstance) -> Any:
    """What a tick asks for, or why for nothing."""
    repository, resources = build_defs(project.resources).get_repository_def(), {"lakehouse": project.lakehouse}
    with dg.build_schedule_context(instance=instance, resources=resources, repository_def=repository) as context:
        found = repository.get_schedule_def("scheduled_scoring").evaluate_tick(context)
    return found.run_requests or found.skip_message


def test_the_schedule_asks_for_the_latest_snapshot_whoever_wrote_the_panel(built: Project) -> None:
    with dg.instance_for_test() as instance:
        (asked,) = tick(built, instance)
        keys = instance.get_dynamic_partitions("snapshots")
    assert keys == [str(day) for day in built.weeks()]
    assert asked.partition_key == keys[-1]


def test_without_a_panel_the_schedule_asks_for_nothing(tmp_path: Any, built: Project) -> None:
    empty = Project.create(tmp_path / "empty", policy="", sources="[demo]\n")
    with dg.instance_for_test() as instance:
        assert tick(empty, instance) == f"{PANEL} has no snapshot yet."


def test_the_panels_materialization_makes_its_snapshots_partitions(built: Project) -> None:
    with built.instance() as instance:
        assert instance.get_dynamic_partitions("snapshots") == [str(day) for day in built.weeks()]

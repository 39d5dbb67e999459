"""Monitoring: what it says of the served weeks is what the tables say; it warns, fails and asks to retrain by that."""

import json
from collections import Counter
from dataclasses import astuple
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pyarrow.compute as pc
import pytest
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.drift import SCORE
from churn_assets.churn.expectation import STEPS, expected
from churn_assets.churn.intervals import share_difference, wilson_interval
from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.churn.policy import Monitoring
from churn_assets.churn.recalibration import Calibration
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import PANEL
from churn_assets.defs.monitoring import (
    CHECKS,
    DECISIONS,
    MONITORING,
    PROFILES,
    _alarms,
    _outcome,
    monitoring_limits,
)
from churn_assets.defs.scoring import SCORES, SCORING, UNSCORED
from churn_assets.resources.trained_models import REGISTERED_MODEL, TrainedModel
from churn_assets_tests.check_results import results_of
from churn_assets_tests.conftest import Project, causes_of, checks_of
from churn_assets_tests.defs.test_scoring import change_panel

WATCHED = (PROFILES, MONITORING, DECISIONS)


def watch(project: Project) -> dg.ExecuteInProcessResult:
    """The monitoring alone, as after a correction of the panel."""
    return project.run(SCORING, *WATCHED)


def rows(project: Project, **equal: Any) -> list[dict[str, Any]]:
    found = project.lakehouse.records(MONITORING)
    return [row for row in found if all(row[name] == value for name, value in equal.items())]


def decisions(project: Project) -> list[dict[str, Any]]:
    return sorted(project.lakehouse.records(DECISIONS), key=lambda row: row["decided_at"])


def checks(project: Project) -> dict[str, dg.AssetCheckResult]:
    found = {result.check_name: result for result in results_of(monitoring_limits(lakehouse=project.lakehouse))}
    return {str(name): result for name, result in found.items()}


def observed(result: dg.AssetCheckResult) -> str:
    return str(result.metadata["observed"].value)


@pytest.fixture(scope="module")
def all_scored(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Every week scored by one run of the weekly job, the past ones too."""
    project = built.copied_to(tmp_path_factory.mktemp("all_scored") / "project")
    weeks = project.weeks()
    result = project.score(weeks[0], weeks[-1])
    assert result.success, causes_of(result)
    events = result.get_asset_materialization_events()
    made = {"/".join(event.asset_key.path) for event in events if event.asset_key is not None}
    assert {SCORES, *WATCHED} <= made, "the weekly job makes them too"
    assert {f"{MONITORING}: {name}" for name in CHECKS} <= set(checks_of(result))
    return project


@pytest.fixture
def served(all_scored: Project, tmp_path: Path) -> Project:
    """A copy for one test to change."""
    return all_scored.copied_to(tmp_path / "served")


def test_realised_recall_and_precision_are_those_of_the_tables(all_scored: Project) -> None:
    label = {(row["customer_id"], row["as_of"]): row["label"] for row in all_scored.lakehouse.records(PANEL)}
    weeks: dict[date, list[tuple[bool, float]]] = {}
    for row in deltalake.DeltaTable(all_scored.lakehouse.path(SCORES)).to_pyarrow_table().to_pylist():
        weeks.setdefault(row["as_of"], []).append((row["is_alert"], label[row["customer_id"], row["as_of"]]))
    known = {day for day, pairs in weeks.items() if pairs[0][1] is not None}
    assert 0 < len(known) < len(weeks) == len(all_scored.weeks())
    confidence = all_scored.policy.gate.confidence
    for day, pairs in weeks.items():
        caught = sum(is_alert and left == 1.0 for is_alert, left in pairs)
        trials = {
            "realised_recall": sum(left == 1.0 for _, left in pairs),
            "realised_precision": sum(is_alert for is_alert, _ in pairs),
        }
        for metric, number in trials.items():
            (row,) = rows(all_scored, as_of=day, metric=metric)
            assert row["model_version"] == "1"
            if day in known:
                low, high = wilson_interval(caught, number, confidence)
                assert (row["value"], row["low"], row["high"], row["rows"]) == (caught / number, low, high, number)
            else:
                assert (row["value"], row["status"]) == (None, "not_yet_known")
        (row,) = rows(all_scored, as_of=day, metric="alert_share")
        assert (row["value"], row["rows"]) == (sum(is_alert for is_alert, _ in pairs) / len(pairs), len(pairs))


def test_recall_and_precision_are_estimated_from_the_scores_and_what_the_version_records(all_scored: Project) -> None:
    version = all_scored.tracking.version_under("production")
    assert version is not None
    trained = all_scored.tracking.trained_model_of(version)
    recorded = json.loads(version.tags["calibration"])
    assert trained.calibration == Calibration.of(recorded)
    judged = max(all_scored.lakehouse.records(EVALUATIONS), key=lambda row: row["evaluated_at"])
    assert (recorded["rows"], recorded["churners"]) == (judged["rows"], judged["churners"])
    weeks: dict[date, Counter[int]] = {}
    for row in deltalake.DeltaTable(all_scored.lakehouse.path(SCORES)).to_pyarrow_table().to_pylist():
        step = min(int(row["churn_probability"] * STEPS), STEPS - 1) * 2 + row["is_alert"]
        weeks.setdefault(row["as_of"], Counter())[step] += 1
    assert set(weeks) == set(all_scored.weeks()), "the latest week too, whose labels nobody knows yet"
    for day, steps in weeks.items():
        foretold = expected(steps, Calibration.of(recorded), all_scored.policy.gate.confidence)
        for metric, estimate in (("estimated_recall", foretold.recall), ("estimated_precision", foretold.precision)):
            (row,) = rows(all_scored, as_of=day, metric=metric)
            assert (row["value"], row["low"], row["high"]) == pytest.approx(astuple(estimate))
            assert (row["status"], row["reason"]) == ("ok", "")


def test_the_share_of_alerts_has_the_interval_of_whom_the_threshold_was_chosen_on(all_scored: Project) -> None:
    version = all_scored.tracking.version_under("production")
    assert version is not None
    trained = all_scored.tracking.trained_model_of(version)
    chosen, then = trained.alerted, trained.dates.test
    assert chosen is not None
    assert TrainedModel.of_version(version).alerted == chosen
    panel = deltalake.DeltaTable(all_scored.lakehouse.path(PANEL)).to_pyarrow_table(columns=["as_of", "customer_id"])
    of_then = pc.sum(pc.equal(panel.column("as_of"), then)).as_py()
    # Without the test folds, a fifth of the customers.
    assert 0.75 * of_then < chosen.customers < 0.85 * of_then
    assert 0 < chosen.alerts <= all_scored.policy.alerts.budget * chosen.customers
    confidence = all_scored.policy.gate.confidence
    for day in all_scored.weeks():
        (row,) = rows(all_scored, as_of=day, metric="alert_share")
        alerts = round(row["value"] * row["rows"])
        difference, low, high = share_difference(alerts, row["rows"], chosen.alerts, chosen.customers, confidence)
        bounds = (max(row["value"] - (difference - low), 0), min(row["value"] + (high - difference), 1))
        assert (row["low"], row["high"]) == pytest.approx(bounds)


def test_a_version_that_records_no_calibration_is_not_estimated_and_says_why(served: Project) -> None:
    version = served.tracking.version_under("production")
    assert version is not None
    served.tracking.client.delete_tag(str(version.run_id), "calibration")
    result = watch(served)
    assert result.success
    found = [row for row in rows(served) if row["metric"].startswith("estimated_")]
    assert {(row["value"], row["status"]) for row in found} == {(None, "not_estimated")}
    assert all("records no calibration" in row["reason"] for row in found)
    for name in ("estimated_recall", "estimated_precision"):
        check = checks(served)[name]
        assert check.passed
        assert observed(check).startswith(f"{name} not estimated: the version records no calibration")
    # The version's own record goes on where its run is gone.
    assert "calibration" in version.tags


def test_every_week_has_every_figure_and_weeks_learned_from_say_so(all_scored: Project) -> None:
    weeks = all_scored.weeks()
    subjects = {*(feature.name for feature in FEATURES), SCORE} - {"tenure_days", "orders_ever", "rfm_score"}
    assert {(row["as_of"], row["subject"]) for row in rows(all_scored, metric="psi")} == {
        (week, subject) for week in weeks for subject in subjects
    }
    assert len(rows(all_scored)) == len(weeks) * (len(subjects) + 6)
    served = all_scored.tracking.version_under("production")
    assert served is not None
    until = max(all_scored.tracking.trained_model_of(served).dates.train)
    assert {row["as_of"] for row in rows(all_scored, is_in_sample=True)} == {day for day in weeks if day <= until}


def test_a_version_is_profiled_once_and_a_second_run_says_the_same(served: Project) -> None:
    before, said = rows(served), decisions(served)
    assert len(said) == 1
    assert watch(served).success
    assert rows(served) == before
    assert decisions(served) == said, "the same word on the same week is not repeated"
    assert served.lakehouse.version(PROFILES) == 0


def plant_drift(served: Project, feature: str, *dates: date) -> None:
    change_panel(
        served,
        lambda panel: panel.withColumn(
            feature, F.when(F.col("as_of").isin(*dates), F.col(feature) * 3 + 1).otherwise(F.col(feature))
        ),
    )


def test_drift_planted_in_the_panel_fails_its_check_with_feature_date_and_figures(served: Project) -> None:
    last = served.weeks()[-1]
    before, of_scores = rows(served, metric="psi"), observed(checks(served)["score_drift"])
    plant_drift(served, "gap_ratio", last)
    result = watch(served)
    assert result.success, "the scores are there, and nothing is held up"
    changed = [row for row in rows(served, metric="psi") if row not in before]
    assert [(row["as_of"], row["subject"], row["status"]) for row in changed] == [(last, "gap_ratio", "fail")]
    (row,) = changed
    assert row["value"] > row["limit_fail"]
    (failed,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "feature_drift"]
    assert not failed.passed
    assert failed.severity is dg.AssetCheckSeverity.ERROR
    told = str(failed.metadata["observed"].value)
    assert told.startswith(f"{last}: psi of gap_ratio {row['value']:.3f}, limit {row['limit_fail']:.3f}, version 1; ")
    assert observed(checks(served)["score_drift"]) == of_scores


def test_a_warning_warns(served: Project) -> None:
    path, last = served.lakehouse.path(MONITORING), served.weeks()[-1]
    table = deltalake.DeltaTable(path)
    table.update({"status": "'warn'"}, predicate=f"metric = 'unseen_segment_share' and as_of = '{last}'")
    found = checks(served)["unseen_segments"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert observed(found).startswith(f"{last}: unseen_segment_share 0.")


def test_drift_that_lasts_asks_for_a_retraining_and_calm_that_lasts_takes_it_back(project: Project) -> None:
    # Wide enough for the drift this little demo has by itself.
    limits = Monitoring(warn_psi=5.0, fail_psi=5.0)
    watched = project.under(project.policy.model_copy(update={"monitoring": limits}))
    *_, first, second, third, fourth = project.weeks()
    change_panel(
        project,
        lambda panel: panel.withColumn(
            "gap_ratio", F.when(F.col("as_of").isin(first, second), 1e6).otherwise(F.col("gap_ratio"))
        ),
    )
    for begin, end in ((first, second), (third, third), (fourth, fourth)):
        assert watched.score(begin, end, SCORES, UNSCORED, *WATCHED).success
    asked, stands, back = decisions(project)
    assert [row["as_of"] for row in (asked, stands, back)] == [second, third, fourth]
    assert [row["is_retrain"] for row in (asked, stands, back)] == [True, True, False]
    (reason,) = asked["reasons"]
    assert reason.startswith(f"psi of gap_ratio: {rows(project, as_of=first, subject='gap_ratio')[0]['value']:.3f}")
    assert f"at {first}" in reason
    assert f"at {second}" in reason
    assert stands["reasons"][0] == "asked for before; it stands until all is ok for 2 weeks"
    assert back["reasons"] == ["every figure has been ok for 2 weeks, so the earlier retrain is taken back"]


def test_recall_below_the_gates_minimum_is_a_failure_and_the_decision_names_it(served: Project) -> None:
    known = sorted(row["as_of"] for row in rows(served, metric="realised_recall") if row["value"] is not None)
    failing, scores = known[-2:], deltalake.DeltaTable(served.lakehouse.path(SCORES))
    scores.update({"is_alert": "false"}, predicate=" or ".join(f"as_of = '{day}'" for day in failing))
    gate = served.policy.gate.model_copy(update={"min_recall": 0.5})
    result = watch(served.under(served.policy.model_copy(update={"gate": gate})))
    assert [row["as_of"] for row in rows(served, metric="realised_recall", status="fail")] == failing
    assert not checks_of(result)[f"{MONITORING}: realised_recall"]
    decision = decisions(served)[-1]
    assert decision["is_retrain"]
    assert any(reason.startswith("realised_recall: ") for reason in decision["reasons"])


def test_before_anything_is_scored_the_checks_pass_and_say_so(project: Project) -> None:
    found = checks(project)
    assert set(found) == set(CHECKS)
    assert {(result.passed, observed(result)) for result in found.values()} == {(True, "no week has been scored yet")}


def test_while_no_label_is_known_recall_passes_and_says_so(served: Project) -> None:
    change_panel(served, lambda panel: panel.withColumn("label", F.lit(None).cast("double")))
    assert watch(served).success
    for name in ("realised_recall", "realised_precision"):
        found = checks(served)[name]
        assert (found.passed, observed(found)) == (True, "no label of a scored week is known yet")


def test_a_week_of_a_version_that_is_gone_is_an_error_with_a_next_step(served: Project) -> None:
    path = served.lakehouse.path(SCORES)
    deltalake.DeltaTable(path).update({"model_version": "'9'"})
    result = watch(served)
    assert not result.success
    assert f"version 9 of {REGISTERED_MODEL}, which is no longer registered" in causes_of(result)[0]
    assert "Next step: score these weeks again" in causes_of(result)[0]


def test_of_years_of_alarms_the_latest_are_named() -> None:
    weeks = [date(2023, 1, 2) + timedelta(weeks=week) for week in range(3 * 52)]
    failed = [
        Measurement(week, "1", Metric.ALERT_SHARE, "", 0.5, None, None, 100, 0.1, 0.2, False, Status.FAIL)
        for week in weeks
    ]
    alarms = _alarms(failed)
    assert [line[:10] for line in alarms[:10]] == [str(week) for week in weeks[:-11:-1]]
    assert alarms[10:] == [f"and 146 more: the column status of {MONITORING}"]
    assert _alarms(failed[:10]) == [f"{each.as_of}: {each.description}" for each in reversed(failed[:10])]
    outcome = _outcome("alert_share", failed, has_weeks=True)
    assert outcome.keys == tuple(f"alert_share at {week}" for week in weeks[-2:-12:-1])

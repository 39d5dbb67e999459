"""Every scored customer has reasons, listed or not: true, of the model that scored them, and the same on the list."""

from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import pytest
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import TOLD_COLUMNS
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.reasons import REASONS, churn_reasons_contract
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.scoring import SCORES
from churn_assets_tests.check_results import results_of
from churn_assets_tests.conftest import Project, causes_of, checks_of
from churn_assets_tests.said.lists import untrue_reason
from churn_assets_tests.said.tables import Tables
from churn_assets_tests.true_reasons import contradictions, everybody_told

LISTS = [TARGETS, EXCLUSIONS]


def weeks(project: Project) -> list[date]:
    return project.weeks()[-2:]


def rows(project: Project, table: str = REASONS) -> list[dict[str, Any]]:
    found = project.lakehouse.read(table).drop("explained_at").orderBy("as_of", "customer_id").collect()
    return [row.asDict(recursive=True) for row in found]


def without_words(reason: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reason.items() if name != "sentence"}


@pytest.fixture
def changeable(listed: Project, tmp_path: Path) -> Project:
    return listed.copied_to(tmp_path / "project")


def test_every_scored_customer_has_the_reasons_that_the_model_has(listed: Project) -> None:
    (recorded,) = listed.lakehouse.read("recall_churn").collect()
    told = rows(listed)
    assert [(row["as_of"], row["customer_id"]) for row in told] == [
        (row["as_of"], row["customer_id"]) for row in rows(listed, SCORES)
    ]
    for week in weeks(listed):
        expected = {row["customer_id"]: row for row in everybody_told(listed, recorded.run_id, week)}
        for row in [row for row in told if row["as_of"] == week]:
            model = expected[row["customer_id"]]
            for name in ("raw_score", "base_score", "other_contributions"):
                assert row[name] == model[name]
            # But for the names of segments, which the model does not know.
            assert [without_words(each) for each in row["reasons"]] == [
                without_words(each) for each in model["reasons"]
            ]


def test_no_reason_of_anybody_contradicts_the_row_it_is_told_of(listed: Project) -> None:
    lakehouse, keys = listed.lakehouse, ["customer_id", "as_of"]
    observed = lakehouse.read(BASELINE).select(*keys, *TOLD_COLUMNS)
    told = lakehouse.read(REASONS).join(lakehouse.read(PANEL).drop("label"), keys).join(observed, keys).collect()
    assert len(told) == lakehouse.row_count(REASONS)
    assert list(contradictions(row.asDict(recursive=True) for row in told)) == []
    tables = Tables(listed)
    sentences = [
        (row["customer_id"], reason["sentence"])
        for row in rows(listed)
        if row["as_of"] == tables.week
        for reason in row["reasons"]
    ]
    assert len(sentences) > len(tables.scores)
    assert [
        wrong for customer, said in sentences for wrong in untrue_reason(tables, tables.panel[customer], said)
    ] == []


def test_list_and_table_tell_the_same(listed: Project) -> None:
    told = {(row["as_of"], row["customer_id"]): row["reasons"] for row in rows(listed)}
    on_lists = listed.lakehouse.read(TARGETS).collect()
    assert len(on_lists) > 50
    for row in on_lists:
        assert [reason.asDict() for reason in row.reasons] == told[row.as_of, row.customer_id]


def test_a_week_explained_again_is_the_same_and_replaces_its_week_only(changeable: Project) -> None:
    before, version = rows(changeable), changeable.lakehouse.version(REASONS) or 0
    last = weeks(changeable)[-1]
    result = changeable.score(last, last, REASONS)
    assert result.success, causes_of(result)
    assert set(checks_of(result).values()) == {True}
    assert rows(changeable) == before
    assert changeable.lakehouse.version(REASONS) == version + 1


def test_a_list_does_not_tell_reasons_of_other_scores(changeable: Project) -> None:
    last, lakehouse = weeks(changeable)[-1], changeable.lakehouse
    versions = [lakehouse.version(table) for table in LISTS]
    other = lakehouse.read(REASONS).where(F.col("as_of") == F.lit(last)).withColumn("model_version", F.lit("0"))
    lakehouse.replace_dates({REASONS: other}, "as_of", [last], audit=lambda _: None)
    (cause,) = causes_of(changeable.score(last, last, *LISTS))
    assert "are not of the model and the features that scored these weeks" in cause
    assert f"- {last}\n" in cause
    assert [lakehouse.version(table) for table in LISTS] == versions


def test_an_unscored_week_is_refused_and_what_was_told_stays(changeable: Project) -> None:
    unscored, last = changeable.weeks()[-3], changeable.weeks()[-1]
    version = changeable.lakehouse.version(REASONS)
    (cause,) = causes_of(changeable.score(unscored, last, REASONS))
    assert "nobody can be explained" in cause
    assert f"- {unscored}\n" in cause
    assert changeable.lakehouse.version(REASONS) == version


def test_reasons_are_not_given_by_other_trees_than_those_that_were_trained(
    changeable: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = mlflow.artifacts.load_text
    # Not in the file, which is that of all copies of the project.
    monkeypatch.setattr(mlflow.artifacts, "load_text", lambda uri: honest(uri).replace('"threshold":', '"threshold": '))
    last = weeks(changeable)[-1]
    (cause,) = causes_of(changeable.score(last, last, REASONS))
    assert "ChangedModelError" in cause


def test_the_rules_asked_of_the_rows_say_what_the_audit_said(listed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[tuple[str | None, bool, object]]:
        results = results_of(churn_reasons_contract(listed.lakehouse, listed.policy))
        return [(each.check_name, each.passed, each.metadata["observed"].value) for each in results]

    remembered = found()
    assert [(name, is_passed) for name, is_passed, _ in remembered] == [("coverage", True), ("additivity", True)]
    monkeypatch.setattr("churn_assets.defs.reasons.remembered_outcomes", lambda *_: [])
    assert found() == remembered


def test_before_any_week_is_explained_the_checks_say_so(built: Project) -> None:
    found = results_of(churn_reasons_contract(built.lakehouse, built.policy))
    assert [(each.check_name, each.passed) for each in found] == [("coverage", True), ("additivity", True)]
    assert {each.metadata["observed"].value for each in found} == {"no week has been explained yet"}

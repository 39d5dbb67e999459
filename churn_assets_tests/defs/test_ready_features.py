"""A ready feature table without orders goes the whole way, from landing to list and monitoring, or is refused."""

import json
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pandas as pd
import pyarrow as pa
import pytest

from churn_assets.churn.contract import AS_REBUILT, NO_FUTURE_LEAKAGE
from churn_assets.churn.errors import SourceSchemaError
from churn_assets.commands.reproduce import reproduce
from churn_assets.definitions import CHECKS, LIFECYCLE, build_defs
from churn_assets.defs.automation import TRAINING, retrain_on_feature_refresh
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.monitoring import MONITORING
from churn_assets.defs.origins import origin_of
from churn_assets.defs.retention import EXPORTS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.defs.scoring import SCORES, UNSCORED
from churn_assets_tests.conftest import Project, causes_of, checks_of, materializations_of
from churn_assets_tests.feature_tables import BASELINE as BASELINE_SOURCE
from churn_assets_tests.feature_tables import COLUMNS, FEATURES, visits, write

MODEL = "churn_pipeline_model"
ATTESTED = "attested by Ada Lovelace, data platform, and not evaluable without orders: "


@pytest.fixture
def project(delivered: Project, tmp_path: Path) -> Project:
    """A copy of the delivered project for one test to change."""
    return delivered.copied_to(tmp_path / "project")


def declared(project: Project, sources: str) -> Project:
    """The project with another sources.toml."""
    (project.settings.project / "sources.toml").write_text(sources, encoding="utf-8")
    return Project.at(project.settings.project)


def without_attestation(sources: str) -> str:
    return re.sub(r"attested_\w+ = .*\n", "", sources)


def test_the_graph_begins_at_the_panel_and_depends_on_nothing_that_is_not_there(delivered: Project) -> None:
    defs = build_defs(delivered.resources)
    graph = defs.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert PANEL in keys
    assert not keys & {"food_delivery/orders", "food_delivery/silver_orders_enriched", BASELINE}
    assert graph.get_all_asset_keys() - graph.external_asset_keys == graph.materializable_asset_keys
    assert {key.to_user_string() for key in graph.external_asset_keys} == {"food_delivery/model_promotions"}
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert (node.description, node.owners, node.kinds) != (None, [], set()), key
    panel_checks = {key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey(PANEL.split("/"))}
    assert {"ranges", "no_future_leakage", "newest_snapshot"} <= panel_checks
    # There are no orders to compute it from again.
    assert AS_REBUILT not in panel_checks
    assert not origin_of(delivered.lakehouse, 0, delivered.policy).rebuilt_outcome().is_passed
    assert BASELINE in {
        key.to_user_string()
        for key in build_defs(with_rule_configured(delivered)).resolve_asset_graph().materializable_asset_keys
    }


def with_rule_configured(project: Project) -> dict[str, Any]:
    from churn_assets.churn.policy import ChurnPolicy
    from churn_assets.resources.sources import SourceCatalog, load_sources

    file = project.settings.project.parent / "sources_with_rule.toml"
    file.write_text(FEATURES + BASELINE_SOURCE, encoding="utf-8")
    sources = load_sources(file)
    policy = ChurnPolicy.model_validate({}, context={"catalogue": sources.catalogue})
    return project.resources | {"policy": policy, "sources": SourceCatalog(sources, project.settings.project, "")}


def test_who_vouches_is_in_commit_verdict_ledger_and_card(delivered: Project) -> None:
    lakehouse = delivered.lakehouse
    assert lakehouse.commit_metadata(PANEL)["attestation"].startswith(ATTESTED)
    (evaluation,) = lakehouse.records("recall_churn")
    assert evaluation["verdict"] == "PASS"
    assert evaluation["reasons"][-1].startswith(ATTESTED)
    (decision,) = delivered.resources["promotions"].state().ledger
    assert decision.reasons[-1].startswith(ATTESTED)
    version = delivered.tracking.version_under("production")
    assert version is not None
    assert version.run_id is not None
    card = delivered.tracking.client.download_artifacts(version.run_id, "model_card.md")
    text = Path(card).read_text(encoding="utf-8")
    assert text.count("attested by Ada Lovelace") == 1
    assert "**no visit for 30 days**, in the 30 days from the as-of date" in text
    assert "days since the last visit" in text
    params = delivered.tracking.client.get_run(version.run_id).data.params
    assert params["feature_set"] == "declared"
    assert json.loads(params["features"]) == [name for name in COLUMNS if name != "fees_90d"]


def test_from_landing_to_list_and_monitoring_and_on_to_the_labels_that_come_later(
    delivered: Project, tmp_path: Path
) -> None:
    project = delivered.copied_to(tmp_path / "project")
    folder = project.settings.project
    early = visits(labelled=13)
    write(early, folder)
    assert project.run(LIFECYCLE, PANEL).success
    weeks = project.weeks()
    scored = weeks[14:16]
    result = project.score(scored[0], scored[1])
    assert result.success, causes_of(result)

    panel = {(row["customer_id"], row["as_of"]): row for row in project.lakehouse.records(PANEL)}
    scores = {(row["customer_id"], row["as_of"]): row for row in project.lakehouse.records(SCORES)}
    assert {day for _, day in scores} == set(scored)
    assert {key for key in panel if key[1] in scored} == set(scores)
    targets = project.lakehouse.records(TARGETS)
    assert {row["as_of"] for row in targets} == set(scored)
    for row in targets:
        key = row["customer_id"], row["as_of"]
        assert row["recent_spend"] == panel[key]["fees_90d"]
        assert row["value_at_risk"] == pytest.approx(scores[key]["churn_probability"] * panel[key]["fees_90d"])
        for reason in row["reasons"]:
            assert reason["value"] == panel[key][reason["feature"]]
    said = {reason["feature"]: reason["sentence"] for row in targets for reason in row["reasons"]}
    assert re.fullmatch(r"days since the last visit: [\d.,]+; usual is [\d.,]+", said["days_since_visit"])
    assert set(said) <= set(COLUMNS) - {"fees_90d"}
    listing = pd.read_csv(project.lakehouse.path(f"{EXPORTS}/{scored[-1]}.csv"))
    assert {"value_at_risk", "recent_spend", "reason_1"} <= set(listing.columns)
    page = Path(project.lakehouse.path(f"{FOLDER}/{REPORT}.html")).read_text(encoding="utf-8")
    assert "fees of the last 90 days" in page
    assert "In the feature table, as of" in page
    assert "minutes" not in page

    assert realised(project) == {}
    # The owner of the table fills the labels once they are known.
    write(visits(), folder)
    again = project.run(LIFECYCLE, PANEL)
    assert again.success, causes_of(again)
    assert project.score(scored[-1], scored[-1], MONITORING).success
    found = realised(project)
    for day in scored[:1]:
        alerted = [key for key, row in scores.items() if key[1] == day and row["is_alert"]]
        left = {(row["customer_id"], row["as_of"]) for row in visits().to_dict("records") if row["label"] == 1.0}
        caught = sum(key in left for key in alerted)
        assert found[day] == pytest.approx(caught / sum(key[1] == day for key in left))


def realised(project: Project) -> dict[date, float]:
    """The realised recall of each scored week where it is known."""
    rows = project.lakehouse.records(MONITORING)
    return {
        row["as_of"]: row["value"] for row in rows if row["metric"] == "realised_recall" and row["value"] is not None
    }


# --- nobody vouches, or wrongly ---


def test_what_nobody_vouches_for_is_not_published_and_the_error_says_what_to_write(project: Project) -> None:
    unvouched = declared(project, without_attestation(FEATURES))
    version = unvouched.lakehouse.version(PANEL)
    (cause,) = causes_of(unvouched.run(LIFECYCLE, PANEL))
    assert "BrokenContractError" in cause
    assert "nobody attests it (attested_by and attested_reason under [features] in sources.toml)" in cause
    assert unvouched.lakehouse.version(PANEL) == version
    # What was published under an attestation is no ground for anything once it is gone.
    for key in ("food_delivery/label_feasibility", MODEL):
        (cause,) = causes_of(unvouched.run(LIFECYCLE, key))
        assert "another declaration than that of sources.toml" in cause
    assert unvouched.alias("production") == "1"


def test_labels_that_nobody_can_know_yet_are_not_published_whoever_vouches(project: Project) -> None:
    rows = visits()
    write(rows.assign(label=rows["label"].fillna(0.0)), project.settings.project)
    (cause,) = causes_of(project.run(LIFECYCLE, PANEL))
    assert "no_future_leakage: observed labels at " in cause
    assert "nobody can know" in cause


def test_a_table_landed_under_another_declaration_has_to_be_landed_again(project: Project) -> None:
    wider = declared(project, FEATURES.replace("low = 0\nhigh = 30", "low = 0\nhigh = 60"))
    (cause,) = causes_of(wider.run(LIFECYCLE, MODEL))
    assert "StalePanelError" in cause
    assert "it came by another declaration than that of sources.toml" in cause
    assert wider.run(LIFECYCLE, PANEL, "food_delivery/label_feasibility").success


# --- rows that are not as declared ---


def spoiled(change: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    return change(visits(customers=60, weeks=12))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda rows: rows.assign(days_since_visit=rows["days_since_visit"] + 40), "ranges: observed"),
        (lambda rows: rows.assign(is_on_trial=0.5), "ranges: observed"),
        (lambda rows: rows.assign(plan=rows["plan"].where(rows.index > 3)), "no_nulls: observed 4 offending rows"),
        (lambda rows: rows.assign(customer_id=" "), "no_nulls: observed"),
        (lambda rows: pd.concat([rows, rows.head(2)]), "one_row_per_customer_and_date: observed 4 offending rows"),
        (lambda rows: rows.assign(label=rows["label"] * 2), "label_is_binary: observed"),
        (lambda rows: rows[rows["as_of"] != sorted(rows["as_of"].unique())[3]], "no_empty_snapshot: observed"),
        (lambda rows: rows.drop(columns="plan"), "plan (double) is missing: the plan they have"),
        (lambda rows: rows.assign(plan=[["basic"]] * len(rows)), "plan: found array<string>, needs double"),
        (
            lambda rows: rows.assign(as_of=pd.to_datetime(rows["as_of"]).astype("datetime64[us]") + timedelta(hours=9)),
            "as_of: 720 rows have a time of day",
        ),
        (
            # As null the label would be one that is not known yet.
            lambda rows: rows.assign(label=rows["label"].astype("string").where(rows.index > 2, "left")),
            "label: 3 of 420 values cannot be read as a double, such as 'left'",
        ),
    ],
    ids=["range", "binary", "null", "blank_key", "twice", "label", "hole", "missing", "type", "time", "text"],
)
def test_rows_other_than_declared_are_not_published(
    project: Project, change: Callable[[pd.DataFrame], pd.DataFrame], rule: str
) -> None:
    deltalake.write_deltalake(
        str(project.settings.project / "spoiled"), pa.Table.from_pandas(spoiled(change), preserve_index=False)
    )
    other = declared(project, FEATURES.replace('path = "visits"', 'path = "spoiled"'))
    version = other.lakehouse.version(PANEL)
    (cause,) = causes_of(other.run(LIFECYCLE, PANEL))
    assert rule in cause
    assert other.lakehouse.version(PANEL) == version


def test_dates_may_be_months_or_days_apart_if_that_is_declared(project: Project) -> None:
    rows = visits(customers=40, weeks=1)
    ends = [date(2025, 1, 31), date(2025, 2, 28), date(2025, 3, 31)]
    write(pd.concat([rows.assign(as_of=day, label=0.0) for day in ends]), project.settings.project)
    (cause,) = causes_of(project.run(LIFECYCLE, PANEL))
    assert "no_empty_snapshot: observed" in cause
    monthly = declared(project, FEATURES.replace('every = "week"', 'every = "month"'))
    result = monthly.run(LIFECYCLE, PANEL)
    assert result.success, causes_of(result)
    # Such a table is long out of date.
    assert checks_of(result)[f"{PANEL}: newest_snapshot"] is False


# --- without a value, with a rule, without labels ---


def test_without_a_value_the_list_is_ranked_by_risk_and_says_so(project: Project) -> None:
    plain = declared(project, FEATURES.replace('value = "fees_90d"\n', ""))
    assert plain.run().success
    last = plain.weeks()[-1]
    result = plain.score(last, last)
    assert result.success, causes_of(result)
    listed = sorted(plain.lakehouse.records(TARGETS), key=lambda row: row["rank"])
    told = {(row["ranked_by"], row["value_at_risk"], row["recent_spend"]) for row in listed}
    assert told == {("churn_probability", None, None)}
    probabilities = [row["churn_probability"] for row in listed]
    assert probabilities == sorted(probabilities, reverse=True)
    made = materializations_of(result)[TARGETS]
    assert made.metadata["ranked_by"].value == "churn_probability"
    listing = pd.read_csv(plain.lakehouse.path(f"{EXPORTS}/{last}.csv"))
    assert not {"value_at_risk", "recent_spend"} & set(listing.columns)
    page = Path(plain.lakehouse.path(f"{FOLDER}/{REPORT}.html")).read_text(encoding="utf-8")
    assert "by risk, for no value is declared" in page
    assert "Value at risk" not in page
    assert plain.run(CHECKS).success


def test_a_delivered_rule_is_what_the_first_model_is_compared_with(project: Project) -> None:
    folder = project.settings.project
    rows = visits()
    rule = rows[["customer_id", "as_of"]].assign(risk_score=rows["days_since_visit"] / 30)
    write(rule, folder, "rule")
    ruled = declared(project, FEATURES + BASELINE_SOURCE)
    result = ruled.run()
    assert result.success, causes_of(result)
    lakehouse = ruled.lakehouse
    assert lakehouse.inputs(PANEL) == {BASELINE: 0}
    latest = max(lakehouse.records("recall_churn"), key=lambda row: row["evaluated_at"])
    assert {rival["rival"] for rival in latest["comparisons"]} == {"rule", "champion"}
    assert latest["rule_pr_auc"] is not None


def test_a_rule_that_lacks_customers_is_not_evaluable_against(project: Project) -> None:
    rows = visits()
    write(rows[["customer_id", "as_of"]].assign(risk_score=0.5).head(100), project.settings.project, "rule")
    ruled = declared(project, FEATURES + BASELINE_SOURCE)
    assert not ruled.run().success
    latest = max(ruled.lakehouse.records("recall_churn"), key=lambda row: row["evaluated_at"])
    assert latest["verdict"] == "NOT_EVALUABLE"
    assert "some scores of the retention team's rule are missing or NaN" in latest["reasons"]


def test_without_labels_nothing_is_trained_and_weeks_are_still_scored(project: Project) -> None:
    unlabelled = declared(project, re.sub(r"(label|outcome_days) = .*\n", "", FEATURES))
    result = unlabelled.run()
    assert not result.success
    assert checks_of(result)["food_delivery/label_feasibility: churn_definition_is_feasible"] is False
    assert {row["label"] for row in unlabelled.lakehouse.records(PANEL)} == {None}
    last = unlabelled.weeks()[-1]
    assert unlabelled.score(last, last, SCORES, UNSCORED).success


def test_a_rule_with_two_scores_of_one_customer_is_refused(project: Project) -> None:
    # Each would be judged on as a row of its own.
    rule = visits(customers=20, weeks=2)[["customer_id", "as_of"]].assign(risk_score=0.5)
    write(pd.concat([rule, rule.head(1)]), Path(project.lakehouse.path(BASELINE)).parent, Path(BASELINE).name)
    policy = declared(project, FEATURES + BASELINE_SOURCE).policy
    with pytest.raises(SourceSchemaError, match=f"several scores[^$]*V00000 at {rule['as_of'].iloc[0]}"):
        origin_of(project.lakehouse, 0, policy).rivals()


# --- another tool writes the panel itself ---


def in_place(project: Project, rows: pd.DataFrame) -> int:
    """Another tool's version of the panel, which records nothing of what it was made from."""
    deltalake.write_deltalake(
        project.lakehouse.path(PANEL),
        pa.Table.from_pandas(rows[["customer_id", "as_of", *COLUMNS, "label"]], preserve_index=False),
        mode="overwrite",
    )
    version = project.lakehouse.version(PANEL)
    assert version is not None
    return version


def test_what_another_tool_writes_in_place_is_checked_and_trained_on(project: Project) -> None:
    version = in_place(project, visits(seed=8))
    result = project.run(TRAINING)
    assert result.success, causes_of(result)
    assert checks_of(result)[f"{PANEL}: no_future_leakage"]
    staged = project.tracking.version_under("staging")
    assert staged is not None
    assert project.tracking.trained_model_of(staged).evidence.data_versions[PANEL] == version
    last = project.weeks()[-1]
    with project.instance() as instance:
        instance.add_dynamic_partitions("snapshots", [str(day) for day in project.weeks()])
    scored = project.score(last, last)
    assert scored.success, causes_of(scored)


def test_what_another_tool_writes_in_place_is_compared_with_the_rule_that_is_there(project: Project) -> None:
    rows = visits()
    write(
        rows[["customer_id", "as_of"]].assign(risk_score=rows["days_since_visit"] / 30),
        Path(project.lakehouse.path(BASELINE)).parent,
        "gold_customer_churn_risk",
    )
    ruled = declared(project, FEATURES + BASELINE_SOURCE)
    in_place(ruled, visits(seed=8))
    result = ruled.run(TRAINING)
    assert result.success, causes_of(result)
    latest = max(ruled.lakehouse.records("recall_churn"), key=lambda row: row["evaluated_at"])
    assert {rival["rival"] for rival in latest["comparisons"]} == {"rule", "champion"}


def test_what_another_tool_writes_in_place_is_judged_by_its_rows(project: Project) -> None:
    rows = visits()
    in_place(project, pd.concat([rows, rows.head(1)]))
    result = project.run(TRAINING)
    assert checks_of(result)[f"{PANEL}: one_row_per_customer_and_date"] is False
    assert MODEL not in materializations_of(result)


def test_without_the_door_what_another_tool_writes_is_refused_in_words(built: Project, tmp_path: Path) -> None:
    project = built.copied_to(tmp_path / "project")
    path = project.lakehouse.path(PANEL)
    rows = deltalake.DeltaTable(path).to_pyarrow_table()
    deltalake.write_deltalake(path, rows.slice(1), mode="overwrite")
    result = project.run(TRAINING)
    checked = result.get_asset_check_evaluations()
    refused = {found.check_name: found.metadata["observed"].value for found in checked if not found.passed}
    assert set(refused) == {NO_FUTURE_LEAKAGE, AS_REBUILT}
    cause = refused[NO_FUTURE_LEAKAGE]
    assert "another tool wrote it, and sources.toml names no [features]" in str(cause)
    assert "docs/feature_tables.md" in str(cause)
    # Nor does the sensor ask for another run, and it says why.
    with project.instance() as instance:
        resources = {name: project.resources[name] for name in ("lakehouse", "policy")}
        with dg.build_sensor_context(instance, resources=resources) as context:
            skipped = retrain_on_feature_refresh(context)
    assert isinstance(skipped, dg.SkipReason)
    assert "fails its checks: no_future_leakage: observed: not evaluable" in str(skipped.skip_message)
    assert MODEL not in materializations_of(result)
    (alone,) = causes_of(project.run(LIFECYCLE, "food_delivery/train_features", "food_delivery/test_features", MODEL))
    assert "another tool wrote it, and sources.toml names no [features]" in alone


def test_a_version_trained_on_a_delivered_table_is_made_again_the_same(project: Project) -> None:
    write(visits(seed=9), project.settings.project)
    assert project.run(LIFECYCLE, PANEL).success
    again = reproduce(project.resources, project.settings, "1", lambda *_: lambda entry: None)
    assert again.differing == []
    assert again.inputs == {PANEL: 0}

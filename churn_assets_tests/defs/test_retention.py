"""Retention lists from the real flow: made from the week's scores, made again the same, refused rather than guessed."""

import csv
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import deltalake
import pytest
from pyspark.sql import functions as F

from churn_assets.churn.policy import Economics, Offer
from churn_assets.churn.retention import NO_ACTION_PAYS
from churn_assets.churn.tables import OPT_OUTS
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.lakehouse import matches_of
from churn_assets.defs.list_page import PAGE
from churn_assets.defs.reasons import REASONS
from churn_assets.defs.retention import (
    CONTACTS,
    EXCLUSIONS,
    EXPORTS,
    OPTED_OUT,
    OUTCOMES,
    TARGETS,
    retention_targets_contract,
)
from churn_assets.defs.risk_report import FOLDER
from churn_assets.defs.scoring import SCORES
from churn_assets_tests.check_results import results_of
from churn_assets_tests.conftest import Project, causes_of, checks_of

LISTS = [TARGETS, EXCLUSIONS]


def weeks(project: Project) -> list[date]:
    return project.weeks()[-2:]


def rows(project: Project, table: str = TARGETS) -> list[dict[str, Any]]:
    found = (
        project.lakehouse.read(table)
        .drop("listed_at", "scored_at", "explained_at")
        .orderBy("as_of", "customer_id")
        .collect()
    )
    return [row.asDict(recursive=True) for row in found]


@pytest.fixture
def changeable(listed: Project, tmp_path: Path) -> Project:
    return listed.copied_to(tmp_path / "project")


def test_every_alerted_customer_is_listed_or_excluded_and_valued_by_their_own_spend(listed: Project) -> None:
    scores = {(row["as_of"], row["customer_id"]): row for row in rows(listed, SCORES)}
    spend = {(row.as_of, row.customer_id): float(row.spend) for row in listed.lakehouse.read(BASELINE).collect()}
    targets, excluded = ({(row["as_of"], row["customer_id"]) for row in rows(listed, table)} for table in LISTS)
    alerted = {key for key, row in scores.items() if row["is_alert"]}
    # The tiny policy's budget is far above its alerts.
    assert targets | excluded == alerted
    assert not targets & excluded
    assert excluded
    for row in rows(listed):
        key = (row["as_of"], row["customer_id"])
        assert row["recent_spend"] == pytest.approx(spend[key])
        assert row["value_at_risk"] == pytest.approx(scores[key]["churn_probability"] * spend[key])
        assert row["risk_tier"] == scores[key]["risk_tier"]
        assert row["suggested_action"]
        assert len(row["reasons"]) <= 3
    for week in weeks(listed):
        ranked = sorted((row for row in rows(listed) if row["as_of"] == week), key=lambda row: row["rank"])
        assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
        assert [row["value_at_risk"] for row in ranked] == sorted((r["value_at_risk"] for r in ranked), reverse=True)


def test_nearly_everybody_at_risk_has_a_reason(listed: Project) -> None:
    for week in weeks(listed):
        told = [row for row in rows(listed, REASONS) if row["as_of"] == week]
        at_risk = sorted(told, key=lambda row: row["raw_score"])[-len(told) // 5 :]
        assert sum(not row["reasons"] for row in at_risk) < len(at_risk) / 20


def test_the_csv_file_is_the_list_without_whoever_is_held_out(listed: Project) -> None:
    for week in weeks(listed):
        file = Path(listed.lakehouse.root, EXPORTS, f"{week}.csv")
        with file.open(encoding="utf-8", newline="") as lines:
            found = list(csv.DictReader(lines))
        contacts = [row for row in rows(listed) if row["as_of"] == week and not row["is_holdout"]]
        contacts.sort(key=lambda row: row["rank"])
        assert [(row["customer_id"], row["reason_1"]) for row in found] == [
            (row["customer_id"], "".join(reason["sentence"] for reason in row["reasons"][:1])) for row in contacts
        ]
        # Ranks without a hole, money to cents, and each row says of which week it is, ranked by what, in what currency.
        assert [int(row["rank"]) for row in found] == list(range(1, len(found) + 1))
        said = {(row["week"], row["ranked_by"], row["currency"]) for row in found}
        assert said == {(str(week), "value_at_risk", listed.policy.units.currency)}
        for name in ("recent_spend", "value_at_risk"):
            assert [row[name] for row in found] == [str(round(row[name], 2)) for row in contacts]
        assert sorted(path.name for path in file.parent.iterdir()) == [f"{day}.csv" for day in weeks(listed)]


def test_a_list_made_again_is_the_same_and_replaces_its_week_only(changeable: Project) -> None:
    before, versions = [rows(changeable, table) for table in LISTS], [changeable.lakehouse.version(t) for t in LISTS]
    last = weeks(changeable)[-1]
    result = changeable.score(last, last, *LISTS)
    assert result.success, causes_of(result)
    assert [rows(changeable, table) for table in LISTS] == before
    assert [changeable.lakehouse.version(table) for table in LISTS] == [(version or 0) + 1 for version in versions]


def test_contacts_and_opt_outs_keep_customers_off_the_next_list(changeable: Project) -> None:
    earlier, last = weeks(changeable)
    held_out = {row["customer_id"] for row in rows(changeable) if row["as_of"] == earlier and row["is_holdout"]}
    listed_last = [row for row in rows(changeable) if row["as_of"] == last and row["customer_id"] not in held_out]
    first, second = sorted(listed_last, key=lambda row: row["rank"])[:2]
    lakehouse = changeable.lakehouse
    spark = lakehouse.spark
    # Blanks around an id are no part of it.
    lakehouse.write(OPTED_OUT, spark.createDataFrame([(f"{first['customer_id']}  ",)], "customer_id string"))
    new = (
        lakehouse.read(CONTACTS)
        .limit(1)
        .withColumns(
            {
                "customer_id": F.lit(second["customer_id"]),
                "as_of": F.lit(earlier),
                "contacted_at": F.lit(earlier).cast("timestamp"),
                "is_holdout": F.lit(False),
            }
        )
    )
    lakehouse.write(CONTACTS, lakehouse.read(CONTACTS).unionByName(new))
    result = changeable.score(last, last, *LISTS)
    assert result.success, causes_of(result)
    reasons = {row["customer_id"]: row["reason"] for row in rows(changeable, EXCLUSIONS) if row["as_of"] == last}
    assert reasons[first["customer_id"]] == "opted out"
    assert reasons[second["customer_id"]] == f"contacted on {earlier}"
    # The earlier list is used by now, so whoever it held out stays held out.
    alerted = {row["customer_id"] for row in rows(changeable, SCORES) if row["as_of"] == last and row["is_alert"]}
    assert held_out & alerted
    assert {reasons[customer] for customer in held_out & alerted if "contacted" not in reasons[customer]} == {
        f"held out on {earlier}"
    }


def test_whoever_was_kept_off_the_list_and_is_no_longer_scored_is_not_on_its_page(changeable: Project) -> None:
    last, lakehouse = weeks(changeable)[-1], changeable.lakehouse
    first, second, *_ = sorted((row for row in rows(changeable) if row["as_of"] == last), key=lambda row: row["rank"])
    opted_out = [(row["customer_id"],) for row in (first, second)]
    lakehouse.write(OPTED_OUT, lakehouse.spark.createDataFrame(opted_out, "customer_id string"))
    assert changeable.score(last, last, *LISTS).success
    week = lakehouse.read(SCORES).where(F.col("as_of") == F.lit(last))
    left = week.where(F.col("customer_id") != first["customer_id"])
    lakehouse.replace_dates({SCORES: left}, "as_of", [last], audit=lambda _: None)
    result = changeable.score(last, last, PAGE)
    assert result.success, causes_of(result)
    page = Path(lakehouse.root, FOLDER, f"{PAGE}.html").read_text(encoding="utf-8")
    assert (first["customer_id"] in page, second["customer_id"] in page) == (False, True)


def test_the_page_shows_no_reasons_of_another_model_than_gave_the_probability(changeable: Project) -> None:
    last, lakehouse = weeks(changeable)[-1], changeable.lakehouse
    (first, *_) = sorted((row for row in rows(changeable) if row["as_of"] == last), key=lambda row: row["rank"])
    lakehouse.write(OPTED_OUT, lakehouse.spark.createDataFrame([(first["customer_id"],)], "customer_id string"))
    assert changeable.score(last, last, *LISTS).success
    page = Path(lakehouse.root, FOLDER, f"{PAGE}.html")
    before = page.read_bytes()
    of_week = lakehouse.read(REASONS).where(F.col("as_of") == F.lit(last))
    others = of_week.withColumn("model_version", F.lit("0"))
    lakehouse.replace_dates({REASONS: others}, "as_of", [last], audit=lambda _: None)
    (cause,) = causes_of(changeable.score(last, last, PAGE))
    assert "not all of its scores are explained as they are now; the earlier page stays" in cause
    assert page.read_bytes() == before


def test_opt_outs_of_nobody_are_counted_named_and_where_the_policy_asks_stop_the_list(changeable: Project) -> None:
    last, lakehouse = weeks(changeable)[-1], changeable.lakehouse
    ids = sorted({row["customer_id"] for row in rows(changeable, SCORES)})[:20]
    asked = [*ids[:5], *(f" {each} " for each in ids[5:10]), *(each.lower() for each in ids[10:15]), *"vwxyz"]
    lakehouse.write(OPTED_OUT, lakehouse.spark.createDataFrame([(each,) for each in asked], "customer_id string"))
    (outcome,) = matches_of(lakehouse, [OPT_OUTS], changeable.policy)
    assert (outcome.rule, outcome.is_passed, outcome.is_warning) == ("opt_outs__match_customers", False, True)
    assert outcome.observed.startswith("10 of 20 opt outs (50.0%) are of no known customer; 5 differ only in case")
    assert outcome.keys == (*(f"{each.lower()} (perhaps {each})" for each in ids[10:15]), *"vwxyz")
    assert changeable.score(last, last, *LISTS).success
    retention = changeable.policy.retention.model_copy(update={"max_unmatched_opt_outs": 0.0})
    strict = changeable.under(changeable.policy.model_copy(update={"retention": retention}))
    assert not matches_of(lakehouse, [OPT_OUTS], strict.policy)[0].is_warning
    versions = [lakehouse.version(table) for table in LISTS]
    refused = strict.score(last, last, *LISTS)
    assert not refused.success
    (cause,) = causes_of(refused)
    assert "UnlistableWeekError" in cause
    assert "10 of 20 opt outs" in cause
    assert [lakehouse.version(table) for table in LISTS] == versions


def test_a_week_without_scores_is_refused_and_the_lists_stay(changeable: Project) -> None:
    unscored, last = changeable.weeks()[-3], changeable.weeks()[-1]
    versions = [changeable.lakehouse.version(table) for table in LISTS]
    result = changeable.score(unscored, last, *LISTS)
    (cause,) = causes_of(result)
    assert "UnlistableWeekError" in cause
    assert f"- {unscored}\n" in cause
    assert str(last) not in cause
    assert [changeable.lakehouse.version(table) for table in LISTS] == versions


def test_with_economics_the_list_is_by_profit_within_what_there_is_of_each_action(changeable: Project) -> None:
    last, few = weeks(changeable)[-1], 3
    offers = {action.action: Offer(contact_cost=0.5, acceptance=0.1) for action in changeable.policy.retention.actions}
    offers["reminder"] = Offer(contact_cost=0.1, acceptance=0.2, weekly_capacity=few)
    sections = {
        "economics": Economics(margin=0.3, lifetime_days=120, actions=offers),
        "retention": changeable.policy.retention.model_copy(update={"rank_by": "expected_profit"}),
    }
    project = changeable.under(changeable.policy.model_copy(update=sections))
    result = project.score(last, last, *LISTS)
    assert result.success, causes_of(result)
    assert set(checks_of(result).values()) == {True}
    listed = sorted((row for row in rows(project) if row["as_of"] == last), key=lambda row: row["rank"])
    profits = [row["expected_profit"] for row in listed]
    assert profits == sorted(profits, reverse=True)
    assert min(profits) > 0
    assert sum(row["suggested_action"] == "reminder" and not row["is_holdout"] for row in listed) == few
    reasons = {row["reason"] for row in rows(project, EXCLUSIONS) if row["as_of"] == last}
    assert NO_ACTION_PAYS in reasons
    with Path(project.lakehouse.root, EXPORTS, f"{last}.csv").open(encoding="utf-8", newline="") as lines:
        told = [float(row["expected_profit"]) for row in csv.DictReader(lines)]
    assert told == [round(row["expected_profit"], 2) for row in listed if not row["is_holdout"]]
    earlier = [row for row in rows(project) if row["as_of"] != last]
    assert {row["ranked_by"] for row in earlier} == {"value_at_risk"}


def test_a_week_in_which_nobody_is_alerted_has_an_empty_list(changeable: Project) -> None:
    earlier, last = weeks(changeable)
    lakehouse, before = changeable.lakehouse, rows(changeable)
    calm = lakehouse.read(SCORES).where(F.col("as_of") == F.lit(last)).withColumn("is_alert", F.lit(False))
    lakehouse.replace_dates({SCORES: calm}, "as_of", [last], audit=lambda _: None)
    result = changeable.score(last, last, *LISTS)
    assert result.success, causes_of(result)
    assert set(checks_of(result).values()) == {True}
    assert rows(changeable) == [row for row in before if row["as_of"] == earlier]
    assert {row["as_of"] for row in rows(changeable, EXCLUSIONS)} == {earlier}
    file = Path(lakehouse.root, EXPORTS, f"{last}.csv").read_text(encoding="utf-8")
    assert file.startswith('"week","rank",')
    assert file.count("\n") == 1


def test_the_rules_asked_of_the_rows_say_what_the_audit_said(listed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[tuple[bool, str]]:
        results = results_of(retention_targets_contract(listed.lakehouse, listed.policy))
        return [(each.passed, str(each.metadata["observed"].value)) for each in results]

    remembered = found()
    assert len(remembered) == 3
    monkeypatch.setattr("churn_assets.defs.retention.remembered_outcomes", lambda *_: [])
    assert found() == remembered
    monkeypatch.setattr("churn_assets.defs.retention.capacity_by_date", lambda *_: dict.fromkeys(weeks(listed), 1))
    assert not found()[0][0]


def test_spend_of_unknown_orders_is_not_guessed(changeable: Project) -> None:
    last = weeks(changeable)[-1]
    lakehouse = changeable.lakehouse
    # As another tool would write it: the commit does not say what the features were computed from.
    lakehouse.write(PANEL, lakehouse.read(PANEL))
    versions = [lakehouse.version(table) for table in LISTS]
    (cause,) = causes_of(changeable.score(last, last, SCORES, "food_delivery/unscored_customers", REASONS, *LISTS))
    assert "does not record what it was computed from" in cause
    assert [lakehouse.version(table) for table in LISTS] == versions


def test_a_list_changed_by_hand_fails_its_checks(changeable: Project) -> None:
    table = deltalake.DeltaTable(changeable.lakehouse.path(TARGETS))
    table.update(new_values={"customer_id": "stranger"}, predicate="rank = 1")
    found = results_of(retention_targets_contract(changeable.lakehouse, changeable.policy))
    assert [each.passed for each in found] == [False] * 3
    assert {each.metadata["observed"].value for each in found} == {
        "not evaluable: the scores behind this version are unknown"
    }


def test_before_any_list_is_made_the_checks_say_so(built: Project) -> None:
    found = results_of(retention_targets_contract(built.lakehouse, built.policy))
    assert [each.passed for each in found] == [True] * 3
    assert {each.metadata["observed"].value for each in found} == {"no list has been made yet"}


def test_the_effect_of_the_past_campaign_is_counted_from_contacts_and_labels(listed: Project) -> None:
    labels = {(row.customer_id, row.as_of): row.label for row in listed.lakehouse.read(PANEL).collect()}
    contacts = listed.lakehouse.read(CONTACTS).collect()
    assert len(contacts) > 50
    counted = {
        arm: [labels[row.customer_id, row.as_of] == 0.0 for row in contacts if row.is_holdout is (arm == "held_out")]
        for arm in ("treated", "held_out")
    }
    (everyone,) = [row for row in rows_of_effect(listed) if row["risk_tier"] == "all"]
    for arm, stayed in counted.items():
        assert everyone[arm] == len(stayed)
        assert everyone[f"{arm}_retained_share"] == pytest.approx(sum(stayed) / len(stayed))
    assert everyone["statement"]
    assert listed.lakehouse.row_count(OUTCOMES) == len(contacts)


def rows_of_effect(project: Project) -> list[dict[str, Any]]:
    return [row.asDict() for row in project.lakehouse.read(EFFECT).collect()]


def test_a_run_in_a_process_of_its_own_scores_and_lists(changeable: Project) -> None:
    """As the daemon starts it: nothing has begun a Spark session when the first asset asks for the model."""
    before, last = changeable.lakehouse.version(TARGETS) or 0, weeks(changeable)[-1]
    code = """
import sys
from datetime import date
from pathlib import Path
from churn_assets_tests.conftest import Project, causes_of, checks_of
week = date.fromisoformat(sys.argv[2])
result = Project.at(Path(sys.argv[1])).score(week, week)
assert result.success, causes_of(result)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(changeable.settings.project), str(last)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert changeable.lakehouse.version(TARGETS) == before + 1

"""What an audit found is believed of just the versions it saw, under just the rules it judged by; and it is right."""

import ast
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.contract import PANEL_CHECKS, SPLIT_RULES
from churn_assets.churn.errors import BrokenContractError
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy, Retention
from churn_assets.churn.reasons import REASON_RULES
from churn_assets.churn.retention import TARGET_RULES
from churn_assets.churn.scoring import SCORE_RULES
from churn_assets.defs import audits
from churn_assets.defs.audits import audited, remembered_outcomes
from churn_assets.defs.features import PANEL
from churn_assets.defs.panel_contract import stored_outcomes
from churn_assets.defs.reasons import REASONS, churn_reasons_contract
from churn_assets.defs.retention import EXCLUSIONS, TARGETS, retention_targets_contract
from churn_assets.defs.scoring import SCORES, UNSCORED, churn_scores_contract
from churn_assets.defs.splits import TEST, TRAIN, stored_split_outcomes, train_and_test_features_contract
from churn_assets.delta.commits import OvertakenError
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.check_results import results_of
from churn_assets_tests.conftest import ENGINE, Project
from churn_assets_tests.processes import checked_without_jvm

TABLE, OTHER = "food_delivery/one", "food_delivery/other"
FOUND = [
    Outcome("sound", True, "0 offending rows", "none"),
    Outcome("rare", False, "1 row", "0 rows", ("a at 2024-01-01",), is_warning=True),
]
POLICY = ChurnPolicy()


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> LakehouseResource:
    settings = settings_from_env(ENGINE)
    return LakehouseResource(root=str(tmp_path), pyspark=spark_resource(settings))


def remembered(lakehouse: LakehouseResource, *tables: str, policy: ChurnPolicy = POLICY) -> list[Outcome]:
    return remembered_outcomes(lakehouse, lakehouse.pin(*tables), policy)


def test_an_audits_outcomes_are_those_of_its_version(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    lakehouse.write(TABLE, spark.range(3), audit=lambda _: audited(FOUND, TABLE, POLICY))
    assert remembered(lakehouse, TABLE) == FOUND
    lakehouse.write(TABLE, spark.range(4))
    assert remembered(lakehouse, TABLE) == []
    assert remembered_outcomes(lakehouse, {TABLE: 0}, POLICY) == FOUND


def test_other_rules_and_another_policy_believe_no_earlier_audit(
    lakehouse: LakehouseResource, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.write(TABLE, spark.range(3), audit=lambda _: audited(FOUND, TABLE, POLICY))
    other = POLICY.model_copy(update={"retention": Retention(weekly_capacity=7)})
    assert remembered(lakehouse, TABLE, policy=other) == []
    monkeypatch.setattr(audits, "_code_digest", lambda: "other code")
    assert remembered(lakehouse, TABLE) == []


def test_every_rule_that_audits_is_of_a_module_whose_code_counts() -> None:
    stages = Path(str(audits.__file__)).parent
    rules = {
        (node.module, alias.name)
        for file in stages.glob("*.py")
        if "defs.audits import" in (text := file.read_text(encoding="utf-8")) or file.stem == "origins"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("churn_assets.churn.")
        for alias in node.names
        if alias.name.endswith(("_outcome", "_outcomes"))
    }
    assert {"panel_outcomes", "future_outcome", "split_outcomes", "score_outcomes", "target_outcomes"} <= {
        name for _, name in rules
    }
    assert {module for module, _ in rules} <= {module.__name__ for module in audits.RULE_MODULES}


@pytest.mark.parametrize(
    "commit",
    [
        lambda table: table.delete("id = 1"),
        lambda table: table.restore(0),
        lambda table: deltalake.write_deltalake(table, table.to_pyarrow_table(), mode="append"),
    ],
    ids=["delete", "restore", "append"],
)
def test_no_commit_of_another_writer_that_changes_rows_inherits_an_audit(
    lakehouse: LakehouseResource, spark: SparkSession, commit: Callable[[deltalake.DeltaTable], Any]
) -> None:
    rows = spark.range(6).repartition(3)
    lakehouse.write(TABLE, spark.range(1))
    lakehouse.write(TABLE, rows, audit=lambda _: audited(FOUND, TABLE, POLICY))
    commit(deltalake.DeltaTable(lakehouse.path(TABLE)))
    assert lakehouse.version(TABLE) == 2
    assert remembered(lakehouse, TABLE) == []


def test_a_compaction_by_another_writer_inherits_the_audit(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    rows = spark.range(6).repartition(3)
    lakehouse.write(TABLE, rows, audit=lambda _: audited(FOUND, TABLE, POLICY))
    deltalake.DeltaTable(lakehouse.path(TABLE)).optimize.compact()
    assert lakehouse.version(TABLE) == 1
    assert remembered(lakehouse, TABLE) == FOUND


def test_rows_that_another_writer_commits_at_the_same_time_are_not_covered(
    lakehouse: LakehouseResource, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.write(TABLE, spark.range(1))
    commit = deltalake.DeltaTable.create_write_transaction

    def commit_after_another(*arguments: Any, **named: Any) -> None:
        deltalake.write_deltalake(lakehouse.path(TABLE), pa.table({"id": [7]}), mode="append")
        commit(*arguments, **named)

    monkeypatch.setattr(deltalake.DeltaTable, "create_write_transaction", commit_after_another)
    with pytest.raises(OvertakenError, match="was written by another process after version 0"):
        lakehouse.write(TABLE, spark.range(3), audit=lambda _: audited(FOUND, TABLE, POLICY))
    assert sorted(row.id for row in lakehouse.read(TABLE).collect()) == [0, 7]
    assert remembered(lakehouse, TABLE) == []


def test_a_commit_with_files_of_another_writer_has_no_audit_though_it_says_so(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    lakehouse.write(TABLE, spark.range(1), audit=lambda _: audited(FOUND, TABLE, POLICY))
    said = {name: lakehouse.commit_metadata(TABLE)[name] for name in ("write_id", "audit")}
    noted = deltalake.CommitProperties(custom_metadata=said)
    deltalake.write_deltalake(lakehouse.path(TABLE), pa.table({"id": [7]}), mode="append", commit_properties=noted)
    assert remembered(lakehouse, TABLE) == []


def test_an_audit_of_some_dates_is_of_their_files_alone(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    first, second = date(2024, 1, 1), date(2024, 1, 8)

    def replace(day: date) -> None:
        rows = spark.createDataFrame([(1, day)], "id long, as_of date")
        lakehouse.replace_dates({TABLE: rows}, "as_of", [day], audit=lambda _: audited(FOUND, TABLE, POLICY))

    replace(first)
    replace(second)
    assert remembered(lakehouse, TABLE) == FOUND
    assert lakehouse.commit_metadata(TABLE)["dates"] == [str(second)]


def test_tables_written_apart_have_no_audit_in_common(lakehouse: LakehouseResource, spark: SparkSession) -> None:
    rows = spark.range(3)
    for _ in range(2):
        lakehouse.write_together({TABLE: rows, OTHER: rows}, audit=lambda _: audited(FOUND, TABLE, POLICY))
    assert remembered(lakehouse, TABLE, OTHER) == FOUND
    assert remembered_outcomes(lakehouse, {TABLE: 0, OTHER: 1}, POLICY) == []


def test_an_append_is_audited_and_nothing_is_believed_of_the_table(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    for _ in range(2):
        lakehouse.write(TABLE, spark.range(3), mode="append", audit=lambda _: audited(FOUND, TABLE, POLICY))
    assert remembered(lakehouse, TABLE) == []
    assert "audit" not in lakehouse.commit_metadata(TABLE)


def test_metadata_copied_from_an_audited_commit_does_not_make_another_write_that_one(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    rows = spark.range(3)
    lakehouse.write_together({TABLE: rows, OTHER: rows}, audit=lambda _: audited(FOUND, TABLE, POLICY))
    copied = {name: lakehouse.commit_metadata(TABLE)[name] for name in ("write_id", "audit")}
    lakehouse.write(TABLE, spark.range(5), metadata=copied)
    assert remembered(lakehouse, TABLE, OTHER) == []


def test_tables_together_are_published_together_or_not_at_all(
    lakehouse: LakehouseResource, spark: SparkSession
) -> None:
    broken = [Outcome("sound", False, "1 offending row", "none")]
    with pytest.raises(BrokenContractError, match="1 offending row"):
        lakehouse.write_together(
            {TABLE: spark.range(3), OTHER: spark.range(3)}, audit=lambda _: audited(broken, TABLE, POLICY)
        )
    assert not lakehouse.has(TABLE)
    assert not lakehouse.has(OTHER)


def found_by(called: object) -> dict[str | None, tuple[bool, str]]:
    return {found.check_name: (found.passed, str(found.metadata["observed"].value)) for found in results_of(called)}


def test_what_is_remembered_is_what_the_rows_say(listed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lakehouse, policy = listed.lakehouse, listed.policy

    def evaluated() -> list[Any]:
        splits, panel = lakehouse.pin(TRAIN, TEST), lakehouse.pin(PANEL)
        return [
            list(stored_outcomes(lakehouse, panel[PANEL], set(PANEL_CHECKS), policy)),
            list(stored_split_outcomes(lakehouse, splits | panel, policy)),
            found_by(train_and_test_features_contract(lakehouse=lakehouse, policy=policy)),
            found_by(churn_scores_contract(lakehouse=lakehouse, policy=policy)),
            found_by(churn_reasons_contract(lakehouse=lakehouse, policy=policy)),
            found_by(retention_targets_contract(lakehouse=lakehouse, policy=policy)),
        ]

    remembering = evaluated()
    assert [len(found) for found in remembering] == [
        len(PANEL_CHECKS), len(SPLIT_RULES), len(SPLIT_RULES), len(SCORE_RULES), len(REASON_RULES), len(TARGET_RULES)
    ]  # fmt: skip
    for tables in ([PANEL], [TRAIN, TEST], [SCORES, UNSCORED], [REASONS], [TARGETS, EXCLUSIONS]):
        assert remembered(lakehouse, *tables, policy=policy), tables
    monkeypatch.setattr(audits, "_code_digest", lambda: "other code")
    assert evaluated() == remembering


def test_tables_as_they_were_published_are_checked_without_a_jvm(listed: Project, tmp_path: Path) -> None:
    tables = [PANEL, TEST, SCORES, REASONS, TARGETS]
    found = checked_without_jvm(*tables, CHURN_PROJECT=str(listed.settings.project), HOME=str(tmp_path))
    assert {line.split()[-1] for line in found} == {"PASSED"}, found
    assert {line.split()[0] for line in found} == set(tables)

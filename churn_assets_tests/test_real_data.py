"""The whole flow on real orders, through the example's own files: every row accounted for, the panel, a verdict."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from dagster import ExecuteInProcessResult
from pyspark.sql import SparkSession

from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.resources.settings import CHECKOUT
from churn_assets_tests import reference
from churn_assets_tests.conftest import Project, causes_of, checks_of, materializations_of
from churn_assets_tests.panels import Key, Row, by_key, differences
from churn_assets_tests.said.pages import untrue_in
from churn_assets_tests.true_reasons import contradictions, everybody_told

PANEL = "food_delivery/ml_churn_features"
SILVER = "food_delivery/silver_orders_enriched"


@dataclass(frozen=True)
class Flow:
    project: Project
    lifecycle: ExecuteInProcessResult


@pytest.fixture(scope="module")
def flow(spark: SparkSession, uci_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    example = CHECKOUT / "examples" / "uci_online_retail"
    project = Project.create(
        tmp_path_factory.mktemp("uci"),
        policy=(example / "policy.toml").read_text(encoding="utf-8"),
        sources=(example / "sources.toml").read_text(encoding="utf-8"),
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UCI_ONLINE_RETAIL", str(uci_folder / "online_retail.parquet"))
        return Flow(project, project.run())


@pytest.fixture(scope="module")
def reported(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same model judged again by a policy that asks for less, promoted, and its latest week on list and report."""
    policy = flow.project.policy
    asks_less = policy.model_copy(
        update={"gate": policy.gate.model_copy(update={"min_recall": 0.20, "evaluation": "holdout"})}
    )
    project = flow.project.copied_to(tmp_path_factory.mktemp("reported") / "project").under(asks_less)
    for result in (project.run_from("recall_churn"), project.score(project.weeks()[-1], project.weeks()[-1])):
        assert result.success, causes_of(result)
    return project


def test_the_job_runs_to_a_verdict_and_promotes_just_what_passed(flow: Flow) -> None:
    (recorded,) = flow.project.lakehouse.read("recall_churn").collect()
    assert recorded.verdict in ("PASS", "FAIL"), recorded.reasons
    assert len(recorded.reasons) >= 1
    assert recorded.rows > 100
    assert flow.lifecycle.success == (recorded.verdict == "PASS"), causes_of(flow.lifecycle)
    assert flow.project.alias("production") == ("1" if recorded.verdict == "PASS" else None)
    failed = {check for check, is_passed in checks_of(flow.lifecycle).items() if not is_passed}
    # Only the gate stops; the two others warn.
    warnings = {f"{PANEL}: informative_features", "recall_churn: model_beats_single_features"}
    assert failed <= {"recall_churn: recall_gate", *warnings}


def test_every_invoice_is_kept_cancelled_or_quarantined(flow: Flow) -> None:
    lakehouse = flow.project.lakehouse
    aside = lakehouse.read("food_delivery/quarantined_rows").groupBy("source_table", "disposition", "rule").count()
    assert {tuple(row) for row in aside.collect()} == {
        ("orders", "cancelled", "cancelled", 1_846),
        ("orders", "quarantined", "null_key", 2_032),
    }
    assert lakehouse.row_count("food_delivery/orders") == 12_468
    assert lakehouse.row_count(SILVER) == 8_590
    assert lakehouse.read(SILVER).where("order_id like 'C%'").isEmpty(), "a cancellation counts as an order"
    assert lakehouse.row_count("food_delivery/customers") == lakehouse.row_count("food_delivery/silver_customers")
    checks = checks_of(flow.lifecycle)
    for table in ("orders", "reviews", "customers"):
        assert checks[f"{SILVER}: {table}_accounted_for"]


def test_the_panel_is_the_published_one_row_by_row(flow: Flow, uci_folder: Path) -> None:
    computed = by_key(flow.project.lakehouse.read(PANEL))
    published: dict[Key, Row] = {
        (str(row["customer_id"]), date.fromisoformat(str(row["as_of"])[:10])): {
            str(column): value for column, value in row.items()
        }
        for row in pd.read_parquet(uci_folder / "reference_panel.parquet").to_dict("records")
    }
    assert len(published) == 19_200
    assert differences(computed, published, reference.PANEL_COLUMNS) == []


def test_the_features_that_absent_sources_make_constant_are_named(flow: Flow) -> None:
    (found,) = [
        evaluation
        for evaluation in flow.lifecycle.get_asset_check_evaluations()
        if evaluation.check_name == "informative_features"
    ]
    assert not found.passed
    observed = str(found.metadata["observed"].value)
    neutral = (
        "avg_star_rating = 3.0",
        "late_order_ratio = 0.0",
        "crisis_exposure_index = 0.0",
        "sentiment_velocity = 0.0",
        "recent_delay_minutes = 0.0",
        "delay_minutes_at_last_order = 0.0",
    )
    assert [value for value in neutral if value not in observed] == []
    assert "total_orders" not in observed
    metadata = materializations_of(flow.lifecycle)["food_delivery/reviews"].metadata
    assert metadata["is_configured"].value is False


def test_no_reason_contradicts_what_it_is_given_for(flow: Flow) -> None:
    (recorded,) = flow.project.lakehouse.read("recall_churn").collect()
    told = everybody_told(flow.project, recorded.run_id, flow.project.weeks()[-1])
    assert list(contradictions(told)) == []
    # Not by saying nothing: of those at risk hardly any goes without a reason.
    at_risk = sorted(told, key=lambda row: row["raw_score"])[-len(told) // 5 :]
    assert sum(not row["reasons"] for row in at_risk) < len(at_risk) / 20


def test_report_list_and_card_say_what_the_tables_say(reported: Project) -> None:
    assert untrue_in(reported) == []


def test_where_no_delivery_is_known_with_its_promise_nobody_is_said_not_to_have_waited(reported: Project) -> None:
    report = Path(reported.lakehouse.root, FOLDER, f"{REPORT}.html").read_text(encoding="utf-8")
    assert "left within 30 days" in report
    assert "days before</th>" not in report
    assert "Late delivery" not in report

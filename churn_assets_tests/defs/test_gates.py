"""What must not get through: bad rows, unearned models, half-done writes. The serving model stays as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake
import pandas as pd
import pyarrow as pa
import pytest
from dagster import AssetKey, ExecuteInProcessResult
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn import cleaning, models, splits
from churn_assets.churn.contract import PANEL_CHECKS
from churn_assets.churn.features import feature_panel
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.definitions import LIFECYCLE, build_defs
from churn_assets.defs import evaluation, features, scoring
from churn_assets.delta import commits
from churn_assets.resources.promotions import PromotionsResource
from churn_assets.resources.tracking import TrackingResource
from churn_assets_tests.conftest import OTHERWISE, TABLES, Project, causes_of, checks_of, materializations_of
from churn_assets_tests.panels import value_of

PANEL = "food_delivery/ml_churn_features"
SERVED = "quickbite_churn_predictor"
SPOILED = "C-spoiled"


def with_gate(policy: ChurnPolicy, **changes: float) -> ChurnPolicy:
    return policy.model_copy(update={"gate": policy.gate.model_copy(update=changes)})


def registered_versions(project: Project) -> list[str]:
    found = project.tracking.client.search_model_versions(f"name='{SERVED}'")
    return sorted(str(version.version) for version in found)


def files_under(project: Project, table: str) -> set[Path]:
    return {path for path in Path(project.lakehouse.path(table)).rglob("*") if path.is_file()}


def assert_serving_is_untouched(project: Project, staging: str = "1") -> None:
    assert (project.alias("staging"), project.alias("production")) == (staging, "1")
    assert registered_versions(project) == sorted({"1", staging})


@pytest.fixture(scope="module")
def challenged(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Version 1 serves, and version 2, another model, is registered and not yet decided about."""
    project = built.copied_to(tmp_path_factory.mktemp("challenged") / "project")
    chosen = ("churn_pipeline_model", "recall_churn", "registered_churn_model")
    result = project.run(LIFECYCLE, *chosen, config={"churn_pipeline_model": OTHERWISE})
    assert result.success, causes_of(result)
    return project


def the_cause(result: ExecuteInProcessResult) -> str:
    assert not result.success
    (cause,) = causes_of(result)
    return cause


def run_selection(project: Project, selection: dg.AssetSelection) -> ExecuteInProcessResult:
    defs = dg.Definitions.merge(
        build_defs(project.resources), dg.Definitions(jobs=[dg.define_asset_job("selected", selection)])
    )
    with project.instance() as instance:
        return defs.resolve_job_def("selected").execute_in_process(instance=instance, raise_on_error=False)


def failed_panel_checks(project: Project) -> dict[str, dg.AssetCheckEvaluation]:
    """The latest of each of the panel's checks that did not pass, as Dagster's page and the sensor see them."""
    found = {}
    with project.instance() as instance:
        for rule in PANEL_CHECKS:
            record = instance.get_latest_asset_check_evaluation_record(
                dg.AssetCheckKey(AssetKey(PANEL.split("/")), rule)
            )
            assert record is not None
            assert record.evaluation is not None
            if not record.evaluation.passed:
                found[rule] = record.evaluation
    return found


# --- bad features are never published ---


def with_null_rating(panel: DataFrame) -> DataFrame:
    customer = F.lit(value_of(panel.agg(F.min("customer_id"))))
    return panel.withColumn("avg_star_rating", F.when(F.col("customer_id") != customer, F.col("avg_star_rating")))


def with_duplicate(panel: DataFrame) -> DataFrame:
    return panel.unionByName(panel.orderBy("customer_id", "as_of").limit(1))


def with_impossible_ratio(panel: DataFrame) -> DataFrame:
    customer = F.lit(value_of(panel.agg(F.min("customer_id"))))
    spoiled = F.when(F.col("customer_id") == customer, 1.5).otherwise(F.col("late_order_ratio"))
    return panel.withColumn("late_order_ratio", spoiled)


@pytest.mark.parametrize(
    ("spoil", "rule", "allowed"),
    [
        (with_null_rating, "no_nulls", "0 null or NaN"),
        (with_duplicate, "one_row_per_customer_and_date", "1 row for each customer and date"),
        (with_impossible_ratio, "ranges", "late_order_ratio 0 to 1"),
    ],
)
def test_features_that_break_the_contract_are_not_published(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[DataFrame], DataFrame],
    rule: str,
    allowed: str,
) -> None:
    before, files = project.versions(), files_under(project, PANEL)
    first = value_of(project.lakehouse.read(PANEL).agg(F.min("customer_id")))
    computed = feature_panel
    monkeypatch.setattr(features, "feature_panel", lambda snapshots, policy: spoil(computed(snapshots, policy)))
    # Other code has another digest, and computes every date again.
    monkeypatch.setattr(features, "panel_code", lambda: "spoils the panel")
    result = project.run_from(PANEL)
    cause = the_cause(result)
    assert "BrokenContractError" in cause
    (line,) = [line for line in cause.splitlines() if line.startswith("  - ")]
    assert line.startswith(f"  - {rule}: observed ")
    assert allowed in line
    assert f"{first} at 2025-" in line
    assert "Next step: " in cause
    assert materializations_of(result) == {}
    assert project.versions() == before
    assert files_under(project, PANEL) == files
    assert_serving_is_untouched(project)


@pytest.mark.parametrize("chosen", ["with the panel's checks", "by the button, which leaves them out"])
def test_a_table_spoiled_by_an_outside_writer_stops_everything_downstream(project: Project, chosen: str) -> None:
    path = project.lakehouse.path(PANEL)
    rows = deltalake.DeltaTable(path).to_pyarrow_table().slice(0, 1).to_pandas()
    rows["customer_id"], rows["avg_star_rating"] = SPOILED, None
    spoiled = pa.Table.from_pandas(rows, schema=deltalake.DeltaTable(path).to_pyarrow_table().schema)
    deltalake.write_deltalake(path, spoiled, mode="append")
    before = project.versions()
    panel = AssetKey(PANEL.split("/"))
    selection: dg.AssetSelection = dg.AssetSelection.assets(panel).downstream(include_self=False).materializable()
    if chosen == "with the panel's checks":
        selection |= dg.AssetSelection.checks_for_assets(panel)
    result = run_selection(project, selection)
    failed = failed_panel_checks(project)
    assert set(failed) == {"no_nulls", "no_future_leakage"}
    assert "not evaluable" in str(failed["no_future_leakage"].metadata["observed"].value)
    found = failed["no_nulls"]
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert SPOILED in str(found.metadata["offending_keys"].value)
    assert not result.success
    assert materializations_of(result) == {}
    assert project.versions() == before
    assert_serving_is_untouched(project)


# --- a model has to earn its place ---


def test_a_failed_verdict_is_recorded_and_opens_nothing(project: Project) -> None:
    strict = project.under(with_gate(project.policy, min_recall=0.99))
    result = strict.run_from("recall_churn")
    assert not result.success
    assert checks_of(result)["recall_churn: recall_gate"] is False
    assert list(materializations_of(result)) == ["recall_churn"]
    rows = project.lakehouse.read("recall_churn").orderBy("evaluated_at").collect()
    assert [row.verdict for row in rows] == ["PASS", "FAIL"]
    assert any(reason.startswith("missed: recall") for reason in rows[-1].reasons)
    assert_serving_is_untouched(project)
    cause = the_cause(strict.run(LIFECYCLE, "registered_churn_model"))
    assert "PromotionRefusedError" in cause
    assert "the recorded verdict is FAIL: missed: recall" in cause
    # It serves, so there is nothing to decide.
    assert strict.run(LIFECYCLE, "production_churn_model").success
    assert_serving_is_untouched(project)


def without_evaluation_rows(project: Project) -> Project:
    deltalake.DeltaTable(project.lakehouse.path("recall_churn")).delete()
    return project


def without_evaluation_table(project: Project) -> Project:
    Path(project.lakehouse.path("recall_churn")).rename(project.settings.data / "elsewhere")
    return project


def with_another_policy(project: Project) -> Project:
    return project.under(with_gate(project.policy, min_recall=0.06))


def with_evaluation_of_other_data(project: Project) -> Project:
    path = project.lakehouse.path("recall_churn")
    row = max(project.lakehouse.records("recall_churn"), key=lambda each: each["evaluated_at"])
    row["data_versions"] = {table: version + 1 for table, version in dict(row["data_versions"]).items()}
    table = deltalake.DeltaTable(path).to_pyarrow_table()
    deltalake.write_deltalake(path, pa.Table.from_pylist([row], schema=table.schema), mode="overwrite")
    return project


@pytest.mark.parametrize("asset", ["registered_churn_model", "production_churn_model"])
@pytest.mark.parametrize(
    ("unearned", "reason"),
    [
        (without_evaluation_table, "no evaluation is recorded for model"),
        (without_evaluation_rows, "no evaluation is recorded for model"),
        (with_another_policy, "it was judged by policy"),
        (with_evaluation_of_other_data, f"it judged version 1 of {PANEL}, the model was trained beside version 0"),
    ],
)
def test_without_a_recorded_pass_for_just_this_model_nothing_is_registered_or_promoted(
    challenged: Project, tmp_path: Path, asset: str, unearned: Callable[[Project], Project], reason: str
) -> None:
    project = challenged.copied_to(tmp_path / "project")
    result = unearned(project).run(LIFECYCLE, asset)
    cause = the_cause(result)
    assert "PromotionRefusedError" in cause
    assert reason in cause
    assert "Next step: materialize recall_churn" in cause
    assert materializations_of(result) == {}
    assert_serving_is_untouched(project, staging="2")


@pytest.mark.parametrize(
    ("unearned", "reason"),
    [
        (without_evaluation_rows, "no evaluation is recorded for model"),
        (with_another_policy, "it was judged by policy"),
        (with_evaluation_of_other_data, f"it judged version 1 of {PANEL}, the model was trained beside version 0"),
    ],
)
def test_the_gate_alone_is_shut_where_registration_is(
    project: Project, unearned: Callable[[Project], Project], reason: str
) -> None:
    only_checks = dg.AssetSelection.checks_for_assets(AssetKey("recall_churn"))
    assert run_selection(project, only_checks).success
    result = run_selection(unearned(project), only_checks)
    (found,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "recall_gate"]
    assert not found.passed
    assert reason in str(found.metadata["observed"].value)
    assert not result.success


def test_materializing_the_production_model_with_a_recorded_pass_changes_nothing(project: Project) -> None:
    assert project.run(LIFECYCLE, "registered_churn_model", "production_churn_model").success
    assert_serving_is_untouched(project)


# --- whatever fails, what was published stays ---


def fail(*_: Any, **__: Any) -> None:
    raise OSError("injected failure")


INJECTIONS: dict[str, tuple[object, str]] = {
    "food_delivery/orders": (commits, "_add_actions"),
    "food_delivery/reviews": (commits, "_add_actions"),
    "food_delivery/customers": (commits, "_add_actions"),
    "food_delivery/silver_orders_enriched": (cleaning, "clean"),
    "food_delivery/gold_customer_churn_risk": (commits, "_add_actions"),
    PANEL: (commits, "_add_actions"),
    "food_delivery/label_feasibility": (commits, "_add_actions"),
    "food_delivery/train_features": (splits, "held_out_rows"),
    "churn_pipeline_model": (TrackingResource, "log_training"),
    "recall_churn": (evaluation, "judge"),
    "registered_churn_model": (TrackingResource, "register"),
    "production_churn_model": (PromotionsResource, "state"),
}
# Assets that come from one step are failed together.
SIBLINGS = {
    "food_delivery/silver_customers",
    "food_delivery/segment_dimension",
    "food_delivery/quarantined_rows",
    "food_delivery/test_features",
}


def test_the_injections_cover_every_asset_of_the_flow(project: Project) -> None:
    graph = build_defs(project.resources).resolve_asset_graph()
    # Scores are published by a job of their own, and test_scoring.py breaks it.
    others = ("demo", scoring.GROUP, scoring.MONITORING_GROUP)
    keys = [key for key in graph.materializable_asset_keys if graph.get(key).group_name not in others]
    flow = {"/".join(key.path) for key in keys}
    assert set(INJECTIONS) | SIBLINGS == flow


@pytest.mark.parametrize("asset", INJECTIONS)
def test_a_failure_in_an_asset_leaves_tables_and_serving_model_as_they_were(
    project: Project, monkeypatch: pytest.MonkeyPatch, asset: str
) -> None:
    before = project.versions()
    rows = {table: project.lakehouse.row_count(table) for table in TABLES}
    files = {table: files_under(project, table) for table in TABLES}
    monkeypatch.setattr(*INJECTIONS[asset], fail)
    # Where nothing changed, no date would be computed.
    monkeypatch.setattr(features, "panel_code", lambda: "other code")
    result = project.run_from(asset)
    assert "injected failure" in the_cause(result)
    assert materializations_of(result) == {}
    assert project.versions() == before
    assert {table: project.lakehouse.row_count(table) for table in TABLES} == rows
    assert {table: files_under(project, table) for table in TABLES} == files
    assert_serving_is_untouched(project)


def test_a_commit_that_fails_leaves_the_last_panel_readable_and_the_next_run_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rows = project.versions(), project.lakehouse.read(PANEL).toPandas()
    with monkeypatch.context() as injected:
        injected.setattr(deltalake.DeltaTable, "create_write_transaction", fail)
        result = project.run_from(PANEL)
    assert "injected failure" in the_cause(result)
    assert materializations_of(result) == {}
    assert project.versions() == before
    pd.testing.assert_frame_equal(project.lakehouse.read(PANEL).toPandas(), rows)
    assert_serving_is_untouched(project)
    assert project.run(LIFECYCLE, PANEL).success
    assert project.lakehouse.row_count(PANEL) == len(rows)
    assert project.lakehouse.version(PANEL) == 1


def test_a_write_that_fails_between_the_splits_is_noticed_before_training(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_test(commit: Callable[..., Any]) -> Callable[..., Any]:
        def commit_all_but_test(path: str, *rest: Any, **named: Any) -> Any:
            return fail() if path.endswith("food_delivery/test_features") else commit(path, *rest, **named)

        return commit_all_but_test

    assert project.run(LIFECYCLE, PANEL).success
    with monkeypatch.context() as injected:
        # Rows beside those that are there, and rows in place of them.
        for way in ("_commit_what_is_new", "commit_files"):
            injected.setattr(commits, way, all_but_test(getattr(commits, way)))
        cause = the_cause(project.run(LIFECYCLE, "food_delivery/train_features", "food_delivery/test_features"))
    assert "injected failure" in cause
    after = project.versions()
    assert (after["food_delivery/train_features"], after["food_delivery/test_features"]) == (1, 0)
    cause = the_cause(project.run_from("churn_pipeline_model"))
    assert "TornTablesError" in cause
    assert "Next step: materialize both again" in cause
    assert_serving_is_untouched(project)


def test_a_training_that_raises_ends_its_one_mlflow_run_as_failed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fit_rows", fail)
    result = project.run_from("churn_pipeline_model")
    assert "injected failure" in the_cause(result)
    client = project.tracking.client
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    statuses = {run.info.status: run.data.tags["dagster_run_id"] for run in runs}
    assert len(runs) == 2
    assert set(statuses) == {"FINISHED", "FAILED"}
    assert statuses["FAILED"] == result.run_id


# --- bad input, from sources.toml to the error a person reads ---


def own_tables(folder: Path, orders: pd.DataFrame | None, policy: str = "") -> Project:
    """A project whose one source table is a Parquet file of `orders`; None: there is no such file."""
    project = Project.create(folder, policy=policy, sources='[orders]\nformat = "parquet"\npath = "orders.parquet"\n')
    if orders is not None:
        orders.to_parquet(folder / "orders.parquet", index=False, coerce_timestamps="us")
    return project


def orders_on(*days: str) -> pd.DataFrame:
    """One order of each of five customers on each day."""
    pairs = [(customer, day) for customer in range(5) for day in days]
    return pd.DataFrame(
        {
            "order_id": [f"O{customer}-{day}" for customer, day in pairs],
            "customer_id": [f"C{customer}" for customer, _ in pairs],
            "ordered_at": pd.to_datetime([day for _, day in pairs], utc=True),
            "subtotal": 20.0,
        }
    )


def test_a_source_that_is_not_there_is_named_with_its_place(spark: SparkSession, tmp_path: Path) -> None:
    project = own_tables(tmp_path, None)
    cause = the_cause(project.run())
    assert "MissingSourceError" in cause
    assert f"Source table orders: there is nothing at {tmp_path}/orders.parquet (parquet)." in cause
    assert "Next step: correct `path` under [orders] in sources.toml" in cause
    assert project.versions()["food_delivery/silver_orders_enriched"] is None


def test_an_empty_source_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    project = own_tables(tmp_path, orders_on("2025-01-01").head(0))
    cause = the_cause(project.run())
    assert "EmptySourceError" in cause
    assert "Source table orders" in cause
    assert "has no rows" in cause
    assert "Next step: load it first" in cause
    assert project.versions()["food_delivery/orders"] is None


def test_mistyped_and_missing_columns_are_all_listed_at_once(spark: SparkSession, tmp_path: Path) -> None:
    orders = orders_on("2025-01-01").drop(columns="customer_id").assign(subtotal=True, ordered_at=1.5)
    project = own_tables(tmp_path, orders)
    cause = the_cause(project.run())
    assert "SourceSchemaError" in cause
    assert "Source table orders: 3 column(s) do not fit." in cause
    assert "  - customer_id (string) is missing: who ordered" in cause
    assert "  - subtotal: found boolean, needs double" in cause
    assert "  - ordered_at: found double, needs timestamp" in cause
    assert "Next step: map the columns by `select` under [orders] in sources.toml" in cause
    assert project.versions()["food_delivery/orders"] is None


def test_a_history_too_short_for_a_snapshot_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    cause = the_cause(own_tables(tmp_path, orders_on("2025-01-01", "2025-01-20")).run())
    assert "NoEligibleCustomersError" in cause
    assert "Orders run from 2025-01-01 to 2025-01-20: no Monday has 60 days of data behind it." in cause
    assert "Next step: provide a longer order history" in cause


def test_a_watermark_after_the_last_customer_has_gone_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    policy = "[cleaning]\nwatermark = 2025-06-30\n"
    project = own_tables(tmp_path, orders_on("2025-01-01", "2025-01-20"), policy)
    cause = the_cause(project.run())
    assert "WatermarkBeyondOrdersError" in cause
    assert "Next step: set it to 2025-01-20 at most, or leave it out" in cause
    assert project.versions()["food_delivery/gold_customer_churn_risk"] is None


def test_without_a_known_label_there_is_a_panel_but_no_split(spark: SparkSession, tmp_path: Path) -> None:
    days = [str(day.date()) for day in pd.date_range("2025-01-01", "2025-03-14")]
    project = own_tables(tmp_path, orders_on(*days))
    result = project.run()
    assert not result.success
    checked = {found.check_name: found for found in result.get_asset_check_evaluations()}
    observed = str(checked["churn_definition_is_feasible"].metadata["observed"].value)
    assert "NOT FEASIBLE: no order for 30 days" in observed
    assert "no outcome of 30 days is known yet" in observed
    assert project.versions()[PANEL] == 0
    assert project.versions()["food_delivery/train_features"] is None
    assert not (project.settings.data / "mlflow").exists()
    # Whoever cuts the splits all the same is told why there are none.
    cause = the_cause(project.run(LIFECYCLE, "food_delivery/train_features", "food_delivery/test_features"))
    assert "NoLabelledSnapshotError" in cause
    assert "a label is known 30 days after its as-of date" in cause
    assert "Next step: provide more orders" in cause

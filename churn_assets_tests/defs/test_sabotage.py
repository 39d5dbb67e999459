"""Attacks on the gate. Each has to end in the right verdict with its reason, and in nobody being promoted.

The attacker may write any table as the lakehouse itself would, run any part of the graph alone, and break what is
outside. One attack of each kind is carried through the whole flow; the others attack the rows that the built project
was judged on, by which the gate decides. Attacks on the recorded evaluation are in `test_gates.py` too.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dagster import ExecuteInProcessResult
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.notebook_recipe import random_orders
from churn_assets.churn import judged, models
from churn_assets.churn.contract import split_outcomes
from churn_assets.churn.evaluation import choose_threshold, judge
from churn_assets.churn.evaluations import evaluation_row, recorded_evaluation
from churn_assets.churn.features import feature_panel
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import refusals
from churn_assets.churn.purchase_histories import purchase_histories
from churn_assets.churn.purchase_model import fit_purchase_model, histories
from churn_assets.definitions import LIFECYCLE
from churn_assets.defs import evaluation, features
from churn_assets.defs.lakehouse import SILVER
from churn_assets.resources.trained_models import TrainedModel
from churn_assets.serving.pyfunc import FlatTrees
from churn_assets_tests import feature_tables
from churn_assets_tests.conftest import OTHERWISE, Project, causes_of, checks_of, materializations_of
from churn_assets_tests.processes import mlflow_server

PANEL, BASELINE = "food_delivery/ml_churn_features", "food_delivery/gold_customer_churn_risk"
TRAIN, TEST = "food_delivery/train_features", "food_delivery/test_features"
FEASIBILITY, MODEL, EVALUATION = "food_delivery/label_feasibility", "churn_pipeline_model", "recall_churn"
REGISTERED, PRODUCTION = "registered_churn_model", "production_churn_model"
TO_THE_END = (MODEL, EVALUATION, REGISTERED, PRODUCTION)
SERVED = "quickbite_churn_predictor"


@pytest.fixture(params=["built", "delivered"], ids=["orders", "features"])
def project(spark: SparkSession, request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A copy, for one attack, of the project of orders and of that of a ready feature table."""
    built: Project = request.getfixturevalue(request.param)
    return built.copied_to(tmp_path / "project")


@pytest.fixture
def of_orders(built: Project, tmp_path: Path) -> Project:
    """A copy of the project of orders, for attacks that need some."""
    return built.copied_to(tmp_path / "project")


@pytest.fixture
def of_features(delivered: Project, tmp_path: Path) -> Project:
    """A copy of the project of a ready feature table, for attacks that need one."""
    return delivered.copied_to(tmp_path / "project")


def changed(policy: ChurnPolicy, section: str, **values: Any) -> ChurnPolicy:
    return policy.model_copy(update={section: getattr(policy, section).model_copy(update=values)})


def rewrite(project: Project, table: str, spoil: Callable[[DataFrame], DataFrame]) -> None:
    """Writes a spoiled version of `table` with the lineage of the honest one: nobody can tell it from its commit."""
    lakehouse = project.lakehouse
    kept = lakehouse.commit_metadata(table)
    lineage: dict[str, Any] = {name: kept[name] for name in ("inputs", "panel_digest") if name in kept}
    lakehouse.write(table, spoil(lakehouse.read(table)), metadata=lineage)


def latest_evaluation(project: Project) -> Any:
    row = project.lakehouse.read(EVALUATION).orderBy(F.desc("evaluated_at")).first()
    assert row is not None
    return row


def assert_champion_serves(project: Project, version: str = "1") -> None:
    """The aliases are where they were, and the version in production can be loaded and scores."""
    assert (project.alias("staging"), project.alias("production")) == (version, version)
    found = project.tracking.client.search_model_versions(f"name='{SERVED}'")
    assert max(int(each.version) for each in found) == int(version)
    model = project.tracking.load_model(f"models:/{SERVED}@production")
    scored = models.with_churn_probability(model, project.lakehouse.read(PANEL).limit(20))
    assert all(0 <= row.churn_probability <= 1 for row in scored.collect())


def assert_refused(project: Project, result: ExecuteInProcessResult, verdict: str, *reasons: str) -> None:
    """The run stopped at the gate with this verdict and these reasons, and no later run gets around it."""
    assert not result.success
    assert checks_of(result)[f"{EVALUATION}: recall_gate"] is False
    recorded = latest_evaluation(project)
    assert recorded.verdict == verdict, recorded.reasons
    told = [reason for reason in recorded.reasons if not reason.startswith("met: ")]
    for reason in reasons:
        assert any(reason in line for line in told), (reason, told)
    assert REGISTERED not in materializations_of(result)
    alone = project.run(LIFECYCLE, REGISTERED)
    assert f"the recorded verdict is {verdict}" in "\n".join(causes_of(alone))
    project.run(LIFECYCLE, PRODUCTION)
    assert_champion_serves(project)


def with_little_capacity(project: Project) -> Project:
    """Under a policy that random scores, or worse ones, do not pass: 30 % of customers, and 20 % of churners found."""
    policy = changed(changed(project.policy, "alerts", budget=0.30), "gate", min_recall=0.20)
    limited = project.under(policy)
    assert limited.run(LIFECYCLE, FEASIBILITY).success
    return limited


def test_an_honest_model_passes_where_the_attacks_are_refused(project: Project) -> None:
    limited = with_little_capacity(project)
    result = limited.run(LIFECYCLE, *TO_THE_END)
    assert result.success, causes_of(result)
    assert latest_evaluation(limited).verdict == "PASS"
    assert_champion_serves(limited, "2")


# --- what the gate decides by: the rows the built project was judged on, and its recorded model ---


@dataclass(frozen=True)
class Judgement:
    """The test customers with the stored model's scores and the rule's, and what its evaluation was bound to."""

    project: Project
    rows: pd.DataFrame
    trained: TrainedModel
    policy: ChurnPolicy

    def of(
        self,
        rows: pd.DataFrame | None = None,
        *,
        policy: ChurnPolicy | None = None,
        has_threshold: bool = True,
        champion: pd.Series | None = None,
        obstacles: Sequence[str] = (),
    ) -> tuple[dict[str, Any], list[str]]:
        """The evaluation of (other) rows as it is recorded, and all that is then against this model."""
        policy = policy or self.policy
        scored = judged.scored(
            self.rows if rows is None else rows, self.trained.features, {}, champion, policy.catalogue
        )
        found = judge(scored, policy, has_threshold=has_threshold, obstacles=obstacles)
        evidence = self.trained.evidence_under(policy.digest, None)
        row = evaluation_row(
            found,
            evidence,
            policy,
            run_id=self.trained.run_id,
            threshold=self.trained.threshold,
            evaluated_at=datetime.now(UTC),
        )
        return row, refusals(evidence, recorded_evaluation([row], evidence.model_digest, self.trained.run_id))


@pytest.fixture(scope="module", params=["built", "delivered"], ids=["orders", "features"])
def honest(spark: SparkSession, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judgement:
    built: Project = request.getfixturevalue(request.param)
    trained = built.tracking.trained_model(latest_run(built))
    versions, lakehouse = trained.evidence.data_versions, built.lakehouse
    rows = pd.DataFrame(lakehouse.records(TEST, versions[TEST]))
    behind = lakehouse.inputs(PANEL, versions[PANEL])
    baseline = lakehouse.records(BASELINE, behind[BASELINE]) if BASELINE in behind else []
    rule: dict[Any, Any] = {(row["customer_id"], row["as_of"]): row["risk_score"] for row in baseline}
    file = tmp_path_factory.mktemp("trees") / "trees.json"
    file.write_text(built.tracking.exported_trees("1"), encoding="utf-8")
    trees = FlatTrees.read(file)
    scores = trees.probabilities(rows[trees.features].to_numpy(dtype=float))
    rows = rows.assign(
        churn_probability=scores,
        # A threshold is some customer's score, whose last digit is the engine's own.
        is_alert=scores >= float(trained.threshold or np.inf) - 1e-12,
        is_unseen=True,
        risk_score=pd.Series(list(zip(rows["customer_id"], rows["as_of"], strict=True))).map(rule),
    )
    if SILVER in behind:
        silver, days = lakehouse.read(SILVER, behind[SILVER]), built.policy.windows.eligibility_days
        purchases = fit_purchase_model(purchase_histories(silver, rows["as_of"].max(), days))
        is_first = rows["orders_ever"] == 1
        first_to_last = (rows["tenure_days"] - rows["recency_days"]).where(~is_first, 0.0)
        waited = rows["delay_minutes_at_last_order"] / 60
        known = histories(rows["orders_ever"] - 1, first_to_last, rows["tenure_days"], waited)
        rows["no_purchase"] = purchases.no_purchase(known, built.policy.windows.outcome_days)
    return Judgement(built, rows, trained, built.policy)


def assert_shut(judged_: tuple[dict[str, Any], list[str]], verdict: str, reason: str) -> None:
    """The evaluation has this verdict and this reason, and with it the model is neither registered nor promoted."""
    row, against = judged_
    told = [line for line in row["reasons"] if not line.startswith("met: ")]
    assert row["verdict"] == verdict, row["reasons"]
    assert any(reason in line for line in told), told
    assert against[0].startswith(f"the recorded verdict is {verdict}: ")


def test_the_honest_rows_pass_with_the_figures_that_the_flow_recorded(honest: Judgement) -> None:
    row, against = honest.of()
    (recorded,) = honest.project.lakehouse.records(EVALUATION)
    assert against == []
    assert row["verdict"] == recorded["verdict"] == "PASS"
    for name in ("rows", "churners", "alerts", "caught", "recall_low", "precision", "pr_auc", "roc_auc", "rule_pr_auc"):
        assert row[name] == pytest.approx(recorded[name], abs=1e-9), name


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda rows: rows.head(0), "there are no test rows"),
        (lambda rows: rows.assign(label=0.0), "there is no churner among the test rows"),
        (lambda rows: rows.assign(label=1.0), "every test row is a churner"),
        (lambda rows: rows.assign(label=np.nan), "some labels are unknown, or neither 0 nor 1"),
        (lambda rows: rows.assign(label=2 * rows["label"]), "some labels are unknown, or neither 0 nor 1"),
        (
            lambda rows: rows.assign(churn_probability=rows["churn_probability"].where(rows.index % 2 == 0)),
            "some scores are missing or NaN",
        ),
        (lambda rows: rows.assign(no_purchase=np.nan), "some scores of the purchase model are missing or NaN"),
    ],
    ids=["empty", "no_churners", "all_churners", "no_labels", "labels_of_2", "scores_not_numbers", "no_rival"],
)
def test_rows_that_cannot_judge_are_not_evaluable(
    honest: Judgement, spoil: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    if "purchase model" in reason and not honest.policy.catalogue.has_orders:
        pytest.skip("without orders there is no purchase model")
    assert_shut(honest.of(spoil(honest.rows)), "NOT_EVALUABLE", reason)


def test_training_outcomes_from_after_the_test_date_are_not_evaluable(spark: SparkSession, honest: Judgement) -> None:
    built = honest.project
    train, test, panel = (built.lakehouse.read(table) for table in (TRAIN, TEST, PANEL))
    later = train.withColumn("as_of", F.lit(built.weeks()[-1])).dropDuplicates(["customer_id"])
    found = split_outcomes(train.unionByName(later), test, panel, built.policy.windows.outcome_days)
    obstacles = [f"the splits break {each.rule}: {each.observed}" for each in found if not each.is_passed]
    assert_shut(honest.of(obstacles=obstacles), "NOT_EVALUABLE", "the splits break test_after_train_outcomes")


def test_a_challenger_that_falls_short_of_the_champion_fails(honest: Judgement) -> None:
    rows = honest.rows
    champion = pd.Series(rows["churn_probability"].to_numpy(), index=rows["customer_id"])
    wary = changed(honest.policy, "gate", max_shortfall=0.10)
    worse = rows.assign(churn_probability=1 - rows["churn_probability"])
    assert_shut(honest.of(worse, policy=wary, champion=champion), "FAIL", "missed: PR-AUC over the champion ")


def test_a_model_with_one_score_for_all_has_no_threshold_and_fails(honest: Judgement) -> None:
    limited = changed(honest.policy, "alerts", budget=0.30)
    labels = honest.rows["label"]
    counts = [(0.5, label, int((labels == label).sum())) for label in labels.unique()]
    assert choose_threshold(counts, counts, limited) is None
    found = honest.of(honest.rows.assign(is_alert=False), policy=limited, has_threshold=False)
    assert_shut(found, "FAIL", "missed: threshold on the validation fold none")


def test_a_model_that_flags_everyone_fails_by_its_alerts(honest: Judgement) -> None:
    assert_shut(honest.of(honest.rows.assign(is_alert=True)), "FAIL", "missed: customers alerted 100.0%")


def test_a_label_computable_from_the_features_fails(honest: Judgement) -> None:
    # Silence so long that it is the label: the notebook's own leak.
    known = honest.rows["label"] + np.linspace(0, 0.1, len(honest.rows))
    lenient = changed(honest.policy, "leakage", max_single_feature_auc=1.0)
    leak = {honest.trained.features[0]: 20 * known, "churn_probability": known / 2}
    found = honest.of(honest.rows.assign(**leak), policy=lenient)
    assert_shut(found, "FAIL", "missed: not too good to be true: ROC-AUC ")


# --- the rows, the model and its files, through the whole flow ---


def label(expression: str) -> Callable[[DataFrame], DataFrame]:
    return lambda rows: rows.withColumn("label", F.expr(expression).cast("double"))


def test_test_customers_copied_into_train_are_not_evaluable(project: Project) -> None:
    copied = project.lakehouse.read(TEST).withColumn("fold", F.lit(50)).withColumn("as_of", F.lit(project.weeks()[0]))
    rewrite(project, TRAIN, lambda rows: rows.unionByName(copied))
    result = project.run(LIFECYCLE, *TO_THE_END)
    assert_refused(project, result, "NOT_EVALUABLE", "the splits break disjoint_customers")


def test_a_model_that_learned_swapped_labels_fails_by_its_recall(project: Project) -> None:
    rewrite(project, TRAIN, label("1 - label"))
    limited = with_little_capacity(project)
    result = limited.run(LIFECYCLE, *TO_THE_END)
    assert_refused(limited, result, "FAIL", "missed: recall")


def test_an_artifact_exchanged_after_training_is_not_evaluable(project: Project) -> None:
    other = artifact_of(project, latest_run(project))
    rewrite(project, TRAIN, label("1 - label"))
    assert project.run(LIFECYCLE, MODEL).success
    mine = artifact_of(project, latest_run(project))
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    result = project.run(LIFECYCLE, EVALUATION, REGISTERED, PRODUCTION)
    assert_refused(project, result, "NOT_EVALUABLE", "ChangedModelError: the model or the threshold of run")


def assert_not_evaluable(project: Project, reason: str) -> None:
    """An evaluation of the model that serves, which something was done to, says so, and nothing is registered."""
    result = project.run(LIFECYCLE, EVALUATION, REGISTERED)
    assert checks_of(result)[f"{EVALUATION}: recall_gate"] is False
    assert REGISTERED not in materializations_of(result)
    recorded = latest_evaluation(project)
    assert recorded.verdict == "NOT_EVALUABLE"
    assert any(reason in line for line in recorded.reasons), recorded.reasons
    assert (project.alias("staging"), project.alias("production")) == ("1", "1")


def test_a_threshold_changed_after_training_is_not_evaluable(project: Project) -> None:
    project.tracking.client.set_tag(latest_run(project), "threshold", json.dumps(0.01))
    assert_not_evaluable(project, "ChangedModelError: the model or the threshold of run")
    (reason,) = [line for line in latest_evaluation(project).reasons if "ChangedModelError" in line]
    assert reason.endswith("; next step: materialize churn_pipeline_model again")


def test_an_artifact_that_is_gone_is_not_evaluable(project: Project) -> None:
    lose_artifacts(project)
    assert_not_evaluable(project, "the model cannot be scored: ")


def latest_run(project: Project) -> str:
    client = project.tracking.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return str(client.search_runs(experiments, order_by=["attributes.start_time DESC"])[0].info.run_id)


def artifact_of(project: Project, run_id: str) -> Path:
    """The folder of the logged model of a run."""
    client = project.tracking.client
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    (logged,) = outputs.model_outputs
    folder = Path(unquote(urlparse(client.get_logged_model(logged.model_id).artifact_location).path))
    assert folder.is_dir()
    return folder


def lose_artifacts(project: Project) -> None:
    """The store names a place for the models it holds where there is nothing; the files belong to others too."""
    with sqlite3.connect(project.settings.data / "mlflow" / "mlflow.db") as store:
        store.execute("UPDATE logged_models SET artifact_location = artifact_location || '-lost'")
        store.execute("UPDATE model_versions SET storage_location = storage_location || '-lost'")
    store.close()


# --- looks into the future ---


LEAKING_SOURCES = """
[orders]
format = "delta"
path = "{demo}/orders"

[reviews]
format = "delta"
path = "{demo}/knowing_reviews"

[customers]
format = "delta"
path = "{demo}/customers"
"""


def test_a_column_that_knows_the_future_fails_the_leakage_canary(of_orders: Project) -> None:
    project = of_orders
    demo = project.lakehouse.path("demo")
    orders = DeltaTable(f"{demo}/orders").to_pandas().dropna(subset=["order_id", "customer_id"])
    orders = orders[~orders["is_cancelled"]]
    # Everybody rates the last order they will ever place one star.
    is_last = orders["ordered_at"] == orders.groupby("customer_id")["ordered_at"].transform("max")
    reviews = pd.DataFrame({"order_id": orders["order_id"], "reviewed_at": orders["ordered_at"]})
    reviews["review_score"] = is_last.map({True: 1.0, False: 5.0})
    write_deltalake(f"{demo}/knowing_reviews", pa.Table.from_pandas(reviews, preserve_index=False))
    (project.settings.project / "sources.toml").write_text(LEAKING_SOURCES.format(demo=demo), encoding="utf-8")
    result = project.run()
    assert_refused(project, result, "FAIL", "missed: no look ahead: ROC-AUC of ")
    leaking = {canary.feature for canary in latest_evaluation(project).leakage if canary.roc_auc > 0.95}
    assert leaking & {"avg_star_rating", "sentiment_velocity"}


PLANTED = """
[features.columns.days_to_next_visit]
meaning = "days to the next visit"
low = 0
"""


def test_a_planted_future_column_of_a_feature_table_fails_the_canary_whoever_vouches(of_features: Project) -> None:
    project = of_features
    rows = feature_tables.visits()
    noise = np.random.default_rng(3).random(len(rows))
    # Where nobody knows the label yet the column is as honest as can be.
    planted = rows.assign(days_to_next_visit=np.where(rows["label"] == 1.0, 30 + 5 * noise, 31 * noise))
    feature_tables.write(planted, project.settings.project)
    (project.settings.project / "sources.toml").write_text(feature_tables.FEATURES + PLANTED, encoding="utf-8")
    project = Project.at(project.settings.project)
    result = project.run()
    assert_refused(project, result, "FAIL", "missed: no look ahead: ROC-AUC of ")
    leaking = {canary.feature for canary in latest_evaluation(project).leakage if canary.roc_auc > 0.95}
    assert leaking == {"days_to_next_visit"}


def test_another_word_for_a_feature_table_after_the_verdict_opens_nothing(of_features: Project) -> None:
    project = of_features
    assert project.run(LIFECYCLE, MODEL, EVALUATION).success
    sources = feature_tables.FEATURES.replace("Ada Lovelace", "Nobody in particular")
    (project.settings.project / "sources.toml").write_text(sources, encoding="utf-8")
    (cause,) = causes_of(Project.at(project.settings.project).run(LIFECYCLE, REGISTERED))
    assert "it was judged by policy" in cause
    assert_champion_serves(project)


def test_a_feature_computed_from_later_events_is_never_published(
    of_orders: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = of_orders
    before = project.versions()
    honest = feature_panel
    silver = project.lakehouse.read("food_delivery/silver_orders_enriched")
    ever = silver.groupBy("customer_id").agg(F.count("*").cast("double").alias("ever"))

    def with_later_orders(snapshots: DataFrame, policy: ChurnPolicy) -> DataFrame:
        return honest(snapshots, policy).join(ever, "customer_id").withColumn("tenure_days", F.col("ever")).drop("ever")

    with monkeypatch.context() as attack:
        attack.setattr(features, "feature_panel", with_later_orders)
        # Other code has another digest, and computes every date again.
        attack.setattr(features, "panel_code", lambda: "with later orders")
        result = project.run_from(PANEL)
    (cause,) = causes_of(result)
    assert "BrokenContractError" in cause
    assert "no_future_leakage: observed " in cause
    assert "differ in tenure_days" in cause
    assert project.versions() == before
    assert_champion_serves(project)


# --- the record ---


def test_a_newly_trained_model_without_its_own_evaluation_is_not_registered(project: Project) -> None:
    # Trained on the same rows it is the same model to the last digit; the champion's own PASS does not count for it.
    result = project.run(LIFECYCLE, MODEL, REGISTERED, PRODUCTION)
    (cause,) = causes_of(result)
    assert "PromotionRefusedError" in cause
    assert "no evaluation is recorded for model" in cause
    assert_champion_serves(project)


def test_a_policy_loosened_after_a_fail_opens_nothing(project: Project) -> None:
    strict = project.under(changed(project.policy, "gate", min_recall=0.99))
    assert not strict.run(LIFECYCLE, EVALUATION).success
    assert latest_evaluation(project).verdict == "FAIL"
    (cause,) = causes_of(project.run(LIFECYCLE, REGISTERED))
    assert "the recorded verdict is FAIL: missed: recall" in cause
    assert "it was judged by policy" in cause
    assert_champion_serves(project)


def test_an_evaluation_against_an_earlier_champion_does_not_promote(project: Project) -> None:
    """Two challengers judged beside version 1: when one of them serves, the other has to be judged again."""
    assert project.run(LIFECYCLE, MODEL, EVALUATION, config={MODEL: OTHERWISE}).success
    first = latest_run(project)
    # Somebody else's promotion in between.
    tracking = project.tracking
    assert project.run(LIFECYCLE, REGISTERED).success
    version = tracking.version_under("staging")
    assert version is not None
    assert version.run_id == first
    assert version.source is not None
    copied = tracking.client.create_model_version(SERVED, version.source, run_id=latest_run_but(project, first))
    tracking.client.set_registered_model_alias(SERVED, "production", copied.version)
    (cause,) = causes_of(project.run(LIFECYCLE, PRODUCTION))
    assert f"it was compared with champion version 1, and champion version {copied.version} serves now" in cause
    assert project.alias("production") == str(copied.version)


def latest_run_but(project: Project, run_id: str) -> str:
    client = project.tracking.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return next(run.info.run_id for run in client.search_runs(experiments) if run.info.run_id != run_id)


# --- what is outside breaks ---


def test_a_champion_whose_artifact_is_gone_is_not_evaluable_against(project: Project) -> None:
    lose_artifacts(project)
    result = project.run(LIFECYCLE, *TO_THE_END)
    assert not result.success
    recorded = latest_evaluation(project)
    assert recorded.verdict == "NOT_EVALUABLE"
    assert any("the champion, version 1, cannot be scored" in reason for reason in recorded.reasons)
    assert not any("the model cannot be scored" in reason for reason in recorded.reasons)
    assert (project.alias("staging"), project.alias("production")) == ("1", "1")


def test_a_tracking_store_that_dies_in_the_middle_promotes_nobody_and_the_next_run_goes_on(
    of_orders: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = of_orders
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    honest = judge
    settings = project.settings
    with mlflow_server(settings.tracking_uri, settings.data, settings.project) as (uri, stop):
        served = replace(project, settings=replace(settings, tracking_uri=uri))

        def judge_and_lose_the_store(*arguments: Any, **named: Any) -> Any:
            found = honest(*arguments, **named)
            stop()
            return found

        with monkeypatch.context() as attack:
            attack.setattr(evaluation, "judge", judge_and_lose_the_store)
            result = served.run(LIFECYCLE, *TO_THE_END)
        assert not result.success
        assert "recall_churn" not in materializations_of(result)
        # Still down: whoever tries the registry alone gets no further.
        assert not served.run(LIFECYCLE, REGISTERED, PRODUCTION).success
    assert_champion_serves(project)
    again = project.run(LIFECYCLE, *TO_THE_END, config={MODEL: OTHERWISE})
    assert again.success, causes_of(again)
    assert project.alias("production") == "2"


# --- the notebook's own recipe ---


def test_the_notebooks_recipe_is_refused_before_training_and_told_what_would_work(
    spark: SparkSession, tmp_path: Path
) -> None:
    project = Project.create(tmp_path, policy="", sources='[orders]\nformat = "parquet"\npath = "orders.parquet"\n')
    random_orders(3_000).to_parquet(tmp_path / "orders.parquet", index=False, coerce_timestamps="us")
    result = project.run()
    assert not result.success
    failed = [check for check, is_passed in checks_of(result).items() if not is_passed]
    assert f"{FEASIBILITY}: churn_definition_is_feasible" in failed
    checked = {each.check_name: each for each in result.get_asset_check_evaluations()}
    observed = str(checked["churn_definition_is_feasible"].metadata["observed"].value)
    assert "NOT FEASIBLE: no order for 30 days" in observed
    assert "churners to judge on, the recall's 95% interval can be" in observed
    other = 'no order for 7 days (churn.definition = "inactivity", windows.outcome_days = 7)'
    assert f"Feasible on these data: {other}" in observed
    assert not {TRAIN, TEST, MODEL} & set(materializations_of(result))
    assert not (project.settings.data / "mlflow").exists()
    # Another run does not get around the check either.
    alone = project.run(LIFECYCLE, TRAIN, TEST, MODEL)
    assert "NotFeasibleError" in "\n".join(causes_of(alone))
    assert MODEL not in materializations_of(alone)


def test_luck_that_can_be_judged_is_judged_to_be_luck(spark: SparkSession, tmp_path: Path) -> None:
    """The same recipe under the definition that is feasible: a model is trained, and it has learned nothing."""
    project = Project.create(
        tmp_path,
        policy="[windows]\noutcome_days = 7\n",
        sources='[orders]\nformat = "parquet"\npath = "orders.parquet"\n',
    )
    random_orders(3_000).to_parquet(tmp_path / "orders.parquet", index=False, coerce_timestamps="us")
    result = project.run()
    assert MODEL in materializations_of(result)
    assert checks_of(result)[f"{EVALUATION}: recall_gate"] is False
    assert latest_evaluation(project).verdict == "FAIL"
    assert (project.alias("staging"), project.alias("production")) == (None, None)


def test_a_panel_built_under_another_churn_definition_trains_nothing(of_orders: Project) -> None:
    project = of_orders
    week = project.under(changed(project.policy, "windows", outcome_days=7))
    for asset, error in ((FEASIBILITY, "BrokenPanelError"), (MODEL, "StalePanelError")):
        (cause,) = causes_of(week.run(LIFECYCLE, asset))
        assert error in cause
        assert "was built under other rules or by other code than now" in cause
        assert f"Next step: materialize {PANEL}" in cause
    assert_champion_serves(project)


def test_a_feasibility_of_another_panel_does_not_count(project: Project) -> None:
    assert project.run(LIFECYCLE, PANEL).success
    assert project.run(LIFECYCLE, TRAIN, TEST).success
    (cause,) = causes_of(project.run(LIFECYCLE, MODEL))
    assert "NotFeasibleError" in cause
    assert "label_feasibility has no row for the policy's churn definition" in cause
    assert_champion_serves(project)

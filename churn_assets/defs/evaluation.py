"""Stage 5: the judgement of the model on the test split, recorded where promotion reads it."""

from dataclasses import asdict
from datetime import datetime, timezone

import dagster as dg

from churn_assets.churn import models
from churn_assets.churn.contract import Outcome
from churn_assets.churn.evaluation import Verdict, figures, judge
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import EVALUATION_SCHEMA, evaluation_row, recorded_evaluation, refusals
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.results import OWNERS, check_result, table_result
from churn_assets.defs.splits import TEST
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import MODEL_ARTIFACT, TrackingResource, link

GROUP = "s5_evaluation"
EVALUATIONS = "recall_churn"


def latest_training_run(instance: dg.DagsterInstance) -> str:
    """The MLflow run of the latest materialized model."""
    event = instance.get_latest_materialization_event(dg.AssetKey(MODEL_ARTIFACT))
    if event is None or event.asset_materialization is None:
        raise dg.Failure(f"No model has been trained yet. Next step: materialize {MODEL_ARTIFACT}")
    return str(event.asset_materialization.metadata["mlflow_run_id"].value)


@dg.asset(
    key=EVALUATIONS,
    deps=[MODEL_ARTIFACT, TEST.split("/"), BASELINE.split("/")],
    group_name=GROUP,
    kinds={"pyspark", "delta", "mlflow"},
    owners=OWNERS,
    code_version="1",
)
def recall_churn(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The model as logged, judged on the test split it was trained beside; a row per evaluation, never overwritten."""
    trained = tracking.trained_model(latest_training_run(context.instance))
    versions = trained.evidence.data_versions
    test = lakehouse.read(TEST, versions[TEST])
    scored = models.with_churn_probability(tracking.load_model(trained.uri), test)
    evaluation = judge(models.score_counts(scored), trained.threshold, policy)
    baseline = lakehouse.read(BASELINE, lakehouse.inputs(PANEL, versions[PANEL])[BASELINE])
    ruled = test.join(baseline.select("customer_id", "as_of", "risk_score"), ["customer_id", "as_of"])
    rule = figures(models.score_counts(ruled, "risk_score"), None, policy.gate.confidence)
    row = evaluation_row(
        evaluation,
        trained.evidence,
        policy,
        run_id=trained.run_id,
        threshold=trained.threshold,
        rule_pr_auc=rule.pr_auc,
        evaluated_at=datetime.now(timezone.utc),
    )
    commit = lakehouse.write(EVALUATIONS, lakehouse.spark.createDataFrame([row], EVALUATION_SCHEMA), mode="append")
    shown = {name: value for name, value in asdict(evaluation.figures).items() if value is not None}
    tracking.log_evaluation(
        trained.run_id,
        {"recall_churn": evaluation.figures.recall, **shown, "rule_pr_auc": rule.pr_auc},
        {"verdict": evaluation.verdict.value, "verdict_reasons": "\n".join(evaluation.reasons)},
    )
    return table_result(
        commit,
        {
            **link(tracking.tracking_uri, trained.run_id),
            "verdict": evaluation.verdict.value,
            "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in evaluation.reasons)),
            **shown,
            "threshold": trained.threshold if trained.threshold is not None else "none",
            "alert_budget": policy.alerts.budget,
            "rule_pr_auc": rule.pr_auc if rule.pr_auc is not None else "undefined",
            "test_inputs": dict(versions),
        },
    )


@dg.asset_check(
    asset=EVALUATIONS,
    name="recall_gate",
    blocking=True,
    description="A PASS is recorded for just the latest trained model, its data and this policy; nothing else opens.",
)
def recall_gate(
    context: dg.AssetCheckExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.AssetCheckResult:
    asked = tracking.trained_model(latest_training_run(context.instance)).evidence_under(policy.digest)
    recorded = recorded_evaluation(lakehouse.read(EVALUATIONS), asked.model_digest)
    # What registration and promotion ask, so that the gate cannot be open where they are shut.
    against = refusals(asked, recorded)
    observed = "; ".join(against or [Verdict.PASS.value, *(recorded.reasons if recorded else ())])
    return check_result(Outcome("recall_gate", not against, observed, "a recorded PASS"))

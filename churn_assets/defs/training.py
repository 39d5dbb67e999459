"""Stage 5: the fitted pipeline, logged to MLflow in one run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import numpy as np
from pydantic import Field

from churn_assets.churn import models
from churn_assets.churn.censored import begun_dates, censored_rows
from churn_assets.churn.distributed_trees import cluster_workers
from churn_assets.churn.errors import StalePanelError, TornTablesError, UnfittablePurchaseModelError
from churn_assets.churn.evaluations import Evidence
from churn_assets.churn.outcomes import Outcome, none_of
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import histories_of
from churn_assets.churn.purchase_model import PurchaseModel, fit_purchase_model
from churn_assets.churn.purchase_prior import prior_of
from churn_assets.churn.ranking import precision_recall_curve
from churn_assets.churn.splits import SplitDates, current_rows
from churn_assets.churn.trees import model_digest
from churn_assets.defs.feasibility import FEASIBILITY, require_feasible_definition
from churn_assets.defs.features import PANEL
from churn_assets.defs.origins import PanelOrigin, origin_of
from churn_assets.defs.results import OWNERS, as_metadata, check_result
from churn_assets.defs.splits import TEST, TRAIN, stored_dates
from churn_assets.pages.pictures import drawn, feature_importances, precision_recall
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource
from churn_assets.resources.trained_models import (
    IMPORTANCES_FILE,
    MODEL_ARTIFACT,
    POLICY_FILE,
    SERVED_TAG,
    THRESHOLD_FILE,
    LoggedTraining,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GROUP = "training"
REFERENCE_ROWS = 200
AS_THE_POLICY_SAYS: Literal["policy"] = "policy"
VALIDATION_CURVE, IMPORTANCES_CHART = "validation_precision_recall.png", "feature_importances.png"


class TrainingConfig(dg.Config):
    """Knobs of one training run; what is left out is as [model] of the policy says."""

    # Dagster takes no optional Literal.
    estimator: Literal["policy", "gbt", "xgboost"] = Field(
        AS_THE_POLICY_SAYS,
        description="Who learns the trees: XGBoost in this process, or Spark itself (gbt).",
    )
    max_depth: int | None = Field(
        None,
        ge=1,
        le=12,
        description="Depth of each tree; deeper trees learn finer rules, overfit sooner.",
    )
    iterations: int | None = Field(None, ge=1, le=500, description="Number of trees; the time to fit grows with it.")
    step_size: float | None = Field(None, gt=0, le=1, description="How much each tree corrects the ones before it.")
    min_leaf_share: float | None = Field(
        None, ge=0, lt=0.5, description="Smallest share of the training rows in a leaf."
    )
    feature_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Of the features, which may be split by, drawn anew at each split; 1 is all of them.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="How many tasks of Spark learn together; 1: this process (gbt: up to two tasks). Left out: 1 "
        "up to model.max_local_rows, beyond it as many as the cluster runs at once.",
    )


def hyperparameters_of(
    config: TrainingConfig, policy: ChurnPolicy, rows: int, cluster: Callable[[], int]
) -> models.GradientBoosting:
    """Those of the policy, but for the knobs of this run; of too many `rows` for this process the `cluster` learns."""
    of_run = {name: value for name, value in config.model_dump().items() if value not in (None, AS_THE_POLICY_SAYS)}
    knobs = policy.model.knobs | of_run
    if "workers" not in knobs and rows > policy.model.max_local_rows:
        # Spark's own learner has its partitions by the rows, and needs no driver here that tells of executors.
        knobs["workers"] = models.MOST_PARTITIONS if knobs["estimator"] == "gbt" else cluster()
    return models.GradientBoosting(**knobs)


@dg.asset(
    key=MODEL_ARTIFACT,
    deps=[TRAIN.split("/"), TEST.split("/"), FEASIBILITY.split("/")],
    group_name=GROUP,
    kinds={"pyspark", "mlflow"},
    owners=OWNERS,
    code_version="4",
)
def churn_pipeline_model(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The trees fitted on the training folds, logged as a pipeline; the threshold is chosen on the validation fold."""
    versions = lakehouse.pin(TRAIN, TEST)
    if lakehouse.inputs(TRAIN) != lakehouse.inputs(TEST):
        raise TornTablesError(
            f"{TRAIN} and {TEST} were cut from different versions of {PANEL}.",
            next_step="materialize both again",
        )
    versions |= lakehouse.inputs(TRAIN)
    # Asked again here, because a blocking check only blocks within its own run.
    other = origin_of(lakehouse, versions[PANEL], policy).other_rules()
    if other is not None:
        raise StalePanelError(
            f"Version {versions[PANEL]} of {PANEL} was built under other rules or by other code than now.",
            [other],
            next_step=f"materialize {PANEL} and what is upstream of it again",
        )
    require_feasible_definition(lakehouse, versions[PANEL], policy)
    features = policy.features
    train = lakehouse.read(TRAIN, versions[TRAIN])
    panel = lakehouse.read(PANEL, versions[PANEL])
    dates = stored_dates(lakehouse, versions[PANEL], policy)
    current = current_rows(panel, dates, policy)
    rows = lakehouse.row_count(TRAIN, versions[TRAIN])
    hyperparameters = hyperparameters_of(config, policy, rows, lambda: cluster_workers(lakehouse.spark))
    if hyperparameters.workers > 1:
        context.log.info(f"{rows:,} rows are learned by {hyperparameters.workers} workers of the cluster together.")
    origin = origin_of(lakehouse, versions[PANEL], policy)
    purchases = purchase_models(context, origin, [dates.test])[dates.test]
    spend = origin.rivals() if policy.alerts.threshold_by == "profit" else None
    prior = prior_of(purchases, policy.windows.outcome_days)
    about = f"{policy.model.feature_set} {dates.test}"
    with tracking.training_run(context, hyperparameters.estimator, about) as run_id:
        # The serving contract comes next, and the fit leaves time.
        tracking.probe.prepare()
        model = models.train_churn_model(
            train,
            current,
            hyperparameters,
            policy,
            rows=rows,
            prior=prior,
            censored=censored_rows(panel, dates, policy, prior),
            shared_folder=tracking.shared_folder,
            spend=spend,
        )
        evidence = Evidence(model_digest(model.trees, model.threshold_value), policy.digest, versions)
        first = train.orderBy("customer_id", "as_of").limit(REFERENCE_ROWS).toPandas()
        rows_of_it = first.sort_values(["customer_id", "as_of"])[list(features)]
        reference = rows_of_it.assign(churn_probability=model.trees.probabilities(rows_of_it.to_numpy()))
        inputs = {table: lakehouse.path(table) for table in versions}
        logged = _logged(model, evidence, policy, hyperparameters, dates, reference, inputs, purchases)
        tracking.log_training(logged)
    threshold = model.threshold
    return dg.MaterializeResult(
        data_version=dg.DataVersion(evidence.model_digest[:16]),
        metadata={
            **tracking.link(run_id),
            "model_digest": evidence.model_digest,
            "threshold": threshold.value if threshold else "none satisfies the policy on the validation fold",
            "validation_recall": threshold.recall if threshold else "undefined",
            "validation_precision": threshold.precision if threshold else "undefined",
            "validation_alert_share": threshold.alert_share if threshold else "undefined",
            **({} if threshold is None or threshold.profit is None else {"validation_profit": threshold.profit}),
            "precision_recall_curve": as_metadata(logged.pictures[VALIDATION_CURVE]),
            "feature_importances": as_metadata(logged.pictures[IMPORTANCES_CHART]),
            "inputs": versions,
        },
    )


def purchase_models(
    context: dg.AssetExecutionContext, origin: PanelOrigin, days: Sequence[date]
) -> dict[date, PurchaseModel | None]:
    """What is known of churn without a label, from all orders behind the panel before each of `days`, test dates.

    None where it cannot be fitted: then the labels alone teach the model, and the gate, which lacks a rival, says so.
    """
    known = origin.purchase_histories(days) if days else {}
    found: dict[date, PurchaseModel | None] = dict.fromkeys(days)
    for day, rows in known.items():
        try:
            found[day] = fit_purchase_model(histories_of(rows))
        except UnfittablePurchaseModelError as unfittable:
            context.log.warning("No purchase model at %s: %s", day, unfittable)
    return found


def _logged(
    model: models.ChurnModel,
    evidence: Evidence,
    policy: ChurnPolicy,
    hyperparameters: models.GradientBoosting,
    dates: SplitDates,
    reference: "pd.DataFrame",
    inputs: Mapping[str, str],
    purchases: PurchaseModel | None,
) -> LoggedTraining:
    """All that the MLflow run is to hold, by the names people look for."""
    features, importances = policy.features, model.trees.importances()
    begun = begun_dates(dates, policy, purchases) if model.learns_begun else []
    rules = policy.model_dump(mode="json")
    of_threshold = {} if model.threshold is None else asdict(model.threshold)
    validated = {name: value for name, value in of_threshold.items() if name != "value" and value is not None}
    return LoggedTraining(
        evidence,
        features,
        model.threshold_value,
        model.trees,
        reference,
        params={
            **policy.model.model_dump(),
            **asdict(hyperparameters),
            **policy.catalogue.named_set(),
            "features": json.dumps(list(features)),
            "purchase_model": json.dumps(None if purchases is None else asdict(purchases)),
            "test_as_of": dates.test,
            "train_as_of": json.dumps([str(day) for day in dates.train]),
            "begun_as_of": json.dumps([str(day) for day in begun]),
            "is_out_of_time": dates.is_out_of_time,
            **_flat(rules, "policy"),
            "policy_digest": policy.digest,
        },
        metrics={f"validation_{name}": value for name, value in validated.items()},
        inputs=inputs,
        validated_on=TRAIN,
        documents={
            POLICY_FILE: rules,
            THRESHOLD_FILE: {"threshold": model.threshold_value, **validated},
            IMPORTANCES_FILE: importances,
        },
        pictures={
            VALIDATION_CURVE: drawn(_validation_curve(model, policy)),
            IMPORTANCES_CHART: drawn(feature_importances(importances, "What the trees use")),
        },
    )


@dg.asset_check(
    asset=MODEL_ARTIFACT,
    name="serving_contract",
    blocking=True,
    description="A process of its own loads the logged model without a JVM, scores as in training, refuses bad rows.",
)
def serving_contract(context: dg.AssetCheckExecutionContext, tracking: TrackingResource) -> dg.AssetCheckResult:
    trained = tracking.trained_model(latest_training_run(context.instance))
    problems = tracking.problems(trained)
    if not problems:
        tracking.client.set_tag(trained.run_id, SERVED_TAG, trained.evidence.model_digest)
    observed, broken = "; ".join(problems) or "as promised", none_of("broken promises", len(problems))
    return check_result(Outcome("serving_contract", not problems, observed, "as promised", figures=(broken,)))


def latest_training_run(instance: dg.DagsterInstance) -> str:
    """The MLflow run of the latest materialized model."""
    event = instance.get_latest_materialization_event(dg.AssetKey(MODEL_ARTIFACT))
    if event is None or event.asset_materialization is None:
        raise dg.Failure(f"No model has been trained yet. Next step: materialize {MODEL_ARTIFACT}")
    return str(event.asset_materialization.metadata["mlflow_run_id"].value)


def _flat(nested: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values by their dotted names."""
    values: dict[str, Any] = {}
    for name, value in nested.items():
        dotted = f"{prefix}.{name}"
        values |= _flat(value, dotted) if isinstance(value, Mapping) else {dotted: value}
    return values


def _validation_curve(model: models.ChurnModel, policy: ChurnPolicy) -> "Figure":
    scores, labels, rows = np.array(model.validation, dtype=float).reshape(-1, 3).T
    return precision_recall(
        {"model, validation fold": precision_recall_curve(scores, labels, rows)},
        title="The threshold, chosen on the validation fold",
        chosen=(model.threshold.recall, model.threshold.precision) if model.threshold else None,
        limits=[("least precision", policy.gate.precision_floor)],
    )

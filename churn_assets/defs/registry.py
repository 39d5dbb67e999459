"""Stage 7: the registered version and the one in production. Both trust only what was recorded."""

import dagster as dg

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import PromotionRefusedError, require_earned
from churn_assets.defs.evaluation import EVALUATIONS, latest_training_run, standing
from churn_assets.defs.results import OWNERS
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import (
    PRODUCTION,
    REGISTERED_MODEL,
    STAGING,
    TrackingResource,
    TrainedModel,
    link,
)

GROUP = "s7_registry"


def require_recorded_pass(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: ChurnPolicy, trained: TrainedModel, what: str
) -> None:
    """Raises PromotionRefusedError unless a PASS is recorded for exactly this model, its data, policy and champion."""
    against, _ = standing(lakehouse, tracking, policy, trained)
    require_earned(against, what)


@dg.asset(
    key="registered_churn_model",
    deps=[EVALUATIONS],
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="1",
)
def registered_churn_model(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The version of the latest training run, under alias `staging`; only a model that passed is registered."""
    trained = tracking.trained_model(latest_training_run(context.instance))
    require_recorded_pass(lakehouse, tracking, policy, trained, "Registration")
    version = tracking.register(trained, {**trained.tags(), "verdict": "PASS", "dagster_run_id": context.run.run_id})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(str(version.version)),
        metadata={
            **link(tracking.tracking_uri, trained.run_id),
            "registered_model": REGISTERED_MODEL,
            "version": int(version.version),
            "alias": STAGING,
            "inputs": dict(trained.evidence.data_versions),
        },
    )


@dg.asset_check(
    asset="registered_churn_model",
    name="version_is_traceable",
    blocking=True,
    description="The version under `staging` names its run, data versions and verdict, and they agree with the run.",
)
def version_is_traceable(tracking: TrackingResource) -> dg.AssetCheckResult:
    version = tracking.version_under(STAGING)
    if version is None:
        return dg.AssetCheckResult(
            passed=False, metadata={"observed": "no version", "allowed": f"alias {STAGING} is set"}
        )
    recorded = tracking.trained_model_of(version).tags() | {"verdict": "PASS"}
    differing = sorted(name for name, value in recorded.items() if version.tags.get(name) != value)
    return dg.AssetCheckResult(
        passed=not differing,
        metadata={
            "observed": f"version {version.version} of {version.run_id}; other tags: {', '.join(differing) or 'none'}",
            "allowed": "the version's tags equal its run's",
        },
    )


@dg.asset(
    key="production_churn_model",
    deps=["registered_churn_model"],
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="1",
)
def production_churn_model(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """The version that serves, under alias `production`: the staging version once its recorded evaluation says PASS."""
    challenger = tracking.version_under(STAGING)
    if challenger is None:
        raise PromotionRefusedError(
            "Promotion is refused: no version is under alias staging.",
            next_step="materialize registered_churn_model",
        )
    champion = tracking.version_under(PRODUCTION)
    trained = tracking.trained_model_of(challenger)
    require_recorded_pass(lakehouse, tracking, policy, trained, f"Promotion of version {challenger.version}")
    tracking.promote(challenger)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(str(challenger.version)),
        metadata={
            **link(tracking.tracking_uri, trained.run_id),
            "registered_model": REGISTERED_MODEL,
            "version": int(challenger.version),
            "previous_version": int(champion.version) if champion else "none",
            "alias": PRODUCTION,
            "threshold": trained.threshold if trained.threshold is not None else "none",
        },
    )

"""Stage 7: the registered version, the one in production, and the jobs by which a person decides."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from churn_assets.churn.ledger import Action, Subject, earlier_champion, rejection
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.defs.decisions import POLICY, PRODUCTION_MODEL, carry_out, refuse, settle, subject_of
from churn_assets.defs.evaluation import EVALUATIONS, standing
from churn_assets.defs.results import OWNERS
from churn_assets.defs.training import latest_training_run
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource, decision_now
from churn_assets.resources.tracking import PRODUCTION, REGISTERED_MODEL, STAGING, TrackingResource

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GROUP = "s7_registry"


@dg.asset(
    key="registered_churn_model",
    deps=[EVALUATIONS],
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="2",
)
def registered_churn_model(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    promotions: PromotionsResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The version of the latest training run, under alias `staging`; only a model that passed is registered."""
    trained = tracking.trained_model(latest_training_run(context.instance))
    champion = promotions.state().champion
    against, recorded = standing(lakehouse, tracking, policy, trained)
    if trained.served_digest != trained.evidence.model_digest:
        against = [*against, "the check serving_contract did not see it load and score the same in a new process"]
    if against:
        decision = decision_now(
            Action.REFUSED,
            subject_of(trained, None, recorded),
            champion,
            decided_by=POLICY,
            dagster_run_id=context.run.run_id,
        )
        refuse(context, promotions, decision, against, "Registration")
    version = tracking.register(trained, {**trained.tags(), "verdict": "PASS"}, context.run.run_id)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(str(version.version)),
        metadata={
            **tracking.link(trained.run_id, version),
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
    key=PRODUCTION_MODEL,
    deps=["registered_churn_model"],
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="2",
    output_required=False,
)
def production_churn_model(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    promotions: PromotionsResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> Iterator[dg.MaterializeResult]:
    """The version that serves, under alias `production`.

    With promotion.mode = "auto" the version under `staging` gets there once its recorded evaluation says PASS; with
    "manual" it waits for the job promote_staging_model.
    """
    settle(context, promotions)
    state = promotions.state()
    challenger = staged(tracking)
    trained = tracking.trained_model_of(challenger)
    if policy.promotion.mode == "manual":
        if state.champion is None:
            context.log.warning(f"Version {challenger.version} waits, and none serves: launch promote_staging_model")
            return
        if state.champion != number(challenger):
            context.log.warning(f"Version {challenger.version} waits: launch promote_staging_model to promote it")
        yield serves(tracking, state.champion, state.champion)
        return
    against, recorded = standing(lakehouse, tracking, policy, trained)
    against = [*against, *filter(None, [state.disagreement, rejection(state.ledger, trained.evidence.model_digest)])]
    decision = decision_now(
        Action.PROMOTED,
        subject_of(trained, challenger, recorded),
        state.champion,
        reasons=recorded.reasons if recorded else (),
        decided_by=POLICY,
        dagster_run_id=context.run.run_id,
    )
    if against:
        refuse(context, promotions, decision, against, f"Promotion of version {challenger.version}")
    if state.champion != number(challenger):
        carry_out(context, promotions, tracking, decision, trained)
    yield serves(tracking, number(challenger), state.champion)


class DecisionConfig(dg.Config):
    """Who decides, and why; both are written into the ledger."""

    approver: str = Field(pattern=r"\S", description="Who decides: a name or an address people can ask.")
    reason: str = Field(pattern=r"\S", description="Why, in a sentence that still tells something in a year.")


class RollbackConfig(DecisionConfig):
    """Who rolls back, why, and to which version."""

    version: int | None = Field(
        None, ge=1, description="The version that shall serve again; default: the one that served before."
    )


@dg.op
def promote(
    context: dg.OpExecutionContext,
    config: DecisionConfig,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    promotions: PromotionsResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> None:
    """Promotes the version under `staging` by a person's decision.

    What speaks against it does not stop a person, but makes the promotion an override in the ledger. A version that
    does not load and score is never promoted.
    """
    settle(context, promotions)
    state = promotions.state()
    challenger = staged(tracking)
    trained = tracking.trained_model_of(challenger)
    against, recorded = standing(lakehouse, tracking, policy, trained)
    against = [*against, *filter(None, [state.disagreement, rejection(state.ledger, trained.evidence.model_digest)])]
    decision = decision_now(
        Action.OVERRIDDEN if against else Action.PROMOTED,
        subject_of(trained, challenger, recorded),
        state.champion,
        reasons=against or (recorded.reasons if recorded else ()),
        decided_by=config.approver,
        statement=config.reason,
        dagster_run_id=context.run.run_id,
    )
    if state.champion == number(challenger):
        told = [f"version {challenger.version} serves already"]
        refuse(context, promotions, decision, told, "The promotion", next_step="train and register another version")
    carry_out(context, promotions, tracking, decision, trained)
    log_serves(context, tracking, challenger.version, state.champion)


@dg.op
def roll_back(
    context: dg.OpExecutionContext,
    config: RollbackConfig,
    tracking: TrackingResource,
    promotions: PromotionsResource,
) -> None:
    """Lets the version that served before, or the named one, serve again."""
    settle(context, promotions)
    state = promotions.state()
    wanted = str(config.version) if config.version is not None else earlier_champion(state.ledger)
    version = tracking.version(wanted)
    trained = None if version is None else tracking.trained_model_of(version)
    decision = decision_now(
        Action.ROLLED_BACK,
        Subject(version=wanted) if trained is None else subject_of(trained, version, None),
        state.champion,
        reasons=[reason for reason in [state.disagreement] if reason],
        decided_by=config.approver,
        statement=config.reason,
        dagster_run_id=context.run.run_id,
    )
    against = []
    if wanted is None:
        against.append("no version served before the present one; name the version to go back to")
    elif version is None:
        against.append(f"there is no version {wanted} of {REGISTERED_MODEL}")
    elif wanted == state.champion:
        against.append(f"version {wanted} serves already")
    if against or version is None or trained is None:
        refuse(context, promotions, decision, against, "The rollback", next_step="see the versions: churn-assets audit")
    carry_out(context, promotions, tracking, decision, trained)
    log_serves(context, tracking, number(version), state.champion)


@dg.job(description="A person promotes the version under alias staging; approver and reason go into the ledger.")
def promote_staging_model() -> None:
    promote()


@dg.job(description="Lets an earlier version serve again; approver and reason go into the ledger.")
def rollback_production_model() -> None:
    roll_back()


def staged(tracking: TrackingResource) -> "ModelVersion":
    """The version under `staging`. Raises PromotionRefusedError if there is none."""
    version = tracking.version_under(STAGING)
    if version is None:
        raise PromotionRefusedError(
            "Promotion is refused: no version is under alias staging.",
            next_step="materialize registered_churn_model",
        )
    return version


def number(version: "ModelVersion") -> str:
    """As aliases and the ledger write it; some stores give an integer."""
    return str(version.version)


def serving_metadata(tracking: TrackingResource, version: str, before: str | None) -> dict[str, Any]:
    """What Dagster shows of the version that serves. before: the version that did until now."""
    found = tracking.version(version)
    assert found is not None, "the alias names it"
    trained = tracking.trained_model_of(found)
    return {
        **tracking.link(trained.run_id, found),
        "registered_model": REGISTERED_MODEL,
        "version": int(version),
        "previous_version": "none" if before is None else int(before),
        "alias": PRODUCTION,
        "threshold": trained.threshold if trained.threshold is not None else "none",
    }


def serves(tracking: TrackingResource, version: str, before: str | None) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version), metadata=serving_metadata(tracking, version, before)
    )


def log_serves(context: dg.OpExecutionContext, tracking: TrackingResource, version: str, before: str | None) -> None:
    """The same from a job that is no asset's."""
    context.log_event(
        dg.AssetMaterialization(
            PRODUCTION_MODEL,
            metadata=serving_metadata(tracking, version, before),
            tags={"dagster/data_version": version},
        )
    )

"""How a decision about the serving model is recorded, carried out and checked. What to decide is in `registry.py`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import dagster as dg

from churn_assets.churn.evaluations import RecordedEvaluation
from churn_assets.churn.ledger import Decision, Subject, serving, since_when, version_named
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.defs.results import OWNERS, check_result
from churn_assets.pages.tables import decisions_list
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets.resources.tracking import TrackingResource
from churn_assets.resources.trained_models import TrainedModel

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

REGISTERED, PRODUCTION_MODEL = "registered_churn_model", "production_churn_model"
POLICY = "policy"  # who decides where no person does
Context = dg.AssetExecutionContext | dg.OpExecutionContext

# Not built by one asset: every decision adds its row, whoever makes it, and reports the table.
ledger_spec = dg.AssetSpec(
    LEDGER.split("/"),
    deps=[PRODUCTION_MODEL],
    description="Append-only: who was promoted, refused or rolled back, when, why, on which data, and who decided.",
    group_name="registry",
    kinds={"delta"},
    owners=OWNERS,
)


def subject_of(trained: TrainedModel, version: "ModelVersion | None", recorded: RecordedEvaluation | None) -> Subject:
    """What the ledger says of the model a decision is about."""
    return Subject(
        version=None if version is None else str(version.version),
        run_id=trained.run_id,
        model_digest=trained.evidence.model_digest,
        policy_digest=trained.evidence.policy_digest if recorded is None else recorded.evidence.policy_digest,
        data_versions=dict(trained.evidence.data_versions),
        verdict=trained.verdict if recorded is None else recorded.verdict.value,
    )


def reconcile(context: Context, promotions: PromotionsResource) -> None:
    """Finishes a move that a killed process left half done, and says so."""
    repaired = promotions.reconcile(context.run.run_id)
    if repaired is not None:
        context.log.warning(f"Version {repaired.subject.version}: {repaired.reasons[0]}")
        context.log_event(_materialization(promotions))


def record(context: Context, promotions: PromotionsResource, decision: Decision) -> None:
    """Writes a decision that moves nothing into the ledger, and tells Dagster of it."""
    promotions.record(decision)
    context.log_event(_materialization(promotions))


def record_refusal(
    context: Context, promotions: PromotionsResource, decision: Decision, against: Sequence[str]
) -> None:
    promotions.refuse(decision, against)
    _report_at_once(context, promotions)


def refuse(
    context: Context,
    promotions: PromotionsResource,
    decision: Decision,
    against: Sequence[str],
    what: str,
    *,
    next_step: str = "materialize recall_churn for this model and data and look at its verdict",
) -> NoReturn:
    """Records the refusal and raises PromotionRefusedError with every reason."""
    record_refusal(context, promotions, decision, against)
    raise PromotionRefusedError(f"{what} is refused; the serving model stays as it was.", against, next_step=next_step)


def carry_out(
    context: Context,
    promotions: PromotionsResource,
    tracking: TrackingResource,
    decision: Decision,
    trained: TrainedModel,
) -> None:
    """Moves `production` to the decision's version, once a process of its own has loaded it and scored with it.

    Raises PromotionRefusedError, with the refusal recorded, if it does not or if another decision was first.
    """
    problems = tracking.problems(trained, decision.subject.version)
    if problems:
        refuse(
            context,
            promotions,
            decision,
            problems,
            f"Moving production to version {decision.subject.version}",
            next_step="choose a version that loads, or train and register another",
        )
    try:
        promotions.move(decision)
    except PromotionRefusedError:
        _report_at_once(context, promotions)
        raise
    context.log_event(_materialization(promotions))


def _report_at_once(context: Context, promotions: PromotionsResource) -> None:
    # Events that a step has logged are lost when it raises, as a refusal does.
    context.instance.report_runless_asset_event(_materialization(promotions))


def _materialization(promotions: PromotionsResource) -> dg.AssetMaterialization:
    """The ledger's new state for Dagster, with the latest decisions for people."""
    state = promotions.state()
    metadata: dict[str, Any] = {
        "dagster/row_count": len(state.ledger),
        "dagster/table_name": LEDGER.replace("/", "."),
        "delta_version": state.ledger_version if state.ledger_version is not None else "none",
        "decisions": dg.MetadataValue.md(decisions_list(reversed(state.ledger[-10:]))),
    }
    tags = {"dagster/data_version": str(state.ledger_version)}
    return dg.AssetMaterialization(LEDGER.split("/"), metadata=metadata, tags=tags)


@dg.asset_check(
    asset=LEDGER.split("/"),
    name="ledger_agrees_with_registry",
    additional_deps=[PRODUCTION_MODEL],
    blocking=True,
    description="The version under `production` is the one the ledger's last decision put there; none moved it unseen.",
)
def ledger_agrees_with_registry(promotions: PromotionsResource) -> dg.AssetCheckResult:
    state = promotions.state()
    last = serving(state.ledger)
    observed = "nothing was ever promoted, and no version serves"
    if last is not None:
        observed = f"{version_named(last.subject.version)} serves: {since_when(last)}"
    if state.is_unfinished:
        observed = f"{observed}; interrupted before the alias moved: materialize {PRODUCTION_MODEL} to finish it"
    elif state.disagreement is not None:
        observed = state.disagreement
    allowed = "alias production follows the ledger"
    return check_result(Outcome("ledger_agrees_with_registry", state.disagreement is None, observed, allowed))

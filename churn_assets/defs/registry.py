"""Stage 7: the registered version, the one in production, and the jobs by which a person decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, ValidationInfo, field_validator

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.evaluations import passed_by
from churn_assets.churn.ledger import Action, Subject, earlier_champion, promoted_digest, rejection, serving
from churn_assets.churn.outcomes import Outcome, none_of
from churn_assets.churn.plain_text import controls
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.defs.decisions import (
    POLICY,
    PRODUCTION_MODEL,
    REGISTERED,
    carry_out,
    reconcile,
    record,
    refuse,
    subject_of,
)
from churn_assets.defs.evaluation import EVALUATIONS, standing
from churn_assets.defs.launchpad import asked_of
from churn_assets.defs.results import OWNERS, as_metadata, check_result
from churn_assets.defs.training import latest_training_run
from churn_assets.pages.pictures import JudgedVersion, drawn, recall_over_versions
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource, State, decision_now
from churn_assets.resources.tracking import PRODUCTION, STAGING, TrackingResource
from churn_assets.resources.trained_models import TrainedModel, calibration_tag

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GROUP = "registry"
SHOWN_VERSIONS = 30


@dg.asset(
    key=REGISTERED,
    deps=[EVALUATIONS],
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="3",
)
def registered_churn_model(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    promotions: PromotionsResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The version of the latest training run, under alias `staging`; only a model that passed is registered.

    A model that serves already is no other version: the ledger says "unchanged", and `staging` names the one that
    serves.
    """
    trained = tracking.trained_model(latest_training_run(context.instance))
    state = promotions.state()
    champion = state.champion
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
    version = _serving_twin(tracking, state, trained)
    is_unchanged = version is not None
    if version is None:
        tags = {**trained.tags(), **calibration_tag(trained.calibration), "verdict": "PASS"}
        assert recorded is not None, "nothing is against it, so its PASS is recorded"
        judged = passed_by(tuple(recorded.criteria), policy.gate.confidence)
        version = tracking.register(trained, tags, context.run.run_id, judged)
    else:
        tracking.set_alias(STAGING, str(version.version))
        decision = decision_now(
            Action.UNCHANGED,
            subject_of(trained, version, recorded),
            champion,
            reasons=[f"the training gave the model that serves as version {version.version}: nothing to decide"],
            decided_by=POLICY,
            dagster_run_id=context.run.run_id,
        )
        record(context, promotions, decision)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(str(version.version)),
        metadata={
            **tracking.link(trained.run_id, version),
            "is_unchanged": is_unchanged,
            "registered_model": tracking.registered_model,
            "version": int(version.version),
            "alias": STAGING,
            "inputs": dict(trained.evidence.data_versions),
            "recall_over_versions": as_metadata(
                drawn(recall_over_versions(_judged_versions(lakehouse, tracking, policy)))
            ),
        },
    )


def _serving_twin(tracking: TrackingResource, state: State, trained: TrainedModel) -> "ModelVersion | None":
    """The version in production, if it is just this model out of another training; None if it is not, or if registry
    and ledger disagree about what serves."""
    champion = tracking.version_under(PRODUCTION)
    if champion is None or champion.run_id == trained.run_id or state.disagreement is not None:
        return None
    return champion if tracking.digest_of(champion) == trained.evidence.model_digest else None


def _judged_versions(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: ChurnPolicy
) -> list[JudgedVersion]:
    """The latest evaluation of each training, registered or refused, in the order of their judgement; each beside what
    the present policy asks of the customers it was judged on."""
    numbers = tracking.versions_by_run()
    judged: dict[str, JudgedVersion] = {}
    for row in sorted(lakehouse.records(EVALUATIONS), key=lambda row: row["evaluated_at"]):
        run_id, is_passed = row["run_id"], row["verdict"] == Verdict.PASS.value
        name = f"version {numbers[run_id]}" if run_id in numbers else f"run {run_id[:8]}"
        judged.pop(run_id, None)
        least = policy.least_recall(row["prevalence"]) if row["prevalence"] else None
        judged[run_id] = JudgedVersion(name, row["recall"], row["recall_low"], row["recall_high"], is_passed, least)
    return list(judged.values())[-SHOWN_VERSIONS:]


@dg.asset_check(
    asset=REGISTERED,
    name="version_is_traceable",
    blocking=True,
    description="The version under `staging` names its run, data versions and verdict, and they agree with the run.",
)
def version_is_traceable(tracking: TrackingResource) -> dg.AssetCheckResult:
    version, rule, allowed = (
        tracking.version_under(STAGING),
        "version_is_traceable",
        "the version's tags equal its run's",
    )
    if version is None:
        return check_result(Outcome(rule, False, "no version", f"alias {STAGING} is set"))
    recorded = tracking.trained_model_of(version).tags() | {"verdict": "PASS"}
    differing = sorted(name for name, value in recorded.items() if version.tags.get(name) != value)
    observed = f"version {version.version} of {version.run_id}; other tags: {', '.join(differing) or 'none'}"
    return check_result(
        Outcome(rule, not differing, observed, allowed, figures=(none_of("other tags", len(differing)),))
    )


@dg.asset(
    key=PRODUCTION_MODEL,
    deps=[REGISTERED],
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
    reconcile(context, promotions)
    state = promotions.state()
    challenger = staged(lakehouse, tracking, policy, state)
    is_serving = state.champion == challenger.version
    if policy.promotion.mode == "manual":
        if not is_serving:
            context.log.warning(f"Version {challenger.version} waits: launch promote_staging_model to promote it")
        if state.champion is None:
            return
    else:
        decision = decision_now(
            Action.PROMOTED,
            challenger.subject,
            state.champion,
            reasons=challenger.reasons,
            decided_by=POLICY,
            dagster_run_id=context.run.run_id,
        )
        # Of what serves nothing is to be decided, whatever became of policy and data since.
        against = challenger.against if not is_serving else [each for each in [state.obstacle] if each]
        if against:
            refuse(context, promotions, decision, against, f"Promotion of version {challenger.version}")
        if not is_serving:
            carry_out(context, promotions, tracking, decision, challenger.trained)
    now = promotions.state()
    yield dg.MaterializeResult(data_version=dg.DataVersion(str(now.champion)), metadata=serving_metadata(tracking, now))


class UnwritableDecisionError(ChurnError):
    """What a person wrote for the ledger is no line of text."""


class DecisionConfig(dg.Config):
    """Who decides, and why; both are written into the ledger."""

    approver: str = Field(pattern=r"\S", description="Who decides: a name or an address people can ask.")
    reason: str = Field(pattern=r"\S", description="Why, in a sentence that still tells something in a year.")

    @field_validator("approver", "reason")
    @classmethod
    def in_one_line(cls, text: str, field: ValidationInfo) -> str:
        found = controls(text)
        if found:
            raise UnwritableDecisionError(
                f"The {field.field_name} holds line breaks or control characters, which the ledger does not take.",
                found,
                next_step="write it in one line",
            )
        return text


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
    reconcile(context, promotions)
    state = promotions.state()
    challenger = staged(lakehouse, tracking, policy, state)
    decision = decision_now(
        Action.OVERRIDDEN if challenger.against else Action.PROMOTED,
        challenger.subject,
        state.champion,
        reasons=[*challenger.against, *policy.catalogue.attestations] if challenger.against else challenger.reasons,
        decided_by=config.approver,
        statement=config.reason,
        dagster_run_id=context.run.run_id,
    )
    if state.champion == challenger.version and state.disagreement is None:
        reasons = [f"version {challenger.version} serves already"]
        refuse(context, promotions, decision, reasons, "The promotion", next_step="train and register another version")
    carry_out(context, promotions, tracking, decision, challenger.trained)
    report_serving(context, promotions, tracking)


@dg.op
def roll_back(
    context: dg.OpExecutionContext,
    config: RollbackConfig,
    tracking: TrackingResource,
    promotions: PromotionsResource,
) -> None:
    """Lets the version that served before, or the named one, serve again."""
    reconcile(context, promotions)
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
        against.append(f"there is no version {wanted} of {tracking.registered_model}")
    elif wanted == state.champion and state.disagreement is None:
        against.append(f"version {wanted} serves already")
    elif trained is not None and promoted_digest(state.ledger, wanted) not in (None, trained.evidence.model_digest):
        against.append(f"version {wanted} is another model in the registry than the one that served by the ledger")
    if against or version is None or trained is None:
        refuse(
            context, promotions, decision, against, "The rollback", next_step="see the versions: churn-assets history"
        )
    carry_out(context, promotions, tracking, decision, trained)
    report_serving(context, promotions, tracking)


APPROVER, REASON = (
    dg.Field(str, default_value="", description=DecisionConfig.model_fields[name].description)
    for name in ("approver", "reason")
)
VERSION = dg.Field(int, is_required=False, description=RollbackConfig.model_fields["version"].description)


@dg.job(
    description="A person promotes the version under alias staging; approver and reason go into the ledger.",
    config=asked_of("promote", approver=APPROVER, reason=REASON),
)
def promote_staging_model() -> None:
    promote()


@dg.job(
    description="Lets an earlier version serve again; approver and reason go into the ledger.",
    config=asked_of("roll_back", approver=APPROVER, reason=REASON, version=VERSION),
)
def rollback_production_model() -> None:
    roll_back()


@dataclass(frozen=True)
class Challenger:
    """The version under `staging`. against: every reason not to promote it, as policy, champion and ledger are now."""

    version: str
    trained: TrainedModel
    subject: Subject
    reasons: Sequence[str]
    against: Sequence[str]


def staged(lakehouse: LakehouseResource, tracking: TrackingResource, policy: ChurnPolicy, state: State) -> Challenger:
    """Raises PromotionRefusedError if no version is under `staging`."""
    version = tracking.version_under(STAGING)
    if version is None:
        raise PromotionRefusedError(
            "Promotion is refused: no version is under alias staging.",
            next_step="materialize registered_churn_model",
        )
    trained = tracking.trained_model_of(version)
    against, recorded = standing(lakehouse, tracking, policy, trained)
    of_the_ledger = [state.obstacle, rejection(state.ledger, trained.evidence.model_digest)]
    return Challenger(
        str(version.version),
        trained,
        subject_of(trained, version, recorded),
        [*(recorded.reasons if recorded else ()), *([] if state.lost is None else [state.lost])],
        [*against, *[reason for reason in of_the_ledger if reason]],
    )


def serving_metadata(tracking: TrackingResource, state: State) -> dict[str, Any]:
    """What Dagster shows of the version that serves."""
    version, last = tracking.version(state.champion), serving(state.ledger)
    assert version is not None, "the alias names it"
    trained = tracking.trained_model_of(version)
    return {
        **tracking.link(trained.run_id, version),
        "registered_model": tracking.registered_model,
        "version": int(version.version),
        "previous_version": "none" if last is None or last.previous_version is None else int(last.previous_version),
        "alias": PRODUCTION,
        "threshold": trained.threshold if trained.threshold is not None else "none",
    }


def report_serving(context: dg.OpExecutionContext, promotions: PromotionsResource, tracking: TrackingResource) -> None:
    """Tells Dagster what serves, from a job that is no asset's."""
    now = promotions.state()
    tags = {"dagster/data_version": str(now.champion)}
    context.log_event(dg.AssetMaterialization(PRODUCTION_MODEL, metadata=serving_metadata(tracking, now), tags=tags))

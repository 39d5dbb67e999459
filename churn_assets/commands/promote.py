"""`churn-assets promote --to NAME`: the version that serves here, copied to another environment and promoted there.

Both share one MLflow server. What was judged here is carried along and read again there, before anything is promoted.
"""

import argparse
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluations import RecordedEvaluation, recorded_evaluation
from churn_assets.churn.ledger import Action, Decision, rejection, version_named
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import PromotionRefusedError, refusals
from churn_assets.commands.terminal import DONE
from churn_assets.definitions import default_resources, stores
from churn_assets.defs.decisions import subject_of
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource, decision_now
from churn_assets.resources.settings import Settings
from churn_assets.resources.tracking import PRODUCTION, TrackingResource
from churn_assets.resources.trained_models import TrainedModel

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities.model_registry import ModelVersion

# A tag of a copied version: model and number of the version it is a copy of.
COPIED_TAG = "copied_from"


class UnknownEnvironmentError(ChurnError):
    """The policy has no environment of that name, or it is this one."""


def promote_to(
    name: str,
    here: PromotionsResource,
    there: PromotionsResource,
    policy: ChurnPolicy,
    *,
    approver: str,
    reason: str,
) -> Decision:
    """Copies the version that serves here, promotes the copy there, and records it in both ledgers.

    What speaks against it makes the promotion an override, as of every person's. Raises PromotionRefusedError, with the
    refusal in the other ledger, for a copy that does not load and score or where another decision was first.
    """
    version = here.tracking.version_under(PRODUCTION)
    if version is None:
        raise PromotionRefusedError(
            f"No version of {here.tracking.registered_model} serves here.", next_step="promote one here first"
        )
    trained, origin = here.tracking.trained_model_of(version), f"{version.name}/{version.version}"
    run_id = f"churn-assets promote {uuid.uuid4()}"
    there.reconcile(run_id)
    _carry_evaluations(here.lakehouse, there.lakehouse, trained)
    copy = _copied(here.tracking, there.tracking, version, origin)
    state = there.state()
    against, recorded = _standing(there, policy, copy, trained, version.name)
    against += [each for each in (state.disagreement, rejection(state.ledger, trained.evidence.model_digest)) if each]
    decision = decision_now(
        Action.OVERRIDDEN if against else Action.PROMOTED,
        subject_of(there.tracking.trained_model_of(copy), copy, recorded),
        state.champion,
        reasons=[f"a copy of {origin}", *(against or (recorded.reasons if recorded else ()))],
        decided_by=approver,
        statement=reason,
        dagster_run_id=run_id,
    )
    problems = there.tracking.problems(trained, str(copy.version))
    if state.champion == str(copy.version):
        problems = [f"version {copy.version}, a copy of {origin}, serves there already"]
    if problems:
        there.refuse(decision, problems)
        raise PromotionRefusedError(
            f"The promotion to {name} is refused; what serves there stays.",
            problems,
            next_step="see what serves in both: churn-assets history",
        )
    made = there.move(decision)
    here.record(
        replace(
            made,
            decision_id=uuid.uuid4().hex,
            action=Action.COPIED,
            subject=subject_of(trained, version, recorded),
            previous_version=str(version.version),
            reasons=(f"to {name}, as version {copy.version} of {there.tracking.registered_model}",),
        )
    )
    return made


def _carry_evaluations(here: LakehouseResource, there: LakehouseResource, trained: TrainedModel) -> None:
    """Appends there every evaluation of this training that is recorded here alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = here.arrow(EVALUATIONS, here.table_schema(EVALUATIONS).names)
    rows = rows.filter(pc.equal(rows.column("run_id"), trained.run_id))
    moment = rows.schema.field("evaluated_at").type

    def lacking(known: Sequence[Mapping[str, Any]]) -> "pa.Table":
        moments = pa.array([row["evaluated_at"] for row in known], moment)
        return rows.filter(pc.invert(pc.is_in(rows.column("evaluated_at"), value_set=moments)))

    there.append_lacking(EVALUATIONS, lacking)


def _copied(here: TrackingResource, there: TrackingResource, version: "ModelVersion", origin: str) -> "ModelVersion":
    """The copy of the version there, made if there is none yet."""
    for known in there.versions():
        if known.tags.get(COPIED_TAG) == origin:
            return known
    copy = here.client.copy_model_version(here.version_uri(str(version.version)), there.registered_model)
    there.client.set_model_version_tag(there.registered_model, str(copy.version), COPIED_TAG, origin)
    return there.client.get_model_version(there.registered_model, str(copy.version))


def _standing(
    there: PromotionsResource, policy: ChurnPolicy, copy: "ModelVersion", trained: TrainedModel, source: str
) -> tuple[list[str], RecordedEvaluation | None]:
    """Every reason against the copy, by what the tables and the registry there hold; the champion by its origin."""
    recorded = recorded_evaluation(there.lakehouse.records(EVALUATIONS), trained.evidence.model_digest, trained.run_id)
    champion = there.tracking.version_under(PRODUCTION)
    compared: str | None = None
    if champion is not None:
        model, _, number = champion.tags.get(COPIED_TAG, "").rpartition("/")
        compared = number if model == source else f"{champion.version} of {champion.name}"
    against = refusals(trained.evidence_under(policy.digest, compared), recorded)
    differing = sorted(tag for tag, value in trained.tags().items() if copy.tags.get(tag) != value)
    if differing or copy.tags.get("verdict") != "PASS":
        against.append(f"the copy's tags are not those of its training: {', '.join(differing) or 'verdict'}")
    return against, recorded


def environment(resources: Mapping[str, Any], settings: Settings, name: str) -> PromotionsResource:
    """Raises UnknownEnvironmentError."""
    policy: ChurnPolicy = resources["policy"]
    if name not in policy.environments:
        known = ", ".join(sorted(policy.environments)) or "none is there"
        raise UnknownEnvironmentError(
            f"policy.toml has no environment {name}.",
            next_step=f"name one of [environments] ({known}), or write [environments.{name}] with its names",
        )
    # The environment's variables are of this one.
    found: PromotionsResource = stores(settings, resources["pyspark"], policy.environments[name])["promotions"]
    own: PromotionsResource = resources["promotions"]
    same = [
        what
        for what, here, there in (
            ("registered_model", own.tracking.registered_model, found.tracking.registered_model),
            ("table_prefix", own.lakehouse.root, found.lakehouse.root),
        )
        if here == there
    ]
    if same:
        raise UnknownEnvironmentError(
            f"The environment {name} shares {' and '.join(same)} with this one.",
            next_step=f"give it other names in [environments.{name}] of policy.toml",
        )
    return found


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    from churn_assets.defs.registry import DecisionConfig

    DecisionConfig(approver=arguments.approver, reason=arguments.reason)
    resources = default_resources(settings)
    there = environment(resources, settings, arguments.to)
    made = promote_to(
        arguments.to,
        resources["promotions"],
        there,
        resources["policy"],
        approver=arguments.approver,
        reason=arguments.reason,
    )
    print(
        f"\n{version_named(made.subject.version)} of {there.tracking.registered_model} serves in {arguments.to}.",
        file=terminal,
    )
    for each in made.reasons:
        print(f"  {each}", file=terminal)
    return DONE

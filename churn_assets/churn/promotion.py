"""Whether a version has earned its place: what is recorded of an evaluation, and the decision that reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluation import Evaluation, Verdict
from churn_assets.churn.policy import ChurnPolicy

# The recall_churn table: one row per evaluation.
EVALUATION_SCHEMA = (
    "evaluated_at timestamp, run_id string, model_digest string, policy_digest string, data_versions map<string,long>, "
    "verdict string, reasons array<string>, threshold double, alert_budget double, rows long, churners long, "
    "alerts long, caught long, recall double, recall_low double, recall_high double, precision double, "
    "alert_share double, prevalence double, lift double, pr_auc double, rule_pr_auc double"
)


class PromotionRefusedError(ChurnError):
    """A model was not registered or promoted; the serving model is as it was."""


@dataclass(frozen=True)
class Evidence:
    """What a decision is bound to: the model's digest, the policy's, and the version of each input table."""

    model_digest: str
    policy_digest: str
    data_versions: Mapping[str, int]


@dataclass(frozen=True)
class RecordedEvaluation:
    """One row of the recall_churn table, as far as promotion needs it."""

    verdict: Verdict
    reasons: Sequence[str]
    evidence: Evidence


def require_earned(asked: Evidence, recorded: RecordedEvaluation | None, what: str) -> None:
    """Raises PromotionRefusedError, with every reason, unless `recorded` is a PASS for exactly what is `asked`."""
    reasons = refusals(asked, recorded)
    if reasons:
        raise PromotionRefusedError(
            f"{what} is refused; the serving model stays as it was.",
            reasons,
            next_step="materialize recall_churn for this model and data and look at its verdict",
        )


def refusals(asked: Evidence, recorded: RecordedEvaluation | None) -> list[str]:
    """Every reason against; empty only for a recorded PASS of the same model, policy and data."""
    if recorded is None:
        return [f"no evaluation is recorded for model {asked.model_digest[:12]}"]
    found = recorded.evidence
    reasons = []
    if recorded.verdict is not Verdict.PASS:
        reasons.append(f"the recorded verdict is {recorded.verdict.value}: {'; '.join(recorded.reasons)}")
    if found.model_digest != asked.model_digest:
        reasons.append(f"the evaluation judged model {found.model_digest[:12]}, not {asked.model_digest[:12]}")
    if found.policy_digest != asked.policy_digest:
        reasons.append(f"it was judged by policy {found.policy_digest}, and the policy now is {asked.policy_digest}")
    tables = sorted(set(found.data_versions) | set(asked.data_versions))
    for table in tables:
        judged, now = found.data_versions.get(table), asked.data_versions.get(table)
        if judged != now:
            reasons.append(f"it judged version {judged} of {table}, the model was trained beside version {now}")
    return reasons


def evaluation_row(
    evaluation: Evaluation,
    evidence: Evidence,
    policy: ChurnPolicy,
    *,
    run_id: str,
    threshold: float | None,
    rule_pr_auc: float | None,
    evaluated_at: datetime,
) -> dict[str, Any]:
    """An evaluation as a row of EVALUATION_SCHEMA, bound to the policy that judged, whichever policy trained."""
    return {
        "evaluated_at": evaluated_at,
        "run_id": run_id,
        "model_digest": evidence.model_digest,
        "policy_digest": policy.digest,
        "data_versions": dict(evidence.data_versions),
        "verdict": evaluation.verdict.value,
        "reasons": list(evaluation.reasons),
        "threshold": threshold,
        "alert_budget": policy.alerts.budget,
        **asdict(evaluation.figures),
        "rule_pr_auc": rule_pr_auc,
    }


def recorded_evaluation(rows: DataFrame | None, model_digest: str) -> RecordedEvaluation | None:
    """The latest row of the recall_churn table about this model; None if there is none."""
    if rows is None:
        return None
    row = rows.where(F.col("model_digest") == model_digest).orderBy(F.desc("evaluated_at")).first()
    if row is None:
        return None
    evidence = Evidence(row.model_digest, row.policy_digest, row.data_versions)
    return RecordedEvaluation(Verdict(row.verdict), row.reasons, evidence)

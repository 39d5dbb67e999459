"""Whether a version has earned its place: what is recorded of an evaluation, and the decision that reads it."""

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.evaluations import Evidence, RecordedEvaluation


class PromotionRefusedError(ChurnError):
    """A model was not registered or promoted; the serving model is as it was."""


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
    if found.champion != asked.champion:
        reasons.append(f"it was compared with {_version(found.champion)}, and {_version(asked.champion)} serves now")
    tables = sorted(set(found.data_versions) | set(asked.data_versions))
    for table in tables:
        judged, now = found.data_versions.get(table), asked.data_versions.get(table)
        if judged != now:
            reasons.append(f"it judged version {judged} of {table}, the model was trained beside version {now}")
    return reasons


def _version(champion: str | None) -> str:
    return "no champion" if champion is None else f"champion version {champion}"

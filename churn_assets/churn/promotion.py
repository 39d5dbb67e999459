"""Whether a version has earned its place: what is recorded of an evaluation, and the decision that reads it."""

from datetime import date

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluation import Verdict, shortcomings
from churn_assets.churn.evaluations import Evidence, RecordedEvaluation


class PromotionRefusedError(ChurnError):
    """A model was not registered or promoted; the serving model is as it was."""


def refusals(required: Evidence, recorded: RecordedEvaluation | None) -> list[str]:
    """Every reason against; empty only for a recorded PASS of the same model, policy and data."""
    if recorded is None:
        return [f"no evaluation is recorded for model {required.model_digest[:12]}"]
    evaluated = recorded.evidence
    reasons = []
    if recorded.verdict is not Verdict.PASS:
        reasons.append(f"the recorded verdict is {recorded.verdict.value}: {'; '.join(shortcomings(recorded.reasons))}")
    if evaluated.model_digest != required.model_digest:
        reasons.append(f"the evaluation judged model {evaluated.model_digest[:12]}, not {required.model_digest[:12]}")
    if evaluated.policy_digest != required.policy_digest:
        reasons.append(
            f"it was judged by policy {evaluated.policy_digest}, and the policy now is {required.policy_digest}"
        )
    if evaluated.champion != required.champion:
        reasons.append(
            f"it was compared with {_version(evaluated.champion)}, and {_version(required.champion)} serves now"
        )
    tables = sorted(set(evaluated.data_versions) | set(required.data_versions))
    for table in tables:
        judged, now = evaluated.data_versions.get(table), required.data_versions.get(table)
        if judged != now:
            reasons.append(f"it judged version {judged} of {table}, the model was trained beside version {now}")
    return reasons


def judged_on_older_data(test: date, champion_test: date, champion: str) -> list[str]:
    """Why a model tested at `test` may not follow the champion, tested at `champion_test`; empty if it may.

    Its data ended before the champion's: a clock was set back, or an older load was landed.
    """
    if test >= champion_test:
        return []
    return [f"it is tested at {test}, before the champion, version {champion}, which was tested at {champion_test}"]


def _version(champion: str | None) -> str:
    return "no champion" if champion is None else f"champion version {champion}"

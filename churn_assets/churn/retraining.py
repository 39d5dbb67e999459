"""Whether to retrain, because of what the monitoring found, with hysteresis; starts nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from churn_assets.churn.columns import Column, arrow_schema, list_of
from churn_assets.churn.monitoring import Measurement, Status
from churn_assets.churn.outcomes import told_apart
from churn_assets.churn.policy import Monitoring


@dataclass(frozen=True)
class RetrainDecision:
    """What the weeks up to `as_of`, scored by `model_version`, ask for, with the reasons in words."""

    as_of: date
    model_version: str
    is_retrain: bool
    reasons: tuple[str, ...]

    def row(self, decided_at: datetime) -> dict[str, Any]:
        """As a row of DECISION_SCHEMA."""
        return {
            "as_of": self.as_of,
            "model_version": self.model_version,
            "is_retrain": self.is_retrain,
            "reasons": list(self.reasons),
            "decided_at": decided_at,
        }

    @staticmethod
    def of(row: Mapping[str, Any]) -> "RetrainDecision":
        return RetrainDecision(row["as_of"], row["model_version"], row["is_retrain"], tuple(row["reasons"]))


DECISION_COLUMNS = (
    Column("as_of", "date", "the latest scored week"),
    Column("model_version", "string", "the version that scored it"),
    Column("is_retrain", "boolean", "whether to retrain"),
    Column("reasons", list_of("string"), "why"),
    Column("decided_at", "timestamp", "when, UTC; of several rows of a week the last one counts"),
)
DECISION_SCHEMA = arrow_schema(DECISION_COLUMNS)


def decide(
    measurements: Sequence[Measurement], before: RetrainDecision | None, limits: Monitoring
) -> RetrainDecision | None:
    """The decision of the latest scored week; None if no week is scored.

    before: that of the latest earlier week. A signal is a figure of the version that scored the latest week, over the
    weeks that it scored. It asks for a retraining when it failed in each of its last `retrain_weeks` known weeks. Once
    one did, the decision stands until every signal was ok, not merely short of failing, in each of its last
    `calm_weeks`, or until another version scores.
    """
    if not measurements:
        return None
    as_of = max(each.as_of for each in measurements)
    version = next(each.model_version for each in measurements if each.as_of == as_of)
    signals = _signals([each for each in measurements if each.model_version == version])
    raised = [
        _reason(weeks[-limits.retrain_weeks :])
        for weeks in signals.values()
        if len(weeks) >= limits.retrain_weeks
        and all(each.status is Status.FAIL for each in weeks[-limits.retrain_weeks :])
    ]
    if raised:
        return RetrainDecision(as_of, version, True, tuple(raised))
    was_retrain = before is not None and before.is_retrain and before.model_version == version
    if was_retrain:
        uneasy = [
            _reason([each for each in weeks[-limits.calm_weeks :] if each.status is not Status.OK])
            for weeks in signals.values()
            if any(each.status is not Status.OK for each in weeks[-limits.calm_weeks :])
        ]
        if uneasy:
            stands = f"asked for before; it stands until all is ok for {limits.calm_weeks} weeks"
            return RetrainDecision(as_of, version, True, (stands, *uneasy))
    return RetrainDecision(as_of, version, False, tuple(_calm(signals, limits, was_retrain)))


def latest(decisions: Sequence[Mapping[str, Any]], before: date | None = None) -> RetrainDecision | None:
    """Of rows of DECISION_SCHEMA the last word on the latest as-of date (`before`: on the latest before that one)."""
    rows = [row for row in decisions if before is None or row["as_of"] < before]
    return RetrainDecision.of(max(rows, key=lambda row: (row["as_of"], row["decided_at"]))) if rows else None


def _signals(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """The known weeks of each figure, by its name, by rising date: in whatever order a table has them."""
    signals: dict[str, list[Measurement]] = {}
    for each in sorted(measurements, key=lambda each: (each.name, each.as_of)):
        if each.is_known:
            signals.setdefault(each.name, []).append(each)
    return signals


def _reason(weeks: Sequence[Measurement]) -> str:
    return f"{weeks[0].name}: {', '.join(_figure_text(each) for each in weeks)}"


def _figure_text(each: Measurement) -> str:
    limit = each.limit_fail if each.status is Status.FAIL else each.limit_warn
    found, allowed = told_apart(each.value or 0.0, limit, ".3f")
    return f"{found} at {each.as_of} (limit {allowed})"


def _calm(signals: Mapping[str, Sequence[Measurement]], limits: Monitoring, was_retrain: bool) -> list[str]:
    """Why not: what has failed but not for long enough, or that nothing has."""
    if was_retrain:
        return [f"every figure has been ok for {limits.calm_weeks} weeks, so the earlier retrain is taken back"]
    once = [_reason(weeks[-1:]) for weeks in signals.values() if weeks[-1].status is Status.FAIL]
    return [f"failed, but not {limits.retrain_weeks} weeks in a row: {each}" for each in once] or ["no figure fails"]

"""The evaluation as it is recorded: a row of `recall_churn` per judgement, which promotion reads again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from churn_assets.churn.columns import Column, arrow_schema, list_of, map_of, of_kind, struct_of
from churn_assets.churn.evaluation import RULE, Comparison, Evaluation, JudgedDate, Verdict
from churn_assets.churn.outcomes import Figure
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.profit import SHARES, Profit

_DIFFERENCE = ("difference", "difference_low", "difference_high")
_ESTIMATES = ("recall", "precision", "alert_share", "lift", "pr_auc", "roc_auc", "brier")
_FIGURES = (
    *of_kind("long", "rows", "churners", "alerts", "caught"),
    *of_kind(
        "double",
        "prevalence",
        "attainable_recall",
        *(f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")),
    ),
)
_COMPARISON = struct_of(
    *(Column("rival", "string"), Column("rows", "long")),
    *of_kind("double", "pr_auc", "challenger_pr_auc", *_DIFFERENCE, "recall", "challenger_recall"),
)
# An outcomes.Figure as tables have it.
CRITERION = struct_of(
    *of_kind("string", "key", "what", "observed", "allowed", "interval"),
    *of_kind("double", "value", "limit"),
    Column("is_met", "boolean"),
)
_PROFIT = (
    Column("most_profitable_share", "double"),
    *of_kind(
        "double",
        *(
            f"{name}{end}"
            for name in ("profit_per_customer", "best_profit_per_customer", "empc")
            for end in ("", "_low", "_high")
        ),
    ),
)
# What a row lacks whose policy had no [economics], or that version 0.6.0 or before wrote.
PROFIT_NAMES = (*(column.name for column in _PROFIT), "empc_action")
_PROFIT_POINT = struct_of(*of_kind("double", "share", "profit", "profit_low", "profit_high"))
_SLICE = struct_of(*of_kind("string", "slice", "part"), Column("is_judgeable", "boolean"), *_FIGURES)
# Of a backtest. missed: what it fell short of there; is_own: judged was the version itself. rival: the strongest there.
_DATE = struct_of(
    Column("as_of", "date"),
    *of_kind("boolean", "is_own", "is_met"),
    *of_kind("string", "missed", "rival"),
    *of_kind("double", "least_recall", *_DIFFERENCE),
    *_FIGURES,
)
# The recall_churn table: one row per evaluation.
EVALUATION_SCHEMA = arrow_schema(
    [
        Column("evaluated_at", "timestamp"),
        *of_kind("string", "run_id", "model_digest", "policy_digest"),
        Column("data_versions", map_of("string", "long")),
        *of_kind("string", "champion", "evaluation", "verdict"),
        *of_kind(list_of("string"), "reasons", "warnings"),
        *(Column(name, list_of(CRITERION)) for name in ("criteria", "single_features")),
        *of_kind("double", "threshold", "alert_budget"),
        *_FIGURES,
        Column("rule_pr_auc", "double"),
        Column("comparisons", list_of(_COMPARISON)),
        Column("slices", list_of(_SLICE)),
        Column("leakage", list_of(struct_of(Column("feature", "string"), Column("roc_auc", "double")))),
        Column("dates", list_of(_DATE)),
        *_PROFIT,
        Column("empc_action", "string"),
        Column("profit_curve", list_of(_PROFIT_POINT)),
    ]
)


@dataclass(frozen=True)
class Evidence:
    """What a decision is bound to: the model's digest, the policy's, the version of each input table, and the champion.

    champion: the version in production that the model was compared with; None if there was none.
    """

    model_digest: str
    policy_digest: str
    data_versions: Mapping[str, int]
    champion: str | None = None


@dataclass(frozen=True)
class RecordedEvaluation:
    """One row of the recall_churn table, as far as promotion needs it."""

    verdict: Verdict
    reasons: Sequence[str]
    evidence: Evidence
    criteria: Sequence[Figure] = ()


def evaluation_row(
    evaluation: Evaluation,
    evidence: Evidence,
    policy: ChurnPolicy,
    *,
    run_id: str,
    threshold: float | None,
    evaluated_at: datetime,
) -> dict[str, Any]:
    """An evaluation as a row of EVALUATION_SCHEMA, bound to the policy that judged, whichever policy trained."""
    compared = [
        {
            "rival": comparison.rival,
            "rows": comparison.rows,
            "pr_auc": comparison.pr_auc,
            "challenger_pr_auc": comparison.challenger_pr_auc,
            "difference": comparison.difference.value,
            "difference_low": comparison.difference.low,
            "difference_high": comparison.difference.high,
            "recall": comparison.recall,
            "challenger_recall": comparison.challenger_recall,
        }
        for comparison in evaluation.comparisons
    ]
    return {
        "evaluated_at": evaluated_at,
        "run_id": run_id,
        "model_digest": evidence.model_digest,
        "policy_digest": policy.digest,
        "data_versions": dict(evidence.data_versions),
        "champion": evidence.champion,
        "evaluation": policy.gate.evaluation,
        "verdict": evaluation.verdict.value,
        "reasons": list(evaluation.reasons),
        "warnings": list(evaluation.warnings),
        "criteria": [asdict(criterion) for criterion in evaluation.criteria],
        "single_features": [asdict(figure) for figure in evaluation.single_features],
        "threshold": threshold,
        "alert_budget": policy.alerts.budget,
        **evaluation.figures.flat(),
        "rule_pr_auc": next(
            (comparison.pr_auc for comparison in evaluation.comparisons if comparison.rival == RULE), None
        ),
        "comparisons": compared,
        "slices": [
            {"slice": part.slice, "part": part.part, "is_judgeable": part.is_judgeable, **part.figures.flat()}
            for part in evaluation.slices
        ],
        "leakage": [{"feature": canary.feature, "roc_auc": canary.roc_auc} for canary in evaluation.leakage],
        "dates": [_date_row(judged) for judged in evaluation.dates],
        **_profit_columns(evaluation.profit),
    }


def _date_row(judged: JudgedDate) -> dict[str, Any]:
    strongest = judged.strongest or Comparison("", 0)
    return {
        "as_of": judged.as_of,
        "is_own": judged.is_own,
        "is_met": judged.is_met,
        "missed": "; ".join(judged.missed),
        "rival": strongest.rival,
        "least_recall": judged.least_recall,
        "difference": strongest.difference.value,
        "difference_low": strongest.difference.low,
        "difference_high": strongest.difference.high,
        **judged.figures.flat(),
    }


def _profit_columns(profit: Profit | None) -> dict[str, Any]:
    """What contacts earn, where the policy had [economics]."""
    if profit is None:
        return {**{column.name: None for column in _PROFIT}, "empc_action": None, "profit_curve": None}
    curve = [
        {"share": float(share), "profit": point.value, "profit_low": point.low, "profit_high": point.high}
        for share, point in zip(SHARES, profit.curve, strict=True)
    ]
    return {**profit.flat(), "empc_action": profit.empc_action, "profit_curve": curve}


def recorded_evaluation(rows: Sequence[Mapping[str, Any]], model_digest: str, run_id: str) -> RecordedEvaluation | None:
    """The latest row of the recall_churn table about this model of this training run; None if there is none."""
    of_run = [row for row in rows if (row["model_digest"], row["run_id"]) == (model_digest, run_id)]
    if not of_run:
        return None
    row = max(of_run, key=itemgetter("evaluated_at"))
    evidence = Evidence(row["model_digest"], row["policy_digest"], dict(row["data_versions"]), row["champion"])
    return RecordedEvaluation(Verdict(row["verdict"]), row["reasons"], evidence, recorded_criteria(row))


def passed_by(criteria: Sequence[Figure], confidence: float) -> str:
    """A PASS in a line, with the recall, which is the first criterion."""
    first = "".join(f"; {each.sentence(confidence)}" for each in criteria[:1])
    return f"{Verdict.PASS.value}: all {len(criteria)} criteria are met{first}"


def recorded_criteria(row: Mapping[str, Any]) -> tuple[Figure, ...]:
    """What the gate asked of the model of a row; none where an earlier version of this project judged it."""
    return _recorded_figures(row, "criteria")


def recorded_single_features(row: Mapping[str, Any]) -> tuple[Figure, ...]:
    """What the model of a row gains over single features; none where an earlier version of this project judged it."""
    return _recorded_figures(row, "single_features")


def _recorded_figures(row: Mapping[str, Any], column: str) -> tuple[Figure, ...]:
    return tuple(Figure(**figure) for figure in row.get(column) or ())

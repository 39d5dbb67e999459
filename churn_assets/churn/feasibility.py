"""Can a verdict be reached at all? Each candidate churn definition against the data, before anything is trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.columns import Column, arrow_schema, list_of, of_kind
from churn_assets.churn.errors import ChurnError
from churn_assets.churn.evaluation import few_dates
from churn_assets.churn.intervals import widest_wilson_interval, wilson_interval
from churn_assets.churn.labels import candidates, definition, label, setting, with_outcomes
from churn_assets.churn.outcomes import Figure, Outcome, share_up_to, told_apart
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.splits import CROSSFIT_FOLDS, FOLDS, TEST_FOLDS, backtest_dates

FEASIBLE, NOT_FEASIBLE = "FEASIBLE", "NOT FEASIBLE"

# The label_feasibility table: one row per candidate definition.
FEASIBILITY_SCHEMA = arrow_schema(
    [
        *of_kind("string", "definition", "setting"),
        Column("is_chosen", "boolean"),
        Column("as_of", "date"),
        *of_kind("long", "eligible", "churners"),
        *of_kind("double", "prevalence", "expected_test_churners", "widest_recall_interval", "attainable_recall"),
        Column("is_feasible", "boolean"),
        Column("reasons", list_of("string")),
        Column("policy_digest", "string"),
    ]
)


class NotFeasibleError(ChurnError):
    """No verdict could be reached under the policy's churn definition, so nothing is trained."""


@dataclass(frozen=True)
class Feasibility:
    """A churn definition at the latest date whose outcome it knows.

    eligible, churners: customers at that date. expected_test_churners: of the churners, those that are to be judged: a
    fifth (holdout), all (crossfit), or a fifth for each date of a backtest, until all are. widest_recall_interval: the
    most that so few churners may leave open. attainable_recall: what a perfect ranking reaches within the alert budget,
    budget / prevalence.
    """

    definition: str
    setting: str
    is_chosen: bool
    as_of: date | None
    eligible: int
    churners: int
    prevalence: float | None
    expected_test_churners: float
    widest_recall_interval: float
    attainable_recall: float | None
    is_feasible: bool
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return FEASIBLE if self.is_feasible else NOT_FEASIBLE

    def row(self, policy: ChurnPolicy) -> dict[str, object]:
        """A row of FEASIBILITY_SCHEMA, bound to the policy."""
        return {**asdict(self), "reasons": list(self.reasons), "policy_digest": policy.digest}


def label_feasibility(
    snapshots: DataFrame, silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy
) -> list[Feasibility]:
    """Every candidate definition, the policy's own included, in one pass over `customer_snapshots`.

    Each is judged at the latest date whose outcome it knows, so only these dates are looked at.
    """
    compared = candidates(policy)
    known = [calendar.labelled(candidate.windows.outcome_days) for candidate in compared]
    dates = [max(days, default=None) for days in known]
    looked_at = sorted({day for day in dates if day is not None})
    counted: dict[date, Row] = {}
    if looked_at:
        outcomes = with_outcomes(
            snapshots.where(F.col("as_of").isin(looked_at)),
            silver,
            replace(calendar, first=looked_at[0], last=looked_at[-1]),
            max(candidate.windows.outcome_days for candidate in compared),
            policy,
        )
        labels = [label(calendar, candidate).alias(f"label_{number}") for number, candidate in enumerate(compared)]
        churners = [F.sum(f"label_{number}").alias(f"churners_{number}") for number in range(len(compared))]
        by_date = outcomes.select("as_of", *labels).groupBy("as_of")
        counted = {row.as_of: row for row in by_date.agg(F.count(F.lit(1)).alias("eligible"), *churners).collect()}
    feasibilities = []
    for number, (candidate, day) in enumerate(zip(compared, dates, strict=True)):
        row = None if day is None else counted.get(day)
        as_of, eligible = (None, 0) if row is None else (day, row.eligible)
        churned = 0 if row is None else int(row[f"churners_{number}"])
        judged = len(backtest_dates(known[number], candidate))
        feasibilities.append(
            feasibility(candidate, policy, as_of=as_of, eligible=eligible, churners=churned, judged_dates=judged)
        )
    return feasibilities


def feasibility(
    candidate: ChurnPolicy,
    policy: ChurnPolicy,
    *,
    as_of: date | None,
    eligible: int,
    churners: int,
    judged_dates: int = 0,
) -> Feasibility:
    """The judgement of one definition from its numbers: as_of None where no outcome is known yet.

    judged_dates: how many a backtest has.
    """
    gate = policy.gate
    folds = {"holdout": 1, "crossfit": len(CROSSFIT_FOLDS), "backtest": min(judged_dates, len(CROSSFIT_FOLDS))}
    judged = churners * folds[gate.evaluation] * len(TEST_FOLDS) / FOLDS
    width = widest_wilson_interval(judged, gate.confidence)
    prevalence = churners / eligible if eligible else None
    attainable = policy.attainable_recall(prevalence) if prevalence else None
    reasons = []
    if as_of is None:
        reasons.append(f"no outcome of {candidate.windows.outcome_days} days is known yet")
    elif not churners:
        reasons.append("nobody is a churner")
    elif churners == eligible:
        reasons.append("everybody is a churner")
    else:
        assert attainable is not None
        assert prevalence is not None
        least_recall = policy.least_recall(prevalence)
        asked = least_recall / attainable
        if gate.evaluation == "backtest" and judged_dates < gate.min_backtest_dates:
            reasons.append(few_dates(judged_dates, policy))
        if width > gate.max_recall_interval:
            reasons.append(_too_few(judged, width, churners, policy))
        best, _ = _best_interval(attainable, judged, policy)
        if attainable < least_recall:
            found, least = told_apart(attainable, least_recall, ".0%")
            reasons.append(
                f"alerting {policy.alerts.budget:.0%} of customers finds at most {found} of the churners, "
                f"below the minimum recall of {least}"
            )
        elif asked > gate.max_attainable_share:
            share, most = told_apart(asked, gate.max_attainable_share, ".0%")
            reasons.append(
                f"the minimum recall of {least_recall:.3f} is {share} of what a perfect ranking reaches "
                f"({attainable:.3f}); allowed {most}"
            )
        elif best < least_recall and width <= gate.max_recall_interval:
            bound, least = told_apart(best, least_recall, ".0%")
            reasons.append(
                f"even a perfect ranking's recall of {attainable:.0%} has a lower bound of {bound}, below the "
                f"minimum of {least}"
            )
    return Feasibility(
        definition=definition(candidate),
        setting=setting(candidate),
        is_chosen=candidate == policy,
        as_of=as_of,
        eligible=eligible,
        churners=churners,
        prevalence=prevalence,
        expected_test_churners=float(judged),
        widest_recall_interval=width,
        attainable_recall=attainable,
        is_feasible=not reasons,
        reasons=tuple(reasons),
    )


def _best_interval(attainable: float, judged: float, policy: ChurnPolicy) -> tuple[float, float]:
    """Of the recall of a perfect ranking."""
    if judged < 1:
        return 0.0, 1.0
    return wilson_interval(round(attainable * judged), round(judged), policy.gate.confidence)


def _too_few(judged: float, width: float, churners: int, policy: ChurnPolicy) -> str:
    gate = policy.gate
    wide, allowed = told_apart(width, gate.max_recall_interval, ".2f")
    reason = (
        f"with {judged:.0f} churners to judge on, the recall's {gate.confidence:.0%} interval can be {wide} wide; "
        f"allowed {allowed}"
    )
    pooled = widest_wilson_interval(churners, gate.confidence)
    if judged < churners and pooled <= gate.max_recall_interval:
        reason += f'; gate.evaluation = "crossfit" would judge on all {churners:,}, {pooled:.2f} wide'
    return reason


def feasible_outcome(feasibilities: Sequence[Feasibility], policy: ChurnPolicy) -> Outcome:
    """Whether the policy's definition is feasible; if not, why, and which others are."""
    chosen = next(candidate for candidate in feasibilities if candidate.is_chosen)
    others = [
        f"{other.definition} ({other.setting})" for other in feasibilities if other.is_feasible and not other.is_chosen
    ]
    observed = f"{chosen.verdict}: {chosen.definition}: {_numbers(chosen)}"
    if not chosen.is_feasible:
        observed += f"; {'; '.join(chosen.reasons)}. Feasible on these data: {', or '.join(others) or 'no candidate'}"
    return Outcome(
        "churn_definition_is_feasible",
        chosen.is_feasible,
        observed,
        "a feasible churn definition",
        figures=tuple(_figures(chosen, policy)),
    )


def _figures(chosen: Feasibility, policy: ChurnPolicy) -> Iterator[Figure]:
    gate, churners, eligible = policy.gate, chosen.churners, chosen.eligible
    is_mixed = 0 < churners < eligible
    allowed = "more than 0, and fewer than all"
    yield Figure("churners", "churners", f"{churners:,} of {eligible:,}", allowed, is_mixed, churners)
    yield share_up_to(
        "widest_recall_interval",
        f"width of the recall's interval with {chosen.expected_test_churners:,.0f} churners to judge on",
        chosen.widest_recall_interval,
        gate.max_recall_interval,
        ".2f",
    )
    if chosen.attainable_recall is not None and chosen.prevalence is not None:
        least_recall = policy.least_recall(chosen.prevalence)
        low, high = _best_interval(chosen.attainable_recall, chosen.expected_test_churners, policy)
        lower, least = told_apart(low, least_recall, ".2f")
        yield Figure(
            "attainable_recall",
            f"recall of a perfect ranking, alerting {policy.alerts.budget:.0%} of the customers",
            f"{chosen.attainable_recall:.2f}",
            f"at least {least} (lower end)",
            min(chosen.attainable_recall, low) >= least_recall,
            chosen.attainable_recall,
            least_recall,
            f"{lower} to {high:.2f}",
        )
        yield share_up_to(
            "asked_of_attainable",
            f"of a perfect ranking, what the minimum recall of {least_recall:.3f} asks for",
            least_recall / chosen.attainable_recall,
            gate.max_attainable_share,
            ".0%",
        )


def _numbers(candidate: Feasibility) -> str:
    if candidate.prevalence is None:
        return "no customer to count"
    return (
        f"{candidate.churners:,} churners among {candidate.eligible:,} customers at {candidate.as_of} "
        f"({candidate.prevalence:.2%})"
    )


def require_feasible(rows: Sequence[Mapping[str, Any]], policy: ChurnPolicy) -> None:
    """Raises NotFeasibleError unless the rows of label_feasibility say FEASIBLE of the policy's own definition."""
    row = next((row for row in rows if row["is_chosen"]), None)
    if row is None:
        problems = ["label_feasibility has no row for the policy's churn definition"]
    elif row["policy_digest"] != policy.digest:
        problems = [f"it was found under policy {row['policy_digest']}, and the policy now is {policy.digest}"]
    else:
        problems = [] if row["is_feasible"] else list(row["reasons"])
    if problems:
        raise NotFeasibleError(
            f"Training is refused: {definition(policy)} is not known to be a feasible churn definition.",
            problems,
            next_step="materialize food_delivery/label_feasibility and choose a definition it calls feasible",
        )

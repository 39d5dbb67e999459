"""Tables that people read in Dagster and on a model card, as Markdown. What stands in them is computed elsewhere."""

from collections.abc import Iterable, Sequence

from churn_assets.churn.catalogue import Feature
from churn_assets.churn.evaluation import NAMES, Evaluation, JudgedDate, shortcomings
from churn_assets.churn.feasibility import Feasibility
from churn_assets.churn.influences import Influence
from churn_assets.churn.intervals import Estimate
from churn_assets.churn.ledger import Decision, before, headline, moment
from churn_assets.churn.outcomes import Figure
from churn_assets.pages.markdown import Markdown, escaped, table

UNKNOWN = "–"


def criteria_table(criteria: Sequence[Figure]) -> Markdown:
    """What was found beside what is allowed, and whether that is met."""
    header, *rows = _criteria(criteria)
    return table(header, rows)


def criteria_lines(criteria: Sequence[Figure]) -> list[str]:
    """The same table for a terminal, a line for each row."""
    rows = _criteria(criteria)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]


def _criteria(criteria: Sequence[Figure]) -> list[list[str]]:
    """The header and the rows; no column for intervals where there is none."""
    rows = [["", "observed", "interval", "allowed", ""]]
    rows += [
        [each.what, each.observed, each.interval, each.allowed, "met" if each.is_met else "MISSED"] for each in criteria
    ]
    return rows if any(each.interval for each in criteria) else [[*row[:2], *row[3:]] for row in rows]


def figures_table(evaluation: Evaluation) -> Markdown:
    """The figures with their intervals: overall, then each part of each slice."""
    shown = ("precision", "alert_share", "lift", "pr_auc", "roc_auc", "brier")
    named = [(Markdown("**all**"), evaluation.figures)]
    named += [
        (escaped(f"{part.slice}: {part.part}{'' if part.is_judgeable else ' (too small to judge)'}"), part.figures)
        for part in evaluation.slices
    ]
    rows = [
        [
            name,
            f"{figures.rows:,}",
            f"{figures.churners:,}",
            _estimate(figures.recall),
            UNKNOWN if figures.attainable_recall is None else f"{figures.attainable_recall:.3f}",
            *(_estimate(getattr(figures, figure)) for figure in shown),
        ]
        for name, figures in named
    ]
    return table(["", "customers", "churners", "recall", "attainable", *shown], rows)


def dates_table(evaluation: Evaluation) -> Markdown:
    """The dates of a backtest, each by itself, the version's own in bold."""
    header = [
        "",
        "customers",
        "churn rate",
        "alerted",
        "recall",
        "at least",
        "precision",
        "PR-AUC over the strongest",
        "",
    ]
    return table(header, map(_date, evaluation.dates))


def _date(judged: JudgedDate) -> Sequence[str]:
    figures, strongest = judged.figures, judged.strongest
    over = "" if strongest is None else f"{_estimate(strongest.difference, '+.3f')}, {NAMES[strongest.rival]}"
    return [
        Markdown(f"**{judged.as_of}**") if judged.is_own else f"{judged.as_of}",
        f"{figures.rows:,}",
        UNKNOWN if figures.prevalence is None else f"{figures.prevalence:.1%}",
        UNKNOWN if figures.alert_share.value is None else f"{figures.alert_share.value:.1%}",
        _estimate(figures.recall),
        UNKNOWN if judged.least_recall is None else f"{judged.least_recall:.3f}",
        UNKNOWN if figures.precision.value is None else f"{figures.precision.value:.3f}",
        over or UNKNOWN,
        "holds" if judged.is_met else f"MISSED: {'; '.join(judged.missed)}",
    ]


def _estimate(figure: Estimate, form: str = ".3f") -> str:
    if figure.value is None:
        return UNKNOWN
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}} (?)"
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def feasibility_table(candidates: Iterable[Feasibility]) -> Markdown:
    """The candidate churn definitions, the policy's own in bold."""
    header = (
        "churn definition",
        "customers",
        "churners",
        "churn rate",
        "churners to judge on",
        "recall interval up to",
        "recall attainable",
        "verdict",
    )
    return table(header, map(_candidate, candidates))


def _candidate(candidate: Feasibility) -> Sequence[str]:
    return [
        Markdown(f"**{escaped(candidate.definition)}**") if candidate.is_chosen else candidate.definition,
        f"{candidate.eligible:,}",
        f"{candidate.churners:,}",
        UNKNOWN if candidate.prevalence is None else f"{candidate.prevalence:.2%}",
        f"{candidate.expected_test_churners:.0f}",
        f"{candidate.widest_recall_interval:.2f}",
        UNKNOWN if candidate.attainable_recall is None else f"{candidate.attainable_recall:.2f}",
        "; ".join([candidate.verdict, *candidate.reasons]),
    ]


def features_table(features: Iterable[Feature]) -> Markdown:
    """What the features mean and how they are computed."""
    return table(["feature", "meaning", "formula"], ([each.name, each.meaning, each.formula] for each in features))


_LARGER = {"raises": "raises the risk", "lowers": "lowers the risk", "neither": UNKNOWN}


def influences_table(influences: Iterable[Influence]) -> Markdown:
    """How far each feature moves a model's scores, and in which direction."""
    rows = ([Markdown(f"`{each.feature}`"), f"{each.mean:.3f}", _LARGER[each.direction]] for each in influences)
    return table(["feature", "mean size of SHAP", "a larger value"], rows)


def decisions_list(decisions: Iterable[Decision]) -> Markdown:
    """Decisions of the ledger, in the order given, each in three lines: what, after what, and why."""
    lines = []
    for made in decisions:
        verdict = made.subject.verdict or "not asked for"
        lines.append(f"- {escaped(f'{moment(made)} {headline(made)}')}")
        lines.append(f"  - {escaped(f'{before(made)}; verdict {verdict}')}")
        lines.append(f"  - {escaped(made.statement or _why(made.reasons))}")
    return Markdown("\n".join(lines))


def _why(reasons: Sequence[str]) -> str:
    """What speaks against the model; where nothing does, how much speaks for it."""
    against = shortcomings(reasons)
    return "; ".join(against) if against or not reasons else f"all {len(reasons)} criteria are met"

"""The risk report as a page for executives: one file that needs no server, on a screen, a phone or paper."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.drift import SCORE
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.churn.policy import TierNames
from churn_assets.churn.retention import CONTACTED, HELD_OUT, KEEPS_NOBODY, NO_ACTION_PAYS, OPTED_OUT
from churn_assets.churn.week_at_risk import ServingModel, WeekAtRisk
from churn_assets.churn.wording import duration
from churn_assets.pages.glossary import TierLimits
from churn_assets.pages.html import page
from churn_assets.pages.pictures import MeasuredEffect, Picture, churn_by_date, drawn_as_lines, effect_over_lists

TEMPLATE = Path(__file__).with_suffix(".html")
VERDICT_WORDS = {
    Verdict.PASS: "It met every requirement of the company's policy.",
    Verdict.FAIL: "It fell short of a requirement of the company's policy.",
    Verdict.NOT_EVALUABLE: "By the company's policy that is too little to judge it on.",
}

# Lists whose effect is drawn, the latest.
MOST_LISTS = 6
EXCLUSION_WORDS = {
    CONTACTED: "contacted of late",
    HELD_OUT: "held out of late",
    OPTED_OUT: "asked not to be contacted",
    NO_ACTION_PAYS: "no action that there still is would pay",
    KEEPS_NOBODY: "a contact would keep nobody like them",
}


@dataclass(frozen=True)
class RiskReport:
    """What the page shows. effects: sentences; alarms: figures beyond a limit; empty where there is nothing to tell.
    measured: the effects that are known, by date.

    is_retrain: whether the model should be trained again; None where that is not decided. population: who the customers
    are. worth: what their value is, behind "what the customers"; None where none is known. ranked: what the list ranks
    by, and why; empty where nobody is listed.
    """

    week: WeekAtRisk
    trend: Sequence[SnapshotShares]
    outcome_days: int
    population: str
    worth: str | None
    crisis_delay_minutes: float
    churn_definition: str
    limits: TierLimits
    alert_budget: float
    currency: str
    effects: Sequence[str]
    alarms: Sequence[Measurement]
    is_retrain: bool | None
    model: ServingModel
    made_from: Sequence[str]
    catalogue: Catalogue = CATALOGUE
    measured: Sequence[MeasuredEffect] = ()
    ranked: str = ""
    tiers: TierNames = field(default_factory=TierNames)

    @property
    def is_crisis_known(self) -> bool:
        return all(snapshot.crisis is not None for snapshot in self.trend)

    def money(self, amount: float) -> str:
        return f"{amount:,.0f} {self.currency}".rstrip()


def risk_report_page(report: RiskReport) -> str:
    """The page as HTML. Text from the tables is escaped; nothing is loaded or run."""
    wide, narrow = (
        drawn_as_lines(
            churn_by_date(report.trend, report.crisis_delay_minutes, report.outcome_days, is_narrow=is_narrow)
        )
        for is_narrow in (False, True)
    )
    return page(
        TEMPLATE,
        report=report,
        week=report.week,
        wide_picture=wide.data_uri,
        narrow_picture=narrow.data_uri,
        tiers=[replace(part, name=report.tiers.of(part.name)) for part in report.week.tiers],
        trend_text=trend_text(report.trend),
        effect_pictures=effect_pictures(report.measured),
        effect_text=effect_text(report.measured),
        model_text=model_text(report.model),
        late=duration(report.crisis_delay_minutes),
        excluded_text=excluded_text(report.week),
        watched=watched_text(report.alarms, report.is_retrain, report.catalogue),
    )


def trend_text(trend: Sequence[SnapshotShares]) -> str:
    """What the trend picture shows, for whoever cannot see it."""
    known = [(snapshot.as_of, snapshot.churn) for snapshot in trend if snapshot.churn is not None]
    if not known:
        return "No week's outcome is known yet."
    worst = max(known, key=lambda point: point[1])
    (first, share), (last, latest) = known[0], known[-1]
    return (
        f"Of the customers of {first:%-d %B %Y}, {share:.1%} left; at the worst, of those of {worst[0]:%-d %B %Y}, "
        f"{worst[1]:.1%}; of those of {last:%-d %B %Y}, the latest week whose outcome is known, {latest:.1%}."
    )


def effect_pictures(measured: Sequence[MeasuredEffect]) -> list[Picture]:
    """What the lists changed, wide and narrow; none of a single one, which its sentence tells better."""
    if len(measured) < 2:
        return []
    # As many as a phone has room for.
    last = measured[-MOST_LISTS:]
    return [drawn_as_lines(effect_over_lists(last, is_narrow=is_narrow)) for is_narrow in (False, True)]


def effect_text(measured: Sequence[MeasuredEffect]) -> str:
    """What the picture of the lists' effects shows, for whoever cannot see it."""
    told = [
        f"{100 * each.difference:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f}) by the list of "
        f"{each.as_of:%-d %B %Y}"
        for each in measured[-MOST_LISTS:]
    ]
    return f"So many more of 100 customers stayed than of those held out: {', '.join(told)}."


def excluded_text(week: WeekAtRisk) -> str:
    """How many at risk are kept off the list, and each reason with how many it is of; some have two."""
    if not week.excluded:
        return "Nobody else at risk was kept off the list."
    told = [f"{EXCLUSION_WORDS[reason]} ({customers:,})" for reason, customers in week.exclusions.items()]
    return f"{week.excluded:,} at risk are left in peace: {', '.join(told)}."


def model_text(model: ServingModel) -> str:
    """How the version that scored was judged, on whom, and how sure that is."""
    if model.verdict is None or model.recall is None or model.precision is None or model.lift is None:
        return "It was not judged on customers it had never seen, so nobody knows how sure it is."
    day = f"{model.tested_at:%-d %B %Y}"
    judged = {
        "holdout": f"On {model.customers:,} customers of {day} whom it had never seen, it found",
        "crossfit": f"Five models made in the same way, this one among them, were tried on all {model.customers:,} "
        f"customers of {day}, each on those it had never seen. Together they found",
        "backtest": f"On customers of {day} whom it had never seen, and models made in the same way on others of "
        f"earlier weeks, {model.customers:,} in all, they found",
    }[str(model.evaluation)]
    attainable = "" if model.attainable is None else f"; as many calls can find {model.attainable:.1%} at most"
    return (
        f"{judged} {model.recall:.1%} of those who left ({model.caught:,} of {model.churners:,}; for all customers "
        f"between {model.recall_low:.1%} and {model.recall_high:.1%}{attainable}). Of those called at risk "
        f"{model.precision:.1%} left, {model.lift:.1f} times as many as among as many chosen by chance. "
        f"{VERDICT_WORDS[model.verdict]}"
    )


def watched_text(alarms: Sequence[Measurement], is_retrain: bool | None, catalogue: Catalogue = CATALOGUE) -> list[str]:
    """What monitoring says of the week, a sentence each, and whether the model should be trained again."""
    sentences = [alarm_text(alarm, catalogue) for alarm in alarms] or [
        "This week's customers are as the model knows them."
    ]
    if is_retrain is not None:
        sentences.append("The model should be trained again." if is_retrain else "The model need not be trained again.")
    return sentences


def alarm_text(alarm: Measurement, catalogue: Catalogue = CATALOGUE) -> str:
    """A figure beyond a limit, in an executive's words."""
    far = "far " if alarm.status is Status.FAIL else ""
    if alarm.metric is Metric.PSI:
        if alarm.subject == SCORE:
            return f"The probabilities of leaving are spread {far}otherwise than when the model was trained."
        meaning = _meaning(alarm.subject, catalogue)
        return f"Customers differ {far}more than usual from those the model learned from: {meaning}."
    figures = f"{alarm.value:.1%}; the company's policy"
    return {
        Metric.ALERT_SHARE: f"More customers are at risk than the team can contact: {figures} allows "
        f"{alarm.limit_warn:.1%}.",
        Metric.UNSEEN_SEGMENT_SHARE: f"Customers of segments that the model never saw: {figures} allows "
        f"{alarm.limit_warn:.1%}.",
        Metric.REALISED_RECALL: f"Of this week's customers who left, the share that was called at risk: {figures} asks "
        f"for at least {alarm.limit_warn:.1%}.",
        Metric.REALISED_PRECISION: f"Of those called at risk this week, the share that left: {figures} asks for at "
        f"least {alarm.limit_warn:.1%}.",
    }[alarm.metric]


def _meaning(subject: str, catalogue: Catalogue) -> str:
    feature = catalogue.of.get(subject)
    return subject if feature is None else feature.meaning

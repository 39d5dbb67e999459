"""The risk report as a page for executives: one file that needs no server, on a screen, a phone or paper."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.drift import SCORE
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import UNDEFINED, Estimate
from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.churn.policy import TierNames, Windows
from churn_assets.churn.retention import CONTACTED, HELD_OUT, KEEPS_NOBODY, NO_ACTION_PAYS, OPTED_OUT
from churn_assets.churn.week_at_risk import JudgedWeek, ServingModel, TierLimits, WeekAtRisk
from churn_assets.churn.wording import duration
from churn_assets.pages.glossary import tiers_told
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
    """What the page shows. effects: sentences; watched: what monitoring measured of the week; empty where there is
    nothing to tell. measured: the effects that are known, by date. made_on: in UTC.

    is_retrain: whether the model should be trained again; None where that is not decided. population: who the customers
    are. worth: what their value is, behind "what the customers"; None where none is known. ranked: what the list ranks
    by, and why; empty where nobody is listed.
    """

    week: WeekAtRisk
    made_on: date
    trend: Sequence[SnapshotShares]
    windows: Windows
    population: str
    worth: str | None
    crisis_delay_minutes: float
    churn_definition: str
    limits: TierLimits
    alert_budget: float
    currency: str
    effects: Sequence[str]
    watched: Sequence[Measurement]
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

    @property
    def foretold(self) -> Estimate:
        """How many of those at risk would leave, by what such probabilities came to mean; undefined if unknown."""
        alerts = self.week.everyone.alerts
        found = next((each for each in self.watched if each.metric is Metric.ESTIMATED_PRECISION), None)
        if found is None or found.value is None or found.low is None or found.high is None:
            return UNDEFINED
        return Estimate(*(share * alerts for share in (found.value, found.low, found.high)))

    def money(self, amount: float) -> str:
        return f"{amount:,.0f} {self.currency}".rstrip()


def risk_report_page(report: RiskReport) -> str:
    """The page as HTML. Text from the tables is escaped; nothing is loaded or run."""
    wide, narrow = (
        drawn_as_lines(churn_by_date(report.trend, report.crisis_delay_minutes, report.windows, is_narrow=is_narrow))
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
        calibration_text=calibration_text(report.model),
        late=duration(report.crisis_delay_minutes),
        tiers_told=tiers_told(report.limits, report.tiers),
        excluded_text=excluded_text(report.week),
        watched=watched_text(report.watched, report.is_retrain, report.catalogue),
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
    rule = (
        ""
        if model.rule_recall is None
        else f"As many calls by the retention team's rule would have found {model.rule_recall:.1%}. "
    )
    return (
        f"{judged} {model.recall:.1%} of those who left ({model.caught:,} of {model.churners:,}; for all customers "
        f"between {model.recall_low:.1%} and {model.recall_high:.1%}{attainable}). {rule}Of those called at risk "
        f"{model.precision:.1%} left, {model.lift:.1f} times as many as among as many chosen by chance. "
        f"{VERDICT_WORDS[model.verdict]}{weeks_text(model)}"
    )


def weeks_text(model: ServingModel) -> str:
    """In how many of the weeks by themselves the model was as the policy asks, and what was short in the others."""
    if not model.weeks:
        return ""
    met = sum(week.is_met for week in model.weeks)
    missed = ", ".join(_missed(week) for week in model.weeks if not week.is_met)
    not_so = f"; not so {missed}" if missed else ""
    return (
        f" Of the {len(model.weeks)} weeks each by itself {met} were as asked, and the policy asks for "
        f"{model.weeks_asked}{not_so}."
    )


def _missed(week: JudgedWeek) -> str:
    if week.recall is None or week.least_recall is None:
        why = "nobody left"
    elif week.recall < week.least_recall:
        why = f"{week.recall:.1%} found, {week.least_recall:.1%} asked"
    else:
        why = "ranked worse than asked"
    return f"{week.as_of:%-d %B %Y} ({why})"


def calibration_text(model: ServingModel) -> str:
    """What "expected to leave" turned out to mean where the model was judged; empty where nobody knows."""
    found = model.expected_per_left
    if found.value is None or found.low is None or found.high is None:
        return ""
    leaning = (
        "come out too low" if found.high < 1 else "come out too high" if found.low > 1 else "are right on the whole"
    )
    return (
        f"For each of these customers who left, the probabilities had expected {found.value:.2f} to leave "
        f"({found.low:.2f} to {found.high:.2f}): they {leaning}."
    )


def watched_text(
    watched: Sequence[Measurement], is_retrain: bool | None, catalogue: Catalogue = CATALOGUE
) -> list[str]:
    """What monitoring says of the week, a sentence each, and whether the model should be trained again."""
    alarms = [each for each in watched if each.is_alarm]
    sentences = [alarm_text(alarm, catalogue) for alarm in alarms] or [calm_text(watched, catalogue)]
    if is_retrain is not None:
        sentences.append("The model should be trained again." if is_retrain else "The model need not be trained again.")
    return sentences


def calm_text(watched: Sequence[Measurement], catalogue: Catalogue = CATALOGUE) -> str:
    """That the customers are like those the model learned from, with what is nearest to its limit."""
    compared = [(each.value / each.limit_warn, each) for each in watched if each.metric is Metric.PSI and each.value]
    if not compared:
        return "This week's customers were not compared with those the model learned from."
    share, nearest = max(compared, key=lambda each: each[0])
    what = "the probabilities of leaving" if nearest.subject == SCORE else _meaning(nearest.subject, catalogue)
    return (
        "This week's customers, and their probabilities, differ from those the model learned from by no more than is "
        "allowed for what its weeks differ by among themselves. "
        f"Nearest to its limit, at {int(100 * share)}% of it: {what}."
    )


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
        Metric.ESTIMATED_RECALL: f"By the probabilities, of this week's customers who will leave the share that is "
        f"called at risk: {figures} asks for at least {alarm.limit_warn:.1%}.",
        Metric.ESTIMATED_PRECISION: f"By the probabilities, of those called at risk this week the share that will "
        f"leave: {figures} asks for at least {alarm.limit_warn:.1%}.",
        Metric.REALISED_RECALL: f"Of this week's customers who left, the share that was called at risk: {figures} asks "
        f"for at least {alarm.limit_warn:.1%}.",
        Metric.REALISED_PRECISION: f"Of those called at risk this week, the share that left: {figures} asks for at "
        f"least {alarm.limit_warn:.1%}.",
    }[alarm.metric]


def _meaning(subject: str, catalogue: Catalogue) -> str:
    feature = catalogue.of.get(subject)
    return subject if feature is None else feature.meaning

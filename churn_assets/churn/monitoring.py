"""What is watched of each scored week and which limits it keeps; whether that asks for a retraining. Reads no table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from functools import partial, reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.columns import Column, arrow_schema
from churn_assets.churn.drift import (
    SCORE,
    STRIDE,
    TENURE,
    UNSEEN,
    BinCounts,
    Profile,
    allowed_stability,
    binned,
    chance_stability,
    compared,
    counted,
    population_stability,
)
from churn_assets.churn.evaluation import BUDGET_TOLERANCE, Alerted
from churn_assets.churn.expectation import NOTHING_FORETOLD, expected, is_alert_step, step_of
from churn_assets.churn.intervals import Estimate, share, share_difference
from churn_assets.churn.outcomes import Figure, told_apart
from churn_assets.churn.policy import ChurnPolicy, Monitoring
from churn_assets.churn.recalibration import Calibration

# What became of whoever was scored is counted as the bins of a subject of its own; that of an alert is ALERTED higher.
OUTCOME = "outcome"
# And so are the scores, as `expectation.py` wants them.
STEP = "step"
UNKNOWN, STAYED, LEFT, ALERTED = range(4)
# Why a week's recall and precision are not estimated.
UNRECORDED = (
    "the version records no calibration: it was judged before there was one, or by customers who tell nothing of its "
    "scores; a version that is trained and judged now has one"
)
NOBODY_ALERTED = "nobody was alerted"


class Metric(StrEnum):
    """What is measured. psi is of each feature and of the score; the estimated ones are of the probabilities alone, the
    realised ones of the labels, once they are known."""

    PSI = "psi"
    ALERT_SHARE = "alert_share"
    UNSEEN_SEGMENT_SHARE = "unseen_segment_share"
    ESTIMATED_RECALL = "estimated_recall"
    ESTIMATED_PRECISION = "estimated_precision"
    REALISED_RECALL = "realised_recall"
    REALISED_PRECISION = "realised_precision"


ESTIMATED = (Metric.ESTIMATED_RECALL, Metric.ESTIMATED_PRECISION)
# Those that have a least value; the others have a largest.
AT_LEAST = (*ESTIMATED, Metric.REALISED_RECALL, Metric.REALISED_PRECISION)


class Status(StrEnum):
    """OK: within the first limit; WARN: beyond it; FAIL: beyond the second."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    NOT_YET_KNOWN = "not_yet_known"
    NOT_ESTIMATED = "not_estimated"


@dataclass(frozen=True)
class Measurement:
    """One figure of one scored week; see MEASUREMENT_SCHEMA.

    subject: the feature of a psi, or "score"; which of several categories; else empty. low, high: the confidence
    interval of a share. rows: what the figure is of. is_in_sample: the version has learned from the outcomes of this
    date, so its figures flatter it. reason: why nothing could be estimated; else empty.
    """

    as_of: date
    model_version: str
    metric: Metric
    subject: str
    value: float | None
    low: float | None
    high: float | None
    rows: int
    limit_warn: float
    limit_fail: float
    is_in_sample: bool
    status: Status
    reason: str = ""

    @property
    def is_known(self) -> bool:
        return self.status not in (Status.NOT_YET_KNOWN, Status.NOT_ESTIMATED)

    @property
    def name(self) -> str:
        return f"{self.metric.value} of {self.subject}" if self.subject else self.metric.value

    @property
    def is_alarm(self) -> bool:
        return self.status in (Status.WARN, Status.FAIL)

    @property
    def description(self) -> str:
        """The figure in words, with the limit it went beyond or has to keep."""
        if self.value is None:
            return f"{self.name} {self._absent}"
        bound = "least" if self.metric in AT_LEAST else "limit"
        limit = self.limit_fail if self.status is Status.FAIL else self.limit_warn
        interval = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        in_sample = ", in sample" if self.is_in_sample else ""
        found, allowed = told_apart(self.value, limit, ".3f")
        return f"{self.name} {found}{interval}, {bound} {allowed}, version {self.model_version}{in_sample}"

    @property
    def _absent(self) -> str:
        return f"not estimated: {self.reason}" if self.status is Status.NOT_ESTIMATED else "not yet known"

    @property
    def allowed(self) -> str:
        if self.metric in ESTIMATED:
            return f"at least {self.limit_warn:.3f}; with its whole interval below that a warning"
        if self.metric in AT_LEAST:
            return f"at least {self.limit_warn:.3f}; with its whole interval below that an error"
        if self.low is not None:
            beyond = f"with its whole interval beyond that a warning, beyond {self.limit_fail:.3f} an error"
            return f"at most {self.limit_warn:.3f}; {beyond}"
        return f"at most {self.limit_warn:.3f}; beyond {self.limit_fail:.3f} an error"

    @property
    def figure(self) -> Figure:
        """Beside its first limit."""
        if self.value is None:
            return Figure(self.key, self.name, self._absent, self.allowed, is_met=True, limit=self.limit_warn)
        found, _ = told_apart(self.value, self.limit_warn, ".3f")
        interval = "" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"
        return Figure(
            self.key, self.name, found, self.allowed, not self.is_alarm, self.value, self.limit_warn, interval
        )

    @property
    def key(self) -> str:
        return f"{self.metric.value}_{self.subject}" if self.subject else self.metric.value

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"metric": self.metric.value, "status": self.status.value}

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Measurement":
        # A table of an earlier version of this project has no reason.
        own = {"reason": ""} | {name: row[name] for name in MEASUREMENT_SCHEMA.names if name in row}
        return Measurement(**own | {"metric": Metric(row["metric"]), "status": Status(row["status"])})


MEASUREMENT_COLUMNS = (
    Column("as_of", "date", "the scored week"),
    Column("model_version", "string", "the version that scored it"),
    Column("metric", "string", "what is measured"),
    Column("subject", "string", "the feature of a psi, or score; the category of several; else empty"),
    Column("value", "double", "the figure; null where it is not yet known or undefined"),
    Column("low", "double", "lower end of a share's confidence interval"),
    Column("high", "double", "upper end"),
    Column("rows", "long", "customers, alerts or churners the figure is of"),
    Column(
        "limit_warn",
        "double",
        "beyond it the status is warn; psi: the policy's, what chance gives, what training weeks differed by",
    ),
    Column("limit_fail", "double", "beyond it the status is fail"),
    Column("is_in_sample", "boolean", "the version learned from this date's outcomes, so the figures flatter it"),
    Column("status", "string", "ok, warn, fail, not_yet_known or not_estimated"),
    Column("reason", "string", "why nothing could be estimated; else empty"),
)
MEASUREMENT_SCHEMA = arrow_schema(MEASUREMENT_COLUMNS)


@dataclass(frozen=True)
class ServedWeek:
    """What was served for one as-of date, and what came of it among the customers whose label is known."""

    as_of: date
    model_version: str
    customers: int
    alerts: int
    labelled: int
    churners: int
    labelled_alerts: int
    caught: int


def watched(
    scores: DataFrame,
    panel: DataFrame,
    versions: Mapping[date, str],
    known: Sequence[Profile],
    window_days: float | None = None,
) -> tuple[list[ServedWeek], Mapping[tuple[date, str], BinCounts]]:
    """The served weeks by rising date, and the rows by bin of each date and subject, from one Spark query.

    In: `scores`, customer_id, as_of, churn_probability and is_alert as served; `panel`, customer_id, as_of, features
    and label; the version that scored each date, for a week is scored as a whole; the profiles of these versions, in
    whose bins the dates are counted. window_days: of the observation window, where customers are compared with those
    who were there for as much of it; then the panel has tenure_days.
    """
    if not versions:
        return [], {}
    parts = [_outcomes(scores, panel), _steps(scores)]
    scored = scores.select("customer_id", "as_of", F.col("churn_probability").alias(SCORE))
    if window_days is not None:
        scored = scored.join(panel.select("customer_id", "as_of", TENURE), ["customer_id", "as_of"], "left")
    for version in sorted(set(versions.values())):
        is_of_version = F.col("as_of").isin([day for day, of_day in versions.items() if of_day == version])
        bins = {profile.subject: profile.bins for profile in known if profile.model_version == version}
        in_panel = {subject: of for subject, of in bins.items() if subject in panel.columns}
        parts += [
            binned(rows.where(is_of_version), of, window_days)
            for rows, of in ((panel, in_panel), (scored, {SCORE: bins[SCORE]} if bins else {}))
            if of
        ]
    counts = dict(counted(reduce(DataFrame.unionByName, parts)))
    return [_served_week(day, versions[day], counts.pop((day, OUTCOME), {})) for day in sorted(versions)], counts


def _outcomes(scores: DataFrame, panel: DataFrame) -> DataFrame:
    """(as_of, subject, bin) of each score: whether it is an alert, and what became of the customer, as one number."""
    labels = panel.select("customer_id", "as_of", "label")
    rows = scores.select("customer_id", "as_of", "is_alert").join(labels, ["customer_id", "as_of"], "left")
    became = F.when(F.col("label") == 1.0, LEFT).when(F.col("label").isNotNull(), STAYED).otherwise(UNKNOWN)
    number = became + F.when(F.col("is_alert"), ALERTED).otherwise(0)
    return rows.select("as_of", F.lit(OUTCOME).alias("subject"), number.alias("bin"))


def _steps(scores: DataFrame) -> DataFrame:
    """(as_of, subject, bin) of each score: what is needed of it to tell what its alerts will turn out to be."""
    step = step_of(F.col("churn_probability"), F.col("is_alert"))
    return scores.select("as_of", F.lit(STEP).alias("subject"), step.alias("bin"))


def _served_week(as_of: date, version: str, outcomes: BinCounts) -> ServedWeek:
    alerts = {became: outcomes.get(became + ALERTED, 0) for became in (UNKNOWN, STAYED, LEFT)}
    everyone = {became: rows + outcomes.get(became, 0) for became, rows in alerts.items()}
    return ServedWeek(
        as_of,
        version,
        customers=sum(everyone.values()),
        alerts=sum(alerts.values()),
        labelled=everyone[STAYED] + everyone[LEFT],
        churners=everyone[LEFT],
        labelled_alerts=alerts[STAYED] + alerts[LEFT],
        caught=alerts[LEFT],
    )


def measurements(
    weeks: Sequence[ServedWeek],
    counts: Mapping[tuple[date, str], BinCounts],
    known: Sequence[Profile],
    policy: ChurnPolicy,
    calibrations: Mapping[str, Calibration | str],
    alerted: Mapping[str, Alerted | None],
) -> list[Measurement]:
    """Every figure of every served week. counts: of each date and subject in the bins of the version that scored it.

    known: the profiles of every version that scored a week. calibrations: of each of these versions what its scores
    meant on customers that it never saw, or why nobody knows. alerted: whom each one's threshold alerted of those it
    was chosen on, None where nobody knows.
    """
    figures: list[Measurement] = []
    categories = [feature.name for feature in policy.catalogue.features if feature.kind == "category"]
    for week in weeks:
        of_version = [profile for profile in known if profile.model_version == week.model_version]
        is_in_sample = week.as_of <= max(profile.trained_until for profile in of_version)
        measure = partial(
            Measurement, as_of=week.as_of, model_version=week.model_version, is_in_sample=is_in_sample, subject=""
        )
        # All subjects of a date together raise a false alarm no more often than the policy says (Bonferroni).
        confidence = 1 - (1 - policy.monitoring.confidence) / len(of_version)
        for profile in of_version:
            actual = counts.get((week.as_of, profile.subject), {})
            figures.append(_stability(measure, profile, actual, policy.monitoring, confidence))
        figures += [
            *_unseen_shares(measure, {name: counts.get((week.as_of, name), {}) for name in categories}, policy),
            _alert_share(measure, week, alerted.get(week.model_version), policy),
            *_estimated(
                measure, counts.get((week.as_of, STEP), {}), calibrations.get(week.model_version, UNRECORDED), policy
            ),
            *_realised(measure, week, policy),
        ]
    return figures


Measure = Callable[..., Measurement]


def _stability(
    measure: Measure, profile: Profile, actual: BinCounts, limits: Monitoring, confidence: float
) -> Measurement:
    """The index, with limits that lie beyond what a single training date gave.

    The training data are a mixture of weeks, calm ones and a crisis, and each of them differs from the mixture. A week
    like one of them is no news to the version: it has learned from it. Measured in docs/decisions/0010.
    """
    expected, observed = compared(profile.counts, profile.customers, actual)
    chance = chance_stability(expected, observed, confidence)
    warn, fail = (allowed_stability(profile.spread, chance, limit) for limit in (limits.warn_psi, limits.fail_psi))
    value = population_stability(expected, observed) if actual else None
    return measure(
        metric=Metric.PSI,
        subject=profile.subject,
        value=value,
        low=None,
        high=None,
        rows=sum(actual.values()),
        limit_warn=warn,
        limit_fail=fail,
        status=_status(value, warn, fail),
    )


def _unseen_shares(measure: Measure, counts: Mapping[str, BinCounts], policy: ChurnPolicy) -> list[Measurement]:
    """That of each category; of one alone nobody has to be told which it is."""
    return [
        _unseen_share(partial(measure, subject=name if len(counts) > 1 else ""), actual, policy)
        for name, actual in counts.items()
    ]


def _unseen_share(measure: Measure, actual: BinCounts, policy: ChurnPolicy) -> Measurement:
    """The share in segments that the training data do not have; an alarm needs an interval wholly beyond the limit."""
    rows, limits = sum(actual.values()), policy.monitoring
    unseen = sum(number for place, number in actual.items() if place % STRIDE == UNSEEN)
    estimate = share(unseen, rows, policy.gate.confidence)
    warn, fail = limits.warn_unseen_segments, limits.fail_unseen_segments
    return measure(
        metric=Metric.UNSEEN_SEGMENT_SHARE,
        **asdict(estimate),
        rows=rows,
        limit_warn=warn,
        limit_fail=fail,
        status=_status(estimate.low, warn, fail),
    )


def _alert_share(measure: Measure, week: ServedWeek, chosen: Alerted | None, policy: ChurnPolicy) -> Measurement:
    """The share alerted, with the interval of it as a figure of the threshold: an alarm needs it wholly beyond a limit.

    The threshold keeps the budget on the customers it was chosen on, of `chosen.customers`; of others like them it
    alerts another share by chance, as it alerts another of each week's. So the interval is that of the difference of
    two shares (`share_difference`), laid at the week's own; of the week's alone where nobody knows whom the threshold
    was chosen on. Lists keep within the budget by themselves.
    """
    value, confidence = week.alerts / week.customers, policy.gate.confidence
    if chosen is None:
        estimate = share(week.alerts, week.customers, confidence)
    else:
        difference, low, high = share_difference(
            week.alerts, week.customers, chosen.alerts, chosen.customers, confidence
        )
        estimate = Estimate(value, max(0.0, value + low - difference), min(1.0, value + high - difference))
    warn, fail = (policy.alerts.budget * times for times in (BUDGET_TOLERANCE, policy.monitoring.fail_budget_multiple))
    return measure(
        metric=Metric.ALERT_SHARE,
        **asdict(estimate),
        rows=week.customers,
        limit_warn=warn,
        limit_fail=fail,
        status=_status(estimate.low, warn, fail),
    )


def _status(value: float | None, warn: float, fail: float) -> Status:
    if value is None:
        return Status.NOT_YET_KNOWN
    return Status.FAIL if value > fail else Status.WARN if value > warn else Status.OK


def _estimated(
    measure: Measure, steps: BinCounts, calibration: Calibration | str, policy: ChurnPolicy
) -> list[Measurement]:
    """Recall and precision as the probabilities foretell them: with its whole interval below the minimum one warns.

    None fails, and so none asks for a retraining: an estimate is no fact, and the labels are on their way.
    """
    gate = policy.gate
    foretold = NOTHING_FORETOLD if isinstance(calibration, str) else expected(steps, calibration, gate.confidence)
    least_recall = policy.least_recall(foretold.churn_rate or 1.0)
    why_not = calibration if isinstance(calibration, str) else NOBODY_ALERTED
    alerts = sum(rows for step, rows in steps.items() if is_alert_step(step))
    figures = (
        (Metric.ESTIMATED_RECALL, foretold.recall, sum(steps.values()), least_recall),
        (Metric.ESTIMATED_PRECISION, foretold.precision, alerts, gate.precision_floor),
    )
    return [
        measure(
            metric=metric,
            **asdict(estimate),
            rows=rows,
            limit_warn=least,
            limit_fail=least,
            status=_status_of_estimate(estimate, least),
            reason=why_not if estimate.value is None else "",
        )
        for metric, estimate, rows, least in figures
    ]


def _status_of_estimate(estimate: Estimate, least: float) -> Status:
    if estimate.high is None:
        return Status.NOT_ESTIMATED
    return Status.WARN if estimate.high < least else Status.OK


def _realised(measure: Measure, week: ServedWeek, policy: ChurnPolicy) -> list[Measurement]:
    """Recall and precision of what was served: below the gate's minimum warns, with its whole interval below fails."""
    gate = policy.gate
    # Without a churner there is no recall, whatever is asked.
    churn_rate = week.churners / week.labelled if week.churners else 1.0
    figures = (
        (Metric.REALISED_RECALL, week.churners, policy.least_recall(churn_rate)),
        (Metric.REALISED_PRECISION, week.labelled_alerts, gate.precision_floor),
    )
    return [
        _realised_share(measure, metric, share(week.caught, trials, gate.confidence), trials, least)
        for metric, trials, least in figures
    ]


def _realised_share(measure: Measure, metric: Metric, estimate: Estimate, rows: int, least: float) -> Measurement:
    status = Status.NOT_YET_KNOWN
    if estimate.value is not None and estimate.high is not None:
        status = Status.FAIL if estimate.high < least else Status.WARN if estimate.value < least else Status.OK
    return measure(metric=metric, **asdict(estimate), rows=rows, limit_warn=least, limit_fail=least, status=status)

"""Judging scores: the threshold for the team's capacity, the figures with intervals, the verdict with its reasons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from churn_assets.churn.intervals import (
    UNDEFINED,
    Estimate,
    Floats,
    bootstrap,
    percentile_interval,
    share,
    share_of_groups,
    widest_wilson_interval,
)
from churn_assets.churn.leakage import LeakageCanary, single_feature_aucs
from churn_assets.churn.outcomes import Figure, told_apart
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.profit import Earnings, Profit, profit_of
from churn_assets.churn.ranking import DatedRanking
from churn_assets.churn.recalibration import Calibration, calibration_of, expected_over_observed

# The alert share of the judged customers may exceed the budget by this factor: the threshold was chosen on others.
BUDGET_TOLERANCE = 1.1
CHALLENGER, RULE, ORDER_COUNT, CHAMPION = "challenger", "rule", "total_orders", "champion"
# Stands in for the rule where there is none: the one feature that ranks the judged customers best.
SINGLE_FEATURE = "single_feature"
# The chance of no purchase by BG/NBD (`purchase_model`), which learns from no label.
PURCHASES = "purchase_model"
# The criteria that ask whether the scores are probabilities.
CALIBRATION_KEYS = EXPECTED_OVER_OBSERVED, CALIBRATION_SLOPE = "expected_over_observed", "calibration_slope"
# (score, label, rows) for each pair that occurs: all that a threshold needs, however many rows there are.
# The label is None where nobody knows it yet.
ScoreCounts = Sequence[tuple[float, float | None, int]]
# The scores of customers, and what contacting each earned; an entry each, in an order that is always the same.
ScoreProfits = tuple[Floats, Floats]


class Verdict(Enum):
    """Only PASS opens a gate."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_EVALUABLE = "NOT_EVALUABLE"


@dataclass(frozen=True)
class Alerted:
    """Of so many customers, how many a threshold alerted on the day that it was chosen for."""

    alerts: int
    customers: int

    @staticmethod
    def of(alert_share: float, customers: float) -> "Alerted":
        return Alerted(round(alert_share * customers), round(customers))


@dataclass(frozen=True)
class Threshold:
    """A cut-off, the shares of validation churners it finds and of its alerts that are right, and the share of current
    customers, of so many, that it alerts.

    profit: what it earns per validation customer, in the currency of the orders; None where it was not chosen by that.
    """

    value: float
    recall: float
    precision: float
    alert_share: float
    current_customers: int
    profit: float | None = None


@dataclass(frozen=True)
class Scored:
    """The judged customers, one row each, in an order that is the same whenever the rows are.

    Of a backtest those of all its dates, each date's scored by a model made for it; see `judged.backtest_scores`.

    scores: the challenger's; is_alert: at or above its threshold. rivals: other scores of the same customers, higher is
    riskier. champion: its scores where `is_unseen`, which are the customers no model of this split ever learned from.
    features: what the challenger sees. slices: name -> the part of the customers that each row belongs to. earnings:
    what contacting each earns; None where the policy has no [economics].
    dates: the as-of date of each row, where there are several. customers: the number of each row's customer, 0 to
    n - 1, where one may have several rows; then the rows of a customer follow each other by date.
    """

    labels: Floats
    scores: Floats
    is_alert: NDArray[np.bool_]
    rivals: Mapping[str, Floats]
    features: Mapping[str, Floats]
    slices: Mapping[str, NDArray[np.str_]]
    is_unseen: NDArray[np.bool_]
    champion: Floats | None = None
    dates: NDArray[np.datetime64] | None = None
    customers: NDArray[np.intp] | None = None
    earnings: Earnings | None = None

    def only(self, chosen: NDArray[np.bool_]) -> "Scored":
        """The chosen rows; where all are of one date, of one customer each."""
        dates = None if self.dates is None else self.dates[chosen]
        is_dated = dates is not None and len(np.unique(dates)) > 1
        return Scored(
            self.labels[chosen],
            self.scores[chosen],
            self.is_alert[chosen],
            {name: scores[chosen] for name, scores in self.rivals.items()},
            {name: values[chosen] for name, values in self.features.items()},
            {name: parts[chosen] for name, parts in self.slices.items()},
            self.is_unseen[chosen],
            None if self.champion is None else self.champion[chosen],
            dates if is_dated else None,
            np.unique(self.customers[chosen], return_inverse=True)[1]
            if is_dated and self.customers is not None
            else None,
            None if self.earnings is None else self.earnings.only(chosen),
        )

    def by_date(self) -> "list[tuple[date, Scored]]":
        """The rows of each date apart; none where there are no dates to tell."""
        if self.dates is None:
            return []
        return [(day.astype(date), self.only(self.dates == day)) for day in np.unique(self.dates)]

    def within_dates(self, scores: Floats) -> Floats:
        """The scores by their place among those of the same date (0 to 1), where there are several dates."""
        if self.dates is None:
            return scores
        found = np.empty(len(scores))
        for day in np.unique(self.dates):
            of_day = np.sort(scores[self.dates == day])
            found[self.dates == day] = np.searchsorted(of_day, scores[self.dates == day]) / len(of_day)
        return found

    def one_row_each(self) -> "Scored":
        """Of each customer the first row: what takes rows for independent of each other asks these alone.

        Not the last: whoever left does not come again, so that the last rows of earlier dates are mostly theirs.
        """
        if self.customers is None:
            return self
        return replace(self.only(np.append(True, np.diff(self.customers) != 0)), customers=None)


def attainable_recall(alerts: int, churners: int) -> float | None:
    """The recall (0 to 1) of a perfect ranking with as many alerts; None without churners."""
    return min(1.0, alerts / churners) if churners else None


@dataclass(frozen=True)
class Figures:
    """What the alerts do on a set of rows. Shares and areas are 0 to 1; each has its interval (see `figures`).

    attainable_recall: what a perfect ranking with as many alerts finds.
    lift: precision over prevalence. pr_auc, roc_auc: of the ranking, threshold or not. brier: mean squared error of the
    scores as probabilities (Brier, Monthly Weather Review 78, 1950), 0 is perfect.
    """

    rows: int
    churners: int
    alerts: int
    caught: int
    prevalence: float | None
    recall: Estimate
    precision: Estimate
    alert_share: Estimate
    lift: Estimate
    pr_auc: Estimate
    roc_auc: Estimate
    brier: Estimate

    @property
    def attainable_recall(self) -> float | None:
        return attainable_recall(self.alerts, self.churners)

    def flat(self) -> dict[str, float | int | None]:
        """Each figure by its name, its interval as name_low and name_high."""
        shown: dict[str, float | int | None] = {"attainable_recall": self.attainable_recall}
        for field in fields(self):
            figure = getattr(self, field.name)
            if isinstance(figure, Estimate):
                shown |= {field.name: figure.value, f"{field.name}_low": figure.low, f"{field.name}_high": figure.high}
            else:
                shown[field.name] = figure
        return shown


@dataclass(frozen=True)
class Slice:
    """The figures of a part of the customers; `is_judgeable` is False where its churners are too few to conclude."""

    slice: str
    part: str
    is_judgeable: bool
    figures: Figures


@dataclass(frozen=True)
class Comparison:
    """Another score on the same customers. difference: PR-AUC of the challenger minus the other's, paired.

    recall, challenger_recall: of the other's as many highest scores, and of the challenger's alerts.
    """

    rival: str
    rows: int
    pr_auc: float | None = None
    challenger_pr_auc: float | None = None
    difference: Estimate = UNDEFINED
    recall: float | None = None
    challenger_recall: float | None = None


@dataclass(frozen=True)
class JudgedDate:
    """One date of a backtest, with the customers who were judged there.

    is_own: whether the version itself was judged there; at the other dates models were that were made as it was.
    least_recall: what the recall has to reach there. missed: what the observed figures fall short of, in words.
    """

    as_of: date
    is_own: bool
    figures: Figures
    comparisons: tuple[Comparison, ...]
    least_recall: float | None
    missed: tuple[str, ...]

    @property
    def is_met(self) -> bool:
        return not self.missed

    @property
    def strongest(self) -> Comparison | None:
        """The comparison with the rival that came closest there, or was ahead."""
        name = strongest_rival({other.rival: other.difference.value for other in self.comparisons})
        return next((other for other in self.comparisons if other.rival == name), None)


@dataclass(frozen=True)
class Evaluation:
    """The verdict, each reason for it, what else to know, and the figures it rests on.

    criteria: what the gate asks, each beside what was found, unless nothing could be decided. calibration: what the
    scores meant on the judged customers, for the weeks that the model will score; None where that cannot be told.
    single_features: what the model gains over each of WARNED_OF alone; the warnings are of those that it does not
    surely beat. dates: of a backtest, each date by itself, rising. profit: what contacts earn, of a backtest at the
    version's own date; None where the policy has no [economics].
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    figures: Figures
    slices: tuple[Slice, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    leakage: tuple[LeakageCanary, ...] = ()
    criteria: tuple[Figure, ...] = ()
    calibration: Calibration | None = None
    single_features: tuple[Figure, ...] = ()
    dates: tuple[JudgedDate, ...] = ()
    profit: Profit | None = None


def choose_threshold(
    validation: ScoreCounts, current: ScoreCounts, policy: ChurnPolicy, earned: ScoreProfits | None = None
) -> Threshold | None:
    """The cut-off of highest recall that keeps alerts within the budget and precision at or above the floor; or, with
    alerts.threshold_by = "profit", of highest profit.

    validation: the validation rows, for recall and precision. earned: of these rows, where the policy asks for profit.
    current: the scores of the snapshot the model will serve, whose labels nobody knows yet, for the share of customers
    alerted: a cut-off that keeps the budget on past weeks alerted 35 % or 8 % of the test week against a budget of 20 %
    (docs/decisions/0002). An alert is a score at or above the cut-off. None if no cut-off satisfies both, if there is
    no churner to find, or if none of them earns anything.
    """
    scores, positives, totals = _by_falling_score(validation)
    if not len(scores) or not len(current) or positives.sum() == 0:
        return None
    caught, alerts = positives.cumsum(), totals.cumsum()
    alert_share = _share_at_or_above(scores, current)
    allowed = np.flatnonzero((alert_share <= policy.alerts.budget) & (caught / alerts >= policy.gate.precision_floor))
    if not len(allowed):
        return None
    profits = None if policy.alerts.threshold_by == "recall" else _earned_at_or_above(scores, earned)
    # Recall only grows along the falling scores; of equal recall, or profit, the fewest alerts.
    best = allowed[np.argmax((caught if profits is None else profits)[allowed])]
    if profits is not None and not profits[best] > 0:
        return None
    return Threshold(
        value=float(scores[best]),
        recall=float(caught[best] / positives.sum()),
        precision=float(caught[best] / alerts[best]),
        alert_share=float(alert_share[best]),
        current_customers=int(sum(rows for _, _, rows in current)),
        profit=None if profits is None else float(profits[best] / totals.sum()),
    )


def _earned_at_or_above(thresholds: Floats, earned: ScoreProfits | None) -> Floats:
    """What the contacts at or above each of the falling `thresholds` earned together."""
    assert earned is not None, "the policy asks for profit, and the caller says what is earned"
    scores, profits = earned
    order = np.argsort(-scores, kind="stable")
    sums = np.append(0.0, profits[order].cumsum())
    return sums[np.searchsorted(-scores[order], -thresholds, side="right")]


def _share_at_or_above(thresholds: Floats, counts: ScoreCounts) -> Floats:
    rising, rows = np.array(
        [(score, rows) for score, _, rows in sorted(counts, key=lambda counted: counted[0])], dtype=float
    ).T
    below = np.concatenate([[0.0], rows.cumsum()])[np.searchsorted(rising, thresholds, side="left")]
    # Not 1 - below / all: 1 - 0.7 is more than 0.3, and a budget used up exactly would be refused.
    return (rows.sum() - below) / rows.sum()


def _by_falling_score(counts: ScoreCounts) -> tuple[Floats, Floats, Floats]:
    """Distinct scores, falling, with the churners and the rows at each."""
    if not counts:
        return np.array([]), np.array([]), np.array([])
    table = np.array(counts, dtype=float)
    scores, place = np.unique(-table[:, 0], return_inverse=True)
    positives = np.bincount(place, weights=table[:, 1] * table[:, 2]).astype(np.float64)
    return -scores, positives, np.bincount(place, weights=table[:, 2]).astype(np.float64)


def figures(
    labels: Floats,
    scores: Floats,
    is_alert: NDArray[np.bool_],
    confidence: float,
    *,
    dates: NDArray[np.datetime64] | None = None,
    customers: NDArray[np.intp] | None = None,
) -> Figures:
    """The figures of these rows. Intervals: Wilson for shares, percentiles of resampled customers for the rest.

    dates, customers: as `Scored`. Rankings are those of each date; a customer is resampled with all rows.
    """
    rows, churners, alerts = len(labels), int(labels.sum()), int(is_alert.sum())
    caught = int(labels[is_alert].sum())
    return Figures(
        rows=rows,
        churners=churners,
        alerts=alerts,
        caught=caught,
        prevalence=churners / rows if rows else None,
        **_shares(labels, is_alert, confidence, customers),
        **_resampled(labels, scores, is_alert, confidence, dates=dates, customers=customers),
    )


def _figures(scored: Scored, confidence: float) -> Figures:
    return figures(
        scored.labels,
        scored.scores,
        scored.is_alert,
        confidence,
        dates=scored.dates,
        customers=scored.customers,
    )


def _shares(
    labels: Floats, is_alert: NDArray[np.bool_], confidence: float, customers: NDArray[np.intp] | None
) -> dict[str, Estimate]:
    if customers is None:
        rows, churners, alerts = len(labels), int(labels.sum()), int(is_alert.sum())
        caught = int(labels[is_alert].sum())
        return {
            "recall": share(caught, churners, confidence),
            "precision": share(caught, alerts, confidence),
            "alert_share": share(alerts, rows, confidence),
        }
    is_churner, is_row = labels == 1, np.ones(len(labels), dtype=bool)
    return {
        "recall": share_of_groups(is_alert, is_churner, customers, confidence),
        "precision": share_of_groups(is_churner, is_alert, customers, confidence),
        "alert_share": share_of_groups(is_alert, is_row, customers, confidence),
    }


def _resampled(
    labels: Floats,
    scores: Floats,
    is_alert: NDArray[np.bool_],
    confidence: float,
    *,
    dates: NDArray[np.datetime64] | None,
    customers: NDArray[np.intp] | None,
) -> dict[str, Estimate]:
    if not len(labels):
        return dict.fromkeys(("lift", "pr_auc", "roc_auc", "brier"), UNDEFINED)
    ranking, squared_error = DatedRanking.of(scores, labels, dates), (scores - labels) ** 2

    def lift(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = weights @ (labels * is_alert) / (weights @ is_alert)
            prevalence = weights @ labels / weights.sum(axis=1)
            return np.where(prevalence > 0, precision / prevalence, np.nan)

    statistics = {
        "lift": lift,
        "areas": ranking.both_areas,
        # Not by @: in which order BLAS adds depends on where the rows lie in memory, and the last digit with it.
        "brier": lambda weights: (weights * squared_error).sum(axis=1) / weights.sum(axis=1),
    }
    as_observed = np.ones((1, len(labels)))
    observed = _by_figure({name: statistic(as_observed) for name, statistic in statistics.items()})
    replicates = _by_figure(bootstrap(statistics, len(labels), customers))
    return {
        name: UNDEFINED
        if np.isnan(value[0])
        else Estimate(float(value[0]), *percentile_interval(replicates[name], confidence))
        for name, value in observed.items()
    }


def _by_figure(found: Mapping[str, Floats]) -> dict[str, Floats]:
    pr_auc, roc_auc = found["areas"]
    return {"lift": found["lift"], "pr_auc": pr_auc, "roc_auc": roc_auc, "brier": found["brier"]}


def slice_figures(scored: Scored, policy: ChurnPolicy) -> tuple[Slice, ...]:
    """The figures of each part of each slice; too few churners to bound the recall as the policy asks are named so."""
    slices = []
    for name, parts in scored.slices.items():
        for part in np.unique(parts):
            of_part = scored.only(parts == part)
            observed = _figures(of_part, policy.gate.confidence)
            width = widest_wilson_interval(_churners(of_part), policy.gate.confidence)
            slices.append(Slice(name, str(part), width <= policy.gate.max_recall_interval, observed))
    return tuple(slices)


def _churners(scored: Scored) -> int:
    """Customers who left, each once."""
    if scored.customers is None:
        return int(scored.labels.sum())
    return len(np.unique(scored.customers[scored.labels == 1]))


# Feature -> the direction in which it is riskier.
WARNED_OF = {"recency_days": 1.0, "total_orders": -1.0}


def compare(scored: Scored, policy: ChurnPolicy) -> tuple[tuple[Comparison, ...], tuple[Comparison, ...]]:
    """The challenger against each rival, and the champion if there is one, by paired resamples of the customers; and
    against each of WARNED_OF alone."""
    # By other names than rivals have: one is a rival too.
    alone = {f"{name} alone": name for name in WARNED_OF if name in scored.features}
    ranked = {key: WARNED_OF[name] * scored.features[name] for key, name in alone.items()}
    compared = _compared({**scored.rivals, **ranked}, scored, policy)
    comparisons = [compared[rival] for rival in scored.rivals]
    if scored.champion is not None:
        unseen = scored.only(scored.is_unseen)
        assert unseen.champion is not None
        comparisons += _compared({CHAMPION: unseen.champion}, unseen, policy).values()
    return tuple(comparisons), tuple(replace(compared[key], rival=name) for key, name in alone.items())


def _compared(rivals: Mapping[str, Floats], scored: Scored, policy: ChurnPolicy) -> dict[str, Comparison]:
    labels, is_alert = scored.labels, scored.is_alert
    rows = len(labels)
    if not 0 < labels.sum() < rows:
        return {rival: Comparison(rival, rows) for rival in rivals}
    rankings = {name: DatedRanking.of(scores, labels, scored.dates) for name, scores in rivals.items()}
    ours = DatedRanking.of(scored.scores, labels, scored.dates)
    # Together, so that every difference is of the same customers.
    areas = {name: each.average_precision for name, each in {**rankings, CHALLENGER: ours}.items()}
    drawn = bootstrap(areas, rows, scored.customers)
    as_observed = np.ones((1, rows))
    our_value = float(ours.average_precision(as_observed)[0])
    comparisons = {}
    for rival, ranking in rankings.items():
        value = float(ranking.average_precision(as_observed)[0])
        interval = percentile_interval(drawn[CHALLENGER] - drawn[rival], policy.gate.confidence)
        comparisons[rival] = Comparison(
            rival,
            rows,
            value,
            our_value,
            Estimate(our_value - value, *interval),
            recall=ranking.recall_of_highest(is_alert),
            challenger_recall=float(labels[is_alert].sum() / labels.sum()),
        )
    return comparisons


def judge(
    scored: Scored | None, policy: ChurnPolicy, *, has_threshold: bool, obstacles: Sequence[str] = ()
) -> Evaluation:
    """The gate: recall, precision and alerts against the policy, the rivals, and the leakage canaries.

    scored: None where nothing could be scored. has_threshold: whether a cut-off on validation satisfied the policy.
    obstacles: what kept the caller from preparing a fair judgement. What cannot be decided is NOT_EVALUABLE.
    """
    missing = [*obstacles, *(_missing(scored, policy) if scored is not None else ())]
    if scored is None or missing:
        shown = _nothing() if scored is None or _has_gaps(scored) else (scored.labels, scored.scores, scored.is_alert)
        nothing_said = ("nothing was scored",)
        reasons = (*(missing or nothing_said), *policy.catalogue.attestations)
        return Evaluation(Verdict.NOT_EVALUABLE, reasons, (), figures(*shown, policy.gate.confidence))
    observed = _figures(scored, policy.gate.confidence)
    comparisons, alone = compare(scored, policy)
    dates = tuple(_judged_dates(scored, comparisons, policy))
    canaries = _canaries(scored)
    # Of a backtest: what this version's own scores mean, and not those of the models of its other dates.
    own = scored if scored.dates is None else scored.only(scored.is_unseen)
    criteria = (
        *(_gate_criteria(observed, policy) if has_threshold else [_no_threshold(policy)]),
        *(_comparison_criterion(comparison, comparisons, policy) for comparison in comparisons),
        *_date_criteria(dates, policy),
        *_calibration_criteria(scored.one_row_each(), policy),
        *_leakage_criteria(_highest_roc_auc(observed, dates), canaries, policy),
    )
    judged = (reason(criterion, policy) for criterion in criteria)
    over_single = list(_over_single_features(alone))
    return Evaluation(
        Verdict.PASS if all(criterion.is_met for criterion in criteria) else Verdict.FAIL,
        (*judged, *policy.catalogue.attestations),
        tuple(warning for _, warning in over_single if warning),
        observed,
        slice_figures(scored, policy),
        comparisons,
        canaries,
        criteria,
        calibration_of(own.scores, own.labels),
        tuple(figure for figure, _ in over_single),
        dates,
        _profit(own, policy),
    )


def _profit(scored: Scored, policy: ChurnPolicy) -> Profit | None:
    if scored.earnings is None:
        return None
    return profit_of(scored.scores, scored.labels, scored.is_alert, scored.earnings, policy.gate.confidence)


MET = "met: "


def reason(criterion: Figure, policy: ChurnPolicy) -> str:
    """A criterion in one line."""
    return f"{MET if criterion.is_met else 'missed: '}{criterion.sentence(policy.gate.confidence)}"


# What helps where a criterion is missed, by what its key begins with.
REMEDIES = {
    "threshold": "a larger alerts.budget or a lower gate.precision_floor, if the team can work with it; with "
    'alerts.threshold_by = "profit" actions that cost less or keep more',
    "recall": "more weeks of orders, more features, or a lower gate.min_attainable_share (or min_recall), if the team "
    "can work with it; what is attainable is in docs/feasibility.md",
    "precision": "a smaller alerts.budget alerts the surest alone; or a lower gate.precision_floor",
    "alert_share": "the customers of the test week differ from the validation's; train again on a later week",
    "pr_auc_over_": "the model adds too little to that ranking on these data; more weeks of orders or more features "
    "(docs/add_a_feature.md) may, else go by that ranking",
    "expected_over_observed": "the churn rate of the training weeks is not that of the test week; train again on later "
    "weeks",
    "calibration_slope": "scores differ more, or less, than the customers do: smaller trees, or more weeks of orders",
    "dates_met": "it does well in some weeks alone, see the figures of each date; more weeks of orders to learn from, "
    "or more features",
    "own_date": "the models of other dates do not speak for this one; train again on a later week, or more features",
    "single_feature_roc_auc": "look at how that feature is computed: it tells the outcome; then mend it",
    "roc_auc": "look at the features: together they tell the outcome, as nothing that is known by then can",
}


def remedy(key: str) -> str:
    """What helps where the criterion of that key is missed; a further feature that tells the outcome has no key."""
    return next(text for begin, text in REMEDIES.items() if (key or "single_feature_roc_auc").startswith(begin))


def shortcomings(reasons: Sequence[str]) -> list[str]:
    """Those of a verdict's reasons that speak against the model."""
    return [each for each in reasons if not each.startswith(MET)]


def _nothing() -> tuple[Floats, Floats, NDArray[np.bool_]]:
    return np.array([]), np.array([]), np.array([], dtype=bool)


def _has_gaps(scored: Scored) -> bool:
    return not (np.isfinite(scored.scores).all() and np.isin(scored.labels, (0.0, 1.0)).all())


def _missing(scored: Scored, policy: ChurnPolicy) -> Iterator[str]:
    if not len(scored.labels):
        yield "there are no test rows"
        return
    if policy.gate.evaluation == "backtest":
        dates = 1 if scored.dates is None else len(np.unique(scored.dates))
        if dates < policy.gate.min_backtest_dates:
            yield few_dates(dates, policy)
    if not np.isin(scored.labels, (0.0, 1.0)).all():
        yield "some labels are unknown, or neither 0 nor 1"
    elif not scored.labels.any():
        yield "there is no churner among the test rows"
    elif scored.labels.all():
        yield "every test row is a churner"
    if not np.isfinite(scored.scores).all():
        yield "some scores are missing or NaN"
    compared = dict(scored.rivals)
    if scored.champion is not None:
        compared[CHAMPION] = scored.champion[scored.is_unseen]
    for name, scores in compared.items():
        if not np.isfinite(scores).all():
            yield f"some scores of {NAMES[name]} are missing or NaN"


def few_dates(dates: int, policy: ChurnPolicy) -> str:
    """Why no verdict is sought at so few dates."""
    return (
        f"dates to judge at, by which an outcome was known to learn from: {dates}; gate.min_backtest_dates asks for "
        f'{policy.gate.min_backtest_dates}; gate.evaluation = "crossfit" would judge at one'
    )


def _no_threshold(policy: ChurnPolicy) -> Figure:
    kept = f"alerts within {policy.alerts.budget:.0%} of customers, precision {policy.gate.precision_floor:.0%} or more"
    if policy.alerts.threshold_by == "profit":
        kept = f"{kept}, a profit"
    found = "none that keeps both" if policy.alerts.threshold_by == "recall" else "none that keeps all"
    return Figure("threshold", "threshold on the validation fold", found, kept, is_met=False)


def _gate_criteria(observed: Figures, policy: ChurnPolicy) -> list[Figure]:
    gate, allowed_alerts = policy.gate, policy.alerts.budget * BUDGET_TOLERANCE
    recall, low, high = (value or 0.0 for value in (observed.recall.value, observed.recall.low, observed.recall.high))
    precision, share_ = observed.precision.value or 0.0, observed.alert_share.value or 0.0
    # Nothing is judged without a churner.
    churn_rate = observed.churners / observed.rows
    attainable, least_recall = policy.attainable_recall(churn_rate), policy.least_recall(churn_rate)
    lower, least = told_apart(low, least_recall, ".3f")
    right, floor = told_apart(precision, gate.precision_floor, ".3f")
    alerts, most = told_apart(share_, allowed_alerts, ".1%")
    return [
        Figure(
            "recall",
            "recall",
            f"{recall:.3f}",
            f"at least {least} (lower end), {least_recall / attainable:.0%} of the {attainable:.3f} in budget",
            low >= least_recall,
            recall,
            least_recall,
            f"{lower} to {high:.3f}",
        ),
        Figure(
            "precision",
            "precision",
            right,
            f"at least {floor}",
            precision >= gate.precision_floor,
            precision,
            gate.precision_floor,
            _interval(observed.precision, ".3f"),
        ),
        Figure(
            "alert_share",
            "customers alerted",
            alerts,
            f"at most {most}",
            share_ <= allowed_alerts,
            share_,
            allowed_alerts,
            _interval(observed.alert_share, ".1%"),
        ),
    ]


def _interval(estimate: Estimate, form: str) -> str:
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:{form}} to {estimate.high:{form}}"


NAMES = {
    RULE: "the retention team's rule",
    SINGLE_FEATURE: "the best single feature",
    ORDER_COUNT: "the count of orders alone",
    PURCHASES: "the purchase model",
    CHAMPION: "the champion",
}


def strongest_rival(differences: Mapping[str, float | None]) -> str | None:
    """The rival that comes closest to the challenger, or is furthest above it; None where nothing could be compared.

    differences: PR-AUC of the challenger minus each rival's, in the order in which they were compared.
    """
    known = {rival: difference for rival, difference in differences.items() if difference is not None}
    return min(known, key=lambda rival: known[rival], default=None)


def _needed(rival: str, all_: Sequence[Comparison], policy: ChurnPolicy) -> tuple[bool, float]:
    """Whether the challenger must gain over a rival, and the difference of PR-AUC that this, or its margin, is.

    The first champion must gain over the rule, or without one over the best single feature. Beyond that, no rival may
    be better by more than the margin.
    """
    is_first = all(other.rival != CHAMPION for other in all_)
    has_to_gain = is_first and rival in (RULE, SINGLE_FEATURE)
    return has_to_gain, policy.gate.min_gain_over_rule if has_to_gain else -policy.gate.max_shortfall


def _comparison_criterion(comparison: Comparison, all_: Sequence[Comparison], policy: ChurnPolicy) -> Figure:
    has_to_gain, needed = _needed(comparison.rival, all_, policy)
    strongest = strongest_rival({other.rival: other.difference.value for other in all_})
    key, what = f"pr_auc_over_{comparison.rival}", f"PR-AUC over {NAMES[comparison.rival]}"
    bound = "more than" if has_to_gain else "at least"
    value, low = comparison.difference.value, comparison.difference.low
    if low is None or value is None:
        few = f"too few customers to compare on: {comparison.rows:,}"
        return Figure(key, what, few, f"{bound} {needed:+.3f} (lower end)", is_met=False, limit=needed)
    lower, least = told_apart(low, needed, "+.3f")
    return Figure(
        key,
        f"{what} (strongest)" if comparison.rival == strongest else what,
        f"{value:+.3f}",
        f"{bound} {least} (lower end)",
        low > needed if has_to_gain else low >= needed,
        value,
        needed,
        f"{lower} to {comparison.difference.high:+.3f}",
    )


def _judged_dates(scored: Scored, comparisons: Sequence[Comparison], policy: ChurnPolicy) -> Iterator[JudgedDate]:
    """Each date of a backtest by itself, by what was observed: with a fifth of the customers no interval would decide.

    What it may miss there is what makes a model worth having: recall, and the ranking against the rivals. Precision and
    the share alerted hang on how many leave in a week, and are asked of all dates together.
    """
    for day, of_day in scored.by_date():
        observed = _figures(of_day, policy.gate.confidence)
        rivals = tuple(_compared(of_day.rivals, of_day, policy).values())
        rate = observed.prevalence or 0.0
        least = policy.least_recall(rate) if rate else None
        missed = []
        if least is None or observed.recall.value is None:
            missed.append("nobody left")
        elif observed.recall.value < least:
            found, allowed = told_apart(observed.recall.value, least, ".3f")
            missed.append(f"recall {found}, at least {allowed}")
        for rival in rivals:
            has_to_gain, needed = _needed(rival.rival, comparisons, policy)
            value = rival.difference.value
            if value is None:
                missed.append(f"nothing to compare with {NAMES[rival.rival]}")
            elif value < needed or (has_to_gain and value == needed):
                found, allowed = told_apart(value, needed, "+.3f")
                bound = "more than" if has_to_gain else "at least"
                missed.append(f"PR-AUC over {NAMES[rival.rival]} {found}, {bound} {allowed}")
        yield JudgedDate(day, bool(of_day.is_unseen.all()), observed, rivals, least, tuple(missed))


def _date_criteria(dates: Sequence[JudgedDate], policy: ChurnPolicy) -> Iterator[Figure]:
    if not dates:
        return
    met, needed = sum(each.is_met for each in dates), policy.gate.dates_to_meet(len(dates))
    asked = policy.gate.backtest_dates
    fewer = f" (asked for: {asked})" if len(dates) < asked else ""
    yield Figure(
        "dates_met",
        "dates at which recall and rankings hold",
        f"{met} of {len(dates)}{fewer}",
        f"at least {needed}",
        met >= needed,
        met,
        needed,
    )
    # Other models than the one to be registered were judged at all other dates: however good they are, they do not
    # speak for one that ranks nobody.
    own = next((each for each in dates if each.is_own), None)
    missed = ("not judged",) if own is None else own.missed
    what = "recall and rankings at its own date"
    yield Figure("own_date", what, "; ".join(missed) or "hold", "hold, as observed", not missed)


def _canaries(scored: Scored) -> tuple[LeakageCanary, ...]:
    """Of each feature the worst at any date: what one date alone knows of the future is thinned out among all."""
    found: dict[str, LeakageCanary] = {}
    for of_date in [of_day for _, of_day in scored.by_date()] or [scored]:
        if 0 < of_date.labels.sum() < len(of_date.labels):
            for canary in single_feature_aucs(of_date.features, of_date.labels):
                known = found.get(canary.feature)
                found[canary.feature] = canary if known is None or canary.roc_auc > known.roc_auc else known
    return tuple(found.values())


def _highest_roc_auc(observed: Figures, dates: Sequence[JudgedDate]) -> float:
    """The model's, at the date where it is highest, for the same reason."""
    return max((each.figures.roc_auc.value or 0.0 for each in dates), default=observed.roc_auc.value or 0.0)


def _calibration_criteria(scored: Scored, policy: ChurnPolicy) -> Iterator[Figure]:
    """Whether the scores are shown to be no probabilities. Balanced class weights make them larger on purpose."""
    confidence, calibration = policy.gate.confidence, calibration_of(scored.scores, scored.labels)
    if policy.model.class_weights == "none":
        ratio = expected_over_observed(scored.scores, scored.labels, confidence)
        yield _factor(EXPECTED_OVER_OBSERVED, "churners expected over observed", ratio, policy)
    slope = UNDEFINED if calibration is None else calibration.slope_estimate(confidence)
    yield _factor(CALIBRATION_SLOPE, "calibration slope", slope, policy)


def _factor(key: str, what: str, estimate: Estimate, policy: ChurnPolicy) -> Figure:
    """A figure that is 1 at best: missed where its whole interval is beyond the factor, on either side."""
    most = policy.gate.max_miscalibration
    allowed = f"{1 / most:.2f} to {most:.2f} (either end)"
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return Figure(key, what, "cannot be told", allowed, is_met=True)
    is_met = estimate.low <= most and estimate.high >= 1 / most
    return Figure(
        key, what, f"{estimate.value:.2f}", allowed, is_met, estimate.value, interval=_interval(estimate, ".2f")
    )


def _leakage_criteria(roc_auc: float, canaries: Sequence[LeakageCanary], policy: ChurnPolicy) -> Iterator[Figure]:
    limit = policy.leakage.max_single_feature_auc
    by_area = sorted(canaries, key=lambda canary: -canary.roc_auc)
    for place, canary in enumerate(by_area):
        if place == 0 or canary.roc_auc > limit:
            found, allowed = told_apart(canary.roc_auc, limit, ".3f")
            what = f"no look ahead: ROC-AUC of {canary.feature} alone"
            key = "single_feature_roc_auc" if place == 0 else ""
            yield Figure(key, what, found, f"at most {allowed}", canary.roc_auc <= limit, canary.roc_auc, limit)
    limit = policy.leakage.max_model_auc
    found, allowed = told_apart(roc_auc, limit, ".3f")
    what = "not too good to be true: ROC-AUC"
    yield Figure("roc_auc", what, found, f"at most {allowed}", roc_auc <= limit, roc_auc, limit)


def _over_single_features(alone: Sequence[Comparison]) -> Iterator[tuple[Figure, str]]:
    """What the model gains over single features, each with the warning of it, "" where the model is surely better.

    A feature that ranks as well as the whole model says that the model is not worth its upkeep.
    """
    for comparison in alone:
        rival, gain = comparison.rival, comparison.difference
        is_better = gain.low is not None and gain.low > 0
        found = "too few customers to compare on" if gain.low is None else f"{gain.value:+.3f}"
        interval = "" if gain.low is None else f"{told_apart(gain.low, 0.0, '+.3f')[0]} to {gain.high:+.3f}"
        key, what, allowed = f"pr_auc_over_{rival}_alone", f"PR-AUC over {rival} alone", "more than +0.000 (lower end)"
        areas = f"PR-AUC {comparison.pr_auc:.3f} against the model's {comparison.challenger_pr_auc:.3f}"
        warning = "" if is_better else f"{rival} alone may rank as well: {areas}"
        yield Figure(key, what, found, allowed, is_better, gain.value, 0.0, interval), warning

"""Pictures for people: what is behind a decision, and what a model uses. Nothing is judged here."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from churn_assets.churn.calendar import Day, Span
from churn_assets.churn.evaluation import JudgedDate
from churn_assets.churn.influences import Influence
from churn_assets.churn.intervals import Floats, wilson_interval
from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.monitoring import Measurement, Status
from churn_assets.churn.policy import Windows
from churn_assets.churn.profit import SHARES, Profit
from churn_assets.churn.uplift import Tenth
from churn_assets.churn.wording import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[NDArray[float64], NDArray[float64]]
# Of the curves in one picture, which may be printed in grey.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
COLOURS = ("#1f5fa8", "#c44e28", "#4a8f4a", "#7d5ba6", "#b8860b")
# Of what grows for as long as a model is watched a picture shows the latest, of many features those that matter most;
# all are in the tables.
WEEKS_SHOWN, MODELS_SHOWN, FEATURES_SHOWN = 26, 20, 30
# A reliability diagram has this many groups of customers, fewer where they would be smaller than that.
GROUPS, LEAST_IN_GROUP = 10, 20


def precision_recall(
    curves: Mapping[str, Curve], *, title: str, chosen: tuple[float, float] | None, limits: Sequence[tuple[str, float]]
) -> "Figure":
    """Precision over recall for each named curve, the first one bold.

    chosen: recall and precision of the threshold, if there is one. limits: named least recalls (vertical lines) end
    with "recall", all others are least precisions (horizontal lines).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        width = 2.4 if number == 0 else 1.2
        axes.plot(recall, precision, linestyle=dashes, color=colour, linewidth=width, label=name, zorder=6 - number)
    for name, least in limits:
        line = axes.axvline if name.endswith("recall") else axes.axhline
        line(least, color="#888888", linewidth=1, linestyle=":", label=f"{name} {least:.3f}")
    if chosen is not None:
        label = f"threshold: recall {chosen[0]:.3f}, precision {chosen[1]:.3f}"
        axes.plot([chosen[0]], [chosen[1]], "o", color="#222222", markersize=9, zorder=9, label=label)
    axes.set(
        title=title, xlabel="recall (share of churners found)", ylabel="precision (share of alerts that are right)"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def feature_importances(importances: Mapping[str, float], title: str) -> "Figure":
    """A bar for each feature's share of the trees' gain, the largest on top, of the FEATURES_SHOWN largest."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    rising = sorted(importances.items(), key=lambda item: item[1])[-FEATURES_SHOWN:]
    title += _of_all(len(rising), len(importances), "features", "the {} largest")
    figure = Figure(figsize=(7.0, 1.4 + 0.3 * len(rising)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([name for name, _ in rising], [share for _, share in rising], color=COLOURS[0])
    axes.bar_label(bars, labels=[f"{share:.1%}" for _, share in rising], padding=3, fontsize=8)
    axes.set(title=title, xlabel="share of the trees' gain")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shap_sizes(influences: Sequence[Influence], title: str) -> "Figure":
    """A bar for each feature's mean size of SHAP, the largest on top, coloured by what a larger value does.

    influences: the largest first, of which FEATURES_SHOWN are shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rising = list(reversed(influences[:FEATURES_SHOWN]))
    title += _of_all(len(rising), len(influences), "features", "the {} largest")
    colours = {"raises": COLOURS[1], "lowers": COLOURS[0], "neither": "#9aa5b1"}
    figure = Figure(figsize=(7.0, 1.6 + 0.3 * len(rising)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(
        [each.feature for each in rising],
        [each.mean for each in rising],
        color=[colours[each.direction] for each in rising],
    )
    axes.bar_label(bars, labels=[f"{each.mean:.3f}" for each in rising], padding=3, fontsize=8)
    axes.set(title=title, xlabel="mean size of SHAP, log-odds of leaving")
    words = {"raises": "a larger value raises the risk", "lowers": "a larger value lowers it", "neither": "neither"}
    kinds = [kind for kind in words if any(each.direction == kind for each in rising)]
    axes.legend(
        handles=[Patch(color=colours[kind], label=words[kind]) for kind in kinds], loc="lower right", fontsize=8
    )
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def calibration(
    scores: NDArray[float64], labels: NDArray[float64], *, title: str, confidence: float = 0.95
) -> "Figure":
    """A reliability diagram: the share that left over the mean score, by groups between quantiles of the score.

    With the number of customers of each group and the Wilson interval of its share; customers of one score are in one
    group. Rows whose score or label is missing are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    groups = _by_score(scores, labels)
    highest = 0.1
    for number, (group_scores, group_labels) in enumerate(groups):
        rows, churners = len(group_labels), int(group_labels.sum())
        score, share = float(group_scores.mean()), churners / rows
        low, high = wilson_interval(churners, rows, confidence)
        axes.errorbar(
            [score],
            [share],
            # A share of 0 or 1 is its own bound but for rounding.
            yerr=[[max(0.0, share - low)], [max(0.0, high - share)]],
            fmt="o",
            color=COLOURS[0],
            markersize=5,
            capsize=3,
            linewidth=1,
            label=f"customers alike in score, {confidence:.0%} interval" if number == 0 else None,
        )
        axes.annotate(f"{rows:,}", (score, share), xytext=(5, -10), textcoords="offset points", fontsize=7)
        highest = max(highest, score, high)
    end = min(1.0, highest) * 1.06
    axes.plot([0, end], [0, end], color="#888888", linewidth=1, linestyle=":", label="score = share", zorder=0)
    if not groups:
        axes.text(0.5, 0.5, "no customers to show", transform=axes.transAxes, ha="center")
    axes.set(title=title, xlabel="mean score", ylabel="share that left", xlim=(0, end), ylim=(0, end), aspect="equal")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=8)
    return figure


def score_distribution(
    scores: NDArray[float64], labels: NDArray[float64], threshold: float | None, title: str
) -> "Figure":
    """How many customers have which score, apart by outcome, with the threshold; what is not known is left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    is_known = np.isfinite(scores) & np.isfinite(labels)
    scores, labels = scores[is_known], labels[is_known]
    bins = np.linspace(0, float(scores.max(initial=0)) or 1.0, 41).tolist()
    for outcome, name, colour in ((0, "stayed", COLOURS[0]), (1, "left", COLOURS[1])):
        group = scores[labels == outcome]
        axes.hist(group, bins, color=colour, alpha=0.6, label=f"{name} ({len(group):,})")
    if threshold is not None:
        alerted = int((scores >= threshold).sum())
        label = f"threshold {threshold:.3f}: {alerted:,} of {len(scores):,} alerted"
        axes.axvline(threshold, color="#222222", linewidth=1.2, label=label)
    # So that the few who left can be seen beside the many who stayed.
    axes.set_yscale("symlog", linthresh=10)
    axes.set(title=title, xlabel="score (probability of leaving)", ylabel="customers (logarithmic)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def profit_curve(profit: Profit, *, alerted: float, budget: float, confidence: float, currency: str) -> "Figure":
    """What contacting more customers earns, by falling score, with its interval, the alert budget and the alerts.

    alerted: the share of the customers who were.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.0, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    points = [(each.low, each.value, each.high) for each in profit.curve]
    lows, values, highs = np.array(points, dtype=float).T
    axes.fill_between(SHARES, lows, highs, color=COLOURS[0], alpha=0.2, linewidth=0, label=f"{confidence:.0%} interval")
    axes.plot(SHARES, values, color=COLOURS[0], linewidth=2.0, label="contacting those of the highest scores")
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.axvline(budget, color="#888888", linewidth=1, linestyle=":", label=f"alert budget {budget:.0%}")
    if profit.alerted.value is not None:
        label = f"the alerted: {alerted:.1%}, {profit.alerted.value:,.2f}"
        axes.plot([alerted], [profit.alerted.value], "o", color="#222222", markersize=9, zorder=9, label=label)
    if profit.best.value is not None:
        label = f"most: {profit.best_share:.0%}, {profit.best.value:,.2f}"
        axes.plot([profit.best_share], [profit.best.value], "x", color=COLOURS[1], markersize=9, zorder=10, label=label)
    axes.set(
        title="What contacting more customers earns",
        xlabel="share of the customers contacted",
        ylabel=f"profit per customer of all{f', {currency}' if currency else ''}",
        xlim=(0, 1),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize=8)
    return figure


def churn_by_date(
    snapshots: Sequence[SnapshotShares], crisis_delay_minutes: float, windows: Windows, *, is_narrow: bool = False
) -> "Figure":
    """The share that left over the as-of dates; beneath it that of whom a delivery came later than the policy's crisis.

    In the words of people who know no as-of date and no outcome window: the report shows it too.

    is_narrow: for a phone, on which a wide picture is too small to read.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    dates = [snapshot.as_of for snapshot in snapshots]
    churn = [np.nan if snapshot.churn is None else snapshot.churn for snapshot in snapshots]
    panels = [(f"left within {windows.outcome_days} days", churn, COLOURS[0])]
    if all(snapshot.crisis is not None for snapshot in snapshots):
        waited = f"had a delivery over {duration(crisis_delay_minutes)} late"
        name = f"{waited} in the {windows.observation_days} days before"
        panels.append((name, [snapshot.crisis or 0.0 for snapshot in snapshots], COLOURS[1]))
    width, height = (3.6, 1.9) if is_narrow else (7.4, 2.1)
    figure = Figure(figsize=(width, 0.3 + height * len(panels)), dpi=110, layout="constrained")
    # Each on a scale of its own: the tenth that leaves is nothing beside nine tenths who waited.
    for axes, (name, shares, colour) in zip(
        figure.subplots(len(panels), sharex=True, squeeze=False).flat, panels, strict=True
    ):
        axes.plot(dates, shares, "o-", color=colour, markersize=3)
        axes.set_ylim(0, min(1.05, max(0.05, 1.15 * np.nanmax([0.0, *shares]))))
        axes.set_title(fill(f"share that {name}", 44 if is_narrow else 90), loc="left", fontsize=9)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(alpha=0.25)
    locator = AutoDateLocator(maxticks=4 if is_narrow else 9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    return figure


@dataclass(frozen=True)
class MeasuredEffect:
    """What a list changed: the share that stayed of those to contact less that of those held out, with its interval."""

    as_of: date
    difference: float
    low: float
    high: float


def effect_over_lists(measured: Sequence[MeasuredEffect], *, is_narrow: bool = False) -> "Figure":
    """How many more of 100 customers stayed by being on a list to contact, by the date of the list, with its interval.

    is_narrow: for a phone.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.2) if is_narrow else (7.4, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    values, lows, highs = (np.array([100 * getattr(m, end) for m in measured]) for end in ("difference", "low", "high"))
    # As text: the lists are looked at one by one, and weeks without one would be a hole.
    days = [f"{each.as_of:%-d %b}\n{each.as_of:%Y}" for each in measured]
    axes.axhline(0, color="#444444", linewidth=1, linestyle=":")
    axes.errorbar(range(len(days)), values, yerr=_spread(values, lows, highs), fmt="o", color=COLOURS[0], capsize=3)
    axes.set_xticks(range(len(days)), days, fontsize=8)
    axes.set_xlim(-0.6, len(days) - 0.4)
    axes.set(title="What each list changed", ylabel="more stayed, of 100")
    axes.grid(alpha=0.25, axis="y")
    return figure


def _spread(values: Floats, lows: Floats, highs: Floats) -> Floats:
    """How far intervals reach below and above their values; a share of 0 or 1 is its own bound but for rounding."""
    return np.maximum(0, [values - lows, highs - values])


def uplift_by_tenths(tenths: Sequence[Tenth]) -> "Figure":
    """By tenths of the customers, those of the highest estimate first, what contacts changed beside the estimate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(1, len(tenths) + 1)
    known = [
        (place, each.changed) for place, each in zip(places, tenths, strict=True) if each.changed.value is not None
    ]
    values, lows, highs = (
        100 * np.array([getattr(changed, end) for _, changed in known], dtype=float) for end in ("value", "low", "high")
    )
    axes.axhline(0, color="#444444", linewidth=1, linestyle=":")
    found = [place for place, _ in known]
    axes.errorbar(found, values, yerr=_spread(values, lows, highs), fmt="o", color=COLOURS[0], capsize=3, label="found")
    estimated = [100 * each.estimated for each in tenths]
    axes.plot(places, estimated, color=COLOURS[1], marker="_", markersize=14, linestyle="none", label="estimated")
    axes.set_xticks(places)
    axes.set(title="What contacts change, by tenths", xlabel="tenth of the customers, highest estimate first")
    axes.set_ylabel("more stayed, of 100 contacted")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25, axis="y")
    return figure


def orders_by_day(days: Sequence[Day], watermark: date, low: Sequence[Span], closed: Sequence[Span]) -> "Figure":
    """The orders of each day beside what is usual on such a day; days with far fewer, closures and watermark marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    dates = [day.day for day in days]
    usual = [np.nan if day.usual is None else day.usual for day in days]
    axes.plot(dates, usual, color="#888888", linewidth=1, label="usual on such a day")  # type: ignore[arg-type]
    axes.plot(dates, [day.orders for day in days], color=COLOURS[0], linewidth=1, label="orders")  # type: ignore[arg-type]
    for spans, name, colour in ((low, "far fewer than usual", COLOURS[1]), (closed, "closed", COLOURS[3])):
        for number, span in enumerate(spans):
            label = name if number == 0 else None
            begin, end = span.first - timedelta(hours=12), span.last + timedelta(days=1)
            axes.axvspan(begin, end, color=colour, alpha=0.25, linewidth=0, label=label)  # type: ignore[arg-type]
    axes.axvline(watermark, color="#222222", linewidth=1, linestyle=":", label=f"complete up to {watermark}")  # type: ignore[arg-type]
    axes.set(title="Orders by day", ylabel="orders")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", fontsize=8)
    figure.autofmt_xdate()
    return figure


@dataclass(frozen=True)
class JudgedVersion:
    """Recall of one evaluated model on customers it never saw, with its interval; None where there was none.

    least: what its lower bound has to reach.
    """

    name: str
    recall: float | None
    low: float | None
    high: float | None
    is_passed: bool
    least: float | None = None


def recall_over_versions(judged: Sequence[JudgedVersion]) -> "Figure":
    """Recall with its interval of each model in the order of its judgement, beside the least that is allowed.

    Of the last MODELS_SHOWN.
    """
    from matplotlib.figure import Figure

    of_all, judged = len(judged), judged[-MODELS_SHOWN:]
    figure = Figure(figsize=(max(6.0, 0.45 * len(judged)), 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    asked = [np.nan if model.least is None else model.least for model in judged]
    axes.plot(range(len(judged)), asked, "_", color="#444444", markersize=14, label="least lower bound")
    for is_passed, name, colour in ((True, "PASS", COLOURS[0]), (False, "not passed", COLOURS[1])):
        models = [(place, model) for place, model in enumerate(judged) if model.is_passed is is_passed]
        points = [(place, m.recall, m.low, m.high) for place, m in models if m.recall is not None]
        if points:
            places, recall, low, high = (np.array(values, dtype=float) for values in zip(*points, strict=True))
            axes.errorbar(places, recall, yerr=_spread(recall, low, high), fmt="o", color=colour, capsize=3, label=name)
    axes.set_xticks(range(len(judged)), [model.name for model in judged], rotation=45, ha="right", fontsize=8)
    title = f"Recall over versions{_of_all(len(judged), of_all, 'models')}"
    axes.set(title=title, ylabel="recall on customers the model never saw", ylim=(0, 1))
    axes.set_xlim(-0.6, max(len(judged), 1) - 0.4)
    axes.grid(alpha=0.25, axis="y")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def figures_over_dates(dates: Sequence[JudgedDate]) -> "Figure":
    """Recall of each date of a backtest with its interval, beside the least and what a perfect ranking finds.

    Below, what the model's PR-AUC has over that of the strongest rival. Filled: the version itself; hollow: models that
    were made as it was.
    """
    from matplotlib.dates import ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 5.6), dpi=110, layout="constrained")
    recall, over = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    days = [each.as_of for each in dates]
    limits = {"least recall": [each.least_recall for each in dates]}
    limits["a perfect ranking with as many alerts"] = [each.figures.attainable_recall for each in dates]
    for (name, values), style in zip(limits.items(), ("_", "^"), strict=True):
        known = np.array([np.nan if value is None else value for value in values])
        recall.plot(days, known, style, color="#888888", markersize=9, label=name)
    strongest = [each.strongest for each in dates]
    for axes, estimates in (
        (recall, [each.figures.recall for each in dates]),
        (over, [None if each is None else each.difference for each in strongest]),
    ):
        told = set()
        for each, estimate in zip(dates, estimates, strict=True):
            if estimate is None or estimate.value is None:
                continue
            low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
            name = "holds" if each.is_met else "missed"
            axes.errorbar(
                [each.as_of],
                [estimate.value],
                yerr=[[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]],
                fmt="o",
                color=COLOURS[0] if each.is_met else COLOURS[1],
                markerfacecolor=None if each.is_own else "white",
                capsize=3,
                label=None if name in told else name,
            )
            told.add(name)
    over.axhline(0, color="#888888", linewidth=1, linestyle=":")
    recall.set(title="The dates of the backtest", ylabel="recall", ylim=(0, 1.02))
    over.set(ylabel="PR-AUC over the\nstrongest rival")
    over.set_xticks(days)
    over.xaxis.set_major_formatter(ConciseDateFormatter(over.xaxis.get_major_locator()))
    for axes in (recall, over):
        axes.grid(alpha=0.25)
    recall.legend(loc="upper right", fontsize=8)
    return figure


def drift_over_dates(measurements: Sequence[Measurement]) -> "Figure":
    """The stability index of each subject (rows) at each scored date; dark is near its limit, marked is beyond one.

    Of the last WEEKS_SHOWN, and of the FEATURES_SHOWN subjects that were the nearest to their limits in these.
    measurements: of the index.
    """
    from matplotlib.figure import Figure

    of_all = sorted({each.as_of for each in measurements})
    dates = of_all[-WEEKS_SHOWN:]
    of_dates = [each for each in measurements if each.as_of in dates]
    known = [each for each in of_dates if each.value is not None]
    nearest = sorted(known, key=lambda each: (each.value or 0.0) / each.limit_warn, reverse=True)
    shown = list(dict.fromkeys(each.subject for each in (*nearest, *of_dates)))[:FEATURES_SHOWN]
    of_all_subjects = list(dict.fromkeys(each.subject for each in of_dates))
    subjects = [subject for subject in of_all_subjects if subject in shown]
    figure = Figure(
        figsize=(max(6.0, 2.6 + 0.42 * len(dates)), max(2.4, 1.4 + 0.3 * len(subjects))), dpi=110, layout="constrained"
    )
    axes = figure.add_subplot()
    shares = np.full((len(subjects), len(dates)), np.nan)
    for each in known:
        if each.value is not None and each.subject in shown:
            place = subjects.index(each.subject), dates.index(each.as_of)
            shares[place] = each.value / each.limit_warn
            mark = {Status.WARN: "!", Status.FAIL: "!!"}.get(each.status, "")
            is_dark = shares[place] > 0.6
            axes.text(
                place[1],
                place[0],
                f"{each.value:.2f}{mark}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if is_dark else "#222222",
                fontweight="bold" if mark else "normal",
            )
    if dates:
        image = axes.imshow(shares, cmap="Oranges", vmin=0, vmax=1.5, aspect="auto")
        figure.colorbar(image, label="index / limit of a warning")
    axes.set_xticks(range(len(dates)), _days_named(dates), rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(subjects)), subjects, fontsize=8)
    title = f"Population stability against the training data{_of_all(len(dates), len(of_all), 'weeks')}"
    title += _of_all(len(subjects), len(of_all_subjects), "features", "the {} most changed")
    axes.set_title(f"{title} (! warns, !! fails)", fontsize=10)
    return figure


def _days_named(dates: Sequence[date]) -> list[str]:
    """Each with its day and month; the first, and the first of a year, with the year."""
    years = [None, *(day.year for day in dates[:-1])]
    return [
        f"{day:%-d %b}" if day.year == year_before else f"{day:%-d %b %Y}"
        for day, year_before in zip(dates, years[: len(dates)], strict=True)
    ]


def _of_all(shown: int, of_all: int, what: str, which: str = "the last {}") -> str:
    """What follows a title where not all are shown."""
    return "" if shown == of_all else f", {which.format(shown)} of {of_all} {what}"


def realised_recall(measurements: Sequence[Measurement], estimates: Sequence[Measurement] = ()) -> "Figure":
    """Recall of the alerts as served over the scored dates, with its interval; hollow: in sample. The version is named
    where it begins to serve.

    Of the last WEEKS_SHOWN that were scored. measurements: of the realised recall. Dates whose labels are not yet known
    are left out. estimates: of the estimated one, whose interval is a bar behind.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    of_all = sorted({each.as_of for each in (*measurements, *estimates)})
    dates = of_all[-WEEKS_SHOWN:]
    figure = Figure(figsize=(7.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    known, foretold = (
        sorted((m for m in of_kind if m.value is not None and m.as_of in dates), key=lambda each: each.as_of)
        for of_kind in (measurements, estimates)
    )
    if foretold:
        days = [each.as_of for each in foretold]
        lows, values, highs = _ends(foretold)
        label = "as the probabilities foretold it"
        axes.plot(days, values, "_", color="#888888", markersize=9, label=label)  # type: ignore[arg-type]
        axes.vlines(days, lows, highs, color="#cccccc", linewidth=5, zorder=0)  # type: ignore[arg-type]
    asked = {each.as_of: each.limit_fail for each in known}
    axes.plot(list(asked), list(asked.values()), "_", color="#444444", markersize=14, label="least the gate asks")  # type: ignore[arg-type]
    for is_in_sample, name in ((False, "as it was"), (True, "as it was, on dates the version learned from")):
        points = [each for each in known if each.is_in_sample is is_in_sample]
        if points:
            lows, values, highs = _ends(points)
            axes.errorbar(
                [each.as_of for each in points],  # type: ignore[arg-type]
                values,
                yerr=_spread(values, lows, highs),
                fmt="o",
                color=COLOURS[0],
                markerfacecolor="white" if is_in_sample else None,
                capsize=3,
                label=name,
            )
    # The first week of a version is the last to be noted.
    served = sorted([*foretold, *known], key=lambda each: each.as_of, reverse=True)
    begun = {each.model_version: each.as_of for each in served}
    for version, day in begun.items():
        axes.axvline(day, color="#bbbbbb", linewidth=0.8, linestyle=":", zorder=0)  # type: ignore[arg-type]
        text = f"version {version}"
        axes.text(day, 0.99, text, rotation=90, ha="right", va="top", fontsize=7, color="#444444")  # type: ignore[arg-type]
    title = f"Recall of what was served, as foretold and as realised{_of_all(len(dates), len(of_all), 'weeks')}"
    axes.set_title(title, fontsize=10)
    axes.set(ylabel="share of those who left that were alerted", ylim=(0, 1))
    # Between a few weeks the locator finds days on which nothing was scored, and about one of them years.
    if len(dates) > 9:
        locator = AutoDateLocator(maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    elif dates:
        axes.set_xticks(dates, _days_named(dates))  # type: ignore[arg-type]
        axes.set_xlim(dates[0] - timedelta(days=4), dates[-1] + timedelta(days=4))  # type: ignore[arg-type]
    axes.grid(alpha=0.25, axis="y")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _ends(measurements: Sequence[Measurement]) -> tuple[Floats, Floats, Floats]:
    """low, value and high of each."""
    lows, values, highs = (
        np.array([getattr(each, end) for each in measurements], dtype=float) for end in ("low", "value", "high")
    )
    return lows, values, highs


def _by_score(scores: NDArray[float64], labels: NDArray[float64]) -> list[tuple[NDArray[float64], NDArray[float64]]]:
    """Scores and labels of each group, by rising score; none of them empty."""
    is_known = np.isfinite(scores) & np.isfinite(labels)
    scores, labels = scores[is_known], labels[is_known]
    if not len(scores):
        return []
    groups = max(1, min(GROUPS, len(scores) // LEAST_IN_GROUP))
    cuts = np.unique(np.quantile(scores, np.arange(1, groups) / groups))
    place = np.searchsorted(cuts, scores, side="left")
    return [(scores[place == group], labels[place == group]) for group in np.unique(place)]


@dataclass(frozen=True)
class Picture:
    """A figure as it was drawn, once for all that show it: drawing takes a tenth of a second or more."""

    title: str
    content: bytes
    media_type: str

    @property
    def data_uri(self) -> str:
        """The picture itself, as an address that needs no server."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"

    @property
    def markdown(self) -> str:
        """The picture itself, as Markdown that needs no server."""
        return f"![{self.title}]({self.data_uri})"


def _title(figure: "Figure") -> str:
    return " ".join((figure.axes[0].get_title() or figure.axes[0].get_title(loc="left")).split())


def drawn(figure: "Figure") -> Picture:
    """The figure as PNG, under the title of its first axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    # The same bytes as by `savefig`, which draws twice where there is a layout to find.
    FigureCanvasAgg(figure).print_png(buffer)
    return Picture(_title(figure), buffer.getvalue(), "image/png")


def drawn_as_lines(figure: "Figure") -> Picture:
    """The figure as SVG, sharp at any size and on paper. The same figure has the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "churn_assets", "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return Picture(_title(figure), buffer.getvalue(), "image/svg+xml")

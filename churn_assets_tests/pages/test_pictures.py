"""Pictures are drawn with what was decided on them, and carried in the text that shows them."""

import base64
import re
import struct
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from churn_assets.churn.evaluation import Comparison, Figures, JudgedDate
from churn_assets.churn.influences import Influence
from churn_assets.churn.intervals import UNDEFINED, Estimate, Floats, wilson_interval
from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.churn.policy import Windows
from churn_assets.churn.profit import SHARES, Profit
from churn_assets.churn.uplift import Tenth
from churn_assets.pages.pictures import (
    JudgedVersion,
    MeasuredEffect,
    calibration,
    churn_by_date,
    drawn,
    drawn_as_lines,
    drift_over_dates,
    effect_over_lists,
    feature_importances,
    figures_over_dates,
    precision_recall,
    profit_curve,
    realised_recall,
    recall_over_versions,
    score_distribution,
    shap_sizes,
    uplift_by_tenths,
)

CURVE = (np.array([0.2, 0.6, 1.0]), np.array([0.9, 0.5, 0.1]))
EMPTY = (np.array([]), np.array([]))
LIMITS = [("least precision", 0.25), ("least recall", 0.3)]


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def xs(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


def error_bars(figure: Figure) -> list[ErrorbarContainer]:
    found = figure.axes[0].containers
    bars = [each for each in found if isinstance(each, ErrorbarContainer)]
    assert len(bars) == len(found)
    return bars


def curves_of(chosen: tuple[float, float] | None = (0.6, 0.5), **curves: tuple) -> Figure:
    return precision_recall(curves or {"model": CURVE, "rule": CURVE}, title="The test", chosen=chosen, limits=LIMITS)


def test_a_picture_in_markdown_is_a_png_that_needs_no_server() -> None:
    found = re.fullmatch(r"!\[The test\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", drawn(curves_of()).markdown)
    assert found is not None
    png = base64.b64decode(found.group(1), validate=True)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (770, 506)


def test_every_curve_limit_and_the_threshold_is_named_in_the_legend() -> None:
    assert legend(curves_of()) == [
        "model",
        "rule",
        "least precision 0.250",
        "least recall 0.300",
        "threshold: recall 0.600, precision 0.500",
    ]


def test_curves_are_told_apart_without_colour() -> None:
    named: dict[str, tuple] = dict.fromkeys(("model", "rule", "orders", "purchases", "champion"), CURVE)
    lines = curves_of(None, **named).axes[0].get_lines()[: len(named)]
    assert [line.get_label() for line in lines] == [*named]
    # Of the fifth matplotlib tells the pattern as "--", as of the second.
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-.", ":", "--"]


def test_recall_limits_are_upright_and_precision_limits_level() -> None:
    lines = {line.get_label(): line for line in curves_of().axes[0].get_lines()}
    assert xs(lines["least recall 0.300"]) == [0.3, 0.3]
    assert ys(lines["least precision 0.250"]) == [0.25, 0.25]
    assert xs(lines["model"]) == CURVE[0].tolist()
    assert ys(lines["model"]) == CURVE[1].tolist()


@pytest.mark.parametrize("curves", [{}, {"model": EMPTY}], ids=["no curve", "an empty curve"])
def test_without_a_curve_or_a_threshold_there_is_still_a_picture(curves: dict[str, tuple[Floats, Floats]]) -> None:
    figure = precision_recall(curves, title="NOT_EVALUABLE", chosen=None, limits=LIMITS)
    assert drawn(figure).markdown.startswith("![NOT_EVALUABLE](data:image/png;base64,")
    assert not any(str(line.get_label()).startswith("threshold") for line in figure.axes[0].get_lines())


# ---- feature importances


def test_the_most_important_feature_is_the_topmost_bar_and_every_share_is_written() -> None:
    (axes,) = feature_importances({"some": 0.25, "most": 0.7, "none": 0.0, "few": 0.05}, "What it uses").axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert len(bars) == len(axes.patches)
    from_the_top = sorted(bars, key=lambda bar: -bar.get_y())
    assert [bar.get_width() for bar in from_the_top] == [0.7, 0.25, 0.05, 0.0]
    assert [label.get_text() for label in reversed(axes.get_yticklabels())] == ["most", "some", "few", "none"]
    assert {text.get_text() for text in axes.texts} == {"70.0%", "25.0%", "5.0%", "0.0%"}
    assert axes.get_title() == "What it uses"


# ---- reliability diagram


def points(figure: Figure) -> list[tuple[float, float]]:
    """(mean score, share that left) of each group, by rising score."""
    return [(xs(bars.lines[0])[0], ys(bars.lines[0])[0]) for bars in error_bars(figure)]


def counts(figure: Figure) -> list[int]:
    return [int(text.get_text().replace(",", "")) for text in figure.axes[0].texts]


def test_customers_are_grouped_by_score_and_each_group_tells_what_followed() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(np.linspace(0.001, 1.0, 1000) ** 3)
    labels = (rng.random(1000) < scores).astype(float)
    figure = calibration(scores, labels, title="Calibration")
    assert counts(figure) == [100] * 10
    order = np.argsort(scores)
    expected = [(scores[tenth].mean(), labels[tenth].mean()) for tenth in np.split(order, 10)]
    assert np.array(points(figure)) == pytest.approx(np.array(expected))


def test_each_share_has_its_wilson_interval() -> None:
    labels = (np.arange(40) < 4).astype(float)
    (bars,) = error_bars(calibration(np.full(40, 0.1), labels, title="Calibration", confidence=0.9))
    (upright,) = bars.lines[2]
    assert upright.get_segments()[0][:, 1] == pytest.approx(wilson_interval(4, 40, 0.9))


def test_scores_that_are_probabilities_lie_on_the_diagonal() -> None:
    scores = np.repeat([0.1, 0.3], 100)
    labels = np.concatenate([np.arange(100) < 10, np.arange(100) < 30]).astype(float)
    figure = calibration(scores, labels, title="Calibration")
    assert points(figure) == [pytest.approx((0.1, 0.1)), pytest.approx((0.3, 0.3))]
    (diagonal,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "score = share"]
    assert xs(diagonal) == ys(diagonal)


def test_customers_of_one_score_are_in_one_group_whatever_their_order() -> None:
    scores = np.repeat([0.1, 0.2, 0.9], [150, 30, 20])
    labels = (np.arange(200) % 3 == 0).astype(float)
    shuffled = np.random.default_rng(1).permutation(200)
    figure = calibration(scores, labels, title="Calibration")
    assert counts(figure) == [150, 30, 20]
    other = calibration(scores[shuffled], labels[shuffled], title="Calibration")
    assert np.array(points(other)) == pytest.approx(np.array(points(figure)))


@pytest.mark.parametrize(
    ("scores", "labels", "drawn_rows"),
    [
        ([], [], []),
        ([0.4], [1.0], [1]),
        ([0.2, 0.3, 0.9], [0.0, 0.0, 0.0], [3]),
        ([1.0] * 50, [1.0] * 50, [50]),
        ([0.2, np.nan, 0.3, np.inf], [0.0, 1.0, np.nan, 1.0], [1]),
        ([np.nan], [np.nan], []),
    ],
    ids=["nobody", "one customer", "nobody left", "all left", "unknown scores or labels", "nothing known"],
)
def test_few_customers_or_one_outcome_still_give_a_picture(
    scores: list[float], labels: list[float], drawn_rows: list[int]
) -> None:
    figure = calibration(np.array(scores), np.array(labels), title="Calibration")
    assert drawn(figure).data_uri.startswith("data:image/png;base64,")
    if drawn_rows:
        assert counts(figure) == drawn_rows
    else:
        assert [text.get_text() for text in figure.axes[0].texts] == ["no customers to show"]


# ---- scores, dates, versions


def test_the_distribution_counts_each_outcome_and_who_is_alerted() -> None:
    scores, labels = np.array([0.1, 0.1, 0.2, 0.9, np.nan]), np.array([0.0, 0.0, 1.0, 1.0, 0.0])
    figure = score_distribution(scores, labels, 0.2, "Scores")
    assert legend(figure) == ["stayed (2)", "left (2)", "threshold 0.200: 2 of 4 alerted"]
    heights = [sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    assert heights == [2, 2], "a score that is missing has no place"


@pytest.mark.parametrize("scores", [[], [np.nan], [0.0, 0.0]], ids=["nobody", "nothing known", "all zero"])
def test_a_distribution_of_next_to_nothing_is_still_a_picture(scores: list[float]) -> None:
    figure = score_distribution(np.array(scores), np.zeros(len(scores)), None, "Scores")
    assert drawn(figure).data_uri.startswith("data:image/png;base64,")


def weeks(*shares: tuple[float | None, float]) -> list[SnapshotShares]:
    begin = date(2025, 9, 1)
    return [SnapshotShares(begin + timedelta(weeks=week), 100, *both) for week, both in enumerate(shares)]


@pytest.mark.parametrize("is_narrow", [False, True])
def test_churn_as_far_as_it_is_known_is_drawn_above_late_deliveries_each_on_its_own_scale(is_narrow: bool) -> None:
    shares = weeks((0.1, 0.02), (0.1, 0.02), (0.2, 0.2), (0.4, 0.3), (None, 0.02))
    figure = churn_by_date(shares, 45, Windows(), is_narrow=is_narrow)
    left, waited = figure.axes
    assert [" ".join(axes.get_title(loc="left").split()) for axes in figure.axes] == [
        "share that left within 30 days",
        "share that had a delivery over 45 minutes late in the 60 days before",
    ]
    *known, not_yet = ys(left.get_lines()[0])
    assert known == [0.1, 0.1, 0.2, 0.4]
    assert np.isnan(not_yet), "what is not yet known is not drawn"
    assert ys(waited.get_lines()[0]) == [0.02, 0.02, 0.2, 0.3, 0.02]
    # Each curve fills its own panel, over the same dates, and no words are cut.
    assert [axes.get_ylim()[1] for axes in figure.axes] == pytest.approx([0.46, 0.345])
    assert left.get_xlim() == waited.get_xlim()
    figure.draw_without_rendering()
    edge = figure.get_window_extent().x1
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    drawn_texts = [text for axes in figure.axes for text in axes.findobj(Text) if text.get_text() in titles]
    assert len(drawn_texts) == 2
    assert max(text.get_window_extent().x1 for text in drawn_texts) <= edge


def test_where_no_delivery_is_known_nothing_is_drawn_of_late_ones() -> None:
    unknown = [replace(share, crisis=None) for share in weeks((0.1, 0.0), (0.2, 0.0))]
    assert len(churn_by_date(unknown, 45, Windows()).axes) == 1


@pytest.mark.parametrize("is_narrow", [False, True])
def test_each_lists_effect_is_drawn_with_its_interval_as_customers_of_a_hundred(is_narrow: bool) -> None:
    measured = [
        MeasuredEffect(date(2025, 9, 1), 0.205, 0.154, 0.254),
        MeasuredEffect(date(2025, 11, 17), -0.02, -0.06, 0.02),
    ]
    (axes,) = effect_over_lists(measured, is_narrow=is_narrow).axes
    (points,) = axes.containers
    assert points[0].get_ydata() == pytest.approx([20.5, -2.0])
    ends = [segment[:, 1].tolist() for segment in points[2][0].get_segments()]
    assert ends == [pytest.approx([15.4, 25.4]), pytest.approx([-6.0, 2.0])]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 Sep\n2025", "17 Nov\n2025"]


def test_tenths_are_drawn_with_what_was_found_and_estimated_and_an_empty_one_with_the_estimate_alone() -> None:
    tenths = [
        Tenth(0.08, Estimate(0.1, 0.06, 0.14)),
        Tenth(0.01, UNDEFINED),
        Tenth(-0.03, Estimate(-0.02, -0.05, 0.01)),
    ]
    (axes,) = uplift_by_tenths(tenths).axes
    (points,) = axes.containers
    assert points[0].get_xdata().tolist() == [1, 3]
    assert points[0].get_ydata() == pytest.approx([10, -2])
    ends = [segment[:, 1].tolist() for segment in points[2][0].get_segments()]
    assert ends == [pytest.approx([6, 14]), pytest.approx([-5, 1])]
    (estimated,) = [line for line in axes.get_lines() if line.get_label() == "estimated"]
    assert ys(estimated) == pytest.approx([8, 1, -3])


def test_a_picture_of_lines_is_the_same_bytes_each_time_and_no_snapshot_is_still_a_picture() -> None:
    one, other = (drawn_as_lines(churn_by_date(weeks((0.1, 0.02), (0.2, 0.1)), 45, Windows())) for _ in range(2))
    assert one == other
    assert one.data_uri.startswith("data:image/svg+xml;base64,")
    assert drawn_as_lines(churn_by_date([], 45, Windows())).title == "share that left within 30 days"


def test_every_judged_version_has_its_recall_with_interval_and_its_verdict() -> None:
    judged = [
        JudgedVersion("version 1", 0.5, 0.4, 0.6, True),
        JudgedVersion("run 0123abcd", 0.2, 0.1, 0.3, False),
        JudgedVersion("run 4567cdef", None, None, None, False),
        JudgedVersion("version 2", 1.0, 0.8, 1.0, True),
    ]
    figure = recall_over_versions(judged)
    assert legend(figure) == ["least lower bound", "PASS", "not passed"]
    passed, refused = error_bars(figure)
    assert (xs(passed.lines[0]), ys(passed.lines[0])) == ([0, 3], [0.5, 1.0])
    assert xs(refused.lines[0]) == [1]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [model.name for model in judged]
    (upright,) = passed.lines[2]
    assert upright.get_segments()[0][:, 1] == pytest.approx([0.4, 0.6])


def test_without_any_version_there_is_still_a_picture() -> None:
    assert drawn(recall_over_versions([])).data_uri.startswith("data:image/png;base64,")


def test_of_hundreds_of_features_a_picture_shows_those_that_matter_most_and_says_so() -> None:
    names = [f"feature_{number:03}" for number in range(400)]
    gains = feature_importances({name: number / 1_000 for number, name in enumerate(names)}, "What the trees use")
    sizes = shap_sizes([Influence(name, 1.0, "raises") for name in names], "What drives the scores")
    stability = drift_over_dates(
        [measured(Metric.PSI, name, 0, number / 1_000, Status.OK) for number, name in enumerate(names)]
    )
    assert [figure.get_size_inches()[1] < 12 for figure in (gains, sizes, stability)] == [True] * 3
    shown = [[label.get_text() for label in figure.axes[0].get_yticklabels()] for figure in (gains, sizes, stability)]
    assert shown == [names[-30:], names[:30][::-1], names[-30:]]
    assert [figure.axes[0].get_title() for figure in (gains, sizes, stability)] == [
        "What the trees use, the 30 largest of 400 features",
        "What drives the scores, the 30 largest of 400 features",
        "Population stability against the training data, the 30 most changed of 400 features (! warns, !! fails)",
    ]


def measured(
    metric: Metric, subject: str, week: int, value: float | None, status: Status, version: str = "1"
) -> Measurement:
    return Measurement(
        as_of=date(2025, 9, 1) + timedelta(weeks=week),
        model_version=version,
        metric=metric,
        subject=subject,
        value=value,
        low=None if value is None else value - 0.1,
        high=None if value is None else value + 0.1,
        rows=100,
        limit_warn=0.1,
        limit_fail=0.25,
        is_in_sample=week == 0,
        status=status,
    )


def test_the_drift_of_each_subject_and_date_is_written_in_its_cell_with_a_mark_where_it_alarms() -> None:
    found = [
        measured(Metric.PSI, "recency_days", 0, 0.01, Status.OK),
        measured(Metric.PSI, "recency_days", 1, 0.12, Status.WARN),
        measured(Metric.PSI, "score", 0, 0.31, Status.FAIL),
        measured(Metric.PSI, "score", 1, None, Status.NOT_YET_KNOWN),
    ]
    axes = drift_over_dates(found).axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "0.01",
        (1, 0): "0.12!",
        (0, 1): "0.31!!",
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["recency_days", "score"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 Sep 2025", "8 Sep"]
    assert drawn(drift_over_dates([])).markdown.startswith("![Population stability against the training data")


def test_realised_recall_is_marked_by_version_and_by_whether_it_flatters() -> None:
    found = [
        measured(Metric.REALISED_RECALL, "", 0, 0.6, Status.OK),
        measured(Metric.REALISED_RECALL, "", 1, 0.5, Status.OK),
        measured(Metric.REALISED_RECALL, "", 2, 0.4, Status.OK, "2"),
        measured(Metric.REALISED_RECALL, "", 3, None, Status.NOT_YET_KNOWN, "2"),
    ]
    figure = realised_recall(found)
    assert legend(figure) == [
        "least the gate asks",
        "as it was",
        "as it was, on dates the version learned from",
    ]
    begun = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert begun == {"version 1": date(2025, 9, 1), "version 2": date(2025, 9, 15)}
    assert len(realised_recall([]).axes) == 1


def test_of_years_of_weeks_and_models_a_picture_shows_the_latest_and_says_so() -> None:
    weeks = range(3 * 52)
    drift = [measured(Metric.PSI, name, week, 0.01, Status.OK) for week in weeks for name in ("recency_days", "score")]
    recall = [measured(Metric.REALISED_RECALL, "", week, 0.5, Status.OK, str(1 + week // 4)) for week in weeks]
    models = [JudgedVersion(f"version {number}", 0.5, 0.4, 0.6, True) for number in weeks]
    stability, realised, versions = (
        drift_over_dates(drift),
        realised_recall(recall, recall),
        recall_over_versions(models),
    )
    assert [figure.get_size_inches()[0] < 15 for figure in (stability, realised, versions)] == [True] * 3
    ticks = [label.get_text() for label in stability.axes[0].get_xticklabels()]
    assert (len(ticks), ticks[0], ticks[-1]) == (26, "28 Feb 2028", "21 Aug")
    assert stability.axes[0].get_title().endswith("the last 26 of 156 weeks (! warns, !! fails)")
    shown = [text.get_text() for text in realised.axes[0].texts]
    assert set(shown) == {f"version {number}" for number in range(33, 40)}
    assert len(legend(realised)) == 3
    assert realised.axes[0].get_title().endswith("the last 26 of 156 weeks")
    named = [label.get_text() for label in versions.axes[0].get_xticklabels()]
    assert named == [f"version {number}" for number in weeks[-20:]]
    assert versions.axes[0].get_title().endswith("the last 20 of 156 models")


# ---- the dates of a backtest


def judged_date(
    day: int, recall: float | None, over: float | None, *, is_own: bool = False, missed: str = ""
) -> JudgedDate:
    found = Estimate() if recall is None else Estimate(recall, recall - 0.1, recall + 0.1)
    none = Estimate()
    figures = Figures(100, 20, 20, 9, 0.2, found, none, none, none, none, none, none)
    rivals = (
        () if over is None else (Comparison("rule", 100, 0.3, 0.3 + over, Estimate(over, over - 0.02, over + 0.02)),)
    )
    return JudgedDate(date(2025, 11, day), is_own, figures, rivals, 0.3, (missed,) if missed else ())


def test_each_date_has_its_recall_beside_the_least_and_the_version_itself_is_filled() -> None:
    figure = figures_over_dates(
        [
            judged_date(3, 0.25, -0.01, missed="recall"),
            judged_date(10, 0.5, 0.04),
            judged_date(17, 0.45, 0.03, is_own=True),
        ]
    )
    recall, over = figure.axes
    bars = [each for each in recall.containers if isinstance(each, ErrorbarContainer)]
    assert [ys(bar.lines[0])[0] for bar in bars] == [0.25, 0.5, 0.45]
    assert [bar.lines[0].get_markerfacecolor() == "white" for bar in bars] == [True, True, False]
    colours = [bar.lines[0].get_color() for bar in bars]
    assert colours[0] != colours[1] == colours[2]
    assert legend(figure) == ["least recall", "a perfect ranking with as many alerts", "missed", "holds"]
    assert ys(recall.lines[0]) == [0.3, 0.3, 0.3]
    assert [ys(bar.lines[0])[0] for bar in over.containers if isinstance(bar, ErrorbarContainer)] == [-0.01, 0.04, 0.03]


def test_a_date_at_which_nobody_left_is_drawn_without_figures() -> None:
    figure = figures_over_dates([judged_date(3, None, None, missed="nobody left"), judged_date(10, 0.5, 0.04)])
    assert len([each for each in figure.axes[0].containers if isinstance(each, ErrorbarContainer)]) == 1
    assert drawn(figure).title == "The dates of the backtest"


def test_the_profit_curve_has_its_interval_the_budget_the_alerted_and_where_it_is_highest() -> None:
    curve = tuple(Estimate(value, value - 0.1, value + 0.2) for value in (SHARES * (0.6 - SHARES)).tolist())
    profit = Profit(curve, Estimate(0.08, 0.02, 0.1), Estimate(0.12, 0.1, 0.2), "call")
    figure = profit_curve(profit, alerted=0.184, budget=0.2, confidence=0.9, currency="EUR")
    assert legend(figure) == [
        "90% interval",
        "contacting those of the highest scores",
        "alert budget 20%",
        "the alerted: 18.4%, 0.08",
        "most: 30%, 0.09",
    ]
    axes = figure.axes[0]
    assert axes.get_ylabel() == "profit per customer of all, EUR"
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert ys(lines["contacting those of the highest scores"]) == [each.value for each in curve]
    assert (xs(lines["alert budget 20%"]), xs(lines["the alerted: 18.4%, 0.08"])) == ([0.2, 0.2], [0.184])
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).extents == pytest.approx([0.0, -0.5, 1.0, 0.09 + 0.2])
    assert drawn(figure).title == "What contacting more customers earns"
    without = profit_curve(profit, alerted=0.184, budget=0.2, confidence=0.9, currency="")
    assert without.axes[0].get_ylabel() == "profit per customer of all"

"""Pictures are drawn with what was decided on them, and carried in the text that shows them."""

import base64
import re
import struct
from datetime import date, timedelta

import numpy as np
import pytest
from matplotlib.figure import Figure

from churn_assets.churn.intervals import wilson_interval
from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.pages.pictures import (
    JudgedVersion,
    calibration,
    churn_by_date,
    drawn,
    drift_over_dates,
    feature_importances,
    precision_recall,
    realised_recall,
    recall_over_versions,
    score_distribution,
)

CURVE = (np.array([0.2, 0.6, 1.0]), np.array([0.9, 0.5, 0.1]))
EMPTY = (np.array([]), np.array([]))
LIMITS = [("precision floor", 0.25), ("recall minimum", 0.3)]


def curves_of(chosen: tuple[float, float] | None = (0.6, 0.5), **curves: tuple) -> Figure:
    return precision_recall(curves or {"model": CURVE, "rule": CURVE}, title="The test", chosen=chosen, limits=LIMITS)


def test_a_picture_in_markdown_is_a_png_that_needs_no_server():
    found = re.fullmatch(r"!\[The test\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", drawn(curves_of()).markdown)
    assert found is not None
    png = base64.b64decode(found.group(1), validate=True)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (770, 506)


def test_every_curve_limit_and_the_threshold_is_named_in_the_legend():
    (axes,) = curves_of().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "model",
        "rule",
        "precision floor 0.25",
        "recall minimum 0.30",
        "threshold: recall 0.60, precision 0.50",
    ]


def test_recall_limits_are_upright_and_precision_limits_level():
    lines = {line.get_label(): line for line in curves_of().axes[0].get_lines()}
    assert list(lines["recall minimum 0.30"].get_xdata()) == [0.3, 0.3]
    assert list(lines["precision floor 0.25"].get_ydata()) == [0.25, 0.25]
    assert list(lines["model"].get_xdata()) == CURVE[0].tolist()
    assert list(lines["model"].get_ydata()) == CURVE[1].tolist()


@pytest.mark.parametrize("curves", [{}, {"model": EMPTY}], ids=["no curve", "an empty curve"])
def test_without_a_curve_or_a_threshold_there_is_still_a_picture(curves):
    figure = precision_recall(curves, title="NOT_EVALUABLE", chosen=None, limits=LIMITS)
    assert drawn(figure).markdown.startswith("![NOT_EVALUABLE](data:image/png;base64,")
    assert not any(line.get_label().startswith("threshold") for line in figure.axes[0].get_lines())


# ---- feature importances


def test_the_most_important_feature_is_the_topmost_bar_and_every_share_is_written():
    (axes,) = feature_importances({"some": 0.25, "most": 0.7, "none": 0.0, "few": 0.05}, "What it uses").axes
    from_the_top = sorted(axes.patches, key=lambda bar: -bar.get_y())
    assert [bar.get_width() for bar in from_the_top] == [0.7, 0.25, 0.05, 0.0]
    assert [label.get_text() for label in reversed(axes.get_yticklabels())] == ["most", "some", "few", "none"]
    assert {text.get_text() for text in axes.texts} == {"70.0%", "25.0%", "5.0%", "0.0%"}
    assert axes.get_title() == "What it uses"


# ---- reliability diagram


def points(figure: Figure) -> list[tuple[float, float]]:
    """(mean score, share that left) of each group, by rising score."""
    return [(bars.lines[0].get_xdata()[0], bars.lines[0].get_ydata()[0]) for bars in figure.axes[0].containers]


def counts(figure: Figure) -> list[int]:
    return [int(text.get_text().replace(",", "")) for text in figure.axes[0].texts]


def test_customers_are_grouped_by_score_and_each_group_tells_what_followed():
    rng = np.random.default_rng(0)
    scores = rng.permutation(np.linspace(0.001, 1.0, 1000) ** 3)
    labels = (rng.random(1000) < scores).astype(float)
    figure = calibration(scores, labels, title="Calibration")
    assert counts(figure) == [100] * 10
    order = np.argsort(scores)
    expected = [(scores[tenth].mean(), labels[tenth].mean()) for tenth in np.split(order, 10)]
    assert np.array(points(figure)) == pytest.approx(np.array(expected))


def test_each_share_has_its_wilson_interval():
    labels = (np.arange(40) < 4).astype(float)
    (bars,) = calibration(np.full(40, 0.1), labels, title="Calibration", confidence=0.9).axes[0].containers
    (upright,) = bars.lines[2]
    assert upright.get_segments()[0][:, 1] == pytest.approx(wilson_interval(4, 40, 0.9))


def test_scores_that_are_probabilities_lie_on_the_diagonal():
    scores = np.repeat([0.1, 0.3], 100)
    labels = np.concatenate([np.arange(100) < 10, np.arange(100) < 30]).astype(float)
    figure = calibration(scores, labels, title="Calibration")
    assert points(figure) == [pytest.approx((0.1, 0.1)), pytest.approx((0.3, 0.3))]
    (diagonal,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "score = share"]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())


def test_customers_of_one_score_are_in_one_group_whatever_their_order():
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
def test_few_customers_or_one_outcome_still_give_a_picture(scores, labels, drawn_rows):
    figure = calibration(np.array(scores), np.array(labels), title="Calibration")
    assert drawn(figure).data_uri.startswith("data:image/png;base64,")
    if drawn_rows:
        assert counts(figure) == drawn_rows
    else:
        assert [text.get_text() for text in figure.axes[0].texts] == ["no customers to show"]


# ---- scores, dates, versions


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_distribution_counts_each_outcome_and_who_is_alerted():
    scores, labels = np.array([0.1, 0.1, 0.2, 0.9, np.nan]), np.array([0.0, 0.0, 1.0, 1.0, 0.0])
    figure = score_distribution(scores, labels, 0.2, "Scores")
    assert legend(figure) == ["stayed (2)", "left (2)", "threshold 0.200: 2 of 4 alerted"]
    heights = [sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    assert heights == [2, 2], "a score that is missing has no place"


@pytest.mark.parametrize("scores", [[], [np.nan], [0.0, 0.0]], ids=["nobody", "nothing known", "all zero"])
def test_a_distribution_of_next_to_nothing_is_still_a_picture(scores):
    figure = score_distribution(np.array(scores), np.zeros(len(scores)), None, "Scores")
    assert drawn(figure).data_uri.startswith("data:image/png;base64,")


def weeks(*shares: tuple[float | None, float]) -> list[SnapshotShares]:
    begin = date(2025, 9, 1)
    return [SnapshotShares(begin + timedelta(weeks=week), 100, *both) for week, both in enumerate(shares)]


def test_the_crisis_is_marked_where_the_exposure_is_at_least_half_its_peak():
    figure = churn_by_date(weeks((0.1, 0.02), (0.1, 0.02), (0.2, 0.2), (0.4, 0.3), (None, 0.02)), 45)
    assert legend(figure) == [
        "had a delivery over 45 minutes late",
        "left within the outcome window",
        "crisis: 15 Sep 2025 to 22 Sep 2025",
    ]
    (line,) = figure.axes[0].get_lines()
    assert line.get_ydata()[:4].tolist() == [0.1, 0.1, 0.2, 0.4]
    assert np.isnan(line.get_ydata()[4]), "what is not yet known is not drawn"


@pytest.mark.parametrize("exposed", [(0.1, 0.12, 0.15), (0.0, 0.0, 0.0), ()], ids=["steady", "none", "no snapshot"])
def test_where_nothing_stands_out_no_crisis_is_marked(exposed):
    assert len(legend(churn_by_date(weeks(*[(0.1, share) for share in exposed]), 45))) == 2


def test_every_judged_version_has_its_recall_with_interval_and_its_verdict():
    judged = [
        JudgedVersion("version 1", 0.5, 0.4, 0.6, True),
        JudgedVersion("run 0123abcd", 0.2, 0.1, 0.3, False),
        JudgedVersion("run 4567cdef", None, None, None, False),
        JudgedVersion("version 2", 1.0, 0.8, 1.0, True),
    ]
    figure = recall_over_versions(judged, 0.3)
    assert legend(figure) == ["least lower bound 0.30", "PASS", "not passed"]
    passed, refused = figure.axes[0].containers
    assert (passed.lines[0].get_xdata().tolist(), passed.lines[0].get_ydata().tolist()) == ([0, 3], [0.5, 1.0])
    assert refused.lines[0].get_xdata().tolist() == [1]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [model.name for model in judged]
    (upright,) = passed.lines[2]
    assert upright.get_segments()[0][:, 1] == pytest.approx([0.4, 0.6])


def test_without_any_version_there_is_still_a_picture():
    assert drawn(recall_over_versions([], 0.3)).data_uri.startswith("data:image/png;base64,")


def measured(metric: Metric, subject: str, week: int, value: float | None, status: Status, version: str = "1"):
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


def test_the_drift_of_each_subject_and_date_is_written_in_its_cell_with_a_mark_where_it_alarms():
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
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 Sep", "8 Sep"]
    assert drawn(drift_over_dates([])).markdown.startswith("![Population stability against the training data")


def test_realised_recall_is_marked_by_version_and_by_whether_it_flatters():
    found = [
        measured(Metric.REALISED_RECALL, "", 0, 0.6, Status.OK),
        measured(Metric.REALISED_RECALL, "", 1, 0.5, Status.OK),
        measured(Metric.REALISED_RECALL, "", 2, 0.4, Status.OK, "2"),
        measured(Metric.REALISED_RECALL, "", 3, None, Status.NOT_YET_KNOWN, "2"),
    ]
    axes = realised_recall(found, 0.3).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "least the gate asks 0.30",
        "version 1",
        "version 1, on dates it learned from",
        "version 2",
    ]
    assert len(realised_recall([], 0.3).axes) == 1

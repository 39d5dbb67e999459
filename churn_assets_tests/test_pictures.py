"""Pictures are drawn with what was decided on them, and carried in the text that shows them."""

import base64
import re
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure

from churn_assets.churn.intervals import wilson_interval
from churn_assets.pictures import as_markdown, calibration, data_uri, feature_importances, precision_recall

CURVE = (np.array([0.2, 0.6, 1.0]), np.array([0.9, 0.5, 0.1]))
EMPTY = (np.array([]), np.array([]))
LIMITS = [("precision floor", 0.25), ("recall minimum", 0.3)]


def drawn(chosen: tuple[float, float] | None = (0.6, 0.5), **curves: tuple) -> Figure:
    return precision_recall(curves or {"model": CURVE, "rule": CURVE}, title="The test", chosen=chosen, limits=LIMITS)


def test_a_picture_in_markdown_is_a_png_that_needs_no_server():
    found = re.fullmatch(r"!\[The test\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", as_markdown(drawn()))
    assert found is not None
    png = base64.b64decode(found.group(1), validate=True)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (770, 506)


def test_every_curve_limit_and_the_threshold_is_named_in_the_legend():
    (axes,) = drawn().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "model",
        "rule",
        "precision floor 0.25",
        "recall minimum 0.30",
        "threshold: recall 0.60, precision 0.50",
    ]


def test_recall_limits_are_upright_and_precision_limits_level():
    lines = {line.get_label(): line for line in drawn().axes[0].get_lines()}
    assert list(lines["recall minimum 0.30"].get_xdata()) == [0.3, 0.3]
    assert list(lines["precision floor 0.25"].get_ydata()) == [0.25, 0.25]
    assert list(lines["model"].get_xdata()) == CURVE[0].tolist()
    assert list(lines["model"].get_ydata()) == CURVE[1].tolist()


@pytest.mark.parametrize("curves", [{}, {"model": EMPTY}], ids=["no curve", "an empty curve"])
def test_without_a_curve_or_a_threshold_there_is_still_a_picture(curves):
    figure = precision_recall(curves, title="NOT_EVALUABLE", chosen=None, limits=LIMITS)
    assert as_markdown(figure).startswith("![NOT_EVALUABLE](data:image/png;base64,")
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
    assert data_uri(figure).startswith("data:image/png;base64,")
    if drawn_rows:
        assert counts(figure) == drawn_rows
    else:
        assert [text.get_text() for text in figure.axes[0].texts] == ["no customers to show"]

"""Pictures are drawn with what was decided on them, and carried in the text that shows them."""

import base64
import re
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure

from churn_assets.pictures import as_markdown, precision_recall

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

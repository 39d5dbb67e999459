"""Pictures for people: what the curves behind a decision look like. Nothing is computed here."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from numpy import float64
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[NDArray[float64], NDArray[float64]]
COLOURS = ("#1f5fa8", "#c44e28", "#4a8f4a", "#7d5ba6")


def precision_recall(
    curves: Mapping[str, Curve], *, title: str, chosen: tuple[float, float] | None, limits: Sequence[tuple[str, float]]
) -> "Figure":
    """Precision over recall for each named curve, the first one bold.

    chosen: recall and precision of the threshold, if there is one. limits: named least recalls (vertical lines) begin
    with "recall", all others are least precisions (horizontal lines).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(recall, precision, color=colour, linewidth=2.4 if number == 0 else 1.2, label=name, zorder=4 - number)
    for name, least in limits:
        line = axes.axvline if name.startswith("recall") else axes.axhline
        line(least, color="#888888", linewidth=1, linestyle=":", label=f"{name} {least:.2f}")
    if chosen is not None:
        label = f"threshold: recall {chosen[0]:.2f}, precision {chosen[1]:.2f}"
        axes.plot([chosen[0]], [chosen[1]], "o", color="#222222", markersize=9, zorder=9, label=label)
    axes.set(
        title=title, xlabel="recall (share of churners found)", ylabel="precision (share of alerts that are right)"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=8)
    return figure


def as_markdown(figure: "Figure") -> str:
    """The picture itself, as Markdown that needs no server."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    title = figure.axes[0].get_title()
    return f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"

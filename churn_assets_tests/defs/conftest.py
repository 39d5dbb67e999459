"""What is decided and written is tried here, in many flows; how pictures look, in `pages` and on the whole flow."""

from collections.abc import Iterator

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG


@pytest.fixture(autouse=True, scope="module")
def _figures_are_made_and_not_rendered() -> Iterator[None]:
    """To render them is a fifth of a flow's time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FigureCanvasAgg, "print_png", lambda _, file: file.write(b"a picture"))
        patched.setattr(FigureCanvasSVG, "print_svg", lambda _, file, **__: file.write(b"a picture"))
        yield

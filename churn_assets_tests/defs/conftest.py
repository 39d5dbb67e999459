"""What is decided and written is tried here, in many flows; how pictures look, in `pages` and on the whole flow."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _figures_are_not_rendered(figures_not_rendered: None) -> None:
    """All of `defs`."""

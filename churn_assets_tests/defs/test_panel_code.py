"""A panel that other code computed is told from one that today's computed, whatever module the code is in."""

from collections.abc import Callable

import pytest

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs import features, panel_code
from churn_assets.defs.features import PANEL, other_rules, stored_future_outcome
from churn_assets_tests.conftest import Project

computed: Callable[[], str] = panel_code.panel_code.__wrapped__


@pytest.mark.parametrize(
    ("module", "is_of_the_panel"),
    [
        ("features", True),
        ("labels", True),
        ("catalogue", True),
        ("observed", True),
        ("measures", True),
        ("reasons", False),
        ("promotion", False),
    ],
)
def test_the_hash_changes_with_the_source_that_computes_the_panel_and_with_no_other(
    monkeypatch: pytest.MonkeyPatch, module: str, is_of_the_panel: bool
) -> None:
    before = computed()
    source = panel_code._source

    def changed(name: str) -> str:
        return source(name).replace("1", "2") if name == f"churn_assets.churn.{module}" else source(name)

    assert changed(f"churn_assets.churn.{module}") != source(f"churn_assets.churn.{module}")
    monkeypatch.setattr(panel_code, "_source", changed)
    assert (computed() != before) == is_of_the_panel


def test_a_module_that_the_code_comes_to_import_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source = panel_code._source
    read = []

    def importing(name: str) -> str:
        read.append(name)
        more = "\n    from churn_assets.churn import ranking as order\n"
        return source(name) + (f"def late():{more}" if name == "churn_assets.churn.measures" else "")

    monkeypatch.setattr(panel_code, "_source", importing)
    computed()
    assert "churn_assets.churn.ranking" in read


def test_a_module_without_its_source_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"churn_assets\.churn\.nowhere"):
        panel_code._source("churn_assets.churn.nowhere")


def test_a_panel_of_other_code_is_no_ground_for_anything(built: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    version = built.lakehouse.pin(PANEL)[PANEL]
    assert other_rules(built.lakehouse, version, built.policy) is None
    monkeypatch.setattr(features, "panel_code", lambda: "other code")
    other = other_rules(built.lakehouse, version, built.policy)
    assert other is not None
    assert "features or their code" in other
    assert ChurnPolicy.panel_digest(built.policy, "other code") in other
    outcome = stored_future_outcome(built.lakehouse, version, built.policy)
    assert not outcome.is_passed
    assert "by other code than now" in outcome.observed

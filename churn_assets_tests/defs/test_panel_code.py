"""A panel that other code computed is told from one that today's computed, whatever module the code is in."""

import pytest

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs import origins
from churn_assets.defs.features import PANEL
from churn_assets.defs.origins import origin_of
from churn_assets.defs.panel_code import PANEL_MODULES, panel_code
from churn_assets.resources.running_code import code_digest, sources
from churn_assets_tests.conftest import Project


def test_the_hash_is_of_the_modules_that_compute_the_panel_and_of_no_others() -> None:
    modules = {
        name.removeprefix("churn_assets.churn.") for name in sources(module.__name__ for module in PANEL_MODULES)
    }
    assert {"features", "labels", "catalogue", "observed", "measures", "wording"} <= modules
    assert not {"reasons", "promotion", "evaluation", "retention"} & modules
    assert panel_code() == code_digest(module.__name__ for module in PANEL_MODULES)


def test_a_panel_of_other_code_is_no_ground_for_anything(built: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    version = built.lakehouse.pin(PANEL)[PANEL]
    assert origin_of(built.lakehouse, version, built.policy).other_rules() is None
    monkeypatch.setattr(origins, "panel_code", lambda: "other code")
    other = origin_of(built.lakehouse, version, built.policy).other_rules()
    assert other is not None
    assert "features or their code" in other
    assert ChurnPolicy.panel_digest(built.policy, "other code") in other
    outcome = origin_of(built.lakehouse, version, built.policy).future_outcome()
    assert not outcome.is_passed
    assert "by other code than now" in outcome.observed

"""A version made again from its recorded inputs comes out the same, however far the tables have moved on."""

from collections.abc import Callable

import dagster as dg
import pytest

from churn_assets.churn import splits
from churn_assets.commands.reproduce import Reproduction, UnreproducibleVersionError, comparison, reproduce
from churn_assets.definitions import DEMO, REFRESH
from churn_assets.resources.promotions import LEDGER
from churn_assets_tests.conftest import TINY_DEMO, Project, causes_of

ORDERS, SILVER = "food_delivery/orders", "food_delivery/silver_orders_enriched"
PANEL = "food_delivery/ml_churn_features"


def unheard(_: dg.Definitions, __: dg.JobDefinition) -> Callable[[dg.EventLogEntry], None]:
    return lambda entry: None


def made_again(project: Project, version: str) -> Reproduction:
    return reproduce(project.resources, project.settings, version, unheard)


@pytest.fixture(scope="module")
def moved_on(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Version 1 was trained on tables that have other rows by now."""
    project = built.copied_to(tmp_path_factory.mktemp("moved_on") / "project")
    demo = TINY_DEMO.replace("customers = 1_000", "customers = 1_100\nseed = 7")
    (project.settings.project / "sources.toml").write_text(demo, encoding="utf-8")
    for job in (DEMO, REFRESH):
        result = project.run(job)
        assert result.success, causes_of(result)
    assert project.lakehouse.row_count(ORDERS) != project.lakehouse.row_count(ORDERS, 0)
    assert project.lakehouse.version(PANEL) == 1
    return project


def test_an_older_version_comes_out_the_same_after_the_tables_have_moved_on(moved_on: Project) -> None:
    before = moved_on.versions(), moved_on.lakehouse.version(LEDGER), moved_on.alias("production")
    found = made_again(moved_on, "1")
    assert found.differing == []
    assert found.inputs[ORDERS] == 0
    assert found.recorded["model_digest"]
    assert {"rows", "churners", "caught", "recall", "recall_low", "precision", "pr_auc", "brier", "threshold"} < set(
        found.recorded
    )
    assert None not in (found.recorded["recall"], found.recorded["pr_auc"])
    assert comparison(found).startswith("Version 1 made again is the same: ")
    assert (moved_on.versions(), moved_on.lakehouse.version(LEDGER), moved_on.alias("production")) == before


def test_other_rows_to_judge_on_are_told_as_different(moved_on: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "TEST_FOLDS", range(19))
    found = made_again(moved_on, "1")
    assert {"rows", "recall"} <= set(found.differing)
    told = comparison(found)
    assert told.startswith("Version 1 made again is different: ")
    (line,) = [line for line in told.splitlines() if line.split()[:1] == ["rows"]]
    assert line.split() == ["rows", str(found.recorded["rows"]), str(found.reproduced["rows"]), "differs"]


def test_a_version_that_is_not_there_is_named(built: Project) -> None:
    with pytest.raises(UnreproducibleVersionError, match="There is no version 9 of quickbite_churn_predictor"):
        made_again(built, "9")


def test_a_version_without_a_recorded_evaluation_cannot_be_compared(project: Project) -> None:
    import deltalake

    deltalake.DeltaTable(project.lakehouse.path("recall_churn")).delete()
    with pytest.raises(UnreproducibleVersionError, match="is recorded"):
        made_again(project, "1")

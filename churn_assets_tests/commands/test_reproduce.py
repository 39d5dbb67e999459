"""A version made again from its recorded inputs comes out the same, however far the tables have moved on."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import dagster as dg
import pytest

from churn_assets.churn import splits
from churn_assets.commands.progress import StageProgress
from churn_assets.commands.reproduce import (
    Reproduction,
    UnreproducibleVersionError,
    _apart,
    as_recorded_then,
    comparison,
    reproduce,
)
from churn_assets.commands.summary import _evaluation_lines
from churn_assets.definitions import DEMO, LIFECYCLE, REFRESH
from churn_assets.resources.promotions import LEDGER
from churn_assets.resources.settings import settings_from_env
from churn_assets_tests.conftest import OTHERWISE, TINY_DEMO, Project, causes_of, materializations_of

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


def test_a_trial_is_never_made_in_a_catalog(tmp_path: Path) -> None:
    settings = settings_from_env({"CHURN_TABLES": "catalog"})
    apart = _apart(settings, tmp_path)
    assert (settings.tables, apart.tables) == ("catalog", "paths")
    assert apart.lakehouse == str(tmp_path / "lakehouse")


def test_a_version_that_is_not_there_is_named(built: Project) -> None:
    with pytest.raises(UnreproducibleVersionError, match="There is no version 9 of quickbite_churn_predictor"):
        made_again(built, "9")


def test_a_version_without_a_recorded_evaluation_cannot_be_compared(project: Project) -> None:
    import deltalake

    deltalake.DeltaTable(project.lakehouse.path("recall_churn")).delete()
    with pytest.raises(UnreproducibleVersionError, match="is recorded"):
        made_again(project, "1")


def test_what_contacts_earn_is_not_compared_where_the_evaluation_of_then_did_not_compute_it() -> None:
    """Of a version of 0.6.0 with [economics], once a later evaluation has widened the table."""
    then = {"recall": 0.5, "threshold": None, "profit_per_customer": None, "empc": None, "empc_action": None}
    now = {**then, "profit_per_customer": 1.5, "empc": 2.5, "empc_action": "voucher"}
    recorded = as_recorded_then(then)
    assert recorded == {"recall": 0.5, "threshold": None}
    assert Reproduction("1", {}, "commit", recorded, now).differing == []
    assert as_recorded_then(now) == now


# ---- a version that was judged at several dates


@pytest.fixture(scope="module")
def over_dates(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Version 1 serves, and version 2, judged by a backtest, is registered."""
    project = built.copied_to(tmp_path_factory.mktemp("over_dates") / "project")
    gate = project.policy.gate.model_copy(update={"evaluation": "backtest"})
    asked = project.under(project.policy.model_copy(update={"gate": gate}))
    chosen = ("food_delivery/label_feasibility", "churn_pipeline_model", "recall_churn", "registered_churn_model")
    result = asked.run(LIFECYCLE, *chosen, config={"churn_pipeline_model": OTHERWISE})
    assert result.success, causes_of(result)
    made = materializations_of(result)["recall_churn"].metadata
    assert "| **2025-12-01** |" in str(made["dates"].value)
    assert str(made["figures_over_dates"].value).startswith("![The dates of the backtest](data:image/png")
    return asked


def test_the_dates_that_it_was_judged_at_are_recorded_and_only_the_latest_judged_the_version(
    over_dates: Project,
) -> None:
    row = max(over_dates.lakehouse.records("recall_churn"), key=lambda row: row["evaluated_at"])
    dates = row["dates"]
    assert (row["evaluation"], row["verdict"], row["champion"]) == ("backtest", "PASS", "1")
    assert [str(each["as_of"]) for each in dates] == ["2025-11-10", "2025-11-17", "2025-11-24", "2025-12-01"]
    assert [each["is_own"] for each in dates] == [False, False, False, True]
    assert sum(each["rows"] for each in dates) == row["rows"]
    assert sum(each["caught"] for each in dates) == row["caught"]
    # The champion knows what came after the earlier dates.
    (champion,) = [each for each in row["comparisons"] if each["rival"] == "champion"]
    assert champion["rows"] == dates[-1]["rows"] == over_dates.lakehouse.row_count("food_delivery/test_features")
    told = "\n".join(_evaluation_lines(over_dates.lakehouse, over_dates.policy, row["evaluated_at"]))
    assert f"      2025-12-01  recall {dates[-1]['recall']:.3f}, churn rate" in told
    assert "dates at which recall and rankings hold 4 of 4 (asked for: 5) at least 3 met" in " ".join(told.split())


def test_a_version_that_was_judged_at_several_dates_comes_out_the_same_and_says_how_far_it_is(
    over_dates: Project,
) -> None:
    shown = StringIO()
    found = reproduce(
        over_dates.resources,
        over_dates.settings,
        "2",
        lambda defs, job: StageProgress(defs, job, shown).show,
    )
    assert found.differing == []
    assert found.recorded["pr_auc"] is not None
    told = [line.strip() for line in shown.getvalue().splitlines() if line.strip().startswith("backtest ")]
    assert told == [
        "backtest 1 of 4: the model itself, at 2025-12-01",
        *(
            f"backtest {place} of 4: a model of what was known by {day}"
            for place, day in ((2, "2025-11-24"), (3, "2025-11-17"), (4, "2025-11-10"))
        ),
    ]

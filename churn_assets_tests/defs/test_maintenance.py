"""The lakehouse's size is bounded, and what is named can be made again."""

from pathlib import Path
from typing import Any

import deltalake
import pytest

from churn_assets.commands.reproduce import reproduce
from churn_assets.definitions import REFRESH
from churn_assets.defs.features import PANEL
from churn_assets.defs.lakehouse import SILVER
from churn_assets.defs.maintenance import MAINTENANCE, scheduled_maintenance
from churn_assets.delta.tables import MissingFileError
from churn_assets_tests.conftest import Project, causes_of

REFRESHES = 5


def size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def changed_orders(project: Project) -> None:
    """Another value of an order, so that a refresh finds other rows."""
    table = deltalake.DeltaTable(project.lakehouse.path("demo/orders"))
    (last,) = table.to_pyarrow_table().sort_by([("ordered_at", "descending")]).slice(0, 1).to_pylist()
    table.update(updates={"subtotal": "subtotal + 1"}, predicate=f"order_id = '{last['order_id']}'")


def maintained(project: Project) -> Any:
    result = project.run(MAINTENANCE, config={"maintain_tables": {"older_than_hours": 0}})
    assert result.success, causes_of(result)
    return result


def test_after_many_refreshes_the_size_is_bounded_and_what_is_named_is_made_again(project: Project) -> None:
    before = size(project.settings.lakehouse)
    for _ in range(REFRESHES):
        changed_orders(project)
        assert project.run(REFRESH).success
    grown = size(project.settings.lakehouse)
    result = maintained(project)
    bounded = size(project.settings.lakehouse)
    assert bounded < 3 * before
    assert bounded < grown
    # Version 1 of the model comes from the first orders; those between are nobody's.
    assert project.lakehouse.read(SILVER, 0).count() > 0
    with pytest.raises(MissingFileError):
        project.lakehouse.read(SILVER, 1)
    (output,) = [event.step_output_data for event in result.all_events if event.is_successful_output]
    assert f"| {SILVER}" in output.metadata["tables"].value.replace("\\", "")
    assert output.metadata["removed_bytes"].value > 0
    reproduction = reproduce(project.resources, project.settings, "1", lambda *_: lambda _: None)
    assert reproduction.differing == []


def test_a_refresh_of_sources_that_did_not_move_takes_no_room(project: Project) -> None:
    before = size(project.settings.lakehouse)
    version = project.lakehouse.version(PANEL)
    assert project.run(REFRESH).success
    assert size(project.settings.lakehouse) < 1.1 * before
    again = project.lakehouse.version(PANEL)
    assert (version, again) == (0, 1)
    assert project.lakehouse.audit({PANEL: 1}) is not None, "the rows are those that the audit saw"
    assert project.lakehouse.inputs(PANEL, 1)["food_delivery/silver_orders_enriched"] == 1


def test_nothing_is_removed_while_nobody_can_say_what_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: Any) -> Any:
        raise OSError("MLflow does not answer")

    monkeypatch.setattr("churn_assets.resources.tracking.TrackingResource.data_versions", silent)
    before = size(project.settings.lakehouse)
    result = project.run(MAINTENANCE, config={"maintain_tables": {"older_than_hours": 0}})
    assert "MLflow does not answer" in causes_of(result)[0]
    assert size(project.settings.lakehouse) == before


def test_upkeep_is_off_until_switched_on() -> None:
    assert scheduled_maintenance.default_status.value == "STOPPED"

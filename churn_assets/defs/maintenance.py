"""Upkeep of the lakehouse as a job with a schedule: what it removes, what it keeps, and what keeps it."""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg
from pydantic import Field

from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import PANEL
from churn_assets.defs.scoring import SCORES, UNSCORED
from churn_assets.delta.maintenance import Upkeep
from churn_assets.pages import markdown
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.named_versions import named_versions
from churn_assets.resources.promotions import LEDGER
from churn_assets.resources.tracking import TrackingResource

MAINTENANCE = "lakehouse_maintenance"
# Sundays, when no refresh is scheduled.
CRON = "0 2 * * 0"


class MaintenanceConfig(dg.Config):
    """What counts as left behind."""

    older_than_hours: int = Field(
        24,
        ge=0,
        description="Files replaced, or left by failed writes, longer ago than this are removed; no run takes longer.",
    )


@dg.op
def maintain_tables(
    context: dg.OpExecutionContext,
    config: MaintenanceConfig,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
) -> None:
    """Compacts, writes checkpoints, and removes what no registered model, evaluation, ledger row or score names."""
    older_than = timedelta(hours=config.older_than_hours)
    temporary = lakehouse.remove_temporary_files(older_than)
    named = named_versions(
        lakehouse, tracking, recorded_in=(EVALUATIONS, LEDGER), scored_in=(SCORES, UNSCORED), features=PANEL
    )
    done = {table: lakehouse.maintain(table, named.get(table, ()), older_than) for table in lakehouse.tables()}
    for table, upkeep in done.items():
        context.log.info(f"{table}: {told(upkeep)}")
        if upkeep.lost:
            context.log.warning(f"{table}: versions {_listed(upkeep.lost)} are named, and their files or log are gone")
    context.add_output_metadata(
        {
            "tables": dg.MetadataValue.md(
                markdown.table(["table", "upkeep"], [[table, told(upkeep)] for table, upkeep in done.items()])
            ),
            "removed_bytes": sum(upkeep.removed_bytes for upkeep in done.values()),
            "kept_bytes": sum(upkeep.bytes for upkeep in done.values()),
            "temporary_files_removed": len(temporary),
        }
    )


def told(upkeep: Upkeep) -> str:
    """What was done to a table, in a line."""
    done = []
    if upkeep.merged:
        done.append(f"{upkeep.merged:,} small files put together")
    if upkeep.removed:
        done.append(f"{upkeep.removed:,} files removed ({_size(upkeep.removed_bytes)})")
    kept = f"kept versions {_listed(upkeep.kept)} ({_size(upkeep.bytes)})"
    return "; ".join([*(done or ["nothing to do"]), kept])


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"


@dg.job(
    name=MAINTENANCE,
    description="Compacts small files, writes checkpoints, and removes what failed writes left and what no registered "
    "model, evaluation, ledger row or score names.",
)
def lakehouse_maintenance() -> None:
    maintain_tables()


scheduled_maintenance = dg.ScheduleDefinition(
    name="scheduled_maintenance",
    job=lakehouse_maintenance,
    cron_schedule=CRON,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Upkeep of the lakehouse, Sundays at 02:00 UTC.",
)

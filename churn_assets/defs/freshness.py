"""By when the tables that people wait for have to be written again: told by Dagster's UI, the checks and the alerts.

How far the orders in them reach is not asked here. Asks Delta logs only.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._utils.schedules import get_latest_completed_cron_tick

from churn_assets.churn.outcomes import Figure, Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.features import PANEL
from churn_assets.defs.monitoring import MONITORING
from churn_assets.defs.results import check_result
from churn_assets.defs.retention import TARGETS
from churn_assets.defs.scoring import SCORES
from churn_assets.resources.lakehouse import LakehouseResource

WAITED_FOR = (PANEL, SCORES, TARGETS, MONITORING)
# Noon of the day of the refresh: six hours after the scoring is scheduled. Written since midnight is on time.
DEADLINE_HOUR = 12
IN_TIME = timedelta(hours=DEADLINE_HOUR)
CHECK = "is_fresh"


def deadline_cron(policy: ChurnPolicy, table: str = PANEL) -> str:
    """The moments, in cron's words and UTC, by which a table is due: on each day on which it is refreshed.

    Those beyond the panel follow its snapshots, however often it is built.
    """
    return policy.calendar.cron(DEADLINE_HOUR, policy.refresh if table == PANEL else policy.as_of_dates.snapshots)


def with_freshness_policies(assets: Sequence[Any], policy: ChurnPolicy) -> list[Any]:
    """The assets, of which those that are waited for say by when, for Dagster's UI and daemon.

    Dagster goes by what it has seen materialized; the check goes by the table's log.
    """
    crons = {table: deadline_cron(policy, table) for table in WAITED_FOR}
    # One of each: Dagster looks at a thousand moments of a cron for its shortest interval.
    of_cron = {
        cron: dg.FreshnessPolicy.cron(deadline_cron=cron, lower_bound_delta=IN_TIME) for cron in set(crons.values())
    }
    due = {dg.AssetKey(table.split("/")): of_cron[cron] for table, cron in crons.items()}
    return list(
        dg.map_asset_specs(
            lambda spec: spec.replace_attributes(freshness_policy=due[spec.key]) if spec.key in due else spec, assets
        )
    )


def freshness_of(lakehouse: LakehouseResource, policy: ChurnPolicy, table: str, now: datetime) -> Outcome:
    """Whether the table's rows were written in time for its last deadline before `now` (aware), or since."""
    deadline = get_latest_completed_cron_tick(deadline_cron(policy, table), now, "UTC").astimezone(UTC)
    begin = deadline - IN_TIME
    written = lakehouse.written_at(table)
    observed = "there is none yet" if written is None else f"last written {written:%Y-%m-%d %H:%M} UTC"
    since = f"since {begin:%Y-%m-%d %H:%M} UTC"
    allowed = f"written {since}, due {deadline:%Y-%m-%d %H:%M} UTC"
    if written is None:
        return Outcome(CHECK, True, observed, allowed)
    hours = max(begin - written, timedelta()) / timedelta(hours=1)
    late = Figure("hours_overdue", "last written", f"{written:%Y-%m-%d %H:%M} UTC", since, hours == 0, hours, 0.0)
    return Outcome(CHECK, late.is_met, observed, allowed, figures=(late,))


def stale(lakehouse: LakehouseResource, policy: ChurnPolicy, now: datetime) -> Mapping[str, Outcome]:
    """The tables that are overdue."""
    found = {table: freshness_of(lakehouse, policy, table, now) for table in WAITED_FOR}
    return {table: outcome for table, outcome in found.items() if not outcome.is_passed}


def freshness_check(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table.split("/"),
        name=CHECK,
        description="Written in time for its last deadline: noon (UTC) of each day on which it is refreshed.",
    )
    def is_fresh(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.AssetCheckResult:
        return check_result(freshness_of(lakehouse, policy, table, datetime.now(UTC)))

    return is_fresh


# Each by itself, because a job takes the checks of its own assets.
checks = [freshness_check(table) for table in WAITED_FOR]

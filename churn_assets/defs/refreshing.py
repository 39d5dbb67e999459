"""What a refresh computes again of a table that is laid out by its as-of dates, and the one place that writes it.

Which dates changed orders touch is decided in `churn/touched.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field
from pyspark.sql import DataFrame

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.touched import TouchedDays, changed_orders, touched_dates, touched_days
from churn_assets.defs.erasures import forgotten_since
from churn_assets.defs.lakehouse import SILVER, stored_calendar
from churn_assets.delta.commits import TableCommit
from churn_assets.delta.tables import DeltaTableError
from churn_assets.resources.lakehouse import LakehouseResource

AS_OF = "as_of"
DIGEST = "panel_digest"
# Under this name a commit keeps what changed orders touched; of more it does not.
TOUCHED, MOST_RECORDED = "touched", 1000


class RefreshConfig(dg.Config):
    """How much a refresh computes."""

    rebuild: bool = Field(False, description="Compute every as-of date again, not only those that changes can touch.")


@dataclass(frozen=True)
class Refresh:
    """What is to be done to a table. dates: those to compute, of the calendar.

    upon: the version whose rows of the other dates stay; None: every date is computed, because of `reason`. gone: dates
    of that version which the calendar has no longer. since, touched: the version of silver that `upon` was computed
    from, and what changed since then touches.
    """

    table: str
    calendar: AsOfCalendar
    dates: frozenset[date]
    upon: int | None = None
    gone: frozenset[date] = frozenset()
    reason: str = ""
    since: int | None = None
    touched: tuple[TouchedDays, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What the commit keeps, so that who computes from the table need not compare the orders once more."""
        if self.upon is None or len(self.touched) > MOST_RECORDED:
            return {}
        return {TOUCHED: {"since": self.since, "days": [each.record for each in self.touched]}}

    @property
    def told(self) -> dict[str, Any]:
        """What was computed, for people."""
        computed = sorted(self.dates)
        span = f": {computed[0]} to {computed[-1]}" if computed else ""
        why = {"rebuilt_because": self.reason} if self.reason else {}
        return {"dates_computed": f"{len(computed)} of {len(self.calendar.dates)}{span}", **why}

    def stays(self, lakehouse: LakehouseResource) -> set[date]:
        """The dates whose rows stay."""
        there = set() if self.upon is None else set(lakehouse.dates(self.table, AS_OF, self.upon))
        return there - self.dates - self.gone


def refresh_of(
    lakehouse: LakehouseResource,
    table: str,
    silver_version: int,
    policy: ChurnPolicy,
    digest: str,
    *,
    is_labelled: bool,
    rests_on: str | None = None,
    rest_version: int | None = None,
    rebuild: bool = False,
) -> Refresh:
    """Which dates of `table` a silver version asks for; all of them wherever that cannot be told.

    digest: of the rules and the code of today, which the table's commits keep. is_labelled: whether labels are in it.
    rests_on: a table that it is computed from as well, now from its version `rest_version`.
    """
    calendar = stored_calendar(lakehouse, silver_version, policy)

    def all_dates(reason: str) -> Refresh:
        return Refresh(table, calendar, frozenset(calendar.dates), reason=reason)

    if rebuild:
        return all_dates("it was asked for")
    if not lakehouse.has(table):
        return all_dates("there is no table yet")
    upon = lakehouse.pin(table)[table]
    inputs = lakehouse.inputs(table, upon)
    rests = [] if rests_on is None else [(rests_on, version) for version in (inputs.get(rests_on), rest_version)]
    try:
        for each, version in [(table, upon), *rests]:
            if against := _against(lakehouse, each, version, digest):
                return all_dates(against)
        since = inputs[SILVER]
        recorded = {} if rests_on is None else lakehouse.commit_metadata(rests_on, rest_version).get(TOUCHED, {})
        days = (
            [TouchedDays.of_record(each) for each in recorded["days"]]
            if recorded.get("since") == since
            else _touched(lakehouse, since, silver_version, policy)
        )
    except DeltaTableError as lost:
        return all_dates(f"what it was computed from can no longer be read: {lost.summary}")
    if days is None:
        return all_dates(f"{SILVER} has other columns than before")
    touched = touched_dates(days, stored_calendar(lakehouse, since, policy), calendar, policy)
    dates = touched.labelled if is_labelled else touched.observed
    if dates >= frozenset(calendar.dates):
        return all_dates("every date is touched by what changed")
    return Refresh(table, calendar, dates, upon, touched.gone, "", since, tuple(days))


def _against(lakehouse: LakehouseResource, table: str, version: int | None, digest: str) -> str:
    """Why nothing can be told from a version of a table, None for an unknown one; empty where it can."""
    if version is None:
        return f"it does not say from which version of {table} it was computed"
    if not lakehouse.is_laid_out_by(table, AS_OF, version):
        return f"{table} was not laid out by its dates"
    commit = lakehouse.commit_metadata(table, version)
    if SILVER not in commit.get("inputs", {}):
        return f"version {version} of {table} does not say what it was computed from"
    if commit.get(DIGEST) != digest:
        return f"version {version} of {table} was computed under other rules or by other code"
    if forgotten_since(lakehouse, lakehouse.committed_at(table, version)):
        # Their rows are gone, and what the others' are compared with has moved.
        return f"customers were forgotten since version {version} of {table}"
    return ""


def _touched(lakehouse: LakehouseResource, before: int, after: int, policy: ChurnPolicy) -> list[TouchedDays] | None:
    """What the difference of two versions of silver touches; None where they have other columns."""
    if lakehouse.table_schema(SILVER, before) != lakehouse.table_schema(SILVER, after):
        return None
    apart = lakehouse.read_apart(SILVER, before, after)
    with lakehouse.held(changed_orders(*apart)) as changed:
        return touched_days(changed, policy)


def write_refresh(
    lakehouse: LakehouseResource,
    refresh: Refresh,
    computed: Callable[[AsOfCalendar], DataFrame],
    *,
    if_empty: Exception | None = None,
    audit: Callable[[DataFrame], Any] = lambda rows: None,
    metadata: Mapping[str, Any],
) -> TableCommit:
    """Computes what is to be computed and replaces those dates in one commit.

    computed: the rows at the dates of a calendar. audit: of the rows computed, as in `LakehouseResource.write`.
    Raises OvertakenError if anybody wrote the table since the refresh was planned.
    """
    table, upon, noted = refresh.table, refresh.upon, {**metadata, **refresh.record}
    if upon is None:
        rows = computed(refresh.calendar)
        return lakehouse.write(table, rows, by=AS_OF, audit=audit, if_empty=if_empty, metadata=noted)
    if refresh.dates:
        rows = computed(refresh.calendar.only(refresh.dates))
    else:
        rows = lakehouse.read(table, upon, dates=(AS_OF, ()))
    (commit,) = lakehouse.replace_dates(
        {table: rows},
        AS_OF,
        sorted(refresh.dates | refresh.gone),
        audit=lambda staged: audit(staged[table]),
        metadata=noted,
        upon=upon,
    )
    return commit

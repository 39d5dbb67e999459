"""Stage 8, for the retention team: the newest list as a page to search, sort and filter."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnlistableWeekError
from churn_assets.churn.labels import definition, known_churn_rate
from churn_assets.churn.outbox import WeekOfMessages
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.scoring import KEYS, STAMPS
from churn_assets.churn.week_at_risk import tier_limits
from churn_assets.churn.worklist import FIGURES, TO_CONTACT, Event, ScoredDate, events_of, worklist
from churn_assets.defs.origins import origin_of
from churn_assets.defs.outbox import LISTED, OUTBOX, RECEIPTS, week_of_messages
from churn_assets.defs.reasons import REASONS
from churn_assets.defs.results import OWNERS
from churn_assets.defs.retention import CONTACTS, EXCLUSIONS, EXPORTS, OPTED_OUT, TARGETS, members
from churn_assets.defs.risk_report import FOLDER
from churn_assets.defs.scoring import GROUP, SCORES
from churn_assets.pages.list_page import ListPage, list_page
from churn_assets.resources.lakehouse import LakehouseResource

PAGE = "retention_list_page"
# A quarter of a year of weeks; what a customer was like before is of no use in a talk.
EARLIER_DATES = 12
# What the page needs of the week's scores.
SCORED = ("customer_id", "churn_probability", "risk_tier", "is_alert", *STAMPS)


@dg.asset(
    key=PAGE,
    deps=[table.split("/") for table in (SCORES, REASONS, TARGETS, EXCLUSIONS, CONTACTS, OPTED_OUT)],
    group_name=GROUP,
    kinds={"html"},
    owners=OWNERS,
    code_version="1",
)
def retention_list_page(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.MaterializeResult:
    """The latest scored week's list as a page to work with: search, filters, each customer's reasons and history.

    It needs no network. What the team's tool was told is shown as far as it is known; the page does not wait for a tool
    that is down.
    """
    inputs = lakehouse.pin(SCORES, REASONS, TARGETS, EXCLUSIONS, CONTACTS, OPTED_OUT)
    inputs |= lakehouse.pin(*[table for table in (OUTBOX, RECEIPTS) if lakehouse.has(table)])
    dates = sorted(lakehouse.dates(SCORES, "as_of", inputs[SCORES]), reverse=True)
    if not dates:
        raise UnlistableWeekError(
            "No customer of any week is scored, so there is no list to show; the earlier page stays.",
            next_step=f"materialize {SCORES}",
        )
    as_of = dates[0]
    # Lists of before 0.7 do not say why they rank so.
    why = {"ranked_because"} & {*lakehouse.table_schema(TARGETS, inputs[TARGETS]).names}
    columns = [*dict.fromkeys([*LISTED, "ranked_by", *why, *FIGURES])]
    targets = lakehouse.arrow(TARGETS, columns, inputs[TARGETS], dates=("as_of", [as_of])).to_pylist()
    excluded = lakehouse.arrow(EXCLUSIONS, ["customer_id", "reason"], inputs[EXCLUSIONS], dates=("as_of", [as_of]))
    scores = lakehouse.arrow(SCORES, list(SCORED), inputs[SCORES], dates=("as_of", [as_of]))
    is_listed = bool(targets) or len(excluded) > 0
    if not is_listed and pc.any(scores.column("is_alert")).as_py():
        raise UnlistableWeekError(
            f"The week of {as_of} is scored and not listed yet; the earlier page stays.",
            next_step=f"materialize {TARGETS} for it",
        )
    customers = pa.array(
        [row["customer_id"] for row in targets] + excluded.column("customer_id").to_pylist(), pa.string()
    )
    scored = {row["customer_id"]: row for row in _of(scores, customers).to_pylist()}
    week = week_of_messages(lakehouse, inputs)
    if week is None or week.as_of != as_of:
        # The newest list is an earlier week's: nobody is at risk in this one.
        week = WeekOfMessages(as_of, {})
    origin = origin_of(lakehouse, scores.column("features_version")[0].as_py(), policy)
    shown = ListPage(
        worklist(
            week,
            targets,
            _kept_off(lakehouse, inputs[REASONS], as_of, excluded.to_pylist(), scored),
            earlier=_earlier(lakehouse, inputs, dates[1 : 1 + EARLIER_DATES], customers),
            events=_events(lakehouse, inputs, as_of, customers),
        ),
        worth=origin.worth(),
        currency=policy.units.currency,
        tiers=policy.units.tiers,
        limits=tier_limits(scores, known_churn_rate(origin.counted()), policy.scoring),
        population=origin.population(),
        churn_definition=definition(policy),
        made_at=datetime.now(UTC),
        list_file=f"{EXPORTS}/{as_of}.csv",
        made_from=[f"{table} version {number}" for table, number in inputs.items()],
    )
    path = lakehouse.write_file(f"{FOLDER}/{PAGE}.html", list_page(shown).encode())
    standings = [customer.standing for customer in shown.worklist.customers]
    return dg.MaterializeResult(
        metadata={
            "inputs": inputs,
            "as_of": str(as_of),
            "page": dg.MetadataValue.path(path),
            "customers": len(standings),
            "to_contact": standings.count(TO_CONTACT),
        }
    )


def _kept_off(
    lakehouse: LakehouseResource,
    version: int,
    as_of: date,
    excluded: Sequence[Mapping[str, Any]],
    scored: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Those of the excluded who are scored still, with score and reasons; at no risk that anybody knows are the others.

    scored: by customer. Raises UnlistableWeekError where the reasons are of another model or other features.
    """
    kept = [{**scored[row["customer_id"]], **row} for row in excluded if row["customer_id"] in scored]
    columns = ("customer_id", *STAMPS)
    reasons = lakehouse.arrow(REASONS, [*columns, "reasons"], version, dates=("as_of", [as_of]))
    of_them = _of(reasons, pa.array([row["customer_id"] for row in kept], pa.string())).to_pylist()
    told = {tuple(row[name] for name in columns): row["reasons"] for row in of_them}
    found = [{**row, "reasons": told.get(tuple(row[name] for name in columns))} for row in kept]
    if any(row["reasons"] is None for row in found):
        raise UnlistableWeekError(
            f"The week of {as_of} is listed, and not all of its scores are explained as they are now; the earlier page "
            "stays.",
            next_step=f"materialize {REASONS} for it",
        )
    return found


def _of(rows: pa.Table, customers: pa.Array) -> pa.Table:
    return rows.filter(pc.is_in(rows.column("customer_id"), customers))


def _earlier(
    lakehouse: LakehouseResource, versions: Mapping[str, int], dates: Sequence[date], customers: pa.Array
) -> dict[ScoredDate, dict[str, float]]:
    """The probabilities of the customers at each of the dates; one date at a time, for all of a week's are many."""
    earlier = {}
    for day in dates:
        columns = ["customer_id", "churn_probability", "model_version"]
        rows = lakehouse.arrow(SCORES, columns, versions[SCORES], dates=("as_of", [day]))
        scored_by = ", ".join(sorted(pc.unique(rows.column("model_version")).to_pylist()))
        theirs = _of(rows, customers)
        ids, probabilities = (theirs.column(name).to_pylist() for name in columns[:2])
        earlier[ScoredDate(day, scored_by)] = dict(zip(ids, probabilities, strict=True))
    return earlier


def _events(
    lakehouse: LakehouseResource, versions: Mapping[str, int], as_of: date, customers: pa.Array
) -> dict[str, list[Event]]:
    theirs = lakehouse.frame(pa.table({"customer_id": customers}))
    on_lists = members(lakehouse, versions[CONTACTS]).join(theirs, "customer_id", "left_semi")
    contacted_on = F.col("contacted_at").cast("date").alias("contacted_on")

    def told(table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        if table not in versions:
            return []
        return _of(lakehouse.arrow(table, columns, versions[table]), customers).to_pylist()

    return events_of(
        on_lists.select(*KEYS, contacted_on, "is_holdout").toArrow().to_pylist(),
        told(OUTBOX, ["message_id", *KEYS, "kind", "queued_at"]),
        told(RECEIPTS, ["message_id", *KEYS, "delivered_at", "contacted_at"]),
        week=as_of,
    )

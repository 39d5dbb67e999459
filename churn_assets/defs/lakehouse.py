"""Stage 1: the source tables as they arrive, and silver with everything that had to be set aside."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any

import dagster as dg
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn import cleaning
from churn_assets.churn.arrivals import (
    AFTER,
    ARRIVAL_RULES,
    FRESH,
    GAPS,
    VOLUME,
    Load,
    arrival_outcomes,
    days_after,
    fresh_outcome,
    require_past,
    require_true_clock,
)
from churn_assets.churn.calendar import (
    ONE_DAY,
    AsOfCalendar,
    DayCount,
    Span,
    as_record,
    calendar_of,
    day_counts,
    judged_days,
    low_runs,
    of_record,
    watermark_of,
)
from churn_assets.churn.columns import Column, arrow_schema
from churn_assets.churn.contract import (
    by_disposition,
    pace_outcome,
    readable_values,
    repaired_outcome,
    row_accounting,
    rule_remedies,
    source_schema_outcome,
)
from churn_assets.churn.errors import UndecidedSegmentsError
from churn_assets.churn.matching import (
    Matches,
    counted_keys,
    known_keys,
    match_outcome,
    match_rule,
    matches,
    named_keys,
)
from churn_assets.churn.outcomes import MAX_KEYS, Figure, Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import (
    CUSTOMERS,
    OPT_OUTS,
    ORDERS,
    REVIEWS,
    SOURCE_TABLES,
    SourceTable,
    as_canonical,
)
from churn_assets.defs.erasures import without_forgotten
from churn_assets.defs.results import (
    OWNERS,
    ColumnNote,
    as_metadata,
    as_numbers,
    check_result,
    described,
    same_columns,
    table_result,
    table_spec,
)
from churn_assets.delta.commits import TableCommit
from churn_assets.pages.pictures import drawn, orders_by_day
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.sources import SourceCatalog

GROUP = "lakehouse"
SILVER = "food_delivery/silver_orders_enriched"
SILVER_CUSTOMERS = "food_delivery/silver_customers"
SEGMENTS = "food_delivery/segment_dimension"
QUARANTINE = "food_delivery/quarantined_rows"
# Under this name a commit of silver keeps what came on each day.
DAYS, SOURCE_ROWS = "days", "source_rows"
# With so many loads before it a load is compared.
COMPARED_LOADS = 8
SEGMENT_SCHEMA = arrow_schema([Column("segment", "string"), Column("segment_index", "double")])


def landed(table: SourceTable) -> str:
    return f"food_delivery/{table.name}"


def source_asset(
    table: SourceTable,
    deps: list[dg.AssetKey],
    *,
    group: str = GROUP,
    also: Callable[[LakehouseResource, DataFrame], DataFrame] | None = None,
) -> dg.AssetsDefinition:
    """The asset that lands one source table, mapped by sources.toml, as it is: cleaning comes after.

    also: adds to the source's rows what came another way.
    """

    @dg.asset(
        key=landed(table).split("/"),
        deps=deps,
        group_name=group,
        kinds={"pyspark", "delta"},
        owners=OWNERS,
        code_version="1",
        description=f"{table.meaning} As the source delivers it, mapped by sources.toml; nothing is cleaned yet.",
    )
    def land(lakehouse: LakehouseResource, sources: dg.ResourceParam[SourceCatalog]) -> dg.MaterializeResult:
        opened = sources.examined(lakehouse.spark, table)
        if opened is None:
            rows, unreadable = lakehouse.spark.createDataFrame([], table.spark_schema), []
        else:
            rows, unreadable = opened.rows, [str(each) for each in opened.unreadable]
        if also is not None:
            rows = also(lakehouse, rows)
        with sources.explained(lakehouse.spark, table):
            commit = lakehouse.write(
                landed(table), without_forgotten(lakehouse, rows), metadata={"unreadable": unreadable}
            )
        metadata = {"is_configured": opened is not None, "unreadable_values": unreadable}
        return table_result(commit, metadata, described(table.columns))

    return land


def readable_values_check(table: SourceTable) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=landed(table).split("/"),
        name=f"{table.name}__readable_values",
        description=f"Every value of {table.name} that is written as text can be read as what its column holds.",
    )
    def values_are_readable(lakehouse: LakehouseResource) -> dg.AssetCheckResult:
        """Values that cannot be read are null, and their rows go by the rules of cleaning."""
        unreadable = lakehouse.commit_metadata(landed(table)).get("unreadable", [])
        return check_result(readable_values(table, unreadable))

    return values_are_readable


def source_schema_check(table: SourceTable) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=landed(table).split("/"),
        name=f"{table.name}__schema",
        blocking=True,
        description=f"{table.name} has every required column in a type that can be converted.",
    )
    def schema_fits(lakehouse: LakehouseResource) -> dg.AssetCheckResult:
        return check_result(source_schema_outcome(table, lakehouse.table_schema(landed(table))))

    return schema_fits


def match_checks(tables: Sequence[SourceTable]) -> dg.AssetChecksDefinition:
    """The checks that the rows of `tables` name orders (reviews) or customers that exist; they are counted together."""

    def spec(table: SourceTable) -> dg.AssetCheckSpec:
        what = "orders" if table is REVIEWS else "customers"
        return dg.AssetCheckSpec(
            match_rule(table),
            asset=landed(table).split("/"),
            # Blocks where its outcome is an error, which the policy asks for: retention.max_unmatched_opt_outs.
            blocking=table is OPT_OUTS,
            additional_deps=[landed(each).split("/") for each in (ORDERS, CUSTOMERS) if each is not table],
            description=f"The {table.name.replace('_', ' ')} are of {what} that exist, but for the policy's share; "
            "keys that are spelled nearly as a known one are named.",
        )

    @dg.multi_asset_check(
        name="_and_".join(table.name for table in tables) + "__match", specs=[*map(spec, tables)], can_subset=True
    )
    def rows_match(
        context: dg.AssetCheckExecutionContext, lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
    ) -> Iterator[dg.AssetCheckResult]:
        asked = {key.name for key in context.selected_asset_check_keys}
        of_asked = [table for table in tables if match_rule(table) in asked]
        for table, outcome in zip(of_asked, matches_of(lakehouse, of_asked, policy), strict=True):
            yield check_result(outcome, landed(table))

    return rows_match


def matches_of(lakehouse: LakehouseResource, tables: Sequence[SourceTable], policy: ChurnPolicy) -> list[Outcome]:
    """Whether the landed rows of each of `tables` are of orders or customers that exist."""
    orders, customers = (lakehouse.read(landed(each)) for each in (ORDERS, CUSTOMERS))
    relations = {
        table.name: (named_keys(lakehouse.read(landed(table)), table), known_keys(orders, customers, table))
        for table in tables
        if lakehouse.row_count(landed(table))
    }
    found: Mapping[str, Matches] = {}
    if relations:
        with lakehouse.held(counted_keys(relations)) as counted:
            found = matches(counted, {name: known for name, (_, known) in relations.items()})
    outcomes = []
    for table in tables:
        strict = policy.retention.max_unmatched_opt_outs if table is OPT_OUTS else None
        limit = policy.cleaning.max_unmatched_share if strict is None else strict
        of_table = found.get(table.name, Matches())
        outcomes.append(match_outcome(table, of_table, max_share=limit, is_warning=strict is None))
    return outcomes


@dg.multi_asset(
    name="silver_orders_enriched",
    specs=[
        table_spec(
            SILVER,
            "One row per kept order, with its review and its customer's segment; typed and deduplicated.",
            group=GROUP,
            deps=[landed(table) for table in SOURCE_TABLES],
        ),
        table_spec(
            SILVER_CUSTOMERS, "One row per kept customer with the segment.", group=GROUP, deps=[landed(CUSTOMERS)]
        ),
        table_spec(
            SEGMENTS,
            "Append-only numbers of the segments, most frequent first when first seen; no number ever changes.",
            group=GROUP,
            deps=[landed(CUSTOMERS)],
        ),
        table_spec(
            QUARANTINE,
            "Every source row that was not kept as it came, whole, with the rule: quarantined, cancelled, superseded "
            "(a later state of it stays), or repaired (only its delivery time was set aside).",
            group=GROUP,
            deps=[landed(table) for table in SOURCE_TABLES],
        ),
    ],
)
def silver(
    lakehouse: LakehouseResource, sources: dg.ResourceParam[SourceCatalog], policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.MaterializeResult]:
    """Cleans the source tables: every row is kept, cancelled, superseded or quarantined."""
    try:
        with ExitStack() as held:
            seen_from = looked_at(sources, policy)
            yield from _silver(lakehouse, policy, seen_from, lambda rows: held.enter_context(lakehouse.held(rows)))
    except UndecidedSegmentsError as refused:
        # What is landed has the mapped columns alone; what there is to choose by lies in the source.
        source = sources.sources.customers
        if source is None or source.format == "select":
            raise
        columns = sources.raw(lakehouse.spark, CUSTOMERS.name).rows.schema
        raise cleaning.undecided(refused.rivals, columns) from None


def _silver(
    lakehouse: LakehouseResource,
    policy: ChurnPolicy,
    seen_from: datetime,
    hold: Callable[[DataFrame], DataFrame],
) -> Iterator[dg.MaterializeResult]:
    inputs, now = lakehouse.pin(*[landed(table) for table in SOURCE_TABLES]), datetime.now(UTC)
    _require_true_clock(lakehouse, inputs[landed(ORDERS)], now, policy)
    cleaned = cleaning.clean(
        *[lakehouse.read(landed(table), inputs[landed(table)]) for table in (ORDERS, REVIEWS, CUSTOMERS)],
        policy=policy,
        now=now,
        hold=hold,
    )
    metadata = {"inputs": inputs}
    customers = lakehouse.write(SILVER_CUSTOMERS, cleaned.customers, metadata=metadata)
    counted = lakehouse.counts(SILVER_CUSTOMERS, ["segment"], customers.version)
    before = lakehouse.version(SEGMENTS)
    known = [] if before is None else lakehouse.records(SEGMENTS, before)
    numbers = cleaning.numbered_segments(
        {segment: count for (segment,), count in counted.items()},
        {row["segment"]: row["segment_index"] for row in known},
    )
    # The dimension before the orders: it only ever grows, so the next run would do the same after a failure behind it.
    dimension = [{"segment": segment, "segment_index": number} for segment, number in numbers.items()]
    numbered = pa.Table.from_pylist(dimension, SEGMENT_SCHEMA)
    segments = lakehouse.overwrite(SEGMENTS, numbered, since=before, metadata=metadata)
    orders = cleaning.with_segments(cleaned.orders, lakehouse.read(SILVER_CUSTOMERS, customers.version), numbers)
    source_rows = lakehouse.row_count(landed(ORDERS), inputs[landed(ORDERS)])
    silver_commit = lakehouse.write(
        SILVER,
        orders,
        audit=lambda staged: {DAYS: as_record(day_counts(staged)), SOURCE_ROWS: source_rows},
        metadata=metadata,
    )
    set_aside = lakehouse.write(QUARANTINE, cleaned.set_aside, metadata=metadata | {"paced": _busiest(cleaned.paced)})
    picture = _orders_picture(stored_days(lakehouse, silver_commit.version), policy)
    for commit in (silver_commit, customers, segments, set_aside):
        shown = picture if commit is silver_commit else {}
        told = as_numbers(_plotted(lakehouse, policy, commit, seen_from))
        yield table_result(commit, {"inputs": inputs, **told, **shown}, _notes_of(commit.table))


def _plotted(
    lakehouse: LakehouseResource, policy: ChurnPolicy, commit: TableCommit, now: datetime
) -> tuple[Figure, ...]:
    """The checks' figures that a table itself reports too: Dagster plots those of assets over time, not of checks."""
    if commit.table == QUARANTINE:
        return row_accounting(*_accounts(lakehouse), policy.cleaning.max_quarantined_share)[-1].figures
    if commit.table != SILVER or not commit.rows:
        return ()
    return fresh_outcome(stored_load(lakehouse, commit.version), now, policy).figures


def _accounts(lakehouse: LakehouseResource) -> tuple[dict[str, int], dict[str, int], dict[tuple[str, str], int]]:
    """Of each source table the rows that came in, those kept, and those set aside by disposition."""
    inputs = lakehouse.inputs(SILVER)
    rows_in = {table.name: lakehouse.row_count(landed(table), inputs[landed(table)]) for table in SOURCE_TABLES}
    by_rule = lakehouse.counts(QUARANTINE, ["source_table", "disposition", "rule"])
    return rows_in, rows_kept(lakehouse), by_disposition(by_rule)


def _require_true_clock(lakehouse: LakehouseResource, orders_version: int, now: datetime, policy: ChurnPolicy) -> None:
    """Raises ClockError. Asks the engine only where the log does not tell that all orders are of the past."""
    require_true_clock(now, lakehouse.written_at(SILVER))
    schema, latest = lakehouse.table_schema(landed(ORDERS), orders_version), None
    if "ordered_at" in schema.names and schema["ordered_at"].dataType.simpleString() == "timestamp":
        _, latest = lakehouse.bounds(landed(ORDERS), "ordered_at", orders_version)
    if latest is not None and latest <= now:
        return
    ordered = as_canonical(lakehouse.read(landed(ORDERS), orders_version), ORDERS)
    counted = ordered.agg(F.count_if(F.col("ordered_at") > F.lit(now)).alias("future"), F.count(F.lit(1)).alias("all"))
    (row,) = counted.collect()
    require_past(now, row["future"], row["all"], policy)


def _orders_picture(counts: Mapping[date, DayCount], policy: ChurnPolicy) -> dict[str, dg.MetadataValue]:
    if not counts:
        return {}
    days = judged_days(counts, policy)
    watermark = watermark_of(days, policy)
    closed = [Span(closure.begin, closure.to) for closure in policy.calendar.closures]
    return {"orders_by_day": as_metadata(drawn(orders_by_day(days, watermark, low_runs(days, watermark), closed)))}


def stored_days(lakehouse: LakehouseResource, version: int) -> dict[date, DayCount]:
    """What came on each day by a version of silver: as its commit keeps it, without a JVM, or counted again."""
    kept = lakehouse.audit({SILVER: version}) or {}
    return of_record(kept[DAYS]) if DAYS in kept else day_counts(lakehouse.read(SILVER, version))


def stored_calendar(lakehouse: LakehouseResource, silver_version: int, policy: ChurnPolicy) -> AsOfCalendar:
    """The calendar that a version of silver allows. Needs no JVM. Raises as `calendar_of` does."""
    return calendar_of(stored_days(lakehouse, silver_version), policy)


def _busiest(paced: Mapping[str, int]) -> dict[str, Any]:
    """What the commit keeps of the customers of an impossible pace: how many, and the busiest with their orders."""
    first = sorted(paced.items(), key=lambda item: (-item[1], item[0]))[:MAX_KEYS]
    return {"customers": len(paced), "busiest": [list(each) for each in first]}


def _notes_of(table: str) -> dict[str, ColumnNote]:
    """Silver's columns are those of the sources; what was set aside is whole rows, of no column in particular."""
    order, review, customer = (
        same_columns(source.column_names, landed(source), {column.name: column.meaning for column in source.columns})
        for source in (ORDERS, REVIEWS, CUSTOMERS)
    )
    segment_index = ColumnNote("number of the segment; none: -1", [(SEGMENTS, "segment_index")])
    notes = {
        SILVER: {**review, **order, "segment": customer["segment"], "segment_index": segment_index},
        SILVER_CUSTOMERS: customer,
        SEGMENTS: {"segment": customer["segment"], "segment_index": ColumnNote("its number, which never changes")},
    }
    return notes.get(table, {})


@dg.multi_asset_check(
    name="silver_orders_enriched__accounting",
    specs=[
        dg.AssetCheckSpec(
            f"{table.name}_accounted_for",
            asset=SILVER.split("/"),
            blocking=True,
            description=f"Rows of {table.name} in = kept + cancelled + superseded + quarantined: none is lost, none "
            "counted twice.",
        )
        for table in SOURCE_TABLES
    ]
    + [
        dg.AssetCheckSpec(
            "impossible_pace",
            asset=QUARANTINE.split("/"),
            description="No customer has more orders on one day than a person places; guest accounts are named.",
        ),
        dg.AssetCheckSpec(
            "quarantined_share",
            asset=QUARANTINE.split("/"),
            description="The share of each source table that is rejected stays below the policy's limit.",
        ),
        dg.AssetCheckSpec(
            "repaired_share",
            asset=QUARANTINE.split("/"),
            description="No rule takes the delivery time of more orders than the policy's limit: it does not fit.",
        ),
    ],
)
def silver_accounting(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """Counts what came in against what was kept or set aside."""
    rows_in, kept, set_aside = _accounts(lakehouse)
    by_rule = lakehouse.counts(QUARANTINE, ["source_table", "disposition", "rule"])
    for outcome in row_accounting(rows_in, kept, set_aside, policy.cleaning.max_quarantined_share):
        is_share = outcome.rule == "quarantined_share"
        remedies = rule_remedies(rows_in, by_rule, cleaning.QUARANTINED, policy) if is_share else {}
        told = replace(outcome, observed="; ".join([outcome.observed, *remedies.values()]))
        yield check_result(told, (QUARANTINE if is_share else SILVER))
    yield check_result(repaired_outcome(rows_in, by_rule, policy), QUARANTINE)
    paced = lakehouse.commit_metadata(QUARANTINE).get("paced", _busiest({}))
    rows = sum(of_rule for (*_, rule), of_rule in by_rule.items() if rule == "impossible_pace")
    yield check_result(pace_outcome(paced["customers"], paced["busiest"], rows, policy), QUARANTINE)


def rows_kept(lakehouse: LakehouseResource) -> dict[str, int]:
    """How many rows of each source table silver holds."""
    return {
        ORDERS.name: lakehouse.row_count(SILVER),
        REVIEWS.name: lakehouse.value_count(SILVER, "reviewed_at"),
        CUSTOMERS.name: lakehouse.row_count(SILVER_CUSTOMERS),
    }


ARRIVAL_MEANINGS = {
    FRESH: "The last complete day of orders is not long before the load, nor before now.",
    GAPS: "No day, but a declared closure or holiday, has far fewer orders than usual.",
    AFTER: "No order is of a day after the last complete one: such a day came in part, or the order is a stray.",
    VOLUME: "Orders and customers of the latest days, and of the days that earlier loads had, are as many as usual.",
}


@dg.multi_asset_check(
    name="silver_orders_enriched__arrivals",
    specs=[
        dg.AssetCheckSpec(rule, asset=SILVER.split("/"), description=ARRIVAL_MEANINGS[rule]) for rule in ARRIVAL_RULES
    ],
)
def silver_arrivals(
    lakehouse: LakehouseResource, sources: dg.ResourceParam[SourceCatalog], policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """What came, by its own dates and history, not by when a run ended. Blocks nothing; the scoring looks itself."""
    version = lakehouse.pin(SILVER)[SILVER]
    load = stored_load(lakehouse, version)
    if not load.counts:
        for rule in ARRIVAL_RULES:
            outcome = Outcome(rule, False, "no order is left after cleaning", ARRIVAL_MEANINGS[rule], is_warning=True)
            yield check_result(outcome, SILVER)
        return
    now, watermark = looked_at(sources, policy), load.watermark(policy)
    strays: list[str] = []
    if days_after(load.counts, watermark, min(load.loaded_at, now).date()):
        after = lakehouse.read(SILVER, version).where(F.col("ordered_at").cast("date") > F.lit(watermark))
        strays = [row["order_id"] for row in after.select("order_id").orderBy("order_id").limit(MAX_KEYS).collect()]
    picture = _orders_picture(load.counts, policy)
    for outcome in arrival_outcomes(load, earlier_loads(lakehouse, version), strays, now, policy):
        yield check_result(outcome, SILVER, picture if outcome.rule == GAPS else {})


def stored_load(lakehouse: LakehouseResource, version: int) -> Load:
    """What a version of silver holds, as its commit keeps it. An earlier one that keeps nothing is of no days."""
    kept = lakehouse.audit({SILVER: version}) or {}
    is_latest = version == lakehouse.version(SILVER)
    counts = stored_days(lakehouse, version) if is_latest else of_record(kept.get(DAYS, {}))
    rows = kept.get(SOURCE_ROWS, sum(count.orders for count in counts.values()))
    return Load(counts, rows, lakehouse.committed_at(SILVER, version))


def earlier_loads(lakehouse: LakehouseResource, version: int) -> list[Load]:
    """The loads before that of a version of silver. Versions that only rearranged rows are of the load they hold."""
    loads = [stored_load(lakehouse, number) for number in range(max(0, version - COMPARED_LOADS), version + 1)]
    of_moment = {load.loaded_at: load for load in loads if load.counts}
    of_moment.pop(loads[-1].loaded_at, None)
    return list(of_moment.values())


def looked_at(sources: SourceCatalog, policy: ChurnPolicy) -> datetime:
    """The moment from which orders are looked at: the policy's, the end of simulated ones, else now; UTC."""
    demo, today = sources.sources.demo, policy.freshness.today
    if today is None and demo is not None:
        today = demo.end + ONE_DAY
    return datetime.now(UTC) if today is None else datetime.combine(today, time(), UTC)

"""Stage 1: the source tables as they arrive, and silver with everything that had to be set aside."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
from pyspark.sql import DataFrame

from churn_assets.churn import cleaning
from churn_assets.churn.columns import Column, arrow_schema
from churn_assets.churn.contract import pace_outcome, row_accounting, source_schema_outcome
from churn_assets.churn.matching import known_keys, match_outcome, match_rule, named_keys
from churn_assets.churn.outcomes import MAX_KEYS, Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import (
    CUSTOMERS,
    OPT_OUTS,
    ORDERS,
    REVIEWS,
    SOURCE_TABLES,
    SourceTable,
    check_source_schema,
)
from churn_assets.defs.erasures import without_forgotten
from churn_assets.defs.results import (
    OWNERS,
    ColumnNote,
    check_result,
    described,
    same_columns,
    table_result,
    table_spec,
)
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.sources import SourceCatalog

GROUP = "lakehouse"
SILVER = "food_delivery/silver_orders_enriched"
SILVER_CUSTOMERS = "food_delivery/silver_customers"
SEGMENTS = "food_delivery/segment_dimension"
QUARANTINE = "food_delivery/quarantined_rows"
SEGMENT_SCHEMA = arrow_schema([Column("segment", "string"), Column("segment_index", "double")])


def landed(table: SourceTable) -> str:
    return f"food_delivery/{table.name}"


def source_asset(table: SourceTable, deps: list[dg.AssetKey], *, group: str = GROUP) -> dg.AssetsDefinition:
    """The asset that lands one source table, mapped by sources.toml, as it is: cleaning comes after."""

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
        raw = sources.open(lakehouse.spark, table)
        is_configured = raw is not None
        if raw is None:
            raw = lakehouse.spark.createDataFrame([], table.spark_schema)
        check_source_schema(table, raw.schema)
        commit = lakehouse.write(landed(table), without_forgotten(lakehouse, raw))
        return table_result(commit, {"is_configured": is_configured}, described(table.columns))

    return land


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


def match_check(table: SourceTable) -> dg.AssetChecksDefinition:
    """The check that the rows of `table` name orders (reviews) or customers that exist."""
    what = "orders" if table is REVIEWS else "customers"
    others = [each for each in (ORDERS, CUSTOMERS) if each is not table]

    @dg.asset_check(
        asset=landed(table).split("/"),
        name=match_rule(table),
        # Blocks where its outcome is an error, which the policy asks for: retention.max_unmatched_opt_outs.
        blocking=table is OPT_OUTS,
        additional_deps=[landed(each).split("/") for each in others],
        description=f"The {table.name.replace('_', ' ')} are of {what} that exist, but for the policy's share; keys "
        "that are spelled nearly as a known one are named.",
    )
    def rows_match(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.AssetCheckResult:
        return check_result(match_of(lakehouse, table, policy))

    return rows_match


def match_of(lakehouse: LakehouseResource, table: SourceTable, policy: ChurnPolicy) -> Outcome:
    """Whether the landed rows of `table` are of orders or customers that exist."""
    rows, orders, customers = (lakehouse.read(landed(each)) for each in (table, ORDERS, CUSTOMERS))
    strict = policy.retention.max_unmatched_opt_outs if table is OPT_OUTS else None
    return match_outcome(
        table,
        named_keys(rows, table),
        known_keys(orders, customers, table),
        max_share=policy.cleaning.max_unmatched_share if strict is None else strict,
        is_warning=strict is None,
    )


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
def silver(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> Iterator[dg.MaterializeResult]:
    """Cleans the source tables: every row is kept, cancelled, superseded or quarantined."""
    with ExitStack() as held:
        yield from _silver(lakehouse, policy, lambda rows: held.enter_context(lakehouse.held(rows)))


def _silver(
    lakehouse: LakehouseResource, policy: ChurnPolicy, hold: Callable[[DataFrame], DataFrame]
) -> Iterator[dg.MaterializeResult]:
    inputs = lakehouse.pin(*[landed(table) for table in SOURCE_TABLES])
    cleaned = cleaning.clean(
        *[lakehouse.read(landed(table), inputs[landed(table)]) for table in (ORDERS, REVIEWS, CUSTOMERS)],
        policy=policy,
        now=datetime.now(UTC),
        hold=hold,
    )
    metadata = {"inputs": inputs}
    customers = lakehouse.write(SILVER_CUSTOMERS, cleaned.customers, metadata=metadata)
    counted = lakehouse.counts(SILVER_CUSTOMERS, ["segment"], customers.version)
    known = lakehouse.records(SEGMENTS) if lakehouse.has(SEGMENTS) else []
    numbers = cleaning.numbered_segments(
        {segment: count for (segment,), count in counted.items()},
        {row["segment"]: row["segment_index"] for row in known},
    )
    # The dimension before the orders: it only ever grows, so the next run would do the same after a failure behind it.
    dimension = [{"segment": segment, "segment_index": number} for segment, number in numbers.items()]
    segments = lakehouse.overwrite(SEGMENTS, pa.Table.from_pylist(dimension, SEGMENT_SCHEMA), metadata=metadata)
    orders = cleaning.with_segments(cleaned.orders, lakehouse.read(SILVER_CUSTOMERS, customers.version), numbers)
    silver_commit = lakehouse.write(SILVER, orders, metadata=metadata)
    set_aside = lakehouse.write(QUARANTINE, cleaned.set_aside, metadata=metadata | {"paced": _busiest(cleaned.paced)})
    for commit in (silver_commit, customers, segments, set_aside):
        yield table_result(commit, {"inputs": inputs}, _notes_of(commit.table))


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
    ],
)
def silver_accounting(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """Counts what came in against what was kept or set aside."""
    inputs = lakehouse.inputs(SILVER)
    rows_in = {table.name: lakehouse.row_count(landed(table), inputs[landed(table)]) for table in SOURCE_TABLES}
    set_aside = lakehouse.counts(QUARANTINE, ["source_table", "disposition"])
    largest_share = policy.cleaning.max_quarantined_share
    for outcome in row_accounting(rows_in, rows_kept(lakehouse), set_aside, largest_share):
        is_share = outcome.rule == "quarantined_share"
        yield check_result(outcome, (QUARANTINE if is_share else SILVER))
    paced = lakehouse.commit_metadata(QUARANTINE).get("paced", _busiest({}))
    rows = lakehouse.counts(QUARANTINE, ["rule"])[("impossible_pace",)]
    yield check_result(pace_outcome(paced["customers"], paced["busiest"], rows, policy), QUARANTINE)


def rows_kept(lakehouse: LakehouseResource) -> dict[str, int]:
    """How many rows of each source table silver holds."""
    return {
        ORDERS.name: lakehouse.row_count(SILVER),
        REVIEWS.name: lakehouse.value_count(SILVER, "reviewed_at"),
        CUSTOMERS.name: lakehouse.row_count(SILVER_CUSTOMERS),
    }

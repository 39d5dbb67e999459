"""Stage 1: the source tables as they arrive, and silver with everything that had to be set aside."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pyarrow as pa

from churn_assets.churn import cleaning
from churn_assets.churn.columns import Column, arrow_schema
from churn_assets.churn.contract import readable_values, row_accounting, source_schema_outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS, SOURCE_TABLES, SourceTable
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
        opened = sources.examined(lakehouse.spark, table)
        if opened is None:
            rows, unreadable = lakehouse.spark.createDataFrame([], table.spark_schema), []
        else:
            rows, unreadable = opened.rows, [str(each) for each in opened.unreadable]
        with sources.explained(lakehouse.spark, table):
            commit = lakehouse.write(landed(table), rows, metadata={"unreadable": unreadable})
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
            "Every source row that was not kept as it came, whole, with the rule: quarantined, cancelled, or repaired "
            "(only its delivery time was set aside).",
            group=GROUP,
            deps=[landed(table) for table in SOURCE_TABLES],
        ),
    ],
)
def silver(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> Iterator[dg.MaterializeResult]:
    """Cleans the source tables: every row is kept, cancelled or quarantined."""
    inputs = lakehouse.pin(*[landed(table) for table in SOURCE_TABLES])
    cleaned = cleaning.clean(
        *[lakehouse.read(landed(table), inputs[landed(table)]) for table in (ORDERS, REVIEWS, CUSTOMERS)],
        policy=policy,
        now=datetime.now(UTC),
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
    set_aside = lakehouse.write(QUARANTINE, cleaned.set_aside, metadata=metadata)
    for commit in (silver_commit, customers, segments, set_aside):
        yield table_result(commit, {"inputs": inputs}, _notes_of(commit.table))


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
            description=f"Rows of {table.name} in = kept + cancelled + quarantined: none is lost, none counted twice.",
        )
        for table in SOURCE_TABLES
    ]
    + [
        dg.AssetCheckSpec(
            "quarantined_share",
            asset=QUARANTINE.split("/"),
            description="The share of each source table that is rejected stays below the policy's limit.",
        )
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


def rows_kept(lakehouse: LakehouseResource) -> dict[str, int]:
    """How many rows of each source table silver holds."""
    return {
        ORDERS.name: lakehouse.row_count(SILVER),
        REVIEWS.name: lakehouse.value_count(SILVER, "reviewed_at"),
        CUSTOMERS.name: lakehouse.row_count(SILVER_CUSTOMERS),
    }

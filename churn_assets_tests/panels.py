"""Source rows to Spark frames, and through cleaning, features and labels to rows that tests can compare.

What the right values are does not belong here: `reference.py` and the tests know that.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.cleaning import Cleaned, clean, numbered_segments, with_segments
from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel
from churn_assets.churn.labels import with_labels
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS, SourceTable
from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows

Row = dict[str, Any]
Key = tuple[str, date]
SourceRows = tuple[Sequence[Row], Sequence[Row], Sequence[Row]]
POLICY = ChurnPolicy()
LATER = datetime(2030, 1, 1)
FIRST = date(2024, 3, 4)


def frame(spark: SparkSession, rows: Iterable[Row], schema: T.StructType) -> DataFrame:
    """`rows` in the columns of `schema`, an absent one null; naive datetimes are UTC."""
    values = [tuple(_in_utc(row.get(name)) for name in schema.names) for row in rows]
    return spark.createDataFrame(values, schema)


def _in_utc(value: Any) -> Any:
    # Spark would take a naive datetime in the zone of the machine.
    is_naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=UTC) if is_naive else value


def sound_row(customer: str, week: int = 0, /, **changed: Any) -> Row:
    """A row of the panel that breaks no rule; its values differ between customers a and b."""
    number = sum(map(ord, customer)) % 2
    values = {feature.name: float(max(feature.low, 0) + number) for feature in FEATURES}
    return {
        "customer_id": customer,
        "as_of": FIRST + timedelta(weeks=week),
        **values,
        "label": float(number),
        **changed,
    }


def sound_rows(weeks: int = 3) -> list[Row]:
    """The rows of customers a and b."""
    return [sound_row(customer, week) for week in range(weeks) for customer in "ab"]


def source_frames(spark: SparkSession, rows: SourceRows) -> tuple[DataFrame, DataFrame, DataFrame]:
    """The orders, reviews and customers of `rows` in their canonical types; updated_at only where a row has it."""

    def framed(of_table: Sequence[Row], table: SourceTable) -> DataFrame:
        is_dated = any("updated_at" in row for row in of_table)
        kept = [field for field in table.spark_schema if is_dated or field.name != "updated_at"]
        return frame(spark, of_table, T.StructType(kept))

    orders, reviews, customers = (
        framed(of_table, table) for of_table, table in zip(rows, (ORDERS, REVIEWS, CUSTOMERS), strict=True)
    )
    return orders, reviews, customers


def rows_of(rows: DataFrame) -> list[Row]:
    """Collected rows as dicts, times as naive UTC."""
    columns = [
        F.col(field.name).cast("timestamp_ntz").alias(field.name)
        if isinstance(field.dataType, T.TimestampType)
        else F.col(field.name)
        for field in rows.schema
    ]
    return [row.asDict(recursive=True) for row in rows.select(*columns).collect()]


def value_of(row: DataFrame) -> Any:
    """The one value of a frame of one row and one column."""
    ((value,),) = row.collect()
    return value


def cleaned(
    frames: tuple[DataFrame, DataFrame, DataFrame], *, now: datetime = LATER, policy: ChurnPolicy = POLICY
) -> Cleaned:
    """`frames` (orders, reviews, customers) cleaned; `now` is naive UTC."""
    return clean(*frames, policy=policy, now=now.replace(tzinfo=UTC))


def panel_frame(clean_rows: Cleaned, *, policy: ChurnPolicy = POLICY) -> DataFrame:
    """The labelled panel of cleaned rows."""
    segments = segments_of(clean_rows)
    silver = with_segments(clean_rows.orders, clean_rows.customers, segments)
    calendar = as_of_calendar(silver, policy)
    snapshots = customer_snapshots(silver, calendar, policy)
    return feature_panel(with_labels(snapshots, silver, calendar, policy), policy)


def segments_of(clean_rows: Cleaned) -> dict[str, float]:
    """The segment dimension of the cleaned customers alone."""
    counted = clean_rows.customers.groupBy("segment").count().collect()
    return numbered_segments({row["segment"]: row["count"] for row in counted}, {})


def by_key(panel: DataFrame) -> dict[Key, Row]:
    """(customer_id, as_of) -> the other columns. Raises AssertionError if a key comes twice."""
    keyed: dict[Key, Row] = {}
    for row in rows_of(panel):
        key = (row.pop("customer_id"), row.pop("as_of"))
        assert key not in keyed, f"{key} comes twice"
        keyed[key] = row
    return keyed


def panel_rows(
    frames: tuple[DataFrame, DataFrame, DataFrame], *, now: datetime = LATER, policy: ChurnPolicy = POLICY
) -> dict[Key, Row]:
    """Cleaning, features and labels of `frames`: (customer_id, as_of) -> features and label."""
    return by_key(panel_frame(cleaned(frames, now=now, policy=policy), policy=policy))


@dataclass(frozen=True)
class SparkResult:
    """What Spark makes of one set of source rows, collected: set_aside as (table, disposition, rule, key)."""

    orders: list[Row]
    customers: list[Row]
    set_aside: list[tuple[str, str, str, str | None]]
    source_rows: list[str]
    segments: dict[str, float]
    panel: dict[Key, Row]


@cache
def dirty_result(spark: SparkSession, seed: int, days: int) -> SparkResult:
    """The dirty source rows through Spark, once for all tests that look at them."""
    clean_rows = cleaned(source_frames(spark, dirty_source_rows(seed, days=days)), now=dirty_now(days))
    aside = rows_of(clean_rows.set_aside)
    return SparkResult(
        orders=rows_of(clean_rows.orders),
        customers=rows_of(clean_rows.customers),
        set_aside=[(row["source_table"], row["disposition"], row["rule"], row["row_key"]) for row in aside],
        source_rows=[row["source_row"] for row in aside],
        segments=segments_of(clean_rows),
        panel=by_key(panel_frame(clean_rows)),
    )


def differences(
    computed: Mapping[Key, Row], expected: Mapping[Key, Row], columns: Sequence[str], *, exact: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """(key, column, computed, expected) of every value that differs: by more than 1e-9, or at all where `exact`.

    A key on one side only is (key, "computed" or "expected").
    """
    one_sided: list[tuple[Any, ...]] = [(key, "computed") for key in computed.keys() - expected.keys()]
    one_sided += [(key, "expected") for key in expected.keys() - computed.keys()]
    return one_sided + [
        (key, column, computed[key][column], expected[key][column])
        for key in sorted(computed.keys() & expected.keys())
        for column in columns
        if not _is_same(computed[key][column], expected[key][column], 0.0 if column in exact else 1e-9)
    ]


def _is_same(computed: float | None, expected: float | None, tolerance: float) -> bool:
    if computed is None or expected is None or math.isnan(expected):
        return computed is None and (expected is None or math.isnan(expected))
    return abs(computed - expected) <= tolerance

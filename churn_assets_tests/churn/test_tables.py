"""Raw types become the canonical ones value by value: what cannot be read costs a value, what cannot fit is told."""

import math
from datetime import date, datetime
from decimal import Decimal

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.errors import SourceSchemaError
from churn_assets.churn.tables import (
    CUSTOMERS,
    ORDERS,
    REVIEWS,
    SOURCE_TABLES,
    SourceTable,
    as_json,
    check_source_schema,
    conformed,
)
from churn_assets_tests.panels import cleaned, rows_of, source_frames

NOON = datetime(2024, 3, 5, 12)


def test_text_becomes_the_canonical_type_and_what_cannot_be_read_null(spark: SparkSession) -> None:
    header = "order_id string, customer_id string, ordered_at string, subtotal string, is_cancelled string"
    raw = spark.createDataFrame(
        [
            ("1", "c", "2024-03-05 12:00:00", "12.50", "true"),
            ("2", "c", "2024-03-05T14:00:00+02:00", "1e1", "false"),
            ("3", "c", "2024-03-05T12:00:00Z", " 7 ", "yes"),
            ("4", "c", "soon", "much", "perhaps"),
            ("5", "c", "2024-03-05", "", ""),
            ("6", "c", None, None, None),
        ],
        header,
    )
    rows = {row["order_id"]: row for row in rows_of(conformed(raw, ORDERS))}
    assert {key: row["ordered_at"] for key, row in rows.items()} == {
        "1": NOON,
        "2": NOON,
        "3": NOON,
        "4": None,
        "5": datetime(2024, 3, 5),
        "6": None,
    }
    assert [row["subtotal"] for row in rows.values()] == [12.5, 10.0, 7.0, None, None, None]
    assert [row["is_cancelled"] for row in rows.values()] == [True, False, True, None, None, None]


def test_a_time_without_a_zone_is_utc_whatever_its_type(spark: SparkSession) -> None:
    schema = T.StructType(
        [
            T.StructField("order_id", T.LongType()),
            T.StructField("customer_id", T.DecimalType(10, 0)),
            T.StructField("ordered_at", T.TimestampNTZType()),
            T.StructField("promised_at", T.DateType()),
            T.StructField("delivered_at", T.StringType()),
            T.StructField("subtotal", T.DecimalType(12, 4)),
        ]
    )
    raw = spark.createDataFrame([(7, Decimal(12), NOON, date(2024, 3, 5), "2024-03-05 12:30", Decimal("3.1"))], schema)
    table = conformed(raw, ORDERS)
    assert table.drop("source_row").schema == ORDERS.spark_schema
    (row,) = rows_of(table)
    times = (row["ordered_at"], row["promised_at"], row["delivered_at"])
    assert times == (NOON, datetime(2024, 3, 5), datetime(2024, 3, 5, 12, 30))
    assert (row["order_id"], row["customer_id"], row["subtotal"]) == ("7", "12", 3.1)
    # 12:00 UTC, as seconds since 1970.
    assert table.selectExpr("unix_seconds(ordered_at)").collect() == [(1_709_640_000,)]


def test_absent_optional_columns_are_null_and_other_columns_stay_only_in_the_whole_row(spark: SparkSession) -> None:
    raw = spark.createDataFrame(
        [("1", "c", NOON, 5.0, "cash")],
        "order_id string, customer_id string, ordered_at timestamp_ntz, subtotal double, `paid by` string",
    )
    (row,) = rows_of(conformed(raw, ORDERS))
    assert list(row) == [*ORDERS.column_names, "source_row"]
    assert (row["promised_at"], row["delivered_at"], row["is_cancelled"]) == (None, None, None)
    assert row["source_row"] == (
        '{"order_id":"1","customer_id":"c","ordered_at":"2024-03-05T12:00:00.000000","subtotal":5.0,"paid by":"cash"}'
    )


def test_a_whole_row_has_its_nulls_and_its_numbers_as_java_writes_them(spark: SparkSession) -> None:
    numbers = [
        0.0,
        -0.0,
        0.001,
        9_999_999.5,
        1e7,
        -123456789.0,
        1e16,
        1e-5,
        -3.25e-7,
        2.5e300,
        math.inf,
        math.nan,
        None,
    ]
    written = [
        "0.0",
        "-0.0",
        "0.001",
        "9999999.5",
        "1.0E7",
        "-1.23456789E8",
        "1.0E16",
        "1.0E-5",
        "-3.25E-7",
        "2.5E300",
        '"Infinity"',
        '"NaN"',
        "null",
    ]
    raw = spark.createDataFrame([(n, x) for n, x in enumerate(numbers)], "order_id int, reviewed_at double")
    raw = raw.select("order_id", F.lit('a "b"\n').alias("text"), F.col("reviewed_at").alias("x"))
    raw = raw.withColumns({"exact": F.lit("-0.50").cast("decimal(9,2)"), "none": F.lit(None).cast("date")})
    rows = raw.select("order_id", as_json(raw.schema, {name: name for name in raw.columns}).alias("whole")).collect()
    assert [row["whole"] for row in sorted(rows)] == [
        f'{{"order_id":{n},"text":"a \\"b\\"\\n","x":{text},"exact":-0.50,"none":null}}'
        for n, text in enumerate(written)
    ]


def test_a_blank_string_is_null_and_other_strings_stay_as_they_are(spark: SparkSession) -> None:
    values = ["", " \t\n", "\u00a0\u2003", " a ", "a"]
    raw = spark.createDataFrame(
        [(str(n), value) for n, value in enumerate(values)], "customer_id string, segment string"
    )
    segments = {row["customer_id"]: row["segment"] for row in rows_of(conformed(raw, CUSTOMERS))}
    assert list(segments.values()) == [None, None, None, " a ", "a"]


def test_unreadable_values_are_quarantined_and_not_lost(spark: SparkSession) -> None:
    raw = spark.createDataFrame(
        [("good", "c", "2024-03-05", "1"), ("no time", "c", "soon", "1"), ("no value", "c", "2024-03-05", "much")],
        "order_id string, customer_id string, ordered_at string, subtotal string",
    )
    _, reviews, customers = source_frames(spark, ([], [], []))
    result = cleaned((raw, reviews, customers))
    assert [row["order_id"] for row in rows_of(result.orders)] == ["good"]
    aside = {row["row_key"]: (row["rule"], row["source_row"]) for row in rows_of(result.set_aside)}
    assert {key: rule for key, (rule, _) in aside.items()} == {
        "no time": "impossible_time",
        "no value": "negative_subtotal",
    }
    assert '"ordered_at":"soon"' in aside["no time"][1]
    assert '"subtotal":"much"' in aside["no value"][1]


def test_every_missing_and_mistyped_column_is_told_at_once() -> None:
    schema = T.StructType(
        [
            T.StructField("order_id", T.StringType()),
            T.StructField("ordered_at", T.LongType()),
            T.StructField("subtotal", T.ArrayType(T.DoubleType())),
            T.StructField("is_cancelled", T.IntegerType()),
            T.StructField("delivered_at", T.BooleanType()),
        ]
    )
    with pytest.raises(SourceSchemaError) as error:
        check_source_schema(ORDERS, schema)
    assert error.value.problems == (
        "customer_id (string) is missing: who ordered",
        "ordered_at: found bigint, needs timestamp",
        "delivered_at: found boolean, needs timestamp",
        "subtotal: found array<double>, needs double",
        "is_cancelled: found int, needs boolean",
    )
    assert "Source table orders: 5 column(s) do not fit" in str(error.value)
    assert "under [orders] in sources.toml" in str(error.value)


def test_a_mistyped_table_is_refused_before_any_row_is_read(spark: SparkSession) -> None:
    with pytest.raises(SourceSchemaError, match="reviewed_at"):
        conformed(spark.createDataFrame([("1", 3.0)], "order_id string, review_score double"), REVIEWS)


@pytest.mark.parametrize("table", SOURCE_TABLES, ids=lambda table: table.name)
def test_the_canonical_columns_and_the_required_ones_alone_fit(table: SourceTable) -> None:
    check_source_schema(table, table.spark_schema)
    required = [column for column in table.columns if not column.is_optional]
    check_source_schema(
        table,
        T.StructType([field for field in table.spark_schema if field.name in {column.name for column in required}]),
    )
    for column in required:
        with pytest.raises(SourceSchemaError, match=column.name):
            check_source_schema(table, T.StructType([f for f in table.spark_schema if f.name != column.name]))

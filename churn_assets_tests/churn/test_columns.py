"""A column declared once is the same for Arrow and for Spark, and may be null in both, down to the last level."""

import pyarrow as pa
import pytest
from pyspark.sql import types as T

from churn_assets.churn.columns import (
    KINDS,
    Column,
    Kind,
    arrow_schema,
    list_of,
    map_of,
    of_kind,
    spark_schema,
    struct_of,
)

KEY_AND_PAIR = struct_of(Column("key", "string"), *of_kind("double", "low", "high"))


@pytest.mark.parametrize(
    ("kind", "in_spark", "in_arrow"),
    [
        ("string", T.StringType(), pa.string()),
        ("int", T.IntegerType(), pa.int32()),
        ("long", T.LongType(), pa.int64()),
        ("double", T.DoubleType(), pa.float64()),
        ("boolean", T.BooleanType(), pa.bool_()),
        ("date", T.DateType(), pa.date32()),
        # A moment, not a time of some wall clock.
        ("timestamp", T.TimestampType(), pa.timestamp("us", "UTC")),
        (list_of("string"), T.ArrayType(T.StringType(), True), pa.list_(pa.string())),
        (map_of("int", "long"), T.MapType(T.IntegerType(), T.LongType(), True), pa.map_(pa.int32(), pa.int64())),
        (
            list_of(KEY_AND_PAIR),
            T.ArrayType(
                T.StructType(
                    [
                        T.StructField("key", T.StringType()),
                        T.StructField("low", T.DoubleType()),
                        T.StructField("high", T.DoubleType()),
                    ]
                )
            ),
            pa.list_(pa.struct([("key", pa.string()), ("low", pa.float64()), ("high", pa.float64())])),
        ),
    ],
)
def test_a_kind_is_its_type_in_spark_and_in_arrow(kind: Kind, in_spark: T.DataType, in_arrow: pa.DataType) -> None:
    columns = (Column("first", kind), Column("second", "string"))
    assert spark_schema(columns) == T.StructType(
        [T.StructField("first", in_spark), T.StructField("second", T.StringType())]
    )
    assert arrow_schema(columns) == pa.schema([("first", in_arrow), ("second", pa.string())])


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError, match="float"):
        arrow_schema([Column("x", "float")])
    assert "float" not in KINDS

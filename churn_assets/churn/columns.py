"""How the columns of a table are declared: once, with what they mean; Arrow's and Spark's schema follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
from pyspark.sql import types as T

KINDS = {
    "string": pa.string(),
    "int": pa.int32(),
    "long": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
# The name of one of them, or what `list_of`, `map_of` and `struct_of` make.
Kind: TypeAlias = str | pa.DataType


@dataclass(frozen=True)
class Column:
    """A column that may be null. meaning: for people, with the unit."""

    name: str
    kind: Kind
    meaning: str = ""


def of_kind(kind: Kind, *names: str) -> tuple[Column, ...]:
    """Columns of one kind whose names say what they mean."""
    return tuple(Column(name, kind) for name in names)


def list_of(kind: Kind) -> pa.DataType:
    return pa.list_(_arrow_type(kind))


def map_of(key: Kind, value: Kind) -> pa.DataType:
    return pa.map_(_arrow_type(key), _arrow_type(value))


def struct_of(*columns: Column) -> pa.DataType:
    return pa.struct(list(arrow_schema(columns)))


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([(column.name, _arrow_type(column.kind)) for column in columns])


def spark_schema(columns: Sequence[Column]) -> T.StructType:
    # Needs no session; reading DDL text would.
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(arrow_schema(columns))


def _arrow_type(kind: Kind) -> pa.DataType:
    return KINDS[kind] if isinstance(kind, str) else kind

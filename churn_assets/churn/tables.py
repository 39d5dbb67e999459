"""The source tables in canonical columns: what they must hold and how raw types become theirs. No rules about rows."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn import columns
from churn_assets.churn.errors import SourceSchemaError


@dataclass(frozen=True)
class SourceColumn(columns.Column):
    """A column in its canonical name; of a plain kind. is_key: text that names something; blanks around it are none."""

    kind: str
    is_optional: bool = False
    is_key: bool = False


@dataclass(frozen=True)
class SourceTable:
    """One canonical source table; an optional one may be absent as a whole. may_be_empty: no rows are no mistake."""

    name: str
    meaning: str
    columns: tuple[SourceColumn, ...]
    is_optional: bool = False
    may_be_empty: bool = False

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def spark_schema(self) -> T.StructType:
        return columns.spark_schema(self.columns)


ORDERS = SourceTable(
    "orders",
    "One row per order.",
    (
        SourceColumn("order_id", "string", "identifies the order", is_key=True),
        SourceColumn("customer_id", "string", "who ordered", is_key=True),
        SourceColumn("ordered_at", "timestamp", "when the order was placed (UTC)"),
        SourceColumn("promised_at", "timestamp", "when the delivery was promised (UTC)", is_optional=True),
        SourceColumn("delivered_at", "timestamp", "when it was delivered (UTC)", is_optional=True),
        SourceColumn("subtotal", "double", "value of the order in the shop's currency"),
        SourceColumn("is_cancelled", "boolean", "true if the order was called off", is_optional=True),
        SourceColumn(
            "updated_at",
            "timestamp",
            "when this state of the order was written (UTC); the latest stays",
            is_optional=True,
        ),
    ),
)
REVIEWS = SourceTable(
    "reviews",
    "One row per review of an order.",
    (
        SourceColumn("order_id", "string", "the order reviewed", is_key=True),
        SourceColumn("reviewed_at", "timestamp", "when the review was written (UTC)"),
        SourceColumn("review_score", "double", "stars, 1 to 5"),
        SourceColumn("sentiment_category", "string", "the review's tone, as the source names it", is_optional=True),
        SourceColumn(
            "updated_at",
            "timestamp",
            "when this state of the review was written (UTC); known from then on",
            is_optional=True,
        ),
    ),
    is_optional=True,
)
CUSTOMERS = SourceTable(
    "customers",
    "One row per customer.",
    (
        SourceColumn("customer_id", "string", "identifies the customer", is_key=True),
        SourceColumn("segment", "string", "the customer's segment", is_optional=True),
        SourceColumn("updated_at", "timestamp", "when this row was written (UTC); the latest stays", is_optional=True),
    ),
    is_optional=True,
)
CAMPAIGN_CONTACTS = SourceTable(
    "campaign_contacts",
    "One row per customer on a retention list that was used: who was contacted, and who was held out.",
    (
        SourceColumn("customer_id", "string", "who was on the list", is_key=True),
        SourceColumn("as_of", "date", "the as-of date of the list"),
        SourceColumn(
            "contacted_at", "timestamp", "when the customer was contacted (UTC); null if not", is_optional=True
        ),
        SourceColumn(
            "is_holdout",
            "boolean",
            "true for who was held out on purpose; null: as retention_targets has it",
            is_optional=True,
        ),
        SourceColumn(
            "risk_tier", "string", "the list's risk tier; null: as retention_targets has it", is_optional=True
        ),
    ),
    is_optional=True,
    may_be_empty=True,
)
OPT_OUTS = SourceTable(
    "opt_outs",
    "One row per customer who must not be contacted.",
    (SourceColumn("customer_id", "string", "who opted out", is_key=True),),
    is_optional=True,
    may_be_empty=True,
)
# What the features are computed from, and what only the retention lists heed.
SOURCE_TABLES = (ORDERS, REVIEWS, CUSTOMERS)
RETENTION_TABLES = (CAMPAIGN_CONTACTS, OPT_OUTS)

# Raw types that become the canonical kind. Text is tried value by value: one that cannot be read becomes null and the
# row's own rule decides, so that a bad value costs a row and not the load.
CONVERTIBLE: dict[str, tuple[type[T.DataType], ...]] = {
    "string": (T.StringType, T.IntegralType, T.DecimalType),
    "timestamp": (T.TimestampType, T.TimestampNTZType, T.DateType, T.StringType),
    "date": (T.DateType, T.TimestampType, T.TimestampNTZType, T.StringType),
    "double": (T.NumericType, T.StringType),
    "boolean": (T.BooleanType, T.StringType),
}

# Spark's own format would cut times to milliseconds.
TIMES_IN_JSON = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}
ZONELESS_IN_JSON = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"


def check_source_schema(table: SourceTable, schema: T.StructType) -> None:
    """Raises SourceSchemaError if `schema` lacks a required column of `table` or has one in a type nothing converts."""
    types = {field.name: field.dataType for field in schema}
    problems = []
    for column in table.columns:
        if column.name not in types:
            if not column.is_optional:
                problems.append(f"{column.name} ({column.kind}) is missing: {column.meaning}")
        elif not isinstance(types[column.name], (*CONVERTIBLE[column.kind], T.NullType)):
            problems.append(f"{column.name}: found {types[column.name].simpleString()}, needs {column.kind}")
    if problems:
        raise SourceSchemaError(
            f"Source table {table.name}: {len(problems)} column(s) do not fit. "
            f"Found: {', '.join(types) or 'no columns'}.",
            problems,
            next_step=f"map the columns by `select` under [{table.name}] in sources.toml",
        )


def conformed(raw: DataFrame, table: SourceTable) -> DataFrame:
    """The columns of `table` in their canonical types, and `source_row`: the raw row whole, as JSON.

    Columns and errors are those of `as_canonical`.
    """
    return as_canonical(raw, table, as_json(raw.schema, {name: name for name in raw.columns}).alias("source_row"))


def as_canonical(raw: DataFrame, table: SourceTable, *others: Column) -> DataFrame:
    """The columns of `table` in their canonical types, and `others` of the raw columns.

    An absent optional column is null; a blank string is null; a key is without the blanks around it; text without a
    zone is UTC; what cannot be read is null.
    Raises SourceSchemaError as `check_source_schema` does.
    """
    check_source_schema(table, raw.schema)
    present = set(raw.columns)
    canonical = [
        (_as_kind(F.col(column.name), column) if column.name in present else F.lit(None))
        .cast(table.spark_schema[column.name].dataType)
        .alias(column.name)
        for column in table.columns
    ]
    return raw.select(*canonical, *others)


def as_json(schema: T.StructType, places: Mapping[str, str]) -> Column:
    """A raw row of `schema` whole, as JSON, nulls included. places: the column that holds each raw column.

    A column at a time: engines agree neither on a null field of `to_json` nor on its numbers.
    """
    fields = [
        F.concat(
            F.lit(json.dumps(field.name, ensure_ascii=False) + ":"),
            _json_value(F.col(f"`{places[field.name]}`"), field.dataType),
        )
        for field in schema
    ]
    return F.concat(F.lit("{"), *_separated(fields, F.lit(",")), F.lit("}"))


def _separated(fields: Sequence[Column], by: Column) -> list[Column]:
    return [part for field in fields for part in (by, field)][1:]


def _json_value(value: Column, kind: T.DataType) -> Column:
    text = value.cast("string")
    if isinstance(kind, T.DoubleType | T.FloatType):
        known = _json_number(value)
    elif isinstance(kind, T.IntegralType | T.BooleanType | T.DecimalType):
        known = text
    elif isinstance(kind, T.TimestampNTZType):
        known = F.concat(F.lit('"'), F.date_format(value, ZONELESS_IN_JSON), F.lit('"'))
    else:
        # What stands between {"v": and }.
        whole = F.to_json(F.struct(value.alias("v")), TIMES_IN_JSON)
        known = F.substring(whole, F.lit(6), F.length(whole) - 6)
    return F.when(value.isNull(), F.lit("null")).otherwise(known)


def _json_number(value: Column) -> Column:
    """A float as Java writes it: 0.001, 9999999.0, 1.0E7, 1.0E-4; what is no number in quotes."""
    text = F.lower(F.abs(value).cast("string"))
    # Other engines write 1e16 and 0.00001 of the same shortest digits.
    whole, part, power = (F.regexp_extract(text, r"^(\d+)\.?(\d*)(?:e([+-]?\d+))?$", place) for place in (1, 2, 3))
    digits = F.concat(whole, part)
    significant = F.regexp_replace(digits, "^0+", "")
    exponent = (
        F.length(whole) - 1 - (F.length(digits) - F.length(significant)) + F.coalesce(power.try_cast("int"), F.lit(0))
    )
    rest = F.regexp_replace(F.substring(significant, F.lit(2), F.length(significant)), "0+$", "")
    scientific = F.concat(
        F.substring(significant, 1, 1),
        F.lit("."),
        F.when(rest == "", F.lit("0")).otherwise(rest),
        F.lit("E"),
        exponent.cast("string"),
    )
    is_plain = (value == 0) | (F.abs(value) >= 0.001) & (F.abs(value) < 10_000_000)
    sign = F.when(value < 0, F.lit("-")).otherwise(F.lit(""))
    return (
        F.when(F.isnan(value), F.lit('"NaN"'))
        .when(F.abs(value) == F.lit(float("inf")), F.concat(F.lit('"'), sign, F.lit('Infinity"')))
        .when(is_plain, value.cast("string"))
        .otherwise(F.concat(sign, scientific))
    )


# Unicode's White_Space, as a no-break space out of a spreadsheet is blank as well.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def _as_kind(value: Column, column: SourceColumn) -> Column:
    if column.is_key:
        return F.nullif(F.btrim(value.cast("string"), F.lit(BLANKS)), F.lit(""))
    as_kind: dict[str, Callable[[Column], Column]] = {
        "string": lambda raw: F.when(raw.cast("string").rlike(r"(?U)\S"), raw.cast("string")),
        "timestamp": lambda raw: raw.try_cast("timestamp"),
        # Without a time of day behind it, of which engines take different forms.
        "date": lambda raw: F.regexp_replace(F.trim(raw.cast("string")), "[ T].*", "").try_cast("date"),
        # One zero of the two, which are equal to some engines only.
        "double": lambda raw: raw.try_cast("double") + F.lit(0.0),
        "boolean": lambda raw: raw.try_cast("boolean"),
    }
    return as_kind[column.kind](value)


def any_of(conditions: Iterable[Column]) -> Column:
    """Whether one of them is true, as `|` of all has it; false of none.

    Halved, not one after the other: the message of Spark Connect, and so Sail, holds no expression of fifty levels.
    """
    each = list(conditions)
    if len(each) < 2:
        return each[0] if each else F.lit(False)
    middle = len(each) // 2
    return any_of(each[:middle]) | any_of(each[middle:])


def united(one: DataFrame, other: DataFrame) -> DataFrame:
    """The rows of both, null in a column that only the other has.

    Not `unionByName(allowMissingColumns=True)`: by Sail's schema such a column is of type void (pysail 0.7.2).
    """
    kinds = {field.name: field.dataType for field in (*other.schema, *one.schema)}

    def completed(rows: DataFrame) -> DataFrame:
        absent = {name: F.lit(None).cast(kind) for name, kind in kinds.items() if name not in rows.columns}
        return rows.withColumns(absent) if absent else rows

    return completed(one).unionByName(completed(other))

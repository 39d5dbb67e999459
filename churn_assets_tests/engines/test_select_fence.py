"""A `select` runs on an engine that is not Spark only if all of it is known to come out equal; what is not is named."""

import math
import tomllib
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from churn_assets.engines.select_fence import select_problems
from churn_assets.resources.settings import CHECKOUT

COLUMNS = {
    "n": "int",
    "big": "bigint",
    "x": "double",
    "small": "float",
    "price": "decimal(18,6)",
    "wide": "decimal(38,6)",
    "is_on": "boolean",
    "name": "string",
    "day": "date",
    "at": "timestamp",
    "local_at": "timestamp_ntz",
    "tags": "array<string>",
}


def problems_of(expression: str) -> list[str]:
    return select_problems(f"SELECT {expression} AS found FROM raw_orders", {"raw_orders": COLUMNS})


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        # Functions that are unknown, whatever they are given.
        ("initcap(name)", "INITCAP(name): not known"),
        ("weekday(day)", "not known"),
        ("isnan(x)", "not known"),
        ("regexp_replace(name, 'a', 'b')", "not known"),
        ("name RLIKE '^a$'", "not known"),
        ("my_function(name)", "MY_FUNCTION(name): not known"),
        ("collect_list(name)", "not known"),
        ("date_trunc('day', at)", "not known"),
        ("unix_seconds(at)", "not known"),
        ("timestamp_seconds(big)", "not known"),
        ("round(x, 2)", "not known"),
        ("current_timestamp()", "not known"),
        ("rand()", "not known"),
        ("first(name)", "not known"),
        ("upper(my_function(name))", "MY_FUNCTION(name): not known"),
        ("row_number() OVER (PARTITION BY name ORDER BY n)", "not known"),
        ("tags[0]", "not known"),
        ("(SELECT max(n) FROM raw_orders)", "not known"),
        # Casts.
        ("CAST(x AS STRING)", "Sail writes doubles otherwise"),
        ("upper(CAST(x AS STRING))", "text of a double"),
        ("CAST(x AS STRING) = '1.0'", "text of a double"),
        ("CAST(small AS STRING)", "float to string"),
        ("CAST(x AS DECIMAL(18, 6))", "double to decimal(18,6) is not known to be equal; cast to STRING between"),
        ("TRY_CAST(CAST(x AS STRING) AS DECIMAL(18, 6))", "text of a double to decimal"),
        ("CAST(price AS DOUBLE)", "decimal(18,6) to double is not known to be equal; cast to STRING between"),
        ("CAST(name AS DATE)", "cast to TIMESTAMP first"),
        ("TRY_CAST(name AS DATE)", "cast to TIMESTAMP first"),
        ("CAST(name AS DECIMAL(18, 6))", "string to decimal(18,6)"),
        ("CAST(at AS BIGINT)", "timestamp to integer"),
        ("to_timestamp(name, 'dd/MM/yyyy')", "only known of text, with one of the formats"),
        ("try_to_timestamp(name, 'EEE')", "only known of text, with one of the formats"),
        # Numbers at their ends, and what depends on the order of rows.
        ("n + 1", "Sail lets integers overflow"),
        ("n * big", "Sail lets integers overflow"),
        ("SUM(n)", "Sail lets integers overflow"),
        ("SUM(x)", "depends on the order of rows"),
        ("SUM(price * price)", "sums of decimal(37,12) may overflow otherwise"),
        ("wide * price", "more than 38 digits"),
        ("AVG(x)", "not known"),
        ("price / 3", "by a whole number"),
        ("x / small", "by a whole number"),
        ("x / 0", "by a whole number"),
        ("n % 0", "by a whole number"),
        ("MAX(x)", "not known to be equal for double"),
        ("greatest(x, x)", "not known to be equal for double"),
        ("nullif(x, 0.0D)", "negative zero"),
        # Types beside each other.
        ("x > 1.5", "is not known to be compared equally; write the number as 1.5D"),
        ("price > x", "is not known to be compared equally"),
        ("at < day", "is not known to be compared equally"),
        ("CASE WHEN is_on THEN x ELSE price END", "branches of different types"),
        ("coalesce(name, n)", "not known to be equal for string and integer"),
        ("at + INTERVAL 1 MONTH", "only days, hours"),
        ("left(name, -1)", "not negative"),
        ("left(name, n)", "written out"),
        ("name LIKE name", "written out"),
        # Order among nulls.
        ("MIN_BY(name, at)", "add `at IS NOT NULL` to the WHERE"),
        ("MAX_BY(name, STRUCT(at, n))", "add `at IS NOT NULL` to the WHERE"),
        ("MIN_BY(name, x)", "ordering by double"),
        ("COUNT(DISTINCT name, n)", "DISTINCT of one column"),
    ],
)
def test_what_is_not_known_to_be_equal_is_named(expression: str, why: str) -> None:
    assert any(why in problem for problem in problems_of(expression)), problems_of(expression)


@pytest.mark.parametrize(
    ("select", "why"),
    [
        ("SELECT a.n FROM raw_orders a RIGHT JOIN raw_orders b ON a.n = b.n", "RIGHT JOIN: only"),
        ("SELECT a.n FROM raw_orders a JOIN raw_orders b ON a.n < b.n", "JOIN: only"),
        ("SELECT a.n FROM raw_orders a JOIN raw_orders b ON a.n = b.n AND a.big = 1", "JOIN: only"),
        ("SELECT a.n FROM raw_orders a JOIN raw_orders b USING (n)", "JOIN: only"),
        ("SELECT a.n FROM raw_orders a CROSS JOIN raw_orders b", "CROSS JOIN: only"),
        ("SELECT a.n FROM raw_orders a JOIN other b ON a.n = b.n", "JOIN: only raw_orders itself"),
        ("SELECT a.n FROM raw_orders a JOIN raw_orders b ON a.x = b.x", "joining by double"),
        ("SELECT a.n FROM raw_orders a JOIN raw_orders b ON a.name = b.n", "joining by integer and string"),
        ("SELECT initcap(b.name) FROM raw_orders a JOIN raw_orders b ON a.n = b.n", "INITCAP(b.name)"),
        ("SELECT MIN_BY(a.n, b.at) FROM raw_orders a JOIN raw_orders b ON a.n = b.n WHERE a.at IS NOT NULL", "`at IS"),
        ("SELECT n FROM raw_orders, raw_orders", "only"),
        ("SELECT n FROM other", "FROM: only raw_orders itself"),
        ("SELECT n FROM parquet.raw_orders", "FROM: only raw_orders itself"),
        ("SELECT n FROM (SELECT n FROM raw_orders)", "FROM: only raw_orders itself"),
        ("SELECT n FROM raw_orders TABLESAMPLE (5 ROWS)", "FROM: only raw_orders itself"),
        ("SELECT 1", "FROM: only raw_orders itself"),
        ("SELECT n FROM raw_orders ORDER BY n", "ORDER: only"),
        ("SELECT n FROM raw_orders LIMIT 5", "LIMIT: only"),
        ("SELECT n FROM raw_orders UNION ALL SELECT n FROM raw_orders", "not one SELECT"),
        ("WITH a AS (SELECT 1) SELECT n FROM raw_orders", "WITH: only"),
        ("SELECT n FROM raw_orders LATERAL VIEW explode(tags) t AS tag", "LATERAL: only"),
        ("SELECT name, count(*) FROM raw_orders GROUP BY ROLLUP (name)", "ROLLUP (name): not known"),
        ("SELECT n FROM raw_orders WHERE initcap(name) = 'A'", "INITCAP(name)"),
        ("SELECT n FROM raw_orders WHERE n IN (SELECT n FROM raw_orders)", "no subquery"),
        ("SELECT name FROM raw_orders GROUP BY name HAVING max(x) > 1", "MAX(x)"),
        ("SELECT name FROM raw_orders GROUP BY initcap(name)", "INITCAP(name)"),
        ("SELECT /*+ BROADCAST(raw_orders) */ n FROM raw_orders", "HINT: only"),
        ("SELEC n", "not one SELECT"),
        ("SELECT n FROM", "it cannot be taken apart"),
        ("SELECT n FROM raw_orders; SELECT 1", "it cannot be taken apart"),
        ("", "not one SELECT"),
        ("DROP TABLE raw_orders", "not one SELECT"),
    ],
)
def test_only_one_plain_select_over_the_raw_rows_is_known(select: str, why: str) -> None:
    found = select_problems(select, {"raw_orders": COLUMNS})
    assert any(why in problem for problem in found), found


def test_all_problems_are_told_at_once() -> None:
    found = select_problems("SELECT initcap(name), n + 1 FROM raw_orders ORDER BY n", {"raw_orders": COLUMNS})
    assert len(found) == 3


def test_what_is_ordered_by_values_that_are_there_is_known() -> None:
    ordered = "SELECT MIN_BY(name, STRUCT(at, n)) AS first FROM raw_orders WHERE {} GROUP BY day"
    assert select_problems(ordered.format("at IS NOT NULL AND (n IS NOT NULL)"), {"raw_orders": COLUMNS}) == []
    for where in ("at IS NOT NULL OR n IS NOT NULL", "at IS NOT NULL AND NOT (n IS NOT NULL)", "n IS NOT NULL"):
        assert select_problems(ordered.format(where), {"raw_orders": COLUMNS}) != []


def test_the_selects_of_the_example_are_known() -> None:
    sources = tomllib.loads((CHECKOUT / "examples/uci_online_retail/sources.toml").read_text(encoding="utf-8"))
    columns = {
        "InvoiceNo": "string",
        "Quantity": "bigint",
        "InvoiceDate": "string",
        "UnitPrice": "double",
        "CustomerID": "double",
        "Country": "string",
    }
    for table in ("orders", "customers"):
        assert select_problems(sources[table]["select"], {f"raw_{table}": columns}) == []


ROWS = pa.table(
    {
        "n": pa.array([None, -7, 2**31 - 1, 0], pa.int32()),
        "big": pa.array([None, -7, 2**63 - 1, 0], pa.int64()),
        "x": [None, -2.5, math.nan, 1e7],
        "price": pa.array([None, Decimal("-2.675000"), Decimal("999999999999.999999"), Decimal("0.000001")]),
        "is_on": [None, True, False, True],
        "name": [None, "", " Äß ", "3/5/69 9:07"],
        "day": pa.array([None, date(1969, 12, 31), date(9999, 12, 31), date(2024, 2, 29)], pa.date32()),
        "at": pa.array(
            [None, datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(9999, 12, 31), datetime(2024, 2, 29, 1, 2, 3)],
            pa.timestamp("us", "UTC"),
        ),
    }
)
# What Spark 4.2.0 gives for the four rows.
KNOWN: list[tuple[str, list[Any]]] = [
    ("CAST(n AS STRING)", [None, "-7", "2147483647", "0"]),
    (
        "CAST(n AS DECIMAL(18, 0)) + CAST(big AS DECIMAL(19, 0))",
        [None, Decimal(-14), Decimal(2**31 + 2**63 - 2), Decimal(0)],
    ),
    ("CAST(CAST(price AS STRING) AS DOUBLE)", [None, -2.675, 1e12, 1e-6]),
    ("CAST(price AS DECIMAL(15, 2))", [None, Decimal("-2.68"), Decimal("1000000000000.00"), Decimal("0.00")]),
    (
        "price * price",
        [None, Decimal("7.155625000000"), Decimal("999999999999999998000000.000000000001"), Decimal("1e-12")],
    ),
    ("CAST(at AS DATE)", [None, date(1969, 12, 31), date(9999, 12, 31), date(2024, 2, 29)]),
    ("CAST(at AS STRING)", [None, "1969-12-31 23:59:59.999999", "9999-12-31 00:00:00", "2024-02-29 01:02:03"]),
    ("TRY_CAST(name AS DOUBLE)", [None, None, None, None]),
    ("TRY_CAST(name AS BIGINT)", [None, None, None, None]),
    ("unix_micros(try_to_timestamp(name, 'M/d/yy H:mm'))", [None, None, None, 3_129_700_020_000_000]),
    ("upper(trim(name))", [None, "", "ÄSS", "3/5/69 9:07"]),
    ("length(name)", [None, 0, 4, 11]),
    ("substring(name, -4)", [None, "", " Äß ", "9:07"]),
    ("left(name, 2)", [None, "", " Ä", "3/"]),
    ("name || '-' || CAST(n AS STRING)", [None, "--7", " Äß -2147483647", "3/5/69 9:07-0"]),
    ("concat_ws('-', name, CAST(n AS STRING))", ["", "--7", " Äß -2147483647", "3/5/69 9:07-0"]),
    ("coalesce(nullif(trim(name), ''), 'none')", ["none", "none", "Äß", "3/5/69 9:07"]),
    ("name LIKE '%/%'", [None, False, False, True]),
    ("name IN ('', NULL)", [None, True, None, None]),
    ("x > 0", [None, False, True, True]),
    ("x = double('NaN') OR is_on", [None, True, True, True]),
    ("NOT is_on AND x IS NOT NULL", [False, False, True, False]),
    ("x * 2 - 1", [None, -6.0, math.nan, 19_999_999.0]),
    ("n / 2", [None, -3.5, 1073741823.5, 0.0]),
    ("n % 3", [None, -1, 1, 0]),
    ("CASE WHEN x > 1 THEN 'much' WHEN x < 0 THEN 'less' END", [None, "less", "much", "much"]),
    ("year(day)", [None, 1969, 9999, 2024]),
    ("hour(at)", [None, 23, 0, 1]),
    ("unix_micros(at - INTERVAL 36 HOURS)", [None, -129_600_000_001, 253_402_084_800_000_000, 1_709_038_923_000_000]),
    ("greatest(day, date'2000-01-01')", [date(2000, 1, 1), date(2000, 1, 1), date(9999, 12, 31), date(2024, 2, 29)]),
    ("at >= '2000-01-01'", [None, False, True, True]),
]


@pytest.mark.parametrize(("expression", "expected"), KNOWN, ids=[expression for expression, _ in KNOWN])
def test_what_is_known_gives_what_spark_gives(
    spark: SparkSession, tmp_path: Path, expression: str, expected: list[Any]
) -> None:
    columns = {field.name: COLUMNS[field.name] for field in ROWS.schema} | {"price": "decimal(18,6)"}
    asked = expression.removeprefix("unix_micros")
    assert select_problems(f"SELECT {asked} FROM raw_orders", {"raw_orders": columns}) == []
    prices = ROWS.schema.get_field_index("price")
    typed = ROWS.set_column(prices, "price", ROWS.column("price").cast(pa.decimal128(18, 6)))
    pq.write_table(typed.append_column("place", [[0, 1, 2, 3]]), tmp_path / "rows.parquet")
    rows = spark.read.parquet(str(tmp_path / "rows.parquet"))
    found = {row.place: row.found for row in rows.select("place", F.expr(expression).alias("found")).collect()}
    assert [repr(found[place]) for place in range(4)] == [repr(value) for value in expected]


def test_aggregates_that_are_known_give_what_spark_gives(spark: SparkSession, tmp_path: Path) -> None:
    rows = pa.table({"name": ["a", "a", None, None], "n": pa.array([1, None, 3, 5], pa.int64()), "place": [2, 1, 4, 3]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    select = (
        "SELECT name, COUNT(*), COUNT(n), COUNT(DISTINCT n), MIN(n), MAX(place), SUM(CAST(n AS DECIMAL(18, 2))), "
        "MIN_BY(n, place), COUNT(*) FILTER (WHERE n > 2) FROM raw_things WHERE place IS NOT NULL GROUP BY name"
    )
    assert select_problems(select, {"raw_things": {"name": "string", "n": "bigint", "place": "bigint"}}) == []
    spark.read.parquet(str(tmp_path / "rows.parquet")).createOrReplaceTempView("raw_things")
    found = {row[0]: tuple(row)[1:] for row in spark.sql(select).collect()}
    assert found == {
        "a": (2, 1, 1, 1, 2, Decimal("1.00"), None, 0),
        None: (2, 2, 2, 3, 4, Decimal("8.00"), 5, 2),
    }

"""sources.toml is refused with every mistake named; what it names is opened as it is or refused with the next step."""

import json
import traceback
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import convert_to_deltalake, write_deltalake
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.errors import (
    ChurnError,
    EmptySourceError,
    InvalidSourcesError,
    MissingSourceError,
    SourceSchemaError,
    UnreadableSourceError,
)
from churn_assets.churn.tables import CUSTOMERS, ORDERS, REVIEWS
from churn_assets.demo.simulator import DemoSettings
from churn_assets.engines.sessions import is_sail
from churn_assets.resources.settings import CHECKOUT
from churn_assets.resources.source_reading import FencedSourceError
from churn_assets.resources.sources import Source, SourceCatalog, Sources, load_sources, located
from churn_assets_tests.panels import cleaned, rows_of, source_frames

ORDERS_TOML = '[orders]\nformat = "parquet"\npath = "orders"\n'


def sources_file(folder: Path, text: str) -> Path:
    path = folder / "sources.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> InvalidSourcesError:
    with pytest.raises(InvalidSourcesError) as error:
        load_sources(sources_file(folder, text))
    assert str(folder / "sources.toml") in str(error.value)
    return error.value


def catalog(folder: Path, text: str) -> SourceCatalog:
    return SourceCatalog(load_sources(sources_file(folder, text)), folder, str(folder / "demo"))


def of_orders(folder: Path, kind: str, path: str = "orders", more: str = "") -> SourceCatalog:
    return catalog(folder, f'[orders]\nformat = "{kind}"\npath = "{path}"\n{more}')


# ---- the file


def test_the_shipped_sources_are_the_demo() -> None:
    assert load_sources(CHECKOUT / "sources.toml") == Sources(demo=DemoSettings())


def test_the_sources_of_the_real_data_example_are_allowed() -> None:
    sources = load_sources(CHECKOUT / "examples" / "uci_online_retail" / "sources.toml")
    assert sources.orders is not None
    assert sources.customers is not None
    assert sources.reviews is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "(whole file): needs [orders], the one table that cannot be absent, or [demo]"),
        ('[reviews]\nformat = "csv"\npath = "r.csv"', "(whole file): needs [orders]"),
        (f"[demo]\n{ORDERS_TOML}", "(whole file): has [demo] and [orders]: remove [demo]"),
        ('[demo]\n[customers]\nformat = "csv"\npath = "c"', "(whole file): has [demo] and [customers]"),
        (f"{ORDERS_TOML}mystery = 1", "orders.mystery: unknown key"),
        (f"{ORDERS_TOML}[payments]\nformat = 'csv'", "payments: unknown key"),
        ('[orders]\nformat = "excel"\npath = "o"', "orders.format: found 'excel', should be 'delta', 'parquet', 'csv'"),
        ('[orders]\nformat = "csv"', "orders.path: is required"),
        ('[orders]\nformat = "csv"\npath = ""', "orders.path: found ''"),
        ('[orders]\nformat = "csv"\npath = 3', "orders.path: found 3, should be a valid string"),
        (f"{ORDERS_TOML}select = ['order_id']", "orders.select: found ['order_id'], should be a valid string"),
        ("[demo]\ncustomers = 0", "demo.customers: found 0, should be greater than or equal to 1"),
        ("[demo]\ncustomer = 5", "demo.customer: unknown key"),
    ],
)
def test_a_wrong_file_is_refused_with_key_found_and_allowed(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = refused(tmp_path, text).problems
    assert found.startswith(problem)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, "[orders]\nformat = 'excel'\nmystery = 1\n[reviews]\npath = 'r'\n[other]\n")
    assert {problem.split(":")[0] for problem in error.problems} == {
        "orders.format",
        "orders.mystery",
        "orders.path",
        "reviews.format",
        "other",
    }


def test_a_missing_file_and_broken_toml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSourcesError, match="there is no such file"):
        load_sources(tmp_path / "sources.toml")
    assert "cannot be read as TOML" in str(refused(tmp_path, "[orders\n"))


# ---- paths


def test_variables_are_filled_in_and_relative_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    def path(text: str, kind: Literal["parquet", "table"] = "parquet") -> str:
        return located(
            Source(format=kind, path=text), tmp_path, {"LAKE": "s3a://lake", "DAY": "monday", "EMPTY": ""}
        ).path

    assert path("raw/orders") == str(tmp_path / "raw" / "orders")
    assert path("/raw/orders") == "/raw/orders"
    assert path("${LAKE}/orders/${DAY}") == "s3a://lake/orders/monday"
    assert path("${DAY}") == str(tmp_path / "monday")
    assert path("shop.orders", "table") == "shop.orders"
    with pytest.raises(MissingSourceError) as error:
        path("${NOWHERE}/${EMPTY}/${DAY}")
    assert error.value.problems == ("NOWHERE", "EMPTY")
    assert "set NOWHERE in the environment" in str(error.value)


def test_an_unset_variable_is_told_when_the_table_is_opened(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHURN_NO_SUCH_VARIABLE", raising=False)
    with pytest.raises(MissingSourceError, match="CHURN_NO_SUCH_VARIABLE"):
        of_orders(tmp_path, "parquet", "${CHURN_NO_SUCH_VARIABLE}").open(spark, ORDERS)


@pytest.mark.parametrize("kind", ["parquet", "csv", "delta"])
def test_a_path_with_nothing_there_is_missing_and_says_what_to_correct(
    spark: SparkSession, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(MissingSourceError) as error:
        of_orders(tmp_path, kind).open(spark, ORDERS)
    assert f"there is nothing at {tmp_path / 'orders'} ({kind})" in str(error.value)
    assert "correct `path` under [orders] in sources.toml" in str(error.value)


def test_missing_demo_tables_say_how_they_are_made(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match="make demo"):
        catalog(tmp_path, "[demo]\n").open(spark, ORDERS)


def test_optional_tables_that_are_not_configured_are_none(spark: SparkSession, tmp_path: Path) -> None:
    opened = catalog(tmp_path, ORDERS_TOML)
    assert opened.open(spark, REVIEWS) is None
    assert opened.open(spark, CUSTOMERS) is None


# ---- reading


ORDER = {"order_id": "1", "customer_id": "c", "ordered_at": datetime(2024, 3, 5, 12), "subtotal": 9.5}
HEADER, LINE = "order_id,customer_id,ordered_at,subtotal\n", "1,c,2024-03-05 12:00:00,9.5\n"


def orders(*, columns: dict[str, pa.Array] | None = None, **values: object) -> pa.Table:
    """One order as a Parquet file may hold it, with other values, and further columns."""
    table = pa.Table.from_pylist([ORDER | values])
    for name, column in (columns or {}).items():
        table = table.append_column(name, column)
    return table


def parquet(folder: Path, **files: pa.Table) -> None:
    for name, table in files.items():
        path = folder / "orders" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, f"{path}.parquet")


def text(folder: Path, content: str) -> None:
    (folder / "orders").write_text(content, encoding="utf-8")


def opened(spark: SparkSession, sources: SourceCatalog) -> DataFrame:
    rows = sources.open(spark, ORDERS)
    assert rows is not None
    return rows


def raw(spark: SparkSession, sources: SourceCatalog) -> set[tuple[object, ...]]:
    return {tuple(row) for row in sources.raw(spark, "orders").rows.collect()}


def test_a_corrupt_parquet_file_cannot_be_read(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").write_bytes(b"PAR1 this is not what it says PAR1")
    with pytest.raises(UnreadableSourceError, match="is no Parquet file") as error:
        of_orders(tmp_path, "parquet").open(spark, ORDERS)
    assert len(error.value.problems) == 1
    assert "under [orders] in sources.toml, replace the file" in str(error.value)


@pytest.mark.parametrize("select", ["SELEC order_id", "SELECT no_such_column FROM raw_orders", "SELECT 1 FROM nowhere"])
def test_a_select_that_cannot_run_is_told_as_the_sources_fault(
    spark: SparkSession, tmp_path: Path, select: str
) -> None:
    text(tmp_path, "order_id\n1\n")
    with pytest.raises(UnreadableSourceError, match=r"under \[orders\]"):
        of_orders(tmp_path, "csv", more=f'select = "{select}"').open(spark, ORDERS)


def test_a_catalog_table_that_does_not_exist_is_told_as_the_sources_fault(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError, match="no_such_table"):
        of_orders(tmp_path, "table", "no_such_table").open(spark, ORDERS)


def test_a_table_without_a_required_column_is_refused_when_it_is_opened(spark: SparkSession, tmp_path: Path) -> None:
    text(tmp_path, "order_id,customer_id,ordered_at,total\n1,c,2024-03-05,1\n")
    with pytest.raises(SourceSchemaError, match=r"subtotal \(double\) is missing"):
        of_orders(tmp_path, "csv").open(spark, ORDERS)


def test_a_table_without_rows_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    text(tmp_path, HEADER)
    with pytest.raises(EmptySourceError, match="has no rows"):
        of_orders(tmp_path, "csv").open(spark, ORDERS)
    text(tmp_path, HEADER + LINE)
    with pytest.raises(EmptySourceError, match="check path and select under"):
        of_orders(tmp_path, "csv", more="select = \"SELECT * FROM raw_orders WHERE order_id = '2'\"").open(
            spark, ORDERS
        )


def test_columns_without_a_type_are_told_as_an_empty_table_where_there_are_no_rows(
    spark: SparkSession, tmp_path: Path
) -> None:
    nothing = orders().slice(0, 0).set_column(0, "order_id", pa.array([], pa.null()))
    parquet(tmp_path, first=nothing, second=nothing)
    with pytest.raises(EmptySourceError, match="has no rows"):
        of_orders(tmp_path, "parquet").open(spark, ORDERS)


def test_text_of_a_csv_file_is_converted_and_what_cannot_be_is_quarantined_and_told(
    spark: SparkSession, tmp_path: Path
) -> None:
    text(
        tmp_path,
        "order_id;customer_id;ordered_at;delivered_at;subtotal\n"
        "good;c;2024-03-05 12:00:00;2024-03-05T14:00:00+01:00;9.5\n"
        "no time;c;noon;;1\n"
        "no value;c;2024-03-05 12:00:00;;gratis\n"
        ";c;2024-03-05 12:00:00;;1\n",
    )
    found = of_orders(tmp_path, "csv", more='options = { sep = ";" }').examined(spark, ORDERS)
    assert found is not None
    _, reviews, customers = source_frames(spark, ([], [], []))
    result = cleaned((found.rows, reviews, customers))
    (kept,) = rows_of(result.orders)
    aside = {(row["rule"], row["row_key"]) for row in rows_of(result.set_aside)}
    # A time without a zone is UTC; one with a zone is moved to it.
    assert (kept["ordered_at"], kept["delivered_at"]) == (datetime(2024, 3, 5, 12), datetime(2024, 3, 5, 13))
    assert (kept["order_id"], kept["subtotal"]) == ("good", 9.5)
    assert aside == {("impossible_time", "no time"), ("negative_subtotal", "no value"), ("null_key", None)}
    assert [str(each) for each in found.unreadable] == [
        "ordered_at: 1 of 4 values cannot be read as a timestamp, such as 'noon'",
        "subtotal: 1 of 4 values cannot be read as a double, such as 'gratis'",
    ]


def test_a_column_of_which_most_values_cannot_be_read_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    text(
        tmp_path,
        "order_id;customer_id;ordered_at;delivered_at;subtotal\n1;c;2024-03-05;05.03.2024;9,5\n2;c;2024-03-05;;9,5\n",
    )
    with pytest.raises(UnreadableSourceError) as error:
        of_orders(tmp_path, "csv", more='options = { sep = ";" }').open(spark, ORDERS)
    assert error.value.problems == (
        "delivered_at: 1 of 1 values cannot be read as a timestamp, such as '05.03.2024'",
        "subtotal: 2 of 2 values cannot be read as a double, such as '9,5'",
    )
    assert "[orders.convert]" in error.value.next_step


def test_converters_say_how_text_is_written(spark: SparkSession, tmp_path: Path) -> None:
    text(
        tmp_path,
        "order_id;customer_id;ordered_at;subtotal\n1;c;05.07.2024 14:30;1.009,50 €\n2;c;6.7.2024 9:00;x\n3;c;;1\n",
    )
    convert = """
    options = { sep = ";" }
    [orders.convert]
    ordered_at = { time = "d.M.yyyy H:mm", zone = "Europe/Berlin" }
    subtotal = { number = "1.234,56" }
    """
    found = of_orders(tmp_path, "csv", more=convert).examined(spark, ORDERS)
    assert found is not None
    assert found.rows.dtypes[2:] == [("ordered_at", "timestamp"), ("subtotal", "double")]
    assert {tuple(row)[2:] for row in found.rows.collect()} == {
        (datetime(2024, 7, 5, 12, 30), 1009.5),
        (datetime(2024, 7, 6, 7), None),
        (None, 1.0),
    }
    assert [str(each) for each in found.unreadable] == [
        "subtotal: 1 of 3 values cannot be read as { number = \"1.234,56\" }, such as 'x'"
    ]


def test_a_cast_that_fails_is_told_by_column_example_and_rows(spark: SparkSession, tmp_path: Path) -> None:
    text(tmp_path, HEADER + LINE * 2 + "2,c,2024-03-05 12:00:00,n/a\n" * 3)
    select = "SELECT order_id, customer_id, ordered_at, CAST(subtotal AS DOUBLE) AS subtotal FROM raw_orders"
    sources = of_orders(tmp_path, "csv", more=f'select = "{select}"')
    with pytest.raises(UnreadableSourceError) as error, sources.explained(spark, ORDERS):
        opened(spark, sources).collect()
    assert error.value.problems == ("subtotal: CAST(subtotal AS DOUBLE) fails in 3 rows, such as for 'n/a'",)
    assert "Source table orders" in error.value.summary


def test_a_select_makes_orders_of_raw_lines(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    prices = pa.array([Decimal("1.5"), Decimal("2.0"), Decimal("4.0")], pa.decimal128(10, 2))
    at = pa.array([datetime(2024, 3, 5)] * 3, pa.timestamp("us", "UTC"))
    lines = pa.table({"bill": ["1", "1", "2"], "who": ["a", "a", "b"], "price": prices, "at": at})
    pq.write_table(lines, tmp_path / "lines" / "part.parquet")
    select = (
        "SELECT bill AS order_id, MIN(who) AS customer_id, MIN(at) AS ordered_at, SUM(price) AS subtotal "
        "FROM raw_orders GROUP BY bill"
    )
    rows = opened(spark, of_orders(tmp_path, "parquet", "lines", f'select = "{select}"'))
    assert {(row[0], row[1], row[3]) for row in rows.collect()} == {("1", "a", Decimal("3.50")), ("2", "b", Decimal(4))}


def test_a_select_may_read_any_raw_table_and_a_table_may_be_made_of_others(spark: SparkSession, tmp_path: Path) -> None:
    text(tmp_path, "order_id,customer_id,ordered_at,subtotal,stars\n1,a,2024-03-05,9.5,5\n2,b,2024-03-05,1,\n")
    (tmp_path / "returns").write_text("bill,at\n2,2024-03-06\n", encoding="utf-8")
    sources = catalog(
        tmp_path,
        """
        [orders]
        format = "csv"
        path = "orders"
        select = '''SELECT o.order_id, o.customer_id, o.ordered_at, o.subtotal, r.bill IS NOT NULL AS is_cancelled
                    FROM raw_orders o LEFT JOIN raw_returns r ON o.order_id = r.bill'''
        [reviews]
        select = "SELECT order_id, ordered_at AS reviewed_at, stars AS review_score FROM raw_orders WHERE stars <> ''"
        [raw.returns]
        format = "csv"
        path = "returns"
        """,
    )
    assert {(row.order_id, row.is_cancelled) for row in opened(spark, sources).collect()} == {("1", False), ("2", True)}
    reviews = sources.open(spark, REVIEWS)
    assert reviews is not None
    assert [tuple(row) for row in reviews.collect()] == [("1", "2024-03-05", "5")]
    # A change of any of them is a change.
    before = sources.state()
    (tmp_path / "returns").write_text("bill,at\n", encoding="utf-8")
    assert sources.state() != before


def test_unused_columns_of_any_name_and_type_are_left_out(spark: SparkSession, tmp_path: Path) -> None:
    odd = {
        "payment.method": pa.array(["card"]),
        "with`tick": pa.array([1]),
        "Order Note": pa.array([""]),
        "half": pa.array([1.0], pa.float16()),
        "clock": pa.array([1], pa.time64("ns")),
        "nothing": pa.nulls(1),
        "steps": pa.array([[{"a": 1}]], pa.list_(pa.struct([("a", pa.uint8())]))),
        "promised_at": pa.array([datetime(2024, 3, 5, 13)], pa.timestamp("us")),
        "SUBTOTAL": pa.array([1.0]),
    }
    parquet(tmp_path, a=orders(columns={name: column for name, column in odd.items() if name != "SUBTOTAL"}))
    rows = opened(spark, of_orders(tmp_path, "parquet"))
    assert rows.columns == ["order_id", "customer_id", "ordered_at", "subtotal", "promised_at"]
    assert [tuple(row) for row in rows.collect()] == [(*ORDER.values(), datetime(2024, 3, 5, 13))]
    select = "SELECT *, `payment.method` AS x FROM raw_orders"
    with pytest.raises(UnreadableSourceError) as error:
        of_orders(tmp_path, "parquet", more=f'select = "{select}"').open(spark, ORDERS)
    assert {problem.split(" ")[0] for problem in error.value.problems} == {"clock", "steps"}


def test_columns_of_odd_names_can_be_mapped(spark: SparkSession, tmp_path: Path) -> None:
    names = {"order_id": "order.id", "customer_id": "cust`omer", "ordered_at": "Bestellt am", "subtotal": "Summe (€)"}
    parquet(tmp_path, a=orders().rename_columns(list(names.values())))
    chosen = ", ".join(f"`{name.replace('`', '``')}` AS {canonical}" for canonical, name in names.items())
    rows = opened(spark, of_orders(tmp_path, "parquet", more=f"select = 'SELECT {chosen} FROM raw_orders'"))
    assert [tuple(row) for row in rows.collect()] == [tuple(ORDER.values())]


@pytest.mark.parametrize("is_by_delta", [False, True])
def test_nanoseconds_are_rounded_down_to_microseconds(
    spark: SparkSession, tmp_path: Path, *, is_by_delta: bool
) -> None:
    counted = pa.array([1_709_640_000_123_456_999, -1, None], pa.int64())
    table = pa.table(
        {
            "order_id": ["1", "2", "3"],
            "customer_id": ["c"] * 3,
            "ordered_at": counted.cast(pa.timestamp("ns")),
            "promised_at": counted.cast(pa.timestamp("ns", "UTC")),
            "subtotal": [1.0] * 3,
        }
    )
    parquet(tmp_path, a=table)
    if is_by_delta:
        convert_to_deltalake(str(tmp_path / "orders"))
    rows = opened(spark, of_orders(tmp_path, "delta" if is_by_delta else "parquet"))
    expected = [datetime(2024, 3, 5, 12, 0, 0, 123456), datetime(1969, 12, 31, 23, 59, 59, 999999), None]
    for name in ("ordered_at", "promised_at"):
        assert [row[0] for row in rows.orderBy("order_id").select(name).collect()] == expected


def test_times_of_96_bits_are_read_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    pq.write_table(orders(), tmp_path / "orders" / "a.parquet", use_deprecated_int96_timestamps=True)
    rows = opened(spark, of_orders(tmp_path, "parquet"))
    assert rows.dtypes[2] == ("ordered_at", "timestamp")
    assert [tuple(row) for row in rows.collect()] == [tuple(ORDER.values())]


@pytest.mark.parametrize("content", ["delivered_at", "subtotal", "customer_id"])
def test_files_that_differ_in_a_used_column_are_refused_before_anything_is_written(
    spark: SparkSession, tmp_path: Path, content: str
) -> None:
    other = {
        "delivered_at": orders(columns={"delivered_at": pa.array([datetime(2024, 3, 5)], pa.timestamp("us"))}),
        "subtotal": orders(subtotal="9.5"),
        "customer_id": orders().rename_columns(["order_id", "CUSTOMER_ID", "ordered_at", "subtotal"]),
    }
    parquet(tmp_path, a=orders(), b=other[content])
    with pytest.raises(UnreadableSourceError) as error:
        of_orders(tmp_path, "parquet").open(spark, ORDERS)
    told = {
        "delivered_at": "a.parquet lacks delivered_at",
        "subtotal": f"subtotal is double in {tmp_path}/orders/a.parquet and string in {tmp_path}/orders/b.parquet",
        "customer_id": "b.parquet lacks customer_id",
    }
    assert told[content] in str(error.value)
    assert "Source table orders" in error.value.summary


def test_files_may_differ_in_what_nobody_uses_and_in_how_one_type_is_written(
    spark: SparkSession, tmp_path: Path
) -> None:
    one = orders(columns={"note": pa.array([1]), "is_cancelled": pa.array([True])})
    other = orders(columns={"more": pa.array(["x"]), "is_cancelled": pa.nulls(1)}).select(
        ["is_cancelled", "subtotal", "ordered_at", "customer_id", "order_id", "more"]
    )
    other = other.set_column(3, "customer_id", pa.array(["c"]).dictionary_encode())
    other = other.set_column(2, "ordered_at", pa.array([ORDER["ordered_at"]], pa.timestamp("ns")))
    parquet(tmp_path, a=one, b=other.set_column(4, "order_id", pa.array(["2"], pa.large_string())))
    rows = opened(spark, of_orders(tmp_path, "parquet"))
    assert {tuple(row) for row in rows.collect()} == {
        (*ORDER.values(), True),
        ("2", *list(ORDER.values())[1:], None),
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array([2**32 - 1], pa.uint32()), 2**32 - 1),
        (pa.array([2**64 - 1], pa.uint64()), Decimal(2**64 - 1)),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array([1.5], pa.float16()), 1.5),
        (pa.nulls(1), None),
    ],
    ids=lambda column: str(getattr(column, "type", "")),
)
def test_types_of_other_tools_become_those_of_spark(
    spark: SparkSession, tmp_path: Path, column: pa.Array, value: object
) -> None:
    parquet(tmp_path, a=pa.table({"n": column}))
    assert raw(spark, of_orders(tmp_path, "parquet")) == {(value,)}


def test_options_are_for_csv_files(spark: SparkSession, tmp_path: Path) -> None:
    parquet(tmp_path, a=orders())
    with pytest.raises(UnreadableSourceError, match="mergeSchema"):
        of_orders(tmp_path, "parquet", more="options = { mergeSchema = true }").open(spark, ORDERS)


def test_a_folder_without_files_to_read_is_missing(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "_SUCCESS").touch()
    for kind, path in (("parquet", "orders"), ("csv", "orders"), ("parquet", "orders/*.parquet"), ("csv", "o*")):
        with pytest.raises(MissingSourceError, match="there is nothing at"):
            of_orders(tmp_path, kind, path).open(spark, ORDERS)


def test_hidden_files_are_not_read_and_those_of_folders_and_patterns_are(spark: SparkSession, tmp_path: Path) -> None:
    parquet(tmp_path, a=orders(), more__b=orders(order_id="2"), _c=pa.table({"x": [1]}), **{".d": pa.table({"x": [1]})})
    parquet(tmp_path, **{"[3] {x}": orders(order_id="3")})
    for path, found in {
        "orders": {"1", "2", "3"},
        "orders/*.parquet": {"1", "3"},
        "orders/**/b.*": {"2"},
        "orders/[[]3]*.parquet": {"3"},
        "orders/[3] {x}.parquet": {"3"},
    }.items():
        rows = opened(spark, of_orders(tmp_path, "parquet", path))
        assert {row.order_id for row in rows.collect()} == found, path


def test_folders_of_partitions_give_columns(spark: SparkSession, tmp_path: Path) -> None:
    for day, shop, number in (("2024-01-01", "a%20b", 1), ("2024-01-02", "__HIVE_DEFAULT_PARTITION__", 2)):
        folder = tmp_path / "orders" / f"day={day}" / f"shop={shop}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"n": [number]}), folder / "a.parquet")
    sources = of_orders(tmp_path, "parquet")
    assert raw(spark, sources) == {(1, date(2024, 1, 1), "a b"), (2, date(2024, 1, 2), None)}
    parquet(tmp_path, b=pa.table({"n": [3]}))
    with pytest.raises(UnreadableSourceError, match="lies in no folder day=…"):
        raw(spark, sources)


# ---- Delta


def test_a_delta_table_is_read_as_it_stands(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("old", "new"):
        write_deltalake(str(tmp_path / "orders"), orders(order_id=name), mode="overwrite")
    assert [row.order_id for row in opened(spark, of_orders(tmp_path, "delta")).collect()] == ["new"]


PARTITIONED = pa.table(
    {
        "n": [1, 2, 3, 4],
        "shop": ["a b", "x=y/%", None, "ü"],
        "day": [date(2024, 1, 1), None, date(1969, 1, 1), date(2024, 1, 1)],
        "number": pa.array([1, None, 3, 1], pa.int32()),
        "at": pa.array([datetime(2024, 1, 1, 12, 30, 0, 5)] * 3 + [None], pa.timestamp("us", "UTC")),
        "is_on": [True, False, None, True],
    }
)


@pytest.mark.parametrize("by", [["day"], ["shop", "number"], ["at"], ["is_on", "day"]])
def test_values_of_a_partitioned_delta_table_are_those_of_its_log(
    spark: SparkSession, tmp_path: Path, by: list[str]
) -> None:
    write_deltalake(str(tmp_path / "orders"), PARTITIONED, partition_by=by)
    naive = PARTITIONED.set_column(4, "at", PARTITIONED["at"].cast(pa.timestamp("us")))
    assert raw(spark, of_orders(tmp_path, "delta")) == {tuple(row.values()) for row in naive.to_pylist()}


def test_partitions_that_nobody_asks_for_take_no_frames_of_their_own(spark: SparkSession, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ORDER | {"order_id": str(day), "day": str(day)} for day in range(40)])
    write_deltalake(str(tmp_path / "orders"), table, partition_by=["day"])
    rows = opened(spark, of_orders(tmp_path, "delta"))
    assert rows.columns == list(ORDER)
    assert {row.order_id for row in rows.collect()} == {str(day) for day in range(40)}


def damaged(folder: Path, what: str) -> None:
    """A Delta table of two versions whose log nobody here can read."""
    for name in ("old", "new"):
        # A time without a zone would need a feature of its own.
        write_deltalake(str(folder / "orders"), orders(order_id=name, ordered_at=None), mode="overwrite")
    log = folder / "orders" / "_delta_log"
    first, second = log / f"{0:020}.json", log / f"{1:020}.json"
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    protocols = {
        "feature": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["new"], "writerFeatures": ["new"]},
        "vectors": {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["deletionVectors"],
            "writerFeatures": ["deletionVectors"],
        },
        "version": {"minReaderVersion": 9, "minWriterVersion": 9},
    }
    if what == "text":
        second.write_text(second.read_text()[:40])
    elif what == "file":
        first.unlink()
    else:
        changed = [{"protocol": protocols[what]} if "protocol" in line else line for line in lines]
        first.write_text("\n".join(map(json.dumps, changed)) + "\n")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("feature", "Feature 'new' is not supported"),
        ("version", "Unsupported minimum reader version 9"),
        ("vectors", "deletionVectors"),
        ("text", "Truncated record"),
        ("file", "No table metadata or protocol found"),
    ],
)
def test_a_delta_table_that_cannot_be_opened_says_why(spark: SparkSession, tmp_path: Path, what: str, why: str) -> None:
    damaged(tmp_path, what)
    sources = of_orders(tmp_path, "delta")
    for ask in (lambda: sources.open(spark, ORDERS), sources.state):
        with pytest.raises(UnreadableSourceError) as error:
            ask()
        assert why in str(error.value)
        assert "Source table orders" in error.value.summary
        assert "nothing at" not in str(error.value)


# ---- what may be secret


@pytest.mark.parametrize("kind", ["parquet", "csv", "delta"])
def test_errors_show_the_names_of_variables_and_not_their_values(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    secret = "s3cr3t k%y"
    monkeypatch.setenv("CHURN_TEST_LAKE", f"{tmp_path}/{secret}")
    sources = of_orders(tmp_path, kind, "${CHURN_TEST_LAKE}/orders", 'select = "SELECT nothing FROM raw_orders"')
    shown = []

    def tried() -> None:
        for ask in (lambda: sources.open(spark, ORDERS), sources.state):
            try:
                ask()
            except ChurnError as error:
                shown.append("".join(traceback.format_exception(error)))

    tried()
    folder = tmp_path / secret
    folder.mkdir()
    if kind == "delta":
        damaged(folder, "file")
    else:
        (folder / "orders").write_bytes(b"a,b\n1,2,3\n")
    tried()
    assert len(shown) >= 2
    for told in shown:
        assert "${CHURN_TEST_LAKE}/orders" in told
        assert "s3cr3t" not in told


# ---- what only Spark answers


def rows_or_fenced(spark: SparkSession, sources: SourceCatalog, why: str) -> DataFrame | None:
    """The rows as Spark gives them; None where Sail is asked and refuses, naming `why` and the other engine."""
    if is_sail(spark):
        with pytest.raises(FencedSourceError) as refused:
            sources.open(spark, ORDERS)
        assert why in str(refused.value)
        assert "CHURN_ENGINE=local" in str(refused.value)
        assert "[orders]" in str(refused.value)
        return None
    return opened(spark, sources)


def test_a_catalog_table_is_read_by_its_name(spark: SparkSession, tmp_path: Path) -> None:
    select = (
        "SELECT id AS order_id, 'c' AS customer_id, timestamp '2024-03-05' AS ordered_at, 1.0D AS subtotal "
        "FROM raw_orders"
    )
    sources = of_orders(tmp_path, "table", "shop_orders", f'select = "{select}"')
    if is_sail(spark):
        rows_or_fenced(spark, sources, "no catalog, and so no table shop_orders")
        return
    spark.range(3).createOrReplaceTempView("shop_orders")
    try:
        assert sorted(row.order_id for row in opened(spark, sources).collect()) == [0, 1, 2]
    finally:
        spark.catalog.dropTempView("shop_orders")


def test_a_select_runs_on_sail_only_if_all_of_it_is_known(spark: SparkSession, tmp_path: Path) -> None:
    parquet(tmp_path, a=orders())
    select = "SELECT initcap(order_id) AS order_id, customer_id, ordered_at, subtotal FROM raw_orders"
    found = rows_or_fenced(
        spark, of_orders(tmp_path, "parquet", more=f'select = "{select}"'), "INITCAP(order_id): not known to be equal"
    )
    assert found is None or [row.order_id for row in found.collect()] == ["1"]

"""sources.toml is refused with every mistake named; what it names is opened as it is or refused with the next step."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from churn_assets.churn.errors import (
    EmptySourceError,
    InvalidSourcesError,
    MissingSourceError,
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
        return located(Source(format=kind, path=text), tmp_path, {"LAKE": "s3a://lake", "DAY": "monday", "EMPTY": ""})

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


def test_a_corrupt_parquet_file_cannot_be_read(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").write_bytes(b"PAR1 this is not what it says PAR1")
    with pytest.raises(UnreadableSourceError) as error:
        of_orders(tmp_path, "parquet").open(spark, ORDERS)
    assert len(error.value.problems) == 1
    assert "check format, path, options and select under [orders]" in str(error.value)


@pytest.mark.parametrize("select", ["SELEC order_id", "SELECT no_such_column FROM raw_orders", "SELECT 1 FROM nowhere"])
def test_a_select_that_cannot_run_is_told_as_the_sources_fault(
    spark: SparkSession, tmp_path: Path, select: str
) -> None:
    (tmp_path / "orders").write_text("order_id\n1\n", encoding="utf-8")
    with pytest.raises(UnreadableSourceError, match="select under"):
        of_orders(tmp_path, "csv", more=f'select = "{select}"').open(spark, ORDERS)


def test_a_catalog_table_that_does_not_exist_is_told_as_the_sources_fault(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError, match="no_such_table"):
        of_orders(tmp_path, "table", "no_such_table").open(spark, ORDERS)


def test_a_table_without_rows_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").write_text("order_id,customer_id\n", encoding="utf-8")
    with pytest.raises(EmptySourceError, match="has no rows"):
        of_orders(tmp_path, "csv").open(spark, ORDERS)
    (tmp_path / "orders").write_text("order_id,customer_id\n1,c\n", encoding="utf-8")
    with pytest.raises(EmptySourceError, match="check path and select under"):
        of_orders(tmp_path, "csv", more='select = "SELECT * FROM raw_orders WHERE order_id > 1"').open(spark, ORDERS)


def test_columns_without_a_type_are_told_as_an_empty_table_where_there_are_no_rows(
    spark: SparkSession, tmp_path: Path
) -> None:
    nothing = pa.table({"order_id": pa.array([], pa.null()), "subtotal": pa.array([], pa.float64())})
    parquet(tmp_path, first=nothing, second=nothing)
    with pytest.raises(EmptySourceError, match="has no rows"):
        of_orders(tmp_path, "parquet").open(spark, ORDERS)


def test_text_of_a_csv_file_is_converted_and_what_cannot_be_is_quarantined(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").write_text(
        "order_id;customer_id;ordered_at;delivered_at;subtotal\n"
        "good;c;2024-03-05 12:00:00;2024-03-05T14:00:00+01:00;9.5\n"
        "no time;c;noon;;1\n"
        "no value;c;2024-03-05 12:00:00;;gratis\n"
        ";c;2024-03-05 12:00:00;;1\n",
        encoding="utf-8",
    )
    raw = of_orders(tmp_path, "csv", more='options = { sep = ";" }').open(spark, ORDERS)
    assert raw is not None
    _, reviews, customers = source_frames(spark, ([], [], []))
    result = cleaned((raw, reviews, customers))
    (kept,) = rows_of(result.orders)
    aside = {(row["rule"], row["row_key"]) for row in rows_of(result.set_aside)}
    # A time without a zone is UTC; one with a zone is moved to it.
    assert (kept["ordered_at"], kept["delivered_at"]) == (datetime(2024, 3, 5, 12), datetime(2024, 3, 5, 13))
    assert (kept["order_id"], kept["subtotal"]) == ("good", 9.5)
    assert aside == {("impossible_time", "no time"), ("negative_subtotal", "no value"), ("null_key", None)}


def test_a_select_makes_orders_of_raw_lines(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    prices = pa.array([Decimal("1.5"), Decimal("2.0"), Decimal("4.0")], pa.decimal128(10, 2))
    lines = pa.table({"bill": ["1", "1", "2"], "who": ["a", "a", "b"], "price": prices})
    pq.write_table(lines, tmp_path / "lines" / "part.parquet")
    select = "SELECT bill AS order_id, MIN(who) AS customer_id, SUM(price) AS subtotal FROM raw_orders GROUP BY bill"
    opened = of_orders(tmp_path, "parquet", "lines", f'select = "{select}"').open(spark, ORDERS)
    assert opened is not None
    assert {tuple(row) for row in opened.collect()} == {("1", "a", Decimal("3.50")), ("2", "b", Decimal("4.00"))}


def test_a_delta_table_is_read_as_it_stands(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("old", "new"):
        write_deltalake(str(tmp_path / "orders"), pa.table({"order_id": [name]}), mode="overwrite")
    opened = of_orders(tmp_path, "delta").open(spark, ORDERS)
    assert opened is not None
    assert [tuple(row) for row in opened.collect()] == [("new",)]


def test_a_catalog_table_is_read_by_its_name(spark: SparkSession, tmp_path: Path) -> None:
    if is_sail(spark):
        with pytest.raises(FencedSourceError, match="no catalog, and so no table shop_orders"):
            of_orders(tmp_path, "table", "shop_orders").open(spark, ORDERS)
        return
    spark.range(3).createOrReplaceTempView("shop_orders")
    try:
        opened = of_orders(tmp_path, "table", "shop_orders", 'select = "SELECT id AS order_id FROM raw_orders"').open(
            spark, ORDERS
        )
        assert opened is not None
        assert sorted(row.order_id for row in opened.collect()) == [0, 1, 2]
    finally:
        spark.catalog.dropTempView("shop_orders")


# ---- what Spark and Sail would read otherwise is read as Spark reads it, or refused where Sail would read it


def rows_or_fenced(spark: SparkSession, sources: SourceCatalog, why: str) -> set[tuple[object, ...]] | None:
    """The rows as Spark reads them; None where Sail is asked and refuses, naming `why` and the other engine."""
    if is_sail(spark):
        with pytest.raises(FencedSourceError) as refused:
            sources.open(spark, ORDERS)
        assert why in str(refused.value)
        assert "CHURN_ENGINE=local" in str(refused.value)
        assert "[orders]" in str(refused.value)
        return None
    opened = sources.open(spark, ORDERS)
    assert opened is not None
    return {tuple(row) for row in opened.collect()}


def parquet(folder: Path, **files: pa.Table) -> None:
    for name, table in files.items():
        path = folder / "orders" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, f"{path}.parquet")


def test_a_folder_without_files_to_read_is_missing(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "_SUCCESS").touch()
    for kind, path in (("parquet", "orders"), ("csv", "orders"), ("parquet", "orders/*.parquet"), ("csv", "o*")):
        with pytest.raises(MissingSourceError, match="there is nothing at"):
            of_orders(tmp_path, kind, path).open(spark, ORDERS)


def test_hidden_files_are_not_read_and_the_order_of_columns_is_no_matter(spark: SparkSession, tmp_path: Path) -> None:
    one, other = pa.table({"order_id": ["1"], "n": [1]}), pa.table({"n": [2], "order_id": ["2"]})
    parquet(tmp_path, a=one, b=other, _c=pa.table({"x": [1]}), **{".d": pa.table({"x": [1]})})
    opened = of_orders(tmp_path, "parquet").open(spark, ORDERS)
    assert opened is not None
    assert {tuple(row) for row in opened.select("order_id", "n").collect()} == {("1", 1), ("2", 2)}


def test_partition_folders_are_read_by_spark_alone(spark: SparkSession, tmp_path: Path) -> None:
    parquet(tmp_path, day=pa.table({"n": [0]}))
    (tmp_path / "orders" / "day.parquet").unlink()
    parquet(tmp_path, **{"day=2024-01-01__a": pa.table({"n": [1]}), "day=2024-01-02__a": pa.table({"n": [2]})})
    found = rows_or_fenced(spark, of_orders(tmp_path, "parquet"), "folders in a folder")
    assert found in (None, {(1, date(2024, 1, 1)), (2, date(2024, 1, 2))})


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (pa.table({"n": [2], "more": ["x"]}), "different columns"),
        (pa.table({"N": [2]}), "different columns"),
        (pa.table({"n": pa.array([2], pa.int32())}), "different columns"),
    ],
    ids=["one more", "another case", "another type"],
)
def test_files_that_differ_in_their_columns_are_not_read_by_sail(
    spark: SparkSession, tmp_path: Path, other: pa.Table, why: str
) -> None:
    parquet(tmp_path, a=pa.table({"n": [1]}), b=other)
    if is_sail(spark):
        rows_or_fenced(spark, of_orders(tmp_path, "parquet"), why)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1], pa.uint32()),
        pa.array(["a"]).dictionary_encode(),
        pa.array([datetime(2024, 1, 1)], pa.timestamp("ns")),
        pa.array([None], pa.null()),
        pa.array([[{"a": 1}]], pa.list_(pa.struct([("a", pa.uint8())]))),
    ],
    ids=lambda column: str(column.type),
)
def test_types_that_only_one_engine_reads_are_not_read_by_sail(
    spark: SparkSession, tmp_path: Path, column: pa.Array
) -> None:
    parquet(tmp_path, a=pa.table({"n": column}))
    if is_sail(spark):
        rows_or_fenced(spark, of_orders(tmp_path, "parquet"), f"n: {str(column.type)[:4]}")


def test_options_of_sparks_parquet_reader_are_not_for_sail(spark: SparkSession, tmp_path: Path) -> None:
    parquet(tmp_path, a=pa.table({"n": [1]}))
    found = rows_or_fenced(
        spark, of_orders(tmp_path, "parquet", more="options = { mergeSchema = true }"), "mergeSchema"
    )
    assert found in (None, {(1,)})


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        (b'a,b\n1,\n,2\n"",x\n" q ", y \n', "", [("1", None), (None, "2"), (None, "x"), (" q ", " y ")]),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4", "", [("1", "2"), ("3", "4")]),
        (b"a,b\nNA,z\n,NA\n", 'nullValue = "NA"', [(None, "z"), (None, None)]),
        (b"a,b\nNaN,null\nnull,N/A\n", "", [("NaN", "null"), ("null", "N/A")]),
        (b"a\tb\n1\t2,3\n", r'sep = "\\t"', [("1", "2,3")]),
        (b"a;b\n1;2\n", 'delimiter = ";"', [("1", "2")]),
        (b'a,b\n"x""y",2\n"""",""\n', r'escape = "\""', [('x"y', "2"), ('"', None)]),
        (b"1,2\n3,\n", "header = false", [("1", "2"), ("3", None)]),
        (b"a,b\n2024-03-05,#1\n", 'dateFormat = "dd.MM.yyyy"', [("2024-03-05", "#1")]),
        (b"\n\na,b\n C:\\x ,y\n", "", [(" C:\\x ", "y")]),
    ],
    ids=["empty", "windows", "nullValue", "words", "tabs", "delimiter", "escape", "no header", "date", "backslash"],
)
def test_csv_files_are_read_alike(
    spark: SparkSession, tmp_path: Path, text: bytes, options: str, rows: list[tuple[object, ...]]
) -> None:
    (tmp_path / "orders").write_bytes(text)
    opened = of_orders(tmp_path, "csv", more=f"options = {{ {options} }}").open(spark, ORDERS)
    assert opened is not None
    assert opened.columns == (["_c0", "_c1"] if "header" in options else ["a", "b"])
    assert {kind for _, kind in opened.dtypes} == {"string"}
    assert sorted(map(repr, map(tuple, opened.collect()))) == sorted(map(repr, rows))


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        (b"a,b\n1\n1,2,3\n", "", "Expected 2 columns"),
        (b"a,b\n   \n1,2\n", "", "blanks alone"),
        (b"a,b\r1,2\r", "", "without a line feed"),
        (b'a,b\n"q\\"r",s\n', "", "backslashes beside quotes"),
        (b'a,b\n"x""y",2\n', "", "quotes within a value"),
        (b'a,b\nx"y,5\n', "", "a quote that is not closed"),
        (b'a,b\n"x\ny",2\n', "", "within quotes"),
        (b'a,b\n"",2\n', 'nullValue = "NA"', "quoted empty values"),
        (b"a,A\n1,2\n", "", "rename columns"),
        (b"a,\n1,2\n", "", "rename columns"),
        (b"a,b\n\xff,2\n", "", "invalid UTF8"),
        (b"a,b\n1,2\n", "inferSchema = true", "inferSchema"),
        (b"a,b\n1,2\n", "ignoreLeadingWhiteSpace = true", "ignoreLeadingWhiteSpace"),
        (b"a,b\n1,2\n", 'encoding = "latin1"', "only UTF-8"),
        (b"a,b\n1,2\n", 'sep = "||"', "only one ASCII character"),
        (b"a,b\n1,2\n", 'quote = "x"', "only a double quote"),
        (b"a,b\n1,2\n", 'escape = "x"', "only a double quote, or"),
        (b"a,b\n1,2\n", 'header = "perhaps"', "only true or false"),
    ],
)
def test_csv_files_that_arrow_reads_otherwise_are_not_read_on_sail(
    spark: SparkSession, tmp_path: Path, text: bytes, options: str, why: str
) -> None:
    (tmp_path / "orders").write_bytes(text)
    if is_sail(spark):
        rows_or_fenced(spark, of_orders(tmp_path, "csv", more=f"options = {{ {options} }}"), why)


def test_a_folder_of_csv_files_has_one_header(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    for name, text in {"a.csv": "a,b\n1,2\n", "b.csv": "a,b\n3,4\n", "_c.csv": "z\n", "d.csv": ""}.items():
        (tmp_path / "orders" / name).write_text(text, encoding="utf-8")
    opened = of_orders(tmp_path, "csv").open(spark, ORDERS)
    assert opened is not None
    assert {tuple(row) for row in opened.collect()} == {("1", "2"), ("3", "4")}
    (tmp_path / "orders" / "b.csv").write_text("b,a\n3,4\n", encoding="utf-8")
    found = rows_or_fenced(spark, of_orders(tmp_path, "csv"), "by the place of its columns")
    # By place: that is how Spark reads it, and why nobody else may.
    assert found in (None, {("1", "2"), ("3", "4")})


def test_a_select_runs_on_sail_only_if_all_of_it_is_known(spark: SparkSession, tmp_path: Path) -> None:
    parquet(tmp_path, a=pa.table({"n": [1], "name": ["a_b"]}))
    fenced = 'select = "SELECT initcap(name) AS name FROM raw_orders"'
    found = rows_or_fenced(spark, of_orders(tmp_path, "parquet", more=fenced), "INITCAP(name): not known to be equal")
    assert found in (None, {("A_b",)})

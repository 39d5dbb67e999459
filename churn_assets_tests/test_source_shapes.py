"""What tools make of one shop's tables ends in one panel: the same rows from CSV, Parquet and Delta of every shape."""

import csv
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from churn_assets_tests.conftest import TINY_POLICY, Project, causes_of, checks_of
from churn_assets_tests.shops import SOURCES, Row, Shop, shop, written

pytestmark = pytest.mark.usefixtures("figures_not_rendered")

PANEL = "food_delivery/ml_churn_features"
TABLES = ("orders", "reviews", "customers")
STEPS = (
    *(f"food_delivery/{table}" for table in TABLES),
    "food_delivery/segment_dimension",
    "food_delivery/silver_orders_enriched",
    "food_delivery/silver_customers",
    "food_delivery/quarantined_rows",
    "food_delivery/gold_customer_churn_risk",
    PANEL,
)
TIMES = ("ordered_at", "promised_at", "delivered_at", "reviewed_at")


def panel(folder: Path, sources: str = SOURCES) -> list[Row]:
    """The panel of the source files in `folder`, by the real flow."""
    project = Project.create(folder, policy=TINY_POLICY, sources=sources)
    result = project.run("churn_training", *STEPS)
    assert result.success, causes_of(result)
    readable = [found for name, found in checks_of(result).items() if "readable_values" in name]
    assert readable == [True] * 3
    columns = project.lakehouse.read(PANEL).columns
    rows = project.lakehouse.arrow(PANEL, columns).to_pylist()
    return sorted(rows, key=lambda row: (row["customer_id"], row["as_of"]))


@pytest.fixture(scope="module")
def plain(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("plain")
    written(folder, **tables(shop()))
    return panel(folder)


def tables(rows: Shop) -> dict[str, list[Row]]:
    return {"orders": rows.orders, "reviews": rows.reviews, "customers": rows.customers}


def as_csv(path: Path, rows: Sequence[Row], names: Sequence[str] = (), **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=how.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, names or list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(rows)


def csv_sources(**paths: str) -> str:
    return "".join(f'[{name}]\nformat = "csv"\npath = "{path}"\n' for name, path in paths.items())


def test_monthly_csv_files_whose_columns_change_places(tmp_path: Path, plain: list[Row]) -> None:
    made = shop()
    moved = {"promised_at": "delivered_at", "delivered_at": "promised_at"}
    for month in sorted({f"{row['ordered_at']:%Y-%m}" for row in made.orders}):
        rows = [row for row in made.orders if f"{row['ordered_at']:%Y-%m}" == month]
        names = [moved.get(name, name) if month >= "2025-09" else name for name in rows[0]]
        as_csv(tmp_path / "orders" / f"orders_{month}.csv", rows, names)
    as_csv(tmp_path / "reviews.csv", made.reviews)
    as_csv(tmp_path / "customers.csv", made.customers)
    assert panel(tmp_path, csv_sources(orders="orders/*", reviews="reviews.csv", customers="customers.csv")) == plain


def test_csv_files_of_a_german_spreadsheet(tmp_path: Path, plain: list[Row]) -> None:
    """Semicolons, Windows' own letters, decimal commas, local times, comments with commas, quotes and lines in them."""
    made = shop()

    def german(row: Row) -> Row:
        zone, utc = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")
        shown = {
            name: f"{row[name].replace(tzinfo=utc).astimezone(zone):%d.%m.%Y %H:%M}" for name in row if name in TIMES
        }
        note = {"Bemerkung": 'kalt, "zu spät"; nie\nwieder'}
        numbers = {name: f"{row[name]:.2f}".replace(".", ",") for name in ("subtotal", "review_score") if name in row}
        return note | row | shown | numbers

    how = {"delimiter": ";", "encoding": "cp1252", "lineterminator": "\r\n"}
    for name, rows in tables(made).items():
        as_csv(tmp_path / f"{name}.csv", [german(row) for row in rows], **how)
    time = '{ time = "dd.MM.yyyy HH:mm", zone = "Europe/Berlin" }'
    sources = "".join(
        f'[{name}]\nformat = "csv"\npath = "{name}.csv"\noptions = {{ sep = ";", encoding = "cp1252" }}\n'
        f"[{name}.convert]\n"
        + "".join(f"{column} = {time}\n" for column in rows[0] if column in TIMES)
        + "".join(
            f'{column} = {{ number = "1.234,56" }}\n' for column in ("subtotal", "review_score") if column in rows[0]
        )
        for name, rows in tables(made).items()
    )
    assert panel(tmp_path, sources) == plain


def test_nanoseconds(tmp_path: Path, plain: list[Row]) -> None:
    for name, rows in tables(shop()).items():
        table = pa.Table.from_pylist(rows)
        kinds = [pa.timestamp("ns") if pa.types.is_timestamp(field.type) else field.type for field in table.schema]
        pq.write_table(
            table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True)))), tmp_path / f"{name}.parquet"
        )
    assert panel(tmp_path) == plain


def test_categories_and_a_file_without_a_cancellation(tmp_path: Path, plain: list[Row]) -> None:
    made = shop()
    half = len(made.orders) // 2
    for name, rows in (("a", made.orders[:half]), ("b", made.orders[half:])):
        table = pa.Table.from_pylist(rows)
        at = table.column_names.index("customer_id")
        table = table.set_column(at, "customer_id", table["customer_id"].dictionary_encode())
        if not any(row["is_cancelled"] for row in rows):
            table = table.set_column(len(rows[0]) - 1, "is_cancelled", pa.nulls(len(rows)))
        written(tmp_path / "orders")
        pq.write_table(table, tmp_path / "orders" / f"{name}.parquet")
    written(tmp_path, reviews=made.reviews, customers=made.customers)
    assert panel(tmp_path, SOURCES.replace("orders.parquet", "orders/*.parquet")) == plain


def test_further_columns_of_odd_names_and_types(tmp_path: Path, plain: list[Row]) -> None:
    made = shop()
    written(tmp_path, **tables(made))
    table = pa.Table.from_pylist(made.orders)
    odd = {"payment.method": "card", "with`tick": 1, "Order Note": "", "at {once}": b"x"}
    for name, value in odd.items():
        table = table.append_column(name, pa.array([value] * len(table)))
    table = table.append_column("clock", pa.array([1] * len(table), pa.time64("ns")))
    pq.write_table(table, tmp_path / "orders.parquet")
    assert panel(tmp_path) == plain


def test_a_delta_table_in_one_partition_a_day(tmp_path: Path, plain: list[Row]) -> None:
    made = shop()
    written(tmp_path, **tables(made))
    (tmp_path / "orders.parquet").unlink()
    table = pa.Table.from_pylist([row | {"order_date": row["ordered_at"].date()} for row in made.orders])
    kinds = [pa.timestamp("us", "UTC") if pa.types.is_timestamp(field.type) else field.type for field in table.schema]
    table = table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))
    write_deltalake(str(tmp_path / "orders"), table, partition_by=["order_date"])
    delta = SOURCES.replace('format = "parquet"\npath = "orders.parquet"', 'format = "delta"\npath = "orders"', 1)
    assert panel(tmp_path, delta) == plain
    # The partitions' own column is there for whoever asks for it.
    after = date(2025, 7, 1)
    select = f"select = \"SELECT * FROM raw_orders WHERE order_date >= '{after}'\"\n"
    chosen = delta.replace('path = "orders"\n', f'path = "orders"\n{select}')
    written(tmp_path / "later", **tables(made))
    later = [row for row in made.orders if row["ordered_at"] >= datetime(after.year, after.month, after.day)]
    known = {row["order_id"] for row in later}
    written(tmp_path / "later", orders=later, reviews=[row for row in made.reviews if row["order_id"] in known])
    written(tmp_path, reviews=[row for row in made.reviews if row["order_id"] in known])
    assert panel(tmp_path, chosen) == panel(tmp_path / "later")


# ---- further files of the same kinds, each with a fault that the ones above do not have


def test_csv_files_that_got_a_column_in_front_lost_an_unused_one_and_have_odd_names(
    tmp_path: Path, plain: list[Row]
) -> None:
    """From September on a comment with commas stands first and the tip is gone; nobody maps either."""
    made = shop()
    for month in sorted({f"{row['ordered_at']:%Y-%m}" for row in made.orders}):
        rows = [row for row in made.orders if f"{row['ordered_at']:%Y-%m}" == month]
        further = {"note, if any": 'late, "cold"\nnever again', "": 1} if month >= "2025-09" else {"Tip €": "1,5"}
        as_csv(tmp_path / "orders" / f"{month}.csv", [further | row for row in rows])
    # A file of a month that has only begun.
    (tmp_path / "orders" / "2025-12.csv").write_text(
        "subtotal,ordered_at,order_id,customer_id,promised_at,delivered_at,is_cancelled\n"
    )
    as_csv(tmp_path / "reviews.csv", [{"at.once": 1, "with`tick": 2} | row for row in made.reviews])
    as_csv(tmp_path / "customers.csv", made.customers, [*reversed(made.customers[0])])
    assert panel(tmp_path, csv_sources(orders="orders", reviews="reviews.csv", customers="customers.csv")) == plain


def test_a_folder_of_files_whose_times_are_of_every_precision(tmp_path: Path, plain: list[Row]) -> None:
    """Nanoseconds with a rest that is cut off, microseconds, milliseconds and 96 bits, month by month."""
    made = shop()
    written(tmp_path, reviews=made.reviews, customers=made.customers)
    (tmp_path / "orders").mkdir()
    for number, month in enumerate(sorted({f"{row['ordered_at']:%Y-%m}" for row in made.orders})):
        table = pa.Table.from_pylist([row for row in made.orders if f"{row['ordered_at']:%Y-%m}" == month])
        unit = ("ns", "us", "ms", "us")[number % 4]
        for at, field in enumerate(table.schema):
            if pa.types.is_timestamp(field.type):
                times = table[field.name].cast(pa.timestamp(unit))
                if unit == "ns":
                    times = pa.chunked_array([pc.add(times.combine_chunks(), pa.scalar(999, pa.duration("ns")))])
                table = table.set_column(at, field.name, times)
        is_of_96_bits = number % 4 == 3
        path = tmp_path / "orders" / f"{month}.parquet"
        pq.write_table(table, path, use_deprecated_int96_timestamps=is_of_96_bits)
    assert panel(tmp_path, SOURCES.replace("orders.parquet", "orders")) == plain


def test_columns_that_are_used_under_odd_names_beside_some_that_differ_by_case(
    tmp_path: Path, plain: list[Row]
) -> None:
    made = shop()
    written(tmp_path, **tables(made))
    odd = {"order_id": "Order No.", "customer_id": "who`s", "subtotal": "sum (€)", "is_cancelled": "storno?"}
    table = pa.Table.from_pylist([{odd.get(name, name): value for name, value in row.items()} for row in made.orders])
    for name in ("Note", "NOTE", "order.id", ""):
        table = table.append_column(name, pa.array([{"a": [1]}] * len(table)))
    pq.write_table(table, tmp_path / "orders.parquet")
    named = ", ".join(f"`{name.replace('`', '``')}` AS {canonical}" for canonical, name in odd.items())
    select = f"select = '''SELECT {named}, ordered_at, promised_at, delivered_at FROM raw_orders'''\n"
    assert panel(tmp_path, SOURCES.replace('path = "orders.parquet"\n', f'path = "orders.parquet"\n{select}')) == plain


def test_a_delta_table_by_branch_and_day_of_which_a_day_was_written_again(tmp_path: Path, plain: list[Row]) -> None:
    """Branches without a name and with letters that folders have to write otherwise; those of one are tests."""
    made, branches = shop(), ("A/B = 5 %", None, "München", "x%20y")
    written(tmp_path, **tables(made))
    (tmp_path / "orders.parquet").unlink()
    rows = [row | {"branch": branches[at % 4], "day": row["ordered_at"].date()} for at, row in enumerate(made.orders)]
    tests = [row | {"order_id": f"T{row['order_id']}", "branch": "test"} for row in rows[::9]]
    again = date(2025, 8, 4)
    first = [row | {"subtotal": 0.5} if row["day"] == again else row for row in rows]
    assert first != rows
    schema = pa.Table.from_pylist(rows).schema
    where = str(tmp_path / "orders")
    write_deltalake(where, pa.Table.from_pylist([*first, *tests], schema), partition_by=["branch", "day"])
    whole = pa.Table.from_pylist([row for row in [*rows, *tests] if row["day"] == again], schema)
    write_deltalake(where, whole, mode="overwrite", predicate=f"day = '{again}'")
    select = "select = \"SELECT * FROM raw_orders WHERE branch IS NULL OR branch <> 'test'\"\n"
    delta = SOURCES.replace(
        'format = "parquet"\npath = "orders.parquet"\n', f'format = "delta"\npath = "orders"\n{select}', 1
    )
    assert panel(tmp_path, delta) == plain

"""The doctor shows what sources hold and what is wrong with them before anything is landed, and how to mend it."""

import io
from argparse import Namespace
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from churn_assets.commands import source_probe
from churn_assets.commands.source_probe import orders_by_day
from churn_assets_tests import feature_tables
from churn_assets_tests.conftest import TINY_POLICY, Project
from churn_assets_tests.shops import SOURCES, shop, written


@dataclass(frozen=True)
class Said:
    code: int
    text: str
    project: Project

    def of(self, table: str) -> str:
        """What is said of one table."""
        return self.text.split(f"\n{table}\n")[1].split("\n\n")[0]


def said(folder: Path, sources: str = SOURCES) -> Said:
    project = Project.create(folder, policy=TINY_POLICY, sources=SOURCES)
    # Afterwards, because the project is made of a file that can be read.
    project.settings.sources_file.write_text(sources, encoding="utf-8")
    terminal = io.StringIO()
    code = source_probe.main(Namespace(), project.settings, terminal, folder / "log")
    return Said(code, f"{terminal.getvalue()}\n\n", project)


def test_a_good_shop_is_shown_and_nothing_is_landed(spark: SparkSession, tmp_path: Path) -> None:
    made = shop()
    written(tmp_path, orders=made.orders, reviews=made.reviews, customers=made.customers)
    found = said(tmp_path)
    assert found.code == 0
    orders = found.of("orders")
    number, first, last = len(made.orders), made.orders[0], max(row["ordered_at"] for row in made.orders)
    assert "ordered_at timestamp" in orders
    assert first["order_id"] in orders
    assert f"rows       {number:,}, {number:,} different order_id" in orders
    assert f"to {last:%Y-%m-%d} (ordered_at, UTC)" in orders
    assert f"matches    {number:,} of {number:,} rows by customer_id with customers" in orders
    assert "absent     sentiment_category" in found.of("reviews")
    for table in ("orders", "reviews", "customers"):
        assert f"ok       {table}: nothing wrong is seen" in found.of(table)
    assert not found.project.lakehouse.has("food_delivery/orders")


def test_what_is_wrong_is_a_warning_with_its_fix(spark: SparkSession, tmp_path: Path) -> None:
    made = shop()
    orders = [row | {"ordered_at": f"{row['ordered_at']}"} for row in made.orders]
    orders += [orders[0], orders[0] | {"order_id": None}, orders[0] | {"order_id": "x", "ordered_at": "soon"}]
    orders[5] |= {"ordered_at": "2345-01-01 00:00:00"}
    written(tmp_path, orders=orders, reviews=made.reviews, customers=made.customers)
    ids = [{"customer_id": f"{row['customer_id'].lower()}"} for row in made.customers]
    written(tmp_path, opt_outs=ids)
    found = said(tmp_path, SOURCES + '[opt_outs]\nformat = "parquet"\npath = "opt_outs.parquet"\n')
    assert found.code == 0
    for warning in (
        "warning  orders: order_id is there more than once in 1 of",
        "warning  orders: 1 of",
        "rows have no order_id",
        f"ordered_at: 1 of {len(orders):,} values cannot be read as a timestamp, such as 'soon'",
        "ordered_at goes to 2345-01-01, which is not over yet",
    ):
        assert warning in found.of("orders"), found.of("orders")
    assert f"{len(ids)} of {len(ids)} rows match no customer_id of orders and customers, such as 'c0000'" in found.text
    assert found.text.count("fix: ") == 5


def test_a_table_that_cannot_be_read_is_wrong_and_the_others_are_probed(spark: SparkSession, tmp_path: Path) -> None:
    made = shop()
    written(tmp_path, orders=[row | {"subtotal": "9,50 €"} for row in made.orders], customers=made.customers)
    found = said(tmp_path)
    assert found.code == 1
    assert "subtotal: " in found.of("orders")
    assert "[orders.convert]" in found.of("orders")
    assert "WRONG    reviews: Source table reviews: there is nothing at" in found.of("reviews")
    assert "ok       customers" in found.of("customers")


def test_a_ready_feature_table_is_held_to_its_declaration(spark: SparkSession, tmp_path: Path) -> None:
    good = feature_tables.visits(customers=30, weeks=8)
    feature_tables.write(good, tmp_path)
    found = said(tmp_path, feature_tables.FEATURES)
    assert (found.code, "ok       features: nothing wrong is seen" in found.text) == (0, True), found.text
    wrong = good.assign(days_since_visit=good["days_since_visit"] + 40)
    feature_tables.write(pd.concat([wrong, wrong.head(1)]), tmp_path)
    found = said(tmp_path, feature_tables.FEATURES.replace("attested_", "# attested_"))
    assert found.code == 1
    for fault in (
        "customer_id and as_of is there more than once in 1 of 241 rows",
        "ranges: observed 241 offending rows; allowed days_since_visit 0 to 30; ",
        "no_future_leakage: observed not evaluable: there are no orders to see it by, and nobody attests it",
    ):
        assert f"WRONG    features: {fault}" in found.text, found.text
    assert found.text.count("fix: ") == 3
    # Of such a table nothing is set aside.
    assert "set aside" not in found.text


def test_a_wrong_file_is_told_as_by_every_command(tmp_path: Path) -> None:
    found = said(tmp_path, "[nonsense]\n")
    assert found.code == 1
    assert "nonsense" in found.text


def test_text_from_data_stays_in_its_cell(spark: SparkSession, tmp_path: Path) -> None:
    made = shop()
    orders = [row | {"customer_id": f"\x1b[31m{row['customer_id']}\nWRONG {'x' * 50}"} for row in made.orders]
    written(tmp_path, orders=orders, reviews=made.reviews, customers=made.customers)
    found = said(tmp_path)
    assert "\x1b" not in found.of("orders").split("matches")[0]
    assert "\nWRONG" not in found.of("orders")


@pytest.mark.parametrize(
    ("days", "bars"),
    [
        ({0: 8, 1: 4, 3: 1}, "█▄ ▁"),
        (dict.fromkeys(range(144), 1), "█" * 72),
        ({}, None),
    ],
)
def test_the_picture_has_a_character_for_each_day_or_for_as_many_as_fit(days: dict[int, int], bars: str | None) -> None:
    shown = orders_by_day({date(2024, 1, 1) + timedelta(days=place): number for place, number in days.items()})
    assert (shown[0][11:] if shown else None) == bars

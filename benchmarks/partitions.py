"""Opening and landing orders from a Delta table in 330 partitions, against the same rows in one flat table."""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from benchmarks.measuring import machine
from benchmarks.panels import spark_session, write_result
from churn_assets.churn.tables import ORDERS
from churn_assets.resources.sources import Source, SourceCatalog, Sources

ROWS, PARTITIONS, ROUNDS = 2_000_000, 330, 5
SELECT = "SELECT * FROM raw_orders WHERE order_date >= '2024-02-01'"
# Side -> the table and what is asked of it.
SIDES: dict[str, tuple[str, str | None]] = {
    "flat": ("flat", None),
    "by day": ("by_day", None),
    "flat, from a day on": ("flat", SELECT),
    "by day, from a day on": ("by_day", SELECT),
}


def main() -> None:
    session = spark_session()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with TemporaryDirectory(prefix="churn-bench-") as name:
        folder = Path(name)
        _made_up(folder)
        for number in range(ROUNDS + 1):
            for side, (table, select) in SIDES.items():
                taken = _landed(session, folder, Source(format="delta", path=table, select=select), f"{number}-{table}")
                # The first of all is what an engine and the libraries load once.
                if number:
                    seconds[side].append(taken)
                    print(f"{side:<22} {taken:6.2f} s", flush=True)
    _report(seconds)


def _made_up(folder: Path) -> None:
    random = np.random.default_rng(1)
    day = random.integers(0, PARTITIONS, ROWS)
    at = np.datetime64("2024-01-01", "us") + day * np.timedelta64(1, "D") + random.integers(0, 86_400, ROWS) * 1_000_000
    table = pa.table(
        {
            "order_id": [f"O{number:08}" for number in range(ROWS)],
            "customer_id": [f"C{number:06}" for number in random.integers(0, 100_000, ROWS)],
            "ordered_at": pa.array(at, pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
            "subtotal": random.uniform(5, 90, ROWS).round(2),
            "order_date": [date(2024, 1, 1) + timedelta(days=int(number)) for number in day],
        }
    )
    write_deltalake(str(folder / "flat"), table)
    write_deltalake(str(folder / "by_day"), table, partition_by=["order_date"])


def _landed(session: SparkSession, folder: Path, source: Source, name: str) -> float:
    begun = time.perf_counter()
    rows = SourceCatalog(Sources(orders=source), folder, "").open(session, ORDERS)
    assert rows is not None
    rows.write.mode("overwrite").parquet(str(folder / "landed" / name))
    return time.perf_counter() - begun


def _report(seconds: dict[str, list[float]]) -> None:
    def line(side: str, other: str) -> str:
        ratio = median(one / two for one, two in zip(seconds[side], seconds[other], strict=True))
        return f"| {side} | {median(seconds[side]):.2f} s | {ratio:.2f} |"

    sides: Sequence[str] = list(SIDES)
    lines = [
        f"# Reading a Delta source in {PARTITIONS} partitions, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{ROWS:,} orders opened as a source and written as Parquet; the flat table and the one in a partition a day",
        f"take turns, {ROUNDS} rounds, medians. From a day on: a `select` that asks for the column of the partitions.",
        "",
        "| | time | of the flat table's |",
        "|-|-|-|",
        *[line(side, sides[place - place % 2]) for place, side in enumerate(sides)],
        "",
        machine("deltalake", "pyarrow", "pysail", "pyspark"),
    ]
    write_result("partitions", lines)

"""A small made-up shop as plain rows: the yardstick for tests of what real exports do to such data.

The rows are as the canonical columns ask for them. What a test does to them is the test's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

OPENED = datetime(2025, 6, 2)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# sources.toml for tables that lie beside it as `written` leaves them.
SOURCES = "".join(
    f'[{name}]\nformat = "parquet"\npath = "{name}.parquet"\n' for name in ("orders", "reviews", "customers")
)


@dataclass(frozen=True)
class Shop:
    """Source rows by table; times are naive UTC."""

    orders: list[Row]
    reviews: list[Row]
    customers: list[Row]


def shop(customers: int = 60, weeks: int = 22, seed: int = 1) -> Shop:
    """Customers who order every 5 to 14 days from a Monday on; some leave, some orders are reviewed or called off."""
    random = Random(seed)
    orders: list[Row] = []
    reviews: list[Row] = []
    people = [f"C{number:04d}" for number in range(customers)]
    for customer in people:
        pace, leaves = random.choice((5, 7, 10, 14)), random.uniform(60, 400)
        day = random.uniform(0, 7)
        while day < min(weeks * 7 - 1, leaves):
            ordered = OPENED + int(day * 1440) * MINUTE
            delivered = ordered + random.randrange(20, 90) * MINUTE
            orders.append(
                {
                    "order_id": f"O{len(orders):06d}",
                    "customer_id": customer,
                    "ordered_at": ordered,
                    "promised_at": ordered + 45 * MINUTE,
                    "delivered_at": delivered,
                    "subtotal": random.randrange(800, 6000) / 100,
                    "is_cancelled": random.random() < 0.02,
                }
            )
            if random.random() < 0.4:
                score = float(random.randint(1, 5))
                order_id = orders[-1]["order_id"]
                reviews.append({"order_id": order_id, "reviewed_at": delivered + 5 * HOUR, "review_score": score})
            day += random.expovariate(1 / pace) + 0.2
    segments = ("gold", "silver", "bronze")
    return Shop(orders, reviews, [{"customer_id": each, "segment": random.choice(segments)} for each in people])


def written(folder: Path, **tables: Sequence[Row]) -> None:
    """Each of `tables` as a Parquet file of its name in `folder`; times in microseconds without a zone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{name}.parquet")

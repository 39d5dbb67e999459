"""What is known of a table's columns without reading its rows. The lakehouse finds out, the contract judges."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ColumnStatistics:
    """nulls: how many. low, high: the least and the greatest other value. None: not known.

    Where low and high are known, no value is NaN and none is infinite.
    """

    nulls: int | None = None
    low: Any = None
    high: Any = None

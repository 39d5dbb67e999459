"""Delta's statistics of a Parquet file, from its footer. Readers skip files by them: they are right or left out."""

from collections.abc import Collection
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import isfinite
from typing import Any

# A longer text is cut; Delta's writers keep 32.
BOUND_CHARACTERS = 64
LAST_CHARACTER = chr(0x10FFFF)
SURROGATES = range(0xD800, 0xE000)
# Floats below, cut to the fraction, have at most 15 digits: their shortest text is the decimal itself.
PLAIN_FLOATS, FRACTION = Decimal(10**11), Decimal("0.0001")


class NoBoundError(ValueError):
    """A value has no bound that Delta's statistics could hold."""


def file_statistics(footer: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """numRecords, and nullCount, minValues, maxValues of the flat columns of a file with the Parquet footer `footer`.

    minValues and maxValues hold every column with a value, or are left out: where a bound is missing beside others,
    deltalake 1.6.6 skips the file for whatever is asked of that column (2026-11-27). A long text's bounds are cut, a
    decimal's are rounded outwards. A column whose footer does not count nulls has no nullCount. without: columns of
    which the log says the value itself.
    """
    nulls: dict[str, int] = {}
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    is_bounded = True
    # Spark's own writer puts NaN into the bounds (parquet-mr 1.17.0), others leave it out.
    is_nan_shown = (footer.created_by or "").startswith("parquet-mr")
    for index in range(footer.num_columns):
        column = footer.schema.column(index)
        if column.path != column.name or column.name in without or _is_binary(column):
            continue
        chunks = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if all(chunk is not None and chunk.has_null_count for chunk in chunks):
            nulls[column.name] = sum(chunk.null_count for chunk in chunks)
        try:
            ends = _bounds(column, chunks, is_nan_shown=is_nan_shown)
        except NoBoundError:
            is_bounded = False
        else:
            if ends is not None:
                lows[column.name], highs[column.name] = ends
    counted = {"numRecords": footer.num_rows, "nullCount": nulls}
    return {**counted, "minValues": lows, "maxValues": highs} if is_bounded else counted


def _is_binary(column: Any) -> bool:
    """Delta has no bounds of bytes, and no reader asks for them."""
    return bool(column.physical_type == "BYTE_ARRAY" and column.logical_type.type == "NONE")


def _bounds(column: Any, chunks: list[Any], *, is_nan_shown: bool) -> tuple[Any, Any] | None:
    """A column's bounds over its row groups, as Delta writes them; None without any value. Raises NoBoundError."""
    if any(chunk is None or (not chunk.has_min_max and chunk.num_values) for chunk in chunks):
        raise NoBoundError
    bounds = [bound for chunk in chunks if chunk.has_min_max for bound in (chunk.min, chunk.max)]
    if not bounds:
        return None
    # A NaN compares with nothing: the bounds of the other row groups would hide it.
    if any(isinstance(bound, float) and not (is_nan_shown and isfinite(bound)) for bound in bounds):
        raise NoBoundError
    low, high = _lower(min(bounds)), _upper(max(bounds))
    # Rounded out of its own type: 1.0 of a decimal(5, 5).
    if isinstance(bounds[0], Decimal) and max(abs(low), abs(high)) >= 10 ** (column.precision - column.scale):
        raise NoBoundError
    return low, high


def _lower(value: Any) -> Any:
    if isinstance(value, str):
        return value[:BOUND_CHARACTERS]
    return _rounded(value, ROUND_FLOOR) if isinstance(value, Decimal) else _exact(value)


def _upper(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= BOUND_CHARACTERS else _following(value[:BOUND_CHARACTERS])
    return _rounded(value, ROUND_CEILING) if isinstance(value, Decimal) else _exact(value)


def _following(start: str) -> str:
    """The least text after all that begin with `start`. Raises NoBoundError."""
    kept = start.rstrip(LAST_CHARACTER)
    if not kept:
        raise NoBoundError
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(SURROGATES.stop if following in SURROGATES else following)


def _rounded(value: Decimal, rounding: str) -> int | float:
    """`value` rounded so that JSON has it in plain digits, which alone deltalake 1.6.6 reads as a decimal."""
    if abs(value) < PLAIN_FLOATS:
        return float(value.quantize(FRACTION, rounding))
    return int(value.to_integral_value(rounding))


def _exact(value: Any) -> Any:
    if isinstance(value, datetime):
        utc = value.astimezone(UTC) if value.tzinfo else value
        return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, bool | int | float):
        raise NoBoundError
    return value

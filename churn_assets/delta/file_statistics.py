"""Delta's statistics of a Parquet file, from its footer. Readers skip files by them: they are right or left out."""

from datetime import UTC, date, datetime
from math import isfinite
from typing import Any


def file_statistics(footer: Any) -> dict[str, Any]:
    """numRecords, and nullCount, minValues, maxValues of the flat columns of a file with the Parquet footer `footer`.

    A column whose footer has no statistics is left out.
    """
    nulls: dict[str, int] = {}
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    # Spark's own writer puts NaN into the bounds (parquet-mr 1.17.0), others leave it out.
    is_nan_shown = (footer.created_by or "").startswith("parquet-mr")
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        chunks = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if "." in name or not chunks or any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        nulls[name] = sum(chunk.null_count for chunk in chunks)
        if any(not chunk.has_min_max and chunk.num_values for chunk in chunks):
            continue
        bounds = [bound for chunk in chunks if chunk.has_min_max for bound in (chunk.min, chunk.max)]
        is_nan_excluded = is_nan_shown or not any(isinstance(bound, float) for bound in bounds)
        # A NaN compares with nothing: the bounds of the other row groups would hide it.
        if bounds and is_nan_excluded and not any(bound != bound for bound in bounds):
            low, high = min(bounds), max(bounds)
            if _has_delta_form(low) and _has_delta_form(high):
                lows[name], highs[name] = _delta_value(low), _delta_value(high)
    return {"numRecords": footer.num_rows, "nullCount": nulls, "minValues": lows, "maxValues": highs}


def _has_delta_form(value: Any) -> bool:
    is_finite = not isinstance(value, float) or isfinite(value)
    is_short = not isinstance(value, str) or len(value) <= 64
    return isinstance(value, bool | int | float | str | datetime | date) and is_finite and is_short


def _delta_value(value: Any) -> Any:
    if isinstance(value, datetime):
        utc = value.astimezone(UTC) if value.tzinfo else value
        return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value.isoformat() if isinstance(value, date) else value

"""The feature panel in SQL for DuckDB, of silver orders in Parquet files: `… FILES PANEL`.

Imports nothing of this project, for what it takes is compared with this project.
"""

import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import duckdb

MEMORY = "4g"
SQL = Path(__file__).parent / "sql"
OBSERVATION_DAYS = 60


def connected(folder: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with MEMORY, spilling into `folder`."""
    connection = duckdb.connect()
    connection.execute(
        f"set timezone = 'UTC'; set memory_limit = '{MEMORY}b'; set preserve_insertion_order = false; "
        f"set temp_directory = '{folder / 'spilled'}'"
    )
    return connection


def statement(name: str, **values: str) -> str:
    """A statement of benchmarks/sql with its $parameters filled in: file names cannot be bound."""
    sql = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    for parameter, value in values.items():
        sql = sql.replace(f"${parameter}", value)
    return sql


def write_panel(files: Sequence[str], panel: Path) -> None:
    """The panel of the silver orders in `files`, at every Monday with a full window behind it, as one Parquet file."""
    connection = connected(panel.parent)
    span = connection.execute("select min(ordered_at)::date, max(ordered_at)::date from read_parquet(?)", [[*files]])
    begin, watermark = span.fetchall()[0]
    earliest = begin + timedelta(days=OBSERVATION_DAYS)
    first, last = earliest + timedelta(days=-earliest.weekday() % 7), watermark + timedelta(days=1)
    last -= timedelta(days=last.weekday())
    days = {"first": first, "last": last, "watermark": watermark}
    numbers = {name: str((day - date(1970, 1, 1)).days) for name, day in days.items()}
    connection.execute(statement("panel", **numbers, silver=str([*files]), panel=f"'{panel}'"))


def differing_rows(one: str, other: str) -> int:
    """Rows that only one of two queries has, to the last digit; as often as it has them."""
    both = f"select count(*) from ((({one}) except all ({other})) union all (({other}) except all ({one})))"
    return int(duckdb.connect().execute(both).fetchall()[0][0])


if __name__ == "__main__":
    write_panel([sys.argv[1]], Path(sys.argv[2]))

"""Orders to feature panel: the flow's own functions on an engine against the same features in SQL for DuckDB.

All sides read the same silver orders and write Parquet, in fresh processes that alternate; their panels have to be
equal, to the last digit. Wall times include the start of Python and of the engine. DuckDB and the engine have the same
memory.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.duckdb_panel import MEMORY, connected, differing_rows, statement
from benchmarks.measuring import (
    Measured,
    SideFailed,
    comparison,
    comparison_head,
    engines,
    machine,
    measured,
    ours_on,
    plain_environment,
    rounds,
)
from benchmarks.panels import write_result

# Orders and rounds.
SIZES = {2_000_000: 3, 20_000_000: 1}
CUSTOMERS = 1_000_000
DUCKDB = "DuckDB SQL"


def main() -> None:
    rows = []
    for orders, usual in SIZES.items():
        with TemporaryDirectory(prefix="churn-bench-") as name:
            folder = Path(name)
            print(f"Writing {orders:,} orders …", flush=True)
            made_up = statement("silver", orders=str(orders), customers=str(CUSTOMERS), silver=f"'{folder / 'silver'}'")
            connected(folder).execute(made_up)
            rows += _compared(folder, f"{orders:,}", rounds(usual))
    _report(rows)


def _compared(folder: Path, orders: str, times: int) -> list[str]:
    """Rows of the table for the silver orders in `folder`. Exits if the panels differ."""
    runs: dict[str, list[Measured]] = {side: [] for side in [DUCKDB, *map(ours_on, engines())]}
    failed: dict[str, str] = {}
    for turn in range(times):
        theirs = folder / "duckdb.parquet"
        arguments = ["benchmarks.duckdb_panel", str(folder / "silver" / "*.parquet"), str(theirs)]
        runs[DUCKDB].append(measured(DUCKDB, arguments, plain_environment(), folder))
        print(f"  round {turn + 1}: {runs[DUCKDB][-1].told}", flush=True)
        for engine in engines():
            side, out = ours_on(engine), folder / engine
            if side in failed:
                continue
            environment = plain_environment(CHURN_ENGINE=engine, SPARK_DRIVER_MEMORY=MEMORY)
            arguments = ["benchmarks.flow_panel", str(folder / "silver"), str(out)]
            try:
                runs[side].append(measured(side, arguments, environment, folder))
            except SideFailed as problem:
                # Where an engine can no longer hold so many is what one wants to know, too.
                failed[side] = f"| {orders} | | {side} | did not finish within {MEMORY} | | |"
                print(f"  round {turn + 1}: {problem}", flush=True)
                continue
            print(f"  round {turn + 1}: {runs[side][-1].told}", flush=True)
            differing = differing_rows(f"from '{out}/panel/*.parquet'", f"from '{theirs}'")
            if differing:
                sys.exit(f"the panels of {side} and {DUCKDB} differ in {differing} rows")
    return [*comparison(orders, {side: of for side, of in runs.items() if of}, DUCKDB), *failed.values()]


def _report(rows: list[str]) -> None:
    lines = [
        f"# Orders to feature panel, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Made-up orders of {CUSTOMERS:,} customers over half a year, 18 as-of dates; medians of alternating rounds.",
        f"All sides have {MEMORY} of memory and gave the same panel, to the last digit. The flow also writes the",
        "snapshots in between. CPU time is of all threads; where other work shares the machine its ratio is the better",
        "guide.",
        "",
        *comparison_head("orders"),
        *rows,
        "",
        machine("pysail", "pyspark", "duckdb"),
    ]
    write_result("features", lines)

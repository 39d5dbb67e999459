"""Orders to feature panel: the flow's own functions on Spark against the same features in SQL for DuckDB.

Both sides read the same silver orders and write Parquet, in fresh processes that alternate; their panels have to be
equal, to the last digit. Wall times include the start of Python and Spark. DuckDB gets as many threads and as much
memory as Spark's driver.
"""

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import duckdb

from benchmarks.measuring import Measured, machine, measured, plain_environment
from benchmarks.panels import write_result
from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel, with_baseline_rule
from churn_assets.churn.labels import churn_labels
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

# Orders and rounds.
SIZES = {2_000_000: 3, 20_000_000: 1}
CUSTOMERS = 1_000_000
MEMORY = "4g"
SQL = Path(__file__).parent / "sql"
SPARK, DUCKDB = "churn_assets on Spark", "DuckDB SQL"


def main() -> None:
    found = {}
    for orders, rounds in SIZES.items():
        with TemporaryDirectory(prefix="churn-bench-") as name:
            folder = Path(name)
            print(f"Writing {orders:,} orders …", flush=True)
            _duckdb(folder).execute(
                _sql("silver", orders=str(orders), customers=str(CUSTOMERS), silver=f"'{folder / 'silver'}'")
            )
            found[orders] = [_compared(folder, turn) for turn in range(rounds)]
    _report(found)


def _compared(folder: Path, turn: int) -> dict[str, Measured]:
    """Both sides once on the silver orders in `folder`. Exits if their panels differ."""
    sides = {}
    for side, way in ((SPARK, "spark"), (DUCKDB, "duckdb")):
        arguments = ["benchmarks.features", way, str(folder / "silver"), str(folder / way)]
        sides[side] = measured(side, arguments, plain_environment(SPARK_DRIVER_MEMORY=MEMORY), folder)
        print(f"  round {turn + 1}: {sides[side].told}", flush=True)
    ours, theirs = (f"from read_parquet('{folder / way}/panel/*.parquet')" for way in ("spark", "duckdb"))
    differing = f"select count(*) from (({ours} except all {theirs}) union all ({theirs} except all {ours}))"
    rows = _duckdb(folder).execute(differing).fetchone()
    if rows != (0,):
        sys.exit(f"the two panels differ in {rows} rows")
    return sides


def by_spark(silver_folder: str, out: str) -> None:
    """The stages `gold_customer_churn_risk` and `ml_churn_features` as their assets compute them."""
    spark, policy = spark_resource(settings_from_env()).spark_session, ChurnPolicy()
    silver = spark.read.parquet(silver_folder)
    calendar = as_of_calendar(silver, policy)
    rows = with_baseline_rule(customer_snapshots(silver, calendar, policy), policy)
    rows.write.option("compression", "zstd").parquet(f"{out}/snapshots", mode="overwrite")
    snapshots = spark.read.parquet(f"{out}/snapshots")
    labels = churn_labels(snapshots, silver, calendar, policy)
    panel = feature_panel(snapshots, policy).join(labels, ["customer_id", "as_of"])
    panel.write.option("compression", "zstd").parquet(f"{out}/panel", mode="overwrite")


def by_duckdb(silver_folder: str, out: str) -> None:
    """The whole panel in one statement."""
    folder = Path(out)
    (folder / "panel").mkdir(parents=True, exist_ok=True)
    # The calendar of silver.sql's half year.
    days = {"first": date(2025, 3, 10), "last": date(2025, 7, 7), "watermark": date(2025, 7, 6)}
    numbers = {name: str((day - date(1970, 1, 1)).days) for name, day in days.items()}
    panel, silver = f"'{folder / 'panel' / 'panel.parquet'}'", f"'{silver_folder}/*.parquet'"
    _duckdb(folder).execute(_sql("panel", **numbers, silver=silver, panel=panel))


def _duckdb(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(
        f"set timezone = 'UTC'; set memory_limit = '{MEMORY}b'; set preserve_insertion_order = false; "
        f"set temp_directory = '{folder / 'spilled'}'"
    )
    return connection


def _sql(name: str, **values: str) -> str:
    """A statement of benchmarks/sql with its $parameters filled in: file names cannot be bound."""
    statement = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    for parameter, value in values.items():
        statement = statement.replace(f"${parameter}", value)
    return statement


def _report(found: dict[int, list[dict[str, Measured]]]) -> None:
    def middle(rounds: list[dict[str, Measured]], side: str, figure: Callable[[Measured], float]) -> float:
        return median(figure(sides[side]) for sides in rounds)

    rows = []
    for orders, rounds in found.items():
        for side in (SPARK, DUCKDB):
            seconds, cpu, peak = (
                middle(rounds, side, figure)
                for figure in (lambda m: m.seconds, lambda m: m.cpu_seconds, lambda m: m.peak_mb)
            )
            rows.append(f"| {orders:,} | {len(rounds)} | {side} | {seconds:.0f} s | {cpu:.0f} s | {peak:,.0f} MB |")
        wall, cpu = (
            median(figure(sides[SPARK]) / figure(sides[DUCKDB]) for sides in rounds)
            for figure in (lambda m: m.seconds, lambda m: m.cpu_seconds)
        )
        rows.append(f"| {orders:,} | | ratio within a round | {wall:.2f} | {cpu:.2f} | |")
    lines = [
        f"# Orders to feature panel, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Made-up orders of {CUSTOMERS:,} customers over half a year, 18 as-of dates; medians of alternating rounds.",
        f"Both sides have {MEMORY} of memory and gave the same panel, to the last digit. Spark also writes the",
        "snapshots in between, as the flow does. CPU time is of all threads; where other work shares the machine its",
        "ratio is the better guide.",
        "",
        "| orders | rounds | | wall time | CPU time | peak memory |",
        "|-|-|-|-|-|-|",
        *rows,
        "",
        machine("pyspark", "duckdb"),
    ]
    write_result("features", lines)


if __name__ == "__main__":
    {"spark": by_spark, "duckdb": by_duckdb}[sys.argv[1]](*sys.argv[2:])

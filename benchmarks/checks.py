"""The rules of the feature table from its statistics against one Spark pass over the same rows, in alternating rounds.

Both are timed in one process whose JVM is warm, which is in the favor of Spark; read the ratio, for the machine may be
shared. The rows are made up and written by the project's own lakehouse.
"""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from statistics import median
from tempfile import TemporaryDirectory

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.measuring import machine
from benchmarks.panels import write_result
from churn_assets.churn.contract import ONE_ROW_EACH, PANEL_RULES, panel_outcomes
from churn_assets.churn.features import FEATURES
from churn_assets.churn.outcomes import Outcome
from churn_assets.defs.features import PANEL, outcomes_without_spark
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

ROWS = 10_000_000
WEEKS = 50
ROUNDS = 7
# What no statistics decide.
RULES = [rule for rule in PANEL_RULES if rule != ONE_ROW_EACH]
PACKAGES = ("deltalake", "pyarrow", "pyspark")


def main() -> None:
    pyspark = spark_resource(settings_from_env())
    with TemporaryDirectory(prefix="churn-bench-") as folder:
        lakehouse = LakehouseResource(root=folder, pyspark=pyspark)
        print(f"Writing {ROWS:,} rows …", flush=True)
        lakehouse.write(PANEL, _panel(pyspark.spark_session))
        ways: dict[str, Callable[[], Sequence[Outcome]]] = {
            "statistics, no JVM": lambda: outcomes_without_spark(lakehouse, 0),
            "one Spark pass": lambda: panel_outcomes(lakehouse.read(PANEL), RULES),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(ROUNDS + 1):
            found = [_timed(way, seconds[name]) for name, way in ways.items()]
            if found[0] != found[1] or len(found[0]) < len(RULES):
                sys.exit(f"the ways disagree, or statistics left a rule open: {found}")
            print(f"  round {turn}: " + ", ".join(f"{name} {of[-1]:.2f} s" for name, of in seconds.items()), flush=True)
    # The first of each warms caches and compilers.
    _report({name: of_way[1:] for name, of_way in seconds.items()})


def _panel(spark: SparkSession) -> DataFrame:
    """Customers by weeks, every feature anywhere in its range."""
    rows = spark.range(ROWS, numPartitions=4)
    features = []
    for seed, feature in enumerate(FEATURES):
        value = feature.low + F.rand(seed) * (min(feature.high, 1_000.0) - feature.low)
        # Some are continuous, some take few values, as in a real panel.
        value = F.round(value) if feature.low == 1 or feature.name == "crisis_exposure_index" else value
        features.append(value.alias(feature.name))
    customer = F.format_string("C%08d", (F.col("id") / WEEKS).cast("long"))
    as_of = F.date_add(F.lit(date(2024, 1, 1)), (F.col("id") % WEEKS * 7).cast("int"))
    label = F.when(F.rand(99) < 0.9, (F.rand(98) < 0.1).cast("double"))
    return rows.select(customer.alias("customer_id"), as_of.alias("as_of"), *features, label.alias("label"))


def _timed(way: Callable[[], Sequence[Outcome]], seconds: list[float]) -> Sequence[Outcome]:
    begun = time.perf_counter()
    found = way()
    seconds.append(time.perf_counter() - begun)
    return found


def _report(seconds: dict[str, list[float]]) -> None:
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
    lines = [
        f"# The rules of the feature table without a JVM, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{ROWS:,} rows. {len(RULES)} rules: {', '.join(RULES)}.",
        f"One row for each customer and date is not among them: no statistics decide it. {ROUNDS} alternating rounds",
        "in one process, whose JVM is warm.",
        "",
        "| | median | least to greatest |",
        "|-|-|-|",
        *[f"| {way} | {median(of):.2f} s | {min(of):.2f} to {max(of):.2f} s |" for way, of in seconds.items()],
        f"| ratio within a round | {median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |",
        "",
        machine(*PACKAGES),
    ]
    write_result("checks", lines)

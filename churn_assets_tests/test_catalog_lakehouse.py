"""Tables of a catalog through Spark's own connector, in a process with a JVM of its own; its jars come by Ivy."""

from pathlib import Path

import pytest

from churn_assets.resources.catalog_lakehouse import UnknownTablesError, require_tables
from churn_assets.resources.settings import settings_from_env
from churn_assets_tests.clusters import run_with_jars
from churn_assets_tests.conftest import TINY_DEMO, TINY_POLICY, Project

CONNECTOR = "io.delta:delta-spark_4.2_2.13:4.4.0"
# As docs/scaling.md has it, with a metastore of the test's own.
DEFAULTS = """
spark.jars.packages {connector}
spark.jars.excludes com.*:*,org.*:*,commons-*:*,javax.*:*,io.airlift:*
spark.sql.extensions io.delta.sql.DeltaSparkSessionExtension
spark.sql.catalog.spark_catalog org.apache.spark.sql.delta.catalog.DeltaCatalog
spark.sql.catalogImplementation hive
spark.sql.warehouse.dir {folder}/warehouse
spark.hadoop.javax.jdo.option.ConnectionURL jdbc:derby:memory:metastore;create=true
spark.driver.extraJavaOptions -Dderby.stream.error.file={folder}/derby.log
spark.databricks.delta.snapshotPartitions 1
"""

FLOW = """
import sys
from datetime import date

import dagster as dg
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from churn_assets.definitions import DEMO, LIFECYCLE, build_defs, default_resources
from churn_assets.delta.commits import OvertakenError, UndatedRowsError
from churn_assets.delta.tables import MissingTableError
from churn_assets.resources.catalog_lakehouse import NotWithCatalogError
from churn_assets.resources.settings import settings_from_env

settings = settings_from_env()
resources = default_resources(settings)
lakehouse = resources["lakehouse"]
FIRST, SECOND = date(2025, 1, 6), date(2025, 1, 13)


def rows(*found):
    kinds = pa.schema([("customer_id", pa.string()), ("as_of", pa.date32()), ("score", pa.float64())])
    return pa.Table.from_pylist([dict(zip(kinds.names, row, strict=True)) for row in found], kinds)


def scores(version=None):
    return sorted((row["customer_id"], row["as_of"], row["score"]) for row in lakehouse.records("s/scores", version))


def frame(*found):
    return lakehouse.frame(rows(*found))


assert lakehouse.version("s/scores") is None
with pytest.raises(MissingTableError, match="spark_catalog"):
    lakehouse.pin("s/scores")
with pytest.raises(ZeroDivisionError):
    lakehouse.write("s/scores", frame(("a", FIRST, 0.1)), audit=lambda held: 1 / 0)
assert lakehouse.version("s/scores") is None

one, two = ("a", FIRST, 0.1), ("b", SECOND, 0.2)
audited = lambda held: {"rows": held.count()}
first = lakehouse.write("s/scores", frame(one, two), audit=audited, metadata={"inputs": {"x": 3}}, by="as_of")
assert (first.rows, scores()) == (2, [one, two])
assert lakehouse.inputs("s/scores") == {"x": 3}
assert lakehouse.audit({"s/scores": first.version}) == {"rows": 2}
assert lakehouse.audit({"s/scores": 0}) is None, "the version that a table begins with"
assert lakehouse.committed_at("s/scores", 0) <= lakehouse.committed_at("s/scores", first.version)
assert lakehouse.is_laid_out_by("s/scores", "as_of")
assert lakehouse.dates("s/scores", "as_of") == [FIRST, SECOND]
assert lakehouse.bounds("s/scores", "score") == (0.1, 0.2)
assert lakehouse.ends("s/scores", ["score"], first.version, dates=("as_of", [SECOND])) == {"score": (0.2, 0.2)}

late = ("b", SECOND, 0.7)
replaced = lakehouse.replace_dates({"s/scores": frame(late)}, "as_of", [SECOND], audit=lambda held: None)[0]
assert (replaced.version, scores()) == (first.version + 1, [one, late])
assert scores(first.version) == [one, two], "time travel"
assert lakehouse.commit_metadata("s/scores")["dates"] == ["2025-01-13"]
assert lakehouse.inputs("s/scores", first.version) == {"x": 3}
assert not lakehouse.holds_same_rows("s/scores", first.version, replaced.version)
with pytest.raises(UndatedRowsError):
    lakehouse.replace_dates({"s/scores": frame(("c", None, 0.1))}, "as_of", [SECOND], audit=lambda held: None)
with pytest.raises(ValueError, match="as_of=2025-01-06"):
    lakehouse.replace_dates({"s/scores": frame(one)}, "as_of", [SECOND], audit=lambda held: None)

# Another writes the second date while the first is computed, and then while the second is.
def overtaking(held):
    lakehouse.replace_dates({"s/scores": frame(two)}, "as_of", [SECOND], audit=lambda held: None)

apart = lambda *found, dates: lakehouse.replace_dates(
    {"s/scores": frame(*found)}, "as_of", dates, audit=lambda held: overtaking(held)
)
other = ("a", FIRST, 0.9)
apart(other, dates=[FIRST])
assert scores() == [other, two]
before = lakehouse.version("s/scores")
with pytest.raises(OvertakenError, match="that one's rows stay"):
    apart(late, dates=[SECOND])
assert (scores(), lakehouse.version("s/scores")) == ([other, two], before + 1)

# Both have asked whether anybody wrote, nobody had, and then one is first: Delta itself refuses the second.
is_first = [True]
appended = lakehouse.append_after("s/ledger", None, rows(one))
history = type(lakehouse)._history

def late_history(self, table, *, limit=None):
    # What this one knows is from before the other's commit.
    found = history(self, table, limit=limit)
    if is_first and is_first.pop():
        lakehouse.append_after("s/ledger", appended, rows(two))
    return found

type(lakehouse)._history = late_history
with pytest.raises(OvertakenError):
    lakehouse.append_after("s/ledger", appended, rows(late))
type(lakehouse)._history = history
assert [row["score"] for row in lakehouse.records("s/ledger", appended)] == [0.1]
assert lakehouse.row_count("s/ledger") == 2
# Wholly replaced, with other columns; and by the same rows once more.
since = lakehouse.version("s/ledger")
small = pa.table({"n": [1]})
over = lakehouse.overwrite("s/ledger", small, since=since)
again = lakehouse.overwrite("s/ledger", small, since=over.version)
assert lakehouse.holds_same_rows("s/ledger", over.version, again.version)
with pytest.raises(OvertakenError):
    lakehouse.overwrite("s/ledger", small, since=since)
with pytest.raises(MissingTableError, match="no version 99"):
    lakehouse.records("s/ledger", 99)
for refused in (lakehouse.tables, lambda: lakehouse.orders_of({"a"}), lambda: lakehouse.maintain("s/ledger", (), None)):
    with pytest.raises(NotWithCatalogError, match="belong to the catalog"):
        refused()

# The demo's source tables are no tables of this project: they lie where sources.toml has them looked for.
defs = build_defs(resources)
with dg.DagsterInstance.ephemeral() as instance:
    for job, assets in ((DEMO, None), (LIFECYCLE, [dg.AssetKey(["food_delivery", "orders"])])):
        ran = defs.resolve_job_def(job).execute_in_process(instance=instance, asset_selection=assets)
        assert ran.success
assert lakehouse.row_count("food_delivery/orders") > 1000
print("all of it")
"""


@pytest.mark.system
@pytest.mark.usefixtures("java")
def test_tables_of_a_catalog_are_written_read_and_lost_as_those_at_paths_are(tmp_path: Path) -> None:
    Project.create(tmp_path, policy=TINY_POLICY, sources=TINY_DEMO)
    defaults = DEFAULTS.format(connector=CONNECTOR, folder=tmp_path)
    run_with_jars(FLOW, defaults, tmp_path, CONNECTOR, CHURN_TABLES="catalog")


def test_a_catalog_is_refused_on_sail_and_an_unknown_way_everywhere() -> None:
    with pytest.raises(UnknownTablesError, match="Sail has neither"):
        require_tables(settings_from_env({"CHURN_TABLES": "catalog", "CHURN_ENGINE": "sail"}))
    with pytest.raises(UnknownTablesError, match="one of paths, catalog"):
        require_tables(settings_from_env({"CHURN_TABLES": "hive"}))
    require_tables(settings_from_env({"CHURN_TABLES": "catalog", "CHURN_ENGINE": "local"}))

"""Spark's own client of S3 (S3A) before a server on loopback, in a process with a JVM; its jars come by Ivy."""

from pathlib import Path

import pytest

from churn_assets_tests import object_store
from churn_assets_tests.clusters import IVY, run_with_jars

SDK = "software.amazon.awssdk"
PACKAGES = (
    "org.apache.hadoop:hadoop-aws:3.5.0",
    f"{SDK}:s3:2.35.4",
    f"{SDK}:s3-transfer-manager:2.35.4",
    f"{SDK}:sts:2.35.4",
)
# As docs/scaling.md has it; what Ivy has fetched is kept where it keeps it for people.
DEFAULTS = """
spark.jars.packages {packages}
spark.jars.excludes software.amazon.awssdk:bundle
spark.jars.ivy {ivy}
spark.hadoop.fs.s3a.endpoint {endpoint}
spark.hadoop.fs.s3a.path.style.access true
spark.sql.shuffle.partitions 4
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""

FLOW = """
import sys
from datetime import date

import pytest

from churn_assets.churn.policy import Names
from churn_assets.definitions import stores
from churn_assets.delta.commits import OvertakenError
from churn_assets.delta.storage import write_file
from churn_assets.demo.simulator import DemoSettings, simulate
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.source_reading import Scratch, reading_by
from churn_assets.resources.sources import RawSource, _read
from churn_assets.resources.spark import spark_resource
from churn_assets.resources.used_columns import ALL_COLUMNS

settings = settings_from_env()
pyspark = spark_resource(settings)
lakehouse = stores(settings, pyspark, Names())["lakehouse"]
spark = pyspark.spark_session

# What Python on the workers makes, Spark writes and this process commits; each reads what the other one wrote.
demo = simulate(spark, DemoSettings(customers=200, start=date(2025, 10, 1), end=date(2025, 12, 31)))
truth = demo.true_churn_probability
written = lakehouse.write("s/truth", truth, by="as_of", audit=lambda held: {"rows": held.count()})
assert written.rows == lakehouse.audit({"s/truth": written.version})["rows"] > 1000
by_spark = {tuple(row) for row in lakehouse.read("s/truth").collect()}
by_arrow = {tuple(row.values()) for row in lakehouse.records("s/truth")}
assert by_spark == by_arrow == {tuple(row) for row in truth.collect()}

last = lakehouse.dates("s/truth", "as_of")[-1]
some = lakehouse.read("s/truth", dates=("as_of", [last])).limit(3)


def overtaken(held):
    lakehouse.replace_dates({"s/truth": some.limit(1)}, "as_of", [last], audit=lambda held: held["s/truth"].count())


with pytest.raises(OvertakenError):
    lakehouse.replace_dates({"s/truth": some}, "as_of", [last], audit=overtaken)
assert lakehouse.read("s/truth", dates=("as_of", [last])).count() == 1
assert lakehouse.read("s/truth", written.version).count() == written.rows

root = f"{settings.lakehouse}/K\\u00fcche 50%25 #1"
write_file(f"{root}/files/week=1/a+b=c.csv", b"n\\n1\\n")
csv = RawSource.model_validate({"path": f"{root}/files/*/*.csv", "format": "csv"})
reading = reading_by(spark, Scratch(f"{settings.lakehouse}/scratch"))
assert [row["n"] for row in _read(reading, csv, csv.path, ALL_COLUMNS).collect()] == ["1"]
print("all of it")
"""


@pytest.mark.system
@pytest.mark.usefixtures("java")
def test_spark_writes_and_reads_tables_and_sources_on_s3(tmp_path: Path) -> None:
    with object_store.running() as store:
        endpoint, ivy = store.environment["AWS_ENDPOINT_URL"], Path.home() / IVY
        defaults = DEFAULTS.format(packages=",".join(PACKAGES), endpoint=endpoint, ivy=ivy)
        run_with_jars(FLOW, defaults, tmp_path, PACKAGES[0], CHURN_LAKEHOUSE=f"{store.root}/lake", **store.environment)
        assert [key for key in store.keys(store.root) if "/held/" in key and not key.endswith("/")] == []
        assert not list(tmp_path.rglob("*.parquet"))

#!/bin/sh
# Delta's connector: a table that a catalog creates with its rows drops the commit's userMetadata, in silence; what is appended, or
# saved at a path, keeps it. Needs Java 17 or newer; Ivy fetches the connector.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pyspark==4.2.0'
cd "$folder"
"$folder/venv/bin/python" - "$folder" 2>"$folder/spark.log" <<'PYTHON'
import sys
from importlib.metadata import version

from pyspark.sql import SparkSession

folder, connector = sys.argv[1], "io.delta:delta-spark_4.2_2.13:4.4.0"
spark = (
    SparkSession.builder.master("local[1]")
    .config("spark.jars.packages", connector)
    .config("spark.jars.ivy", f"{folder}/ivy")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.sql.warehouse.dir", f"{folder}/warehouse")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
print("pyspark", version("pyspark"), connector)
rows = spark.range(3)


def kept(table):
    return spark.sql(f"DESCRIBE HISTORY {table} LIMIT 1").first()["userMetadata"]


found = {}
rows.writeTo("created").using("delta").option("userMetadata", "noted").create()
found["writeTo(table).create()"] = kept("created")
rows.writeTo("created").option("userMetadata", "noted").append()
found["writeTo(table).append()"] = kept("created")
rows.write.format("delta").option("userMetadata", "noted").saveAsTable("saved")
found["write.saveAsTable(table), which creates it"] = kept("saved")
rows.write.format("delta").option("userMetadata", "noted").save(f"{folder}/at_path")
found["write.save(path), which creates it"] = kept(f"delta.`{folder}/at_path`")
for how, noted in found.items():
    print(f"{how}: userMetadata {noted!r}")
seen = dict(zip(found, SEEN := (None, "noted", None, "noted")))
print("as it was seen" if found == seen else f"CHANGED: it was {seen}")
spark.stop()
sys.stdout.flush()
sys.exit(found != seen)
PYTHON

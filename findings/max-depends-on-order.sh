#!/bin/sh
# Sail: max() of grouped doubles depends on the order of the rows once NaN is among them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'pysail==0.7.2' 'pyspark[connect]==4.2.0' 'pyarrow==25.0.1' 'pandas==2.3.3'
RUST_LOG=error "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import pyarrow as pa
from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

print("pysail", version("pysail"), "pyspark", version("pyspark"), "pyarrow", version("pyarrow"))
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
host, port = server.listening_address
spark = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()


def greatest(*values):
    """max of the values, in one group."""
    rows = spark.createDataFrame(pa.table({"v": pa.array(values, pa.float64()), "g": [0] * len(values)}))
    return rows.groupBy("g").agg(F.max("v").alias("v")).collect()[0].v


seen = [(values, greatest(*values)) for values in ((1.5, float("nan")), (float("nan"), 1.5))]
for values, answered in seen:
    print(f"rows {values}: max(v) is {answered}")
print("Spark answers nan to both: NaN is greater than any number.")
changed = [repr(answered) for _, answered in seen] != ["nan", "1.5"]
print("CHANGED" if changed else "as it was seen: the order decides")
spark.stop()
sys.stdout.flush()
sys.exit(changed)
PYTHON

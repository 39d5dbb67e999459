#!/bin/sh
# Sail and Spark: medians, rounding and a cast of doubles to decimals differ in the last digit, in silence.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    'pysail==0.7.2' 'pyspark[connect]==4.2.0' 'pyarrow==25.0.1' 'pandas==2.3.3'
RUST_LOG=error "$folder/venv/bin/python" - <<'PYTHON'
import random
import sys
from decimal import ROUND_HALF_UP, Decimal
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
draw, rows = random.Random(1), 10_000
pairs = [(draw.uniform(0, 60), draw.uniform(0, 60)) for _ in range(rows)]
ties = [float(f"{draw.randint(0, 99)}.{draw.randint(0, 99):02d}5") for _ in range(rows)]

given = spark.createDataFrame(pa.table({"i": [i for i in range(rows) for _ in (0, 1)], "v": [v for p in pairs for v in p]}))
median = given.groupBy("i").agg(F.percentile("v", 0.5).alias("m")).toArrow().sort_by("i").column("m").to_pylist()
given = spark.createDataFrame(pa.table({"i": range(rows), "t": ties}))
cast = given.select(
    "i",
    F.round("t", 2).alias("rounded"),
    F.col("t").cast("decimal(20,2)").alias("decimal"),
)
found = cast.toArrow().sort_by("i").to_pydict()

# What Spark answers: half of each, summed; decimal digits rounded half up.
half_up = [Decimal(repr(tie)).quantize(Decimal("0.01"), ROUND_HALF_UP) for tie in ties]
expected = {
    "percentile(v, 0.5) of two": (median, [0.5 * min(pair) + 0.5 * max(pair) for pair in pairs]),
    "round(double, 2) of ties": (found["rounded"], [float(value) for value in half_up]),
    "cast(double as decimal(20,2)) of ties": (found["decimal"], half_up),
}
changed = False
for name, (answered, wanted) in expected.items():
    differing = [pair for pair in zip(answered, wanted) if pair[0] != pair[1]]
    example = f", for example {differing[0][0]!r} and not {differing[0][1]!r}" if differing else ""
    print(f"{name}: {len(differing):,} of {rows:,} differ{example}")
    changed |= not differing
print("CHANGED" if changed else "as it was seen: all three differ")
spark.stop()
sys.stdout.flush()
sys.exit(changed)
PYTHON

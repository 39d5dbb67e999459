#!/bin/sh
# Spark Connect: rows of Python given for a bigint lose what follows the point, in silence, where Spark's own driver refuses them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pyspark[connect]==4.2.0'
command -v java >/dev/null || [ -n "${JAVA_HOME:-}" ] || { echo "needs Java 17 or newer"; exit 2; }
cat >"$folder/given.py" <<'PYTHON'
import sys

from pyspark.errors import PySparkTypeError
from pyspark.sql import SparkSession

builder = SparkSession.builder.remote("local[1]") if sys.argv[1] == "connect" else SparkSession.builder.master("local[1]")
spark = builder.config("spark.ui.enabled", "false").getOrCreate()
# A count that came out of a mean, a limit that is a whole number, and the same within a list.
for schema, value in [
    ("orders bigint", 4.7),
    ("least double", 4),
    ("limits array<struct<least: double>>", [{"least": 4}]),
]:
    try:
        (row,) = spark.createDataFrame([(value,)], schema).collect()
        print(f"{schema}, given {value!r}: {row[0]!r}")
    except PySparkTypeError as refused:
        print(f"{schema}, given {value!r}: {refused.getCondition()}")
spark.stop()
PYTHON
"$folder/venv/bin/python" -c 'import pyspark; print("pyspark", pyspark.__version__)'
for way in classic connect; do
    "$folder/venv/bin/python" "$folder/given.py" "$way" >"$folder/$way" 2>"$folder/$way.log" || { cat "$folder/$way.log"; exit 2; }
    sed "s/^/$way: /" "$folder/$way"
done
cat >"$folder/seen" <<'SEEN'
orders bigint, given 4.7: FIELD_DATA_TYPE_UNACCEPTABLE_WITH_NAME
least double, given 4: FIELD_DATA_TYPE_UNACCEPTABLE_WITH_NAME
limits array<struct<least: double>>, given [{'least': 4}]: FIELD_DATA_TYPE_UNACCEPTABLE_WITH_NAME
orders bigint, given 4.7: 4
least double, given 4: 4.0
limits array<struct<least: double>>, given [{'least': 4}]: [Row(least=4.0)]
SEEN
if cat "$folder/classic" "$folder/connect" | cmp -s - "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi

#!/bin/sh
# Spark Connect's client in Python, to which Sail answers too: of more than some fifty conditions joined one after the other by `|`, as a loop over the columns
# of a wide table does, nothing comes back but a DecodeError of protobuf, from the client itself, that names neither a column nor the limit. The expression is
# nested a level for each `|`, each level is two messages, and the Python runtime of protobuf reads a hundred. Halved, the same conditions are a few levels deep.
# A classic session answers both, so code that was tried there alone meets it at the first wide table behind Connect.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pysail==0.7.2' 'pyspark[connect]==4.2.0' 'protobuf==6.33.6' 'pyarrow==25.0.1' 'pandas==2.3.3'
cat >"$folder/conditions.py" <<'PYTHON'
import os
from functools import reduce
from operator import or_

from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
session = SparkSession.builder.remote("sc://127.0.0.1:{}".format(server.listening_address[1])).getOrCreate()


def halved(conditions):
    middle = len(conditions) // 2
    return halved(conditions[:middle]) | halved(conditions[middle:]) if middle else conditions[0]


def said(condition):
    try:
        return f"{session.range(1000).where(condition).count()} rows"
    except Exception as error:
        return f"{type(error).__module__}.{type(error).__name__}: {error}"


for number in (45, 60):
    each = [F.col("id") == F.lit(value) for value in range(number)]
    print(f"{number} one after the other: {said(reduce(or_, each))}")
    print(f"{number} halved: {said(halved(each))}", flush=True)
# The client would wait for an answer of the server that ends with this process.
os._exit(0)
PYTHON
"$folder/venv/bin/python" -c 'from importlib.metadata import version as v; print(*(f"{name} {v(name)}" for name in ("pyspark", "pysail", "protobuf")))'
"$folder/venv/bin/python" "$folder/conditions.py" 2>/dev/null | tee "$folder/found"
cat >"$folder/seen" <<'SEEN'
45 one after the other: 45 rows
45 halved: 45 rows
60 one after the other: google.protobuf.message.DecodeError: Error parsing message with type 'spark.connect.Expression'
60 halved: 60 rows
SEEN
if cmp -s "$folder/found" "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi

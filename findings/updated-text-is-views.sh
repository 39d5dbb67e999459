#!/bin/sh
# deltalake and Arrow: after deltalake's update the text of a Parquet file is read as views, which Arrow does not filter.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'deltalake==1.6.6' 'pyarrow==25.0.1'
"$folder/venv/bin/python" - "$folder/orders" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

print("deltalake", version("deltalake"), "pyarrow", version("pyarrow"))
place = sys.argv[1]
write_deltalake(place, pa.table({"customer": ["C1", "C2"], "spend": [1.0, 2.0]}))


def told() -> str:
    """The type of the text in the table's one file, and what comes of keeping one row of it."""
    (file,) = DeltaTable(place).get_add_actions(flatten=True).select(["path"]).column("path").to_pylist()
    rows = pq.ParquetFile(Path(place, file)).read()
    try:
        kept = rows.filter(pa.array([True, False]))
    except pa.ArrowNotImplementedError as refused:
        return f"{rows.schema.field('customer').type}: {str(refused).splitlines()[0]}"
    return f"{rows.schema.field('customer').type}: {kept.num_rows} row kept"


found = [told()]
DeltaTable(place).update(updates={"spend": "spend + 1"}, predicate="customer = 'C2'")
found.append(told())
print(f"as written: {found[0]}", f"after update: {found[1]}", sep="\n")
is_as_seen = found[0] == "string: 1 row kept" and found[1].startswith("string_view: Function 'array_")
print("as it was seen" if is_as_seen else "CHANGED")
sys.exit(not is_as_seen)
PYTHON

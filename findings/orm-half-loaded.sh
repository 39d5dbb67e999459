#!/bin/sh
# SQLAlchemy, in which MLflow (ORM) and Dagster (statements alone) meet: while one thread imports the ORM for the first time, a statement of another
# that selects a bare number, as Dagster's look at its indexes does, ends in an AttributeError of a module that is not whole yet. orm.exc and orm.base
# import each other, and base registers for every object before exc has its names. An import's lock does not help: the other thread imports nothing.
# Who would load MLflow's store ahead in a thread, while Dagster runs, loses a step to it once in a while.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'sqlalchemy==2.1.9'
cat >"$folder/halves.py" <<'PYTHON'
import sys
from importlib.abc import MetaPathFinder
from threading import Event, Thread

import sqlalchemy

within, beside = Event(), Event()


class Pause(MetaPathFinder):
    """Stops the import where the next module is looked for once the ORM's base has registered itself."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("sqlalchemy.") and hasattr(sys.modules.get("sqlalchemy.orm.base"), "_class_to_mapper") and not within.is_set():
            within.set()
            beside.wait(60)


def said(does):
    try:
        return str(does()).replace("\n", " ")
    except Exception as error:
        return f"{type(error).__name__}: {str(error).split(' (')[0]}; in handling {type(error.__context__).__name__}: {error.__context__}"


print("before:", said(lambda: sqlalchemy.select(1)))
sys.meta_path.insert(0, Pause())
loading = Thread(target=__import__, args=("sqlalchemy.orm",))
loading.start()
within.wait(60)
print("during:", said(lambda: sqlalchemy.select(1)))
beside.set()
loading.join()
print("after:", said(lambda: sqlalchemy.select(1)))
PYTHON
"$folder/venv/bin/python" -c 'import sqlalchemy; print("sqlalchemy", sqlalchemy.__version__)'
"$folder/venv/bin/python" "$folder/halves.py" 2>&1 | tee "$folder/found"
cat >"$folder/seen" <<'SEEN'
before: SELECT 1
during: AttributeError: partially initialized module 'sqlalchemy.orm.exc' has no attribute 'UnmappedClassError'; in handling AttributeError: 'int' object has no attribute '_sa_instance_state'
after: SELECT 1
SEEN
if cmp -s "$folder/found" "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi

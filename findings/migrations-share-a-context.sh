#!/bin/sh
# alembic, where MLflow and Dagster meet: the context of a migration is one for all threads of a process. While one thread makes a new store of
# MLflow, Dagster's first event of a run in another (a SQLite file of its own, stamped by alembic) takes the names away that MLflow's still uses.
# Who would make the store ahead in a thread, while the first assets run, ends in a KeyError once in a while.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'alembic==1.20.1' 'dagster==1.13.27' 'mlflow==3.17.2'
cat >"$folder/stores.py" <<'PYTHON'
import logging
import sys
from pathlib import Path
from threading import Event, Thread, current_thread

import dagster as dg
from mlflow import MlflowClient
from sqlalchemy import Engine
from sqlalchemy.event import listens_for

logging.disable()
folder, within, beside = Path(sys.argv[1]), Event(), Event()
errors = {}


@listens_for(Engine, "before_cursor_execute")
def pause(_, __, statement, *___):
    # MLflow is in the middle of its migrations, as it is for a second whenever a store is new.
    if current_thread().name == "MLflow" and statement.strip().startswith("CREATE TABLE alembic_version") and not within.is_set() and waits:
        within.set()
        beside.wait(60)


def noted(who, does):
    try:
        does()
    except Exception as error:
        errors[who] = type(error).__name__


@dg.asset
def nothing():
    pass


def both(name, together):
    global waits
    waits = together
    within.clear(), beside.clear(), errors.clear()
    store = Thread(target=noted, name="MLflow", args=("MLflow", lambda: MlflowClient(f"sqlite:///{folder}/{name}.db")))
    with dg.DagsterInstance.local_temp() as instance:
        store.start()
        within.wait(60) if together else store.join()
        noted("Dagster", lambda: dg.materialize([nothing], instance=instance))
        beside.set()
        store.join()
    print(f"{name}: MLflow: {errors.get('MLflow', 'made its store')}; Dagster: {errors.get('Dagster', 'made its run')}")


both("one after the other", False)
both("at once", True)
PYTHON
"$folder/venv/bin/python" -c 'from importlib.metadata import version as v; print(*(f"{name} {v(name)}" for name in ("alembic", "dagster", "mlflow")))'
"$folder/venv/bin/python" "$folder/stores.py" "$folder" 2>/dev/null | tee "$folder/found"
cat >"$folder/seen" <<'SEEN'
one after the other: MLflow: made its store; Dagster: made its run
at once: MLflow: KeyError; Dagster: made its run
SEEN
if cmp -s "$folder/found" "$folder/seen"; then
    echo "as it was seen"
else
    echo "CHANGED"
    exit 1
fi

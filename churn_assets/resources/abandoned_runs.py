"""Which process an MLflow run belongs to, and whether it is still there. Ends no run."""

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import dagster as dg
import psutil

if TYPE_CHECKING:
    from mlflow.entities import Run

PROCESS_TAG = "process"


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, for the tag PROCESS_TAG."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_abandoned(run: "Run", instance: dg.DagsterInstance) -> bool:
    """Whether nobody is left to end the open MLflow run `run`: its Dagster run has ended, or its process is gone."""
    made_by = instance.get_run_by_id(run.data.tags.get("dagster_run_id", ""))
    if made_by is not None and made_by.is_finished:
        return True
    process = json.loads(run.data.tags.get(PROCESS_TAG, "{}"))
    if process.get("host") != socket.gethostname():
        return False  # nothing can be known of it from here
    try:
        return psutil.Process(process["pid"]).create_time() != process["started"]
    except psutil.NoSuchProcess:
        return True

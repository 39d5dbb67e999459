"""Which process a run belongs to, Dagster's or MLflow's, and whether it is still there."""

import json
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import psutil

if TYPE_CHECKING:
    from mlflow.entities import Run

PROCESS_TAG = "process"
# Dagster's pages hide tags of this prefix: nobody reads a process number in a list of runs.
DAGSTER_PROCESS_TAG = ".dagster/churn_process"


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, for the tags."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_abandoned(run: "Run", instance: dg.DagsterInstance) -> bool:
    """Whether nobody is left to end the open MLflow run `run`: its Dagster run has ended, or its process is gone."""
    made_by = instance.get_run_by_id(run.data.tags.get("dagster_run_id", ""))
    if made_by is not None and made_by.is_finished:
        return True
    return _is_gone(json.loads(run.data.tags.get(PROCESS_TAG, "{}")))


def process_tags(run_id: str) -> dict[str, str]:
    """The tags of a Dagster run that this process executes."""
    # With its id: a run that is launched again begins with the tags of the first.
    return {DAGSTER_PROCESS_TAG: json.dumps(this_process() | {"run": run_id})}


def note_process(run: dg.DagsterRun, instance: dg.DagsterInstance) -> None:
    """Notes with the Dagster run that it is executed by this process."""
    instance.add_run_tags(run.run_id, process_tags(run.run_id))


def end_vanished_runs(instance: dg.DagsterInstance) -> list[str]:
    """Ends, as failed, each Dagster run that goes on by its record and whose process, on this host, is gone; their ids.

    A run that was being canceled ends as canceled. Of another host's runs nothing can be known.
    """
    going_on = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    ended = []
    for run in instance.get_runs(going_on):
        process = json.loads(run.tags.get(DAGSTER_PROCESS_TAG, "{}"))
        if process.get("run") != run.run_id or not _is_gone(process):
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run)
        else:
            said = f"The process {process['pid']} that executed this run is gone: killed, or out of memory"
            instance.report_run_failed(run, f"{said}. Next step: launch the job again; what was finished stays")
        ended.append(run.run_id)
    return ended


def _is_gone(process: Mapping[str, Any]) -> bool:
    if process.get("host") != socket.gethostname():
        return False  # nothing can be known of it from here
    try:
        return bool(psutil.Process(process["pid"]).create_time() != process["started"])
    except psutil.NoSuchProcess:
        return True

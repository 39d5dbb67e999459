"""Two programs of `test_cut_off`, on the host that drives: what is told of them lies in the store when they end.

`cut`: the flow up to the splits, a fit, and a fit again; the test cuts a worker off in the midst of the flow and of the
last fit. `again`: the same fit in a process of its own, once both workers are there.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

from churn_assets.churn import distributed_trees
from churn_assets.churn.distributed_trees import cluster_workers
from churn_assets.definitions import LIFECYCLE
from churn_assets.delta.storage import write_file
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.trained_models import MODEL_ARTIFACT
from churn_assets_tests.clusters import EVENTS, ends_of_fits, executors_lost
from churn_assets_tests.conftest import TABLES, TINY_POLICY, Project, causes_of, demo_sources, materializations_of
from churn_assets_tests.processes import wait_for

TOLD = "told"
PREPARED, LEARNING, FOUND = f"{TOLD}/prepared", f"{TOLD}/learning", f"{TOLD}/found"
# Where Spark is asked to learn, as it names the stages of that; others of that module count rows first.
FITTING = next(
    f"{distributed_trees.__file__}:{number}"
    for number, line in enumerate(Path(distributed_trees.__file__).read_text(encoding="utf-8").splitlines(), start=1)
    if "learner.fit(" in line
)
# So many trees take both workers seconds together, in the midst of which one can be cut off.
FIT = {"workers": 2, "iterations": 300}


def told(root: str, key: str, what: Any = None) -> None:
    """Returns once the test has let the store take it."""
    write_file(f"{root}/{key}", json.dumps(what).encode())


def learned(project: Project) -> dict[str, Any]:
    """A training by both workers: its model, or why there is none, and what it left behind."""
    wait_for("both workers", lambda: cluster_workers(project.lakehouse.spark) == FIT["workers"])
    before, started = project.versions(), time.monotonic()
    result = project.run(LIFECYCLE, MODEL_ARTIFACT, config={MODEL_ARTIFACT: FIT})
    runs = project.tracking.client.search_runs(["0", "1"], order_by=["start_time DESC"])
    made = materializations_of(result).get(MODEL_ARTIFACT)
    return {
        "digest": None if made is None else made.metadata["model_digest"].value,
        "causes": causes_of(result),
        "runs": [run.info.status for run in runs],
        "tables": "as before" if project.versions() == before else "others",
        "seconds": time.monotonic() - started,
    }


@contextmanager
def told_when_both_learn(project: Project, root: str) -> Iterator[None]:
    """Tells of the first stage of XGBoost's that runs on both workers meanwhile."""
    tracker, is_over = project.lakehouse.spark.sparkContext.statusTracker(), Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            for info in map(tracker.getStageInfo, tracker.getActiveStageIds()):
                # Spark names a stage by the line of ours that led to it.
                if info is not None and FITTING in info.name and FIT["workers"] == info.numTasks == info.numActiveTasks:
                    told(root, LEARNING)
                    return

    watching = Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()


def through_cuts(project: Project, root: str) -> dict[str, Any]:
    wait_for("both workers", lambda: cluster_workers(project.lakehouse.spark) == FIT["workers"])
    started = time.monotonic()
    prepared = project.run(LIFECYCLE, *TABLES[:-1])
    found: dict[str, Any] = {"prepared": causes_of(prepared), "seconds": time.monotonic() - started}
    told(root, PREPARED)
    found["whole"] = learned(project)
    with told_when_both_learn(project, root):
        found["cut"] = learned(project)
    return found


def main(what: str) -> None:
    settings = settings_from_env()
    root, home = settings.lakehouse.rpartition("/")[0], settings.project.parent
    (home / EVENTS).mkdir(exist_ok=True)
    if what == "cut":
        project = replace(
            Project.create(settings.project, policy=TINY_POLICY, sources=demo_sources(root)), settings=settings
        )
        told(root, FOUND, through_cuts(project, root))
    else:
        project = replace(Project.at(settings.project), settings=settings)
        of_cluster = {"lost": executors_lost(home), "fits": ends_of_fits(home)}
        told(root, FOUND, learned(project) | of_cluster)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`churn-assets run`: the jobs from nothing to the latest week's list, with their progress and what came of them.

What takes long to load is imported once Spark is starting.
"""

import argparse
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from churn_assets.commands.terminal import DONE, FAILED, INTERRUPTED
from churn_assets.resources.settings import Settings

if TYPE_CHECKING:
    from churn_assets.resources.spark import EngineResource


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    from churn_assets.resources.spark import spark_resource

    return run_jobs(settings, spark_resource(settings), terminal, log)


def run_jobs(settings: Settings, pyspark: "EngineResource", terminal: TextIO, log: Path) -> int:
    from churn_assets.resources.spark import start_ahead

    start_ahead(pyspark)
    import dagster as dg

    from churn_assets.churn.errors import ChurnError
    from churn_assets.commands.progress import StageProgress, was_interrupted
    from churn_assets.commands.summary import closing
    from churn_assets.definitions import build_defs, default_resources, jobs_to_run

    try:
        resources = default_resources(settings, pyspark)
    except ChurnError as invalid:
        print(f"\n{invalid}", file=terminal)
        return FAILED
    defs = build_defs(resources)
    begun_at, is_success = datetime.now(UTC), True
    with dg.DagsterInstance.get() as instance:
        for name, partition_key in jobs_to_run(resources):
            run_id = str(uuid.uuid4())
            job = defs.resolve_job_def(name)
            progress = StageProgress(defs, job, terminal)
            instance.add_event_listener(run_id, progress.show)
            # What fails is in the run's events, which the progress shows; the exit code says it too.
            try:
                result = job.execute_in_process(
                    instance=instance, run_id=run_id, raise_on_error=False, partition_key=partition_key
                )
            except dg.DagsterExecutionInterruptedError:  # between two steps
                return INTERRUPTED
            if was_interrupted(result):
                # A session interrupted in the middle of an answer gives no more right ones: nothing is asked of it.
                return INTERRUPTED
            is_success = result.success
            if not is_success:
                break
    print(closing(resources, settings, begun_at=begun_at, is_success=is_success, log=log), file=terminal)
    return DONE if is_success else FAILED

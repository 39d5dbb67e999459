"""`churn-assets run`: the jobs from nothing to the latest week's list, with their progress and what came of them.

What takes long to load is imported once Spark is starting.
"""

import argparse
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TextIO

from churn_assets.churn.errors import ChurnError
from churn_assets.commands.terminal import DONE, FAILED, INTERRUPTED
from churn_assets.resources.settings import Settings

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.remote_origin import RemoteJobOrigin

    from churn_assets.resources.spark import EngineResource

LOADED_AHEAD = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "xgboost",
    "scipy.optimize",
)


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    from churn_assets.resources.spark import spark_resource

    # Not imported: `definitions` takes long to load.
    job = arguments.job or ("churn_lifecycle" if arguments.config else None)
    chosen = None if job is None else ChosenJob(job, read_run_config(arguments.config))
    return run_jobs(settings, spark_resource(settings), terminal, log, chosen)


class UnknownJobError(ChurnError):
    """There is no job of this name, or it needs more than a name."""


class UnusableLakehouseError(ChurnError):
    """The place of the lakehouse cannot hold tables."""


class InvalidRunConfigError(ChurnError):
    """A file of run config cannot be read, or says what the job does not take."""


@dataclass(frozen=True)
class ChosenJob:
    """The one job to run, and its run config."""

    name: str
    config: Mapping[str, Any] | None


def read_run_config(path: Path | None) -> Mapping[str, Any] | None:
    """Raises InvalidRunConfigError."""
    import yaml

    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as unreadable:
        first = str(unreadable).splitlines()[0]
        raise InvalidRunConfigError(
            f"{path}: cannot be read as YAML: {first}",
            next_step="name a file of run config, such as docs/configuration.md has",
        ) from unreadable
    if not isinstance(content, dict):
        raise InvalidRunConfigError(
            f"{path}: no run config.", next_step="begin it with `ops:`, as docs/configuration.md does"
        )
    return content


def run_jobs(
    settings: Settings,
    pyspark: "EngineResource",
    terminal: TextIO,
    log: Path,
    chosen: ChosenJob | None = None,
) -> int:
    """The jobs from nothing to the latest week's list, or the chosen one.

    Raises UnknownJobError, InvalidRunConfigError, and what `default_resources` raises.
    """
    from churn_assets.resources.spark import start_ahead

    start_ahead(pyspark)
    import dagster as dg
    from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

    from churn_assets.commands.kept_open import event_log_engines_kept, sqlite_kept_open
    from churn_assets.commands.progress import StageProgress, is_verdict, was_interrupted
    from churn_assets.commands.summary import Ending, Errand, closing, errand_closing
    from churn_assets.definitions import ASSET_JOBS, build_defs, default_resources, jobs_to_run
    from churn_assets.resources.abandoned_runs import process_tags

    resources = default_resources(settings, pyspark)
    defs = build_defs(resources)
    _look_ahead(resources)
    begun_at, ending = datetime.now(UTC), Ending.SUCCESS
    if chosen is not None:
        _require(defs, chosen)
    _load_ahead()
    jobs = jobs_to_run(resources) if chosen is None else [(chosen.name, None)]
    with sqlite_kept_open(), event_log_engines_kept(), dg.DagsterInstance.get() as instance:
        for name, partition_key in jobs:
            run_id = str(uuid.uuid4())
            origin = _counted_as_launched(instance, name)
            job = defs.resolve_job_def(name)
            progress = StageProgress(defs, job, terminal)
            instance.add_event_listener(run_id, progress.show)
            # What fails is in the run's events, which the progress shows; the exit code says it too.
            try:
                result = job.execute_in_process(
                    instance=instance,
                    run_id=run_id,
                    raise_on_error=False,
                    partition_key=partition_key,
                    run_config=None if chosen is None else chosen.config,
                    # Whose process it is from its first moment: killed before a resource noted it, it would seem to
                    # go on.
                    tags={REPOSITORY_LABEL_TAG: origin.repository_origin.get_label(), **process_tags(run_id)},
                )
            except dg.DagsterExecutionInterruptedError:  # between two steps
                return INTERRUPTED
            if was_interrupted(result):
                # A session interrupted in the middle of an answer gives no more right ones: nothing is asked of it.
                return INTERRUPTED
            if not result.success:
                ending = Ending.VERDICT if is_verdict(result) else Ending.FAILURE
                break
        if chosen is not None and ending is Ending.SUCCESS and chosen.name not in {name for name, *_ in ASSET_JOBS}:
            said = [entry.user_message for entry in instance.all_logs(run_id) if not entry.is_dagster_event]
            print(errand_closing(Errand(chosen.name, said), resources["promotions"]), file=terminal)
            return DONE
    print(closing(resources, settings, begun_at=begun_at, ending=ending, log=log), file=terminal)
    return DONE if ending is Ending.SUCCESS else FAILED


def _counted_as_launched(instance: "dg.DagsterInstance", job: str) -> "RemoteJobOrigin":
    """The next run belongs to the code location that Dagster's pages show, as a run launched from there does; to which.

    One that belongs to none is in no job's history and on no timeline (Dagster 1.13); `execute_in_process` asks for no
    origin, but gets the run from this method.
    """
    from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

    location = RegisteredCodeLocationOrigin("churn_assets.definitions")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)
    created = partial(type(instance).create_run_for_job, instance, remote_job_origin=origin)
    instance.create_run_for_job = created  # type: ignore[method-assign]
    return origin


def _look_ahead(resources: Mapping[str, Any]) -> None:
    """Looks for what would stop the run after minutes: the lakehouse's place, MLflow's answer, the sources."""
    _require_place(resources["lakehouse"].root)
    resources["tracking"].require_store()
    if resources["sources"].sources.demo is None:
        resources["sources"].state()


def _load_ahead() -> None:
    """Loads what later steps need in a thread of its own: for most of the first steps this process waits for Spark.

    Nothing of MLflow, which the run's own thread loads where it is asked first: imports of a part of it in one thread
    and of the whole in another end in a _DeadlockError, its half loaded ORM breaks statements of Dagster's, and a store
    made in one thread breaks migrations in another.
    """

    def load() -> None:
        # What cannot be loaded is told by the step that needs it.
        with suppress(Exception):
            for name in LOADED_AHEAD:
                import_module(name)

    Thread(target=load, name="loads-ahead").start()


def _require_place(root: str) -> None:
    """Raises UnusableLakehouseError, and UnsafeStoreError for a store that two runs would share badly."""
    from pyarrow import ArrowInvalid

    from churn_assets.delta.commits import require_one_winner
    from churn_assets.delta.storage import filesystem_of

    advice = "set CHURN_LAKEHOUSE to a folder, or to a URI such as s3://bucket/folder"
    try:
        filesystem_of(root)
        require_one_winner(root)
    except (ArrowInvalid, OSError) as refused:
        raise UnusableLakehouseError(f"No tables can be kept at {root}.", [str(refused)], next_step=advice) from refused
    if "://" not in root and Path(root).is_file():
        raise UnusableLakehouseError(f"{root} is a file, and no folder for tables.", next_step=advice)


def _require(defs: "dg.Definitions", chosen: ChosenJob) -> None:
    """Raises UnknownJobError and InvalidRunConfigError, before anything of the job is begun."""
    import dagster as dg
    from dagster._core.errors import DagsterConfigMappingFunctionError

    jobs = {job.name: job for job in map(defs.resolve_job_def, [each.name for each in defs.jobs or []])}
    known = sorted(name for name, job in jobs.items() if job.partitions_def is None)
    if chosen.name not in known:
        why = "needs the weeks to run for" if chosen.name in jobs else "does not exist"
        raise UnknownJobError(
            f"The job {chosen.name} {why}.", next_step=f"choose of {', '.join(known)}, or launch it in Dagster"
        )
    try:
        dg.validate_run_config(jobs[chosen.name], chosen.config)
    except DagsterConfigMappingFunctionError as unfilled:
        if isinstance(unfilled.__cause__, ChurnError):
            raise unfilled.__cause__ from None
        raise
    except dg.DagsterInvalidConfigError as invalid:
        raise InvalidRunConfigError(
            f"The job {chosen.name} does not take this run config.",
            [" ".join(each.message.split()) for each in invalid.errors],
            next_step="correct it; docs/configuration.md and docs/operating.md have examples",
        ) from invalid

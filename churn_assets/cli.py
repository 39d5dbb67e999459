"""The command line: what people start from a terminal and see there; nothing is decided or computed here."""

import argparse
import atexit
import gc
import os
import sys
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TextIO

from churn_assets.resources.settings import Settings, prepare_dagster_home, settings_from_env

if TYPE_CHECKING:
    from dagster_pyspark import LazyPySparkResource

DONE, FAILED, UNEVALUATED, INTERRUPTED = 0, 1, 2, 130  # 130 is what shells say after Ctrl-C
INTERRUPTION = """
Interrupted. What was finished stays; what was not is as it was before, and so is the model in production.
Next step: the same command again"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed or different, 2 not evaluable, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="churn-assets", description="The churn lifecycle on Dagster, Spark and MLflow."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the job churn_lifecycle on the configured sources and show what came of it")
    commands.add_parser("audit", help="show which version serves, since when, on which data, and every decision")
    again = commands.add_parser("reproduce", help="make a version again from its recorded inputs and compare")
    again.add_argument("version", help="the number of the registered version")
    checks = commands.add_parser("check", help="run the asset checks on the tables as they stand; makes nothing")
    checks.add_argument(
        "--select",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="only these assets' checks or checks; may be repeated",
    )
    checks.add_argument("--junit", type=Path, metavar="FILE", help="write the results for a CI system")
    checks.add_argument("--markdown", type=Path, metavar="FILE", help="write the results for a pull request")
    commands.add_parser("doctor", help="show what is wrong with this machine or configuration, and how to mend it")
    asked = parser.parse_args(arguments)
    # At its end Python would look for garbage among all that is still in use, which takes it one to two seconds.
    atexit.register(gc.freeze)
    if asked.command == "doctor":
        return _doctor(settings_from_env())
    bodies = {
        "run": _run,
        "audit": _audit,
        "reproduce": lambda settings, terminal, log: _reproduce(asked.version, settings, terminal, log),
        "check": lambda settings, terminal, log: _check(asked, settings, terminal, log),
    }
    return _logged(settings_from_env(), asked.command, bodies[asked.command])


def _logged(settings: Settings, command: str, body: Callable[[Settings, TextIO, Path], int]) -> int:
    """Runs a command whose output goes to a log file but for what it shows to people."""
    log = settings.data / "logs" / f"{command}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(settings))
    with output_to(log) as terminal:
        begun = perf_counter()
        print(f"Project   {settings.project}\nLog file  {log}", file=terminal)
        try:
            code = body(settings, terminal, log)
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code == INTERRUPTED:
            print(INTERRUPTION, file=terminal)
        print(f"\nTook {perf_counter() - begun:.0f} s in all.", file=terminal)
    return code


def _doctor(settings: Settings) -> int:
    from churn_assets.doctor import examine, report

    # What libraries say of themselves when they are loaded is in other commands' log files; this one has none.
    warnings.simplefilter("ignore")
    findings = examine(settings)
    sys.stdout.write(f"{report(findings)}\n")
    return FAILED if any(each.fix and not each.is_warning for each in findings) else DONE


def _audit(settings: Settings, terminal: TextIO, log: Path) -> int:
    from churn_assets.audit import audit
    from churn_assets.churn.errors import ChurnError
    from churn_assets.definitions import default_resources

    try:
        print(f"\n{audit(default_resources(settings)['promotions'])}", file=terminal)
    except ChurnError as problem:
        print(f"\n{problem}", file=terminal)
        return FAILED
    return DONE


def _reproduce(version: str, settings: Settings, terminal: TextIO, log: Path) -> int:
    import dagster as dg

    from churn_assets.churn.errors import ChurnError
    from churn_assets.console import StageProgress
    from churn_assets.definitions import default_resources
    from churn_assets.reproduction import comparison, reproduce

    def progress(defs: dg.Definitions, job: dg.JobDefinition) -> Callable[[dg.EventLogEntry], None]:
        return StageProgress(defs, job, terminal).show

    try:
        found = reproduce(default_resources(settings), settings, version, progress)
    except ChurnError as problem:
        print(f"\n{problem}", file=terminal)
        return FAILED
    print(f"\n{comparison(found)}", file=terminal)
    return FAILED if found.differing else DONE


def _check(asked: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    import dagster as dg

    from churn_assets.check_reports import as_junit, as_markdown, as_table
    from churn_assets.checking import Status, run_checks, selected
    from churn_assets.churn.errors import ChurnError
    from churn_assets.definitions import build_defs, default_resources
    from churn_assets.resources.spark import brief_spark_resource

    try:
        resources = default_resources(settings, brief_spark_resource(settings))
        defs = build_defs(resources)
        selected(defs, asked.select)
        begun = perf_counter()
        with dg.DagsterInstance.get() as instance:
            checked = run_checks(defs, instance, asked.select)
    except ChurnError as problem:
        print(f"\n{problem}", file=terminal)
        return UNEVALUATED
    except Exception as broken:  # noqa: BLE001 - without Dagster's history none was asked, so none failed
        traceback.print_exc()
        print(f"\n{type(broken).__name__}: {broken}\nNext step: look for the cause in {log}", file=terminal)
        return UNEVALUATED
    seconds = perf_counter() - begun
    print(f"\n{as_table(checked)}", file=terminal)
    print(f"Checked in {seconds:.1f} s.", file=terminal)
    for file, text in ((asked.junit, as_junit(checked, seconds)), (asked.markdown, as_markdown(checked))):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    statuses = {each.status for each in checked}
    return UNEVALUATED if Status.UNKNOWN in statuses else FAILED if Status.FAILED in statuses else DONE


def _run(settings: Settings, terminal: TextIO, log: Path) -> int:
    from churn_assets.resources.class_archive import begun_recording
    from churn_assets.resources.spark import spark_resource

    # A run of everything loads the classes that any later one needs.
    recording = begun_recording(settings)
    try:
        code = _run_jobs(settings, spark_resource(settings, recording), terminal, log)
        if recording is not None and code == DONE:
            print(
                "\nKeeping the classes Spark has loaded, so that later runs start sooner (Ctrl-C skips it) …",
                file=terminal,
            )
            with suppress(KeyboardInterrupt):
                recording.keep()
    finally:
        if recording is not None:
            recording.drop()
    return code


def _run_jobs(settings: Settings, pyspark: "LazyPySparkResource", terminal: TextIO, log: Path) -> int:
    from churn_assets.resources.spark import start_ahead

    start_ahead(pyspark)
    import dagster as dg

    from churn_assets.churn.errors import ChurnError
    from churn_assets.console import StageProgress, closing, was_interrupted
    from churn_assets.definitions import build_defs, default_resources, jobs_to_run

    try:
        resources = default_resources(settings, pyspark)
    except ChurnError as invalid:
        print(f"\n{invalid}", file=terminal)
        return FAILED
    defs = build_defs(resources)
    begun_at, is_success = datetime.now(timezone.utc), True
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


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Sends everything this process and its children print to `log`; yields the terminal it hides.

    Descriptors are moved, not Python's streams, because the JVM writes to the descriptors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as sink, os.fdopen(os.dup(1), "w", buffering=1) as terminal:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


if __name__ == "__main__":
    sys.exit(main())

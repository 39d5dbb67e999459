"""What is wrong with this machine or this configuration, each with its fix; no JVM but `java -version` is started."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from churn_assets.churn.errors import ChurnError
from churn_assets.commands.terminal import DONE, FAILED, show
from churn_assets.engines.addresses import public, shown
from churn_assets.resources.settings import (
    DRIVER_ADVICE,
    Settings,
    engine_of,
    is_database_server,
    prepare_dagster_home,
    require_database,
)

LIMIT_SECONDS = 8.0
JAVA, FREE_BYTES = 17, 2 * 1024**3


class Wrong(Exception):  # noqa: N818 - a finding, not an error of this program
    """What is wrong, and its fix."""

    def __init__(self, observed: str, fix: str, *, is_warning: bool = False) -> None:
        super().__init__(observed)
        self.fix, self.is_warning = fix, is_warning


def _wrong(error: ChurnError) -> Wrong:
    """What a named error says, its next step as the fix."""
    return Wrong(str(error).partition("\nNext step: ")[0], error.next_step)


@dataclass(frozen=True)
class Finding:
    """What one probe found; fix is empty where nothing is wrong."""

    probe: str
    observed: str
    fix: str = ""
    is_warning: bool = False


Probe = Callable[[Settings], str]


def examine(settings: Settings, probes: Sequence[Probe] | None = None) -> list[Finding]:
    """All probes at once, none stopped by another; one that hangs is given up after `LIMIT_SECONDS`."""
    probes = PROBES if probes is None else probes
    # Before the clock starts: loading the libraries took more than the limit on a busy machine (2026-11).
    with suppress(ImportError):
        import_module("churn_assets.definitions")
    pool = ThreadPoolExecutor(len(probes))
    answers = [(probe.__name__, pool.submit(probe, settings)) for probe in probes]
    findings = []
    for name, answer in answers:
        try:
            findings.append(Finding(name, answer.result(LIMIT_SECONDS)))
        except Wrong as wrong:
            findings.append(Finding(name, str(wrong), wrong.fix, wrong.is_warning))
        except FuturesTimeoutError:
            slow = "try again: the machine was busy" if name in LOCAL else "look whether the place answers"
            findings.append(Finding(name, f"no answer within {LIMIT_SECONDS:g} s", slow))
        except Exception as broken:  # noqa: BLE001 - whatever stops one probe is a finding, not the end of the others
            findings.append(Finding(name, f"{type(broken).__name__}: {broken}", "mend what this message names"))
    pool.shutdown(wait=False, cancel_futures=True)
    return findings


def engine(settings: Settings) -> str:
    """Sail is asked here; of an engine with a JVM, or a server, is told what is known of it."""
    from churn_assets.engines import conformance
    from churn_assets.engines.constructs import RELIED_ON
    from churn_assets.resources.spark import spark_resource

    conforms = f"conforms ({len(RELIED_ON)} constructs)"
    try:
        chosen = engine_of(settings)
        if chosen.name != "sail":
            asked_of = conformance.known_version(chosen)
            return f"{chosen}, {f'{asked_of}: {conforms}' if asked_of else 'asked before the first run'}"
        session = spark_resource(settings).spark_session
        conformance.require_answers(session, chosen)
    except ChurnError as invalid:
        raise _wrong(invalid) from invalid
    return f"{chosen}, {conformance.version_of(chosen, session)}: {conforms}"


def java(settings: Settings) -> str:
    chosen = engine_of(settings)
    if not chosen.needs_java:
        return f"not needed by {'Sail' if chosen.name == 'sail' else 'a client of Spark Connect'}"
    home = os.environ.get("JAVA_HOME")
    command = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    fix = f"run `make java`, or set JAVA_HOME to a Java {JAVA} or newer"
    if command is None or not Path(command).exists():
        raise Wrong(f"no Java at {command or 'any folder of PATH'}", fix)
    shown = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    number = re.search(r'version "(?:1\.)?(\d+)', shown.stderr)
    if number is None or int(number[1]) < JAVA:
        raise Wrong(f"{command} is {number[1] if number else 'no Java that runs'}", fix)
    return f"Java {number[1]} at {command}"


def python_and_packages(settings: Settings) -> str:
    wanted = [Requirement(text) for text in requires("churn_assets") or []]
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    versions = {each.name: version(each.name) for each in needed}
    wrong = [f"{each.name} {versions[each.name]}, not {each.specifier}" for each in needed if not _fits(each, versions)]
    if wrong:
        raise Wrong("; ".join(wrong), "run `make clean install`")
    return f"Python {sys.version.split()[0]}, {len(versions)} packages fit"


def xgboost(settings: Settings) -> str:
    try:
        module = import_module("xgboost")
    except Exception as broken:
        fix = "run `make install`; on a Mac also `brew install libomp`; or train with `estimator: gbt`"
        raise Wrong(f"cannot be loaded: {broken}", fix) from broken
    return f"version {module.__version__} can be loaded"


def _fits(wanted: Requirement, versions: dict[str, str]) -> bool:
    return wanted.specifier.contains(versions[wanted.name], prereleases=True)


def memory(settings: Settings) -> str:
    from churn_assets.resources.spark import InvalidMemoryError, memory_bytes

    try:
        size = memory_bytes(settings.driver_memory)
    except InvalidMemoryError as invalid:
        raise Wrong(f"SPARK_DRIVER_MEMORY is {settings.driver_memory!r}", "write it as 4g or 4096m") from invalid
    there = psutil.virtual_memory()
    free = f"{there.available / 1024**3:.1f} of {there.total / 1024**3:.1f} GiB free"
    observed = f"{settings.driver_memory} for the engine; {free}"
    if size > there.available:
        fix = "end other programs, or set SPARK_DRIVER_MEMORY lower"
        raise Wrong(observed, fix, is_warning=size <= there.total)
    return observed


def disk(settings: Settings) -> str:
    free = shutil.disk_usage(settings.project).free
    if free < FREE_BYTES:
        raise Wrong(
            f"{free / 1024**3:.1f} GiB free at {settings.project}", "free 2 GiB, or set CHURN_PROJECT elsewhere"
        )
    return f"{free / 1024**3:.1f} GiB free"


def lakehouse(settings: Settings) -> str:
    from pyarrow import ArrowInvalid

    from churn_assets.delta.commits import UnsafeStoreError, require_one_winner
    from churn_assets.delta.storage import filesystem_of, is_object_store

    if settings.tables == "catalog":
        place = _writable(settings.lakehouse, "CHURN_LAKEHOUSE")
        return f"managed tables of a catalog, by Spark's connector (not probed); files for people: {place}"
    if not is_object_store(settings.lakehouse):
        return _writable(settings.lakehouse, "CHURN_LAKEHOUSE")
    try:
        filesystem_of(settings.lakehouse)
        require_one_winner(settings.lakehouse)
    except UnsafeStoreError as unsafe:
        raise _wrong(unsafe) from unsafe
    except (ArrowInvalid, OSError) as refused:
        fix = "correct CHURN_LAKEHOUSE, or AWS_ENDPOINT_URL and the credentials of the environment"
        raise Wrong(f"{settings.lakehouse}: {refused}", fix) from refused
    return f"{settings.lakehouse}, which keeps the first of two writes"


def mlflow(settings: Settings) -> str:
    uri = settings.tracking_uri
    if uri.startswith("http"):
        try:
            urllib.request.urlopen(f"{public(uri).rstrip('/')}/health", timeout=LIMIT_SECONDS / 2).close()
        except OSError as silent:
            raise Wrong(f"{shown(uri)}: {silent}", "start that server, or correct MLFLOW_TRACKING_URI") from silent
    if is_database_server(uri):
        from sqlalchemy.exc import SQLAlchemyError

        try:
            require_database(uri)
        except ImportError as missing:
            raise Wrong(f"{shown(uri)}: {missing}", DRIVER_ADVICE) from missing
        except SQLAlchemyError as silent:
            said = str(silent).replace(uri, shown(uri)).splitlines()[0]
            raise Wrong(f"{shown(uri)}: {said}", "start that server, or correct MLFLOW_TRACKING_URI") from silent
    return f"{shown(uri)}; artifacts: {_writable(settings.artifact_root, 'CHURN_ARTIFACTS')}"


def _writable(place: str, variable: str) -> str:
    """A file is written and removed in the folder, or in the nearest one above it that exists."""
    if "://" in place:
        return f"{place} (not a folder: not probed)"
    above = next(folder for folder in (Path(place), *Path(place).parents) if folder.exists())
    try:
        list(above.iterdir())
        with tempfile.TemporaryFile(dir=above):
            return place
    except OSError as refused:
        raise Wrong(f"{above}: {refused.strerror}", f"make the folder writable, or set {variable}") from refused


def configuration(settings: Settings) -> str:
    from churn_assets.definitions import default_resources

    try:
        # Of the alerts' addresses their own probe tells.
        sources = default_resources(replace(settings, alert_webhook=None, alert_smtp=None))["sources"]
        observed = "policy.toml and sources.toml are valid"
        if sources.sources.demo is None:
            sources.state()
            observed = f"{observed}, the source tables are there (columns: not probed)"
        delivered = sources.sources.catalogue.delivered
        if delivered is not None and delivered.attestation is None:
            fix = "set attested_by and attested_reason under [features] in sources.toml (docs/feature_tables.md)"
            raise Wrong("nobody vouches for the feature table, so nothing will be trained on it", fix)
    except ChurnError as invalid:
        raise _wrong(invalid) from invalid
    return observed


def alerts(settings: Settings) -> str:
    from churn_assets.resources.alerts import check_addresses

    try:
        check_addresses(settings)
    except ChurnError as invalid:
        raise Wrong("; ".join(invalid.problems), invalid.next_step) from invalid
    places = {"a webhook": settings.alert_webhook, "e-mail": settings.alert_smtp}
    told = " and ".join(name for name, address in places.items() if address)
    return f"people are told by {told} (not probed)" if told else "nobody is told of failures"


def dagster_home(settings: Settings) -> str:
    import dagster as dg

    with dg.DagsterInstance.from_config(str(prepare_dagster_home(settings))) as instance:
        return f"{settings.dagster_home}, {instance.get_runs_count()} runs"


def ports(settings: Settings) -> str:
    taken = []
    for variable, default in (("DAGSTER_PORT", "3000"), ("MLFLOW_PORT", "5000")):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(os.environ.get(variable) or default)))
            except (OSError, ValueError, OverflowError):
                taken.append(f"{variable}={os.environ.get(variable) or default}")
    if taken:
        fix = "`make dev` may be running already; otherwise choose other ports by these variables"
        raise Wrong(f"cannot be used: {', '.join(taken)}", fix, is_warning=True)
    return "free"


PROBES: tuple[Probe, ...] = (
    engine,
    java,
    python_and_packages,
    xgboost,
    memory,
    disk,
    lakehouse,
    mlflow,
    configuration,
    alerts,
    dagster_home,
    ports,
)


# They ask this machine alone; the others may wait for a server or a disk elsewhere.
LOCAL = frozenset(probe.__name__ for probe in (engine, java, python_and_packages, xgboost, memory, ports))


def report(findings: Sequence[Finding]) -> str:
    """A line for each probe, and below what is wrong its fix."""
    lines = []
    for each in findings:
        word = "ok" if not each.fix else "warning" if each.is_warning else "WRONG"
        lines.append(f"{word:<8} {each.probe}: {each.observed}")
        if each.fix:
            lines.append(f"         fix: {each.fix}")
    return "\n".join(lines)


def main(settings: Settings) -> int:
    """Prints what was found; without a log file, because it has to work where none can be written."""
    # What libraries say of themselves when they are loaded is in other commands' log files; this one has none.
    warnings.simplefilter("ignore")
    findings = examine(settings)
    show(report(findings))
    return FAILED if any(each.fix and not each.is_warning for each in findings) else DONE

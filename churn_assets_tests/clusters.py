"""Spark as others run it, from the installed pyspark, on loopback and free ports; it ends with its context."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pyspark
import pytest

from churn_assets_tests.hosts import Host
from churn_assets_tests.processes import CHECKOUT, PATIENCE_SECONDS, free_port, wait_for

SPARK_HOME = Path(pyspark.__file__).parent
EVENTS, IVY = "events", ".ivy2.5.2"
GRACE_SECONDS = 30
# For few rows: few tasks, and JVMs that do not optimize code for long. The tests' local session has more partitions.
SMALL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
PROPERTIES = f"""
spark.ui.enabled false
spark.sql.shuffle.partitions 4
spark.default.parallelism 3
spark.driver.extraJavaOptions {SMALL_JVM}
spark.executor.extraJavaOptions {SMALL_JVM}
spark.eventLog.enabled true
spark.eventLog.compress false
spark.eventLog.rolling.enabled false
"""


def spark_environ(folder: Path) -> dict[str, str]:
    """The environment of Spark's own processes and of drivers; the workers' Python is this one."""
    (folder / EVENTS).mkdir(exist_ok=True)
    properties = f"{PROPERTIES}spark.eventLog.dir {(folder / EVENTS).as_uri()}\n"
    (folder / "spark-defaults.conf").write_text(properties, encoding="utf-8")
    java = {"JAVA_HOME": os.environ["JAVA_HOME"]} if "JAVA_HOME" in os.environ else {}
    return java | {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_CONF_DIR": str(folder),
        "SPARK_DAEMON_JAVA_OPTS": SMALL_JVM,
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }


@contextmanager
def running(log: Path, *command: str, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log`; it and all it started are ended at the end, whatever happened."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for signalled in (psutil.Process.terminate, psutil.Process.kill):
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    signalled(member)
            _, family = psutil.wait_procs(family, GRACE_SECONDS)
        process.wait(GRACE_SECONDS)
        assert not family, f"these did not end: {family}"


@contextmanager
def standalone_cluster(folder: Path, *, applications: int = 1) -> Iterator[str]:
    """The address of a master with two workers of one core and 1 GB each, for so many applications after each other."""
    environ, port, page_port = spark_environ(folder), free_port(), free_port()
    address, page = f"spark://127.0.0.1:{port}", f"http://127.0.0.1:{page_port}/json/"
    spark_class, deploy = str(SPARK_HOME / "bin" / "spark-class"), "org.apache.spark.deploy"
    place = ("--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page_port))
    with ExitStack() as stack:
        log = folder / "master.log"
        master = stack.enter_context(running(log, spark_class, f"{deploy}.master.Master", *place, environ=environ))
        wait_for("the master", lambda: _listens(master, log, page_port))
        for number in (1, 2):
            size = ("--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0")
            work = ("--work-dir", str(folder / f"worker-{number}"))
            command = (spark_class, f"{deploy}.worker.Worker", *size, *work, address)
            stack.enter_context(running(folder / f"worker-{number}.log", *command, environ=environ))
        wait_for("two workers", lambda: _state(page)["aliveworkers"] == 2)
        yield address
        wait_for("the end of what ran on it", lambda: not _state(page)["activeapps"])
        done = [(ended["name"], ended["state"], ended["cores"]) for ended in _state(page)["completedapps"]]
        assert done == [("churn_assets", "FINISHED", 2)] * applications


# A host that answers no more is given up after one minute, and not after two: on a busy machine one that is there has
# been silent for more than 20 seconds. XGBoost's tasks, which all begin together, wait no ten minutes for workers that
# are gone. A task of Python loads what it runs, in whose seconds it can be cut off.
IMPATIENT = """
spark.network.timeout 60s
spark.network.timeoutInterval 2s
spark.executor.heartbeatInterval 2s
spark.shuffle.io.maxRetries 1
spark.shuffle.io.retryWait 1s
spark.scheduler.barrier.maxConcurrentTasksCheck.interval 1s
spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures 5
spark.python.worker.reuse false
"""


def environ_on(host: Host, folder: Path) -> dict[str, str]:
    """As `spark_environ` for what runs on a host, whose own `folder` is."""
    daemons = f"{SMALL_JVM} -Dspark.worker.timeout=60 -Dspark.network.timeout=60s"
    of_host = {"SPARK_LOCAL_IP": host.address, "SPARK_DAEMON_JAVA_OPTS": daemons, "PYTHONPATH": str(CHECKOUT)}
    return spark_environ(folder) | of_host


@contextmanager
def cluster_on(master: Host, workers: Sequence[Host], folder: Path, logs: Path) -> Iterator[str]:
    """The address of a master with workers of one core and 1 GB each, every one on a host whose own `folder` is."""
    address, deploy = f"spark://{master.address}:7077", "org.apache.spark.deploy"
    size = ("--cores", "1", "--memory", "1g", "--work-dir", str(folder))
    started: list[tuple[Host, str, tuple[str, ...]]] = [(master, f"{deploy}.master.Master", ("--port", "7077"))]
    started += [(worker, f"{deploy}.worker.Worker", (*size, address)) for worker in workers]
    with ExitStack() as stack:
        for host, daemon, words in started:
            command = (*host.within, str(SPARK_HOME / "bin" / "spark-class"), daemon, "--host", host.address, *words)
            environ = environ_on(host, folder)
            stack.enter_context(running(logs / f"spark-on-{host.address}.log", *command, environ=environ))
        yield address


@contextmanager
def connect_server(folder: Path, master: str) -> Iterator[str]:
    """The address of a Spark Connect server that is the driver of an application of `master`."""
    port, log = free_port(), folder / "connect.log"
    settings = {"spark.connect.grpc.binding.address": "127.0.0.1", "spark.connect.grpc.binding.port": str(port)}
    given = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    size = ("--master", master, "--name", "churn_assets", "--driver-memory", "2g")
    server = ("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal")
    submit = (str(SPARK_HOME / "bin" / "spark-submit"), *size, *given, *server)
    with running(log, *submit, environ=spark_environ(folder)) as process:
        wait_for("the Spark Connect server", lambda: _listens(process, log, port))
        yield f"sc://127.0.0.1:{port}"


def _listens(process: subprocess.Popen[bytes], log: Path, port: int) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")
    return any(
        found.status == psutil.CONN_LISTEN and found.laddr.port == port
        for found in psutil.Process(process.pid).net_connections(kind="tcp")
    )


def _state(page: str) -> dict[str, Any]:
    with urlopen(page) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def rows_learned(folder: Path) -> list[dict[str, int]]:
    """Of each stage whose tasks wait for each other, as XGBoost's do: the rows that each executor was given.

    folder: of the environment of the application, the first that ran on the cluster.
    """
    events = _events(folder)
    found: dict[int, dict[str, int]] = {stage["Stage ID"]: {} for stage in _barrier_stages(events)}
    for event in events:
        if event["Event"] == "SparkListenerTaskEnd" and event["Stage ID"] in found:
            executor, of = event["Task Info"]["Executor ID"], found[event["Stage ID"]]
            rows = event["Task Metrics"]["Shuffle Read Metrics"]["Total Records Read"]
            of[executor] = of.get(executor, 0) + rows
    return [*found.values()]


def ends_of_fits(folder: Path) -> list[str]:
    """What ended each attempt of a stage whose tasks wait for each other, "" what it was to do. folder: as above."""
    return [stage.get("Failure Reason", "") for stage in _barrier_stages(_events(folder))]


def executors_lost(folder: Path) -> int:
    return sum(event["Event"] == "SparkListenerExecutorRemoved" for event in _events(folder))


def _barrier_stages(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    stages = [event["Stage Info"] for event in events if event["Event"] == "SparkListenerStageCompleted"]
    return [stage for stage in stages if any(rows["Barrier"] for rows in stage["RDD Info"])]


def _events(folder: Path) -> list[dict[str, Any]]:
    """Those of the first application."""
    log = min((folder / EVENTS).glob("app-*"))
    # Not by splitlines(): text in it has line breaks of other kinds.
    return [json.loads(line) for line in log.read_text(encoding="utf-8").rstrip("\n").split("\n")]


def jars_of(packages: Sequence[str], folder: Path) -> str:
    """The files that Ivy fetches for `packages`, as spark.jars takes them. Skips as `run_with_jars` does."""
    submit = (str(SPARK_HOME / "bin" / "spark-submit"), "--verbose", "--packages", ",".join(packages))
    ivy = f"spark.jars.ivy={Path.home() / IVY}"
    without = "spark.jars.excludes=software.amazon.awssdk:bundle"
    # Any class of Spark's own that only says something.
    told = ("--class", "org.apache.hadoop.util.VersionInfo", "spark-internal")
    done = subprocess.run(
        [*submit, "--conf", ivy, "--conf", without, *told],
        env=spark_environ(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    _skip_without_registry(done.stderr, packages[0])
    assert done.returncode == 0, done.stderr[-4000:]
    (jars,) = re.findall(r"^\(spark\.jars,(.*)\)$", done.stderr, re.MULTILINE)
    return str(jars)


def _skip_without_registry(said: str, packages: str) -> None:
    if "unresolved dependency" in said and not os.environ.get("CI"):
        pytest.skip(f"{packages} cannot be had from a registry of Java packages")


def run_with_jars(script: str, defaults: str, folder: Path, packages: str, **environ: str) -> None:
    """Runs `script`, whose last words are "all of it", on local Spark with the properties `defaults`.

    Ivy fetches `packages`. Where there is no registry to fetch them from the test is skipped, and fails in CI.
    """
    conf = folder / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text(defaults, encoding="utf-8")
    places = {"SPARK_CONF_DIR": str(conf), "CHURN_PROJECT": str(folder), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=spark_environ(folder) | places | {"CHURN_ENGINE": "local"} | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    _skip_without_registry(done.stderr, packages)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "all of it"

"""The Spark session, as dagster-pyspark's lazy resource: no JVM until an asset asks for one."""

import os
import sys
from contextlib import suppress
from threading import Thread

from dagster_pyspark import LazyPySparkResource

from churn_assets.resources.class_archive import Recording, using_options
from churn_assets.resources.settings import Settings

# Most of a run is code that runs a few times: with ten times the JVM's own thresholds only what stays hot is optimized,
# and the cores do the work meanwhile (docs/decisions/0017).
LOCAL_JVM = (
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000 "
    "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000 -XX:+UseParallelGC"
)


def spark_config(settings: Settings, jvm: str) -> dict[str, str]:
    """Spark properties for these settings; `jvm`: the options of a local JVM.

    The session is UTC and writes timestamps as microseconds, because Delta knows no other timestamp and INT96 has no
    statistics. With Spark Connect only session properties are sent: the server owns its memory and its Python.
    """
    session = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Rows that lie together by customer are joined there, by customer and date (a sixth of the panel's time).
        "spark.sql.requireAllClusterKeysForCoPartition": "false",
    }
    if settings.spark_remote:
        return {"spark.remote": settings.spark_remote, **session}
    cluster = {
        "spark.master": settings.spark_master,
        "spark.app.name": "churn_assets",
        "spark.driver.memory": settings.driver_memory,
        "spark.ui.showConsoleProgress": "false",
    }
    if settings.spark_master.startswith("local"):
        cluster |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "16",
            "spark.driver.defaultJavaOptions": jvm,
        }
    return cluster | session


def spark_resource(settings: Settings, recording: Recording | None = None) -> LazyPySparkResource:
    """The lazy resource of these settings. recording: the archive of classes that its JVM is to make."""
    if settings.spark_master.startswith("local"):
        # PySpark reads this from the environment only; without it workers run whatever `python3` is on the PATH, which
        # has no pyarrow. On a cluster the workers' Python is not this one.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if settings.spark_remote:
        # A model still alive when the interpreter ends asks the server to forget it, and waits for an answer that can
        # no longer come (pyspark 4.3.0, 2026-11-25: a failed run still hung after 8 minutes). A client that is closed
        # asks nothing; only with this is it closed in time.
        os.environ.setdefault("SPARK_CONNECT_RELEASE_SESSION_ON_EXIT", "true")
    classes = using_options() if recording is None else recording.options
    return LazyPySparkResource(spark_config=spark_config(settings, f"{LOCAL_JVM} {classes}"))


def brief_spark_resource(settings: Settings) -> LazyPySparkResource:
    """The same for a command of seconds: a local JVM that neither optimizes code for long nor splits small tables."""
    pyspark = spark_resource(settings)
    if settings.spark_remote or not settings.spark_master.startswith("local"):
        return pyspark
    config = spark_config(settings, f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {using_options()}")
    return LazyPySparkResource(spark_config=config | {"spark.sql.shuffle.partitions": "2"})


def start_ahead(pyspark: LazyPySparkResource) -> None:
    """Starts the session in a thread of its own, so that this process can load what it runs while the JVM begins.

    Whoever asks for the session meanwhile waits for this one. What fails here fails again, and is told, there. With
    Spark Connect there is no JVM to wait for, and a session belongs to the thread that made it: none is started.
    """

    def start() -> None:
        # Told to nobody here: the process may be about to end without ever asking.
        with suppress(Exception):
            _ = pyspark.spark_session

    if "spark.remote" not in pyspark.spark_config:
        Thread(target=start, name="spark", daemon=True).start()

"""The session of the chosen engine, as dagster-pyspark's lazy resource: no engine until an asset asks for one."""

import os
import sys
from contextlib import suppress
from threading import Thread
from typing import Any, cast

from dagster_pyspark import LazyPySparkResource
from dagster_pyspark.resources import spark_session_from_config

from churn_assets.churn.errors import ChurnError
from churn_assets.delta.storage import spark_uri
from churn_assets.engines.addresses import shown, whole
from churn_assets.engines.choice import Engine, EngineName
from churn_assets.engines.conformance import require_conformant
from churn_assets.engines.sessions import ENGINE_KEY, expect_an_answer, name_errors
from churn_assets.resources.settings import Settings, engine_of

# Most of a run is code that runs a few times: with ten times the JVM's own thresholds only what stays hot is optimized,
# and the cores do the work meanwhile (docs/decisions/0017). No collector is named: beside another one, which a
# spark-defaults.conf or JAVA_TOOL_OPTIONS may name, the JVM would not start.
LOCAL_JVM = (
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000 "
    "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
)
# The session is UTC and writes timestamps as microseconds, because Delta knows no other timestamp and INT96 has no
# statistics.
SESSION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Rows that lie together by customer are joined there, by customer and date (a sixth of the panel's time).
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
    # Else each call of the API notes its line first: a search for IPython, and three questions to a JVM.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
}
UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


class InvalidMemoryError(ChurnError):
    """SPARK_DRIVER_MEMORY is no size."""


class EngineResource(LazyPySparkResource):
    """The lazy session of an engine that conforms; `sail_memory`: the bytes that Sail may use, where it is the engine.

    A token in a server's address is no part of the configuration, which Dagster stores: it is read from SPARK_REMOTE
    when the session begins.

    engine, address: as `Engine`. shared_folder: where the engine and this process both write, if not on this machine.
    """

    engine: str
    address: str
    shared_folder: str | None = None
    sail_memory: int | None = None

    def _init_session(self) -> None:
        if self._spark_session is not None:
            return
        if self.sail_memory is not None:
            from churn_assets.engines.sail import sail_address

            self.spark_config["spark.remote"] = sail_address(self.sail_memory)
        elif "spark.remote" in self.spark_config:
            self.spark_config["spark.remote"] = whole(self.spark_config["spark.remote"], "SPARK_REMOTE")
        session = spark_session_from_config(self.spark_config)
        engine = Engine(cast(EngineName, self.engine), whole(self.address, "SPARK_REMOTE"))
        require_conformant(session, engine, folder=self.shared_folder)
        if self.sail_memory is not None:
            expect_an_answer(session)
            name_errors(session, f"{self.sail_memory / UNITS['m']:.0f} MiB")
        # Only now: of an engine that was refused nobody has the session, whoever asks next.
        self._spark_session = session


def spark_resource(settings: Settings) -> EngineResource:
    """The lazy resource of the engine these settings choose. Raises UnknownEngineError."""
    engine = engine_of(settings)
    if engine.name == "local":
        # PySpark reads this from the environment only; without it workers run whatever `python3` is on the PATH, which
        # has no pyarrow. On a cluster the workers' Python is not this one.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if engine.name in ("sail", "connect"):
        # A model still alive when the interpreter ends asks the server to forget it, and waits for an answer that can
        # no longer come (pyspark 4.3.0, 2026-11-25: a failed run still hung after 8 minutes). A client that is closed
        # asks nothing; only with this is it closed in time.
        os.environ.setdefault("SPARK_CONNECT_RELEASE_SESSION_ON_EXIT", "true")
    memory = memory_bytes(settings.driver_memory) if engine.name == "sail" else None
    return EngineResource(
        spark_config=spark_config(engine, settings.driver_memory),
        engine=engine.name,
        address=shown(engine.address),
        shared_folder=spark_uri(settings.lakehouse) if engine.name in ("cluster", "connect") else None,
        sail_memory=memory,
    )


def start_ahead(pyspark: EngineResource) -> None:
    """Starts a JVM's session in a thread of its own, so that this process can load what it runs while the JVM begins.

    Whoever asks for the session meanwhile waits for this one. What fails here fails again, and is told, there. A server
    is not waited for, and its session belongs to the thread that made it: none is started.
    """

    def start() -> None:
        # Told to nobody here: the process may be about to end without ever asking.
        with suppress(Exception):
            _ = pyspark.spark_session

    if "spark.master" in pyspark.spark_config:
        Thread(target=start, name="spark", daemon=True).start()


def spark_config(engine: Engine, memory: str) -> dict[str, Any]:
    """Spark properties for this engine. Of a server only session properties are set: it owns its memory and Python."""
    if engine.name == "sail":
        return {ENGINE_KEY: "sail", **SESSION}
    if engine.name == "connect":
        return {"spark.remote": shown(engine.address), **SESSION}
    driver = {
        "spark.master": engine.address,
        "spark.app.name": "churn_assets",
        "spark.driver.memory": memory,
        "spark.ui.showConsoleProgress": "false",
    }
    if engine.name == "local":
        driver |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "16",
            "spark.driver.defaultJavaOptions": LOCAL_JVM,
        }
    return driver | SESSION


def memory_bytes(text: str) -> int:
    """SPARK_DRIVER_MEMORY, such as 4g or 512m, as Spark reads it. Raises InvalidMemoryError."""
    number, unit = text.strip().lower().removesuffix("b"), ""
    if number and number[-1] in UNITS:
        number, unit = number[:-1], number[-1]
    if not number.isdecimal() or int(number) == 0:
        raise InvalidMemoryError(f"SPARK_DRIVER_MEMORY is {text!r}.", next_step="write it as 4g or 4096m")
    return int(number) * UNITS[unit]

"""What is asked of a session before it is trusted: which engine answers it, and in which time zone.

How a session is made is not known here.
"""

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from churn_assets.churn.errors import ChurnError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Set by whoever starts a session on Sail; a Spark, of which nobody here knows what settings it takes, has none.
ENGINE_KEY = "spark.sql.churn_assets.engine"
# What all of Sail's errors of a full pool say, whatever their class (pysail 0.7.2).
POOL_IS_FULL = "for the total memory pool"
# What gRPC says of a server that is gone, after the last of its attempts.
IS_GONE = "StatusCode.UNAVAILABLE"


class NonUtcSessionError(ChurnError):
    """The session's time zone is not UTC, so dates and hours of its rows would be others."""


class EngineMemoryError(ChurnError):
    """A query needs more memory than the engine may use."""


class EngineEndedError(ChurnError):
    """The engine in this process answers no more."""


def is_sail(session: "SparkSession") -> bool:
    """Whether Sail answers this session, of whose answers only those known to equal Spark's are taken."""
    return session.conf.get(ENGINE_KEY, None) == "sail"


def in_utc(session: "SparkSession") -> "SparkSession":
    """The session. Raises NonUtcSessionError: as-of dates are UTC, and Sail answers in UTC whatever the zone."""
    zone = session.conf.get("spark.sql.session.timeZone", None)
    if zone not in ("UTC", "Etc/UTC"):
        raise NonUtcSessionError(
            f"The session's time zone is {zone}.",
            next_step="leave spark.sql.session.timeZone at UTC, as the project sets it",
        )
    return session


def engine_errors() -> tuple[type[Exception], ...]:
    """What is raised where an engine, or Arrow in its stead, cannot do what it was asked."""
    from pyarrow import ArrowInvalid
    from pyspark.errors import PySparkException

    # PySpark leaves exceptions of the JVM that it has no class for, such as that of a broken file, as py4j gives them.
    of_the_jvm = (sys.modules["py4j.protocol"].Py4JJavaError,) if "py4j.protocol" in sys.modules else ()
    return (PySparkException, ArrowInvalid, *of_the_jvm)


def reason_of(error: Exception) -> str:
    """The first line of what the engine says of an error."""
    reason = str(getattr(error, "java_exception", error)).strip()
    return reason.splitlines()[0] if reason else type(error).__name__


def name_errors(session: "SparkSession", limit: str) -> None:
    """Lets what a full pool ends in be an EngineMemoryError, and what a server that is gone an EngineEndedError.

    Wherever in the flow the query was asked for. limit: how much memory it may use, in words. Not public in pyspark
    (4.2.0), but the one place that all failures pass: else each `collect` of the flow would have to be one of ours.
    """
    client: Any = session.client
    raised = client._handle_error
    if getattr(raised, "is_naming", False):
        return

    def named(error: Exception) -> NoReturn:
        try:
            raised(error)
        except Exception as failed:  # Comes again as it is, unless it is of memory.
            if POOL_IS_FULL in str(failed):
                raise _out_of_memory(str(failed), limit) from failed
            if IS_GONE in str(failed):
                raise EngineEndedError(
                    "Sail, in this process, answers no more.",
                    next_step="the same command again, which starts another; its last words are in the log file",
                ) from failed
            raise
        raise error

    named.is_naming = True  # type: ignore[attr-defined]
    client._handle_error = named


def expect_an_answer(session: "SparkSession") -> None:
    """Lets what is asked of a server in this process fail seconds after its end: that one does not come back.

    Of itself pyspark (4.2.0) asks for ten minutes, as a server elsewhere may be started again.
    """
    from pyspark.sql.connect.client.retries import DefaultPolicy

    session.client.set_retry_policies([DefaultPolicy(max_retries=4)])


def _out_of_memory(reason: str, limit: str) -> EngineMemoryError:
    return EngineMemoryError(
        f"Sail may use {limit} for its queries (SPARK_DRIVER_MEMORY), and this one needs more.",
        [reason.strip().splitlines()[0]],
        next_step="raise SPARK_DRIVER_MEMORY if this machine has more, or set CHURN_ENGINE=local (Spark, which moves "
        "what does not fit to the disk), or use a cluster (SPARK_MASTER)",
    )

"""What a failure says to people: the named error with its next step; of an error without a name, where to look.

Takes errors as Dagster keeps them, so that a terminal, an alert and a check say the same of one failure.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._utils.error import serializable_error_info_from_exc_info

from churn_assets.resources.settings import DRIVER_ADVICE

INTERRUPTED = dg.DagsterExecutionInterruptedError.__name__
OURS = "churn_assets."
DOCTOR = "`churn-assets doctor` shows what is wrong and its fix"
# Of errors that nobody here raises: what their words match, and what there is to do. The first that fits is told.
NEXT_STEPS = (
    (
        r"No space left on device|database or disk is full|File too large|quota exceeded|StorageFull",
        "free space on that disk, then the same again; nothing unfinished was kept",
    ),
    (r"No module named '(psycopg|dagster_postgres)", DRIVER_ADVICE),
    # What SQLite says of a disk that is full before its first page, and of one that fails.
    (r"disk I/O error", f"see whether the disk of that database is full, or fails: {DOCTOR}"),
    (r"database is locked", "let the other process that holds the database end, then the same again"),
    (
        r"^(mlflow|requests|urllib3)\.|Max retries exceeded",
        f"look at MLflow's store (MLFLOW_TRACKING_URI): {DOCTOR}",
    ),
    (
        r"^(sqlalchemy|sqlite3|alembic|psycopg2?|pymysql)\.",
        f"look at the databases of MLflow (MLFLOW_TRACKING_URI) and Dagster (DAGSTER_HOME): {DOCTOR}",
    ),
    (
        "Could not recover from a failed barrier",
        "a worker was lost while all learned together, and nothing was kept: the same again once it is back",
    ),
    (
        "BarrierJobSlotsNumberCheckFailed",
        "fewer tasks run at once than are to learn: the same again once every worker is there, or with fewer",
    ),
    (
        r"^py4j\.|^grpc\.|PySparkRuntimeError|SparkConnect|JAVA_GATEWAY|Connection refused|Connection reset|EOFError",
        f"the engine ended or does not answer; its last words are in the log file: {DOCTOR}",
    ),
    (r"^dagster\.|DAGSTER_HOME", f"look at DAGSTER_HOME and the run config: {DOCTOR}"),
    (
        r"^(PermissionError|File\w+Error|\w+DirectoryError|OSError|BlockingIOError)|FileSystem error|Generic URL error",
        f"look at that place, and at CHURN_PROJECT, CHURN_LAKEHOUSE and CHURN_ARTIFACTS: {DOCTOR}",
    ),
    (r"^pydantic", "correct the run config at that field"),
    (r"^MemoryError", "end other programs, or use a machine with more memory"),
)
ELSE = "look for the cause in the log file of the run, or on its page in Dagster"


def in_words(error: Any) -> str:
    """What `error` (Dagster's record of one) and its causes come to: what is wrong, and the line "Next step: …".

    The outermost error that has a name of ours, or is a `dg.Failure`, speaks for itself, whatever a library said below
    it; else the one that NEXT_STEPS knows, or the innermost, by its class and the first line of its words.
    """
    found = list(_chain(error))
    if not found:
        return f"no reason was recorded\nNext step: {ELSE}"
    named = next((each for each in found if _is_named(each)), None)
    if named is not None:
        words = named.message.strip().partition(": ")[2]
        return words if "Next step: " in words else f"{words}\nNext step: {ELSE}"
    # Dagster wraps what a step raises; of the rest an outer error knows what was asked for.
    candidates = [text for each in found if not (text := each.message.strip()).startswith("dagster.")]
    candidates = candidates or [found[-1].message.strip()]
    matches = ((text, step) for pattern, step in NEXT_STEPS for text in candidates if re.search(pattern, text))
    text, step = next(matches, (candidates[-1], ELSE))
    name, _, said = text.partition(": ")
    lines = [" ".join(line.split()) for line in said.splitlines()] or ["no reason was given"]
    # The first line of pydantic's only counts what is wrong.
    first = ": ".join(lines[:3]) if text.startswith("pydantic") else lines[0]
    return f"{name.rpartition('.')[2]}: {first}\nNext step: {step}"


def failure_in_words() -> str:
    """`in_words` of the exception that is being handled."""
    return in_words(serializable_error_info_from_exc_info(sys.exc_info()))


def is_interruption(error: Any) -> bool:
    """Whether somebody stopped it: Ctrl-C, or `kill`."""
    return any(each.cls_name == INTERRUPTED for each in _chain(error))


def _is_named(error: Any) -> bool:
    return bool(error.message.startswith(OURS)) or error.cls_name == dg.Failure.__name__


def _chain(error: Any) -> Iterator[Any]:
    """The error, what caused it, and so on to the innermost."""
    while error is not None:
        yield error
        error = error.cause or error.context

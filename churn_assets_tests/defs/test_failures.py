"""What a failure says: the named error first, else its innermost cause, and always a next step."""

import sys
from typing import Any

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from churn_assets.churn.errors import ChurnError, UnreadableSourceError
from churn_assets.defs.failures import failure_in_words, in_words, is_interruption


def recorded(*causes: BaseException) -> Any:
    """As Dagster records the first, which each next one caused."""
    try:
        raised(list(causes))
    except BaseException:  # noqa: BLE001 - an interruption is one
        return serializable_error_info_from_exc_info(sys.exc_info())


def raised(causes: list[BaseException]) -> None:
    outer = causes.pop(0)
    if not causes:
        raise outer
    try:
        raised(causes)
    except BaseException as inner:
        raise outer from inner


def test_the_named_error_is_told_with_its_next_step_and_not_what_a_library_said_below_it() -> None:
    named = UnreadableSourceError("Orders cannot be read.", ["no such column"], next_step="check select")
    error = recorded(RuntimeError("step failed"), named, ValueError("[UNRESOLVED_COLUMN] 42"))
    assert in_words(error) == "Orders cannot be read.\n  - no such column\nNext step: check select"


def test_of_two_named_errors_the_outer_one_knows_more() -> None:
    error = recorded(ChurnError("outer", next_step="this"), ChurnError("inner", next_step="that"))
    assert in_words(error) == "outer\nNext step: this"


def test_a_named_error_is_found_though_another_came_while_it_was_handled() -> None:
    try:
        try:
            raise ChurnError("the table is torn", next_step="write it again")
        except ChurnError:
            raise OSError("cannot clean up")  # noqa: B904 - what is tested
    except OSError:
        assert failure_in_words() == "the table is torn\nNext step: write it again"


def test_a_failure_that_an_asset_declares_speaks_for_itself() -> None:
    assert in_words(recorded(dg.Failure("Nothing yet. Next step: train"))) == "Nothing yet. Next step: train"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MlflowException("API request to http://x failed\nand more"), "MLflow's store (MLFLOW_TRACKING_URI)"),
        (OperationalError("select 1", {}, Exception("server closed the connection")), "the databases of MLflow"),
        (OperationalError("select 1", {}, Exception("database is locked")), "let the other process"),
        (OperationalError("select 1", {}, Exception("database or disk is full")), "free space"),
        (OperationalError("select 1", {}, Exception("disk I/O error")), "is full, or fails"),
        (OSError(28, "No space left on device", "/lake"), "free space"),
        (PermissionError(13, "Permission denied", "/lake"), "CHURN_LAKEHOUSE"),
        (ConnectionRefusedError(111, "Connection refused"), "the engine ended"),
        (RuntimeError("Job aborted: Could not recover from a failed barrier ResultStage"), "once it is back"),
        (
            RuntimeError("org.apache.spark.scheduler.BarrierJobSlotsNumberCheckFailed: [SPARK-24819]"),
            "once every worker is there",
        ),
        (dg.DagsterInvariantViolationError("$DAGSTER_HOME is not set"), "DAGSTER_HOME"),
        (MemoryError(), "more memory"),
        (ModuleNotFoundError("No module named 'psycopg'"), "postgresql+psycopg2://"),
        (ZeroDivisionError("division by zero"), "log file"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_without_a_name_of_ours_is_told_in_one_line_with_what_to_look_at(error: Exception, told: str) -> None:
    first, step = in_words(recorded(error)).splitlines()
    assert first.startswith(f"{type(error).__name__}: ")
    assert step.startswith("Next step: ")
    assert told in step


def test_without_a_record_it_still_says_where_to_look() -> None:
    assert in_words(None).startswith("no reason was recorded\nNext step: ")


def test_an_interruption_is_told_from_a_failure() -> None:
    stopped = dg.DagsterExecutionInterruptedError()
    assert is_interruption(recorded(RuntimeError("step"), stopped))
    assert not is_interruption(recorded(RuntimeError("step")))

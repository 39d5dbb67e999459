"""A session is asked before it is trusted, and what fails for want of memory says what to do."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from churn_assets.engines import sail
from churn_assets.engines.sessions import NonUtcSessionError, is_sail
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
from churn_assets_tests.conftest import ENGINE
from churn_assets_tests.processes import PATIENCE_SECONDS

BEYOND_THE_LIMIT = """
import sys
from pyspark.sql import functions as F
from churn_assets.engines.sessions import EngineMemoryError
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

settings = settings_from_env({"CHURN_ENGINE": "sail", "SPARK_DRIVER_MEMORY": "20m"})
lakehouse = LakehouseResource(root=sys.argv[1], pyspark=spark_resource(settings))
spread = lakehouse.spark.range(1_000_000).select("id", F.sha2(F.col("id").cast("string"), 256).alias("text"))
listed = spread.groupBy(F.col("id") % 3).agg(F.sort_array(F.collect_list("text")).alias("texts"))
asked = {
    "collected": lambda: listed.collect(),
    "written": lambda: lakehouse.write("things", listed),
    "joined": lambda: spread.join(spread.withColumnRenamed("id", "other"), "text").toArrow(),
}
for name, ask in asked.items():
    try:
        ask()
    except EngineMemoryError as named:
        print(name, str(named).replace("\\n", " "))
assert lakehouse.spark.range(3).count() == 3
assert not lakehouse.has("things")
"""

IDLE = """
import sys
import time
from churn_assets.engines import sail
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

sail.IDLE_SECONDS = int(sys.argv[1])
spark = spark_resource(settings_from_env({"CHURN_ENGINE": "sail"})).spark_session
assert spark.range(3).count() == 3
time.sleep(4)
print(spark.range(3).count())
"""

DIES = """
import os
import sys
from threading import Thread
import psutil
from churn_assets.defs.failures import failure_in_words
from churn_assets.engines import sail
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

def end():
    if sail._KEPT:
        # It waits for open sessions and takes no more calls meanwhile.
        Thread(target=sail._KEPT[0].stop, daemon=True).start()
    for process in psutil.Process().children(recursive=True):
        if process.status() != psutil.STATUS_ZOMBIE and "java" in process.name():
            process.kill()

def audit(rows):
    end()
    while True:
        rows.count()

lakehouse = LakehouseResource(root=sys.argv[1], pyspark=spark_resource(settings_from_env()))
lakehouse.write("things", lakehouse.spark.range(3))
try:
    lakehouse.write("things", lakehouse.spark.range(5), audit=audit)
except Exception:
    print(failure_in_words(), flush=True)
# Python would ask the engine to forget the session, for long.
os._exit(0)
"""


def test_a_session_knows_whether_sail_answers_it(spark: SparkSession) -> None:
    assert is_sail(spark) is (ENGINE["CHURN_ENGINE"] == "sail")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "+01:00", "America/New_York"])
def test_a_session_of_another_zone_is_refused_by_name(spark: SparkSession, tmp_path: Path, zone: str) -> None:
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=spark_resource(settings_from_env(ENGINE)))
    assert lakehouse.spark is not None
    spark.conf.set("spark.sql.session.timeZone", zone)
    try:
        with pytest.raises(NonUtcSessionError, match=rf"time zone is {zone.replace('+', '[+]')}(.|\n)*Next step"):
            _ = lakehouse.spark
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")


def test_a_query_beyond_the_memory_limit_ends_in_a_named_error_and_the_engine_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEYOND_THE_LIMIT, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "RUST_LOG": "error"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "SPARK_DRIVER_MEMORY" in line]
    assert [line.split()[0] for line in lines] == ["collected", "written", "joined"]
    assert all("20 MiB" in line and "CHURN_ENGINE=local" in line for line in lines)


def test_an_engine_that_ends_in_a_step_is_told_within_seconds_and_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    typed = [sys.executable, "-c", DIES, str(tmp_path)]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=120, env=os.environ | ENGINE, check=False)
    said = "answers no more" if ENGINE["CHURN_ENGINE"] == "sail" else "the engine ended or does not answer"
    assert said in done.stdout, done.stderr
    assert "Next step: " in done.stdout
    assert "last words are in the log file" in done.stdout
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["_delta_log"]
    assert len({file.parent for file in tmp_path.rglob("*.parquet")}) == 1
    # The next process asks another engine.
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=spark_resource(settings_from_env(ENGINE)))
    assert lakehouse.row_count("things", 0) == 3


def test_a_session_ends_by_being_idle_only_after_what_is_said_here(tmp_path: Path) -> None:
    def idle(seconds: int) -> subprocess.CompletedProcess[str]:
        command, environ = [sys.executable, "-c", IDLE, str(seconds)], {**os.environ, "CHURN_PROJECT": str(tmp_path)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert idle(sail.IDLE_SECONDS).stdout == "3\n"
    assert "is not running" in idle(1).stderr
    assert timedelta(seconds=sail.IDLE_SECONDS) > timedelta(weeks=4)

"""A registered version by its alias: without a JVM against Spark, in fresh processes that alternate, and per row.

The time to the first prediction runs from the start of Python to the score of one row. Read the ratio: the machine may
be shared. The model is of the default size, on made-up rows with the features of the catalogue.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model
from pyspark.sql import functions as F

from benchmarks.measuring import machine, plain_environment
from benchmarks.panels import spark_session, write_result
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.serving import flavor

PAIRS = 5
ROWS = 4_000
BATCH = 10_000
NAMES = [feature.name for feature in FEATURES]
URI = "models:/churn@production"
PACKAGES = ("mlflow", "numpy", "pandas", "pyspark")
# As a consumer would write them, each importing only what it needs.
WITHOUT_A_JVM = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
scored = model.predict(pandas.DataFrame([json.loads(sys.argv[2])]))
print("score", scored["churn_probability"][0], flush=True)
"""
WITH_SPARK = """
import json, sys
import mlflow.spark
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
spark = spark_resource(settings_from_env()).spark_session
model = mlflow.spark.load_model(sys.argv[1])
scored = model.transform(spark.createDataFrame([json.loads(sys.argv[2])]))
print("score", scored.first()["probability"][1], flush=True)
"""
SIDES = {"python_function, no JVM": WITHOUT_A_JVM, "Spark flavor": WITH_SPARK}


def main() -> None:
    with TemporaryDirectory(prefix="churn-bench-") as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        print("Training and logging a model …", flush=True)
        rows = _register(Path(folder))
        row = {name: float(rows[name].iloc[0]) for name in NAMES}
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for pair in range(PAIRS):
            scores = []
            for side, script in SIDES.items():
                taken, score = _first_score(script, row, Path(folder, f"{side}-{pair}.log"))
                seconds[side].append(taken)
                scores.append(score)
                print(f"  pair {pair + 1}: {side:<24} {taken:6.1f} s", flush=True)
            if abs(scores[0] - scores[1]) > 1e-9:
                sys.exit(f"the flavors disagree: {scores}")
        per_row = _per_row(rows)
    _report(seconds, per_row)


def _register(folder: Path) -> pd.DataFrame:
    """Logs a model of the default settings under the alias; returns the rows it was trained on."""
    spark = spark_session()
    rng = random.Random(1)
    values = [[rng.uniform(0, 100) for _ in NAMES] for _ in range(ROWS)]
    rows = pd.DataFrame(values, columns=NAMES)
    label = (rng.random() < 0.1 + value[7] / 200 for value in values)
    labelled = spark.createDataFrame(rows.assign(label=np.fromiter(label, dtype=float)))
    train = labelled.withColumns(
        {"customer_id": F.monotonically_increasing_id().cast("string"), "as_of": F.lit(1), "fold": F.lit(50)}
    )
    trees = fit_churn_model(train, NAMES, GradientBoosting(), rows=ROWS)
    reference = rows.head(20).assign(churn_probability=trees.probabilities(rows.head(20).to_numpy(float)))
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("serving", artifact_location=str(folder)))
    with mlflow.start_run() as run:
        info = Model.log(
            artifact_path=None,
            name="churn_pipeline_model",
            flavor=flavor,
            trees=trees,
            threshold=0.5,
            reference=reference,
            pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
        )
    client = mlflow.MlflowClient()
    client.create_registered_model("churn")
    registered = client.create_model_version("churn", info.model_uri, run_id=run.info.run_id)
    client.set_registered_model_alias("churn", "production", registered.version)
    # Its memory and its threads belong to the processes that are measured.
    spark.stop()
    return rows


def _first_score(script: str, row: dict[str, float], log: Path) -> tuple[float, float]:
    """Seconds until the score is there, not until the process has ended, and the score."""
    begun = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", script, URI, json.dumps(row)],
            env=plain_environment(MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(), CHURN_ENGINE="local"),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None, "it is piped"
        score = next((float(line.split()[1]) for line in process.stdout if line.startswith("score ")), None)
        seconds = time.perf_counter() - begun
        process.communicate()
    if score is None:
        sys.exit(f"a first prediction failed; the end of its output:\n{log.read_text()[-3000:]}")
    return seconds, score


def _per_row(rows: pd.DataFrame) -> dict[str, float]:
    """Microseconds per row: calls with one row and with BATCH rows, of the model alone and through MLflow."""
    served = mlflow.pyfunc.load_model(URI)
    alone = served.unwrap_python_model()
    one, batch = rows.head(1), pd.concat([rows] * (BATCH // ROWS + 1)).head(BATCH)
    return {
        "one row, the model alone": _microseconds(lambda: alone.predict(None, one), calls=2_000),
        "one row, through MLflow's PyFuncModel.predict": _microseconds(lambda: served.predict(one), calls=500),
        f"each of {BATCH:,} rows, the model alone": _microseconds(lambda: alone.predict(None, batch), calls=20) / BATCH,
        f"each of {BATCH:,} rows, through MLflow": _microseconds(lambda: served.predict(batch), calls=20) / BATCH,
    }


def _microseconds(call: Callable[[], object], *, calls: int) -> float:
    """The median over `calls` calls, after a first that does not count."""
    taken = []
    for _ in range(calls + 1):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return median(taken[1:]) * 1e6


def _report(seconds: dict[str, list[float]], per_row: dict[str, float]) -> None:
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
    settings = GradientBoosting()
    lines = [
        f"# Serving a version with and without a JVM, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{settings.iterations} trees of depth {settings.max_depth} over {len(NAMES)} features, loaded by alias from a",
        f"SQLite store. Time to the first prediction: {PAIRS} alternating pairs of fresh processes, medians, from the",
        "start of Python to the score of one row.",
        "",
        "| time to first prediction | |",
        "|-|-|",
        *[f"| {side} | {median(of_side):.1f} s |" for side, of_side in seconds.items()],
        f"| ratio within a pair | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
        "",
        "| once loaded, without a JVM | per row |",
        "|-|-|",
        *[f"| {what} | {taken:,.{0 if taken >= 10 else 1}f} µs |" for what, taken in per_row.items()],
        "",
        machine(*PACKAGES),
    ]
    write_result("serving", lines)

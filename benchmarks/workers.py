"""A fit by two workers of a cluster: how long it takes at 5 million rows, and how well it ranks on ten demos.

The cluster is a standalone one with two workers of one core. The demos' panels are made on Sail, each in a process of
its own; what is compared is the default model without the purchase model's half, whose rows are the same either way.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import machine
from benchmarks.panels import demo_panel, spark_session, write_result
from churn_assets.churn import splits
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.ranking import Ranking
from churn_assets.churn.xgboost_trees import collected
from churn_assets.demo.simulator import DemoSettings

ROWS, FILES = int(os.environ.get("BENCH_ROWS", "5_000_000")), 20
SEEDS = range(1, 1 + int(os.environ.get("BENCH_SEEDS", "10")))
FEATURES = FEATURE_SETS[ChurnPolicy().model.feature_set]
COLUMNS = ("customer_id", "as_of", *FEATURES, "label", "fold")


def main() -> None:
    from churn_assets_tests.clusters import spark_environ, standalone_cluster

    with TemporaryDirectory(prefix="churn-bench-") as name:
        folder = Path(name)
        _made_up(folder / "rows")
        alone = _in_a_process("alone", folder)
        for seed in SEEDS:
            _in_a_process(f"panel {seed}", folder)
        with standalone_cluster(folder) as address:
            environ = spark_environ(folder) | {"SPARK_MASTER": address, "SPARK_DRIVER_MEMORY": "1g"}
            found = _in_a_process("cluster", folder, **environ)
    lines = [
        f"# A fit by two workers of a cluster, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{ROWS:,} made-up rows of {len(FEATURES)} features, default hyperparameters: XGBoost alone on the rows in",
        "memory with two threads, and the flow's fit from Parquet by two workers of one core and one thread each.",
        "",
        "| | seconds | peak memory of the process |",
        "|-|-|-|",
        f"| XGBoost alone, rows in memory | {alone['seconds']:.0f} | {alone['peak']:,.0f} MB |",
        f"| two workers, from Parquet | {found['seconds']:.0f} | {found['peak']:,.0f} MB |",
        f"| ratio | {found['seconds'] / alone['seconds']:.2f} | |",
        "",
        f"Rank of the default demo's test customers (PR-AUC), {len(SEEDS)} seeds: this process, two workers.",
        "",
        "| seed | this process | two workers | difference |",
        "|-|-|-|-|",
        *[f"| {seed} | {one:.4f} | {two:.4f} | {two - one:+.4f} |" for seed, one, two in found["ranked"]],
        "",
        machine("pyspark", "xgboost-cpu"),
    ]
    write_result("workers", lines)


def _in_a_process(what: str, folder: Path, **environ: str) -> dict[str, Any]:
    typed = [sys.executable, "-c", "import sys; from benchmarks.workers import part; part(*sys.argv[1:])", what]
    done = subprocess.run(
        [*typed, str(folder)], env=os.environ | environ, check=True, stdout=subprocess.PIPE, text=True
    )
    print(f"  {what}: {done.stdout.splitlines()[-1]}", flush=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def part(what: str, folder: str) -> None:
    """One side, in its own process; what it found is the last line that it prints."""
    name, _, seed = what.partition(" ")
    found: dict[str, Any] = {"alone": _alone, "panel": _panel, "cluster": _cluster}[name](Path(folder), seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak": peak, **found}))


def _made_up(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(FILES):
        rows = ROWS // FILES
        values = random.gamma(2.0, 1.0, (rows, len(FEATURES))).astype(np.float32).astype(np.float64)
        margin = values[:, 0] - values[:, 1] * values[:, 2] / 2 - 1
        table: dict[str, Any] = {name: values[:, at] for at, name in enumerate(FEATURES)}
        table |= {"label": (random.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.float64)}
        table |= {"customer_id": [f"C{number:02}{at:08}" for at in range(rows)]}
        columns = pa.table(table | {"as_of": pa.array([20_000] * rows, pa.date32()), "fold": pa.array([0] * rows)})
        pq.write_table(columns, folder / f"{number:02}.parquet")


def _alone(folder: Path, _: str) -> dict[str, Any]:
    import xgboost

    table = pq.read_table(folder / "rows", columns=[*FEATURES, "label"])
    values = np.column_stack([table[name].to_numpy().astype(np.float32) for name in FEATURES])
    labels = table["label"].to_numpy().astype(np.float32)
    del table
    begun, settings, share = time.perf_counter(), GradientBoosting(), float(labels.mean())
    params: dict[str, Any] = {"max_depth": settings.max_depth, "learning_rate": settings.step_size, "base_score": share}
    params |= {"min_child_weight": settings.min_leaf_share * len(labels) * share * (1 - share), "nthread": 2}
    params |= {"colsample_bynode": settings.feature_share, "objective": "binary:logistic"}
    xgboost.train(params, xgboost.QuantileDMatrix(values, labels, nthread=2), settings.iterations)
    return {"seconds": time.perf_counter() - begun}


def _panel(folder: Path, seed: str) -> dict[str, Any]:
    policy = ChurnPolicy()
    with demo_panel(spark_session("sail"), DemoSettings(seed=int(seed)), policy) as built:
        dates = splits.split_dates(built.panel, policy)
        train, test = splits.train_rows(built.panel, dates, policy), splits.held_out_rows(built.panel, dates, policy)
        train.select(*COLUMNS).write.parquet(str(folder / f"train-{seed}"))
        test.select(*[name for name in COLUMNS if name != "fold"]).write.parquet(str(folder / f"test-{seed}"))
    return {}


def _cluster(folder: Path, _: str) -> dict[str, Any]:
    from churn_assets.resources.settings import settings_from_env
    from churn_assets.resources.spark import spark_resource

    spark, settings = spark_resource(settings_from_env()).spark_session, GradientBoosting(workers=2)
    few = spark.read.parquet(str(folder / "rows" / "00.parquet")).limit(10_000)
    # What JVMs and libraries load once.
    fit_churn_model(few, FEATURES, settings, rows=10_000)
    begun = time.perf_counter()
    fit_churn_model(spark.read.parquet(str(folder / "rows")), FEATURES, settings, rows=ROWS)
    seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ranked = []
    for seed in SEEDS:
        train, test = (spark.read.parquet(str(folder / f"{name}-{seed}")) for name in ("train", "test"))
        rows = collected(test, FEATURES)
        found = [
            fit_churn_model(train, FEATURES, replace(settings, workers=workers), rows=train.count())
            for workers in (1, 2)
        ]
        ranked.append([seed, *[_pr_auc(model.probabilities(rows.values), rows.labels) for model in found]])
    return {"seconds": seconds, "peak": peak, "ranked": ranked}


def _pr_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(Ranking.of(scores, labels).average_precision(np.ones((1, len(labels))))[0])

"""The feature sets against each other on the demo and on real orders: paired differences of cross-fitted scores."""

import os
from datetime import UTC, datetime
from functools import partial, reduce

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from benchmarks.panels import demo_panel, example_panel, spark_session, write_result
from churn_assets.churn import splits
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.intervals import bootstrap, percentile_interval
from churn_assets.churn.models import GradientBoosting, crossfitted
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.ranking import Ranking
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

METRICS = {"PR-AUC": Ranking.average_precision, "ROC-AUC": Ranking.roc_auc}


def main() -> None:
    spark = spark_session()
    lines = [
        f"# Feature sets, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "Every customer of the test date scored by a model that never saw that customer (five folds), shipped",
        "settings. Differences are paired over resampled customers, with 95 % intervals; `total_orders` is that count",
        "alone.",
        "",
        "| data | customers | scores | PR-AUC | difference to `seed` | ROC-AUC | difference to `seed` |",
        "|-|-|-|-|-|-|-|",
    ]
    policy = load_policy(CHECKOUT / "policy.toml")
    with demo_panel(spark, DemoSettings(campaign=None), policy) as built:
        lines += _lines("default demo", built.panel, policy)
    if os.environ.get("UCI_ONLINE_RETAIL"):
        policy = load_policy(CHECKOUT / "examples" / "uci_online_retail" / "policy.toml")
        with example_panel(spark, "uci_online_retail", policy) as built:
            lines += _lines("UCI Online Retail", built.panel, policy)
    else:
        print("UCI Online Retail is left out: set UCI_ONLINE_RETAIL to its Parquet file", flush=True)
    write_result("feature_sets", lines)


def _lines(data: str, panel: DataFrame, policy: ChurnPolicy) -> list[str]:
    scores = None
    for name in FEATURE_SETS:
        pooled = _pooled(panel, policy, name).rename(columns={"churn_probability": name})
        scores = pooled if scores is None else scores.merge(pooled[["customer_id", name]], on="customer_id")
    assert scores is not None
    scores = scores.sort_values("customer_id", ignore_index=True)
    scores["total_orders"] = -scores["total_orders"]
    labels = scores["label"].to_numpy(float)
    rankings = {name: Ranking.of(scores[name].to_numpy(float), labels) for name in [*FEATURE_SETS, "total_orders"]}
    cells: dict[str, list[str]] = {name: [] for name in rankings}
    for metric in METRICS.values():
        replicates = bootstrap({name: partial(metric, ranking) for name, ranking in rankings.items()}, len(labels))
        once = np.ones((1, len(labels)))
        values = {name: float(metric(ranking, once)[0]) for name, ranking in rankings.items()}
        for ranked in rankings:
            low, high = percentile_interval(replicates[ranked] - replicates["seed"], policy.gate.confidence)
            gain = "" if ranked == "seed" else f"{values[ranked] - values['seed']:+.3f} ({low:+.3f} to {high:+.3f})"
            cells[ranked] += [f"{values[ranked]:.3f}", gain]
    found = [f"| {data} | {len(labels):,} | `{name}` | {' | '.join(row)} |" for name, row in cells.items()]
    print("\n".join(found), flush=True)
    return found


def _pooled(panel: DataFrame, policy: ChurnPolicy, feature_set: str) -> pd.DataFrame:
    model = policy.model.model_copy(update={"feature_set": feature_set})
    asked = policy.model_copy(update={"model": model})
    dates = splits.split_dates(panel, asked)
    folds = [
        crossfitted(panel, dates, GradientBoosting(), asked, crossfit_fold) for crossfit_fold in splits.CROSSFIT_FOLDS
    ]
    pooled = reduce(DataFrame.unionByName, folds)
    return pooled.select("customer_id", "label", "total_orders", "churn_probability").toPandas()

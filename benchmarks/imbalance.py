"""What class weights do to ranking, calibration and alerts at 10 %, 2 % and 0.5 % churn; cross-fitted scores."""

from datetime import UTC, datetime
from functools import reduce

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from benchmarks.panels import demo_panel, spark_session, write_result
from churn_assets.churn import splits
from churn_assets.churn.evaluation import Figures, figures
from churn_assets.churn.intervals import Estimate
from churn_assets.churn.models import GradientBoosting, crossfitted
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

PREVALENCES = (0.10, 0.02, 0.005)
WEIGHTS = ("none", "balanced")


def main() -> None:
    spark, policy = spark_session(), load_policy(CHECKOUT / "policy.toml")
    lines = [
        f"# Class weights, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The demo with 12,000 customers at three prevalences; every customer of the test date scored by a model that",
        "never saw that customer (five folds), shipped settings. Alerts: the highest-scored, as many as the",
        f"budget of {policy.alerts.budget:.0%} allows, ties broken by customer. Predicted ÷ observed: the mean score",
        "over the share of churners, 1 where scores are probabilities. 95 % intervals.",
        "",
        "| churn | weights | churners | PR-AUC | ROC-AUC | Brier score | predicted ÷ observed | recall within budget |",
        "|-|-|-|-|-|-|-|-|",
    ]
    for prevalence in PREVALENCES:
        with demo_panel(spark, DemoSettings(prevalence=prevalence, campaign=None), policy) as built:
            for weights in WEIGHTS:
                model = policy.model.model_copy(update={"class_weights": weights})
                pooled = _pooled(built.panel, policy.model_copy(update={"model": model}))
                lines.append(_line(prevalence, weights, pooled, policy))
                print(lines[-1], flush=True)
    write_result("imbalance", lines)


def _pooled(panel: DataFrame, policy: ChurnPolicy) -> pd.DataFrame:
    dates = splits.split_dates(panel, policy)
    folds = [
        crossfitted(panel, dates, GradientBoosting(), policy, crossfit_fold) for crossfit_fold in splits.CROSSFIT_FOLDS
    ]
    return reduce(DataFrame.unionByName, folds).select("customer_id", "label", "churn_probability").toPandas()


def _line(prevalence: float, weights: str, pooled: pd.DataFrame, policy: ChurnPolicy) -> str:
    ordered = pooled.sort_values(["churn_probability", "customer_id"], ascending=[False, True], ignore_index=True)
    is_alert = np.arange(len(ordered)) < int(policy.alerts.budget * len(ordered))
    labels, scores = ordered["label"].to_numpy(float), ordered["churn_probability"].to_numpy(float)
    found: Figures = figures(labels, scores, is_alert, policy.gate.confidence)
    shown = [_shown(figure) for figure in (found.pr_auc, found.roc_auc, found.brier)]
    ratio = scores.mean() / labels.mean()
    return (
        f"| {prevalence:.1%} | {weights} | {found.churners:,} of {found.rows:,} | {' | '.join(shown)} | {ratio:.2f} | "
        f"{_shown(found.recall)} |"
    )


def _shown(figure: Estimate) -> str:
    return (
        f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})" if figure.low is not None else f"{figure.value}"
    )

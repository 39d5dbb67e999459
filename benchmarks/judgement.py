"""What fit and judgement cost together, by how the gate judges: CPU of one process, the demo's rows, alternating.

One engine in this process, so that its work is counted too; nothing is logged and no picture drawn.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime
from statistics import median
from time import process_time

import numpy as np
import pandas as pd

from benchmarks.measuring import machine, rounds
from benchmarks.panels import StudyPanel, demo_panel, spark_session, write_result
from churn_assets.churn import judged, splits
from churn_assets.churn.censored import censored_rows
from churn_assets.churn.evaluation import Evaluation, judge
from churn_assets.churn.influences import influences
from churn_assets.churn.models import GradientBoosting, train_churn_model
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import histories_of, history_columns, history_rows
from churn_assets.churn.purchase_model import PurchaseModel, fit_purchase_model
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

ROUNDS = 3
SETTINGS = GradientBoosting()
WAYS = ("holdout", "crossfit", "backtest")
STEPS = ("purchase models", "fit", "scores and further fits", "judgement", "influences")
PACKAGES = ("numpy", "pysail", "pyspark", "scipy", "xgboost-cpu")
Clock = Callable[[str], None]


def main() -> None:
    spark, policy = spark_session(), load_policy(CHECKOUT / "policy.toml")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    verdicts: dict[str, Evaluation] = {}
    with demo_panel(spark, DemoSettings(), policy) as built:
        # The first is for what a process does once.
        for place in range(rounds(ROUNDS) + 1):
            for way in WAYS:
                seconds, evaluation = _seconds(built, _judging_by(way, policy))
                told = "  ".join(f"{step} {cpu:.2f}" for step, cpu in seconds.items())
                print(f"  {way}: {sum(seconds.values()):.2f} s  {told}", flush=True)
                if place:
                    found[way].append(seconds)
                    assert verdicts.setdefault(way, evaluation) == evaluation, "the same rows give the same figures"
    _report(found, verdicts)


def _judging_by(way: str, policy: ChurnPolicy) -> ChurnPolicy:
    return policy.model_copy(update={"gate": policy.gate.model_copy(update={"evaluation": way})})


def _seconds(built: StudyPanel, policy: ChurnPolicy) -> tuple[dict[str, float], Evaluation]:
    """The CPU seconds of each of STEPS, and what came of them."""
    seconds: dict[str, float] = {}
    begun = process_time()

    def clock(step: str) -> None:
        nonlocal begun
        seconds[step], begun = process_time() - begun, process_time()

    dates = splits.split_dates(built.panel, policy)
    every = splits.backtest_dates(built.calendar.labelled(policy.windows.outcome_days), policy)
    every = every if policy.gate.evaluation == "backtest" else [dates]
    known = history_rows(built.silver, [each.test for each in every], policy.windows.eligibility_days)
    purchases = {day: fit_purchase_model(histories_of(rows)) for day, rows in known.items()}
    priors = {day: PurchasePrior(fitted, policy.windows.outcome_days) for day, fitted in purchases.items()}
    clock("purchase models")
    train, prior = splits.train_rows(built.panel, dates, policy), priors[dates.test]
    current = splits.current_rows(built.panel, dates, policy)
    model = train_churn_model(
        train,
        current,
        SETTINGS,
        policy,
        prior=prior,
        censored=censored_rows(built.panel, dates, policy, prior),
    )
    clock("fit")
    rows = judged.held_out_scores(model.trees, splits.held_out_rows(built.panel, dates, policy), model.threshold_value)
    if policy.gate.evaluation == "crossfit":
        rows = judged.crossfit_scores(rows, built.panel, SETTINGS, policy, prior=prior)
    if policy.gate.evaluation == "backtest":
        rows = judged.backtest_scores(rows, built.panel, every, SETTINGS, policy, prior_at=priors.__getitem__)
    rule = built.snapshots.select("customer_id", "as_of", "risk_score", *history_columns())
    ranked = _with_purchases(rows.join(rule, ["customer_id", "as_of"], "left").toPandas(), purchases, policy)
    clock("scores and further fits")
    scored = judged.scored(ranked, model.trees.features, built.segments)
    evaluation = judge(scored, policy, has_threshold=model.threshold is not None)
    clock("judgement")
    influences(model.trees, np.column_stack([scored.features[name] for name in model.trees.features]))
    clock("influences")
    return seconds, evaluation


def _with_purchases(ranked: pd.DataFrame, purchases: dict[date, PurchaseModel], policy: ChurnPolicy) -> pd.DataFrame:
    days, chances = ranked["as_of"].to_numpy(dtype="datetime64[D]"), np.full(len(ranked), np.nan)
    for day, fitted in purchases.items():
        is_of_day = days == np.datetime64(day)
        chances[is_of_day] = fitted.no_purchase(histories_of(ranked[is_of_day]), policy.windows.outcome_days)
    return ranked.assign(no_purchase=chances)


def _report(found: dict[str, list[dict[str, float]]], verdicts: dict[str, Evaluation]) -> None:
    totals = {way: median(sum(each.values()) for each in of_way) for way, of_way in found.items()}
    lines = [
        f"# CPU of fit and judgement together, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The default demo's rows under the shipped policy but for how it judges; CPU seconds of one process, its",
        "engine (Sail) included, medians of alternating rounds after one that is not counted. Without what both log.",
        "",
        f"| judged by | rows judged | {' | '.join(STEPS)} | all | over holdout |",
        f"|{'-|' * (len(STEPS) + 4)}",
    ]
    for way, of_way in found.items():
        steps = " | ".join(f"{median(each[step] for each in of_way):.2f}" for step in STEPS)
        ratio = totals[way] / totals["holdout"]
        lines.append(f"| `{way}` | {verdicts[way].figures.rows:,} | {steps} | {totals[way]:.2f} s | {ratio:.2f} |")
    write_result("judgement", [*lines, "", machine(*PACKAGES)])

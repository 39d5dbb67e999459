"""How often the gate lets a model pass: 20 demos without any signal, 20 of the default strength.

A PASS is counted as promoted; that nothing else promotes is what the tests hold the flow to. Each demo is judged in
every way that gate.evaluation knows. Takes about an hour on two cores.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.panels import demo_panel, spark_session, write_result
from churn_assets.churn import judged, splits
from churn_assets.churn.censored import censored_rows
from churn_assets.churn.evaluation import Evaluation, Verdict, judge
from churn_assets.churn.feasibility import feasibility, label_feasibility
from churn_assets.churn.models import GradientBoosting, train_churn_model
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import histories_of, history_columns, history_rows
from churn_assets.churn.purchase_model import fit_purchase_model
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

SEEDS = range(1, 21)
# Signal strength -> customers. Luck shows most in a small demo; skill needs the default one to be proved.
CUSTOMERS = {0.0: 2_000, 1.0: 12_000}
SETTINGS = GradientBoosting()
THREADS = 2
JUDGED_ON = {
    "holdout": "test fold",
    "crossfit": "all customers, cross-fitted",
    "backtest": "several dates, a fifth of the customers at each",
}


@dataclass(frozen=True)
class Trial:
    """One demo through the gate; evaluations: by how it was judged, None where it was not feasible."""

    strength: float
    seed: int
    evaluations: dict[str, Evaluation | None]


def main() -> None:
    spark, policy = spark_session(), load_policy(CHECKOUT / "policy.toml")
    wanted = [(strength, seed) for strength in sorted(CUSTOMERS, reverse=True) for seed in SEEDS]
    with ThreadPoolExecutor(THREADS) as pool:
        trials = list(pool.map(lambda trial: _trial(spark, policy, *trial), wanted))
    _report(trials, policy)


def _trial(spark: SparkSession, policy: ChurnPolicy, strength: float, seed: int) -> Trial:
    with demo_panel(
        spark, DemoSettings(seed=seed, signal_strength=strength, customers=CUSTOMERS[strength], campaign=None), policy
    ) as built:
        dates = splits.split_dates(built.panel, policy)
        train = splits.train_rows(built.panel, dates, policy)
        backtest = splits.backtest_dates(built.calendar.labelled(policy.windows.outcome_days), policy)
        known = history_rows(built.silver, [each.test for each in backtest], policy.windows.eligibility_days)
        purchases = {day: fit_purchase_model(histories_of(rows)) for day, rows in known.items()}
        priors = {day: PurchasePrior(fitted, policy.windows.outcome_days) for day, fitted in purchases.items()}
        prior = priors[dates.test]
        model = train_churn_model(
            train,
            splits.current_rows(built.panel, dates, policy),
            SETTINGS,
            policy,
            prior=prior,
            censored=censored_rows(built.panel, dates, policy, prior),
        )
        test = splits.held_out_rows(built.panel, dates, policy)
        held_out = judged.held_out_scores(model.trees, test, model.threshold_value).persist()
        rule = built.snapshots.select("customer_id", "as_of", "risk_score", *history_columns())
        pooled = judged.crossfit_scores(held_out, built.panel, SETTINGS, policy, prior=prior)
        over_dates = judged.backtest_scores(
            held_out, built.panel, backtest, SETTINGS, policy, prior_at=lambda day: priors[day]
        )
        found: dict[str, Evaluation | None] = {}
        counted = label_feasibility(built.snapshots, built.silver, built.calendar, policy)
        chosen = next(candidate for candidate in counted if candidate.is_chosen)
        for evaluation, rows in zip(JUDGED_ON, (held_out, pooled, over_dates), strict=True):
            gate = policy.gate.model_copy(update={"evaluation": evaluation})
            asked = policy.model_copy(update={"gate": gate})
            counted_again = feasibility(
                asked,
                asked,
                as_of=chosen.as_of,
                eligible=chosen.eligible,
                churners=chosen.churners,
                judged_dates=len(backtest),
            )
            if not counted_again.is_feasible:
                found[evaluation] = None
                continue
            ranked = rows.join(rule, ["customer_id", "as_of"], "left").toPandas()
            days = ranked["as_of"].to_numpy(dtype="datetime64[D]")
            ranked["no_purchase"] = np.nan
            for day, fitted in purchases.items():
                is_of_day = days == np.datetime64(day)
                chance = fitted.no_purchase(histories_of(ranked[is_of_day]), policy.windows.outcome_days)
                ranked.loc[is_of_day, "no_purchase"] = chance
            scored = judged.scored(ranked, model.trees.features, built.segments)
            found[evaluation] = judge(scored, asked, has_threshold=model.threshold is not None)
        held_out.unpersist()
    print(f"  strength {strength}, seed {seed}: {', '.join(map(_in_short, found.values()))}", flush=True)
    return Trial(strength, seed, found)


def _in_short(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "NOT FEASIBLE"
    missed = [reason for reason in evaluation.reasons if reason.startswith("missed")]
    dates = (
        f" at {sum(each.is_met for each in evaluation.dates)} of {len(evaluation.dates)}" if evaluation.dates else ""
    )
    return evaluation.verdict.value + dates + (f" ({'; '.join(missed)})" if missed else "")


def _report(trials: Sequence[Trial], policy: ChurnPolicy) -> None:
    lines = [
        f"# How often a model passes the gate, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"The demo with {len(SEEDS)} seeds at each signal strength, under the shipped policy but for how it judges;",
        f"as shipped that is {policy.gate.evaluation}. At strength 0 all customers are alike and churn is luck.",
        "",
        "| signal strength | customers | judged on | PASS | FAIL | not feasible or not evaluable |",
        "|-|-|-|-|-|-|",
    ]
    for strength in CUSTOMERS:
        for evaluation, judged_on in JUDGED_ON.items():
            of_kind = [trial.evaluations[evaluation] for trial in trials if trial.strength == strength]
            verdicts = [None if found is None else found.verdict for found in of_kind]
            passed, failed = verdicts.count(Verdict.PASS), verdicts.count(Verdict.FAIL)
            counted = f"{passed} | {failed} | {len(verdicts) - passed - failed}"
            lines.append(f"| {strength} | {CUSTOMERS[strength]:,} | {judged_on} (`{evaluation}`) | {counted} |")
    lines += ["", "What the models that failed missed:", ""]
    for trial in trials:
        for evaluation, found in trial.evaluations.items():
            if trial.strength > 0 and (found is None or found.verdict is not Verdict.PASS):
                lines.append(f"- strength {trial.strength}, seed {trial.seed}, {evaluation}: {_in_short(found)}")
    for evaluation in ("crossfit", "backtest"):
        figures = [
            found.figures
            for trial in trials
            if trial.strength == 1.0 and (found := trial.evaluations[evaluation]) is not None
        ]
        recalls = sorted(found.recall.value for found in figures if found.recall.value is not None)
        shares = sorted(found.alert_share.value for found in figures if found.alert_share.value is not None)
        lines += [
            "",
            f"At strength 1 by {evaluation}: recall {recalls[0]:.3f} to {recalls[-1]:.3f},",
            f"alerts {shares[0]:.1%} to {shares[-1]:.1%} of customers against a budget of {policy.alerts.budget:.0%}.",
        ]
    dates = [found.dates for trial in trials if trial.strength == 1.0 and (found := trial.evaluations["backtest"])]
    held = [sum(each.is_met for each in of_trial) for of_trial in dates]
    lines += ["", f"Dates that hold at strength 1: {held} of {[len(of_trial) for of_trial in dates]}."]
    write_result("gate", lines)

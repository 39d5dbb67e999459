"""How often the gate lets a model pass: 20 demos without any signal, 20 of the default strength.

A PASS is counted as promoted; that nothing else promotes is what the tests hold the flow to. Takes about an hour on
two cores.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import SparkSession

from benchmarks.panels import demo_panel, spark_session, write_result
from churn_assets.churn import judged, splits
from churn_assets.churn.evaluation import Evaluation, Verdict, judge
from churn_assets.churn.feasibility import feasibility, label_feasibility
from churn_assets.churn.models import GradientBoosting, train_churn_model
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import histories_of, history_columns, purchase_histories
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
EVALUATIONS = ("holdout", "crossfit")


@dataclass(frozen=True)
class Trial:
    """One demo through the gate; evaluations: by how it was judged, None where it was not feasible."""

    strength: float
    seed: int
    evaluations: dict[str, Evaluation | None]


def main() -> None:
    spark, policy = spark_session(), load_policy(CHECKOUT / "policy.toml")
    wanted = [(strength, seed) for seed in SEEDS for strength in CUSTOMERS]
    with ThreadPoolExecutor(THREADS) as pool:
        trials = list(pool.map(lambda trial: _trial(spark, policy, *trial), wanted))
    _report(trials, policy)


def _trial(spark: SparkSession, policy: ChurnPolicy, strength: float, seed: int) -> Trial:
    with demo_panel(
        spark, DemoSettings(seed=seed, signal_strength=strength, customers=CUSTOMERS[strength], campaign=None), policy
    ) as built:
        dates = splits.split_dates(built.panel, policy)
        train = splits.train_rows(built.panel, dates, policy).persist()
        purchases = fit_purchase_model(purchase_histories(built.silver, dates.test))
        prior = PurchasePrior(purchases, policy.windows.outcome_days)
        model = train_churn_model(
            train, splits.current_rows(built.panel, dates, policy), SETTINGS, policy, rows=train.count(), prior=prior
        )
        test = splits.held_out_rows(built.panel, dates, policy)
        held_out = judged.held_out_scores(model.trees, test, model.threshold_value).persist()
        rule = built.snapshots.select("customer_id", "as_of", "risk_score", *history_columns())
        pooled = judged.crossfit_scores(held_out, built.panel, SETTINGS, policy, prior=prior)
        found: dict[str, Evaluation | None] = {}
        counted = label_feasibility(built.snapshots, built.silver, built.calendar, policy)
        chosen = next(candidate for candidate in counted if candidate.is_chosen)
        for evaluation, rows in zip(EVALUATIONS, (held_out, pooled), strict=True):
            gate = policy.gate.model_copy(update={"evaluation": evaluation})
            asked = policy.model_copy(update={"gate": gate})
            counted_again = feasibility(
                asked, asked, as_of=chosen.as_of, eligible=chosen.eligible, churners=chosen.churners
            )
            if not counted_again.is_feasible:
                found[evaluation] = None
                continue
            ranked = rows.join(rule, ["customer_id", "as_of"], "left").toPandas()
            ranked["no_purchase"] = purchases.no_purchase(histories_of(ranked), policy.windows.outcome_days)
            scored = judged.scored(ranked, model.trees.features, built.segments)
            found[evaluation] = judge(scored, asked, has_threshold=model.threshold is not None)
        held_out.unpersist()
        train.unpersist()
    print(f"  strength {strength}, seed {seed}: {', '.join(map(_in_short, found.values()))}", flush=True)
    return Trial(strength, seed, found)


def _in_short(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "NOT FEASIBLE"
    missed = [reason for reason in evaluation.reasons if reason.startswith("missed")]
    return evaluation.verdict.value + (f" ({'; '.join(missed)})" if missed else "")


def _report(trials: Sequence[Trial], policy: ChurnPolicy) -> None:
    lines = [
        f"# How often a model passes the gate, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"The demo with {len(SEEDS)} seeds at each signal strength, under the shipped policy; judged on the test fold",
        "as shipped, and on all customers (gate.evaluation = crossfit). At strength 0 all customers are alike and",
        "churn is luck.",
        "",
        "| signal strength | customers | judged on | PASS | FAIL | not feasible or not evaluable |",
        "|-|-|-|-|-|-|",
    ]
    for strength in CUSTOMERS:
        for evaluation in EVALUATIONS:
            of_kind = [trial.evaluations[evaluation] for trial in trials if trial.strength == strength]
            verdicts = [None if found is None else found.verdict for found in of_kind]
            passed, failed = verdicts.count(Verdict.PASS), verdicts.count(Verdict.FAIL)
            judged_on = "test fold" if evaluation == "holdout" else "all customers, cross-fitted"
            counted = f"{passed} | {failed} | {len(verdicts) - passed - failed}"
            lines.append(f"| {strength} | {CUSTOMERS[strength]:,} | {judged_on} | {counted} |")
    lines += ["", "What the models that failed missed:", ""]
    for trial in trials:
        for evaluation, found in trial.evaluations.items():
            if trial.strength > 0 and (found is None or found.verdict is not Verdict.PASS):
                lines.append(f"- strength {trial.strength}, seed {trial.seed}, {evaluation}: {_in_short(found)}")
    figures = [
        found.figures
        for trial in trials
        if trial.strength == 1.0 and (found := trial.evaluations["crossfit"]) is not None
    ]
    recalls = sorted(found.recall.value for found in figures if found.recall.value is not None)
    shares = sorted(found.alert_share.value for found in figures if found.alert_share.value is not None)
    lines += [
        "",
        f"Cross-fitted at strength 1: recall {recalls[0]:.3f} to {recalls[-1]:.3f},",
        f"alerts {shares[0]:.1%} to {shares[-1]:.1%} of customers against a budget of {policy.alerts.budget:.0%}.",
    ]
    write_result("gate", lines)

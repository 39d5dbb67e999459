"""What the list earns whose threshold is chosen by profit, on the simulator's truth, against lists of fixed budgets.

20 demos; every customer of the test date is scored and alerted by a model that never saw that customer. What a list
earns is told by the chance with which each customer really leaves, which the simulator knows, and by the acceptance of
the actions, which is taken to be what [economics] says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import floor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.measuring import machine
from benchmarks.panels import StudyPanel, demo_panel, spark_session, write_result
from churn_assets.churn import splits
from churn_assets.churn.actions import expected_profits
from churn_assets.churn.censored import censored_rows, with_censored
from churn_assets.churn.earnings import earnings
from churn_assets.churn.evaluation import choose_threshold
from churn_assets.churn.intervals import Floats, Statistic, bootstrap, percentile_interval
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.churn.policy import Alerts, ChurnPolicy, Economics, Offer
from churn_assets.churn.purchase_histories import purchase_histories
from churn_assets.churn.purchase_model import fit_purchase_model
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.retention import retention_list
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

SEEDS = range(1, 21)
BUDGETS = (0.05, 0.10, 0.15, 0.20, 0.30)
# What the threshold by profit may use up; the fixed budgets are all within it.
MOST = 0.50
BY_PROFIT = "by profit"
SETTINGS = GradientBoosting()
KEYS = ["customer_id", "as_of"]
CALL = Offer(contact_cost=6.0, acceptance=0.30, weekly_capacity=40)
# As policy.toml shows it, and where each contact is a person's work.
CHEAP = {
    "personal call": CALL,
    "apology with free delivery": Offer(contact_cost=0.1, offer_cost=3.0, acceptance=0.20),
    "voucher": Offer(contact_cost=0.1, offer_cost=5.0, acceptance=0.20),
    "reminder": Offer(contact_cost=0.1, acceptance=0.05),
}
DEAR = {
    "personal call": CALL,
    "apology with free delivery": Offer(contact_cost=3.0, offer_cost=3.0, acceptance=0.20),
    "voucher": Offer(contact_cost=3.0, offer_cost=5.0, acceptance=0.20),
    "reminder": Offer(contact_cost=1.5, acceptance=0.05),
}
# With balanced class weights the scores are no probabilities, so what an action is expected to earn is too high.
SETTINGS_OF = {
    "cheap contacts": (Economics(margin=0.25, lifetime_days=180, actions=CHEAP), "none"),
    "dear contacts": (Economics(margin=0.25, lifetime_days=180, actions=DEAR), "none"),
    "dear contacts, balanced class weights": (Economics(margin=0.25, lifetime_days=180, actions=DEAR), "balanced"),
}


@dataclass(frozen=True)
class Trial:
    """One demo under one of SETTINGS_OF: what each customer's contact earns on the truth, 0 where there was none.

    By whose list: BY_PROFIT or a budget. alerted: of the customers. most_calls: on any of the lists.
    """

    seed: int
    economics: str
    earned: Mapping[object, Floats]
    alerted: Mapping[object, float]
    most_calls: int

    def differences(self) -> dict[float, tuple[float, float]]:
        """What the list by profit earns more than that of each budget, in all, and the upper end of its interval."""
        of = {str(budget): self.earned[BY_PROFIT] - self.earned[budget] for budget in BUDGETS}
        statistics = {name: _sum_of(difference) for name, difference in of.items()}
        drawn = bootstrap(statistics, len(self.earned[BY_PROFIT]))
        found = {}
        for budget in BUDGETS:
            high = percentile_interval(drawn[str(budget)], 0.95)[1]
            assert high is not None
            found[budget] = float(of[str(budget)].sum()), high
        return found


def _sum_of(values: Floats) -> Statistic:
    return lambda weights: (weights * values).sum(axis=1)


def main() -> None:
    spark, policy = spark_session(), load_policy(CHECKOUT / "policy.toml")
    trials = []
    for seed in SEEDS:
        with demo_panel(spark, DemoSettings(seed=seed, campaign=None), policy) as built:
            for trial in _trials(built, policy, seed):
                totals = {name: round(float(of.sum())) for name, of in trial.earned.items()}
                print(f"  seed {seed}, {trial.economics}: {totals}", flush=True)
                trials.append(trial)
    _report(trials)


def _policies(policy: ChurnPolicy, economics: Economics) -> dict[object, ChurnPolicy]:
    """The policies by whose list they make. Whether a list may be so imprecise is not what is asked here."""
    gate = policy.gate.model_copy(update={"precision_floor": 0.01})
    retention = policy.retention.model_copy(update={"rank_by": "expected_profit", "holdout_share": 0.0})
    alerts: dict[object, Alerts] = {budget: Alerts(budget=budget) for budget in BUDGETS}
    alerts[BY_PROFIT] = Alerts(budget=MOST, threshold_by="profit")
    sections: dict[str, Any] = {"gate": gate, "retention": retention, "economics": economics}
    return {name: policy.model_copy(update={**sections, "alerts": each}) for name, each in alerts.items()}


def _trials(built: StudyPanel, policy: ChurnPolicy, seed: int) -> Iterator[Trial]:
    dates = splits.split_dates(built.panel, policy)
    prior = PurchasePrior(
        fit_purchase_model(purchase_histories(built.silver, dates.test, policy.windows.eligibility_days)),
        policy.windows.outcome_days,
    )
    rows = _collected(built, [*dates.train, dates.test], policy)
    is_test = (rows["as_of"] == dates.test).to_numpy()
    values = rows[list(policy.features)].to_numpy(dtype=float)
    policies = {name: _policies(policy, economics) for name, (economics, _) in SETTINGS_OF.items()}
    judged: list[pd.DataFrame] = []
    for crossfit_fold in splits.CROSSFIT_FOLDS:
        fold = (rows["fold"].to_numpy() - crossfit_fold * len(splits.TEST_FOLDS)) % splits.FOLDS
        is_validation = ~is_test & np.isin(fold, splits.VALIDATION_FOLDS)
        is_held_out = fold < splits.TEST_FOLDS.stop
        told = rows[is_test & is_held_out]
        train = splits.train_rows(built.panel, dates, policy, crossfit_fold).persist()
        count, censored = train.count(), censored_rows(built.panel, dates, policy, prior, crossfit_fold)
        learned = train if censored is None else with_censored(train, censored)
        for weights in ("none", "balanced"):
            trees = fit_churn_model(learned, policy.features, SETTINGS, rows=count, prior=prior, class_weights=weights)
            scored = rows.assign(churn_probability=trees.probabilities(values))
            validation = scored[is_validation].reset_index(drop=True)
            scores, labels = (validation[name].to_numpy(dtype=float) for name in ("churn_probability", "label"))
            counts = [(score, label, 1) for score, label in zip(scores.tolist(), labels.tolist(), strict=True)]
            current = [(score, None, 1) for score in scored["churn_probability"][is_test & ~is_held_out].tolist()]
            told = told.assign(churn_rate=float(labels.mean()))
            told[f"score {weights}"] = scored["churn_probability"][is_test & is_held_out]
            for name in (name for name, (_, asked) in SETTINGS_OF.items() if asked == weights):
                of_validation = earnings(
                    validation, policies[name][BY_PROFIT], population_share=splits.VALIDATION_SHARE
                )
                for whose, rules in policies[name].items():
                    threshold = choose_threshold(counts, current, rules, (scores, of_validation.profits))
                    told[f"{name}: {whose}"] = told[f"score {weights}"] >= (
                        np.inf if threshold is None else threshold.value
                    )
        train.unpersist()
        judged.append(told)
    everybody = pd.concat(judged).sort_values("customer_id", ignore_index=True)
    for name, (_, weights) in SETTINGS_OF.items():
        yield _trial(seed, name, everybody.assign(churn_probability=everybody[f"score {weights}"]), policies[name])


def _collected(built: StudyPanel, dates: Sequence[date], policy: ChurnPolicy) -> pd.DataFrame:
    """The panel of the dates by customer, with fold, recent_spend and truth, the chance of leaving."""
    assert built.truth is not None
    spend = built.snapshots.selectExpr(*KEYS, "double(string(spend)) AS recent_spend")
    truth = built.truth.withColumnRenamed("churn_probability", "truth")
    panel = built.panel.where(built.panel["as_of"].isin(list(dates)))
    told = panel.withColumn("fold", splits.fold(panel["customer_id"], policy.split.salt))
    rows = told.join(spend, KEYS, "left").join(truth, KEYS, "left").toPandas()
    assert rows[["recent_spend", "truth"]].notna().all().all(), "the simulator knows everybody"
    return rows.sort_values(KEYS, ignore_index=True)


def _trial(seed: int, name: str, everybody: pd.DataFrame, by_list: Mapping[object, ChurnPolicy]) -> Trial:
    earned, alerted, calls = {}, {}, 0
    for whose, policy in by_list.items():
        is_alert = everybody[f"{name}: {whose}"].to_numpy(dtype=bool)
        candidates = _candidates(everybody, policy)
        capacity = {everybody["as_of"].iloc[0]: floor(len(everybody) * policy.alerts.budget)}
        listed = retention_list(candidates.filter(pa.array(is_alert)), capacity, policy)
        earned[whose] = _on_the_truth(candidates, listed, policy)
        alerted[whose] = float(is_alert.mean())
        calls = max(calls, listed.column("suggested_action").to_pylist().count("personal call"))
    return Trial(seed, name, earned, alerted, calls)


def _candidates(everybody: pd.DataFrame, policy: ChurnPolicy) -> pa.Table:
    """All customers as a list has them, all of whom could be alerted; no reasons, so no action that asks for one."""
    high, _ = policy.scoring.least_probabilities(float(everybody["churn_rate"].mean()))
    told = everybody[[*KEYS, "churn_probability", "recent_spend", "truth"]].assign(
        is_holdout=False, risk_tier=np.where(everybody["churn_probability"] >= high, "high", "medium")
    )
    reasons = pa.array([[]] * len(told), pa.list_(pa.struct({"feature": pa.string()})))
    return pa.Table.from_pandas(told, preserve_index=False).append_column("reasons", reasons)


def _on_the_truth(candidates: pa.Table, listed: pa.Table, policy: ChurnPolicy) -> Floats:
    """What the contact of each candidate earns where they leave with the chance that is true."""
    scores = candidates.column("churn_probability").to_numpy()
    valued = candidates.append_column("value_at_risk", pa.array(scores * candidates.column("recent_spend").to_numpy()))
    place = valued.column_names.index("churn_probability")
    profits = expected_profits(valued.set_column(place, "churn_probability", valued.column("truth")), policy)
    assert policy.economics is not None
    number = {action: place for place, action in enumerate(policy.economics.actions)}
    row_of = {customer: row for row, customer in enumerate(candidates.column("customer_id").to_pylist())}
    earned = np.zeros(len(candidates))
    for contact in listed.select(["customer_id", "suggested_action"]).to_pylist():
        if contact["suggested_action"] is not None:
            row = row_of[contact["customer_id"]]
            earned[row] = profits[row, number[contact["suggested_action"]]]
    return earned


def _report(trials: Sequence[Trial]) -> None:
    lines = [
        f"# What a threshold chosen by profit earns, {datetime.now(UTC):%Y-%m-%d}",
        "",
        machine("xgboost-cpu", "numpy", "scipy", "pysail"),
        "",
        f"{len(SEEDS)} demos of 12,000 customers; every customer of the test date scored and alerted by a model",
        "that never saw that customer (five folds), the threshold of each chosen on its own validation customers, by",
        "their outcomes. Lists ranked by expected profit, actions allocated under their capacities (40 calls), nobody",
        "held out. What a list earns: the formula of the lists with the chance with which each customer really leaves,",
        "which the simulator knows, and an acceptance that is as [economics] says. Cheap contacts: [economics] as",
        "policy.toml shows it. Dear contacts: 3.0 for a letter, 1.5 for a reminder, the calls as before. With balanced",
        "class weights the scores are no probabilities, and what is expected of an action is too much. No reasons, so",
        "no action that asks for one; a precision floor of 1 %. The threshold by profit may alert",
        f"{MOST:.0%} of the customers.",
        "",
        "Means of the demos, in the currency of the orders; of the alerted also the least and the most.",
        "",
        "| economics | list | alerted | listed | earns |",
        "|-|-|-|-|-|",
    ]
    for name in SETTINGS_OF:
        of = [trial for trial in trials if trial.economics == name]
        for whose in (BY_PROFIT, *BUDGETS):
            shares, sums = [trial.alerted[whose] for trial in of], [trial.earned[whose].sum() for trial in of]
            listed = np.mean([np.count_nonzero(trial.earned[whose]) / len(trial.earned[whose]) for trial in of])
            label = whose if isinstance(whose, str) else f"budget {whose:.0%}"
            spread = f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"
            lines.append(f"| {name} | {label} | {spread} | {listed:.1%} | {np.mean(sums):,.0f} |")
    lines += [
        "",
        "By profit against each budget: in how many demos its list earns at least as much, and in how many it is not",
        "shown to earn less (the 95 % interval of the difference, customers resampled, reaches 0).",
        "",
        "| economics | budget | earns at least as much | not shown to earn less | mean difference | worst difference |",
        "|-|-|-|-|-|-|",
    ]
    held: dict[str, list[bool]] = {}
    for name in SETTINGS_OF:
        of = [trial for trial in trials if trial.economics == name]
        by_trial = [trial.differences() for trial in of]
        found = {budget: [each[budget] for each in by_trial] for budget in BUDGETS}
        for budget, pairs in found.items():
            differences = [difference for difference, _ in pairs]
            at_least = sum(difference >= 0 for difference in differences)
            within = sum(high >= 0 for _, high in pairs)
            lines.append(
                f"| {name} | {budget:.0%} | {at_least} of {len(of)} | {within} of {len(of)} | "
                f"{np.mean(differences):+,.0f} | {min(differences):+,.0f} |"
            )
        held[name] = [all(found[budget][place][1] >= 0 for budget in BUDGETS) for place in range(len(of))]
    lines += ["", "At least every one of the budgets, within noise:"]
    lines += [f"{sum(each)} of {len(each)} demos ({name})." for name, each in held.items()]
    most = max(trial.most_calls for trial in trials)
    lines += ["", f"The most calls on any list: {most}, of 40."]
    write_result("profit", lines)

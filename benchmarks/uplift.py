"""How often a ranking by what contacts change is found to beat the value at risk: 20 seeds, effects varied, one, none.

On rows as the lists leave them, with the effects of `demo/contact_effects.py`; what is known of each customer tells of
what decides the effect with noise. Written down before the first run (2026-11-29): the published field experiments on
retention had some 12,000 customers (Ascarza, "Retention Futility", Journal of Marketing Research 55, 2018) and some
64,000 (Ascarza, Iyengar and Schleicher, the same 53, 2016); between them, by ratio, lie CUSTOMERS, a year's weekly
lists of about 540. A tenth is held out, as shipped. The learner was chosen on other seeds (docs/decisions/0042).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import get_args

import numpy as np

from benchmarks.measuring import machine
from benchmarks.panels import write_result
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import Floats
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.uplift import Trial, UpliftEvaluation, crossfitted_uplift, fold_of, judge
from churn_assets.demo.contact_effects import Effects, contact_effect

SEEDS = range(1, 21)
CUSTOMERS, LISTS = 28_000, 52
# What fewer rows would have told, of the varied effects alone.
FEWER = (14_000, 7_000, 3_500)
# So many rows of a customer, on average: nobody is listed again within six weeks.
ROWS_OF_CUSTOMER = 2
FEATURES = (*FEATURE_SETS["crisis_aware"], "churn_probability")


@dataclass(frozen=True)
class Simulated:
    """The rows of a year of lists, and what nobody knows: what a contact takes off each chance of leaving."""

    trial: Trial
    truth: Floats


@dataclass(frozen=True)
class Run:
    """One seed of one kind of effects. gained: Qini of the true effects, by the estimate minus by the value at risk."""

    effects: Effects
    rows: int
    seed: int
    evaluation: UpliftEvaluation
    gained: float
    attainable: float
    seconds: float

    @property
    def is_gain(self) -> bool:
        """Whether the paired interval of the gain over the value at risk lies above 0."""
        return self.evaluation.gain.low is not None and self.evaluation.gain.low > 0


def simulated(seed: int, effects: Effects, rows: int, policy: ChurnPolicy) -> Simulated:
    """A year of used lists of customers at risk, four of ten of whom leave uncontacted."""
    random = np.random.default_rng(seed)
    people = rows // ROWS_OF_CUSTOMER
    customers = np.sort(random.integers(people, size=rows))
    # As the simulator has them: the spread of the rates, and two of five never let down.
    habit = (0.6 * random.standard_normal(people))[customers]
    basket = (0.5 * random.standard_normal(people))[customers]
    segment = random.integers(5, size=people)[customers]
    dissatisfaction = np.where(random.random(rows) < 0.45, 0.0, random.exponential(0.7, rows))
    log_odds = -0.75 + 0.7 * dissatisfaction - 0.6 * habit + 0.7 * random.standard_normal(rows)
    leaves = 1 / (1 + np.exp(-log_odds))
    added = contact_effect(effects, leaves=leaves, dissatisfaction=dissatisfaction, habit=habit)
    orders = 1 + random.poisson(8 * np.exp(habit))
    late = np.clip(dissatisfaction + 0.3 * random.standard_normal(rows), 0, None)
    missed = np.exp(0.5 * log_odds + 0.5 * random.standard_normal(rows))
    said = 1 / (1 + np.exp(-(log_odds + 0.5 * random.standard_normal(rows))))
    spend: Floats = np.asarray(22.0 * orders * np.exp(basket + 0.2 * random.standard_normal(rows)), dtype=np.float64)
    values = {
        "total_orders": orders,
        "avg_star_rating": np.clip(4.5 - 0.8 * dissatisfaction + 0.5 * random.standard_normal(rows), 1, 5),
        "late_order_ratio": random.binomial(orders, np.clip(0.15 + 0.25 * dissatisfaction, 0, 0.9)) / orders,
        "segment_index": segment,
        "crisis_exposure_index": late > 1,
        "sentiment_velocity": -np.clip(dissatisfaction + 0.8 * random.standard_normal(rows), 0, 4),
        "rfm_score": random.integers(111, 556, rows),
        "recency_days": np.clip(missed * 60 / orders, 0, 30),
        "tenure_days": random.exponential(200, rows),
        "gap_ratio": missed / 2,
        "missed_orders": missed,
        "recent_delay_minutes": 45 * late,
        "orders_ever": orders * random.uniform(1, 4, rows),
        "churn_probability": said,
    }
    is_contacted = random.random(rows) >= policy.retention.holdout_share
    folds = np.array([fold_of(f"C{number:07d}", policy.split.salt) for number in range(people)])
    trial = Trial(
        names=FEATURES,
        features=np.column_stack([values[name] for name in FEATURES]).astype(np.float64),
        customers=customers,
        lists=random.integers(LISTS, size=rows),
        folds=folds[customers],
        is_contacted=is_contacted,
        has_left=random.random(rows) < leaves + is_contacted * added,
        actions=np.full(rows, "reminder"),
        value=said * spend,
        spend=spend,
    )
    return Simulated(trial, -added)


def main() -> None:
    policy = ChurnPolicy()
    wanted: list[tuple[Effects, int]] = [(effects, CUSTOMERS) for effects in get_args(Effects)]
    wanted += [("varied", rows) for rows in FEWER]
    runs = [_run(effects, rows, seed, policy) for effects, rows in wanted for seed in SEEDS]
    _report(runs, policy)


def _run(effects: Effects, rows: int, seed: int, policy: ChurnPolicy) -> Run:
    made, begun = simulated(seed, effects, rows, policy), time.process_time()
    uplift = crossfitted_uplift(made.trial, policy)
    evaluation = judge(made.trial, uplift, policy)
    seconds = time.process_time() - begun
    gained = _area(uplift, made.truth) - _area(made.trial.value, made.truth)
    run = Run(effects, rows, seed, evaluation, gained, _area(made.truth, made.truth), seconds)
    gain = evaluation.gain
    print(
        f"  {effects}, {rows:,}, seed {seed}: {evaluation.verdict.value}, gain {gain.value} "
        f"({gain.low} to {gain.high}), truly {gained:.4f}, {seconds:.1f} s of CPU",
        flush=True,
    )
    return run


def _area(scores: Floats, truth: Floats) -> float:
    """What the order keeps by the truth, more than a random one, on average over all depths, of each contacted."""
    kept = truth[np.argsort(-scores, kind="stable")].cumsum() / len(truth)
    return float(kept.mean() - kept[-1] / 2)


def _report(runs: Sequence[Run], policy: ChurnPolicy) -> None:
    lines = [
        f"# What contacts change, and how often that is found out, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Simulated used lists, {policy.retention.holdout_share:.0%} of each held out at random, {len(SEEDS)} seeds of",
        "each kind. Qini: what the ranking keeps more than a random one, of 100 contacted, on average over all depths",
        "of the list. Gain: of the ranking by the cross-fitted estimate over the one by value at risk, on the same",
        f"customers; it is claimed where the paired {policy.gate.confidence:.0%} interval lies above 0. The gate asks",
        "for more: better than random too, and not shown to keep less of what customers spend. By the truth: the same",
        "gain by the effects nobody knows; best: what ranking by those would keep more than a random order.",
        "",
        "| effects | on lists | held out | gain claimed | gate says PASS | gain, median | by the truth | best |",
        "|-|-|-|-|-|-|-|-|",
    ]
    for effects, rows in dict.fromkeys((run.effects, run.rows) for run in runs):
        of_kind = [run for run in runs if (run.effects, run.rows) == (effects, rows)]
        claimed = sum(run.is_gain for run in of_kind)
        passed = sum(run.evaluation.verdict is Verdict.PASS for run in of_kind)
        unjudged = sum(run.evaluation.verdict is Verdict.NOT_EVALUABLE for run in of_kind)
        verdicts = f"{passed} of {len(of_kind)}" + (f", {unjudged} not evaluable" if unjudged else "")
        gains = [100 * run.evaluation.gain.value for run in of_kind if run.evaluation.gain.value is not None]
        told = f"{median(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})" if gains else "-"
        truly = f"{100 * median(run.gained for run in of_kind):+.2f}"
        best = f"{100 * median(run.attainable for run in of_kind):.2f}"
        held_out = round(rows * policy.retention.holdout_share)
        counted = f"{effects} | {rows:,} | about {held_out:,} | {claimed} of {len(of_kind)}"
        lines.append(f"| {counted} | {verdicts} | {told} | {truly} | {best} |")
    seconds = median(run.seconds for run in runs if run.rows == CUSTOMERS)
    lines += [
        "",
        f"Estimate and verdict of {CUSTOMERS:,} rows: {seconds:.1f} s of CPU, median.",
        "",
        machine("numpy", "xgboost-cpu"),
    ]
    write_result("uplift", lines)

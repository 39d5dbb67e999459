"""Thresholds keep the budget, figures are the published ones, and only what meets every criterion is a PASS."""

import math
import random

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from churn_assets.churn.evaluation import (
    BUDGET_TOLERANCE,
    ScoreCounts,
    Verdict,
    average_precision,
    choose_threshold,
    figures,
    judge,
    wilson_interval,
)
from churn_assets.churn.policy import Alerts, ChurnPolicy, Gate


def policy(*, budget: float = 0.2, floor: float = 0.25, min_recall: float = 0.4) -> ChurnPolicy:
    return ChurnPolicy(alerts=Alerts(budget=budget), gate=Gate(precision_floor=floor, min_recall=min_recall))


def unlabelled(*scores: float) -> ScoreCounts:
    return [(score, None, 1) for score in scores]


# ---- threshold


def brute_force_threshold(validation: ScoreCounts, current: ScoreCounts, rules: ChurnPolicy) -> float | None:
    """The allowed cut-off that catches most, of those the highest: tried one by one."""
    allowed = []
    everybody = sum(rows for *_, rows in current)
    for cut_off in {score for score, *_ in validation}:
        caught = sum(rows for score, label, rows in validation if score >= cut_off and label == 1)
        alerts = sum(rows for score, _, rows in validation if score >= cut_off)
        share = sum(rows for score, _, rows in current if score >= cut_off) / everybody
        if share <= rules.alerts.budget and caught / alerts >= rules.gate.precision_floor:
            allowed.append((caught, cut_off))
    return max(allowed)[1] if allowed else None


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_is_the_best_of_all_that_keep_budget_and_floor(seed):
    rng = random.Random(seed)
    levels = rng.choice([4, 20, 1000])
    validation = [
        (rng.randrange(levels) / levels, float(rng.random() < 0.4), rng.randint(1, 3))
        for _ in range(rng.randint(5, 80))
    ]
    current = [(rng.randrange(levels) / levels, None, rng.randint(1, 3)) for _ in range(rng.randint(5, 80))]
    rules = policy(budget=rng.choice([0.05, 0.2, 0.3, 0.7]), floor=rng.choice([0.05, 0.4, 0.6]))
    chosen = choose_threshold(validation, current, rules)
    assert (None if chosen is None else chosen.value) == brute_force_threshold(validation, current, rules)


def test_the_budget_is_of_the_current_customers_not_of_the_validation_rows():
    validation = [(score / 10, 1.0, 1) for score in range(10)]
    chosen = choose_threshold(validation, unlabelled(0.9, 0.8, 0.1, 0.1, 0.1), policy(budget=0.4))
    assert chosen is not None
    assert (chosen.value, chosen.alert_share) == (0.2, pytest.approx(0.4))
    assert chosen.recall == 0.8
    # More of them score high: the same validation rows give a higher cut-off.
    chosen = choose_threshold(validation, unlabelled(0.9, 0.8, 0.85, 0.1, 0.1), policy(budget=0.4))
    assert chosen is not None
    assert chosen.value == 0.9


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_budget_that_is_exactly_used_up_is_kept(percent):
    current = [(1.0, None, percent), (0.0, None, 100 - percent)]
    chosen = choose_threshold([(1.0, 1.0, 1), (0.0, 0.0, 1)], current, policy(budget=percent / 100))
    assert chosen is not None
    assert chosen.value == 1.0


def test_customers_of_one_score_are_alerted_together_or_not_at_all():
    validation = [(0.9, 1.0, 1), (0.5, 1.0, 5)]
    current = [(0.9, None, 1), (0.5, None, 2), (0.1, None, 7)]
    at_two, at_three = (choose_threshold(validation, current, policy(budget=budget)) for budget in (0.2, 0.3))
    assert at_two is not None
    assert at_three is not None
    assert (at_two.value, at_three.value) == (0.9, 0.5)


def test_the_floor_excludes_a_cut_off_of_higher_recall():
    validation = [(0.9, 1.0, 2), (0.9, 0.0, 1), (0.5, 1.0, 1), (0.5, 0.0, 6)]
    current = unlabelled(*[0.1] * 100)
    without_floor = choose_threshold(validation, current, policy(floor=0.3))
    with_floor = choose_threshold(validation, current, policy(floor=0.31))
    assert without_floor is not None
    assert with_floor is not None
    assert (without_floor.value, with_floor.value) == (0.5, 0.9)
    assert (with_floor.recall, with_floor.precision) == (2 / 3, 2 / 3)


def test_of_equal_recall_the_cut_off_with_the_fewest_alerts_is_chosen():
    chosen = choose_threshold([(0.9, 1.0, 1), (0.8, 0.0, 1)], unlabelled(*[0.1] * 9), policy())
    assert chosen is not None
    assert chosen.value == 0.9


@pytest.mark.parametrize(
    ("validation", "current"),
    [
        ([], unlabelled(0.1)),
        ([(0.9, 1.0, 1)], []),
        ([(0.9, 0.0, 5)], unlabelled(0.1)),
        # Nobody below the only cut-off: everyone would be alerted.
        ([(0.5, 1.0, 1)], unlabelled(0.5, 0.6)),
        ([(0.5, 1.0, 1), (0.5, 0.0, 9)], unlabelled(0.1)),
    ],
    ids=["no validation rows", "no current customers", "no churners", "over budget", "below the floor"],
)
def test_there_is_no_threshold_where_none_is_possible(validation, current):
    assert choose_threshold(validation, current, policy()) is None


# ---- figures


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_is_the_published_one(hits, trials, low, high):
    assert wilson_interval(hits, trials, 0.95) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    mirrored = wilson_interval(trials - hits, trials, 0.95)
    assert mirrored == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_the_wilson_interval_widens_with_confidence_and_knows_nothing_without_trials():
    narrow, wide = wilson_interval(30, 100, 0.8), wilson_interval(30, 100, 0.99)
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
    assert wilson_interval(0, 0, 0.95) == (0.0, 1.0)
    assert wilson_interval(20, 20, 0.95)[1] == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_scikit_learns_on_random_rows_with_ties(seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 400))
    scores = rng.integers(0, rng.choice([3, 30, 10_000]), rows) / 7
    labels = (rng.random(rows) < rng.choice([0.05, 0.5, 0.95])).astype(float)
    labels[0] = 1.0
    counts = [(float(score), float(label), 1) for score, label in zip(scores, labels, strict=True)]
    assert average_precision(counts) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_average_precision_counts_rows_and_needs_a_churner():
    counted = [(0.9, 1.0, 3), (0.5, 0.0, 4), (0.5, 1.0, 1)]
    single = [(score, label, 1) for score, label, rows in counted for _ in range(rows)]
    assert average_precision(counted) == pytest.approx(average_precision(single), abs=1e-15)
    assert average_precision([(0.9, 0.0, 3)]) is None
    assert average_precision([]) is None


def test_a_score_exactly_at_the_threshold_is_an_alert():
    counts = [(0.3, 1.0, 2), (0.3, 0.0, 1), (math.nextafter(0.3, 0), 1.0, 4), (0.1, 0.0, 13)]
    observed = figures(counts, 0.3, 0.95)
    assert (observed.rows, observed.churners, observed.alerts, observed.caught) == (20, 6, 3, 2)
    assert observed.recall == 2 / 6
    assert observed.precision == 2 / 3
    assert observed.alert_share == 3 / 20
    assert observed.prevalence == 6 / 20
    assert observed.lift == pytest.approx((2 / 3) / (6 / 20))
    assert (observed.recall_low, observed.recall_high) == wilson_interval(2, 6, 0.95)


def test_figures_without_meaning_are_none_and_not_zero():
    nobody = figures([], 0.5, 0.95)
    assert (nobody.recall, nobody.recall_low, nobody.precision, nobody.alert_share, nobody.pr_auc) == (None,) * 5
    no_alerts = figures([(0.1, 1.0, 1), (0.1, 0.0, 1)], None, 0.95)
    assert (no_alerts.alerts, no_alerts.recall, no_alerts.precision, no_alerts.lift) == (0, 0.0, None, None)


# ---- verdict: 1,000 rows, 100 of them churners


def scored(caught: int, false_alerts: int, churners: int = 100, rows: int = 1000) -> ScoreCounts:
    return [
        (0.9, 1.0, caught),
        (0.9, 0.0, false_alerts),
        (0.1, 1.0, churners - caught),
        (0.1, 0.0, rows - churners - false_alerts),
    ]


def test_a_model_that_meets_every_criterion_passes_with_its_figures():
    evaluation = judge(scored(60, 100), 0.9, policy())
    assert evaluation.verdict is Verdict.PASS
    assert len(evaluation.reasons) == 3
    assert all(reason.startswith("met: ") for reason in evaluation.reasons)
    assert evaluation.figures == figures(scored(60, 100), 0.9, 0.95)


@pytest.mark.parametrize(
    ("counts", "missed"),
    [
        # A recall of 0.45 is above 0.40, its lower bound is not.
        (scored(45, 100), "recall 0.450, 95% interval 0.356 to 0.548; lower needs 0.400"),
        (scored(50, 151), "precision 0.249; needs 0.250"),
        (scored(100, 121), "alerts 22.1% of customers; allowed 22.0%"),
    ],
    ids=["recall", "precision", "alerts"],
)
def test_a_single_missed_criterion_fails_and_is_named(counts, missed):
    evaluation = judge(counts, 0.9, policy())
    assert evaluation.verdict is Verdict.FAIL
    assert [reason for reason in evaluation.reasons if reason.startswith("missed")] == [f"missed: {missed}"]
    assert len(evaluation.reasons) == 3


@pytest.mark.parametrize("percent", range(1, 91))
def test_alerts_exactly_at_the_tolerated_budget_are_allowed(percent):
    alerts = round(percent * 10 * BUDGET_TOLERANCE)
    counts = [(0.9, 1.0, alerts), (0.1, 0.0, 1000 - alerts)]
    evaluation = judge(counts, 0.9, policy(budget=percent / 100, min_recall=0.01))
    assert evaluation.verdict is Verdict.PASS, evaluation.reasons


def test_a_criterion_met_exactly_is_met():
    low = figures(scored(60, 140), 0.9, 0.95).recall_low
    assert low is not None
    evaluation = judge(scored(60, 140), 0.9, policy(floor=0.3, min_recall=low))
    assert evaluation.verdict is Verdict.PASS
    assert judge(scored(60, 140), 0.9, policy(min_recall=math.nextafter(low, 1))).verdict is Verdict.FAIL


def test_without_a_threshold_the_verdict_is_fail_and_says_what_no_threshold_could_keep():
    evaluation = judge(scored(60, 100), None, policy())
    assert evaluation.verdict is Verdict.FAIL
    assert evaluation.figures.alerts == 0
    (reason,) = evaluation.reasons
    assert "within 20%" in reason
    assert "precision at 25%" in reason


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([], "there are no test rows"),
        ([(0.9, 0.0, 50)], "there is no churner among the test rows"),
        ([(0.9, 1.0, 50)], "every test row is a churner"),
        ([*scored(90, 10), (math.nan, 0.0, 1)], "some scores are missing or NaN"),
        ([*scored(90, 10), (None, 1.0, 1)], "some scores are missing or NaN"),
    ],
)
@pytest.mark.parametrize("threshold", [0.9, None])
def test_what_cannot_be_decided_is_not_evaluable_with_its_reason(counts, reason, threshold):
    evaluation = judge(counts, threshold, policy(min_recall=0.01, floor=0.01))
    assert evaluation.verdict is Verdict.NOT_EVALUABLE
    assert evaluation.reasons == (reason,)

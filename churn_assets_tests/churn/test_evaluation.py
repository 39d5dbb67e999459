"""Thresholds keep the budget, figures are the published ones, and only what meets every criterion is a PASS."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from churn_assets.churn import intervals
from churn_assets.churn.evaluation import (
    BUDGET_TOLERANCE,
    CALIBRATION_KEYS,
    CHAMPION,
    EXPECTED_OVER_OBSERVED,
    ORDER_COUNT,
    PURCHASES,
    RULE,
    Evaluation,
    ScoreCounts,
    Scored,
    Verdict,
    choose_threshold,
    compare,
    figures,
    judge,
    slice_figures,
    strongest_rival,
)
from churn_assets.churn.intervals import Estimate, Floats, wilson_interval
from churn_assets.churn.policy import Action, Alerts, ChurnPolicy, Economics, Gate, Leakage, Offer, Retention
from churn_assets.churn.profit import Earnings
from churn_assets.churn.recalibration import calibration_of
from churn_assets.pages.tables import figures_table
from churn_assets_tests.judged_customers import customers, over_dates, ranked


def policy(*, budget: float = 0.2, floor: float = 0.25, min_recall: float = 0.4, **gate: Any) -> ChurnPolicy:
    limits = {"precision_floor": floor, "min_recall": min_recall, "evaluation": "holdout", **gate}
    return ChurnPolicy(alerts=Alerts(budget=budget), gate=Gate.model_validate(limits))


@pytest.fixture
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """For criteria that no interval of a resampled figure decides."""
    monkeypatch.setattr(intervals, "REPLICATES", 20)


def unlabelled(*scores: float) -> ScoreCounts:
    return [(score, None, 1) for score in scores]


# ---- threshold


def brute_force_threshold(validation: ScoreCounts, current: ScoreCounts, rules: ChurnPolicy) -> float | None:
    """The allowed cut-off that catches most, of those the highest: tried one by one."""
    allowed = []
    everybody = sum(rows for *_, rows in current)
    for threshold in {score for score, *_ in validation}:
        caught = sum(rows for score, label, rows in validation if score >= threshold and label == 1)
        alerts = sum(rows for score, _, rows in validation if score >= threshold)
        share = sum(rows for score, _, rows in current if score >= threshold) / everybody
        if share <= rules.alerts.budget and caught / alerts >= rules.gate.precision_floor:
            allowed.append((caught, threshold))
    return max(allowed)[1] if allowed else None


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_is_the_best_of_all_that_keep_budget_and_floor(seed: int) -> None:
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


def test_the_budget_is_of_the_current_customers_not_of_the_validation_rows() -> None:
    validation = [(score / 10, 1.0, 1) for score in range(10)]
    chosen = choose_threshold(validation, unlabelled(0.9, 0.8, 0.1, 0.1, 0.1), policy(budget=0.4))
    assert chosen is not None
    assert chosen.value == 0.2
    assert chosen.alert_share == pytest.approx(0.4)
    assert chosen.recall == 0.8
    # More of them score high: the same validation rows give a higher cut-off.
    chosen = choose_threshold(validation, unlabelled(0.9, 0.8, 0.85, 0.1, 0.1), policy(budget=0.4))
    assert chosen is not None
    assert chosen.value == 0.9


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_budget_that_is_exactly_used_up_is_kept(percent: int) -> None:
    current = [(1.0, None, percent), (0.0, None, 100 - percent)]
    chosen = choose_threshold([(1.0, 1.0, 1), (0.0, 0.0, 1)], current, policy(budget=percent / 100))
    assert chosen is not None
    assert chosen.value == 1.0


def test_customers_of_one_score_are_alerted_together_or_not_at_all() -> None:
    validation = [(0.9, 1.0, 1), (0.5, 1.0, 5)]
    current = [(0.9, None, 1), (0.5, None, 2), (0.1, None, 7)]
    at_two, at_three = (choose_threshold(validation, current, policy(budget=budget)) for budget in (0.2, 0.3))
    assert at_two is not None
    assert at_three is not None
    assert (at_two.value, at_three.value) == (0.9, 0.5)


def test_the_floor_excludes_a_cut_off_of_higher_recall() -> None:
    validation = [(0.9, 1.0, 2), (0.9, 0.0, 1), (0.5, 1.0, 1), (0.5, 0.0, 6)]
    current = unlabelled(*[0.1] * 100)
    without_floor = choose_threshold(validation, current, policy(floor=0.3))
    with_floor = choose_threshold(validation, current, policy(floor=0.31))
    assert without_floor is not None
    assert with_floor is not None
    assert (without_floor.value, with_floor.value) == (0.5, 0.9)
    assert (with_floor.recall, with_floor.precision) == (2 / 3, 2 / 3)


def test_of_equal_recall_the_cut_off_with_the_fewest_alerts_is_chosen() -> None:
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
def test_there_is_no_threshold_where_none_is_possible(validation: ScoreCounts, current: ScoreCounts) -> None:
    assert choose_threshold(validation, current, policy()) is None


# ---- threshold by profit

OFFER = Offer(contact_cost=1.0, offer_cost=2.0, acceptance=0.3)
ONE_ACTION = {
    "economics": Economics(margin=0.5, lifetime_days=60, actions={"reminder": OFFER}),
    "retention": Retention(actions=(Action(action="reminder"),)),
}


def by_profit(budget: float, floor: float) -> ChurnPolicy:
    rules = policy(budget=budget, floor=floor)
    alerts = rules.alerts.model_copy(update={"threshold_by": "profit"})
    return rules.model_copy(update={"alerts": alerts, **ONE_ACTION})


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_by_profit_is_the_best_of_all_that_keep_budget_and_floor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, levels = int(rng.integers(5, 60)), int(rng.choice([4, 20, 1000]))
    scores, labels = rng.integers(levels, size=rows) / levels, (rng.random(rows) < 0.4).astype(float)
    profits = rng.integers(-6, 9, rows).astype(np.float64) * 0.5
    current = unlabelled(*(rng.integers(levels, size=50) / levels).tolist())
    rules = by_profit(float(rng.choice([0.05, 0.2, 0.3, 0.7])), float(rng.choice([0.05, 0.4, 0.6])))
    best: tuple[float, float] | None = None
    for cut_off in sorted(set(scores.tolist()), reverse=True):
        is_alert = scores >= cut_off
        is_kept = sum(score >= cut_off for score, *_ in current) / 50 <= rules.alerts.budget
        if is_kept and labels[is_alert].mean() >= rules.gate.precision_floor:
            earned = float(profits[is_alert].sum())
            if best is None or earned > best[0]:
                best = earned, cut_off
    validation = [(score, label, 1) for score, label in zip(scores.tolist(), labels.tolist(), strict=True)]
    chosen = choose_threshold(validation, current, rules, (scores, profits))
    if not labels.any() or best is None or best[0] <= 0:
        assert chosen is None
    else:
        assert chosen is not None
        assert chosen.value == best[1]
        assert chosen.profit == pytest.approx(best[0] / rows)


def test_a_longer_list_that_finds_more_and_earns_less_is_not_chosen_by_profit() -> None:
    # What a contact earns: 9 of the churners of 0.9, 1 of that of 0.5, and each other costs 3.
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.5])
    validation, earned = [(0.9, 1.0, 2), (0.5, 1.0, 1), (0.5, 0.0, 2)], np.array([9.0, 9.0, 1.0, -3.0, -3.0])
    current = unlabelled(*[0.1] * 100)
    found = choose_threshold(validation, current, by_profit(0.5, 0.25), (scores, earned))
    assert found is not None
    assert (found.value, found.profit) == (0.9, 18 / 5)
    by_recall = choose_threshold(validation, current, policy(budget=0.5, floor=0.25))
    assert by_recall is not None
    assert (by_recall.value, by_recall.profit) == (0.5, None)


def test_where_nothing_earns_anything_nobody_is_alerted_and_the_verdict_says_so(few_replicates: None) -> None:
    validation, losses = [(0.9, 1.0, 2), (0.5, 0.0, 2)], (np.array([0.9, 0.9, 0.5, 0.5]), np.full(4, -1.0))
    rules = by_profit(0.5, 0.25)
    assert choose_threshold(validation, unlabelled(*[0.1] * 9), rules, losses) is None
    evaluation = judge(customers(0, 0), rules, has_threshold=False)
    assert evaluation.verdict is Verdict.FAIL
    (missed,) = [each for each in evaluation.criteria if each.key == "threshold"]
    assert (missed.observed, missed.allowed[-10:]) == ("none that keeps all", ", a profit")


def test_what_contacts_earn_is_beside_the_figures_where_there_are_economics(few_replicates: None) -> None:
    scored = customers(60, 100)
    assert judge(scored, policy(), has_threshold=True).profit is None
    # 0.5 of 40 spent: worth 20. A churner 0.3 * (20 - 2) - 1, another the offer and the contact.
    profits = np.where(scored.labels == 1, 4.4, -3.0)
    earned = Earnings(profits, np.full(1000, 20.0), {"reminder": OFFER})
    found = judge(replace(scored, earnings=earned), policy(), has_threshold=True).profit
    assert found is not None
    assert found.alerted.value == pytest.approx((60 * 4.4 - 100 * 3.0) / 1000)
    assert found.curve[100].value == pytest.approx((100 * 4.4 - 900 * 3.0) / 1000)
    # Of 160 alerts in proportion to their number, of which no share pays.
    assert (found.best_share, found.best.value) == (0.0, 0.0)
    assert found.empc_action == "reminder"


# ---- figures


def test_shares_of_alerts_have_wilson_intervals() -> None:
    scored = customers(caught=2, false_alerts=1, churners=6, rows=20)
    observed = figures(scored.labels, scored.scores, scored.is_alert, 0.95)
    assert (observed.rows, observed.churners, observed.alerts, observed.caught) == (20, 6, 3, 2)
    assert observed.prevalence == 6 / 20
    assert observed.recall == Estimate(2 / 6, *wilson_interval(2, 6, 0.95))
    assert observed.precision == Estimate(2 / 3, *wilson_interval(2, 3, 0.95))
    assert observed.alert_share == Estimate(3 / 20, *wilson_interval(3, 20, 0.95))
    assert observed.lift.value == pytest.approx((2 / 3) / (6 / 20))


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


@pytest.mark.parametrize("seed", range(5))
def test_ranking_and_calibration_are_scikit_learns_and_inside_their_intervals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(300) < 0.3).astype(float)
    scores = np.clip(0.2 + 0.3 * labels + rng.normal(0, 0.2, 300), 0, 1).round(2)
    observed = figures(labels, scores, scores >= 0.5, 0.95)
    expected = {
        "pr_auc": average_precision_score(labels, scores),
        "roc_auc": roc_auc_score(labels, scores),
        "brier": brier_score_loss(labels, scores),
        "lift": labels[scores >= 0.5].mean() / labels.mean(),
    }
    for name, value in expected.items():
        estimate = getattr(observed, name)
        assert estimate.value == pytest.approx(value, abs=1e-12), name
        assert estimate.low < estimate.value < estimate.high, name
    narrower = figures(labels, scores, scores >= 0.5, 0.5)
    (low, high), (inner_low, inner_high) = bounds(observed.pr_auc), bounds(narrower.pr_auc)
    assert low < inner_low < inner_high < high


def test_figures_of_the_same_rows_are_the_same() -> None:
    scored = customers(60, 100)
    one, other = (figures(scored.labels, scored.scores, scored.is_alert, 0.95) for _ in range(2))
    assert one == other


def test_figures_without_meaning_are_none_and_not_zero() -> None:
    nothing = np.array([])
    nobody = figures(nothing, nothing, nothing.astype(bool), 0.95)
    assert (nobody.rows, nobody.prevalence) == (0, None)
    for name in ("recall", "precision", "alert_share", "lift", "pr_auc", "roc_auc", "brier"):
        assert getattr(nobody, name) == Estimate(None, None, None), name
    quiet = customers(0, 0, churners=1, rows=2)
    no_alerts = figures(quiet.labels, quiet.scores, quiet.is_alert, 0.95)
    assert (no_alerts.alerts, no_alerts.recall.value) == (0, 0.0)
    assert no_alerts.precision == no_alerts.lift == Estimate(None, None, None)
    # Of two customers a resample may lack either class, so the area has a value and no interval.
    assert no_alerts.roc_auc == Estimate(0.5, None, None)


def test_every_figure_is_told_by_its_name_with_its_interval() -> None:
    scored = customers(60, 100)
    observed = figures(scored.labels, scored.scores, scored.is_alert, 0.95)
    flat = observed.flat()
    assert (flat["rows"], flat["churners"], flat["prevalence"]) == (1000, 100, 0.1)
    for name in ("recall", "precision", "alert_share", "lift", "pr_auc", "roc_auc", "brier"):
        estimate = getattr(observed, name)
        assert (flat[name], flat[f"{name}_low"], flat[f"{name}_high"]) == (estimate.value, estimate.low, estimate.high)


# ---- slices


def test_each_part_of_each_slice_has_the_figures_of_its_own_customers() -> None:
    scored = customers(60, 100)
    halves = np.where(np.arange(1000) % 2 == 0, "even", "odd")
    scored = replace(scored, slices={"half": halves, "all": np.full(1000, "one")})
    found = slice_figures(scored, policy())
    assert [(part.slice, part.part) for part in found] == [("half", "even"), ("half", "odd"), ("all", "one")]
    for part, is_in in zip(found, (halves == "even", halves == "odd", np.ones(1000, dtype=bool)), strict=True):
        assert part.figures == figures(scored.labels[is_in], scored.scores[is_in], scored.is_alert[is_in], 0.95)


@pytest.mark.parametrize(("churners", "is_judgeable"), [(93, True), (92, False), (0, False)])
def test_a_part_with_too_few_churners_for_the_allowed_interval_is_marked(
    churners: int, is_judgeable: bool, few_replicates: None
) -> None:
    parts = np.where((np.arange(1000) < churners) | (np.arange(1000) > 800), "this", "that")
    scored = customers(50, 100, churners=200)
    that, this = slice_figures(replace(scored, slices={"part": parts}), policy(max_recall_interval=0.20))
    assert (this.part, this.figures.churners, this.is_judgeable) == ("this", churners, is_judgeable)
    assert (that.part, that.is_judgeable) == ("that", True)
    table = figures_table(judge(replace(scored, slices={"part": parts}), policy(), has_threshold=True))
    assert ("part: this (too small to judge)" in table) is not is_judgeable


# ---- comparisons


def test_a_comparison_is_the_paired_difference_of_the_areas() -> None:
    scored = customers(60, 100, rivals={RULE: ranked(40, 150), ORDER_COUNT: ranked(60, 100)})
    (rule, orders), _ = compare(scored, policy())
    assert (rule.rival, orders.rival) == (RULE, ORDER_COUNT)
    ours, theirs = (average_precision_score(scored.labels, scores) for scores in (scored.scores, ranked(40, 150)))
    assert rule.challenger_pr_auc == pytest.approx(ours)
    assert rule.pr_auc == pytest.approx(theirs)
    assert rule.difference.value == pytest.approx(ours - theirs)
    assert rule.difference.low is not None
    assert rule.difference.high is not None
    assert 0 < rule.difference.low < ours - theirs < rule.difference.high
    # The same ranking: whoever is drawn, nothing is between them.
    assert orders.difference == Estimate(0.0, 0.0, 0.0)


def test_a_comparison_tells_the_recall_of_both_at_as_many_alerts() -> None:
    # 160 alerts; of the rule's as many highest scores 40 are churners.
    scored = customers(60, 100, rivals={RULE: ranked(40, 120), ORDER_COUNT: np.zeros(1000)})
    (rule, orders), _ = compare(scored, policy())
    assert rule.challenger_recall == 0.6
    assert rule.recall == pytest.approx(0.4)
    # Scores that know nothing find what chance finds.
    assert orders.recall == pytest.approx(0.16)
    quiet = compare(customers(0, 0, scores=ranked(60, 100)), policy())[0][0]
    assert (quiet.challenger_recall, quiet.recall) == (0.0, 0.0)


def test_the_champion_is_compared_on_the_customers_no_model_of_the_split_learned_from_alone() -> None:
    is_unseen = np.arange(1000) % 3 == 0
    champion = np.where(is_unseen, ranked(50, 120), np.nan)
    scored = customers(60, 100, is_unseen=is_unseen, champion=champion)
    (*_, found), _ = compare(scored, policy())
    labels = scored.labels[is_unseen]
    assert (found.rival, found.rows) == (CHAMPION, is_unseen.sum())
    assert found.pr_auc == pytest.approx(average_precision_score(labels, champion[is_unseen]))
    assert found.challenger_pr_auc == pytest.approx(average_precision_score(labels, scored.scores[is_unseen]))
    # Whatever it scores elsewhere counts for nothing.
    elsewhere = np.where(is_unseen, ranked(50, 120), 1 - scored.labels)
    assert compare(replace(scored, champion=elsewhere), policy())[0][-1] == found
    assert judge(scored, policy(), has_threshold=True).verdict is Verdict.PASS


# ---- verdict: 1,000 customers, 100 of them churners


def missed(evaluation: Evaluation) -> list[str]:
    return [reason for reason in evaluation.reasons if not reason.startswith("met: ")]


def judged(scored: Scored, rules: ChurnPolicy, *, has_threshold: bool = True) -> Evaluation:
    return judge(scored, rules, has_threshold=has_threshold)


def test_a_model_that_meets_every_criterion_passes_with_its_figures() -> None:
    scored = customers(60, 100)
    evaluation = judged(scored, policy())
    assert evaluation.verdict is Verdict.PASS
    # Recall, precision, alerts; the rule, the count of orders, the purchase model; one feature, and all of them.
    assert len(evaluation.reasons) == 10
    assert all(reason.startswith("met: ") for reason in evaluation.reasons)
    assert evaluation.figures == figures(scored.labels, scored.scores, scored.is_alert, 0.95)
    assert [found.rival for found in evaluation.comparisons] == [RULE, ORDER_COUNT, PURCHASES]
    assert evaluation.warnings == ()


@pytest.mark.parametrize(
    ("scored", "told"),
    [
        # A recall of 0.45 is above 0.40, its lower bound is not.
        (
            customers(45, 100),
            (
                "recall 0.450, 95% interval 0.356 to 0.548; allowed: at least 0.400 (lower end), "
                "40% of the 1.000 in budget"
            ),
        ),
        (customers(50, 151), "precision 0.249, 95% interval 0.194 to 0.313; allowed: at least 0.250"),
        (customers(100, 121), "customers alerted 22.1%, 95% interval 19.6% to 24.8%; allowed: at most 22.0%"),
    ],
    ids=["recall", "precision", "alerts"],
)
def test_a_single_missed_criterion_of_the_alerts_fails_and_is_named(scored: Scored, told: str) -> None:
    evaluation = judged(scored, policy())
    assert evaluation.verdict is Verdict.FAIL
    assert missed(evaluation) == [f"missed: {told}"]
    assert len(evaluation.reasons) == 10


@pytest.mark.parametrize("percent", range(1, 91))
def test_alerts_exactly_at_the_tolerated_budget_are_allowed(percent: int, few_replicates: None) -> None:
    # Half of the alerts are right, so that the areas stay below what only the future knows.
    alerts = round(percent * 10 * BUDGET_TOLERANCE)
    scored = customers(alerts // 2, alerts - alerts // 2, churners=alerts // 2 + 4)
    lenient = {"min_recall": 0.01, "max_shortfall": 0.99, "min_gain_over_rule": -0.99, "max_miscalibration": 100.0}
    evaluation = judged(scored, policy(budget=percent / 100, **lenient))
    assert evaluation.verdict is Verdict.PASS, evaluation.reasons


def test_a_criterion_met_exactly_is_met() -> None:
    scored = customers(60, 140)
    low = figures(scored.labels, scored.scores, scored.is_alert, 0.95).recall.low
    assert low is not None
    assert judged(scored, policy(floor=0.3, min_recall=low)).verdict is Verdict.PASS
    assert missed(judged(scored, policy(min_recall=math.nextafter(low, 1))))[0].startswith("missed: recall")
    assert judged(scored, policy(floor=math.nextafter(0.3, 1))).verdict is Verdict.FAIL


def test_without_a_threshold_the_verdict_is_fail_and_says_what_no_threshold_could_keep() -> None:
    evaluation = judged(customers(0, 0, scores=ranked(60, 100)), policy(), has_threshold=False)
    assert evaluation.verdict is Verdict.FAIL
    assert evaluation.figures.alerts == 0
    (reason,) = missed(evaluation)
    assert "within 20%" in reason
    assert "precision 25% or more" in reason
    # How the scores rank is judged all the same.
    assert len(evaluation.reasons) == 8


# ---- verdict: rivals


def test_the_first_champion_has_to_gain_over_the_rule() -> None:
    level_with_rule = customers(60, 100, rivals={RULE: ranked(60, 100), ORDER_COUNT: np.zeros(1000)})
    evaluation = judged(level_with_rule, policy())
    assert evaluation.verdict is Verdict.FAIL
    (reason,) = missed(evaluation)
    assert "the retention team's rule" in reason
    assert "rule (strongest) +0.000, " in reason
    assert "allowed: more than +0.000 (lower end)" in reason
    assert judged(level_with_rule, policy(min_gain_over_rule=-0.001)).verdict is Verdict.PASS


def test_a_gain_that_chance_explains_is_no_gain() -> None:
    # Better by one churner of a hundred.
    scored = customers(60, 100, rivals={RULE: ranked(59, 100), ORDER_COUNT: np.zeros(1000)})
    rule = judged(scored, policy()).comparisons[0]
    assert rule.difference.value is not None
    assert rule.difference.value > 0
    assert missed(judged(scored, policy())) != []


@pytest.mark.parametrize(
    ("rival", "name"), [(ORDER_COUNT, "the count of orders alone"), (PURCHASES, "the purchase model")]
)
def test_nobody_may_be_worse_than_a_rival_by_more_than_the_margin(rival: str, name: str) -> None:
    scored = customers(60, 100, rivals={RULE: np.zeros(1000), rival: ranked(90, 60)})
    (reason,) = missed(judged(scored, policy()))
    assert reason.startswith(f"missed: PR-AUC over {name} (strongest) -")
    assert reason.endswith("allowed: at least -0.050 (lower end)")
    assert judged(scored, policy(max_shortfall=0.9)).verdict is Verdict.PASS
    level = customers(60, 100, rivals={RULE: np.zeros(1000), rival: ranked(60, 100)})
    assert judged(level, policy(max_shortfall=0.0)).verdict is Verdict.PASS


def test_the_verdict_says_which_rival_is_the_strongest_and_the_champion_is_one() -> None:
    rivals = {RULE: ranked(30, 200), ORDER_COUNT: ranked(20, 200), PURCHASES: ranked(50, 120)}
    for champion, strongest in ((None, "the purchase model"), (ranked(55, 100), "the champion")):
        evaluation = judged(customers(60, 100, rivals=rivals, champion=champion), policy())
        (named,) = [reason for reason in evaluation.reasons if " (strongest) " in reason]
        assert f"PR-AUC over {strongest} (strongest) +" in named


def test_where_nothing_could_be_compared_no_rival_is_the_strongest() -> None:
    assert strongest_rival({RULE: None, ORDER_COUNT: None}) is None
    assert strongest_rival({RULE: None, ORDER_COUNT: 0.1, PURCHASES: -0.1}) == PURCHASES


@pytest.mark.parametrize(
    ("better", "name"),
    [
        ({"champion": ranked(90, 60)}, "the champion"),
        ({"champion": ranked(60, 100), "rivals": {RULE: ranked(90, 60)}}, "the retention team's rule"),
        ({"champion": ranked(60, 100), "rivals": {ORDER_COUNT: ranked(90, 60)}}, "the count of orders alone"),
        ({"champion": ranked(60, 100), "rivals": {PURCHASES: ranked(90, 60)}}, "the purchase model"),
    ],
)
def test_with_a_champion_nobody_may_be_better_by_more_than_the_margin(better: dict[str, Any], name: str) -> None:
    evaluation = judged(customers(60, 100, **better), policy())
    assert evaluation.verdict is Verdict.FAIL
    (reason,) = missed(evaluation)
    assert name in reason
    assert reason.endswith("allowed: at least -0.050 (lower end)")
    assert judged(customers(60, 100, **better), policy(max_shortfall=0.9)).verdict is Verdict.PASS


def test_with_a_champion_to_be_level_with_it_and_the_rule_is_enough() -> None:
    rivals = {RULE: ranked(60, 100), ORDER_COUNT: ranked(60, 100)}
    level = customers(60, 100, rivals=rivals, champion=ranked(60, 100))
    assert judged(level, policy(max_shortfall=0.0)).verdict is Verdict.PASS
    # The margin is of the lower bound: a shortfall may be all but certain and still within it.
    short = customers(60, 100, champion=ranked(62, 100))
    assert judged(short, policy(max_shortfall=0.0)).verdict is Verdict.FAIL
    assert judged(short, policy(max_shortfall=0.05)).verdict is Verdict.PASS


def test_a_champion_with_nobody_to_compare_it_on_is_not_beaten() -> None:
    scored = customers(60, 100, champion=ranked(10, 100), is_unseen=np.arange(1000) >= 100)
    evaluation = judged(scored, policy())
    (reason,) = missed(evaluation)
    few = "too few customers to compare on: 900"
    assert reason == f"missed: PR-AUC over the champion {few}; allowed: at least -0.050 (lower end)"
    undefined = evaluation.comparisons[-1]
    assert (undefined.pr_auc, undefined.challenger_pr_auc, undefined.recall, undefined.challenger_recall) == (None,) * 4
    assert undefined.difference == Estimate(None, None, None)


# ---- verdict: looks into the future


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_feature_that_alone_ranks_too_well_in_either_direction_fails_and_is_named(direction: float) -> None:
    rng = np.random.default_rng(0)
    labels = customers(60, 100).labels
    leak = direction * (labels + rng.normal(0, 0.25, 1000))
    fair = rng.normal(0, 1, 1000)
    evaluation = judged(customers(60, 100, features={"fair": fair, "next_order_at": leak}), policy())
    assert evaluation.verdict is Verdict.FAIL
    (reason,) = missed(evaluation)
    area = roc_auc_score(labels, direction * leak)
    assert reason == f"missed: no look ahead: ROC-AUC of next_order_at alone {area:.3f}; allowed: at most 0.950"
    assert {canary.feature: canary.roc_auc for canary in evaluation.leakage} == {
        "fair": pytest.approx(max(roc_auc_score(labels, fair), roc_auc_score(labels, -fair))),
        "next_order_at": pytest.approx(area),
    }


def test_every_leaking_feature_is_named_and_of_fair_ones_the_best() -> None:
    labels = customers(60, 100).labels
    leaks = {"one": labels, "fair": np.arange(1000.0) % 7, "other": -labels}
    found = judged(customers(60, 100, features=leaks), policy())
    told = [
        f"missed: no look ahead: ROC-AUC of {name} alone 1.000; allowed: at most 0.950" for name in ("one", "other")
    ]
    assert missed(found) == told
    # One of them is the series that is plotted.
    assert [criterion.key for criterion in found.criteria][-3:] == ["single_feature_roc_auc", "", "roc_auc"]
    rules = policy().model_copy(update={"leakage": Leakage(max_single_feature_auc=1.0)})
    evaluation = judged(customers(60, 100, features=leaks), rules)
    assert evaluation.verdict is Verdict.PASS
    assert any("of one alone 1.000; allowed: at most 1.000" in reason for reason in evaluation.reasons)


def test_a_model_that_computes_the_label_fails_though_no_single_feature_does() -> None:
    evaluation = judged(customers(100, 0), policy())
    assert evaluation.verdict is Verdict.FAIL
    assert missed(evaluation) == ["missed: not too good to be true: ROC-AUC 1.000; allowed: at most 0.980"]
    rules = policy().model_copy(update={"leakage": Leakage(max_model_auc=1.0)})
    assert judged(customers(100, 0), rules).verdict is Verdict.PASS


# ---- verdict: what cannot be decided


def changed(field: str, place: int, value: float | None) -> Scored:
    scored = customers(60, 100)
    values = getattr(scored, field).copy()
    values[place] = math.nan if value is None else value
    return replace(scored, **{field: values})


def with_champion(place: int) -> Scored:
    champion = ranked(60, 100)
    champion[place] = math.nan
    return customers(60, 100, champion=champion, is_unseen=np.arange(1000) != 7)


@pytest.mark.parametrize(
    ("scored", "reason"),
    [
        (None, "nothing was scored"),
        (customers(0, 0, churners=0, rows=0), "there are no test rows"),
        (customers(0, 10, churners=0, rows=50), "there is no churner among the test rows"),
        (customers(10, 0, churners=50, rows=50), "every test row is a churner"),
        (changed("labels", 3, None), "some labels are unknown, or neither 0 nor 1"),
        (changed("labels", 3, 0.5), "some labels are unknown, or neither 0 nor 1"),
        (changed("labels", 3, 2.0), "some labels are unknown, or neither 0 nor 1"),
        (changed("labels", 999, -1.0), "some labels are unknown, or neither 0 nor 1"),
        (
            customers(10, 0, churners=50, rows=60, labels=np.full(60, 2.0)),
            "some labels are unknown, or neither 0 nor 1",
        ),
        (changed("scores", 3, None), "some scores are missing or NaN"),
        (changed("scores", 3, math.inf), "some scores are missing or NaN"),
        (
            customers(60, 100, rivals={RULE: np.where(np.arange(1000) == 5, np.nan, 0.0)}),
            "some scores of the retention team's rule are missing or NaN",
        ),
        (with_champion(5), "some scores of the champion are missing or NaN"),
    ],
    ids=[
        "None",
        "no rows",
        "no churners",
        "only churners",
        "unknown label",
        "half a label",
        "label 2",
        "label -1",
        "only labels of 2",
        "NaN score",
        "infinite score",
        "NaN of the rule",
        "NaN of the champion",
    ],
)
@pytest.mark.parametrize("has_threshold", [True, False])
def test_what_cannot_be_decided_is_not_evaluable_with_its_reason(
    scored: Scored | None, reason: str, has_threshold: bool, few_replicates: None
) -> None:
    lenient = policy(min_recall=0.01, floor=0.01, max_shortfall=0.99, min_gain_over_rule=-0.99)
    evaluation = judge(scored, lenient, has_threshold=has_threshold)
    assert evaluation.verdict is Verdict.NOT_EVALUABLE
    assert evaluation.reasons == (reason,)
    found = (evaluation.comparisons, evaluation.leakage, evaluation.slices, evaluation.warnings)
    assert (*found, evaluation.single_features) == ((), (), (), (), ())


def test_a_missing_champion_score_of_a_customer_it_may_have_learned_from_matters_to_nobody(
    few_replicates: None,
) -> None:
    assert judged(with_champion(7), policy()).verdict is Verdict.PASS


def test_an_obstacle_shuts_the_gate_whatever_the_scores_are_and_all_reasons_are_told() -> None:
    obstacles = ["the splits break disjoint_customers", "the champion, version 3, cannot be scored"]
    scored = customers(60, 100)
    evaluation = judge(scored, policy(), has_threshold=True, obstacles=obstacles)
    assert evaluation.verdict is Verdict.NOT_EVALUABLE
    assert list(evaluation.reasons) == obstacles
    # The figures of what was scored are told beside, as they are of no use to a gate.
    assert evaluation.figures == figures(scored.labels, scored.scores, scored.is_alert, 0.95)
    nothing = judge(None, policy(), has_threshold=True, obstacles=obstacles[:1])
    assert list(nothing.reasons) == obstacles[:1]
    both = judge(changed("scores", 3, None), policy(), has_threshold=True, obstacles=obstacles[:1])
    assert list(both.reasons) == [*obstacles[:1], "some scores are missing or NaN"]
    assert nothing.figures.rows == both.figures.rows == 0


# ---- warnings


@pytest.mark.parametrize(("feature", "sign"), [("recency_days", 1.0), ("total_orders", -1.0)])
def test_a_single_feature_that_ranks_as_well_as_the_model_is_warned_of_and_stops_nothing(
    feature: str, sign: float
) -> None:
    scored = customers(60, 100, features={feature: sign * ranked(60, 100)})
    evaluation = judged(scored, policy())
    assert evaluation.verdict is Verdict.PASS
    (warning,) = evaluation.warnings
    area = average_precision_score(scored.labels, scored.scores)
    assert warning == f"{feature} alone may rank as well: PR-AUC {area:.3f} against the model's {area:.3f}"
    (gain,) = evaluation.single_features
    assert (gain.key, gain.is_met, gain.value, gain.limit) == (f"pr_auc_over_{feature}_alone", False, 0.0, 0.0)
    # The long silent and those of few orders are the risky ones: turned around they rank badly.
    opposite = judged(customers(60, 100, features={feature: -sign * ranked(60, 100)}), policy())
    assert opposite.warnings == ()
    (gain,) = opposite.single_features
    assert gain.is_met
    assert gain.observed == f"{gain.value:+.3f}"
    assert gain.allowed == "more than +0.000 (lower end)"


def test_other_features_are_not_warned_of() -> None:
    assert judged(customers(60, 100, features={"gap_ratio": ranked(60, 100)}), policy()).warnings == ()


# ---- whether the scores are probabilities


def calibration_of_verdict(scores: Floats, **gate: float) -> dict[str, bool]:
    rules = policy(**gate)
    found = judged(customers(60, 100, scores=scores), rules).criteria
    return {each.key: each.is_met for each in found if each.key in ("expected_over_observed", "calibration_slope")}


@pytest.mark.usefixtures("few_replicates")
@pytest.mark.parametrize(
    ("alerted", "others", "factor", "met"),
    [
        # 160 alerts of whom 60 left, 840 others of whom 40 did: 0.375 and 0.048 are the truth, and 100 churners.
        (0.375, 0.048, 1.5, [True, True]),
        # Expected 228: the interval of the ratio is 1.9 to 2.8; of the slope 0.56, 0.46 to 0.67.
        (0.9, 0.1, 3.0, [True, True]),
        (0.9, 0.1, 2.5, [True, True]),
        (0.9, 0.1, 1.6, [False, True]),
        (0.9, 0.1, 1.4, [False, False]),
        # Too low together, and the log-odds too flat: the slope is 3.4, at least 2.8.
        (0.04, 0.02, 3.0, [False, True]),
        (0.04, 0.02, 2.5, [False, False]),
    ],
)
def test_a_model_fails_only_where_it_is_shown_to_be_miscalibrated_beyond_the_factor(
    alerted: float, others: float, factor: float, met: list[bool]
) -> None:
    scores = np.where(customers(60, 100).is_alert, alerted, others)
    found = calibration_of_verdict(scores, max_miscalibration=factor)
    assert found == dict(zip(("expected_over_observed", "calibration_slope"), met, strict=True))


@pytest.mark.usefixtures("few_replicates")
def test_scores_that_are_no_probabilities_on_purpose_need_not_add_up() -> None:
    rules = policy(max_miscalibration=1.5)
    balanced = rules.model_copy(update={"model": rules.model.model_copy(update={"class_weights": "balanced"})})
    keys = {criterion.key for criterion in judged(customers(60, 100), balanced).criteria}
    assert "calibration_slope" in keys
    assert "expected_over_observed" not in keys


@pytest.mark.usefixtures("few_replicates")
def test_a_slope_that_cannot_be_told_refuses_nobody() -> None:
    found = judged(customers(100, 0), policy()).criteria
    (slope,) = (each for each in found if each.key == "calibration_slope")
    assert (slope.observed, slope.value, slope.is_met) == ("cannot be told", None, True)


# ---- several dates: the verdict on their rows together, and on how many of them hold


def backtest(**gate: Any) -> ChurnPolicy:
    return policy(**{"min_recall": 0.3, "evaluation": "backtest", **gate})


GOOD, POOR = customers(60, 100), customers(18, 150)


def test_a_model_that_is_good_at_every_date_passes_on_all_of_them_together(few_replicates: None) -> None:
    scored = over_dates(GOOD, GOOD, GOOD)
    evaluation = judged(scored, backtest())
    assert evaluation.verdict is Verdict.PASS, missed(evaluation)
    assert (evaluation.figures.rows, evaluation.figures.churners) == (3_000, 300)
    assert evaluation.figures.recall == Estimate(0.6, *wilson_interval(180, 300, 0.95))
    told = "met: dates at which recall and rankings hold 3 of 3 (asked for: 5); allowed: at least 2"
    assert told in evaluation.reasons
    assert [str(each.as_of) for each in evaluation.dates] == ["2025-11-03", "2025-11-10", "2025-11-17"]
    assert [each.is_own for each in evaluation.dates] == [False, False, True]
    assert evaluation.dates[0].figures == figures(GOOD.labels, GOOD.scores, GOOD.is_alert, 0.95)


@pytest.mark.parametrize("good", [0, 2, 4])
def test_a_model_that_is_good_on_one_monday_alone_does_not_pass(good: int, few_replicates: None) -> None:
    # So good there that all together would do.
    perfect = customers(100, 100)
    weeks = [perfect if week == good else POOR for week in range(5)]
    lenient = backtest(precision_floor=0.1, min_gain_over_rule=-0.5, max_miscalibration=100.0)
    evaluation = judged(over_dates(*weeks), lenient)
    assert evaluation.verdict is Verdict.FAIL
    assert missed(evaluation)[0] == "missed: dates at which recall and rankings hold 1 of 5; allowed: at least 3"
    assert len(missed(evaluation)) == (1 if good == 4 else 2)
    assert [each.is_met for each in evaluation.dates] == [week == good for week in range(5)]
    assert evaluation.dates[(good + 1) % 5].missed == ("recall 0.180, at least 0.300",)


def test_models_of_other_dates_do_not_speak_for_a_version_that_finds_nobody(few_replicates: None) -> None:
    """Its own week it ranks the wrong way round and alerts nobody in; all the other weeks would carry it."""
    own = replace(GOOD, scores=np.where(GOOD.labels == 1, 0.01, 0.1), is_alert=np.zeros(1_000, dtype=bool))
    evaluation = judged(over_dates(GOOD, GOOD, GOOD, GOOD, own), backtest())
    assert [each.is_met for each in evaluation.dates] == [True, True, True, True, False]
    assert evaluation.verdict is Verdict.FAIL
    (reason,) = missed(evaluation)
    assert reason.startswith("missed: recall and rankings at its own date recall 0.000, at least 0.300; PR-AUC")


def test_weeks_that_fall_short_are_borne_as_far_as_the_policy_says(few_replicates: None) -> None:
    weeks = over_dates(GOOD, POOR, GOOD, POOR, GOOD)
    assert judged(weeks, backtest()).verdict is Verdict.PASS
    assert missed(judged(weeks, backtest(min_dates_met=0.61))) == [
        "missed: dates at which recall and rankings hold 3 of 5; allowed: at least 4"
    ]


def test_a_date_falls_short_by_its_ranking_too(few_replicates: None) -> None:
    rule = customers(90, 90).scores
    behind = replace(GOOD, rivals={**GOOD.rivals, RULE: rule})
    evaluation = judged(over_dates(GOOD, behind, GOOD), backtest())
    (shortfall,) = evaluation.dates[1].missed
    assert shortfall.startswith("PR-AUC over the retention team's rule -0.")
    assert shortfall.endswith("more than +0.000")
    assert [each.is_met for each in evaluation.dates] == [True, False, True]
    # Beside a champion the rule is a rival as the others are.
    champion = replace(GOOD, champion=GOOD.scores)
    strong = customers(62, 100).scores
    near = replace(GOOD, rivals={**GOOD.rivals, RULE: strong})
    assert judged(over_dates(near, near, champion), backtest()).dates[0].missed == ()


def test_too_few_dates_are_not_evaluable_whatever_is_found_there(few_replicates: None) -> None:
    for scored, dates in ((over_dates(GOOD, GOOD), 2), (GOOD, 1)):
        evaluation = judged(scored, backtest())
        assert evaluation.verdict is Verdict.NOT_EVALUABLE
        told = f"dates to judge at, by which an outcome was known to learn from: {dates}; "
        elsewhere = 'gate.min_backtest_dates asks for 3; gate.evaluation = "crossfit" would judge at one'
        assert evaluation.reasons == (told + elsewhere,)
    assert judged(over_dates(GOOD, GOOD), backtest(min_backtest_dates=2)).verdict is Verdict.PASS


def test_customers_who_are_judged_at_every_date_make_nobody_surer_than_one_date_does() -> None:
    once = judged(GOOD, policy()).figures
    apart, again = (
        judged(over_dates(GOOD, GOOD, GOOD, is_same_people=same), backtest()).figures for same in (False, True)
    )
    assert bounds(again.recall) == pytest.approx(bounds(once.recall), abs=1e-12)
    for name in ("recall", "precision", "alert_share", "lift", "pr_auc", "roc_auc", "brier"):
        low, high = bounds(getattr(again, name))
        apart_low, apart_high = bounds(getattr(apart, name))
        once_low, once_high = bounds(getattr(once, name))
        assert high - low > 1.3 * (apart_high - apart_low), name
        assert high - low == pytest.approx(once_high - once_low, rel=1e-6), name


def test_comparisons_resample_customers_whole_too() -> None:
    near = replace(GOOD, rivals={RULE: ranked(50, 120)})
    apart, again = (
        compare(over_dates(near, near, near, is_same_people=same), backtest())[0][0] for same in (False, True)
    )
    assert again.difference.value == pytest.approx(apart.difference.value)
    (low, high), (apart_low, apart_high) = bounds(again.difference), bounds(apart.difference)
    assert high - low > 1.3 * (apart_high - apart_low)


def test_a_slice_of_the_same_few_customers_at_many_dates_is_as_small_as_they_are(few_replicates: None) -> None:
    # 30 churners, five times.
    few = customers(20, 20, churners=30, rows=200)
    rows = over_dates(few, few, few, few, few, is_same_people=True)
    (part,) = slice_figures(replace(rows, slices={"all": np.array(["everybody"] * 1_000)}), backtest())
    assert part.figures.churners == 150
    assert not part.is_judgeable


def test_what_one_date_alone_knows_of_the_future_is_not_thinned_out(few_replicates: None) -> None:
    leak = {"recency_days": GOOD.labels}
    scored = over_dates(GOOD, GOOD, GOOD, GOOD, replace(GOOD, features=leak))
    evaluation = judged(scored, backtest())
    assert evaluation.verdict is Verdict.FAIL
    assert missed(evaluation) == [
        "missed: no look ahead: ROC-AUC of recency_days alone 1.000; allowed: at most 0.950",
    ]
    seer = replace(GOOD, scores=GOOD.labels * 0.5 + 0.2)
    told = missed(judged(over_dates(GOOD, GOOD, seer), backtest(max_miscalibration=100.0)))
    assert told == ["missed: not too good to be true: ROC-AUC 1.000; allowed: at most 0.980"]


def test_a_champion_is_compared_at_the_models_own_date_alone(few_replicates: None) -> None:
    own = replace(GOOD, champion=ranked(50, 120))
    *_, found = judged(over_dates(GOOD, GOOD, own), backtest()).comparisons
    alone = compare(own, policy())[0][-1]
    assert (found.rival, found.rows) == (CHAMPION, 1_000)
    assert found == alone


def test_probabilities_that_are_right_are_not_called_wrong_because_those_who_left_do_not_come_again() -> None:
    """Of 1,000 customers a fifth leaves at each of two dates, as foretold; who left at the first comes no more."""
    left = np.arange(1_000) < 200
    again = np.arange(200, 1_000)
    people = np.concatenate([np.arange(1_000), again])
    order = np.argsort(people, kind="stable")
    labels = np.concatenate([left, again < 360]).astype(float)[order]
    days = np.where(np.arange(1_800) < 1_000, np.datetime64("2025-11-03"), np.datetime64("2025-12-08"))[order]
    scored = Scored(
        labels, np.full(1_800, 0.2), labels == 1, {}, {}, {}, np.ones(1_800, bool), dates=days, customers=people[order]
    )
    asked = scored.one_row_each()
    assert (len(asked.labels), asked.customers) == (1_000, None)
    assert asked.scores.sum() == pytest.approx(asked.labels.sum())


def test_what_scores_mean_is_learned_from_the_models_own_date_and_asked_of_one_row_of_each_customer(
    few_replicates: None,
) -> None:
    shy = replace(GOOD, scores=GOOD.scores / 2)
    evaluation = judged(over_dates(shy, shy, GOOD), backtest())
    assert evaluation.calibration == calibration_of(GOOD.scores, GOOD.labels)
    again = judged(over_dates(GOOD, shy, shy, is_same_people=True), backtest())
    # Of customers who come again the first row.
    asked, alone = (
        {each.key: each for each in found.criteria if each.key in CALIBRATION_KEYS}
        for found in (again, judged(GOOD, policy()))
    )
    assert asked == alone
    told = {each.key: each.value for each in evaluation.criteria}[EXPECTED_OVER_OBSERVED]
    assert told == pytest.approx((2 * shy.scores.sum() + GOOD.scores.sum()) / 300)

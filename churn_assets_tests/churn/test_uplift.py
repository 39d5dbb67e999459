"""What a contact changes: the formulas by hand and as scikit-uplift has them, the estimate, and when its gate opens."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from churn_assets.churn import intervals
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import UNDEFINED, Floats
from churn_assets.churn.policy import ChurnPolicy, Retention
from churn_assets.churn.uplift import (
    FOLDS,
    Trial,
    UpliftModel,
    UpliftRanking,
    by_tenths,
    crossfitted_uplift,
    fitted,
    fold_of,
    judge,
)

POLICY = ChurnPolicy(retention=Retention(min_held_out=200))


def ranking(scores: list[float], contacted: list[int], kept: list[float]) -> UpliftRanking:
    return UpliftRanking.of(np.array(scores), np.array(contacted, dtype=bool), np.array(kept))


def test_the_qini_curve_of_four_customers_is_that_counted_by_hand() -> None:
    # By falling score: contacted and stayed, held out and left, contacted and left, held out and stayed.
    four = ranking([4, 3, 2, 1], [1, 0, 1, 0], [1, 0, 0, 1])
    share, kept = four.curve(np.ones((1, 4)))
    assert share.tolist() == [[0, 0.25, 0.5, 0.75, 1]]
    # 1 - 0; 1 - 0 * 1/1; 1 - 0 * 2/1; 1 - 1 * 2/2: each of the 2 contacted.
    assert kept.tolist() == [[0, 0.5, 0.5, 0.5, 0]]
    # Trapezoids (0.5/2 + 0.5 + 0.5 + 0.5/2) / 4, and a straight line to 0 below.
    assert four.qini(np.ones((1, 4))).tolist() == [0.375]
    # The shares so far: 1 - 0, 1 - 0, 1/2 - 0, 1/2 - 1/2, each times the share of the rows.
    assert four.uplift_curve(np.ones((1, 4)))[1].tolist() == [[0, 0.25, 0.5, 0.375, 0]]


# qini_auc_score and uplift_auc_score of scikit-uplift 0.5.1 on `random_customers`.
SCIKIT_UPLIFT = (
    (1, 200, False, -0.04660133319055261, -0.05672811204354526),
    (2, 200, True, 0.003824678152176197, 0.0005384917972775861),
    (3, 1000, True, 0.054781353964967715, 0.06262864541139097),
    (4, 30, False, 0.17858039637700654, 0.22840566557718964),
)


def random_customers(seed: int, rows: int, *, has_ties: bool) -> tuple[Floats, Floats, Floats]:
    random = np.random.default_rng(seed)
    contacted, kept = (random.random(rows) < 0.8).astype(int), (random.random(rows) < 0.6).astype(int)
    scores = random.random(rows)
    return np.round(scores, 1) if has_ties else scores, contacted, kept


@pytest.mark.parametrize(("seed", "rows", "has_ties", "qini", "auuc"), SCIKIT_UPLIFT)
def test_qini_and_auuc_are_those_of_scikit_uplift(
    seed: int, rows: int, has_ties: bool, qini: float, auuc: float
) -> None:
    scores, contacted, kept = random_customers(seed, rows, has_ties=has_ties)
    weights, is_contacted = np.ones((1, rows)), contacted == 1

    def ranked(by: Floats) -> UpliftRanking:
        return UpliftRanking.of(by, is_contacted, kept.astype(float))

    # It divides by the areas of the best order there could be, by its own rules of what that is.
    best = ranked(kept * contacted - kept * (1.0 - contacted))
    is_by_outcome = (kept * (1 - contacted)).sum() > ((1 - kept) * contacted).sum()
    best_joint = ranked(2.0 * (kept == contacted) + (kept if is_by_outcome else contacted))
    assert (ranked(scores).qini(weights) / best.qini(weights))[0] == pytest.approx(qini, abs=1e-9)
    assert (ranked(scores).auuc(weights) / best_joint.auuc(weights))[0] == pytest.approx(auuc, abs=1e-9)


def test_a_weight_counts_as_so_many_equal_rows() -> None:
    scores, contacted, kept = random_customers(5, 60, has_ties=True)
    times = np.random.default_rng(6).integers(0, 4, 60)
    weighted = UpliftRanking.of(scores, contacted == 1, kept.astype(float)).qini(times[np.newaxis, :].astype(float))
    again = [np.repeat(of, times) for of in (scores, contacted, kept)]
    repeated = UpliftRanking.of(again[0], again[1] == 1, again[2].astype(float)).qini(np.ones((1, int(times.sum()))))
    assert weighted[0] == pytest.approx(repeated[0], abs=1e-12)


def trial(
    effect: Callable[[Floats], Floats] | float = 0.0, *, rows: int = 8_000, seed: int = 1, **changed: Any
) -> Trial:
    """Customers on four lists; what a contact adds to the chance of leaving follows the first of two features."""
    random = np.random.default_rng(seed)
    customers = np.sort(random.integers(rows // 2, size=rows))
    features = random.random((rows, 2))
    is_contacted = random.random(rows) < 0.7
    added = effect(features[:, 0]) if callable(effect) else np.full(rows, effect)
    leaves = 0.3 + 0.2 * features[:, 1]
    spend = random.lognormal(3.0, 0.5, rows)
    made = Trial(
        names=("first", "second"),
        features=features,
        customers=customers,
        lists=random.integers(4, size=rows),
        folds=np.array([fold_of(str(customer), "42") for customer in customers]),
        is_contacted=is_contacted,
        has_left=random.random(rows) < leaves + is_contacted * added,
        actions=np.full(rows, "reminder"),
        value=leaves * spend,
        spend=spend,
    )
    return replace(made, **changed)


def sleeping_dogs(first: Floats) -> Floats:
    """Half of them are kept by a contact, the other half are lost by it."""
    return np.where(first < 0.5, -0.2, 0.1)


@pytest.fixture(scope="module")
def varied() -> Trial:
    return trial(sleeping_dogs, rows=5_000)


@pytest.fixture(scope="module")
def estimated(varied: Trial) -> Floats:
    return crossfitted_uplift(varied, POLICY)


def test_the_estimate_finds_whom_a_contact_keeps_and_whom_it_loses(varied: Trial, estimated: Floats) -> None:
    is_kept = varied.features[:, 0] < 0.5
    # Few shallow trees: nearer to the mean effect than the truth, never beyond it.
    assert 0.1 < estimated[is_kept].mean() < 0.2
    assert -0.1 < estimated[~is_kept].mean() < 0.0


def test_no_customer_is_judged_by_a_model_that_saw_them(varied: Trial, estimated: Floats) -> None:
    is_first = varied.folds == 0
    others = varied.part(~is_first)
    again = fitted(others, POLICY).uplift(varied.features[is_first], varied.actions[is_first])
    assert (again == estimated[is_first]).all()
    # Every row of a customer is in one fold.
    assert all(len(set(varied.folds[varied.customers == customer])) == 1 for customer in varied.customers[:200])


def test_the_gate_opens_where_the_estimate_keeps_more_than_the_value_at_risk(varied: Trial, estimated: Floats) -> None:
    found = judge(varied, estimated, POLICY)
    assert found.verdict is Verdict.PASS, found.sentence
    assert found.gain.low is not None
    assert found.gain.low > 0
    assert [each.key for each in found.criteria] == ["contacted", "held_out", "fewest", "qini", "gain", "value_gain"]
    assert "Qini over the ranking by value at risk +" in found.sentence


@pytest.mark.parametrize("effect", [0.0, -0.1])
def test_the_gate_stays_shut_where_all_customers_are_changed_alike(effect: float) -> None:
    alike = trial(effect, rows=4_000, seed=2)
    found = judge(alike, crossfitted_uplift(alike, POLICY), POLICY)
    assert found.verdict is Verdict.FAIL
    assert any("Qini over random" in reason for reason in found.reasons)


def test_a_ranking_that_keeps_more_customers_and_less_of_what_they_spend_does_not_open_the_gate(varied: Trial) -> None:
    # Who is kept spends next to nothing, and the list by value has the few others whom a contact keeps first.
    is_kept = sleeping_dogs(varied.features[:, 0]) < 0
    is_rich = is_kept & (varied.features[:, 1] < 0.2)
    spend = np.where(is_rich, 1_000.0, 1.0)
    poor_first = np.where(is_kept, np.where(is_rich, 0.1, 0.2), -0.1)
    found = judge(replace(varied, spend=spend, value=spend + 0.0), poor_first, POLICY)
    assert found.verdict is Verdict.FAIL
    assert found.gain.low is not None
    assert found.gain.low > 0
    assert "in spend kept" in found.sentence


def test_the_same_estimate_and_value_gain_nothing(varied: Trial, estimated: Floats) -> None:
    found = judge(replace(varied, value=estimated), estimated, POLICY)
    assert found.verdict is Verdict.FAIL
    assert (found.gain.value, found.gain.low, found.gain.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            lambda of: {"is_contacted": np.zeros_like(of.is_contacted)},
            "0 contacted customers of lists made here, of known outcome",
        ),
        (lambda of: {"is_contacted": np.ones_like(of.is_contacted)}, "0 customers held out at random"),
        (lambda of: {"has_left": of.has_left & of.is_contacted}, "0 fewest who left or stayed"),
        (lambda of: {"value": np.full_like(of.value, np.nan)}, "values at risk are missing"),
    ],
)
def test_without_enough_to_judge_by_there_is_no_verdict(
    varied: Trial, estimated: Floats, changed: Callable[[Trial], dict[str, Any]], reason: str
) -> None:
    found = judge(replace(varied, **changed(varied)), estimated, POLICY)
    assert found.verdict is Verdict.NOT_EVALUABLE
    assert any(reason in each for each in found.reasons)


def test_however_many_resamples_are_drawn_at_a_time_the_intervals_are_the_same(
    varied: Trial, estimated: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judge(varied, estimated, POLICY)
    monkeypatch.setattr(intervals, "CELLS", 17 * 5_000)
    again = judge(varied, estimated, POLICY)
    assert again.gain.low is not None
    # Weighted sums of other blocks: another last digit.
    for one, other in ((found.qini, again.qini), (found.gain, again.gain), (found.value_gain, again.value_gain)):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-12)


def test_a_customer_on_many_lists_counts_as_one(varied: Trial, estimated: Floats) -> None:
    """Three copies of each row are three times the rows and not a bit more of customers."""
    some = varied.part(np.arange(5_000) < 1_000)
    once = judge(some, estimated[:1_000], POLICY)
    copied: dict[str, Any] = {name: np.concatenate([of] * 3) for name, of in vars(some).items() if name != "names"}
    often = judge(replace(varied, **copied), np.tile(estimated[:1_000], 3), POLICY)
    assert often.gain.low == pytest.approx(once.gain.low, abs=1e-9)
    observed = {each.key: each.value for each in often.criteria}
    assert observed["held_out"] == len(set(some.customers[~some.is_contacted]))
    assert observed["contacted"] == len(set(some.customers[some.is_contacted]))


def test_a_share_held_out_that_changed_with_the_customers_is_no_effect() -> None:
    """Of the list of those who leave most half is held out, of the other a tenth; a contact changes nothing."""
    random, rows = np.random.default_rng(4), 20_000
    lists = random.integers(2, size=rows)
    is_contacted = random.random(rows) < np.where(lists == 1, 0.5, 0.9)
    first = lists + 0.2 * random.random(rows)
    mixed = trial(rows=rows)
    has_left = random.random(rows) < np.where(lists == 1, 0.6, 0.2)
    mixed = replace(
        mixed,
        features=np.column_stack([first, random.random(rows)]),
        lists=lists,
        is_contacted=is_contacted,
        has_left=has_left,
    )
    by_list = UpliftRanking.of(first, is_contacted, (~has_left).astype(float))
    _, raw = by_list.curve(np.ones((1, rows)))
    weighted = UpliftRanking.of(first, is_contacted, (~has_left).astype(float), balance=mixed.balance)
    _, balanced = weighted.curve(np.ones((1, rows)))
    assert raw[0, -1] > 0.1
    assert abs(balanced[0, -1]) < 0.03


def test_an_action_that_does_something_else_has_an_estimate_of_its_own() -> None:
    random = np.random.default_rng(8)
    actions = np.where(random.random(8_000) < 0.5, "call", "reminder")
    alike = trial(-0.1, actions=actions)
    assert not fitted(alike, POLICY).by_action
    reached = alike.is_contacted & (actions == "call")
    apart = replace(alike, has_left=np.where(reached, random.random(8_000) < 0.8, alike.has_left))
    model = fitted(apart, POLICY)
    assert set(model.by_action) == {"call", "reminder"}
    assert model.uplift(apart.features, actions)[actions == "call"].mean() < -0.3
    # Of an action too few of which were held out nothing is claimed.
    few = np.where(np.arange(8_000) < 300, "call", "reminder")
    assert not fitted(replace(apart, actions=few), POLICY).by_action


def test_a_model_is_the_same_after_it_was_written_down(varied: Trial) -> None:
    model = fitted(varied, POLICY)
    again = UpliftModel.imported(model.exported())
    assert again.digest == model.digest
    assert (again.uplift(varied.features, varied.actions) == model.uplift(varied.features, varied.actions)).all()


def test_customers_are_dealt_into_equal_folds_by_themselves_and_the_salt_alone() -> None:
    dealt = np.bincount([fold_of(f"C{number}", "42") for number in range(5_000)], minlength=FOLDS)
    assert dealt.min() > 900
    assert fold_of("C1", "42") == fold_of("C1", "42")
    assert [fold_of(f"C{n}", "42") for n in range(50)] != [fold_of(f"C{n}", "43") for n in range(50)]


def test_tenths_tell_what_contacts_changed_where_most_was_expected_of_them(varied: Trial, estimated: Floats) -> None:
    tenths = by_tenths(varied, estimated, 0.95)
    assert [each.estimated for each in tenths] == sorted((each.estimated for each in tenths), reverse=True)
    first = np.argsort(-estimated, kind="stable")[: len(estimated) // 10]
    stayed, contacted = ~varied.has_left[first], varied.is_contacted[first]
    assert tenths[0].changed.value == pytest.approx(stayed[contacted].mean() - stayed[~contacted].mean())
    changed = [each.changed.value or 0.0 for each in tenths]
    assert sum(changed[:5]) > 0 > sum(changed[5:]), "some are kept, and some driven away"
    nobody = varied.part(varied.is_contacted)
    assert {each.changed for each in by_tenths(nobody, estimated[varied.is_contacted], 0.95)} == {UNDEFINED}

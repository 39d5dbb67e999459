"""Only a recorded PASS for exactly this model, policy and data opens the way; the rest is refused with its reasons."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from churn_assets.churn.evaluation import CHAMPION, ORDER_COUNT, RULE, Evaluation, Verdict, judge
from churn_assets.churn.evaluations import (
    EVALUATION_SCHEMA,
    Evidence,
    RecordedEvaluation,
    evaluation_row,
    recorded_evaluation,
)
from churn_assets.churn.policy import ChurnPolicy, Gate, Offer
from churn_assets.churn.profit import Earnings
from churn_assets.churn.promotion import judged_on_older_data, refusals
from churn_assets_tests.judged_customers import customers, ranked

ASKED = Evidence("model-digest-of-64-characters", "policy-digest", {"train": 3, "test": 4}, "2")
PASSED = RecordedEvaluation(Verdict.PASS, ("met: recall",), ASKED)


def recorded(**changed: Any) -> RecordedEvaluation:
    return replace(PASSED, evidence=replace(ASKED, **changed))


def test_a_pass_for_exactly_this_model_policy_data_and_champion_is_not_refused() -> None:
    same = RecordedEvaluation(
        Verdict.PASS, (), Evidence(ASKED.model_digest, ASKED.policy_digest, {"test": 4, "train": 3}, "2")
    )
    for evaluation in (PASSED, same):
        assert refusals(ASKED, evaluation) == []
    first = replace(ASKED, champion=None)
    assert refusals(first, recorded(champion=None)) == []


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        (None, ["no evaluation is recorded for model model-digest"]),
        (
            replace(PASSED, verdict=Verdict.FAIL, reasons=("missed: recall", "missed: alerts")),
            ["the recorded verdict is FAIL: missed: recall; missed: alerts"],
        ),
        (
            replace(PASSED, verdict=Verdict.NOT_EVALUABLE, reasons=("there are no test rows",)),
            ["the recorded verdict is NOT_EVALUABLE: there are no test rows"],
        ),
        (recorded(model_digest="another"), ["the evaluation judged model another, not model-digest"]),
        (
            recorded(policy_digest="old rules"),
            ["it was judged by policy old rules, and the policy now is policy-digest"],
        ),
        (
            recorded(data_versions={"train": 3, "test": 5}),
            ["it judged version 5 of test, the model was trained beside version 4"],
        ),
        (
            recorded(data_versions={"train": 3}),
            ["it judged version None of test, the model was trained beside version 4"],
        ),
        (
            recorded(data_versions={"train": 3, "test": 4, "more": 0}),
            ["it judged version 0 of more, the model was trained beside version None"],
        ),
        (recorded(champion="1"), ["it was compared with champion version 1, and champion version 2 serves now"]),
        (recorded(champion=None), ["it was compared with no champion, and champion version 2 serves now"]),
    ],
    ids=[
        "no record",
        "fail",
        "not evaluable",
        "model",
        "policy",
        "version",
        "missing version",
        "unasked version",
        "champion",
        "no champion",
    ],
)
def test_each_single_fault_is_refused_and_named(evaluation: RecordedEvaluation | None, told: list[str]) -> None:
    assert refusals(ASKED, evaluation) == told


def test_a_champion_that_no_longer_serves_is_no_longer_the_one_to_beat() -> None:
    asked = replace(ASKED, champion=None)
    assert refusals(asked, PASSED) == ["it was compared with champion version 2, and no champion serves now"]


def test_several_faults_are_all_named() -> None:
    evaluation = RecordedEvaluation(Verdict.FAIL, ("missed: recall",), Evidence("other", "other", {"train": 2}))
    assert len(refusals(ASKED, evaluation)) == 6


def test_no_challenger_is_tested_before_the_champion() -> None:
    champion = date(2025, 11, 24)
    assert judged_on_older_data(champion, champion, "3") == []
    assert judged_on_older_data(champion + timedelta(days=7), champion, "3") == []
    assert judged_on_older_data(champion - timedelta(days=1), champion, "3") == [
        "it is tested at 2025-11-23, before the champion, version 3, which was tested at 2025-11-24"
    ]


NOW = datetime(2024, 5, 6, tzinfo=UTC)
POLICY = ChurnPolicy(gate=Gate(evaluation="holdout"))
GOOD = judge(customers(60, 100), POLICY, has_threshold=True)
NOTHING = judge(None, POLICY, has_threshold=False)


def row(
    evaluation: Evaluation, evidence: Evidence, *, minutes: int = 0, run_id: str = "run", policy: ChurnPolicy = POLICY
) -> dict:
    return evaluation_row(
        evaluation, evidence, policy, run_id=run_id, threshold=0.9, evaluated_at=NOW + timedelta(minutes=minutes)
    )


def as_recorded(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return pa.Table.from_pylist(list(rows), EVALUATION_SCHEMA).to_pylist(maps_as_pydicts="strict")


def test_an_evaluation_is_read_back_as_it_was_recorded_and_the_latest_counts() -> None:
    assert (GOOD.verdict, NOTHING.verdict) == (Verdict.PASS, Verdict.NOT_EVALUABLE)
    asked = Evidence("model", POLICY.digest, {"train": 3, "test": 4}, "7")
    rows = [
        row(GOOD, asked, minutes=5),
        row(NOTHING, asked),
        row(NOTHING, replace(asked, model_digest="another"), minutes=9),
        # The same trees and threshold out of another training run.
        row(NOTHING, asked, minutes=9, run_id="another run"),
    ]
    table = as_recorded(*rows)
    latest = recorded_evaluation(table, "model", "run")
    assert latest is not None
    assert refusals(asked, latest) == []
    assert list(latest.reasons) == list(GOOD.reasons)
    assert latest.criteria == GOOD.criteria
    # As an earlier version recorded it.
    (before,) = [recorded_evaluation([{**each, "criteria": None}], "model", "run") for each in table[:1]]
    assert before is not None
    assert before.criteria == ()
    for model, run_id in (("another", "run"), ("model", "another run")):
        other = recorded_evaluation(table, model, run_id)
        assert other is not None
        assert other.verdict is Verdict.NOT_EVALUABLE
    assert recorded_evaluation(table, "unknown", "run") is None
    assert recorded_evaluation(table, "model", "unknown") is None
    assert recorded_evaluation([], "model", "run") is None


def test_figures_slices_comparisons_and_canaries_are_recorded_beside_the_verdict() -> None:
    scored = customers(
        60,
        100,
        rivals={RULE: ranked(40, 150), ORDER_COUNT: ranked(30, 200)},
        champion=ranked(55, 110),
        slices={"half": np.where(np.arange(1000) % 2 == 0, "even", "odd")},
    )
    evaluation = judge(scored, POLICY, has_threshold=True)
    evidence = Evidence("model", "the policy of the training", {"train": 3}, "7")
    (found,) = as_recorded(row(evaluation, evidence))
    assert found["champion"] == "7"
    assert found["evaluation"] == "holdout"
    assert {name: found[name] for name in evaluation.figures.flat()} == evaluation.figures.flat()
    assert found["rule_pr_auc"] == evaluation.comparisons[0].pr_auc
    assert [part["part"] for part in found["slices"]] == ["even", "odd"]
    for part, recorded_part in zip(evaluation.slices, found["slices"], strict=True):
        assert recorded_part["is_judgeable"] is part.is_judgeable
        assert {name: recorded_part[name] for name in part.figures.flat()} == part.figures.flat()
    assert [rival["rival"] for rival in found["comparisons"]] == [RULE, ORDER_COUNT, CHAMPION]
    assert [
        (rival["difference"], rival["difference_low"], rival["difference_high"]) for rival in found["comparisons"]
    ] == [(of.difference.value, of.difference.low, of.difference.high) for of in evaluation.comparisons]
    assert [(rival["recall"], rival["challenger_recall"]) for rival in found["comparisons"]] == [
        (of.recall, of.challenger_recall) for of in evaluation.comparisons
    ]
    assert found["leakage"] == [{"feature": "recency_days", "roc_auc": 0.5}]


def test_what_contacts_earn_is_recorded_with_the_whole_curve() -> None:
    scored = customers(60, 100)
    offers = {"call": Offer(contact_cost=1.0, acceptance=0.5)}
    earned = Earnings(np.where(scored.labels == 1, 4.0, -1.0), np.full(1000, 10.0), offers)
    evaluation = judge(replace(scored, earnings=earned), POLICY, has_threshold=True)
    assert evaluation.profit is not None
    rows = [row(evaluation, Evidence("model", POLICY.digest, {})), row(GOOD, Evidence("model", POLICY.digest, {}))]
    found, without = as_recorded(*rows)
    assert {name: found[name] for name in evaluation.profit.flat()} == evaluation.profit.flat()
    assert found["profit_per_customer"] == pytest.approx((60 * 4 - 100) / 1000)
    assert found["empc_action"] == "call"
    assert [point["share"] for point in found["profit_curve"]] == [share / 100 for share in range(101)]
    assert [(each["profit"], each["profit_low"], each["profit_high"]) for each in found["profit_curve"]] == [
        (each.value, each.low, each.high) for each in evaluation.profit.curve
    ]
    assert (without["empc"], without["empc_action"], without["profit_curve"]) == (None, None, None)


def test_what_is_undefined_is_recorded_as_null() -> None:
    evidence = Evidence("model", POLICY.digest, {})
    (found,) = as_recorded(row(NOTHING, evidence))
    assert found["verdict"] == "NOT_EVALUABLE"
    assert (found["rows"], found["recall"], found["pr_auc_low"], found["rule_pr_auc"], found["champion"]) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_an_evaluation_is_bound_to_the_policy_that_judged_whichever_trained() -> None:
    policy = ChurnPolicy(crisis_delay_minutes=10, gate=POLICY.gate)
    recorded_row = row(NOTHING, Evidence("model", "the policy of the training", {}), policy=policy)
    assert recorded_row["policy_digest"] == policy.digest

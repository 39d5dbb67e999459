"""Only a recorded PASS for exactly this model, policy and data opens the way; the rest is refused with its reasons."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.evaluation import Verdict, judge
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import (
    EVALUATION_SCHEMA,
    Evidence,
    PromotionRefusedError,
    RecordedEvaluation,
    evaluation_row,
    recorded_evaluation,
    refusals,
    require_earned,
)

ASKED = Evidence("model-digest-of-64-characters", "policy-digest", {"train": 3, "test": 4})
PASSED = RecordedEvaluation(Verdict.PASS, ("met: recall",), ASKED)


def recorded(**changed: object) -> RecordedEvaluation:
    return replace(PASSED, evidence=replace(ASKED, **changed))


def test_a_pass_for_exactly_this_model_policy_and_data_is_not_refused():
    same = RecordedEvaluation(
        Verdict.PASS, (), Evidence(ASKED.model_digest, ASKED.policy_digest, {"test": 4, "train": 3})
    )
    for evaluation in (PASSED, same):
        assert refusals(ASKED, evaluation) == []
        require_earned(ASKED, evaluation, "Registration")


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
    ],
    ids=["no record", "fail", "not evaluable", "model", "policy", "version", "missing version", "unasked version"],
)
def test_each_single_fault_is_refused_and_named(evaluation, told):
    assert refusals(ASKED, evaluation) == told
    with pytest.raises(PromotionRefusedError) as refused:
        require_earned(ASKED, evaluation, "Promotion of version 3")
    assert refused.value.problems == tuple(told)
    assert str(refused.value).startswith("Promotion of version 3 is refused")
    assert "Next step: " in str(refused.value)


def test_several_faults_are_all_named():
    evaluation = RecordedEvaluation(Verdict.FAIL, ("missed: recall",), Evidence("other", "other", {"train": 2}))
    assert len(refusals(ASKED, evaluation)) == 5


def test_an_evaluation_is_read_back_as_it_was_recorded_and_the_latest_counts(spark: SparkSession):
    policy = ChurnPolicy()
    now = datetime(2024, 5, 6, tzinfo=timezone.utc)
    good = judge([(0.9, 1.0, 90), (0.9, 0.0, 10), (0.1, 1.0, 10), (0.1, 0.0, 900)], 0.9, policy)
    nothing = judge([], None, policy)
    assert (good.verdict, nothing.verdict) == (Verdict.PASS, Verdict.NOT_EVALUABLE)
    asked = Evidence("model", policy.digest, {"train": 3, "test": 4})

    def row(evaluation, minutes: int, evidence: Evidence) -> dict:
        return evaluation_row(
            evaluation,
            evidence,
            policy,
            run_id="run",
            threshold=0.9,
            rule_pr_auc=None,
            evaluated_at=now + timedelta(minutes=minutes),
        )

    rows = [row(good, 5, asked), row(nothing, 0, asked), row(nothing, 9, replace(asked, model_digest="another"))]
    table = spark.createDataFrame(rows, EVALUATION_SCHEMA)
    latest = recorded_evaluation(table, "model")
    assert latest is not None
    assert refusals(asked, latest) == []
    assert list(latest.reasons) == list(good.reasons)
    other = recorded_evaluation(table, "another")
    assert other is not None
    assert other.verdict is Verdict.NOT_EVALUABLE
    assert recorded_evaluation(table, "unknown") is None
    assert recorded_evaluation(None, "model") is None


def test_an_evaluation_is_bound_to_the_policy_that_judged_whichever_trained(spark: SparkSession):
    policy = ChurnPolicy(crisis_delay_minutes=10)
    row = evaluation_row(
        judge([], None, policy),
        Evidence("model", "the policy of the training", {}),
        policy,
        run_id="run",
        threshold=None,
        rule_pr_auc=None,
        evaluated_at=datetime(2024, 5, 6, tzinfo=timezone.utc),
    )
    assert row["policy_digest"] == policy.digest

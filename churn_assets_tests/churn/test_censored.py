"""What is known at the test date of customers whose outcome is not over by then, and nothing that comes later."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn import models
from churn_assets.churn.censored import censored_rows, with_censored
from churn_assets.churn.distributed_trees import class_weights
from churn_assets.churn.intervals import Floats
from churn_assets.churn.models import ChurnModel, GradientBoosting, train_churn_model
from churn_assets.churn.policy import Calendar, Churn, ChurnPolicy, Model, Windows
from churn_assets.churn.purchase_model import PurchaseModel, histories
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.splits import SplitDates, current_rows, split_dates, train_rows
from churn_assets.churn.trees import model_digest
from churn_assets_tests.panels import rows_of

POLICY = ChurnPolicy()
PRIOR = PurchasePrior(PurchaseModel(r=2.0, alpha=25.0, a=0.5, b=6.0, waiting=0.05), days=30)
TEST = date(2025, 11, 3)
DATES = SplitDates(TEST, (date(2025, 9, 29),), is_out_of_time=True)
BEGUN = [TEST - timedelta(days=days) for days in (28, 21, 14, 7)]
FIELDS = ["customer_id string", "as_of date", *(f"{name} double" for name in POLICY.features), "label double"]
Rows = list[dict[str, Any]]


def row(customer: str, as_of: date, silence: float, label: float | None = 1.0, **others: float) -> dict[str, Any]:
    features = dict.fromkeys(POLICY.features, 1.0) | {"orders_ever": 4.0, "tenure_days": 90.0} | others
    return {"customer_id": customer, "as_of": as_of, **features, "recency_days": silence, "label": label}


def panel_of(spark: SparkSession, rows: Rows) -> DataFrame:
    return spark.createDataFrame([tuple(each.values()) for each in rows], ", ".join(FIELDS))


def found(spark: SparkSession, rows: Rows, policy: ChurnPolicy = POLICY, fold: int = 0) -> Rows:
    censored = censored_rows(panel_of(spark, rows), DATES, policy, PRIOR, fold)
    assert censored is not None
    return sorted(rows_of(censored), key=str)


def outcomes(rows: Rows) -> set[tuple[str, date, float, float]]:
    return {(each["customer_id"], each["as_of"], each["label"], round(each["weight"], 9)) for each in rows}


# The folds of c-0, c-1 and c-2 are 39, 71 and 78, of 12346 9 and of "customer ä" 26 (test_splits.py).
def test_who_has_ordered_since_stays_and_who_has_not_counts_for_both_by_the_purchase_model(spark: SparkSession) -> None:
    begun = TEST - timedelta(days=14)
    told = found(
        spark,
        [
            row("c-0", begun, 3.0, delay_minutes_at_last_order=120.0),
            row("c-0", TEST, 17.0),
            # The last order was at the very as-of date, which the outcome window begins with.
            row("c-1", begun, 5.0),
            row("c-1", TEST, 14.0),
            # Not looked at any more at the test date: silent for 34 days.
            row("c-2", begun, 20.0, orders_ever=1.0, tenure_days=20.0),
        ],
    )
    # Four orders, the last on day 87 of 90, which is day 104 now: silent for the 16 days that are left.
    repeated, once = PRIOR.purchases.no_purchase(histories([3, 0], [87, 0], [104, 34], [2, 1 / 60]), 16)
    assert outcomes(told) == {
        ("c-0", begun, 1.0, round(repeated, 6)),
        ("c-0", begun, 0.0, round(1 - repeated, 6)),
        ("c-1", begun, 0.0, 1.0),
        ("c-2", begun, 1.0, round(once, 6)),
        ("c-2", begun, 0.0, round(1 - once, 6)),
    }
    assert 0.1 < once < repeated < 0.9
    assert {(each["customer_id"], each["fold"]) for each in told} == {("c-0", 39), ("c-1", 71), ("c-2", 78)}


def test_the_chances_of_both_parts_of_a_silence_multiply() -> None:
    asked = np.array([[4.0, 3.0, 90.0, 120.0], [1.0, 20.0, 20.0, 0.0], [60.0, 0.5, 300.0, 0.0]])
    known = histories([3, 0, 59], [87, 0, 299.5], [90, 20, 300], [2, 0, 0])
    whole, first = PRIOR.purchases.no_purchase(known, 30), PRIOR.purchases.no_purchase(known, 12)
    assert PRIOR.stays_silent(asked, np.full(3, 12.0)) * first == pytest.approx(whole, rel=1e-12)


def test_no_row_is_of_a_test_customer_of_a_date_that_is_over_or_to_come_or_has_a_gap(spark: SparkSession) -> None:
    days = [TEST - timedelta(days=days) for days in (35, 28, 21, 14, 7, 0, -7)]
    everybody = [row(customer, day, 3.0) for day in days for customer in ("c-0", "12346", "customer ä")]
    told = found(spark, everybody)
    assert {each["as_of"] for each in told} == set(BEGUN)
    # The validation fold is told apart as in the rows whose outcome is over.
    assert {(each["customer_id"], each["fold"]) for each in told} == {("c-0", 39), ("customer ä", 26)}
    turned = found(spark, everybody, fold=1)
    assert {(each["customer_id"], each["fold"]) for each in turned} == {("12346", 89)}
    gap = [each | {"label": None} if each["as_of"] == BEGUN[1] else each for each in everybody]
    assert {each["as_of"] for each in found(spark, gap)} == {*BEGUN} - {BEGUN[1]}


def test_nothing_that_came_after_the_test_date_is_known(spark: SparkSession) -> None:
    before = [row("c-0", BEGUN[0], 3.0), row("c-0", TEST, 31.0, None), row("c-1", BEGUN[2], 2.0)]
    later = [row("c-0", TEST + timedelta(days=7), 1.0), row("c-1", TEST + timedelta(days=7), 1.0)]
    others = [each | {"label": 0.0} if each["label"] == 1.0 else each for each in before]
    assert found(spark, [*others, *later]) == found(spark, before)


def test_beyond_the_eligibility_window_no_snapshot_of_the_test_date_knows_who_has_ordered(spark: SparkSession) -> None:
    rows = [row("c-0", day, 3.0) for day in BEGUN]
    windows = Windows(observation_days=60, outcome_days=30, eligibility_days=14)
    assert {each["as_of"] for each in found(spark, rows, ChurnPolicy(windows=windows))} == set(BEGUN[2:])


def test_of_daily_snapshots_one_a_week_is_learned_from(spark: SparkSession) -> None:
    daily = ChurnPolicy(calendar=Calendar(snapshots="daily"))
    rows = [row("c-0", TEST - timedelta(days=days), 3.0) for days in range(1, 29)]
    assert {each["as_of"] for each in found(spark, rows, daily)} == set(BEGUN)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: (DATES, POLICY, None),
        lambda: (SplitDates(TEST, (TEST,), is_out_of_time=False), POLICY, PRIOR),
        lambda: (DATES, ChurnPolicy(churn=Churn(definition="rate_drop")), PRIOR),
        lambda: (DATES, ChurnPolicy(model=Model(feature_set="extended")), PRIOR),
        lambda: (DATES, ChurnPolicy(windows=Windows(outcome_days=7)), PRIOR),
    ],
    ids=["no purchase model", "not out of time", "another churn", "features without a prior's", "a week's outcome"],
)
def test_where_it_cannot_be_told_there_are_none(spark: SparkSession, changed: Callable[[], Any]) -> None:
    dates, policy, prior = changed()
    assert censored_rows(panel_of(spark, [row("c-0", BEGUN[0], 3.0)]), dates, policy, prior) is None


# ---- learned from


def test_what_two_labels_share_weighs_as_much_as_a_row(spark: SparkSession) -> None:
    train = panel_of(spark, [row("c-5", date(2025, 9, 29), 3.0, label) for label in (0.0, 1.0, 1.0)])
    censored = censored_rows(panel_of(spark, [row("c-0", BEGUN[2], 3.0)]), DATES, POLICY, PRIOR)
    assert censored is not None
    both = with_censored(train.selectExpr("*", "99 AS fold"), censored)
    weighed = class_weights(both, POLICY.features)
    assert sum(weighed.values()) == 4
    chance = PRIOR.purchases.no_purchase(histories([3], [87], [104], [1 / 60]), 16)[0]
    assert weighed == pytest.approx({0.0: 2 - chance, 1.0: 2 + chance}, abs=1e-6)


def test_balanced_classes_weigh_the_same_where_rows_share_a_weight() -> None:
    labels, weights = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.25, 0.75, 1.0, 1.0])
    assert models._weights(labels, weights, is_balanced=False) is weights
    # 1.25 of churners and 1.75 of others, 1.5 of each thereafter.
    balanced = models._weights(labels, weights, is_balanced=True)
    assert balanced == pytest.approx([0.3, 0.75 * 1.5 / 1.75, 1.5 / 1.75, 1.2])


SMALL = GradientBoosting(max_depth=3, iterations=10)


def trained(panel: DataFrame, dates: SplitDates, *, learns_begun: bool = True) -> ChurnModel:
    train, current = train_rows(panel, dates, POLICY), current_rows(panel, dates, POLICY)
    censored = censored_rows(panel, dates, POLICY, PRIOR) if learns_begun else None
    return train_churn_model(train, current, SMALL, POLICY, prior=PRIOR, censored=censored)


def histories_with(labels: Callable[[Floats, Floats], Floats]) -> tuple[Rows, Floats]:
    """Of 600 customers rows of two dates whose outcome is over, and the silences; `labels` of these and of orders."""
    rng, rows = np.random.default_rng(1), []
    silences, orders = rng.uniform(1, 9, 600), rng.integers(2, 20, 600).astype(float)
    for day in (date(2025, 9, 22), date(2025, 9, 29)):
        known = enumerate(zip(silences, orders, labels(silences, orders), strict=True))
        rows += [
            row(f"c-{number}", day, silence, label, orders_ever=ordered, recent_delay_minutes=0.0)
            for number, (silence, ordered, label) in known
        ]
    return rows, silences


def by_the_purchase_model(silences: Floats, orders: Floats) -> Floats:
    known = histories(orders - 1, 90 - silences, np.full(600, 90.0))
    return (np.random.default_rng(2).random(600) < PRIOR.purchases.no_purchase(known, 30)).astype(float)


def by_silence(silences: Floats, orders: Floats) -> Floats:
    """As of customers who come at regular times, however often."""
    return (silences + np.random.default_rng(2).normal(0, 1, 600) > 7).astype(float)


def test_a_crisis_is_learned_of_before_anybodys_outcome_of_it_is_over(spark: SparkSession) -> None:
    rows, silences = histories_with(by_the_purchase_model)
    for number, silence in enumerate(silences):
        # Whom the crisis met has not ordered since.
        is_met = number % 2 == 0
        delay = 90.0 if is_met else 0.0
        rows.append(row(f"c-{number}", BEGUN[0], silence, 1.0, recent_delay_minutes=delay))
        rows.append(row(f"c-{number}", TEST, silence + 28 if is_met else 2.0, 1.0, recent_delay_minutes=delay))
    panel = panel_of(spark, rows)
    dates = split_dates(panel, POLICY)
    assert dates.train == (date(2025, 9, 22), date(2025, 9, 29))

    def gap(model: ChurnModel) -> float:
        calm = pd.DataFrame([row("c-0", TEST, 5.0, recent_delay_minutes=delay) for delay in (0.0, 90.0)])
        said = model.trees.probabilities(calm[list(POLICY.features)].to_numpy(dtype=float))
        # The threshold is chosen on outcomes that are over.
        assert (
            sum(count for _, _, count in model.validation)
            == train_rows(panel, dates, POLICY).where("fold < 36").count()
        )
        return float(said[1] - said[0])

    with_them, without = trained(panel, dates), trained(panel, dates, learns_begun=False)
    assert (with_them.learns_begun, without.learns_begun) == (True, False)
    assert gap(without) == 0
    assert gap(with_them) > 0.05


def test_where_silence_alone_tells_more_than_the_purchase_model_its_word_is_not_learned(spark: SparkSession) -> None:
    rows, silences = histories_with(by_silence)
    for number, silence in enumerate(silences):
        rows += [row(f"c-{number}", BEGUN[0], silence), row(f"c-{number}", TEST, silence + 28)]
    panel = panel_of(spark, rows)
    dates = split_dates(panel, POLICY)
    digests = [
        model_digest(found.trees, found.threshold_value)
        for found in (trained(panel, dates), trained(panel, dates, learns_begun=False))
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("labels", [by_the_purchase_model, by_silence])
def test_rows_that_stay_with_spark_make_the_same_model(
    spark: SparkSession, labels: Callable[[Floats, Floats], Floats]
) -> None:
    rows, silences = histories_with(labels)
    for number, silence in enumerate(silences):
        rows += [row(f"c-{number}", BEGUN[0], silence), row(f"c-{number}", TEST, silence + 28)]
    panel = panel_of(spark, rows)
    dates = split_dates(panel, POLICY)
    train, current = train_rows(panel, dates, POLICY), current_rows(panel, dates, POLICY)
    censored = censored_rows(panel, dates, POLICY, PRIOR)
    here = models._trained_here(train, current, SMALL, POLICY, PRIOR, censored)
    for known in (None, train.count()):
        there = models._trained_by_spark(train, current, SMALL, POLICY, PRIOR, censored, None, known)
        assert here.learns_begun == there.learns_begun == (labels is by_the_purchase_model)
        assert model_digest(here.trees, None) == model_digest(there.trees, None)
        assert sorted(here.validation) == sorted(there.validation)
        assert sorted(here.current) == sorted(there.current)
        assert sum(count for *_, count in here.current) == current.count() > 0


def test_of_outcomes_that_are_all_the_same_nothing_tells_more() -> None:
    asked = np.array([[4.0, 3.0, 90.0, 120.0], [1.0, 20.0, 20.0, 0.0]])
    assert not PRIOR.tells_more_than_silence(asked, np.zeros(2))

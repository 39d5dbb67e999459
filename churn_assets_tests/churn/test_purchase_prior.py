"""A churn model is the mean of what the labels teach and of what the purchase model knows without them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.linear_model import LogisticRegression

from churn_assets.churn import models
from churn_assets.churn.evaluation import PURCHASES, RULE, Evaluation, Scored, Verdict, judge
from churn_assets.churn.intervals import Floats
from churn_assets.churn.models import GradientBoosting, fit_churn_model, fit_rows
from churn_assets.churn.purchase_model import PurchaseModel, histories
from churn_assets.churn.purchase_prior import (
    ASKED_FEATURES,
    PurchasePrior,
    ScaledPrior,
    asked_of,
    averaged,
    is_averaged,
    learned_features,
    prior_trees,
    scaled_prior,
)
from churn_assets.churn.recalibration import calibrated
from churn_assets.churn.trees import BoostedTrees, Node, Tree, exported_trees
from churn_assets.churn.xgboost_trees import IS_BEGUN, Rows
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

PRIOR = PurchasePrior(PurchaseModel(r=2.0, alpha=25.0, a=0.5, b=6.0), days=30)
WAITING = replace(PRIOR, purchases=replace(PRIOR.purchases, waiting=0.05))
# Not in the order in which the prior asks for them, and with one that it does not ask for.
WAITED = "delay_minutes_at_last_order"
FEATURES = ("missed_orders", "delay", "tenure_days", WAITED, "orders_ever", "recency_days")
SMALL = GradientBoosting(max_depth=3, iterations=8)


def panel(rows: int = 3_000, seed: int = 1) -> pd.DataFrame:
    """Customers who leave as the prior says, and more often after a delay, of which it knows nothing."""
    rng = np.random.default_rng(seed)
    tenure = rng.uniform(20, 400, rows)
    orders = 1.0 + rng.poisson(tenure * rng.gamma(2, 1 / 50, rows))
    silence = np.where(orders > 1, np.minimum(tenure, rng.uniform(0, 30, rows)), tenure)
    delay = rng.exponential(1, rows)
    log_odds = PRIOR.log_odds(np.column_stack([orders, silence, tenure, np.zeros(rows)])) + 1.5 * (delay > 1.5)
    return pd.DataFrame(
        {
            "customer_id": [f"C{place:05d}" for place in range(rows)],
            "as_of": pd.Timestamp("2026-01-05").date(),
            "orders_ever": orders,
            "recency_days": silence,
            "tenure_days": tenure,
            "missed_orders": silence * orders / tenure,
            "delay": delay,
            WAITED: 0.0,
            "label": (rng.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(float),
            "fold": 50,
        }
    )


def values_of(rows: pd.DataFrame) -> Floats:
    return rows[list(FEATURES)].to_numpy(dtype=np.float64)


def here(rows: pd.DataFrame) -> Rows:
    is_begun = rows[IS_BEGUN].to_numpy() if IS_BEGUN in rows else None
    return Rows(values_of(rows).astype(np.float32), rows["label"].to_numpy(np.float32), is_begun=is_begun)


def scaled(rows: pd.DataFrame, prior: PurchasePrior = PRIOR, weights: Floats | None = None) -> ScaledPrior:
    return scaled_prior(prior, here(rows), weights, FEATURES)


def trees_of_prior(rows: pd.DataFrame, prior: PurchasePrior = PRIOR, weights: Floats | None = None) -> BoostedTrees:
    return BoostedTrees(FEATURES, prior_trees(scaled(rows, prior, weights), here(rows).values, FEATURES))


def loss(model: BoostedTrees, rows: pd.DataFrame) -> float:
    chance, label = model.probabilities(values_of(rows)), rows["label"].to_numpy()
    return float(-np.mean(label * np.log(chance) + (1 - label) * np.log(1 - chance)))


def spark_rows(spark: SparkSession, rows: pd.DataFrame) -> DataFrame:
    return spark.createDataFrame(rows)


# ---- the prior as trees


def test_the_log_odds_are_the_purchase_models() -> None:
    asked = np.array([[1.0, 40.0, 40.0, 90.0], [5.0, 3.0, 90.0, 0.0], [60.0, 0.5, 300.0, 180.0]])
    known = histories([0, 4, 59], [0, 87, 299.5], [40, 90, 300], [1.5, 0, 3])
    chance = WAITING.purchases.no_purchase(known, 30)
    assert WAITING.log_odds(asked) == pytest.approx(np.log(chance / (1 - chance)), rel=1e-9)


def test_a_silence_longer_than_the_age_by_a_rounding_and_a_chance_of_one_are_numbers() -> None:
    asked = np.array([[1.0, 40.000004, 40.0], [2.0, 40.000004, 40.0], [500.0, 3000.0, 3001.0], [9e5, 1e-9, 4e3]])
    for waited in (0.0, 1e9):
        assert np.isfinite(WAITING.log_odds(np.column_stack([asked, np.full(4, waited)]))).all()


def test_the_trees_say_of_customers_they_never_saw_what_the_purchase_model_says() -> None:
    rows, others = panel(), panel(seed=2)
    said = 2 * trees_of_prior(rows).margins(values_of(others))
    exact = PRIOR.log_odds(others[list(ASKED_FEATURES)].to_numpy(float))
    assert np.corrcoef(said, exact)[0, 1] > 0.97
    # And hardly differ from it on the scale that the labels ask for: about 1 here, and higher for the delays.
    assert np.polyfit(exact, said, 1)[0] == pytest.approx(1, abs=0.2)
    assert said.mean() > exact.mean()


def test_the_trees_know_of_a_crisis_before_any_row_that_they_learn_from_does() -> None:
    rows, others = panel(), panel(seed=2)
    others[WAITED] = np.random.default_rng(3).uniform(0, 600, len(others))
    said = trees_of_prior(rows, WAITING).margins(values_of(others))
    exact = WAITING.log_odds(others[list(ASKED_FEATURES)].to_numpy(float))
    assert np.corrcoef(said, exact)[0, 1] > 0.97
    without = PRIOR.log_odds(others[list(ASKED_FEATURES)].to_numpy(float))
    assert np.corrcoef(without, exact)[0, 1] < 0.9


def test_no_tree_learns_from_a_label() -> None:
    rows = panel()
    other = rows.assign(label=np.random.default_rng(3).permutation(rows["label"]))
    one, two = trees_of_prior(rows).trees[1:], trees_of_prior(other).trees[1:]
    assert len(one) == len(two) == 10
    for tree, again in zip(one, two, strict=True):
        assert np.array_equal(tree.feature, again.feature)
        assert np.array_equal(tree.split, again.split, equal_nan=True)
        assert np.array_equal(tree.value, again.value, equal_nan=True)
    # Labels that the prior does not tell apart take its word away.
    assert abs(two[0].weight) < 0.2 * one[0].weight


def test_only_the_features_of_the_prior_are_split_by() -> None:
    used = {FEATURES[number] for tree in trees_of_prior(panel()).trees for number in tree.feature if number >= 0}
    assert used == {"missed_orders", "tenure_days", "orders_ever", "recency_days"}
    assert is_averaged(FEATURES, PRIOR)
    assert not is_averaged(FEATURES[:-1], PRIOR)
    assert not is_averaged(FEATURES, None)
    # Without a prior there is nobody else to know it.
    assert learned_features(FEATURES, None) == FEATURES


# ---- its place on the labels' scale


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_calibration_is_the_logistic_regression(is_weighted: bool) -> None:
    rng = np.random.default_rng(4)
    log_odds = rng.normal(-2, 1.5, 2_000)
    labels = (rng.random(2_000) < 1 / (1 + np.exp(-(0.7 + 0.6 * log_odds)))).astype(float)
    weights = np.where(labels == 1, 3.0, 0.7) if is_weighted else None
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds[:, np.newaxis], labels, sample_weight=weights)
    found = calibrated(log_odds, labels, weights)
    assert found == pytest.approx((reference.intercept_[0], reference.coef_[0, 0]), rel=1e-4)


@pytest.mark.parametrize(
    "log_odds",
    [np.full(100, 0.3), np.linspace(-5, 5, 100)],
    ids=["all the same", "telling the labels apart perfectly"],
)
def test_where_there_is_no_slope_to_find_the_prior_is_silent(log_odds: Floats) -> None:
    labels = (np.arange(100) >= 50).astype(float)
    assert calibrated(log_odds, labels, None) == pytest.approx((0.0, 0.0))


# ---- the model


def test_the_model_is_the_mean_of_both_log_odds_and_better_than_either(spark: SparkSession) -> None:
    rows, others = panel(), panel(seed=2)
    train = spark_rows(spark, rows)
    model = fit_churn_model(train, FEATURES, SMALL, rows=len(rows), prior=PRIOR)
    taught = learned_features(FEATURES, PRIOR)
    assert set(FEATURES) - set(taught) == {WAITED}
    plain, prior = fit_churn_model(train, taught, SMALL, rows=len(rows)), trees_of_prior(rows)
    values = values_of(others)
    learned = plain.margins(others[list(taught)].to_numpy(dtype=np.float64))
    assert model.margins(values) == pytest.approx((learned + prior.margins(values)) / 2, abs=1e-9)
    assert loss(model, others) < min(loss(plain, others), loss(prior, others))


def test_few_rows_do_not_make_the_trees_of_the_purchase_model_coarse() -> None:
    few, others = panel(150), panel(seed=2)
    exact = PRIOR.log_odds(others[list(ASKED_FEATURES)].to_numpy(float))
    assert np.corrcoef(trees_of_prior(few).margins(values_of(others)), exact)[0, 1] > 0.95


def test_features_that_do_not_hold_what_the_prior_asks_for_leave_it_out(spark: SparkSession) -> None:
    train, few = spark_rows(spark, panel(600)), FEATURES[:-1]
    plain = fit_churn_model(train, few, SMALL, rows=600)
    same = fit_churn_model(train, few, SMALL, rows=600, prior=PRIOR)
    assert exported_trees(same, None) == exported_trees(plain, None)


def test_the_order_of_the_rows_changes_nothing(spark: SparkSession) -> None:
    rows = panel(600)
    one, other = (
        fit_churn_model(spark_rows(spark, each), FEATURES, SMALL, rows=600, prior=PRIOR)
        for each in (rows, rows.sample(frac=1, random_state=7))
    )
    assert exported_trees(one, None) == exported_trees(other, None)


def test_balanced_classes_balance_the_prior_too() -> None:
    rows = panel()
    values, labels = values_of(rows), rows["label"].to_numpy()
    weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    balanced = trees_of_prior(rows, weights=weights)
    assert np.average(balanced.probabilities(values), weights=weights) == pytest.approx(0.5, abs=1e-3)


def test_sparks_own_trees_are_averaged_with_the_prior_alike(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = panel(600)
    train = spark_rows(spark, rows)
    learned = fit_churn_model(train, learned_features(FEATURES, PRIOR), SMALL, rows=600)
    by_xgboost = fit_churn_model(train, FEATURES, SMALL, rows=600, prior=PRIOR)
    # Spark's own learner needs a JVM; what is done with its trees does not.
    monkeypatch.setattr(models, "_fitted_by_spark", lambda *arguments: learned)
    by_spark = fit_churn_model(train, FEATURES, replace(SMALL, estimator="gbt"), rows=600, prior=PRIOR)
    assert exported_trees(by_spark, None) == exported_trees(by_xgboost, None)


def test_each_half_of_the_log_odds_counts_for_half_of_the_importance() -> None:
    rows = panel()
    values, known = here(rows).values, scaled(rows)
    split = Node(feature=FEATURES.index("delay"), split=1.0, left=1, right=2, gain=5.0)
    learned = BoostedTrees(FEATURES, (Tree.of(1.0, [split, Node(value=-1.0), Node(value=1.0)]),))
    shares = averaged(learned, known, values, FEATURES).importances()
    # Nothing but the learned tree splits by the delay.
    assert shares["delay"] == pytest.approx(0.5)
    assert sum(shares.values()) == pytest.approx(1)
    # Trees without a split have gained nothing to compare with.
    leaf = BoostedTrees(FEATURES, (Tree.of(1.0, [Node(value=0.0)]),))
    assert sum(averaged(leaf, known, values, FEATURES).importances().values()) == pytest.approx(1)


# ---- the first weeks of a crisis


def crisis(hours_before: float = 0.0) -> pd.DataFrame:
    """Customers whose outcome is over, who waited so long, and others who wait up to ten hours and leave for it."""
    over, begun = panel(), panel(seed=2)
    random = np.random.default_rng(3)
    over[WAITED] = 60 * hours_before * random.random(len(over))
    begun[WAITED] = random.uniform(0, 600, len(begun))
    said = WAITING.log_odds(begun[list(ASKED_FEATURES)].to_numpy(float))
    begun["label"] = (random.random(len(begun)) < 1 / (1 + np.exp(-said))).astype(float)
    begun["customer_id"] = "begun " + begun["customer_id"]
    return pd.concat([over.assign(**{IS_BEGUN: False}), begun.assign(**{IS_BEGUN: True})], ignore_index=True)


def told_of_waiting(model: BoostedTrees, rows: pd.DataFrame) -> float:
    """Of what the purchase model says that waiting adds, how much the model does."""
    begun = rows[rows[IS_BEGUN]]
    added = 2 * (model.margins(values_of(begun)) - model.margins(values_of(begun.assign(**{WAITED: 0.0}))))
    known = scaled(rows, WAITING)
    slope, _ = np.polyfit(known.slope * WAITING.waiting_log_odds(asked_of(values_of(begun), FEATURES)), added, 1)
    return float(slope)


def test_what_waiting_adds_is_told_whole_until_labels_have_shown_it(spark: SparkSession) -> None:
    rows = crisis()
    # No label of theirs is of anybody who waited.
    assert scaled(rows, WAITING).unseen == 1
    assert told_of_waiting(fit_rows(here(rows), FEATURES, SMALL, prior=WAITING), rows) == pytest.approx(1, abs=0.1)
    of_outcomes_that_are_over = here(rows)._replace(is_begun=None)
    halved = fit_rows(of_outcomes_that_are_over, FEATURES, SMALL, prior=WAITING)
    assert told_of_waiting(halved, rows) == pytest.approx(0.5, abs=0.1)
    # Rows that a session holds are learned from alike.
    by_session = fit_churn_model(spark_rows(spark, rows), FEATURES, SMALL, rows=len(rows), prior=WAITING)
    in_order = rows.sort_values(["customer_id", "as_of"], ignore_index=True)
    assert exported_trees(by_session, None) == exported_trees(
        fit_rows(here(in_order), FEATURES, SMALL, prior=WAITING), None
    )


def test_the_more_labels_have_shown_of_waiting_the_less_of_it_the_learned_half_begins_with() -> None:
    shares = [scaled(crisis(hours), WAITING).unseen for hours in (0.0, 1.0, 5.0, 10.0, 20.0)]
    assert shares[0] == 1
    assert shares[1] > shares[2] > shares[3] >= shares[4] == 0
    rows = crisis(5.0)
    waiting = WAITING.waiting_log_odds(asked_of(values_of(rows), FEATURES))
    assert shares[2] == pytest.approx(1 - waiting[~rows[IS_BEGUN]].std() / waiting[rows[IS_BEGUN]].std(), abs=1e-4)
    assert scaled(crisis(), PRIOR).unseen == 0
    assert scaled(panel(), WAITING).unseen == 0
    assert scaled(panel().assign(**{IS_BEGUN: False}), WAITING).unseen == 0
    nobody_waited = crisis().assign(**{WAITED: 0.0})
    assert scaled(nobody_waited, WAITING).unseen == 0


def test_a_row_that_two_labels_share_counts_for_the_spread_once() -> None:
    rows = crisis(1.0)
    shared = here(rows)._replace(weights=np.where(rows[IS_BEGUN], np.where(rows[WAITED] < 300, 1.0, 0.0), 1.0))
    half = rows[~rows[IS_BEGUN] | (rows[WAITED] < 300)]
    weighed = scaled_prior(WAITING, shared, None, FEATURES).unseen
    assert weighed == pytest.approx(scaled(half, WAITING).unseen, abs=1e-6)
    assert 0 < weighed < scaled(rows, WAITING).unseen


def test_the_mean_is_of_the_purchase_model_and_of_trees_that_begin_with_what_labels_have_not_shown() -> None:
    rows = crisis(1.0)
    known, values = scaled(rows, WAITING), values_of(rows)
    asked = asked_of(values, FEATURES)
    offsets = known.offsets(asked)
    assert offsets is not None
    split = Node(feature=FEATURES.index("delay"), split=1.0, left=1, right=2, gain=5.0)
    learned = BoostedTrees(FEATURES, (Tree.of(1.0, [split, Node(value=-1.0), Node(value=1.0)]),))
    both = averaged(learned, known, here(rows).values, FEATURES).margins(values)
    by_formula = known.intercept + known.slope * WAITING.log_odds(asked)
    exact = (2 * learned.margins(values) + offsets + by_formula) / 2
    assert np.corrcoef(2 * both, exact)[0, 1] > 0.97
    assert (2 * both).mean() == pytest.approx(exact.mean(), abs=0.05)


def test_what_the_trees_begin_with_is_not_learned_once_more() -> None:
    rows = crisis(1.0)
    chance = fit_rows(here(rows), FEATURES, replace(SMALL, iterations=20), prior=WAITING).probabilities(values_of(rows))
    # Of both kinds of rows as many leave as labels say: 1.07 and 1.09 times as many if they began with nothing.
    for are in (rows[IS_BEGUN], ~rows[IS_BEGUN]):
        assert chance[are].mean() / rows["label"][are].mean() == pytest.approx(1, abs=0.03)


def test_a_learner_that_begins_with_one_number_for_all_rows_is_told_half_of_waiting() -> None:
    known = scaled_prior(WAITING, here(crisis()), None, FEATURES, takes_offsets=False)
    assert known.unseen == 0
    assert known.offsets(np.ones((1, len(ASKED_FEATURES)))) is None


# ---- the rival alone, before the gate


def verdict_on(challenger: BoostedTrees, champion: BoostedTrees | None) -> Evaluation:
    """Under the shipped policy, of which only what has to do with rivals is made strict."""
    rows = panel(6_000, seed=3)
    values, label = values_of(rows), rows["label"].to_numpy()
    asked = rows[list(ASKED_FEATURES)].to_numpy(float)
    scores = challenger.probabilities(values)
    judged = Scored(
        labels=label,
        scores=scores,
        is_alert=scores >= np.quantile(scores, 0.8),
        rivals={RULE: np.random.default_rng(4).random(len(rows)), PURCHASES: PRIOR.log_odds(asked)},
        features={"delay": rows["delay"].to_numpy()},
        slices={},
        is_unseen=np.ones(len(rows), dtype=bool),
        champion=None if champion is None else champion.margins(values),
    )
    shipped = load_policy(CHECKOUT / "policy.toml")
    asked_of = {"evaluation": "holdout", "max_shortfall": 0.005, "min_recall": 0.1}
    gate = shipped.gate.model_copy(update=asked_of)
    return judge(judged, shipped.model_copy(update={"gate": gate}), has_threshold=True)


def test_the_rival_alone_passes_where_it_is_better_and_is_refused_where_it_is_worse(spark: SparkSession) -> None:
    rows = panel()
    train = spark_rows(spark, rows)
    rival, model = trees_of_prior(rows), fit_churn_model(train, FEATURES, SMALL, rows=len(rows), prior=PRIOR)
    ignorant = BoostedTrees(FEATURES, (Tree.of(1.0, [Node(value=0.0)]),))
    assert verdict_on(rival, ignorant).verdict is Verdict.PASS
    refused = verdict_on(rival, model)
    assert refused.verdict is Verdict.FAIL
    (missed,) = [reason for reason in refused.reasons if reason.startswith("missed")]
    assert "PR-AUC over the champion (strongest) -" in missed
    assert verdict_on(model, rival).verdict is Verdict.PASS


def test_a_challenger_shown_to_be_worse_than_the_rival_is_refused_and_the_verdict_names_it() -> None:
    rival = trees_of_prior(panel())
    split = Node(feature=FEATURES.index("delay"), split=1.5, left=1, right=2, gain=5.0)
    learned = BoostedTrees(FEATURES, (Tree.of(1.0, [split, Node(value=-1.0), Node(value=1.0)]),))
    refused = verdict_on(learned, None)
    assert refused.verdict is Verdict.FAIL
    missed = [reason for reason in refused.reasons if reason.startswith("missed") and "PR-AUC" in reason]
    assert len(missed) == 1
    assert "PR-AUC over the purchase model (strongest) -" in missed[0]
    assert verdict_on(rival, None).verdict is Verdict.PASS

"""Areas under curves are scikit-learn's, ties and weights included, and absent where they mean nothing."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import precision_recall_curve as reference_curve

from churn_assets.churn.intervals import Floats
from churn_assets.churn.ranking import DatedRanking, Ranking, precision_recall_curve, roc_auc


def random_rows(seed: int) -> tuple[Floats, Floats, Floats]:
    """Scores with few or many ties, labels of both classes, and integer weights that leave some rows out."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 400))
    scores = rng.integers(0, rng.choice([3, 30, 10_000]), rows) / 7
    labels = (rng.random(rows) < rng.choice([0.05, 0.5, 0.95])).astype(float)
    labels[:2] = 1.0, 0.0
    weights = rng.integers(0, 4, (5, rows)).astype(float)
    weights[:, :2] += 1
    return scores, labels, weights


@pytest.mark.parametrize("seed", range(20))
def test_areas_are_scikit_learns_on_random_rows_with_ties(seed: int) -> None:
    scores, labels, _ = random_rows(seed)
    ranking, once = Ranking.of(scores, labels), np.ones((1, len(scores)))
    assert ranking.average_precision(once)[0] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert ranking.roc_auc(once)[0] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_areas_of_weighted_rows_are_scikit_learns_for_many_weightings_at_once(seed: int) -> None:
    scores, labels, weights = random_rows(seed)
    ranking = Ranking.of(scores, labels)
    precision = [average_precision_score(labels, scores, sample_weight=weight) for weight in weights]
    area = [roc_auc_score(labels, scores, sample_weight=weight) for weight in weights]
    assert ranking.average_precision(weights) == pytest.approx(precision, abs=1e-12)
    assert ranking.roc_auc(weights) == pytest.approx(area, abs=1e-12)


def test_areas_are_undefined_where_a_class_is_absent_and_the_other_weightings_are_not_harmed() -> None:
    scores, labels = np.array([0.9, 0.5, 0.1]), np.array([1.0, 0.0, 1.0])
    weights = np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [2.0, 0.0, 1.0]])
    ranking = Ranking.of(scores, labels)
    all_rows, no_churner, churners_only = ranking.average_precision(weights)
    assert (all_rows, churners_only) == (pytest.approx((1 + 2 / 3) / 2), 1.0)
    assert np.isnan(no_churner)
    assert np.isnan(ranking.roc_auc(weights)).tolist() == [False, True, True]
    assert ranking.roc_auc(weights)[0] == 0.5


@pytest.mark.parametrize(("scores", "labels"), [([], []), ([0.1, 0.2], [1.0, 1.0]), ([0.1, 0.2], [0.0, 0.0])])
def test_a_single_area_is_none_without_both_classes(scores: list[float], labels: list[float]) -> None:
    assert roc_auc(np.array(scores), np.array(labels)) is None


def test_the_order_of_tied_rows_changes_no_area() -> None:
    labels = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    scores = np.array([0.5, 0.5, 0.5, 0.2, 0.2, 0.9])
    turned = np.array([2, 1, 0, 4, 3, 5])
    for weights in (np.ones((1, 6)), np.array([[1.0, 2, 0, 3, 1, 1]])):
        one, other = Ranking.of(scores, labels), Ranking.of(scores[turned], labels[turned])
        assert one.average_precision(weights) == pytest.approx(other.average_precision(weights[:, turned]), abs=1e-15)
        assert one.roc_auc(weights) == pytest.approx(other.roc_auc(weights[:, turned]), abs=1e-15)


def test_the_recall_of_so_many_highest_scores_counts_equal_scores_in_proportion() -> None:
    # Two churners at the top, then one among four of one score, then one at the end.
    scores = np.array([0.9, 0.8, 0.5, 0.5, 0.5, 0.5, 0.1])
    labels = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    ranking = Ranking.of(scores, labels)
    found = [ranking.recall_of_highest(alerts) for alerts in range(8)]
    assert found == pytest.approx([0, 1 / 4, 2 / 4, 2.25 / 4, 2.5 / 4, 2.75 / 4, 3 / 4, 1])


def test_the_recall_of_so_many_highest_scores_is_what_counting_them_gives() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.permutation(200.0 + np.arange(200)), (rng.random(200) < 0.3).astype(float)
    highest = labels[np.argsort(-scores)]
    for alerts in (0, 1, 17, 100, 200):
        expected = highest[:alerts].sum() / labels.sum()
        assert Ranking.of(scores, labels).recall_of_highest(alerts) == pytest.approx(expected)


# ---- the curve


@pytest.mark.parametrize("seed", range(10))
def test_the_curve_is_scikit_learns_from_the_highest_score_down(seed: int) -> None:
    scores, labels, weights = random_rows(seed)
    for rows in (None, weights[0] + 1):
        recall, precision = precision_recall_curve(scores, labels, rows)
        expected_precision, expected_recall, _ = reference_curve(labels, scores, sample_weight=rows)
        # scikit-learn's runs the other way, and ends in a point that belongs to no score.
        assert recall == pytest.approx(expected_recall[-2::-1], abs=1e-12)
        assert precision == pytest.approx(expected_precision[-2::-1], abs=1e-12)


def test_counted_pairs_give_the_curve_of_the_single_rows() -> None:
    counted = [(0.9, 1.0, 3), (0.5, 0.0, 4), (0.5, 1.0, 1), (0.2, 0.0, 2)]
    single = [(score, label) for score, label, rows in counted for _ in range(rows)]
    scores, labels, rows = np.array(counted).T
    recall, precision = precision_recall_curve(scores, labels, rows)
    assert recall.tolist() == [3 / 4, 1.0, 1.0]
    assert precision.tolist() == [1.0, 4 / 8, 4 / 10]
    again = precision_recall_curve(*np.array(single).T)
    assert (recall.tolist(), precision.tolist()) == (again[0].tolist(), again[1].tolist())


@pytest.mark.parametrize(("scores", "labels"), [([], []), ([0.3, 0.1], [0.0, 0.0])])
def test_without_a_churner_there_is_no_curve(scores: list[float], labels: list[float]) -> None:
    recall, precision = precision_recall_curve(np.array(scores), np.array(labels))
    assert (len(recall), len(precision)) == (0, 0)


# ---- customers of several dates, ranked among those of their own


def dated_rows(seed: int) -> tuple[Floats, Floats, np.ndarray, Floats]:
    rng = np.random.default_rng(seed)
    labels, scores = (rng.random(300) < 0.3).astype(float), rng.integers(0, 40, 300) / 40
    dates = np.datetime64("2025-11-03") + 7 * rng.integers(0, 3, 300)
    return scores, labels, dates, rng.integers(0, 3, (4, 300)).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_areas_over_dates_are_the_means_of_the_dates_by_churners_and_by_pairs(seed: int) -> None:
    scores, labels, dates, weights = dated_rows(seed)
    ranking = DatedRanking.of(scores, labels, dates)
    precision, area = ranking.average_precision(weights), ranking.roc_auc(weights)
    for number, weight in enumerate(weights):
        of_dates = [
            (labels[is_in], scores[is_in], weight[is_in]) for is_in in (dates == day for day in np.unique(dates))
        ]
        churners = [float((of * by).sum()) for of, _, by in of_dates]
        pairs = [float((of * by).sum() * ((1 - of) * by).sum()) for of, _, by in of_dates]
        precisions = [average_precision_score(of, said, sample_weight=by) for of, said, by in of_dates]
        areas = [roc_auc_score(of, said, sample_weight=by) for of, said, by in of_dates]
        assert precision[number] == pytest.approx(np.average(precisions, weights=churners), abs=1e-12)
        assert area[number] == pytest.approx(np.average(areas, weights=pairs), abs=1e-12)


def test_scores_that_are_higher_at_one_date_rank_nobody_before_customers_of_another() -> None:
    scores, labels, dates, weights = dated_rows(9)
    shifted = np.where(dates == dates.max(), scores + 5, scores)
    plain, moved = (DatedRanking.of(of, labels, dates) for of in (scores, shifted))
    assert moved.average_precision(weights) == pytest.approx(plain.average_precision(weights))
    assert moved.roc_auc(weights) == pytest.approx(plain.roc_auc(weights))
    is_alert = scores > 0.8
    assert moved.recall_of_highest(is_alert) == pytest.approx(plain.recall_of_highest(is_alert))


def test_of_one_date_the_ranking_is_the_ranking() -> None:
    scores, labels, _, weights = dated_rows(10)
    plain, dated = Ranking.of(scores, labels), DatedRanking.of(scores, labels)
    assert (dated.average_precision(weights) == plain.average_precision(weights)).all()
    assert (dated.roc_auc(weights) == plain.roc_auc(weights)).all()
    assert dated.recall_of_highest(scores > 0.5) == plain.recall_of_highest(int((scores > 0.5).sum()))


def test_a_date_that_a_resample_leaves_without_churners_does_not_count() -> None:
    labels, dates = np.array([1.0, 0.0, 1.0, 0.0]), np.array(["2025-11-03"] * 2 + ["2025-11-10"] * 2, "datetime64[D]")
    ranking = DatedRanking.of(np.array([0.9, 0.1, 0.1, 0.9]), labels, dates)
    weights = np.array([[1.0, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 1]])
    both, first, nobody = ranking.average_precision(weights)
    assert (both, first) == (pytest.approx(0.75), 1.0)
    assert np.isnan(nobody)
    assert np.isnan(ranking.roc_auc(weights)).tolist() == [False, False, True]

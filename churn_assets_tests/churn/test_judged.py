"""The judged rows as arrays: one place per customer, whatever order the rows came in."""

import time
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from churn_assets.churn import judged
from churn_assets.churn.evaluation import ORDER_COUNT, PURCHASES, RULE
from churn_assets.churn.judged import scored
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.policy import Action, ChurnPolicy, Economics, Gate, Offer, Retention

ROWS = pd.DataFrame(
    {
        "customer_id": ["b", "a", "c"],
        "label": [1.0, 0.0, 1.0],
        "churn_probability": [0.7, 0.2, 0.4],
        "is_alert": [True, False, False],
        "is_unseen": [True, True, False],
        "segment_index": [0.0, -1.0, 1.0],
        "crisis_exposure_index": [1.0, 0.0, 0.0],
        "total_orders": [3.0, 9.0, 4.0],
        "risk_score": [0.5, 0.1, 0.9],
        "no_purchase": [0.6, 0.3, 0.8],
    }
)
SEGMENTS = {0.0: "Regular", 1.0: "Student"}
FEATURES = ("total_orders", "segment_index")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_rows_come_ordered_by_customer_whatever_order_they_were_in(order: list[int]) -> None:
    found = scored(ROWS.iloc[order], FEATURES, SEGMENTS)
    assert found.labels.tolist() == [0.0, 1.0, 1.0]
    assert found.scores.tolist() == [0.2, 0.7, 0.4]
    assert found.is_alert.tolist() == [False, True, False]
    assert found.is_unseen.tolist() == [True, True, False]
    assert {name: values.tolist() for name, values in found.features.items()} == {
        "total_orders": [9.0, 3.0, 4.0],
        "segment_index": [-1.0, 0.0, 1.0],
    }
    assert found.champion is None


def test_the_rivals_are_the_rule_the_fewest_orders_and_the_purchase_model() -> None:
    found = scored(ROWS, FEATURES, SEGMENTS)
    assert found.rivals[RULE].tolist() == [0.1, 0.5, 0.9]
    assert found.rivals[ORDER_COUNT].tolist() == [-9.0, -3.0, -4.0]
    assert found.rivals[PURCHASES].tolist() == [0.3, 0.6, 0.8]


def test_the_slices_are_the_segment_by_name_and_the_crisis_exposure() -> None:
    found = scored(ROWS, FEATURES, SEGMENTS)
    assert found.slices["segment"].tolist() == ["(none)", "Regular", "Student"]
    assert found.slices["crisis_exposure"].tolist() == ["not exposed", "exposed", "not exposed"]


@pytest.mark.parametrize(("evaluation", "calls"), [("holdout", 0), ("crossfit", 1)])
def test_with_economics_what_contacting_each_earns_comes_in_the_order_of_the_customers(
    evaluation: str, calls: int
) -> None:
    rows = ROWS.assign(as_of=date(2025, 12, 1), recent_spend=[100.0, 10.0, 40.0])
    offers = {"call": Offer(acceptance=0.5, weekly_capacity=1), "mail": Offer(acceptance=0.1)}
    policy = ChurnPolicy(
        gate=Gate.model_validate({"evaluation": evaluation}),
        retention=Retention(actions=tuple(Action(action=name) for name in offers)),
        economics=Economics(margin=1.0, lifetime_days=60, actions=offers),
    )
    assert scored(rows, FEATURES, SEGMENTS).earnings is None
    assert scored(rows, FEATURES, SEGMENTS, policy=ChurnPolicy()).earnings is None
    found = scored(rows, FEATURES, SEGMENTS, policy=policy).earnings
    assert found is not None
    assert found.worth.tolist() == [10.0, 100.0, 40.0]
    # The one call is for the likeliest, b, where all customers are judged; of a fifth of them a fifth of it is none.
    assert found.profits == pytest.approx([0.0, 50.0 if calls else 10.0, 4.0])


def test_the_champions_scores_go_by_customer_and_one_it_lacks_has_none() -> None:
    champion = scored(ROWS, FEATURES, SEGMENTS, pd.Series({"b": 0.6, "a": 0.3})).champion
    assert champion is not None
    assert champion[:2].tolist() == [0.3, 0.6]
    assert np.isnan(champion[2])


def test_rows_of_several_dates_come_by_customer_and_date_with_each_customer_numbered() -> None:
    weeks = [ROWS.assign(as_of=date(2025, 12, day), is_unseen=day == 8, label=float(day == 8)) for day in (8, 1)]
    found = scored(pd.concat(weeks).iloc[[5, 0, 3, 1, 4]], FEATURES, SEGMENTS)
    assert found.dates is not None
    assert found.customers is not None
    assert found.dates.astype(str).tolist() == ["2025-12-01", "2025-12-08", "2025-12-01", "2025-12-08", "2025-12-01"]
    assert found.customers.tolist() == [0, 0, 1, 1, 2]
    assert found.labels.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    # Of each the latest row.
    assert found.one_row_each().labels.tolist() == [0.0, 0.0, 0.0]
    apart = scored(pd.concat([weeks[0].iloc[:2], weeks[1].iloc[2:]]), FEATURES, SEGMENTS)
    assert apart.customers is None
    assert apart.dates is not None
    assert scored(weeks[0], FEATURES, SEGMENTS).dates is None


@pytest.mark.parametrize(
    ("by", "most"), [(GradientBoosting(), 2), (GradientBoosting(workers=2), 1), (GradientBoosting(estimator="gbt"), 1)]
)
def test_fits_of_this_process_go_side_by_side_and_spark_s_one_after_the_other(by: GradientBoosting, most: int) -> None:
    going: list[int] = []
    together: list[int] = []

    def fit(place: int) -> Any:
        going.append(place)
        together.append(len(going))
        time.sleep(0.05)
        going.remove(place)
        return place

    fitted: list[Any] = list(judged._at_once(fit, range(4), by))
    assert fitted == [0, 1, 2, 3]
    assert max(together) == most

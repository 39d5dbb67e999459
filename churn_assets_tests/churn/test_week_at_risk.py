"""Of a week's figures those that are too few to say anything of are told together, and nobody is lost by it."""

from datetime import date

import pyarrow as pa
import pytest

from churn_assets.churn.week_at_risk import WeekAtRisk, week_at_risk

WEEK = date(2025, 9, 1)
SEGMENTS = {0: "Regular", 1: "Family", 2: "Legacy", 3: "Pilot"}


def week(segments: dict[int, int], reasons: list[list[str]]) -> WeekAtRisk:
    """Of so many customers of each segment, every tenth of them at risk; of listed customers with these reasons."""
    places = [number for number, customers in segments.items() for _ in range(customers)]
    ids = [str(place) for place in range(len(places))]
    is_alert = [place % 10 == 0 for place in range(len(places))]
    scores = {"customer_id": ids, "churn_probability": [0.25] * len(ids), "is_alert": is_alert}
    targets = {
        "is_holdout": [False] * len(reasons),
        "value_at_risk": [1.0] * len(reasons),
        "suggested_action": ["reminder"] * len(reasons),
        "reasons": [[{"feature": feature} for feature in of_customer] for of_customer in reasons],
    }
    return week_at_risk(
        WEEK,
        pa.table({**scores, "risk_tier": ["medium"] * len(ids)}),
        pa.table({"customer_id": ids, "spend": [8.0] * len(ids), "segment_index": places}),
        pa.table(targets),
        exclusions=pa.chunked_array([pa.array([], pa.string())]),
        segments=SEGMENTS,
    )


def test_segments_of_few_customers_are_one_and_the_last() -> None:
    parts = week({2: 2, 0: 30, -1: 9, 1: 20}, [["tenure_days"]]).segments
    assert [(part.name, part.customers) for part in parts] == [
        ("Regular", 30),
        ("Family", 20),
        ("2 small segments", 11),
    ]
    assert sum(part.alerts for part in parts) == 7
    assert parts[-1].expected_leavers == pytest.approx(11 * 0.25)
    assert parts[-1].value_at_risk == pytest.approx(2 * parts[-1].alerts)


def test_one_small_segment_keeps_its_name() -> None:
    assert [part.name for part in week({0: 30, 2: 2}, [["tenure_days"]]).segments] == ["Regular", "Legacy"]


def test_reasons_that_hardly_anybody_has_are_one_and_count_each_customer_once() -> None:
    reasons = [["recency_days", "total_orders"]] * 2 + [["recency_days"]] * 36
    rare = [["tenure_days", "rfm_score"], ["sentiment_velocity"]]
    found = week({0: 30}, reasons + rare).drivers
    assert [(driver.customers, driver.share) for driver in found] == [(38, 0.95), (2, 0.05), (2, 0.05)]
    assert found[-1].meaning == "3 other reasons"
    # Exactly a twentieth is told, and of a single one below it the meaning.
    assert found[1].meaning == "how often they ordered lately"
    (*_, last) = week({0: 30}, [*reasons, ["tenure_days"]]).drivers
    assert (last.meaning, last.customers) == ("how long they have been with us", 1)

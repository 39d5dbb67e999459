"""Sentences of reasons: the customer's value in people's words, set against what is usual."""

from dataclasses import replace

import pytest

from churn_assets.churn.catalogue import FEATURE_OF
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.wording import Compared, RatingScale, Wording, counted, duration, one_in

WORDING = Wording(ChurnPolicy().feature_rules, {0: "Regular", 1: "Student"})


@pytest.mark.parametrize(
    ("feature", "value", "sentence"),
    [
        ("total_orders", Compared(1, 6, {}), "1 order in 60 days; usual is 6.0"),
        ("total_orders", Compared(2, 6, {}), "2 orders in 60 days; usual is 6.0"),
        ("avg_star_rating", Compared(2.25, 4.31, {"reviews": 2}), "rated us 2.2 stars on average; usual is 4.3"),
        ("avg_star_rating", Compared(4.2, 4.31, {"reviews": 0}), None),
        (
            "late_order_ratio",
            Compared(0.75, 0.1, {"late_deliveries": 3, "promised_deliveries": 4}),
            "3 of the last 4 deliveries came late; usual is 1 in 10",
        ),
        (
            "late_order_ratio",
            Compared(1, 0.7, {"late_deliveries": 1, "promised_deliveries": 1}),
            "the last delivery came late; usual is 7 in 10",
        ),
        ("late_order_ratio", Compared(0.5, 0.1, {"late_deliveries": 0, "promised_deliveries": 0}), None),
        ("segment_index", Compared(1, 0, {}), "belongs to the Student segment"),
        ("segment_index", Compared(-1, 0, {}), "belongs to no known segment"),
        (
            "crisis_exposure_index",
            Compared(1, 0.05, {}),
            "waited more than 45 minutes past the promise; 1 in 20 of all customers did",
        ),
        (
            "sentiment_velocity",
            Compared(-2.5, -0.31, {}),
            "a review fell by 2.5 stars from the one before; usual is 0.3",
        ),
        (
            "rfm_score",
            Compared(543, 322, {}, {"recency": (5, 2.97), "frequency": (4, 3.0), "spend": (3, 3.04)}),
            "ranks 5 of 5 for recency (usual is 3.0), 4 of 5 for frequency (usual is 3.0); 1 is best",
        ),
        ("rfm_score", Compared(323, 322, {}, {"recency": (3, 3.04), "frequency": (2, 3.0), "spend": (3, 3.0)}), None),
        ("recency_days", Compared(21.4, 5.6, {}), "last ordered 21 days ago; usual is 6"),
        ("recency_days", Compared(1.2, 0.3, {}), "last ordered 1 day ago; usual is 0"),
        ("tenure_days", Compared(40.0, 150.0, {}), "first ordered 40 days ago; usual is 150"),
        (
            "gap_ratio",
            Compared(3.21, 0.8, {}),
            "silent for 3.2 times their own usual gap between orders; usual is 0.8 times",
        ),
        (
            "missed_orders",
            Compared(4.0, 1.2, {}),
            "at their own pace would have ordered 4.0 times since the last order; usual is 1.2",
        ),
        ("recent_delay_minutes", Compared(95.2, 4.0, {}), "waited 95 minutes past the promise in 30 days; usual is 4"),
        (
            "recent_delay_minutes",
            Compared(480.0, 96.0, {}),
            "waited 8.0 hours past the promise in 30 days; usual is 1.6",
        ),
        (
            "recent_delay_minutes",
            Compared(8640.0, 720.0, {}),
            "waited 6.0 days past the promise in 30 days; usual is 0.5",
        ),
        ("orders_ever", Compared(1.0, 12.4, {}), "1 order in all; usual is 12.4"),
        (
            "delay_minutes_at_last_order",
            Compared(95.2, 4.0, {}),
            "waited 95 minutes past the promise in the 30 days to the last order; usual is 4",
        ),
    ],
)
def test_a_sentence_sets_the_customers_value_against_the_usual(feature: str, value: Compared, sentence: str) -> None:
    assert FEATURE_OF[feature].reason(value, WORDING) == sentence


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        # As shown they are the same.
        ("total_orders", Compared(1, 1.04, {})),
        # Less or more, and nobody would say so.
        ("total_orders", Compared(7, 7.2, {})),
        ("orders_ever", Compared(19, 20.9, {})),
        ("tenure_days", Compared(144, 145, {})),
        ("recency_days", Compared(8.6, 8.0, {})),
        ("gap_ratio", Compared(1.3, 1.2, {})),
        ("missed_orders", Compared(0.85, 0.8, {})),
        ("recency_days", Compared(5.6, 5.5, {})),
        ("crisis_exposure_index", Compared(1, 0.96, {})),
        # And these speak for staying.
        ("total_orders", Compared(3, 1.3, {})),
        ("recency_days", Compared(1.2, 5.6, {})),
        ("crisis_exposure_index", Compared(0, 0.05, {})),
        ("late_order_ratio", Compared(0, 0.7, {"late_deliveries": 0, "promised_deliveries": 1})),
        ("sentiment_velocity", Compared(0, -0.3, {})),
        ("orders_ever", Compared(30, 12.4, {})),
    ],
)
def test_what_is_usual_or_speaks_for_staying_is_no_reason(feature: str, value: Compared) -> None:
    assert FEATURE_OF[feature].reason(value, WORDING) is None


def test_a_feature_that_claims_no_side_is_told_wherever_it_differs_as_shown() -> None:
    either = replace(FEATURE_OF["gap_ratio"], riskier=None)
    assert [either.reason(Compared(own, 1.0, {}), WORDING) is None for own in (0.5, 1.04, 2.0)] == [False, True, False]


@pytest.mark.parametrize("count", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("name", FEATURE_OF)
def test_every_feature_has_a_sentence_that_needs_only_what_it_declares_to_tell(name: str, count: float) -> None:
    feature = FEATURE_OF[name]
    parts = dict.fromkeys(feature.parts, (1.0, 0.5))
    sentence = feature.sentence(
        Compared(feature.low, feature.low + 1, dict.fromkeys(feature.tells, count), parts), WORDING
    )
    assert sentence if count else sentence is None or sentence
    assert "nan" not in (sentence or "")


@pytest.mark.parametrize(
    ("share", "said"), [(0.001, "none"), (0.1, "1 in 10"), (0.33, "1 in 3"), (0.5, "5 in 10"), (1.0, "10 in 10")]
)
def test_a_share_is_said_as_people_say_it(share: float, said: str) -> None:
    assert one_in(share) == said


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [counted(count, "day", "days") for count in (0.4, 1.2, 1.6, 1234.0)] == [
        "0 days",
        "1 day",
        "2 days",
        "1,234 days",
    ]


def test_a_duration_is_told_in_the_largest_unit_that_it_is_whole_in() -> None:
    told = [duration(minutes) for minutes in (1, 45, 60, 90, 720, 1440, 2880, 22.5)]
    assert told == ["1 minute", "45 minutes", "1 hour", "90 minutes", "12 hours", "1 day", "2 days", "22.5 minutes"]


def test_ratings_are_said_on_the_companys_own_scale() -> None:
    points = replace(WORDING, scale=RatingScale("points", 0.0, 10.0))
    rated, fell = FEATURE_OF["avg_star_rating"], FEATURE_OF["sentiment_velocity"]
    # 1 to 5 are 0 to 10, and each of the four steps between them is 2.5.
    assert rated.reason(Compared(2.2, 4.6, {"reviews": 1}), points) == "rated us 3.0 points on average; usual is 9.0"
    assert fell.reason(Compared(-2.0, -0.4, {}), points) == (
        "a review fell by 5.0 points from the one before; usual is 1.0"
    )
    thumbs = replace(WORDING, scale=RatingScale("thumbs", 0.0, 0.2))
    assert rated.reason(Compared(3.6, 3.9, {"reviews": 1}), thumbs) is None
    assert fell.reason(Compared(-0.5, -0.2, {}), thumbs) is None

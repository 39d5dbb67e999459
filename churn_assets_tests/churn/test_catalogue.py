"""A feature that is not declared soundly is refused by its name, and a set holds the features that name it."""

import math
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from churn_assets.churn.catalogue import FEATURE_OF, FEATURE_SETS, FEATURES, SETS, TOLD_COLUMNS, Feature, declared
from churn_assets.churn.errors import InvalidCatalogueError
from churn_assets_tests import reference

SEED = (
    "total_orders",
    "avg_star_rating",
    "late_order_ratio",
    "segment_index",
    "crisis_exposure_index",
    "sentiment_velocity",
    "rfm_score",
)
EXTENDED = (*SEED, "recency_days", "tenure_days", "gap_ratio")
CRISIS_AWARE = (*EXTENDED, "missed_orders", "recent_delay_minutes", "orders_ever", "delay_minutes_at_last_order")


def refused(*features: Feature) -> tuple[str, ...]:
    with pytest.raises(InvalidCatalogueError) as error:
        declared(*features)
    assert "Next step: " in str(error.value)
    return error.value.problems


def with_another(**changed: Any) -> tuple[Feature, ...]:
    """The catalogue with one more feature, which is sound but for what is changed."""
    return (*FEATURES, replace(FEATURE_OF["late_order_ratio"], **{"name": "another", "tells": (), **changed}))


def test_the_sets_hold_what_names_them_in_the_catalogues_order() -> None:
    assert dict(FEATURE_SETS) == {"seed": SEED, "extended": EXTENDED, "crisis_aware": CRISIS_AWARE}
    assert SEED == reference.SEED_FEATURES
    assert (*reference.SEED_FEATURES, *reference.EXTENDED_FEATURES) == EXTENDED
    assert tuple(FEATURE_OF) == tuple(feature.name for feature in FEATURES) == CRISIS_AWARE


def test_kinds_decide_what_is_binned_by_value() -> None:
    assert [feature.name for feature in FEATURES if feature.is_by_value] == ["segment_index", "crisis_exposure_index"]


def test_a_range_is_said_in_words() -> None:
    said = {name: FEATURE_OF[name].range_text for name in ("total_orders", "sentiment_velocity", "segment_index")}
    assert said == {"total_orders": "1 or more", "sentiment_velocity": "-4 to 4", "segment_index": "-1 or more"}


def test_sentences_tell_each_column_once() -> None:
    assert sorted(TOLD_COLUMNS) == ["late_deliveries", "promised_deliveries", "reviews"]


@pytest.mark.parametrize(
    "part", [part.name for part in fields(Feature) if part.default is part.default_factory is MISSING]
)
def test_a_part_left_out_is_refused_by_its_name(part: str) -> None:
    parts = {name: value for name, value in vars(FEATURES[0]).items() if name != part}
    with pytest.raises(TypeError, match=f"'{part}'"):
        Feature(**parts)


def test_a_feature_of_no_set_is_sound_and_in_none() -> None:
    assert [feature.name for feature in declared(*with_another(sets=()))] == [*CRISIS_AWARE, "another"]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": "Another one"}, "'Another one': cannot be the name of a feature's column"),
        ({"name": "label"}, "'label': cannot be the name of a feature's column"),
        ({"low": 2}, "another: low (2) must be a number and not exceed high (1)"),
        ({"kind": "number", "low": -math.inf}, "another: low (-inf) must be a number and not exceed high (1)"),
        ({"kind": "number", "high": math.nan}, "another: low (0) must be a number and not exceed high (nan)"),
        ({"kind": "text"}, "another: kind (text) must be one of number, share, binary, category"),
        ({"kind": "binary", "high": 2}, "another: a binary feature has the range 0 to 1, not 0 to 2"),
        ({"high": 100}, "another: a share feature has the range 0 to 1, not 0 to 100"),
        ({"sets": ("seed", "all")}, "another: feature set (all) must be one of seed, extended, crisis_aware"),
        ({"reads": ()}, "another: reads is empty, and a feature of nothing tells nothing"),
        (
            {"reads": ("risk_score",)},
            "another: reads risk_score, which is no column of the customer snapshots (SNAPSHOT_COLUMNS)",
        ),
        (
            {"tells": ("weekend_orders",)},
            "another: tells weekend_orders, which is no column of the customer snapshots (SNAPSHOT_COLUMNS)",
        ),
        ({"tells": ("total_orders",)}, "another: tells total_orders, which is a feature's name too"),
        ({"meaning": " "}, "another: meaning is empty"),
        ({"formula": ""}, "another: formula is empty"),
        ({"value": None}, "another: value must be a function"),
        ({"sentence": "usual is 3"}, "another: sentence must be a function"),
        ({"name": "rfm_score"}, "rfm_score: declared 2 times"),
    ],
)
def test_what_is_not_sound_is_refused_with_feature_and_problem(changed: dict[str, Any], problem: str) -> None:
    assert problem in refused(*with_another(**changed))


def test_a_set_that_no_feature_names_is_refused() -> None:
    without = [replace(feature, sets=tuple({*feature.sets} - {"seed"})) for feature in FEATURES]
    assert refused(*without) == ("feature set seed: no feature names it",)
    assert refused() == tuple(f"feature set {name}: no feature names it" for name in SETS)


def test_everything_wrong_is_told_at_once() -> None:
    features = (*with_another(low=3, meaning=""), replace(FEATURES[0], reads=("nothing",)))
    told = [problem.split(":")[0] for problem in refused(*features)]
    # The range of a share, and low above high, are two.
    assert sorted(told) == ["another", "another", "another", "total_orders", "total_orders"]

"""What a campaign changed: claimed where it is there, not where it is not, and said plainly where nobody can tell."""

from collections import Counter
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn.campaigns import (
    ALL_TIERS,
    COUNTED_BY,
    EFFECT_SCHEMA,
    KEPT,
    LOST,
    NOT_YET_KNOWN,
    NOTHING_TO_COMPARE,
    TOO_FEW,
    Arm,
    campaign_effect,
    campaign_effects,
    campaign_outcomes,
)
from churn_assets.churn.policy import ChurnPolicy

POLICY = ChurnPolicy()
LIST = date(2025, 11, 17)
SNAPSHOTS = (LIST, date(2025, 12, 15))
CAMPAIGNS = 100


def effect(treated: Arm, held_out: Arm) -> Any:
    return campaign_effect(LIST, ALL_TIERS, treated, held_out, POLICY, POLICY.gate.confidence)


def simulated(planted: float) -> list[Any]:
    """Campaigns of 1,000 customers of whom 40 % would leave, a tenth held out; the contact keeps a share of these."""
    random = np.random.default_rng(7)
    found = []
    for _ in range(CAMPAIGNS):
        is_held_out = random.random(1_000) < 0.1
        leaves = random.random(1_000) < 0.4
        stays = ~leaves | (~is_held_out & (random.random(1_000) < planted))
        treated, held_out = int((~is_held_out).sum()), int(is_held_out.sum())
        found.append(
            effect(
                Arm(treated, treated, int(stays[~is_held_out].sum())), Arm(held_out, 0, int(stays[is_held_out].sum()))
            )
        )
    return found


@pytest.mark.parametrize("planted", [0.0, 0.15, 0.5])
def test_the_interval_covers_the_planted_effect_in_nine_of_ten_campaigns(planted: float) -> None:
    truth = 0.4 * planted
    covered = [found.difference.low <= truth <= found.difference.high for found in simulated(planted)]
    assert sum(covered) >= 0.9 * CAMPAIGNS


def test_without_an_effect_at_most_one_in_ten_campaigns_claims_one() -> None:
    claims = [found.conclusion for found in simulated(0.0) if found.conclusion in (KEPT, LOST)]
    assert len(claims) <= 0.1 * CAMPAIGNS


def test_a_large_effect_is_claimed() -> None:
    found = simulated(0.5)
    assert sum(each.conclusion == KEPT for each in found) >= 0.9 * CAMPAIGNS
    assert "the list kept about" in found[0].statement


@pytest.mark.parametrize(
    ("treated", "held_out", "conclusion", "told"),
    [
        (Arm(900, 900, None), Arm(100, 0, None), NOT_YET_KNOWN, "once the orders up to 2025-12-17 are in"),
        (Arm(900, 900, 600), Arm(), NOTHING_TO_COMPARE, "nobody was held out"),
        (Arm(), Arm(100, 0, 60), NOTHING_TO_COMPARE, "nobody was to be contacted"),
        (Arm(900, 900, 600), Arm(19, 0, 3), TOO_FEW, "only 19 customers in one of the groups"),
        (
            Arm(900, 900, 600),
            Arm(100, 0, 62),
            TOO_FEW,
            "62; the list kept up to 14.9 of 100 or lost up to 4.8 (95%",
        ),
        (
            Arm(900, 900, 630),
            Arm(100, 0, 50),
            KEPT,
            "kept about 20 of 100 (95% interval 10 to 30), some 180 (89",
        ),
        (
            Arm(900, 900, 450),
            Arm(100, 0, 70),
            LOST,
            "lost about 20 of 100 (95% interval 10 to 29), some 180 (89",
        ),
        (
            Arm(900, 900, 630),
            Arm(100, 5, 50),
            KEPT,
            "held out 50 (5 of them were contacted all the same): the list kept",
        ),
    ],
)
def test_what_is_said_follows_from_the_interval(treated: Arm, held_out: Arm, conclusion: str, told: str) -> None:
    found = effect(treated, held_out)
    assert found.conclusion == conclusion
    assert told in found.statement


# --- from the tables ---


def tables(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    """Members: 60 to contact and 40 held out of tier high, 30 and 30 of medium; and some rows that cannot count."""
    contacted = datetime(2025, 11, 18)
    members: list[tuple[Any, ...]] = []
    labels: list[tuple[Any, ...]] = []
    for tier, treated, held_out in (("high", 60, 40), ("medium", 30, 30)):
        for number in range(treated + held_out):
            is_holdout = number >= treated
            reached = None if is_holdout or number == 0 else contacted
            members.append((f"{tier}{number}", LIST, reached, is_holdout, tier))
            labels.append((f"{tier}{number}", LIST, float(number % 4 == 0) if not is_holdout else float(number % 2)))
    members += [
        ("high1", LIST, datetime(2025, 11, 20), False, "high"),
        ("stranger", LIST, contacted, False, "high"),
        (None, LIST, contacted, False, "high"),
        ("high1", None, contacted, False, "high"),
        ("high1", date(2025, 11, 18), contacted, False, "high"),
        ("later", date(2025, 12, 15), contacted, False, None),
        ("later too", date(2025, 12, 15), None, True, None),
    ]
    labels += [("later", date(2025, 12, 15), None), ("later too", date(2025, 12, 15), None)]
    return (
        spark.createDataFrame(
            members, "customer_id string, as_of date, contacted_at timestamp, is_holdout boolean, risk_tier string"
        ),
        spark.createDataFrame(labels, "customer_id string, as_of date, label double"),
    )


def test_rows_that_cannot_count_stay_with_their_reason(spark: SparkSession) -> None:
    members, panel = tables(spark)
    outcomes = campaign_outcomes(members, panel, SNAPSHOTS)
    assert outcomes.count() == members.count()
    aside = sorted((row.customer_id or "", row.problem) for row in outcomes.where("problem is not null").collect())
    assert aside == [
        ("", "no customer"),
        ("high1", "no date of the list"),
        ("high1", "on the list more than once"),
        ("high1", "the date of the list is not an as-of date"),
        ("stranger", "not an eligible customer of that date"),
    ]


def test_effects_are_counted_by_list_and_tier_as_the_list_chose(spark: SparkSession) -> None:
    outcomes = campaign_outcomes(*tables(spark), SNAPSHOTS)
    found = campaign_effects(Counter(map(tuple, outcomes.select(*COUNTED_BY).collect())), POLICY)
    assert [(each.as_of, each.risk_tier) for each in found] == [
        (LIST, "all"),
        (LIST, "high"),
        (LIST, "medium"),
        (date(2025, 12, 15), "all"),
        (date(2025, 12, 15), "(unknown)"),
    ]
    everyone, high, medium, later, _ = found
    # Whoever could not be reached stays in the arm the list chose.
    assert (high.treated, high.held_out) == (Arm(60, 59, 45), Arm(40, 0, 20))
    assert (everyone.treated, everyone.held_out) == (Arm(90, 88, 67), Arm(70, 0, 35))
    assert medium.conclusion == TOO_FEW
    assert later.conclusion == NOT_YET_KNOWN
    assert everyone.conclusion == KEPT
    # Two tiers, so each is asked for twice the evidence.
    assert "97.5% interval" in high.statement
    rows = pa.Table.from_pylist([each.row() for each in found], EFFECT_SCHEMA).to_pylist()
    assert [row["conclusion"] for row in rows] == [each.conclusion for each in found]
    assert rows[0]["customers_kept"] == pytest.approx(90 * (67 / 90 - 0.5))

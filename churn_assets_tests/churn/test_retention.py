"""The retention list: the most valuable at risk within capacity, nobody who is excluded, the same people held out."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.policy import Action, ChurnPolicy, Retention
from churn_assets.churn.reasons import REASON
from churn_assets.churn.retention import (
    campaign_members,
    capacity_by_date,
    exclusions,
    is_held_out,
    retention_list,
    suggested_action,
    target_outcomes,
)

WEEK = date(2025, 12, 29)
MEMBERS = "customer_id string, as_of date, contacted_at timestamp, is_holdout boolean, risk_tier string"


def policy(**retention: Any) -> ChurnPolicy:
    return ChurnPolicy(retention=Retention(**retention))


def candidates(spark: SparkSession, customers: int = 60, week: date = WEEK) -> DataFrame:
    """Probabilities and spend that do not rank alike; two customers are of equal value."""
    rows = [
        (f"C{number:03}", week, 0.3 + 0.6 * ((number * 37) % customers) / customers, float(10 + (number * 53) % 97))
        for number in range(customers)
    ]
    rows[5] = ("C005", week, *rows[4][2:])
    return spark.createDataFrame(rows, "customer_id string, as_of date, churn_probability double, recent_spend double")


def capacities(spark: SparkSession, capacity: int, week: date = WEEK) -> DataFrame:
    return spark.createDataFrame([(week, capacity)], "as_of date, capacity long")


def test_the_list_is_the_most_valuable_at_risk_until_the_capacity_is_used_up(spark: SparkSession) -> None:
    rules = policy(holdout_share=0.2)
    everyone = candidates(spark)
    listed = retention_list(everyone, capacities(spark, 10), rules).orderBy("rank").collect()
    expected = sorted(everyone.collect(), key=lambda row: (-row[2] * row[3], -row[2], row.customer_id))
    assert [row.customer_id for row in listed] == [row.customer_id for row in expected[: len(listed)]]
    assert [row["rank"] for row in listed] == list(range(1, len(listed) + 1))
    assert [row.value_at_risk for row in listed] == [row[2] * row[3] for row in expected[: len(listed)]]
    # Whoever is held out takes no one's place, and the list ends with the last who is contacted.
    assert sum(not row.is_holdout for row in listed) == 10
    assert sum(row.is_holdout for row in listed) > 0
    assert not listed[-1].is_holdout


def test_each_week_has_a_list_of_its_own(spark: SparkSession) -> None:
    other = date(2025, 12, 22)
    both = candidates(spark).unionByName(candidates(spark, week=other))
    capacity = capacities(spark, 7).unionByName(capacities(spark, 3, other))
    listed = retention_list(both, capacity, policy(holdout_share=0.0))
    assert {row.as_of: row["count"] for row in listed.groupBy("as_of").count().collect()} == {WEEK: 7, other: 3}


def test_the_capacity_is_the_alert_budget_or_what_the_team_can_do(spark: SparkSession) -> None:
    eligible = spark.createDataFrame([(WEEK,)] * 99, "as_of date")

    def capacity(rules: ChurnPolicy) -> int:
        (row,) = capacity_by_date(eligible, rules).collect()
        return row.capacity

    assert capacity(policy()) == 19
    assert capacity(policy(weekly_capacity=5)) == 5
    assert capacity(policy(weekly_capacity=500)) == 19


def test_who_is_held_out_depends_on_customer_and_list_alone(spark: SparkSession) -> None:
    rules, other_week = policy(holdout_share=0.1), date(2025, 12, 22)

    def held_out(rows: DataFrame) -> set[str]:
        return {row.customer_id for row in rows.where(is_held_out(rules)).collect()}

    many = spark.range(20_000).select(F.concat(F.lit("C"), "id").alias("customer_id"), F.lit(WEEK).alias("as_of"))
    found = held_out(many)
    assert len(found) / 20_000 == pytest.approx(0.1, abs=0.01)
    some = many.where(F.col("customer_id") < "C5").repartition(7)
    assert held_out(some) == {customer for customer in found if customer < "C5"}
    others = held_out(many.withColumn("as_of", F.lit(other_week)))
    # Chance would share a tenth of them.
    assert len(found & others) / len(found) == pytest.approx(0.1, abs=0.03)


# --- who is kept off the list ---


def test_whoever_was_contacted_or_held_out_of_late_or_opted_out_is_excluded(spark: SparkSession) -> None:
    names = ("paused", "edge", "long ago", "today", "held out", "opted out", "both", "nobody", "by mistake")
    alerted = spark.createDataFrame([(name, WEEK) for name in names], "customer_id string, as_of date")
    list_of = date(2025, 12, 1)
    members = spark.createDataFrame(
        [
            ("paused", list_of, datetime(2025, 12, 2), False, None),
            ("paused", date(2025, 11, 3), datetime(2025, 11, 28), False, None),
            ("edge", None, datetime(2025, 11, 17), False, None),
            ("long ago", date(2025, 11, 3), datetime(2025, 11, 16, 23), False, None),
            ("today", WEEK, datetime(2025, 12, 29, 9), False, None),
            ("held out", list_of, None, True, None),
            ("both", list_of, datetime(2025, 12, 3), False, None),
            ("nobody", list_of, None, False, None),
            ("by mistake", list_of, datetime(2025, 12, 4), True, None),
        ],
        MEMBERS,
    )
    opt_outs = spark.createDataFrame([("opted out",), ("both",), ("both",), ("stranger",)], "customer_id string")
    found = {row.customer_id: row.reason for row in exclusions(alerted, members, opt_outs, policy()).collect()}
    assert found == {
        "paused": "contacted on 2025-12-02",
        "edge": "contacted on 2025-11-17",
        "held out": "held out on 2025-12-01",
        "opted out": "opted out",
        "both": "contacted on 2025-12-03; opted out",
        "by mistake": "contacted on 2025-12-04",
    }
    shorter = exclusions(alerted, members, opt_outs, policy(contact_pause_days=30))
    assert {row.customer_id for row in shorter.collect()} == {"paused", "held out", "opted out", "both", "by mistake"}


def test_who_was_held_out_is_taken_from_the_list_where_the_contacts_do_not_say(spark: SparkSession) -> None:
    used, unused = date(2025, 12, 1), date(2025, 12, 8)
    contacts = spark.createDataFrame(
        [
            ("a", used, datetime(2025, 12, 2), None, None),
            ("b", used, None, True, "low"),
            ("z", unused, None, None, None),
        ],
        MEMBERS,
    )
    lists = spark.createDataFrame(
        [
            ("a", used, False, "high"),
            ("b", used, False, "high"),
            ("c", used, True, "medium"),
            ("d", used, False, "high"),
            ("e", unused, True, "high"),
        ],
        "customer_id string, as_of date, is_holdout boolean, risk_tier string",
    )
    found = sorted((*row[:2], row.is_holdout, row.risk_tier) for row in campaign_members(contacts, lists).collect())
    assert found == [
        ("a", used, False, "high"),
        ("b", used, True, "low"),
        ("c", used, True, "medium"),
        ("d", used, False, "high"),
        ("z", unused, False, None),
    ]
    assert campaign_members(contacts, None).count() == 3


# --- what to offer ---


def test_the_first_action_that_fits_is_suggested(spark: SparkSession) -> None:
    actions = (
        Action(action="call", risk_tier="high", min_value_at_risk=100.0),
        Action(action="apology", reason="late_order_ratio"),
        Action(action="reminder"),
    )
    rows = spark.createDataFrame(
        [
            ("call", "high", 100.0, [("late_order_ratio",)]),
            ("apology", "high", 99.0, [("recency_days",), ("late_order_ratio",)]),
            ("apology", "medium", 500.0, [("late_order_ratio",)]),
            ("reminder", "medium", 500.0, [("recency_days",)]),
            ("reminder", "high", 1.0, []),
        ],
        "expected string, risk_tier string, value_at_risk double, reasons array<struct<feature: string>>",
    )
    for row in rows.withColumn("suggested", suggested_action(actions)).collect():
        assert row.suggested == row.expected


# --- the rules of the table ---


def a_list(spark: SparkSession) -> DataFrame:
    """Twenty alerted customers; fifteen contacts and the hold-outs among them are listed."""
    listed = retention_list(candidates(spark, 40), capacities(spark, 15), policy(holdout_share=0.2))
    raw = F.log(F.col("churn_probability") / (1 - F.col("churn_probability"))) / 2
    reasons = (
        "array(named_struct('feature', 'x', 'value', 1D, 'usual', 2D, 'contribution', raw_score / 2, 'sentence', ''))"
    )
    return (
        listed.withColumn("raw_score", raw)
        .withColumn("base_score", F.lit(0.125))
        .withColumn("reasons", F.expr(reasons).cast(f"array<{REASON}>"))
        .withColumn("other_contributions", F.col("raw_score") / 2 - 0.125)
    )


def broken_rules(
    spark: SparkSession, targets: DataFrame, *, excluded: tuple[str, ...] = (), capacity: int = 15
) -> set[str]:
    alerted = candidates(spark, 40)
    kept_off = spark.createDataFrame([(name, WEEK) for name in excluded], "customer_id string, as_of date")
    outcomes = target_outcomes(targets, kept_off, alerted, capacities(spark, capacity))
    return {outcome.rule for outcome in outcomes if not outcome.is_passed}


def only(rank: int, name: str, value: Any) -> Callable[[DataFrame], DataFrame]:
    return lambda rows: rows.withColumn(name, F.when(F.col("rank") == rank, F.lit(value)).otherwise(F.col(name)))


@pytest.fixture(scope="module")
def good(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(a_list(spark).collect(), a_list(spark).schema)


def test_a_good_list_breaks_no_rule(spark: SparkSession, good: DataFrame) -> None:
    assert broken_rules(spark, good) == set()


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (only(2, "rank", 99), "ranking"),
        (only(2, "value_at_risk", 0.5), "ranking"),
        (only(2, "recent_spend", 0.5), "ranking"),
        (only(2, "value_at_risk", None), "ranking"),
        (only(2, "customer_id", "stranger"), "exclusions"),
        (only(2, "raw_score", 9.0), "additivity"),
        (only(2, "churn_probability", None), "additivity"),
        (only(2, "other_contributions", 9.0), "additivity"),
        (lambda rows: rows.unionByName(rows.where("rank = 1")), "exclusions"),
        (lambda rows: rows.withColumn("is_holdout", F.lit(False)), "capacity"),
        (lambda rows: rows.where("rank <= 9"), "exclusions"),
    ],
)
def test_a_broken_list_breaks_its_rule(
    spark: SparkSession, good: DataFrame, spoil: Callable[[DataFrame], DataFrame], rule: str
) -> None:
    assert rule in broken_rules(spark, spoil(good))


def test_an_excluded_customer_on_the_list_breaks_the_rule(spark: SparkSession, good: DataFrame) -> None:
    (first,) = good.where("rank = 1").collect()
    assert broken_rules(spark, good, excluded=(first.customer_id,)) == {"exclusions"}

"""The retention list: the most valuable at risk within capacity, nobody who is excluded, the same people held out."""

import math
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import Calendar, ChurnPolicy, Retention
from churn_assets.churn.retention import (
    TARGET_RULES,
    as_doubles,
    campaign_members,
    capacity_by_date,
    exclusions,
    is_held_out,
    retention_list,
    target_outcomes,
)

WEEK = date(2025, 12, 29)
MEMBERS = "customer_id string, as_of date, contacted_at timestamp, is_holdout boolean, risk_tier string"


def policy(**retention: Any) -> ChurnPolicy:
    return ChurnPolicy(retention=Retention(**retention))


def candidates(customers: int = 60, week: date = WEEK) -> list[dict[str, Any]]:
    """Probabilities and spend that do not rank alike; two customers are of equal value; every fifth is held out."""
    rows = [
        {
            "customer_id": f"C{number:03}",
            "as_of": week,
            "churn_probability": 0.3 + 0.6 * ((number * 37) % customers) / customers,
            "recent_spend": float(10 + (number * 53) % 97),
            "is_holdout": number % 5 == 0,
            "risk_tier": "high",
            "reasons": [{"feature": "recency_days"}],
        }
        for number in range(customers)
    ]
    best = max(rows, key=value)
    rows[6] |= {name: best[name] for name in ("churn_probability", "recent_spend")}
    return rows


def value(row: dict[str, Any]) -> float:
    return float(row["churn_probability"] * row["recent_spend"])


def test_the_list_is_the_most_valuable_at_risk_until_the_capacity_is_used_up() -> None:
    everyone = candidates()
    expected = sorted(everyone, key=lambda row: (-value(row), -row["churn_probability"], row["customer_id"]))
    for order in (everyone, everyone[::-1], expected[::-1]):
        listed = retention_list(pa.Table.from_pylist(order), {WEEK: 10}, ChurnPolicy()).to_pylist()
        assert [row["customer_id"] for row in listed] == [row["customer_id"] for row in expected[: len(listed)]]
        assert [row["rank"] for row in listed] == list(range(1, len(listed) + 1))
        assert [row["value_at_risk"] for row in listed] == [value(row) for row in expected[: len(listed)]]
        # Whoever is held out takes no one's place, and the list ends with the last who is contacted.
        assert sum(not row["is_holdout"] for row in listed) == 10
        assert sum(row["is_holdout"] for row in listed) > 0
        assert not listed[-1]["is_holdout"]


def test_each_week_has_a_list_of_its_own() -> None:
    other = date(2025, 12, 22)
    both = [{**row, "is_holdout": False} for row in [*candidates(), *candidates(week=other)]]
    listed = retention_list(pa.Table.from_pylist(both), {WEEK: 7, other: 3}, ChurnPolicy())
    assert Counter(listed.column("as_of").to_pylist()) == {WEEK: 7, other: 3}
    nobody = retention_list(pa.Table.from_pylist(both).slice(0, 0), {WEEK: 7, other: 3}, ChurnPolicy())
    assert (len(nobody), nobody.schema) == (0, listed.schema)


def test_the_capacity_is_the_alert_budget_or_what_the_team_can_do() -> None:
    def capacity(rules: ChurnPolicy) -> int:
        return capacity_by_date({WEEK: 99}, rules)[WEEK]

    assert capacity(policy()) == 19
    assert capacity(policy(weekly_capacity=5)) == 5
    assert capacity(policy(weekly_capacity=500)) == 19
    # Seven lists share what can be contacted in a week.
    daily = Calendar(snapshots="daily")
    assert capacity(ChurnPolicy(calendar=daily)) == 2
    assert capacity(ChurnPolicy(calendar=daily, retention=Retention(weekly_capacity=7))) == 1


def test_spend_becomes_the_nearest_double() -> None:
    # Arrow's own cast of the second is off by one place.
    exact = [Decimal("0.1"), Decimal("7.3026447066"), None]
    assert as_doubles(pa.chunked_array([pa.array(exact, pa.decimal128(38, 10))])).to_pylist() == [
        0.1,
        7.3026447066,
        None,
    ]


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


# --- the rules of the table ---


Spoil = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def good_list() -> list[dict[str, Any]]:
    """Of forty alerted customers fifteen contacts and the hold-outs among them."""
    return retention_list(pa.Table.from_pylist(candidates(40)), {WEEK: 15}, ChurnPolicy()).to_pylist()


def outcomes_of(
    targets: list[dict[str, Any]], *, excluded: tuple[str, ...] = (), capacity: int = 15
) -> dict[str, Outcome]:
    schema = pa.Table.from_pylist(good_list()).schema
    alerted = pa.Table.from_pylist(candidates(40))
    kept_off = pa.table({"customer_id": pa.array(excluded, pa.string()), "as_of": [WEEK] * len(excluded)})
    outcomes = target_outcomes(
        pa.Table.from_pylist(targets, schema), kept_off, alerted, {WEEK: capacity}, ChurnPolicy()
    )
    assert tuple(outcome.rule for outcome in outcomes) == TARGET_RULES
    return {outcome.rule: outcome for outcome in outcomes if not outcome.is_passed}


def only(rank: int, name: str, value: Any) -> Spoil:
    return lambda rows: [{**row, name: value} if row["rank"] == rank else row for row in rows]


def test_a_good_list_breaks_no_rule() -> None:
    assert outcomes_of(good_list()) == {}
    assert outcomes_of(good_list()[::-1]) == {}


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (only(2, "rank", 99), "ranking"),
        (only(2, "value_at_risk", 0.5), "ranking"),
        (only(2, "recent_spend", 0.5), "ranking"),
        (only(2, "value_at_risk", None), "ranking"),
        (only(2, "value_at_risk", math.nan), "ranking"),
        (only(2, "recent_spend", math.nan), "ranking"),
        # A list that ranks by profit is held to that, and one without says so.
        (lambda rows: [{**row, "ranked_by": "expected_profit"} for row in rows], "ranking"),
        (only(2, "customer_id", "stranger"), "exclusions"),
        (lambda rows: [*rows, rows[0]], "exclusions"),
        (lambda rows: [{**row, "is_holdout": False} for row in rows], "capacity"),
        (lambda rows: [row for row in rows if row["rank"] <= 9], "exclusions"),
    ],
)
def test_a_broken_list_breaks_its_rule(spoil: Spoil, rule: str) -> None:
    assert rule in outcomes_of(spoil(good_list()))


def test_lists_of_before_they_said_what_they_rank_by_are_held_to_the_value_at_risk() -> None:
    ranked = pa.Table.from_pylist(good_list()).drop_columns(["ranked_by", "expected_profit"])
    nobody = pa.table({"customer_id": pa.array([], pa.string()), "as_of": pa.array([], pa.date32())})
    alerted = pa.Table.from_pylist(candidates(40))

    def broken(targets: pa.Table) -> set[str]:
        outcomes = target_outcomes(targets, nobody, alerted, {WEEK: 15}, ChurnPolicy())
        return {outcome.rule for outcome in outcomes if not outcome.is_passed}

    assert broken(ranked) == set()
    ranks = ranked.column_names.index("rank")
    assert broken(ranked.set_column(ranks, "rank", ranked.column("rank").combine_chunks()[::-1])) == {"ranking"}


def test_an_excluded_customer_on_the_list_breaks_the_rule() -> None:
    rows = good_list()
    broken = outcomes_of(rows, excluded=(rows[0]["customer_id"],))
    assert set(broken) == {"exclusions"}
    assert broken["exclusions"].observed == "1 offending customers"
    assert broken["exclusions"].keys == (f"{rows[0]['customer_id']} at {WEEK}",)


def test_everyone_who_is_forgotten_is_counted_and_the_first_are_named() -> None:
    rows = good_list()
    broken = outcomes_of(rows[:2], capacity=40)["exclusions"]
    assert broken.observed == "38 offending customers"
    left_out = sorted({row["customer_id"] for row in candidates(40)} - {row["customer_id"] for row in rows[:2]})
    assert broken.keys == tuple(f"{customer} at {WEEK}" for customer in left_out[:10])

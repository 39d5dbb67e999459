"""Which rows of used lists an estimate learns from, which recorded verdict lets lists heed it, and how they do."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.policy import Action, ChurnPolicy, Economics, Offer, Retention
from churn_assets.churn.retention import (
    KEEPS_NOBODY,
    Ranking,
    ranked_text,
    retention_list,
    target_outcomes,
    without_action,
)
from churn_assets.churn.trials import (
    SCORE,
    RecordedUplift,
    digest_of_rules,
    evaluation_row,
    ranking_by,
    recorded_uplift,
    uplift_rows,
    used_lists,
    with_uplift,
)
from churn_assets.churn.uplift import UpliftEvaluation, UpliftModel, fitted

WEEK, BEFORE = date(2025, 11, 3), date(2025, 10, 27)
MADE, USED = datetime(2025, 11, 3, 6, tzinfo=UTC), datetime(2025, 11, 3, 9, tzinfo=UTC)
MADE_OF = {"food_delivery/campaign_contacts": 1, "food_delivery/ml_churn_features": 2}


def policy(**retention: Any) -> ChurnPolicy:
    return ChurnPolicy(retention=Retention(rank_by="uplift", min_held_out=100, **retention))


POLICY = policy()


def of_week(customers: int = 400, week: date = WEEK) -> tuple[list[dict[str, Any]], ...]:
    """Outcomes, list and panel of a used list, every fourth held out."""
    random = np.random.default_rng(week.toordinal())
    outcomes, listed, panel = [], [], []
    for number in range(customers):
        key = {"customer_id": f"C{number:04}", "as_of": week}
        is_held_out = number % 4 == 0
        outcomes.append(
            {
                **key,
                "arm": "held out" if is_held_out else "to contact",
                "contacted_at": None if is_held_out else USED,
                "is_retained": bool(random.random() < 0.6),
                "problem": None,
            }
        )
        listed.append(
            {
                **key,
                SCORE: float(random.random()),
                "value_at_risk": float(random.random()),
                "recent_spend": float(random.random()),
                "suggested_action": "reminder",
                "is_holdout": is_held_out,
                "listed_at": MADE,
            }
        )
        panel.append({**key, **{name: float(random.random()) for name in POLICY.features}})
    return outcomes, listed, panel


def used(*rows: list[dict[str, Any]], rules: ChurnPolicy = POLICY) -> Any:
    stamps = pa.timestamp("us", "UTC")
    tables = [pa.Table.from_pylist(of_table) for of_table in rows]
    for number, name in ((0, "contacted_at"), (1, "listed_at")):
        place = tables[number].schema.get_field_index(name)
        tables[number] = tables[number].set_column(place, name, tables[number].column(name).cast(stamps))
    outcomes, listed, panel = tables
    return used_lists(outcomes, listed, panel, rules)


def test_every_row_of_a_used_list_counts_with_what_the_list_knew() -> None:
    outcomes, listed, panel = of_week()
    found = used(outcomes[::-1], listed, panel)
    assert found.left_out == {}
    trial = found.trial
    assert trial.names == (*POLICY.features, SCORE)
    assert trial.features[:, -1].tolist() == [row[SCORE] for row in listed]
    assert trial.is_contacted.tolist() == [row["arm"] == "to contact" for row in outcomes]
    assert trial.has_left.tolist() == [not row["is_retained"] for row in outcomes]
    assert trial.value.tolist() == [row["value_at_risk"] for row in listed]


def test_of_too_few_the_uplift_is_null_and_not_a_number() -> None:
    found = used(*of_week(8))
    rows = uplift_rows(found, np.full(len(found.rows), np.nan))
    assert rows.column("uplift").null_count == len(found.rows) > 0


Spoil = Callable[[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]], None]


def set_(rows: list[dict[str, Any]], name: str, value: Any) -> None:
    rows[5][name] = value


@pytest.mark.parametrize(
    ("spoil", "why", "number"),
    [
        (lambda outcomes, _, __: set_(outcomes, "problem", "no customer"), "that counts", 1),
        (lambda outcomes, _, __: set_(outcomes, "is_retained", None), "not yet known", 1),
        (lambda _, listed, __: listed.pop(), "not made here", 1),
        (lambda _, __, panel: panel.pop(), "without features", 1),
        (lambda _, __, panel: set_(panel, "total_orders", float("nan")), "not known", 1),
        # Of a list of before the company declared a value: it must not stand in the way of all others.
        (lambda _, listed, __: set_(listed, "value_at_risk", None), "not known", 1),
        # Made again by a model that may have learned what came of these very contacts.
        (lambda _, listed, __: set_(listed, "listed_at", USED), "made again", 1),
        (lambda _, listed, __: [row.update(is_holdout=False) for row in listed], "anybody held out", 400),
    ],
)
def test_a_row_that_cannot_count_is_left_out_and_counted(spoil: Spoil, why: str, number: int) -> None:
    rows = of_week()
    spoil(*rows)
    found = used(*rows)
    ((told, left_out),) = found.left_out.items()
    assert why in told
    assert left_out == number
    assert len(found.trial.has_left) == 400 - number


def test_a_source_that_tells_the_day_of_a_contact_alone_does_not_make_its_list_one_made_again() -> None:
    outcomes, listed, panel = of_week()
    for row in outcomes:
        row["contacted_at"] = row["contacted_at"] and datetime(2025, 11, 3, tzinfo=UTC)
    assert used(outcomes, listed, panel).left_out == {}
    for row in listed:
        row["listed_at"] = datetime(2025, 11, 4, 6, tzinfo=UTC)
    assert used(outcomes, listed, panel).left_out == {"on a list made again after it was used": 400}


def test_a_list_is_used_from_its_first_contact_on_whether_or_not_that_one_counts() -> None:
    outcomes, listed, panel = of_week()
    set_(outcomes, "problem", "not an eligible customer of that date")
    set_(outcomes, "contacted_at", datetime(2025, 11, 3, 5, tzinfo=UTC))
    assert used(outcomes, listed, panel).left_out["on a list made again after it was used"] == 399


def test_the_arm_is_the_lists_own_lot_whatever_the_contacts_say_of_it() -> None:
    """Somebody held out was called all the same, and somebody to contact was left out by the team, who calls that a
    hold-out."""
    outcomes, listed, panel = of_week()
    expected = used(outcomes, listed, panel).trial.is_contacted.tolist()
    outcomes[0].update(arm="to contact", contacted_at=USED)
    outcomes[1].update(arm="held out", contacted_at=None)
    assert used(outcomes, listed, panel).trial.is_contacted.tolist() == expected


@cache
def opened() -> tuple[UpliftModel, dict[str, Any]]:
    """A model of two lists, and the row of a PASS that is recorded of it."""
    weeks = [of_week(), of_week(week=BEFORE)]
    found = used(*[first + second for first, second in zip(*weeks, strict=True)])
    model = fitted(found.trial, POLICY)
    evaluation = UpliftEvaluation(Verdict.PASS, ("better",), ())
    row = evaluation_row(
        evaluation, found, model, POLICY, lists_made_of=MADE_OF, evaluated_at=datetime(2025, 12, 1, tzinfo=UTC)
    )
    return model, row


def test_a_pass_about_these_rules_and_outcomes_lets_lists_rank_by_its_model() -> None:
    model, row = opened()
    found = recorded_uplift([row], POLICY, MADE_OF)
    assert found.model is not None
    assert found.model.digest == model.digest
    assert ranking_by(found, POLICY) == Ranking(
        "uplift", "the company's policy asks for it and its gate says PASS: better"
    )
    # Nobody asked.
    unasked = ChurnPolicy(retention=Retention(min_held_out=100))
    assert ranking_by(found, unasked) == Ranking("value_at_risk", "the company's policy asks for it")


@pytest.mark.parametrize(
    ("changed", "against"),
    [
        ({"verdict": "FAIL", "reasons": ["worse"]}, "its gate says FAIL: worse"),
        ({"verdict": "NOT_EVALUABLE", "reasons": ["3 of 500"]}, "its gate says NOT_EVALUABLE: 3 of 500"),
        ({"policy_digest": "other"}, "judged under another policy"),
        ({"lists_made_of": {**MADE_OF, "food_delivery/campaign_contacts": 2}}, "judged on other outcomes"),
        ({"model_digest": "other"}, "not the one that was judged"),
        ({"model": None}, "not the one that was judged"),
    ],
)
def test_any_other_verdict_leaves_the_value_at_risk_and_says_why(changed: dict[str, Any], against: str) -> None:
    found = recorded_uplift([{**opened()[1], **changed}], POLICY, MADE_OF)
    assert found.model is None
    ranking = ranking_by(found, POLICY)
    assert ranking.by == "value_at_risk"
    assert against in ranking.because


def test_the_latest_verdict_counts_and_without_any_nothing_ranks() -> None:
    later = {**opened()[1], "verdict": "FAIL", "evaluated_at": datetime(2025, 12, 8, tzinfo=UTC)}
    assert recorded_uplift([later, opened()[1]], POLICY, MADE_OF).verdict is Verdict.FAIL
    assert "nothing of it has been judged yet" in ranking_by(recorded_uplift([], POLICY, MADE_OF), POLICY).because


def test_a_verdict_is_about_the_policy_that_judged_it() -> None:
    assert digest_of_rules(POLICY) == digest_of_rules(policy(holdout_share=0.3))
    assert digest_of_rules(POLICY) != digest_of_rules(ChurnPolicy(retention=Retention(min_held_out=101)))
    other = POLICY.model_copy(update={"gate": POLICY.gate.model_copy(update={"confidence": 0.9})})
    assert digest_of_rules(POLICY) != digest_of_rules(other)


def test_with_economics_the_effect_of_any_contact_is_judged_as_it_is_what_lists_rank_by() -> None:
    offers = {each.action: Offer(acceptance=0.2) for each in POLICY.retention.actions}
    economics = Economics(margin=0.25, lifetime_days=180, actions=offers)
    priced = ChurnPolicy(retention=POLICY.retention, economics=economics)
    assert set(used(*of_week()).trial.actions) == {"reminder"}
    assert set(used(*of_week(), rules=priced).trial.actions) == {""}
    # So what was judged by action is about another ranking.
    assert recorded_uplift([opened()[1]], priced, MADE_OF).model is None


# --- the list ---


def candidates(customers: int, seed: int) -> pa.Table:
    """Of whom a contact keeps about two of three; every eighth or so is held out."""
    random = np.random.default_rng(seed)
    return pa.Table.from_pylist(
        [
            {
                "customer_id": f"C{number:03}",
                "as_of": WEEK,
                SCORE: 0.2 + 0.7 * float(random.random()),
                "recent_spend": float(random.lognormal(3)),
                "is_holdout": bool(random.random() < 0.12),
                "risk_tier": "high",
                "reasons": [{"feature": "recency_days"}],
                "uplift": float(random.normal(0.03, 0.08)),
                "exploration_draw": int(random.integers(2**60)),
            }
            for number in range(customers)
        ]
    )


BY_UPLIFT = Ranking("uplift", "its gate says PASS")


@pytest.mark.parametrize("seed", range(12))
def test_explored_places_go_to_who_was_not_chosen_and_never_to_who_is_held_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    everyone = candidates(int(random.integers(1, 90)), seed)
    capacity, share = int(random.integers(0, 60)), float(random.choice([0.0, 0.1, 0.3]))
    for ranking in (BY_UPLIFT, None):
        rules = policy(exploration_share=share)
        listed = retention_list(everyone, {WEEK: capacity}, rules, ranking)
        rows = listed.to_pylist()
        contacts = [row for row in rows if not row["is_holdout"]]
        contactable = sum(not row["is_holdout"] for row in everyone.to_pylist())
        assert len(contacts) <= capacity
        drawn = [row for row in contacts if row["is_exploration"]]
        assert len(drawn) <= int(share * min(capacity, contactable))
        best = {row["customer_id"] for row in rows if not row["is_exploration"]}
        # By lot alone: whoever was not drawn has a later lot than whoever was.
        others = [row for row in everyone.to_pylist() if row["customer_id"] not in best]
        last = max((row["exploration_draw"] for row in drawn), default=None)
        listed_ids = {row["customer_id"] for row in rows}
        if last is not None:
            assert all(row["customer_id"] in listed_ids for row in others if row["exploration_draw"] <= last)
        if ranking is BY_UPLIFT:
            assert all(row["uplift"] > 0 for row in rows if not row["is_exploration"])
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        kept_off = without_action(everyone, listed, {WEEK: capacity}, ranking)
        outcomes = target_outcomes(listed, kept_off, everyone, {WEEK: capacity}, rules)
        assert [outcome.rule for outcome in outcomes if not outcome.is_passed] == []


def test_a_list_by_uplift_of_customers_of_no_declared_value_keeps_its_rules() -> None:
    everyone = candidates(40, 3)
    place = everyone.schema.get_field_index("recent_spend")
    everyone = everyone.set_column(place, "recent_spend", pa.nulls(len(everyone), pa.float64()))
    listed = retention_list(everyone, {WEEK: 20}, POLICY, BY_UPLIFT)
    kept_off = without_action(everyone, listed, {WEEK: 20}, BY_UPLIFT)
    outcomes = target_outcomes(listed, kept_off, everyone, {WEEK: 20}, POLICY)
    assert [outcome.rule for outcome in outcomes if not outcome.is_passed] == []


def test_whom_a_contact_keeps_nobody_of_is_left_alone_and_the_reason_told() -> None:
    everyone = candidates(60, 3)
    rules = policy(exploration_share=0.0)
    listed = retention_list(everyone, {WEEK: 500}, rules, BY_UPLIFT)
    left = without_action(everyone, listed, {WEEK: 500}, BY_UPLIFT)
    harmed = {row["customer_id"] for row in everyone.to_pylist() if row["uplift"] <= 0}
    assert harmed
    assert set(left.column("customer_id").to_pylist()) == harmed
    assert set(left.column("reason").to_pylist()) == {KEEPS_NOBODY}


def test_without_the_wish_for_uplift_no_place_is_drawn() -> None:
    everyone = candidates(60, 4)
    listed = retention_list(everyone, {WEEK: 20}, ChurnPolicy())
    assert not any(listed.column("is_exploration").to_pylist())
    assert set(listed.column("ranked_because").to_pylist()) == {"the company's policy asks for it"}
    assert ranked_text(listed.to_pylist()) == "Ranked by value at risk: the company's policy asks for it."


def test_a_list_says_in_words_what_it_ranks_by_why_and_how_many_were_drawn() -> None:
    closed = RecordedUplift(Verdict.FAIL, "its gate says FAIL: worse")
    listed = retention_list(candidates(60, 4), {WEEK: 20}, POLICY, ranking_by(closed, POLICY))
    assert ranked_text(listed.to_pylist()) == (
        "Ranked by value at risk: uplift, which retention.rank_by asks for, may not rank: its gate says FAIL: worse. "
        "2 of them were drawn at random."
    )
    assert ranked_text([]) == ""


def test_a_list_of_before_lists_said_why_says_nothing_beside_later_ones() -> None:
    """Its table has the columns since, null in its rows."""
    old = {"ranked_by": "value_at_risk", "ranked_because": None, "is_exploration": None, "is_holdout": False}
    assert ranked_text([old]) == ""


def test_the_uplift_of_a_customer_is_that_of_the_action_that_fits() -> None:
    model, _ = opened()
    rules = policy(actions=(Action(action="call", risk_tier="high"), Action(action="reminder")))
    told = candidates(4, 5).drop_columns(["uplift"])
    tiers = pa.array(["high", "low", "high", "low"])
    told = told.set_column(told.schema.get_field_index("risk_tier"), "risk_tier", tiers)
    for name in POLICY.features:
        told = told.append_column(name, pa.array([1.0] * len(told)))
    constant = replace(model.any_contact, trees=())
    by_action = replace(model, by_action={"call": constant})
    called = with_uplift(told, by_action, rules).column("uplift").to_pylist()
    anyone = with_uplift(told, model, rules).column("uplift").to_pylist()
    assert called[0] == called[2] == 0
    assert [called[1], called[3]] == [anyone[1], anyone[3]]
    assert with_uplift(told, None, rules).column("uplift").null_count == 4


def test_a_closed_gate_is_no_model() -> None:
    assert ranking_by(RecordedUplift(None, "nothing"), POLICY).by == "value_at_risk"

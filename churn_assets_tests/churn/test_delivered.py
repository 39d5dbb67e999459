"""A panel that others computed is believed as far as somebody vouches for it, and told in the words they declare."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.catalogue import CATALOGUE, Catalogue, as_delivered, delivered_catalogue
from churn_assets.churn.contract import attested_outcome, dates_between, delivered_outcomes
from churn_assets.churn.delivered import Delivered, Step
from churn_assets.churn.errors import InvalidCatalogueError
from churn_assets.churn.evaluation import ORDER_COUNT, RULE, SINGLE_FEATURE, Verdict, judge
from churn_assets.churn.judged import scored
from churn_assets.churn.observed import FeatureRules
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.retention import capacity_by_date
from churn_assets.churn.splits import dates_of
from churn_assets.churn.wording import Compared, Wording

VOUCHED = Delivered(
    label="no visit in 30 days", outcome_days=30, attested_by="Ada", attested_reason="views over events before as_of"
)
TODAY = date(2026, 3, 2)
SAID = Wording(FeatureRules(60, 30, 30, 45.0), {})


def of(delivered: Delivered = VOUCHED) -> Catalogue:
    columns = [
        as_delivered("silence", low=0, high=90, kind="number", meaning="days since the last visit"),
        as_delivered("cut", low=0, high=1, kind="share", meaning="share of visits cut short"),
        as_delivered("trial", low=0, high=1, kind="binary", meaning="whether they are on trial"),
        as_delivered("plan", low=0, high=9, kind="category", meaning="the plan they have", names={1.0: "family"}),
        as_delivered("fees", low=0, high=1e6, kind="number", meaning="fees", is_used=False),
    ]
    return delivered_catalogue(columns, delivered)


# --- who vouches ---


def test_what_nobody_attests_is_no_pass_and_says_what_to_write() -> None:
    outcome = attested_outcome(Delivered(label="gone", outcome_days=30), None, TODAY)
    assert not outcome.is_passed
    assert not outcome.is_warning
    assert "nobody attests it (attested_by and attested_reason under [features] in sources.toml)" in outcome.observed


def test_what_somebody_attests_passes_in_their_name_and_words() -> None:
    outcome = attested_outcome(VOUCHED, date(2026, 1, 26), TODAY)
    assert outcome.is_passed
    for part in ("attested by Ada", "label 1 means: no visit in 30 days", "views over events before as_of"):
        assert part in outcome.observed


@pytest.mark.parametrize(("labelled", "is_passed"), [(date(2026, 1, 31), True), (date(2026, 2, 1), False)])
def test_a_label_that_nobody_can_know_yet_disproves_who_vouches(labelled: date, is_passed: bool) -> None:
    outcome = attested_outcome(VOUCHED, labelled, TODAY)
    assert outcome.is_passed is is_passed
    if not is_passed:
        assert "labels at 2026-02-01, whose outcome of 30 days nobody can know on 2026-03-02" in outcome.observed


# --- what is declared ---


def test_the_columns_that_models_use_are_in_every_set_and_the_others_in_none() -> None:
    policy = ChurnPolicy.model_validate({}, context={"catalogue": of()})
    assert policy.features == ("silence", "cut", "trial", "plan")
    assert policy.model_copy(update={"alerts": policy.alerts}).features == policy.features
    assert ChurnPolicy().catalogue is CATALOGUE


@pytest.mark.parametrize(
    "change",
    [
        {"label": "gone for good"},
        {"attested_by": "Bob"},
        {"attested_reason": "because"},
        {"value": "fees"},
        {"has_rule": True},
        {"every": "month"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_word_of_the_declaration_counts_in_both_digests(change: dict[str, object]) -> None:
    before, after = (
        ChurnPolicy.model_validate({}, context={"catalogue": of(delivered)})
        for delivered in (VOUCHED, Delivered(**{**VOUCHED.declaration(), **change}))
    )
    assert before.digest != after.digest
    assert before.panel_digest("code") != after.panel_digest("code")


def test_what_is_wrong_with_the_columns_is_told_all_at_once() -> None:
    columns = [
        as_delivered("label", low=0, high=1, kind="number", meaning="x"),
        as_delivered("share", low=0, high=5, kind="share", meaning="x"),
        as_delivered("far", low=9, high=5, kind="number", meaning=" "),
    ]
    with pytest.raises(InvalidCatalogueError) as refused:
        delivered_catalogue(columns, Delivered(value="worth"))
    text = "\n".join(refused.value.problems)
    for problem in (
        "'label': cannot be",
        "share: a share feature has the range 0 to 1",
        "far: low (9)",
        "far: meaning",
    ):
        assert problem in text
    assert "value (worth) must be one of the columns" in text
    with pytest.raises(InvalidCatalogueError, match="no column is left for a model"):
        delivered_catalogue(
            [as_delivered("fees", low=0, high=1, kind="number", meaning="x", is_used=False)], Delivered()
        )


def test_an_outcome_window_other_than_the_policys_is_refused() -> None:
    with pytest.raises(ValueError, match=r"windows.outcome_days \(14\) must be the outcome_days of \[features\]"):
        ChurnPolicy.model_validate({"windows": {"outcome_days": 14}}, context={"catalogue": of()})


def test_economics_of_what_is_spent_are_refused_where_nobody_knows_that() -> None:
    actions = {each.action: {"acceptance": 0.1} for each in ChurnPolicy().retention.actions}
    economics = {"margin": 0.2, "lifetime_days": 90, "actions": actions}
    assert ChurnPolicy.model_validate({"economics": economics}).economics is not None
    with pytest.raises(ValueError, match=r"economics must be left out with \[features\] in sources.toml"):
        ChurnPolicy.model_validate({"economics": economics}, context={"catalogue": of()})


# --- in which words ---


@pytest.mark.parametrize(
    ("name", "own", "usual", "sentence"),
    [
        ("silence", 12.0, 4.0, "days since the last visit: 12; usual is 4"),
        ("silence", 3.4567, 0.0712, "days since the last visit: 3.5; usual is 0.071"),
        ("cut", 0.7, 0.1, "share of visits cut short: 7 in 10; usual is 1 in 10"),
        ("trial", 1.0, 0.25, "whether they are on trial: yes; yes for 1 in 4 of all customers"),
        ("trial", 0.0, 0.5, "whether they are on trial: no; yes for 5 in 10 of all customers"),
        ("plan", 1.0, 0.0, "the plan they have: family"),
        ("plan", 7.0, 0.0, "the plan they have: 7"),
        # As said it is usual.
        ("silence", 4.61, 4.58, None),
        ("cut", 0.26, 0.24, None),
    ],
)
def test_a_reason_is_the_declared_meaning_beside_what_is_usual(
    name: str, own: float, usual: float, sentence: str | None
) -> None:
    assert of().of[name].reason(Compared(own, usual, {}), SAID) == sentence


# --- how it is judged ---


def rows(number: int = 400) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    label = (draw.random(number) < 0.3).astype(float)
    return pd.DataFrame(
        {
            "customer_id": [f"c{place:04}" for place in range(number)],
            "label": label,
            "silence": 20 * label + draw.normal(30, 10, number),
            "cut": draw.random(number),
            "trial": (draw.random(number) < 0.5).astype(float),
            "plan": draw.choice([1.0, 2.0], number),
            "fees": 1.0,
            "churn_probability": np.clip(0.3 + 0.4 * label + draw.normal(0, 0.1, number), 0, 1),
            "is_alert": label == 1.0,
            "is_unseen": True,
        }
    )


def test_without_a_rule_the_best_single_feature_stands_in_for_it() -> None:
    features = ["silence", "cut", "trial", "plan"]
    found = scored(rows(), features, {}, None, of())
    assert set(found.rivals) == {SINGLE_FEATURE}
    assert found.rivals[SINGLE_FEATURE].tolist() == found.features["silence"].tolist()
    turned = rows().assign(silence=lambda judged: -judged["silence"] + 90)
    again = scored(turned, features, {}, None, of())
    assert again.rivals[SINGLE_FEATURE].tolist() == (-again.features["silence"]).tolist()
    assert {name: set(parts) for name, parts in found.slices.items()} == {
        "trial": {"no", "yes"},
        "plan": {"family", "(none)"},
    }


def test_the_first_champion_has_to_gain_over_the_single_feature_that_stands_in_for_the_rule() -> None:
    rules = {"alerts": {"budget": 0.4}, "gate": {"evaluation": "holdout"}}
    policy = ChurnPolicy.model_validate(rules, context={"catalogue": of()})
    as_good = rows().assign(churn_probability=lambda judged: judged["silence"] / 100)
    found = judge(scored(as_good, ["silence", "cut"], {}, None, of()), policy, has_threshold=True)
    assert found.verdict is Verdict.FAIL
    assert any(
        reason.startswith("missed: PR-AUC") and "the best single feature" in reason and "more than +0.000" in reason
        for reason in found.reasons
    )
    better = judge(scored(rows(), ["silence", "cut"], {}, None, of()), policy, has_threshold=True)
    assert not any(reason.startswith("missed: PR-AUC") for reason in better.reasons)
    for verdict in (found, better):
        assert verdict.reasons[-1] == VOUCHED.attestation


def test_a_delivered_rule_and_a_count_of_orders_are_rivals_as_they_are_of_orders() -> None:
    columns = [as_delivered("total_orders", low=0, high=9, kind="number", meaning="orders")]
    catalogue = delivered_catalogue(columns, Delivered(has_rule=True))
    judged = rows().assign(total_orders=3.0, risk_score=0.5)
    assert set(scored(judged, ["total_orders"], {}, None, catalogue).rivals) == {RULE, ORDER_COUNT}


# --- how many ---


def test_each_of_many_features_is_judged_on_every_engine(spark: SparkSession) -> None:
    names = [f"measure_{number:03}" for number in range(120)]
    catalogue = delivered_catalogue(
        [as_delivered(name, low=0, high=1, kind="number", meaning=name) for name in names], VOUCHED
    )
    panel = pd.DataFrame({name: [0.5, 0.25, 1.0] for name in names}).assign(
        customer_id=["A", "B", "C"], as_of=date(2026, 1, 5), label=[0.0, 1.0, 0.0]
    )
    panel.loc[0, names[0]], panel.loc[2, names[-1]] = None, 1.5
    outcomes = {each.rule: each for each in delivered_outcomes(spark.createDataFrame(panel), catalogue, TODAY)}
    assert outcomes["no_nulls"].keys == ("A at 2026-01-05",)
    assert outcomes["ranges"].keys == ("C at 2026-01-05",)
    assert outcomes["label_is_binary"].is_passed


# --- when ---


def test_months_keep_their_day_as_far_as_they_have_it() -> None:
    assert dates_between(date(2025, 11, 30), date(2026, 3, 30), "month") == [
        date(2025, 11, 30),
        date(2025, 12, 30),
        date(2026, 1, 30),
        date(2026, 2, 28),
        date(2026, 3, 30),
    ]
    assert dates_between(date(2026, 1, 31), date(2026, 2, 27), "month") == [date(2026, 1, 31)]
    assert len(dates_between(date(2026, 1, 1), date(2026, 1, 10), "day")) == 10


@pytest.mark.parametrize(
    ("every", "first", "step", "weekday", "lists", "refresh"),
    [
        ("day", date(2026, 1, 1), 1, 3, 7, "daily"),
        # A Sunday, which is no weekday of the policy.
        ("week", date(2026, 1, 4), 7, 6, 1, "weekly"),
    ],
)
def test_the_declared_step_and_no_calendar_of_orders_says_which_dates_train(
    every: Step, first: date, step: int, weekday: int, lists: int, refresh: str
) -> None:
    other = "weekly" if every == "day" else "daily"
    rules = {
        "calendar": {"snapshots": other, "weekday": "thursday"},
        "windows": {"outcome_days": 30},
        "retention": {"weekly_capacity": 70},
    }
    policy = ChurnPolicy.model_validate(rules, context={"catalogue": of(replace(VOUCHED, every=every))})
    days = [first + timedelta(days=step * place) for place in range(8 if every == "week" else 52)]
    dates = dates_of(days, policy)
    assert {day.weekday() for day in (dates.test, *dates.train)} == {weekday}
    assert capacity_by_date({first: 100_000}, policy)[first] == 70 // lists
    assert policy.refresh == refresh


def test_opt_outs_are_not_matched_with_orders_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="max_unmatched_opt_outs must be left out"):
        ChurnPolicy.model_validate({"retention": {"max_unmatched_opt_outs": 0.1}}, context={"catalogue": of()})

"""A definition is refused for each reason that would leave its verdict open, and for nothing else."""

from collections import defaultdict
from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest
from pyspark.sql import SparkSession

from churn_assets.churn.feasibility import (
    Feasibility,
    NotFeasibleError,
    feasibility,
    feasible_outcome,
    label_feasibility,
    require_feasible,
)
from churn_assets.churn.features import as_of_calendar, customer_snapshots
from churn_assets.churn.intervals import widest_wilson_interval, wilson_interval
from churn_assets.churn.labels import candidates, definition
from churn_assets.churn.policy import Alerts, ChurnPolicy, Gate, Windows
from churn_assets.pages.tables import feasibility_table
from churn_assets_tests import reference
from churn_assets_tests.dirty_rows import dirty_now, dirty_source_rows
from churn_assets_tests.panels import cleaned, frame, source_frames

DAY = date(2024, 3, 4)
POLICY = ChurnPolicy(gate=Gate(evaluation="holdout"))
CROSSFIT = ChurnPolicy(gate=Gate(evaluation="crossfit"))


# A recall as it is wanted, whatever can be attained.
PLAIN = ChurnPolicy(gate=Gate(evaluation="holdout", min_recall=0.3, max_attainable_share=0.999))


def found(eligible: int, churners: int, policy: ChurnPolicy = POLICY, as_of: date | None = DAY) -> Feasibility:
    return feasibility(policy, policy, as_of=as_of, eligible=eligible, churners=churners)


# ---- reasons


def test_enough_churners_and_an_attainable_recall_are_feasible_and_told_in_numbers() -> None:
    row = found(5_000, 1_000)
    assert (row.is_feasible, row.reasons, row.verdict) == (True, (), "FEASIBLE")
    assert (row.definition, row.is_chosen, row.as_of) == ("no order for 30 days", True, DAY)
    assert (row.eligible, row.churners, row.prevalence) == (5_000, 1_000, 0.2)
    # A fifth of them judge; a budget of 20 % would hold them all.
    assert row.expected_test_churners == 200
    assert row.widest_recall_interval == widest_wilson_interval(200, 0.95)
    assert row.attainable_recall == 1.0


@pytest.mark.parametrize(("churners", "is_feasible"), [(460, False), (461, True)])
def test_so_few_churners_that_the_interval_may_be_too_wide_are_refused(churners: int, is_feasible: bool) -> None:
    row = found(10_000, churners)
    assert row.is_feasible is is_feasible
    if not is_feasible:
        (reason,) = row.reasons
        assert reason.startswith(
            "with 92 churners to judge on, the recall's 95% interval can be 0.2002 wide; allowed 0.2000"
        )
    wide_enough = POLICY.model_copy(update={"gate": Gate(evaluation="holdout", max_recall_interval=0.3)})
    assert found(10_000, churners, wide_enough).is_feasible


@pytest.mark.parametrize(("churners", "is_hinted"), [(92, False), (93, True), (460, True)])
def test_cross_fitting_is_hinted_at_only_where_all_churners_together_are_enough(churners: int, is_hinted: bool) -> None:
    (reason,) = found(5_000, churners).reasons
    hint = f'gate.evaluation = "crossfit" would judge on all {churners}'
    assert (hint in reason) is is_hinted
    assert ("crossfit" in reason) is is_hinted
    pooled = found(5_000, churners, CROSSFIT)
    assert pooled.is_feasible is is_hinted
    assert pooled.expected_test_churners == churners
    assert not any("crossfit" in reason for reason in pooled.reasons)


def test_a_recall_beyond_budget_over_prevalence_is_refused() -> None:
    row = found(10_000, 8_000, PLAIN)
    assert row.attainable_recall == pytest.approx(0.25)
    assert row.reasons == (
        "alerting 20% of customers finds at most 25% of the churners, below the minimum recall of 30%",
    )
    # The budget that a perfect ranking needs, and a minimum that it reaches.
    assert found(10_000, 8_000, PLAIN.model_copy(update={"alerts": Alerts(budget=0.3)})).is_feasible
    assert found(10_000, 8_000, ChurnPolicy(gate=Gate(evaluation="holdout", min_recall=0.2))).is_feasible


def test_a_minimum_that_even_a_perfect_rankings_lower_bound_misses_is_refused() -> None:
    row = found(10_000, 6_500, PLAIN)
    assert row.attainable_recall == pytest.approx(0.2 / 0.65)
    assert wilson_interval(400, 1_300, 0.95)[0] < 0.3 < 0.2 / 0.65
    (reason,) = row.reasons
    assert reason == "even a perfect ranking's recall of 31% has a lower bound of 28%, below the minimum of 30%"
    # With so many churners the bound is near enough.
    assert found(1_000_000, 650_000, PLAIN).is_feasible


def test_a_minimum_that_asks_for_nearly_a_perfect_ranking_is_refused_with_its_share_of_it() -> None:
    # 0.30 of the 0.334 that a budget of 20 % reaches where 59.9 % leave.
    asked = ChurnPolicy(gate=Gate(evaluation="holdout", min_recall=0.3))
    row = found(100_000, 59_900, asked)
    assert row.attainable_recall == pytest.approx(0.334, abs=5e-4)
    (reason,) = row.reasons
    assert reason == "the minimum recall of 0.300 is 90% of what a perfect ranking reaches (0.334); allowed 80%"
    figure = next(each for each in feasible_outcome([row], asked).figures if each.key == "asked_of_attainable")
    assert (figure.observed, figure.allowed, figure.is_met) == ("90%", "at most 80%", False)
    assert found(
        100_000, 59_900, ChurnPolicy(gate=Gate(evaluation="holdout", min_recall=0.3, max_attainable_share=0.9))
    ).is_feasible
    # As a share of it the same definition is feasible.
    assert found(100_000, 59_900).is_feasible


@pytest.mark.parametrize(
    ("churn_rate", "least"),
    # All can be found; half of them; and where 30 % of what can be is less than alerting at random finds.
    [(0.147, 0.5), (0.4, 0.25), (0.8, 0.2)],
)
def test_a_minimum_given_as_a_share_follows_what_is_attainable_and_is_never_less_than_chance(
    churn_rate: float, least: float
) -> None:
    assert ChurnPolicy(gate=Gate(min_attainable_share=0.5)).least_recall(churn_rate) == pytest.approx(least)
    assert ChurnPolicy(gate=Gate(min_recall=0.45)).least_recall(churn_rate) == 0.45


def test_too_few_and_unattainable_are_both_told() -> None:
    too_few, unattainable = found(100, 80, PLAIN).reasons
    assert too_few.startswith("with 16 churners to judge on")
    assert unattainable.startswith("alerting 20% of customers finds at most 25%")


@pytest.mark.parametrize("policy", [POLICY, CROSSFIT])
def test_where_nobody_or_everybody_leaves_there_is_nothing_to_learn(policy: ChurnPolicy) -> None:
    assert found(5_000, 0, policy).reasons == ("nobody is a churner",)
    assert found(5_000, 0, policy).prevalence == 0
    assert found(5_000, 5_000, policy).reasons == ("everybody is a churner",)


def test_where_no_outcome_is_known_yet_nothing_is_counted() -> None:
    row = found(0, 0, ChurnPolicy(windows=Windows(outcome_days=45)), as_of=None)
    assert row.reasons == ("no outcome of 45 days is known yet",)
    assert (row.prevalence, row.attainable_recall, row.widest_recall_interval) == (None, None, 1.0)


@pytest.mark.parametrize("churners", range(1, 12))
def test_a_handful_of_churners_is_refused_and_breaks_nothing(churners: int) -> None:
    (reason,) = found(1_000, churners).reasons
    assert "churners to judge on" in reason


# ---- what a person is told


def all_found(**feasible_days: bool) -> list[Feasibility]:
    """Every candidate with far too few churners, but for those of `days_N`."""
    return [
        feasibility(
            candidate,
            POLICY,
            as_of=DAY,
            eligible=10_000,
            churners=2_000 if feasible_days.get(f"days_{candidate.windows.outcome_days}") else 100,
        )
        for candidate in candidates(POLICY)
    ]


def test_a_refused_definition_is_told_with_its_numbers_reasons_and_all_feasible_others() -> None:
    outcome = feasible_outcome(all_found(days_7=True, days_14=True), POLICY)
    assert (outcome.is_passed, outcome.is_warning) == (False, False)
    # A perfect ranking finds all of 100 within the budget; what is short is their number.
    assert [(figure.key, figure.is_met) for figure in outcome.figures] == [
        ("churners", True),
        ("widest_recall_interval", False),
        ("attainable_recall", True),
        ("asked_of_attainable", True),
    ]
    assert outcome.observed.startswith(
        "NOT FEASIBLE: no order for 30 days: 100 churners among 10,000 customers at 2024-03-04 (1.00%); "
        "with 20 churners to judge on"
    )
    assert outcome.observed.endswith(
        "Feasible on these data: "
        'no order for 7 days (churn.definition = "inactivity", windows.outcome_days = 7), or '
        'no order for 14 days (churn.definition = "inactivity", windows.outcome_days = 14)'
    )


def test_where_no_definition_is_feasible_it_says_so() -> None:
    assert feasible_outcome(all_found(), POLICY).observed.endswith("Feasible on these data: no candidate")


def test_a_feasible_definition_passes_with_its_numbers_and_advertises_no_other() -> None:
    outcome = feasible_outcome(all_found(days_7=True, days_30=True), POLICY)
    assert outcome.is_passed
    assert outcome.observed == (
        "FEASIBLE: no order for 30 days: 2,000 churners among 10,000 customers at 2024-03-04 (20.00%)"
    )


def test_a_definition_whose_outcome_nobody_knows_is_told_without_numbers() -> None:
    rows = [feasibility(candidate, POLICY, as_of=None, eligible=0, churners=0) for candidate in candidates(POLICY)]
    observed = feasible_outcome(rows, POLICY).observed
    assert "no order for 30 days: no customer to count; no outcome of 30 days is known yet" in observed


def test_the_table_has_a_line_for_each_candidate_with_verdict_and_reasons_and_the_chosen_one_bold() -> None:
    rows = all_found(days_7=True)
    head, _, *lines = feasibility_table(rows).splitlines()
    assert len(lines) == len(rows)
    assert {line.count("|") for line in lines} == {head.count("|")}
    bold = [line for line in lines if "**" in line]
    assert len(bold) == 1
    assert bold[0].startswith("| **no order for 30 days** | 10,000 | 100 | 1.00% | 20 |")
    assert "NOT FEASIBLE; with 20 churners to judge on" in bold[0]
    assert lines[0].endswith("| FEASIBLE |")


# ---- the table that training asks


def table(rows: list[Feasibility], policy: ChurnPolicy = POLICY) -> list[dict[str, object]]:
    return [row.row(policy) for row in rows]


def test_training_is_allowed_where_the_policys_own_definition_is_recorded_feasible() -> None:
    require_feasible(table(all_found(days_30=True)), POLICY)


def refused(rows: list[dict[str, object]], policy: ChurnPolicy = POLICY) -> tuple[str, ...]:
    with pytest.raises(NotFeasibleError) as error:
        require_feasible(rows, policy)
    assert "no order for 30 days is not known to be a feasible churn definition" in str(error.value)
    assert "Next step: materialize food_delivery/label_feasibility" in str(error.value)
    return error.value.problems


def test_training_is_refused_without_a_row_for_the_policy() -> None:
    told = ("label_feasibility has no row for the policy's churn definition",)
    assert refused(table([])) == told
    others = [replace(row, is_chosen=False) for row in all_found(days_7=True, days_30=True)]
    assert refused(table(others)) == told


def test_training_is_refused_where_feasibility_was_found_under_other_rules() -> None:
    other = ChurnPolicy(gate=Gate(min_recall=0.29))
    told = f"it was found under policy {other.digest}, and the policy now is {POLICY.digest}"
    assert refused(table(all_found(days_30=True), other)) == (told,)


def test_training_is_refused_where_only_others_are_feasible_with_the_recorded_reasons() -> None:
    rows = all_found(days_7=True)
    chosen = next(row for row in rows if row.is_chosen)
    assert chosen.reasons
    assert refused(table(rows)) == chosen.reasons


# ---- counted on rows


@pytest.mark.parametrize("policy", [POLICY, ChurnPolicy(windows=Windows(outcome_days=21))], ids=definition)
def test_the_candidates_are_counted_at_the_latest_date_whose_outcome_each_knows(
    spark: SparkSession, policy: ChurnPolicy
) -> None:
    days = 150
    sources = dirty_source_rows(0, days=days)
    kept = reference.clean(*sources, now=dirty_now(days))
    clean_rows = cleaned(source_frames(spark, sources), now=dirty_now(days))
    silver = clean_rows.orders.selectExpr("*", "cast(-1 as double) as segment_index")
    calendar = as_of_calendar(silver, policy)
    rows = label_feasibility(customer_snapshots(silver, calendar, policy), silver, calendar, policy)
    compared = candidates(policy)
    assert [row.definition for row in rows] == [definition(candidate) for candidate in compared]
    assert [row.is_chosen for row in rows] == [candidate == policy for candidate in compared]
    dates = set()
    for candidate, row in zip(compared, rows, strict=True):
        by_date: dict[date, list[float | None]] = defaultdict(list)
        counted = reference.labels(
            kept, definition=candidate.churn.definition, outcome_days=candidate.windows.outcome_days
        )
        for (_, day), label in counted.items():
            by_date[day].append(label)
        known = {
            day: [label for label in labels if label is not None]
            for day, labels in by_date.items()
            if None not in labels
        }
        latest = max(known)
        assert (row.as_of, row.eligible, row.churners) == (latest, len(known[latest]), sum(known[latest]))
        dates.add(row.as_of)
    assert len(dates) > 2


SILVER = (
    "order_id string, customer_id string, ordered_at timestamp, promised_at timestamp, delivered_at timestamp, "
    "reviewed_at timestamp, review_score double, subtotal double, segment_index double"
)


def test_a_history_too_short_for_a_candidate_says_so_of_it_alone(spark: SparkSession) -> None:
    # Daily for 60 days, and twice more until 2024-03-20: 14 days of outcome are known at the first date, 30 at none.
    rows = [
        {"order_id": str(day), "customer_id": "c", "ordered_at": datetime(2024, 1, 1) + timedelta(days=day)}
        for day in (*range(60), 74, 79)
    ]
    silver = frame(spark, [{**row, "subtotal": 10.0} for row in rows], spark.createDataFrame([], SILVER).schema)
    calendar = as_of_calendar(silver, POLICY)
    assert (calendar.first, calendar.watermark) == (date(2024, 3, 4), date(2024, 3, 20))
    found_rows = label_feasibility(customer_snapshots(silver, calendar, POLICY), silver, calendar, POLICY)
    told = {row.definition: row.reasons for row in found_rows}
    assert told["no order for 14 days"] == ("nobody is a churner",)
    assert told["no order for 30 days"] == ("no outcome of 30 days is known yet",)
    assert told["no order for 60 days"] == ("no outcome of 60 days is known yet",)


# ---- a backtest


BACKTEST = ChurnPolicy(gate=Gate(evaluation="backtest"))


def found_at(dates: int, churners: int = 1_000, policy: ChurnPolicy = BACKTEST) -> Feasibility:
    return feasibility(policy, policy, as_of=DAY, eligible=5_000, churners=churners, judged_dates=dates)


@pytest.mark.parametrize(("dates", "judged"), [(3, 600), (5, 1_000), (9, 1_000)])
def test_each_date_of_a_backtest_judges_on_another_fifth_of_the_churners_until_all_are(dates: int, judged: int) -> None:
    row = found_at(dates)
    assert (row.is_feasible, row.expected_test_churners) == (True, judged)


def test_a_history_of_too_few_dates_for_a_backtest_is_refused_before_anything_is_trained() -> None:
    told = "dates to judge at, by which an outcome was known to learn from: 2; gate.min_backtest_dates asks for 3"
    assert found_at(2).reasons == (f'{told}; gate.evaluation = "crossfit" would judge at one',)
    few = ChurnPolicy(gate=Gate(evaluation="backtest", min_backtest_dates=2))
    assert found_at(2, policy=few).is_feasible
    # Of other ways to judge nobody asks.
    assert found_at(0, policy=CROSSFIT).is_feasible

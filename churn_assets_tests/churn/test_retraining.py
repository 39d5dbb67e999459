"""A retraining is asked for by what lasts, taken back by what has lasted too, and always with its reasons."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from churn_assets.churn.monitoring import Measurement, Metric, Status
from churn_assets.churn.policy import Monitoring
from churn_assets.churn.retraining import RetrainDecision, decide, latest

FIRST = date(2025, 9, 1)
LIMITS = Monitoring(retrain_weeks=2, calm_weeks=3)
STATUSES = {"o": Status.OK, "w": Status.WARN, "F": Status.FAIL, "?": Status.NOT_YET_KNOWN}
Weeks = Mapping[tuple[Metric, str], str]
SCORE, RECALL = (Metric.PSI, "score"), (Metric.REALISED_RECALL, "")


def week(number: int) -> date:
    return FIRST + timedelta(weeks=number)


def found(signals: Weeks, version: str = "1", begin: int = 0) -> list[Measurement]:
    """A measurement for each letter of each signal: o(k), w(arn), F(ail), ? not yet known."""
    return [
        Measurement(
            as_of=week(begin + place),
            model_version=version,
            metric=metric,
            subject=subject,
            value=None if letter == "?" else 0.5,
            low=None,
            high=None,
            rows=100,
            limit_warn=0.1,
            limit_fail=0.25,
            is_in_sample=False,
            status=STATUSES[letter],
        )
        for (metric, subject), letters in signals.items()
        for place, letter in enumerate(letters)
    ]


def told_week_by_week(letters: str) -> str:
    """R(etrain) or - after each week, each decision made with the one before it."""
    before, told = None, ""
    for weeks in range(1, len(letters) + 1):
        before = decide(found({SCORE: letters[:weeks]}), before, LIMITS)
        assert before is not None
        assert before.as_of == week(weeks - 1)
        assert before.reasons
        told += "R" if before.is_retrain else "-"
    return told


def test_without_a_scored_week_there_is_no_decision() -> None:
    assert decide([], None, LIMITS) is None


@pytest.mark.parametrize(
    ("letters", "told"),
    [
        ("ooooo", "-----"),
        ("oFoFo", "-----"),  # a failure alone is no reason
        ("wwwww", "-----"),  # nor is a warning that lasts
        ("oFFoo", "--RRR"),  # it takes three calm weeks, and there were two
        ("FFooo", "-RRR-"),
        ("FFwww", "-RRRR"),  # short of failing is not calm
        ("FFoowooo", "-RRRRRR-"),
        ("FFoooFoFF", "-RRR----R"),  # once taken back, it takes two failures again
    ],
)
def test_it_takes_lasting_failure_to_ask_and_lasting_calm_to_take_back(letters: str, told: str) -> None:
    assert told_week_by_week(letters) == told


@pytest.mark.parametrize("letters", ["FF", "oF"])
def test_the_decision_does_not_depend_on_the_order_in_which_a_table_has_its_rows(letters: str) -> None:
    rows = found({(Metric.PSI, feature): letters for feature in ("score", "recency_days", "late_order_ratio")})
    decision = decide(rows, None, LIMITS)
    assert decision is not None
    assert [reason.partition("psi of ")[2].partition(":")[0] for reason in decision.reasons] == [
        "late_order_ratio",
        "recency_days",
        "score",
    ]
    assert decide(rows[::-1], None, LIMITS) == decision


def test_the_reasons_name_the_figure_its_values_its_dates_and_its_limit() -> None:
    decision = decide(found({SCORE: "oFF", RECALL: "oo?"}), None, LIMITS)
    assert decision == RetrainDecision(
        week(2),
        "1",
        True,
        (f"psi of score: 0.500 at {week(1)} (limit 0.250), 0.500 at {week(2)} (limit 0.250)",),
    )


def test_a_failure_in_the_latest_week_only_is_told_though_it_asks_for_nothing() -> None:
    decision = decide(found({SCORE: "ooF"}), None, LIMITS)
    assert decision is not None
    assert not decision.is_retrain
    assert decision.reasons == (f"failed, but not 2 weeks in a row: psi of score: 0.500 at {week(2)} (limit 0.250)",)


def test_two_figures_failing_once_each_are_not_one_failing_twice() -> None:
    decision = decide(found({SCORE: "oFo", RECALL: "ooF"}), None, LIMITS)
    assert decision is not None
    assert not decision.is_retrain


def test_recall_asks_by_its_latest_known_weeks() -> None:
    decision = decide(found({SCORE: "oooooo", RECALL: "oFF???"}), None, LIMITS)
    assert decision is not None
    assert (decision.is_retrain, decision.as_of) == (True, week(5))
    assert decision.reasons[0].startswith("realised_recall: ")


def test_another_version_begins_anew() -> None:
    asked = RetrainDecision(week(1), "1", True, ("drift",))
    decision = decide([*found({SCORE: "FF"}), *found({SCORE: "F"}, "2", begin=2)], asked, LIMITS)
    assert decision is not None
    assert (decision.model_version, decision.is_retrain) == ("2", False)


def test_the_last_word_on_the_latest_week_counts() -> None:
    def row(as_of: date, is_retrain: bool, hour: int) -> dict[str, object]:
        return RetrainDecision(as_of, "1", is_retrain, ("why",)).row(datetime(2026, 1, 1, hour, tzinfo=UTC))

    rows: Sequence[Mapping[str, object]] = [
        row(week(1), False, 3),
        row(week(1), True, 4),
        row(week(0), False, 9),
    ]
    assert latest([]) is None
    assert latest(rows) == RetrainDecision(week(1), "1", True, ("why",))
    assert latest(rows, before=week(1)) == RetrainDecision(week(0), "1", False, ("why",))
    assert latest(rows, before=week(0)) is None

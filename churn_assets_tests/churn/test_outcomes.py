"""Limits told next to what was observed, as text, as a table and as numbers."""

import json

import pytest

from churn_assets.churn.outcomes import Figure, Outcome, none_of, share_up_to, told_apart
from churn_assets.defs.results import check_result
from churn_assets.pages.tables import criteria_lines, criteria_table


@pytest.mark.parametrize(
    ("value", "limit", "form", "told"),
    [
        (0.2031, 0.20, ".2f", ("0.203", "0.200")),
        (0.25, 0.20, ".2f", ("0.25", "0.20")),
        (0.2, 0.2, ".2f", ("0.20", "0.20")),
        (0.29996, 0.30, ".3f", ("0.29996", "0.30000")),
        (0.2204, 0.22, ".1%", ("22.04%", "22.00%")),
        (0.299, 0.30, ".0%", ("29.9%", "30.0%")),
        (-0.0500001, -0.05, "+.3f", ("-0.0500001", "-0.0500000")),
        (1_234.0, 1_000.0, ",.1f", ("1,234.0", "1,000.0")),
    ],
)
def test_two_that_differ_do_not_look_equal(value: float, limit: float, form: str, told: tuple[str, str]) -> None:
    assert told_apart(value, limit, form) == told


RECALL = Figure("recall", "recall", "0.45", "at least 0.40 (lower end)", False, 0.45, 0.4, "0.35 to 0.55")
ALERTS = share_up_to("alert_share", "customers alerted", 0.2204, 0.22, ".1%")
UNREAD = Figure("", "of one day", "3", "any", True, 3)


def test_a_check_shows_its_figures_as_one_table_and_each_series_as_numbers() -> None:
    found = Outcome(
        "gate", False, "FAIL", "a PASS", ("a at b",), figures=(RECALL, ALERTS, UNREAD, none_of("lost rows", 0))
    )
    metadata = {name: value.value for name, value in check_result(found).metadata.items()}
    assert str(metadata.pop("figures")).splitlines() == [
        "| | observed | interval | allowed | |",
        "|-|-|-|-|-|",
        "| recall | 0.45 | 0.35 to 0.55 | at least 0.40 (lower end) | MISSED |",
        "| customers alerted | 22.04% | | at most 22.00% | MISSED |",
        "| of one day | 3 | | any | met |",
        "| lost rows | 0 | | 0 | met |",
    ]
    assert metadata == {
        "observed": "FAIL",
        "allowed": "a PASS",
        "recall": 0.45,
        "recall_allowed": 0.4,
        "alert_share": 0.2204,
        "alert_share_allowed": 0.22,
        "lost_rows": 0,
        "lost_rows_allowed": 0,
        "offending_keys": ["a at b"],
    }


def test_a_check_without_figures_shows_its_words_alone() -> None:
    assert set(check_result(Outcome("rule", True, "as promised", "as promised")).metadata) == {"observed", "allowed"}


def test_a_terminal_has_the_same_table_in_columns() -> None:
    assert criteria_lines([RECALL, UNREAD]) == [
        "            observed  interval      allowed",
        "recall      0.45      0.35 to 0.55  at least 0.40 (lower end)  MISSED",
        "of one day  3                       any                        met",
    ]
    # Where nothing has an interval there is no column of them.
    assert criteria_table([UNREAD]).splitlines()[0] == "| | observed | allowed | |"


def test_an_outcome_is_remembered_with_its_figures() -> None:
    found = Outcome("gate", False, "FAIL", "a PASS", ("a at b",), figures=(RECALL, ALERTS))
    record = json.loads(json.dumps(found.record()))
    assert Outcome.of(record) == found

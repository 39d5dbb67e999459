"""Limits told next to what was observed."""

import pytest

from churn_assets.churn.outcomes import told_apart


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

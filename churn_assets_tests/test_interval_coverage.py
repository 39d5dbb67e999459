"""Whether the intervals keep their promise: of many samples of one simulated QuickBite, 95 % should hold the truth.

In plain numpy on the simulator, whose true churn probabilities no company has. Each draw is its seed's, 0 to 199, and
none was chosen: what the seeds give is what is asserted.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from churn_assets.churn.evaluation import Figures, figures
from churn_assets.churn.intervals import Floats
from churn_assets.demo.simulator import DemoSettings, calendar, calibrate, customers_from, draw, live, service
from churn_assets_tests.churn.test_evaluation import bounds

AS_OF = date(2025, 11, 3)
OUTCOME_DAYS = 30
SETTINGS = DemoSettings(end=AS_OF + timedelta(days=OUTCOME_DAYS - 1))
# Silent for so many days is the alert: a threshold that was there before the customers were.
SILENT_DAYS = 9
DRAWS, DRAWN_CUSTOMERS = 200, 400
POPULATION, POPULATION_SEED, BATCH = 30_000, 1_000_000, 2_000


@dataclass(frozen=True)
class Eligible:
    """Those who ordered in the 30 days before AS_OF: their silence by then, whether they left, how likely that was."""

    silent_days: Floats
    labels: Floats
    churn_probability: Floats

    @property
    def is_alert(self) -> NDArray[np.bool_]:
        return self.silent_days >= SILENT_DAYS


def eligible(seed: int, numbers: range) -> Eligible:
    """The eligible ones of the simulated customers `numbers`."""
    days = calendar(SETTINGS, (SETTINGS.end - SETTINGS.start).days + 1)
    today = (AS_OF - SETTINGS.start).days
    uniforms, normals, draws = draw(seed, numbers, days.days)
    people = customers_from(uniforms, normals, SETTINGS.signal_strength)
    served = service(draws, days.is_crisis)
    lives = live(people, served, draws, days, calibrate(SETTINGS))
    at = days.as_of.tolist().index(today)
    is_kept = lives.has_ordered & ~served.is_cancelled
    silent_days = 1 + np.argmax(is_kept[:today][::-1], axis=0)
    has_left = np.asarray(~is_kept[today : today + OUTCOME_DAYS].any(axis=0))
    among = lives.is_eligible[at]
    return Eligible(silent_days[among].astype(float), has_left[among].astype(float), lives.churn_probability[at][among])


@pytest.fixture(scope="module")
def population() -> Eligible:
    """Many more than any draw holds, and others: their seed is nobody's."""
    batches = [eligible(POPULATION_SEED, range(first, first + BATCH)) for first in range(1, POPULATION + 1, BATCH)]
    return Eligible(
        *[
            np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("silent_days", "labels", "churn_probability")
        ]
    )


@pytest.fixture(scope="module")
def drawn() -> list[Figures]:
    """The figures of each draw, as the gate would have them."""
    samples = [eligible(seed, range(1, DRAWN_CUSTOMERS + 1)) for seed in range(DRAWS)]
    return [figures(sample.labels, sample.silent_days, sample.is_alert, 0.95) for sample in samples]


def true_recall(population: Eligible) -> float:
    expected_churners = population.churn_probability
    return float(expected_churners[population.is_alert].sum() / expected_churners.sum())


def test_the_simulators_probabilities_are_those_its_customers_leave_with(population: Eligible) -> None:
    # Otherwise the intervals would be held against a truth that is none.
    rows = len(population.labels)
    assert rows > 20_000
    spread = np.sqrt((population.churn_probability * (1 - population.churn_probability)).sum()) / rows
    assert population.labels.mean() == pytest.approx(population.churn_probability.mean(), abs=4 * spread)
    observed = population.labels[population.is_alert].sum() / population.labels.sum()
    assert observed == pytest.approx(true_recall(population), abs=0.03)


def test_the_recalls_interval_holds_the_true_recall_in_95_percent_of_draws(
    population: Eligible, drawn: list[Figures]
) -> None:
    truth = true_recall(population)
    held = [low <= truth <= high for low, high in (bounds(found.recall) for found in drawn)]
    assert len(held) == DRAWS
    assert len({found.recall.value for found in drawn}) > DRAWS / 4, "the draws are no draws"
    # An exact interval holds it in 184 to 196 of 200 draws with a chance of 0.967.
    assert 0.92 <= sum(held) / DRAWS <= 0.98


def test_half_as_wide_an_interval_would_not_hold_it(population: Eligible, drawn: list[Figures]) -> None:
    truth = true_recall(population)
    held = [
        abs(truth - (low + high) / 2) <= (high - low) / 4 for low, high in (bounds(found.recall) for found in drawn)
    ]
    assert sum(held) / DRAWS < 0.85

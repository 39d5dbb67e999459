"""The simulator's known effect of a contact: by customer, the same for all, or none, and true in what they do."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from churn_assets.demo.contact_effects import ONE_EFFECT, Effects, contact_effect
from churn_assets.demo.simulator import (
    OUTCOME_DAYS,
    DemoSettings,
    Floats,
    calendar,
    calibrate,
    campaign,
    customers_from,
    draw,
    live,
    service,
)

NUMBERS = range(1, 6_001)


AFTER_THE_CRISIS, BEFORE_IT = date(2025, 11, 17), date(2025, 9, 22)


def lived(effects: Effects, campaign_on: date = AFTER_THE_CRISIS) -> tuple[Floats, Floats]:
    """What a contact is to change for each customer on the list, and what contacting all of them changed."""
    settings = DemoSettings(campaign=campaign_on, contact_effects=effects)
    days = calendar(settings, (settings.end - settings.start).days + 1)
    uniforms, normals, draws = draw(settings.seed, NUMBERS, days.days)
    customers = customers_from(uniforms, normals, settings.signal_strength)
    served, made = service(draws, days.is_crisis), campaign(settings, NUMBERS)
    assert made is not None
    nobody, everybody = (
        live(customers, served, draws, days, calibrate(settings), replace(made, is_holdout=np.full(6_000, is_held_out)))
        for is_held_out in (True, False)
    )
    window = slice(made.day, made.day + OUTCOME_DAYS)
    left = [~(of.has_ordered & ~served.is_cancelled)[window].any(axis=0) for of in (nobody, everybody)]
    effect = everybody.contact_effect
    is_listed = ~np.isnan(effect)
    assert (is_listed == ~np.isnan(nobody.campaign_risk)).all()
    assert (left[0] == left[1])[~is_listed].all()
    return effect[is_listed], (left[1].astype(float) - left[0])[is_listed]


def test_a_contact_keeps_those_let_down_and_loses_others_by_as_much_as_is_told() -> None:
    for campaign_on, lowest, highest in ((AFTER_THE_CRISIS, -1.0, -0.1), (BEFORE_IT, 0.01, 1.0)):
        effect, changed = lived("varied", campaign_on)
        is_of_kind = (effect > lowest) & (effect < highest)
        assert is_of_kind.sum() > 100
        # One in 33 of the orders that a contact brings is cancelled.
        assert changed[is_of_kind].mean() == pytest.approx(effect[is_of_kind].mean(), abs=0.02)


@pytest.mark.parametrize(("effects", "told"), [("one", ONE_EFFECT), ("none", 0.0)])
def test_one_effect_is_the_same_for_everybody_and_none_changes_nobody(effects: Effects, told: float) -> None:
    effect, changed = lived(effects)
    assert set(effect.tolist()) == {told}
    assert changed.mean() == pytest.approx(told, abs=0.02)
    assert effects == "one" or not changed.any()


def test_an_effect_makes_no_chance_leave_its_bounds() -> None:
    leaves = np.linspace(0, 1, 11)
    for effects in ("varied", "one", "none"):
        for dissatisfaction, habit in ((0.0, 3.0), (5.0, -3.0)):
            traits = {"dissatisfaction": np.full(11, dissatisfaction), "habit": np.full(11, habit)}
            after = leaves + contact_effect(effects, leaves=leaves, **traits)
            assert ((after >= 0) & (after <= 1)).all()


def test_without_the_option_the_demo_has_no_known_effect() -> None:
    made = campaign(DemoSettings(), NUMBERS)
    assert made is not None
    assert made.effects is None

"""policy.toml is refused with every wrong key named, or is exactly the rules that judge."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from churn_assets.churn import policy
from churn_assets.churn.catalogue import FEATURE_OF, FEATURE_SETS, SETS
from churn_assets.churn.errors import InvalidPolicyError
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.policy import ChurnPolicy, Gate, Model, Scoring, Section
from churn_assets.churn.wording import RatingScale
from churn_assets.defs.training import TrainingConfig, hyperparameters_of
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

# One other allowed value for each rule. A rule added to the policy has to be added here.
JUDGING_VALUES = {
    "crisis_delay_minutes": 30.0,
    "windows.observation_days": 90,
    "windows.outcome_days": 14,
    "windows.eligibility_days": 21,
    "churn.definition": "long_gap",
    "churn.rate_drop_share": 0.4,
    "churn.gap_multiple": 2.0,
    "cleaning.max_delivery_hours": 12.0,
    "cleaning.max_orders_per_day": 100,
    "cleaning.max_quarantined_share": 0.1,
    "cleaning.max_unmatched_share": 0.1,
    "cleaning.max_repaired_share": 0.1,
    "cleaning.watermark": date(2025, 12, 31),
    "calendar.snapshots": "daily",
    "calendar.weekday": "sunday",
    "calendar.min_day_share": 0.5,
    "calendar.min_gap_days": 3,
    "calendar.closures": [{"from": date(2025, 12, 1), "to": date(2025, 12, 7)}],
    "calendar.holidays": [date(2025, 12, 25)],
    "baseline.long_silence_days": 10,
    "baseline.bad_review_score": 3.0,
    "split.salt": "43",
    "alerts.budget": 0.3,
    "alerts.threshold_by": "profit",
    "gate.min_recall": 0.5,
    "gate.min_attainable_share": 0.4,
    "gate.max_attainable_share": 0.9,
    "gate.precision_floor": 0.3,
    "gate.confidence": 0.9,
    "gate.evaluation": "holdout",
    "gate.backtest_dates": 8,
    "gate.min_backtest_dates": 4,
    "gate.min_dates_met": 0.8,
    "gate.max_recall_interval": 0.3,
    "gate.max_shortfall": 0.1,
    "gate.min_gain_over_rule": 0.01,
    "gate.max_miscalibration": 2.0,
    "leakage.max_single_feature_auc": 0.9,
    "leakage.max_model_auc": 0.95,
    "model.feature_set": "seed",
    "model.class_weights": "balanced",
}
# These say who promotes what passed, when what runs, and what is made of scores and watched of them.
RUNNING_VALUES: dict[str, Any] = {
    "freshness.warn_lag_days": 3.0,
    "freshness.fail_lag_days": 9.0,
    "freshness.max_age_days": 30.0,
    "freshness.warn_below": 0.5,
    "freshness.fail_below": 0.2,
    "freshness.warn_above": 2.0,
    "freshness.fail_above": 4.0,
    "freshness.warn_load_change": 0.2,
    "freshness.fail_load_change": 0.6,
    "freshness.max_future_share": 0.5,
    "freshness.today": date(2025, 12, 31),
    "promotion.mode": "manual",
    "automation.refresh": "daily",
    "automation.retrain_on": "decision",
    "automation.retrain_cooldown_hours": 1.0,
    "notices.warnings": ["all"],
    "scoring.tier_odds": [5.0, 2.0],
    "scoring.tier_probabilities": [0.6, 0.1],
    "retention.rank_by": "expected_profit",
    "retention.holdout_share": 0.2,
    "retention.exploration_share": 0.2,
    "retention.min_held_out": 1_000,
    "retention.contact_pause_days": 60,
    "retention.weekly_capacity": 500,
    "retention.max_unmatched_opt_outs": 0.1,
    "retention.actions": [{"action": "reminder"}],
    "economics": {
        "margin": 0.2,
        "lifetime_days": 180,
        "actions": {action.action: {"acceptance": 0.1} for action in ChurnPolicy().retention.actions},
    },
    "units.currency": "EUR",
    "units.rating": "points",
    "units.rating_scale": [0.0, 10.0],
    "units.tiers.high": "urgent",
    "units.tiers.medium": "soon",
    "units.tiers.low": "later",
    "model.estimator": "gbt",
    "model.max_depth": 3,
    "model.iterations": 30,
    "model.step_size": 0.2,
    "model.min_leaf_share": 0.1,
    "model.feature_share": 1.0,
    "model.max_local_rows": 0,
    "names.experiment": "/Shared/Staging",
    "names.run": "nightly",
    "names.registered_model": "staging.model",
    "names.table_prefix": "staging",
    "environments": {"prod": {"table_prefix": "prod"}},
    "monitoring.warn_psi": 0.2,
    "monitoring.fail_psi": 0.5,
    "monitoring.confidence": 0.99,
    "monitoring.warn_unseen_segments": 0.02,
    "monitoring.fail_unseen_segments": 0.1,
    "monitoring.fail_budget_multiple": 2.0,
    "monitoring.retrain_weeks": 3,
    "monitoring.calm_weeks": 1,
}


def policy_file(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> InvalidPolicyError:
    with pytest.raises(InvalidPolicyError) as error:
        load_policy(policy_file(folder, text))
    assert str(folder / "policy.toml") in str(error.value)
    assert "Next step: " in str(error.value)
    return error.value


def nested(key: str, value: Any) -> dict[str, Any]:
    *sections, last = key.split(".")
    content: dict[str, Any] = {last: value}
    for section in reversed(sections):
        content = {section: content}
    # Whatever goes by profit has to know it.
    by_profit = key in ("retention.rank_by", "alerts.threshold_by")
    return content | {"economics": RUNNING_VALUES["economics"]} if by_profit else content


def leaves(section: Section, prefix: str = "") -> list[str]:
    names = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        names += leaves(value, f"{prefix}{name}.") if isinstance(value, Section) else [f"{prefix}{name}"]
    return names


def test_the_shipped_policy_is_the_default() -> None:
    assert load_policy(CHECKOUT / "policy.toml") == ChurnPolicy()


def test_the_policy_of_the_real_data_example_is_allowed() -> None:
    example = load_policy(CHECKOUT / "examples" / "uci_online_retail" / "policy.toml")
    assert example.digest != ChurnPolicy().digest


def test_an_empty_file_is_the_default_and_a_key_replaces_only_itself(tmp_path: Path) -> None:
    assert load_policy(policy_file(tmp_path, "")) == ChurnPolicy()
    changed = load_policy(policy_file(tmp_path, "[windows]\noutcome_days = 14\n"))
    assert changed == ChurnPolicy(windows=ChurnPolicy().windows.model_copy(update={"outcome_days": 14}))


def test_the_digest_changes_with_every_rule_that_judges_and_with_nothing_else() -> None:
    assert sorted(JUDGING_VALUES | RUNNING_VALUES) == sorted(leaves(ChurnPolicy()))
    digests = {key: ChurnPolicy.model_validate(nested(key, value)).digest for key, value in JUDGING_VALUES.items()}
    assert len({*digests.values(), ChurnPolicy().digest}) == len(JUDGING_VALUES) + 1
    for key, value in RUNNING_VALUES.items():
        changed = ChurnPolicy.model_validate(nested(key, value))
        assert (changed != ChurnPolicy(), changed.digest) == (True, ChurnPolicy().digest), key
    assert ChurnPolicy.model_validate(nested("alerts.budget", 0.2)).digest == ChurnPolicy().digest


def test_where_the_threshold_is_by_profit_what_is_earned_judges_too() -> None:
    def digest(**sections: Any) -> str:
        given = {"alerts": {"threshold_by": "profit"}, "economics": RUNNING_VALUES["economics"]} | sections
        return ChurnPolicy.model_validate(given).digest

    other = [
        digest(economics=RUNNING_VALUES["economics"] | {"margin": 0.3}),
        digest(scoring={"tier_odds": [5.0, 2.0]}),
        digest(retention={"actions": [{"action": "reminder", "risk_tier": "high"}, *_without_conditions()]}),
    ]
    assert len({digest(), *other}) == 4
    assert digest(retention={"holdout_share": 0.2}) == digest()


def _without_conditions() -> list[dict[str, str]]:
    return [{"action": action.action} for action in ChurnPolicy().retention.actions]


def test_the_panel_digest_changes_with_the_rules_that_decide_its_rows_and_with_no_other() -> None:
    usual = ChurnPolicy().panel_digest("code")
    moved = {
        key
        for key, value in (JUDGING_VALUES | RUNNING_VALUES).items()
        if ChurnPolicy.model_validate(nested(key, value)).panel_digest("code") != usual
    }
    judged_only = {
        key for key in JUDGING_VALUES if key.split(".")[0] in ("split", "alerts", "gate", "leakage", "model")
    }
    assert moved == JUDGING_VALUES.keys() - judged_only


def test_the_digest_changes_with_the_members_of_the_chosen_feature_set_and_of_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: ChurnPolicy(model=Model(feature_set=name)).digest for name in SETS}
    joined = {**FEATURE_SETS, "extended": (*FEATURE_SETS["extended"], "missed_orders")}
    monkeypatch.setattr(policy, "members", lambda _, name: joined[name])
    after = {name: ChurnPolicy(model=Model(feature_set=name)).digest for name in SETS}
    assert {name for name in SETS if before[name] != after[name]} == {"extended"}


def test_the_panel_digest_changes_with_its_features_and_with_the_code_of_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = ChurnPolicy().panel_digest("code")
    assert ChurnPolicy().panel_digest("code") == before
    assert ChurnPolicy().panel_digest("other code") != before
    monkeypatch.setattr(policy, "FEATURE_OF", {**FEATURE_OF, "another": FEATURE_OF["tenure_days"]})
    assert ChurnPolicy().panel_digest("code") != before


def test_nobody_is_contacted_twice_within_one_outcome_window() -> None:
    def pause(outcome_days: int, contact_pause_days: int) -> int:
        rules = {"windows": {"outcome_days": outcome_days}, "retention": {"contact_pause_days": contact_pause_days}}
        return ChurnPolicy.model_validate(rules).days_between_lists

    assert [pause(30, 42), pause(30, 30), pause(60, 42)] == [42, 30, 60]


def test_rules_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ChurnPolicy().gate.min_recall = 0.0  # type: ignore[misc]  # what it is refused for


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[windows]\noutcome_day = 30", "windows.outcome_day: unknown key"),
        ("budget = 0.2", "budget: unknown key"),
        ("[alerts]\nbudget = '20 %'", "alerts.budget: found '20 %', should be a valid number"),
        ("[alerts]\nbudget = 20", "alerts.budget: found 20, should be less than 1"),
        ("[alerts]\nbudget = nan", "alerts.budget: found nan, should be less than 1"),
        ("[windows]\noutcome_days = 30.5", "windows.outcome_days: found 30.5, should be a valid integer"),
        ("[calendar]\nweekday = 'mon'", "calendar.weekday: found 'mon', should be 'monday', 'tuesday',"),
        (
            "[calendar]\nclosures = [{ from = 2025-01-02, to = 2025-01-01 }]",
            "calendar.closures.0: from (2025-01-02) must not be after to",
        ),
        ("[calendar]\nclosures = [{ from = 2025-01-02 }]", "calendar.closures.0.to: is required"),
        (
            "[calendar]\nsnapshots = 'daily'\n[automation]\nrefresh = 'weekly'",
            '(whole file): automation.refresh ("weekly") must be "daily", or left out',
        ),
        ("[windows]\noutcome_days = true", "windows.outcome_days: found True, should be a valid integer"),
        ("[windows]\nobservation_days = 0", "windows.observation_days: found 0, should be greater than or equal to 1"),
        (
            "[[retention.actions]]\naction = 'call'\nreason = 'age'\n[[retention.actions]]\naction = 'mail'",
            "(whole file): retention.actions: reason (age) must be a feature",
        ),
        (
            "[[retention.actions]]\naction = 'call'\nrisk_tier = 'high'",
            "retention: the last of actions must be for everyone",
        ),
        ("[retention]\nactions = []", "retention.actions: found [], "),
        ("[gate]\nconfidence = 1.0", "gate.confidence: found 1.0, should be less than 1"),
        ("[cleaning]\nwatermark = '2025-12-31'", "cleaning.watermark: found '2025-12-31', should be a valid date"),
        ("[split]\nsalt = ''", "split.salt: found '', String should have at least 1 character"),
        (
            "[model]\nfeature_set = 'all'",
            "model.feature_set: found 'all', should be 'seed', 'extended' or 'crisis_aware'",
        ),
        (
            "[churn]\ndefinition = 'gone'",
            "churn.definition: found 'gone', should be 'inactivity', 'rate_drop' or 'long_gap'",
        ),
        ("[churn]\ngap_multiple = 0.0", "churn.gap_multiple: found 0.0, should be greater than 0"),
        (
            "[gate]\nevaluation = 'train'",
            "gate.evaluation: found 'train', should be 'holdout', 'crossfit' or 'backtest'",
        ),
        ("[gate]\nbacktest_dates = 1", "gate.backtest_dates: found 1, should be greater than or equal to 2"),
        ("[gate]\nmin_backtest_dates = 6", "gate: min_backtest_dates (6) must not exceed backtest_dates (5)"),
        ("[gate]\nmin_dates_met = 1.1", "gate.min_dates_met: found 1.1, should be less than or equal to 1"),
        ("[gate]\nmax_shortfall = -0.1", "gate.max_shortfall: found -0.1, should be greater than or equal to 0"),
        ("[gate]\nmax_miscalibration = 1.0", "gate.max_miscalibration: found 1.0, should be greater than 1"),
        ("[gate]\nmin_gain_over_rule = 1.0", "gate.min_gain_over_rule: found 1.0, should be less than 1"),
        ("[leakage]\nmax_model_auc = 0.5", "leakage.max_model_auc: found 0.5, should be greater than 0.5"),
        ("[model]\nclass_weights = 'some'", "model.class_weights: found 'some', should be 'none' or 'balanced'"),
        ("[promotion]\nmode = 'never'", "promotion.mode: found 'never', should be 'auto' or 'manual'"),
        (
            "[automation]\nretrain_on = 'drift'",
            "automation.retrain_on: found 'drift', should be 'refresh' or 'decision'",
        ),
        ("[monitoring]\nwarn_psi = 0.0", "monitoring.warn_psi: found 0.0, should be greater than 0"),
        ("[monitoring]\nretrain_weeks = 0", "monitoring.retrain_weeks: found 0, should be greater than or equal to 1"),
        ("[monitoring]\nwarn_psi = 0.3", "monitoring: warn_psi (0.3) must not exceed fail_psi (0.25)"),
        ("[automation]\nrefresh = 'hourly'", "automation.refresh: found 'hourly', should be 'weekly' or 'daily'"),
        (
            "[automation]\nretrain_cooldown_hours = -1",
            "automation.retrain_cooldown_hours: found -1, should be greater than or equal to 0",
        ),
        ("windows = 3", "windows: found 3, should be a valid dictionary"),
    ],
)
def test_a_wrong_value_is_refused_with_key_found_and_allowed(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = refused(tmp_path, text).problems
    assert found.startswith(problem)


def test_windows_in_which_an_eligible_customer_has_no_features_are_refused(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, "[windows]\nobservation_days = 20\neligibility_days = 21").problems
    assert problem.startswith("windows: eligibility_days (21) must not exceed observation_days (20)")
    assert load_policy(policy_file(tmp_path, "[windows]\nobservation_days = 30")).windows.observation_days == 30


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("tier_odds = [4.0, 4.0]", "scoring: tier_odds: that of medium (4.0) must be below that of high (4.0)"),
        ("tier_probabilities = [0.2, 0.5]", "scoring: tier_probabilities: that of medium (0.5) must be below that of"),
        ("tier_probabilities = [0.5]", "scoring.tier_probabilities"),
    ],
)
def test_risk_tiers_out_of_order_or_half_given_are_refused(tmp_path: Path, section: str, expected: str) -> None:
    (problem,) = refused(tmp_path, f"[scoring]\n{section}").problems
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("churn_rate", "high", "medium"), [(0.08, 0.258, 0.115), (0.15, 0.414, 0.209), (0.65, 0.881, 0.736)]
)
def test_risk_tiers_follow_the_churn_rate(churn_rate: float, high: float, medium: float) -> None:
    assert Scoring().least_probabilities(churn_rate) == pytest.approx((high, medium), abs=0.0005)
    fixed = Scoring(tier_probabilities=(0.5, 0.2))
    assert fixed.least_probabilities(churn_rate) == (0.5, 0.2)


def test_ratings_have_a_scale_that_rises_and_tiers_names_that_differ(tmp_path: Path) -> None:
    units = load_policy(policy_file(tmp_path, '[units]\nrating = "points"\nrating_scale = [0, 10]')).units
    assert units.scale == RatingScale("points", 0.0, 10.0)
    (problem,) = refused(tmp_path, "[units]\nrating_scale = [5, 1]").problems
    assert "the worst rating (5) must be below the best (1)" in problem
    (problem,) = refused(tmp_path, '[units]\ntiers = { high = "low" }').problems
    assert "high (low), medium (medium) and low (low) must differ" in problem


def test_the_currency_is_one_word(tmp_path: Path) -> None:
    assert load_policy(policy_file(tmp_path, '[units]\ncurrency = "EUR"')).units.currency == "EUR"
    (problem,) = refused(tmp_path, '[units]\ncurrency = "of the shop"').problems
    assert problem.startswith("units.currency")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        "crisis_delay_minutes = -1\nmystery = 1\n"
        "[windows]\nobservation_days = 10\n[alerts]\nbudget = 2\n[gate]\nrecall = 1",
    )
    assert {problem.split(":")[0] for problem in error.problems} == {
        "crisis_delay_minutes",
        "mystery",
        "windows",
        "alerts.budget",
        "gate.recall",
    }
    assert "5 value(s) are not allowed" in str(error)


def test_a_missing_file_is_refused_and_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicyError, match=r"policy\.toml: there is no such file[\s\S]*CHURN_PROJECT"):
        load_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize("content", [b"[windows\n", b"salt = 'a' 'b'", b"\xff\xfe[windows]", b"[alerts]\n[alerts]\n"])
def test_what_is_not_toml_is_refused_with_the_place(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidPolicyError, match="cannot be read as TOML"):
        load_policy(path)


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicyError, match="cannot be read as TOML"):
        load_policy(tmp_path)


def test_how_the_trees_are_learned_is_a_policy_that_judges_nothing_and_a_run_may_differ() -> None:
    policy = ChurnPolicy.model_validate({"model": {"max_depth": 3, "estimator": "gbt"}})
    nothing = TrainingConfig.model_validate({})
    assert hyperparameters_of(nothing, policy, 9, no_cluster) == GradientBoosting(max_depth=3, estimator="gbt")
    assert hyperparameters_of(nothing, ChurnPolicy(), 9, no_cluster) == GradientBoosting()
    run = TrainingConfig.model_validate({"max_depth": 4, "step_size": 0.2})
    found = hyperparameters_of(run, policy, 9, no_cluster)
    assert found == GradientBoosting(max_depth=4, step_size=0.2, estimator="gbt")
    assert policy.digest == ChurnPolicy().digest
    assert ChurnPolicy.model_validate({"model": {"class_weights": "balanced"}}).digest != policy.digest


@pytest.mark.parametrize(
    ("share", "dates", "needed"), [(0.6, 5, 3), (0.6, 4, 3), (0.6, 3, 2), (0.07, 100, 7), (1.0, 5, 5), (0.01, 5, 1)]
)
def test_of_the_dates_of_a_backtest_the_share_is_rounded_up(share: float, dates: int, needed: int) -> None:
    assert ChurnPolicy(gate=Gate(min_dates_met=share)).gate.dates_to_meet(dates) == needed


def no_cluster() -> int:
    raise AssertionError("nobody needs a cluster")


def test_of_more_rows_than_the_policy_says_the_cluster_learns_unless_the_run_says_who_does() -> None:
    policy = ChurnPolicy.model_validate({"model": {"max_local_rows": 100}})
    assert policy.digest == ChurnPolicy().digest
    nothing = TrainingConfig.model_validate({})
    assert hyperparameters_of(nothing, policy, 100, no_cluster).workers == 1
    assert hyperparameters_of(nothing, policy, 101, lambda: 7).workers == 7
    # Over Spark Connect nobody can say how many tasks there are; there gbt is what XGBoost's error sends people to.
    by_spark = TrainingConfig.model_validate({"estimator": "gbt"})
    assert hyperparameters_of(by_spark, policy, 101, no_cluster).workers == 2
    assert hyperparameters_of(by_spark, policy, 100, no_cluster).workers == 1
    for workers in (1, 3):
        run = TrainingConfig.model_validate({"workers": workers})
        assert hyperparameters_of(run, policy, 101, no_cluster).workers == workers
        assert hyperparameters_of(run, policy, 100, no_cluster).workers == workers

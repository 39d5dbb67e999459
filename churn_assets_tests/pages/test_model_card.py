"""A card tells everything a verdict rests on, says plainly what is missing, and takes nothing in data for markup."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
import yaml

from churn_assets.churn import intervals
from churn_assets.churn.catalogue import FEATURE_SETS, FEATURES, FeatureSet
from churn_assets.churn.evaluation import NAMES, Evaluation, Scored, Verdict, judge
from churn_assets.churn.evaluations import Evidence
from churn_assets.churn.influences import Influence
from churn_assets.churn.intervals import UNDEFINED, Estimate
from churn_assets.churn.labels import candidates, definition
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.policy import Alerts, ChurnPolicy, Economics, Gate, Model, Offer, Units
from churn_assets.churn.profit import Earnings
from churn_assets.churn.splits import SplitDates
from churn_assets.pages.model_card import CardFacts, model_card
from churn_assets_tests.judged_customers import customers, over_dates, ranked

POLICY = ChurnPolicy(gate=Gate(evaluation="holdout"))
DATES = SplitDates(date(2025, 12, 1), (date(2025, 9, 1), date(2025, 9, 8), date(2025, 10, 27)), is_out_of_time=True)
VERSIONS = {"food_delivery/ml_churn_features": 17, "food_delivery/train_features": 23}
HOSTILE = "a|b<script>alert(1)</script>\n| x | **y** [z](javascript:w) ![i](other.png) `q` _r_ \\"


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the intervals are is tested elsewhere."""
    monkeypatch.setattr(intervals, "REPLICATES", 50)


def parts(*names: str) -> Mapping[str, np.ndarray]:
    """One slice, in which the last name has only the last five customers, none of them a churner."""
    place = np.arange(1000) % (len(names) - 1)
    return {"segment": np.where(np.arange(1000) >= 995, names[-1], np.array(names)[place])}


def judged(scored: Scored | None = None, rules: ChurnPolicy = POLICY, **options: Any) -> Evaluation:
    scored = customers(60, 100, slices=parts("family", "student")) if scored is None else scored
    return judge(scored, rules, **{"has_threshold": True, **options})


def facts(evaluation: Evaluation | None = None, /, **others: Any) -> CardFacts:
    """Facts of a model of all features that passed, without a champion; `others` replaces any of them."""
    features = FEATURE_SETS["crisis_aware"]
    defaults: dict[str, Any] = {
        "name": "quickbite_churn_predictor",
        "run_id": "5f0c1b",
        "trained_at": datetime(2025, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-1))),
        "code_commit": "0ddba11",
        "features": features,
        "importances": {name: (number + 1) / 78 for number, name in enumerate(features)},
        "hyperparameters": GradientBoosting(),
        "threshold": 0.2345,
        "dates": DATES,
        "evidence": Evidence("d1ge57", POLICY.digest, VERSIONS),
        "policy": POLICY,
        "evaluation": evaluation or judged(),
    }
    return CardFacts(**{**defaults, **others})


def with_earnings(currency: str = "EUR") -> CardFacts:
    """A contact of a churner earns 4, of another it costs 1; 60 of 100 churners are alerted, and 100 others."""
    scored = customers(60, 100)
    earned = Earnings(
        np.where(scored.labels == 1, 4.0, -1.0), np.full(1000, 10.0), {"call": Offer(contact_cost=1.0, acceptance=0.5)}
    )
    rules = POLICY.model_copy(update={"units": Units(currency=currency)})
    return facts(judged(replace(scored, earnings=earned), rules), policy=rules)


def with_champion() -> CardFacts:
    evidence = Evidence("d1ge57", POLICY.digest, VERSIONS, champion="3")
    return facts(judged(customers(60, 100, champion=ranked(50, 120))), evidence=evidence)


def not_evaluable(**others: Any) -> CardFacts:
    return facts(judge(None, POLICY, has_threshold=True, obstacles=["the model cannot be scored: OSError"]), **others)


CARDS: dict[str, Callable[[], CardFacts]] = {
    "passed": facts,
    "with a champion": with_champion,
    "failed": lambda: facts(judged(customers(20, 100))),
    "not evaluable": not_evaluable,
    "not evaluable with scores": lambda: facts(judged(obstacles=["the splits break disjoint_customers"])),
    "no threshold": lambda: facts(judged(customers(0, 0), has_threshold=False), threshold=None),
    "nothing at all": lambda: not_evaluable(threshold=None, importances={}, evidence=Evidence("d", "p", {})),
    "one churner": lambda: facts(judged(customers(1, 2, churners=1, rows=4))),
    "all but nobody to compare on": lambda: facts(
        judged(customers(60, 100, champion=ranked(9, 9), is_unseen=np.arange(1000) >= 100))
    ),
    "several dates": lambda: over_three_dates(),
    "with what contacts earn": with_earnings,
    "undefined difference": lambda: facts(without_intervals(judged())),
}


def without_intervals(evaluation: Evaluation) -> Evaluation:
    first, *rest = evaluation.comparisons
    assert first.difference.value is not None
    bare = replace(first, difference=Estimate(first.difference.value))
    return replace(evaluation, comparisons=(bare, *(replace(other, difference=UNDEFINED) for other in rest)))


def section(card: str, name: str) -> str:
    (found,) = re.findall(rf"^## {name}\n\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """The cells of the table in `text`, without the line under its header."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def estimates(evaluation: Evaluation) -> list[Estimate]:
    shown = [evaluation.figures, *(part.figures for part in evaluation.slices)]
    return [value for each in shown for value in vars(each).values() if isinstance(value, Estimate)]


# ---- every card


@pytest.mark.parametrize("case", CARDS)
def test_no_card_tells_a_missing_value_as_none_or_nan(case: str) -> None:
    card = model_card(CARDS[case]())
    assert re.search(r"\bNone\b|\bnan\b|\binf\b", card) is None


@pytest.mark.parametrize("case", CARDS)
def test_every_card_has_every_section_its_verdict_and_each_reason(case: str) -> None:
    told = CARDS[case]()
    card = model_card(told)
    assert re.findall(r"^#+ (.*)$", card, flags=re.MULTILINE) == [
        "Model card: quickbite_churn_predictor",
        "Purpose",
        "Label",
        "Data",
        "Features",
        "Verdict",
        "Figures",
        *(["Dates"] if told.evaluation.dates else []),
        "Threshold and alert budget",
        *([] if told.evaluation.profit is None else ["Profit"]),
        "Comparisons",
        "Calibration",
        "Known limits",
        "How to roll back",
    ]
    assert f"**{told.evaluation.verdict.value}.**" in card.split("## ")[0]
    verdict = section(card, "Verdict")
    if not told.evaluation.criteria:
        assert all(f"\n- {reason}\n" in verdict for reason in told.evaluation.reasons)
    for each in told.evaluation.criteria:
        cells = [each.what, each.observed, each.interval, each.allowed, "met" if each.is_met else "MISSED"]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in verdict


# ---- what it is bound to


def test_a_card_names_run_code_digests_settings_dates_and_each_table_version() -> None:
    card = model_card(
        facts(hyperparameters=GradientBoosting(max_depth=3, iterations=7, step_size=0.25, min_leaf_share=0.03))
    )
    for told in ("5f0c1b", "0ddba11", "d1ge57", POLICY.digest, "2026-01-01 00:30 UTC"):
        assert told in card
    settings = "7 of depth 3, step 0.25, at least 3.00% of the rows in a leaf, 50% of the features at each split"
    assert f"{settings}, no class weights" in card
    assert "2025-09-01 to 2025-10-27, 3 dates. Test as-of date: 2025-12-01." in section(card, "Data")
    assert rows(section(card, "Data"))[1:] == [[table, str(version)] for table, version in VERSIONS.items()]


def test_a_card_says_who_learned_the_trees() -> None:
    assert "gradient-boosted trees (Spark ML, learned by XGBoost), 20 of depth 5" in model_card(facts())
    by_spark = model_card(facts(hyperparameters=GradientBoosting(estimator="gbt")))
    assert "gradient-boosted trees (Spark ML), 20 of depth 5" in by_spark


def test_a_model_trained_under_another_policy_than_the_one_that_judged_says_so() -> None:
    assert "another policy" not in model_card(facts())
    evidence = Evidence("d1ge57", "0therp0l1cy", VERSIONS)
    assert "It was trained under another policy, 0therp0l1cy." in model_card(facts(evidence=evidence))


@pytest.mark.parametrize("rules", candidates(POLICY), ids=definition)
def test_the_label_is_told_in_the_policys_words_and_windows(rules: ChurnPolicy) -> None:
    label = section(model_card(facts(policy=rules)), "Label")
    assert f"**{definition(rules)}**" in label
    for days in ("[t − 60 days, t)", "[t − 30 days, t)", f"[t, t + {rules.windows.outcome_days} days)"):
        assert days in label


# ---- features


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_every_feature_has_its_importance_meaning_formula_and_range_the_most_important_first(name: FeatureSet) -> None:
    features = FEATURE_SETS[name]
    importances = {feature: (number + 1) / 100 for number, feature in enumerate(features)}
    found = rows(section(model_card(facts(features=features, importances=importances)), "Features"))[1:]
    assert [row[0] for row in found] == [f"`{feature}`" for feature in reversed(features)]
    catalogue = {f"`{feature.name}`": feature for feature in FEATURES}
    for name_, importance, meaning, formula, range_ in found:
        feature = catalogue[name_]
        assert importance == f"{importances[feature.name]:.1%}"
        assert (meaning, formula) == (feature.meaning, feature.formula)
        assert range_ == (f"{feature.low} or more" if feature.high == np.inf else f"{feature.low} to {feature.high}")


def test_without_importances_the_features_are_told_nonetheless() -> None:
    found = section(model_card(facts(importances={})), "Features")
    assert "The importances are not known" in found
    assert [row[:2] for row in rows(found)[1:]] == [[f"`{name}`", "–"] for name in FEATURE_SETS["crisis_aware"]]


def test_how_far_each_feature_moves_the_scores_is_told_with_its_direction() -> None:
    told = facts(influences=[Influence("recency_days", 0.5214, "raises"), Influence("segment_index", 0.1, "neither")])
    found = section(model_card(told), "Features")
    assert "\n\nSHAP: by how much a feature moves the log-odds of leaving" in found
    assert rows(found)[-3:] == [
        ["feature", "mean size of SHAP", "a larger value"],
        ["`recency_days`", "0.521", "raises the risk"],
        ["`segment_index`", "0.100", "–"],
    ]
    assert "SHAP" not in model_card(facts())


# ---- figures


def test_every_figure_has_its_interval_overall_and_in_each_part() -> None:
    evaluation = judged()
    found = section(model_card(facts(evaluation)), "Figures")
    defined = [estimate for estimate in estimates(evaluation) if estimate.low is not None]
    assert len(defined) > 2 * 7
    for estimate in defined:
        assert f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})" in found
    assert "In brackets the 95% interval" in found
    assert [row[0] for row in rows(found)[1:]] == [
        "**all**",
        "segment: family",
        "segment: student (too small to judge)",
    ]


def test_a_part_too_small_to_judge_is_among_the_known_limits() -> None:
    limits = section(model_card(facts()), "Known limits")
    assert "Too few churners to judge these parts alone: segment: student." in limits
    assert "parts alone" not in section(model_card(facts(judged(customers(60, 100)))), "Known limits")


def test_warnings_are_told() -> None:
    evaluation = judged(customers(60, 100, features={"recency_days": ranked(60, 100)}))
    (warning,) = evaluation.warnings
    assert f"\n- {warning}\n" in section(model_card(facts(evaluation)), "Verdict")
    assert "There are no warnings." in model_card(facts())


# ---- threshold


def test_threshold_budget_and_alerts_are_told() -> None:
    found = section(model_card(facts()), "Threshold and alert budget")
    assert "Threshold: **0.2345**." in found
    assert "at most 20%, the budget" in found
    assert "160 of 1,000 were alerted, 16.0% (the gate allows 22.0%), and 60 of them were churners." in found


def test_without_a_threshold_the_card_says_that_nobody_is_alerted() -> None:
    found = section(model_card(CARDS["no threshold"]()), "Threshold and alert budget")
    assert "**There is no threshold**, so nobody is alerted" in found
    assert "Threshold: " not in found


# ---- comparisons


def test_each_comparison_has_both_areas_the_difference_with_its_interval_and_both_recalls() -> None:
    told = with_champion()
    found = section(model_card(told), "Comparisons")
    assert "The champion when it was judged: version 3." in found
    assert len(told.evaluation.comparisons) == 4
    assert "The strongest rival: **the champion**." in found
    assert rows(found)[1:] == [
        [
            NAMES[other.rival],
            f"{other.rows:,}",
            f"{other.challenger_pr_auc:.3f}",
            f"{other.pr_auc:.3f}",
            f"{other.difference.value:+.3f} ({other.difference.low:+.3f} to {other.difference.high:+.3f})",
            f"{other.challenger_recall:.3f}",
            f"{other.recall:.3f}",
        ]
        for other in told.evaluation.comparisons
    ]


def test_without_a_champion_the_card_says_so() -> None:
    assert "No champion served when it was judged." in section(model_card(facts()), "Comparisons")
    assert "No champion" not in model_card(with_champion())


# ---- what could not be judged


def test_a_model_that_could_not_be_judged_has_no_figures_and_no_comparison_and_says_so() -> None:
    card = model_card(not_evaluable())
    assert "It could not be judged" in card.split("## ")[0]
    assert "the model cannot be scored: OSError" in section(card, "Verdict")
    assert section(card, "Figures") == "Nothing could be judged, so there are no figures.\n\n"
    assert rows(section(card, "Comparisons")) == []
    assert "could not be measured" in section(card, "Calibration")


def test_figures_beside_a_verdict_that_could_not_be_reached_are_no_ground_for_a_decision() -> None:
    told = CARDS["not evaluable with scores"]()
    assert told.evaluation.verdict is Verdict.NOT_EVALUABLE
    found = section(model_card(told), "Figures")
    assert "no ground for any decision" in found
    assert rows(found)[1][:3] == ["**all**", "1,000", "100"]
    assert "no ground" not in model_card(facts())


# ---- calibration


@pytest.mark.parametrize(
    ("brier", "said"),
    [
        (Estimate(0.05, 0.04, 0.06), "the model's scores are better"),
        (Estimate(0.09, 0.08, 0.10), "the model's scores are not shown to be better"),
        (Estimate(0.20, 0.18, 0.22), "the model's scores are worse, and not to be read as probabilities"),
        (Estimate(0.05), "which of the two is better cannot be told"),
    ],
)
def test_the_brier_score_is_held_against_giving_everybody_the_churn_rate(brier: Estimate, said: str) -> None:
    evaluation = judged()
    told = facts(replace(evaluation, figures=replace(evaluation.figures, brier=brier)))
    found = section(model_card(told), "Calibration")
    # 100 churners of 1,000: 0.1 times 0.9.
    assert f"10.0%, has 0.0900: {said}." in found
    assert f"Brier score {brier.value:.4f}" in found
    slope = next(each for each in evaluation.criteria if each.key == "calibration_slope")
    assert f"calibration slope: {slope.observed} ({slope.interval})" in found


def test_scores_of_a_model_with_class_weights_are_not_called_probabilities() -> None:
    balanced = ChurnPolicy(model=Model(class_weights="balanced"))
    assert "The scores are not probabilities" in section(model_card(facts(policy=balanced)), "Calibration")
    assert "The scores are meant as probabilities" in section(model_card(facts()), "Calibration")


# ---- limits


def test_limits_follow_from_how_it_was_judged() -> None:
    plain = section(model_card(facts()), "Known limits")
    assert "A label takes 30 days to be known" in plain
    assert "same date" not in plain
    assert "Cross-fitted" not in plain
    same_date = SplitDates(date(2025, 12, 1), (date(2025, 12, 1),), is_out_of_time=False)
    assert "trained and judged at the same date" in section(model_card(facts(dates=same_date)), "Known limits")
    crossfit = ChurnPolicy(gate=Gate(evaluation="crossfit"))
    assert "Cross-fitted figures pool five models" in section(model_card(facts(policy=crossfit)), "Known limits")


# ---- several dates


def over_three_dates() -> CardFacts:
    rules = ChurnPolicy(gate=Gate(evaluation="backtest"))
    poor = customers(20, 100)
    return facts(judged(over_dates(customers(60, 100), poor, customers(60, 100)), rules), policy=rules)


def test_a_card_of_a_backtest_tells_which_date_judged_the_version_and_what_the_others_judged() -> None:
    card = model_card(over_three_dates())
    told = section(card, "Dates")
    assert "At 2025-12-01 this version itself was judged" in told
    assert "judged there is how it was made" in told
    rows = [line for line in told.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows[1:]] == ["2025-11-03", "2025-11-10", "**2025-11-17**"]
    assert [row.rstrip(" |").split(" | ")[-1][:6] for row in rows[1:]] == ["holds", "MISSED", "holds"]
    assert "recall 0.200, at least 0.300" in rows[2]
    assert "3,000" in section(card, "Figures")
    limits = section(card, "Known limits")
    assert "A champion is compared at this version's own date alone" in limits
    assert "at one test date" not in limits
    assert "## Dates" not in model_card(facts())


# ---- rollback


def test_the_rollback_on_a_card_is_run_config_and_a_command() -> None:
    found = section(model_card(facts()), "How to roll back")
    (written,) = re.findall(r"```yaml\n(.*?)```", found, flags=re.DOTALL)
    config = yaml.safe_load(written)["ops"]["roll_back"]["config"]
    assert set(config) == {"approver", "reason"}
    uncommented = yaml.safe_load(written.replace("# version", "version"))["ops"]["roll_back"]["config"]
    assert uncommented["version"] == 1
    assert "dagster job execute -m churn_assets.definitions -j rollback_production_model -c rollback.yaml" in found
    assert "`churn-assets history`" in found


# ---- text from data


def test_a_hostile_name_of_a_segment_neither_breaks_a_table_nor_is_markup() -> None:
    told = facts(judged(customers(60, 100, slices=parts(HOSTILE, "fair", HOSTILE + " small"))))
    card = model_card(told)
    found = rows(section(card, "Figures"))
    assert {len(row) for row in found} == {11}
    assert len(found) == 1 + 1 + 3
    for markup in ("<", "`q", "**y", "[z", "|b", "_r_"):
        assert re.search(rf"(?<!\\){re.escape(markup)}", card) is None
    assert "\\<script\\>" in card


@pytest.mark.parametrize("field", ["name", "run_id", "code_commit"])
def test_other_hostile_text_is_one_line_of_text(field: str) -> None:
    card = model_card(facts(**{field: HOSTILE}))
    assert re.search(r"(?<!\\)<", card) is None
    assert len(card.splitlines()) == len(model_card(facts()).splitlines())


def test_a_hostile_reason_is_one_line_of_text() -> None:
    card = model_card(facts(judge(None, POLICY, has_threshold=True, obstacles=[HOSTILE])))
    assert re.search(r"(?<!\\)<", card) is None
    assert section(card, "Verdict").count("\n- ") == 1


def test_what_contacts_earn_is_told_by_the_share_of_customers_contacted() -> None:
    told = with_earnings()
    profit = told.evaluation.profit
    assert profit is not None
    found = section(model_card(told), "Profit")
    assert "per customer of all of them (EUR)" in found
    by_share = {cells[0]: cells[1] for cells in rows(found)[1:]}
    assert list(by_share) == ["5%", "10%", "15%", "20%", "25%", "30%", "40%", "50%", "75%", "100%"]
    assert by_share["100%"].startswith("-0.500 (")
    # All 160 alerts have one score: any 100 of them are alike.
    assert by_share["10%"].startswith(f"{(60 * 4 - 100) / 160 / 10:.3f} (")
    assert "the alerted, 16.0% of the customers: 0.140 (" in found
    assert f"where {profit.best_share:.0%} are contacted" in found
    assert f"EMPC: {profit.empc.value:.3f} (" in found
    assert "could be offered “call”" in found


def test_of_a_backtest_what_the_versions_own_alerts_earned_is_beside_their_own_share() -> None:
    rules = with_earnings().policy.model_copy(update={"gate": Gate(evaluation="backtest")})
    weeks = over_dates(customers(60, 20), customers(60, 20), customers(60, 100))
    earned = Earnings(np.where(weeks.labels == 1, 4.0, -1.0), np.full(3_000, 20.0), {"call": Offer(acceptance=0.3)})
    found = section(model_card(facts(judged(replace(weeks, earnings=earned), rules), policy=rules)), "Profit")
    # 160 of 1,000 there; at all dates together 320 of 3,000, one of ten.
    assert "the alerted, 16.0% of the customers: 0.140 (" in found
    assert "among the customers judged at 2025-12-01, per customer" in found


def test_without_economics_nothing_is_said_of_profit() -> None:
    assert "## Profit" not in model_card(facts())
    assert "(EUR)" not in model_card(with_earnings(currency=""))


def test_the_card_says_what_the_threshold_was_chosen_by() -> None:
    actions = {action.action: Offer(acceptance=0.1) for action in POLICY.retention.actions}
    rules = ChurnPolicy(
        alerts=Alerts(threshold_by="profit"), economics=Economics(margin=0.2, lifetime_days=90, actions=actions)
    )
    assert "finds the most churners among the validation" in section(model_card(facts()), "Threshold and alert budget")
    found = section(model_card(facts(policy=rules)), "Threshold and alert budget")
    assert "it earns most, by [economics], with the validation customers" in found
    found = section(model_card(facts(policy=rules, threshold=None)), "Threshold and alert budget")
    assert "no cut-off on the scores keeps both rules and earns anything" in found

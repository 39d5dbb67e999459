"""The model card: what a trained model is for, what it rests on and how far to trust it, in Markdown.

Nothing is judged here; how a card looks as a page is in `card_page.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from churn_assets.churn.evaluation import (
    BUDGET_TOLERANCE,
    CALIBRATION_KEYS,
    NAMES,
    Comparison,
    Evaluation,
    Verdict,
    strongest_rival,
)
from churn_assets.churn.evaluations import Evidence
from churn_assets.churn.influences import Influence
from churn_assets.churn.intervals import Estimate
from churn_assets.churn.labels import definition
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.profit import Profit
from churn_assets.churn.splits import CROSSFIT_FOLDS, FOLDS, TEST_FOLDS, VALIDATION_FOLDS, SplitDates
from churn_assets.pages.markdown import Markdown, bullets, escaped, table
from churn_assets.pages.tables import UNKNOWN, criteria_table, dates_table, figures_table, influences_table


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    name: of the registered model. importances: share of the trees' gain by feature, empty where the model cannot be
    read. is_averaged: whether half of the model is the purchase model. learns_begun: whether it has also learned from
    outcomes that were begun and not over. evidence: as the training recorded it, with the
    champion that the model was compared with. policy: the one that judged. threshold: None where no cut-off satisfied
    the policy. influences: of the features on the judged customers; none where nothing could be judged.
    """

    name: str
    run_id: str
    trained_at: datetime
    code_commit: str
    features: Sequence[str]
    importances: Mapping[str, float]
    hyperparameters: GradientBoosting
    threshold: float | None
    dates: SplitDates
    evidence: Evidence
    policy: ChurnPolicy
    evaluation: Evaluation
    influences: Sequence[Influence] = ()
    is_averaged: bool = False
    learns_begun: bool = False


def model_card(facts: CardFacts) -> str:
    """The card as Markdown: a heading, then a section for each question a reader has. Text from data is escaped."""
    sections = {
        f"# Model card: {escaped(facts.name)}": _summary(facts),
        "## Purpose": _purpose(facts.policy),
        "## Label": _label(facts.policy),
        "## Data": _data(facts),
        "## Features": _features(facts),
        "## Verdict": _verdict(facts.evaluation),
        "## Figures": _figures(facts),
        **({"## Dates": _dates(facts)} if facts.evaluation.dates else {}),
        "## Threshold and alert budget": _threshold(facts),
        **({} if facts.evaluation.profit is None else {"## Profit": _profit(facts, facts.evaluation.profit)}),
        "## Comparisons": _comparisons(facts),
        "## Calibration": _calibration(facts),
        "## Known limits": [bullets(_limits(facts))],
        "## How to roll back": _rollback(),
    }
    return "\n\n".join("\n\n".join([heading, *paragraphs]) for heading, paragraphs in sections.items()) + "\n"


_MEANS = {
    Verdict.PASS: "It met every criterion of the gate.",
    Verdict.FAIL: "It missed a criterion; the gate stays shut for it.",
    Verdict.NOT_EVALUABLE: "It could not be judged, so nobody knows how good it is; the gate stays shut for it.",
}
_LEARNED_BY = {"gbt": "Spark ML", "xgboost": "Spark ML, learned by XGBoost"}
_OTHER_HALF = (
    "the mean of the log-odds of two halves: the purchase model, which learns from everybody's orders and no label, "
    "written as trees, and "
)
_WEIGHTS = {"none": "no class weights", "balanced": "churners and others weighing the same in the fit"}


def _summary(facts: CardFacts) -> Iterator[str]:
    policy, trees, verdict = facts.policy, facts.hyperparameters, facts.evaluation.verdict
    yield f"**{verdict.value}.** {_MEANS[verdict]}"
    trees_said = (
        f"gradient-boosted trees ({_LEARNED_BY[trees.estimator]}), {trees.iterations} of depth {trees.max_depth}, step "
        f"{trees.step_size:g}, at least {trees.min_leaf_share:.2%} of the rows in a leaf, {trees.feature_share:.0%} of "
        f"the features at each split, {_WEIGHTS[policy.model.class_weights]}"
    )
    described = {
        "Model": f"{_OTHER_HALF}{trees_said}" if facts.is_averaged else trees_said,
        "Trained": f"{facts.trained_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        "MLflow run": facts.run_id,
        "Model digest": facts.evidence.model_digest,
        "Policy digest": policy.digest,
        "Code": facts.code_commit,
    }
    yield bullets(f"{name}: {value}" for name, value in described.items())
    if facts.evidence.policy_digest != policy.digest:
        yield (
            f"It was trained under another policy, {escaped(facts.evidence.policy_digest)}. What this card says of "
            "windows, label, class weights and budget is of the policy that judged."
        )


def _purpose(policy: ChurnPolicy) -> Iterator[str]:
    yield (
        "For the retention team's contact list: it ranks customers by how likely they are to leave and alerts those at "
        f"the top, within a budget of {policy.alerts.budget:.0%} of the customers."
    )
    yield "Not for:"
    unscored = f"without an order in the {policy.windows.eligibility_days} days before the as-of date nobody is scored"
    if policy.catalogue.delivered is not None:
        unscored = "who is not in the feature table is not scored"
    yield bullets(
        [
            "prices, credit, or any decision to a customer's disadvantage;",
            "judging one customer, or any courier or restaurant: its figures are of groups;",
            f"customers who never ordered or have gone already: {unscored};",
            "showing that contact helps: it says who may leave, not whom a contact would keep.",
        ]
    )


def _label(policy: ChurnPolicy) -> Iterator[str]:
    windows = policy.windows
    if policy.catalogue.delivered is not None:
        yield (
            f"A churner, as the label is delivered: **{escaped(definition(policy))}**, in the {windows.outcome_days} "
            "days from the as-of date. Neither this nor that no feature knows what came after can be seen here; it is"
        )
        yield bullets(policy.catalogue.attestations or ["vouched for by nobody"])
        return
    yield f"A churner, by the policy's definition `{policy.churn.definition}`: **{definition(policy)}**."
    every = f"always a {policy.calendar.weekday.capitalize()}"
    if policy.calendar.snapshots == "daily":
        every = f"any day; of each week the {policy.calendar.weekday.capitalize()} trains and judges"
    yield f"For an as-of date t, {every}:"
    observed = f"[t − {windows.observation_days} days, t)"
    judged = f"[t, t + {windows.outcome_days} days)"
    yield bullets(
        Markdown(line)
        for line in (
            f"Eligible are customers with an order in [t − {windows.eligibility_days} days, t).",
            f"Features see what was known before t: {observed}, and all earlier orders where a formula says so.",
            f"The label sees {judged}: 1 for a churner, 0 otherwise, unknown until those days are over.",
        )
    )


def _data(facts: CardFacts) -> Iterator[str]:
    dates, versions = facts.dates, facts.evidence.data_versions
    first, last, number = min(dates.train), max(dates.train), len(dates.train)
    trained = f"{first}" if number == 1 else f"{first} to {last}, {number} dates"
    yield f"Training as-of dates: {trained}. Test as-of date: {dates.test}."
    if facts.learns_begun:
        yield (
            "It has also learned from customers whose outcome window was not over at the test date: who had ordered by "
            "then stayed, and of the others the purchase model tells the chance that they order in the rest of it."
        )
    yield (
        f"Customers are split by a hash of their id: {len(TEST_FOLDS)} of {FOLDS} folds are for the test and never "
        f"trained on, {len(VALIDATION_FOLDS)} choose the threshold, the rest train."
    )
    if versions:
        yield table(["table", "Delta version"], ([name, str(versions[name])] for name in sorted(versions)))
    else:
        yield "No table versions are recorded."


def _features(facts: CardFacts) -> Iterator[str]:
    importances = facts.importances
    if importances:
        yield "Importance is the feature's share of the trees' gain: how much the model uses it, not what it causes."
    else:
        yield "The importances are not known, for the model could not be read."
    rows = []
    for name in sorted(facts.features, key=lambda name: -importances.get(name, 0.0)):
        feature = facts.policy.catalogue.of[name]
        importance = f"{importances[name]:.1%}" if name in importances else UNKNOWN
        rows.append([Markdown(f"`{name}`"), importance, feature.meaning, feature.formula, feature.range_text])
    yield table(["feature", "importance", "meaning", "formula", "range"], rows)
    if facts.influences:
        yield (
            "SHAP: by how much a feature moves the log-odds of leaving, up or down, on average over the judged "
            "customers, and what a larger value does to them."
        )
        yield influences_table(facts.influences)


def _verdict(evaluation: Evaluation) -> Iterator[str]:
    yield f"{evaluation.verdict.value}, because:"
    yield criteria_table(evaluation.criteria) if evaluation.criteria else bullets(evaluation.reasons)
    if evaluation.warnings:
        yield "Warnings:"
        yield bullets(evaluation.warnings)
    elif evaluation.verdict is not Verdict.NOT_EVALUABLE:
        yield "There are no warnings."


_JUDGED = {
    "holdout": "customers the model never learned from, at the test date",
    "crossfit": "all customers of the test date, each scored by a model made like this one that never saw the customer",
    "backtest": "customers of several dates, each scored by a model that learned neither from the customer nor from "
    "anything that was not known by that date",
}


def _figures(facts: CardFacts) -> Iterator[str]:
    evaluation, gate = facts.evaluation, facts.policy.gate
    if not evaluation.figures.rows:
        yield "Nothing could be judged, so there are no figures."
        return
    if evaluation.verdict is Verdict.NOT_EVALUABLE:
        yield "The verdict is NOT_EVALUABLE: these figures are no ground for any decision."
    yield (
        f"Of {_JUDGED[gate.evaluation]}. In brackets the {gate.confidence:.0%} interval; (?) where the customers are "
        f"too few for one, {UNKNOWN} where the figure has no meaning."
    )
    yield figures_table(evaluation)
    yield bullets(
        [
            "recall: share of the churners who were alerted; attainable: that of a perfect ranking with as many alerts",
            "precision: share of the alerts that were churners",
            "alert_share: share of the customers who were alerted",
            "lift: how many times as many churners there are among the alerted as among all",
            "pr_auc: precision at each churner down the ranking, averaged; 1 is perfect, chance has the churn rate",
            "roc_auc: how often a churner has a higher score than another customer; 1 is perfect, chance has 0.5",
            "brier: mean squared difference of score and outcome; 0 is perfect",
        ]
    )


def _dates(facts: CardFacts) -> Iterator[str]:
    evaluation, folds = facts.evaluation, len(CROSSFIT_FOLDS)
    again = f"; after {folds} dates they come again" if len(evaluation.dates) > folds else ""
    yield (
        f"At {facts.dates.test} this version itself was judged, on customers of its test folds. It has learned from "
        "what came before, so at the earlier dates it could not be: judged there is how it was made. From what was "
        "known by each of them a model was made with the same features, settings and choice of the threshold, and "
        f"judged on another fifth of the customers{again}."
    )
    yield dates_table(evaluation)
    yield (
        "A date holds where recall and the rankings against the rivals reach their limits by the figures as they are; "
        "it has too few churners for its intervals to decide. The verdict rests on all dates together, and on how many "
        "hold. PR-AUC and ROC-AUC are those of each date, averaged: nobody chooses between customers of two weeks."
    )


_CHOSEN_BY = {"recall": "finds the most churners among", "profit": "earns most, by [economics], with"}


def _threshold(facts: CardFacts) -> Iterator[str]:
    policy, figures = facts.policy, facts.evaluation.figures
    budget, floor = f"{policy.alerts.budget:.0%}", f"{policy.gate.precision_floor:.0%}"
    if facts.threshold is None:
        earning = " and earns anything with the validation customers" if policy.alerts.threshold_by == "profit" else ""
        yield f"**There is no threshold**, so nobody is alerted: no cut-off on the scores keeps both rules{earning}."
    else:
        yield (
            f"Threshold: **{facts.threshold:.4f}**. A customer with this score or a higher one is alerted. Of the "
            f"cut-offs that keep both rules it {_CHOSEN_BY[policy.alerts.threshold_by]} the validation customers."
        )
    yield bullets(
        [
            f"Of the test date's customers outside the test folds it alerts at most {budget}, the budget.",
            f"Of the validation customers it alerts, at least {floor} are churners.",
        ]
    )
    if figures.rows:
        yield (
            f"Of the judged customers {figures.alerts:,} of {figures.rows:,} were alerted, "
            f"{figures.alerts / figures.rows:.1%} (the gate allows {policy.alerts.budget * BUDGET_TOLERANCE:.1%}), and "
            f"{figures.caught:,} of them were churners."
        )


# Of the customers, as on the profit curve.
_SHOWN_SHARES = (5, 10, 15, 20, 25, 30, 40, 50, 75, 100)


def _profit(facts: CardFacts, profit: Profit) -> Iterator[str]:
    policy, evaluation = facts.policy, facts.evaluation
    # Of a backtest what this version's own alerts earned, whose share is not that of the models of other dates.
    figures = next((each.figures for each in evaluation.dates if each.is_own), evaluation.figures)
    judged = f"the customers judged at {facts.dates.test}" if evaluation.dates else "the judged customers"
    currency = f" ({escaped(policy.units.currency)})" if policy.units.currency else ""
    yield (
        f"What contacts would have earned among {judged}, per customer of all of them{currency}, by "
        "[economics] of the policy: who left is known, and of those who did each action keeps its share. Each is "
        "offered the action that is expected to earn most with them and is left; where none pays, none. Actions that "
        "ask for a reason are left out here."
    )
    yield table(
        ["contacted, by falling score", "profit per customer"],
        ([f"{share}%", _money(profit.curve[share])] for share in _SHOWN_SHARES),
    )
    alerted = f"{figures.alerts / figures.rows:.1%}" if figures.rows else UNKNOWN
    flattering = "chosen on these very customers, which flatters it"
    as_if = (
        f"as if everybody could be offered “{profit.empc_action}”, the action with which it is largest, were worth as "
        "much as the average, and accepted as surely as Verbraken, Verbeke and Baesens (2013) have it"
    )
    yield bullets(
        [
            f"the alerted, {alerted} of the customers: {_money(profit.alerted)}",
            f"highest: {_money(profit.best)}, where {profit.best_share:.0%} are contacted; {flattering}",
            f"EMPC: {_money(profit.empc)}, the expected maximum profit measure for customer churn, {as_if}",
        ]
    )


def _money(figure: Estimate) -> str:
    if figure.value is None:
        return UNKNOWN
    if figure.low is None or figure.high is None:
        return f"{figure.value:,.3f} (?)"
    return f"{figure.value:,.3f} ({figure.low:,.3f} to {figure.high:,.3f})"


def _comparisons(facts: CardFacts) -> Iterator[str]:
    champion, comparisons = facts.evidence.champion, facts.evaluation.comparisons
    if champion is None:
        yield "No champion served when it was judged."
    else:
        yield f"The champion when it was judged: version {escaped(champion)}."
    if not comparisons:
        yield "It was compared with nothing, because it could not be judged."
        return
    yield (
        "On the same customers. A positive difference speaks for the model, and only where its "
        f"{facts.policy.gate.confidence:.0%} interval lies above 0 is it better beyond chance. Recall is that of the "
        "model's alerts, its recall that of as many customers with the other's highest scores."
    )
    strongest = strongest_rival({other.rival: other.difference.value for other in comparisons})
    if strongest is not None:
        yield f"The strongest rival: **{NAMES[strongest]}**."
    yield table(
        ["compared with", "customers", "PR-AUC", "its PR-AUC", "difference", "recall", "its recall"],
        map(_compared, comparisons),
    )


def _compared(comparison: Comparison) -> Sequence[str]:
    return [
        NAMES[comparison.rival],
        f"{comparison.rows:,}",
        _figure(comparison.challenger_pr_auc),
        _figure(comparison.pr_auc),
        _difference(comparison.difference),
        _figure(comparison.challenger_recall),
        _figure(comparison.recall),
    ]


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _difference(difference: Estimate) -> str:
    if difference.value is None:
        return "too few customers to compare on"
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.3f} (?)"
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


_MEANT = {
    "none": "The scores are meant as probabilities: the model was trained without class weights.",
    "balanced": "The scores are not probabilities: the model was trained with balanced class weights, which make them "
    "larger than the share that leaves where churners are the fewer. Rank by them; do not multiply them with a value.",
}


def _calibration(facts: CardFacts) -> Iterator[str]:
    figures = facts.evaluation.figures
    yield _MEANT[facts.policy.model.class_weights]
    if figures.brier.value is None or figures.prevalence is None or not 0 < figures.churners < figures.rows:
        yield "How near they come to what followed could not be measured: that takes churners, others and their scores."
        return
    baseline = figures.prevalence * (1 - figures.prevalence)
    yield (
        f"Brier score {_brier(figures.brier, facts.policy.gate.confidence)}; 0 is perfect. To give everybody the churn "
        f"rate of the judged customers, {figures.prevalence:.1%}, has {baseline:.4f}: "
        f"{_compared_brier(figures.brier, baseline)}."
    )
    yield (
        "The Brier score rewards a good ranking too; alone it does not show that of the customers with a score of 30% "
        "about 30% leave."
    )
    told = [each for each in facts.evaluation.criteria if each.key in CALIBRATION_KEYS]
    if told:
        yield "1 is perfect for each of these; a slope above 1 says that the scores differ less than the customers do:"
        yield bullets(f"{each.what}: {each.observed} ({each.interval or 'no interval'})" for each in told)


def _brier(brier: Estimate, confidence: float) -> str:
    if brier.low is None or brier.high is None:
        return f"{brier.value:.4f} (too few customers for an interval)"
    return f"{brier.value:.4f}, {confidence:.0%} interval {brier.low:.4f} to {brier.high:.4f}"


def _compared_brier(brier: Estimate, baseline: float) -> str:
    if brier.low is None or brier.high is None:
        return "which of the two is better cannot be told"
    if brier.high < baseline:
        return "the model's scores are better"
    if brier.low > baseline:
        return "the model's scores are worse, and not to be read as probabilities"
    return "the model's scores are not shown to be better"


def _limits(facts: CardFacts) -> Iterator[str]:
    days = facts.policy.windows.outcome_days
    if facts.evaluation.dates:
        yield (
            "The intervals say how far the choice of customers moves a figure, not how far the week does; that, the "
            "figures of the dates say."
        )
    else:
        yield (
            "A model is judged at one test date. The intervals say how far the choice of customers moves a figure, not "
            "how far the week does."
        )
    yield (
        f"A label takes {days} days to be known, so the test date lies at least {days} days before the end of the "
        "orders it was made from, and the figures know nothing of what changed since."
    )
    if not facts.dates.is_out_of_time:
        yield "It was trained and judged at the same date: on other customers, but not on a later week."
    yield (
        "Drift: the figures are of customers like those of the test date. When customers or deliveries change they no "
        "longer hold; then train and judge again."
    )
    too_small = [f"{part.slice}: {part.part}" for part in facts.evaluation.slices if not part.is_judgeable]
    if too_small:
        yield f"Too few churners to judge these parts alone: {', '.join(too_small)}."
    yield (
        "The threshold is a score, not a number of customers: another week's customers may give more or fewer alerts "
        "than the budget."
    )
    if "segment_index" in facts.features:
        yield "A segment that first appears after training has a number the model never saw."
    yield (
        "Where a formula gives a value to customers without reviews, deliveries or a segment, the model cannot tell "
        "them from customers who really have that value."
    )
    if facts.policy.gate.evaluation == "crossfit":
        yield (
            "Cross-fitted figures pool five models made alike, each with its own threshold, of which this is one; a "
            "champion is compared on this one's test customers alone."
        )
    if facts.evaluation.dates:
        yield (
            "A champion is compared at this version's own date alone, and on its test customers: at earlier dates it "
            "knows what came after, and of other customers their outcomes. What the scores mean as probabilities is "
            "learned there too, from this version's own scores."
        )


_ROLLBACK_YAML = """\
```yaml
ops:
  roll_back:
    config:
      approver: "who decides"
      reason: "why"
      # Without it, the version that served before the present one:
      # version: 1
```"""
_ROLLBACK_COMMAND = """\
```
dagster job execute -m churn_assets.definitions -j rollback_production_model -c rollback.yaml
```"""


def _rollback() -> Iterator[str]:
    yield "What serves, and why: `churn-assets history`."
    yield "To put an earlier version back, write `rollback.yaml`:"
    yield _ROLLBACK_YAML
    yield "and run the job:"
    yield _ROLLBACK_COMMAND

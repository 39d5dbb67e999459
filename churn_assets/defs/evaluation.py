"""Stage 6: the judgement of the model on customers it never saw, recorded where promotion reads it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from operator import itemgetter
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa

from churn_assets.churn import judged, models
from churn_assets.churn.errors import ChangedModelError, ChurnError, UnfittablePurchaseModelError
from churn_assets.churn.evaluation import (
    CALIBRATION_KEYS,
    CHAMPION,
    NAMES,
    Evaluation,
    Scored,
    Verdict,
    judge,
    strongest_rival,
)
from churn_assets.churn.evaluations import (
    EVALUATION_SCHEMA,
    Evidence,
    RecordedEvaluation,
    evaluation_row,
    passed_by,
    recorded_evaluation,
    recorded_single_features,
)
from churn_assets.churn.influences import Influence, influences
from churn_assets.churn.ledger import Action
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.promotion import judged_on_older_data, refusals
from churn_assets.churn.purchase_histories import histories_of
from churn_assets.churn.purchase_model import PurchaseModel
from churn_assets.churn.purchase_prior import is_averaged, prior_of
from churn_assets.churn.ranking import precision_recall_curve
from churn_assets.churn.splits import SplitDates, backtest_dates
from churn_assets.churn.trees import BoostedTrees, model_digest
from churn_assets.defs.decisions import POLICY, reconcile, record_refusal, subject_of
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.origins import origin_of
from churn_assets.defs.results import OWNERS, as_metadata, as_numbers, bullets, check_result, table_result
from churn_assets.defs.splits import TEST, stored_labelled_dates, stored_split_outcomes
from churn_assets.defs.training import latest_training_run, purchase_models
from churn_assets.pages import markdown
from churn_assets.pages.card_page import as_html
from churn_assets.pages.model_card import CardFacts, model_card
from churn_assets.pages.pictures import (
    Picture,
    calibration,
    drawn,
    feature_importances,
    figures_over_dates,
    precision_recall,
    profit_curve,
    score_distribution,
    shap_sizes,
)
from churn_assets.pages.tables import criteria_table, dates_table, figures_table, influences_table
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource, decision_now
from churn_assets.resources.tracking import PRODUCTION, TrackingResource
from churn_assets.resources.trained_models import IMPORTANCES_FILE, MODEL_ARTIFACT, TrainedModel, calibration_tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities.model_registry import ModelVersion

GROUP = "evaluation"
EVALUATIONS = "recall_churn"


@dg.asset(
    key=EVALUATIONS,
    deps=[MODEL_ARTIFACT, TEST.split("/"), BASELINE.split("/")],
    group_name=GROUP,
    kinds={"pyspark", "delta", "mlflow"},
    owners=OWNERS,
    code_version="4",
)
def recall_churn(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    promotions: PromotionsResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """The model as logged, judged on customers it never saw; a row per evaluation, never overwritten.

    With gate.evaluation = "holdout" these are the test customers; with "crossfit" all, at the cost of four more fits;
    with "backtest" those of several dates, at the cost of a fit for each earlier one. A verdict other than PASS is a
    refusal in the ledger too.
    """
    reconcile(context, promotions)
    trained = tracking.trained_model(latest_training_run(context.instance))
    champion = tracking.version_under(PRODUCTION)
    scored, model, obstacles = _judged(context, lakehouse, tracking, policy, trained=trained, champion=champion)
    evaluation = judge(scored, policy, has_threshold=trained.threshold is not None, obstacles=obstacles)
    if evaluation.verdict is Verdict.PASS and policy.promotion.mode == "auto":
        # It is promoted next, once it has been loaded and scored with.
        tracking.probe.prepare()
    evidence = trained.evidence_under(policy.digest, None if champion is None else str(champion.version))
    row = evaluation_row(
        evaluation,
        evidence,
        policy,
        run_id=trained.run_id,
        threshold=trained.threshold,
        evaluated_at=datetime.now(UTC),
    )
    recorded = pa.Table.from_pylist([row], EVALUATION_SCHEMA)
    commit = lakehouse.write(EVALUATIONS, lakehouse.frame(recorded), mode="append")
    strongest = strongest_rival({other.rival: other.difference.value for other in evaluation.comparisons})
    pictures = _pictures(scored, evaluation, policy, trained.threshold)
    found = _influences(model, scored, policy)
    if found:
        pictures["shap.png"] = drawn(shap_sizes(found, "What moves the scores"))
    card, page = _card(tracking, trained, evidence, policy, evaluation, pictures, found)
    earned = {} if evaluation.profit is None else evaluation.profit.flat()
    shown = {name: value for name, value in (evaluation.figures.flat() | earned).items() if value is not None}
    tracking.log_evaluation(
        trained.run_id,
        {
            "recall_churn": evaluation.figures.recall.value,
            **shown,
            "rule_pr_auc": row["rule_pr_auc"],
            **{each.key: each.value for each in evaluation.criteria if each.key in CALIBRATION_KEYS},
            **{f"shap_{each.feature}": each.mean for each in found},
        },
        {
            "verdict": evaluation.verdict.value,
            "verdict_reasons": "\n".join(evaluation.reasons),
            "strongest_rival": strongest or "undefined",
            **calibration_tag(evaluation.calibration),
        },
        judged_on=(TEST, trained.evidence.data_versions[TEST]),
        description=_described(evaluation, trained),
        pictures=pictures,
        texts={"model_card.md": card, "model_card.html": page, "shap.json": json.dumps(list(map(asdict, found)))},
    )
    if evaluation.verdict is not Verdict.PASS:
        judgement = RecordedEvaluation(evaluation.verdict, evaluation.reasons, evidence)
        about, run_id = subject_of(trained, None, judgement), context.run.run_id
        refused = decision_now(Action.REFUSED, about, evidence.champion, decided_by=POLICY, dagster_run_id=run_id)
        record_refusal(context, promotions, refused, evaluation.reasons)
    return table_result(
        commit,
        {
            **tracking.link(trained.run_id),
            "verdict": evaluation.verdict.value,
            **_reasons(evaluation),
            "warnings": bullets(evaluation.warnings or ["none"]),
            **{name.removesuffix(".png"): as_metadata(each) for name, each in pictures.items()},
            "model_card": dg.MetadataValue.md(card),
            "figures": dg.MetadataValue.md(figures_table(evaluation)),
            **({"dates": dg.MetadataValue.md(dates_table(evaluation))} if evaluation.dates else {}),
            "influences": dg.MetadataValue.md(influences_table(found)) if found else "nothing could be judged",
            **shown,
            "threshold": trained.threshold if trained.threshold is not None else "none",
            "alert_budget": policy.alerts.budget,
            "rule_pr_auc": row["rule_pr_auc"] if row["rule_pr_auc"] is not None else "undefined",
            "strongest_rival": strongest or "undefined",
            "champion": str(champion.version) if champion is not None else "none yet",
            "test_inputs": dict(trained.evidence.data_versions),
        },
    )


def _described(evaluation: Evaluation, trained: TrainedModel) -> str:
    why = criteria_table(evaluation.criteria) if evaluation.criteria else markdown.bullets(evaluation.reasons)
    dates = len(evaluation.dates)
    earlier = f"; how it was made also at {dates - 1} earlier dates, on models like it" if dates else ""
    judged_at = (
        f"**{evaluation.verdict.value}**, judged on customers of {trained.dates.test} that it never saw{earlier}."
    )
    return f"{judged_at}\n\n{why}\n\nIts model card is the artifact `model_card.html` of the source run."


def _reasons(evaluation: Evaluation) -> dict[str, dg.MetadataValue]:
    """Why the verdict is what it is; what could not be decided has no criteria."""
    if evaluation.criteria:
        return {"criteria": dg.MetadataValue.md(criteria_table(evaluation.criteria)), **as_numbers(evaluation.criteria)}
    return {"reasons": bullets(evaluation.reasons)}


def _judged(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: ChurnPolicy,
    *,
    trained: TrainedModel,
    champion: "ModelVersion | None",
) -> tuple[Scored | None, BoostedTrees | None, list[str]]:
    """The scored customers and the model, None where they cannot be had, and every obstacle to a fair judgement."""
    obstacles = _broken_splits(lakehouse, trained, policy)
    origin = origin_of(lakehouse, trained.evidence.data_versions[PANEL], policy)
    try:
        if policy.gate.evaluation == "crossfit":
            context.log.info("Cross-fitting: four more fits, each as long as that of the training")
        dates = _dates(lakehouse, policy, trained)
        purchases = purchase_models(context, origin, [each.test for each in dates[1:]])
        purchases[trained.dates.test] = trained.purchases
        model = tracking.load_model(trained.uri)
        _require_same_model(model, trained)
        rows = _challenger_rows(
            context, lakehouse, tracking, policy, trained=trained, model=model, dates=dates, purchases=purchases
        )
    except Exception as broken:  # Recorded as NOT_EVALUABLE with its cause, which opens nothing.
        context.log.exception("The challenger cannot be scored")
        return None, None, [*obstacles, f"the model cannot be scored: {_in_short(broken)}"]
    try:
        rows = _with_rival(rows, purchases, policy) if policy.catalogue.has_orders else rows
    except UnfittablePurchaseModelError as unfittable:
        obstacles.append(f"the purchase model, a rival, cannot be asked: {'; '.join(unfittable.problems)}")
        rows = rows.assign(no_purchase=np.nan)
    champion_scores = None
    if champion is not None:
        try:
            champion_scores = _champion_scores(lakehouse, tracking, trained, champion)
            tested = tracking.trained_model_of(champion).dates.test
            obstacles += judged_on_older_data(trained.dates.test, tested, str(champion.version))
        except Exception as broken:  # As above.
            context.log.exception("The champion cannot be scored")
            obstacles.append(f"the champion, version {champion.version}, cannot be scored: {_in_short(broken)}")
    found = judged.scored(rows, trained.features, origin.segments(), champion_scores, policy.catalogue, policy)
    return found, model, obstacles


def _in_short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    next_step = f"; next step: {error.next_step}" if isinstance(error, ChurnError) and error.next_step else ""
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}{next_step}"


def _broken_splits(lakehouse: LakehouseResource, trained: TrainedModel, policy: ChurnPolicy) -> list[str]:
    """What is wrong with the very versions of the splits that the model was trained beside, whoever wrote them."""
    outcomes = stored_split_outcomes(lakehouse, trained.evidence.data_versions, policy)
    broken = [outcome for outcome in outcomes if not outcome.is_passed and not outcome.is_warning]
    return [f"the splits break {outcome.rule}: {outcome.observed}; allowed {outcome.allowed}" for outcome in broken]


def _dates(lakehouse: LakehouseResource, policy: ChurnPolicy, trained: TrainedModel) -> list[SplitDates]:
    """The dates to judge at, the model's own first; that one alone unless the policy asks for a backtest.

    Raises ChangedModelError.
    """
    if policy.gate.evaluation != "backtest":
        return [trained.dates]
    _require_same_policy(trained, policy)
    found = backtest_dates(stored_labelled_dates(lakehouse, trained.evidence.data_versions[PANEL]), policy)
    if found and found[0] != trained.dates:
        raise ChangedModelError(
            f"the model is tested at {trained.dates.test}, and the backtest's latest date is {found[0].test}",
            next_step=f"materialize {MODEL_ARTIFACT} again",
        )
    # Of too few dates the verdict says so.
    return found or [trained.dates]


def _challenger_rows(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: ChurnPolicy,
    *,
    trained: TrainedModel,
    model: BoostedTrees,
    dates: Sequence[SplitDates],
    purchases: Mapping[date, PurchaseModel | None],
) -> pd.DataFrame:
    """The judged customers with the challenger's scores, the rule's, and what the purchase model asks for.

    dates: to judge at, the model's own first. purchases: the purchase model of each.
    """
    versions = trained.evidence.data_versions
    rivals = origin_of(lakehouse, versions[PANEL], policy).rivals()
    rows = judged.held_out_scores(model, lakehouse.read(TEST, versions[TEST]), trained.threshold)
    if policy.gate.evaluation == "crossfit":
        _require_same_policy(trained, policy)
        panel, hyperparameters = lakehouse.read(PANEL, versions[PANEL]), trained.hyperparameters
        prior = prior_of(trained.purchases, policy.windows.outcome_days)
        rows = judged.crossfit_scores(
            rows, panel, hyperparameters, policy, prior=prior, shared_folder=tracking.shared_folder, spend=rivals
        )
    if policy.gate.evaluation == "backtest":
        rows = judged.backtest_scores(
            rows,
            lakehouse.read(PANEL, versions[PANEL]),
            dates,
            trained.hyperparameters,
            policy,
            prior_at=lambda day: prior_of(purchases[day], policy.windows.outcome_days),
            shared_folder=tracking.shared_folder,
            told=context.log.info,
            spend=rivals,
        )
    return (rows if rivals is None else rows.join(rivals, ["customer_id", "as_of"], "left")).toPandas()


def _with_rival(
    rows: pd.DataFrame, purchases: Mapping[date, PurchaseModel | None], policy: ChurnPolicy
) -> pd.DataFrame:
    """`rows` with `no_purchase`, the scores of the purchase model of their date.

    Raises UnfittablePurchaseModelError.
    """
    days, dates = policy.windows.outcome_days, rows["as_of"].to_numpy(dtype="datetime64[D]")
    no_purchase = np.full(len(rows), np.nan)
    for day, model in purchases.items():
        if model is None:
            raise UnfittablePurchaseModelError(
                "A rival is missing.",
                [f"none was fitted at {day}; why not, the log says"],
                next_step=f"materialize {MODEL_ARTIFACT} again, with customers who ordered more than once",
            )
        is_of_day = dates == np.datetime64(day)
        no_purchase[is_of_day] = model.no_purchase(histories_of(rows[is_of_day]), days)
    return rows.assign(no_purchase=no_purchase)


def _champion_scores(
    lakehouse: LakehouseResource, tracking: TrackingResource, trained: TrainedModel, champion: "ModelVersion"
) -> pd.Series:
    """The champion's scores by customer, on the test customers, whom it never learned from either."""
    served = tracking.trained_model_of(champion)
    # Of the version: its run may be gone.
    model = tracking.load_model(tracking.version_uri(str(champion.version)))
    _require_same_model(model, served)
    test = lakehouse.read(TEST, trained.evidence.data_versions[TEST])
    scores = models.with_churn_probability(model, test).select("customer_id", "churn_probability").toPandas()
    return scores.set_index("customer_id")["churn_probability"]


def _require_same_model(model: BoostedTrees, trained: TrainedModel) -> None:
    """Raises ChangedModelError if the loaded artifact, or its threshold, is not the one its run recorded."""
    if model_digest(model, trained.threshold) != trained.evidence.model_digest:
        raise ChangedModelError(
            f"the model or the threshold of run {trained.run_id} is not the one that was trained",
            next_step=f"materialize {MODEL_ARTIFACT} again",
        )


def _require_same_policy(trained: TrainedModel, policy: ChurnPolicy) -> None:
    """Raises ChangedModelError if the model was trained under another policy: other fits repeat its training."""
    if trained.evidence.policy_digest != policy.digest:
        raise ChangedModelError(
            f"other fits repeat the training, which was under policy {trained.evidence.policy_digest}, not "
            f"{policy.digest}",
            next_step=f"materialize {MODEL_ARTIFACT} again",
        )


def _pictures(
    scored: Scored | None, evaluation: Evaluation, policy: ChurnPolicy, threshold: float | None
) -> dict[str, Picture]:
    """The evaluation's pictures by the names of their files."""
    figures = {"precision_recall.png": _test_curves(scored, evaluation, policy)}
    if scored is not None and evaluation.verdict is not Verdict.NOT_EVALUABLE:
        figures["score_distribution.png"] = score_distribution(
            scored.scores,
            scored.labels,
            # Each date of a backtest has one of its own.
            None if evaluation.dates else threshold,
            title="Scores of those who stayed and those who left",
        )
        figures["calibration.png"] = calibration(
            scored.scores, scored.labels, title="Probabilities and outcomes", confidence=policy.gate.confidence
        )
    if evaluation.dates:
        figures["figures_over_dates.png"] = figures_over_dates(evaluation.dates)
    if evaluation.profit is not None:
        own = next((each.figures for each in evaluation.dates if each.is_own), evaluation.figures)
        figures["profit_curve.png"] = profit_curve(
            evaluation.profit,
            alerted=own.alert_share.value or 0.0,
            budget=policy.alerts.budget,
            confidence=policy.gate.confidence,
            currency=policy.units.currency,
        )
    return {name: drawn(figure) for name, figure in figures.items()}


def _influences(model: BoostedTrees | None, scored: Scored | None, policy: ChurnPolicy) -> list[Influence]:
    """Of the features of the very model that is registered, with cross-fitting too, on the judged customers."""
    if scored is None or model is None:
        return []
    values = np.column_stack([scored.features[name] for name in model.features])
    return influences(model, values, policy.catalogue)


def _card(
    tracking: TrackingResource,
    trained: TrainedModel,
    evidence: Evidence,
    policy: ChurnPolicy,
    evaluation: Evaluation,
    pictures: Mapping[str, Picture],
    found: Sequence[Influence],
) -> tuple[str, str]:
    """The model card as Markdown and as a page with the pictures."""
    importances = tracking.document(trained.run_id, IMPORTANCES_FILE)
    facts = CardFacts(
        name=tracking.registered_model,
        run_id=trained.run_id,
        trained_at=trained.trained_at,
        code_commit=trained.code_commit,
        features=trained.features,
        importances=importances,
        hyperparameters=trained.hyperparameters,
        threshold=trained.threshold,
        dates=trained.dates,
        # The policy of the training, so that the card can say where another one judged.
        evidence=replace(evidence, policy_digest=trained.evidence.policy_digest),
        policy=policy,
        evaluation=evaluation,
        influences=found,
        is_averaged=is_averaged(trained.features, trained.purchases),
        learns_begun=bool(trained.begun),
    )
    card = model_card(facts)
    importances_chart = drawn(feature_importances(importances, "What the trees use"))
    return card, as_html(card, {picture.title: picture for picture in (*pictures.values(), importances_chart)})


def _test_curves(scored: Scored | None, evaluation: Evaluation, policy: ChurnPolicy) -> "Figure":
    figures, curves = evaluation.figures, {}
    if scored is not None and evaluation.verdict is not Verdict.NOT_EVALUABLE:
        shown = {"model": scored.scores, **scored.rivals}
        curves = {name: precision_recall_curve(scored.within_dates(of), scored.labels) for name, of in shown.items()}
        if scored.champion is not None:
            is_judged = scored.is_unseen
            curves[CHAMPION] = precision_recall_curve(scored.champion[is_judged], scored.labels[is_judged])
    recall, precision = figures.recall.value, figures.precision.value
    limits = [("least precision", policy.gate.precision_floor)]
    if figures.prevalence:
        limits.append(("least recall", policy.least_recall(figures.prevalence)))
    return precision_recall(
        {NAMES.get(name, "the model"): curve for name, curve in curves.items()},
        title=f"{evaluation.verdict.value}: {figures.rows:,} customers whom the model never saw{_when(evaluation)}",
        chosen=None if recall is None or precision is None else (recall, precision),
        limits=limits,
    )


def _when(evaluation: Evaluation) -> str:
    days = sorted(each.as_of for each in evaluation.dates)
    return f",\n{len(days)} dates from {days[0]} to {days[-1]}" if days else ""


def standing(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: ChurnPolicy, trained: TrainedModel
) -> tuple[list[str], RecordedEvaluation | None]:
    """Every reason against this model as policy and champion are now, and the evaluation recorded of it.

    The gate, registration and promotion all ask this, so that none is open where another is shut.
    """
    rows = lakehouse.records(EVALUATIONS) if lakehouse.has(EVALUATIONS) else []
    recorded = recorded_evaluation(rows, trained.evidence.model_digest, trained.run_id)
    champion = tracking.version_under(PRODUCTION)
    if champion is not None and champion.run_id == trained.run_id:
        # It serves already; what it was compared with before that still stands.
        compared = recorded.evidence.champion if recorded else None
    else:
        compared = None if champion is None else str(champion.version)
    return refusals(trained.evidence_under(policy.digest, compared), recorded), recorded


@dg.asset_check(
    asset=EVALUATIONS,
    name="recall_gate",
    blocking=True,
    description="A PASS is recorded for just the latest trained model, its data and this policy; nothing else opens.",
)
def recall_gate(
    context: dg.AssetCheckExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.AssetCheckResult:
    trained = tracking.trained_model(latest_training_run(context.instance))
    against, recorded = standing(lakehouse, tracking, policy, trained)
    criteria = () if recorded is None else tuple(recorded.criteria)
    observed = "; ".join(against) or passed_by(criteria, policy.gate.confidence)
    return check_result(Outcome("recall_gate", not against, observed, "a recorded PASS", figures=criteria))


@dg.asset_check(
    asset=EVALUATIONS,
    name="model_beats_single_features",
    description="Neither recency nor the count of orders alone ranks as well as the model of the latest evaluation.",
)
def model_beats_single_features(lakehouse: LakehouseResource) -> dg.AssetCheckResult:
    row = max(lakehouse.records(EVALUATIONS), key=itemgetter("evaluated_at"), default=None)
    warnings = ["no evaluation is recorded"] if row is None else list(row["warnings"])
    observed = "; ".join(warnings) or "the model ranks better than each"
    gains = () if row is None else recorded_single_features(row)
    allowed = "a gain beyond chance"
    return check_result(
        Outcome("model_beats_single_features", not warnings, observed, allowed, is_warning=True, figures=gains)
    )

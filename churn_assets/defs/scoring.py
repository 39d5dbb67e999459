"""Stage 8: the scores of each week's eligible customers by the version in production, and who could not be scored."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime

import dagster as dg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.arrivals import stale_orders
from churn_assets.churn.errors import UnscorableWeekError
from churn_assets.churn.labels import known_churn_rate
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.scoring import (
    SCORE_RULES,
    feature_problems,
    of_dates,
    scorable,
    score_outcomes,
    stamped,
    unscorable,
    with_risk_tier,
)
from churn_assets.defs.audits import audited, remembered_outcomes
from churn_assets.defs.decisions import PRODUCTION_MODEL
from churn_assets.defs.features import PANEL, SNAPSHOTS, add_snapshots
from churn_assets.defs.lakehouse import looked_at
from churn_assets.defs.origins import origin_of
from churn_assets.defs.results import ColumnNote, check_result, same_columns, table_result, table_spec
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.sources import SourceCatalog
from churn_assets.resources.tracking import PRODUCTION, TrackingResource

GROUP = "scoring"
# What is watched of the scores is brought up to date with them.
MONITORING_GROUP = "monitoring"
SCORING = "churn_scoring"
SCORES = "food_delivery/churn_scores"
UNSCORED = "food_delivery/unscored_customers"
# Some hours after the feature refresh.
SCORING_HOUR = 6
RULE_MEANINGS = {
    "values": "Every score has all its values, a probability from 0 to 1 and a tier of the policy.",
    "coverage": "Each eligible customer of a week is scored or unscored, exactly once.",
}
NOTES = {
    **same_columns(["customer_id", "as_of"], PANEL, {"customer_id": "identifies the customer", "as_of": "the week"}),
    "churn_probability": ColumnNote("how likely the customer leaves within the outcome window, 0 to 1"),
    "is_alert": ColumnNote("whether the probability reaches the version's own threshold"),
    "risk_tier": ColumnNote("high, medium or low by [scoring] of the policy"),
    "reason": ColumnNote("every feature no model may score, with its value"),
    "model_version": ColumnNote("the version in production when the week was scored"),
    "features_version": ColumnNote("the Delta version of the features"),
    "scored_at": ColumnNote("when, UTC"),
}


@dg.multi_asset(
    name="churn_scores",
    specs=[
        table_spec(
            SCORES,
            "Churn probability, alert and risk tier of each eligible customer and week, by the version in production.",
            group=GROUP,
            deps=[PANEL, PRODUCTION_MODEL],
        ),
        table_spec(
            UNSCORED,
            "The eligible customers of each week whose features no model may score, with the reason.",
            group=GROUP,
            deps=[PANEL, PRODUCTION_MODEL],
        ),
    ],
    partitions_def=SNAPSHOTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def churn_scores(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    sources: dg.ResourceParam[SourceCatalog],
    policy: dg.ResourceParam[ChurnPolicy],
) -> Iterator[dg.MaterializeResult]:
    """Scores the weeks of the partition keys, in place of what was scored of these weeks before."""
    inputs = lakehouse.pin(PANEL)
    known = {str(day) for day in lakehouse.dates(PANEL, "as_of", inputs[PANEL])}
    version = tracking.version_under(PRODUCTION)
    against = [f"{key}: the panel has no features of this date" for key in context.partition_keys if key not in known]
    if version is None:
        against.append(f"no version of {tracking.registered_model} is under alias {PRODUCTION}")
    if against or version is None:
        raise UnscorableWeekError(
            "The weeks cannot be scored; their earlier scores stay.",
            against,
            next_step=f"materialize {PANEL} up to these dates, and promote a version",
        )
    lost = tracking.lost_run(version)
    if lost is not None:
        context.log.warning(lost)
    dates = [date.fromisoformat(key) for key in context.partition_keys]
    require_fresh(lakehouse, inputs[PANEL], dates, looked_at(sources, policy), policy)
    # Before the model: MLflow loads it into a session that is there, and in a process of its own there is none yet.
    panel = lakehouse.read(PANEL, inputs[PANEL])
    scorer = tracking.load_scorer(version)
    against = feature_problems(panel.schema, scorer.features, policy.catalogue)
    if against:
        raise UnscorableWeekError(
            f"The features of {PANEL} are not those of version {version.version}; earlier scores stay.",
            against,
            next_step=f"materialize {PANEL}, or train and promote a version on these features",
        )
    eligible = of_dates(panel, dates)
    scored = scorer.score(scorable(eligible, scorer.features, policy.catalogue))
    unscored = unscorable(eligible, scorer.features, policy.catalogue)

    def audit(staged: Mapping[str, DataFrame]) -> dict[str, object]:
        return audited(score_outcomes(staged[SCORES], staged[UNSCORED], eligible), SCORES, policy)

    number, scored_at = str(version.version), datetime.now(UTC)
    churn_rate = known_churn_rate(lakehouse.counts(PANEL, ["label"], inputs[PANEL]))
    tables = {UNSCORED: unscored, SCORES: with_risk_tier(scored, policy.scoring, churn_rate)}
    commits = lakehouse.replace_dates(
        {
            table: stamped(rows, model_version=number, features_version=inputs[PANEL], scored_at=scored_at)
            for table, rows in tables.items()
        },
        "as_of",
        dates,
        audit=audit,
        metadata={"inputs": inputs},
    )
    for commit in commits:
        metadata = {"inputs": inputs, "weeks": len(dates), "model_version": number}
        yield table_result(commit, metadata | ({} if lost is None else {"warning": lost}), NOTES)


def require_fresh(
    lakehouse: LakehouseResource, panel_version: int, dates: Sequence[date], now: datetime, policy: ChurnPolicy
) -> None:
    """Raises UnscorableWeekError for the latest week, the one to act on, if its orders are stale. Needs no JVM.

    Earlier weeks can be scored again at any time.
    """
    latest = max(lakehouse.dates(PANEL, "as_of", panel_version))
    if latest not in dates:
        return
    known = origin_of(lakehouse, panel_version, policy).complete_until(latest)
    stale = None if known is None else stale_orders(known, now, policy)
    if stale is not None:
        raise UnscorableWeekError(
            f"The week of {latest} is not scored, because its orders are stale; earlier scores stay.",
            [stale],
            next_step="land newer orders, and look at the check orders_are_fresh; if the data are historical, set "
            "freshness.today in policy.toml to the day to look at them from",
        )


@dg.multi_asset_check(
    name="churn_scores__contract",
    specs=[
        dg.AssetCheckSpec(rule, asset=SCORES.split("/"), blocking=True, description=RULE_MEANINGS[rule])
        for rule in SCORE_RULES
    ],
)
def churn_scores_contract(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """The rules of the weeks scored on the features that the latest scores rest on."""
    if not lakehouse.has(SCORES):
        for rule in SCORE_RULES:
            yield check_result(Outcome(rule, True, "no week has been scored yet", RULE_MEANINGS[rule]), SCORES)
        return
    versions = lakehouse.pin(SCORES, UNSCORED)
    stamps = {
        stamp
        for table, of_table in versions.items()
        for stamp in lakehouse.counts(table, ["scored_at", "features_version", "as_of"], of_table)
        if None not in stamp
    }
    _, features, _ = max(stamps, default=(None, None, None))
    weeks = sorted({week for _, features_version, week in stamps if features_version == features})
    # An audit saw the weeks it let through, and those scored before on the same features not again.
    seen = lakehouse.commit_metadata(SCORES, versions[SCORES]).get("dates")
    outcomes = remembered_outcomes(lakehouse, versions, policy) if seen == [str(week) for week in weeks] else []
    if not outcomes:
        scores, unscored = (
            lakehouse.read(table, of_table).where(F.col("features_version") == features)
            for table, of_table in versions.items()
        )
        outcomes = score_outcomes(scores, unscored, of_dates(lakehouse.read(PANEL, features), weeks))
    for outcome in outcomes:
        yield check_result(outcome, SCORES)


def week_to_score(lakehouse: LakehouseResource, tracking: TrackingResource) -> date | None:
    """The latest snapshot of the panel; None without one, or while no version is in production."""
    if tracking.version_under(PRODUCTION) is None or not lakehouse.has(PANEL):
        return None
    return max(lakehouse.dates(PANEL, "as_of"), default=None)


def scoring_schedule(policy: ChurnPolicy) -> dg.ScheduleDefinition:
    """Scores the latest snapshot, some hours after the feature refresh."""

    @dg.schedule(
        name="scheduled_scoring",
        job_name=SCORING,
        cron_schedule=policy.calendar.cron(SCORING_HOUR, policy.as_of_dates.snapshots),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Scores the latest snapshot, {policy.as_of_dates.snapshots} at 06:00 UTC.",
    )
    def scheduled_scoring(
        context: dg.ScheduleEvaluationContext, lakehouse: LakehouseResource
    ) -> dg.RunRequest | dg.SkipReason:
        dates = lakehouse.dates(PANEL, "as_of") if lakehouse.has(PANEL) else []
        if not dates:
            return dg.SkipReason(f"{PANEL} has no snapshot yet.")
        # Whoever wrote the panel.
        add_snapshots(context.instance, dates)
        return dg.RunRequest(partition_key=str(dates[-1]))

    return scheduled_scoring

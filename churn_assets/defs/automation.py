"""What runs by itself: retraining when the features' content changes, refreshing them by the calendar or on new orders.

Ticks read Delta logs and Dagster's history only; none starts a JVM.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from churn_assets.churn import retraining
from churn_assets.churn.contract import PANEL_CHECKS
from churn_assets.churn.ledger import Decision, serving
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.monitoring import DECISIONS
from churn_assets.delta.tables import MissingFileError, MissingTableError
from churn_assets.resources.abandoned_runs import end_vanished_runs
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import LEDGER
from churn_assets.resources.sources import SourceCatalog
from churn_assets.resources.trained_models import MODEL_ARTIFACT

LIFECYCLE, TRAINING, REFRESH = "churn_lifecycle", "churn_training", "feature_refresh"
# After the as-of date has begun (00:00 UTC), with some hours for late orders to arrive.
REFRESH_HOUR = 3
TICK_SECONDS = 30
GOING_ON = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
# A run of another machine that began longer ago than this and never ended was killed with it; it holds nothing up.
LOST_AFTER = timedelta(hours=12)


@dataclass(frozen=True)
class Seen:
    """Where a sensor stands: the version it last dealt with, and when it last asked for a run (ISO 8601, UTC)."""

    version: int | None = None
    requested_at: str | None = None

    @staticmethod
    def of(cursor: str | None) -> "Seen":
        return Seen(**json.loads(cursor)) if cursor else Seen()

    def cursor(self) -> str:
        return json.dumps(asdict(self))


def retraining_sensor(status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """As the deployment starts it; a person switches it in Dagster's UI."""
    return dg.sensor(
        name="retrain_on_feature_refresh",
        job_name=TRAINING,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=status,
        description="Trains once when the rows of ml_churn_features change, whoever wrote them; never two at a time.",
    )(_retrain)


def _retrain(
    context: dg.SensorEvaluationContext, lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.RunRequest | dg.SkipReason:
    seen, version = Seen.of(context.cursor), lakehouse.version(PANEL)
    if version is None:
        return dg.SkipReason(f"There is no {PANEL} yet.")
    if version == seen.version:
        return dg.SkipReason(f"Version {version} of {PANEL} has been dealt with.")
    trained = _trained_version(context.instance)
    # The later of the two: a run may have been started by a tick that died before it could note so.
    known = max((number for number in (seen.version, trained) if number is not None), default=None)
    if version == trained:
        context.update_cursor(Seen(version, seen.requested_at).cursor())
        return dg.SkipReason(f"Version {version} of {PANEL} has been trained on.")
    if known is not None and _is_unchanged(lakehouse, known, version):
        context.update_cursor(Seen(version, seen.requested_at).cursor())
        return dg.SkipReason(f"Version {version} of {PANEL} holds the same rows as version {known}.")
    # What follows may pass: the cursor stays, and a later tick looks again.
    if policy.automation.retrain_on == "decision":
        against = _decided_against(lakehouse)
        if against is not None:
            return dg.SkipReason(f"Version {version} of {PANEL} waits for a decision to retrain: {against}.")
    broken = _failed_checks(context.instance, lakehouse.committed_at(PANEL, version))
    if broken:
        return dg.SkipReason(f"Version {version} of {PANEL} fails its checks: {'; '.join(broken)}")
    going_on = _going_on(context.instance, (LIFECYCLE, TRAINING, REFRESH))
    if going_on:
        return dg.SkipReason(f"Version {version} of {PANEL} waits for the run {going_on} to end.")
    if seen.requested_at is not None:
        rested = datetime.fromisoformat(seen.requested_at) + timedelta(hours=policy.automation.retrain_cooldown_hours)
        if datetime.now(UTC) < rested:
            return dg.SkipReason(
                f"Version {version} of {PANEL} waits for the cooldown to end at {rested:%F %H:%M} UTC."
            )
    context.update_cursor(Seen(version, datetime.now(UTC).isoformat()).cursor())
    # The key makes a tick that is repeated after a crash ask for the same run. With the time, because the versions of a
    # table that is made anew begin again, and Dagster never starts a second run for a key.
    committed = lakehouse.committed_at(PANEL, version)
    run_key = f"{PANEL}@{version} of {committed.isoformat()}"
    return dg.RunRequest(run_key=run_key, tags={"churn/panel_version": str(version)})


def _decided_against(lakehouse: LakehouseResource) -> str | None:
    """Why the monitoring does not ask for a retraining; None if it does, or if nothing serves that it could watch."""
    ledger = [Decision.of(row) for row in lakehouse.records(LEDGER)] if lakehouse.has(LEDGER) else []
    served = serving(sorted(ledger, key=lambda decision: decision.number))
    if served is None:
        return None
    decision = retraining.latest(lakehouse.records(DECISIONS)) if lakehouse.has(DECISIONS) else None
    if decision is None:
        return f"{DECISIONS} has none yet"
    if decision.model_version != served.subject.version:
        # It has been followed: another version serves by now, and the next scored week tells how that one does.
        about, now = decision.model_version, served.subject.version
        return f"that of {decision.as_of} was about version {about}, and now version {now} serves"
    if not decision.is_retrain:
        return f"that of {decision.as_of} is not to: {'; '.join(decision.reasons)}"
    return None


def _is_unchanged(lakehouse: LakehouseResource, known: int, version: int) -> bool:
    try:
        return lakehouse.holds_same_rows(PANEL, known, version)
    except (MissingTableError, MissingFileError):
        return False  # the older version has been vacuumed: better to train once more than never


def _trained_version(instance: dg.DagsterInstance) -> int | None:
    """The version of the panel that the latest model was trained on."""
    event = instance.get_latest_materialization_event(dg.AssetKey(MODEL_ARTIFACT))
    if event is None or event.asset_materialization is None:
        return None
    inputs = event.asset_materialization.metadata["inputs"].value
    return inputs.get(PANEL) if isinstance(inputs, dict) else None


def _failed_checks(instance: dg.DagsterInstance, since: datetime) -> list[str]:
    """What the panel's blocking checks found wrong after `since`, when its present version was committed."""
    panel, failures = dg.AssetKey(PANEL.split("/")), []
    for rule in PANEL_CHECKS:
        record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(panel, rule))
        # The record's own time is cut to the second.
        if record is None or record.event is None or record.event.timestamp < since.timestamp():
            continue
        event = record.event.dagster_event
        if event is None or event.event_type is not dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        evaluation = event.asset_check_evaluation_data
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
            failures.append(f"{rule}: {evaluation.description}")
    return failures


def _going_on(instance: dg.DagsterInstance, jobs: Sequence[str]) -> str | None:
    """A run of one of the jobs that has not ended."""
    end_vanished_runs(instance)
    after = datetime.now(UTC) - LOST_AFTER
    for job in jobs:
        filters = dg.RunsFilter(job_name=job, statuses=list(GOING_ON), created_after=after)
        for run in instance.get_runs(filters, limit=1):
            return f"{run.run_id} of {job}"
    return None


@dg.sensor(
    job_name=REFRESH,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Refreshes the features when the source tables have moved. Off by default: the schedule does it.",
)
def refresh_on_new_orders(
    context: dg.SensorEvaluationContext, lakehouse: LakehouseResource, sources: dg.ResourceParam[SourceCatalog]
) -> dg.RunRequest | dg.SkipReason:
    # What another tool writes there is seen by the sensor that retrains.
    state = sources.state(own=[lakehouse.path(table) for table in (PANEL, BASELINE)])
    if state is None:
        return dg.SkipReason(
            "A source is a catalog table, whose changes cannot be seen without Spark: use the schedule."
        )
    if state == context.cursor:
        return dg.SkipReason("The source tables are as they were.")
    going_on = _going_on(context.instance, (LIFECYCLE, REFRESH))
    if going_on:
        return dg.SkipReason(f"New orders wait for the run {going_on} to end.")
    context.update_cursor(state)
    # Without a key: files that are restored with their times bring a state back, and Dagster starts one run for a key,
    # ever. A tick that is repeated after a crash refreshes once more, to the same rows.
    return dg.RunRequest()


retrain_on_feature_refresh = retraining_sensor(dg.DefaultSensorStatus.STOPPED)


def refresh_schedule(policy: ChurnPolicy) -> dg.ScheduleDefinition:
    """Refreshes the features as often as the policy says; the sensor then retrains if they changed."""
    return dg.ScheduleDefinition(
        name="scheduled_feature_refresh",
        job_name=REFRESH,
        cron_schedule=policy.calendar.cron(REFRESH_HOUR, policy.refresh),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Lands the sources and builds the features, {policy.refresh} at 03:00 UTC.",
    )

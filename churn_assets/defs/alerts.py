"""What people are told of: failed runs and checks, and decisions about the serving model. Once each, with retries."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterEventType

from churn_assets.churn.ledger import Action, Decision, headline
from churn_assets.resources.alerts import AlertsResource, Notice, UndeliveredError
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets.resources.tracking import TrackingResource

TICK_SECONDS = 10
FIRST_RETRY, LONGEST_RETRY, GIVEN_UP_AFTER = timedelta(seconds=30), timedelta(hours=1), timedelta(days=3)
# Runs may be stored a little out of order; what was told of is remembered, so looking back costs nothing.
OVERLAP, REMEMBERED = timedelta(minutes=5), 500
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
TOLD_OF = (Action.REFUSED, Action.ROLLED_BACK, Action.OVERRIDDEN, Action.REPAIRED)


@dataclass(frozen=True)
class Pending:
    """A notice on its way to one target. noticed, due: seconds since the epoch."""

    target: str
    key: str
    title: str
    lines: Sequence[str]
    url: str
    noticed: float
    due: float
    attempts: int = 0

    @property
    def notice(self) -> Notice:
        return Notice(self.key, self.title, self.lines, self.url)


@dataclass(frozen=True)
class Told:
    """The sensor's cursor: how far it looked (seconds since the epoch, rows of the ledger), the runs it knows, and what
    is on its way."""

    since: float
    decisions: int
    known: Sequence[str] = ()
    pending: Sequence[Pending] = field(default_factory=tuple)

    @staticmethod
    def of(cursor: str) -> "Told":
        content = json.loads(cursor)
        return Told(**{**content, "pending": tuple(Pending(**each) for each in content["pending"])})

    def cursor(self) -> str:
        return json.dumps(asdict(self))


@dg.sensor(
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells a webhook or an e-mail address of failed runs and checks, and of decisions about the model.",
)
def alert_on_failure(
    context: dg.SensorEvaluationContext,
    alerts: AlertsResource,
    promotions: PromotionsResource,
    tracking: TrackingResource,
) -> dg.SkipReason:
    """Asks for no run. At most one notice for each target in a tick, so that a slow target holds nothing up."""
    now = datetime.now(UTC)
    ledger = promotions.state().ledger if promotions.lakehouse.has(LEDGER) else ()
    if context.cursor is None or not alerts.targets:
        # Nobody wants the news of before.
        known = [run.run_id for run in _ended(context.instance, now)]
        context.update_cursor(Told(now.timestamp(), len(ledger), known).cursor())
        where = "set CHURN_ALERT_WEBHOOK or CHURN_ALERT_SMTP to be told of failures"
        return dg.SkipReason("Watching from now on." if alerts.targets else f"Nobody to tell: {where}.")
    cursor = Told.of(context.cursor)
    ended = _ended(context.instance, datetime.fromtimestamp(cursor.since, UTC))
    runs = [run for run in ended if run.run_id not in cursor.known]
    notices = [
        *_of_runs(context.instance, runs, tracking),
        *(_of_decision(decision, tracking) for decision in ledger[cursor.decisions :] if decision.action in TOLD_OF),
    ]
    pending = [*cursor.pending]
    for notice in notices:
        moment = now.timestamp()
        pending += [
            Pending(target, notice.key, notice.title, list(notice.lines), notice.url, moment, moment)
            for target in alerts.targets
        ]
    pending, outcomes = _delivered(alerts, pending, now, context)
    known = [*cursor.known, *(run.run_id for run in runs)][-REMEMBERED:]
    context.update_cursor(Told(now.timestamp(), len(ledger), known, pending).cursor())
    return dg.SkipReason("; ".join(outcomes) or f"Nothing to tell; {len(pending)} on their way.")


def _delivered(
    alerts: AlertsResource, pending: Sequence[Pending], now: datetime, context: dg.SensorEvaluationContext
) -> tuple[list[Pending], list[str]]:
    """What is still on its way after this tick, and what came of it."""
    left, outcomes, tried = [], [], set()
    for each in pending:
        if each.target not in alerts.targets or now.timestamp() - each.noticed > GIVEN_UP_AFTER.total_seconds():
            context.log.error(f"Given up after {each.attempts} attempts: {each.title}")
            continue
        if each.target in tried or each.due > now.timestamp():
            left.append(each)
            continue
        tried.add(each.target)
        try:
            alerts.deliver(each.target, each.notice)
            outcomes.append(f"told by {each.target}: {each.title}")
        except UndeliveredError as failed:
            wait = min(FIRST_RETRY * 2**each.attempts, LONGEST_RETRY).total_seconds()
            again = {"due": now.timestamp() + wait, "attempts": each.attempts + 1}
            left.append(Pending(**{**asdict(each), **again}))
            outcomes.append(f"{failed}; again in {wait:.0f} s: {each.title}")
    return left, outcomes


def _ended(instance: dg.DagsterInstance, since: datetime) -> list[dg.DagsterRun]:
    """The runs that ended since or a little before, the earliest first."""
    filters = dg.RunsFilter(statuses=ENDED, updated_after=since - OVERLAP)
    return list(reversed(instance.get_runs(filters, limit=REMEMBERED // 2)))


def _of_runs(
    instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun], tracking: TrackingResource
) -> Iterator[Notice]:
    """A notice for each run that failed or has a failed check."""
    for run in runs:
        checks, steps = _failed(instance, run.run_id)
        has_failed = run.status is dg.DagsterRunStatus.FAILURE
        if has_failed or checks:
            title = f"{run.job_name} {'failed' if has_failed else 'ended with failed checks'}"
            yield Notice(f"run {run.run_id}", title, [*checks, *steps], tracking.dagster_address(run.run_id))


def _failed(instance: dg.DagsterInstance, run_id: str) -> tuple[list[str], list[str]]:
    """A line for each failed check of severity ERROR, and for each other step that failed."""
    checks, steps = [], []
    wanted = {DagsterEventType.ASSET_CHECK_EVALUATION, DagsterEventType.STEP_FAILURE}
    for entry in instance.all_logs(run_id, of_type=wanted):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
                asset = evaluation.asset_key.to_user_string()
                checks.append(f"check {evaluation.check_name} of {asset}: {evaluation.description}")
        else:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is None or error.cls_name != "DagsterAssetCheckFailedError":
                said = "no reason was recorded" if error is None else error.message.strip().splitlines()[0]
                steps.append(f"step {event.step_key}: {said}")
    return checks, steps


def _of_decision(decision: Decision, tracking: TrackingResource) -> Notice:
    lines = [*([f"because: {decision.statement}"] if decision.statement else []), *decision.reasons]
    url = tracking.dagster_address(decision.dagster_run_id)
    return Notice(f"decision {decision.decision_id}", headline(decision), lines, url)

"""What people are told of: failed runs and checks, decisions about the model, what waits for them, what is overdue.

Once each, with retries. Every source is asked by itself: one that does not answer keeps no news of another.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import dagster as dg
from dagster import DagsterEventType

from churn_assets.churn.ledger import Decision, headline, serving, version_named
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.automation import LOST_AFTER
from churn_assets.defs.decisions import REGISTERED
from churn_assets.defs.failures import in_words
from churn_assets.defs.freshness import stale
from churn_assets.resources.abandoned_runs import GOING_ON, end_vanished_runs
from churn_assets.resources.alerts import AlertsResource, Notice, UndeliveredError
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource
from churn_assets.resources.tracking import TrackingResource

TICK_SECONDS = 10
# A target that keeps the line and says nothing is left alone after this, so that the tick ends.
DELIVERY_SECONDS = 30.0
FIRST_RETRY, LONGEST_RETRY, GIVEN_UP_AFTER = timedelta(seconds=30), timedelta(hours=1), timedelta(days=3)
# Runs may be stored a little out of order; what was told of is remembered, so looking back costs nothing.
OVERLAP, REMEMBERED = timedelta(minutes=5), 500
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
Found = TypeVar("Found")


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
    """The sensor's cursor: how far it looked (seconds since the epoch, rows of the ledger), the runs it knows, the keys
    of the states it has told of, and what is on its way. decisions: None while the ledger could not be read."""

    since: float
    decisions: int | None
    known: Sequence[str] = ()
    states: Sequence[str] = ()
    pending: Sequence[Pending] = field(default_factory=tuple)

    @staticmethod
    def of(cursor: str) -> "Told":
        content = json.loads(cursor)
        return Told(**{**content, "pending": tuple(Pending(**each) for each in content["pending"])})

    def cursor(self) -> str:
        return json.dumps(asdict(self))


def alert_sensor(status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """As the deployment starts it; a person switches it in Dagster's UI."""
    return dg.sensor(
        name="alert_on_failure",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=status,
        description="Tells a webhook or an e-mail address of failures and decisions, of what waits or is overdue.",
    )(_alert)


def _alert(
    context: dg.SensorEvaluationContext,
    alerts: AlertsResource,
    promotions: PromotionsResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.SkipReason:
    """Asks for no run, and nothing of MLflow, whose outage is news. At most one notice for each target in a tick."""
    if not alerts.targets:
        if context.cursor:
            # Nobody wants the news of before, once there is somebody to tell.
            context.update_cursor("")
        return dg.SkipReason("Nobody to tell: set CHURN_ALERT_WEBHOOK or CHURN_ALERT_SMTP to be told of failures.")
    now = datetime.now(UTC)
    # So that those end, and are told as failed.
    _asked(context, "what vanished", lambda: end_vanished_runs(context.instance))
    ledger = _asked(context, "the ledger", promotions.ledger)
    decisions = None if ledger is None else len(ledger)
    if not context.cursor:
        known = [run.run_id for run in _ended(context.instance, now)]
        context.update_cursor(Told(now.timestamp(), decisions, known).cursor())
        return dg.SkipReason("Watching from now on.")
    told = Told.of(context.cursor)
    ended = _ended(context.instance, datetime.fromtimestamp(told.since, UTC))
    runs = [run for run in ended if run.run_id not in told.known]
    news = list(_of_runs(context.instance, runs, tracking, policy))
    states: list[Notice] | None = None
    if ledger is not None:
        # Of a ledger that is read for the first time only what comes after is news.
        seen = len(ledger) if told.decisions is None else told.decisions
        news += [_of_decision(decision, tracking) for decision in ledger[seen:]]
        states = _asked(context, "what waits", lambda: list(_waiting(context.instance, ledger, policy, tracking)))
    overdue = _asked(
        context,
        "what is overdue",
        lambda: list(_overdue(context.instance, promotions.lakehouse, policy, tracking, now)),
    )
    found = [*(states or []), *(overdue or [])]
    news += [notice for notice in found if notice.key not in told.states]
    moment = now.timestamp()
    pending = [
        *told.pending,
        *(
            Pending(target, notice.key, notice.title, list(notice.lines), notice.url, moment, moment)
            for notice in news
            for target in alerts.targets
        ),
    ]
    pending, outcomes = _delivered(alerts, pending, now, context)
    looked = Told(
        moment,
        told.decisions if decisions is None else decisions,
        [*told.known, *(run.run_id for run in runs)][-REMEMBERED:],
        # A state that is over is forgotten, and told again should it come back; one that nobody could ask for is kept.
        told.states if states is None or overdue is None else [notice.key for notice in found],
        pending,
    )
    context.update_cursor(looked.cursor())
    return dg.SkipReason("; ".join(outcomes) or f"Nothing to tell; {len(pending)} on their way.")


def _asked(context: dg.SensorEvaluationContext, what: str, look: Callable[[], Found]) -> Found | None:
    """What `look` finds; None, with a word in the log, where it cannot be found out at this tick."""
    try:
        return look()
    except Exception as broken:  # noqa: BLE001 - a source that fails must not silence the others
        context.log.error(f"{what} cannot be looked at: {type(broken).__name__}: {broken}")
        return None


def _delivered(
    alerts: AlertsResource, pending: Sequence[Pending], now: datetime, context: dg.SensorEvaluationContext
) -> tuple[list[Pending], list[str]]:
    """What is still on its way after this tick, and what came of it. The targets are told at once, each by itself."""
    left: list[Pending] = []
    tried: dict[str, Pending] = {}
    for each in pending:
        if each.target not in alerts.targets or now.timestamp() - each.noticed > GIVEN_UP_AFTER.total_seconds():
            context.log.error(f"Given up after {each.attempts} attempts: {each.title}")
        elif each.target in tried or each.due > now.timestamp():
            left.append(each)
        else:
            tried[each.target] = each
    outcomes = []
    pool = ThreadPoolExecutor(max(len(tried), 1))
    answers = {target: pool.submit(alerts.deliver, target, each.notice) for target, each in tried.items()}
    wait(answers.values(), DELIVERY_SECONDS)
    pool.shutdown(wait=False)
    for target, each in tried.items():
        failure = _failure(target, answers[target])
        if failure is None:
            outcomes.append(f"told by {target}: {each.title}")
            continue
        pause = min(FIRST_RETRY * 2**each.attempts, LONGEST_RETRY).total_seconds()
        left.append(replace(each, due=now.timestamp() + pause, attempts=each.attempts + 1))
        outcomes.append(f"{failure}; again in {pause:.0f} s: {each.title}")
    return left, outcomes


def _failure(target: str, answer: "Future[None]") -> str | None:
    """Why a notice did not arrive; None if it did."""
    if not answer.done():
        return f"{target}: no end within {DELIVERY_SECONDS:.0f} s"
    failed = answer.exception()
    return None if failed is None else str(failed) if isinstance(failed, UndeliveredError) else type(failed).__name__


def _ended(instance: dg.DagsterInstance, since: datetime) -> list[dg.DagsterRun]:
    """The runs that ended since or a little before, the earliest first."""
    filters = dg.RunsFilter(statuses=ENDED, updated_after=since - OVERLAP)
    return list(reversed(instance.get_runs(filters)))


def _of_runs(
    instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun], tracking: TrackingResource, policy: ChurnPolicy
) -> Iterator[Notice]:
    """A notice for each run that failed, has a failed check, or one that warns and that the policy wants told."""
    for run in runs:
        checks, warnings, steps = _failed(instance, run.run_id, policy)
        has_failed = run.status is dg.DagsterRunStatus.FAILURE
        if has_failed or checks or warnings:
            ended = "failed" if has_failed else "ended with failed checks" if checks else "ended with warnings"
            lines = [*checks, *warnings, *steps]
            yield Notice(f"run {run.run_id}", f"{run.job_name} {ended}", lines, tracking.dagster_address(run.run_id))


def _failed(instance: dg.DagsterInstance, run_id: str, policy: ChurnPolicy) -> tuple[list[str], list[str], list[str]]:
    """A line for each failed check of severity ERROR, each told warning, and each other step that failed."""
    checks, warnings, steps = [], [], []
    wanted = {DagsterEventType.ASSET_CHECK_EVALUATION, DagsterEventType.STEP_FAILURE}
    for entry in instance.all_logs(run_id, of_type=wanted):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            said = f"{evaluation.check_name} of {evaluation.asset_key.to_user_string()}: {evaluation.description}"
            if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
                checks.append(f"check {said}")
            elif not evaluation.passed and policy.notices.tells_warning_of(evaluation.check_name):
                warnings.append(f"warning of {said}")
        else:
            said = in_words(event.step_failure_data.error)
            # The check that stopped it is told by itself.
            if not said.startswith("DagsterAssetCheckFailedError: "):
                steps.append(f"step {event.step_key}: {' '.join(line.strip() for line in said.splitlines())}")
    return checks, warnings, steps


def _of_decision(decision: Decision, tracking: TrackingResource) -> Notice:
    lines = [*([f"because: {decision.statement}"] if decision.statement else []), *decision.reasons]
    url = tracking.dagster_address(decision.dagster_run_id)
    return Notice(f"decision {decision.decision_id}", headline(decision), lines, url)


def _waiting(
    instance: dg.DagsterInstance, ledger: Sequence[Decision], policy: ChurnPolicy, tracking: TrackingResource
) -> Iterator[Notice]:
    """The latest registered version, if it is a person who promotes and nobody has decided about it."""
    event = instance.get_latest_materialization_event(dg.AssetKey(REGISTERED))
    if policy.promotion.mode != "manual" or event is None or event.asset_materialization is None:
        return
    version = str(event.asset_materialization.metadata["version"].value)
    if version not in {decision.subject.version for decision in ledger}:
        last = serving(ledger)
        lines = [
            "its evaluation says PASS; launch promote_staging_model to promote it",
            f"{version_named(None if last is None else last.subject.version)} serves meanwhile",
        ]
        address = tracking.dagster_address(event.run_id)
        yield Notice(f"waiting {version}", f"version {version} waits for a person to promote it", lines, address)


def _overdue(
    instance: dg.DagsterInstance,
    lakehouse: LakehouseResource,
    policy: ChurnPolicy,
    tracking: TrackingResource,
    now: datetime,
) -> Iterator[Notice]:
    """Each table that people wait for and that was not written in time, and each run that should have ended by now."""
    for table, outcome in stale(lakehouse, policy, now).items():
        lines = [f"observed: {outcome.observed}; allowed: {outcome.allowed}"]
        yield Notice(f"stale {table}: {outcome.allowed}", f"{table} is stale", lines, tracking.dagster_ui)
    # Those of this machine whose process is gone have been ended.
    for run in instance.get_runs(dg.RunsFilter(statuses=list(GOING_ON), created_before=now - LOST_AFTER)):
        lines = [
            f"it was begun more than {LOST_AFTER.total_seconds() / 3600:.0f} hours ago; end it in Dagster if it is lost"
        ]
        yield Notice(f"lost {run.run_id}", f"{run.job_name} does not end", lines, tracking.dagster_address(run.run_id))


alert_on_failure = alert_sensor(dg.DefaultSensorStatus.STOPPED)

"""The one place that moves the alias `production`, after writing the ledger. What to decide it does not know."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import dagster as dg

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.ledger import (
    LEDGER_SCHEMA,
    Action,
    Decision,
    Registered,
    Subject,
    disagreement,
    is_unfinished,
    loss,
    moment,
    serving,
    version_named,
)
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.delta.commits import OvertakenError
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import PRODUCTION, TrackingResource

LEDGER = "food_delivery/model_promotions"
FINISHED_TAG = "decision_id"
LOCK_SECONDS = 60.0


class PromotionLockedError(ChurnError):
    """Another process is moving the alias and does not come to an end."""


@dataclass(frozen=True)
class State:
    """What a decision sees.

    champion: the version under `production`; finished_id: the decision that put it there. lost: how the registry lost
    the model that serves by the ledger; None if it did not.
    """

    ledger: tuple[Decision, ...]
    ledger_version: int | None
    champion: str | None
    finished_id: str | None
    lost: str | None = None

    @property
    def is_unfinished(self) -> bool:
        """What was deleted cannot be finished, whatever the alias says."""
        return self.lost is None and is_unfinished(self.ledger, self.champion, self.finished_id)

    @property
    def disagreement(self) -> str | None:
        if self.lost is None:
            return disagreement(self.ledger, self.champion)
        return f"{self.lost}; alias production names {version_named(self.champion)}"

    @property
    def obstacle(self) -> str | None:
        """Why the policy may decide nothing: not what was deleted, if nothing was put in its place."""
        last = serving(self.ledger)
        before = None if last is None else last.previous_version
        return None if self.lost is not None and self.champion in (None, before) else self.disagreement


class PromotionsResource(dg.ConfigurableResource):
    """Decisions about the serving model: each is written to the ledger, and then the alias follows it.

    The ledger's commit decides who was first: it takes the very next version of the table or fails, on any storage and
    between machines. `lock_file` keeps processes of one machine apart meanwhile; the system frees it when one dies.
    """

    lakehouse: dg.ResourceDependency[LakehouseResource]
    tracking: dg.ResourceDependency[TrackingResource]
    lock_file: str

    def ledger(self, version: int | None = None) -> tuple[Decision, ...]:
        """Every decision in order, as of that version of the table (default: the latest). Asks no MLflow."""
        if version is None and not self.lakehouse.has(LEDGER):
            return ()
        rows = self.lakehouse.records(LEDGER, version)
        return tuple(sorted(map(Decision.of, rows), key=lambda decision: decision.number))

    def state(self) -> State:
        version = self.lakehouse.version(LEDGER)
        ledger = () if version is None else self.ledger(version)
        last = serving(ledger)
        # Its mark before the alias, which moves first: another machine may finish in between, and the mark beside the
        # alias of before would look like a move by hand.
        promised = None if last is None else self.tracking.version(last.subject.version)
        champion = self.tracking.version_under(PRODUCTION)
        found = None if promised is None else Registered(str(promised.version), self.tracking.digest_of(promised))
        finished_id = None if promised is None else promised.tags.get(FINISHED_TAG)
        number = None if champion is None else str(champion.version)
        return State(ledger, version, number, finished_id, loss(ledger, found))

    def reconcile(self, dagster_run_id: str) -> Decision | None:
        """Finishes a move that was interrupted between ledger and alias, and returns what it recorded of that."""
        if not self.state().is_unfinished:
            return None
        with self._lock():
            return self._settled(dagster_run_id)[1]

    def move(self, decision: Decision) -> Decision:
        """Records the decision and points `production` at its version, if what it saw still holds.

        Raises PromotionRefusedError, with the refusal recorded, if another decision was first.
        """
        with self._lock():
            while (state := self._settled(decision.dagster_run_id)[0]).champion == decision.previous_version:
                with suppress(OvertakenError):
                    self._append(decision, state.ledger_version)
                    self._follow()
                    return decision
        seen, current = version_named(decision.previous_version), version_named(state.champion)
        reason = f"{seen} served when this was decided, and now {current} does"
        self.refuse(decision, [f"another decision was first: {reason}"])
        raise PromotionRefusedError(
            f"The decision about version {decision.subject.version} was not carried out: another was first.",
            [reason],
            next_step="look at what serves now (churn-assets history) and decide again",
        )

    def refuse(self, decision: Decision, reasons: Sequence[str]) -> Decision:
        """Records that the decision was not carried out, and why."""
        refused = replace(
            decision,
            decision_id=new_id(),
            decided_at=datetime.now(UTC),
            action=Action.REFUSED,
            reasons=tuple(reasons),
        )
        self.record(refused)
        return refused

    def record(self, decision: Decision) -> None:
        """Writes a decision that moves nothing into the ledger, behind whatever others write meanwhile."""
        for _ in range(100):
            try:
                self._append(decision, self.lakehouse.version(LEDGER))
            except OvertakenError:
                continue
            return
        raise OvertakenError(f"{LEDGER} is written by others without a pause.", next_step="try again")

    def _settled(self, dagster_run_id: str) -> tuple[State, Decision | None]:
        """A state without an unfinished move, and what was recorded if one was finished for that.

        To decide on any later state is wrong: another machine may have written the ledger and not yet moved the alias.
        """
        repaired = None
        while (state := self.state()).is_unfinished:
            last = serving(state.ledger)
            assert last is not None, "what is unfinished is a move"
            interruption = f"the {last.action.value} decision of {moment(last)} was interrupted"
            made = replace(
                last,
                decision_id=new_id(),
                decided_at=datetime.now(UTC),
                action=Action.REPAIRED,
                reasons=(f"{interruption} before the alias moved; it is carried out now",),
                dagster_run_id=dagster_run_id,
            )
            with suppress(OvertakenError):
                self._append(made, state.ledger_version)
                self._follow()
                repaired = made
        last = serving(state.ledger)
        if last is not None and state.disagreement is None and state.finished_id != last.decision_id:
            self._follow()
        return state, repaired

    def _append(self, decision: Decision, after: int | None) -> None:
        import pyarrow as pa

        row = replace(decision, number=0 if after is None else after + 1).row()
        self.lakehouse.append_after(LEDGER, after, pa.Table.from_pylist([row], schema=LEDGER_SCHEMA))

    def _follow(self) -> None:
        """Points the alias at what the ledger says, until another machine has decided nothing new meanwhile.

        The version is marked too, so that a move by hand can be told from one that was interrupted.
        """
        pointed = None
        while (last := serving(self.state().ledger)) is not None and last.decision_id != pointed:
            version, pointed = last.subject.version, last.decision_id
            assert version is not None, "a move names a version"
            alias = partial(self.tracking.set_alias, PRODUCTION, version)
            mark = partial(
                self.tracking.client.set_model_version_tag,
                self.tracking.registered_model,
                version,
                FINISHED_TAG,
                pointed,
            )
            _written_over_another(alias)
            _written_over_another(mark)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        Path(self.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.lock_file, timeout=LOCK_SECONDS):
                yield
        except Timeout as held:
            raise PromotionLockedError(
                f"Another process has held {self.lock_file} for {LOCK_SECONDS:.0f} s.",
                next_step="wait for the promotion or rollback that is going on, and try again",
            ) from held


def _written_over_another(write: Callable[[], None]) -> None:
    """`write`, once more if it fails: of two machines at once, MLflow inserts for both and refuses one (2026-11-28).

    The second time there is a row to replace; any other failure comes again.
    """
    from mlflow.exceptions import MlflowException

    try:
        write()
    except MlflowException:
        write()


def new_id() -> str:
    return uuid.uuid4().hex


def decision_now(
    action: Action,
    subject: Subject,
    previous_version: str | None,
    *,
    reasons: Sequence[str] = (),
    decided_by: str,
    dagster_run_id: str,
    statement: str | None = None,
) -> Decision:
    """A new decision, as of now."""
    return Decision(
        new_id(),
        datetime.now(UTC),
        action,
        subject,
        previous_version,
        tuple(reasons),
        decided_by,
        dagster_run_id,
        statement,
    )

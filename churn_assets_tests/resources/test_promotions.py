"""The production alias follows the ledger, whoever else decides at once and wherever a process dies."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
from dagster_pyspark import LazyPySparkResource
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from churn_assets.churn.ledger import Action, Decision, Subject, serving
from churn_assets.churn.promotion import PromotionRefusedError
from churn_assets.delta.commits import OvertakenError
from churn_assets.resources import promotions as module
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionLockedError, PromotionsResource, decision_now
from churn_assets.resources.tracking import PRODUCTION, TrackingResource
from churn_assets.resources.trained_models import REGISTERED_MODEL
from churn_assets_tests.processes import PATIENCE_SECONDS

VERSIONS = 4
# Every process is forked from one that has loaded all this: a fresh interpreter takes 5 s to.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "mlflow.store.tracking.sqlalchemy_store", "deltalake"])


def promotions_in(folder: Path, lock: str = "promotion.lock") -> PromotionsResource:
    """On the tables and the store under `folder`; opens nothing, and needs no JVM."""
    tracking = TrackingResource(
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        artifact_root=str(folder / "artifacts"),
        mlflow_ui="http://127.0.0.1:5000",
        dagster_ui="http://127.0.0.1:3000",
    )
    lakehouse = LakehouseResource(root=str(folder / "lakehouse"), pyspark=LazyPySparkResource(spark_config={}))
    return PromotionsResource(lakehouse=lakehouse, tracking=tracking, lock_file=str(folder / lock))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's store with four versions, none in production; to make it takes seconds, so it is copied."""
    folder = tmp_path_factory.mktemp("registry")
    client = promotions_in(folder).tracking.client
    client.create_registered_model(REGISTERED_MODEL)
    for number in range(VERSIONS):
        tags = {"model_digest": f"digest {number + 1}"}
        client.create_model_version(REGISTERED_MODEL, source=f"{folder}/model{number}", tags=tags)
    return folder / "mlflow.db"


@pytest.fixture
def promotions(registry: Path, tmp_path: Path) -> PromotionsResource:
    """A registry of four versions, none in production, and no ledger yet."""
    shutil.copy(registry, tmp_path / "mlflow.db")
    return promotions_in(tmp_path)


def decision(
    version: str | None, previous: str | None, action: Action = Action.PROMOTED, by: str = "policy"
) -> Decision:
    return decision_now(
        action, Subject(version, model_digest=f"digest {version}"), previous, decided_by=by, dagster_run_id="run"
    )


def told(promotions: PromotionsResource) -> list[tuple[str, str | None, str | None]]:
    """The ledger as (action, version, previous version)."""
    ledger = promotions.state().ledger
    assert [made.number for made in ledger] == list(range(len(ledger)))
    return [(made.action.value, made.subject.version, made.previous_version) for made in ledger]


def test_before_the_first_decision_nothing_serves_and_all_agrees(promotions: PromotionsResource) -> None:
    state = promotions.state()
    assert (state.ledger, state.ledger_version, state.champion) == ((), None, None)
    assert state.disagreement is None
    assert promotions.reconcile("run") is None


def test_each_move_is_in_the_ledger_and_the_alias_follows(promotions: PromotionsResource) -> None:
    promotions.move(decision("1", None))
    promotions.move(decision("2", "1"))
    promotions.move(decision("1", "2", Action.ROLLED_BACK, by="ada"))
    assert told(promotions) == [("promoted", "1", None), ("promoted", "2", "1"), ("rolled back", "1", "2")]
    state = promotions.state()
    assert (state.champion, state.disagreement, state.is_unfinished) == ("1", None, False)


def test_a_decision_that_saw_another_champion_is_refused_and_recorded(promotions: PromotionsResource) -> None:
    promotions.move(decision("1", None))
    with pytest.raises(PromotionRefusedError, match="no version served when this was decided, and now version 1 does"):
        promotions.move(decision("2", None))
    assert told(promotions) == [("promoted", "1", None), ("refused", "2", None)]
    assert promotions.state().ledger[-1].reasons == (
        "another decision was first: no version served when this was decided, and now version 1 does",
    )
    assert promotions.state().champion == "1"


def test_a_move_behind_the_ledgers_back_shows_until_a_recorded_decision(promotions: PromotionsResource) -> None:
    promotions.move(decision("1", None))
    promotions.move(decision("2", "1"))
    for elsewhere in ("3", "1"):
        promotions.tracking.set_alias(PRODUCTION, elsewhere)
        state = promotions.state()
        assert not state.is_unfinished
        assert f"alias production names version {elsewhere}, but by the ledger version 2" in (state.disagreement or "")
        assert promotions.reconcile("run") is None, "a move by hand is not undone unasked"
    promotions.move(decision("2", "1", Action.ROLLED_BACK, by="ada"))
    assert promotions.state().disagreement is None
    promotions.tracking.client.delete_registered_model_alias(REGISTERED_MODEL, PRODUCTION)
    assert "alias production names no version" in (promotions.state().disagreement or "")


def test_a_refusal_moves_nothing(promotions: PromotionsResource) -> None:
    promotions.move(decision("1", None))
    refused = promotions.refuse(decision("2", "1"), ["it is not good enough"])
    assert refused.action is Action.REFUSED
    assert told(promotions) == [("promoted", "1", None), ("refused", "2", "1")]
    assert promotions.state().champion == "1"


# --- the registry under hands from outside ---


def delete_version(client: MlflowClient) -> None:
    client.delete_model_version(REGISTERED_MODEL, "1")


def delete_model(client: MlflowClient) -> None:
    client.delete_registered_model(REGISTERED_MODEL)


def make_model_again(client: MlflowClient) -> None:
    """Under the name of before, with versions that begin at 1."""
    delete_model(client)
    client.create_registered_model(REGISTERED_MODEL)
    for number in (1, 2):
        tags = {"model_digest": f"another digest {number}"}
        client.create_model_version(REGISTERED_MODEL, source=f"/elsewhere/model{number}", tags=tags)


def make_model_again_and_serve_it(client: MlflowClient) -> None:
    make_model_again(client)
    client.set_registered_model_alias(REGISTERED_MODEL, PRODUCTION, "1")


def make_model_of_unknown_versions(client: MlflowClient) -> None:
    delete_model(client)
    client.create_registered_model(REGISTERED_MODEL)
    client.create_model_version(REGISTERED_MODEL, source="/elsewhere/model")


def rename_model(client: MlflowClient) -> None:
    client.rename_registered_model(REGISTERED_MODEL, "renamed")


def delete_alias(client: MlflowClient) -> None:
    client.delete_registered_model_alias(REGISTERED_MODEL, PRODUCTION)


def serve_another(client: MlflowClient) -> None:
    client.set_registered_model_alias(REGISTERED_MODEL, PRODUCTION, "3")


def serve_a_copy(client: MlflowClient) -> None:
    copy = client.copy_model_version(f"models:/{REGISTERED_MODEL}/1", REGISTERED_MODEL)
    client.set_registered_model_alias(REGISTERED_MODEL, PRODUCTION, copy.version)


def copy_elsewhere(client: MlflowClient) -> None:
    client.copy_model_version(f"models:/{REGISTERED_MODEL}/1", "copied")


def stage_away(client: MlflowClient) -> None:
    with pytest.warns(FutureWarning):
        client.transition_model_version_stage(REGISTERED_MODEL, "1", "Archived")


def rename_there_and_back(client: MlflowClient) -> None:
    rename_model(client)
    client.rename_registered_model("renamed", REGISTERED_MODEL)


DELETED, REPLACED = "was deleted from the registry", "is another model in the registry"
BY_HAND = "the alias was moved behind the ledger's back"


def present(client: MlflowClient) -> str:
    """A version that is there, as a next training registers one."""
    with suppress(MlflowException):
        client.create_registered_model(REGISTERED_MODEL)
    source, tags = "/next/model", {"model_digest": "next digest"}
    return str(client.create_model_version(REGISTERED_MODEL, source=source, tags=tags).version)


@pytest.mark.parametrize(
    ("interfere", "told_as", "is_obstacle"),
    [
        (delete_version, DELETED, False),
        (delete_model, DELETED, False),
        (rename_model, DELETED, False),
        (make_model_again, REPLACED, False),
        (make_model_of_unknown_versions, REPLACED, False),
        # Somebody put something in its place: a person has to say that it is right.
        (make_model_again_and_serve_it, REPLACED, True),
        (delete_alias, BY_HAND, True),
        (serve_another, BY_HAND, True),
        (serve_a_copy, BY_HAND, True),
        (copy_elsewhere, None, False),
        (stage_away, None, False),
        (rename_there_and_back, None, False),
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first_promotion", "later_promotion"])
def test_whatever_is_done_to_the_registry_is_told_and_the_next_decision_is_carried_out_once(
    promotions: PromotionsResource,
    interfere: Callable[[MlflowClient], None],
    told_as: str | None,
    is_obstacle: bool,
    is_first: bool,
) -> None:
    for version, previous in [("1", None)] if is_first else [("2", None), ("1", "2")]:
        promotions.move(decision(version, previous))
    moves = len(promotions.state().ledger)
    interfere(promotions.tracking.client)
    state = promotions.state()
    assert not state.is_unfinished
    assert (told_as or "") in (state.disagreement or "")
    assert (state.disagreement is None) == (told_as is None)
    assert (state.obstacle is not None) == is_obstacle
    # Nothing is carried out unasked, however often somebody looks.
    assert promotions.reconcile("run") is None
    assert promotions.reconcile("run") is None
    number = present(promotions.tracking.client)
    made = replace(decision(number, state.champion), subject=Subject(number, model_digest="next digest"))
    promotions.move(made)
    after = promotions.state()
    assert (after.champion, after.disagreement, after.is_unfinished) == (number, None, False)
    assert [each.action for each in after.ledger[moves:]] == [Action.PROMOTED]


def test_a_move_that_was_interrupted_and_whose_version_is_gone_is_not_finished(
    promotions: PromotionsResource, tmp_path: Path
) -> None:
    promotions.move(decision("1", None))
    kill_at(tmp_path, TrackingResource, "set_alias")
    promotions.tracking.client.delete_model_version(REGISTERED_MODEL, "2")
    state = promotions.state()
    assert (state.champion, state.is_unfinished, state.obstacle) == ("1", False, None)
    assert "version 2, which serves by the ledger" in (state.disagreement or "")
    promotions.move(decision("3", "1"))
    assert told(promotions) == [("promoted", "1", None), ("promoted", "2", "1"), ("promoted", "3", "1")]
    assert promotions.state().disagreement is None


# --- two at once ---


def decide(folder: str, lock: str, made: Decision, start: Any, ends: Any) -> None:
    """In a process of its own: waits for the others, moves, and says what came of it."""
    promotions = promotions_in(Path(folder), lock)
    assert promotions.state().champion == made.previous_version
    start.wait(PATIENCE_SECONDS)
    try:
        promotions.move(made)
    except PromotionRefusedError:
        ends.put("refused")
    else:
        ends.put("moved")


def decide_at_once(folder: Path, decisions: Sequence[Decision], *, share_lock: bool) -> list[str]:
    start, ends = PROCESSES.Barrier(len(decisions)), PROCESSES.Queue()
    processes = [
        PROCESSES.Process(
            target=decide, args=(str(folder), "promotion.lock" if share_lock else f"{number}.lock", made, start, ends)
        )
        for number, made in enumerate(decisions)
    ]
    for process in processes:
        process.start()
    found = sorted(ends.get(timeout=PATIENCE_SECONDS) for _ in processes)
    for process in processes:
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0
    return found


@pytest.mark.parametrize("share_lock", [True, False], ids=["one_machine", "two_machines"])
@pytest.mark.parametrize(
    ("versions", "actions"),
    [
        (("2", "3"), (Action.PROMOTED, Action.PROMOTED)),
        (("2", "2"), (Action.PROMOTED, Action.OVERRIDDEN)),
        (("2", "4"), (Action.PROMOTED, Action.ROLLED_BACK)),
    ],
    ids=["two_versions", "one_version_twice", "promotion_and_rollback"],
)
def test_of_two_decisions_at_once_one_wins_and_the_other_is_a_recorded_refusal(
    promotions: PromotionsResource,
    tmp_path: Path,
    versions: tuple[str, str],
    actions: tuple[Action, Action],
    share_lock: bool,
) -> None:
    promotions.move(decision("1", None))
    decisions = [decision(version, "1", action) for version, action in zip(versions, actions, strict=True)]
    assert decide_at_once(tmp_path, decisions, share_lock=share_lock) == ["moved", "refused"]
    state = promotions.state()
    # On two machines one may take the other's move, seen half done, for an interrupted one, and finish it.
    moves = [made for made in state.ledger[1:] if made.is_move and made.action is not Action.REPAIRED]
    refused = [made for made in state.ledger[1:] if made.action is Action.REFUSED]
    assert len(moves) == len(refused) == 1
    assert state.champion == moves[0].subject.version
    assert state.disagreement is None
    (reason,) = refused[0].reasons
    assert reason.startswith("another decision was first: version 1 served when this was decided")


# Before which of the looks at the registry another machine writes the ledger, and before which it moves the alias.
@pytest.mark.parametrize(("writes", "moves_alias"), list(combinations_with_replacement(range(1, 7), 2)))
def test_of_two_decisions_one_is_carried_out_however_the_other_machine_comes_in_between(
    promotions: PromotionsResource, monkeypatch: pytest.MonkeyPatch, writes: int, moves_alias: int
) -> None:
    promotions.move(decision("1", None))
    looked, is_other = 0, False

    def with_another_at_work(name: str) -> Callable[..., Any]:
        honest = getattr(TrackingResource, name)

        def look(*given: Any) -> Any:
            nonlocal looked, is_other
            if not is_other:
                looked += 1
                is_other = True
                with suppress(OvertakenError):
                    if looked == writes:
                        promotions._append(decision("2", "1"), 0)
                    if looked == moves_alias:
                        promotions._follow()
                is_other = False
            return honest(*given)

        return look

    for name in ("version_under", "version"):
        monkeypatch.setattr(TrackingResource, name, with_another_at_work(name))
    with suppress(PromotionRefusedError):
        promotions.move(decision("3", "1"))
    monkeypatch.undo()
    promotions.reconcile("a later run")
    moves = [made for made in told(promotions) if made[0] == "promoted"]
    assert len({previous for _, _, previous in moves}) == len(moves), "two decisions saw the same champion"
    assert promotions.state().disagreement is None


@pytest.mark.parametrize("method", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_write_that_another_machine_was_first_with_is_made_over_its_own_and_other_failures_come_again(
    promotions: PromotionsResource, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    honest, failures = getattr(MlflowClient, method), [1]

    def fails(*arguments: Any, **named: Any) -> Any:
        if failures and failures.pop():
            raise MlflowException("UNIQUE constraint failed")
        return honest(*arguments, **named)

    monkeypatch.setattr(MlflowClient, method, fails)
    promotions.move(decision("1", None))
    state = promotions.state()
    assert (state.champion, state.disagreement, state.is_unfinished) == ("1", None, False)
    failures[:] = [1, 1]
    with pytest.raises(MlflowException, match="UNIQUE constraint failed"):
        promotions.move(decision("2", "1"))


# --- a process that dies ---


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def move_and_die(folder: str, owner: type, method: str) -> None:
    setattr(owner, method, die)
    promotions_in(Path(folder)).move(decision("2", "1"))


def kill_at(folder: Path, owner: type, method: str) -> None:
    """Moves to version 2 in a process that is killed (-9) as it calls `method`."""
    process = PROCESSES.Process(target=move_and_die, args=(str(folder), owner, method))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL


def test_a_kill_between_ledger_and_alias_is_repaired_by_the_next_run_which_says_so(
    promotions: PromotionsResource, tmp_path: Path
) -> None:
    promotions.move(decision("1", None))
    kill_at(tmp_path, TrackingResource, "set_alias")
    state = promotions.state()
    assert (state.champion, state.is_unfinished) == ("1", True), "the old version serves on"
    repaired = promotions.reconcile("later run")
    assert repaired is not None
    assert (repaired.action, repaired.subject.version, repaired.dagster_run_id) == (Action.REPAIRED, "2", "later run")
    assert "was interrupted before the alias moved; it is carried out now" in repaired.reasons[0]
    assert told(promotions) == [("promoted", "1", None), ("promoted", "2", "1"), ("repaired", "2", "1")]
    state = promotions.state()
    assert (state.champion, state.disagreement, state.is_unfinished) == ("2", None, False)
    assert promotions.reconcile("later still") is None


def test_a_kill_before_the_ledger_leaves_nothing_and_no_lock(promotions: PromotionsResource, tmp_path: Path) -> None:
    promotions.move(decision("1", None))
    kill_at(tmp_path, PromotionsResource, "_append")
    assert told(promotions) == [("promoted", "1", None)]
    promotions.move(decision("3", "1"))
    assert promotions.state().champion == "3"


def test_a_kill_after_the_alias_is_no_interruption(promotions: PromotionsResource, tmp_path: Path) -> None:
    promotions.move(decision("1", None))
    kill_at(tmp_path, MlflowClient, "set_model_version_tag")
    state = promotions.state()
    assert (state.champion, state.is_unfinished, state.disagreement) == ("2", False, None)
    promotions.move(decision("3", "2"))
    promotions.tracking.set_alias(PRODUCTION, "2")
    assert promotions.state().disagreement is not None
    assert promotions.reconcile("run") is None


def test_the_next_decision_finishes_an_interrupted_one_first(promotions: PromotionsResource, tmp_path: Path) -> None:
    promotions.move(decision("1", None))
    kill_at(tmp_path, TrackingResource, "set_alias")
    with pytest.raises(PromotionRefusedError, match="version 1 served when this was decided, and now version 2 does"):
        promotions.move(decision("3", "1"))
    last = serving(promotions.state().ledger)
    assert last is not None
    assert (last.action, promotions.state().champion) == (Action.REPAIRED, "2")


def test_a_lock_that_is_held_says_who_to_wait_for(
    promotions: PromotionsResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n  print(1, flush=True)\n  input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", holding, promotions.lock_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
        with pytest.raises(PromotionLockedError, match="Next step: wait for the promotion or rollback"):
            promotions.move(decision("1", None))
        assert promotions.state().ledger == ()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(PATIENCE_SECONDS)
        promotions.move(decision("1", None))
        assert promotions.state().champion == "1"
    finally:
        holder.kill()
        holder.wait(PATIENCE_SECONDS)

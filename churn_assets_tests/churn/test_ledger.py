"""What can be read from the decisions, and in which words: who serves, who served before, who may not come back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from churn_assets.churn.ledger import (
    LEDGER_SCHEMA,
    Action,
    Decision,
    Registered,
    Subject,
    before,
    decided,
    disagreement,
    earlier_champion,
    headline,
    is_unfinished,
    loss,
    promoted_digest,
    rejection,
    serving,
    since_when,
)

BEGUN = datetime(2026, 1, 5, tzinfo=UTC)
MOVES = {"promote": Action.PROMOTED, "override": Action.OVERRIDDEN, "back": Action.ROLLED_BACK, "mend": Action.REPAIRED}


def ledger(*told: str, before: str | None = None) -> list[Decision]:
    """Decisions told as "promote 2", "back 1", "refuse 3"; each move sees what the one before it left.

    The model of version n has the digest "digest n".
    """
    decisions: list[Decision] = []
    for number, step in enumerate(told):
        word, version = step.split()
        action = MOVES.get(word, Action.REFUSED)
        decisions.append(
            Decision(
                f"id{number}",
                BEGUN + timedelta(days=number),
                action,
                Subject(
                    version, f"run{version}", f"digest {version}", "policy", {"food_delivery/panel": number}, "PASS"
                ),
                before,
                ("because",),
                "ada",
                f"dagster{number}",
                "it was better",
                number,
            )
        )
        before = before if action is Action.REFUSED else version
    return decisions


def test_a_decision_survives_the_table_unchanged() -> None:
    (decision,) = ledger("promote 1")
    bare = replace(decision, subject=Subject(), previous_version=None, reasons=(), statement=None)
    for each in (decision, bare):
        (row,) = pa.Table.from_pylist([each.row()], schema=LEDGER_SCHEMA).to_pylist()
        assert Decision.of(row) == each


def test_every_field_has_its_column() -> None:
    (decision,) = ledger("promote 1")
    assert set(decision.row()) == set(LEDGER_SCHEMA.names)


def test_the_last_move_serves_and_refusals_move_nothing() -> None:
    assert serving([]) is None
    assert serving(ledger("refuse 1")) is None
    served = serving(ledger("promote 1", "promote 2", "refuse 3"))
    assert served is not None
    assert served.subject.version == "2"


@pytest.mark.parametrize(
    ("told", "earlier"),
    [
        ([], None),
        (["promote 1"], None),
        (["promote 1", "promote 2"], "1"),
        (["promote 1", "promote 2", "refuse 3"], "1"),
        (["promote 1", "override 2", "promote 3"], "2"),
        # A rollback is undone work, not a new champion: going back again goes further back, not forth.
        (["promote 1", "promote 2", "promote 3", "back 2"], "1"),
        (["promote 1", "promote 2", "promote 3", "back 2", "back 1"], None),
        (["promote 1", "promote 2", "promote 3", "back 1"], None),
        (["promote 1", "promote 2", "back 1", "promote 3"], "1"),
        # A named version that never served is served now, and what was left lies before it.
        (["promote 2", "back 1"], "2"),
        (["promote 1", "promote 2", "mend 2"], "1"),
    ],
)
def test_going_back_goes_to_what_served_before(told: list[str], earlier: str | None) -> None:
    assert earlier_champion(ledger(*told)) == earlier


def test_what_served_before_there_was_a_ledger_can_be_gone_back_to() -> None:
    assert earlier_champion(ledger("promote 7", before="6")) == "6"


@pytest.mark.parametrize(
    ("told", "digest", "is_rejected"),
    [
        (["promote 1", "promote 2"], "digest 2", False),
        (["promote 1", "promote 2", "back 1"], "digest 2", True),
        (["promote 1", "promote 2", "back 1"], "digest 1", False),
        (["promote 1", "promote 2", "back 1", "refuse 2", "promote 3"], "digest 2", True),
        # A person promoted it again: the policy may too, from then on.
        (["promote 1", "promote 2", "back 1", "override 2", "promote 3"], "digest 2", False),
        (["promote 1", "promote 2", "back 1", "mend 1"], "digest 2", True),
        (["promote 1", "promote 2", "promote 3", "back 1"], "digest 2", False),
    ],
)
def test_a_model_somebody_rolled_back_from_is_rejected_until_a_person_promotes_it(
    told: list[str], digest: str, is_rejected: bool
) -> None:
    reason = rejection(ledger(*told), digest)
    assert (reason is not None) == is_rejected
    if reason is not None:
        assert reason == "ada rolled back from this model (version 2) at 2026-01-07 00:00:00 UTC: it was better"


@pytest.mark.parametrize(
    ("told", "alias", "words"),
    [
        ([], None, None),
        ([], "4", "alias production names version 4, and the ledger holds no decision that put it there"),
        (["promote 1", "promote 2"], "2", None),
        (["promote 1", "promote 2", "refuse 3"], "3", "alias production names version 3, but by the ledger version 2"),
        (["promote 1"], None, "alias production names no version, but by the ledger version 1 serves"),
    ],
)
def test_a_move_behind_the_ledgers_back_is_named(told: list[str], alias: str | None, words: str | None) -> None:
    found = disagreement(ledger(*told), alias)
    assert (found or "").startswith(words or "")
    assert (found is None) == (words is None)


@pytest.mark.parametrize(
    ("told", "alias", "finished", "unfinished"),
    [
        ([], None, None, False),
        (["promote 1"], None, None, True),
        (["promote 1", "promote 2"], "1", "id0", True),
        (["promote 1", "promote 2"], "2", None, False),
        # It was finished once, so somebody moved it back by hand.
        (["promote 1", "promote 2"], "1", "id1", False),
        (["promote 1", "promote 2"], "9", None, False),
        (["promote 1", "promote 2", "refuse 3"], "1", None, True),
    ],
)
def test_an_interrupted_move_is_told_from_a_move_by_hand(
    told: list[str], alias: str | None, finished: str | None, unfinished: bool
) -> None:
    assert is_unfinished(ledger(*told), alias, finished) is unfinished


@pytest.mark.parametrize(
    ("told", "promised", "words"),
    [
        ([], None, None),
        (["promote 1"], Registered("1", "digest 1"), None),
        (["promote 1"], None, "version 1, which serves by the ledger"),
        (["promote 1", "refuse 2"], Registered("1", "digest 9"), "is another model in the registry (digest digest 9)"),
        (["promote 1"], Registered("1", None), "is another model in the registry (no digest)"),
    ],
)
def test_a_model_that_the_registry_lost_is_told_by_its_digest(
    told: list[str], promised: Registered | None, words: str | None
) -> None:
    found = loss(ledger(*told), promised)
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


def test_a_number_that_was_given_again_names_the_model_that_has_it_now() -> None:
    first, second, third = ledger("promote 1", "promote 2", "promote 1")
    again = replace(third, subject=replace(third.subject, model_digest="another digest"))
    decisions = [first, second, again]
    assert earlier_champion(decisions) == "2"
    assert [promoted_digest(decisions, version) for version in ("1", "2", "3", None)] == [
        "another digest",
        "digest 2",
        None,
        None,
    ]
    back = replace(again, action=Action.ROLLED_BACK, previous_version="1", subject=second.subject)
    assert rejection([*decisions, back], "another digest") is not None
    assert rejection([*decisions, back], "digest 1") is None


# ---- in words


def test_a_decision_is_told_with_its_model_its_maker_its_moment_and_what_served_before() -> None:
    first, second, refused = ledger("promote 1", "back 2", "refuse 3")
    assert headline(second) == "rolled back: version 2, by ada"
    assert since_when(second) == "rolled back at 2026-01-06 00:00:00 UTC by ada"
    assert [before(each) for each in (first, second)] == ["no version served before", "version 1 served before"]
    unregistered = replace(refused, subject=replace(refused.subject, version=None))
    assert headline(unregistered) == "refused: the model of MLflow run run3, by ada"
    # It serves on.
    assert before(refused) == "version 2 served"


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ([], None),
        (["refuse 1"], None),
        (["promote 1", "refuse 2"], 0),
        (["promote 1", "promote 2", "mend 2", "mend 2", "refuse 3"], 1),
    ],
)
def test_what_a_repair_finished_was_decided_before(told: list[str], number: int | None) -> None:
    found = decided(ledger(*told))
    assert (None if found is None else found.number) == number

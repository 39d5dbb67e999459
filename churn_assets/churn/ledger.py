"""The promotion ledger: every decision about the model that serves, what follows from them, and how it is told.

Moves nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from churn_assets.churn.columns import Column, arrow_schema, list_of, map_of, of_kind


class Action(StrEnum):
    """What was decided. All but REFUSED, UNCHANGED and COPIED move the alias `production`."""

    PROMOTED = "promoted"  # the recorded evaluation had earned it
    OVERRIDDEN = "overridden"  # a person promoted in spite of the reasons against
    ROLLED_BACK = "rolled back"
    REPAIRED = "repaired"  # an interrupted move was finished
    REFUSED = "refused"
    UNCHANGED = "unchanged"  # a training gave the model that serves, so there was nothing to decide
    COPIED = "copied"  # to another environment, in which it was promoted


@dataclass(frozen=True)
class Subject:
    """The model a decision is about, as far as it is known.

    version: of the registered model; None where nothing was registered. run_id: its MLflow run. verdict: of the
    recorded evaluation. data_versions: Delta version of each table it was trained on.
    """

    version: str | None = None
    run_id: str | None = None
    model_digest: str | None = None
    policy_digest: str | None = None
    data_versions: Mapping[str, int] = field(default_factory=dict)
    verdict: str | None = None


@dataclass(frozen=True)
class Decision:
    """One row of the ledger.

    number: its place in the ledger, 0 for the first; the ledger gives it.
    previous_version: what served when it was decided; None: nothing did. reasons: what spoke for it or against it.
    decided_by: who, a person or the policy. statement: the reason a person gave, in their own words.
    """

    decision_id: str
    decided_at: datetime
    action: Action
    subject: Subject
    previous_version: str | None
    reasons: Sequence[str]
    decided_by: str
    dagster_run_id: str
    statement: str | None = None
    number: int = 0

    @property
    def is_move(self) -> bool:
        return self.action not in (Action.REFUSED, Action.UNCHANGED, Action.COPIED)

    def row(self) -> dict[str, Any]:
        """As a row of LEDGER_SCHEMA."""
        own = {name: getattr(self, name) for name in LEDGER_SCHEMA.names if name not in SUBJECT_COLUMNS}
        return {
            **own,
            **asdict(self.subject),
            "action": self.action.value,
            "reasons": list(self.reasons),
            "data_versions": sorted(self.subject.data_versions.items()),
        }

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Decision":
        subject = {name: row[name] for name in SUBJECT_COLUMNS} | {"data_versions": dict(row["data_versions"] or ())}
        own = {name: row[name] for name in LEDGER_SCHEMA.names if name not in SUBJECT_COLUMNS}
        own |= {"action": Action(row["action"]), "reasons": tuple(row["reasons"])}
        return Decision(**own, subject=Subject(**subject))


SUBJECT_COLUMNS = tuple(each.name for each in fields(Subject))
LEDGER_SCHEMA = arrow_schema(
    [
        Column("number", "long"),
        Column("decision_id", "string"),
        Column("decided_at", "timestamp"),
        *of_kind("string", "action", "version", "previous_version", "verdict"),
        Column("reasons", list_of("string")),
        *of_kind("string", "statement", "decided_by", "run_id", "model_digest", "policy_digest"),
        Column("data_versions", map_of("string", "long")),
        Column("dagster_run_id", "string"),
    ]
)


def version_named(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def moment(decision: Decision) -> str:
    return f"{decision.decided_at:%Y-%m-%d %H:%M:%S} UTC"


def headline(decision: Decision) -> str:
    """What was decided about which model, and by whom."""
    subject = decision.subject
    model = version_named(subject.version) if subject.version else f"the model of MLflow run {subject.run_id}"
    return f"{decision.action.value}: {model}, by {decision.decided_by}"


def since_when(move: Decision) -> str:
    """How, since when and by whose decision its version serves."""
    return f"{move.action.value} at {moment(move)} by {move.decided_by}"


def before(decision: Decision) -> str:
    """What served when it was decided; what is no move let it serve on."""
    served = f"{version_named(decision.previous_version)} served"
    return f"{served} before" if decision.is_move else served


def serving(ledger: Sequence[Decision]) -> Decision | None:
    """The decision by which the present version serves; None before the first. In: decisions in order."""
    return next((decision for decision in reversed(ledger) if decision.is_move), None)


def decided(ledger: Sequence[Decision]) -> Decision | None:
    """The decision that let the present version serve; what a repair finished was decided before."""
    moves = (decision for decision in reversed(ledger) if decision.is_move)
    return next((move for move in moves if move.action is not Action.REPAIRED), None)


def earlier_champion(ledger: Sequence[Decision]) -> str | None:
    """The version to go back to: what served before the present one, rollbacks undone; None if there is none.

    A number that has been given to another model since names that one alone: the one before it is gone.
    """
    served: list[tuple[str, str | None]] = []
    for decision in ledger:
        version, digest = decision.subject.version, decision.subject.model_digest
        if not decision.is_move or version is None:
            continue
        if not served and decision.previous_version is not None:
            served.append((decision.previous_version, None))  # it served before there was a ledger
        known = [
            number for number, (served_version, of) in enumerate(served) if (served_version, of) == (version, digest)
        ]
        kept = served[: known[0]] if known else served
        served = [*(each for each in kept if each[0] != version), (version, digest)]
    return served[-2][0] if len(served) > 1 else None


def promoted_digest(ledger: Sequence[Decision], version: str | None) -> str | None:
    """The digest of the model that served as `version`; None if none did."""
    moves = [decision for decision in ledger if decision.is_move and decision.subject.version == version]
    return moves[-1].subject.model_digest if moves else None


def rejection(ledger: Sequence[Decision], model_digest: str) -> str | None:
    """Why the policy may not promote this model again: a person rolled back from it. None if nobody did.

    By the model's digest, because training again on the same data gives the same model another version.
    """
    for number, decision in reversed(list(enumerate(ledger))):
        left = promoted_digest(ledger[:number], decision.previous_version)
        if decision.action is Action.ROLLED_BACK and left == model_digest:
            return (
                f"{decision.decided_by} rolled back from this model ({version_named(decision.previous_version)}) at "
                f"{moment(decision)}: {decision.statement}"
            )
        if decision.is_move and decision.subject.model_digest == model_digest:
            return None
    return None


@dataclass(frozen=True)
class Registered:
    """A version as the registry has it now. model_digest: as it was logged with; None if nothing says so."""

    version: str
    model_digest: str | None


def loss(ledger: Sequence[Decision], promised: Registered | None) -> str | None:
    """How the registry lost the model that serves by the ledger; None if it did not, or nothing serves.

    promised: what the registry has under that number now.
    """
    last = serving(ledger)
    if last is None:
        return None
    number, digest = last.subject.version, last.subject.model_digest
    if promised is None:
        return f"version {number}, which serves by the ledger ({since_when(last)}), was deleted from the registry"
    if digest is None or promised.model_digest == digest:
        return None
    now = "no digest" if promised.model_digest is None else f"digest {promised.model_digest[:12]}"
    return (
        f"version {number}, which serves by the ledger ({since_when(last)}, digest {digest[:12]}), is another model in "
        f"the registry ({now}): it was deleted, and the number given again"
    )


def disagreement(ledger: Sequence[Decision], alias_version: str | None) -> str | None:
    """How the registry differs from the ledger, in words; None if not. alias_version: what `production` names."""
    last = serving(ledger)
    if last is None:
        if alias_version is None:
            return None
        return (
            f"alias production names {version_named(alias_version)}, and the ledger holds no decision that put it there"
        )
    if alias_version == last.subject.version:
        return None
    return (
        f"alias production names {version_named(alias_version)}, but by the ledger "
        f"{version_named(last.subject.version)} serves ({since_when(last)}): "
        f"the alias was moved behind the ledger's back"
    )


def is_unfinished(ledger: Sequence[Decision], alias_version: str | None, finished_id: str | None) -> bool:
    """Whether the last move was written into the ledger and then interrupted before the alias followed.

    alias_version: what `production` names. finished_id: the decision whose move is known to have been finished; with it
    an alias that was moved back by hand is told from one that never moved.
    """
    last = serving(ledger)
    if last is None or alias_version == last.subject.version or finished_id == last.decision_id:
        return False
    return alias_version == last.previous_version

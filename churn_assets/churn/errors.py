"""The named errors of churn work. Each lists everything that is wrong at once and says the next step."""

from collections.abc import Sequence


class ChurnError(Exception):
    """Base of all errors a user can mend: a summary, every problem on its own line, and what to do next."""

    def __init__(self, summary: str, problems: Sequence[str] = (), *, next_step: str = "") -> None:
        self.summary, self.problems, self.next_step = summary, tuple(problems), next_step
        lines = [summary, *(f"  - {problem}" for problem in self.problems)]
        if next_step:
            lines.append(f"Next step: {next_step}")
        super().__init__("\n".join(lines))


class InvalidPolicyError(ChurnError):
    """policy.toml cannot be read, or holds a value the policy does not allow."""


class InvalidCatalogueError(ChurnError):
    """A feature of the catalogue is declared in a way that contradicts itself or the snapshots it reads."""


class InvalidSourcesError(ChurnError):
    """sources.toml cannot be read, or holds a key or value it does not allow."""


class MissingSourceError(ChurnError):
    """A configured source table, or a variable in its path, does not exist."""


class UnreadableSourceError(ChurnError):
    """A configured source exists but cannot be read, or its SELECT cannot be run."""


class SourceEngineError(UnreadableSourceError):
    """The engine itself failed at reading a source or at running its SELECT."""


class EmptySourceError(ChurnError):
    """A configured source table has no rows."""


class SourceSchemaError(ChurnError):
    """A source table lacks a required column or holds it in a type that cannot be converted."""


class UndecidedSegmentsError(ChurnError):
    """Customers have several rows whose segments differ, and no column says which is the latest."""


class NoEligibleCustomersError(ChurnError):
    """No as-of date has an eligible customer, so there is no panel."""


class WatermarkBeyondOrdersError(ChurnError):
    """The policy says that orders are complete up to a day after the last of them."""


class ClockError(ChurnError):
    """The clock contradicts the data: it was set back, or orders lie in the future."""


class NoLabelledSnapshotError(ChurnError):
    """No snapshot's outcome window is over yet, so nothing can be trained or tested."""


class TornTablesError(ChurnError):
    """Tables that belong together come from different versions of their input; a write was interrupted between them."""


class BrokenPanelError(ChurnError):
    """The panel as it stands breaks its contract, whoever wrote it, so nothing is trained on it."""


class StalePanelError(ChurnError):
    """The panel was built under other rules or by other code than now; its values mean something else."""


class UntrainableError(ChurnError):
    """The training rows cannot teach a classifier: none, only one class, or with unknown features."""


class UnfittablePurchaseModelError(ChurnError):
    """The model of repeat purchases cannot be fitted: nobody bought twice, or the histories contradict themselves."""


class UnavailableEstimatorError(ChurnError):
    """The chosen estimator cannot be fitted here: its package cannot be loaded, or Spark Connect has no folder."""


class UnexportableModelError(ChurnError):
    """A fitted pipeline is not of the kind whose trees can be written down and scored with outside Spark."""


class ChangedModelError(ChurnError):
    """A logged model, its threshold or its policy is not the one that was trained, so it cannot be judged as that."""


class UnscorableWeekError(ChurnError):
    """A week cannot be scored: no model in production, no features, or other features; its earlier scores stay."""


class UnlistableWeekError(ChurnError):
    """A week's retention list cannot be made: nobody is scored, or their orders are unknown; its earlier one stays."""


class BrokenContractError(ChurnError):
    """Rows about to be published break the contract of their table; the table stays at its last good version."""


class UnprofiledVersionError(ChurnError):
    """A version scored a week, and what it was trained on can no longer be found out."""

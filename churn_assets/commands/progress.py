"""What a person sees while a job runs: the stages as they begin and end, and what failed."""

import logging
from collections import Counter
from textwrap import fill
from time import perf_counter
from typing import Any, TextIO

import dagster as dg
from dagster import DagsterEventType, EventLogEntry
from dagster._core.errors import DagsterAssetCheckFailedError

from churn_assets.churn.wording import counted
from churn_assets.defs.failures import in_words, is_interruption

STAGE_NAMES = {
    "demo": "Demo lakehouse: simulate QuickBite",
    "lakehouse": "Lakehouse: land the source tables, clean them into silver",
    "features": "Features: the panel, a row for each customer and date",
    "feasibility": "Feasibility: compare churn definitions before anything is trained",
    "splits": "Splits: train and test",
    "training": "Training: fit the pipeline, choose the threshold, log it to MLflow",
    "evaluation": "Evaluation: judge the model on customers it never saw",
    "registry": "Registry: register and promote",
    "scoring": "Scoring: score the latest week by the version in production, list whom to contact, monitor, report",
}
# Their steps take turns, so they are one stage to whoever watches.
TOGETHER = {"monitoring": "scoring"}


# Checks whose answer is the outcome of the run, and not that anything went wrong; what each looked at.
VERDICTS = {"churn_definition_is_feasible": "Feasibility of churn definitions", "recall_gate": "Evaluation"}
ENDS = (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SKIPPED)


class StageProgress:
    """Prints a line as each stage begins, one for each table or model made, and one with the time as it ends.

    Checks are counted at the end of their stage; a line of their own is for those that do not pass.
    """

    def __init__(self, defs: dg.Definitions, job: dg.JobDefinition, terminal: TextIO) -> None:
        self._terminal = terminal
        steps = {node.name for node in job.graph.nodes}
        self._stage_of = {
            step: TOGETHER.get(stage, stage) for step, stage in stage_of_step(defs).items() if step in steps
        }
        self._check_steps = {check.op.name for check in defs.asset_checks or []}
        self._open = Counter(self._stage_of.values())
        self._begun: dict[str, float] = {}
        self._checks: Counter[bool] = Counter()

    def show(self, entry: EventLogEntry) -> None:
        """Takes one event of the run."""
        event = entry.dagster_event
        if event is None and entry.step_key is not None and entry.level == logging.INFO:
            # What a step says of itself, where it takes long.
            print(f"      {entry.user_message}", file=self._terminal, flush=True)
        if event is None or event.step_key is None:
            return
        stage = self._stage_of.get(event.step_key, "")
        if event.event_type is DagsterEventType.STEP_START and stage not in self._begun:
            self._begun[stage] = perf_counter()
            print(f"\n● {STAGE_NAMES.get(stage, stage or event.step_key)}", file=self._terminal)
        elif event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            self._show_check(event.asset_check_evaluation_data)
        elif event.event_type in ENDS:
            self._show_end(event, stage)

    def _show_check(self, evaluation: Any) -> None:
        self._checks[evaluation.passed] += 1
        if not evaluation.passed and evaluation.check_name in VERDICTS:
            print(
                f"    {evaluation.check_name}: no pass; see {VERDICTS[evaluation.check_name]}, below",
                file=self._terminal,
            )
        elif not evaluation.passed:
            word = "failed" if evaluation.severity is dg.AssetCheckSeverity.ERROR else "warning"
            text = f"{word}: check {evaluation.check_name}: {evaluation.description}"
            print(fill(text, 110, initial_indent="    ", subsequent_indent="      "), file=self._terminal)

    def _show_end(self, event: dg.DagsterEvent, stage: str) -> None:
        step = str(event.step_key).removeprefix("food_delivery__")
        if event.event_type is DagsterEventType.STEP_SUCCESS and event.step_key not in self._check_steps:
            print(f"    {step:<48} {event.step_success_data.duration_ms / 1000:6.1f} s", file=self._terminal)
        elif event.event_type is DagsterEventType.STEP_FAILURE and not is_check_failure(event):
            print(f"    {step:<48} FAILED\n{cause_of(event)}", file=self._terminal)
        self._open[stage] -= 1
        if self._open[stage] == 0 and stage in self._begun:
            seconds = perf_counter() - self._begun[stage]
            checks = f", {counted(self._checks[True], 'check', 'checks')} passed" if self._checks[True] else ""
            print(f"  done in {seconds:.1f} s{checks}", file=self._terminal)
            self._checks.clear()


def stage_of_step(defs: dg.Definitions) -> dict[str, str]:
    """The stage (asset group) of each step, of assets and of checks."""
    stages: dict[str, str] = {}
    group_of: dict[dg.AssetKey, str] = {}
    for asset in defs.assets or []:
        if isinstance(asset, dg.AssetSpec):  # no step makes it, but a check may look at it
            group_of[asset.key] = str(asset.group_name)
            continue
        assert isinstance(asset, dg.AssetsDefinition)
        group_of |= asset.group_names_by_key
        stages[asset.op.name] = next(iter(asset.group_names_by_key.values()))
    for check in defs.asset_checks or []:
        assert isinstance(check, dg.AssetChecksDefinition)
        stages[check.op.name] = group_of[next(iter(check.check_keys)).asset_key]
    return stages


def cause_of(event: dg.DagsterEvent) -> str:
    """What is wrong with the failed step and what to do, without Dagster's frames."""
    error = event.step_failure_data.error
    text = "interrupted" if is_interruption(error) else in_words(error)
    return "\n".join(f"      {line}" for line in text.splitlines())


def is_check_failure(event: dg.DagsterEvent) -> bool:
    """Whether a step failed by a blocking check alone, which has told what it found."""
    error = event.step_failure_data.error
    return error is not None and error.cls_name == DagsterAssetCheckFailedError.__name__


def is_verdict(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run ended early by nothing but the answer of one of VERDICTS."""
    failures = [event for event in result.all_events if event.event_type is DagsterEventType.STEP_FAILURE]
    found = [each for each in result.get_asset_check_evaluations() if each.blocking and not each.passed]
    stopped_by = {each.check_name for each in found if each.severity is dg.AssetCheckSeverity.ERROR}
    return bool(stopped_by) and stopped_by <= VERDICTS.keys() and all(map(is_check_failure, failures))


def was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run failed because somebody stopped it: Ctrl-C, or `kill`."""
    failures = [event for event in result.all_events if event.event_type is DagsterEventType.STEP_FAILURE]
    return any(is_interruption(event.step_failure_data.error) for event in failures)

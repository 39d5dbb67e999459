"""`churn-assets check`: the asset checks on the tables as they stand: which to run, and what came of each."""

import argparse
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import dagster as dg
from dagster import DagsterEventType

from churn_assets.churn.errors import ChurnError
from churn_assets.commands.check_reports import Checked, Status, as_junit, as_markdown, as_table
from churn_assets.commands.progress import cause_of
from churn_assets.commands.terminal import DONE, FAILED, INTERRUPTED, UNEVALUATED
from churn_assets.definitions import CHECKS, build_defs, default_resources
from churn_assets.defs.failures import failure_in_words
from churn_assets.resources.settings import Settings


class UnknownSelectionError(ChurnError):
    """A name asked for is neither an asset with checks nor a check."""


def run_checks(defs: dg.Definitions, instance: dg.DagsterInstance, names: Sequence[str] = ()) -> list[Checked]:
    """Runs the checks `names` ask for (assets or checks; none: all) as the job `churn_checks`; the worst come first.

    Raises UnknownSelectionError.
    """
    chosen = selected(defs, names)
    job = defs.resolve_job_def(CHECKS).get_subset(asset_check_selection=_evaluated_together(defs, chosen))
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    evaluations = {event.asset_check_key: event for event in result.get_asset_check_evaluations()}
    causes = _causes(defs, result)
    checked = [
        _evaluated(key, evaluations[key])
        if key in evaluations
        else _unknown(key, causes.get(key, "no result was recorded"))
        for key in chosen
    ]
    order = list(Status)
    return sorted(checked, key=lambda each: (order.index(each.status), each.asset, each.check))


def selected(defs: dg.Definitions, names: Sequence[str]) -> set[dg.AssetCheckKey]:
    """The checks of the assets and the checks that `names` name; all of them if there is no name."""
    keys = {key for each in _check_definitions(defs) for key in each.check_keys}
    named = {name: {key for key in keys if name in _names(key)} for name in names}
    unknown = [name for name, chosen in named.items() if not chosen]
    if unknown:
        known = sorted({name for key in keys for name in (_asset(key), key.name)})
        raise UnknownSelectionError(
            "No asset with checks and no check has this name.", unknown, next_step=f"choose of {', '.join(known)}"
        )
    return set().union(*named.values()) if names else keys


def _evaluated_together(defs: dg.Definitions, chosen: set[dg.AssetCheckKey]) -> set[dg.AssetCheckKey]:
    """`chosen`, and what the functions that cannot be run for some of their checks evaluate with them."""
    together = [
        chosen.intersection(each.check_keys) if each.can_subset else each.check_keys
        for each in _check_definitions(defs)
        if chosen.intersection(each.check_keys)
    ]
    return set().union(*together)


def _check_definitions(defs: dg.Definitions) -> list[dg.AssetChecksDefinition]:
    return [each for each in defs.asset_checks or [] if isinstance(each, dg.AssetChecksDefinition)]


def _asset(key: dg.AssetCheckKey) -> str:
    return key.asset_key.to_user_string()


def _names(key: dg.AssetCheckKey) -> tuple[str, ...]:
    return _asset(key), key.asset_key.path[-1], key.name


def _evaluated(key: dg.AssetCheckKey, evaluation: dg.AssetCheckEvaluation) -> Checked:
    is_warning = evaluation.severity is dg.AssetCheckSeverity.WARN
    status = Status.PASSED if evaluation.passed else Status.WARNING if is_warning else Status.FAILED
    return Checked(
        _asset(key), key.name, status, _text(evaluation.metadata, "observed"), _text(evaluation.metadata, "allowed")
    )


def _unknown(key: dg.AssetCheckKey, cause: str) -> Checked:
    return Checked(_asset(key), key.name, Status.UNKNOWN, cause, "")


def _text(metadata: Mapping[str, Any], name: str) -> str:
    return str(metadata[name].value) if name in metadata else ""


def _causes(defs: dg.Definitions, result: dg.ExecuteInProcessResult) -> dict[dg.AssetCheckKey, str]:
    """What each function that raised said, by the checks it reports."""
    keys = {each.op.name: each.check_keys for each in _check_definitions(defs)}
    failures = [event for event in result.all_events if event.event_type is DagsterEventType.STEP_FAILURE]
    return {key: cause_of(event).strip() for event in failures for key in keys.get(str(event.step_key), ())}


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    try:
        resources = default_resources(settings)
        defs = build_defs(resources)
        selected(defs, arguments.select)
        begun = perf_counter()
        with dg.DagsterInstance.get() as instance:
            checked = run_checks(defs, instance, arguments.select)
    except dg.DagsterExecutionInterruptedError:
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - whatever keeps the checks from being asked, none of them failed
        traceback.print_exc()
        print(f"\n{failure_in_words()}\nThe whole of it is in {log}", file=terminal)
        return UNEVALUATED
    seconds = perf_counter() - begun
    print(f"\n{as_table(checked)}", file=terminal)
    print(f"Checked in {seconds:.1f} s.", file=terminal)
    for file, text in ((arguments.junit, as_junit(checked, seconds)), (arguments.markdown, as_markdown(checked))):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    statuses = {each.status for each in checked}
    return UNEVALUATED if Status.UNKNOWN in statuses else FAILED if Status.FAILED in statuses else DONE

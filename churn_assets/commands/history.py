"""`churn-assets history`: who serves, since when, on which data, by whose decision. Needs no JVM."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill, indent
from typing import TextIO

from churn_assets.churn.errors import ChurnError
from churn_assets.churn.ledger import Decision, before, decided, headline, moment, serving, version_named
from churn_assets.commands.terminal import DONE, FAILED
from churn_assets.definitions import default_resources
from churn_assets.resources.promotions import PromotionsResource, State
from churn_assets.resources.settings import Settings
from churn_assets.resources.tracking import PRODUCTION, STAGING

WIDTH = 110


class MissingLakehouseError(ChurnError):
    """There is no lakehouse, so nothing is known of any decision."""


def history(promotions: PromotionsResource, state: State | None = None) -> str:
    """The version that serves with all that led to it, whether registry and ledger agree, and every decision.

    state: as it was read before (default: it is read now).
    """
    state = promotions.state() if state is None else state
    staged = promotions.tracking.version_under(STAGING)
    # Consumers load what the alias names, whatever the ledger says.
    headline_of = (
        "Serving" if state.disagreement is None else f"Serving: {version_named(state.champion)}; by the ledger:"
    )
    lines = [headline_of, *_serving_lines(promotions, state.ledger), "", "Registry"]
    lines.append(f"  alias {PRODUCTION:<11} {version_named(state.champion)}")
    lines.append(f"  alias {STAGING:<11} {version_named(None if staged is None else str(staged.version))}")
    if state.is_unfinished:
        lines.append("  the last decision was interrupted before the alias moved: materialize production_churn_model")
    elif state.disagreement is not None:
        lines.append(fill(state.disagreement, WIDTH, initial_indent="  ", subsequent_indent="  "))
    else:
        lines.append("  the registry agrees with the ledger")
    lines += ["", f"Decisions ({len(state.ledger)}), the latest first"]
    for decision in reversed(state.ledger):
        lines += _decision_lines(decision)
    return "\n".join(lines)


def _serving_lines(promotions: PromotionsResource, ledger: Sequence[Decision]) -> Iterator[str]:
    last, first = serving(ledger), decided(ledger)
    if last is None or first is None:
        yield "  nothing: no decision to let a version serve is in the ledger"
        return
    subject, tracking = last.subject, promotions.tracking
    served = tracking.version(subject.version)
    lost = None if served is None else tracking.lost_run(served)
    # Of a version that is gone its run still tells.
    trained = tracking.trained_model(str(subject.run_id)) if served is None else tracking.trained_model_of(served)
    span = trained.dates
    yield f"  {tracking.registered_model} version {subject.version}"
    yield f"  since        {moment(last)}"
    yield f"  replaced     {version_named(first.previous_version)}"
    yield f"  decided by   {first.decided_by} ({first.action.value})"
    if first.statement:
        yield fill(first.statement, WIDTH, initial_indent="  because      ", subsequent_indent=" " * 15)
    yield f"  trained      {trained.trained_at:%Y-%m-%d %H:%M:%S} UTC, code {trained.code_commit}"
    yield f"  learned from {len(span.train)} as-of dates, {min(span.train)} to {max(span.train)}; tested at {span.test}"
    yield f"  MLflow run   {subject.run_id}"
    if lost is not None:
        yield fill(lost, WIDTH, initial_indent=" " * 15, subsequent_indent=" " * 15)
    yield f"  Dagster run  {last.dagster_run_id}"
    yield f"  policy       {subject.policy_digest}"
    yield f"  model digest {subject.model_digest}"
    for number, (table, version) in enumerate(sorted(trained.evidence.data_versions.items())):
        yield f"  {'tables' if number == 0 else '':<12} {table} version {version}"


def _decision_lines(decision: Decision) -> Iterator[str]:
    yield f"  {moment(decision)}  {headline(decision)}"
    verdict = decision.subject.verdict or "not asked for"
    details = [before(decision), f"verdict {verdict}", f"Dagster run {decision.dagster_run_id}"]
    if decision.statement:
        details.append(f"because: {decision.statement}")
    yield indent(fill("; ".join(details), WIDTH - 6), " " * 6)
    for reason in decision.reasons:
        yield fill(reason, WIDTH, initial_indent="      - ", subsequent_indent="        ")


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    """Exit code 1 where ledger and registry disagree, or where there is no lakehouse to ask."""
    promotions: PromotionsResource = default_resources(settings)["promotions"]
    root = promotions.lakehouse.root
    if settings.tables == "paths" and "://" not in root and not Path(root).is_dir():
        raise MissingLakehouseError(
            f"There is no lakehouse at {root}.",
            next_step="set CHURN_LAKEHOUSE or CHURN_PROJECT to where it is; `make demo` or `make run` makes one",
        )
    state = promotions.state()
    print(f"\n{history(promotions, state)}", file=terminal)
    return DONE if state.disagreement is None else FAILED

"""Stage 3: whether a verdict can be reached at all, before anything is trained."""

import dagster as dg
import pyarrow as pa

from churn_assets.churn.contract import PANEL_CHECKS
from churn_assets.churn.errors import BrokenPanelError
from churn_assets.churn.feasibility import (
    FEASIBILITY_SCHEMA,
    Feasibility,
    feasible_outcome,
    require_feasible,
)
from churn_assets.churn.outcomes import broken_rules
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.lakehouse import SILVER
from churn_assets.defs.origins import origin_of
from churn_assets.defs.panel_contract import stored_outcomes
from churn_assets.defs.results import OWNERS, TABLE_KINDS, check_evaluation, check_result, table_result
from churn_assets.pages.tables import feasibility_table
from churn_assets.resources.lakehouse import LakehouseResource

GROUP = "feasibility"
FEASIBILITY = "food_delivery/label_feasibility"


@dg.asset(
    key=FEASIBILITY.split("/"),
    deps=[PANEL.split("/"), BASELINE.split("/"), SILVER.split("/")],
    group_name=GROUP,
    kinds=TABLE_KINDS,
    owners=OWNERS,
    code_version="1",
)
def churn_label_feasibility(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """Each candidate churn definition: how many churners it gives, how sure a recall would be, what is attainable."""
    inputs, before = lakehouse.pin(PANEL), lakehouse.version(FEASIBILITY)
    require_checked_panel(context, lakehouse, inputs[PANEL], policy)
    inputs |= lakehouse.inputs(PANEL, inputs[PANEL])
    candidates = origin_of(lakehouse, inputs[PANEL], policy).candidates()
    rows = pa.Table.from_pylist([row.row(policy) for row in candidates], FEASIBILITY_SCHEMA)
    commit = lakehouse.overwrite(FEASIBILITY, rows, since=before, metadata={"inputs": inputs})
    chosen = next(row for row in candidates if row.is_chosen)
    return table_result(
        commit,
        {
            "inputs": inputs,
            "verdict": chosen.verdict,
            "churn_definition": chosen.definition,
            "candidates": dg.MetadataValue.md(feasibility_table(candidates)),
        },
    )


def require_checked_panel(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, version: int, policy: ChurnPolicy
) -> None:
    """Runs the panel's checks unless this run has: a run of chosen assets leaves out the checks of those not chosen.

    That is what Dagster's *Materialize* buttons start. What is found is recorded as the outcome of those checks.
    Raises BrokenPanelError.
    """
    if all(_is_checked_in(context.instance, context.run.run_id, rule) for rule in PANEL_CHECKS):
        return
    outcomes = list(stored_outcomes(lakehouse, version, set(PANEL_CHECKS), policy))
    for outcome in outcomes:
        context.log_event(check_evaluation(outcome, PANEL))
    broken = broken_rules(outcomes)
    if broken:
        raise BrokenPanelError(
            f"Version {version} of {PANEL} breaks {len(broken)} of its rules, so nothing is trained on it.",
            broken,
            next_step=f"materialize {PANEL} again, or ask whoever wrote this version",
        )


def _is_checked_in(instance: dg.DagsterInstance, run_id: str, rule: str) -> bool:
    """Whether the latest check of this rule of the panel is this run's."""
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(dg.AssetKey(PANEL.split("/")), rule))
    if record is None or record.run_id != run_id or record.event is None or record.event.dagster_event is None:
        return False
    # Until then it is only planned.
    return record.event.dagster_event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION


def require_feasible_definition(lakehouse: LakehouseResource, panel_version: int, policy: ChurnPolicy) -> None:
    """Raises NotFeasibleError unless FEASIBLE is recorded for this version of the panel and this policy."""
    is_of_panel = lakehouse.has(FEASIBILITY) and lakehouse.inputs(FEASIBILITY).get(PANEL) == panel_version
    require_feasible(lakehouse.records(FEASIBILITY) if is_of_panel else [], policy)


@dg.asset_check(
    asset=FEASIBILITY.split("/"),
    name="churn_definition_is_feasible",
    blocking=True,
    description="The policy's churn definition gives enough churners for a verdict, and an attainable recall.",
)
def churn_definition_is_feasible(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.AssetCheckResult:
    rows = lakehouse.records(FEASIBILITY)
    candidates = [Feasibility(**{name: row[name] for name in row if name != "policy_digest"}) for row in rows]
    return check_result(feasible_outcome(candidates, policy))

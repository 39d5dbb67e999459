"""Stage 3: whether a verdict can be reached at all, before anything is trained."""

import dagster as dg

from churn_assets.churn.errors import StalePanelError
from churn_assets.churn.feasibility import (
    FEASIBILITY_SCHEMA,
    Feasibility,
    feasibility_table,
    feasible_outcome,
    label_feasibility,
    require_feasible,
)
from churn_assets.churn.features import as_of_calendar
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.lakehouse import SILVER
from churn_assets.defs.results import OWNERS, TABLE_KINDS, check_result, table_result
from churn_assets.resources.lakehouse import LakehouseResource

GROUP = "s3_feasibility"
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
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """Each candidate churn definition: how many churners it gives, how sure a recall would be, what is attainable."""
    inputs = lakehouse.pin(PANEL)
    require_panel_of(lakehouse, inputs[PANEL], policy)
    inputs |= lakehouse.inputs(PANEL, inputs[PANEL])
    silver = lakehouse.read(SILVER, inputs[SILVER])
    found = label_feasibility(
        lakehouse.read(BASELINE, inputs[BASELINE]), silver, as_of_calendar(silver, policy), policy
    )
    rows = lakehouse.spark.createDataFrame([row.row(policy) for row in found], FEASIBILITY_SCHEMA)
    commit = lakehouse.write(FEASIBILITY, rows, metadata={"inputs": inputs})
    chosen = next(row for row in found if row.is_chosen)
    return table_result(
        commit,
        {
            "inputs": inputs,
            "verdict": chosen.verdict,
            "churn_definition": chosen.definition,
            "candidates": dg.MetadataValue.md(feasibility_table(found)),
        },
    )


def require_panel_of(lakehouse: LakehouseResource, version: int, policy: ChurnPolicy) -> None:
    """Raises StalePanelError if the panel's rows follow other rules (windows, churn definition, …) than the policy."""
    built_by = lakehouse.commit_metadata(PANEL, version).get("panel_digest")
    if built_by != policy.panel_digest:
        raise StalePanelError(
            f"Version {version} of {PANEL} was built under other rules than policy.toml states now.",
            [f"its windows, churn definition or cleaning have digest {built_by}; now it is {policy.panel_digest}"],
            next_step=f"materialize {PANEL} and what is upstream of it again",
        )


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
def churn_definition_is_feasible(lakehouse: LakehouseResource) -> dg.AssetCheckResult:
    rows = lakehouse.records(FEASIBILITY)
    found = [Feasibility(**{name: row[name] for name in row if name != "policy_digest"}) for row in rows]
    return check_result(feasible_outcome(found))

"""The rules of the feature panel as it stands, whoever wrote it, and from whatever it was made."""

from collections.abc import Iterator, Set

import dagster as dg

from churn_assets.churn.contract import AS_REBUILT, NO_FUTURE_LEAKAGE, PANEL_CHECKS, panel_outcomes
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.audits import remembered_outcomes
from churn_assets.defs.features import PANEL
from churn_assets.defs.origins import origin_of
from churn_assets.defs.results import check_result
from churn_assets.resources.lakehouse import LakehouseResource

PANEL_RULE_MEANINGS = {
    "columns_and_types": "The columns are the declared ones in the declared types.",
    "no_nulls": "Every key and feature has a value; the label alone may be unknown.",
    "ranges": "Every feature lies in the range the catalogue declares.",
    "one_row_per_customer_and_date": "A customer appearing twice would be trained on twice and contacted twice.",
    "label_is_binary": "The label is 0, 1 or not yet known.",
    "no_empty_snapshot": "Every as-of date from the first to the last has rows, but those after a gap or a closure.",
    NO_FUTURE_LEAKAGE: "No feature of the latest labelled date changes without all that came from that date on.",
    "informative_features": "A feature with one value everywhere tells nothing; absent sources make theirs so.",
}


@dg.multi_asset_check(
    name="ml_churn_features__contract",
    specs=[
        dg.AssetCheckSpec(
            rule,
            asset=PANEL.split("/"),
            blocking=rule != "informative_features",
            description=PANEL_RULE_MEANINGS[rule],
        )
        for rule in PANEL_CHECKS
    ],
    can_subset=True,
)
def ml_churn_features_contract(
    context: dg.AssetCheckExecutionContext, lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """The rules of the panel as it stands, whoever wrote it. A JVM starts only for what no record decides."""
    rules = {key.name for key in context.selected_asset_check_keys}
    for outcome in stored_outcomes(lakehouse, lakehouse.pin(PANEL)[PANEL], rules, policy):
        yield check_result(outcome, PANEL)


def as_rebuilt_check() -> dg.AssetChecksDefinition:
    """Tells whether what a refresh takes for untouched is; of a panel that is computed from orders."""

    @dg.asset_check(
        asset=PANEL.split("/"),
        name=AS_REBUILT,
        blocking=True,
        description="One date of those that the last refresh left alone, another each time, is computed again from the "
        "orders and is the same to the last digit.",
    )
    def as_rebuilt(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.AssetCheckResult:
        return check_result(origin_of(lakehouse, lakehouse.pin(PANEL)[PANEL], policy).rebuilt_outcome())

    return as_rebuilt


def stored_outcomes(
    lakehouse: LakehouseResource, version: int, rules: Set[str], policy: ChurnPolicy
) -> Iterator[Outcome]:
    """Those of the panel's `rules` that are asked for; Spark reads only for what no audit remembers."""
    audit = remembered_outcomes(lakehouse, {PANEL: version}, policy)
    yield from (outcome for outcome in audit if outcome.rule in rules)
    left, origin = rules - {outcome.rule for outcome in audit}, origin_of(lakehouse, version, policy)
    if left - {NO_FUTURE_LEAKAGE}:
        yield from panel_outcomes(lakehouse.read(PANEL, version), left, policy.catalogue, origin.calendar())
    if NO_FUTURE_LEAKAGE in left:
        yield origin.future_outcome()

"""Stage 9, of the lists: what came of the customers on past ones, and whether contacting them kept any."""

from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from churn_assets.churn.campaigns import (
    ALL_TIERS,
    COUNTED_BY,
    EFFECT_COLUMNS,
    EFFECT_SCHEMA,
    campaign_effects,
    campaign_outcomes,
)
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.features import PANEL
from churn_assets.defs.results import ColumnNote, bullets, described, same_columns, table_result, table_spec
from churn_assets.defs.retention import CONTACTS, OUTCOMES, TARGETS, members
from churn_assets.defs.scoring import MONITORING_GROUP
from churn_assets.resources.lakehouse import LakehouseResource

EFFECT = "food_delivery/campaign_effect"
NOTES = {
    **described(EFFECT_COLUMNS),
    **same_columns(["customer_id", "as_of", "risk_tier"], CONTACTS, {"as_of": "the date of the list"}),
    "arm": ColumnNote("what the list chose, whether or not the customer could be reached"),
    "is_contacted": ColumnNote("whether the customer was contacted", [(CONTACTS, "contacted_at")]),
    "contacted_at": ColumnNote("when; null for whoever was not", [(CONTACTS, "contacted_at")]),
    "is_retained": ColumnNote("whether the customer stayed; null until known", [(PANEL, "label")]),
    "problem": ColumnNote("why the row does not count; null where it does"),
}


@dg.multi_asset(
    name="campaign_effect",
    specs=[
        table_spec(
            OUTCOMES,
            "Each customer on a retention list that was used, and whether they stayed; rows that cannot count have a "
            "reason.",
            group=MONITORING_GROUP,
            deps=[CONTACTS, TARGETS, PANEL],
        ),
        table_spec(
            EFFECT,
            "What each list changed: the share retained of those to contact against those held out, with its interval, "
            "by risk tier.",
            group=MONITORING_GROUP,
            deps=[CONTACTS, TARGETS, PANEL],
        ),
    ],
)
def campaign_effect(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.MaterializeResult]:
    """Compares, for every list, those to contact with those held out."""
    # The lists too: they say who was held out, and a verdict about these outcomes holds for these inputs alone.
    inputs = lakehouse.pin(CONTACTS, PANEL, *[table for table in (TARGETS,) if lakehouse.has(table)])
    before = lakehouse.version(EFFECT)
    panel = lakehouse.read(PANEL, inputs[PANEL])
    snapshots = lakehouse.dates(PANEL, "as_of", inputs[PANEL])
    outcomes = campaign_outcomes(members(lakehouse, inputs[CONTACTS], inputs.get(TARGETS)), panel, snapshots)
    # The members first: the effect is computed from what is published of them.
    written = lakehouse.write(OUTCOMES, outcomes, metadata={"inputs": inputs})
    effects = campaign_effects(lakehouse.counts(OUTCOMES, COUNTED_BY, written.version), policy)
    rows = pa.Table.from_pylist([effect.row() for effect in effects], EFFECT_SCHEMA)
    commit = lakehouse.overwrite(EFFECT, rows, since=before, metadata={"inputs": {OUTCOMES: written.version}})
    statements = [f"{effect.as_of}: {effect.statement}" for effect in effects if effect.risk_tier == ALL_TIERS]
    yield table_result(written, {"inputs": inputs}, NOTES)
    yield table_result(
        commit, {"inputs": inputs, "effect": bullets(statements or ["no list has been used yet"])}, NOTES
    )

"""Stages 1 and 2 where sources.toml names a ready feature table: it is checked and published as the panel."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import Catalogue
from churn_assets.churn.contract import delivered_outcomes, panel_schema, require_whole_dates
from churn_assets.churn.delivered import MOST_DAYS_OLD, Delivered
from churn_assets.churn.errors import SourceSchemaError
from churn_assets.churn.labels import definition, shares_of
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.tables import SourceTable, as_canonical
from churn_assets.defs.audits import audited
from churn_assets.defs.erasures import without_forgotten
from churn_assets.defs.features import BASELINE, GROUP, PANEL, add_snapshots, panel_notes
from churn_assets.defs.origins import origin_of
from churn_assets.defs.panel_code import panel_code
from churn_assets.defs.refreshing import DIGEST
from churn_assets.defs.results import (
    OWNERS,
    TABLE_KINDS,
    ColumnNote,
    as_metadata,
    check_result,
    described,
    table_result,
)
from churn_assets.pages.pictures import churn_by_date, drawn
from churn_assets.pages.tables import features_table
from churn_assets.resources.feature_tables import BASELINE_TABLE, feature_table
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.sources import SourceCatalog


def front(catalogue: Catalogue) -> tuple[Sequence[dg.AssetsDefinition], Sequence[dg.AssetChecksDefinition]]:
    """The assets and checks that lead to the panel of a delivered `catalogue`, in place of those of orders."""
    delivered = catalogue.delivered
    assert delivered is not None, "a catalogue of features that others compute"
    rule = [_baseline()] if delivered.has_rule else []
    return [*rule, _panel(delivered)], [_newest_snapshot(delivered)]


def _baseline() -> dg.AssetsDefinition:
    @dg.asset(
        key=BASELINE.split("/"),
        group_name=GROUP,
        kinds=TABLE_KINDS,
        owners=OWNERS,
        code_version="1",
        description="The retention team's rule of each customer and as-of date, as it is delivered ([baseline]).",
    )
    def gold_customer_churn_risk(
        lakehouse: LakehouseResource, sources: dg.ResourceParam[SourceCatalog]
    ) -> dg.MaterializeResult:
        raw = _opened(lakehouse, sources, BASELINE_TABLE)
        with sources.explained(lakehouse.spark, BASELINE_TABLE):
            rows = without_forgotten(lakehouse, as_canonical(raw, BASELINE_TABLE))
            commit = lakehouse.write(BASELINE, rows)
        return table_result(commit, {}, described(BASELINE_TABLE.columns))

    return gold_customer_churn_risk


def _panel(delivered: Delivered) -> dg.AssetsDefinition:
    @dg.asset(
        key=PANEL.split("/"),
        deps=[BASELINE.split("/")] if delivered.has_rule else [],
        group_name=GROUP,
        kinds=TABLE_KINDS,
        owners=OWNERS,
        code_version="1",
        description="One row per customer and as-of date, as the ready feature table of sources.toml delivers it: what "
        "was known then, and whether they left (null until known).",
    )
    def ml_churn_features(
        context: dg.AssetExecutionContext,
        lakehouse: LakehouseResource,
        policy: dg.ResourceParam[ChurnPolicy],
        sources: dg.ResourceParam[SourceCatalog],
    ) -> dg.MaterializeResult:
        table = feature_table(policy.catalogue)
        raw = _opened(lakehouse, sources, table)
        with sources.explained(lakehouse.spark, table):
            require_whole_dates(raw, "as_of")
        rows = without_forgotten(lakehouse, as_canonical(raw, table))
        if "label" not in rows.columns:
            rows = rows.withColumn("label", F.lit(None).cast("double"))
        inputs = lakehouse.pin(BASELINE) if delivered.has_rule else {}
        today = datetime.now(UTC).date()
        with sources.explained(lakehouse.spark, table):
            commit = lakehouse.write(
                PANEL,
                rows.select(*panel_schema(policy.catalogue).names),
                audit=lambda staged: audited(delivered_outcomes(staged, policy.catalogue, today), PANEL, policy),
                metadata={
                    "inputs": inputs,
                    DIGEST: policy.panel_digest(panel_code()),
                    "attestation": "; ".join(policy.catalogue.attestations),
                },
            )
        shares = shares_of(origin_of(lakehouse, commit.version, policy).counted())
        add_snapshots(context.instance, [snapshot.as_of for snapshot in shares])
        labelled = [str(snapshot.as_of) for snapshot in shares if snapshot.churn is not None]
        return table_result(
            commit,
            {
                "inputs": inputs,
                "churn_by_as_of_date": as_metadata(
                    drawn(churn_by_date(shares, policy.crisis_delay_minutes, policy.windows))
                ),
                "snapshots": len(shares),
                "last_labelled_as_of": labelled[-1] if labelled else "none yet",
                "churn_definition": definition(policy),
                "attestation": delivered.attestation or "nobody vouches for it",
                "features": dg.MetadataValue.md(features_table(policy.catalogue.features)),
            },
            # Of what the columns were computed, nobody here knows.
            {name: ColumnNote(note.meaning) for name, note in panel_notes(policy).items()},
        )

    return ml_churn_features


def _opened(lakehouse: LakehouseResource, sources: SourceCatalog, table: SourceTable) -> DataFrame:
    """The rows of a table that sources.toml names. Raises SourceSchemaError if a value is not what is declared.

    As null it would be a label that is not known yet, or a customer without a score of the rule.
    """
    opened = sources.examined(lakehouse.spark, table)
    assert opened is not None, f"sources.toml names [{table.name}]"
    if opened.unreadable:
        raise SourceSchemaError(
            f"Source table {table.name}: values cannot be read, and nothing of a ready table is set aside.",
            [str(each) for each in opened.unreadable],
            next_step=f"say under [{table.name}.convert] in sources.toml how these values are written, or mend them",
        )
    return opened.rows


def _newest_snapshot(delivered: Delivered) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=PANEL.split("/"),
        name="newest_snapshot",
        description="The newest as-of date of the feature table is not older than such a table's should be.",
    )
    def newest_snapshot(lakehouse: LakehouseResource) -> dg.AssetCheckResult:
        newest = max(lakehouse.dates(PANEL, "as_of"), default=None)
        most = MOST_DAYS_OLD[delivered.every]
        days = None if newest is None else (datetime.now(UTC).date() - newest).days
        observed = "no as-of date" if days is None else f"{newest}, {days} days before today"
        is_recent = days is not None and days <= most
        allowed = f"at most {most} days, of a table with an as-of date every {delivered.every}"
        return check_result(Outcome("newest_snapshot", is_recent, observed, allowed, is_warning=True))

    return newest_snapshot

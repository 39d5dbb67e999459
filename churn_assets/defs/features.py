"""Stage 2: the baseline rule and the feature panel, computed from silver."""

from collections.abc import Sequence
from datetime import date, timedelta

import dagster as dg

from churn_assets.churn.calendar import AsOfCalendar, calendar_of
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.contract import audit_outcomes
from churn_assets.churn.features import (
    customer_snapshots,
    feature_panel,
    no_eligible_customers,
    with_baseline_rule,
)
from churn_assets.churn.labels import SHARED_BY, definition, label_reads, shares_of, with_labels
from churn_assets.churn.observed import KEYS, RULE_COLUMNS, SNAPSHOT_COLUMNS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.audits import audited
from churn_assets.defs.lakehouse import SILVER, stored_days
from churn_assets.defs.panel_code import panel_code
from churn_assets.defs.results import (
    OWNERS,
    TABLE_KINDS,
    ColumnNote,
    as_metadata,
    same_columns,
    table_result,
)
from churn_assets.pages.pictures import churn_by_date, drawn
from churn_assets.pages.tables import features_table
from churn_assets.resources.lakehouse import LakehouseResource

GROUP = "features"
BASELINE = "food_delivery/gold_customer_churn_risk"
PANEL = "food_delivery/ml_churn_features"
# The panel is one table; what is scored by week is partitioned by its snapshots.
SNAPSHOTS = dg.DynamicPartitionsDefinition(name="snapshots")


@dg.asset(
    key=BASELINE.split("/"),
    deps=[SILVER.split("/")],
    group_name=GROUP,
    kinds=TABLE_KINDS,
    owners=OWNERS,
    code_version="2",
)
def gold_customer_churn_risk(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """What was observed of each eligible customer by each as-of date, and the retention team's rule on it."""
    inputs = lakehouse.pin(SILVER)
    silver = lakehouse.read(SILVER, inputs[SILVER])
    calendar = stored_calendar(lakehouse, inputs[SILVER], policy)
    rows = with_baseline_rule(customer_snapshots(silver, calendar, policy), policy)
    commit = lakehouse.write(
        BASELINE,
        rows,
        if_empty=no_eligible_customers(calendar, policy),
        metadata={"inputs": inputs},
    )
    span = {"first_as_of": str(calendar.first), "last_as_of": str(calendar.last), "watermark": str(calendar.watermark)}
    notes = {
        name: ColumnNote(column.meaning, [(SILVER, read) for read in column.reads])
        for name, column in {**KEYS, **SNAPSHOT_COLUMNS, **RULE_COLUMNS}.items()
    }
    return table_result(commit, {"inputs": inputs, "snapshots": len(calendar.dates), **span}, notes)


@dg.asset(
    key=PANEL.split("/"),
    deps=[SILVER.split("/"), BASELINE.split("/")],
    group_name=GROUP,
    kinds=TABLE_KINDS,
    owners=OWNERS,
    code_version="2",
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=14), warn_window=timedelta(days=8)),
)
def ml_churn_features(
    context: dg.AssetExecutionContext, lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """One row per eligible customer and as-of date: what was known then, and whether they left (null until known)."""
    baseline = lakehouse.pin(BASELINE)
    inputs = {**lakehouse.inputs(BASELINE), **baseline}
    # The silver that the baseline was computed from, so that features and labels see the same orders.
    silver = lakehouse.read(SILVER, inputs[SILVER])
    calendar = stored_calendar(lakehouse, inputs[SILVER], policy)
    snapshots = lakehouse.read(BASELINE, inputs[BASELINE])
    panel = feature_panel(with_labels(snapshots, silver, calendar, policy), policy)
    commit = lakehouse.write(
        PANEL,
        panel,
        audit=lambda staged: audited(audit_outcomes(staged, silver, policy, calendar), PANEL, policy),
        metadata={"inputs": inputs, "panel_digest": policy.panel_digest(panel_code())},
    )
    shares = shares_of(lakehouse.counts(PANEL, SHARED_BY, commit.version))
    add_snapshots(context.instance, [snapshot.as_of for snapshot in shares])
    last_labelled = calendar.last_labelled(policy.windows.outcome_days)
    return table_result(
        commit,
        {
            "inputs": inputs,
            "churn_by_as_of_date": as_metadata(drawn(churn_by_date(shares, policy.crisis_delay_minutes))),
            "snapshots": len(calendar.dates),
            "last_labelled_as_of": str(last_labelled or "none yet"),
            "churn_definition": definition(policy),
            "features": dg.MetadataValue.md(features_table(FEATURES)),
        },
        panel_notes(policy),
    )


def stored_calendar(lakehouse: LakehouseResource, silver_version: int, policy: ChurnPolicy) -> AsOfCalendar:
    """The calendar that a version of silver allows. Needs no JVM. Raises as `calendar_of` does."""
    return calendar_of(stored_days(lakehouse, silver_version), policy)


def add_snapshots(instance: dg.DagsterInstance, dates: Sequence[date]) -> None:
    """Makes the panel's as-of dates partition keys, in their order; those that are keys already stay."""
    instance.add_dynamic_partitions(str(SNAPSHOTS.name), [day.isoformat() for day in dates])


def panel_notes(policy: ChurnPolicy) -> dict[str, ColumnNote]:
    """What the panel's columns mean and which columns of the baseline table and silver they are computed from."""
    features = {
        feature.name: ColumnNote(f"{feature.meaning}: {feature.formula}", [(BASELINE, read) for read in feature.reads])
        for feature in policy.catalogue.features
    }
    table_of = {"silver": SILVER, "snapshots": BASELINE}
    label = ColumnNote(
        f"1: left, with {definition(policy)}; 0: stayed; null: not yet known",
        [(table_of[name], read) for name, columns in label_reads(policy).items() for read in columns],
    )
    keys = {name: column.meaning for name, column in KEYS.items()}
    return same_columns(list(KEYS), BASELINE, keys) | features | {"label": label}

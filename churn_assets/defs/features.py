"""Stage 2: the baseline rule and the feature panel, computed from silver."""

from collections.abc import Sequence
from datetime import date, timedelta

import dagster as dg
from pyspark.sql import DataFrame

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.contract import Standing, audit_outcomes
from churn_assets.churn.features import (
    customer_snapshots,
    feature_panel,
    no_eligible_customers,
    of_active_customers,
    with_baseline_rule,
)
from churn_assets.churn.labels import SHARED_BY, definition, label_reads, shares_of, with_labels
from churn_assets.churn.observed import KEYS, RULE_COLUMNS, SNAPSHOT_COLUMNS
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.audits import audited, remembered_outcomes
from churn_assets.defs.lakehouse import SILVER
from churn_assets.defs.panel_code import panel_code
from churn_assets.defs.refreshing import AS_OF, DIGEST, Refresh, RefreshConfig, refresh_of, write_refresh
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
    config: RefreshConfig, lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """What was observed of each eligible customer by each as-of date, and the retention team's rule on it."""
    inputs, digest = lakehouse.pin(SILVER), policy.panel_digest(panel_code())
    silver = lakehouse.read(SILVER, inputs[SILVER])
    refresh = refresh_of(lakehouse, BASELINE, inputs[SILVER], policy, digest, is_labelled=False, rebuild=config.rebuild)
    calendar = refresh.calendar

    def orders_of(dates: AsOfCalendar) -> DataFrame:
        return silver if refresh.upon is None else of_active_customers(silver, dates, policy)

    commit = write_refresh(
        lakehouse,
        refresh,
        lambda dates: with_baseline_rule(customer_snapshots(orders_of(dates), dates, policy), policy),
        if_empty=no_eligible_customers(calendar, policy),
        metadata={"inputs": inputs, DIGEST: digest},
    )
    span = {"first_as_of": str(calendar.first), "last_as_of": str(calendar.last), "watermark": str(calendar.watermark)}
    notes = {
        name: ColumnNote(column.meaning, [(SILVER, read) for read in column.reads])
        for name, column in {**KEYS, **SNAPSHOT_COLUMNS, **RULE_COLUMNS}.items()
    }
    told = {"inputs": inputs, "snapshots": len(calendar.dates), **span, **refresh.told}
    return table_result(commit, told, notes)


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
    context: dg.AssetExecutionContext,
    config: RefreshConfig,
    lakehouse: LakehouseResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> dg.MaterializeResult:
    """One row per eligible customer and as-of date: what was known then, and whether they left (null until known)."""
    baseline = lakehouse.pin(BASELINE)
    inputs = {**lakehouse.inputs(BASELINE), **baseline}
    # The silver that the baseline was computed from, so that features and labels see the same orders.
    silver = lakehouse.read(SILVER, inputs[SILVER])
    digest = policy.panel_digest(panel_code())
    refresh = refresh_of(
        lakehouse,
        PANEL,
        inputs[SILVER],
        policy,
        digest,
        is_labelled=True,
        rests_on=BASELINE,
        rest_version=inputs[BASELINE],
        rebuild=config.rebuild,
    )
    calendar = refresh.calendar

    def computed(dates: AsOfCalendar) -> DataFrame:
        of_dates = None if refresh.upon is None else (AS_OF, refresh.dates)
        snapshots = lakehouse.read(BASELINE, inputs[BASELINE], dates=of_dates)
        return feature_panel(with_labels(snapshots, silver, dates, policy), policy)

    commit = write_refresh(
        lakehouse,
        refresh,
        computed,
        audit=lambda rows: audited(
            audit_outcomes(rows, silver, policy, calendar, standing(lakehouse, refresh, policy)), PANEL, policy
        ),
        metadata={"inputs": inputs, DIGEST: digest},
    )
    shares = shares_of(lakehouse.counts(PANEL, SHARED_BY, commit.version))
    add_snapshots(context.instance, [snapshot.as_of for snapshot in shares])
    last_labelled = calendar.last_labelled(policy.windows.outcome_days)
    return table_result(
        commit,
        {
            "inputs": inputs,
            "churn_by_as_of_date": as_metadata(
                drawn(churn_by_date(shares, policy.crisis_delay_minutes, policy.windows))
            ),
            "snapshots": len(calendar.dates),
            "last_labelled_as_of": str(last_labelled or "none yet"),
            "churn_definition": definition(policy),
            **refresh.told,
            "features": dg.MetadataValue.md(features_table(FEATURES)),
        },
        panel_notes(policy),
    )


def standing(lakehouse: LakehouseResource, refresh: Refresh, policy: ChurnPolicy) -> Standing | None:
    """What stays of the panel where not all of it is computed."""
    if refresh.upon is None:
        return None
    days = refresh.stays(lakehouse)
    is_labelled = {day: refresh.calendar.is_known(day, policy.windows.outcome_days) for day in days}
    is_audited = bool(remembered_outcomes(lakehouse, {PANEL: refresh.upon}, policy))
    names = [feature.name for feature in FEATURES]
    bounds = lakehouse.ends(PANEL, names, refresh.upon, dates=(AS_OF, days)) if is_audited else None
    return Standing(lakehouse.read(PANEL, refresh.upon, dates=(AS_OF, days)), is_labelled, bounds)


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

"""Stage 2: the baseline rule and the feature panel, computed from silver."""

from collections.abc import Iterator, Sequence, Set
from datetime import date, timedelta

import dagster as dg
from pyspark.sql import DataFrame

from churn_assets.churn.calendar import AsOfCalendar
from churn_assets.churn.catalogue import FEATURES
from churn_assets.churn.contract import (
    AS_REBUILT,
    COMPUTED_AGAIN,
    NO_FUTURE_LEAKAGE,
    PANEL_CHECKS,
    Standing,
    audit_outcomes,
    future_outcome,
    panel_outcomes,
    rebuilt_outcome,
    unevaluable_future,
)
from churn_assets.churn.features import (
    customer_snapshots,
    feature_panel,
    no_eligible_customers,
    of_active_customers,
    with_baseline_rule,
)
from churn_assets.churn.labels import SHARED_BY, definition, label_reads, shares_of, with_labels
from churn_assets.churn.observed import KEYS, RULE_COLUMNS, SNAPSHOT_COLUMNS
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.audits import audited, remembered_outcomes
from churn_assets.defs.lakehouse import SILVER, stored_calendar
from churn_assets.defs.panel_code import panel_code
from churn_assets.defs.refreshing import AS_OF, DIGEST, Refresh, RefreshConfig, refresh_of, write_refresh
from churn_assets.defs.results import (
    OWNERS,
    TABLE_KINDS,
    ColumnNote,
    as_metadata,
    check_result,
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
            "churn_by_as_of_date": as_metadata(drawn(churn_by_date(shares, policy.crisis_delay_minutes))),
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
        feature.name: ColumnNote(feature.meaning, [(BASELINE, read) for read in feature.reads]) for feature in FEATURES
    }
    table_of = {"silver": SILVER, "snapshots": BASELINE}
    label = ColumnNote(
        f"1: left, with {definition(policy)}; 0: stayed; null: not yet known",
        [(table_of[name], read) for name, columns in label_reads(policy).items() for read in columns],
    )
    keys = {name: column.meaning for name, column in KEYS.items()}
    return same_columns(list(KEYS), BASELINE, keys) | features | {"label": label}


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


@dg.asset_check(
    asset=PANEL.split("/"),
    name=AS_REBUILT,
    blocking=True,
    description="One date of those that the last refresh left alone, another each time, is computed again from the "
    "orders and is the same to the last digit.",
)
def panel_is_as_rebuilt(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.AssetCheckResult:
    """Tells whether what a refresh takes for untouched is."""
    version = lakehouse.pin(PANEL)[PANEL]
    return check_result(sampled_outcome(lakehouse, version, policy))


def sampled_outcome(lakehouse: LakehouseResource, version: int, policy: ChurnPolicy) -> Outcome:
    """Whether a date of a version of the panel comes out the same, if what it was computed from is known."""
    silver_version, other = lakehouse.inputs(PANEL, version).get(SILVER), other_rules(lakehouse, version, policy)
    if silver_version is None or other is not None:
        # The check of the future refuses such a version.
        why = other or "the orders behind this version are unknown"
        return Outcome(AS_REBUILT, False, f"not evaluable: {why}", COMPUTED_AGAIN, is_warning=True)
    calendar = stored_calendar(lakehouse, silver_version, policy)
    replaced = set(lakehouse.commit_metadata(PANEL, version).get("dates", ()))
    left_alone = [day for day in calendar.dates if str(day) not in replaced] or calendar.dates
    day = left_alone[version % len(left_alone)]
    silver = lakehouse.read(SILVER, silver_version)
    return rebuilt_outcome(day, lakehouse.read(PANEL, version), silver, calendar, policy)


def stored_outcomes(
    lakehouse: LakehouseResource, version: int, rules: Set[str], policy: ChurnPolicy
) -> Iterator[Outcome]:
    """Those of the panel's `rules` that are asked for; Spark reads only for what no audit remembers."""
    audit = remembered_outcomes(lakehouse, {PANEL: version}, policy)
    yield from (outcome for outcome in audit if outcome.rule in rules)
    left = rules - {outcome.rule for outcome in audit}
    if left - {NO_FUTURE_LEAKAGE}:
        silver_version = lakehouse.inputs(PANEL, version).get(SILVER)
        calendar = None if silver_version is None else stored_calendar(lakehouse, silver_version, policy)
        yield from panel_outcomes(lakehouse.read(PANEL, version), left, calendar)
    if NO_FUTURE_LEAKAGE in left:
        yield stored_future_outcome(lakehouse, version, policy)


def stored_future_outcome(lakehouse: LakehouseResource, version: int, policy: ChurnPolicy) -> Outcome:
    """Whether the panel has seen the future, if the orders and the rules that it was computed from are known."""
    silver_version = lakehouse.inputs(PANEL, version).get(SILVER)
    if silver_version is None:
        return unevaluable_future("the orders behind this version are unknown")
    other = other_rules(lakehouse, version, policy)
    if other is not None:
        return unevaluable_future(f"this version was built under other rules or by other code than now: {other}")
    return future_outcome(lakehouse.read(PANEL, version), lakehouse.read(SILVER, silver_version), policy)


def other_rules(lakehouse: LakehouseResource, version: int, policy: ChurnPolicy) -> str | None:
    """How the rules and the code behind the panel's rows (windows, features, …) differ from today's; None if not."""
    built_by = lakehouse.commit_metadata(PANEL, version).get(DIGEST)
    today = policy.panel_digest(panel_code())
    if built_by == today:
        return None
    return f"its windows, churn definition, cleaning, features or their code have digest {built_by}; now it is {today}"

"""Stage 8, for people: each week's list of whom to contact, with reasons, and who was kept off it and why."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import reduce

import dagster as dg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import TOLD_COLUMNS
from churn_assets.churn.errors import UnlistableWeekError
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import MOST_REASONS, explained, reference_by_date
from churn_assets.churn.retention import (
    TARGET_RULES,
    campaign_members,
    capacity_by_date,
    exclusions,
    retention_list,
    suggested_action,
    target_outcomes,
)
from churn_assets.churn.scoring import KEYS, of_dates
from churn_assets.churn.tables import CAMPAIGN_CONTACTS, OPT_OUTS, conformed
from churn_assets.churn.wording import Wording
from churn_assets.defs.audits import audited, remembered_outcomes
from churn_assets.defs.features import BASELINE, PANEL, SNAPSHOTS
from churn_assets.defs.lakehouse import SEGMENTS, landed
from churn_assets.defs.results import ColumnNote, bullets, check_result, same_columns, table_result, table_spec
from churn_assets.defs.scoring import GROUP, SCORES, UNSCORED
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource

TARGETS = "food_delivery/retention_targets"
EXCLUSIONS = "food_delivery/retention_exclusions"
CONTACTS, OPTED_OUT = landed(CAMPAIGN_CONTACTS), landed(OPT_OUTS)
# Beside the tables, not within one: vacuum removes files that a table does not know.
EXPORTS = "exports/retention_targets"
RULE_MEANINGS = {
    "capacity": "Nobody is asked to contact more customers than the week's capacity.",
    "ranking": "Ranks follow the value at risk, without a gap.",
    "exclusions": "Only alerted customers are listed, each once, nobody who is excluded, and nobody is forgotten.",
    "additivity": "The reasons' contributions add up to the score, so that no reason is made up.",
}
NOTES = {
    **same_columns([*KEYS, "churn_probability", "risk_tier"], SCORES, {}),
    "rank": ColumnNote("1 is the most valuable customer at risk of the week"),
    "is_holdout": ColumnNote("not to be contacted, so that the effect of contacting the others can be measured"),
    "recent_spend": ColumnNote("subtotals of the observation window, summed", [(BASELINE, "spend")]),
    "value_at_risk": ColumnNote(
        "churn probability times recent spend", [(SCORES, "churn_probability"), (BASELINE, "spend")]
    ),
    "suggested_action": ColumnNote("the first of the policy's retention actions that fits"),
    "reasons": ColumnNote(
        "up to three features that raised the score most: value, usual value, contribution, sentence"
    ),
    "raw_score": ColumnNote("half the log-odds of churn, the sum of the trees"),
    "base_score": ColumnNote("its mean way through the trees for the week's customers"),
    "other_contributions": ColumnNote("what the features that are no reason contribute together"),
    "reason": ColumnNote("why an alerted customer is not listed"),
}


@dg.multi_asset(
    name="retention_targets",
    specs=[
        table_spec(
            TARGETS,
            "Whom to contact each week: alerted customers by value at risk, to the team's capacity, with reasons, a "
            "suggested action, and a random share that is held out to measure the effect.",
            group=GROUP,
            deps=[SCORES, UNSCORED, PANEL, BASELINE, CONTACTS, OPTED_OUT],
        ),
        table_spec(
            EXCLUSIONS,
            "The alerted customers of each week who are not listed: contacted or held out of late, or opted out.",
            group=GROUP,
            deps=[SCORES, CONTACTS, OPTED_OUT],
        ),
    ],
    partitions_def=SNAPSHOTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def retention_targets(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> Iterator[dg.MaterializeResult]:
    """Makes the lists of the weeks of the partition keys, in place of those made before."""
    inputs = lakehouse.pin(SCORES, UNSCORED, CONTACTS, OPTED_OUT)
    dates = [date.fromisoformat(key) for key in context.partition_keys]
    scores, capacity = _scores(lakehouse, policy, inputs, dates)
    scored = scores.select("as_of", "model_version", "features_version").distinct().collect()
    unscored = sorted(set(dates) - {row.as_of for row in scored})
    if unscored:
        raise UnlistableWeekError(
            "No customer of these weeks is scored, so nobody can be listed; earlier lists stay.",
            [str(day) for day in unscored],
            next_step=f"materialize {SCORES} for these weeks",
        )
    made_with = sorted({(row.model_version, row.features_version) for row in scored})
    alerted = scores.where("is_alert")
    opt_outs = conformed(lakehouse.read(OPTED_OUT, inputs[OPTED_OUT]), OPT_OUTS)
    excluded = exclusions(alerted, members(lakehouse, inputs[CONTACTS]), opt_outs, policy)
    candidates = alerted.join(excluded, [*KEYS], "left_anti").drop("is_alert", "scored_at")
    observed = [_observed(lakehouse, version) for version in sorted({version for _, version in made_with})]
    listed = retention_list(
        candidates.join(reduce(DataFrame.unionByName, observed), [*KEYS, "features_version"]), capacity, policy
    ).persist()
    segments = {int(row["segment_index"]): row["segment"] for row in lakehouse.records(SEGMENTS)}
    wording = Wording(policy.feature_rules, segments)
    explanations = [
        _explained(lakehouse, tracking.exported_trees(number), version, scores, listed, wording)
        for number, version in made_with
    ]
    targets = listed.join(reduce(DataFrame.unionByName, explanations), [*KEYS])
    targets = targets.withColumn("suggested_action", suggested_action(policy.retention.actions))

    def audit(staged: Mapping[str, DataFrame]) -> dict[str, object]:
        return audited(target_outcomes(staged[TARGETS], staged[EXCLUSIONS], alerted, capacity), TARGETS, policy)

    listed_at = F.lit(datetime.now(UTC)).alias("listed_at")
    stamps = ("model_version", "features_version")
    columns = [name for name in NOTES if name in targets.columns]
    commits = lakehouse.replace_dates(
        {
            EXCLUSIONS: excluded.select("*", listed_at),
            TARGETS: targets.select(*columns, *stamps, listed_at),
        },
        "as_of",
        dates,
        audit=audit,
        metadata={"inputs": inputs},
    )
    listed.unpersist()
    files = bullets(list(_exports(lakehouse, dates)))
    for commit in commits:
        yield table_result(commit, {"inputs": inputs, "weeks": len(dates), "csv": files}, NOTES)


def _scores(
    lakehouse: LakehouseResource, policy: ChurnPolicy, versions: Mapping[str, int], dates: Sequence[date]
) -> tuple[DataFrame, DataFrame]:
    """The scores of the dates, and the capacity for each: a share of all who are eligible, scorable or not."""
    scores = of_dates(lakehouse.read(SCORES, versions[SCORES]), dates)
    unscored = of_dates(lakehouse.read(UNSCORED, versions[UNSCORED]), dates)
    return scores, capacity_by_date(scores.select("as_of").unionByName(unscored.select("as_of")), policy)


def members(lakehouse: LakehouseResource, contacts_version: int) -> DataFrame:
    """Who was on the lists that were used, by the contacts and the lists made so far."""
    contacts = conformed(lakehouse.read(CONTACTS, contacts_version), CAMPAIGN_CONTACTS)
    return campaign_members(contacts, lakehouse.read(TARGETS) if lakehouse.has(TARGETS) else None)


def baseline_behind(lakehouse: LakehouseResource, panel_version: int) -> DataFrame:
    """The snapshots a version of the panel was computed from. Raises UnlistableWeekError where nobody knows them."""
    version = lakehouse.inputs(PANEL, panel_version).get(BASELINE)
    if version is None:
        raise UnlistableWeekError(
            f"Version {panel_version} of {PANEL} does not record what it was computed from, so the customers' spend is "
            "unknown; what was made of earlier versions stays.",
            next_step=f"materialize {PANEL} and score these weeks again",
        )
    return lakehouse.read(BASELINE, version)


def _observed(lakehouse: LakehouseResource, panel_version: int) -> DataFrame:
    """What a list needs of the snapshots behind a version of the panel."""
    return baseline_behind(lakehouse, panel_version).select(
        *KEYS,
        F.col("spend").cast("double").alias("recent_spend"),
        *TOLD_COLUMNS,
        F.lit(panel_version).cast("long").alias("features_version"),
    )


def _explained(
    lakehouse: LakehouseResource,
    trees: str,
    panel_version: int,
    scores: DataFrame,
    listed: DataFrame,
    wording: Wording,
) -> DataFrame:
    """The reasons of those listed by the scores of one version of the panel."""
    of_version = F.col("features_version") == panel_version
    panel = lakehouse.read(PANEL, panel_version)
    scored = panel.join(scores.where(of_version).select(*KEYS), [*KEYS], "left_semi")
    references = reference_by_date(scored, trees)
    rows = listed.where(of_version).select(*KEYS, *TOLD_COLUMNS).join(scored, [*KEYS])
    return explained(rows, trees, references, wording)


def _exports(lakehouse: LakehouseResource, dates: Sequence[date]) -> Iterator[str]:
    """Writes the list of each date as CSV for the team's own tools, without whoever is held out; where each lies."""
    shown = ("rank", "customer_id", "risk_tier", "churn_probability", "recent_spend", "value_at_risk")
    reasons = [F.get("reasons.sentence", F.lit(place)).alias(f"reason_{place + 1}") for place in range(MOST_REASONS)]
    lists = of_dates(lakehouse.read(TARGETS), dates).where(~F.col("is_holdout"))
    rows = lists.select("as_of", *shown, "suggested_action", *reasons).orderBy("as_of", "rank").toPandas()
    for day in dates:
        content = rows[rows["as_of"] == day].drop(columns="as_of").round(4).to_csv(index=False)
        yield lakehouse.write_file(f"{EXPORTS}/{day}.csv", content.encode())


@dg.multi_asset_check(
    name="retention_targets__contract",
    specs=[
        dg.AssetCheckSpec(rule, asset=TARGETS.split("/"), blocking=True, description=RULE_MEANINGS[rule])
        for rule in TARGET_RULES
    ],
)
def retention_targets_contract(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """The rules of the lists made last, against the scores they were made from."""
    versions = lakehouse.inputs(TARGETS) if lakehouse.has(TARGETS) else None
    if not versions:
        unmade, unknown = "no list has been made yet", "not evaluable: the scores behind this version are unknown"
        for rule in TARGET_RULES:
            observed = unmade if versions is None else unknown
            yield check_result(Outcome(rule, versions is None, observed, RULE_MEANINGS[rule]), TARGETS)
        return
    outcomes = remembered_outcomes(lakehouse, lakehouse.pin(TARGETS, EXCLUSIONS), policy)
    for outcome in outcomes or _last_lists_outcomes(lakehouse, versions, policy):
        yield check_result(outcome, TARGETS)


def _last_lists_outcomes(
    lakehouse: LakehouseResource, versions: Mapping[str, int], policy: ChurnPolicy
) -> Sequence[Outcome]:
    targets, excluded = lakehouse.read(TARGETS), lakehouse.read(EXCLUSIONS)
    both = targets.select("as_of", "listed_at").unionByName(excluded.select("as_of", "listed_at")).distinct().collect()
    last = max((row.listed_at for row in both), default=None)
    dates = [row.as_of for row in both if row.listed_at == last]
    scores, capacity = _scores(lakehouse, policy, versions, dates)
    return target_outcomes(of_dates(targets, dates), of_dates(excluded, dates), scores.where("is_alert"), capacity)

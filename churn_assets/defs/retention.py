"""Stage 8, for people: each week's list of whom to contact, with reasons, and who was kept off it and why."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial, reduce

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnlistableWeekError
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.plain_text import as_csv, unprotected
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import MOST_REASONS
from churn_assets.churn.retention import (
    TARGET_RULES,
    campaign_members,
    capacity_by_date,
    exclusions,
    exploration_draw,
    is_held_out,
    retention_list,
    target_outcomes,
    to_contact,
    without_action,
)
from churn_assets.churn.scoring import KEYS, STAMPS, of_dates, stamps_of
from churn_assets.churn.tables import CAMPAIGN_CONTACTS, OPT_OUTS, conformed
from churn_assets.churn.trials import RecordedUplift, ranking_by, recorded_uplift, with_uplift
from churn_assets.defs.audits import audited, remembered_outcomes, unjudged
from churn_assets.defs.features import BASELINE, PANEL, SNAPSHOTS
from churn_assets.defs.lakehouse import landed, matches_of
from churn_assets.defs.origins import origin_of
from churn_assets.defs.reasons import REASONS, require_scored
from churn_assets.defs.results import ColumnNote, bullets, check_result, same_columns, table_result, table_spec
from churn_assets.defs.scoring import GROUP, SCORES, UNSCORED
from churn_assets.resources.lakehouse import LakehouseResource

TARGETS = "food_delivery/retention_targets"
EXCLUSIONS = "food_delivery/retention_exclusions"
# What came of the lists so far, and what that says of contacts: both are made after the lists, and heeded by the next.
OUTCOMES = "food_delivery/campaign_outcomes"
UPLIFT_EVALUATIONS = "food_delivery/uplift_evaluations"
CONTACTS, OPTED_OUT = landed(CAMPAIGN_CONTACTS), landed(OPT_OUTS)
VALUES = ("recent_spend", "value_at_risk")
# Beside the tables, not within one: vacuum removes files that a table does not know.
EXPORTS = "exports/retention_targets"
RULE_MEANINGS = {
    "capacity": "Nobody is asked to contact more customers, or to take more of an action, than the week's capacity.",
    "ranking": "Ranks follow the value at risk, the uplift or the expected profit, as the list says, without a gap.",
    "exclusions": "Only alerted customers are listed, each once, nobody who is excluded, and nobody is forgotten.",
}
NOTES = {
    **same_columns([*KEYS, "churn_probability", "risk_tier"], SCORES, {}),
    **same_columns(
        ["reasons"], REASONS, {"reasons": "what raised the score most, up to three, as churn_reasons has it"}
    ),
    "rank": ColumnNote("1 is the customer to contact first, by what ranked_by names"),
    "is_holdout": ColumnNote("not to be contacted, so that the effect of contacting the others can be measured"),
    "recent_spend": ColumnNote(
        "subtotals of the observation window, summed, or the value a ready feature table declares; null without one",
        [(BASELINE, "spend")],
    ),
    "value_at_risk": ColumnNote(
        "churn probability times recent spend", [(SCORES, "churn_probability"), (BASELINE, "spend")]
    ),
    "ranked_by": ColumnNote("what the ranks of the list follow"),
    "ranked_because": ColumnNote("why by that; where retention.rank_by asks for uplift, what its gate says"),
    "uplift": ColumnNote(
        "what a contact is estimated to take off the chance of leaving, from used lists and those held out of them; "
        "below 0 it adds to it; null unless the gate of the estimate is open and retention.rank_by asks for it"
    ),
    "is_exploration": ColumnNote(
        "drawn at random and not by rank, so that the estimate of what contacts change stays true of everybody"
    ),
    "suggested_action": ColumnNote(
        "the first of the policy's retention actions that fits; with [economics] the one that the list earns most "
        "with, null where none is left that pays"
    ),
    "expected_profit": ColumnNote(
        "of that action: p a (V - d) - (1 - p) d - f, for the churn probability p, the share a it keeps of those who "
        "would leave, the worth V of a customer, the offer's cost d and the contact's f; null without [economics]",
        [(SCORES, "churn_probability"), (BASELINE, "spend")],
    ),
    "reason": ColumnNote("why an alerted customer is not listed"),
}


@dg.multi_asset(
    name="retention_targets",
    specs=[
        table_spec(
            TARGETS,
            "Whom to contact each week: alerted customers by value at risk, uplift or expected profit, to the team's "
            "capacity, with reasons, a suggested action, and a random share that is held out to measure the effect.",
            group=GROUP,
            deps=[SCORES, UNSCORED, REASONS, PANEL, BASELINE, CONTACTS, OPTED_OUT],
        ),
        table_spec(
            EXCLUSIONS,
            "The alerted customers of each week who are not listed: contacted or held out of late, opted out, "
            "without an action that pays, or left alone because a contact keeps nobody like them.",
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
    policy: dg.ResourceParam[ChurnPolicy],
) -> Iterator[dg.MaterializeResult]:
    """Makes the lists of the weeks of the partition keys, in place of those made before."""
    inputs = lakehouse.pin(SCORES, UNSCORED, REASONS, CONTACTS, OPTED_OUT)
    dates = [date.fromisoformat(key) for key in context.partition_keys]
    _require_matched_opt_outs(lakehouse, policy)
    capacity = _capacity(lakehouse, policy, inputs, dates)
    stamps = stamps_of(lakehouse.arrow(SCORES, ["as_of", *STAMPS], inputs[SCORES], dates=("as_of", dates)))
    require_scored(stamps, dates, "listed; earlier lists stay")
    alerted = _alerted(lakehouse, policy, inputs, dates, panels=sorted({panel for *_, panel in stamps}))
    _require_explained(alerted)
    is_excluded, is_observed = (alerted.column(name).is_valid() for name in ("reason", "is_observed"))
    excluded = alerted.filter(is_excluded).select([*KEYS, "reason"])
    candidates = alerted.filter(pc.and_not(is_observed, is_excluded)).drop_columns(["reason", "is_observed"])
    recorded = recorded_estimate(lakehouse, policy)
    ranking = ranking_by(recorded, policy)
    told = with_uplift(candidates, recorded.model if ranking.by == "uplift" else None, policy)
    listed = retention_list(told, capacity, policy, ranking)
    excluded = pa.concat_tables([excluded, without_action(told, listed, capacity, ranking).cast(excluded.schema)])

    def audit(staged: Mapping[str, DataFrame]) -> dict[str, object]:
        written, kept_off = staged[TARGETS].toArrow(), staged[EXCLUSIONS].select(*KEYS).toArrow()
        return audited(target_outcomes(written, kept_off, alerted, capacity, policy), TARGETS, policy)

    listed_at = F.lit(datetime.now(UTC)).alias("listed_at")
    columns = [name for name in NOTES if name in listed.column_names]
    commits = lakehouse.replace_dates(
        {
            EXCLUSIONS: lakehouse.frame(excluded).select("*", listed_at).coalesce(1),
            TARGETS: lakehouse.frame(listed).select(*columns, *STAMPS, listed_at).repartition("as_of"),
        },
        "as_of",
        dates,
        audit=audit,
        metadata={"inputs": inputs},
    )
    files = bullets(list(_exports(lakehouse, dates, policy)))
    for commit in commits:
        metadata = {
            "inputs": inputs,
            "weeks": len(dates),
            "ranked_by": ranking.by,
            "ranked_because": ranking.because,
            "csv": files,
        }
        yield table_result(commit, metadata, NOTES)


def _require_matched_opt_outs(lakehouse: LakehouseResource, policy: ChurnPolicy) -> None:
    """Raises UnlistableWeekError where the policy asks for opt-outs that are of customers, and too many are not.

    The check of that name blocks within its own run alone.
    """
    if policy.retention.max_unmatched_opt_outs is None:
        return
    (outcome,) = matches_of(lakehouse, [OPT_OUTS], policy)
    if not outcome.is_passed:
        raise UnlistableWeekError(
            f"Whoever opted out may be on the list: {outcome.observed}; allowed {outcome.allowed}. Earlier lists stay.",
            outcome.keys,
            next_step="correct the ids of opt_outs, or raise retention.max_unmatched_opt_outs in policy.toml",
        )


def _require_explained(alerted: pa.Table) -> None:
    """Raises UnlistableWeekError where the reasons are of other scores than those of the list, or none are told."""
    unexplained = alerted.filter(alerted.column("reasons").is_null())
    if len(unexplained):
        raise UnlistableWeekError(
            f"The reasons in {REASONS} are not of the model and the features that scored these weeks; earlier lists "
            "stay.",
            [str(day) for day in pc.unique(unexplained.column("as_of")).sort().to_pylist()],
            next_step=f"materialize {REASONS} for these weeks",
        )


def _capacity(
    lakehouse: LakehouseResource, policy: ChurnPolicy, versions: Mapping[str, int], dates: Sequence[date]
) -> dict[date, int]:
    """How many customers can be contacted on each date: a share of all who are eligible, scorable or not."""
    eligible: Counter[date] = Counter()
    for table in (SCORES, UNSCORED):
        rows = lakehouse.arrow(table, ["as_of"], versions[table], dates=("as_of", dates))
        eligible.update(rows.column("as_of").to_pylist())
    return capacity_by_date(eligible, policy)


def _alerted(
    lakehouse: LakehouseResource,
    policy: ChurnPolicy,
    versions: Mapping[str, int],
    dates: Sequence[date],
    *,
    panels: Sequence[int],
) -> pa.Table:
    """Each alerted customer of the dates, from one query: score, reasons, why excluded (else null), what a list tells.

    Snapshots and features are those behind the `panels`, the versions that were scored; null where there are none.
    """
    scores = of_dates(lakehouse.read(SCORES, versions[SCORES]), dates).where("is_alert")
    alerted = scores.select(*KEYS, "churn_probability", "risk_tier", *STAMPS)
    opt_outs = from_lists(conformed(lakehouse.read(OPTED_OUT, versions[OPTED_OUT]), OPT_OUTS))
    excluded = exclusions(alerted, members(lakehouse, versions[CONTACTS]), opt_outs, policy)
    reasons = of_dates(lakehouse.read(REASONS, versions[REASONS]), dates).select(*KEYS, *STAMPS, "reasons")
    observed = reduce(
        partial(DataFrame.unionByName, allowMissingColumns=True),
        [_observed(lakehouse, version, dates, policy) for version in panels],
    )
    rows = alerted.join(excluded, [*KEYS], "left").join(observed, [*KEYS, "features_version"], "left")
    rows = rows.join(reasons, [*KEYS, *STAMPS], "left")
    drawn = {"is_holdout": is_held_out(policy), "exploration_draw": exploration_draw(policy)}
    return rows.withColumns(drawn).toArrow()


def recorded_estimate(lakehouse: LakehouseResource, policy: ChurnPolicy) -> RecordedUplift:
    """What the lists made so far say of contacts, as far as the gate of the estimate lets the next ones heed it."""
    judged = lakehouse.records(UPLIFT_EVALUATIONS) if lakehouse.has(UPLIFT_EVALUATIONS) else []
    return recorded_uplift(judged, policy, lakehouse.inputs(OUTCOMES) if lakehouse.has(OUTCOMES) else {})


def members(lakehouse: LakehouseResource, contacts_version: int, targets_version: int | None = None) -> DataFrame:
    """Who was on the lists that were used, by the contacts and the lists made so far, or those of a version."""
    contacts = from_lists(conformed(lakehouse.read(CONTACTS, contacts_version), CAMPAIGN_CONTACTS))
    return campaign_members(contacts, lakehouse.read(TARGETS, targets_version) if lakehouse.has(TARGETS) else None)


def from_lists(rows: DataFrame) -> DataFrame:
    """`rows` that come back from the team, with the ids as they were before the CSV files protected them."""
    return rows.withColumn("customer_id", unprotected(F.col("customer_id")))


def _observed(
    lakehouse: LakehouseResource, panel_version: int, dates: Sequence[date], policy: ChurnPolicy
) -> DataFrame:
    """What a list needs of a version of the panel and of what is behind it."""
    panel = of_dates(lakehouse.read(PANEL, panel_version), dates)
    features = [feature.name for feature in policy.catalogue.features if feature.name in panel.columns]
    return (
        origin_of(lakehouse, panel_version, policy)
        .observed(dates)
        .join(panel.select(*KEYS, *features), [*KEYS])
        .withColumns({"features_version": F.lit(panel_version).cast("long"), "is_observed": F.lit(True)})
    )


def _exports(lakehouse: LakehouseResource, dates: Sequence[date], policy: ChurnPolicy) -> Iterator[str]:
    """Writes the list of each date as CSV for the team's own tools, without whoever is held out; where each lies.

    Each row says of which week it is, what it is ranked by, and in which currency amounts are.
    """
    money = ["recent_spend", "value_at_risk", *([] if policy.economics is None else ["expected_profit"])]
    shown = [
        "ranked_by",
        "ranked_because",
        "customer_id",
        "risk_tier",
        "churn_probability",
        *money,
        "currency",
        "suggested_action",
    ]
    for day in dates:
        told = [name for name in shown if name != "currency"]
        listed = lakehouse.arrow(TARGETS, ["rank", *told, "reasons", "is_holdout"], dates=("as_of", [day]))
        unknown = [name for name in VALUES if len(listed) and not pc.any(listed.column(name).is_valid()).as_py()]
        rows = [
            {
                **row,
                "week": day,
                "currency": policy.units.currency,
                "risk_tier": policy.units.tiers.of(row["risk_tier"]),
            }
            | _sentences(row["reasons"])
            for row in to_contact(listed)
        ]
        content = pd.DataFrame(rows, columns=["week", "rank", *shown, *_sentences([])])
        content = content.round({"churn_probability": 4} | dict.fromkeys(money, 2))
        # A list that is ranked by risk alone says so by having no value.
        yield lakehouse.write_file(f"{EXPORTS}/{day}.csv", as_csv(content.drop(columns=unknown)))


def _sentences(reasons: Sequence[Mapping[str, str]]) -> dict[str, str | None]:
    """As many columns as there may be reasons, None where there is none."""
    told = dict(enumerate((reason["sentence"] for reason in reasons), start=1))
    return {f"reason_{place}": told.get(place) for place in range(1, MOST_REASONS + 1)}


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
    for outcome in (
        unjudged(lakehouse, TARGETS, RULE_MEANINGS, "no list has been made yet")
        or remembered_outcomes(lakehouse, lakehouse.pin(TARGETS, EXCLUSIONS), policy)
        or _last_lists_outcomes(lakehouse, policy)
    ):
        yield check_result(outcome, TARGETS)


def _last_lists_outcomes(lakehouse: LakehouseResource, policy: ChurnPolicy) -> Sequence[Outcome]:
    versions = lakehouse.inputs(TARGETS)
    both = {stamp for table in (TARGETS, EXCLUSIONS) for stamp in lakehouse.counts(table, ["listed_at", "as_of"])}
    last = max((listed_at for listed_at, _ in both), default=None)
    dates = [as_of for listed_at, as_of in both if listed_at == last]
    targets, excluded, scores = (
        lakehouse.arrow(table, columns, version, dates=("as_of", dates))
        for table, columns, version in (
            (TARGETS, lakehouse.table_schema(TARGETS).names, None),
            (EXCLUSIONS, KEYS, None),
            (SCORES, [*KEYS, "is_alert"], versions[SCORES]),
        )
    )
    capacity = _capacity(lakehouse, policy, versions, dates)
    return target_outcomes(targets, excluded, scores.filter(scores.column("is_alert")), capacity, policy)

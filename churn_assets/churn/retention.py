"""The week's retention list: whom to contact, in which order, with what, and who is held out to measure the effect."""

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.outcomes import MAX_KEYS, Outcome
from churn_assets.churn.policy import Action, ChurnPolicy
from churn_assets.churn.scoring import KEYS, offenders

OPTED_OUT, CONTACTED, HELD_OUT = "opted out", "contacted", "held out"
TARGET_RULES = ("capacity", "ranking", "exclusions", "additivity")
# Sums of a few dozen terms of magnitude 1 agree to this.
ROUNDING = 1e-9


def campaign_members(contacts: DataFrame, targets: DataFrame | None) -> DataFrame:
    """Who was on the lists that were used: customer_id, as_of, contacted_at, is_holdout, risk_tier.

    In: `contacts` in canonical columns, one row per customer and list; `targets`, the retention lists as they were
    made, which know who was held out where the contacts do not say. A list is used once somebody on it was contacted.
    """
    if targets is None:
        return contacts.select(
            *KEYS, "contacted_at", F.coalesce("is_holdout", F.lit(False)).alias("is_holdout"), "risk_tier"
        )
    used = contacts.where("contacted_at is not null").select("as_of").distinct()
    listed = targets.join(used, "as_of", "left_semi").select(
        *KEYS, F.col("is_holdout").alias("planned"), F.col("risk_tier").alias("tier")
    )
    both = contacts.join(listed, [*KEYS], "full_outer")
    return both.select(
        *KEYS,
        "contacted_at",
        F.coalesce("is_holdout", "planned", F.lit(False)).alias("is_holdout"),
        F.coalesce("risk_tier", "tier").alias("risk_tier"),
    )


def exclusions(alerted: DataFrame, members: DataFrame, opt_outs: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """The `alerted` customers (customer_id, as_of) who are not to be listed: customer_id, as_of, reason.

    Whoever was contacted in the policy's pause before the list's date, or held out of a list of those days, for
    a contact would spoil that comparison; and whoever opted out, whenever that was.
    """
    since = F.date_sub("as_of", policy.days_between_lists)
    past = members.select(
        "customer_id",
        F.coalesce(F.col("contacted_at").cast("date"), F.when(F.col("is_holdout"), F.col("as_of"))).alias("day"),
        F.when(F.col("contacted_at").isNull(), HELD_OUT).otherwise(CONTACTED).alias("what"),
    )
    latest = (
        alerted.select(*KEYS)
        .join(past, "customer_id")
        .where((F.col("day") >= since) & (F.col("day") < F.col("as_of")))
        .groupBy(*KEYS)
        .agg(F.max(F.struct("day", "what")).alias("last"))
        .select(*KEYS, F.concat_ws(" on ", "last.what", F.col("last.day").cast("string")).alias("reason"))
    )
    opted_out = alerted.select(*KEYS).join(opt_outs.select("customer_id").distinct(), "customer_id", "left_semi")
    reasons = opted_out.withColumn("reason", F.lit(OPTED_OUT)).unionByName(latest)
    return reasons.groupBy(*KEYS).agg(F.concat_ws("; ", F.array_sort(F.collect_set("reason"))).alias("reason"))


def is_held_out(policy: ChurnPolicy) -> Column:
    """Whether a customer is held out of the list of `as_of`: a hash of both, so it is so whenever the list is made."""
    key = F.concat_ws(":", F.lit("holdout"), F.lit(policy.split.salt), F.col("as_of").cast("string"), "customer_id")
    return F.pmod(F.xxhash64(key), F.lit(1_000_000)) < round(policy.retention.holdout_share * 1_000_000)


def capacity_by_date(eligible: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """as_of, capacity: how many customers the team can contact. In: one row of as_of for each eligible customer."""
    budget = F.floor(F.count("*") * F.lit(policy.alerts.budget)).cast("long")
    weekly = policy.retention.weekly_capacity
    capacity = budget if weekly is None else F.least(budget, F.lit(weekly))
    return eligible.groupBy("as_of").agg(capacity.alias("capacity"))


def retention_list(candidates: DataFrame, capacity: DataFrame, policy: ChurnPolicy) -> DataFrame:
    """The list of each as-of date: `candidates` that made it, with value_at_risk, is_holdout and rank (from 1).

    In: `candidates`, customer_id, as_of, churn_probability, recent_spend and more; `capacity_by_date`. By value at
    risk, the churn probability times the spend of the observation window, until the capacity is used up; whoever is
    held out keeps the rank but takes no one's place.
    """
    valued = candidates.withColumn("value_at_risk", F.col("churn_probability") * F.col("recent_spend"))
    by_value = Window.partitionBy("as_of").orderBy(
        F.desc("value_at_risk"), F.desc("churn_probability"), F.asc("customer_id")
    )
    before = by_value.rowsBetween(Window.unboundedPreceding, -1)
    contacts_before = F.coalesce(F.count_if(~F.col("is_holdout")).over(before), F.lit(0))
    return (
        valued.withColumn("is_holdout", is_held_out(policy))
        .withColumns({"rank": F.row_number().over(by_value), "contacts_before": contacts_before})
        .join(F.broadcast(capacity), "as_of")
        .where(F.col("contacts_before") < F.col("capacity"))
        .drop("contacts_before", "capacity")
    )


def suggested_action(actions: Sequence[Action]) -> Column:
    """The name of the first action whose conditions a row (risk_tier, value_at_risk, reasons) meets; else null."""
    chosen = F.lit(None).cast("string")
    for action in reversed(actions):
        conditions = [F.lit(True)]
        if action.risk_tier is not None:
            conditions.append(F.col("risk_tier") == action.risk_tier)
        if action.min_value_at_risk is not None:
            conditions.append(F.col("value_at_risk") >= action.min_value_at_risk)
        if action.reason is not None:
            conditions.append(F.array_contains("reasons.feature", action.reason))
        chosen = F.when(reduce(lambda one, other: one & other, conditions), action.action).otherwise(chosen)
    return chosen


def target_outcomes(targets: DataFrame, excluded: DataFrame, alerted: DataFrame, capacity: DataFrame) -> list[Outcome]:
    """TARGET_RULES of `retention_targets`, of the dates of `capacity`; `alerted`: the alerted scores of these dates."""
    return [
        _capacity_outcome(targets, capacity),
        _ranking_outcome(targets),
        _exclusions_outcome(targets, excluded, alerted, capacity),
        _additivity_outcome(targets),
    ]


def _capacity_outcome(targets: DataFrame, capacity: DataFrame) -> Outcome:
    contacts = targets.where(~F.col("is_holdout")).groupBy("as_of").agg(F.count("*").alias("contacts"))
    rows = capacity.join(contacts, "as_of", "left").fillna(0, ["contacts"]).orderBy("as_of").collect()
    over = [
        f"{row.as_of}: {row.contacts:,} to contact, capacity {row.capacity:,}"
        for row in rows
        if row.contacts > row.capacity
    ]
    largest = max((row.contacts for row in rows), default=0)
    return Outcome(
        "capacity",
        not over,
        "; ".join(over) or f"at most {largest:,} to contact",
        "the week's capacity",
        tuple(over[:MAX_KEYS]),
    )


def _ranking_outcome(targets: DataFrame) -> Outcome:
    by_rank = Window.partitionBy("as_of").orderBy("rank", F.desc("value_at_risk"))
    place, before = F.row_number().over(by_rank), F.lag("value_at_risk").over(by_rank)
    exact = F.col("churn_probability") * F.col("recent_spend")
    ranked = targets.withColumns({"place": place, "before": before})
    is_wrong = (
        F.col("value_at_risk").isNull()
        | (F.abs(F.col("value_at_risk") - exact) > ROUNDING * F.greatest(F.abs(exact), F.lit(1.0)))
        | (F.col("before") < F.col("value_at_risk"))
        # Whoever is excluded or of no capacity has no rank; a hold-out has one.
        | (F.col("rank") != F.col("place"))
    )
    return offenders(
        ranked.where(is_wrong), "ranking", "ranks 1, 2, 3 … by falling value at risk, probability × recent spend"
    )


def _exclusions_outcome(targets: DataFrame, excluded: DataFrame, alerted: DataFrame, capacity: DataFrame) -> Outcome:
    listed, kept_off, alerts = (rows.select(*KEYS) for rows in (targets, excluded, alerted))
    contacts = targets.groupBy("as_of").agg(F.count_if(~F.col("is_holdout")).alias("contacts"))
    has_room = F.coalesce("contacts", F.lit(0)) < F.col("capacity")
    dates_with_room = capacity.join(contacts, "as_of", "left").where(has_room).select("as_of")
    wrong = [
        listed.groupBy(*KEYS).count().where("count > 1").select(*KEYS),
        listed.join(kept_off, [*KEYS], "left_semi"),
        listed.join(alerts, [*KEYS], "left_anti"),
        alerts.join(dates_with_room, "as_of", "left_semi")
        .join(listed.unionByName(kept_off), [*KEYS], "left_anti")
        .select(*KEYS),
    ]
    allowed = "alerted customers, each once, nobody who is excluded, and while there is capacity everyone else"
    return offenders(reduce(DataFrame.unionByName, wrong), "exclusions", allowed)


def _additivity_outcome(targets: DataFrame) -> Outcome:
    given = F.aggregate("reasons", F.lit(0.0), lambda total, reason: total + reason["contribution"])
    summed = F.col("base_score") + given + F.col("other_contributions")
    probability = 1 / (1 + F.exp(-2 * F.col("raw_score")))
    is_additive = (F.abs(summed - F.col("raw_score")) <= ROUNDING) & (
        F.abs(probability - F.col("churn_probability")) <= ROUNDING
    )
    wrong = targets.where(~F.coalesce(is_additive, F.lit(False)))
    return offenders(wrong, "additivity", "base score and contributions sum to the score that gives the probability")

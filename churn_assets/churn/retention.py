"""The week's retention list: whom to contact, in which order, with what, and who is held out to measure the effect."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from math import floor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.actions import (
    NO_ACTION,
    allocated,
    as_if_one_more,
    expected_profits,
    first_fitting,
    fitting_actions,
)
from churn_assets.churn.outcomes import MAX_KEYS, Figure, Outcome, of_keys
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import ROUNDING
from churn_assets.churn.scoring import KEYS

OPTED_OUT, CONTACTED, HELD_OUT = "opted out", "contacted", "held out"
NO_ACTION_PAYS = "no action pays, or those that do are used up"
KEEPS_NOBODY = "a contact is estimated to keep nobody like them"
RANKING_WORDS = {
    "value_at_risk": "value at risk",
    "uplift": "what a contact takes off the chance of leaving",
    "expected_profit": "expected profit",
    "churn_probability": "the chance of leaving",
}
TARGET_RULES = ("capacity", "ranking", "exclusions")


@dataclass(frozen=True)
class Ranking:
    """What lists rank by, and why by that."""

    by: Literal["value_at_risk", "uplift", "expected_profit", "churn_probability"]
    because: str


def ranking_without_estimate(policy: ChurnPolicy, against: str = "") -> Ranking:
    """What lists rank by where no estimate of what contacts change may, and `against` it, if it was asked for."""
    if policy.retention.rank_by == "uplift":
        return Ranking(policy.ranked_by, f"uplift, which retention.rank_by asks for, may not rank: {against}")
    if policy.ranked_by == "churn_probability":
        return Ranking(policy.ranked_by, "the feature table declares no value")
    return Ranking(policy.ranked_by, "the company's policy asks for it")


def ranked_text(listed: Sequence[Mapping[str, Any]]) -> str:
    """What a list ranks by and why, for people; empty for nobody.

    In: ranked_by, ranked_because, is_exploration and is_holdout of its rows.
    """
    # Lists of before they said why say nothing.
    told = sorted({(row["ranked_by"], row["ranked_because"]) for row in listed if row["ranked_because"] is not None})
    text = " ".join(f"Ranked by {RANKING_WORDS[by]}: {because}." for by, because in told)
    drawn = sum(bool(row["is_exploration"]) and not row["is_holdout"] for row in listed)
    return f"{text} {drawn:,} of them were drawn at random." if drawn else text


def campaign_members(contacts: DataFrame, targets: DataFrame | None) -> DataFrame:
    """Who was on the lists that were used: customer_id, as_of, contacted_at, is_holdout, risk_tier.

    In: `contacts` in canonical columns, one row per customer and list; `targets`, the retention lists as they were
    made, which know who was held out where the contacts do not say. A list is used once somebody on it was contacted.
    """
    if targets is None:
        return contacts.select(
            *KEYS, "contacted_at", F.coalesce("is_holdout", F.lit(False)).alias("is_holdout"), "risk_tier"
        )
    used = contacts.where("contacted_at is not null").select("as_of")
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
    return F.pmod(_lot("holdout", policy), F.lit(1_000_000)) < round(policy.retention.holdout_share * 1_000_000)


def exploration_draw(policy: ChurnPolicy) -> Column:
    """The lot of a customer for the list of `as_of`, the least first: a hash of both, so it is the same whenever the
    list is made, and of another kind than that of `is_held_out`."""
    return _lot("explore", policy)


def _lot(purpose: str, policy: ChurnPolicy) -> Column:
    key = F.concat_ws(":", F.lit(purpose), F.lit(policy.split.salt), F.col("as_of").cast("string"), "customer_id")
    return F.xxhash64(key)


def capacity_by_date(eligible: Mapping[date, int], policy: ChurnPolicy) -> dict[date, int]:
    """How many customers the team can contact on each date: what it can in a week, by the lists of a week.

    In: how many are eligible.
    """
    weekly, lists = policy.retention.weekly_capacity, policy.lists_of_a_week
    budgets = {day: floor(customers * policy.alerts.budget) for day, customers in eligible.items()}
    return {day: (budget if weekly is None else min(budget, weekly)) // lists for day, budget in budgets.items()}


def with_value_at_risk(candidates: pa.Table) -> pa.Table:
    """`candidates` with value_at_risk, churn_probability times recent_spend; null where the spend is."""
    value = pc.multiply(candidates.column("churn_probability"), candidates.column("recent_spend"))
    return candidates.append_column("value_at_risk", value)


def retention_list(
    candidates: pa.Table, capacity: Mapping[date, int], policy: ChurnPolicy, ranking: Ranking | None = None
) -> pa.Table:
    """The list of each as-of date by rank (int, from 1): `candidates` that made it, with value_at_risk, ranked_by,
    ranked_because, is_exploration, suggested_action and expected_profit.

    In: `candidates`, customer_id, as_of, churn_probability, recent_spend, is_holdout, risk_tier, reasons and more;
    `capacity_by_date`. By value at risk, the churn probability times the spend of the observation window, until the
    capacity is used up; or, by `ranking`, those whom actions earn most with, or those of whom a contact keeps most by
    their uplift (null: not known), nobody of whom it keeps none; where nobody's spend is known (null) by the
    probability alone. With retention.rank_by = "uplift" the policy's exploration share of the places goes to who else
    there is, the least exploration_draw first. Whoever is held out keeps the rank but takes no one's place.
    suggested_action: the first that fits; with [economics], of those that earn anything the ones that earn most in all
    within their capacities, null where none is left. expected_profit: of that action.
    """
    ranking = ranking or ranking_without_estimate(policy)
    valued = with_value_at_risk(candidates)
    days = pc.unique(valued.column("as_of")).sort().to_pylist()
    lists = [
        _list_of(valued.filter(pc.equal(valued.column("as_of"), day)), capacity[day], policy, ranking) for day in days
    ]
    return pa.concat_tables(lists) if lists else _list_of(valued, 0, policy, ranking)


def to_contact(listed: pa.Table) -> list[dict[str, Any]]:
    """Whom one list, with rank and is_holdout, asks to contact: its rows by rank, then from 1 without a hole.

    The list's own ranks count whoever is held out.
    """
    contacts = [row for row in listed.sort_by("rank").to_pylist() if not row["is_holdout"]]
    return [{**row, "rank": place} for place, row in enumerate(contacts, start=1)]


def _list_of(customers: pa.Table, capacity: int, policy: ChurnPolicy, ranking: Ranking) -> pa.Table:
    before = {"uplift": ["uplift"], "expected_profit": ["expected_profit"]}.get(ranking.by, [])
    then = ["value_at_risk"] if ranking.by == "expected_profit" else ["value_at_risk", "churn_probability"]
    order = [*((name, "descending") for name in (*before, *then)), ("customer_id", "ascending")]
    if ranking.by == "expected_profit":
        offered = _offered(customers, policy, most=capacity)
        ranked = offered.filter(offered.column("suggested_action").is_valid()).sort_by(order)
        ranked = ranked.append_column("is_exploration", pa.array(np.zeros(len(ranked), dtype=bool)))
    else:
        ranked = _offered(_chosen(customers, capacity, policy, ranking, order=order), policy)
    for name, told in (("ranked_by", ranking.by), ("ranked_because", ranking.because)):
        ranked = ranked.append_column(name, pa.array([told] * len(ranked), pa.string()))
    return ranked.append_column("rank", pa.array(np.arange(1, len(ranked) + 1), pa.int32()))


def _chosen(
    customers: pa.Table,
    capacity: int,
    policy: ChurnPolicy,
    ranking: Ranking,
    *,
    order: Sequence[tuple[str, str]],
) -> pa.Table:
    """The customers of one date that `ranking` chooses and those drawn at random, in `order`, with is_exploration."""
    explored = _explored(customers, capacity, policy)
    is_kept = pc.fill_null(pc.greater(customers.column("uplift"), 0.0), False) if ranking.by == "uplift" else None
    wanted = customers if is_kept is None else customers.filter(is_kept)
    best = _first(wanted.sort_by([*order]), capacity - explored)
    chosen = [best.append_column("is_exploration", pa.array(np.zeros(len(best), dtype=bool)))]
    if explored:
        is_best = pc.is_in(customers.column("customer_id"), best.column("customer_id").combine_chunks())
        by_lot = [("exploration_draw", "ascending"), ("customer_id", "ascending")]
        drawn = _first(customers.filter(pc.invert(is_best)).sort_by(by_lot), explored)
        chosen.append(drawn.append_column("is_exploration", pa.array(np.ones(len(drawn), dtype=bool))))
    return pa.concat_tables(chosen).sort_by([*order])


def _explored(customers: pa.Table, capacity: int, policy: ChurnPolicy) -> int:
    """How many of one list's places are drawn at random."""
    if policy.retention.rank_by != "uplift":
        return 0
    to_contact = len(customers) - pc.sum(customers.column("is_holdout"), min_count=0).as_py()
    return floor(policy.retention.exploration_share * min(capacity, to_contact))


def _first(customers: pa.Table, places: int) -> pa.Table:
    """The first so many to contact, with whoever is held out among them."""
    is_contact = ~customers.column("is_holdout").to_numpy()
    return customers.filter(np.cumsum(is_contact) - is_contact < places)


def _offered(customers: pa.Table, policy: ChurnPolicy, most: int | None = None) -> pa.Table:
    """`customers` of one date with suggested_action and expected_profit; `most` of them get one."""
    if policy.economics is None:
        names = [action.action for action in policy.retention.actions]
        places = first_fitting(fitting_actions(customers, policy))
        profit = pa.nulls(len(customers), pa.float64())
    else:
        names = list(policy.economics.actions)
        is_contact = ~customers.column("is_holdout").to_numpy()
        profits, places = expected_profits(customers, policy), np.full(len(customers), NO_ACTION)
        allocation = allocated(profits[is_contact], action_capacities(policy), most)
        places[is_contact] = allocation.actions
        places[~is_contact] = as_if_one_more(profits[~is_contact], allocation)
        is_none = places == NO_ACTION
        profit = pa.array(profits[np.arange(len(places)), places], mask=is_none)
    action = pa.array([None if place == NO_ACTION else names[place] for place in places], pa.string())
    return customers.append_column("suggested_action", action).append_column("expected_profit", profit)


def without_action(
    candidates: pa.Table, listed: pa.Table, capacity: Mapping[date, int], ranking: Ranking | None = None
) -> pa.Table:
    """The `candidates` whom the list has room for and is not for: customer_id, as_of, reason.

    By profit no action is left that pays; by uplift a contact keeps nobody like them.
    """
    has_room = _with_room(listed, capacity)
    is_of_such = pc.is_in(candidates.column("as_of"), pa.array(sorted(has_room), pa.date32()))
    unlisted = (
        candidates.filter(is_of_such).select([*KEYS]).join(listed.select([*KEYS]), [*KEYS], join_type="left anti")
    )
    reason = KEEPS_NOBODY if ranking is not None and ranking.by == "uplift" else NO_ACTION_PAYS
    return unlisted.append_column("reason", pa.array([reason] * len(unlisted), pa.string()))


def _with_room(listed: pa.Table, capacity: Mapping[date, int]) -> set[date]:
    contacts = Counter(listed.filter(pc.invert(listed.column("is_holdout"))).column("as_of").to_pylist())
    return {day for day, most in capacity.items() if contacts[day] < most}


def action_capacities(policy: ChurnPolicy) -> list[int | None]:
    """How many customers each action of [economics] is enough for on one list; None: as many as are listed."""
    assert policy.economics is not None, "the policy has actions with capacities"
    weekly = [offer.weekly_capacity for offer in policy.economics.actions.values()]
    return [None if most is None else most // policy.lists_of_a_week for most in weekly]


def as_doubles(decimals: pa.ChunkedArray) -> pa.ChunkedArray:
    """The doubles nearest to `decimals`: through text, because Arrow's own cast is not correctly rounded (25.0)."""
    return decimals.cast(pa.string()).cast(pa.float64())


def target_outcomes(
    targets: pa.Table, excluded: pa.Table, alerted: pa.Table, capacity: Mapping[date, int], policy: ChurnPolicy
) -> list[Outcome]:
    """TARGET_RULES of `retention_targets`, of the dates of `capacity`; `alerted`: the alerted scores of these dates."""
    has_room = _with_room(targets, capacity)
    listed, kept_off, alerts = (Counter(_keys(rows)) for rows in (targets, excluded, alerted))
    twice = [key for key, times in listed.items() if times > 1]
    unwanted = [key for key in listed.elements() if key in kept_off]
    strangers = [key for key in listed.elements() if key not in alerts]
    forgotten = [key for key in alerts if key[1] in has_room and key not in listed and key not in kept_off]
    return [
        _capacity_outcome(targets, capacity, policy),
        of_keys(
            "ranking",
            _keys(_misplaced(targets)),
            "ranks 1, 2, 3 … by falling value at risk, probability × recent spend, or by falling expected profit or "
            "uplift; without spend by probability",
        ),
        of_keys(
            "exclusions",
            [*twice, *unwanted, *strangers, *forgotten],
            "alerted customers, each once, nobody who is excluded, and while there is capacity everyone else",
        ),
    ]


def _keys(rows: pa.Table) -> list[tuple[str | None, date | None]]:
    return list(zip(*(rows.column(name).to_pylist() for name in KEYS), strict=True))


def _capacity_outcome(targets: pa.Table, capacity: Mapping[date, int], policy: ChurnPolicy) -> Outcome:
    to_contact = targets.filter(pc.invert(targets.column("is_holdout"))).select(["as_of", "suggested_action"])
    by_day = Counter(to_contact.column("as_of").to_pylist())
    by_action = Counter((row["as_of"], row["suggested_action"]) for row in to_contact.to_pylist())
    weeks = {day: (by_day[day], most) for day, most in sorted(capacity.items())}
    over = [f"{day}: {told:,} to contact, capacity {most:,}" for day, (told, most) in weeks.items() if told > most]
    figures = [_fullest("to_contact", "to contact", weeks)] if weeks else []
    actions = () if policy.economics is None else zip(policy.economics.actions, action_capacities(policy), strict=True)
    for action, most_of_it in actions:
        if most_of_it is not None and weeks:
            times = {day: (by_action[day, action], most_of_it) for day in weeks}
            over += [f"{day}: {n:,} times {action}, capacity {most:,}" for day, (n, most) in times.items() if n > most]
            figures.append(_fullest(f"times {action}".replace(" ", "_"), f"times {action}", times))
    largest = max((by_day[day] for day in weeks), default=0)
    return Outcome(
        "capacity",
        not over,
        "; ".join(over) or f"at most {largest:,} to contact",
        "the week's capacity",
        tuple(over[:MAX_KEYS]),
        figures=tuple(figures),
    )


def _fullest(key: str, what: str, weeks: Mapping[date, tuple[int, int]]) -> Figure:
    """The figure of the week that leaves least of its capacity; weeks: (as many, at most) by date."""
    day = max(weeks, key=lambda day: weeks[day][0] - weeks[day][1])
    told, most = weeks[day]
    return Figure(key, f"{what}, {day}", f"{told:,}", f"at most {most:,}", told <= most, told, most)


def _misplaced(targets: pa.Table) -> pa.Table:
    """The rows whose value or rank is wrong."""
    targets = targets.append_column("ranking", _ranking_value(targets))
    ranked = targets.sort_by([("as_of", "ascending"), ("rank", "ascending"), ("ranking", "descending")])
    dates = ranked.column("as_of").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, firsts, numbers = np.unique(dates, return_index=True, return_inverse=True)
    # Whoever is excluded or of no capacity has no rank; a hold-out has one.
    place = np.arange(1, len(ranked) + 1) - firsts[numbers]
    value, rank, spend = ranked.column("value_at_risk"), ranked.column("rank"), ranked.column("recent_spend")
    ranking = ranked.column("ranking")
    before = pa.array(np.roll(ranking.to_numpy(), 1), mask=place == 1)
    exact = pc.multiply(ranked.column("churn_probability"), spend)
    off, most_off = pc.abs(pc.subtract(value, exact)), pc.multiply(pc.max_element_wise(pc.abs(exact), 1.0), ROUNDING)
    is_unvalued = _is_ranked_by(ranked, "churn_probability")
    faults = [
        # There is a value just where there is a spend, and the list is not ranked without; by uplift both are.
        pc.and_not(pc.xor(value.is_null(), is_unvalued), _is_ranked_by(ranked, "uplift")),
        pc.xor(value.is_null(), spend.is_null()),
        # Not "greater": NaN is neither.
        pc.invert(pc.less_equal(off, most_off)),
        ranking.is_null(),
        pc.less(before, ranking),
        pc.not_equal(rank, pa.array(place)),
    ]
    return ranked.filter(reduce(pc.or_kleene, faults), null_selection_behavior="drop")


def _ranking_value(targets: pa.Table) -> pa.ChunkedArray:
    """What each list ranks by, as it says itself; lists of before it was said rank by the value at risk."""
    value = targets.column("value_at_risk")
    for other in ("expected_profit", "uplift", "churn_probability"):
        if other in targets.column_names:
            value = pc.if_else(_is_ranked_by(targets, other), targets.column(other), value)
    return value


def _is_ranked_by(targets: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    if "ranked_by" not in targets.column_names:
        return pa.array(np.zeros(len(targets), dtype=bool))
    return pc.fill_null(pc.equal(targets.column("ranked_by"), name), fill_value=False)

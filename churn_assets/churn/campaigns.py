"""What a retention list changed, once its outcomes are known: those to contact against those held out at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from churn_assets.churn.columns import Column, arrow_schema, of_kind
from churn_assets.churn.intervals import UNDEFINED, Estimate, share_difference
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.scoring import KEYS, TIERS

ALL_TIERS = "all"
NO_TIER = "(unknown)"
TREATED, HELD_OUT = "to contact", "held out"
NOT_YET_KNOWN, NOTHING_TO_COMPARE, TOO_FEW = "not yet known", "nothing to compare", "not enough to tell"
KEPT, LOST = "kept", "lost"
# Of a group, before its share is compared at all: the interval of fewer says next to nothing.
LEAST_IN_GROUP = 20


@dataclass(frozen=True)
class Arm:
    """Customers of one arm of a list; `retained` is None until the outcomes are known."""

    customers: int = 0
    contacted: int = 0
    retained: int | None = None

    @property
    def share(self) -> float | None:
        return None if self.retained is None or not self.customers else self.retained / self.customers


@dataclass(frozen=True)
class CampaignEffect:
    """Both arms of a list, of one risk tier or all. difference: of the shares retained, treated minus held out."""

    as_of: date
    risk_tier: str
    treated: Arm
    held_out: Arm
    difference: Estimate
    conclusion: str
    statement: str

    def row(self) -> dict[str, Any]:
        """As EFFECT_SCHEMA; customers_kept are those of the treated who stayed because of it."""
        kept = None if self.difference.value is None else self.difference.value * self.treated.customers
        return {
            "as_of": self.as_of,
            "risk_tier": self.risk_tier,
            "treated": self.treated.customers,
            "treated_contacted": self.treated.contacted,
            "treated_retained_share": self.treated.share,
            "held_out": self.held_out.customers,
            "held_out_contacted": self.held_out.contacted,
            "held_out_retained_share": self.held_out.share,
            "difference": self.difference.value,
            "difference_low": self.difference.low,
            "difference_high": self.difference.high,
            "customers_kept": kept,
            "conclusion": self.conclusion,
            "statement": self.statement,
        }


EFFECT_COLUMNS = (
    Column("as_of", "date"),
    Column("risk_tier", "string"),
    Column("treated", "long", "customers to contact"),
    Column("treated_contacted", "long", "those who were"),
    Column("treated_retained_share", "double"),
    Column("held_out", "long", "customers held out at random"),
    Column("held_out_contacted", "long"),
    Column("held_out_retained_share", "double"),
    Column("difference", "double", "share retained of those to contact minus that of those held out"),
    *of_kind("double", "difference_low", "difference_high"),
    Column(
        "customers_kept",
        "double",
        "how many of those to contact stayed because of it: difference times their number",
    ),
    Column(
        "conclusion", "string", "what can be said: kept, lost, not enough to tell, not yet known, nothing to compare"
    ),
    Column("statement", "string", "the same as a sentence, with the figures"),
)
EFFECT_SCHEMA = arrow_schema(EFFECT_COLUMNS)
# What the rows of `campaign_outcomes` are counted by.
COUNTED_BY = ("as_of", "risk_tier", "arm", "is_contacted", "is_retained", "problem")


def campaign_outcomes(members: DataFrame, panel: DataFrame, snapshots: Sequence[date]) -> DataFrame:
    """`members` with what came of each: risk_tier, arm, is_contacted, contacted_at, is_retained; `problem`, null where
    it counts.

    In: `retention.campaign_members`; the panel's customer_id, as_of, label, and its as-of dates. is_retained is null
    until known. The arm is the one the list chose, contacted or not: whoever could not be reached would otherwise be
    missed on one side only.
    """
    known = panel.select(*KEYS, F.lit(True).alias("is_eligible"), "label")
    # The earliest contact counts; a row more for the same list does not.
    by_contact = Window.partitionBy(*KEYS).orderBy(F.asc_nulls_last("contacted_at"), "is_holdout", "risk_tier")
    problem = (
        F.when(F.col("customer_id").isNull(), "no customer")
        .when(F.col("as_of").isNull(), "no date of the list")
        .when(~F.col("as_of").isin(list(snapshots)), "the date of the list is not an as-of date")
        .when(F.col("is_eligible").isNull(), "not an eligible customer of that date")
        .when(F.row_number().over(by_contact) > 1, "on the list more than once")
    )
    rows = members.join(known, [*KEYS], "left").withColumn("problem", problem)
    return rows.select(
        *KEYS,
        F.coalesce("risk_tier", F.lit(NO_TIER)).alias("risk_tier"),
        F.when(F.col("is_holdout"), HELD_OUT).otherwise(TREATED).alias("arm"),
        F.col("contacted_at").isNotNull().alias("is_contacted"),
        "contacted_at",
        (F.col("label") == 0.0).alias("is_retained"),
        "problem",
    )


def campaign_effects(counted: Mapping[tuple[Any, ...], int], policy: ChurnPolicy) -> list[CampaignEffect]:
    """By as-of date, of all tiers and then of each. In: how many rows of `campaign_outcomes` have each combination of
    COUNTED_BY; only those without a problem count.

    The intervals of the tiers are wider, by Bonferroni: of several looks at one campaign, one would mislead by chance.
    """
    by_tier: dict[tuple[date, str], dict[str, list[_Counted]]] = {}
    for (as_of, risk_tier, arm, is_contacted, is_retained, problem), customers in counted.items():
        if problem is None:
            for tier in (ALL_TIERS, risk_tier):
                arms = by_tier.setdefault((as_of, tier), {TREATED: [], HELD_OUT: []})
                arms[arm].append(_Counted(customers, is_contacted, is_retained))
    effects = []
    for (as_of, tier), arms in sorted(by_tier.items(), key=lambda item: (item[0][0], _order(item[0][1]))):
        tiers = sum(day == as_of for day, _ in by_tier) - 1
        confidence = policy.gate.confidence
        if tier != ALL_TIERS:
            confidence = 1 - (1 - confidence) / tiers
        treated, held_out = (_arm(arms[arm]) for arm in (TREATED, HELD_OUT))
        effects.append(campaign_effect(as_of, tier, treated, held_out, policy, confidence))
    return effects


def _order(tier: str) -> int:
    return [ALL_TIERS, *TIERS, NO_TIER, tier].index(tier)


@dataclass(frozen=True)
class _Counted:
    """Customers alike in whether they were contacted and whether they stayed; None until known."""

    customers: int
    is_contacted: bool
    is_retained: bool | None


def _arm(parts: Sequence[_Counted]) -> Arm:
    is_known = all(part.is_retained is not None for part in parts)
    return Arm(
        sum(part.customers for part in parts),
        sum(part.customers for part in parts if part.is_contacted),
        sum(part.customers for part in parts if part.is_retained) if is_known else None,
    )


def campaign_effect(
    as_of: date, tier: str, treated: Arm, held_out: Arm, policy: ChurnPolicy, confidence: float
) -> CampaignEffect:
    """What can be said of the two arms of a list: an effect is claimed only where the whole interval is on one side."""

    def concluded(conclusion: str, statement: str, difference: Estimate = UNDEFINED) -> CampaignEffect:
        return CampaignEffect(as_of, tier, treated, held_out, difference, conclusion, statement)

    if not treated.customers or not held_out.customers:
        missing = "nobody was held out" if treated.customers else "nobody was to be contacted"
        return concluded(NOTHING_TO_COMPARE, f"{missing}, so there is nothing to compare with")
    if treated.retained is None or held_out.retained is None:
        known_on = as_of + timedelta(days=policy.windows.outcome_days)
        return concluded(NOT_YET_KNOWN, f"who stayed is known once the orders up to {known_on} are in")
    smaller = min(treated.customers, held_out.customers)
    if smaller < LEAST_IN_GROUP:
        return concluded(TOO_FEW, f"only {smaller} customers in one of the groups: not enough to tell")
    difference, low, high = share_difference(
        treated.retained, treated.customers, held_out.retained, held_out.customers, confidence
    )
    estimate = Estimate(difference, low, high)
    listed = "contacted" if treated.contacted == treated.customers else "to contact"
    stayed = [round(100 * (arm.retained or 0) / arm.customers) for arm in (treated, held_out)]
    spoiled = f" ({held_out.contacted:,} of them were contacted all the same)" if held_out.contacted else ""
    told = f"of 100 {listed} {stayed[0]} stayed, of 100 held out {stayed[1]}{spoiled}"
    interval = f"{round(100 * confidence, 1):g}% interval"
    if low <= 0 <= high:
        unsure = f"the list kept up to {100 * high:.1f} of 100 or lost up to {-100 * low:.1f} ({interval})"
        return concluded(TOO_FEW, f"not enough to tell: {told}; {unsure}", estimate)
    changed = [abs(difference), *sorted((abs(low), abs(high)))]
    # An end that is not 0 does not read as 0.
    decimals = 0 if changed[0] >= 0.1 and changed[1] >= 0.01 else 1
    share, least, most = (f"{100 * each:.{decimals}f}" for each in changed)
    kept, fewest, all_told = (f"{each * treated.customers:,.0f}" for each in changed)
    statement = (
        f"{told}: the list {'kept' if low > 0 else 'lost'} about {share} of 100 ({interval} {least} to {most}), "
        f"some {kept} ({fewest} to {all_told}) of {treated.customers:,}"
    )
    return concluded(KEPT if low > 0 else LOST, statement, estimate)

"""What the estimate of contacts learns from and is bound to: rows of used lists, and verdicts as recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.churn.actions import first_fitting, fitting_actions
from churn_assets.churn.campaigns import HELD_OUT, TREATED
from churn_assets.churn.columns import Column, arrow_schema, list_of, map_of
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.evaluations import CRITERION
from churn_assets.churn.intervals import Floats
from churn_assets.churn.outcomes import Figure
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.retention import Ranking, ranking_without_estimate, with_value_at_risk
from churn_assets.churn.scoring import KEYS
from churn_assets.churn.uplift import Trial, UpliftEvaluation, UpliftModel, fold_of

# What the list knew of a customer, beside the features.
SCORE = "churn_probability"
# The columns of campaign_outcomes and of retention_targets that a trial is made of; of the panel it is the features.
OUTCOME_COLUMNS = (*KEYS, "arm", "contacted_at", "is_retained", "problem")
LIST_COLUMNS = (*KEYS, SCORE, "value_at_risk", "recent_spend", "suggested_action", "is_holdout", "listed_at")
UPLIFT_COLUMNS = (
    Column("customer_id", "string", "identifies the customer"),
    Column("as_of", "date", "the date of the list"),
    Column("arm", "string", "what the list chose, whether or not the customer could be reached"),
    Column("suggested_action", "string", "of the list, held out or not"),
    Column("is_retained", "boolean", "whether the customer stayed"),
    Column("value_at_risk", "double", "as the list had it"),
    Column(
        "uplift",
        "double",
        "what a contact takes off the chance of leaving, by a model that never saw this customer; below 0: adds to it",
    ),
)
UPLIFT_SCHEMA = arrow_schema(UPLIFT_COLUMNS)
EVALUATION_COLUMNS = (
    Column("evaluated_at", "timestamp", "when, UTC"),
    Column("verdict", "string", "PASS, FAIL or NOT_EVALUABLE; only PASS lets lists rank by uplift"),
    Column("reasons", list_of("string"), "the criteria that decided"),
    Column("criteria", list_of(CRITERION), "each figure beside what it may be"),
    Column("lists", list_of("date"), "the lists it was judged on"),
    Column("left_out", map_of("string", "long"), "rows of used lists that do not count, by why"),
    *(
        Column(f"{name}{end}", "double", meaning if not end else "")
        for name, meaning in (
            ("qini", "what the ranking keeps more than a random one, of each contacted, on average over all depths"),
            ("gain", "the same over the ranking by value at risk, on the same customers"),
            ("value_gain", "the same in spend kept, as a share of the mean spend"),
        )
        for end in ("", "_low", "_high")
    ),
    Column("auuc", "double", "area between the uplift curve and the straight line to its end"),
    Column("by_action", list_of("string"), "actions whose effect is another than that of the others"),
    Column("policy_digest", "string", "the rules it was judged by"),
    Column("lists_made_of", map_of("string", "long"), "the versions that campaign_outcomes was computed from"),
    Column("model_digest", "string", "of the model"),
    Column("model", "string", "the trees, as JSON; null without a PASS"),
)
EVALUATION_SCHEMA = arrow_schema(EVALUATION_COLUMNS)


@dataclass(frozen=True)
class UsedLists:
    """A trial and whose rows it has (customer_id, as_of, arm, suggested_action, is_retained, value_at_risk), and how
    many rows of used lists do not count, by why."""

    trial: Trial
    rows: pa.Table
    left_out: Mapping[str, int]


def used_lists(outcomes: pa.Table, listed: pa.Table, panel: pa.Table, policy: ChurnPolicy) -> UsedLists:
    """The rows of used lists whose outcome is known and whose list this project made before it was used.

    In: OUTCOME_COLUMNS of `campaign_outcomes`, LIST_COLUMNS of `retention_targets`, keys and the policy's features of
    the panel. A list that was made again after its first contact may know what came of it, so it does not count; nor
    does one of which nobody was held out or contacted. Rows by as_of and customer_id.
    """
    left_out: dict[str, int] = {}

    def kept(rows: pa.Table, is_kept: Any, why: str) -> pa.Table:
        remaining = rows.filter(is_kept)
        if len(rows) > len(remaining):
            left_out[why] = left_out.get(why, 0) + len(rows) - len(remaining)
        return remaining

    def joined(rows: pa.Table, others: pa.Table, why: str) -> pa.Table:
        marked = rows.join(others.append_column("is_there", pa.array([True] * len(others), pa.bool_())), [*KEYS])
        return kept(marked, marked.column("is_there").is_valid(), why).drop_columns(["is_there"])

    # Whoever was contacted, counted or not, a list is used from then on.
    used_from = pa.table(
        {"as_of": outcomes.column("as_of"), "used_at": _latest_moments(outcomes.column("contacted_at"))}
    )
    first = used_from.group_by("as_of").aggregate([("used_at", "min")])
    rows = kept(outcomes, outcomes.column("problem").is_null(), "of no list, date or customer that counts")
    rows = kept(rows, rows.column("is_retained").is_valid(), "outcome not yet known")
    rows = joined(rows.drop_columns(["contacted_at", "problem"]), listed, "on a list that was not made here")
    # The lot of the list, whatever the contacts say of it: whoever was called all the same was not chosen at random.
    drawn = pc.if_else(rows.column("is_holdout"), HELD_OUT, TREATED)
    rows = rows.set_column(rows.schema.get_field_index("arm"), "arm", drawn)
    rows = rows.join(first, "as_of")
    times = [rows.column(name).cast(_MOMENT) for name in ("listed_at", "used_at_min")]
    is_before = pc.fill_null(pc.less(*times), False)
    rows = kept(rows, is_before, "on a list made again after it was used")
    rows = joined(rows, panel, "without features")
    names = (*policy.features, SCORE)
    known = np.isfinite(_floats(rows, (*names, _ranked_by(policy)))).all(axis=1)
    rows = kept(rows, pa.array(known), "with a feature or a value at risk that is not known")
    arms = [set(pc.unique(rows.filter(pc.equal(rows.column("arm"), arm)).column("as_of")).to_pylist()) for arm in ARMS]
    is_both = pc.is_in(rows.column("as_of"), pa.array(sorted(arms[0] & arms[1]), pa.date32()))
    rows = kept(rows, is_both, "on a list without contacts or without anybody held out")
    rows = rows.sort_by([("as_of", "ascending"), ("customer_id", "ascending")])
    return UsedLists(_trial(rows, names, policy), rows.select([*_SHOWN]), left_out)


ARMS = (TREATED, HELD_OUT)
_MOMENT = pa.timestamp("us", "UTC")
_SHOWN = (*KEYS, "arm", "suggested_action", "is_retained", "value_at_risk")


def _latest_moments(contacted_at: pa.ChunkedArray) -> pa.ChunkedArray:
    """When each contact was at the latest: a source that tells the day alone has it at midnight, and the list of that
    day, made hours later, was there before the contact all the same."""
    moments = contacted_at.cast(_MOMENT).cast(pa.timestamp("us"))
    is_day_alone = pc.equal(moments, pc.floor_temporal(moments, unit="day"))
    ends = pc.add(moments, pa.scalar(timedelta(days=1), pa.duration("us")))
    return pc.if_else(is_day_alone, ends, moments).cast(_MOMENT)


def _trial(rows: pa.Table, names: Sequence[str], policy: ChurnPolicy) -> Trial:
    ids = rows.column("customer_id").combine_chunks().dictionary_encode()
    people = ids.dictionary.to_pylist()
    customers = ids.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    lists = rows.column("as_of").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    folds = np.array([fold_of(name, policy.split.salt) for name in people], dtype=np.int64)
    suggested = rows.column("suggested_action").to_pylist()
    # What is judged is what lists rank by: with [economics] the action is not known yet when they do.
    is_by_action = policy.economics is None
    return Trial(
        names=tuple(names),
        features=_floats(rows, names),
        customers=customers,
        lists=lists.astype(np.int64),
        folds=folds[customers] if len(people) else customers,
        is_contacted=pc.equal(rows.column("arm"), TREATED).to_numpy(),
        has_left=pc.invert(rows.column("is_retained")).to_numpy(),
        actions=np.array([action if action and is_by_action else "" for action in suggested], dtype=np.str_),
        value=_floats(rows, [_ranked_by(policy)])[:, 0],
        spend=_floats(rows, ["recent_spend"])[:, 0],
    )


def _ranked_by(policy: ChurnPolicy) -> str:
    """What lists rank by without an estimate, which it is compared with."""
    return SCORE if policy.ranked_by == SCORE else "value_at_risk"


def _floats(rows: pa.Table, names: Sequence[str]) -> Floats:
    columns = [np.asarray(rows.column(name).to_numpy(), dtype=np.float64) for name in names]
    return np.column_stack(columns) if columns else np.empty((len(rows), 0))


def uplift_rows(used: UsedLists, uplift: Floats) -> pa.Table:
    """The rows as UPLIFT_SCHEMA. uplift: of each, by a model that never saw the customer; NaN becomes null."""
    column = pa.array(uplift, mask=np.isnan(uplift))
    return used.rows.append_column("uplift", column).select(UPLIFT_SCHEMA.names).cast(UPLIFT_SCHEMA)


def digest_of_rules(policy: ChurnPolicy) -> str:
    """Names every rule that the estimate is made and judged by."""
    by = "action" if policy.economics is None else "any-contact"
    return f"{policy.digest}-{policy.retention.min_held_out}-{by}"


def evaluation_row(
    evaluation: UpliftEvaluation,
    used: UsedLists,
    model: UpliftModel | None,
    policy: ChurnPolicy,
    *,
    lists_made_of: Mapping[str, int],
    evaluated_at: datetime,
) -> dict[str, Any]:
    """As EVALUATION_SCHEMA. model: of all rows; None without a PASS. lists_made_of: the inputs of campaign_outcomes."""
    estimates = {"qini": evaluation.qini, "gain": evaluation.gain, "value_gain": evaluation.value_gain}
    figures = {
        f"{name}{end}": value
        for name, estimate in estimates.items()
        for end, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high))
    }
    return {
        "evaluated_at": evaluated_at,
        "verdict": evaluation.verdict.value,
        "reasons": list(evaluation.reasons),
        "criteria": [asdict(each) for each in evaluation.criteria],
        "lists": sorted(set(used.rows.column("as_of").to_pylist())),
        "left_out": dict(used.left_out),
        **figures,
        "auuc": evaluation.auuc,
        "by_action": [] if model is None else sorted(model.by_action),
        "policy_digest": digest_of_rules(policy),
        "lists_made_of": dict(lists_made_of),
        "model_digest": None if model is None else model.digest,
        "model": None if model is None else model.exported(),
    }


@dataclass(frozen=True)
class RecordedUplift:
    """The latest recorded verdict. model: None where it may not rank, and then `against` says why."""

    verdict: Verdict | None
    against: str
    reasons: Sequence[str] = ()
    criteria: Sequence[Figure] = ()
    model: UpliftModel | None = None


def recorded_uplift(
    rows: Sequence[Mapping[str, Any]], policy: ChurnPolicy, lists_made_of: Mapping[str, int]
) -> RecordedUplift:
    """What the latest of `rows` (EVALUATION_SCHEMA) lets lists rank by: nothing but a PASS under these very rules and
    about the outcomes as they are now, whose model is the one that was judged.

    lists_made_of: the inputs of campaign_outcomes as it is.
    """
    row = max(rows, key=lambda each: each["evaluated_at"], default=None)
    if row is None:
        return RecordedUplift(None, "nothing of it has been judged yet")
    verdict, reasons = Verdict(row["verdict"]), tuple(row["reasons"])
    criteria = tuple(Figure(**each) for each in row["criteria"])
    against = []
    if verdict is not Verdict.PASS:
        against.append(f"its gate says {verdict.value}: {'; '.join(reasons)}")
    if row["policy_digest"] != digest_of_rules(policy):
        against.append("it was judged under another policy")
    if dict(row["lists_made_of"]) != dict(lists_made_of):
        against.append("it was judged on other outcomes than those of now")
    model = UpliftModel.imported(row["model"]) if row["model"] and not against else None
    if not against and (model is None or model.digest != row["model_digest"]):
        against.append("its model is not the one that was judged")
    return RecordedUplift(verdict, "; ".join(against), reasons, criteria, None if against else model)


def ranking_by(recorded: RecordedUplift, policy: ChurnPolicy) -> Ranking:
    """What lists rank by: the uplift where the policy asks for it and its gate is open."""
    if policy.retention.rank_by != "uplift" or recorded.model is None:
        return ranking_without_estimate(policy, recorded.against)
    return Ranking("uplift", f"the company's policy asks for it and its gate says PASS: {'; '.join(recorded.reasons)}")


def with_uplift(candidates: pa.Table, model: UpliftModel | None, policy: ChurnPolicy) -> pa.Table:
    """`candidates`, customers whom a list could have, with uplift; null without a model.

    In: the features, risk_tier, reasons, churn_probability and recent_spend. The action is the first that fits; with
    [economics] it is decided after the ranks, so the uplift is that of any contact.
    """
    if model is None or not len(candidates):
        return candidates.append_column("uplift", pa.nulls(len(candidates), pa.float64()))
    features = _floats(candidates, model.any_contact.features)
    actions = np.full(len(candidates), "", dtype=object)
    if policy.economics is None:
        names = np.array([action.action for action in policy.retention.actions], dtype=object)
        actions = names[first_fitting(fitting_actions(with_value_at_risk(candidates), policy))]
    return candidates.append_column("uplift", pa.array(model.uplift(features, actions)))

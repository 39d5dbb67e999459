"""Stage 8, for people: why each scored customer is at risk, listed or not."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import reduce

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import UnlistableWeekError
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import EXPLANATION, REASON_RULES, explained, reason_outcomes, reference
from churn_assets.churn.scoring import KEYS, STAMPS, of_dates, stamps_of
from churn_assets.churn.trees import imported_trees
from churn_assets.churn.wording import Wording
from churn_assets.defs.audits import audited, remembered_outcomes, unjudged
from churn_assets.defs.features import BASELINE, PANEL, SNAPSHOTS
from churn_assets.defs.origins import origin_of
from churn_assets.defs.results import ColumnNote, check_result, same_columns, table_result, table_spec
from churn_assets.defs.scoring import GROUP, SCORES
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource

REASONS = "food_delivery/churn_reasons"
RULE_MEANINGS = {
    "coverage": "Each scored customer of a week has reasons of the model that scored them, or none that stands out.",
    "additivity": "The reasons' contributions add up to the score, so that no reason is made up.",
}
NOTES = {
    **same_columns([*KEYS, *STAMPS], SCORES, {}),
    "reasons": ColumnNote(
        "what raised the score most, up to three, each told by the feature that says it best and is true: value, the "
        "mean of the week's customers, what all features about the same contribute, sentence"
    ),
    "raw_score": ColumnNote("half the log-odds of churn, the sum of the trees"),
    "base_score": ColumnNote("its mean way through the trees for the week's customers"),
    "other_contributions": ColumnNote("what the features that are no reason contribute together"),
    "explained_at": ColumnNote("when, UTC"),
}
SCORED = (*KEYS, *STAMPS, "churn_probability")


@dg.multi_asset(
    name="churn_reasons",
    specs=[
        table_spec(
            REASONS,
            "Why each scored customer of a week is at risk, in words, with what each reason contributes to the score.",
            group=GROUP,
            deps=[SCORES, PANEL, BASELINE],
        )
    ],
    partitions_def=SNAPSHOTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def churn_reasons(
    context: dg.AssetExecutionContext,
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: dg.ResourceParam[ChurnPolicy],
) -> Iterator[dg.MaterializeResult]:
    """Explains the scores of the weeks of the partition keys, in place of what was told of these weeks before."""
    inputs = lakehouse.pin(SCORES)
    dates = [date.fromisoformat(key) for key in context.partition_keys]
    scored = lakehouse.arrow(SCORES, SCORED, inputs[SCORES], dates=("as_of", dates))
    stamps = stamps_of(scored)
    require_scored(stamps, dates, "explained; earlier reasons stay")
    told = [
        _explained(
            lakehouse,
            tracking,
            policy,
            scored,
            dates=[as_of for as_of, *by in stamps if by == [number, panel_version]],
            made_with=(number, panel_version),
        )
        for number, panel_version in sorted({(number, version) for _, number, version in stamps})
    ]

    def audit(staged: Mapping[str, DataFrame]) -> dict[str, object]:
        return audited(reason_outcomes(staged[REASONS].toArrow(), scored), REASONS, policy)

    rows = reduce(DataFrame.unionByName, told).withColumn("explained_at", F.lit(datetime.now(UTC)))
    (commit,) = lakehouse.replace_dates(
        {REASONS: rows.repartition("as_of")}, "as_of", dates, audit=audit, metadata={"inputs": inputs}
    )
    yield table_result(commit, {"inputs": inputs, "weeks": len(dates)}, NOTES)


def require_scored(stamps: Sequence[tuple[date, str, int]], dates: Sequence[date], what: str) -> None:
    """Raises UnlistableWeekError where a date is not scored. what: cannot be done with nobody."""
    unscored = sorted(set(dates) - {as_of for as_of, *_ in stamps})
    if unscored:
        raise UnlistableWeekError(
            f"No customer of these weeks is scored, so nobody can be {what}.",
            [str(day) for day in unscored],
            next_step=f"materialize {SCORES} for these weeks",
        )


def _explained(
    lakehouse: LakehouseResource,
    tracking: TrackingResource,
    policy: ChurnPolicy,
    scored: pa.Table,
    *,
    dates: Sequence[date],
    made_with: tuple[str, int],
) -> DataFrame:
    """KEYS, STAMPS and EXPLANATION of those whom one version of the model scored of one of the panel."""
    number, panel_version = made_with
    model, origin = imported_trees(tracking.exported_trees(number)), origin_of(lakehouse, panel_version, policy)
    is_of_version = [pc.equal(scored.column(name), value) for name, value in zip(STAMPS, made_with, strict=True)]
    told_columns = [name for name in policy.catalogue.told_columns if name not in model.features]
    observed = origin.observed(dates).select(*KEYS, *told_columns)
    features = of_dates(lakehouse.read(PANEL, panel_version), dates).select(*KEYS, *model.features)
    rows = (
        lakehouse.frame(scored.filter(pc.and_(*is_of_version)).select([*KEYS, *STAMPS]))
        .join(features, [*KEYS])
        .join(observed, [*KEYS])
    )
    references = {}
    for day in dates:
        everybody = lakehouse.arrow(PANEL, ["customer_id", *model.features], panel_version, dates=("as_of", [day]))
        of_day = scored.filter(pc.equal(scored.column("as_of"), day)).column("customer_id")
        is_scored = pc.is_in(everybody.column("customer_id"), of_day.combine_chunks())
        references[day] = reference(everybody.filter(is_scored), model, policy.catalogue)
    names = origin.segments()
    wording = Wording(policy.feature_rules, {int(place): name for place, name in names.items()}, policy.units.scale)
    told = explained(rows, model, references, wording, policy.catalogue)
    return told.select(*KEYS, *STAMPS, *[column.name for column in EXPLANATION])


@dg.multi_asset_check(
    name="churn_reasons__contract",
    specs=[
        dg.AssetCheckSpec(rule, asset=REASONS.split("/"), blocking=True, description=RULE_MEANINGS[rule])
        for rule in REASON_RULES
    ],
)
def churn_reasons_contract(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """The rules of the weeks explained last, against the scores they explain."""
    for outcome in (
        unjudged(lakehouse, REASONS, RULE_MEANINGS, "no week has been explained yet")
        or remembered_outcomes(lakehouse, lakehouse.pin(REASONS), policy)
        or _last_outcomes(lakehouse)
    ):
        yield check_result(outcome, REASONS)


def _last_outcomes(lakehouse: LakehouseResource) -> list[Outcome]:
    made = lakehouse.counts(REASONS, ["explained_at", "as_of"])
    last = max(explained_at for explained_at, _ in made)
    of_dates = ("as_of", [as_of for explained_at, as_of in made if explained_at == last])
    told = lakehouse.arrow(REASONS, [*KEYS, *STAMPS, *[column.name for column in EXPLANATION]], dates=of_dates)
    return reason_outcomes(told, lakehouse.arrow(SCORES, SCORED, lakehouse.inputs(REASONS)[SCORES], dates=of_dates))

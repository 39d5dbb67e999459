"""Stage 9, of the lists: what a contact changes for each customer, and whether lists may rank by that."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

import dagster as dg
import numpy as np
import pyarrow as pa

from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import Floats
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.scoring import KEYS
from churn_assets.churn.trials import (
    EVALUATION_COLUMNS,
    EVALUATION_SCHEMA,
    LIST_COLUMNS,
    OUTCOME_COLUMNS,
    UPLIFT_COLUMNS,
    RecordedUplift,
    evaluation_row,
    uplift_rows,
    used_lists,
)
from churn_assets.churn.uplift import Trial, amounts, by_tenths, crossfitted_uplift, fitted, judge
from churn_assets.defs.features import PANEL
from churn_assets.defs.results import (
    as_metadata,
    as_numbers,
    bullets,
    check_result,
    described,
    table_result,
    table_spec,
)
from churn_assets.defs.retention import OUTCOMES, TARGETS, UPLIFT_EVALUATIONS, recorded_estimate
from churn_assets.defs.scoring import MONITORING_GROUP
from churn_assets.pages.pictures import drawn, uplift_by_tenths
from churn_assets.pages.tables import criteria_table
from churn_assets.resources.lakehouse import LakehouseResource

UPLIFT = "food_delivery/contact_uplift"
NOTES = {**described(UPLIFT_COLUMNS), **described(EVALUATION_COLUMNS)}


@dg.multi_asset(
    name="contact_uplift",
    specs=[
        table_spec(
            UPLIFT,
            "What a contact takes off each customer's chance of leaving, for everybody on used lists whose outcome is "
            "known, by a model that never saw that customer.",
            group=MONITORING_GROUP,
            deps=[OUTCOMES, TARGETS, PANEL],
        ),
        table_spec(
            UPLIFT_EVALUATIONS,
            "Whether ranking by that keeps more customers than at random and than by value at risk: a verdict for each "
            "evaluation, with the model that the next lists rank by after a PASS.",
            group=MONITORING_GROUP,
            deps=[OUTCOMES, TARGETS, PANEL],
        ),
    ],
)
def contact_uplift(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.MaterializeResult]:
    """Estimates what contacts change from those held out of used lists, and judges the estimate. Needs no engine."""
    inputs, before = lakehouse.pin(OUTCOMES, TARGETS, PANEL), lakehouse.version(UPLIFT)
    outcomes = lakehouse.arrow(OUTCOMES, OUTCOME_COLUMNS, inputs[OUTCOMES])
    dates = sorted({day for day in outcomes.column("as_of").to_pylist() if day is not None})
    panel = features_of(lakehouse, policy, inputs[PANEL], dates)
    listed = lakehouse.arrow(TARGETS, LIST_COLUMNS, inputs[TARGETS], dates=("as_of", dates))
    used = used_lists(outcomes, listed, panel, policy)
    is_enough = all(each.is_met for each in amounts(used.trial, policy))
    # Of too few nothing is estimated: null, not a number that looks like one.
    uplift = crossfitted_uplift(used.trial, policy) if is_enough else np.full(len(used.rows), np.nan)
    evaluation = judge(used.trial, uplift, policy)
    model = fitted(used.trial, policy) if evaluation.verdict is Verdict.PASS else None
    rows = uplift_rows(used, uplift)
    made_of = lakehouse.inputs(OUTCOMES, inputs[OUTCOMES])
    row = evaluation_row(evaluation, used, model, policy, lists_made_of=made_of, evaluated_at=datetime.now(UTC))
    written = lakehouse.overwrite(UPLIFT, rows, since=before, metadata={"inputs": inputs})
    version = lakehouse.append_after(
        UPLIFT_EVALUATIONS, lakehouse.version(UPLIFT_EVALUATIONS), pa.Table.from_pylist([row], EVALUATION_SCHEMA)
    )
    left_out = [f"{number:,} {why}" for why, number in sorted(used.left_out.items())]
    told = {
        "inputs": inputs,
        "verdict": evaluation.verdict.value,
        "reasons": bullets(evaluation.reasons),
        "criteria": dg.MetadataValue.md(criteria_table(evaluation.criteria)),
        "left_out": bullets(left_out or ["none"]),
        **({"by_tenths": _by_tenths(used.trial, uplift, policy)} if is_enough else {}),
        **as_numbers(evaluation.criteria),
    }
    yield table_result(written, told, NOTES)
    yield table_result(lakehouse.commit(UPLIFT_EVALUATIONS, version), told, NOTES)


def _by_tenths(trial: Trial, uplift: Floats, policy: ChurnPolicy) -> dg.MarkdownMetadataValue:
    return as_metadata(drawn(uplift_by_tenths(by_tenths(trial, uplift, policy.gate.confidence))))


def features_of(lakehouse: LakehouseResource, policy: ChurnPolicy, version: int, dates: Sequence[date]) -> pa.Table:
    """KEYS and the policy's features of the panel's rows of the dates; null where that version has no such column."""
    there = set(lakehouse.table_schema(PANEL, version).names)
    known = [name for name in policy.features if name in there]
    panel = lakehouse.arrow(PANEL, [*KEYS, *known], version, dates=("as_of", dates))
    for name in set(policy.features) - there:
        panel = panel.append_column(name, pa.nulls(len(panel), pa.float64()))
    return panel


@dg.asset_check(
    asset=UPLIFT_EVALUATIONS.split("/"),
    name="uplift_gate",
    description="Lists rank by uplift after a recorded PASS alone, under this policy and on the outcomes as they are.",
)
def uplift_gate(lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]) -> dg.AssetCheckResult:
    """Warns where retention.rank_by asks for an estimate that may not rank; the lists go by the value at risk then."""
    return check_result(gate_outcome(recorded_estimate(lakehouse, policy), policy))


def gate_outcome(recorded: RecordedUplift, policy: ChurnPolicy) -> Outcome:
    """The gate as a check tells it."""
    is_asked = policy.retention.rank_by == "uplift"
    unasked = "" if is_asked else "; retention.rank_by does not ask for it"
    observed = f"{recorded.against or 'PASS: ' + '; '.join(recorded.reasons)}{unasked}"
    allowed = "a recorded PASS, where retention.rank_by asks for uplift"
    is_passed = recorded.model is not None or not is_asked
    return Outcome("uplift_gate", is_passed, observed, allowed, is_warning=True, figures=tuple(recorded.criteria))

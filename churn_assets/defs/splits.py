"""Stage 4: the two splits of the panel."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import dagster as dg
from pyspark.sql import DataFrame

from churn_assets.churn import splits
from churn_assets.churn.contract import SPLIT_RULES, split_outcomes
from churn_assets.churn.outcomes import Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.audits import audited, remembered_outcomes
from churn_assets.defs.feasibility import FEASIBILITY
from churn_assets.defs.features import PANEL, panel_notes
from churn_assets.defs.results import ColumnNote, check_result, same_columns, table_result, table_spec
from churn_assets.resources.lakehouse import LakehouseResource

GROUP = "splits"
TRAIN = "food_delivery/train_features"
TEST = "food_delivery/test_features"

SPLIT_RULE_MEANINGS = {
    "disjoint_customers": "No customer is both learned from and judged on.",
    "test_after_train_outcomes": "Every training outcome was known by the test date.",
    "test_share": "The test customers are a fifth of all, as far as chance allows.",
}


@dg.multi_asset(
    name="train_and_test_features",
    specs=[
        table_spec(
            TRAIN,
            "The rows to learn from: customers outside the test folds, at dates whose outcome was known by the test "
            "date. Column `fold` marks the validation rows.",
            group=GROUP,
            # Nothing is cut where no verdict could be reached.
            deps=[PANEL, FEASIBILITY],
        ),
        table_spec(
            TEST,
            "The rows to judge on: the test customers at the latest date with known labels.",
            group=GROUP,
            deps=[PANEL, FEASIBILITY],
        ),
    ],
)
def train_and_test_features(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.MaterializeResult]:
    """Both splits from one version of the panel, audited together before either is published."""
    inputs = lakehouse.pin(PANEL)
    panel = lakehouse.read(PANEL, inputs[PANEL])
    dates = stored_dates(lakehouse, inputs[PANEL], policy)
    train = splits.train_rows(panel, dates, policy)
    test = splits.held_out_rows(panel, dates, policy)

    def audit(staged: Mapping[str, DataFrame]) -> dict[str, object]:
        outcomes = split_outcomes(staged[TRAIN], staged[TEST], panel, policy.windows.outcome_days)
        return audited(outcomes, f"{TRAIN} and {TEST}", policy)

    commits = lakehouse.write_together({TRAIN: train, TEST: test}, audit=audit, metadata={"inputs": inputs})
    span = {"test_as_of": str(dates.test), "train_as_of": [str(day) for day in dates.train]}
    meanings = {name: note.meaning for name, note in panel_notes(policy).items()}
    fold = ColumnNote("hash of the customer, 0 to 99", [(PANEL, "customer_id")])
    notes = same_columns(list(meanings), PANEL, meanings) | {"fold": fold}
    for commit in commits:
        yield table_result(commit, {"inputs": inputs, **span, "is_out_of_time": dates.is_out_of_time}, notes)


@dg.multi_asset_check(
    name="train_and_test_features__contract",
    specs=[
        dg.AssetCheckSpec(
            rule,
            asset=TEST.split("/"),
            additional_deps=[TRAIN.split("/")],
            blocking=True,
            description=SPLIT_RULE_MEANINGS[rule],
        )
        for rule in SPLIT_RULES
    ],
)
def train_and_test_features_contract(
    lakehouse: LakehouseResource, policy: dg.ResourceParam[ChurnPolicy]
) -> Iterator[dg.AssetCheckResult]:
    """The rules that make the test a test, on the tables as they stand."""
    versions = lakehouse.pin(TRAIN, TEST)
    for outcome in stored_split_outcomes(lakehouse, versions | lakehouse.inputs(TEST, versions[TEST]), policy):
        yield check_result(outcome, TEST)


def stored_dates(lakehouse: LakehouseResource, panel_version: int, policy: ChurnPolicy) -> splits.SplitDates:
    """The dates of the split of a version of the panel. Needs no JVM. Raises NoLabelledSnapshotError."""
    return splits.dates_of(stored_labelled_dates(lakehouse, panel_version), policy)


def stored_labelled_dates(lakehouse: LakehouseResource, panel_version: int) -> list[date]:
    """The dates of a version of the panel with known labels, rising. Needs no JVM."""
    counts = lakehouse.counts(PANEL, ["as_of", "label"], panel_version)
    return sorted({as_of for as_of, label in counts if label is not None})


def stored_split_outcomes(
    lakehouse: LakehouseResource, versions: Mapping[str, int], policy: ChurnPolicy
) -> Sequence[Outcome]:
    """The rules of these versions of both splits, against the version of the panel that is named with them."""
    if lakehouse.inputs(TEST, versions[TEST]).get(PANEL) == versions[PANEL]:
        audit = remembered_outcomes(lakehouse, {table: versions[table] for table in (TRAIN, TEST)}, policy)
        if audit:
            return audit
    train, test, panel = (lakehouse.read(table, versions[table]) for table in (TRAIN, TEST, PANEL))
    return split_outcomes(train, test, panel, policy.windows.outcome_days)

"""Customers who asked to be forgotten: the job that erases them, and what keeps them from coming back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field
from pyspark.sql import DataFrame

from churn_assets.churn.erasures import ERASURE_SCHEMA, KEYS_OF_FRAME, KINDS, erasure_rows, salt_of, without_erased
from churn_assets.churn.errors import ChurnError
from churn_assets.defs.launchpad import asked_of
from churn_assets.delta.erasing import Erasure
from churn_assets.pages import markdown
from churn_assets.resources.abandoned_runs import end_vanished_runs
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource

FORGET = "forget_customers"
ERASURES = "food_delivery/erasures"
# A run of one of these may be writing.
WRITING = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)


class UnforgettableError(ChurnError):
    """Customers cannot be erased now, or not as asked."""


class ForgetConfig(dg.Config):
    """Who is to be forgotten, and why."""

    customer_ids: list[str] = Field(min_length=1, description="The ids as the sources have them.")
    reason: str = Field(pattern=r"\S", description="Why, without naming the customer: it goes into the ledger.")


@dg.op
def forget(
    context: dg.OpExecutionContext, config: ForgetConfig, lakehouse: LakehouseResource, tracking: TrackingResource
) -> None:
    """Takes the customers out of every version of every table, out of exports, reports and MLflow's artifacts.

    First into the ledger, so that no refresh brings them back, whatever happens then; and again does what is left.
    """
    customers = frozenset(stripped for each in config.customer_ids if (stripped := each.strip()))
    _require_erasable(context, customers, config.reason)
    orders = lakehouse.orders_of(customers)
    erasure = Erasure(customers, frozenset(orders))
    _record(lakehouse, erasure, config.reason, context.run.run_id)
    erased = lakehouse.erase(erasure)
    in_artifacts, unsearched = tracking.erase(erasure)
    for place in unsearched:
        context.log.warning(f"{place} cannot be searched from here: look through these artifacts by hand")
    context.add_output_metadata(
        {
            "customers": len(customers),
            "files": len(erased) + len(in_artifacts),
            "rows": sum(erased.values()),
            "places": dg.MetadataValue.md(
                markdown.table(
                    ["file", "rows or places"],
                    [[file, str(rows)] for file, rows in sorted({**erased, **in_artifacts}.items())],
                )
            ),
        }
    )


def _require_erasable(context: dg.OpExecutionContext, customers: frozenset[str], reason: str) -> None:
    """Raises UnforgettableError."""
    if Erasure(customers).names(reason):
        raise UnforgettableError(
            "The reason names a customer, and the ledger keeps it for years.", next_step="write it without the id"
        )
    end_vanished_runs(context.instance)
    others = [
        f"{run.run_id} of {run.job_name}"
        for run in context.instance.get_runs(dg.RunsFilter(statuses=list(WRITING)))
        if run.run_id != context.run.run_id
    ]
    if others:
        raise UnforgettableError(
            "Other runs go on, and may be writing these customers' rows.", others, next_step="wait for them to end"
        )


def _record(lakehouse: LakehouseResource, erasure: Erasure, reason: str, dagster_run_id: str) -> None:
    def lacking(ledger: Sequence[dict[str, Any]]) -> pa.Table:
        rows = erasure_rows(
            ledger,
            erasure.customers,
            erasure.orders,
            reason=reason,
            erased_at=datetime.now(UTC),
            dagster_run_id=dagster_run_id,
        )
        return pa.Table.from_pylist(rows, ERASURE_SCHEMA)

    lakehouse.append_lacking(ERASURES, lacking)


def without_forgotten(lakehouse: LakehouseResource, rows: DataFrame) -> DataFrame:
    """`rows` of a source without those of customers who were forgotten."""
    ledger = lakehouse.records(ERASURES) if lakehouse.has(ERASURES) else []
    if not ledger:
        return rows
    erased = {}
    for column, kind in KINDS.items():
        hashes = [row["hash"] for row in ledger if row["kind"] == kind]
        if hashes and column in rows.columns:
            erased[column] = lakehouse.frame(pa.table({KEYS_OF_FRAME: hashes}))
    return without_erased(rows, erased, salt_of(ledger))


def forgotten_since(lakehouse: LakehouseResource, moment: datetime) -> Sequence[datetime]:
    """When each customer was forgotten who was so after `moment`."""
    ledger = lakehouse.records(ERASURES) if lakehouse.has(ERASURES) else []
    return [row["erased_at"] for row in ledger if row["kind"] == "customer" and row["erased_at"] > moment]


CUSTOMER_IDS = dg.Field([str], default_value=[], description=ForgetConfig.model_fields["customer_ids"].description)
REASON = dg.Field(str, default_value="", description=ForgetConfig.model_fields["reason"].description)


@dg.job(
    name=FORGET,
    description="Erases customers from every version of every table, from exports, reports and artifacts, and keeps "
    "them from coming back; ids and reason by run config.",
    config=asked_of("forget", customer_ids=CUSTOMER_IDS, reason=REASON),
)
def forget_customers() -> None:
    forget()

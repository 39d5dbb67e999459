"""What Dagster's Launchpad opens with for a job that people launch, and what it does not launch."""

from typing import Any

import dagster as dg
import pytest
from dagster._config import process_config

from churn_assets.defs.erasures import forget_customers
from churn_assets.defs.launchpad import UnfilledFieldError
from churn_assets.defs.registry import promote_staging_model, rollback_production_model

SAID = {"approver": "", "reason": ""}
JOBS: dict[str, tuple[dg.JobDefinition, dict[str, Any]]] = {
    "promote": (promote_staging_model, SAID),
    "roll_back": (rollback_production_model, SAID),
    "forget": (forget_customers, {"customer_ids": [], "reason": ""}),
}
FILLED = {"approver": "ada", "reason": "asked by letter", "customer_ids": ["C1"]}


def mapping(job: dg.JobDefinition) -> dg.ConfigMapping:
    assert job.config_mapping is not None
    return job.config_mapping


@pytest.mark.parametrize("op", JOBS)
def test_the_launchpad_opens_with_just_the_fields_to_fill(op: str) -> None:
    job, fields = JOBS[op]
    opened = process_config(mapping(job).config_schema.config_type, {})
    assert opened.success
    assert opened.value == {"ops": {op: {"config": fields}}}


@pytest.mark.parametrize(
    ("op", "field", "value"),
    [
        *((op, field, blank) for op in ("promote", "roll_back") for field in SAID for blank in ("", " \t")),
        *(("forget", "reason", blank) for blank in ("", "\n")),
        *(("forget", "customer_ids", blank) for blank in ([], [""], ["  ", ""])),
    ],
)
def test_nothing_is_launched_while_a_field_is_blank(op: str, field: str, value: Any) -> None:
    job, fields = JOBS[op]
    given = {name: FILLED[name] for name in fields}
    resolve = mapping(job).resolve_from_unvalidated_config
    assert resolve({"ops": {op: {"config": given}}}) == {"ops": {op: {"config": given}}}
    with pytest.raises(UnfilledFieldError, match=f"Nothing is launched: {field} must be filled in."):
        resolve({"ops": {op: {"config": {**given, field: value}}}})

"""What a person may write into the ledger."""

from pathlib import Path

import dagster as dg
import pytest

from churn_assets.churn.policy import ChurnPolicy
from churn_assets.defs.registry import promote_staging_model, rollback_production_model
from churn_assets_tests.conftest import causes_of
from churn_assets_tests.resources.test_promotions import promotions_in


@pytest.mark.parametrize(("job", "op"), [(promote_staging_model, "promote"), (rollback_production_model, "roll_back")])
@pytest.mark.parametrize("field", ["approver", "reason"])
def test_a_line_break_or_a_control_character_is_refused_by_name(
    tmp_path: Path, job: dg.JobDefinition, op: str, field: str
) -> None:
    promotions = promotions_in(tmp_path)
    said = {"approver": "ada", "reason": "the list was full of regulars"} | {field: "ada\nrefused: version 2\x1b[2K"}
    result = job.execute_in_process(
        run_config={"ops": {op: {"config": said}}},
        resources={
            "promotions": promotions,
            "tracking": promotions.tracking,
            "lakehouse": promotions.lakehouse,
            "policy": ChurnPolicy(),
        },
        raise_on_error=False,
    )
    (cause,) = causes_of(result)
    assert "UnwritableDecisionError" in cause
    assert f"The {field} holds line breaks or control characters" in cause
    assert "- U+000A at character 4\n  - U+001B at character 23\n" in cause
    assert "Next step: write it in one line" in cause
    assert promotions.state().ledger == ()

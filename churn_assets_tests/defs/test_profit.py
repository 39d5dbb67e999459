"""What contacts earn through the flow: chosen by, recorded, logged, drawn and told, from the same customers."""

from pathlib import Path

import pytest

from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.policy import Economics, Offer
from churn_assets.commands.summary import _evaluation_lines
from churn_assets.definitions import LIFECYCLE
from churn_assets.defs.feasibility import FEASIBILITY
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.splits import TEST
from churn_assets_tests.conftest import Project, causes_of, materializations_of


def test_a_threshold_by_profit_is_chosen_judged_and_told(project: Project, tmp_path: Path) -> None:
    # Whoever is called costs nothing, and half of those about to leave are kept: a call pays with everybody.
    call = Offer(acceptance=0.5)
    economics = Economics(
        margin=0.5,
        lifetime_days=project.policy.windows.observation_days,
        actions={action.action: call for action in project.policy.retention.actions},
    )
    alerts = project.policy.alerts.model_copy(update={"threshold_by": "profit"})
    gate = project.policy.gate.model_copy(update={"evaluation": "crossfit"})
    units = project.policy.units.model_copy(update={"currency": "EUR"})
    sections = {"economics": economics, "alerts": alerts, "gate": gate, "units": units}
    changed = project.under(project.policy.model_copy(update=sections))
    result = changed.run(LIFECYCLE, FEASIBILITY, "churn_pipeline_model", "recall_churn")
    assert set(materializations_of(result)) == {FEASIBILITY, "churn_pipeline_model", "recall_churn"}, causes_of(result)
    row = max(changed.lakehouse.records("recall_churn"), key=lambda row: row["evaluated_at"])
    assert row["policy_digest"] == changed.policy.digest
    assert row["verdict"] != Verdict.NOT_EVALUABLE.value, causes_of(result)
    assert len(row["profit_curve"]) == 101
    assert row["profit_curve"][100]["profit"] == pytest.approx(_if_all_were_called(changed))
    assert row["profit_per_customer_low"] <= row["profit_per_customer"] <= row["profit_per_customer_high"]
    assert row["best_profit_per_customer"] == max(point["profit"] for point in row["profit_curve"])
    assert row["empc"] > 0
    made = materializations_of(result)
    trained, judged = made["churn_pipeline_model"].metadata, made["recall_churn"].metadata
    assert trained["validation_profit"].value > 0  # type: ignore[operator]
    assert judged["empc"].value == row["empc"]
    run = changed.tracking.client.get_run(str(trained["mlflow_run_id"].value))
    assert {name: run.data.metrics[name] for name in ("empc", "profit_per_customer", "most_profitable_share")} == {
        name: row[name] for name in ("empc", "profit_per_customer", "most_profitable_share")
    }
    assert run.data.metrics["validation_profit"] == trained["validation_profit"].value
    files = {file.path for file in changed.tracking.client.list_artifacts(run.info.run_id)}
    assert {"profit_curve.png", "model_card.md"} <= files
    card = Path(changed.tracking.client.download_artifacts(run.info.run_id, "model_card.md", str(tmp_path)))
    assert f"EMPC: {row['empc']:,.3f} (" in card.read_text(encoding="utf-8")
    shown = _evaluation_lines(changed.lakehouse, changed.policy, row["evaluated_at"])
    (line,) = [each for each in shown if "EMPC" in each]
    assert line.startswith(
        f"  profit    {row['profit_per_customer']:,.2f} EUR per customer by contacting the alerted; "
    )


def _if_all_were_called(project: Project) -> float:
    """The profit per customer where each is called, by the panel and the spend behind it: see the economics above."""
    lakehouse = project.lakehouse
    day = max(lakehouse.dates(TEST, "as_of"))
    labels = lakehouse.arrow(PANEL, ["customer_id", "label"], dates=("as_of", [day])).to_pandas()
    spend = lakehouse.arrow(BASELINE, ["customer_id", "spend"], dates=("as_of", [day])).to_pandas()
    both = labels.merge(spend, on="customer_id", validate="one_to_one")
    assert len(both) == len(labels)
    return float((both["label"] * 0.5 * both["spend"].astype(float) * 0.5).mean())

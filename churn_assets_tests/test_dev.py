"""`make dev` as people use it: both servers answer, a job launched from the interface runs, Ctrl-C ends everything."""

from pathlib import Path
from urllib.request import urlopen

import dagster as dg
import psutil
import pytest
from dagster_graphql import DagsterGraphQLClient

from churn_assets.definitions import CHECKS
from churn_assets.defs.monitoring import CHECKS as MONITORING_CHECKS
from churn_assets_tests.conftest import Project
from churn_assets_tests.processes import PATIENCE_SECONDS, dev_servers, interrupt, wait_for

pytestmark = pytest.mark.system

LOCATION = "churn_assets.definitions"


def test_a_job_launched_from_the_interface_runs_and_ctrl_c_ends_everything(listed: Project, tmp_path: Path) -> None:
    with dev_servers(listed.copied_to(tmp_path / "project"), tmp_path) as served:
        client = DagsterGraphQLClient("127.0.0.1", port_number=served.dagster_port)
        with urlopen(f"http://127.0.0.1:{served.mlflow_port}/health") as answer:
            assert answer.status == 200
        run_id = client.submit_job_execution(
            CHECKS, repository_location_name=LOCATION, repository_name="__repository__"
        )
        ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
        wait_for("the run", lambda: client.get_run_status(run_id) in ended)
        with served.project.instance() as instance:
            failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
            checked = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        causes = [str(failed.get_dagster_event().step_failure_data.error) for failed in failures]
        assert client.get_run_status(run_id) is dg.DagsterRunStatus.SUCCESS, causes
        found = [entry.dagster_event.asset_check_evaluation_data for entry in checked if entry.dagster_event]
        assert {evaluation.check_name for evaluation in found} > {"recall_gate", "serving_contract", "no_nulls"}
        # The little demo is trained on its crisis alone, and the weeks after it are drift.
        warnings = {*MONITORING_CHECKS, "model_beats_single_features"}
        assert {evaluation.check_name for evaluation in found if not evaluation.passed} <= warnings

        # The addresses stay the last that is said: what sensors say at each tick is in the log alone.
        said, log = (tmp_path / "dev.log").read_text(), served.project.settings.data / "logs" / "dagster-server.log"
        assert said.rstrip().endswith("Ctrl-C ends both."), said
        assert "SensorDaemon" in log.read_text(errors="replace")

        family = psutil.Process(served.process.pid).children(recursive=True)
        assert len(family) >= 3
        interrupt(served.process, tmp_path / "dev.log")
        assert served.process.returncode == 0
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
        assert alive == []

"""The second estimator through the flow: what is made of a model does not depend on who learned its trees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from churn_assets.definitions import LIFECYCLE
from churn_assets.defs.retention import TARGETS
from churn_assets.defs.scoring import SCORES
from churn_assets.resources.trained_models import TrainedModel
from churn_assets_tests.conftest import ENGINE, Project, causes_of
from churn_assets_tests.processes import CHECKOUT

MODEL, EVALUATION, REGISTERED = "churn_pipeline_model", "recall_churn", "registered_churn_model"
PRODUCTION = "production_churn_model"


# In a process of its own, for this one may have another engine: trained, promoted and scored, what its checks say.
BY_SPARK = """
import json, sys
from pathlib import Path
from churn_assets_tests.conftest import LIFECYCLE, Project, causes_of, checks_of
project = Project.at(Path(sys.argv[1]))
trained = project.run(LIFECYCLE, *sys.argv[3:], config={sys.argv[3]: {"estimator": "gbt"}})
assert trained.success, causes_of(trained)
week = project.weeks()[-1]
scored = project.score(week, week)
assert scored.success, causes_of(scored)
Path(sys.argv[2]).write_text(json.dumps(checks_of(trained) | checks_of(scored)), encoding="utf-8")
"""


@pytest.mark.system
def test_a_model_by_spark_is_judged_registered_promoted_scores_and_gives_reasons(
    project: Project, tmp_path: Path
) -> None:
    arguments = (
        str(project.settings.project),
        str(tmp_path / "checks.json"),
        MODEL,
        EVALUATION,
        REGISTERED,
        PRODUCTION,
    )
    ran = subprocess.run(
        [sys.executable, "-c", BY_SPARK, *arguments],
        cwd=CHECKOUT,
        # Not what this process's own session left there, which says where Sail is.
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME", "PYTHONPATH") if name in os.environ},
            "CHURN_TEST_ENGINE": "local",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    checks = json.loads((tmp_path / "checks.json").read_text(encoding="utf-8"))
    assert checks[f"{MODEL}: serving_contract"]
    assert (project.alias("staging"), project.alias("production")) == ("2", "2")
    version = project.tracking.version_under("production")
    assert version is not None
    trained = project.tracking.trained_model_of(version)
    assert trained.hyperparameters.estimator == "gbt"
    assert trained.verdict == "PASS"
    # XGBoost's trees, of which the first is the leaf of its base score, weigh one half, and half of that beside the
    # purchase model's.
    weights = {version: project.tracking.exported_trees(version).count('"weight":0.25') for version in ("1", "2")}
    assert weights["1"] >= trained.hyperparameters.iterations + 1
    assert weights["2"] < trained.hyperparameters.iterations
    listed = {name: found for name, found in checks.items() if name.startswith((SCORES, TARGETS))}
    assert listed
    assert set(listed.values()) == {True}, listed
    versions = project.lakehouse.read(SCORES).select("model_version").distinct().collect()
    assert [row.model_version for row in versions] == ["2"]
    assert project.lakehouse.read(TARGETS).where("size(reasons) > 0").count() > 0


@pytest.mark.skipif(ENGINE["CHURN_ENGINE"] != "sail", reason="Spark has it")
def test_a_training_by_spark_on_another_engine_fails_with_what_it_needs_and_leaves_the_champion(
    project: Project,
) -> None:
    result = project.run(LIFECYCLE, MODEL, config={MODEL: {"estimator": "gbt"}})
    (told,) = causes_of(result)
    assert "UnavailableEstimatorError" in told
    assert 'train with estimator = "xgboost", or on Spark' in told
    assert (project.alias("staging"), project.alias("production")) == ("1", "1")


def test_a_run_that_names_no_estimator_is_of_spark(project: Project) -> None:
    run = project.tracking.client.search_runs(["1"])[0]
    assert run.data.params.pop("estimator") == "xgboost"
    assert TrainedModel.of(run).hyperparameters.estimator == "gbt"

"""The second estimator through the flow: what is made of a model does not depend on who learned its trees."""

from churn_assets.definitions import LIFECYCLE
from churn_assets.defs.retention import TARGETS
from churn_assets.defs.scoring import SCORES
from churn_assets.resources.trained_models import TrainedModel
from churn_assets_tests.conftest import Project, causes_of, checks_of

MODEL, EVALUATION, REGISTERED = "churn_pipeline_model", "recall_churn", "registered_churn_model"
PRODUCTION = "production_churn_model"


def test_a_model_by_spark_is_judged_registered_promoted_scores_and_gives_reasons(project: Project) -> None:
    knobs = {MODEL: {"estimator": "gbt"}}
    result = project.run(LIFECYCLE, MODEL, EVALUATION, REGISTERED, PRODUCTION, config=knobs)
    assert result.success, causes_of(result)
    checks = checks_of(result)
    assert checks[f"{MODEL}: serving_contract"]
    assert (project.alias("staging"), project.alias("production")) == ("2", "2")
    version = project.tracking.version_under("production")
    assert version is not None
    trained = project.tracking.trained_model_of(version)
    assert trained.hyperparameters.estimator == "gbt"
    assert trained.verdict == "PASS"
    # XGBoost's trees, of which the first is the leaf of its base score, weigh one half.
    weights = {version: project.tracking.exported_trees(version).count('"weight":0.5') for version in ("1", "2")}
    assert weights == {"1": trained.hyperparameters.iterations + 1, "2": 0}
    week = project.weeks()[-1]
    result = project.score(week, week)
    assert result.success, causes_of(result)
    listed = {name: found for name, found in checks_of(result).items() if name.startswith((SCORES, TARGETS))}
    assert listed
    assert set(listed.values()) == {True}, listed
    versions = project.lakehouse.read(SCORES).select("model_version").distinct().collect()
    assert [row.model_version for row in versions] == ["2"]
    assert project.lakehouse.read(TARGETS).where("size(reasons) > 0").count() > 0


def test_a_run_that_names_no_estimator_is_of_spark(project: Project) -> None:
    run = project.tracking.client.search_runs(["1"])[0]
    assert run.data.params.pop("estimator") == "xgboost"
    assert TrainedModel.of(run).hyperparameters.estimator == "gbt"

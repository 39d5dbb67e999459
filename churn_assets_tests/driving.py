"""A program of `test_cluster`: the flow, or a week's scores; then Spark itself and two workers of XGBoost learn."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.distributed_trees import cluster_workers
from churn_assets.churn.errors import UnavailableEstimatorError
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.churn.trees import exported_trees
from churn_assets.cli import main
from churn_assets.commands.terminal import DONE
from churn_assets.definitions import default_resources
from churn_assets.defs.splits import TRAIN
from churn_assets.resources.settings import Settings, settings_from_env
from churn_assets_tests.conftest import Project, causes_of

BY_SPARK = GradientBoosting(estimator="gbt")
BY_WORKERS = GradientBoosting(workers=2)


def score_last_week(settings: Settings) -> None:
    project = replace(Project.at(settings.project), settings=settings)
    last = project.weeks()[-1]
    result = project.score(last, last)
    assert result.success, causes_of(result)


def described_fit(settings: Settings, hyperparameters: GradientBoosting) -> str:
    """All of the model, the text of its trees and what each feature counts for; or why it was not learned."""
    resources = default_resources(settings)
    lakehouse, policy = resources["lakehouse"], resources["policy"]
    try:
        model = fit_churn_model(
            lakehouse.read(TRAIN),
            FEATURE_SETS[policy.model.feature_set],
            hyperparameters,
            rows=lakehouse.row_count(TRAIN, lakehouse.version(TRAIN)),
            shared_folder=resources["tracking"].shared_folder,
        )
    except UnavailableEstimatorError as refused:
        return str(refused)
    return f"{exported_trees(model, None)}\n{model.importances()}\n"


def workers(settings: Settings) -> str:
    try:
        return str(cluster_workers(default_resources(settings)["lakehouse"].spark))
    except UnavailableEstimatorError as refused:
        return str(refused)


def fits(settings: Settings, *, by_own_driver: bool) -> dict[str, str]:
    found = {"by Spark": described_fit(settings, BY_SPARK), "workers": workers(settings)}
    found["by two workers"] = described_fit(settings, BY_WORKERS)
    if by_own_driver:
        found["by two workers again"] = described_fit(settings, BY_WORKERS)
        # The same JVM, which is warm, leaves the cluster.
        default_resources(settings)["lakehouse"].spark.stop()
        local = settings_from_env({**os.environ, "SPARK_MASTER": "local[2]"})
        found["by Spark on local cores"] = described_fit(local, BY_SPARK)
    return found


if __name__ == "__main__":
    what, file = sys.argv[1:]
    if what == "flow" and (exit_code := main(["run"])) != DONE:
        sys.exit(exit_code)
    settings = settings_from_env()
    if what == "scored":
        score_last_week(settings)
    Path(file).write_text(json.dumps(fits(settings, by_own_driver=what == "scored")), encoding="utf-8")

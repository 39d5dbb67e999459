"""A program of `test_cluster`: `churn-assets run`, then Spark itself and two workers of XGBoost learn from its rows."""

import json
import sys
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

FITS = {
    "by Spark": GradientBoosting(estimator="gbt"),
    "by two workers": GradientBoosting(workers=2),
    "by two workers again": GradientBoosting(workers=2),
}


def described_fits(settings: Settings) -> dict[str, str]:
    """All of each model, the text of its trees and what each feature counts for; or why it was not learned."""
    resources = default_resources(settings)
    lakehouse, policy = resources["lakehouse"], resources["policy"]
    described = {}
    try:
        described["workers"] = str(cluster_workers(lakehouse.spark))
    except UnavailableEstimatorError as refused:
        described["workers"] = str(refused)
    for name, hyperparameters in FITS.items():
        try:
            model = fit_churn_model(
                lakehouse.read(TRAIN),
                FEATURE_SETS[policy.model.feature_set],
                hyperparameters,
                rows=lakehouse.row_count(TRAIN, lakehouse.version(TRAIN)),
                shared_folder=resources["tracking"].shared_folder,
            )
        except UnavailableEstimatorError as refused:
            described[name] = str(refused)
        else:
            described[name] = f"{exported_trees(model, None)}\n{model.importances()}\n"
    return described


if __name__ == "__main__":
    exit_code = main(["run"])
    if exit_code == DONE:
        Path(sys.argv[1]).write_text(json.dumps(described_fits(settings_from_env())), encoding="utf-8")
    sys.exit(exit_code)

"""A program of `test_cluster`: `churn-assets run`, then Spark itself learns from the rows it trained on."""

import sys
from pathlib import Path

from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.models import GradientBoosting, fit_churn_model
from churn_assets.churn.trees import exported_trees
from churn_assets.cli import main
from churn_assets.commands.terminal import DONE
from churn_assets.definitions import default_resources
from churn_assets.defs.splits import TRAIN
from churn_assets.resources.settings import Settings, settings_from_env


def described_fit(settings: Settings) -> str:
    """All of the model: the text of its trees, and what each feature counts for."""
    resources = default_resources(settings)
    lakehouse, policy = resources["lakehouse"], resources["policy"]
    model = fit_churn_model(
        lakehouse.read(TRAIN),
        FEATURE_SETS[policy.model.feature_set],
        GradientBoosting(estimator="gbt"),
        rows=lakehouse.row_count(TRAIN, lakehouse.version(TRAIN)),
        shared_folder=resources["tracking"].shared_folder,
    )
    return f"{exported_trees(model, None)}\n{model.importances()}\n"


if __name__ == "__main__":
    exit_code = main(["run"])
    if exit_code == DONE:
        Path(sys.argv[1]).write_text(described_fit(settings_from_env()), encoding="utf-8")
    sys.exit(exit_code)

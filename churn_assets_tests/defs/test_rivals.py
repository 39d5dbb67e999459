"""The purchase model alone through the flow, as a challenger; on more customers, `churn/test_purchase_prior.py`."""

from collections.abc import Sequence
from typing import Any

import pytest

from churn_assets.churn import models
from churn_assets.churn.evaluation import PURCHASES
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.purchase_prior import PurchasePrior, prior_trees, scaled_prior
from churn_assets.churn.trees import BoostedTrees
from churn_assets.churn.xgboost_trees import Rows
from churn_assets.definitions import LIFECYCLE
from churn_assets_tests.conftest import Project

TRAINED = ("churn_pipeline_model", "recall_churn", "registered_churn_model", "production_churn_model")


def only_the_rival(
    rows: Rows,
    features: Sequence[str],
    hyperparameters: GradientBoosting,
    *,
    prior: PurchasePrior | None = None,
    **others: Any,
) -> BoostedTrees:
    """In the place of `models.fit_rows`: what needs no label."""
    assert prior is not None
    return BoostedTrees(tuple(features), prior_trees(scaled_prior(prior, rows, None, features), rows.values, features))


def difference_to(project: Project, rival: str) -> dict[str, Any]:
    row = max(project.lakehouse.read("recall_churn").collect(), key=lambda row: row.evaluated_at)
    (found,) = [each.asDict() for each in row.comparisons if each.rival == rival]
    return dict(found)


def test_alone_it_is_promoted_where_it_is_not_shown_worse_than_the_champion(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fit_rows", only_the_rival)
    assert project.run(LIFECYCLE, *TRAINED).success
    assert project.alias("production") == "2"
    itself = difference_to(project, PURCHASES)
    # As trees it is not quite itself.
    assert itself["pr_auc"] == pytest.approx(itself["challenger_pr_auc"], abs=0.03)
    assert difference_to(project, "champion")["difference"] is not None

"""The rows a verdict rests on: customers the model never learned from, scored, with every rival's score beside."""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn import splits
from churn_assets.churn.evaluation import ORDER_COUNT, PURCHASES, RULE, Scored
from churn_assets.churn.models import GradientBoosting, SharedFolder, crossfitted, with_alerts
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.trees import BoostedTrees

NO_SEGMENT = "(none)"


def held_out_scores(model: BoostedTrees, test: DataFrame, threshold: float | None) -> DataFrame:
    """The test rows with `churn_probability`, `is_alert` and `is_unseen`: no model of this split learned from them."""
    return with_alerts(model, test, threshold).withColumn("is_unseen", F.lit(True))


def crossfit_scores(
    held_out: DataFrame,
    panel: DataFrame,
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    *,
    prior: PurchasePrior | None = None,
    shared_folder: SharedFolder | None = None,
) -> DataFrame:
    """Every customer of the test date, each scored by a model that never saw that customer.

    In: `held_out`, the registered model's `held_out_scores`; the labelled `panel`; `prior` and `shared_folder` as
    `models.fit_churn_model`. Each other fifth of the customers is scored and alerted by a model made as the registered
    one was, so this costs a fit more for each of them.
    """
    dates = splits.split_dates(panel, policy)
    others = [
        crossfitted(panel, dates, hyperparameters, policy, crossfit_fold, prior=prior, shared_folder=shared_folder)
        for crossfit_fold in splits.CROSSFIT_FOLDS[1:]
    ]
    pooled = [held_out, *[rows.withColumn("is_unseen", F.lit(False)) for rows in others]]
    return reduce(DataFrame.unionByName, pooled)


def scored(
    rows: pd.DataFrame, features: Sequence[str], segments: Mapping[float, str], champion: pd.Series | None = None
) -> Scored:
    """The judged rows as arrays, ordered by customer.

    rows: customer_id, label, churn_probability, is_alert, is_unseen, the features, the rule's risk_score, and the
    purchase model's no_purchase. champion: its scores by customer_id; a customer it lacks has NaN. segments: names of
    the segment numbers.
    """
    ordered = rows.sort_values("customer_id", ignore_index=True)
    names = ordered["segment_index"].map(lambda number: segments.get(number, NO_SEGMENT))
    exposure = np.where(ordered["crisis_exposure_index"] == 1.0, "exposed", "not exposed")
    return Scored(
        labels=ordered["label"].to_numpy(dtype=float),
        scores=ordered["churn_probability"].to_numpy(dtype=float),
        is_alert=ordered["is_alert"].to_numpy(dtype=bool),
        rivals={
            RULE: ordered["risk_score"].to_numpy(dtype=float),
            # The fewer orders, the riskier.
            ORDER_COUNT: -ordered["total_orders"].to_numpy(dtype=float),
            PURCHASES: ordered["no_purchase"].to_numpy(dtype=float),
        },
        features={name: ordered[name].to_numpy(dtype=float) for name in features},
        slices={"segment": names.to_numpy(dtype=str), "crisis_exposure": exposure},
        is_unseen=ordered["is_unseen"].to_numpy(dtype=bool),
        champion=None if champion is None else ordered["customer_id"].map(champion).to_numpy(dtype=float),
    )

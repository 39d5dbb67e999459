"""The rows a verdict rests on: customers the model never learned from, scored, with every rival's score beside."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import reduce

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn import splits
from churn_assets.churn.catalogue import CATALOGUE, Catalogue
from churn_assets.churn.earnings import earnings
from churn_assets.churn.evaluation import ORDER_COUNT, PURCHASES, RULE, SINGLE_FEATURE, Scored
from churn_assets.churn.intervals import Floats
from churn_assets.churn.models import GradientBoosting, SharedFolder, crossfitted, with_alerts
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.ranking import roc_auc
from churn_assets.churn.trees import BoostedTrees

NO_SEGMENT = "(none)"
# Whose names are in a table of their own, which only grows.
SEGMENT = "segment_index"
# Fits for a verdict that go side by side: each holds the rows that it learns from.
FITS_AT_ONCE = 2


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
    spend: DataFrame | None = None,
) -> DataFrame:
    """Every customer of the test date, each scored by a model that never saw that customer.

    In: `held_out`, the registered model's `held_out_scores`; the labelled `panel`; `prior`, `shared_folder` and
    `spend` as `models.train_churn_model`. Each other fifth of the customers is scored and alerted by a model made as
    the registered one was, so this costs a fit more for each of them.
    """
    dates = splits.split_dates(panel, policy)

    def of_fold(crossfit_fold: int) -> DataFrame:
        return crossfitted(
            panel,
            dates,
            hyperparameters,
            policy,
            crossfit_fold,
            prior=prior,
            shared_folder=shared_folder,
            spend=spend,
        )

    return _with_others(held_out, _at_once(of_fold, splits.CROSSFIT_FOLDS[1:], hyperparameters))


def backtest_scores(
    held_out: DataFrame,
    panel: DataFrame,
    backtest: Sequence[splits.SplitDates],
    hyperparameters: GradientBoosting,
    policy: ChurnPolicy,
    *,
    prior_at: Callable[[date], PurchasePrior | None],
    shared_folder: SharedFolder | None = None,
    spend: DataFrame | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> DataFrame:
    """The judged customers of several dates, each out of time and out of sample: who is in `held_out`, and others.

    In: `held_out`, the registered model's `held_out_scores`, of the latest of `backtest`, which is
    `splits.backtest_dates`; the labelled `panel`; the prior of what was known by a date; `spend` as `crossfit_scores`;
    `told` hears of each date.
    What is judged at the earlier dates is how the model is made, not the version itself, which has learned from them:
    another is made from what was known by that date, threshold included, and judged on a fold of customers that it
    never saw, each date another fold. That costs a fit for each date but the latest.
    """

    def of_date(place: int) -> DataFrame:
        dates = backtest[place]
        return crossfitted(
            panel,
            dates,
            hyperparameters,
            policy,
            splits.backtest_fold(place),
            prior=prior_at(dates.test),
            shared_folder=shared_folder,
            spend=spend,
        )

    told(f"backtest 1 of {len(backtest)}: the model itself, at {backtest[0].test}")
    others = []
    for place, rows in enumerate(_at_once(of_date, range(1, len(backtest)), hyperparameters), start=1):
        told(f"backtest {place + 1} of {len(backtest)}: a model of what was known by {backtest[place].test}")
        others.append(rows)
    return _with_others(held_out, others)


def _at_once(
    fit: Callable[[int], DataFrame], each: Sequence[int], hyperparameters: GradientBoosting
) -> Iterator[DataFrame]:
    """`fit` of each, in their order. XGBoost's in this process go side by side; Spark wants all cores for one."""
    with ThreadPoolExecutor(FITS_AT_ONCE if hyperparameters.is_of_this_process else 1) as pool:
        yield from pool.map(fit, each)


def _with_others(held_out: DataFrame, others: Iterable[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, [held_out, *[rows.withColumn("is_unseen", F.lit(False)) for rows in others]])


def scored(
    rows: pd.DataFrame,
    features: Sequence[str],
    segments: Mapping[float, str],
    champion: pd.Series | None = None,
    catalogue: Catalogue = CATALOGUE,
    policy: ChurnPolicy | None = None,
) -> Scored:
    """The judged rows as arrays, ordered by customer, and by date where they are of several.

    rows: customer_id, label, churn_probability, is_alert, is_unseen, the features, the rule's risk_score if there is
    a rule, the purchase model's no_purchase if there are orders, and of a backtest as_of. champion: its scores by
    customer_id; a customer it lacks has NaN. segments: names of the segment numbers. policy: with [economics] the rows
    have as_of and recent_spend too; what contacting each customer earns is left out without it. Raises
    UnknownSpendError.
    """
    is_dated = "as_of" in rows and rows["as_of"].nunique() > 1
    ordered = rows.sort_values(["customer_id", *(["as_of"] if is_dated else [])], ignore_index=True)
    customers = pd.factorize(ordered["customer_id"])[0]
    labels, values = ordered["label"].to_numpy(dtype=float), _floats(ordered, features)
    rivals = {}
    if catalogue.has_rule:
        rivals[RULE] = ordered["risk_score"].to_numpy(dtype=float)
    elif (best := _best_single_feature(values, labels)) is not None:
        rivals[SINGLE_FEATURE] = best
    if "total_orders" in catalogue.of:
        # The fewer orders, the riskier.
        rivals[ORDER_COUNT] = -ordered["total_orders"].to_numpy(dtype=float)
    if catalogue.has_orders:
        rivals[PURCHASES] = ordered["no_purchase"].to_numpy(dtype=float)
    return Scored(
        labels=labels,
        scores=ordered["churn_probability"].to_numpy(dtype=float),
        is_alert=ordered["is_alert"].to_numpy(dtype=bool),
        rivals=rivals,
        features=values,
        slices=_slices(ordered, segments, catalogue),
        is_unseen=ordered["is_unseen"].to_numpy(dtype=bool),
        champion=None if champion is None else ordered["customer_id"].map(champion).to_numpy(dtype=float),
        dates=ordered["as_of"].to_numpy(dtype="datetime64[D]") if is_dated else None,
        customers=customers if is_dated and customers.max() + 1 < len(ordered) else None,
        earnings=None
        if policy is None or policy.economics is None
        else earnings(ordered, policy, population_share=splits.judged_share(policy)),
    )


def _floats(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, Floats]:
    return {name: rows[name].to_numpy(dtype=float) for name in names}


def _best_single_feature(values: Mapping[str, Floats], labels: Floats) -> Floats | None:
    """The feature that ranks these very customers best, in the direction that does; None where nothing can be ranked.

    Chosen on the rows that judge, which flatters it: whoever has no rule to beat has to beat more than one.
    """
    if not (np.isin(labels, (0.0, 1.0)).all() and 0 < labels.sum() < len(labels)):
        return None
    ranked = {name: (roc_auc(of, labels) or 0.5) - 0.5 for name, of in values.items()}
    best = max(ranked, key=lambda name: abs(ranked[name]))
    return values[best] if ranked[best] >= 0 else -values[best]


def _slices(rows: pd.DataFrame, segments: Mapping[float, str], catalogue: Catalogue) -> dict[str, np.ndarray]:
    """The part that each row belongs to, for every feature whose values have names."""
    named = [each for each in catalogue.features if each.parted_as and (each.value_names or each.name == SEGMENT)]
    parts = {each.parted_as: rows[each.name].map(dict(each.value_names or segments)) for each in named}
    return {name: of_rows.fillna(NO_SEGMENT).to_numpy(dtype=str) for name, of_rows in parts.items()}

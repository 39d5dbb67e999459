"""Why a customer is at risk: the features that raised the score most, each with its contribution and in words.

The contributions are `shap_values.py`'s, the words `wording.py`'s; here they are found for rows of Spark.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.catalogue import FEATURE_OF, TOLD_COLUMNS
from churn_assets.churn.columns import Column, list_of, of_kind, spark_schema, struct_of
from churn_assets.churn.shap_values import Explainer
from churn_assets.churn.trees import imported_trees
from churn_assets.churn.wording import Compared, Wording

MOST_REASONS = 3
REASON = struct_of(
    Column("feature", "string"), *of_kind("double", "value", "usual", "contribution"), Column("sentence", "string")
)
# raw_score is the margin: the sum of the trees, half the log-odds of churn.
EXPLAINED = spark_schema(
    [
        *(Column("customer_id", "string"), Column("as_of", "date")),
        *of_kind("double", "raw_score", "base_score", "other_contributions"),
        Column("reasons", list_of(REASON)),
    ]
)


@dataclass(frozen=True)
class Reference:
    """What the scored customers of one as-of date are set against: of each feature, and of the way through the trees.

    values: what is usual of each feature. visits: how many of these customers come through each node of each tree.
    """

    values: Mapping[str, float]
    visits: Sequence[NDArray[np.int64]]


def reference_by_date(scored: DataFrame, exported: str) -> dict[date, Reference]:
    """The reference of each as-of date. In: as_of and the model's features of every scored customer, none null.

    Of a feature it is the median, to two places; of a share or a yes-or-no it is the mean.
    """
    model = imported_trees(exported)
    features, trees = list(model.features), model.trees
    bounds = np.cumsum([0, *[len(tree.feature) for tree in trees]])

    def counted(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            for day, rows in batch.groupby("as_of"):
                values = rows[features].to_numpy(dtype=np.float64)
                visits = np.concatenate([tree.visits(values) for tree in trees])
                yield pd.DataFrame({"as_of": day, "node": np.arange(len(visits)), "visits": visits})

    rows = scored.select("as_of", *features)
    summed = (
        rows.mapInPandas(counted, "as_of date, node long, visits long").groupBy("as_of", "node").agg(F.sum("visits"))
    )
    by_date: dict[date, NDArray[np.int64]] = {}
    for as_of, node, visits in summed.collect():
        by_date.setdefault(as_of, np.zeros(bounds[-1], dtype=np.int64))[node] = visits
    typical = [
        # As decimals: a float sum depends on the order of its terms.
        F.avg(F.col(name).cast("decimal(20,12)")).cast("double").alias(name)
        if FEATURE_OF[name].has_mean_reference
        else F.percentile(F.round(name, 2), 0.5).alias(name)
        for name in features
    ]
    values = {row.as_of: row.asDict() for row in rows.groupBy("as_of").agg(*typical).collect()}
    return {
        day: Reference({name: values[day][name] for name in features}, np.split(visits, bounds[1:-1]))
        for day, visits in by_date.items()
    }


def explained(listed: DataFrame, exported: str, references: Mapping[date, Reference], wording: Wording) -> DataFrame:
    """EXPLAINED: the margin of each listed customer as a sum, and up to three features that raised it most.

    In: customer_id, as_of, the model's features, TOLD_COLUMNS. base_score + contributions of the reasons
    + other_contributions = raw_score, which is half the log-odds of the churn probability.
    """
    model = imported_trees(exported)
    features, trees = list(model.features), model.trees

    def of_batches(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        explainers = {day: Explainer(trees, reference.visits, len(features)) for day, reference in references.items()}
        for batch in batches:
            for day in batch["as_of"].unique():
                rows = batch[batch["as_of"] == day]
                yield _explained(rows, features, explainers[day], references[day].values, wording)

    return listed.select("customer_id", "as_of", *features, *TOLD_COLUMNS).mapInPandas(of_batches, EXPLAINED)


def _explained(
    rows: pd.DataFrame, features: Sequence[str], explainer: Explainer, reference: Mapping[str, float], wording: Wording
) -> pd.DataFrame:
    contributions = explainer.contributions(rows[features].to_numpy(dtype=np.float64))
    # The largest first; of equals the earlier feature.
    chosen = np.argsort(-contributions, axis=1, kind="stable")[:, :MOST_REASONS]
    reasons, others = [], []
    for (_, row), shares, order in zip(rows.iterrows(), contributions, chosen, strict=True):
        raising = [number for number in order if shares[number] > 0]
        reasons.append([_reason(features[each], row, float(shares[each]), reference, wording) for each in raising])
        others.append(float(np.delete(shares, raising).sum()))
    return pd.DataFrame(
        {
            "customer_id": rows["customer_id"].to_numpy(),
            "as_of": rows["as_of"].to_numpy(),
            "raw_score": explainer.base + contributions.sum(axis=1),
            "base_score": explainer.base,
            "other_contributions": others,
            "reasons": reasons,
        }
    )


def _reason(
    name: str, row: "pd.Series[Any]", contribution: float, reference: Mapping[str, float], wording: Wording
) -> dict[str, Any]:
    feature = FEATURE_OF[name]
    value = Compared(float(row[name]), reference[name], {column: float(row[column]) for column in feature.tells})
    return {
        "feature": name,
        "value": value.own,
        "usual": value.reference,
        "contribution": contribution,
        "sentence": feature.sentence(value, wording),
    }

"""Why a customer is at risk: the features that raised the score most, each with its contribution and in words.

The contributions are `shap_values.py`'s, the words `wording.py`'s; here they are found for rows of Spark.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal, localcontext
from math import nan
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from churn_assets.churn.catalogue import FEATURE_OF
from churn_assets.churn.columns import Column, arrow_schema, list_of, of_kind, spark_schema, struct_of
from churn_assets.churn.intervals import Floats
from churn_assets.churn.shap_values import Explainer
from churn_assets.churn.trees import BoostedTrees
from churn_assets.churn.wording import Compared, Wording

MOST_REASONS = 3
REASON = struct_of(
    Column("feature", "string"), *of_kind("double", "value", "usual", "contribution"), Column("sentence", "string")
)
# raw_score is the margin: the sum of the trees, half the log-odds of churn.
EXPLANATION = (
    *of_kind("double", "raw_score", "base_score", "other_contributions"),
    Column("reasons", list_of(REASON)),
)


@dataclass(frozen=True)
class Reference:
    """What the scored customers of one as-of date are set against: of each feature, and of the way through the trees.

    values: what is usual of each feature. visits: how many of these customers come through each node of each tree.
    """

    values: Mapping[str, float]
    visits: Sequence[NDArray[np.int64]]


def reference(scored: pa.Table, model: BoostedTrees) -> Reference:
    """The reference of one as-of date. In: the model's features of every customer scored then, none null.

    Of a feature it is the median, to two places; of a share or a yes-or-no it is the mean. No order of the rows changes
    a digit.
    """
    of_features = {name: scored.column(name).to_numpy() for name in model.features}
    values = np.column_stack(list(of_features.values()))
    with ThreadPoolExecutor() as pool:
        visits = list(pool.map(lambda tree: tree.visits(values), model.trees))
    usual = {
        name: _mean(of) if FEATURE_OF[name].has_mean_reference else _median(of) for name, of in of_features.items()
    }
    return Reference(usual, visits)


def _mean(values: Floats) -> float:
    """As decimals, of twelve places and then of sixteen: a float sum depends on the order of its terms."""
    with localcontext(prec=38, rounding=ROUND_HALF_UP):
        distinct = zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True)
        total = sum(_rounded(value, 12) * rows for value, rows in distinct)
        return float((total / Decimal(len(values))).quantize(Decimal(1).scaleb(-16)))


def _median(values: Floats) -> float:
    """Of the values rounded to two places: rounding keeps their order, so only those in the middle are rounded."""
    middle = [(len(values) - 1) // 2, len(values) // 2]
    low, high = (float(_rounded(value, 2)) for value in np.partition(values + 0.0, middle)[middle].tolist())
    return (low + high) / 2


def _rounded(value: float, places: int) -> Decimal:
    """To so many places, half up: what a person would do with the digits that are shown."""
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def explained(
    listed: DataFrame, model: BoostedTrees, references: Mapping[date, Reference], wording: Wording
) -> DataFrame:
    """`listed` with EXPLANATION: the margin of each customer as a sum, and up to three features that raised it most.

    In: as_of, the model's features, TOLD_COLUMNS and more. base_score + contributions of the reasons
    + other_contributions = raw_score, which is half the log-odds of the churn probability.
    """

    def of_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        explainers = {
            day: Explainer(model.trees, reference.visits, len(model.features)) for day, reference in references.items()
        }
        for batch in batches:
            for day in pc.unique(batch["as_of"]).to_pylist():
                rows = batch.filter(pc.equal(batch["as_of"], pa.scalar(day, pa.date32())))
                yield _explained(rows, model.features, explainers[day], references[day].values, wording)

    schema = T.StructType([*listed.schema, *spark_schema(EXPLANATION)])
    return listed.mapInArrow(of_batches, schema)


def _explained(
    rows: pa.RecordBatch,
    features: Sequence[str],
    explainer: Explainer,
    usual: Mapping[str, float],
    wording: Wording,
) -> pa.RecordBatch:
    values = np.column_stack([rows[name].to_numpy(zero_copy_only=False) for name in features])
    contributions = explainer.contributions(values)
    # The largest first; of equals the earlier feature.
    chosen = np.argsort(-contributions, axis=1, kind="stable")[:, :MOST_REASONS]
    reasons, others = [], []
    for row, shares, order in zip(rows.to_pylist(), contributions, chosen, strict=True):
        raising = [number for number in order if shares[number] > 0]
        reasons.append([_reason(features[each], row, float(shares[each]), usual, wording) for each in raising])
        others.append(float(np.delete(shares, raising).sum()))
    found = {
        "raw_score": explainer.base + contributions.sum(axis=1),
        "base_score": np.full(len(others), explainer.base),
        "other_contributions": others,
        "reasons": reasons,
    }
    explanation = pa.RecordBatch.from_pydict(found, arrow_schema(EXPLANATION))
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns |= dict(zip(explanation.schema.names, explanation.columns, strict=True))
    return pa.RecordBatch.from_pydict(columns)


def _reason(
    name: str, row: Mapping[str, Any], contribution: float, reference: Mapping[str, float], wording: Wording
) -> dict[str, Any]:
    feature = FEATURE_OF[name]
    value = Compared(float(row[name]), reference[name], {column: _number(row[column]) for column in feature.tells})
    return {
        "feature": name,
        "value": value.own,
        "usual": value.reference,
        "contribution": contribution,
        "sentence": feature.sentence(value, wording),
    }


def _number(value: float | None) -> float:
    return nan if value is None else float(value)

"""Why a customer is at risk: what raised the score most, in words, with what it contributes, and the rules of both.

The contributions are `shap_values.py`'s, the words `wording.py`'s; here they are found for rows of Spark.
"""

from collections import Counter
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

from churn_assets.churn.catalogue import CATALOGUE, Catalogue, Feature
from churn_assets.churn.columns import Column, arrow_schema, list_of, of_kind, spark_schema, struct_of
from churn_assets.churn.intervals import Floats
from churn_assets.churn.outcomes import Outcome, of_keys
from churn_assets.churn.scoring import KEYS, STAMPS
from churn_assets.churn.shap_values import Explainer
from churn_assets.churn.trees import BoostedTrees
from churn_assets.churn.wording import Compared, Wording

MOST_REASONS = 3
# Of all that raised the margin; what raised it by less nobody would call a reason.
LEAST_SHARE = 0.10
REASON = struct_of(
    Column("feature", "string"), *of_kind("double", "value", "usual", "contribution"), Column("sentence", "string")
)
# raw_score is the margin: the sum of the trees, half the log-odds of churn.
EXPLANATION = (
    *of_kind("double", "raw_score", "base_score", "other_contributions"),
    Column("reasons", list_of(REASON)),
)
# Sums of a few dozen terms of magnitude 1 agree to this.
ROUNDING = 1e-9
# What the rules of the reasons allow.
ALLOWED = {
    "coverage": "each scored customer once, by the model and the features of the score, and nobody else",
    "additivity": "base score and contributions sum to the score that gives the probability",
}
REASON_RULES = tuple(ALLOWED)


@dataclass(frozen=True)
class Reference:
    """What the scored customers of one as-of date are set against: of each feature, and of the way through the trees.

    values: what is usual of each feature. visits: how many of these customers come through each node of each tree.
    parts: of each composite feature what is usual of each part.
    """

    values: Mapping[str, float]
    visits: Sequence[NDArray[np.int64]]
    parts: Mapping[str, Sequence[float]]


def reference(scored: pa.Table, model: BoostedTrees, catalogue: Catalogue = CATALOGUE) -> Reference:
    """The reference of one as-of date. In: the model's features of every customer scored then, none null.

    What is usual is the mean, for with these customers on average the contributions compare. No order of the rows
    changes a digit.
    """
    of_features = {name: scored.column(name).to_numpy() for name in model.features}
    values = np.column_stack(list(of_features.values()))
    with ThreadPoolExecutor() as pool:
        visits = list(pool.map(lambda tree: tree.visits(values), model.trees))
    parts = {
        name: [_mean(part) for part in _digits(of, len(catalogue.of[name].parts)).T]
        for name, of in of_features.items()
        if catalogue.of[name].parts
    }
    return Reference({name: _mean(of) for name, of in of_features.items()}, visits, parts)


def _digits(values: Floats, digits: int) -> Floats:
    """(rows, digits) of whole numbers, the last digit last."""
    return values[:, None] // 10.0 ** np.arange(digits - 1, -1, -1) % 10


def _mean(values: Floats) -> float:
    """As decimals, of twelve places and then of sixteen: a float sum depends on the order of its terms."""
    with localcontext(prec=38, rounding=ROUND_HALF_UP):
        distinct = zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True)
        total = sum(_rounded(value, 12) * rows for value, rows in distinct)
        return float((total / Decimal(len(values))).quantize(Decimal(1).scaleb(-16)))


def _rounded(value: float, places: int) -> Decimal:
    """To so many places, half up: what a person would do with the digits that are shown."""
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def explained(
    listed: DataFrame,
    model: BoostedTrees,
    references: Mapping[date, Reference],
    wording: Wording,
    catalogue: Catalogue = CATALOGUE,
) -> DataFrame:
    """`listed` with EXPLANATION: the margin of each customer as a sum, and up to three reasons that raised it most.

    In: as_of, the model's features, the catalogue's `told_columns` and more. A reason is what the features of one topic
    contribute, a tenth or more of all that raised the margin, told by that one of them which raised it most and has a
    sentence that is true of this customer; a topic that nothing true can be said of is none. base_score + contributions
    of the reasons + other_contributions = raw_score, which is half the log-odds of the churn probability.
    """

    def of_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # The catalogue itself is sent, which is by its name; features hold functions that would be sent whole.
        features = [catalogue.of[name] for name in model.features]
        explainers = {
            day: Explainer(model.trees, reference.visits, len(model.features)) for day, reference in references.items()
        }
        for batch in batches:
            for day in pc.unique(batch["as_of"]).to_pylist():
                rows = batch.filter(pc.equal(batch["as_of"], pa.scalar(day, pa.date32())))
                yield _explained(rows, features, explainers[day], references[day], wording)

    schema = T.StructType([*listed.schema, *spark_schema(EXPLANATION)])
    return listed.mapInArrow(of_batches, schema)


def _explained(
    rows: pa.RecordBatch,
    features: Sequence[Feature],
    explainer: Explainer,
    usual: Reference,
    wording: Wording,
) -> pa.RecordBatch:
    values = np.column_stack([rows[feature.name].to_numpy(zero_copy_only=False) for feature in features])
    contributions = explainer.contributions(values)
    topics = {feature.name: feature.about for feature in features}
    reasons, others = [], []
    for row, shares in zip(rows.to_pylist(), contributions, strict=True):
        told = _reasons(features, row, shares, usual, wording)
        about = {topics[reason["feature"]] for reason in told}
        reasons.append(told)
        others.append(float(shares[[topic not in about for topic in topics.values()]].sum()))
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


def _reasons(
    features: Sequence[Feature],
    row: Mapping[str, Any],
    shares: Floats,
    usual: Reference,
    wording: Wording,
) -> list[dict[str, Any]]:
    """At most MOST_REASONS of one customer, the largest first; of equals that of the earlier feature."""
    topics = [feature.about for feature in features]
    of_topic = {topic: float(shares[[each == topic for each in topics]].sum()) for topic in dict.fromkeys(topics)}
    least = LEAST_SHARE * sum(share for share in of_topic.values() if share > 0)
    told: list[dict[str, Any]] = []
    for topic in sorted(of_topic, key=lambda topic: -of_topic[topic]):
        members = [number for number, each in enumerate(topics) if each == topic and shares[number] > 0]
        if of_topic[topic] <= 0 or of_topic[topic] < least or len(told) == MOST_REASONS:
            break
        for number in sorted(members, key=lambda number: -shares[number]):
            value = _compared(features[number], row, usual)
            sentence = features[number].reason(value, wording)
            if sentence is not None:
                told.append(
                    {
                        "feature": features[number].name,
                        "value": value.own,
                        "usual": value.reference,
                        "contribution": of_topic[topic],
                        "sentence": sentence,
                    }
                )
                break
    return told


def _compared(feature: Feature, row: Mapping[str, Any], usual: Reference) -> Compared:
    name, own = feature.name, float(row[feature.name])
    digits = _digits(np.array([own]), len(feature.parts))[0].tolist()
    parts = zip(feature.parts, zip(digits, usual.parts.get(name, ()), strict=True), strict=True)
    return Compared(own, usual.values[name], {column: _number(row[column]) for column in feature.tells}, dict(parts))


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def reason_outcomes(told: pa.Table, scored: pa.Table) -> list[Outcome]:
    """REASON_RULES of `churn_reasons` for some dates: KEYS, STAMPS and EXPLANATION of `told`, all rows of these dates.

    `scored`: KEYS, STAMPS and churn_probability of `churn_scores`.
    """
    explained_keys, scored_keys = (_stamped_keys(rows) for rows in (told, scored))
    times, wanted = Counter(explained_keys), Counter(scored_keys)
    uncovered = [key[: len(KEYS)] for key in times | wanted if times[key] != wanted[key]]
    probability_of = dict(zip(scored_keys, scored.column("churn_probability").to_pylist(), strict=True))
    probabilities = np.array([probability_of.get(key) for key in explained_keys], dtype=float)
    wrong = [explained_keys[place][: len(KEYS)] for place in np.flatnonzero(~_is_additive(told, probabilities))]
    return [of_keys(rule, keys, ALLOWED[rule]) for rule, keys in zip(REASON_RULES, (uncovered, wrong), strict=True)]


def _stamped_keys(rows: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(rows.column(name).to_pylist() for name in (*KEYS, *STAMPS)), strict=True))


def _is_additive(told: pa.Table, probabilities: Floats) -> NDArray[np.bool_]:
    """Whether the reasons of each row, null for none, and the rest sum to the margin of its churn probability."""
    base, others, raw = (told.column(name).to_numpy() for name in ("base_score", "other_contributions", "raw_score"))
    reasons = told.column("reasons").combine_chunks()
    contributions = pc.struct_field(pc.list_flatten(reasons), "contribution").to_numpy(zero_copy_only=False)
    sums = np.bincount(pc.list_parent_indices(reasons).to_numpy(), contributions, minlength=len(told))
    given = np.where(reasons.is_null().to_numpy(zero_copy_only=False), nan, sums)
    with np.errstate(over="ignore"):
        is_of_score = np.abs(1 / (1 + np.exp(-2 * raw)) - probabilities) <= ROUNDING
    is_sum: NDArray[np.bool_] = np.abs(base + given + others - raw) <= ROUNDING
    return is_sum & is_of_score

"""Scores of a week's eligible customers: who can be scored, how risky they are, and the rules of both tables."""

from collections.abc import Sequence
from datetime import date, datetime
from math import isfinite

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.catalogue import CATALOGUE, Catalogue, Feature
from churn_assets.churn.contract import panel_schema
from churn_assets.churn.outcomes import MAX_KEYS, Outcome, of_customers
from churn_assets.churn.policy import Scoring
from churn_assets.churn.tables import any_of

KEYS = ("customer_id", "as_of")
# The versions of the model and of the panel that customers were scored with.
STAMPS = ("model_version", "features_version")
TIERS = ("high", "medium", "low")
# What the rules of the scores allow.
ALLOWED = {
    "values": "no null, probability 0 to 1, a tier of the policy",
    "coverage": "each eligible customer once, scored or unscored, and nobody else",
}
SCORE_RULES = tuple(ALLOWED)


def feature_problems(schema: T.StructType, features: Sequence[str], catalogue: Catalogue = CATALOGUE) -> list[str]:
    """What keeps a model of `features` from scoring a panel of this schema: each key or feature not as declared."""
    actual = {field.name: field.dataType.simpleString() for field in schema}
    wanted = {field.name: field.dataType.simpleString() for field in panel_schema(catalogue) if field.name != "label"}
    unknown = [f"{name}: the model's feature is not in the catalogue" for name in features if name not in wanted]
    return unknown + [
        f"{name}: {actual.get(name, 'missing')} instead of {wanted[name]}"
        for name in (*KEYS, *features)
        if name in wanted and actual.get(name) != wanted[name]
    ]


def scorable(panel: DataFrame, features: Sequence[str], catalogue: Catalogue = CATALOGUE) -> DataFrame:
    """(customer_id, as_of, `features`) of the rows of the panel whose features are all known and in range."""
    return panel.where(_is_scorable(features, catalogue)).select(*KEYS, *features)


def unscorable(panel: DataFrame, features: Sequence[str], catalogue: Catalogue = CATALOGUE) -> DataFrame:
    """(customer_id, as_of, reason) of all other rows of the panel: each feature at fault, with its value."""
    faults = ", ".join(_fault(feature) for feature in catalogue.features if feature.name in features)
    # An exchange between: in one stage Spark compiles neither, and a million good rows took 1.9 s instead of 0.4.
    few = panel.where(~_is_scorable(features, catalogue)).repartition("customer_id")
    return few.select(*KEYS, F.expr(f"concat_ws('; ', {faults})").alias("reason"))


def _is_scorable(features: Sequence[str], catalogue: Catalogue) -> Column:
    # Apart from the reason: to make that text for every row only to see that it is empty took longer than the scores.
    # As SQL, here and below: each part of a Column is a call into the JVM, and there are hundreds.
    used = [catalogue.of[name] for name in features]
    known = [f"coalesce({_is_within(feature)}, false)" for feature in used]
    return F.expr(" AND ".join(known))


def _is_within(feature: Feature) -> str:
    # NaN is greater than any number to Spark, and infinity is no value of any feature.
    upper = f"<= {feature.high!r}D" if isfinite(feature.high) else "< double('infinity')"
    return f"({feature.name} >= {feature.low!r}D AND {feature.name} {upper})"


def _fault(feature: Feature) -> str:
    name = feature.name
    return f"""CASE
        WHEN {name} IS NULL THEN '{name} is null'
        WHEN isnan({name}) THEN '{name} is NaN'
        WHEN abs({name}) = double('infinity') THEN '{name} is infinite'
        WHEN NOT {_is_within(feature)} THEN concat('{name} is ', string({name}), ', allowed is {feature.range_text}')
    END"""


def with_risk_tier(scored: DataFrame, policy: Scoring, churn_rate: float) -> DataFrame:
    """(customer_id, as_of, churn_probability, is_alert) of `scored` with `risk_tier` by the policy.

    churn_rate: of all customers whose outcome is known, which the tiers follow. An alert is of medium risk at least.
    """
    high, medium = policy.least_probabilities(churn_rate)
    tier = (
        F.when(F.col("churn_probability") >= high, TIERS[0])
        .when((F.col("churn_probability") >= medium) | F.col("is_alert"), TIERS[1])
        .otherwise(TIERS[2])
    )
    return scored.select(*KEYS, "churn_probability", "is_alert", tier.alias("risk_tier"))


def stamped(rows: DataFrame, *, model_version: str, features_version: int, scored_at: datetime) -> DataFrame:
    """`rows` with model_version (string), features_version (long) and scored_at (timestamp)."""
    return rows.select(
        "*",
        F.lit(model_version).alias("model_version"),
        F.lit(features_version).cast("long").alias("features_version"),
        F.lit(scored_at).alias("scored_at"),
    )


def stamps_of(scores: pa.Table) -> list[tuple[date, str, int]]:
    """The dates of the rows, each with the versions of the model and of the panel; in order. In: as_of and STAMPS."""
    distinct = scores.group_by(["as_of", *STAMPS]).aggregate([]).to_pylist()
    return sorted((row["as_of"], row["model_version"], row["features_version"]) for row in distinct)


def of_dates(rows: DataFrame, dates: Sequence[date]) -> DataFrame:
    return rows.where(F.col("as_of").isin(list(dates)))


def score_outcomes(scores: DataFrame, unscored: DataFrame, eligible: DataFrame) -> list[Outcome]:
    """The rules of `churn_scores` and `unscored_customers` for the dates of `eligible`, the rows of the panel.

    From one aggregation by customer and date, because most of the time on a small table is Spark planning a query.
    """
    rows = (
        _counted(eligible, expected=1)
        .unionByName(_counted(scores, placed=1, is_wrong=_is_wrong(scores)))
        .unionByName(_counted(unscored, placed=1))
    )
    broken = {"values": "wrong > 0", "coverage": "expected <> 1 OR placed <> 1"}
    # By a hash of the keys, which takes two thirds of the time. Where each hash has one row on either side, so has each
    # key; whether two keys merely share a hash is asked of them.
    suspect = _summed(rows.withColumn("key", F.xxhash64(*KEYS)), "key").where(" OR ".join(broken.values()))
    if suspect.isEmpty():
        return [of_customers(rule, 0, (), allowed) for rule, allowed in ALLOWED.items()]
    customers = _summed(rows, *KEYS)
    return [_offenders(customers.where(broken[rule]), rule, allowed) for rule, allowed in ALLOWED.items()]


def _summed(rows: DataFrame, *by: str) -> DataFrame:
    return rows.groupBy(*by).agg(*[F.sum(name).alias(name) for name in ("expected", "placed", "wrong")])


def _counted(rows: DataFrame, *, expected: int = 0, placed: int = 0, is_wrong: Column | None = None) -> DataFrame:
    wrong = F.lit(0) if is_wrong is None else is_wrong.cast("int")
    return rows.select(*KEYS, F.lit(expected).alias("expected"), F.lit(placed).alias("placed"), wrong.alias("wrong"))


def _is_wrong(scores: DataFrame) -> Column:
    probability = F.col("churn_probability")
    has_null = any_of(F.col(name).isNull() for name in scores.columns)
    return has_null | ~probability.between(0.0, 1.0) | ~F.col("risk_tier").isin(*TIERS)


def _offenders(rows: DataFrame, rule: str, allowed: str) -> Outcome:
    """The outcome of a rule that `rows` (with KEYS) break."""
    # Not min_by(key, key, 10), which Sail answers without the 10 (pysail 0.7.2). All that is wrong is rarely much.
    key = F.concat_ws(" at ", *[F.coalesce(F.col(name).cast("string"), F.lit("(null)")) for name in KEYS])
    keys = rows.select(key.alias("key")).orderBy("key")
    first = [row.key for row in keys.limit(MAX_KEYS).collect()]
    return of_customers(rule, len(first) if len(first) < MAX_KEYS else rows.count(), first, allowed)

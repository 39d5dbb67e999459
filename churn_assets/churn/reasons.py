"""Why a customer is at risk: each feature's additive share in a score, and the largest ones in words.

The shares are SHAP values of the tree ensemble (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", Nature Machine Intelligence 2, 2020), computed from the exported trees, so no JVM is asked.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from math import factorial, inf
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.intervals import Floats
from churn_assets.churn.policy import ChurnPolicy

MOST_REASONS = 3
REASON = "struct<feature: string, value: double, usual: double, contribution: double, sentence: string>"
EXPLAINED = (
    "customer_id string, as_of date, raw_score double, base_score double, other_contributions double, "
    f"reasons array<{REASON}>"
)
# What a sentence needs of `customer_snapshots` beside the features.
TOLD_COLUMNS = ("promised_deliveries", "late_deliveries", "reviews")


@dataclass(frozen=True)
class Nodes:
    """One exported tree as arrays with an entry per node; at a leaf `feature` is negative."""

    weight: float
    feature: NDArray[np.intp]
    split: Floats
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    value: Floats

    def visits(self, values: Floats) -> NDArray[np.int64]:
        """How many rows of `values` (rows, features) come through each node."""
        counts = np.zeros(len(self.feature), dtype=np.int64)
        row, node = np.arange(len(values)), np.zeros(len(values), dtype=np.intp)
        while len(row):
            counts += np.bincount(node, minlength=len(counts))
            is_inner = self.feature[node] >= 0
            row, node = row[is_inner], node[is_inner]
            is_left = values[row, self.feature[node]] <= self.split[node]
            node = np.where(is_left, self.left[node], self.right[node])
        return counts


def nodes_of(exported: str) -> tuple[list[str], list[Nodes]]:
    """The feature names and trees of `trees.exported_trees`."""
    content = json.loads(exported)
    trees = [
        Nodes(
            tree["weight"],
            np.array(tree["feature"], dtype=np.intp),
            np.array(tree["split"], dtype=np.float64),
            np.array(tree["left"], dtype=np.intp),
            np.array(tree["right"], dtype=np.intp),
            np.array(tree["value"], dtype=np.float64),
        )
        for tree in content["trees"]
    ]
    return content["features"], trees


@dataclass(frozen=True)
class _Leaf:
    """A leaf as a box: a row is in it if low < value <= high for each feature its path asks for.

    gains: (2 ** features, features), what each feature adds for each pattern of conditions met, most significant first.
    """

    features: NDArray[np.intp]
    low: Floats
    high: Floats
    gains: Floats


class Explainer:
    """SHAP values of a tree ensemble's raw score, against what is usual among the rows that `visits` were counted on.

    Where a feature is not known, a tree is followed down both sides in proportion to those rows. The values of a row
    and `base`, the mean of those rows' leaves, sum to its raw score: the sum over trees of weight times prediction,
    half the log-odds of churn.
    """

    def __init__(self, trees: Sequence[Nodes], visits: Sequence[NDArray[np.int64]], features: int) -> None:
        self._features = features
        self._leaves: list[_Leaf] = []
        self.base = 0.0
        for tree, rows in zip(trees, visits, strict=True):
            if rows[0] == 0:
                raise ValueError("nobody was counted: there is nothing to compare with")
            self._add(tree, rows, 0, {})

    def _add(
        self, tree: Nodes, rows: NDArray[np.int64], node: int, box: Mapping[int, tuple[float, float, float]]
    ) -> None:
        """box: by feature its bounds, and the share of rows that go this way where they have to decide by it."""
        feature = int(tree.feature[node])
        if feature < 0:
            value = tree.weight * float(tree.value[node])
            self.base += value * float(rows[node]) / float(rows[0])
            if box:
                self._leaves.append(_leaf(value, box))
            return
        low, high, share = box.get(feature, (-inf, inf, 1.0))
        split, here = float(tree.split[node]), int(rows[node])
        for child, bounds in ((tree.left[node], (low, min(high, split))), (tree.right[node], (max(low, split), high))):
            # Below a node nobody reached, any share will do: the share that leads there is 0.
            went = float(rows[child]) / here if here else 0.0
            self._add(tree, rows, int(child), {**box, feature: (*bounds, share * went)})

    def contributions(self, values: Floats) -> Floats:
        """(rows, features) of `values`, (rows, features) without NaN."""
        found = np.zeros((len(values), self._features))
        for leaf in self._leaves:
            asked = values[:, leaf.features]
            is_met = (asked > leaf.low) & (asked <= leaf.high)
            pattern = is_met @ (1 << np.arange(len(leaf.features))[::-1])
            found[:, leaf.features] += leaf.gains[pattern]
        return found


def _leaf(value: float, box: Mapping[int, tuple[float, float, float]]) -> _Leaf:
    features = sorted(box)
    low, high, shares = (np.array(column) for column in zip(*[box[feature] for feature in features], strict=True))
    gains = np.array([_gains(value, met, shares) for met in product((0.0, 1.0), repeat=len(features))])
    return _Leaf(np.array(features, dtype=np.intp), low, high, gains)


def _gains(value: float, met: Sequence[float], shares: Floats) -> list[float]:
    """The Shapley value (Shapley, 1953) of each feature in the game whose worth for a set of known features is
    `value` times the product of `met` of the known and `shares` of the others."""
    count = len(met)
    gains = [0.0] * count
    for known in product((False, True), repeat=count):
        worth = value * float(np.prod(np.where(known, met, shares)))
        size = sum(known)
        for feature in range(count):
            if known[feature]:
                gains[feature] += worth * factorial(size - 1) * factorial(count - size) / factorial(count)
            else:
                gains[feature] -= worth * factorial(size) * factorial(count - size - 1) / factorial(count)
    return gains


# --- of Spark rows ---


@dataclass(frozen=True)
class Usual:
    """What is usual among the scored customers of one as-of date: of each feature, and of the way through the trees."""

    values: Mapping[str, float]
    visits: Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Wording:
    """What a sentence needs beside a customer's own values. segments: name by number."""

    observation_days: int
    eligibility_days: int
    crisis_delay_minutes: float
    segments: Mapping[int, str]

    @staticmethod
    def of(policy: ChurnPolicy, segments: Mapping[int, str]) -> "Wording":
        windows = policy.windows
        return Wording(windows.observation_days, windows.eligibility_days, policy.crisis_delay_minutes, segments)


def usual_by_date(scored: DataFrame, exported: str) -> dict[date, Usual]:
    """What is usual at each as-of date. In: as_of and the model's features of every scored customer, none null.

    A usual value is the median, to two places; of a share or a yes-or-no it is the mean.
    """
    features, trees = nodes_of(exported)
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
        if name in SHARES
        else F.percentile(F.round(name, 2), 0.5).alias(name)
        for name in features
    ]
    values = {row.as_of: row.asDict() for row in rows.groupBy("as_of").agg(*typical).collect()}
    return {
        day: Usual({name: values[day][name] for name in features}, np.split(visits, bounds[1:-1]))
        for day, visits in by_date.items()
    }


def explained(listed: DataFrame, exported: str, usual: Mapping[date, Usual], wording: Wording) -> DataFrame:
    """EXPLAINED: the raw score of each listed customer as a sum, and up to three features that raised it most.

    In: customer_id, as_of, the model's features, TOLD_COLUMNS. base_score + contributions of the reasons
    + other_contributions = raw_score, which is half the log-odds of the churn probability.
    """
    features, trees = nodes_of(exported)

    def told(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        explainers = {day: Explainer(trees, found.visits, len(features)) for day, found in usual.items()}
        for batch in batches:
            for day in batch["as_of"].unique():
                yield _explained(batch[batch["as_of"] == day], features, explainers[day], usual[day].values, wording)

    return listed.select("customer_id", "as_of", *features, *TOLD_COLUMNS).mapInPandas(told, EXPLAINED)


def _explained(
    rows: pd.DataFrame, features: Sequence[str], explainer: Explainer, usual: Mapping[str, float], wording: Wording
) -> pd.DataFrame:
    contributions = explainer.contributions(rows[features].to_numpy(dtype=np.float64))
    # The largest first; of equals the earlier feature.
    chosen = np.argsort(-contributions, axis=1, kind="stable")[:, :MOST_REASONS]
    reasons, others = [], []
    for (_, row), shares, order in zip(rows.iterrows(), contributions, chosen, strict=True):
        raising = [number for number in order if shares[number] > 0]
        reasons.append([_reason(features[number], row, float(shares[number]), usual, wording) for number in raising])
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
    feature: str, row: "pd.Series[Any]", contribution: float, usual: Mapping[str, float], wording: Wording
) -> dict[str, Any]:
    own = {name: float(row[name]) for name in (feature, *TOLD_COLUMNS)}
    sentence = SENTENCES[feature](own | {"own": own[feature], "usual": usual[feature]}, wording)
    return {
        "feature": feature,
        "value": own[feature],
        "usual": usual[feature],
        "contribution": contribution,
        "sentence": sentence,
    }


# --- in the retention team's words ---


def one_in(share: float) -> str:
    """A share as people say it: 1 in 10, 7 in 10, nobody."""
    if share < 0.005:
        return "none"
    return f"1 in {round(1 / share)}" if share < 0.4 else f"{round(10 * share)} in 10"


def _counted(count: float, one: str, more: str) -> str:
    return f"{count:,.0f} {one if round(count) == 1 else more}"


def _orders(own: Mapping[str, float], wording: Wording) -> str:
    placed = _counted(own["own"], "order", "orders")
    return f"{placed} in {wording.observation_days} days; usual is {own['usual']:,.0f}"


def _rating(own: Mapping[str, float], wording: Wording) -> str:
    if not own["reviews"]:
        return f"left no review in {wording.observation_days} days; the usual rating is {own['usual']:.1f} stars"
    return f"rated us {own['own']:.1f} stars on average; usual is {own['usual']:.1f}"


def _late(own: Mapping[str, float], wording: Wording) -> str:
    late, promised = own["late_deliveries"], own["promised_deliveries"]
    if not promised:
        return f"no delivery with a promised time in {wording.observation_days} days"
    if promised == 1:
        told = "the last delivery came late" if late else "the last delivery was on time"
    else:
        told = f"{f'{late:,.0f}' if late else 'none'} of the last {promised:,.0f} deliveries came late"
    return f"{told}; usual is {one_in(own['usual'])}"


def _segment(own: Mapping[str, float], wording: Wording) -> str:
    name = wording.segments.get(round(own["own"]))
    return f"is of segment {name}" if name else "is of no known segment"


def _crisis(own: Mapping[str, float], wording: Wording) -> str:
    minutes = f"{wording.crisis_delay_minutes:g} minutes"
    did = f"waited more than {minutes} past the promise" if own["own"] else f"never waited {minutes} past the promise"
    return f"{did}; {one_in(own['usual'])} of all customers did wait that long"


def _fall(own: Mapping[str, float], wording: Wording) -> str:
    if own["own"] >= 0:
        return "no review was worse than the one before"
    return f"a review fell by {-own['own']:.1f} stars from the one before"


def _rank(own: Mapping[str, float], wording: Wording) -> str:
    own_rank, usual = (", ".join(f"{own[which]:.0f}") for which in ("own", "usual"))
    return f"ranks {own_rank} of 5 for recency, frequency and spend, 1 is best; usual is {usual}"


def _silence(own: Mapping[str, float], wording: Wording) -> str:
    return f"last ordered {_counted(own['own'], 'day', 'days')} ago; usual is {own['usual']:,.0f}"


def _tenure(own: Mapping[str, float], wording: Wording) -> str:
    return f"first ordered {_counted(own['own'], 'day', 'days')} ago; usual is {own['usual']:,.0f}"


def _gap(own: Mapping[str, float], wording: Wording) -> str:
    return f"silent for {own['own']:.1f} times their own usual gap between orders; usual is {own['usual']:.1f} times"


def _missed(own: Mapping[str, float], wording: Wording) -> str:
    missed = f"{own['own']:.1f}"
    return f"at their own pace would have ordered {missed} times since the last order; usual is {own['usual']:.1f}"


def _delay(own: Mapping[str, float], wording: Wording) -> str:
    return (
        f"waited {_counted(own['own'], 'minute', 'minutes')} past the promise in {wording.eligibility_days} days; "
        f"usual is {own['usual']:,.0f}"
    )


# Of every feature of the catalogue. own: the row's value as "own", the usual one as "usual", and TOLD_COLUMNS.
SENTENCES: Mapping[str, Callable[[Mapping[str, float], Wording], str]] = {
    "total_orders": _orders,
    "avg_star_rating": _rating,
    "late_order_ratio": _late,
    "segment_index": _segment,
    "crisis_exposure_index": _crisis,
    "sentiment_velocity": _fall,
    "rfm_score": _rank,
    "recency_days": _silence,
    "tenure_days": _tenure,
    "gap_ratio": _gap,
    "missed_orders": _missed,
    "recent_delay_minutes": _delay,
}
# Features whose usual value is a mean.
SHARES = ("late_order_ratio", "crisis_exposure_index")

"""What a contact changes: estimated from used lists and those held out of them at random, and how well it ranks.

Where lists, outcomes and estimates are kept does not belong here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot

import numpy as np
from numpy.typing import NDArray

from churn_assets.churn.campaigns import LEAST_IN_GROUP
from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.intervals import UNDEFINED, Estimate, Floats, bootstrap, percentile_interval, share_difference
from churn_assets.churn.models import GradientBoosting, xgboost_params
from churn_assets.churn.outcomes import Figure, told_apart
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.trees import BoostedTrees, Node, Tree, exported_trees, imported_trees
from churn_assets.churn.xgboost_trees import TREE_WEIGHT, boosted, split_trees, trees_of

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A fifth of the customers is judged by a model of the others.
FOLDS = 5
SEED = 42
GAIN = "Qini over the ranking by value at risk"
# Of the trees of the effect: shallow ones and few, for what a contact changes is small beside what decides who leaves
# (docs/decisions/0042).
EFFECT_ROUNDS, EFFECT_DEPTH, EFFECT_STEP_SIZE, EFFECT_LEAF_SHARE, EFFECT_FEATURE_SHARE = 20, 2, 0.1, 0.05, 0.5


@dataclass(frozen=True)
class Trial:
    """Customers on lists that were used, a row for each customer and list, in an order that is the same whenever the
    rows are; who is to be contacted was drawn at random.

    customers, lists: numbers of the customer and of the list, from 0. folds: 0 to FOLDS - 1, of the customer.
    is_contacted: the arm that the list chose, reached or not. has_left: by the outcome window's end. features: (rows,
    `names`). actions: what the list suggested, held out or not. value: what it would rank by without an estimate.
    spend: of the observation window; NaN where nobody knows it.
    """

    names: tuple[str, ...]
    features: Floats
    customers: Ints
    lists: Ints
    folds: Ints
    is_contacted: Bools
    has_left: Bools
    actions: NDArray[np.str_]
    value: Floats
    spend: Floats

    def part(self, is_of_part: Bools) -> "Trial":
        """These rows alone, in the same order."""
        arrays = {name: of[is_of_part] for name, of in vars(self).items() if name != "names"}
        return replace(self, **arrays)

    @property
    def balance(self) -> Floats:
        """The weight of each row with which both arms hold each list in the same proportion: 1 of the contacted, of
        those held out their list's contacted for each of them, over that of all lists.

        The share held out may change from list to list, and what is different then about the customers is no effect.
        Where it never changed all weights are about 1.
        """
        contacted = np.bincount(self.lists, self.is_contacted)
        held_out = np.bincount(self.lists, ~self.is_contacted)
        of_list = np.divide(contacted, held_out, out=np.zeros_like(contacted), where=held_out > 0)
        overall = held_out.sum() / max(contacted.sum(), 1)
        return np.where(self.is_contacted, 1.0, of_list[self.lists] * overall)


@dataclass(frozen=True)
class UpliftRanking:
    """Rows sorted by falling score; `ends` are the last positions of each run of equal scores.

    drawn: whose weight each row has. parts: what a row of weight 1 counts of the contacted, of those held out, and of
    what either keeps; (4, rows).
    """

    drawn: Ints
    ends: Ints
    parts: Floats

    @staticmethod
    def of(
        scores: Floats,
        is_contacted: Bools,
        kept: Floats,
        *,
        balance: Floats | None = None,
        customers: Ints | None = None,
    ) -> "UpliftRanking":
        """kept: what is counted of each row, 1 for whoever stayed and 0 for whoever left, or an amount.

        balance: the weights of the rows, 1 each without. customers: whose weight a row has; its own without.
        """
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
        weights = np.ones(len(scores)) if balance is None else balance
        arms = [weights * is_contacted, weights * ~is_contacted]
        parts = np.array([*arms, *(arm * kept for arm in arms)])
        return UpliftRanking(order if customers is None else customers[order], ends, parts[:, order])

    def curve(self, weights: Floats) -> tuple[Floats, Floats]:
        """Share of the rows at or above each distinct score, from 0, and what is kept there by contacting, of each
        contacted in all: Radcliffe's Qini curve (Direct Marketing Analytics Journal, 2007) over the contacted,

            (R_t - R_c N_t / N_c) / N_t of all

        for the rows N and what is kept R of the contacted t and the held out c so far; (weightings, scores + 1) each.
        """
        contacted, held_out, kept, kept_by_itself = self._counts(weights)
        ratio = np.divide(contacted, held_out, out=np.zeros_like(contacted), where=held_out > 0)
        share = (contacted + held_out) / (contacted + held_out)[:, -1:]
        return _from_nothing(share), _from_nothing((kept - kept_by_itself * ratio) / contacted[:, -1:])

    def uplift_curve(self, weights: Floats) -> tuple[Floats, Floats]:
        """As `curve`, with (R_t / N_t - R_c / N_c) N / N of all: the difference of the shares so far, which Devriendt,
        Guns and Verbeke ("Learning to rank for uplift modeling", IEEE TKDE 34, 2022) call the joint uplift curve."""
        contacted, held_out, kept, kept_by_itself = self._counts(weights)
        shares = [
            np.divide(found, rows, out=np.zeros_like(rows), where=rows > 0)
            for found, rows in ((kept, contacted), (kept_by_itself, held_out))
        ]
        share = (contacted + held_out) / (contacted + held_out)[:, -1:]
        return _from_nothing(share), _from_nothing((shares[0] - shares[1]) * share)

    def qini(self, weights: Floats) -> Floats:
        """The area between `curve` and the straight line to its end, which is contacting at random: what the order
        keeps more, on average over all depths of the list, of each contacted. NaN where an arm is empty."""
        return _area_above_chance(*self.curve(weights))

    def auuc(self, weights: Floats) -> Floats:
        """The same area of `uplift_curve`."""
        return _area_above_chance(*self.uplift_curve(weights))

    def _counts(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        ordered = np.take(weights, self.drawn, axis=1)
        has_ties = len(self.ends) < len(self.drawn)
        runs = [(ordered * part).cumsum(axis=1) for part in self.parts]
        at_ends = [of[:, self.ends] for of in runs] if has_ties else runs
        return at_ends[0], at_ends[1], at_ends[2], at_ends[3]


def _from_nothing(values: Floats) -> Floats:
    return np.concatenate([np.zeros((len(values), 1)), values], axis=1)


def _area_above_chance(share: Floats, height: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        area = (np.diff(share, axis=1) * (height[:, 1:] + height[:, :-1]) / 2).sum(axis=1)
    return area - height[:, -1] / 2


@dataclass(frozen=True)
class UpliftModel:
    """What a contact takes off the chance of leaving, by the features: trees whose sum it is.

    by_action: of the actions whose effect is another than that of the others, as far as anybody can tell; any_contact:
    of all contacts, for the other actions.
    """

    any_contact: BoostedTrees
    by_action: Mapping[str, BoostedTrees]

    def uplift(self, features: Floats, actions: NDArray[np.str_]) -> Floats:
        """Of each row, -1 to 1: above 0 for whoever a contact keeps, below for whoever it loses."""
        found = 2 * self.any_contact.margins(features)
        for action, trees in self.by_action.items():
            is_of_action = actions == action
            found[is_of_action] = 2 * trees.margins(features[is_of_action])
        return np.clip(found, -1.0, 1.0)

    def exported(self) -> str:
        """As one line of JSON, the same text for the same model on any machine."""
        by_action = {action: exported_trees(trees, None) for action, trees in self.by_action.items()}
        content = {"any_contact": exported_trees(self.any_contact, None), "by_action": by_action}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def imported(exported: str) -> "UpliftModel":
        content = json.loads(exported)
        by_action = {action: imported_trees(trees) for action, trees in content["by_action"].items()}
        return UpliftModel(imported_trees(content["any_contact"]), by_action)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides an uplift."""
        return hashlib.sha256(self.exported().encode()).hexdigest()


def fold_of(customer_id: str, salt: str) -> int:
    """0 to FOLDS - 1, by a hash of the customer alone."""
    return int.from_bytes(hashlib.sha256(f"uplift:{salt}:{customer_id}".encode()).digest()[:8]) % FOLDS


def fitted(trial: Trial, policy: ChurnPolicy) -> UpliftModel:
    """The X-learner (Künzel, Sekhon, Bickel and Yu, PNAS 116, 2019) of two models of the house's learner.

    One learns from the contacted and one from those held out who leaves. What each row's outcome differs by from what
    the other arm's model expects is learned by shallow trees, those of the smaller arm counting by the larger one's
    share. Where an action's effect differs from that of the others beyond chance, it has a model of its own.
    """
    by_action = {}
    named = sorted(set(trial.actions.tolist()) - {""})
    for action in named:
        is_of_action = trial.actions == action
        own, others = trial.part(is_of_action), trial.part(~is_of_action)
        if not too_few(own, policy) and not too_few(others, policy) and _differ(own, others, policy, len(named)):
            by_action[action] = _x_learned(own)
    return UpliftModel(_x_learned(trial), by_action)


def _differ(one: Trial, other: Trial, policy: ChurnPolicy, looks: int) -> bool:
    """Whether the mean effects of both differ: by the interval of a difference of differences from those of both (Zou
    and Donner, Statistics in Medicine 27, 2008), by Bonferroni for as many looks."""
    confidence = 1 - (1 - policy.gate.confidence) / looks
    estimates = []
    for trial in (one, other):
        counts = [(int(trial.has_left[arm].sum()), int(arm.sum())) for arm in (~trial.is_contacted, trial.is_contacted)]
        estimates.append(share_difference(*counts[0], *counts[1], confidence))
    (first, low, high), (second, other_low, other_high) = estimates
    difference = first - second
    return (
        difference - hypot(first - low, other_high - second) > 0
        or difference + hypot(high - first, second - other_low) < 0
    )


def _x_learned(trial: Trial) -> BoostedTrees:
    arms = {is_contacted: trial.part(trial.is_contacted == is_contacted) for is_contacted in (True, False)}
    leaving = {is_contacted: _leaving(arm) for is_contacted, arm in arms.items()}
    share = len(arms[True].has_left) / len(trial.has_left)
    trees: list[Tree] = []
    for is_contacted, arm in arms.items():
        expected = leaving[not is_contacted].probabilities(arm.features)
        taken_off = (expected - arm.has_left) if is_contacted else (arm.has_left - expected)
        weight = 1 - share if is_contacted else share
        trees += [replace(tree, weight=tree.weight * weight) for tree in _effect_trees(arm.features, taken_off)]
    return BoostedTrees(trial.names, tuple(trees))


def _leaving(arm: Trial) -> BoostedTrees:
    """Who of one arm leaves, as the churn model of the house is learned."""
    rows = len(arm.has_left)
    # Half a customer of either kind: an arm that all of left teaches little, and is no error.
    share = (arm.has_left.sum() + 0.5) / (rows + 1)
    booster = boosted(
        arm.features.astype(np.float32),
        arm.has_left.astype(np.float32),
        None,
        **xgboost_params(GradientBoosting(), rows, share),
    )
    return trees_of(booster, arm.names)


def _effect_trees(features: Floats, taken_off: Floats) -> tuple[Tree, ...]:
    middle = float(taken_off.mean())
    booster = boosted(
        features.astype(np.float32),
        taken_off - middle,
        None,
        objective="reg:squarederror",
        rounds=EFFECT_ROUNDS,
        max_depth=EFFECT_DEPTH,
        learning_rate=EFFECT_STEP_SIZE,
        colsample_bynode=EFFECT_FEATURE_SHARE,
        min_child_weight=EFFECT_LEAF_SHARE * len(taken_off),
        base_score=0.0,
        seed=SEED,
    )
    return (Tree.of(TREE_WEIGHT, [Node(value=middle)]), *split_trees(booster))


def crossfitted_uplift(trial: Trial, policy: ChurnPolicy) -> Floats:
    """The uplift of each row by a model that never saw that customer."""
    found = np.empty(len(trial.has_left))
    for fold in range(FOLDS):
        is_judged = trial.folds == fold
        if is_judged.any():
            model = fitted(trial.part(~is_judged), policy)
            found[is_judged] = model.uplift(trial.features[is_judged], trial.actions[is_judged])
    return found


@dataclass(frozen=True)
class UpliftEvaluation:
    """Whether lists may rank by the estimate: the verdict, what it was judged by, and every reason against it.

    qini: of the ranking, against random; gain: of it over the ranking that lists have without it, paired; value_gain:
    the same in spend kept. None where nothing could be judged.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    criteria: tuple[Figure, ...]
    qini: Estimate = UNDEFINED
    gain: Estimate = UNDEFINED
    value_gain: Estimate = UNDEFINED
    auuc: float | None = None

    @property
    def sentence(self) -> str:
        """The verdict with its reasons."""
        return f"{self.verdict.value}: {'; '.join(self.reasons)}"


def too_few(trial: Trial, policy: ChurnPolicy) -> list[Figure]:
    """What there is not enough of in the trial to estimate an effect from."""
    return [each for each in amounts(trial, policy) if not each.is_met]


def amounts(trial: Trial, policy: ChurnPolicy) -> list[Figure]:
    """How many customers were contacted and held out, and how many of the fewest who left or stayed in either arm.

    Whoever is on several lists counts once in an arm, for the same person tells less each time.
    """
    contacted, held_out = (len(np.unique(trial.customers[arm])) for arm in (trial.is_contacted, ~trial.is_contacted))
    kinds = [
        int((trial.has_left[trial.is_contacted == arm] == has_left).sum())
        for arm in (True, False)
        for has_left in (True, False)
    ]
    return [
        _at_least(
            "contacted",
            "contacted customers of lists made here, of known outcome",
            contacted,
            policy.retention.min_held_out,
        ),
        _at_least(
            "held_out",
            "customers held out at random of lists made here, of known outcome",
            held_out,
            policy.retention.min_held_out,
        ),
        _at_least("fewest", "fewest who left or stayed, contacted or held out", min(kinds), LEAST_IN_GROUP),
    ]


def _at_least(key: str, what: str, number: int, least: int) -> Figure:
    return Figure(key, what, f"{number:,}", f"at least {least:,}", number >= least, number, least)


@dataclass(frozen=True)
class Tenth:
    """A tenth of the rows by falling estimate. estimated: their mean uplift; changed: by how much larger the share that
    stayed was of the contacted than of those held out; undefined where one of the two arms is empty."""

    estimated: float
    changed: Estimate


def by_tenths(trial: Trial, uplift: Floats, confidence: float) -> list[Tenth]:
    """What contacts changed where most was expected of them, and where least; rows count alike, whatever their list."""
    stayed, found = ~trial.has_left, []
    for rows in np.array_split(np.argsort(-uplift, kind="stable"), 10):
        arms = [rows[trial.is_contacted[rows]], rows[~trial.is_contacted[rows]]]
        if not all(map(len, arms)):
            found.append(Tenth(float(uplift[rows].mean()) if len(rows) else np.nan, UNDEFINED))
            continue
        contacted, held_out = ((int(stayed[arm].sum()), len(arm)) for arm in arms)
        found.append(Tenth(float(uplift[rows].mean()), Estimate(*share_difference(*contacted, *held_out, confidence))))
    return found


def judge(trial: Trial, uplift: Floats, policy: ChurnPolicy) -> UpliftEvaluation:
    """Whether ranking by `uplift` keeps more customers than at random and than the ranking by `trial.value`.

    uplift: of each row, by a model that never saw the customer. Intervals are the percentiles of a bootstrap that draws
    customers whole, the same for all rankings. In spend the ranking must not be shown to keep less than the other one.
    """
    counted = amounts(trial, policy)
    if any(not each.is_met for each in counted):
        return not_evaluable(counted)
    if not (np.isfinite(uplift).all() and np.isfinite(trial.value).all()):
        return not_evaluable(counted, ["some estimates or values at risk are missing"])
    stayed = (~trial.has_left).astype(np.float64)
    counted_by = {"": stayed}
    if np.isfinite(trial.spend).all():
        counted_by["value_"] = stayed * trial.spend / max(float(trial.spend.mean()), np.finfo(float).tiny)
    rankings = {
        kind: [
            UpliftRanking.of(scores, trial.is_contacted, kept, balance=trial.balance, customers=trial.customers)
            for scores in (uplift, trial.value)
        ]
        for kind, kept in counted_by.items()
    }

    def qinis(weights: Floats) -> Floats:
        return np.stack([ranking.qini(weights) for both in rankings.values() for ranking in both])

    customers = int(trial.customers.max()) + 1
    values = qinis(np.ones((1, customers)))[:, 0]
    replicates = bootstrap({"qini": qinis}, customers)["qini"]
    confidence = policy.gate.confidence

    def estimate(figure: Floats, of_replicates: Floats) -> Estimate:
        return Estimate(float(figure), *percentile_interval(of_replicates, confidence))

    qini = estimate(values[0], replicates[0])
    gain = estimate(values[0] - values[1], replicates[0] - replicates[1])
    criteria = [*counted, _above_zero("qini", "Qini over random", qini), _above_zero("gain", GAIN, gain)]
    value_gain = UNDEFINED
    if "value_" in rankings:
        value_gain = estimate(values[2] - values[3], replicates[2] - replicates[3])
        criteria.append(_not_below_zero("value_gain", f"{GAIN}, in spend kept", value_gain))
    missed = [each.sentence(confidence) for each in criteria if not each.is_met]
    found = [each.sentence(confidence) for each in criteria if each.key in ("qini", "gain")]
    auuc = float(rankings[""][0].auuc(np.ones((1, customers)))[0])
    verdict = Verdict.FAIL if missed else Verdict.PASS
    return UpliftEvaluation(verdict, tuple(missed or found), tuple(criteria), qini, gain, value_gain, auuc)


def not_evaluable(counted: Sequence[Figure], obstacles: Sequence[str] = ()) -> UpliftEvaluation:
    """The verdict where there is not enough to judge by, or something stands in the way."""
    missing = [f"{each.observed} {each.what}, {each.allowed} needed" for each in counted if not each.is_met]
    return UpliftEvaluation(Verdict.NOT_EVALUABLE, (*missing, *obstacles), tuple(counted))


def _above_zero(key: str, what: str, estimate: Estimate) -> Figure:
    return _bounded(key, what, estimate, "more than +0.0000 (lower end)", (estimate.low or 0.0) > 0)


def _not_below_zero(key: str, what: str, estimate: Estimate) -> Figure:
    is_met = estimate.high is not None and estimate.high >= 0
    return _bounded(key, what, estimate, "at least +0.0000 (upper end)", is_met)


def _bounded(key: str, what: str, estimate: Estimate, allowed: str, is_met: bool) -> Figure:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return Figure(key, what, "cannot be told", allowed, is_met=False, limit=0.0)
    interval = f"{told_apart(estimate.low, 0.0, '+.4f')[0]} to {told_apart(estimate.high, 0.0, '+.4f')[0]}"
    return Figure(key, what, f"{estimate.value:+.4f}", allowed, is_met, estimate.value, 0.0, interval)

"""The default model against other learners on the same rows: how well each ranks, and how long its fit takes.

Every customer of the test date is scored by models that never saw that customer (five folds); each fold is a round in
which every learner is fitted on the same rows. Nothing is tuned: each library with its own defaults and with the
default model's settings, as far as it has them. CHURN_ENGINE=local has Spark's learner beside them. Takes an hour.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from pyspark.sql import DataFrame
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier

from benchmarks.measuring import engines, machine
from benchmarks.panels import StudyPanel, demo_panel, example_panel, spark_session, write_result
from benchmarks.pareto_nbd import ParetoNBD, fit_pareto_nbd
from churn_assets.churn import splits
from churn_assets.churn.catalogue import FEATURE_SETS
from churn_assets.churn.censored import censored_rows, with_censored
from churn_assets.churn.intervals import Floats, bootstrap, percentile_interval
from churn_assets.churn.models import SEED, GradientBoosting, fit_churn_model, with_churn_probability
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import purchase_histories
from churn_assets.churn.purchase_model import fit_purchase_model, histories
from churn_assets.churn.purchase_prior import ASKED_FEATURES, PurchasePrior, histories_of_asked
from churn_assets.churn.ranking import Ranking
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT
from churn_assets.serving.pipelines import shared_folder

OURS = GradientBoosting()
DEFAULT, GBT, BEST = 'the default: estimator = "xgboost"', 'estimator = "gbt"', "best possible"
FIRST = "the first default: XGBoost alone, 12 features"
PACKAGES = ("pyspark", "scikit-learn", "lightgbm", "xgboost-cpu", "numpy", "pandas")
# Shown with every learner at the test date.
SHOWN_SEEDS = (42, 1)
SEEDS = range(1, 11)
DATES = 4
# Of the default model until 2026-11-27, which was its trees alone.
FIRST_FEATURES = (
    "total_orders",
    "avg_star_rating",
    "late_order_ratio",
    "segment_index",
    "crisis_exposure_index",
    "sentiment_velocity",
    "rfm_score",
    "recency_days",
    "tenure_days",
    "gap_ratio",
    "missed_orders",
    "recent_delay_minutes",
)


@dataclass(frozen=True)
class Fold:
    """One fold of the cross-fitting. train: persisted rows of `splits.train_rows`; learned: those a fit learns from.

    of_the_flow: the former with `censored_rows`, which the flow's models learn from too.
    held_out, scored: the same customers of the test date, to Spark and in memory; the latter with the best possible
    score where it is known. prior: the purchase model, which the flow's models know too. plain: it without waiting.
    pareto: another, fitted as those are.
    """

    features: tuple[str, ...]
    train: DataFrame
    of_the_flow: DataFrame
    rows: int
    learned: pd.DataFrame
    held_out: DataFrame
    scored: pd.DataFrame
    prior: PurchasePrior
    plain: PurchasePrior
    pareto: ParetoNBD


# Fits on a fold; what it returns scores `fold.scored`, row for row.
Fit = Callable[[Fold], Callable[[], Floats]]


def _of_the_flow(settings: GradientBoosting, fold: Fold) -> Callable[[], Floats]:
    trees = fit_churn_model(
        fold.of_the_flow,
        fold.features,
        settings,
        rows=fold.rows,
        prior=fold.prior,
        shared_folder=partial(shared_folder, None),
    )

    def scores() -> Floats:
        found = with_churn_probability(trees, fold.held_out).select("customer_id", "churn_probability").toPandas()
        ordered = found.set_index("customer_id")["churn_probability"].loc[fold.scored["customer_id"]]
        return ordered.to_numpy(float)

    return scores


def _in_memory(
    classifier: Callable[[int, float], Any], fold: Fold, known: Sequence[str] | None = None
) -> Callable[[], Floats]:
    """classifier: made for so many rows of such a churn rate. known: the features, where not the fold's."""
    features = list(known or fold.features)
    values, labels = fold.learned[features].to_numpy(float), fold.learned["label"].to_numpy(float)
    # One thread, as XGBoost has in the flow: beside another process OpenMP's waiting threads made a fit of 0.3 s
    # take 10 (2026-11-25).
    with threadpool_limits(1):
        fitted = classifier(len(labels), float(labels.mean())).fit(values, labels)
    return lambda: fitted.predict_proba(fold.scored[features].to_numpy(float))[:, 1]


def _purchase_model(is_plain: bool, fold: Fold) -> Callable[[], Floats]:
    """Fitted for the test date already, on everybody's orders and no label; here nothing is learned."""
    asked = fold.scored[[*ASKED_FEATURES]].to_numpy(float)
    return lambda: (fold.plain if is_plain else fold.prior).log_odds(asked)


def _pareto_nbd(fold: Fold) -> Callable[[], Floats]:
    known = histories_of_asked(fold.scored[[*ASKED_FEATURES]].to_numpy(float))
    return lambda: fold.pareto.no_purchase(known, fold.prior.days)


def _logistic_regression(rows: int, churn_rate: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))


def _hist_gradient_boosting_as_ours(rows: int, churn_rate: float) -> Any:
    return HistGradientBoostingClassifier(
        max_iter=OURS.iterations,
        learning_rate=OURS.step_size,
        max_depth=OURS.max_depth,
        max_leaf_nodes=None,
        min_samples_leaf=round(OURS.min_leaf_share * rows),
        early_stopping=False,
        random_state=SEED,
    )


def _lightgbm_as_ours(rows: int, churn_rate: float) -> Any:
    return LGBMClassifier(
        n_estimators=OURS.iterations,
        learning_rate=OURS.step_size,
        max_depth=OURS.max_depth,
        num_leaves=2**OURS.max_depth,
        min_child_samples=round(OURS.min_leaf_share * rows),
        random_state=SEED,
        n_jobs=1,
        verbose=-1,
    )


def _xgboost_as_ours(rows: int, churn_rate: float, feature_share: float = OURS.feature_share) -> Any:
    return XGBClassifier(
        n_estimators=OURS.iterations,
        learning_rate=OURS.step_size,
        max_depth=OURS.max_depth,
        # Its bound is on the sum of p (1 - p) in a leaf.
        min_child_weight=OURS.min_leaf_share * rows * churn_rate * (1 - churn_rate),
        colsample_bynode=feature_share,
        random_state=SEED,
        n_jobs=1,
    )


LEARNERS: Mapping[str, Fit] = {
    DEFAULT: partial(_of_the_flow, OURS),
    GBT: partial(_of_the_flow, replace(OURS, estimator="gbt")),
    "BG/NBD, of no label": partial(_purchase_model, True),
    "BG/NBD with waiting, of no label": partial(_purchase_model, False),
    "Pareto/NBD, of no label": _pareto_nbd,
    "logistic regression (scikit-learn)": partial(_in_memory, _logistic_regression),
    "HistGradientBoosting, its defaults": partial(
        _in_memory, lambda rows, churn_rate: HistGradientBoostingClassifier(random_state=SEED)
    ),
    "HistGradientBoosting, our settings": partial(_in_memory, _hist_gradient_boosting_as_ours),
    "LightGBM, its defaults": partial(
        _in_memory, lambda rows, churn_rate: LGBMClassifier(random_state=SEED, n_jobs=1, verbose=-1)
    ),
    "LightGBM, our settings": partial(_in_memory, _lightgbm_as_ours),
    "XGBoost, its defaults": partial(_in_memory, lambda rows, churn_rate: XGBClassifier(random_state=SEED, n_jobs=1)),
    "XGBoost, our settings": partial(_in_memory, _xgboost_as_ours),
    FIRST: partial(_in_memory, partial(_xgboost_as_ours, feature_share=1.0), known=FIRST_FEATURES),
}
# At every date, and on every engine; a fit of Spark's takes as long as all of these.
RIVALS = {name: fit for name, fit in LEARNERS.items() if name != GBT}


@dataclass(frozen=True)
class Judged:
    """The learners on one test date of one data set. areas: their PR-AUC; gains: what each has more than the default.

    Of a gain: the figure, and the ends of its interval. recalls: of the highest-scored within the budget. seconds: the
    median fit. Learners and the best possible score, where it is known, by name.
    """

    data: str
    dates: splits.SplitDates
    customers: int
    learned: float
    areas: dict[str, float]
    gains: dict[str, tuple[float, float, float]]
    recalls: dict[str, float]
    seconds: dict[str, float]


def main() -> None:
    engine, shipped = engines()[0], load_policy(CHECKOUT / "policy.toml")
    spark, at_test_date = spark_session(engine), LEARNERS if engine == "local" else RIVALS
    shown, by_date = [], []
    for seed in dict.fromkeys([*SHOWN_SEEDS, *SEEDS]):
        with demo_panel(spark, DemoSettings(seed=seed, campaign=None), shipped) as built:
            latest, *earlier = _dates(built, shipped)
            learners = at_test_date if seed in SHOWN_SEEDS else RIVALS
            found = [_judged(f"demo, seed {seed}", built, shipped, latest, learners)]
            if seed in SEEDS:
                found += [_judged(f"demo, seed {seed}", built, shipped, dates, RIVALS) for dates in earlier]
                by_date += found
        if seed in SHOWN_SEEDS:
            shown.append(found[0])
    if os.environ.get("UCI_ONLINE_RETAIL"):
        policy = load_policy(CHECKOUT / "examples" / "uci_online_retail" / "policy.toml")
        with example_panel(spark, "uci_online_retail", policy) as built:
            latest, *earlier = _dates(built, policy)
            shown.append(_judged("UCI Online Retail", built, policy, latest, at_test_date))
            by_date.append(shown[-1])
            by_date += [_judged("UCI Online Retail", built, policy, dates, RIVALS) for dates in earlier]
    else:
        print("UCI Online Retail is left out: set UCI_ONLINE_RETAIL to its Parquet file", flush=True)
    lines = [
        f"# Learners, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "Every customer of the test date scored by models that never saw that customer (five folds), all learners",
        "on the same rows and features. Nothing is tuned. Our settings:",
        f"{OURS.iterations} trees of depth {OURS.max_depth}, step {OURS.step_size}, no leaf below",
        f"{OURS.min_leaf_share:.2%} of the rows, {OURS.feature_share:.0%} of the features at each split.",
        "Share: the PR-AUC over the default's; the difference to it is paired",
        "over resampled customers, with a 95 % interval. Recall: of the highest-scored, as many as the alert budget",
        "allows. Fit: the median of the five folds after a warm-up, the learners in turn. What has an estimator",
        "includes the shuffle to canonical order and the count of both classes, learns from outcomes that are not over",
        "too and knows the purchase model; the others learn from rows in memory whose outcome is over, in one thread.",
        "",
        "| data | customers | learned from | learner | PR-AUC | share | difference | recall | fit |",
        "|-|-|-|-|-|-|-|-|-|",
        *(line for judged in shown for line in _rows(judged)),
        "",
        *_rivals_by_date(by_date),
        "",
        machine(*PACKAGES),
    ]
    write_result("learners", lines)


def _dates(built: StudyPanel, policy: ChurnPolicy) -> list[splits.SplitDates]:
    """The test date and the three before it that a backtest would judge at."""
    labelled = built.panel.where("label is not null").select("as_of").distinct().orderBy("as_of")
    return splits.backtest_dates([row.as_of for row in labelled.collect()], policy)[:DATES]


def _judged(
    data: str, built: StudyPanel, policy: ChurnPolicy, dates: splits.SplitDates, learners: Mapping[str, Fit]
) -> Judged:
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    parts, learned = [], []
    for crossfit_fold in splits.CROSSFIT_FOLDS:
        with _fold(built, policy, dates, crossfit_fold) as fold:
            if crossfit_fold == 0:
                for fit in learners.values():
                    fit(fold)()
            scores = {name: _timed(fit, fold, seconds[name]) for name, fit in learners.items()}
            parts.append(fold.scored.assign(**scores))
            learned.append(len(fold.learned))
    pooled = pd.concat(parts).sort_values("customer_id", ignore_index=True)
    labels = pooled["label"].to_numpy(float)
    shown = [*learners, *([BEST] if BEST in pooled else [])]
    rankings = {name: Ranking.of(pooled[name].to_numpy(float), labels) for name in shown}
    areas = {name: float(ranking.average_precision(np.ones((1, len(labels))))[0]) for name, ranking in rankings.items()}
    replicates = bootstrap({name: ranking.average_precision for name, ranking in rankings.items()}, len(labels))
    gains = {
        name: (
            areas[name] - areas[DEFAULT],
            *percentile_interval(replicates[name] - replicates[DEFAULT], policy.gate.confidence),
        )
        for name in shown
        if name != DEFAULT
    }
    budget = int(policy.alerts.budget * len(labels))
    judged = Judged(
        data,
        dates,
        len(labels),
        median(learned),
        areas,
        gains,
        {name: ranking.recall_of_highest(budget) for name, ranking in rankings.items()},
        {name: median(taken) for name, taken in seconds.items()},
    )
    print(f"{dates.test}", *_rows(judged), sep="\n", flush=True)
    return judged


def _rows(judged: Judged) -> list[str]:
    """A row of the table of the test date for each learner."""
    found = []
    for name, area in judged.areas.items():
        cells = [
            judged.data,
            f"{judged.customers:,}",
            f"{judged.learned:,.0f}",
            name,
            f"{area:.4f}",
            f"{area / judged.areas[DEFAULT]:.3f}",
            _with_interval(judged.gains[name]) if name in judged.gains else "",
            f"{judged.recalls[name]:.3f}",
            f"{judged.seconds[name]:.2f} s" if name in judged.seconds else "",
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _rivals_by_date(by_date: Sequence[Judged]) -> list[str]:
    """What the default has more than each rival, at every date; and the demo's means over its seeds."""
    rivals = [name for name in RIVALS if name != DEFAULT]
    lines = [
        "## At earlier dates too",
        "",
        "PR-AUC of the default, its share of the best possible, and what it has more than each rival (95 % interval).",
        f"The first default has our settings with all features at each split, and {len(FIRST_FEATURES)} features.",
        "",
        f"| data | date | customers | default | of the best | {' | '.join(rivals)} |",
        "|-|-|-|-|-|" + "-|" * len(rivals),
    ]
    for judged in by_date:
        ahead = [_with_interval(_ahead(judged.gains[name])) for name in rivals]
        cells = [judged.data, f"{judged.dates.test}", f"{judged.customers:,}", f"{judged.areas[DEFAULT]:.4f}"]
        lines.append(f"| {' | '.join([*cells, _of_the_best(judged), *ahead])} |")
    demos = [judged for judged in by_date if BEST in judged.areas]
    for test in sorted({judged.dates.test for judged in demos}, reverse=True):
        of_date = [judged for judged in demos if judged.dates.test == test]
        ahead = [f"{-np.mean([judged.gains[name][0] for judged in of_date]):+.4f}" for name in rivals]
        share = np.mean([judged.areas[DEFAULT] / judged.areas[BEST] for judged in of_date])
        area = np.mean([judged.areas[DEFAULT] for judged in of_date])
        seeds = f"demo, mean of {len(of_date)} seeds"
        lines.append(f"| {seeds} | {test} | | {area:.4f} | {share:.3f} | {' | '.join(ahead)} |")
    return lines


def _ahead(gain: tuple[float, float, float]) -> tuple[float, float, float]:
    """What the default has more, of what another has."""
    figure, low, high = gain
    return -figure, -high, -low


def _of_the_best(judged: Judged) -> str:
    return f"{judged.areas[DEFAULT] / judged.areas[BEST]:.3f}" if BEST in judged.areas else ""


def _with_interval(gain: tuple[float, float, float]) -> str:
    figure, low, high = gain
    return f"{figure:+.4f} ({low:+.4f} to {high:+.4f})"


def _timed(fit: Fit, fold: Fold, seconds: list[float]) -> Floats:
    begun = time.perf_counter()
    scores = fit(fold)
    seconds.append(time.perf_counter() - begun)
    return scores()


@contextmanager
def _fold(built: StudyPanel, policy: ChurnPolicy, dates: splits.SplitDates, crossfit_fold: int) -> Iterator[Fold]:
    features = FEATURE_SETS[policy.model.feature_set]
    train = splits.train_rows(built.panel, dates, policy, crossfit_fold).persist()
    held_out = splits.held_out_rows(built.panel, dates, policy, crossfit_fold).persist()
    try:
        known = purchase_histories(built.silver, dates.test, policy.windows.eligibility_days)
        purchases = fit_purchase_model(known)
        plain = fit_purchase_model(histories(known.repeats, known.recency_days, known.age_days))
        told = held_out.select("customer_id", "as_of", *sorted({*features, *FIRST_FEATURES}), "label")
        prior = PurchasePrior(purchases, policy.windows.outcome_days)
        censored = censored_rows(built.panel, dates, policy, prior, crossfit_fold)
        if built.truth is not None:
            truth = built.truth.withColumnRenamed("churn_probability", BEST)
            told = told.join(truth, ["customer_id", "as_of"], "left")
        yield Fold(
            features,
            train,
            train if censored is None else with_censored(train, censored),
            train.count(),
            _in_order(train.where(~splits.is_validation())),
            held_out,
            _in_order(told),
            prior,
            PurchasePrior(plain, policy.windows.outcome_days),
            fit_pareto_nbd(known),
        )
    finally:
        train.unpersist()
        held_out.unpersist()


def _in_order(rows: DataFrame) -> pd.DataFrame:
    return rows.orderBy("customer_id", "as_of").toPandas()

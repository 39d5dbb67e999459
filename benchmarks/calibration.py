"""How near the probabilities come to what follows, and whether the recall expected of a week holds what is realised.

Every customer of the test date is scored by models that never saw that customer (five folds). Weeks without concept
drift are parts of these customers: a tenth is the scored week, whose labels nobody knows yet; two other tenths are the
rows that the version was judged on, from which alone the calibration is learned; then the labels are looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from time import process_time

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.measuring import machine
from benchmarks.panels import StudyPanel, demo_panel, example_panel, spark_session, write_result
from churn_assets.churn import judged, splits
from churn_assets.churn.censored import censored_rows
from churn_assets.churn.expectation import STEPS, expected
from churn_assets.churn.intervals import Estimate, Floats
from churn_assets.churn.models import GradientBoosting, train_churn_model
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import purchase_histories
from churn_assets.churn.purchase_model import fit_purchase_model
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.recalibration import calibration_of, expected_over_observed
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

SEEDS = range(1, 11)
# Before anybody's outcome of the crisis was known, and the demo's own.
EARLIER = date(2025, 11, 3)
PARTS = 10
SETTINGS = GradientBoosting()


@dataclass(frozen=True)
class Judged:
    """One data set at one date: the labels, scores and alerts of its customers, cross-fitted."""

    data: str
    test: date
    labels: Floats
    scores: Floats
    is_alert: np.ndarray

    def parts(self) -> list[np.ndarray]:
        """The customers in PARTS parts, drawn at random; the same every time."""
        return np.array_split(np.random.default_rng(42).permutation(len(self.labels)), PARTS)

    def steps(self, of: np.ndarray) -> dict[int, int]:
        """As `expectation.step_of` counts them."""
        places = np.minimum((self.scores[of] * STEPS).astype(int), STEPS - 1) * 2 + self.is_alert[of]
        found, counts = np.unique(places, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class Week:
    """A figure of a simulated week as it was expected, and as it turned out."""

    data: str
    test: date
    figure: str
    expected: Estimate
    realised: float

    @property
    def is_held(self) -> bool:
        low, high = self.expected.low, self.expected.high
        return low is not None and high is not None and low <= self.realised <= high


def main() -> None:
    spark = spark_session()
    found = list(_all(spark))
    weeks = [week for each in found for week in _weeks(each)]
    _report(found, weeks)


def _all(spark: SparkSession) -> Iterator[Judged]:
    shipped = load_policy(CHECKOUT / "policy.toml")
    for seed in SEEDS:
        with demo_panel(spark, DemoSettings(seed=seed, campaign=None), shipped) as built:
            for known_until in (None, EARLIER):
                yield _judged(f"demo, seed {seed}", built, shipped, known_until)
    example = CHECKOUT / "examples" / "uci_online_retail"
    policy = load_policy(example / "policy.toml")
    with example_panel(spark, "uci_online_retail", policy) as built:
        yield _judged("UCI Online Retail", built, policy, None)


def _judged(data: str, built: StudyPanel, policy: ChurnPolicy, test: date | None) -> Judged:
    panel = built.panel if test is None else built.panel.where(built.panel["as_of"] <= test)
    dates = splits.split_dates(panel, policy)
    train = splits.train_rows(panel, dates, policy)
    purchases = fit_purchase_model(purchase_histories(built.silver, dates.test, policy.windows.eligibility_days))
    prior = PurchasePrior(purchases, policy.windows.outcome_days)
    model = train_churn_model(
        train,
        splits.current_rows(panel, dates, policy),
        SETTINGS,
        policy,
        prior=prior,
        censored=censored_rows(panel, dates, policy, prior),
    )
    held_out = judged.held_out_scores(model.trees, splits.held_out_rows(panel, dates, policy), model.threshold_value)
    rows = judged.crossfit_scores(held_out, panel, SETTINGS, policy, prior=prior)
    scored = rows.select("customer_id", "label", "churn_probability", "is_alert").toPandas()
    scored = scored.sort_values("customer_id")
    labels, scores = (scored[name].to_numpy(dtype=float) for name in ("label", "churn_probability"))
    print(f"  {data}, {dates.test}: {len(labels):,} customers", flush=True)
    return Judged(data, dates.test, labels, scores, scored["is_alert"].to_numpy(dtype=bool))


def _weeks(judged_: Judged) -> Iterator[Week]:
    parts = judged_.parts()
    for place, week in enumerate(parts):
        known = np.concatenate([parts[(place + 1) % PARTS], parts[(place + 2) % PARTS]])
        calibration = calibration_of(judged_.scores[known], judged_.labels[known])
        labels, is_alert = judged_.labels[week], judged_.is_alert[week]
        if calibration is None or not labels.sum() or not is_alert.sum():
            continue
        expectation = expected(judged_.steps(week), calibration, 0.95)
        caught = float(labels[is_alert].sum())
        yield Week(judged_.data, judged_.test, "recall", expectation.recall, caught / float(labels.sum()))
        yield Week(judged_.data, judged_.test, "precision", expectation.precision, caught / float(is_alert.sum()))


def _told(figure: Estimate) -> str:
    return "" if figure.value is None else f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def _report(found: Sequence[Judged], weeks: Sequence[Week]) -> None:
    lines = [
        f"# Probabilities and what follows, {datetime.now(UTC):%Y-%m-%d}",
        "",
        machine("xgboost-cpu", "numpy", "pysail"),
        "",
        "Every customer of the date scored by a model that never saw that customer. Expected: the sum of the",
        "probabilities; slope: of the regression of the labels on the scores' log-odds. 1 is perfect for both.",
        "",
        "| data | date | customers | churners | expected / observed | slope |",
        "|-|-|-|-|-|-|",
    ]
    for each in found:
        calibration = calibration_of(each.scores, each.labels)
        slope = Estimate() if calibration is None else calibration.slope_estimate(0.95)
        ratio = expected_over_observed(each.scores, each.labels, 0.95)
        counted = f"{len(each.labels):,} | {int(each.labels.sum()):,}"
        lines.append(f"| {each.data} | {each.test} | {counted} | {_told(ratio)} | {_told(slope)} |")
    lines += [
        "",
        "Weeks without concept drift, and of how many the 95 % interval, made without their labels, holds what came.",
        "",
        "| data | date | figure | weeks | held | mean width | mean of expected minus realised |",
        "|-|-|-|-|-|-|-|",
    ]
    of_kind: dict[tuple[str, date, str], list[Week]] = {}
    for week in weeks:
        of_kind.setdefault((week.data.split(",")[0], week.test, week.figure), []).append(week)
    for (data, test, figure), of in of_kind.items():
        held = sum(week.is_held for week in of)
        width = np.mean([(week.expected.high or 0.0) - (week.expected.low or 0.0) for week in of])
        gap = np.mean([(week.expected.value or 0.0) - week.realised for week in of])
        share = f"{held} ({held / len(of):.0%})"
        lines.append(f"| {data} | {test} | {figure} | {len(of)} | {share} | {width:.3f} | {gap:+.4f} |")
    started = process_time()
    for each in found:
        calibration = calibration_of(each.scores, each.labels)
        if calibration is not None:
            expected(each.steps(np.arange(len(each.labels))), calibration, 0.95)
    took = (process_time() - started) / len(found)
    lines += ["", f"A calibration and a week's expectation took {took * 1000:.1f} ms of CPU."]
    write_result("calibration", lines)

"""Alarms of a first scored week after a first training: companies of 6, 9 and 18 months in which nothing drifts.

An `established` one is the demo without a crisis, a campaign or a drift, under the shipped policy: most of its
customers were there before the data begin. A `founded` one is the pharmacy of docs/your_data.md, under that page's
policy: nobody was. The model learns from all weeks whose outcomes are known, the latest week is scored, and monitoring
says what it would say of it in the flow. `BENCH_COMPANIES=founded BENCH_MONTHS=9 BENCH_SEEDS=5` is less of it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.machinery import SourceFileLoader
from math import sqrt
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from benchmarks.measuring import machine
from benchmarks.panels import StudyPanel, demo_panel, panel_of, spark_session, write_result
from churn_assets.churn import drift, judged, splits
from churn_assets.churn import tables as tables_
from churn_assets.churn.censored import censored_rows
from churn_assets.churn.evaluation import Alerted
from churn_assets.churn.models import GradientBoosting, train_churn_model
from churn_assets.churn.monitoring import Measurement, measurements, watched
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import purchase_histories
from churn_assets.churn.purchase_model import fit_purchase_model
from churn_assets.churn.purchase_prior import PurchasePrior
from churn_assets.churn.recalibration import calibration_of
from churn_assets.churn.tables import conformed
from churn_assets.demo.simulator import DemoSettings
from churn_assets.resources.configuration import load_policy
from churn_assets.resources.settings import CHECKOUT

COMPANIES = os.environ.get("BENCH_COMPANIES", "established,founded").split(",")
MONTHS = [int(each) for each in os.environ.get("BENCH_MONTHS", "6,9,18").split(",")]
SEEDS = range(1, int(os.environ.get("BENCH_SEEDS", "20")) + 1)
OPENED, CUSTOMERS = date(2024, 1, 1), 12_000
VERSION = "1"
# That of docs/your_data.md, as far as it decides what monitoring sees.
PHARMACY = {
    "crisis_delay_minutes": 1440.0,
    "windows": {"observation_days": 120, "outcome_days": 60, "eligibility_days": 60},
    "cleaning": {"max_delivery_hours": 336.0},
    "baseline": {"long_silence_days": 40},
}

# In six months no label is known by the windows of that page.
HALVED = {"observation_days": 60, "outcome_days": 30, "eligibility_days": 30}


HEADS = (
    "company",
    "months",
    "how many",
    "customers of the week",
    "days later",
    "with an alarm",
    "alarms",
    "figures",
    "alert share: mean difference",
    "deviation",
    "by chance",
)


@dataclass(frozen=True)
class Company:
    """A simulated company and what monitoring said of its latest week, `days` after the last one learned from.

    chosen, week: whom the threshold alerted of the customers it was chosen on, and of that week's.
    """

    kind: str
    months: int
    seed: int
    days: int
    figures: Sequence[Measurement]
    chosen: Alerted | None
    week: Alerted

    @property
    def drawn(self) -> tuple[float, float] | None:
        """The share alerted now less that of those the threshold was chosen on, and what chance makes of it: its
        standard deviation where both are drawn from the same customers."""
        if self.chosen is None:
            return None
        then, now = self.chosen.alerts / self.chosen.customers, self.week.alerts / self.week.customers
        return now - then, sqrt(then * (1 - then) * (1 / self.chosen.customers + 1 / self.week.customers))

    @property
    def alarms(self) -> list[Measurement]:
        return [each for each in self.figures if each.is_alarm]


def main() -> None:
    spark, found = spark_session(), []
    for kind in COMPANIES:
        for months in MONTHS:
            for seed in SEEDS:
                with KINDS[kind](spark, months, seed) as (built, policy):
                    company = _watched(built, policy, kind, months, seed)
                found.append(company)
                told = "; ".join(each.description for each in company.alarms) or "no alarm"
                print(
                    f"  {kind}, {months} months, seed {seed}, {company.week.customers:,} customers: {told}", flush=True
                )
    _report(found)


Built = tuple[StudyPanel, ChurnPolicy]


@contextmanager
def _established(spark: SparkSession, months: int, seed: int) -> Iterator[Built]:
    policy, end = load_policy(CHECKOUT / "policy.toml"), OPENED + timedelta(days=_days(months) - 1)
    never = end + timedelta(days=365)
    settings = DemoSettings(
        customers=CUSTOMERS,
        seed=seed,
        start=OPENED,
        end=end,
        crisis_start=never,
        crisis_end=never,
        campaign=None,
    )
    with demo_panel(spark, settings, policy) as built:
        yield built, policy


@contextmanager
def _founded(spark: SparkSession, months: int, seed: int) -> Iterator[Built]:
    shop = SourceFileLoader("pharmacy", str(CHECKOUT / "scripts" / "pharmacy")).load_module()
    vars(shop)["DAYS"] = _days(months)
    random = Random(seed)
    rows: list[tuple[Any, ...]] = []
    for number in range(shop.CUSTOMERS):
        for customer, at, promised, delivered, _, status, rating, rated, _ in shop.orders_of(random, f"K{number:05}"):
            times = [shop.parsed(each) if each else None for each in (at, promised, delivered, rated)]
            rows.append((f"B{len(rows):07}", customer, *times, status == "storniert", float(rating or "nan")))
    names = ("order_id", "customer_id", "ordered_at", "promised_at", "delivered_at", "reviewed_at", "is_cancelled")
    orders = pa.table(dict(zip((*names, "rating"), zip(*rows, strict=True), strict=True)))
    orders = orders.append_column("subtotal", pa.array([round(random.uniform(8, 90), 2) for _ in rows]))
    reviews = orders.filter(pc.is_valid(orders.column("reviewed_at"))).select(["order_id", "reviewed_at", "rating"])
    reviews = reviews.append_column("review_score", pc.add(pc.multiply(reviews.column("rating"), 0.4), 1.0))
    people = pa.table({"customer_id": pc.unique(orders.column("customer_id"))})
    segments = [random.choice(("Neukunde", "Stammkunde", "Dauermedikation")) for _ in range(len(people))]
    tables = (
        orders.drop_columns(["reviewed_at", "rating"]),
        reviews.drop_columns(["rating"]),
        people.append_column("segment", pa.array(segments)),
    )
    frames = [
        conformed(spark.createDataFrame(of), table)
        for of, table in zip(tables, (tables_.ORDERS, tables_.REVIEWS, tables_.CUSTOMERS), strict=True)
    ]
    policy = ChurnPolicy.model_validate(PHARMACY | ({"windows": HALVED} if months < 9 else {}))
    with panel_of(frames[0], frames[1], frames[2], policy) as built:
        yield built, policy


KINDS: Mapping[str, Callable[[SparkSession, int, int], AbstractContextManager[Built]]] = {
    "established": _established,
    "founded": _founded,
}


def _days(months: int) -> int:
    return round(months * 365.25 / 12)


def _watched(built: StudyPanel, policy: ChurnPolicy, kind: str, months: int, seed: int) -> Company:
    """As the assets do it: profiles of the training rows and of the validation fold's scores, then the latest week."""
    dates = splits.split_dates(built.panel, policy)
    train = splits.train_rows(built.panel, dates, policy).persist()
    purchases = fit_purchase_model(purchase_histories(built.silver, dates.test, policy.windows.eligibility_days))
    prior = PurchasePrior(purchases, policy.windows.outcome_days)
    current = splits.current_rows(built.panel, dates, policy)
    model = train_churn_model(
        train,
        current,
        GradientBoosting(),
        policy,
        prior=prior,
        censored=censored_rows(built.panel, dates, policy, prior),
    )
    threshold = model.threshold_value
    learned = train.toArrow()
    train.unpersist()

    def scores(rows: pa.Table) -> np.ndarray:
        return model.trees.probabilities(np.column_stack([rows.column(name) for name in model.trees.features]))

    is_validation = np.isin(learned.column("fold").to_numpy(), splits.VALIDATION_FOLDS)
    validated = learned.filter(pa.array(is_validation))
    validated = validated.append_column(drift.SCORE, pa.array(scores(validated)))
    subjects = [each.name for each in policy.catalogue.features if each.is_watched]
    until, window = max(dates.train), policy.windows.observation_days
    known = [
        *drift.profiles(learned.column, subjects, VERSION, until, policy.catalogue, window_days=window),
        *drift.profiles(validated.column, [drift.SCORE], VERSION, until, window_days=window),
    ]
    test = judged.held_out_scores(model.trees, splits.held_out_rows(built.panel, dates, policy), threshold).toPandas()
    of_test = (test[name].to_numpy(dtype=float) for name in ("churn_probability", "label"))
    latest = max(row["as_of"] for row in built.panel.select("as_of").distinct().collect())
    week = built.panel.where(built.panel["as_of"] == latest).toArrow()
    of_week = scores(week)
    is_alert = of_week >= (2.0 if threshold is None else threshold)
    panel = built.panel.where(built.panel["as_of"] == latest)
    rows = week.select(["customer_id", "as_of"])
    rows = rows.append_column("churn_probability", pa.array(of_week)).append_column("is_alert", pa.array(is_alert))
    # The labels of that week are not known yet.
    (served,), counts = watched(panel.sparkSession.createDataFrame(rows), panel, {latest: VERSION}, known, window)
    calibration = calibration_of(*of_test) or "nobody left"
    cut = model.threshold
    chosen = None if cut is None else Alerted.of(cut.alert_share, cut.current_customers)
    figures = measurements([served], counts, known, policy, {VERSION: calibration}, {VERSION: chosen})
    return Company(kind, months, seed, (latest - until).days, figures, chosen, Alerted(served.alerts, served.customers))


def _spread(drawn: Sequence[tuple[float, float]]) -> tuple[str, str, str]:
    differences, by_chance = np.array(drawn).reshape(-1, 2).T
    deviation = f"{differences.std(ddof=1):.4f}" if len(drawn) > 1 else ""
    return f"{differences.mean():+.4f}", deviation, f"{by_chance.mean():.4f}"


def _report(found: Sequence[Company]) -> None:
    lines = [
        f"# A first week after a first training, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "Established: the demo without crisis, campaign and drift, under the shipped policy. Founded: the pharmacy of",
        "docs/your_data.md under that page's policy (for six months with its windows halved, or no label were known),",
        "which has no customer before its first day. The model learns from every week whose outcome is known, and the",
        "latest week is scored, so many days after the last one that was learned from. Alarms are figures that",
        "monitoring would warn or fail of in that week. The threshold is chosen on the test week's customers: of each",
        "company's share of alerts in the latest week less theirs the mean, its standard deviation over the companies,",
        "and the one that chance gives.",
        "",
        f"| {' | '.join(HEADS)} |",
        f"|{'-|' * len(HEADS)}",
    ]
    for kind, months in dict.fromkeys((each.kind, each.months) for each in found):
        of = [each for each in found if (each.kind, each.months) == (kind, months)]
        customers = sorted(each.week.customers for each in of)
        cells = [
            kind,
            f"{months}",
            f"{len(of)}",
            f"{customers[0]:,} to {customers[-1]:,}",
            ", ".join(str(days) for days in sorted({each.days for each in of})),
            f"{sum(bool(each.alarms) for each in of)}",
            f"{sum(len(each.alarms) for each in of)}",
            f"{sum(len(each.figures) for each in of):,}",
            *_spread([each.drawn for each in of if each.drawn is not None]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    alarms = [
        f"- {each.kind}, {each.months} months, seed {each.seed}: {alarm.description}"
        for each in found
        for alarm in each.alarms
    ]
    lines += ["", *(["What they were:", "", *alarms, ""] if alarms else []), machine("xgboost-cpu", "numpy", "pysail")]
    write_result("young", lines)

"""A program of `test_add_a_feature`: panel, training, reasons, card and drift, with `share_weekend_orders` added.

Prints as JSON what they made of a company whose weekend customers leave.
"""

import json
import os
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from churn_assets.churn import catalogue, drift, models
from churn_assets.churn.contract import OFFENDERS_ALLOWED, PANEL_SCHEMA, panel_outcomes
from churn_assets.churn.evaluation import judge
from churn_assets.churn.evaluations import Evidence
from churn_assets.churn.features import as_of_calendar, customer_snapshots, feature_panel
from churn_assets.churn.labels import churn_labels
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.reasons import explained, reference
from churn_assets.churn.splits import SplitDates, current_rows, split_dates, train_rows
from churn_assets.churn.wording import Wording
from churn_assets.defs.features import panel_notes
from churn_assets.defs.panel_code import panel_code
from churn_assets.pages.model_card import CardFacts, model_card
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource

NAME = "share_weekend_orders"
POLICY = ChurnPolicy()
BEGIN, DAYS = datetime(2024, 1, 1, tzinfo=UTC), 140
# What the snapshots read of it.
SILVER = (
    "order_id string, customer_id string, ordered_at timestamp, promised_at timestamp, delivered_at timestamp, "
    "subtotal double, reviewed_at timestamp, review_score double, segment_index double"
)


def orders() -> list[dict[str, Any]]:
    """Orders as SILVER has them, of 160 customers, half of whom order on weekends above all and leave at some time."""
    chance = random.Random(5)
    rows: list[dict[str, Any]] = []
    for customer in range(160):
        is_of_weekends = customer % 2 == 0
        gone_after = chance.uniform(50, DAYS) if is_of_weekends else DAYS
        for day in range(DAYS):
            moment = BEGIN + timedelta(days=day, seconds=chance.randrange(86_400))
            is_weekend = moment.weekday() >= 5
            wish = (0.7 if is_weekend else 0.02) if is_of_weekends else 0.2
            if day < gone_after and chance.random() < wish:
                rows.append(
                    {
                        "order_id": f"o-{len(rows)}",
                        "customer_id": f"c-{customer}",
                        "ordered_at": moment,
                        "promised_at": moment + timedelta(minutes=40),
                        "delivered_at": moment + timedelta(minutes=chance.randrange(20, 80)),
                        "subtotal": float(chance.randrange(5, 50)),
                        "reviewed_at": moment + timedelta(days=1),
                        "review_score": float(chance.randrange(1, 6)),
                        "segment_index": float(customer % 3),
                    }
                )
    return rows


def main(spark: SparkSession) -> dict[str, Any]:
    silver = spark.createDataFrame([tuple(row.values()) for row in orders()], SILVER)
    calendar = as_of_calendar(silver, POLICY)
    snapshots = customer_snapshots(silver, calendar, POLICY).persist()
    labels = churn_labels(snapshots, silver, calendar, POLICY)
    panel = feature_panel(snapshots, POLICY).join(labels, ["customer_id", "as_of"]).persist()
    broken = [outcome for outcome in panel_outcomes(panel) if not (outcome.is_passed or outcome.is_warning)]
    dates = split_dates(panel, POLICY)
    train = train_rows(panel, dates, POLICY).persist()
    hyperparameters = models.GradientBoosting(max_depth=3, iterations=6, estimator="xgboost")
    rows = train.count()
    model = models.train_churn_model(train, current_rows(panel, dates, POLICY), hyperparameters, POLICY)
    week = panel.where(panel.as_of == dates.test).drop("label")
    observed = snapshots.select("customer_id", "as_of", *catalogue.TOLD_COLUMNS)
    reasons = explained(
        week.join(observed, ["customer_id", "as_of"]),
        model.trees,
        {dates.test: reference(week.toArrow(), model.trees)},
        Wording(POLICY.feature_rules, {}),
    )
    importances = model.trees.importances()
    (profile,) = drift.profiles(train.toArrow().column, [NAME], "1", max(dates.train))
    note = panel_notes(POLICY)[NAME]
    return {
        "package": catalogue.__file__,
        "values": _values(panel),
        "broken": [str(outcome) for outcome in broken],
        "schema": PANEL_SCHEMA.names,
        "ranges": OFFENDERS_ALLOWED["ranges"],
        "reads": [list(read) for read in note.reads],
        "meaning": note.meaning,
        "sets": {name: list(members) for name, members in catalogue.FEATURE_SETS.items()},
        "importance": importances[NAME],
        "reasons": [
            [row.customer_id, reason.value, reason.usual, reason.sentence]
            for row in reasons.collect()
            for reason in row.reasons
            if reason.feature == NAME
        ],
        "card": _card(importances, hyperparameters, model.threshold_value, dates),
        "drift": {"is_by_value": profile.bins.is_by_value, "rows": sum(profile.counts.values())},
        "train_rows": rows,
        "digests": [POLICY.digest, POLICY.panel_digest(panel_code())],
    }


def _values(panel: DataFrame) -> list[tuple[str, str, float]]:
    return [(row.customer_id, str(row.as_of), row[NAME]) for row in panel.collect()]


def _card(
    importances: dict[str, float], hyperparameters: models.GradientBoosting, threshold: float | None, dates: SplitDates
) -> str:
    return model_card(
        CardFacts(
            name="quickbite_churn_predictor",
            run_id="0",
            trained_at=datetime.combine(date(2024, 6, 1), datetime.min.time(), UTC),
            code_commit="0",
            features=catalogue.FEATURE_SETS[POLICY.model.feature_set],
            importances=importances,
            hyperparameters=hyperparameters,
            threshold=threshold,
            dates=dates,
            evidence=Evidence("0", POLICY.digest, {}),
            policy=POLICY,
            evaluation=judge(None, POLICY, has_threshold=True, obstacles=["it is not judged here"]),
        )
    )


if __name__ == "__main__":
    engine = {"CHURN_ENGINE": os.environ.get("CHURN_TEST_ENGINE", "sail"), "SPARK_DRIVER_MEMORY": "1g"}
    session = spark_resource(settings_from_env(engine)).spark_session
    print(json.dumps(main(session)))
    session.stop()

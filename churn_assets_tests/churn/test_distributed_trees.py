"""What a fit by the workers of a cluster asks of rows and session. That they learn is seen on one: `test_cluster`."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn import models
from churn_assets.churn.distributed_trees import OFFSET, class_weights, with_offsets
from churn_assets.churn.errors import UnavailableEstimatorError, UntrainableError
from churn_assets.churn.models import GradientBoosting, fit_churn_model, in_canonical_order
from churn_assets.churn.purchase_model import PurchaseModel
from churn_assets.churn.purchase_prior import ASKED_FEATURES, PurchasePrior, ScaledPrior
from churn_assets_tests.conftest import ENGINE

SCHEMA = "customer_id string, as_of date, total_orders double, gap_ratio double, label double, fold int"


def rows_of(spark: SparkSession, gap: float | None = 1.0) -> DataFrame:
    """2 rows of each of 300 customers; a third of them left."""
    days = (date(2025, 1, 6), date(2025, 1, 13))
    rows = [
        (f"C{number:03}", day, float(number), 0.5 if number else gap, float(number % 3 == 0), 99)
        for number in range(300)
        for day in days
    ]
    return spark.createDataFrame(rows, SCHEMA)


def test_classes_are_counted_where_the_rows_are(spark: SparkSession) -> None:
    assert class_weights(rows_of(spark), ["total_orders", "gap_ratio"]) == {0.0: 400, 1.0: 200}


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_an_unknown_feature_is_refused_as_in_this_process(spark: SparkSession, unknown: float | None) -> None:
    with pytest.raises(UntrainableError, match="gap_ratio: 2 null or NaN"):
        class_weights(rows_of(spark, unknown), ["total_orders", "gap_ratio"])


@pytest.mark.skipif(ENGINE["CHURN_ENGINE"] != "sail", reason="local Spark has a driver of its own")
def test_without_sparks_own_driver_it_is_said_what_to_set(spark: SparkSession) -> None:
    with pytest.raises(UnavailableEstimatorError) as refused:
        fit_churn_model(rows_of(spark), ["total_orders"], GradientBoosting(workers=2), rows=600)
    assert "only from Spark's own driver" in str(refused.value)
    assert "SPARK_MASTER instead of SPARK_REMOTE or CHURN_ENGINE=sail" in str(refused.value)
    assert "raise model.max_local_rows" in str(refused.value)


def test_rows_begin_where_they_are_with_what_the_purchase_model_says(spark: SparkSession) -> None:
    prior = PurchasePrior(PurchaseModel(r=2.0, alpha=25.0, a=0.5, b=6.0, waiting=0.05), days=30)
    rows = spark.createDataFrame(
        [("c-0", 4.0, 3.0, 90.0, 120.0), ("c-1", 1.0, 20.0, 20.0, 0.0), ("c-2", 60.0, 0.5, 300.0, 600.0)],
        ["customer_id", *ASKED_FEATURES],
    )
    known = ScaledPrior(prior, intercept=0.5, slope=2.0, unseen=0.5)
    asked = np.array([row[1:] for row in rows.collect()])
    expected = [round(value, 6) for value in prior.waiting_log_odds(asked).tolist()]
    found = with_offsets(rows, known).select("customer_id", OFFSET).collect()
    assert sorted(map(tuple, found)) == [(f"c-{number}", value) for number, value in enumerate(expected)]
    assert expected[1] == 0 < expected[2]
    assert with_offsets(rows, replace(known, unseen=0.0)).columns == rows.columns


def test_of_many_rows_this_process_sees_those_of_some_customers_whole(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(spark)
    assert models._some_of(rows, 600, 2).count() == 600
    monkeypatch.setattr(models, "SAMPLED_ROWS", 200)
    assert models._some_of(rows, 600, 1).count() == 600
    kept = [row["customer_id"] for row in models._some_of(rows, 600, 2).select("customer_id").collect()]
    assert 100 <= len(kept) <= 300
    assert all(kept.count(customer) == 2 for customer in set(kept))


def test_spark_has_a_partition_for_each_so_many_rows_where_workers_learn_together(spark: SparkSession) -> None:
    def partitions(rows: int, workers: int) -> int:
        ordered = in_canonical_order(rows_of(spark), rows, workers)
        return ordered.select(F.spark_partition_id()).distinct().count()

    assert (partitions(600, 1), partitions(200_000, 1), partitions(200_000, 4)) == (1, 2, 8)

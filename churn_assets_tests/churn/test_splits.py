"""The split is by a hash of the customer and by date: nobody on both sides, no outcome from after the test date."""

from collections import Counter
from datetime import date, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from churn_assets.churn.errors import NoLabelledSnapshotError
from churn_assets.churn.policy import Calendar, ChurnPolicy, Gate, Split, Windows
from churn_assets.churn.splits import (
    CROSSFIT_FOLDS,
    TEST_FOLDS,
    VALIDATION_FOLDS,
    SplitDates,
    backtest_dates,
    backtest_fold,
    current_rows,
    dates_of,
    fold,
    held_out_rows,
    is_validation,
    split_dates,
    train_rows,
)
from churn_assets_tests.panels import rows_of

POLICY = ChurnPolicy()
FIRST = date(2024, 3, 4)


def panel(spark: SparkSession, weeks: int, labelled_weeks: int, customers: int = 300) -> DataFrame:
    return (
        spark.range(customers)
        .select(F.concat(F.lit("c-"), "id").alias("customer_id"))
        .crossJoin(spark.range(weeks).select(F.col("id").cast("int").alias("week")))
        .select(
            "customer_id",
            F.date_add(F.lit(FIRST), F.col("week") * 7).alias("as_of"),
            F.when(F.col("week") < labelled_weeks, 1.0).alias("label"),
        )
    )


def folds(spark: SparkSession, ids: range, salt: str = "42") -> dict[str, int]:
    named = spark.range(ids.start, ids.stop).select(F.concat(F.lit("c-"), "id").alias("customer_id"))
    return {row.customer_id: row.fold for row in named.withColumn("fold", fold(F.col("customer_id"), salt)).collect()}


def test_the_shares_of_the_folds_are_the_declared_ones(spark: SparkSession) -> None:
    counted = Counter(folds(spark, range(20_000)).values())
    # A signed remainder would give folds below 0 and only 10 % in 0 to 19.
    assert set(counted) == set(range(100))
    assert sum(counted[number] for number in TEST_FOLDS) / 20_000 == pytest.approx(0.20, abs=0.01)
    assert sum(counted[number] for number in VALIDATION_FOLDS) / 20_000 == pytest.approx(0.16, abs=0.01)


def test_a_customers_fold_is_the_hash_of_salt_and_id(spark: SparkSession) -> None:
    # XXH64 with seed 42 of "42:c-0" and so on, modulo 100, computed outside Spark from the published algorithm.
    by_hand = {"c-0": 39, "c-1": 71, "c-2": 78, "12346": 9, "customer ä": 26}
    named = spark.createDataFrame([(name,) for name in by_hand], "customer_id string")
    folded = named.withColumn("fold", fold(F.col("customer_id"), "42"))
    assert {row["customer_id"]: row["fold"] for row in rows_of(folded)} == by_hand


def test_a_growing_table_moves_nobody_to_another_fold(spark: SparkSession) -> None:
    few, many = folds(spark, range(500)), folds(spark, range(-700, 3_000))
    assert {customer: many[customer] for customer in few} == few


def test_another_salt_gives_another_split(spark: SparkSession) -> None:
    one, other = folds(spark, range(2_000)), folds(spark, range(2_000), salt="43")
    both = sum(one[customer] in TEST_FOLDS and other[customer] in TEST_FOLDS for customer in one)
    assert both / 2_000 == pytest.approx(0.04, abs=0.02)


def test_shuffled_and_repartitioned_rows_give_the_same_split(spark: SparkSession) -> None:
    rows = panel(spark, weeks=7, labelled_weeks=6)
    dates = split_dates(rows, POLICY)
    for cut in (train_rows, held_out_rows, current_rows):
        straight = rows_of(cut(rows, dates, POLICY).orderBy("customer_id", "as_of"))
        shuffled = cut(rows.repartition(7, F.rand(3)), dates, POLICY).orderBy("customer_id", "as_of")
        assert straight
        assert rows_of(shuffled) == straight


def test_no_customer_is_on_both_sides_and_the_test_is_the_latest_labelled_date(spark: SparkSession) -> None:
    rows = panel(spark, weeks=9, labelled_weeks=7)
    dates = split_dates(rows, POLICY)
    train, test = rows_of(train_rows(rows, dates, POLICY)), rows_of(held_out_rows(rows, dates, POLICY))
    trained, tested = {row["customer_id"] for row in train}, {row["customer_id"] for row in test}
    assert trained & tested == set()
    assert trained | tested == {f"c-{number}" for number in range(300)}
    assert {row["as_of"] for row in test} == {FIRST + timedelta(weeks=6)} == {dates.test}
    assert {row["fold"] for row in train} <= set(range(20, 100))
    assert {row["fold"] for row in test} <= set(TEST_FOLDS)
    assert all(row["label"] is not None for row in (*train, *test))


def test_every_training_outcome_was_known_by_the_test_date(spark: SparkSession) -> None:
    rows = panel(spark, weeks=9, labelled_weeks=7)
    dates = split_dates(rows, POLICY)
    # 30 days before week 6 lies between weeks 1 and 2.
    assert dates.train == (FIRST, FIRST + timedelta(weeks=1))
    assert dates.is_out_of_time
    assert {row["as_of"] for row in rows_of(train_rows(rows, dates, POLICY))} == set(dates.train)
    exact = split_dates(rows, ChurnPolicy(windows=Windows(outcome_days=28)))
    assert exact.train == tuple(FIRST + timedelta(weeks=week) for week in range(3))


@pytest.mark.parametrize("labelled_weeks", [1, 5])
def test_without_an_earlier_known_outcome_the_hash_alone_splits_and_says_so(
    spark: SparkSession, labelled_weeks: int
) -> None:
    rows = panel(spark, weeks=labelled_weeks, labelled_weeks=labelled_weeks)
    dates = split_dates(rows, POLICY)
    assert not dates.is_out_of_time
    assert dates.train == (dates.test,) == (FIRST + timedelta(weeks=labelled_weeks - 1),)
    train, test = rows_of(train_rows(rows, dates, POLICY)), rows_of(held_out_rows(rows, dates, POLICY))
    assert len(train) + len(test) == 300
    assert {row["customer_id"] for row in train} & {row["customer_id"] for row in test} == set()


def test_of_daily_snapshots_one_a_week_trains_and_tests() -> None:
    days = [FIRST + timedelta(days=number) for number in range(60)]
    dates = dates_of(days, ChurnPolicy(calendar=Calendar(snapshots="daily", weekday="wednesday")))
    assert dates.test == days[-2]
    assert dates.test.weekday() == 2
    assert dates.train == tuple(FIRST + timedelta(days=2 + 7 * week) for week in range(4))
    assert dates_of(days, POLICY).test == days[-1]


def test_without_any_known_label_there_is_no_split_and_the_error_says_what_to_do(spark: SparkSession) -> None:
    with pytest.raises(
        NoLabelledSnapshotError, match=r"30 days after its as-of date[\s\S]*Next step: provide more orders"
    ):
        split_dates(panel(spark, weeks=3, labelled_weeks=0), POLICY)


def test_the_current_rows_are_the_test_date_without_labels_and_without_test_customers(spark: SparkSession) -> None:
    rows = panel(spark, weeks=7, labelled_weeks=6)
    dates = split_dates(rows, POLICY)
    current = rows_of(current_rows(rows, dates, POLICY))
    tested = {row["customer_id"] for row in rows_of(held_out_rows(rows, dates, POLICY))}
    assert {row["customer_id"] for row in current} == {f"c-{number}" for number in range(300)} - tested
    assert {row["as_of"] for row in current} == {dates.test}
    assert {row["label"] for row in current} == {None}


def test_the_validation_rows_are_training_rows_of_the_declared_folds(spark: SparkSession) -> None:
    rows = panel(spark, weeks=7, labelled_weeks=6)
    policy = ChurnPolicy(split=Split(salt="another"))
    train = train_rows(rows, split_dates(rows, policy), policy)
    validation, others = rows_of(train.where(is_validation())), rows_of(train.where(~is_validation()))
    assert {row["fold"] for row in validation} <= set(VALIDATION_FOLDS)
    assert {row["fold"] for row in others} <= set(range(VALIDATION_FOLDS.stop, 100))
    assert validation
    assert others


# ---- rotations: the splits of cross-fitting


def test_cross_fitting_turns_every_fold_by_a_fifth_and_its_fold_0_by_none(spark: SparkSession) -> None:
    named = spark.range(500).select(F.concat(F.lit("c-"), "id").alias("customer_id"))
    turned = [
        fold(F.col("customer_id"), "42", crossfit_fold).alias(f"turned_{crossfit_fold}")
        for crossfit_fold in CROSSFIT_FOLDS
    ]
    rows = rows_of(named.select(fold(F.col("customer_id"), "42").alias("plain"), *turned))
    assert len(CROSSFIT_FOLDS) == 5
    for row in rows:
        assert [row[f"turned_{crossfit_fold}"] for crossfit_fold in CROSSFIT_FOLDS] == [
            (row["plain"] - 20 * crossfit_fold) % 100 for crossfit_fold in range(5)
        ]


def test_over_all_rotations_each_customer_is_judged_exactly_once_and_learned_from_in_the_others(
    spark: SparkSession,
) -> None:
    rows = panel(spark, weeks=7, labelled_weeks=6)
    dates = split_dates(rows, POLICY)
    everybody = {f"c-{number}" for number in range(300)}
    judged: Counter[str] = Counter()
    for crossfit_fold in CROSSFIT_FOLDS:
        tested = [row["customer_id"] for row in rows_of(held_out_rows(rows, dates, POLICY, crossfit_fold))]
        trained = {row["customer_id"] for row in rows_of(train_rows(rows, dates, POLICY, crossfit_fold))}
        current = [row["customer_id"] for row in rows_of(current_rows(rows, dates, POLICY, crossfit_fold))]
        assert trained == everybody - set(tested) == set(current)
        judged.update(tested)
    assert judged == dict.fromkeys(everybody, 1)


def test_rotation_0_is_the_split_of_the_registered_model(spark: SparkSession) -> None:
    rows = panel(spark, weeks=7, labelled_weeks=6)
    dates = split_dates(rows, POLICY)
    for cut in (train_rows, held_out_rows, current_rows):
        turned = rows_of(cut(rows, dates, POLICY, 0).orderBy("customer_id", "as_of"))
        assert turned == rows_of(cut(rows, dates, POLICY).orderBy("customer_id", "as_of"))
        assert turned != rows_of(cut(rows, dates, POLICY, 1).orderBy("customer_id", "as_of"))


# ---- the dates of a backtest


def mondays(number: int) -> list[date]:
    return [FIRST + timedelta(weeks=week) for week in range(number)]


def weeks_of(dates: list[SplitDates]) -> list[int]:
    return [(each.test - FIRST).days // 7 for each in dates]


def backtest(dates: int) -> ChurnPolicy:
    return ChurnPolicy(gate=Gate(backtest_dates=dates, min_backtest_dates=2))


@pytest.mark.parametrize(
    ("labelled", "wanted", "weeks"),
    [
        # The first five weeks have no outcome behind them that was known by then.
        (14, 5, [13, 11, 9, 7, 5]),
        (12, 5, [11, 10, 9, 8, 7]),
        (8, 5, [7, 6, 5]),
        (6, 5, [5]),
        (5, 5, []),
        (0, 5, []),
        # No further apart than the outcome window of 30 days is long.
        (60, 5, [59, 54, 49, 44, 39]),
        (60, 2, [59, 54]),
        (14, 9, [13, 12, 11, 10, 9, 8, 7, 6, 5]),
    ],
)
def test_a_backtest_judges_at_the_latest_dates_an_outcome_window_apart_where_there_are_enough(
    labelled: int, wanted: int, weeks: list[int]
) -> None:
    policy = backtest(wanted)
    found = backtest_dates(mondays(labelled), policy)
    assert weeks_of(found) == weeks
    # Just as a model that had been made then, and the latest as the model that is made now.
    assert found == [dates_of(mondays(week + 1), policy) for week in weeks]
    assert not found or found[0] == dates_of(mondays(labelled), policy)


def test_at_every_date_of_a_backtest_all_that_is_learned_from_was_known_by_then() -> None:
    for each in backtest_dates(mondays(30), backtest(8)):
        assert each.is_out_of_time
        assert each.train == tuple(day for day in mondays(30) if day + timedelta(days=30) <= each.test)


def test_of_daily_snapshots_a_backtest_judges_one_a_week() -> None:
    days = [FIRST + timedelta(days=number) for number in range(7 * 14)]
    policy = ChurnPolicy(calendar=Calendar(snapshots="daily", weekday="monday"))
    assert weeks_of(backtest_dates(days, policy)) == [13, 11, 9, 7, 5]
    assert [each.train for each in backtest_dates(days, policy)] == [
        each.train for each in backtest_dates(mondays(14), POLICY)
    ]


def test_each_date_of_a_backtest_judges_other_customers_until_all_have_been() -> None:
    assert [backtest_fold(place) for place in range(7)] == [0, 1, 2, 3, 4, 0, 1]

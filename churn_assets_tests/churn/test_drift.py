"""Drift is named where it was planted and nowhere else; without any, chance alone raises next to no alarm."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.stats import chi2

from churn_assets.churn.catalogue import CATALOGUE, FEATURES
from churn_assets.churn.drift import (
    MISSING,
    SCORE,
    STRIDE,
    UNSEEN,
    Bins,
    Profile,
    allowed_stability,
    binned,
    chance_stability,
    chi_squared_quantile,
    compared,
    counted,
    population_stability,
    profiles,
)
from churn_assets.churn.monitoring import Measurement, Metric, ServedWeek, Status, measurements
from churn_assets.churn.monitoring import watched as in_bins
from churn_assets.churn.policy import ChurnPolicy

POLICY = ChurnPolicy()
NAMES = [feature.name for feature in FEATURES]
FIRST = date(2025, 1, 6)
TRAINED, SERVED = 400, 300
# So few that chance alone goes beyond the policy's 0.10: only its being allowed for keeps the monitoring quiet.
FEW_TRAINED, FEW_SERVED = 200, 150
TRAIN_DATES = [FIRST + timedelta(weeks=week) for week in range(6)]
SERVED_DATES = [FIRST + timedelta(weeks=week) for week in range(10, 14)]


def customers(random: np.random.Generator, number: int, prefix: str, dates: Sequence[date]) -> pd.DataFrame:
    """A panel whose population never moves: every customer at every date, with habits that stay their own."""
    rate, bad_luck = random.lognormal(1.0, 0.6, number), random.beta(1, 9, number)
    segment = random.choice([0.0, 1.0, 2.0, 3.0, 4.0], number, p=[0.46, 0.22, 0.17, 0.1, 0.05])
    tenure = random.uniform(30, 900, number)
    weeks = []
    for as_of in dates:
        orders = 1.0 + random.poisson(rate)
        late = random.binomial(orders.astype(int), bad_luck)
        recency = np.minimum(random.exponential(8 / rate), 30.0)
        delay = np.where(late > 0, random.exponential(30, number), 0.0)
        is_rated = random.random(number) < 0.6
        week = {
            "customer_id": [f"{prefix}-{place}" for place in range(number)],
            "as_of": as_of,
            "total_orders": orders,
            "avg_star_rating": np.where(is_rated, np.clip(np.round(random.normal(4, 0.8, number) * 2) / 2, 1, 5), 3.9),
            "late_order_ratio": late / orders,
            "segment_index": segment,
            "crisis_exposure_index": (delay > 45).astype(float),
            "sentiment_velocity": np.where(is_rated, -random.integers(0, 5, number), 0).astype(float),
            "rfm_score": random.integers(1, 6, (number, 3)) @ np.array([100.0, 10.0, 1.0]),
            "recency_days": recency,
            "tenure_days": tenure,
            "gap_ratio": recency * rate / random.uniform(5, 9, number),
            "missed_orders": recency * rate / 10,
            "recent_delay_minutes": delay,
            "orders_ever": np.ceil(tenure / 60 * orders),
            "delay_minutes_at_last_order": delay,
            SCORE: 1 / (1 + np.exp(2.5 + 0.2 * orders - recency / 10 - delay / 60)),
        }
        weeks.append(pd.DataFrame(week))
    return pd.concat(weeks, ignore_index=True)


def watched(spark: SparkSession, trained: pd.DataFrame, served: pd.DataFrame) -> list[Measurement]:
    """What the monitoring finds when version 1 was trained on the one and scored the other."""
    known = profiles(pa.Table.from_pandas(trained).column, [*NAMES, SCORE], "1", TRAIN_DATES[-1])
    panel = spark.createDataFrame(served)
    scores = panel.select(
        "customer_id",
        "as_of",
        F.col(SCORE).alias("churn_probability"),
        (F.col(SCORE) > 0.5).alias("is_alert"),
    )
    panel = panel.drop(SCORE).withColumn("label", F.lit(None).cast("double"))
    weeks, counts = in_bins(scores, panel, dict.fromkeys(served["as_of"], "1"), known)
    return measurements(weeks, counts, known, POLICY, {}, {})


def drifted(found: Sequence[Measurement]) -> list[tuple[str, date]]:
    return [
        (each.subject, each.as_of)
        for each in found
        if each.metric is Metric.PSI and each.status in (Status.WARN, Status.FAIL)
    ]


@pytest.fixture(scope="module")
def panels() -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(1)
    return customers(random, TRAINED, "trained", TRAIN_DATES), customers(random, SERVED, "served", SERVED_DATES)


# --- alarms ---


@pytest.mark.parametrize("feature", ["total_orders", "late_order_ratio", "segment_index", "recency_days"])
def test_planted_drift_is_named_with_its_feature_and_date_and_nothing_else_is(
    spark: SparkSession, panels: tuple[pd.DataFrame, pd.DataFrame], feature: str
) -> None:
    trained, served = panels
    drift_date = SERVED_DATES[2]
    is_drifted = served["as_of"] == drift_date
    moved = served[feature].where(~is_drifted, served[feature] * 2 + 0.5 if feature != "segment_index" else 7.0)
    found = watched(spark, trained, served.assign(**{feature: moved}))
    assert drifted(found) == [(feature, drift_date)]
    (alarm,) = [each for each in found if (each.subject, each.as_of) == (feature, drift_date)]
    assert alarm.status is Status.FAIL
    assert alarm.value is not None
    assert alarm.value > alarm.limit_fail >= alarm.limit_warn >= POLICY.monitoring.warn_psi
    unseen = {each.as_of: each.status for each in found if each.metric is Metric.UNSEEN_SEGMENT_SHARE}
    assert [day for day, status in unseen.items() if status is not Status.OK] == (
        [drift_date] if feature == "segment_index" else []
    )


def test_without_drift_twenty_panels_raise_at_most_one_alarm_between_them(spark: SparkSession) -> None:
    alarms, beyond_policy, seen = [], 0, 0
    for seed in range(20):
        random = np.random.default_rng(100 + seed)
        trained = customers(random, FEW_TRAINED, "trained", TRAIN_DATES)
        found = watched(spark, trained, customers(random, FEW_SERVED, "served", SERVED_DATES))
        indices = [each for each in found if each.metric is Metric.PSI]
        assert {each.subject for each in indices} == {*NAMES, SCORE}
        seen += len(indices)
        beyond_policy += sum((each.value or 0) > POLICY.monitoring.warn_psi for each in indices)
        alarms += [(seed, *alarm) for alarm in drifted(found)]
    assert seen == 20 * len(SERVED_DATES) * (len(NAMES) + 1)
    assert len(alarms) <= 1, alarms
    assert beyond_policy > 1, "the policy's limit alone would have done; the panels are too large to show chance"


def test_a_week_like_one_of_those_learned_from_is_no_alarm_and_one_beyond_them_is(
    spark: SparkSession, panels: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    trained, served = panels
    crisis, beyond = SERVED_DATES[1], SERVED_DATES[3]

    def delayed(rows: pd.DataFrame, as_of: date, share: float) -> pd.DataFrame:
        is_delayed = (rows["as_of"] == as_of) & (np.arange(len(rows)) % 10 < 10 * share)
        return rows.assign(recent_delay_minutes=rows["recent_delay_minutes"].mask(is_delayed, 600.0))

    found = watched(spark, delayed(trained, TRAIN_DATES[-1], 0.6), delayed(delayed(served, crisis, 0.6), beyond, 1.0))
    values = {each.as_of: each.value for each in found if each.subject == "recent_delay_minutes"}
    assert (values[crisis] or 0) > POLICY.monitoring.fail_psi
    assert drifted(found) == [("recent_delay_minutes", beyond)]


def test_a_feature_that_fell_below_where_it_always_stuck_is_seen(
    spark: SparkSession, panels: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    trained, served = panels
    fallen = np.where(served["as_of"] == SERVED_DATES[0], 0.0, 5.0)
    found = watched(spark, trained.assign(total_orders=5.0), served.assign(total_orders=fallen))
    assert drifted(found) == [("total_orders", SERVED_DATES[0])]


# --- the index ---


def plain_bin(value: float | None, bins: Bins) -> int:
    if value is None or math.isnan(value):
        return MISSING
    if bins.is_by_value:
        return 1 + bins.edges.index(value) if value in bins.edges else UNSEEN
    return sum(value > edge for edge in bins.edges)


def plain_psi(expected: Sequence[int], actual: Sequence[int], edges: int, people: int) -> float:
    """By the definition: expected and actual as bins of rows, the expected ones of `people` customers."""
    places = [place for place in range(-1, edges + 1) if place in expected or place in actual]
    before, now = Counter(expected), Counter(actual)
    total = 0.0
    for place in places:
        e = (before[place] / len(expected) * people + 0.5) / (people + 0.5 * len(places))
        a = (now[place] + 0.5) / (len(actual) + 0.5 * len(places))
        total += (a - e) * math.log(a / e)
    return total


def test_every_index_is_that_of_plain_python(spark: SparkSession, panels: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    trained, served = panels
    served = served.assign(late_order_ratio=served["late_order_ratio"] ** 0.5)
    is_last = trained["as_of"] == TRAIN_DATES[-1]
    trained = trained.assign(gap_ratio=trained["gap_ratio"].mask(is_last, trained["gap_ratio"] * 5))
    known = {profile.subject: profile for profile in profiles(pa.Table.from_pandas(trained).column, NAMES, "1", FIRST)}
    found = {(each.subject, each.as_of): each.value for each in watched(spark, trained, served) if each.subject}
    for name, profile in known.items():
        bins = profile.bins
        before = [plain_bin(value, bins) for value in trained[name]]
        assert Counter(before) == profile.counts
        spread = 0.0
        for _, rows in trained.groupby("as_of"):
            index = plain_psi(before, [plain_bin(value, bins) for value in rows[name]], len(bins.edges), TRAINED)
            chance = chi_squared_quantile(0.999, len(profile.counts) - 1) * (2 / TRAINED)
            spread = max(spread, index if index > chance else 0.0)
        assert profile.spread == pytest.approx(spread, abs=1e-12)
        assert (spread > 0) == (name == "gap_ratio")
        for as_of in served["as_of"].unique():
            now = [plain_bin(value, bins) for value in served.loc[served["as_of"] == as_of, name]]
            assert found[name, as_of] == pytest.approx(plain_psi(before, now, len(bins.edges), TRAINED), abs=1e-12)


def test_the_index_of_two_shares_is_the_published_formula() -> None:
    # (0.7 - 0.5) ln(0.7 / 0.5) + (0.3 - 0.5) ln(0.3 / 0.5), where half a person more on each side weighs nothing.
    many = 10**9
    found = population_stability({0: 0.5 * many, 1: 0.5 * many}, {0: 0.7 * many, 1: 0.3 * many})
    assert found == pytest.approx(0.2 * math.log(1.4) + 0.2 * math.log(5 / 3), abs=1e-6)
    assert population_stability({0: 30, 1: 70}, {0: 30, 1: 70}) == 0.0


def test_the_order_in_which_bins_were_counted_changes_no_digit() -> None:
    expected = {place: 0.1 * (place + 1) for place in range(14)}
    actual = dict.fromkeys(expected, 7)
    falling = dict(sorted(expected.items(), reverse=True))
    assert population_stability(falling, actual) == population_stability(expected, actual)
    assert chance_stability(falling, actual, 0.99) == chance_stability(expected, actual, 0.99)


def test_an_empty_bin_is_finite_and_one_empty_on_both_sides_is_none() -> None:
    found = population_stability({0: 100, 1: 0}, {0: 90, 1: 10})
    assert 0 < found < 1
    assert population_stability({0: 100, 1: 0, 2: 0}, {0: 90, 1: 10, 2: 0}) == found
    assert chance_stability({0: 100, 1: 0}, {0: 100, 1: 0}, 0.99) == 0.0


@pytest.mark.parametrize(
    ("probability", "degrees", "published"),
    [(0.95, 3, 7.815), (0.95, 9, 16.919), (0.99, 9, 21.666), (0.999, 9, 27.877), (0.999, 4, 18.467), (0.99, 1, 6.635)],
)
def test_chi_squared_quantiles_are_those_of_the_tables(probability: float, degrees: int, published: float) -> None:
    assert chi_squared_quantile(probability, degrees) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 10, 11, 40])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999, 1 - 0.001 / 13])
def test_chi_squared_quantiles_are_those_of_scipys_distribution(confidence: float, degrees: int) -> None:
    assert chi_squared_quantile(confidence, degrees) == pytest.approx(chi2.ppf(confidence, degrees), rel=1e-12)


def test_chance_allows_less_the_more_people_there_are_and_counts_customers_not_rows() -> None:
    few, many = ({0: number, 1: number} for number in (100, 10_000))
    assert chance_stability(few, few, 0.99) == pytest.approx(chi_squared_quantile(0.99, 1) * 2 / 200)
    assert chance_stability(many, many, 0.99) < chance_stability(many, few, 0.99) < chance_stability(few, few, 0.99)


def test_the_limit_lies_beyond_the_training_dates_and_beyond_chance_for_so_many_customers() -> None:
    def allowed(spread: float, limit: float, weeks: int = 1) -> float:
        # However many rows: chance goes by the customers that they are of.
        sides = compared({0: 500 * weeks, 1: 500 * weeks}, 1000, week)
        return allowed_stability(spread, chance_stability(*sides, 0.99), limit)

    week = {0: 50, 1: 50}
    chance = chance_stability({0: 500, 1: 500}, week, 0.99)
    assert 0.05 < chance < 0.1
    # The policy's limit beyond what the training dates differed by, where that is more than chance gives.
    assert allowed(spread=0.0, limit=0.1) == 0.1
    assert allowed(spread=0.3, limit=0.5) == pytest.approx(0.8)
    # What chance gives a week that lies where the furthest training date does.
    assert allowed(spread=0.0, limit=0.01) == pytest.approx(chance)
    assert allowed(spread=0.3, limit=0.01) == pytest.approx((math.sqrt(0.3) + math.sqrt(chance)) ** 2)
    # Ten weeks of the same customers tell no more than one.
    assert allowed(spread=0.0, limit=0.01, weeks=10) == pytest.approx(chance)


# --- customers of as long a history ---


def test_who_was_there_for_as_long_is_compared_with_and_weighed_as_there_are_now() -> None:
    """By hand: of 100 customers 80 were new, who ordered once, and 20 old, who ordered often; now half are old."""
    trained = {1: 72, 2: 8, STRIDE + 1: 4, STRIDE + 2: 16}
    expected, actual = compared(trained, 100, {1: 45, 2: 5, STRIDE + 1: 10, STRIDE + 2: 40})
    assert actual == {1: 55, 2: 45}
    # 1 / people = 0.5 ** 2 / 80 + 0.5 ** 2 / 20 = 1 / 64; half of them order once 9 times in 10, the others in 5.
    assert expected == pytest.approx({1: 64 * (0.45 + 0.1), 2: 64 * (0.05 + 0.4)})
    assert population_stability(expected, actual) < 1e-4
    # Nobody else is weighed, and without a band of their own the longest that there is stands for them.
    expected, actual = compared({1: 30, 2: 70}, 100, {1: 3, 2: 7})
    assert expected == pytest.approx({1: 30, 2: 70})
    assert actual == {1: 3, 2: 7}
    expected, actual = compared(trained, 100, {2 * STRIDE + 1: 2, 2 * STRIDE + 2: 8})
    assert expected == pytest.approx({1: 4, 2: 16})
    assert actual == {1: 2, 2: 8}


def grown(random: np.random.Generator, oldest: float, as_of: date) -> pd.DataFrame:
    """500 customers who order every ten days since they came, at most `oldest` days ago; 60 days are seen."""
    tenure = random.uniform(0, oldest, 500)
    return pd.DataFrame(
        {
            "customer_id": [f"c-{place}" for place in range(500)],
            "as_of": as_of,
            "tenure_days": tenure,
            "total_orders": 1.0 + random.poisson(np.minimum(tenure, 60) / 10),
        }
    )


def test_a_company_that_grows_older_does_not_drift_and_customers_who_order_more_do(spark: SparkSession) -> None:
    random = np.random.default_rng(3)
    trained = pd.concat([grown(random, 60.0 + 7 * week, day) for week, day in enumerate(TRAIN_DATES[:3])])
    (profile,) = profiles(
        pa.Table.from_pandas(trained, preserve_index=False).column, ["total_orders"], "1", FIRST, window_days=60
    )

    def is_alarm(week: pd.DataFrame, profile: Profile, window: float | None) -> bool:
        rows = spark.createDataFrame(week)
        counts = counted(binned(rows, {"total_orders": profile.bins}, window))[SERVED_DATES[0], "total_orders"]
        sides = compared(profile.counts, profile.customers, counts)
        return population_stability(*sides) > allowed_stability(profile.spread, chance_stability(*sides, 0.999), 0.1)

    later = grown(random, 270.0, SERVED_DATES[0])
    assert not is_alarm(later, profile, 60)
    assert is_alarm(later.assign(total_orders=later["total_orders"] * 2), profile, 60)
    (unaware,) = profiles(pa.Table.from_pandas(trained, preserve_index=False).column, ["total_orders"], "1", FIRST)
    assert is_alarm(later, unaware, None)


# --- the bins ---


def bins_of(name: str, values: Sequence[float | None]) -> Profile:
    rows = {"customer_id": [f"c-{place}" for place in range(len(values))], "as_of": [FIRST] * len(values)}
    (profile,) = profiles(pa.table({**rows, name: pa.array(values, pa.float64())}).column, [name], "1", FIRST)
    return profile


def test_ties_are_one_bin_and_the_others_hold_about_a_tenth() -> None:
    profile = bins_of("recent_delay_minutes", [0.0] * 500 + [float(place) for place in range(1, 501)])
    assert profile.bins.edges[1] == 0.0
    assert profile.counts[1] == 500
    assert all(95 <= count <= 105 for place, count in profile.counts.items() if place > 1)
    assert profile.customers == 1000


def test_named_numbers_are_binned_by_value_and_no_value_is_a_bin_of_its_own(spark: SparkSession) -> None:
    assert CATALOGUE.of["segment_index"].is_by_value
    profile = bins_of("segment_index", [0.0, 0.0, 3.0, -1.0, None, float("nan")])
    assert profile.bins == Bins(True, (-1.0, 0.0, 3.0))
    assert profile.counts == {1: 1, 2: 2, 3: 1, MISSING: 2}
    now = spark.createDataFrame([(FIRST, 1.0), (FIRST, 3.0), (FIRST, None)], "as_of date, segment_index double")
    assert counted(binned(now, {"segment_index": profile.bins})) == {
        (FIRST, "segment_index"): {UNSEEN: 1, 3: 1, MISSING: 1}
    }


def test_a_profile_survives_being_written() -> None:
    profile = bins_of("segment_index", [0.0, 1.0, None])
    assert Profile.of({**profile.row(), "counts": list(profile.row()["counts"])}) == profile


def test_a_cut_is_the_smallest_value_that_a_tenth_of_the_rows_do_not_exceed_in_any_order() -> None:
    random = np.random.default_rng(5)
    # 35 and 70 are where 0.2 * 35 and 0.7 * 70 as floats are not whole.
    for rows in (1, 9, 10, 11, 35, 70, 999):
        values = np.round(random.normal(0, 3, rows), 1) + 0.0
        profile = bins_of("recency_days", [*values, None, math.nan])
        exact = {sorted(values)[-(-number * rows // 10) - 1] for number in range(1, 10)}
        assert {edge for edge in profile.bins.edges if edge >= min(values)} == exact
        assert bins_of("recency_days", [math.nan, *random.permutation(values), None]) == profile
    assert bins_of("recency_days", [None, math.nan]).bins == Bins(False, ())
    # Of zeros that differ in their sign alone it is not the order that says which is told.
    for name in ("recency_days", "segment_index"):
        assert {math.copysign(1, bins_of(name, zeros).bins.edges[-1]) for zeros in ([0.0, -0.0], [-0.0, 0.0])} == {1.0}


def test_rows_and_arrays_are_binned_alike(spark: SparkSession) -> None:
    values = [-math.inf, -1.0, -0.0, 0.0, 0.5, 1.0, math.nextafter(1.0, 2.0), math.inf, math.nan, None]
    rows = spark.createDataFrame([(value,) for value in values], "value double")
    for bins in (Bins(False, (-1.0, 0.0, 1.0)), Bins(True, (-1.0, 0.0, 1.0)), Bins(False, ())):
        expected = Counter(plain_bin(value, bins) for value in values)
        assert Counter(row.bin for row in rows.select(bins.bin_of(F.col("value")).alias("bin")).collect()) == expected
        assert Counter(bins.bins_of(np.array(values, dtype=np.float64)).tolist()) == expected


def test_a_date_is_binned_by_the_version_that_scored_it(spark: SparkSession) -> None:
    days = [FIRST, FIRST + timedelta(weeks=1)]
    known = []
    for version, scale in (("1", 1.0), ("2", 100.0)):
        rows = {"customer_id": [f"c-{place}" for place in range(10)], "as_of": [FIRST] * 10}
        values = {
            "total_orders": [scale * place for place in range(10)],
            "score": [scale * i / 1000 for i in range(10)],
        }
        known += profiles(pa.table({**rows, **values}).column, ["total_orders", SCORE], version, FIRST)
    panel: DataFrame = spark.createDataFrame(
        [
            ("a", days[0], 50.0, 1.0),
            ("a", days[1], 50.0, None),
            ("b", days[0], 1e9, 0.0),
            ("a", SERVED_DATES[0], 5.0, 1.0),
        ],
        "customer_id string, as_of date, total_orders double, label double",
    )
    scores = spark.createDataFrame(
        [("a", days[0], 0.05, True), ("a", days[1], 0.05, False), ("gone", days[1], 0.05, True)],
        "customer_id string, as_of date, churn_probability double, is_alert boolean",
    )
    weeks, found = in_bins(scores, panel, {days[1]: "2", days[0]: "1"}, known)
    last = len(known[0].bins.edges)
    assert found[days[0], "total_orders"] == {last: 2}
    assert set(found[days[1], "total_orders"]) < set(range(last))
    assert set(found[days[0], SCORE]) == {last}
    assert {day for day, _ in found} == set(days)
    assert weeks == [
        ServedWeek(days[0], "1", customers=1, alerts=1, labelled=1, churners=1, labelled_alerts=1, caught=1),
        ServedWeek(days[1], "2", customers=2, alerts=1, labelled=0, churners=0, labelled_alerts=0, caught=0),
    ]
    assert in_bins(scores, panel, {}, known) == ([], {})

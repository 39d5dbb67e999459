"""The demo's rows are reproducible, its story is the one told, and its truth is calibrated."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from churn_assets.demo import simulator
from churn_assets.demo.simulator import DemoSettings, calibrate, simulate

FAULTS = (
    "null_keys",
    "duplicate_orders",
    "deliveries_before_orders",
    "out_of_range_scores",
    "unknown_segments",
    "late_arrivals",
)
CLEAN: dict[str, object] = {**dict.fromkeys(FAULTS, 0.0), "campaign": None}
TABLES = ("orders", "reviews", "customers", "true_churn_probability")
Frames = dict[str, pd.DataFrame]


def frames(spark: SparkSession, *, partitions: int | None = None, **knobs: object) -> Frames:
    """The demo's tables in pandas, rows sorted by all columns."""
    demo = simulate(spark, DemoSettings(**(CLEAN | knobs)), partitions=partitions)
    tables = {name: getattr(demo, name).toPandas() for name in TABLES}
    return {name: table.sort_values(list(table), ignore_index=True) for name, table in tables.items()}


def assert_same(left: Frames, right: Frames, tables: tuple[str, ...] = TABLES) -> None:
    for name in tables:
        pd.testing.assert_frame_equal(left[name], right[name], obj=name)


@pytest.fixture(scope="module")
def demo(spark: SparkSession) -> Frames:
    return frames(spark, customers=1500)


@pytest.fixture(scope="module")
def small(spark: SparkSession) -> Frames:
    return frames(spark, customers=400, partitions=2)


def kept(orders: pd.DataFrame) -> pd.DataFrame:
    return orders[~orders.is_cancelled].assign(day=lambda rows: rows.ordered_at.dt.floor("D"))


def minutes_late(orders: pd.DataFrame) -> pd.Series:
    return (orders.delivered_at - orders.promised_at).dt.total_seconds() / 60


def in_crisis(orders: pd.DataFrame) -> pd.Series:
    return orders.ordered_at.between("2025-10-01", "2025-10-31", inclusive="left")


# --- reproducibility ---


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_the_rows_do_not_depend_on_the_partitioning(spark: SparkSession, small: Frames, partitions: int) -> None:
    assert_same(small, frames(spark, customers=400, partitions=partitions))


def test_a_customers_rows_do_not_depend_on_how_many_others_there_are(demo: Frames, small: Frames) -> None:
    first_customers = {
        name: table[table.customer_id <= "C0000400"].reset_index(drop=True)
        for name, table in demo.items()
        if name != "reviews"
    }
    assert_same(small, first_customers, tuple(first_customers))


def test_another_seed_gives_other_customers(spark: SparkSession, small: Frames) -> None:
    other = frames(spark, customers=400, seed=43)
    both = small["orders"].merge(other["orders"], on=["customer_id", "ordered_at"])
    assert len(both) < 0.01 * len(small["orders"])


def test_a_later_end_keeps_the_earlier_rows(spark: SparkSession) -> None:
    # The shorter demo ends within the crisis, when an order may still be under way at midnight.
    knobs: dict[str, Any] = {"customers": 400, "late_arrivals": 0.2, "duplicate_orders": 0.02}
    until, later = date(2025, 10, 19), date(2025, 11, 10)
    short, long = frames(spark, end=until, **knobs), frames(spark, end=later, **knobs)
    midnight = pd.Timestamp(until + timedelta(days=1))

    arrived = long["orders"][long["orders"].ordered_at < midnight]
    seen = arrived.merge(short["orders"][["order_id", "ordered_at"]])
    seen.loc[seen.delivered_at >= midnight, "delivered_at"] = pd.NaT
    pd.testing.assert_frame_equal(seen, short["orders"])
    late_rows = len(arrived) - len(seen)
    assert 0 < late_rows < 0.1 * len(arrived)

    assert_same(
        short,
        {
            "reviews": long["reviews"][long["reviews"].reviewed_at < midnight].reset_index(drop=True),
            "true_churn_probability": long["true_churn_probability"]
            .loc[lambda rows: pd.to_datetime(rows.as_of) <= midnight]
            .reset_index(drop=True),
            "customers": long["customers"].merge(short["customers"]),
        },
        ("reviews", "true_churn_probability", "customers"),
    )


def test_each_number_has_the_philox_stream_of_its_own_key_whatever_was_drawn_before() -> None:
    last = 2**64 - 1
    for number, stream in zip((3, last, 3), simulator.streams(last, (3, last, 3)), strict=True):
        own = np.random.Generator(np.random.Philox(key=np.array([last, number], dtype=np.uint64)))
        # Of 32 bits the generator keeps the other half, of the draws of one call the rest of its four numbers.
        for drawn in (stream, own):
            drawn.integers(2**32, dtype=np.uint32)
        assert stream.random(6).tolist() == own.random(6).tolist()


def test_orders_under_way_when_the_data_ends_have_no_delivery_yet(spark: SparkSession) -> None:
    orders = frames(spark, customers=3000, end=date(2025, 10, 19))["orders"]
    without = orders[orders.delivered_at.isna() & ~orders.is_cancelled]
    assert len(without) > 0
    assert (without.ordered_at >= "2025-10-19 21:00").all()
    assert (orders.delivered_at.dropna() < "2025-10-20").all()


# --- the story ---


def test_there_are_about_as_many_orders_and_customers_as_asked_for(demo: Frames) -> None:
    per_customer = len(demo["orders"]) / 1500
    assert per_customer == pytest.approx(200_000 / 12_000, rel=0.1)
    assert len(demo["customers"]) == demo["customers"].customer_id.nunique() == 1500
    assert demo["orders"].order_id.is_unique
    assert demo["orders"].ordered_at.min() >= pd.Timestamp("2025-07-01")
    assert demo["orders"].ordered_at.max() < pd.Timestamp("2026-01-01")


def test_a_quarter_of_the_customers_join_while_the_data_runs(spark: SparkSession, demo: Frames) -> None:
    by_october = frames(spark, customers=1500, end=date(2025, 9, 30))["customers"]
    assert 1500 - len(by_october) == pytest.approx(1500 * 0.25 / 2, rel=0.25)
    shares = demo["customers"].segment.value_counts(normalize=True)
    assert list(shares.index[:2]) == ["Regular", "Student"]
    assert shares["Regular"] == pytest.approx(0.46, abs=0.05)


def test_a_customer_orders_at_most_once_a_day(demo: Frames) -> None:
    orders = demo["orders"].assign(day=demo["orders"].ordered_at.dt.date)
    assert not orders.duplicated(["customer_id", "day"]).any()


def test_most_deliveries_run_45_to_90_minutes_late_in_the_crisis_only(demo: Frames) -> None:
    orders = demo["orders"].dropna(subset=["delivered_at"])
    late = minutes_late(orders)
    crisis = in_crisis(orders)
    assert late[crisis].between(45, 90).mean() == pytest.approx(0.85, abs=0.03)
    assert late[~crisis].between(45, 90).mean() < 0.001
    assert (late[~crisis] > 0).mean() == pytest.approx(0.17, abs=0.02)
    assert (orders.delivered_at > orders.ordered_at).all()


def test_cancelled_orders_are_few_and_never_delivered(demo: Frames) -> None:
    cancelled = demo["orders"][demo["orders"].is_cancelled]
    assert len(cancelled) / len(demo["orders"]) == pytest.approx(0.03, abs=0.005)
    assert cancelled.delivered_at.isna().all()
    assert not demo["reviews"].order_id.isin(cancelled.order_id).any()


def test_reviews_follow_the_delivery_most_within_hours(demo: Frames) -> None:
    reviews = demo["reviews"].merge(demo["orders"], on="order_id", validate="one_to_one")
    assert len(reviews) == len(demo["reviews"])
    waited_hours = (reviews.reviewed_at - reviews.delivered_at).dt.total_seconds() / 3600
    assert (waited_hours > 0).all()
    assert (waited_hours < 12).mean() == pytest.approx(0.8, abs=0.03)
    assert waited_hours.max() > 72
    assert reviews.reviewed_at.max() < pd.Timestamp("2026-01-01")
    assert len(reviews) / demo["orders"].delivered_at.notna().sum() == pytest.approx(0.45, abs=0.02)


def test_scores_are_half_stars_that_fall_with_lateness(demo: Frames) -> None:
    reviews = demo["reviews"].merge(demo["orders"], on="order_id")
    assert reviews.review_score.between(1, 5).all()
    assert (2 * reviews.review_score % 1 == 0).all()
    by_lateness = reviews.groupby(
        pd.cut(minutes_late(reviews), [-60, 0, 30, 60, 120]), observed=True
    ).review_score.mean()
    assert by_lateness.is_monotonic_decreasing
    assert by_lateness.iloc[0] - by_lateness.iloc[-1] > 1.5
    assert set(reviews.sentiment_category[reviews.review_score >= 4]) == {"positive"}
    assert set(reviews.sentiment_category[reviews.review_score <= 2.5]) == {"negative"}


def test_churn_rises_through_the_crisis_and_falls_after_it(demo: Frames) -> None:
    mean = demo["true_churn_probability"].groupby("as_of").churn_probability.mean()
    assert mean[date(2025, 11, 3)] > 1.8 * mean[date(2025, 9, 29)]
    assert mean[date(2025, 12, 29)] < 0.7 * mean[date(2025, 11, 3)]


# --- the truth ---


def with_realised_labels(tables: Frames, as_of_dates: list[date]) -> pd.DataFrame:
    """Eligible customers at each date with `label`, computed from the orders table alone, and the true probability."""
    orders = kept(tables["orders"])
    snapshots = []
    for as_of in as_of_dates:
        start = pd.Timestamp(as_of)
        month = pd.Timedelta(days=30)
        eligible = orders.customer_id[(orders.day >= start - month) & (orders.day < start)].unique()
        stayed = orders.customer_id[(orders.day >= start) & (orders.day < start + month)]
        snapshots.append(pd.DataFrame({"customer_id": eligible, "as_of": as_of, "label": ~np.isin(eligible, stayed)}))
    return pd.concat(snapshots).merge(tables["true_churn_probability"], how="left", on=["customer_id", "as_of"])


def standard_errors_off(rows: pd.DataFrame) -> float:
    variance = (rows.churn_probability * (1 - rows.churn_probability)).sum()
    return float((rows.label - rows.churn_probability).sum() / np.sqrt(variance))


def test_the_true_probability_exists_for_exactly_the_eligible_customers(demo: Frames) -> None:
    mondays = sorted(demo["true_churn_probability"].as_of.unique())
    assert mondays == [date(2025, 7, 7) + timedelta(weeks=week) for week in range(26)]
    rows = with_realised_labels(demo, mondays)
    assert rows.churn_probability.between(0, 1).all()
    assert len(rows) == len(demo["true_churn_probability"])


def test_the_true_probability_is_calibrated_overall_and_at_every_level(spark: SparkSession) -> None:
    # Outcome windows that do not overlap: given the past, a customer's errors are then uncorrelated.
    dates = [date(2025, 8, 18), date(2025, 9, 22), date(2025, 10, 27), date(2025, 12, 1)]
    rows = with_realised_labels(frames(spark, customers=5000), dates)
    assert abs(standard_errors_off(rows)) < 3.5
    for by in ("as_of", pd.qcut(rows.churn_probability, 10)):
        for _, group in rows.groupby(by, observed=True):
            assert abs(standard_errors_off(group)) < 3.5


def lives(size: int, **knobs: object) -> tuple[simulator.Lives, simulator.Calendar, np.ndarray]:
    """Lives of `size` customers without Spark, with the calendar and the kept orders as (days, customers)."""
    settings = DemoSettings(**knobs)
    days = simulator.calendar(settings, (settings.end - settings.start).days + 1)
    uniforms, normals, draws = simulator.draw(settings.seed, range(1, size + 1), days.days)
    customers = simulator.customers_from(uniforms, normals, settings.signal_strength)
    served = simulator.service(draws, days.is_crisis)
    lived = simulator.live(customers, served, draws, days, calibrate(settings))
    return lived, days, lived.has_ordered & ~served.is_cancelled


def test_the_closed_form_agrees_with_playing_the_outcome_window_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # At their usual sizes cancellations and fading move the probability by less than a few thousand labels show.
    monkeypatch.setattr(simulator, "CANCELLED_SHARE", 0.3)
    monkeypatch.setattr(simulator, "DECAY", 0.8)
    paths, belief, base_hazard = 200_000, 0.8, 0.005
    by_weekday = np.linspace(0.02, 0.14, 7)
    random = np.random.default_rng(1)
    is_active = random.random(paths) < belief
    has_kept_order = np.zeros(paths, dtype=bool)
    dissatisfaction = 4.0
    for day in range(30):
        dissatisfaction *= 0.8
        is_active &= random.random(paths) >= min(base_hazard * np.exp(0.9 * dissatisfaction), 0.25)
        orders = is_active & (random.random(paths) < by_weekday[day % 7])
        has_kept_order |= orders & (random.random(paths) >= 0.3)

    exact = simulator.no_kept_order_probability(
        np.array([[belief]]), np.array([[4.0]]), by_weekday[:, None], base_hazard
    ).item()
    error = np.sqrt(exact * (1 - exact) / paths)
    assert (~has_kept_order).mean() == pytest.approx(exact, abs=3.5 * error)


def test_the_true_probability_does_not_know_who_has_left() -> None:
    settings = DemoSettings()
    days = simulator.calendar(settings, 160)
    as_of, row = days.as_of[-1], len(days.as_of) - 1
    uniforms, normals, draws = simulator.draw(settings.seed, range(1000), days.days)
    customers = simulator.customers_from(uniforms, normals, 1.0)
    served = simulator.service(draws, days.is_crisis)
    lived = simulator.live(customers, served, draws, days, calibrate(settings))

    # The same orders, but whoever was silent before the as-of date was so by chance: nobody left in that time.
    is_silent = ~np.logical_or.accumulate(lived.has_ordered[:as_of][::-1])[::-1]
    for purpose in ("leave", "order"):
        draws[purpose][:as_of][is_silent] = 1.0
    stayed = simulator.live(customers, served, draws, days, calibrate(settings))
    assert (stayed.has_ordered[:as_of] == lived.has_ordered[:as_of]).all()
    assert (lived.has_left[row] & lived.is_eligible[row] & ~stayed.has_left[row]).sum() > 30
    np.testing.assert_array_equal(stayed.churn_probability[row], lived.churn_probability[row])


def test_what_happens_after_midnight_harms_nobody_before_it() -> None:
    hour = 3600
    served = simulator.Service(
        ordered_second=np.array([[22, 22, 12]]) * hour,
        promised_second=np.array([[23, 23, 13]]) * hour,
        delivered_second=np.array([[25, 26, 14]]) * hour,
        is_bad_meal=np.array([[False, True, True]]),
        is_cancelled=np.zeros((1, 3), dtype=bool),
    )
    one_hour = 60 / 45
    np.testing.assert_allclose(served.harm, [[one_hour, one_hour, one_hour + simulator.BAD_MEAL_HARM]])


def test_no_order_count_or_silence_says_more_than_the_true_probability() -> None:
    lived, days, is_kept = lives(8000)
    row = days.as_of.tolist().index((date(2025, 12, 1) - days.start).days)
    as_of = days.as_of[row]
    eligible = lived.is_eligible[row]
    label = ~is_kept[as_of : as_of + 30].any(axis=0)
    silence = is_kept[:as_of][::-1].argmax(axis=0)
    orders = is_kept[as_of - 60 : as_of].sum(axis=0)
    error = pd.Series(np.where(eligible, label - lived.churn_probability[row], np.nan))
    for score in (silence, orders):
        fifth = pd.qcut(pd.Series(score).where(eligible), 5, duplicates="drop")
        groups = error.groupby(fifth, observed=True)
        assert (groups.mean().abs() < 3.5 * groups.std() / np.sqrt(groups.count())).all()


def test_most_churners_at_full_signal_have_left() -> None:
    lived, days, is_kept = lives(4000)
    shares = []
    for row in range(8, len(days.as_of) - 5):
        as_of = days.as_of[row]
        churned = lived.is_eligible[row] & ~is_kept[as_of : as_of + 30].any(axis=0)
        shares.append(lived.has_left[row + 4][churned].mean())
    assert np.mean(shares) == pytest.approx(0.6, abs=0.1)


def test_without_signal_the_truth_is_one_number_for_everybody(spark: SparkSession) -> None:
    tables = frames(spark, customers=300, signal_strength=0)
    p = tables["true_churn_probability"].churn_probability
    assert p.max() - p.min() < 1e-12
    assert p.mean() == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize(
    ("signal_strength", "prevalence", "tolerance"),
    [(1, 0.15, 0.15), (1, 0.10, 0.15), (1, 0.02, 0.15), (1, 0.005, 0.15), (0, 0.10, 0.1), (0, 0.02, 0.1)],
)
def test_the_prevalence_is_the_one_asked_for(signal_strength: float, prevalence: float, tolerance: float) -> None:
    lived, days, _ = lives(8000, signal_strength=signal_strength, prevalence=prevalence)
    in_panel = lived.is_eligible & (days.as_of >= 60)[:, None]
    assert lived.churn_probability[in_panel].mean() == pytest.approx(prevalence, rel=tolerance)


def test_the_calibration_does_not_depend_on_seed_size_or_end() -> None:
    other = DemoSettings(seed=7, customers=5, end=date(2026, 3, 1), null_keys=0.3, leaking_column=True)
    assert calibrate(other) == calibrate(DemoSettings())
    assert calibrate(DemoSettings(prevalence=0.1)) != calibrate(DemoSettings())


# --- planted faults ---


def null_keys(hit: Frames) -> int:
    orders = hit["orders"]
    assert not (orders.customer_id.isna() & orders.order_id.isna()).any()
    assert orders.customer_id.isna().any()
    assert orders.order_id.isna().any()
    return int((orders.customer_id.isna() | orders.order_id.isna()).sum())


def duplicate_orders(hit: Frames) -> int:
    orders = hit["orders"].sort_values("ordered_at")
    again = orders[orders.duplicated("order_id", keep="first")]
    first = orders.drop_duplicates("order_id").set_index("order_id").loc[again.order_id]
    minutes = (again.ordered_at.to_numpy() - first.ordered_at.to_numpy()) / np.timedelta64(1, "m")
    assert ((minutes >= 1) & (minutes <= 5)).all()
    rest = ["customer_id", "promised_at", "delivered_at", "subtotal", "is_cancelled"]
    pd.testing.assert_frame_equal(again.set_index("order_id")[rest], first[rest])
    return len(again)


def deliveries_before_orders(hit: Frames) -> int:
    return int((hit["orders"].delivered_at < hit["orders"].ordered_at).sum())


def out_of_range_scores(hit: Frames) -> int:
    return int((~hit["reviews"].review_score.between(1, 5)).sum())


def unknown_segments(hit: Frames) -> int:
    segments = hit["customers"].segment
    unknown = segments[~segments.isin([name for name, *_ in simulator.SEGMENTS])]
    assert set(unknown.fillna("null").str.strip()) == {"null", "", "Legacy"}
    return len(unknown)


@pytest.mark.parametrize(
    ("count", "table", "column"),
    [
        (null_keys, "orders", "order_id customer_id"),
        (duplicate_orders, "orders", ""),
        (deliveries_before_orders, "orders", "delivered_at"),
        (out_of_range_scores, "reviews", "review_score"),
        (unknown_segments, "customers", "segment"),
    ],
)
def test_a_planted_fault_appears_in_its_share_and_all_else_is_unchanged(
    spark: SparkSession, small: Frames, count: Callable[[Frames], int], table: str, column: str
) -> None:
    planted: dict[str, Any] = {count.__name__: 0.1}
    hit = frames(spark, customers=400, **planted)
    expected = 0.1 * len(small[table])
    assert count(hit) == pytest.approx(expected, abs=4 * np.sqrt(0.9 * expected))
    assert_same(small, hit, tuple(name for name in TABLES if name != table))

    untouched = [name for name in small[table] if name not in column.split()]
    before, after = (tables[table][untouched].value_counts(dropna=False) for tables in (small, hit))
    extra = after.sub(before, fill_value=0)
    assert (extra >= 0).all()
    assert extra.sum() == (count(hit) if count is duplicate_orders else 0)
    clean_rows = pd.merge(small[table], hit[table].drop_duplicates())
    assert len(clean_rows) == len(small[table]) - (0 if count is duplicate_orders else count(hit))


def test_late_rows_are_missing_at_the_end_only(spark: SparkSession, small: Frames) -> None:
    late = frames(spark, customers=400, late_arrivals=0.5)
    clean = small["orders"]
    missing = clean[~clean.order_id.isin(late["orders"].order_id)]
    pd.testing.assert_frame_equal(clean.drop(missing.index).reset_index(drop=True), late["orders"])
    assert missing.ordered_at.min() >= pd.Timestamp("2025-12-22")
    last_ten_days = clean[clean.ordered_at >= "2025-12-22"]
    # A row that takes k of 1 to 10 days is missing on the last k days: half of the rows, 5.5 of the 10 days.
    assert len(missing) / len(last_ten_days) == pytest.approx(0.5 * 0.55, abs=0.08)
    assert_same(small, late, ("reviews", "customers", "true_churn_probability"))


def test_the_leaking_column_is_the_customers_next_order(spark: SparkSession, small: Frames) -> None:
    leaking = frames(spark, customers=400, leaking_column=True)
    assert_same(small, leaking | {"orders": leaking["orders"].drop(columns="next_order_at")})
    orders = leaking["orders"].sort_values(["customer_id", "ordered_at"])
    expected = orders.groupby("customer_id").ordered_at.shift(-1)
    pd.testing.assert_series_equal(orders.next_order_at, expected, check_names=False)


CAMPAIGN = date(2025, 11, 17)


def test_a_campaign_brings_some_of_those_back_whom_it_contacts_and_touches_nobody_else(spark: SparkSession) -> None:
    knobs: dict[str, Any] = {"customers": 3_000, "campaign_effect": 0.3}
    without, with_campaign = frames(spark, **knobs), frames(spark, campaign=CAMPAIGN, **knobs)
    demo = simulate(spark, DemoSettings(**(CLEAN | knobs | {"campaign": CAMPAIGN})))
    contacts = demo.campaign_contacts.toPandas()

    truth = without["true_churn_probability"]
    at_risk = truth[(truth.as_of == CAMPAIGN) & (truth.churn_probability >= 0.25)]
    assert set(contacts.customer_id) == set(at_risk.customer_id)
    assert len(contacts) == contacts.customer_id.nunique() > 300
    assert (contacts.contacted_at.isna() == contacts.is_holdout).all()
    assert contacts.is_holdout.mean() == pytest.approx(0.2, abs=0.06)
    contacted = contacts[~contacts.is_holdout].customer_id

    for name in ("orders", "true_churn_probability"):
        mine, theirs = (table[name][~table[name].customer_id.isin(contacted)] for table in (without, with_campaign))
        pd.testing.assert_frame_equal(mine.reset_index(drop=True), theirs.reset_index(drop=True))
    first, last = pd.Timestamp(CAMPAIGN), pd.Timestamp(CAMPAIGN) + pd.Timedelta(days=30)
    mine, theirs = (orders[orders.ordered_at < first] for orders in (without["orders"], with_campaign["orders"]))
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), theirs.reset_index(drop=True))

    def stayed(tables: Frames) -> set[str]:
        orders = kept(tables["orders"])
        return set(orders[orders.ordered_at.between(first, last, inclusive="left")].customer_id)

    # Among the contacted who would have left, the share that stays is the effect, but for cancelled orders.
    leaving = set(contacted) - stayed(without)
    assert len(leaving) > 100
    assert len(leaving & stayed(with_campaign)) / len(leaving) == pytest.approx(0.3 * 0.97, abs=0.1)


def test_drift_shortens_promises_and_changes_nothing_else(spark: SparkSession, small: Frames) -> None:
    drifted = frames(spark, customers=400, drift_start=date(2025, 11, 15))
    clean = small["orders"].set_index("order_id")
    shift = clean.promised_at - drifted["orders"].set_index("order_id").promised_at
    expected = pd.Series(pd.Timedelta(0), clean.index).mask(clean.ordered_at >= "2025-11-15", pd.Timedelta(minutes=20))
    pd.testing.assert_series_equal(shift, expected, check_names=False, check_dtype=False)
    assert_same(small, drifted | {"orders": drifted["orders"].assign(promised_at=small["orders"].promised_at)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": date(2025, 6, 30)},
        {"crisis_end": date(2025, 9, 1)},
        {"prevalence": 0.9},
        {"null_keys": -0.1},
        {"customers": 0},
        {"unknown": 1},
        {"campaign": date(2025, 11, 18)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DemoSettings(**wrong)

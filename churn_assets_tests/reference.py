"""The cleaning rules and the feature panel once more, in plain Python, for tests to compare the Spark code with.

Nothing of `churn_assets` is imported and no dataframe is used: one row is one dict. The dirty rows that both sides are
fed live in `dirty_rows.py`.
"""

import math
import re
import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Any

Row = dict[str, Any]
SetAside = tuple[str, str, str, Row]

ORDER_COLUMNS = (
    "order_id",
    "customer_id",
    "ordered_at",
    "promised_at",
    "delivered_at",
    "subtotal",
    "is_cancelled",
    "updated_at",
)
REVIEW_COLUMNS = ("order_id", "reviewed_at", "review_score", "sentiment_category", "updated_at")
CUSTOMER_COLUMNS = ("customer_id", "segment", "updated_at")
KEYS = ("order_id", "customer_id")

SEED_FEATURES = (
    "total_orders",
    "avg_star_rating",
    "late_order_ratio",
    "segment_index",
    "crisis_exposure_index",
    "sentiment_velocity",
    "rfm_score",
)
EXTENDED_FEATURES = ("recency_days", "tenure_days", "gap_ratio")
PANEL_COLUMNS = (*SEED_FEATURES, *EXTENDED_FEATURES, "label")

EPOCH = datetime(1970, 1, 1)
ONE_DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)
MICROS_OF_A_DAY = ONE_DAY // INSTANT
MONDAY = 0

# Unicode's White_Space property, so that a no-break space out of a spreadsheet is blank as well. Java's `(?U)\s` is the
# same set; Python's own `\s` would add the four separators U+001C to U+001F.
WHITE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
BLANK = re.compile(f"{WHITE}*")
AROUND = re.compile(rf"\A{WHITE}+|{WHITE}+\Z")


@dataclass(frozen=True)
class Cleaned:
    """`orders`, `reviews`, `customers`: the kept rows, canonical columns only, typed, blank strings as None.

    `set_aside`: (source table, disposition, rule, row as it was read); the disposition is quarantined, cancelled,
    superseded or repaired. A repaired row is also among the kept ones, so rows in = kept + cancelled + superseded +
    quarantined. `review_states`: of the reviews kept those states, sound by themselves,
    that count at an as-of date: all where they bear `updated_at`, else the kept ones.
    """

    orders: list[Row]
    reviews: list[Row]
    customers: list[Row]
    set_aside: list[SetAside]
    review_states: list[Row]


# ---- cleaning


def clean(
    orders: Iterable[Row],
    reviews: Iterable[Row] | None = None,
    customers: Iterable[Row] | None = None,
    *,
    now: datetime,
    max_delivery_hours: float = 24,
    max_orders_per_day: int = 24,
) -> Cleaned:
    """Apply the source-table rules, each row going under the first rule it breaks. `now` is naive UTC.

    Raises ValueError for a customer whose rows differ in the segment without a time to go by.
    """
    set_aside: list[SetAside] = []
    keyed = _keyed("orders", orders, ORDER_COLUMNS, ("order_id", "customer_id"), "ordered_at", now, set_aside)
    paced = _paced([row for row, _ in keyed], max_orders_per_day)
    kept_orders, lost = _clean_orders(keyed, paced, timedelta(hours=max_delivery_hours), set_aside)
    kept_reviews, states = _clean_reviews(reviews or (), now, kept_orders, lost, set_aside)
    kept_customers = _clean_customers(customers or (), paced, set_aside)
    return Cleaned(kept_orders, kept_reviews, kept_customers, set_aside, states)


def _keyed(
    table: str,
    source: Iterable[Row],
    columns: Sequence[str],
    keys: Sequence[str],
    at: str | None,
    now: datetime | None,
    set_aside: list[SetAside],
) -> list[tuple[Row, Row]]:
    """(canonical row, row as it was read) of those with all keys and, where `at` is given, a possible time."""
    survivors = []
    for original in source:
        row = _canonical(original, columns)
        # Both ids of an order are keys: an order of nobody can be neither a feature nor a label.
        if any(row[key] is None for key in keys):
            set_aside.append((table, "quarantined", "null_key", original))
        elif at is not None and now is not None and _is_impossible(row[at], now):
            set_aside.append((table, "quarantined", "impossible_time", original))
        else:
            survivors.append((row, original))
    return survivors


def _paced(orders: Iterable[Row], most: int) -> set[str]:
    """The customers with more than `most` orders on one day; rows of one order are one order."""
    by_day: dict[tuple[str, date], set[str]] = defaultdict(set)
    for row in orders:
        by_day[row["customer_id"], row["ordered_at"].date()].add(row["order_id"])
    return {customer for (customer, _), placed in by_day.items() if len(placed) > most}


def _clean_orders(
    keyed: list[tuple[Row, Row]], paced: set[str], longest_delivery: timedelta, set_aside: list[SetAside]
) -> tuple[list[Row], dict[str, tuple[str, str]]]:
    """The kept orders, and by order_id what became of those whose reviews go with them."""

    def put_aside(disposition: str, rule: str, row: Row) -> None:
        set_aside.append(("orders", disposition, rule, row))

    lost = {}
    by_order: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for row, original in keyed:
        # A null is_cancelled is false, already when states are ranked.
        row["is_cancelled"] = bool(row["is_cancelled"])
        if row["customer_id"] in paced:
            put_aside("quarantined", "impossible_pace", original)
            lost[row["order_id"]] = ("quarantined", "impossible_pace")
        else:
            by_order[row["order_id"]].append((row, original))
    kept = []
    for order_id, rows in by_order.items():
        lost.pop(order_id, None)
        # Whose order it is, and when: the earliest by time, ties by the customer.
        placed = min((row["ordered_at"], row["customer_id"]) for row, _ in rows)
        states = []
        for row, original in rows:
            if (row["ordered_at"], row["customer_id"]) == placed:
                states.append((row, original))
            else:
                put_aside("quarantined", "duplicate_key", original)
        # Only rows with a key and a possible time compete, so a broken copy never displaces a sound one. A copy with a
        # bad value does: values are judged after the states.
        (row, original), *earlier = sorted(states, key=lambda pair: _order_preference(pair[0]))
        for _, superseded in earlier:
            put_aside("superseded", "superseded", superseded)
        if row["is_cancelled"]:
            put_aside("cancelled", "cancelled", original)
            lost[order_id] = ("cancelled", "cancelled")
        # An infinite subtotal has no decimal sum, so it goes with the ones that are no amount of money.
        elif row["subtotal"] is None or not math.isfinite(row["subtotal"]) or row["subtotal"] < 0:
            put_aside("quarantined", "negative_subtotal", original)
        else:
            # Only kept orders are repaired. A delivery at the very time of the order, or exactly 24 hours later, stays.
            if row["delivered_at"] is not None:
                if row["delivered_at"] < row["ordered_at"]:
                    put_aside("repaired", "delivery_before_order", original)
                    row["delivered_at"] = None
                elif row["delivered_at"] - row["ordered_at"] > longest_delivery:
                    put_aside("repaired", "delivery_too_late", original)
                    row["delivered_at"] = None
            kept.append(row)
    return kept, lost


def _order_preference(row: Row) -> tuple[Any, ...]:
    """The latest state first, else the most complete: known values before unknown ones."""
    return (
        _latest_first(row["updated_at"]),
        row["delivered_at"] is None,
        not row["is_cancelled"],
        *(_known_first(row[column]) for column in ("promised_at", "delivered_at", "subtotal")),
    )


def _clean_reviews(
    source: Iterable[Row],
    now: datetime,
    kept_orders: list[Row],
    lost: Mapping[str, tuple[str, str]],
    set_aside: list[SetAside],
) -> tuple[list[Row], list[Row]]:
    """The kept reviews, and all sound states of them."""

    def put_aside(disposition: str, rule: str, row: Row) -> None:
        set_aside.append(("reviews", disposition, rule, row))

    by_order: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    rows_in = list(source)
    # Without updated_at only the latest state of a review counts, whenever that was.
    is_dated = any("updated_at" in row for row in rows_in)
    for row, original in _keyed("reviews", rows_in, REVIEW_COLUMNS, ("order_id",), "reviewed_at", now, set_aside):
        by_order[row["order_id"]].append((row, original))
    ordered_at = {order["order_id"]: order["ordered_at"] for order in kept_orders}
    kept, kept_states = [], []
    for order_id, rows in by_order.items():
        states = sorted(rows, key=lambda pair: _review_preference(pair[0]))
        (row, original), *earlier = states
        for _, superseded in earlier:
            put_aside("superseded", "superseded", superseded)
        if order_id in lost:
            put_aside(*lost[order_id], original)
        elif not _is_score(row["review_score"]):
            put_aside("quarantined", "score_out_of_range", original)
        # The order of a known review is a kept one: the review of a quarantined order goes with it.
        elif order_id not in ordered_at:
            put_aside("quarantined", "unknown_order", original)
        elif row["reviewed_at"] < ordered_at[order_id]:
            put_aside("quarantined", "reviewed_before_order", original)
        else:
            kept.append(row)
            # The preferred one of several that were known from one instant on comes last.
            kept_states += [
                state
                for state, _ in states[::-1]
                if _is_score(state["review_score"]) and state["reviewed_at"] >= ordered_at[order_id]
            ]
    return kept, kept_states if is_dated else kept


def _is_score(score: float | None) -> bool:
    # Written so that NaN, which compares false with everything, is out of range.
    return score is not None and 1 <= score <= 5


def known_at(review: Row) -> datetime:
    """From when this state of a review was known."""
    written: datetime = review["reviewed_at"]
    return max(written, review["updated_at"] or written)


def _review_preference(row: Row) -> tuple[Any, ...]:
    return (
        _latest_first(known_at(row)),
        _latest_first(row["reviewed_at"]),
        *(_known_first(row[column]) for column in ("review_score", "sentiment_category", "updated_at")),
    )


def _clean_customers(source: Iterable[Row], paced: set[str], set_aside: list[SetAside]) -> list[Row]:
    by_id: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for row, original in _keyed("customers", source, CUSTOMER_COLUMNS, ("customer_id",), None, None, set_aside):
        if row["customer_id"] in paced:
            set_aside.append(("customers", "quarantined", "impossible_pace", original))
        else:
            by_id[row["customer_id"]].append((row, original))
    kept = []
    for customer, copies in by_id.items():
        segments = {row["segment"] for row, _ in copies} - {None}
        if len(segments) > 1 and not any(row["updated_at"] for row, _ in copies):
            raise ValueError(
                f"customer {customer} has the segments {sorted(segments)}, and nothing says which is later"
            )
        first, *rest = sorted(
            copies, key=lambda pair: (_latest_first(pair[0]["updated_at"]), _known_first(pair[0]["segment"]))
        )
        kept.append(first[0])
        set_aside.extend(("customers", "superseded", "superseded", original) for _, original in rest)
    return kept


def _canonical(original: Row, columns: Sequence[str]) -> Row:
    """A copy with exactly `columns`: an absent one is None, a blank string is None, a key is without blanks around it.

    Other strings stay unstripped.
    """
    row = {column: original.get(column) for column in columns}
    for column, value in row.items():
        if isinstance(value, str):
            text = AROUND.sub("", value) if column in KEYS else value
            row[column] = None if BLANK.fullmatch(text) else text
    return row


def _is_impossible(moment: datetime | None, now: datetime) -> bool:
    # 1970-01-01 00:00 and `now` themselves are possible.
    return moment is None or moment < EPOCH or moment > now


def _latest_first(moment: datetime | None) -> tuple[int, timedelta]:
    return (1, timedelta()) if moment is None else (0, EPOCH - moment)


def _known_first(value: Any) -> tuple[Any, ...]:
    # Ascending, NaN after every number, null last. Strings go by code point, which is also their UTF-8 byte order.
    if value is None:
        return (2,)
    if isinstance(value, float) and math.isnan(value):
        return (1,)
    return (0, value)


# ---- calendar and segments


@dataclass(frozen=True)
class CalendarRules:
    """The policy's `[calendar]`. closures: first and last day of each; watermark: the configured one."""

    weekday: int = MONDAY
    is_daily: bool = False
    min_day_share: float = 0.3
    min_gap_days: int = 7
    closures: tuple[tuple[date, date], ...] = ()
    holidays: tuple[date, ...] = ()
    watermark: date | None = None

    def is_closed(self, day: date) -> bool:
        return any(first <= day <= last for first, last in self.closures)


USUAL = CalendarRules()
ONE_IN_1000, ONE_IN_100_MILLION = 6.9, 18.4  # as exponents of e


def _counts(kept_orders: Iterable[Row]) -> dict[date, int]:
    """Orders by day, of every day from the first order's to the last one's."""
    counted = Counter(order["ordered_at"].date() for order in kept_orders)
    first, last = min(counted), max(counted)
    return {day: counted[day] for day in (first + number * ONE_DAY for number in range((last - first).days + 1))}


def _usual(counts: Mapping[date, int], rules: CalendarRules) -> tuple[dict[date, float | None], set[date]]:
    """What is usual on each day, None where nobody can tell, and the days that fall short of their share of it."""
    usual: dict[date, float | None] = {}
    low: set[date] = set()
    for day, orders in counts.items():
        past = [day - timedelta(weeks=weeks) for weeks in range(1, (day - min(counts)).days // 7 + 1)]
        ordinary = [
            counts[before]
            for before in past
            if before not in low and before not in rules.holidays and not rules.is_closed(before)
        ]
        is_named = rules.is_closed(day) or day in rules.holidays or day == rules.watermark
        usual[day] = None if is_named or len(ordinary) < 4 else statistics.median(ordinary[:8])
        if orders < rules.min_day_share * (usual[day] or 0):
            low.add(day)
    return usual, low


def watermark(kept_orders: Collection[Row], rules: CalendarRules = USUAL) -> date:
    """The last complete day. Raises ValueError where there is none."""
    if rules.watermark is not None:
        return rules.watermark
    counts = _counts(kept_orders)
    usual, low = _usual(counts, rules)
    for day in reversed(counts):
        # A day like those without any order says nothing; it is as complete as the day before it.
        told = next((before for before in _back(day, counts) if usual[before] != 0), None)
        if told is None:
            return day
        if told in low or rules.is_closed(told) or told in rules.holidays:
            continue
        week = [before for before in _back(told, counts)[:7] if usual[before]]
        came, expected = sum(counts[before] for before in week), sum(usual[before] or 0 for before in week)
        is_there = came >= rules.min_day_share * expected or _surprise(came, expected) <= ONE_IN_1000
        if usual[told] is None or is_there:
            return day
    raise ValueError("no day is complete")


def _back(day: date, counts: Mapping[date, int]) -> list[date]:
    """`day` and all days before it."""
    return [day - number * ONE_DAY for number in range((day - min(counts)).days + 1)]


def gaps(kept_orders: Collection[Row], rules: CalendarRules = USUAL) -> list[tuple[date, date]]:
    """The first and last days of what is missing before the watermark."""
    counts = _counts(kept_orders)
    usual, low = _usual(counts, rules)
    end = watermark(kept_orders, rules)
    found: list[tuple[date, date]] = []
    for day in sorted(low):
        if day >= end or any(first <= day <= last for first, last in found):
            continue
        last = reached = day
        while reached in counts and reached < end:
            if reached in low:
                last = reached
            elif (
                (counts[reached] and reached not in rules.holidays)
                or rules.is_closed(reached)
                or (usual[reached] is None and reached not in rules.holidays)
            ):
                break
            reached += ONE_DAY
        run = [each for each in counts if day <= each <= last and each in low]
        came, expected = sum(counts[each] for each in run), sum(usual[each] or 0 for each in run)
        if (last - day).days + 1 >= rules.min_gap_days and _surprise(came, expected) > ONE_IN_100_MILLION:
            found.append((day, last))
    return found


def _surprise(came: float, expected: float) -> float:
    return (came * math.log(came / expected) if came else 0) - (came - expected)


def interruptions(kept_orders: Collection[Row], rules: CalendarRules = USUAL) -> list[tuple[date, date]]:
    """The first and last days of gaps and closures."""
    return sorted([*gaps(kept_orders, rules), *rules.closures])


def _is_interrupted(begin: date, end: date, spans: Iterable[tuple[date, date]]) -> bool:
    """Whether a day of one of `spans` is in [begin, end)."""
    return any(
        first <= begin + number * ONE_DAY <= last for first, last in spans for number in range((end - begin).days)
    )


def as_of_dates(
    kept_orders: Collection[Row],
    observation_days: int = 60,
    eligibility_days: int = 30,
    rules: CalendarRules = USUAL,
) -> list[date]:
    """The dates with a full observation window behind them, up to one day after the watermark; none without orders.

    Every week or every day, but those in whose eligibility window something interrupts the orders.
    """
    if not kept_orders:
        return []
    # By date, not by the minute: the first day counts as complete, as the watermark's day does.
    day = min(order["ordered_at"] for order in kept_orders).date() + timedelta(days=observation_days)
    last, spans = watermark(kept_orders, rules) + ONE_DAY, interruptions(kept_orders, rules)
    found = []
    while day <= last:
        is_date = rules.is_daily or day.weekday() == rules.weekday
        if is_date and not _is_interrupted(day - timedelta(days=eligibility_days), day, spans):
            found.append(day)
        day += ONE_DAY
    return found


def segment_numbers(kept_customers: Iterable[Row], existing: Mapping[str, int] | None = None) -> dict[str, int]:
    """`existing` unchanged, then the segments not in it, most frequent first and ties by name."""
    numbers = dict(existing or {})
    frequency = Counter(row["segment"] for row in kept_customers if row["segment"] is not None)
    next_number = max(numbers.values(), default=-1) + 1
    new = [segment for segment in frequency if segment not in numbers]
    new.sort(key=lambda segment: (-frequency[segment], segment))
    return {**numbers, **{segment: next_number + place for place, segment in enumerate(new)}}


# ---- panel


def panel(
    cleaned: Cleaned,
    *,
    observation_days: int = 60,
    outcome_days: int = 30,
    eligibility_days: int = 30,
    crisis_delay_minutes: float = 45,
    segments: Mapping[str, int] | None = None,
    customers: Collection[str] | None = None,
    rules: CalendarRules = USUAL,
) -> dict[tuple[str, date], dict[str, float | None]]:
    """(customer_id, as-of date) -> PANEL_COLUMNS; the label is None until it is known.

    `segments` are the numbers given so far. `customers` restricts only what is returned: quintiles, means and medians
    are still taken over every eligible customer.
    """
    if eligibility_days > observation_days:
        # An eligible customer could then have no order to look at, and total_orders is at least 1 by contract.
        raise ValueError(
            f"eligibility_days ({eligibility_days}) must not exceed observation_days ({observation_days})."
        )
    numbers = segment_numbers(cleaned.customers, segments)
    segment_of = {row["customer_id"]: row["segment"] for row in cleaned.customers}
    histories = _histories(cleaned)
    days = as_of_dates(cleaned.orders, observation_days, eligibility_days, rules)
    known_through = watermark(cleaned.orders, rules) + ONE_DAY if days else None
    spans = interruptions(cleaned.orders, rules) if days else []

    rows: dict[tuple[str, date], dict[str, float | None]] = {}
    for day in days:
        t = datetime.combine(day, time())
        observed_from = t - timedelta(days=observation_days)
        outcome_end = t + timedelta(days=outcome_days)
        snapshot = {}
        for customer, history in histories.items():
            # [t - window, t): both ends of every window are inside at the start and outside at the end.
            if history.has_order(t - timedelta(days=eligibility_days), t):
                snapshot[customer] = _facts(history, observed_from, t, timedelta(minutes=crisis_delay_minutes))
        if not snapshot:
            continue

        recency_fifth = _fifths({c: fact.since_last_order for c, fact in snapshot.items()})
        orders_fifth = _fifths({c: fact.order_count for c, fact in snapshot.items()})
        spend_fifth = _fifths({c: fact.spend_units for c, fact in snapshot.items()})
        # Means of the snapshot's own customers only: a review by someone no longer eligible does not count.
        ratings = [fact.mean_rating for fact in snapshot.values() if fact.mean_rating is not None]
        mean_rating = _mean_of_means(ratings) if ratings else 3.0
        # The median of the customers' own medians (not of all gaps: confirmed by the UCI panel), floored only at the
        # end. Where nobody has two orders there is no gap at all, and the outcome window takes its place.
        gaps = [fact.median_gap_days for fact in snapshot.values() if fact.median_gap_days is not None]
        median_gap_days = statistics.median(gaps) if gaps else float(outcome_days)
        is_label_known = (
            known_through is not None
            and outcome_end.date() <= known_through
            and not _is_interrupted(day, outcome_end.date(), spans)
        )

        for customer, fact in snapshot.items():
            if customers is not None and customer not in customers:
                continue
            own_gap_days = median_gap_days if fact.median_gap_days is None else fact.median_gap_days
            recency_days = fact.since_last_order / ONE_DAY
            segment = segment_of.get(customer)
            score = 100 * recency_fifth[customer] + 10 * (6 - orders_fifth[customer]) + 6 - spend_fifth[customer]
            rows[customer, day] = {
                "total_orders": float(fact.order_count),
                "avg_star_rating": mean_rating if fact.mean_rating is None else fact.mean_rating,
                "late_order_ratio": fact.late_order_ratio,
                "segment_index": -1.0 if segment is None else float(numbers[segment]),
                "crisis_exposure_index": fact.crisis_exposure,
                "sentiment_velocity": fact.sentiment_velocity,
                "rfm_score": float(score),
                "recency_days": recency_days,
                "tenure_days": fact.since_first_order / ONE_DAY,
                "gap_ratio": recency_days / max(1.0, own_gap_days),
                "label": float(not histories[customer].has_order(t, outcome_end)) if is_label_known else None,
            }
    return rows


def labels(
    cleaned: Cleaned,
    *,
    definition: str,
    outcome_days: int = 30,
    observation_days: int = 60,
    eligibility_days: int = 30,
    rate_drop_share: float = 0.5,
    gap_multiple: float = 3.0,
    rules: CalendarRules = USUAL,
) -> dict[tuple[str, date], float | None]:
    """(customer_id, as-of date) -> label, by one of the churn definitions; None until it is known."""
    times: dict[str, list[datetime]] = defaultdict(list)
    for order in cleaned.orders:
        times[order["customer_id"]].append(order["ordered_at"])
    known_through, spans = watermark(cleaned.orders, rules) + ONE_DAY, interruptions(cleaned.orders, rules)
    found: dict[tuple[str, date], float | None] = {}
    for day in as_of_dates(cleaned.orders, observation_days, eligibility_days, rules):
        t = datetime.combine(day, time())
        outcome_end = t + timedelta(days=outcome_days)
        eligible = {
            customer: sorted(of_customer)
            for customer, of_customer in times.items()
            if any(t - timedelta(days=eligibility_days) <= moment < t for moment in of_customer)
        }
        gaps = {}
        for customer, moments in eligible.items():
            past = [moment for moment in moments if moment < t]
            if len(past) > 1:
                gaps[customer] = statistics.median((b - a) // INSTANT for a, b in pairwise(past)) / MICROS_OF_A_DAY
        usual_gap = statistics.median(gaps.values()) if gaps else float(outcome_days)
        for customer, moments in eligible.items():
            ordered = [moment for moment in moments if t <= moment < outcome_end]
            if definition == "inactivity":
                is_churner = not ordered
            elif definition == "rate_drop":
                before = [moment for moment in moments if t - timedelta(days=observation_days) <= moment < t]
                is_churner = len(ordered) / outcome_days < rate_drop_share * len(before) / observation_days
            else:
                silent_days = min(gap_multiple * max(1.0, gaps.get(customer, usual_gap)), outcome_days)
                is_churner = not ordered or (ordered[0] - t) / ONE_DAY >= silent_days
            is_known = outcome_end.date() <= known_through and not _is_interrupted(day, outcome_end.date(), spans)
            found[customer, day] = float(is_churner) if is_known else None
    return found


@dataclass(frozen=True)
class _History:
    order_times: list[datetime]  # ascending
    orders: list[Row]
    reviews: list[list[Row]]  # of each review its states, by the time from which they were known

    def has_order(self, start: datetime, end: datetime) -> bool:
        return bisect_left(self.order_times, start) < bisect_left(self.order_times, end)


@dataclass(frozen=True)
class _Facts:
    order_count: int
    spend_units: int
    mean_rating: float | None
    late_order_ratio: float
    crisis_exposure: float
    sentiment_velocity: float
    since_last_order: timedelta
    since_first_order: timedelta
    median_gap_days: float | None


def _histories(cleaned: Cleaned) -> dict[str, _History]:
    orders_of: dict[str, list[Row]] = defaultdict(list)
    for order in cleaned.orders:
        orders_of[order["customer_id"]].append(order)
    customer_of = {order["order_id"]: order["customer_id"] for order in cleaned.orders}
    states_of: dict[str, list[Row]] = defaultdict(list)
    for state in cleaned.review_states:
        states_of[state["order_id"]].append(state)
    reviews_of: dict[str, list[list[Row]]] = defaultdict(list)
    for order_id, states in states_of.items():
        reviews_of[customer_of[order_id]].append(sorted(states, key=known_at))
    return {
        customer: _History(
            sorted(order["ordered_at"] for order in orders),
            orders,
            reviews_of[customer],
        )
        for customer, orders in orders_of.items()
    }


def _facts(history: _History, start: datetime, t: datetime, crisis_delay: timedelta) -> _Facts:
    ordered = [order for order in history.orders if start <= order["ordered_at"] < t]
    # By its own clock: a delivery in the window counts even where its order is older than the window.
    delays = [
        order["delivered_at"] - order["promised_at"]
        for order in history.orders
        if order["promised_at"] is not None and order["delivered_at"] is not None and start <= order["delivered_at"] < t
    ]
    # The state of each review that was known last, in order of review time; those of one instant by order_id.
    known = [[state for state in states if known_at(state) < t] for states in history.reviews]
    reviews = sorted(
        (states[-1] for states in known if states), key=lambda each: (each["reviewed_at"], each["order_id"])
    )
    scores = [review["review_score"] for review in reviews if start <= review["reviewed_at"] < t]
    changes = [after - before for before, after in pairwise(scores)]
    # All history before t, not only the window; an even number of gaps takes the mean of the middle two.
    before_t = history.order_times[: bisect_left(history.order_times, t)]
    gaps = sorted(after - before for before, after in pairwise(before_t))
    return _Facts(
        order_count=len(ordered),
        spend_units=sum(_decimal_units(order["subtotal"]) for order in ordered),
        mean_rating=sum(map(_decimal_units, scores)) / 10**10 / len(scores) if scores else None,
        late_order_ratio=sum(delay > timedelta() for delay in delays) / len(delays) if delays else 0.0,
        crisis_exposure=float(any(delay > crisis_delay for delay in delays)),
        # The smallest change, even where every change is upward.
        sentiment_velocity=float(min(changes, default=0.0)),
        since_last_order=t - before_t[-1],
        since_first_order=t - before_t[0],
        # Halved last, so that no half microsecond is lost before the one rounding.
        median_gap_days=(gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / (2 * ONE_DAY) if gaps else None,
    )


def _decimal_units(value: float) -> int:
    """`value` rounded half up to ten decimals, in units of 1e-10: integers, so that any order gives the same sum."""
    return int(Decimal(repr(float(value))).scaleb(10).to_integral_value(ROUND_HALF_UP))


def _mean_of_means(means: Collection[float]) -> float:
    """The mean of `means`, each rounded half up to twelve decimals first: any order of them gives the same sum."""
    units = sum(int(Decimal(repr(mean)).scaleb(12).to_integral_value(ROUND_HALF_UP)) for mean in means)
    return units / 10**12 / len(means)


def _fifths(values: Mapping[str, Any]) -> dict[str, int]:
    """1 (smallest) to 5: how many of the four cuts lie strictly below the value, plus 1."""
    ascending = sorted(values.values())
    cuts = [ascending[(k * len(ascending) + 4) // 5 - 1] for k in (1, 2, 3, 4)]
    return {customer: 1 + sum(value > cut for cut in cuts) for customer, value in values.items()}

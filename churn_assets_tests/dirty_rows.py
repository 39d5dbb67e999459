"""Small order histories with every fault and every border case planted, for comparing two implementations.

What the right answer is does not belong here: that is `reference.py`'s business.
"""

import random
from datetime import date, datetime, time, timedelta
from typing import Any

Row = dict[str, Any]

# 60 days before a Monday: whoever counts the first full window from the first order's minute instead of its day finds
# the first as-of date a week later.
FIRST_DAY = date(2024, 1, 11)
FIRST_MONDAY = date(2024, 3, 11)
ONE_DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)
NO_BREAK_SPACE = "\u00a0"
SEGMENTS = ("Family", "Student", "Office", "Night owl")


def dirty_now(days: int = 150) -> datetime:
    """The `now` to clean `dirty_source_rows(days=days)` with: noon of the last day, and the time of the last order."""
    return datetime.combine(FIRST_DAY, time(12)) + timedelta(days=days)


def dirty_source_rows(seed: int, customers: int = 40, days: int = 150) -> tuple[list[Row], list[Row], list[Row]]:
    """(orders, reviews, customers) in canonical columns, shuffled; the same for the same arguments.

    Customers bear updated_at, orders and reviews with an odd seed.
    With 150 days the last as-of date is the day after the watermark; with 152 a label becomes known on the very last
    day. `days` below 130 is refused: the planted window borders would not fit.
    """
    if days < 130:
        raise ValueError(f"days is {days}; the planted border cases need at least 130.")
    rng = random.Random(seed)
    start, now = datetime.combine(FIRST_DAY, time()), dirty_now(days)
    orders, reviews = _random_history(rng, customers, start, now)
    people = _customers(rng, customers)
    for plant in (
        _plant_window_borders,
        _plant_monday_midnights,
        _plant_promises,
        _plant_review_order,
        _plant_ties,
        _plant_pace,
    ):
        more_orders, more_reviews = plant()
        orders += more_orders
        reviews += more_reviews
    more_orders, more_reviews = _plant_faults(now)
    orders += more_orders
    reviews += more_reviews
    if seed % 2:
        _date_the_states(rng, orders, reviews, now)
    for rows in (orders, reviews, people):
        rng.shuffle(rows)
    return orders, reviews, people


def _order(order_id: str | None, customer_id: str | None, ordered_at: datetime | None, **others: Any) -> Row:
    row = {
        "order_id": order_id,
        "customer_id": customer_id,
        "ordered_at": ordered_at,
        "promised_at": None,
        "delivered_at": None,
        "subtotal": 20.0,
        "is_cancelled": False,
    }
    return {**row, **others}


def _review(
    order_id: str | None, reviewed_at: datetime | None, score: float | None, category: str | None = None
) -> Row:
    return {
        "order_id": order_id,
        "reviewed_at": reviewed_at,
        "review_score": score,
        "sentiment_category": category,
    }


def _monday(week: int) -> datetime:
    """00:00 of an as-of date, the first being week 0."""
    return datetime.combine(FIRST_MONDAY, time()) + timedelta(weeks=week)


def _random_history(rng: random.Random, customers: int, start: datetime, now: datetime) -> tuple[list[Row], list[Row]]:
    # The first order is not at midnight, the last is at `now` itself, which is still possible.
    orders = [_order("first", "c-0", start + timedelta(hours=8, minutes=26)), _order("last", "c-0", now)]
    reviews = []
    for number in range(customers):
        joins = rng.uniform(0.1, 0.6) * rng.randrange(2) * (now - start)
        leaves = now if rng.random() < 0.5 else start + joins + rng.random() * (now - start - joins)
        mean_gap_days = rng.choice([2, 6, 15, 30])
        # Whole minutes, and few amounts: ties in time and in spend are the rule.
        moment = start + joins + timedelta(minutes=round(rng.uniform(510, 14_400)))
        place = 0
        while moment < leaves:
            order_id = f"o-{number}-{place}"
            promised = None if rng.random() < 0.15 else moment + timedelta(minutes=rng.choice([30, 40, 60]))
            took = timedelta(minutes=rng.choice([10, 25, 30, 40, 60, 75, 85, 105, 130, 400, 1440]))
            orders.append(
                _order(
                    order_id,
                    f"c-{number}",
                    moment,
                    promised_at=promised,
                    delivered_at=None if rng.random() < 0.1 else moment + took,
                    subtotal=rng.choice([0.0, 0.1, 0.2, 0.3, 9.99, 12.5, 12.5, 20.0, 33.333333]),
                    is_cancelled=rng.choices([None, False, True], weights=[20, 70, 10])[0],
                )
            )
            if rng.random() < 0.5:
                written = min(moment + timedelta(minutes=rng.choice([20, 300, 1440, 5 * 1440, 20 * 1440])), now)
                score = rng.choice([1.0, 1.0, 2.0, 3.0, 3.5, 4.0, 4.3, 5.0, 5.0])
                reviews.append(_review(order_id, written, score, rng.choice([None, "", "negative", "positive"])))
                if rng.random() < 0.15:
                    again = written + rng.choice([timedelta(), timedelta(hours=3)])
                    reviews.append(_review(order_id, min(again, now), rng.choice([1.0, 5.0]), None))
            copies = rng.choices([0, 1, 2], weights=[90, 8, 2])[0]
            for _ in range(copies):
                changed: Row = rng.choice(
                    [
                        {},
                        {"subtotal": rng.choice([0.0, 50.0, -1.0, None])},
                        {"delivered_at": None},
                        {"promised_at": None},
                        {"ordered_at": moment + timedelta(minutes=rng.choice([-5, 5]))},
                        {"customer_id": f"c-{rng.randrange(customers)}"},
                        {"is_cancelled": True},
                    ]
                )
                orders.append({**orders[-1], **changed})
            place += 1
            moment += timedelta(minutes=round(rng.expovariate(1 / (mean_gap_days * 1440))))
    return orders, reviews


def _date_the_states(rng: random.Random, orders: list[Row], reviews: list[Row], now: datetime) -> None:
    """Gives every row updated_at; it is known where rows are random, and of reviews edited later there are more."""
    for row in orders:
        is_random = row["order_id"] is not None and row["order_id"].startswith("o-")
        row["updated_at"] = now - rng.randrange(9) * ONE_DAY if is_random and rng.random() < 0.7 else None
    edited = [row for row in reviews if row["order_id"] is not None and row["order_id"].startswith("o-")]
    for row in reviews:
        row["updated_at"] = row["reviewed_at"] if rng.random() < 0.5 else None
    for row in rng.sample(edited, len(edited) // 2):
        later = row["reviewed_at"] + rng.choice([INSTANT, 3 * ONE_DAY, 12 * ONE_DAY, 40 * ONE_DAY])
        score = rng.choice([1.0, 2.5, 5.0, 5.0, None, 9.0])
        moved = rng.choice([timedelta(), timedelta(), ONE_DAY])
        reviews.append(
            {**row, "review_score": score, "reviewed_at": min(row["reviewed_at"] + moved, now), "updated_at": later}
        )


def _customers(rng: random.Random, customers: int) -> list[Row]:
    people: list[Row] = []

    def person(customer_id: str | None, segment: str | None, day: int | None = None) -> None:
        updated_at = None if day is None else datetime.combine(FIRST_DAY, time()) + day * ONE_DAY
        people.append({"customer_id": customer_id, "segment": segment, "updated_at": updated_at})

    for number in range(customers):
        if number % 9 == 8:
            continue  # orders without a row in the customers table
        person(f"c-{number}", rng.choice([*SEGMENTS, SEGMENTS[0], None, " "]))
        if rng.random() < 0.2:
            # Of one day as often as not: then the segment decides.
            person(f"c-{number}", rng.choice([*SEGMENTS, None, ""]), 3)
            person(f"c-{number}", rng.choice([*SEGMENTS, None, ""]), rng.choice([2, 3]))
    # Two segments of one customer each: only the name can number them. The third one has never ordered.
    person("edge-start", "Tie b")
    person("edge-before-start", "Tie a")
    person("never-ordered", "Only on paper")
    person("twice", None)
    person("twice", "Student")
    person("twice ", None)
    person("padded", " Student ")
    person(None, "Student")
    person("", "Student")
    person("\t ", None)
    person(NO_BREAK_SPACE, "Family")
    person("house", "Office")
    person(" house", "Office")
    return people


def _plant_window_borders() -> tuple[list[Row], list[Row]]:
    """Orders exactly at t - 60 d, t - 30 d, t and t + 30 d, and one microsecond beside each."""
    t = _monday(3)
    orders, reviews = [], []
    for name, moment in (
        ("start", t - timedelta(days=60)),
        ("before-start", t - timedelta(days=60) - INSTANT),
        ("eligible", t - timedelta(days=30)),
        ("not-eligible", t - timedelta(days=30) - INSTANT),
        ("at-t", t),
        ("before-t", t - INSTANT),
        ("outcome-end", t + timedelta(days=30)),
        ("before-outcome-end", t + timedelta(days=30) - INSTANT),
    ):
        orders.append(_order(f"edge-{name}", f"edge-{name}", moment))
        if name in ("eligible", "not-eligible"):
            continue
        # Makes the customer eligible at t, so that the order above shows in a feature or in the label.
        orders.append(_order(f"edge-{name}-recent", f"edge-{name}", t - timedelta(days=10, hours=4), subtotal=5.0))
    # Known within the window, though their orders are older than it, and the other way round.
    old = t - timedelta(days=60, minutes=50)
    orders += [
        _order("edge-own-clock", "edge-own-clock", old, promised_at=old, delivered_at=t - timedelta(days=60)),
        _order("edge-own-clock-recent", "edge-own-clock", t - timedelta(days=2)),
        _order(
            "edge-out-of-clock",
            "edge-out-of-clock",
            old,
            promised_at=old,
            delivered_at=t - timedelta(days=60) - INSTANT,
        ),
        _order("edge-out-of-clock-recent", "edge-out-of-clock", t - timedelta(days=2)),
    ]
    reviews += [
        _review("edge-own-clock", t - timedelta(days=60), 1.0),
        _review("edge-own-clock-recent", t - INSTANT, 5.0),
        _review("edge-out-of-clock", t - timedelta(days=60) - INSTANT, 1.0),
        _review("edge-out-of-clock-recent", t, 5.0),
    ]
    return orders, reviews


def _plant_monday_midnights() -> tuple[list[Row], list[Row]]:
    """Order, delivery and review at Monday 00:00 sharp, and a delivery that crosses it."""
    t = _monday(5)
    sunday = t - timedelta(minutes=20)
    promised = {"promised_at": t - timedelta(minutes=50)}
    orders = [
        _order("midnight-order", "midnight-order", t, promised_at=t, delivered_at=t + timedelta(hours=1)),
        _order("midnight-delivery", "midnight-delivery", t - timedelta(hours=1), delivered_at=t, **promised),
        _order("just-before", "just-before", t - timedelta(hours=1), delivered_at=t - INSTANT, **promised),
        _order("crosses", "crosses", sunday, promised_at=t + ONE_DAY / 48, delivered_at=t + ONE_DAY / 24),
        _order("crosses-2", "crosses", t - timedelta(days=8), promised_at=t, delivered_at=t - timedelta(days=7.5)),
        _order("on-its-way", "on-its-way", t - timedelta(hours=3), promised_at=t - timedelta(hours=2)),
        _order("midnight-review", "midnight-review", t - timedelta(days=3)),
        _order("midnight-review-2", "midnight-review", t - timedelta(days=4)),
    ]
    return orders, [_review("midnight-review", t, 1.0), _review("midnight-review-2", t - INSTANT, 4.0)]


def _plant_promises() -> tuple[list[Row], list[Row]]:
    """Deliveries around the promise, around the crisis delay and around the bounds of what a delivery may take."""
    moment = _monday(6) - timedelta(days=5, hours=7)
    promised = moment + timedelta(minutes=30)
    orders = [
        _order(f"delivered-{name}", f"delivered-{name}", moment, promised_at=promised, delivered_at=delivered)
        for name, delivered in (
            ("on-time", promised),
            ("late", promised + INSTANT),
            ("45-minutes", promised + timedelta(minutes=45)),
            ("crisis", promised + timedelta(minutes=45) + INSTANT),
            ("at-order", moment),
            ("before-order", moment - INSTANT),
            ("24-hours", moment + ONE_DAY),
            ("too-late", moment + ONE_DAY + INSTANT),
        )
    ]
    orders += [
        _order("no-promise", "no-promise", moment, delivered_at=moment + timedelta(hours=9)),
        _order("no-promise-2", "no-promise", moment, promised_at=promised, delivered_at=promised + ONE_DAY / 48),
    ]
    return orders, []


def _plant_review_order() -> tuple[list[Row], list[Row]]:
    """Two reviews of one instant, whose change depends on which comes first; only rising scores; a single score."""
    moment = _monday(4) - timedelta(days=9)
    orders = [_order(f"instant-{letter}", "one-instant", moment) for letter in "abc"]
    reviews = [
        _review("instant-c", moment + timedelta(hours=5), 2.0),
        _review("instant-b", moment + timedelta(hours=5), 5.0),
        _review("instant-a", moment + timedelta(hours=4), 3.0),
    ]
    orders += [_order(f"rising-{place}", "rising", moment + place * ONE_DAY) for place in range(3)]
    reviews += [_review(f"rising-{place}", moment + (place + 1) * ONE_DAY, 1.0 + 1.5 * place) for place in range(3)]
    orders.append(_order("single-review", "single-review", moment))
    reviews.append(_review("single-review", moment, 1.0, "negative"))
    return orders, reviews


def _plant_ties() -> tuple[list[Row], list[Row]]:
    """Spend that ties only in decimals, orders of one instant, gaps of zero and the order history before the window."""
    moment = _monday(7) - timedelta(days=12, hours=6)
    orders = []
    for customer, amounts in (("ascending", (0.1, 0.2, 0.3)), ("descending", (0.3, 0.2, 0.1)), ("whole", (0.6,))):
        orders += [
            _order(f"decimals-{customer}-{place}", f"decimals-{customer}", moment, subtotal=amount)
            for place, amount in enumerate(amounts)
        ]
    orders += [_order(f"same-minute-{place}", "same-minute", moment) for place in range(2)]
    orders += [_order(f"even-{place}", "even-gaps", moment - days * ONE_DAY) for place, days in enumerate((0, 3, 50))]
    return orders, []


def _plant_pace() -> tuple[list[Row], list[Row]]:
    """A house account with 25 orders on one day, and a customer with 24, of whom one came again."""
    moment = _monday(3) - timedelta(days=5)
    orders = [_order(f"house-{place}", "house", moment + place * timedelta(minutes=7)) for place in range(25)]
    orders += [_order(f"busy-{place}", "busy", moment + place * timedelta(minutes=7)) for place in range(24)]
    orders += [
        _order("busy-23", "busy", moment + timedelta(hours=9)),
        _order("house-0", "house", moment),
        _order("house-cancelled", "house", moment - 9 * ONE_DAY, is_cancelled=True),
        # Earlier than the order of another, which it would displace.
        _order("house-and-guest", "house", moment),
        _order("house-and-guest", "guest", moment + timedelta(hours=1)),
    ]
    return orders, [
        _review("house-1", moment + ONE_DAY, 1.0),
        _review("house-cancelled", moment + ONE_DAY, 9.0),
        _review("house-and-guest", moment + ONE_DAY, 2.0),
    ]


def _plant_faults(now: datetime) -> tuple[list[Row], list[Row]]:
    """Each rule broken alone, and rows that break two, where only the order of the rules decides."""
    moment = _monday(2) - timedelta(days=4, hours=3)
    later = moment + timedelta(hours=6)
    epoch = datetime(1970, 1, 1)
    before_epoch = epoch - INSTANT
    orders = [
        _order(None, "c-1", moment),
        _order("", "c-1", moment),
        _order(" \t", "c-1", moment),
        _order(NO_BREAK_SPACE, "c-1", moment),
        _order("no-customer", None, moment),
        _order("blank-customer", "  ", moment, subtotal=-5.0),
        _order(None, None, None, subtotal=None),
        _order("padded", " padded ", moment),
        _order(" padded", "padded", moment, subtotal=21.0),
        _order("no-time", "c-2", None),
        _order("before-1970", "c-2", before_epoch),
        _order("after-now", "c-2", now + INSTANT),
        _order("after-now-cancelled", "c-2", now + ONE_DAY, is_cancelled=True),
        # The broken copy comes first by time, but never competes.
        _order("broken-copy", "broken-copy", moment),
        _order("broken-copy", None, moment - ONE_DAY),
        _order("broken-copy", "broken-copy", before_epoch),
        # A copy with a bad value does compete, and wins by being earlier.
        _order("bad-copy-wins", "bad-copy-wins", moment, subtotal=-1.0),
        _order("bad-copy-wins", "bad-copy-wins", later, subtotal=30.0),
        _order("cancelled-copy-wins", "cancelled-copy-wins", moment, is_cancelled=True),
        _order("cancelled-copy-wins", "cancelled-copy-wins", later),
        _order("cancelled-copy-loses", "cancelled-copy-loses", moment),
        _order("cancelled-copy-loses", "cancelled-copy-loses", later, is_cancelled=True),
        # Ties in time, decided by customer, promise, delivery, subtotal and cancellation in turn; null first.
        _order("tie-customer", "tie-b", moment),
        _order("tie-customer", "tie-a", moment),
        _order("tie-promise", "tie-promise", moment, promised_at=later),
        _order("tie-promise", "tie-promise", moment, delivered_at=later),
        _order("tie-delivery", "tie-delivery", moment, delivered_at=later, subtotal=1.0),
        _order("tie-delivery", "tie-delivery", moment, subtotal=99.0),
        _order("tie-subtotal", "tie-subtotal", moment, subtotal=float("nan")),
        _order("tie-subtotal", "tie-subtotal", moment, subtotal=7.0),
        _order("tie-subtotal", "tie-subtotal", moment, subtotal=8.0),
        _order("tie-null-subtotal", "tie-null-subtotal", moment, subtotal=None),
        _order("tie-null-subtotal", "tie-null-subtotal", moment, subtotal=7.0),
        _order("tie-cancelled", "tie-cancelled", moment, is_cancelled=True),
        _order("tie-cancelled", "tie-cancelled", moment, is_cancelled=None),
        _order("tie-everything", "tie-everything", moment),
        _order("tie-everything", "tie-everything", moment),
        _order("null-subtotal", "c-3", moment, subtotal=None),
        _order("nan-subtotal", "c-3", moment, subtotal=float("nan")),
        _order("infinite-subtotal", "c-3", moment, subtotal=float("inf")),
        _order("negative-subtotal", "c-3", moment, subtotal=-0.01),
        _order("negative-zero", "c-3", moment, subtotal=-0.0),
        _order("cancelled", "only-cancels", moment, is_cancelled=True),
        _order("cancelled-negative", "only-cancels", moment, subtotal=-9.0, is_cancelled=True),
        _order("cancelled-repairable", "only-cancels", moment, delivered_at=moment - ONE_DAY, is_cancelled=True),
        _order("negative-repairable", "c-4", moment, subtotal=-9.0, delivered_at=moment - ONE_DAY),
        _order("repairable-1", "c-4", moment, promised_at=moment, delivered_at=moment - ONE_DAY),
        _order("repairable-2", "c-4", moment, promised_at=moment, delivered_at=moment + 300 * ONE_DAY),
        *(_order(f"reviewed-{place}", f"reviewed-{place}", moment) for place in range(9)),
    ]
    reviews = [
        _review(None, later, 3.0),
        _review(" ", later, 3.0),
        _review(NO_BREAK_SPACE, None, None),
        _review("reviewed-0", None, 3.0),
        _review("reviewed-0", before_epoch, 3.0),
        _review("reviewed-0", now + INSTANT, 3.0),
        _review("reviewed-0", now, 2.0),
        _review("reviewed-1", None, 1.0),
        # Possible, but before its order.
        _review("reviewed-2", epoch, 3.0),
        _review("reviewed-2", later, 5.0),
        _review("reviewed-3", moment - INSTANT, 3.0),
        _review("reviewed-4", moment, 3.0),
        _review("reviewed-5", later, None),
        _review("reviewed-5", later, 4.0),
        _review("reviewed-6", later, 4.0, "positive"),
        _review("reviewed-6", later, 4.0, ""),
        _review("reviewed-6", later, 4.0, None),
        _review("reviewed-7", later, float("nan")),
        _review("reviewed-7", later, 2.0),
        _review("reviewed-8", later, 5.0000001),
        _review("tie-everything", later, float("nan")),
        _review("tie-subtotal", later, 0.99),
        _review("tie-customer", later, 1.0),
        _review("nobody-ordered-this", later, 4.0),
        _review("nobody-ordered-this-either", later, 9.0),
        _review(" tie-everything", later, 4.0),
        _review("negative-subtotal", later, 4.0),
        _review("no-customer", later, 4.0),
        _review("before-1970", later, 4.0),
        _review("bad-copy-wins", later, 4.0),
        _review("cancelled", later, 4.0),
        _review("cancelled", later + ONE_DAY, 4.0),
        _review("cancelled-negative", moment - ONE_DAY, 9.0),
        _review("cancelled-repairable", None, 1.0),
        _review("cancelled-copy-wins", later, 1.0),
        _review("cancelled-copy-loses", later, 1.0),
        _review("after-now-cancelled", later, 1.0),
    ]
    return orders, reviews

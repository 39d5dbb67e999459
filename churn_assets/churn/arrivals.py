"""What came, against what usually comes: how fresh it is, how much, what is missing. Reads no table.

Which days are complete is decided in `calendar.py`; here is what people are told of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from churn_assets.churn.calendar import (
    BEYOND_CHANCE,
    ONE_DAY,
    Day,
    DayCount,
    DayState,
    Span,
    judged_days,
    low_runs,
    surprise,
    watermark_of,
)
from churn_assets.churn.errors import ClockError
from churn_assets.churn.outcomes import MAX_KEYS, Figure, Outcome, none_of, told_apart
from churn_assets.churn.policy import ChurnPolicy

FRESH, GAPS, AFTER, VOLUME = "orders_are_fresh", "orders_without_gaps", "orders_after_the_watermark", "usual_volume"
ARRIVAL_RULES = (FRESH, GAPS, AFTER, VOLUME)
WEEK = 7
# Clocks of machines that write one table differ by less.
CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Load:
    """What one load held: of each day, and how many rows of orders came for the kept ones."""

    counts: Mapping[date, DayCount]
    source_rows: int
    loaded_at: datetime

    def watermark(self, policy: ChurnPolicy) -> date:
        return watermark_of(judged_days(self.counts, policy), policy)


def require_true_clock(now: datetime, last_cleaned: datetime | None) -> None:
    """Raises ClockError if the clock was set back since the orders were last cleaned. Both aware."""
    if last_cleaned is not None and now < last_cleaned - CLOCK_SKEW:
        raise ClockError(
            f"The clock says {now:%F %H:%M} UTC, and the orders were cleaned before at {last_cleaned:%F %H:%M} UTC: it "
            "was set back. Orders after the present would be taken as impossible.",
            next_step="set the clock right; if it was wrong then, restore the version of the orders before that",
        )


def require_past(now: datetime, future: int, orders: int, policy: ChurnPolicy) -> None:
    """Raises ClockError if too many of the orders, `future` of them, lie after `now`.

    They would be set aside as impossible, and what is left would look like older, complete data.
    """
    if future > policy.freshness.max_future_share * orders:
        raise ClockError(
            f"{future:,} of {orders:,} orders lie after the present, {now:%F %H:%M} UTC; allowed is a share of "
            f"{policy.freshness.max_future_share:g}.",
            next_step="set the clock right, or mend ordered_at's mapping (time zone, day and month) in sources.toml; "
            "if so many are meant, raise freshness.max_future_share in policy.toml",
        )


def age_days(watermark: date, moment: datetime, policy: ChurnPolicy) -> float:
    """Days from the end of the last complete day to `moment`; those of closures and holidays do not count."""
    end = datetime.combine(watermark + ONE_DAY, time(), UTC)
    between = [watermark + number * ONE_DAY for number in range(1, (moment.date() - watermark).days)]
    closed = sum(day in policy.calendar.holidays or policy.calendar.closure_of(day) is not None for day in between)
    return max(0.0, (moment - end) / ONE_DAY - closed)


def stale_orders(watermark: date, now: datetime, policy: ChurnPolicy) -> str | None:
    """Why orders that are complete up to the watermark are too old to act on; None if they are not."""
    age = age_days(watermark, now, policy)
    if age <= policy.freshness.max_age_days:
        return None
    found, allowed = told_apart(age, policy.freshness.max_age_days, ",.1f")
    return f"the orders are complete up to {watermark}, {found} days before {now:%Y-%m-%d}; allowed {allowed} days"


def _days(number: float) -> str:
    return f"{number:,.1f} days"


def arrival_outcomes(
    load: Load, earlier: Sequence[Load], strays: Sequence[str], now: datetime, policy: ChurnPolicy
) -> list[Outcome]:
    """ARRIVAL_RULES of the latest load. earlier: those before; strays: ids of orders after the watermark; now: UTC."""
    days, watermark, loaded_at, after = _seen(load, now, policy)
    return [
        _fresh_outcome(watermark, loaded_at, now, after, policy),
        _gaps_outcome(low_runs(days, watermark), watermark, policy),
        _after_outcome(load.counts, watermark, loaded_at, after, strays),
        _volume_outcome(load, earlier, loaded_at.date(), policy),
    ]


def fresh_outcome(load: Load, now: datetime, policy: ChurnPolicy) -> Outcome:
    """The first of `arrival_outcomes`."""
    _, watermark, loaded_at, after = _seen(load, now, policy)
    return _fresh_outcome(watermark, loaded_at, now, after, policy)


def _seen(load: Load, now: datetime, policy: ChurnPolicy) -> tuple[list[Day], date, datetime, Span]:
    """The load's days, the last complete one, when it was loaded, and what came after that day."""
    days = judged_days(load.counts, policy)
    watermark = watermark_of(days, policy)
    # Where the data are historical or simulated, they were loaded after the day they are looked at from.
    loaded_at = min(load.loaded_at, now)
    return days, watermark, loaded_at, _after(days, watermark, loaded_at.date(), policy)


def _after(days: Sequence[Day], watermark: date, until: date, policy: ChurnPolicy) -> Span:
    """What came of the whole days after the watermark, before the day `until`; usual: None where nobody can tell."""
    known, orders, usual = {day.day: day for day in days}, 0, 0.0
    is_told = True
    for number in range(1, (until - watermark).days):
        day = watermark + number * ONE_DAY
        if day in policy.calendar.holidays or policy.calendar.closure_of(day) is not None:
            continue
        orders += known[day].orders if day in known else 0
        while day not in known and day > days[0].day:
            day -= WEEK * ONE_DAY
        of_day = known[day].usual if day in known else None
        is_told, usual = is_told and of_day is not None, usual + (of_day or 0.0)
    return Span(watermark + ONE_DAY, until - ONE_DAY, orders, usual if is_told else None)


def _is_chance(after: Span) -> bool:
    return after.usual is not None and surprise(after.orders, after.usual) <= BEYOND_CHANCE


def _fresh_outcome(watermark: date, loaded_at: datetime, now: datetime, after: Span, policy: ChurnPolicy) -> Outcome:
    limits, lag = policy.freshness, age_days(watermark, loaded_at, policy)
    stale, is_silence = stale_orders(watermark, now, policy), not _is_chance(after)
    is_late, is_failed = lag > limits.warn_lag_days and is_silence, lag > limits.fail_lag_days and is_silence
    is_failed |= stale is not None
    age = age_days(watermark, now, policy)
    observed = f"complete up to {watermark}: {_days(lag)} before the load, {_days(age)} before now ({now:%F %H:%M})"
    allowed = (
        f"at most {_days(limits.warn_lag_days)} before a load, beyond {_days(limits.fail_lag_days)} an error; at most "
        f"{_days(limits.max_age_days)} before now, or no week is scored"
    )
    return Outcome(
        FRESH,
        not is_late and not is_failed,
        observed,
        allowed,
        is_warning=not is_failed,
        figures=(
            _lag("lag_days", "before the load", lag, limits.warn_lag_days, not is_late and lag <= limits.fail_lag_days),
            _lag("age_days", "before now", age, limits.max_age_days, stale is None),
        ),
    )


def _lag(key: str, what: str, days: float, most: float, is_met: bool) -> Figure:
    # Beyond the limit and met: that no order came is no more than chance.
    found, allowed = told_apart(days, most, ",.1f")
    return Figure(key, f"last complete day, {what}", f"{found} days", f"at most {allowed} days", is_met, days, most)


def _gaps_outcome(runs: Sequence[Span], watermark: date, policy: ChurnPolicy) -> Outcome:
    rules = policy.calendar
    told = []
    for run in runs:
        kind = "gap" if run.days >= rules.min_gap_days else "few orders"
        told.append(f"{kind} {run}: {run.orders:,} orders, {run.usual:,.0f} are usual")
    allowed = f"at least {rules.min_day_share:.0%} of what is usual on such a day, but by chance"
    figures = (none_of("days with far fewer orders than usual", sum(run.days for run in runs)),)
    if not told:
        observed = f"no day before {watermark} has far fewer orders than usual"
        return Outcome(GAPS, True, observed, allowed, figures=figures)
    gaps = [run for run in runs if run.days >= rules.min_gap_days]
    effects, remedy = "", f"holidays = [{', '.join(str(run.first) for run in runs[:3])}]"
    if gaps:
        effects = (
            f". No label where a gap lies within {policy.windows.outcome_days} days after the date, no snapshot in the "
            f"{policy.windows.eligibility_days} days after a gap"
        )
        spans = ", ".join(f"{{ from = {gap.first}, to = {gap.last} }}" for gap in gaps[:MAX_KEYS])
        remedy = f"closures = [{spans}]"
    observed = (
        f"{'; '.join(told[:MAX_KEYS])}{effects}. Next step: land the missing orders; or, if nobody could order then, "
        f"say so in policy.toml: [calendar] {remedy}"
    )
    keys = tuple(map(str, runs[:MAX_KEYS]))
    return Outcome(GAPS, False, observed, allowed, keys, is_warning=True, figures=figures)


def days_after(counts: Mapping[date, DayCount], watermark: date, loaded_on: date) -> list[date]:
    """The days with orders after the watermark, but for the load's own, which is never complete."""
    return sorted(day for day in counts if watermark < day < loaded_on)


def _after_outcome(
    counts: Mapping[date, DayCount], watermark: date, loaded_at: datetime, whole: Span, strays: Sequence[str]
) -> Outcome:
    after = days_after(counts, watermark, loaded_at.date())
    allowed = "none but of the day of the load, or of days that are few by chance"
    if not after or _is_chance(whole):
        observed = f"complete up to {watermark}, and {whole.orders:,} orders of the days between that and the load"
        return Outcome(AFTER, True, observed, allowed)
    orders = sum(counts[day].orders for day in after)
    named = ", ".join(f"{day} ({counts[day].orders:,})" for day in after[:MAX_KEYS])
    observed = (
        f"{orders:,} orders of {len(after)} days after {watermark}, the last complete day: {named}. They are kept, and "
        "move no date and no label"
    )
    return Outcome(AFTER, False, observed, allowed, tuple(strays[:MAX_KEYS]), is_warning=True)


@dataclass(frozen=True)
class _Volume:
    """A figure beside what it usually is. is_warning, is_failure: beyond those limits, and beyond chance.

    key: of the series that its ratio is one of; none where it is of one day.
    """

    key: str
    what: str
    value: float
    usual: float
    is_warning: bool
    is_failure: bool

    @property
    def text(self) -> str:
        return f"{self.what}: {self.value:,.0f}, usual {self.usual:,.0f} ({self.ratio:.0%})"

    @property
    def ratio(self) -> float:
        return self.value / self.usual

    def figure(self, allowed: str) -> Figure:
        is_met = not self.is_warning and not self.is_failure
        told = f"{self.ratio:.0%} ({self.value:,.0f} to {self.usual:,.0f})"
        return Figure(self.key, f"{self.what} to usual", told, allowed, is_met, self.ratio)


def _volume_outcome(load: Load, earlier: Sequence[Load], loaded_on: date, policy: ChurnPolicy) -> Outcome:
    limits = policy.freshness
    of_days, of_load = list(_of_days(load, loaded_on, policy)), list(_of_load(load, earlier, policy))
    figures = [*of_days, *of_load]
    alarms = [each for each in figures if each.is_warning or each.is_failure]
    of_usual = f"{limits.warn_below:.0%} to {limits.warn_above:.0%}"
    allowed = (
        f"{of_usual} of what is usual (beyond {limits.fail_below:.0%} and {limits.fail_above:.0%} an error); days of "
        f"earlier loads within {limits.warn_load_change:.0%} (beyond {limits.fail_load_change:.0%} an error)"
    )
    if not figures:
        return Outcome(VOLUME, True, "nothing came before that it could be compared with", allowed)
    observed = "; ".join(each.text for each in (alarms or figures)[:MAX_KEYS])
    is_warning = not any(each.is_failure for each in alarms)
    told = [each.figure(of_usual) for each in of_days]
    told += [each.figure(f"within {limits.warn_load_change:.0%} of 100%") for each in of_load]
    return Outcome(VOLUME, not alarms, observed, allowed, is_warning=bool(alarms) and is_warning, figures=tuple(told))


def _of_days(load: Load, loaded_on: date, policy: ChurnPolicy) -> Iterator[_Volume]:
    """Orders and customers of the latest week that came whole, and of each of its days that is far from usual."""
    customers = {day: DayCount(count.customers, count.customers) for day, count in load.counts.items()}
    for noun, counts in (("orders", load.counts), ("customers a day", customers)):
        days = [day for day in judged_days(counts, policy) if day.day < loaded_on][-WEEK:]
        judged = [day for day in days if day.usual and day.state in (DayState.COMPLETE, DayState.LOW)]
        if not judged:
            continue
        week = Span(days[0].day, days[-1].day)
        orders, usual = sum(day.orders for day in judged), sum(day.usual or 0.0 for day in judged)
        yield _against_usual(f"{noun.replace(' ', '_')}_to_usual", f"{noun} of {week}", orders, usual, policy)
        for day in judged:
            of_day = _against_usual("", f"{noun} of {day.day}", day.orders, day.usual or 0.0, policy)
            if of_day.is_warning or of_day.is_failure:
                yield of_day


def _against_usual(key: str, what: str, value: float, usual: float, policy: ChurnPolicy) -> _Volume:
    limits, ratio = policy.freshness, value / usual
    is_beyond_chance = surprise(value, usual) > BEYOND_CHANCE
    return _Volume(
        key,
        what,
        value,
        usual,
        is_beyond_chance and not limits.warn_below <= ratio <= limits.warn_above,
        is_beyond_chance and not limits.fail_below <= ratio <= limits.fail_above,
    )


def _of_load(load: Load, earlier: Sequence[Load], policy: ChurnPolicy) -> Iterator[_Volume]:
    """What this load says of days that earlier loads had whole, and how many rows it has for each kept order."""
    if not earlier:
        return
    limits = policy.freshness
    compared: dict[str, list[tuple[float, float]]] = {}
    for other in earlier:
        last = other.watermark(policy)
        begin = max(min(load.counts), min(other.counts))
        days = [day for day in load.counts.keys() | other.counts.keys() if begin <= day <= last]
        none = DayCount(0, 0)
        for noun in ("orders", "customers"):
            now, then = (sum(getattr(each.counts.get(day, none), noun) for day in days) for each in (load, other))
            if then:
                compared.setdefault(f"{noun} of the days that earlier loads had", []).append((now, then))
        kept_now, kept_then = (sum(count.orders for count in each.counts.values()) for each in (load, other))
        compared.setdefault("source rows for 1,000 kept orders", []).append(
            (1000 * load.source_rows / kept_now, 1000 * other.source_rows / kept_then)
        )
    for what, pairs in compared.items():
        # One odd load is outvoted; of two that differ the one that says more.
        by_change = sorted(pairs, key=lambda pair: abs(pair[0] / pair[1] - 1))
        now, then = by_change[len(by_change) // 2]
        change = abs(now / then - 1)
        is_warning, is_failure = change > limits.warn_load_change, change > limits.fail_load_change
        yield _Volume(what.replace(" ", "_").replace(",", ""), what, now, then, is_warning, is_failure)

"""A simulated QuickBite whose churn has a known truth: settings in, source tables and the best possible score out.

The behaviour of customers and the faults planted in their rows live here; where the tables are written does not.

A customer's life takes one step a day. On each day a customer who has not left may leave, and otherwise may order once:

    leaves for good with  h = min(base * exp(EFFECT * dissatisfaction), MAX_DAILY_HAZARD)
    orders with           p = 1 - exp(-rate * weekday factor)

A kept order raises the dissatisfaction of the following days by sensitivity * (lateness, bad meal); it halves every
`HALF_LIFE_DAYS`. Reviews say how an order went and depend on nothing else, so they carry no news about who has left.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from churn_assets.demo.contact_effects import Effects, contact_effect

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ELIGIBLE_DAYS = 30
OUTCOME_DAYS = 30
OBSERVATION_DAYS = 60

# name, share of customers, order rate relative to the others, typical basket
SEGMENTS = (
    ("Regular", 0.46, 1.00, 24.0),
    ("Student", 0.22, 0.90, 15.0),
    ("Family", 0.17, 1.05, 42.0),
    ("Business", 0.10, 1.20, 33.0),
    ("Premium", 0.05, 1.30, 55.0),
)
JOINING_SHARE = 0.25
JOINING_DAYS = 182
RATE_LOG_SD = 0.60
# Monday first: food is ordered towards the weekend
WEEKDAY_LOG_FACTOR = np.array([-0.15, -0.15, -0.10, 0.0, 0.20, 0.20, 0.05])
WEEKDAY_LOG_SD = 0.35
MAX_DAILY_INTENSITY = 3.0
CANCELLED_SHARE = 0.03

DISRUPTED_SHARE = 0.85
BAD_MEAL_SHARE = 0.06
BAD_MEAL_HARM = 1.0
LATENESS_UNIT_SECONDS = 45 * 60

EFFECT = 0.9
MAX_DISSATISFACTION = 4.0
MAX_DAILY_HAZARD = 0.25
HALF_LIFE_DAYS = 21.0
DECAY = 0.5 ** (1 / HALF_LIFE_DAYS)

REVIEWED_SHARE = 0.45
PROMPT_REVIEW_SHARE = 0.80

# Whoever was at least this likely to leave is on the campaign's list.
CAMPAIGN_RISK, CAMPAIGN_HIGH_RISK = 0.25, 0.50
CAMPAIGN_HOLDOUT = 0.20

LEAVING_SHARE = 0.60
# With 3,000 the rates of the rare slow customers made a prevalence of 0.005 come out 15 % high.
CALIBRATION_CUSTOMERS = 8_000
CALIBRATION_DAYS = 184
CALIBRATION_SEED = 2**64 - 1  # no demo can have this seed
CAMPAIGN_STREAM = 2**40  # no customer has such a number

DAY = 86_400
EPOCH = date(1970, 1, 1)
BATCH_CUSTOMER_DAYS = 400_000
# One uniform per purpose and day, the same place for each whatever the settings: no knob reshuffles another's draws.
DRAWS = ("leave", "order", "cancel", "basket", "hour", "promise", "crisis", "late", "meal", "review", "stars", "delay")


def _share(default: float, description: str) -> float:
    return Field(default=default, ge=0, le=0.5, description=description)


class DemoSettings(BaseModel):
    """What kind of QuickBite to simulate. Shares of planted faults are shares of rows; 0 plants none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    customers: int = Field(12_000, ge=1, le=5_000_000, description="all who ever join, the last 26 weeks after start")
    seed: int = Field(42, ge=0, lt=2**63, description="another seed gives other customers")
    start: date = Field(date(2025, 7, 1), description="first day of the data")
    end: date = Field(date(2025, 12, 31), description="last day of the data")
    crisis_start: date = Field(date(2025, 10, 1), description="first day of deliveries 45 to 90 minutes late")
    crisis_end: date = Field(date(2025, 10, 30), description="last day of the crisis")
    prevalence: float = Field(
        0.15,
        ge=0.002,
        le=0.5,
        description="mean churn probability of eligible customers over the first 184 days; a lower one means that "
        "customers order more often, so there are more orders",
    )
    signal_strength: float = Field(
        1.0,
        ge=0,
        le=1.5,
        description="how far customers differ and leave for a reason; at 0 all are alike and churn is bad luck",
    )
    null_keys: float = _share(0.0005, "orders without customer_id or without order_id")
    duplicate_orders: float = _share(0.001, "orders that come twice, the second time slightly later")
    deliveries_before_orders: float = _share(0.0005, "orders delivered before they were placed")
    out_of_range_scores: float = _share(0.001, "reviews with a score outside 1 to 5")
    unknown_segments: float = _share(0.002, "customers with a null, blank or never-seen segment")
    late_arrivals: float = _share(
        0.0, "orders whose row, not whose review, arrives 1 to 10 days later or after the end"
    )
    leaking_column: bool = Field(False, description="orders also hold next_order_at, which only the future knows")
    drift_start: date | None = Field(None, description="from this day promises are 20 minutes shorter, that is all")
    campaign: date | None = Field(
        date(2025, 11, 17), description="the Monday of a past retention campaign; without one nobody was contacted"
    )
    campaign_effect: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of the customers contacted who order again in the twelve days after, come what may",
    )
    contact_effects: Effects | None = Field(
        None,
        description="in place of campaign_effect, a known effect on the chance of leaving: by customer, some of whom "
        "leave because of it (varied), the same for all (one), or none",
    )

    @model_validator(mode="after")
    def _dates_are_in_order(self) -> "DemoSettings":
        if not self.start <= self.end <= self.start + timedelta(days=3650):
            raise ValueError(f"end ({self.end}) must be between start ({self.start}) and 3650 days after it")
        if self.crisis_start > self.crisis_end:
            raise ValueError(f"crisis_end ({self.crisis_end}) must not be before crisis_start ({self.crisis_start})")
        if self.campaign is not None and self.campaign.weekday() != 0:
            raise ValueError(f"campaign ({self.campaign}) must be a Monday: lists are made at as-of dates")
        return self


@dataclass(frozen=True)
class DemoTables:
    """The source tables, and what no company has: each customer's true churn probability.

    orders: order_id, customer_id, ordered_at, promised_at, delivered_at (null: cancelled, or under way when the data
        ends), subtotal, is_cancelled; with `leaking_column` also next_order_at.
    reviews: order_id, reviewed_at, review_score (half stars, 1 to 5), sentiment_category.
    customers: customer_id, segment.
    campaign_contacts: customer_id, as_of (the list's date), contacted_at (null: held out), is_holdout, risk_tier.
    true_churn_probability: customer_id, as_of (the Mondays at which the customer is eligible), churn_probability; it
        knows nothing of what a campaign will change.
    true_contact_effect: customer_id, as_of (the list's date), effect: what a contact adds to the chance of leaving of
        each customer on the list, held out or not; with `contact_effects` alone. For tests and benchmarks.
    """

    orders: DataFrame
    reviews: DataFrame
    customers: DataFrame
    campaign_contacts: DataFrame
    true_churn_probability: DataFrame
    true_contact_effect: DataFrame


@dataclass(frozen=True)
class Calibration:
    """What gives the wanted prevalence: a median customer's orders per day, and the base daily hazard."""

    median_rate: float
    base_hazard: float


def simulate(spark: SparkSession, settings: DemoSettings, *, partitions: int | None = None) -> DemoTables:
    """The demo's tables, each of which lives all lives again: `demo_tables` of stored ones do not."""
    return demo_tables(simulated_lives(spark, settings, partitions=partitions), settings)


def simulated_lives(spark: SparkSession, settings: DemoSettings, *, partitions: int | None = None) -> DataFrame:
    """One row per customer, as LIVES_SCHEMA. It depends on `settings` alone, not on `partitions` or the cluster.

    The engine's workers must be able to import this package.
    """
    numbers = spark.range(1, settings.customers + 1, 1, partitions)
    return numbers.mapInArrow(_simulator(settings, calibrate(settings)), LIVES_SCHEMA)


def demo_tables(lives: DataFrame, settings: DemoSettings) -> DemoTables:
    """The tables that `simulated_lives` leave behind."""
    clean_orders = _orders(lives)
    return DemoTables(
        orders=_with_order_faults(clean_orders, settings),
        reviews=_with_review_faults(_reviews(lives), settings),
        customers=_with_segment_faults(lives.select("customer_id", "segment"), settings),
        campaign_contacts=_campaign_contacts(lives, settings),
        true_churn_probability=lives.select("customer_id", F.inline("probabilities")),
        true_contact_effect=lives.where("contact.effect is not null").select(
            "customer_id", F.lit(settings.campaign).cast("date").alias("as_of"), "contact.effect"
        ),
    )


# --- who the customers are, and how an order would go ---


@dataclass(frozen=True)
class Calendar:
    """`weekday` (0 = Monday) and `is_crisis` of each simulated day; `as_of` are the day numbers of the Mondays."""

    start: date
    weekday: Ints
    is_crisis: Bools
    as_of: Ints

    @property
    def days(self) -> int:
        return len(self.weekday)


def calendar(settings: DemoSettings, days: int) -> Calendar:
    """The first `days` days; a Monday right after the last one is an as-of date too, the first day is none."""
    day = np.arange(days + 1)
    weekday = (settings.start.weekday() + day) % 7
    crisis = [(edge - settings.start).days for edge in (settings.crisis_start, settings.crisis_end)]
    is_crisis = (crisis[0] <= day) & (day <= crisis[1])
    return Calendar(settings.start, weekday[:-1], is_crisis[:-1], day[(weekday == 0) & (day > 0)])


@dataclass(frozen=True)
class Customers:
    """Latent traits, one value per customer. `first_day` is -1 for those who were there before the data began."""

    first_day: Ints
    segment: Ints
    relative_rate: Floats
    weekday_factor: Floats  # (7, customers), mean 1 over the week
    basket: Floats
    sensitivity: Floats

    def order_probability(self, median_rate: float) -> Floats:
        """Probability that an active customer orders, by weekday: (7, customers)."""
        intensity = median_rate * self.relative_rate * self.weekday_factor
        return -np.expm1(-np.minimum(intensity, MAX_DAILY_INTENSITY))


def streams(seed: int, numbers: Iterable[int]) -> Iterator[np.random.Generator]:
    """The stream of each number from its start, in one generator, so each is to be drawn from before the next is asked.

    A Philox made with a key draws entropy for a seed that it does not use: four fifths of what such a stream takes.
    """
    philox = np.random.Philox(key=0)
    generator, start = np.random.Generator(philox), philox.state
    for number in numbers:
        start["state"]["key"] = np.array([seed, number], dtype=np.uint64)
        philox.state = start
        yield generator


def draw(seed: int, numbers: Sequence[int], days: int) -> tuple[Floats, Floats, dict[str, Floats]]:
    """Uniforms (3, customers) and normals (10, customers) for traits; daily uniforms (days, customers) by purpose.

    Each customer has an own stream and each day its place in it: neither the others nor a later end change a draw.
    """
    uniforms = np.empty((len(numbers), 3))
    normals = np.empty((len(numbers), 10))
    daily = np.empty((len(numbers), days, len(DRAWS)))
    for row, stream in enumerate(streams(seed, numbers)):
        stream.random(out=uniforms[row])
        stream.standard_normal(out=normals[row])
        stream.random(out=daily[row])
    by_purpose = np.ascontiguousarray(daily.transpose(2, 1, 0))
    return uniforms.T, normals.T, dict(zip(DRAWS, by_purpose, strict=True))


def customers_from(uniforms: Floats, normals: Floats, signal_strength: float) -> Customers:
    shares, rates, baskets = (np.array(column) for column in list(zip(*SEGMENTS, strict=True))[1:])
    segment = np.minimum(np.searchsorted(np.cumsum(shares), uniforms[0], side="right"), len(SEGMENTS) - 1)
    joins = uniforms[1] < JOINING_SHARE
    weekday_log = WEEKDAY_LOG_FACTOR[:, None] + WEEKDAY_LOG_SD * normals[3:10]
    weekday_factor = np.exp(signal_strength * weekday_log)
    return Customers(
        first_day=np.where(joins, (uniforms[2] * JOINING_DAYS).astype(np.int64), -1),
        segment=segment,
        relative_rate=np.exp(signal_strength * (np.log(rates[segment]) + RATE_LOG_SD * normals[0])),
        weekday_factor=weekday_factor / weekday_factor.mean(axis=0),
        basket=baskets[segment] * np.exp(0.25 * normals[1]),
        sensitivity=0.5 * np.exp(0.6 * normals[2]),
    )


@dataclass(frozen=True)
class Service:
    """How an order would go, were it placed: arrays (days, customers); seconds count from the day's midnight."""

    ordered_second: Ints
    promised_second: Ints
    delivered_second: Ints
    is_bad_meal: Bools
    is_cancelled: Bools

    @property
    def harm(self) -> Floats:
        """What raises dissatisfaction: lateness in units of 45 minutes, and a bad meal.

        An order still under way at midnight counts with the lateness it has by then, and its meal does not: so
        tomorrow's hazard depends only on what had happened before tomorrow, and the truth needs no guess about it.
        """
        lateness = np.minimum(self.delivered_second, DAY) - self.promised_second
        bad_meal = self.is_bad_meal & (self.delivered_second < DAY)
        return np.clip(lateness / LATENESS_UNIT_SECONDS, 0, None) + BAD_MEAL_HARM * bad_meal


def service(draws: dict[str, Floats], is_crisis: Bools) -> Service:
    """Lunch and dinner, promised in 30 to 45 minutes; normally 17 % come late, few by more than 15 minutes."""
    is_lunch = draws["hour"] < 0.3
    within_meal = np.where(is_lunch, draws["hour"] / 0.3, (draws["hour"] - 0.3) / 0.7)
    hour = np.clip(np.where(is_lunch, 12.5, 19.25) + np.where(is_lunch, 0.35, 0.8) * _logit(within_meal), 10.0, 23.25)
    ordered = (3600 * hour).astype(np.int64)
    promised = ordered + (60 * (30 + 15 * draws["promise"])).astype(np.int64)
    is_disrupted = is_crisis[:, None] & (draws["crisis"] < DISRUPTED_SHARE)
    usual_minutes = np.clip(-8 + 5 * _logit(draws["late"]), -18, 60)
    late_minutes = np.where(is_disrupted, 45 + 45 * draws["late"], usual_minutes)
    return Service(
        ordered_second=ordered,
        promised_second=promised,
        delivered_second=promised + (60 * late_minutes).astype(np.int64),
        is_bad_meal=draws["meal"] < BAD_MEAL_SHARE,
        is_cancelled=draws["cancel"] < CANCELLED_SHARE,
    )


def _logit(uniform: Floats) -> Floats:
    """A standard logistic variate from a uniform one, kept finite."""
    inside = np.clip(uniform, 1e-9, 1 - 1e-9)
    return np.log(inside / (1 - inside))


@dataclass(frozen=True)
class Campaign:
    """What a retention campaign would do with each customer, were they on its list, which is made on day `day`."""

    day: int
    is_holdout: Bools
    contacted_second: Ints  # from that day's midnight on
    is_convinced: Bools
    order_day: Ints
    lot: Floats  # what decides whom an effect by customer changes
    effects: Effects | None


def campaign(settings: DemoSettings, numbers: Sequence[int]) -> Campaign | None:
    """None if the demo has no campaign. Its draws are apart, so that it reshuffles no other."""
    if settings.campaign is None:
        return None
    own = streams(settings.seed, (number + CAMPAIGN_STREAM for number in numbers))
    held_out, reached, convinced, delay = np.array([stream.random(4) for stream in own]).T
    day = (settings.campaign - settings.start).days
    is_holdout = held_out < CAMPAIGN_HOLDOUT
    return Campaign(
        day=day,
        is_holdout=is_holdout,
        contacted_second=(9 * 3600 + reached * 1.5 * DAY).astype(np.int64),
        is_convinced=~is_holdout & (convinced < settings.campaign_effect),
        order_day=day + 3 + (10 * delay).astype(np.int64),
        lot=convinced,
        effects=settings.contact_effects,
    )


# --- how they live, and the truth about it ---


@dataclass(frozen=True)
class Lives:
    """`has_ordered`, cancelled orders included, is (days, customers); `campaign_risk`, the churn probability of those
    on the campaign's list and NaN of the others, and `contact_effect`, what a contact adds to it, NaN without known
    effects, are (customers,); the rest is (as-of dates, customers), `churn_probability` NaN of who is not eligible."""

    has_ordered: Bools
    is_eligible: Bools
    churn_probability: Floats
    has_left: Bools
    campaign_risk: Floats
    contact_effect: Floats


def daily_hazard(base_hazard: float, dissatisfaction: Floats) -> Floats:
    return np.minimum(base_hazard * np.exp(EFFECT * dissatisfaction), MAX_DAILY_HAZARD)


def live(
    customers: Customers,
    served: Service,
    draws: dict[str, Floats],
    days: Calendar,
    calibration: Calibration,
    contacted: Campaign | None = None,
) -> Lives:
    """Simulate every day, keeping beside the hidden state the belief an all-knowing observer of behaviour would hold.

    `belief` is P(still active | latent traits and everything seen so far). An order, cancelled or not, proves it: 1.
    After a silent day, by Bayes' rule, with active mass (1-h)(1-p) against belief * h + 1 - belief for those who left:

        belief <- belief (1-h)(1-p) / (1 - belief (1-h) p)

    Whom a campaign convinces is active again and orders on the campaign's day, on which nobody had counted. With known
    effects it convinces such a share, or drives such a share away on the list's day, that a contact changes the chance
    of leaving by the effect; but for the CANCELLED_SHARE of the orders that it brings.
    """
    order_probability = customers.order_probability(calibration.median_rate)
    harm = served.harm * customers.sensitivity
    size = len(customers.first_day)
    is_active = np.ones(size, dtype=bool)
    belief = np.ones(size)
    dissatisfaction = np.zeros(size)
    last_kept_day = np.full(size, -ELIGIBLE_DAYS - 1)
    has_ordered = np.zeros((days.days, size), dtype=bool)
    row_of_day = {day: row for row, day in enumerate(days.as_of.tolist())}
    beliefs, dissatisfactions = np.ones((2, len(row_of_day), size))
    is_eligible, has_left = np.zeros((2, len(row_of_day), size), dtype=bool)
    campaign_risk, convinced_day = np.full(size, np.nan), np.full(size, -1)
    effect = np.full(size, np.nan)
    for day in range(days.days + 1):
        if (row := row_of_day.get(day)) is not None:
            beliefs[row], dissatisfactions[row] = belief, dissatisfaction
            is_eligible[row], has_left[row] = last_kept_day >= day - ELIGIBLE_DAYS, ~is_active
            if contacted is not None and day == contacted.day:
                risk = no_kept_order_probability(belief, dissatisfaction, order_probability, calibration.base_hazard)
                is_listed = is_eligible[row] & (risk >= CAMPAIGN_RISK)
                campaign_risk = np.where(is_listed, risk, np.nan)
                is_convinced = contacted.is_convinced
                if contacted.effects is not None:
                    habit = np.log(customers.relative_rate)
                    every = contact_effect(contacted.effects, leaves=risk, dissatisfaction=dissatisfaction, habit=habit)
                    effect = np.where(is_listed, every, np.nan)
                    is_convinced = ~contacted.is_holdout & (contacted.lot * risk < -every)
                    is_driven_away = ~contacted.is_holdout & (contacted.lot * (1 - risk) < every)
                    is_active &= ~(is_listed & is_driven_away)
                convinced_day = np.where(is_listed & is_convinced, contacted.order_day, -1)
        if day == days.days:
            break
        p = order_probability[days.weekday[day]]
        dissatisfaction = dissatisfaction * DECAY
        h = daily_hazard(calibration.base_hazard, dissatisfaction)
        has_joined = customers.first_day < day
        is_active &= ~(has_joined & (draws["leave"][day] < h))
        is_active |= convinced_day == day
        orders = has_joined & is_active & (draws["order"][day] < p)
        orders |= (customers.first_day == day) | (convinced_day == day)  # joining is placing the first order
        belief = np.where(orders, 1.0, belief * (1 - h) * (1 - p) / (1 - belief * (1 - h) * p))
        is_kept = orders & ~served.is_cancelled[day]
        last_kept_day[is_kept] = day
        dissatisfaction = np.minimum(dissatisfaction + is_kept * harm[day], MAX_DISSATISFACTION)
        has_ordered[day] = orders
    probability = np.full(is_eligible.shape, np.nan)
    probability[is_eligible] = no_kept_order_probability(
        beliefs[is_eligible],
        dissatisfactions[is_eligible],
        order_probability[:, is_eligible.nonzero()[1]],
        calibration.base_hazard,
    )
    return Lives(has_ordered, is_eligible, probability, has_left, campaign_risk, effect)


def no_kept_order_probability(
    belief: Floats, dissatisfaction: Floats, order_probability: Floats, base_hazard: float
) -> Floats:
    """P(no kept order in the OUTCOME_DAYS from a Monday on), exactly, of customers at a date each.

    Only paths without a kept order count, and those bring no new experience (a cancelled order is none): their
    dissatisfaction just decays, so the hazard of each day is known in advance. Each day the active mass either
    leaves, and is silent ever after, or stays and places no order that is kept:

        gone <- gone + still h          still <- still (1-h) (1 - p (1 - CANCELLED_SHARE))

    The sum of both at the end is the probability. Weekdays go on whether or not the data does.
    """
    still, gone = belief, 1 - belief
    for day in range(OUTCOME_DAYS):
        dissatisfaction = dissatisfaction * DECAY
        h = daily_hazard(base_hazard, dissatisfaction)
        gone = gone + still * h
        still = still * (1 - h) * (1 - order_probability[day % 7] * (1 - CANCELLED_SHARE))
    return gone + still


# --- calibration ---


def calibrate(settings: DemoSettings) -> Calibration:
    """Order rate and base hazard with which the mean true probability of eligible customers is near the prevalence.

    Both are solved on one fixed cohort over the first CALIBRATION_DAYS days, whatever `customers`, `seed` and `end`
    are, so a demo with a later end has the same earlier rows. With signal strength s, silence of customers who stay is
    to make (1 - 0.6 s) of the prevalence and leaving the rest. Takes 1 to 2 seconds, once per process and setting.
    """
    relevant = {"prevalence", "signal_strength", "start", "crisis_start", "crisis_end"}
    chosen = {name: getattr(settings, name) for name in relevant}
    return _calibrate(DemoSettings(end=settings.start + timedelta(days=CALIBRATION_DAYS - 1), **chosen))


@lru_cache(maxsize=32)
def _calibrate(settings: DemoSettings) -> Calibration:
    days = calendar(settings, CALIBRATION_DAYS)
    uniforms, normals, draws = draw(CALIBRATION_SEED, range(CALIBRATION_CUSTOMERS), CALIBRATION_DAYS)
    customers = customers_from(uniforms, normals, settings.signal_strength)
    served = service(draws, days.is_crisis)
    leaving_share = LEAVING_SHARE * settings.signal_strength
    by_silence = (1 - leaving_share) * settings.prevalence
    median_rate = _bisect(lambda rate: by_silence - silent_share(customers, rate), 1e-3, 5.0, steps=40)
    if leaving_share == 0:
        return Calibration(median_rate, 0.0)

    of_panel = replace(days, as_of=days.as_of[days.as_of >= OBSERVATION_DAYS])

    def excess(base_hazard: float) -> float:
        lives = live(customers, served, draws, of_panel, Calibration(median_rate, base_hazard))
        return float(lives.churn_probability[lives.is_eligible].mean()) - settings.prevalence

    return Calibration(median_rate, _bisect(excess, 1e-8, 0.1, steps=14))


def silent_share(customers: Customers, median_rate: float) -> float:
    """Share of eligible customers with no kept order in the next 30 days, if nobody ever left.

    With S = P(30 silent days) of one customer it is E[(1 - S before) * (S after)] / E[1 - S before].
    """
    log_silence = np.log1p(-customers.order_probability(median_rate) * (1 - CANCELLED_SHARE))
    four_weeks = 4 * log_silence.sum(axis=0)
    eligible = -np.expm1(four_weeks + log_silence[5:].sum(axis=0))  # the 30 days before a Monday begin on a Saturday
    silent = np.exp(four_weeks + log_silence[:2].sum(axis=0))
    return float((eligible * silent).mean() / eligible.mean())


def _bisect(increasing: Callable[[float], float], low: float, high: float, *, steps: int) -> float:
    """Where `increasing` crosses zero, on a logarithmic scale; the nearer end if it does not."""
    for _ in range(steps):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return (low * high) ** 0.5


# --- rows ---

LIVES_SCHEMA = (
    "customer_id string, segment string, "
    "orders array<struct<order_id: string, ordered: bigint, promised: bigint, delivered: bigint, subtotal: double, "
    "is_cancelled: boolean, reviewed: bigint, review_score: double>>, "
    "probabilities array<struct<as_of: date, churn_probability: double>>, "
    "contact struct<contacted: bigint, is_holdout: boolean, risk_tier: string, effect: double>"
)


def _simulator(
    settings: DemoSettings, calibration: Calibration
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    days = calendar(settings, (settings.end - settings.start).days + 1)
    batch_customers = max(1, BATCH_CUSTOMER_DAYS // days.days)

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            numbers = batch.column(0).to_numpy()
            for first in range(0, len(numbers), batch_customers):
                yield _lives_batch(numbers[first : first + batch_customers], settings, calibration, days)

    return rows


def _lives_batch(numbers: Ints, settings: DemoSettings, calibration: Calibration, days: Calendar) -> pa.RecordBatch:
    """One row per customer who has joined by the end of the data, as LIVES_SCHEMA; times in seconds since 1970."""
    uniforms, normals, draws = draw(settings.seed, numbers.tolist(), days.days)
    customers = customers_from(uniforms, normals, settings.signal_strength)
    served = service(draws, days.is_crisis)
    contacted = campaign(settings, numbers.tolist())
    lives = live(customers, served, draws, days, calibration, contacted)
    names = np.array([segment[0] for segment in SEGMENTS])
    rows = pa.RecordBatch.from_pydict(
        {
            "customer_id": pa.array([f"C{number:07d}" for number in numbers]),
            "segment": pa.array(names[customers.segment].tolist()),
            "orders": _order_lists(numbers, customers, served, draws, days, lives.has_ordered),
            "probabilities": _probability_lists(lives, days),
            "contact": _contacts(lives, contacted, days),
        }
    )
    return rows.filter(pa.array(customers.first_day < days.days))


def _order_lists(
    numbers: Ints, customers: Customers, served: Service, draws: dict[str, Floats], days: Calendar, has_ordered: Bools
) -> pa.ListArray:
    who, day = np.nonzero(has_ordered.T)
    cell = (day, who)
    starts = np.concatenate([[0], np.cumsum(has_ordered.sum(axis=0))])
    sequence = np.arange(len(who)) - starts[who] + 1
    midnight = ((days.start - EPOCH).days + day) * DAY
    data_ends = ((days.start - EPOCH).days + days.days) * DAY
    is_cancelled = served.is_cancelled[cell]
    delivered = midnight + served.delivered_second[cell]
    has_no_delivery = is_cancelled | (delivered >= data_ends)
    reviewed = delivered + _review_delay_seconds(draws["delay"][cell])
    has_no_review = is_cancelled | (draws["review"][cell] >= REVIEWED_SHARE) | (reviewed >= data_ends)
    late_seconds = served.delivered_second[cell] - served.promised_second[cell]
    stars = _review_score(late_seconds, served.is_bad_meal[cell], draws["stars"][cell])
    subtotal = np.round(customers.basket[who] * np.exp(0.18 * _logit(draws["basket"][cell])), 2)
    order_ids = [f"O{number:07d}-{nth:04d}" for number, nth in zip(numbers[who], sequence, strict=True)]
    columns = {
        "order_id": pa.array(order_ids, pa.string()),
        "ordered": pa.array(midnight + served.ordered_second[cell]),
        "promised": pa.array(midnight + served.promised_second[cell]),
        "delivered": pa.array(delivered, mask=has_no_delivery),
        "subtotal": pa.array(subtotal),
        "is_cancelled": pa.array(is_cancelled),
        "reviewed": pa.array(reviewed, mask=has_no_review),
        "review_score": pa.array(stars, mask=has_no_review),
    }
    return _lists(starts, columns)


def _review_delay_seconds(uniform: Floats) -> Ints:
    """Most within hours (exponential, mean two hours, after five minutes), the others one to seven days later."""
    is_prompt = uniform < PROMPT_REVIEW_SHARE
    prompt = 300 - 7200 * np.log1p(-np.where(is_prompt, uniform / PROMPT_REVIEW_SHARE, 0))
    later = DAY * (1 + 6 * (uniform - PROMPT_REVIEW_SHARE) / (1 - PROMPT_REVIEW_SHARE))
    return np.where(is_prompt, prompt, later).astype(np.int64)


def _review_score(late_seconds: Ints, is_bad_meal: Bools, uniform: Floats) -> Floats:
    """Half stars from 1 to 5: about 4.5 on time, 1.3 less for each 45 minutes, 2 less for a bad meal, with noise."""
    lateness = np.clip(late_seconds / LATENESS_UNIT_SECONDS, 0, None)
    return np.clip(np.round(2 * (4.5 - 1.3 * lateness - 2.0 * is_bad_meal + 0.35 * _logit(uniform))) / 2, 1.0, 5.0)


def _probability_lists(lives: Lives, days: Calendar) -> pa.ListArray:
    who, at = np.nonzero(lives.is_eligible.T)
    starts = np.concatenate([[0], np.cumsum(lives.is_eligible.sum(axis=0))])
    as_of = ((days.start - EPOCH).days + days.as_of[at]).astype(np.int32)
    return _lists(
        starts,
        {"as_of": pa.array(as_of).cast(pa.date32()), "churn_probability": pa.array(lives.churn_probability[at, who])},
    )


def _contacts(lives: Lives, contacted: Campaign | None, days: Calendar) -> pa.Array:
    kinds = pa.struct(
        [
            ("contacted", pa.int64()),
            ("is_holdout", pa.bool_()),
            ("risk_tier", pa.string()),
            ("effect", pa.float64()),
        ]
    )
    is_listed = ~np.isnan(lives.campaign_risk)
    if contacted is None:
        return pa.nulls(len(is_listed), kinds)
    midnight = ((days.start - EPOCH).days + contacted.day) * DAY
    moments = midnight + contacted.contacted_second
    data_ends = ((days.start - EPOCH).days + days.days) * DAY
    has_no_contact = contacted.is_holdout | (moments >= data_ends)
    tiers = np.where(lives.campaign_risk >= CAMPAIGN_HIGH_RISK, "high", "medium").tolist()
    effect = pa.array(lives.contact_effect, mask=np.isnan(lives.contact_effect))
    columns = [pa.array(moments, mask=has_no_contact), pa.array(contacted.is_holdout), pa.array(tiers), effect]
    return pa.StructArray.from_arrays(columns, fields=list(kinds), mask=pa.array(~is_listed))


def _lists(starts: Ints, columns: dict[str, pa.Array]) -> pa.ListArray:
    structs = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), structs)


def _orders(lives: DataFrame) -> DataFrame:
    return lives.select("customer_id", F.inline("orders")).select(
        "order_id",
        "customer_id",
        F.timestamp_seconds("ordered").alias("ordered_at"),
        F.timestamp_seconds("promised").alias("promised_at"),
        F.timestamp_seconds("delivered").alias("delivered_at"),
        "subtotal",
        "is_cancelled",
    )


def _campaign_contacts(lives: DataFrame, settings: DemoSettings) -> DataFrame:
    return lives.where("contact is not null").select(
        "customer_id",
        F.lit(settings.campaign).cast("date").alias("as_of"),
        F.timestamp_seconds("contact.contacted").alias("contacted_at"),
        "contact.is_holdout",
        "contact.risk_tier",
    )


def _reviews(lives: DataFrame) -> DataFrame:
    score = F.col("review_score")
    sentiment = F.when(score >= 4, "positive").when(score >= 3, "neutral").otherwise("negative")
    return (
        lives.select(F.inline("orders"))
        .where("reviewed is not null")
        .select(
            "order_id",
            F.timestamp_seconds("reviewed").alias("reviewed_at"),
            "review_score",
            sentiment.alias("sentiment_category"),
        )
    )


# --- planted faults ---


def _with_order_faults(orders: DataFrame, settings: DemoSettings) -> DataFrame:
    """Which rows are hit is a hash of fault, seed and key: no fault moves another, or any clean row."""
    number = _Hash(settings.seed, "order_id")
    if settings.leaking_column:
        by_time = Window.partitionBy("customer_id").orderBy("ordered_at")
        orders = orders.withColumn("next_order_at", F.lead("ordered_at").over(by_time))
    if settings.drift_start is not None:
        is_drifted = F.col("ordered_at") >= F.timestamp_seconds(F.lit((settings.drift_start - EPOCH).days * DAY))
        shorter = F.col("promised_at") - F.expr("interval 20 minutes")
        orders = orders.withColumn("promised_at", F.when(is_drifted, shorter).otherwise(F.col("promised_at")))
    if settings.late_arrivals > 0:
        end = F.timestamp_seconds(F.lit(((settings.end - EPOCH).days + 1) * DAY))
        arrives = F.col("ordered_at") + F.make_dt_interval(days=number("arrival delay", 10) + 1)
        orders = orders.where(~number.hits("late_arrivals", settings.late_arrivals) | (arrives < end))
    if settings.deliveries_before_orders > 0:
        is_hit = number.hits("deliveries_before_orders", settings.deliveries_before_orders)
        earlier = F.col("ordered_at") - F.make_dt_interval(mins=number("minutes too early", 120) + 1)
        wrong = F.when(is_hit & F.col("delivered_at").isNotNull(), earlier).otherwise(F.col("delivered_at"))
        orders = orders.withColumn("delivered_at", wrong)
    if settings.duplicate_orders > 0:
        later = F.col("ordered_at") + F.make_dt_interval(mins=number("minutes later", 5) + 1)
        again = orders.where(number.hits("duplicate_orders", settings.duplicate_orders)).withColumn("ordered_at", later)
        orders = orders.unionByName(again)
    if settings.null_keys > 0:
        is_hit, which = number.hits("null_keys", settings.null_keys), number("null key", 2)
        customer_id = F.when(~is_hit | (which != 0), F.col("customer_id"))
        order_id = F.when(~is_hit | (which != 1), F.col("order_id"))
        orders = orders.withColumns({"customer_id": customer_id, "order_id": order_id})
    return orders


def _with_review_faults(reviews: DataFrame, settings: DemoSettings) -> DataFrame:
    number = _Hash(settings.seed, "order_id")
    is_hit = number.hits("out_of_range_scores", settings.out_of_range_scores)
    wrong = F.get(F.array(*map(F.lit, (0.0, 7.0, -1.0, 10.0))), number("wrong score", 4))
    return reviews.withColumn("review_score", F.when(is_hit, wrong).otherwise(F.col("review_score")))


def _with_segment_faults(customers: DataFrame, settings: DemoSettings) -> DataFrame:
    number = _Hash(settings.seed, "customer_id")
    is_hit = number.hits("unknown_segments", settings.unknown_segments)
    wrong = F.get(F.array(F.lit(None).cast("string"), F.lit("  "), F.lit("Legacy")), number("wrong segment", 3))
    return customers.withColumn("segment", F.when(is_hit, wrong).otherwise(F.col("segment")))


@dataclass(frozen=True)
class _Hash:
    """Numbers that belong to a row's key and a purpose, whatever the row's place."""

    seed: int
    key: str

    def __call__(self, purpose: str, below: int) -> Column:
        hashed = F.xxhash64(F.lit(purpose), F.lit(self.seed), F.col(self.key))
        return F.pmod(hashed, F.lit(below)).cast("int")

    def hits(self, fault: str, share: float) -> Column:
        return self(fault, 1_000_000) < round(share * 1_000_000)

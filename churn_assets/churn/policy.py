"""The business rules, read from `policy.toml` into one frozen, validated object. Where things run is not a policy."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from math import ceil
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from churn_assets.churn.catalogue import CATALOGUE, FEATURE_OF, Catalogue, FeatureSet, members
from churn_assets.churn.observed import FeatureRules
from churn_assets.churn.wording import RatingScale

Share = Annotated[float, Field(gt=0, lt=1)]
Days = Annotated[int, Field(ge=1, le=3650)]


class Section(BaseModel):
    # strict: a quoted number or a 1 for `true` is a mistake to report, not to guess at.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Windows(Section):
    """Days around an as-of date t: features look at [t - observation, t), the label at [t, t + outcome)."""

    observation_days: Days = 60
    outcome_days: Days = 30
    eligibility_days: Days = 30

    @model_validator(mode="after")
    def eligible_customers_are_observed(self) -> "Windows":
        if self.eligibility_days > self.observation_days:
            raise ValueError(
                f"eligibility_days ({self.eligibility_days}) must not exceed observation_days "
                f"({self.observation_days}): an eligible customer without an observed order has no features"
            )
        return self


class Churn(Section):
    """What leaving means, within the outcome window of an as-of date t.

    inactivity: no order. rate_drop: fewer orders than `rate_drop_share` of the customer's own rate in the observation
    window. long_gap: no order for `gap_multiple` times the customer's own median gap, the outcome window at most.
    """

    definition: Literal["inactivity", "rate_drop", "long_gap"] = "inactivity"
    rate_drop_share: Share = 0.5
    gap_multiple: Annotated[float, Field(gt=0, le=100)] = 3.0


class Cleaning(Section):
    """Which source rows can be believed. max_orders_per_day: of one customer; a person does not place more.

    max_unmatched_share: of reviews, customers, contacts and opt-outs, which are of no known order or customer.
    """

    # A shop that ships abroad takes months.
    max_delivery_hours: Annotated[float, Field(gt=0, le=8760)] = 24.0
    max_orders_per_day: Annotated[int, Field(ge=1, le=1_000_000)] = 24
    max_quarantined_share: Share = 0.05
    max_unmatched_share: Share = 0.20
    max_repaired_share: Share = 0.05
    watermark: date | None = None


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class Closure(Section):
    """Days on which nobody could order, `from` the first `to` the last."""

    # A version's own policy, as its run keeps it, names the field.
    model_config = ConfigDict(populate_by_name=True)

    begin: Annotated[date, Field(alias="from")]
    to: date

    @model_validator(mode="after")
    def begins_before_it_ends(self) -> "Closure":
        if self.begin > self.to:
            raise ValueError(f"from ({self.begin}) must not be after to ({self.to})")
        return self


class Calendar(Section):
    """When snapshots are taken, and which days of orders are complete.

    snapshots: "weekly" on `weekday`, or "daily"; then too those of `weekday` alone train and judge. min_day_share: of
    the orders that are usual on such a day; a day with fewer is not complete. min_gap_days: so many such days in a row
    are a gap, unless they are of `closures`. holidays: days on which few orders surprise nobody; they change nothing.
    """

    snapshots: Literal["weekly", "daily"] = "weekly"
    weekday: Annotated[Weekday, BeforeValidator(lambda day: day.lower() if isinstance(day, str) else day)] = "monday"
    min_day_share: Share = 0.3
    min_gap_days: Days = 7
    # A TOML array is a list, which could be changed.
    closures: Annotated[tuple[Closure, ...], Field(strict=False)] = ()
    holidays: Annotated[tuple[date, ...], Field(strict=False)] = ()

    @property
    def step_days(self) -> int:
        return 1 if self.snapshots == "daily" else 7

    @property
    def weekday_number(self) -> int:
        """0 = Monday."""
        return get_args(Weekday).index(self.weekday)

    @property
    def judged_weekday(self) -> int | None:
        """Of snapshots a day apart the weekday of those that train and judge; None where all of them do."""
        return self.weekday_number if self.snapshots == "daily" else None

    def judges(self, as_of: date) -> bool:
        """Whether a snapshot trains and judges: one a week does."""
        return self.judged_weekday in (None, as_of.weekday())

    def days_until_snapshot(self, day: date) -> int:
        """From `day` to the first snapshot at it or after it."""
        return 0 if self.snapshots == "daily" else (self.weekday_number - day.weekday()) % 7

    def cron(self, hour: int, how_often: Literal["weekly", "daily"]) -> str:
        """At `hour` o'clock UTC every day, or on the weekday of the weekly snapshots."""
        # Cron's Sunday is 0.
        return f"0 {hour} * * {'*' if how_often == 'daily' else (self.weekday_number + 1) % 7}"

    @property
    def date_name(self) -> str:
        """What an as-of date is, in a word."""
        return "day" if self.snapshots == "daily" else self.weekday.capitalize()

    def closure_of(self, day: date) -> Closure | None:
        return next((closure for closure in self.closures if closure.begin <= day <= closure.to), None)


class Freshness(Section):
    """How late and how unusual orders may be, and how old to act on.

    warn_lag_days, fail_lag_days: from the last complete day to the load. max_age_days: to now; with older orders no
    week is scored. warn_below to fail_above: of what is usual on such days. warn_load_change, fail_load_change: of the
    days that earlier loads had too. max_future_share: of a load's orders, after the present. today: the day to look at
    historical data from; None: by the clock.
    """

    warn_lag_days: Annotated[float, Field(ge=0, le=3650)] = 2.0
    fail_lag_days: Annotated[float, Field(ge=0, le=3650)] = 7.0
    max_age_days: Annotated[float, Field(ge=0, le=3650)] = 14.0
    warn_below: Share = 0.6
    fail_below: Share = 0.3
    warn_above: Annotated[float, Field(gt=1, le=100)] = 1.75
    fail_above: Annotated[float, Field(gt=1, le=100)] = 3.0
    warn_load_change: Share = 0.10
    fail_load_change: Share = 0.50
    max_future_share: Share = 0.05
    today: date | None = None

    @model_validator(mode="after")
    def warnings_come_first(self) -> "Freshness":
        for warn, fail in (
            ("warn_lag_days", "fail_lag_days"),
            ("fail_below", "warn_below"),
            ("warn_above", "fail_above"),
            ("warn_load_change", "fail_load_change"),
        ):
            if getattr(self, warn) > getattr(self, fail):
                raise ValueError(f"{warn} ({getattr(self, warn)}) must not exceed {fail} ({getattr(self, fail)})")
        return self


class Baseline(Section):
    """The retention team's rule, which a model must beat."""

    long_silence_days: Days = 14
    bad_review_score: Annotated[float, Field(ge=1, le=5)] = 2.0


class Split(Section):
    salt: Annotated[str, Field(min_length=1)] = "42"


class Alerts(Section):
    """Who is alerted. budget: of the eligible customers, the largest share the team can contact.

    threshold_by: of the cut-offs that keep the budget and the precision floor the one that finds the most churners of
    the validation rows ("recall"), or that earns most with them by [economics] ("profit").
    """

    budget: Share = 0.20
    threshold_by: Literal["recall", "profit"] = "recall"


class Gate(Section):
    """What a model has to show on the judged rows before it may be registered.

    evaluation: "holdout" judges on the test fold; "crossfit" on every customer, each scored by a model that never saw
    that customer, at the cost of four more fits; "backtest" at several dates, each with a fit of its own, see
    `splits.backtest_dates`. backtest_dates: how many; min_backtest_dates: with fewer no verdict is sought.
    min_dates_met: of the dates, the least share at which recall and rankings reach their limits.

    min_attainable_share: the least recall as a share of the attainable one, see `least_recall`; min_recall, where it is
    given, is the least instead. max_attainable_share: what either may ask for; above it nothing is trained.
    max_recall_interval: how wide the recall's interval may be; with fewer churners no verdict is sought.
    max_shortfall, min_gain_over_rule: differences of PR-AUC, see `Comparison`. max_miscalibration: the factor by which,
    beyond doubt, the probabilities may be too high or too low together, and their log-odds too steep or too flat.
    """

    evaluation: Literal["holdout", "crossfit", "backtest"] = "backtest"
    backtest_dates: Annotated[int, Field(ge=2, le=52)] = 5
    min_backtest_dates: Annotated[int, Field(ge=2, le=52)] = 3
    min_dates_met: Annotated[float, Field(gt=0, le=1)] = 0.6
    min_recall: Share | None = None
    min_attainable_share: Share = 0.30
    max_attainable_share: Share = 0.80
    precision_floor: Share = 0.25
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    max_recall_interval: Share = 0.20
    max_shortfall: Annotated[float, Field(ge=0, lt=1)] = 0.05
    min_gain_over_rule: Annotated[float, Field(gt=-1, lt=1)] = 0.0
    max_miscalibration: Annotated[float, Field(gt=1, le=100)] = 3.0

    @model_validator(mode="after")
    def enough_dates_are_asked_for(self) -> "Gate":
        if self.min_backtest_dates > self.backtest_dates:
            raise ValueError(
                f"min_backtest_dates ({self.min_backtest_dates}) must not exceed backtest_dates ({self.backtest_dates})"
            )
        return self

    def dates_to_meet(self, dates: int) -> int:
        """At how many of so many dates recall and rankings have to reach their limits."""
        # 0.07 * 100 is more than 7.
        return ceil(round(self.min_dates_met * dates, 9))


class Leakage(Section):
    """ROC-AUCs that only a look into the future reaches."""

    max_single_feature_auc: Annotated[float, Field(gt=0.5, le=1)] = 0.95
    max_model_auc: Annotated[float, Field(gt=0.5, le=1)] = 0.98


# MLflow takes no slash and no colon in a model's name; dots make the three parts of a Unity Catalog name.
ModelName = Annotated[str, Field(pattern=r"^[^/:\s]([^/:]*[^/:\s])?$")]
Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]


class Names(Section):
    """What the things of one environment are called, so that several share one MLflow server and one bucket.

    run: of a training in MLflow; {learner} is XGBoost or GBT. table_prefix: a folder of the lakehouse, or a catalog,
    that all tables and files of the environment lie under; none by default.
    """

    experiment: Name = "/Shared/QuickBite_Churn_Prediction"
    run: Name = "{learner}_Crisis_Aware_Pipeline"
    registered_model: ModelName = "quickbite_churn_predictor"
    table_prefix: Annotated[str, Field(pattern=r"^\w*$")] = ""


class Model(Section):
    """What is learned from, and how: a run's config may have other knobs than these.

    class_weights: "balanced" makes churners and others weigh the same in the fit, which costs calibration. estimator:
    who learns the trees. max_depth, iterations: of each tree, and how many. step_size: how much each corrects the ones
    before it. min_leaf_share: the smallest share of the training rows in a leaf. feature_share: of the features, which
    may be split by, drawn anew at each split. max_local_rows: of so many training rows XGBoost learns in this process;
    of more on all of a cluster's workers together.
    """

    feature_set: FeatureSet = "crisis_aware"
    class_weights: Literal["none", "balanced"] = "none"
    estimator: Literal["gbt", "xgboost"] = "xgboost"
    max_depth: Annotated[int, Field(ge=1, le=12)] = 5
    iterations: Annotated[int, Field(ge=1, le=500)] = 20
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_leaf_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.0125
    feature_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_local_rows: Annotated[int, Field(ge=0)] = 5_000_000

    @property
    def knobs(self) -> dict[str, Any]:
        """The hyperparameters, by name."""
        return self.model_dump(include=KNOBS)


class Promotion(Section):
    """auto: a version that passed is promoted at once; manual: a person launches the job promote_staging_model."""

    mode: Literal["auto", "manual"] = "auto"


class Automation(Section):
    """refresh: how often the schedule builds the features; None: as often as there are snapshots.

    retrain_cooldown_hours: between the sensor's retrainings.

    retrain_on: "refresh" retrains on every change of the features; "decision" only while retrain_decision says so.
    """

    refresh: Literal["weekly", "daily"] | None = None
    retrain_on: Literal["refresh", "decision"] = "refresh"
    retrain_cooldown_hours: Annotated[float, Field(ge=0, le=24 * 365)] = 12.0


class Notices(Section):
    """What people are told of beside failures and decisions. warnings: of these checks, by name; "all": of each."""

    # A TOML array is a list, which could be changed.
    warnings: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()

    def tells_warning_of(self, check: str) -> bool:
        return "all" in self.warnings or check in self.warnings


# A TOML array is a list, which could be changed.
OddsOfTiers = tuple[Annotated[float, Field(gt=0, le=1000)], Annotated[float, Field(gt=0, le=1000)]]


class Scoring(Section):
    """Where the risk tiers "high" and "medium" begin; below both is "low", though nobody with an alert is.

    tier_odds: times the odds of leaving among all customers whose outcome is known, so that the tiers follow the data's
    churn rate. tier_probabilities: churn probabilities in their place.
    """

    tier_odds: Annotated[OddsOfTiers, Field(strict=False)] = (4.0, 1.5)
    tier_probabilities: Annotated[tuple[Share, Share] | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def tiers_are_in_order(self) -> "Scoring":
        for name, limits in (("tier_odds", self.tier_odds), ("tier_probabilities", self.tier_probabilities)):
            if limits is not None and limits[1] >= limits[0]:
                raise ValueError(
                    f"{name}: that of medium ({limits[1]}) must be below that of high ({limits[0]}), "
                    "or nobody is of medium risk"
                )
        return self

    def least_probabilities(self, churn_rate: float) -> tuple[float, float]:
        """The least churn probability of tier "high" and of "medium" where `churn_rate` (0 to 1) of the known left."""
        high, medium = self.tier_odds
        return self.tier_probabilities or (_times_odds(churn_rate, high), _times_odds(churn_rate, medium))


def _times_odds(share: float, times: float) -> float:
    """The share whose odds are `times` those of `share`."""
    return times * share / (1 - share + times * share)


class Action(Section):
    """What to offer whom: the first action whose conditions a customer meets. reason: a feature that is among
    their reasons, or one about the same."""

    action: Annotated[str, Field(min_length=1)]
    risk_tier: Literal["high", "medium", "low"] | None = None
    reason: str | None = None
    min_value_at_risk: Annotated[float, Field(ge=0)] | None = None

    @property
    def is_for_everyone(self) -> bool:
        return self.risk_tier is None and self.reason is None and self.min_value_at_risk is None


class Retention(Section):
    """Who is listed for the retention team. holdout_share: of a list, not contacted, so that the effect is measured.

    rank_by: "expected_profit" of the best action, as [economics] has it, leaves out whom no action pays for; "uplift",
    what a contact takes off the chance of leaving, ranks once its own gate says PASS and leaves out whom it keeps
    nobody of; until then the value at risk does. exploration_share: of a list's places, where rank_by is "uplift",
    drawn at random among who else could be listed. min_held_out: customers of used lists with a known outcome, and as
    many contacted, before that gate judges.
    contact_pause_days: nobody is listed again for so long after a contact, and never within the outcome window.
    weekly_capacity: customers, if less than the alert budget. max_unmatched_opt_outs: where it is given, no list is
    made while a larger share of the opt-outs is of no known customer; else they warn like the other tables.
    """

    rank_by: Literal["value_at_risk", "uplift", "expected_profit"] = "value_at_risk"
    holdout_share: Annotated[float, Field(ge=0, le=0.5)] = 0.10
    exploration_share: Annotated[float, Field(ge=0, le=0.5)] = 0.10
    min_held_out: Annotated[int, Field(ge=100, le=1_000_000)] = 500
    contact_pause_days: Days = 42
    weekly_capacity: Annotated[int, Field(ge=1)] | None = None
    max_unmatched_opt_outs: Annotated[float, Field(ge=0, lt=1)] | None = None
    # A TOML array is a list, which could be changed.
    actions: Annotated[tuple[Action, ...], Field(strict=False, min_length=1)] = (
        Action(action="personal call", risk_tier="high", min_value_at_risk=40.0),
        Action(action="apology with free delivery", reason="recent_delay_minutes"),
        Action(action="apology with free delivery", reason="late_order_ratio"),
        Action(action="voucher", risk_tier="high"),
        Action(action="reminder"),
    )

    @model_validator(mode="after")
    def everyone_gets_an_action(self) -> "Retention":
        if not self.actions[-1].is_for_everyone:
            raise ValueError("the last of actions must be for everyone: action alone, without a condition")
        return self


class Offer(Section):
    """What one action costs and does, in the currency of the orders. contact_cost: of each customer it is tried on.

    offer_cost: of each who takes it. acceptance: of those about to leave, the share that it keeps. weekly_capacity:
    customers; None: as many as are listed.
    """

    contact_cost: Annotated[float, Field(ge=0)] = 0.0
    offer_cost: Annotated[float, Field(ge=0)] = 0.0
    acceptance: Annotated[float, Field(gt=0, le=1)]
    weekly_capacity: Annotated[int, Field(ge=0)] | None = None


class Economics(Section):
    """What keeping a customer is worth. margin: of what is spent, the share that is profit.

    lifetime_days: for how long a kept customer goes on spending as in the observation window. actions: by the names of
    retention.actions.
    """

    margin: Annotated[float, Field(gt=0, le=1)]
    lifetime_days: Days
    actions: Mapping[str, Offer]


class Monitoring(Section):
    """How far a scored week may be from what was trained on, and when that asks for a retraining.

    warn_psi, fail_psi: of the population stability index beyond what the training data's own weeks differ by.
    confidence: that chance raises no psi alarm in a week without drift. fail_budget_multiple: of the alert budget.
    retrain_weeks, calm_weeks: how many in a row say retrain, and take it back.
    """

    warn_psi: Annotated[float, Field(gt=0, le=10)] = 0.10
    fail_psi: Annotated[float, Field(gt=0, le=10)] = 0.25
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.999
    warn_unseen_segments: Share = 0.01
    fail_unseen_segments: Share = 0.05
    fail_budget_multiple: Annotated[float, Field(ge=1.1, le=10)] = 1.5
    retrain_weeks: Annotated[int, Field(ge=1, le=52)] = 2
    calm_weeks: Annotated[int, Field(ge=1, le=52)] = 2

    @model_validator(mode="after")
    def warnings_come_first(self) -> "Monitoring":
        for name, warn, fail in (
            ("psi", self.warn_psi, self.fail_psi),
            ("unseen_segments", self.warn_unseen_segments, self.fail_unseen_segments),
        ):
            if warn > fail:
                raise ValueError(f"warn_{name} ({warn}) must not exceed fail_{name} ({fail}), or nothing only warns")
        return self


class TierNames(Section):
    """What people call the risk tiers. Tables hold high, medium and low whatever these are."""

    high: Annotated[str, Field(min_length=1, max_length=30)] = "high"
    medium: Annotated[str, Field(min_length=1, max_length=30)] = "medium"
    low: Annotated[str, Field(min_length=1, max_length=30)] = "low"

    @model_validator(mode="after")
    def names_differ(self) -> "TierNames":
        if len({self.high, self.medium, self.low}) < 3:
            raise ValueError(f"high ({self.high}), medium ({self.medium}) and low ({self.low}) must differ")
        return self

    def of(self, tier: str) -> str:
        """The name of a tier of the tables."""
        name: str = getattr(self, tier)
        return name


class Units(Section):
    """How figures are said to people. currency: behind amounts of money, as in "30,169 EUR"; empty: no word.

    rating: what ratings count; rating_scale: the worst and the best that customers can give, which reviews of 1 to 5
    are said in, as in "rated us 3.1 points". tiers: what the risk tiers are called on the list and in the report.
    """

    currency: Annotated[str, Field(pattern=r"^\S*$", max_length=8)] = ""
    rating: Annotated[str, Field(min_length=1, max_length=20)] = "stars"
    rating_scale: Annotated[tuple[float, float], Field(strict=False)] = (1.0, 5.0)
    tiers: TierNames = TierNames()

    @field_validator("rating_scale")
    @classmethod
    def worst_is_below_best(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError(f"the worst rating ({scale[0]:g}) must be below the best ({scale[1]:g})")
        return scale

    @property
    def scale(self) -> RatingScale:
        return RatingScale(self.rating, *self.rating_scale)


class ChurnPolicy(Section):
    """All business rules of one installation, about the features of a catalogue: given as context of the validation,
    else those that are computed from orders."""

    _catalogue: Catalogue = PrivateAttr(default=CATALOGUE)

    windows: Windows = Windows()
    churn: Churn = Churn()
    crisis_delay_minutes: Annotated[float, Field(gt=0, le=1440)] = 45.0
    cleaning: Cleaning = Cleaning()
    calendar: Calendar = Calendar()
    freshness: Freshness = Freshness()
    baseline: Baseline = Baseline()
    split: Split = Split()
    alerts: Alerts = Alerts()
    gate: Gate = Gate()
    leakage: Leakage = Leakage()
    model: Model = Model()
    promotion: Promotion = Promotion()
    automation: Automation = Automation()
    notices: Notices = Notices()
    names: Names = Names()
    # The other environments of the same MLflow server and lakehouse, by what a person calls them.
    environments: Mapping[str, Names] = {}
    scoring: Scoring = Scoring()
    monitoring: Monitoring = Monitoring()
    retention: Retention = Retention()
    # Without it nothing is said of profit, and each customer is offered the first action that fits.
    economics: Economics | None = None
    units: Units = Units()

    @model_validator(mode="after")
    def fits_its_catalogue(self, info: ValidationInfo) -> "ChurnPolicy":
        self._catalogue = (info.context or {}).get("catalogue", CATALOGUE)
        # An action for a reason that only orders give fits nobody of a ready feature table; no more is wrong with it.
        known = {**FEATURE_OF, **self.catalogue.of}
        unknown = [each.reason for each in self.retention.actions if each.reason not in (None, *known)]
        if unknown:
            raise ValueError(f"retention.actions: reason ({unknown[0]}) must be a feature: {', '.join(known)}")
        delivered = self.catalogue.delivered
        if delivered is not None and self.retention.max_unmatched_opt_outs is not None:
            raise ValueError(
                "retention.max_unmatched_opt_outs must be left out with [features] in sources.toml: opt-outs are "
                "matched with orders and customers, of which there are none"
            )
        if delivered is not None and self.economics is not None:
            raise ValueError(
                "economics must be left out with [features] in sources.toml: it counts what customers spend in the "
                "observation window, which nobody here knows of such a table"
            )
        if delivered is not None and delivered.outcome_days not in (None, self.windows.outcome_days):
            raise ValueError(
                f"windows.outcome_days ({self.windows.outcome_days}) must be the outcome_days of [features] in "
                f"sources.toml ({delivered.outcome_days}): a split by another number learns from outcomes unknown then"
            )
        return self

    @model_validator(mode="after")
    def every_action_has_its_economics(self) -> "ChurnPolicy":
        if self.economics is None:
            if self.retention.rank_by == "expected_profit":
                raise ValueError('retention.rank_by ("expected_profit") needs [economics]: what a customer is worth')
            if self.alerts.threshold_by == "profit":
                raise ValueError('alerts.threshold_by ("profit") needs [economics]: what a customer is worth')
            return self
        named, priced = {each.action for each in self.retention.actions}, set(self.economics.actions)
        for missing in sorted(named - priced):
            raise ValueError(f'economics.actions: "{missing}" of retention.actions is missing')
        for unknown in sorted(priced - named):
            raise ValueError(f'economics.actions: "{unknown}" is no action of retention.actions')
        return self

    @model_validator(mode="after")
    def every_snapshot_is_built(self) -> "ChurnPolicy":
        if self.catalogue.has_orders and (self.calendar.snapshots, self.automation.refresh) == ("daily", "weekly"):
            raise ValueError(
                'automation.refresh ("weekly") must be "daily", or left out, where calendar.snapshots is "daily"'
            )
        return self

    def attainable_recall(self, churn_rate: float) -> float:
        """What a perfect ranking reaches within the alert budget where `churn_rate` (0 to 1, above 0) leave."""
        return min(1.0, self.alerts.budget / churn_rate)

    def least_recall(self, churn_rate: float) -> float:
        """What the recall's lower bound has to reach where `churn_rate` (0 to 1, above 0) leave.

        As a share of the attainable recall it is the alert budget at least, for that is what alerting at random finds.
        """
        if self.gate.min_recall is not None:
            return self.gate.min_recall
        return max(self.gate.min_attainable_share * self.attainable_recall(churn_rate), self.alerts.budget)

    @property
    def refresh(self) -> Literal["weekly", "daily"]:
        """How often the features are built."""
        return self.automation.refresh or self.as_of_dates.snapshots

    @property
    def as_of_dates(self) -> Calendar:
        """The calendar of the panel's dates: a ready feature table declares itself whether it has one a day."""
        delivered = self.catalogue.delivered
        if delivered is None:
            return self.calendar
        return self.calendar.model_copy(update={"snapshots": "daily" if delivered.every == "day" else "weekly"})

    @property
    def catalogue(self) -> Catalogue:
        """The features that the rules are about."""
        return self._catalogue

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that the model uses, in the catalogue's order."""
        return members(self.catalogue.features, self.model.feature_set)

    @property
    def days_between_lists(self) -> int:
        """Days from a contact to the next list: the outcome window at least, so that no two campaigns share one."""
        return max(self.retention.contact_pause_days, self.windows.outcome_days)

    @property
    def lists_of_a_week(self) -> int:
        """How many lists share what can be done in a week."""
        return 7 // self.as_of_dates.step_days

    @property
    def ranked_by(self) -> Literal["value_at_risk", "expected_profit", "churn_probability"]:
        """What the lists rank by without an estimate of what contacts change: where a ready feature table declares no
        value, the probability alone."""
        delivered, rank_by = self.catalogue.delivered, self.retention.rank_by
        if delivered is not None and delivered.value is None:
            return "churn_probability"
        return "value_at_risk" if rank_by == "uplift" else rank_by

    @property
    def feature_rules(self) -> FeatureRules:
        windows = self.windows
        return FeatureRules(
            observation_days=windows.observation_days,
            eligibility_days=windows.eligibility_days,
            outcome_days=windows.outcome_days,
            crisis_delay_minutes=self.crisis_delay_minutes,
        )

    @property
    def digest(self) -> str:
        """A short hash of every rule that judges, and of the features that the feature set holds.

        Who promotes, what runs when and what is made of scores is no such rule, but for what the threshold is chosen
        by; nor how the trees are learned, because whichever came of it is judged.
        """
        left_out: Any = {"model": {*KNOBS, "max_local_rows"}} | dict.fromkeys(SECTIONS_THAT_DO_NOT_JUDGE, True)
        rules = self.model_dump(mode="json", exclude=left_out)
        if self.alerts.threshold_by == "profit":
            rules |= self.model_dump(mode="json", include=SECTIONS_THAT_SAY_WHAT_IS_EARNED)
        return _digest(rules | {"features": self.features} | self.catalogue.declaration())

    def panel_digest(self, code: str) -> str:
        """A short hash of what decides the rows of the panel: what is an order, a feature, a churner.

        code: a hash of the code that computes the values; nothing in `churn/` reads files, so the caller has it. Of a
        panel that others computed it is what they declare.
        """
        if declaration := self.catalogue.declaration():
            return _digest(declaration)
        rules = self.model_dump(mode="json", include=PANEL_SECTIONS)
        return _digest(rules | {"features": list(FEATURE_OF), "code": code})


KNOBS = {"estimator", "max_depth", "iterations", "step_size", "min_leaf_share", "feature_share"}
SECTIONS_THAT_DO_NOT_JUDGE = {
    "freshness",
    "promotion",
    "automation",
    "notices",
    "names",
    "environments",
    "scoring",
    "retention",
    "economics",
    "monitoring",
    "units",
}
SECTIONS_THAT_SAY_WHAT_IS_EARNED: Any = {"economics": True, "scoring": True, "retention": {"actions"}}
PANEL_SECTIONS = {"windows", "churn", "crisis_delay_minutes", "cleaning", "calendar", "baseline"}


def _digest(rules: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]

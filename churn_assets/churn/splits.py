"""Which rows train, which choose the threshold and which test: out of sample by customer, out of time by date."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.errors import NoLabelledSnapshotError
from churn_assets.churn.policy import ChurnPolicy

FOLDS = 100
TEST_FOLDS = range(20)
VALIDATION_FOLDS = range(20, 36)
# Turning the folds by a fifth of them gives each customer to the test exactly once.
CROSSFIT_FOLDS = range(FOLDS // len(TEST_FOLDS))
VALIDATION_SHARE = len(VALIDATION_FOLDS) / FOLDS


@dataclass(frozen=True)
class SplitDates:
    """test: the latest as-of date with known labels. train: the as-of dates whose outcome window ended by then.

    is_out_of_time is False where no earlier outcome was known by the test date: then other customers of the same date
    train, and the test is out of sample only.
    """

    test: date
    train: tuple[date, ...]
    is_out_of_time: bool


def fold(customer_id: Column, salt: str, crossfit_fold: int = 0) -> Column:
    """0 to 99, by a hash of the customer alone, so that no row count, order or partitioning moves anyone.

    crossfit_fold: how many fifths the folds are turned back by, to cross-fit; 0 is the registered model's split.
    """
    hashed = F.xxhash64(F.concat(F.lit(f"{salt}:"), customer_id))
    # pmod, because a signed remainder would put 10 % in the test folds.
    return F.pmod(F.pmod(hashed, F.lit(FOLDS)) - crossfit_fold * len(TEST_FOLDS), F.lit(FOLDS)).cast("int")


def split_dates(panel: DataFrame, policy: ChurnPolicy) -> SplitDates:
    """The dates of the split of `panel` (as_of, label).

    Raises NoLabelledSnapshotError if no label is known yet.
    """
    labelled = panel.where("label is not null").select("as_of").distinct().orderBy("as_of")
    return dates_of([row.as_of for row in labelled.collect()], policy)


def dates_of(labelled: Sequence[date], policy: ChurnPolicy) -> SplitDates:
    """The split of a panel with labels at the dates `labelled`, ascending; of daily ones a date a week counts.

    Raises NoLabelledSnapshotError.
    """
    labelled = [day for day in labelled if policy.as_of_dates.judges(day)]
    if not labelled:
        days = policy.windows.outcome_days
        raise NoLabelledSnapshotError(
            "No snapshot has a known label yet.",
            [f"a label is known {days} days after its as-of date; the orders end before that, or a gap lies between"],
            next_step="provide more orders, or shorten windows.outcome_days or observation_days in policy.toml; gaps "
            "are named by the check orders_without_gaps",
        )
    test = labelled[-1]
    train = tuple(day for day in labelled if day + timedelta(days=policy.windows.outcome_days) <= test)
    return SplitDates(test, train or (test,), bool(train))


def backtest_dates(labelled: Sequence[date], policy: ChurnPolicy) -> list[SplitDates]:
    """The splits that a backtest judges at, the latest first: `gate.backtest_dates`, or as many as there are.

    In: as `dates_of`. Each is out of time. They lie an outcome window apart where the history is long enough, else as
    far as it lets them: outcome windows that overlap share a week's luck. None where no outcome was known by any date.
    """
    judging = [day for day in labelled if policy.as_of_dates.judges(day)]
    found = [dates_of(judging[:end], policy) for end in range(len(judging), 0, -1)]
    possible = [dates for dates in found if dates.is_out_of_time]
    furthest = max(1, (len(possible) - 1) // (policy.gate.backtest_dates - 1))
    window = timedelta(days=policy.windows.outcome_days)
    step = next((step for step in range(1, furthest) if possible[0].test - possible[step].test >= window), furthest)
    return possible[::step][: policy.gate.backtest_dates]


def backtest_fold(place: int) -> int:
    """The fold that is judged at one of the dates of a backtest, the latest of which has place 0 and the model's own.

    Each date judges other customers than the dates before, until all have been: nothing that a customer does twice
    counts twice, as long as there are no more dates than folds.
    """
    return CROSSFIT_FOLDS[place % len(CROSSFIT_FOLDS)]


def train_rows(panel: DataFrame, dates: SplitDates, policy: ChurnPolicy, crossfit_fold: int = 0) -> DataFrame:
    """The rows of `panel` that may be learned from, with `fold` (validation folds included)."""
    rows = panel.where(F.col("as_of").isin(list(dates.train)))
    return rows.withColumn("fold", fold(F.col("customer_id"), policy.split.salt, crossfit_fold)).where(
        F.col("fold") >= TEST_FOLDS.stop
    )


def held_out_rows(panel: DataFrame, dates: SplitDates, policy: ChurnPolicy, crossfit_fold: int = 0) -> DataFrame:
    """The rows of `panel` that judge: the test customers at the test date, with `fold`."""
    rows = panel.where(F.col("as_of") == F.lit(dates.test))
    return rows.withColumn("fold", fold(F.col("customer_id"), policy.split.salt, crossfit_fold)).where(
        F.col("fold") < TEST_FOLDS.stop
    )


def current_rows(panel: DataFrame, dates: SplitDates, policy: ChurnPolicy, crossfit_fold: int = 0) -> DataFrame:
    """What is known at the test date of the customers outside the test folds; the label is withheld (null).

    It stands for the snapshot a model will serve, whose outcome nobody knows when the model is made.
    """
    rows = panel.where(F.col("as_of") == F.lit(dates.test)).withColumn("label", F.lit(None).cast("double"))
    return rows.where(fold(F.col("customer_id"), policy.split.salt, crossfit_fold) >= TEST_FOLDS.stop)


def is_validation() -> Column:
    """Whether a training row belongs to the fold the threshold is chosen on."""
    return F.col("fold").between(VALIDATION_FOLDS.start, VALIDATION_FOLDS.stop - 1)


def judged_share(policy: ChurnPolicy) -> float:
    """Of the customers of a judged date, the share that the verdict rests on: those of the test folds, or all."""
    return 1.0 if policy.gate.evaluation == "crossfit" else len(TEST_FOLDS) / FOLDS

"""What a table must satisfy before anyone may rely on it. Each rule says what it observed, what is allowed and where.

The same functions audit rows before they are published and check the table as it stands, whoever wrote it.
"""

from calendar import monthrange
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import reduce
from math import isfinite, sqrt
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from churn_assets.churn.calendar import AsOfCalendar, each_date
from churn_assets.churn.catalogue import CATALOGUE, FEATURES, Catalogue, Feature
from churn_assets.churn.cleaning import CANCELLED, QUARANTINED, REPAIRED, REVIEW_STATES, SUPERSEDED
from churn_assets.churn.delivered import Delivered, Step
from churn_assets.churn.errors import SourceSchemaError
from churn_assets.churn.features import customer_snapshots, feature_panel, of_active_customers
from churn_assets.churn.labels import with_labels
from churn_assets.churn.outcomes import MAX_KEYS, Figure, Outcome, none_of, share_up_to, told_apart
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.splits import TEST_FOLDS
from churn_assets.churn.tables import BLANKS, SourceTable, any_of, check_source_schema, united

COLUMNS_AND_TYPES = "columns_and_types"
ONE_ROW_EACH = "one_row_per_customer_and_date"
PANEL_RULES = (
    COLUMNS_AND_TYPES,
    "no_nulls",
    "ranges",
    ONE_ROW_EACH,
    "label_is_binary",
    "no_empty_snapshot",
    "informative_features",
)
NO_FUTURE_LEAKAGE = "no_future_leakage"
AS_REBUILT = "as_rebuilt"
PANEL_CHECKS = (*PANEL_RULES, NO_FUTURE_LEAKAGE)
WITHOUT_THE_FUTURE = "the features are the same without all that happened from the date on"
COMPUTED_AGAIN = "the rows are those that the orders give when the date is computed again"


def panel_schema(catalogue: Catalogue) -> T.StructType:
    """The columns of `ml_churn_features` with the features of this catalogue."""
    return T.StructType(
        [
            T.StructField("customer_id", T.StringType()),
            T.StructField("as_of", T.DateType()),
            *[T.StructField(feature.name, T.DoubleType()) for feature in catalogue.features],
            T.StructField("label", T.DoubleType()),
        ]
    )


PANEL_SCHEMA = panel_schema(CATALOGUE)


def panel_outcomes(
    panel: DataFrame,
    rules: Collection[str] = PANEL_RULES,
    catalogue: Catalogue = CATALOGUE,
    calendar: AsOfCalendar | None = None,
) -> list[Outcome]:
    """Those of the `rules` of `ml_churn_features` that are asked for, from one query over `panel`.

    Only for each broken rule there is another, which finds its first offenders. calendar: that of the orders; None
    where they are not known: then the panel has to have a snapshot a week.
    """
    return _outcomes_by(_facts(panel, rules, catalogue), panel, rules, catalogue, calendar)


@dataclass(frozen=True)
class Standing:
    """The rows of other dates that stay beside those of a panel that are new, and what is known of them.

    is_labelled: whether the label of each date is known. bounds: of each feature; None where no audit let these rows
    through by the rules of today.
    """

    rows: DataFrame
    is_labelled: Mapping[date, bool]
    bounds: Mapping[str, tuple[float, float]] | None


def audit_outcomes(
    panel: DataFrame,
    silver: DataFrame,
    policy: ChurnPolicy,
    calendar: AsOfCalendar | None = None,
    standing: Standing | None = None,
) -> list[Outcome]:
    """All rules of `ml_churn_features`, computed from the `silver` orders by this policy: `future_outcome` is last.

    standing: the rest of the table, whose rows are read only where no audit has seen them.
    """
    whole = panel if standing is None else panel.unionByName(standing.rows)
    is_seen = standing is not None and standing.bounds is not None
    judged = panel if is_seen else whole
    facts = _facts(judged, PANEL_RULES, CATALOGUE)
    if facts is not None and standing is not None:
        facts = facts.beside(standing)
    outcomes = _outcomes_by(facts, judged, PANEL_RULES, CATALOGUE, calendar)
    if facts is None or not set(PANEL_SCHEMA.names) <= set(panel.columns):
        return [*outcomes, unevaluable_future("columns are missing")]
    return [*outcomes, _future_outcome_at(facts.latest_labelled, whole, silver, policy)]


def require_whole_dates(rows: DataFrame, column: str) -> None:
    """Raises SourceSchemaError if the times in `column` have a time of day: a snapshot is of 00:00 UTC.

    To cut it off would have features of the day be known before it began.
    """
    kind = rows.schema[column].dataType
    if isinstance(kind, T.StringType):
        # 00:00 of any zone but UTC is a time of day too.
        is_late = F.trim(column).rlike("[ T].*[1-9]")
    elif isinstance(kind, (T.TimestampType, T.TimestampNTZType)):
        is_late = F.date_trunc("day", F.col(column)) != F.col(column)
    else:
        return
    late = rows.where(is_late).count()
    if late:
        raise SourceSchemaError(
            "A snapshot is of a date, at 00:00 UTC.",
            [f"{column}: {late:,} rows have a time of day"],
            next_step=f"map {column} by `select` to the first date after all that the features know",
        )


def delivered_outcomes(panel: DataFrame, catalogue: Catalogue, today: date) -> list[Outcome]:
    """All rules of a ready feature table: whether it has seen the future, which its rows cannot tell, is last."""
    assert catalogue.delivered is not None, "a catalogue of features that others compute"
    facts = _facts(panel, PANEL_RULES, catalogue)
    outcomes = _outcomes_by(facts, panel, PANEL_RULES, catalogue)
    labelled = [row["as_of"] for row in facts.dates if row["labels"] and row["as_of"]] if facts else []
    return [*outcomes, attested_outcome(catalogue.delivered, max(labelled, default=None), today)]


def attested_outcome(delivered: Delivered, last_labelled: date | None, today: date) -> Outcome:
    """Whether a panel without orders may be believed not to have seen the future: somebody has to vouch for it.

    last_labelled: the latest as-of date with a label. One whose outcome window is not over yet disproves who vouches.
    """
    allowed = f"{WITHOUT_THE_FUTURE}, or somebody attests it by name; no label before its outcome is known"
    if delivered.attestation is None:
        observed = (
            "not evaluable: there are no orders to see it by, and nobody attests it (attested_by and attested_reason "
            "under [features] in sources.toml)"
        )
        return Outcome(NO_FUTURE_LEAKAGE, False, observed, allowed)
    last_known = delivered.last_known(today)
    if last_labelled is not None and last_known is not None and last_labelled > last_known:
        observed = (
            f"labels at {last_labelled}, whose outcome of {delivered.outcome_days} days nobody can know on {today}; "
            f"yet {delivered.attestation}"
        )
        return Outcome(NO_FUTURE_LEAKAGE, False, observed, allowed)
    return Outcome(NO_FUTURE_LEAKAGE, True, delivered.attestation, allowed)


def _not_evaluable(rule: str) -> Outcome:
    return Outcome(rule, False, "not evaluable: key or label column is missing", "key and label columns are there")


def panel_schema_outcome(schema: T.StructType, catalogue: Catalogue = CATALOGUE) -> Outcome:
    """Whether `ml_churn_features` has the columns of `panel_schema` and no others."""
    actual = {field.name: field.dataType.simpleString() for field in schema}
    wanted = {field.name: field.dataType.simpleString() for field in panel_schema(catalogue)}
    wrong = [
        f"{name}: {actual.get(name, 'missing')} instead of {kind}"
        for name, kind in wanted.items()
        if actual.get(name) != kind
    ]
    wrong += [f"{name}: not in the catalogue" for name in actual if name not in wanted]
    return Outcome(COLUMNS_AND_TYPES, not wrong, "; ".join(wrong) or f"{len(wanted)} columns", "the declared columns")


@dataclass(frozen=True)
class _Facts:
    """What one query tells of a panel. dates: a row for each as-of date (null: for rows without one).

    offenders: the rows that break each rule. bounds: of each feature, minima and maxima, None where there is no value.
    """

    dates: list[dict[str, Any]]
    offenders: dict[str, int]
    bounds: dict[str, list[float | None]]

    @property
    def latest_labelled(self) -> date | None:
        """The latest as-of date with a label; the latest of all where none has one."""
        dated = [row for row in self.dates if row["as_of"] is not None]
        labelled = [row for row in dated if row["labels"]]
        return max((row["as_of"] for row in labelled or dated), default=None)

    def beside(self, standing: Standing) -> "_Facts":
        """With what is known of the rows that stay: they break no rule."""
        if standing.bounds is None:
            return self
        dates = [{"as_of": day, "labels": is_known} for day, is_known in standing.is_labelled.items()]
        bounds = {name: [*ends, *standing.bounds.get(name, ())] for name, ends in self.bounds.items()}
        return replace(self, dates=[*self.dates, *dates], bounds=bounds)


def _facts(panel: DataFrame, rules: Collection[str], catalogue: Catalogue) -> _Facts | None:
    """None where the panel lacks what the rules are told by. What the `rules` do not ask for is left out."""
    if not {"customer_id", "as_of", "label"} <= set(panel.columns):
        return None
    panel, features = _with_dates(panel), _present(panel, catalogue)
    of_rows = [rule for rule in OFFENDERS_ALLOWED if rule != ONE_ROW_EACH]
    passes = []
    if set(rules) - {COLUMNS_AND_TYPES, ONE_ROW_EACH}:
        passes.append(_by_date(panel, features))
    if ONE_ROW_EACH in rules:
        passes.append(_copies(panel).agg(F.coalesce(F.sum("copies"), F.lit(0)).alias(ONE_ROW_EACH)))
    rows = [row.asDict() for row in reduce(united, passes).collect()] if passes else []
    dates = [row for row in rows if row.get("rows") is not None]
    offenders = {rule: sum(row[rule] for row in dates) for rule in of_rows}
    offenders[ONE_ROW_EACH] = sum(row.get(ONE_ROW_EACH) or 0 for row in rows)
    bounds = {
        feature.name: [row[f"{end} {feature.name}"] for row in dates for end in ("low", "high")] for feature in features
    }
    return _Facts(dates, offenders, bounds)


def _with_dates(panel: DataFrame) -> DataFrame:
    # A key of another type breaks `columns_and_types`; the other rules still judge its rows.
    return panel.withColumn("as_of", F.col("as_of").cast("string").try_cast("date"))


def _present(panel: DataFrame, catalogue: Catalogue) -> list[Feature]:
    return [feature for feature in catalogue.features if feature.name in panel.columns]


def _by_date(panel: DataFrame, features: Sequence[Feature]) -> DataFrame:
    """For each as_of: rows, labels, offenders of each rule that a row breaks by itself, the features' bounds."""
    offenders = [F.count_if(condition).alias(rule) for rule, condition in _broken(features).items()]
    values = {feature.name: F.col(feature.name).try_cast("double") for feature in features}
    bounds = [bound.alias(f"{end} {name}") for name, value in values.items() for end, bound in _ends(value).items()]
    counts = [F.count(F.lit(1)).alias("rows"), F.count("label").alias("labels")]
    return panel.groupBy("as_of").agg(*counts, *offenders, *bounds)


def _ends(value: Column) -> dict[str, Column]:
    # Where a NaN is among the values, the greatest of some engines depends on the order of the rows.
    known = F.when(~F.isnan(value), value)
    return {"low": F.min(known), "high": F.max(known)}


def _broken(features: Sequence[Feature]) -> dict[str, Column]:
    """Whether a row breaks each rule that it can break by itself."""
    # With blanks around it a key would meet neither an opt-out nor a contact, which are compared without.
    is_padded = F.col("customer_id").cast("string") != F.btrim(F.col("customer_id").cast("string"), F.lit(BLANKS))
    values = [(feature, F.col(feature.name).try_cast("double")) for feature in features]
    is_null = [value.isNull() | F.isnan(value) for _, value in values]
    has_null = any_of([F.col("customer_id").isNull(), is_padded, F.col("as_of").isNull(), *is_null])
    is_outside = any_of(
        F.coalesce(~F.isnan(value) & ~_is_within(value, feature), F.lit(False)) for feature, value in values
    )
    label = F.col("label").try_cast("double")
    is_label_wrong = F.col("label").isNotNull() & ~F.coalesce(label.isin(0.0, 1.0), F.lit(False))
    return {"no_nulls": has_null, "ranges": is_outside, "label_is_binary": is_label_wrong}


def _copies(panel: DataFrame) -> DataFrame:
    """The keys that several rows share, with their number, `copies`.

    A grouping of the two keys alone: a window over whole rows was half of the work of all rules (2026-11-25).
    """
    return panel.groupBy("customer_id", "as_of").agg(F.count(F.lit(1)).alias("copies")).where("copies > 1")


def _first_offenders(panel: DataFrame, rule: str, catalogue: Catalogue) -> list[str]:
    """The first keys of rows that break the rule, one for each row."""
    panel = _with_dates(panel)
    if rule == ONE_ROW_EACH:
        offenders = _copies(panel)
    else:
        offenders = panel.where(_broken(_present(panel, catalogue))[rule]).withColumn("copies", F.lit(1))
    first = offenders.select(_key().alias("key"), "copies").orderBy("key").limit(MAX_KEYS).collect()
    return sorted(row["key"] for row in first for _ in range(row["copies"]))[:MAX_KEYS]


def _key() -> Column:
    names = ("customer_id", "as_of")
    return F.concat_ws(" at ", *[F.coalesce(F.col(name).cast("string"), F.lit("(null)")) for name in names])


def _is_within(value: Column, feature: Feature) -> Column:
    # Infinity is outside every range: no count, ratio or score of a customer is infinite.
    upper = value <= feature.high if isfinite(feature.high) else value < F.lit(float("inf"))
    within = (value >= feature.low) & upper
    return within & value.isin(0.0, 1.0) if feature.kind == "binary" else within


def offenders_allowed(catalogue: Catalogue) -> dict[str, str]:
    """What the rules that rows can break allow, in words."""
    return {
        "no_nulls": "0 null or NaN values in keys and features, 0 keys with blanks around them",
        "ranges": "; ".join(f"{feature.name} {feature.range_text}" for feature in catalogue.features),
        ONE_ROW_EACH: "1 row for each customer and date",
        "label_is_binary": "label 0, 1 or null (not yet known)",
    }


OFFENDERS_ALLOWED = offenders_allowed(CATALOGUE)


def _outcomes_by(
    facts: _Facts | None,
    panel: DataFrame,
    rules: Collection[str],
    catalogue: Catalogue,
    calendar: AsOfCalendar | None = None,
) -> list[Outcome]:
    outcomes = [panel_schema_outcome(panel.schema, catalogue)]
    if facts is None:
        outcomes += [_not_evaluable(rule) for rule in PANEL_RULES if rule != COLUMNS_AND_TYPES]
    else:
        outcomes += [
            *[_offenders_outcome(facts, panel, rule, catalogue) for rule in OFFENDERS_ALLOWED if rule in rules],
            _empty_snapshot_outcome([row["as_of"] for row in facts.dates], _step(catalogue), calendar),
            _informative_outcome(facts.bounds),
        ]
    return [outcome for outcome in outcomes if outcome.rule in rules]


def _offenders_outcome(facts: _Facts, panel: DataFrame, rule: str, catalogue: Catalogue) -> Outcome:
    rows = facts.offenders[rule]
    keys = _first_offenders(panel, rule, catalogue) if rows else []
    observed, figures = f"{rows:,} offending rows", (none_of("offending rows", rows),)
    return Outcome(rule, rows == 0, observed, offenders_allowed(catalogue)[rule], tuple(keys), figures=figures)


def _step(catalogue: Catalogue) -> Step | None:
    return None if catalogue.delivered is None else catalogue.delivered.every


def _empty_snapshot_outcome(
    as_of: Collection[date | None], step: Step | None, calendar: AsOfCalendar | None
) -> Outcome:
    """step: that is declared of a ready feature table, whose dates may begin at any day; else the calendar decides."""
    dates = sorted(day for day in as_of if day is not None)
    step_days, skipped = (7, frozenset()) if calendar is None else (calendar.step_days, calendar.skipped)
    every: Step = step or ("day" if step_days == 1 else "week")
    allowed = f"at least 1 row at a date every {every} from the first to the last"
    # Of a ready table nobody here knows a gap or a closure.
    allowed += "" if step else ", but after a gap or a closure"
    if not dates:
        return Outcome("no_empty_snapshot", False, "no rows at all", allowed)
    expected = set(dates_between(dates[0], dates[-1], every)) - skipped
    missing = sorted(expected ^ set(dates))
    observed = f"{len(dates)} snapshots from {dates[0]} to {dates[-1]}, {len(missing)} missing or off the calendar"
    return Outcome("no_empty_snapshot", not missing, observed, allowed, tuple(str(day) for day in missing[:MAX_KEYS]))


def dates_between(first: date, last: date, step: Step) -> list[date]:
    """The dates from `first` on, one each step, up to `last`; of months that are too short the last day."""
    if step == "month":
        months = range((last.year - first.year) * 12 + last.month - first.month + 1)
        turned = [divmod(first.month - 1 + month, 12) for month in months]
        ends = [(first.year + year, number + 1) for year, number in turned]
        days = [date(year, month, min(first.day, monthrange(year, month)[1])) for year, month in ends]
        return [day for day in days if day <= last]
    return list(each_date(first, last, 7 if step == "week" else 1))


def _informative_outcome(bounds: Mapping[str, Sequence[float | None]]) -> Outcome:
    """bounds: of each feature, minima and maxima, None where there is no value."""
    constant = []
    for name, of_feature in bounds.items():
        # As text, because NaN is not equal to itself; adding 0.0 makes one zero of the two.
        values = {"null" if bound is None else repr(bound + 0.0) for bound in of_feature}
        if len(values) == 1:
            constant.append(f"{name} = {values.pop()}")
    observed = f"constant: {', '.join(constant)}" if constant else "every feature varies"
    return Outcome("informative_features", not constant, observed, "no feature is constant", is_warning=True)


def future_outcome(panel: DataFrame, silver: DataFrame, policy: ChurnPolicy) -> Outcome:
    """Whether the features of the latest labelled date come out the same from what was known by then alone.

    In: the `panel`, and the `silver` orders and the policy it was computed from.
    A feature that changes when everything from the date on is taken away has seen the future.
    """
    if not set(PANEL_SCHEMA.names) <= set(panel.columns):
        return unevaluable_future("columns are missing")
    labelled = F.max(F.when(F.col("label").isNotNull(), F.col("as_of")))
    as_of = panel.select(F.coalesce(labelled, F.max("as_of"))).collect()[0][0]
    return _future_outcome_at(as_of, panel, silver, policy)


def rebuilt_outcome(
    as_of: date, panel: DataFrame, silver: DataFrame, calendar: AsOfCalendar, policy: ChurnPolicy
) -> Outcome:
    """Whether the rows of one date of the `panel` are those that the `silver` orders give, computed again.

    calendar: that of the orders.
    """
    day = calendar.only([as_of])
    snapshots = customer_snapshots(of_active_customers(silver, day, policy), day, policy)
    again = feature_panel(with_labels(snapshots, silver, day, policy), policy)
    return _same_outcome(AS_REBUILT, COMPUTED_AGAIN, as_of, panel, again, [*[each.name for each in FEATURES], "label"])


def _future_outcome_at(as_of: date | None, panel: DataFrame, silver: DataFrame, policy: ChurnPolicy) -> Outcome:
    if as_of is None:
        return Outcome(NO_FUTURE_LEAKAGE, False, "no rows at all", WITHOUT_THE_FUTURE)
    names = [feature.name for feature in FEATURES]
    day = AsOfCalendar(as_of, as_of, as_of - timedelta(days=1))
    known = of_active_customers(known_before(silver, as_of), day, policy)
    past = feature_panel(customer_snapshots(known, day, policy), policy)
    return _same_outcome(NO_FUTURE_LEAKAGE, WITHOUT_THE_FUTURE, as_of, panel, past, names)


def _same_outcome(
    rule: str, allowed: str, as_of: date, panel: DataFrame, again: DataFrame, names: Sequence[str]
) -> Outcome:
    """Whether the rows of a date of the `panel` are those of `again`, in the columns `names`."""
    there = panel.where(F.col("as_of") == F.lit(as_of)).select("customer_id", *names, F.lit(1).alias("is_row"))
    rows = [there.alias("there"), again.select("customer_id", *names, F.lit(1).alias("is_row")).alias("again")]
    compared = rows[0].join(rows[1], "customer_id", "full_outer")
    # A label may be null on both sides; a customer whom only one has differs all the same.
    is_other = {
        name: ~F.col(f"there.{name}").eqNullSafe(F.col(f"again.{name}"))
        | ~F.col("there.is_row").eqNullSafe(F.col("again.is_row"))
        for name in names
    }
    differing = compared.select("customer_id", *[condition.alias(name) for name, condition in is_other.items()])
    broken = differing.where(any_of(map(F.col, names)))
    counts = broken.agg(F.count(F.lit(1)).alias("rows"), *[F.count_if(name).alias(name) for name in names])
    (found,) = counts.collect()
    rows, features = found["rows"], sorted(name for name in names if found[name])
    first = broken.select("customer_id").orderBy("customer_id").limit(MAX_KEYS).collect() if rows else []
    observed = f"{rows:,} customers at {as_of} differ" + (f" in {', '.join(features)}" if features else "")
    offenders = tuple(f"{key} at {as_of}" for key in sorted(str(row["customer_id"]) for row in first))
    figures = (none_of("differing customers", rows),)
    return Outcome(rule, rows == 0, observed, allowed, offenders, figures=figures)


def unevaluable_future(reason: str) -> Outcome:
    """That nobody can tell whether the features have seen the future, and why; no pass."""
    return Outcome(NO_FUTURE_LEAKAGE, False, f"not evaluable: {reason}", WITHOUT_THE_FUTURE)


def known_before(silver: DataFrame, day: date) -> DataFrame:
    """Silver as it could be known at 00:00 UTC of `day`: no later orders, deliveries or reviews."""
    moment = F.lit(day).cast("timestamp")

    def known(column: str, clock: str) -> Column:
        return F.when(F.col(clock) < moment, F.col(column)).alias(column)

    later = {"delivered_at": "delivered_at"}
    later |= dict.fromkeys(("reviewed_at", "review_score", "sentiment_category"), "reviewed_at")
    columns = [known(name, later[name]) if name in later else F.col(name) for name in silver.columns]
    if REVIEW_STATES in silver.columns:
        states = F.filter(REVIEW_STATES, lambda state: state["known_at"] < moment)
        columns = [
            states.alias(REVIEW_STATES) if name == REVIEW_STATES else column
            for name, column in zip(silver.columns, columns, strict=True)
        ]
    return silver.where(F.col("ordered_at") < moment).select(*columns)


def split_outcomes(train: DataFrame, test: DataFrame, panel: DataFrame, outcome_days: int) -> list[Outcome]:
    """The rules of `train_features` and `test_features`, against the `panel` they were cut from."""
    tables = {"train": train, "test": test, "panel": panel}
    dated = [rows.select(F.lit(name).alias("table"), "as_of") for name, rows in tables.items()]
    by_date = reduce(DataFrame.unionByName, dated).groupBy("table", "as_of").agg(F.count(F.lit(1)).alias("rows"))
    shared = _on_both_sides(train, test)
    counts: dict[str, dict[date, int]] = {name: {} for name in tables}
    customers = 0
    for row in united(by_date, shared.agg(F.count(F.lit(1)).alias("shared"))).collect():
        if row["table"] is None:
            customers = row["shared"]
        else:
            counts[row["table"]][row["as_of"]] = row["rows"]
    train_rows, test_rows = sum(counts["train"].values()), sum(counts["test"].values())
    if not train_rows or not test_rows:
        empty = f"{train_rows:,} training rows, {test_rows:,} test rows"
        return [Outcome(rule, False, empty, "rows on both sides") for rule in SPLIT_RULES]
    trained, (first_test, *_) = (sorted(day for day in counts[side] if day is not None) for side in ("train", "test"))
    first = shared.orderBy("customer_id").limit(MAX_KEYS).collect() if customers else []
    names = sorted(row["customer_id"] for row in first)
    return [
        Outcome(
            "disjoint_customers",
            not names,
            f"{len(names)} shared (at most {MAX_KEYS} counted)",
            "0",
            tuple(names),
            figures=(none_of("shared customers", customers),),
        ),
        _later_outcome(trained[0], trained[-1], first_test, outcome_days),
        _share_outcome(test_rows, counts["panel"].get(first_test, 0)),
    ]


def _on_both_sides(train: DataFrame, test: DataFrame) -> DataFrame:
    """The customers (not null) of both."""
    sides = train.select("customer_id", F.lit(1).alias("side")).unionByName(
        test.select("customer_id", F.lit(2).alias("side"))
    )
    ends = (
        sides.where("customer_id is not null")
        .groupBy("customer_id")
        .agg(F.min("side").alias("first"), F.max("side").alias("last"))
    )
    return ends.where(F.col("first") != F.col("last")).select("customer_id")


SPLIT_RULES = ("disjoint_customers", "test_after_train_outcomes", "test_share")


def _later_outcome(first_train: date, last_train: date, test: date, outcome_days: int) -> Outcome:
    known = last_train + timedelta(days=outcome_days)
    observed = f"training outcomes known by {known}, tested at {test}"
    if first_train == last_train == test:
        # No earlier outcome was known: other customers of the same date train, and everyone should know it.
        observed = f"{observed}: only one date, so out of sample but not out of time"
        return Outcome("test_after_train_outcomes", False, observed, "known by the test date", is_warning=True)
    return Outcome("test_after_train_outcomes", known <= test, observed, "known by the test date")


def _share_outcome(test_rows: int, eligible: int) -> Outcome:
    expected = len(TEST_FOLDS) / 100
    share = test_rows / eligible if eligible else 0.0
    # Four standard deviations of a fair hash: 1 in 16,000 splits would be refused by chance.
    slack = 4 * sqrt(expected * (1 - expected) / max(eligible, 1))
    is_near = eligible > 0 and abs(share - expected) <= slack
    observed, allowed = f"{share:.1%} of {eligible:,} customers", f"{expected:.0%} ± {slack:.1%} at this number"
    figure = Figure("test_share", "test customers", f"{share:.1%}", allowed, is_near, share)
    return Outcome("test_share", is_near, observed, allowed, figures=(figure,))


def row_accounting(
    rows_in: dict[str, int],
    kept: dict[str, int],
    set_aside: Mapping[tuple[str, str], int],
    max_quarantined_share: float,
) -> list[Outcome]:
    """For each source table whether rows in = kept + cancelled + superseded + quarantined; last `quarantined_share`, a
    warning.

    set_aside: rows of `quarantined_rows` by source table and disposition.
    """
    outcomes, shares = [], {}
    for table, count in rows_in.items():
        gone = {name: set_aside.get((table, name), 0) for name in (CANCELLED, SUPERSEDED, QUARANTINED)}
        quarantined, total = gone[QUARANTINED], kept[table] + sum(gone.values())
        parts = " + ".join([f"{kept[table]:,} kept", *[f"{rows:,} {name}" for name, rows in gone.items()]])
        observed = f"{count:,} in; {parts} = {total:,}"
        figure = none_of("lost rows", count - total)
        allowed = "the sum equals the rows in"
        outcomes.append(Outcome(f"{table}_accounted_for", total == count, observed, allowed, figures=(figure,)))
        shares[table] = quarantined / count if count else 0.0
    figures = tuple(
        share_up_to(f"{table}_quarantined_share", f"{table} set aside", share, max_quarantined_share, ".2%")
        for table, share in shares.items()
    )
    observed = ", ".join(f"{table} {figure.observed}" for table, figure in zip(shares, figures, strict=True))
    is_low = max(shares.values()) <= max_quarantined_share
    allowed = f"at most {100 * max_quarantined_share:g}% of a table"
    return [*outcomes, Outcome("quarantined_share", is_low, observed, allowed, is_warning=True, figures=figures)]


def pace_outcome(customers: int, busiest: Sequence[tuple[str, int]], rows: int, policy: ChurnPolicy) -> Outcome:
    """A warning that names who was set aside for an impossible pace. busiest: the first, with most orders on a day."""
    most = policy.cleaning.max_orders_per_day
    observed = f"{customers:,} customers with more, {rows:,} rows set aside with them"
    allowed = f"at most {most} orders of a customer on one day; if people order more, raise cleaning.max_orders_per_day"
    keys = tuple(f"{customer} ({orders:,} on one day)" for customer, orders in busiest)
    figures = (none_of("customers of an impossible pace", customers),)
    return Outcome("impossible_pace", customers == 0, observed, allowed, keys, is_warning=True, figures=figures)


def by_disposition(by_rule: Mapping[tuple[str, str, str], int]) -> dict[tuple[str, str], int]:
    """Rows set aside by source table and disposition. by_rule: by rule too."""
    counts: Counter[tuple[str, str]] = Counter()
    for (table, disposition, _), rows in by_rule.items():
        counts[table, disposition] += rows
    return counts


# What to change where a rule that sets aside or repairs does not fit the data.
REMEDIES = {
    "null_key": "look at the key columns' mapping in sources.toml",
    "impossible_time": "look at the mapping of the time: its format, its zone, the order of day and month",
    "impossible_pace": "raise cleaning.max_orders_per_day if people order more",
    "duplicate_key": "look at the mapping of the key: it is not unique",
    "negative_subtotal": "look at the mapping of subtotal; refunds are cancelled orders",
    "score_out_of_range": "map review_score to 1 to 5",
    "unknown_order": "look at the mapping of order_id in both tables: its form differs, or orders are missing",
    "reviewed_before_order": "look at the time zones of reviewed_at and ordered_at",
    "delivery_before_order": "look at the mapping of delivered_at and ordered_at: their time zones, or their places",
    "delivery_too_late": "raise cleaning.max_delivery_hours ({max_delivery_hours:g}) if the shop takes longer",
}


def rule_remedies(
    rows_in: Mapping[str, int], by_rule: Mapping[tuple[str, str, str], int], disposition: str, policy: ChurnPolicy
) -> dict[str, str]:
    """A line for each rule that touches more of a table than the policy's share, with what to change.

    by_rule: rows of `quarantined_rows` by source table, disposition and rule. disposition: quarantined or repaired.
    """
    rules = policy.cleaning
    limit = rules.max_repaired_share if disposition == REPAIRED else rules.max_quarantined_share
    lines = {}
    for (table, of_rows, rule), rows in sorted(by_rule.items()):
        if of_rows != disposition or rows <= limit * rows_in[table]:
            continue
        share, _ = told_apart(rows / rows_in[table], limit, ".2%")
        remedy = REMEDIES.get(rule, "look at these rows").format(max_delivery_hours=rules.max_delivery_hours)
        lines[rule] = f"{rule}: {rows:,} of {rows_in[table]:,} {table} ({share}): {remedy}"
    return lines


def repaired_outcome(
    rows_in: Mapping[str, int], by_rule: Mapping[tuple[str, str, str], int], policy: ChurnPolicy
) -> Outcome:
    """Whether no rule takes the delivery time of more than the policy's share of orders: then it does not fit them."""
    lines = rule_remedies(rows_in, by_rule, REPAIRED, policy)
    repaired = sum(rows for (_, disposition, _), rows in by_rule.items() if disposition == REPAIRED)
    observed = "; ".join(lines.values()) or f"{repaired:,} delivery times set aside"
    most = policy.cleaning.max_repaired_share
    allowed = f"at most {100 * most:g}% of the orders by one rule"
    figures = tuple(
        share_up_to(f"{rule}_share", f"{table} repaired by {rule}", rows / rows_in[table], most, ".2%")
        for (table, disposition, rule), rows in sorted(by_rule.items())
        if disposition == REPAIRED
    )
    return Outcome("repaired_share", not lines, observed, allowed, is_warning=True, figures=figures)


def readable_values(table: SourceTable, unreadable: Sequence[str]) -> Outcome:
    """Whether all text of a landed source table could be read; a warning, as its rows go by the rules of cleaning."""
    observed = "; ".join(unreadable) or "all values can be read"
    return Outcome(f"{table.name}__readable_values", not unreadable, observed, "none unreadable", is_warning=True)


def source_schema_outcome(table: SourceTable, schema: T.StructType) -> Outcome:
    """Whether a landed source table has the columns cleaning needs."""
    allowed = ", ".join(f"{column.name} {column.kind}" for column in table.columns if not column.is_optional)
    try:
        check_source_schema(table, schema)
    except SourceSchemaError as misfit:
        return Outcome(f"{table.name}__schema", False, "; ".join(misfit.problems), allowed)
    observed = ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in schema)
    return Outcome(f"{table.name}__schema", True, observed, allowed)

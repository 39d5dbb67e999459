"""What is behind a version of the panel: the orders it was computed from, or the word of whoever delivered it.

The one place that asks which of the two; what judges, trains, scores and lists asks the origin.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from churn_assets.churn.calendar import ONE_DAY, AsOfCalendar
from churn_assets.churn.contract import (
    AS_REBUILT,
    COMPUTED_AGAIN,
    attested_outcome,
    future_outcome,
    rebuilt_outcome,
    unevaluable_future,
)
from churn_assets.churn.delivered import Delivered
from churn_assets.churn.errors import SourceSchemaError, UnlistableWeekError
from churn_assets.churn.feasibility import Feasibility, feasibility, label_feasibility
from churn_assets.churn.labels import SHARED_BY
from churn_assets.churn.outcomes import MAX_KEYS, Outcome
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.purchase_histories import history_columns, history_rows
from churn_assets.churn.scoring import KEYS, of_dates
from churn_assets.churn.splits import backtest_dates
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.lakehouse import SEGMENTS, SILVER, stored_calendar, stored_load
from churn_assets.defs.panel_code import panel_code
from churn_assets.defs.refreshing import DIGEST
from churn_assets.resources.lakehouse import LakehouseResource


class PanelOrigin(Protocol):
    """What one version of the panel rests on."""

    def other_rules(self) -> str | None:
        """How what its rows were made by differs from what is configured today; None if it does not."""

    def calendar(self) -> AsOfCalendar | None:
        """The calendar of its orders; None where they are not known. Raises as `calendar_of` does."""

    def complete_until(self, latest: date) -> date | None:
        """The last complete day of its orders, of which there is a snapshot at `latest`; None where no order is.

        How old the newest date of a ready feature table may be, its check `newest_snapshot` says.
        """

    def future_outcome(self) -> Outcome:
        """Whether its features have seen the future."""

    def rebuilt_outcome(self) -> Outcome:
        """Whether the rows of one of its dates that stayed, another at each version, are those that its orders give."""

    def candidates(self) -> list[Feasibility]:
        """Each churn definition that can be compared on it, the policy's own among them."""

    def rivals(self) -> DataFrame | None:
        """By customer_id and as_of the rule's risk_score, what else rivals ask for, and of customers with orders their
        recent_spend; None where there is no rule.

        Raises SourceSchemaError where one customer has several scores at a date: each would be judged on as a row.
        """

    def purchase_histories(self, dates: Sequence[date]) -> Mapping[date, pd.DataFrame]:
        """The purchases before each of the dates, as `history_rows` has them; of no date where there are no orders."""

    def observed(self, dates: Sequence[date]) -> DataFrame:
        """Of its customers at these dates recent_spend (null where nothing tells), and what sentences need beside.

        Raises UnlistableWeekError.
        """

    def spend(self, day: date) -> pa.Table:
        """customer_id and spend (null where nothing tells) at one date, and segment_index if there are segments.

        Raises UnlistableWeekError.
        """

    def worth(self) -> str | None:
        """What the spend is, as the end of "what the customers …"; None where nothing tells."""

    def population(self) -> str:
        """Who the customers are, in words."""

    def segments(self) -> Mapping[float, str]:
        """The names of the segments by number."""

    def counted(self) -> Mapping[tuple[Any, ...], int]:
        """Its rows by their values of SHARED_BY; that of the crisis is None where nothing tells."""


def origin_of(lakehouse: LakehouseResource, version: int, policy: ChurnPolicy) -> PanelOrigin:
    """What that version of the panel rests on, by what sources.toml names."""
    delivered = policy.catalogue.delivered
    return ByOrders(lakehouse, version, policy) if delivered is None else ByWord(lakehouse, version, policy, delivered)


class ByOrders:
    """A panel computed from silver orders."""

    def __init__(self, lakehouse: LakehouseResource, version: int, policy: ChurnPolicy) -> None:
        self._lakehouse, self._version, self._policy = lakehouse, version, policy
        self._inputs = lakehouse.inputs(PANEL, version)

    def other_rules(self) -> str | None:
        built_by = _built_by(self._lakehouse, self._version)
        today = self._policy.panel_digest(panel_code())
        if built_by == today:
            return None
        if built_by is None:
            return (
                "another tool wrote it, and sources.toml names no [features], a ready table that somebody vouches for"
            )
        return (
            f"its windows, churn definition, cleaning, features or their code have digest {built_by}; now it is {today}"
        )

    def calendar(self) -> AsOfCalendar | None:
        silver_version = self._inputs.get(SILVER)
        return None if silver_version is None else stored_calendar(self._lakehouse, silver_version, self._policy)

    def complete_until(self, latest: date) -> date:
        silver_version = self._inputs.get(SILVER)
        # Whoever made a panel of unknown orders knew them up to its latest date.
        if silver_version is None:
            return latest - ONE_DAY
        return stored_load(self._lakehouse, silver_version).watermark(self._policy)

    def future_outcome(self) -> Outcome:
        if SILVER not in self._inputs:
            return unevaluable_future(
                "the orders behind this version are unknown: another tool wrote it, and sources.toml names no "
                "[features], a ready table somebody vouches for (docs/feature_tables.md)"
            )
        other = self.other_rules()
        if other is not None:
            return unevaluable_future(f"this version was built under other rules or by other code than now: {other}")
        panel = self._lakehouse.read(PANEL, self._version)
        return future_outcome(panel, self._lakehouse.read(SILVER, self._inputs[SILVER]), self._policy)

    def rebuilt_outcome(self) -> Outcome:
        calendar = self.calendar()
        other = "the orders behind this version are unknown" if calendar is None else self.other_rules()
        if calendar is None or other is not None:
            # The check of the future refuses such a version.
            return Outcome(AS_REBUILT, False, f"not evaluable: {other}", COMPUTED_AGAIN, is_warning=True)
        # A commit of the whole panel names none.
        replaced = self._lakehouse.commit_metadata(PANEL, self._version).get("dates", [*map(str, calendar.dates)])
        left_alone = [day for day in calendar.dates if str(day) not in replaced]
        if not left_alone:
            return Outcome(AS_REBUILT, True, "no date was left alone: this refresh computed all", COMPUTED_AGAIN)
        day = left_alone[self._version % len(left_alone)]
        panel = self._lakehouse.read(PANEL, self._version)
        return rebuilt_outcome(day, panel, self._lakehouse.read(SILVER, self._inputs[SILVER]), calendar, self._policy)

    def candidates(self) -> list[Feasibility]:
        silver_version = self._inputs[SILVER]
        return label_feasibility(
            self._lakehouse.read(BASELINE, self._inputs[BASELINE]),
            self._lakehouse.read(SILVER, silver_version),
            stored_calendar(self._lakehouse, silver_version, self._policy),
            self._policy,
        )

    def rivals(self) -> DataFrame:
        baseline = self._lakehouse.read(BASELINE, self._inputs[BASELINE])
        return baseline.select(*KEYS, "risk_score", _recent_spend(), *history_columns())

    def purchase_histories(self, dates: Sequence[date]) -> Mapping[date, pd.DataFrame]:
        silver = self._lakehouse.read(SILVER, self._inputs[SILVER])
        return history_rows(silver, dates, self._policy.windows.eligibility_days)

    def observed(self, dates: Sequence[date]) -> DataFrame:
        snapshots = of_dates(self._lakehouse.read(BASELINE, self._baseline()), dates)
        return snapshots.select(*KEYS, _recent_spend(), *self._policy.catalogue.told_columns)

    def spend(self, day: date) -> pa.Table:
        columns = ["customer_id", "spend", "segment_index"]
        return self._lakehouse.arrow(BASELINE, columns, self._baseline(), dates=("as_of", [day]))

    def worth(self) -> str:
        return f"spent in {self._policy.windows.observation_days} days"

    def population(self) -> str:
        return f"ordered in the last {self._policy.windows.eligibility_days} days"

    def segments(self) -> Mapping[float, str]:
        return {row["segment_index"]: str(row["segment"]) for row in self._lakehouse.records(SEGMENTS)}

    def counted(self) -> Mapping[tuple[Any, ...], int]:
        counts = self._lakehouse.counts(PANEL, SHARED_BY, self._version)
        _, most_promised = self._lakehouse.bounds(BASELINE, "promised_deliveries", self._baseline())
        if most_promised:
            return counts
        # Where no delivery is known with its promise the index is 0, and nothing tells who waited.
        unknown: Counter[tuple[Any, ...]] = Counter()
        for (as_of, _, left), rows in counts.items():
            unknown[as_of, None, left] += rows
        return unknown

    def _baseline(self) -> int:
        """The version of the snapshots that this one was computed from."""
        version = self._inputs.get(BASELINE)
        if version is None:
            raise UnlistableWeekError(
                f"Version {self._version} of {PANEL} does not record what it was computed from, so the customers' "
                "spend is unknown; what was made of earlier versions stays.",
                next_step=f"materialize {PANEL} and score these weeks again",
            )
        return version


class ByWord:
    """A panel that others computed: what they declare of it, and what is in it, is all there is."""

    def __init__(self, lakehouse: LakehouseResource, version: int, policy: ChurnPolicy, delivered: Delivered) -> None:
        self._lakehouse, self._version, self._policy, self._delivered = lakehouse, version, policy, delivered

    def other_rules(self) -> str | None:
        landed_by, today = _built_by(self._lakehouse, self._version), self._policy.panel_digest(panel_code())
        # Whoever writes the table in place leaves no digest; the declaration is about what they write.
        if landed_by in (None, today):
            return None
        return f"it came by another declaration than that of sources.toml: digest {landed_by}; now it is {today}"

    def calendar(self) -> None:
        return None

    def complete_until(self, latest: date) -> None:
        return None

    def future_outcome(self) -> Outcome:
        other = self.other_rules()
        if other is not None:
            return unevaluable_future(other)
        labelled = [day for day, _, _ in self._labelled()]
        return attested_outcome(self._delivered, max(labelled, default=None), datetime.now(UTC).date())

    def rebuilt_outcome(self) -> Outcome:
        return Outcome(AS_REBUILT, False, "not evaluable: others computed it, there are no orders here", COMPUTED_AGAIN)

    def candidates(self) -> list[Feasibility]:
        labelled = self._labelled()
        as_of, eligible, churners = max(labelled, default=(None, 0, 0))
        judged = len(backtest_dates([day for day, *_ in labelled], self._policy))
        return [
            feasibility(
                self._policy, self._policy, as_of=as_of, eligible=eligible, churners=churners, judged_dates=judged
            )
        ]

    def purchase_histories(self, dates: Sequence[date]) -> Mapping[date, pd.DataFrame]:
        return {}

    def rivals(self) -> DataFrame | None:
        if not self._delivered.has_rule:
            return None
        beside = self._lakehouse.inputs(PANEL, self._version).get(BASELINE)
        rule = self._lakehouse.read(BASELINE, beside).select(*KEYS, "risk_score")
        twice = rule.groupBy(*KEYS).count().where("count > 1").orderBy(*KEYS).limit(MAX_KEYS).collect()
        if twice:
            raise SourceSchemaError(
                "The rule to beat ([baseline] in sources.toml) has several scores of one customer and date.",
                [f"{row['customer_id']} at {row['as_of']}" for row in twice],
                next_step="select one row of each customer and date there",
            )
        return rule

    def observed(self, dates: Sequence[date]) -> DataFrame:
        value = self._delivered.value
        spend = F.lit(None) if value is None else F.col(value)
        panel = of_dates(self._lakehouse.read(PANEL, self._version), dates)
        return panel.select(*KEYS, spend.cast("double").alias("recent_spend"))

    def spend(self, day: date) -> pa.Table:
        value = self._delivered.value
        columns = ["customer_id", *([] if value is None else [value])]
        rows = self._lakehouse.arrow(PANEL, columns, self._version, dates=("as_of", [day]))
        spend = pa.nulls(len(rows), pa.float64()) if value is None else rows.column(value)
        return rows.select(["customer_id"]).append_column("spend", spend)

    def worth(self) -> str | None:
        value = self._delivered.value
        return None if value is None else f"have by “{self._policy.catalogue.of[value].meaning}”"

    def population(self) -> str:
        return "in the feature table"

    def segments(self) -> Mapping[float, str]:
        return {}

    def counted(self) -> Mapping[tuple[Any, ...], int]:
        counts = self._lakehouse.counts(PANEL, ["as_of", "label"], self._version)
        return {(as_of, None, label): rows for (as_of, label), rows in counts.items()}

    def _labelled(self) -> list[tuple[date, int, int]]:
        """Each date with known labels, how many there are, and how many of them are churners."""
        known: dict[date, list[int]] = {}
        for (as_of, _, label), rows in self.counted().items():
            if label is not None and as_of is not None:
                counted = known.setdefault(as_of, [0, 0])
                counted[0] += rows
                counted[1] += rows if label == 1.0 else 0
        return [(as_of, rows, churners) for as_of, (rows, churners) in sorted(known.items())]


def _recent_spend() -> Column:
    """recent_spend of rows of the baseline."""
    # Through text: not every engine's cast of a decimal is correctly rounded.
    return F.col("spend").cast("string").cast("double").alias("recent_spend")


def _built_by(lakehouse: LakehouseResource, version: int) -> str | None:
    digest: str | None = lakehouse.commit_metadata(PANEL, version).get(DIGEST)
    return digest

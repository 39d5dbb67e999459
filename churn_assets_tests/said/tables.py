"""What the tables of a project say of its latest scored week, computed by other means than the flow's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from churn_assets.churn.trees import BoostedTrees, imported_trees
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.lakehouse import SEGMENTS
from churn_assets.defs.monitoring import MONITORING
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.defs.scoring import SCORES
from churn_assets.defs.splits import TEST, TRAIN
from churn_assets.resources.trained_models import TrainedModel
from churn_assets_tests.conftest import Project

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Tables:
    """What the tables of a project say of its latest scored week and of the model that scored it."""

    project: Project

    @cached_property
    def week(self) -> date:
        return max(self.project.lakehouse.dates(SCORES, "as_of"))

    def of_week(self, table: str, *columns: str) -> list[dict[str, Any]]:
        names = columns or self.project.lakehouse.table_schema(table).names
        return list(self.project.lakehouse.arrow(table, names, dates=("as_of", [self.week])).to_pylist())

    def whole(self, table: str) -> list[dict[str, Any]]:
        return self.project.lakehouse.records(table)

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        return {row["customer_id"]: row for row in self.of_week(SCORES)}

    @cached_property
    def panel(self) -> dict[str, dict[str, Any]]:
        """The features of the customers scored, with what the snapshots hold beside them."""
        snapshots = {row["customer_id"]: row for row in self.of_week(BASELINE)}
        rows = {row["customer_id"]: row for row in self.of_week(PANEL) if row["customer_id"] in self.scores}
        return {customer: {**snapshots[customer], **row} for customer, row in rows.items()}

    @cached_property
    def targets(self) -> list[dict[str, Any]]:
        return sorted(self.of_week(TARGETS), key=lambda row: row["rank"])

    @cached_property
    def excluded(self) -> list[str]:
        return [row["reason"] for row in self.of_week(EXCLUSIONS)]

    @cached_property
    def by_date(self) -> dict[date, list[tuple[float | None, float]]]:
        """Of each as-of date and customer the label and whether a delivery came far too late."""
        found: dict[date, list[tuple[float | None, float]]] = {}
        rows = self.project.lakehouse.arrow(PANEL, ["as_of", "label", "crisis_exposure_index"])
        for as_of, label, crisis in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            found.setdefault(as_of, []).append((label, crisis))
        return dict(sorted(found.items()))

    @cached_property
    def is_wait_known(self) -> bool:
        """Whether of any delivery both promise and arrival are known."""
        promised = self.project.lakehouse.arrow(BASELINE, ["promised_deliveries"]).column(0).to_numpy()
        return bool(promised.any())

    @cached_property
    def churn_by_date(self) -> dict[date, float | None]:
        known = {of: [label for label, _ in rows if label is not None] for of, rows in self.by_date.items()}
        return {of: fsum(labels) / len(labels) if labels else None for of, labels in known.items()}

    @cached_property
    def tiers(self) -> tuple[float, float]:
        """From which probability on a customer is of high and of medium risk."""
        labels = [label for rows in self.by_date.values() for label, _ in rows if label is not None]
        scoring, rate = self.project.policy.scoring, fsum(labels) / len(labels)
        if scoring.tier_probabilities is not None:
            return scoring.tier_probabilities
        high, medium = (times * rate / (1 - rate) for times in scoring.tier_odds)
        return high / (1 + high), medium / (1 + medium)

    @cached_property
    def segments(self) -> dict[float, str]:
        return {row["segment_index"]: str(row["segment"]) for row in self.whole(SEGMENTS)}

    @cached_property
    def means(self) -> dict[str, float]:
        """What is usual: the mean of each feature over the customers scored."""
        names = [feature.name for feature in self.project.policy.catalogue.features]
        return {name: fsum(row[name] for row in self.panel.values()) / len(self.panel) for name in names}

    @cached_property
    def trained(self) -> TrainedModel:
        version = self.project.tracking.version(next(iter(self.scores.values()))["model_version"])
        assert version is not None
        return self.project.tracking.trained_model_of(version)

    @cached_property
    def trees(self) -> BoostedTrees:
        number = next(iter(self.scores.values()))["model_version"]
        return imported_trees(self.project.tracking.exported_trees(number))

    @cached_property
    def judged(self) -> dict[str, Any]:
        """The latest evaluation of that model, and what can be computed of it again: the counts and shares of a
        model that was judged on its own test customers, else the counts alone."""
        rows = [row for row in self.whole(EVALUATIONS) if row["run_id"] == self.trained.run_id]
        return max(rows, key=lambda row: row["evaluated_at"])

    def measured(self, metric: str) -> dict[str, Any] | None:
        """What monitoring measured of the week, where it could."""
        rows = [row for row in self.of_week(MONITORING) if row["metric"] == metric and row["value"] is not None]
        return rows[0] if rows else None

    @property
    def report_made_on(self) -> date:
        file = Path(self.project.lakehouse.root, FOLDER, f"{REPORT}.html")
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date()

    @cached_property
    def tested(self) -> tuple[date, np.ndarray, np.ndarray]:
        """The test date, and of the customers who were judged the labels and the scores (NaN: by another model)."""
        lakehouse, versions = self.project.lakehouse, self.trained.evidence.data_versions
        test = lakehouse.arrow(TEST, ["as_of", "label", *self.trees.features], versions[TEST])
        (when,) = set(test.column("as_of").to_pylist())
        if self.judged["evaluation"] == "crossfit":
            labels = [label for label, _ in self.by_date[when] if label is not None]
            return when, np.array(labels), np.full(len(labels), np.nan)
        if self.judged["evaluation"] == "backtest":
            # Of several dates, a part of the customers at each: as recorded.
            churners, rows = self.judged["churners"], self.judged["rows"]
            return when, np.repeat([1.0, 0.0], [churners, rows - churners]), np.full(rows, np.nan)
        values = np.column_stack([test.column(name) for name in self.trees.features])
        return when, test.column("label").to_numpy(), self.trees.probabilities(values)


def churn_in_words(tables: Tables) -> str:
    policy = tables.project.policy
    assert policy.churn.definition == "inactivity"
    return f"no order for {policy.windows.outcome_days} days"


def learned_from(tables: Tables) -> list[date]:
    version = tables.trained.evidence.data_versions[TRAIN]
    return tables.project.lakehouse.dates(TRAIN, "as_of", version)


def shown_tiers(tables: Tables) -> dict[str, str]:
    return tables.project.policy.units.tiers.model_dump()


def tier_names(tables: Tables) -> dict[str, str]:
    """Of each customer the tier, by the probability alone, as the company calls it."""
    high, medium = tables.tiers
    names = shown_tiers(tables)

    def tier(row: Row) -> str:
        probability = row["churn_probability"]
        return "high" if probability >= high else "medium" if probability >= medium or row["is_alert"] else "low"

    return {customer: names[tier(row)] for customer, row in tables.scores.items()}

"""Stage 9, for executives: the latest scored week as a page."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from churn_assets.churn import retraining
from churn_assets.churn.campaigns import ALL_TIERS
from churn_assets.churn.errors import UnlistableWeekError
from churn_assets.churn.evaluation import EXPECTED_OVER_OBSERVED, RULE, Verdict, attainable_recall
from churn_assets.churn.evaluations import recorded_criteria
from churn_assets.churn.intervals import UNDEFINED, Estimate
from churn_assets.churn.labels import definition, known_churn_rate, shares_of
from churn_assets.churn.monitoring import Measurement
from churn_assets.churn.outcomes import Figure
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.retention import ranked_text
from churn_assets.churn.week_at_risk import JudgedWeek, ServingModel, tier_limits, week_at_risk
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import BASELINE, PANEL
from churn_assets.defs.monitoring import DECISIONS, MONITORING
from churn_assets.defs.origins import origin_of
from churn_assets.defs.results import OWNERS
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.scoring import MONITORING_GROUP, SCORES
from churn_assets.pages.pictures import MeasuredEffect
from churn_assets.pages.risk_report import RiskReport, risk_report_page
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.tracking import TrackingResource

REPORT = "churn_risk_report"
# Beside the tables: the latest, and one to keep for each week.
FOLDER = "reports"
# What the page needs of scores and list.
SCORED = ["customer_id", "churn_probability", "is_alert", "risk_tier"]
STAMPS = ["model_version", "features_version"]
DIFFERENCE = ("difference", "difference_low", "difference_high")
LISTED = ["is_holdout", "value_at_risk", "suggested_action", "reasons"]
RANKED = ["ranked_by", "ranked_because", "is_exploration", "is_holdout"]


@dg.asset(
    key=REPORT,
    deps=[table.split("/") for table in (SCORES, TARGETS, EXCLUSIONS, EFFECT, PANEL, BASELINE, EVALUATIONS)]
    + [MONITORING.split("/"), DECISIONS],
    group_name=MONITORING_GROUP,
    kinds={"pyspark", "html"},
    owners=OWNERS,
    code_version="1",
)
def churn_risk_report(
    lakehouse: LakehouseResource, tracking: TrackingResource, policy: dg.ResourceParam[ChurnPolicy]
) -> dg.MaterializeResult:
    """The latest scored week on a page: who is at risk and why, what is asked for, how past lists did, how sure it is.

    The page needs no network; it is for a screen, a phone or paper.
    """
    inputs = lakehouse.pin(SCORES, TARGETS, EXCLUSIONS, EFFECT, EVALUATIONS, MONITORING)
    latest = max(lakehouse.dates(SCORES, "as_of", inputs[SCORES]), default=None)
    if latest is None:
        raise UnlistableWeekError(
            "No customer of any week is scored, so there is nothing to report; the earlier report stays.",
            next_step=f"materialize {SCORES}",
        )
    as_of, of_week = latest, ("as_of", [latest])
    scores = lakehouse.arrow(SCORES, [*SCORED, *STAMPS], inputs[SCORES], dates=of_week)
    version, panel = (scores.column(name)[0].as_py() for name in STAMPS)
    origin = origin_of(lakehouse, panel, policy)
    week = week_at_risk(
        as_of,
        scores.select(SCORED),
        origin.spend(as_of),
        lakehouse.arrow(TARGETS, LISTED, inputs[TARGETS], dates=of_week),
        exclusions=lakehouse.arrow(EXCLUSIONS, ["reason"], inputs[EXCLUSIONS], dates=of_week).column("reason"),
        segments={int(number): name for number, name in origin.segments().items()},
        catalogue=policy.catalogue,
    )
    by_date = origin.counted()
    effects = [row for row in lakehouse.records(EFFECT, inputs[EFFECT]) if row["risk_tier"] == ALL_TIERS]
    report = RiskReport(
        week=week,
        made_on=datetime.now(UTC).date(),
        trend=shares_of(by_date),
        windows=policy.windows,
        population=origin.population(),
        worth=origin.worth(),
        crisis_delay_minutes=policy.crisis_delay_minutes,
        churn_definition=definition(policy),
        limits=tier_limits(scores, known_churn_rate(by_date), policy.scoring),
        alert_budget=policy.alerts.budget,
        currency=policy.units.currency,
        effects=[f"List of {row['as_of']:%-d %B %Y}: {row['statement']}." for row in effects],
        watched=[
            each
            for each in map(Measurement.of, lakehouse.records(MONITORING, inputs[MONITORING]))
            if (each.as_of, each.model_version) == (as_of, version)
        ],
        is_retrain=_is_retrain(lakehouse),
        model=_serving_model(lakehouse, tracking, version, inputs[EVALUATIONS]),
        made_from=[f"{table} version {number}" for table, number in {**inputs, PANEL: panel}.items()],
        catalogue=policy.catalogue,
        measured=[
            MeasuredEffect(row["as_of"], *(row[name] for name in DIFFERENCE))
            for row in sorted(effects, key=lambda row: row["as_of"])
            if row["difference"] is not None
        ],
        ranked=_ranked(lakehouse, inputs[TARGETS], latest),
        tiers=policy.units.tiers,
    )
    page = risk_report_page(report).encode()
    lakehouse.write_file(f"{FOLDER}/{REPORT}-{as_of}.html", page)
    path = lakehouse.write_file(f"{FOLDER}/{REPORT}.html", page)
    return dg.MaterializeResult(
        metadata={
            "inputs": inputs,
            "as_of": str(as_of),
            "report": dg.MetadataValue.path(path),
            "customers": week.everyone.customers,
            "alerts": week.everyone.alerts,
            "expected_leavers": week.everyone.expected_leavers,
            "value_at_risk": "no value is declared"
            if week.everyone.value_at_risk is None
            else week.everyone.value_at_risk,
            "to_contact": week.to_contact,
        }
    )


def _ranked(lakehouse: LakehouseResource, version: int, week: date) -> str:
    if not set(RANKED) <= set(lakehouse.table_schema(TARGETS, version).names):
        return ""
    return ranked_text(lakehouse.arrow(TARGETS, RANKED, version, dates=("as_of", [week])).to_pylist())


def _is_retrain(lakehouse: LakehouseResource) -> bool | None:
    """Whether monitoring asks for a retraining; None where nothing is decided yet."""
    decision = retraining.latest(lakehouse.records(DECISIONS)) if lakehouse.has(DECISIONS) else None
    return None if decision is None else decision.is_retrain


def _serving_model(
    lakehouse: LakehouseResource, tracking: TrackingResource, number: str, evaluations: int
) -> ServingModel:
    """The version that scored the week, by its latest recorded evaluation."""
    version = tracking.version(number)
    if version is None:
        raise UnlistableWeekError(
            f"The week was scored by version {number}, which is no longer registered; the earlier report stays.",
            next_step="score the week again with the version in production",
        )
    trained = tracking.trained_model_of(version)
    judged = [row for row in lakehouse.records(EVALUATIONS, evaluations) if row["run_id"] == trained.run_id]
    latest = max(judged, key=lambda row: row["evaluated_at"], default=None)
    model = ServingModel(version=number, trained_on=max(trained.dates.train), tested_at=trained.dates.test)
    return model if latest is None else replace(model, **_judged(latest))


def _judged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recorded evaluation what `ServingModel` tells."""
    figures = ("evaluation", "churners", "caught", "recall", "recall_low", "recall_high", "precision", "lift")
    # Those of before 0.7 have none.
    weeks = row.get("dates") or []
    criteria = {each.key: each for each in recorded_criteria(row)}
    return {
        **{name: row[name] for name in figures},
        "verdict": Verdict(row["verdict"]),
        "customers": row["rows"],
        "attainable": attainable_recall(row["alerts"], row["churners"]),
        "rule_recall": next((each["recall"] for each in row["comparisons"] or [] if each["rival"] == RULE), None),
        "weeks": [
            JudgedWeek(*(each[name] for name in ("as_of", "is_met", "recall", "least_recall"))) for each in weeks
        ],
        "weeks_asked": int(criteria["dates_met"].limit or 0) if "dates_met" in criteria else 0,
        "expected_per_left": _expected_per_left(criteria.get(EXPECTED_OVER_OBSERVED)),
    }


def _expected_per_left(criterion: Figure | None) -> Estimate:
    """As it was recorded, interval included, which is of customers and not of their rows."""
    if criterion is None or criterion.value is None or not criterion.interval:
        return UNDEFINED
    low, high = (float(end) for end in criterion.interval.split(" to "))
    return Estimate(criterion.value, low, high)

"""The risk report as a page for executives: one file that needs no server, on a screen, a phone or paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from churn_assets.churn.labels import SnapshotShares
from churn_assets.churn.week_at_risk import ServingModel, WeekAtRisk
from churn_assets.pages.html import page
from churn_assets.pages.pictures import Picture

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class RiskReport:
    """What the page shows. effects, watched: sentences; empty where there is nothing to tell yet."""

    week: WeekAtRisk
    trend: Sequence[SnapshotShares]
    outcome_days: int
    observation_days: int
    crisis_delay_minutes: float
    effects: Sequence[str]
    watched: Sequence[str]
    model: ServingModel
    made_from: Sequence[str]


def risk_report_page(report: RiskReport, trend: Picture) -> str:
    """The page as HTML. Text from the tables is escaped; nothing is loaded or run."""
    shown = {"trend_picture": trend.data_uri, "trend_text": trend_text(report.trend)}
    return page(TEMPLATE, report=report, week=report.week, **shown)


def trend_text(trend: Sequence[SnapshotShares]) -> str:
    """What the trend picture shows, for whoever cannot see it."""
    known = [(snapshot.as_of, snapshot.churn) for snapshot in trend if snapshot.churn is not None]
    if not known:
        return "No week's outcome is known yet."
    worst = max(known, key=lambda point: point[1])
    (first, share), (last, latest) = known[0], known[-1]
    return (
        f"Of the customers of {first:%-d %B %Y}, {share:.1%} left; at the worst, of those of {worst[0]:%-d %B %Y}, "
        f"{worst[1]:.1%}; of those of {last:%-d %B %Y}, the latest week whose outcome is known, {latest:.1%}."
    )

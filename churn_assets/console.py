"""What a person sees in the terminal: the stages as they begin and end, and what came of a run."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import Any, TextIO

import dagster as dg
from dagster import DagsterEventType, EventLogEntry
from pyspark.sql import Row
from pyspark.sql import functions as F

from churn_assets.churn import retraining
from churn_assets.churn.campaigns import ALL_TIERS
from churn_assets.churn.cleaning import CANCELLED, QUARANTINED, REPAIRED
from churn_assets.churn.feasibility import FEASIBLE, NOT_FEASIBLE
from churn_assets.churn.ledger import serving
from churn_assets.churn.monitoring import Measurement, Status
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.scoring import TIERS
from churn_assets.churn.tables import SOURCE_TABLES
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.feasibility import FEASIBILITY
from churn_assets.defs.features import PANEL
from churn_assets.defs.lakehouse import QUARANTINE, SILVER, SILVER_CUSTOMERS, landed, rows_kept
from churn_assets.defs.monitoring import DECISIONS, MONITORING
from churn_assets.defs.retention import EXCLUSIONS, EXPORTS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.defs.scoring import SCORES, UNSCORED
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import PromotionsResource
from churn_assets.resources.settings import CHECKOUT, Settings
from churn_assets.resources.tracking import PRODUCTION, REGISTERED_MODEL, STAGING

STAGE_NAMES = {
    "demo": "Demo lakehouse: simulate QuickBite",
    "s1_lakehouse": "Lakehouse: land the source tables, clean them into silver",
    "s2_features": "Features: baseline rule and feature panel",
    "s3_feasibility": "Feasibility: compare churn definitions before anything is trained",
    "s4_splits": "Splits: train and test",
    "s5_training": "Training: fit the pipeline, choose the threshold, log it to MLflow",
    "s6_evaluation": "Evaluation: judge the model on customers it never saw",
    "s7_registry": "Registry: register and promote",
    "s8_scoring": "Scoring: score the latest week with the version in production, list whom to contact",
    "s9_monitoring": "Monitoring: drift, alerts and realised recall, what past lists changed, the risk report",
}
INTERRUPTED = dg.DagsterExecutionInterruptedError.__name__
ENDS = (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SKIPPED)


class StageProgress:
    """Prints a line as each stage begins, one for each table or model made, and one with the time as it ends.

    Checks are counted at the end of their stage; a line of their own is for those that do not pass.
    """

    def __init__(self, defs: dg.Definitions, job: dg.JobDefinition, terminal: TextIO) -> None:
        self._terminal = terminal
        steps = {node.name for node in job.graph.nodes}
        self._stage_of = {step: stage for step, stage in stage_of_step(defs).items() if step in steps}
        self._check_steps = {check.op.name for check in defs.asset_checks or []}
        self._open = Counter(self._stage_of.values())
        self._begun: dict[str, float] = {}
        self._checks: Counter[bool] = Counter()

    def show(self, entry: EventLogEntry) -> None:
        """Takes one event of the run."""
        event = entry.dagster_event
        if event is None or event.step_key is None:
            return
        stage = self._stage_of.get(event.step_key, "")
        if event.event_type is DagsterEventType.STEP_START and stage not in self._begun:
            self._begun[stage] = perf_counter()
            print(f"\n● {STAGE_NAMES.get(stage, stage)}", file=self._terminal)
        elif event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            self._show_check(event.asset_check_evaluation_data)
        elif event.event_type in ENDS:
            self._show_end(event, stage)

    def _show_check(self, evaluation: Any) -> None:
        self._checks[evaluation.passed] += 1
        if not evaluation.passed:
            word = "failed" if evaluation.severity is dg.AssetCheckSeverity.ERROR else "warning"
            told = f"{word}: check {evaluation.check_name}: {evaluation.description}"
            print(fill(told, 110, initial_indent="    ", subsequent_indent="      "), file=self._terminal)

    def _show_end(self, event: dg.DagsterEvent, stage: str) -> None:
        step = str(event.step_key).removeprefix("food_delivery__")
        if event.event_type is DagsterEventType.STEP_SUCCESS and event.step_key not in self._check_steps:
            print(f"    {step:<48} {event.step_success_data.duration_ms / 1000:6.1f} s", file=self._terminal)
        elif event.event_type is DagsterEventType.STEP_FAILURE:
            print(f"    {step:<48} FAILED\n{cause_of(event)}", file=self._terminal)
        self._open[stage] -= 1
        if self._open[stage] == 0 and stage in self._begun:
            seconds = perf_counter() - self._begun[stage]
            checks = f", {self._checks[True]} checks passed" if self._checks[True] else ""
            print(f"  done in {seconds:.1f} s{checks}", file=self._terminal)
            self._checks.clear()


def stage_of_step(defs: dg.Definitions) -> dict[str, str]:
    """The stage (asset group) of each step, of assets and of checks."""
    stages: dict[str, str] = {}
    group_of: dict[dg.AssetKey, str] = {}
    for asset in defs.assets or []:
        if isinstance(asset, dg.AssetSpec):  # no step makes it, but a check may look at it
            group_of[asset.key] = str(asset.group_name)
            continue
        assert isinstance(asset, dg.AssetsDefinition)
        group_of |= asset.group_names_by_key
        stages[asset.op.name] = next(iter(asset.group_names_by_key.values()))
    for check in defs.asset_checks or []:
        assert isinstance(check, dg.AssetChecksDefinition)
        stages[check.op.name] = group_of[next(iter(check.check_keys)).asset_key]
    return stages


def cause_of(event: dg.DagsterEvent) -> str:
    """What the failed step's own code said, without Dagster's frames."""
    error = _root_error(event)
    if error is None:
        return "      no reason was recorded"
    if error.cls_name == INTERRUPTED:
        return "      interrupted"
    text = error.message.strip()
    if text.startswith("churn_assets.") or error.cls_name == dg.Failure.__name__:
        # Our own errors speak for themselves; of others the name says more than the message.
        text = text.partition(": ")[2]
    return "\n".join(f"      {line}" for line in text.splitlines())


def was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a run failed because somebody stopped it: Ctrl-C, or `kill`."""
    failures = [event for event in result.all_events if event.event_type is DagsterEventType.STEP_FAILURE]
    return any(error.cls_name == INTERRUPTED for error in map(_root_error, failures) if error is not None)


def _root_error(event: dg.DagsterEvent) -> Any:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error


def closing(
    resources: Mapping[str, Any], settings: Settings, *, begun_at: datetime, is_success: bool, log: Path
) -> str:
    """`summary`, or where to look after a failure that leaves nobody to ask."""
    try:
        return summary(resources, settings, begun_at=begun_at, is_success=is_success, log=log)
    except Exception as broken:  # What ended the run, such as a dead JVM, ends the summary too.
        if is_success:
            raise
        name = type(broken).__name__
        return (
            f"\nThe run FAILED; what failed is named above. The tables cannot be summed up ({name}: {broken}).\n"
            f"Next step: look for the cause at the end of {log}"
        )


def summary(
    resources: Mapping[str, Any], settings: Settings, *, begun_at: datetime, is_success: bool, log: Path
) -> str:
    """What the tables and the registry hold after a run, in words; parts that do not exist yet are left out.

    begun_at: when the run began (aware); an evaluation from before is shown as an earlier run's.
    """
    lakehouse: LakehouseResource = resources["lakehouse"]
    promotions: PromotionsResource = resources["promotions"]
    policy: ChurnPolicy = resources["policy"]
    lines = [
        "",
        "─" * 78,
        "The lifecycle ran to its end."
        if is_success
        else "The run FAILED; what failed is named above. What the tables and the registry hold now:",
    ]
    if all(lakehouse.has(table) for table in (SILVER, SILVER_CUSTOMERS, QUARANTINE)):
        lines += ["", "Rows", *_row_lines(lakehouse)]
    if lakehouse.has(PANEL):
        lines += ["", "Panel", *_panel_lines(lakehouse)]
    if lakehouse.has(FEASIBILITY):
        lines += ["", "Feasibility of churn definitions", *_feasibility_lines(lakehouse)]
    if lakehouse.has(EVALUATIONS):
        lines += ["", *_evaluation_lines(lakehouse, policy, begun_at)]
    lines += ["", "Model", *_model_lines(promotions)]
    if lakehouse.has(SCORES):
        lines += ["", "Scores", *_score_lines(lakehouse)]
    if lakehouse.has(TARGETS):
        lines += ["", "Retention list", *_list_lines(lakehouse)]
    if lakehouse.has(MONITORING):
        lines += ["", "Monitoring", *_monitoring_lines(lakehouse)]
    lines += ["", "Next", *_next_lines(settings, is_success, log), "─" * 78]
    return "\n".join(lines)


def _row_lines(lakehouse: LakehouseResource) -> list[str]:
    landed_versions, kept = lakehouse.inputs(SILVER), rows_kept(lakehouse)
    counted = lakehouse.read(QUARANTINE).groupBy("source_table", "disposition", "rule").count().collect()
    lines = []
    for table in SOURCE_TABLES:
        rows = {QUARANTINED: 0, CANCELLED: 0, REPAIRED: 0}
        for row in counted:
            if row.source_table == table.name:
                rows[row.disposition] += row["count"]
        total = lakehouse.row_count(landed(table), landed_versions[landed(table)])
        lines.append(
            f"  {table.name:<10} {total:>9,} in   {kept[table.name]:>9,} kept   {rows[CANCELLED]:>6,} cancelled   "
            f"{rows[QUARANTINED]:>5,} quarantined   ({rows[REPAIRED]:,} of the kept repaired)"
        )
    rules = sorted((row for row in counted if row.disposition != CANCELLED), key=lambda row: -row["count"])
    return lines + [f"    {row['count']:>6,} {row.source_table}: {row.rule}" for row in rules]


def _panel_lines(lakehouse: LakehouseResource) -> list[str]:
    by_date = lakehouse.read(PANEL).groupBy("as_of").agg({"label": "avg", "*": "count"}).orderBy("as_of").collect()
    labelled = [row for row in by_date if row["avg(label)"] is not None]
    rows, first, last = sum(row["count(1)"] for row in by_date), by_date[0].as_of, by_date[-1].as_of
    known = f"{len(labelled)} with known labels"
    lines = [f"  {rows:,} rows in {len(by_date)} snapshots, {first} to {last}; {known}"]
    if labelled:
        rates = [row["avg(label)"] for row in labelled]
        lines.append(
            f"  churn rate {min(rates):.1%} to {max(rates):.1%}; {rates[-1]:.1%} at {labelled[-1].as_of}, the test date"
        )
    return lines


def _feasibility_lines(lakehouse: LakehouseResource) -> list[str]:
    lines = []
    for row in lakehouse.read(FEASIBILITY).orderBy(F.desc("is_chosen"), "as_of").collect():
        verdict = FEASIBLE if row.is_feasible else NOT_FEASIBLE
        own = " (the policy's)" if row.is_chosen else ""
        counted = f"{row.churners:,} of {row.eligible:,} customers, {row.expected_test_churners:,.0f} to judge on"
        lines.append(f"  {verdict:<12}  {row.definition}{own}: {counted}")
        lines += [fill(reason, 110, initial_indent=" " * 16, subsequent_indent=" " * 16) for reason in row.reasons]
    return lines


def _evaluation_lines(lakehouse: LakehouseResource, policy: ChurnPolicy, begun_at: datetime) -> list[str]:
    rows = lakehouse.read(EVALUATIONS).withColumn("micros", F.unix_micros("evaluated_at"))
    row = rows.orderBy("micros", ascending=False).head(1)[0]
    is_of_this_run = row.micros >= begun_at.timestamp() * 1_000_000
    title = "Evaluation" if is_of_this_run else "Evaluation (of an earlier run: this one did not get there)"
    reasons = [*row.reasons, *[f"warning: {warning}" for warning in row.warnings]]
    shown = [fill(reason, 110, initial_indent="    ", subsequent_indent="      ") for reason in reasons]
    lines = [title, f"  {row.verdict}", *shown]
    if row.recall is not None and row.precision is not None:
        interval = f"{policy.gate.confidence:.0%} interval {row.recall_low:.3f} to {row.recall_high:.3f}"
        lines += [
            f"  recall    {row.recall:.3f} ({interval}): {row.caught} of {row.churners} churners found",
            f"  precision {row.precision:.3f}: {row.lift:.1f} times the churn rate of {row.prevalence:.3f}",
            f"  alerts    {row.alerts} of {row.rows} customers, {row.alert_share:.1%}; budget {row.alert_budget:.0%}",
            f"  ranking   PR-AUC {row.pr_auc:.3f}",
            *[_comparison_line(rival) for rival in row.comparisons],
        ]
    return lines


def _comparison_line(rival: Row) -> str:
    if rival.pr_auc is None:
        return f"            {rival.rival}: not comparable on {rival.rows} customers"
    return (
        f"            {rival.rival}: PR-AUC {rival.pr_auc:.3f}; with as many alerts it finds {rival.recall:.3f} of the "
        f"churners, the model {rival.challenger_recall:.3f}"
    )


def _model_lines(promotions: PromotionsResource) -> list[str]:
    state = promotions.state()
    if state.champion is None:
        return [f"  {REGISTERED_MODEL}: no version is under alias {PRODUCTION}"]
    lines = [f"  {REGISTERED_MODEL}: version {state.champion}, alias {PRODUCTION}"]
    last = serving(state.ledger)
    if last is not None and state.disagreement is None:
        replaced = "" if last.previous_version is None else f"; version {last.previous_version} served before"
        lines.append(f"  {last.action.value} at {last.decided_at:%Y-%m-%d %H:%M} UTC by {last.decided_by}{replaced}")
    waiting = promotions.tracking.version_under(STAGING)
    if waiting is not None and str(waiting.version) != state.champion:
        lines.append(f"  version {waiting.version}, alias {STAGING}, does not serve")
    return lines


def _score_lines(lakehouse: LakehouseResource) -> list[str]:
    scores, unscored = lakehouse.read(SCORES), lakehouse.read(UNSCORED)
    by_week = scores.groupBy("as_of", "model_version").agg(
        F.count("*").alias("rows"),
        F.count_if("is_alert").alias("alerts"),
        *[F.count_if(F.col("risk_tier") == tier).alias(tier) for tier in TIERS],
    )
    latest = by_week.orderBy(F.desc("as_of")).head(1)
    if not latest:
        return ["  no customer of any week could be scored"]
    (week,) = latest
    left_out = unscored.where(F.col("as_of") == F.lit(week.as_of)).count()
    tiers = ", ".join(f"{week[tier]:,} {tier}" for tier in TIERS)
    return [
        f"  week {week.as_of}: {week.rows:,} scored by version {week.model_version}, {left_out:,} not scorable",
        f"  {week.alerts:,} alerts, {week.alerts / week.rows:.1%}; risk: {tiers}",
        f"  {lakehouse.path(SCORES)}",
    ]


def _list_lines(lakehouse: LakehouseResource) -> list[str]:
    """The latest list, what past ones changed, and where the files for people lie."""
    by_week = (
        lakehouse.read(TARGETS)
        .groupBy("as_of")
        .agg(
            F.count_if(~F.col("is_holdout")).alias("contacts"),
            F.count_if("is_holdout").alias("held_out"),
            F.sum(F.when(~F.col("is_holdout"), F.col("value_at_risk"))).alias("value_at_risk"),
        )
    )
    latest = by_week.orderBy(F.desc("as_of")).head(1)
    if not latest:
        return ["  nobody is on a list"]
    (week,) = latest
    excluded = lakehouse.read(EXCLUSIONS).where(F.col("as_of") == F.lit(week.as_of)).count()
    others = f"{week.held_out:,} held out, {excluded:,} excluded"
    lines = [
        f"  week {week.as_of}: {week.contacts:,} to contact, worth {week.value_at_risk or 0:,.0f} at risk; {others}",
        f"  {lakehouse.path(f'{EXPORTS}/{week.as_of}.csv')}",
    ]
    effects = lakehouse.records(EFFECT) if lakehouse.has(EFFECT) else []
    for effect in effects:
        if effect["risk_tier"] == ALL_TIERS:
            told = f"list of {effect['as_of']}: {effect['statement']}"
            lines.append(fill(told, 110, initial_indent="  ", subsequent_indent="    "))
    return lines


def _monitoring_lines(lakehouse: LakehouseResource) -> list[str]:
    found = [Measurement.of(row) for row in lakehouse.records(MONITORING)]
    if not found:
        return ["  no week is scored yet"]
    as_of = max(each.as_of for each in found)
    latest = [each for each in found if each.as_of == as_of]
    counts = Counter(each.status for each in latest)
    told = ", ".join(f"{counts[status]} {status.value.replace('_', ' ')}" for status in Status if counts[status])
    lines = [f"  week {as_of}: of {len(latest)} figures {told}"]
    lines += [f"    {each.status.value}: {each.told}" for each in latest if each.is_alarm]
    decision = retraining.latest(lakehouse.records(DECISIONS)) if lakehouse.has(DECISIONS) else None
    if decision is not None:
        answer = "retrain" if decision.is_retrain else "no need to retrain"
        lines += [fill(f"{answer}: {'; '.join(decision.reasons)}", 110, initial_indent="  ", subsequent_indent="    ")]
    return lines


def _next_lines(settings: Settings, is_success: bool, log: Path) -> list[str]:
    make_dev = "make dev" if settings.project == CHECKOUT else f"make dev CHURN_PROJECT={settings.project}"
    lines = [
        f"  {make_dev}",
        "      Dagster on http://127.0.0.1:3000: this run, the asset graph, the checks",
        "      MLflow  on http://127.0.0.1:5000: the training run with its model card, the model versions",
        "  churn-assets audit",
        "      which version serves, since when, on which data, and every decision",
        f"  {settings.lakehouse}",
        "      the Delta tables",
        f"  {settings.lakehouse}/{FOLDER}/{REPORT}.html",
        "      the risk report, once a week is scored: one page for a browser, a phone or paper",
    ]
    return lines if is_success else [*lines, f"  {log}", "      the whole output of the run"]

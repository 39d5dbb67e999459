"""What a person sees in the terminal: the stages as they begin and end, and what came of a run."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from math import fsum
from pathlib import Path
from shutil import which
from textwrap import fill
from typing import Any

from churn_assets.churn import retraining
from churn_assets.churn.campaigns import ALL_TIERS
from churn_assets.churn.cleaning import CANCELLED, QUARANTINED, REPAIRED, SUPERSEDED
from churn_assets.churn.evaluation import NAMES, attainable_recall, remedy, strongest_rival
from churn_assets.churn.evaluations import recorded_criteria
from churn_assets.churn.feasibility import FEASIBLE, NOT_FEASIBLE
from churn_assets.churn.ledger import Action, before, moment, serving, since_when, version_named
from churn_assets.churn.monitoring import Measurement, Status
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.scoring import TIERS
from churn_assets.churn.tables import SOURCE_TABLES
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.feasibility import FEASIBILITY
from churn_assets.defs.features import PANEL
from churn_assets.defs.lakehouse import QUARANTINE, SILVER, SILVER_CUSTOMERS, landed, rows_kept
from churn_assets.defs.list_page import PAGE
from churn_assets.defs.monitoring import DECISIONS, MONITORING
from churn_assets.defs.retention import EXCLUSIONS, EXPORTS, TARGETS
from churn_assets.defs.risk_report import FOLDER, REPORT
from churn_assets.defs.scoring import SCORES, UNSCORED
from churn_assets.pages.tables import criteria_lines
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets.resources.promotions import LEDGER, PromotionsResource
from churn_assets.resources.settings import CHECKOUT, Settings, mlflow_page
from churn_assets.resources.tracking import PRODUCTION, STAGING


class Ending(Enum):
    """How a run ended, in words. VERDICT: by the answer to whether churn can be predicted here, or well enough."""

    SUCCESS = "The lifecycle ran to its end."
    VERDICT = "The run came to a verdict, and nothing after it was made: what serves stayed as it was."
    FAILURE = "The run FAILED; what failed is named above. What the tables and the registry hold now:"


@dataclass(frozen=True)
class Errand:
    """A job for people that was run alone and makes none of the flow's tables, and what it said that it did."""

    job: str
    said: Sequence[str]


def closing(resources: Mapping[str, Any], settings: Settings, *, begun_at: datetime, ending: Ending, log: Path) -> str:
    """`summary`, or where to look after a failure that leaves nobody to ask."""
    try:
        return summary(resources, settings, begun_at=begun_at, ending=ending, log=log)
    except Exception as broken:  # What ended the run, such as a dead JVM, ends the summary too.
        if ending is Ending.SUCCESS:
            raise
        name = type(broken).__name__
        return (
            f"\nThe run FAILED; what failed is named above. The tables cannot be summed up ({name}: {broken}).\n"
            f"Next step: look for the cause at the end of {log}"
        )


def summary(resources: Mapping[str, Any], settings: Settings, *, begun_at: datetime, ending: Ending, log: Path) -> str:
    """What the tables and the registry hold after a run, in words; parts that do not exist yet are left out.

    begun_at: when the run began (aware); an evaluation from before is shown as an earlier run's.
    """
    lakehouse: LakehouseResource = resources["lakehouse"]
    promotions: PromotionsResource = resources["promotions"]
    policy: ChurnPolicy = resources["policy"]
    lines = [
        "",
        "─" * 78,
        ending.value,
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
    lines += ["", "Next", *_next_lines(resources, settings, begun_at, ending, log), "─" * 78]
    return "\n".join(lines)


def errand_closing(errand: Errand, promotions: PromotionsResource) -> str:
    """What came of an errand that ran to its end."""
    said = [fill(line, 110, initial_indent="  ", subsequent_indent="      ") for line in errand.said]
    title, model = f"The job {errand.job} ran to its end.", ["", "Model", *_model_lines(promotions)]
    return "\n".join(["", "─" * 78, title, *said, *model, "─" * 78])


def _row_lines(lakehouse: LakehouseResource) -> list[str]:
    landed_versions, kept = lakehouse.inputs(SILVER), rows_kept(lakehouse)
    counted = lakehouse.counts(QUARANTINE, ["source_table", "disposition", "rule"])
    lines = []
    for table in SOURCE_TABLES:
        rows = {QUARANTINED: 0, CANCELLED: 0, SUPERSEDED: 0, REPAIRED: 0}
        for (source_table, disposition, _), number in counted.items():
            if source_table == table.name:
                rows[disposition] += number
        total = lakehouse.row_count(landed(table), landed_versions[landed(table)])
        lines.append(
            f"  {table.name:<10} {total:>9,} in   {kept[table.name]:>9,} kept   {rows[CANCELLED]:>6,} cancelled   "
            f"{rows[SUPERSEDED]:>6,} superseded   {rows[QUARANTINED]:>5,} quarantined   "
            f"({rows[REPAIRED]:,} of the kept repaired)"
        )
    rules = sorted(
        (-number, rule, table)
        for (table, disposition, rule), number in counted.items()
        if disposition not in (CANCELLED, SUPERSEDED)
    )
    return lines + [f"    {-number:>6,} {table}: {rule}" for number, rule, table in rules]


def _panel_lines(lakehouse: LakehouseResource) -> list[str]:
    by_date: dict[date, Counter[float | None]] = {}
    for (as_of, label), number in lakehouse.counts(PANEL, ["as_of", "label"]).items():
        by_date.setdefault(as_of, Counter())[label] = number
    rates = {
        as_of: labels[1.0] / known for as_of, labels in sorted(by_date.items()) if (known := labels[0.0] + labels[1.0])
    }
    rows, first, last = sum(labels.total() for labels in by_date.values()), min(by_date), max(by_date)
    lines = [f"  {rows:,} rows in {len(by_date)} snapshots, {first} to {last}; {len(rates)} with known labels"]
    if rates:
        test_date, rate = list(rates.items())[-1]
        spread = f"{min(rates.values()):.1%} to {max(rates.values()):.1%}"
        lines.append(f"  churn rate {spread}; {rate:.1%} at {test_date}, the test date")
    return lines


def _feasibility_lines(lakehouse: LakehouseResource) -> list[str]:
    lines, rows = [], lakehouse.records(FEASIBILITY)
    for row in sorted(rows, key=lambda row: (not row["is_chosen"], row["as_of"] or date.min)):
        verdict = FEASIBLE if row["is_feasible"] else NOT_FEASIBLE
        own = " (the policy's)" if row["is_chosen"] and len(rows) > 1 else ""
        counted = (
            f": {row['churners']:,} of {row['eligible']:,} customers of {row['as_of']}; "
            f"about {row['expected_test_churners']:,.0f} churners to judge on"
        )
        lines.append(f"  {verdict:<12}  {row['definition']}{own}{counted if row['as_of'] else ''}")
        lines += [fill(reason, 110, initial_indent=" " * 16, subsequent_indent=" " * 16) for reason in row["reasons"]]
    return lines


def _evaluation_lines(lakehouse: LakehouseResource, policy: ChurnPolicy, begun_at: datetime) -> list[str]:
    row = max(lakehouse.records(EVALUATIONS), key=lambda row: row["evaluated_at"])
    is_of_this_run = row["evaluated_at"] >= begun_at
    title = "Evaluation" if is_of_this_run else "Evaluation (of an earlier run: this one did not get there)"
    criteria = recorded_criteria(row)
    reasons = [*([] if criteria else row["reasons"]), *[f"warning: {warning}" for warning in row["warnings"]]]
    shown = [f"    {line}" for line in (criteria_lines(criteria) if criteria else [])]
    shown += [fill(reason, 110, initial_indent="    ", subsequent_indent="      ") for reason in reasons]
    dates = row.get("dates") or ()
    if dates:
        shown.append("    by date, the last by the version itself, the others by models that were made as it was:")
        shown += [f"    {line}" for line in map(_date_line, dates)]
    lines = [title, f"  {row['verdict']}", *shown]
    attainable = attainable_recall(row["alerts"] or 0, row["churners"] or 0)
    if row["recall"] is not None and row["precision"] is not None and attainable is not None:
        interval = "{:.0%} interval {recall_low:.3f} to {recall_high:.3f}".format(policy.gate.confidence, **row)
        lines += [
            "  recall    {recall:.3f} ({}): {caught:,} of {churners:,} churners found; "
            "a perfect ranking finds {:.3f} with as many alerts".format(interval, attainable, **row),
            "  precision {precision:.3f}: {lift:.1f} times the churn rate of {prevalence:.3f}".format(**row),
            "  alerts    {alerts:,} of {rows:,} customers, {alert_share:.1%}; budget {alert_budget:.0%}".format(**row),
            "  ranking   PR-AUC {pr_auc:.3f}".format(**row),
            *_profit_lines(row, policy.units.currency),
            *_comparison_lines(row["comparisons"]),
        ]
    return lines


def _date_line(judged: Mapping[str, Any]) -> str:
    if judged["recall"] is None:
        return f"  {judged['as_of']}  {judged['missed']}"
    found = "{as_of}  recall {recall:.3f}, churn rate {prevalence:.1%}, alerts {alert_share:.1%}".format(**judged)
    return f"  {found}: {'holds' if judged['is_met'] else 'missed ' + judged['missed']}"


def _profit_lines(row: Mapping[str, Any], currency: str) -> Iterator[str]:
    """What contacts earn, where the policy that judged had [economics]."""
    if row.get("profit_per_customer") is None:
        return
    amount = f"{row['profit_per_customer']:,.2f} {currency}".rstrip()
    most = "{best_profit_per_customer:,.2f} with {most_profitable_share:.0%} of them contacted".format(**row)
    yield f"  profit    {amount} per customer by contacting the alerted; {most}; EMPC {row['empc']:,.2f}"


def _comparison_lines(rivals: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    strongest = strongest_rival({rival["rival"]: rival["difference"] for rival in rivals})
    for rival in rivals:
        name = NAMES[rival["rival"]] + (" (the strongest rival)" if rival["rival"] == strongest else "")
        if rival["pr_auc"] is None:
            yield f"            {name}: not comparable on {rival['rows']} customers"
        else:
            yield (
                "            {}: PR-AUC {pr_auc:.3f}; with as many alerts it finds {recall:.3f} of the "
                "churners, the model {challenger_recall:.3f}".format(name, **rival)
            )


def _model_lines(promotions: PromotionsResource) -> list[str]:
    state, waiting = promotions.state(), promotions.tracking.version_under(STAGING)
    if state.champion is None:
        lines = [f"  {promotions.tracking.registered_model}: no version is under alias {PRODUCTION}"]
        if waiting is not None:
            lines.append(
                f"  version {waiting.version}, alias {STAGING}, waits for a person: launch promote_staging_model;"
            )
            lines.append("  or let the policy promote what passed: CHURN_AUTOMATION=on")
        return lines
    lines = [f"  {promotions.tracking.registered_model}: {version_named(state.champion)}, alias {PRODUCTION}"]
    last = serving(state.ledger)
    if last is not None and state.disagreement is None:
        replaced = "" if last.previous_version is None else f"; {before(last)}"
        lines.append(f"  {since_when(last)}{replaced}")
    latest = state.ledger[-1] if state.ledger else None
    if latest is not None and latest.action is Action.UNCHANGED:
        lines.append(f"  unchanged at {moment(latest)}: {latest.reasons[0]}")
    if waiting is not None and str(waiting.version) != state.champion:
        lines.append(f"  version {waiting.version}, alias {STAGING}, does not serve")
    return lines


def _score_lines(lakehouse: LakehouseResource) -> list[str]:
    latest = max(lakehouse.dates(SCORES, "as_of"), default=None)
    if latest is None:
        return ["  no customer of any week could be scored"]
    of_week = ("as_of", [latest])
    scores = lakehouse.arrow(SCORES, ["model_version", "is_alert", "risk_tier"], dates=of_week)
    alerts, left_out = sum(scores.column("is_alert").to_pylist()), lakehouse.arrow(UNSCORED, ["as_of"], dates=of_week)
    rows, by_tier = len(scores), Counter(scores.column("risk_tier").to_pylist())
    version, tiers = scores.column("model_version")[0], ", ".join(f"{by_tier[tier]:,} {tier}" for tier in TIERS)
    return [
        f"  week {latest}: {rows:,} scored by version {version}, {len(left_out):,} not scorable",
        f"  {alerts:,} alerts, {alerts / rows:.1%}; risk: {tiers}",
        f"  {lakehouse.path(SCORES)}",
    ]


def _list_lines(lakehouse: LakehouseResource) -> list[str]:
    """The latest list, what past ones changed, and where the files for people lie."""
    latest = max(lakehouse.dates(TARGETS, "as_of"), default=None)
    if latest is None:
        return ["  nobody is on a list"]
    of_week = ("as_of", [latest])
    listed = lakehouse.arrow(TARGETS, ["is_holdout", "value_at_risk"], dates=of_week).to_pylist()
    values = [row["value_at_risk"] for row in listed if not row["is_holdout"]]
    worth = "ranked by risk" if None in values else f"worth {fsum(values):,.0f} at risk"
    excluded = lakehouse.arrow(EXCLUSIONS, ["as_of"], dates=of_week)
    others = f"{len(listed) - len(values):,} held out, {len(excluded):,} excluded"
    lines = [
        f"  week {latest}: {len(values):,} to contact, {worth}; {others}",
        f"  {lakehouse.root}/{EXPORTS}/{latest}.csv",
    ]
    effects = lakehouse.records(EFFECT) if lakehouse.has(EFFECT) else []
    for effect in effects:
        if effect["risk_tier"] == ALL_TIERS:
            text = f"list of {effect['as_of']}: {effect['statement']}"
            lines.append(fill(text, 110, initial_indent="  ", subsequent_indent="    "))
    return lines


def _monitoring_lines(lakehouse: LakehouseResource) -> list[str]:
    figures = [Measurement.of(row) for row in lakehouse.records(MONITORING)]
    if not figures:
        return ["  no week is scored yet"]
    as_of = max(each.as_of for each in figures)
    latest = [each for each in figures if each.as_of == as_of]
    counts = Counter(each.status for each in latest)
    statuses = ", ".join(f"{counts[status]} {status.value.replace('_', ' ')}" for status in Status if counts[status])
    lines = [f"  week {as_of}: of {len(latest)} figures {statuses}"]
    lines += [f"    {each.status.value}: {each.description}" for each in latest if each.is_alarm]
    decision = retraining.latest(lakehouse.records(DECISIONS)) if lakehouse.has(DECISIONS) else None
    if decision is not None:
        answer = "retrain" if decision.is_retrain else "no need to retrain"
        lines += [fill(f"{answer}: {'; '.join(decision.reasons)}", 110, initial_indent="  ", subsequent_indent="    ")]
    return lines


def shown_command(name: str) -> str:
    """An installed command as it is typed from here, where its folder is not on the PATH too."""
    file = Path(sys.executable).with_name(name)
    if which(name) or not file.is_file():
        return name
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _next_lines(
    resources: Mapping[str, Any], settings: Settings, begun_at: datetime, ending: Ending, log: Path
) -> Iterator[str]:
    """What to do about an early end, and where to look: only what is there."""
    lakehouse: LakehouseResource = resources["lakehouse"]
    if ending is Ending.VERDICT:
        yield from _advice(lakehouse, begun_at)
    if ending is Ending.FAILURE:
        yield from (f"  {log}", "      the whole output of the run")
    pages = {
        PAGE: "the list as a page to work with: search, sort, filter, each customer's reasons",
        REPORT: "the risk report, for a browser, a phone or paper",
    }
    for name, said in pages.items():
        file = f"{FOLDER}/{name}.html"
        if lakehouse.holds_file(file):
            yield from (f"  {lakehouse.root}/{file}", f"      {said}")
    is_judged = lakehouse.has(EVALUATIONS)
    yield f"  make dev{'' if settings.project == CHECKOUT else f' CHURN_PROJECT={settings.project}'}"
    yield "      Dagster on http://127.0.0.1:3000: this run, the asset graph, the checks"
    if is_judged:
        yield "      MLflow  on " + mlflow_page("http://127.0.0.1:5000", "experiments")
        yield "      the training run with its model card, the model versions"
    if lakehouse.has(LEDGER):
        yield f"  {shown_command('churn-assets')} history"
        yield "      which version serves, since when, on which data, and every decision"
    if lakehouse.has(SILVER):
        yield from (f"  {lakehouse.place}", "      the Delta tables")


def _advice(lakehouse: LakehouseResource, begun_at: datetime) -> Iterator[str]:
    """What to do about the verdict that ended the run."""
    candidates = lakehouse.records(FEASIBILITY)
    chosen = next(row for row in candidates if row["is_chosen"])
    if not chosen["is_feasible"]:
        yield "  policy.toml"
        feasible = [row for row in candidates if row["is_feasible"]]
        if feasible:
            yield "      these churn definitions would work; write one of them:"
            yield from (f"        {row['definition']}: {row['setting']}" for row in feasible)
        else:
            yield "      no churn definition of those compared would work; more weeks of orders, a larger"
            yield '      alerts.budget or gate.evaluation = "crossfit" may help: docs/feasibility.md'
        return
    rows = [row for row in lakehouse.records(EVALUATIONS) if row["evaluated_at"] >= begun_at]
    if not rows:
        return
    row = max(rows, key=lambda row: row["evaluated_at"])
    short = [criterion for criterion in recorded_criteria(row) if not criterion.is_met]
    if short:
        yield "  what was short:"
    for criterion in short:
        yield f"      {criterion.what}: {criterion.observed}, allowed {criterion.allowed}"
        yield fill(remedy(criterion.key), 110, initial_indent="        ", subsequent_indent="        ")
    if not short:
        yield "  mend what kept the model from being judged, named above; then the same command again"

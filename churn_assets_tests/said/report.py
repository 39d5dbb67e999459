"""The risk report's sentences and tables, written down once more."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from math import exp, fsum, hypot, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.evaluation import EVALUATIONS
from churn_assets.defs.features import PANEL
from churn_assets.defs.monitoring import DECISIONS, MONITORING
from churn_assets.defs.retention import EXCLUSIONS, TARGETS
from churn_assets.defs.scoring import SCORES
from churn_assets_tests.said.lists import ASKED_FOR
from churn_assets_tests.said.sentences import Rule, count, day, percent, sentences_of, span, unsaid, wilson
from churn_assets_tests.said.tables import Tables, churn_in_words, learned_from, shown_tiers, tier_names


class _Page(HTMLParser):
    """The text of a page by its blocks; `tables` by data-table: a row is its cells, the head is the first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._table = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self._table = str(given.get("data-table"))
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("th", "td"):
            self.tables[self._table][-1].append("")
        elif tag == "img" and given.get("alt"):
            self.blocks.append(("p", str(given["alt"])))
        elif tag in ("p", "li", "dt", "dd", "small", "figcaption", "h1", "h2", "title"):
            self.blocks.append((tag, ""))
        if tag not in ("meta", "img", "br", "source"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        if "table" in self._open:
            if data.strip():
                row = self.tables[self._table][-1]
                row[-1] = f"{row[-1]} {data.strip()}".strip()
        elif data.strip():
            tag, text = self.blocks.pop()
            self.blocks.append((tag, text + data))


def untrue_report(tables: Tables, text: str) -> Iterator[str]:
    page = _Page()
    page.feed(text)
    lines: list[str] = []
    for tag, said in page.blocks:
        if tag in ("dd", "small"):
            lines[-1] = f"{lines[-1]}; {' '.join(said.split())}"
        elif tag == "dt":
            lines.append(said)
        else:
            lines += sentences_of(said)
    figures = report_figures(tables)
    rules = report_rules(tables, figures)
    yield from unsaid(lines, rules, figures)
    # What has to be said, however often that is.
    for sentence in (
        *must_be_said(tables),
        *(rule.text for rule in rules if rule.is_so and rule.text.startswith(DOUBTS)),
    ):
        if sentence.format(**figures) not in lines:
            yield f"not said: {sentence}"
    for name, rows in page.tables.items():
        wanted = REPORT_TABLES[name](tables, figures) if name in REPORT_TABLES else None
        if wanted is None:
            yield f"no rule checks the table {name}"
        elif rows != wanted:
            different = [f"{row} and not {other}" for row, other in zip(wanted, rows, strict=False) if row != other]
            yield f"the table {name} is {different or wanted}"


def report_figures(tables: Tables) -> dict[str, str]:
    policy, judged = tables.project.policy, tables.judged
    windows, currency = policy.windows, policy.units.currency

    def money(amount: float) -> str:
        return f"{amount:,.0f} {currency}".strip()

    scores, targets = tables.scores, tables.targets
    alerted = [row for row in scores.values() if row["is_alert"]]
    spend = {customer: float(row["spend"]) for customer, row in tables.panel.items()}
    at_risk = {row["customer_id"]: row["churn_probability"] * spend[row["customer_id"]] for row in alerted}
    contacts = [row for row in targets if not row["is_holdout"]]
    known = [(as_of, share) for as_of, share in tables.churn_by_date.items() if share is not None]
    worst = max(known, key=lambda each: each[1])
    when, labels, _ = tables.tested
    alerts, caught, churners = judged["alerts"], judged["caught"], int(labels.sum())
    low, high = wilson(caught, churners, policy.gate.confidence)
    tier_high, tier_medium = tables.tiers
    lowest_alert = min((row["churn_probability"] for row in alerted), default=None)
    foretold = tables.measured("estimated_precision")
    per_left = _expected_per_left(tables)
    nearest = _nearest(tables)
    rule = next((each["recall"] for each in judged["comparisons"] if each["rival"] == "rule"), None)
    versions = {table: tables.project.lakehouse.version(table) for table in MADE_FROM}
    return {
        "week": day(tables.week),
        "made_on": day(tables.report_made_on),
        **{
            f"foretold{end}": count(foretold[of] * len(alerted))
            for end, of in (("", "value"), ("_low", "low"), ("_high", "high"))
            if foretold is not None
        },
        **dict(zip(("per_left", "per_left_low", "per_left_high"), (f"{each:.2f}" for each in per_left), strict=False)),
        "rule": "" if rule is None else percent(rule),
        "weeks": str(len(judged["dates"])),
        "weeks_met": str(sum(each["is_met"] for each in judged["dates"])),
        "weeks_asked": str(tables.project.policy.gate.dates_to_meet(len(judged["dates"]))),
        "weeks_missed": ", ".join(_missed(each) for each in judged["dates"] if not each["is_met"]),
        "nearest": f"{nearest[0]}% of it: {nearest[1]}" if nearest else "",
        "customers": count(len(scores)),
        "leavers": count(fsum(row["churn_probability"] for row in scores.values())),
        "alerts": count(len(alerted)),
        "alert_share": percent(len(alerted) / len(scores)),
        "value_at_risk": money(fsum(at_risk.values())),
        "alerted_spend": money(fsum(spend[row["customer_id"]] for row in alerted)),
        "to_contact": count(len(contacts)),
        "listed_value": money(fsum(at_risk[row["customer_id"]] for row in contacts)),
        "held_out": count(len(targets) - len(contacts)),
        "listed": count(len(targets)),
        "excluded": count(len(tables.excluded)),
        "exclusions": _exclusions(tables.excluded),
        "eligible_days": str(windows.eligibility_days),
        "outcome_days": str(windows.outcome_days),
        "observed_days": str(windows.observation_days),
        "first_week": day(known[0][0]),
        "first_share": percent(known[0][1]),
        "worst_week": day(worst[0]),
        "worst_share": percent(worst[1]),
        "last_week": day(known[-1][0]),
        "last_share": percent(known[-1][1]),
        "version": str(next(iter(scores.values()))["model_version"]),
        "learned_until": day(max(learned_from(tables))),
        "judged": count(len(labels)),
        "tested": day(when),
        "caught": count(caught),
        "churners": count(churners),
        "recall": percent(caught / churners),
        "recall_low": percent(low),
        "recall_high": percent(high),
        "attainable": percent(min(alerts / churners, 1)),
        "precision": percent(caught / alerts),
        "lift": f"{caught / alerts / (churners / len(labels)):.1f}",
        "budget": f"{100 * policy.alerts.budget:g}%",
        "late": span(policy.crisis_delay_minutes),
        "currency": "" if currency else "; in the shop's currency",
        "lowest_alert": "" if lowest_alert is None else percent(lowest_alert),
        "shown_currency": currency or "the shop's currency",
        "high": percent(tier_high),
        "medium": percent(tier_medium),
        "churn": churn_in_words(tables),
        "made_from": ", ".join(f"{table} version {number}" for table, number in versions.items()),
    }


# What tells how far to trust the page is said wherever it is so.
DOUBTS = ("At risk; {alerts}", "For each of these customers", "As many calls by", "Of the {weeks} weeks")
MADE_FROM = (SCORES, TARGETS, EXCLUSIONS, EFFECT, EVALUATIONS, MONITORING, PANEL)


def _expected_per_left(tables: Tables) -> tuple[float, ...]:
    """How many the probabilities expected to leave for each who left, with its interval, by the logarithm's error."""
    ratio = next((each["value"] for each in tables.judged["criteria"] if each["key"] == "expected_over_observed"), None)
    if ratio is None:
        return ()
    rows, churners = tables.judged["rows"], tables.judged["churners"]
    _, _, scores = tables.tested
    if np.isfinite(scores).all():
        assert ratio == pytest.approx(scores.sum() / churners)
    error = NormalDist().inv_cdf(0.5 + tables.project.policy.gate.confidence / 2) * sqrt(1 / churners - 1 / rows)
    return ratio, exp(-error) * ratio, exp(error) * ratio


def _leaning(tables: Tables) -> str:
    _, low, high = (round(each, 2) for each in _expected_per_left(tables) or (1.0, 1.0, 1.0))
    return "come out too low" if high < 1 else "come out too high" if low > 1 else "are right on the whole"


def _nearest(tables: Tables) -> tuple[int, str] | None:
    """The figure of the week's customers that is nearest to its limit, as a share of it in percent."""
    meanings = {feature.name: feature.meaning for feature in tables.project.policy.catalogue.features}
    shares = {
        row["subject"]: row["value"] / row["limit_warn"]
        for row in tables.of_week(MONITORING)
        if row["metric"] == "psi" and row["value"]
    }
    if not shares:
        return None
    subject = max(shares, key=lambda name: shares[name])
    return int(100 * shares[subject]), meanings.get(subject, "the probabilities of leaving")


def _missed(week: Mapping[str, Any]) -> str:
    is_short = week["recall"] < week["least_recall"]
    why = f"{percent(week['recall'])} found, {percent(week['least_recall'])} asked"
    return f"{day(week['as_of'])} ({why if is_short else 'ranked worse than asked'})"


def _exclusions(reasons: Sequence[str]) -> str:
    words = {
        "contacted on": "contacted of late",
        "held out on": "held out of late",
        "opted out": "asked not to be contacted",
        "no action": "no action that there still is would pay",
    }
    of_each = {said: sum(kind in reason for reason in reasons) for kind, said in words.items()}
    order = sorted(of_each, key=lambda said: (-of_each[said], list(words.values()).index(said)))
    return ", ".join(f"{said} ({of_each[said]:,})" for said in order if of_each[said])


def report_rules(tables: Tables, figures: Mapping[str, str]) -> list[Rule]:
    judged, decided = tables.judged, tables.whole(DECISIONS)
    is_holdout, is_crossfit, is_backtest = (
        judged["evaluation"] == each for each in ("holdout", "crossfit", "backtest")
    )
    verdict = judged["verdict"]
    is_retrain = bool(decided) and max(decided, key=lambda row: (row["as_of"], row["decided_at"]))["is_retrain"]
    has_segments = bool(tables.segments)
    high, medium, low = shown_tiers(tables).values()
    figures_of_it = (
        "{recall} of those who left ({caught} of {churners}; for all customers between {recall_low} and {recall_high}; "
        "as many calls can find {attainable} at most)."
    )
    by_tier = (
        f"{high.capitalize()}, {medium}, {low}; By the probability of leaving: {high} from {{high}}, {medium} from "
        "{medium} or if at risk"
    )
    is_lower = any(row["is_alert"] and row["churn_probability"] < tables.tiers[1] for row in tables.scores.values())
    is_foretold, is_compared = "foretold" in figures, bool(figures["nearest"])
    of_weeks = "Of the {weeks} weeks each by itself {weeks_met} were as asked, and the policy asks for {weeks_asked}"
    summed = "The probabilities of leaving, which the model gives each active customer, summed."
    texts: dict[str, bool] = {
        "Customers at risk, week of {week}": True,
        "Customers at risk of leaving": True,
        "Week of {week}: what was known before that day.": True,
        "Made on {made_on}.": True,
        "Amounts are in {shown_currency}.": True,
        "Active customers; {customers}; ordered in the last {eligible_days} days": True,
        "Expected to leave; {leavers}; of all active customers, within {outcome_days} days": True,
        "At risk; {alerts}; {alert_share} of the active: those most likely to leave": not is_foretold,
        "At risk; {alerts}; {alert_share} of the active: those most likely to leave; about {foretold} of them would if "
        "nothing were done ({foretold_low} to {foretold_high})": is_foretold,
        "Value at risk; {value_at_risk}; of the {alerted_spend} that the {alerts} at risk spent in {observed_days} "
        "days": True,
        "To contact this week; {to_contact}; of those at risk; value at risk {listed_value}": True,
        "How many left, week by week": True,
        "Of the customers of {first_week}, {first_share} left; at the worst, of those of {worst_week}, {worst_share}; "
        "of those of {last_week}, the latest week whose outcome is known, {last_share}.": True,
        "The figures are at the end of this page.": True,
        "Why customers are at risk": True,
        "What raised the risk most, among the {listed} customers on this week's list ({to_contact} to contact, "
        "{held_out} held out); up to three reasons each.": True,
        "Nobody is on this week's list.": not tables.targets,
        "No single reason stands out for anybody on this week's list.": bool(tables.targets)
        and not any(row["reasons"] for row in tables.targets),
        "Who they are": True,
        "All active customers by the probability of leaving, and by segment.": has_segments,
        "All active customers by the probability of leaving.": not has_segments,
        "Value at risk is that of the customers at risk.": True,
        "What this week's list asks for": True,
        f"Ranked by value at risk: {ASKED_FOR}.": tables.project.policy.retention.rank_by == "value_at_risk",
        "{to_contact} customers to contact.": True,
        "{held_out} are held out at random, to see what contacting the others changes; {excluded} at risk are left in "
        "peace: {exclusions}.": True,
        "{held_out} are held out at random, to see what contacting the others changes; Nobody else at risk was kept "
        "off the list.": not tables.excluded,
        "How past lists did": True,
        "No list has been used yet, so nothing is known of what contacting customers changes.": not _effects(tables),
        "How sure this is": True,
        "Version {version} of the model scored this week.": True,
        "It learned from weeks up to {learned_until}.": True,
        f"On {{judged}} customers of {{tested}} whom it had never seen, it found {figures_of_it}": is_holdout,
        "On customers of {tested} whom it had never seen, and models made in the same way on others of earlier weeks, "
        f"{{judged}} in all, they found {figures_of_it}": is_backtest,
        "Five models made in the same way, this one among them, were tried on all {judged} customers of {tested}, "
        "each on those it had never seen.": is_crossfit,
        f"Together they found {figures_of_it}": is_crossfit,
        "Of those called at risk {precision} left, {lift} times as many as among as many chosen by chance.": True,
        "As many calls by the retention team's rule would have found {rule}.": bool(figures["rule"]),
        f"{of_weeks}.": is_backtest and not figures["weeks_missed"],
        f"{of_weeks}; not so {{weeks_missed}}.": is_backtest and bool(figures["weeks_missed"]),
        "For each of these customers who left, the probabilities had expected {per_left} to leave ({per_left_low} to "
        f"{{per_left_high}}): they {_leaning(tables)}.": "per_left" in figures,
        "It met every requirement of the company's policy.": verdict == "PASS",
        "It fell short of a requirement of the company's policy.": verdict == "FAIL",
        "This week's customers, and their probabilities, differ from those the model learned from by no more than is "
        "allowed for what its weeks differ by among themselves.": is_compared and not _alarms(tables),
        "Nearest to its limit, at {nearest}.": is_compared and not _alarms(tables),
        "This week's customers were not compared with those the model learned from.": not is_compared,
        "The model should be trained again.": is_retrain,
        "The model need not be trained again.": bool(decided) and not is_retrain,
        "What the words mean": True,
        "Active customer; Ordered in the last {eligible_days} days, as of {week}.": True,
        "Left; By the company's policy: {churn}, counted from the first day of the week.": True,
        f"Expected to leave; {summed}": not is_foretold,
        f"Expected to leave; {summed} How many of those at risk would leave is told by what such probabilities turned "
        "out to mean where the model was judged.": is_foretold,
        "At risk; The active customers whom the model calls most likely to leave; at most about {budget} of the "
        "active, because the team cannot contact more.": True,
        "Value at risk; The probability of leaving times what the customers spent in {observed_days} days, summed "
        f"over the customers at risk{figures['currency']}.": True,
        "Late delivery; In the picture and its table: more than {late} after the promised time, in the {observed_days} "
        "days before the week.": tables.is_wait_known,
        f"{by_tier}; {low} below.": not is_lower,
        f"{by_tier}, which this week is from {{lowest_alert}}; {low} below.": is_lower,
        "The figures behind the picture": True,
        "Made from {made_from}.": True,
    }
    said = {**texts, **dict.fromkeys(must_be_said(tables), True)}
    return [Rule(text, is_so) for text, is_so in said.items()]


def must_be_said(tables: Tables) -> list[str]:
    return [*_effects(tables), *_alarms(tables)]


def _effects(tables: Tables) -> list[str]:
    """What past lists did, from the two shares that stayed."""
    told = []
    for row in tables.whole(EFFECT):
        if row["risk_tier"] != "all":
            continue
        begun = f"List of {day(row['as_of'])}: "
        if row["difference"] is None:
            told.append(f"{begun}{row['statement']}.")
            continue
        confidence, ends = tables.project.policy.gate.confidence, {}
        for arm in ("treated", "held_out"):
            share, of = row[f"{arm}_retained_share"], row[arm]
            low, high = wilson(round(share * of), of, confidence)
            ends[arm] = share, low, high
        (one, one_low, one_high), (other, other_low, other_high) = ends["treated"], ends["held_out"]
        more = one - other
        low, high = more - hypot(one - one_low, other_high - other), more + hypot(one_high - one, other - other_low)
        were = "contacted" if row["treated_contacted"] == row["treated"] else "to contact"
        text = f"of 100 {were} {100 * one:.0f} stayed, of 100 held out {100 * other:.0f}"
        if row["held_out_contacted"]:
            text += f" ({row['held_out_contacted']:,} of them were contacted all the same)"
        interval = f"{round(100 * confidence, 1):g}% interval"
        if low <= 0 <= high:
            text += f"; the list kept up to {100 * high:.1f} of 100 or lost up to {-100 * low:.1f} ({interval})"
            told.append(f"{begun}not enough to tell: {text}.")
        else:
            sizes = [abs(more), *sorted((abs(low), abs(high)))]
            share, least, most = (
                f"{100 * size:.{0 if abs(more) >= 0.1 and sizes[1] >= 0.01 else 1}f}" for size in sizes
            )
            kept, fewest, all_told = (count(size * row["treated"]) for size in sizes)
            text += f": the list {'kept' if low > 0 else 'lost'} about {share} of 100 ({interval} {least} to {most}), "
            text += f"some {kept} ({fewest} to {all_told}) of {row['treated']:,}"
            told.append(f"{begun}{text}.")
    return told


def _alarms(tables: Tables) -> list[str]:
    meanings = {feature.name: feature.meaning for feature in tables.project.policy.catalogue.features}
    told = []
    for row in tables.whole(MONITORING):
        if row["as_of"] != tables.week or row["status"] not in ("warn", "fail"):
            continue
        far = "far " if row["status"] == "fail" else ""
        value, limit = percent(row["value"] or 0.0), percent(row["limit_warn"])
        told.append(
            {
                "psi": f"Customers differ {far}more than usual from those the model learned from: "
                f"{meanings.get(row['subject'])}.",
                "alert_share": "More customers are at risk than the team can contact: "
                f"{value}; the company's policy allows {limit}.",
                "estimated_recall": "By the probabilities, of this week's customers who will leave the share that is "
                f"called at risk: {value}; the company's policy asks for at least {limit}.",
                "estimated_precision": "By the probabilities, of those called at risk this week the share that will "
                f"leave: {value}; the company's policy asks for at least {limit}.",
                "unseen_segment_share": f"Customers of segments that the model never saw: {value}; the company's "
                f"policy allows {limit}.",
            }[row["metric"]]
            if row["subject"] != "score"
            else f"The probabilities of leaving are spread {far}otherwise than when the model was trained."
        )
    return told


TableOf = Callable[[Tables, Mapping[str, str]], list[list[str]]]


def _parts(tables: Tables, of: Mapping[str, str], head: str, order: Sequence[str] | None) -> list[list[str]]:
    currency = tables.project.policy.units.currency
    spend = {customer: float(row["spend"]) for customer, row in tables.panel.items()}
    found: dict[str, tuple[float, list[str]]] = {}
    for name in dict.fromkeys(of.values()):
        rows = [row for customer, row in tables.scores.items() if of[customer] == name]
        alerted = [row for row in rows if row["is_alert"]]
        value = fsum(row["churn_probability"] * spend[row["customer_id"]] for row in alerted)
        share = percent(len(alerted) / len(rows))
        leavers = count(fsum(row["churn_probability"] for row in rows))
        shown = f"{value:,.0f} {currency}".strip()
        found[name] = value, [name, count(len(rows)), leavers, f"{count(len(alerted))} {share}", shown]
    names = [name for name in order or () if name in found] or sorted(found, key=lambda name: (-found[name][0], name))
    return [[head, "customers", "expected to leave", "at risk", "value at risk"], *(found[name][1] for name in names)]


def _told_together(tables: Tables, of: Mapping[str, str]) -> dict[str, str]:
    """Of two or more names that fewer than 20 customers have, one for all."""
    customers = Counter(of.values())
    few = [name for name in customers if customers[name] < 20]
    shown = dict.fromkeys(few, f"{len(few)} small segments") if len(few) > 1 else {}
    return {customer: shown.get(name, name) for customer, name in of.items()}


def _tiers(tables: Tables, figures: Mapping[str, str]) -> list[list[str]]:
    rows = _parts(tables, tier_names(tables), "probability", list(shown_tiers(tables).values()))
    if all(row[3].split()[1] in ("0.0%", "100.0%") for row in rows[1:]):
        return [row[:3] + row[4:] for row in rows]
    return rows


def _segments(tables: Tables, figures: Mapping[str, str]) -> list[list[str]]:
    of = {customer: tables.segments.get(row["segment_index"], "(none)") for customer, row in tables.panel.items()}
    head, *rows = _parts(tables, _told_together(tables, of), "segment", None)
    return [head, *sorted(rows, key=lambda row: row[0].endswith(" small segments"))]


def _drivers(tables: Tables, figures: Mapping[str, str]) -> list[list[str]]:
    meanings = {feature.name: feature.meaning for feature in tables.project.policy.catalogue.features}
    counts = Counter(reason["feature"] for row in tables.targets for reason in row["reasons"])
    order = sorted(counts, key=lambda name: (-counts[name], name))
    listed = len(tables.targets)
    few = [name for name in order if counts[name] / listed < 0.05]
    told = [(meanings[name], counts[name]) for name in order if name not in few or len(few) == 1]
    if len(few) > 1:
        of_few = [row for row in tables.targets if any(reason["feature"] in few for reason in row["reasons"])]
        told.append((f"{len(few)} other reasons", len(of_few)))
    rows = [[name, count(customers), percent(customers / listed)] for name, customers in told]
    return [["reason", "customers", "of the list"], *rows]


def _offers(tables: Tables, figures: Mapping[str, str]) -> list[list[str]]:
    currency = tables.project.policy.units.currency
    values: dict[str, list[float]] = {}
    for row in tables.targets:
        if not row["is_holdout"]:
            value = row["churn_probability"] * float(tables.panel[row["customer_id"]]["spend"])
            values.setdefault(row["suggested_action"], []).append(value)
    rows = [
        [action, count(len(of)), f"{fsum(of):,.0f} {currency}".strip()]
        for action, of in sorted(values.items(), key=lambda each: (-fsum(each[1]), each[0]))
    ]
    return [["action", "customers to contact", "value at risk"], *rows]


def _trend(tables: Tables, figures: Mapping[str, str]) -> list[list[str]]:
    rows = [["week of", "active customers", f"left within {figures['outcome_days']} days"]]
    late = [f"had a delivery over {figures['late']} late in the {figures['observed_days']} days before"]
    for as_of, customers in tables.by_date.items():
        share = tables.churn_by_date[as_of]
        rows.append([str(as_of), count(len(customers)), "not yet known" if share is None else percent(share)])
        late.append(percent(fsum(crisis for _, crisis in customers) / len(customers)))
    return [[*row, waited] for row, waited in zip(rows, late, strict=True)] if tables.is_wait_known else rows


REPORT_TABLES: Mapping[str, TableOf] = {
    "drivers": _drivers,
    "tiers": _tiers,
    "segments": _segments,
    "offers": _offers,
    "trend": _trend,
}

"""The model card's sentences and tables, written down once more."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from math import fsum
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from churn_assets.defs.splits import TEST, TRAIN
from churn_assets.resources.trained_models import IMPORTANCES_FILE
from churn_assets_tests.said.sentences import ABSENT, Rule, count, percent, sentences_of, unsaid, wilson
from churn_assets_tests.said.tables import Row, Tables, churn_in_words, learned_from


def untrue_card(tables: Tables, text: str) -> Iterator[str]:
    section, lines = "", list[str]()
    found: dict[str, list[list[str]]] = {}
    code = re.compile(r"```.*?```", re.DOTALL)
    for line in code.sub("", text).splitlines():
        plain = re.sub(r"\\([^\w\s])", r"\1", re.sub(r"\*\*|(?<!\\)`", "", line))
        if line.startswith("#"):
            section = plain.lstrip("# ")
            lines.append(section)
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", re.sub(r"\*\*|`", "", line))[1:-1]]
            if set("".join(cells)) - {"-"}:
                found.setdefault(section, []).append([re.sub(r"\\([^\w\s])", r"\1", cell) for cell in cells])
        elif line.startswith("- "):
            lines += sentences_of(plain[2:])
        else:
            lines += sentences_of(plain)
    figures = card_figures(tables)
    yield from unsaid(lines, card_rules(tables), figures)
    for name, rows in found.items():
        wanted = CARD_TABLES[name](tables) if name in CARD_TABLES else None
        if wanted is None:
            yield f"no rule checks the table of {name}"
        elif rows != wanted:
            different = [f"{row} and not {other}" for row, other in zip(wanted, rows, strict=False) if row != other]
            yield f"the table of {name} is {different or wanted}"
    # Only of a backtest is there a date to tell from others.
    asked = CARD_TABLES.keys() - ({"Dates"} if tables.judged["evaluation"] != "backtest" else set())
    yield from (f"there is no table of {name}" for name in CARD_TABLES if name in asked and name not in found)


def card_figures(tables: Tables) -> dict[str, str]:
    policy, judged, trained = tables.project.policy, tables.judged, tables.trained
    run = tables.project.tracking.client.get_run(trained.run_id)
    params, tags, windows = run.data.params, run.data.tags, policy.windows
    learned, (when, labels, scores) = learned_from(tables), tables.tested
    rate, churners, alerts = labels.mean(), int(labels.sum()), judged["alerts"]
    brier = judged["brier"] if np.isnan(scores).any() else brier_score_loss(labels, scores)
    of_all = {row["rival"]: row["difference"] for row in judged["comparisons"]}
    criteria = {row["key"]: row for row in judged["criteria"]}
    learner = {"gbt": "Spark ML", "xgboost": "Spark ML, learned by XGBoost"}[params["estimator"]]
    small = [f"{row['slice']}: {row['part']}" for row in judged["slices"] if not row["is_judgeable"]]
    figures = {
        "name": tables.project.tracking.registered_model,
        "learner": learner,
        "trees": params["iterations"],
        "depth": params["max_depth"],
        "step": f"{float(params['step_size']):g}",
        "leaf": f"{float(params['min_leaf_share']):.2%}",
        "split": f"{float(params['feature_share']):.0%}",
        "trained_at": f"{_moment(run.info.start_time)} UTC",
        "run": run.info.run_id,
        "digest": judged["model_digest"],
        "policy": policy.digest,
        "policy_then": tags["policy_digest"],
        "code": tags["code_commit"],
        "budget": f"{policy.alerts.budget:.0%}",
        "most": f"{policy.alerts.budget * 1.1:.1%}",
        "floor": f"{policy.gate.precision_floor:.0%}",
        "confidence": f"{policy.gate.confidence:.0%}",
        "eligible_days": str(windows.eligibility_days),
        "outcome_days": str(windows.outcome_days),
        "observed_days": str(windows.observation_days),
        "churn": churn_in_words(tables),
        "weekday": policy.calendar.weekday.capitalize(),
        "first": str(learned[0]),
        "last": str(learned[-1]),
        "dates": str(len(learned)),
        "tested": str(when),
        "small": ", ".join(small),
        "threshold": f"{float(tags['threshold']):.4f}",
        "alerts": count(alerts),
        "rows": count(len(labels)),
        "alert_share": percent(alerts / len(labels)),
        "caught": count(judged["caught"]),
        "champion": str(judged["champion"]),
        "strongest": RIVALS[min(of_all, key=lambda rival: of_all[rival])],
        "brier": f"{brier:.4f}",
        "brier_low": f"{judged['brier_low']:.4f}",
        "brier_high": f"{judged['brier_high']:.4f}",
        "churn_rate": percent(churners / len(labels)),
        "of_the_rate": f"{rate * (1 - rate):.4f}",
    }
    for key in ("expected_over_observed", "calibration_slope"):
        if key in criteria:
            figures |= {key: criteria[key]["observed"], f"{key}_interval": criteria[key]["interval"]}
    return figures


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"


RIVALS = {
    "rule": "the retention team's rule",
    "total_orders": "the count of orders alone",
    "purchase_model": "the purchase model",
    "champion": "the champion",
}
GLOSSARY = (
    "recall: share of the churners who were alerted; attainable: that of a perfect ranking with as many alerts",
    "precision: share of the alerts that were churners",
    "alert_share: share of the customers who were alerted",
    "lift: how many times as many churners there are among the alerted as among all",
    "pr_auc: precision at each churner down the ranking, averaged; 1 is perfect, chance has the churn rate",
    "roc_auc: how often a churner has a higher score than another customer; 1 is perfect, chance has 0.5",
    "brier: mean squared difference of score and outcome; 0 is perfect",
)
HEADINGS = (
    "Model card: {name}",
    "Purpose",
    "Label",
    "Data",
    "Features",
    "Verdict",
    "Figures",
    "Threshold and alert budget",
    "Comparisons",
    "Calibration",
    "Known limits",
    "How to roll back",
)

MEAN = (
    "the mean of the log-odds of two halves: the purchase model, which learns from everybody's orders and no label, "
    "written as trees, and "
)


def card_rules(tables: Tables) -> list[Rule]:
    policy, judged = tables.project.policy, tables.judged
    verdict, is_crossfit = judged["verdict"], judged["evaluation"] == "crossfit"
    is_backtest = judged["evaluation"] == "backtest"
    run = tables.project.tracking.client.get_run(tables.trained.run_id)
    tags = run.data.tags
    learned, (when, labels, _) = learned_from(tables), tables.tested
    is_same_policy, has_small = (
        tags["policy_digest"] == policy.digest,
        any(not row["is_judgeable"] for row in judged["slices"]),
    )
    rate, low, high = labels.mean(), judged["brier_low"], judged["brier_high"]
    better = "better" if high < rate * (1 - rate) else "worse" if low > rate * (1 - rate) else "neither"
    baseline = "Brier score {brier}, {confidence} interval {brier_low} to {brier_high}; 0 is perfect."
    held = (
        "To give everybody the churn rate of the judged customers, {churn_rate}, has {of_the_rate}: the model's scores"
    )
    assert policy.calendar.snapshots == "weekly"
    assert policy.model.class_weights == "none"
    served = tables.project.tracking.load_model(tables.trained.uri).trees
    # Of the learned trees alone there are no more than those.
    is_averaged = len(served) > int(run.data.params["iterations"])
    texts: dict[str, bool] = {
        **dict.fromkeys((*HEADINGS, *GLOSSARY), True),
        "PASS.": verdict == "PASS",
        "FAIL.": verdict == "FAIL",
        "It met every criterion of the gate.": verdict == "PASS" and all(row["is_met"] for row in judged["criteria"]),
        "It missed a criterion; the gate stays shut for it.": not all(row["is_met"] for row in judged["criteria"]),
        f"Model: {MEAN if is_averaged else ''}gradient-boosted trees ({{learner}}), {{trees}} of depth {{depth}}, step "
        "{step}, at least {leaf} of the rows in a leaf, {split} of the features at each split, no class weights": True,
        "Trained: {trained_at}": True,
        "MLflow run: {run}": True,
        "Model digest: {digest}": True,
        "Policy digest: {policy}": True,
        "Code: {code}": True,
        "It was trained under another policy, {policy_then}.": not is_same_policy,
        "What this card says of windows, label, class weights and budget is of the policy that judged.": True,
        # Purpose and label.
        "For the retention team's contact list: it ranks customers by how likely they are to leave and alerts those at "
        "the top, within a budget of {budget} of the customers.": True,
        "Not for:": True,
        "prices, credit, or any decision to a customer's disadvantage;": True,
        "judging one customer, or any courier or restaurant: its figures are of groups;": True,
        "customers who never ordered or have gone already: without an order in the {eligible_days} days before the "
        "as-of date nobody is scored;": all(_is_active(tables, row) for row in tables.panel.values()),
        "showing that contact helps: it says who may leave, not whom a contact would keep.": True,
        "A churner, by the policy's definition inactivity: {churn}.": policy.churn.definition == "inactivity",
        "For an as-of date t, always a {weekday}:": all(
            f"{as_of:%A}" == policy.calendar.weekday.capitalize() for as_of in tables.by_date
        ),
        "Eligible are customers with an order in [t − {eligible_days} days, t).": True,
        "Features see what was known before t: [t − {observed_days} days, t), and all earlier orders where a formula "
        "says so.": True,
        "The label sees [t, t + {outcome_days} days): 1 for a churner, 0 otherwise, unknown until those days are "
        "over.": True,
        # Data and features.
        "Training as-of dates: {first} to {last}, {dates} dates.": len(learned) > 1,
        "Training as-of dates: {first}.": len(learned) == 1,
        "Test as-of date: {tested}.": True,
        "It has also learned from customers whose outcome window was not over at the test date: who had ordered by "
        "then stayed, and of the others the purchase model tells the chance that they order in the rest of it.": (
            is_averaged and policy.churn.definition == "inactivity" and policy.windows.outcome_days > 7
        ),
        "Customers are split by a hash of their id: 20 of 100 folds are for the test and never trained on, 16 choose "
        "the threshold, the rest train.": _folds(tables) == (range(20), range(20, 36), range(36, 100)),
        "Importance is the feature's share of the trees' gain: how much the model uses it, not what it causes.": True,
        "SHAP: by how much a feature moves the log-odds of leaving, up or down, on average over the judged customers, "
        "and what a larger value does to them.": True,
        # Verdict and figures.
        "PASS, because:": verdict == "PASS",
        "FAIL, because:": verdict == "FAIL",
        "Warnings:": bool(judged["warnings"]),
        "There are no warnings.": not judged["warnings"],
        **{_warning(tables, name): True for name in ("recency_days", "total_orders")},
        "Of customers the model never learned from, at the test date.": judged["evaluation"] == "holdout",
        "Of all customers of the test date, each scored by a model made like this one that never saw the "
        "customer.": is_crossfit,
        "Of customers of several dates, each scored by a model that learned neither from the customer nor from "
        "anything that was not known by that date.": is_backtest,
        # Dates.
        "Dates": is_backtest,
        "At {tested} this version itself was judged, on customers of its test folds.": is_backtest,
        "It has learned from what came before, so at the earlier dates it could not be: judged there is how it was "
        "made.": is_backtest,
        "From what was known by each of them a model was made with the same features, settings and choice of the "
        "threshold, and judged on another fifth of the customers.": is_backtest and len(judged["dates"]) <= 5,
        "A date holds where recall and the rankings against the rivals reach their limits by the figures as they are; "
        "it has too few churners for its intervals to decide.": is_backtest,
        "The verdict rests on all dates together, and on how many hold.": is_backtest,
        "PR-AUC and ROC-AUC are those of each date, averaged: nobody chooses between customers of two "
        "weeks.": is_backtest,
        f"In brackets the {{confidence}} interval; (?) where the customers are too few for one, {ABSENT} where the "
        "figure has no meaning.": True,
        # Threshold.
        "Threshold: {threshold}.": True,
        "A customer with this score or a higher one is alerted.": _alerts_by_threshold(tables),
        "Of the cut-offs that keep both rules it finds the most churners among the validation customers.": True,
        "Of the test date's customers outside the test folds it alerts at most {budget}, the budget.": True,
        "Of the validation customers it alerts, at least {floor} are churners.": True,
        "Of the judged customers {alerts} of {rows} were alerted, {alert_share} (the gate allows {most}), and {caught} "
        "of them were churners.": True,
        # Comparisons.
        "No champion served when it was judged.": judged["champion"] is None,
        "The champion when it was judged: version {champion}.": judged["champion"] is not None,
        "On the same customers.": True,
        "A positive difference speaks for the model, and only where its {confidence} interval lies above 0 is it "
        "better beyond chance.": True,
        "Recall is that of the model's alerts, its recall that of as many customers with the other's highest "
        "scores.": True,
        "The strongest rival: {strongest}.": True,
        # Calibration.
        "The scores are meant as probabilities: the model was trained without class weights.": True,
        baseline: True,
        f"{held} are better.": better == "better",
        f"{held} are worse, and not to be read as probabilities.": better == "worse",
        f"{held} are not shown to be better.": better == "neither",
        "The Brier score rewards a good ranking too; alone it does not show that of the customers with a score of 30% "
        "about 30% leave.": True,
        "1 is perfect for each of these; a slope above 1 says that the scores differ less than the customers do:": True,
        "churners expected over observed: {expected_over_observed} ({expected_over_observed_interval})": True,
        "calibration slope: {calibration_slope} ({calibration_slope_interval})": True,
        # Limits and rollback.
        "A model is judged at one test date.": not is_backtest,
        "The intervals say how far the choice of customers moves a figure, not how far the week does.": not is_backtest,
        "The intervals say how far the choice of customers moves a figure, not how far the week does; that, the "
        "figures of the dates say.": is_backtest,
        "A champion is compared at this version's own date alone, and on its test customers: at earlier dates it knows "
        "what came after, and of other customers their outcomes.": is_backtest,
        "What the scores mean as probabilities is learned there too, from this version's own scores.": is_backtest,
        "A label takes {outcome_days} days to be known, so the test date lies at least {outcome_days} days before the "
        "end of the orders it was made from, and the figures know nothing of what changed since.": True,
        "It was trained and judged at the same date: on other customers, but not on a later week.": learned == [when],
        "Drift: the figures are of customers like those of the test date.": True,
        "When customers or deliveries change they no longer hold; then train and judge again.": True,
        "Too few churners to judge these parts alone: {small}.": has_small,
        "The threshold is a score, not a number of customers: another week's customers may give more or fewer alerts "
        "than the budget.": True,
        "A segment that first appears after training has a number the model never saw.": "segment_index"
        in tables.trees.features,
        "Where a formula gives a value to customers without reviews, deliveries or a segment, the model cannot tell "
        "them from customers who really have that value.": True,
        "Cross-fitted figures pool five models made alike, each with its own threshold, of which this is one; a "
        "champion is compared on this one's test customers alone.": is_crossfit,
        "What serves, and why: churn-assets history.": True,
        "To put an earlier version back, write rollback.yaml:": True,
        "and run the job:": True,
    }
    return [Rule(text, is_so) for text, is_so in texts.items()]


def _is_active(tables: Tables, row: Row) -> bool:
    return (row["as_of"] - row["last_ordered_at"].date()).days <= tables.project.policy.windows.eligibility_days


def _folds(tables: Tables) -> tuple[range, range, range]:
    """The folds of the test, of the threshold and of the rest, if the tables hold just those."""
    lakehouse, versions = tables.project.lakehouse, tables.trained.evidence.data_versions
    train = set(lakehouse.arrow(TRAIN, ["fold"], versions[TRAIN]).column("fold").to_pylist())
    tested, trained = (
        set(lakehouse.arrow(table, ["customer_id"], versions[table]).column("customer_id").to_pylist())
        for table in (TEST, TRAIN)
    )
    if train <= set(range(20, 100)) and not tested & trained:
        return range(20), range(20, 36), range(36, 100)
    return range(0), range(0), range(0)


def _alerts_by_threshold(tables: Tables) -> bool:
    threshold = tables.trained.threshold
    return threshold is not None and all(
        row["is_alert"] == (row["churn_probability"] >= threshold) for row in tables.scores.values()
    )


def _warning(tables: Tables, feature: str) -> str:
    """That a feature alone may rank as well, with both areas."""
    figures = {row["key"]: row for row in tables.judged["single_features"]}
    return next((text for text in tables.judged["warnings"] if text.startswith(f"{feature} ")), f"{feature}: {figures}")


def _estimate(row: Row, name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return ABSENT
    return f"{value:.3f} (?)" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


ESTIMATES = ("precision", "alert_share", "lift", "pr_auc", "roc_auc", "brier")


def _figures(tables: Tables) -> list[list[str]]:
    """As recorded; of all customers as the tables give them again."""
    judged, (_, labels, scores) = tables.judged, tables.tested
    rows, churners, alerts = len(labels), int(labels.sum()), judged["alerts"]
    again = {
        "rows": rows,
        "churners": churners,
        "recall": judged["caught"] / churners,
        "precision": judged["caught"] / alerts,
        "alert_share": alerts / rows,
        "lift": judged["caught"] / alerts / (churners / rows),
    }
    for name, hits, trials in (
        ("recall", judged["caught"], churners),
        ("precision", judged["caught"], alerts),
        ("alert_share", alerts, rows),
    ):
        low, high = wilson(hits, trials, tables.project.policy.gate.confidence)
        again |= {f"{name}_low": low, f"{name}_high": high}
    if not np.isnan(scores).any():
        is_alert = scores >= float(tables.trained.threshold or np.inf)
        assert (int(is_alert.sum()), int(labels[is_alert].sum())) == (alerts, judged["caught"])
        again |= {
            "pr_auc": float(average_precision_score(labels, scores)),
            "roc_auc": float(roc_auc_score(labels, scores)),
            "brier": float(brier_score_loss(labels, scores)),
        }
    told = [("all", {**judged, **again, "is_judgeable": True})]
    told += [(f"{row['slice']}: {row['part']}", row) for row in judged["slices"]]
    found = [["", "customers", "churners", "recall", "attainable", *ESTIMATES]]
    for name, row in told:
        attainable = f"{min(row['alerts'] / row['churners'], 1):.3f}" if row["churners"] else ABSENT
        shown = [_estimate(row, figure) for figure in ESTIMATES]
        too_small = "" if row["is_judgeable"] else " (too small to judge)"
        counts = [count(row["rows"]), count(row["churners"]), _estimate(row, "recall")]
        found.append([f"{name}{too_small}", *counts, attainable, *shown])
    for slice_ in {row["slice"] for row in judged["slices"]}:
        parts = [row for row in judged["slices"] if row["slice"] == slice_]
        of_parts = [sum(row[name] for row in parts) for name in ("rows", "churners", "alerts", "caught")]
        assert of_parts == [rows, churners, alerts, judged["caught"]], f"the parts of {slice_} are not all customers"
    return found


def _versions(tables: Tables) -> list[list[str]]:
    versions = tables.judged["data_versions"]
    return [["table", "Delta version"], *([name, str(number)] for name, number in sorted(dict(versions).items()))]


def _features(tables: Tables) -> list[list[str]]:
    """Importance: as the training recorded it, for the served trees hold no gains; all of them are one. SHAP: as the
    judgement recorded it."""
    gains = tables.project.tracking.document(tables.trained.run_id, IMPORTANCES_FILE)
    assert abs(fsum(gains.values()) - 1) < 1e-9
    known = {feature.name: feature for feature in tables.project.policy.catalogue.features}
    told = json.loads(
        Path(tables.project.tracking.client.download_artifacts(tables.trained.run_id, "shap.json")).read_text()
    )
    metrics = tables.project.tracking.client.get_run(tables.trained.run_id).data.metrics
    larger = {"raises": "raises the risk", "lowers": "lowers the risk", "neither": ABSENT}
    directions = {each["feature"]: larger[each["direction"]] for each in told}
    sizes = {name: metrics[f"shap_{name}"] for name in tables.trees.features}
    shap = [
        [name, f"{sizes[name]:.3f}", directions[name]] for name in sorted(sizes, key=lambda name: (-sizes[name], name))
    ]
    rows = [
        [name, percent(gains[name]), known[name].meaning, known[name].formula, known[name].range_text]
        for name in sorted(tables.trees.features, key=lambda name: -gains[name])
    ]
    importances = [["feature", "importance", "meaning", "formula", "range"], *rows]
    return [*importances, ["feature", "mean size of SHAP", "a larger value"], *shap]


def _criteria(tables: Tables) -> list[list[str]]:
    """As recorded; what is counted as the tables give it, and met where the figure keeps its limit."""
    judged = tables.judged
    counted_again = {
        "recall": f"{judged['caught'] / judged['churners']:.3f}",
        "precision": f"{judged['caught'] / judged['alerts']:.3f}",
        "alert_share": f"{judged['alerts'] / judged['rows']:.1%}",
        # Of several dates the one that looks most like a look into the future.
        "roc_auc": f"{max((row['roc_auc'] for row in judged['dates']), default=judged['roc_auc']):.3f}",
        **{f"pr_auc_over_{row['rival']}": f"{row['difference']:+.3f}" for row in judged["comparisons"]},
    }
    rows = [["", "observed", "interval", "allowed", ""]]
    for row in judged["criteria"]:
        observed = counted_again.get(row["key"], row["observed"])
        rows.append([row["what"], observed, row["interval"], row["allowed"], "met" if row["is_met"] else "MISSED"])
    return rows


def _dates(tables: Tables) -> list[list[str]]:
    """As recorded; together they are the customers who were judged, and the last is the version's own."""
    judged, (when, _, _) = tables.judged, tables.tested
    for name in ("rows", "churners", "alerts", "caught"):
        assert sum(row[name] for row in judged["dates"]) == judged[name], f"{name} of the dates are not those of all"
    assert [row["as_of"] == when for row in judged["dates"]] == [row["is_own"] for row in judged["dates"]]
    rows = [["", "customers", "churn rate", "alerted", "recall", "at least", "precision"]]
    rows[0] += ["PR-AUC over the strongest", ""]
    for row in judged["dates"]:
        over = f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
        rows.append(
            [
                str(row["as_of"]),
                count(row["rows"]),
                percent(row["churners"] / row["rows"]),
                percent(row["alerts"] / row["rows"]),
                f"{row['caught'] / row['churners']:.3f} ({row['recall_low']:.3f} to {row['recall_high']:.3f})",
                f"{row['least_recall']:.3f}",
                f"{row['caught'] / row['alerts']:.3f}",
                f"{over}, {RIVALS[row['rival']]}",
                "holds" if row["is_met"] else f"MISSED: {row['missed']}",
            ]
        )
    return rows


def _compared(tables: Tables) -> list[list[str]]:
    rows = [["compared with", "customers", "PR-AUC", "its PR-AUC", "difference", "recall", "its recall"]]
    for row in tables.judged["comparisons"]:
        low, high = row["difference_low"], row["difference_high"]
        both = f"{row['challenger_pr_auc'] - row['pr_auc']:+.3f}"
        interval = "(?)" if low is None or high is None else f"({low:+.3f} to {high:+.3f})"
        areas = [f"{row['challenger_pr_auc']:.3f}", f"{row['pr_auc']:.3f}"]
        recalls = [f"{row['challenger_recall']:.3f}", f"{row['recall']:.3f}"]
        rows.append([RIVALS[row["rival"]], count(row["rows"]), *areas, f"{both} {interval}", *recalls])
    return rows


CARD_TABLES: Mapping[str, Callable[[Tables], list[list[str]]]] = {
    "Data": _versions,
    "Features": _features,
    "Verdict": _criteria,
    "Figures": _figures,
    "Dates": _dates,
    "Comparisons": _compared,
}

"""What contacts change, in the real flow: estimated from used lists, judged, and heeded by the next list or not."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import functions as F

from churn_assets.churn.evaluation import Verdict
from churn_assets.churn.policy import ChurnPolicy
from churn_assets.churn.trials import EVALUATION_SCHEMA, LIST_COLUMNS, OUTCOME_COLUMNS, used_lists
from churn_assets.churn.uplift import fitted
from churn_assets.defs.campaigns import EFFECT
from churn_assets.defs.features import PANEL
from churn_assets.defs.reasons import REASONS
from churn_assets.defs.retention import CONTACTS, EXCLUSIONS, EXPORTS, OUTCOMES, TARGETS, UPLIFT_EVALUATIONS
from churn_assets.defs.uplift import UPLIFT, features_of, uplift_gate
from churn_assets.resources.lakehouse import LakehouseResource
from churn_assets_tests.conftest import Project, causes_of

LISTS, ESTIMATE = [TARGETS, EXCLUSIONS], [OUTCOMES, EFFECT, UPLIFT, UPLIFT_EVALUATIONS]


def gate(project: Project) -> Any:
    return uplift_gate(project.lakehouse, project.policy)


def the_list(project: Project, week: date) -> list[dict[str, Any]]:
    rows = project.lakehouse.read(TARGETS).where(F.col("as_of") == week).orderBy("rank").collect()
    return [row.asDict() for row in rows]


def test_a_feature_that_the_panel_does_not_have_yet_is_unknown_and_no_error(tmp_path: Path) -> None:
    lakehouse = LakehouseResource(root=str(tmp_path), pyspark=LazyPySparkResource(spark_config={}))
    week, rules = date(2025, 11, 3), ChurnPolicy()
    *known, missing = rules.features
    panel = pa.Table.from_pylist([{"customer_id": "C1", "as_of": week, **dict.fromkeys(known, 1.0)}])
    lakehouse.append_after(PANEL, None, panel)
    (row,) = features_of(lakehouse, rules, 0, [week]).to_pylist()
    assert row == {"customer_id": "C1", "as_of": week, **dict.fromkeys(known, 1.0), missing: None}


def test_until_enough_is_known_nothing_is_estimated_and_the_check_says_what_is_missing(listed: Project) -> None:
    """The demo's past campaign is of no list that was made here."""
    (evaluation,) = listed.lakehouse.records(UPLIFT_EVALUATIONS)
    # Who was held out is said by the lists: outcomes of other lists are other outcomes.
    assert set(dict(evaluation["lists_made_of"])) == {CONTACTS, PANEL, TARGETS}
    assert evaluation["verdict"] == Verdict.NOT_EVALUABLE.value
    assert dict(evaluation["left_out"])["on a list that was not made here"] > 50
    assert evaluation["model"] is None
    result = gate(listed)
    assert result.passed
    assert (
        "0 customers held out at random of lists made here, of known outcome, at least 500 needed" in result.description
    )
    assert result.metadata["held_out_allowed"].value == 500
    assert {row["ranked_because"] for row in the_list(listed, listed.weeks()[-1])} == {
        "the company's policy asks for it"
    }


def test_used_lists_are_judged_and_the_next_list_heeds_nothing_but_an_open_gate(
    listed: Project, tmp_path: Path
) -> None:
    retention = listed.policy.retention.model_copy(
        update={"rank_by": "uplift", "min_held_out": 100, "weekly_capacity": 200}
    )
    asked = listed.policy.model_copy(update={"retention": retention})
    # Of four weeks of much the same customers a tenth of each would be too few of them.
    held_out = listed.policy.retention.model_copy(update={"holdout_share": 0.2})
    project = listed.copied_to(tmp_path / "project").under(listed.policy.model_copy(update={"retention": held_out}))
    lakehouse, weeks, last = project.lakehouse, project.weeks(), project.weeks()[-1]
    # Four past weeks are listed whole, and used after that.
    result = project.score(
        weeks[-9], weeks[-6], "food_delivery/churn_scores", "food_delivery/unscored_customers", REASONS, *LISTS
    )
    assert result.success, causes_of(result)
    used = lakehouse.read(TARGETS).where(F.col("as_of").isin(weeks[-9:-5]))
    contacted_at = F.lit(datetime.now(UTC) + timedelta(hours=1)).cast("timestamp")
    contacts = used.select(
        "customer_id",
        "as_of",
        F.when(~F.col("is_holdout"), contacted_at).alias("contacted_at"),
        "is_holdout",
        "risk_tier",
    )
    lakehouse.write(CONTACTS, contacts)
    project = project.under(asked)
    result = project.score(last, last, *LISTS, *ESTIMATE)
    assert result.success, causes_of(result)

    # The list of this run was made before the estimate, and says so.
    made_before = the_list(project, last)
    assert {row["ranked_by"] for row in made_before} == {"value_at_risk"}
    assert all("may not rank: its gate says NOT_EVALUABLE: 0 contacted" in row["ranked_because"] for row in made_before)
    # Some of its places were drawn all the same, so that there is somebody to learn from.
    assert sum(row["is_exploration"] and not row["is_holdout"] for row in made_before) == 20
    *_, evaluation = sorted(lakehouse.records(UPLIFT_EVALUATIONS), key=lambda row: row["evaluated_at"])
    assert evaluation["verdict"] == Verdict.FAIL.value
    assert evaluation["lists"] == weeks[-9:-5]
    rows = lakehouse.read(UPLIFT).toPandas()
    assert len(rows) > 1_000
    assert rows["uplift"].between(-1, 1).all()
    found = gate(project)
    assert not found.passed
    assert found.severity.value == "WARN"
    assert {"qini", "gain", "held_out", "held_out_allowed", "figures"} <= found.metadata.keys()
    with project.instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(UPLIFT.split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    picture = event.asset_materialization.metadata["by_tenths"].value
    assert "What contacts change, by tenths" in str(picture)

    # A gate that is open, for these very outcomes and this policy: the list goes by the uplift, and says why.
    of_lists = used_lists(
        lakehouse.arrow(OUTCOMES, OUTCOME_COLUMNS),
        lakehouse.arrow(TARGETS, LIST_COLUMNS),
        lakehouse.arrow(PANEL, ["customer_id", "as_of", *asked.features]),
        asked,
    )
    model = fitted(of_lists.trial, asked)
    opened = {
        **evaluation,
        "verdict": "PASS",
        "reasons": ["planted"],
        "evaluated_at": datetime.now(UTC),
        "model": model.exported(),
        "model_digest": model.digest,
    }
    lakehouse.append_after(
        UPLIFT_EVALUATIONS, lakehouse.version(UPLIFT_EVALUATIONS), pa.Table.from_pylist([opened], EVALUATION_SCHEMA)
    )
    assert gate(project).passed
    result = project.score(last, last, *LISTS)
    assert result.success, causes_of(result)
    by_uplift = the_list(project, last)
    assert {(row["ranked_by"], row["ranked_because"]) for row in by_uplift} == {
        ("uplift", "the company's policy asks for it and its gate says PASS: planted")
    }
    uplifts = [row["uplift"] for row in by_uplift]
    assert uplifts == sorted(uplifts, reverse=True)
    assert all(row["uplift"] > 0 for row in by_uplift if not row["is_exploration"])
    assert {row["customer_id"] for row in by_uplift if row["is_exploration"]}
    assert "gate says PASS: planted" in (Path(lakehouse.root) / EXPORTS / f"{last}.csv").read_text(encoding="utf-8")

    # The outcomes changed since, so the verdict is about others.
    lakehouse.write(CONTACTS, contacts.limit(900))
    assert project.score(last, last, OUTCOMES, EFFECT).success
    assert "other outcomes than those of now" in gate(project).description
    result = project.score(last, last, *LISTS)
    assert {row["ranked_by"] for row in the_list(project, last)} == {"value_at_risk"}

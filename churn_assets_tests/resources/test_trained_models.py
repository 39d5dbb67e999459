"""What a version records of its training, as this version of the package and earlier ones wrote it."""

import json
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlflow
import pytest
from mlflow import MlflowClient

from churn_assets.churn.evaluation import Alerted
from churn_assets.churn.evaluations import Evidence
from churn_assets.churn.models import GradientBoosting
from churn_assets.churn.splits import SplitDates
from churn_assets.resources.trained_models import LONGEST, TRAINING_TAG, TrainedModel, in_parts, of_parts

TRAINED = TrainedModel(
    "run",
    ["total_orders"],
    0.5,
    GradientBoosting(max_depth=3),
    Evidence("model", "policy", {"panel": 1}),
    SplitDates(date(2025, 12, 1), (date(2025, 10, 27),), is_out_of_time=True),
    datetime(2025, 12, 31, tzinfo=UTC),
    "commit",
)
# The tag as version 0.6.0 wrote it, which knew of no workers.
OF_0_6_0 = (
    '{"max_depth": 3, "iterations": 20, "step_size": 0.1, "min_leaf_share": 0.0125, "feature_share": 0.5, '
    '"estimator": "xgboost", "test_as_of": "2025-12-01", "train_as_of": ["2025-10-27"], "is_out_of_time": true, '
    '"trained_at": "2025-12-31T00:00:00+00:00", "code_commit": "commit", "purchase_model": null}'
)


def of_tags(tags: dict[str, str]) -> TrainedModel:
    return TrainedModel.of_version(cast("Any", SimpleNamespace(run_id="run", version="1", tags=tags)))


def test_a_version_of_before_has_the_tags_of_its_training_and_is_told_of_without_its_run() -> None:
    assert TRAINED.tags()[TRAINING_TAG] == OF_0_6_0
    assert of_tags({**TRAINED.tags(), TRAINING_TAG: OF_0_6_0}) == TRAINED


def test_a_version_that_several_workers_learned_says_so() -> None:
    several = replace(TRAINED, hyperparameters=GradientBoosting(max_depth=3, workers=4))
    assert json.loads(several.tags()[TRAINING_TAG])["workers"] == 4
    assert of_tags(several.tags()) == several


def test_a_version_says_of_which_dates_it_knew_a_part_of_the_outcome() -> None:
    begun = replace(TRAINED, begun=(date(2025, 11, 24), date(2025, 11, 17)))
    assert json.loads(begun.tags()[TRAINING_TAG])["begun_as_of"] == ["2025-11-24", "2025-11-17"]
    assert of_tags(begun.tags()) == begun


def test_a_version_says_whom_its_threshold_alerted_where_that_is_known() -> None:
    known = replace(TRAINED, alerted=Alerted(160, 800))
    assert json.loads(known.tags()[TRAINING_TAG])["alerted"] == {"alerts": 160, "customers": 800}
    assert of_tags(known.tags()) == known
    assert of_tags(TRAINED.tags()).alerted is None


def test_a_run_of_many_years_and_features_is_read_as_it_was_logged(tmp_path: Path) -> None:
    weeks = [date(2005, 1, 3) + timedelta(weeks=week) for week in range(20 * 52)]
    features = [f"a_feature_of_the_company_{number}" for number in range(500)]
    params = {
        **asdict(TRAINED.hyperparameters),
        "test_as_of": weeks[-1],
        "train_as_of": json.dumps([str(week) for week in weeks]),
        "is_out_of_time": True,
    }
    known = {**replace(TRAINED, features=features).tags(), "code_commit": "commit"}
    del known[TRAINING_TAG]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.create_run(client.create_experiment("churn", str(tmp_path))).info.run_id
    with pytest.MonkeyPatch.context() as patched:
        # Nothing is longer than what MLflow keeps: it would refuse it.
        patched.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
        tags = [mlflow.entities.RunTag(*tag) for tag in in_parts(known).items()]
        client.log_batch(run_id, params=[mlflow.entities.Param(*each) for each in in_parts(params).items()], tags=tags)
    found = TrainedModel.of(client.get_run(run_id))
    assert (list(found.dates.train), found.features) == (weeks, features)


def test_values_of_a_run_go_on_in_parts_only_where_they_are_long() -> None:
    values = {"a": "", "b": 1, "c": "x" * LONGEST, "d": "y" * LONGEST + "z", "e": "part 2"}
    parts = in_parts(values)
    assert parts == {"a": "", "b": "1", "c": "x" * LONGEST, "d": "y" * LONGEST, "d part 2": "z", "e": "part 2"}
    assert of_parts(parts) == {name: str(value) for name, value in values.items()}
    assert len(in_parts({"a": "x" * 3 * LONGEST})) == 3

"""Spark ML and the plain trees: it loads, scores and saves a version as its own, and its own trees become plain ones.

All of it is one process with a JVM, `with_spark_ml`; the version it loads was made without one.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from churn_assets.churn.trees import exported_trees, model_digest
from churn_assets.serving.pipelines import load_pipeline
from churn_assets_tests.processes import CHECKOUT
from churn_assets_tests.serving.conftest import FEATURES, URI, Served

pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Found:
    """What the process with the JVM found, and the folder of its files."""

    folder: Path
    served: dict[str, Any]
    learned: dict[str, Any]
    canonical_partitions: list[int]
    by_a_task: list[str]


@pytest.fixture(scope="module")
def found(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("spark_ml")
    served.rows.assign(row=range(len(served.rows))).to_parquet(folder / "rows.parquet")
    ran = subprocess.run(
        [sys.executable, "-m", "churn_assets_tests.with_spark_ml", str(folder), URI],
        cwd=CHECKOUT,
        # Not what this process's own session left there, which says where Sail is.
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME", "PYTHONPATH") if name in os.environ},
            # It lives for seconds: to optimize its code for long takes more than that gives back.
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",
            "MLFLOW_TRACKING_URI": served.tracking_uri,
            "MLFLOW_DFS_TMP": str(folder / "mlflow"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    content = json.loads((folder / "found.json").read_text())
    assert content["spark"].startswith("4.")
    return Found(folder, content["served"], content["learned"], content["canonical_partitions"], content["by_a_task"])


def test_spark_loads_a_registered_version_and_scores_as_the_served_one(served: Served, found: Found) -> None:
    assert found.served["stages"] == ["VectorAssembler", "GBTClassificationModel"]
    assert found.served["features"] == list(FEATURES)
    assert found.served["trees"] == len(served.trees.trees)
    scored = pd.read_parquet(found.folder / "scored.parquet").sort_values("row")
    assert scored["row"].tolist() == list(range(len(served.rows)))
    ours = served.scored["churn_probability"].to_numpy()
    np.testing.assert_allclose(scored["churn_probability"].to_numpy(), ours, rtol=0, atol=1e-9)
    assert len(set(ours)) > 100


def test_spark_gives_a_loaded_version_the_same_importances(served: Served, found: Found) -> None:
    ours = list(served.trees.importances().values())
    assert found.served["importances"] == pytest.approx(ours, abs=1e-12)
    assert all(ours)


def test_a_loaded_version_refuses_an_unknown_value(found: Found) -> None:
    assert "null while assembling" in found.served["refused"]


def test_sparks_own_save_of_a_version_is_read_as_the_same_model(served: Served, found: Found) -> None:
    loaded = load_pipeline(found.folder / "saved")
    assert model_digest(loaded, served.threshold) == model_digest(served.trees, served.threshold)
    assert exported_trees(loaded, None) == exported_trees(served.trees, None)
    assert loaded.importances() == pytest.approx(served.trees.importances(), abs=1e-12)


# ---- learned by Spark


def test_the_plain_trees_of_a_model_by_spark_score_and_weigh_as_it_does(found: Found) -> None:
    kept = found.learned["kept"]
    assert kept["farthest"] < 1e-12
    assert kept["scores"] > 20
    ours, by_spark = kept["importances"]
    assert ours == pytest.approx(by_spark, abs=1e-12)
    assert sum(ours) == pytest.approx(1)
    assert len(set(kept["texts"])) == 1
    assert kept["texts"][0].count('"weight":0.1') == 4


def test_a_model_by_spark_is_another_for_each_setting_and_another_than_by_xgboost(found: Found) -> None:
    digests = [*found.learned["digests"], found.learned["other_features"]]
    assert len(set(digests)) == len(digests) == 8


def test_shuffled_and_repartitioned_rows_give_the_same_model_by_spark(found: Found) -> None:
    first = found.learned["digests"][0]
    assert found.learned["again"] == first
    assert found.learned["mixed"] == first


def test_rows_are_fitted_in_two_partitions_at_most_whose_sums_no_order_changes(found: Found) -> None:
    assert found.canonical_partitions == [1, 1, 2, 2]
    assert found.learned["partitions"] == [2]


def test_a_task_of_spark_begins_with_what_waiting_adds_as_this_process_does(found: Found) -> None:
    there, here, without = found.by_a_task
    assert there == here
    assert there != without


def test_balanced_class_weights_raise_the_scores_to_a_half_and_none_keeps_them_at_the_churn_rate(found: Found) -> None:
    plain, balanced = found.learned["means"]
    rate = found.learned["rate"]
    assert rate < 0.45
    assert plain == pytest.approx(rate, abs=0.05)
    assert balanced == pytest.approx(0.5, abs=0.05)
    assert balanced > plain + 0.05


def test_balanced_weights_of_as_many_churners_as_others_change_nothing(found: Found) -> None:
    one, other = found.learned["even"]
    assert one == other


def test_trees_of_a_single_leaf_are_read(found: Found) -> None:
    assert found.learned["leaves"] == [[-1], [-1]]


def test_one_class_cannot_teach_spark_either_and_the_error_counts_both(found: Found) -> None:
    without_churners, without_others = found.learned["one_class"]
    assert "churners: 0" in without_churners
    assert "others: 0" in without_others


def test_nothing_of_a_fit_stays_where_spark_left_it(found: Found) -> None:
    assert found.learned["left"] == []

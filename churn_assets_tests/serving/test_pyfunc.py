"""A version without Spark scores as in Spark rows, and refuses what it cannot score by the name of the column."""

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

from churn_assets.serving import flavor
from churn_assets.serving.pyfunc import ROWS_AT_ONCE, ChurnTrees, FlatTrees
from churn_assets_tests.serving.conftest import FEATURES, URI, Served


@pytest.fixture
def model(served: Served) -> PyFuncModel:
    return mlflow.pyfunc.load_model(URI)


@pytest.fixture
def trees(served: Served) -> ChurnTrees:
    """The model alone, without what MLflow does to its input."""
    return with_threshold(FlatTrees.read(served.artifacts / "artifacts" / "trees.json"), served.threshold)


@pytest.fixture
def row(served: Served) -> pd.DataFrame:
    return served.rows.head(1)


def with_threshold(flat: FlatTrees, threshold: float | None) -> ChurnTrees:
    model = ChurnTrees()
    model.trees = replace(flat, threshold=threshold)
    return model


def scores_by(model: PyFuncModel, rows: pd.DataFrame) -> pd.DataFrame:
    scored = model.predict(rows)
    assert isinstance(scored, pd.DataFrame)
    return scored


def test_scores_equal_those_in_spark_rows_also_exactly_at_every_split_and_at_the_extremes(
    served: Served, model: PyFuncModel
) -> None:
    scored = scores_by(model, served.rows)
    assert list(scored.columns) == ["churn_probability", "is_alert"]
    assert list(map(str, scored.dtypes)) == ["float64", "bool"]
    assert scored["churn_probability"].nunique() > 100
    np.testing.assert_allclose(scored["churn_probability"], served.scored["churn_probability"], rtol=0, atol=1e-15)


def test_whatever_the_threshold_the_same_customers_are_alerted_as_in_spark_rows(
    served: Served, trees: ChurnTrees
) -> None:
    spark = served.scored["churn_probability"]
    for threshold in spark.unique():
        alerted = with_threshold(trees.trees, float(threshold)).predict(None, served.rows)["is_alert"]
        assert (alerted == (spark >= threshold)).all()


def test_without_a_threshold_nobody_is_alerted(served: Served, trees: ChurnTrees) -> None:
    assert trees.predict(None, served.rows)["is_alert"].any()
    assert not with_threshold(trees.trees, None).predict(None, served.rows)["is_alert"].any()


def test_a_score_does_not_depend_on_the_rows_it_is_scored_with(served: Served, trees: ChurnTrees) -> None:
    together = trees.predict(None, served.rows)
    one_by_one = pd.concat([trees.predict(None, served.rows.iloc[[number]]) for number in range(len(served.rows))])
    pd.testing.assert_frame_equal(one_by_one, together, check_exact=True)
    many = pd.concat([served.rows] * (2 * ROWS_AT_ONCE // len(served.rows) + 1), ignore_index=True)
    assert len(many) > 2 * ROWS_AT_ONCE
    expected = together["churn_probability"].to_numpy()[np.arange(len(many)) % len(served.rows)]
    assert (trees.predict(None, many)["churn_probability"].to_numpy() == expected).all()


def test_the_index_is_kept_and_the_order_of_columns_changes_nothing(served: Served, model: PyFuncModel) -> None:
    rows = served.rows.head(20)
    labelled = rows.set_axis([f"c-{number}" for number in range(20)])[[*reversed(FEATURES)]]
    scored = scores_by(model, labelled)
    assert list(scored.index) == list(labelled.index)
    pd.testing.assert_frame_equal(scored.reset_index(drop=True), scores_by(model, rows))


def test_no_rows_give_no_scores(served: Served, model: PyFuncModel) -> None:
    scored = scores_by(model, served.rows.head(0))
    assert len(scored) == 0
    assert list(scored.columns) == ["churn_probability", "is_alert"]


def test_trees_of_a_single_leaf_and_of_unequal_depth_are_scored(tmp_path: Path) -> None:
    exported = {
        "features": ["a"],
        "threshold": None,
        "trees": [
            {"weight": 1.0, "feature": [-1], "split": [None], "left": [-1], "right": [-1], "value": [0.25]},
            {
                "weight": 0.5,
                "feature": [0, -1, 0, -1, -1],
                "split": [1.0, None, 2.0, None, None],
                "left": [1, -1, 3, -1, -1],
                "right": [2, -1, 4, -1, -1],
                "value": [None, 1.0, None, 2.0, 4.0],
            },
        ],
    }
    file = tmp_path / "trees.json"
    file.write_text(json.dumps(exported))
    flat = FlatTrees.read(file)
    assert flat.depth == 2
    margins = np.array([0.75, 0.75, 1.25, 1.25, 2.25])
    values = np.array([[0.0], [1.0], [1.5], [2.0], [2.5]])
    np.testing.assert_allclose(flat.probabilities(values), 1 / (1 + np.exp(-2 * margins)), rtol=1e-14)


@pytest.mark.parametrize("null", [None, float("nan"), pd.NA])
def test_a_null_is_refused_and_every_feature_told_with_its_rows(served: Served, model: PyFuncModel, null: Any) -> None:
    rows = served.rows.head(10).copy()
    rows["gap_ratio"] = [null if number in (3, 7) else 1.0 for number in range(10)]
    rows["crisis_exposure_index"] = [null, *[1.0] * 9]
    with pytest.raises(MlflowException) as refused:
        scores_by(model, rows.astype("Float64") if null is pd.NA else rows)
    message = str(refused.value)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert "gap_ratio: 2 of 10 rows, the first at position 3" in message
    assert "crisis_exposure_index: 1 of 10 rows, the first at position 0" in message
    assert "recency_days" not in message


# ---- what MLflow makes of the columns first; told in the docstring of `flavor.signature`


def test_a_missing_column_is_refused_by_name(model: PyFuncModel, row: pd.DataFrame) -> None:
    with pytest.raises(MlflowException, match=r"missing inputs \['gap_ratio'\]"):
        scores_by(model, row.drop(columns="gap_ratio"))


def test_text_is_refused_by_name_unless_it_reads_as_a_number(model: PyFuncModel, row: pd.DataFrame) -> None:
    with pytest.raises(MlflowException, match="convert column gap_ratio"):
        scores_by(model, row.assign(gap_ratio="often"))
    pd.testing.assert_frame_equal(
        scores_by(model, row.assign(gap_ratio="1.5")), scores_by(model, row.assign(gap_ratio=1.5))
    )


def test_further_columns_are_ignored_with_a_warning(
    served: Served, model: PyFuncModel, caplog: pytest.LogCaptureFixture
) -> None:
    rows = served.rows.head(5)
    pd.testing.assert_frame_equal(scores_by(model, rows.assign(customer_id="c-1")), scores_by(model, rows))
    assert "`['customer_id']`. These inputs will be ignored" in caplog.text


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_numbers_that_fit_a_double_are_taken_as_one(
    model: PyFuncModel, row: pd.DataFrame, dtype: Literal["int8", "int16", "int32", "float32"]
) -> None:
    whole = row.assign(**dict.fromkeys(FEATURES, 3.0))
    pd.testing.assert_frame_equal(scores_by(model, whole.astype(dtype)), scores_by(model, whole))


def test_int64_is_refused_by_name_unless_all_its_values_are_0_or_1(model: PyFuncModel, row: pd.DataFrame) -> None:
    with pytest.raises(MlflowException, match=r"column recency_days\. Can not safely convert int64"):
        scores_by(model, row.assign(recency_days=np.int64(3)))
    pd.testing.assert_frame_equal(
        scores_by(model, row.assign(crisis_exposure_index=np.int64(1))),
        scores_by(model, row.assign(crisis_exposure_index=1.0)),
    )


def test_a_boolean_is_refused_by_name(model: PyFuncModel, row: pd.DataFrame) -> None:
    with pytest.raises(MlflowException, match=r"column crisis_exposure_index\. Can not safely convert bool"):
        scores_by(model, row.assign(crisis_exposure_index=True))


def served_as_json(model: PyFuncModel, values: list[object]) -> str:
    body = json.dumps({"dataframe_split": {"columns": list(FEATURES), "data": [values]}})
    return scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema()).response


def test_a_scoring_server_takes_whole_numbers_and_answers_a_null_with_the_column(model: PyFuncModel) -> None:
    expected = scores_by(model, pd.DataFrame([[3.0, 2.0, 5.0, 0.0]], columns=list(FEATURES)))
    (answer,) = json.loads(served_as_json(model, [3, 2, 5, 0]))["predictions"]
    assert answer == {"churn_probability": expected["churn_probability"][0], "is_alert": bool(expected["is_alert"][0])}
    with pytest.raises(MlflowException, match="gap_ratio: 1 of 1 rows") as refused:
        served_as_json(model, [3, None, 5, 0])
    assert refused.value.get_http_status_code() == 400


def test_the_served_file_imports_only_what_every_mlflow_installation_has() -> None:
    tree = ast.parse(Path(flavor.PYFUNC).read_text(encoding="utf-8"))
    imported = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    ]
    roots = {name.partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"mlflow", "numpy", "pandas"}

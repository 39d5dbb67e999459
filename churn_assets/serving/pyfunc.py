"""The served model: MLflow copies this file into every version and runs it there, without a JVM.

Whoever loads a version need not have this package: only the standard library, numpy, pandas and mlflow are imported.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

# Bounds the memory of a large batch: 20 trees take 1.3 MB for each of a handful of arrays.
ROWS_AT_ONCE = 8_192
# A threshold is some customer's own score, and the last digit of exp() is the processor's: on another machine it must
# not decide whether that customer is alerted.
ROUNDING = 1e-12


@dataclass(frozen=True)
class FlatTrees:
    """All trees of a model as columns with an entry per node; a leaf leads back to itself, `depth` steps end at one."""

    features: list[str]
    threshold: float | None
    weights: NDArray[np.float64]
    roots: NDArray[np.intp]
    depth: int
    feature: NDArray[np.intp]
    split: NDArray[np.float64]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    value: NDArray[np.float64]

    @staticmethod
    def read(file: Path) -> "FlatTrees":
        """The trees that the model was exported to when it was logged."""
        exported = json.loads(file.read_text(encoding="utf-8"))
        trees = exported["trees"]
        sizes = [len(tree["feature"]) for tree in trees]
        roots = np.cumsum([0, *sizes[:-1]], dtype=np.intp)

        def joined(column: str) -> list[float]:
            return [entry for tree in trees for entry in tree[column]]

        node, feature = np.arange(sum(sizes), dtype=np.intp), np.array(joined("feature"), dtype=np.intp)
        is_leaf, offset = feature < 0, np.repeat(roots, sizes)
        left, right = (
            np.where(is_leaf, node, offset + np.array(joined(side), dtype=np.intp)) for side in ("left", "right")
        )
        return FlatTrees(
            features=exported["features"],
            threshold=exported["threshold"],
            weights=np.array([tree["weight"] for tree in trees], dtype=np.float64),
            roots=roots,
            depth=_depth(roots, left, right),
            feature=np.where(is_leaf, 0, feature),
            split=np.array(joined("split"), dtype=np.float64),
            left=left,
            right=right,
            value=np.array(joined("value"), dtype=np.float64),
        )

    def probabilities(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability of churn of each row of `values`, (rows, features) without NaN, as the flow computes it."""
        node = np.repeat(self.roots[:, None], len(values), axis=1)
        row = np.arange(len(values))
        for _ in range(self.depth):
            is_left = values[row, self.feature[node]] <= self.split[node]
            node = np.where(is_left, self.left[node], self.right[node])
        # One tree after the other: sum() would pair the terms of a single row, whose score would then depend on how
        # many others it is scored with.
        margin = np.add.accumulate(self.weights[:, None] * self.value[node], axis=0)[-1]
        with np.errstate(over="ignore"):
            return 1 - 1 / (1 + np.exp(2 * margin))


def _depth(roots: NDArray[np.intp], left: NDArray[np.intp], right: NDArray[np.intp]) -> int:
    depth, level = 0, roots
    while len(level := np.setdiff1d(np.concatenate([left[level], right[level]]), level)):
        depth += 1
    return depth


class ChurnTrees(PythonModel):
    """The features as doubles in; `churn_probability` and `is_alert`, at or above the version's own threshold, out."""

    def load_context(self, context: PythonModelContext) -> None:
        self.trees = FlatTrees.read(Path(context.artifacts["trees"]))

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row for each row of `model_input`, under its index.

        Infinity is a value like any other, as it is to Spark. Raises MlflowException (invalid parameter) naming the
        features that are null or NaN. Without a threshold nobody is alerted.
        """
        values = model_input[self.trees.features].to_numpy(dtype=np.float64)
        _require_known(values, self.trees.features)
        parts = [
            self.trees.probabilities(values[begin : begin + ROWS_AT_ONCE])
            for begin in range(0, len(values), ROWS_AT_ONCE)
        ]
        probability = np.concatenate(parts) if parts else np.empty(0)
        threshold = np.inf if self.trees.threshold is None else self.trees.threshold - ROUNDING
        return pd.DataFrame(
            {"churn_probability": probability, "is_alert": probability >= threshold}, index=model_input.index
        )


def _require_known(values: NDArray[np.float64], features: list[str]) -> None:
    is_unknown = np.isnan(values)
    if not is_unknown.any():
        return
    problems = [
        f"{name}: {is_unknown[:, column].sum():,} of {len(values):,} rows, "
        f"the first at position {is_unknown[:, column].argmax()}"
        for column, name in enumerate(features)
        if is_unknown[:, column].any()
    ]
    raise MlflowException.invalid_parameter_value(f"Null or NaN in features. {'; '.join(problems)}")


mlflow.models.set_model(ChurnTrees())

"""From silver orders to a registered version as one would write it plainly: DuckDB, XGBoost, MLflow.

The other side of the comparison in `plain`: the same panel, split, trees, threshold and test figures as the flow's
under the shipped policy, and nothing else. Imports nothing of this project but the statement of the panel.
"""

import json
import sys
from datetime import timedelta
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import duckdb
import mlflow
import mlflow.xgboost
import numpy as np
import pandas as pd
import xgboost
from deltalake import DeltaTable
from mlflow.models import infer_signature
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from benchmarks.duckdb_panel import write_panel

KEYS, LABEL = ["customer_id", "as_of"], "label"
OUTCOME_DAYS = 30
TEST_FOLDS, VALIDATION_FOLDS, SALT = 20, 36, "42"
BUDGET, PRECISION_FLOOR, CONFIDENCE = 0.20, 0.25, 0.95
ROUNDS, MIN_LEAF_SHARE = 20, 0.0125
SETTINGS = {"objective": "binary:logistic", "max_depth": 5, "learning_rate": 0.1, "seed": 42, "nthread": 1}
MODEL = "plain_churn_predictor"
REQUIREMENTS = [f"{name}=={version(name)}" for name in ("mlflow", "xgboost-cpu", "numpy", "pandas", "scikit-learn")]


def main(silver: str, folder: Path, tracking_uri: str) -> None:
    panel = split_panel(silver, folder)
    features = [name for name in panel if name not in (*KEYS, LABEL, "fold", "is_training_date", "is_test_date")]
    learned = panel[panel.is_training_date & (panel.fold >= VALIDATION_FOLDS)].sort_values(KEYS)
    validation = panel[panel.is_training_date & panel.fold.between(TEST_FOLDS, VALIDATION_FOLDS - 1)]
    current = panel[panel.is_test_date & (panel.fold >= TEST_FOLDS)]
    test = panel[panel.is_test_date & (panel.fold < TEST_FOLDS)]

    booster = fitted(learned[features], learned[LABEL])
    cutoff = threshold(
        booster.inplace_predict(validation[features]),
        validation[LABEL].to_numpy(),
        booster.inplace_predict(current[features]),
    )
    figures = judged(booster.inplace_predict(test[features]), test[LABEL].to_numpy(), cutoff)
    (folder / "figures.json").write_text(json.dumps(figures))

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("plain", artifact_location=str(folder / "artifacts")))
    with mlflow.start_run():
        mlflow.log_params({**SETTINGS, "rounds": ROUNDS, "threshold": cutoff, "learned_from": len(learned)})
        mlflow.log_metrics(figures)
        example = learned[features].head(5)
        mlflow.xgboost.log_model(
            booster,
            name="model",
            signature=infer_signature(example, booster.inplace_predict(example)),
            input_example=example,
            # Without them MLflow starts a process that loads the model to see what it imports.
            pip_requirements=REQUIREMENTS,
            registered_model_name=MODEL,
        )
    print(figures)


def split_panel(silver: str, folder: Path) -> pd.DataFrame:
    """The panel, kept in `folder`, with the customer's fold and which dates train and which tests."""
    features = folder / "features.parquet"
    write_panel(DeltaTable(silver).file_uris(), features)
    panel = duckdb.connect().execute(f"from '{features}'").df()
    customers, rows_of = np.unique(panel.customer_id.to_numpy(str), return_inverse=True)
    labelled = panel.as_of[panel[LABEL].notna()]
    test_date = labelled.max()
    panel = panel.assign(
        fold=folds(customers)[rows_of],
        is_training_date=panel.as_of.isin(labelled) & (panel.as_of + timedelta(days=OUTCOME_DAYS) <= test_date),
        is_test_date=panel.as_of == test_date,
    )
    panel.to_parquet(folder / "panel.parquet")
    return panel


def folds(customers: np.ndarray) -> np.ndarray:
    """0 to 99 by a hash of each customer (xxHash64 of the salted id, seed 42, as Spark's), so that nobody moves."""
    salted = np.char.encode(np.char.add(f"{SALT}:", customers), "utf-8")
    sizes = np.char.str_len(salted)
    found = np.empty(len(salted), dtype=np.int64)
    for size in np.unique(sizes):
        of_size = salted[sizes == size].astype(f"S{size}")
        found[sizes == size] = _hashes_of_short_texts(of_size.view(np.uint8).reshape(-1, size)).view(np.int64)
    return np.mod(found, 100).astype(np.int32)


def _hashes_of_short_texts(texts: np.ndarray) -> np.ndarray:
    """xxHash64 with seed 42 of texts of one length below 32 bytes: a row of bytes each."""
    rows, size = texts.shape
    assert size < 32, "longer texts are hashed in stripes first"
    one, two, three, four, five = (
        np.uint64(prime)
        for prime in (
            0x9E3779B185EBCA87,
            0xC2B2AE3D27D4EB4F,
            0x165667B19E3779F9,
            0x85EBCA77C2B2AE63,
            0x27D4EB2F165667C5,
        )
    )

    def turned(values: np.ndarray, by: int) -> np.ndarray:
        return (values << np.uint64(by)) | (values >> np.uint64(64 - by))

    hashed = np.full(rows, 42 + size, dtype=np.uint64) + five
    at = 0
    while at + 8 <= size:
        lane = np.ascontiguousarray(texts[:, at : at + 8]).view("<u8").ravel()
        hashed = turned(hashed ^ (turned(lane * two, 31) * one), 27) * one + four
        at += 8
    if at + 4 <= size:
        lane = np.ascontiguousarray(texts[:, at : at + 4]).view("<u4").ravel().astype(np.uint64)
        hashed = turned(hashed ^ (lane * one), 23) * two + three
        at += 4
    for byte in texts[:, at:].T:
        hashed = turned(hashed ^ (byte.astype(np.uint64) * five), 11) * one
    for shift, prime in ((33, two), (29, three)):
        hashed = (hashed ^ (hashed >> np.uint64(shift))) * prime
    return hashed ^ (hashed >> np.uint64(32))


def fitted(values: pd.DataFrame, labels: pd.Series) -> xgboost.Booster:
    share = float(labels.mean())
    leaf = {"min_child_weight": MIN_LEAF_SHARE * len(labels) * share * (1 - share), "base_score": share}
    return xgboost.train({**SETTINGS, **leaf}, xgboost.DMatrix(values, labels), ROUNDS)


def threshold(scores: np.ndarray, labels: np.ndarray, current: np.ndarray) -> float:
    """The score of highest recall on validation within the budget on the current customers and above the floor."""
    candidates = np.unique(scores)[::-1]
    alerts = np.array([(scores >= value).sum() for value in candidates])
    caught = np.array([labels[scores >= value].sum() for value in candidates])
    share = np.array([(current >= value).mean() for value in candidates])
    allowed = (share <= BUDGET) & (caught / alerts >= PRECISION_FLOOR)
    return float(candidates[allowed][np.argmax(caught[allowed])])


def judged(scores: np.ndarray, labels: np.ndarray, cutoff: float) -> dict[str, float]:
    is_alert = scores >= cutoff
    caught, alerts, churners, rows = (labels[is_alert].sum(), is_alert.sum(), labels.sum(), len(labels))
    figures = {
        "pr_auc": float(average_precision_score(labels, scores)),
        "roc_auc": float(roc_auc_score(labels, scores)),
        "brier": float(brier_score_loss(labels, scores)),
    }
    shares = {"recall": (caught, churners), "precision": (caught, alerts), "alert_share": (alerts, rows)}
    for name, (hits, trials) in shares.items():
        low, high = wilson_interval(float(hits), float(trials))
        figures |= {name: float(hits / trials), f"{name}_low": low, f"{name}_high": high}
    return figures


def wilson_interval(hits: float, trials: float) -> tuple[float, float]:
    z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), hits / trials
    centre = share + z * z / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (centre - half) / (1 + z * z / trials), (centre + half) / (1 + z * z / trials)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])

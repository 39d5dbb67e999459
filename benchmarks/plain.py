"""Silver to registered version: this project's job with all its checks against the same steps as a plain script.

The script is `plain_steps`: DuckDB, XGBoost, MLflow, without a table, a check or a verdict. Both sides start from a
fresh copy of one demo project with the shipped policy, in processes that alternate. They have to end with the same
panel and the same splits, to the last digit; else nothing is compared. The script learns from labels alone, where the
project averages that with its purchase model (docs/decisions/0022), so the figures are shown beside each other.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from deltalake import DeltaTable
from mlflow import MlflowClient

from benchmarks.duckdb_panel import differing_rows
from benchmarks.flow import FROM_SILVER, SILVER_ONLY
from benchmarks.measuring import (
    Measured,
    comparison,
    comparison_head,
    engines,
    machine,
    measured,
    ours_on,
    project_environment,
    rounds,
)
from benchmarks.panels import write_result
from churn_assets.definitions import DEMO
from churn_assets.defs.features import PANEL
from churn_assets.defs.lakehouse import SILVER
from churn_assets.defs.splits import TEST, TRAIN
from churn_assets.resources.settings import CHECKOUT, settings_from_env
from churn_assets.resources.tracking import PRODUCTION
from churn_assets.resources.trained_models import REGISTERED_MODEL

# Customers of the demo and pairs of runs.
SIZES = {12_000: 3, 100_000: 1}
PLAIN = "plain script"
PACKAGES = ("dagster", "deltalake", "duckdb", "mlflow", "pysail", "pyspark", "xgboost-cpu")


def main() -> None:
    rows = []
    for customers, usual in SIZES.items():
        with TemporaryDirectory(prefix="churn-bench-") as name:
            rows += _compared(Path(name), customers, rounds(usual))
    _report(rows)


def _compared(folder: Path, customers: int, pairs: int) -> list[str]:
    """Rows of the table for a demo of so many customers."""
    start = folder / "start"
    start.mkdir()
    shutil.copy(CHECKOUT / "policy.toml", start)
    (start / "sources.toml").write_text(f"[demo]\ncustomers = {customers}\n", encoding="utf-8")
    print(f"Building the silver orders of {customers:,} customers …", flush=True)
    for part in (DEMO, SILVER_ONLY):
        measured(part, ["benchmarks.flow", part], project_environment(start), folder)
    runs: dict[str, list[Measured]] = {side: [] for side in [PLAIN, *map(ours_on, engines())]}
    for pair in range(pairs):
        environment = _fresh(start, folder / "theirs")
        runs[PLAIN].append(measured(PLAIN, _plain_script(environment), environment, folder))
        print(f"  pair {pair + 1}: {runs[PLAIN][-1].told}", flush=True)
        for engine in engines():
            side, environment = ours_on(engine), _fresh(start, folder / "ours") | {"CHURN_ENGINE": engine}
            runs[side].append(measured(side, ["benchmarks.flow", FROM_SILVER], environment, folder))
            print(f"  pair {pair + 1}: {runs[side][-1].told}", flush=True)
            _require_equal_results(environment, folder / "theirs")
    return comparison(f"{customers:,}", runs, PLAIN)


def _fresh(start: Path, project: Path) -> dict[str, str]:
    """A copy of the project `start` in place of what is at `project`; the environment to run it in."""
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(start, project)
    return project_environment(project)


def _plain_script(environment: Mapping[str, str]) -> list[str]:
    settings = settings_from_env(environment)
    silver = f"{settings.lakehouse}/{SILVER}"
    return ["benchmarks.plain_steps", silver, str(settings.project), settings.tracking_uri]


def _require_equal_results(ours: Mapping[str, str], theirs: Path) -> None:
    """Shows both sides' figures; exits if panels or splits differ. theirs: the folder of the plain script."""
    settings = settings_from_env(ours)
    problems, of_split = [], "* exclude (is_training_date, is_test_date)"
    for table, query in {
        PANEL: f"select * exclude (fold, is_training_date, is_test_date) from '{theirs}/panel.parquet'",
        TRAIN: f"select {of_split} from '{theirs}/panel.parquet' where fold >= 20 and is_training_date",
        TEST: f"select {of_split} from '{theirs}/panel.parquet' where fold < 20 and is_test_date",
    }.items():
        files = DeltaTable(f"{settings.lakehouse}/{table}").file_uris()
        differing = differing_rows(f"from read_parquet({files})", query)
        if differing:
            problems.append(f"{table}: {differing} rows differ")
    client = MlflowClient(settings.tracking_uri)
    version = client.get_model_version_by_alias(REGISTERED_MODEL, PRODUCTION)
    figures = client.get_run(str(version.run_id)).data.metrics
    told = json.loads((theirs / "figures.json").read_text()).items()
    print("    " + ", ".join(f"{name} {figures[name]:.4f} and {value:.4f}" for name, value in told), flush=True)
    if problems:
        sys.exit("the two sides do not make the same:\n" + "\n".join(problems))


def _report(rows: list[str]) -> None:
    lines = [
        f"# Silver to registered version, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "The demo under the shipped policy; medians of alternating rounds of fresh processes, from Python's start to",
        "its end. The script computes the panel in SQL, fits, chooses the threshold, counts the test figures, logs",
        "and registers. The job makes the same panel and splits, to the last digit, a model that is averaged with the",
        "purchase model, and beside them",
        "the baseline rule, the feasibility, the checks, the comparison with the rule and the order count, the",
        "verdict, the model card, the serving contract in a process of its own, and the promotion.",
        "",
        *comparison_head("customers"),
        *rows,
        "",
        machine(*PACKAGES),
    ]
    write_result("plain", lines)

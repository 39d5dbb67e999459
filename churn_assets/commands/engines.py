"""`churn-assets engines`: the configured project run on two engines, apart, and everything they made compared.

What it shows is the evidence on which a team chooses another engine for its own data. Each engine runs in a process of
its own, for one process holds one; no table, run or alias of the project is touched.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TextIO

from deltalake import DeltaTable

from churn_assets.commands.terminal import DONE, FAILED, UNEVALUATED
from churn_assets.definitions import stores
from churn_assets.defs.features import PANEL
from churn_assets.defs.retention import EXPORTS
from churn_assets.defs.scoring import SCORES
from churn_assets.delta.comparing import differing_columns
from churn_assets.delta.tables import row_count
from churn_assets.engines.choice import chosen_engine
from churn_assets.resources.configuration import load_policy, names_of
from churn_assets.resources.settings import Settings, engine_of, settings_from_env
from churn_assets.resources.sources import load_sources
from churn_assets.resources.spark import spark_resource

# What is another at every run, on one engine too: when it was, and the numbers that it was given.
OF_THE_RUN = {
    "run_id",
    "dagster_run_id",
    "decision_id",
    "evaluated_at",
    "decided_at",
    "scored_at",
    "explained_at",
    "listed_at",
    "queued_at",
}
# Without these nothing has been shown: the features, and the scores of a week.
NEEDED = (PANEL, SCORES)


@dataclass(frozen=True)
class Ran:
    """One engine's run in the scratch folder `settings` names."""

    settings: Settings
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class Compared:
    """One thing that both engines made, or that one lacks. differing: in what; empty where they are equal."""

    name: str
    extent: str
    differing: tuple[str, ...]


def main(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    with TemporaryDirectory(prefix="churn-engines-") as folder:
        names = (arguments.one, arguments.other)
        asked = [_environment(settings, name, Path(folder, str(number))) for number, name in enumerate(names)]
        runs = []
        for environment in asked:
            print(f"\n● {engine_of(settings_from_env(environment))}", file=terminal)
            runs.append(_run(environment))
            print(f"  the lifecycle took {runs[-1].seconds:.0f} s, exit code {runs[-1].exit_code}", file=terminal)
        found = list(compared(*runs))
    print(f"\n{report(names, found)}", file=terminal)
    return outcome(found)


def outcome(found: list[Compared]) -> int:
    """The exit code: 0 all equal, 1 something differs, 2 so little was made that nothing has been shown."""
    if any(each.differing for each in found):
        return FAILED
    return DONE if {*NEEDED} <= {each.name for each in found} else UNEVALUATED


def report(names: Sequence[str], found: list[Compared]) -> str:
    """A line for everything compared, and what it comes to."""
    width = max(len(each.name) for each in found)
    lines = [
        f"  {each.name:<{width}}  {each.extent:>16}  "
        + (f"DIFFERS in {', '.join(each.differing)}" if each.differing else "equal")
        for each in found
    ]
    different = sum(bool(each.differing) for each in found)
    both = f"{names[0]} and {names[1]}"
    closing = {
        DONE: f"{both} are equal in all {len(found)}.",
        FAILED: f"{both} differ in {different} of {len(found)}. Next step: stay on the engine you have.",
        UNEVALUATED: f"{both} are equal as far as they came, which shows too little: {PANEL} and {SCORES} are needed.\n"
        "Next step: see the log file for what stopped the run.",
    }[outcome(found)]
    return "\n".join([*lines, "", closing])


def compared(one: Ran, other: Ran) -> Iterator[Compared]:
    """Exit codes, every table, the registered trees and figures, and the files for the team."""
    codes = (str(one.exit_code), str(other.exit_code))
    yield Compared("exit code", codes[0], () if codes[0] == codes[1] else (" and ".join(codes),))
    roots = [Path(_stores(run.settings)["lakehouse"].root) for run in (one, other)]
    tables = [_tables(root) for root in roots]
    for name in sorted({*tables[0], *tables[1]}):
        first, second = (of.get(name) for of in tables)
        if first is None or second is None:
            yield Compared(name, "", ("one engine made none",))
            continue
        columns = differing_columns(first, second, without=OF_THE_RUN)
        yield Compared(name, f"{row_count(first):,} rows", tuple(columns))
    files = [_files(root) for root in roots]
    for name in sorted({*files[0], *files[1]}):
        is_equal = files[0].get(name) == files[1].get(name)
        yield Compared(name, f"{len(files[0].get(name, b'')):,} bytes", () if is_equal else ("content",))
    records = [_registered(run.settings) for run in (one, other)]
    for name in sorted({*records[0], *records[1]}):
        first, second = (of.get(name) for of in records)
        yield Compared(f"version 1: {name}", "", () if first == second else (f"{first} and {second}"[:200],))


def _environment(settings: Settings, engine: str, folder: Path) -> dict[str, str]:
    """This process's environment, with that engine and every store in `folder`; the sources stay where they are."""
    folder.mkdir()
    places = {
        "CHURN_PROJECT": str(settings.project),
        "CHURN_LAKEHOUSE": str(folder / "lakehouse"),
        # A catalog's tables are the real ones, wherever the folder is.
        "CHURN_TABLES": "paths",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "CHURN_ARTIFACTS": str(folder / "artifacts"),
        "DAGSTER_HOME": str(folder / "dagster_home"),
        "CHURN_ENGINE": engine,
        # Scores are compared too, and there nobody is who could promote.
        "CHURN_AUTOMATION": "on",
    }
    # Nobody is to be told of a trial; and a client of a server leaves its mark in the environment.
    left_out = {"CHURN_ALERT_WEBHOOK", "CHURN_ALERT_SMTP", "CHURN_CONTACTS_WEBHOOK", "SPARK_CONNECT_MODE_ENABLED"}
    if engine in ("sail", "local"):
        left_out |= {"SPARK_REMOTE"}
    if engine in ("sail", "connect") or (not (settings.spark_master or "").startswith("local") and engine == "local"):
        left_out |= {"SPARK_MASTER"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    chosen_engine(engine, kept.get("SPARK_MASTER"), kept.get("SPARK_REMOTE"), is_simulated=False)
    return kept | places


def _run(environment: dict[str, str]) -> Ran:
    begun = perf_counter()
    # Its output goes to this command's log file.
    ended = subprocess.run([sys.executable, "-m", "churn_assets.cli", "run"], env=environment, check=False)
    return Ran(settings_from_env(environment), ended.returncode, perf_counter() - begun)


def _stores(settings: Settings) -> Mapping[str, Any]:
    names = names_of(load_policy(settings.policy_file, load_sources(settings.sources_file).catalogue), settings.names)
    return stores(settings, spark_resource(settings), names)


def _tables(root: Path) -> dict[str, DeltaTable]:
    return {str(log.parent.relative_to(root)): DeltaTable(str(log.parent)) for log in root.rglob("_delta_log")}


def _files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted((root / EXPORTS).rglob("*.csv"))}


def _registered(settings: Settings) -> Mapping[str, Any]:
    """Trees, verdict and figures of the first version; nothing where none was registered."""
    tracking = _stores(settings)["tracking"]
    version = tracking.version("1")
    if version is None:
        return {}
    run = tracking.client.get_run(version.run_id)
    figures = {f"metric {name}": value for name, value in run.data.metrics.items()}
    return {
        "trees": tracking.exported_trees("1"),
        "verdict": run.data.tags.get("verdict"),
        **figures,
    }

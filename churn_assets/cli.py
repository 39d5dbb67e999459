"""The command line: the commands' arguments and their log file. What a command does is in `commands/`."""

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter

from churn_assets.commands.terminal import FAILED, INTERRUPTED, output_to
from churn_assets.engines.choice import ENGINES, UnknownEngineError
from churn_assets.resources.settings import Settings, engine_of, prepare_dagster_home, settings_from_env

INTERRUPTION = """
Interrupted. What was finished stays; what was not is as it was before, and so is the model in production.
Next step: the same command again"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed or different, 2 not evaluable, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="churn-assets", description="The churn lifecycle on Dagster, Spark and MLflow."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the job churn_lifecycle on the configured sources and show what came of it")
    commands.add_parser("history", help="show which version serves, since when, on which data, and every decision")
    again = commands.add_parser("reproduce", help="make a version again from its recorded inputs and compare")
    again.add_argument("version", help="the number of the registered version")
    checks = commands.add_parser("check", help="run the asset checks on the tables as they stand; makes nothing")
    checks.add_argument(
        "--select",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="only these assets' checks or checks; may be repeated",
    )
    checks.add_argument("--junit", type=Path, metavar="FILE", help="write the results for a CI system")
    checks.add_argument("--markdown", type=Path, metavar="FILE", help="write the results for a pull request")
    engines = commands.add_parser(
        "engines", help="run the project on two engines, apart, and compare everything they make, to the last digit"
    )
    for name, default in (("one", "sail"), ("other", "local")):
        engines.add_argument(name, nargs="?", choices=ENGINES, default=default, help=f"an engine (default: {default})")
    examined = commands.add_parser(
        "doctor", help="show what is wrong with this machine or configuration, and how to mend it"
    )
    examined.add_argument(
        "--sources", action="store_true", help="show what the configured sources hold, before anything is landed"
    )
    parsed = parser.parse_args(arguments)
    # At its end Python would look for garbage among all that is still in use, which takes it one to two seconds.
    atexit.register(gc.freeze)
    settings = settings_from_env()
    if parsed.command == "doctor" and not parsed.sources:
        from churn_assets.commands import doctor

        return doctor.main(settings)
    return _logged(parsed, settings)


def _logged(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs a command whose output goes to a log file but for what it shows to people."""
    module = "source_probe" if arguments.command == "doctor" else arguments.command
    log = settings.data / "logs" / f"{arguments.command}-{datetime.now(UTC):%Y%m%d-%H%M%S}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(settings))
    with output_to(log) as terminal:
        begun = perf_counter()
        try:
            engine = engine_of(settings)
        except UnknownEngineError as unknown:
            print(unknown, file=terminal)
            return FAILED
        print(f"Engine    {engine}\nProject   {settings.project}\nLog file  {log}", file=terminal)
        try:
            # Loaded here, so that what libraries print while they are loaded goes to the log file.
            code: int = import_module(f"churn_assets.commands.{module}").main(arguments, settings, terminal, log)
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code == INTERRUPTED:
            print(INTERRUPTION, file=terminal)
        print(f"\nTook {perf_counter() - begun:.0f} s in all.", file=terminal)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The command line: the commands' arguments and their log file. What a command does is in `commands/`."""

import argparse
import atexit
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import NoReturn, TextIO

from churn_assets.commands.terminal import FAILED, INTERRUPTED, UNEVALUATED, output_to, show, silence_at_exit
from churn_assets.engines.choice import ENGINES, UnknownEngineError
from churn_assets.resources.settings import Settings, engine_of, prepare_dagster_home, settings_from_env

INTERRUPTION = """
Interrupted. What was finished stays; what was not is as it was before, and so is the model in production.
Next step: the same command again"""


class _Parser(argparse.ArgumentParser):
    """Ends in what is wrong and a next step, as every other failure does."""

    def error(self, message: str) -> NoReturn:
        show(f"{message}.\nNext step: {self.prog} --help lists what can be typed")
        self.exit(UNEVALUATED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed or different, 2 not evaluable, 130 interrupted."""
    parser = _Parser(prog="churn-assets", description="The churn lifecycle on Dagster, Spark and MLflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the whole lifecycle on the configured sources and show what came of it")
    run.add_argument("--job", metavar="NAME", help="only this job, such as promote_staging_model")
    run.add_argument(
        "--config", type=Path, metavar="FILE", help="run config (YAML) for --job (default: churn_lifecycle)"
    )
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
    promote = commands.add_parser("promote", help="promote the version that serves here in another environment too")
    promote.add_argument("--to", required=True, metavar="NAME", help="of [environments] in policy.toml")
    promote.add_argument("--approver", required=True, help="who decides: a name or an address people can ask")
    promote.add_argument("--reason", required=True, help="why, in a sentence; both go into the ledgers")
    parsed = parser.parse_args(arguments)
    # What a run loads and keeps is a million objects; looked through after each 700 new ones they cost 3 s of a demo.
    gc.set_threshold(50_000)
    # At its end Python would look for garbage among all that is still in use, which takes it one to two seconds.
    atexit.register(gc.freeze)
    settings = settings_from_env()
    if not settings.project.is_dir():
        show(f"{settings.project} is no folder.\nNext step: set CHURN_PROJECT to the folder of policy.toml")
        return FAILED
    if parsed.command == "doctor" and not parsed.sources:
        from churn_assets.commands import doctor

        return doctor.main(settings)
    return _logged(parsed, settings)


def _logged(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs a command whose output goes to a log file but for what it shows to people."""
    log = settings.data / "logs" / f"{arguments.command}-{datetime.now(UTC):%Y%m%d-%H%M%S}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(settings))
        with output_to(log) as terminal:
            code = _told(arguments, settings, terminal, log)
        silence_at_exit(log)
        return code
    except OSError as refused:
        show(
            f"{refused.filename or log}: {refused.strerror}.\n"
            "Next step: `churn-assets doctor` shows what is wrong and its fix"
        )
        return FAILED


def _told(arguments: argparse.Namespace, settings: Settings, terminal: TextIO, log: Path) -> int:
    """Runs the command, and says in words what keeps it from its end; the log file has the rest."""
    begun = perf_counter()
    module = "source_probe" if arguments.command == "doctor" else arguments.command
    try:
        engine = engine_of(settings)
        kept = "\nTables    managed tables of a catalog" if settings.tables == "catalog" else ""
        print(f"Engine    {engine}{kept}\nProject   {settings.project}\nLog file  {log}", file=terminal)
        # Loaded here, so that what libraries print while they are loaded goes to the log file.
        command = import_module(f"churn_assets.commands.{module}")
        code: int = command.main(arguments, settings, terminal, log)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except UnknownEngineError as unknown:
        print(unknown, file=terminal)
        return FAILED
    except Exception:  # noqa: BLE001 - nobody reads a traceback on a terminal
        # Loads Dagster, which most failures have loaded anyway.
        from churn_assets.defs.failures import failure_in_words

        with suppress(OSError):  # a full disk, which may be what failed
            traceback.print_exc()
        print(f"\n{failure_in_words()}\nThe whole of it is in {log}", file=terminal)
        code = FAILED
    if code == INTERRUPTED:
        print(INTERRUPTION, file=terminal)
    print(f"\nTook {perf_counter() - begun:.0f} s in all.", file=terminal)
    return code


if __name__ == "__main__":
    sys.exit(main())

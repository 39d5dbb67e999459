"""`make bench`: every measurement that the pages rest on, or those named (`make bench ARGS="gate"`).

Each leaves a page in benchmarks/results/; benchmarks/README.md holds them all, as they were last measured.
"""

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.panels import RESULTS

# What a user waits for first (the first of all needs another checkout), then what the defaults rest on.
BENCHMARKS = (
    "run",
    "plain",
    "training",
    "features",
    "one_customer",
    "collecting",
    "scoring",
    "serving",
    "loading",
    "partitions",
    "growth",
    "refresh",
    "upkeep",
    "learners",
    "estimators",
    "workers",
    "feature_sets",
    "imbalance",
    "feasibility",
    "gate",
    "judgement",
    "calibration",
    "profit",
    "uplift",
    "young",
)
PAGE = Path(__file__).parent / "README.md"
INTRODUCTION = """# What was measured

Made by `make bench`; every section was measured on the day, the machine and the versions it names. Where
sides are compared they alternate in one run: read the ratio, for the machine may have been shared.

| `make bench ARGS=` | |
|-|-|
{benchmarks}

They run on Sail, and with `CHURN_ENGINE=local` on local Spark; with `CHURN_ENGINE=sail,local` `run`, `plain`,
`training`, `features` and `collecting` compare both. `scoring`, `serving`, `estimators` and the notebook's side of
`training` need local Spark. `BENCH_ROUNDS` is how often each side of a comparison of processes runs. `run`
needs another checkout: `BENCH_AGAINST=FOLDER make bench ARGS=run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    chosen = parser.parse_args(arguments).names or BENCHMARKS[0 if os.environ.get("BENCH_AGAINST") else 1 :]
    unknown = sorted(set(chosen) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in chosen:
        print(f"\n=== {name}", flush=True)
        if len(chosen) == 1:
            import_module(f"benchmarks.{name}").main()
            PAGE.write_text(page(RESULTS), encoding="utf-8")
        else:
            # A process holds one engine, and not all of them run on the same.
            subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)
    print(f"\nAll of them: {PAGE}")
    return 0


def page(results: Path) -> str:
    """What each measures, and the pages of `results`, one under another, each with the command that makes it again."""
    purposes = [f"| `{name}` | {_purpose(name)} |" for name in BENCHMARKS]
    sections = [
        f"{re.sub('^#', '##', text.rstrip(), flags=re.MULTILINE)}\n\nAgain: `make bench ARGS={name}`"
        for name in BENCHMARKS
        if (file := results / f"{name}.md").exists() and (text := file.read_text(encoding="utf-8"))
    ]
    return "\n\n".join([INTRODUCTION.format(benchmarks="\n".join(purposes)), *sections]) + "\n"


def _purpose(name: str) -> str:
    """The first line of the module's own words."""
    module = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    return str(ast.get_docstring(module)).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())

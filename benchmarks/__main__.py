"""`make bench`: every measurement that the pages rest on, or those named (`make bench ARGS="gate"`).

Each leaves a page in benchmarks/results/; benchmarks/README.md holds them all, as they were last measured.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    estimators,
    feasibility,
    feature_sets,
    features,
    gate,
    growth,
    imbalance,
    learners,
    loading,
    scoring,
    serving,
    training,
)
from benchmarks.panels import RESULTS

# What a user waits for first, then what the defaults rest on.
BENCHMARKS: dict[str, Callable[[], None]] = {
    "training": training.main,
    "features": features.main,
    "scoring": scoring.main,
    "serving": serving.main,
    "loading": loading.main,
    "growth": growth.main,
    "learners": learners.main,
    "estimators": estimators.main,
    "feature_sets": feature_sets.main,
    "imbalance": imbalance.main,
    "feasibility": feasibility.main,
    "gate": gate.main,
}
PAGE = Path(__file__).parent / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all")
    chosen = parser.parse_args(arguments).names or list(BENCHMARKS)
    unknown = sorted(set(chosen) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in chosen:
        print(f"\n=== {name}", flush=True)
        BENCHMARKS[name]()
        PAGE.write_text(page(RESULTS), encoding="utf-8")
    print(f"\nAll of them: {PAGE}")
    return 0


def page(results: Path) -> str:
    """The pages of `results`, one under another, each with the command that measures it again."""
    sections = [
        f"{re.sub('^#', '##', text.rstrip(), flags=re.MULTILINE)}\n\nAgain: `make bench ARGS={name}`"
        for name in BENCHMARKS
        if (file := results / f"{name}.md").exists() and (text := file.read_text(encoding="utf-8"))
    ]
    introduction = (
        "# What was measured\n\n"
        "Made by `make bench`; every section was measured on the day, the machine and the versions it names. Where\n"
        "sides are compared they alternate in one run: read the ratio, for the machine may have been shared."
    )
    return "\n\n".join([introduction, *sections]) + "\n"


if __name__ == "__main__":
    sys.exit(main())

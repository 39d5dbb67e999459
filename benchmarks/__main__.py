"""`make bench`: every measurement the README and docs/decisions rest on, or those named (`make bench ARGS="gate"`)."""

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import (
    checks,
    estimators,
    feasibility,
    feature_sets,
    gate,
    imbalance,
    learners,
    scoring,
    serving,
    training,
)

BENCHMARKS: dict[str, Callable[[], None]] = {
    "training": training.main,
    "feasibility": feasibility.main,
    "gate": gate.main,
    "imbalance": imbalance.main,
    "feature_sets": feature_sets.main,
    "learners": learners.main,
    "estimators": estimators.main,
    "serving": serving.main,
    "scoring": scoring.main,
    "checks": checks.main,
}


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
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A part of the flow in a process of its own: `python -m benchmarks.flow PART`, in the project of the environment."""

import argparse
import atexit
import gc

import dagster as dg

from churn_assets.definitions import (
    ASSET_JOBS,
    DEMO,
    LIFECYCLE,
    TRAINING,
    build_defs,
    default_resources,
)
from churn_assets.defs import features, lakehouse
from churn_assets.defs.features import PANEL
from churn_assets.defs.scoring import SCORING
from churn_assets.resources.settings import settings_from_env

SILVER_ONLY, UP_TO_PANEL, FROM_SILVER = "silver", "up_to_panel", "from_silver"
_LIFECYCLE = next(selection for name, selection, _ in ASSET_JOBS if name == LIFECYCLE)
_CLEANING = dg.AssetSelection.groups(lakehouse.GROUP)
# Beside the flow's own jobs.
PARTS: dict[str, dg.AssetSelection] = {
    SILVER_ONLY: _CLEANING,
    UP_TO_PANEL: _CLEANING | dg.AssetSelection.groups(features.GROUP),
    # To the version in production, with every check of what it makes.
    FROM_SILVER: _LIFECYCLE - _CLEANING,
}


def run_here(part: str) -> None:
    """Runs the part to its end, the scoring for the latest week. Raises what its assets raise."""
    resources = default_resources(settings_from_env())
    parts = [dg.define_asset_job(name, selection=selection) for name, selection in PARTS.items()]
    defs = dg.Definitions.merge(build_defs(resources), dg.Definitions(jobs=parts))
    week = str(resources["lakehouse"].dates(PANEL, "as_of")[-1]) if part == SCORING else None
    with dg.DagsterInstance.get() as instance:
        defs.resolve_job_def(part).execute_in_process(instance=instance, partition_key=week)


if __name__ == "__main__":
    # As the command line does: see there.
    atexit.register(gc.freeze)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, DEMO, LIFECYCLE, TRAINING, SCORING])
    run_here(parser.parse_args().part)

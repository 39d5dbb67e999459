"""The job `churn_training` in a fresh process: from the feature panel to the judged and promoted version."""

import sys

import dagster as dg

from churn_assets.definitions import TRAINING, build_defs, default_resources
from churn_assets.resources.settings import settings_from_env


def main() -> int:
    job = build_defs(default_resources(settings_from_env())).resolve_job_def(TRAINING)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    print("promoted" if result.success else "refused or failed")
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main())

"""The job `churn_training` in a fresh process, started as the command line starts a job: from panel to version."""

import atexit
import gc
import sys

import dagster as dg

from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource, start_ahead


def main() -> int:
    atexit.register(gc.freeze)
    settings = settings_from_env()
    pyspark = spark_resource(settings)
    start_ahead(pyspark)
    from churn_assets.definitions import TRAINING, build_defs, default_resources

    job = build_defs(default_resources(settings, pyspark)).resolve_job_def(TRAINING)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    print("promoted" if result.success else "refused or failed")
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main())

"""What the daemon of a test loads: the project's own definitions, with one sensor that looks at every turn of it.

The others look every 30 seconds, as ever: each look takes time from the run that is waited for.
"""

import os

import dagster as dg

from churn_assets.definitions import build_defs, default_resources
from churn_assets.resources.settings import settings_from_env

QUICK = "CHURN_TEST_QUICK_SENSOR"


@dg.definitions
def defs() -> dg.Definitions:
    built = build_defs(default_resources(settings_from_env()))
    (sensor,) = (each for each in built.sensors or [] if each.name == os.environ[QUICK])
    assert isinstance(sensor, dg.SensorDefinition)
    # Dagster has no public way to change it.
    assert isinstance(sensor._min_interval, int)
    sensor._min_interval = 1
    return built

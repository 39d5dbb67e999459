"""What the daemon of a test loads: the project's own definitions, with sensors that look every second, not every 30."""

import dagster as dg

from churn_assets.definitions import build_defs, default_resources
from churn_assets.resources.settings import settings_from_env


@dg.definitions
def defs() -> dg.Definitions:
    built = build_defs(default_resources(settings_from_env()))
    for sensor in built.sensors or []:
        assert isinstance(sensor, dg.SensorDefinition)
        # Dagster has no public way to change it.
        assert isinstance(sensor._min_interval, int)
        sensor._min_interval = 1
    return built

"""What the tracking resource keeps is kept for one run and shared by its steps."""

import dagster as dg

from churn_assets.resources.tracking import TrackingResource
from churn_assets.serving.probe import Probe


def test_the_steps_of_a_run_share_one_probe_and_another_run_has_its_own() -> None:
    seen: list[Probe] = []

    @dg.asset
    def trained(tracking: TrackingResource) -> None:
        seen.append(tracking.probe)

    @dg.asset_check(asset=trained, blocking=True)
    def tried(tracking: TrackingResource) -> dg.AssetCheckResult:
        seen.append(tracking.probe)
        return dg.AssetCheckResult(passed=True)

    @dg.asset(deps=[trained])
    def judged(tracking: TrackingResource) -> None:
        seen.append(tracking.probe)

    store = TrackingResource(tracking_uri="sqlite:///unused.db", artifact_root="unused", mlflow_ui="", dagster_ui="")
    for _ in range(2):
        assert dg.materialize([trained, tried, judged], resources={"tracking": store}).success
    first, second = seen[:3], seen[3:]
    assert [probe is first[0] for probe in seen] == [True] * 3 + [False] * 3
    assert all(probe is second[0] for probe in second)

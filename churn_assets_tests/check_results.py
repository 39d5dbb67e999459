"""What an asset check says when a test calls it as the function it is, without a run."""

from collections.abc import Iterable

import dagster as dg


def results_of(called: object) -> list[dg.AssetCheckResult]:
    """The results of a called check; Dagster's decorator leaves no type of what the function yields."""
    assert isinstance(called, Iterable)
    results: list[dg.AssetCheckResult] = []
    for result in called:
        assert isinstance(result, dg.AssetCheckResult)
        results.append(result)
    return results

"""What a training run asks of its engine, as it was sent: nothing is asked twice."""

import re
from collections import Counter
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql.connect.client import SparkConnectClient

from churn_assets.definitions import TRAINING
from churn_assets_tests.conftest import ENGINE, Project, causes_of


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plans that clients send while a test runs, without the numbers that tell two of one query apart."""
    plans: list[str] = []
    fetch: Any = SparkConnectClient._execute_and_fetch_as_iterator

    def noted(self: SparkConnectClient, request: Any, *more: Any, **options: Any) -> Any:
        plans.append(re.sub(r"plan_id: \d+", "", str(request.plan)))
        return fetch(self, request, *more, **options)

    monkeypatch.setattr(SparkConnectClient, "_execute_and_fetch_as_iterator", noted)
    return plans


@pytest.mark.skipif(ENGINE["CHURN_ENGINE"] == "local", reason="a local Spark is asked through its JVM")
def test_a_training_run_asks_nothing_twice(project: Project, spark: SparkSession, sent: list[str]) -> None:
    result = project.run(TRAINING)
    assert result.success, causes_of(result)
    # Both splits and their audit, the rows of the fit, two folds of scores, the judged customers.
    assert len(sent) > 5
    twice = {plan: times for plan, times in Counter(sent).items() if times > 1}
    assert not twice, "\n\n".join(f"{times} times: {plan[:1500]}" for plan, times in twice.items())

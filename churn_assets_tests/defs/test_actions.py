"""Spark's own record of a training run: nothing is asked of it twice."""

import re
from collections import Counter
from typing import Any

from pyspark.sql import SparkSession

from churn_assets.definitions import TRAINING
from churn_assets_tests.conftest import Project, causes_of


def executions(spark: SparkSession) -> dict[int, Any]:
    """The SQL queries so far, by their numbers."""
    store: Any = spark._jsparkSession.sharedState().statusStore()
    listed = store.executionsList()
    return {int(each.executionId()): each for each in (listed.apply(place) for place in range(listed.size()))}


def asked(plan: str) -> str:
    """A plan without what differs from one run of the same query to the next: numbers of columns, plans and jobs."""
    return re.sub(r"#\d+L?|plan_id=\d+|\[codegen id : \d+\]|rdd_\d+|lambda x_\d+|\s+", " ", plan)


def test_a_training_run_asks_nothing_twice(project: Project, spark: SparkSession) -> None:
    before = executions(spark).keys()
    result = project.run(TRAINING)
    assert result.success, causes_of(result)
    queries = [
        str(query.physicalPlanDescription()) for number, query in executions(spark).items() if number not in before
    ]
    # Spark itself reads what it noted of a saved model's stages more than once.
    plans = [asked(plan) for plan in queries if "Scan text" not in plan]
    # Feasibility, both splits and their audit, the fit's two classes, two folds of scores, the judged customers.
    assert len(plans) > 7
    twice = {plan: times for plan, times in Counter(plans).items() if times > 1}
    assert not twice, "\n\n".join(f"{times} times: {plan[:1500]}" for plan, times in twice.items())

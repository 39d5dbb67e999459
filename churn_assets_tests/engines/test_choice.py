"""Three settings and the sources decide one engine, and settings that contradict each other decide none."""

import pytest

from churn_assets.engines.choice import Engine, UnknownEngineError, chosen_engine

CLUSTER, SERVER = "spark://host:7077", "sc://host:15002"


@pytest.mark.parametrize(
    ("asked", "master", "remote", "is_simulated", "chosen"),
    [
        (None, None, None, True, Engine("sail")),
        (None, None, None, False, Engine("local", "local[*]")),
        ("sail", None, None, False, Engine("sail")),
        ("local", None, None, True, Engine("local", "local[*]")),
        ("local", "local[2]", None, True, Engine("local", "local[2]")),
        (None, "local[2]", None, True, Engine("local", "local[2]")),
        (None, CLUSTER, None, True, Engine("cluster", CLUSTER)),
        ("cluster", CLUSTER, None, False, Engine("cluster", CLUSTER)),
        (None, None, SERVER, True, Engine("connect", SERVER)),
        (None, "local[2]", SERVER, False, Engine("connect", SERVER)),
        ("connect", None, SERVER, False, Engine("connect", SERVER)),
    ],
)
def test_the_settings_choose_the_engine(
    asked: str | None, master: str | None, remote: str | None, is_simulated: bool, chosen: Engine
) -> None:
    assert chosen_engine(asked, master, remote, is_simulated=is_simulated) == chosen


@pytest.mark.parametrize(
    ("asked", "master", "remote", "told"),
    [
        ("flink", None, None, "'flink'"),
        ("sail", "local[2]", None, "SPARK_MASTER=local"),
        ("sail", None, SERVER, "SPARK_REMOTE=sc"),
        ("local", None, SERVER, "names a Connect server"),
        ("cluster", CLUSTER, SERVER, "names a Connect server"),
        ("local", CLUSTER, None, "SPARK_MASTER is spark"),
        ("cluster", None, None, "SPARK_MASTER is not set"),
        ("cluster", "local[2]", None, "SPARK_MASTER is local"),
        ("connect", None, None, "no server is named"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(
    asked: str, master: str | None, remote: str | None, told: str
) -> None:
    with pytest.raises(UnknownEngineError) as refused:
        chosen_engine(asked, master, remote, is_simulated=True)
    assert told in str(refused.value)
    assert "Next step" in str(refused.value)


def test_only_a_spark_that_this_machine_starts_needs_java() -> None:
    engines = [Engine("sail"), Engine("local", "local[*]"), Engine("cluster", CLUSTER), Engine("connect", SERVER)]
    assert [engine.needs_java for engine in engines] == [False, True, True, False]
    assert [str(engine) for engine in engines] == [
        "Sail in this process, without Java",
        "Spark at local[*]",
        f"Spark at {CLUSTER}",
        f"Spark Connect at {SERVER}",
    ]

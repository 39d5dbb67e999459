"""The probe finds nothing wrong with a good version, and says what is wrong with each kind of bad one."""

import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from churn_assets.churn.trees import model_digest
from churn_assets.serving.probe import MOST_SPOILT, Probe, _accepted, _Loaded, problems_of
from churn_assets_tests.processes import wait_for
from churn_assets_tests.serving.conftest import FEATURES, URI, Served


@pytest.fixture(autouse=True)
def _each_probe_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("churn_assets.serving.probe._Loaded", _Loaded)


@pytest.fixture
def other(served: Served, tmp_path: Path) -> Served:
    """A copy of the version for one test to spoil."""
    return served.copied_to(tmp_path / "other")


def problems(version: Served, folder: Path) -> list[str]:
    """What the probe's process would write, without the process."""
    folder.mkdir()
    return list(problems_of(str(version.artifacts), str(folder)))


def edit(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")))


def replaced(file: Path, text: str, instead: str) -> str:
    """What the file was before."""
    before = file.read_text()
    assert text in before
    file.write_text(before.replace(text, instead))
    return before


def test_a_good_version_has_no_problems_in_a_process_without_pyspark(served: Served) -> None:
    digest = model_digest(served.trees, served.threshold)
    assert Probe(served.tracking_uri).problems(URI, expected_digest=digest) == []


def test_a_deleted_artifact_and_an_unexpected_digest_are_told_by_the_process(served: Served, other: Served) -> None:
    assert Probe(served.tracking_uri).problems(URI, expected_digest="0" * 64) == [
        f"its trees file has digest {model_digest(served.trees, served.threshold)[:12]}, not the expected {'0' * 12}"
    ]
    shutil.rmtree(other.artifacts)
    (told,) = Probe(other.tracking_uri).problems(URI)
    assert told.startswith("cannot be loaded: ")


def test_a_process_that_dies_or_takes_too_long_is_told_with_its_last_words(other: Served, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    told_by = f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))"
    stays = f"import json\nimport os, pathlib, time\n{told_by}\ntime.sleep(600)\n"
    kept = replaced(other.artifacts / "pyfunc.py", "import json\n", stays)
    probe = Probe(other.tracking_uri)
    assert probe.problems("models:/nobody/1") != []
    (told,) = probe.problems(URI, timeout_seconds=20)
    assert "was not done after 20 seconds" in told
    wait_for("the end of the trial", lambda: is_gone(int(pid.read_text())))
    (other.artifacts / "pyfunc.py").write_text(kept)
    replaced(
        other.artifacts / "pyfunc.py",
        "import json\n",
        "import os\nimport sys\nprint('last words', file=sys.stderr, flush=True)\nos._exit(3)\n",
    )
    (told,) = Probe(other.tracking_uri).problems(URI)
    assert "ended with exit code 3" in told
    assert told.endswith("last words")


def is_gone(pid: int) -> bool:
    """Ended, whether or not whoever inherited it has taken note."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


Waiting = Callable[[], list[psutil.Process]]


@pytest.fixture
def waiting() -> Waiting:
    """Tells the probes' processes that this test has started and that have not ended."""

    def all_waiting() -> list[psutil.Process]:
        # Those of earlier tests' resources go with them, which cycles among them may put off.
        gc.collect()
        children = psutil.Process().children()
        return [child for child in children if "churn_assets.serving.probe" in child.cmdline()]

    before = all_waiting()
    return lambda: [child for child in all_waiting() if child not in before]


def test_one_process_loads_mlflow_and_no_version_sees_what_another_left_there(
    served: Served, other: Served, waiting: Waiting
) -> None:
    marked = "import json\nif hasattr(json, 'mark'):\n    raise OSError('another was here')\njson.mark = True\n"
    # Nor what the process is asked.
    marked += "import sys\nif sys.stdin.read():\n    raise OSError('a request was here')\n"
    replaced(other.artifacts / "pyfunc.py", "import json\n", marked)
    probe = Probe(other.tracking_uri)
    probe.prepare()
    (prepared,) = waiting()
    probe.prepare()
    assert waiting() == [prepared]
    assert probe.problems(URI) == probe.problems(URI) == []
    assert waiting() == [prepared]
    assert prepared.children() == []


def test_the_process_that_was_prepared_is_the_one_that_is_asked(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(served.tracking_uri)
    probe.prepare()
    monkeypatch.setattr("sys.executable", "/no/such/python")
    assert probe.problems(URI) == []


def test_a_prepared_process_that_died_is_not_asked(served: Served, waiting: Waiting) -> None:
    probe = Probe(served.tracking_uri)
    probe.prepare()
    (prepared,) = waiting()
    prepared.kill()
    prepared.wait()
    assert probe.problems(URI) == []


def test_a_prepared_process_that_is_never_asked_ends_with_its_probe(tmp_path: Path, waiting: Waiting) -> None:
    probe = Probe(f"sqlite:///{tmp_path}/mlflow.db")
    probe.prepare()
    assert len(waiting()) == 1
    del probe
    assert waiting() == []


def test_code_that_needs_pyspark_cannot_be_loaded(other: Served) -> None:
    replaced(other.artifacts / "pyfunc.py", "import json\n", "import json\nimport pyspark\n")
    (told,) = Probe(other.tracking_uri).problems(URI)
    assert told.startswith("cannot be loaded: ")
    assert "import of pyspark halted" in told


def test_an_edited_leaf_is_told_by_digest_and_by_score(other: Served, tmp_path: Path) -> None:
    def change(trees: dict[str, Any]) -> None:
        trees["trees"][0]["value"] = [None if value is None else value + 0.01 for value in trees["trees"][0]["value"]]

    edit(other.artifacts / "artifacts" / "trees.json", change)
    told = problems(other, tmp_path / "files")
    assert told[0].startswith("its trees file has digest ")
    assert told[0].endswith("is recorded as model_digest")
    assert "42 of 42 reference rows get another churn_probability than in training; the first, row 0: " in told[1]


@pytest.mark.parametrize("by", [1e-6, -1e-6])
def test_an_edited_threshold_is_told_by_digest_record_and_alert(
    served: Served, other: Served, tmp_path: Path, by: float
) -> None:
    edit(other.artifacts / "artifacts" / "trees.json", lambda trees: trees.update(threshold=trees["threshold"] + by))
    told = problems(other, tmp_path / "files")
    assert told[0].endswith("is recorded as model_digest")
    assert told[1] == f"its trees file has threshold {served.threshold + by}, but {served.threshold} is recorded"
    # A higher threshold loses those who are exactly at the true one.
    assert ("reference rows get another is_alert than in training" in told[-1]) == (by > 0)


def test_an_edited_record_is_told(served: Served, other: Served, tmp_path: Path) -> None:
    replaced(other.artifacts / "MLmodel", f"threshold: {served.threshold}", "threshold: null")
    assert problems(other, tmp_path / "files") == [
        f"its trees file has threshold {served.threshold}, but None is recorded"
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda rows: rows["churn_probability"].__setitem__(2, rows["churn_probability"][2] + 2e-9),
            "1 of 42 .* row 2: ",
        ),
        (lambda rows: rows["is_alert"].__setitem__(5, not rows["is_alert"][5]), "1 of 42 .* another is_alert .* row 5"),
        (lambda rows: rows.pop("gap_ratio"), "its reference cannot be read: KeyError: .*gap_ratio"),
        (lambda rows: [column.clear() for column in rows.values()], "its reference holds no rows"),
    ],
)
def test_an_edited_reference_is_told(
    other: Served, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    edit(other.artifacts / "artifacts" / "reference.json", change)
    (found,) = problems(other, tmp_path / "files")
    assert re.search(told, found)


def test_another_signature_is_told(other: Served, tmp_path: Path) -> None:
    replaced(
        other.artifacts / "MLmodel", '"name": "gap_ratio", "required": true', '"name": "gap_ratio", "required": false'
    )
    (told,) = problems(other, tmp_path / "files")
    assert told.startswith("its signature has inputs (name, type, required) ")


@pytest.mark.parametrize(
    ("code", "instead", "told"),
    [
        (
            "    if not is_unknown.any():",
            "    if True:",
            [f"a null in {name} is scored instead of refused" for name in FEATURES],
        ),
        ('f"{name}: {is', 'f"a feature: {is', [f"a null in {name} is refused without naming it" for name in FEATURES]),
        (
            '"is_alert": prob',
            '"alert": prob',
            ["returns 42 rows of ['churn_probability', 'alert'] for 42 reference rows"],
        ),
        (
            "values = model_input",
            "raise OSError(model_input)\n        values = model_input",
            ["cannot score its reference rows: OSError"],
        ),
    ],
)
def test_code_that_breaks_the_contract_is_told(
    other: Served, tmp_path: Path, code: str, instead: str, told: list[str]
) -> None:
    replaced(other.artifacts / "pyfunc.py", code, instead)
    found = problems(other, tmp_path / "files")
    for wanted in told:
        assert any(problem.startswith(wanted) for problem in found), found


class Careless:
    """Refuses by its name what is spoilt, but for what it does not look at."""

    def __init__(self, wanted: list[str], overlooked: str | None = None) -> None:
        self.wanted, self.overlooked, self.asked = wanted, overlooked, list[str]()

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        assert len(str(rows)) < 300
        missing = [name for name in self.wanted if name not in rows]
        (spoilt,) = missing or [*rows.columns[rows.isna().any()], *rows.select_dtypes(exclude="number").columns]
        self.asked.append(spoilt)
        if spoilt == self.overlooked:
            return rows
        raise ValueError(f"Error: {spoilt}")


@pytest.mark.parametrize("many", [1, MOST_SPOILT, MOST_SPOILT + 1, 2 * MOST_SPOILT + 1])
def test_of_many_features_some_from_the_first_to_the_last_are_tried(many: int) -> None:
    names = [f"feature_{number:03}" for number in range(many)]
    row = pd.DataFrame([dict.fromkeys(names, 1.0)])
    model: Any = Careless(names)
    assert not list(_accepted(model, row))
    tried = model.asked[: len(model.asked) // 3]
    assert model.asked == tried * 3
    assert tried == sorted({*tried})
    assert min(many, MOST_SPOILT) // 2 <= len(tried) <= MOST_SPOILT
    assert tried[0] == names[0]
    assert many - int(tried[-1].removeprefix("feature_")) <= many / len(tried) + 1
    if many <= MOST_SPOILT:
        assert tried == names
    careless: Any = Careless(names, tried[-1])
    assert len(list(_accepted(careless, row))) == 3

"""The archive of Spark's classes is made by one JVM, used by the next, and missed by none."""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from churn_assets.commands import run
from churn_assets.commands.terminal import DONE, FAILED
from churn_assets.resources import class_archive
from churn_assets.resources.class_archive import begun_recording, using_options
from churn_assets.resources.settings import settings_from_env

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("java")]

LOCAL = settings_from_env({"CHURN_ENGINE": "local"})
SESSION = """
import sys
from pathlib import Path
from churn_assets.resources import class_archive
class_archive.FOLDER = Path(sys.argv[1])
from churn_assets.resources.class_archive import begun_recording
from churn_assets.resources.settings import settings_from_env
from churn_assets.resources.spark import spark_resource
settings = settings_from_env({"CHURN_ENGINE": "local"})
recording = begun_recording(settings)
print(spark_resource(settings, recording).spark_session.range(4).count())
if recording is not None:
    print(recording.keep())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "a folder"
    monkeypatch.setattr(class_archive, "FOLDER", place)
    return place


def session(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # A client of this process's engine leaves its mark in the environment.
    without = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    return subprocess.run(
        [sys.executable, "-c", SESSION, str(folder)],
        env={**without, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_one_jvm_makes_the_archive_and_the_next_loads_spark_from_it(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "spark-of-another-java.jsa").touch()
    (folder / "conforms.json").touch()
    assert session(folder).stdout.split() == ["4", "True"]
    (archive,) = folder.glob("*.jsa")
    assert (folder / "conforms.json").exists()
    assert archive == class_archive.class_archive()

    log = f"-Xlog:class+load:file={tmp_path}/%p.log"
    assert session(folder, JAVA_TOOL_OPTIONS=log).stdout.split() == ["4"]
    loaded = "".join(file.read_text() for file in tmp_path.glob("*.log")).splitlines()
    # Scala's lambdas are made anew in each JVM.
    spark = [line for line in loaded if " org.apache.spark." in line and "$$Lambda" not in line]
    archived = [line for line in spark if line.endswith("shared objects file (top)")]
    assert len(archived) > 0.9 * len(spark) > 1_000

    # As of another Java: a JVM that cannot use it goes without, and says nothing of it.
    archive.chmod(0o600)
    with archive.open("r+b") as header:
        header.write(bytes(8))
    refused = session(folder)
    assert refused.stdout.split() == ["4"]
    assert "archive" not in refused.stderr


def test_what_is_dropped_ends_its_jvm_and_leaves_nothing(folder: Path) -> None:
    recording = begun_recording(LOCAL)
    assert recording is not None
    option = f"-XX:ArchiveClassesAtExit={recording.unfinished}"
    assert option in recording.options
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", option]) as jvm:
        recording.unfinished.touch()
        recording.drop()
        assert not psutil.pid_exists(jvm.pid)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("written", [None, b"", bytes(4096)])
def test_nothing_is_kept_of_a_jvm_that_did_not_write_all(folder: Path, written: bytes | None) -> None:
    recording = begun_recording(LOCAL)
    assert recording is not None
    if written is not None:
        recording.unfinished.write_bytes(written)
    assert not recording.keep()
    recording.drop()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "elsewhere",
    [{"CHURN_ENGINE": "sail"}, {"SPARK_MASTER": "spark://somewhere:7077"}, {"SPARK_REMOTE": "sc://somewhere"}],
)
def test_no_other_engine_makes_an_archive(folder: Path, elsewhere: dict[str, str]) -> None:
    assert begun_recording(settings_from_env(elsewhere)) is None


def test_no_second_archive_is_made_and_without_a_java_or_a_folder_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = class_archive.class_archive()
    assert archive is not None
    assert using_options() == ""
    assert begun_recording(LOCAL) is not None
    archive.touch()
    assert str(archive) in using_options()
    assert begun_recording(LOCAL) is None
    (tmp_path / "file").touch()
    monkeypatch.setattr(class_archive, "FOLDER", tmp_path / "file" / "below")
    assert begun_recording(LOCAL) is None
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert begun_recording(LOCAL) is None
    assert using_options() == ""


@dataclass
class Asked:
    """Stands for the recording and notes what is asked of it."""

    of_it: list[str] = field(default_factory=list)

    def keep(self) -> bool:
        self.of_it.append("keep")
        raise KeyboardInterrupt

    def drop(self) -> None:
        self.of_it.append("drop")


@pytest.mark.parametrize(("code", "asked"), [(DONE, ["keep", "drop"]), (FAILED, ["drop"])])
def test_only_a_run_that_went_through_keeps_its_classes(
    code: int, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recording = Asked()
    monkeypatch.setattr(class_archive, "begun_recording", lambda settings: recording)
    monkeypatch.setattr("churn_assets.resources.spark.spark_resource", lambda settings, recording: None)
    monkeypatch.setattr(run, "run_jobs", lambda *of_the_run: code)
    assert run.main(argparse.Namespace(), LOCAL, sys.stdout, tmp_path / "log") == code
    assert recording.of_it == asked

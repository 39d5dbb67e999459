"""The serving contract, tried from outside: a process of its own loads a version as any consumer would, without a JVM.

What scores are right is not decided here: those of the training, logged with the version, are.
"""

import gc
import hashlib
import importlib
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from churn_assets.serving.files import files_digest

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

TIMEOUT_SECONDS = 120.0
TOLERANCE = 1e-9
STDERR_CHARACTERS = 2_000
# Of so many features, from the first to the last, it is tried whether each is refused by its name: to try one takes the
# longer the more there are, 0.03 s of 405, and there is a TIMEOUT_SECONDS (2026-11-30).
MOST_SPOILT = 200
OUTPUTS = [("churn_probability", "double", True), ("is_alert", "boolean", True)]
# Imported by nobody in the probe's process: a version has to load where they are not installed.
ABSENT = ("pyspark", "py4j", "churn_assets.churn", "churn_assets.resources", "churn_assets.defs")
# What a trial would load. No store is opened before the fork: a connection must not be two processes'.
LOADED_AHEAD = (
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite",
)


class Probe:
    """Tries versions of the store at `tracking_uri`, each in a process of its own, which has MLflow loaded already."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._loaded: _Loaded | None = None

    def prepare(self) -> None:
        """Starts the process that loads MLflow now, while other work goes on.

        That is most of what a trial takes. It serves later trials too, and ends with this object.
        """
        if self._loaded is None or not self._loaded.is_waiting():
            self._loaded = _Loaded()

    def problems(
        self,
        uri: str,
        *,
        expected_digest: str | None = None,
        expected_files: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> list[str]:
        """What is wrong with the logged model at `uri`, such as models:/NAME@ALIAS; empty if it keeps the contract.

        Its files are those of `expected_files`, a `files_digest`, if given; otherwise none of them is run, and nothing
        else is found. It loads as python_function without pyspark; its trees are those of its recorded digest and
        threshold, and of `expected_digest` if given; it scores its reference rows as the training did; inputs are the
        features as doubles, outputs probability and alert; a null, a missing column or text is refused by the name of
        the feature, as far as MOST_SPOILT features can show; further columns and the order of columns change nothing. A
        process that dies or takes longer than `timeout_seconds` is a problem too.
        """
        self.prepare()
        assert self._loaded is not None, "it was prepared"
        expected = {"expected_digest": expected_digest, "expected_files": expected_files}
        return self._loaded.problems({"uri": uri, **expected}, self._tracking_uri, timeout_seconds)


class _Loaded:
    """A Python process that has loaded MLflow and does nothing but fork, once for each version that it is told of.

    So no version sees what another one left behind. Where a process that has loaded libraries is not to be forked (all
    but Linux) it judges one version itself, and is not asked again.
    """

    def __init__(self) -> None:
        folder = TemporaryDirectory(prefix="churn-probe-")
        self._result, self._errors = Path(folder.name, "problems.json"), Path(folder.name, "stderr")
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "churn_assets.serving.probe"],
                # Threads do not survive a fork, and a trial has no use for these.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # A group of its own, which ends as a whole.
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, self._process, folder)

    def is_waiting(self) -> bool:
        return self._process.poll() is None

    def problems(self, asked: dict[str, Any], tracking_uri: str, timeout_seconds: float) -> list[str]:
        self._result.unlink(missing_ok=True)
        said_before = self._errors.stat().st_size
        # A progress bar would be all that is left of its last words.
        told = {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        request = {**asked, "environ": {**os.environ, **told}, "result": str(self._result)}
        ended = self._answer(json.dumps(request), timeout_seconds)
        if ended == "ended with exit code 0" and self._result.exists():
            return list(json.loads(self._result.read_text(encoding="utf-8")))
        said = self._errors.read_bytes()[said_before:].decode(errors="replace").strip()
        self._end()
        return [
            f"the probe of {asked['uri']} {ended}; the end of what it said: {said[-STDERR_CHARACTERS:] or 'nothing'}"
        ]

    def _answer(self, request: str, timeout_seconds: float) -> str:
        """How the trial ended; of a trial that goes on for too long the process is no longer to be asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Of a process that is gone the exit code tells more.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{request}\n".encode())
        if not select.select([self._process.stdout], [], [], timeout_seconds)[0]:
            return f"was not done after {timeout_seconds:g} seconds"
        told = self._process.stdout.readline().decode().strip()
        return f"ended with exit code {told or self._process.wait()}"


def _end(process: "subprocess.Popen[bytes]", folder: "TemporaryDirectory[str]") -> None:
    with process:
        # While it is not waited for, nobody else can have its number.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    folder.cleanup()


def main() -> NoReturn:
    """The probe's process: for each line read, what to judge as JSON, a trial; its exit code is the line answered."""
    # Trials live for seconds, and looking for garbage would be a good part of them, most of it at the end.
    gc.disable()
    # An import of these now fails, here and in MLflow, as where they are not installed.
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]
    for name in LOADED_AHEAD:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    # What a version prints is no answer.
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    while request := sys.stdin.readline():
        if sys.platform != "linux":
            _judge(json.loads(request))
            print(0, file=answers, flush=True)
            break
        if (trial := os.fork()) == 0:
            # What a version asks for is no request.
            answers.close()
            os.dup2(1, 0)
            _judge(json.loads(request))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(trial, 0)[1]), file=answers, flush=True)
    # Whoever started this process is gone.
    os._exit(0)


def _judge(request: dict[str, Any]) -> None:
    """Writes the list of problems of the version that `request` names to the file it names."""
    os.environ.update(request["environ"])
    with TemporaryDirectory(prefix="churn-model-") as folder:
        found = list(problems_of(request["uri"], folder, request["expected_digest"], request["expected_files"]))
    Path(request["result"]).write_text(json.dumps(found), encoding="utf-8")


def problems_of(
    uri: str, folder: str, expected_digest: str | None = None, expected_files: str | None = None
) -> Iterator[str]:
    """What `Probe.problems` finds, in this process; `folder` is where the version's files go."""
    import mlflow.artifacts
    import mlflow.pyfunc

    try:
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        found = files_digest(local)
        if expected_files not in (None, found):
            yield f"its files have digest {found[:12]}, not the expected {str(expected_files)[:12]}; none was run"
            return
        # Whether the packages here are those of the training is not asked: it takes longer than all else here.
        model = mlflow.pyfunc.load_model(str(local), suppress_warnings=True)
        files = model.metadata.flavors["python_function"]["artifacts"]
        trees, reference = ((local / files[name]["path"]).read_text("utf-8") for name in ("trees", "reference"))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in loading a version is what the probe is to find
        yield f"cannot be loaded: {_in_short(error)}"
        return
    exported = json.loads(trees)
    yield from _changed(model.metadata, trees, exported["threshold"], expected_digest)
    yield from _other_signature(model.metadata, exported["features"])
    yield from _other_scores(model, exported["features"], json.loads(reference))


def _changed(logged: "Model", trees: str, threshold: float | None, expected_digest: str | None) -> Iterator[str]:
    metadata = logged.metadata or {}
    digest, recorded = hashlib.sha256(trees.encode()).hexdigest(), metadata.get("model_digest")
    if digest != recorded:
        yield f"its trees file has digest {digest[:12]}, but {str(recorded)[:12]} is recorded as model_digest"
    if expected_digest is not None and digest != expected_digest:
        yield f"its trees file has digest {digest[:12]}, not the expected {expected_digest[:12]}"
    if metadata.get("threshold") != threshold:
        yield f"its trees file has threshold {threshold}, but {metadata.get('threshold')} is recorded"


def _other_signature(logged: "Model", features: Sequence[str]) -> Iterator[str]:
    signature = logged.signature
    wanted = {"inputs": [(name, "double", True) for name in features], "outputs": OUTPUTS}
    for side, columns in wanted.items():
        schema = getattr(signature, side, None)
        actual = [(column.name, column.type.name, column.required) for column in schema.inputs] if schema else []
        if actual != columns:
            yield f"its signature has {side} (name, type, required) {actual}, not {columns}"


def _other_scores(model: "PyFuncModel", features: Sequence[str], reference: dict[str, list[Any]]) -> Iterator[str]:
    import pandas as pd

    try:
        rows = pd.DataFrame(reference)[[*features]].astype("float64")
        expected = pd.DataFrame(reference)[[name for name, *_ in OUTPUTS]]
    except (KeyError, ValueError) as error:
        yield f"its reference cannot be read: {_in_short(error)}"
        return
    if rows.empty:
        yield "its reference holds no rows, so nothing shows that it scores as it did"
        return
    scored = _scored(model, rows)
    if isinstance(scored, Exception):
        yield f"cannot score its reference rows: {_in_short(scored)}"
        return
    yield from _differences(scored, expected)
    yield from _accepted(model, rows.head(1))
    others = _scored(model, rows.assign(a_further_column="text")[["a_further_column", *reversed(features)]])
    if isinstance(others, Exception):
        yield f"refuses a further column or another order of columns: {_in_short(others)}"
    elif not others.equals(scored):
        yield "a further column or another order of columns changes its scores"


def _scored(model: "PyFuncModel", rows: "pd.DataFrame") -> "pd.DataFrame | Exception":
    import pandas as pd

    try:
        return pd.DataFrame(model.predict(rows))
    except Exception as error:  # noqa: BLE001 - the served code may do anything; that is a finding
        return error


def _differences(scored: "pd.DataFrame", expected: "pd.DataFrame") -> Iterator[str]:
    if list(scored.columns) != list(expected.columns) or len(scored) != len(expected):
        yield (
            f"returns {len(scored)} rows of {list(scored.columns)} for {len(expected)} reference rows, "
            f"not of {list(expected.columns)}"
        )
        return
    probability, trained = (frame["churn_probability"].to_numpy() for frame in (scored, expected))
    is_off = ~(abs(probability - trained) <= TOLERANCE)
    if is_off.any():
        row = int(is_off.argmax())
        yield (
            f"{is_off.sum():,} of {len(is_off):,} reference rows get another churn_probability than in training; "
            f"the first, row {row}: {probability[row]} instead of {trained[row]}"
        )
    is_other = scored["is_alert"].to_numpy() != expected["is_alert"].to_numpy()
    if is_other.any():
        yield (
            f"{is_other.sum():,} of {len(is_other):,} reference rows get another is_alert than in training; "
            f"the first, row {int(is_other.argmax())}"
        )


def _accepted(model: "PyFuncModel", row: "pd.DataFrame") -> Iterator[str]:
    import pandas as pd

    spoilt: dict[str, Callable[[str], pd.DataFrame]] = {
        "a null": lambda name: row.assign(**{name: math.nan}),
        "a missing column": lambda name: row.drop(columns=name),
        "text": lambda name: row.assign(**{name: "text"}),
    }
    tried = row.columns[:: math.ceil(len(row.columns) / MOST_SPOILT)]
    for what, spoil in spoilt.items():
        for name in tried:
            # MLflow's refusal shows the data, which no one reads here: of 405 columns 0.08 s instead of 0.003.
            with pd.option_context("display.max_columns", 1):
                outcome = _scored(model, spoil(name))
            if not isinstance(outcome, Exception):
                yield f"{what} in {name} is scored instead of refused"
            # MLflow begins with the data, in which every column is named; what is wrong comes after.
            elif not re.search(rf"\b{re.escape(name)}\b", str(outcome).rpartition("Error: ")[2]):
                yield f"{what} in {name} is refused without naming it: {_in_short(outcome)}"


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:STDERR_CHARACTERS]}"


if __name__ == "__main__":
    main()

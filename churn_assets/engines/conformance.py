"""Whether an engine answers what the flow relies on as Spark does: asked once per version, refused by name if not.

What is asked is in `constructs.py`. Nothing is corrected here: an engine conforms, or it runs nothing.
"""

import hashlib
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from churn_assets.churn.errors import ChurnError
from churn_assets.engines.choice import Engine

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from churn_assets.engines.constructs import Construct, Given, OfFrames, OfQueries, OfRows

# Beside the engine that was asked, and gone with it.
RECORDS = Path(sys.prefix) / "share" / "churn_assets"

# The Spark whose answers are written out.
REFERENCE = "4.2.0"


class NonconformingEngineError(ChurnError):
    """An engine answers a construct that the flow relies on otherwise than Spark, or not at all."""


@dataclass(frozen=True)
class Deviation:
    """A construct that an engine answers otherwise. expected, answered: as text that tells every digit."""

    construct: str
    expected: str
    answered: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.construct} ({self.where}): expected {self.expected}, answered {self.answered}"


def require_conformant(session: "SparkSession", engine: Engine, *, folder: str | None = None) -> None:
    """Asks the engine of `session` unless this version of it is known to conform. Raises as `require_answers`."""
    asked_of = version_of(engine, session)
    if not _is_reference(engine, session.version) and not is_recorded(engine, asked_of):
        require_answers(session, engine, folder=folder)
        record(engine, asked_of)


def require_answers(session: "SparkSession", engine: Engine, *, folder: str | None = None) -> None:
    """Raises NonconformingEngineError unless the engine of `session` answers as expected. folder: as `deviations`."""
    deviating = deviations(session, folder)
    if deviating:
        raise NonconformingEngineError(
            f"{engine} ({version_of(engine, session)}) answers {len(deviating)} construct(s) that the flow relies on "
            "otherwise than Spark does, so nothing is computed on it.",
            [str(each) for each in deviating],
            next_step=next_step(engine),
        )


def _is_reference(engine: Engine, spark: str) -> bool:
    # It gave the answers that are written out. To ask it takes a cold JVM 17 s of CPU (2026-11-28), so a test does. A
    # server may say of itself what it likes.
    return engine.needs_java and spark == REFERENCE


def next_step(engine: Engine) -> str:
    """What to do about an engine that deviates."""
    packages = "pysail and pyspark" if engine.name == "sail" else "pyspark"
    other = "install the Spark of constraints.txt on that server" if engine.name == "connect" else ""
    mended = other or f"install the {packages} of constraints.txt (`make clean install`)"
    return f"{mended}, or set CHURN_ENGINE={'sail' if engine.name == 'local' else 'local'}"


# --- asking ---


def deviations(
    session: "SparkSession", folder: str | None = None, *, constructs: "Sequence[Construct] | None" = None
) -> list[Deviation]:
    """What the engine of `session` answers otherwise than is written out; constructs: other than RELIED_ON.

    folder: where the engine and this process both write; None: a temporary folder of this machine.
    """
    from churn_assets.engines.constructs import RELIED_ON

    asked = RELIED_ON if constructs is None else constructs
    return compared(asked, answers(session, asked, folder))


def compared(constructs: "Sequence[Construct]", answered: Sequence[str]) -> list[Deviation]:
    """Those of the `constructs` that were `answered` otherwise than expected. In: as `answers` gave them."""
    return [
        Deviation(each.name, each.answer, text, each.where, each.remedy)
        for each, text in zip(constructs, answered, strict=True)
        if text != each.answer
    ]


def answers(session: "SparkSession", constructs: "Sequence[Construct]", folder: str | None = None) -> list[str]:
    """What the engine answers to each construct, as text; where it refuses, what it says. folder: as `deviations`."""
    if folder is None:
        with TemporaryDirectory(prefix="churn-conformance-") as temporary:
            return _answers(session, constructs, temporary)
    from churn_assets.engines.constructs import arrows_filesystem

    own = f"{folder.rstrip('/')}/.conformance-{uuid.uuid4().hex}"
    try:
        return _answers(session, constructs, own)
    finally:
        filesystem, place = arrows_filesystem(own)
        # Whether it is there at all the engine decides.
        with suppress(FileNotFoundError):
            filesystem.delete_dir(place)


def _answers(session: "SparkSession", constructs: "Sequence[Construct]", folder: str) -> list[str]:
    from churn_assets.engines import constructs as asked

    given = asked.given(session, folder)
    found: dict[str, str] = {}
    # What is of one kind is asked in one query.
    for kind, ask in ((asked.OfRows, _of_rows), (asked.OfParts, _of_parts), (asked.OfFrames, _of_frames)):
        found |= _asked(ask, given, [each for each in constructs if type(each) is kind])
    for each in constructs:
        if isinstance(each, asked.OfQueries):
            found |= _asked(_of_queries, given, [each])
    return [found[each.name] for each in constructs]


def _asked(
    ask: "Callable[[Given, Sequence[Any]], dict[str, str]]", given: "Given", constructs: "Sequence[Construct]"
) -> dict[str, str]:
    """The answers by name. Where an engine refuses them together, those that it refuses alone are found by halving."""
    if not constructs:
        return {}
    try:
        return ask(given, constructs)
    except Exception as refused:  # noqa: BLE001 - whatever an engine refuses with is its answer
        # An engine that is gone answers nothing: that is no deviation, and what this raises says so.
        given.session.range(1).count()
        if len(constructs) > 1:
            middle = len(constructs) // 2
            return _asked(ask, given, constructs[:middle]) | _asked(ask, given, constructs[middle:])
        said = str(refused).strip().partition("\n")[0]
        return {constructs[0].name: f"{type(refused).__name__}: {said}"}


def _of_rows(given: "Given", constructs: "Sequence[OfRows]") -> dict[str, str]:
    return _by_column(given.rows.select("id", *_named(constructs)), "id", constructs)


def _of_parts(given: "Given", constructs: "Sequence[OfRows]") -> dict[str, str]:
    return _by_column(given.rows.groupBy("part").agg(*_named(constructs)), "part", constructs)


def _named(constructs: "Sequence[OfRows]") -> "list[Column]":
    return [each.value().alias(f"c{number}") for number, each in enumerate(constructs)]


def _by_column(frame: "DataFrame", key: str, constructs: "Sequence[OfRows]") -> dict[str, str]:
    from churn_assets.engines.constructs import exact

    kinds = [field.dataType.simpleString() for field in frame.schema][1:]
    table = frame.toArrow().sort_by(key)
    columns = [column.to_pylist() for column in table.columns[1:]]
    found = zip(constructs, kinds, columns, strict=True)
    return {each.name: f"{kind} {exact(values)}" for each, kind, values in found}


def _of_frames(given: "Given", constructs: "Sequence[OfFrames]") -> dict[str, str]:
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    from churn_assets.engines.constructs import exact

    told = []
    for number, each in enumerate(constructs):
        frame = each.frame(given)
        values = [F.coalesce(F.col(f"`{name}`").cast("string"), F.lit("-")) for name in frame.columns]
        told.append(frame.select(F.lit(number).alias("number"), F.concat_ws("|", *values).alias("row")))
    table = reduce(DataFrame.unionAll, told).toArrow()
    rows: list[list[str]] = [[] for _ in constructs]
    for number, row in zip(*[column.to_pylist() for column in table.columns], strict=True):
        rows[number].append(row)
    return {each.name: exact(sorted(found)) for each, found in zip(constructs, rows, strict=True)}


def _of_queries(given: "Given", constructs: "Sequence[OfQueries]") -> dict[str, str]:
    from churn_assets.engines.constructs import exact

    return {each.name: exact(each.found(given)) for each in constructs}


# --- the record that an engine was asked ---


def version_of(engine: Engine, session: "SparkSession") -> str:
    """Of which version the answers are: of Sail, and of Spark on both sides of a connection."""
    return installed_version(engine) if engine.name == "sail" else _version_text(session.version)


def installed_version(engine: Engine) -> str:
    """The same without a session, by the packages of this Python; what a server or SPARK_HOME has is not known."""
    return f"{_version_text(version('pyspark'))}" + (f", pysail {version('pysail')}" if engine.name == "sail" else "")


def _version_text(spark: str) -> str:
    return f"Spark {spark} by pyspark {version('pyspark')}"


def is_recorded(engine: Engine, asked_of: str) -> bool:
    """Whether this version of the engine is known to have answered these very constructs as expected."""
    noted = _note(engine, asked_of)
    try:
        return bool(json.loads(_file_of(noted).read_text(encoding="utf-8")) == noted)
    except (OSError, ValueError):
        return False


def known_version(engine: Engine) -> str | None:
    """A version of the engine that is known to conform, as far as can be said without a session."""
    if _is_reference(engine, version("pyspark")):
        return installed_version(engine)
    for file in sorted(RECORDS.glob("conforms-*.json")):
        with suppress(OSError, ValueError):
            noted = json.loads(file.read_text(encoding="utf-8"))
            if noted == _note(engine, str(noted.get("version"))) and _file_of(noted) == file:
                return str(noted["version"])
    return None


def record(engine: Engine, asked_of: str) -> None:
    """Notes that this version conforms; where nothing can be written it is asked again the next time."""
    noted = _note(engine, asked_of)
    place = _file_of(noted)
    unfinished = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(noted), encoding="utf-8")
        unfinished.replace(place)


def _note(engine: Engine, asked_of: str) -> dict[str, str]:
    # An address may hold a token.
    address = hashlib.sha256(engine.address.encode()).hexdigest()[:16]
    return {"engine": engine.name, "address": address, "version": asked_of, "constructs": table_digest()}


def _file_of(noted: dict[str, str]) -> Path:
    return RECORDS / f"conforms-{hashlib.sha256(json.dumps(noted).encode()).hexdigest()[:16]}.json"


def table_digest() -> str:
    """Of the constructs, their answers and how they are asked: of what a record says that it was asked."""
    sources = [Path(__file__), Path(__file__).with_name("constructs.py")]
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


# --- what the flow avoids ---


def avoided_answers(session: "SparkSession") -> dict[str, str]:
    """What the engine answers to AVOIDED, as text by name; "raises" where it refuses."""
    from churn_assets.engines.constructs import AVOIDED, exact, given

    with TemporaryDirectory(prefix="churn-conformance-") as folder:
        asked = given(session, folder)
        found = {}
        for each in AVOIDED:
            try:
                found[each.name] = exact(each.found(asked))
            except Exception:  # noqa: BLE001 - that an engine refuses is its answer
                found[each.name] = "raises"
        return found

"""Which engine answers Spark's DataFrame API: decided here and nowhere else. How one is started is not known here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from churn_assets.churn.errors import ChurnError
from churn_assets.engines.addresses import shown

EngineName = Literal["sail", "local", "cluster", "connect"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
LOCAL = "local[*]"


class UnknownEngineError(ChurnError):
    """CHURN_ENGINE, SPARK_MASTER and SPARK_REMOTE name no engine, or two."""


@dataclass(frozen=True)
class Engine:
    """An engine and where it is: a Spark master, the address of a Connect server, or nothing (Sail: this process)."""

    name: EngineName
    address: str = field(default="", repr=False)

    @property
    def needs_java(self) -> bool:
        """Whether this machine starts a JVM for it."""
        return self.name in ("local", "cluster")

    def __str__(self) -> str:
        at = f" at {shown(self.address)}" if self.address else " in this process, without Java"
        return {"sail": "Sail", "local": "Spark", "cluster": "Spark", "connect": "Spark Connect"}[self.name] + at


def chosen_engine(asked: str | None, master: str | None, remote: str | None, *, is_simulated: bool) -> Engine:
    """The engine by CHURN_ENGINE, SPARK_MASTER and SPARK_REMOTE, each None where it is not set.

    Where none is set, simulated sources go to Sail, whose tables are known to equal Spark's, and a company's own to
    Spark. Raises UnknownEngineError for a name that is none, and for settings that contradict each other.
    """
    if asked is not None and asked not in ENGINES:
        raise _unknown(f"CHURN_ENGINE is {asked!r}.", f"set it to one of {', '.join(ENGINES)}, or leave it out")
    where = {"SPARK_MASTER": master, "SPARK_REMOTE": remote}
    given = [f"{name}={shown(value)}" for name, value in where.items() if value]
    if asked == "sail" and given:
        raise _unknown(f"CHURN_ENGINE is sail, but {given[0]} names a Spark.", "leave out one of the two")
    if asked in ("local", "cluster") and remote:
        raise _unknown(f"CHURN_ENGINE is {asked}, but {given[-1]} names a Connect server.", "leave out one of the two")
    if asked == "connect" and not remote:
        raise _unknown("CHURN_ENGINE is connect, but no server is named.", "set SPARK_REMOTE=sc://HOST:PORT")
    if remote and asked in (None, "connect"):
        return Engine("connect", remote)
    is_local = (master or LOCAL).startswith("local")
    if asked in ("local", "cluster") and is_local != (asked == "local"):
        raise _unknown(
            f"CHURN_ENGINE is {asked}, but SPARK_MASTER is {master or 'not set'}.",
            "set SPARK_MASTER=spark://HOST:PORT for a cluster, or local[*]",
        )
    if asked == "sail" or (asked is None and master is None and is_simulated):
        return Engine("sail")
    return Engine("local" if is_local else "cluster", master or LOCAL)


def _unknown(problem: str, next_step: str) -> UnknownEngineError:
    return UnknownEngineError(problem, next_step=next_step)

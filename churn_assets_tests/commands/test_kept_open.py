"""Dagster's files and their engines are kept while a run goes on, and others are left as they are."""

from pathlib import Path
from typing import Any

import pytest
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from churn_assets.commands.kept_open import event_log_engines_kept, sqlite_kept_open

OFF, NORMAL = 0, 1  # off is what conftest.py sets for all tests


def engine_of(file: Path, *, journal_mode: str) -> Engine:
    """As Dagster's, of a file that is there already."""
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    asked(engine, f"PRAGMA journal_mode = {journal_mode}", "CREATE TABLE events (id)")
    return engine


def asked(engine: Engine, *statements: str) -> Any:
    with engine.begin() as connection:
        last = [connection.execute(text(statement)) for statement in statements][-1]
        return last.scalar() if last.returns_rows else None


def test_a_log_is_written_back_at_the_end_and_not_after_each_connection(tmp_path: Path) -> None:
    engine, log = engine_of(tmp_path / "run.db", journal_mode="WAL"), tmp_path / "run.db-wal"
    assert not log.exists()
    with sqlite_kept_open():
        for number in range(3):
            asked(engine, f"INSERT INTO events VALUES ({number})")
            assert log.exists()
        # Nobody reads an old state, which would let the log grow without end.
        assert asked(engine, "PRAGMA wal_checkpoint(TRUNCATE)") == 0
        assert log.stat().st_size == 0
        asked(engine, "INSERT INTO events VALUES (3)")
    assert not log.exists()
    assert asked(engine, "SELECT count(*) FROM events") == 4
    assert not log.exists()


@pytest.mark.parametrize(("journal_mode", "meanwhile"), [("WAL", NORMAL), ("DELETE", OFF)])
def test_only_a_log_s_commits_do_not_wait_for_the_disk(tmp_path: Path, journal_mode: str, meanwhile: int) -> None:
    engine = engine_of(tmp_path / "some.db", journal_mode=journal_mode)
    with sqlite_kept_open():
        assert asked(engine, "PRAGMA synchronous") == meanwhile


def test_other_databases_are_not_asked(tmp_path: Path) -> None:
    class Other:
        """A connection of another database."""

    with sqlite_kept_open():
        engine = create_engine("sqlite://", creator=Other, poolclass=NullPool, _initialize=False)
        assert isinstance(engine.raw_connection().dbapi_connection, Other)


def test_each_event_log_has_one_engine_meanwhile(tmp_path: Path) -> None:
    module: Any = sqlite_event_log
    made = module.create_engine
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "other")]
    with event_log_engines_kept():
        of_urls = [[module.create_engine(url, poolclass=NullPool) for _ in range(2)] for url in urls]
    (one, again), (other, _) = of_urls
    assert one is again
    assert (str(one.url), str(other.url)) == tuple(urls)
    assert module.create_engine is made

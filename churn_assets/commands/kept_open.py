"""Dagster's SQLite files and their engines are kept while a run goes on."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from unittest.mock import patch

from dagster._core.storage.event_log.sqlite import sqlite_event_log
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine


@contextmanager
def sqlite_kept_open() -> Iterator[None]:
    """Each SQLite file in WAL mode that is connected to meanwhile is kept open to the end.

    Dagster (1.13) connects for each event anew. Whoever is the last to close such a file writes all of its log back,
    waits twice for the disk and deletes the log: most of what an event takes. What is committed waits for the disk when
    the log is written back (synchronous = NORMAL), as Delta's local files do not at all: a loss of power, and nothing
    else, may take the last events with it, and never leaves a broken file.
    """
    with ExitStack() as kept:
        files: set[str] = set()

        def keep(connection: Any, _: Any) -> None:
            if not isinstance(connection, sqlite3.Connection):
                return
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                return
            connection.execute("PRAGMA synchronous = NORMAL")
            (_, _, file), *_others = connection.execute("PRAGMA database_list")
            if file not in files:
                files.add(file)
                # Closed by the thread that ends the run.
                another = kept.enter_context(closing(sqlite3.connect(file, check_same_thread=False)))
                # Open from the first question on; what is read to its end holds no log back.
                another.execute("SELECT count(*) FROM sqlite_master").fetchall()

        event.listen(Engine, "connect", keep)
        kept.callback(event.remove, Engine, "connect", keep)
        yield


@contextmanager
def event_log_engines_kept() -> Iterator[None]:
    """Each event log in SQLite has one engine meanwhile.

    Dagster (1.13) makes one for each connection, and every engine compiles its statements anew.
    """
    engines: dict[str, Engine] = {}

    def kept(url: str, **options: Any) -> Engine:
        if url not in engines:
            engines[url] = create_engine(url, **options)
        return engines[url]

    with patch.object(sqlite_event_log, "create_engine", kept):
        yield

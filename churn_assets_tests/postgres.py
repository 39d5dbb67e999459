"""A real Postgres server on a free port of this machine, which a test stops and starts."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import NullPool, create_engine, text

from churn_assets_tests.processes import free_port

ADVICE = "Postgres is missing. Next step: make postgres, or put its initdb and pg_ctl on the PATH"
PASSWORD = "p4ss/word"


@dataclass(frozen=True)
class Postgres:
    """A server with its data under `folder`; `programs`: the folder of initdb and pg_ctl."""

    programs: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """With the driver: a bare postgresql:// means psycopg 3 to SQLAlchemy 2.1."""
        password = PASSWORD.replace("/", "%2F")
        return f"postgresql+psycopg2://churn:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        quick = "-c fsync=off -c unix_socket_directories=''"
        self._type("pg_ctl", "start", "-w", "-o", f"-h 127.0.0.1 -p {self.port} {quick}", "-l", f"{self.folder}/log")

    def stop(self) -> None:
        """As if its machine failed: nobody is waited for, and every connection breaks."""
        self._type("pg_ctl", "stop", "-m", "immediate", "-w")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def make(self, *databases: str) -> None:
        (self.folder / "password").write_text(PASSWORD, encoding="utf-8")
        self._type("initdb", "-U", "churn", "-A", "scram-sha-256", "--pwfile", f"{self.folder}/password", "--no-sync")
        self.start()
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for database in databases:
                connection.execute(text(f"CREATE DATABASE {database}"))

    def _type(self, program: str, *arguments: str) -> None:
        # It refuses to run as root; Debian's package has a user for it.
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            [str(self.programs / program), *arguments, "-D", f"{self.folder}/data"],
            user=user,
            cwd=self.folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def programs() -> Path | None:
    """Where Postgres' programs are, on the PATH or where Debian has them; None without."""
    found = [Path(path).resolve().parent] if (path := shutil.which("initdb")) else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


@contextmanager
def running(place: Path, *databases: str) -> Iterator[Postgres]:
    """A server with empty databases; it and its data are gone afterwards."""
    # Not below a test's own folder, which only this user may enter.
    folder = Path(mkdtemp(prefix="churn-postgres-"))
    server = Postgres(place, folder, free_port())
    try:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        server.make(*databases)
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)

"""The classes that Spark loads, archived once, so that a local JVM need not read and verify them at every start.

Java's own class-data sharing (docs/decisions/0018). The JVM itself refuses an archive that another Java or other jars
made, and goes without.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import psutil
import pyspark

from churn_assets.resources.settings import Settings, engine_of

# It belongs to the Spark of this Python, and goes with it.
FOLDER = Path(sys.prefix) / "share" / "churn_assets"
WRITING_SECONDS = 180.0


def class_archive() -> Path | None:
    """Where the archive of this Python's Spark under this machine's Java lies, or would lie; None without a Java."""
    home = os.environ.get("JAVA_HOME")
    command = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if command is None:
        return None
    java, jars = Path(command).resolve(), Path(pyspark.__file__).parent / "jars"
    made_of = [f"{each} {each.stat().st_mtime_ns}" for each in (java, jars) if each.exists()]
    return FOLDER / f"spark-{hashlib.sha256(' '.join(made_of).encode()).hexdigest()[:16]}.jsa"


def using_options() -> str:
    """The options of a JVM that uses the archive; none if there is no archive."""
    archive = class_archive()
    if archive is None or not archive.exists():
        return ""
    return f'"-XX:SharedArchiveFile={archive}" -Xlog:cds*=off'


class Recording:
    """One process's JVM, started with `options`, as the source of the archive: it is written when the JVM ends."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self.unfinished = archive.with_name(f"{archive.stem}.{os.getpid()}.unfinished")

    @property
    def options(self) -> str:
        return f'"-XX:ArchiveClassesAtExit={self.unfinished}" -Xlog:cds*=off'

    def keep(self) -> bool:
        """Ends the JVM, which takes it some seconds, and keeps what it wrote, if it wrote all; any other goes."""
        jvms = self._jvms()
        for jvm in jvms:
            jvm.terminate()
        psutil.wait_procs(jvms, WRITING_SECONDS)
        is_whole = _is_whole(self.unfinished)
        if is_whole:
            self.unfinished.replace(self._archive)
            for other in self._archive.parent.glob("*.jsa"):
                if other != self._archive:
                    other.unlink(missing_ok=True)
        return is_whole

    def drop(self) -> None:
        """Ends the JVM at once, unless `keep` has, and leaves nothing unfinished."""
        jvms = self._jvms()
        for jvm in jvms:
            jvm.kill()
        psutil.wait_procs(jvms)
        self.unfinished.unlink(missing_ok=True)

    def _jvms(self) -> list[psutil.Process]:
        option = f"-XX:ArchiveClassesAtExit={self.unfinished}"
        return [child for child in psutil.Process().children() if option in _arguments(child)]


def _is_whole(archive: Path) -> bool:
    """Whether the JVM wrote all of it: what identifies an archive, at its beginning, it writes last."""
    if not archive.exists():
        return False
    with archive.open("rb") as file:
        return any(file.read(4))


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return []


def begun_recording(settings: Settings) -> Recording | None:
    """A recording, if this process is to make one: the JVM is local, and there is a place and no archive yet."""
    archive = class_archive()
    if engine_of(settings).name != "local" or archive is None or archive.exists():
        return None
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Recording(archive) if os.access(archive.parent, os.W_OK) else None

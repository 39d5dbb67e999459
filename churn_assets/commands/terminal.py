"""The terminal of a command: people see what is written for them, and a log file takes all that libraries print."""

import atexit
import locale
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from churn_assets.churn.plain_text import without_controls

DONE, FAILED, UNEVALUATED, INTERRUPTED = 0, 1, 2, 130  # 130 is what shells say after Ctrl-C


class _Terminal(TextIOWrapper):
    """Lines to a descriptor, without what controls a terminal; to nobody once nobody reads any more, as of `| head`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(
            os.fdopen(descriptor, "wb"), encoding=locale.getencoding(), errors="replace", line_buffering=True
        )

    def write(self, text: str) -> int:
        try:
            return super().write(without_controls(text, but="\n"))
        except BrokenPipeError:
            write_to_nobody(self.fileno())
            return len(text)


def write_to_nobody(descriptor: int) -> None:
    """What is written to the descriptor from now on is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def show(text: str) -> None:
    """Prints for whoever reads; nobody has to read to the end."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        write_to_nobody(sys.stdout.fileno())


def silence_at_exit(log: Path) -> None:
    """What libraries print while the process ends goes to `log`: whoever has read the last line has read all."""

    def silence() -> None:
        with suppress(OSError):
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(descriptor, stream)

    # The last that is registered is called first.
    atexit.register(silence)


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Sends everything this process and its children print to `log`; yields the terminal it hides.

    Descriptors are moved, not Python's streams, because the JVM writes to the descriptors. What the terminal is sent
    only shows characters: text from data cannot move its cursor or write over what was said.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as sink, _Terminal(os.dup(1)) as terminal:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield terminal
        finally:
            # On a full disk neither can be; the terminal is given back all the same.
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)

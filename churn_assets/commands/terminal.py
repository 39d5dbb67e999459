"""The terminal of a command: people see what is written for them, and a log file takes all that libraries print."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

DONE, FAILED, UNEVALUATED, INTERRUPTED = 0, 1, 2, 130  # 130 is what shells say after Ctrl-C


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Sends everything this process and its children print to `log`; yields the terminal it hides.

    Descriptors are moved, not Python's streams, because the JVM writes to the descriptors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as sink, os.fdopen(os.dup(1), "w", buffering=1) as terminal:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)

"""Sail's Spark Connect server in this process: started when first asked for, and gone with the process.

Nothing has to stop it: it is threads of this process, and `server.stop()` would wait for sessions that are still open.
"""

import os
from threading import Lock

# A year: a fit, or whoever looks at a page, may ask nothing of a session for long. Sail ends one after 15 idle minutes
# unless it is told, and every later query fails (pysail 0.7.2).
IDLE_SECONDS = 365 * 24 * 60 * 60
_ONE_AT_A_TIME = Lock()
_SERVERS: dict[int, str] = {}


def sail_address(memory_bytes: int) -> str:
    """The address of this process's server, which uses at most about so many bytes for its queries' state.

    Beyond them a query ends in an error. The limit of the first call holds for the process.
    """
    with _ONE_AT_A_TIME:
        process = os.getpid()
        # A forked child inherits this module's state but not the server's threads.
        if process not in _SERVERS:
            _SERVERS[process] = _started(memory_bytes)
        return _SERVERS[process]


def _started(memory_bytes: int) -> str:
    # Read by its Rust side when the module is loaded. Of itself its pool has no limit, and it skips files and answers
    # `max` by bounds that leave NaN out, in silence (pysail 0.7.2): bounds are neither gathered nor used.
    os.environ |= {
        "SAIL_RUNTIME__MEMORY_POOL__TYPE": "greedy",
        "SAIL_RUNTIME__MEMORY_POOL__GREEDY__MAX_SIZE": str(memory_bytes),
        "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(IDLE_SECONDS),
        "SAIL_EXECUTION__COLLECT_STATISTICS": "false",
        "SAIL_PARQUET__PRUNING": "false",
        "SAIL_PARQUET__ENABLE_PAGE_INDEX": "false",
    }
    os.environ.setdefault("RUST_LOG", "error")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    host, port = server.listening_address
    # Kept for as long as the process lives: its end would end the server.
    _KEPT.append(server)
    return f"sc://{host}:{port}"


_KEPT: list[object] = []

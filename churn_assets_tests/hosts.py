"""Hosts of their own on this machine: each with its own network, mounts and processes, and one cable to a switch.

What a host writes no other sees: the root is read-only there, and the folders for temporary files are its own. From
outside nothing reaches it, nor it anything outside. All of it is in namespaces without names, which end with the
processes that hold them: on this machine's own network there is nothing to remove, even after a kill.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from churn_assets_tests.processes import CHECKOUT

NETWORK = "10.77.0"
TOOLS = ("ip", "unshare", "nsenter")
OWN = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")
ADVICE = "no hosts of their own can be made here: {}. Next step: install util-linux and iproute2, and let this "
ADVICE += "user make namespaces (a container needs `unshare --user --net --mount --pid`)"


@dataclass(frozen=True)
class Host:
    """address: on the network of the test alone. holder: the process that the namespaces end with."""

    address: str
    holder: int

    @property
    def within(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("nsenter", f"--target={self.holder}", "--user", "--net", "--mount", "--pid", "--")

    def write(self, file: Path, text: str) -> None:
        _done(*self.within, "sh", "-c", f"mkdir -p '{file.parent}' && cat > '{file}'", told=text)


@dataclass(frozen=True)
class Switch:
    """A bridge with a port for each host, in namespaces of its own."""

    holder: int

    @property
    def within(self) -> tuple[str, ...]:
        """What a command begins with that is to run in its network, with this machine's own files."""
        return ("nsenter", f"--target={self.holder}", "--user", "--net", "--")

    def cut(self, host: Host) -> None:
        """Nothing reaches the host any more, nor anything from it; nobody is told."""
        _done(*self.within, "ip", "link", "set", _port(host), "down")

    def mend(self, host: Host) -> None:
        _done(*self.within, "ip", "link", "set", _port(host), "up")


@contextmanager
def switched(count: int, folder: Path) -> Iterator[tuple[Switch, list[Host]]]:
    """A switch and so many hosts, each with an empty `folder`; what runs on them ends with the context.

    Skips, in CI too, where this machine does not let its user make them: a container often has no right to.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(ADVICE.format(f"{', '.join(missing)} cannot be found"))
    tried = (*OWN, "--user", "--map-root-user", "ip", "link", "add", "type", "bridge")
    refused = subprocess.run(tried, capture_output=True, text=True, check=False)
    if refused.returncode != 0:
        pytest.skip(ADVICE.format(refused.stderr.strip()))
    with ExitStack() as stack:
        switch = Switch(stack.enter_context(_held(*OWN, "--user", "--map-root-user", prepared="true")))
        _done(*switch.within, "ip", "link", "add", "bridge", "type", "bridge")
        _done(*switch.within, "ip", "address", "add", f"{NETWORK}.1/24", "dev", "bridge")
        _done(*switch.within, "ip", "link", "set", "bridge", "up")
        hosts = []
        for number in range(2, 2 + count):
            holder = stack.enter_context(_held(*switch.within, *OWN, prepared=_mounts(folder)))
            host = Host(f"{NETWORK}.{number}", holder)
            network = (*switch.within, "ip", "link")
            _done(*network, "add", _port(host), "type", "veth", "peer", "name", "eth0", "netns", str(holder))
            _done(*network, "set", _port(host), "master", "bridge", "up")
            for settings in (f"address add {host.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
                _done(*host.within, "ip", *settings.split())
            hosts.append(host)
        yield switch, hosts


def _mounts(folder: Path) -> str:
    """The words that make the mounts of a host: all is read-only but what is its own."""
    own = [f"cd '{CHECKOUT}'", *(f"mount -t tmpfs tmpfs {place}" for place in PRIVATE)]
    # Either may lie in one of these; the shell is still in the checkout that the mount has hidden.
    own += [f"mkdir -p '{folder}' '{CHECKOUT}'", f"mount -t tmpfs tmpfs '{folder}'"]
    own += [f"mount --no-canonicalize --bind . '{CHECKOUT}'", f"mount -o remount,bind,ro '{CHECKOUT}'"]
    return " && ".join([*own, "mount -o remount,bind,ro /"])


def _port(host: Host) -> str:
    return f"port{host.address.rpartition('.')[2]}"


@contextmanager
def _held(*command: str, prepared: str) -> Iterator[int]:
    """The process that holds the namespaces made by `command`; it ends when its input does, so with this process."""
    # What is left by its parent there is this process's child, which takes no notice of it: then none stays a zombie.
    words = (*command, "sh", "-c", f"{prepared} && echo ready && exec env --ignore-signal=CHLD cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdin is not None
        assert made.stdout is not None
        try:
            assert made.stdout.readline() == "ready\n"
            (holder,) = psutil.Process(made.pid).children()
            yield holder.pid
        finally:
            made.stdin.close()


def _done(*command: str, told: str = "") -> None:
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

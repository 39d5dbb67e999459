"""What the tests on hosts of their own stand on: that these share nothing, and can be cut off."""

import subprocess
import sys
from pathlib import Path

import pytest

from churn_assets_tests.hosts import Host, switched
from churn_assets_tests.processes import CHECKOUT, wait_for

pytestmark = pytest.mark.system


def test_a_host_sees_no_file_of_another_and_reaches_it_until_it_is_cut_off(tmp_path: Path) -> None:
    with switched(2, tmp_path) as (switch, (one, other)):
        own = tmp_path / "deeper" / "file"
        one.write(own, "of one")
        assert said(one, "cat", str(own)) == "of one"
        assert not own.exists()
        for place in (str(own), "/tmp/file", "/var/tmp/file"):
            said(one, "tee", place)
            assert "No such file" in said(other, "cat", place)
        for place in ("/file", f"{CHECKOUT}/file"):
            assert "Read-only file system" in said(one, "touch", place)
        # With nobody at the port: the host itself refuses.
        ask = f"import socket; socket.create_connection(('{other.address}', 9), timeout=2)"
        reach = (sys.executable, "-c", ask)
        assert "ConnectionRefusedError" in said(one, *reach)
        switch.cut(other)
        assert "ConnectionRefusedError" not in said(one, *reach)
        switch.mend(other)
        assert "ConnectionRefusedError" in said(one, *reach)
        namespaces = {Path(f"/proc/{host.holder}/ns/net").readlink() for host in (one, other)}
        assert len(namespaces | {Path("/proc/self/ns/net").readlink()}) == 3
        orphan = said(one, "sh", "-c", "(sleep 0.1 & echo $!)").strip()
        gone = f"/proc/{orphan}/stat"
        wait_for("the end of what nobody waits for", lambda: said(one, "ls", gone) != f"{gone}\n")
    assert not Path(f"/proc/{one.holder}").exists()


def said(host: Host, *command: str) -> str:
    done = subprocess.run(
        [*host.within, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr

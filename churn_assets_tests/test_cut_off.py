"""Hosts that share no disk: a driver, a master, two workers and a store, one worker cut off in a stage and in a fit."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from churn_assets.defs.features import PANEL
from churn_assets_tests.clusters import EVENTS, IMPATIENT, PROPERTIES, cluster_on, environ_on, jars_of, running
from churn_assets_tests.conftest import DEMO_TABLES, TABLES, TINY_DEMO, TINY_POLICY, Project
from churn_assets_tests.driving_on_hosts import LEARNING, PREPARED, TOLD
from churn_assets_tests.hosts import Host, Switch, switched
from churn_assets_tests.object_store import Server, serving
from churn_assets_tests.processes import PATIENCE_SECONDS
from churn_assets_tests.test_cluster import sorted_rows, tables
from churn_assets_tests.test_spark_on_object_store import PACKAGES

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("java")]

ROOT = "s3://of-hosts"
# What a program with this machine's files says in the network of the switch.
BUCKET = "import sys; from pyarrow.fs import FileSystem as F; F.from_uri(sys.argv[1])[0].create_dir(sys.argv[2])"
COPY = "import sys; from pyarrow.fs import copy_files; copy_files(*sys.argv[1:])"
S3A = """
spark.eventLog.dir {events}
spark.jars {jars}
spark.hadoop.fs.s3a.endpoint {endpoint}
spark.hadoop.fs.s3a.path.style.access true
"""


@dataclass(frozen=True)
class Network:
    """What the test itself does between the hosts. own: the folder that each host has one of. logs: this machine's."""

    switch: Switch
    store: Server
    own: Path
    logs: Path

    def asks(self, words: str, *arguments: str) -> None:
        command = (*self.switch.within, sys.executable, "-c", words, *arguments)
        subprocess.run(command, env=self.store.environment, check=True)

    def told(self, name: str) -> dict[str, Any]:
        """What the program that ended last told."""
        (self.logs / name).mkdir()
        self.asks(COPY, f"{ROOT}/{TOLD}", str(self.logs / name))
        found: dict[str, Any] = json.loads((self.logs / name / "found").read_text(encoding="utf-8"))
        return found

    @contextmanager
    def drives(self, what: str, host: Host, master: str) -> Iterator[subprocess.Popen[bytes]]:
        """The program of `driving_on_hosts`, which ends well."""
        environ = environ_on(host, self.own) | self.store.environment
        environ |= {
            "SPARK_MASTER": master,
            "SPARK_DRIVER_MEMORY": "1g",
            "CHURN_PROJECT": str(self.own / "project"),
            "CHURN_LAKEHOUSE": f"{ROOT}/lake",
            "CHURN_ARTIFACTS": f"{ROOT}/artifacts",
        }
        log = self.logs / f"{what}.log"
        words = (*host.within, sys.executable, "-m", "churn_assets_tests.driving_on_hosts", what)
        with running(log, *words, environ=environ) as process:
            yield process
            process.wait(PATIENCE_SECONDS)
        assert process.returncode == 0, log.read_text(encoding="utf-8")[-8000:]


@dataclass(frozen=True)
class Driven:
    """cut, again: what the programs told. project: the tables, copied to this machine."""

    cut: Mapping[str, Any]
    again: Mapping[str, Any]
    project: Project


@pytest.fixture(scope="module")
def driven(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Driven:
    logs = tmp_path_factory.mktemp("hosts")
    own = logs / "own"
    own.mkdir()
    jars = jars_of(PACKAGES, own)
    with ExitStack() as stack:
        switch, (storing, mastering, one, other, driver) = stack.enter_context(switched(5, own))
        store = stack.enter_context(serving(storing.within, storing.address))
        network = Network(switch, store, own, logs)
        network.asks(BUCKET, f"{ROOT}?allow_bucket_creation=true", ROOT.removeprefix("s3://"))
        for name in DEMO_TABLES:
            network.asks(COPY, built.lakehouse.path(f"demo/{name}"), f"{ROOT}/demo/{name}")
        endpoint = store.environment["AWS_ENDPOINT_URL"]
        places = S3A.format(events=(own / EVENTS).as_uri(), jars=jars, endpoint=endpoint)
        driver.write(own / "spark-defaults.conf", PROPERTIES + IMPATIENT + places)
        master = stack.enter_context(cluster_on(mastering, (one, other), own, logs))
        with network.drives("cut", driver, master) as process:
            cut = _cut_off((one, other), driver, network, process)
        found = network.told("cut")
        switch.mend(cut)
        with network.drives("again", driver, master):
            pass
        project = Project.create(logs / "copied", policy=TINY_POLICY, sources=TINY_DEMO)
        network.asks(COPY, f"{ROOT}/lake", project.settings.lakehouse)
        return Driven(found, network.told("again"), project)


def _cut_off(workers: tuple[Host, Host], driver: Host, network: Network, driving: "subprocess.Popen[bytes]") -> Host:
    """Cuts a worker off in the middle of the panel and of the second fit, and gives it back in between; which."""
    switch, store = network.switch, network.store
    store.hold(f"{PANEL}/", *(worker.address for worker in workers))
    writing = store.wait_until_held(driving)
    (worker,) = (worker for worker in workers if worker.address == writing)
    switch.cut(worker)
    store.hold(PREPARED, driver.address)
    store.wait_until_held(driving)
    switch.mend(worker)
    store.hold(LEARNING, driver.address)
    # What it was writing comes now, with the table made without it.
    store.go_on()
    store.wait_until_held(driving)
    switch.cut(worker)
    store.go_on()
    return worker


def test_the_flow_ends_right_though_a_worker_is_cut_off_in_the_middle_of_the_panel(
    built: Project, driven: Driven
) -> None:
    assert driven.cut["prepared"] == []
    ours, theirs = tables(built), tables(driven.project)
    for table in TABLES[:-1]:
        assert theirs[table].schema == ours[table].schema, table
        assert sorted_rows(theirs[table]) == sorted_rows(ours[table]), table


def test_a_fit_fails_closed_where_a_worker_is_cut_off_and_the_next_is_as_one_without_a_cut(driven: Driven) -> None:
    whole, cut, again = driven.cut["whole"], driven.cut["cut"], driven.again
    assert (whole["causes"], again["causes"]) == ([], [])
    assert len(cut["causes"]) == 1
    assert cut["digest"] is None
    assert again["digest"] == whole["digest"] is not None
    assert cut["runs"] == ["FAILED", "FINISHED"]
    assert again["runs"] == ["FINISHED", "FAILED", "FINISHED"]
    assert {each["tables"] for each in (whole, cut, again)} == {"as before"}
    # The cuts hit what they were to hit.
    assert again["lost"] >= 2
    assert [bool(why) for why in again["fits"]][:2] == [False, True]

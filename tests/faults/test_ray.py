"""A study on a Ray cluster whose nodes go and come: nothing is lost, and nothing counts as a failure."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults.bench import Bench, alive
from tests.faults.nodes import make_bench
from tests.ray_cluster import add_node, missing, ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture
def cluster() -> Iterator[object]:
    if reason := missing():
        pytest.skip(reason)
    with ray_cluster(nodes=1) as running:
        yield running


WAITING = """
import sys, ray
from ray._private.state import actors
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(actor["State"] not in ("ALIVE", "DEAD") for actor in actors().values()))
"""


def waiting(address: str) -> int:
    """Returns how many actors of a cluster wait for a place; asked by a process of its own."""
    asked = subprocess.run(
        [sys.executable, "-c", WAITING, address], capture_output=True, text=True, check=True, timeout=100
    )
    return int(asked.stdout.split()[-1])


def exits(bench: Bench) -> list[str]:
    """Returns what was said of workers that went."""
    events = [
        json.loads(line)
        for line in (bench.folder / "driver-0.out").read_text().splitlines()
        if line[:1] == "{"
    ]
    return [event["text"] for event in events if event["event"] == "worker" and event["kind"] == "exit"]


def test_a_node_that_goes_costs_an_epoch_and_one_that_comes_is_used(cluster, tmp_path):
    """Three workers want a place and there are two: the third waits for a node, then the first node dies."""
    bench = make_bench(
        tmp_path, cluster.address, "nodes", trials=8, workers=3, seconds=0.8
    )  # a node takes long to come
    try:
        first = next(iter(cluster.worker_nodes))
        driver = bench.start()
        bench.wait_for(lambda: len(bench.lines()) > 2, "epochs")
        out = bench.folder / "driver-0.out"
        bench.wait_for(lambda: "queued: Ray has no room for 1 CPU yet" in out.read_text(), "the third waits")
        before = {line["pid"] for line in bench.lines()}
        assert len(before) <= 2
        add_node(cluster)
        bench.wait_for(
            lambda: bool({line["pid"] for line in bench.lines() if alive(line["pid"])} - before), "a third"
        )
        cluster.remove_node(first, allow_graceful=False)  # Ray is not told
        assert driver.wait(timeout=300) == 0, bench.output()
        said = {text for text in exits(bench) if "is not needed" not in text}
        assert said, "nobody was there"
        assert said <= {"its Ray node has gone", "its Ray node cannot be reached"}, said
        bench.check(faults=2)
    finally:
        bench.end()


def test_two_studies_share_a_cluster_and_one_whose_driver_is_killed_leaves_its_places(cluster, tmp_path):
    """Also those that it was queued for. They share a database, and looks show both."""
    url = f"sqlite:///{tmp_path}/s.db"
    one, other = (
        make_bench(tmp_path, cluster.address, name, trials, workers, storage=url, seconds=0.4)
        for name, trials, workers in (("one", 3, 3), ("other", 8, 1))
    )
    try:
        driver = other.start()
        other.wait_for(lambda: len(other.lines()) > 1, "epochs")
        killed = one.start()
        one.wait_for(lambda: len(one.lines()) > 1, "epochs")
        listed = one.look("list")
        assert {row["name"] for row in listed} == {"one", "other"}
        for bench, pid in ((one, killed.pid), (other, driver.pid)):
            shown = bench.look("status", bench.name)
            assert shown["row"]["name"] == bench.name
            assert [each["pid"] for each in shown["drivers"]] == [pid]
        one.wait_for(
            lambda: "queued: Ray has no room" in (one.folder / "driver-0.out").read_text(), "a queue"
        )
        assert waiting(cluster.address) > 0
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        one.wait_for(lambda: not one.living(), "its worker gone", 60)
        one.wait_for(lambda: waiting(cluster.address) == 0, "what it was queued for gone", 60)
        assert driver.wait(timeout=200) == 0, other.output()
        other.check(faults=0)
        one.finish()
        one.check(faults=1)
    finally:
        one.end()
        other.end()


def test_no_more_places_are_asked_for_than_trials_are_left(cluster, tmp_path):
    """There is room for two: the third of three workers waits, until only the trials of the first two are left."""
    bench = make_bench(tmp_path, cluster.address, "few", trials=3, workers=5)
    try:
        assert bench.start().wait(timeout=200) == 0, bench.output()
        out = (bench.folder / "driver-0.out").read_text()
        assert '"worker": 2' in out
        assert '"worker": 3' not in out, "there are three trials"
        assert "is not needed: there are fewer trials left than workers" in exits(bench)
        bench.check(faults=0)
    finally:
        bench.end()

"""A study on a Ray cluster whose nodes go and come: nothing is lost, and nothing counts as a failure."""

import json
import os
import signal
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
        cluster.remove_node(first)
        assert driver.wait(timeout=300) == 0, bench.output()
        assert set(exits(bench)) >= {"its node of Ray has gone"}, exits(bench)
        bench.check(faults=2)
    finally:
        bench.end()


def test_two_studies_share_a_cluster_and_one_whose_driver_is_killed_leaves_its_places(cluster, tmp_path):
    one, other = (
        make_bench(tmp_path, cluster.address, name, trials=2, workers=1) for name in ("one", "other")
    )
    try:
        killed, driver = one.start(), other.start()
        one.wait_for(lambda: len(one.lines()) > 1, "epochs")
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        one.wait_for(lambda: not one.living(), "its worker gone", 60)
        assert driver.wait(timeout=200) == 0, other.output()
        other.check(faults=0)
        one.finish()
        one.check(faults=1)
    finally:
        one.end()
        other.end()

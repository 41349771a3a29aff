"""A Ray cluster of several nodes on this machine, whose GPUs are only numbers."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

LIGHT = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.2"}
"""Ray takes 127.0.0.1 for a name of the machine's own address, and would listen there."""

CPUS = 2  # of a node, each of which also has a GPU
TRIES = 4  # a node's agents have 15 s to start, which a busy machine exceeds now and then


def missing() -> str:
    """Returns why there can be no Ray here; "" if there can."""
    return "" if importlib.util.find_spec("ray") else "Ray is not installed"


@contextlib.contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[Any]:
    """Runs a cluster whose head has no room for workers."""
    from ray.cluster_utils import Cluster

    # Not 15, by which a busy machine starves its workers for minutes.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    cluster = Cluster()
    try:
        _started(lambda: cluster.add_node(num_cpus=0, include_dashboard=False, **LIGHT))
        for _ in range(nodes):
            add_node(cluster)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """Adds a node with room for two workers."""
    return _started(lambda: cluster.add_node(num_cpus=CPUS, num_gpus=1, **LIGHT))


def _started(start: Callable[[], Any]) -> Any:
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):  # Ray raises no kind of its own when a node does not come up
            return start()
    return start()


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connects this process: a driver's own connection would end with the first of several executors."""
    import ray

    ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()

"""A Ray cluster of several nodes on this machine, whose GPUs are only numbers."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

LIGHT = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.2"}
CPUS = 2  # of a node, each of which also has a GPU


def missing() -> str:
    """Returns why there can be no Ray here; "" if there can."""
    return "" if importlib.util.find_spec("ray") else "Ray is not installed"


@contextlib.contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[Any]:
    """Runs a cluster whose head has no room for workers."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **LIGHT}
    )
    try:
        for _ in range(nodes):
            add_node(cluster)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """Adds a node with room for two workers."""
    return cluster.add_node(num_cpus=CPUS, num_gpus=1, **LIGHT)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connects this process: a driver's own connection would end with the first of several executors."""
    import ray

    ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()

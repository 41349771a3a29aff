"""A study on a Ray cluster whose nodes are killed and replaced again and again: nothing is lost.

    python -m tests.faults.nodes [--trials 40] [--faults 25]

Each fault kills the node with the workers that train, with all of its processes at once; another one is added, for
Ray takes seconds to start a node, in which the workers of a second one would train the study to its end.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.bench import Bench, alive
from tests.ray_cluster import CPUS, add_node, ray_cluster


def make_bench(folder: Path, address: str, name: str, trials: int, workers: int, **values: Any) -> Bench:
    """Returns a study on Ray in which nothing may count as a failure twice."""
    flags = ("--executor", "ray", "--address", address, "--listen", "127.0.0.1", "--storage-timeout", "60")
    return Bench(folder / name, name, trials=trials, workers=workers, max_attempts=2, flags=flags, **values)


def storm(cluster: Any, bench: Bench, faults: int) -> int:
    """Kills so many nodes, as long as the study runs; returns how many it has killed."""
    driver = bench.start()
    done = 0
    while done < faults:
        bench.wait_for(lambda: bool(at_work(bench)) or driver.poll() is not None, "a worker that trains", 300)
        if driver.poll() is not None:
            break
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        done += 1
        bench.wait_for(lambda: not at_work(bench), "its workers gone")
        add_node(cluster)
    assert driver.wait(timeout=600) == 0, bench.output()
    return done


def at_work(bench: Bench) -> set[int]:
    """Returns the workers that have trained an epoch and live."""
    return {line["pid"] for line in bench.lines() if alive(line["pid"])}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--trials", type=int, default=40)
    options.add_argument("--faults", type=int, default=25)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_cluster(nodes=1) as cluster:
        begun = time.monotonic()
        bench = make_bench(Path(folder), cluster.address, "nodes", args.trials, workers=CPUS)
        try:
            killed = storm(cluster, bench, args.faults)
            counted = bench.check(faults=CPUS * killed)
        finally:
            bench.end()
        print(json.dumps({"nodes killed": killed, **counted, "seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()

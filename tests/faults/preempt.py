"""A study on a real Slurm whose jobs, nodes, controller and driver go at any moment: nothing is lost.

    python -m tests.faults.preempt [--trials 40] [--faults 100] [--jobs 4] [--seed 0]

Jobs are requeued, or told to leave by a signal, nodes go down and come back, the controller is restarted, and the
driver is killed. Faults hit jobs that train. What Slurm makes a requeued job wait (two minutes) is cut short.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.bench import Bench, alive
from tests.slurm import NODES, Slurm, slurm

KINDS = {"requeue": 12, "signal": 6, "node": 2, "controller": 1}
DRIVERS = 2  # how often the driver is killed in a whole run
CALM = 300.0  # seconds in which a study must go on after a fault


class Preemptions:
    """Faults of one Slurm for one study."""

    def __init__(self, cluster: Slurm, bench: Bench, seed: int = 0) -> None:
        self.cluster = cluster
        self.bench = bench
        self.chance = random.Random(seed)
        self.down: dict[str, set[int]] = {}  # nodes, and the workers that were there

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition; spares requeued jobs their wait, and brings nodes back that are empty."""
        deadline, poked = time.monotonic() + CALM, 0.0
        while not condition():
            assert time.monotonic() < deadline, (
                f"{what}: not within {CALM} s\n{self.cluster.jobs()}\n{self.bench.output()}"
            )
            if time.monotonic() - poked > 0.5:
                self.cluster.start_at_once()
                self.mend()
                poked = time.monotonic()
            time.sleep(0.02)

    def mend(self) -> None:
        """Brings back the nodes that are down, as soon as nothing is left on them."""
        nodes = {node for _, node in self.cluster.jobs().values()}
        for node, pids in list(self.down.items()):
            if node in nodes or any(map(alive, pids)):
                continue
            self.cluster.tell("scontrol", "update", f"nodename={node}", "state=idle", check=False)
            if "down" not in self.cluster.tell("sinfo", "-h", "-n", node, "-o", "%T", check=False):
                del self.down[node]

    def at_work(self) -> list[tuple[str, str]]:
        """Returns jobs, with their nodes, whose workers have trained an epoch."""
        jobs = {
            id: (state, node) for id, (state, node) in self.cluster.jobs().items() if node not in self.down
        }
        pids = {line["pid"] for line in self.bench.lines() if alive(line["pid"])}
        return sorted(
            {(id, jobs[id][1]) for pid in pids if (id := job_of(pid)) in jobs and jobs[id][0] == "RUNNING"}
        )

    def strike(self, kind: str) -> None:
        """Lets one fault loose, and waits until it has hit and an epoch is trained."""
        found: list[tuple[str, str]] = []

        def trains() -> bool:
            found[:] = self.at_work()
            return bool(found) or self.is_over()

        self.wait_for(trains, "a job that trains")
        if not found:
            return
        job, node = self.chance.choice(found)
        match kind:
            case "requeue":
                self.cluster.tell("scontrol", "requeue", job)
            case "signal":
                self.cluster.tell("scancel", "--batch", "--signal=TERM", job)
            case "node":
                on_node = {id for id, (_, n) in self.cluster.jobs().items() if n == node}
                there = {line["pid"] for line in self.bench.lines() if job_of(line["pid"]) in on_node}
                self.cluster.tell("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
                self.down[node] = there
            case "controller":
                self.cluster.stop_controller()
                self.cluster.start_controller()
            case "preempt":
                self.cluster.tell(
                    "sbatch", "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
                )
                self.wait_for(lambda: job not in self.cluster.running(), "it preempted")
        seen = len(self.bench.lines())
        self.wait_for(lambda: len(self.bench.lines()) > seen or self.is_over(), f"an epoch after {kind}")

    def is_over(self) -> bool:
        """Says whether the driver has ended."""
        return self.bench.drivers[-1].poll() is not None

    def finish(self) -> None:
        """Lets the study finish, and sees that nothing is left."""
        self.wait_for(self.is_over, "the end")
        assert self.bench.drivers[-1].returncode == 0, self.bench.output()
        assert self.cluster.jobs() == {}, "jobs are left"
        self.wait_for(lambda: not self.down, "the nodes")


def job_of(pid: int) -> str:
    """Returns the id of the job that a process belongs to."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return ""
    environ = dict(entry.partition("=")[::2] for entry in entries)
    return f"{environ.get('SLURM_ARRAY_JOB_ID')}_{environ.get('SLURM_ARRAY_TASK_ID')}"


def make_bench(folder: Path, trials: int, jobs: int, **values: Any) -> Bench:
    """Returns a study on Slurm in which nothing may count as a failure again and again."""
    flags = ("--executor", "slurm", "--storage-timeout", "60", *values.pop("flags", ()))
    return Bench(folder, trials=trials, workers=jobs, flags=flags, **{"max_attempts": 3, **values})


def storm(preemptions: Preemptions, faults: int, drivers: int) -> Counter[str]:
    """Lets so many faults loose; returns them by kind."""
    done: Counter[str] = Counter()
    bench, chance = preemptions.bench, preemptions.chance
    kills = {round(faults * (place + 1) / (drivers + 1)) for place in range(drivers)}
    bench.start(**preemptions.cluster.environ)
    while sum(done.values()) < faults and not preemptions.is_over():
        if sum(done.values()) in kills:
            kills.remove(sum(done.values()))
            preemptions.wait_for(lambda: bool(preemptions.at_work()) or preemptions.is_over(), "a job")
            if preemptions.is_over():
                break
            os.kill(bench.drivers[-1].pid, 9)
            bench.drivers[-1].wait()
            bench.start(**preemptions.cluster.environ)
            done["kill driver"] += 1
            continue
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "node" and len(preemptions.down) == NODES - 1:
            continue  # the last one stays
        preemptions.strike(kind)
        done[kind] += 1
    preemptions.finish()
    return done


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--trials", type=int, default=40)
    options.add_argument("--faults", type=int, default=100)
    options.add_argument("--jobs", type=int, default=4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--seconds",
        type=float,
        default=0.1,
        help="of an epoch; more, where a quick machine ends the study first",
    )
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, slurm() as cluster:
        begun = time.monotonic()
        bench = make_bench(Path(folder), args.trials, args.jobs, seconds=args.seconds)
        try:
            faults = storm(Preemptions(cluster, bench, args.seed), args.faults, DRIVERS)
            jobs = 4  # a node that goes down takes all of its jobs
            counted = bench.check(
                sum(faults.values()) + (jobs - 1) * faults["node"] + jobs * faults["kill driver"]
            )
        finally:
            bench.end()
        seconds = round(time.monotonic() - begun)
    print(json.dumps({"faults": sum(faults.values()), **faults, **counted, "seconds": seconds}))


if __name__ == "__main__":
    main()

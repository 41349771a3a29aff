"""A worker without torch that reports an epoch every so often and notes how long each decision took.

Run by `tests/benchmarks/driver.py` as the worker module. Environment: PULSE_SECONDS (between two results),
PULSE_LOG (folder for the latencies, for the seconds spent in training and between first and last trial, and
for the numbers of the trained trials).
"""

import json
import os
import random
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from hpsearch.contracts.messages import (
    Action,
    EndKind,
    EpochResult,
    Ready,
    Shutdown,
    TrialEnd,
    TrialRun,
    TrialStarted,
)


def train(pipe: Connection, run: TrialRun, pause: float, latencies: list[float]) -> bool:
    """Plays one trial; returns whether the driver has said Shutdown."""
    pipe.send(TrialStarted(run.number, run.attempt))
    epochs = run.spec.train.epochs
    level = random.Random(run.number).uniform(0.1, 2)
    for epoch in range(1, epochs + 1):
        time.sleep(pause * random.uniform(0.9, 1.1))
        metrics = {"train_loss": level + 1 / epoch, "val_loss": level + 1 / epoch}
        sent = time.perf_counter()
        pipe.send(EpochResult(run.number, run.attempt, epoch, metrics, seconds=pause, last=epoch == epochs))
        decision = pipe.recv()
        latencies.append(time.perf_counter() - sent)
        if isinstance(decision, Shutdown):
            return True
        if decision.action is not Action.CONTINUE or epoch == epochs:
            kind = EndKind.PREEMPTED if decision.action is Action.PREEMPT else EndKind.FINISHED
            if kind is EndKind.FINISHED:
                note(run.number)
            pipe.send(TrialEnd(run.number, run.attempt, kind))
            return False
    return False


def note(number: int) -> None:
    """Appends the number of a trained trial to this worker's part of the ground truth."""
    with Path(os.environ["PULSE_LOG"], f"trained-{os.getpid()}.txt").open("a") as file:
        file.write(f"{number}\n")


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    pause = float(os.environ["PULSE_SECONDS"])
    setup = pipe.recv()
    latencies: list[float] = []
    begun = ended = 0.0
    pipe.send(Ready(setup.worker, os.getpid(), "cpu", {}, None, 0.0))
    try:
        while True:
            message = pipe.recv()
            begun = begun or time.perf_counter()
            if isinstance(message, Shutdown) or train(pipe, message, pause, latencies):
                break
            ended = time.perf_counter()
    except EOFError:
        pass
    finally:
        log = Path(os.environ["PULSE_LOG"])
        (log / f"{setup.worker}.json").write_text(json.dumps(latencies))
        if ended:
            (log / f"{setup.worker}.spent").write_text(json.dumps([len(latencies) * pause, ended - begun]))


if __name__ == "__main__":
    main()

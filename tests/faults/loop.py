"""A training function that writes the ground truth: one fsynced line per trained epoch.

Its loss depends on all epochs before (through the state that it saves and restores) and on the epoch's own
random numbers, so that a wrong resume shows in the losses.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import torch


def train(trial):
    """Trains nothing, slowly, and reports a falling loss."""
    state = trial.restored["state"] if trial.restored else torch.zeros(())
    for epoch in trial.remaining():
        time.sleep(trial["seconds"])
        state = 0.9 * state + torch.rand(())
        level = abs(torch.log10(torch.tensor(trial.learning_rate)).item() + 2)
        loss = level + 3.0 / epoch + 0.01 * state.item()
        note(trial, epoch, loss)
        trial.save({"state": state}, state=state)
        yield {"train_loss": loss, "val_loss": loss}


def too_long_once(trial):
    """Trains like `train`, but the third epoch of the first attempt fits into no time limit."""
    for epoch, result in enumerate(train(trial), 1):
        yield result
        if (trial.attempt, epoch) == (1, 2):
            time.sleep(3600)


def kill_the_driver(trial):
    """Trains like `train`, but the second trial takes its driver with it, each time before its first epoch."""
    if trial.number == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # the worker leaves when it sees its driver gone
    yield from train(trial)


def with_a_child(trial):
    """Trains like `train`, with a process of its own beside it; the log's first line has its id."""
    child = subprocess.Popen(["sleep", "600"])
    line = {"pid": child.pid, "driver": os.getppid(), "child": True}
    with Path(trial["log"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    yield from train(trial)


def note(trial, epoch, loss):
    """Appends one line to the log and waits until it is on the disk."""
    line = {
        "trial": trial.number, "attempt": trial.attempt, "epoch": epoch, "loss": loss,
        "pid": os.getpid(), "driver": os.getppid(), "time": time.time(),
    }  # fmt: skip
    with Path(trial["log"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())

"""What the fault tests share: studies with a ground-truth log, drivers as real processes, and the comparison."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from hpsearch.__main__ import run as command
from tests.databases import stored_trials

ROOT = Path(__file__).parents[2]
START = 120.0  # seconds in which a driver must have trained its first epoch, on a busy machine

STUDY = """
[study]
name = "{name}"
trials = {trials}
max_attempts = {max_attempts}
grace = "{grace}"
stall_timeout = "{stall_timeout}"

[train]
function = "tests.faults.loop:{function}"
epochs = {epochs}

[function]
log = "{log}"
seconds = {seconds}

[search]
learning_rate = {{ low = 1e-4, high = 1.0, log = true }}

[early_stopping]
criterion = "none"

[sampler]
name = "random"
"""


@dataclass
class Bench:
    """A study in a folder of its own, with as many drivers as are started."""

    folder: Path
    name: str = "storm"
    trials: int = 8
    epochs: int = 20
    seconds: float = 0.1
    workers: int = 2
    max_attempts: int = 50  # the storm kills at random; what counts is that no trial is lost
    function: str = "train"
    grace: str = "20s"
    stall_timeout: str = "60s"
    shared_memory: frozenset[str] = frozenset()
    storage: str = ""
    flags: tuple[str, ...] = ()
    drivers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.storage = self.storage or f"sqlite:///{self.folder}/s.db"
        self.shared_memory = frozenset(os.listdir("/dev/shm"))
        self.write()

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def write(self) -> None:
        """Writes the study file anew."""
        values = {
            name: getattr(self, name)
            for name in (
                "name",
                "trials",
                "max_attempts",
                "epochs",
                "seconds",
                "function",
                "grace",
                "stall_timeout",
            )
        }
        (self.folder / "study.toml").write_text(STUDY.format(log=self.log, **values))

    def command(self) -> list[str]:
        """Returns what starts a driver."""
        return [
            sys.executable, "-m", "hpsearch", "run", str(self.folder / "study.toml"),
            "--storage", self.storage, "--run-folder", str(self.folder / "runs"),
            "--workers", str(self.workers), "--gpus", "none", *self.flags,
        ]  # fmt: skip

    def start(self, **environ: str) -> "subprocess.Popen[bytes]":
        """Starts a driver."""
        command = [*self.command(), "--json"]
        with (self.folder / f"driver-{len(self.drivers)}.out").open("wb") as out:
            driver = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=out,
                stderr=out,
                env={**os.environ, **environ},
                start_new_session=True,
            )
        self.drivers.append(driver)
        return driver

    def lines(self) -> list[dict]:
        """Returns the ground truth so far; a line being written is left out."""
        if not self.log.exists():
            return []
        text = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = START) -> None:
        """Waits for a condition, with a deadline."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.output()}"
            time.sleep(0.02)

    def wait_for_training(self, driver: "subprocess.Popen[bytes]", epochs: int = 1) -> None:
        """Waits until a driver's workers have trained so many epochs, or the driver has ended."""

        def trained() -> bool:
            return (
                driver.poll() is not None
                or sum(line["driver"] == driver.pid for line in self.lines()) >= epochs
            )

        self.wait_for(trained, "first epochs")

    def output(self) -> str:
        """Returns the end of what the drivers printed."""
        files = sorted(self.folder.glob("driver-*.out"))
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in files[-3:])

    def look(self, *words: str) -> Any:
        """Returns what a command that looks at the database says as JSON."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert command([*words, "--storage", self.storage, "--json"]) == 0
        return json.loads(said.getvalue())

    def finish(self, seconds: float = 300.0) -> int:
        """Lets a last driver finish the study; returns its exit status."""
        driver = self.start()
        status = driver.wait(timeout=seconds)
        assert status == 0, self.output()
        return status

    def end(self) -> None:
        """Ends the drivers that still run, and their workers with them."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.send_signal(signal.SIGCONT)
                driver.kill()
                driver.wait()

    def stored(self) -> list[FrozenTrial]:
        """Returns the study's trials as anyone would read them."""
        return stored_trials(self.storage, self.name)

    def left_over(self) -> set[str]:
        """Returns the names of torch's and our own blocks in shared memory."""
        return {name for name in os.listdir("/dev/shm") if name.startswith(("torch_", "psm_", "hpsearch"))}

    def worker_processes(self, driver: "subprocess.Popen[bytes]") -> list[int]:
        """Returns the worker processes that a driver has now."""
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        return [
            int(pid)
            for pid in children
            if "hpsearch.service.worker" in _command_line(pid) and alive(int(pid))
        ]

    def living(self) -> list[int]:
        """Returns the processes of this bench that are alive: drivers and workers ever seen."""
        pids = {driver.pid for driver in self.drivers} | {line["pid"] for line in self.lines()}
        return [pid for pid in sorted(pids) if alive(pid)]

    def check(self, faults: int = 0) -> dict[str, int]:
        """Compares database and log; returns what it counted.

        Every trial is finished, none failed; the database holds what was trained; each (trial, epoch) was
        trained once but for at most one epoch per fault.
        """
        trials = self.stored()
        states = Counter(trial.state.name for trial in trials)
        assert states == {"COMPLETE": self.trials}, states
        assert [trial.number for trial in trials] == list(range(self.trials))
        stored = {(t.number, e): v for t in trials for e, v in t.intermediate_values.items()}
        assert stored.keys() == {(n, e) for n in range(self.trials) for e in range(1, self.epochs + 1)}
        lines = self.lines()
        logged: dict[tuple[int, int], float] = {}
        for line in lines:
            key = (line["trial"], line["epoch"])
            assert logged.setdefault(key, line["loss"]) == line["loss"], f"{key} was trained to two losses"
        assert logged == stored
        again = len(lines) - len(logged)
        assert again <= faults, f"{again} epochs were trained twice after {faults} faults"
        self.wait_for(lambda: not self.living(), "all processes gone", 20)
        # Waited for: other tests may be using shared memory at this moment.
        self.wait_for(lambda: self.left_over() <= self.shared_memory, "nothing left in shared memory", 20)
        return {"trials": len(trials), "epochs": len(logged), "trained twice": again}


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Says whether a process runs (a zombie does not)."""
    return process_state(pid) not in "ZX"


def process_state(pid: int) -> str:
    """Returns the letter that the kernel gives a process's state, "X" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"

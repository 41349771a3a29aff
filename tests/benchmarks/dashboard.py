"""Refresh time of the dashboard at 1000 trials x 100 epochs: ours beside Optuna's own command.

    python -m tests.benchmarks.dashboard --json figures.json

Both serve the same SQLite database over HTTP. `open` is the first answer (all trials; ours begins to remember
them), `reload` is all trials again, `refresh` is what an open page asks for: the trials from the first one on that
was unfinished when it asked last.
The dashboards remember trials for 10 s, so each refresh is asked after that time, as a page does that polls
every 10 s. The second part repeats it while the service's own writer reports epochs of 8 running trials.
Rounds are interleaved; the figures are medians in seconds, ratios are stock over ours.
"""

import argparse
import itertools
import json
import math
import platform
import random
import statistics
import tempfile
import threading
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from hpsearch.store.connection import open_storage
from hpsearch.store.writes import Finish, Operation, Report, SetAttr, SetParams, TrialWriter
from tests.results.requests import Server, ours, stock

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
    "batch_size": CategoricalDistribution((16, 32, 64)),
}
TTL = 10.5  # seconds; both dashboards remember trials for 10 s when there are 500 or more


def trial_operations(number: int, epochs: int, draw: random.Random) -> list[Operation]:
    """Returns the writes of a whole trial, with the attributes that the service stores."""
    curve = [2 / math.sqrt(epoch) + 0.1 * draw.random() for epoch in range(1, epochs + 1)]
    best = min(curve)
    attrs = {
        "score": best,
        "best_epoch": curve.index(best) + 1,
        "epochs_run": epochs,
        "stop_reason": "finished",
        "fit": "good",
        "train_loss": curve,
        "val_loss": curve,
        "epoch_seconds": curve,
        "seconds": 12.5,
        "device": "cpu",
        "host": "here",
    }
    hparams = {"learning_rate": 10 ** draw.uniform(-4, 0), "batch_size": draw.choice([16, 32, 64])}
    state = TrialState.COMPLETE if number % 2 else TrialState.PRUNED
    return [
        SetParams(number, hparams, SPACE),
        *(Report(number, epoch, value) for epoch, value in enumerate(curve, start=1)),
        *(SetAttr(number, name, value) for name, value in attrs.items()),
        Finish(number, state, best, datetime.now()),
    ]


def fill(url: str, trials: int, epochs: int) -> None:
    """Writes a study of finished trials."""
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name="measured")
    writer, draw = TrialWriter(storage), random.Random(0)
    for _ in range(trials):
        writer.write(trial_operations(storage.create_new_trial(study._study_id), epochs, draw))
    storage.engine.dispose()


class Writing:
    """A study that goes on: `width` running trials report ten epochs a second each."""

    def __init__(self, url: str, epochs: int, width: int = 8) -> None:
        self._url, self._epochs, self._width = url, epochs, width
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.reports = 0

    def __enter__(self) -> "Writing":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        storage = open_storage(self._url, timeout=30.0)
        writer, draw = TrialWriter(storage), random.Random(1)
        study = storage.get_study_id_from_name("measured")
        waiting: dict[int, list[Operation]] = {}
        while not self._ended.wait(0.1):
            while len(waiting) < self._width:
                number = storage.create_new_trial(study)
                waiting[number] = trial_operations(number, self._epochs, draw)
            batch = [operations.pop(0) for operations in waiting.values()]
            for number in [number for number, operations in waiting.items() if len(operations) < 15]:
                batch += waiting.pop(number)
            writer.write(batch)
            self.reports += len(batch)
        storage.engine.dispose()


def timed(server: Server, after: int) -> tuple[float, int]:
    """Returns the seconds of one answer, and from which trial on a page asks next: the first unfinished one."""
    begun = time.perf_counter()
    answer = server.ask(f"/api/studies/1?after={after}")
    seconds = time.perf_counter() - begun
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {answer.body[:200]!r}")
    finished = itertools.takewhile(
        lambda trial: trial["state"] not in ("Running", "Waiting"), answer.json["trials"]
    )
    return seconds, after + sum(1 for _ in finished)


def refreshes(servers: dict[str, Server], rounds: int, after: int) -> dict[str, list[float]]:
    """Returns the refresh times of each server, asked in turns, each after its memory has run out."""
    known = {name: timed(server, after)[1] for name, server in servers.items()}
    found: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        time.sleep(TTL)
        for name, server in servers.items():
            seconds, known[name] = timed(server, known[name])
            found[name].append(seconds)
    return found


def measure(url: str, folder: Path, rounds: int, trials: int, epochs: int) -> dict[str, Any]:
    """Returns medians and ratios by situation."""
    times: dict[str, dict[str, list[float]]] = {}
    with ours("--storage", url, "--run-folder", folder) as one, stock(url) as other:
        servers = {"ours": one, "stock": other}
        times["open"] = {name: [timed(server, 0)[0]] for name, server in servers.items()}
        times["reload"] = {name: [timed(server, 0)[0]] for name, server in servers.items()}
        times["refresh"] = refreshes(servers, rounds, trials)
        with Writing(url, epochs) as writing:
            times["refresh while writing"] = refreshes(servers, rounds, trials)
    figures: dict[str, Any] = {}
    for situation, measured in times.items():
        medians = {name: statistics.median(values) for name, values in measured.items()}
        figures[situation] = {
            **{name: round(value, 4) for name, value in medians.items()},
            "slowest of ours": round(max(measured["ours"]), 4),
            "ratio": round(medians["stock"] / medians["ours"], 1),
            "n": len(measured["ours"]),
        }
    figures["refresh while writing"]["values written"] = writing.reports
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/measured.db"
        fill(url, options.trials, options.epochs)
        figures = measure(url, Path(folder), options.rounds, options.trials, options.epochs)
    figures["versions"] = {name: version(name) for name in ("optuna", "optuna-dashboard", "tornado")}
    figures["python"] = platform.python_version()
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""The front of val_error and parameters on the digits with a searched width, against Optuna's unpruned searches.

    nice -n 10 python -m tests.benchmarks.goals --seeds 3 --trials 32

All train the same trials with the same engine in this process: hpsearch by its driver with one worker, Optuna's
samplers (TPE, NSGA-II) by `ask` and `tell`, each trial to its end under the same early stopping. Printed is the
hypervolume that a search's trials dominate, of val_error (0 to 1) and the logarithm of parameters (0 to 1 over
the space), after so many epochs of all trials together; trials count with what they have reached by then.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import optuna
import torch

from hpsearch.contracts.callbacks import Callback, RunningTrial
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import EndKind, EpochResult, TrialRun
from hpsearch.search.space import distributions
from hpsearch.search.stopping import Curve, build
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec, parse_study
from hpsearch.training.build import build_engine

Event = tuple[int, float, float]
"""An epoch of a search: which one, the trial's parameters, and its best val_error so far."""

LOW, HIGH = 700, 14_000
"""Parameters between which the logarithm is scaled."""


def study(trials: int, seed: int, policy: str) -> StudySpec:
    return parse_study(
        {
            "study": {
                "name": "goals",
                "trials": trials,
                "seed": seed,
                "policy": policy,
                "metrics": ["val_error", "parameters"],
            },
            "data": {"dataset": "digits", "split": {"train": 0.8, "val": 0.1, "test": 0.1}},
            "model": {"name": "cnn", "args": {"hidden": 16}},
            "train": {"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine"},
            "search": {
                "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
                "batch_size": [32, 64, 128],
                "epochs": {"low": 4, "high": 20},
                "model.args.width": {"low": 1, "high": 16, "log": True},
            },
            "early_stopping": {"criterion": "patience", "patience": 6},
        }
    )


def hypervolume(events: Sequence[Event], most: int) -> float:
    """Returns the area that the trials dominate after so many epochs of all together."""
    points = [(_scaled(size), error) for epoch, size, error in events if epoch <= most]
    area, edge = 0.0, 1.0
    for x, y in sorted(points):
        if y < edge:
            area += (1.0 - x) * (edge - y)
            edge = y
    return area


def _scaled(parameters: float) -> float:
    return min(1.0, max(0.0, math.log(parameters / LOW) / math.log(HIGH / LOW)))


class Follow(Callback):
    """Notes the epochs of a run; parameters are known when its trials have ended."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, float]] = []
        self.best: dict[int, float] = {}

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        best = min(self.best.get(trial.number, math.inf), result.metrics["val_error"])
        self.best[trial.number] = best
        self.epochs.append((trial.number, best))


def ours(trials: int, seed: int, policy: str) -> list[Event]:
    follow = Follow()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db"
        options = RunOptions(url, Path(folder), workers=Workers(gpus="none", workers=1))
        run(study(trials, seed, policy), options, [follow])
        found = optuna.load_study(study_name="goals", storage=url)
        sizes = {trial.number: trial.user_attrs["parameters"] for trial in found.trials}
        for trial in found.best_trials:
            assert trial.user_attrs["stop_reason"] != "pruner", "a trial of the front was cut"
    return [(epoch, sizes[number], best) for epoch, (number, best) in enumerate(follow.epochs, start=1)]


def theirs(trials: int, seed: int, sampler: optuna.samplers.BaseSampler) -> list[Event]:
    spec = study(trials, seed, "sampled")
    engine, _ = build_engine(spec, torch.device("cpu"), None, tempfile.mkdtemp())
    searched = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    events: list[Event] = []
    for _ in range(trials):
        trial = searched.ask(fixed_distributions=dict(distributions(spec.search)))
        resolved = spec.with_hparams(trial.params)
        criterion = build(spec.early_stopping, resolved.train.epochs)
        assert criterion is not None
        with tempfile.TemporaryDirectory() as folder:
            size = engine.admit(TrialRun("goals", trial.number, 1, trial.params, resolved, folder)).footprint[
                "parameters"
            ]
            best, losses = math.inf, []
            while True:
                (result,) = engine.step()
                assert isinstance(result, EpochResult)
                losses.append(result.metrics["val_loss"])
                best = min(best, result.metrics["val_error"])
                events.append((len(events) + 1, size, best))
                if result.last or criterion.judge(Curve(val=tuple(losses))) is not None:
                    break
            engine.evict(trial.number, EndKind.STOPPED)
        searched.tell(trial, [best, size])
    return events


Search = Callable[[int, int], list[Event]]

SEARCHES: Mapping[str, Search] = {
    "auto": lambda trials, seed: ours(trials, seed, "auto"),
    "halving": lambda trials, seed: ours(trials, seed, "halving"),
    "optuna tpe": lambda trials, seed: theirs(trials, seed, optuna.samplers.TPESampler(seed=seed)),
    "optuna nsga2": lambda trials, seed: theirs(trials, seed, optuna.samplers.NSGAIISampler(seed=seed)),
}


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--trials", type=int, default=32, help="Optuna's trials; ours are as many times --more"
    )
    parser.add_argument("--more", type=int, default=3)
    parser.add_argument("--searches", default=",".join(SEARCHES))
    given = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    names = given.searches.split(",")
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for seed in range(given.seeds):
        runs = {}
        for name in names:
            more = 1 if name.startswith("optuna") else given.more
            runs[name] = SEARCHES[name](given.trials * more, seed)
        whole = max((len(events) for name, events in runs.items() if name.startswith("optuna")), default=0)
        marks = [round(whole * share) for share in (0.125, 0.25, 0.5, 1.0)]
        for name, events in runs.items():
            volumes = [hypervolume(events, mark) for mark in marks]
            found[name].append(volumes)
            shown = ", ".join(f"{volume:.4f}" for volume in volumes)
            print(f"seed {seed} {name}: {len(events)} epochs; after {marks}: {shown}", flush=True)
    for name, rows in found.items():
        columns = list(zip(*rows, strict=True))
        spread = [stdev(column) / math.sqrt(len(column)) if len(column) > 1 else 0.0 for column in columns]
        shown = ", ".join(f"{mean(c):.4f} ({s:.4f})" for c, s in zip(columns, spread, strict=True))
        print(f"{name}: mean (standard error) after 1/8, 1/4, 1/2 and all of Optuna's epochs: {shown}")


if __name__ == "__main__":
    main()

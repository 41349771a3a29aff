"""Replays searches on known learning curves in simulated time, with the project's own policies.

    python -m tests.benchmarks.search --methods tpe+median,sampled,auto --seeds 4 --workers 1
    python -m tests.benchmarks.search --task my_package.tasks:make --json runs.jsonl

Reported values carry noise; what is scored is the true value of the epoch with the lowest reported one, as
normalised regret (0 is the best known, 1 the median random trial) after so many epochs of all workers together. Each
trial has a speed of its own. A task is described in `tests.benchmarks.curve_tasks`; `module:factory` names a function
that returns one or a list of them. With --json, runs that the file already holds are not repeated.

Printed for each method: the mean over tasks and seeds with a 95 % interval (over the seeds), the worst task's mean, the
epochs after which the mean is as good as that of Optuna's best combination at the end, and the time of a decision.
"""

import argparse
import heapq
import importlib
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402
import optuna  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.stats import t as student  # noqa: E402

from hpsearch.text import counted  # noqa: E402
from tests.benchmarks.curve_tasks import HELD_OUT, TUNED, Task, make  # noqa: E402
from tests.benchmarks.search_methods import METHODS, OPTUNA, PER_BUDGET, Answer, Method  # noqa: E402

Array = NDArray[np.float64]

ROOT = Path(__file__).parents[2]
STEP = 20
"""Epochs between two entries of a run's path."""


@dataclass
class Trace:
    """One replayed search; `regret` after each epoch spent."""

    regret: Array
    trials: int = 0
    resumes: int = 0
    decisions: list[float] = field(default_factory=list)


@dataclass
class Known:
    """A trial's true and reported values, and the time of an epoch."""

    true: Array
    told: Array
    seconds: float
    epoch: int = 0


def replay(task: Task, method: Method, seed: int, workers: int, budget: int, noise: float) -> Trace:
    """Returns what a search finds within so many epochs."""
    trace, known = Trace(np.full(budget, np.nan)), dict[int, Known]()
    best, regret, spent = math.inf, math.nan, 0
    busy: list[tuple[float, int, int]] = []
    idle, now = list(range(workers)), 0.0
    while spent < budget:
        idle = [
            worker
            for worker in idle
            if not _begin(method, task, seed, noise, known, trace, busy, worker, now)
        ]
        if not busy:
            break
        now, worker, number = heapq.heappop(busy)
        trial = known[number]
        trial.epoch += 1
        value = float(trial.told[trial.epoch - 1])
        if value < best:
            best = value
            regret = (trial.true[trial.epoch - 1] - task.opt) / (task.ref - task.opt)
        trace.regret[spent] = regret
        spent += 1
        began = time.perf_counter()
        answer = method.report(number, trial.epoch, value, trial.epoch == len(trial.told))
        took = time.perf_counter() - began
        if answer is Answer.CONTINUE:
            heapq.heappush(busy, (now + trial.seconds, worker, number))
        else:
            idle.append(worker)
            trace.decisions.append(took)
    trace.regret[spent:] = regret
    return trace


def _begin(
    method: Method,
    task: Task,
    seed: int,
    noise: float,
    known: dict[int, Known],
    trace: Trace,
    busy: list[tuple[float, int, int]],
    worker: int,
    now: float,
) -> bool:
    began = time.perf_counter()
    number = method.begin()
    trace.decisions.append(time.perf_counter() - began)
    if number is None:
        return False
    if number not in known:
        true = np.asarray(task.curve(method.hparams[number]), float)
        rng = np.random.default_rng([seed, number, 77])
        told = true * np.exp(noise * rng.standard_normal(len(true)))
        known[number] = Known(true, told, math.exp(0.3 * rng.standard_normal()))
        trace.trials += 1
    else:
        trace.resumes += 1
    heapq.heappush(busy, (now + known[number].seconds, worker, number))
    return True


def run(task: Task, name: str, seed: int, workers: int, marks: Sequence[int], noise: float) -> dict[str, Any]:
    """Returns one line of results."""
    began, budget = time.perf_counter(), max(marks)
    method = METHODS[name](task, seed, budget)
    trace = replay(task, method, seed, workers, budget, noise)
    regret = {mark: float(trace.regret[mark - 1]) for mark in marks}
    if name in PER_BUDGET:
        for mark in marks[:-1]:
            shorter = replay(task, METHODS[name](task, seed, mark), seed, workers, mark, noise)
            regret[mark] = float(shorter.regret[-1])
    decisions = 1e3 * np.array(trace.decisions)
    return {
        "task": task.name,
        "method": name,
        "seed": seed,
        "workers": workers,
        "regret": {str(mark): _short(value) for mark, value in regret.items()},
        "path": [_short(value) for value in trace.regret[STEP - 1 :: STEP]],
        "trials": trace.trials,
        "resumes": trace.resumes,
        "decision_ms": round(float(decisions.mean()), 3),
        "decision_ms_p99": round(float(np.quantile(decisions, 0.99)), 3),
        "seconds": round(time.perf_counter() - began, 2),
    }


def _short(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def table(lines: Sequence[Mapping[str, Any]], marks: Sequence[int]) -> Iterator[str]:
    """Yields the table of all lines of one number of workers."""
    tasks = sorted({line["task"] for line in lines})
    methods = list(dict.fromkeys(line["method"] for line in lines))
    found = {(line["method"], line["task"], line["seed"]): line for line in lines}
    means = {method: _path(found, method, tasks) for method in methods}
    ends = [means[method][-1] for method in OPTUNA if method in means]
    goal = min(ends) if ends else math.nan
    yield (
        f"{'method':22} {'runs':>5} "
        + " ".join(f"{'after ' + str(mark):>13} worst" for mark in marks)
        + (f"  to {goal:.3f}  ms  p99 resumes")
    )
    for method in methods:
        own = [line for (name, _, _), line in found.items() if name == method]
        cells = [_cell(own, tasks, str(mark)) for mark in marks]
        reached = np.flatnonzero(means[method] <= goal)
        epochs = str(STEP * (int(reached[0]) + 1)) if len(reached) and method not in PER_BUDGET else "-"
        times = [
            np.mean([line[key] for line in own]) for key in ("decision_ms", "decision_ms_p99", "resumes")
        ]
        yield (
            f"{method:22} {len(own):5} "
            + " ".join(cells)
            + (f"  {epochs:>8} {times[0]:4.1f} {times[1]:4.0f} {times[2]:7.0f}")
        )


def _path(
    found: Mapping[tuple[str, str, int], Mapping[str, Any]], method: str, tasks: Sequence[str]
) -> Array:
    paths = [line["path"] for (name, _, _), line in found.items() if name == method]
    return np.nanmean(np.array(paths, dtype=float), axis=0)


def _cell(lines: Sequence[Mapping[str, Any]], tasks: Sequence[str], mark: str) -> str:
    by_seed: dict[int, list[float]] = {}
    by_task: dict[str, list[float]] = {task: [] for task in tasks}
    for line in lines:
        if (value := line["regret"].get(mark)) is not None:
            by_seed.setdefault(line["seed"], []).append(value)
            by_task[line["task"]].append(value)
    means = np.array([np.mean(values) for values in by_seed.values()])
    half = (
        student.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
        if len(means) > 1
        else math.nan
    )
    worst = max((float(np.mean(values)) for values in by_task.values() if values), default=math.nan)
    return f"{means.mean():7.3f} ±{half:.3f} {worst:5.2f}"


def tasks_of(arguments: argparse.Namespace) -> list[Task]:
    """Returns the tasks that are asked for: by name, or made by a factory."""
    found: list[Task] = []
    for path in arguments.task:
        module, _, factory = path.partition(":")
        made = getattr(importlib.import_module(module), factory)()
        found += made if isinstance(made, list | tuple) else [made]
    groups = {"tuned": TUNED, "held_out": HELD_OUT}
    names = arguments.tasks.split(",") if arguments.tasks else ([] if found else ["tuned"])
    return found + [make(name, arguments.data_root) for one in names for name in groups.get(one, (one,))]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("HPSEARCH_CURVES", ROOT.parent / "shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(data), help="holds curves/ and lcbench/")
    parser.add_argument("--tasks", help="names, or the groups tuned and held_out; separated by commas")
    parser.add_argument("--task", action="append", default=[], metavar="MODULE:FACTORY")
    parser.add_argument(
        "--methods", default="random,tpe+median,sampled,halving,auto", help=", ".join(METHODS)
    )
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", default="1", help="numbers of workers, separated by commas")
    parser.add_argument("--budget", type=int, default=2000, help="epochs of all workers together")
    parser.add_argument("--marks", default="200,500,1000,2000")
    parser.add_argument("--noise", type=float, default=0.02, help="relative noise of reported values")
    parser.add_argument(
        "--json", type=Path, help="file that gets one line a run; runs in it are not repeated"
    )
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    marks = sorted(
        {*(mark for mark in map(int, asked.marks.split(",")) if mark < asked.budget), asked.budget}
    )
    methods, workers = asked.methods.split(","), list(map(int, asked.workers.split(",")))
    if unknown := [name for name in methods if name not in METHODS]:
        raise SystemExit(f"methods {', '.join(unknown)} are unknown; known are {', '.join(METHODS)}")
    had = asked.json.read_text(encoding="utf-8").splitlines() if asked.json and asked.json.exists() else []
    lines = {_key(line): line for line in map(json.loads, had)}
    tasks = tasks_of(asked)
    wanted = [
        (task, method, seed, count)
        for count in workers
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds)
        for method in methods
        for task in tasks
    ]
    for task, method, seed, count in wanted:
        if (task.name, method, seed, count) not in lines:
            line = run(task, method, seed, count, marks, asked.noise)
            lines[_key(line)] = line
            if asked.json:
                with asked.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    shown = [lines[task.name, method, seed, count] for task, method, seed, count in wanted]
    for count in workers:
        print(f"{counted(count, 'worker')}, {counted(len(tasks), 'task')}")
        print("\n".join(table([line for line in shown if line["workers"] == count], marks)))


def _key(line: Mapping[str, Any]) -> tuple[str, str, int, int]:
    return line["task"], line["method"], line["seed"], line["workers"]


if __name__ == "__main__":
    main()

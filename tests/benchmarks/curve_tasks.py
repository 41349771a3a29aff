"""Searches with known learning curves, for `tests.benchmarks.search`: real ones, a surrogate, and made-up ones.

A task has `name`, `search` (the study file's table), `epochs` (of all trials, None where they are searched),
`stretched` (whether a schedule stretches over a trial's own epochs, so that a short trial is not the beginning of a
long one), `curve(hparams)`: the true values of its epochs, lower is better, ended by NaN where training diverged;
`opt`, the best value known, and `ref`, the median best value of random trials. Normalised regret is
(value - opt) / (ref - opt).

    lcbench:TASK:f  lcbench:TASK:s      tabular networks, a surrogate (needs onnxruntime)
    curves:convnext  curves:deberta     image and text networks, schedules stretched
    curves:lstm:f ... curves:vrnn:s     text classifiers (lstm, gru, vrnn)
    late:choice  late:smooth            made up: the best ones are slow at first

f: every trial has all epochs; s: the epochs are searched. A point of a pool of real runs gets the curve of the
nearest one; distances are weighted by what explains the best values.
"""

import gzip
import importlib.util
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hpsearch-benchmarks"


class Task(Protocol):
    """What a search is replayed on."""

    name: str
    search: Mapping[str, Any]
    epochs: int | None
    stretched: bool
    opt: float
    ref: float

    def curve(self, hparams: Mapping[str, Any]) -> Array:
        """Returns the true values of a trial's epochs."""


def span(low: float, high: float, log: bool = False) -> dict[str, Any]:
    return {"low": low, "high": high, "log": log}


def cached(name: str, make: Callable[[], Any]) -> Any:
    """Returns what was computed once, from a file of numbers."""
    path = CACHE / f"{name.replace(':', '_')}.json"
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


class Pool:
    """A finite pool of real runs."""

    stretched = False
    epochs: int | None = None

    def __init__(
        self, name: str, pool: str, search: Mapping[str, Any], x: Array, curves: list[Array], worst: float
    ) -> None:
        """`worst` is the value of a run that diverged at once; pools of one name share their weights."""
        self.name, self.search, self._x, self._curves = name, search, x, curves
        best = np.array([min([*curve[np.isfinite(curve)], worst]) for curve in curves])
        self.opt, self.ref = float(best.min()), float(np.median(best))
        self._weights = np.array(cached(f"weights:{pool}", lambda: weights(x, best)))

    def nearest(self, x: Array) -> int:
        return int((((self._x - x) * self._weights) ** 2).sum(1).argmin())


def weights(x: Array, y: Array) -> list[float]:
    """Returns how much each hyperparameter counts in a distance: as fits ranks best, each point left out once.

    With equal weights a neighbour's learning rate may be off by a factor of ten.
    """
    ranks = (y.argsort().argsort() + 0.5) / len(y)
    squares = [(x[:, k][:, None] - x[:, k][None]) ** 2 for k in range(x.shape[1])]

    def loss(logs: Array) -> float:
        far = sum(np.exp(2 * log) * square for log, square in zip(logs, squares, strict=True))
        np.fill_diagonal(far, np.inf)
        near = np.exp(-far)
        found = (near @ ranks + 1e-6 * ranks.mean()) / (near.sum(1) + 1e-6)
        return float(np.mean((found - ranks) ** 2))

    logs, step = np.full(x.shape[1], np.log(3.0)), 1.0
    least = loss(logs)
    while step > 0.2:
        moved = False
        for k in range(len(logs)):
            for change in (step, -step):
                tried = logs.copy()
                tried[k] += change
                if -4 < tried[k] < 5 and (new := loss(tried)) < least - 1e-7:
                    logs, least, moved = tried, new, True
        if not moved:
            step /= 2
    found = np.exp(logs)
    return np.maximum(found, 0.03 * found.max()).round(3).tolist()


class Stretched(Pool):
    """Runs of many lengths, whose schedules spanned their own epochs."""

    stretched = True

    def __init__(self, place: Callable[[Mapping[str, Any]], Array], *pool: Any) -> None:
        super().__init__(*pool)
        self._place = place

    def curve(self, hparams: Mapping[str, Any]) -> Array:
        was, now = self._curves[self.nearest(self._place(hparams))], int(hparams["epochs"])
        finite = was[np.isfinite(was)]
        shares = (np.arange(len(finite)) + 1) / len(was)
        if len(finite) == len(was):
            return np.interp((np.arange(now) + 1) / now, shares, was)
        count = round(len(finite) * now / len(was))
        told = np.interp((np.arange(count) + 1) / now, shares, finite) if count else np.array([])
        return np.append(told, np.nan)


def convnext(root: Path) -> Task:
    """ConvNeXt on ImageNet (Lourie, Cho and He 2024)."""

    def place(hp: Mapping[str, Any]) -> Array:
        return np.array(
            [
                (hp["epochs"] - 20) / 80,
                math.log2(hp["batch_size"] / 128) / 3,
                math.log(hp["learning_rate"] / 5e-3) / math.log(1e4),
                hp["function.peak"] / 0.8,
                (hp["train.momentum"] - 0.7) / 0.3,
                math.log(hp["train.weight_decay"] / 1e-6) / math.log(1e3),
                hp["train.label_smoothing"] / 0.5,
            ]
        )

    points, curves = [], []
    for run in rows(root / "curves/convnext/convnext-tiny_tuning.results.jsonl.gz"):
        hp = {name: run[name] for name in ("epochs", "batch_size")}
        hp |= {f"train.{name}": run[name] for name in ("momentum", "weight_decay", "label_smoothing")}
        hp |= {"learning_rate": run["lr"], "function.peak": (run["lr_peak_epoch"] + 0.5) / run["epochs"]}
        points.append(place(hp))
        errors = [1 - epoch["top_1"] for epoch in run["learning_curve"]][: run["epochs"]]
        curves.append(np.array(errors + [np.nan] * (run["epochs"] - len(errors))))
    search = {
        "epochs": span(20, 100),
        "batch_size": [128, 256, 512, 1024],
        "learning_rate": span(5e-3, 50.0, True),
        "function.peak": span(0.0, 0.8),
        "train.momentum": span(0.7, 0.999),
        "train.weight_decay": span(1e-6, 1e-3, True),
        "train.label_smoothing": span(0.0, 0.5),
    }
    return Stretched(place, "curves:convnext", "convnext", search, np.array(points), curves, 0.999)


def deberta(root: Path) -> Task:
    """DeBERTa on MultiNLI (Lourie, Cho and He 2024)."""

    def place(hp: Mapping[str, Any]) -> Array:
        return np.array(
            [
                math.log(hp["epochs"] / 8) / math.log(100 / 8),
                math.log(hp["learning_rate"] / 1e-6) / math.log(1e3),
                hp["function.warmup"] / 0.6,
                hp["function.dropout"] / 0.3,
            ]
        )

    points, curves = [], []
    for run in rows(root / "curves/deberta/deberta-base_tuning.results.jsonl.gz"):
        curves.append(np.array([1 - value for _, value in run["learning_curves"]["matched"]]))
        steps = run["total_model_steps"] / run["num_train_epochs"]
        hp = {"epochs": len(curves[-1]), "learning_rate": run["learning_rate"]}
        hp |= {"function.warmup": run["warmup_steps"] / steps, "function.dropout": run["cls_drop_out"]}
        points.append(place(hp))
    search = {
        "epochs": span(8, 100, True),
        "learning_rate": span(1e-6, 1e-3, True),
        "function.warmup": span(0.0, 0.6),
        "function.dropout": span(0.0, 0.3),
    }
    return Stretched(place, "curves:deberta", "deberta", search, np.array(points), curves, 0.7)


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


TASKSET = {
    "lstm": "patch128_LSTM128_bs64",
    "gru": "patch32_GRU64_avg_bs128",
    "vrnn": "patch32_VRNN128_tanh_bs128",
}


class TaskSet(Pool):
    """Text classifiers under Adam, 1,000 settings each (Metz et al. 2020)."""

    def __init__(self, root: Path, which: str, mode: str) -> None:
        with gzip.open(root / f"curves/taskset/{TASKSET[which]}.json.gz", "rt", encoding="utf-8") as file:
            runs = json.load(file)
        raw = np.log([[1 - v if n.startswith("beta") else v for n, v in run["hp"].items()] for run in runs])
        self._low, self._high = raw.min(0), raw.max(0)
        curves = []
        for run in runs:
            values = [np.nan if value is None else value for value in run["valid"]["loss"][1:]]
            curve = np.array(values, dtype=float)
            bad = np.flatnonzero(~np.isfinite(curve))
            curves.append(curve[: bad[0] + 1] if len(bad) else curve)
        self._names = [name if name == "learning_rate" else f"function.{name}" for name in runs[0]["hp"]]
        ends = zip(np.exp(self._low).tolist(), np.exp(self._high).tolist(), strict=True)
        search = {name: span(low, high, True) for name, (low, high) in zip(self._names, ends, strict=True)}
        self.epochs = 50 if mode == "f" else None
        search |= {} if mode == "f" else {"epochs": span(5, 50)}
        places = (raw - self._low) / (self._high - self._low)
        super().__init__(f"curves:{which}:{mode}", which, search, places, curves, 2.0)

    def curve(self, hparams: Mapping[str, Any]) -> Array:
        logs = np.log([hparams[name] for name in self._names])
        found = self._curves[self.nearest((logs - self._low) / (self._high - self._low))]
        return found[: self.epochs or hparams["epochs"]]


class LCBench:
    """The surrogate of LCBench in YAHPO Gym (Pfisterer et al. 2022)."""

    stretched = False

    def __init__(self, root: Path, task: str, mode: str) -> None:
        self.name, self._task, self._bench = f"lcbench:{task}:{mode}", task, surrogate(root)
        self.epochs = 51 if mode == "f" else None
        self.search = {
            "batch_size": span(16, 512, True),
            "learning_rate": span(1e-4, 0.1, True),
            "train.momentum": span(0.1, 0.99),
            "train.weight_decay": span(1e-5, 0.1),
            "function.num_layers": span(1, 5),
            "function.max_units": span(64, 1024, True),
            "function.max_dropout": span(0.0, 1.0),
            **({} if mode == "f" else {"epochs": span(5, 51)}),
        }
        ends = cached(f"lcbench:{task}", self._ends)
        self.opt, self.ref = ends["opt"], ends["ref"]

    def curve(self, hparams: Mapping[str, Any]) -> Array:
        named = {name.partition(".")[2] or name: value for name, value in hparams.items() if name != "epochs"}
        epochs = range(2, 2 + (self.epochs or hparams["epochs"]))
        return self._bench.curve(self._task, epochs, **named)[:, 2].astype(float)

    def _ends(self) -> dict[str, float]:
        """Returns the best of 20,000 random points and 3,000 near the best, and the median of 500 random ones."""
        rng = np.random.default_rng(0)
        units = rng.random((20_000, 7))
        last = self._bench.rows(self._task, natural(units))[:, 2]
        ref = float(np.median(self._best(units[:500])))
        opt = float(self._best(units[np.argsort(last)[:300]]).min())
        for scale in (0.1, 0.05, 0.02):
            top = units[np.argsort(last)[:20]]
            near = np.clip(top[rng.integers(0, 20, 1000)] + scale * rng.standard_normal((1000, 7)), 0, 1)
            best = self._best(near)
            opt, units, last = min(opt, float(best.min())), np.r_[units, near], np.r_[last, best]
        return {"opt": opt, "ref": ref}

    def _best(self, units: Array) -> Array:
        points, low = natural(units), np.full(len(units), np.inf)
        for epoch in range(2, 53):
            points[:, 0] = epoch
            low = np.minimum(low, self._bench.rows(self._task, points)[:, 2])
        return low


def natural(units: Array) -> Array:
    """Returns points of the unit cube as the surrogate takes them, after its last epoch."""
    return np.column_stack(
        [
            np.full(len(units), 52.0),
            (16 * 32 ** units[:, 0]).round(),
            10 ** (-4 + 3 * units[:, 1]),
            0.1 + 0.89 * units[:, 2],
            1e-5 + units[:, 3] * (0.1 - 1e-5),
            np.floor(1 + 4.999 * units[:, 4]),
            (64 * 16 ** units[:, 5]).round(),
            units[:, 6],
        ]
    )


_surrogates: dict[Path, Any] = {}


def surrogate(root: Path) -> Any:
    if root not in _surrogates:
        if importlib.util.find_spec("onnxruntime") is None:
            raise SystemExit("lcbench needs onnxruntime: pip install onnxruntime, or choose other --tasks")
        path = root / "lcbench/lcbench_query.py"
        spec = importlib.util.spec_from_file_location("lcbench_query", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _surrogates[root] = module.LCBench(threads=1)
    return _surrogates[root]


class Late:
    """Made up: the best configurations are worse than the others for the first six tenths of their epochs.

    A loss falls from 1 to its end with a time constant: to 0.25 in 3 epochs where `late` is 0, to 0.05 in 20 where
    it is 1. By `choice`, adam is late and two optimizers are not; `smooth` has all between, along one hyperparameter.
    """

    stretched = False
    epochs = 50
    _BEST = np.array([0.6, 0.8, 0.4])

    def __init__(self, mode: str) -> None:
        self.name, self._by_choice = f"late:{mode}", mode == "choice"
        late = {"train.optimizer": ["sgd", "adam", "adamw"]} if self._by_choice else {}
        self.search = {
            "learning_rate": span(1e-4, 1.0, True),
            "train.momentum": span(0.0, 0.99),
            "train.weight_decay": span(1e-6, 1e-2, True),
            **(late or {"function.late": span(0.0, 1.0)}),
        }
        rng = np.random.default_rng(0)
        lates = rng.random(500)
        lates = (lates < 1 / 3).astype(float) if self._by_choice else lates
        draws = [self._curve(late, rng.random(3)).min() for late in lates]
        self.opt, self.ref = float(self._curve(1.0, self._BEST).min()), float(np.median(draws))

    def curve(self, hparams: Mapping[str, Any]) -> Array:
        late = hparams["train.optimizer"] == "adam" if self._by_choice else hparams["function.late"]
        rate, decay = (math.log10(hparams[name]) for name in ("learning_rate", "train.weight_decay"))
        return self._curve(
            float(late), np.array([rate / 4 + 1, hparams["train.momentum"] / 0.99, decay / 4 + 1.5])
        )

    def _curve(self, late: float, place: Array) -> Array:
        end = 0.25 - 0.2 * late + 0.5 * float(((place - self._BEST) ** 2).sum())
        return end + (1 - end) * np.exp(-np.arange(1, self.epochs + 1) / (3 + 17 * late))


TUNED = (
    "lcbench:126025:f",
    "lcbench:167168:s",
    "lcbench:168331:s",
    "lcbench:189866:f",
    "curves:convnext",
    "curves:deberta",
    "curves:lstm:f",
    "curves:gru:s",
    "curves:vrnn:f",
)
"""Tasks that constants were chosen on."""
HELD_OUT = ("lcbench:3945:f", "lcbench:189909:s", "lcbench:7593:f", "lcbench:146212:s")
"""Tasks that nothing was chosen on."""


def make(name: str, root: Path) -> Task:
    """Returns a task by its name."""
    kind, *rest = name.split(":")
    match kind, rest:
        case "lcbench", [task, mode]:
            return LCBench(root, task, mode)
        case "late", ["choice" | "smooth" as mode]:
            return Late(mode)
        case "curves", ["convnext"]:
            return convnext(root)
        case "curves", ["deberta"]:
            return deberta(root)
        case "curves", [which, mode] if which in TASKSET:
            return TaskSet(root, which, mode)
    raise SystemExit(f"task {name!r} is unknown; known are {', '.join((*TUNED, *HELD_OUT))} and the like")

"""Whole searches with scripted curves through the real driver, for what shows results."""

import math
from pathlib import Path
from typing import Any

import optuna
from safetensors.numpy import save_file

from hpsearch.contracts.callbacks import Callback, RunSummary
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.messages import EndKind, TrialEnd, TrialRun
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store.connection import open_storage
from hpsearch.study import StudySpec, parse_study
from tests.service.curves import CurveExecutor, Script


def digits_spec(name: str = "s", **tables: Any) -> StudySpec:
    tree: dict[str, Any] = {
        "study": {"name": name, "trials": 15},
        "data": {"dataset": "digits"},
        "search": {
            "learning_rate": {"low": 1e-4, "high": 10.0, "log": True},
            "batch_size": [16, 64, "full"],
            "epochs": {"low": 5, "high": 20},
        },
        "early_stopping": {"patience": 3},
        "pruner": {"name": "median", "startup_trials": 4},
    }
    study = tree["study"] | tables.pop("study", {})
    return parse_study({**tree, **tables, "study": study})


def lifelike(run: TrialRun) -> Script:
    """Curves that fall and rise again; some diverge, fail or do not fit into memory."""
    rate = run.spec.train.learning_rate
    if run.number == 3:
        return Script((), EndKind.ERROR)
    if run.number == 5:
        return Script((2.0,), EndKind.OUT_OF_MEMORY)
    if rate > 3:
        return Script((2.5, 4.0, math.nan))
    off = abs(math.log10(rate) + 1)
    epochs = range(1, run.spec.train.epochs + 1)
    train = tuple(2.3 * math.exp(-0.5 * e / (1 + off)) + 0.01 for e in epochs)
    rise = 0.02 * (1 + run.number / 97)
    val = tuple(2.3 * math.exp(-0.5 * e / (1 + off)) + 0.05 + rise * max(0, e - 9) for e in epochs)
    return Script(val, train=train)


class KeepingExecutor(CurveExecutor):
    """Its trials leave weights behind: a tensor that holds the trial's number."""

    folder: Path = Path()

    def _end(self, worker: int, end: TrialEnd) -> None:
        import numpy as np

        path = self.folder / f"{end.number}.safetensors"
        save_file({"number": np.array([end.number])}, path)
        super()._end(worker, TrialEnd(end.number, end.attempt, end.kind, end.detail, weights=str(path)))


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder}/s.db"


def search(
    folder: Path,
    spec: StudySpec | None = None,
    callbacks: tuple[Callback, ...] = (),
    script: Any = lifelike,
) -> RunSummary:
    executor = KeepingExecutor(script)
    executor.folder = folder
    options = RunOptions(
        storage=url_in(folder), run_folder=folder / "runs", workers=Workers(gpus="none", workers=2)
    )
    return run(spec or digits_spec(study={"max_attempts": 1}), options, callbacks, executor)


def record_of(folder: Path, name: str = "s") -> StudyRecord:
    return read_study(name, url_in(folder))


def writable(folder: Path, name: str = "s") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(url_in(folder)))

"""Small real searches on the digits, trained in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpsearch.contracts.executor import Workers
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec, parse_study
from hpsearch.testing.in_process import InProcessExecutor
from tests.results.searches import url_in


def small_spec(name: str = "small", enqueue: Sequence[dict[str, Any]] = (), **tables: Any) -> StudySpec:
    tree: dict[str, Any] = {
        "study": {"name": name, "trials": 3},
        "data": {"dataset": "digits", "subset": 0.2},
        "model": {"name": "mlp", "args": {"hidden": [16]}},
        "train": {"epochs": 2, "batch_size": 32},
        "search": {"learning_rate": [0.3, 0.1, 0.001]},
        "sampler": {"name": "grid"},
        "confirm": {"top": 2, "seeds": 3},
    }
    merged = {key: {**tree.get(key, {}), **tables.get(key, {})} for key in {*tree, *tables}}
    return parse_study(merged | {"search": tables.get("search", tree["search"]), "enqueue": list(enqueue)})


def options_in(folder: Path) -> RunOptions:
    return RunOptions(
        storage=url_in(folder), run_folder=folder / "runs", workers=Workers(gpus="none", workers=1)
    )


def searched(folder: Path, spec: StudySpec | None = None) -> RunOptions:
    """Runs a small search, and returns where it is."""
    options = options_in(folder)
    summary = run(spec or small_spec(), options, executor=InProcessExecutor())
    assert summary.exit_status == 0
    return options

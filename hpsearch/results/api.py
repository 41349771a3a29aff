"""`hpsearch.run`: the Python way to run a study."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from hpsearch.results.tables import StudyResult
from hpsearch.service.callbacks import Callback
from hpsearch.service.launch import RunOptions
from hpsearch.service.places import Workers
from hpsearch.service.run import run as run_study
from hpsearch.spec.load import load_study_file
from hpsearch.spec.study import StudySpec


def run(
    spec: StudySpec | str | Path,
    callbacks: Sequence[Callback] = (),
    options: RunOptions | None = None,
    **settings: Any,
) -> StudyResult:
    """Runs a study until it is finished or stopped, and returns what it has found.

        result = hpsearch.run("studies/digits.toml", storage="sqlite:///digits.db", workers=2)

    Args:
        spec: a study, or the path of its file, beside which its own modules are looked for.
        callbacks: what follows the run, see `hpsearch.Callback`.
        options: where and how much; `settings` replace single fields of it, by name. `workers` may be a
            number; without `storage` the database lies in the run folder.

    Raises:
        UserError: study, data, model, device or storage; nothing was trained.
        HpsearchError: the run could not go on; what was trained is kept.
        TypeError: a setting that `RunOptions` does not have.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = replace(options or RunOptions(), **_plain(settings))
    if not isinstance(spec, StudySpec):
        beside = str(Path(spec).absolute().parent)
        chosen = replace(chosen, import_paths=chosen.import_paths or (beside, os.getcwd()))
        spec = load_study_file(spec)
    summary = run_study(spec, chosen, callbacks)
    return StudyResult(spec.study.name, chosen.storage, summary, chosen.run_folder)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as `RunOptions` holds them."""
    found = dict(settings)
    if "run_folder" in found:
        found["run_folder"] = Path(found["run_folder"])
        found.setdefault("storage", f"sqlite:///{found['run_folder'] / 'hpsearch.db'}")
    if isinstance(found.get("workers"), int):
        found["workers"] = Workers(workers=found["workers"])
    return found

"""`hpsearch.run`: the Python way to run a study."""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import optuna

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Workers
from hpsearch.errors import nearest
from hpsearch.results.stored.frames import StudyResult
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run as run_study
from hpsearch.study.file import load_study_file, with_limits
from hpsearch.study.specification import StudySection, StudySpec


def run(
    spec: StudySpec | str | Path,
    callbacks: Sequence[Callback] = (),
    options: RunOptions | None = None,
    *,
    trials: int | None = None,
    timeout: str | float | None = None,
    **settings: Any,
) -> StudyResult:
    """Runs a study until it is finished or stopped, and returns what it has found.

        result = hpsearch.run("studies/digits.toml", storage="sqlite:///digits.db", workers=2)

    Args:
        spec: a study, or the path of its file, beside which its own modules are looked for. Those of a study
            without a file lie where the program that runs it has its own.
        callbacks: what follows the run, see `hpsearch.Callback`.
        options: where and how much; `settings` replace single fields of it, by name. `workers` may be a
            number; without `storage` the database lies in the run folder.
        trials, timeout: override the study's, as the flags of `hpsearch run` do.

    Raises:
        UserError: study, data, model, device or storage; nothing was trained.
        HpsearchError: the run could not go on; what was trained is kept.
        TypeError: a setting that there is not; the nearest is named.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = replace(options or RunOptions(), **_plain(settings))
    chosen = replace(chosen, import_paths=chosen.import_paths or _folders(spec))
    spec = with_limits(spec if isinstance(spec, StudySpec) else load_study_file(spec), trials, timeout)
    summary = run_study(spec, chosen, callbacks)
    return StudyResult(spec.study.name, chosen.storage, summary, chosen.run_folder)


def _folders(spec: StudySpec | str | Path) -> tuple[str, ...]:
    """Returns where a study's own modules lie; one without a file is part of the program that runs it."""
    if not isinstance(spec, StudySpec):
        return (str(Path(spec).absolute().parent),)
    here = os.getcwd()
    return (here,) if here in sys.path or "" in sys.path else ()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as `RunOptions` holds them.

    Raises:
        TypeError: one that it does not have.
    """
    found = dict(settings)
    known = [field.name for field in fields(RunOptions)]
    for name in found:
        if name in StudySection.model_fields:
            raise TypeError(f"run: {name} is not a setting of a run but of the study; write study.{name}")
        if name not in known:
            raise TypeError(
                f'run: there is no setting "{name}"; {nearest(name, [*known, "trials", "timeout"])}'
            )
    if "run_folder" in found:
        found["run_folder"] = Path(found["run_folder"])
        found.setdefault("storage", f"sqlite:///{found['run_folder'] / 'hpsearch.db'}")
    if isinstance(found.get("workers"), int):
        found["workers"] = Workers(workers=found["workers"])
    return found

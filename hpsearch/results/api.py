"""`hpsearch.run`: the Python way to run a study."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from hpsearch.results.tables import StudyResult
from hpsearch.service.callbacks import Callback
from hpsearch.service.launch import RunOptions
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

        result = hpsearch.run("studies/digits.toml", storage="sqlite:///digits.db")

    Args:
        spec: a study, or the path of its file.
        callbacks: what follows the run, see `hpsearch.Callback`.
        options: where and how much; `settings` replace single fields of it, by name.

    Raises:
        UserError: study, data, model, device or storage; nothing was trained.
        HpsearchError: the run could not go on; what was trained is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not isinstance(spec, StudySpec):
        spec = load_study_file(spec)
    chosen = replace(options or RunOptions(), **settings)
    summary = run_study(spec, chosen, callbacks)
    return StudyResult(spec.study.name, chosen.storage, summary)

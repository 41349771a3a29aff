"""Hyperparameter search for PyTorch image training: one study file in, a finished search in a database out.

    spec = hpsearch.load_study_file("studies/digits.toml")
    result = hpsearch.run(spec)
    print(result.best.hparams)
    model = hpsearch.load_best_model(spec.study.name)

Everything is imported when it is first used: `import hpsearch` loads neither torch nor Optuna nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpsearch.version import __version__

if TYPE_CHECKING:
    from hpsearch.contracts.callbacks import Callback
    from hpsearch.results.commands.api import run
    from hpsearch.results.commands.models import load_best_model
    from hpsearch.results.stored.frames import StudyResult
    from hpsearch.search.pruner import EarlyStoppingPruner
    from hpsearch.study.file import load_study_file


__all__ = [
    "Callback",
    "EarlyStoppingPruner",
    "StudyResult",
    "__version__",
    "load_best_model",
    "load_study_file",
    "run",
]

_HOME = {
    "Callback": "hpsearch.contracts.callbacks",
    "EarlyStoppingPruner": "hpsearch.search.pruner",
    "StudyResult": "hpsearch.results.stored.frames",
    "load_best_model": "hpsearch.results.commands.models",
    "load_study_file": "hpsearch.study.file",
    "run": "hpsearch.results.commands.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

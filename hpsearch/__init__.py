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
    from hpsearch.results.api import run
    from hpsearch.results.models import load_best_model
    from hpsearch.results.tables import StudyResult
    from hpsearch.search.pruner import EarlyStoppingPruner
    from hpsearch.service.callbacks import Callback
    from hpsearch.spec.load import load_study_file


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
    "Callback": "hpsearch.service.callbacks",
    "EarlyStoppingPruner": "hpsearch.search.pruner",
    "StudyResult": "hpsearch.results.tables",
    "load_best_model": "hpsearch.results.models",
    "load_study_file": "hpsearch.spec.load",
    "run": "hpsearch.results.api",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Hyperparameter search for PyTorch image training: one study file in, a finished search in a database out.

    result = hpsearch.run("studies/digits.toml")
    print(result.best.hparams)
    model = hpsearch.load_best_model("digits")

Everything is imported when it is first used: `import hpsearch` loads neither torch nor Optuna nor pandas. Only the
names here are public; `hpsearch.contracts` is for those who extend hpsearch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpsearch.version import __version__

if TYPE_CHECKING:
    from hpsearch.contracts.callbacks import Callback, FinishedTrial
    from hpsearch.errors import (
        CheckpointError,
        DataError,
        DeviceError,
        DigestMismatch,
        EngineError,
        HpsearchError,
        LeaseLost,
        ModelError,
        StorageAway,
        StorageError,
        StudyFileError,
        StudyNotFound,
        UserError,
        WorkersFailed,
    )
    from hpsearch.results.commands.api import check, confirm, continue_trial, predict, refit, report, run
    from hpsearch.results.commands.models import load_best_model
    from hpsearch.results.stored.result import StudyResult
    from hpsearch.search.pruner import EarlyStoppingPruner
    from hpsearch.search.stopping import (
        AnyOf,
        GeneralizationLoss,
        Overfit,
        Patience,
        ProgressQuotient,
        Up,
        WarmUp,
    )
    from hpsearch.study.file import load_study_file
    from hpsearch.study.specification import StudySpec as StudyFile
    from hpsearch.training.context import Trial

__all__ = [
    "AnyOf",
    "Callback",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "DigestMismatch",
    "EarlyStoppingPruner",
    "EngineError",
    "FinishedTrial",
    "GeneralizationLoss",
    "HpsearchError",
    "LeaseLost",
    "ModelError",
    "Overfit",
    "Patience",
    "ProgressQuotient",
    "StorageAway",
    "StorageError",
    "StudyFile",
    "StudyFileError",
    "StudyNotFound",
    "StudyResult",
    "Trial",
    "Up",
    "UserError",
    "WarmUp",
    "WorkersFailed",
    "__version__",
    "check",
    "confirm",
    "continue_trial",
    "load_best_model",
    "load_study_file",
    "predict",
    "refit",
    "report",
    "run",
]

_HOMES = {
    "contracts.callbacks": ("Callback", "FinishedTrial"),
    "results.commands.api": ("check", "confirm", "continue_trial", "predict", "refit", "report", "run"),
    "results.commands.models": ("load_best_model",),
    "results.stored.result": ("StudyResult",),
    "search.pruner": ("EarlyStoppingPruner",),
    "search.stopping": (
        "AnyOf", "GeneralizationLoss", "Overfit", "Patience", "ProgressQuotient", "Up", "WarmUp",
    ),
    "study.file": ("load_study_file",),
    "training.context": ("Trial",),
}  # fmt: skip
"""Modules and the public names in them; those that are in none are errors."""


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that it lives in."""
    if name not in __all__:
        raise AttributeError(f"module 'hpsearch' has no attribute {name!r}")
    if name == "StudyFile":
        return import_module("hpsearch.study.specification").StudySpec
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    return getattr(import_module(f"hpsearch.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

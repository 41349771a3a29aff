"""Studies as hpsearch leaves them in a database, written with Optuna itself."""

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpsearch.results.stored.reading import reading_study
from hpsearch.store.connection import open_storage
from hpsearch.store.keys import MARK, TOKEN
from hpsearch.study.file import digest, parse_study, stored_form
from hpsearch.study.search import GivenPoint, IntRange, SamplerSpec
from hpsearch.study.specification import SUFFIX, StudySpec

Result = TypeVar("Result")

SPACE = {
    "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
    "batch_size": CategoricalDistribution((16, "full")),
}


def specification(name: str, **study: Any) -> StudySpec:
    return parse_study(
        {
            "study": {"name": name, "trials": 4, "policy": "sampled", **study},
            "data": {"dataset": "digits"},
            "search": {
                "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
                "batch_size": [16, "full"],
            },
        }
    )


def load(name: str, url: str) -> optuna.Study:
    """Returns a study as Optuna itself reads it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=open_storage(url, readonly=True))


def read(function: Callable[..., Result], name: str | None, url: str, *arguments: object) -> Result:
    """Calls a function with a study that is open to be read."""
    with reading_study(name, url) as study:
        return function(study, *arguments)


def make_study(url: str, name: str, weights: str = "", own: bool = False) -> optuna.Study:
    """Writes a study of four trials: the best (1), a pruned one, one that failed, one that runs.

    Args:
        own: a name that ends as those of confirmations do makes no confirmation.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    spec = specification(name)
    if name.endswith(SUFFIX) and not own:
        point = GivenPoint(hparams={"learning_rate": 0.1, "batch_size": 16, "train.repeat": 0})
        spec = spec.model_copy(
            update={
                "search": spec.search | {"train.repeat": IntRange(low=0, high=9)},
                "sampler": SamplerSpec(name="points", points=(point,)),
            }
        )
    study.set_user_attr("specification", stored_form(spec))
    study.set_user_attr("digest", digest(spec))
    study.set_user_attr("metric", "val_loss")
    study.add_trial(_trial([0.9, 0.5], TrialState.COMPLETE, "finished", 0.1, 16))
    study.add_trial(_trial([0.8, 0.2, 0.3], TrialState.COMPLETE, "early_stopping", 0.01, "full", weights))
    study.add_trial(_trial([2.0, None], TrialState.PRUNED, "diverged", 1.0, 16))
    study.add_trial(_trial([], TrialState.FAIL, "error", 0.5, 16))
    running = study.ask(SPACE)
    running.report(0.7, 1)
    token = str(uuid.uuid4())
    storage.set_study_system_attr(study._study_id, TOKEN, token)
    storage.set_trial_system_attr(running._trial_id, MARK, token)
    storage.engine.dispose()
    return study


def _trial(
    val: Sequence[float | None], state: TrialState, reason: str, rate: float, batch: object, weights: str = ""
) -> optuna.trial.FrozenTrial:
    finite = [value for value in val if value is not None]
    score = min(finite, default=None)
    best = val.index(score) + 1 if score is not None else None
    attrs = {
        "score": score,
        "best_epoch": best,
        "epochs_run": len(val),
        "stop_reason": reason,
        "stop_detail": "no improvement" if reason == "early_stopping" else "",
        "fit": "good",
        "train_loss": [value and value / 2 for value in val],
        "val_loss": list(val),
        "epoch_seconds": [0.5] * len(val),
        "metrics_at_best": {"val_loss": score, "val_error": 0.25} if best else {},
        "seconds": 0.5 * len(val),
        "device": "cpu",
        "worker": 0,
        "attempt": 1,
        "host": "here",
        "weights": weights,
    }
    return create_trial(
        state=state,
        value=None if state is TrialState.FAIL else score,
        params={"learning_rate": rate, "batch_size": batch},
        distributions=dict(SPACE),
        user_attrs=json.loads(json.dumps(attrs)),
        intermediate_values={epoch: float("nan") if v is None else v for epoch, v in enumerate(val, start=1)},
    )

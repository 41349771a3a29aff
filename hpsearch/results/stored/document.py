"""A whole study as JSON values, for programs that know nothing of hpsearch or Optuna.

Whatever is stored as JSON text stands as values; times carry their zone; a number that is not finite is null.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from hpsearch.results.stored.best import BestTrial, best_trial
from hpsearch.results.stored.reading import OpenStudy
from hpsearch.store.keys import SPECIFICATION, is_ours
from hpsearch.store.queries import CURVES, StoredTrial
from hpsearch.study import stored_tree

FORMAT = 2
"""Raised when a field changes its meaning or goes."""


def whole_study(study: OpenStudy) -> dict[str, Any]:
    """Returns a study: its attributes, its trials, and every value per epoch."""
    return {
        "format": FORMAT,
        "study": study.name,
        "metric": study.metric,
        "direction": study.stored.directions[0],
        "answer": _answer(best_trial(study)),
        "attributes": {key: _value(value) for key, value in _unpacked(study.attrs).items()},
        "trials": [_trial(trial, study.metric) for trial in study.trials()],
    }


def _unpacked(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a study's attributes with a specification that was too long for the database as it was."""
    try:
        return {**attrs, SPECIFICATION: stored_tree(attrs[SPECIFICATION])} if is_ours(attrs) else attrs
    except ValueError:  # of another program, or damaged: it is exported as it stands
        return attrs


def _answer(best: BestTrial | None) -> dict[str, Any] | None:
    """Returns which trial is the study's answer, and what confirms it."""
    if best is None:
        return None
    return {"value": best.value, "search_value": best.search_value, **_value(asdict(best.answer))}


def encode_study(whole: Mapping[str, Any]) -> bytes:
    """Returns what `whole_study` has gathered as a JSON file."""
    return f"{json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()


def _trial(trial: StoredTrial, metric: str) -> dict[str, Any]:
    curves = {key: value for key, value in trial.user_attrs.items() if _is_curve(key, value)}
    if trial.reports:
        last = max(trial.reports)
        curves[metric] = [trial.reports.get(epoch) for epoch in range(1, last + 1)]
    count = max(map(len, curves.values()), default=0)
    return {
        "trial": trial.number,
        "state": trial.state,
        "value": _value(trial.value),
        "hparams": {name: _value(value) for name, value in trial.hparams.items()},
        "started": _time(trial.started),
        "finished": _time(trial.ended),
        "attributes": {key: _value(value) for key, value in trial.user_attrs.items() if key not in curves},
        "epochs": [
            {"epoch": epoch}
            | {name: _value(curve[epoch - 1]) for name, curve in curves.items() if epoch <= len(curve)}
            for epoch in range(1, count + 1)
        ],
    }


def _is_curve(key: str, value: Any) -> bool:
    return key in CURVES and isinstance(value, list)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _value(value: Any) -> Any:
    """Returns a value as JSON takes it; JSON text (a specification, a confusion matrix) as what it says."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return value  # a text that only looks like it
    if isinstance(value, Mapping):
        return {str(key): _value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)

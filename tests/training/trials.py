"""Trials for the tests of the training room."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpsearch.spec import parse_study
from hpsearch.spec.trial import TrialRun

DIGITS: dict[str, Any] = {
    "study": {"name": "digits", "seed": 3},
    "data": {"dataset": "digits", "subset": 0.2},
    "train": {"learning_rate": 0.05, "batch_size": 32, "epochs": 3},
    "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
}


def make_run(folder: Path, *, number: int = 0, attempt: int = 1, **tables: Mapping[str, Any]) -> TrialRun:
    """Returns a run of a study on the digits, its tables changed where `tables` say so."""
    tree = {name: {**DIGITS.get(name, {}), **tables.get(name, {})} for name in {*DIGITS, *tables}}
    return TrialRun("digits", number, attempt, {}, parse_study(tree), str(folder / f"{number:05d}"))

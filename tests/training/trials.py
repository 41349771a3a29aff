"""Trials for the tests of the training room, and a disk that is soon full."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.trial import TrialRun
from hpsearch.study import parse_study

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


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Gives a folder with room for `size` ("1m"); skips the test where no file system can be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        # Lazily: weights that were read may still be mapped into memory.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

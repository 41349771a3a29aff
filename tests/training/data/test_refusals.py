"""Fields that a kind of data cannot heed are refused, not ignored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import load
from tests.training.data.pictures import day_and_night


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """The roots of small data sets of all kinds, by name."""
    np.savez(tmp_path / "set.npz", x=np.zeros((60, 4, 4), np.uint8), y=np.arange(60) % 3)
    day_and_night(tmp_path / "photos", 12)
    for part in ("train", "valid", "test"):
        day_and_night(tmp_path / "country211", 12, prefix=part, seed=len(part) * 1000, size=14)
    return {
        "digits": tmp_path,
        "npz": tmp_path / "set.npz",
        "folder": tmp_path / "photos",
        "Country211": tmp_path,
    }


@pytest.mark.parametrize(
    ("dataset", "fields", "message"),
    [
        ("digits", {"labels": "nowhere.csv"}, r'data\.labels is "nowhere\.csv".*"digits".*leave it out'),
        ("digits", {"split": {"group_by": "(.)"}}, r'data\.split\.group_by is "\(\.\)".*leave it out'),
        ("digits", {"split": {"group_by": "column:a"}}, r'group_by is "column:a".*"digits".*leave it out'),
        ("Country211", {"labels": "nowhere.csv"}, r'data\.labels is "nowhere\.csv".*leave it out'),
        ("Country211", {"split": {"group_by": "column:patient"}}, r'no attribute "patient"'),
        ("npz", {"split": {"group_by": "(.)"}}, r"group_by.*no file names.*column:"),
        ("npz", {"split": {"group_by": "column:patient"}}, r'no array "patient".*; known: x, y'),
        ("npz", {"file_column": "name"}, r'data\.file_column is "name".*leave it out'),
        ("npz", {"label_column": "age"}, r'data\.label_column is "age".*data\.labels names no table'),
        ("folder", {"label_column": "age"}, r'data\.label_column is "age".*data\.labels names no table'),
        ("folder", {"task": "regression"}, r'data\.task is "regression".*CSV'),
    ],
)
def test_what_would_be_ignored_is_refused(
    tmp_path: Path, roots: dict[str, Path], dataset: str, fields: dict[str, Any], message: str
) -> None:
    spec = DataSpec.model_validate({"dataset": dataset, "image_size": 8, **fields})
    with pytest.raises(DataError, match=message):
        load(spec, root=str(roots[dataset]), cache=tmp_path / "cache")


@pytest.mark.parametrize("dataset", ["digits", "Country211", "npz"])
def test_numbers_of_classes_may_be_a_regression(tmp_path: Path, roots: dict[str, Path], dataset: str) -> None:
    spec = DataSpec(dataset=dataset, task="regression", image_size=8)
    data = load(spec, root=str(roots[dataset]), cache=tmp_path / "cache")
    assert (data.facts.task, data.facts.classes) == ("regression", ())


def test_groups_of_a_torchvision_set(tmp_path: Path, roots: dict[str, Path]) -> None:
    """Its data sets know their files, as `samples`."""
    split = {"group_by": r"(\d)\.png$", "official_test": False}
    spec = DataSpec.model_validate({"dataset": "Country211", "image_size": 8, "split": split})
    data = load(spec, root=str(roots["Country211"]), cache=tmp_path / "cache").at(spec)
    digits = [{int(row) % 12 % 10 for row in part.index} for part in (data.train, data.val)]
    assert not digits[0] & digits[1]

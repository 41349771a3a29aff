"""From labels as people write them to targets and classes; tables in CSV and STAR files."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpsearch.errors import DataError
from hpsearch.training.data.labels import read_table, to_targets

ONE_HOT = np.eye(3)[np.arange(9) % 3]


@pytest.mark.parametrize(
    ("labels", "classes", "first"),
    [
        (["cat", "dog", "cat"], ("cat", "dog"), [0, 1, 0]),
        (["02", "01", "10"], ("01", "02", "10"), [1, 0, 2]),
        (["10", "9", "9"], ("9", "10"), [1, 0, 0]),
        (["1.0", "2.0", "1.0"], ("1.0", "2.0"), [0, 1, 0]),
        ([10, 9, 9], ("9", "10"), [1, 0, 0]),
        ([1.0, 2.0, 1.0], ("1", "2"), [0, 1, 0]),
        ([True, False, True], ("0", "1"), [1, 0, 1]),
        ([[3], [4], [3]], ("3", "4"), [0, 1, 0]),
        (np.array([b"a", b"b", b"a"]), ("a", "b"), [0, 1, 0]),
    ],
)
def test_classes(labels: Any, classes: tuple[str, ...], first: list[int]) -> None:
    targets, names = to_targets(labels, "auto", "here")
    assert (names, targets.tolist(), targets.dtype) == (classes, first, np.int64)


@pytest.mark.parametrize("labels", [["0.5", "1"], [0.5, 1], [["1", "2"], ["3", "4"]]])
def test_numbers(labels: Any) -> None:
    targets, names = to_targets(labels, "auto", "here")
    assert (names, targets.dtype, len(targets)) == ((), np.float32, 2)
    assert np.array_equal(targets, np.array(labels, np.float32).reshape(2, -1))


def test_one_hot_rows_are_classes_if_the_study_says_so() -> None:
    targets, names = to_targets(ONE_HOT, "classification", "here")
    assert (targets.tolist(), names) == ([0, 1, 2] * 3, ("0", "1", "2"))
    assert to_targets(ONE_HOT, "classification", "here", ("a", "b", "c"))[1] == ("a", "b", "c")
    assert to_targets(ONE_HOT, "regression", "here")[0].shape == (9, 3)


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        ([1, np.nan, 2], "auto", "label of image 1 is NaN, infinite"),
        ([[1, 2], [3, 4], [5, np.inf]], "regression", "label of image 2 is NaN, infinite"),
        (["0.5", "1e39", "inf"], "regression", r"label of image 1 is .* too large .*2 labels are"),
        (["a", "", "b"], "auto", "label 2 is empty; complete or remove it"),
        (["1", "01", "2"], "auto", '"01" and "1" are the same number; write'),
        (ONE_HOT, "auto", 'one-hot.*task = "classification".*task = "regression"'),
        (np.array([1j, 2]), "auto", "complex"),
        (np.zeros((3, 2, 2)), "auto", r"shape \[3, 2, 2\]"),
        ([1, [2, 3]], "auto", "different lengths"),
        (np.array([b"\xe4", b"b"]), "auto", "UTF-8"),
    ],
)
def test_labels_that_would_be_misread_are_refused(labels: Any, task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_targets(labels, task, "here")


def star(path: Path, *loops: str) -> Path:
    path.write_text("".join(f"\ndata_{n}\n\nloop_\n{loop}\n" for n, loop in enumerate(loops)))
    return path


OPTICS = "_rlnOpticsGroup #1\n_rlnVoltage #2\n" + "\n".join(f"{n} 300" for n in range(9))
PARTICLES = "_rlnImageName #1\n_rlnClassNumber #2\n_rlnOpticsGroup #3\n1@a.mrcs 1 1\n2@a.mrcs 2 1"


@pytest.mark.parametrize("loops", [(OPTICS, PARTICLES), (PARTICLES, OPTICS)])
@pytest.mark.parametrize("column", ["rlnClassNumber", "_rlnClassNumber", "rlnOpticsGroup"])
def test_a_star_file_is_read_where_the_images_are(
    tmp_path: Path, loops: tuple[str, ...], column: str
) -> None:
    table = read_table(star(tmp_path / "p.star", *loops), column, "file")
    assert table["rlnImageName"] == ["1@a.mrcs", "2@a.mrcs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0.png,cat\n1.png,dog",
            "the first line of .* names a file, 0.png, and no columns; put a line such as",
        ),
        ("v1.0,label.name\n2.0,a", None),
    ],
)
def test_a_table_without_a_line_of_names(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message) if message else nullcontext():
        read_table(tmp_path / "t.csv", "label", "file")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label,label\na,1,2")
    with pytest.raises(DataError, match=r't\.csv has two columns called "label"; rename one'):
        read_table(tmp_path / "t.csv", "label", "file")

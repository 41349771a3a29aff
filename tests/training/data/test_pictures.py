"""Pictures in the cache: decoded once and kept once, found again by their content, within the limit."""

import contextlib
import os
import shutil
import threading
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import TrainingData, decode, load, pictures
from hpsearch.training.data.catalogue import Size
from hpsearch.training.data.decode import in_order
from hpsearch.training.data.sealed import open_test
from tests.training.data.pictures import day_and_night, noise, save


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []
    original = pictures.read_file

    def counted(
        path: Path, size: Size | None, channels: int, large: Executor | None, form: decode.Form
    ) -> np.ndarray:
        names.append(path.name)
        return original(path, size, channels, large, form)

    monkeypatch.setattr(pictures, "read_file", counted)
    return names


def loaded(root: Path, **fields: object) -> TrainingData:
    spec = DataSpec.model_validate({"dataset": "folder", "image_size": 8, **fields})
    data = load(spec, root=str(root), cache=root.parent / "cache")
    data.at(spec)
    return data


def test_pictures_are_decoded_once_and_kept_once(tmp_path: Path, decoded: list[str]) -> None:
    root = day_and_night(tmp_path / "photos", 20)
    loaded(root)
    spec = DataSpec(dataset="folder", image_size=8)
    open_test(spec, root=str(root), cache=tmp_path / "cache")
    assert len(decoded) == 40
    held = [np.load(path, mmap_mode="r") for path in (tmp_path / "cache").glob("*/*.npy")]
    assert sum(len(array) for array in held if array.ndim == 4) == 40


@pytest.mark.parametrize(
    ("change", "again"),
    [("touched", 0), ("renamed", 0), ("changed", 1), ("added", 1), ("removed", 0), ("split anew", 0)],
)
def test_only_changed_pictures_are_decoded_anew(
    tmp_path: Path, decoded: list[str], change: str, again: int
) -> None:
    root = day_and_night(tmp_path / "photos", 20)
    loaded(root)
    decoded.clear()
    picture, fields = root / "day" / "003.png", {}
    if change == "touched":
        for path in root.rglob("*.png"):
            os.utime(path)
    elif change == "renamed":
        root = root.rename(tmp_path / "other")
    elif change == "changed":
        save(picture, noise(77))
    elif change == "added":
        save(root / "day" / "more.png", noise(78))
    elif change == "removed":
        picture.unlink()
    else:
        fields = {"split": {"seed": 7}}
    found = loaded(root, **fields).at(DataSpec(dataset="folder", image_size=8))
    assert len(decoded) == again
    names = sorted(root.rglob("*.png"))
    for part in (found.train, found.val):
        for image, row in zip(part.images, part.index.tolist(), strict=True):
            assert np.array_equal(image, decode.read_file(names[row], (8, 8), 3))


def test_what_was_decoded_before_a_refusal_is_kept(tmp_path: Path, decoded: list[str]) -> None:
    root = day_and_night(tmp_path / "photos", 20)
    broken = save(root / "night" / "broken.jpg", noise(9, 12, 12))
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read.*skip_unreadable"):
        loaded(root)
    assert len(decoded) == 41
    data = loaded(root, skip_unreadable=True)
    assert decoded[41:] == ["broken.jpg"]
    assert data.facts.train + data.facts.val + data.facts.test == 40
    assert not list((tmp_path / "cache").glob("decoded-*")), "what the parts hold is held twice"


def test_one_grey_and_one_coloured_study_share_the_files(tmp_path: Path, decoded: list[str]) -> None:
    root = day_and_night(tmp_path / "photos", 20)
    grey = DataSpec(dataset="folder", image_size=8, channels=1)
    data = loaded(root)
    decoded.clear()
    assert data.at(grey).train.images.shape[1] == 1
    assert decoded == [], "a trial in grey takes the coloured ones"
    shutil.rmtree(tmp_path / "cache")
    alone = load(grey, root=str(root), cache=tmp_path / "cache").at(grey)
    assert np.array_equal(alone.train.images, data.at(grey).train.images)


def test_the_limit_is_kept_before_anything_is_written(tmp_path: Path, decoded: list[str]) -> None:
    root = day_and_night(tmp_path / "photos", 20, size=40)
    with pytest.raises(DataError, match=r"data\.cache_limit_gb is 0\.0001.*image_size"):
        loaded(root, image_size=40, cache_limit_gb=1e-4)
    assert decoded == []
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_every_pass_tells_its_progress(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", 20)
    told: list[tuple[int, int]] = []
    spec = DataSpec(dataset="folder", image_size=8)
    data = load(spec, root=str(root), cache=tmp_path / "cache", progress=lambda *now: told.append(now))
    # Headers, decoding, the part of training and validation, the test part.
    assert [now for now in told if now[0] == now[1]] == [(40, 40), (40, 40), (36, 36), (4, 4)]
    assert told[:40] == [(done, 40) for done in range(1, 41)]
    told.clear()
    data.at(spec.model_copy(update={"image_size": 4}))
    assert told[-1] == (36, 36)


def test_training_data_know_no_test_file(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", 20)
    data = loaded(root)
    spec = DataSpec(dataset="folder", image_size=8)
    test = open_test(spec, root=str(root), cache=tmp_path / "cache").test
    assert not set(test.names) & set(data._store.images._names)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("large", "together"), [(10**9, True), (100, False)])
def test_pictures_are_decoded_side_by_side_unless_they_are_very_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, together: bool
) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(number, 30, 30))
    monkeypatch.setattr(decode, "LARGE", large)
    meeting, met, original = threading.Barrier(2), [], decode._without_transparency

    def wait_for_another(image: Image.Image) -> Image.Image:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.2 if not together else 30)
            met.append(image)
        return original(image)

    monkeypatch.setattr(decode, "_without_transparency", wait_for_another)
    monkeypatch.setattr(pictures, "_THREADS", 2)
    names = [f"{number}.png" for number in range(4)]
    assert len(list(pictures.decode_all(tmp_path, names, (8, 8), (3, 3)))) == 4
    assert len(met) == (4 if together else 0)


def test_results_are_not_piled_up() -> None:
    asked: list[int] = []
    numbers = (asked.append(number) or number for number in range(1000))
    results = in_order(lambda number: number + 1, numbers, threads=2)
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    assert len(asked) <= 3 + 2 * 2
    assert list(results) == list(range(4, 1001))

"""The cache of decoded images: whole or not there, limited, and shared."""

import errno
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import cache as module
from hpsearch.training.data import load
from hpsearch.training.data.cache import Cache, open_array, write_array


def build(folder: Path) -> None:
    write_array(folder / "a.npy", (4, 2), "uint8", [np.ones((3, 2)), np.zeros((1, 2))])


def test_entries_are_built_once(tmp_path: Path) -> None:
    cache, built = Cache(tmp_path, 1), []
    for _ in range(2):
        path = cache.entry("key", lambda folder: (built.append(folder), build(folder))[0])
    assert len(built) == 1
    assert open_array(path / "a.npy").tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_who_comes_second_waits_says_so_and_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAY_FIRST", "SAY_AGAIN"):
        monkeypatch.setattr(module, name, 0.0)
    twice, said, built = threading.Event(), [], []

    def waits(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            twice.set()

    def slow(folder: Path) -> None:
        built.append(folder)
        assert twice.wait(30), "the second one did not wait"
        build(folder)

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: Cache(tmp_path, 1, waits).entry("key", slow), range(2)))
    assert paths == [tmp_path / "key"] * 2
    assert len(built) == 1
    assert said[-1] == (
        f"waits for process {os.getpid()} on {socket.gethostname()}, which prepares the same images for this run or "
        "another one"
    )


def test_a_short_wait_is_not_worth_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    cache, waits, look = Cache(tmp_path, 1, said.append), threading.Event(), module.try_lock

    def noted(file: IO[str]) -> bool | None:
        held = look(file)
        if held is None:
            waits.set()
        return held

    monkeypatch.setattr(module, "try_lock", noted)
    with ThreadPoolExecutor(1) as pool:
        with cache.lock("key"):
            second = pool.submit(cache.entry, "key", build)
            assert waits.wait(30)
        second.result(30)
    assert not said


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        build(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Cache(tmp_path, 1).entry("key", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    left, elsewhere = tmp_path / f"key.{socket.gethostname()}.abc.tmp", tmp_path / "key.node2.abc.tmp"
    for folder in (left, elsewhere):
        folder.mkdir()
        build(folder)
    for path in (elsewhere, *elsewhere.iterdir()):
        os.utime(path, (0, 0))
    Cache(tmp_path, 1).entry("key", build)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "locks"]


def test_what_another_machine_builds_is_left_alone(tmp_path: Path) -> None:
    """Where locks hold for one machine only, two machines hold the same one."""
    beside = tmp_path / "key.node2.abc.tmp"
    beside.mkdir()
    os.utime(beside, (0, 0))
    build(beside)  # its newest file counts
    Cache(tmp_path, 1).entry("key", build)
    assert open_array(beside / "a.npy").shape == (4, 2)


def test_the_limit_counts_what_is_there(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1e-6)
    cache.entry("one", lambda folder: write_array(folder / "a.npy", (600,), "uint8", [np.zeros(600)]), 600)
    with pytest.raises(DataError, match=r"data\.cache_limit_gb is 1e-06.*image_size"):
        cache.entry("two", build, 600)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"data\.cache: cannot write.*No space left"):
        Cache(tmp_path, 1).entry("key", full)
    with pytest.raises(DataError, match="free; name another folder"):
        Cache(tmp_path, 1e12).entry("key", build, 10**19)


def test_a_cache_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache: cannot write"):
        Cache(tmp_path / "file", 1).entry("key", build)


@pytest.mark.parametrize("text", ['{"x": [1]}', "[]", "no JSON", '{"kind": 3, "names": 1}'])
@pytest.mark.parametrize("name", ["catalogue.json", "statistics.json"])
def test_an_entry_that_was_edited_is_told(tmp_path: Path, name: str, text: str) -> None:
    load(DataSpec(dataset="digits"), cache=tmp_path)
    found = list(tmp_path.rglob(name))
    assert found
    for file in found:
        file.write_text(text)
    with pytest.raises(DataError, match=r"data\.cache: .* is damaged .*; delete it"):
        load(DataSpec(dataset="digits"), cache=tmp_path)


def test_an_entry_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    """A cache may be shared: whoever writes it cannot have other pictures read."""
    for name in ("photos/a/1.png", "photos/b/1.png", "private/a/1.png", "private/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for number in range(10):
            colour = (number, len(name), 9 * (name[-7] == "a"))
            Image.new("RGB", (8, 8), colour).save((tmp_path / name).with_name(f"{number}.png"))
    spec = DataSpec(dataset="folder", root=str(tmp_path / "photos"), image_size=8)
    load(spec, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob("catalogue.json")
    file.write_text(file.read_text().replace("photos", "private"))
    with pytest.raises(DataError, match=r"is damaged \(it names .*private, outside of .*photos\)"):
        load(spec, cache=tmp_path / "cache")


def test_arrays_cannot_be_changed_on_disk(tmp_path: Path) -> None:
    build(tmp_path)
    open_array(tmp_path / "a.npy")[:] = 7
    assert open_array(tmp_path / "a.npy").max() == 1

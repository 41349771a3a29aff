"""The first look at a path is a yes, a no, or a sentence."""

from pathlib import Path

import pytest

from hpsearch.errors import UserError
from hpsearch.files.paths import are_same, is_file, is_folder, is_there


def test_what_is_there_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    found = [
        (is_folder(path, "f"), is_file(path, "f"), is_there(path, "f")) for path in (tmp_path, tmp_path / "a")
    ]
    assert found == [(True, False, True), (False, True, True)]


@pytest.mark.parametrize("name", ["none", "a/below", "nul\0"])
def test_what_is_not_there_is_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").touch()
    assert not is_there(tmp_path / name, "f")


def test_what_the_system_refuses_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (("a" * 300, "File name too long"), ("loop", "Too many levels of symbolic links")):
        with pytest.raises(
            UserError, match=f"^data.root: .*{name} cannot be used: {reason}; name another path"
        ):
            is_folder(tmp_path / name, "data.root")


def test_two_ways_to_one_place_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert are_same(tmp_path / "link" / "x", str(tmp_path / "y" / ".." / "x"))
    assert not are_same(tmp_path, "nul\0")

"""Checkpoints and weights in a folder."""

import os

import pytest

from hpsearch.files.artifacts import FolderArtifacts


def test_a_kept_file_is_whole_under_both_names(tmp_path):
    artifacts = FolderArtifacts(tmp_path / "home")
    source = tmp_path / "best-00001.safetensors"
    for content in ("first", "second"):
        source.unlink(missing_ok=True)
        source.write_text(content)
        artifacts.keep(str(source), "weights/trial-00001.safetensors")
        kept = tmp_path / "home" / "weights" / "trial-00001.safetensors"
        assert (kept.read_text(), source.read_text()) == (content, content)
    assert kept.samefile(source)
    assert artifacts.names("weights") == ["trial-00001.safetensors"]
    assert artifacts.locate("weights/trial-00001.safetensors") == str(kept)


def test_where_there_are_no_links_it_is_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError("no links")))
    (tmp_path / "source").write_text("x")
    FolderArtifacts(tmp_path).keep(str(tmp_path / "source"), "weights/x")
    (tmp_path / "source").write_text("y")
    assert (tmp_path / "weights" / "x").read_text() == "x"


def test_what_cannot_be_kept_leaves_the_older_one(tmp_path):
    artifacts = FolderArtifacts(tmp_path)
    (tmp_path / "old").write_text("old")
    artifacts.keep(str(tmp_path / "old"), "kept")
    with pytest.raises(OSError):
        artifacts.keep(str(tmp_path / "nowhere"), "kept")
    assert (tmp_path / "kept").read_text() == "old"
    assert artifacts.names("") == ["kept", "old"]


def test_files_and_folders_are_removed_and_what_is_not_there_is_no_error(tmp_path):
    artifacts = FolderArtifacts(tmp_path)
    (tmp_path / "trials" / "00001" / "attempt-1").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("trials/00001", "file", "nowhere"):
        artifacts.remove(name)
    assert artifacts.names("trials") == artifacts.names("nowhere") == []
    assert not (tmp_path / "file").exists()

"""Exported tables read back with pandas hold what the study holds."""

import builtins
import io
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hpsearch.__main__ import run as run_command
from hpsearch.errors import UserError
from hpsearch.files.atomic import write_output
from hpsearch.results.commands.export import choose_format, encode
from hpsearch.results.stored.document import encode_study, whole_study
from hpsearch.results.stored.frames import epochs_frame, trials_frame
from tests.results.stored import load, make_study, read

READERS = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}


@pytest.mark.parametrize("kind", READERS)
def test_trials_read_back(sqlite_url: str, kind: str) -> None:
    make_study(sqlite_url, "one")
    frame = read(trials_frame, "one", sqlite_url)
    again = READERS[kind](io.BytesIO(encode(frame, kind)))
    assert again.columns.tolist() == frame.columns.tolist()
    assert again["trial"].tolist() == [0, 1, 2, 3, 4]
    assert again["learning_rate"].tolist() == pytest.approx(frame["learning_rate"].tolist(), rel=1e-14)
    assert again["score"].isna().tolist() == [False, False, False, True, True]
    assert [str(value) for value in again["batch_size"]][:2] == ["16", "full"]


@pytest.mark.parametrize("kind", READERS)
def test_epochs_read_back(sqlite_url: str, kind: str) -> None:
    make_study(sqlite_url, "one")
    frame = read(epochs_frame, "one", sqlite_url)
    again = READERS[kind](io.BytesIO(encode(frame, kind)))
    losses = [0.9, 0.5, 0.8, 0.2, 0.3, 2.0, 0.7]
    assert again["val_loss"].dropna().tolist() == pytest.approx(losses, rel=1e-14)
    assert again["epoch"].tolist() == frame["epoch"].tolist()


@pytest.mark.parametrize("kind", READERS)
def test_times_have_a_zone_and_weights_are_here(sqlite_url: str, tmp_path: Path, kind: str) -> None:
    here = tmp_path / "w.safetensors"
    here.write_bytes(b"w")
    make_study(sqlite_url, "one", weights=str(here))
    again = READERS[kind](io.BytesIO(encode(read(trials_frame, "one", sqlite_url), kind)))
    started = pd.to_datetime(again["started"], utc=False)
    assert str(started.dt.tz) == "UTC"
    known = load("one", sqlite_url).get_trials()[1].datetime_start
    assert known is not None
    assert started[1].timestamp() == pytest.approx(known.timestamp(), abs=0.01)
    assert again["weights"].fillna("").tolist() == ["", str(here), "", "", ""]
    here.unlink()  # what the database still names is not here any more
    assert read(trials_frame, "one", sqlite_url)["weights"].isna().all()


def test_a_whole_study_is_one_json(sqlite_url: str) -> None:
    study = make_study(sqlite_url, "one")
    study.set_user_attr("test_openings", json.dumps([{"time": "t", "models": 3}]))
    whole = json.loads(encode_study(read(whole_study, "one", sqlite_url)))
    assert (whole["study"], whole["metric"], whole["direction"]) == ("one", "val_loss", "minimize")
    assert whole["attributes"]["specification"]["data"]["dataset"] == "digits"
    assert whole["attributes"]["test_openings"] == [{"time": "t", "models": 3}]
    first, _, cut, failed, running = whole["trials"]
    assert first["hparams"] == {"learning_rate": 0.1, "batch_size": 16}
    assert first["attributes"]["metrics_at_best"] == {"val_loss": 0.5, "val_error": 0.25}
    assert first["epochs"] == [
        {"epoch": 1, "train_loss": 0.45, "val_loss": 0.9, "epoch_seconds": 0.5},
        {"epoch": 2, "train_loss": 0.25, "val_loss": 0.5, "epoch_seconds": 0.5},
    ]
    assert [epoch["val_loss"] for epoch in cut["epochs"]] == [2.0, None]
    assert (failed["state"], failed["value"], failed["epochs"]) == ("FAIL", None, [])
    assert running["epochs"] == [{"epoch": 1, "val_loss": 0.7}]
    known = study.get_trials()[0].datetime_start
    assert known is not None
    assert datetime.fromisoformat(first["started"]) == known.astimezone()
    assert first["started"].endswith("+00:00")
    assert running["finished"] is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--epochs"], "--epochs"), (["--format", "csv"], "the format csv")],
)
def test_a_whole_study_is_no_table(
    sqlite_url: str, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    make_study(sqlite_url, "one")
    assert run_command(["export", "one", "--storage", sqlite_url, "--whole", *flags]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--whole: a whole study is one JSON file, which cannot be combined with {words}" in said
    assert run_command(["export", "one", "--storage", sqlite_url, "--study"]) == 0  # its former name


def test_json_has_no_nan(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    assert b"NaN" not in encode(read(epochs_frame, "one", sqlite_url), "json")


@pytest.mark.parametrize(
    ("name", "output", "kind"),
    [
        (None, None, "csv"),
        (None, Path("a.csv"), "csv"),
        (None, Path("a.parquet"), "parquet"),
        (None, Path("a.json"), "json"),
        ("json", Path("a.csv"), "json"),
        ("parquet", None, "parquet"),
    ],
)
def test_the_format_is_named_or_the_suffix(name: str | None, output: Path | None, kind: str) -> None:
    assert choose_format(name, output) == kind


@pytest.mark.parametrize(
    ("name", "output", "words"),
    [("cvs", None, 'did you mean "csv"'), (None, Path("a.xlsx"), r"a\.xlsx.*give --format")],
)
def test_an_unknown_format_is_refused(name: str | None, output: Path | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_format(name, output)


def test_parquet_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pyarrow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(UserError, match=r'pip install "hpsearch\[parquet\]"'):
        encode(pd.DataFrame({"a": [1]}), "parquet")


def test_a_file_in_a_new_folder_and_one_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.csv"
    write_output(file, b"abc", "--output")
    assert file.read_bytes() == b"abc"
    for place in (file / "b.csv", tmp_path / "new"):
        with pytest.raises(UserError, match=rf"--output: cannot write {place}: .*; choose another place"):
            write_output(place, b"abc", "--output")
    os.symlink(file, tmp_path / "link.csv")
    write_output(tmp_path / "link.csv", b"new", "--output")
    assert (tmp_path / "link.csv").is_symlink()
    assert file.read_bytes() == b"new"


def test_a_full_disk_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    file, limits = tmp_path / "a.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_output(file, b"old", "--output")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(UserError, match=r"--output: cannot write .*a\.csv: File too large; choose"):
            write_output(file, bytes(10_000), "--output")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe.csv").read_bytes)
        write_output(tmp_path / "pipe.csv", b"abc", "--output")
        assert read.result(60) == b"abc"
    assert not (tmp_path / "pipe.csv").is_file()

"""Exported tables read back with pandas hold what the study holds."""

import builtins
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hpsearch.errors import UserError
from hpsearch.results.export import choose_format, encode, write
from hpsearch.results.reading import open_study
from hpsearch.results.tables import epochs_frame, trials_frame
from tests.results.stored import make_study

READERS = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}


@pytest.mark.parametrize("kind", READERS)
def test_trials_read_back(sqlite_url: str, kind: str) -> None:
    make_study(sqlite_url, "one")
    frame = trials_frame(open_study("one", sqlite_url))
    again = READERS[kind](io.BytesIO(encode(frame, kind)))
    assert again.columns.tolist() == frame.columns.tolist()
    assert again["trial"].tolist() == [0, 1, 2, 3, 4]
    assert again["learning_rate"].tolist() == pytest.approx(frame["learning_rate"].tolist(), rel=1e-14)
    assert again["score"].isna().tolist() == [False, False, False, True, True]
    assert [str(value) for value in again["batch_size"]][:2] == ["16", "full"]


@pytest.mark.parametrize("kind", READERS)
def test_epochs_read_back(sqlite_url: str, kind: str) -> None:
    make_study(sqlite_url, "one")
    frame = epochs_frame(open_study("one", sqlite_url))
    again = READERS[kind](io.BytesIO(encode(frame, kind)))
    losses = [0.9, 0.5, 0.8, 0.2, 0.3, 2.0, 0.7]
    assert again["val_loss"].dropna().tolist() == pytest.approx(losses, rel=1e-14)
    assert again["epoch"].tolist() == frame["epoch"].tolist()


def test_json_has_no_nan(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    assert b"NaN" not in encode(epochs_frame(open_study("one", sqlite_url)), "json")


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
    write(b"abc", tmp_path / "new" / "a.csv")
    assert (tmp_path / "new" / "a.csv").read_bytes() == b"abc"
    with pytest.raises(UserError, match="cannot write"):
        write(b"abc", tmp_path / "new" / "a.csv" / "b.csv")

"""Tables of a study as files: CSV, Parquet, JSON."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hpsearch.errors import UserError, nearest

SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".json": "json"}


def choose_format(name: str | None, output: Path | None) -> str:
    """Returns the format by its name, else by the file's suffix, else CSV.

    Raises:
        UserError: an unknown format or suffix.
    """
    if name is not None:
        if name not in FORMATS:
            raise UserError(f'--format: "{name}" is unknown; {nearest(name, FORMATS)}')
        return name
    if output is None:
        return "csv"
    if output.suffix not in SUFFIXES:
        raise UserError(
            f'--output: "{output}" does not end in {", ".join(SUFFIXES)}; rename it or give --format'
        )
    return SUFFIXES[output.suffix]


def encode(frame: pd.DataFrame, kind: str) -> bytes:
    """Returns a table in one of `FORMATS`.

    Raises:
        UserError: Parquet without pyarrow.
    """
    return FORMATS[kind](frame)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def _json(frame: pd.DataFrame) -> bytes:
    text = frame.to_json(
        orient="records", indent=2, date_format="iso", double_precision=15, force_ascii=False
    )
    return f"{text}\n".encode()


def _parquet(frame: pd.DataFrame) -> bytes:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            'Parquet needs pyarrow; run pip install "hpsearch[parquet]" or choose --format csv'
        ) from None
    buffer = io.BytesIO()
    frame.apply(_one_type).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _one_type(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Turns a column of several types into text: a batch size may be 64 or "full", Parquet takes one type."""
    kinds = {type(value) for value in column.dropna()}
    return column.map(str, na_action="ignore") if len(kinds) > 1 and column.dtype == object else column


FORMATS: Mapping[str, Callable[[pd.DataFrame], bytes]] = {"csv": _csv, "parquet": _parquet, "json": _json}

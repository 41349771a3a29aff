"""What a worker refuses when it prepares, before the study's first trial."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.errors import DeviceError
from hpsearch.training import device as devices
from hpsearch.training.build import build_engine
from tests.training.trials import make_run

CPU = torch.device("cpu")


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that cannot train in double precision, as many an accelerator."""
    monkeypatch.setattr(devices, "_trains", lambda precision, device: precision.name != "float64")


FIXED: dict[str, Any] = {"train": {"precision": "float64"}}
SEARCHED: dict[str, Any] = {"search": {"train.precision": ["auto", "float32", "float64"]}}


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (FIXED, r'^train\.precision = "float64": .*choose auto, float16, bfloat16, float32'),
        (SEARCHED, r'^search: train\.precision = "float64": '),
    ],
)
def test_a_number_type_that_the_device_lacks_is_refused(
    tmp_path: Path, tables: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeviceError, match=words):
        build_engine(make_run(tmp_path, **tables).spec, CPU, cache=str(tmp_path))


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize(
    "tables", [{}, {"train": {"precision": "float64", "function": "tests.training.loops:steady"}}]
)
def test_what_is_not_asked_for_is_not_tried(tmp_path: Path, tables: dict[str, Any]) -> None:
    engine, _ = build_engine(make_run(tmp_path, **tables).spec, CPU, cache=str(tmp_path))
    engine.close()

"""Fixtures of the tests that need a CUDA device: `pytest -m gpu`. Nothing here imports torch before a test runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.gpu.trials import BASE, GpuData, made_up_fashion

if TYPE_CHECKING:
    import torch

    from hpsearch.training.plain import PlainEngine


@pytest.fixture(scope="session", autouse=True)
def cuda() -> "torch.device":
    """The device; without one every test here is skipped with this reason."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"needs a CUDA device, and torch {torch.__version__} finds none")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def engines(cuda: "torch.device", tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "PlainEngine"]:
    """Returns engines that keep the digits: on "cuda", or on the "cpu" to compare with."""
    import torch

    from hpsearch.training.build import build_engine
    from hpsearch.training.plain import PlainEngine
    from tests.training.trials import make_run

    torch.set_num_threads(4)
    cache, built = tmp_path_factory.mktemp("cache"), {}

    def engine_on(device: str) -> PlainEngine:
        if device not in built:
            spec = make_run(cache, **BASE).spec
            built[device], _ = build_engine(spec, torch.device(device), cache=str(cache))
        found = built[device]
        assert isinstance(found, PlainEngine)
        return found

    return engine_on


@pytest.fixture
def engine(engines: Callable[[str], "PlainEngine"]) -> Iterator["PlainEngine"]:
    yield engines("cuda")
    engines("cuda").close()


@pytest.fixture(scope="session")
def fashion(tmp_path_factory: pytest.TempPathFactory, cuda: "torch.device") -> GpuData:
    """Fashion-MNIST, or where its files are not there made-up images of the same number and shape."""
    named = os.environ.get("HPSEARCH_TEST_DATA")
    root = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if (root / "FashionMNIST" / "raw").is_dir():
        return GpuData('dataset = "FashionMNIST"', str(root), f"Fashion-MNIST from {root}")
    folder = tmp_path_factory.mktemp("made-up")
    made_up_fashion(folder / "fashion.npz")
    words = "made-up images in the shape of Fashion-MNIST, whose files are not there (HPSEARCH_TEST_DATA)"
    return GpuData('dataset = "npz"', str(folder / "fashion.npz"), words)

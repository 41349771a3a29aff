"""Devices, number types, memory and seeds."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from hpsearch.errors import DeviceError
from hpsearch.training import device as devices
from tests.gpu.waiting import no_waiting

CPU = torch.device("cpu")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_the_cpu_is_always_there() -> None:
    assert devices.choose("cpu") == CPU
    assert devices.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "cuda:one", "cpu:1", "cuda:", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=rf'device "{name}" is unknown; write auto, cpu, cuda or cuda:0'):
        devices.choose(name)


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(DeviceError, match=r'device "cuda:99" not found; this process has .*cpu'):
        devices.choose("cuda:99")


@pytest.mark.parametrize(
    ("name", "dtype", "autocast", "scaler"),
    [
        ("float64", torch.float64, None, False),
        ("float32", torch.float32, None, False),
        ("bfloat16", torch.float32, torch.bfloat16, False),
        ("float16", torch.float32, torch.float16, True),
    ],
)
def test_precisions_on_the_cpu(
    name: str, dtype: torch.dtype, autocast: torch.dtype | None, scaler: bool
) -> None:
    assert devices.resolve(name, CPU) == devices.Precision(name, dtype, autocast, scaler)


def test_auto_is_float32_on_the_cpu() -> None:
    assert devices.resolve("auto", CPU).name == "float32"


@pytest.mark.gpu
@needs_gpu
def test_auto_is_bfloat16_on_a_gpu_that_has_it() -> None:
    device = devices.choose("cuda")
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    assert devices.resolve("auto", device).name == ("bfloat16" if native else "float32")


def test_a_type_that_the_device_lacks_is_refused_by_name() -> None:
    # The meta device has no numbers, so no gradient on it is finite.
    with pytest.raises(
        DeviceError, match=r'train\.precision = "float16": meta .* cannot train with it; choose auto'
    ):
        devices.resolve("float16", torch.device("meta"))


def test_the_table_of_number_types_is_what_torch_can_do() -> None:
    table = {row.name: row for row in devices.supported_dtypes(CPU)}
    for name in ("float16", "bfloat16", "float32", "float64"):
        assert table[name].add
        assert table[name].matmul
        assert table[name].train
    for name, bits in (("int8", 8), ("int16", 16), ("int32", 32), ("int64", 64), ("uint8", 8)):
        assert (table[name].bits, table[name].add, table[name].train) == (bits, True, False)


def test_versions_name_what_results_depend_on() -> None:
    found = devices.versions()
    assert found["torch"] == torch.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torchvision", "processor"} <= found.keys()


def test_the_peak_starts_anew() -> None:
    devices.reset_peak(CPU)
    low = devices.peak_memory_mb(CPU)
    big = torch.ones(64 * 2**20, dtype=torch.uint8)
    grown = devices.peak_memory_mb(CPU)
    assert 60 < grown - low < 200
    del big
    devices.release(CPU)
    devices.reset_peak(CPU)
    if sys.platform == "linux":
        assert devices.peak_memory_mb(CPU) < grown - 30


def test_no_room_on_the_host_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert devices.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_other_errors_of_memory(error: Exception, expected: bool) -> None:
    assert devices.is_out_of_memory(error) is expected


def draws(study: int, number: int, epoch: int) -> list[float]:
    generator = devices.seed_everything(study, number, epoch, CPU)
    dropped = nn.functional.dropout(torch.ones(8))
    return [*torch.rand(4, generator=generator).tolist(), *torch.rand(4).tolist(), *dropped.tolist()]


def test_seeds_are_those_of_study_trial_and_epoch() -> None:
    assert draws(1, 2, 3) == draws(1, 2, 3)
    others = [
        draws(*numbers) for numbers in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 23, 0), (12, 3, 0), (12, 30, 0))
    ]
    assert len({tuple(values) for values in [draws(1, 2, 3), *others]}) == 7


def test_seeds_are_the_same_in_every_process() -> None:
    script = (
        "import torch; from hpsearch.training.device import seed_everything;"
        "print(seed_everything(1, 2, 3, torch.device('cpu')).initial_seed(), torch.initial_seed())"
    )
    here = devices.seed_everything(1, 2, 3, CPU).initial_seed(), torch.initial_seed()
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert tuple(map(int, there.stdout.split())) == here
    assert here[0] != here[1]


def test_the_mode_that_forbids_waiting_is_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature and ...", UserWarning, stacklevel=1)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(ZeroDivisionError), no_waiting():
        raise ZeroDivisionError
    assert modes == ["error", "default"]


def test_tf32_is_switched_and_torch_tells_it_by_all_names() -> None:
    before = torch.backends.cuda.matmul.fp32_precision == "tf32"
    try:
        for allowed in (True, False, True):
            devices.allow_tf32(allowed)
            assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if allowed else "ieee")
            assert torch.backends.cudnn.conv.fp32_precision == ("tf32" if allowed else "none")  # type: ignore[attr-defined]
            # The compiler asks for these in some versions of torch.
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
            assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
    finally:
        devices.allow_tf32(before)

"""Which device a worker gets, what it refuses, and what the device can."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.errors import DataError, DeviceError
from hpsearch.executors.places import VISIBLE, plan, visible_gpus
from tests.gpu.fleet import run_worker
from tests.gpu.trials import run_of

if TYPE_CHECKING:
    import torch

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


def test_auto_is_the_gpu_and_it_can_be_named(cuda: "torch.device") -> None:
    from hpsearch.training import device

    assert device.choose("auto") == device.choose("cuda") == cuda
    assert device.choose("cuda:0").index == 0
    assert device.choose("cpu").type == "cpu"
    assert device.describe(cuda).startswith("cuda:0 ")


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(cuda: "torch.device") -> None:
    import torch

    from hpsearch.training import device

    with pytest.raises(DeviceError) as error:
        device.choose("cuda:99")
    assert 'device "cuda:99" not found; this process has cpu, cuda:0 (' in str(error.value)
    assert torch.cuda.get_device_name(0) in str(error.value)


def test_versions_name_gpu_and_driver(cuda: "torch.device") -> None:
    from hpsearch.training import device

    found = device.versions()
    assert {"cuda", "cudnn", "gpu"} <= found.keys()
    if Path("/proc/driver/nvidia/version").exists():
        assert found["driver"].count(".") >= 1
        assert found["driver"].replace(".", "").isdigit()


def test_memory_is_what_the_driver_says(cuda: "torch.device") -> None:
    import torch

    from hpsearch.training import device

    before = device.memory(cuda)
    taken = torch.empty(256 << 20, dtype=torch.uint8, device=cuda)
    after = device.memory(cuda)
    assert before
    assert after
    assert before[1] == after[1] == torch.cuda.get_device_properties(0).total_memory
    assert before[0] - after[0] >= taken.nbytes
    del taken
    device.release(cuda)
    assert device.memory(torch.device("cpu")) is None


def test_the_table_of_number_types_is_true(cuda: "torch.device") -> None:
    import torch

    from hpsearch.training import device

    table = {row.name: row for row in device.supported_dtypes(cuda)}
    for name in ("float16", "float32", "float64"):
        assert table[name].train
    assert table["bfloat16"].train or torch.cuda.get_device_capability() < (8, 0)
    for row in table.values():
        ones = torch.ones(4, 4, dtype=getattr(torch, row.name), device=cuda)
        if row.matmul:
            assert (ones @ ones).cpu().tolist() == [[1 if row.name == "bool" else 4] * 4] * 4
        else:
            with pytest.raises(RuntimeError):
                ones @ ones
        if row.name.startswith(("int", "uint", "bool")):
            assert not row.train


def test_images_go_where_the_study_says(cuda: "torch.device", tmp_path: Path) -> None:
    from hpsearch.training.data import load

    for where, kind in (("auto", "cuda"), ("gpu", "cuda"), ("cpu", "cpu")):
        spec = run_of(tmp_path, data={"device": where}).spec.data
        prepared = load(spec, cache=tmp_path, device=cuda).at(spec)
        images, targets = prepared.batch(prepared.train, slice(0, 8))
        assert prepared.train.images.device.type == kind
        assert images.device.type == targets.device.type == "cuda"


def test_images_that_do_not_fit_are_refused_or_stay_behind(
    cuda: "torch.device", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpsearch.training.data import load, loading

    monkeypatch.setattr(loading, "_free", lambda device: 1e3)
    spec = run_of(tmp_path, data={"device": "gpu"}).spec.data
    with pytest.raises(DataError, match=r'data\.device is "gpu" and the images take'):
        load(spec, cache=tmp_path, device=cuda).at(spec)
    spec = run_of(tmp_path, data={"device": "auto"}).spec.data
    assert load(spec, cache=tmp_path, device=cuda).at(spec).train.images.device.type == "cpu"


def uuids() -> Iterator[str]:
    """Yields the GPUs' UUIDs, as nvidia-smi prints them."""
    for line in subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines():
        if line.startswith("GPU ") and "UUID: " in line:
            yield line.partition("UUID: ")[2].rstrip(")")


def environ_with(value: str | None) -> dict[str, str]:
    environ = {name: text for name, text in os.environ.items() if name != VISIBLE}
    return environ if value is None else {**environ, VISIBLE: value}


@pytest.mark.parametrize("kind", ["unset", "index", "uuid"])
def test_a_worker_sees_the_gpu_that_was_planned(tmp_path: Path, kind: str) -> None:
    found = list(uuids())
    if not found:
        pytest.skip("nvidia-smi does not tell the GPUs' UUIDs here")
    inherited = os.environ.get(VISIBLE)
    if inherited is not None and kind == "unset":
        pytest.skip(f"{VISIBLE} is set, and GPUs that it leaves out must not be touched")
    first = visible_gpus(os.environ)[0]
    if kind == "uuid" and first.isdigit():
        first = found[int(first)]
    environ = environ_with(None if kind == "unset" else first)
    (place,) = plan(Workers(workers=1), 1, environ)
    assert place.gpus == (("0",) if kind == "unset" else (first,))
    ready, results = run_worker(tmp_path, place, run_of(tmp_path / "trial", train={"epochs": 1}))
    assert ready.device == "cuda"
    assert len(results) == 1


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_machine_that_hides_its_gpus_trains_on_the_cpu(tmp_path: Path, value: str) -> None:
    (place,) = plan(Workers(workers=1), 1, environ_with(value))
    assert place.gpus == ()
    with pytest.raises(DeviceError, match="there is no GPU on this machine"):
        plan(Workers(gpus="all"), 1, environ_with(value))
    code = "from hpsearch.training import device; print(device.choose('auto'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ_with(value), capture_output=True, text=True
    )
    assert done.stdout.strip() == "cpu", done.stderr


def test_a_worker_without_gpus_does_not_touch_them(tmp_path: Path) -> None:
    run = run_of(tmp_path / "trial", train={"epochs": 1})
    ready, results = run_worker(tmp_path, WorkerPlace(0), run)
    assert ready.device == "cpu"
    assert len(results) == 1

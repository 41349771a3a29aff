"""The plain engine on a GPU: the CPU's numbers, the same bits twice, resumed as unbroken, no memory lost."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpsearch.contracts.trial import EndKind, TrialEnd
from hpsearch.errors import DeviceError
from tests.gpu.trials import AUGMENT, different_sizes, finished, run_of, train

if TYPE_CHECKING:
    import torch

    from hpsearch.training.plain import PlainEngine

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]

MLP: dict[str, Any] = {"name": "mlp", "args": {"hidden": [32]}}
CNN: dict[str, Any] = {"name": "cnn", "args": {"width": 8, "hidden": 32}}
RESNET: dict[str, Any] = {"name": "resnet18"}

SPARE = 3 << 30  # bytes left free when memory is to run out

VARIANTS: dict[str, dict[str, Any]] = {
    "cnn, bfloat16": {},
    "cnn, float16, adamw": {
        "train": {"precision": "float16", "optimizer": "adamw", "learning_rate": 0.003, "clip_norm": 0.5}
    },
    "cnn, float32": {"train": {"precision": "float32", "schedule": "one_cycle"}},
    "cnn, float64": {"train": {"precision": "float64", "schedule": "plateau"}},
    "cnn, augmented": {"data": {"augment": AUGMENT}},
    "averaged, warmed up": {"train": {"ema_decay": 0.9, "warmup_epochs": 1.5, "schedule": "step"}},
    "unfreezing, adam": {
        "model": {**CNN, "freeze": ["features.*"], "unfreeze_after": 2},
        "train": {"optimizer": "adam", "learning_rate": 0.003},
    },
    "micro-batches": {"train": {"micro_batch": 20}},
    "resnet18": {"model": RESNET, "data": {"image_size": 32, "channels": 3}, "train": {"epochs": 3}},
}


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("float64", 1e-9), ("float32", 1e-3), ("float16", 0.03), ("bfloat16", 0.1), ("auto", 0.1)],
)
@pytest.mark.parametrize("model", [MLP, CNN], ids=["mlp", "cnn"])
def test_losses_are_those_of_the_cpu(
    engines: Callable[[str], "PlainEngine"],
    tmp_path: Path,
    precision: str,
    tolerance: float,
    model: dict[str, Any],
) -> None:
    # The whole set as one batch: the data's order is drawn by the device, and the losses do not know it.
    tables = {"batch_size": "full", "tf32": False, "epochs": 5, "learning_rate": 0.02}
    here, there = (
        finished(
            engines(device),
            run_of(tmp_path / device, model=model, train={**tables, "precision": name}),
        )
        for device, name in (("cpu", "float64"), ("cuda", precision))
    )
    for expected, found in zip(here[0], there[0], strict=True):
        for name in ("train_loss", "val_loss"):
            assert found[name] == pytest.approx(expected[name], rel=tolerance)
    assert here[0][-1]["train_loss"] < here[0][0]["train_loss"], "nothing was learned"
    expected_type = {"auto": ("bfloat16", "float32")}.get(precision, (precision,))
    assert there[2].facts["precision"] in expected_type
    assert str(there[2].facts["device"]).startswith("cuda:0 ")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_seed_gives_the_same_bits_and_resumed_equals_unbroken(
    engine: "PlainEngine", tmp_path: Path, name: str
) -> None:
    tables = VARIANTS[name]
    curve, weights, _ = finished(engine, run_of(tmp_path / "one", **tables))
    again, weights_again, _ = finished(engine, run_of(tmp_path / "again", **tables))
    assert again == curve
    assert equal(weights_again, weights)
    train(engine, run_of(tmp_path / "broken", **tables), 1)
    engine.close()  # and not evicted, as when the process is killed
    resumed, weights_resumed, _ = finished(engine, run_of(tmp_path / "broken", attempt=2, **tables))
    assert resumed == curve
    assert equal(weights_resumed, weights)


def equal(first: dict[str, "torch.Tensor"], second: dict[str, "torch.Tensor"]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("micro", [1, 7, 32, 63])
def test_micro_batches_give_the_batchs_gradients(engine: "PlainEngine", tmp_path: Path, micro: int) -> None:
    import torch

    gradients = []
    for number, size in enumerate((None, micro)):
        tables = {"precision": "float64", "micro_batch": size}
        engine.admit(run_of(tmp_path / str(number), model=CNN, train=tables))
        assert engine._attempt is not None
        learner, data = engine._attempt.trainings[0].learner, engine._attempt.trainings[0].data
        learner.begin_epoch(1)
        images, targets = data.batch(data.train, slice(0, 64), learner.dtype)
        learner.optimizer.zero_grad()
        parts = learner.backward(learner.place(images), targets)
        assert len(parts) == (1 if size is None else -(-64 // size))
        gradients.append([parameter.grad for parameter in learner.model.parameters()])
        engine.close()
    for whole, split in zip(*gradients, strict=True):
        torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-12)


def test_memory_comes_back_after_20_trials_of_different_sizes(engine: "PlainEngine", tmp_path: Path) -> None:
    warm_up(engine, tmp_path)
    before, peaks = in_use(), set()
    for run in different_sizes(tmp_path):
        end = finished(engine, run)[2]
        peaks.add(end.facts["peak_memory_mb"])
        assert in_use() == before, f"trial {run.number} left memory behind"
    assert len(peaks) > 10
    assert reserved_beyond(before) <= 32 << 20


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_memory_comes_back_after_an_exception(engine: "PlainEngine", tmp_path: Path, optimizer: str) -> None:
    warm_up(engine, tmp_path)
    before = in_use()
    model = {"name": "tests.gpu.nets:fails", "args": {"after": 15}}
    engine.admit(run_of(tmp_path / "bug", model=model, train={"optimizer": optimizer}))
    ends = [engine.step()[0], engine.step()[0]]
    assert isinstance(ends[1], TrialEnd)
    assert (ends[1].kind, "a bug" in ends[1].detail) == (EndKind.ERROR, True)
    del ends
    assert in_use() == before
    assert reserved_beyond(before) <= 32 << 20


def test_a_batch_that_does_not_fit_is_split_and_the_numbers_stay(
    engine: "PlainEngine", tmp_path: Path
) -> None:
    import torch

    tables = {"precision": "float32", "tf32": False, "epochs": 2}
    small = {"name": "tests.gpu.nets:hungry", "args": {"megabytes": 1}}
    expected = finished(engine, run_of(tmp_path / "fits", model=small, train=tables))
    before = in_use()
    with filled(SPARE):
        # 64 samples of 128 MB, several times over in the backward pass: far more than is left.
        large = {"name": "tests.gpu.nets:hungry", "args": {"megabytes": 128}}
        curve, _, end = finished(engine, run_of(tmp_path / "split", model=large, train=tables))
    micro = end.facts["micro_batch"]
    assert isinstance(micro, int)
    assert 1 <= micro < 64
    for whole, split in zip(expected[0], curve, strict=True):
        assert split["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-3)
    assert in_use() == before
    assert torch.cuda.memory_reserved() < SPARE


def test_what_never_fits_says_so_and_the_next_trial_runs(engine: "PlainEngine", tmp_path: Path) -> None:
    warm_up(engine, tmp_path)
    before = in_use()
    with filled(SPARE):
        never = {"name": "tests.gpu.nets:hungry", "args": {"megabytes": SPARE >> 20}}
        engine.admit(run_of(tmp_path / "never", model=never))
        (end,) = engine.step()
        assert isinstance(end, TrialEnd)
        assert end.kind is EndKind.OUT_OF_MEMORY
        assert end.detail.startswith(
            "batch_size 64 does not fit into memory, not even one sample at a time: OutOfMemoryError: "
        )
        assert end.facts["micro_batch"] == 1
        assert engine.step() == []
        assert len(train(engine, run_of(tmp_path / "next"))) == 4
        engine.evict(0, EndKind.FINISHED)
    assert in_use() == before
    assert reserved_beyond(before) <= 32 << 20


@pytest.mark.parametrize("augment", [[], AUGMENT], ids=["plain", "augmented"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_the_host_never_waits_within_an_epoch(
    engine: "PlainEngine", tmp_path: Path, augment: list[dict[str, Any]], precision: str
) -> None:
    from tests.gpu.waiting import no_waiting

    tables = {"precision": precision, "ema_decay": 0.9, "clip_norm": 1.0, "class_weights": "balanced"}
    train(engine, run_of(tmp_path, data={"augment": augment}, train=tables), 1)
    assert engine._attempt is not None
    with no_waiting():
        engine._attempt.trainings[0].train_epoch(2)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler: TF32 is there and not enabled, say
@pytest.mark.parametrize("tf32", [False, True])
def test_a_compiled_model_trains_to_the_same_numbers(
    engine: "PlainEngine", cuda: "torch.device", tmp_path: Path, tf32: bool
) -> None:
    from hpsearch.training import device

    try:
        device.require_compiler(cuda)
    except DeviceError as error:
        pytest.skip(str(error))
    curves, facts = [], []
    for choice in ("off", "on"):
        tables = {"compile": choice, "precision": "float32", "tf32": tf32, "epochs": 2}
        curve, _, end = finished(engine, run_of(tmp_path / choice, model=CNN, train=tables))
        curves.append(curve)
        facts.append(end.facts["compile"])
    assert facts == ["off", "on"]
    for plain, compiled in zip(*curves, strict=True):
        assert compiled["val_loss"] == pytest.approx(plain["val_loss"], rel=5e-2 if tf32 else 1e-2)


def warm_up(engine: "PlainEngine", folder: Path) -> None:
    """Lets the libraries take the workspaces that they keep: one trial in each number type."""
    for precision in ("float16", "bfloat16", "float32", "float64"):
        finished(engine, run_of(folder / f"warm-{precision}", train={"precision": precision, "epochs": 1}))


def in_use() -> int:
    """Returns the bytes of all tensors on the GPU."""
    import gc

    import torch

    gc.collect()
    return int(torch.cuda.memory_allocated())


def reserved_beyond(used: int) -> int:
    """Returns the bytes that this process keeps from others beyond what its tensors need."""
    import torch

    return int(torch.cuda.memory_reserved()) - used


@contextlib.contextmanager
def filled(spare: int) -> Iterator[None]:
    """Fills the GPU up but for some bytes, so that memory truly runs out."""
    import torch

    free = torch.cuda.mem_get_info()[0]
    if free < spare:
        pytest.skip(f"needs {spare >> 30} GiB of free GPU memory")
    ballast = torch.empty(free - spare, dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del ballast
        torch.cuda.empty_cache()

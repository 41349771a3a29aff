"""What the plain engine does at the limits of memory, and with a compiled model."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd
from hpsearch.errors import DeviceError
from hpsearch.training.build import build_engine
from hpsearch.training.plain import PlainEngine
from tests.training.trials import make_run

MLP: dict[str, Any] = {"name": "mlp", "args": {"hidden": [16]}}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[PlainEngine]:
    built, _ = build_engine(make_run(tmp_path).spec, torch.device("cpu"), cache=str(tmp_path / "cache"))
    assert isinstance(built, PlainEngine)
    yield built
    built.close()


class Judged(nn.Module):
    """A model for which a forward pass in validation over more than `room` samples runs out of memory."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.seen: list[int] = []
        self.layer = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training and len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen.append(len(images))
        result: torch.Tensor = self.layer(images.flatten(1))
        return result


def judged(room: int) -> nn.Module:
    return Judged(room)


def judged_run(folder: Path, room: int) -> Any:
    model = {"name": "tests.training.test_limits:judged", "args": {"room": room}}
    return make_run(folder, model=model, train={"precision": "float64"})


def test_a_validation_that_does_not_fit_is_cut_smaller(engine: PlainEngine, tmp_path: Path) -> None:
    numbers = []
    for room in (1000, 50):
        engine.admit(judged_run(tmp_path / str(room), room))
        (result,) = engine.step()
        assert isinstance(result, EpochResult)
        numbers.append(dict(result.metrics))
        assert engine._attempt is not None
        model = engine._attempt.trainings[0].learner.model
        assert isinstance(model, Judged)
        assert max(model.seen[-2:]) <= room
        engine.evict(0, EndKind.FINISHED)
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-12)


def test_what_fits_in_training_alone_is_not_said_to_be_the_batch(engine: PlainEngine, tmp_path: Path) -> None:
    engine.admit(judged_run(tmp_path, 2))  # the model is tried with two samples
    assert engine._attempt is not None
    model = engine._attempt.trainings[0].learner.model
    assert isinstance(model, Judged)
    model.room = 0
    (end,) = engine.step()
    assert isinstance(end, TrialEnd)
    assert end.kind is EndKind.OUT_OF_MEMORY
    assert end.detail.startswith("the trial does not fit into memory: OutOfMemoryError: CUDA out of memory")
    assert "micro_batch" not in end.facts
    assert engine.step() == []


@pytest.mark.parametrize(("choice", "fact"), [("auto", "off (auto: compiling takes longer"), ("off", "off")])
def test_a_trial_says_whether_it_was_compiled(
    engine: PlainEngine, tmp_path: Path, choice: str, fact: str
) -> None:
    engine.admit(make_run(tmp_path, model=MLP, train={"compile": choice, "epochs": 1}))
    engine.step()
    end = engine.evict(0, EndKind.FINISHED)
    assert str(end.facts["compile"]).startswith(fact)


def test_compiling_without_a_compiler_is_refused_with_the_remedy(
    engine: PlainEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    run = make_run(tmp_path, model=MLP, train={"compile": "on", "epochs": 1})
    with pytest.raises(
        DeviceError, match=r'train.compile = "on": .*\+\+ is not on the PATH.*apt-get install'
    ):
        engine.admit(run)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="CXX=no-such-compiler is not on the PATH"):
        engine.admit(run)


@pytest.mark.timeout(300)
def test_a_compiled_model_trains_to_the_same_numbers_and_keeps_its_names(
    engine: PlainEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without code generation, which takes a minute and a compiler; the GPU tests compile in earnest.
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    curves, weights = [], []
    for choice in ("off", "on"):
        run = make_run(tmp_path / choice, model=MLP, train={"compile": choice, "epochs": 2})
        engine.admit(run)
        curves.append([dict(result.metrics) for _ in range(2) for result in engine.step()])
        assert engine._attempt is not None
        learner = engine._attempt.trainings[0].learner
        assert (learner._predict is learner.model) == (choice == "off")
        weights.append(dict(learner.model.state_dict()))
        engine.evict(0, EndKind.FINISHED)
    for plain, compiled in zip(*curves, strict=True):
        assert compiled == pytest.approx(plain, rel=1e-4)
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)

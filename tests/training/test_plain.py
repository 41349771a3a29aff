"""The plain engine: resume equals unbroken, micro-batches equal batches, and what each option does."""

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun
from hpsearch.errors import ModelError
from hpsearch.training.batches import ByClass, cut, image_size_at, pieces
from hpsearch.training.build import build_engine
from hpsearch.training.device import seed_everything
from hpsearch.training.plain import PlainEngine
from hpsearch.training.weights import read_weights
from tests.training.trials import make_run

CPU = torch.device("cpu")

CNN: dict[str, Any] = {"name": "cnn", "args": {"width": 4, "hidden": 16, "dropout": 0.3, "norm": True}}
MLP: dict[str, Any] = {"name": "mlp", "args": {"hidden": [16]}}

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "adam": {"optimizer": "adam", "learning_rate": 0.003},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.01},
}
SCHEDULES = ["constant", "cosine", "step", "plateau", "one_cycle", "wsd"]
# Steep enough to lower the rate within five epochs.
STEEP: dict[str, dict[str, Any]] = {"plateau": {"plateau_patience": 0, "learning_rate": 0.3}}
AUGMENT = [
    {"name": "crop", "padding": 1},
    {"name": "rotate", "degrees": 10.0},
    {"name": "mixup", "alpha": 0.4},
]

# What a trial is, and whose state must survive a crash beside the weights.
VARIANTS: dict[str, dict[str, Any]] = {
    **{
        f"{optimizer}-{schedule}": {
            "train": {**OPTIMIZERS[optimizer], "schedule": schedule, **STEEP.get(schedule, {})},
            "data": {"augment": AUGMENT},
        }
        for optimizer, schedule in itertools.product(OPTIMIZERS, SCHEDULES)
    },
    "warm-up, clipping, averaging": {
        "train": {"warmup_epochs": 2.5, "clip_norm": 0.5, "ema_decay": 0.9, "label_smoothing": 0.1}
    },
    "unfreezing": {"model": {"freeze": ["features.*"], "unfreeze_after": 2}, "train": OPTIMIZERS["adam"]},
    "unfreezing with momentum": {"model": {"freeze": ["features.*"], "unfreeze_after": 2}},
    "unfreezing with multipliers": {
        "model": {"freeze": ["features.*"], "unfreeze_after": 2},
        "train": {"lr_multipliers": {"features.*": 0.1}, "schedule": "one_cycle"},
    },
    "unfreezing by stages": {
        "train": {"stages": ["head", {"name": "all", "rate": 0.3}], "layer_decay": 0.7, "schedule": "wsd"}
    },
    "unfreezing by stages, with Adam": {
        "model": {"freeze": ["features.0.*"]},
        "train": {
            **OPTIMIZERS["adamw"],
            "stages": [{"name": "head", "epochs": 2, "rate": 3.0}, "all"],
            "ema_decay": 0.9,
            "lr_multipliers": {"classifier.*": 2.0},
        },
        "data": {"augment": AUGMENT},
    },
    "parts of one's own": {
        "train": {
            "optimizer": "torch.optim:RAdam",
            "schedule": "tests.training.parts:halves",
            "loss": "tests.training.parts:cross_entropy",
            "metrics": {"val_share": {"build": "tests.training.parts:share", "direction": "maximize"}},
            "lr_multipliers": {"features.*": 0.1},
        }
    },
    "unfreezing with an optimizer of one's own": {
        "model": {"freeze": ["features.*"], "unfreeze_after": 2},
        "train": {"optimizer": "torch.optim:NAdam", "learning_rate": 0.003},
    },
    "balanced sampling": {"train": {"sampling": "balanced", "class_weights": "balanced"}},
    "micro-batches": {"train": {"micro_batch": 5}},
    "float64": {"train": {"precision": "float64"}},
    "bfloat16": {"train": {"precision": "bfloat16"}},
    "full batch": {"train": {"batch_size": "full"}},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> PlainEngine:
    cache = tmp_path_factory.mktemp("cache")
    built, _ = build_engine(make_run(cache).spec, CPU, cache=str(cache))
    assert isinstance(built, PlainEngine)
    return built


@pytest.fixture
def engine(shared: PlainEngine) -> Iterator[PlainEngine]:
    yield shared
    shared.close()


def run_of(folder: Path, *, attempt: int = 1, **tables: Any) -> TrialRun:
    """Returns a small trial; the tables given are laid over it."""
    base: dict[str, Any] = {"model": CNN, "train": {"epochs": 5}, "data": {"subset": 0.1}}
    tables = {name: {**base.get(name, {}), **tables.get(name, {})} for name in {*base, *tables}}
    if tables["model"]["name"] != "cnn" and tables["model"]["args"] == CNN["args"]:
        del tables["model"]["args"]
    return make_run(folder, attempt=attempt, **tables)


def train(engine: PlainEngine, run: TrialRun, epochs: int | None = None) -> list[EpochResult]:
    """Admits a trial and trains so many epochs, or all that remain."""
    started = engine.admit(run)
    left = run.spec.train.epochs - len(started.curve)
    results = [item for _ in range(left if epochs is None else epochs) for item in engine.step()]
    assert all(isinstance(item, EpochResult) for item in results), results
    return [*started.curve, *(item for item in results if isinstance(item, EpochResult))]


def metrics(results: list[EpochResult]) -> list[dict[str, float]]:
    return [dict(result.metrics) for result in results]


def kept(end: TrialEnd) -> dict[str, torch.Tensor]:
    assert end.weights is not None
    return dict(read_weights(Path(end.weights))[0])


def last_weights(engine: PlainEngine) -> dict[str, torch.Tensor]:
    """Returns the weights as they are now, not those of the best epoch."""
    assert engine._attempt is not None
    return {
        name: tensor.clone()
        for name, tensor in engine._attempt.trainings[0].learner.model.state_dict().items()
    }


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def breaks() -> Iterator[tuple[str, int]]:
    """Yields each variant with the epoch after which it is broken; what unfreezes, after every epoch."""
    for name in VARIANTS:
        epochs = range(1, 5) if name.startswith("unfreezing") else [random.Random(name).randint(1, 4)]
        yield from ((name, epoch) for epoch in epochs)


@pytest.mark.parametrize(("name", "broken_at"), list(breaks()))
def test_resumed_equals_unbroken(engine: PlainEngine, tmp_path: Path, name: str, broken_at: int) -> None:
    tables = VARIANTS[name]
    unbroken = train(engine, run_of(tmp_path / "unbroken", **tables))
    expected_last = last_weights(engine)
    expected_best = kept(engine.evict(0, EndKind.FINISHED))
    train(engine, run_of(tmp_path / "broken", **tables), broken_at)
    engine.close()  # and not evicted, as when the process is killed
    results = train(engine, run_of(tmp_path / "broken", attempt=2, **tables))
    assert metrics(results) == metrics(unbroken)
    assert equal(last_weights(engine), expected_last)
    assert equal(kept(engine.evict(0, EndKind.FINISHED)), expected_best)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "wsd"])
def test_a_trial_that_ends_before_its_schedule_follows_it_to_there(
    engine: PlainEngine, tmp_path: Path, schedule: str
) -> None:
    whole = train(engine, run_of(tmp_path / "whole", train={"schedule": schedule}))
    engine.close()
    short = run_of(tmp_path / "short", train={"schedule": schedule, "last_epoch": 3})
    results = train(engine, short, 3)
    assert metrics(results) == metrics(whole)[:3]
    assert [result.last for result in results] == [False, False, True]


def test_every_epoch_has_an_order_of_its_own(engine: PlainEngine, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    engine.admit(run)
    assert engine._attempt is not None

    def order(epoch: int) -> list[int]:
        assert engine._attempt is not None
        generator = seed_everything(run.spec.study.seed, run.number, epoch, CPU)
        return [
            int(label)
            for _, labels in engine._attempt.trainings[0].batches(epoch, generator)
            for label in labels
        ]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))
    first = train(engine, run_of(tmp_path / "again", train={"learning_rate": 1e-12}), 2)
    # The weights hardly move: another training loss comes from other dropout and other batches alone.
    assert abs(first[0].metrics["train_loss"] - first[1].metrics["train_loss"]) > 1e-6


def test_balanced_sampling_draws_each_class_equally_often() -> None:
    targets = torch.tensor([2] * 900 + [0] * 90 + [5] * 10)
    by_class, generator = ByClass(targets), torch.Generator().manual_seed(0)
    drawn = torch.cat([by_class.draw(len(targets), generator) for _ in range(30)])
    counts = torch.bincount(targets[drawn], minlength=6)
    assert counts[[1, 3, 4]].sum() == 0
    # 10,000 of each are expected, with a standard deviation of 82.
    assert (counts[[0, 2, 5]] - 10_000).abs().max() < 5 * 82
    assert set(drawn.tolist()) == set(range(1000))
    assert not torch.equal(by_class.draw(1000, generator), by_class.draw(1000, generator))


def test_a_trial_trains_on_the_classes_equally_often(engine: PlainEngine, tmp_path: Path) -> None:
    run = run_of(tmp_path, train={"sampling": "balanced", "batch_size": "full"}, data={"subset": 0.5})
    engine.admit(run)
    assert engine._attempt is not None
    (training,) = engine._attempt.trainings
    seen = [
        labels
        for epoch in range(1, 21)
        for _, labels in training.batches(epoch, seed_everything(0, 0, epoch, CPU))
    ]
    assert len(seen[0]) == len(training.data.train)
    shares = torch.bincount(torch.cat(seen)).double() / sum(map(len, seen))
    torch.testing.assert_close(shares, torch.full((10,), 0.1, dtype=torch.float64), rtol=0.15, atol=0)


def test_another_seed_and_another_trial_give_other_numbers(engine: PlainEngine, tmp_path: Path) -> None:
    same, again = (train(engine, run_of(tmp_path / name), 1) for name in ("a", "b"))
    other = train(engine, run_of(tmp_path / "c", study={"seed": 4}), 1)
    assert metrics(same) == metrics(again) != metrics(other)


@pytest.mark.parametrize("micro", [1, 7, 16, 31, 32, 1000])
def test_micro_batches_equal_the_batch(engine: PlainEngine, tmp_path: Path, micro: int) -> None:
    def trained(**more: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        tables = {"precision": "float64", "clip_norm": 1.0, "epochs": 2, **more}
        results = train(engine, run_of(tmp_path / str(len(more)), model=MLP, train=tables))
        weights = last_weights(engine)
        engine.evict(0, EndKind.FINISHED)
        return metrics(results), weights

    whole, weights = trained()
    split, split_weights = trained(micro_batch=micro)
    for one, other in zip(whole, split, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    for name, tensor in weights.items():
        torch.testing.assert_close(split_weights[name], tensor, rtol=1e-9, atol=1e-12)


class Narrow(nn.Module):
    """A model for which a forward pass in training over more than `room` samples runs out of memory."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.layer = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.layer(images.flatten(1))


def narrow(room: int) -> nn.Module:
    return Narrow(room)


@pytest.mark.parametrize(("room", "micro"), [(31, 16), (10, 8), (1, 1)])
def test_a_batch_that_does_not_fit_is_split(
    engine: PlainEngine, tmp_path: Path, room: int, micro: int
) -> None:
    model = {"name": "tests.training.test_plain:narrow", "args": {"room": 1000}}
    wide = train(engine, run_of(tmp_path / "wide", model=model, train={"precision": "float64", "epochs": 2}))
    engine.evict(0, EndKind.FINISHED)
    model = {"name": "tests.training.test_plain:narrow", "args": {"room": room}}
    results = train(
        engine, run_of(tmp_path / "narrow", model=model, train={"precision": "float64", "epochs": 2})
    )
    end = engine.evict(0, EndKind.FINISHED)
    assert end.facts["micro_batch"] == micro
    for one, other in zip(metrics(wide), metrics(results), strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_what_never_fits_ends_out_of_memory_and_the_engine_goes_on(
    engine: PlainEngine, tmp_path: Path
) -> None:
    model = {"name": "tests.training.test_plain:narrow", "args": {"room": 0}}
    engine.admit(run_of(tmp_path, model=model))
    end = engine.step()[0]
    assert isinstance(end, TrialEnd)
    assert end.kind is EndKind.OUT_OF_MEMORY
    assert "batch_size 32 does not fit into memory, not even one sample at a time" in end.detail
    assert engine.step() == []
    assert len(train(engine, run_of(tmp_path / "next"), 1)) == 1


class Normed(Narrow):
    """The same, with BatchNorm over numbers that are one per sample."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.norm = nn.BatchNorm1d(10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(images))


def normed(room: int) -> nn.Module:
    return Normed(room)


def test_batch_norm_ends_out_of_memory_where_two_samples_do_not_fit(
    engine: PlainEngine, tmp_path: Path
) -> None:
    model = {"name": "tests.training.test_plain:normed", "args": {"room": 1}}
    engine.admit(run_of(tmp_path, model=model))
    end = engine.step()[0]
    assert isinstance(end, TrialEnd)
    assert end.kind is EndKind.OUT_OF_MEMORY
    assert "BatchNorm cannot train on a single one" in end.detail
    assert "not even one" not in end.detail
    assert end.facts["micro_batch"] == 2
    assert engine.step() == []


@pytest.mark.parametrize("train_table", [{"micro_batch": 2, "batch_size": 5}, {"batch_size": 3}])
def test_batch_norm_trains_in_pairs(engine: PlainEngine, tmp_path: Path, train_table: dict[str, Any]) -> None:
    model = {"name": "tests.training.test_plain:normed", "args": {"room": 3}}
    assert len(train(engine, run_of(tmp_path, model=model, train=train_table), 1)) == 1


@pytest.mark.parametrize("train_table", [{"micro_batch": 1}, {"batch_size": 1}])
def test_batch_norm_refuses_single_samples_that_are_asked_for(
    engine: PlainEngine, tmp_path: Path, train_table: dict[str, Any]
) -> None:
    (field,) = train_table
    model = {"name": "tests.training.test_plain:normed", "args": {"room": 99}}
    with pytest.raises(ModelError, match=f"train.{field} = 1: .* BatchNorm") as caught:
        engine.admit(run_of(tmp_path, model=model, train=train_table))
    assert "use 2 or more" in str(caught.value)
    frozen = run_of(tmp_path / "frozen", model={**model, "freeze": ["norm.*"]}, train=train_table)
    assert len(train(engine, frozen, 1)) == 1
    engine.evict(0, EndKind.FINISHED)
    many = {"name": "cnn", "args": {"norm": True}}  # 64 numbers per channel and sample
    assert len(train(engine, run_of(tmp_path / "many", model=many, train=train_table), 1)) == 1


def test_trying_one_sample_leaves_the_model_as_it_was(engine: PlainEngine, tmp_path: Path) -> None:
    engine.admit(run_of(tmp_path / "tried", train={"micro_batch": 1}))
    assert torch.equal(last_weights(engine)["features.1.running_var"], torch.ones(4))
    assert last_weights(engine)["features.1.num_batches_tracked"] == 0


class Fails(nn.Module):
    """A model with a bug that shows after some forward passes in training."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after
        self.layer = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.left -= self.training
        if self.left < 0:
            raise IndexError("a bug")
        return self.layer(images.flatten(1))


def fails(after: int) -> nn.Module:
    return Fails(after)


def test_a_bug_keeps_the_best_weights_so_far(engine: PlainEngine, tmp_path: Path) -> None:
    model = {"name": "tests.training.test_plain:fails", "args": {"after": 8}}
    checkpoint = {"every_seconds": 3600.0}
    engine.admit(run_of(tmp_path, model=model, checkpoint=checkpoint))
    assert isinstance(engine.step()[0], EpochResult)  # 5 batches
    end = engine.step()[0]
    assert isinstance(end, TrialEnd)
    assert (end.kind, end.detail) == (EndKind.ERROR, "IndexError: a bug")
    assert "test_plain.py" in end.traceback
    assert kept(end)["layer.weight"].shape == (10, 64)


def test_divergence_is_reported_and_not_kept(engine: PlainEngine, tmp_path: Path) -> None:
    results = train(engine, run_of(tmp_path, train={"learning_rate": 1e12, "schedule": "constant"}), 3)
    assert not math.isfinite(results[-1].metrics["val_loss"])
    end = engine.evict(0, EndKind.STOPPED)
    best = [r.epoch for r in results if math.isfinite(r.metrics["val_loss"])]
    assert (end.weights is None) == (not best)


def test_the_best_epoch_follows_the_studys_metric(engine: PlainEngine, tmp_path: Path) -> None:
    study = {"metric": "val_macro_f1"}
    results = train(engine, run_of(tmp_path, study=study))
    end = engine.evict(0, EndKind.FINISHED)
    scores = [result.metrics["val_macro_f1"] for result in results]
    assert end.weights is not None
    metadata = read_weights(Path(end.weights))[1]
    assert metadata["epoch"] == str(scores.index(max(scores)) + 1)


def test_facts(engine: PlainEngine, tmp_path: Path) -> None:
    results = train(engine, run_of(tmp_path, model=MLP))
    end = engine.evict(0, EndKind.FINISHED)
    facts = dict(end.facts)
    assert facts["parameters"] == facts["trainable_parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert facts["precision"] == "float32"
    assert isinstance(facts["peak_memory_mb"], float)
    assert isinstance(facts["samples_per_second"], float)
    assert "torch 2" in str(facts["versions"])
    assert "micro_batch" not in facts
    confusion = torch.tensor(eval(str(facts["confusion"])))
    best = min(results, key=lambda result: result.metrics["val_loss"])
    error = 1 - confusion.diagonal().sum().item() / confusion.sum().item()
    assert error == pytest.approx(best.metrics["val_error"])
    worst, share = str(facts["class_errors"]).split(", ")[0].split(": ")
    counts = confusion[int(worst)]
    assert float(share) == pytest.approx(1 - counts[int(worst)].item() / counts.sum().item(), abs=0.01)


def test_frozen_layers_do_not_change_until_they_are_unfrozen(engine: PlainEngine, tmp_path: Path) -> None:
    run = run_of(tmp_path, model={**MLP, "freeze": ["1.*"], "unfreeze_after": 2})
    engine.admit(run)
    states = []
    for _ in range(4):
        states.append(last_weights(engine))
        engine.step()
    frozen = next(name for name in states[0] if name.startswith("1."))
    assert torch.equal(states[0][frozen], states[2][frozen])
    assert not torch.equal(states[2][frozen], states[3][frozen])


def test_stages_train_the_head_and_then_everything(engine: PlainEngine, tmp_path: Path) -> None:
    stages = [{"name": "head", "epochs": 2}, {"name": "all", "rate": 0.1}]
    engine.admit(
        run_of(tmp_path, model=CNN, train={"stages": stages, "layer_decay": 0.5, "schedule": "constant"})
    )
    assert engine._attempt is not None
    learner = engine._attempt.trainings[0].learner
    states, rates = [], []
    for _ in range(4):
        states.append(last_weights(engine))
        engine.step()
        rates.append([group["lr"] for group in learner.optimizer.param_groups])
    head = {"classifier.4.weight", "classifier.4.bias"}
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    # BatchNorm's statistics below the head stay too, and so does the count of its batches.
    assert changed == head
    assert {name for name in states[2] if not torch.equal(states[2][name], states[3][name])} == set(states[0])
    assert rates[:2] == [[0.05]] * 2
    lowest = max(learner._depths.values())
    assert sorted(rates[2]) == pytest.approx(sorted(0.005 * 0.5**depth for depth in range(lowest + 1)))


def test_progressive_resizing_trains_on_growing_images(
    engine: PlainEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    data = {"progressive": [[0.0, 4], [0.4, 6], [0.8, 8]]}
    real = Pooled.forward

    def noting(self: Pooled, images: torch.Tensor) -> torch.Tensor:
        sizes.append((self.training, images.shape[-1]))
        return real(self, images)

    monkeypatch.setattr(Pooled, "forward", noting)
    engine.admit(run_of(tmp_path, model={"name": "tests.training.test_plain:pooled"}, data=data))
    sizes.clear()  # the model was tried on images of every size
    for _ in range(5):
        engine.step()
    stages = [key for key, _ in itertools.groupby(size for training, size in sizes if training)]
    assert stages == [4, 6, 8]
    assert {size for training, size in sizes if not training} == {8}


def test_a_model_that_cannot_take_the_smaller_images_is_refused(engine: PlainEngine, tmp_path: Path) -> None:
    data = {"progressive": [[0.0, 4], [0.5, 8]]}
    with pytest.raises(ModelError, match="cannot take images of 1 x 4 x 4"):
        engine.admit(run_of(tmp_path, model=MLP, data=data))
    assert engine.step() == []


class Pooled(nn.Module):
    """A model for images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.mean((2, 3)))


def pooled() -> nn.Module:
    return Pooled()


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((10, 3), [3, 3, 4]),  # a last batch of one is merged
        ((11, 3), [3, 3, 3, 2]),
        ((12, 3), [3, 3, 3, 3]),
        ((10, 3, True), [3, 3, 3]),
        ((11, 3, True), [3, 3, 3]),
        ((12, 3, True), [3, 3, 3, 3]),
        ((10, "full"), [10]),
        ((10, "full", True), [10]),
        ((10, 100), [10]),
        ((10, 100, True), [10]),
        ((4, 1), [1, 1, 1, 1]),
        ((1, 1), [1]),
        ((1, "full"), [1]),
        ((10, 3, False, 2), [3, 3]),
        ((10, 9), [10]),
    ],
)
def test_cut(arguments: tuple[Any, ...], sizes: list[int]) -> None:
    batches = cut(*arguments)
    assert [batch.stop - batch.start for batch in batches] == sizes
    assert [batch.start for batch in batches] == [0, *itertools.accumulate(sizes)][:-1]


@pytest.mark.parametrize(
    ("samples", "micro", "sizes"),
    [
        (10, 3, [2, 3, 2, 3]), (10, 10, [10]), (10, 11, [10]), (3, 1, [1, 1, 1]), (1, 1, [1]), (1, 2, [1]),
        (5, 2, [2, 3]), (3, 2, [3]), (6, 2, [2, 2, 2]), (7, 3, [2, 2, 3]), (4, 3, [2, 2]),
    ],
)  # fmt: skip
def test_pieces(samples: int, micro: int, sizes: list[int]) -> None:
    assert [piece.stop - piece.start for piece in pieces(samples, micro)] == sizes


@pytest.mark.parametrize("micro", range(1, 8))
def test_no_piece_is_a_single_sample_unless_all_are(micro: int) -> None:
    for samples in range(1, 40):
        sizes = [piece.stop - piece.start for piece in pieces(samples, micro)]
        assert sum(sizes) == samples
        assert max(sizes) <= (3 if micro == 2 else micro)
        assert min(sizes) > 1 or max(sizes) == 1


@pytest.mark.parametrize(("epoch", "size"), [(1, 16), (5, 16), (6, 24), (8, 24), (9, 32), (10, 32)])
def test_image_size_at(epoch: int, size: int) -> None:
    assert image_size_at(epoch, 10, ((0.0, 16), (0.5, 24), (0.8, 32))) == size
    assert image_size_at(epoch, 10, ()) is None


@pytest.mark.parametrize(
    ("train_table", "samples"),
    [({"steps_per_epoch": 2}, 64), ({"drop_last": True}, 128), ({}, 143), ({"batch_size": 1}, 143)],
)
def test_samples_per_epoch(
    engine: PlainEngine, tmp_path: Path, train_table: dict[str, Any], samples: int
) -> None:
    result = train(engine, run_of(tmp_path, model=MLP, train=train_table), 1)[0]
    assert abs(result.samples - samples) <= 1

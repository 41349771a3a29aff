"""Trials of all folds: each model is what a trial of its own would train, and a killed worker costs time alone."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import EndKind, EpochResult, TrialRun
from hpsearch.errors import DataError, ModelError
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import parse_study
from hpsearch.study.specification import StudySpec
from hpsearch.training.build import build_engine
from hpsearch.training.data import load
from hpsearch.training.plain import PlainEngine
from hpsearch.training.saved import load_model
from hpsearch.training.weights import read_weights
from tests.databases import stored_trials

CPU = torch.device("cpu")
FOLDS = 3
MODEL = {"name": "cnn", "args": {"width": 4, "hidden": 16, "dropout": 0.3, "norm": True}}
AUGMENT = [{"name": "crop", "padding": 1}, {"name": "mixup", "alpha": 0.4}]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "augmented, averaged, balanced": {
        "data": {"augment": AUGMENT, "subset": 0.7},
        "train": {
            "ema_decay": 0.9,
            "class_weights": "balanced",
            "schedule": "plateau",
            "plateau_patience": 0,
        },
    },
    "features of a frozen backbone": {"train": {"stages": ["head"]}},
    "stages": {"train": {"stages": [{"name": "head", "epochs": 1}, "all"], "layer_decay": 0.7}},
}


def study(folder: Path, split: dict[str, Any], root: str = "all.npz", **tables: Any) -> StudySpec:
    base: dict[str, Any] = {
        "study": {"name": "folds", "seed": 5},
        "data": {"dataset": "npz", "root": str(folder / root), "split": {"test": 0.2, "train": 0.7, **split}},
        "model": MODEL,
        "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "precision": "float64"},
        "search": {"learning_rate": [0.05]},
    }
    return parse_study({name: {**base.get(name, {}), **tables.get(name, {})} for name in {*base, *tables}})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with 150 pictures of digits in one file, whose training parts differ in their range."""
    folder = tmp_path_factory.mktemp("digits")
    known = load_digits()
    np.savez(folder / "all.npz", x=known.images[:150].astype(np.float32), y=known.target[:150])
    return folder


def trained(spec: StudySpec, folder: Path, number: int, epochs: int = 3) -> tuple[list[EpochResult], Any]:
    """Returns a trial's curve and how it ended."""
    engine, _ = build_engine(spec, CPU, cache=str(folder / "cache"))
    engine.admit(TrialRun("folds", number, 1, {}, spec, str(folder / "trials")))
    results = [engine.step()[0] for _ in range(epochs)]
    assert all(isinstance(result, EpochResult) for result in results), results
    return results, engine.evict(number, EndKind.FINISHED)  # type: ignore[return-value]


def means(curves: list[list[EpochResult]]) -> list[dict[str, float]]:
    return [
        {name: sum(one.metrics[name] for one in epoch) / len(epoch) for name in epoch[0].metrics}
        for epoch in zip(*curves, strict=True)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_trial_of_all_folds_is_the_mean_of_trials_of_each(
    digits: Path, tmp_path: Path, variant: str
) -> None:
    spec = study(digits, {"folds": FOLDS}, **VARIANTS[variant])
    whole, end = trained(spec, tmp_path / "all", 4)
    alone = [trained(one, tmp_path / str(fold), 4) for fold, one in enumerate(spec.each_fold())]
    for found, expected in zip(whole, means([curve for curve, _ in alone]), strict=True):
        assert found.metrics == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert [one.samples for one in whole] == [sum(c[e].samples for c, _ in alone) for e in range(3)]
    if "frozen" in variant:
        assert end.facts["features"] == alone[0][1].facts["features"]
    best = min(whole, key=lambda one: one.metrics["val_loss"]).epoch
    weights, texts = read_weights(Path(end.weights))
    assert (texts["epoch"], texts["folds"]) == (str(best), str(FOLDS))
    for fold, (curve, alone_end) in enumerate(alone):
        if min(curve, key=lambda one: one.metrics["val_loss"]).epoch == best:
            for name, tensor in read_weights(Path(alone_end.weights))[0].items():
                torch.testing.assert_close(weights[f"{fold}.{name}"], tensor, rtol=1e-10, atol=1e-10)


def test_a_fold_trains_what_data_with_these_parts_would(digits: Path, tmp_path: Path) -> None:
    """The independent trial knows nothing of folds: its file holds the parts, as any data set of parts does."""
    spec = study(digits, {"folds": FOLDS})
    known = np.load(digits / "all.npz")
    data = load(spec.data, cache=tmp_path / "cache")
    curves = []
    for fold, one in enumerate(spec.each_fold()):
        parts = data.at(one.data)
        arrays = {}
        for name, part in (("train", parts.train), ("val", parts.val)):
            rows = np.sort(part.index.numpy())
            arrays |= {f"x_{name}": known["x"][rows], f"y_{name}": known["y"][rows]}
        arrays |= {"x_test": known["x"][:10], "y_test": known["y"][:10]}
        np.savez(tmp_path / f"{fold}.npz", **arrays)
        alone = study(tmp_path, {}, f"{fold}.npz")
        curves.append(trained(alone, tmp_path / str(fold), 4 * FOLDS + fold)[0])
    whole, _ = trained(spec, tmp_path / "all", 4)
    for found, expected in zip(whole, means(curves), strict=True):
        assert found.metrics == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_every_image_outside_the_test_part_is_validated_once(digits: Path, tmp_path: Path) -> None:
    spec = study(digits, {"folds": FOLDS})
    data, plain = (load(one.data, cache=tmp_path) for one in (spec, study(digits, {})))
    assert (data.facts.digest, data.facts.test) == (plain.facts.digest, plain.facts.test)
    assert data.facts.train + data.facts.val == plain.facts.train + plain.facts.val
    parts = [data.at(one.data) for one in spec.each_fold()]
    assert sorted(torch.cat([one.val.index for one in parts]).tolist()) == sorted(
        torch.cat([one.index for one in (plain.at(spec.data).train, plain.at(spec.data).val)]).tolist()
    )
    assert all(not set(one.val.index.tolist()) & set(one.train.index.tolist()) for one in parts)
    assert len({tuple(one.mean) for one in parts}) == FOLDS, "each is normalised by its own training part"
    assert any("3 folds of 40 images" in note for note in data.facts.notes)
    _, end = trained(spec, tmp_path, 0)
    assert np.sum(json.loads(end.facts["confusion"])) == 120


def test_the_same_image_twice_is_left_out_of_the_training_part_that_would_learn_it(
    digits: Path, tmp_path: Path
) -> None:
    known = np.load(digits / "all.npz")
    twice = {name: np.concatenate([known[name], known[name][:60]]) for name in ("x", "y")}
    np.savez(tmp_path / "all.npz", **twice)
    for wanted in ("warn", "drop"):
        spec = study(tmp_path, {"folds": FOLDS})
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"on_duplicates": wanted})})
        data = load(spec.data, cache=tmp_path / "cache")
        shared = 0
        for one in spec.each_fold():
            parts = data.at(one.data)
            content = [
                {images.numpy().tobytes() for images in part.images} for part in (parts.train, parts.val)
            ]
            shared += len(content[0] & content[1])
        assert (shared > 0) == (wanted == "warn")
        assert any(note.startswith("fold 2: ") and "in two parts" in note for note in data.facts.notes)


def test_weights_of_folds_are_no_model(digits: Path, tmp_path: Path) -> None:
    _, end = trained(study(digits, {"folds": FOLDS}), tmp_path, 0, 1)
    with pytest.raises(
        ModelError, match=r"the models of 3 folds \(data\.split\.folds\), each trained without a part"
    ):
        load_model(end.weights)


def test_sample_pictures_are_of_one_fold(digits: Path, tmp_path: Path) -> None:
    spec = study(digits, {"folds": FOLDS})
    engine, _ = build_engine(spec, CPU, cache=str(tmp_path))
    assert isinstance(engine, PlainEngine)
    assert len(engine.sample_pictures(spec)) == 8


def test_a_validation_part_of_the_datas_own_is_not_cut_up(digits: Path, tmp_path: Path) -> None:
    known = np.load(digits / "all.npz")
    rows = {"train": slice(0, 100), "val": slice(100, 150)}
    np.savez(tmp_path / "all.npz", **{f"{a}_{part}": known[a][at] for part, at in rows.items() for a in "xy"})
    with pytest.raises(
        DataError, match=r"data\.split\.folds = 3: the data have a validation part of their own"
    ):
        load(study(tmp_path, {"folds": FOLDS}).data, cache=tmp_path / "cache")
    own = load(study(tmp_path, {"folds": FOLDS, "official_test": False}).data, cache=tmp_path / "cache")
    assert own.facts.test == 30


class Mortal(nn.Module):
    """Kills its process in the middle of an epoch, once: in its second epoch's second fold."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.marker = marker

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and self.marker:
            with open(self.marker, "ab+") as file:
                file.write(b".")
                count = file.tell()
            if count == 40:  # each epoch has 8 batches of each of 3 folds
                os.kill(os.getpid(), signal.SIGKILL)
        outputs: Tensor = self.layer(images.flatten(1))
        return outputs


def mortal(marker: str = "") -> nn.Module:
    return Mortal(marker)


def test_a_worker_killed_between_two_folds_costs_nothing_but_time(digits: Path, tmp_path: Path) -> None:
    curves = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        marker = str(folder / "marker") if name == "killed" else ""
        spec = study(
            digits,
            {"folds": FOLDS},
            study={"name": "folds", "trials": 1, "policy": "sampled"},
            model={"name": "tests.training.test_folds:mortal", "args": {"marker": marker}},
            train={"batch_size": 10},
        )
        options = RunOptions(
            storage=f"sqlite:///{folder}/s.db",
            run_folder=folder / "runs",
            workers=Workers(gpus="none", workers=1),
            import_paths=(str(Path(__file__).parents[2]),),
        )
        assert run(spec, options).exit_status == 0
        trials = stored_trials(options.storage, "folds")
        curves.append([trial.intermediate_values for trial in trials])
        if marker:
            assert Path(marker).stat().st_size == 40 + 2 * 24, "epochs 2 and 3 again, with 24 batches each"
            assert trials[0].user_attrs["attempt"] == 2
    assert curves[0] == curves[1]

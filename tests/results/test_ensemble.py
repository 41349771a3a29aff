"""Several kept models as one: chosen greedily, tried on the test part once it was opened, saved and loaded."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import hpsearch
from hpsearch.__main__ import run as run_command
from hpsearch.errors import ModelError, UserError
from hpsearch.results.commands import api
from hpsearch.results.commands.models import save_best, save_joined
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.confirm.ensemble import average, join, joined_lines, select
from hpsearch.results.confirm.linked import earlier_openings
from hpsearch.results.confirm.refit import refit
from hpsearch.results.stored.reading import read_study
from hpsearch.service.launch import RunOptions
from hpsearch.study import ModelSpec
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training import models
from hpsearch.training.data import load
from hpsearch.training.ensemble import SavedEnsemble, load_ensemble
from hpsearch.training.saved import SavedModel
from hpsearch.training.weights import save_weights
from tests.results.digits import searched, small_spec

MLP = {"name": "mlp", "args": {"hidden": [16]}}


def spec(name: str = "small", **tables: Any) -> Any:
    return small_spec(name, **{"checkpoint": {"keep": 10}, "confirm": {"top": 1, "seeds": 3}, **tables})


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions]:
    """A search of three trials, all kept, confirmed with three repeats."""
    folder = tmp_path_factory.mktemp("confirmed")
    options = searched(folder, spec())
    outcome = confirm("small", options, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    return folder, options


def loss_of(targets: Tensor) -> Any:
    return lambda belief: float(-belief.gather(1, targets[:, None]).clamp(min=1e-12).log().mean())


@pytest.mark.parametrize(
    ("shares", "most", "counts"),
    [
        ([[0.9, 0.9, 0.1], [0.1, 0.9, 0.9], [0.2, 0.2, 0.2]], 5, [1, 1, 0]),  # they make up for each other
        ([[0.9, 0.9, 0.9], [0.5, 0.5, 0.5]], 5, [1, 0]),  # the second would only spoil it
        ([[0.95, 0.95, 0.05], [0.5, 0.5, 0.5]], 3, [1, 2]),  # the better one counts twice
        ([[0.95, 0.95, 0.05], [0.5, 0.5, 0.5]], 1, [0, 1]),
    ],
)
def test_models_are_added_while_the_loss_falls(
    shares: list[list[float]], most: int, counts: list[int]
) -> None:
    """Each model's belief in the true class of three samples."""
    beliefs = [torch.tensor([[one, 1 - one] for one in row], dtype=torch.float64) for row in shares]
    assert select(beliefs, loss_of(torch.zeros(3, dtype=torch.int64)), most) == counts


def test_it_may_begin_with_several() -> None:
    beliefs = [torch.tensor([[one, 1 - one]] * 3, dtype=torch.float64) for one in (0.9, 0.5, 0.6)]
    assert select(beliefs, loss_of(torch.zeros(3, dtype=torch.int64)), 4, first=[1, 2]) == [2, 1, 1]
    assert select(beliefs, loss_of(torch.zeros(3, dtype=torch.int64)), 2, first=[1, 2]) == [0, 1, 1]


def test_an_average_is_the_mean_of_the_weights_alone() -> None:
    one = {"w": torch.tensor([1.0, 3.0]), "seen": torch.tensor(5)}
    other = {"w": torch.tensor([3.0, 5.0]), "seen": torch.tensor(9)}
    mean = average([one, other])
    assert torch.equal(mean["w"], torch.tensor([2.0, 4.0]))
    assert mean["w"].dtype == torch.float32
    assert mean["seen"] == 5


def test_before_a_confirmation_the_test_part_stays_closed(tmp_path: Path) -> None:
    options = searched(tmp_path, spec())
    found = join("small", options, "ensemble", 5)
    assert found.test == {}
    assert earlier_openings("small", options.storage) == []
    assert found.val["joined"].loss <= found.val["single"].loss
    assert (
        "chosen by the validation part, so that its gain there is optimistic; confirm tests it"
        in "\n".join(joined_lines(found))
    )


def test_an_ensemble_is_tested_on_record_saved_and_loaded(
    confirmed: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, options = confirmed
    before = len(earlier_openings("small", options.storage))
    closed = join("small", options, "ensemble", 5, test=False)
    assert closed.test == {}
    assert "its gain there is optimistic; not tested (--no-test)" in joined_lines(closed)[-1]
    assert len(earlier_openings("small", options.storage)) == before
    found = join("small", options, "ensemble", 5)
    openings = earlier_openings("small", options.storage)
    assert len(openings) == before + 1
    assert openings[-1]["configurations"].startswith("ensemble of ")
    assert "repeat" in found.single["val"]
    assert sum("repeat" in member.text for member, _ in found.members) == 3
    assert found.val["joined"].loss < found.val["single"].loss
    assert {"joined", "single"} == set(found.test)
    lines = joined_lines(found)
    assert any(line.startswith("test_loss ") for line in lines)
    assert any("was opened" in line and "optimistically biased" in line for line in lines)

    files = save_joined(found, tmp_path / "both")
    named = [f"member-{len(found.members)}.safetensors", "ensemble.json", "model.md"]
    assert [file.name for file in files[-3:]] == named
    card = files[-1].read_text(encoding="utf-8")
    for part, figures in (("val", found.val["joined"]), ("test", found.test["joined"])):
        for name, one in zip(("loss", "error"), figures.summaries(), strict=True):
            assert one.low is not None
            assert one.high is not None
            assert one.low < one.mean < one.high
            value, interval = f"{one.mean:.4g}", f"{one.low:.4g} to {one.high:.4g}"
            assert f"| {part}_{name} | ensemble | {value} | {interval} |" in card
    for line in (
        "# small",
        f"| made of | ensemble of {len(found.members)} models |",
        "| licence | not stated",
        "| images | 1,437 for training, 180 for validation, 180 for the test |",
        "was opened",
        "the test part tells",
        "load_best_model",
        *(member.text for member, _ in found.members),
    ):
        assert line in card
    model = hpsearch.load_best_model(tmp_path / "both")
    assert isinstance(model, SavedEnsemble)
    data = load(spec().data, cache=tmp_path / "cache").at(spec().data)
    images, targets = data.pixels(data.val, slice(None)), data.targets(data.val, slice(None))
    with torch.inference_mode():
        belief = model(images).softmax(1)
    calibrated = model.probabilities(images)
    assert loss_of(targets)(calibrated) <= loss_of(targets)(belief)
    assert torch.equal(calibrated.argmax(1), belief.argmax(1))
    torch.testing.assert_close(belief.sum(1), torch.ones(len(images), dtype=torch.float64))
    assert loss_of(targets)(belief) == pytest.approx(found.val["joined"].loss, rel=1e-5)
    wrong = [
        name != data.classes[index]
        for name, index in zip(model.classify(images), targets.tolist(), strict=True)
    ]
    assert sum(wrong) / len(wrong) == pytest.approx(found.val["joined"].error)
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    assert run_command(["predict", str(tmp_path / "both"), str(tmp_path / "black.png")]) == 0
    assert "black.png" in capsys.readouterr().out


def test_a_damaged_ensemble_is_refused(tmp_path: Path) -> None:
    for text in (
        "{",
        "{}",
        "[]",
        '{"members": "ab"}',
        "[" * 100_000,
        '{"members": []}',
        '{"members": [{"file": "../a.safetensors", "count": 1}]}',
    ):
        (tmp_path / "ensemble.json").write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match="save the ensemble again") as refused:
            load_ensemble(tmp_path)
        assert not re.search("indices|recursion|Error|^'", str(refused.value))


def test_too_few_kept_models_are_refused_with_the_remedy(tmp_path: Path) -> None:
    options = searched(tmp_path, spec(checkpoint={"keep": "best"}))
    with pytest.raises(
        UserError, match=r"weights of 1 trial here that --ensemble can use; keep more by checkpoint"
    ):
        join("small", options, "ensemble", 5)
    with pytest.raises(UserError, match="--average: its models started from random weights"):
        join("small", options, "average", 5)


def test_who_keeps_many_is_not_told_to_keep_more(tmp_path: Path) -> None:
    options = searched(tmp_path, spec(study={"trials": 1}))
    with pytest.raises(UserError, match="weights of 1 trial here that --ensemble can use; run it further"):
        join("small", options, "ensemble", 5)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("mse", "val_loss"),
        ("binary_cross_entropy", "val_log_loss"),
        ("tests.training.parts:focal", "val_log_loss"),
    ],
)
def test_the_figures_are_those_of_the_studys_loss_or_say_whose(tmp_path: Path, loss: str, name: str) -> None:
    options = searched(tmp_path, spec(train={"loss": loss}, search={"learning_rate": [2.0, 1.0, 0.001]}))
    found = join("small", options, "ensemble", 5)
    assert f"{name} " in "\n".join(joined_lines(found))
    best = read_study("small", options.storage).best
    assert best is not None
    assert best.score is not None
    assert (found.val["single"].loss == pytest.approx(best.score, rel=1e-4)) == (name == "val_loss")
    assert found.val["joined"].loss <= found.val["single"].loss


def test_yes_or_no_of_each_class_is_judged_as_it_is_answered(tmp_path: Path) -> None:
    """A model that has learned nothing believes 0.5 of each class, which is more than a good one of the own class."""
    rates = {"learning_rate": [2.0, 1.0, 1e-6]}
    options = searched(tmp_path, spec(train={"loss": "binary_cross_entropy", "epochs": 20}, search=rates))
    found = join("small", options, "ensemble", 5)
    assert found.val["joined"].error < 0.5
    save_joined(found, tmp_path / "both")
    model = hpsearch.load_best_model(tmp_path / "both")
    data = load(spec().data, cache=tmp_path / "cache").at(spec().data)
    images, targets = data.pixels(data.val, slice(None)), data.targets(data.val, slice(None))
    with torch.inference_mode():
        belief = model(images).softmax(1)
    assert loss_of(targets)(belief) == pytest.approx(found.val["joined"].loss, rel=1e-5)


def test_on_the_test_part_it_stands_beside_the_refit_that_is_handed_out(tmp_path: Path) -> None:
    options = searched(tmp_path, spec())
    assert confirm("small", options, executor=InProcessExecutor()).confirmation is not None
    assert refit("small", options, executor=InProcessExecutor()).refit is not None
    found = join("small", options, "ensemble", 5)
    answer = read_study("small", options.storage).answer
    assert answer.refit is not None
    assert found.single["test"] == f"the refit of trial {answer.trial}"
    assert found.test["single"].loss == pytest.approx(answer.refit.test["test_loss"], rel=1e-5)
    assert found.test["single"].error == pytest.approx(answer.refit.test["test_error"])
    assert "repeat" in found.single["val"]


def test_a_folder_answers_by_what_was_written_last(
    confirmed: tuple[Path, RunOptions], tmp_path: Path
) -> None:
    folder, options = confirmed
    found = join("small", options, "ensemble", 5, test=False)
    save_joined(found, tmp_path)
    save_best("small", options.storage, tmp_path, folder / "runs")
    assert isinstance(hpsearch.load_best_model(tmp_path), SavedModel)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json", "model.md"}
    files = save_joined(found, tmp_path)
    assert isinstance(hpsearch.load_best_model(tmp_path), SavedEnsemble)
    assert {*tmp_path.iterdir()} == {*files}


def test_a_model_that_no_other_helps_is_no_ensemble(tmp_path: Path) -> None:
    options = searched(tmp_path, spec(search={"learning_rate": [0.1, 1e-9, 2e-9]}))
    found = join("small", options, "ensemble", 5)
    assert len(found.members) == 1
    lines = joined_lines(found)
    assert lines[0] == "small: no other model lowers the validation loss of trial 0"
    assert "optimistic" not in "\n".join(lines)


def test_weights_of_one_start_are_averaged(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_weights(start, models.build(ModelSpec.model_validate(MLP), 1, (8, 8), 10, 3).state_dict(), {})
    tuned = spec(model={**MLP, "weights": str(start)}, search={"learning_rate": [0.1, 0.12, 0.0001]})
    options = searched(tmp_path, tuned)
    found = join("small", options, "average", 5)
    assert found.state is not None
    assert 1 <= len(found.members) <= 3
    assert found.val["joined"].loss <= found.val["single"].loss
    file, card = save_joined(found, tmp_path / "mean")
    text = card.read_text(encoding="utf-8")
    assert f"| started from | {start} |" in text
    assert "| val_loss | average |" in text
    assert "is optimistic; confirm tests it." in text
    model = hpsearch.load_best_model(file.parent)
    assert isinstance(model, SavedModel)
    assert json.loads(model.metadata["model"])["weights"] == str(start)
    data = load(tuned.data, cache=tmp_path / "cache").at(tuned.data)
    with torch.inference_mode():
        belief = model.to_belief(model(data.pixels(data.val, slice(None))))
    assert float(model.metadata["temperature"]) == found.temperature
    own = {"trial", "epoch", "hparams", "digest", "class_errors", "confusion", "val_loss", "val_error"}
    assert not own & model.metadata.keys()
    assert loss_of(data.targets(data.val, slice(None)))(belief) == pytest.approx(
        found.val["joined"].loss, rel=1e-5
    )


def test_only_weights_of_one_architecture_are_averaged(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    cnn = {"name": "cnn", "args": {"width": 4, "hidden": 8}}
    save_weights(start, models.build(ModelSpec.model_validate(cnn), 1, (8, 8), 10, 3).state_dict(), {})
    search = {"data.channels": [1, 3], "learning_rate": [0.1, 0.05]}
    options = searched(
        tmp_path, spec(study={"trials": 4}, model={**cnn, "weights": str(start)}, search=search)
    )
    found = join("small", options, "average", 5)
    assert len({member.spec.data.channels for member, _ in found.members}) == 1


def test_an_ensemble_of_a_regression_has_no_probabilities() -> None:
    facts = {"classes": "[]", "task": "regression", "channels": "1", "height": "8", "width": "8"}
    model = models.build(ModelSpec.model_validate(MLP), 1, (8, 8), 1, 3)
    one = SavedModel(model, {**facts, "mean": "[0.5]", "std": "[0.25]"})
    with pytest.raises(ModelError, match="this model predicts numbers, not classes"):
        SavedEnsemble([one, one], [1, 1]).probabilities(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("both", [{}, {"ensemble": 2, "average": 2}])
def test_joining_needs_to_know_how(both: dict[str, int]) -> None:
    with pytest.raises(UserError, match="join: give one of ensemble and average: how many models"):
        api.join("small", **both)


@pytest.mark.parametrize(
    "flags",
    [("--ensemble", "3", "--average", "3"), ("--ensemble", "3", "--json"), ("--average", "2", "--search")],
)
def test_flags_that_exclude_each_other(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["best", "small", *flags]) == 2
    assert (
        "--ensemble, --average: give one of them, without --torch-export, --onnx, --json or --search"
        in capsys.readouterr().err
    )

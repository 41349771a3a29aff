"""Images that may have several labels, from a search to the model folder."""

import csv
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import hpsearch
from hpsearch.__main__ import run
from hpsearch.errors import ModelError, UserError
from hpsearch.results.commands.models import load_best_model, save_best, save_joined
from hpsearch.results.confirm.ensemble import join, joined_lines
from hpsearch.results.stored.answer import SUMMARY, read_summary
from hpsearch.results.stored.reading import read_study
from hpsearch.service.launch import RunOptions
from hpsearch.training.saved import SavedModel
from tests.materials import write_mosaics


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RunOptions:
    """A search on mosaics of digits, confirmed."""
    folder = tmp_path_factory.mktemp("several")
    write_mosaics(folder / "mosaics", 200)
    study = {
        "study": {"name": "mosaics", "trials": 2, "metric": "val_average_precision", "policy": "sampled"},
        "data": {
            "dataset": "folder",
            "root": str(folder / "mosaics"),
            "labels": "labels.csv",
            "label_column": "digits",
            "label_separator": "|",
            "image_size": 16,
            "augment": [{"name": "mixup", "p": 0.5}, {"name": "cutmix", "p": 0.5}],
        },
        "model": {"args": {"width": 8, "hidden": 16}},
        "train": {
            "loss": "binary_cross_entropy",
            "optimizer": "adam",
            "schedule": "wsd",
            "stages": [{"name": "head", "epochs": 1}, "all"],
            "layer_decay": 0.9,
            "epochs": 4,
            "class_weights": "balanced",
        },
        "search": {"learning_rate": [0.01, 0.003]},
        "sampler": {"name": "grid"},
        "checkpoint": {"keep": "all"},
    }
    place: dict[str, Any] = {"run_folder": folder / "runs", "workers": 1, "gpus": "none", "progress": False}
    hpsearch.run(study, **place)
    storage = f"sqlite:///{folder}/runs/hpsearch.db"
    hpsearch.confirm("mosaics", top=1, seeds=2, storage=storage, **place)
    return RunOptions(storage=storage, run_folder=folder / "runs")


def test_the_confirmation_tells_of_each_label_and_has_no_confusion_matrix(searched: RunOptions) -> None:
    record = read_study("mosaics", searched.storage)
    summary = read_summary("mosaics", record.attrs)
    assert summary is not None
    assert SUMMARY in record.attrs
    assert summary["confusion"] is None
    rows = summary["class_errors"]
    assert [row["label"] for row in rows] == list("0123456789")
    assert all(row.keys() == {"label", "answers", "precision", "recall", "f1"} for row in rows)
    assert rows[0]["recall"] > 0.5  # the commonest digit
    told = {row["metric"] for row in summary["statistics"]}
    assert {"test_average_precision", "test_hamming_error", "test_subset_error", "test_macro_f1"} <= told
    assert "test_error" not in told
    assert summary["reliability"]["ece"] < 0.5


def test_the_report_has_precision_and_recall_by_label(searched: RunOptions) -> None:
    (page,) = hpsearch.report("mosaics", storage=searched.storage, run_folder=searched.run_folder)
    text = Path(page).read_text(encoding="utf-8")
    assert "By label: <code>answers</code> counts those about pictures that have it" in text
    assert "; the models say " in text
    drawn = json.loads(text.split('id="charts">')[1].split("</script>")[0])
    legend = [one["name"] for one in drawn["learning-curves"]["data"] if one["showlegend"]]
    assert all(": average precision 0." in name for name in legend)
    assert "Confusion matrix" not in text
    assert "validation error by label" in text


def test_models_are_joined_by_the_mean_of_each_label(searched: RunOptions, tmp_path: Path) -> None:
    found = join("mosaics", searched, "ensemble", 3)
    assert found.task == "multilabel"
    assert found.val["joined"].loss <= found.val["single"].loss
    assert any("val_hamming_error" in line for line in joined_lines(found))
    save_joined(found, tmp_path / "model")
    model = load_best_model(tmp_path / "model")
    images = torch.rand(3, 1, 16, 16)
    shares = model.probabilities(images)
    assert shares.shape == (3, 10)
    assert ((shares > 0) & (shares < 1)).all()
    with pytest.raises(ModelError, match="several labels"):
        model.classify(images)
    mean = sum(
        count * member.to_belief(member(images))
        for member, count in zip(model.members, model.counts, strict=True)
    ) / sum(model.counts)
    assert torch.allclose(model(images).sigmoid(), mean, atol=1e-6)


def test_the_folder_says_what_the_outputs_are(searched: RunOptions, tmp_path: Path) -> None:
    save_best("mosaics", searched.storage, tmp_path / "model", searched.run_folder, onnx=True)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (described["task"], described["classes"]) == ("multilabel", list("0123456789"))
    card = (tmp_path / "model" / "model.md").read_text()
    assert "10 labels" in card
    assert "whose probability is at least a half" in card
    kept = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx").get_modelmeta().custom_metadata_map
    assert (kept["task"], kept["loss"]) == ("multilabel", "binary_cross_entropy")
    assert float(kept["temperature"]) > 0


def test_predict_gives_the_labels_above_a_threshold(
    searched: RunOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = searched.run_folder.parent / "mosaics"
    model = hpsearch.load_best_model("mosaics", searched.storage, run_folder=searched.run_folder)
    assert isinstance(model, SavedModel)
    few, more = (hpsearch.predict(model, pictures, threshold=threshold) for threshold in (0.9, 0.1))
    for one, other in zip(few, more, strict=True):
        assert len(one.probabilities) == 10
        assert one.labels == tuple(name for name, share in one.probabilities.items() if share >= 0.9)
        assert {*one.labels} <= {*(other.labels or ())}
    place = ["--storage", searched.storage, "--run-folder", str(searched.run_folder)]
    assert run(["predict", "mosaics", str(pictures), "--output", str(tmp_path / "answers.csv"), *place]) == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "labels", *(f"p_{digit}" for digit in range(10)), "error"]
    for row in rows:
        assert {*filter(None, row["labels"].split("|"))} == {
            d for d in "0123456789" if float(row[f"p_{d}"]) >= 0.5
        }
    capsys.readouterr()
    assert run(["predict", "mosaics", str(pictures / "0000.png"), "--threshold", "0.999999", *place]) == 0
    assert "no label" in capsys.readouterr().out


def test_a_threshold_that_means_nothing_is_refused(searched: RunOptions) -> None:
    model = hpsearch.load_best_model("mosaics", searched.storage, run_folder=searched.run_folder)
    with pytest.raises(UserError, match="--threshold: must be between 0 and 1, got 1"):
        hpsearch.predict(model, "a.png", threshold=1.0)
    model.task = "classification"
    with pytest.raises(
        UserError, match="is for models that give a picture several labels, and this one gives one class"
    ):
        hpsearch.predict(model, "a.png", threshold=0.5)


def test_a_trial_is_continued(searched: RunOptions, capsys: pytest.CaptureFixture[str]) -> None:
    """Last, for the search's best may be another one then."""
    before = read_study("mosaics", searched.storage)
    place = ["--storage", searched.storage, "--run-folder", str(searched.run_folder), "--gpus", "none"]
    assert run(["continue", "mosaics", "--trial", "1", "--epochs", "6", *place]) == 0
    assert "trial 2 continues trial 1 after its epoch 3: val_average_precision" in capsys.readouterr().out
    after = read_study("mosaics", searched.storage)
    assert len(after.trials) == len(before.trials) + 1
    assert len(after.trials[-1].val) == 6
    assert after.last_stage_after(after.trials[-1]) == 1

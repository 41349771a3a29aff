"""`hpsearch check` on real data: what it measures and refuses, and the model that a run leaves behind."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hpsearch
from hpsearch.errors import DataError, ModelError, StudyFileError, UserError
from hpsearch.results.check import check_study, middle, space_table
from hpsearch.results.check_print import report_lines
from hpsearch.spec.load import parse_study
from hpsearch.spec.search import Choices, Entry, FloatRange, IntRange
from hpsearch.spec.study import StudySpec
from hpsearch.training.models import build
from hpsearch.training.weights import save_weights
from tests.results.stored import make_study


def study(search: dict[str, Any], **tables: Any) -> StudySpec:
    data = {"dataset": "digits"} | tables.pop("data", {})
    return parse_study({"study": {"name": "s", "trials": 10}, "data": data, "search": search, **tables})


def test_the_ends_of_the_space_are_trained(tmp_path: Path) -> None:
    spec = study(
        {"batch_size": [64, 16, "full"], "data.image_size": [8, 12], "epochs": {"low": 1, "high": 3}}
    )
    report = check_study(spec, None, tmp_path, "cpu", workers=2)
    assert [(probe.batch, probe.image) for probe in report.probes] == [
        (1437, (1, 8, 8)), (16, (1, 8, 8)), (1437, (1, 12, 12)), (16, (1, 12, 12)),
    ]  # fmt: skip
    assert all(probe.step_seconds > 0 and probe.eval_seconds > 0 for probe in report.probes)
    assert report.data is not None
    assert (report.data.train, report.data.val, report.data.test) == (1437, 180, 180)
    per_epoch = [1437 * probe.sample_seconds + probe.eval_seconds for probe in report.probes]
    assert report.seconds == pytest.approx(10 * 2 * (sum(per_epoch) / 4) / 2)
    text = "\n".join(report_lines(report))
    assert "1437 training, 180 validation and 180 test images of 1 x 8 x 8" in text
    assert "for 10 trials with 2 workers" in text


@pytest.mark.parametrize(
    ("search", "tables", "kind", "words"),
    [
        ({"batch_size": [16, 5000]}, {}, StudyFileError, "search.batch_size: 5000 is larger than the training part of 1437"),
        ({"epochs": [1]}, {"train": {"batch_size": 5000}}, StudyFileError, "train.batch_size: 5000"),
        ({"epochs": [1]}, {"model": {"name": "cmm"}}, ModelError, "cnn"),
        ({"model.name": ["cnn", "resnet81"]}, {}, ModelError, "resnet18"),
        ({"epochs": [1]}, {"data": {"dataset": "digit"}}, DataError, "digits"),
    ],
)
def test_what_a_run_would_stop_at_is_refused(
    tmp_path: Path, search: dict[str, Any], tables: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        check_study(study(search, **tables), None, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (IntRange(low=5, high=50), 27.5),
        (Choices(choices=(1, 2, 6)), 3.0),
        (FloatRange(low=1.0, high=2.718281828459045, log=True), 1.718281828459045),
        (IntRange(low=4, high=4, log=True), 4.0),
    ],
)
def test_the_middle_of_an_entry(entry: Entry, expected: float) -> None:
    assert middle(entry) == pytest.approx(expected)


def test_the_space_as_a_table() -> None:
    search = {"learning_rate": {"low": 1e-4, "high": 1, "log": True}, "model.freeze": [[], ["a.*"]]}
    assert space_table(study(search)) == (
        ("learning_rate", "0.0001 to 1", "numbers, logarithmic"),
        ("model.freeze", '[], ["a.*"]', "one of 2"),
    )


def test_the_best_model_is_loaded_ready_for_inference(sqlite_url: str, tmp_path: Path) -> None:
    spec = study({"epochs": [1]}).model
    model = build(spec, 1, (8, 8), 10, seed=3).eval()
    path = tmp_path / "w.safetensors"
    metadata = {
        "model": spec.model_dump_json(), "channels": "1", "height": "8", "width": "8", "outputs": "10",
        "classes": '["0", "1"]', "study": "one",
    }  # fmt: skip
    save_weights(path, model.state_dict(), metadata)
    make_study(sqlite_url, "one", weights=str(path))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for source, storage in (("one", sqlite_url), (path, "unused")):
        loaded = hpsearch.load_best_model(source, storage)
        assert torch.equal(loaded(images), model(images))
        assert not loaded.training
        assert loaded.hpsearch["classes"] == ["0", "1"]
    path.unlink()
    with pytest.raises(UserError, match="weights of trial 1 are not here"):
        hpsearch.load_best_model("one", sqlite_url)


def test_a_weights_file_runs_no_code_that_was_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from pathlib import Path\n"
        "from torch import nn\n"
        "Path(__file__).with_suffix('.ran').touch()\n"
        "def build(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    (tmp_path / "planted_nets.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "w.safetensors"
    facts = {"model": '{"name": "planted_nets:build"}', "channels": "1", "height": "8", "width": "8"}
    weights = {"1.weight": torch.zeros(10, 64), "1.bias": torch.ones(10)}
    save_weights(path, weights, facts | {"outputs": "10"})
    with pytest.raises(UserError, match="planted_nets"):
        hpsearch.load_best_model(path)
    assert not (tmp_path / "planted_nets.ran").exists()
    allowed = hpsearch.load_best_model(path, allow=["planted_nets"])
    assert torch.equal(allowed(torch.zeros(2, 1, 8, 8)), torch.ones(2, 10))
    assert (tmp_path / "planted_nets.ran").exists()

"""`hpsearch check` on real data: what it measures and refuses."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from torch import nn

from hpsearch.errors import DataError, DeviceError, ModelError, StudyFileError, StudyNotFound
from hpsearch.results.commands.check import Estimate, Probe, check_study, epoch_seconds
from hpsearch.results.confirm import exam
from hpsearch.results.terminal.check_lines import report_lines
from hpsearch.service.run import run
from hpsearch.study.checks import DataFacts
from hpsearch.study.file import parse_study
from hpsearch.study.search import space_rows
from hpsearch.study.specification import StudySpec
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training import device as devices
from hpsearch.training.data import cache
from tests.results.digits import options_in
from tests.results.searches import url_in
from tests.results.stored import read


def study(search: dict[str, Any], **tables: Any) -> StudySpec:
    data = {"dataset": "digits"} | tables.pop("data", {})
    named = {"name": "s", "trials": 10} | tables.pop("study", {})
    return parse_study({"study": named, "data": data, "search": search, **tables})


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
    assert report.estimate is not None
    low, high = report.estimate.span
    assert 0 < low <= report.estimate.expected <= high <= report.estimate.most
    text = "\n".join(report_lines(report))
    assert "1437 training, 180 validation and 180 test images of 1 x 8 x 8" in text
    assert "for 10 trials with 2 workers, start-up included" in text


def test_the_points_that_are_tried_first_are_shown(tmp_path: Path) -> None:
    points = [{"learning_rate": 0.1, "batch_size": 64}, {"batch_size": 32}]
    space = {"learning_rate": {"low": 0.01, "high": 0.1}, "batch_size": [32, 64]}
    report = check_study(study(space, enqueue=points), None, tmp_path, "cpu", workers=1)
    lines = report_lines(report)
    at = lines.index("tried first:")
    assert lines[at + 1 : at + 3] == ["  learning_rate = 0.1, batch_size = 64", "  batch_size = 32"]


HEARD = """
import sys, traceback
from hpsearch.__main__ import run

def hear(event, found):
    if event == "import" and found[0] == "torch" and not heard:
        heard.extend(frame.name for frame in traceback.extract_stack() if frame.filename.endswith("api.py"))

heard = []
sys.addaudithook(hear)
run(["check", "s.toml", "--workers", "1"])
print("torch was imported by", *heard)
"""


def test_the_estimate_has_the_time_that_imports_take(tmp_path: Path) -> None:
    """It is taken from where `api.check` begins, so torch must not be imported before."""
    (tmp_path / "s.toml").write_text(
        '[study]\ntrials = 1\n[data]\ndataset = "digits"\n[search]\nepochs = [1]\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", HEARD], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "torch was imported by check" in done.stdout


SMALL, LARGE = Probe("mlp", 16, (1, 8, 8), 1, 1, 0.2, 0.5), Probe("mlp", 64, (1, 8, 8), 1, 1, 0.8, 0.5)
DATA = DataFacts(160, 20, 20, ("a", "b"), 1, 8, 8, "classification", "0")


@pytest.mark.parametrize(
    ("train", "probes", "expected"),
    [
        ({"batch_size": 16}, (SMALL, LARGE), 10 * 0.2 + 0.5),
        ({"batch_size": 32}, (SMALL, LARGE), 5 * 0.4 + 0.5),
        ({"batch_size": 64}, (SMALL, LARGE), 2 * 0.8 + 0.4 + 0.5),  # the last batch has 32 samples
        ({"batch_size": 64, "drop_last": True}, (SMALL, LARGE), 2 * 0.8 + 0.5),
        ({"batch_size": 16, "steps_per_epoch": 3}, (SMALL, LARGE), 3 * 0.2 + 0.5),
        ({"batch_size": 16}, (SMALL, LARGE, replace(SMALL, model="cnn", step_seconds=9.0)), 10 * 0.2 + 0.5),
        (
            {"batch_size": 16},
            (SMALL, LARGE, replace(SMALL, image=(1, 9, 9), step_seconds=9.0)),
            10 * 0.2 + 0.5,
        ),
    ],
)
def test_the_seconds_of_an_epoch_between_the_batches_that_were_timed(
    train: dict[str, Any], probes: tuple[Probe, ...], expected: float
) -> None:
    spec = study({"learning_rate": [0.1]}, train=train, model={"name": "mlp"})
    assert epoch_seconds(spec, DATA, probes) == pytest.approx(expected)


def test_a_timeout_limits_the_estimate(tmp_path: Path) -> None:
    report = check_study(
        study({"epochs": [1]}, study={"timeout": "1s", "trials": 1000}), None, tmp_path, "cpu"
    )
    assert report.estimate == Estimate(1.0, (1.0, 1.0), 1.0)
    assert report_lines(report)[-2] == (
        "estimate: about 0:01 for up to 1000 trials with 1 worker, start-up included"
    )


def test_the_studys_own_limits_limit_the_estimate(tmp_path: Path) -> None:
    """Eighty epochs of which sixteen are trained, or which have 0.07 s."""
    estimates = {}
    for name, limits in (
        ("none", {}),
        ("epochs", {"max_epochs_total": 16}),
        ("hours", {"max_device_hours": 2e-5}),
    ):
        spec = study({"epochs": [2]}, study={"trials": 40, **limits})
        estimates[name] = check_study(spec, None, tmp_path, "cpu", began=time.monotonic()).estimate
    whole = estimates["none"].expected
    assert estimates["epochs"].expected < whole / 2
    assert estimates["hours"].expected < whole / 2


@pytest.mark.parametrize(
    ("search", "tables", "kind", "words"),
    [
        ({"batch_size": [16, 5000]}, {}, StudyFileError, "search.batch_size: 5000 is larger than"),
        ({"epochs": [1]}, {"train": {"batch_size": 5000}}, StudyFileError, "train.batch_size: 5000"),
        ({"epochs": [1]}, {"model": {"name": "cmm"}}, ModelError, "cnn"),
        ({"model.name": ["cnn", "resnet81"]}, {}, ModelError, "resnet18"),
        ({"epochs": [1]}, {"data": {"dataset": "digit"}}, DataError, "digits"),
        ({"epochs": [1]}, {"study": {"metric": "val_mae"}}, StudyFileError, "study.metric"),
    ],
)
def test_what_a_run_would_stop_at_is_refused(
    tmp_path: Path, search: dict[str, Any], tables: dict[str, Any], kind: type[Exception], words: str
) -> None:
    spec = study(search, **tables)
    with pytest.raises(kind, match=words):
        check_study(spec, None, tmp_path, "cpu")
    if kind in (DataError, StudyFileError):
        with pytest.raises(kind, match=words):
            run(spec, options_in(tmp_path), executor=InProcessExecutor())
        with pytest.raises(StudyNotFound):  # nor does it leave an empty study
            read(str, "s", url_in(tmp_path))


@pytest.mark.parametrize(
    ("search", "tables", "words"),
    [
        ({"epochs": [1]}, {}, "s: 10 trials on cpu, float32 (auto)"),
        ({"epochs": [1]}, {"train": {"precision": "float64"}}, "s: 10 trials on cpu, float64"),
        ({"train.precision": ["float32", "auto"]}, {}, "s: 10 trials on cpu, float32, float32 (auto)"),
        ({"epochs": [1]}, {"train": {"function": "tests.training.loops:steady"}}, "s: 10 trials on cpu"),
    ],
)
def test_the_precision_and_whether_the_device_chose_it(
    tmp_path: Path, search: dict[str, Any], tables: dict[str, Any], words: str
) -> None:
    tables = {"data": {"subset": 0.1}, "train": {"epochs": 1}, **tables}
    report = check_study(study(search, **tables), None, tmp_path, "cpu")
    assert report_lines(report)[0] == words


NORMED: dict[str, Any] = {"name": "mobilenet_v3_small"}


@pytest.mark.parametrize(
    ("search", "tables", "kind", "words"),
    [
        (
            {"model.freeze": [[], ["typo.*"]]},
            {},
            ModelError,
            ['with model.freeze = ["typo.*"]: ', "no parameter"],
        ),
        (
            {"model.args.blocks": [1, 9]},
            {},
            ModelError,
            ["with model.args.blocks = 9: ", "images of 8 x 8 pixels can be halved 3 times"],
        ),
        (
            {"data.image_size": [32, 8], "model.args.blocks": [1, 4]},
            {},
            ModelError,
            ["with data.image_size = 8, model.args.blocks = 4: ", "halved 3 times"],
        ),
        (
            {"epochs": [1]},
            {"train": {"class_weights": [1.0]}},
            StudyFileError,
            ["class_weights = [1.0]", "10 classes in the order 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, none negative"],
        ),
        (
            {"train.class_weights": ["none", [1.0]]},
            {},
            StudyFileError,
            ["with train.class_weights = [1.0]: ", "the 10 classes"],
        ),
        (
            {"epochs": [1]},
            {"data": {"augment": [{"name": "crop", "padding": 20}]}},
            StudyFileError,
            ["data.augment.crop.padding is 20", "8 pixels"],
        ),
        (
            {"train.lr_multipliers": [{}, {"fc.*": 10.0}]},
            {},
            ModelError,
            ['with train.lr_multipliers = {"fc.*": 10.0}: ', '"fc.*" matches no parameter'],
        ),
        (
            {"data.progressive": [[], [[0.0, 4], [0.5, 8]]]},
            {},
            ModelError,
            ["with data.progressive = [[0.0, 4], [0.5, 8]]: ", "cannot take images of 1 x 4 x 4"],
        ),
        (
            {"model.weights": ["none", "nowhere.safetensors"]},
            {},
            ModelError,
            ['model.weights = "nowhere.safetensors"', "No such file"],
        ),
        ({"batch_size": [1, 16]}, {"model": NORMED}, ModelError, ["train.batch_size = 1", "use 2 or more"]),
        (
            {"train.micro_batch": ["none", 1]},
            {"model": NORMED},
            ModelError,
            ["with train.micro_batch = 1: ", "use 2 or more"],
        ),
        (
            {"model.name": ["cnn", "mlp"], "model.args.width": [8, 16]},
            {},
            ModelError,
            ["with model.name = mlp: ", '"mlp" has no such argument'],
        ),
        ({"model.args.dropout": {"low": 0.0, "high": 1.0}}, {}, ModelError, ["model.args.dropout = 1.0: "]),
        (
            {"data.channels": [1, 3]},
            {"model": {"name": "tests.results.test_check:grey"}},
            ModelError,
            ["with data.channels = 3: ", "cannot take images of 3 x 8 x 8"],
        ),
    ],
)
def test_what_some_trials_could_not_be_built_from_is_named(
    tmp_path: Path, search: dict[str, Any], tables: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    tables = {"data": {"subset": 0.1}, "train": {"batch_size": 16}, **tables}
    tables["data"] = {"subset": 0.1, **tables["data"]}
    with pytest.raises(kind) as caught:
        check_study(study(search, **tables), None, tmp_path, "cpu")
    for word in words:
        assert word in str(caught.value)


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))


def test_arguments_of_the_model_are_trained_at_their_ends(tmp_path: Path) -> None:
    search = {"model.args.width": {"low": 4, "high": 16}, "batch_size": [16, 32], "data.subset": [0.1, 0.2]}
    probes = check_study(study(search), None, tmp_path, "cpu").probes
    assert [probe.batch for probe in probes] == [32, 16]
    assert probes[0].parameters is not None
    assert probes[1].parameters is not None
    assert probes[0].parameters > probes[1].parameters


def test_a_number_type_that_no_worker_has_ends_the_run_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_trains", lambda precision, device: precision.name != "float16")
    spec = study({"train.precision": ["float32", "float16"]})
    with pytest.raises(DeviceError, match=r'search: train\.precision = "float16": ') as caught:
        run(spec, options_in(tmp_path), executor=InProcessExecutor())
    assert caught.value.exit_status == 2
    with pytest.raises(StudyNotFound):
        read(str, "s", url_in(tmp_path))


def test_a_wait_for_another_process_that_prepares_the_images_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, spec, held = cache.try_lock, study({"epochs": [1]}, data={"subset": 0.1}), 1
    monkeypatch.setattr(cache, "SAY_FIRST", 0.0)

    def busy(file: IO[str]) -> bool | None:
        nonlocal held
        held -= 1
        return None if held == 0 else found(file)

    monkeypatch.setattr(cache, "try_lock", busy)
    said: list[str] = []
    check_study(spec, None, tmp_path / "checked", "cpu", waits=said.append)
    held = 1
    place = exam.ExamSetup(None, tmp_path / "tested", None, (), "cpu", waits=said.append)
    assert exam.sealed_part(spec, place, {})[1] == ""
    assert (
        said == ["waits for another process, which prepares the same images for this run or another one"] * 2
    )


def test_the_space_as_a_table() -> None:
    search = {"learning_rate": {"low": 1e-4, "high": 1, "log": True}, "model.freeze": [[], ["a.*"]]}
    assert space_rows(study(search).search) == [
        ("learning_rate", "0.0001 to 1", "numbers, logarithmic"),
        ("model.freeze", '[], ["a.*"]', "one of 2"),
    ]

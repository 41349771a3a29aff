"""`hpsearch check` on real data: what it measures and refuses."""

from pathlib import Path
from typing import Any

import pytest

from hpsearch.errors import DataError, DeviceError, ModelError, StudyFileError
from hpsearch.results.check import check_study, middle, space_table
from hpsearch.results.check_print import report_lines
from hpsearch.results.reading import open_study
from hpsearch.service.inprocess import InProcessExecutor
from hpsearch.service.run import run
from hpsearch.spec.load import parse_study
from hpsearch.spec.search import Choices, Entry, FloatRange, IntRange
from hpsearch.spec.study import StudySpec
from hpsearch.training import device as devices
from tests.results.digits import options_in
from tests.results.searches import url_in


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
    per_epoch = [1437 * probe.sample_seconds + probe.eval_seconds for probe in report.probes]
    assert report.seconds == pytest.approx(10 * 2 * (sum(per_epoch) / 4) / 2)
    text = "\n".join(report_lines(report))
    assert "1437 training, 180 validation and 180 test images of 1 x 8 x 8" in text
    assert "for 10 trials with 2 workers" in text


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
        assert open_study("s", url_in(tmp_path)).trials == []


def test_a_number_type_that_no_worker_has_ends_the_run_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_trains", lambda precision, device: precision.name != "float16")
    spec = study({"train.precision": ["float32", "float16"]})
    with pytest.raises(DeviceError, match=r'search: train\.precision = "float16": ') as caught:
        run(spec, options_in(tmp_path), executor=InProcessExecutor())
    assert caught.value.exit_status == 2
    assert open_study("s", url_in(tmp_path)).trials == []


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

"""A study that ends by one of its own limits says which and why, wherever people look."""

import html
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from hpsearch.__main__ import run as command
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.messages import FromWorker
from hpsearch.results.dashboard.notes import study_note
from hpsearch.results.stored.reading import read_study
from hpsearch.service.launch import RunOptions
from hpsearch.service.opening import open_study
from hpsearch.service.run import run
from hpsearch.study import StudySpec, parse_study
from tests.databases import at_once, fresh_database
from tests.service.curves import CurveExecutor, falling

LIMITS: dict[str, dict[str, Any]] = {
    "the target value": {"target_value": 0.6},
    "patience_trials = 12": {"patience_trials": 12},
    "improvement: the chance": {"improvement": {"by": 1.0, "chance": 0.4, "epochs": 20}},
    "max_epochs_total = 150": {"max_epochs_total": 150},
    "max_device_hours = 0.0004": {"max_device_hours": 0.0004},
}


def spec_of(**study: Any) -> StudySpec:
    return parse_study(
        {
            "study": {"name": "s", "trials": 400, **study},
            "data": {"dataset": "digits"},
            "train": {"epochs": 6},
            "search": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}},
        }
    )


class Slow(CurveExecutor):
    """So that both drivers are at work."""

    def receive(self, timeout: float) -> list[FromWorker]:
        time.sleep(0.005)
        return super().receive(timeout)


def reason_of(place: int, url: str, folder: Path, study: dict[str, Any]) -> str:
    options = RunOptions(url, folder / "runs", workers=Workers(gpus="none", workers=2))
    return run(spec_of(**study), options, executor=Slow(falling)).reason


def seen(url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Returns what status, dashboard and report say of a study."""
    where, page = ["--storage", url, "--run-folder", str(folder / "runs")], folder / "report.html"
    assert command(["status", "s", *where]) == 0
    status = capsys.readouterr().out
    assert command(["report", "s", *where, "--output", str(page)]) == 0
    capsys.readouterr()
    note = study_note(read_study("s", url)).replace("\\", "").replace("`", "")
    return [status, note, html.unescape(page.read_text())]


@pytest.mark.parametrize(("rule", "kind"), list(zip(LIMITS, cycle(["sqlite", "postgresql"]), strict=False)))
def test_two_drivers_say_which_rule_ended_the_study(
    rule: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_database(kind, tmp_path) as url:
        for reason in at_once(2, reason_of, url, tmp_path, LIMITS[rule]):
            assert reason.startswith(rule)
        for place, shown in enumerate(seen(url, tmp_path, capsys)):
            assert f"ended by itself: {rule}" in shown, place
        record = read_study("s", url)
        assert len(record.finished) == len(record.trials) < 400


def test_why_it_ended_stays_until_it_is_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    reason_of(0, url, tmp_path, {"max_epochs_total": 30})
    other = open_study(spec_of(max_epochs_total=30), url, [])  # as `import` and `continue` do
    other.release()
    other.storage.engine.dispose()
    assert all("ended by itself: max_epochs_total = 30" in shown for shown in seen(url, tmp_path, capsys))
    reason_of(0, url, tmp_path, {"max_epochs_total": None, "trials": 20})
    assert not any("ended by itself" in shown for shown in seen(url, tmp_path, capsys))

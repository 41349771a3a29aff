"""Publishing through the real driver, read back with optuna-dashboard's and Optuna's own functions."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna_dashboard import get_note, save_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from safetensors.numpy import load_file

from hpsearch.contracts.callbacks import Callback, RunSummary
from hpsearch.results.dashboard import publisher as publish
from hpsearch.results.dashboard.graph_order import ORDER
from hpsearch.results.dashboard.publication import Publication, compute
from hpsearch.results.dashboard.publisher import Publisher
from hpsearch.results.plots import charts
from hpsearch.service import driver
from tests.results.searches import digits_spec, record_of, search, url_in, writable
from tests.results.stored import load
from tests.service.curves import Script

DRAWN = tuple(name for name in ORDER if name != "pieces")  # of a study without pauses
GRAPHS = set(DRAWN)


def publisher(folder: Path) -> Publisher:
    return Publisher(url_in(folder), folder / "runs")


def graphs(folder: Path) -> dict[str, dict]:
    study = load("s", url_in(folder))
    attrs = study._storage.get_study_system_attrs(study._study_id)
    return {name: json.loads(text) for name, text in get_plotly_graph_objects(attrs).items()}


def artifact(folder: Path, into: Path) -> tuple[str, int]:
    """Downloads the study's only artifact; returns its file name and the trial whose weights it holds."""
    study = load("s", url_in(folder))
    (meta,) = get_all_artifact_meta(study)
    store = FileSystemArtifactStore(folder / "runs" / "artifacts")
    path = into / "downloaded.safetensors"
    path.unlink(missing_ok=True)
    download_artifact(artifact_store=store, artifact_id=meta.artifact_id, file_path=str(path))
    return meta.filename, int(load_file(path)["number"][0])


def test_graphs_note_and_weights_are_there_after_a_run(tmp_path: Path, caplog) -> None:
    summary = search(tmp_path, callbacks=(publisher(tmp_path),))
    assert summary.best is not None
    assert graphs(tmp_path).keys() == GRAPHS
    assert tuple(chart.id for chart in charts(record_of(tmp_path))) == DRAWN
    study = load("s", url_in(tmp_path))
    note = get_note(study)
    assert f"Best so far: trial {summary.best.number}" in note
    assert "hpsearch.load_best_model('s', storage='sqlite:///" in note
    assert artifact(tmp_path, tmp_path) == (
        f"s-trial-{summary.best.number:05d}.safetensors",
        summary.best.number,
    )
    attrs = study._storage.get_study_system_attrs(study._study_id)
    best_id = record_of(tmp_path).ranked[0].trial_id
    assert f"# Trial {summary.best.number}: rank 1" in attrs[f"dashboard:{best_id}:note_str:0"]
    assert not [r for r in caplog.records if "dashboard" in r.message]


def test_published_points_equal_the_stored_epochs(tmp_path: Path) -> None:
    search(tmp_path, callbacks=(publisher(tmp_path),))
    trials = {trial.number: trial for trial in load("s", url_in(tmp_path)).trials}
    drawn = 0
    for trace in graphs(tmp_path)["learning-curves"]["data"]:
        if trace["mode"] != "lines":
            continue
        attrs = trials[int(trace["legendgroup"].removeprefix("trial "))].user_attrs
        curve = attrs["train_loss" if trace["line"]["dash"] == "dash" else "val_loss"]
        assert trace["x"] == list(range(1, attrs["epochs_run"] + 1))
        assert trace["y"] == curve
        drawn += 1
    assert drawn == 2 * min(10, len(record_of(tmp_path).ranked))


def test_a_new_best_replaces_the_artifact(tmp_path: Path) -> None:
    def getting_better(run):
        return Script((1.0 / (run.number + 1),) * run.spec.train.epochs)

    found = []
    for trials in (2, 4):
        search(tmp_path, digits_spec(study={"trials": trials}), (publisher(tmp_path),), getting_better)
        found.append(artifact(tmp_path, tmp_path)[1])
    assert found == [1, 3]
    assert len(list((tmp_path / "runs" / "artifacts").iterdir())) == 1


def test_a_second_publication_writes_only_what_has_changed(tmp_path: Path) -> None:
    search(tmp_path, callbacks=(publisher(tmp_path),))
    request = publish.PublicationRequest(url_in(tmp_path), "s", str(tmp_path / "runs"), output=0)
    assert compute(request) == Publication()


def test_a_note_that_a_person_has_changed_is_left_alone(tmp_path: Path) -> None:
    spec = digits_spec(study={"trials": 3})
    search(tmp_path, spec, (publisher(tmp_path),))
    save_note(writable(tmp_path), "my own words")
    search(tmp_path, digits_spec(study={"trials": 6}), (publisher(tmp_path),))
    assert get_note(load("s", url_in(tmp_path))) == "my own words"
    assert len(graphs(tmp_path)["best-by-trials"]["data"][-1]["x"]) >= 1


def test_graphs_appear_while_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is held at the end of trial 4 until the graphs of the trials before it can be seen."""
    monkeypatch.setattr(driver, "GATHER", 0.0)  # the trials before it are written then
    monkeypatch.setattr(publish, "SOON", 0.0)
    monkeypatch.setattr(publish, "INTERVAL", 0.0)
    seen: list[set[str]] = []

    class Waiting(Callback):
        def on_trial_end(self, trial):
            if trial.number != 4:
                return
            follower = self.publisher
            deadline = time.monotonic() + 60
            while not (shown := self.shown()) and time.monotonic() < deadline:
                follower.on_tick()
            seen.append(shown)

        def shown(self):
            return set(graphs(tmp_path))

    waiting = Waiting()
    waiting.publisher = publisher(tmp_path)
    search(tmp_path, callbacks=(waiting.publisher, waiting))
    assert seen
    assert seen[0]


def test_a_publication_that_takes_too_long_is_finished_by_a_process_that_outlives_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "AT_END", 0.05)
    with caplog.at_level(logging.WARNING):
        summary = search(tmp_path, callbacks=(publisher(tmp_path),))
    assert summary.exit_status == 0
    (process,) = (one for one in publish._outliving if f"process {one.pid} finishes them" in caplog.text)
    assert "not finished after 0.05 s" in caplog.text
    assert graphs(tmp_path) == {}
    assert os.getsid(process.pid) == process.pid, "it does not end with the terminal"
    assert process.wait(60) == 0
    assert graphs(tmp_path).keys() == GRAPHS
    assert artifact(tmp_path, tmp_path)[1] == summary.best.number
    assert (tmp_path / "runs" / "s" / "logs" / "dashboard.log").read_bytes() == b""


def test_what_the_outliving_process_cannot_do_is_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "dashboard.log"
    publish._start_outliving(publish.PublicationRequest(url_in(tmp_path), "s", str(tmp_path)), log)
    assert publish._outliving[-1].wait(60) == 1
    assert log.read_text().startswith("s: the dashboard's graphs could not be finished: ")


def test_before_a_trial_has_ended_the_end_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "AFTER_SIGNAL", 0.0)  # a publication would take longer, and that be said
    for counts, waits in (({"RUNNING": 2}, False), ({"RUNNING": 1, "FAIL": 1}, True)):
        caplog.clear()
        publisher(tmp_path).on_study_end(RunSummary("s", "", counts, {}, None, 0.0, exit_status=130))
        assert ("not finished" in caplog.text) == waits


def test_a_failing_publication_harms_nothing_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "artifacts").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        summary = search(tmp_path, callbacks=(publisher(tmp_path),))
    assert summary.exit_status == 0
    assert "the dashboard's graphs could not be drawn" in caplog.text


def test_the_password_is_not_in_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    popen = publish.subprocess.Popen

    def noting(arguments, **options):
        started.append(arguments)
        return popen(arguments, **options)

    monkeypatch.setattr(publish.subprocess, "Popen", noting)
    process = publish._PublicationProcess()
    request = publish.PublicationRequest("postgresql://u:geheim@127.0.0.1:1/x", "s", str(tmp_path))
    process.ask(request)
    assert process.wait(60)
    with pytest.raises(publish.HpsearchError) as caught:
        process.answer()
    process.end()
    log = tmp_path / "dashboard.log"
    publish._start_outliving(request, log)
    assert publish._outliving[-1].wait(60) == 1
    assert "127.0.0.1" in log.read_text()
    assert "geheim" not in str(started) + log.read_text()
    assert "geheim" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_the_driver_pays_for_no_plotly() -> None:
    costly = {"plotly", "optuna_dashboard", "torch", "pandas"}
    code = "import sys, hpsearch.results.dashboard.publisher; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert costly.isdisjoint(answer.stdout.split())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests may need longer than a user would wait."""
    monkeypatch.setattr(publish, "AT_END", 60.0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

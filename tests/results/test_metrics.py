"""`--metrics`: what Prometheus reads equals what was trained."""

import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import hpsearch
from hpsearch.contracts.callbacks import Callback, FinishedTrial, Health, WorkerState
from hpsearch.errors import UserError
from hpsearch.results.dashboard.metrics import Metrics
from tests.results.digits import small_spec
from tests.results.requests import free_port

PANELS = Path(__file__).parents[2] / "docker" / "grafana.json"


def read(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Returns each sample by its name and its labels but the study's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (
            sample.name,
            frozenset((name, value) for name, value in sample.labels.items() if name != "study"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Reader(Callback):
    """Reads the page whenever a trial has ended, and the last time within the run."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: list[dict] = []
        self.healths: list[Health] = []

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.pages.append(read(self.port))

    def on_health(self, health: Health) -> None:
        self.healths.append(health)

    def on_study_end(self, summary) -> None:
        self.pages.append(read(self.port))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    folder, port = tmp_path_factory.mktemp("metrics"), free_port()
    reader = Reader(port)
    spec = small_spec("measured")
    result = hpsearch.run(
        spec, run_folder=folder, gpus="none", workers=1, metrics=str(port), callbacks=[reader], progress=False
    )
    return result, reader


def value(page: dict, name: str, **labels: str) -> float:
    return page[name, frozenset(labels.items())]


def test_trials_epochs_and_samples_are_those_of_the_study(run):
    result, reader = run
    trials = result.dataframe()
    last = reader.pages[-1]
    assert value(last, "hpsearch_trials_wanted") == 3
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        assert value(last, "hpsearch_trials", state=state) == (trials["state"] == state).sum()
    assert value(last, "hpsearch_trials", state="RUNNING") == 0
    assert value(last, "hpsearch_epochs_total") == trials["epochs_run"].sum()
    assert value(last, "hpsearch_epoch_seconds_count") == trials["epochs_run"].sum()
    assert value(last, "hpsearch_samples_total") > 0
    assert value(last, "hpsearch_best_value") == pytest.approx(result.best.value)


def test_the_driver_tells_of_its_workers_and_its_database(run):
    _, reader = run
    assert {state.phase for health in reader.healths for state in health.workers} <= {
        "starting", "idle", "training", "leaving", "down",
    }  # fmt: skip
    training = [page for page in reader.pages if any(name == "hpsearch_workers" for name, _ in page)]
    assert training
    assert value(training[-1], "hpsearch_database_unreachable_seconds") == 0
    assert 0 < value(training[-1], "hpsearch_database_seconds") < 60


def test_workers_are_counted_by_what_they_do_and_where():
    metrics = Metrics("0")
    try:
        metrics.on_health(
            Health(
                workers=(
                    WorkerState(0, "training", "one", "NVIDIA H200", 100.0),
                    WorkerState(1, "training", "one", "NVIDIA H200", 50.0),
                    WorkerState(2, "starting", "two", "cpu"),
                ),
                unwritten=7,
                latency=0.25,
                away_for=3.0,
            )
        )
        page = read(metrics.port)
        assert value(page, "hpsearch_workers", phase="training", host="one", device="NVIDIA H200") == 2
        assert value(page, "hpsearch_workers", phase="starting", host="two", device="cpu") == 1
        assert value(page, "hpsearch_worker_memory_bytes", worker="1") == 50 * 2**20
        assert value(page, "hpsearch_unwritten_results") == 7
        assert value(page, "hpsearch_database_seconds") == 0.25
        assert value(page, "hpsearch_database_unreachable_seconds") == 3
        metrics.on_health(Health(workers=(), unwritten=0, latency=0.1))
        assert not [name for name, _ in read(metrics.port) if name.startswith("hpsearch_worker")]
    finally:
        metrics.close()


@pytest.mark.parametrize(
    "address", ["", "x", "70000", "localhost:", "9400:localhost", "-1", "9" * 5000, "::1"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(
        UserError, match=r"^--metrics: .* is neither PORT nor HOST:PORT; for example --metrics 9400"
    ):
        Metrics(address)


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "hpsearch", "run", "studies/digits.toml", "--metrics", str(port)]
        shown = subprocess.run(
            [*command, "--run-folder", tmp_path / "runs"],
            capture_output=True,
            text=True,
            check=False,
            cwd=PANELS.parents[1],
        )
    assert shown.returncode == 2
    assert shown.stderr.strip() == (
        f"error: --metrics: cannot listen on 127.0.0.1:{port}: Address already in use; choose another port"
    )
    assert not (tmp_path / "runs").exists()


def test_the_panels_of_grafana_ask_for_what_is_there():
    metrics = Metrics("0")
    try:
        metrics.on_health(Health((WorkerState(0, "idle", "", "cpu", 1.0),), 0, 0.0))
        metrics._running.add(0)
        metrics._show_running()
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=10) as answer:
            known = {
                name
                for family in text_string_to_metric_families(answer.read().decode())
                for name in (
                    family.name,
                    f"{family.name}_total",
                    f"{family.name}_sum",
                    f"{family.name}_count",
                )
            }
    finally:
        metrics.close()
    panels = json.loads(PANELS.read_text(encoding="utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]

    names = {name for text in asked for name in re.findall(r"hpsearch_\w+", text)}
    assert names - {f"{name}_bucket" for name in known} <= known
    assert len(panels) >= 6

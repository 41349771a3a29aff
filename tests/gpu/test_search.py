"""A whole search on the GPU: `hpsearch run`, with a worker that is killed and a dashboard that reads along."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.trials import GpuData

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[2]
TRIALS, EPOCHS = 8, 10

STUDY = """
[study]
name = "fashion"
trials = {trials}

[data]
{line}
root = "{root}"
augment = [{{ name = "crop", padding = 2 }}]

[model]
name = "cnn"

[train]
epochs = {epochs}

[search]
learning_rate = {{ low = 1e-3, high = 0.3, log = true }}
batch_size = [128, 256, 512]

[early_stopping]
criterion = "none"
"""


def workers_of(driver: int) -> list[int]:
    """Returns the worker processes that a driver has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == driver and b"hpsearch.service.worker" in command:
            found.append(int(stat.parent.name))
    return found


def test_a_search_survives_a_killed_worker_while_the_dashboard_reads(
    fashion: GpuData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("optuna_dashboard")
    from tests.results.requests import ours, until

    with capsys.disabled():
        print(f"\n[search on {fashion.words}]")
    study, runs = tmp_path / "fashion.toml", tmp_path / "runs"
    study.write_text(STUDY.format(trials=TRIALS, epochs=EPOCHS, line=fashion.line, root=fashion.root))
    command = [sys.executable, "-m", "hpsearch", "run", str(study), "--run-folder", str(runs)]
    command += ["--json", "--workers", "2", "--workers-per-gpu", "2"]
    with (tmp_path / "events").open("wb") as events:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=events, stderr=events, env=dict(os.environ))
    try:
        until(lambda: (runs / "hpsearch.db").exists() or driver.poll() is not None, 120)
        with ours("--run-folder", runs) as dashboard:

            def in_training() -> list[dict[str, object]]:
                assert driver.poll() is None, (tmp_path / "events").read_text()[-3000:]
                summaries = dashboard.json("/api/studies")["study_summaries"]
                trials = dashboard.json("/api/studies/1")["trials"] if summaries else []
                return [t for t in trials if t["state"] == "Running" and t["intermediate_values"]]

            # Both: a worker that is still starting has no trial to lose.
            until(lambda: len(in_training()) == 2, 120)
            victims = workers_of(driver.pid)
            assert len(victims) == 2
            os.kill(victims[0], signal.SIGKILL)
            assert driver.wait(timeout=200) == 0, (tmp_path / "events").read_text()[-3000:]
            shown = dashboard.json("/api/studies/1")["trials"]
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()

    url = f"sqlite:///{runs}/hpsearch.db"
    trials = optuna.load_study(study_name="fashion", storage=url).trials
    assert len(trials) == len(shown) == TRIALS
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial["state"] for trial in shown} == {"Complete"}
    assert all(sorted(trial.intermediate_values) == list(range(1, EPOCHS + 1)) for trial in trials)
    attempts = sorted(trial.user_attrs["attempt"] for trial in trials)
    assert attempts[:-1] == [1] * (TRIALS - 1)
    assert attempts[-1] == 2
    assert all(trial.user_attrs["device"].startswith("cuda:0 ") for trial in trials)
    best = min(trials, key=lambda trial: trial.value)
    assert (runs / "fashion" / "weights" / f"trial-{best.number:05d}.safetensors").exists()
    assert workers_of(driver.pid) == []
    kinds = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines() if line[:1] == "{"]
    assert any("SIGKILL" in json.dumps(event) for event in kinds)

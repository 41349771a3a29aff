"""A study on a real Slurm: what is preempted, lost or killed goes on, and no job is left."""

import os
import signal
import subprocess
import sys

import pytest

from hpsearch.contracts.trial import PAUSES
from tests.databases import stored_trials
from tests.faults.bench import ROOT
from tests.faults.preempt import Preemptions, make_bench

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture
def preemptions(slurm, tmp_path):
    bench = make_bench(tmp_path, trials=4, jobs=2)
    yield Preemptions(slurm, bench)
    bench.end()
    for job in slurm.jobs():
        slurm.tell("scancel", job, check=False)


def test_what_slurm_takes_away_costs_at_most_an_epoch(preemptions):
    """A job requeued, a signal, a node down, the driver killed."""
    bench = preemptions.bench
    bench.start(**preemptions.cluster.environ)
    for kind in ("requeue", "signal", "node"):
        preemptions.strike(kind)
    preemptions.finish()
    bench.check(faults=4)  # the node may have had both jobs
    assert '"state": "FAIL"' not in (bench.folder / "driver-0.out").read_text()


def test_jobs_do_not_outlive_a_driver_that_is_killed(preemptions):
    """The next driver ends those of the one before, and the study goes on."""
    bench, cluster = preemptions.bench, preemptions.cluster
    driver = bench.start(**cluster.environ)
    preemptions.wait_for(lambda: bool(preemptions.at_work()), "a job that trains")
    before = set(cluster.jobs())
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    bench.start(**cluster.environ)
    preemptions.wait_for(lambda: not before & cluster.jobs().keys(), "its jobs gone")
    preemptions.finish()
    bench.check(faults=2)


def test_jobs_leave_by_themselves_when_their_driver_does_not_come_back(preemptions):
    bench, cluster = preemptions.bench, preemptions.cluster
    bench.flags = ("--executor", "slurm", "--storage-timeout", "3")
    driver = bench.start(**cluster.environ)
    preemptions.wait_for(lambda: bool(preemptions.at_work()), "a job that trains")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    preemptions.wait_for(lambda: not cluster.jobs(), "the jobs gone")
    bench.wait_for(lambda: not bench.living(), "workers gone", 20)


def test_a_warm_stop_cancels_all_jobs_and_loses_no_epoch(preemptions):
    bench, cluster = preemptions.bench, preemptions.cluster
    driver = bench.start(**cluster.environ)
    preemptions.wait_for(lambda: bool(preemptions.at_work()), "a job that trains")
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=60) == 128 + signal.SIGTERM, bench.output()
    assert cluster.jobs() == {}
    bench.start(**cluster.environ)
    preemptions.finish()
    bench.check(faults=0)


def test_two_studies_share_a_partition(slurm, tmp_path):
    """Each has its own driver, and its jobs leave the other's alone."""
    both = [Preemptions(slurm, make_bench(tmp_path / name, trials=2, jobs=2)) for name in ("one", "two")]
    try:
        for study in both:
            study.bench.start(**slurm.environ)
        for study in both:
            study.wait_for(study.is_over, "the end")
            assert study.bench.drivers[-1].returncode == 0, study.bench.output()
        for study in both:
            study.bench.check(faults=0)
    finally:
        for study in both:
            study.bench.end()


PAUSING = """
[study]
trials = 8
[data]
dataset = "digits"
[model]
name = "mlp"
[search]
learning_rate = { low = 1e-3, high = 0.3, log = true }
epochs = { low = 4, high = 12 }
"""


def test_paused_trials_are_resumed_by_whichever_job_is_free(slurm, tmp_path):
    """The default policy pauses trials; their checkpoints lie in the shared run folder."""
    (tmp_path / "p.toml").write_text(PAUSING)
    storage = f"sqlite:///{tmp_path}/s.db"
    flags = ["--storage", storage, "--run-folder", str(tmp_path / "runs"), "--gpus", "none", "--quiet"]
    command = [sys.executable, "-m", "hpsearch", "run", str(tmp_path / "p.toml"), "--executor", "slurm"]
    done = subprocess.run(
        [*command, "--jobs", "2", *flags],
        cwd=ROOT,
        env=slurm.environ,
        timeout=500,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    trials = stored_trials(storage, "p")
    assert len(trials) == 8
    assert all(trial.state.is_finished() for trial in trials)
    assert any(trial.user_attrs.get(PAUSES) for trial in trials), "none was paused and resumed"
    assert slurm.jobs() == {}

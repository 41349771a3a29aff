"""A study on a real Slurm: what is preempted, lost or killed goes on, and no job is left."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

from hpsearch.contracts.trial import PAUSES
from tests.databases import stored_trials
from tests.faults.bench import ROOT, alive
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
    """Each has its own driver, and its jobs leave the other's alone; they share a database, and looks show both."""
    url = f"sqlite:///{tmp_path}/s.db"
    both = [
        Preemptions(slurm, make_bench(tmp_path / name, trials=4, jobs=2, name=name, storage=url, seconds=0.4))
        for name in ("one", "two")
    ]
    try:
        for study in both:
            study.bench.start(**slurm.environ)
        for study in both:
            study.wait_for(lambda: bool(study.at_work()), "a job that trains")  # noqa: B023
        listed = both[0].bench.look("list")
        assert {row["name"] for row in listed} == {"one", "two"}
        assert all(row["counts"]["RUNNING"] for row in listed)
        for study in both:
            shown = study.bench.look("status", study.bench.name)
            assert shown["row"]["name"] == study.bench.name
            assert [driver["pid"] for driver in shown["drivers"]] == [study.bench.drivers[-1].pid]
        for study in both:
            study.wait_for(study.is_over, "the end")
            assert study.bench.drivers[-1].returncode == 0, study.bench.output()
        for study in both:
            study.bench.check(faults=0)
    finally:
        for study in both:
            study.bench.end()


def test_a_driver_may_be_a_job_itself_and_be_preempted(slurm, tmp_path):
    """As the guide says it; it comes back, ends what it has left in the queue, and goes on."""
    bench = make_bench(tmp_path, trials=4, jobs=2)
    study = Preemptions(slurm, bench)
    script = tmp_path / "driver.sh"
    script.write_text(f"#!/bin/bash\nexec {shlex.join(bench.command())}\n")
    job = slurm.tell(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={tmp_path}/driver-0.out",
        f"--chdir={ROOT}", "--job-name=driver", str(script),
    ).strip()  # fmt: skip
    study.wait_for(lambda: bool(study.at_work()), "a job that trains")
    driver = bench.lines()[0]["pid"]
    slurm.tell("scontrol", "requeue", job)
    study.wait_for(lambda: slurm.jobs().get(job, ("", ""))[0] == "PENDING", "it requeued")
    study.wait_for(lambda: slurm.jobs().get(job, ("", ""))[0] == "RUNNING", "it back")
    study.wait_for(lambda: not slurm.jobs(), "the end")
    assert not alive(driver)
    assert "JobState=COMPLETED" in slurm.tell("scontrol", "show", "job", job)
    bench.check(faults=2)


def test_a_job_that_reaches_its_time_limit_is_to_blame_if_no_epoch_fits(slurm, tmp_path):
    """Slurm ends it with the state TIMEOUT. One has trained epochs, and its trial goes on in the next; one has not."""
    flags, long = ("--slurm", "signal=B:TERM@1"), "600s"
    fits = make_bench(
        tmp_path / "fits",
        trials=1,
        jobs=1,
        flags=flags,
        function="too_long_once",
        epochs=5,
        stall_timeout=long,
    )
    never = make_bench(
        tmp_path / "never",
        trials=1,
        jobs=1,
        flags=flags,
        max_attempts=1,
        seconds=3600,
        epochs=1,
        stall_timeout=long,
    )
    benches = [fits, never]
    study = Preemptions(slurm, fits)
    try:
        for bench in benches:
            bench.start(**slurm.environ)
        study.wait_for(lambda: len(slurm.running()) == 2 and len(fits.lines()) == 2, "both train")
        for job in slurm.running():
            slurm.tell("scontrol", "update", f"jobid={job}", "TimeLimit=1")
        study.wait_for(lambda: all(bench.drivers[0].poll() is not None for bench in benches), "the ends")
        said = (tmp_path / "never" / "driver-0.out").read_text()
        assert "TIMEOUT before it had finished an epoch; give the jobs more time (--slurm time=...)" in said
        assert [trial.state.name for trial in never.stored()] == ["FAIL"]
        assert "ended: TIMEOUT" in (tmp_path / "fits" / "driver-0.out").read_text()
        assert fits.drivers[0].returncode == 0, fits.output()
        fits.check(faults=0)
    finally:
        for bench in benches:
            bench.end()


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

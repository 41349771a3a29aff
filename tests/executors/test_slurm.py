"""Jobs of Slurm: what is asked of it, what its queue means, and what the user is told."""

import os
import socket
import time
from pathlib import Path

import pytest

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import (
    Action,
    EpochResult,
    FromWorker,
    PlaceAdded,
    PlaceRemoved,
    Ready,
    Shutdown,
    TrialEnd,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.contracts.places import Cluster
from hpsearch.errors import DeviceError, UserError
from hpsearch.executors import dial
from hpsearch.executors import slurm as module
from hpsearch.executors.dial import RemoteWorker
from hpsearch.executors.slurm import SlurmExecutor, parameters, read_queue
from hpsearch.files.run_folder import RunFolder
from hpsearch.testing.executor_contract import ExecutorClient, make_run
from tests.slurm import Slurm

SECONDS = 60.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("time", None),
        ("exclusive", None),
        ("time=3", None),
        ("time=0:03:00", None),
        ("time=1-0", None),
        ("time=UNLIMITED", None),
        ("time=2", "this one would train nothing; give more than 2 minutes"),
        ("time=1:30", "this one would train nothing"),
        ("time=0:01:00", "this one would train nothing"),
        ("time=0-0:01", "this one would train nothing"),
        ("2:00", "write a parameter of sbatch and its value, as in time=2:00:00"),
        ("Time=2", "write a parameter of sbatch"),
        ("--time=2", "write a parameter of sbatch"),
        ("time=", "write a parameter of sbatch"),
        ("array=0-7", "hpsearch needs array itself; leave it out"),
        ("wrap=rm", "hpsearch needs wrap itself"),
        ("wait", "hpsearch needs wait itself"),
        ("clusters=other", "hpsearch needs clusters itself"),
    ],
)
def test_only_parameters_of_sbatch_are_taken(given: str, words: str | None) -> None:
    if words is None:
        assert given.partition("=")[0] in parameters(Cluster(slurm=(given,)))
        return
    with pytest.raises(UserError) as refused:
        parameters(Cluster(slurm=(given,)))
    assert words in str(refused.value)


def test_parameters_may_name_anything_and_outrank_the_partition() -> None:
    cluster = Cluster(partition="low", slurm=("account=a b", "partition=high", "signal=B:USR1@300"))
    assert parameters(cluster) == {"partition": "high", "account": "a b", "signal": "B:USR1@300"}


def test_the_queue_is_read_as_squeue_writes_it() -> None:
    text = "12_0|RUNNING|n1|None\n12_1|PENDING||Resources|x\n\nslurm_load_jobs error\n"
    assert read_queue(text) == {"12_0": ("RUNNING", "n1", "None"), "12_1": ("PENDING", "", "Resources|x")}


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"--executor slurm: sbatch is not on the PATH; start hpsearch on a login"
    ):
        SlurmExecutor(RunFolder(tmp_path, "s"), Cluster()).places(Workers(), 1, "time")


@pytest.mark.parametrize(
    ("state", "remote", "blameless"),
    [
        ("PREEMPTED", {}, True),
        ("NODE_FAIL", {}, True),
        ("FAILED", {}, False),
        ("OUT_OF_MEMORY", {}, False),
        ("GONE", {}, False),
        # the driver was away, and its worker left
        ("FAILED", {"silent": True}, True),
        ("GONE", {"silent": True}, True),
        ("OUT_OF_MEMORY", {"silent": True}, False),
        # an epoch, or the start, does not fit into a job
        ("TIMEOUT", {}, False),
        ("TIMEOUT", {"is_ready": True, "folders": {1: "/runs/1"}}, False),
        ("TIMEOUT", {"is_ready": True}, True),
        ("TIMEOUT", {"is_ready": True, "folders": {1: "/runs/1"}, "has_trained": True}, True),
    ],
)
def test_who_is_to_blame_for_a_jobs_end(tmp_path: Path, state: str, remote: dict, blameless: bool) -> None:
    executor = SlurmExecutor(RunFolder(tmp_path, "s"), Cluster())
    taken = RemoteWorker(WorkerPlace(0), process="x", **remote)
    assert executor._is_blameless(taken, module._Job("0.1", "7_0", state)) == blameless


class Programs:
    """Slurm's commands as scripts, for what a real Slurm does seldom."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("sbatch", "cat >/dev/null; echo 100")
        self.write("squeue", f"cat {folder}/queue 2>/dev/null; true")
        self.write("scancel", "true")
        self.write("sinfo", "echo gpu:2")
        self.write("scontrol", 'echo "SlurmctldHost[0] = head(127.0.1.1)"')

    def write(self, name: str, script: str) -> None:
        path = self.folder / name
        path.with_suffix(".new").write_text(f'#!/bin/bash\necho "{name} $*" >> {self.folder}/log\n{script}\n')
        path.with_suffix(".new").chmod(0o755)
        path.with_suffix(".new").replace(path)

    def queue(self, text: str) -> None:
        (self.folder / "queue").write_text(text)

    def calls(self, name: str) -> list[str]:
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    for name in ("LOOK", "LOOK_SOON", "RETRY"):
        monkeypatch.setattr(module, name, 0.05)
    return Programs(tmp_path / "bin")


BUSY = "echo 'sbatch: error: Batch job submission failed: {}' >&2; exit 1"


def begun(one: "Desk") -> None:
    one.slurm.start(WorkerPlace(0), WorkerSetup(0, make_run(one.slurm.folder.home).spec))


def test_one_refusal_does_not_end_a_run_whose_jobs_were_taken(programs: Programs, tmp_path: Path) -> None:
    """The only job has ended, and the controller has a bad moment."""
    one = Desk(tmp_path, listen="127.0.0.1")
    begun(one)
    programs.queue("100_0|RUNNING|n1|None\n")
    one.until(lambda: any("starts on n1" in text for text in one.waiting), "the job")
    programs.write("sbatch", BUSY.format("Zero Bytes were transmitted or received"))
    programs.queue("100_0|PREEMPTED|n1|None\n")
    one.until(lambda: bool(one.came(WorkerExit)), "its end")
    begun(one)
    one.until(lambda: any("Zero Bytes" in text for text in one.waiting), "the refusal")
    programs.write("sbatch", "echo 200")
    programs.queue("200_0|RUNNING|n2|None\n")
    one.until(lambda: any("job 200_0 starts on n2" in text for text in one.waiting), "the next job")
    programs.queue("")
    one.slurm.close(0.0)


def test_a_command_that_hangs_is_said_so(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWERS", 0.5)
    programs.write("sbatch", "exec sleep 60")
    one = Desk(tmp_path, listen="127.0.0.1")
    begun(one)
    one.until(lambda: any("did not answer for 0.5 s" in text for text in one.waiting), "the words")
    monkeypatch.setattr(module, "ANSWERS", 60.0)
    one.slurm.close(0.0)


def test_a_job_that_was_taken_although_sbatch_failed_is_cancelled(programs: Programs, tmp_path: Path) -> None:
    programs.write("sbatch", BUSY.format("Socket timed out on send/recv operation"))
    programs.queue("100_0|RUNNING|n1|None\n")
    one = Desk(tmp_path, listen="127.0.0.1")
    begun(one)
    one.until(lambda: bool(programs.calls("sbatch")), "the first")
    programs.write("sbatch", f"echo '200_0|RUNNING|n2|None' >> {programs.folder}/queue; echo 200")
    one.until(lambda: any("job 200_0 starts" in text for text in one.waiting), "the second")
    one.until(lambda: "scancel --quiet 100_0" in programs.calls("scancel"), "the first one's end")
    assert not any("200_0" in call for call in programs.calls("scancel"))
    programs.queue("")
    one.slurm.close(0.0)


@pytest.mark.parametrize("cluster", [{"partition": "cpu"}, {"slurm": ("partition=cpu",)}])
def test_the_partition_is_asked_for_gpus_however_it_is_named(
    programs: Programs, tmp_path: Path, cluster: dict
) -> None:
    executor = SlurmExecutor(RunFolder(tmp_path, "s"), Cluster(listen="127.0.0.1", **cluster))
    executor.places(Workers("auto", 1), 1, "time")
    assert programs.calls("sinfo")[0].endswith("--partition cpu")
    executor.close(0.0)


def test_jobs_do_not_share_a_gpu_at_once(programs: Programs, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="--share nvidia-mps: not with --executor slurm, only with local"):
        SlurmExecutor(RunFolder(tmp_path, "s"), Cluster()).places(Workers(), 1, "nvidia-mps")


def test_an_address_that_no_node_can_reach_is_refused(programs: Programs, tmp_path: Path) -> None:
    """The controller's name has a loopback address, as Debian gives a machine its own."""
    here = socket.gethostname().partition(".")[0]
    executor = SlurmExecutor(RunFolder(tmp_path, "s"), Cluster())
    programs.write("sinfo", f"printf '{here}\\nn2\\n'")
    with pytest.raises(
        UserError, match=r"--listen: the route to Slurm's controller head is 127\..*; give an address"
    ):
        executor.default_host()
    programs.write("sinfo", f"echo {here}")
    assert executor.default_host().startswith("127.")


class Desk(ExecutorClient):
    """A driver that also keeps what is said of waiting."""

    def __init__(self, folder: Path, **cluster: object) -> None:
        self.slurm = SlurmExecutor(RunFolder(folder, "s"), Cluster(**cluster))
        super().__init__(self.slurm, folder)
        self.waiting: list[str] = []
        self.all: list[FromWorker] = []

    def until(self, condition, what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.waiting} {self.all} {self.slurm.jobs}"
            for message in self.slurm.receive(0.1):
                if isinstance(message, Waiting):
                    self.waiting.append(message.text)
                else:
                    self.all.append(message)

    def came(self, kind: type) -> list:
        return [message for message in self.all if isinstance(message, kind)]


@pytest.fixture
def desk(slurm: Slurm, tmp_path: Path):
    made = []

    def make(**cluster: object) -> Desk:
        made.append(Desk(tmp_path, **cluster))
        return made[-1]

    yield make
    for one in made:
        one.slurm.close(0.0)
    assert slurm.jobs() == {}, "jobs are left"


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wanted", "partition", "gpus"),
    [(Workers("none", 3), None, 0), (Workers("auto", 3), "low", 1), (Workers("all", 3, 1, 2), None, 2)],
)
def test_each_job_is_one_worker_on_its_gpus(
    slurm: Slurm, desk, wanted: Workers, partition, gpus: int
) -> None:
    executor = desk(partition=partition).slurm
    places = executor.places(wanted, 2, "time")
    assert [bool(place.gpus) for place in places] == [gpus > 0] * 3
    assert len({place.gpus for place in places}) == (3 if gpus else 1), "no two share a GPU"
    assert (f"--gpus-per-node={gpus}" in executor._sbatch([0, 1, 2], 2)) == (gpus > 0)
    assert {"--array=0,1,2", "--cpus-per-task=2", "--requeue"} <= set(executor._sbatch([0, 1, 2], 2))


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Workers("0,1"), "--gpus 0,1: Slurm chooses the GPUs; give auto, all or none"),
        (Workers("auto", None, 2), "--workers-per-gpu 2: Slurm gives each worker GPUs of its own"),
    ],
)
def test_gpus_that_slurm_does_not_give_so_are_refused(
    slurm: Slurm, desk, wanted: Workers, words: str
) -> None:
    with pytest.raises(DeviceError) as refused:
        desk().slurm.places(wanted, 1, "time")
    assert words in str(refused.value)


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_gives_each_job_its_own_gpu(slurm: Slurm, desk, tmp_path: Path) -> None:
    """The GPUs stand for none, so that a worker says that CUDA is missing; which one it was given, its job tells."""
    one = desk()
    places = one.slurm.places(Workers("all", 2), 1, "time")
    for place in places:
        spec, cache = make_run(tmp_path).spec, str(one.slurm.folder.cache)
        one.slurm.start(place, WorkerSetup(place.worker, spec, device="cpu", cache=cache))
    one.until(lambda: len(one.came(Ready)) == 2, "the workers")
    seen = {
        dict(
            entry.partition("=")[::2] for entry in Path(f"/proc/{ready.pid}/environ").read_text().split("\0")
        )["CUDA_VISIBLE_DEVICES"]
        for ready in one.came(Ready)
    }
    assert seen == {"0", "1"}


@pytest.mark.slow
@pytest.mark.slurm
def test_jobs_that_slurm_refuses_end_the_run_with_its_words(slurm: Slurm, desk) -> None:
    one = desk(partition="nowhere")
    one.start(0)
    with pytest.raises(
        UserError, match=r"sbatch refuses the jobs: .*invalid partition specified: nowhere.*; see --p"
    ):
        one.until(lambda: False, "a refusal")


@pytest.mark.slow
@pytest.mark.slurm
def test_a_job_that_waits_says_why_and_takes_its_place_when_it_may(slurm: Slurm, desk) -> None:
    slurm.tell("scontrol", "update", "partitionname=low", "state=down")
    try:
        one = desk()
        one.start(5)
        one.until(lambda: any("(PartitionDown)" in text for text in one.waiting), "the reason")
        assert one.waiting[-1].startswith("queued: job ")
        slurm.tell("scontrol", "update", "partitionname=low", "state=up")
        one.until(lambda: bool(one.came(Ready)), "the worker")
    finally:
        slurm.tell("scontrol", "update", "partitionname=low", "state=up")


@pytest.mark.slow
@pytest.mark.slurm
def test_a_job_that_cannot_begin_leaves_its_last_words(
    slurm: Slurm, desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "python_module", lambda _: ["/no/such/python"])
    one = desk()
    one.start(0)
    one.until(lambda: bool(one.came(WorkerExit)), "its end")
    (left,) = one.came(WorkerExit)
    assert "ended before it began: FAILED" in left.reason
    assert "/no/such/python" in left.stderr
    assert not left.blameless


@pytest.mark.slow
@pytest.mark.slurm
def test_a_job_without_a_trial_ends_and_comes_back_when_it_is_wanted(
    slurm: Slurm, desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "IDLE", 0.5)
    one = desk()
    for worker in (0, 1):
        one.start(worker)
    one.until(lambda: len(one.came(Ready)) == 2, "the workers")
    one.send(0, make_run(tmp_path, number=1))
    one.until(lambda: bool(one.came(PlaceRemoved)), "the idle job's end")
    assert one.came(PlaceRemoved) == [PlaceRemoved(1)]
    (left,) = one.came(WorkerExit)
    assert (left.worker, left.blameless) == (1, True)
    one.until(lambda: bool(one.came(EpochResult)), "an epoch")
    (result,) = one.came(EpochResult)
    one.decide(0, result, Action.STOP)
    one.until(lambda: bool(one.came(TrialEnd)), "the trial's end")
    one.until(lambda: len(slurm.jobs()) == 1, "one job")
    one.send(0, make_run(tmp_path, number=2))
    one.until(lambda: bool(one.came(PlaceAdded)), "the place")
    assert one.came(PlaceAdded) == [PlaceAdded(WorkerPlace(1))]
    one.slurm.send(0, Shutdown())


def test_a_driver_in_a_job_of_its_own_hands_on_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SQUEUE_USERS", "SBATCH_WAIT", "HPSEARCH_STORAGE"):
        monkeypatch.setenv(name, "7")
    users = ["SBATCH_ACCOUNT", "SBATCH_PARTITION", "SLURM_CONF", "SLURM_JWT"]
    for name in users:
        monkeypatch.setenv(name, "x")
    found = module._environment()
    assert (
        sorted(name for name in found if name.startswith(("SLURM", "SBATCH", "SQUEUE", "HPSEARCH_STORAGE")))
        == users
    )
    assert found["PATH"] == os.environ["PATH"]

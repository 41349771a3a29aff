"""Workers as jobs of Slurm, by its own commands: each job is one worker, which dials the driver.

Jobs are submitted as arrays whose task ids are the workers' numbers, and their states are asked of `squeue`, for
not every cluster keeps accounts (`sacct`). A job that Slurm requeues keeps its id: its worker comes back by itself.
Of `submitit` nothing would be used but the spelling of `sbatch`'s parameters.

A job's script becomes the worker (`exec`), so that Slurm's signals reach it: it checkpoints at the end of its epoch,
gives its trial back and leaves. Neither that nor a lost node counts as a failure.
"""

import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import WorkerSetup
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.executors.address import is_loopback
from hpsearch.executors.dial import DialExecutor, RemoteWorker
from hpsearch.executors.line import Entry
from hpsearch.executors.local import own_paths, python_module, tail, thread_counts
from hpsearch.executors.places import gpus_of_jobs, refuse_share
from hpsearch.files.run_folder import RunFolder

logger = logging.getLogger(__name__)

JOBS = 8  # at once, unless --jobs says how many
SIGNAL = 60  # seconds before its end in which a job is told of it
LOOK, LOOK_SOON = 10.0, 1.0  # seconds between two looks at the queue, and while something is awaited of it
ANSWERS = 60.0  # seconds in which a command of Slurm must have answered
RETRY = 10.0  # seconds until jobs are submitted again that Slurm could not take
COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")

BLAMELESS = frozenset(["BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED"])
"""Ends that neither the worker nor its trial has caused."""

TIMEOUT = "TIMEOUT"
"""The end of a job at its time limit, blameless if an epoch fits into it."""

HELD = ("requeued held", "JobHoldMaxRequeue")
"""Reasons for which Slurm never starts a requeued job again: its node had not yet ended the run before."""

GONE = "GONE"
"""What is said of a job that the queue does not know any more."""

ENDED = BLAMELESS | {"COMPLETED", "FAILED", "OUT_OF_MEMORY", TIMEOUT, GONE}

OURS = frozenset(
    ["array", "chdir", "clusters", "error", "job-name", "open-mode", "output", "parsable", "wait", "wrap"]
)
"""Parameters of `sbatch` that are not the user's."""

KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables of Slurm that are the user's; those of a job's own begin alike."""

DROPPED = ("SBATCH_CLUSTERS", "SBATCH_WAIT", "HPSEARCH_STORAGE")
"""Variables that would break `sbatch`, or show the database's password in every job."""

_PARAMETER = re.compile(r"[a-z][a-z0-9-]*(=.+)?", re.DOTALL)


@dataclass(eq=False, slots=True)
class _Job:
    """A job of a worker.

    Attributes:
        name: by which its worker enters.
        id: as Slurm has it; "" while it is being submitted.
        state, reason, node: as the queue last had it.
        asked: when the queue was asked that; 0 before.
        since: from when on what the queue says counts.
        is_left: whether its worker has gone, and it is to be seen whether the job comes back.
    """

    name: str
    id: str = ""
    state: str = "PENDING"
    reason: str = ""
    node: str = ""
    asked: float = 0.0
    since: float = 0.0
    is_left: bool = False


class SlurmExecutor(DialExecutor):
    """Submits a job for each worker, and again when one has ended for good."""

    by_hand = False

    def __init__(self, folder: RunFolder, cluster: Cluster) -> None:
        super().__init__(folder, cluster)
        self.jobs: dict[int, _Job] = {}
        self._parameters = parameters(cluster)
        self._gpus = 0
        self._due: list[int] = []
        self._batch = 0
        self._has_submitted = self._was_taken = False
        self._retry_at = 0.0
        self._submission: tuple[_SlurmCommand, list[int]] | None = None
        self._look: tuple[_SlurmCommand, float] | None = None
        self._looked = 0.0
        self._cancelling: list[_SlurmCommand] = []

    def default_host(self) -> str:
        """Returns this machine's address on the way to Slurm's controller: its nodes most likely reach it too."""
        shown = ask(["scontrol", "show", "config"])
        found = re.search(r"^SlurmctldHost\S*\s*=\s*([^\s(]+)(?:\((.+)\))?", shown, re.MULTILINE)
        if found is None:
            raise UserError(
                "--listen: Slurm does not name its controller; give an address that its nodes can reach"
            )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((found[2] or found[1], 9))  # sends nothing
            except OSError as error:
                raise UserError(
                    f"--listen: the route to Slurm's controller {found[1]} is not known ({error}); give an address of "
                    "this machine that the nodes can reach"
                ) from None
            host: str = probe.getsockname()[0]
        here = socket.gethostname().partition(".")[0]
        if is_loopback(host) and set(ask(["sinfo", "--noheader", "--Node", "--format", "%n"]).split()) != {
            here
        }:
            raise UserError(
                f"--listen: the route to Slurm's controller {found[1]} is {host}, which no other machine reaches; give "
                "an address of this machine that the nodes can reach"
            )
        return host

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"--executor slurm: {missing[0]} is not on the PATH; start hpsearch on a login node of the cluster, "
                "or load Slurm's module"
            )
        refuse_share(share, "slurm")
        partition = self._parameters.get("partition") or os.environ.get("SBATCH_PARTITION")
        where = ["--partition", partition] if partition else []
        has_gpus = "gpu" in ask(["sinfo", "--noheader", "--format", "%G", *where])
        there = f"the partition {partition}" if partition else "the cluster"
        self._gpus = gpus_of_jobs(wanted, "Slurm", there, has_gpus)
        self.listen()
        return [
            WorkerPlace(number, tuple(f"job-{number}" for _ in range(min(1, self._gpus))), threads)
            for number in range(wanted.workers or JOBS)
        ]

    # What starts and ends jobs

    def begin(self, remote: RemoteWorker, setup: WorkerSetup) -> None:
        number = remote.place.worker
        job = self.jobs.get(number)
        if job is not None:  # its worker has gone: the job may have been requeued
            job.is_left, job.asked, job.since = True, 0.0, time.monotonic()
        else:
            self._due.append(number)

    def end(self, remote: RemoteWorker) -> None:
        number = remote.place.worker
        if number in self._due:
            self._due.remove(number)
        job = self.jobs.pop(number, None)
        if job is not None and job.id:  # else it is cancelled as soon as its id is known
            self._cancel(job, at_once=remote.has_entered)

    def _cancel(self, job: _Job, at_once: bool = False) -> None:
        # A job that is only cancelled is asked to leave first, and would give its trial back.
        how = ["--full", "--signal=KILL"] if at_once else []
        self._cancelling.append(_SlurmCommand(["scancel", "--quiet", *how, job.id]))

    def left(self, deadline: float) -> None:
        if not self._has_submitted:
            return
        if self._submission is not None:
            self._submission[0].wait(deadline)
        while True:
            try:
                ask(["scancel", "--quiet", "--name", self.job_name])
                if not any(is_alive(state) for state in self._states().values()):
                    break
            except UserError as error:
                logger.warning("%s", error)
            if time.monotonic() > deadline:
                logger.warning("jobs may be left: see `squeue --name %s`", self.job_name)
                break
            time.sleep(0.2)
        running = [self._submission, self._look]
        for command in [*self._cancelling, *(one[0] for one in running if one is not None)]:
            command.close()
        self._submission = self._look = None
        self._cancelling.clear()
        self.jobs.clear()
        self._has_submitted = False

    def driver_is_dead(self, driver: str) -> None:
        ask(["scancel", "--quiet", "--name", _job_name(driver)])

    @property
    def job_name(self) -> str:
        return _job_name(self.token_file.stem)

    def _states(self) -> dict[str, str]:
        return {id: state for id, (state, _, _) in read_queue(ask(self._queue_command())).items()}

    def _queue_command(self) -> list[str]:
        form = "%i|%T|%N|%r"
        return [
            "squeue",
            "--noheader",
            "--array",
            "--states",
            "all",
            "--name",
            self.job_name,
            "--format",
            form,
        ]

    # What is looked after

    def remote_of(self, entry: Entry) -> RemoteWorker | None:
        number = next((number for number, job in self.jobs.items() if job.name == entry.name), None)
        remote = self.remotes.get(number) if number is not None else None
        if remote is None or number is None:
            return None
        if remote.has_entered:
            self.bury(remote, f"job {self.jobs[number].id} was requeued", blameless=True)
            return None
        job = self.jobs[number]
        job.is_left, job.asked, job.since = False, 0.0, time.monotonic()
        return remote

    def bury(self, remote: RemoteWorker, reason: str, stderr: str = "", blameless: bool = False) -> None:
        number = remote.place.worker
        job = self.jobs.get(number)
        if job is not None and job.id and not stderr:
            stderr = tail(self.folder.job_log(number, job.id.partition("_")[0]), 0)
        super().bury(remote, reason, stderr, blameless)
        if number in self.retired:
            self.jobs.pop(number, None)

    def tend(self, now: float) -> None:
        self._submit(now)
        self._look_at_queue(now)
        for number, remote in list(self.remotes.items()):
            job = self.jobs.get(number)
            if job is not None and job.id and job.asked:
                self._judge(number, remote, job, now)
            elif not remote.has_entered and job is not None and not job.id:
                self.say(remote, "is being submitted to Slurm", now)
        self.retire(now)
        for command in [one for one in self._cancelling if one.done()]:
            self._cancelling.remove(command)
            command.close()

    def _submit(self, now: float) -> None:
        if self._submission is not None:
            command, numbers = self._submission
            if not command.done():
                return
            self._submission = None
            self._submitted(command, numbers, now)
        if self._due and now >= self._retry_at:
            numbers, self._due = sorted(self._due), []
            self._batch += 1
            for number in numbers:
                self.jobs[number] = _Job(f"{number}.{self._batch}")
            self.folder.job_log(0, "").parent.mkdir(parents=True, exist_ok=True)
            threads = max(self.remotes[number].place.threads for number in numbers)
            script = self._script(self.remotes[numbers[0]], threads)
            self._has_submitted = True
            self._submission = _SlurmCommand(self._sbatch(numbers, threads), script), numbers

    def _submitted(self, command: "_SlurmCommand", numbers: Sequence[int], now: float) -> None:
        """Notes the ids of jobs, or that Slurm has not taken them.

        Raises:
            UserError: it has never taken any.
        """
        status, out, err = command.result()
        found = re.match(r"\d+", out)
        if status == 0 and found:
            self._looked, self._was_taken = 0.0, True
            for number in numbers:
                job = self.jobs.get(number)
                if job is not None and job.name.endswith(f".{self._batch}"):
                    job.id, job.since = f"{found[0]}_{number}", now
                else:  # ended meanwhile
                    self._cancel(_Job("", f"{found[0]}_{number}"))
            return
        said = " ".join(err.split()) or f"sbatch ended with status {status}"
        if not self._was_taken and not _is_passing(said):
            raise UserError(f"--executor slurm: sbatch refuses the jobs: {said}; see --partition and --slurm")
        self._retry_at = now + RETRY
        for number in numbers:
            self.jobs.pop(number, None)
            if number in self.remotes and number not in self._due:
                self._due.append(number)
                self.say(self.remotes[number], f"Slurm has not accepted its job yet: {said}", now)

    def _sbatch(self, numbers: Sequence[int], threads: int) -> list[str]:
        log = self.folder.job_log(0, "").parent / "worker-%a.%A.log"
        own = {
            "job-name": self.job_name,
            "array": ",".join(map(str, numbers)),
            "output": str(log),
            "open-mode": "append",
            "chdir": os.getcwd(),
            "nodes": "1",
            "ntasks": "1",
            "cpus-per-task": str(threads),
            "signal": f"B:TERM@{SIGNAL}",
            **({"gpus-per-node": str(self._gpus)} if self._gpus else {}),
        }
        given = {
            name: value for name, value in own.items() if name not in self._parameters
        } | self._parameters
        flags = [f"--{name}={value}" if value else f"--{name}" for name, value in given.items()]
        return ["sbatch", "--parsable", *([] if "no-requeue" in given else ["--requeue"]), *flags]

    def _script(self, remote: RemoteWorker, threads: int) -> str:
        command = [*python_module("hpsearch"), *self.arguments(remote), "--name"]
        env = thread_counts(threads) | {"PYTHONUNBUFFERED": "1"}
        lines = [f"export {name}={value}" for name, value in env.items()]
        return "\n".join(
            ["#!/bin/bash", *lines, f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID.{self._batch}"', ""]
        )

    def _look_at_queue(self, now: float) -> None:
        if self._look is not None:
            command, asked = self._look
            if not command.done():
                return
            self._look = None
            status, out, err = command.result()
            if status == 0:
                self._note(read_queue(out), asked)
            else:
                logger.info("squeue: %s", " ".join(err.split()))
        awaited = any(remote.lost is not None for remote in self.remotes.values()) or any(
            job.is_left or not job.asked for job in self.jobs.values()
        )
        if self._has_submitted and now - self._looked >= (LOOK_SOON if awaited else LOOK):
            self._looked = now
            self._look = _SlurmCommand(self._queue_command()), now

    def _note(self, queue: Mapping[str, tuple[str, str, str]], asked: float) -> None:
        for job in self.jobs.values():
            if job.id and asked > job.since:
                job.state, job.node, job.reason = queue.get(job.id, (GONE, "", ""))
                job.asked = asked
        if self._submission is None:  # else they may be those that it is about to tell of
            known = {job.id for job in self.jobs.values()}
            for id, (state, _, _) in queue.items():
                if id not in known and state in ("PENDING", "RUNNING"):
                    self._cancel(_Job("", id))  # sbatch failed, and yet it was taken

    def _judge(self, number: int, remote: RemoteWorker, job: _Job, now: float) -> None:
        """Says what the state of its job means for a worker that is not there."""
        has_ended = job.state in ENDED
        if not remote.has_entered:
            if has_ended and job.is_left:  # not requeued
                del self.jobs[number]
                self._due.append(number)
            elif has_ended:
                del self.jobs[number]
                text = tail(self.folder.job_log(number, job.id.partition("_")[0]), 0)
                why = f"job {job.id} ended before it began: {job.state}"
                self.bury(remote, why, text, self._is_blameless(remote, job))
            elif job.state == "PENDING" and any(reason in job.reason for reason in HELD):
                logger.warning("worker %d: job %s is replaced: %s", number, job.id, job.reason)
                self._cancel(job)
                del self.jobs[number]
                self._due.append(number)
            elif job.state == "PENDING":
                job.is_left = False
                self.say(remote, f"queued: job {job.id} ({job.reason})", now)
            elif job.is_left:
                self.say(remote, f"waits for the end of job {job.id}", now)
            else:
                self.say(remote, f"job {job.id} starts on {job.node or 'a node'}", now)
        elif remote.lost is not None and job.asked > remote.lost and remote.killed is None:
            if has_ended:
                blameless = self._is_blameless(remote, job)
                why = f"job {job.id} ended: {job.state}"
                if job.state == TIMEOUT and not blameless:
                    why += " before it had finished an epoch; give the jobs more time (--slurm time=...)"
                self.bury(remote, why, blameless=blameless)
                self.jobs.pop(number, None)
            elif job.state == "PENDING":
                self.bury(remote, f"job {job.id} was requeued ({job.reason})", blameless=True)

    def _is_blameless(self, remote: RemoteWorker, job: _Job) -> bool:
        """Says whether neither a worker nor its trial has caused its job's end."""
        if job.state == TIMEOUT:  # what does not fit into a job would be tried for ever
            return remote.has_trained or (remote.is_ready and not remote.folders)
        return job.state in BLAMELESS or (self.has_left_alone(remote) and job.state != "OUT_OF_MEMORY")


class _SlurmCommand:
    """A command of Slurm that runs beside the driver's loop; its words go into files, for a pipe may fill."""

    def __init__(self, command: Sequence[str], text: str = "") -> None:
        self._files = [tempfile.TemporaryFile("w+") for _ in range(3)]  # noqa: SIM115 - until `close`
        source, out, err = self._files
        source.write(text)
        source.seek(0)
        self._process = subprocess.Popen(command, stdin=source, stdout=out, stderr=err, env=_environment())
        self._until = time.monotonic() + ANSWERS
        self._hangs = False

    def done(self) -> bool:
        """Says whether it has ended; one that does not answer is ended."""
        if self._process.poll() is None and time.monotonic() > self._until:
            self._hangs = True
            self._process.kill()
            self._process.wait()
        return self._process.poll() is not None

    def wait(self, deadline: float) -> None:
        """Waits for its end."""
        while not self.done() and time.monotonic() < deadline:
            time.sleep(0.02)

    def result(self) -> tuple[int, str, str]:
        """Returns its status and what it has said, and closes it."""
        said = []
        for file in self._files[1:]:
            file.seek(0)
            said.append(file.read())
        status = self._process.wait()
        self.close()
        return status, said[0], f"did not answer for {ANSWERS:g} s" if self._hangs else said[1]

    def close(self) -> None:
        """Ends it, if it runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for file in self._files:
            file.close()


def ask(command: Sequence[str]) -> str:
    """Returns what a command of Slurm says.

    Raises:
        UserError: it is not there, or fails.
    """
    try:
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=ANSWERS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--executor slurm: {command[0]} does not answer: {error}") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"--executor slurm: {' '.join(command)} fails: {said}")
    return done.stdout


def parameters(cluster: Cluster) -> dict[str, str]:
    """Returns what the flags say to `sbatch`, by name; a flag without a value has "".

    Raises:
        UserError: a flag has another form, or is hpsearch's own.
    """
    found = {"partition": cluster.partition} if cluster.partition else {}
    for given in cluster.slurm:
        if not _PARAMETER.fullmatch(given):
            raise UserError(
                f'--slurm "{given}": write a parameter of sbatch and its value, as in time=2:00:00'
            )
        name, _, value = given.partition("=")
        if name in OURS:
            raise UserError(f"--slurm {given}: hpsearch needs {name} itself; leave it out")
        if name == "time" and _seconds(value) <= 2 * SIGNAL:
            raise UserError(
                f"--slurm {given}: a job is told to leave {SIGNAL} s or more before its end, so this one would train "
                f"nothing; give more than {2 * SIGNAL // 60} minutes"
            )
        found[name] = value
    return found


def _seconds(limit: str) -> float:
    """Returns a time limit as `sbatch` takes it: minutes, minutes:seconds, hours:minutes:seconds, or days-hours..."""
    days, dash, rest = limit.rpartition("-")
    try:
        numbers = [int(number) for number in rest.split(":")]
        if dash:
            hours, minutes, seconds = [*numbers, 0, 0][:3]
        else:
            hours, minutes, seconds = [0, *numbers, 0][:3] if len(numbers) < 3 else numbers
        return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
    except ValueError:  # "UNLIMITED", or what sbatch itself refuses
        return float("inf")


def read_queue(text: str) -> dict[str, tuple[str, str, str]]:
    """Returns state, node and reason of each job in what `squeue` says."""
    return {id: (state, node, reason) for id, state, node, reason in _rows(text)}


def is_alive(state: str) -> bool:
    """Says whether a job may still run, or be run."""
    return state not in ENDED


def _rows(text: str) -> Iterator[list[str]]:
    return (row for line in text.splitlines() if len(row := line.split("|", 3)) == 4)


def _job_name(driver: str) -> str:
    return f"hpsearch-{driver}"


def _is_passing(said: str) -> bool:
    """Says whether Slurm may take the same job in a moment."""
    return any(
        word in said
        for word in ("Unable to contact", "timed out", "did not answer", "temporarily", "try again")
    )


def _environment() -> dict[str, str]:
    """Returns this process's environment, in which hpsearch is found; a driver's own job is none of its workers'."""
    return {
        name: value
        for name, value in own_paths(os.environ).items()
        if name in KEPT
        or not (name in DROPPED or name.startswith(("SLURM_", "SQUEUE_", "SCANCEL_", "SINFO_")))
    }

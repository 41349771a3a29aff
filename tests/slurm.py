"""A real Slurm on this machine: a controller, three nodes with two stand-in GPUs each, two partitions.

    python -m tests.slurm [FOLDER]        starts one and waits for Ctrl-C

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. The GPUs are device files that stand
for none: Slurm assigns them. Jobs of the partition `high` preempt those of `low`, by requeue. There are no accounts.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpsearch.store.identity import process_start

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
NODES, GPUS, CPUS = 3, 2, 4
START = 60.0  # seconds in which all nodes must be there

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
SlurmdTimeout=10
MinJobAge=300
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory=4000 State=UNKNOWN Gres=gpu:{gpus}
PartitionName=low Nodes=n[1-{nodes}] Default=YES MaxTime=120 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes=n[1-{nodes}] MaxTime=120 State=UP PriorityTier=10 PreemptMode=OFF
"""  # noqa: E501


def missing() -> str:
    """Returns why there can be no Slurm here; "" if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no Slurm here: {', '.join(absent)} not found (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.getuid() == 0 else "only root can start a Slurm"


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin"


@dataclass
class Slurm:
    """A running Slurm; its commands find it by SLURM_CONF."""

    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.conf)}

    def tell(self, *command: str, check: bool = True) -> str:
        """Runs a command and returns what it says."""
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Returns state and node of the jobs that have not ended, by id."""
        shown = self.tell("squeue", "--noheader", "--array", "--format", "%i|%T|%N", check=False)
        rows = [line.split("|") for line in shown.splitlines()]
        return {id: (state, node) for id, state, node in rows}

    def running(self) -> list[str]:
        """Returns the ids of the running jobs."""
        return sorted(id for id, (state, _) in self.jobs().items() if state == "RUNNING")

    def start_at_once(self) -> None:
        """Spares requeued jobs the two minutes that Slurm makes them wait."""
        for id, (state, _) in self.jobs().items():
            if state == "PENDING":
                self.tell("scontrol", "update", f"jobid={id}", "StartTime=now", check=False)

    def start(self) -> None:
        """Starts the daemons and waits for the nodes."""
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool", "log", "munge", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(GPUS):
            os.mknod(self.folder / "dev" / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        port = _free_ports(NODES + 2)
        values = {"folder": self.folder, "host": host, "nodes": NODES, "gpus": GPUS, "cpus": CPUS}
        ports = {"port": port, "node_port": port + 1, "first": port + 2, "last": port + 1 + NODES}
        self.conf.write_text(CONFIGURATION.format(**values, **ports))
        devices = f"AutoDetect=off\nNodeName=n[1-{NODES}] Name=gpu File={self.folder}/dev/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(devices)
        plain = "CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\nConstrainCores=no\nConstrainRAMSpace=no\n"
        (self.folder / "cgroup.conf").write_text(plain)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        self.folder.chmod(0o711)
        munge.chmod(0o711)
        names = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self.tell("munged", "--force", *(f"--{name}={munge / file}" for name, file in names.items()))
        self.start_controller()
        for number in range(1, NODES + 1):
            self.tell("slurmd", "-f", str(self.conf), "-N", f"n{number}")
        self.wait_for_nodes()

    def start_controller(self) -> None:
        """Starts slurmctld."""
        self.tell("slurmctld", "-f", str(self.conf))

    def stop_controller(self) -> None:
        """Ends slurmctld, as for an update."""
        self._end(self.folder / "slurmctld.pid")

    def wait_for_nodes(self) -> None:
        """Waits until all nodes take jobs."""
        deadline = time.monotonic() + START
        while True:
            states = self.tell("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False).split()
            if len(states) == NODES and all(state in ("idle", "mixed", "allocated") for state in states):
                return
            assert time.monotonic() < deadline, f"the nodes did not come up: {states}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancels what is left, and ends the daemons."""
        for name in ("low", "high"):
            self.tell("scancel", "--partition", name, check=False)
        deadline = time.monotonic() + 10.0
        while self.jobs() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._end(*self.folder.glob("*.pid"), self.folder / "munge" / "pid")

    def _end(self, *files: Path) -> None:
        """Ends daemons, by the files that hold their process ids, and waits until they have gone."""
        pids = [int(text) for file in files if file.exists() and (text := file.read_text().strip())]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 15.0
        while left := [pid for pid in pids if process_start(pid) is not None]:
            assert time.monotonic() < deadline, f"daemons of Slurm do not end: {left}"
            time.sleep(0.05)


def _free_ports(count: int) -> int:
    """Returns the first of so many ports in a row that nobody listens on."""
    chance = random.Random()
    for _ in range(100):
        first = chance.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise OSError("no free ports")


@contextlib.contextmanager
def slurm() -> Iterator[Slurm]:
    """Runs a Slurm, in a short path: sockets' names hold 107 characters."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Slurm(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def main() -> None:
    with slurm() as cluster:
        print(f"export SLURM_CONF={cluster.conf}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    sys.exit(main())

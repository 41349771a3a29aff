"""Workers on a Ray cluster: an actor holds the place and starts the worker, which dials the driver.

Ray decides where actors run, keeps those waiting for which there is no room, and ends them with their node or with
the driver. Nothing else of Ray is used: messages, checkpoints and restarts are those of every worker elsewhere.
"""

import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

try:
    import ray
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
except ModuleNotFoundError as missing:
    raise UserError(
        f'--executor ray: Ray is not installed ({missing}); install it with pip install "hpsearch[ray]"'
    ) from None

logger = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at the actors
REACHED = 5.0  # seconds in which a cluster's address takes a connection
CONNECTED = 30.0  # seconds in which Ray has connected this process
HURRY = 5.0  # seconds in which an actor ends whose worker was killed, before it is ended too


_ray: Any = ray  # which has few types


class WorkerActor:
    """The actor: a place on a node, and the worker's process there."""

    def node(self) -> str:
        """Returns the id of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def work(self, arguments: Sequence[str], env: Mapping[str, str], folder: str, log: str) -> int:
        """Runs the worker to its end; returns its exit status, negative for a signal.

        The worker leaves when its standard input closes, and so when this process dies, whatever kills it.
        """
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # by Ray: the GPUs of this actor
        with Path(log).open("ab") as file:
            process = subprocess.Popen(
                [*python_module("hpsearch"), *arguments],  # this node's own Python
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                cwd=folder,
                env={**own_paths(os.environ), **env, "CUDA_VISIBLE_DEVICES": shown},
                start_new_session=True,
            )
        return process.wait()


@dataclass(eq=False, slots=True)
class _Actor:
    """An actor and what is awaited of it; `until` says when it is ended although its worker may still run."""

    name: str
    handle: Any
    node: Any
    work: Any
    log: Path
    until: float | None = None


class RayExecutor(DialExecutor):
    """Asks Ray for an actor for each worker."""

    by_hand = False

    def __init__(self, folder: RunFolder, cluster: Cluster) -> None:
        super().__init__(folder, cluster)
        self._gpus = 0
        self._actors: dict[int, _Actor] = {}
        self._leaving: list[_Actor] = []
        self._begun = 0
        self._looked = 0.0
        self._is_ours = False

    def default_host(self) -> str:
        """Returns the address by which this machine is a node of the cluster."""
        own = str(_ray.util.get_node_ip_address())
        if is_loopback(own) and any(node["NodeManagerAddress"] != own for node in _ray.nodes()):
            raise UserError(
                f"--listen: this machine's Ray node has the address {own}, which no other machine can reach; give one "
                "that the nodes can reach"
            )
        return own

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        refuse_share(share, "ray")
        self._connect()
        has = _ray.cluster_resources()
        self._gpus = gpus_of_jobs(wanted, "Ray", "the cluster", has.get("GPU", 0) > 0)
        room = has.get("GPU", 0) // self._gpus if self._gpus else has.get("CPU", 0) // threads
        gpus = ("ray",) if self._gpus else ()
        return [
            WorkerPlace(number, tuple(f"{gpu}-{number}" for gpu in gpus), threads)
            for number in range(wanted.workers or max(1, int(room)))
        ]

    def _connect(self) -> None:
        """Connects this process with the cluster, once.

        Raises:
            UserError: there is none.
        """
        if ray.is_initialized():
            return
        reason = _failure(self.cluster.address)
        if reason:
            raise UserError(
                f'--address "{self.cluster.address}": no Ray cluster answers: {reason}; start hpsearch on a node of '
                "the cluster, or give its address"
            )
        self._is_ours = True

    def begin(self, remote: RemoteWorker, setup: WorkerSetup) -> None:
        self._connect()
        number, threads = remote.place.worker, remote.place.threads
        self._begun += 1
        name = f"{number}.{self._begun}"
        arguments = [*self.arguments(remote), "--name", name, "--with-parent"]
        log = self.folder.job_log(number, f"ray-{self.token_file.stem}-{self._begun}")
        env = thread_counts(threads) | {"PYTHONUNBUFFERED": "1"}
        kind: Any = ray.remote(WorkerActor)
        # Concurrent, so that the node can be asked for while the worker runs.
        handle = kind.options(
            num_cpus=threads, num_gpus=self._gpus, max_restarts=0, max_concurrency=2
        ).remote()
        work = handle.work.remote(arguments, env, os.getcwd(), str(log))
        self._actors[number] = _Actor(name, handle, handle.node.remote(), work, log)

    def remote_of(self, entry: Entry) -> RemoteWorker | None:
        number = next((number for number, actor in self._actors.items() if actor.name == entry.name), None)
        remote = self.remotes.get(number) if number is not None else None
        return remote if remote is not None and not remote.has_entered else None

    def end(self, remote: RemoteWorker) -> None:
        actor = self._actors.pop(remote.place.worker, None)
        if actor is not None:
            # Where the worker has entered it is killed itself, and its actor sees it gone.
            actor.until = time.monotonic() + (HURRY if remote.has_entered else 0.0)
            self._leaving.append(actor)

    def bury(self, remote: RemoteWorker, reason: str, stderr: str = "", blameless: bool = False) -> None:
        actor = self._actors.get(remote.place.worker)
        if actor is not None and self.remotes.get(remote.place.worker) is remote:
            stderr = stderr or tail(actor.log, 0)
            self.end(remote)
        super().bury(remote, reason, stderr, blameless)

    def tend(self, now: float) -> None:
        if now - self._looked < LOOK:
            return
        self._looked = now
        for number, actor in list(self._actors.items()):
            remote = self.remotes.get(number)
            if remote is None:
                continue
            if ray.wait([actor.work], timeout=0)[0]:
                self._ended(remote, actor, now)
            elif not remote.has_entered and ray.wait([actor.node], timeout=0)[0]:
                self.say(remote, "starts on a Ray node", now)
            elif not remote.has_entered:
                what = f"{self._gpus} GPU and " if self._gpus else ""
                self.say(remote, f"queued: Ray has no room for {what}{remote.place.threads} CPU yet", now)
        self.retire(now)
        self._dismiss(now)

    def _ended(self, remote: RemoteWorker, actor: _Actor, now: float) -> None:
        """Says of a worker why it has gone, as soon as all that it has said is read."""
        if remote.connection is not None and remote.killed is None:
            return
        try:
            reason, blameless = f"exited with status {ray.get(actor.work)}", self.has_left_alone(remote)
        except ActorDiedError as error:
            is_gone = not _is_alive(actor)
            said = " ".join(str(error).split())[:200]
            reason, blameless = (
                ("its Ray node has gone" if is_gone else f"its actor died: {said}"),
                is_gone,
            )
        except ActorUnavailableError:  # Ray notices later that a node has gone, if it was not told
            reason, blameless = "its Ray node cannot be reached", True
        except RayError as error:
            reason, blameless = f"its actor failed: {' '.join(str(error).split())[:200]}", False
        self.bury(remote, reason, blameless=blameless)

    def _dismiss(self, now: float) -> None:
        """Ends actors whose workers have gone, or have had their time."""
        for actor in list(self._leaving):
            if ray.wait([actor.work], timeout=0)[0] or (actor.until is not None and now > actor.until):
                ray.kill(actor.handle)
                self._leaving.remove(actor)

    def left(self, deadline: float) -> None:
        while self._leaving and time.monotonic() < deadline:
            self._dismiss(time.monotonic())
            time.sleep(0.02)
        for actor in self._leaving:
            ray.kill(actor.handle)
        self._leaving.clear()
        self._actors.clear()
        if self._is_ours:
            ray.shutdown()
            self._is_ours = False


def _failure(address: str) -> str:
    """Connects this process with a cluster; returns why that failed, "" if it did not.

    Ray tries for minutes, and the thread in which it does answers no signal.
    """
    failed: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            failed.append(error)

    given = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    host, _, port = given.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
    except (OSError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECTED)
    if thread.is_alive():
        return f"there was no answer in {CONNECTED:.0f} s"
    return " ".join(str(failed[0]).split())[:300] if failed else ""


def _is_alive(actor: _Actor) -> bool:
    """Says whether the node of an actor lives; one that is not known counts as dead."""
    try:
        node = ray.get(actor.node, timeout=1.0)
    except RayError:
        return False
    return any(one["NodeID"] == node and one["Alive"] for one in _ray.nodes())

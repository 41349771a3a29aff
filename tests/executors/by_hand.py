"""Workers that are started as by hand, with the command that the driver shows."""

import subprocess
import sys
from pathlib import Path

from hpsearch.contracts.messages import WorkerSetup
from hpsearch.contracts.places import Cluster
from hpsearch.executors.dial import DialExecutor, RemoteWorker
from hpsearch.files.run_folder import RunFolder


def command(address: str, token_file: Path, *more: str) -> list[str]:
    """Returns the command of a worker."""
    worker = [sys.executable, "-P", "-m", "hpsearch", "worker"]
    return [*worker, "--dial", address, "--token-file", str(token_file), *more]


class HandExecutor(DialExecutor):
    """Starts a worker's process for each that is asked for.

    Args:
        port: at which the workers find the driver, if not where it listens.
    """

    def __init__(
        self, folder: RunFolder, reconnect: float = 600.0, port: int | None = None, tls: bool = False
    ) -> None:
        super().__init__(folder, Cluster(reconnect=reconnect, tls=tls))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = port

    def begin(self, remote: RemoteWorker, setup: WorkerSetup) -> None:
        address = self.address if self.port is None else f"127.0.0.1:{self.port}"
        self.folder.home.mkdir(parents=True, exist_ok=True)
        with (self.folder.home / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                command(address, self.token_file, *remote.granted, "--name", str(remote.place.worker)),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)

    def remote_of(self, entry):
        remote = self.remotes.get(int(entry.name))
        return remote if remote is not None and not remote.has_entered else None

    def close(self, timeout: float) -> None:
        super().close(timeout)
        while self.processes:
            self.processes.pop().wait(timeout=10)

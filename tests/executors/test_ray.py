"""An address at which no Ray cluster answers is said soon, and signals are answered meanwhile."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray_cluster import missing

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(60),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

CODE = """
import sys
from pathlib import Path
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.executors import ray
from hpsearch.files.run_folder import RunFolder

ray.CONNECTED = float(sys.argv[2])
print("connects", flush=True)
try:
    ray.RayExecutor(RunFolder(Path("."), "s"), Cluster(address=sys.argv[1])).places(Workers(), 1, "time")
except UserError as error:
    print(error)
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def look_for_places(folder: Path, address: str, connected: float) -> "subprocess.Popen[str]":
    """Starts a process of its own, for Ray goes on connecting in the one that has asked."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, address, str(connected)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_an_address_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with look_for_places(tmp_path, "no.such.host.invalid:1", 30.0) as process:
        said, _ = process.communicate()
    assert '--address "no.such.host.invalid:1": no Ray cluster answers: ' in said
    assert "; start hpsearch on a node of the cluster" in said


def test_a_server_that_is_no_ray_cluster_is_said(tmp_path: Path, silent: socket.socket) -> None:
    with look_for_places(tmp_path, address_of(silent), 1.0) as process:
        said, _ = process.communicate()
    assert (
        f'--address "{address_of(silent)}": no Ray cluster answers: there was no answer in 1 s; start' in said
    )


def test_a_signal_is_answered_while_ray_connects(tmp_path: Path, silent: socket.socket) -> None:
    silent.settimeout(50.0)
    with look_for_places(tmp_path, address_of(silent), 60.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connects\n"
        with silent.accept()[0]:  # now it waits for an answer
            process.terminate()
            began = time.monotonic()
            assert process.wait(timeout=50) == -signal.SIGTERM
            assert time.monotonic() - began < 5.0

"""NVIDIA's multi-process service: kernels of several workers run on one GPU at the same time.

Without it the processes that share a GPU take turns in time slices, so that two workers, each of which leaves
half of the GPU idle, still leave half of it idle. The service (a control daemon and a server per user) lets
their kernels run side by side. It is started for one run, in a folder of the run, and stopped with it; one
that the user has started (CUDA_MPS_PIPE_DIRECTORY is set) is used as it is and left alone.

What it costs: an error of one worker's kernel (an illegal address) ends all workers of that GPU. They are
started again and their trials continue from their checkpoints, like after any other death of a worker.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.errors import DeviceError, UserError
from hpsearch.executors.places import VISIBLE
from hpsearch.files.atomic import write_whole
from hpsearch.files.locks import temporary_folder
from hpsearch.store.identity import DriverIdentity

logger = logging.getLogger(__name__)

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
SHARES = ("time", "nvidia-mps")
"""How workers share a GPU: by turns, as the driver does it by itself, or at the same time."""

START, STOP = 30.0, 15.0  # seconds to wait for the daemon
_RECORD = "driver.json"  # whose service it is, and where its pipes are
_LONGEST = 80  # characters; the pipes are sockets, whose paths hold at most 107


@contextlib.contextmanager
def shared(
    share: str,
    places: list[WorkerPlace],
    folder: Path,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[list[WorkerPlace]]:
    """Gives the places with what their workers need to share GPUs; what is started is stopped at the end.

    Args:
        share: "time" changes nothing; "nvidia-mps" runs the multi-process service where workers share a GPU.
        folder: for the service's pipes and logs, below it one for each driver; made if need be.

    Raises:
        DeviceError: the service is not installed, does not start, or there is no GPU to share.
        UserError: its folder cannot be made.
    """
    if share not in SHARES:
        raise DeviceError(f'--share: "{share}" is unknown; choose {" or ".join(SHARES)}')
    if share == "time":
        yield places
        return
    gpus = [gpu for place in places for gpu in place.gpus]
    if not gpus:
        raise DeviceError("--share nvidia-mps: no GPU is in use; leave the flag out on the CPU")
    if len(set(gpus)) == len(gpus):
        logger.warning(
            "--share nvidia-mps: no GPU has two workers, so nothing is shared; set --workers-per-gpu"
        )
        yield places
        return
    if environ.get(PIPES):
        logger.info("the multi-process service in %s is used", environ[PIPES])
        yield places
        return
    with _service(places, folder, environ) as added:
        yield [replace(place, env={**place.env, **added}) for place in places]


@contextlib.contextmanager
def _service(places: list[WorkerPlace], folder: Path, environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    control = shutil.which(CONTROL, path=environ.get("PATH"))
    if control is None:
        raise DeviceError(
            f"--share nvidia-mps: {CONTROL} is not on the PATH; it comes with NVIDIA's driver (on Debian and "
            "Ubuntu the package nvidia-compute-utils). Install it, or leave the flag out: workers then take "
            "turns on the GPU"
        )
    _stop_left_over(control, folder, environ)
    with _folders(folder, DriverIdentity.here()) as added:
        # The service sees all GPUs, in the workers' own order: it would count anew those that it is shown,
        # and the workers' names for them would mean others.
        env = {**environ, **places[0].env, **added}
        env.pop(VISIBLE, None)
        _call([control, "-d"], env, "", START)
        logger.info("multi-process service started, logs in %s", added[LOGS])
        try:
            yield added
        finally:
            _stop(control, env)


@contextlib.contextmanager
def _folders(folder: Path, driver: DriverIdentity) -> Iterator[dict[str, str]]:
    """Makes the service's two folders; pipes go into a temporary one where the path would be too long.

    Their own folder's name is random: drivers of several machines, or containers, may share a run's folder and
    have equal process ids.
    """
    folder = folder / driver.id[:8]
    logs, pipes = folder / "log", folder / "pipe"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--run-folder: {logs} cannot be made: {error.strerror}; choose another folder"
        ) from None
    with contextlib.ExitStack() as stack:
        if len(str(pipes)) > _LONGEST:
            pipes = Path(stack.enter_context(temporary_folder("hpsearch-mps")))
        record = {"host": driver.host, "pid": driver.pid, "started": driver.started, "pipes": str(pipes)}
        write_whole(folder / _RECORD, json.dumps(record).encode())
        pipes.mkdir(exist_ok=True)
        try:
            yield {PIPES: str(pipes), LOGS: str(logs)}
        except BaseException:
            (folder / _RECORD).unlink()  # the service is stopped; its logs may say what was wrong
            raise
    shutil.rmtree(folder, ignore_errors=True)


def _stop_left_over(control: str, folder: Path, environ: Mapping[str, str]) -> None:
    """Stops the services of drivers of this machine that were killed and could not do it themselves."""
    for path in list(folder.glob(f"*/{_RECORD}")):
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError:  # another driver has just tidied up
            continue
        if DriverIdentity(record["host"], record["pid"], record["started"]).is_dead():
            left, pipes = path.parent, record["pipes"]
            _stop(control, {**environ, PIPES: pipes, LOGS: str(left / "log")})
            shutil.rmtree(pipes, ignore_errors=True)
            shutil.rmtree(left, ignore_errors=True)


def _stop(control: str, env: Mapping[str, str]) -> None:
    try:
        _call([control], env, "quit -t 5\n", STOP)
    except DeviceError as error:
        # The workers are gone and the run is over: worth a word, not worth the run's result.
        logger.warning("the multi-process service did not stop: %s", error)


def _call(command: list[str], env: Mapping[str, str], line: str, seconds: float) -> None:
    try:
        # Output into a file: the daemon inherits it, and a pipe would stay open as long as the daemon lives.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command,
                input=line,
                text=True,
                env=dict(env),
                stdout=output,
                stderr=output,
                timeout=seconds,
                check=False,
            )
            output.seek(0)
            said = " ".join(output.read().split())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"--share nvidia-mps: {' '.join(command)} does not answer: {error}") from error
    if done.returncode != 0:
        raise DeviceError(
            f"--share nvidia-mps: {' '.join(command)} ended with status {done.returncode}: "
            f"{said or 'no message'}; see {env[LOGS]}, or leave the flag out"
        )

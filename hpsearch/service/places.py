"""Which workers a machine gets: its GPUs shared out, its cores not oversubscribed.

The GPUs are asked of `nvidia-smi`, for the driver process never imports torch.
"""

import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpsearch.errors import DeviceError
from hpsearch.service.executor import WorkerPlace

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers, and on what; the flags of `hpsearch run`.

    Attributes:
        gpus: "auto" (all there are, otherwise the CPU), "all", "none", or a list such as "0,2" of positions
            among the visible GPUs, UUIDs or MIG names.
        workers: number of workers; None: one per GPU share, or one per `threads` cores.
    """

    gpus: str = "auto"
    workers: int | None = None
    workers_per_gpu: int = 1
    gpus_per_trial: int = 1


def plan(wanted: Workers, threads: int, environ: Mapping[str, str] = os.environ) -> list[WorkerPlace]:
    """Returns the places of this machine's workers.

    Raises:
        DeviceError: a GPU that is not there, or numbers that do not fit together.
    """
    for name in ("workers", "workers_per_gpu", "gpus_per_trial"):
        value = getattr(wanted, name)
        if value is not None and value < 1:
            raise DeviceError(f"--{name.replace('_', '-')}: must be at least 1, got {value}")
    gpus = choose_gpus(wanted.gpus, environ)
    if not gpus:
        return _cpu_places(wanted, threads)
    if wanted.gpus_per_trial > 1 and wanted.workers_per_gpu > 1:
        raise DeviceError("--workers-per-gpu and --gpus-per-trial exclude each other; give one of them")
    groups = _groups(gpus, wanted.gpus_per_trial)
    shares = [group for _ in range(wanted.workers_per_gpu) for group in groups]
    shares = shares[: wanted.workers] if wanted.workers is not None else shares
    # nvidia-smi counts GPUs by bus; CUDA's own order is by speed. Where the user has set the variable, its
    # entries are meant in the order that holds for the user's own processes.
    order = {} if environ.get(VISIBLE) else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return [WorkerPlace(number, group, threads, order) for number, group in enumerate(shares)]


def choose_gpus(option: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the names of the GPUs to use; empty for the CPU.

    Raises:
        DeviceError: "all" without any, or a name that is not among the visible ones.
    """
    option = option.strip()
    if option == "none":
        return ()
    visible = visible_gpus(environ)
    if option in ("auto", "all"):
        if option == "all" and not visible:
            raise DeviceError("--gpus all: there is no GPU on this machine; use --gpus none for the CPU")
        return visible
    chosen = tuple(_named(name.strip(), visible) for name in option.split(","))
    if len(set(chosen)) != len(chosen):
        raise DeviceError(f"--gpus {option}: a GPU stands twice; --workers-per-gpu shares one")
    return chosen


def _named(name: str, visible: Sequence[str]) -> str:
    if name.isdigit() and int(name) < len(visible):
        return visible[int(name)]
    if name in visible:
        return name
    if not visible:
        raise DeviceError(
            f"--gpus: GPU {name} is not there, this machine has none; use --gpus none for the CPU"
        )
    known = ", ".join(f"{position} ({gpu})" for position, gpu in enumerate(visible))
    raise DeviceError(f'--gpus: "{name}" is no GPU of this machine; there are {known}')


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the GPUs that a process of this environment may use: CUDA_VISIBLE_DEVICES if set, or all."""
    found = installed_gpus()
    if VISIBLE not in environ:
        return tuple(str(index) for index in range(found))
    if found == 0:
        return ()
    names = [name.strip() for name in environ[VISIBLE].split(",") if name.strip()]
    # CUDA ignores everything from the first invalid entry on; -1 is the usual way to write "none".
    valid = []
    for name in names:
        if name.lstrip("-").isdigit() and not 0 <= int(name) < found:
            break
        valid.append(name)
    return tuple(valid)


def installed_gpus() -> int:
    """Returns how many NVIDIA GPUs the driver shows."""
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("nvidia-smi does not answer (%s); no GPU is used", error)
        return 0
    return sum(line.startswith("GPU ") for line in shown.stdout.splitlines())


def cores() -> int:
    """Returns how many CPU cores this process may use: its affinity and its control group's quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return available
    return available if quota == "max" else max(1, min(available, int(quota) // int(period)))


def _cpu_places(wanted: Workers, threads: int) -> list[WorkerPlace]:
    if wanted.gpus_per_trial > 1 or wanted.workers_per_gpu > 1:
        raise DeviceError(
            "--gpus-per-trial and --workers-per-gpu need GPUs, and there are none in use; "
            "--workers sets the number of workers on the CPU"
        )
    count = wanted.workers if wanted.workers is not None else max(1, cores() // threads)
    if count * threads > cores():
        logger.warning("%d workers with %d threads each share %d cores", count, threads, cores())
    return [WorkerPlace(number, (), threads) for number in range(count)]


def _groups(gpus: Sequence[str], size: int) -> list[tuple[str, ...]]:
    if size > len(gpus):
        raise DeviceError(f"--gpus-per-trial {size}: only {len(gpus)} GPUs are in use ({', '.join(gpus)})")
    return [tuple(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]

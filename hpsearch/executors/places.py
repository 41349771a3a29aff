"""Which workers a machine gets: its GPUs shared out, its cores not oversubscribed.

The GPUs are asked of `nvidia-smi`, for the driver process never imports torch.
"""

import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpsearch.contracts.places import WorkerPlace, Workers
from hpsearch.errors import DeviceError
from hpsearch.text import counted

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
WORKER_BYTES = 300 << 20  # a worker's own memory once torch is imported: 315 MiB, torch 2.15 on a CPU
_UUIDS = ("GPU-", "MIG-")


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
        raise DeviceError("--workers-per-gpu and --gpus-per-trial are mutually exclusive; give one of them")
    groups = _groups(gpus, wanted.gpus_per_trial)
    shares = [group for _ in range(wanted.workers_per_gpu) for group in groups]
    if wanted.workers is not None:
        if wanted.workers > len(shares):
            logger.warning(
                "--workers %d: there is a worker for each GPU share, %d in all; --workers-per-gpu makes more",
                wanted.workers,
                len(shares),
            )
        shares = shares[: wanted.workers]
    _check_cores(len(shares), threads)
    # nvidia-smi counts GPUs by bus; CUDA's own order is by speed. Where the user has set the variable, its
    # entries are meant in the order that holds for the user's own processes.
    order = {} if environ.get(VISIBLE) else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return [WorkerPlace(number, group, threads, order) for number, group in enumerate(shares)]


def refuse_share(share: str, executor: str) -> None:
    """Refuses that workers share a GPU at once, which only this machine's do.

    Raises:
        DeviceError: it is asked for.
    """
    if share != "time":
        raise DeviceError(
            f"--share {share}: not with --executor {executor}, only with local; leave the flag out"
        )


def gpus_of_jobs(wanted: Workers, scheduler: str, where: str, has_gpus: bool) -> int:
    """Returns how many GPUs each worker is to get from a scheduler, which chooses them.

    Args:
        has_gpus: whether there are any.

    Raises:
        DeviceError: they are asked for in a way in which a scheduler does not give them.
    """
    if wanted.gpus not in ("auto", "all", "none"):
        raise DeviceError(f"--gpus {wanted.gpus}: {scheduler} chooses the GPUs; give auto, all or none")
    if wanted.workers_per_gpu != 1:
        raise DeviceError(
            f"--workers-per-gpu {wanted.workers_per_gpu}: {scheduler} gives each worker GPUs of its own; leave the "
            "flag out"
        )
    if not has_gpus and (wanted.gpus == "all" or wanted.gpus_per_trial > 1):
        flag = "--gpus all" if wanted.gpus == "all" else f"--gpus-per-trial {wanted.gpus_per_trial}"
        raise DeviceError(
            f"{flag}: {scheduler} finds no GPU in {where}; choose another one, or --gpus none for the CPU"
        )
    return wanted.gpus_per_trial if has_gpus and wanted.gpus != "none" else 0


def choose_gpus(option: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the names of the GPUs to use; empty for the CPU.

    Raises:
        DeviceError: "all" without any, or a name that is not among the visible ones.
    """
    option = option.strip()
    if option == "none":
        return ()
    installed = installed_gpus()
    visible = visible_gpus(environ, installed)
    if option in ("auto", "all"):
        if option == "all" and not visible:
            raise DeviceError("--gpus all: there is no GPU on this machine; use --gpus none for the CPU")
        return visible
    # Where nothing hides a GPU, it can be named by its UUID too.
    uuids = (
        () if VISIBLE in environ else tuple(uuid for gpu in installed for uuid in (gpu.uuid, *gpu.instances))
    )
    chosen = tuple(_named(name.strip(), visible, uuids) for name in option.split(","))
    if len(set(chosen)) != len(chosen):
        raise DeviceError(f"--gpus {option}: a GPU is listed twice; --workers-per-gpu shares one")
    return chosen


def _named(name: str, visible: Sequence[str], uuids: Sequence[str]) -> str:
    if name.isdigit() and int(name) < len(visible):
        return visible[int(name)]
    if name in visible or name in uuids:
        return name
    is_name = name.isdigit() or name.startswith(_UUIDS)
    if not is_name and not visible:
        raise DeviceError(
            f'--gpus: "{name}" is not a GPU number, UUID or MIG name, and this machine has no GPU; use --gpus '
            "none for the CPU"
        )
    if not visible:
        raise DeviceError(f"--gpus: GPU {name} not found, this machine has none; use --gpus none for the CPU")
    kind = "of this machine" if is_name else "number, UUID or MIG name"
    known = ", ".join(f"{position} ({gpu})" for position, gpu in enumerate(visible))
    raise DeviceError(f'--gpus: "{name}" is not a GPU {kind}; there are {known}')


@dataclass(frozen=True, slots=True)
class Gpu:
    """An installed GPU.

    Attributes:
        instances: UUIDs of the parts that it is divided into (NVIDIA's MIG); a process sees one at most.
    """

    uuid: str
    instances: tuple[str, ...] = ()


def visible_gpus(environ: Mapping[str, str], installed: Sequence[Gpu] | None = None) -> tuple[str, ...]:
    """Returns the GPUs that a process of this environment may use: CUDA_VISIBLE_DEVICES if set, or all.

    As CUDA does it, everything from the first entry on that means no GPU counts for nothing: -1 and words such
    as NoDevFiles are the usual ways to write "none".
    """
    installed = installed_gpus() if installed is None else installed
    if VISIBLE not in environ:
        return tuple(name for index, gpu in enumerate(installed) for name in gpu.instances or (str(index),))
    valid: list[str] = []
    for name in (name.strip() for name in environ[VISIBLE].split(",")):
        known = name.isdigit() and int(name) < len(installed)
        if name in valid or not (known or name.startswith(_UUIDS)):
            break
        valid.append(name)
    return tuple(valid) if installed else ()


def installed_gpus() -> tuple[Gpu, ...]:
    """Returns the NVIDIA GPUs that the driver shows."""
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        devices = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]
        return tuple(Gpu("") for _ in devices)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("nvidia-smi does not answer (%s); no GPU is used", error)
        return ()
    if shown.returncode != 0:
        said = " ".join((shown.stdout + shown.stderr).split())
        logger.warning("nvidia-smi ended with status %d (%s); no GPU is used", shown.returncode, said)
        return ()
    found: list[Gpu] = []
    for line in shown.stdout.splitlines():
        uuid = re.search(r"UUID: ([\w./-]+)", line)
        if line.startswith("GPU "):
            found.append(Gpu(uuid[1] if uuid else ""))
        elif uuid and found:
            found[-1] = replace(found[-1], instances=(*found[-1].instances, uuid[1]))
    return tuple(found)


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
    _check_memory(count, threads)
    _check_cores(count, threads)
    return [WorkerPlace(number, (), threads) for number in range(count)]


def _check_cores(count: int, threads: int) -> None:
    if count * threads > cores():
        each = "" if count == 1 else " each"
        wanted = f"{counted(count, 'worker')} with {counted(threads, 'thread')}{each}"
        logger.warning("%s: there %s", wanted, "is 1 core" if cores() == 1 else f"are {cores()} cores")


def _check_memory(count: int, threads: int) -> None:
    """Refuses more workers than this machine's memory can hold: the kernel would kill them one after another.

    Raises:
        DeviceError: with a number that suits the machine.
    """
    memory = memory_bytes()
    if memory is None or count * WORKER_BYTES <= memory[0]:
        return
    raise DeviceError(
        f"--workers {count}: each takes {WORKER_BYTES / 2**30:.1f} GiB of memory before it trains anything, "
        f"{count * WORKER_BYTES / 2**30:.0f} GiB in all, and this machine has {memory[0] / 2**30:.1f} GiB; its "
        f"{cores()} cores keep {max(1, cores() // threads)} busy, so give --workers {max(1, cores() // threads)}"
    )


def memory_bytes() -> tuple[int, int] | None:
    """Returns the bytes of memory that this machine has, and those that are free; None where Linux does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return kib["MemTotal"] << 10, kib["MemAvailable"] << 10
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _groups(gpus: Sequence[str], size: int) -> list[tuple[str, ...]]:
    if size > len(gpus):
        raise DeviceError(f"--gpus-per-trial {size}: only {len(gpus)} GPUs are in use ({', '.join(gpus)})")
    return [tuple(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]

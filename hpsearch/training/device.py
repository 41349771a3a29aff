"""The device that a worker trains on: which it is, what it can, its memory and its random numbers."""

import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import logging
import math
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn import functional

from hpsearch.errors import DeviceError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MIB = 2**20

_CXX = "clang++" if sys.platform == "darwin" else "g++"
"""The C++ compiler that torch calls where CXX names none."""

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "STATUS_ALLOC_FAILED",
)
"""Parts of the messages by which plain RuntimeErrors of torch, cuBLAS and cuDNN say so."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The number types of a trial.

    The half types hold 16 bits: float16 has 11 significant bits up to 65504, bfloat16 has 8 and float32's
    whole range. Both are used as *mixed precision* (Micikevicius et al. 2018): weights and optimizer stay
    float32, and autocast computes the costly products in 16 bits. Small gradients would vanish in float16, so
    the loss is scaled up before the backward pass and the gradients down again ("loss scaling").

    Attributes:
        name: the number type of the products: "float32", "bfloat16" ...
        dtype: of weights and images.
        autocast: the type of costly operations inside `torch.autocast`; None: no autocast.
        scaler: whether losses must be scaled (`torch.amp.GradScaler`).
    """

    name: str
    dtype: torch.dtype
    autocast: torch.dtype | None = None
    scaler: bool = False


PRECISIONS: dict[str, Precision] = {
    "float16": Precision("float16", torch.float32, torch.float16, scaler=True),
    "bfloat16": Precision("bfloat16", torch.float32, torch.bfloat16),
    "float32": Precision("float32", torch.float32),
    "float64": Precision("float64", torch.float64),
}
"""What `train.precision` names, beside "auto"."""


@dataclass(frozen=True, slots=True)
class DtypeSupport:
    """What a device can do with a number type, each found by doing it.

    Attributes:
        bits: of one number.
        add, matmul: a sum, and a product of matrices.
        train: the gradient of a convolution and of a linear layer, as training needs it; with autocast for
            the half types. Never for integers: they have no gradient.
    """

    name: str
    bits: int
    add: bool
    matmul: bool
    train: bool


DTYPES: tuple[torch.dtype, ...] = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
)


def choose(device: str = "auto") -> torch.device:
    """Returns the device that a name means: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        DeviceError: it is not there, or the name means no device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f'device "{device}" is unknown; write auto, cpu, cuda or cuda:0')
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(f'device "{device}" not found; this process has {_devices()}')
    return torch.device(device)


def _devices() -> str:
    names = [
        f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())
    ]
    if names:
        return ", ".join(["cpu", *names])
    why = "" if torch.version.cuda else f": torch {torch.__version__} is built without CUDA"
    return f"only cpu{why}"


def describe(device: torch.device) -> str:
    """Returns the device's name for people: "cuda:0 NVIDIA H200", "cpu x86_64"."""
    if device.type == "cuda":
        return f"cuda:{device.index or 0} {torch.cuda.get_device_name(device)}"
    return f"{device} {_processor()}"


@functools.cache
def _processor() -> str:
    """Returns the processor's model; results are bit-equal on equal models only."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def resolve(name: str, device: torch.device) -> Precision:
    """Returns the number types that `train.precision` means on a device.

    "auto" is bfloat16 where the GPU computes it in hardware, float32 elsewhere: on CPUs mixed precision is
    slower than float32 unless the processor has instructions for it.

    Raises:
        DeviceError: the device cannot train with this type, or nobody knows it.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return PRECISIONS["bfloat16" if native else "float32"]
    if name not in PRECISIONS:  # of a weights file that a newer version wrote
        raise DeviceError(f'the precision "{name}" is unknown here; known are {", ".join(PRECISIONS)}')
    chosen = PRECISIONS[name]
    if not _trains(chosen, device):
        able = [known for known, precision in PRECISIONS.items() if _trains(precision, device)]
        raise DeviceError(
            f'train.precision = "{name}": {describe(device)} cannot train with it; '
            f"choose auto, {', '.join(able)}"
        )
    return chosen


def require_compiler(device: torch.device) -> None:
    """Checks that `torch.compile` will find the compiler that it calls: C++ for the CPU, C for a GPU.

    Raises:
        DeviceError: there is none; said before the first batch instead of once per trial, pages long.
    """
    variable, names = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", (_CXX,))
    given = os.environ.get(variable)
    if not any(shutil.which(name) for name in ([given] if given else names)):
        raise DeviceError(
            f'train.compile = "on": torch.compile finds no compiler for {device.type} '
            f"({f'{variable}={given}' if given else ' or '.join(names)} is not on the PATH); "
            'install one (Debian: apt-get install build-essential) or set train.compile = "off"'
        )


def halving(
    attempt: Callable[[int], Result], batch: int, device: torch.device, what: str
) -> tuple[Result, int]:
    """Tries with a batch size, and with half of it as long as the memory does not suffice.

    Args:
        what: is said not to fit, as a warning.

    Returns:
        What the attempt gave, and the batch size that fitted.

    Raises:
        torch.OutOfMemoryError: not even one sample fits.
    """
    while True:
        try:
            return attempt(batch), batch
        except Exception as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
        # Only here, outside the handler, does nothing hold the failed attempt's tensors any more.
        release(device)
        batch = -(-batch // 2)
        logger.warning("%s does not fit into memory; batches of %d", what, batch)


def allow_tf32(allowed: bool) -> None:
    """Lets float32 products on NVIDIA GPUs use TF32 (10-bit mantissas, faster), or forbids it."""
    # By the older names: torch refuses to tell them once the newer ones (fp32_precision) were set, and its
    # compiler asks for them in some versions (pytorch issue 166387). The newer ones follow the older.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings", UserWarning)
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def choose_repeatable_kernels() -> None:
    """Lets cuDNN use only kernels that give the same bits each time.

    Its fastest ones for a convolution's gradient may add in whatever order threads finish, so that a trial
    that is resumed, or trained again under its seed, would end elsewhere.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def supported_dtypes(device: torch.device) -> tuple[DtypeSupport, ...]:
    """Returns which number types the device has, found by trying each: floating point, integers, booleans."""
    return tuple(
        DtypeSupport(
            name=str(dtype).removeprefix("torch."),
            bits=1 if dtype is torch.bool else dtype.itemsize * 8,
            add=_works(torch.add, dtype, device),
            matmul=_works(torch.matmul, dtype, device),
            train=_trains(PRECISIONS.get(str(dtype).removeprefix("torch.")), device),
        )
        for dtype in DTYPES
    )


def _works(
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], dtype: torch.dtype, device: torch.device
) -> bool:
    try:
        ones = torch.ones(8, 8, dtype=dtype, device=device)
        operation(ones, ones).cpu()
    except RuntimeError:  # NotImplementedError is one
        return False
    return True


@functools.cache
def _trains(precision: Precision | None, device: torch.device) -> bool:
    """Returns whether gradients through a convolution and a linear layer come out as finite numbers."""
    if precision is None:
        return False
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (5, 4 * 36))]
    images, kernel, matrix = (tensor.to(device, precision.dtype).requires_grad_() for tensor in drawn)

    def attempt() -> bool:
        with torch.autocast(device.type, precision.autocast, enabled=precision.autocast is not None):
            hidden = functional.conv2d(images, kernel).flatten(1)
            loss = functional.linear(hidden, matrix).float().square().mean()
        gradients = torch.autograd.grad(loss, (kernel, matrix))
        return all(bool(gradient.isfinite().all()) for gradient in gradients)

    try:
        return attempt()
    except RuntimeError:
        return False


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions that results depend on, and the processor's and the GPU's names."""
    # A plain string: torch's own is of a class of torch's, so that unpickling it would make the driver import
    # torch (3 s and 600 MB).
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "processor": _processor()}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["torchvision"] = importlib.metadata.version("torchvision")
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        found["gpu"] = torch.cuda.get_device_name(0)
        with contextlib.suppress(OSError):
            number = re.search(r"\b\d+\.\d+[.\d]*", Path("/proc/driver/nvidia/version").read_text())
            found["driver"] = number[0] if number else "unknown"
    return found


def memory(device: torch.device) -> tuple[int, int] | None:
    """Returns a GPU's free bytes, counting all processes on it, and all it has; None for a CPU."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    """Starts the count of `peak_memory_mb` anew, where the system can (GPUs and Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Returns the most memory used since `reset_peak`, in MiB: a GPU's tensors, or the whole process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / _MIB, 1)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return _peak_elsewhere()


def _peak_elsewhere() -> float:
    """Returns the process's peak on systems without /proc; NaN on Windows."""
    if sys.platform == "win32":
        return math.nan
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (_MIB if sys.platform == "darwin" else 1024), 1)


def release(device: torch.device) -> None:
    """Gives memory that nothing uses any more back to the device.

    On a CPU that happens by itself; looking for cycles among all that torch has imported takes 0.2 s, which is
    a large part of a small trial.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that memory ran out, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _OUT_OF_MEMORY)


def seed_everything(study_seed: int, number: int, epoch: int, device: torch.device) -> torch.Generator:
    """Seeds torch's own generators for one epoch of one trial, and returns one for data and augmentation.

    torch's own generators (the CPU's and the device's) feed `nn.Dropout`. All are seeded anew from the same
    three numbers at each epoch's start, so that nothing of them need be saved for a resumed trial to continue
    bit-equal.
    """
    torch.manual_seed(_seed(study_seed, number, epoch, "model"))
    return torch.Generator(device).manual_seed(_seed(study_seed, number, epoch, "data"))


def _seed(study_seed: int, number: int, epoch: int, purpose: str) -> int:
    """Returns 63 bits of a SHA-256: the same in every process and version, unlike `hash`."""
    text = f"{study_seed}/{number}/{epoch}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

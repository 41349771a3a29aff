"""How much energy a device has taken: by NVML for GPUs, by RAPL for CPUs, where they may be read.

RAPL's counters are files that most systems let only root read, which `chmod a+r /sys/class/powercap/*/energy_uj`
changes. They count the whole processor, whoever uses it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Tells how much energy was taken since it was last asked, in joules; 0 where nothing can be read.

    Args:
        counters: what has been taken since some moment, and where the counter begins again from 0, or None.
    """

    def __init__(self, counters: Sequence[tuple[Callable[[], float], float | None]]) -> None:
        self._counters = counters
        self._last = [read() for read, _ in counters]

    def __call__(self) -> float:
        now, taken = [read() for read, _ in self._counters], 0.0
        for new, old, (_, turn) in zip(now, self._last, self._counters, strict=True):
            taken += new - old + (turn if new < old and turn is not None else 0.0)
        self._last = now
        return max(0.0, taken)


def meter(device: torch.device) -> Meter:
    """Returns a meter of all GPUs that this process sees, or of the CPU's packages."""
    return Meter(_gpus() if device.type == "cuda" else _packages())


def _gpus() -> list[tuple[Callable[[], float], float | None]]:
    try:
        import pynvml
    except ImportError:
        return []

    def counter(uuid: str) -> Callable[[], float]:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

    try:
        pynvml.nvmlInit()
        uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
        found = [counter(uuid) for uuid in uuids]
        for read in found:
            read()
    except pynvml.NVMLError:  # the driver, or the GPU's generation, does not count
        return []
    return [(read, None) for read in found]


def _packages() -> list[tuple[Callable[[], float], float | None]]:
    found: list[tuple[Callable[[], float], float | None]] = []
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):  # of AMD's processors too
        try:
            if (zone / "name").read_text().startswith("package"):
                _joules(zone / "energy_uj")
                read = partial(_joules, zone / "energy_uj")
                found.append((read, _joules(zone / "max_energy_range_uj")))
        except OSError:  # not for everybody to read
            continue
    return found


def _joules(file: Path) -> float:
    return int(file.read_text()) / 1e6
